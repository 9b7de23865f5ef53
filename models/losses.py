"""What training minimises: L of the restored picture, lambda R(W) of the decision, and the small heads' losses."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from models.colour import delta_e94, density_to_linear, linear_to_lab, srgb_to_density
from models.correction import correct
from models.degradation import Damaged
from models.generator import CELLS, Decision

_STRIDE = 2  # the colour loss looks at every second pixel of each direction: a quarter of the work, the same gradient


@dataclasses.dataclass(frozen=True)
class Losses:
    """Scalars, each a mean over the batch. `total` is what is minimised.

    Attributes:
      colour: L, mean CIE94 difference between restored and true picture, defects left out.
      smooth: R, squared bends of the curves and distance of the matrix from the identity.
      error: Gaussian negative log-likelihood of the predicted log error, whole picture and cells.
      damage: Cross-entropy of the damage classes.
      defects: Cross-entropy of the defect map, weighted towards the rare defects.
      total: The weighted sum.
    """

    colour: tf.Tensor
    smooth: tf.Tensor
    error: tf.Tensor
    damage: tf.Tensor
    defects: tf.Tensor
    total: tf.Tensor


def colour_error(decision: Decision, damaged: Damaged) -> tf.Tensor:
    """CIE94 difference of restored and true picture: float32 [N, S / 2, S / 2]."""
    image = tf.cast(damaged.image[:, ::_STRIDE, ::_STRIDE], tf.float32) / 255.0
    target = damaged.target[:, ::_STRIDE, ::_STRIDE]
    shape = tf.shape(image)
    density = tf.reshape(srgb_to_density(image), [shape[0], -1, 3])
    restored = tf.reshape(correct(density, decision.matrix, decision.curves), shape)
    # Slightly beyond the gamut the gradient goes on; what the file would clip is not rewarded further out.
    linear = tf.clip_by_value(density_to_linear(restored), -0.05, 1.3)
    return delta_e94(linear_to_lab(linear), linear_to_lab(density_to_linear(srgb_to_density(target))))


def losses(decision: Decision, damaged: Damaged, smoothness: float) -> Losses:
    """All losses of one batch.

    Args:
      decision: The generator's.
      damaged: The batch with its truth.
      smoothness: lambda of R.
    """
    side = damaged.image.shape[1]
    error = colour_error(decision, damaged)
    intact = 1 - damaged.defects[:, ::_STRIDE, ::_STRIDE]
    by_picture = tf.reduce_sum(error * intact, axis=[1, 2]) / tf.reduce_sum(intact, axis=[1, 2])
    colour = tf.reduce_mean(by_picture)

    bends = decision.curves[..., 2:] - 2 * decision.curves[..., 1:-1] + decision.curves[..., :-2]
    smooth = tf.reduce_mean(tf.reduce_sum(bends**2, axis=[1, 2])) + 0.01 * tf.reduce_mean(
        tf.reduce_sum((decision.matrix - tf.eye(3, 4)) ** 2, axis=[1, 2])
    )

    # The error heads learn the log error with unit-free spread; they must not bend the decision to please themselves.
    cell = (side // _STRIDE) // CELLS
    by_cell = tf.nn.avg_pool2d(tf.stop_gradient(error)[..., None], cell, cell, "VALID")[..., 0]
    true_log = tf.math.log(tf.stop_gradient(by_picture) + 0.1)
    log_error = tf.reduce_mean((decision.log_error - true_log) ** 2) + 0.3 * tf.reduce_mean(
        (decision.log_error_map - tf.math.log(by_cell + 0.1)) ** 2
    )

    damage = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(damaged.classes, decision.damage))
    cells = tf.nn.max_pool2d(damaged.defects[..., None], side // CELLS, side // CELLS, "VALID")[..., 0]
    defects = tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(cells, decision.defects, pos_weight=3.0))

    total = colour + smoothness * smooth + 0.3 * log_error + damage + defects
    return Losses(colour, smooth, log_error, damage, defects, total)
