"""Every measure against an independent computation of it, and at the edges: tiny, constant, grey, 16-bit, in tiles."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage, signal
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity

from transforms import metrics

QUALITY = {"colourfulness", "cast_a", "cast_b", "density_range", "noise", "clipped", "sharpness"}

# G. Sharma, W. Wu, E. N. Dalal (2005), table 1: L1 a1 b1, L2 a2 b2, difference.
SHARMA = np.loadtxt(
    """
    50.0000   2.6772 -79.7751  50.0000   0.0000 -82.7485   2.0425
    50.0000   3.1571 -77.2803  50.0000   0.0000 -82.7485   2.8615
    50.0000   2.8361 -74.0200  50.0000   0.0000 -82.7485   3.4412
    50.0000  -1.3802 -84.2814  50.0000   0.0000 -82.7485   1.0000
    50.0000  -1.1848 -84.8006  50.0000   0.0000 -82.7485   1.0000
    50.0000  -0.9009 -85.5211  50.0000   0.0000 -82.7485   1.0000
    50.0000   0.0000   0.0000  50.0000  -1.0000   2.0000   2.3669
    50.0000  -1.0000   2.0000  50.0000   0.0000   0.0000   2.3669
    50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0009   7.1792
    50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0010   7.1792
    50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0011   7.2195
    50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0012   7.2195
    50.0000  -0.0010   2.4900  50.0000   0.0009  -2.4900   4.8045
    50.0000  -0.0010   2.4900  50.0000   0.0010  -2.4900   4.8045
    50.0000  -0.0010   2.4900  50.0000   0.0011  -2.4900   4.7461
    50.0000   2.5000   0.0000  50.0000   0.0000  -2.5000   4.3065
    50.0000   2.5000   0.0000  73.0000  25.0000 -18.0000  27.1492
    50.0000   2.5000   0.0000  61.0000  -5.0000  29.0000  22.8977
    50.0000   2.5000   0.0000  56.0000 -27.0000  -3.0000  31.9030
    50.0000   2.5000   0.0000  58.0000  24.0000  15.0000  19.4535
    50.0000   2.5000   0.0000  50.0000   3.1736   0.5854   1.0000
    50.0000   2.5000   0.0000  50.0000   3.2972   0.0000   1.0000
    50.0000   2.5000   0.0000  50.0000   1.8634   0.5757   1.0000
    50.0000   2.5000   0.0000  50.0000   3.2592   0.3350   1.0000
    60.2574 -34.0099  36.2677  60.4626 -34.1751  39.4387   1.2644
    63.0109 -31.0961  -5.8663  62.8187 -29.7946  -4.0864   1.2630
    61.2901   3.7196  -5.3901  61.4292   2.2480  -4.9620   1.8731
    35.0831 -44.1164   3.7933  35.0232 -40.0716   1.5901   1.8645
    22.7233  20.0904 -46.6940  23.0331  14.9730 -42.5619   2.0373
    36.4612  47.8580  18.3852  36.2715  50.5065  21.2231   1.4146
    90.8027  -2.0831   1.4410  91.1528  -1.6435   0.0447   1.4441
    90.9257  -0.5406  -0.9208  88.6381  -0.8985  -0.7239   1.5381
     6.7747  -0.2908  -2.4247   5.8714  -0.0985  -2.2286   0.6377
     2.0776   0.0795  -1.1350   0.9033  -0.0636  -0.5514   0.9082
    """.strip().splitlines()
)


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Something like a photograph: smooth colours, edges, a little grain."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(height, width, 3))
    smooth = ndimage.gaussian_filter(field, (6, 6, 0), mode="wrap")
    smooth *= 50 / max(float(smooth.std()), 1e-9)
    edges = 40 * (ndimage.gaussian_filter(rng.normal(size=(height, width, 1)), (9, 9, 0)) > 0)
    return np.clip(smooth + edges + 100 + 3 * field, 0, 255).astype(np.uint8)


def damaged(image: NDArray[np.uint8], seed: int = 1) -> NDArray[np.uint8]:
    """`image` cast, blurred and noisy."""
    rng = np.random.default_rng(seed)
    worse = ndimage.gaussian_filter(image.astype(np.float64), (1, 1, 0)) * [1.1, 0.9, 0.7]
    return np.clip(worse + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def in_16_bits(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The same colours in uint16."""
    return image.astype(np.uint16) * np.uint16(257)


