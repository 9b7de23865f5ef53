"""What is done already: the anti-join of an input with what earlier runs left in an output folder.

An item is done if the last row about it was made from the same source by the same model and options, and its picture
lies in the output as that row says. All of this comes from one listing of the output, the tables of metrics, and the
sizes, times and checksums that file systems and listings tell without reading. Held are some 50 bytes an item.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import json
import os
import posixpath
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from transforms import journal, listing, outputs, sinks, storage
from transforms.decisions import Decision
from transforms.identity import file_version, fingerprint, identity, in_listing, key_of, listed_version
from transforms.items import ItemFailure, Pair
from transforms.records import Source

_Keys = npt.NDArray[np.uint64]

_ROWS = 8192  # read at a time
_MOST_FOLDERS = 100  # of sources listed one by one; more are listed together


def number_of(fingerprint: str | None) -> int:
    """A fingerprint in 64 bits, 0 for none."""
    return int(fingerprint[:16], 16) | 1 if fingerprint else 0


FACTS = ("uri", "decision")
"""Columns that a row tells of its item, beside the carried ones, whatever its result."""


def _facts(told: Mapping[str, Any], carried: Mapping[str, str | None]) -> int:
    """64 bits that stand for `FACTS` and the carried columns of a row."""
    there = {name: text for name, text in carried.items() if text is not None}
    return key_of(json.dumps([[told[name] for name in FACTS], there], sort_keys=True))


class Table:
    """Numbers of 64 bits by key. Of entries with the same key the last counts.

    Args:
      keys: uint64 [N].
      values: uint64 [N].
    """

    def __init__(self, keys: Any, values: Any) -> None:
        keys, values = np.asarray(keys, np.uint64), np.asarray(values, np.uint64)
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = keys[order], values[order]
        # One by one through a view: NumPy lets other threads run at every look-up, and then waits for them.
        self._view = memoryview(self._keys)

    def get(self, key: int) -> int | None:
        """The value of a key, None if it has none."""
        at = bisect.bisect_right(self._view, key) - 1
        return int(self._values[at]) if at >= 0 and self._view[at] == key else None

    def find(self, keys: _Keys) -> tuple[_Keys, npt.NDArray[np.bool_]]:
        """The values of keys, uint64 [N], and which keys have one, bool [N]."""
        at = self._keys.searchsorted(keys, side="right")
        found = at > 0
        at = np.maximum(at, 1) - 1
        if not len(self._keys):
            return np.zeros(len(keys), np.uint64), found
        found &= self._keys[at] == keys
        return np.where(found, self._values[at], np.uint64(0)), found


# --- what earlier runs left -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What earlier runs left in an output folder, as it was before this one began.

    Attributes:
      output: The folder.
      tables: Files of rows and when each was written, oldest run first; empty where all is to be done again.
      errors: Files of error records.
      interrupted: Whether the last run did not complete. Then a picture counts only if its row was written after it:
        the run may have written pictures that no row tells of.
      number: This run's.
    """

    output: str
    tables: tuple[tuple[str, float], ...] = ()
    errors: tuple[str, ...] = ()
    interrupted: bool = False
    number: int = 1


def find(output: str, overwrite: bool = False, interrupted: bool = False) -> Earlier:
    """Looks what there is in an output folder.

    Args:
      output: The folder, which need not exist.
      overwrite: Take nothing for done.
      interrupted: See `Earlier`; told anyway by what lies in the journal.
    """
    number = journal.next_run(output)
    if overwrite:
        return Earlier(output, number=number)
    metrics, unfinished = storage.join(output, "metrics"), storage.join(output, journal.FOLDER)
    times = {
        posixpath.basename(entry.uri): (entry.uri, entry.time)
        for folder in (metrics, unfinished)
        for entry in listing.below(folder + ("/" if storage.is_remote(folder) else ""))
    }
    tables = [name for name in sorted(times) if name.startswith("metrics-") and name.endswith(".parquet")]
    tables += [name for name in sorted(times) if name.startswith("rows-")]
    errors = storage.listing(storage.join(output, "errors"), "errors-*.jsonl") + journal.parts(output, "errors")
    interrupted = interrupted or number > 1 or journal.RUN in times
    return Earlier(output, tuple(times[name] for name in tables), tuple(errors), interrupted, number)


