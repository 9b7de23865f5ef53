"""One run at a time writes to an output folder: a second one is refused, and one that was killed stands in no way.

On a disk the lock is the operating system's, on the file `unfinished/lock`: it goes with the process that holds it. In
a `gs://` bucket it is the object of that name, made only if there is none, and renewed while the run goes on: one that
is not renewed for a while is taken over. Other stores have no lock.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from google.api_core import exceptions as api_exceptions

from transforms import buckets, storage, storage_access
from transforms.items import UsageError
from transforms.journal import FOLDER

RENEWAL_SECONDS = 15.0
LAPSE_SECONDS = 60.0

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # a file system without: taken on trust


@contextlib.contextmanager
def hold(output: str) -> Iterator[bool]:
    """Keeps other runs from an output folder meanwhile.

    Yields:
      Whether a run that was killed had left its lock.

    Raises:
      UsageError: Another run writes there.
    """
    place = storage.join(output, FOLDER, "lock")
    if not storage.is_remote(output):
        with _hold_file(place, output) as left:
            yield left
    elif storage_access.scheme_of(output) == "gs":
        with _Lease(place, output) as left:
            yield left
    else:
        yield False


def _holder() -> str:
    """Who we are, for the message of those who come later."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": now})


def _refusal(output: str, holder: str) -> UsageError:
    try:
        said = json.loads(holder)
        who = f"process {said['process']} on {said['host']}, since {said['since']}"
    except (ValueError, KeyError, TypeError):
        who = "a process"
    return UsageError(f"another run ({who}) is writing to {output}; wait for it, stop it, or name another --output")


@contextlib.contextmanager
def _hold_file(path: str, output: str) -> Iterator[bool]:
    new = not os.path.exists(output)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = _locked(path, output)
        left = os.fstat(descriptor).st_size > 0
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _holder().encode())
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error}; name another --output") from error
    try:
        yield left
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)
            os.rmdir(os.path.dirname(path))  # unless it holds what a later run can use
            if new:
                os.rmdir(output)  # unless something has been done
        os.close(descriptor)


def _locked(path: str, output: str) -> int:
    """A descriptor of the file at `path`, locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode("utf-8", "replace")
            os.close(descriptor)
            raise _refusal(output, holder) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return descriptor
        # The run before us may have removed the file between our opening it and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)


class _Lease:
    """A lock in a bucket; see the module."""

    def __init__(self, place: str, output: str) -> None:
        self._output = output
        bucket, _, name = place.removeprefix("gs://").partition("/")
        self._bucket, self._name = buckets.client().bucket(bucket), name
        self._stop = threading.Event()

    def __enter__(self) -> bool:
        holder = self._bucket.get_blob(self._name)
        if holder is not None and not _is_dead_here(said := _text(holder)):
            print(f"unfade: {self._output} was left locked; looking whether its run still lives", file=sys.stderr)
            self._await_lapse(holder, said)
        self._generation = self._write(0 if holder is None else holder.generation)
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        return holder is not None

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(api_exceptions.GoogleAPIError):
            self._bucket.blob(self._name).delete(if_generation_match=self._generation)

    def _await_lapse(self, holder: Any, said: str) -> None:
        end = time.monotonic() + LAPSE_SECONDS
        while time.monotonic() < end:
            time.sleep(LAPSE_SECONDS / 30)
            now = self._bucket.get_blob(self._name)
            if now is None or now.generation != holder.generation:
                raise _refusal(self._output, said)

    def _write(self, generation: int) -> int:
        blob = self._bucket.blob(self._name)
        try:
            blob.upload_from_string(_holder(), if_generation_match=generation)
        except api_exceptions.PreconditionFailed:
            raise _refusal(self._output, "") from None
        return int(blob.generation)

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(RENEWAL_SECONDS):
            try:
                self._generation = self._write(self._generation)
                renewed = time.monotonic()
            except UsageError:
                _end(f"another run has taken over {self._output}")
            except Exception as error:
                if time.monotonic() - renewed > LAPSE_SECONDS - RENEWAL_SECONDS:
                    _end(f"the lock of {self._output} can no longer be renewed ({error})")


def _text(blob: Any) -> str:
    try:
        return str(blob.download_as_bytes().decode("utf-8", "replace"))
    except api_exceptions.NotFound:
        return ""


def _is_dead_here(holder: str) -> bool:
    """Whether the holder was a process of this machine that is gone."""
    try:
        said = json.loads(holder)
        if said["host"] != socket.gethostname():
            return False
        os.kill(int(said["process"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return int(said["process"]) == os.getpid()  # a number used again, as in containers: two runs in one are none


def _end(why: str) -> None:
    print(f"unfade: {why}: this run ends here, and loses nothing that is done", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
