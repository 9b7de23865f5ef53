"""The classical baselines: what each one does, what it leaves alone, and that no picture breaks them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from archives import photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab

from transforms import baselines, metrics
from transforms.baselines import BASELINES

GREY = np.repeat(photograph(3)[..., :1], 3, axis=2)

# Which need not keep a picture of one colour: two make its mean grey, one is fitted to such a picture, one is fixed.
BALANCING = {"grey_world", "shades_of_grey", "polynomial", "lut"}


def full_range(seed: int = 1) -> Any:
    """A picture whose channels all reach 0 and 255, as percentiles see it."""
    pixels = photograph(seed).copy()
    pixels[:9], pixels[-9:] = 0, 255
    return pixels


def tinted(seed: int) -> Any:
    """A picture in reddish light, with room above it: no gain clips it."""
    return np.rint(photograph(seed) * [0.5, 0.3, 0.2] + 5).astype(np.uint8)


@pytest.mark.parametrize("name", BASELINES)
class TestEvery:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (33, 57)])
    def test_shape_and_type(self, name: str, shape: tuple[int, int]) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        before = pixels.copy()
        result = BASELINES[name](pixels)
        assert (result.shape, result.dtype) == (pixels.shape, np.uint8)
        np.testing.assert_array_equal(pixels, before)
        np.testing.assert_array_equal(BASELINES[name](pixels), result)

    def test_any_memory_layout(self, name: str) -> None:
        pixels = photograph(2)
        turned = np.ascontiguousarray(pixels.transpose(1, 0, 2)).transpose(1, 0, 2)
        np.testing.assert_array_equal(BASELINES[name](turned), BASELINES[name](pixels))

    def test_grey_stays_grey(self, name: str) -> None:
        if name == "lut":
            pytest.skip("fitted to pictures most of which have a cast")
        result = BASELINES[name](GREY).astype(int)
        assert np.ptp(result, axis=2).max() <= 1

    @pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 30, 90)])
    @pytest.mark.parametrize("shape", [(1, 1), (30, 40)])
    def test_one_colour(self, name: str, colour: tuple[int, int, int], shape: tuple[int, int]) -> None:
        pixels = np.full((*shape, 3), colour, np.uint8)
        result = BASELINES[name](pixels)
        assert np.ptp(result, axis=(0, 1)).max() == 0
        if name not in BALANCING or (len(set(colour)) == 1 and name != "lut"):
            assert np.abs(result.astype(int) - pixels).max() <= 1

    @settings(max_examples=10, deadline=None)
    @given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 9), st.sampled_from([2, 16, 256]))
    def test_no_picture_breaks_it(self, name: str, height: int, width: int, seed: int, codes: int) -> None:
        pixels = np.random.default_rng(seed).integers(0, codes, (height, width, 3)).astype(np.uint8)
        with np.errstate(all="raise"):
            assert BASELINES[name](pixels).shape == pixels.shape


def test_stretch() -> None:
    pixels = full_range()
    np.testing.assert_array_equal(baselines.stretch(pixels), pixels)
    faded = np.rint(pixels * [0.5, 0.7, 0.3] + [60, 20, 90]).astype(np.uint8)
    assert np.abs(baselines.stretch(faded).astype(int) - pixels).max() <= 3  # 0.3 x 255 codes are 77


def test_density_stretch_undoes_the_fading_of_pure_dyes() -> None:
    # Its blacks are those of a print, density 2.0: no darker code comes in or out.
    pixels = np.maximum(full_range(), 24)
    density = -np.log10((baselines._linear(pixels) + 1e-3) / 1.001)
    density *= 2.0 / density.max()
    truth = baselines._encoded(10.0**-density * 1.001 - 1e-3)
    faded = baselines._encoded(10.0 ** -(density * [0.4, 0.6, 0.8] + [0.05, 0.1, 0.2]) * 1.001 - 1e-3)
    assert metrics.fidelity(faded, truth)["ciede2000"] > 8
    assert metrics.fidelity(baselines.density_stretch(faded), truth)["ciede2000"] < 0.5
    assert metrics.fidelity(baselines.stretch(faded), truth)["ciede2000"] > 3


def test_grey_world() -> None:
    pixels = tinted(4)
    balanced = baselines._linear(baselines.grey_world(pixels)).mean(axis=(0, 1))
    assert np.ptp(balanced) < 0.002
    assert np.ptp(baselines._linear(pixels).mean(axis=(0, 1))) > 0.05
    again = baselines.grey_world(baselines.grey_world(pixels)).astype(int)
    assert np.abs(again - baselines.grey_world(pixels)).max() <= 1


def test_shades_of_grey_is_between_grey_world_and_white_patch() -> None:
    pixels = tinted(4)
    pixels[:20, :20] = 20, 160, 40  # one strong colour: the mean hardly sees it, the higher norm does
    balanced = baselines._linear(baselines.shades_of_grey(pixels)).astype(np.float64)
    norm = (balanced**6).mean(axis=(0, 1)) ** (1 / 6)
    assert np.ptp(norm) < 0.003
    assert np.ptp(balanced.mean(axis=(0, 1))) > 0.02


def test_clahe_keeps_hue_and_chroma() -> None:
    pixels = np.rint(photograph(5) * 0.3 + 90).astype(np.uint8)
    before, after = rgb2lab(pixels), rgb2lab(baselines.clahe(pixels))
    assert after[..., 0].std() > 1.5 * before[..., 0].std()
    inside = (after[..., 0] > 15) & (after[..., 0] < 85)  # elsewhere sRGB has no such colour
    assert np.abs(after[..., 1:] - before[..., 1:])[inside].mean() < 1


def test_nl_means_takes_out_noise_and_little_else() -> None:
    rng = np.random.default_rng(6)
    truth = photograph(6)
    noisy = np.clip(truth + rng.normal(0, 12, truth.shape), 0, 255).astype(np.uint8)
    clean = baselines.nl_means(noisy)
    before, after = (metrics.fidelity(pixels, truth)["psnr"] for pixels in (noisy, clean))
    assert after > before + 3
    assert metrics.fidelity(baselines.nl_means(truth), truth)["psnr"] > 40


def test_ace_evens_out_a_cast_and_fills_the_range() -> None:
    pixels = np.rint(photograph(7) * [0.4, 0.5, 0.3] + [100, 20, 60]).astype(np.uint8)
    result = baselines.ace(pixels)
    np.testing.assert_array_equal(result.min(axis=(0, 1)), 0)
    np.testing.assert_array_equal(result.max(axis=(0, 1)), 255)
    assert np.ptp(result.mean(axis=(0, 1))) < 0.5 * np.ptp(pixels.mean(axis=(0, 1)))


def test_ace_is_near_the_exact_sum() -> None:
    pixels = photograph(8, 24, 32)
    values = pixels.reshape(-1, 3) / 255
    y, x = np.divmod(np.arange(len(values)), 32)
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    near = np.divide(1, distance, out=np.zeros_like(distance), where=distance > 0)
    lead = np.stack([(np.clip(5 * (c[:, None] - c), -1, 1) * near).sum(axis=1) for c in values.T], axis=-1)
    low, high = lead.min(axis=0), lead.max(axis=0)
    exact = ((lead - low) / (high - low) * 255).reshape(pixels.shape)
    assert np.abs(baselines.ace(pixels) - exact).mean() < 12


def test_polynomial_follows_what_it_is_fitted_to() -> None:
    pixels = np.rint(photograph(9) * [0.5, 0.7, 0.4] + [60, 20, 90]).astype(np.uint8)
    fitted_to = baselines.grey_world(baselines.stretch(pixels))
    assert metrics.fidelity(baselines.polynomial(pixels), fitted_to)["ciede2000"] < 3
    assert metrics.fidelity(pixels, fitted_to)["ciede2000"] > 8


class TestLut:
    def test_weights_interpolate(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (500, 3), dtype=np.uint8)
        pixels[0], pixels[1] = 0, 255
        weights = baselines.lut_weights(pixels)
        axis = np.linspace(0, 1, baselines.LUT_SIDE)
        nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        np.testing.assert_allclose(weights @ nodes, pixels / 255, atol=1e-12)
        products = weights @ nodes.prod(axis=1)
        assert np.abs(products - (pixels / 255).prod(axis=1)).max() < 1e-12  # exact for what is linear along each axis

    def test_the_table_is_a_mild_correction(self) -> None:
        table = np.load(baselines.LUT_FILE)
        assert (table.shape, table.dtype) == ((9, 9, 9, 3), np.uint8)
        red, green, blue = (table.mean(axis=(0, 1, 2))[channel] for channel in range(3))
        assert max(red, green, blue) - min(red, green, blue) < 60
        diagonal = table[range(9), range(9), range(9)].astype(int)
        assert (np.diff(diagonal[1:], axis=0) > 0).all()  # lighter stays lighter

    def test_strips_do_not_show(self) -> None:
        tall = photograph(1, 600, 5)
        whole = baselines.lut_weights(tall.reshape(-1, 3)) @ baselines._lut_table()
        expected = np.rint(whole.clip(0, 1) * 255).reshape(tall.shape)
        np.testing.assert_array_equal(baselines.lut(tall), expected)
