"""The small image statistics that the generator normalises with: percentiles of density, per channel.

Two implementations of one definition: `prepare` takes them picture by picture in NumPy, the SavedModel in its graph.
Both pick whole code values by rank and look the density up, so they agree exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.colour import density_table
from models.contract import STATISTICS, STATISTICS_QUANTILES, VIEW

_STRIDE = 2  # every other pixel each way: percentiles of 4,096 values are as good, and sorting them is cheap
_COUNT = (VIEW // _STRIDE) ** 2
_RANKS = [round(q * (_COUNT - 1)) for q in STATISTICS_QUANTILES]


def view(thumbnail: tf.Tensor) -> tf.Tensor:
    """The thumbnail averaged 2 x 2, rounded half up: uint8 [N, 256, 256, 3] -> uint8 [N, 128, 128, 3]."""
    parts = tf.cast(tf.reshape(thumbnail, [-1, VIEW, 2, VIEW, 2, 3]), tf.int32)
    return tf.cast((tf.reduce_sum(parts, axis=[2, 4]) + 2) // 4, tf.uint8)


def density_statistics(pictures: tf.Tensor) -> tf.Tensor:
    """Density percentiles of a batch.

    Args:
      pictures: uint8 [N, 128, 128, 3], sRGB, as `view` gives.

    Returns:
      float32 [N, 15]: for each channel R, G, B the densities at code-value quantiles .01, .25, .5, .75, .99.
    """
    pixels = tf.reshape(pictures[:, ::_STRIDE, ::_STRIDE], [-1, _COUNT, 3])
    ordered = tf.sort(tf.cast(pixels, tf.int32), axis=1)
    codes = tf.gather(ordered, _RANKS, axis=1)  # [N, 5, 3]
    density = tf.gather(tf.constant(density_table(256)), codes)
    return tf.reshape(tf.transpose(density, [0, 2, 1]), [-1, STATISTICS])


def density_statistics_numpy(thumbnail: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The same for one thumbnail as it is, uint8 [256, 256, 3], without TensorFlow: float32 [15]."""
    parts = thumbnail.reshape(VIEW, 2, VIEW, 2, 3).astype(np.int32)
    small = (parts.sum(axis=(1, 3)) + 2) // 4
    ordered = np.sort(small[::_STRIDE, ::_STRIDE].reshape(-1, 3), axis=0)
    return density_table(256)[ordered[_RANKS]].T.reshape(-1)
