"""The networks' contract, whatever their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models import correction
from models.colour import MAX_DENSITY, density_table
from models.contract import DAMAGE_CLASSES, PALETTE, SIGHT, STATISTICS
from models.correction import Coefficients
from models.degradation import Damage, degrade
from models.generator import (
    _QUANTILES,
    CELLS,
    Decision,
    Generator,
    colourless,
    density_quantiles,
    fit_field,
    fit_matrix,
    listening,
    neutral_matrix,
)
from models.statistics import colour_left, density_statistics, view
from models.words import WORDS, vocabulary

RandomGenerator = Callable[..., Any]
Given = dict[str, tf.Tensor]


@pytest.fixture(scope="module", params=[0, 1])
def generator(request: pytest.FixtureRequest, random_generator: RandomGenerator) -> Any:
    return random_generator(request.param)


def coloured(count: int, seed: int = 0) -> tf.Tensor:
    coarse = tf.random.stateless_uniform([count, 6, 6, 3], [seed, 0], 0, 255)
    return tf.cast(tf.image.resize(coarse, [SIGHT, SIGHT]), tf.uint8)


def grey(count: int, seed: int = 0) -> tf.Tensor:
    return tf.repeat(coloured(count, seed)[..., :1], 3, axis=-1)


def given(pictures: tf.Tensor, words: int = 5, palette: bool = True, **other: Any) -> Given:
    """What the generator is called with, for pictures with random captions and palettes."""
    count = pictures.shape[0]
    statistics = density_statistics(view(pictures))
    return {
        "picture": pictures,
        "left": colour_left(statistics),
        "statistics_z": statistics,
        "ids": tf.random.stateless_uniform([count, words], [1, 1], 0, WORDS + 1, tf.int64),
        "weights": tf.ones([count, words]),
        "palette": tf.nn.softmax(tf.random.stateless_normal([count, PALETTE], [1, 2])) * float(palette),
    } | other


def values(decision: Decision) -> dict[str, np.ndarray]:
    """Everything decided, by name."""
    plain = {**decision.coefficients._asdict(), **decision._asdict()}
    return {name: value.numpy() for name, value in plain.items() if name != "coefficients"}


def decide(generator: Any, pictures: tf.Tensor, words: int = 5, palette: bool = True, **other: Any) -> Any:
    return values(generator(**given(pictures, words, palette, **other)))


def moved(one: dict[str, np.ndarray], other: dict[str, np.ndarray], *names: str) -> float:
    """The largest difference between two decisions, in all of it or in what is named."""
    return max(float(np.abs(one[name] - other[name]).max()) for name in names or one)


def caption(*words: str) -> Given:
    ids = [vocabulary().index(word) for word in words]
    return {"ids": tf.constant([ids], tf.int64), "weights": tf.ones([1, len(ids)])}


def test_shapes(generator: Any) -> None:
    decided = decide(generator, coloured(3))
    assert {name: value.shape for name, value in decided.items()} == {
        "matrix": (3, 3, 4),
        "slope": (3, 3, 4),
        "field": (3, correction.FIELD, correction.FIELD),
        "curves": (3, 3, correction.SEGMENTS + 1),
        "chroma": (3, correction.GRID, correction.GRID, correction.LEVELS, 2),
        "detail": (3, 2),
        "log_error": (3,),
        "log_untouched": (3,),
        "log_invented": (3,),
        "log_error_map": (3, CELLS, CELLS),
        "damage": (3, len(DAMAGE_CLASSES)),
        "grey": (3,),
        "guess": (3, 16, 16, 3),
    }
    for value in decided.values():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
    assert (decided["detail"] == 1).all()


def test_curves_are_monotone_and_bounded(generator: Any) -> None:
    curves = decide(generator, tf.concat([coloured(6), grey(2)], 0))["curves"]
    slopes = np.diff(curves, axis=-1) * (correction.SEGMENTS / MAX_DENSITY)
    assert slopes.std() > 0.01  # the weights do something
    assert slopes.min() >= np.exp(-1.5) - 1e-3
    assert slopes.max() <= np.exp(1.5) + 1e-3
    np.testing.assert_array_equal(curves[..., 0], 0)


def test_the_field_is_bounded_and_has_no_mean(generator: Any) -> None:
    field = decide(generator, coloured(3))["field"]
    assert field.std() > 1e-3
    assert np.abs(field).max() <= 2
    np.testing.assert_allclose(field.mean((1, 2)), 0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_stays_exactly_grey(generator: Any, dtype: type) -> None:
    pictures = grey(2)
    decision: Decision = generator(**given(pictures))
    assert np.abs(decision.coefficients.matrix.numpy() - np.eye(3, 4)).max() > 0.01
    top = np.iinfo(dtype).max
    ramp = np.linspace(0, top, 65536 if dtype is np.uint16 else 256).round().astype(dtype)
    scan = tf.constant(np.repeat(ramp.reshape(16, -1, 1), 3, axis=2))
    plain = decision.coefficients._replace(chroma=tf.zeros_like(decision.coefficients.chroma), detail=tf.zeros([2]))
    for index in range(2):
        one = Coefficients(*(value[index] for value in plain))
        restored = correction.apply(scan, one, lambda image, _: tf.cast(image, tf.uint16)).numpy().astype(int)
        assert np.ptp(restored, axis=-1).max() == 0
        assert np.ptp(restored) > 0


def test_colour_is_not_taken_for_grey(generator: Any) -> None:
    decided = decide(generator, coloured(4))
    assert (decided["grey"] == 0).all()
    assert np.abs(decided["matrix"][:, 0, 1]).max() > 1e-4  # channels are mixed


def test_colourless_is_a_ramp_over_what_is_left() -> None:
    shares = colourless(tf.constant([0.0, 0.003, 0.008, 0.010, 0.012, 0.1])).numpy()
    np.testing.assert_allclose(shares, [1, 1, 1, 0.5, 0, 0], atol=1e-4)


def test_grey_is_colourless_and_colour_is_not() -> None:
    def share(pictures: tf.Tensor) -> np.ndarray:
        return colourless(colour_left(density_statistics(view(pictures)))).numpy()

    assert (share(grey(4)) == 1).all()
    assert (share(coloured(4)) == 0).all()
    muted = tf.cast(0.8 * tf.cast(grey(4), tf.float32) + 0.2 * tf.cast(coloured(4), tf.float32), tf.uint8)
    assert (share(muted) == 0).all()


def test_toned_prints_are_mostly_colourless() -> None:
    """Half of the damage model's black-and-white prints are toned: a colour that follows from density alone."""
    linear = tf.cast(coloured(16), tf.float32) / 255
    spoilt = Damage(
        clean=0.0, monochrome=1.0, grain=0.0, scratches=0.0, stain=0.0, cast=0.0, fade=0.0, contrast=0.0, region="all"
    )
    printed = degrade(linear, tf.constant([3, 4]), spoilt).image
    toned = np.ptp(printed.numpy().astype(int), axis=-1).mean((1, 2)) > 2
    shares = colourless(colour_left(density_statistics(view(printed)))).numpy()
    assert 0 < toned.sum() < 16
    assert (shares[~toned] == 1).all()
    assert shares[toned].mean() > 0.5


