"""Takes out noise, scratches, dust and JPEG artefacts at full resolution, before colours are corrected.

Noise is removed by shrinking an undecimated wavelet transform (the "a trous" algorithm, Starck & Murtagh 2002), in
lightness and in colour apart; by how much, at each place, a shallow network decides. A network that has to bring forth
the noise itself, as in DnCNN, needs many times the channels: with these few it finds none. The picture is folded 4 x 4
into channels, as FFDNet (Zhang et al. 2018) does 2 x 2: the same work sees twice as far, which tells a scratch from
what is in the picture, and fewer but wider layers keep a core busy.

There is no normalisation and no pooling, so what it does to a pixel depends on the pixels within `HALO` and nothing
else: a picture taken apart into tiles with that margin comes out the same.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from models.contract import HALO

BANDS = 3
"""Of the wavelet transform: details of 1, 2 and 4 pixels."""

_FOLD = 4
"""Pixels of either direction that become channels."""

_LOUDER = 8.0  # noise is a few hundredths of the range: what the network sees of it should be as large as the rest
_RELUCTANT = 3.0  # an untrained network leaves nearly everything as it is

_APART = np.array([[1, 4, 0], [2, -4, -4], [1, 0, 4]], np.float32) / 4
"""sRGB to lightness, red less green, blue less green: x @ this."""

_JOINED = np.array([[4, 4, 4], [3, -1, -1], [-1, -1, 3]], np.float32) / 4
"""And back. Exact, so that what has no colour gets none."""

_SURE = 0.95
"""Probability of a defect from which it is painted over."""

_FILL, _HIDDEN, _PLACES = 3 * _FOLD**2, _FOLD**2, (_FOLD // 2) ** 2
_SHARES = 2 * BANDS * _PLACES
"""Channels of what the network gives: what to paint, where, and shares of the bands, one for 2 x 2 pixels."""

_OF_PLANE = [share for band in range(BANDS) for share in (band, BANDS + band, BANDS + band)]
"""Which of the network's shares, first those of lightness and then those of colour, is that of a band's plane."""

_OUT = [
    *range(_FILL + _HIDDEN),
    *(_FILL + _HIDDEN + 2 * BANDS * place + share for place in range(_PLACES) for share in _OF_PLANE),
]
"""The network's channels, those of colour twice: to copy weights is cheaper than to copy what comes of them."""

_FAINT = 0.0012
"""Median of the noise that is found, in 0..1, up to which none is taken out; from twice as much all is."""

_TILE = 512  # side of a tile, in pixels; temporaries are about 25 MB


