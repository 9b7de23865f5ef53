"""Training: its settings, that it runs, and that killed and resumed is the same as never killed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models.augmentation import Variety
from models.colour import linear_table
from models.contract import DEFAULT_MODEL, DEFAULT_SHA256, MAX_TOKENS, PALETTE, SIGHT, VIEW
from models.degradation import Damage
from models.detail import Detail
from models.detail_training import DetailSettings
from models.generator import Generator, Parts
from models.hardware import set_precision
from models.losses import Losses, Weights
from models.records import Photograph, batches, split_of
from models.training import Config, Diverged, Trainer, Validation, _example
from models.words import WORDS
from pipelines import train
from transforms.items import UsageError

TINY = Config(steps=4, batch=2, width=8, colour_width=8, validate_every=2)
# The critic learns from step 1 on, and is listened to from step 2 on.
GAN = dataclasses.replace(TINY, objective="gan", adversarial_from=0.3)


def photograph(index: int) -> Photograph:
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (5, 6, 3)).astype(np.float32)
    image = tf.cast(tf.image.resize(coarse, (150 + index, 180)), tf.uint8).numpy()
    words = rng.integers(0, 50, index % 4)
    return Photograph(f"p{index}", "", image, words, np.ones(len(words), np.float32), np.zeros(PALETTE, np.float32))


@pytest.fixture(scope="module")
def photographs() -> dict[str, list[Photograph]]:
    return {"train": [photograph(index) for index in range(5)], "validation": [photograph(9)]}


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Without compilation, which would cost half a minute a trainer; the arithmetic is the same."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def normalise(statistics: tf.Tensor) -> tf.Tensor:
    return statistics - 0.5


def history(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def silent(_: str) -> None:
    pass


# Settings


def test_settings_are_read() -> None:
    config = Config.read(
        'objective = "cnn"\nsteps = 7\nlearning_rate = 1e-4\n[damage]\nclean = 0.3\n[variety]\nmosaic = 0.0\n'
    )
    assert config == Config(steps=7, learning_rate=1e-4, damage=Damage(clean=0.3), variety=Variety(mosaic=0.0))
    assert Config.read("") == Config()
    assert Config.read("steps = 7", steps=3).steps == 3
    assert Config.read('objective = "cnn"', objective="gan").objective == "gan"
    assert Config.read("[parts]\ncaption = false").parts == Parts(caption=False)
    assert Config.read("[detail]\nsteps = 0").detail.steps == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("step = 7", "step"),
        ("[damage]\nfog = 0.5", "fog"),
        ("[variety]\nclean = 0.5", "clean"),
        ("[training]\nsteps = 7", "training"),
        ("[parts]\ncolour = true", "colour"),
        ('objective = "rnn"', "rnn.*one of: cnn, gan"),
        ('objective = ""', "objective"),
        ("objective = 1", "objective"),
        ("steps = 0", "steps must be a whole number"),
        ("steps = 2.5", "steps must be a whole number"),
        ('batch = "many"', "batch must be a whole number"),
        ("dropout = -0.1", "dropout must be a number from 0"),
        ("learning_rate = nan", "learning_rate must be a number from 0"),
        ("[weights]\nclean = true", "clean must be a number"),
        ("[parts]\ncaption = 0", "caption must be true or false"),
        ('[damage]\nregion = "nowhere"', "region 'nowhere' is not one of: seen, held_out, all"),
        ("[detail]\nsteps = -1", "steps must be a whole number from 0"),
        ("batch = 1", "batch must be a whole number from 2"),
    ],
)
def test_wrong_settings_are_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Config.read(text)


def test_the_shipped_settings_are_valid() -> None:
    shipped = pathlib.Path(__file__).parent.parent / "models" / "configs" / "default.toml"
    assert Config.read(shipped.read_text()).objective == "cnn"


def test_a_training_can_begin_from_the_shipped_model(foreign_models: dict[str, str], tmp_path: pathlib.Path) -> None:
    config = Config.read(train.DEFAULT_CONFIG.read_text())
    weights, digest = train._weights_of(DEFAULT_MODEL)
    assert digest == DEFAULT_SHA256

    def networks(width: int) -> tuple[Generator, Detail]:
        generator, detail = Generator(width, config.colour_width), Detail()
        generator(*_example())
        detail(np.zeros((1, 16, 16, 3), np.float32))
        return generator, detail

    begun = networks(config.width)
    train._begin(begun, weights, DEFAULT_MODEL)
    values = [variable.numpy() for network in begun for variable in network.weights]
    assert all(np.array_equal(value, weight) for value, weight in zip(values, weights, strict=True))
    with pytest.raises(UsageError, match="another size"):
        train._begin(networks(config.width + 8), weights, DEFAULT_MODEL)
    with pytest.raises(UsageError, match="was not written by"):
        train._weights_of(foreign_models["inverted"])
    with pytest.raises(UsageError, match="cannot be used"):
        train._weights_of(str(tmp_path))


def test_settings_survive_json() -> None:
    values = json.loads(json.dumps(Config(seed=3).as_dict()))
    tables = {"damage": Damage, "variety": Variety, "weights": Weights, "parts": Parts, "detail": DetailSettings}
    nested = {name: table(**values.pop(name)) for name, table in tables.items()}
    assert Config(**values, **nested) == Config(seed=3)


def test_the_learning_rate_falls_to_a_fiftieth(
    photographs: dict[str, list[Photograph]], tmp_path: pathlib.Path
) -> None:
    config = dataclasses.replace(TINY, steps=2000)
    schedule = Trainer(config, photographs, normalise, tmp_path)._optimizer._learning_rate
    rates = [float(schedule(step)) for step in (0, 200, 1100, 1999)]
    assert rates[1] == pytest.approx(config.learning_rate, rel=0.01)
    assert rates[0] < rates[1] > rates[2] > rates[3]
    assert rates[3] == pytest.approx(config.learning_rate / 50, rel=0.1)


# The stream of batches


def test_batches_have_one_shape(photographs: dict[str, list[Photograph]]) -> None:
    picture, ids, weights, palette = next(iter(batches(photographs["train"], 3, 1, Variety())))
    assert picture.shape == (3, SIGHT, SIGHT, 3)
    assert picture.dtype == tf.float32
    assert 0 <= tf.reduce_min(picture) <= tf.reduce_max(picture) <= 1
    assert ids.shape == weights.shape == (3, MAX_TOKENS)
    assert palette.shape == (3, PALETTE)


def test_a_stream_can_start_anywhere(photographs: dict[str, list[Photograph]]) -> None:
    whole = list(batches(photographs["train"], 2, 1, Variety()).take(7))
    late = list(batches(photographs["train"], 2, 1, Variety(), 4).take(3))
    for one, other in zip(whole[4:], late, strict=True):
        for value, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(value, same)
    assert np.abs(whole[0][0] - late[0][0]).max() > 0.01
    other_seed = next(iter(batches(photographs["train"], 2, 2, Variety())))
    assert np.abs(whole[0][0] - other_seed[0]).max() > 0.01


def test_every_epoch_has_every_photograph_in_a_new_order() -> None:
    marked = [
        dataclasses.replace(photograph(0), palette=np.eye(PALETTE, dtype=np.float32)[index]) for index in range(6)
    ]
    stream = np.concatenate([row[3] for row in batches(marked, 3, 1, Variety()).take(6)]).argmax(1)
    epochs = stream.reshape(3, 6)
    for epoch in epochs:
        assert sorted(epoch) == list(range(6))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_validation_is_one_pass_in_order(photographs: dict[str, list[Photograph]]) -> None:
    rows = list(batches(photographs["train"], 2, 0, None))
    assert [len(row[0]) for row in rows] == [2, 2, 1]
    squeezed = tf.round(tf.image.resize(photographs["train"][0].image, [SIGHT, SIGHT], method="area"))
    np.testing.assert_allclose(rows[0][0][0], linear_table(256)[squeezed.numpy().astype(int)], atol=1e-5)


def test_the_split_is_the_columns_or_by_hash() -> None:
    assert split_of("a", {"split": "test"}, "split") == "test"
    splits = [split_of(f"item-{index}", {}, "split") for index in range(2000)]
    assert set(splits) == {"train", "validation"}
    assert 0.07 < splits.count("validation") / 2000 < 0.13
    assert splits[:50] == [split_of(f"item-{index}", {"split": ""}, "split") for index in range(50)]


# The loop, with the network left out


class Loop:
    """A trainer whose steps and validations are scripted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, photographs: dict[str, list[Photograph]]) -> None:
        self.steps: list[int] = []
        self.breaks_at = -1
        self.curve: dict[int, float] = {}
        self.photographs = photographs

        def step(trainer: Trainer, *_: Any) -> dict[str, tf.Tensor]:
            self.steps.append(int(trainer._step))
            trainer._step.assign_add(1)
            trainer._average[0].assign(tf.fill(trainer._average[0].shape, float(trainer._step)))
            loss = math.nan if self.steps[-1] == self.breaks_at else float(trainer._step)
            return {"total": tf.constant(loss), "colour": tf.constant(float(trainer._step))}

        def validate(trainer: Trainer) -> Validation:
            now = int(trainer._step)
            score = self.curve.get(now, 99.0)
            return Validation(now, score, 2 * score, 20.0, now / 64, 0.0, 0.0)

        monkeypatch.setattr(Trainer, "_train_step", step)
        monkeypatch.setattr(Trainer, "validate", validate)
        monkeypatch.setattr(Trainer, "samples", lambda _: tf.zeros([1, 4, 16, 3], tf.uint8))

    def trainer(self, folder: pathlib.Path, **settings: Any) -> Trainer:
        return Trainer(dataclasses.replace(TINY, **settings), self.photographs, normalise, folder)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch, photographs: dict[str, list[Photograph]]) -> Loop:
    return Loop(monkeypatch, photographs)


