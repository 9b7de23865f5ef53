"""TIFF: every layout comes back in that layout, and nothing else of the file changes."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from pillow_files import file_of, gradient

from transforms import codecs, tiff
from transforms.items import ItemFailure

HEIGHT, WIDTH = 70, 90
KINDS = {
    "grey": ((HEIGHT, WIDTH), "u1", {"photometric": "minisblack"}),
    "white is zero": ((HEIGHT, WIDTH), "u2", {"photometric": "miniswhite"}),
    "rgb": ((HEIGHT, WIDTH, 3), "u1", {"photometric": "rgb"}),
    "rgb 16": ((HEIGHT, WIDTH, 3), "u2", {"photometric": "rgb"}),
    "predictor": ((HEIGHT, WIDTH, 3), "u2", {"photometric": "rgb", "predictor": 2}),
    "float": ((HEIGHT, WIDTH, 3), "f4", {"photometric": "rgb"}),
    "float predictor": ((HEIGHT, WIDTH), "f4", {"photometric": "minisblack", "predictor": 3}),
    "planar": ((3, HEIGHT, WIDTH), "u1", {"photometric": "rgb", "planarconfig": "separate"}),
    "tiled": ((HEIGHT, WIDTH, 3), "u2", {"photometric": "rgb", "tile": (32, 48)}),
    "strips": ((HEIGHT, WIDTH, 3), "u1", {"photometric": "rgb", "rowsperstrip": 8}),
    "alpha": ((HEIGHT, WIDTH, 4), "u2", {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "five samples": ((HEIGHT, WIDTH, 5), "u1", {"photometric": "rgb", "extrasamples": ["unassalpha", "unspecified"]}),
    "cmyk": ((HEIGHT, WIDTH, 4), "u2", {"photometric": "separated"}),
    "lab": ((HEIGHT, WIDTH, 3), "u1", {"photometric": "cielab"}),
    "lab 16": ((HEIGHT, WIDTH, 3), "u2", {"photometric": "cielab"}),
    "1 bit": ((HEIGHT, WIDTH), "bool", {"photometric": "minisblack"}),
    "1 bit, white is zero": ((HEIGHT, WIDTH), "bool", {"photometric": "miniswhite"}),
    "32 bit": ((HEIGHT, WIDTH), "u4", {"photometric": "minisblack"}),
    "signed": ((HEIGHT, WIDTH), "i2", {"photometric": "minisblack"}),
}
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def samples(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith("f"):
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def written(*pages: tuple[Any, dict[str, Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        for page, layout in pages:
            writer.write(page, metadata=None, software=False, **layout)
    return buffer.getvalue()


def opened(encoded: bytes) -> Any:
    return tifffile.TiffFile(io.BytesIO(encoded))


@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_layout(order: Any, big: bool, compression: str | None) -> None:
    second = samples((3, 4), "u1", 9)
    for name, (shape, dtype, layout) in KINDS.items():
        if "predictor" in layout and compression in (None, "packbits", "lzma"):
            continue
        pixels = samples(shape, dtype)
        tags = [(270, "s", 0, "Harbour", True), (65000, "s", 0, "private", True), (65001, "d", 2, (0.5, 2.5), True)]
        encoded = written(
            (pixels, {**layout, "compression": compression, "extratags": tags}),
            (second, {"photometric": "minisblack"}),
            byteorder=order,
            bigtiff=big,
        )
        read = tiff.read(encoded)
        out, bits, notes = tiff.write(encoded, read.values, read.extra, XMP)
        before, after = opened(encoded).pages, opened(out).pages
        np.testing.assert_array_equal(after[0].asarray(), pixels, err_msg=name)
        for fact in ("compression", "predictor", "photometric", "planarconfig", "is_tiled", "rowsperstrip"):
            assert getattr(after[0], fact) == getattr(before[0], fact), (name, fact)
        assert after[0].bitspersample == before[0].bitspersample == bits
        assert after[0].extrasamples == before[0].extrasamples
        assert (opened(out).byteorder, opened(out).is_bigtiff) == (order, big)
        assert len(after) == 2
        np.testing.assert_array_equal(after[1].asarray(), second)
        assert [after[0].tags[code].value for code in (270, 65000, 65001)] == ["Harbour", "private", (0.5, 2.5)]
        assert after[0].tags[700].value == XMP
        assert notes == []
        assert len(out) < len(encoded) + 2000, name  # laid into the old samples' place


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_odd_depths(bits: int) -> None:
    most = (1 << bits) - 1
    pixels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 7 % (most + 1)
    pixels = pixels.astype(np.uint8 if bits <= 8 else np.uint16)
    encoded = written((pixels, {"photometric": "minisblack", "bitspersample": bits}))
    picture = codecs.decode(encoded)
    assert picture.bits == bits
    assert picture.pixels.max() == np.iinfo(picture.pixels.dtype).max
    out = codecs.restored_file(picture, picture.pixels)
    assert out.bits == bits
    np.testing.assert_array_equal(opened(out.data).pages[0].asarray(), pixels)


def test_more_tones_than_fit() -> None:
    encoded = written((samples((HEIGHT, WIDTH), "bool"), {"photometric": "minisblack"}))
    picture = codecs.decode(encoded)
    restored = (picture.pixels // 2 + 30).astype(np.uint8)
    out = codecs.restored_file(picture, restored)
    assert out.bits == 8
    assert "1-bit samples became 8-bit" in out.notes[0]
    np.testing.assert_array_equal(codecs.decode(out.data).pixels, restored)


def test_a_palette_stays_while_its_colours_fit() -> None:
    picture = codecs.decode(file_of(Image.fromarray(gradient()).quantize(50), "TIFF"))
    darker = codecs.restored_file(picture, picture.pixels // 2)
    assert (Image.open(io.BytesIO(darker.data)).mode, darker.notes) == ("P", ())
    np.testing.assert_array_equal(codecs.decode(darker.data).pixels, picture.pixels // 2)
    many = codecs.restored_file(picture, gradient())
    assert Image.open(io.BytesIO(many.data)).mode == "RGB"
    assert "became too many" in many.notes[0]
    np.testing.assert_array_equal(codecs.decode(many.data).pixels, gradient())


def test_what_grows_is_appended_and_the_rest_stays() -> None:
    flat, noise = np.full((200, 200, 3), 90, np.uint8), samples((200, 200, 3), "u1")
    layout = {"photometric": "rgb", "compression": "lzw", "rowsperstrip": 16}
    encoded = written((flat, layout), (noise, layout))
    out, _, _ = tiff.write(encoded, noise, None, None)
    first, second = opened(out).pages
    np.testing.assert_array_equal(first.asarray(), noise)
    np.testing.assert_array_equal(second.asarray(), noise)


def test_strips_that_share_their_place_with_other_things_are_not_overwritten() -> None:
    pixels = samples((40, 40), "u1")
    encoded = bytearray(written((pixels, {"photometric": "minisblack"}), (pixels, {"photometric": "minisblack"})))
    pages = opened(bytes(encoded)).pages
    second = pages[1].tags[273]
    struct.pack_into("<I", encoded, second.valueoffset, pages[0].dataoffsets[0])  # both pages show the same samples
    out, _, _ = tiff.write(bytes(encoded), 255 - pixels, None, None)
    np.testing.assert_array_equal(opened(out).pages[0].asarray(), 255 - pixels)
    np.testing.assert_array_equal(opened(out).pages[1].asarray(), pixels)


class TestCutOff:
    @pytest.mark.parametrize(
        "layout", [{"rowsperstrip": 10}, {"tile": (16, 16)}, {"rowsperstrip": 10, "compression": "lzw"}]
    )
    @pytest.mark.parametrize("kind", ["rgb 16", "1 bit", "planar", "white is zero", "cmyk"])
    def test_missing_parts_become_white(self, kind: str, layout: dict[str, Any]) -> None:
        shape, dtype, own = KINDS[kind]
        pixels = samples(shape, dtype)
        encoded = written((pixels, {**own, **layout}))
        whole = codecs.decode(encoded).pixels
        cut = encoded[: len(encoded) * 2 // 3]
        with pytest.raises(ItemFailure, match="ends too early") as caught:
            codecs.decode(cut)
        assert caught.value.error == "Truncated"
        picture = codecs.decode(cut, allow_truncated=True)
        assert "the file was cut off" in picture.notes[0]
        top = np.iinfo(picture.pixels.dtype).max
        same = (picture.pixels == whole)[..., 0].mean()
        assert 0.3 < same <= 1
        assert (picture.pixels == top)[..., 2].mean() > 0.25
        if kind != "planar":
            assert ((picture.pixels == whole).all(axis=2) | (picture.pixels == top).all(axis=2)).all()
        again = codecs.decode(codecs.encode(picture, picture.pixels))
        np.testing.assert_array_equal(again.pixels, picture.pixels)


class TestBombs:
    def test_huge_tiles(self) -> None:
        encoded = bytearray(written((samples((64, 64), "u1"), {"photometric": "minisblack", "tile": (16, 16)})))
        for code in (322, 323):
            tag = opened(bytes(encoded)).pages[0].tags[code]
            struct.pack_into("<HHII", encoded, tag.offset, code, 4, 1, 65536)
        with pytest.raises(ItemFailure, match="tiles of 65536"):
            codecs.decode(bytes(encoded))

    def test_a_small_strip_with_a_huge_jpeg(self) -> None:
        encoded = bytearray(
            written((samples((64, 64), "u1"), {"photometric": "minisblack", "compression": 7, "rowsperstrip": 64}))
        )
        at = encoded.index(b"\xff\xc0")
        struct.pack_into(">HH", encoded, at + 5, 65000, 65000)
        with pytest.raises(ItemFailure, match="JPEG of 65000 x 65000"):
            codecs.decode(bytes(encoded))
