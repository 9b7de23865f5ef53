"""What training minimises: L of the restored picture, lambda R(W) of the decision, and the small heads' losses."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from models.colour import (
    LUMINANCE,
    delta_e94,
    density_table,
    density_to_linear,
    linear_to_density,
    linear_to_lab,
    luminance_to_lightness,
)
from models.correction import correct, slice_chroma, tint
from models.degradation import Damaged
from models.generator import CELLS, Decision

_FLOOR = 0.25
"""Added to an error before its logarithm: below a quarter of a noticeable difference nothing matters."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """How much each term counts.

    Attributes:
      clean: Weight of a picture without damage, against 1 for a damaged one: leaving it alone matters more.
      structure: Of 1 - SSIM of lightness, at two scales, against 1 for a colour difference of 1.
      squared: Of the mean squared error of sRGB-like values (what PSNR measures), likewise.
      invented: Of the error of invented colours.
      guess: Of the error of the guessed densities by place.
      smoothness: lambda of R, the regulariser of curves, matrices and chroma grid.
    """

    clean: float = 2.0
    structure: float = 2.0
    squared: float = 60.0
    invented: float = 0.5
    guess: float = 5.0
    smoothness: float = 0.05


class Losses(NamedTuple):
    """Scalars, each a mean over the batch. `total` is what is minimised.

    Attributes:
      colour: Mean CIE94 difference between restored and true picture (Charbonnier in Lab), defects left out.
      structure: 1 - SSIM of lightness.
      squared: Mean squared error in the cube root of linear light, a stand-in for sRGB.
      invented: Mean CIE94 difference of the coloured to the true photograph, its lightness being given.
      smooth: R: squared bends of the curves, distance of the matrices from the identity, steps of the grid.
      guess: Mean difference (Charbonnier) of the guessed densities to the true ones, by place.
      error: Squared error of the logarithms of expected errors, whole picture and cells.
      damage: Cross-entropy of the damage classes.
      total: The weighted sum.
    """

    colour: tf.Tensor
    structure: tf.Tensor
    squared: tf.Tensor
    invented: tf.Tensor
    smooth: tf.Tensor
    guess: tf.Tensor
    error: tf.Tensor
    damage: tf.Tensor
    total: tf.Tensor


def restored_linear(decision: Decision, damaged: Damaged) -> tf.Tensor:
    """The corrected picture as linear light, slightly beyond the gamut: float32 [N, S, S, 3].

    There the gradient goes on; what the file would clip is not rewarded further out.
    """
    density = tf.gather(tf.constant(density_table(256)), tf.cast(damaged.image, tf.int32))
    return tf.clip_by_value(density_to_linear(correct(density, decision.coefficients)), -0.05, 1.3)


def invented_errors(decision: Decision, colour: tf.Tensor) -> tf.Tensor:
    """Mean CIE94 difference between the photograph and what the colouriser makes of its luminance: float32 [N].

    Args:
      decision: Its `chroma` is used.
      colour: float32 [N, h, w, 3], linear light of the photograph.
    """
    luminance = tf.reduce_sum(colour * LUMINANCE, axis=-1)
    chroma = slice_chroma(luminance_to_lightness(luminance), decision.coefficients.chroma)
    coloured = linear_to_lab(tint(luminance, chroma))
    return tf.reduce_mean(delta_e94(coloured, linear_to_lab(colour)), axis=[1, 2])


def untouched_errors(damaged: Damaged) -> tf.Tensor:
    """Mean CIE94 difference between the print as it is and its target, defects left out: float32 [N]."""
    density = tf.gather(tf.constant(density_table(256)), tf.cast(damaged.image, tf.int32))
    return picture_errors(density_to_linear(density), damaged)[1]


def _ssim(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Mean structural similarity [N] of lightness maps [N, h, w], windows of 8 x 8 (Wang et al. 2004)."""

    def mean(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.avg_pool2d(x[..., None], 8, 2, "VALID")[..., 0]

    a, b = mean(first), mean(second)
    aa, bb, ab = mean(first**2) - a**2, mean(second**2) - b**2, mean(first * second) - a * b
    score = ((2 * a * b + 1.0) * (2 * ab + 9.0)) / ((a**2 + b**2 + 1.0) * (aa + bb + 9.0))
    return tf.reduce_mean(score, axis=[1, 2])


def picture_errors(restored: tf.Tensor, damaged: Damaged) -> tuple[tf.Tensor, tf.Tensor]:
    """CIE94 difference to the target by pixel, [N, S, S], and its mean by picture, defects left out, [N]."""
    error = delta_e94(linear_to_lab(restored), linear_to_lab(damaged.target))
    intact = 1 - damaged.defects
    return error, tf.reduce_sum(error * intact, axis=[1, 2]) / tf.reduce_sum(intact, axis=[1, 2])


def thinned(damaged: Damaged) -> Damaged:
    """Every second pixel of each direction: what is decided is smooth, and a quarter of the work shows it as well."""
    return Damaged(*(value if value.shape.rank == 2 else value[:, ::2, ::2] for value in damaged))


# Fused by XLA this takes a quarter of the time, its gradient included. (Convolutions and the damage take longer.)
@tf.function(jit_compile=True, reduce_retracing=True)
def losses(decision: Decision, damaged: Damaged, weights: Weights) -> Losses:
    """All losses of one batch.

    Args:
      decision: The generator's.
      damaged: The batch with its truth, `thinned`.
      weights: Of the terms.
    """
    restored = restored_linear(decision, damaged)
    error, by_picture = picture_errors(restored, damaged)
    clean = damaged.classes[:, -1]
    importance = 1 + (weights.clean - 1) * clean
    importance /= tf.reduce_mean(importance)
    colour = tf.reduce_mean(importance * by_picture)

    def root(linear: tf.Tensor) -> tf.Tensor:
        return tf.exp(tf.math.log(tf.maximum(linear, 0.0) + 1e-3) / 3)

    intact = (1 - damaged.defects)[..., None]
    squared = tf.reduce_mean(importance[:, None, None, None] * intact * (root(restored) - root(damaged.target)) ** 2)
    first, second = (100 * tf.reduce_mean(root(x), axis=3) for x in (restored, damaged.target))
    structure = 1.0 - tf.reduce_mean(_ssim(first, second))

    # Of the first pictures only: the colouriser was asked for half of them.
    colour_truth = damaged.colour[: tf.shape(decision.coefficients.chroma)[0]]
    invented_error = invented_errors(decision, colour_truth)
    invented = tf.reduce_mean(invented_error)

    c = decision.coefficients
    bends = c.curves[..., 2:] - 2 * c.curves[..., 1:-1] + c.curves[..., :-2]
    smooth = (
        tf.reduce_mean(tf.reduce_sum(bends**2, axis=[1, 2]))
        + 0.01 * tf.reduce_mean(tf.reduce_sum((c.matrix - tf.eye(3, 4)) ** 2, axis=[1, 2]))
        + 0.01 * tf.reduce_mean(tf.reduce_sum(c.slope**2, axis=[1, 2]))
        + 1e-3 * tf.reduce_mean((c.chroma[:, :, :, 1:] - c.chroma[:, :, :, :-1]) ** 2)
    )

    untouched = untouched_errors(damaged)

    def miss(predicted: tf.Tensor, truth: tf.Tensor) -> tf.Tensor:
        difference = predicted - tf.math.log(tf.stop_gradient(truth) + _FLOOR)
        return tf.reduce_mean(difference**2)

    side = damaged.image.shape[1]
    by_cell = tf.nn.avg_pool2d(error[..., None], side // CELLS, side // CELLS, "VALID")[..., 0]
    expected = (
        miss(decision.log_error, by_picture)
        + miss(decision.log_untouched, untouched)
        + miss(decision.log_invented, invented_error)
        + 0.3 * miss(decision.log_error_map, by_cell)
    )
    damage = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(damaged.classes, decision.damage))

    place = side // decision.guess.shape[1]
    aim = tf.nn.avg_pool2d(linear_to_density(damaged.target), place, place, "VALID")
    guess = tf.reduce_mean(tf.sqrt((decision.guess - aim) ** 2 + 1e-4))

    total = (
        colour
        + weights.guess * guess
        + weights.structure * structure
        + weights.squared * squared
        + weights.invented * invented
        + weights.smoothness * smooth
        + 0.3 * expected
        + damage
    )
    return Losses(colour, structure, squared, invented, smooth, guess, expected, damage, total)
