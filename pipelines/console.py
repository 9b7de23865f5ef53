"""Runs a job and tells the person at the terminal: progress while it goes on, a table when it is done."""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipelines import options
from transforms import forkserver, launcher, limits, sinks, storage, timing
from transforms.items import printable
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


class Stopped(KeyboardInterrupt):
    """A run that was told to end has ended: its workers are gone, and what is done is kept.

    Its message is what a person should know of it.
    """


def run(given: PipelineOptions, label: str, build: Build, *, resumes: bool = False, total: int | None = None) -> Told:
    """Builds and runs a pipeline to its end.

    Args:
      given: Parsed options.
      label: What is being done, for the progress line.
      build: Wires the job into a pipeline; gets the progress file of a local run, else None.
      resumes: Whether the job, run again, does only what is missing.
      total: How many items there are at most, where that is known before (see `progress.Progress`).

    Returns:
      What it told.

    Raises:
      Stopped: By a signal (`options.main`).
    """
    direct, style = given.view_as(DirectOptions), given.view_as(options.JobOptions).progress
    with launcher.folder() as folder:
        path = os.path.join(folder, "progress") if options.is_local(given) else None
        threading.excepthook = functools.partial(_end_with_worker, os.path.join(folder, _WORKERS_LOG))
        started_before = launcher.descendants()
        shown = Progress(path, label, style=style, workers=direct.direct_num_workers, total=total) if path else None
        with shown or nullcontext():
            try:
                pipeline = _pipeline(given, folder)
                build(pipeline, given, path)
                result = _run_aside(pipeline) if path else _run(pipeline)
            except KeyboardInterrupt as stop:
                if shown is None:
                    raise _left_running(stop) from None
                _end_workers(started_before)
                raise _stopped(stop, shown, resumes) from None
    return Told(timing.counter(result, REPEATED), timing.stages(result), _machine(given, result) if path else {})


def _run(pipeline: beam.Pipeline) -> PipelineResult:
    result = pipeline.run()
    result.wait_until_finish()
    return result


def _run_aside(pipeline: beam.Pipeline) -> PipelineResult:
    """Runs it in a thread of its own, which can be left: Beam's way out, once interrupted, may never end."""
    running = limits.InThread(lambda: _run(pipeline))
    while True:
        with contextlib.suppress(limits.Unfinished):
            return running.result(1.0)


def _end_workers(spared: set[int]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # impatient: what must be done has been by the next run, if not now
        signal.signal(number, lambda number, _: os._exit(128 + number))
    threading.excepthook = lambda _: None  # the thread that watches over a worker would take its end for a failure
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)  # it complains of lost connections
    launcher.stop(spared)


def _stopped(stop: KeyboardInterrupt, shown: Progress, resumes: bool) -> Stopped:
    found, done, failed = shown.counts()
    lines = [f"stopped by {options.signal_of(stop).name}: {done} done, {failed} failed, {found - done - failed} left"]
    if resumes:
        lines.append("what is done is kept, and the rest is done by")
    else:
        lines.append("nothing of this run counts yet; run again")
    return Stopped("\n".join([*lines, f"    {_command(resumes)}"]), options.signal_of(stop))


def _left_running(stop: KeyboardInterrupt) -> Stopped:
    return Stopped(
        "no longer waiting: a job that was started goes on where it runs; cancel it there before you run it again",
        options.signal_of(stop),
    )


def _command(resumes: bool) -> str:
    """The command line of this process, such that it goes on."""
    words = sys.orig_argv
    if len(words) > 1 and os.path.basename(words[1]) == "unfade":  # the console script, which the shell finds itself
        words = words[1:]
    return shlex.join(word for word in words if not (resumes and word == "--overwrite"))


def _machine(given: PipelineOptions, result: PipelineResult) -> dict[str, int]:
    """Of a local run."""
    workers = given.view_as(DirectOptions).direct_num_workers
    return {"workers": workers, "cores": os.cpu_count() or 1, "gpus": timing.gpus(result)}


def _pipeline(given: PipelineOptions, folder: str) -> beam.Pipeline:
    """A pipeline whose own temporary folder is within `folder`, so that it goes with it, if only by the next run."""
    runner = None
    if options.has_worker_processes(given):
        runner = FnApiRunner(SubprocessSDKEnvironment.from_command_string(_worker_command(folder)))
        given.view_as(DirectOptions).direct_running_mode = "in_memory"  # or the runner takes a command of its own
    elsewhere, tempfile.tempdir = tempfile.tempdir, folder
    try:
        return beam.Pipeline(runner, options=given)
    finally:
        tempfile.tempdir = elsewhere


def _worker_command(folder: str) -> str:
    """What the shell runs for each worker.

    A terminal sends Ctrl-C to workers, too: they leave it to the launcher. What libraries write to standard error would
    go through the bar, so it goes to a file, for the case that a worker dies.
    """
    shown = "" if os.environ.get("UNFADE_DEBUG") else f" 2>>{shlex.quote(os.path.join(folder, _WORKERS_LOG))}"
    return f"trap '' INT TERM; exec {shlex.join(forkserver.command())}{shown}"


_WORKERS_LOG = "workers.log"


def _end_with_worker(log: str, thread: threading.ExceptHookArgs) -> None:
    """Ends the program if the thread that watches over a worker process says that it died.

    Beam itself would wait for ever for one that dies before it has connected.
    """
    if "Worker subprocess exited" not in str(thread.exc_value):
        threading.__excepthook__(thread)
        return
    print(
        f"unfade: {thread.exc_value} (137 or -9: killed, perhaps for memory; fewer workers need less)", file=sys.stderr
    )
    with contextlib.suppress(OSError), open(log, encoding="utf-8", errors="replace") as file:
        for line in collections.deque((line for line in file if not options.is_noise(line)), maxlen=20):
            print(f"    {printable(line.rstrip())}", file=sys.stderr)
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
                f"{'':>10}{printable(example['id'])}: {printable(example['message'])}" for example in group["examples"]
            ]
    return "\n".join([*lines, ""])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
