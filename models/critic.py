"""The critic of the `gan` objective: judges patches of a restored picture, knowing the print and its caption.

A conditional patch critic (Isola et al. 2017) with spectral normalisation (Miyato et al. 2018), hinge loss, and the
caption as a projection (Miyato and Koyama 2018). It sees chroma and tone at the resolution of decisions: what the
generator decides is colour, not texture.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from models.colour import density_table, linear_to_density
from models.contract import VIEW
from models.generator import Reader

_CHANNELS = (32, 64, 96)


class Critic(keras.Model):
    """Scores 8 x 8 overlapping patches of a picture: above 0 true, below 0 made."""

    def __init__(self) -> None:
        super().__init__(name="critic")
        self.reader = Reader(name="reader")
        self.convolutions = [
            layers.SpectralNormalization(layers.Conv2D(channels, 4, strides=2, padding="same", name=f"patch{index}"))
            for index, channels in enumerate(_CHANNELS)
        ]
        self.score = layers.SpectralNormalization(layers.Conv2D(1, 3, padding="same", name="score"))
        self.project = layers.Dense(_CHANNELS[-1], use_bias=False, kernel_initializer="zeros", name="project")

    def call(
        self, picture: tf.Tensor, print_density: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor, training: bool = False
    ) -> Any:
        """Judges a batch.

        Args:
          picture: float32 [N, 64, 64, 3], densities of a true or a restored picture.
          print_density: float32 [N, 64, 64, 3], densities of the faded print.
          ids: int64 [N, T], see `Reader`.
          weights: float32 [N, T].
          training: Whether the spectral norms are updated.

        Returns:
          float32 [N, 8, 8].
        """
        palette = tf.zeros([tf.shape(ids)[0], 64])
        caption, _, _ = self.reader(ids, weights, palette)
        x = tf.ensure_shape(tf.concat([picture, print_density], axis=3), [None, VIEW, VIEW, 6]) - 0.5
        for convolution in self.convolutions:
            x = tf.nn.leaky_relu(convolution(x, training=training), 0.2)
        fits = tf.reduce_sum(x * self.project(caption)[:, None, None, :], axis=3)
        return self.score(x, training=training)[..., 0] + fits

    def critic_loss(
        self, truth: tf.Tensor, restored: tf.Tensor, image: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        """Hinge loss of the critic; `truth` and `restored` are linear light [N, S, S, 3], `image` uint8."""
        given = _density(image)
        real = self(linear_to_density(truth), given, ids, weights, training=True)
        made = self(linear_to_density(restored), given, ids, weights, training=True)
        return tf.reduce_mean(tf.nn.relu(1 - real)) + tf.reduce_mean(tf.nn.relu(1 + made))

    def generator_loss(self, restored: tf.Tensor, image: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """What the generator adds to its loss: minus the critic's mean score of `restored`."""
        return -tf.reduce_mean(self(linear_to_density(restored), _density(image), ids, weights))


def _density(image: tf.Tensor) -> tf.Tensor:
    return tf.gather(tf.constant(density_table(256)), tf.cast(image, tf.int32))
