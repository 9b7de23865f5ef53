"""Losses: nothing to gain where the restoration is perfect, and a gradient that training can use everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from models import correction
from models.colour import density_table, density_to_srgb
from models.contract import DAMAGE_CLASSES, PALETTE, VIEW
from models.degradation import Damage, Damaged, degrade
from models.generator import CELLS, Decision
from models.losses import colour_error, losses
from models.statistics import density_statistics

CAST = np.array([0.05, -0.03, 0.1], np.float32)


def photographs(count: int = 4) -> tf.Tensor:
    coarse = tf.random.stateless_uniform([count, 5, 5, 3], [9, 0], 0.2, 0.8)
    return tf.round(tf.image.resize(coarse, [VIEW, VIEW]) * 255) / 255


def unchanged(damaged: Damaged, log_error: float = float(np.log(0.13))) -> Decision:
    """The decision that does nothing, whose small heads know the truth."""
    count = damaged.image.shape[0]
    matrix, curves = correction.identity()
    cells = tf.nn.max_pool2d(damaged.defects[..., None], VIEW // CELLS, VIEW // CELLS, "VALID")[..., 0]
    return Decision(
        matrix=tf.tile(matrix[None], [count, 1, 1]),
        curves=tf.tile(curves[None], [count, 1, 1]),
        log_error=tf.fill([count], log_error),
        log_error_map=tf.fill([count, CELLS, CELLS], log_error),
        damage=damaged.classes * 40 - 20,
        defects=cells * 40 - 20,
    )


def test_a_perfect_restoration_costs_nothing() -> None:
    clean = degrade(photographs(), tf.constant([1, 1]), Damage(clean=1.0, monochrome=0.0))
    result = losses(unchanged(clean), clean, smoothness=0.05)
    assert result.colour < 0.04  # the constant under the root is 0.032
    assert result.smooth < 1e-6
    assert result.error < 0.01
    assert result.damage < 1e-6
    assert result.defects < 1e-6
    assert result.total < 0.05


def test_undoing_the_damage_costs_less_than_leaving_it() -> None:
    damaged = degrade(photographs(), tf.constant([1, 1]), Damage(clean=1.0, monochrome=0.0))
    density = tf.gather(tf.constant(density_table(256)), tf.cast(damaged.image, tf.int32)) + CAST
    image = tf.cast(tf.round(density_to_srgb(density) * 255), tf.uint8)
    damaged = damaged._replace(image=image)
    left = unchanged(damaged)
    offset = np.zeros((3, 4), np.float32)
    offset[:, 3] = -CAST
    undone = dataclasses.replace(left, matrix=left.matrix + offset)
    assert losses(undone, damaged, 0.0).colour < 0.4
    assert losses(left, damaged, 0.0).colour > 3
    assert colour_error(undone, damaged).shape == (4, VIEW // 2, VIEW // 2)


def test_what_a_defect_hides_is_left_out() -> None:
    clean = degrade(photographs(), tf.constant([1, 1]), Damage(clean=1.0, monochrome=0.0))
    hidden = np.zeros((4, VIEW, VIEW), np.float32)
    hidden[:, :30] = 1
    scratched = clean._replace(image=tf.where(hidden[..., None] > 0, tf.zeros_like(clean.image), clean.image))
    assert losses(unchanged(scratched), scratched, 0.0).colour > 5
    masked = scratched._replace(defects=tf.constant(hidden))
    assert losses(unchanged(masked), masked, 0.0).colour < 0.04


def test_smoothness_weighs_bends_and_distance() -> None:
    clean = degrade(photographs(), tf.constant([1, 1]), Damage(clean=1.0, monochrome=0.0))
    plain = unchanged(clean)
    bent = dataclasses.replace(plain, curves=plain.curves + 0.1 * tf.cos(3.14 * tf.range(correction.SEGMENTS + 1.0)))
    moved = dataclasses.replace(plain, matrix=plain.matrix + 0.1)
    for worse in (bent, moved):
        light, heavy = losses(worse, clean, 0.0), losses(worse, clean, 2.0)
        assert light.smooth > 1e-4
        np.testing.assert_allclose(heavy.total - light.total, 2 * light.smooth, rtol=1e-3)


def test_the_total_is_finite_and_has_a_finite_gradient_for_every_variable(
    random_generator: Callable[..., Any],
) -> None:
    extremes = tf.stack([tf.zeros([VIEW, VIEW, 3]), tf.ones([VIEW, VIEW, 3]), tf.fill([VIEW, VIEW, 3], 0.5)])
    pictures = tf.concat([photographs(3), extremes, tf.eye(3)[:, None, None, :] * tf.ones([3, VIEW, VIEW, 3])], 0)
    generator = random_generator(3)
    everything = Damage(0, 1, 1, 1, 0.5, 1, 0.2, 1, 0.3, 1, 0.1, 1)
    for damage in (everything, Damage(clean=1.0)):
        damaged = degrade(pictures, tf.constant([5, 5]), damage)
        weights = tf.constant([[1.0, 2.0], [0.0, 0.0], [0.5, 0.0]] * 3)
        palette = tf.one_hot([3, 0, 9] * 3, PALETTE) * tf.constant([[1.0], [0.0], [1.0]] * 3)
        with tf.GradientTape() as tape:
            statistics = density_statistics(damaged.image)
            decision = generator(damaged.image, statistics, tf.constant([[4, 8]] * 9, tf.int64), weights, palette)
            total = losses(decision, damaged, 0.05).total
        assert np.isfinite(float(total))
        gradients = tape.gradient(total, [variable.value for variable in generator.trainable_variables])
        for variable, gradient in zip(generator.trainable_variables, gradients, strict=True):
            assert gradient is not None, variable.path
            assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all(), variable.path
            assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, variable.path


def test_the_error_heads_do_not_bend_the_decision() -> None:
    damaged = degrade(photographs(), tf.constant([1, 1]), Damage(clean=0.0))
    decision = unchanged(damaged)
    with tf.GradientTape() as tape:
        tape.watch([decision.matrix, decision.curves])
        error = losses(decision, damaged, 0.0).error
    assert tape.gradient(error, [decision.matrix, decision.curves]) == [None, None]
    assert damaged.classes.shape[1] == len(DAMAGE_CLASSES)
