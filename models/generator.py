"""The generator's networks: one decides how a print is corrected, one how a grey print is coloured.

Both decide at low resolution and never touch full-size pixels: what they return are the coefficients that
`models.correction` applies, and how sure they are. Caption and palette speak through FiLM (Perez et al. 2018): scale
and shift of feature channels. Where colours go is asked of the caption's words by attention (Vaswani et al. 2017).

Measured colour outranks text: what the caption may say to the correction is scaled by how little colour is left in the
picture (`listening`), a rule and not a habit that training might or might not acquire.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from models import words
from models.colour import LUMINANCE, MAX_DENSITY, density_table
from models.contract import DAMAGE_CLASSES, SIGHT
from models.correction import FIELD, GRID, LEVELS, SEGMENTS, Coefficients
from models.eyes import Eyes
from models.statistics import code_shares

CELLS = 32
"""Side of the confidence map, in cells."""

_CONDITION = 48

_QUANTILES = np.array([0.002, 0.005, 0.02, 0.1, 0.5, 0.9, 0.98, 0.995, 0.998], np.float32)
"""Shares of the pixels that are darker."""

_WHITE = 7
"""The quantile that counts as paper white, as for `transforms.baselines.stretch`."""

_HOLD = 0.01
"""Ridge of `fit_matrix`: as much as a hundredth of the places at weight 1."""

_HOLD_FIELD = 1e-3
"""Ridge of `fit_field`."""


class Decision(NamedTuple):
    """What the networks make of a batch of N pictures.

    Attributes:
      coefficients: See `models.correction`. `chroma` is what the colouriser would add to a picture without colour,
        whether or not this one has any; `detail` is 1, 1.
      log_error: float32 [N], natural logarithm of the mean colour error (CIE94) it expects of its own result.
      log_untouched: float32 [N], the same of the input left as it is.
      log_invented: float32 [N], the same of its result with invented colours, were the input grey.
      log_error_map: float32 [N, 32, 32], the expected error of the corrected picture by place.
      damage: float32 [N, 7], logits, in the order of `DAMAGE_CLASSES`.
      grey: float32 [N], 1 for a picture without colour of its own, 0 for one with some; see `colourless`.
      guess: float32 [N, 16, 16, 3], the density that each place would have in a sound print, guessed by what is there.
    """

    coefficients: Coefficients
    log_error: Any
    log_untouched: Any
    log_invented: Any
    log_error_map: Any
    damage: Any
    grey: Any
    guess: Any


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts that can be switched off, to measure what each brings (`docs/model-card.md` has the table).

    Attributes:
      curves: The monotone curves; without them a matrix alone.
      field: Corrections that differ over the picture.
      statistics: What `models.statistics` measures; without it the convolutions alone.
      guess: What each place should look like; without it what is drawn from all places together.
      picture: All that is seen; without it the statistics alone.
      eyes: What the eyes see; without them the convolutions and colours by place.
      caption: The caption.
      palette: The related pictures.
    """

    curves: bool = True
    field: bool = True
    statistics: bool = True
    guess: bool = True
    picture: bool = True
    eyes: bool = True
    caption: bool = True
    palette: bool = True


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


