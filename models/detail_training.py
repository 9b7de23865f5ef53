"""Trains the detail network on pieces of photographs at full resolution, printed, faded and then spoilt.

What it is to take out is what comes after the fading: grain, dust, scratches, JPEG. The fade itself must stay, or the
corrector would be told wrong. Seeded and short: it starts again from nothing where a training was interrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from models.augmentation import Variety, vary
from models.colour import linear_table
from models.degradation import Damage, Damaged, degrade
from models.detail import Detail

_SIDE = 96
_BATCH = 16

PRINT = Damage(clean=0.4, alone=0.0, grain=0.0, scratches=0.0, contrast=0.5)
"""What a print has gone through before the damage that is to be taken out."""

SPOIL = Damage(
    clean=0.35,
    fade=0.0,
    stain=0.0,
    cast=0.0,
    contrast=0.0,
    monochrome=0.0,
    grain=0.7,
    grain_density=0.08,
    grain_size=0.4,
    scratches=0.5,
    scratch_width=1.6,
    jpeg=0.5,
)
"""The damage that is to be taken out."""


@dataclasses.dataclass(frozen=True)
class DetailSettings:
    """How the detail network is trained.

    Attributes:
      steps: Batches of 16 pieces; 0 for a network that finds nothing.
      pool: Batches of pieces that are spoilt beforehand and drawn from.
      rate: Peak learning rate; falls along a cosine.
      noise: Weight of what noise is left.
      whole: Weight of the error that is left when noise is subtracted and defects are painted over.
      fill: Weight of the error of what defects are painted over with.
      defects: Weight of the defect map's cross-entropy.
    """

    steps: int = dataclasses.field(default=8000, metadata={"least": 0})
    pool: int = 450
    rate: float = 3e-3
    noise: float = 50.0
    whole: float = 50.0
    fill: float = 0.2
    defects: float = 0.5


def spoiled(pieces: tf.Tensor, seed: tf.Tensor) -> tuple[Damaged, tf.Tensor]:
    """A batch as the network meets it.

    Args:
      pieces: uint8 [N, S, S, 3], sound photographs.
      seed: int32 [2].

    Returns:
      The spoilt prints, and what they were before: float32 [N, S, S, 3], sRGB in 0..1.
    """
    linear = vary(tf.gather(tf.constant(linear_table(256)), tf.cast(pieces, tf.int32)), seed, Variety(mosaic=0.0))
    first = degrade(linear, seed, PRINT).image
    again = degrade(tf.gather(tf.constant(linear_table(256)), tf.cast(first, tf.int32)), seed + 1, SPOIL)
    return again, tf.cast(first, tf.float32) / 255.0


def _charbonnier(error: tf.Tensor) -> tf.Tensor:
    """Absolute but for the smallest errors, so that a sound picture is best left exactly as it is."""
    return tf.sqrt(error**2 + 3.6e-5) - 0.006


class _Trainer:
    def __init__(self, detail: Detail, settings: DetailSettings) -> None:
        self._detail, self._settings = detail, settings
        detail(tf.zeros([1, _SIDE, _SIDE, 3]))
        schedule = keras.optimizers.schedules.CosineDecay(settings.rate, max(1, settings.steps), alpha=0.02)
        self._optimizer = keras.optimizers.Adam(schedule, clipnorm=1.0)
        self._optimizer.build(detail.trainable_variables)

    @tf.function(reduce_retracing=True)
    def step(self, image: tf.Tensor, truth: tf.Tensor, defects: tf.Tensor) -> tf.Tensor:
        """One batch of uint8 pictures; returns how much squared error is left, and how much it was."""
        image, truth = (tf.cast(codes, tf.float32) / 255.0 for codes in (image, truth))
        hides = tf.cast(defects, tf.float32)
        with tf.GradientTape() as tape:
            # Each part learns from where it counts: together, the few large errors of defects drown the noise. The
            # whole counts once more, so that painting over is chosen only where it is better than what is there.
            noise, fill, logits = self._detail.parts(image)
            found = self._detail.compose(image, noise, fill, logits, tf.ones([2]))
            defect = hides[..., None]
            left = tf.reduce_mean((1 - defect) * _charbonnier(image - noise - truth))
            painted = tf.reduce_sum(defect * _charbonnier(image + fill - truth)) / (tf.reduce_sum(defect) + 100.0)
            hidden = tf.nn.sigmoid_cross_entropy_with_logits(hides, logits)
            loss = (
                self._settings.noise * left
                + self._settings.whole * tf.reduce_mean(_charbonnier(image - found - truth))
                + self._settings.fill * painted
                + self._settings.defects * tf.reduce_mean(hidden)
            )
        variables = self._detail.trainable_variables
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        return tf.stack([tf.reduce_mean((image - found - truth) ** 2), tf.reduce_mean((image - truth) ** 2)])


def _halved(maps: tf.Tensor) -> tf.Tensor:
    """Means of 2 x 2 pixels: float32 [N, S, S, C] to [N, S/2, S/2, C]."""
    return tf.nn.avg_pool2d(maps, 2, 2, "VALID")


@tf.function
def _spoilt(pieces: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Spoilt pictures, what they were, and their defects, all uint8; pieces of twice the side are halved after it."""
    damaged, truth = spoiled(pieces, seed)
    image, truth, defects = tf.cast(damaged.image, tf.float32), truth * 255.0, damaged.defects
    if pieces.shape[1] > _SIDE:
        image, truth, defects = _halved(image), _halved(truth), _halved(defects[..., None])[..., 0]
    return tuple(tf.cast(tf.floor(values + 0.5), tf.uint8) for values in (image, truth, defects))


