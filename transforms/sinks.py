"""What a run leaves beside its pictures: sharded tables, and a summary whose counts add up."""

from __future__ import annotations

import functools
import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam import pvalue

from transforms import storage
from transforms.guard import in_worker
from transforms.items import ItemError, ItemFailure, UsageError
from transforms.records import shard_of

_ROWS_A_SHARD = 100_000


class WriteTable(beam.PTransform):
    """Writes rows as sharded files whose names and bytes depend on the rows alone, and removes older shards.

    Rows are dealt by hash of their key, sorted within a shard, and written atomically.

    Args:
      folder: Where to write.
      name: `errors` gives `errors-00000-of-00001.jsonl`.
      suffix: With the dot.
      encode: Sorted rows of one shard, and the side input, to the file's bytes.
      key: Text of a row to deal and sort by.
      side: Side input handed to `encode`, or None.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        suffix: str,
        encode: Callable[[list[Any], Any], bytes],
        key: Callable[[Any], str],
        side: Any = None,
    ) -> None:
        super().__init__()
        self._folder, self._name, self._suffix = folder, name, suffix
        self._encode, self._key, self._side = encode, key, side

    def expand(self, rows: pvalue.PCollection) -> pvalue.PCollection:
        """PCollection[row] -> PCollection with one list: the names of the files."""
        shards = (
            rows
            | "Count" >> beam.combiners.Count.Globally()
            | "Shards" >> beam.Map(lambda count: max(1, math.ceil(count / _ROWS_A_SHARD)))
        )
        files = (
            rows
            | "Deal" >> beam.Map(_dealt, self._key, beam.pvalue.AsSingleton(shards))
            | "Group" >> beam.GroupByKey()
            | "Write" >> beam.Map(self._write, beam.pvalue.AsSingleton(shards), self._side)
        )
        return (
            rows.pipeline
            | "Once" >> beam.Create([None])
            | "Tidy" >> beam.Map(tidy, self._folder, self._name, self._suffix, beam.pvalue.AsList(files))
        )

    def _write(self, shard: tuple[int, Iterable[Any]], shards: int, side: Any) -> str:
        index, rows = shard
        name = f"{self._name}-{index:05d}-of-{shards:05d}{self._suffix}"
        data = self._encode(sorted(rows, key=self._key), side)
        in_worker(storage.write_bytes)(storage.join(self._folder, name), data, lasting=True)
        return name


def _dealt(row: Any, key: Callable[[Any], str], shards: int) -> tuple[int, Any]:
    return shard_of(key(row), shards), row


def tidy(_: None, folder: str, name: str, suffix: str, written: list[str]) -> list[str]:
    """Removes shards of an earlier run, once all of this one's are in place."""
    keep = {storage.join(folder, file) for file in written}
    storage.delete([uri for uri in storage.listing(folder, f"{name}-*{suffix}") if uri not in keep])
    return sorted(written)


class WriteErrors(beam.PTransform):
    """Writes `errors/errors-*.jsonl` below a folder.

    Args:
      output: The run's output folder.
    """

    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def expand(self, errors: pvalue.PCollection) -> pvalue.PCollection:
        """PCollection[ItemError] -> PCollection with one list of file names."""
        return errors | WriteTable(storage.join(self._output, "errors"), "errors", ".jsonl", error_lines, _error_key)


def _error_key(error: ItemError) -> str:
    return f"{error.id}\0{error.uri}\0{error.stage}\0{error.message}"


def read_errors(uri: str) -> Iterator[dict[str, Any]]:
    """The records of a file that `WriteErrors` or the journal wrote.

    Raises:
      RuntimeError: The file cannot be read.
    """
    try:
        with storage.local_copy(uri) as path, open(path, encoding="utf-8", newline="\n") as lines:
            for line in lines:
                record = json.loads(line)
                yield {**record, "id": str(record["id"])}
    except (OSError, ValueError, KeyError, TypeError, ItemFailure) as error:
        raise RuntimeError(
            f"{uri} cannot be read ({error}); remove it, and run `unfade restore` again: what it told of is tried anew"
        ) from error


def error_lines(errors: list[ItemError], _: None = None) -> bytes:
    """Error records as JSON lines."""
    return "".join(error.to_json() + "\n" for error in errors).encode("utf-8", "backslashreplace")


class CountErrors(beam.PTransform):
    """Groups errors by class: how many, and three examples each."""

    def expand(self, errors: pvalue.PCollection) -> pvalue.PCollection:
        """PCollection[ItemError] -> PCollection[(class, {stage, error, count, examples})]."""
        return (
            errors
            | "ByClass" >> beam.Map(lambda error: (f"{error.stage}/{error.error}", error))
            | "Summarise" >> beam.CombinePerKey(_ErrorClass())
        )


class _ErrorClass(beam.CombineFn):
    """Count and the first three by id, so that the summary does not depend on the order of work."""

    def create_accumulator(self) -> tuple[int, list[tuple[str, str]]]:
        return 0, []

    def add_input(self, accumulator: tuple[int, list[tuple[str, str]]], error: ItemError) -> Any:
        count, examples = accumulator
        return count + 1, sorted([*examples, (error.id or error.uri, error.message)])[:3]

    def merge_accumulators(self, accumulators: Iterable[tuple[int, list[tuple[str, str]]]]) -> Any:
        count, examples = 0, []
        for other_count, others in accumulators:
            count += other_count
            examples += others
        return count, sorted(examples)[:3]

    def extract_output(self, accumulator: tuple[int, list[tuple[str, str]]]) -> dict[str, Any]:
        count, examples = accumulator
        return {"count": count, "examples": [{"id": id, "message": message} for id, message in examples]}


def parquet_bytes(rows: list[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """One Parquet file, zstd, of rows given as mappings; missing values are null."""
    return table_bytes(pa.Table.from_pylist([dict(row) for row in rows], schema=schema))


def table_bytes(table: pa.Table) -> bytes:
    """One Parquet file, zstd; the same rows give the same bytes, however they were put together."""
    table, sink = table.combine_chunks(), pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of what made a result."""
    names = (
        *("unfade", "apache-beam", "tensorflow", "tensorflow-transform", "pillow", "tifffile", "imagecodecs"),
        *("numpy", "scikit-image"),
    )
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def write_json(uri: str, body: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically, keys sorted, NaN refused."""
    text = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes(uri, text.encode("utf-8", "backslashreplace"), lasting=True)


def read_json(uri: str) -> dict[str, Any]:
    """Reads what `write_json` wrote.

    Raises:
      UsageError: It is something else.
    """
    try:
        body = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise UsageError(f"{uri} is damaged ({error}); remove it, and run `unfade restore` again") from None
    if not isinstance(body, dict):
        raise UsageError(f"{uri} holds no summary; remove it, and run `unfade restore` again")
    return body
