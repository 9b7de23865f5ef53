"""The two forms of the correction: differentiable for training, by look-up table for serving."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from models import correction
from models.colour import MAX_DENSITY, density_table, density_to_srgb
from models.degradation import fade_matrix


def coefficients(seed: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Random matrix and monotone curves with slopes between e^-1.5 and e^1.5, as the generator may decide them."""
    rng = np.random.default_rng(seed)
    matrix, _ = correction.identity()
    matrix = matrix + strength * rng.normal(0, 0.2, (3, 4)).astype(np.float32)
    slopes = np.exp(strength * rng.uniform(-1.5, 1.5, (3, correction.SEGMENTS)))
    curves = np.concatenate([np.zeros((3, 1)), slopes.cumsum(1)], 1) * (MAX_DENSITY / correction.SEGMENTS)
    return matrix, curves.astype(np.float32)


def run(image: np.ndarray, matrix: np.ndarray, curves: np.ndarray) -> np.ndarray:
    return correction.apply(tf.constant(image), tf.constant(matrix), tf.constant(curves)).numpy()


def noise(shape: tuple[int, ...], dtype: type, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def test_identity_returns_every_8_bit_code() -> None:
    image = np.stack([np.arange(256), np.arange(255, -1, -1), np.roll(np.arange(256), 77)], -1)
    image = image.astype(np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(run(image, *correction.identity()), image)


def test_identity_returns_every_16_bit_code_within_two() -> None:
    codes = np.arange(65536)
    image = np.stack([codes, codes[::-1], np.roll(codes, 30000)], -1).astype(np.uint16).reshape(256, 256, 3)
    restored = run(image, *correction.identity())
    assert restored.dtype == np.uint16
    assert np.abs(restored.astype(int) - image).max() <= 2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tables_agree_with_the_differentiable_form(seed: int, dtype: type) -> None:
    codes = np.iinfo(dtype).max
    image = noise((64, 60, 3), dtype, seed)
    image[0] = np.linspace(0, codes, 60)[:, None]  # greys, with both ends
    matrix, curves = coefficients(seed)
    density = density_table(codes + 1)[image].reshape(1, -1, 3)
    exact = density_to_srgb(correction.correct(tf.constant(density), matrix[None], curves[None])).numpy()
    exact = np.rint(exact.reshape(image.shape) * codes).astype(int)
    difference = np.abs(run(image, matrix, curves).astype(int) - exact).max()
    assert difference <= (1 if dtype is np.uint8 else 257)
    if dtype is np.uint16:
        assert difference <= 64  # interpolated: a quarter of an 8-bit code


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strips_leave_no_trace(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise((61, 47, 3), dtype)
    matrix, curves = coefficients(3)
    whole = run(image, matrix, curves)
    for strip in (61 * 47, 1000, 64, 47, 61 * 47 - 1):  # with a remainder and without, down to a last strip of one
        monkeypatch.setattr(correction, "_STRIP", strip)
        np.testing.assert_array_equal(run(image, matrix, curves), whole)


def test_a_picture_of_more_than_one_real_strip() -> None:
    image = noise((1030, 1021, 3), np.uint8)
    assert image.shape[0] * image.shape[1] > correction._STRIP
    matrix, curves = coefficients(4)
    whole = run(image, matrix, curves)
    backwards = run(image[::-1, ::-1], matrix, curves)[::-1, ::-1]
    np.testing.assert_array_equal(whole, backwards)
    for row, column in ((0, 0), (1026, 1000), (1027, 8), (1027, 9), (1029, 1020)):  # around the joint and the ends
        alone = run(image[row : row + 1, column : column + 1], matrix, curves)
        np.testing.assert_array_equal(alone[0, 0], whole[row, column])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 19, 3), (19, 1, 3), (3, 4097, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_small_and_narrow_pictures(shape: tuple[int, ...], dtype: type) -> None:
    restored = run(noise(shape, dtype), *coefficients(5))
    assert restored.shape == shape
    assert restored.dtype == dtype


def test_it_can_undo_any_fading_exactly() -> None:
    absorption = tf.constant([[[1.0, 0.15, 0.08], [0.2, 1.0, 0.12], [0.07, 0.25, 1.0]]])
    fade = fade_matrix(absorption, tf.constant([[0.35, 0.6, 0.9]]))[0].numpy()
    rng = np.random.default_rng(0)
    density = rng.uniform(0.1, 1.6, (64, 64, 3)).astype(np.float32)
    faded = density @ fade.T
    inside = (faded > 0).all(-1)
    assert inside.mean() > 0.9
    scan = np.rint(density_to_srgb(tf.constant(faded)).numpy() * 65535).astype(np.uint16)
    matrix, curves = correction.identity()
    matrix[:, :3] = np.linalg.inv(fade)
    restored = run(scan, matrix, curves).astype(float) / 257
    original = density_to_srgb(tf.constant(density)).numpy() * 255
    assert np.abs(scan / 257 - original)[inside].mean() > 20  # the fading was real
    assert np.abs(restored - original)[inside].max() < 1


def test_it_can_undo_a_stain_exactly() -> None:
    density = np.random.default_rng(0).uniform(0.0, 2.0, (1, 500, 3)).astype(np.float32)
    stain = np.array([0.02, 0.1, 0.3], np.float32)
    matrix, curves = correction.identity()
    matrix[:, 3] = -stain
    restored = correction.correct(tf.constant(density + stain), matrix[None], curves[None]).numpy()
    np.testing.assert_allclose(restored, density, atol=1e-5)


def test_curves_pass_through_their_knots_and_go_on_straight() -> None:
    _, curves = coefficients(7)
    at = np.tile(correction.knots()[:, None], (1, 3))[None]
    values = correction.evaluate_curves(tf.constant(at), tf.constant(curves[None])).numpy()[0].T
    np.testing.assert_allclose(values, curves, atol=1e-4)
    step = MAX_DENSITY / correction.SEGMENTS
    beyond = np.array([[[-0.3] * 3, [MAX_DENSITY + 0.3] * 3]], np.float32)
    ends = correction.evaluate_curves(tf.constant(beyond), tf.constant(curves[None])).numpy()[0]
    np.testing.assert_allclose(ends[0], curves[:, 0] - 0.3 * (curves[:, 1] - curves[:, 0]) / step, atol=1e-4)
    np.testing.assert_allclose(ends[1], curves[:, -1] + 0.3 * (curves[:, -1] - curves[:, -2]) / step, atol=1e-4)


def test_the_gradient_reaches_every_coefficient() -> None:
    matrix = tf.constant(correction.identity()[0][None])  # so that every piece of every curve is visited
    curves = tf.constant(coefficients(8)[1][None])
    density = tf.random.stateless_uniform([1, 400, 3], [1, 2], 0.0, MAX_DENSITY)
    with tf.GradientTape() as tape:
        tape.watch([matrix, curves])
        total = tf.reduce_sum(correction.correct(density, matrix, curves) ** 2)
    for gradient in tape.gradient(total, [matrix, curves]):
        assert np.isfinite(gradient.numpy()).all()
        assert (gradient.numpy() != 0).all()
