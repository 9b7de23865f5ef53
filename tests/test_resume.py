"""Runs taken up again: what is done is skipped, what has changed is not, and nothing is lost or told twice."""

from __future__ import annotations

import csv
import json
import os
import pathlib
from typing import Any

import archives
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pillow_files import file_of

from pipelines import evaluate, prepare, restore, train
from transforms import journal, run_lock, storage
from transforms.items import UsageError

pytestmark = pytest.mark.slow


def run(source: pathlib.Path | str, output: pathlib.Path | str, model: str, *more: str) -> int:
    given = ["--input", str(source), "--output", str(output), "--model", model, "--direct_num_workers", "1"]
    return restore.main([*given, *more])


def below(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(output: pathlib.Path) -> list[dict[str, Any]]:
    return [row for path in sorted(output.glob("metrics/metrics-*.parquet")) for row in pq.read_table(path).to_pylist()]


def errors(output: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in output.glob("errors/*.jsonl") for line in path.read_text().splitlines()]


def summary(output: pathlib.Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return body


def counts(output: pathlib.Path) -> tuple[int, int, int]:
    """Restored, skipped, failed of the last run, which is checked to add up and to have left nothing lying about."""
    said = summary(output)["counts"]
    assert said["input"] == said["restored"] + said["skipped"] + said["failed"]
    assert sum(group["count"] for group in summary(output)["errors"].values()) == said["failed"] == len(errors(output))
    found = rows(output)
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        assert (output / row["output"]).stat().st_size == row["bytes_out"]
    assert {name.split("/")[0] for name in below(output)} <= {"images", "metrics", "errors", "summary.json", "report"}
    assert not [name for name in below(output) if "tmp" in name]
    return said["restored"], said["skipped"], said["failed"]


def times(output: pathlib.Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "images").rglob("*") if path.is_file()}


def written(before: dict[str, int], output: pathlib.Path) -> set[str]:
    """Names of the pictures that have been written since."""
    return {name for name, time in times(output).items() if before.get(name) != time}


def picture(path: pathlib.Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG"}.get(path.suffix, path.suffix[1:].upper())
    path.write_bytes(file_of(Image.fromarray(archives.photograph(seed, 20, 30)), kind))


def later(path: pathlib.Path) -> None:
    """Sets a file's time forward, as a change in place would: the clock may not have moved since it was made."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


@pytest.fixture
def model(foreign_models: dict[str, str]) -> str:
    return foreign_models["inverted"]


@pytest.fixture
def scans(tmp_path: pathlib.Path) -> pathlib.Path:
    """Four pictures, one with its caption beside it, and two files that are none."""
    folder = tmp_path / "scans 港"
    for seed, name in enumerate(("a.png", "b.png", "deep/c.bmp", "deep/d.png")):
        picture(folder / name, seed)
    (folder / "b.txt").write_text("A caption")
    (folder / "bad.jpg").write_bytes(b"<html>")
    (folder / "empty.png").write_bytes(b"")
    return folder


def test_only_what_is_missing_or_changed(
    scans: pathlib.Path, model: str, foreign_models: dict[str, str], tmp_path: pathlib.Path
) -> None:
    """One output through the life of an archive."""
    output = tmp_path / "out [1] 港"
    assert run(scans, output, model) == 3
    assert counts(output) == (4, 0, 2)
    first, seen = below(output), times(output)

    # The same command again tries what failed, and leaves all else.
    assert run(scans, output, model) == 3
    assert counts(output) == (0, 4, 2)
    assert written(seen, output) == set()
    assert summary(output)["skipped"] == {"done_before": 4, "not_tried": 0}
    for name in ("metrics/metrics-00000-of-00001.parquet", "errors/errors-00000-of-00001.jsonl"):
        assert below(output)[name] == first[name]
    for mean in ("colourfulness", "noise"):  # of all pictures, whenever they were restored
        assert summary(output)["quality"]["after"][mean] == pytest.approx(
            json.loads(first["summary.json"])["quality"]["after"][mean]
        )

    # A new picture, one whose bytes changed in place, a changed caption, outputs removed and cut off, a mended file.
    picture(scans / "new.png", 9)
    before = (scans / "deep/c.bmp").stat()
    picture(scans / "deep/c.bmp", 8)
    assert (scans / "deep/c.bmp").stat().st_size == before.st_size
    os.utime(scans / "deep/c.bmp", ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    (scans / "b.txt").write_text("Another caption")
    (output / "images/a.png").unlink()
    (output / "images/deep/d.png").write_bytes(b"cut off")
    picture(scans / "empty.png", 7)
    assert run(scans, output, model) == 3
    assert counts(output) == (6, 0, 1)
    assert {row["id"]: row["caption"] for row in rows(output)}["b.png"] == "Another caption"

    # A changed option, another model, and back again.
    seen = times(output)
    assert run(scans, output, model, "--no_history", "--max_error_fraction", "1", "--max_batch_size", "2") == 0
    assert counts(output) == (6, 0, 1)
    assert written(seen, output) == set(seen)
    run(scans, output, foreign_models["by caption"], "--no_history")
    assert counts(output) == (6, 0, 1)
    run(scans, output, model)
    assert counts(output) == (6, 0, 1)
    run(scans, output, model, "--max_pixels", "100000", "--allow_truncated")  # which only let more through
    assert counts(output) == (0, 6, 1)

    # Other formats have other names: no old picture is left beside the new one.
    run(scans, output, model, "--output_format", "tiff")
    assert counts(output) == (6, 0, 1)
    assert set(times(output)) == {"a.png.tif", "b.png.tif", "c.bmp.tif", "d.png.tif", "empty.png.tif", "new.png.tif"}

    # A part of the input leaves the rest of the table alone.
    seen = times(output)
    assert run(f"{scans}/[an]*.png", output, model, "--output_format", "tiff") == 0
    assert counts(output) == (0, 2, 0)
    assert summary(output)["rows_of_other_inputs"] == 4
    assert len(rows(output)) == 6
    assert written(seen, output) == set()

    # All again.
    assert run(scans, output, model, "--output_format", "tiff", "--overwrite") == 3
    assert counts(output) == (6, 0, 1)
    assert written(seen, output) == set(seen)


def test_a_source_that_fails_now(scans: pathlib.Path, model: str, tmp_path: pathlib.Path) -> None:
    """Its picture stays, but no row says that it is the source's."""
    output = tmp_path / "out"
    run(scans, output, model)
    (scans / "a.png").write_bytes(b"")
    run(scans, output, model)
    assert counts(output) == (0, 3, 3)
    assert "a.png" not in {row["id"] for row in rows(output)}
    assert (output / "images/a.png").exists()
    picture(scans / "a.png", 0)
    run(scans, output, model)
    assert counts(output) == (1, 3, 2)


def test_what_is_left_of_an_output(scans: pathlib.Path, model: str, tmp_path: pathlib.Path) -> None:
    """Whatever became of it, the next run is right, or says which file to remove, and then is right."""
    output = tmp_path / "out"
    run(scans, output, model)
    first = below(output)
    for path in (output / "images").rglob("*.*"):
        path.write_bytes(b"")
    (output / "errors/errors-00000-of-00001.jsonl").write_bytes(b"\0\0")
    assert run(scans, output, model) == 3
    assert counts(output) == (4, 0, 2)
    for name, content, error, skipped in (
        ("summary.json", b"", UsageError, 4),
        ("summary.json", b"[]", UsageError, 4),
        ("unfinished/run.json", b"\0", UsageError, 4),
        ("metrics/metrics-00000-of-00001.parquet", b"", RuntimeError, 0),
    ):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(content)
        with pytest.raises(error, match=f"{name} .*; remove it"):
            run(scans, output, model)
        (output / name).unlink()
        assert run(scans, output, model) == 3
        assert counts(output) == (4 - skipped, skipped, 2)
        for image in (name for name in first if name.startswith("images/")):
            assert below(output)[image] == first[image]


def test_retry_errors_takes_what_failed_and_nothing_else(
    scans: pathlib.Path, model: str, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "out"
    run(scans, output, model)
    picture(scans / "bad.jpg", 3)
    picture(scans / "new.png", 4)
    later(scans / "a.png")
    seen = times(output)
    assert run(scans, output, model, "--retry_errors", "--max_error_fraction", "0.5") == 0
    assert counts(output) == (1, 5, 1)
    assert summary(output)["skipped"] == {"done_before": 3, "not_tried": 2}
    assert written(seen, output) == {"bad.jpg"}
    assert len(rows(output)) == 5  # of `a.png` too, whose picture is still the old one
    run(scans, output, model)
    assert counts(output) == (2, 4, 1)
    with pytest.raises(UsageError, match="--retry_errors takes what failed, --overwrite takes all"):
        run(scans, output, model, "--retry_errors", "--overwrite")


def manifest(path: pathlib.Path, *lines: tuple[str, ...]) -> pathlib.Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def test_manifest(scans: pathlib.Path, model: str, tmp_path: pathlib.Path) -> None:
    """Duplicates, changed targets and relatives; a column that changed costs no picture."""
    output, catalogue = tmp_path / "out", scans / "catalogue.csv"
    header = ("image", "id", "reference", "target", "year", "format")
    manifest(
        catalogue,
        header,
        ("a.png", "one", "", "", "1865", "print"),
        ("b.png", "two", "a.png", "", "1866", ""),
        ("deep/c.bmp", "three", "", "a.png", "", ""),
        ("deep/d.png", "one", "", "", "1867", ""),
        ("deep/d.png", "", "", "", "", ""),
    )
    assert run(catalogue, output, model) == 3
    assert counts(output) == (4, 0, 1)
    [error] = errors(output)
    assert (error["id"], error["error"]) == ("one", "DuplicateId")
    assert "line 5 is taken by line 2" in error["message"]
    assert next(row for row in rows(output) if row["id"] == "one")["uri"] == f"{scans}/a.png"

    manifest(
        catalogue,
        (*header, "place"),
        ("a.png", "one", "", "", "1868", "negative", "Nagasaki"),
        ("b.png", "two", "", "", "1866", "", ""),
        ("deep/c.bmp", "three", "", "b.png", "", "", ""),
        ("deep/d.png", "", "", "", "", "", ""),
        ("a.png", "four", "", "", "", "", "Kobe"),
    )
    seen = times(output)
    assert run(catalogue, output, model) == 0
    assert counts(output) == (3, 2, 0)
    assert written(seen, output) == {"two.png", "three.bmp", "four.png"}
    found = {row["id"]: row for row in rows(output)}
    assert [found["one"][name] for name in ("year", "extra_format", "place")] == ["1868", "negative", "Nagasaki"]
    assert [found["two"][name] for name in ("year", "extra_format", "place")] == ["1866", "", ""]
    assert found["four"]["place"] == "Kobe"
    seen = times(output)
    later(scans / "b.png")  # the picture of `two`, the target of `three`
    assert run(catalogue, output, model) == 0
    assert counts(output) == (2, 3, 0)
    assert written(seen, output) == {"two.png", "three.bmp"}


def test_records(archive_records: str, model: str, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "out"
    assert run(archive_records, output, model) == 0
    first = below(output)
    (output / "images/grey.jpg").unlink()
    assert run(archive_records, output, model) == 0
    assert counts(output) == (1, 11, 0)
    for name, data in below(output).items():
        assert data == first[name] or name == "summary.json" or name.startswith("report/"), name


def test_bundles_replayed_on_a_resumed_run(
    scans: pathlib.Path, model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bundle twice, over an output where some is done; on a disk that takes names for one that differ in case."""
    output = tmp_path / "out"
    assert run(scans, output, model) == 3
    first, seen = below(output), times(output)
    later(scans / "a.png")
    (output / "images/deep/c.bmp").unlink()
    for seed, name in enumerate(("A.PNG", "E\u0301.png", "\u00e9.png", "deep/a.png")):
        picture(scans / name, seed + 10)
    monkeypatch.setattr(storage, "folds_names", lambda folder: True)
    assert run(scans, output, model, "--direct_runner_bundle_repeat", "2") == 3
    assert counts(output) == (4, 2, 4)
    assert written(seen, output) == {"A.PNG", "c.bmp", "E\u0301.png", "a.png"}
    told = [(error["id"], error["error"]) for error in errors(output) if error["stage"] == "input"]
    assert sorted(told) == [("a.png", "DuplicateId"), ("\u00e9.png", "DuplicateId")]
    for name in ("images/b.png", "images/deep/c.bmp", "images/deep/d.png"):
        assert below(output)[name] == first[name]


class Killed(BaseException):
    """Stands for the end of the process: nothing between it and the launcher may catch it."""


def test_killed_at_every_step_of_the_end(
    scans: pathlib.Path, model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends before its 1st, 2nd, ... write or removal, until one completes; what then is there is what was."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    (scans / "bad.jpg").unlink()
    run(scans, whole, model)
    run(scans, output, model, "--no_history")  # an older run with other options
    real_write, real_delete = storage.write_bytes, storage.delete
    left = 0

    def spend() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    def write(uri: str, data: bytes, **more: bool) -> None:
        spend()
        real_write(uri, data, **more)

    def delete(uris: list[str]) -> None:
        for uri in uris:
            spend()
            real_delete([uri])

    monkeypatch.setattr(storage, "write_bytes", write)
    monkeypatch.setattr(storage, "delete", delete)
    monkeypatch.setattr(journal, "_LEAST_SECONDS", 0.0)
    killed = 0
    for allowed in range(1, 200, 2):
        left = allowed
        try:
            status = run(scans, output, model)
        except (Killed, RuntimeError):
            killed += 1
            (output / "unfinished").mkdir(exist_ok=True)
            (output / "unfinished/lock").write_text("of the one that was killed")
            continue
        assert status == 3
        break
    else:
        pytest.fail("no run completed")
    assert killed >= 8
    restored, skipped, failed = counts(output)
    assert (restored + skipped, failed) == (4, 1)
    for name, data in below(whole).items():
        assert below(output)[name] == data or name == "summary.json" or name.startswith("report/"), name


@pytest.mark.parametrize("name", ["images", "metrics", "errors", "unfinished", "report/data", "report/previews"])
def test_folders_that_are_really_elsewhere_are_refused(
    name: str, scans: pathlib.Path, model: str, tmp_path: pathlib.Path
) -> None:
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "out"
    files = ("metrics-old.parquet", "errors-old.jsonl", "app.js", "notes.txt")
    elsewhere.mkdir()
    for file in files:
        (elsewhere / file).write_text("precious")
    (output / name).parent.mkdir(parents=True)
    (output / name).symlink_to(elsewhere)
    with pytest.raises(UsageError, match=f"{name} leads out of .* by a link; remove the link"):
        run(scans, output, model, "--overwrite")
    assert below(elsewhere) == dict.fromkeys(files, b"precious")


def test_the_lock_does_not_follow_a_link(scans: pathlib.Path, model: str, tmp_path: pathlib.Path) -> None:
    precious, output = tmp_path / "precious", tmp_path / "out"
    precious.write_text("precious")
    (output / "unfinished").mkdir(parents=True)
    (output / "unfinished" / "lock").symlink_to(precious)
    with pytest.raises(UsageError, match=r"unfinished/lock is a link, where the lock of .*out is to be; remove it"):
        run(scans, output, model)
    assert precious.read_text() == "precious"


def test_a_table_that_leads_elsewhere_removes_nothing(scans: pathlib.Path, model: str, tmp_path: pathlib.Path) -> None:
    output, victim = tmp_path / "out", tmp_path / "victim.txt"
    victim.write_text("precious")
    run(scans, output, model)
    for path in output.glob("metrics/*.parquet"):
        table = pq.read_table(path)
        place = table.column_names.index("output")
        pq.write_table(table.set_column(place, "output", pa.array(["../victim.txt"] * len(table))), path)
    run(scans, output, model, "--no_history")
    assert victim.read_text() == "precious"
    assert counts(output)[0] == 4


def test_a_run_that_ends_before_its_first_rows(
    model: str, foreign_models: dict[str, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has replaced pictures that no row tells of, by others of the same size."""
    scans, output = tmp_path / "scans", tmp_path / "out"
    picture(scans / "a.bmp", 1)
    assert run(scans, output, model) == 0
    restored = below(output)["images/a.bmp"]
    with monkeypatch.context() as patched:
        patched.setattr(journal._JournalFn, "_written", lambda self: 1 / 0)
        with pytest.raises(Exception, match="division by zero"):
            run(scans, output, foreign_models["by caption"])
    assert below(output)["images/a.bmp"] != restored
    assert run(scans, output, model) == 0
    assert counts(output) == (1, 0, 0)
    assert below(output)["images/a.bmp"] == restored


def test_errors_that_cannot_be_read(scans: pathlib.Path, model: str, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "out"
    run(scans, output, model)
    [path] = output.glob("errors/*.jsonl")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(Exception, match=rf"{path.name} cannot be read .*; remove it, and run `unfade restore` again"):
        run(scans, output, model, "--retry_errors")
    path.unlink()
    assert run(scans, output, model) == 3
    assert counts(output) == (0, 4, 2)


def test_every_job_refuses_an_output_that_another_writes_to(
    prepared: str, scans: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = f"{tmp_path}/out"
    with run_lock.hold(output):
        for job, source in ((prepare, str(scans)), (evaluate, str(scans)), (train, prepared)):
            with pytest.raises(UsageError, match=r"another run \(process \d+ .*\) is writing to"):
                job.main(["--input", source, "--output", output, *(["--method", "identity"] * (job is evaluate))])
