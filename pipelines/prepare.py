"""`unfade prepare`: image/caption pairs -> TFRecord shards, a TFT transform graph, errors, a summary.

    pairs -> examine -> TFT analysis of captions and statistics -> shards -> _SUCCESS

Pictures are read twice, once to examine and once to write: their bytes never cross a shuffle.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow_transform.beam as tft_beam
from apache_beam import pvalue
from apache_beam.options.pipeline_options import PipelineOptions
from google.protobuf import text_format
from tfx_bsl.tfxio import tensor_adapter, tf_example_record

from models.contract import CAPTION_IDS, CAPTION_TEXT, CAPTION_WEIGHTS, IMAGE_STATISTICS
from pipelines import console, options
from transforms import features, pairs, records, sinks, storage
from transforms.guard import Guarded, in_worker, to_error
from transforms.items import ItemFailure, UsageError
from transforms.loading import Examine
from transforms.progress import DONE, FAILED, FOUND, Tick
from transforms.storage_access import check_access

_ITEM = "item"  # passthrough column: the pickled Item, hidden from the TFT graph
_BATCH = 256  # captions in one record batch
_RECORDS_A_SHARD = 256
_LEAST_SHARDS = 8  # so that a small collection, too, can be read in parallel


class PrepareOptions(PipelineOptions):
    """Flags of `unfade prepare`."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        options.add_input_and_output(
            parser,
            "manifest (.csv, .tsv, .jsonl, .parquet), folder or glob of pictures, local or gs://",
            "folder for the records",
        )
        parser.add_argument("--num_shards", type=int, default=0, metavar="N", help="TFRecord shards (default: by size)")


class ExtractFeatures(beam.PTransform):
    """The TFT step: analyses the captions of the whole collection, then applies what it found.

    Args:
      output: Folder that `transform_fn/` and `transformed_metadata/` are written below.
    """

    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def expand(self, items: pvalue.PCollection) -> tuple[pvalue.PCollection, pvalue.PCollection]:
        """PCollection[Item] -> PCollection[(Item, word ids, word weights)], and one to wait for the write."""
        temporary = tempfile.mkdtemp(prefix="unfade-tft-")
        batches = (
            items
            | "Batch" >> beam.BatchElements(min_batch_size=_BATCH, max_batch_size=_BATCH)
            | "ToArrow" >> beam.Map(_to_record_batch)
        )
        layout = tf_example_record.TFExampleBeamRecord(
            physical_format="inmem", schema=features.raw_metadata().schema
        ).TensorRepresentations()
        config = tensor_adapter.TensorAdapterConfig(_RECORD_BATCH, layout)
        with tft_beam.Context(temp_dir=temporary, passthrough_keys={_ITEM}, desired_batch_size=_BATCH):
            transform_fn = (batches, config) | "Analyze" >> tft_beam.AnalyzeDataset(features.preprocessing_fn)
            transformed, _ = ((batches, config), transform_fn) | "Transform" >> tft_beam.TransformDataset(
                output_record_batches=True
            )
        local = os.path.join(temporary, "written")
        graph = (
            transform_fn
            | "WriteTransformFn" >> tft_beam.WriteTransformFn(local)
            | "CopyTransformFn"
            >> beam.Map(lambda _, source, to: in_worker(storage.copy_tree)(source, to), local, self._output)
        )
        return transformed | "FromArrow" >> beam.FlatMap(_from_record_batch), graph


_RECORD_BATCH = pa.schema(
    [
        (CAPTION_TEXT, pa.large_list(pa.large_binary())),
        (IMAGE_STATISTICS, pa.large_list(pa.float32())),
        (_ITEM, pa.large_list(pa.large_binary())),
    ]
)


def _to_record_batch(items: list[records.Item]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            CAPTION_TEXT: [[item.caption.encode("utf-8", "replace")] for item in items],
            IMAGE_STATISTICS: [item.statistics.tolist() for item in items],
            _ITEM: [[pickle.dumps(item)] for item in items],  # our own bytes, within one run: safe to unpickle
        },
        schema=_RECORD_BATCH,
    )


def _from_record_batch(batch: Any) -> Iterator[tuple[records.Item, list[int], list[float]]]:
    table = (batch[0] if isinstance(batch, tuple) else batch).to_pydict()
    for item, ids, weights in zip(table[_ITEM], table[CAPTION_IDS], table[CAPTION_WEIGHTS], strict=True):
        yield pickle.loads(item[0]), list(ids), list(weights)


