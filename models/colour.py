"""Colour arithmetic in TensorFlow: sRGB, optical density, CIELAB. All float32, channels last.

Dyes fade in optical density (Beer-Lambert), so that is the space the generator works in; errors are measured in
CIELAB, where equal distances look about equally large.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Share of each channel of linear sRGB in luminance (ITU-R BT.709)."""

DENSITY_FLOOR = 1e-3
"""Linear light added before the logarithm: paper black and scanner flare; bounds density at about 3.0."""

MAX_DENSITY = float(-np.log10(DENSITY_FLOOR / (1 + DENSITY_FLOOR)))
"""The density of code value 0."""

_TO_XYZ = np.array(  # IEC 61966-2-1 (sRGB, D65), rows divided by the white point so that white is (1, 1, 1)
    [
        [0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883],
    ],
    np.float32,
)


def density_table(codes: int) -> np.ndarray:
    """Optical density of every sRGB code value.

    Args:
      codes: 256 for 8 bits, 65536 for 16.

    Returns:
      float32 [codes], falling from `MAX_DENSITY` (code 0) to 0 (the last): -log10((I + floor) / (1 + floor)), I linear.
    """
    linear = linear_table(codes).astype(np.float64)
    return (-np.log10((linear + DENSITY_FLOOR) / (1 + DENSITY_FLOOR))).astype(np.float32)


def linear_table(codes: int) -> np.ndarray:
    """Linear light of every sRGB code value: float32 [codes], 0..1."""
    srgb = np.arange(codes, dtype=np.float64) / (codes - 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb_to_linear(srgb: tf.Tensor) -> tf.Tensor:
    """Linear light in 0..1 of sRGB values in 0..1."""
    return tf.where(srgb <= 0.04045, srgb / 12.92, ((tf.maximum(srgb, 0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_density(linear: tf.Tensor) -> tf.Tensor:
    """Density (0..`MAX_DENSITY` for 0..1) of linear light; what is below black counts as black."""
    return tf.math.log((tf.maximum(linear, 0.0) + DENSITY_FLOOR) / (1 + DENSITY_FLOOR)) * (-1 / np.log(10.0))


def srgb_to_density(srgb: tf.Tensor) -> tf.Tensor:
    """Density (0..`MAX_DENSITY`) of sRGB values in 0..1."""
    return linear_to_density(srgb_to_linear(srgb))


def density_to_codes(density: tf.Tensor) -> tf.Tensor:
    """The uint8 sRGB code value of a density, by a table: a power takes ten times as long, and training needs many."""
    entries = 16384
    position = np.linspace(0.0, MAX_DENSITY, entries)
    linear = np.clip((1 + DENSITY_FLOOR) * 10.0**-position - DENSITY_FLOOR, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table = tf.constant(np.rint(255 * srgb).astype(np.uint8))
    index = tf.cast(density * ((entries - 1) / MAX_DENSITY) + 0.5, tf.int32)
    return tf.gather(table, tf.clip_by_value(index, 0, entries - 1))


def density_to_linear(density: tf.Tensor) -> tf.Tensor:
    """Linear light of a density; outside 0..1 where the density is outside its range."""
    return tf.exp(-np.log(10.0) * density) * (1 + DENSITY_FLOOR) - DENSITY_FLOOR


def linear_to_srgb(linear: tf.Tensor) -> tf.Tensor:
    """SRGB in 0..1 of linear light, clipped to the gamut."""
    linear = tf.clip_by_value(linear, 0.0, 1.0)
    return tf.where(linear <= 0.0031308, linear * 12.92, 1.055 * tf.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def density_to_srgb(density: tf.Tensor) -> tf.Tensor:
    """SRGB in 0..1 of a density, clipped to the gamut."""
    return linear_to_srgb(density_to_linear(density))


def _cube_root(x: tf.Tensor) -> tf.Tensor:
    """Of positive values, by logarithm: a power takes several times as long."""
    return tf.exp(tf.math.log(x) / 3)


def linear_to_lab(linear: tf.Tensor) -> tf.Tensor:
    """CIELAB (D65) of linear sRGB; L in 0..100, a and b about -110..110. Continued smoothly below black."""
    xyz = tf.einsum("...c,dc->...d", linear, tf.constant(_TO_XYZ))
    threshold = (6 / 29) ** 3
    cube_root = tf.where(
        xyz > threshold,
        _cube_root(tf.maximum(xyz, threshold)),
        xyz / (3 * (6 / 29) ** 2) + 4 / 29,
    )
    x, y, z = tf.unstack(cube_root, axis=-1)
    return tf.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def luminance_to_lightness(luminance: tf.Tensor) -> tf.Tensor:
    """CIE L* (0..100) of linear luminance in 0..1."""
    threshold = (6 / 29) ** 3
    root = tf.where(
        luminance > threshold, _cube_root(tf.maximum(luminance, threshold)), luminance / (3 * (6 / 29) ** 2) + 4 / 29
    )
    return 116 * root - 16


def lab_to_linear(lab: tf.Tensor) -> tf.Tensor:
    """Linear sRGB of CIELAB (D65), the inverse of `linear_to_lab`; outside 0..1 for colours outside the gamut."""
    y = (lab[..., 0] + 16) / 116
    roots = tf.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = tf.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * (3 * (6 / 29) ** 2))
    return tf.einsum("...c,dc->...d", xyz, tf.constant(np.linalg.inv(_TO_XYZ.astype(np.float64)).astype(np.float32)))


def delta_e94(lab: tf.Tensor, reference: tf.Tensor) -> tf.Tensor:
    """CIE94 colour difference (graphic arts), the differentiable stand-in for CIEDE2000 in losses.

    Chroma and hue differences weigh less the more saturated the reference is, which is CIEDE2000's main correction of
    the plain Lab distance. A small constant under the root keeps the gradient finite (Charbonnier).

    Args:
      lab: float32 [..., 3].
      reference: float32 [..., 3], the truth; its chroma sets the weights.

    Returns:
      float32 [...], in units of just about one noticeable difference.
    """
    difference = lab - reference
    chroma_reference = tf.sqrt(reference[..., 1] ** 2 + reference[..., 2] ** 2 + 1e-6)
    chroma = tf.sqrt(lab[..., 1] ** 2 + lab[..., 2] ** 2 + 1e-6)
    chroma_difference = chroma - chroma_reference
    hue_squared = tf.maximum(difference[..., 1] ** 2 + difference[..., 2] ** 2 - chroma_difference**2, 0.0)
    weight_chroma = 1 + 0.045 * chroma_reference
    weight_hue = 1 + 0.015 * chroma_reference
    squared = difference[..., 0] ** 2 + (chroma_difference / weight_chroma) ** 2 + hue_squared / weight_hue**2
    return tf.sqrt(squared + 1e-3)
