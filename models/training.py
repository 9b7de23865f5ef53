"""Trains the generator: one loop, seeded, resumable, with averaged weights and early stopping.

Everything random follows from `Config.seed` and the number of the step, so a training that was killed and resumed runs
through the same batches and the same damage as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import time
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from models import words
from models.augmentation import Variety, vary
from models.colour import LUMINANCE, linear_to_lab, linear_to_srgb, luminance_to_lightness
from models.contract import PALETTE, PALETTE_BINS, PALETTE_LOW, PALETTE_SPAN, SIGHT, STATISTICS, VIEW
from models.correction import slice_chroma, tint
from models.critic import Critic
from models.degradation import REGIONS, Damage, Damaged, degrade
from models.detail_training import DetailSettings
from models.generator import Generator, Parts, Sight, grey_density, with_chroma
from models.hardware import has_bfloat16, set_precision
from models.losses import Weights, invented_errors, losses, picture_errors, restored_linear, thinned, untouched_errors
from models.records import Photograph, batches
from models.statistics import colour_left, density_statistics, view

Normalise = Callable[[tf.Tensor], tf.Tensor]
"""The TFT graph's part for pictures: density statistics [N, 15] -> normalised [N, 15]."""


OBJECTIVES = ("cnn", "gan")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a training's result, as read from a TOML file.

    Attributes:
      objective: `cnn`: minimise L + lambda R(W). `gan`: the same plus what a critic makes of the result, ramped late.
      steps: Batches to train for, at most.
      batch: Pictures in a batch.
      learning_rate: At its peak; warmed up over 200 steps, then falls along a cosine to a fiftieth.
      weight_decay: Decoupled (AdamW): part of R(W).
      average: Decay of the exponential moving average of the weights, which is what is validated and exported.
      caption_dropout: Share of pictures trained without the catalogue's caption.
      caption_colours: Share of pictures whose caption is added words for colours that are in the picture.
      caption_wrong: Share of pictures trained with somebody else's caption.
      word_dropout: Share of words dropped from the captions that stay.
      palette_share: Share of pictures trained with a palette, half of them somebody else's.
      width: See `Generator`.
      colour_width: See `Generator`.
      dropout: See `Generator`.
      adversarial: Weight of the critic's judgement at its full strength (`gan`).
      adversarial_from: Share of the steps after which it begins; it reaches full strength after as much again or at
        the end (`gan`).
      critic_rate: The critic's learning rate (`gan`).
      validate_every: Steps between validations.
      patience: Validations without a better one before stopping.
      seed: One for everything.
      weights: Of the losses' terms.
      parts: Parts of the generator that are switched on.
      variety: How training photographs are varied before they are damaged.
      damage: The damage model's settings.
      detail: How the detail network is trained.
    """

    objective: str = "cnn"
    steps: int = 10000
    batch: int = dataclasses.field(default=48, metadata={"least": 2})  # the colouriser sees half of it
    learning_rate: float = 2.5e-3
    weight_decay: float = 2e-2
    average: float = 0.999
    caption_dropout: float = 0.5
    caption_colours: float = 0.35
    caption_wrong: float = 0.15
    word_dropout: float = 0.3
    palette_share: float = 0.3
    width: int = 40
    colour_width: int = 32
    dropout: float = 0.4
    adversarial: float = 0.3
    adversarial_from: float = 0.5
    critic_rate: float = 4e-4
    validate_every: int = 250
    patience: int = 12
    seed: int = 1
    weights: Weights = dataclasses.field(default_factory=Weights)
    parts: Parts = dataclasses.field(default_factory=Parts)
    variety: Variety = dataclasses.field(default_factory=Variety)
    damage: Damage = dataclasses.field(default_factory=Damage)
    detail: DetailSettings = dataclasses.field(default_factory=DetailSettings)

    @staticmethod
    def read(text: str, steps: int | None = None, objective: str | None = None) -> Config:
        """From TOML; `steps` and `objective` outrank the file's. An unknown key is an error (ValueError)."""
        values: dict[str, Any] = tomllib.loads(text)
        if steps is not None:
            values["steps"] = steps
        if objective is not None:
            values["objective"] = objective
        tables = {"weights": Weights, "parts": Parts, "variety": Variety, "damage": Damage, "detail": DetailSettings}
        given = {name: values.pop(name, {}) for name in tables}
        for known, found in ((Config, values), *((tables[name], given[name]) for name in tables)):
            unknown = set(found) - {field.name for field in dataclasses.fields(known)}
            if unknown:
                raise ValueError(f"unknown setting {', '.join(sorted(unknown))}")
        if values.get("objective", "cnn") not in OBJECTIVES:
            raise ValueError(f"objective {values['objective']!r} is not one of: {', '.join(OBJECTIVES)}")
        if given["damage"].get("region", "all") not in REGIONS:
            raise ValueError(f"region {given['damage']['region']!r} is not one of: {', '.join(REGIONS)}")
        config = Config(**values, **{name: tables[name](**given[name]) for name in tables})
        for part in (config, *(getattr(config, name) for name in tables)):
            for field in dataclasses.fields(part):
                _check_value(field, getattr(part, field.name))
        return config

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the record."""
        return dataclasses.asdict(self)


def _check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Raises ValueError for a setting that is not the number or the yes or no it should be."""
    name, kind, least = field.name, field.type, field.metadata.get("least", 1)
    if kind == "int" and (type(value) is not int or value < least):
        raise ValueError(f"{name} must be a whole number from {least}, not {value!r}")
    if kind == "float" and (type(value) not in (int, float) or not value >= 0):
        raise ValueError(f"{name} must be a number from 0, not {value!r}")
    if kind == "bool" and type(value) is not bool:
        raise ValueError(f"{name} must be true or false, not {value!r}")


