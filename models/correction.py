"""Applies what the generator decided: a matrix and monotone curves in optical density, and colours for grey pictures.

    D  = density of the input                                   (per channel)
    D1 = M D + b + g(x, y) (S D + s)                            (undoes dye loss, side absorptions and stain)
    D2 = curve_c(D1)                                            (tone, contrast; monotone, one a channel)
    ab = grid(x, y, L of D2)                                    (black-and-white input only: invented colour)

Even fading is affine in density, so M and b can undo it exactly; where it is uneven, the smooth field g in -1..1 moves
along a second matrix S. The grid is bilateral (Chen et al. 2007; HDRNet, Gharbi et al. 2017): chroma by place and
lightness, so colour stops at edges though the grid is coarse.

The same mathematics stands here twice: differentiable for training, tables and fixed-size pieces for serving at full
size. `tests/test_correction.py` holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.colour import (
    LUMINANCE,
    MAX_DENSITY,
    density_table,
    density_to_linear,
    density_to_srgb,
    lab_to_linear,
    linear_to_srgb,
    luminance_to_lightness,
)

SEGMENTS = 12
"""Linear pieces of a curve, evenly spaced over 0..MAX_DENSITY."""

FIELD = 8
"""Side of the field g, in cells."""

GRID, LEVELS = 16, 8
"""Side of the chroma grid in cells, and its levels of lightness."""

Clean = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Takes noise and defects out: (image [H, W, 3], strength [2]) -> uint16 [H, W, 3], see `models.detail`."""

_LOW, _HIGH = -0.5, 3.5  # densities that a look-up table covers; what lies outside is clipped
_TABLE = 4097  # entries 1/1024 apart, so that density 0 (white) is one: a quarter of the step from code 255 to 254
_PIECE = 1 << 17  # pixels handled at a time: XLA compiles once for this size, and temporaries stay small


class Coefficients(NamedTuple):
    """What `apply_*` takes beside the picture, for a batch of N; see the module.

    Attributes:
      matrix: float32 [N, 3, 4], M and b.
      slope: float32 [N, 3, 4], S and s.
      field: float32 [N, FIELD, FIELD], g at the centres of its cells.
      curves: float32 [N, 3, SEGMENTS + 1], values at `knots()`.
      chroma: float32 [N, GRID, GRID, LEVELS, 2], a* and b*; all zero: no colours are invented.
      detail: float32 [N, 2], how much of the noise, and of the defects, that `models.detail` finds is taken out, 0..1.
    """

    matrix: tf.Tensor
    slope: tf.Tensor
    field: tf.Tensor
    curves: tf.Tensor
    chroma: tf.Tensor
    detail: tf.Tensor


def knots() -> np.ndarray:
    """Positions of a curve's values: float32 [SEGMENTS + 1], densities."""
    return np.linspace(0.0, MAX_DENSITY, SEGMENTS + 1, dtype=np.float32)


def identity(count: tf.Tensor | int) -> Coefficients:
    """Coefficients that change nothing, for `count` pictures."""
    return Coefficients(
        tf.tile(tf.eye(3, 4)[None], [count, 1, 1]),
        tf.zeros([count, 3, 4]),
        tf.zeros([count, FIELD, FIELD]),
        tf.tile(tf.constant(knots())[None, None], [count, 3, 1]),
        tf.zeros([count, GRID, GRID, LEVELS, 2]),
        tf.zeros([count, 2]),
    )


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


def interpolation(size: int, cells: int) -> np.ndarray:
    """Weights that take values at the centres of `cells` equal cells to `size` pixels: float32 [size, cells]."""
    position = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0).astype(np.float32)


def correct(density: tf.Tensor, coefficients: Coefficients) -> tf.Tensor:
    """The differentiable form of matrix, field and curves.

    Args:
      density: float32 [N, H, W, 3].
      coefficients: For N pictures.

    Returns:
      Restored density, float32 [N, H, W, 3], not clipped to the gamut.
    """
    height, width = density.shape[1], density.shape[2]
    rows, columns = interpolation(height, FIELD), interpolation(width, FIELD)
    field = tf.einsum("hi,nij,wj->nhw", rows, coefficients.field, columns)
    flat = tf.reshape(density, [-1, height * width, 3])
    mixed = _affine(flat, coefficients.matrix) + tf.reshape(field, [-1, height * width, 1]) * _affine(
        flat, coefficients.slope
    )
    return tf.reshape(
        evaluate_curves(tf.clip_by_value(mixed, _LOW, _HIGH), coefficients.curves), [-1, height, width, 3]
    )