def flat(*colour: int, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, dtype=np.uint8)


def luma(image: NDArray[Any]) -> NDArray[np.float64]:
    """Rec. 601 in 256ths, as documented."""
    weighted: NDArray[np.float64] = image.astype(np.float64) @ np.array([77, 150, 29]) / 256
    return weighted


def colourfulness(image: NDArray[Any]) -> float:
    """Hasler and Suesstrunk's M3 in float64, as the paper writes it."""
    red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
    rg, yb = red - green, 0.5 * (red + green) - blue
    return float(np.sqrt(rg.std() ** 2 + yb.std() ** 2) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2))


def number(value: float | bool | None) -> float:
    """A measure that must be there."""
    assert value is not None
    return float(value)


# --- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 3), (130, 77), (300, 1100)])
def test_colourfulness_is_hasler_suesstrunk(size: tuple[int, int]) -> None:
    image = picture(*size)
    assert metrics.quality(image)["colourfulness"] == pytest.approx(colourfulness(image), rel=1e-8, abs=1e-9)


def test_colourfulness_keeps_the_sign_of_the_opponent_channels() -> None:
    image = flat(200, 100, 50)
    image[:, ::2] = (100, 200, 50)  # rg is +100 on one half, -100 on the other
    # rg = +-100: deviation 100, mean 0. yb = 100 everywhere. With |rg| it would be 0.3 * sqrt(2) * 100 instead.
    assert metrics.quality(image)["colourfulness"] == pytest.approx(100 + 0.3 * 100)


def test_noise_is_immerkaer() -> None:
    image = picture(140, 530)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = np.abs(signal.convolve2d(luma(image), kernel, mode="valid"))
    expected = math.sqrt(math.pi / 2) * response.sum() / (6 * response.size)
    assert metrics.quality(image)["noise"] == pytest.approx(expected, rel=1e-6)


def test_noise_finds_the_sigma_that_was_added() -> None:
    grain = np.random.default_rng(3).normal(128, 7, (400, 400, 1))
    image = np.repeat(np.rint(grain), 3, axis=2).astype(np.uint8)
    assert metrics.quality(image)["noise"] == pytest.approx(7, rel=0.02)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = picture(140, 530)
    expected = ndimage.laplace(luma(image))[1:-1, 1:-1].var()
    assert metrics.quality(image)["sharpness"] == pytest.approx(expected, rel=1e-5)


def test_blur_is_less_sharp_and_less_noisy() -> None:
    image = picture(200, 200)
    blurred = ndimage.gaussian_filter(image, (2, 2, 0))
    before, after = metrics.quality(image), metrics.quality(blurred)
    assert after["sharpness"] < before["sharpness"] / 2
    assert after["noise"] < before["noise"] / 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_clipped_counts_pixels_with_any_channel_at_an_end(dtype: type[np.uint8 | np.uint16]) -> None:
    top = np.iinfo(dtype).max
    image = np.full((10, 10, 3), 100, dtype=dtype)
    image[0, 0] = (0, 100, 100)
    image[0, 1] = (100, top, 100)
    image[5, 5] = (top, 0, top)  # one pixel, however many channels
    image[9, 9] = (1, top - 1, 100)  # near is not clipped
    assert metrics.quality(image)["clipped"] == 3 / 100


