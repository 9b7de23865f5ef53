"""The hostile archive through the commands: each item is restored or on the list once, and nothing leaves its place."""

from __future__ import annotations

import json
import os
import pathlib
import re
import resource
from typing import Any

import hostile
import pyarrow.parquet as pq
import pytest

from pipelines import evaluate, prepare, restore
from transforms import pairs
from transforms.items import ItemError, UsageError

pytestmark = pytest.mark.slow

LIMITS = ("--max_pixels", "2000000", "--max_item_seconds", "120", "--direct_num_workers", "1")

MENDS = re.compile(
    r"fetch it again|save it anew|raise --|rename it|another id|fill in|leave it out|leave out|check the|check its|"
    r"convert|copy it|split it|in full|remove the link|scale it|run again|may not be read|no file name|see the"
)
"""What a message says of the way out. (What may not be read and what no file can be called mend themselves.)"""

RESTORED = {
    *(f"{suffix} and rubbish behind it.{suffix}" for suffix in hostile.sound()),
    "tif that leads to itself.tif",
    "webp of 2000 frames.webp",
    "profile of noise.jpg",
    "exif that leads to itself.jpg",
    "xmp of a billion laughs.jpg",
    "xmp of a billion laughs.png",
    "xmp that reads a file.jpg",
    "xmp nested 20000 deep.png",
    "its neighbour called a.jpg.png",
    "sound, the first",
    "id of a Windows device with a suffix",
    "id of lower case",
    "id of upper case",
    *(f"caption of {kind}" for kind in hostile.CAPTIONS),
}
"""Kinds in which the picture itself is sound: it must come through."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> hostile.Hostile:
    return hostile.make(tmp_path_factory.mktemp("hostile") / "in")


def found_errors(output: pathlib.Path) -> list[dict[str, Any]]:
    [path] = (output / "errors").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines_of(archive: hostile.Hostile) -> dict[str, int]:
    """Line of the manifest on which each kind begins."""
    lines, line = {}, 2
    for row in archive.rows:
        lines[row.kind] = line
        line += hostile._line(row).count(b"\n")
    return lines


def check_errors(archive: hostile.Hostile, errors: list[dict[str, Any]], done: set[str]) -> None:
    """Each kind that is not done has one record, and no record is of anything else."""
    lines = lines_of(archive)
    left = list(errors)
    for row in archive.rows:
        if row.kind in done:
            continue
        id = row.id.decode("utf-8", "replace") if b"\xe9" not in row.id else row.id.decode("latin-1")
        own = [
            error
            for error in left
            if error["uri"].endswith(f".csv:{lines[row.kind]}")
            or error["id"] == (id or row.image)
            or (not error["id"] and not id and error["uri"].endswith(f"/{row.image}"))
        ]
        assert own, f"{row.kind}: lost"
        left.remove(own[0])
    assert left == []
    for error in errors:
        assert error["stage"] in {"input", "read", "decode", "inference", "write"}, error
        assert re.fullmatch(r"[A-Z]\w+", error["error"]), error
        assert error["error"] != "Unexpected", error
        assert MENDS.search(error["message"]), error
        assert "\n" not in error["message"]
        assert len(error["message"]) < 2 * len(error["uri"] + error["id"]) + 1000


def test_kinds() -> None:
    files = [name for name, _ in (*hostile.damaged(), *hostile.strangers(), *hostile.bombs(), *hostile.metadata("x"))]
    assert len(set(files)) == len(files) > 150


def test_restore(
    archive: hostile.Hostile, foreign_models: dict[str, str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arguments = ["--input", archive.manifest, "--output", str(output), "--model", foreign_models["by caption"], *LIMITS]
    assert restore.main(arguments) == 3
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024 < 700  # megabytes; the bombs have many

    summary = json.loads((output / "summary.json").read_text())["counts"]
    assert summary["input"] == len(archive.rows) == summary["restored"] + summary["failed"]
    table = pq.read_table(output / "metrics").to_pylist()
    done = {row["kind"] for row in table}
    assert len(done) == len(table) == summary["restored"]
    assert RESTORED - done == set()
    errors = found_errors(output)
    assert len(errors) == summary["failed"]
    check_errors(archive, errors, done)
    for row in table:
        assert (output / row["output"]).is_file(), row["kind"]
        assert row["caption"] == "".join(row["caption"].splitlines())
        assert "\0" not in row["caption"]
    assert len({row["output"] for row in table}) == len(table)

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(output) for path in written)
    assert not any(".unfade-" in path.name and path.suffix == ".tmp" for path in written)
    assert len(list((output / "images").rglob("*.*"))) >= len(table)
    assert not any(pathlib.Path(place, "up.jpg").exists() for place in ("/tmp", output, tmp_path, tmp_path.parent))
    for path in written:
        assert hostile.SECRET not in path.read_bytes(), path
    assert hostile.SECRET.decode() not in str(table)
    check_report(output / "report")
    told = capsys.readouterr()
    assert not [c for c in told.out + told.err if not c.isprintable() and c != "\n"]


def check_report(folder: pathlib.Path) -> None:
    """What comes from items stands in data alone, as JSON, and the page makes no HTML of it."""
    texts = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.*s")}
    data = {name: text for name, text in texts.items() if name.startswith("data/")}
    assert data
    for name, text in data.items():
        for line in text.splitlines():
            call = re.fullmatch(r"unfade\.\w+\((.*)\);", line)
            assert call, name
            json.loads(f"[{call[1]}]")
    assert json.dumps(hostile.SCRIPT)[1:-1] in "".join(data.values())
    assert hostile.SCRIPT not in (folder / "index.html").read_text()
    page = texts["report.js"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", page)


def test_prepare(archive: hostile.Hostile, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "records"
    assert prepare.main(["--input", archive.manifest, "--output", str(output), *LIMITS]) == 3
    counts = json.loads((output / "summary.json").read_text())["counts"]
    errors = found_errors(output)
    assert counts["input"] == len(archive.rows) == counts["prepared"] + counts["failed"]
    assert counts["failed"] == len(errors)
    assert not [error for error in errors if error["error"] == "Unexpected" or not MENDS.search(error["message"])]


def test_evaluate(archive: hostile.Hostile, tmp_path: pathlib.Path) -> None:
    """Every file as a target, and as a picture with one."""
    folder = pathlib.Path(archive.manifest).parent
    names = [row.image for row in archive.rows if not row.id and "/" not in row.image]
    rows = [f'"{name}",a{n},sound.jpg' for n, name in enumerate(names)]
    rows += [f'sound.jpg,b{n},"{name}"' for n, name in enumerate(names)]
    (folder / "targets.csv").write_text("\n".join(["image,id,target", *rows]))
    output = tmp_path / "out"
    arguments = ["--input", f"{folder}/targets.csv", "--output", str(output), "--method", "identity", *LIMITS]
    assert evaluate.main(arguments) == 3
    counts = json.loads((output / "summary.json").read_text())["counts"]
    errors = found_errors(output)
    assert counts["input"] == len(rows) == counts["evaluated"] + counts["failed"]
    assert counts["failed"] == len({error["id"] for error in errors}) == len(errors)
    assert not [error for error in errors if error["error"] == "Unexpected" or not MENDS.search(error["message"])]


def test_the_folder_itself(archive: hostile.Hostile) -> None:
    """A listing reads nothing, so it waits for nothing, goes nowhere twice, and each name is there once."""
    folder = pathlib.Path(archive.manifest).parent
    listed = list(pairs.read(str(folder)))
    ids = [item.id for item in listed]
    assert len(set(ids)) == len(ids)
    names = {name for name in os.listdir(folder) if name.lower().endswith(pairs.IMAGE_SUFFIXES)}
    assert set(ids) == names - {"folder.jpg", "link to a folder.jpg"}
    os.mkfifo(folder / "shard.tar")
    try:
        [error] = [item for item in pairs.read(str(folder)) if isinstance(item, ItemError)]
        assert error.error == "BadShard"
    finally:
        (folder / "shard.tar").unlink()
    with pytest.raises(UsageError, match="is a pipe"):
        pairs.check_input(str(folder / "pipe.jpg"))
