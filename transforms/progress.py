"""How far a local run is: workers append a byte an item to one file, the launching process counts bytes.

Runners that have a monitoring page of their own get no such file.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import sys
import threading
import time
from types import TracebackType
from typing import IO, Any, NamedTuple

import apache_beam as beam
from apache_beam import pvalue
from tqdm import tqdm

from transforms import launcher

FOUND, DONE, FAILED, SEEN = b"i", b"r", b"f", b"s"
"""An item to do; one done; one failed; one looked at, which may be left out (see `Progress`)."""

STYLES = ("auto", "quiet", "json")
"""A bar on a terminal, else a line now and then; nothing; a JSON line now and then, for schedulers."""

_LINE_SECONDS = 30.0
_RATE_SECONDS = 60.0  # how far back the rate looks


class _TickFn(beam.DoFn):
    def __init__(self, path: str, mark: bytes) -> None:
        self._path, self._mark = path, mark

    def setup(self) -> None:
        launcher.end_with(os.path.dirname(self._path))

    def process(self, item: Any) -> Any:
        # O_APPEND writes of one byte from several processes never overwrite each other.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, self._mark)
        finally:
            os.close(descriptor)
        yield item


class Tick(beam.PTransform):
    """Marks every item that passes, and hands it on.

    Args:
      path: The run's progress file; None for a run without one.
      mark: `FOUND`, `DONE`, `FAILED` or `SEEN`.
    """

    def __init__(self, path: str | None, mark: bytes) -> None:
        super().__init__()
        self._path, self._mark = path, mark

    def expand(self, items: pvalue.PCollection) -> pvalue.PCollection:
        """PCollection[T] -> the same."""
        return items | beam.ParDo(_TickFn(self._path, self._mark)) if self._path else items


class Now(NamedTuple):
    """How far a run is.

    Attributes:
      stage: What is being done.
      found: Items to do.
      done: Of these, done.
      failed: Of these, failed.
      rate: Items a second of late; 0 where nobody knows yet.
      workers: Processes that work.
      seconds: Since the run began.
    """

    stage: str
    found: int
    done: int
    failed: int
    rate: float
    workers: int
    seconds: float

    @property
    def finished(self) -> int:
        """Items that are done with, for good or ill."""
        return self.done + self.failed

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; None where nobody knows."""
        return max(0, self.found - self.finished) / self.rate if self.rate > 0 else None


class Progress:
    """Shows a progress file while a run goes on: a bar on a terminal, a line every 30 s elsewhere.

    Args:
      path: The file that `Tick` appends to.
      label: What is being done, e.g. `restoring`.
      stream: Where to show it.
      style: One of `STYLES`.
      workers: Processes that work.
      total: How many items there are, where they are looked at (`SEEN`) and found only as their turn comes. None: all
        are found before the first is done.
    """

    def __init__(
        self,
        path: str,
        label: str,
        stream: IO[str] | None = None,
        style: str = "auto",
        workers: int = 1,
        total: int | None = None,
    ) -> None:
        self._total = total
        self._path, self._label, self._style, self._workers = path, label, style, workers
        self._stream = stream or sys.stderr
        self._read, self._marks = 0, collections.Counter[int]()
        self._counting = threading.Lock()
        self._began = time.monotonic()
        self._lately = collections.deque([(self._began, 0)])
        self._stop = threading.Event()
        self._ended_by: str | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._ended_by = "stopped" if issubclass(kind, KeyboardInterrupt) else "failed"
        self._stop.set()
        self._thread.join()

    def counts(self) -> tuple[int, int, int]:
        """Items found, done and failed so far."""
        with self._counting:
            with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
                file.seek(self._read)
                marks = file.read()
                self._read += len(marks)
                self._marks.update(marks)
            found, done, failed, seen = (self._marks[mark[0]] for mark in (FOUND, DONE, FAILED, SEEN))
            if self._total is not None and seen:
                found = max(found, self._total - (seen - found))
            return found, done, failed

    def _now(self) -> Now:
        found, done, failed = self.counts()
        now, finished = time.monotonic(), done + failed
        if not finished:
            self._lately[0] = now, 0  # start-up is no measure of what follows
        self._lately.append((now, finished))
        while len(self._lately) > 2 and now - self._lately[1][0] > _RATE_SECONDS:
            self._lately.popleft()
        before, count = self._lately[0]
        rate = (finished - count) / (now - before) if finished and now > before else 0.0
        return Now(self._stage(found, finished), found, done, failed, rate, self._workers, now - self._began)

    def _stage(self, found: int, finished: int) -> str:
        if self._ended_by:
            return self._ended_by
        if not found:
            return "reading the input"
        if not finished:
            return "starting"  # workers, and the model in each
        return self._label if finished < found else "writing the tables"

    def _watch(self) -> None:
        if self._style == "quiet":
            return
        if self._style == "auto" and self._stream.isatty():
            with tqdm(file=self._stream, dynamic_ncols=True, bar_format=_BAR) as bar:
                while not self._stop.wait(0.2):
                    _show(bar, self._now())
                _show(bar, self._now())
            return
        shown = -1
        while not self._stop.wait(_LINE_SECONDS):
            now = self._now()
            if now.finished != shown:
                shown = now.finished
                self._tell(now)
        if self._style == "json" or self._ended_by:
            self._tell(self._now())

    def _tell(self, now: Now) -> None:
        print((describe_json if self._style == "json" else describe)(now), file=self._stream, flush=True)


_BAR = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt}{postfix} [{elapsed}] {bar}"  # a narrow terminal loses the bar


def _show(bar: Any, now: Now) -> None:
    bar.total = now.found or None
    bar.n = min(now.finished, now.found)  # what a runner does again is marked again
    bar.set_description_str(now.stage, refresh=False)
    bar.set_postfix_str(", ".join(_rest(now)), refresh=False)
    bar.refresh()


def _rest(now: Now) -> list[str]:
    left = now.seconds_left
    return [
        *([f"{now.rate:.1f} a second"] if now.rate else []),
        *([f"{duration(left)} left"] if left else []),
        f"{now.failed} failed",
        f"{now.workers} worker{'s' if now.workers != 1 else ''}",
    ]


def duration(seconds: float) -> str:
    """About how long, for a person: `40 s`, `8 min`, `3 h 20 min`, `2 days 5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} days {hours % 24} h"


def describe(now: Now) -> str:
    """One plain line: how far, how fast, how long still."""
    return ", ".join([f"{now.stage}: {now.finished} of {now.found} pictures", *_rest(now)])


def describe_json(now: Now) -> str:
    """The same as one JSON object: counts, `rate` (pictures a second), `seconds_left` (null where nobody knows)."""
    left = now.seconds_left
    return json.dumps(
        {
            **{name: getattr(now, name) for name in ("stage", "found", "done", "failed", "workers")},
            "seconds": round(now.seconds),
            "rate": round(now.rate, 2),
            "seconds_left": None if left is None else round(left),
        }
    )