@pytest.mark.parametrize("colour", [(140, 120, 100), (90, 100, 140), (220, 120, 60), (40, 90, 30)])
def test_a_cast_however_strong_is_told(colour: tuple[int, int, int]) -> None:
    values = metrics.quality(flat(*colour))
    _, a, b = rgb2lab(np.array(colour, dtype=np.uint8))
    assert (values["cast_a"], values["cast_b"]) == pytest.approx((a, b), abs=0.01)


def test_a_cast_is_that_of_the_near_neutrals_not_of_the_colours() -> None:
    image = flat(135, 128, 120, width=100)  # slightly warm
    image[:, 30:60] = (200, 30, 40)
    image[:, 60:90] = (20, 60, 200)
    image[:, 90:95] = 0
    image[:, 95:] = 255  # black and white tell nothing
    values = metrics.quality(image)
    _, a, b = rgb2lab(np.array((135, 128, 120), dtype=np.uint8))
    assert (values["cast_a"], values["cast_b"]) == pytest.approx((a, b), abs=0.01)


def test_where_nothing_is_near_neutral_the_lower_quartile_of_chroma_speaks() -> None:
    ramp = np.linspace(60, 200, 100)
    image = np.clip(np.stack([ramp * 1.2, ramp * 0.8, ramp * 0.4], axis=-1), 0, 255).astype(np.uint8)[None]
    lab = rgb2lab(image).reshape(-1, 3)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    assert chroma.min() > 10
    nearest = lab[np.argsort(chroma)[:25]]
    values = metrics.quality(image)
    assert (values["cast_a"], values["cast_b"]) == pytest.approx(tuple(nearest[:, 1:].mean(axis=0)), abs=0.01)


@pytest.mark.parametrize("level", [0, 255])
def test_no_cast_where_all_is_black_or_white(level: int) -> None:
    values = metrics.quality(flat(level, level, level))
    assert (values["cast_a"], values["cast_b"]) == (0, 0)


def test_greys_have_neither_colour_nor_cast() -> None:
    image = np.repeat(picture(90, 90)[..., :1], 3, axis=2)
    values = metrics.quality(image)
    assert values["colourfulness"] == 0
    assert (values["cast_a"], values["cast_b"]) == pytest.approx((0, 0), abs=1e-4)


def test_density_range_of_known_tones() -> None:
    image = flat(188, 188, 188, width=100)  # linear 0.5029
    image[:, :50] = 46  # linear 0.02732
    expected = math.log10(((188 / 255 + 0.055) / 1.055) ** 2.4 / ((46 / 255 + 0.055) / 1.055) ** 2.4)
    assert metrics.quality(image)["density_range"] == pytest.approx(expected, rel=1e-5)
    image[0, 0] = 0  # dust: one pixel in 2,000 is outside the percentiles
    image[1, 1] = 255
    assert metrics.quality(image)["density_range"] == pytest.approx(expected, rel=1e-5)


def test_density_range_ends_at_four() -> None:
    image = flat(0, 0, 0)
    image[:10] = 255
    assert metrics.quality(image)["density_range"] == pytest.approx(4, abs=1e-6)


def test_fading_lowers_colour_and_density_range_and_casts() -> None:
    image = picture(300, 300)
    faded = (90 + image * np.array([0.6, 0.4, 0.3])).astype(np.uint8)
    before, after = metrics.quality(image), metrics.quality(faded)
    assert after["density_range"] < before["density_range"]
    assert after["cast_b"] > before["cast_b"] + 2


