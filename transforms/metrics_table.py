"""The table of metrics: one row an item, from what this run made and what earlier runs left.

Rows never cross a shuffle. Workers leave them in the journal; each shard of the table is then put together by a worker
that reads what is there and takes what belongs to its shard. So memory is bounded by the size of a shard.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam import pvalue

from transforms import outputs, sinks, storage
from transforms.guard import in_worker
from transforms.identity import key_of
from transforms.items import ItemFailure
from transforms.journal import Part
from transforms.resume import FACTS, Earlier, Pictures, Table, Verdicts, joined, number_of, read_rows

ROWS_A_SHARD = 50_000


@dataclasses.dataclass(frozen=True)
class Shard:
    """What one shard of the table holds.

    Attributes:
      rows: How many rows.
      others: How many of them are of items that are not in this run's input.
      sums: Of its columns.
      decisions: How many rows have which decision of a review.
    """

    rows: int
    others: int
    sums: outputs.Sums
    decisions: collections.Counter[str]


class WriteMetrics(beam.PTransform):
    """Writes `metrics/metrics-*.parquet`: names and bytes depend on the rows alone.

    Args:
      earlier: What earlier runs left.
      parts: PCollection[Part]: the rows of this run.
      verdicts: PCollection[Verdicts]: which of the earlier rows stay.
      renewed: PCollection[Part]: rows of items that are done, with what the catalogue says of them by now.
    """

    def __init__(
        self, earlier: Earlier, parts: pvalue.PCollection, verdicts: pvalue.PCollection, renewed: pvalue.PCollection
    ) -> None:
        super().__init__()
        self._earlier = earlier
        self._parts, self._verdicts, self._renewed = parts, verdicts, renewed

    def expand(self, begin: pvalue.PBegin) -> pvalue.PCollection:
        """PBegin -> PCollection[Shard]; all files are in place when it is complete."""
        parts, verdicts, renewed = map(pvalue.AsList, (self._parts, self._verdicts, self._renewed))
        written = (
            begin
            | "Once" >> beam.Create([None])
            | "Shards" >> beam.FlatMap(_shards, parts, verdicts)
            | "Deal" >> beam.Reshuffle()
            | "Write" >> beam.Map(_write_shard, self._earlier, parts, verdicts, renewed)
        )
        folder = storage.join(self._earlier.output, "metrics")
        names = written | "Names" >> beam.Map(lambda shard: shard[0])
        tidied = (
            begin
            | "Last" >> beam.Create([None])
            | "Tidy" >> beam.Map(sinks.tidy, folder, "metrics", ".parquet", pvalue.AsList(names))
        )
        return written | "Counts" >> beam.Map(lambda shard, _: shard[1], pvalue.AsList(tidied))


def _shards(_: None, parts: list[Part], verdicts: list[Verdicts]) -> Iterator[tuple[int, int]]:
    rows = sum(part.items for part in parts) + sum(int(np.count_nonzero(verdict.kept)) for verdict in verdicts)
    shards = max(1, math.ceil(rows / ROWS_A_SHARD))
    yield from ((index, shards) for index in range(shards))


def _write_shard(
    place: tuple[int, int], earlier: Earlier, parts: list[Part], verdicts: list[Verdicts], renewed: list[Part]
) -> tuple[str, Shard]:
    index, shards = place
    collected = _Collected(index, shards)
    input_ = joined(verdicts)
    others, replaced = _collect_earlier(collected, earlier, input_)
    for uri in sorted(part.uri for part in parts):
        for batch in read_rows(uri):
            collected.add(batch, np.ones(len(batch), bool), collected.keys(batch))
    table = collected.table([part.uri for part in renewed])
    name = f"metrics-{index:05d}-of-{shards:05d}.parquet"
    in_worker(storage.write_bytes)(
        storage.join(earlier.output, "metrics", name), sinks.table_bytes(table), lasting=True
    )
    decisions = collections.Counter(filter(None, table["decision"].to_pylist()))
    _remove_replaced(earlier.output, replaced, table, input_)
    return name, Shard(len(table), len(others), outputs.sums(table), decisions)


class _Collected:
    """Rows of one shard, and the carried columns that any shard has."""

    def __init__(self, index: int, shards: int) -> None:
        self._index, self._shards = np.uint64(index), np.uint64(shards)
        self._batches: list[pa.Table] = []
        self._carried: set[str] = set()

    def keys(self, batch: pa.RecordBatch) -> np.ndarray:
        return np.fromiter(map(key_of, batch.column("id").to_pylist()), np.uint64, len(batch))

    def mine(self, keys: np.ndarray) -> np.ndarray:
        return keys % self._shards == self._index

    def add(self, batch: pa.RecordBatch, wanted: np.ndarray, keys: np.ndarray) -> None:
        every = batch.filter(pa.array(wanted))
        for name in every.schema.names:
            if name not in outputs.COLUMNS.names and every.column(name).null_count < len(every):
                self._carried.add(name)
        self._batches.append(pa.Table.from_batches([batch.filter(pa.array(wanted & self.mine(keys)))]))

    def table(self, renewed: list[str]) -> pa.Table:
        """One row an id, the one added last; sorted by id."""
        table = _last_by_id(
            pa.concat_tables([outputs.COLUMNS.empty_table(), *self._batches], promote_options="default")
        )
        news = [outputs.COLUMNS.empty_table()]
        for uri in sorted(renewed):
            for batch in read_rows(uri):
                news.append(pa.Table.from_batches([batch.filter(pa.array(self.mine(self.keys(batch))))]))
                self._carried.update(set(batch.schema.names) - set(outputs.COLUMNS.names))
        if len(news) > 1:
            table = _renew(table, _last_by_id(pa.concat_tables(news, promote_options="default")))
        columns = {name: table[name] for name in outputs.COLUMNS.names}
        for name in sorted(self._carried):
            columns[name] = table[name] if name in table.column_names else pa.nulls(len(table), pa.string())
        return pa.table(columns)


def _last_by_id(table: pa.Table) -> pa.Table:
    last = {id: row for row, id in enumerate(table["id"].to_pylist())}
    return table.take([last[id] for id in sorted(last)]) if last else table


def _renew(table: pa.Table, news: pa.Table) -> pa.Table:
    """Rows with URI and carried columns of those of the same id in `news`."""
    at = pc.index_in(table["id"], value_set=news["id"].combine_chunks())
    for name in (*FACTS, *(name for name in news.column_names if name not in outputs.COLUMNS.names)):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    for name in (*FACTS, *(name for name in table.column_names if name not in outputs.COLUMNS.names)):
        new = news[name].take(at) if name in news.column_names else pa.nulls(len(table), pa.string())
        column = pc.if_else(at.is_valid(), new, table[name])
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _collect_earlier(collected: _Collected, earlier: Earlier, input_: Table) -> tuple[set[str], dict[str, str]]:
    """Adds the earlier rows that stay.

    Returns:
      The shard's ids that are not in this run's input, and the pictures of the items that were to be done, by id.
    """
    pictures: Pictures | None = None
    others: set[str] = set()
    replaced: dict[str, str] = {}
    for uri, written in earlier.tables:
        for batch in read_rows(uri):
            keys, ids = collected.keys(batch), batch.column("id").to_pylist()
            made = np.fromiter(map(number_of, batch.column("fingerprint").to_pylist()), np.uint64, len(batch))
            kept, known = input_.find(keys)
            wanted = known & (kept == made) & (kept != 0)
            mine = collected.mine(keys)
            names, sizes = batch.column("output").to_pylist(), batch.column("bytes_out").to_pylist()
            for row in np.flatnonzero(~known):
                pictures = pictures or Pictures(earlier.output, earlier.interrupted)
                wanted[row] = pictures.sound(names[row], sizes[row], written)
                if wanted[row] and mine[row]:
                    others.add(ids[row])
            for row in np.flatnonzero(mine & known & (kept == 0)):
                replaced[ids[row]] = names[row]
            collected.add(batch, wanted, keys)
    return others, replaced


def _remove_replaced(output: str, replaced: dict[str, str], table: pa.Table, input_: Table) -> None:
    """Removes the pictures of items that now have one of another name (`--output_format`)."""
    gone = {}
    for id, name in zip(table["id"].to_pylist(), table["output"].to_pylist(), strict=True):
        if id in replaced and replaced[id] != name:
            gone[id] = replaced[id]
    for id, name in gone.items():
        stem = name.removeprefix("images/")
        writers = {stem, stem.rpartition(".")[0]} - {id}  # items whose picture may have this name by now
        place, images = storage.join(output, name), storage.join(output, "images")
        if all(input_.get(key_of(writer)) is None for writer in writers):
            with contextlib.suppress(ItemFailure):  # the table is not to be trusted: it leads elsewhere
                storage.check_place(place, images)
                storage.delete([place])