class Killed(Exception):
    pass


def killed_after(step: int) -> Callable[[str], None]:
    def say(line: str) -> None:
        if line.startswith(f"step {step}/"):
            raise Killed

    return say


def kept(trainer: Trainer) -> float:
    """Which step's averages the generator ended up with."""
    return float(trainer.generator.trainable_variables[0].numpy().ravel()[0])


def test_it_stops_early_and_keeps_the_best(loop: Loop, tmp_path: pathlib.Path) -> None:
    loop.curve = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 1.0}
    trainer = loop.trainer(tmp_path, steps=20, patience=2)
    best = trainer.run(silent)
    assert loop.steps == list(range(8))
    assert (best.step, best.score, best.colour, best.clean) == (4, 3.0, 6.0, 4 / 64)
    assert kept(trainer) == 4
    assert [row["step"] for row in history(tmp_path)] == [2, 4, 6, 8]


def test_patience_and_the_best_survive_a_kill(loop: Loop, tmp_path: pathlib.Path) -> None:
    loop.curve = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 1.0}
    with pytest.raises(Killed):
        loop.trainer(tmp_path, steps=20, patience=2).run(killed_after(6))
    lines: list[str] = []
    trainer = loop.trainer(tmp_path, steps=20, patience=2)
    best = trainer.run(lines.append)
    assert "resuming after step 6" in lines[0]
    assert loop.steps == list(range(8))
    assert kept(trainer) == 4
    assert (best.step, best.score, best.clean) == (4, 3.0, 4 / 64)


