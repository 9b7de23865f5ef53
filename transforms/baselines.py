"""What a user might do instead of unfade: classical corrections, to measure against. No Beam, no TensorFlow.

Every function takes and gives uint8 [H, W, 3], gamma-encoded sRGB, of any size from 1x1 up, gives the same for the same
picture on every run, and raises nothing on a sound picture. `BASELINES` has them by their names in `unfade evaluate`.
"""

from __future__ import annotations

import functools
import pathlib
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import sparse
from skimage.color import lab2rgb, rgb2lab
from skimage.exposure import equalize_adapthist
from skimage.restoration import denoise_nl_means

from transforms import metrics

Picture = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]

LUT_SIDE = 9
LUT_FILE = pathlib.Path(__file__).parent / "baseline_lut.npy"
"""uint8 [9, 9, 9, 3], sRGB by red, green, blue."""

_PERCENTILES = (0.5, 99.5)
_PRINT_BLACK = 2.0  # density of the blacks of a colour print
_DENSITY_FLOOR = 1e-3  # linear light added before the logarithm: bounds density at 3
_MINKOWSKI = 6
_SMALL_SIDE = 256
_RIDGE = 1e-4
_ACE_SLOPE = 5.0
_ACE_GRID = 12


def identity(image: Picture) -> Picture:
    """The picture as it is: what every other method has to beat."""
    return image


def stretch(image: Picture) -> Picture:
    """Per-channel stretch, the auto-levels of every editor: each channel's 0.5 and 99.5 percentiles to 0 and 255.

    A channel of one value stays as it is.
    """
    low, high = np.percentile(image, _PERCENTILES, axis=(0, 1))
    flat = high - low < 1
    scaled = (image - np.where(flat, 0, low)) * np.where(flat, 1, 255 / np.where(flat, 1, high - low))
    return _codes(scaled / 255)


def density_stretch(image: Picture) -> Picture:
    """Per-channel stretch in optical density: paper white and black point, what a scanner operator sets by hand.

    D = -log10(I), I linear; each channel's 0.5 and 99.5 percentiles of D to 0 (paper) and 2.0 (the blacks of a colour
    print). By Beer-Lambert it undoes fading and stain where dyes absorb in one channel only. R. W. G. Hunt, The
    Reproduction of Colour, 6th ed., 2004, ch. 13. A channel of one value stays as it is.
    """
    density = -np.log10((_linear(image) + _DENSITY_FLOOR) / (1 + _DENSITY_FLOOR))
    low, high = np.percentile(density, _PERCENTILES, axis=(0, 1))
    flat = high - low < 1e-3
    scaled = (density - np.where(flat, 0, low)) * np.where(flat, 1, _PRINT_BLACK / np.where(flat, 1, high - low))
    return _encoded(10.0**-scaled * (1 + _DENSITY_FLOOR) - _DENSITY_FLOOR)


def grey_world(image: Picture) -> Picture:
    """Grey world: gains in linear light that make the mean of all channels equal to their common mean.

    G. Buchsbaum, "A spatial processor model for object colour perception", J. Franklin Institute 310(1), 1980.
    """
    linear = _linear(image)
    return _encoded(linear * _gains(linear.mean(axis=(0, 1), dtype=np.float64)))


def shades_of_grey(image: Picture) -> Picture:
    """Shades of grey: as grey world, with the Minkowski norm of p = 6 in place of the mean.

    G. D. Finlayson, E. Trezzi, "Shades of gray and colour constancy", Color Imaging Conference, 2004.
    """
    linear = _linear(image)
    norm = np.power(linear, _MINKOWSKI).mean(axis=(0, 1), dtype=np.float64) ** (1 / _MINKOWSKI)
    return _encoded(linear * _gains(norm))


