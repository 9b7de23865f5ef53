"""The RunInference handler: many thumbnails a call, one bad picture harms no other, every model's pixels come back."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image
from pillow_files import file_of, gradient

from models import vetting
from models.contract import PALETTE, THUMBNAIL
from models.decision import Decision
from transforms import codecs, inference, limits
from transforms.guard import Guarded
from transforms.inference import Apply, Decided, DecideHandler, Thumbnail, Undecided, check_model
from transforms.items import ItemFailure, Pair, UsageError
from transforms.records import Source

NONE = np.zeros(0, np.float32)


def source(id: str, caption: str = "", level: int = 100, encoded: bytes | None = None, palette: Any = NONE) -> Source:
    picture = Image.fromarray(np.full((9, 12, 3), level, np.uint8))
    return Source(Pair(id, f"/in/{id}"), encoded or file_of(picture, "PNG"), caption, palette, None)


def undecided(*sources: Source) -> list[Undecided]:
    return [Thumbnail(1_000_000).run(one) for one in sources]


class Model:
    """Decides by the level of a thumbnail: 13 is unlucky, 66 gives what is not finite, 77 a confidence that is not.

    88 comes to no end.
    """

    reads_captions = True

    def __init__(self) -> None:
        self.calls: list[int] = []

    def decide(self, thumbnails: Any, captions: list[str], palettes: Any) -> list[Decision]:
        assert thumbnails.shape == (len(captions), THUMBNAIL, THUMBNAIL, 3)
        assert thumbnails.dtype == np.uint8
        assert palettes.shape == (len(captions), PALETTE)
        assert palettes.dtype == np.float32
        self.calls.append(len(captions))
        levels = thumbnails[:, 0, 0, 0].astype(int)
        if (levels == 13).any():
            raise RuntimeError("unlucky\nand more")
        while (levels == 88).any():
            time.sleep(0.01)
        values = np.where(levels == 66, np.nan, levels).astype(np.float32)
        return [
            Decision(
                f"{caption}/{palette.sum():.1f}", {"level": value}, {"faded": 0.1}, float("nan") if value == 77 else 0.5
            )
            for caption, palette, value in zip(captions, palettes, values, strict=True)
        ]

    def apply(self, pixels: Any, decision: Decision) -> Any:
        level = int(decision.coefficients["level"])
        if level == 5:
            return pixels[:1]
        if level == 6:
            return pixels.astype(np.uint16)
        if level == 7:
            raise RuntimeError("no\nmemory")
        return pixels + np.uint8(1)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(inference, "open_model", lambda *_: model)
    return model


class TestDecide:
    def run(self, model: Model, batch: list[Undecided]) -> list[Decided]:
        return list(DecideHandler("m").run_inference(batch, model))

    def test_one_call_for_a_batch_in_order(self, model: Model) -> None:
        ones = np.full(PALETTE, 1 / PALETTE, np.float32)
        batch = undecided(*(source(f"{n}", f"c{n}", n, palette=ones if n == 2 else NONE) for n in range(1, 5)))
        decided = self.run(model, batch)
        assert model.calls == [4]
        assert [one.undecided for one in decided] == batch
        assert [one.decision.coefficients["level"] for one in decided if one.decision] == [1, 2, 3, 4]
        assert [one.decision.caption for one in decided if one.decision] == ["c1/0.0", "c2/1.0", "c3/0.0", "c4/0.0"]
        assert all(one.failure is None for one in decided)

    @pytest.mark.parametrize("level", [13, 66, 77])
    def test_a_bad_picture_fails_alone(self, model: Model, level: int) -> None:
        levels = [1, 2, level, 4, level, 6]
        decided = self.run(model, undecided(*(source(f"{i}", level=value) for i, value in enumerate(levels))))
        assert model.calls == [6, 3, 1, 2, 1, 1, 3, 1, 2, 1, 1]
        assert [one.pair.id for one in decided] == list("012345")
        assert [one.decision is None for one in decided] == [value == level for value in levels]
        for one in decided:
            assert (one.failure is not None) == (one.decision is None)
            if one.failure:
                assert one.failure.error == "ModelFailed"
                assert "\n" not in one.failure.message
        if level == 13:
            assert decided[2].failure is not None
            assert decided[2].failure.message == "the model cannot decide: RuntimeError: unlucky"

    def test_one_bad_of_many_is_found_by_halves(self, model: Model) -> None:
        decided = self.run(model, undecided(*(source(f"{i}", level=13 if i == 21 else 1) for i in range(32))))
        assert [one.pair.id for one in decided if one.failure] == ["21"]
        assert len(model.calls) == 11  # and not 33

    def test_no_end(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch that hangs is taken apart at once; what hangs alone is recorded, and left behind."""
        monkeypatch.setattr(limits, "_GRACE", 0.0)
        batch = undecided(*(source(f"{i}", level=level) for i, level in enumerate([1, 2, 88, 4])))
        decided = list(DecideHandler("m", seconds=0.5).run_inference(batch, model))
        assert model.calls == [4, 1, 1, 1, 1]
        assert [one.decision is None for one in decided] == [False, False, True, False]
        assert (failure := decided[2].failure) is not None
        assert (failure.error, failure.retryable) == ("TimedOut", True)
        assert "raise --max_item_seconds" in failure.message

    def test_memory_that_does_not_suffice_for_a_batch(self, model: Model) -> None:
        """TensorFlow's own allocator refuses; later batches are as small as what went."""

        def hungry(thumbnails: Any, captions: list[str], palettes: Any, decide: Any = model.decide) -> Any:
            made = decide(thumbnails, captions, palettes)
            if len(captions) > 5 or "all" in captions:
                tf.zeros([1 << 48], tf.uint8)
            return made

        model.decide = hungry  # type: ignore[method-assign]
        handler = DecideHandler("m", max_batch_size=16)
        batch = undecided(*(source(f"{i}", level=i + 100) for i in range(16)))
        decided = list(handler.run_inference(batch, model))
        assert [one.undecided for one in decided] == batch
        assert all(one.failure is None for one in decided)
        assert model.calls == [16, 8, 4, 4, 4, 4]
        model.calls.clear()
        assert all(one.failure is None for one in handler.run_inference(batch, model))
        assert model.calls == [4, 4, 4, 4]
        [one] = handler.run_inference(undecided(source("a", "all")), model)
        assert one.failure is not None
        assert (one.failure.error, one.failure.retryable) == ("OutOfMemory", True)
        assert one.failure.message.startswith("not enough memory for the model to decide; run fewer workers")

    @pytest.mark.parametrize(("name", "value"), [("confidence", 7.0), ("fallback", -0.5), ("damage", 1.5)])
    def test_what_no_sound_model_says(self, model: Model, name: str, value: float) -> None:
        def mad(thumbnails: Any, captions: list[str], palettes: Any) -> Any:
            said: dict[str, Any] = {name: {"faded": value} if name == "damage" else value}
            return [Decision(caption, {}, **said) for caption in captions]

        model.decide = mad  # type: ignore[method-assign]
        [one] = self.run(model, undecided(source("a")))
        assert one.failure is not None
        assert one.failure.error == "ModelFailed"
        assert "not within 0..1" in one.failure.message

    def test_a_palette_of_another_length_fails_alone(self, model: Model) -> None:
        wrong = source("wrong", palette=np.ones(3, np.float32))
        decided = self.run(model, undecided(source("a"), wrong, source("b")))
        assert [one.failure is None for one in decided] == [True, False, True]

    def test_batches(self) -> None:
        assert DecideHandler("m").batch_elements_kwargs()["max_batch_size"] == 32
        for limit in (1, 2, 100):
            kwargs = DecideHandler("m", max_batch_size=limit).batch_elements_kwargs()
            assert 1 <= kwargs["min_batch_size"] <= kwargs["max_batch_size"] == limit

    def test_bytes_are_those_of_the_thumbnails(self) -> None:
        batch = undecided(source("a"), source("b"))
        assert DecideHandler("m").get_num_bytes(batch) == 2 * THUMBNAIL * THUMBNAIL * 3

    def test_in_a_pipeline(self, model: Model) -> None:
        """Decode, decide, apply: four bad pictures of three kinds among good ones, all in the same bundle."""
        sources = [source(f"{n:02d}", level=100 + n) for n in range(20)]
        sources[3] = source("03", level=13)
        sources[7] = source("07", encoded=b"no picture")
        sources[11] = source("11", level=7)
        sources[12] = source("12", level=66)
        with BeamPipeline(runner="FnApiRunner") as pipeline:
            small = pipeline | beam.Create(sources, reshuffle=False) | "Thumbnail" >> Guarded(Thumbnail(1_000_000))
            decided = small.results | RunInference(DecideHandler("m", max_batch_size=8))
            done = decided | "Apply" >> Guarded(Apply("m", 1, 1_000_000))
            assert_that(
                done.results | beam.Map(lambda r: (r.pair.id, int(r.pixels[0, 0, 0]))),
                equal_to([(f"{n:02d}", 101 + n) for n in range(20) if n not in (3, 7, 11, 12)]),
                label="good",
            )
            failed = (small.errors, done.errors) | beam.Flatten()
            assert_that(
                failed | "key" >> beam.Map(lambda e: (e.id, e.uri, e.stage, e.error)),
                equal_to(
                    [
                        ("03", "/in/03", "inference", "ModelFailed"),
                        ("07", "/in/07", "decode", "NotAnImage"),
                        ("11", "/in/11", "inference", "ModelFailed"),
                        ("12", "/in/12", "inference", "ModelFailed"),
                    ]
                ),
                label="bad",
            )


