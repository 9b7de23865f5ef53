"""Losses: nothing to gain where the restoration is perfect, and a gradient that training can use everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models import correction
from models.colour import density_table, density_to_srgb, linear_table, linear_to_lab
from models.contract import DAMAGE_CLASSES, PALETTE, VIEW
from models.degradation import Damage, Damaged, degrade
from models.generator import CELLS, Decision
from models.losses import Weights, invented_errors, losses, thinned, untouched_errors
from models.statistics import density_statistics
from models.words import vocabulary

CAST = np.array([0.05, -0.03, 0.1], np.float32)


def photographs(count: int = 4) -> tf.Tensor:
    """Linear light on whole code values."""
    coarse = tf.random.stateless_uniform([count, 5, 5, 3], [9, 0], 50, 200)
    codes = tf.cast(tf.image.resize(coarse, [VIEW, VIEW]), tf.int32)
    return tf.gather(tf.constant(linear_table(256)), codes)


def undamaged(count: int = 4) -> Damaged:
    return thinned(degrade(photographs(count), tf.constant([1, 1]), Damage(clean=1.0, monochrome=0.0)))


def unchanged(damaged: Damaged) -> Decision:
    """The decision that does nothing, whose small heads know the truth."""
    count = damaged.image.shape[0]
    nothing = float(np.log(0.25 + 0.0316))
    return Decision(
        coefficients=correction.identity(count),
        log_error=tf.fill([count], nothing),
        log_untouched=tf.fill([count], nothing),
        log_invented=tf.zeros([count]),
        log_error_map=tf.fill([count, CELLS, CELLS], nothing),
        damage=damaged.classes * 40 - 20,
        grey=tf.zeros([count]),
    )


def with_coefficients(decision: Decision, **changed: Any) -> Decision:
    return decision._replace(coefficients=decision.coefficients._replace(**changed))


ONLY_COLOUR = Weights(structure=0.0, squared=0.0, invented=0.0, smoothness=0.0)


def test_a_perfect_restoration_costs_nothing() -> None:
    clean = undamaged()
    result = losses(unchanged(clean), clean, Weights())
    assert result.colour < 0.04  # the constant under the root is 0.032
    assert result.structure < 1e-3
    assert result.squared < 1e-5
    assert result.smooth < 1e-6
    assert result.damage < 1e-6
    assert result.invented > 1  # a grey picture is far from the photograph


def test_undoing_the_damage_costs_less_than_leaving_it() -> None:
    clean = undamaged()
    density = tf.gather(tf.constant(density_table(256)), tf.cast(clean.image, tf.int32)) + CAST
    image = tf.cast(tf.round(density_to_srgb(density) * 255), tf.uint8)
    damaged = clean._replace(image=image)
    left = unchanged(damaged)
    offset = np.zeros((3, 4), np.float32)
    offset[:, 3] = -CAST
    undone = with_coefficients(left, matrix=left.coefficients.matrix + offset)
    assert losses(undone, damaged, ONLY_COLOUR).colour < 0.4
    assert losses(left, damaged, ONLY_COLOUR).colour > 3
    assert untouched_errors(damaged).shape == (4,)
    np.testing.assert_allclose(
        tf.reduce_mean(untouched_errors(damaged)), losses(left, damaged, ONLY_COLOUR).colour, rtol=1e-3
    )


def test_the_right_colours_are_the_cheapest_invention() -> None:
    photograph = tf.tile(tf.constant([[[[0.3, 0.15, 0.1]]]]), [1, 32, 32, 1])
    clean = thinned(degrade(tf.tile(photograph, [1, 2, 2, 1]), tf.constant([1, 1]), Damage(clean=1, monochrome=0)))
    lab = linear_to_lab(photograph[0, 0, 0])
    errors = []
    for share in (0.0, 1.0, 2.0):
        chroma = tf.ones([1, correction.GRID, correction.GRID, correction.LEVELS, 1]) * lab[1:] * share
        decision = with_coefficients(unchanged(clean), chroma=chroma)
        errors.append(float(invented_errors(decision, clean.colour)[0]))
    assert errors[1] < 0.2
    assert errors[0] > 5
    assert errors[2] > 5


def test_what_a_defect_hides_is_left_out() -> None:
    clean = undamaged()
    hidden = np.zeros((4, VIEW // 2, VIEW // 2), np.float32)
    hidden[:, :15] = 1
    scratched = clean._replace(image=tf.where(hidden[..., None] > 0, tf.zeros_like(clean.image), clean.image))
    assert losses(unchanged(scratched), scratched, ONLY_COLOUR).colour > 5
    masked = scratched._replace(defects=tf.constant(hidden))
    assert losses(unchanged(masked), masked, ONLY_COLOUR).colour < 0.04


def test_clean_pictures_weigh_more() -> None:
    clean = undamaged()
    damaged = clean._replace(classes=clean.classes * tf.constant([[1.0], [0.0], [0.0], [0.0]]))
    wrong = with_coefficients(
        unchanged(damaged), matrix=tf.concat([tf.eye(3, 4)[None] * 1.3, tf.tile(tf.eye(3, 4)[None], [3, 1, 1])], axis=0)
    )  # the only clean picture is the only one changed
    light, heavy = (losses(wrong, damaged, dataclasses.replace(ONLY_COLOUR, clean=w)).colour for w in (1.0, 3.0))
    assert float(heavy) == pytest.approx(2 * float(light), rel=0.05)  # 3 of 6 shares instead of 1 of 4


def test_smoothness_weighs_bends_and_distance() -> None:
    clean = undamaged()
    plain = unchanged(clean)
    wave = 0.1 * tf.cos(3.14 * tf.range(correction.SEGMENTS + 1.0))
    bent = with_coefficients(plain, curves=plain.coefficients.curves + wave)
    moved = with_coefficients(plain, matrix=plain.coefficients.matrix + 0.1)
    for worse in (bent, moved):
        light, heavy = (losses(worse, clean, dataclasses.replace(ONLY_COLOUR, smoothness=w)) for w in (0.0, 2.0))
        assert light.smooth > 1e-4
        np.testing.assert_allclose(heavy.total - light.total, 2 * light.smooth, rtol=2e-2)


def test_the_total_is_finite_and_has_a_finite_gradient_for_every_variable(
    random_generator: Callable[..., Any],
) -> None:
    extremes = tf.stack([tf.zeros([VIEW, VIEW, 3]), tf.ones([VIEW, VIEW, 3]), tf.fill([VIEW, VIEW, 3], 0.5)])
    pictures = tf.concat([photographs(3), extremes, tf.eye(3)[:, None, None, :] * tf.ones([3, VIEW, VIEW, 3])], 0)
    generator = random_generator(3)
    everything = Damage(
        clean=0, fade=1, uneven=1, stain=1, cast=1, contrast=1, monochrome=0.2, blur=1, grain=1, scratches=1
    )
    for damage in (everything, Damage(clean=1.0)):
        damaged = degrade(pictures, tf.constant([5, 5]), damage)
        weights = tf.constant([[1.0, 2.0], [0.0, 0.0], [0.5, 0.0]] * 3)
        palette = tf.one_hot([3, 0, 9] * 3, PALETTE) * tf.constant([[1.0], [0.0], [1.0]] * 3)
        red, door = (vocabulary().index(word) for word in ("red", "door"))
        with tf.GradientTape() as tape:
            statistics = density_statistics(damaged.image)
            ids = tf.constant([[red, door]] * 9, tf.int64)
            decision = generator(damaged.image, tf.zeros([9]), statistics, ids, weights, palette)
            total = losses(decision, thinned(damaged), Weights()).total
        assert np.isfinite(float(total))
        gradients = tape.gradient(total, [variable.value for variable in generator.trainable_variables])
        for variable, gradient in zip(generator.trainable_variables, gradients, strict=True):
            assert gradient is not None, variable.path
            assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all(), variable.path


def test_the_error_heads_do_not_bend_the_decision() -> None:
    damaged = thinned(degrade(photographs(), tf.constant([1, 1]), Damage(clean=0.0)))
    decision = unchanged(damaged)
    matrix = decision.coefficients.matrix
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        error = losses(with_coefficients(decision, matrix=matrix), damaged, Weights()).error
    gradient = tape.gradient(error, matrix)
    assert gradient is None or not tf.convert_to_tensor(gradient).numpy().any()
    assert damaged.classes.shape[1] == len(DAMAGE_CLASSES)