@pytest.mark.parametrize("level", [0, 1, 77, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 700), (700, 1), (3, 3), (130, 515)])
def test_one_grey_has_nothing_to_measure(level: int, size: tuple[int, int]) -> None:
    values = metrics.quality(flat(level, level, level, height=size[0], width=size[1]))
    clipped = float(level in (0, 255))
    assert values == pytest.approx(dict.fromkeys(QUALITY, 0.0) | {"clipped": clipped}, abs=1e-4)
    assert values["noise"] == values["sharpness"] == values["colourfulness"] == values["density_range"] == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_colour_has_no_spread(dtype: type[np.uint8 | np.uint16]) -> None:
    image = np.broadcast_to(np.array([251, 3, 118], dtype=dtype), (700, 900, 3))
    values = metrics.quality(image)
    expected = 0.3 * math.hypot(248, 9) / (257 if dtype is np.uint16 else 1)
    assert values["colourfulness"] == pytest.approx(expected, rel=1e-12)
    assert values["noise"] == values["sharpness"] == 0


@given(arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3))))
@settings(max_examples=100, deadline=None)
def test_any_picture_gives_numbers_in_range(image: NDArray[np.uint8]) -> None:
    values = metrics.quality(image)
    assert values.keys() == QUALITY
    assert all(type(value) is float and math.isfinite(value) for value in values.values())
    assert all(values[name] >= 0 for name in QUALITY - {"cast_a", "cast_b"})
    assert values["clipped"] <= 1
    assert values["density_range"] <= 4
    assert values["colourfulness"] == pytest.approx(colourfulness(image), rel=1e-9, abs=1e-6)
    assert metrics.quality(in_16_bits(image)) == pytest.approx(values, rel=1e-4, abs=1e-4)
    # Nothing that is measured on a small picture knows up from down, or rows from columns.
    assert metrics.quality(np.rot90(image)) == pytest.approx(values, rel=1e-4, abs=1e-4)


def test_16_bits_are_not_rounded_to_8() -> None:
    image = in_16_bits(picture(64, 64)) // 64 + 20000  # a span of 1,000 codes: 4 in 8 bits
    values = metrics.quality(image)
    assert values["colourfulness"] == pytest.approx(colourfulness(image / 257), rel=1e-9)
    assert values["sharpness"] == pytest.approx(ndimage.laplace(luma(image / 257))[1:-1, 1:-1].var(), rel=1e-4)


