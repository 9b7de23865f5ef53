"""`unfade restore`: pairs, or prepared records -> restored pictures, metrics, errors, a summary, a report.

    pairs or records -> what is not done -> source -> thumbnail -> RunInference (decide) -> apply -> write -> journal
                     -> metrics -> summary

From source to row everything is fused: pixels never cross a shuffle, and a failing item never takes another with it.
What is done stands in the journal within seconds, so that a run that was killed is taken up where it stopped.
On Dataflow the command submits the job and returns; the job's last step does what the command does elsewhere.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from models.contract import DEFAULT_MODEL
from pipelines import console, dataflow, options, report
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
from transforms.guard import Guarded, Step, in_worker
from transforms.identity import key_of
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
        parser.add_argument(
            "--accelerator",
            default=None,
            metavar="HINT",
            help="on Dataflow: what the workers that restore have, e.g."
            " 'type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver' (default: no accelerator)",
        )


def _file_options(own: RestoreOptions) -> outputs.FileOptions:
    return outputs.FileOptions(
        output_format=own.output_format,
        history=not own.no_history,
        describe=own.describe,
        source_type=own.digital_source_type,
        previews=not own.no_previews,
    )


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


class Deal(beam.PTransform):
    """Deals small items out to all workers, whichever found them.

    As `Reshuffle`, but without its last step, which would be in the wrong place: it would run with the resources of the
    step before, not of the one after. So what takes the groups reads them from the shuffle itself.

    Args:
      name: Names an item; None: it is a name.
    """

    def __init__(self, name: Callable[[Any], str] = str) -> None:
        super().__init__()
        self._name = name

    def expand(self, items: pvalue.PCollection) -> pvalue.PCollection:
        """PCollection[T] -> PCollection[(key, Iterable[T])], nearly all of one item each."""
        keyed = items | "Key" >> beam.Map(lambda item: (key_of(self._name(item)) >> 1, item)).with_output_types(
            tuple[int, Any]
        )
        return keyed | "Group" >> beam.GroupByKey()


class Done(NamedTuple):
    """What `RestorePictures` gives; nothing of it is larger than an error record.

    Attributes:
      parts: PCollection[Part], of rows in the journal.
      error_parts: PCollections[Part], of error records in the journal.
      finished: PCollection[float], when each picture was finished, in Unix seconds.
      failed: PCollections[ItemError], one a step; the first is of what could not be read.
      selected: Of prepared records, see `resume.Selected`; else None.
    """

    parts: Any
    error_parts: Any
    finished: Any
    failed: Any
    selected: Any


class RestorePictures(beam.PTransform):
    """All that holds pixels, from reading a picture to its row in the journal: one stage, on one worker.

    Runners part stages where hints of resources differ, and store what goes from one stage to the next. So an
    accelerator is asked for all of this, or for none of it: asked for by the model alone, it would send every picture
    through storage four times.

    Args:
      given: Parsed options.
      progress: Progress file of a local run, or None.
      model_sha256: The model's digest.
      decided_before: What was decided in review, by id.
      made_by: See `identity.maker`.
      number: Of the run, for the journal.
      select: Leaves out what is done; None: that has been left out.
    """

    def __init__(
        self,
        given: PipelineOptions,
        progress: str | None,
        model_sha256: str,
        decided_before: Mapping[str, Decision],
        made_by: str,
        number: int,
        select: resume.Select | None,
    ) -> None:
        super().__init__()
        self._given, self._progress, self._model_sha256 = given, progress, model_sha256
        self._decided_before, self._made_by, self._number, self._select = decided_before, made_by, number, select

    def expand(self, dealt: pvalue.PCollection) -> Done:
        """Groups of `Deal`, of pairs, or of shards of records if there is a `select` -> Done."""
        # Imported here: TensorFlow takes seconds to load, and bad usage is to be told before.
        from transforms.inference import SHIPPED, Apply, DecideHandler, Thumbnail
        from transforms.loading import ReadSource

        job, own = self._given.view_as(options.JobOptions), self._given.view_as(RestoreOptions)
        chosen = self._given.view_as(options.ModelOptions)
        model = SHIPPED if chosen.model == DEFAULT_MODEL else chosen.model
        items, selected = dealt | "Items" >> beam.FlatMap(lambda group: group[1]), None
        if self._select is None:
            sources, unread = items | "ReadSource" >> Guarded(ReadSource(job.max_pixels), job.max_item_seconds)
        else:
            parsed, unread = items | "Read" >> beam.FlatMap(records.read_shard) | "Parse" >> Guarded(_Parse())
            selected = parsed | "Seen" >> Tick(self._progress, SEEN) | "Select" >> self._select
            sources = selected.items | "Found" >> Tick(self._progress, FOUND)
        if self._decided_before:
            sources = sources | "Decisions" >> beam.Map(outputs.recaptioned, self._decided_before)
        thumbnail = Thumbnail(job.max_pixels, job.allow_truncated)
        undecided, undecoded = sources | "Thumbnail" >> Guarded(thumbnail, job.max_item_seconds)
        decide = DecideHandler(
            model,
            chosen.size_multiple,
            chosen.max_batch_size,
            chosen.colourise,
            not chosen.keep_grain,
            self._model_sha256,
            chosen.trust_model,
            job.max_item_seconds,
        )
        decided = undecided | "Decide" >> RunInference(decide)
        apply = Apply(
            model, chosen.size_multiple, job.max_pixels, job.allow_truncated, self._model_sha256, chosen.trust_model
        )
        restored, unapplied = decided | "Apply" >> Guarded(apply, job.max_item_seconds)
        write = outputs.WriteRestored(
            job.output, self._model_sha256, job.max_pixels, _file_options(own), self._decided_before, self._made_by
        )
        rows, unwritten = restored | "Write" >> Guarded(write, job.max_item_seconds)
        rows = rows | "Restored" >> Tick(self._progress, DONE)
        parts = rows | "Journal" >> WriteJournal(
            job.output, self._number, "rows", ".parquet", outputs.part_of_table, outputs.pixels
        )
        # Journalled step by step: after a Flatten they might be in a stage of their own, which waits for this one.
        failed, error_parts = [], []
        for name, errors in (("Read", unread), ("Decode", undecoded), ("Apply", unapplied), ("Write", unwritten)):
            ticked = errors | f"{name}Failed" >> Tick(self._progress, FAILED)
            failed.append(ticked)
            journal_ = WriteJournal(job.output, self._number, "errors", ".jsonl", sinks.error_lines)
            error_parts.append(ticked | f"Journal{name}Errors" >> journal_)
        finished = rows | "Finished" >> beam.Map(lambda row: float(row["finished"])).with_output_types(float)
        return Done(
            parts,
            tuple(error_parts),
            finished,
            tuple(failed),
            selected,
        )


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
    if run["records"] not in (None, counts["input"]):
        raise RuntimeError(
            f"{counts['input']} records were read, but {run['records']} prepared; run `unfade prepare` again"
        )

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
    if run["lock"] is not None:
        _conclude(output, counts, run["options"]["max_error_fraction"], run["lock"])


def _conclude(output: str, counts: dict[str, int], max_error_fraction: float, lock: str) -> None:
    """What remains to be done where nobody waits for the job. All of it may be done twice: workers may fail."""
    in_worker(report.write)(output, anew=False)
    in_worker(journal.clear)(output)
    if counts["failed"] > max_error_fraction * counts["input"]:
        # The job ends as failed, so that a scheduler sees it; its lock counts no more then.
        raise RuntimeError(
            f"all is done and in place, but {counts['failed']} of {counts['input']} items failed, over"
            f" --max_error_fraction {max_error_fraction}; see {storage.join(output, 'errors')}"
        )
    run_lock.release(output, lock)


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
    lock: str | None = None,
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
      lock: Of a job that nobody waits for: what it shows to `run_lock.release`.
    """
    job, own = given.view_as(options.JobOptions), given.view_as(RestoreOptions)
    plain = options.plain(given, options.ModelOptions, RestoreOptions)
    prepared = records.is_prepared(job.input)
    run = {
        "began": time.time(),
        "options": plain,
        "model_sha256": model_sha256,
        "root": root,
        "records": records.read_success(job.input)["records"] if prepared else None,
        "lock": lock,
    }
    made_by = identity.maker(model_sha256, {name: plain[name] for name in _SETTINGS})
    select = resume.Select(earlier, made_by, own.retry_errors, decided_before)
    if prepared:
        dealt = pipeline | "Shards" >> beam.Create(records.shards_in(job.input)) | "Deal" >> Deal()
    else:
        folds = storage.folds_names(storage.join(job.output, journal.FOLDER))
        found, bad_rows = pipeline | "ReadPairs" >> pairs.ReadPairs(job.input, deal=False, folds=folds)
        selected = found | "Select" >> select
        dealt = selected.items | "Found" >> Tick(progress, FOUND) | "Deal" >> Deal(lambda pair: pair.id)
    pictures: beam.PTransform = RestorePictures(
        given, progress, model_sha256, decided_before, made_by, earlier.number, select if prepared else None
    )
    if own.accelerator:
        pictures = pictures.with_resource_hints(accelerator=own.accelerator)
    done: Done = dealt | "Restore" >> pictures
    if prepared:
        selected, bad_rows = done.selected, done.failed[0]
    parts = done.parts
    # Put together here: within `RestorePictures` they would be stages of their own that ask for the accelerator.
    errors = (*done.failed, *(() if prepared else (bad_rows,))) | "Errors" >> beam.Flatten()
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
            pvalue.AsSingleton(done.finished | "Timeline" >> beam.CombineGlobally(outputs.Timeline())),
            run,
            pvalue.AsList(error_files),
            *map(pvalue.AsList, done.error_parts),
        )
    )


