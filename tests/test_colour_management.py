"""Colours through profiles: right by the textbook, and untouched where the model touches nothing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import profiles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from transforms import colour_management as cm

PROFILES = {
    "sRGB v2": ("RGB", profiles.rgb_v2(profiles.SRGB, None)),
    "sRGB v4": ("RGB", profiles.rgb_v4(profiles.SRGB, None)),
    "Adobe RGB v2": ("RGB", profiles.rgb_v2(profiles.ADOBE, 2.19921875)),
    "Adobe RGB v4": ("RGB", profiles.rgb_v4(profiles.ADOBE, 2.19921875)),
    "Display P3 v2": ("RGB", profiles.rgb_v2(profiles.P3, None)),
    "Display P3 v4": ("RGB", profiles.rgb_v4(profiles.P3, None)),
    "ProPhoto v2": ("RGB", profiles.rgb_v2(profiles.PROPHOTO, 1.80078125)),
    "ProPhoto v4": ("RGB", profiles.rgb_v4(profiles.PROPHOTO, 1.8)),
    "linear": ("RGB", profiles.rgb_v2(profiles.SRGB, 1.0)),
    "grey 1.8": ("GRAY", profiles.grey_v2(1.80078125)),
    "grey 2.2": ("GRAY", profiles.grey_v2(2.19921875)),
    "grey 2.2 v4": ("GRAY", profiles.version_4(profiles.grey_v2(2.19921875))),
    "grey file, RGB profile": ("GRAY", profiles.rgb_v2(profiles.ADOBE, 2.19921875)),
    "CMYK": ("CMYK", profiles.cmyk_v2()),
    "CMYK v4": ("CMYK", profiles.version_4(profiles.cmyk_v2())),
    "CMYK without": ("CMYK", None),
    "CIELAB without": ("LAB", None),
}
CHANNELS = {"GRAY": (), "RGB": (3,), "CMYK": (4,), "LAB": (3,)}


def noise(space: str, dtype: Any, seed: int = 0, shape: tuple[int, int] = (60, 70)) -> Any:
    """Every kind of colour, corners of the cube among them."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    values = rng.integers(0, top + 1, (*shape, *CHANNELS[space])).astype(dtype)
    values[:8] = rng.choice([0, top], (8, *values.shape[1:]))
    return values


class TestIdentity:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("name", PROFILES)
    def test_what_the_model_leaves_comes_back(self, name: str, dtype: Any) -> None:
        space, profile = PROFILES[name]
        convert = cm.conversion(space, profile)
        values = noise(space, dtype)
        working = cm.to_working(values, convert)
        assert working.shape == (60, 70, 3)
        assert working.dtype in (np.uint8, np.uint16)
        np.testing.assert_array_equal(cm.from_working(values, working, working.copy(), convert), values)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32, np.int16, np.int32])
    @pytest.mark.parametrize("name", ["sRGB v4", "ProPhoto v2", "grey 2.2"])
    def test_other_depths(self, name: str, dtype: Any) -> None:
        space, profile = PROFILES[name]
        convert = cm.conversion(space, profile)
        rng = np.random.default_rng(0)
        values = (rng.random((20, 30, *CHANNELS[space])) * (1.4 if np.dtype(dtype).kind == "f" else 30_000)).astype(
            dtype
        )
        working = cm.to_working(values, convert)
        assert working.dtype == np.uint16
        assert working.std() > 1000
        np.testing.assert_array_equal(cm.from_working(values, working, working.copy(), convert), values)

    def test_8_bits_of_srgb_stay_8(self) -> None:
        values = noise("RGB", np.uint8)
        for profile in (None, profiles.rgb_v4(profiles.SRGB, None), cm.SRGB):
            convert = cm.conversion("RGB", profile)
            assert convert.identity
            assert cm.to_working(values, convert) is values


