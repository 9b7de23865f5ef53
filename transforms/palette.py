"""Palettes of related pictures: what a series by one photographer can lend to a faded member of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2lab

from models.contract import PALETTE, PALETTE_BINS, PALETTE_LOW, PALETTE_SPAN
from transforms import codecs, isolation, storage
from transforms.items import ItemFailure


def palette_of(pictures: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """The pooled a*b* histogram of thumbnails; `models.training.palette_histogram` is the same in the graph.

    Args:
      pictures: uint8 [256, 256, 3] each, sRGB.

    Returns:
      float32 [64], summing to 1: share of pixels in 8 x 8 cells of a* and b* over -90..70, row by a*. Zero for none.
    """
    total = np.zeros(PALETTE, np.float64)
    for picture in pictures:
        lab = rgb2lab(picture)
        cell = ((lab[..., 1:] - PALETTE_LOW) * (PALETTE_BINS / PALETTE_SPAN)).astype(int).clip(0, PALETTE_BINS - 1)
        total += np.bincount((cell[..., 0] * PALETTE_BINS + cell[..., 1]).ravel(), minlength=PALETTE)
    return (total / max(1.0, total.sum())).astype(np.float32)


def read_palette(references: Iterable[str], max_pixels: int) -> npt.NDArray[np.float32]:
    """The palette of related pictures by URI.

    Raises:
      ItemFailure: A related picture is missing or unreadable; the message names it.
    """

    def thumbnails() -> Iterable[npt.NDArray[np.uint8]]:
        for uri in references:
            try:
                yield codecs.thumbnail(isolation.decode(storage.read_bytes(uri), max_pixels).pixels)
            except ItemFailure as failure:
                raise ItemFailure(
                    f"Reference{failure.error}",
                    f"related picture {uri}: {failure.message}",
                    retryable=failure.retryable,
                ) from failure

    return palette_of(thumbnails())