def test_neutral_matrix_keeps_what_the_matrix_does_to_grey_on_average() -> None:
    matrix = tf.random.stateless_normal([5, 3, 4], [1, 1])
    neutral = neutral_matrix(matrix).numpy()
    for value in (0.0, 0.7, 2.0):
        vector = np.array([value, value, value, 1.0], np.float32)
        result = neutral @ vector
        np.testing.assert_allclose(result, (matrix.numpy() @ vector).mean(1, keepdims=True).repeat(3, 1), atol=1e-5)
    off_diagonal = neutral[:, :, :3] * (1 - np.eye(3))
    assert not off_diagonal.any()


def test_no_caption_is_an_empty_caption(generator: Any) -> None:
    outcomes = [
        decide(generator, coloured(3), palette=False, ids=ids, weights=weights)
        for ids, weights in (
            (tf.zeros([3, 0], tf.int64), tf.zeros([3, 0])),
            (tf.zeros([3, 1], tf.int64), tf.zeros([3, 1])),
            (tf.fill([3, 64], tf.constant(17, tf.int64)), tf.zeros([3, 64])),
        )
    ]
    for other in outcomes[1:]:
        for name, value in outcomes[0].items():
            np.testing.assert_allclose(other[name], value, atol=1e-4, err_msg=name)