class TestApply:
    def decided(self, one: Undecided, level: int = 1) -> Decided:
        return Decided(one, Decision("", {"level": np.float32(level)}))

    def test_applies(self, model: Model) -> None:
        [one] = undecided(source("a"))
        restored = Apply("m", 1, 1_000_000).run(self.decided(one))
        np.testing.assert_array_equal(restored.pixels, restored.picture.pixels + 1)
        assert restored.pair.id == "a"

    def test_a_large_picture_is_decoded_again(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inference, "_KEPT_BYTES", 300)
        [large, small] = undecided(source("a"), source("b", encoded=file_of(Image.new("RGB", (10, 10)), "PNG")))
        assert large.picture is None
        assert small.picture is not None
        restored = Apply("m", 1, 1_000_000).run(self.decided(large))
        assert restored.pixels.shape == (9, 12, 3)

    @pytest.mark.parametrize(
        ("level", "message"), [(5, "not the input's shape"), (6, "not the input's shape"), (7, "RuntimeError: no.\)$")]
    )
    def test_what_the_model_must_not_give(self, model: Model, level: int, message: str) -> None:
        [one] = undecided(source("a"))
        with pytest.raises(ItemFailure, match=message) as caught:
            Apply("m", 1, 1_000_000).run(self.decided(one, level))
        assert caught.value.error == "ModelFailed"

    def test_a_picture_without_a_decision(self, model: Model) -> None:
        [one] = undecided(source("a"))
        with pytest.raises(ItemFailure, match="why"):
            Apply("m", 1, 1_000_000).run(Decided(one, None, ItemFailure("ModelFailed", "why")))
        with pytest.raises(ItemFailure, match="no decision"):
            Apply("m", 1, 1_000_000).run(Decided(one, None))

    def test_bad_pictures_never_reach_the_model(self) -> None:
        with pytest.raises(ItemFailure) as caught:
            Thumbnail(100).run(source("a"))
        assert caught.value.error == "TooManyPixels"


