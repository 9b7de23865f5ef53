"""One run at a time writes to an output folder: a second one is refused, and one that was killed stands in no way.

On a disk the lock is the operating system's, on the file `unfinished/lock`: it goes with the process that holds it. In
a `gs://` bucket it is the object of that name, made only if there is none, and renewed while the run goes on: one that
is not renewed for a while is taken over. Other stores have no lock.

A job on Dataflow outlives the process that submits it. That process hands the lock over: from then on it names the job,
nobody renews it, and who meets it asks Dataflow whether the job still runs. The job's last step removes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from google.api_core import exceptions as api_exceptions

from transforms import buckets, dataflow_jobs, storage, storage_access
from transforms.dataflow_jobs import Job
from transforms.items import UsageError
from transforms.journal import FOLDER

RENEWAL_SECONDS = 15.0
LAPSE_SECONDS = 60.0

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # a file system without: taken on trust


@dataclasses.dataclass(frozen=True)
class Held:
    """A lock that is held.

    Attributes:
      interrupted: Whether a run that was killed had left its lock.
    """

    interrupted: bool = False
    _lease: _Lease | None = None

    def hand_over(self, job: Job) -> str:
        """Leaves the lock to a job that is about to be submitted.

        Returns:
          What the job shows to `release`.
        """
        if self._lease is None:
            raise ValueError("only a lock in a gs:// bucket can be handed over")
        return self._lease.hand_over(job)

    def take_back(self) -> None:
        """After `hand_over`: the job was not submitted, so that the lock goes when this process lets go of it."""
        if self._lease is not None:
            self._lease.handed_over = False


@contextlib.contextmanager
def hold(output: str, own: Job | None = None) -> Iterator[Held]:
    """Keeps other runs from an output folder meanwhile.

    Args:
      output: The folder.
      own: The job that this very process was started by, if any: Dataflow runs one job of a name at a time, so a lock
        that names it is an earlier one's.

    Raises:
      UsageError: Another run writes there.
    """
    place = storage.join(output, FOLDER, "lock")
    if not storage.is_remote(output):
        with _hold_file(place, output) as left:
            yield Held(left)
    elif storage_access.scheme_of(output) == "gs":
        with _Lease(place, output, own) as held:
            yield held
    else:
        yield Held()


def release(output: str, token: str) -> None:
    """Removes the lock that was handed over to a job, in that job's last step; another's is left alone.

    Args:
      output: The folder.
      token: What `Held.hand_over` gave.
    """
    bucket, name = _bucket(storage.join(output, FOLDER, "lock"))
    generation, said = _found(bucket, name)
    if token in said:
        with contextlib.suppress(api_exceptions.NotFound, api_exceptions.PreconditionFailed):
            bucket.blob(name).delete(if_generation_match=generation)


def _bucket(place: str) -> tuple[Any, str]:
    """The bucket of a URI, and the object's name in it."""
    bucket, _, name = place.removeprefix("gs://").partition("/")
    return buckets.client().bucket(bucket), name


def _holder() -> str:
    """Who we are, for the message of those who come later."""
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": _now()})


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _refusal(output: str, holder: str) -> UsageError:
    try:
        said = json.loads(holder)
        if "job" in said:
            who = f"{Job(**said['job'])}, since {said['since']}"
            return UsageError(f"another run ({who}) is writing to {output}; wait for it, or cancel it")
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
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UsageError(f"{path} is a link, where the lock of {output} is to be; remove it") from None
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

    def __init__(self, place: str, output: str, own: Job | None = None) -> None:
        self._place, self._output, self._own = place, output, own
        self._bucket, self._name = _bucket(place)
        self._stop = threading.Event()
        self._said = json.dumps({**json.loads(_holder()), "token": uuid.uuid4().hex})
        self.handed_over = False

    def __enter__(self) -> Held:
        generation, said = _found(self._bucket, self._name)
        if generation and (job := _job(said)) is not None:
            self._check_ended(job, said)
        elif generation and not _is_dead_here(said):
            print(f"unfade: {self._output} was left locked; looking whether its run still lives", file=sys.stderr)
            self._await_lapse(generation, said)
        self._generation = self._write(generation)
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        return Held(generation > 0, self)

    def hand_over(self, job: Job) -> str:
        self._stop.set()
        self._thread.join()
        token = uuid.uuid4().hex
        said = {"job": dataclasses.asdict(job), "since": _now(), "token": token}
        self._generation = self._write(self._generation, json.dumps(said))
        self.handed_over = True
        return token

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        if self.handed_over:
            return
        with contextlib.suppress(api_exceptions.GoogleAPIError):
            self._bucket.blob(self._name).delete(if_generation_match=self._generation)

    def _check_ended(self, job: Job, said: str) -> None:
        """Raises UsageError unless the job that holds the lock is over."""
        if self._own == job:
            return
        since = datetime.datetime.fromisoformat(json.loads(said)["since"])
        try:
            ended = dataflow_jobs.has_ended(job, since)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UsageError(
                f"{_refusal(self._output, said)}; Dataflow cannot be asked whether it still runs ({first}): if it does"
                f" not, remove {self._place}"
            ) from error
        if not ended:
            raise _refusal(self._output, said)

    def _await_lapse(self, generation: int, said: str) -> None:
        end = time.monotonic() + LAPSE_SECONDS
        while time.monotonic() < end:
            time.sleep(LAPSE_SECONDS / 30)
            now = self._bucket.get_blob(self._name)
            if now is None or now.generation != generation:
                raise _refusal(self._output, said)

    def _write(self, generation: int, said: str | None = None) -> int:
        """Writes the lock in the place of that generation; returns the new one. Raises UsageError if it has another."""
        said = said or self._said
        blob = self._bucket.blob(self._name)
        try:
            blob.upload_from_string(said, if_generation_match=generation)
        except api_exceptions.PreconditionFailed:
            # Or it is our own: the store took it, its answer was lost, and the request was made again.
            generation, found = _found(self._bucket, self._name)
            if found != said:
                raise _refusal(self._output, found) from None
            return generation
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


def _found(bucket: Any, name: str) -> tuple[int, str]:
    """Generation and content of the lock that is there now; 0 and nothing if there is none."""
    blob = bucket.get_blob(name)
    if blob is None:
        return 0, ""
    generation = int(blob.generation)  # first, as reading the content may leave none
    try:
        return generation, str(blob.download_as_bytes().decode("utf-8", "replace"))
    except api_exceptions.NotFound:
        return 0, ""


def _job(holder: str) -> Job | None:
    """The job that a lock was handed over to, None if it was not."""
    try:
        return Job(**json.loads(holder)["job"])
    except (ValueError, KeyError, TypeError):
        return None


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