def _affine(density: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    return tf.einsum("npc,ndc->npd", density, matrix[:, :, :3]) + matrix[:, None, :, 3]


def slice_chroma(lightness: tf.Tensor, chroma: tf.Tensor) -> tf.Tensor:
    """Chroma by place and lightness, the differentiable form.

    Args:
      lightness: float32 [N, H, W], L* in 0..100.
      chroma: float32 [N, GRID, GRID, LEVELS, 2].

    Returns:
      a* and b*, float32 [N, H, W, 2].
    """
    rows, columns = interpolation(lightness.shape[1], GRID), interpolation(lightness.shape[2], GRID)
    levels = tf.einsum("hi,nijzc,wj->nhwzc", rows, chroma, columns)
    return tf.reduce_sum(_level_weights(lightness)[..., None] * levels, axis=-2)


def _level_weights(lightness: tf.Tensor) -> tf.Tensor:
    """Hat functions of L* at LEVELS evenly spaced values of 0..100: float32 [..., LEVELS]."""
    position = lightness[..., None] * ((LEVELS - 1) / 100.0)
    return tf.nn.relu(1 - tf.abs(position - tf.range(LEVELS, dtype=tf.float32)))


def tint(luminance: tf.Tensor, ab: tf.Tensor) -> tf.Tensor:
    """Gives grey pixels a colour without changing their luminance, drawn towards grey as far as the gamut demands.

    Args:
      luminance: float32 [...], linear, 0..1.
      ab: float32 [..., 2].

    Returns:
      Linear sRGB, float32 [..., 3], within 0..1.
    """
    lab = tf.concat([luminance_to_lightness(luminance)[..., None], ab], axis=-1)
    grey = luminance[..., None]
    away = lab_to_linear(lab) - grey
    away -= tf.reduce_sum(away * LUMINANCE, axis=-1, keepdims=True)  # rounding aside, it has no luminance of its own
    room = tf.where(away > 0, 1 - grey, grey) / tf.maximum(tf.abs(away), 1e-6)
    return tf.clip_by_value(grey + away * tf.minimum(1.0, tf.reduce_min(room, axis=-1, keepdims=True)), 0.0, 1.0)


def apply(
    image: tf.Tensor, coefficients: Coefficients, clean: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Restores one picture of any size, piece by piece: temporaries do not grow with it.

    Args:
      image: uint8 or uint16 [H, W, 3], sRGB.
      coefficients: For this one picture, without the batch dimension.
      clean: See `Clean`.

    Returns:
      Restored picture, same dtype and shape.
    """
    return tf.cond(
        tf.reduce_any(coefficients.detail > 0),
        # With 16 bits whatever the input has: the colours are stretched afterwards.
        lambda: _recolour(clean(image, coefficients.detail), coefficients, image.dtype),
        lambda: _recolour(image, coefficients, image.dtype),
    )


def _recolour(image: tf.Tensor, coefficients: Coefficients, dtype: tf.DType) -> tf.Tensor:
    """Matrix, field, curves and chroma: uint8 or uint16 [H, W, 3] to `dtype` [H, W, 3]."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    pixels = tf.reshape(image, [-1, 3])
    count = height * width
    pieces = (count + _PIECE - 1) // _PIECE
    uneven = tf.reduce_any(coefficients.slope != 0)
    invents = tf.reduce_any(coefficients.chroma != 0)
    entries = tf.linspace(_LOW, _HIGH, _TABLE)
    output = evaluate_curves(tf.tile(entries[None, :, None], [1, 1, 3]), coefficients.curves[None])[0]  # [_TABLE, 3]
    codes = 255.0 if dtype == tf.uint8 else 65535.0
    table = tf.transpose(density_to_srgb(output) * codes)  # [3, _TABLE], code values
    columns = _weights(tf.range(width), width, FIELD)
    grid_columns = tf.cond(invents, lambda: _weights(tf.range(width), width, GRID), lambda: tf.zeros([1, GRID]))

    def piece(index: tf.Tensor, done: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        start = index * _PIECE
        part = pixels[start : tf.minimum(count, start + _PIECE)]
        padded = _whole(part)
        rows = tf.range(start // width, tf.minimum(height, (start + _PIECE - 1) // width + 1))

        def field() -> tf.Tensor:
            # Plain matrix products, outside XLA: their sizes change from picture to picture.
            along = _weights(rows, height, FIELD) @ coefficients.field
            return _whole(tf.reshape(tf.matmul(along, columns, transpose_b=True), [-1])[start - rows[0] * width :])

        def chroma() -> tf.Tensor:
            along = _weights(rows, height, GRID) @ tf.reshape(coefficients.chroma, [GRID, -1])
            levels = tf.reshape(grid_columns @ tf.reshape(along, [-1, GRID, LEVELS * 2]), [-1, LEVELS * 2])
            return _whole(levels[start - rows[0] * width :])

        restored = tf.cond(
            invents,
            lambda: _invented(padded, field(), chroma(), coefficients, tf.transpose(output), dtype),
            lambda: tf.cond(
                uneven,
                lambda: _uneven(padded, field(), coefficients, table, dtype),
                lambda: _even(padded, coefficients.matrix, table, dtype),
            ),
        )
        return index + 1, done.write(index, restored[: tf.shape(part)[0]])

    done = tf.TensorArray(dtype, size=pieces, infer_shape=False, element_shape=[None, 3])
    _, done = tf.while_loop(lambda index, _: index < pieces, piece, [tf.constant(0), done], parallel_iterations=1)
    return tf.reshape(done.concat(), tf.shape(image))


def _whole(part: tf.Tensor) -> tf.Tensor:
    """The first `_PIECE` rows of `part`, with zeros where it has fewer."""
    part = part[:_PIECE]
    rest = [[0, _PIECE - tf.shape(part)[0]], *([[0, 0]] * (part.shape.rank - 1))]
    return tf.ensure_shape(tf.pad(part, rest), [_PIECE, *part.shape[1:]])


def _weights(pixels: tf.Tensor, size: tf.Tensor, cells: int) -> tf.Tensor:
    """`interpolation` for some of the pixels: int32 [n] to float32 [n, cells]."""
    position = (tf.cast(pixels, tf.float32) + 0.5) * (cells / tf.cast(size, tf.float32)) - 0.5
    position = tf.clip_by_value(position, 0.0, cells - 1.0)
    return tf.nn.relu(1 - tf.abs(position[:, None] - tf.range(cells, dtype=tf.float32)))


# What follows is compiled by XLA. Pixels are taken apart into planes: with the three channels innermost, nothing is
# vectorised.

_Planes = list[tf.Tensor]
"""One tensor [_PIECE] a channel."""


def _density(pixels: tf.Tensor) -> _Planes:
    codes = 256 if pixels.dtype == tf.uint8 else 65536
    table = tf.constant(density_table(codes))
    return [tf.gather(table, tf.cast(pixels[:, channel], tf.int32)) for channel in range(3)]


def _times(density: _Planes, matrix: Sequence[Sequence[tf.Tensor]]) -> _Planes:
    """M D + b."""
    return [sum(plane * weight for plane, weight in zip(density, row, strict=False)) + row[3] for row in matrix]


def _numbers(matrix: tf.Tensor) -> list[list[tf.Tensor]]:
    return [[matrix[row, column] for column in range(4)] for row in range(3)]


def _look_up(density: _Planes, table: tf.Tensor, between: bool) -> _Planes:
    """Values of `table` [3, _TABLE], a row a channel, at densities: the nearest entry, or interpolated."""
    values = []
    for channel, plane in enumerate(density):
        position = tf.clip_by_value((plane - _LOW) * ((_TABLE - 1) / (_HIGH - _LOW)), 0.0, _TABLE - 1.0)
        if between:
            below = tf.minimum(tf.cast(position, tf.int32), _TABLE - 2)
            low = tf.gather(table[channel], below)
            high = tf.gather(table[channel], below + 1)
            values.append(low + (position - tf.cast(below, tf.float32)) * (high - low))
        else:
            values.append(tf.gather(table[channel], tf.cast(position + 0.5, tf.int32)))
    return values


def _mixed(pixels: tf.Tensor, field: tf.Tensor, coefficients: Coefficients) -> _Planes:
    """M D + b + g (S D + s)."""
    matrix, slope = _numbers(coefficients.matrix), _numbers(coefficients.slope)
    return _times(
        _density(pixels),
        [[m + field * s for m, s in zip(*rows, strict=True)] for rows in zip(matrix, slope, strict=True)],
    )


@tf.function(jit_compile=True, reduce_retracing=True)
def _even(pixels: tf.Tensor, matrix: tf.Tensor, table: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    values = _look_up(_times(_density(pixels), _numbers(matrix)), table, dtype == tf.uint16)
    return tf.cast(tf.stack(values, axis=1) + 0.5, dtype)


@tf.function(jit_compile=True, reduce_retracing=True)
def _uneven(
    pixels: tf.Tensor, field: tf.Tensor, coefficients: Coefficients, table: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    values = _look_up(_mixed(pixels, field, coefficients), table, dtype == tf.uint16)
    return tf.cast(tf.stack(values, axis=1) + 0.5, dtype)


@tf.function(jit_compile=True, reduce_retracing=True)
def _invented(
    pixels: tf.Tensor,
    field: tf.Tensor,
    levels: tf.Tensor,
    coefficients: Coefficients,
    densities: tf.Tensor,
    dtype: tf.DType,
) -> tf.Tensor:
    mixed = tf.stack(_look_up(_mixed(pixels, field, coefficients), densities, between=True), axis=1)
    linear = tf.clip_by_value(density_to_linear(mixed), 0.0, 1.0)
    luminance = tf.reduce_sum(linear * LUMINANCE, axis=1)
    weights = _level_weights(luminance_to_lightness(luminance))
    ab = tf.reduce_sum(weights[..., None] * tf.reshape(levels, [_PIECE, LEVELS, 2]), axis=1)
    codes = 255.0 if dtype == tf.uint8 else 65535.0
    return tf.cast(linear_to_srgb(tint(luminance, ab)) * codes + 0.5, dtype)