class Diverged(ArithmeticError):
    """A step's loss is not a number any more; the message says which step, which term, and what to do."""


@dataclasses.dataclass(frozen=True)
class Validation:
    """How the averaged weights do on the validation pictures, damaged the same way every time. Errors are CIE94.

    Attributes:
      step: After how many batches.
      score: What early stopping watches: the sum of `colour`, `clean` and half of `invented`.
      colour: Mean error of the restored pictures among those that were damaged.
      untouched: The same of the damaged pictures themselves.
      clean: Of the restored pictures among those that had no damage, after the fallback to the input.
      invented: Of grey pictures coloured with their caption.
      invented_blind: The same without any caption.
    """

    step: float
    score: float
    colour: float
    untouched: float
    clean: float
    invented: float
    invented_blind: float


def palette_histogram(linear: tf.Tensor) -> tf.Tensor:
    """The palette of pictures in the graph; `transforms.palette` computes it for files.

    Args:
      linear: float32 [N, h, w, 3], linear light in 0..1.

    Returns:
      float32 [N, 64]: share of pixels in 8 x 8 cells of a* and b* over -90..70, row by a*.
    """
    lab = linear_to_lab(linear)
    cell = tf.cast((lab[..., 1:] - PALETTE_LOW) * (PALETTE_BINS / PALETTE_SPAN), tf.int32)
    cell = tf.clip_by_value(cell, 0, PALETTE_BINS - 1)
    index = tf.reshape(cell[..., 0] * PALETTE_BINS + cell[..., 1], [tf.shape(linear)[0], -1])
    return tf.reduce_mean(tf.one_hot(index, PALETTE), axis=1)


class _Draws:
    """Numbered stateless draws in 0..1 for one batch."""

    def __init__(self, seed: tf.Tensor, count: tf.Tensor) -> None:
        self._seed, self._count = seed, count

    def __call__(self, number: int, width: tf.Tensor | int = 1) -> tf.Tensor:
        seed = tf.random.experimental.stateless_fold_in(self._seed, 900 + number)
        return tf.random.stateless_uniform([self._count, width], seed)


