"""Makes more of few photographs: crops, mosaics, and other light, exposure and saturation that leave a picture true.

With a few hundred photographs it is variety, not capacity, that limits what is learned.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from models.colour import LUMINANCE


@dataclasses.dataclass(frozen=True)
class Variety:
    """How photographs are varied: little, for where whites and blacks lie tells a sound print from a faded one.

    Attributes:
      whole: Share of photographs that are seen whole.
      crop: Smallest share of the area that is seen of the others.
      mosaic: Share of pictures of which a part is replaced by part of another.
      exposure: Standard deviation of exposure, in stops.
      light: Standard deviation of the colour of the light, in stops per channel.
      saturation: Saturation is scaled by 1 - this to 1 + this.
    """

    whole: float = 0.3
    crop: float = 0.4
    mosaic: float = 0.25
    exposure: float = 0.1
    light: float = 0.02
    saturation: float = 0.12


def vary(linear: tf.Tensor, seed: tf.Tensor, variety: Variety) -> tf.Tensor:
    """Varies a batch.

    Args:
      linear: float32 [N, S, S, 3], linear light in 0..1.
      seed: int32 [2], a stateless seed.
      variety: How.

    Returns:
      float32 [N, S, S, 3], linear light in 0..1.
    """
    count, size = tf.shape(linear)[0], linear.shape[1]

    def uniform(number: int, shape: list[int]) -> tf.Tensor:
        stage = tf.random.experimental.stateless_fold_in(seed, 800 + number)
        return tf.random.stateless_uniform([count, *shape], stage)

    def normal(number: int, shape: list[int]) -> tf.Tensor:
        stage = tf.random.experimental.stateless_fold_in(seed, 800 + number)
        return tf.random.stateless_normal([count, *shape], stage)

    # Everything below a random straight edge comes from the neighbour in the batch.
    axis = tf.range(size, dtype=tf.float32) / size - 0.5
    angle = uniform(0, [1, 1]) * 6.2832
    edge = axis[None, None, :] * tf.cos(angle) + axis[None, :, None] * tf.sin(angle)
    there = (edge > uniform(1, [1, 1]) * 0.6 - 0.3) & (uniform(2, [1, 1]) < variety.mosaic)
    linear = tf.where(there[..., None], tf.roll(linear, 1, axis=0), linear)

    stops = variety.exposure * tf.minimum(normal(3, [1, 1, 1]), 1.0) + variety.light * normal(4, [1, 1, 3])
    varied = linear * tf.exp(0.6931 * stops)
    grey = tf.reduce_sum(varied * LUMINANCE, axis=-1, keepdims=True)
    scale = 1 + variety.saturation * (2 * uniform(5, [1, 1, 1]) - 1)
    return tf.clip_by_value(grey + scale * (varied - grey), 0.0, 1.0)
