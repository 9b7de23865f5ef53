"""Flags that several commands share, and how every command reads its command line."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from models.contract import COLOURISE, DEFAULT_MODEL
from transforms.codecs import DEFAULT_MAX_PIXELS
from transforms.items import ItemFailure, UsageError, printable
from transforms.limits import ITEM_SECONDS
from transforms.progress import STYLES

DONE, FAILED, BAD_USAGE, TOO_MANY_ERRORS = 0, 1, 2, 3
"""Exit statuses of every command."""

LOCAL_RUNNER = "FnApiRunner"
"""Named, because `DirectRunner` first looks for another runner to download."""


class Parser(argparse.ArgumentParser):
    """Answers bad usage with one line and status 2."""

    def error(self, message: str) -> NoReturn:
        """One line, no usage block: the flags are many."""
        self.exit(BAD_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


class JobOptions(PipelineOptions):
    """Flags of every batch job. One class, because Beam puts the flags of all its subclasses into one parser."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--input",
            metavar="PAIRS",
            help="manifest (.csv, .tsv, .jsonl, .parquet; IIIF .json), folder or glob of pictures or WebDataset .tar"
            " shards, local or gs://;"
            " `restore` also takes a folder of prepared records",
        )
        parser.add_argument("--output", metavar="DIR", help="folder for what the job writes, local or gs://")
        parser.add_argument(
            "--max_pixels",
            type=int,
            default=DEFAULT_MAX_PIXELS,
            metavar="N",
            help="refuse larger pictures before decoding them (default %(default)s)",
        )
        parser.add_argument(
            "--max_item_seconds",
            type=float,
            default=ITEM_SECONDS,
            metavar="S",
            help="give a picture up if one step of its way takes longer (default %(default)s)",
        )
        parser.add_argument(
            "--allow_truncated",
            action="store_true",
            default=False,
            help="take files that are cut off: what is missing is filled, and noted",
        )
        parser.add_argument(
            "--progress",
            choices=STYLES,
            default="auto",
            help="of a local run: a bar on a terminal, else a line every 30 s; nothing; a JSON line every 30 s"
            " (default %(default)s)",
        )
        parser.add_argument(
            "--max_error_fraction",
            type=float,
            default=0.05,
            metavar="F",
            help="exit with status 3 if more than this share of the items failed (default %(default)s)",
        )


class ModelOptions(PipelineOptions):
    """Flags of the jobs that run a model."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--model", default=DEFAULT_MODEL, metavar="SAVEDMODEL", help="generator (default: the one that ships)"
        )
        parser.add_argument(
            "--model_sha256",
            default=None,
            metavar="DIGEST",
            help="refuse a model with another digest (`python -m models.vetting SAVEDMODEL` prints it, every summary"
            " has it as model_sha256)",
        )
        parser.add_argument(
            "--trust_model",
            action="store_true",
            default=False,
            help="load a model whose graph could reach files, other programs or machines",
        )
        parser.add_argument(
            "--size_multiple",
            type=int,
            default=1,
            metavar="N",
            help="pad sides to a multiple of N for a model that needs it (default %(default)s)",
        )
        parser.add_argument(
            "--max_batch_size",
            type=int,
            default=32,
            metavar="N",
            help="most thumbnails in one call of the model (default %(default)s)",
        )
        parser.add_argument(
            "--colourise",
            choices=COLOURISE,
            default="never",
            help="give black-and-white pictures invented colours: never, where the caption names a colour, or always"
            " (default %(default)s)",
        )
        parser.add_argument(
            "--keep_grain",
            action="store_true",
            default=False,
            help="correct colours only: leave grain, scratches and JPEG artefacts as they are",
        )
        parser.add_argument(
            "--overwrite", action="store_true", default=False, help="redo an output folder that holds finished results"
        )


def parse(
    command: str, description: str, own: type[PipelineOptions], argv: Sequence[str], *more: type[PipelineOptions]
) -> PipelineOptions:
    """Reads a command line: our flags, then Beam's. Exits with status 2 and one line if it cannot be run.

    Args:
      command: e.g. `restore`.
      description: For `--help`.
      own: The command's own options.
      argv: Without the program's name.
      more: Options that the command shares with another.
    """
    parser = Parser(
        prog=f"unfade {command}",
        description=description,
        epilog="Beam's own options (--runner, --direct_num_workers, --temp_location, ...) are taken as well.",
        allow_abbrev=False,
    )
    every: tuple[type[PipelineOptions], ...] = (JobOptions, own, *more)
    for known in every:
        known._add_argparse_args(parser)
    given, rest = parser.parse_known_args(list(argv))
    for name in ("input", "output"):
        if not getattr(given, name):
            parser.error(f"--{name} is missing")
    if given.max_pixels < 1:
        parser.error(f"--max_pixels {given.max_pixels} is less than 1")
    if not 0 < given.max_item_seconds < float("inf"):
        parser.error(f"--max_item_seconds {given.max_item_seconds} is not a number of seconds above 0")
    for digest in (getattr(given, "model_sha256", None) or "").split(","):
        if digest and not re.fullmatch("[0-9a-f]{64}", digest):
            parser.error(f"--model_sha256 {digest} is no SHA-256: 64 digits 0-9a-f")
    if not 0 <= given.max_error_fraction <= 1:
        parser.error(f"--max_error_fraction {given.max_error_fraction} is not between 0 and 1")
    beams = beams_parser()
    beams.exit_on_error = False
    try:
        _, unknown = beams.parse_known_args(rest)
    except argparse.ArgumentError as error:
        parser.error(str(error))
    if unknown:
        parser.error(f"unknown option {unknown[0]}")
    options = PipelineOptions(list(argv))
    standard = options.view_as(StandardOptions)
    if standard.runner is None:
        standard.runner = LOCAL_RUNNER
    if is_local(options):
        direct = options.view_as(DirectOptions)
        if not any(word.split("=")[0] == "--direct_num_workers" for word in argv) or direct.direct_num_workers == 0:
            direct.direct_num_workers = os.cpu_count() or 1
        if direct.direct_num_workers > 1 and not any(w.split("=")[0] == "--direct_running_mode" for w in argv):
            direct.direct_running_mode = _PROCESSES
    return options


def beams_parser() -> argparse.ArgumentParser:
    """A parser of Beam's own options."""
    beams = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for own in PipelineOptions.__subclasses__():
        if own.__module__.startswith("apache_beam."):
            try:
                own._add_argparse_args(beams)
            except argparse.ArgumentError:
                continue  # two of Beam's classes may share a flag
    return beams


