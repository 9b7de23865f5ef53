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
from models.generator import CELLS, Decision, Generator, Parts, Reader, colourless, listening, neutral_matrix
from models.statistics import colour_left, density_statistics
from models.words import WORDS, vocabulary

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
    return run(generator, pictures, ids, tf.ones([count, words]), histogram)


def run(generator: Any, pictures: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor, palette: tf.Tensor) -> Decision:
    statistics = density_statistics(pictures)
    return generator(pictures, colour_left(statistics), statistics - 0.5, ids, weights, palette)


def values(decision: Decision) -> dict[str, Any]:
    """Every tensor of a decision by name."""
    flat = decision._asdict()
    return {**flat.pop("coefficients")._asdict(), **flat}


def test_shapes(generator: Any) -> None:
    decision = decide(generator, coloured(3))
    for name, value in correction.identity(3)._asdict().items():
        assert getattr(decision.coefficients, name).shape == value.shape, name
    for name in ("log_error", "log_untouched", "log_invented", "grey"):
        assert getattr(decision, name).shape == (3,), name
    assert decision.log_error_map.shape == (3, CELLS, CELLS)
    assert decision.damage.shape == (3, len(DAMAGE_CLASSES))
    for value in values(decision).values():
        assert value.dtype == tf.float32
        assert np.isfinite(value.numpy()).all()