class Pictures:
    """The restored pictures in an output folder, by one listing.

    Args:
      output: The folder.
      times: Whether a picture must be no younger than its row.
    """

    def __init__(self, output: str, times: bool) -> None:
        root = storage.join(output, "images") + "/"
        keys, sizes, written = array("Q"), array("Q"), array("Q")
        for entry in listing.below(root):
            key = key_of("images/" + entry.uri[len(root) :])
            keys.append(key)
            sizes.append(entry.size)
            written.append(int(entry.time * 1e6))
        self._sizes, self._times = Table(keys, sizes), Table(keys, written) if times else None

    def sound(self, name: str | None, size: int | None, row_written: float) -> bool:
        """Whether a picture lies there as a row says that was written at that time."""
        if name is None or size is None or self._sizes.get(key_of(name)) != size:
            return False
        return self._times is None or (self._times.get(key_of(name)) or 0) <= int(row_written * 1e6)


class Done:
    """What is done, by id.

    Args:
      earlier: What earlier runs left.
    """

    def __init__(self, earlier: Earlier) -> None:
        ids, made, facts = array("Q"), array("Q"), array("Q")
        folders: set[str] = set()
        pictures = Pictures(earlier.output, earlier.interrupted) if earlier.tables else None
        for uri, written in earlier.tables:
            wanted = ("id", "output", "bytes_out", "fingerprint", *FACTS)
            for rows in read_rows(uri, wanted):
                own = rows.schema.names[len(wanted) :]
                for row in rows.to_pylist():
                    sound = pictures is not None and pictures.sound(row["output"], row["bytes_out"], written)
                    ids.append(key_of(row["id"]))
                    made.append(number_of(row["fingerprint"]) if sound else 0)
                    facts.append(_facts(row, {name: row[name] for name in own}))
                    if sound and in_listing(row["uri"]):
                        folders.add(row["uri"].rpartition("/")[0] + "/")
        self._made, self._facts = Table(ids, made), Table(ids, facts)
        self._folders = folders

    def made(self, id: str) -> int:
        """The number of the fingerprint of an item's row, 0 if there is no row whose picture is in place."""
        return self._made.get(key_of(id)) or 0

    def facts(self, id: str) -> int | None:
        """What `_facts` gave for the item's row."""
        return self._facts.get(key_of(id))

    @functools.cached_property
    def sources(self) -> Table:
        """What listings of buckets say of the sources of what is done: `key_of` the version, by `key_of` the URI."""
        keys, versions = array("Q"), array("Q")
        for prefix in _prefixes(self._folders):
            for entry in listing.below(prefix):
                keys.append(key_of(entry.uri))
                versions.append(key_of(entry.version))
        return Table(keys, versions)


def _prefixes(folders: set[str]) -> list[str]:
    """Few prefixes that together cover all folders in buckets."""
    covered: list[str] = []
    for folder in sorted(folders):
        if not (covered and folder.startswith(covered[-1])):
            covered.append(folder)
    if len(covered) <= _MOST_FOLDERS:
        return covered
    buckets: dict[str, list[str]] = {}
    for folder in covered:
        buckets.setdefault("/".join(folder.split("/")[:3]), []).append(folder)
    return [os.path.commonprefix(inside) for inside in buckets.values()]  # noqa: RUF071 - objects begin with any text


