"""Palettes: what training computes in its graph is what `prepare` and `restore` compute from files."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from models.colour import srgb_to_linear
from models.contract import PALETTE, PALETTE_BINS
from models.training import palette_histogram
from transforms.palette import palette_of


def picture(seed: int, saturation: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (128, 128, 3)).astype(float)
    grey = colours.mean(-1, keepdims=True)
    return np.clip(grey + saturation * (colours - grey), 0, 255).astype(np.uint8)


def in_graph(image: np.ndarray) -> np.ndarray:
    return palette_histogram(srgb_to_linear(tf.constant(image[None].astype(np.float32) / 255))).numpy()[0]


@pytest.mark.parametrize("saturation", [0.3, 1.0, 1.8])
def test_graph_and_files_agree(saturation: float) -> None:
    for seed in range(3):
        image = picture(seed, saturation)
        filed = palette_of([image])
        assert filed.shape == (PALETTE,)
        assert filed.dtype == np.float32
        assert filed.sum() == pytest.approx(1, abs=1e-5)
        assert np.abs(filed - in_graph(image)).sum() < 0.01  # pixels within rounding of a cell's edge


@pytest.mark.parametrize("code", [0, 30, 128, 200, 255])
def test_they_agree_on_grey(code: int) -> None:
    """Neutral is the commonest colour of all: it must not lie on the edge between cells, where rounding decides."""
    image = np.full((16, 16, 3), code, np.uint8)
    np.testing.assert_allclose(in_graph(image), palette_of([image]), atol=1e-6)


def test_neutral_with_a_trace_of_noise_stays_in_one_cell() -> None:
    rng = np.random.default_rng(0)
    image = np.clip(rng.integers(60, 200, (64, 64, 1)) + rng.integers(-1, 2, (64, 64, 3)), 0, 255).astype(np.uint8)
    assert palette_of([image]).max() > 0.95


def test_no_pictures_give_zero() -> None:
    np.testing.assert_array_equal(palette_of([]), np.zeros(PALETTE, np.float32))


def test_pictures_are_pooled() -> None:
    first, second = picture(1), picture(2, 0.4)
    np.testing.assert_allclose(palette_of([first, second]), (palette_of([first]) + palette_of([second])) / 2, atol=1e-6)


def test_cells_run_by_a_then_b() -> None:
    red = palette_of([np.full((8, 8, 3), [220, 30, 30], np.uint8)]).reshape(PALETTE_BINS, PALETTE_BINS)
    blue = palette_of([np.full((8, 8, 3), [40, 60, 200], np.uint8)]).reshape(PALETTE_BINS, PALETTE_BINS)
    middle = PALETTE_BINS / 2
    assert np.argwhere(red)[0][0] > middle
    assert np.argwhere(red)[0][1] > middle
    assert np.argwhere(blue)[0][1] < middle
