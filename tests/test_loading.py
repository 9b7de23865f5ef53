"""SavedModels: our own and anybody's, and what is no model at all."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest
from pillow_files import gradient

from models import loading
from models.contract import COEFFICIENTS, DAMAGE_CLASSES, PALETTE, THUMBNAIL

Foreign = dict[str, str]


def apply(folder: str, pixels: np.ndarray, caption: str = "", size_multiple: int = 1) -> np.ndarray:
    model = loading.load(folder, size_multiple)
    thumbnails = np.zeros((1, THUMBNAIL, THUMBNAIL, 3), np.uint8)
    [decision] = model.decide(thumbnails, [caption], np.zeros((1, PALETTE), np.float32))
    return model.apply(pixels, decision)


class TestOurOwn:
    @pytest.fixture(scope="class")
    def model(self, saved_model: str) -> loading.Model:
        return loading.load(saved_model)

    def test_decides_for_a_batch_as_for_each(self, model: loading.Model) -> None:
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
        assert not np.allclose(together[0].coefficients["matrix"], together[1].coefficients["matrix"])

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 700), (333, 2), (61, 47)])
    def test_applies_at_any_size_and_depth(self, model: loading.Model, dtype: type, shape: tuple[int, int]) -> None:
        thumbnails = np.zeros((1, THUMBNAIL, THUMBNAIL, 3), np.uint8) + np.uint8(90)
        [decision] = model.decide(thumbnails, ["x"], np.zeros((1, PALETTE), np.float32))
        restored = model.apply(gradient(*shape, dtype=dtype), decision)
        assert restored.shape == (*shape, 3)
        assert restored.dtype == dtype

    def test_digest(self, saved_model: str, tmp_path: pathlib.Path) -> None:
        digest = loading.digest(saved_model)
        copy = tmp_path / "elsewhere"
        shutil.copytree(saved_model, copy)
        assert loading.digest(str(copy)) == digest
        assert len(digest) == 64
        with (copy / "saved_model.pb").open("ab") as file:
            file.write(b"\0")
        assert loading.digest(str(copy)) != digest
        shutil.rmtree(copy)
        shutil.copytree(saved_model, copy)
        (copy / "saved_model.pb").rename(copy / "other.pb")
        assert loading.digest(str(copy)) != digest


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


class TestNoModel:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("scalar", "must take one image batch.*it takes x float32"),
            ("labels", "must give one image batch; it gives 0"),
            ("no serving signature", r"no serving_default signature \(only: other\)"),
        ],
    )
    def test_signatures_that_do_not_fit(self, foreign_models: Foreign, name: str, message: str) -> None:
        with pytest.raises(loading.ModelError, match=message):
            loading.load(foreign_models[name])

    def test_not_a_saved_model(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(loading.ModelError, match="saved_model.pb is missing"):
            loading.load(f"{tmp_path}/nowhere")
        with pytest.raises(loading.ModelError, match="saved_model.pb is missing"):
            loading.load(str(tmp_path))
        (tmp_path / "saved_model.pb").write_bytes(b"this is no protocol buffer")
        with pytest.raises(loading.ModelError, match="TensorFlow cannot load it") as caught:
            loading.load(str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_half_a_model(self, foreign_models: Foreign, tmp_path: pathlib.Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(foreign_models["inverted"], copy)
        shutil.rmtree(copy / "variables")
        path = copy / "saved_model.pb"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(loading.ModelError) as caught:
            loading.load(str(copy))
        assert "\n" not in str(caught.value)
