"""The damage model: repeatable, stage by stage what it says, and truthful about it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models.augmentation import Variety, vary
from models.colour import density_table, linear_to_srgb, srgb_to_density, srgb_to_linear
from models.contract import DAMAGE_CLASSES
from models.degradation import (
    REGIONS,
    Damage,
    Damaged,
    _Draws,
    _fading,
    degrade,
    fade_matrix,
    held_out,
    inverse3,
    recompress,
)

NOTHING = Damage(
    clean=0,
    alone=0,
    fade=0,
    uneven=0,
    blur=0,
    region="all",
    stain=0,
    cast=0,
    contrast=0,
    monochrome=0,
    grain=0,
    scratches=0,
)  # damaged in name only


def photographs(count: int = 8, size: int = 32, seed: int = 0) -> tf.Tensor:
    """Smooth random pictures on whole 8-bit codes: float32 [count, size, size, 3]."""
    coarse = tf.random.stateless_uniform([count, 5, 5, 3], [seed, 0])
    return tf.round(tf.image.resize(coarse, [size, size]) * 255) / 255


def aged(pictures: tf.Tensor, seed: tf.Tensor, damage: Damage) -> Damaged:
    """`degrade` with sRGB in 0..1 in and out, which is what can be compared with code values."""
    result = degrade(srgb_to_linear(pictures), seed, damage)
    return result._replace(target=linear_to_srgb(result.target), colour=linear_to_srgb(result.colour))


def damage(pictures: tf.Tensor, seed: int = 1, **stages: Any) -> Damaged:
    result = aged(pictures, tf.constant([seed, 5]), dataclasses.replace(NOTHING, **stages))
    return Damaged(*(value.numpy() for value in result))


def density(image: np.ndarray) -> np.ndarray:
    return density_table(256)[image]


def classes(result: Damaged, name: str) -> np.ndarray:
    return result.classes[:, DAMAGE_CLASSES.index(name)]


def test_shapes_and_ranges() -> None:
    result = aged(photographs(), tf.constant([1, 1]), Damage())
    assert result.image.dtype == tf.uint8
    assert result.image.shape == result.target.shape == (8, 32, 32, 3)
    assert result.classes.shape == (8, len(DAMAGE_CLASSES))
    assert result.defects.shape == (8, 32, 32)
    assert 0 <= tf.reduce_min(result.target) <= tf.reduce_max(result.target) <= 1
    assert set(np.unique(result.classes)) <= {0.0, 1.0}
    assert set(np.unique(result.defects)) <= {0.0, 1.0}


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    pictures = photographs()
    first, again, other = (aged(pictures, tf.constant([3, step]), Damage()) for step in (7, 7, 8))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first.image.numpy() != other.image.numpy()).mean() > 0.2


def test_in_a_graph_the_damage_is_the_same() -> None:
    pictures = photographs()
    compiled = tf.function(lambda batch, seed: aged(batch, seed, Damage()))
    eager, graph = aged(pictures, tf.constant([3, 7]), Damage()), compiled(pictures, tf.constant([3, 7]))
    assert np.abs(eager.image.numpy().astype(int) - graph.image.numpy()).max() <= 1
    np.testing.assert_array_equal(eager.classes, graph.classes)


def test_one_stage_more_does_not_change_the_others() -> None:
    pictures = photographs()
    without, with_grain = damage(pictures, cast=0.5, fade=0.5), damage(pictures, cast=0.5, fade=0.5, grain=1.0)
    for name in ("faded", "cast", "yellowed"):
        np.testing.assert_array_equal(classes(without, name), classes(with_grain, name))


def test_clean_pictures_stay_as_they_are() -> None:
    pictures = photographs()
    result = aged(pictures, tf.constant([2, 2]), Damage(clean=1.0, monochrome=0.0))
    np.testing.assert_array_equal(result.image, tf.cast(tf.round(pictures * 255), tf.uint8))
    np.testing.assert_allclose(result.target, pictures, atol=1e-4)
    np.testing.assert_array_equal(result.classes, [[0] * (len(DAMAGE_CLASSES) - 1) + [1]] * len(pictures))
    assert not result.defects.numpy().any()


def test_clean_black_and_white_pictures_are_their_own_target() -> None:
    result = aged(photographs(), tf.constant([2, 2]), Damage(clean=1.0, monochrome=1.0))
    assert np.abs(result.image.numpy() - result.target.numpy() * 255).max() < 0.6  # a table gives the codes


def test_fade_matrix_takes_each_dye_by_its_share() -> None:
    absorption = tf.random.stateless_uniform([4, 3, 3], [1, 1], 0.05, 0.3) * (1 - tf.eye(3)) + tf.eye(3)
    remaining = tf.random.stateless_uniform([4, 3], [1, 2], 0.2, 1.0)
    fade = fade_matrix(absorption, remaining)
    for dye in range(3):  # a dye alone keeps its colour and loses its share
        alone = absorption[:, :, dye]
        np.testing.assert_allclose(tf.linalg.matvec(fade, alone), remaining[:, dye, None] * alone, atol=1e-5)
    np.testing.assert_allclose(fade_matrix(absorption, tf.ones([4, 3])), np.tile(np.eye(3), (4, 1, 1)), atol=1e-6)


@pytest.mark.parametrize("uneven", [0.0, 1.0])
def test_fading_loses_dye(uneven: float) -> None:
    grey = tf.repeat(photographs(32)[..., :1] * 0.7 + 0.1, 3, axis=-1)  # of grey every dye's share is positive
    result = damage(grey, fade=1.0, uneven=uneven)
    before, after = srgb_to_density(result.target).numpy(), density(result.image)
    assert (after <= before + 0.03).all()
    loss = 1 - after.sum((1, 2)) / before.sum((1, 2))  # [N, 3]
    assert loss.min() > -0.02
    assert 0.1 < loss.max(1).mean() < 0.8  # the fast dye
    assert np.ptp(loss, axis=1).max() > 0.2  # dyes differ: a cast
    assert classes(result, "faded").mean() > 0.6
    assert not classes(result, "clean").any()


def test_uneven_fading_varies_over_the_picture() -> None:
    flat = tf.fill([16, 32, 32, 3], 0.4)
    even, uneven = (density(damage(flat, fade=1.0, uneven=share).image) for share in (0.0, 1.0))
    assert np.ptp(even, axis=(1, 2)).max() == 0
    assert np.ptp(uneven, axis=(1, 2)).max(1).mean() > 0.03


def test_a_stain_yellows() -> None:
    result = damage(tf.fill([32, 16, 16, 3], 0.5), stain=1.0)
    gain = (density(result.image) - srgb_to_density(result.target).numpy()).mean((1, 2))  # [N, 3]
    red, green, blue = gain.T
    rounding = 0.005
    assert (red <= green + rounding).all()
    assert (green < blue).all()
    assert (blue > 0).all()
    assert blue.mean() > 1.5 * green.mean() > 3 * red.mean() > 0
    assert classes(result, "yellowed").mean() > 0.7
    assert (gain[classes(result, "yellowed") == 1, 2] > gain[classes(result, "yellowed") == 0, 2].max(initial=0)).all()


def test_a_cast_shifts_every_pixel_alike() -> None:
    result = damage(photographs(16) * 0.6 + 0.2, cast=1.0, cast_density=0.05)
    shift = density(result.image) - srgb_to_density(result.target).numpy()
    assert np.abs(shift - shift.mean((1, 2), keepdims=True)).max() < 0.03
    assert np.abs(shift.mean((1, 2))).mean() > 0.02
    assert classes(result, "cast").all()


def test_a_black_and_white_print_is_grey_or_of_one_tone() -> None:
    result = aged(photographs(64), tf.constant([4, 4]), dataclasses.replace(NOTHING, monochrome=1.0))
    assert result.classes.numpy()[:, DAMAGE_CLASSES.index("monochrome")].all()
    depth = srgb_to_density(result.target).numpy()
    middle = np.where((depth > 0.15) & (depth < 2), depth, np.nan)
    ratio = middle / middle[..., 1:2]
    mean = np.nanmean(ratio, axis=(1, 2), keepdims=True)
    assert np.nanmax(np.abs(ratio - mean)) < 0.01  # one tone all over the picture
    red, _, blue = mean[:, 0, 0].T
    toned = blue - red > 0.01
    assert 0.25 < toned.mean() < 0.75
    np.testing.assert_allclose(mean[~toned], 1, atol=2e-3)
    assert (red[toned] < 1).all()  # brown, not blue
    assert (blue[toned] > 1).all()


def test_black_and_white_prints_do_not_lose_dye() -> None:
    result = damage(photographs(), monochrome=1.0, fade=1.0)
    assert np.abs(result.image - result.target * 255).max() < 0.6
    assert not classes(result, "faded").any()


def test_grain_is_noise_around_the_picture() -> None:
    result = damage(tf.fill([8, 64, 64, 3], 0.4), grain=1.0)
    error = density(result.image) - srgb_to_density(result.target).numpy()
    assert np.abs(error.mean((1, 2))).max() < 0.01
    assert (error.std((1, 2)) > 0.003).all()
    common = [np.corrcoef(one.reshape(-1, 3).T)[0, 1] for one in error]
    assert 0.2 < np.mean(common) < 0.6  # partly correlated across channels
    assert classes(result, "noisy").all()


def test_defects_are_where_the_scratches_are() -> None:
    pictures = photographs(16, 64)
    result = damage(pictures, scratches=1.0)
    assert classes(result, "scratched").all()
    share = result.defects.mean((1, 2))
    assert share.max() > 0.005
    assert share.max() < 0.3
    change = np.abs(result.image.astype(float) - result.target * 255).max(-1)
    inside = result.defects > 0
    around = tf.nn.max_pool2d(result.defects[..., None], 5, 1, "SAME").numpy()[..., 0] > 0
    assert change[inside].mean() > 20
    assert (change[~around] > 8).mean() < 0.005
    assert change[~around].mean() < 1


def test_without_scratches_there_are_no_defects() -> None:
    result = aged(photographs(), tf.constant([1, 2]), Damage(clean=0.0, scratches=0.0))
    assert not result.defects.numpy().any()
    assert not result.classes.numpy()[:, DAMAGE_CLASSES.index("scratched")].any()


def test_nothing_drawn_is_clean() -> None:
    result = damage(photographs())
    assert classes(result, "clean").all()
    assert result.classes.sum() == len(result.classes)


def test_share_of_clean_pictures() -> None:
    flags, images = [], []
    for step in range(10):
        pictures = photographs(40, 16, seed=step)
        result = aged(pictures, tf.constant([1, step]), Damage(monochrome=0.0))
        flags.append(result.classes.numpy()[:, DAMAGE_CLASSES.index("clean")])
        images.append(np.abs(result.image.numpy() - pictures.numpy() * 255).max((1, 2, 3)))
    clean, changed = np.concatenate(flags), np.concatenate(images)
    # 0.2 spared on purpose and 0.02 that no stage happened to; three standard deviations of 400 draws are 0.06.
    assert 0.16 < clean.mean() < 0.28
    assert (changed[clean == 1] < 1).all()
    assert (changed[clean == 0] >= 1).mean() > 0.95


def test_variation_can_be_nothing() -> None:
    pictures = photographs()
    same = vary(pictures, tf.constant([1, 1]), Variety(mosaic=0, exposure=0, light=0, saturation=0))
    np.testing.assert_allclose(same, pictures, atol=1e-4)


def test_variation_is_repeatable_and_stays_in_range() -> None:
    pictures = photographs(16)
    one, again, other = (vary(pictures, tf.constant([1, step]), Variety()).numpy() for step in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).mean() > 0.02
    assert 0 <= one.min() <= one.max() <= 1
    grey = vary(tf.fill([4, 8, 8, 3], 0.5), tf.constant([1, 1]), Variety(light=0.0)).numpy()
    assert np.ptp(grey, axis=-1).max() < 1e-5
    assert len(set(grey[:, 0, 0, 0])) == 4


def test_a_mosaic_takes_from_the_neighbour() -> None:
    flat = tf.range(8.0)[:, None, None, None] / 8 * tf.ones([1, 32, 32, 3])
    mixed = vary(flat, tf.constant([1, 1]), Variety(mosaic=1.0, exposure=0, light=0, saturation=0)).numpy() * 8
    for index, picture in enumerate(mixed):
        assert set(np.unique(np.rint(picture))) <= {index, (index - 1) % 8}
    assert 0.2 < np.mean(np.rint(mixed) != np.arange(8)[:, None, None, None]) < 0.8


NO_VARIETY = Variety(mosaic=0, exposure=0, light=0, saturation=0)


def test_exposure_and_light_scale_the_channels() -> None:
    pictures = photographs() * 0.2 + 0.1
    for variety, common in (
        (dataclasses.replace(NO_VARIETY, exposure=0.3), True),
        (dataclasses.replace(NO_VARIETY, light=0.1), False),
    ):
        factor = vary(pictures, tf.constant([1, 1]), variety).numpy() / pictures.numpy()
        np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1], factor.shape), rtol=1e-4)
        assert factor[:, 0, 0].std(axis=0).min() > 0.01  # each picture has its own
        assert (np.ptp(factor, axis=-1).max() < 1e-4) == common
    assert vary(pictures, tf.constant([1, 1]), dataclasses.replace(NO_VARIETY, exposure=9.0)).numpy().max() <= 1


def test_saturation_keeps_luminance() -> None:
    pictures = photographs() * 0.4 + 0.3  # far from the gamut's faces
    varied = vary(pictures, tf.constant([1, 1]), dataclasses.replace(NO_VARIETY, saturation=0.25)).numpy()
    weights = np.array([0.2126, 0.7152, 0.0722])
    np.testing.assert_allclose(varied @ weights, pictures.numpy() @ weights, atol=1e-5)
    scale = np.ptp(varied, axis=-1).mean((1, 2)) / np.ptp(pictures.numpy(), axis=-1).mean((1, 2))
    assert 0.75 < scale.min() < 0.95
    assert 1.05 < scale.max() < 1.25


# Regions that training never sees


def fadings(region: str, count: int = 4000) -> np.ndarray:
    draw = _Draws(tf.constant([3, 1]), tf.constant(count))
    return _fading(draw, Damage(region=region))[1].numpy()


def test_training_never_draws_from_what_is_held_out() -> None:
    share = {region: float(held_out(tf.constant(fadings(region))).numpy().mean()) for region in REGIONS}
    assert share["seen"] == 0
    assert share["held_out"] == 1
    assert 0.2 < share["all"] < 0.5


def test_what_is_held_out() -> None:
    remaining = tf.constant([[0.45, 0.7, 0.9], [0.39, 0.7, 0.9], [0.9, 0.6, 0.7], [0.7, 0.6, 0.9], [0.56, 0.7, 0.9]])
    assert held_out(remaining).numpy().tolist() == [True, False, True, False, False]


def test_fading_has_a_fast_a_middle_and_a_slow_dye() -> None:
    ordered = np.sort(fadings("all"), axis=1)
    assert ordered[:, 0].min() < 0.25
    assert (ordered[:, 0] <= 0.9).all()
    assert ordered[:, 2].min() >= 0.8
    orders = {tuple(order) for order in np.argsort(fadings("all"), axis=1)}
    assert len(orders) == 6


STAGES = ("fade", "stain", "cast", "contrast", "blur", "grain", "scratches", "jpeg")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_happens_as_often_as_it_is_told(stage: str) -> None:
    pictures = photographs(32)
    plain = damage(pictures)
    always, half = damage(pictures, **{stage: 1.0}), damage(pictures, **{stage: 0.5})
    happened = (always.image != plain.image).any((1, 2, 3)), (half.image != plain.image).any((1, 2, 3))
    assert happened[0].mean() > 0.95
    assert 0.23 < happened[1].mean() < 0.77  # three standard deviations of 32 draws
    if stage != "jpeg":  # where it happens it is the same (a share of JPEG is compressed twice)
        np.testing.assert_array_equal(half.image[happened[1]], always.image[happened[1]])
    for result, changed in zip((always, half), happened, strict=True):
        assert not (changed & (classes(result, "clean") == 1)).any()
        np.testing.assert_array_equal(result.colour, plain.colour)


def test_one_thing_alone() -> None:
    pictures = photographs(256, 16)
    result = damage(pictures, alone=1.0, fade=0.4, stain=0.2, contrast=0.2, cast=0.2)
    told = np.stack([classes(result, name) for name in ("faded", "cast", "yellowed")])
    assert told.sum(0).max() == 1
    assert (told[1:].mean(1) > 0.1).all()
    assert told[0].mean() > 0.25
    assert not classes(result, "clean").any()
    np.testing.assert_array_equal(damage(pictures, alone=1.0).image, damage(pictures).image)  # nothing is to happen


def test_what_is_called_faded_has_lost_more_than_what_is_not() -> None:
    result = damage(tf.fill([64, 8, 8, 3], 0.4), fade=1.0)
    loss = np.abs(srgb_to_density(result.target).numpy() - density(result.image)).max((1, 2, 3))
    faded = classes(result, "faded") == 1
    assert 0.5 < faded.mean() < 1
    assert loss[~faded].max() < np.median(loss[faded])


def test_black_and_white_is_a_kind_of_picture_not_a_damage() -> None:
    result = damage(photographs(), monochrome=1.0)
    assert classes(result, "clean").all()
    assert classes(result, "monochrome").all()
    np.testing.assert_allclose(result.colour, photographs(), atol=1e-4)
    assert np.abs(result.target - result.colour).mean() > 0.05


def test_inverse_of_small_matrices() -> None:
    matrix = tf.random.stateless_uniform([20, 3, 3], [1, 1], 0.05, 0.3) + tf.eye(3)
    np.testing.assert_allclose(inverse3(matrix), np.linalg.inv(matrix.numpy()), atol=1e-4)


# Stages that come last


def test_unsharpness_softens_and_keeps_the_mean() -> None:
    pictures = tf.cast(tf.random.stateless_uniform([4, 32, 32, 1], [2, 2]) < 0.5, tf.float32) * tf.ones(3) * 0.6 + 0.2
    soft = damage(pictures, blur=1.0)
    light = srgb_to_linear(tf.constant(soft.image / np.float32(255))).numpy()
    sharp = srgb_to_linear(pictures).numpy()
    assert (light.std((1, 2)) < 0.97 * sharp.std((1, 2))).all()
    np.testing.assert_allclose(light.mean((1, 2)), sharp.mean((1, 2)), atol=0.01)


def test_larger_grains_vary_as_much() -> None:
    flat = tf.fill([16, 64, 64, 3], 0.4)
    fine, coarse = (density(damage(flat, grain=1.0, grain_size=share).image) for share in (0.0, 1.0))
    assert coarse.std((1, 2)).mean() == pytest.approx(fine.std((1, 2)).mean(), rel=0.15)
    neighbours = [np.corrcoef(one[:, :-1].ravel(), one[:, 1:].ravel())[0, 1] for one in (fine, coarse)]
    assert neighbours[1] > neighbours[0] + 0.3


def test_jpeg_changes_only_the_pictures_it_happens_to() -> None:
    pictures = tf.constant(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    result = recompress(pictures, tf.constant([0, 95, 30])).numpy().astype(int)
    change = np.abs(result - pictures.numpy()).mean((1, 2, 3))
    assert change[0] == 0
    assert 0 < change[1] < change[2]
    clean = aged(photographs(), tf.constant([2, 2]), Damage(clean=1.0, monochrome=0.0, jpeg=1.0))
    np.testing.assert_array_equal(clean.image, np.rint(clean.target.numpy() * 255))
    spoilt, plain = damage(photographs(), jpeg=1.0), damage(photographs())
    assert (spoilt.image != plain.image).mean() > 0.1
