"""SavedModels: our own and anybody's, and what is no model at all."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pillow_files import gradient

from models import correction, loading, vetting
from models.contract import COEFFICIENTS, DAMAGE_CLASSES, ORIGINS, PALETTE, THUMBNAIL
from models.decision import Decision, Model

Foreign = dict[str, str]


def apply(folder: str, pixels: np.ndarray, caption: str = "", size_multiple: int = 1) -> np.ndarray:
    model = loading.load(folder, size_multiple)
    thumbnails = np.zeros((1, THUMBNAIL, THUMBNAIL, 3), np.uint8)
    [decision] = model.decide(thumbnails, [caption], np.zeros((1, PALETTE), np.float32))
    return model.apply(pixels, decision)


class TestOurOwn:
    @pytest.fixture(scope="class")
    def model(self, saved_model: str) -> Model:
        return loading.load(saved_model)

    def test_decides_for_a_batch_as_for_each(self, model: Model) -> None:
        assert isinstance(model, loading.Generator)
        assert model.reads_captions
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        thumbnails = coarse.repeat(32, axis=1).repeat(32, axis=2)
        captions = ["", "Albumen silver print of a harbour", "港口 🚢"]
        palettes = rng.random((3, PALETTE), dtype=np.float32)
        together = model.decide(thumbnails, captions, palettes)
        assert [decision.caption for decision in together] == captions
        for index, decision in enumerate(together):
            [alone] = model.decide(
                thumbnails[index : index + 1], captions[index : index + 1], palettes[index : index + 1]
            )
            assert set(decision.coefficients) == set(COEFFICIENTS)
            for name in COEFFICIENTS:
                np.testing.assert_allclose(decision.coefficients[name], alone.coefficients[name], atol=1e-4)
            assert decision.confidence == pytest.approx(alone.confidence, abs=1e-4)
            assert list(decision.damage) == list(DAMAGE_CLASSES)
            assert decision.damage == pytest.approx(alone.damage, abs=1e-4)
            assert 0 <= (decision.confidence or 0) <= 1
            for name in ("confidence", "expected_error", "error_low", "error_high", "fallback"):
                assert type(getattr(decision, name)) is float
            assert (decision.error_low or 0) <= (decision.expected_error or 0) <= (decision.error_high or 0)
            assert sum(decision.colours.values()) == pytest.approx(1, abs=1e-5)
            assert list(decision.colours) == list(ORIGINS)
            assert decision.invented_error is None  # there is colour enough
        assert not np.allclose(together[0].coefficients["matrix"], together[1].coefficients["matrix"])

    @pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (3, [4]), (4, [4]), (5, [4, 1]), (10, [4, 4, 4])])
    def test_few_sizes_of_batch_as_on_a_gpu(
        self, model: loading.Generator, count: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = np.random.default_rng(0)
        thumbnails = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8).repeat(32, axis=1).repeat(32, axis=2)
        captions, palettes = [f"picture {index}" for index in range(count)], np.zeros((count, PALETTE), np.float32)
        assert model.batches == (1,)
        alone = model.decide(thumbnails, captions, palettes)
        seen, signature = [], model._decide

        def seeing(**given: tf.Tensor) -> Any:
            seen.append(len(given["thumbnail"]))
            return signature(**given)

        monkeypatch.setattr(model, "_decide", seeing)
        monkeypatch.setattr(model, "batches", (1, 4))
        together = model.decide(thumbnails, captions, palettes)
        assert seen == sizes
        assert [one.caption for one in together] == captions
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one.coefficients["matrix"], other.coefficients["matrix"], atol=1e-4)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 700), (333, 2), (61, 47)])
    def test_applies_at_any_size_and_depth(self, model: Model, dtype: type, shape: tuple[int, int]) -> None:
        thumbnails = np.zeros((1, THUMBNAIL, THUMBNAIL, 3), np.uint8) + np.uint8(90)
        [decision] = model.decide(thumbnails, ["x"], np.zeros((1, PALETTE), np.float32))
        restored = model.apply(gradient(*shape, dtype=dtype), decision)
        assert restored.shape == (*shape, 3)
        assert restored.dtype == dtype

    def test_a_grey_picture_is_measured_unless_coloured(self, model: Model) -> None:
        ramp = np.linspace(30, 220, THUMBNAIL).astype(np.uint8)
        thumbnails = np.broadcast_to(ramp[None, :, None, None], (1, THUMBNAIL, THUMBNAIL, 3)).copy()
        [decision] = model.decide(thumbnails, ["a red door"], np.zeros((1, PALETTE), np.float32))
        assert decision.asks
        assert (decision.invented_error or 0) > 0
        assert decision.colours == {"measured": 1.0, "amplified": 0.0, "invented": 0.0}
        grey, coloured = (
            model.apply(thumbnails[0], decision.as_wished(wish, clean=False)) for wish in ("never", "caption")
        )
        assert np.ptp(grey.astype(int), axis=-1).max() == 0
        assert np.ptp(coloured.astype(int), axis=-1).mean() > 1

    def test_digest(self, saved_model: str, tmp_path: pathlib.Path) -> None:
        digest = vetting.digest(saved_model)
        copy = tmp_path / "elsewhere"
        shutil.copytree(saved_model, copy)
        assert vetting.digest(str(copy)) == digest
        assert len(digest) == 64
        with (copy / "saved_model.pb").open("ab") as file:
            file.write(b"\0")
        assert vetting.digest(str(copy)) != digest
        shutil.rmtree(copy)
        shutil.copytree(saved_model, copy)
        (copy / "saved_model.pb").rename(copy / "other.pb")
        assert vetting.digest(str(copy)) != digest


class TestWishes:
    GREY = Decision(
        "a red door",
        {"chroma": np.ones((2, 2), np.float32), "detail": np.ones((), np.float32)},
        confidence=0.67,
        expected_error=4.0,
        error_low=2.0,
        error_high=6.0,
        fallback=0.1,
        colour_measured=1.0,
        colour_amplified=0.0,
        colour_invented=0.0,
        invented_error=10.0,
        asks=True,
    )

    @pytest.mark.parametrize(
        ("colourise", "asks", "coloured"),
        [
            ("never", True, False),
            ("caption", True, True),
            ("caption", False, False),
            ("always", False, True),
        ],
    )
    def test_grey(self, colourise: str, asks: bool, coloured: bool) -> None:
        wished = dataclasses.replace(self.GREY, asks=asks).as_wished(colourise, clean=True)
        assert bool(wished.coefficients["chroma"].any()) == coloured
        assert wished.coefficients["detail"] == 1
        assert self.GREY.coefficients["chroma"].any()  # the decision itself stays
        if coloured:
            assert wished.colours == {"measured": 0.0, "amplified": 0.0, "invented": 1.0}
            assert (wished.expected_error, wished.error_low, wished.error_high) == pytest.approx((10, 5, 15))
            assert wished.confidence == pytest.approx(np.exp(-1))
            assert wished.invented_error == 10
        else:
            assert wished.colours == self.GREY.colours
            assert (wished.expected_error, wished.confidence, wished.invented_error) == (4.0, 0.67, None)

    def test_invented_colours_are_never_surer_than_the_correction(self) -> None:
        sure = dataclasses.replace(self.GREY, invented_error=1.0).as_wished("always", clean=True)
        assert (sure.expected_error, sure.error_low, sure.error_high) == (4.0, 2.0, 6.0)

    @pytest.mark.parametrize("colourise", ["never", "caption", "always"])
    def test_a_picture_with_colour_stays(self, colourise: str) -> None:
        coloured = dataclasses.replace(self.GREY, invented_error=None)
        assert coloured.as_wished(colourise, clean=True) == coloured

    @pytest.mark.parametrize("colourise", ["never", "always"])
    def test_noise_stays(self, colourise: str) -> None:
        assert self.GREY.as_wished(colourise, clean=False).coefficients["detail"] == 0
        assert self.GREY.coefficients["detail"] == 1

    def test_a_foreign_model_knows_no_wishes(self) -> None:
        foreign = Decision("x", {})
        assert foreign.as_wished("always", clean=False) == foreign
        assert foreign.colours == {}


class TestForeign:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_floats_at_both_depths(self, foreign_models: Foreign, dtype: type) -> None:
        pixels = gradient(31, 17, dtype=dtype)
        restored = apply(foreign_models["inverted"], pixels)
        assert restored.dtype == dtype
        np.testing.assert_array_equal(restored, np.iinfo(dtype).max - pixels)
        assert not loading.load(foreign_models["inverted"]).reads_captions

    def test_caption(self, foreign_models: Foreign) -> None:
        pixels = gradient(20, 30)
        np.testing.assert_array_equal(apply(foreign_models["by caption"], pixels, "please invert 港"), 255 - pixels)
        np.testing.assert_array_equal(apply(foreign_models["by caption"], pixels, ""), pixels)
        assert loading.load(foreign_models["by caption"]).reads_captions

    def test_eight_bits_of_a_16_bit_picture(self, foreign_models: Foreign) -> None:
        pixels = gradient(20, 30, dtype=np.uint16)
        restored = apply(foreign_models["by caption"], pixels)
        assert restored.dtype == np.uint16
        assert np.abs(restored.astype(int) - pixels).max() <= 129  # half a step of 8 bits

    def test_says_nothing_of_confidence_and_damage(self, foreign_models: Foreign) -> None:
        model = loading.load(foreign_models["inverted"])
        thumbnails = np.zeros((2, THUMBNAIL, THUMBNAIL, 3), np.uint8)
        decisions = model.decide(thumbnails, ["a", "b"], np.zeros((2, PALETTE), np.float32))
        assert [(d.caption, d.coefficients, d.confidence, d.damage) for d in decisions] == [
            ("a", {}, None, {}),
            ("b", {}, None, {}),
        ]

    @pytest.mark.parametrize("shape", [(8, 16), (9, 15), (1, 1), (7, 64)])
    def test_size_multiple(self, foreign_models: Foreign, shape: tuple[int, int]) -> None:
        pixels = gradient(*shape)
        np.testing.assert_array_equal(apply(foreign_models["eights"], pixels, size_multiple=8), 255 - pixels)
        if shape != (8, 16):
            with pytest.raises(Exception, match="multiples of 8"):
                apply(foreign_models["eights"], pixels)

    def test_bad_outputs(self, foreign_models: Foreign) -> None:
        with pytest.raises(ValueError, match="not finite"):
            apply(foreign_models["not finite"], gradient())
        with pytest.raises(ValueError, match="32 x 24 pixels for 64 x 48.*--size_multiple"):
            apply(foreign_models["smaller"], gradient(48, 64))

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda image: image * 255.0, "reaches from 0 to 255, far outside 0..1"),
            (lambda image: image * 2.0 - 1.0, "reaches from -1 to 1, far outside 0..1"),
            (lambda image: image + tf.where(image > 0.9, np.float32("inf"), 0.0), "not finite"),
            (lambda image: image[:0], "IndexError|index 0"),
        ],
    )
    def test_values_that_are_no_pictures(self, function: Any, message: str, tmp_path: pathlib.Path) -> None:
        module = tf.Module()
        image = tf.TensorSpec([None, None, None, 3], tf.float32, "image")
        module.serve = tf.function(lambda image: {"y": function(image)}, input_signature=[image])
        tf.saved_model.save(module, f"{tmp_path}/model", signatures=module.serve)
        with pytest.raises((ValueError, IndexError), match=message):
            apply(f"{tmp_path}/model", gradient())

    def test_a_little_outside_is_clipped(self, tmp_path: pathlib.Path) -> None:
        module = tf.Module()
        image = tf.TensorSpec([None, None, None, 3], tf.float32, "image")
        module.serve = tf.function(lambda image: {"y": image * 1.1 - 0.05}, input_signature=[image])
        tf.saved_model.save(module, f"{tmp_path}/model", signatures=module.serve)
        restored = apply(f"{tmp_path}/model", gradient())
        assert (restored.min(), restored.max()) == (0, 255)


Change = Callable[[Any, dict[str, tf.TensorSpec]], tuple[dict[str, tf.TensorSpec], Any]]


def exported(folder: pathlib.Path, detail: Any, **changed: Change) -> str:
    """A small model with our signatures, which decides to change nothing; any of them may be changed.

    Without a detail network `apply_*` do nothing at all.
    """
    names = ("matrix", "slope", "field", "curves", "chroma", "detail")
    module = tf.Module()
    module.weights = [variable.value for variable in detail.weights] if detail else []

    def decide(thumbnail: tf.Tensor, caption: tf.Tensor, reference_palette: tf.Tensor) -> Any:
        count = tf.shape(thumbnail)[0]
        numbers = ("confidence", "expected_error", "error_low", "error_high", "fallback", "invented_error")
        return {
            **correction.identity(count)._asdict(),
            **{name: tf.fill([count], 0.5) for name in numbers},
            "damage": tf.fill([count, len(DAMAGE_CLASSES)], 0.5),
            "origin": tf.fill([count, len(ORIGINS)], 0.3),
            "asks": tf.fill([count], False),
        }

    def apply(image: tf.Tensor, **given: tf.Tensor) -> Any:
        if detail is None:
            return {"restored": tf.identity(image)}
        coefficients = correction.Coefficients(*(given[name] for name in names))
        return {"restored": correction.apply(image, coefficients, detail.remove)}

    one = {
        name: tf.TensorSpec(value.shape[1:], tf.float32, name)
        for name, value in correction.identity(1)._asdict().items()
    }
    signatures: dict[str, Any] = {
        "decide": (
            {
                "thumbnail": tf.TensorSpec([None, THUMBNAIL, THUMBNAIL, 3], tf.uint8, "thumbnail"),
                "caption": tf.TensorSpec([None], tf.string, "caption"),
                "reference_palette": tf.TensorSpec([None, PALETTE], tf.float32, "reference_palette"),
            },
            decide,
        ),
        "apply_uint8": ({"image": tf.TensorSpec([None, None, 3], tf.uint8, "image"), **one}, apply),
        "apply_uint16": ({"image": tf.TensorSpec([None, None, 3], tf.uint16, "image"), **one}, apply),
    }
    if detail:
        places = {"places": tf.TensorSpec([9, None, None, 3], tf.float32, "places")}
        signatures["noisiness"] = (places, lambda places: {"share": detail.noisiness(places)})
    made = {}
    for name, (specs, function) in signatures.items():
        taken, called = changed[name](function, specs) if name in changed else (specs, function)
        made[name] = tf.function(called).get_concrete_function(**taken)
    tf.saved_model.save(module, str(folder), signatures=made)
    return str(folder)


class TestPoisoned:
    """Models that look like ours, and are not: refused before a picture is seen."""

    def test_wrong_signatures(self, tmp_path: pathlib.Path) -> None:
        def without_confidence(inner: Any, specs: Any) -> Any:
            return specs, lambda **given: {k: v for k, v in inner(**given).items() if k != "confidence"}

        def doubled(inner: Any, specs: Any) -> Any:
            def function(**given: tf.Tensor) -> Any:
                return {k: tf.cast(v, tf.float64) if k == "matrix" else v for k, v in inner(**given).items()}

            return specs, function

        def small(inner: Any, specs: Any) -> Any:
            return {**specs, "thumbnail": tf.TensorSpec([None, 128, 128, 3], tf.uint8, "thumbnail")}, inner

        def floats(inner: Any, specs: Any) -> Any:
            return specs, lambda **given: {"restored": tf.cast(inner(**given)["restored"], tf.float32)}

        def wish(inner: Any, specs: Any) -> Any:
            return {**specs, "wish": tf.TensorSpec([], tf.string, "wish")}, lambda wish, **given: inner(**given)

        assert isinstance(loading.load(exported(tmp_path / "sound", None)), loading.Generator)
        changes: list[tuple[str, Change, str]] = [
            ("decide", without_confidence, "decide gives no confidence"),
            ("decide", doubled, "decide gives matrix as float64.*not float32"),
            ("decide", small, r"decide takes thumbnail as uint8\(None, 128, 128, 3\), not uint8\(None, 256"),
            ("apply_uint8", floats, "apply_uint8 gives restored as float32.*not uint8"),
            ("apply_uint16", wish, "apply_uint16 takes wish, too"),
        ]
        for index, (name, change, message) in enumerate(changes):
            folder = exported(tmp_path / str(index), None, **{name: change})
            with pytest.raises(vetting.ModelError, match=message):
                loading.load(folder)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_memory_that_does_not_suffice_for_a_picture(
        self, random_detail: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, dtype: type
    ) -> None:
        """Over 60 rows TensorFlow's allocator refuses: the picture comes strip by strip, the same; then not at all."""

        def hungry(inner: Any, specs: Any) -> Any:
            def function(image: tf.Tensor, **given: tf.Tensor) -> Any:
                # A red corner takes all the memory there is.
                enough = (tf.shape(image)[0] <= 60) & (image[0, 0, 0] == 0)
                size = tf.where(enough, tf.constant(1, tf.int64), tf.constant(1 << 48, tf.int64))
                food = tf.fill(size[None], tf.constant(0, tf.uint8))
                # Its sum is used, or the graph would be simplified until nothing is allocated.
                return inner(
                    image=image + tf.cast(tf.reduce_sum(tf.bitwise.invert(food)) // 255 - 1, image.dtype), **given
                )

            return specs, function

        folder = exported(tmp_path / "hungry", random_detail, **{f"apply_{np.dtype(dtype).name}": hungry})
        whole, in_strips = loading.load(exported(tmp_path / "sound", random_detail)), loading.load(folder)
        rng = np.random.default_rng(2)
        pixels = rng.integers(0, np.iinfo(dtype).max + 1, (211, 70, 3)).astype(dtype)
        pixels[:, 0] = 0
        same = {name: value.numpy()[0] for name, value in correction.identity(1)._asdict().items()}
        coefficients = {
            **same,
            "slope": rng.normal(0, 0.1, (3, 4)).astype(np.float32),
            "field": rng.uniform(-1, 1, same["field"].shape).astype(np.float32),
            "detail": np.ones(2, np.float32),
        }
        for chroma in (0.0, 20.0):
            coefficients["chroma"] = (chroma * rng.normal(size=same["chroma"].shape)).astype(np.float32)
            decision = Decision("", coefficients)
            at_once, hungry_ = whole.apply(pixels, decision), in_strips.apply(pixels, decision)
            with monkeypatch.context() as patch:  # a large picture comes in strips, too
                patch.setattr(loading, "_WHOLE", 0)
                patch.setattr(loading, "_STRIP", 70 * 30)
                large = whole.apply(pixels, decision)
            for one in (hungry_, large):
                away = np.abs(at_once.astype(int) - one)
                assert away.max() <= (1 if dtype == np.uint8 else 40)  # of 65535: a sixth of a code of 8 bits
                assert (away > 0).mean() < (0.01 if dtype == np.uint8 else 0.7)
        # Noise is judged once: two thirds of this picture have none, so it stays in the strips of the last third, too.
        quiet = np.full_like(pixels, np.iinfo(dtype).max // 2)
        quiet[150:] = pixels[150:]
        decision = Decision("", {**same, "detail": np.array([1, 0], np.float32)})
        with monkeypatch.context() as patch:
            patch.setattr(loading, "_WHOLE", 0)
            patch.setattr(loading, "_STRIP", 70 * 30)
            np.testing.assert_array_equal(whole.apply(quiet, decision), quiet)
        pixels[:, 0] = 1
        with pytest.raises(tf.errors.ResourceExhaustedError):
            in_strips.apply(pixels, decision)


class TestNoModel:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("scalar", "must take one image batch.*it takes x float32"),
            ("labels", r"must give one image batch of uint8 or float; it gives 0 \(label float32"),
            ("no serving signature", r"no serving_default signature \(only: other\)"),
        ],
    )
    def test_signatures_that_do_not_fit(self, foreign_models: Foreign, name: str, message: str) -> None:
        with pytest.raises(vetting.ModelError, match=message):
            loading.load(foreign_models[name])

    def test_not_a_saved_model(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(vetting.ModelError, match="saved_model.pb is missing"):
            loading.load(f"{tmp_path}/nowhere")
        with pytest.raises(vetting.ModelError, match="saved_model.pb is missing"):
            loading.load(str(tmp_path))
        (tmp_path / "saved_model.pb").write_bytes(b"this is no protocol buffer")
        with pytest.raises(
            vetting.ModelError, match="saved_model.pb is damaged.*export or copy the model again"
        ) as caught:
            loading.load(str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_half_a_model(self, foreign_models: Foreign, tmp_path: pathlib.Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(foreign_models["inverted"], copy)
        shutil.rmtree(copy / "variables")
        path = copy / "saved_model.pb"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(vetting.ModelError) as caught:
            loading.load(str(copy))
        assert "\n" not in str(caught.value)