class TestRealModels:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_ours(self, saved_model: str, dtype: type) -> None:
        pixels = gradient(40, 50, dtype=dtype)
        encoded = file_of(Image.fromarray(pixels[..., 0] if dtype == np.uint16 else pixels), "TIFF")
        batch = undecided(source("a", "a harbour", encoded=encoded), source("b"))
        handler = DecideHandler(saved_model)
        decided = list(handler.run_inference(batch, handler.load_model()))
        restored = [Apply(saved_model, 1, 1_000_000).run(one) for one in decided]
        assert restored[0].pixels.dtype == dtype
        assert restored[0].pixels.shape == pixels.shape
        assert not np.array_equal(restored[0].pixels, restored[0].picture.pixels)
        assert [one.pair.id for one in restored] == ["a", "b"]

    def test_what_is_wished(self, saved_model: str) -> None:
        """Grey pictures are coloured as wished; without cleaning, noise is left alone."""
        [red, plain] = undecided(source("a", "a red door"), source("b", "a door"))

        def decided(colourise: str, clean: bool) -> list[Decision]:
            handler = DecideHandler(saved_model, colourise=colourise, clean=clean)
            made = handler.run_inference([red, plain], handler.load_model())
            return [one.decision for one in made if one.decision is not None]

        for colourise, coloured in (
            ("never", [False, False]),
            ("caption", [True, False]),
            ("always", [True, True]),
        ):
            decisions = decided(colourise, clean=colourise != "never")
            assert [bool(one.coefficients["chroma"].any()) for one in decisions] == coloured
            assert [one.colour_invented == 1 for one in decisions] == coloured
            assert {float(one.coefficients["detail"][0]) for one in decisions} == {float(colourise != "never")}

    @pytest.mark.parametrize(("name", "multiple"), [("inverted", 1), ("eights", 8)])
    def test_foreign(self, foreign_models: dict[str, str], name: str, multiple: int) -> None:
        folder = foreign_models[name]
        handler = DecideHandler(folder, multiple)
        [one] = handler.run_inference(undecided(source("a", level=100)), handler.load_model())
        assert (Apply(folder, multiple, 1_000_000).run(one).pixels == 155).all()

    @pytest.mark.parametrize("name", ["not finite", "smaller", "eights"])
    def test_foreign_models_that_fail_fail_by_item(self, foreign_models: dict[str, str], name: str) -> None:
        handler = DecideHandler(foreign_models[name])
        [one] = handler.run_inference(undecided(source("a")), handler.load_model())
        with pytest.raises(ItemFailure) as caught:
            Apply(foreign_models[name], 1, 1_000_000).run(one)
        assert caught.value.error == "ModelFailed"
        assert "\n" not in caught.value.message


