"""Measures of one picture (`quality`) and of a picture against the truth (`fidelity`). No Beam, no TensorFlow.

Pictures are arrays [height, width, 3] of sRGB (gamma-encoded, R G B), uint8 in 0..255 or uint16 in 0..65535, any size
from 1x1 up, any memory layout. `quality` reports on the 0..255 scale whatever the depth: a uint16 code is code / 257.

Memory stays bounded at any size: measures that need every pixel go through the picture in tiles, those that need a
distribution look at a fixed, deterministic sample. Nothing here is random, and no value depends on the tiles beyond the
last digits of a float.

Sources, by the short names used below:
  Hasler2003: D. Hasler, S. Suesstrunk, "Measuring colourfulness in natural images", SPIE 5007, 2003.
  Immerkaer1996: J. Immerkaer, "Fast noise variance estimation", Comput. Vis. Image Underst. 64(2), 1996.
  Pech2000: J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
  Wang2004: Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004.
  Wang2003: Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multi-scale structural similarity ...", Asilomar 2003.
  Sharma2005: G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 color-difference formula ...", Color Res. Appl. 30(1).
  sRGB: IEC 61966-2-1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

Image = NDArray[np.uint8 | np.uint16]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# Tiles of 64 Ki pixels: smaller ones cost more calls than their planes, of 256 KiB in float32, gain in the cache.
_TILE_PIXELS = 1 << 16
_TILE_COLS = 2048
# Pixels looked at by the measures of `quality` that need a distribution (cast, density range).
# Against all pixels of 59 photographs of 0.5 MP and more, 2^16 are off by 0.006 in the cast and 0.002 in the density
# range (medians; 95th percentiles 0.035 and 0.015).
_SAMPLE = 1 << 16
# Pixels of larger pictures that go into the measures of every pixel (`_tiled_measures`), in strips of `_STRIP_PIXELS`.
_TILED_SAMPLE = 1 << 22
_STRIP_PIXELS = 1 << 13
# Pixels over which `fidelity` averages CIEDE2000, the slowest of its measures; smaller pictures are averaged whole.
_DELTA_E_SAMPLE = 1 << 22
_DELTA_E_STRIP = 1 << 16
# Pixels a strip of the structural measures has, at the least: skimage holds about 15 float64 planes of it.
_SSIM_STRIP = 1 << 20

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0

# Rec. 601 luma in 256ths, which make 1: luma of any uint8 picture fits uint16, of any uint16 picture float32, exactly.
_LUMA = (77, 150, 29)
_LUMA_UNIT = 256.0

# Linear sRGB to CIE XYZ under D65, each row divided by its sum: XYZ relative to sRGB's own white, so R = G = B gives
# a* = b* = 0 to float precision and not the 0.005 that a white point rounded to five digits leaves.
_MATRIX = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], dtype=np.float64
)
_XYZ: Float32 = (_MATRIX / _MATRIX.sum(axis=1, keepdims=True)).astype(np.float32)
_LUMINANCE = _XYZ[1]

# Near-neutrals: neither black nor white, which have no cast to show, and of low chroma.
_NEUTRAL_L = (10.0, 98.0)
_NEUTRAL_CHROMA = 10.0
_NEUTRAL_SHARE = 0.25

_DENSITY_PERCENTILES = (0.5, 99.5)
_DENSITY_MAX = 4.0

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_K = (0.01, 0.03)
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The window must still fit after four halvings.
_MS_SSIM_SIDE = _SSIM_WINDOW << (len(_MS_SSIM_WEIGHTS) - 1)


def quality(image: Image) -> dict[str, float]:
    """Measures one picture without a reference. The higher the better only for some: see docs/metrics.md.

    Args:
      image: [H, W, 3] sRGB, uint8 or uint16, H and W at least 1.

    Returns:
      colourfulness: Hasler2003 M3, 0..255 scale: with rg = R - G and yb = (R + G) / 2 - B, *signed*,
        sqrt(var rg + var yb) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2). 0 for greys.
      cast_a, cast_b: mean CIELAB a*, b* (D65) of the sample's near-neutrals. Near-neutral is a pixel with
        10 <= L* <= 98 whose chroma is at most 10, or at most the lower quartile of the chroma of such pixels where that
        is more: a picture so cast that nothing is near grey still tells its cast. Both 0 where no pixel has such an L*.
        Leaning to grey as it does, it understates: a cast laid over real photographs shows at about 0.5 to 0.7 of the
        shift of a grey. Good for direction, order and before against after, not for colorimetry.
      density_range: D(99.5%) - D(0.5%) of the sample, D = -log10(max(Y, 1e-4)), Y the linear luminance in 0..1. 0..4.
      noise: Immerkaer1996 sigma of the luma, 0..255 scale. 0 where a side is under 3 px.
      clipped: share, 0..1, of pixels with *any* channel at 0 or at the maximum of the dtype: fading is uneven over the
        dyes, so one channel lost is colour lost.
      sharpness: variance of the Laplacian (4 neighbours, kernel 0 1 0 / 1 -4 1 / 0 1 0) of the luma over interior
        pixels, Pech2000, 0..255 scale. 0 where a side is under 3 px.

      Colourfulness, noise, clipped and sharpness are of every pixel of pictures up to 2^22 pixels, else of 2^22 pixels
      in strips spread evenly, chosen by position alone.

      Luma is Rec. 601 as (77 R + 150 G + 29 B) / 256, not rounded. "The sample" is every pixel of pictures up to 2^16
      pixels, else 2^16 pixels spread evenly, chosen by position alone: a picture and its restoration are compared on
      the same places.

    Raises:
      ValueError: if `image` is not [H, W, 3] of uint8 or uint16, or has no pixels.
    """
    _check(image)
    sample = _sample(image, _SAMPLE)
    linear = _linear_table(image.dtype.itemsize).take(sample)
    cast_a, cast_b = _cast(linear)
    values = _tiled_measures(image, sample)
    values |= {"cast_a": cast_a, "cast_b": cast_b, "density_range": _density_range(linear)}
    return values


def fidelity(image: Image, target: Image) -> dict[str, float | bool | None]:
    """Measures a picture against the truth, both sRGB of one size.

    Where one is uint8 and the other uint16, both are compared in 16 bits (uint8 code * 257).

    Args:
      image: [H, W, 3] sRGB, uint8 or uint16, H and W at least 1.
      target: the truth, of the same height and width, uint8 or uint16.

    Returns:
      identical: True where every value is the same.
      psnr: 20 log10(255 / sqrt(MSE)) dB, over all values of all channels, the MSE on the 0..255 scale and exact. None
        where identical.
      ssim: Wang2004 with an 11x11 Gaussian of sigma 1.5, K1 .01, K2 .03, by `skimage.metrics.structural_similarity`
        (population covariances); windows inside the picture only; mean over R, G, B of the encoded values. At most 1.
        None where a side is under 11 px.
      ms_ssim: Wang2003, five scales, weights .0448 .2856 .3001 .2363 .1333, 2x2 means between them, negative factors
        taken as 0; mean over R, G, B. What `tf.image.ssim_multiscale` gives. 0..1. None where a side is under 176 px.
      ciede2000: mean Sharma2005 colour difference, kL = kC = kH = 1, in CIELAB under D65, over every pixel of pictures
        up to 2^22 pixels, else over 2^22 pixels spread evenly, chosen by position alone.

    Raises:
      ValueError: if the sizes differ, or either is not [H, W, 3] of uint8 or uint16, or has no pixels.
    """
    _check(image)
    _check(target)
    if image.shape != target.shape:
        ours, theirs = (f"{width} x {height} px" for height, width, _ in (image.shape, target.shape))
        raise ValueError(f"The picture is {ours} and its target {theirs} (width x height): sizes must agree.")
    if image.dtype.itemsize != target.dtype.itemsize:
        image, target = (_to_uint16(picture) for picture in (image, target))
    mse = _mse(image, target)
    peak = float(np.iinfo(image.dtype).max)
    short_side = min(image.shape[:2])
    return {
        "identical": mse == 0.0,
        "psnr": 10.0 * math.log10(peak**2 / mse) if mse else None,
        "ssim": _ssim(image, target, peak) if short_side >= _SSIM_WINDOW else None,
        "ms_ssim": _ms_ssim(image, target, peak) if short_side >= _MS_SSIM_SIDE else None,
        "ciede2000": mean_ciede2000(image, target),
    }


def _check(image: NDArray[Any]) -> None:
    """Refuses what is not a picture, in words: the shape and dtype found."""
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype.newbyteorder("=") not in _DTYPES:
        raise ValueError(f"Expected a picture [H, W, 3] of uint8 or uint16, got {list(image.shape)} of {image.dtype}.")


_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


def _to_uint16(image: Image) -> NDArray[np.uint16]:
    """The same colours in 16 bits: uint8 code * 257, exactly."""
    wide = image.astype(np.uint16, copy=False)
    return wide * np.uint16(257) if image.dtype.itemsize == 1 else wide


def _tiles(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of tiles that cover the picture once; of a large one, of strips spread over it."""
    # Wider where the picture is low, higher where it is narrow: a strip of film is no slower than a square.
    cols = min(width, max(_TILE_COLS, _TILE_PIXELS // height))
    whole = height * width <= _TILED_SAMPLE
    rows = max((_TILE_PIXELS if whole else _STRIP_PIXELS) // cols, 1)
    tops, lefts = range(0, height, rows), range(0, width, cols)
    count = len(tops) * len(lefts)
    for index in range(count) if whole else _spread(count, _TILED_SAMPLE // (rows * cols)):
        top, left = tops[index // len(lefts)], lefts[index % len(lefts)]
        yield top, min(top + rows, height), left, min(left + cols, width)


@functools.lru_cache(maxsize=4)  # a picture is measured before and after
def _spread(length: int, count: int) -> NDArray[np.intp]:
    """`count` of the numbers 0 to `length` - 1 (all, if there are no more), from each of `count` equal runs one.

    The place within a run follows the golden-ratio sequence: a plain stride would beat with a halftone screen or a
    scanner's lines.
    """
    if length <= count:
        return np.arange(length)
    k = np.arange(count, dtype=np.float64)
    places = ((k + k * _GOLDEN % 1.0) * (length / count)).astype(np.intp)
    return np.minimum(places, length - 1, out=places)


def _sample(image: Image, count: int) -> Image:
    """`count` pixels spread evenly over the picture, as planes [3, N]; all of them where it has no more."""
    height, width, _ = image.shape
    if height * width <= count:
        return np.ascontiguousarray(image.reshape(-1, 3).T)
    places = _spread(height * width, count)
    if image.flags.c_contiguous:
        flat = image.reshape(-1)
        return np.stack([flat.take(places * 3 + channel) for channel in range(3)])
    return np.ascontiguousarray(image[np.divmod(places, width)].T)


@functools.lru_cache(maxsize=2)
def _linear_table(itemsize: int) -> Float32:
    """Linear light 0..1 of every code of an unsigned dtype of `itemsize` bytes (sRGB)."""
    code = np.linspace(0.0, 1.0, 256**itemsize)
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _cast(linear: Float32) -> tuple[float, float]:
    """Mean a*, b* of the near-neutrals (see `quality`) of linear sRGB [3, N] in 0..1.

    That near-neutral objects show the cast is from F. Gasparini, R. Schettini, "Color balancing of digital photos using
    simple image statistics", Pattern Recognition 37(6), 2004; the rule that selects them is this module's own.
    """
    darkest, lightest = (((lightness + 16.0) / 116.0) ** 3 for lightness in _NEUTRAL_L)
    xyz = np.einsum("dc,cn->dn", _XYZ, linear)
    xyz = np.compress((xyz[1] >= darkest) & (xyz[1] <= lightest), xyz, axis=1)
    if not xyz.shape[1]:
        return 0.0, 0.0
    # CIE 15: the cube root (by exp and log, which numpy has in SIMD), and below (6/29)^3 its tangent.
    root = np.exp(np.log(np.maximum(xyz, np.float32(1e-9))) / 3)
    x, y, z = np.where(xyz > 216 / 24389, root, xyz * np.float32(841 / 108) + np.float32(4 / 29))
    a, b = 500 * (x - y), 200 * (y - z)
    chroma = np.sqrt(a * a + b * b)
    rank = math.ceil(_NEUTRAL_SHARE * len(chroma)) - 1
    near = chroma <= max(_NEUTRAL_CHROMA, float(np.partition(chroma, rank)[rank]))
    cast_a, cast_b = (float(np.compress(near, plane).mean(dtype=np.float64)) for plane in (a, b))
    return cast_a, cast_b


def _density_range(linear: Float32) -> float:
    """Density between two percentiles (nearest rank) of linear sRGB [3, N] in 0..1; see `quality`."""
    luminance = np.einsum("c,cn->n", _LUMINANCE, linear)
    ranks = [round(percentile / 100 * (len(luminance) - 1)) for percentile in _DENSITY_PERCENTILES]
    dark, light = np.partition(luminance, ranks)[ranks]
    floor = 10.0**-_DENSITY_MAX
    return math.log10(max(float(light), floor)) - math.log10(max(float(dark), floor))


def _sums(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Sum of [rows, columns], and of its squares, by BLAS row by row: of more at a time it would start threads."""
    values = rows.astype(np.float32, copy=False)
    ones = np.ones(values.shape[1], np.float32)
    return np.array([np.vecdot(values, other).sum(dtype=np.float64) for other in (ones, values)])


def _second_difference(values: Float32, step: int) -> Float32:
    """x[i] - 2 x[i + step] + x[i + 2 step]: of a picture laid out flat down its rows, or along them (`step` 1)."""
    first = values[step:] - values[:-step]
    return first[step:] - first[:-step]


def _tiled_measures(image: Image, sample: Image) -> dict[str, float]:
    """Colourfulness, noise, clipped share and sharpness of `quality`, tile by tile; `sample` [3, N] is of its pixels.

    In the smallest integers that hold each value, then float32: time goes with the bytes.
    """
    height, width, _ = image.shape
    code_unit, narrow = (257.0, False) if image.dtype.itemsize == 2 else (1.0, True)
    signed, unsigned = (np.int16, np.uint16) if narrow else (np.int32, np.uint32)
    clipped_from = np.iinfo(image.dtype).max - 1
    # Near the means, so that little cancels in the variances, and those of one colour are 0.
    red, green, blue = (int(plane.mean()) for plane in sample)
    centre = signed(red - green), signed(red + green - 2 * blue)
    clipped = pixels = interior = 0
    # Sum and sum of squares of rg, of twice yb, of the Laplacian; sum of the noise.
    rg, yb, laplacian, noise = np.zeros(2), np.zeros(2), np.zeros(2), 0.0
    for top, bottom, left, right in _tiles(height, width):
        # One pixel more on every side that has one, for the neighbours.
        y0, y1, x0, x1 = max(top - 1, 0), min(bottom + 1, height), max(left - 1, 0), min(right + 1, width)
        codes = np.ascontiguousarray(image[y0:y1, x0:x1].transpose(2, 0, 1))
        inner = np.s_[top - y0 : bottom - y0, left - x0 : right - x0]

        # Less one, 0 wraps round to the maximum: one comparison finds both ends.
        ends = functools.reduce(np.maximum, codes - 1)
        clipped += int(np.count_nonzero(ends[inner] >= clipped_from))
        pixels += (bottom - top) * (right - left)

        reds, greens, blues = codes.astype(signed)
        rg += _sums((reds - greens - centre[0])[inner])
        yb += _sums((reds + greens - (blues + blues) - centre[1])[inner])

        rows, columns = y1 - y0, x1 - x0
        if rows < 3 or columns < 3:
            continue
        weighted = np.multiply(codes, np.array(_LUMA, unsigned)[:, None, None])
        # Laid out flat, and two longer, so that there is a difference for every pixel; two a row reach into the next.
        luma = np.zeros(rows * columns + 2, np.float32)
        luma[:-2] = functools.reduce(np.add, weighted).ravel()
        down, middle = _second_difference(luma, columns), luma[columns:-columns]
        # Immerkaer's kernel 1 -2 1 / -2 4 -2 / 1 -2 1 is the second difference down the rows, then along them.
        both = np.abs(_second_difference(down, 1)).reshape(-1, columns)[:, :-2]
        noise += float(_sums(both)[0])
        laplacian += _sums((_second_difference(middle, 1) + down[1:-1]).reshape(-1, columns)[:, :-2])
        interior += both.size

    def moments(sums: NDArray[np.float64], count: int) -> tuple[float, float]:
        mean, square = sums / count
        return float(mean), max(float(square - mean**2), 0.0)

    (rg_mean, rg_variance), (yb_mean, yb_variance) = moments(rg, pixels), moments(yb, pixels)
    spread = math.sqrt(rg_variance + yb_variance / 4)
    distance = math.hypot(rg_mean + float(centre[0]), (yb_mean + float(centre[1])) / 2)
    unit = code_unit * _LUMA_UNIT
    return {
        "colourfulness": (spread + 0.3 * distance) / code_unit,
        "noise": math.sqrt(math.pi / 2.0) * noise / (6.0 * interior) / unit if interior else 0.0,
        "clipped": clipped / pixels,
        "sharpness": moments(laplacian, interior)[1] / unit**2 if interior else 0.0,
    }


def _mse(image: Image, target: Image) -> float:
    """Mean squared difference of two pictures of one dtype, in codes; the sum is taken in integers."""
    total = 0
    for top, bottom, left, right in _tiles(*image.shape[:2]):
        difference = image[top:bottom, left:right].astype(np.float64)
        difference -= target[top:bottom, left:right]
        total += int(np.vdot(difference, difference))
    return total / image.size


def _ssim(image: Image, target: Image, peak: float) -> float:
    """SSIM by skimage, strip by strip: strips overlap by the window less one row, so every window counts once."""
    height, width, _ = image.shape
    overlap = _SSIM_WINDOW - 1
    windows = height - overlap
    step = max(_SSIM_STRIP // width, _SSIM_WINDOW)
    total = 0.0
    for top in range(0, windows, step):
        rows = slice(top, min(top + step, windows) + overlap)
        for channel in range(3):
            mean = structural_similarity(
                image[rows, :, channel],
                target[rows, :, channel],
                data_range=peak,
                gaussian_weights=True,
                sigma=_SSIM_SIGMA,
                use_sample_covariance=False,
                K1=_SSIM_K[0],
                K2=_SSIM_K[1],
            )
            total += float(mean) * (rows.stop - rows.start - overlap)
    return total / (3 * windows)


def _ms_ssim(image: Image, target: Image, peak: float) -> float:
    """MS-SSIM of two pictures of one dtype, sides of 176 px and more; a channel at a time."""
    total = 0.0
    for channel in range(3):
        x: NDArray[Any] = image[..., channel]
        y: NDArray[Any] = target[..., channel]
        product = 1.0
        for scale, weight in enumerate(_MS_SSIM_WEIGHTS):
            if scale:
                x, y = _halve(x), _halve(y)
            similarity, structure = _ssim_factors(x, y, peak)
            factor = similarity if scale == len(_MS_SSIM_WEIGHTS) - 1 else structure
            product *= max(factor, 0.0) ** weight
        total += product
    return total / 3.0


def _halve(plane: NDArray[Any]) -> Float32:
    """2x2 means of [H, W]; an odd last row or column is repeated. Exact for codes through four halvings (24 bits)."""
    odd_row, odd_col = plane.shape[0] % 2, plane.shape[1] % 2
    if odd_row or odd_col:
        plane = np.pad(plane, ((0, odd_row), (0, odd_col)), mode="edge")
    total = plane[0::2, 0::2].astype(np.float32)
    for part in (plane[0::2, 1::2], plane[1::2, 0::2], plane[1::2, 1::2]):
        total += part
    total *= np.float32(0.25)
    return total


def _ssim_factors(x: NDArray[Any], y: NDArray[Any], peak: float) -> tuple[float, float]:
    """Means over all windows inside two planes [H, W] of SSIM and of its contrast-structure factor."""
    height, width = x.shape
    overlap = _SSIM_WINDOW - 1
    c1, c2 = ((k * peak) ** 2 for k in _SSIM_K)
    windows = height - overlap
    step = max(_SSIM_STRIP // width, _SSIM_WINDOW)
    similarity_sum = structure_sum = 0.0
    for top in range(0, windows, step):
        rows = slice(top, min(top + step, windows) + overlap)
        u, v = x[rows].astype(np.float64), y[rows].astype(np.float64)
        mean_u, mean_v = _blur(u), _blur(v)
        product, squares = mean_u * mean_v, mean_u**2 + mean_v**2
        # Only the sum of the two variances is needed: one blur does for both.
        structure = (2.0 * (_blur(u * v) - product) + c2) / (_blur(u**2 + v**2) - squares + c2)
        structure_sum += float(structure.sum())
        similarity_sum += float((structure * (2.0 * product + c1) / (squares + c1)).sum())
    count = windows * (width - overlap)
    return similarity_sum / count, structure_sum / count


def _blur(plane: Float64) -> Float64:
    """SSIM's Gaussian mean of [H, W] at windows that lie inside: [H - 10, W - 10]."""
    offset = np.arange(_SSIM_WINDOW) - _SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offset / _SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    edge = _SSIM_WINDOW // 2
    rows = correlate1d(plane, weights, axis=0)[edge:-edge]
    blurred: Float64 = correlate1d(rows, weights, axis=1)[:, edge:-edge]
    return blurred


def _delta_e(lab1: Float64, lab2: Float64) -> Float64:
    """CIEDE2000 between colours [..., 3] in CIELAB, kL = kC = kH = 1: [...]."""
    difference: Float64 = deltaE_ciede2000(lab1, lab2, kL=1, kC=1, kH=1)
    return difference


def mean_ciede2000(image: Image, target: Image) -> float:
    """Mean CIEDE2000 of two pictures of one dtype, over `_DELTA_E_SAMPLE` pixels at the most."""
    colours, truth = _sample(image, _DELTA_E_SAMPLE).T, _sample(target, _DELTA_E_SAMPLE).T
    total = 0.0
    for start in range(0, len(colours), _DELTA_E_STRIP):
        part = slice(start, start + _DELTA_E_STRIP)
        total += float(_delta_e(rgb2lab(colours[part]), rgb2lab(truth[part])).sum())
    return total / len(colours)