def clahe(image: Picture) -> Picture:
    """Contrast-limited adaptive histogram equalisation of CIELAB L*, hue and chroma kept; clip limit 0.01, 8 x 8 tiles.

    K. Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994; by
    `skimage.exposure.equalize_adapthist`, which first stretches L* over its whole range.
    """
    lab = rgb2lab(image)
    lightness = lab[..., 0] / 100
    if np.ptp(lightness) < 1e-3:
        return image
    lab[..., 0] = equalize_adapthist(np.clip(lightness, 0, 1), clip_limit=0.01) * 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skimage tells how many colours lie outside sRGB; they are clipped
        return _codes(lab2rgb(lab))


def nl_means(image: Picture) -> Picture:
    """Non-local means: patches of 5, searched up to 6 px away, h = 0.8 sigma, sigma estimated by Immerkaer's method.

    A. Buades, B. Coll, J.-M. Morel, "A non-local algorithm for image denoising", CVPR 2005; the fast mode of
    `skimage.restoration.denoise_nl_means` (J. Darbon et al., ISBI 2008). Takes out grain, and no fading.
    """
    sigma = metrics.quality(image)["noise"] / 255
    if sigma <= 0:
        return image
    clean = denoise_nl_means(
        image.astype(np.float32) / 255,
        patch_size=5,
        patch_distance=6,
        h=0.8 * sigma,
        sigma=sigma,
        fast_mode=True,
        channel_axis=-1,
    )
    return _codes(clean)


def ace(image: Picture) -> Picture:
    """ACE-like, automatic colour equalisation: a value becomes its clipped, distance-weighted lead over all others.

    R(x) = sum over y of clip(5 (I(x) - I(y)), -1, 1) / |x - y| a channel, I in 0..1; then R's range to 0..1. A. Rizzi,
    C. Gatta, D. Marini, "A new algorithm for unsupervised global and local color correction", Pattern Recognition
    Letters 24(11), 2003; stretched as in P. Getreuer, IPOL 2, 2012. An approximation: y runs over the means of at most
    12 x 12 cells of the picture instead of all pixels, and |x - y| is at least half a cell. A picture in which a
    channel has one value stays as it is.
    """
    height, width, _ = image.shape
    rows, columns = min(_ACE_GRID, height), min(_ACE_GRID, width)
    cells = _resized(image, columns, rows)
    values = image.astype(np.float32) / 255
    y, x = (np.arange(size, dtype=np.float32) + 0.5 for size in (height, width))
    least = 0.5 * min(height / rows, width / columns)
    lead = np.zeros_like(values)
    for row in range(rows):
        for column in range(columns):
            distance = np.hypot(x[None, :] - (column + 0.5) * width / columns, y[:, None] - (row + 0.5) * height / rows)
            near = 1 / np.maximum(distance, least)
            lead += np.clip(_ACE_SLOPE * (values - cells[row, column]), -1, 1) * near[..., None]
    low, high = lead.min(axis=(0, 1)), lead.max(axis=(0, 1))
    if np.any(high - low < 1e-6):
        return image
    return _codes((lead - low) / (high - low))


def polynomial(image: Picture) -> Picture:
    """A global polynomial fitted as Deep White-Balance does: small picture to its corrected self, applied at full size.

    The 11 terms r, g, b, rg, rb, gb, r^2, g^2, b^2, rgb, 1 by least squares: M. Afifi, M. S. Brown, "Deep white-balance
    editing", CVPR 2020. There the corrected small picture comes from a trained network; here, where nothing is trained,
    from `stretch` and then `grey_world` of the picture at 256 px. A ridge of 1e-4 towards the unchanged colours holds
    the terms that a picture of few colours leaves open.
    """
    height, width, _ = image.shape
    scale = min(1.0, _SMALL_SIDE / max(height, width))
    small = _codes(_resized(image, max(1, round(width * scale)), max(1, round(height * scale))))
    corrected = grey_world(stretch(small)).reshape(-1, 3) / 255
    terms = _terms(small.reshape(-1, 3) / 255)
    unchanged = np.eye(terms.shape[1], 3)
    normal = terms.T @ terms / len(terms) + _RIDGE * np.eye(terms.shape[1])
    weights = np.linalg.solve(normal, terms.T @ corrected / len(terms) + _RIDGE * unchanged)
    out = np.empty_like(image)
    for top in range(0, height, 256):  # eleven float64 planes of a large scan would fill the memory
        out[top : top + 256] = _codes(_terms(image[top : top + 256] / 255) @ weights)
    return out


