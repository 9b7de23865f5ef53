"""Density statistics: NumPy in `prepare` and TensorFlow in the SavedModel are one definition."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from models.colour import density_table
from models.contract import STATISTICS, STATISTICS_QUANTILES, THUMBNAIL, VIEW
from models.statistics import density_statistics, density_statistics_numpy, view


def thumbnails() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (THUMBNAIL, THUMBNAIL, 3)
    ramp = np.broadcast_to(np.arange(THUMBNAIL, dtype=np.uint8)[:, None, None], shape)
    return [
        rng.integers(0, 256, shape, np.uint8),
        np.clip(rng.normal([40, 128, 220], [20, 40, 30], shape), 0, 255).astype(np.uint8),
        np.ascontiguousarray(ramp),
        np.zeros(shape, np.uint8),
        np.full(shape, 255, np.uint8),
        (rng.random(shape) < 0.5).astype(np.uint8) * np.uint8(255),
    ]


def test_both_forms_agree_exactly() -> None:
    pictures = thumbnails()
    graph = density_statistics(view(tf.constant(np.stack(pictures)))).numpy()
    assert graph.shape == (len(pictures), STATISTICS)
    assert graph.dtype == np.float32
    for row, picture in zip(graph, pictures, strict=True):
        statistics = density_statistics_numpy(picture)
        assert statistics.dtype == np.float32
        np.testing.assert_array_equal(statistics, row)


def test_they_agree_inside_a_compiled_graph() -> None:
    pictures = np.stack(thumbnails())
    compiled = tf.function(lambda batch: density_statistics(view(batch)))
    np.testing.assert_array_equal(compiled(pictures), np.stack([density_statistics_numpy(one) for one in pictures]))


def test_view_averages_and_rounds_half_up() -> None:
    picture = thumbnails()[0]
    exact = picture.reshape(VIEW, 2, VIEW, 2, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_array_equal(view(tf.constant(picture[None])).numpy()[0], np.floor(exact + 0.5))


def test_order_is_by_channel_then_quantile() -> None:
    picture = np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
    picture[..., 1] = np.arange(THUMBNAIL)[:, None]
    picture[..., 2] = 200
    red, green, blue = density_statistics_numpy(picture).reshape(3, len(STATISTICS_QUANTILES))
    table = density_table(256)
    np.testing.assert_array_equal(red, table[0])
    np.testing.assert_array_equal(blue, table[200])
    assert (np.diff(green) < 0).all()
    assert green[2] == pytest.approx(float(table[128]), abs=0.02)
