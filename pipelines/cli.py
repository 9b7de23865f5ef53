"""The console command `unfade`: picks the job by its first word. Imports nothing heavy before a job is named."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator

COMMANDS = {
    "prepare": "turn image/caption pairs into TFRecords with a transform graph",
    "train": "train a generator on prepared records",
    "restore": "restore photographs, from pairs or from prepared records",
    "evaluate": "score models and baselines on pairs that have a target",
    "report": "write the HTML report of a finished run again",
    "plan": "work out from a sample run how many machines, hours and how much money a large one takes",
    "review": "look at a finished run in the browser and decide picture by picture",
}

WORKERS_NEED = {
    "prepare": ("pipelines.prepare", "transforms.features", "transforms.loading"),
    "restore": ("pipelines.restore", "models.loading", "transforms.inference", "transforms.loading"),
    "evaluate": ("pipelines.evaluate", "models.loading", "transforms.evaluation", "transforms.loading"),
}
"""Modules that their steps import, TensorFlow with them."""


def usage() -> str:
    """What `unfade --help` prints."""
    lines = ["usage: unfade COMMAND [options]", "", "Restores the colours of archive photographs.", ""]
    lines += [f"  {name:<10}{what}" for name, what in COMMANDS.items()]
    lines += ["", "`unfade COMMAND --help` explains a command's options. Exit status: 0 done; 1 failed; 2 bad usage;"]
    lines += ["3 done, but too many items failed (--max_error_fraction)."]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the console script: runs the command and ends the process."""
    try:
        run(sys.argv[1:])
    except SystemExit as exit_:
        if "pipelines.options" in sys.modules and isinstance(exit_.code, int):
            from pipelines import options

            options.leave(exit_.code)
        raise
    except KeyboardInterrupt:  # while the job was being loaded, before it could see to that
        print("unfade: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def _workers(arguments: list[str]) -> Iterator[None]:
    """Begins with what a job's workers need before the job itself is loaded, where it is going to start some."""
    one = re.search(r"--direct_num_workers[= ]1\b", " ".join(arguments))
    elsewhere = {"-h", "--help"}.intersection(arguments) or any(word.startswith("--runner") for word in arguments)
    if arguments[0] not in WORKERS_NEED or one or elsewhere or os.cpu_count() == 1:
        yield
        return
    from transforms import forkserver, launcher

    with contextlib.ExitStack() as open_:
        with contextlib.suppress(OSError):  # no temporary folder: the job itself says so
            folder = open_.enter_context(launcher.folder())
            open_.enter_context(forkserver.running(folder, WORKERS_NEED[arguments[0]]))
        yield


def run(arguments: list[str]) -> None:
    """Runs the command that the first word names; ends in SystemExit with its status, but for --version."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from importlib import metadata

        print(f"unfade {metadata.version('unfade')}")
        return
    if arguments[0] not in COMMANDS:
        print(f"unfade: unknown command {arguments[0]!r}; one of: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    quiet = {"-h", "--help", "quiet", "json", "--progress=quiet", "--progress=json"}.intersection(arguments)
    if arguments[0] in ("prepare", "train", "restore", "evaluate") and sys.stderr.isatty() and not quiet:
        # Five seconds and more pass before the job itself can show anything.
        print("loading TensorFlow and Beam", file=sys.stderr, flush=True)
    with _workers(arguments):
        job = importlib.import_module(f"pipelines.{arguments[0]}")
        from pipelines import options

        options.main(job.main, arguments[1:])


if __name__ == "__main__":
    main()