def is_local(options: PipelineOptions) -> bool:
    """Whether the job runs in this machine's own processes."""
    return options.view_as(StandardOptions).runner in (LOCAL_RUNNER, "DirectRunner", "BundleBasedDirectRunner")


def has_worker_processes(options: PipelineOptions) -> bool:
    """Whether the job runs in processes that this one starts."""
    mode = options.view_as(DirectOptions).direct_running_mode
    return options.view_as(StandardOptions).runner == LOCAL_RUNNER and mode == _PROCESSES


_PROCESSES = "multi_processing"


def plain(options: PipelineOptions, *own: type[PipelineOptions]) -> dict[str, Any]:
    """Our own options as plain values, for the summary."""
    parser = argparse.ArgumentParser(add_help=False)
    every: tuple[type[PipelineOptions], ...] = (JobOptions, *own)
    for known in every:
        known._add_argparse_args(parser)
    given = options.get_all_options()
    return {action.dest: given.get(action.dest) for action in parser._actions}


def is_noise(line: str) -> bool:
    """Whether a line on standard error is one that TensorFlow writes whenever it is loaded."""
    return line.startswith("WARNING: All log messages before absl::InitializeLog") or "cudart_stub.cc" in line


def load_tensorflow() -> None:
    """Imports TensorFlow, which takes seconds, without the lines that it writes past Python to standard error."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as told, contextlib.ExitStack() as after:
        try:
            kept = os.dup(2)
        except OSError:  # closed
            return
        after.callback(os.close, kept)
        os.dup2(told.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        finally:
            os.dup2(kept, 2)
            told.seek(0)
            for line in told.read().decode("utf-8", "replace").splitlines():
                if not is_noise(line):
                    print(line, file=sys.stderr)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def _terminate(number: int, _: Any) -> NoReturn:
    raise _Terminated("", signal.Signals(number))


def signal_of(stop: KeyboardInterrupt) -> signal.Signals:
    """Which signal it was."""
    return stop.args[1] if len(stop.args) > 1 else signal.SIGINT


def leave(status: int) -> NoReturn:
    """Ends this process now: Python would wait for threads of Beam's, and native libraries would take theirs down.

    Those of gRPC, Arrow and TensorFlow are still at work then, now and again, and end the process by `abort` (status
    134) when all was done.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            if stream is not None:  # as it is where a scheduler starts programs without one
                stream.flush()
    ending = threading.Timer(5.0, os._exit, (status,))  # whatever the exit functions wait for
    ending.daemon = True
    ending.start()
    atexit._run_exitfuncs()
    os._exit(status)


def main(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command as a program: errors become one line and an exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    if not os.environ.get("UNFADE_DEBUG"):
        # Beam tells the traceback of what is told here in a line.
        logging.getLogger("apache_beam.runners.worker").setLevel(logging.CRITICAL)
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(command(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        print(f"unfade: {printable(str(error))}", file=sys.stderr)
        sys.exit(BAD_USAGE)
    except KeyboardInterrupt as stop:
        told = stop.args[0] if stop.args else ""
        print(f"unfade: {told or f'stopped by {signal_of(stop).name}'}", file=sys.stderr)
        if told:
            leave(128 + signal_of(stop))
        sys.exit(128 + signal_of(stop))
    except ItemFailure as failure:
        print(f"unfade: {printable(failure.message)}", file=sys.stderr)
        sys.exit(FAILED)
    except Exception as error:
        if os.environ.get("UNFADE_DEBUG"):
            raise
        first = printable((str(error).strip().splitlines() or [""])[0][:500])
        print(f"unfade: {type(error).__name__}: {first} (UNFADE_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(FAILED)
