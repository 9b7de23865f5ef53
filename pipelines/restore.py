"""`unfade restore`: pairs, or prepared records -> restored pictures, metrics, errors, a summary, a report.

    pairs or records -> source -> thumbnail -> RunInference (decide) -> apply -> write -> metrics -> summary

From source to row everything is fused: pixels never cross a shuffle, and a failing item never takes another with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import console, options, report
from transforms import codecs, decisions, outputs, pairs, records, sinks, storage
from transforms.decisions import Decision
from transforms.guard import Guarded, Outcome, Step, in_worker
from transforms.items import UsageError
from transforms.progress import DONE, FAILED, FOUND, Tick
from transforms.storage_access import check_access


class RestoreOptions(PipelineOptions):
    """Flags of `unfade restore` alone."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--output_format",
            type=str.upper,
            choices=codecs.OUTPUT_FORMATS,
            default=None,
            help="write every picture so (default: as the input, or PNG where that cannot hold it)",
        )
        parser.add_argument(
            "--no_history",
            action="store_true",
            default=False,
            help="leave XMP as it is: do not add the restoration to the file's history",
        )
        parser.add_argument(
            "--describe",
            action="store_true",
            default=False,
            help="say in XMP dc:description, too, that colours were restored",
        )
        parser.add_argument(
            "--digital_source_type",
            action="store_true",
            default=False,
            help="set IPTC DigitalSourceType in XMP: algorithmically enhanced, or composite with trained media",
        )
        parser.add_argument(
            "--decisions",
            default=None,
            metavar="FILE",
            help="what was decided in review (decisions.jsonl): rejected pictures stay as they came, corrected captions"
            " are used",
        )
        parser.add_argument(
            "--no_previews",
            action="store_true",
            default=False,
            help="write no small pictures for the report (up to four small files a picture)",
        )


def _file_options(own: RestoreOptions) -> outputs.FileOptions:
    return outputs.FileOptions(
        output_format=own.output_format,
        history=not own.no_history,
        describe=own.describe,
        source_type=own.digital_source_type,
        previews=not own.no_previews,
    )


