"""Losses: nothing to gain where the restoration is perfect, and a gradient that training can use everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models import correction
from models.colour import delta_e94, density_table, density_to_srgb, linear_to_density, linear_to_lab
from models.contract import DAMAGE_CLASSES, PALETTE, SIGHT, VIEW
from models.correction import LUMINANCE, Coefficients, tint
from models.degradation import Damage, Damaged, degrade
from models.generator import CELLS, Decision
from models.losses import (
    Losses,
    Weights,
    invented_errors,
    losses,
    picture_errors,
    restored_linear,
    thinned,
    untouched_errors,
)
from models.statistics import colour_left, density_statistics, view
from models.words import vocabulary

CAST = np.array([0.05, -0.03, 0.1], np.float32)
SOUND = Damage(clean=1.0, monochrome=0.0)
FLOOR = 0.25


@pytest.fixture(autouse=True)
def eagerly() -> Iterator[None]:
    """Without XLA, which compiles for seconds; the arithmetic is the same. `test_training` has it compiled."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def photographs(count: int = 4, side: int = VIEW) -> tf.Tensor:
    coarse = tf.random.stateless_uniform([count, 5, 5, 3], [9, 0], 0.2, 0.8)
    return tf.round(tf.image.resize(coarse, [side, side]) * 255) / 255


def sound(count: int = 4) -> Damaged:
    """Photographs without damage."""
    return thinned(degrade(photographs(count), tf.constant([1, 1]), SOUND))


def with_coefficients(decision: Decision, **changed: Any) -> Decision:
    return decision._replace(coefficients=decision.coefficients._replace(**changed))


def unchanged(damaged: Damaged) -> Decision:
    """The decision that does nothing, whose small heads know the truth."""
    count = damaged.image.shape[0]
    log_error = tf.math.log(untouched_errors(damaged) + FLOOR)
    cell = damaged.image.shape[1] // 16
    plain = Decision(
        coefficients=correction.identity(count),
        log_error=log_error,
        log_untouched=log_error,
        log_invented=None,
        log_error_map=tf.tile(log_error[:, None, None], [1, CELLS, CELLS]),
        damage=damaged.classes * 40 - 20,
        grey=tf.zeros([count]),
        guess=tf.nn.avg_pool2d(linear_to_density(damaged.target), cell, cell, "VALID"),
    )
    return plain._replace(log_invented=tf.math.log(invented_errors(plain, damaged.colour) + FLOOR))


def measured(decision: Decision, damaged: Damaged, **weights: float) -> Losses:
    return losses(decision, damaged, Weights(**weights))


