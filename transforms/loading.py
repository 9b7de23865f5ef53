"""Reads the picture of a pair, its caption and its relatives: the first step of every job."""

from __future__ import annotations

import numpy as np

from models.contract import STATISTICS
from models.statistics import density_statistics_numpy
from transforms import codecs, storage
from transforms.captions import caption_of
from transforms.guard import Step
from transforms.items import ItemFailure, Pair
from transforms.palette import read_palette
from transforms.records import Item, Source, sha256


class Examine(Step[Pair, Item]):
    """Pair -> Item: reads, decodes to validate, hashes, takes caption, statistics and palette; drops the bytes.

    Args:
      max_pixels: Larger pictures are refused by their header.
    """

    stage = "read"

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels

    def run(self, pair: Pair) -> Item:
        """See the class."""
        encoded = storage.read_bytes(pair.uri)
        header = codecs.read_header(encoded, self._max_pixels)
        thumbnail = codecs.thumbnail(codecs.decode(encoded, self._max_pixels).pixels)
        statistics = density_statistics_numpy(thumbnail)
        assert statistics.shape == (STATISTICS,)
        if pair.target is not None:
            _check_target(pair.target, header, self._max_pixels)
        palette = read_palette(pair.references, self._max_pixels) if pair.references else np.zeros(0, np.float32)
        return Item(
            pair,
            caption_of(pair, encoded),
            sha256(encoded),
            header.format,
            header.height,
            header.width,
            statistics,
            palette,
        )


def _check_target(uri: str, header: codecs.Header, max_pixels: int) -> None:
    try:
        truth = codecs.read_header(storage.read_bytes(uri), max_pixels)
    except ItemFailure as failure:
        raise ItemFailure(f"Target{failure.error}", f"target {uri}: {failure.message}") from failure
    if (truth.width, truth.height) != (header.width, header.height):
        raise ItemFailure(
            "TargetSize",
            f"the picture has {header.width} x {header.height} pixels, its target {truth.width} x {truth.height};"
            " scores need the same size",
        )


class ReadSource(Step[Pair, Source]):
    """Pair -> Source: reads the bytes of the picture, its caption, the palette of its relatives, and its target.

    Args:
      max_pixels: Larger related pictures are refused.
    """

    stage = "read"

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels

    def run(self, pair: Pair) -> Source:
        """See the class."""
        encoded = storage.read_bytes(pair.uri)
        target = None
        if pair.target is not None:
            try:
                target = storage.read_bytes(pair.target)
            except ItemFailure as failure:
                raise ItemFailure(f"Target{failure.error}", f"target: {failure.message}") from failure
        return Source(pair, encoded, caption_of(pair, encoded), read_palette(pair.references, self._max_pixels), target)
