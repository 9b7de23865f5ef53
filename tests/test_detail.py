"""The detail network: tiles are one picture, grey stays grey, and training takes damage out."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import detail as detail_module
from models.detail import Detail
from models.detail_training import DetailSettings, _pool, spoiled, train_detail
from models.records import PIECE
from models.strips import probes

ALL = tf.ones([2])
"""Noise and defects are taken out."""


def noise(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def whole(network: Detail, image: np.ndarray) -> np.ndarray:
    """The picture in one piece, 0..1."""
    top = np.iinfo(image.dtype).max
    height, width = image.shape[:2]
    padded = np.pad(image, [(0, -height % 4), (0, -width % 4), (0, 0)], mode="edge")
    srgb = tf.constant(padded[None], tf.float32) / top
    found = network.compose(srgb, *network.parts(srgb), tf.ones([2]))
    return np.clip(image / top - found[0, :height, :width].numpy(), 0, 1)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 70, 3), (70, 1, 3), (64, 64, 3), (131, 97, 3), (65, 128, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_equal_the_whole_picture(
    random_detail: Detail, shape: tuple[int, ...], dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail_module, "_TILE", 32)
    image = noise(shape, dtype)
    tiled = random_detail.remove(tf.constant(image), ALL).numpy()
    assert tiled.dtype == np.uint16
    assert np.abs(tiled / 65535 - whole(random_detail, image)).max() < 1 / 255 / 8
    if shape != (1, 1, 3):  # which has no details
        assert np.abs(tiled / 65535 - image / np.iinfo(dtype).max).max() > 0.001


@pytest.mark.parametrize("shape", [(1, 700, 3), (701, 513, 3)])
def test_tiles_of_their_real_size_leave_no_seam(random_detail: Detail, shape: tuple[int, ...]) -> None:
    image = noise(shape)
    assert max(shape) > detail_module._TILE
    tiled = random_detail.remove(tf.constant(image), ALL).numpy()
    assert np.abs(tiled / 65535 - whole(random_detail, image)).max() < 1 / 255 / 8


def test_nothing_beyond_the_halo_matters(random_detail: Detail) -> None:
    image = noise((64, 64, 3)) / np.float32(255)
    changed = image.copy()
    changed[:8] = 1 - changed[:8]
    found, other = (random_detail(tf.constant(one[None]))[0][0].numpy() for one in (image, changed))
    np.testing.assert_allclose(found[8 + detail_module.HALO :], other[8 + detail_module.HALO :], atol=1e-5)
    assert np.abs(found[8] - other[8]).max() > 1e-3


def test_noise_and_defects_have_a_strength_each(random_detail: Detail) -> None:
    srgb = tf.constant(noise((1, 4, 6, 3)) / np.float32(255))
    subtracted, painted = 0.01 * srgb, 1 - 2 * srgb
    hidden = tf.constant(np.tile(np.where(np.arange(6) < 3, -20, 20), (1, 4, 1)), tf.float32)
    for strength, sound, defect in (
        ([1.0, 1.0], subtracted, -painted),
        ([0.5, 1.0], 0.5 * subtracted, -painted),
        ([1.0, 0.0], subtracted, subtracted),
        ([0.0, 0.5], 0 * srgb, -0.5 * painted),
    ):
        found = random_detail.compose(srgb, subtracted, painted, hidden, tf.constant(strength))
        np.testing.assert_allclose(found[:, :, :3], sound[:, :, :3], atol=1e-6)
        np.testing.assert_allclose(found[:, :, 3:], defect[:, :, 3:], atol=1e-6)


def test_strength_is_a_share(random_detail: Detail) -> None:
    image = noise((20, 30, 3), np.uint16) // 2 + 16000  # far from both ends
    none, half, full = (
        random_detail.remove(tf.constant(image), tf.fill([2], share)).numpy().astype(int) for share in (0.0, 0.5, 1.0)
    )
    inside = (full > 0) & (full < 65535)
    assert inside.mean() > 0.5
    assert np.abs(2 * half - none - full)[inside].max() <= 2
    np.testing.assert_array_equal(none, image)


def test_no_strength_leaves_the_picture_as_it_is(random_detail: Detail) -> None:
    image = noise((33, 20, 3))
    kept = random_detail.remove(tf.constant(image), tf.zeros([2])).numpy()
    np.testing.assert_array_equal(kept, image.astype(np.uint16) * 257)


def test_grey_stays_grey(random_detail: Detail) -> None:
    image = np.repeat(noise((30, 30, 1)), 3, axis=2)
    cleaned = random_detail.remove(tf.constant(image), ALL).numpy().astype(int)
    assert np.ptp(cleaned, axis=2).max() <= 1


@pytest.mark.parametrize("hidden", [-20.0, 0.0, 20.0])
def test_what_is_found_is_what_the_parts_compose(hidden: float) -> None:
    """Whether anything is hidden or not: where nothing is, the parts that paint are left folded."""
    keras.utils.set_random_seed(2)
    network = Detail(width=8)
    srgb = tf.constant(noise((2, 24, 20, 3)) / np.float32(255))
    network(srgb)
    bias = network.last.bias.numpy()
    bias[48:64] += hidden
    network.last.bias.assign(bias)
    for strength in ([1.0, 1.0], [0.3, 0.6]):
        composed = network.compose(srgb, *network.parts(srgb), tf.constant(strength))
        np.testing.assert_allclose(network.found(srgb, tf.constant(strength)), composed, atol=1e-6)


def test_little_noise_stays(random_detail: Detail) -> None:
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 1, (200, 300, 3))
    shares = [
        random_detail.noisiness(probes(np.clip(128 + sigma * grain, 0, 255).astype(np.uint8))).numpy()
        for sigma in (0.5, 4, 40)
    ]
    assert shares[0] <= shares[1] <= shares[2] <= 1
    assert shares[0] == 0
    assert shares[2] == 1
    flat = tf.fill([1, 1, 3], tf.constant(90, tf.uint8))
    assert random_detail.noisiness(probes(flat)) == 0


def pieces(count: int = 6) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(40, 220, (count, 6, 6, 3))
    return tf.cast(tf.image.resize(tf.constant(coarse, tf.float32), [PIECE, PIECE]), tf.uint8).numpy()


def test_spoiling_leaves_the_fade_and_spares_some() -> None:
    damaged, truth = spoiled(tf.constant(np.tile(pieces(8)[:, :48, :48], (4, 1, 1, 1))), tf.constant([3, 1]))
    change = np.abs(damaged.image.numpy() / 255 - truth.numpy()).max(axis=(1, 2, 3))
    clean = damaged.classes.numpy()[:, -1] > 0.5
    assert 2 < clean.sum() < 26
    assert change[clean].max() < 0.5 / 255
    assert np.median(change[~clean]) > 0.02


def test_a_third_is_spoilt_at_twice_the_size() -> None:
    images, truths, defects = _pool(pieces(), 6, np.random.default_rng(1), 1)
    assert images.shape == truths.shape == (96, 96, 96, 3)
    assert defects.shape == (96, 96, 96)
    assert images.dtype == truths.dtype == defects.dtype == np.uint8
    for batch in range(6):
        here = slice(16 * batch, 16 * batch + 16)
        assert 0.001 < defects[here].mean() < 0.2
        assert np.abs(images[here].astype(int) - truths[here])[defects[here] == 0].mean() < 20

    def roughness(batches: tuple[int, ...]) -> float:
        grain = [images[16 * b : 16 * b + 16].astype(float) - truths[16 * b : 16 * b + 16] for b in batches]
        return float(np.median([np.abs(np.diff(one, axis=1)).mean() for part in grain for one in part]))

    assert roughness((0, 3)) < roughness((1, 2, 4, 5))  # halving averages grain


def test_training_is_repeatable_and_says_how_it_goes() -> None:
    settings = DetailSettings(steps=3, pool=1)
    lines: list[str] = []
    outcomes = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        network = Detail()
        network(np.zeros((1, 16, 16, 3), np.float32))
        before = [variable.numpy() for variable in network.trainable_variables]
        train_detail(network, pieces(), settings, 1, lines.append)
        outcomes.append([variable.numpy() for variable in network.trainable_variables])
    for one, same, untrained in zip(*outcomes, before, strict=True):
        np.testing.assert_allclose(one, same, atol=1e-5)
        assert np.abs(one - untrained).max() > 1e-4
    said = re.fullmatch(r"detail 3/3: (\d\.\d\d) of the squared error left", lines[0])
    assert said
    assert 0.5 < float(said[1]) < 2  # three steps neither heal nor ruin
    assert lines == [lines[0]] * 2


def test_a_silenced_network_finds_nothing() -> None:
    network = Detail(width=8)
    image = noise((40, 32, 3))
    network(image[None] / np.float32(255))
    network.silence()
    found, hidden = network(image[None] / np.float32(255))
    assert np.abs(found).max() < 1e-6
    assert tf.sigmoid(hidden).numpy().max() < 1e-6
    np.testing.assert_array_equal(network.remove(tf.constant(image), ALL), image.astype(np.uint16) * 257)
