"""The process that launches a local run, and its worker processes, which must not outlive it.

One that is killed leaves its workers behind, and Beam's go on for two minutes: they would still write while the next
run begins. So the launcher keeps a lock on a file, and workers wait for it: they get it when the launcher is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator

PREFIX = "unfade-run-"
MODEL_PREFIX = "unfade-model-"

_FILE = "launcher"

_followed: set[str] = set()


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A temporary folder that tells workers whether the launcher lives; those that killed runs left are removed."""
    for left in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{PREFIX}*")):
        _remove_if_left(left)
    for left in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{MODEL_PREFIX}*-*")):
        if not _lives(left.rpartition("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as path, open(os.path.join(path, _FILE), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        yield path


def _remove_if_left(path: str) -> None:
    with contextlib.suppress(OSError), open(os.path.join(path, _FILE)) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if file.read():  # else it is just being made
            shutil.rmtree(path, ignore_errors=True)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return True


def end_with(path: str) -> None:
    """Ends this process as soon as the launcher is gone, however it went. Does nothing in the launcher itself.

    Args:
      path: What `folder` gave.
    """
    with contextlib.suppress(OSError), open(os.path.join(path, _FILE)) as file:
        if path not in _followed and file.read() != str(os.getpid()):
            _followed.add(path)
            threading.Thread(target=_follow, args=(path,), daemon=True).start()


def _follow(path: str) -> None:
    with contextlib.suppress(OSError), open(os.path.join(path, _FILE)) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    os._exit(0)  # at the end of a good run, too, and Beam takes anything else for a failure
