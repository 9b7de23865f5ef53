"""The damage model: makes an aged print of a good photograph, and says what it did.

Physics of dye fading in optical density. A print's density is D = A c, dye amounts c = (cyan, magenta, yellow) seen
through side absorptions A; each dye fades as c' = f c with f = exp(-k t), one fast, one middle, one slow;
D' = A F A^-1 D + stain. Unevenly lit or stored prints fade by f^(1 + g(x)) with low-frequency g. Black-and-white prints
are toned, not faded. Then contrast, a scanner's cast, unsharpness, grain, dust and scratches, JPEG. At least
`Damage.clean` of the pictures stay as they are: leaving a good picture alone must be learned too.

Everything is drawn from one stateless seed a batch: same seed, same damage. Every stage has numbers of its own, so
switching one off does not change the others.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.colour import LUMINANCE, MAX_DENSITY, density_to_codes, density_to_linear, linear_to_density

REGIONS = ("seen", "held_out", "all")
"""Fadings that training sees, those it never sees, or both: see `held_out`."""

_BAND = (0.40, 0.55)  # shares of the fast dye that training never sees
_ORDER = (1, 2, 0)  # dyes from fast to slow that training never sees: magenta, yellow, cyan


@dataclasses.dataclass(frozen=True)
class Damage:
    """How likely each stage is, and how strong. Probabilities in 0..1, densities in log10 units.

    Attributes:
      clean: Share of pictures left undamaged.
      alone: Of those that are damaged, share whose colours have one thing wrong and no other: one of fading, stain,
        contrast and cast, as likely as these are told to be.
      fade: Probability of dye fading for the others; likewise below.
      fade_least: Smallest share of the fast dye that is left, 0.2 for a print that is all but gone.
      uneven: Of fading being uneven over the picture.
      uneven_strength: Largest |g| in f^(1 + g(x)).
      stain: Of a yellow stain (density rising from red to blue), more or less blotchy.
      stain_density: Its largest density in the blue.
      cast: Of a scanner's or illuminant's cast: an offset of density, one a channel.
      cast_density: Its largest standard deviation.
      contrast: Of lost or excessive contrast, the same in all channels.
      contrast_strength: Standard deviation of the logarithm of its slope.
      monochrome: Of the picture being black-and-white (then the target is, too), half of them toned.
      blur: Of unsharpness.
      grain: Of visible grain.
      grain_density: Its largest standard deviation, at density 1.
      grain_size: Share of pictures whose grains are larger than a pixel.
      scratches: Of dust and scratches.
      scratch_width: Their width, in pixels of the picture at hand.
      jpeg: Of JPEG compression, a third of it twice.
      jpeg_quality: Its lowest quality; the highest is 95.
      region: One of `REGIONS`.
    """

    clean: float = 0.2
    alone: float = 0.5
    fade: float = 0.7
    fade_least: float = 0.2
    uneven: float = 0.3
    uneven_strength: float = 0.6
    stain: float = 0.35
    stain_density: float = 0.35
    cast: float = 0.35
    cast_density: float = 0.2
    contrast: float = 0.35
    contrast_strength: float = 0.2
    monochrome: float = 0.1
    blur: float = 0.0
    grain: float = 0.3
    grain_density: float = 0.03
    grain_size: float = 0.0
    scratches: float = 0.1
    scratch_width: float = 1.0
    jpeg: float = 0.0
    jpeg_quality: float = 30.0
    region: str = "seen"


class _Draws:
    """Numbered stateless draws from one seed, so that adding a stage does not change the others."""

    def __init__(self, seed: tf.Tensor, batch: tf.Tensor) -> None:
        self._seed, self._batch = seed, batch

    def uniform(self, number: int, shape: list[int], low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        seed = tf.random.experimental.stateless_fold_in(self._seed, number)
        return tf.random.stateless_uniform([self._batch, *shape], seed, low, high)

    def normal(self, number: int, shape: list[int]) -> tf.Tensor:
        return tf.random.stateless_normal(
            [self._batch, *shape], tf.random.experimental.stateless_fold_in(self._seed, number)
        )

    def happens(self, number: int, probability: float) -> tf.Tensor:
        """Float32 [N], 1 with the probability, else 0."""
        return tf.cast(self.uniform(number, []) < probability, tf.float32)


class Damaged(NamedTuple):
    """A damaged batch and its truth.

    Attributes:
      image: uint8 [N, S, S, 3], sRGB, as a scanner would deliver it.
      target: float32 [N, S, S, 3], linear light: what a restorer should reach (black-and-white where the print is).
      colour: float32 [N, S, S, 3], linear light: the photograph itself, in colour whatever the print is.
      classes: float32 [N, 7] in 0..1, in the order of `DAMAGE_CLASSES`.
      defects: float32 [N, S, S], 1 where dust or a scratch hides the picture.
    """

    image: tf.Tensor
    target: tf.Tensor
    colour: tf.Tensor
    classes: tf.Tensor
    defects: tf.Tensor


def fade_matrix(absorption: tf.Tensor, remaining: tf.Tensor) -> tf.Tensor:
    """What fading does to density: A F A^-1.

    Args:
      absorption: float32 [N, 3, 3], A: density in R, G, B of a unit of cyan, magenta, yellow dye; diagonal 1.
      remaining: float32 [N, 3], the share f of each dye that is left.

    Returns:
      float32 [N, 3, 3].
    """
    return tf.matmul(absorption * remaining[:, None, :], inverse3(absorption))


def inverse3(matrix: tf.Tensor) -> tf.Tensor:
    """Inverse of 3 x 3 matrices by cofactors, float32 [N, 3, 3]: faster than `tf.linalg.inv` for many."""
    a, b, c = tf.unstack(matrix, axis=1)  # rows
    crosses = tf.stack([tf.linalg.cross(b, c), tf.linalg.cross(c, a), tf.linalg.cross(a, b)], axis=2)
    return crosses / tf.reduce_sum(a * crosses[:, :, 0], axis=1)[:, None, None]


def held_out(remaining: tf.Tensor) -> tf.Tensor:
    """Whether fadings lie in the region that training never sees, so that scores there measure generalisation.

    Args:
      remaining: float32 [N, 3], shares of cyan, magenta, yellow dye left.

    Returns:
      bool [N]: the fast dye has 0.40 to 0.55 left, or magenta fades fastest and cyan slowest.
    """
    fast = tf.reduce_min(remaining, axis=1)
    order = tf.argsort(remaining, axis=1, stable=True)
    return ((fast >= _BAND[0]) & (fast < _BAND[1])) | tf.reduce_all(order == tf.constant(_ORDER), axis=1)


def _fading(draw: _Draws, damage: Damage) -> tuple[tf.Tensor, tf.Tensor]:
    """Side absorptions [N, 3, 3] and shares of dye left [N, 3]: one dye fast, one middle, one slow, in any order."""
    off = draw.uniform(1, [3, 3], 0.05, 0.3)
    absorption = off * (1 - tf.eye(3)) + tf.eye(3)
    # Four candidates a picture; the first in the region is taken, and one that is known to be in it if none is.
    tries = 4
    fast = damage.fade_least + draw.uniform(2, [tries]) * (0.9 - damage.fade_least)
    middle, slow = draw.uniform(3, [tries], 0.5, 1.0), draw.uniform(4, [tries], 0.8, 1.0)
    by_speed = tf.stack([fast, middle, slow], axis=2)  # [N, tries, 3]
    order = tf.argsort(draw.uniform(5, [tries, 3]), axis=2)
    candidates = tf.gather(by_speed, order, batch_dims=2)
    if damage.region == "all":
        return absorption, candidates[:, 0]
    unseen = tf.reshape(held_out(tf.reshape(candidates, [-1, 3])), [-1, tries])
    wanted = unseen if damage.region == "held_out" else ~unseen
    first = tf.gather(candidates, tf.argmax(tf.cast(wanted, tf.int32), axis=1), batch_dims=1)
    known = tf.constant([0.9, 0.45, 0.7] if damage.region == "held_out" else [0.7, 0.8, 0.9])
    return absorption, tf.where(tf.reduce_any(wanted, axis=1, keepdims=True), first, known)


def _low_frequency(draw: _Draws, number: int, size: int) -> tf.Tensor:
    """A smooth field in about -1..1: float32 [N, S, S, 1]."""
    axis = tf.range(size, dtype=tf.float32) / size
    field = tf.zeros([1, size, size])
    for wave in range(3):  # little more than one period over the picture, in any direction
        frequency = draw.uniform(number + wave, [3, 1, 1], -1.2, 1.2)
        phase = 6.2832 * (frequency[:, 0] * axis[None, :] + frequency[:, 1] * axis[:, None] + frequency[:, 2])
        field += tf.cos(phase) / 3
    return field[..., None]


def scratch_mask(draw: _Draws, size: int, width: float) -> tf.Tensor:
    """Scratches, mostly hair-thin, faint and broken, and specks of dust: float32 [N, S, S] in 0..1, their opacity."""
    axis = tf.range(size, dtype=tf.float32)
    x, y = axis[None, None, :], axis[None, :, None]
    mask = tf.zeros([1, size, size])
    for index in range(3):  # scratches: a slightly bent line whose depth varies along it, down to nothing
        number = 100 + 10 * index
        angle = draw.uniform(number, [1, 1], -0.5, 0.5) + tf.where(draw.uniform(number + 1, [1, 1]) < 0.7, 0.0, 1.57)
        position = draw.uniform(number + 2, [1, 1], 0.0, float(size))
        bend = draw.uniform(number + 3, [1, 1], -0.1, 0.1) / float(size)
        along = (x - size / 2) * tf.sin(angle) + (y - size / 2) * tf.cos(angle)
        across = (x - position) * tf.cos(angle) - (y - size / 2) * tf.sin(angle) + bend * along**2
        start = draw.uniform(number + 4, [1, 1], -float(size), 0.5 * size)
        length = draw.uniform(number + 5, [1, 1], 0.2 * size, 1.5 * size)
        there = tf.cast((along > start) & (along < start + length), tf.float32)
        thickness = width * draw.uniform(number + 6, [1, 1], 0.3, 0.8)
        opacity = draw.uniform(number + 7, [1, 1], 0.3, 1.0)
        waves = draw.uniform(number + 8, [1, 1], 4.0, 30.0) / float(size)
        depth = tf.clip_by_value(0.7 + tf.sin(along * waves) * tf.sin(0.37 * along * waves + position), 0.0, 1.0)
        mask = tf.maximum(mask, opacity * depth * there * tf.exp(-((across / thickness) ** 2)))
    for index in range(5):  # specks
        number = 200 + 10 * index
        cx, cy = (draw.uniform(number + axis_, [1, 1], 0.0, float(size)) for axis_ in (0, 1))
        radius = width * draw.uniform(number + 2, [1, 1], 0.4, 1.8)
        turn = draw.uniform(number + 3, [1, 1], 0.0, 3.14)
        long = draw.uniform(number + 4, [1, 1], 1.0, 2.5)  # grains are round, fibres are not
        u = ((x - cx) * tf.cos(turn) + (y - cy) * tf.sin(turn)) / long
        v = (y - cy) * tf.cos(turn) - (x - cx) * tf.sin(turn)
        opacity = draw.uniform(number + 5, [1, 1], 0.5, 1.0)
        mask = tf.maximum(mask, opacity * tf.exp(-(((u**2 + v**2) / radius**2) ** 2)))
    return mask


def _blurred(linear: tf.Tensor) -> tf.Tensor:
    """Linear light behind a binomial filter of 5 x 5 pixels, edges repeated."""
    for axis in (1, 2):
        pads = [[0, 0], [2, 2] if axis == 1 else [0, 0], [2, 2] if axis == 2 else [0, 0], [0, 0]]
        padded = tf.pad(linear, pads, "SYMMETRIC")
        size = linear.shape[axis]
        parts = [padded[:, i : i + size] if axis == 1 else padded[:, :, i : i + size] for i in range(5)]
        linear = (parts[0] + parts[4]) / 16 + (parts[1] + parts[3]) / 4 + parts[2] * (6 / 16)
    return linear


def recompress(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """JPEG and back, picture by picture.

    Args:
      image: uint8 [N, S, S, 3].
      quality: int32 [N], 1..100; 0 leaves the picture alone.

    Returns:
      uint8 [N, S, S, 3].
    """

    def one(given: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        picture, wanted = given
        return tf.cond(wanted > 0, lambda: tf.image.adjust_jpeg_quality(picture, wanted), lambda: picture)

    return tf.map_fn(one, (image, quality), fn_output_signature=tf.uint8)


def degrade(linear: tf.Tensor, seed: tf.Tensor, damage: Damage) -> Damaged:  # noqa: PLR0915 (one stage after the other)
    """Ages a batch of photographs.

    Args:
      linear: float32 [N, S, S, 3], linear light in 0..1 (sRGB primaries), undamaged.
      seed: int32 [2], a stateless seed.
      damage: What to do.

    Returns:
      The aged prints with their truth.
    """
    size = linear.shape[1]
    draw = _Draws(seed, tf.shape(linear)[0])
    damaged = 1.0 - draw.happens(0, damage.clean)

    def gate(stage: tf.Tensor) -> tf.Tensor:
        return (stage * damaged)[:, None, None, None]

    # Black-and-white prints: spectral weighting, half of them toned. The toning belongs to the picture and stays.
    mono = draw.happens(10, damage.monochrome)
    density = linear_to_density(linear)
    spectral = draw.uniform(11, [3], 0.05, 1.0) + LUMINANCE
    spectral /= tf.reduce_sum(spectral, axis=1, keepdims=True)
    grey = tf.reduce_sum(density * spectral[:, None, None, :], axis=-1, keepdims=True)
    toned = tf.cast(draw.uniform(12, []) < 0.5, tf.float32)[:, None] * draw.uniform(13, [1], 0.02, 0.15)
    toning = 1 + toned * tf.constant([[-1.0, 0.2, 1.0]])
    is_mono = mono[:, None, None, None]
    density += is_mono * (grey * toning[:, None, None, :] - density)
    target = linear + is_mono * (density_to_linear(density) - linear)

    # Dyes fade (silver does not: black-and-white prints skip this), evenly or not.
    alone, which = draw.happens(6, damage.alone), draw.uniform(7, [])
    ends = np.cumsum([0.0, damage.fade, damage.stain, damage.contrast, damage.cast])

    def happens(number: int, stage: int, probability: float) -> tf.Tensor:
        """Whether a stage happens; where there is one alone, whether it is that."""
        at = which * float(ends[-1])
        this = tf.cast((at >= float(ends[stage])) & (at < float(ends[stage + 1])), tf.float32)
        return alone * this + (1 - alone) * draw.happens(number, probability)

    fades = happens(20, 0, damage.fade) * (1 - mono)
    absorption, remaining = _fading(draw, damage)
    dyes = tf.einsum("nhwc,ndc->nhwd", density, inverse3(absorption))
    uneven = draw.happens(21, damage.uneven)[:, None, None, None] * _low_frequency(draw, 22, size)
    kept = tf.exp(tf.math.log(remaining)[:, None, None, :] * (1 + damage.uneven_strength * uneven))
    faded = tf.einsum("nhwc,ndc->nhwd", dyes * kept, absorption)
    density += gate(fades) * (faded - density)

    # Stain, contrast, cast: the paper yellows, the scanner has its own idea.
    stains = happens(30, 1, damage.stain)
    depth = draw.uniform(31, [1], 0.03, 1.0) * damage.stain_density
    stain = depth * tf.stack([draw.uniform(32, [], 0.0, 0.3), draw.uniform(33, [], 0.3, 0.7), tf.ones_like(mono)], 1)
    blotches = draw.uniform(34, [], 0.0, 0.6)[:, None, None, None] * _low_frequency(draw, 35, size)
    density += gate(stains) * stain[:, None, None, :] * (1 + blotches)
    contrasts = happens(40, 2, damage.contrast)
    gamma = tf.exp(draw.normal(41, [1]) * damage.contrast_strength) * draw.uniform(42, [1], 0.7, 1.1)
    lift = draw.uniform(43, [1], -0.05, 0.2)
    density += gate(contrasts) * (density * gamma[:, None, None, :] + lift[:, None, None, :] - density)
    casts = happens(50, 3, damage.cast)
    strength = draw.uniform(52, [1], 0.2, 1.0) * damage.cast_density
    density += gate(casts) * (draw.normal(51, [3]) * strength)[:, None, None, :]

    softens = draw.happens(55, damage.blur)
    if damage.blur > 0:
        softness = (softens * draw.uniform(56, [], 0.2, 1.0))[:, None, None, None]
        sharp = density_to_linear(density)
        density = linear_to_density(sharp + gate(tf.ones_like(mono)) * softness * (_blurred(sharp) - sharp))

    # Grain: partly common to the channels, growing with the square root of density.
    grains = draw.happens(60, damage.grain)
    if damage.grain > 0:
        sigma = draw.uniform(63, [1], 0.1, 1.0) * damage.grain_density
        noise = draw.normal(61, [size, size, 4])
        if damage.grain_size > 0:
            coarse = draw.happens(64, damage.grain_size)[:, None, None, None]
            noise += coarse * (_blurred(noise) * (256 / 70) - noise)  # variance as before
        grain = 0.6 * noise[..., :1] + 0.8 * noise[..., 1:]
        density += gate(grains) * sigma[:, None, None, :] * tf.sqrt(tf.maximum(density, 0.0) + 0.05) * grain

    # Dust and scratches, of both polarities: bare paper or black dirt.
    scratches = draw.happens(70, damage.scratches)
    mask = tf.zeros_like(linear[..., 0])
    if damage.scratches > 0:
        mask = scratch_mask(draw, size, damage.scratch_width) * (scratches * damaged)[:, None, None]
        dark = tf.cast(draw.uniform(71, []) < 0.4, tf.float32)[:, None, None, None]
        density += mask[..., None] * (dark * 0.8 * MAX_DENSITY - density)

    image = density_to_codes(density)
    compressed = tf.zeros_like(mono)
    for number, share in ((80, damage.jpeg), (83, damage.jpeg / 3)):
        if share > 0:
            quality = tf.cast(draw.uniform(number + 1, [], damage.jpeg_quality, 95.0), tf.int32)
            chosen = (damaged > 0) & (draw.uniform(number, []) < share)
            image = recompress(image, tf.where(chosen, quality, 0))
            compressed = tf.maximum(compressed, tf.cast(chosen, tf.float32))
    loss_of_dye = 1 - tf.reduce_min(remaining, axis=1)
    any_damage = damaged * tf.reduce_max(
        tf.stack([fades, stains, contrasts, casts, softens, grains, scratches, compressed], 0), axis=0
    )
    classes = tf.stack(
        [
            damaged * fades * tf.cast(loss_of_dye > 0.15, tf.float32),
            damaged * casts,
            damaged * stains * tf.cast(depth[:, 0] > 0.06, tf.float32),
            mono,
            damaged * grains,
            damaged * scratches,
            (1 - any_damage),
        ],
        axis=1,
    )
    return Damaged(image, target, linear, classes, tf.cast(mask > 0.3, tf.float32))
