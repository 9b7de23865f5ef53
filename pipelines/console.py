"""Runs a job and tells the person at the terminal: progress while it goes on, a table when it is done."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipelines import options
from transforms import launcher, sinks, storage, timing
from transforms.progress import Progress
from transforms.retrying import REPEATED

Build = Callable[[beam.Pipeline, PipelineOptions, str | None], None]


class Told(NamedTuple):
    """What a run tells when it is over.

    Attributes:
      repeated: How many requests to stores and servers had to be made again.
      stages: What its steps took, see `timing.stages`.
      machine: What it ran on: `workers`, processes that each take one item at a time, `cores` and `gpus`. Empty where
        another machine's runner knows.
    """

    repeated: int = 0
    stages: dict[str, dict[str, float]] = {}  # noqa: RUF012 - never changed
    machine: dict[str, int] = {}  # noqa: RUF012


def run(given: PipelineOptions, label: str, build: Build) -> Told:
    """Builds and runs a pipeline to its end.

    Args:
      given: Parsed options.
      label: What is being done, for the progress line.
      build: Wires the job into a pipeline; gets the progress file of a local run, else None.

    Returns:
      What it told.
    """
    with launcher.folder() as folder:
        path = os.path.join(folder, "progress") if options.is_local(given) else None
        threading.excepthook = _end_with_worker
        style = given.view_as(options.JobOptions).progress
        with Progress(path, label, style=style) if path else nullcontext():
            pipeline = _pipeline(given, folder)
            build(pipeline, given, path)
            result = pipeline.run()
            result.wait_until_finish()
    return Told(_repeated(result), timing.stages(result), _machine(given) if path else {})


def _machine(given: PipelineOptions) -> dict[str, int]:
    """Of a local run."""
    from tensorflow import config  # loaded by now

    workers = given.view_as(DirectOptions).direct_num_workers
    return {"workers": workers, "cores": os.cpu_count() or 1, "gpus": len(config.list_physical_devices("GPU"))}


def _pipeline(given: PipelineOptions, folder: str) -> beam.Pipeline:
    """A pipeline whose own temporary folder is within `folder`, so that it goes with it, if only by the next run."""
    elsewhere, tempfile.tempdir = tempfile.tempdir, folder
    try:
        return beam.Pipeline(options=given)
    finally:
        tempfile.tempdir = elsewhere


def _repeated(result: PipelineResult) -> int:
    try:
        counters = result.metrics().query(MetricsFilter().with_name(REPEATED))["counters"]
    except Exception:  # not every runner tells
        return 0
    return sum(counter.result or 0 for counter in counters)


def _end_with_worker(thread: threading.ExceptHookArgs) -> None:
    """Ends the program if the thread that watches over a worker process says that it died.

    Beam itself would wait for ever for one that dies before it has connected.
    """
    if "Worker subprocess exited" not in str(thread.exc_value):
        threading.__excepthook__(thread)
        return
    print(
        f"unfade: {thread.exc_value} (137 or -9: killed, perhaps for memory; fewer workers need less)", file=sys.stderr
    )
    sys.stderr.flush()
    # The main thread waits without end and cannot be woken. Workers that are left give up by themselves in two minutes.
    os._exit(options.FAILED)


def conclude(summary_uri: str, max_error_fraction: float, told: Told) -> int:
    """Prints the summary as a table and gives the exit status that it deserves.

    Args:
      summary_uri: The summary, to which what the run told is added.
      max_error_fraction: Over this share of failed items the status says so.
      told: See `run`.
    """
    summary = sinks.read_json(summary_uri)
    more = {REPEATED: told.repeated, "stages": told.stages, "machine": told.machine}
    summary |= {name: what for name, what in more.items() if what}
    sinks.write_json(summary_uri, summary)
    print(table(summary))
    if told.repeated:
        print(f"{told.repeated} requests to storage failed at first and were repeated")
    print(f"summary: {summary_uri}")
    counts = summary["counts"]
    if counts["failed"]:
        print(f"errors: {storage.join(summary_uri.rpartition('/')[0], 'errors')}")
    if counts["failed"] > max_error_fraction * counts["input"]:
        print(
            f"{counts['failed']} of {counts['input']} items failed, over --max_error_fraction {max_error_fraction}",
            file=sys.stderr,
        )
        return options.TOO_MANY_ERRORS
    return options.DONE


def table(summary: dict[str, Any]) -> str:
    """The summary for a person: counts, quality before and after, errors by class."""
    lines = ["", "  ".join(f"{name} {count}" for name, count in summary["counts"].items() if count is not None)]
    quality = summary.get("quality") or {}
    if quality.get("after"):
        lines += ["", f"{'mean over pictures':<24}{'before':>10}{'after':>10}"]
        for name, after in quality["after"].items():
            before = quality["before"].get(name)
            lines.append(f"{name:<24}{_number(before):>10}{_number(after):>10}")
    if summary.get("errors"):
        lines += ["", "failed:"]
        for kind, group in sorted(summary["errors"].items(), key=lambda item: (-item[1]["count"], item[0])):
            lines.append(f"  {group['count']:>6}  {kind}")
            lines += [
                f"{'':>10}{_printable(example['id'])}: {_printable(example['message'])}"
                for example in group["examples"]
            ]
    return "\n".join([*lines, ""])


def _printable(text: str) -> str:
    """Text that cannot steer a terminal: names of files may hold its escape sequences, or turn the line round."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