def _lent_palettes(colour: tf.Tensor, draw: _Draws, share: float) -> tf.Tensor:
    """Palettes such as a related picture would lend: of one half of the true picture, or of a stranger; or none."""
    own = palette_histogram(colour[:, ::4, : SIGHT // 2 : 4])
    palette = tf.where(draw(1) < 0.5, own, tf.roll(own, 1, axis=0))
    return palette * tf.cast(draw(2) < share, tf.float32)


_COLOURS_NAMED = 4  # at most so many colour words are made up for a picture


def _colour_words(colour: tf.Tensor, draw: _Draws) -> tf.Tensor:
    """Words for the colours of random places of each picture: ids, int64 [N, 4].

    Such captions cost nothing and are true, so that the words for colours are learned from every crop of every
    photograph and not only from the few hundred captions that people wrote.
    """
    named = words.colour_words()
    ids = tf.constant([words.vocabulary().index(word) for word in named], tf.int64)
    lab = tf.constant(list(named.values()), tf.float32)
    coarse = linear_to_lab(tf.nn.avg_pool2d(colour, SIGHT // 8, SIGHT // 8, "VALID"))
    places = tf.reshape(coarse, [tf.shape(colour)[0], -1, 3])
    chosen = tf.cast(draw(3, _COLOURS_NAMED) * tf.cast(tf.shape(places)[1], tf.float32), tf.int32)
    wanted = tf.gather(places, chosen, batch_dims=1)  # [N, 4, 3]
    # People name the hue rather than the lightness.
    difference = (wanted[:, :, None, :] - lab) * tf.constant([0.5, 1.0, 1.0])
    return tf.gather(ids, tf.argmin(tf.reduce_sum(difference**2, axis=3), axis=2))


def _heard(
    ids: tf.Tensor, weights: tf.Tensor, colour: tf.Tensor, draw: _Draws, config: Config
) -> tuple[tf.Tensor, tf.Tensor]:
    """Captions as training hears them: dropped, thinned out, with colours added, or somebody else's."""
    weights *= tf.cast(draw(4) >= config.caption_dropout, tf.float32)
    weights *= tf.cast(draw(5, tf.shape(weights)[1]) >= config.word_dropout, tf.float32)
    added = _colour_words(colour, draw)
    count = tf.cast(draw(7) * _COLOURS_NAMED, tf.int32) + 1
    there = (draw(6) < config.caption_colours) & (tf.range(_COLOURS_NAMED)[None] < count)
    ids = tf.concat([ids, added], axis=1)
    weights = tf.concat([weights, 4.0 * tf.cast(there, tf.float32)], axis=1)
    wrong = draw(8) < config.caption_wrong
    return tf.where(wrong, tf.roll(ids, 1, axis=0), ids), tf.where(wrong, tf.roll(weights, 1, axis=0), weights)


_SHOWN = 8
"""Validation pictures that TensorBoard shows."""


class Trainer:
    """Holds networks, optimisers and position; `run` trains to the end or to early stopping.

    On several GPUs, make it and run it in the scope of a `tf.distribute.MirroredStrategy` (`models.hardware`): each
    GPU takes its share of every batch.

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
        self.generator = Generator(config.width, config.colour_width, config.dropout, config.parts)
        self.generator(*_example())
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
        self._since_best = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best_scores = tf.Variable([float("inf")] * len(dataclasses.fields(Validation)), trainable=False)
        seeds = [layer.seed_generator.state.value for layer in self.generator._flatten_layers() if _is_dropout(layer)]
        tracked = {
            # A checkpoint does not look into a model's lists of layers, so the variables are named one by one.
            "generator": [variable.value for variable in self.generator.variables],
            "optimizer": self._optimizer,
            "average": self._average,
            "best": self._best,
            "step": self._step,
            "since_best": self._since_best,
            "dropout": seeds,
            "best_scores": self._best_scores,
        }
        self._critic: Critic | None = None
        if config.objective == "gan":
            self._critic = Critic()
            self._critic(tf.zeros([1, VIEW, VIEW, 3]), tf.zeros([1, VIEW, VIEW, 3]), *_example()[3:5])
            self._critic_optimizer = keras.optimizers.Adam(config.critic_rate, beta_1=0.0, beta_2=0.99)
            self._critic_optimizer.build(self._critic.trainable_variables)
            tracked |= {
                "critic": [variable.value for variable in self._critic.variables],
                "critic_optimizer": self._critic_optimizer,
            }
        self._checkpoint = tf.train.Checkpoint(**tracked)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(output / "checkpoints"), max_to_keep=2)

    def _gradients(
        self,
        damaged: Damaged,
        left: tf.Tensor,
        statistics: tf.Tensor,
        ids: tf.Tensor,
        weights: tf.Tensor,
        palette: tf.Tensor,
        step: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor], tf.Tensor | None]:
        generator, half = self.generator, tf.shape(ids)[0] // 2
        sight = generator.see(damaged.image)
        with tf.GradientTape() as tape:
            decision = generator.corrector(damaged.image, sight, left, statistics, ids, weights, palette, training=True)
            chroma, log_invented = generator.colouriser(
                grey_density(damaged.image[:half]),
                Sight(*(features[:half] for features in sight)),
                ids[:half],
                weights[:half],
                palette[:half],
                training=True,
            )
            thin = thinned(damaged)
            result = losses(with_chroma(decision, chroma, log_invented), thin, self.config.weights)
            total, restored = result.total, None
            if self._critic is not None:
                restored = restored_linear(decision, thin)
                judged = self._critic.generator_loss(restored, thin.image, ids, weights)
                total += self._adversarial_strength(step) * judged
        gradients = tape.gradient(total, generator.trainable_variables)
        return result._asdict(), gradients, restored

    def _train_step(self, *batch: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step with a batch and a seed; the means of its losses."""
        # The critic learns from a little before the generator begins to listen to it. Which of the two it is must be
        # known before the graph is made: replicas cannot meet within a condition.
        learns = int(self._step.numpy()) >= (self.config.adversarial_from - 0.1) * self.config.steps
        return self._replicas_step(*batch, critic_learns=self._critic is not None and learns)

    @tf.function(reduce_retracing=True)
    def _replicas_step(self, *batch: tf.Tensor, critic_learns: bool) -> dict[str, tf.Tensor]:
        strategy = tf.distribute.get_strategy()
        scalars = strategy.run(self._replica_step, (*batch, critic_learns))
        return {name: strategy.reduce("MEAN", value, axis=None) for name, value in scalars.items()}

    def _replica_step(
        self,
        picture: tf.Tensor,
        ids: tf.Tensor,
        weights: tf.Tensor,
        palette: tf.Tensor,
        seed: tf.Tensor,
        critic_learns: bool,
    ) -> dict[str, tf.Tensor]:
        config = self.config
        seed += tf.stack([10007 * tf.distribute.get_replica_context().replica_id_in_sync_group, 0])
        damaged = degrade(vary(picture, seed, config.variety), seed, config.damage)
        draw = _Draws(seed, tf.shape(picture)[0])
        ids, weights = _heard(ids, weights, damaged.colour, draw, config)
        has_own = tf.reduce_sum(palette, axis=1, keepdims=True) > 0
        palette = tf.where(has_own, palette, _lent_palettes(damaged.colour, draw, config.palette_share))
        statistics = density_statistics(view(damaged.image))
        step = tf.cast(self._step, tf.float32)
        scalars, gradients, restored = self._gradients(
            damaged,
            colour_left(statistics),
            self._normalise(statistics),
            ids,
            weights,
            palette,
            tf.cast(self._step, tf.float32),
        )
        variables = self.generator.trainable_variables
        _apply(self._optimizer, gradients, variables)
        if self._critic is not None:
            scalars["critic"] = (
                self._critic_step(thinned(damaged), restored, ids, weights) if critic_learns else tf.constant(0.0)
            )
        decay = tf.minimum(config.average, (1 + step) / (10 + step))
        for average, variable in zip(self._average, variables, strict=True):
            average.assign(decay * average + (1 - decay) * variable)
        self._step.assign_add(1)
        return scalars

    def _adversarial_strength(self, step: tf.Tensor) -> tf.Tensor:
        """0 until its time has come, then rising evenly to `adversarial`."""
        config = self.config
        done = step / config.steps
        rise = max(1e-3, min(config.adversarial_from, 1 - config.adversarial_from))
        return config.adversarial * tf.clip_by_value((done - config.adversarial_from) / rise, 0.0, 1.0)

    def _critic_step(self, damaged: Damaged, restored: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """One step of the critic."""
        critic = self._critic
        assert critic is not None
        with tf.GradientTape() as tape:
            loss = critic.critic_loss(damaged.target, tf.stop_gradient(restored), damaged.image, ids, weights)
        variables = critic.trainable_variables
        _apply(self._critic_optimizer, tape.gradient(loss, variables), variables)
        return loss

    @tf.function(reduce_retracing=True)
    def _validate_step(
        self, picture: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor, palette: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        damaged = thinned(full := degrade(picture, seed, dataclasses.replace(self.config.damage, region="all")))
        statistics = density_statistics(view(full.image))
        known = (colour_left(statistics), self._normalise(statistics))
        sight = self.generator.see(full.image)
        corrected = self.generator.corrector(full.image, sight, *known, ids, weights, palette)
        decision, blind = (
            with_chroma(corrected, *self.generator.colouriser(grey_density(full.image), sight, ids, heard, palette))
            for heard in (weights, tf.zeros_like(weights))
        )
        return {
            "restored": picture_errors(restored_linear(decision, damaged), damaged)[1],
            "untouched": untouched_errors(damaged),
            "clean": damaged.classes[:, -1],
            "falls_back": tf.cast(decision.log_untouched < decision.log_error, tf.float32),
            "invented": invented_errors(decision, damaged.colour),
            "invented_blind": invented_errors(blind, damaged.colour),
        }

    def average_anew(self) -> None:
        """Averages begin with the weights that the generator has now: call it after those were set, before `run`."""
        for average, variable in zip(self._average, self.generator.trainable_variables, strict=True):
            average.assign(variable)

    def _load(self, weights: list[tf.Variable]) -> None:
        for variable, value in zip(self.generator.trainable_variables, weights, strict=True):
            variable.assign(value)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights are in `generator`, for as long as it lasts."""
        current = [tf.identity(variable) for variable in self.generator.trainable_variables]
        self._load(self._average)
        yield
        self._load(current)

    def validate(self) -> Validation:
        """Scores the averaged weights on `validation`, each picture under four damages that never change."""
        rows = []
        with self._averaged():
            for repeat in range(4):
                for index, batch in enumerate(batches(self._photographs["validation"], 64, 0, None)):
                    rows.append(self._validate_step(*batch, tf.constant([7919 + repeat, index])))
        scores = {name: np.concatenate([np.asarray(row[name]) for row in rows]) for name in rows[0]}
        clean = scores["clean"] > 0.5

        def mean(values: np.ndarray) -> float:
            return float(values.mean()) if values.size else 0.0

        colour = mean(scores["restored"][~clean])
        on_clean = mean((scores["restored"] * (1 - scores["falls_back"]))[clean])
        invented = mean(scores["invented"])
        return Validation(
            step=float(self._step.numpy()),
            score=colour + on_clean + 0.5 * invented,
            colour=colour,
            untouched=mean(scores["untouched"][~clean]),
            clean=on_clean,
            invented=invented,
            invented_blind=mean(scores["invented_blind"]),
        )

    def samples(self) -> tf.Tensor:
        """What the averaged weights make of the first validation pictures, under damage that never changes.

        Returns:
          uint8 [8, 128, 512, 3] or fewer, sRGB, side by side: the damaged picture; it restored; the true one; the true
          one's luminance, coloured by its caption.
        """
        first = self._photographs["validation"][:_SHOWN]
        picture, ids, weights, palette = next(iter(batches(first, _SHOWN, 0, None)))
        damaged = degrade(picture, tf.constant([7919, 0]), dataclasses.replace(self.config.damage, region="all"))
        statistics = density_statistics(view(damaged.image))
        with self._averaged():
            decision = self.generator(
                damaged.image, colour_left(statistics), self._normalise(statistics), ids, weights, palette
            )
        luminance = tf.reduce_sum(damaged.colour * LUMINANCE, axis=-1)
        coloured = tint(luminance, slice_chroma(luminance_to_lightness(luminance), decision.coefficients.chroma))
        made = [linear_to_srgb(linear) for linear in (restored_linear(decision, damaged), damaged.target, coloured)]
        shown = tf.concat([tf.cast(damaged.image, tf.float32) / 255.0, *made], axis=2)
        return tf.cast(tf.clip_by_value(shown, 0.0, 1.0) * 255.0 + 0.5, tf.uint8)

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

        Raises:
          Diverged: If a loss is not a number any more.
        """
        config = self.config
        set_precision(self.generator, half=has_bfloat16())
        if self._manager.latest_checkpoint:
            self._checkpoint.restore(self._manager.latest_checkpoint)
            say(f"resuming after step {int(self._step.numpy())}")
            self._forget_after(int(self._step.numpy()))
        writer = tf.summary.create_file_writer(str(self.output / "logs"))
        stream = iter(
            tf.distribute.get_strategy().experimental_distribute_dataset(
                batches(self._photographs["train"], config.batch, config.seed, config.variety, int(self._step.numpy()))
            )
        )
        began, begun_at = time.monotonic(), int(self._step.numpy())
        sums: dict[str, float] = {}
        count = 0
        while int(self._step.numpy()) < config.steps and int(self._since_best.numpy()) < config.patience:
            step = int(self._step.numpy())
            result = self._train_step(*next(stream), tf.constant([config.seed, step]))
            for name, value in result.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            step += 1
            self._check_finite(step, result)
            count += 1
            if step % config.validate_every and step != config.steps:
                continue
            validation = self.validate()
            if validation.score < self._best_scores.numpy()[1]:
                self._since_best.assign(0)
                for kept, average in zip(self._best, self._average, strict=True):
                    kept.assign(average)
                self._best_scores.assign(dataclasses.astuple(validation))
            else:
                self._since_best.assign_add(1)
            means = {name: value / count for name, value in sums.items()}
            sums, count = {}, 0
            with writer.as_default(step=step):
                for name, value in {**means, **dataclasses.asdict(validation)}.items():
                    tf.summary.scalar(name, value)
                tf.summary.image("damaged, restored, true, coloured", self.samples(), max_outputs=_SHOWN)
                writer.flush()
            with (self.output / "history.jsonl").open("a") as history:
                history.write(json.dumps({**dataclasses.asdict(validation), "train": means}) + "\n")
            self._manager.save()
            rate = (step - begun_at) / (time.monotonic() - began)
            say(
                f"step {step}/{config.steps}: loss {means['total']:.2f}, colour {means['colour']:.2f}; validation"
                f" {validation.colour:.2f} of {validation.untouched:.2f}, clean {validation.clean:.2f}, invented"
                f" {validation.invented:.2f} (no caption {validation.invented_blind:.2f});"
                f" {rate:.2f} steps/s, {(config.steps - step) / rate / 60:.0f} min left"
            )
        self._load(self._best)
        set_precision(self.generator, half=False)
        return Validation(*self._best_scores.numpy().tolist())

    def _check_finite(self, step: int, result: dict[str, tf.Tensor]) -> None:
        """Raises `Diverged` if a loss of this step is not a number."""
        wrong = [name for name, value in result.items() if not math.isfinite(float(value))]
        if wrong:
            kept = self._manager.latest_checkpoint
            raise Diverged(
                f"step {step}: {', '.join(wrong)} not a finite number. The weights are lost"
                f" {f'since the checkpoint {kept}' if kept else 'and there is no checkpoint yet'}, and the same"
                f" settings end the same way: begin anew in another output folder with a learning_rate below"
                f" {self.config.learning_rate:g}{', or a smaller adversarial' if self._critic else ''}"
            )


def _apply(optimizer: Any, gradients: list[tf.Tensor], variables: list[Any]) -> None:
    """One step along the mean of the replicas' gradients."""
    # Keras clips this mean, then adds up the replicas' equal shares: a whole multiple, which means nothing to Adam.
    optimizer.apply(tf.distribute.get_replica_context().all_reduce("MEAN", gradients), variables)


def _is_dropout(layer: Any) -> bool:
    return isinstance(layer, (keras.layers.Dropout, keras.layers.SpatialDropout2D))


def _example() -> tuple[tf.Tensor, ...]:
    """A batch of one in the generator's form, to build it with."""
    return (
        tf.zeros([1, SIGHT, SIGHT, 3], tf.uint8),
        tf.zeros([1]),
        tf.zeros([1, STATISTICS]),
        tf.zeros([1, 1], tf.int64),
        tf.zeros([1, 1]),
        tf.zeros([1, PALETTE]),
    )
