"""Applies what the generator decided: a matrix and monotone curves, in optical density.

    D  = density of the input                       (per channel)
    D1 = M D + b                                    (undoes dye loss, side absorptions and stain: exactly affine in D)
    D2 = curve_c(D1)                                (tone, contrast; monotone, one a channel)

The same mathematics stands here twice: differentiable for training, as look-up tables for serving at full size.
`tests/test_correction.py` holds them together.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from models.colour import MAX_DENSITY, density_table, density_to_srgb

SEGMENTS = 12
"""Linear pieces of a curve, evenly spaced over 0..MAX_DENSITY."""

_LOW, _HIGH = -0.5, 3.5  # densities that a look-up table covers; what lies outside is clipped
_TABLE = 4097  # entries 1/1024 apart, so that density 0 (white) is one: a quarter of the step from code 255 to 254
_STRIP = 1 << 20  # pixels handled at a time: temporaries of about 40 MB whatever the picture's size


def knots() -> np.ndarray:
    """Positions of a curve's values: float32 [SEGMENTS + 1], densities."""
    return np.linspace(0.0, MAX_DENSITY, SEGMENTS + 1, dtype=np.float32)


def identity() -> tuple[np.ndarray, np.ndarray]:
    """Coefficients that change nothing: matrix float32 [3, 4], curves float32 [3, SEGMENTS + 1]."""
    return np.eye(3, 4, dtype=np.float32), np.tile(knots(), (3, 1))


def evaluate_curves(density: tf.Tensor, curves: tf.Tensor) -> tf.Tensor:
    """Piecewise-linear curves, continued in a straight line beyond both ends.

    Args:
      density: float32 [N, P, 3].
      curves: float32 [N, 3, SEGMENTS + 1], values at `knots()`.

    Returns:
      float32 [N, P, 3].
    """
    slopes = (curves[..., 1:] - curves[..., :-1]) * (SEGMENTS / MAX_DENSITY)  # [N, 3, SEGMENTS]
    bends = slopes[..., 1:] - slopes[..., :-1]
    result = curves[:, None, :, 0] + density * slopes[:, None, :, 0]
    for index, knot in enumerate(knots()[1:-1]):
        result += tf.nn.relu(density - knot) * bends[:, None, :, index]
    return result


def correct(density: tf.Tensor, matrix: tf.Tensor, curves: tf.Tensor) -> tf.Tensor:
    """The differentiable form.

    Args:
      density: float32 [N, P, 3].
      matrix: float32 [N, 3, 4], the last column the offset b.
      curves: float32 [N, 3, SEGMENTS + 1].

    Returns:
      Restored density, float32 [N, P, 3], not clipped to the gamut.
    """
    mixed = tf.einsum("npc,ndc->npd", density, matrix[:, :, :3]) + matrix[:, None, :, 3]
    return evaluate_curves(tf.clip_by_value(mixed, _LOW, _HIGH), curves)


def apply(image: tf.Tensor, matrix: tf.Tensor, curves: tf.Tensor) -> tf.Tensor:
    """Restores one picture of any size, strip by strip: temporaries do not grow with it.

    Args:
      image: uint8 or uint16 [H, W, 3], sRGB.
      matrix: float32 [3, 4].
      curves: float32 [3, SEGMENTS + 1].

    Returns:
      Restored picture, same dtype and shape. 16-bit pictures are interpolated between table entries.
    """
    dtype = image.dtype
    codes = 256 if dtype == tf.uint8 else 65536
    to_density = tf.constant(density_table(codes))
    entries = tf.linspace(_LOW, _HIGH, _TABLE)
    restored = density_to_srgb(evaluate_curves(tf.tile(entries[None, :, None], [1, 1, 3]), curves[None]))
    table = tf.reshape(tf.transpose(restored[0] * (codes - 1.0)), [-1])  # [3 * _TABLE], code values
    offset = tf.constant([0, _TABLE, 2 * _TABLE], tf.int32)
    scale = (_TABLE - 1) / (_HIGH - _LOW)
    weights = tf.transpose(matrix[:, :3]) * scale
    bias = (matrix[:, 3] - _LOW) * scale

    def strip(pixels: tf.Tensor) -> tf.Tensor:
        position = tf.clip_by_value(
            tf.matmul(tf.gather(to_density, tf.cast(pixels, tf.int32)), weights) + bias, 0.0, _TABLE - 1.0
        )
        if dtype == tf.uint8:
            value = tf.gather(table, tf.cast(position + 0.5, tf.int32) + offset)
        else:
            below = tf.minimum(tf.cast(position, tf.int32), _TABLE - 2)
            fraction = position - tf.cast(below, tf.float32)
            low = tf.gather(table, below + offset)
            value = low + fraction * (tf.gather(table, below + 1 + offset) - low)
        return tf.cast(value + 0.5, dtype)

    pixels = tf.reshape(image, [-1, 3])
    count = tf.shape(pixels)[0]
    strips = (count + _STRIP - 1) // _STRIP
    done = tf.TensorArray(dtype, size=strips, infer_shape=False, element_shape=[None, 3])
    _, done = tf.while_loop(
        lambda index, _: index < strips,
        lambda index, written: (
            index + 1,
            written.write(index, strip(pixels[index * _STRIP : tf.minimum(count, (index + 1) * _STRIP)])),
        ),
        [tf.constant(0), done],
        parallel_iterations=1,
    )
    return tf.reshape(done.concat(), tf.shape(image))
