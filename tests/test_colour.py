"""Colour arithmetic against scikit-image and against itself."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from skimage.color import deltaE_ciede94, rgb2lab

from models import colour


def colours(count: int, seed: int = 0) -> np.ndarray:
    """Random sRGB in 0..1 with the corners of the cube and some greys: float32 [count, 3]."""
    rng = np.random.default_rng(seed)
    corners = np.stack(np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 1.0]), -1).reshape(-1, 3)
    greys = np.repeat(np.linspace(0, 1, 16)[:, None], 3, 1)
    return np.concatenate([corners, greys, rng.random((count - 24, 3))]).astype(np.float32)


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


@pytest.mark.parametrize("codes", [256, 65536])
def test_density_table_is_the_formula_of_the_graph(codes: int) -> None:
    table = colour.density_table(codes)
    graph = colour.srgb_to_density(tf.constant(np.arange(codes, dtype=np.float32) / (codes - 1))).numpy()
    assert table.shape == (codes,)
    assert table.dtype == np.float32
    np.testing.assert_allclose(graph, table, atol=2e-5)


@pytest.mark.parametrize("codes", [256, 65536])
def test_density_falls_with_every_code(codes: int) -> None:
    table = colour.density_table(codes).astype(np.float64)
    assert table[0] == pytest.approx(colour.MAX_DENSITY, abs=1e-6)
    assert table[-1] == 0.0
    assert (np.diff(table) < 0).all()


def test_density_and_back() -> None:
    srgb = np.arange(65536, dtype=np.float32) / 65535
    back = colour.density_to_srgb(colour.srgb_to_density(tf.constant(srgb))).numpy()
    assert np.abs(back - srgb).max() < 0.5 / 65535 * 8  # a few 16-bit codes, far below one of 8 bits
    eight = np.arange(256)
    assert (np.rint(colour.density_to_srgb(tf.constant(colour.density_table(256))).numpy() * 255) == eight).all()


def test_density_out_of_range_is_clipped_to_the_gamut() -> None:
    srgb = colour.density_to_srgb(tf.constant([-5.0, -0.1, 3.1, 50.0])).numpy()
    np.testing.assert_allclose(srgb, [1, 1, 0, 0], atol=1e-6)
    assert srgb.min() >= 0
    assert srgb.max() <= 1


def test_lab_is_that_of_scikit_image() -> None:
    srgb = colours(4000)
    lab = colour.linear_to_lab(tf.constant(linear(srgb))).numpy()
    np.testing.assert_allclose(lab, rgb2lab(srgb), atol=0.1)


def test_lab_goes_on_smoothly_below_black() -> None:
    dark = np.linspace(-0.05, 0.05, 201, dtype=np.float32)[:, None].repeat(3, 1)
    lightness = colour.linear_to_lab(tf.constant(dark)).numpy()[:, 0]
    assert np.isfinite(lightness).all()
    assert (np.diff(lightness) > 0).all()


def test_difference_is_that_of_scikit_image() -> None:
    first, second = rgb2lab(colours(4000, 1)), rgb2lab(colours(4000, 2)[::-1])
    ours = colour.delta_e94(tf.constant(first, tf.float32), tf.constant(second, tf.float32)).numpy()
    # The first colour is the reference in scikit-image, the second in ours.
    theirs = deltaE_ciede94(second, first)
    np.testing.assert_allclose(ours, theirs, atol=0.04)  # the constant under the root: 0.032 where the difference is 0


def test_difference_has_a_gradient_everywhere() -> None:
    lab = tf.constant([[50.0, 0, 0], [0, 0, 0], [50, 40, -30], [100, 0, 0]])
    with tf.GradientTape() as tape:
        tape.watch(lab)
        total = tf.reduce_sum(colour.delta_e94(lab, lab + tf.constant([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [9, 9, 9]])))
    assert np.isfinite(tape.gradient(total, lab).numpy()).all()


def test_gradient_of_the_whole_way_is_finite() -> None:
    srgb = tf.constant(colours(200))
    with tf.GradientTape() as tape:
        tape.watch(srgb)
        light = colour.density_to_linear(colour.srgb_to_density(srgb))
        total = tf.reduce_sum(colour.linear_to_lab(light)) + tf.reduce_sum(colour.linear_to_srgb(light))
    assert np.isfinite(tape.gradient(total, srgb).numpy()).all()


@pytest.mark.parametrize("codes", [256, 65536])
def test_linear_table_is_the_formula_of_srgb(codes: int) -> None:
    srgb = np.arange(codes, dtype=np.float32) / np.float32(codes - 1)
    np.testing.assert_allclose(colour.linear_table(codes), linear(srgb), atol=1e-6)
    np.testing.assert_allclose(colour.srgb_to_linear(tf.constant(srgb)), linear(srgb), atol=1e-6)
    np.testing.assert_allclose(colour.linear_to_srgb(tf.constant(linear(srgb))), srgb, atol=1e-5)


def test_every_8_bit_code_comes_back_from_its_density() -> None:
    density = colour.linear_to_density(tf.constant(colour.linear_table(256)))
    np.testing.assert_array_equal(colour.density_to_codes(density), np.arange(256))
    np.testing.assert_array_equal(colour.density_to_codes(tf.constant([-1.0, 9.0])), [255, 0])


def test_codes_by_table_are_those_of_the_formula() -> None:
    density = tf.linspace(-0.1, 3.1, 10001)
    codes = colour.density_to_codes(density).numpy()
    assert codes.dtype == np.uint8
    assert np.abs(codes - colour.density_to_srgb(density).numpy() * 255).max() < 0.7  # the table's step adds 0.1


def test_lab_and_back() -> None:
    light = linear(colours(2000))
    back = colour.lab_to_linear(colour.linear_to_lab(tf.constant(light))).numpy()
    np.testing.assert_allclose(back, light, atol=2e-5)


def test_lightness_is_that_of_lab() -> None:
    grey = np.linspace(0, 1, 501, dtype=np.float32)
    lab = colour.linear_to_lab(tf.constant(np.repeat(grey[:, None], 3, 1))).numpy()
    np.testing.assert_allclose(colour.luminance_to_lightness(tf.constant(grey)), lab[:, 0], atol=1e-3)
    np.testing.assert_allclose(lab[:, 1:], 0, atol=5e-3)