class Detail(keras.Model):
    """Finds what is to be taken out, and where defects hide the picture.

    Noise is subtracted everywhere; where a defect is found, the picture is painted over from its surroundings instead.

    Args:
      width: Channels.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__(name="detail")
        # Three layers reach 3 folded pixels, so 12 of the picture, 3 more for the folding, and the finest band that
        # they see one more: `HALO`.
        fold = {"strides": _FOLD, "kernel_initializer": "he_normal"}
        self.first = layers.Conv2D(width, _FOLD, name="first", **fold)
        self.first_band = layers.Conv2D(width, _FOLD, use_bias=False, name="first_band", **fold)
        self.convolutions = [
            layers.Conv2D(
                width, 3, padding="same", activation="leaky_relu", kernel_initializer="he_normal", name=f"layer{index}"
            )
            for index in range(3)
        ]
        small = keras.initializers.RandomNormal(stddev=1e-2)
        self.last = layers.Conv2D(_FILL + _HIDDEN + _SHARES, 1, kernel_initializer=small, name="last")
        self.last.build([None, None, None, width])

    def silence(self) -> None:
        """Makes it find nothing: for a training that leaves it out."""
        kernel, bias = self.last.kernel, self.last.bias
        kernel.assign(tf.zeros_like(kernel))
        bias.assign([0.0] * _FILL + [-16.0] * (_HIDDEN + _SHARES))  # defects nowhere, no band shrunk

    def parts(self, srgb: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Looks at a batch of pictures or tiles.

        Args:
          srgb: float32 [N, H, W, 3] in 0..1; H and W multiples of 4, see `even`.

        Returns:
          Noise to subtract, what to add to defects to paint over them (both float32 [N, H, W, 3]), and logits that a
          pixel is hidden by a defect, float32 [N, H, W].
        """
        noise, fill, hidden = self._seen(srgb)
        return noise, *_unfolded(fill, hidden)

    def _seen(self, srgb: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `parts`, but what only defects need is left folded: float32 [N, H/4, W/4, 48] and [N, H/4, W/4, 16]."""
        bands = _bands(tf.reshape(tf.reshape(srgb, [-1, 3]) @ _APART, tf.shape(srgb)))
        x = tf.nn.leaky_relu(self.first(srgb - 0.5) + self.first_band(_LOUDER * bands[0]))
        for convolution in self.convolutions:
            x = convolution(x)
        kernel, bias = tf.gather(self.last.kernel, _OUT, axis=3), tf.gather(self.last.bias, _OUT)
        given = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "VALID"), bias)
        fill, hidden, shrunk = tf.split(given, [_FILL, _HIDDEN, len(_OF_PLANE) * _PLACES], axis=3)
        return _shrunk(bands, tf.nn.depth_to_space(tf.sigmoid(shrunk - _RELUCTANT), 2)), fill, hidden

    def call(self, srgb: tf.Tensor) -> Any:
        """What to subtract in all, float32 [N, H, W, 3], and logits of defects, float32 [N, H, W]; see `parts`."""
        noise, fill, hidden = self.parts(srgb)
        return self.compose(srgb, noise, fill, hidden, tf.ones([2])), hidden

    def compose(
        self, srgb: tf.Tensor, noise: tf.Tensor, fill: tf.Tensor, hidden: tf.Tensor, strength: tf.Tensor
    ) -> tf.Tensor:
        """What to subtract in all, of `parts`: noise where the picture is sound, everything where it is hidden.

        `strength`, float32 [2], is the share of either that is wanted.
        """
        # Highlights look like dust: only what is surely a defect is painted over.
        share = strength[1] * tf.clip_by_value((tf.sigmoid(hidden) - _SURE) / (1 - _SURE), 0.0, 1.0)[..., None]
        # A black-and-white picture must not come back tinted: grey pixels stay grey.
        red, green, blue = tf.unstack(srgb, axis=3)
        spread = tf.maximum(tf.maximum(tf.abs(red - green), tf.abs(green - blue)), tf.abs(blue - red))
        coloured = tf.cast(spread >= 1 / 512, tf.float32)[..., None]
        mean = tf.reduce_mean(fill, axis=3, keepdims=True)
        return noise * ((1 - share) * strength[0]) - share * (mean + coloured * (fill - mean))

    def found(self, srgb: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
        """What `compose` makes of `parts`, without what is only for defects where there are none: as `srgb`."""
        noise, fill, hidden = self._seen(srgb)
        return tf.cond(
            tf.reduce_any(hidden > np.float32(np.log(_SURE / (1 - _SURE)))),
            lambda: self.compose(srgb, noise, *_unfolded(fill, hidden), strength),
            lambda: noise * strength[0],
        )

    def noisiness(self, places: tf.Tensor) -> tf.Tensor:
        """How much of the noise that is found in a picture is to be taken out, float32 [] in 0..1.

        The network finds a little noise in every picture. Where that is all there is, it is the texture of a sound
        photograph: it stays. Judged once for the whole, so that a picture taken apart shows no seam.

        Args:
          places: float32 [9, H, W, 3], sRGB in 0..1: parts of the picture, see `models.strips.probes`.
        """
        noise, _, _ = self._seen(even(places))
        amounts = tf.sort(tf.abs(tf.reshape(noise, [-1])))
        return tf.clip_by_value(amounts[tf.size(amounts) // 2] / _FAINT - 1.0, 0.0, 1.0)

    def remove(self, image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
        """Cleans one picture of any size, tile by tile.

        Args:
          image: uint8 or uint16 [H, W, 3], sRGB.
          strength: float32 [2], shares of the noise and of the defects that are taken out, 0..1.

        Returns:
          uint16 [H, W, 3].
        """
        top = float(image.dtype.max)
        height, width = tf.shape(image)[0], tf.shape(image)[1]
        rows, columns = (height + _TILE - 1) // _TILE, (width + _TILE - 1) // _TILE

        def tile(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
            y, x = row * _TILE, column * _TILE
            bottom, right = tf.minimum(height, y + _TILE), tf.minimum(width, x + _TILE)
            y0, x0 = tf.maximum(0, y - HALO), tf.maximum(0, x - HALO)
            part = image[y0 : tf.minimum(height, bottom + HALO), x0 : tf.minimum(width, right + HALO)]
            srgb = tf.cast(part, tf.float32) * (1 / top)
            size = tf.shape(part)
            found = self.found(even(srgb[None]), strength)
            clean = srgb - found[0, : size[0], : size[1]]
            inner = clean[y - y0 : bottom - y0, x - x0 : right - x0]
            return tf.cast(tf.clip_by_value(inner, 0.0, 1.0) * 65535.0 + 0.5, tf.uint16)

        def band(row: tf.Tensor) -> tf.Tensor:
            tiles = tf.TensorArray(tf.uint16, size=columns, infer_shape=False, element_shape=[None, None, 3])
            _, tiles = tf.while_loop(
                lambda column, _: column < columns,
                lambda column, done: (column + 1, done.write(column, tf.transpose(tile(row, column), [1, 0, 2]))),
                [tf.constant(0), tiles],
                parallel_iterations=1,
            )
            return tf.transpose(tiles.concat(), [1, 0, 2])

        bands = tf.TensorArray(tf.uint16, size=rows, infer_shape=False, element_shape=[None, None, 3])
        _, bands = tf.while_loop(
            lambda row, _: row < rows,
            lambda row, done: (row + 1, done.write(row, band(row))),
            [tf.constant(0), bands],
            parallel_iterations=1,
        )
        return tf.reshape(bands.concat(), tf.shape(image))


def even(srgb: tf.Tensor) -> tf.Tensor:
    """A batch with its last rows and columns repeated until sides are multiples of 4: float32 [N, H, W, 3]."""
    for axis in (1, 2):
        size = tf.shape(srgb)[axis]
        places = tf.minimum(tf.range(size + (-size) % _FOLD), size - 1)
        srgb = tf.gather(srgb, places, axis=axis)
    return srgb


def _unfolded(fill: tf.Tensor, hidden: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What to paint, float32 [N, H, W, 3], and logits of defects, [N, H, W], of what `Detail._seen` gives folded."""
    return tf.nn.depth_to_space(fill, _FOLD), tf.nn.depth_to_space(hidden, _FOLD)[..., 0]


def _bands(picture: tf.Tensor) -> list[tf.Tensor]:
    """`BANDS` bands of details, from fine to coarse: float32 [N, H, W, 3] each. What is left over is no detail."""
    bands = []
    for level in range(BANDS):
        step = 2**level
        # Sums of whole planes: what costs is how often memory is passed over.
        rows = tf.concat([picture[:, :1]] * step + [picture] + [picture[:, -1:]] * step, axis=1)
        summed = tf.add_n([rows[:, : -2 * step], picture, picture, rows[:, 2 * step :]])
        columns = tf.concat([summed[:, :, :1]] * step + [summed] + [summed[:, :, -1:]] * step, axis=2)
        smooth = tf.add_n([columns[:, :, : -2 * step], summed, summed, columns[:, :, 2 * step :]]) * (1 / 16)
        bands.append(picture - smooth)
        picture = smooth
    return bands


def _shrunk(bands: list[tf.Tensor], shares: tf.Tensor) -> tf.Tensor:
    """The share of each band that is noise, summed, in sRGB: float32 [N, H, W, 3].

    Args:
      bands: See `_bands`, of what `_APART` makes of sRGB.
      shares: float32 [N, H/2, W/2, 9], one for each plane of each band and 2 x 2 pixels.
    """
    size = tf.shape(bands[0])
    rows, twice = [size[0], size[1] // 2, 2, 3 * size[2]], [size[0], size[1] // 2, 1, 3 * size[2]]
    taken = []
    for band, planes in zip(bands, tf.split(shares, BANDS, axis=3), strict=True):
        # Row by row, as rows are what lies together in memory: two pixels, and then two rows, have the same share.
        taken.append(tf.reshape(band, rows) * tf.reshape(tf.concat([planes, planes], axis=3), twice))
    return tf.reshape(tf.reshape(tf.add_n(taken), [-1, 3]) @ _JOINED, size)