def lut(image: Picture) -> Picture:
    """One fixed lookup table for every picture: the best that restoring without looking at the picture can do.

    9 x 9 x 9 nodes, trilinear, fitted by least squares to the training pictures under the training's damage
    (`benchmarks/fit_lut.py`). What is plain here is what H. Zeng et al., "Learning image-adaptive 3D lookup tables",
    TPAMI 44(4), 2020, let depend on the picture.
    """
    table = _lut_table()
    out = np.empty_like(image)
    for top in range(0, len(image), 256):
        strip = image[top : top + 256]
        out[top : top + 256] = _codes((lut_weights(strip.reshape(-1, 3)) @ table).reshape(strip.shape))
    return out


def lut_weights(pixels: Picture) -> sparse.csr_array:
    """Trilinear weights of the nodes of a cube of `LUT_SIDE`: uint8 [N, 3] to [N, nodes], eight in a row, sum 1."""
    place = pixels / 255 * (LUT_SIDE - 1)
    low = np.minimum(place.astype(int), LUT_SIDE - 2)
    part = place - low
    columns, weights = [], []
    for corner in np.ndindex(2, 2, 2):
        columns.append((low + corner) @ [LUT_SIDE**2, LUT_SIDE, 1])
        weights.append(np.where(corner, part, 1 - part).prod(axis=1))
    starts = np.arange(0, 8 * len(pixels) + 1, 8)
    flat = (np.stack(weights, axis=1).ravel(), np.stack(columns, axis=1).ravel(), starts)
    return sparse.csr_array(flat, shape=(len(pixels), LUT_SIDE**3))


@functools.cache
def _lut_table() -> npt.NDArray[np.float64]:
    """Colours of the nodes, [nodes, 3] in 0..1; red is the slowest axis."""
    return np.load(LUT_FILE).reshape(-1, 3) / 255


BASELINES: dict[str, Callable[[Picture], Picture]] = {
    "identity": identity,
    "stretch": stretch,
    "density_stretch": density_stretch,
    "grey_world": grey_world,
    "shades_of_grey": shades_of_grey,
    "clahe": clahe,
    "nl_means": nl_means,
    "ace": ace,
    "polynomial": polynomial,
    "lut": lut,
}
"""The baselines by name, in the order of the tables."""


def _terms(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[..., 3] in 0..1 to the 11 terms of `polynomial`."""
    r, g, b = (rgb[..., channel] for channel in range(3))
    return np.stack([r, g, b, r * g, r * b, g * b, r * r, g * g, b * b, r * g * b, np.ones_like(r)], axis=-1)


def _gains(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Factors that bring three means to their own mean; 1 for a channel that is black throughout."""
    return np.where(means > 0, means.mean() / np.where(means > 0, means, 1), 1.0)


def _resized(image: Picture, width: int, height: int) -> _Floats:
    """Area means, float32 [height, width, 3] in 0..1."""
    planes = [Image.fromarray(image[..., channel].astype(np.float32)) for channel in range(3)]
    small = [np.asarray(plane.resize((width, height), Image.Resampling.BOX)) for plane in planes]
    return np.stack(small, axis=-1, dtype=np.float32) / np.float32(255)


def _linear(image: Picture) -> _Floats:
    """Linear light 0..1 of sRGB codes (IEC 61966-2-1)."""
    code = np.arange(256) / 255
    table = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return table[image]


def _encoded(linear: npt.NDArray[np.floating]) -> Picture:
    """SRGB codes of linear light, clipped."""
    light = np.clip(linear, 0, 1)
    return _codes(np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055))


def _codes(values: npt.NDArray[np.floating]) -> Picture:
    """0..1 to 0..255, rounded and clipped."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
