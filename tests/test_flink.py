"""Jobs on a Flink cluster of one JobManager and two TaskManagers write what a local run writes.

Needs the cluster that `make test-flink` installs; skipped elsewhere.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image
from pillow_files import file_of

pytestmark = [
    pytest.mark.flink,
    pytest.mark.timeout(1200),  # of a busy machine; an idle one needs a third
    pytest.mark.skipif("FLINK_HOME" not in os.environ, reason="no Flink; make test-flink"),
]

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = ROOT / "deploy" / "flink" / "flink.sh"
PARTS = 500
BROKEN = 3
MARKER = "picked"
"""A column that the catalogue carries: what is not ours must come through, too."""

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "TF_CPP_MIN_LOG_LEVEL": "3"}


def flink(*words: str) -> str:
    command = [str(SCRIPT), *words]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[str]]:
    """A running cluster, as the options that send a job to it."""
    try:
        flink("start")
        yield flink("options").splitlines()
    finally:
        flink("stop")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The samples as they are, 500 small pictures cut out of them, and three files that are none."""
    folder = tmp_path_factory.mktemp("scans [1]")
    with (ROOT / "samples" / "pairs.csv").open(newline="") as file:
        samples = list(csv.DictReader(file))
    rows = [{**row, "image": str(ROOT / "samples" / row["image"]), MARKER: "no"} for row in samples]
    for row in rows:
        row["target"] = row["target"] and str(ROOT / "samples" / row["target"])
    scans = []
    for row in samples:
        with Image.open(ROOT / "samples" / row["image"]) as scan:
            scan.thumbnail((640, 640))
            scans.append(scan.convert("RGB"))
    for number in range(PARTS):
        scan, sample = scans[number % len(scans)], samples[number % len(scans)]
        width, height = 96 + number % 97, 96 + number % 89
        left, top = number * 37 % (scan.width - width), number * 53 % (scan.height - height)
        suffix, kind = ((".jpg", "JPEG"), (".png", "PNG"), (".tif", "TIFF"))[number % 3]
        name = f"part {number:03d} ü{suffix}"
        (folder / name).write_bytes(file_of(scan.crop((left, top, left + width, top + height)), kind))
        words = sample["caption"].split()
        rows.append({"image": name, "caption": " ".join(words[: number % (len(words) + 1)]), MARKER: str(number % 7)})
    for number in range(BROKEN):
        (folder / f"broken {number}.jpg").write_bytes(b"<html>")
        rows.append({"image": f"broken {number}.jpg", MARKER: "no"})
    with (folder / "catalogue.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*samples[0], MARKER], restval="")
        table.writeheader()
        table.writerows(rows)
    return str(folder / "catalogue.csv")


def unfade(*arguments: str, status: int = 0, meanwhile: Callable[[subprocess.Popen], None] | None = None) -> float:
    """Runs a command to its end; how long it took, in seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        try:
            if meanwhile:
                meanwhile(run)
            said, _ = run.communicate(timeout=900)
        finally:
            run.kill()
    assert run.returncode == status, said
    seconds = time.monotonic() - began
    print(f"{arguments[0]}: {seconds:.0f} s")
    return seconds


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def summary(folder: pathlib.Path) -> Any:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def prepared(catalogue: str, cluster: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """What `prepare` writes here, and what it writes on the cluster."""
    folder = tmp_path_factory.mktemp("records")
    unfade("prepare", "--input", catalogue, "--output", f"{folder}/here")
    unfade("prepare", "--input", catalogue, "--output", f"{folder}/flink", *cluster)
    return {"here": folder / "here", "flink": folder / "flink"}


@pytest.fixture(scope="module")
def restored(catalogue: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What `restore` writes here."""
    folder = tmp_path_factory.mktemp("restored") / "here"
    unfade("restore", "--input", catalogue, "--output", str(folder))
    return folder


def check_same(restored: pathlib.Path, output: pathlib.Path) -> None:
    """Pictures, tables, errors and previews byte for byte, and a summary that adds up."""
    for part in ("images", "metrics", "errors", "report/previews"):
        assert differences(files(restored / part), files(output / part)) == [], part
    assert len(files(output / "images")) == 16 + PARTS
    here, there = summary(restored), summary(output)
    counts = there["counts"]
    assert counts == {"input": 16 + PARTS + BROKEN, "restored": 16 + PARTS, "skipped": 0, "failed": BROKEN}
    for name in ("errors", "with_target", "model_sha256", "decisions", "rows_of_other_inputs"):
        assert there[name] == here[name], name
    for when in ("before", "after"):
        assert there["quality"][when] == pytest.approx(here["quality"][when]), when
    assert {path.name for path in output.iterdir()} == {path.name for path in restored.iterdir()}


def test_prepare(prepared: dict[str, pathlib.Path]) -> None:
    here, there = files(prepared["here"]), files(prepared["flink"])
    shards = [name for name in here if name.endswith(".tfrecord")]
    assert len(shards) == 8
    told = {"summary.json", "transform_fn/saved_model.pb", "transform_fn/fingerprint.pb"}
    assert [name for name in differences(here, there) if name not in told] == []
    assert summary(prepared["flink"])["counts"] == {
        "input": 16 + PARTS + BROKEN,
        "prepared": 16 + PARTS,
        "skipped": 0,
        "failed": BROKEN,
    }


def test_restore_of_records(
    prepared: dict[str, pathlib.Path], restored: pathlib.Path, cluster: list[str], tmp_path: pathlib.Path
) -> None:
    """Of one shard only, to be quick."""
    told = json.loads((prepared["flink"] / "_SUCCESS").read_text())
    shard = told["shards"][0]
    ids = {
        tf.train.Example.FromString(record.numpy()).features.feature["id"].bytes_list.value[0].decode()
        for record in tf.data.TFRecordDataset(str(prepared["flink"] / shard))
    }
    (tmp_path / "records").mkdir()
    shutil.copy(prepared["flink"] / shard, tmp_path / "records")
    (tmp_path / "records" / "_SUCCESS").write_text(json.dumps({**told, "shards": [shard], "records": len(ids)}))
    unfade("restore", "--input", f"{tmp_path}/records", "--output", f"{tmp_path}/out", *cluster)
    assert summary(tmp_path / "out")["counts"] == {"input": len(ids), "restored": len(ids), "skipped": 0, "failed": 0}
    there, here = files(tmp_path / "out" / "images"), files(restored / "images")
    assert len(there) == len(ids) > PARTS // 16
    assert [name for name in there if there[name] != here[name]] == []


def test_a_task_manager_is_killed(
    catalogue: str, restored: pathlib.Path, cluster: list[str], tmp_path: pathlib.Path
) -> None:
    """The job goes on without it, does again what it had, and ends as if nothing had been."""
    output = tmp_path / "out"
    done_before: list[int] = []  # when it was killed

    def kill(run: subprocess.Popen) -> None:
        while len(files(output / "images")) < PARTS // 5:
            assert run.poll() is None, "the run was over before the kill"
            time.sleep(0.2)
        flink("kill", "1")
        done_before.append(len(files(output / "images")))
        flink("worker", "1")  # as whatever runs the cluster would

    unfade("restore", "--input", catalogue, "--output", str(output), *cluster, meanwhile=kill)
    assert PARTS // 5 <= done_before[0] < PARTS
    check_same(restored, output)
    assert restarts(cluster) >= 1


def restarts(cluster: list[str]) -> int:
    """How often tasks of the last job were started again."""
    with urllib.request.urlopen(f"{address()}/jobs/overview", timeout=10) as answer:
        job = max(json.load(answer)["jobs"], key=lambda job: job["start-time"])
    with urllib.request.urlopen(f"{address()}/jobs/{job['jid']}/exceptions", timeout=10) as answer:
        return len(json.load(answer)["exceptionHistory"]["entries"])


def address() -> str:
    return f"http://localhost:{os.environ.get('FLINK_PORT', '8081')}"


def test_what_is_done_is_skipped(restored: pathlib.Path, catalogue: str, cluster: list[str]) -> None:
    """A run on the cluster takes up what one on this machine left."""
    before = files(restored / "images")
    victim = restored / "images" / "part 007 ü.png"
    victim.unlink()
    unfade("restore", "--input", catalogue, "--output", str(restored), *cluster)
    counts = summary(restored)["counts"]
    assert (counts["restored"], counts["skipped"], counts["failed"]) == (1, 15 + PARTS, BROKEN)
    assert files(restored / "images") == before
    with contextlib.suppress(FileNotFoundError):
        assert list((restored / "unfinished").iterdir()) == []
