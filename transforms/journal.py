"""Results as they come, so that a run that is killed loses seconds of work, not hours.

Workers write what they have finished as small files under `unfinished/`, each whole or not at all. The run that
completes puts them together and removes them; the run after one that was killed finds there what is done.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from transforms import listing, storage
from transforms.guard import in_worker

FOLDER = "unfinished"
"""Below a run's output folder."""

RUN = "run.json"
"""There, while a run goes on, and after it was interrupted: what it is about."""

_LEAST_SECONDS = 1.0
_SHARE = 0.01  # of the time so far may be lost: hours of work make hundreds of files, not thousands
_MOST_ITEMS = 2000


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of the journal.

    Attributes:
      uri: Where it is.
      items: How many results it holds.
      pixels: How many these have.
    """

    uri: str
    items: int
    pixels: int


class WriteJournal(beam.PTransform):
    """Writes results to the journal as they come.

    A part that a failed try of a bundle wrote is not among the result: what counts is that list, not what lies there.

    Args:
      output: The run's output folder.
      run: The run's number: parts of later runs come later in order of names.
      kind: First word of the names, e.g. `rows`.
      suffix: Of the names, with the dot.
      encode: Results to the file's bytes.
      pixels: Counts those of a result; None: they have none.
    """

    def __init__(
        self,
        output: str,
        run: int,
        kind: str,
        suffix: str,
        encode: Callable[[list[Any]], bytes],
        pixels: Callable[[Any], int] | None = None,
    ) -> None:
        super().__init__()
        self._journal = _JournalFn(storage.join(output, FOLDER, f"{kind}-{run:06d}"), suffix, encode, pixels)

    def expand(self, results: pvalue.PCollection) -> pvalue.PCollection:
        """PCollection[T] -> PCollection[Part]."""
        return results | beam.ParDo(self._journal)


class _JournalFn(beam.DoFn):
    def __init__(
        self, stem: str, suffix: str, encode: Callable[[list[Any]], bytes], pixels: Callable[[Any], int] | None
    ) -> None:
        self._stem, self._suffix, self._encode, self._pixels = stem, suffix, encode, pixels

    def setup(self) -> None:
        self._began = time.monotonic()

    def start_bundle(self) -> None:
        self._waiting: list[Any] = []
        self._since = time.monotonic()

    def process(self, result: Any) -> Iterator[Part]:
        self._waiting.append(result)
        now = time.monotonic()
        patience = max(_LEAST_SECONDS, _SHARE * (now - self._began))
        if now - self._since > patience or len(self._waiting) >= _MOST_ITEMS:
            yield self._written()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._waiting:
            yield WindowedValue(self._written(), MIN_TIMESTAMP, [GlobalWindow()])

    def _written(self) -> Part:
        pixels = sum(map(self._pixels, self._waiting)) if self._pixels else 0
        part = Part(f"{self._stem}-{uuid.uuid4().hex}{self._suffix}", len(self._waiting), pixels)
        in_worker(storage.write_bytes)(part.uri, self._encode(self._waiting), lasting=True)
        self._waiting, self._since = [], time.monotonic()
        return part


def parts(output: str, kind: str) -> list[str]:
    """URIs of what earlier runs left of one kind, oldest run first."""
    return storage.listing(storage.join(output, FOLDER), f"{kind}-*")


def next_run(output: str) -> int:
    """The number of the next run: one more than the last that left anything."""
    numbers = [uri.rpartition("/")[2].split("-")[1] for uri in storage.listing(storage.join(output, FOLDER), "*-*-*")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def clear(output: str) -> None:
    """Removes the journal once all is in its place, and what `clear_temporary` does."""
    kept = storage.join(output, FOLDER, "lock")
    storage.delete([uri for uri in storage.listing(storage.join(output, FOLDER), "*") if uri != kept])
    clear_temporary(output)


def clear_temporary(output: str) -> None:
    """Removes temporary files that killed runs left in an output folder, where no other run goes on."""
    if not storage.is_remote(output):
        storage.delete([entry.uri for entry in listing.below(output) if storage.is_temporary(entry.uri)])