class ReadRecords(beam.PTransform):
    """Prepared records as sources.

    Args:
      folder: What `unfade prepare` wrote.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._shards = records.shards_in(folder)

    def expand(self, begin: pvalue.PBegin) -> Outcome:
        """PBegin -> (PCollection[Source], PCollection[ItemError])."""
        shards = begin | "Shards" >> beam.Create(self._shards) | "Deal" >> beam.Reshuffle()
        examples = shards | "Read" >> beam.FlatMap(records.read_shard)
        return examples | "Parse" >> Guarded(_Parse())


class _Parse(Step[bytes, records.Source]):
    stage = "read"

    def run(self, item: bytes) -> records.Source:
        return records.from_example(item)

    def name(self, item: bytes) -> tuple[str, str]:
        return "", f"record of {len(item)} bytes"


def _finish(
    _: None,
    output: str,
    found: int,
    restored: int,
    failed: int,
    classes: list[tuple[str, Any]],
    means: dict[str, tuple[float, int]],
    timeline: list[list[int]],
    decided: list[tuple[str, int]],
    run: dict[str, Any],
    *_written: Any,
) -> None:
    """Last of all: the summary."""
    seconds = time.time() - run["began"]
    pixels, _count = means.get("pixels", (0.0, 0))

    def part(prefix: str, names: Sequence[str]) -> dict[str, float]:
        return {name: means[prefix + name][0] for name in names if prefix + name in means}

    summary = {
        "command": "restore",
        "counts": {"input": found, "restored": restored, "skipped": 0, "failed": failed},
        "quality": {
            "before": {**part("before_", outputs.QUALITY), **part("input_", outputs.FIDELITY)},
            "after": {**part("after_", outputs.QUALITY), **part("", outputs.FIDELITY)},
        },
        "with_target": means.get("ciede2000", (0.0, 0))[1],
        "confidence": means["confidence"][0] if "confidence" in means else None,
        "decisions": dict(sorted(decided)),
        "errors": dict(sorted(classes)),
        "seconds": round(seconds, 1),
        "pictures_per_second": round(restored / seconds, 3),
        "megapixels_per_second": round(pixels * restored / seconds / 1e6, 3),
        "timeline": {"began": int(run["began"]), "seconds": outputs.Timeline.SECONDS, "restored": timeline},
        "options": run["options"],
        "versions": sinks.versions(),
        "model_sha256": run["model_sha256"],
    }
    in_worker(sinks.write_json)(storage.join(output, "summary.json"), summary)


def build(
    pipeline: beam.Pipeline,
    given: PipelineOptions,
    progress: str | None,
    model_sha256: str,
    decided_before: Mapping[str, Decision],
) -> None:
    """Wires the job.

    Args:
      pipeline: To add to.
      given: Parsed options.
      progress: Progress file of a local run, or None.
      model_sha256: The model's digest.
      decided_before: What was decided in review, by id.
    """
    # Imported here: TensorFlow takes seconds to load, and bad usage is to be told before.
    from transforms.inference import Apply, DecideHandler, Thumbnail
    from transforms.loading import ReadSource

    job, own = given.view_as(options.JobOptions), given.view_as(RestoreOptions)
    chosen = given.view_as(options.ModelOptions)
    run = {
        "began": time.time(),
        "options": options.plain(given, options.ModelOptions, RestoreOptions),
        "model_sha256": model_sha256,
    }
    if records.is_prepared(job.input):
        sources, unread = pipeline | "ReadRecords" >> ReadRecords(job.input)
        sources = sources | "Found" >> Tick(progress, FOUND)
        found, bad_rows = sources, unread
    else:
        found, bad_rows = pipeline | "ReadPairs" >> pairs.ReadPairs(job.input)
        found = found | "Found" >> Tick(progress, FOUND)
        sources, unread = found | "ReadSource" >> Guarded(ReadSource(job.max_pixels), job.max_item_seconds)

    if decided_before:
        sources = sources | "Decisions" >> beam.Map(outputs.recaptioned, decided_before)
    thumbnail = Thumbnail(job.max_pixels, job.allow_truncated)
    undecided, undecoded = sources | "Thumbnail" >> Guarded(thumbnail, job.max_item_seconds)
    decide = DecideHandler(
        chosen.model,
        chosen.size_multiple,
        chosen.max_batch_size,
        chosen.colourise,
        not chosen.keep_grain,
        model_sha256,
        chosen.trust_model,
    )
    decided = undecided | "Decide" >> RunInference(decide)
    apply = Apply(
        chosen.model, chosen.size_multiple, job.max_pixels, job.allow_truncated, model_sha256, chosen.trust_model
    )
    restored, unapplied = decided | "Apply" >> Guarded(apply, job.max_item_seconds)
    write = outputs.WriteRestored(job.output, model_sha256, job.max_pixels, _file_options(own), decided_before)
    rows, unwritten = restored | "Write" >> Guarded(write, job.max_item_seconds)
    rows = rows | "Restored" >> Tick(progress, DONE)

    failed = (
        (unread, undecoded, unapplied, unwritten) | "Failed" >> beam.Flatten() | "FailedTick" >> Tick(progress, FAILED)
    )
    errors = failed if bad_rows is unread else (failed, bad_rows) | "Errors" >> beam.Flatten()
    error_files = errors | "WriteErrors" >> sinks.WriteErrors(job.output)
    carried = rows | "CarriedColumns" >> beam.CombineGlobally(outputs.Union())
    metric_files = rows | "WriteMetrics" >> sinks.WriteTable(
        storage.join(job.output, "metrics"),
        "metrics",
        ".parquet",
        outputs.rows_to_parquet,
        _row_id,
        pvalue.AsSingleton(carried),
    )
    count_input = (found, bad_rows) | "Input" >> beam.Flatten() | "CountInput" >> beam.combiners.Count.Globally()
    _ = (
        pipeline
        | "Once" >> beam.Create([None])
        | "Finish"
        >> beam.Map(
            _finish,
            job.output,
            pvalue.AsSingleton(count_input),
            pvalue.AsSingleton(rows | "CountRestored" >> beam.combiners.Count.Globally()),
            pvalue.AsSingleton(errors | "CountFailed" >> beam.combiners.Count.Globally()),
            pvalue.AsList(errors | "Classes" >> sinks.CountErrors()),
            pvalue.AsSingleton(rows | "Means" >> beam.CombineGlobally(outputs.Means())),
            pvalue.AsSingleton(rows | "Timeline" >> beam.CombineGlobally(outputs.Timeline())),
            pvalue.AsList(
                rows
                | "Decided" >> beam.Map(_decision)
                | "WithDecision" >> beam.Filter(bool)
                | "CountDecided" >> beam.combiners.Count.PerElement()
            ),
            run,
            pvalue.AsList(error_files),
            pvalue.AsList(metric_files),
        )
    )


def _decision(row: outputs.Row) -> str | None:
    return row["decision"]


def _row_id(row: outputs.Row) -> str:
    return str(row["id"])


def _check_all_read(summary: dict[str, Any], records_prepared: int) -> None:
    found = summary["counts"]["input"]
    if found != records_prepared:
        raise RuntimeError(f"{found} records were read, but {records_prepared} prepared; run `unfade prepare` again")


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    given = options.parse("restore", "Restores the colours of photographs.", RestoreOptions, argv, options.ModelOptions)
    job, chosen = given.view_as(options.JobOptions), given.view_as(options.ModelOptions)
    if chosen.size_multiple < 1 or chosen.max_batch_size < 1:
        raise UsageError("--size_multiple and --max_batch_size must be 1 or more")
    check_access(job.input)
    check_access(job.output, write=True)
    prepared = records.is_prepared(job.input)
    if not prepared:
        pairs.check_input(job.input)
    summary = storage.join(job.output, "summary.json")
    if storage.exists(summary) and not chosen.overwrite:
        raise UsageError(f"{job.output} already holds finished results; name another --output, or add --overwrite")
    file = given.view_as(RestoreOptions).decisions
    decided = decisions.read(file) if file else {}
    check_access(chosen.model)
    from transforms.inference import check_model, open_model

    model_sha256 = check_model(chosen.model, chosen.size_multiple, chosen.model_sha256, chosen.trust_model)
    if not open_model(chosen.model, chosen.size_multiple, model_sha256, chosen.trust_model).reads_captions:
        print(f"unfade: warning: {chosen.model} takes no caption: captions are ignored", file=sys.stderr)
    storage.delete([summary])
    repeated = console.run(given, "restoring", lambda p, o, progress: build(p, o, progress, model_sha256, decided))
    if prepared:
        _check_all_read(sinks.read_json(summary), records.read_success(job.input)["records"])
    obeyed = sum(sinks.read_json(summary)["decisions"].values())
    if obeyed < len(decided):
        missed = f"{len(decided) - obeyed} of {len(decided)} decisions"
        print(f"unfade: warning: {missed} in {file} are about no picture that was restored", file=sys.stderr)
    page = report.write(job.output)
    status = console.conclude(summary, job.max_error_fraction, repeated)
    print(f"report: {page}")
    return status


if __name__ == "__main__":
    options.main(main)
