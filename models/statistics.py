"""The small image statistics that the generator decides by: how density and colour are spread.

A fade shows in where each channel's density begins and ends and in how colour drifts from highlights to shadows, not
in shapes. So: the cumulative distribution of each channel's density at fixed steps, and, in bands of mean density, how
many pixels there are, their mean colour, and the spread of colour.

Two implementations of one definition: `prepare` takes them picture by picture in NumPy, the SavedModel in its graph.
They agree to 1e-4.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.colour import MAX_DENSITY, density_table
from models.contract import STATISTICS, THUMBNAIL, VIEW

_FACTOR = THUMBNAIL // VIEW
_STEPS = np.concatenate([np.linspace(0.02, 0.5, 13), np.linspace(0.6, 2.8, 12)]).astype(np.float32)
_BANDS = 8
_CENTRES = np.linspace(0.0, 0.7 * MAX_DENSITY, _BANDS).astype(np.float32)
_WIDTH = float(_CENTRES[1])
_LEAST = 0.01  # share of pixels below which a band says little: its means shrink towards 0
_SAMPLED = (VIEW // 2) ** 2  # every other pixel each way is enough for means
_BELOW = (density_table(256)[:, None] < _STEPS).astype(np.float32)  # [256, 25]
assert 3 * len(_STEPS) + 5 * _BANDS == STATISTICS


def view(picture: tf.Tensor, side: int = VIEW) -> tf.Tensor:
    """A square picture averaged by whole pixels, rounded half up.

    Args:
      picture: uint8 [N, S, S, 3], S a multiple of `side`: a thumbnail, 256 x 256, or what the networks see of it.
      side: `VIEW`, or `SIGHT`.

    Returns:
      uint8 [N, side, side, 3].
    """
    factor = picture.shape[1] // side
    parts = tf.cast(tf.reshape(picture, [-1, side, factor, side, factor, 3]), tf.int32)
    return tf.cast((tf.reduce_sum(parts, axis=[2, 4]) + factor**2 // 2) // factor**2, tf.uint8)


def view_numpy(thumbnail: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The same for one thumbnail without TensorFlow: uint8 [256, 256, 3] -> uint8 [64, 64, 3]."""
    parts = thumbnail.reshape(VIEW, _FACTOR, VIEW, _FACTOR, 3).astype(np.int32)
    return ((parts.sum(axis=(1, 3)) + _FACTOR**2 // 2) // _FACTOR**2).astype(np.uint8)


def code_shares(pictures: tf.Tensor) -> tf.Tensor:
    """Shares of the pixels that have each code value: uint8 [N, h, w, 3] to float32 [3 N, 256], a row a channel."""
    pixels = pictures.shape[1] * pictures.shape[2]
    channels = tf.reshape(tf.transpose(tf.cast(pictures, tf.int32), [0, 3, 1, 2]), [-1, pixels])
    return tf.math.bincount(channels, minlength=256, maxlength=256, axis=-1, dtype=tf.float32) / pixels


def density_statistics(pictures: tf.Tensor) -> tf.Tensor:
    """Statistics of a batch.

    Args:
      pictures: uint8 [N, 64, 64, 3], sRGB, as `view` gives.

    Returns:
      float32 [N, 115]: for R, G, B the shares of pixels below 25 densities; then for 8 bands of mean density their
      share of the pixels, mean R - G and B - G, and standard deviations of R - G and B - G (densities).
    """
    distribution = tf.matmul(code_shares(pictures), tf.constant(_BELOW))  # [3 N, 25]

    density = tf.gather(tf.constant(density_table(256)), tf.cast(pictures[:, ::2, ::2], tf.int32))
    density = tf.reshape(density, [-1, _SAMPLED, 3])
    level = tf.reduce_mean(density, axis=2)
    colour = tf.stack([density[..., 0] - density[..., 1], density[..., 2] - density[..., 1]], axis=2)
    # Hat functions: each pixel counts in the two bands around its density.
    bands = tf.nn.relu(1 - tf.abs(tf.minimum(level, _CENTRES[-1])[..., None] - _CENTRES) / _WIDTH)  # [N, P, 8]
    values = tf.concat([tf.ones_like(colour[..., :1]), colour, colour**2], axis=2)
    sums = tf.matmul(bands, values, transpose_a=True) / _SAMPLED  # [N, 8, 5]
    mass = sums[..., :1]
    mean, square = sums[..., 1:3] / (mass + _LEAST), sums[..., 3:] / (mass + _LEAST)
    spread = tf.sqrt(tf.maximum(square - mean**2, 0.0))
    banded = tf.concat([mass, mean, spread], axis=2)
    return tf.concat([tf.reshape(distribution, [-1, 3 * len(_STEPS)]), tf.reshape(banded, [-1, 5 * _BANDS])], axis=1)


def density_statistics_numpy(thumbnail: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The same for one thumbnail as it is, uint8 [256, 256, 3], without TensorFlow: float32 [115]."""
    picture = view_numpy(thumbnail)
    density = density_table(256)[picture]
    distribution = np.stack([(density < step).mean(axis=(0, 1)) for step in _STEPS], axis=1).reshape(-1)
    density = density[::2, ::2].reshape(-1, 3)
    level = density.mean(axis=1)
    colour = density[:, ::2] - density[:, 1:2]
    bands = np.maximum(1 - np.abs(np.minimum(level, _CENTRES[-1])[:, None] - _CENTRES) / _WIDTH, 0)
    sums = bands.T @ np.concatenate([np.ones_like(colour[:, :1]), colour, colour**2], axis=1) / _SAMPLED
    mass = sums[:, :1]
    mean, square = sums[:, 1:3] / (mass + _LEAST), sums[:, 3:] / (mass + _LEAST)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return np.concatenate([distribution, np.concatenate([mass, mean, spread], axis=1).reshape(-1)]).astype(np.float32)


def colour_left(statistics: tf.Tensor) -> tf.Tensor:
    """How much colour a picture has of its own: the spread of colour among pixels of like density.

    A black-and-white print has none even if it is toned, for its tone follows from density alone. The spread is what
    the caption is weighed against, and what tells a print to colour from a print to correct.

    Args:
      statistics: float32 [N, 115], what `density_statistics` gives.

    Returns:
      float32 [N], the root of the mean variance of R - G and B - G within the bands (density): below 0.01 for
      black-and-white, 0.1 and more for a sound colour photograph.
    """
    banded = tf.reshape(statistics[:, 3 * len(_STEPS) :], [-1, _BANDS, 5])
    variance = tf.reduce_sum(banded[..., :1] * banded[..., 3:] ** 2, axis=[1, 2])
    return tf.sqrt(variance / 2)