def test_padding_does_not_count_but_words_and_their_order_do(generator: Any) -> None:
    def outcome(ids: list[int], weights: list[float]) -> Any:
        heard = {"ids": tf.constant([ids], tf.int64), "weights": tf.constant([weights])}
        return decide(generator, grey(1), palette=False, **heard)

    plain = outcome([500, 900], [1.0, 2.0])
    assert moved(plain, outcome([500, 900, 0, 0], [1.0, 2.0, 0.0, 0.0])) < 1e-3
    for other in (outcome([900, 500], [2.0, 1.0]), outcome([600, 900], [1.0, 2.0]), outcome([0], [0.0])):
        assert moved(plain, other, "matrix") > 1e-5
        assert moved(plain, other, "chroma") > 1e-3


def test_the_palette_counts(generator: Any) -> None:
    with_one, without = decide(generator, coloured(2)), decide(generator, coloured(2), palette=False)
    assert moved(with_one, without, "matrix") > 1e-5
    assert moved(with_one, without, "chroma") > 1e-3


def test_a_colour_that_the_caption_names_draws_the_picture_to_it(random_generator: RandomGenerator) -> None:
    """By construction, before anything is learned: the named colour is handed on to the places that attend to it."""
    generator = random_generator(1, 0.0)
    mean = {
        word: decide(generator, grey(1), palette=False, **caption(word, "door"))["chroma"].mean((0, 1, 2, 3))
        for word in ("red", "blue")
    }
    assert mean["red"][0] > mean["blue"][0] + 3
    assert mean["red"][1] > mean["blue"][1] + 3


# Measured colour outranks the caption


def test_listening_falls_with_the_colour_left() -> None:
    heard = listening(tf.constant([0.0, 0.01, 0.1, 1.0])).numpy()
    np.testing.assert_allclose(heard, [1, 0.7788, 0.0821, 0], atol=1e-3)


def test_the_caption_hardly_moves_a_picture_with_plenty_of_colour(generator: Any) -> None:
    def moves(left: float) -> float:
        kept = {"left": tf.fill([4], left)}
        with_one = decide(generator, coloured(4), **kept)
        without = decide(generator, coloured(4), weights=tf.zeros([4, 5]), **kept)
        return moved(with_one, without, "matrix", "slope", "curves")

    little, plenty = moves(0.015), moves(0.2)
    assert little > 1e-3
    assert plenty < 0.1 * little
    assert moves(1.0) < 1e-5


def test_a_palette_is_heard_however_much_colour_is_left(generator: Any) -> None:
    kept = {"left": tf.fill([2], 1.0)}
    one, other = decide(generator, coloured(2), **kept), decide(generator, coloured(2), palette=False, **kept)
    assert moved(one, other, "matrix") > 1e-5


# Whites and blacks


def test_quantiles_are_those_of_numpy() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, SIGHT, SIGHT, 3)).astype(np.uint8)
    codes = np.percentile(picture, 100 * _QUANTILES, axis=(1, 2), method="inverted_cdf").astype(int)  # [9, 2, 3]
    np.testing.assert_array_equal(density_quantiles(tf.constant(picture)), density_table(256)[codes].transpose(1, 2, 0))


def test_quantiles_of_one_colour() -> None:
    for code in (0, 255):
        picture = tf.fill([1, 8, 8, 3], tf.constant(code, tf.uint8))
        np.testing.assert_array_equal(density_quantiles(picture), np.full((1, 3, 9), density_table(256)[code]))


# Guesses by place


