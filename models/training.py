"""Trains the generator: one loop, seeded, resumable, with averaged weights and early stopping.

Everything random follows from `Config.seed` and the number of the step, so a training that was killed and resumed runs
through the same batches and the same damage as one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
import tomllib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from models.augmentation import Variety, vary
from models.colour import density_to_linear, linear_to_lab, srgb_to_density
from models.contract import PALETTE, PALETTE_BINS, PALETTE_LOW, PALETTE_SPAN, STATISTICS, VIEW
from models.correction import identity
from models.degradation import Damage, Damaged, degrade
from models.generator import Generator
from models.losses import colour_error, losses
from models.records import Photograph, batches
from models.statistics import density_statistics

Normalise = Callable[[tf.Tensor], tf.Tensor]
"""The TFT graph's part for pictures: density statistics [N, 15] -> normalised [N, 15]."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a training's result, as read from a TOML file.

    Attributes:
      objective: `cnn`: minimise L + lambda R(W).
      steps: Batches to train for, at most.
      batch: Pictures in a batch.
      learning_rate: At its peak; warmed up over 200 steps, then falls along a cosine to a fiftieth.
      weight_decay: Decoupled (AdamW): part of R(W).
      smoothness: lambda of the curves' and matrix's regulariser, the other part of R(W).
      average: Decay of the exponential moving average of the weights, which is what is validated and exported.
      caption_dropout: Share of pictures trained without their caption.
      word_dropout: Share of words dropped from the captions that stay.
      palette_share: Share of pictures trained with a palette, half of them somebody else's.
      width: See `Generator`.
      dropout: See `Generator`.
      validate_every: Steps between validations.
      patience: Validations without a better one before stopping.
      seed: One for everything.
      variety: How training photographs are varied before they are damaged.
      damage: The damage model's settings.
    """

    objective: str = "cnn"
    steps: int = 4000
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    smoothness: float = 0.05
    average: float = 0.998
    caption_dropout: float = 0.5
    word_dropout: float = 0.4
    palette_share: float = 0.2
    width: int = 32
    dropout: float = 0.4
    validate_every: int = 250
    patience: int = 8
    seed: int = 1
    variety: Variety = dataclasses.field(default_factory=Variety)
    damage: Damage = dataclasses.field(default_factory=Damage)

    @staticmethod
    def read(text: str, steps: int | None = None) -> Config:
        """From TOML. An unknown key is an error (ValueError), not a silent default. `steps` outranks the file's."""
        values: dict[str, Any] = tomllib.loads(text)
        if steps is not None:
            values["steps"] = steps
        damage, variety = values.pop("damage", {}), values.pop("variety", {})
        for known, given in ((Config, values), (Damage, damage), (Variety, variety)):
            unknown = set(given) - {field.name for field in dataclasses.fields(known)}
            if unknown:
                raise ValueError(f"unknown setting {', '.join(sorted(unknown))}")
        if values.get("objective", "cnn") != "cnn":
            raise ValueError(f"objective {values['objective']!r} is not one of: cnn")
        config = Config(**values, variety=Variety(**variety), damage=Damage(**damage))
        for part in (config, config.variety, config.damage):
            for field in dataclasses.fields(part):
                _check_number(field.name, getattr(part, field.name), field.type)
        return config

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the record."""
        return dataclasses.asdict(self)


def _check_number(name: str, value: Any, kind: Any) -> None:
    """Raises ValueError for a setting that is not the number it should be."""
    if kind == "int" and (type(value) is not int or value < 1):
        raise ValueError(f"{name} must be a whole number from 1, not {value!r}")
    if kind == "float" and (type(value) not in (int, float) or not value >= 0):
        raise ValueError(f"{name} must be a number from 0, not {value!r}")


@dataclasses.dataclass(frozen=True)
class Validation:
    """How the averaged weights do on the validation pictures, damaged the same way every time.

    Attributes:
      step: After how many batches.
      colour: Mean CIE94 error of the restored pictures.
      untouched: The same of the damaged pictures themselves.
      colour_clean: Of the restored pictures among those that had no damage.
    """

    step: int
    colour: float
    untouched: float
    colour_clean: float


def palette_histogram(srgb: tf.Tensor) -> tf.Tensor:
    """The palette of pictures in the graph; `transforms.palette` computes it for files.

    Args:
      srgb: float32 [N, h, w, 3] in 0..1.

    Returns:
      float32 [N, 64]: share of pixels in 8 x 8 cells of a* and b* over -90..70, row by a*.
    """
    lab = linear_to_lab(density_to_linear(srgb_to_density(srgb)))
    cell = tf.cast((lab[..., 1:] - PALETTE_LOW) * (PALETTE_BINS / PALETTE_SPAN), tf.int32)
    cell = tf.clip_by_value(cell, 0, PALETTE_BINS - 1)
    index = tf.reshape(cell[..., 0] * PALETTE_BINS + cell[..., 1], [tf.shape(srgb)[0], -1])
    return tf.reduce_mean(tf.one_hot(index, PALETTE), axis=1)


def _lent_palettes(target: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Palettes such as a related picture would lend: of one half of the true picture, or of a stranger; or none."""
    count = tf.shape(target)[0]
    own = palette_histogram(target[:, ::2, : VIEW // 2 : 2])
    draw = tf.random.stateless_uniform([count, 2], tf.random.experimental.stateless_fold_in(seed, 900))
    palette = tf.where(draw[:, 1:] < 0.5, own, tf.roll(own, 1, axis=0))
    return palette * tf.cast(draw[:, :1] < share, tf.float32)


class Trainer:
    """Holds network, optimiser and position; `run` trains to the end or to early stopping.

    Args:
      config: What to do.
      photographs: By split; `train` and `validation` are used.
      normalise: See `Normalise`.
      output: Folder for `checkpoints/`, `logs/` (TensorBoard) and `history.jsonl`. An interrupted training in it is
        resumed.
    """

    def __init__(
        self, config: Config, photographs: dict[str, list[Photograph]], normalise: Normalise, output: pathlib.Path
    ) -> None:
        keras.utils.set_random_seed(config.seed)
        self.config = config
        self.output = output
        self._photographs = photographs
        self._normalise = normalise
        self.generator = Generator(config.width, config.dropout)
        self._build()
        warmup = min(200, config.steps // 4)
        schedule = keras.optimizers.schedules.CosineDecay(
            config.learning_rate / 20,
            config.steps - warmup,  # Keras counts these from the end of the warm-up, and alpha from its target
            alpha=0.02,
            warmup_target=config.learning_rate,
            warmup_steps=warmup,
        )
        self._optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, global_clipnorm=1.0)
        self._optimizer.build(self.generator.trainable_variables)
        self._average = [tf.Variable(variable, trainable=False) for variable in self.generator.trainable_variables]
        self._best = [tf.Variable(variable, trainable=False) for variable in self.generator.trainable_variables]
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best_colour = tf.Variable(float("inf"), trainable=False)
        self._since_best = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best_scores = tf.Variable([0.0, 0.0, 0.0], trainable=False)  # step, untouched, colour_clean of the best
        self._checkpoint = tf.train.Checkpoint(
            generator=self.generator,
            optimizer=self._optimizer,
            average=self._average,
            best=self._best,
            step=self._step,
            best_colour=self._best_colour,
            since_best=self._since_best,
            dropout=self.generator.dropout.seed_generator.state.value,
            best_scores=self._best_scores,
        )
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(output / "checkpoints"), max_to_keep=2)

    def _build(self) -> None:
        zeros = tf.zeros([1, VIEW, VIEW, 3], tf.uint8)
        self.generator(
            zeros, tf.zeros([1, STATISTICS]), tf.zeros([1, 1], tf.int64), tf.zeros([1, 1]), tf.zeros([1, PALETTE])
        )

    # Fused by XLA this costs half; the damage, which is not in here, would cost sevenfold (on a CPU).
    @tf.function(reduce_retracing=True, jit_compile=True)
    def _gradients(
        self, damaged: Damaged, statistics: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor, palette: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            decision = self.generator(damaged.image, statistics, ids, weights, palette, training=True)
            result = losses(decision, damaged, self.config.smoothness)
        gradients = tape.gradient(result.total, self.generator.trainable_variables)
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}, gradients

    @tf.function(reduce_retracing=True)
    def _train_step(
        self, picture: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor, palette: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        config = self.config
        damaged = degrade(vary(picture, seed, config.variety), seed, config.damage)
        draw = tf.random.stateless_uniform(
            [tf.shape(picture)[0], 1], tf.random.experimental.stateless_fold_in(seed, 901)
        )
        weights *= tf.cast(draw >= config.caption_dropout, tf.float32)
        words = tf.random.stateless_uniform(tf.shape(weights), tf.random.experimental.stateless_fold_in(seed, 902))
        weights *= tf.cast(words >= config.word_dropout, tf.float32)
        has_own = tf.reduce_sum(palette, axis=1, keepdims=True) > 0
        palette = tf.where(has_own, palette, _lent_palettes(damaged.target, seed, config.palette_share))
        statistics = self._normalise(density_statistics(damaged.image))
        result, gradients = self._gradients(damaged, statistics, ids, weights, palette)
        variables = self.generator.trainable_variables
        self._optimizer.apply(gradients, variables)
        step = tf.cast(self._step, tf.float32)
        decay = tf.minimum(config.average, (1 + step) / (10 + step))
        for average, variable in zip(self._average, variables, strict=True):
            average.assign(decay * average + (1 - decay) * variable)
        self._step.assign_add(1)
        return result

    @tf.function(reduce_retracing=True)
    def _validate_step(
        self, picture: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor, palette: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        damaged = degrade(picture, seed, self.config.damage)
        statistics = self._normalise(density_statistics(damaged.image))
        decision = self.generator(damaged.image, statistics, ids, weights, palette, training=False)
        matrix, curves = identity()
        batch = tf.shape(picture)[0]
        nothing = dataclasses.replace(
            decision, matrix=tf.tile(matrix[None], [batch, 1, 1]), curves=tf.tile(curves[None], [batch, 1, 1])
        )
        restored = tf.reduce_mean(colour_error(decision, damaged), axis=[1, 2])
        untouched = tf.reduce_mean(colour_error(nothing, damaged), axis=[1, 2])
        return restored, untouched, damaged.classes[:, -1]

    def _load(self, weights: list[tf.Variable]) -> None:
        for variable, value in zip(self.generator.trainable_variables, weights, strict=True):
            variable.assign(value)

    def validate(self) -> Validation:
        """Scores the averaged weights on `validation`, each picture under four damages that never change."""
        current = [tf.identity(variable) for variable in self.generator.trainable_variables]
        self._load(self._average)
        rows = []
        for repeat in range(4):
            for index, batch in enumerate(batches(self._photographs["validation"], 32, 0, augment=False)):
                rows.append(self._validate_step(*batch, tf.constant([7919 + repeat, index])))
        self._load(current)
        restored, untouched, clean = (np.concatenate([np.asarray(row[i]) for row in rows]) for i in range(3))
        return Validation(
            int(self._step),
            float(restored.mean()),
            float(untouched.mean()),
            float(restored[clean > 0.5].mean()) if (clean > 0.5).any() else 0.0,
        )

    def _forget_after(self, step: int) -> None:
        """Drops lines of the history that were written after the checkpoint that the training goes on from."""
        path = self.output / "history.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
            path.write_text("".join(line + "\n" for line in kept))

    def run(self, say: Callable[[str], None]) -> Validation:
        """Trains, resuming if there is a checkpoint, and leaves the best averaged weights in `generator`.

        Args:
          say: Told one line now and then.

        Returns:
          The best validation.
        """
        config = self.config
        if self._manager.latest_checkpoint:
            self._checkpoint.restore(self._manager.latest_checkpoint)
            say(f"resuming after step {int(self._step)}")
            self._forget_after(int(self._step))
        writer = tf.summary.create_file_writer(str(self.output / "logs"))
        stream = iter(
            batches(self._photographs["train"], config.batch, config.seed, augment=True, start=int(self._step))
        )
        began, begun_at = time.monotonic(), int(self._step)
        sums: dict[str, float] = {}
        count = 0
        while int(self._step) < config.steps and int(self._since_best) < config.patience:
            step = int(self._step)
            result = self._train_step(*next(stream), tf.constant([config.seed, step]))
            for name, value in result.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            step += 1
            count += 1
            if step % config.validate_every and step != config.steps:
                continue
            validation = self.validate()
            if validation.colour < float(self._best_colour):
                self._best_colour.assign(validation.colour)
                self._since_best.assign(0)
                for kept, average in zip(self._best, self._average, strict=True):
                    kept.assign(average)
                self._best_scores.assign([validation.step, validation.untouched, validation.colour_clean])
            else:
                self._since_best.assign_add(1)
            means = {name: value / count for name, value in sums.items()}
            sums, count = {}, 0
            with writer.as_default(step=step):
                for name, value in {**means, **dataclasses.asdict(validation)}.items():
                    tf.summary.scalar(name, value)
                writer.flush()
            with (self.output / "history.jsonl").open("a") as history:
                history.write(json.dumps({**dataclasses.asdict(validation), "train": means}) + "\n")
            self._manager.save()
            rate = (step - begun_at) / (time.monotonic() - began)
            say(
                f"step {step}/{config.steps}: training loss {means['colour']:.2f}, validation {validation.colour:.2f}"
                f" (untouched {validation.untouched:.2f}, on clean pictures {validation.colour_clean:.2f}),"
                f" {rate:.2f} steps/s, {(config.steps - step) / rate / 60:.0f} min left"
            )
        self._load(self._best)
        step_, untouched, clean = self._best_scores.numpy().tolist()
        return Validation(int(step_), float(self._best_colour), untouched, clean)