def test_a_finished_training_is_not_trained_further(loop: Loop, tmp_path: pathlib.Path) -> None:
    loop.curve = {2: 3.0, 4: 5.0}
    first = loop.trainer(tmp_path)
    best = first.run(silent)
    again = loop.trainer(tmp_path)
    repeated = again.run(silent)
    assert loop.steps == [0, 1, 2, 3]
    assert kept(again) == kept(first) == 2
    assert repeated == best


def test_the_last_interval_may_be_shorter(loop: Loop, tmp_path: pathlib.Path) -> None:
    loop.trainer(tmp_path, steps=5, validate_every=3).run(silent)
    rows = history(tmp_path)
    assert [row["step"] for row in rows] == [3, 5]
    assert [row["train"]["colour"] for row in rows] == [2.0, 4.5]  # means of 1, 2, 3 and of 4, 5


def test_a_kill_while_saving_leaves_no_line_twice(
    loop: Loop, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        trainer = loop.trainer(tmp_path, steps=6)
        save = trainer._manager.save

        def save_until_killed() -> None:
            if int(trainer._step) == 4:
                raise Killed
            save()

        patched.setattr(trainer._manager, "save", save_until_killed)
        with pytest.raises(Killed):
            trainer.run(silent)
    loop.trainer(tmp_path, steps=6).run(silent)
    assert [row["step"] for row in history(tmp_path)] == [2, 4, 6]


def test_a_validation_that_is_not_a_number_is_never_the_best(loop: Loop, tmp_path: pathlib.Path) -> None:
    loop.curve = {2: 5.0, 4: math.nan, 6: math.nan}
    trainer = loop.trainer(tmp_path, steps=6)
    assert trainer.run(silent).step == 2
    assert kept(trainer) == 2


def test_a_loss_that_is_not_a_number_ends_it_and_says_what_to_do(loop: Loop, tmp_path: pathlib.Path) -> None:
    loop.breaks_at = 0
    with pytest.raises(Diverged, match=r"^step 1: total not .* no checkpoint yet.* learning_rate below 0\.0025$"):
        loop.trainer(tmp_path / "early").run(silent)
    loop.breaks_at = 3
    with pytest.raises(Diverged, match=r"^step 4: total not .* since the checkpoint .*ckpt-1, .* smaller adversarial$"):
        loop.trainer(tmp_path / "late", objective="gan").run(silent)
    assert [row["step"] for row in history(tmp_path / "late")] == [2]


def test_tensorboard_has_the_curves_and_pictures(
    loop: Loop, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = tf.cast(tf.random.stateless_uniform([3, 8, 32, 3], [1, 2], 0, 256, tf.int32), tf.uint8)
    monkeypatch.setattr(Trainer, "samples", lambda _: shown)
    loop.trainer(tmp_path).run(silent)
    (file,) = (tmp_path / "logs").iterdir()
    pictures: dict[int, list[bytes]] = {}
    scalars = set()
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            if value.tag == "damaged, restored, true, coloured":
                pictures[event.step] = list(value.tensor.string_val)
            else:
                scalars.add(value.tag)
    assert {"total", "score", "clean"} <= scalars
    assert list(pictures) == [2, 4]
    width, height, *encoded = pictures[4]
    assert (width, height) == (b"32", b"8")
    np.testing.assert_array_equal([tf.io.decode_png(one) for one in encoded], shown)


# The real thing


def fingerprint(trainer: Trainer) -> Validation:
    """Instead of the real validation, tested below, which would cost most of the time."""
    moved = float(sum(tf.reduce_sum(tf.abs(average)) for average in trainer._average))
    return Validation(float(trainer._step), -moved, moved, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("config", [TINY, GAN], ids=lambda config: config.objective)
def test_killed_and_resumed_is_never_killed(
    photographs: dict[str, list[Photograph]],
    tmp_path: pathlib.Path,
    eagerly: None,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
) -> None:
    monkeypatch.setattr(Trainer, "validate", fingerprint)
    monkeypatch.setattr(Trainer, "samples", lambda _: tf.zeros([1, 4, 16, 3], tf.uint8))
    whole = Trainer(config, photographs, normalise, tmp_path / "whole")
    best = whole.run(silent)

    step = Trainer._train_step

    def step_until_killed(trainer: Trainer, *given: Any) -> Any:
        if int(trainer._step) == 3:  # between two checkpoints: step 3 is lost and must be done again
            raise Killed
        return step.__get__(trainer, Trainer)(*given)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", step_until_killed)
        with pytest.raises(Killed):
            Trainer(config, photographs, normalise, tmp_path / "killed").run(silent)
    resumed = Trainer(config, photographs, normalise, tmp_path / "killed")
    again = resumed.run(silent)

    assert [row["step"] for row in history(tmp_path / "whole")] == [2, 4]
    for row, same in zip(history(tmp_path / "whole"), history(tmp_path / "killed"), strict=True):
        assert row["train"] == pytest.approx(same["train"], rel=1e-4)
        assert row["score"] == pytest.approx(same["score"], rel=1e-4)
    for name in ("_average", "_best"):
        for variable, same in zip(getattr(whole, name), getattr(resumed, name), strict=True):
            np.testing.assert_allclose(variable.numpy(), same.numpy(), atol=1e-6)
    assert dataclasses.asdict(again) == pytest.approx(dataclasses.asdict(best), rel=1e-4)
    if whole._critic is not None and resumed._critic is not None:
        assert history(tmp_path / "whole")[0]["train"]["critic"] > 0
        for variable, same in zip(whole._critic.variables, resumed._critic.variables, strict=True):
            np.testing.assert_allclose(variable.numpy(), same.numpy(), atol=1e-6, err_msg=variable.path)


def test_samples_show_what_validation_pictures_become(
    photographs: dict[str, list[Photograph]], tmp_path: pathlib.Path, eagerly: None
) -> None:
    """Under the same damage every time, by the averaged weights, which are not the current ones."""
    trainer = Trainer(
        dataclasses.replace(TINY, damage=Damage(clean=0.0, monochrome=0.0)), photographs, normalise, tmp_path
    )
    first = trainer.samples()
    assert first.shape == (1, SIGHT, 4 * SIGHT, 3)
    assert first.dtype == tf.uint8
    damaged, restored, true, coloured = (part.astype(float) for part in np.split(first.numpy(), 4, axis=2))
    photo = tf.image.resize(photographs["validation"][0].image[None], [SIGHT, SIGHT], method="area").numpy()
    assert np.abs(true - photo).max() < 2
    assert np.abs(damaged - true).mean() > 3
    assert np.abs(restored - damaged).mean() < 0.5 * np.abs(damaged - true).mean()  # untrained: next to nothing
    weights = np.array([0.2126, 0.7152, 0.0722])
    lightness = [(np.where(part > 10, part / 255, 0.04) ** 2.2) @ weights for part in (coloured, true)]
    assert np.abs(lightness[0] - lightness[1]).mean() < 0.01  # its luminance is the true picture's
    assert np.ptp(coloured, axis=3).mean() < 0.5 * np.ptp(true, axis=3).mean()

    for variable in trainer.generator.trainable_variables:
        variable.assign_add(tf.fill(variable.shape, 0.1))
    kept = [variable.numpy() for variable in trainer.generator.trainable_variables]
    np.testing.assert_array_equal(trainer.samples(), first)
    for variable, value in zip(trainer.generator.trainable_variables, kept, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_critic_learns_late_and_is_heard_later(
    photographs: dict[str, list[Photograph]], tmp_path: pathlib.Path, eagerly: None
) -> None:
    """With half of four steps as the beginning: the critic learns in the last two, the generator hears the last."""
    with_critic = Trainer(
        dataclasses.replace(GAN, adversarial_from=0.5, adversarial=30.0), photographs, normalise, tmp_path / "gan"
    )
    without = Trainer(TINY, photographs, normalise, tmp_path / "cnn")
    assert with_critic._critic is not None
    variables = with_critic._critic.variables
    same_until = []
    learned = []
    stream = iter(batches(photographs["train"], 2, 1, Variety()))
    for step in range(4):
        batch, before = next(stream), [variable.numpy() for variable in variables]
        result = with_critic._train_step(*batch, tf.constant([1, step]))
        plain = without._train_step(*batch, tf.constant([1, step]))
        assert set(result) == {*plain, "critic"} == {*Losses._fields, "critic"}
        assert all(math.isfinite(float(value)) for value in result.values())
        moved = any((variable.numpy() != value).any() for variable, value in zip(variables, before, strict=True))
        learned.append((moved, float(result["critic"]) > 0))
        pairs = zip(with_critic.generator.trainable_variables, without.generator.trainable_variables, strict=True)
        same_until.append(max(float(tf.reduce_max(tf.abs(one - other))) for one, other in pairs) < 1e-6)
    assert learned == [(False, False), (False, False), (True, True), (True, True)]
    assert same_until == [True, True, True, False]


@pytest.mark.parametrize(("begin", "full"), [(0.5, 1000), (0.2, 400), (0.8, 1000)])
def test_the_adversarial_strength_ramps(
    photographs: dict[str, list[Photograph]], tmp_path: pathlib.Path, begin: float, full: int
) -> None:
    config = dataclasses.replace(GAN, steps=1000, adversarial=0.3, adversarial_from=begin)
    trainer = Trainer(config, photographs, normalise, tmp_path)
    start = begin * 1000
    strengths = [
        float(trainer._adversarial_strength(tf.constant(float(step))))
        for step in (0, start, (start + full) / 2, full, 1000)
    ]
    assert strengths == pytest.approx([0, 0, 0.15, 0.3, 0.3], abs=1e-5)


def test_the_critic_tells_true_from_made_and_hears_the_caption() -> None:
    """Twenty steps on one batch of blue pictures against grey ones are enough."""
    import keras

    from models.critic import Critic

    keras.utils.set_random_seed(0)
    critic = Critic()
    print_ = tf.fill([4, VIEW, VIEW, 3], tf.constant(120, tf.uint8))
    truth = tf.tile(tf.constant([0.1, 0.2, 0.6]), [4 * VIEW * VIEW])
    truth, made = tf.reshape(truth, [4, VIEW, VIEW, 3]), tf.fill([4, VIEW, VIEW, 3], 0.2)
    ids, weights = tf.fill([4, 2], tf.constant(WORDS // 2, tf.int64)), tf.ones([4, 2])
    assert critic(truth, truth, ids, weights).shape == (4, 8, 8)
    optimizer = keras.optimizers.Adam(3e-3)
    scores = []
    for _ in range(20):
        with tf.GradientTape() as tape:
            loss = critic.critic_loss(truth, made, print_, ids, weights)
        optimizer.apply(tape.gradient(loss, critic.trainable_variables), critic.trainable_variables)
        scores.append(float(loss))
    assert scores[0] == pytest.approx(2, abs=0.5)
    assert scores[-1] < 0.7 * scores[0]
    true, false = (float(critic.generator_loss(image, print_, ids, weights)) for image in (truth, made))
    assert true < false  # what it takes for true costs the generator less
    deaf = float(critic.generator_loss(truth, print_, ids, tf.zeros_like(weights)))
    assert deaf != pytest.approx(true, abs=1e-4)


@pytest.mark.slow
def test_it_trains_compiled(photographs: dict[str, list[Photograph]], tmp_path: pathlib.Path) -> None:
    """Trains and validates as the command does, with a critic: compiled."""
    lines: list[str] = []
    config = dataclasses.replace(GAN, batch=4, steps=4)
    trainer = Trainer(config, photographs, normalise, tmp_path)
    start = [variable.numpy() for variable in trainer.generator.trainable_variables]
    best = trainer.run(lines.append)
    rows = history(tmp_path)
    assert [row["step"] for row in rows] == [2, 4]
    assert best.score == pytest.approx(min(row["score"] for row in rows))
    for row in rows:
        assert set(row["train"]) == {*Losses._fields, "critic"}
        assert all(math.isfinite(value) for value in row["train"].values())
        assert row["score"] == pytest.approx(row["colour"] + row["clean"] + 0.5 * row["invented"])
    assert len(lines) == 2
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")) is not None
    assert list((tmp_path / "logs").iterdir())
    assert trainer.generator.trainable_variables[0].numpy().any()

    # The best averages are in the generator. Validation scores them the same every time, and leaves weights alone.
    trained = [variable.numpy() for variable in trainer.generator.trainable_variables]
    assert np.mean([(one != other).any() for one, other in zip(start, trained, strict=True)]) > 0.8
    assert trainer.validate().score == pytest.approx(rows[-1]["score"], rel=1e-5)
    for variable, value in zip(trainer.generator.trainable_variables, trained, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    for average, value in zip(trainer._average, start, strict=True):
        average.assign(value)
    untrained = trainer.validate()
    assert untrained.untouched == pytest.approx(rows[0]["untouched"])
    assert untrained.untouched > 1
    assert untrained.colour == pytest.approx(untrained.untouched, rel=0.3)


def test_half_precision_is_close_and_can_be_undone(
    photographs: dict[str, list[Photograph]], tmp_path: pathlib.Path, eagerly: None
) -> None:
    """As on a GPU: the inner convolutions multiply in bfloat16; losses, gradients and weights stay float32."""
    trainers = [Trainer(TINY, photographs, normalise, tmp_path / name) for name in ("half", "full")]
    set_precision(trainers[0].generator, half=True)
    batch = next(iter(batches(photographs["train"], 4, 1, Variety())))
    half, full = (trainer._train_step(*batch, tf.constant([1, 0])) for trainer in trainers)
    for name, value in half.items():
        assert value.dtype == tf.float32
        assert float(value) == pytest.approx(float(full[name]), rel=0.05, abs=0.02)
    assert float(half["total"]) != float(full["total"])
    assert all(variable.dtype == "float32" for variable in trainers[0].generator.trainable_variables)
    set_precision(trainers[0].generator, half=False)
    trainers[0]._load(trainers[1]._average)
    trainers[1]._load(trainers[1]._average)
    one, other = (trainer.samples().numpy() for trainer in trainers)
    assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.slow
def test_two_devices_keep_the_same_weights(tmp_path: pathlib.Path) -> None:
    """Each device has its own pictures, dropout and damage; the step that both take is one."""
    here = pathlib.Path(__file__).parent
    command = [sys.executable, str(here / "two_devices.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(here.parent), str(here)))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["spread"] == 0
    assert found["moved"] > 1e-5
    assert all(math.isfinite(loss) for loss in found["loss"])
