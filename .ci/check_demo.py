"""Checks what `make demo` wrote: nothing lost, every picture whole and of its size, restored ones nearer the truth."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image


def main(folder: Path) -> None:
    """Raises AssertionError with what is wrong."""
    pairs = list(csv.DictReader(Path("samples/pairs.csv").read_text(encoding="utf-8").splitlines()))
    summary = json.loads((folder / "summary.json").read_text())
    counts = summary["counts"]
    assert counts["input"] == counts["restored"] + counts["skipped"] + counts["failed"], counts
    assert (counts["input"], counts["failed"]) == (len(pairs), 0), counts

    rows = {row["id"]: row for row in pq.read_table(folder / "metrics").to_pylist()}
    assert sorted(rows) == sorted(pair["id"] for pair in pairs), sorted(rows)
    for pair in pairs:
        row = rows[pair["id"]]
        with Image.open(Path("samples") / pair["image"]) as before, Image.open(folder / row["output"]) as after:
            after.load()
            assert (before.size, before.format) == (after.size, after.format), pair["id"]
        assert row["licence"], pair["id"]

    with_target = [row for row in rows.values() if row["ciede2000"] is not None]
    assert len(with_target) == sum(bool(pair["target"]) for pair in pairs)
    before = sum(row["input_ciede2000"] for row in with_target) / len(with_target)
    after = sum(row["ciede2000"] for row in with_target) / len(with_target)
    assert after < before, f"the restored pictures are further from the truth: CIEDE2000 {before:.2f} -> {after:.2f}"
    report = (folder / "report" / "data" / "items-00000.js").read_text(encoding="utf-8")
    assert all(pair["id"] in report for pair in pairs)
    for row in rows.values():
        assert all(
            (folder / f"{row['preview']}-{kind}").is_file() for kind in ("before.jpg", "after.jpg", "unsure.png")
        )
    print(f"demo: {counts['restored']} pictures restored, CIEDE2000 {before:.2f} -> {after:.2f} on {len(with_target)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
