"""Measures after training what training cannot: when to trust the result, and how far errors stray from expectation.

Done on validation photographs at 512 px, aged with fades of every region, so that grain and scratches reach the
thumbnail as they do in use. The errors that are held against expectations are measured by a function that is handed
in: the same CIEDE2000 as in every table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from models.colour import density_table, density_to_srgb, linear_table, linear_to_srgb
from models.contract import DAMAGE_CLASSES, PALETTE, SIGHT, THUMBNAIL
from models.correction import correct
from models.degradation import Damage, degrade
from models.detail import Detail
from models.export import RAMP, Calibration, TransformGraph, log_findings
from models.generator import Generator
from models.records import Photograph
from models.statistics import colour_left, density_statistics, view

Difference = Callable[[np.ndarray, np.ndarray], float]
"""Mean CIEDE2000 of two pictures, uint8 [H, W, 3]."""

SIDE = 512
"""Short side of the photographs, in pixels."""

_AGED = Damage(
    clean=0.25, region="all", grain=0.3, grain_density=0.08, grain_size=0.4, scratches=0.3, scratch_width=1.6
)
_MARGINS = np.linspace(-0.6, 1.2, 37)
_LEFT_ALONE = 0.8
"""Mean error that undamaged pictures may have (CIEDE2000); the smallest margin that keeps to it is taken."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What one aged photograph showed.

    Attributes:
      log_error, log_untouched: What the generator expected.
      error, untouched: What was measured: of the result without any fallback, and of the input.
      logits: float [7], of the damage classes.
      classes: float [7], the truth.
      noise, defects: Logarithms of what the detail network found.
    """

    log_error: float
    log_untouched: float
    error: float
    untouched: float
    logits: np.ndarray
    classes: np.ndarray
    noise: float
    defects: float


def measure(
    generator: Generator,
    detail: Detail,
    transform: TransformGraph,
    photographs: list[Photograph],
    difference: Difference,
    repeats: int = 3,
) -> list[Row]:
    """Ages photographs, lets the generator judge them, and measures how it did.

    Args:
      generator: Trained.
      detail: Trained.
      transform: The graph of the records.
      photographs: Not trained on; of any size, squeezed to 512 x 512 here.
      difference: See `Difference`.
      repeats: Different damages of each.

    Returns:
      A row for each photograph and damage.
    """
    rows = []
    for index, photograph in enumerate(photographs):
        square = tf.image.resize(photograph.image, [SIDE, SIDE], method="area")
        linear = tf.gather(tf.constant(linear_table(256)), tf.cast(tf.round(square), tf.int32))
        for repeat in range(repeats):
            damaged = degrade(linear[None], tf.constant([15485863 + repeat, index]), _AGED)
            thumbnail = tf.cast(
                tf.round(tf.image.resize(damaged.image, [THUMBNAIL, THUMBNAIL], method="area")), tf.uint8
            )
            target = tf.image.resize(linear_to_srgb(damaged.target), [THUMBNAIL, THUMBNAIL], method="area")
            truth = np.rint(target[0].numpy() * 255).astype(np.uint8)
            statistics = density_statistics(view(thumbnail))
            ids, weights = transform.captions(tf.constant([photograph.caption if repeat % 2 else ""]))
            decision = generator(
                view(thumbnail, SIGHT),
                colour_left(statistics),
                transform.statistics(statistics),
                ids,
                weights,
                tf.zeros([1, PALETTE]),
            )
            density = tf.gather(tf.constant(density_table(256)), tf.cast(thumbnail, tf.int32))
            restored = density_to_srgb(correct(density, decision.coefficients))[0].numpy()
            found, defects = detail(tf.cast(thumbnail, tf.float32) / 255.0)
            rows.append(
                Row(
                    float(decision.log_error[0]),
                    float(decision.log_untouched[0]),
                    difference(np.rint(restored * 255).astype(np.uint8), truth),
                    difference(thumbnail[0].numpy(), truth),
                    decision.damage[0].numpy(),
                    damaged.classes[0].numpy(),
                    *log_findings(found, tf.sigmoid(defects))[:, 0].numpy().tolist(),
                )
            )
    return rows


def fit(rows: list[Row]) -> Calibration:
    """The numbers that fit what was measured.

    Args:
      rows: At least one.

    Returns:
      Margin of the fallback: the smallest that leaves undamaged pictures alone (mean error at most 0.8), so that
      damaged ones lose least. Interval: central 80% of measured over expected errors. Classes: logistic regressions.
    """
    log_error, log_untouched, error, untouched = (
        np.array([getattr(row, name) for row in rows]) for name in ("log_error", "log_untouched", "error", "untouched")
    )
    classes = np.stack([row.classes for row in rows])
    clean = classes[:, -1] > 0.5

    def with_margin(margin: float) -> tuple[np.ndarray, np.ndarray]:
        back = np.clip((log_error - log_untouched + margin) / RAMP + 0.5, 0, 1)
        expected = (1 - back) * np.exp(log_error) + back * np.exp(log_untouched)
        return (1 - back) * error + back * untouched, expected

    margin = Calibration().margin  # a few validation pictures may have no undamaged one among them to judge it by
    if clean.any():
        margin = next((m for m in _MARGINS if with_margin(m)[0][clean].mean() <= _LEFT_ALONE), _MARGINS[-1])
    measured, expected = with_margin(margin)
    ratio = np.log(measured + 0.05) - np.log(expected)
    low, high = np.quantile(ratio, [0.1, 0.9])

    def regression(name: str, seen: np.ndarray) -> tuple[float, float, float]:
        index = DAMAGE_CLASSES.index(name)
        logits = np.array([row.logits[index] for row in rows])
        return logistic(np.stack([np.ones_like(seen), logits, seen], axis=1), classes[:, index])

    return Calibration(
        float(margin),
        float(low),
        float(high),
        regression("noisy", np.array([row.noise for row in rows])),
        regression("scratched", np.array([row.defects for row in rows])),
    )


def logistic(features: np.ndarray, truth: np.ndarray, ridge: float = 0.1) -> tuple[float, float, float]:
    """Logistic regression by Newton's method with a little ridge: three weights.

    Args:
      features: float [N, 3].
      truth: 0 or 1, [N].
      ridge: Keeps weights finite where classes separate.
    """
    weights = np.zeros(features.shape[1])
    for _ in range(50):
        share = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (share - truth) + ridge * weights
        curvature = (features * (share * (1 - share))[:, None]).T @ features + ridge * np.eye(len(weights))
        weights -= np.linalg.solve(curvature, gradient)
    constant, logit, seen = weights.tolist()
    return constant, logit, seen
