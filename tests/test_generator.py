"""The network's contract, whatever its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models import correction
from models.colour import MAX_DENSITY
from models.contract import DAMAGE_CLASSES, PALETTE, STATISTICS, VIEW
from models.generator import CELLS, Decision, Generator, grey_share, neutral_matrix
from models.statistics import density_statistics
from models.words import WORDS

RandomGenerator = Callable[..., Any]


@pytest.fixture(scope="module", params=[0, 1, 2])
def generator(request: pytest.FixtureRequest, random_generator: RandomGenerator) -> Any:
    return random_generator(request.param)


def coloured(count: int, seed: int = 0) -> tf.Tensor:
    coarse = tf.random.stateless_uniform([count, 6, 6, 3], [seed, 0], 0, 255)
    return tf.cast(tf.image.resize(coarse, [VIEW, VIEW]), tf.uint8)


def grey(count: int, seed: int = 0) -> tf.Tensor:
    return tf.repeat(coloured(count, seed)[..., :1], 3, axis=-1)


def decide(generator: Any, pictures: tf.Tensor, words: int = 5, palette: bool = True) -> Decision:
    count = pictures.shape[0]
    ids = tf.random.stateless_uniform([count, words], [1, 1], 0, WORDS + 1, tf.int64)
    histogram = tf.nn.softmax(tf.random.stateless_normal([count, PALETTE], [1, 2])) * float(palette)
    return generator(pictures, density_statistics(pictures), ids, tf.ones([count, words]), histogram)


def test_shapes(generator: Any) -> None:
    decision = decide(generator, coloured(3))
    assert decision.matrix.shape == (3, 3, 4)
    assert decision.curves.shape == (3, 3, correction.SEGMENTS + 1)
    assert decision.log_error.shape == (3,)
    assert decision.log_error_map.shape == (3, CELLS, CELLS)
    assert decision.damage.shape == (3, len(DAMAGE_CLASSES))
    assert decision.defects.shape == (3, CELLS, CELLS)
    for value in vars(decision).values():
        assert value.dtype == tf.float32
        assert np.isfinite(value.numpy()).all()


def test_curves_are_monotone_and_bounded(generator: Any) -> None:
    curves = decide(generator, tf.concat([coloured(6), grey(2)], 0)).curves.numpy()
    slopes = np.diff(curves, axis=-1) * (correction.SEGMENTS / MAX_DENSITY)
    assert slopes.std() > 0.01  # the weights do something
    assert slopes.min() >= np.exp(-1.5) - 1e-3
    assert slopes.max() <= np.exp(1.5) + 1e-3
    np.testing.assert_array_equal(curves[..., 0], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_stays_exactly_grey(generator: Any, dtype: type) -> None:
    pictures = grey(4)
    decision = decide(generator, pictures)
    assert np.abs(decision.matrix.numpy() - np.eye(3, 4)).max() > 0.01
    top = np.iinfo(dtype).max
    ramp = np.linspace(0, top, 65536 if dtype is np.uint16 else 256).round().astype(dtype)
    scan = tf.constant(np.repeat(ramp[None, :, None], 3, axis=2))
    for index in range(4):
        restored = correction.apply(scan, decision.matrix[index], decision.curves[index]).numpy().astype(int)
        assert np.ptp(restored, axis=-1).max() == 0


def test_colour_is_not_taken_for_grey(generator: Any) -> None:
    matrix = decide(generator, coloured(4)).matrix.numpy()
    assert np.abs(matrix[:, 0, 1]).max() > 1e-4  # channels are mixed


def test_grey_share_is_a_ramp() -> None:
    def share(coloured_pixels: float, spread: int) -> float:
        picture = np.full((1, VIEW, VIEW, 3), 100, np.uint8)
        picture.reshape(-1, 3)[: round(coloured_pixels * VIEW * VIEW), 0] += spread
        return float(grey_share(tf.constant(picture))[0])

    assert share(0, 0) == share(1, 4) == share(0.009, 200 - 100) == 1
    assert share(0.05, 5) == share(1, 50) == 0
    assert share(0.02, 50) == pytest.approx(0.5, abs=0.05)


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
    pictures = coloured(3)
    statistics, palette = density_statistics(pictures), tf.zeros([3, PALETTE])
    outcomes = [
        generator(pictures, statistics, ids, weights, palette)
        for ids, weights in (
            (tf.zeros([3, 0], tf.int64), tf.zeros([3, 0])),
            (tf.zeros([3, 1], tf.int64), tf.zeros([3, 1])),
            (tf.fill([3, 64], tf.constant(17, tf.int64)), tf.zeros([3, 64])),
            (tf.fill([3, 2], tf.constant(-1, tf.int64)), tf.zeros([3, 2])),
        )
    ]
    for other in outcomes[1:]:
        for name, value in vars(outcomes[0]).items():
            np.testing.assert_allclose(getattr(other, name), value, atol=1e-5, err_msg=name)


def test_padding_does_not_count_but_words_do(generator: Any) -> None:
    pictures = coloured(1)
    statistics, palette = density_statistics(pictures), tf.zeros([1, PALETTE])

    def matrix(ids: list[int], weights: list[float]) -> np.ndarray:
        return generator(
            pictures, statistics, tf.constant([ids], tf.int64), tf.constant([weights]), palette
        ).matrix.numpy()

    np.testing.assert_allclose(matrix([5, 9], [1.0, 2.0]), matrix([5, 9, 0, 0], [1.0, 2.0, 0.0, 0.0]), atol=1e-5)
    np.testing.assert_allclose(matrix([5, 9], [1.0, 2.0]), matrix([9, 5], [2.0, 1.0]), atol=1e-5)
    assert np.abs(matrix([5, 9], [1.0, 2.0]) - matrix([6, 9], [1.0, 2.0])).max() > 1e-5
    assert np.abs(matrix([5, 9], [1.0, 2.0]) - matrix([0], [0.0])).max() > 1e-5


def test_the_palette_counts(generator: Any) -> None:
    pictures = coloured(2)
    with_one, without = decide(generator, pictures).matrix, decide(generator, pictures, palette=False).matrix
    assert np.abs(with_one.numpy() - without.numpy()).max() > 1e-5


def test_a_picture_alone_is_decided_as_in_a_batch(generator: Any) -> None:
    pictures = tf.concat([coloured(3), grey(1)], 0)
    batch = decide(generator, pictures, 0, palette=False)
    for index in range(4):
        alone = decide(generator, pictures[index : index + 1], 0, palette=False)
        for name, value in vars(batch).items():
            np.testing.assert_allclose(getattr(alone, name)[0], value[index], atol=1e-4, err_msg=name)


def test_outlandish_statistics_do_no_harm(generator: Any) -> None:
    extreme = generator(
        coloured(1), tf.fill([1, STATISTICS], 1e9), tf.zeros([1, 1], tf.int64), tf.zeros([1, 1]), tf.zeros([1, PALETTE])
    )
    assert all(np.isfinite(value.numpy()).all() for value in vars(extreme).values())


def test_an_untrained_generator_changes_next_to_nothing() -> None:
    decision = decide(Generator(width=8), coloured(4))
    matrix, curves = correction.identity()
    assert np.abs(decision.matrix - matrix).max() < 0.05
    assert np.abs(decision.curves - curves).max() < 0.1