def test_tiles_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(150, 131)
    assert len(list(metrics._tiles(150, 131))) == 1
    whole = metrics.quality(image)
    for rows, cols in ((1, 131), (150, 1), (1, 1), (7, 13), (149, 130)):
        monkeypatch.setattr(metrics, "_TILE_PIXELS", rows * cols)
        monkeypatch.setattr(metrics, "_TILE_COLS", cols)
        tiled = metrics.quality(image)
        assert tiled == pytest.approx(whole, rel=1e-5)
        assert (tiled["colourfulness"], tiled["clipped"]) == (whole["colourfulness"], whole["clipped"])


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(max_examples=50, deadline=None)
def test_tiles_cover_the_picture_once_and_are_small(height: int, width: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_TILED_SAMPLE", height * width)
        tiles = list(metrics._tiles(height, width))
    covered = np.zeros((height, width), dtype=np.uint8)
    for top, bottom, left, right in tiles:
        covered[top:bottom, left:right] += 1
        assert (bottom - top) * (right - left) <= 1 << 16
    assert covered.min() == covered.max() == 1
    assert len(tiles) <= 2 * height * width / (1 << 16) + 12


@given(st.integers(200, 3000), st.integers(200, 3000))
@settings(max_examples=50, deadline=None)
def test_strips_of_a_large_picture_are_spread_over_it(height: int, width: int) -> None:
    sample = height * width // 3 + 8192
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_TILED_SAMPLE", sample)
        strips = list(metrics._tiles(height, width))
    taken = sum((bottom - top) * (right - left) for top, bottom, left, right in strips)
    assert len(set(strips)) == len(strips)
    assert sample / 2 <= taken <= sample
    if height * width > 1_000_000:
        centre = np.mean([(top + bottom) / 2 / height for top, bottom, _, _ in strips])
        assert 0.45 < centre < 0.55


def test_strips_stand_for_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    image = damaged(picture(900, 1400))
    whole = metrics.quality(image)
    monkeypatch.setattr(metrics, "_TILED_SAMPLE", image.size // 6)
    strips = metrics.quality(image)
    assert strips["noise"] != whole["noise"]
    for name in ("colourfulness", "noise", "sharpness"):
        assert strips[name] == pytest.approx(whole[name], rel=0.05)


def test_the_sample_stands_for_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    image = damaged(picture(900, 800))
    sampled = metrics.quality(image)
    monkeypatch.setattr(metrics, "_SAMPLE", image.size)
    whole = metrics.quality(image)
    for name, tolerance in (("cast_a", 0.05), ("cast_b", 0.05), ("density_range", 0.02)):
        assert sampled[name] == pytest.approx(whole[name], abs=tolerance)
        assert sampled[name] != whole[name]  # or this tests nothing


def test_the_sample_does_not_beat_with_a_pattern() -> None:
    image = np.empty((1024, 1024, 3), dtype=np.uint8)  # exactly 16 pixels a sample
    image[:, 0::2] = (150, 128, 128)
    image[:, 1::2] = (106, 128, 128)
    sample = metrics._sample(image, metrics._SAMPLE)[0]
    assert (sample == 150).mean() == pytest.approx(0.5, abs=0.01)


def test_memory_layout_does_not_matter() -> None:
    image = damaged(picture(400, 300))
    turned = np.ascontiguousarray(image.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert not turned.flags.c_contiguous
    assert metrics.quality(turned) == metrics.quality(image)
    assert metrics.quality(in_16_bits(image).astype(">u2")) == metrics.quality(in_16_bits(image))


def test_measuring_changes_nothing_and_repeats() -> None:
    image = picture(300, 300)
    kept = image.copy()
    image.flags.writeable = False
    assert metrics.quality(image) == metrics.quality(image)
    assert metrics.fidelity(image, damaged(image)) == metrics.fidelity(image, damaged(image))
    assert np.array_equal(image, kept)


@pytest.mark.parametrize("size", [(3000, 4000), (2, 6_000_000), (6_000_000, 2)])
def test_memory_does_not_grow_with_the_picture(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 90, dtype=np.uint8)
    tracemalloc.start()
    try:
        metrics.quality(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32e6  # the picture: 36e6


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int16),
    ],
    ids=["no channels", "one channel", "alpha", "no pixels", "float", "signed"],
)
def test_what_is_not_a_picture_is_refused(image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"Expected a picture \[H, W, 3\] of uint8 or uint16, got"):
        metrics.quality(image)
    with pytest.raises(ValueError, match="Expected a picture"):
        metrics.fidelity(flat(1, 2, 3), image)


# --- fidelity --------------------------------------------------------------------------------------------------------


def test_ciede2000_gives_sharmas_pairs() -> None:
    assert len(SHARMA) == 34
    there = metrics._delta_e(SHARMA[:, :3], SHARMA[:, 3:6])
    back = metrics._delta_e(SHARMA[:, 3:6], SHARMA[:, :3])
    np.testing.assert_allclose(there, SHARMA[:, 6], rtol=0, atol=5.1e-5)  # the table has four decimals
    np.testing.assert_allclose(back, there, rtol=0, atol=1e-9)


def test_ciede2000_of_a_picture_is_the_mean_over_its_pixels() -> None:
    image = picture(40, 50)
    target = damaged(image)
    expected = metrics._delta_e(rgb2lab(image / 255.0), rgb2lab(target / 255.0)).mean()
    assert metrics.fidelity(image, target)["ciede2000"] == pytest.approx(expected, rel=1e-9)


def test_ciede2000_of_a_large_picture_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(300, 400)
    target = damaged(image)
    whole = metrics.mean_ciede2000(image, target)
    monkeypatch.setattr(metrics, "_DELTA_E_SAMPLE", 20_000)
    assert metrics.mean_ciede2000(image, target) == pytest.approx(whole, rel=0.01)


@given(
    arrays(np.uint8, (5, 7, 3)),
    arrays(np.uint8, (5, 7, 3)),
)
@settings(max_examples=50, deadline=None)
def test_psnr_is_its_closed_form(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    values = metrics.fidelity(image, target)
    mse = np.mean((image.astype(np.float64) - target) ** 2)
    assert values["identical"] is np.array_equal(image, target).__bool__()
    if values["identical"]:
        assert values["psnr"] is None
    else:
        assert values["psnr"] == pytest.approx(20 * math.log10(255 / math.sqrt(mse)), rel=1e-12, abs=1e-12)
    assert values["ssim"] is None
    assert values["ms_ssim"] is None


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (90, 120)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_psnr_is_tensorflows_and_scikit_images(size: tuple[int, int], dtype: type[np.uint8 | np.uint16]) -> None:
    import tensorflow as tf
    from skimage.metrics import peak_signal_noise_ratio

    top = np.iinfo(dtype).max
    rng = np.random.default_rng(4)
    target = rng.integers(top // 10, top - top // 10, (*size, 3)).astype(dtype)
    image = (target + rng.integers(1, top // 12, target.shape)).astype(dtype)
    psnr = metrics.fidelity(image, target)["psnr"]
    assert psnr == pytest.approx(
        float(tf.image.psnr(image.astype(np.float64), target.astype(np.float64), top)), abs=1e-4
    )
    assert psnr == pytest.approx(peak_signal_noise_ratio(target, image, data_range=top), abs=1e-9)


def test_cast_of_a_flat_colour_is_scikit_images_lab() -> None:
    from skimage.color import rgb2lab

    for colour in ((140, 130, 120), (90, 100, 110), (200, 210, 190)):
        flat = np.broadcast_to(np.array(colour, np.uint8), (9, 11, 3))
        _, a, b = rgb2lab(flat)[0, 0]
        found = metrics.quality(flat)
        assert (found["cast_a"], found["cast_b"]) == pytest.approx((a, b), abs=0.01)


def test_psnr_of_an_offset() -> None:
    assert metrics.fidelity(flat(100, 100, 100), flat(105, 105, 105))["psnr"] == pytest.approx(20 * math.log10(51))
    assert metrics.fidelity(flat(0, 0, 0), flat(255, 255, 255))["psnr"] == pytest.approx(0)


def direct_ssim(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> float:
    """Wang et al. (2004) as written: a two-dimensional window, valid positions, mean over R, G, B."""
    offset = np.arange(-5, 6)
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    means = []
    for channel in range(3):
        x, y = image[..., channel].astype(np.float64), target[..., channel].astype(np.float64)
        mx, my, xx, yy, xy = (signal.convolve2d(plane, window, mode="valid") for plane in (x, y, x * x, y * y, x * y))
        top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
        means.append((top / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))).mean())
    return float(np.mean(means))


@pytest.mark.parametrize("size", [(11, 11), (11, 90), (64, 48)])
def test_ssim_is_wang_2004(size: tuple[int, int]) -> None:
    image = picture(*size)
    target = damaged(image)
    assert metrics.fidelity(image, target)["ssim"] == pytest.approx(direct_ssim(image, target), rel=1e-9)


def test_ssim_in_strips_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(190, 180)
    target = damaged(image)
    whole = metrics.fidelity(image, target)
    planes = [
        structural_similarity(
            image[..., channel],
            target[..., channel],
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=255,
        )
        for channel in range(3)
    ]
    assert whole["ssim"] == pytest.approx(np.mean(planes), rel=1e-12)
    monkeypatch.setattr(metrics, "_SSIM_STRIP", 17 * 180)  # 190 - 10 windows: the last strip is shorter
    monkeypatch.setattr(metrics, "_DELTA_E_STRIP", 1000)
    assert metrics.fidelity(image, target) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("size", [(176, 176), (177, 203), (256, 191)])
def test_ms_ssim_and_ssim_are_tensorflows(size: tuple[int, int]) -> None:
    tf = pytest.importorskip("tensorflow")
    image = picture(*size)
    for target in (damaged(image), 255 - image):  # the second: negative structure, taken as 0
        values = metrics.fidelity(image, target)
        pair = (image[None].astype(np.float32), target[None].astype(np.float32))
        assert number(values["ms_ssim"]) == pytest.approx(float(tf.image.ssim_multiscale(*pair, 255)[0]), abs=2e-5)
        assert number(values["ssim"]) == pytest.approx(float(tf.image.ssim(*pair, 255)[0]), abs=2e-5)


def test_structure_needs_room() -> None:
    def defined(height: int, width: int) -> tuple[bool, bool]:
        image = picture(height, width)
        values = metrics.fidelity(image, damaged(image))
        return values["ssim"] is not None, values["ms_ssim"] is not None

    assert defined(10, 300) == (False, False)
    assert defined(11, 300) == (True, False)
    assert defined(175, 300) == (True, False)
    assert defined(176, 176) == (True, True)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (11, 11), (180, 180)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_identical_pictures(size: tuple[int, int], dtype: type[np.uint8 | np.uint16]) -> None:
    image: NDArray[np.uint8 | np.uint16] = picture(*size).astype(dtype)
    one = pytest.approx(1.0, abs=1e-12)
    assert metrics.fidelity(image, image.copy()) == {
        "identical": True,
        "psnr": None,
        "ssim": one if min(size) >= 11 else None,
        "ms_ssim": one if min(size) >= 176 else None,
        "ciede2000": 0.0,
    }


def test_one_code_of_difference_is_not_identical() -> None:
    image = in_16_bits(picture(30, 30))
    other = image.copy()
    other[4, 5, 1] ^= 1
    values = metrics.fidelity(image, other)
    assert values["identical"] is False
    assert values["psnr"] == pytest.approx(20 * math.log10(65535 * math.sqrt(30 * 30 * 3)), rel=1e-12)


def test_16_bits_agree_with_8() -> None:
    image = picture(180, 190)
    target = damaged(image)
    expected = pytest.approx(metrics.fidelity(image, target), rel=1e-6)
    assert metrics.fidelity(in_16_bits(image), in_16_bits(target)) == expected
    assert metrics.fidelity(image, in_16_bits(target)) == expected
    assert metrics.fidelity(in_16_bits(image), target) == expected
    assert metrics.fidelity(in_16_bits(image).astype(">u2"), target) == expected
    assert metrics.fidelity(image, in_16_bits(image))["identical"] is True


def test_constant_pictures_have_no_structure_to_lose() -> None:
    values = metrics.fidelity(
        flat(100, 100, 100, height=180, width=180), flat(100, 100, 100, height=180, width=180) + 20
    )
    luminance = (2 * 100 * 120 + 2.55**2) / (100**2 + 120**2 + 2.55**2)
    assert values["ssim"] == pytest.approx(luminance, rel=1e-9)
    assert values["ms_ssim"] == pytest.approx(luminance**0.1333, rel=1e-9)


def test_better_is_better() -> None:
    truth = picture(180, 180)
    noise = np.random.default_rng(5).normal(0, 1, truth.shape)
    near, far = (np.clip(truth + sigma * noise, 0, 255).astype(np.uint8) for sigma in (3, 20))
    good, bad = metrics.fidelity(near, truth), metrics.fidelity(far, truth)
    assert all(number(good[name]) > number(bad[name]) for name in ("psnr", "ssim", "ms_ssim"))
    assert number(good["ciede2000"]) < number(bad["ciede2000"])


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"40 x 30 px .* 30 x 40 px"):
        metrics.fidelity(flat(1, 1, 1, height=30, width=40), flat(1, 1, 1, height=40, width=30))