def faded(uneven: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Densities of sound pictures and of faded ones, and the matrix and its slope that undo the fading."""
    rng = np.random.default_rng(0)
    sound = rng.uniform(0.1, 1.5, (2, 16, 16, 3))
    matrix = np.eye(3, 4) + rng.normal(0, 0.2, (2, 3, 4))
    slope = rng.normal(0, 0.2, (2, 3, 4))
    field = np.linspace(-uneven, uneven, 16)[None, :, None, None, None]
    undo = matrix[:, None, None] + field * slope[:, None, None]
    faded = np.linalg.solve(undo[..., :3], (sound - undo[..., 3])[..., None])[..., 0]
    return sound.astype(np.float32), faded.astype(np.float32), matrix - np.eye(3, 4), slope


def test_many_guesses_tell_the_matrix() -> None:
    sound, seen, deviation, _ = faded()
    prior = tf.zeros([2, 3, 4])
    counted = tf.fill([2, 16, 16, 1], 100.0)
    np.testing.assert_allclose(fit_matrix(seen, sound, counted, prior), deviation, atol=0.02)
    rough = sound + np.random.default_rng(1).normal(0, 0.3, sound.shape).astype(np.float32)
    assert np.abs(fit_matrix(seen, rough, counted, prior) - deviation).max() < 0.25  # of guesses off by 0.3
    held = tf.constant(deviation + 1, tf.float32)
    np.testing.assert_allclose(fit_matrix(seen, sound, tf.zeros_like(counted), held), held, atol=1e-6)


def test_a_guess_that_does_not_count_does_not_matter() -> None:
    sound, seen, deviation, _ = faded()
    wrong = np.where(np.arange(16)[None, None, :, None] < 8, sound, 9.0).astype(np.float32)
    half = np.where(np.arange(16) < 8, 100.0, 0.0)[None, None, :, None] * np.ones((2, 16, 1, 1))
    counted = tf.constant(half, tf.float32)
    np.testing.assert_allclose(fit_matrix(seen, wrong, counted, tf.zeros([2, 3, 4])), deviation, atol=0.05)


def test_what_one_matrix_cannot_do_the_field_does() -> None:
    sound, seen, deviation, slope = faded(uneven=0.8)
    counted = tf.ones([2, 16, 16, 1])
    known = [tf.constant(value, tf.float32) for value in (deviation, slope)]
    field = fit_field(seen, sound, counted, *known)
    assert field.shape == (2, correction.FIELD, correction.FIELD)
    wanted = np.linspace(-0.8, 0.8, 16).reshape(8, 2).mean(1)[None, :, None] * np.ones((2, 1, 8))
    np.testing.assert_allclose(field[:, 2:-2], wanted[:, 2:-2], atol=0.1)
    assert not fit_field(seen, sound, 0 * counted, *known).numpy().any()


# Parts that are switched off

DECIDED = ("matrix", "slope", "field", "curves")


@pytest.mark.parametrize(
    ("part", "changed", "unmoved"),
    [
        ("caption", {"ids": tf.zeros([2, 2], tf.int64), "weights": tf.ones([2, 2])}, None),
        ("palette", {"palette": tf.one_hot([3, 9], PALETTE)}, None),
        ("statistics", {"statistics_z": tf.ones([2, STATISTICS])}, None),
        # The colouriser and the map of expected errors are nothing without the picture.
        ("picture", {"picture": coloured(2, 7)}, (*DECIDED, "damage", "log_error")),
    ],
)
def test_a_part_that_is_switched_off_has_no_influence(
    random_generator: RandomGenerator, part: str, changed: Given, unmoved: tuple[str, ...] | None
) -> None:
    plain = given(coloured(2), left=tf.fill([2], 0.015))
    # Where a picture's whites and blacks lie are statistics, too, which the network takes itself.
    parts = {"picture": False, "statistics": False} if part == "picture" else {part: False}
    for off in (False, True):
        generator = random_generator(2, **(parts if off else {}))
        one, other = values(generator(**plain)), values(generator(**{**plain, **changed}))
        if off:
            assert moved(one, other, *(unmoved or ())) == 0
        else:
            assert moved(one, other, "matrix") > 1e-5


def test_without_curves_and_field_a_matrix_is_left(random_generator: RandomGenerator) -> None:
    decided = decide(random_generator(2, curves=False, field=False), coloured(2))
    same = correction.identity(2)
    np.testing.assert_allclose(decided["curves"], same.curves, atol=1e-5)
    assert not decided["slope"].any()
    assert np.abs(decided["matrix"] - same.matrix).max() > 0.01


# Robustness


def test_a_picture_alone_is_decided_as_in_a_batch(generator: Any) -> None:
    pictures = tf.concat([coloured(3), grey(1)], 0)
    batch = decide(generator, pictures, 0, palette=False)
    for index in range(4):
        alone = decide(generator, pictures[index : index + 1], 0, palette=False)
        for name, value in batch.items():
            np.testing.assert_allclose(alone[name][0], value[index], rtol=1e-4, atol=1e-3, err_msg=name)


def test_outlandish_statistics_do_no_harm(generator: Any) -> None:
    extreme = decide(generator, coloured(1), statistics_z=tf.fill([1, STATISTICS], 1e9), left=tf.fill([1], 1e9))
    assert all(np.isfinite(value).all() for value in extreme.values())


def test_an_untrained_generator_changes_next_to_nothing() -> None:
    decided = decide(Generator(width=8, colour_width=8), coloured(4))
    same = correction.identity(4)
    assert np.abs(decided["matrix"] - same.matrix).max() < 0.05
    assert np.abs(decided["slope"]).max() < 0.05
    assert np.abs(decided["curves"] - same.curves).max() < 0.1
