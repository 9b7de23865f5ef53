"""Prepared records as training data: a tf.data pipeline from TFRecord shards to cropped photographs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from models.augmentation import Variety
from models.colour import linear_table
from models.contract import CAPTION_IDS, CAPTION_TEXT, CAPTION_WEIGHTS, MAX_TOKENS, PALETTE, SIGHT

Decoder = Callable[[bytes], np.ndarray]
"""Image file -> uint8 [H, W, 3] sRGB. Handed in, so that training decodes exactly as serving does."""

_STORED_SIDE = 256
"""Short side at which decoded photographs are kept in memory between epochs: crops of half of it never upscale."""


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One decoded record. `image` is uint8 [h, w, 3]; `palette` float32 [64]; ids and weights are [T]."""

    id: str
    caption: str
    image: np.ndarray
    ids: np.ndarray
    weights: np.ndarray
    palette: np.ndarray


def _feature(example: tf.train.Example, name: str) -> tf.train.Feature:
    return example.features.feature[name]


def split_of(item_id: str, extra: dict[str, str], column: str) -> str:
    """`train`, `validation` or any other split of an item: the manifest's column, else a tenth by hash of the id."""
    if extra.get(column):
        return extra[column]
    return "validation" if hashlib.sha256(item_id.encode()).digest()[0] % 10 == 0 else "train"


def read_photographs(
    shards: list[str], split_column: str, decode: Decoder, side: int = _STORED_SIDE, only: str | None = None
) -> dict[str, list[Photograph]]:
    """Decodes every record, reduced to a short side of 256 px, by split.

    Keeps the collection in memory (about 0.3 MB a photograph at 256 px).

    Args:
      shards: TFRecord files.
      split_column: Column of the manifest, carried in `extra`, that names the split.
      decode: See `Decoder`.
      side: Short side of what is kept, in pixels.
      only: The split to read, None for all.

    Returns:
      Photographs by split, in the order of the records.
    """

    def parse(serialized: tf.Tensor) -> tuple[str, Photograph] | None:
        example = tf.train.Example.FromString(serialized.numpy())
        item_id = _feature(example, "id").bytes_list.value[0].decode()
        extra = json.loads(_feature(example, "extra").bytes_list.value[0] or b"{}")
        split = split_of(item_id, extra, split_column)
        if only not in (None, split):
            return None
        image = decode(_feature(example, "image/encoded").bytes_list.value[0])
        scale = side / min(image.shape[:2])
        if scale < 1:
            size = [max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))]
            image = tf.cast(tf.round(tf.image.resize(image, size, antialias=True)), tf.uint8).numpy()
        return split, Photograph(
            item_id,
            _feature(example, CAPTION_TEXT).bytes_list.value[0].decode("utf-8", "replace"),
            image,
            np.asarray(_feature(example, CAPTION_IDS).int64_list.value, np.int64)[:MAX_TOKENS],
            np.asarray(_feature(example, CAPTION_WEIGHTS).float_list.value, np.float32)[:MAX_TOKENS],
            np.asarray(list(_feature(example, "reference/palette").float_list.value) or [0.0] * PALETTE, np.float32),
        )

    splits: dict[str, list[Photograph]] = {}
    for serialized in tf.data.TFRecordDataset(shards):
        if parsed := parse(serialized):
            splits.setdefault(parsed[0], []).append(parsed[1])
    return splits


PIECE = 192
"""Side of the pieces of photographs at their own resolution, in pixels."""