class Reader(layers.Layer):
    """Caption and palette as vectors: one for the whole, one for each word.

    Words come as fixed vectors (`models.words`), which cover far more words than any training collection; what is
    trained is a linear map of a word and its two neighbours, so that "red door" is more than "red" and "door".
    """

    def __init__(self, channels: int = _CONDITION, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = tf.constant(words.vectors(), tf.float16)  # as it is kept: half the size of the SavedModel
        self.token = layers.Dense(channels, activation="relu", name="token")
        self.palette = layers.Dense(channels, activation="relu", name="palette")

    def call(self, ids: tf.Tensor, weights: tf.Tensor, palette: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads a batch.

        Args:
          ids: int64 [N, T], words; padding has weight 0.
          weights: float32 [N, T], inverse document frequencies.
          palette: float32 [N, 64], sums to 1, or 0 for none.

        Returns:
          Condition float32 [N, 2 K + 2], all zero when there is neither caption nor palette; tokens float32 [N, T, K],
          zero where there is no word; named float32 [N, T, 3]: 1, a* and b* of the colour that a word names or that the
          word before it names ("red door"), else 0.
        """
        there = tf.cast(weights > 0, tf.float32)[..., None]
        vectors = tf.cast(tf.gather(self.table, ids), tf.float32) * there
        padded = tf.pad(vectors, [[0, 0], [1, 1], [0, 0]])
        tokens = self.token(tf.concat([padded[:, :-2], vectors, padded[:, 2:]], axis=2)) * there
        lexicon = tf.gather(padded, [words.COLOUR.start, words.COLOUR.start + 2, words.COLOUR.start + 3], axis=2)
        lexicon *= tf.constant([1.0, 100.0, 100.0])
        own, before = lexicon[:, 1:-1], lexicon[:, :-2]
        named = tf.where(own[..., :1] > 0, own, before) * there
        total = tf.reduce_sum(weights, axis=1, keepdims=True)
        caption = tf.math.divide_no_nan(tf.reduce_sum(tokens * weights[..., None], axis=1), total)
        has_palette = tf.cast(tf.reduce_sum(palette, axis=1, keepdims=True) > 0, tf.float32)
        # Roots: a palette is mostly one or two full cells, and the others matter.
        seen = self.palette(tf.sqrt(palette) * 3.0) * has_palette
        return tf.concat([caption, tf.cast(total > 0, tf.float32), seen, has_palette], axis=1), tokens, named


def listening(left: tf.Tensor) -> tf.Tensor:
    """How much of the caption reaches the correction: 1 without colour in the picture, little with plenty.

    Args:
      left: float32 [N], what `colour_left` measures.

    Returns:
      float32 [N], exp(-left / 0.04): 0.78 at 0.01, 0.08 at 0.1.
    """
    return tf.exp(-left / 0.04)


def colourless(left: tf.Tensor) -> tf.Tensor:
    """1 for a picture without colour of its own (grey, or toned), 0 for one with some, between them a ramp.

    Args:
      left: float32 [N], what `colour_left` measures; JPEG alone leaves 0.003 in a grey picture.

    Returns:
      float32 [N].
    """
    return tf.clip_by_value((0.012 - left) / 0.004, 0.0, 1.0)


def stretched(picture: tf.Tensor) -> tf.Tensor:
    """What the eyes are shown: lightness alone, its range as it is in sound photographs.

    Fading changes colours and contrast; what a picture shows stays the same. So the eyes see neither.

    Args:
      picture: uint8 [N, S, S, 3], sRGB.

    Returns:
      float32 [N, S, S, 3] in 0..1, three times the same.
    """
    luma = tf.reduce_sum(tf.cast(picture, tf.float32) * (LUMINANCE / 255.0), axis=3, keepdims=True)
    mean = tf.reduce_mean(luma, axis=[1, 2], keepdims=True)
    spread = tf.sqrt(tf.reduce_mean((luma - mean) ** 2, axis=[1, 2], keepdims=True))
    level = tf.clip_by_value(0.45 + 0.25 * (luma - mean) / tf.maximum(spread, 0.02), 0.0, 1.0)
    return tf.repeat(level, 3, axis=3)


class Sight(NamedTuple):
    """What there is in a batch of pictures, whatever its colours.

    Attributes:
      middle: float32 [N, 8, 8, 112], features by place.
      deep: float32 [N, 4, 4, 320], likewise, of larger things.
    """

    middle: tf.Tensor
    deep: tf.Tensor


class Seen(layers.Layer):
    """What the eyes see as so many channels by place, the larger things spread over the places they cover."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.middle = layers.Dense(channels, name="middle")
        self.deep = layers.Dense(channels, use_bias=False, name="deep")

    def call(self, sight: Sight) -> tf.Tensor:
        """Gives float32 [N, 8, 8, channels], none below 0."""
        middle, deep = (features * (1 / 20) for features in sight)  # their spread is about 20
        return tf.nn.relu(self.middle(middle) + _doubled(self.deep(deep)))


class Corrector(keras.Model):
    """Decides matrix, field and curves, how sure it is, and what is wrong with the print.

    At each place it joins what is there (the eyes) with the colour it has, and draws what follows for the whole.

    Args:
      width: Channels of the first convolution; the others are multiples.
      dropout: Share of the last features dropped in training.
      parts: What is switched on.
    """

    def __init__(self, width: int, dropout: float, parts: Parts) -> None:
        super().__init__(name="corrector")
        self.parts = parts
        self.reader = Reader(name="reader")
        self.statistics = layers.Dense(128, name="statistics")
        self.ends = layers.Dense(128, use_bias=False, kernel_initializer="zeros", name="ends")
        self.white = layers.Dense(
            1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(-4.0), name="white"
        )
        # The picture is folded 2 x 2 into channels: every pixel is seen, at a quarter of the cost.
        self.stem = layers.Conv2D(width, 3, padding="same", activation="relu", name="stem")
        self.down = [
            layers.Conv2D(channels, 3, strides=2, padding="same", activation="relu", name=f"down{index}")
            for index, channels in enumerate((width + width // 2, 2 * width))
        ]
        self.films = [Film(channels, name=f"film{index}") for index, channels in enumerate((width * 3 // 2, 2 * width))]
        self.seen = Seen(2 * width, name="seen")
        self.join = [layers.Dense(4 * width, activation="relu", name=f"join{index}") for index in range(2)]
        self.blind = layers.SpatialDropout2D(dropout / 2, name="blind")
        self.local = layers.Conv2D(1, 3, padding="same", name="local")
        self.field = layers.Conv2D(1, 3, padding="same", name="field")
        self.dropout = layers.Dropout(dropout)
        self.hidden = layers.Dense(128, activation="relu", name="hidden")
        self.film_hidden = Film(128, name="film_hidden")
        small = keras.initializers.RandomNormal(stddev=1e-3)
        self.colour = layers.Dense(24 + 3 * SEGMENTS, kernel_initializer=small, name="colour")
        self.guess = layers.Dense(64, activation="relu", name="guess")
        self.guessed = layers.Dense(3, kernel_initializer=small, name="guessed")
        self.weigh = layers.Dense(
            1, kernel_initializer=small, bias_initializer=keras.initializers.Constant(-3.0), name="weigh"
        )
        self.strength = layers.Dense(
            1, kernel_initializer=small, bias_initializer=keras.initializers.Constant(1.0), name="strength"
        )
        # What the error heads see does not flow back: they must not bend the decision to please themselves.
        self.judge = layers.Dense(64, activation="relu", name="judge")
        self.errors = layers.Dense(2, name="errors")
        self.damage = layers.Dense(len(DAMAGE_CLASSES), name="damage")

    def call(
        self,
        picture: tf.Tensor,
        sight: Sight,
        left: tf.Tensor,
        statistics_z: tf.Tensor,
        ids: tf.Tensor,
        weights: tf.Tensor,
        palette: tf.Tensor,
        training: bool = False,
    ) -> Any:
        """See `Generator.call`; `sight` is what the eyes see in `picture`. Returns its decision without `chroma`."""
        parts = self.parts
        heard = weights if parts.caption else tf.zeros_like(weights)
        condition, _, _ = self.reader(ids, heard, palette if parts.palette else tf.zeros_like(palette))
        width = condition.shape[-1] // 2
        condition = tf.concat([condition[:, :width] * listening(left)[:, None], condition[:, width:]], axis=1)
        density = tf.gather(tf.constant(density_table(256)), tf.cast(picture, tf.int32))
        density = tf.nn.avg_pool2d(tf.ensure_shape(density, [None, SIGHT, SIGHT, 3]), 2, 2, "VALID")  # 64 x 64
        x = self.stem(tf.nn.space_to_depth(density / MAX_DENSITY - 0.25, 2))  # 32 x 32
        local = self.local(tf.stop_gradient(x))[..., 0]
        middle = x = self.films[0](self.down[0](x), condition)  # 16 x 16
        x = self.films[1](self.down[1](x), condition)  # 8 x 8
        there = self.blind(self.seen(sight) * float(parts.eyes), training=training)
        x = tf.concat([x, there, _by_place(density)], axis=3)
        for join in self.join:
            x = join(x)
        seen = tf.concat([_summary(x), tf.reduce_mean(middle, axis=[1, 2])], axis=1) * float(parts.picture)
        quantiles = density_quantiles(picture)
        known = self.statistics(tf.clip_by_value(statistics_z, -6.0, 6.0)) + self.ends(_centred(quantiles))
        known = tf.nn.relu(known) * float(parts.statistics)
        features = self.dropout(tf.concat([seen, known], axis=1), training=training)
        hidden = self.film_hidden(self.hidden(features), condition)
        grey = colourless(left)
        strength = tf.sigmoid(self.strength(hidden))[:, :, None]  # [N, 1, 1]
        raw = self.colour(hidden)
        cells = tf.nn.avg_pool2d(density, 4, 4, "VALID")  # 16 x 16
        places = self.guess(tf.concat([_doubled(x), middle, cells], axis=3))
        guess = cells + self.guessed(places)
        counts = tf.nn.softplus(self.weigh(places)) * float(parts.guess and parts.picture)
        whitened = tf.sigmoid(self.white(hidden)) * quantiles[:, :, _WHITE] * float(parts.statistics)  # [N, 3]
        prior = tf.reshape(raw[:, :12], [-1, 3, 4])
        prior = tf.concat([prior[..., :3], prior[..., 3:] - whitened[..., None]], axis=2)
        fitted = fit_matrix(cells, guess, counts, prior)
        uneven = fit_field(cells, guess, counts, fitted, tf.reshape(raw[:, 12:24], [-1, 3, 4]))
        raw = tf.concat([tf.reshape(fitted, [-1, 12]), raw[:, 12:]], axis=1)
        field = tf.tanh(self.field(x)[..., 0] + uneven) * float(parts.picture)
        field -= tf.reduce_mean(field, axis=[1, 2], keepdims=True)  # a mean is M's business
        coefficients = self._coefficients(raw, strength, field, grey)
        errors = self.errors(self.judge(tf.stop_gradient(tf.concat([features, hidden], axis=1))))
        return Decision(
            coefficients=coefficients,
            log_error=errors[:, 0],
            log_untouched=errors[:, 1],
            log_invented=None,
            log_error_map=local + errors[:, :1, None],
            damage=self.damage(hidden),
            grey=grey,
            guess=guess,
        )

    def _coefficients(self, raw: tf.Tensor, strength: tf.Tensor, field: tf.Tensor, grey: tf.Tensor) -> Coefficients:
        """Matrix and curves as a deviation from the identity, scaled by one strength in 0..1."""
        parts, count = self.parts, tf.shape(raw)[0]
        matrix = tf.eye(3, 4) + strength * tf.reshape(raw[:, :12], [-1, 3, 4])
        slope = strength * tf.reshape(raw[:, 12:24], [-1, 3, 4]) * float(parts.field)
        # Slopes between e^-1.5 and e^1.5 keep every curve monotone, and no tone stretched past what 8 bits can bear.
        # A slope of 1 throughout is the identity.
        bent = tf.reshape(raw[:, 24:], [-1, 3, SEGMENTS]) * float(parts.curves)
        slopes = tf.exp(strength * 1.5 * tf.tanh(bent))
        curves = tf.concat([tf.zeros_like(slopes[..., :1]), tf.cumsum(slopes, axis=-1)], axis=-1) * (
            MAX_DENSITY / SEGMENTS
        )
        # A black-and-white picture must not come back tinted.
        held = grey[:, None, None]
        return Coefficients(
            matrix=(1 - held) * matrix + held * neutral_matrix(matrix),
            slope=(1 - held) * slope + held * (neutral_matrix(slope)),
            field=field,
            curves=(1 - held) * curves + held * tf.reduce_mean(curves, axis=1, keepdims=True),
            chroma=tf.zeros([count, GRID, GRID, LEVELS, 2]),
            detail=tf.ones([count, 2]),
        )


def density_quantiles(picture: tf.Tensor) -> tf.Tensor:
    """Where each channel begins and ends: the densities that stated shares of the pixels are above.

    What a stretch of the channels goes by; `models.statistics` counts shares at fixed densities, and hardly sees the
    few pixels that are a picture's whites and blacks.

    Args:
      picture: uint8 [N, h, w, 3], sRGB.

    Returns:
      float32 [N, 3, 9], densities; see `_QUANTILES`.
    """
    below = tf.cumsum(code_shares(picture), axis=1)[:, None, :] < tf.constant(_QUANTILES)[:, None]  # [3 N, 9, 256]
    codes = tf.minimum(tf.reduce_sum(tf.cast(below, tf.int32), axis=2), 255)
    return tf.reshape(tf.gather(tf.constant(density_table(256)), codes), [-1, 3, len(_QUANTILES)])


def _centred(quantiles: tf.Tensor) -> tf.Tensor:
    """Around 0 and of like spread, float32 [N, 3, 9] to [N, 27]."""
    typical = [2.2, 2.0, 1.7, 1.2, 0.55, 0.15, 0.06, 0.03, 0.02]
    scales = [1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 6.0, 6.0, 6.0]
    centred = tf.clip_by_value((quantiles - tf.constant(typical)) * tf.constant(scales), -4.0, 4.0)
    return tf.reshape(centred, [-1, 3 * len(_QUANTILES)])


def fit_matrix(seen: tf.Tensor, guess: tf.Tensor, weights: tf.Tensor, prior: tf.Tensor) -> tf.Tensor:
    """The matrix that takes what is seen to what was guessed, by weighted least squares drawn towards a prior.

    A single guess may be wrong by much; what fades a print fades all of it alike: many guesses together tell how.

    Args:
      seen: float32 [N, h, w, 3], density by place.
      guess: float32 [N, h, w, 3], density it should have.
      weights: float32 [N, h, w, 1], how much each place counts, from 0.
      prior: float32 [N, 3, 4], the deviation from the identity where nothing counts.

    Returns:
      float32 [N, 3, 4], deviation from the identity.
    """
    places = seen.shape[1] * seen.shape[2]
    flat = tf.reshape(seen, [-1, places, 3])
    terms = tf.concat([flat, tf.ones_like(flat[..., :1])], axis=2)
    missed = tf.reshape(guess, [-1, places, 3]) - flat - tf.matmul(terms, prior, transpose_b=True)
    weighted = terms * tf.reshape(weights, [-1, places, 1]) / places
    normal = tf.matmul(weighted, terms, transpose_a=True) + _HOLD * tf.eye(4)
    step = tf.linalg.solve(normal, tf.matmul(weighted, missed, transpose_a=True))
    return prior + tf.transpose(step, [0, 2, 1])


def fit_field(seen: tf.Tensor, guess: tf.Tensor, weights: tf.Tensor, matrix: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """How far each part of the picture lies along a second matrix from what one matrix can do, by least squares.

    Args:
      seen: float32 [N, 16, 16, 3], see `fit_matrix`.
      guess: float32 [N, 16, 16, 3].
      weights: float32 [N, 16, 16, 1].
      matrix: float32 [N, 3, 4], what `fit_matrix` gave.
      slope: float32 [N, 3, 4], the second matrix.

    Returns:
      float32 [N, FIELD, FIELD], smoothed over the neighbours; 0 where nothing counts.
    """
    terms = tf.concat([seen, tf.ones_like(seen[..., :1])], axis=3)
    missed = guess - seen - tf.einsum("nhwk,ndk->nhwd", terms, matrix)
    moved = tf.einsum("nhwk,ndk->nhwd", terms, slope)
    sums = weights * tf.stack([tf.reduce_sum(moved * missed, axis=3), tf.reduce_sum(moved * moved, axis=3)], axis=3)
    side = seen.shape[1] // FIELD
    sums = tf.nn.avg_pool2d(sums, side, side, "VALID")
    for _ in range(2):
        sums = tf.nn.avg_pool2d(sums, 3, 1, "SAME")
    return sums[..., 0] / (sums[..., 1] + _HOLD_FIELD)


def _doubled(x: tf.Tensor) -> tf.Tensor:
    """Twice the rows and columns, each repeated."""
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


def _by_place(density: tf.Tensor) -> tf.Tensor:
    """Mean and spread of density in 8 x 8 places: float32 [N, S, S, 3] to [N, 8, 8, 6], centred."""
    side = density.shape[1] // 8
    mean = tf.nn.avg_pool2d(density, side, side, "VALID")
    square = tf.nn.avg_pool2d(density**2, side, side, "VALID")
    return tf.concat([mean - 0.7, tf.sqrt(tf.nn.relu(square - mean**2) + 1e-5)], axis=3)


def _summary(x: tf.Tensor) -> tf.Tensor:
    """Mean and spread over all places: float32 [N, h, w, C] to [N, 2 C]."""
    mean = tf.reduce_mean(x, axis=[1, 2])
    return tf.concat([mean, tf.sqrt(tf.reduce_mean((x - mean[:, None, None, :]) ** 2, axis=[1, 2]) + 1e-6)], axis=1)


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


class Colouriser(keras.Model):
    """Decides which colours a picture without any might have had; it sees luminance, caption and palette only.

    Args:
      width: Channels of the first convolution; the others are multiples.
      dropout: Share of channels dropped in training.
      parts: What is switched on.
    """

    def __init__(self, width: int, dropout: float, parts: Parts) -> None:
        super().__init__(name="colouriser")
        self.parts = parts
        self.reader = Reader(name="reader")
        self.stem = layers.Conv2D(width, 3, padding="same", activation="relu", name="stem")
        self.down = [
            layers.Conv2D(channels, 3, strides=2, padding="same", activation="relu", name=f"down{index}")
            for index, channels in enumerate((2 * width, 2 * width))
        ]
        self.seen = Seen(2 * width, name="seen")
        self.blind = layers.SpatialDropout2D(dropout)
        self.deep = layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="deep")
        self.film_whole = Film(2 * width, name="film_whole")
        self.film_place = Film(2 * width, name="film_place")
        self.whole = layers.Dense(2 * width, name="whole")
        self.query = layers.Dense(_CONDITION, name="query")
        self.key = layers.Dense(_CONDITION, name="key")
        self.value = layers.Dense(2 * width, use_bias=False, kernel_initializer="zeros", name="value")
        self.dropout = layers.SpatialDropout2D(dropout)
        self.join = layers.Dense(width, activation="relu", name="join")
        self.mix = layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="mix")
        small = keras.initializers.RandomNormal(stddev=1e-2)
        self.colour = layers.Dense(2 * LEVELS, kernel_initializer=small, name="colour")
        self.trust = layers.Dense(1, bias_initializer=keras.initializers.Constant(-1.0), name="trust")
        self.global_colour = layers.Dense(2 * LEVELS, kernel_initializer=small, name="global_colour")
        self.judge = layers.Dense(32, activation="relu", name="judge")
        self.error = layers.Dense(1, name="error")

    def call(
        self,
        luminance: tf.Tensor,
        sight: Sight,
        ids: tf.Tensor,
        weights: tf.Tensor,
        palette: tf.Tensor,
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Decides for a batch.

        Args:
          luminance: float32 [N, 128, 128], density of the grey picture, 0..MAX_DENSITY.
          sight: What the eyes see in it.
          ids: int64 [N, T], see `Reader`.
          weights: float32 [N, T].
          palette: float32 [N, 64].
          training: Whether dropout is active.

        Returns:
          Chroma float32 [N, GRID, GRID, LEVELS, 2], and the logarithm of the error it expects, float32 [N].
        """
        parts = self.parts
        condition, tokens, named = self.reader(
            ids,
            weights if parts.caption else tf.zeros_like(weights),
            palette if parts.palette else tf.zeros_like(palette),
        )
        level = tf.ensure_shape(luminance, [None, SIGHT, SIGHT])[..., None] / MAX_DENSITY - 0.25
        level = tf.nn.avg_pool2d(level, 2, 2, "VALID")
        axis = tf.linspace(-1.0, 1.0, SIGHT // 4)
        high = tf.tile(axis[None, :, None, None], [tf.shape(level)[0], 1, SIGHT // 4, 1])  # sky is above
        x = self.stem(tf.concat([tf.nn.space_to_depth(level, 2), high], axis=3))  # 32 x 32
        place = self.down[0](x)  # 16 x 16
        there = self.blind(self.seen(sight) * float(parts.eyes), training=training)
        far = tf.cast(self.down[1](place), tf.float32)  # bfloat16 in half precision
        x = self.deep(tf.concat([far, there], axis=3))  # 8 x 8
        whole = tf.nn.relu(self.film_whole(self.whole(tf.reduce_mean(x, axis=[1, 2])), condition))
        place = self.join(tf.concat([place, _doubled(x)], axis=3))
        place = self.dropout(place, training=training)
        # Each cell asks the words; one more "word", 0, stands for none of them.
        query = self.query(place)
        keys = self.key(tf.pad(tokens, [[0, 0], [1, 0], [0, 0]]))
        scores = tf.einsum("nhwk,ntk->nhwt", query, keys) / np.sqrt(_CONDITION)
        there = tf.pad(tf.cast(tf.reduce_any(tokens != 0, axis=2), tf.float32), [[0, 0], [1, 0]], constant_values=1.0)
        shares = tf.nn.softmax(scores - 1e4 * (1 - there)[:, None, None, :], axis=3)
        heard = tf.einsum("nhwt,ntc->nhwc", shares[..., 1:], self.value(tokens))
        place = self.film_place(self.mix(place), condition) + heard + whole[:, None, None, :]
        place = tf.nn.relu(place)
        ab = 10.0 * (self.colour(place) + self.global_colour(whole)[:, None, None, :])
        ab = tf.reshape(ab, [-1, GRID, GRID, LEVELS, 2])
        # A colour that the caption names is handed on as it is, as far as the place can be trusted to be meant.
        meant = tf.einsum("nhwt,ntc->nhwc", shares[..., 1:], named[..., 1:]) * tf.sigmoid(self.trust(place))
        chroma = 70.0 * tf.tanh((ab + meant[:, :, :, None, :]) / 70.0)
        seen = tf.stop_gradient(tf.concat([whole, tf.reduce_mean(place, axis=[1, 2]), condition], axis=1))
        return chroma, self.error(self.judge(seen))[:, 0]


class Generator(keras.Model):
    """Both networks. Weights only: signatures and preprocessing are added in `models.export`.

    Args:
      width: Channels of the first convolution of the corrector.
      colour_width: The same of the colouriser.
      dropout: Share of the last features dropped in training.
      parts: What is switched on.
    """

    def __init__(
        self, width: int = 48, colour_width: int = 32, dropout: float = 0.4, parts: Parts | None = None
    ) -> None:
        super().__init__(name="generator")
        parts = parts or Parts()
        self.eyes = Eyes(name="eyes")
        self.corrector = Corrector(width, dropout, parts)
        self.colouriser = Colouriser(colour_width, dropout / 2, parts)

    def call(
        self,
        picture: tf.Tensor,
        left: tf.Tensor,
        statistics_z: tf.Tensor,
        ids: tf.Tensor,
        weights: tf.Tensor,
        palette: tf.Tensor,
        training: bool = False,
    ) -> Any:
        """Decides for a batch.

        Args:
          picture: uint8 [N, 128, 128, 3], sRGB: the thumbnail as `models.statistics.view` reduces it.
          left: float32 [N], how much colour the picture has of its own, see `statistics.colour_left`.
          statistics_z: float32 [N, 115], normalised over the training collection by TFT.
          ids: int64 [N, T], see `Reader`.
          weights: float32 [N, T].
          palette: float32 [N, 64].
          training: Whether dropout is active.

        Returns:
          The `Decision` for each picture.
        """
        sight = self.see(picture)
        decision = self.corrector(picture, sight, left, statistics_z, ids, weights, palette, training=training)
        chroma, log_invented = self.colouriser(grey_density(picture), sight, ids, weights, palette, training=training)
        return with_chroma(decision, chroma, log_invented)

    def see(self, picture: tf.Tensor) -> Sight:
        """What there is in pictures, uint8 [N, 128, 128, 3]."""
        return Sight(*self.eyes(stretched(picture)))


def with_chroma(decision: Decision, chroma: tf.Tensor, log_invented: tf.Tensor) -> Decision:
    """The corrector's decision with the colouriser's beside it."""
    return decision._replace(coefficients=decision.coefficients._replace(chroma=chroma), log_invented=log_invented)


def grey_density(picture: tf.Tensor) -> tf.Tensor:
    """Density of a picture's luminance, what the colouriser sees: uint8 [N, h, w, 3] to float32 [N, h, w]."""
    density = tf.gather(tf.constant(density_table(256)), tf.cast(picture, tf.int32))
    return tf.reduce_sum(density * LUMINANCE, axis=-1)
