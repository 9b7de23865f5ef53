"""Reports of made-up runs: rows of metrics around a few real pictures, as many as a test asks for."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from models.contract import DAMAGE_CLASSES, ORIGINS
from transforms import outputs, previews, report, sinks, storage

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"
PICTURES = ("kingfisher", "red-panda", "nagasaki-boats")


def make(
    folder: pathlib.Path, count: int, errors: list[dict[str, Any]] | None = None, **changes: list[Any]
) -> tuple[str, pa.Table]:
    """Writes the report of a run of `count` pictures.

    Args:
      folder: The run's output folder.
      count: Restored pictures.
      errors: Records of what failed.
      changes: Columns with values of their own, for the first pictures; new ones are carried columns.

    Returns:
      URI of the page, and the rows.
    """
    places = []
    for name in PICTURES:
        before = np.asarray(Image.open(SAMPLES / "scans" / f"{name}.jpg").convert("RGB"))
        rng = np.random.default_rng(len(name))
        maps = {
            "confidence_map": rng.integers(60, 200, (32, 32), dtype=np.uint8),
            "defect_map": np.eye(64, dtype=np.uint8) * 255,
        }
        places.append(previews.write(str(folder), name, previews.made(b"", before, 255 - before, maps)))
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{name}.jpg").write_bytes((SAMPLES / "scans" / f"{name}.jpg").read_bytes())
    rng = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {}
    for field in outputs.COLUMNS:
        if pa.types.is_floating(field.type):
            columns[field.name] = rng.random(count).tolist()
        elif pa.types.is_integer(field.type):
            columns[field.name] = rng.integers(500, 5000, count).tolist()
        else:
            columns[field.name] = [None] * count
    numbers = range(count)
    columns |= {
        "id": [f"box {n // 100}/scan {n:05d}" for n in numbers],
        "uri": [str(SAMPLES / "scans" / f"{PICTURES[n % 3]}.jpg") for n in numbers],
        "output": [f"images/{PICTURES[n % 3]}.jpg" for n in numbers],
        "preview": [places[n % 3] for n in numbers],
        "caption": [f"{('Boats', 'Église', 'A red panda')[n % 3]} number {n}, photographed long ago" for n in numbers],
        "format": ["JPEG"] * count,
        "output_format": ["JPEG"] * count,
        "confidence": [(n + 0.5) / count for n in numbers],
        "damage": [DAMAGE_CLASSES[n % 3] for n in numbers],
        "colour_class": [ORIGINS[n % 2] for n in numbers],
    }
    for name, values in changes.items():
        columns[name] = [*values, *columns.get(name, [None] * count)[len(values) :]]
    fields = [*outputs.COLUMNS, *(pa.field(name, pa.string()) for name in changes if name not in outputs.COLUMNS.names)]
    rows = pa.table(columns, schema=pa.schema([pa.field(f.name, f.type) for f in fields]))
    failed = errors or []
    classes: dict[str, Any] = {}
    for error in failed:
        group = classes.setdefault(f"{error['stage']}/{error['error']}", {"count": 0, "examples": []})
        group["count"] += 1
        group["examples"].append({"id": error["id"], "message": error["message"]})
    summary = {
        "command": "restore",
        "counts": {"input": count + len(failed), "restored": count, "skipped": 0, "failed": len(failed)},
        "quality": {"before": {"ciede2000": 12.0}, "after": {"ciede2000": 8.0}},
        "with_target": count,
        "confidence": 0.5,
        "errors": classes,
        "seconds": 300.0,
        "pictures_per_second": round(count / 300, 3),
        "timeline": {"began": 1000, "seconds": 10, "restored": [[1000 + 10 * n, 5 + n] for n in range(30)]},
        "options": {"input": "catalogue.csv", "output": str(folder)},
        "versions": {"unfade": "0.1.0"},
        "model_sha256": "m" * 64,
    }
    for part, data in (
        ("metrics/metrics-00000-of-00001.parquet", sinks.table_bytes(rows)),
        ("errors/errors-00000-of-00001.jsonl", "".join(json.dumps(one) + "\n" for one in failed).encode()),
    ):
        storage.write_bytes(f"{folder}/{part}", data)
    sinks.write_json(f"{folder}/summary.json", summary)
    return report.write(str(folder), summary), rows


def error(id: str, stage: str = "decode", kind: str = "NotAnImage", message: str = "it is a text") -> dict[str, Any]:
    """The record of an item that failed."""
    return {"id": id, "uri": f"/in/{id}", "stage": stage, "error": kind, "message": message, "retryable": False}
