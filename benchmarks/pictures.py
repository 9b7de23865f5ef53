"""Pictures to measure with: JPEGs of any size with as much detail to a pixel as real photographs have.

A mosaic of pieces of real photographs at their own scale: enlarged ones would compress too well, and noise too badly.
"""

from __future__ import annotations

import csv
import pathlib

import numpy as np
from PIL import Image

QUALITY = 88  # what scanning software writes: high, but not for print
_PIECE = 320  # pixels


def photographs(folder: pathlib.Path) -> list[Image.Image]:
    """All JPEG photographs below a folder.

    Raises:
      ValueError: There are none.
    """
    found = [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.jpg"))]
    sound = [picture for picture in found if min(picture.size) >= _PIECE]
    if not sound:
        raise ValueError(f"{folder} holds no JPEG photographs of {_PIECE} pixels or more")
    return sound


def mosaic(sources: list[Image.Image], width: int, height: int, seed: int) -> Image.Image:
    """One picture of pieces of others, the same for the same seed."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height))
    for top in range(0, height, _PIECE):
        for left in range(0, width, _PIECE):
            source = sources[rng.integers(len(sources))]
            x, y = (int(rng.integers(size - _PIECE + 1)) for size in source.size)
            picture.paste(source.crop((x, y, x + _PIECE, y + _PIECE)), (left, top))
    return picture


def write(
    folder: pathlib.Path, sources: list[Image.Image], count: int, megapixels: tuple[float, float]
) -> pathlib.Path:
    """Writes pictures of 3:2 and a manifest with captions.

    Args:
      folder: Made new.
      sources: See `photographs`.
      count: How many.
      megapixels: The smallest and the largest size; evenly spread between.

    Returns:
      The manifest.
    """
    folder.mkdir(parents=True)
    with (folder / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for index, size in enumerate(np.linspace(*megapixels, count)):
            height = round((size * 1e6 / 1.5) ** 0.5)
            picture = mosaic(sources, round(1.5 * height), height, index)
            picture.save(folder / f"{index:05d}.jpg", quality=QUALITY, subsampling=2)
            rows.writerow([f"{index:05d}.jpg", "A street with a red door and green trees"])
    return folder / "pairs.csv"
