"""Reads the picture of a pair, its caption and its relatives: the first step of every job."""

from __future__ import annotations

from transforms import codecs, identity, isolation, storage
from transforms.captions import caption_of
from transforms.guard import Step
from transforms.items import ItemFailure, Pair
from transforms.palette import read_palette
from transforms.records import Item, Source, sha256
from transforms.retrying import MOST_BYTES


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
        versions: dict[str, str] = {}

        def read(uri: str, most: int = MOST_BYTES) -> bytes:
            versions[uri] = identity.file_version(uri)  # before: what changes meanwhile counts as changed
            data = storage.read_bytes(uri, most)
            if identity.in_listing(uri):
                versions[uri] = identity.read_version(uri, data)
            return data

        encoded = read(pair.uri)
        target = None
        if pair.target is not None:
            try:
                target = storage.read_bytes(pair.target)
            except ItemFailure as failure:
                raise ItemFailure(f"Target{failure.error}", f"target: {failure.message}") from failure
        caption = caption_of(pair, encoded, read)
        palette = read_palette(pair.references, self._max_pixels)
        return Source(pair, encoded, caption, palette, target, identity.identity(pair, versions.__getitem__))


class Examine(Step[Source, Item]):
    """Source -> Item: decodes to validate, hashes, takes the statistics; drops the bytes.

    Args:
      max_pixels: Larger pictures are refused by their header.
      allow_truncated: Files that are cut off are taken.
    """

    stage = "decode"

    def __init__(self, max_pixels: int, allow_truncated: bool = False) -> None:
        self._max_pixels, self._allow_truncated = max_pixels, allow_truncated

    def run(self, source: Source) -> Item:
        """See the class."""
        # Here: it loads TensorFlow, which takes seconds, and restoring does without.
        from models.statistics import density_statistics_numpy

        picture = isolation.decode(source.encoded, self._max_pixels, allow_truncated=self._allow_truncated)
        thumbnail = codecs.thumbnail(picture.pixels)
        height, width = picture.pixels.shape[:2]
        if source.target is not None:
            self._check_target(source.target, height, width)
        return Item(
            source.pair,
            source.caption,
            sha256(source.encoded),
            picture.format,
            height,
            width,
            density_statistics_numpy(thumbnail),
            source.palette,
        )

    def _check_target(self, target: bytes, height: int, width: int) -> None:
        try:
            truth = isolation.read_header(target, self._max_pixels)
        except ItemFailure as failure:
            raise ItemFailure(f"Target{failure.error}", f"target: {failure.message}") from failure
        if (truth.width, truth.height) != (width, height):
            raise ItemFailure(
                "TargetSize",
                f"the picture has {width} x {height} pixels, its target {truth.width} x {truth.height};"
                " scores need the same size, so scale it or leave it out",
            )