def test_curves_are_monotone_and_bounded(generator: Any) -> None:
    curves = decide(generator, tf.concat([coloured(6), grey(2)], 0)).coefficients.curves.numpy()
    slopes = np.diff(curves, axis=-1) * (correction.SEGMENTS / MAX_DENSITY)
    assert slopes.std() > 0.01  # the weights do something
    assert slopes.min() >= np.exp(-1.5) - 1e-3
    assert slopes.max() <= np.exp(1.5) + 1e-3
    np.testing.assert_array_equal(curves[..., 0], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_stays_exactly_grey(generator: Any, dtype: type) -> None:
    pictures = grey(2)
    coefficients = decide(generator, pictures).coefficients
    assert np.abs(coefficients.matrix.numpy() - np.eye(3, 4)).max() > 0.01
    top = np.iinfo(dtype).max
    ramp = np.linspace(0, top, 65536 if dtype is np.uint16 else 256).round().astype(dtype)
    scan = tf.constant(np.repeat(ramp[None, :, None], 3, axis=2))
    plain = coefficients._replace(chroma=tf.zeros_like(coefficients.chroma), detail=tf.zeros([2]))
    for index in range(2):
        one = correction.Coefficients(*(value[index] for value in plain))
        restored = correction.apply(scan, one, lambda image, _: image).numpy().astype(int)
        assert np.ptp(restored, axis=-1).max() <= 1


def test_colour_is_not_taken_for_grey(generator: Any) -> None:
    matrix = decide(generator, coloured(4)).coefficients.matrix.numpy()
    assert np.abs(matrix[:, 0, 1]).max() > 1e-4  # channels are mixed


def left_of(picture: tf.Tensor) -> float:
    return float(colour_left(density_statistics(picture))[0])


def test_grey_and_toned_pictures_have_no_colour_of_their_own() -> None:
    toned = tf.cast(tf.cast(grey(1), tf.float32) * tf.constant([1.0, 0.93, 0.8]), tf.uint8)
    assert left_of(grey(1)) == pytest.approx(0, abs=1e-6)
    assert left_of(toned) < 0.03 < left_of(coloured(1))
    assert float(colourless(tf.constant(left_of(grey(1))))) == 1
    assert float(colourless(tf.constant(left_of(coloured(1))))) == 0
    ramp = colourless(tf.constant([0.008, 0.010, 0.012])).numpy()
    np.testing.assert_allclose(ramp, [1, 0.5, 0], atol=1e-4)


def test_the_more_colour_the_less_the_caption_moves(generator: Any) -> None:
    assert float(listening(tf.constant(0.0))) == 1
    assert float(listening(tf.constant(0.2))) < 0.01
    full = coloured(1)
    pale = tf.cast(112 + tf.cast(full, tf.int32) // 12, tf.uint8)
    moved = []
    for picture in (full, pale):
        ids = tf.constant([[vocabulary().index("red"), vocabulary().index("door")]], tf.int64)
        said = run(generator, picture, ids, tf.ones([1, 2]), tf.zeros([1, PALETTE])).coefficients.matrix
        silent = run(generator, picture, ids, tf.zeros([1, 2]), tf.zeros([1, PALETTE])).coefficients.matrix
        moved.append(float(tf.reduce_max(tf.abs(said - silent))))
    assert moved[0] < 0.1 * moved[1]


def test_a_part_that_is_off_has_no_influence() -> None:
    pictures, ids = coloured(2), tf.constant([[5, 6], [7, 8]], tf.int64)
    palette = tf.one_hot([3, 9], PALETTE)
    deaf = Generator(8, 8, 0.4, Parts(caption=False, palette=False, field=False, curves=False))
    run(deaf, pictures, ids, tf.ones([2, 2]), palette)
    rng = np.random.default_rng(0)
    for variable in deaf.trainable_variables:
        variable.assign(variable.numpy() + rng.normal(0, 0.1, variable.shape))
    said = run(deaf, pictures, ids, tf.ones([2, 2]), palette)
    silent = run(deaf, pictures, ids, tf.zeros([2, 2]), tf.zeros([2, PALETTE]))
    for name, value in values(said).items():
        np.testing.assert_allclose(value, values(silent)[name], atol=1e-5, err_msg=name)
    assert not said.coefficients.slope.numpy().any()
    straight = tf.constant(correction.knots())[None, None]
    np.testing.assert_allclose(said.coefficients.curves, tf.tile(straight, [2, 3, 1]), atol=1e-5)


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
    pictures, palette = coloured(3), tf.zeros([3, PALETTE])
    outcomes = [
        values(run(generator, pictures, ids, weights, palette))
        for ids, weights in (
            (tf.zeros([3, 1], tf.int64), tf.zeros([3, 1])),
            (tf.fill([3, 64], tf.constant(17, tf.int64)), tf.zeros([3, 64])),
            (tf.zeros([3, 0], tf.int64), tf.zeros([3, 0])),
        )
    ]
    for other in outcomes[1:]:
        for name, value in outcomes[0].items():
            np.testing.assert_allclose(other[name], value, atol=1e-4, err_msg=name)


def test_padding_does_not_count_but_words_and_their_order_do(generator: Any) -> None:
    pictures, palette = grey(1), tf.zeros([1, PALETTE])

    def chroma(words: str, padding: int = 0) -> np.ndarray:
        ids = [vocabulary().index(word) for word in words.split()]
        weights = tf.constant([[1.0] * len(ids) + [0.0] * padding])
        padded = tf.constant([ids + [0] * padding], tf.int64)
        return run(generator, pictures, padded, weights, palette).coefficients.chroma.numpy()

    np.testing.assert_allclose(chroma("red door"), chroma("red door", 3), atol=1e-4)
    assert np.abs(chroma("red door") - chroma("blue door")).max() > 1e-3
    assert np.abs(chroma("red door") - chroma("door red")).max() > 1e-3


def test_a_named_colour_reaches_the_word_it_precedes() -> None:
    reader = Reader(8)
    ids = tf.constant([[vocabulary().index(word) for word in ("a", "red", "door", "stands")]], tf.int64)
    _, _, named = reader(ids, tf.ones([1, 4]), tf.zeros([1, PALETTE]))
    assert named[0, :, 0].numpy().tolist() == [0, 1, 1, 0]
    assert (named[0, 1:3, 1].numpy() > 30).all()  # a* of red


def test_the_palette_counts(generator: Any) -> None:
    pictures = coloured(2)
    with_one = decide(generator, pictures).coefficients.matrix
    without = decide(generator, pictures, palette=False).coefficients.matrix
    assert np.abs(with_one.numpy() - without.numpy()).max() > 1e-5


def test_a_picture_alone_is_decided_as_in_a_batch(generator: Any) -> None:
    pictures = tf.concat([coloured(3), grey(1)], 0)
    batch = values(decide(generator, pictures, 1, palette=False))
    for index in range(4):
        ids = tf.random.stateless_uniform([4, 1], [1, 1], 0, WORDS + 1, tf.int64)[index : index + 1]
        alone = run(generator, pictures[index : index + 1], ids, tf.ones([1, 1]), tf.zeros([1, PALETTE]))
        for name, value in batch.items():
            np.testing.assert_allclose(values(alone)[name][0], value[index], atol=2e-3, err_msg=name)


def test_outlandish_statistics_do_no_harm(generator: Any) -> None:
    extreme = generator(
        coloured(1),
        tf.zeros([1]),
        tf.fill([1, STATISTICS], 1e9),
        tf.zeros([1, 1], tf.int64),
        tf.zeros([1, 1]),
        tf.zeros([1, PALETTE]),
    )
    assert all(np.isfinite(value.numpy()).all() for value in values(extreme).values())


def test_an_untrained_generator_changes_next_to_nothing() -> None:
    decision = decide(Generator(width=8, colour_width=8), coloured(4))
    assert np.abs(decision.coefficients.matrix - tf.eye(3, 4)).max() < 0.05
