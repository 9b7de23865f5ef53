"""Density statistics: NumPy in `prepare` and TensorFlow in the SavedModel are one definition."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from models.contract import STATISTICS, THUMBNAIL, VIEW
from models.statistics import colour_left, density_statistics, density_statistics_numpy, view


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


def test_both_forms_agree() -> None:
    pictures = thumbnails()
    compiled = tf.function(lambda batch: density_statistics(view(batch)))
    for form in (lambda batch: density_statistics(view(tf.constant(batch))), compiled):
        graph = form(np.stack(pictures)).numpy()
        assert graph.shape == (len(pictures), STATISTICS)
        assert graph.dtype == np.float32
        for row, picture in zip(graph, pictures, strict=True):
            statistics = density_statistics_numpy(picture)
            assert statistics.dtype == np.float32
            np.testing.assert_allclose(statistics, row, atol=1e-3)


def test_view_averages_and_rounds_half_up() -> None:
    picture = thumbnails()[0]
    exact = picture.reshape(VIEW, 4, VIEW, 4, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_array_equal(view(tf.constant(picture[None])).numpy()[0], np.floor(exact + 0.5))


def test_distributions_come_first_and_rise_by_channel() -> None:
    picture = np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
    picture[..., 1] = np.arange(THUMBNAIL)[:, None]
    picture[..., 2] = 255
    red, green, blue = density_statistics_numpy(picture)[:75].reshape(3, 25)
    assert not red.any()  # black lies above every step
    assert (blue == 1).all()
    assert (np.diff(green) >= 0).all()
    assert green[0] < 0.1
    assert green[-1] > 0.7


def test_bands_tell_the_colour_of_shadows_and_highlights() -> None:
    picture = np.full((THUMBNAIL, THUMBNAIL, 3), (250, 240, 200), np.uint8)
    picture[:128] = (20, 30, 60)
    bands = density_statistics_numpy(picture)[75:].reshape(8, 5)
    np.testing.assert_allclose(bands[:, 0].sum(), 1, atol=1e-5)
    light, dark = bands[0], bands[5:][bands[5:, 0].argmax()]
    assert light[1] < 0 < light[2]  # highlights: less density in red than in green, more in blue
    assert dark[1] > 0 > dark[2]


def test_colour_that_is_left() -> None:
    def left(picture: np.ndarray) -> float:
        return float(colour_left(density_statistics(view(tf.constant(picture[None]))))[0])

    random, _, grey_ramp, *_ = thumbnails()
    assert left(grey_ramp) < 1e-6
    assert left((grey_ramp * np.array([1.0, 0.9, 0.75])).astype(np.uint8)) < 0.05  # toned
    blocks = np.kron(random[::64, ::64], np.ones((64, 64, 1), np.uint8))
    assert left(blocks) > 0.1