class TestColoursAreRight:
    """Against the definitions, in float64, without littleCMS."""

    @pytest.mark.parametrize(
        ("profile", "points", "curve"),
        [
            (profiles.rgb_v2(profiles.ADOBE, 2.19921875), profiles.ADOBE, lambda code: code**2.19921875),
            (profiles.rgb_v4(profiles.P3, None), profiles.P3, profiles.srgb_curve),
            (profiles.rgb_v2(profiles.P3, None), profiles.P3, profiles.srgb_curve),
            (profiles.rgb_v2(profiles.PROPHOTO, 1.80078125), profiles.PROPHOTO, lambda code: code**1.80078125),
        ],
        ids=["Adobe RGB", "Display P3", "Display P3 v2", "ProPhoto"],
    )
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_rgb(self, profile: bytes, points: tuple[float, ...], curve: Any, dtype: Any) -> None:
        values = noise("RGB", dtype)
        working = cm.to_working(values, cm.conversion("RGB", profile))
        light = curve(values / np.iinfo(dtype).max) @ profiles.matrix_to_d50(points).T
        light = light @ np.linalg.inv(profiles.matrix_to_d50(profiles.SRGB)).T
        expected = profiles.srgb_code(light.clip(0, 1)) * 65535
        assert np.abs(working - expected).max() < 64  # a quarter of a code of 8 bits
        assert np.abs(working - expected).mean() < 8

    @pytest.mark.parametrize("gamma", [1.80078125, 2.19921875])
    def test_grey(self, gamma: float) -> None:
        values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        working = cm.to_working(values, cm.conversion("GRAY", profiles.grey_v2(gamma)))
        expected = profiles.srgb_code((values / 65535) ** gamma) * 65535
        assert np.abs(working - expected[..., None]).max() < 64

    def test_cmyk(self) -> None:
        nodes = np.linspace(0, 65535, 9).round().astype(np.uint16)[:5]  # light colours: black points are matched
        values = np.random.default_rng(0).choice(nodes, (60, 70, 4))
        working = cm.to_working(values, cm.conversion("CMYK", profiles.cmyk_v2()))
        expected = profiles.srgb_code(profiles.cmyk_light(values / 65535).clip(0, 1)) * 255
        assert np.abs(working / 257 - expected).max() < 5
        assert np.abs(working / 257 - expected).mean() < 2

    def test_cmyk_agrees_with_pillow(self) -> None:
        profile = profiles.cmyk_v2()
        values = noise("CMYK", np.uint8)
        working = cm.to_working(values, cm.conversion("CMYK", profile))
        image = Image.frombytes("CMYK", values.shape[1::-1], values.tobytes())
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "CMYK",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags,
        )
        expected = np.asarray(ImageCms.applyTransform(image, transform)).astype(float)
        assert np.abs(working / 257 - expected).max() < 1

    @pytest.mark.parametrize("name", ["Adobe RGB v2", "Display P3 v4", "ProPhoto v4", "grey 1.8"])
    def test_a_change_of_the_model_arrives(self, name: str) -> None:
        """A picture inside sRGB, made darker in sRGB, is the same as the darker picture converted."""
        space, profile = PROFILES[name]
        convert = cm.conversion(space, profile)
        rng = np.random.default_rng(3)
        shown = rng.integers(9000, 50000, (40, 50, 3)).astype(np.uint16)
        shown = shown[..., :1].repeat(3, axis=2) if space == "GRAY" else shown
        flat = shown.reshape(-1, 3)
        values = convert.from_working(flat).reshape(40, 50, *CHANNELS[space])
        working = cm.to_working(values, convert)
        darker = (working * 0.7).astype(np.uint16)
        restored = cm.from_working(values, working, darker, convert)
        again = cm.to_working(restored, convert)
        assert np.abs(again.astype(int) - darker).max() <= 40

    @pytest.mark.parametrize("profile", [profiles.cmyk_v2(), None], ids=["profile", "without"])
    def test_a_change_of_cmyk_arrives(self, profile: bytes | None) -> None:
        convert = cm.conversion("CMYK", profile)
        shown = np.random.default_rng(3).integers(20000, 50000, (40, 50, 3)).astype(np.uint16)
        values = (convert.from_working(shown.reshape(-1, 3)) // 257).astype(np.uint8).reshape(40, 50, 4)
        working = cm.to_working(values, convert)
        for share in (0.97, 0.6):
            wanted = (working * share).astype(np.uint16)
            again = cm.to_working(cm.from_working(values, working, wanted, convert), convert)
            error = np.abs(again / 257 - wanted / 257)
            assert error.mean() < 2.5
            assert np.abs(again.mean() - wanted.mean()) / 257 < 2

    def test_a_colour_outside_srgb_keeps_what_is_outside(self) -> None:
        convert = cm.conversion("RGB", PROFILES["ProPhoto v2"][1])
        values = np.array([[[0, 60000, 3000]]], np.uint16)  # a green that no sRGB screen shows
        working = cm.to_working(values, convert)
        assert working.max() == 65535 or working.min() == 0
        nearly = np.where(working > 300, working - 257, working).astype(np.uint16)
        moved = cm.from_working(values, working, nearly, convert)
        assert np.abs(moved.astype(int) - values).max() < 900


class TestAgainstLittleCms:
    @pytest.mark.parametrize("name", ["Adobe RGB v2", "Adobe RGB v4", "Display P3 v4", "ProPhoto v2", "linear"])
    def test_tables_are_its_numbers(self, name: str) -> None:
        space, profile = PROFILES[name]
        assert profile is not None
        convert, exact = cm.conversion(space, profile), cm._by_cms(profile, space)
        values = noise("RGB", np.uint16, 5).reshape(-1, 3)
        for ours, theirs in ((convert.to_working, exact.to_working), (convert.from_working, exact.from_working)):
            assert np.abs(ours(values).astype(int) - theirs(values)).max() <= 24


class TestBadProfiles:
    @pytest.mark.parametrize("space", ["GRAY", "RGB", "CMYK"])
    @pytest.mark.parametrize("profile", [b"", b"no profile" * 40, cm.SRGB[:200], cm.SRGB[:128] + bytes(400)])
    def test_broken(self, space: str, profile: bytes) -> None:
        with pytest.raises(cm.ProfileError):
            cm.conversion(space, profile)

    def test_of_another_space(self) -> None:
        with pytest.raises(cm.ProfileError, match="for CMYK, the picture is RGB"):
            cm.conversion("RGB", profiles.cmyk_v2())

    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from(["Adobe RGB v2", "ProPhoto v4", "grey 1.8", "CMYK"]), st.data())
    def test_damaged(self, name: str, data: st.DataObject) -> None:
        """A damaged profile is refused, or the identity still holds."""
        space, profile = PROFILES[name]
        assert profile is not None
        damaged = bytearray(profile)
        for _ in range(data.draw(st.integers(1, 6))):
            damaged[data.draw(st.integers(0, min(len(profile), 600) - 1))] = data.draw(st.integers(0, 255))
        try:
            convert = cm.conversion(space, bytes(damaged))
        except cm.ProfileError:
            return
        values = noise(space, np.uint8, shape=(9, 10))
        working = cm.to_working(values, convert)
        np.testing.assert_array_equal(cm.from_working(values, working, working.copy(), convert), values)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (1500, 700)])
def test_any_shape(shape: tuple[int, int]) -> None:
    convert = cm.conversion("RGB", PROFILES["Adobe RGB v2"][1])
    values = noise("RGB", np.uint8, shape=shape) if shape[0] >= 8 else np.full((*shape, 3), 77, np.uint8)
    working = cm.to_working(values, convert)
    assert working.shape == (*shape, 3)
    np.testing.assert_array_equal(cm.from_working(values, working, working, convert), values)