def read_rows(uri: str, columns: Iterable[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file of metrics, some thousands at a time.

    Args:
      uri: The file.
      columns: Those of ours to read, None for all; carried columns are always read, and those missing are null.

    Raises:
      RuntimeError: The file cannot be read.
    """
    wanted = outputs.COLUMNS.names if columns is None else list(columns)
    try:
        with storage.local_copy(uri) as path, pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            carried = [name for name in names if name not in outputs.COLUMNS.names]
            schema = pa.schema(
                [*(outputs.COLUMNS.field(name) for name in wanted), *(pa.field(name, pa.string()) for name in carried)]
            )
            for batch in file.iter_batches(_ROWS, columns=[*(name for name in wanted if name in names), *carried]):
                yield pa.RecordBatch.from_arrays(
                    [
                        batch.column(field.name).cast(field.type) if field.name in names else _nulls(field, len(batch))
                        for field in schema
                    ],
                    schema=schema,
                )
    except (OSError, pa.ArrowException, ItemFailure) as error:
        raise RuntimeError(
            f"{uri} cannot be read ({error}); remove it, and its pictures will be restored again"
        ) from error


def _nulls(field: pa.Field, count: int) -> pa.Array:
    return pa.nulls(count, field.type)


def failed_ids(earlier: Earlier) -> frozenset[int]:
    """`key_of` every id that has an error record."""
    found: set[int] = set()
    for uri in earlier.errors:
        found.update(key_of(record["id"]) for record in sinks.read_errors(uri))
    return frozenset(found)


# --- the transform ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What one worker found about its part of the input.

    Attributes:
      ids: uint64 [N], `key_of` each id.
      kept: uint64 [N], the number of the fingerprint of the row to keep, 0 for none.
      taken: How many items are to be done.
      done: How many are done.
      left: How many are left as they are, though not done.
    """

    ids: _Keys
    kept: _Keys
    taken: int
    done: int
    left: int


@dataclasses.dataclass(frozen=True)
class Selected:
    """What `Select` gives.

    Attributes:
      items: PCollection of the pairs or sources to do.
      verdicts: PCollection[Verdicts], a few.
      renewed: PCollection[dict] of `id`, `FACTS` and `extra`: what is done, but of which other things are told by now.
    """

    items: Any
    verdicts: Any
    renewed: Any


class Select(beam.PTransform):
    """Keeps of an input what is not done.

    Args:
      earlier: What earlier runs left.
      made_by: See `maker`.
      retry_errors: Take only what has failed before.
      decided: What was decided in review, by id.
    """

    def __init__(
        self,
        earlier: Earlier,
        made_by: str,
        retry_errors: bool = False,
        decided: Mapping[str, Decision] | None = None,
    ) -> None:
        super().__init__()
        self._select = _SelectFn(earlier, made_by, retry_errors, decided or {})

    def expand(self, items: pvalue.PCollection) -> Selected:
        """PCollection[Pair] or PCollection[Source] -> Selected."""
        parted = items | beam.ParDo(self._select).with_outputs("verdicts", "renewed", main="items")
        return Selected(parted.items, parted.verdicts, parted.renewed)


class _SelectFn(beam.DoFn):
    def __init__(self, earlier: Earlier, made_by: str, retry_errors: bool, decided: Mapping[str, Decision]) -> None:
        self._earlier, self._made_by, self._retry_errors, self._decided = earlier, made_by, retry_errors, decided

    def setup(self) -> None:
        self._done = Done(self._earlier)
        self._failed = failed_ids(self._earlier) if self._retry_errors else None

    def start_bundle(self) -> None:
        self._ids, self._kept = array("Q"), array("Q")
        self._counts = {"taken": 0, "done": 0, "left": 0}

    def process(self, item: Pair | Source) -> Iterator[Any]:
        pair = item.pair if isinstance(item, Source) else item
        key = key_of(pair.id)
        made = self._done.made(pair.id)
        decided = self._decided.get(pair.id)
        done = made != 0 and made == number_of(fingerprint(self._made_by, self._identity(item), decided))
        left = not done and self._failed is not None and key not in self._failed
        self._ids.append(key)
        self._kept.append(made if done or left else 0)
        self._counts["done" if done else "left" if left else "taken"] += 1
        if not (done or left):
            yield item
        elif done:
            facts = {"uri": pair.uri, "decision": decided.decision if decided else None}
            if self._done.facts(pair.id) != _facts(facts, outputs.carried_columns(pair.extra)):
                yield pvalue.TaggedOutput("renewed", {"id": pair.id, **facts, "extra": dict(pair.extra)})

    def finish_bundle(self) -> Iterator[Any]:
        verdicts = Verdicts(np.frombuffer(self._ids, np.uint64), np.frombuffer(self._kept, np.uint64), **self._counts)
        yield pvalue.TaggedOutput("verdicts", WindowedValue(verdicts, MIN_TIMESTAMP, [GlobalWindow()]))

    def _identity(self, item: Pair | Source) -> str:
        return item.identity if isinstance(item, Source) else identity(item, self._version)

    def _version(self, uri: str) -> str:
        """The version of a picture or a sidecar, as `ReadSource` would find it, less what needs a request."""
        return listed_version(self._done.sources.get(key_of(uri))) if in_listing(uri) else file_version(uri)


def joined(verdicts: list[Verdicts]) -> Table:
    """The number of the fingerprint of the row to keep, 0 for none, by `key_of` every id of the input."""
    none = np.zeros(0, np.uint64)
    return Table(
        np.concatenate([none, *(verdict.ids for verdict in verdicts)]),
        np.concatenate([none, *(verdict.kept for verdict in verdicts)]),
    )