def _run_file(output: str) -> str:
    return storage.join(output, journal.FOLDER, journal.RUN)


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
    brought = None if chosen.model == DEFAULT_MODEL else chosen.model
    dataflow.complete(given, "restore", brought, own.accelerator)
    check_access(job.input)
    check_access(job.output, write=True)
    prepared = records.is_prepared(job.input)
    if not prepared:
        pairs.check_input(job.input)
        pairs.check_apart(job.input, job.output)
    file = own.decisions
    decided = decisions.read(file) if file else {}
    if own.no_history and (own.describe or own.digital_source_type):
        print("unfade: warning: with --no_history XMP stays as it is: nothing is described in it", file=sys.stderr)
    if own.retry_errors and chosen.overwrite:
        raise UsageError("--retry_errors takes what failed, --overwrite takes all: give one of them")
    check_access(chosen.model)
    root = None if prepared else pairs.root_of(job.input)
    summary = storage.join(job.output, "summary.json")
    dry = dataflow.is_dry_run(given)
    this = dataflow.job_of(given) if dataflow.is_dataflow(given) and dataflow.in_template(given) else None
    with contextlib.nullcontext(run_lock.Held()) if dry else run_lock.hold(job.output, this) as held:
        if not chosen.overwrite:
            _check_same_root(job.output, root)
        if not options.has_worker_processes(given) or brought:
            options.load_tensorflow()  # else only workers need it
        from transforms.inference import check_model, reads_captions

        model_sha256 = check_model(chosen.model, chosen.size_multiple, chosen.model_sha256, chosen.trust_model)
        if not reads_captions(chosen.model, chosen.size_multiple, model_sha256, chosen.trust_model):
            print(f"unfade: warning: {chosen.model} takes no caption: captions are ignored", file=sys.stderr)
        earlier = resume.find(job.output, chosen.overwrite, held.interrupted)
        if not dry:
            in_worker(sinks.write_json)(_run_file(job.output), {"input": job.input, "root": root})
            if decided:
                in_worker(decisions.keep)(job.output, decided)
            storage.delete([summary])
        if dataflow.is_dataflow(given):
            return _submit(
                given, held, dry, lambda p, lock: build(p, given, None, model_sha256, decided, earlier, root, lock)
            )
        told = console.run(
            given,
            "restoring",
            lambda p, o, progress: build(p, o, progress, model_sha256, decided, earlier, root),
            resumes=True,
            total=records.read_success(job.input)["records"] if prepared else None,
        )
        obeyed = sum(sinks.read_json(summary)["decisions"].values())
        if obeyed < len(decided):
            missed = f"{len(decided) - obeyed} of {len(decided)} decisions"
            print(f"unfade: warning: {missed} in {file} are about no picture that was restored", file=sys.stderr)
        page = report.write(job.output, anew=False)
        journal.clear(job.output)
        status = console.conclude(summary, job.max_error_fraction, told)
    print(f"report: {page}")
    return status


def _submit(given: PipelineOptions, held: run_lock.Held, dry: bool, wire: Callable[[beam.Pipeline, str], None]) -> int:
    """Submits the job and leaves it the lock, before it is on its way: the lock of a process would lapse."""
    lock = "" if dry else held.hand_over(dataflow.job_of(given))
    try:
        dataflow.submit(given, lambda pipeline: wire(pipeline, lock))
    except Exception as error:
        if not dataflow.unknown_state(error):
            held.take_back()
        raise
    return options.DONE


if __name__ == "__main__":
    options.main(main)
