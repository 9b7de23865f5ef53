"""`unfade prepare`: image/caption pairs -> TFRecord shards, a TFT transform graph, errors, a summary.

    pairs -> read -> examine -> TFT analysis of captions and statistics -> shards -> _SUCCESS

Pictures are read twice, once to examine and once to write: their bytes never cross a shuffle.
"""

from __future__ import annotations

import argparse
import atexit
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipelines import console, dataflow, options
from transforms import journal, launcher, pairs, records, run_lock, sinks, storage
from transforms.guard import Guarded, in_worker, to_error
from transforms.items import ItemFailure, UsageError
from transforms.progress import DONE, FAILED, FOUND, Tick
from transforms.storage_access import check_access

_RECORDS_A_SHARD = 256
_TEMPORARY = "temporary"
_LEAST_SHARDS = 8  # so that a small collection, too, can be read in parallel


class PrepareOptions(PipelineOptions):
    """Flags of `unfade prepare`."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--num_shards", type=int, default=0, metavar="N", help="TFRecord shards (default: by size)")


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
    storage.delete([uri for uri in storage.listing(output, "records-*.tfrecord") if uri not in kept])
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


def _temporary(given: PipelineOptions, output: str) -> str:
    """A folder for TFT: of this machine for a local run, else one that every worker reaches."""
    if not options.is_local(given):
        return str(given.view_as(GoogleCloudOptions).temp_location or storage.join(output, _TEMPORARY))
    folder = tempfile.mkdtemp(prefix=launcher.TRANSFORM_PREFIX, suffix=launcher.suffix())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _tidy(output: str) -> None:
    """Removes what TFT has left in the output folder, see `_temporary`."""
    folder = storage.join(output, _TEMPORARY)
    if storage.is_remote(folder):
        storage.delete(storage.listing(folder, "**"))
    else:
        shutil.rmtree(folder, ignore_errors=True)


def build(pipeline: beam.Pipeline, given: PipelineOptions, progress: str | None) -> None:
    """Wires the job.

    Args:
      pipeline: To add to.
      given: Parsed options.
      progress: Progress file of a local run, or None.
    """
    # Imported here: TensorFlow takes seconds to load, and bad usage is to be told before.
    options.load_tensorflow()
    from transforms import features
    from transforms.loading import Examine, ReadSource

    job, num_shards = given.view_as(options.JobOptions), given.view_as(PrepareOptions).num_shards
    run = {"began": time.time(), "options": options.plain(given, PrepareOptions)}
    found, bad_rows = pipeline | "ReadPairs" >> pairs.ReadPairs(job.input, deal=False)
    found = found | "Found" >> Tick(progress, FOUND) | "Deal" >> beam.Reshuffle()
    sources, unread = found | "ReadSource" >> Guarded(ReadSource(job.max_pixels), job.max_item_seconds)
    examine = Examine(job.max_pixels, job.allow_truncated)
    items, unsound = sources | "Examine" >> Guarded(examine, job.max_item_seconds)
    items = items | "Examined" >> Tick(progress, DONE)
    features.write_schemas(job.output)
    rows, graph = items | "ExtractFeatures" >> features.ExtractFeatures(job.output, _temporary(given, job.output))
    shards = items | "CountSound" >> beam.combiners.Count.Globally() | "Shards" >> beam.Map(_shards, num_shards)
    written = (
        rows
        | "DealToShards"
        >> beam.Map(lambda row, n: (records.shard_of(row[0].pair.id, n), row), pvalue.AsSingleton(shards))
        | "Group" >> beam.GroupByKey()
        | "WriteShard"
        >> beam.ParDo(_WriteShard(job.output), pvalue.AsSingleton(shards)).with_outputs("errors", main="shards")
    )
    errors = (
        bad_rows,
        (unread, unsound) | "Unsound" >> beam.Flatten() | "UnsoundTick" >> Tick(progress, FAILED),
        written.errors,
    ) | "Errors" >> beam.Flatten()
    error_files = errors | "WriteErrors" >> sinks.WriteErrors(job.output)
    count_found = (found, bad_rows) | "Input" >> beam.Flatten() | "CountInput" >> beam.combiners.Count.Globally()
    count_failed = errors | "CountFailed" >> beam.combiners.Count.Globally()
    classes = errors | "Classes" >> sinks.CountErrors()
    _ = (
        pipeline
        | "Once" >> beam.Create([None])
        | "Finish"
        >> beam.Map(
            _finish,
            job.output,
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
    job, num_shards = given.view_as(options.JobOptions), given.view_as(PrepareOptions).num_shards
    if num_shards < 0:
        raise UsageError(f"--num_shards {num_shards} is negative")
    dataflow.complete(given, "prepare")
    check_access(job.output, write=True)
    pairs.check_input(job.input)
    success = storage.join(job.output, records.SUCCESS)
    if dataflow.is_dataflow(given):
        if not dataflow.is_dry_run(given):
            storage.delete([success])
        dataflow.submit(given, lambda pipeline: build(pipeline, given, None))
        return options.DONE
    with run_lock.hold(job.output):
        storage.delete([success])
        told = console.run(given, "preparing", build)
        _tidy(job.output)
        journal.clear_temporary(job.output)
        return console.conclude(storage.join(job.output, "summary.json"), job.max_error_fraction, told)


if __name__ == "__main__":
    options.main(main)
