"""What all peers need: the list of pictures, and the shipped model called as its signatures say."""

from __future__ import annotations

import csv
import os
import pathlib
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COEFFICIENTS = ("matrix", "slope", "field", "curves", "chroma", "detail")
QUALITY = 88


def arguments() -> tuple[list[tuple[str, str]], pathlib.Path, str, bool]:
    """Pictures (path, caption), output folder, model, whether noise is to be taken out."""
    manifest, output, model, residual = sys.argv[1:5]
    folder = pathlib.Path(manifest).parent
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = [(str(folder / row["image"]), row["caption"]) for row in csv.DictReader(file)]
    pathlib.Path(output).mkdir(parents=True)
    return rows, pathlib.Path(output), model, residual == "residual"


def coefficients(decided: dict[str, Any], index: int, residual: bool) -> dict[str, Any]:
    """Of one picture of a batch; colours are never invented, as in `unfade restore`'s default."""
    import tensorflow as tf

    one = {name: decided[name][index] for name in COEFFICIENTS}
    one["chroma"] = tf.zeros_like(one["chroma"])
    return one if residual else {**one, "detail": tf.zeros_like(one["detail"])}