def read_pieces(shards: list[str], split_column: str, decode: Decoder, pieces: int = 3) -> dict[str, np.ndarray]:
    """Pieces of photographs at full resolution, by split: what grain and scratches are learned from.

    Args:
      shards: TFRecord files.
      split_column: See `read_photographs`.
      decode: See `Decoder`.
      pieces: From each photograph, at places that follow from its id; smaller photographs give none.

    Returns:
      uint8 [M, PIECE, PIECE, 3] by split; about 110 KB a piece is kept in memory.
    """
    found: dict[str, list[np.ndarray]] = {}
    for serialized in tf.data.TFRecordDataset(shards):
        example = tf.train.Example.FromString(serialized.numpy())
        item_id = _feature(example, "id").bytes_list.value[0].decode()
        extra = json.loads(_feature(example, "extra").bytes_list.value[0] or b"{}")
        image = decode(_feature(example, "image/encoded").bytes_list.value[0])
        room = np.array(image.shape[:2]) - PIECE
        if room.min() < 0:
            continue
        places = np.random.default_rng(list(hashlib.sha256(item_id.encode()).digest()[:8]))
        for _ in range(pieces):
            y, x = places.integers(0, room + 1)
            found.setdefault(split_of(item_id, extra, split_column), []).append(image[y : y + PIECE, x : x + PIECE])
    return {split: np.stack(images) for split, images in found.items()}


def _crop(image: tf.Tensor, seed: tf.Tensor, variety: Variety | None) -> tf.Tensor:
    """A crop squeezed to the square that the network works on: linear light, float32 [128, 128, 3] in 0..1."""
    if variety:
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([1, 0, 4]),
            seed,
            area_range=(variety.crop, 1.0),
            aspect_ratio_range=(0.6, 1.7),
            use_image_if_no_bounding_boxes=True,
        )
        whole = tf.random.stateless_uniform([], tf.random.experimental.stateless_fold_in(seed, 1)) < variety.whole
        begin, size = tf.where(whole, 0, begin), tf.where(whole, tf.shape(image), size)
        image = tf.image.stateless_random_flip_left_right(tf.slice(image, begin, size), seed)
        image = tf.ensure_shape(image, [None, None, 3])
    square = tf.image.resize(image, [SIGHT, SIGHT], method="area")
    return tf.gather(tf.constant(linear_table(256)), tf.cast(tf.round(square), tf.int32))


def batches(
    photographs: list[Photograph], batch: int, seed: int, variety: Variety | None, start: int = 0
) -> tf.data.Dataset:
    """Batches without end (with variety) or one pass in order (without).

    Args:
      photographs: What `read_photographs` gave for one split.
      batch: Pictures in a batch.
      seed: Everything random here follows from it, and from the position in the stream.
      variety: How to crop; photographs are mirrored and shuffled, too. None: they come as they are.
      start: Batches to skip: a resumed training goes on where it stopped.

    Returns:
      Dataset of `(picture float32 [N, 128, 128, 3] linear light, ids [N, 64], weights [N, 64], palette [N, 64])`.
    """
    count = len(photographs)

    def order() -> tf.data.Dataset:
        if not variety:
            return tf.data.Dataset.range(count).map(lambda index: (index, index))

        def pick(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            epoch_seed = tf.cast(tf.stack([tf.cast(seed, tf.int64), position // count]), tf.int32)
            return tf.random.experimental.index_shuffle(position % count, epoch_seed, count - 1), position

        return tf.data.Dataset.range(start * batch, 1 << 40).map(pick)

    def load(index: np.int64) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        photograph = photographs[index]
        return photograph.image, photograph.ids, photograph.weights, photograph.palette

    def element(index: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image, ids, weights, palette = tf.numpy_function(
            load, [index], [tf.uint8, tf.int64, tf.float32, tf.float32], stateful=False
        )
        image = tf.ensure_shape(image, [None, None, 3])
        crop_seed = tf.cast(tf.stack([tf.cast(seed, tf.int64), position]), tf.int32)
        return (
            tf.ensure_shape(_crop(image, crop_seed, variety), [SIGHT, SIGHT, 3]),
            tf.ensure_shape(ids, [None]),
            tf.ensure_shape(weights, [None]),
            tf.ensure_shape(palette, [PALETTE]),
        )

    dataset = order().map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.padded_batch(batch, ([SIGHT, SIGHT, 3], [MAX_TOKENS], [MAX_TOKENS], [PALETTE])).prefetch(2)
