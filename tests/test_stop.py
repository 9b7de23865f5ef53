"""Ctrl-C and SIGTERM: workers gone, lock released, a summary, and a command that does the rest."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import archives
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pillow_files import file_of
from test_console import descendants, end
from test_kills import alive, finished, wait_for

from pipelines import restore
from transforms import launcher

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
PICTURES = 70


def stopped(
    command: list[str], output: pathlib.Path, log: pathlib.Path, number: signal.Signals, environment: dict[str, str]
) -> tuple[int, str]:
    """Runs a command, sends a signal once it has restored some pictures; exit status and what it said."""
    before = len(finished(output))
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
            # Tests that run in the background of a shell ignore it, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        ) as run,
    ):
        try:
            wait_for(lambda: len(finished(output)) > before + 1 or run.poll() is not None)
            assert run.poll() is None, log.read_text()
            processes = descendants(run.pid)
            assert processes
            if number == signal.SIGINT:
                os.killpg(run.pid, number)  # as a terminal does: to the workers, too
            else:
                run.send_signal(number)
            status = run.wait(timeout=20)
            assert not [line for pid, line in processes.items() if alive(pid)]
        finally:
            with contextlib.suppress(ProcessLookupError):
                end([*descendants(run.pid), run.pid])
    return status, log.read_text()


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="finds the workers by /proc")
def test_a_run_that_is_stopped_says_how_to_go_on(foreign_models: dict[str, str], tmp_path: pathlib.Path) -> None:
    scans, output, temporary = tmp_path / "the scans", tmp_path / "out", tmp_path / "temporary"
    scans.mkdir()
    temporary.mkdir()
    for number in range(PICTURES):
        (scans / f"{number:03d}.png").write_bytes(
            file_of(Image.fromarray(archives.photograph(number, 150, 200)), "PNG")
        )
    (scans / "000 bad.jpg").write_bytes(b"<html>")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    given = ["--input", str(scans), "--output", str(output), "--model", foreign_models["inverted"]]
    more = ["--direct_num_workers", "2", "--max_batch_size", "4", "--progress", "json"]
    command = [sys.executable, "-m", "pipelines.cli", "restore", *given, *more, "--overwrite"]

    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = len(finished(output))
        found, said = stopped(command, output, tmp_path / "log", number, environment)
        assert found == status, said
        assert "Traceback" not in said
        assert "Worker subprocess" not in said
        last = json.loads(next(line for line in reversed(said.splitlines()) if line.startswith("{")))
        assert last["stage"] == "stopped"
        counts = re.search(rf"stopped by {number.name}: (\d+) done, (\d+) failed, (\d+) left", said)
        assert counts
        done, failed, left = map(int, counts.groups())
        assert (last["done"], last["failed"], last["found"]) == (done, failed, done + failed + left)
        assert done >= 2
        assert left > 0
        # A picture may be in its place whose worker had no time to mark it, or to write its row.
        assert abs(len(finished(output)) - before - done) <= 10
        assert not (output / "unfinished" / "lock").exists()
        assert list(temporary.iterdir()) == []
        command = shlex.split(said.rstrip().splitlines()[-1])
        assert command[1:] == ["-m", "pipelines.cli", "restore", *given, *more]

    assert restore.main([*command[4:], "--direct_num_workers", "1"]) == 0  # in this process, which has all loaded
    body = json.loads((output / "summary.json").read_text())
    assert body["counts"]["input"] == PICTURES + 1
    assert body["counts"]["failed"] == 1
    assert 0 < body["counts"]["restored"] <= PICTURES  # rows are written every few seconds: a quick stop may leave none
    assert pq.read_table(output / "metrics").num_rows == PICTURES == len(finished(output))
    assert not (output / "unfinished").exists()


@pytest.mark.parametrize(("ending", "status"), [("", 0), ("raise ValueError", 1)])
def test_a_worker_leaves_when_its_work_is_done(tmp_path: pathlib.Path, ending: str, status: int) -> None:
    """At once, but not without removing what was to be removed in the end; Beam learns whether it was an exception."""
    code = (
        "import atexit, pathlib, sys\nfrom transforms import launcher\nkept = pathlib.Path(sys.argv[1], 'kept')\n"
        "kept.touch()\natexit.register(kept.unlink)\nlauncher.end_with(sys.argv[1])\n"
        f"atexit.register(print, 'left', flush=True)\n{ending}\n"
    )
    with launcher.folder() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
        )
        assert (done.returncode, done.stdout) == (status, "left\n")
        assert not pathlib.Path(folder, "kept").exists()
