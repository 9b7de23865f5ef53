"""A local run that loses a worker process says so and ends."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import subprocess
import sys
import time
from os import kill

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def descendants(of: int) -> dict[int, str]:
    """Command lines of the processes below one, by process id."""
    parents, commands = {}, {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # gone meanwhile
    found = {of}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: commands[pid] for pid in found - {of}}


def end(processes: list[int]) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="finds the workers by /proc")
def test_a_worker_killed_before_it_connects_ends_the_run(saved_model: str, tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pipelines.restore", "--input", str(ROOT / "samples" / "pairs.csv")]
    command += ["--model", saved_model, "--output", str(tmp_path / "out"), "--direct_num_workers", "2"]
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as run:
        try:
            workers: list[int] = []
            deadline = time.monotonic() + 120
            while not workers and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                workers = [pid for pid, line in descendants(run.pid).items() if "sdk_worker_main" in line]
            assert workers, log.read_text()
            end(list(descendants(run.pid)))
            assert run.wait(timeout=60) == 1
        finally:
            if run.poll() is None:
                end([*descendants(run.pid), run.pid])
    assert log.read_text().count("unfade: Worker subprocess exited with return code") >= 1
