"""`unfade evaluate`: pairs with a `target` -> scores of models and baselines against it, with intervals.

    pairs -> source -> every method, measured -> scores -> a table a group -> summary

Pixels never cross a shuffle, and a failing item never takes another with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import console, options
from transforms import methods, outputs, pairs, records, run_lock, scores, sinks, storage
from transforms.guard import Guarded, in_worker
from transforms.items import Pair, UsageError
from transforms.progress import DONE, FAILED, FOUND, Tick
from transforms.storage_access import check_access

GROUP_BY = "regime"
"""Column that groups where none is named."""


class EvaluateOptions(PipelineOptions):
    """Flags of `unfade evaluate` alone."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--method",
            default="baselines,model",
            metavar="NAME[,NAME...]",
            help="what to compare: baselines by name, or `baselines`; `oracle`, which knows the truth; `model`,"
            " `model:no_caption`, `model:wrong_caption`, `model:no_reference`, or `model:all` of these;"
            " `model:no_field`, `model:no_curves`, `model:no_chroma`, `model:no_detail`, or `model:parts`;"
            " or a label of --model in place of `model` (default %(default)s)",
        )
        parser.add_argument(
            "--group_by",
            metavar="COLUMN",
            help=f"manifest column; a table for each of its values (default: {GROUP_BY}, where there is one)",
        )
        parser.add_argument(
            "--max_side",
            type=int,
            default=0,
            metavar="N",
            help="first reduce input and target to this longest side: faster, but other numbers (default: full size)",
        )


def _has_target(pair: Pair) -> bool:
    return pair.target is not None


def _keyed(row: outputs.Row) -> list[tuple[str | None, outputs.Row]]:
    """A row for its group's table, and for the overall one (None)."""
    groups: list[str | None] = [None]
    if row["group"] is not None:
        groups.append(row["group"])
    return [(group, row) for group in groups]


def _table(keyed: tuple[str | None, Any]) -> tuple[str | None, dict[str, Any]]:
    group, rows = keyed
    return group, scores.summarise(list(rows))


def _row_key(row: outputs.Row) -> str:
    return f"{row['id']}\0{row['method']}"


def _finish(
    _: None,
    output: str,
    found: int,
    skipped: int,
    evaluated: int,
    failed: int,
    classes: list[tuple[str, Any]],
    tables: list[tuple[str | None, dict[str, Any]]],
    run: dict[str, Any],
    *_written: Any,
) -> None:
    """Last of all: table and summary."""
    overall = dict(tables).get(None, {"items": 0, "methods": {}})
    groups = {group: table for group, table in tables if group is not None}
    in_worker(storage.write_bytes)(storage.join(output, "table.md"), scores.table(overall, groups).encode())
    summary = {
        "command": "evaluate",
        "counts": {"input": found, "evaluated": evaluated, "skipped": skipped, "failed": failed},
        "skipped": {"no target": skipped},
        "overall": overall,
        "groups": groups,
        "resamples": scores.RESAMPLES,
        "errors": dict(sorted(classes)),
        "seconds": round(time.time() - run["began"], 1),
        "options": run["options"],
        "versions": sinks.versions(),
        "models": run["models"],
    }
    in_worker(sinks.write_json)(storage.join(output, "summary.json"), summary)


