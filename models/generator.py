"""The generator's network: looks at a thumbnail, its statistics, caption and palette, and decides the correction.

It decides at low resolution and never touches full-size pixels: what it returns are the coefficients that
`models.correction` applies, and how sure it is of them. Caption and palette speak through FiLM (Perez et al. 2018):
scale and shift of feature channels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from models.colour import MAX_DENSITY, density_table
from models.contract import DAMAGE_CLASSES, VIEW
from models.correction import SEGMENTS, identity
from models.words import vectors

CELLS = 32
"""Side of the confidence map and the defect map, in cells."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the network makes of a batch of N pictures.

    Attributes:
      matrix: float32 [N, 3, 4], see `models.correction`.
      curves: float32 [N, 3, SEGMENTS + 1].
      log_error: float32 [N], natural logarithm of the mean colour error (CIE94) it expects of its own result.
      log_error_map: float32 [N, 32, 32], the same by place.
      damage: float32 [N, 7], logits, in the order of `DAMAGE_CLASSES`.
      defects: float32 [N, 32, 32], logits that a cell holds dust or a scratch.
    """

    matrix: Any
    curves: Any
    log_error: Any
    log_error_map: Any
    damage: Any
    defects: Any


class Film(layers.Layer):
    """Scales and shifts the channels of `x` by a linear function of a condition; starts as the identity."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.project = layers.Dense(2 * channels, kernel_initializer="zeros")

    def call(self, x: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        """X is float [N, h, w, C] or [N, C], condition float [N, K]."""
        scale, shift = tf.split(self.project(condition), 2, axis=-1)
        if len(x.shape) == 4:
            scale, shift = scale[:, None, None, :], shift[:, None, None, :]
        return x * (1 + scale) + shift


class Generator(keras.Model):
    """The network. Weights only: signatures and preprocessing are added in `models.export`.

    Args:
      width: Channels of the first convolution; the others are multiples.
      dropout: Share of the last features dropped in training.
    """

    def __init__(self, width: int = 32, dropout: float = 0.4) -> None:
        super().__init__(name="generator")
        # Fixed, and so no weight: half precision, as it is kept, halves the SavedModel.
        self._vectors = tf.constant(vectors(), tf.float16)
        self.words = layers.Dense(32, name="words")
        self.palette = layers.Dense(32, activation="relu", name="palette")
        self.statistics = layers.Dense(64, activation="relu", name="statistics")
        # The picture is folded 2 x 2 into channels: every pixel is seen, at a quarter of the cost.
        self.stem = layers.Conv2D(width, 3, padding="same", activation="relu", name="stem")
        self.down = [
            layers.Conv2D(channels, 3, strides=2, padding="same", activation="relu", name=f"down{index}")
            for index, channels in enumerate((width + width // 2, 2 * width, 3 * width))
        ]
        self.films = [Film(channels, name=f"film{index}") for index, channels in enumerate((2 * width, 3 * width))]
        self.local = layers.Conv2D(2, 3, padding="same", name="local")
        self.dropout = layers.Dropout(dropout)
        self.hidden = layers.Dense(128, activation="relu", name="hidden")
        self.film_hidden = Film(128, name="film_hidden")
        small = keras.initializers.RandomNormal(stddev=1e-3)
        self.colour = layers.Dense(12 + 3 * SEGMENTS, kernel_initializer=small, name="colour")
        self.strength = layers.Dense(
            1, kernel_initializer=small, bias_initializer=keras.initializers.Constant(1.0), name="strength"
        )
        self.error = layers.Dense(1, name="error")
        self.damage = layers.Dense(len(DAMAGE_CLASSES), name="damage")

    def condition(self, ids: tf.Tensor, weights: tf.Tensor, palette: tf.Tensor) -> tf.Tensor:
        """Caption and palette as one vector; all zero when there is neither.

        Args:
          ids: int64 [N, T], words; see `models.words`; padding has weight 0.
          weights: float32 [N, T], inverse document frequencies.
          palette: float32 [N, 64], sums to 1, or 0 for none.

        Returns:
          float32 [N, 66].
        """
        words = self.words(tf.cast(tf.gather(self._vectors, tf.maximum(ids, 0)), tf.float32)) * weights[..., None]
        total = tf.reduce_sum(weights, axis=1, keepdims=True)
        caption = tf.math.divide_no_nan(tf.reduce_sum(words, axis=1), total)
        has_caption = tf.cast(total > 0, tf.float32)
        has_palette = tf.cast(tf.reduce_sum(palette, axis=1, keepdims=True) > 0, tf.float32)
        return tf.concat([caption, self.palette(palette * 8.0) * has_palette, has_caption, has_palette], axis=1)

    def call(
        self,
        picture: tf.Tensor,
        statistics_z: tf.Tensor,
        ids: tf.Tensor,
        weights: tf.Tensor,
        palette: tf.Tensor,
        training: bool = False,
    ) -> Decision:
        """Decides for a batch.

        Args:
          picture: uint8 [N, 128, 128, 3], sRGB: the thumbnail as `models.statistics.view` reduces it.
          statistics_z: float32 [N, 15], density percentiles, normalised over the training collection by TFT.
          ids: int64 [N, T], see `condition`.
          weights: float32 [N, T].
          palette: float32 [N, 64].
          training: Whether dropout is active.

        Returns:
          The decision for each picture.
        """
        condition = self.condition(ids, weights, palette)
        density = tf.gather(tf.constant(density_table(256)), tf.cast(picture, tf.int32))
        density = tf.ensure_shape(density, [None, VIEW, VIEW, 3])
        x = self.stem(tf.nn.space_to_depth(density / MAX_DENSITY - 0.25, 2))  # 64 x 64
        x = self.down[0](x)  # 32 x 32
        local = self.local(x)
        x = self.films[0](self.down[1](x), condition)
        x = self.films[1](self.down[2](x), condition)  # 8 x 8
        mean = tf.reduce_mean(x, axis=[1, 2])
        spread = tf.sqrt(tf.reduce_mean((x - mean[:, None, None, :]) ** 2, axis=[1, 2]) + 1e-6)
        features = tf.concat([mean, spread, self.statistics(tf.clip_by_value(statistics_z, -5.0, 5.0))], axis=1)
        hidden = self.film_hidden(self.hidden(self.dropout(features, training=training)), condition)

        matrix, curves = self._coefficients(hidden, picture)
        log_error = self.error(hidden)[:, 0]
        return Decision(
            matrix=matrix,
            curves=curves,
            log_error=log_error,
            log_error_map=local[..., 0] + log_error[:, None, None],
            damage=self.damage(hidden),
            defects=local[..., 1],
        )

    def _coefficients(self, hidden: tf.Tensor, picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Matrix and curves as a deviation from the identity, scaled by one strength in 0..1."""
        unchanged, _ = identity()
        raw = self.colour(hidden)
        strength = tf.sigmoid(self.strength(hidden))[:, :, None]  # [N, 1, 1]
        matrix = unchanged + strength * tf.reshape(raw[:, :12], [-1, 3, 4])
        # Slopes between e^-1.5 and e^1.5 keep every curve monotone, and no tone stretched past what 8 bits can bear.
        # A slope of 1 throughout is the identity.
        slopes = tf.exp(strength * 1.5 * tf.tanh(tf.reshape(raw[:, 12:], [-1, 3, SEGMENTS])))
        curves = tf.concat([tf.zeros_like(slopes[..., :1]), tf.cumsum(slopes, axis=-1)], axis=-1) * (
            MAX_DENSITY / SEGMENTS
        )
        grey = grey_share(picture)[:, None, None]
        return (1 - grey) * matrix + grey * neutral_matrix(matrix), (1 - grey) * curves + grey * tf.reduce_mean(
            curves, axis=1, keepdims=True
        )


def grey_share(picture: tf.Tensor) -> tf.Tensor:
    """1 for a picture without any colour, 0 for one with some, between them a ramp.

    A black-and-white photograph must not come back tinted. A pixel has colour if its channels differ by more than 4
    code values (JPEG leaves less of a grey picture); up to 1% of such pixels are dust, from 3% on nothing is held back.

    Args:
      picture: uint8 [N, 128, 128, 3].

    Returns:
      float32 [N].
    """
    codes = tf.cast(picture, tf.int32)
    spread = tf.reduce_max(codes, axis=-1) - tf.reduce_min(codes, axis=-1)
    coloured = tf.reduce_mean(tf.cast(spread > 4, tf.float32), axis=[1, 2])
    return tf.clip_by_value((0.03 - coloured) / 0.02, 0.0, 1.0)


def neutral_matrix(matrix: tf.Tensor) -> tf.Tensor:
    """The closest matrix that keeps grey grey: its effect on neutrals, averaged over the three outputs.

    Args:
      matrix: float32 [N, 3, 4].

    Returns:
      float32 [N, 3, 4]: a multiple of the identity and one common offset.
    """
    gain = tf.reduce_mean(tf.reduce_sum(matrix[:, :, :3], axis=2), axis=1)[:, None, None]
    offset = tf.reduce_mean(matrix[:, :, 3], axis=1)[:, None, None]
    return tf.concat([gain * tf.eye(3)[None], tf.tile(offset, [1, 3, 1])], axis=2)