def _pool(pieces: np.ndarray, batches: int, draws: np.random.Generator, seed: int) -> tuple[np.ndarray, ...]:
    """Spoilt pictures, what they were, and their defects, all uint8: [M, 96, 96, 3] twice, and [M, 96, 96].

    Spoiling costs several times a step of training, so each picture is used several times. Every third batch is spoilt
    at twice the size and halved: `decide` looks for defects in the thumbnail, where they are fainter and finer.
    """
    pools: tuple[list[np.ndarray], ...] = ([], [], [])
    for batch in range(batches):
        side = _SIDE if batch % 3 else 2 * _SIDE
        chosen = pieces[draws.integers(0, len(pieces), _BATCH)]
        places = draws.integers(0, pieces.shape[1] - side + 1, (_BATCH, 2))
        cut = np.stack([piece[y : y + side, x : x + side] for piece, (y, x) in zip(chosen, places, strict=True)])
        for pool, made in zip(pools, _spoilt(tf.constant(cut), tf.constant([seed, batch])), strict=True):
            pool.append(made.numpy())
    return tuple(np.concatenate(pool) for pool in pools)


def train_detail(
    detail: Detail, pieces: np.ndarray, settings: DetailSettings, seed: int, say: Callable[[str], None]
) -> None:
    """Trains in place.

    Args:
      detail: The network.
      pieces: uint8 [M, PIECE, PIECE, 3], see `models.records.read_pieces`.
      settings: See `DetailSettings`.
      seed: Of everything.
      say: Told one line now and then.
    """
    trainer, draws = _Trainer(detail, settings), np.random.default_rng(seed)
    pool = _pool(pieces, settings.pool, draws, seed)
    sums = np.zeros(2)
    for step in range(1, settings.steps + 1):
        chosen = draws.integers(0, len(pool[0]), _BATCH)
        turned = int(draws.integers(0, 4))
        image, truth, defects = (np.rot90(part[chosen], turned, axes=(1, 2)) for part in pool)
        sums += trainer.step(tf.constant(image), tf.constant(truth), tf.constant(defects)).numpy()
        if step % 250 == 0 or step == settings.steps:
            say(f"detail {step}/{settings.steps}: {sums[0] / max(sums[1], 1e-12):.2f} of the squared error left")
            sums = np.zeros(2)