def build(
    pipeline: beam.Pipeline,
    given: PipelineOptions,
    progress: str | None,
    compared: Sequence[methods.Method],
    digests: dict[str, str],
) -> None:
    """Wires the job.

    Args:
      pipeline: To add to.
      given: Parsed options.
      progress: Progress file of a local run, or None.
      compared: The methods.
      digests: Digest of each model by URI.
    """
    # Imported here: TensorFlow takes seconds to load, and bad usage is to be told before.
    from transforms import evaluation
    from transforms.loading import ReadSource

    job, own, chosen = (given.view_as(kind) for kind in (options.JobOptions, EvaluateOptions, options.ModelOptions))
    labels = {method.label: method.uri for method in compared if method.uri}
    run = {
        "began": time.time(),
        "options": options.plain(given, EvaluateOptions, options.ModelOptions),
        "models": {label: {"uri": uri, "sha256": digests[uri]} for label, uri in labels.items()},
    }
    found, bad_rows = pipeline | "ReadPairs" >> pairs.ReadPairs(job.input, deal=False)
    found = found | "Found" >> Tick(progress, FOUND) | "Deal" >> beam.Reshuffle()
    with_target = found | "HasTarget" >> beam.Filter(_has_target)
    asked = with_target
    if any(method.variant == "wrong_caption" for method in compared):
        asked = with_target | "WrongCaptions" >> evaluation.AddWrongCaptions()
    sources, unread = asked | "ReadSource" >> Guarded(ReadSource(job.max_pixels), job.max_item_seconds)
    score = evaluation.Score(
        compared,
        digests,
        job.input,
        own.group_by or GROUP_BY,
        own.max_side,
        job.max_pixels,
        chosen.size_multiple,
        chosen.max_batch_size,
        job.allow_truncated,
        chosen.colourise,
        not chosen.keep_grain,
        chosen.trust_model,
    )
    scored, unscored = sources | "Score" >> Guarded(score, job.max_item_seconds)
    scored = scored | "Scored" >> Tick(progress, DONE)
    rows = scored | "Rows" >> beam.FlatMap(list)

    failed = (unread, unscored) | "Failed" >> beam.Flatten() | "FailedTick" >> Tick(progress, FAILED)
    errors = (failed, bad_rows) | "Errors" >> beam.Flatten()
    error_files = errors | "WriteErrors" >> sinks.WriteErrors(job.output)
    carried = rows | "CarriedColumns" >> beam.CombineGlobally(outputs.Union())
    files = rows | "WriteScores" >> sinks.WriteTable(
        job.output, "scores", ".parquet", evaluation.rows_to_parquet, _row_key, pvalue.AsSingleton(carried)
    )
    tables = rows | "ByGroup" >> beam.FlatMap(_keyed) | "Group" >> beam.GroupByKey() | "Tables" >> beam.Map(_table)
    every = (found, bad_rows) | "Input" >> beam.Flatten() | "CountInput" >> beam.combiners.Count.Globally()
    without = found | "NoTarget" >> beam.Filter(lambda pair: not _has_target(pair))
    _ = (
        pipeline
        | "Once" >> beam.Create([None])
        | "Finish"
        >> beam.Map(
            _finish,
            job.output,
            pvalue.AsSingleton(every),
            pvalue.AsSingleton(without | "CountSkipped" >> beam.combiners.Count.Globally()),
            pvalue.AsSingleton(scored | "CountScored" >> beam.combiners.Count.Globally()),
            pvalue.AsSingleton(errors | "CountFailed" >> beam.combiners.Count.Globally()),
            pvalue.AsList(errors | "Classes" >> sinks.CountErrors()),
            pvalue.AsList(tables),
            run,
            pvalue.AsList(error_files),
            pvalue.AsList(files),
        )
    )


def _wanted_digests(given: str | None, models: list[str]) -> dict[str, str | None]:
    digests = given.split(",") if given else [None] * len(models)
    if len(digests) != len(models):
        raise UsageError(f"--model_sha256 has {len(digests)} digests for {len(models)} models; give one for each")
    return dict(zip(models, digests, strict=True))


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    given = options.parse(
        "evaluate", "Scores models and baselines against the truth.", EvaluateOptions, argv, options.ModelOptions
    )
    job, own, chosen = (given.view_as(kind) for kind in (options.JobOptions, EvaluateOptions, options.ModelOptions))
    if chosen.size_multiple < 1 or chosen.max_batch_size < 1:
        raise UsageError("--size_multiple and --max_batch_size must be 1 or more")
    if own.max_side < 0:
        raise UsageError("--max_side must be 1 or more, or 0 for full size")
    named = methods.parse_models(chosen.model)
    compared = methods.parse_methods(own.method, named)
    wanted = _wanted_digests(chosen.model_sha256, list(named.values()))
    check_access(job.input)
    check_access(job.output, write=True)
    if records.is_prepared(job.input):
        raise UsageError(f"{job.input} holds prepared records; evaluate takes the pairs that they were prepared from")
    pairs.check_input(job.input)
    summary_uri = storage.join(job.output, "summary.json")
    if storage.exists(summary_uri) and not chosen.overwrite:
        raise UsageError(f"{job.output} already holds finished results; name another --output, or add --overwrite")
    models = sorted({method.uri for method in compared if method.uri})
    for uri in models:
        check_access(uri)
    options.load_tensorflow()
    from transforms.inference import check_model

    digests = {uri: check_model(uri, chosen.size_multiple, wanted[uri], chosen.trust_model) for uri in models}
    with run_lock.hold(job.output):
        storage.delete([summary_uri])
        told = console.run(given, "evaluating", lambda p, o, progress: build(p, o, progress, compared, digests))
        summary = sinks.read_json(summary_uri)
        table_uri = storage.join(job.output, "table.md")
        print("\n" + storage.read_bytes(table_uri).decode())
        status = console.conclude(summary_uri, job.max_error_fraction, told)
        if skipped := summary["counts"]["skipped"]:
            print(f"{skipped} of {summary['counts']['input']} items have no target: skipped")
        if own.group_by and not summary["groups"] and summary["overall"]["items"]:
            print(f"unfade: warning: no item has a column {own.group_by}: not grouped", file=sys.stderr)
        print(f"table: {table_uri}")
        return status


if __name__ == "__main__":
    options.main(main)
