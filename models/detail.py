"""Takes out noise, scratches, dust and JPEG artefacts at full resolution, before colours are corrected.

Noise is removed by shrinking an undecimated wavelet transform (the "a trous" algorithm, Starck & Murtagh 2002), in
lightness and in colour apart; by how much, at each place, a shallow network decides. A network that has to bring forth
the noise itself, as in DnCNN, needs many times the channels: with these few it finds none. The picture is folded 2 x 2
into channels as in FFDNet (Zhang et al. 2018).

There is no normalisation and no pooling, so what it does to a pixel depends on the pixels within `HALO` and nothing
else: a picture taken apart into tiles with that margin comes out the same.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from models.contract import HALO

BANDS = 3
"""Of the wavelet transform: details of 1, 2 and 4 pixels."""

_LOUDER = 8.0  # noise is a few hundredths of the range: what the network sees of it should be as large as the rest
_RELUCTANT = 3.0  # an untrained network leaves nearly everything as it is

_SURE = 0.95
"""Probability of a defect from which it is painted over."""

_FAINT = 0.0012
"""Median of the noise that is found, in 0..1, up to which none is taken out; from twice as much all is."""

_TILE = 512  # side of a tile, in pixels; temporaries are about 25 MB


class Detail(keras.Model):
    """Finds what is to be taken out, and where defects hide the picture.

    Noise is subtracted everywhere; where a defect is found, the picture is painted over from its surroundings instead.

    Args:
      width: Channels.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__(name="detail")
        # Five layers reach 5 folded pixels, so 10 pixels of the picture and one more for the folding; the finest band
        # that they see reaches one more.
        self.convolutions = [
            layers.Conv2D(
                width, 3, padding="same", activation="leaky_relu", kernel_initializer="he_normal", name=f"layer{index}"
            )
            for index in range(4)
        ]
        small = keras.initializers.RandomNormal(stddev=1e-2)
        self.last = layers.Conv2D(16 + 2 * BANDS, 3, padding="same", kernel_initializer=small, name="last")

    def silence(self) -> None:
        """Makes it find nothing: for a training that leaves it out."""
        kernel, bias = self.last.kernel, self.last.bias
        kernel.assign(tf.zeros_like(kernel))
        bias.assign([0.0] * 12 + [-16.0] * (4 + 2 * BANDS))  # nothing painted over, defects nowhere, no band shrunk

    def parts(self, srgb: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Looks at a batch of pictures or tiles.

        Args:
          srgb: float32 [N, H, W, 3] in 0..1; H and W even.

        Returns:
          Noise to subtract, what to paint over defects with (both float32 [N, H, W, 3]), and logits that a pixel is
          hidden by a defect, float32 [N, H, W].
        """
        bands = _bands(srgb)
        x = tf.nn.space_to_depth(tf.concat([srgb - 0.5, _LOUDER * bands[0]], axis=3), 2)
        for convolution in self.convolutions:
            x = convolution(x)
        x = self.last(x)
        fill, hidden, shrunk = tf.split(x, [12, 4, 2 * BANDS], axis=3)
        shares = tf.repeat(tf.repeat(tf.sigmoid(shrunk - _RELUCTANT), 2, axis=1), 2, axis=2)
        lightness, first, second = 0.0, 0.0, 0.0
        for index, band in enumerate(bands):
            lightness += shares[..., index] * (0.25 * band[..., 0] + 0.5 * band[..., 1] + 0.25 * band[..., 2])
            first += shares[..., BANDS + index] * (band[..., 0] - band[..., 1])
            second += shares[..., BANDS + index] * (band[..., 2] - band[..., 1])
        green = lightness - 0.25 * (first + second)
        noise = tf.stack([green + first, green, green + second], axis=3)
        return noise, srgb + tf.nn.depth_to_space(fill, 2), tf.nn.depth_to_space(hidden, 2)[..., 0]

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
        found = (1 - share) * strength[0] * noise + share * (srgb - fill)
        # A black-and-white picture must not come back tinted: grey pixels stay grey.
        spread = tf.reduce_max(srgb, axis=3, keepdims=True) - tf.reduce_min(srgb, axis=3, keepdims=True)
        return tf.where(spread < 1 / 512, tf.reduce_mean(found, axis=3, keepdims=True), found)

    def noisiness(self, places: tf.Tensor) -> tf.Tensor:
        """How much of the noise that is found in a picture is to be taken out, float32 [] in 0..1.

        The network finds a little noise in every picture. Where that is all there is, it is the texture of a sound
        photograph: it stays. Judged once for the whole, so that a picture taken apart shows no seam.

        Args:
          places: float32 [9, H, W, 3], sRGB in 0..1: parts of the picture, see `models.strips.probes`.
        """
        odd = tf.shape(places)[1:3] % 2
        noise, _, _ = self.parts(tf.pad(places, [[0, 0], [0, odd[0]], [0, odd[1]], [0, 0]], "SYMMETRIC"))
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
            odd = [[0, size[0] % 2], [0, size[1] % 2], [0, 0]]
            even = tf.pad(srgb, odd, "SYMMETRIC")[None]
            found = self.compose(even, *self.parts(even), strength)
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


def _bands(srgb: tf.Tensor) -> list[tf.Tensor]:
    """`BANDS` planes of details, from fine to coarse: float32 [N, H, W, 3] each. What is left over is no detail."""
    bands = []
    for level in range(BANDS):
        smooth = srgb
        for axis in (1, 2):
            size, step = tf.shape(srgb)[axis], 2**level
            places = tf.range(size)
            before = tf.gather(smooth, tf.maximum(places - step, 0), axis=axis)
            after = tf.gather(smooth, tf.minimum(places + step, size - 1), axis=axis)
            smooth = 0.5 * smooth + 0.25 * (before + after)
        bands.append(srgb - smooth)
        srgb = smooth
    return bands