class TestCheckModel:
    def test_sound(self, saved_model: str, foreign_models: dict[str, str]) -> None:
        assert check_model(saved_model) == vetting.digest(saved_model)
        assert check_model(foreign_models["inverted"]) == vetting.digest(foreign_models["inverted"])

    def test_not_a_model(self, tmp_path: pathlib.Path, foreign_models: dict[str, str]) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("x")
        (tmp_path / "keras").mkdir()
        (tmp_path / "keras" / "model.keras").write_text("x")
        (tmp_path / "rubbish").mkdir()
        (tmp_path / "rubbish" / "saved_model.pb").write_bytes(b"rubbish")
        for uri, message in (
            (f"{tmp_path}/nowhere", "does not exist"),
            (f"{tmp_path}/file", "file"),
            (f"{tmp_path}/empty", "saved_model.pb is missing"),
            (f"{tmp_path}/keras", "saved_model.pb is missing"),
            (f"{tmp_path}/rubbish", "saved_model.pb is damaged"),
            (foreign_models["scalar"], "must take one image batch"),
            (foreign_models["labels"], "must give one image batch"),
        ):
            with pytest.raises(UsageError, match=message) as caught:
                check_model(uri)
            assert str(caught.value).startswith(f"--model {uri} ")
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 700


def test_thumbnails_are_of_the_decoded_picture() -> None:
    [one] = undecided(source("a", encoded=file_of(Image.fromarray(gradient(300, 200)), "PNG")))
    np.testing.assert_array_equal(one.thumbnail, codecs.thumbnail(gradient(300, 200)))
