"""How far a local run is: workers append a byte an item to one file, the launching process counts bytes.

Runners that have a monitoring page of their own get no such file.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from types import TracebackType
from typing import IO, Any

import apache_beam as beam
from apache_beam import pvalue
from tqdm import tqdm

from transforms import launcher

FOUND, DONE, FAILED = b"i", b"r", b"f"

STYLES = ("auto", "quiet", "json")
"""A bar on a terminal, else a line now and then; nothing; a JSON line now and then, for schedulers."""

_LINE_SECONDS = 30.0


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
      mark: `FOUND`, `DONE` or `FAILED`.
    """

    def __init__(self, path: str | None, mark: bytes) -> None:
        super().__init__()
        self._path, self._mark = path, mark

    def expand(self, items: pvalue.PCollection) -> pvalue.PCollection:
        """PCollection[T] -> the same."""
        return items | beam.ParDo(_TickFn(self._path, self._mark)) if self._path else items


class Progress:
    """Shows a progress file while a run goes on: a bar on a terminal, a line every 30 s elsewhere.

    Args:
      path: The file that `Tick` appends to.
      label: What is being done, e.g. `restoring`.
      stream: Where to show it.
      style: One of `STYLES`.
    """

    def __init__(self, path: str, label: str, stream: IO[str] | None = None, style: str = "auto") -> None:
        self._path, self._label, self._style = path, label, style
        self._stream = stream or sys.stderr
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _counts(self) -> tuple[int, int, int]:
        try:
            with open(self._path, "rb") as file:
                marks = file.read()
        except FileNotFoundError:
            return 0, 0, 0
        return marks.count(FOUND), marks.count(DONE), marks.count(FAILED)

    def _watch(self) -> None:
        if self._style == "quiet":
            return
        if self._style == "auto" and self._stream.isatty():
            with tqdm(desc=self._label, unit="picture", file=self._stream, dynamic_ncols=True) as bar:
                while not self._stop.wait(0.2):
                    self._show(bar)
                self._show(bar)
            return
        began, shown = time.monotonic(), -1
        while not self._stop.wait(_LINE_SECONDS):
            found, done, failed = self._counts()
            if done + failed != shown:
                shown = done + failed
                tell = describe_json if self._style == "json" else describe
                print(tell(self._label, found, done, failed, time.monotonic() - began), file=self._stream, flush=True)

    def _show(self, bar: Any) -> None:
        found, done, failed = self._counts()
        bar.total = found or None
        bar.n = done + failed
        bar.set_postfix(failed=failed) if failed else None
        bar.refresh()


def describe(label: str, found: int, done: int, failed: int, seconds: float) -> str:
    """One plain line: how far, how fast, how long still."""
    finished = done + failed
    rate = finished / seconds if seconds > 0 else 0.0
    left = f", about {(found - finished) / rate / 60:.0f} min left" if rate > 0 and found > finished else ""
    return f"{label}: {finished} of {found} pictures ({failed} failed), {rate:.1f} a second{left}"


def describe_json(label: str, found: int, done: int, failed: int, seconds: float) -> str:
    """The same as one JSON object: counts, `rate` (pictures a second), `seconds_left` (null where nobody knows)."""
    finished = done + failed
    rate = finished / seconds if seconds > 0 else 0.0
    left = round((found - finished) / rate) if rate > 0 else None
    counts = {"found": found, "done": done, "failed": failed}
    return json.dumps(
        {"stage": label, **counts, "seconds": round(seconds), "rate": round(rate, 2), "seconds_left": left}
    )
