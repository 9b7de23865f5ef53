"""Fits the baseline `lut`: the one global lookup table that restores the training pictures best on average.

    python benchmarks/fit_lut.py --input corpus/images/corpus.csv [--draws 8]

The photographs of `--split`, varied and aged as in training (`models/augmentation.py`, `models/degradation.py`), give
pairs of colours; the 9 x 9 x 9 table with trilinear interpolation is their least-squares fit; nodes that no colour
reaches change smoothly, or not at all. Writes `transforms/baseline_lut.npy`, 2 KB. Same input, same bytes.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy import sparse

from models.augmentation import Variety, vary
from models.colour import linear_table, linear_to_srgb
from models.contract import VIEW
from models.degradation import Damage, degrade
from transforms.baselines import LUT_FILE, LUT_SIDE, lut_weights

BATCH = 32
PRIOR = 1e-5
"""Weight of what holds nodes that few colours reach: squares of the change, and of its second differences."""


def second_differences(side: int) -> sparse.csr_matrix:
    """Second differences along the three axes of a cube of nodes: one row for each, [_, side^3]."""
    line = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(side - 2, side))
    eye = sparse.identity(side)
    axes = ((line, eye, eye), (eye, line, eye), (eye, eye, line))
    return sparse.csr_matrix(sparse.vstack([sparse.kron(sparse.kron(*axis[:2]), axis[2]) for axis in axes]))


def main() -> None:
    """Fits and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="corpus.csv that corpus/build.py wrote")
    parser.add_argument("--split", default="train")
    parser.add_argument("--draws", type=int, default=8, help="times each photograph is aged (default %(default)s)")
    given = parser.parse_args()
    with given.input.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == given.split]
    pictures = []
    for row in rows:
        with Image.open(given.input.parent / row["image"]) as image:
            square = image.convert("RGB").resize((VIEW, VIEW), Image.Resampling.BOX)
            pictures.append(linear_table(256)[np.asarray(square)])
    nodes = LUT_SIDE**3
    normal, right, pixels = np.zeros((nodes, nodes)), np.zeros((nodes, 3)), 0
    for draw in range(given.draws):
        for start in range(0, len(pictures), BATCH):
            batch = tf.constant(np.stack(pictures[start : start + BATCH]))
            seed = tf.constant([draw, start])
            aged = degrade(vary(batch, seed, Variety()), seed, Damage())
            weights = lut_weights(aged.image.numpy().reshape(-1, 3))
            normal += (weights.T @ weights).toarray()
            right += weights.T @ linear_to_srgb(aged.target).numpy().reshape(-1, 3)
            pixels += weights.shape[0]
        print(f"draw {draw + 1} of {given.draws}: {pixels} pixels", flush=True)
    rough = second_differences(LUT_SIDE)
    hold = PRIOR * ((rough.T @ rough).toarray() + np.eye(nodes))
    axis = np.linspace(0, 1, LUT_SIDE)
    unchanged = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    table = unchanged + np.linalg.solve(normal / pixels + hold, (right - normal @ unchanged) / pixels)
    np.save(LUT_FILE, np.rint(table.clip(0, 1) * 255).astype(np.uint8).reshape(LUT_SIDE, LUT_SIDE, LUT_SIDE, 3))
    print(f"wrote {LUT_FILE}")


if __name__ == "__main__":
    main()
