"""The items of a run in the report's order, on disk: to be read part by part, or one column after another.

A run has any number of items of some eighty values each. Held are ids and confidences while they are sorted, then one
part, or one column of one part.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import launcher, outputs, resume, storage

PART = 50_000
"""Items held at a time: some 50 MB."""

_ERRORS = 2000  # error records turned into rows at a time

FAILED = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("retryable", pa.bool_()),
    ]
)
"""What the report knows of an item that failed. Carried columns of these names are `extra_<name>`."""


class Items:
    """All items, restored ones first, the least sure of them first; then failed ones.

    Attributes:
      schema: Of their columns.
      restored: How many were.
      count: How many items there are.
    """

    def __init__(self, schema: pa.Schema, restored: int, count: int, files: Sequence[str]) -> None:
        self.schema, self.restored, self.count, self._files = schema, restored, count, files

    def parts(self) -> Iterator[pa.Table]:
        """All columns, `PART` items at a time, the last less."""
        for path in self._files:
            yield _read(path)

    def column(self, name: str, restored: bool = False) -> Iterator[pa.ChunkedArray]:
        """One column, part by part; of restored items alone if asked."""
        index, left = self.schema.get_field_index(name), self.restored if restored else self.count
        for path in self._files[: math.ceil(left / PART)]:
            part = _read(path, [index]).column(0).slice(0, left)
            left -= len(part)
            yield part


@contextlib.contextmanager
def items(tables: Sequence[str], errors: Iterable[Mapping[str, Any]]) -> Iterator[Items]:
    """Sorts the items of a run into temporary files, which are gone at the end.

    Args:
      tables: Files of metrics.
      errors: Error records.

    Raises:
      RuntimeError: A table cannot be read.
      ItemFailure: Nor fetched.
    """
    with contextlib.ExitStack() as open_:
        paths = [open_.enter_context(storage.local_copy(uri)) for uri in tables]
        folder = open_.enter_context(
            tempfile.TemporaryDirectory(prefix=launcher.REPORT_PREFIX, suffix=launcher.suffix())
        )
        ranks, schema = _ranked(paths)
        rows = (_renamed(batch) for path in paths for batch in resume.read_rows(path))
        files, count = _dealt(folder, schema, ranks, itertools.chain(rows, _failed(errors)))
        yield Items(schema, len(ranks), count, files)


def least_sure(tables: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The rows that come first in the order of `Items`."""
    first = outputs.COLUMNS.empty_table()
    for uri in tables:
        for batch in resume.read_rows(uri):
            both = pa.concat_tables([first, pa.Table.from_batches([batch])], promote_options="default")
            first = both.take(_order(both)[:count])
    rows: list[dict[str, Any]] = first.to_pylist()
    return rows


def _order(rows: pa.Table) -> pa.Array:
    """Least sure first; those of no known confidence last."""
    keys = pa.table({"sure": pc.fill_null(rows.column("confidence"), math.inf), "id": rows.column("id")})
    return pc.sort_indices(keys, sort_keys=[("sure", "ascending"), ("id", "ascending")])


def _ranked(paths: Sequence[str]) -> tuple[np.ndarray, pa.Schema]:
    """The place of every row in the report's order, and the columns of all."""
    keys, schema = [outputs.COLUMNS.empty_table().select(["id", "confidence"])], outputs.COLUMNS
    for path in paths:
        for batch in resume.read_rows(path, ("id", "confidence")):
            keys.append(pa.Table.from_batches([batch.select(["id", "confidence"])]))
            for name in _renamed(batch).schema.names:
                if name not in schema.names:
                    schema = schema.append(pa.field(name, pa.string()))
    order = _order(pa.concat_tables(keys)).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks, pa.unify_schemas([schema, FAILED])


def _renamed(batch: pa.RecordBatch) -> pa.RecordBatch:
    ours = FAILED.names[2:]
    return batch.rename_columns([f"extra_{name}" if name in ours else name for name in batch.schema.names])


def _failed(errors: Iterable[Mapping[str, Any]]) -> Iterator[pa.RecordBatch]:
    left = iter(errors)
    while some := list(itertools.islice(left, _ERRORS)):
        rows = [
            {**error, "id": error["id"] or error["uri"], "error": f"{error['stage']}/{error['error']}"}
            for error in some
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=FAILED)


def _dealt(folder: str, schema: pa.Schema, ranks: np.ndarray, rows: Iterable[pa.RecordBatch]) -> tuple[list[str], int]:
    """Deals rows to the part that each belongs to, then sorts each part. What comes after the ranks keeps its order."""
    ranked = schema.append(pa.field("rank", pa.int64()))  # no name of a column: appended, and taken off by its place
    started: dict[str, Any] = {}
    count = 0
    with contextlib.ExitStack() as open_:
        for batch in rows:
            own = np.arange(count, count + len(batch))
            own[: max(0, len(ranks) - count)] = ranks[count : count + len(batch)]
            count += len(batch)
            columns = [
                batch.column(field.name) if field.name in batch.schema.names else pa.nulls(len(batch), field.type)
                for field in schema
            ]
            full = pa.RecordBatch.from_arrays([*columns, pa.array(own)], schema=ranked)
            for part in np.unique(own // PART):
                path = os.path.join(folder, f"{part:06d}.arrow")
                if path not in started:
                    started[path] = open_.enter_context(pa.ipc.new_file(path, ranked))
                started[path].write_batch(full.filter(pa.array(own // PART == part)))
    for path in started:
        table = _read(path)
        last = table.num_columns - 1
        table = table.take(pc.sort_indices(table.column(last))).remove_column(last).combine_chunks()
        with pa.ipc.new_file(path, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as out:
            out.write_table(table)
    return sorted(started), count


def _read(path: str, fields: list[int] | None = None) -> pa.Table:
    with pa.OSFile(path) as source:  # mapped, pages would count as the process's memory
        return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields)).read_all()
