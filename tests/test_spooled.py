"""The report's items, sorted on disk: the same whatever the parts; runs of older versions."""

from __future__ import annotations

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reports

from pipelines import report as command
from transforms import report, spooled

ERRORS = [reports.error(f"bad {number:03d}") for number in range(230)]


def data(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "report" / "data").glob("*.js")}


def test_small_parts_give_the_same(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many parts and tables; some rows of no known confidence; carried columns that only one table has."""
    _, rows = reports.make(tmp_path, 1000, ERRORS, confidence=[None, 0.9, 0.9], error=["torn"], year=["1901", "1902"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    report.write(str(tmp_path), summary)
    whole = data(tmp_path)
    [table] = (tmp_path / "metrics").iterdir()
    table.unlink()
    for number, start in enumerate(range(0, 1000, 300)):
        some = rows.slice(start, 300)
        some = some.select([name for name in some.column_names if name != "year" or start == 0])
        pq.write_table(some, tmp_path / "metrics" / f"metrics-{number:05d}-of-00004.parquet")
    monkeypatch.setattr(spooled, "PART", 2 * report.SHARD)
    report.write(str(tmp_path), summary)
    assert data(tmp_path) == whole

    items = json.loads(whole["items-00000.js"].decode().partition(",")[2].rstrip(";\n)"))
    order = sorted(rows.to_pylist(), key=lambda row: (row["confidence"] is None, row["confidence"], row["id"]))
    index = json.loads(whole["index.js"].decode().partition("(")[2].rstrip(";\n)"))
    assert index["items"] == 1230
    assert [item[0] for item in items] == [row["id"] for row in order[: report.SHARD]]
    assert {"extra_error", "error", "year"} <= set(index["fields"])
    assert [row["id"] for row in spooled.least_sure(report.tables(str(tmp_path)), 3)] == [
        row["id"] for row in order[:3]
    ]


def test_written_anew_only_if_something_changed(tmp_path: pathlib.Path) -> None:
    """A run that finds all done leaves the data; one changed row, or a file that is gone, and all are written."""
    _, rows = reports.make(tmp_path, 3)
    summary = json.loads((tmp_path / "summary.json").read_text()) | {"seconds": 1.5}
    whole, item = data(tmp_path), tmp_path / "report" / "data" / "items-00000.js"

    def inode() -> int:
        report.write(str(tmp_path), summary, anew=False)
        return item.stat().st_ino

    first = inode()
    assert inode() == first
    assert {name for name, text in data(tmp_path).items() if text != whole[name]} == {"index.js"}
    assert b'"seconds":1.5' in data(tmp_path)["index.js"]
    (tmp_path / "report" / "data" / "column-003.js").unlink()
    assert inode() != first
    assert set(data(tmp_path)) == set(whole)
    pq.write_table(rows.slice(1), tmp_path / "metrics" / "metrics-00000-of-00001.parquet")
    inode()
    assert b"scan 00000" not in item.read_bytes()


def test_nothing_was_restored(tmp_path: pathlib.Path) -> None:
    reports.make(tmp_path, 0, ERRORS[:2])
    assert b"bad 001" in data(tmp_path)["items-00000.js"]
    reports.make(tmp_path, 0)
    assert set(data(tmp_path)) == {"index.js", "decisions.js"}


def test_run_of_an_older_version(tmp_path: pathlib.Path) -> None:
    """Columns that there were not yet are null; its sheet can be made, too."""
    _, rows = reports.make(tmp_path, 3)
    rows = rows.drop_columns(["decision", "preview", "fingerprint", "colour_class", "caption", "ms_ssim"])
    pq.write_table(pa.table(rows), tmp_path / "metrics" / "metrics-00000-of-00001.parquet")
    assert command.main([str(tmp_path), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert b"scan 00002" in data(tmp_path)["items-00000.js"]
    assert (tmp_path / "sheet.png").exists()
