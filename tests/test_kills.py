"""Real runs that end by SIGKILL, at any moment and many times, lose nothing, double nothing and leave nothing torn."""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import archives
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pillow_files import file_of
from test_console import descendants, end

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
PICTURES = 60
KILLS = 12


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Small pictures, and three files that are none."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(PICTURES):
        suffix, kind = ((".jpg", "JPEG"), (".png", "PNG"), (".bmp", "BMP"))[number % 3]
        image = Image.fromarray(archives.photograph(number, 150, 200))
        (folder / f"scan {number:03d}{suffix}").write_bytes(file_of(image, kind))
    for number in range(3):
        (folder / f"bad {number}.jpg").write_bytes(b"<html>")
    return folder


class Runs:
    """Runs one after another, see `killing`."""

    def __init__(self, log: pathlib.Path) -> None:
        self._log = log.open("wb")
        self._server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "killing.py")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def begin(self, *arguments: str) -> int:
        """The process of a new run."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def result(self) -> int:
        """How the run ended."""
        assert self._server.stdout
        return int(self._server.stdout.readline())

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._log.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("log") / "log")
    yield runs
    runs.close()


def below(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished(output: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in (output / "images").glob("*") if not path.name.startswith(".")]


def check_complete(output: pathlib.Path, whole: dict[str, bytes]) -> None:
    found = below(output)
    assert set(found) == set(whole)
    for name, data in whole.items():
        assert found[name] == data or name == "summary.json" or name.startswith("report/"), name
    counts = json.loads(found["summary.json"])["counts"]
    assert (counts["input"], counts["failed"]) == (PICTURES + 3, 3)
    assert counts["restored"] + counts["skipped"] == PICTURES
    ids = pq.read_table(output / "metrics").column("id").to_pylist()
    assert len(ids) == len(set(ids)) == PICTURES


def given(scans: pathlib.Path, output: pathlib.Path, model: str, workers: int = 1) -> list[str]:
    options = {"input": scans, "output": output, "model": model, "max_batch_size": 4, "direct_num_workers": workers}
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def whole(
    runs: Runs, scans: pathlib.Path, foreign_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What a run leaves that nothing disturbs."""
    output = tmp_path_factory.mktemp("whole") / "out"
    runs.begin(*given(scans, output, foreign_models["inverted"]), "--max_error_fraction", "0.06")
    assert runs.result() == 0
    return below(output)


def test_killed_at_random(
    runs: Runs, scans: pathlib.Path, whole: dict[str, bytes], foreign_models: dict[str, str], tmp_path: pathlib.Path
) -> None:
    seed = int(os.environ.get("UNFADE_TEST_SEED", "5"))
    draw, output = random.Random(seed), tmp_path / "out"
    arguments = given(scans, output, foreign_models["inverted"])
    kills, work, redone = 0, 0, 0
    while kills < KILLS:
        before = {path: path.stat().st_mtime_ns for path in finished(output)}
        process = runs.begin(*arguments)
        # The moment: after so many pictures, or none, or once all are there; and a little later.
        wanted = draw.choice((0, 0, 1, 2, 5, 9, PICTURES))
        deadline = time.monotonic() + draw.uniform(0, 6 if wanted in (0, PICTURES) else 60)
        while time.monotonic() < deadline and len(finished(output)) < min(PICTURES, len(before) + max(1, wanted)):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(process, signal.SIGKILL)
        status = runs.result()
        after = {path: path.stat().st_mtime_ns for path in finished(output)}
        work += sum(before.get(path) != time for path, time in after.items())
        redone += sum(path in before and before[path] != time for path, time in after.items())
        if status == -signal.SIGKILL:
            kills += 1
        else:
            assert status in (0, 3), f"seed {seed}"
            for path in draw.sample(sorted(after), PICTURES // 2):  # done too soon: make work again
                path.unlink()
        for path in finished(output):
            assert path.read_bytes() == whole[f"images/{path.name}"], f"{path.name} is torn, seed {seed}"
        for path in [*output.glob("metrics/*.parquet"), *output.glob("unfinished/rows-*")]:
            pq.read_table(path)
    runs.begin(*arguments, "--max_error_fraction", "0.06")
    assert runs.result() == 0
    check_complete(output, whole)
    print(f"{kills} kills, {work} pictures written, {redone} of them again")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.restore", *arguments]


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="finds the workers by /proc")
def test_workers_do_not_outlive_their_launcher_and_a_second_run_is_refused(
    runs: Runs, scans: pathlib.Path, whole: dict[str, bytes], foreign_models: dict[str, str], tmp_path: pathlib.Path
) -> None:
    output, folder = tmp_path / "out", tmp_path / "temporary"
    folder.mkdir()
    arguments = given(scans, output, foreign_models["inverted"], workers=2)
    log = (tmp_path / "log").open("wb")
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command(*arguments), cwd=ROOT, stdout=log, stderr=log, env=environment) as first:
        try:
            wait_for(lambda: len(finished(output)) >= 3 or first.poll() is not None)
            assert first.poll() is None, (tmp_path / "log").read_text()
            workers = descendants(first.pid)
            for pid in (first.pid, *workers):
                os.kill(pid, signal.SIGSTOP)  # or it might be done before the second has started
            second = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)
            assert second.returncode == 2
            assert f"another run (process {first.pid} on " in second.stderr
            assert f"is writing to {output}; wait for it, stop it, or name another --output" in second.stderr
            first.kill()
            first.wait()
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            wait_for(lambda: not any(alive(pid) for pid in workers), seconds=20)
        finally:
            end([*descendants(first.pid), first.pid])
    assert list(folder.iterdir())
    third = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert third.returncode == 0, third.stderr
    check_complete(output, whole)
    assert list(folder.iterdir()) == []


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.02)
