"""The process that launches a local run, and its worker processes, which must not outlive it.

One that is killed leaves its workers behind, and Beam's go on for two minutes: they would still write while the next
run begins. So the launcher keeps a lock on a file, and workers wait for it: they get it when the launcher is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import glob
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

PREFIX = "unfade-run-"
MODEL_PREFIX, TRANSFORM_PREFIX, REPORT_PREFIX = "unfade-model-", "unfade-tft-", "unfade-report-"
"""Of other temporary folders, which end with `suffix`."""

_FILE = "launcher"

_followed: set[str] = set()


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A temporary folder that tells workers whether the launcher lives; those that killed runs left are removed."""
    for left in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{PREFIX}*")):
        _remove_if_left(left)
    for prefix in (MODEL_PREFIX, TRANSFORM_PREFIX, REPORT_PREFIX):
        for left in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{prefix}*-*")):
            if not _lives(left.rpartition("-")[2]):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as path, open(os.path.join(path, _FILE), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        yield path


def suffix() -> str:
    """Ends the name of a temporary folder, so that it is removed by the next run if this process is killed."""
    return f"-{os.getpid()}"


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


@atexit.register  # here and not in `end_with`: after all that is to be removed in the end, which is registered later
def _leave() -> None:
    """Ends a worker whose work is done, at once: what Python and TensorFlow tidy up takes seconds, one by one."""
    if not _followed:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if hasattr(sys, "last_value") else 0)  # set where an exception has ended it


def _follow(path: str) -> None:
    with contextlib.suppress(OSError), open(os.path.join(path, _FILE)) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    os._exit(0)  # at the end of a good run, too, and Beam takes anything else for a failure


def descendants() -> set[int]:
    """Process ids of all that this process has started, and of what those have. Empty where there is no `/proc`."""
    parents: dict[int, int] = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # gone meanwhile
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found = {os.getpid()}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def stop(spared: set[int], seconds: float = 10.0) -> None:
    """Ends this process's descendants and waits until they are gone: nothing is lost by it, see `journal`.

    Args:
      spared: Those that are left alone.
      seconds: How long to wait at most. Where there is no `/proc` they end by `end_with`.
    """
    end = time.monotonic() + seconds
    while (left := descendants() - spared) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
