"""`unfade restore`: pairs, or prepared records -> restored pictures, metrics, errors, a summary, a report.

    pairs or records -> what is not done -> source -> thumbnail -> RunInference (decide) -> apply -> write -> journal
                     -> metrics -> summary

From source to row everything is fused: pixels never cross a shuffle, and a failing item never takes another with it.
What is done stands in the journal within seconds, so that a run that was killed is taken up where it stopped.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import console, options, report
from transforms import (
    codecs,
    decisions,
    identity,
    journal,
    metrics_table,
    outputs,
    pairs,
    records,
    resume,
    run_lock,
    sinks,
    storage,
)
from transforms.decisions import Decision
from transforms.guard import Guarded, Outcome, Step, in_worker
from transforms.items import UsageError
from transforms.journal import Part, WriteJournal
from transforms.progress import DONE, FAILED, FOUND, SEEN, Tick
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
        parser.add_argument(
            "--retry_errors",
            action="store_true",
            default=False,
            help="take only what failed in an earlier run into this output; leave all else as it is",
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


_SETTINGS = (
    *("size_multiple", "colourise", "keep_grain"),
    *("output_format", "no_history", "describe", "digital_source_type"),
)
"""Options that a restored file depends on: with others, what is done is done. Those that only let more items through
(`--max_pixels`, `--allow_truncated`) are not among them: they are set to get what failed, not to do all again."""


def _finish(
    _: None,
    output: str,
    bad_rows: int,
    verdicts: list[resume.Verdicts],
    parts: list[Part],
    failed: int,
    classes: list[tuple[str, Any]],
    shards: list[metrics_table.Shard],
    means: outputs.Sums,
    timeline: list[list[int]],
    run: dict[str, Any],
    *_written: Any,
) -> None:
    """Last of all: the summary."""
    seconds = time.time() - run["began"]
    done, left = sum(verdict.done for verdict in verdicts), sum(verdict.left for verdict in verdicts)
    restored, megapixels = sum(part.items for part in parts), sum(part.pixels for part in parts) / 1e6
    others = sum(shard.others for shard in shards)
    counts = {
        "input": bad_rows + sum(len(verdict.ids) for verdict in verdicts),
        "restored": restored,
        "skipped": done + left,
        "failed": failed,
    }
    kept = sum(int(np.count_nonzero(verdict.kept)) for verdict in verdicts)
    _check_counts(counts, sum(shard.rows for shard in shards), restored + kept + others)

    def part(prefix: str, names: Sequence[str]) -> dict[str, float]:
        return {name: means[prefix + name][0] for name in names if prefix + name in means}

    summary = {
        "command": "restore",
        "counts": counts,
        "skipped": {"done_before": done, "not_tried": left},
        "rows_of_other_inputs": others,
        "root": run["root"],
        "quality": {
            "before": {**part("before_", outputs.QUALITY), **part("input_", outputs.FIDELITY)},
            "after": {**part("after_", outputs.QUALITY), **part("", outputs.FIDELITY)},
        },
        "with_target": means.get("ciede2000", (0.0, 0))[1],
        "confidence": means["confidence"][0] if "confidence" in means else None,
        "decisions": dict(sorted(sum((shard.decisions for shard in shards), collections.Counter()).items())),
        "errors": dict(sorted(classes)),
        "seconds": round(seconds, 1),
        "pictures_per_second": round(restored / seconds, 3),
        "megapixels_per_second": round(megapixels / seconds, 3),
        "megapixels": round(megapixels, 6),
        "timeline": {"began": int(run["began"]), "seconds": outputs.Timeline.SECONDS, "restored": timeline},
        "options": run["options"],
        "versions": sinks.versions(),
        "model_sha256": run["model_sha256"],
    }
    in_worker(sinks.write_json)(storage.join(output, "summary.json"), summary)


def _check_counts(counts: dict[str, int], rows: int, expected: int) -> None:
    accounted = counts["restored"] + counts["skipped"] + counts["failed"]
    if accounted != counts["input"] or rows != expected:
        raise RuntimeError(
            f"the run does not add up: {counts}, {rows} rows of metrics for {expected} pictures; "
            "run it again, and if that does not help, report it as a fault of unfade's"
        )


def build(
    pipeline: beam.Pipeline,
    given: PipelineOptions,
    progress: str | None,
    model_sha256: str,
    decided_before: Mapping[str, Decision],
    earlier: resume.Earlier,
    root: str | None = None,
) -> None:
    """Wires the job.

    Args:
      pipeline: To add to.
      given: Parsed options.
      progress: Progress file of a local run, or None.
      model_sha256: The model's digest.
      decided_before: What was decided in review, by id.
      earlier: What earlier runs left in the output.
      root: What the ids of the input are relative to, see `pairs.root_of`.
    """
    # Imported here: TensorFlow takes seconds to load, and bad usage is to be told before.
    from transforms.inference import Apply, DecideHandler, Thumbnail
    from transforms.loading import ReadSource

    job, own = given.view_as(options.JobOptions), given.view_as(RestoreOptions)
    chosen = given.view_as(options.ModelOptions)
    plain = options.plain(given, options.ModelOptions, RestoreOptions)
    run = {"began": time.time(), "options": plain, "model_sha256": model_sha256, "root": root}
    made_by = identity.maker(model_sha256, {name: plain[name] for name in _SETTINGS})
    select = resume.Select(earlier, made_by, own.retry_errors, decided_before)
    if records.is_prepared(job.input):
        sources, unread = pipeline | "ReadRecords" >> ReadRecords(job.input)
        selected, bad_rows = sources | "Seen" >> Tick(progress, SEEN) | "Select" >> select, unread
        sources = selected.items | "Found" >> Tick(progress, FOUND)
    else:
        found, bad_rows = pipeline | "ReadPairs" >> pairs.ReadPairs(job.input, deal=False)
        selected = found | "Select" >> select
        wanted = selected.items | "Found" >> Tick(progress, FOUND) | "Deal" >> beam.Reshuffle()
        sources, unread = wanted | "ReadSource" >> Guarded(ReadSource(job.max_pixels), job.max_item_seconds)

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
    write = outputs.WriteRestored(job.output, model_sha256, job.max_pixels, _file_options(own), decided_before, made_by)
    rows, unwritten = restored | "Write" >> Guarded(write, job.max_item_seconds)
    rows = rows | "Restored" >> Tick(progress, DONE)
    parts = rows | "Journal" >> WriteJournal(
        job.output, earlier.number, "rows", ".parquet", outputs.part_of_table, outputs.pixels
    )

    failed = (
        (unread, undecoded, unapplied, unwritten) | "Failed" >> beam.Flatten() | "FailedTick" >> Tick(progress, FAILED)
    )
    errors = failed if bad_rows is unread else (failed, bad_rows) | "Errors" >> beam.Flatten()
    error_parts = failed | "JournalErrors" >> WriteJournal(
        job.output, earlier.number, "errors", ".jsonl", sinks.error_lines
    )
    error_files = errors | "WriteErrors" >> sinks.WriteErrors(job.output)
    renewed = selected.renewed | "JournalRenewed" >> WriteJournal(
        job.output, earlier.number, "renewed", ".parquet", outputs.part_of_table
    )
    shards = pipeline | "WriteMetrics" >> metrics_table.WriteMetrics(earlier, parts, selected.verdicts, renewed)
    _ = (
        pipeline
        | "Once" >> beam.Create([None])
        | "Finish"
        >> beam.Map(
            _finish,
            job.output,
            pvalue.AsSingleton(bad_rows | "CountBadRows" >> beam.combiners.Count.Globally()),
            pvalue.AsList(selected.verdicts),
            pvalue.AsList(parts),
            pvalue.AsSingleton(errors | "CountFailed" >> beam.combiners.Count.Globally()),
            pvalue.AsList(errors | "Classes" >> sinks.CountErrors()),
            pvalue.AsList(shards),
            pvalue.AsSingleton(
                shards | "Sums" >> beam.Map(lambda shard: shard.sums) | "Means" >> beam.CombineGlobally(outputs.Means())
            ),
            pvalue.AsSingleton(rows | "Timeline" >> beam.CombineGlobally(outputs.Timeline())),
            run,
            pvalue.AsList(error_files),
            pvalue.AsList(error_parts),
        )
    )


def _check_all_read(summary: dict[str, Any], records_prepared: int) -> None:
    found = summary["counts"]["input"]
    if found != records_prepared:
        raise RuntimeError(f"{found} records were read, but {records_prepared} prepared; run `unfade prepare` again")


def _run_file(output: str) -> str:
    return storage.join(output, journal.FOLDER, "run.json")


def _check_same_root(output: str, root: str | None) -> None:
    """Other folders have the same names: what one gave must not be replaced by what another gives."""
    for told in (storage.join(output, "summary.json"), _run_file(output)):
        before = sinks.read_json(told) if storage.exists(told) else {}
        if root is not None and before.get("root") not in (None, root):
            raise UsageError(
                f"{output} holds results of {before['root']}, whose pictures may have the same ids as those of {root}; "
                "name another --output, or add --overwrite to replace them"
            )


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    given = options.parse("restore", "Restores the colours of photographs.", RestoreOptions, argv, options.ModelOptions)
    job, chosen = given.view_as(options.JobOptions), given.view_as(options.ModelOptions)
    own = given.view_as(RestoreOptions)
    if chosen.size_multiple < 1 or chosen.max_batch_size < 1:
        raise UsageError("--size_multiple and --max_batch_size must be 1 or more")
    check_access(job.input)
    check_access(job.output, write=True)
    prepared = records.is_prepared(job.input)
    if not prepared:
        pairs.check_input(job.input)
    file = own.decisions
    decided = decisions.read(file) if file else {}
    if own.retry_errors and chosen.overwrite:
        raise UsageError("--retry_errors takes what failed, --overwrite takes all: give one of them")
    check_access(chosen.model)
    root = None if prepared else pairs.root_of(job.input)
    summary = storage.join(job.output, "summary.json")
    with run_lock.hold(job.output) as interrupted:
        if not chosen.overwrite:
            _check_same_root(job.output, root)
        options.load_tensorflow()
        from transforms.inference import check_model, open_model

        model_sha256 = check_model(chosen.model, chosen.size_multiple, chosen.model_sha256, chosen.trust_model)
        if not open_model(chosen.model, chosen.size_multiple, model_sha256, chosen.trust_model).reads_captions:
            print(f"unfade: warning: {chosen.model} takes no caption: captions are ignored", file=sys.stderr)
        earlier = resume.find(job.output, chosen.overwrite, interrupted)
        in_worker(sinks.write_json)(_run_file(job.output), {"input": job.input, "root": root})
        storage.delete([summary])
        told = console.run(
            given,
            "restoring",
            lambda p, o, progress: build(p, o, progress, model_sha256, decided, earlier, root),
            resumes=True,
            total=records.read_success(job.input)["records"] if prepared else None,
        )
        if prepared:
            _check_all_read(sinks.read_json(summary), records.read_success(job.input)["records"])
        obeyed = sum(sinks.read_json(summary)["decisions"].values())
        if obeyed < len(decided):
            missed = f"{len(decided) - obeyed} of {len(decided)} decisions"
            print(f"unfade: warning: {missed} in {file} are about no picture that was restored", file=sys.stderr)
        page = report.write(job.output)
        journal.clear(job.output)
        status = console.conclude(summary, job.max_error_fraction, told)
    print(f"report: {page}")
    return status


if __name__ == "__main__":
    options.main(main)