class _WriteShard(beam.DoFn):
    """Reads the pictures of one shard again and writes them with their features; what changed meanwhile is an error."""

    def __init__(self, output: str) -> None:
        self._output = output

    def process(self, shard: tuple[int, Iterable[Any]], shards: int) -> Iterator[Any]:
        index, rows = shard
        name = records.shard_name(index, shards)
        errors: list[Any] = []
        written = 0

        def examples() -> Iterator[bytes]:
            nonlocal written
            for item, ids, weights in sorted(rows, key=lambda row: row[0].pair.id):
                try:
                    encoded = storage.read_bytes(item.pair.uri)
                    if records.sha256(encoded) != item.sha256:
                        raise ItemFailure(
                            "Changed", "the file changed while it was being prepared; prepare again", retryable=True
                        )
                    target = storage.read_bytes(item.pair.target) if item.pair.target else None
                except ItemFailure as failure:
                    errors.append(to_error("write", item.pair.id, item.pair.uri, failure))
                    continue
                written += 1
                yield records.to_example(item, encoded, ids, weights, target)

        in_worker(records.write_shard)(storage.join(self._output, name), examples())
        for error in errors:
            yield pvalue.TaggedOutput("errors", error)
        yield name, written


def _finish(
    _: None,
    output: str,
    shards: list[tuple[str, int]],
    found: int,
    failed: int,
    classes: list[tuple[str, Any]],
    run: dict[str, Any],
    *_written: Any,
) -> None:
    """Last of all: old shards go, the summary and then `_SUCCESS` are written."""
    names = [name for name, _ in shards]
    kept = {storage.join(output, name) for name in names}
    storage.delete([uri for uri in storage.listing(storage.join(output, "records-*.tfrecord")) if uri not in kept])
    written = sum(count for _, count in shards)
    summary = {
        "command": "prepare",
        "counts": {"input": found, "prepared": written, "skipped": 0, "failed": failed},
        "errors": dict(sorted(classes)),
        "seconds": round(time.time() - run["began"], 1),
        "options": run["options"],
        "versions": sinks.versions(),
    }
    in_worker(sinks.write_json)(storage.join(output, "summary.json"), summary)
    in_worker(records.write_success)(output, names, written)


def _shards(count: int, given: int) -> int:
    return given or max(1, min(count, max(_LEAST_SHARDS, -(-count // _RECORDS_A_SHARD))))


def build(pipeline: beam.Pipeline, given: PipelineOptions, progress: str | None) -> None:
    """Wires the job.

    Args:
      pipeline: To add to.
      given: Parsed options.
      progress: Progress file of a local run, or None.
    """
    own = given.view_as(PrepareOptions)
    run = {"began": time.time(), "options": options.plain(given, PrepareOptions)}
    found, bad_rows = pipeline | "ReadPairs" >> pairs.ReadPairs(own.input)
    found = found | "Found" >> Tick(progress, FOUND)
    items, unsound = found | "Examine" >> Guarded(Examine(own.max_pixels))
    items = items | "Examined" >> Tick(progress, DONE)
    rows, graph = items | "ExtractFeatures" >> ExtractFeatures(own.output)
    shards = items | "CountSound" >> beam.combiners.Count.Globally() | "Shards" >> beam.Map(_shards, own.num_shards)
    written = (
        rows
        | "Deal" >> beam.Map(lambda row, n: (records.shard_of(row[0].pair.id, n), row), pvalue.AsSingleton(shards))
        | "Group" >> beam.GroupByKey()
        | "WriteShard"
        >> beam.ParDo(_WriteShard(own.output), pvalue.AsSingleton(shards)).with_outputs("errors", main="shards")
    )
    errors = (
        bad_rows,
        unsound | "Unsound" >> Tick(progress, FAILED),
        written.errors,
    ) | "Errors" >> beam.Flatten()
    error_files = errors | "WriteErrors" >> sinks.WriteErrors(own.output)
    count_found = (found, bad_rows) | "Input" >> beam.Flatten() | "CountInput" >> beam.combiners.Count.Globally()
    count_failed = errors | "CountFailed" >> beam.combiners.Count.Globally()
    classes = errors | "Classes" >> sinks.CountErrors()
    _ = (
        pipeline
        | "Once" >> beam.Create([None])
        | "Finish"
        >> beam.Map(
            _finish,
            own.output,
            pvalue.AsList(written.shards),
            pvalue.AsSingleton(count_found),
            pvalue.AsSingleton(count_failed),
            pvalue.AsList(classes),
            run,
            pvalue.AsList(error_files),
            pvalue.AsList(graph),
        )
    )


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    given = options.parse(
        "prepare", "Turns image/caption pairs into TFRecords with a transform graph.", PrepareOptions, argv
    )
    own = given.view_as(PrepareOptions)
    if own.num_shards < 0:
        raise UsageError(f"--num_shards {own.num_shards} is negative")
    check_access(own.output)
    pairs.check_input(own.input)
    storage.delete([storage.join(own.output, records.SUCCESS)])
    schema = text_format.MessageToString(features.schema())
    storage.write_bytes(storage.join(own.output, "schema.pbtxt"), schema.encode())
    raw = text_format.MessageToString(features.raw_metadata().schema)
    storage.write_bytes(storage.join(own.output, "metadata", "schema.pbtxt"), raw.encode())
    console.run(given, "preparing", build)
    return console.conclude(storage.join(own.output, "summary.json"), own.max_error_fraction)


if __name__ == "__main__":
    options.main(main)