def test_thinning_takes_every_second_pixel() -> None:
    whole = degrade(photographs(), tf.constant([1, 1]), Damage())
    thin = thinned(whole)
    assert thin.image.shape == (4, VIEW // 2, VIEW // 2, 3)
    assert thin.defects.shape == (4, VIEW // 2, VIEW // 2)
    np.testing.assert_array_equal(thin.target, whole.target[:, ::2, ::2])
    np.testing.assert_array_equal(thin.classes, whole.classes)


def test_a_perfect_restoration_costs_nothing() -> None:
    clean = sound()
    result = measured(unchanged(clean), clean, invented=0.0)
    assert result.colour < 0.3  # codes of 8 bits
    assert result.structure < 1e-3
    assert result.squared < 1e-5
    assert result.smooth < 1e-6
    assert result.error < 0.05
    assert result.damage < 1e-6
    assert result.total < 0.3


def test_undoing_the_damage_costs_less_than_leaving_it() -> None:
    clean = sound()
    density = tf.gather(tf.constant(density_table(256)), tf.cast(clean.image, tf.int32)) + CAST
    damaged = clean._replace(image=tf.cast(tf.round(density_to_srgb(density) * 255), tf.uint8))
    left = unchanged(damaged)
    offset = np.zeros((3, 4), np.float32)
    offset[:, 3] = -CAST
    undone = with_coefficients(left, matrix=left.coefficients.matrix + offset)
    before, after = measured(left, damaged), measured(undone, damaged)
    assert after.colour < 0.4
    assert before.colour > 3
    assert before.squared > 10 * after.squared
    by_pixel, by_picture = picture_errors(restored_linear(undone, damaged), damaged)
    assert by_pixel.shape == (4, VIEW // 2, VIEW // 2)
    np.testing.assert_allclose(by_picture, tf.reduce_mean(by_pixel, axis=[1, 2]), rtol=1e-4)
    np.testing.assert_allclose(untouched_errors(damaged).numpy().mean(), before.colour, rtol=1e-4)


def test_structure_is_of_contrast_and_edges() -> None:
    clean = sound()
    flat = with_coefficients(unchanged(clean), matrix=0.3 * correction.identity(4).matrix)
    assert measured(flat, clean).structure > 0.1


def test_what_a_defect_hides_is_left_out() -> None:
    clean = sound()
    hidden = np.zeros((4, VIEW // 2, VIEW // 2), np.float32)
    hidden[:, :15] = 1
    scratched = clean._replace(image=tf.where(hidden[..., None] > 0, tf.zeros_like(clean.image), clean.image))
    assert measured(unchanged(scratched), scratched).colour > 5
    masked = scratched._replace(defects=tf.constant(hidden))
    result = measured(unchanged(masked), masked)
    assert result.colour < 0.3
    assert result.squared < 1e-5


def test_pictures_without_damage_weigh_more() -> None:
    clean = sound(2)
    mixed = clean._replace(classes=tf.one_hot([6, 0], len(DAMAGE_CLASSES)))
    assert DAMAGE_CLASSES[6] == "clean"
    offset = tf.concat([tf.zeros([1, 3, 4]), tf.fill([1, 3, 4], 0.1)], 0)
    plain = unchanged(mixed)
    spoils_damaged = with_coefficients(plain, matrix=plain.coefficients.matrix + offset)
    spoils_clean = with_coefficients(plain, matrix=plain.coefficients.matrix + offset[::-1])

    def ratio(clean: float) -> float:
        return float(measured(spoils_clean, mixed, clean=clean).colour) / float(
            measured(spoils_damaged, mixed, clean=clean).colour
        )

    assert ratio(2.0) == pytest.approx(2 * ratio(1.0), rel=0.05)


def test_smoothness_weighs_bends_steps_and_distance() -> None:
    clean = sound()
    plain = unchanged(clean)
    bent = plain.coefficients.curves + 0.1 * tf.cos(3.14 * tf.range(correction.SEGMENTS + 1.0))
    steps = plain.coefficients.chroma + 9.0 * tf.cos(3.14 * tf.range(float(correction.LEVELS)))[:, None]
    for changed in (
        {"curves": bent},
        {"matrix": plain.coefficients.matrix + 0.1},
        {"slope": plain.coefficients.slope + 0.1},
        {"chroma": steps},
    ):
        worse = with_coefficients(plain, **changed)
        light, heavy = measured(worse, clean, smoothness=0.0), measured(worse, clean, smoothness=2.0)
        assert light.smooth > 1e-4
        np.testing.assert_allclose(heavy.total - light.total, 2 * light.smooth, rtol=1e-2)


def test_invented_colours_are_measured_against_the_photograph() -> None:
    clean = sound()
    grey = unchanged(clean)
    # One colour for all of it, at every lightness.
    luminance = tf.reduce_sum(clean.colour * LUMINANCE, axis=-1)
    clean = clean._replace(colour=tint(luminance, tf.zeros([*luminance.shape, 2]) + tf.constant([12.0, -8.0])))
    lab = linear_to_lab(clean.colour)
    chroma = tf.zeros_like(grey.coefficients.chroma) + tf.constant([12.0, -8.0])
    coloured = with_coefficients(grey, chroma=chroma)
    assert tf.reduce_max(invented_errors(coloured, clean.colour)) < 0.2
    by_hand = tf.reduce_mean(delta_e94(linear_to_lab(tf.repeat(luminance[..., None], 3, axis=-1)), lab), axis=[1, 2])
    assert tf.reduce_min(by_hand) > 3
    np.testing.assert_allclose(invented_errors(grey, clean.colour), by_hand, rtol=1e-3, atol=1e-2)
    # Half of the pictures are coloured in training.
    half = with_coefficients(grey, chroma=chroma[:2])._replace(log_invented=grey.log_invented[:2])
    np.testing.assert_allclose(
        measured(half, clean).invented, tf.reduce_mean(invented_errors(coloured, clean.colour)[:2]), rtol=1e-4
    )


def test_the_total_is_finite_and_has_a_finite_gradient_for_every_variable(
    random_generator: Callable[..., Any],
) -> None:
    plain = tf.concat([tf.zeros([1, 3]), tf.ones([1, 3]), tf.fill([1, 3], 0.5), tf.eye(3)], 0)
    extremes = plain[:, None, None, :] * tf.ones([SIGHT, SIGHT, 1])
    pictures = tf.concat([photographs(3, SIGHT), extremes], 0)
    generator = random_generator(3)
    everything = Damage(clean=0.0, fade=1, stain=1, cast=1, contrast=1, monochrome=0.2, grain=1, scratches=1, jpeg=1)
    ids = tf.constant([[vocabulary().index("red"), vocabulary().index("door")]] * 9, tf.int64)
    for damage in (everything, Damage(clean=1.0)):
        damaged = degrade(pictures, tf.constant([5, 5]), damage)
        weights = tf.constant([[1.0, 2.0], [0.0, 0.0], [0.5, 0.0]] * 3)
        palette = tf.one_hot([3, 0, 9] * 3, PALETTE) * tf.constant([[1.0], [0.0], [1.0]] * 3)
        statistics = density_statistics(view(damaged.image))
        with tf.GradientTape() as tape:
            decision = generator(damaged.image, colour_left(statistics), statistics, ids, weights, palette)
            total = losses(decision, thinned(damaged), Weights()).total
        assert np.isfinite(float(total))
        gradients = tape.gradient(total, [variable.value for variable in generator.trainable_variables])
        for variable, gradient in zip(generator.trainable_variables, gradients, strict=True):
            assert gradient is not None, variable.path
            assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all(), variable.path
            assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, variable.path


def test_the_error_heads_do_not_bend_the_decision() -> None:
    damaged = thinned(degrade(photographs(), tf.constant([1, 1]), Damage(clean=0.0)))
    decision = unchanged(damaged)
    coefficients: Coefficients = decision.coefficients
    with tf.GradientTape() as tape:
        tape.watch(list(coefficients))
        error = measured(decision, damaged).error
    assert tape.gradient(error, list(coefficients)) == [None] * len(coefficients)
