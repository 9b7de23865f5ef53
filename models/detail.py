"""Takes out noise, scratches, dust and JPEG artefacts at full resolution, before colours are corrected.

A shallow network of convolutions alone (residual learning, DnCNN: Zhang et al. 2017; the picture folded 2 x 2 into
channels as in FFDNet: Zhang et al. 2018). It has no normalisation and no pooling, so what it does to a pixel depends on
the pixels within `HALO` and nothing else: a picture taken apart into tiles with that margin comes out the same.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from models.contract import HALO

_TILE = 512  # side of a tile, in pixels; temporaries are about 25 MB


class Detail(keras.Model):
    """Finds what is to be taken out, and where defects hide the picture.

    Noise is subtracted everywhere; where a defect is found, the picture is painted over from its surroundings instead.

    Args:
      width: Channels.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__(name="detail")
        # Five layers reach 5 folded pixels, so 10 pixels of the picture and one more for the folding.
        self.convolutions = [
            layers.Conv2D(
                width, 3, padding="same", activation="leaky_relu", kernel_initializer="he_normal", name=f"layer{index}"
            )
            for index in range(4)
        ]
        small = keras.initializers.RandomNormal(stddev=1e-2)
        self.last = layers.Conv2D(28, 3, padding="same", kernel_initializer=small, name="last")

    def silence(self) -> None:
        """Makes it find nothing: for a training that leaves it out."""
        kernel, bias = self.last.kernel, self.last.bias
        kernel.assign(tf.zeros_like(kernel))
        bias.assign([0.0] * 24 + [-16.0] * 4)  # no noise, nothing painted over, and defects nowhere

    def parts(self, srgb: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Looks at a batch of pictures or tiles.

        Args:
          srgb: float32 [N, H, W, 3] in 0..1; H and W even.

        Returns:
          Noise to subtract, what to paint over defects with (both float32 [N, H, W, 3]), and logits that a pixel is
          hidden by a defect, float32 [N, H, W].
        """
        folded = tf.nn.space_to_depth(srgb, 2) - 0.5
        x = folded
        for convolution in self.convolutions:
            x = convolution(x)
        x = self.last(x)
        noise, fill, hidden = (tf.nn.depth_to_space(part, 2) for part in tf.split(x, [12, 12, 4], axis=3))
        return noise, srgb + fill, hidden[..., 0]

    def call(self, srgb: tf.Tensor) -> Any:
        """What to subtract in all, float32 [N, H, W, 3], and logits of defects, float32 [N, H, W]; see `parts`."""
        noise, fill, hidden = self.parts(srgb)
        # Painting over begins at a probability of a half: what is probably no defect stays as it is.
        share = tf.clip_by_value(2.0 * tf.sigmoid(hidden) - 1.0, 0.0, 1.0)[..., None]
        found = (1 - share) * noise + share * (srgb - fill)
        # A black-and-white picture must not come back tinted: grey pixels stay grey.
        spread = tf.reduce_max(srgb, axis=3, keepdims=True) - tf.reduce_min(srgb, axis=3, keepdims=True)
        return tf.where(spread < 1 / 512, tf.reduce_mean(found, axis=3, keepdims=True), found), hidden

    def remove(self, image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
        """Cleans one picture of any size, tile by tile.

        Args:
          image: uint8 or uint16 [H, W, 3], sRGB.
          strength: float32 [], 0 leaves it alone, 1 takes out all that was found.

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
            found, _ = self(tf.pad(srgb, odd, "SYMMETRIC")[None])
            clean = srgb - strength * found[0, : size[0], : size[1]]
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
