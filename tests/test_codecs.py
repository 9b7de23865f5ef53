"""Picture files: every kind comes back as what it was, and every kind of bad bytes is a failure with a name."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import imagecodecs
import numpy as np
import profiles
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from pillow_files import ICC, exif_block, file_of, gradient

from models.contract import THUMBNAIL
from transforms import captions, codecs, containers
from transforms.items import ItemFailure

RGB = Image.fromarray(gradient())
GREY16 = Image.fromarray(gradient(dtype=np.uint16)[..., 0])
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'


def again(encoded: bytes) -> tuple[Image.Image, Image.Image, codecs.Picture, codecs.Picture]:
    """A file decoded and encoded without a change: both opened by Pillow, both decoded."""
    picture = codecs.decode(encoded)
    written = codecs.encode(picture, picture.pixels)
    return Image.open(io.BytesIO(encoded)), Image.open(io.BytesIO(written)), picture, codecs.decode(written)


def failure(encoded: bytes, max_pixels: int = codecs.DEFAULT_MAX_PIXELS) -> ItemFailure:
    with pytest.raises(ItemFailure) as caught:
        codecs.decode(encoded, max_pixels)
    assert "\n" not in caught.value.message
    return caught.value


def eight(pixels: Any) -> Any:
    """Pixels of either depth on the scale of 8 bits."""
    return pixels / (257 if pixels.dtype == np.uint16 else 1)


LOSSLESS = {
    "png-1": (RGB.convert("1"), "PNG", {}, "1"),
    "png-l": (RGB.convert("L"), "PNG", {}, "L"),
    "png-la": (RGB.convert("LA"), "PNG", {}, "LA"),
    "png-p": (RGB.convert("P"), "PNG", {}, "P"),
    "png-rgb": (RGB, "PNG", {}, "RGB"),
    "png-rgba": (RGB.convert("RGBA"), "PNG", {}, "RGBA"),
    "png-16-bit": (GREY16, "PNG", {}, "I;16"),
    "tiff-1": (RGB.convert("1"), "TIFF", {}, "1"),
    "tiff-l": (RGB.convert("L"), "TIFF", {}, "L"),
    "tiff-la": (RGB.convert("LA"), "TIFF", {}, "LA"),
    "tiff-p": (RGB.convert("P"), "TIFF", {}, "P"),
    "tiff-rgb": (RGB, "TIFF", {}, "RGB"),
    "tiff-rgba": (RGB.convert("RGBA"), "TIFF", {}, "RGBA"),
    "tiff-16-bit": (GREY16, "TIFF", {}, "I;16"),
    "tiff-lzw": (RGB, "TIFF", {"compression": "tiff_lzw"}, "RGB"),
    "tiff-deflate": (RGB, "TIFF", {"compression": "tiff_adobe_deflate"}, "RGB"),
    "tiff-packbits": (RGB, "TIFF", {"compression": "packbits"}, "RGB"),
    "tiff-lzw-16-bit": (GREY16, "TIFF", {"compression": "tiff_lzw"}, "I;16"),
    "tiff-deflate-rgba": (RGB.convert("RGBA"), "TIFF", {"compression": "tiff_adobe_deflate"}, "RGBA"),
    "webp-lossless": (RGB, "WEBP", {"lossless": True}, "RGB"),
    "bmp": (RGB, "BMP", {}, "RGB"),
    "bmp-l": (RGB.convert("L"), "BMP", {}, "L"),
    "jp2": (RGB, "JPEG2000", {}, "RGB"),
    "jp2-16-bit": (GREY16, "JPEG2000", {}, "I;16"),
    "ppm": (RGB, "PPM", {}, "RGB"),
}


class TestRoundTrip:
    @pytest.mark.parametrize("name", LOSSLESS)
    def test_lossless(self, name: str) -> None:
        image, file_format, options, mode = LOSSLESS[name]
        before, after, picture, restored = again(file_of(image, file_format, **options))
        assert (after.format, after.size, after.mode) == (file_format, before.size, mode)
        np.testing.assert_array_equal(restored.pixels, picture.pixels)
        assert restored.pixels.dtype == picture.pixels.dtype == (np.uint16 if "16-bit" in name else np.uint8)
        assert picture.pixels.std() > 1
        assert (after.info.get("compression")) == before.info.get("compression")
        if picture.alpha is None:
            assert restored.alpha is None
        else:
            assert restored.alpha is not None
            np.testing.assert_array_equal(restored.alpha, picture.alpha)

    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_jpeg(self, subsampling: str, progressive: bool) -> None:
        encoded = file_of(RGB, "JPEG", quality=88, subsampling=subsampling, progressive=progressive)
        before, after, picture, restored = again(encoded)
        assert (after.format, after.size, after.mode) == ("JPEG", before.size, "RGB")
        assert after.layer == before.layer  # type: ignore[attr-defined]
        assert after.quantization == before.quantization  # type: ignore[attr-defined]
        assert bool(after.info.get("progressive")) == progressive
        assert np.abs(restored.pixels.astype(int) - picture.pixels).max() <= 6

    def test_jpeg_grey(self) -> None:
        before, after, picture, restored = again(file_of(RGB.convert("L"), "JPEG", quality=88))
        assert (after.format, after.size, after.mode, picture.grey) == ("JPEG", before.size, "L", True)
        assert np.abs(restored.pixels.astype(int) - picture.pixels).max() <= 3

    def test_jpeg_of_real_texture_is_the_same_again(self) -> None:
        rng = np.random.default_rng(0)
        noise = np.clip(gradient(200, 240) * 0.7 + 40 + rng.normal(0, 8, (200, 240, 3)), 0, 255).astype(np.uint8)
        _, _, picture, restored = again(file_of(Image.fromarray(noise), "JPEG", quality=92))
        difference = np.abs(restored.pixels.astype(float) - picture.pixels)
        assert difference.mean() < 1.0
        assert difference.max() < 16

    @pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
    def test_cmyk(self, file_format: str) -> None:
        before, after, picture, restored = again(
            file_of(RGB.convert("CMYK"), file_format, **({"quality": 95} if file_format == "JPEG" else {}))
        )
        assert (after.format, after.size, after.mode) == (file_format, before.size, "CMYK")
        assert np.abs(eight(picture.pixels) - gradient()).max() <= 8  # not inverted
        assert np.abs(eight(restored.pixels) - eight(picture.pixels)).max() <= 4

    def test_cmyk_with_a_broken_profile_is_read_all_the_same(self) -> None:
        picture = codecs.decode(file_of(RGB.convert("CMYK"), "JPEG", quality=95, icc_profile=b"no profile" * 20))
        assert np.abs(eight(picture.pixels) - gradient()).max() <= 8
        assert picture.notes == ("the embedded profile is broken: taken for plain CMYK",)
        assert Image.open(io.BytesIO(codecs.encode(picture, picture.pixels))).size == RGB.size

    def test_webp_lossy(self) -> None:
        before, after, picture, restored = again(file_of(RGB, "WEBP", quality=80))
        assert (after.format, after.size) == ("WEBP", before.size)
        assert np.abs(restored.pixels.astype(int) - picture.pixels).mean() < 2

    @pytest.mark.parametrize("options", [{}, {"transparency": 3}])
    def test_gif_becomes_png(self, options: dict[str, Any]) -> None:
        palette = RGB.quantize(16)
        before, after, picture, restored = again(file_of(palette, "GIF", **options))
        assert (before.format, after.format, after.size) == ("GIF", "PNG", before.size)
        np.testing.assert_array_equal(restored.pixels, picture.pixels)
        np.testing.assert_array_equal(picture.pixels, np.asarray(palette.convert("RGB")))
        if options:
            assert picture.alpha is not None
            assert set(np.unique(picture.alpha)) == {0, 255}

    def test_a_phones_mpo_becomes_jpeg(self) -> None:
        before, after, _, _ = again(file_of(RGB, "MPO", save_all=True, append_images=[RGB]))
        assert (before.format, after.format, after.size) == ("MPO", "JPEG", RGB.size)

    @pytest.mark.parametrize(
        ("image", "transparency", "clear"),
        [
            (RGB.convert("L"), 100, lambda pixels: pixels[..., 0] == 100),
            (RGB, (0, 0, 128), lambda pixels: (pixels == [0, 0, 128]).all(axis=-1)),
        ],
        ids=["grey", "rgb"],
    )
    def test_png_with_one_transparent_colour(self, image: Image.Image, transparency: Any, clear: Any) -> None:
        _, after, picture, restored = again(file_of(image, "PNG", transparency=transparency))
        assert after.mode == ("LA" if image.mode == "L" else "RGBA")
        assert picture.alpha is not None
        assert restored.alpha is not None
        np.testing.assert_array_equal(picture.alpha == 0, clear(picture.pixels))
        assert (picture.alpha == 0).any()
        np.testing.assert_array_equal(restored.alpha, picture.alpha)

    @pytest.mark.parametrize("mode", ["F", "I"])
    def test_tiff_of_32_bits_stays_so(self, mode: str) -> None:
        values = gradient(dtype=np.uint16)[..., 0]
        image = Image.fromarray((values / 65535).astype(np.float32) if mode == "F" else values.astype(np.int32))
        _, after, picture, restored = again(file_of(image, "TIFF"))
        assert (after.mode, after.size, picture.bits) == (mode, image.size, 32)
        np.testing.assert_array_equal(np.asarray(after), np.asarray(image))
        np.testing.assert_array_equal(picture.pixels[..., 0], values)
        np.testing.assert_array_equal(restored.pixels, picture.pixels)

    def test_lab(self) -> None:
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        _, after, picture, _ = again(file_of(ImageCms.applyTransform(RGB, to_lab), "TIFF"))
        assert after.size == RGB.size
        assert (after.mode, picture.mode) == ("LAB", "LAB")
        assert np.abs(eight(picture.pixels) - gradient()).mean() < 6

    @pytest.mark.parametrize(
        "kind", ["1 group4", "1 group3", "L jpeg", "RGB jpeg", "RGBA jpeg", "CMYK jpeg", "P tiff_lzw"]
    )
    def test_tiff_compressions_that_fit_few_modes(self, kind: str) -> None:
        """In a process of its own: a TIFF writer asked for what it cannot do may destroy the memory."""
        mode, compression = kind.split()
        code = (
            "import io, sys, numpy as np\nfrom PIL import Image\nfrom transforms import codecs\n"
            "p = codecs.decode(sys.stdin.buffer.read())\nout = codecs.encode(p, p.pixels)\n"
            "q = codecs.decode(out)\nassert Image.open(io.BytesIO(out)).format == 'TIFF'\n"
            "assert q.pixels.shape == p.pixels.shape and q.grey == p.grey\n"
            "assert np.abs(q.pixels.astype(int) - p.pixels).mean() < 3\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=file_of(RGB.convert(mode), "TIFF", compression=compression),
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr.decode()) == (0, "")

    def test_all_ways_of_one_pixel(self) -> None:
        for file_format in ("JPEG", "PNG", "TIFF", "WEBP", "BMP"):
            _, after, picture, _ = again(file_of(Image.new("RGB", (1, 1), (200, 100, 50)), file_format))
            assert (after.format, after.size) == (file_format, (1, 1))
            assert picture.pixels.shape == (1, 1, 3)

    def test_restored_pixels_are_what_is_written(self) -> None:
        picture = codecs.decode(file_of(RGB, "PNG"))
        inverted = 255 - picture.pixels
        np.testing.assert_array_equal(codecs.decode(codecs.encode(picture, inverted)).pixels, inverted)

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_any_size(self, data: st.DataObject) -> None:
        height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
        file_format = data.draw(st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM"]))
        mode = data.draw(st.sampled_from(["L", "RGB"]))
        before, after, picture, restored = again(
            file_of(Image.fromarray(gradient(height, width)).convert(mode), file_format)
        )
        assert (after.format, after.size) == (file_format, before.size)
        assert restored.pixels.shape == picture.pixels.shape == (height, width, 3)


class TestMetadata:
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_profile(self, file_format: str) -> None:
        _, after, _, _ = again(file_of(RGB, file_format, icc_profile=ICC))
        assert after.info["icc_profile"] == ICC

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    def test_exif(self, file_format: str) -> None:
        before, after, _, _ = again(file_of(RGB, file_format, exif=exif_block(orientation=6)))
        assert dict(after.getexif()) == dict(before.getexif())
        assert after.getexif()[0x0112] == 6
        assert after.size == before.size  # kept as stored; turning is the viewer's, by the same tag

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "BMP"])
    def test_resolution(self, file_format: str) -> None:
        before, after, _, _ = again(file_of(RGB, file_format, dpi=(300, 300)))
        assert after.info["dpi"] == pytest.approx(before.info["dpi"], abs=0.01)
        assert after.info["dpi"] == pytest.approx((300, 300), abs=0.1)

    def test_comment(self) -> None:
        _, after, _, _ = again(file_of(RGB, "JPEG", comment=b"Atelier Braun"))
        assert after.info["comment"] == b"Atelier Braun"

    @pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
    def test_xmp(self, file_format: str) -> None:
        _, after, _, _ = again(file_of(RGB, file_format, xmp=XMP))
        assert after.info["xmp"] == XMP

    def test_png_text(self) -> None:
        text = PngImagePlugin.PngInfo()
        text.add_text("Description", "Harbour")
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        text.add_itxt("Title", "港口 🚢")
        _, after, _, _ = again(file_of(RGB, "PNG", pnginfo=text))
        assert after.text == {  # type: ignore[attr-defined]
            "Description": "Harbour",
            "XML:com.adobe.xmp": XMP.decode(),
            "Title": "港口 🚢",
        }

    def test_tiff_tags(self) -> None:
        encoded = file_of(RGB, "TIFF", description="Harbour", artist="Braun", copyright="CC0", tiffinfo={700: XMP})
        _, after, _, _ = again(encoded)
        tags = after.tag_v2  # type: ignore[attr-defined]
        assert (tags[270], tags[315], tags[33432], tags[700]) == ("Harbour", "Braun", "CC0", XMP)

    def test_jpeg_iptc(self) -> None:
        iptc = b"\x1c\x02\x78\x00\x07Harbour"
        photoshop = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + len(iptc).to_bytes(4, "big") + iptc
        segment = b"\xff\xed" + (len(photoshop) + 2).to_bytes(2, "big") + photoshop
        before, after, _, _ = again(file_of(RGB, "JPEG", extra=segment))
        assert before.info["photoshop"][0x0404].startswith(iptc)
        assert after.info["photoshop"] == before.info["photoshop"]


def tiff_of(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=options.pop("bigtiff", False)) as writer:
        if options.get("planarconfig") == "separate":
            pixels = np.moveaxis(pixels, -1, 0)
        writer.write(pixels, **{"photometric": "rgb", **options})
    return buffer.getvalue()


WHOLE = {
    "jpeg": file_of(RGB, "JPEG", exif=exif_block(), icc_profile=ICC),
    "progressive": file_of(RGB, "JPEG", progressive=True),
    "cmyk": file_of(RGB.convert("CMYK"), "JPEG"),
    "png": file_of(RGB, "PNG", exif=exif_block(), icc_profile=ICC),
    "png-p": file_of(RGB.convert("P"), "PNG"),
    "png-16": file_of(GREY16, "PNG"),
    "tiff": file_of(RGB, "TIFF"),
    "tiff-lzw": file_of(RGB, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": file_of(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "webp": file_of(RGB, "WEBP"),
    "gif": file_of(RGB.convert("P"), "GIF"),
    "bmp": file_of(RGB, "BMP"),
    "jp2": file_of(RGB, "JPEG2000"),
    "avif": file_of(RGB, "AVIF"),
    "heif": file_of(RGB, "HEIF"),
    "ppm": file_of(RGB, "PPM"),
    "mpo": file_of(RGB, "MPO", save_all=True, append_images=[RGB]),
    "tiff-big": tiff_of(gradient(), bigtiff=True, tile=(16, 16)),
    "tiff-16": tiff_of(gradient(dtype=np.uint16), planarconfig="separate", photometric="rgb", compression="zlib"),
}
ERRORS = {"EmptyFile", "NotAnImage", "BadHeader", "UnknownFormat", "TooManyPixels", "Truncated", "Corrupt"}


class TestBadBytes:
    def test_empty(self) -> None:
        assert failure(b"").error == "EmptyFile"

    @pytest.mark.parametrize(
        "text", [b"<html>404 Not Found</html>", b"id,caption\n1,x\n", b"\0" * 1000, b"%PDF-1.4\n", b"PK\x03\x04" * 20]
    )
    def test_not_a_picture(self, text: bytes) -> None:
        assert failure(text).error == "NotAnImage"
        assert repr(text[:8]) in failure(text).message

    @pytest.mark.parametrize(
        ("file_format", "options", "error"),
        [
            ("JPEG", {}, {"Truncated"}),
            ("JPEG", {"progressive": True}, {"Truncated"}),
            ("PNG", {}, {"Truncated"}),
            ("BMP", {}, {"Truncated"}),
            ("WEBP", {}, {"Truncated", "BadHeader", "Corrupt"}),
            ("JPEG2000", {}, {"Truncated", "Corrupt"}),
            ("TIFF", {}, {"Truncated"}),
            ("TIFF", {"compression": "tiff_adobe_deflate"}, {"Truncated", "BadHeader"}),
        ],
    )
    def test_cut_off_in_the_pixels(self, file_format: str, options: dict[str, Any], error: set[str]) -> None:
        rng = np.random.default_rng(0)
        whole = file_of(Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)), file_format, **options)
        cut = failure(whole[: len(whole) * 2 // 3])
        assert cut.error in error
        assert "not a picture" not in cut.message
        assert cut.error != "Truncated" or "fetch it again" in cut.message

    @pytest.mark.parametrize("kind", WHOLE)
    def test_cut_off_anywhere(self, kind: str) -> None:
        whole = WHOLE[kind]
        for size in {1, 2, 4, 8, 12, 16, 20, 24, 30, 33, 50, 100, len(whole) // 3, len(whole) * 2 // 5}:
            try:
                codecs.decode(whole[:size])
            except ItemFailure as found:
                assert found.error in ERRORS - {"EmptyFile", "TooManyPixels"}
            else:
                pytest.fail(f"{size} of {len(whole)} bytes were taken for a picture")

    def test_header_only(self) -> None:
        png = WHOLE["png"]
        assert failure(png[:33]).error in {"Truncated", "BadHeader"}
        jpeg = WHOLE["jpeg"]
        assert failure(jpeg[: jpeg.index(b"\xff\xda")]).error in {"Truncated", "Corrupt", "BadHeader"}

    def test_too_many_pixels(self) -> None:
        width, height = RGB.size
        for kind, encoded in WHOLE.items():
            codecs.read_header(encoded, width * height)
            assert failure(encoded, width * height - 1).error == "TooManyPixels", kind
            with pytest.raises(ItemFailure, match="--max_pixels"):
                codecs.read_header(encoded, 10)

    def test_a_bomb_is_refused_by_its_header(self) -> None:
        encoded = bytearray(WHOLE["bmp"])
        encoded[18:26] = (60_000).to_bytes(4, "little") * 2
        assert failure(bytes(encoded)).error == "TooManyPixels"

    def test_format_that_is_not_read(self) -> None:
        assert failure(file_of(RGB, "TGA")).error in {"UnknownFormat", "NotAnImage"}
        assert failure(file_of(RGB, "ICO")).error == "UnknownFormat"

    @settings(max_examples=400, deadline=None)
    @given(
        st.sampled_from(sorted(WHOLE)),
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
        st.floats(0.02, 1),
        st.booleans(),
    )
    def test_damaged_anywhere(self, kind: str, flips: list[tuple[float, int]], share: float, head: bool) -> None:
        damaged = bytearray(WHOLE[kind])
        for place, value in flips:
            damaged[int(place * (min(len(damaged), 256) if head else len(damaged)))] = value
        encoded = bytes(damaged[: max(1, int(share * len(damaged)))])
        try:
            picture = codecs.decode(encoded, max_pixels=1_000_000)
        except ItemFailure as found:
            assert found.error in ERRORS
            found.message.encode()
            return
        assert picture.pixels.ndim == 3
        assert picture.pixels.shape[2] == 3
        assert picture.pixels.dtype in (np.uint8, np.uint16)
        assert codecs.thumbnail(picture.pixels).shape == (THUMBNAIL, THUMBNAIL, 3)
        try:
            written = codecs.encode(picture, picture.pixels)
        except ItemFailure as found:
            assert found.error == "EncodeFailed"
        else:
            assert codecs.decode(written).pixels.shape == picture.pixels.shape

    @given(st.binary(max_size=300))
    def test_rubbish(self, encoded: bytes) -> None:
        with pytest.raises(ItemFailure):
            codecs.decode(encoded, max_pixels=1_000_000)

    def test_header(self) -> None:
        assert codecs.read_header(WHOLE["tiff-lzw"]) == codecs.Header("TIFF", *RGB.size)


class TestCutOffAllowed:
    """`--allow_truncated`: what there is comes through, with a note."""

    @pytest.mark.parametrize(
        ("file_format", "options"),
        [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}), ("PPM", {})],
    )
    def test_by_pillow(self, file_format: str, options: dict[str, Any]) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        whole = file_of(Image.fromarray(noise), file_format, **options)
        cut = whole[: len(whole) * 2 // 3]
        assert failure(cut).error == "Truncated"
        picture = codecs.decode(cut, allow_truncated=True)
        assert picture.notes == ("the file was cut off: what was missing is filled",)
        same = (picture.pixels == codecs.decode(whole).pixels).all(axis=2)
        assert same.mean() > 0.2 or "progressive" in options
        assert same.mean() < 0.8
        written = codecs.restored_file(picture, picture.pixels)
        assert codecs.decode(written.data).pixels.shape == picture.pixels.shape  # whole again
        assert picture.notes[0] in written.notes

    @pytest.mark.parametrize("shape", [(80, 90), (80, 90, 3), (80, 90, 4)])
    def test_png_of_16_bits(self, shape: tuple[int, ...]) -> None:
        noise = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
        whole = bytes(imagecodecs.png_encode(noise))
        cut = whole[: len(whole) * 2 // 3]
        assert failure(cut).error == "Truncated"
        picture = codecs.decode(cut, allow_truncated=True)
        assert (picture.bits, len(picture.notes)) == (16, 1)
        same = (picture.pixels == codecs.decode(whole).pixels).all(axis=2)
        assert same[:50].all()
        assert not same[60:].any()

    def test_what_has_no_pixel_is_still_an_error(self) -> None:
        for kind, whole in WHOLE.items():
            for size in (3, 20, 40):
                try:
                    picture = codecs.decode(whole[:size], allow_truncated=True)
                except ItemFailure as found:
                    assert found.error in ERRORS
                else:
                    assert picture.notes, kind

    @pytest.mark.parametrize("kind", ["jp2", "heif", "avif"])
    def test_what_no_decoder_reads_in_part(self, kind: str) -> None:
        whole = WHOLE[kind]
        with pytest.raises(ItemFailure) as found:
            codecs.decode(whole[: len(whole) * 9 // 10], allow_truncated=True)
        assert found.value.error in ("Truncated", "Corrupt")
        assert kind != "jp2" or "part of a JPEG 2000" in str(found.value)

    def test_the_switch_does_not_stay_on(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        cut = file_of(Image.fromarray(noise), "JPEG")[:4000]
        codecs.decode(cut, allow_truncated=True)
        assert failure(cut).error == "Truncated"


class TestBombs:
    """Declared sizes are believed before anything is decoded: every format's header can be made to lie."""

    @pytest.mark.parametrize("kind", ["png", "png-16", "bmp", "gif", "jpeg", "jp2", "tiff", "webp-lossless", "avif"])
    def test_by_header(self, kind: str) -> None:
        encoded = bytearray(
            {
                **WHOLE,
                "webp-lossless": file_of(RGB, "WEBP", lossless=True),
                "avif": file_of(RGB, "AVIF"),
            }[kind]
        )
        width, height = RGB.size
        big = 60_000
        if kind.startswith("png"):
            encoded[16:24] = struct.pack(">II", big, big)
            encoded[29:33] = struct.pack(">I", zlib.crc32(encoded[12:29]))
        elif kind == "gif":
            encoded[6:10] = struct.pack("<HH", big, big)
        elif kind == "bmp":
            encoded[18:26] = struct.pack("<II", big, big)
        elif kind == "jpeg":
            at = encoded.index(b"\xff\xc0")
            encoded[at + 5 : at + 9] = struct.pack(">HH", big, big)
        elif kind == "jp2":
            at = encoded.index(b"\xff\x4f\xff\x51")  # the wrapper still says 64 x 48
            encoded[at + 8 : at + 16] = struct.pack(">II", big, big)
        elif kind == "tiff":
            for tag in (256, 257):
                at = encoded.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in encoded else 0
                at = at or encoded.index(struct.pack("<HHI", tag, 3, 1))
                encoded[at : at + 12] = struct.pack("<HHII", tag, 4, 1, big)
        elif kind == "webp-lossless":
            bits = struct.unpack_from("<I", encoded, 21)[0] & ~0xFFFFFFF | 0x3FFF | 0x3FFF << 14
            encoded[21:25] = struct.pack("<I", bits)
        else:
            at = encoded.index(b"ispe")
            assert struct.unpack_from(">II", encoded, at + 8) == (width, height)
            encoded[at + 8 : at + 16] = struct.pack(">II", big, big)
        limit = 100_000_000 if kind in ("webp-lossless",) else 400_000_000
        found = failure(bytes(encoded), limit)
        assert found.error in ({"TooManyPixels", "BadHeader", "NotAnImage"} if kind == "avif" else {"TooManyPixels"})

    def test_text_that_unfolds(self) -> None:
        """A PNG's compressed text of 100 MB is neither kept nor an end to the picture."""
        bomb = b"Comment\0\0" + zlib.compress(bytes(100_000_000))
        whole = WHOLE["png"]
        encoded = whole[:33] + containers.png_chunk(b"zTXt", bomb) + whole[33:]
        try:
            picture = codecs.decode(encoded)
        except ItemFailure as found:
            assert found.error in ERRORS
        else:
            assert bomb in codecs.encode(picture, picture.pixels)  # handed on as it is


class TestOddSizes:
    @pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (2, 3)])
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "JPEG2000", "BMP", "WEBP", "AVIF", "HEIF"])
    def test_thin(self, size: tuple[int, int], file_format: str) -> None:
        if max(size) > 16_383 and file_format in ("WEBP", "AVIF", "HEIF"):
            pytest.skip("the format has no such size")
        colour = (200, 100, 50)
        picture = codecs.decode(file_of(Image.new("RGB", size, colour), file_format))
        assert picture.pixels.shape == (size[1], size[0], 3)
        again = codecs.decode(codecs.encode(picture, picture.pixels))
        assert again.pixels.shape == picture.pixels.shape
        assert np.abs(again.pixels.astype(int) - colour).max() <= 8


class TestAnotherFormat:
    @pytest.mark.parametrize("written", codecs.OUTPUT_FORMATS)
    @pytest.mark.parametrize(
        "kind", ["jpeg", "png", "png-16", "tiff-lzw", "cmyk", "webp", "gif", "jp2", "alpha", "float"]
    )
    def test_output_format(self, kind: str, written: str) -> None:
        more = {
            "alpha": file_of(Image.fromarray(np.dstack([gradient(), gradient()[..., 0]])), "PNG"),
            "float": file_of(Image.fromarray(gradient()[..., 0] / np.float32(255)), "TIFF"),
        }
        picture = codecs.decode({**WHOLE, **more}[kind])
        made = codecs.restored_file(picture, picture.pixels, override=written)
        again = codecs.decode(made.data)
        assert (made.format, again.format) == (written, written)
        assert again.pixels.shape == picture.pixels.shape
        lossy = written in ("JPEG", "WEBP")  # which a dithered GIF shows most, and what alpha hides
        most = {"gif": 20, "alpha": 9}.get(kind, 3) if lossy else 1
        assert np.abs(eight(again.pixels) - eight(picture.pixels)).mean() < most
        assert (again.alpha is not None) == (picture.alpha is not None and written != "JPEG")
        if written != picture.format:
            assert any(f"was written as {written}" in note for note in made.notes)
        if picture.bits == 16 and written in ("PNG", "TIFF"):
            np.testing.assert_array_equal(again.pixels, picture.pixels)

    @pytest.mark.parametrize("written", ["PNG", "TIFF", "WEBP"])
    def test_what_comes_along(self, written: str) -> None:
        encoded = file_of(
            RGB, "JPEG", quality=95, exif=exif_block(orientation=6), icc_profile=ICC, xmp=XMP, dpi=(300, 300)
        )
        picture = codecs.decode(encoded)
        after = Image.open(io.BytesIO(codecs.restored_file(picture, picture.pixels, override=written).data))
        assert after.info["icc_profile"] == ICC
        assert after.getexif()[0x0112] == 6
        assert after.getexif()[0x8298] == "CC0"
        if written != "WEBP":
            assert after.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert (
            codecs._xmp_of(codecs.decode(codecs.restored_file(picture, picture.pixels, override=written).data)) == XMP
        )

    @pytest.mark.parametrize("written", codecs.OUTPUT_FORMATS)
    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_iptc_place_and_comment_come_along_or_are_told_of(self, kind: str, written: str) -> None:
        iptc = b"\x1c\x02\x78" + struct.pack(">H", 11) + b"The harbour"
        exif = Image.Exif()
        exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0)})
        exif[0x8825] = exif.get_ifd(0x8825)
        if kind == "JPEG":
            encoded = containers.jpeg_with_iptc(file_of(RGB, "JPEG", exif=exif.tobytes(), comment=b"box 7"), iptc)
        else:
            exif[33723] = iptc
            encoded = file_of(RGB, "TIFF", exif=exif)
        assert encoded
        assert captions.embedded_caption(encoded) == "The harbour"
        picture = codecs.decode(encoded)
        made = codecs.restored_file(picture, picture.pixels, override=written)
        told = " ".join(made.notes)
        assert (captions.iptc(made.data) == iptc) != ("IPTC was left out" in told)
        assert ("IPTC was left out" in told) == (written in ("PNG", "WEBP"))
        place = Image.open(io.BytesIO(made.data)).getexif().get_ifd(0x8825)
        if (kind, written) == ("JPEG", "TIFF"):
            assert "of EXIF only title" in told
        else:
            assert place[2] == (51.0, 30.0, 0.0)
        assert ("comment was left out" in told) == (kind == "JPEG" and written != "JPEG")

    def test_a_wide_profile_stays_with_its_samples(self) -> None:
        wide = profiles.rgb_v2(profiles.ADOBE, 2.19921875)
        picture = codecs.decode(file_of(RGB, "PNG", icc_profile=wide))
        assert picture.pixels.dtype == np.uint16
        for written in ("TIFF", "PNG", "WEBP"):
            made = Image.open(io.BytesIO(codecs.restored_file(picture, picture.pixels, override=written).data))
            assert made.info["icc_profile"] == wide
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(codecs.restored_file(picture, picture.pixels, override="TIFF").data))),
            gradient(),
        )


def small_bmp() -> bytes:
    """4 bits a pixel, which Pillow does not write."""
    table, rows = b"".join(bytes([17 * i] * 3 + [0]) for i in range(16)), bytes(range(128))
    info = struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 4, 0, len(rows), 2835, 2835, 16, 16)
    return b"BM" + struct.pack("<IHHI", 118 + len(rows), 0, 0, 118) + info + table + rows


def clear_png() -> bytes:
    """2 bits a pixel, one of the greys transparent."""
    header = struct.pack(">IIBBBBB", 8, 8, 2, 0, 0, 0, 0)
    rows = zlib.compress(b"\0\x1b\x1b" * 8)
    chunks = [(b"IHDR", header), (b"tRNS", b"\0\1"), (b"IDAT", rows), (b"IEND", b"")]
    return containers.PNG_SIGNATURE + b"".join(containers.png_chunk(*chunk) for chunk in chunks)


class TestNotes:
    """What is not written back as it was is told."""

    @pytest.mark.parametrize(
        ("encoded", "note"),
        [
            (small_bmp(), "4-bit samples became 8-bit"),
            (clear_png(), "2-bit samples became 8-bit"),
            (file_of(RGB.convert("YCbCr"), "TIFF"), "YCbCr was written as RGB"),
            (
                bytes(
                    imagecodecs.jpeg8_encode(
                        255 - np.asarray(RGB.convert("CMYK")), 90, colorspace="CMYK", outcolorspace="YCCK"
                    )
                ),
                "YCCK was written as CMYK",
            ),
        ],
    )
    def test_told(self, encoded: bytes, note: str) -> None:
        picture = codecs.decode(encoded)
        made = codecs.restored_file(picture, picture.pixels)
        assert any(told.startswith(note) for told in made.notes)
        again = codecs.decode(made.data)
        assert np.abs(eight(again.pixels) - eight(picture.pixels)).mean() < 2

    def test_ycbcr_that_is_not_subsampled(self) -> None:
        picture = codecs.decode(file_of(RGB.convert("YCbCr"), "TIFF"))
        np.testing.assert_array_equal(picture.pixels, np.asarray(RGB.convert("YCbCr").convert("RGB")))


class TestJpegParts:
    def test_12_bits(self) -> None:
        deep = gradient(dtype=np.uint16) >> 4
        encoded = bytes(imagecodecs.jpeg8_encode(deep, 95, bitspersample=12))
        picture = codecs.decode(encoded)
        assert (picture.bits, picture.pixels.dtype) == (12, np.uint16)
        assert np.abs(picture.pixels.astype(int) // 16 - deep).max() < 60
        made = codecs.restored_file(picture, picture.pixels)
        assert made.bits == 12
        assert np.abs(codecs.decode(made.data).pixels.astype(int) - picture.pixels).max() < 16 * 60

    def test_a_phones_video_behind_the_picture_stays(self) -> None:
        encoded = file_of(RGB, "JPEG") + b"....ftypmp42 a video \xff\xd8\xff\xd9"
        picture = codecs.decode(encoded)
        assert codecs.encode(picture, picture.pixels).endswith(b"\xff\xd9....ftypmp42 a video \xff\xd8\xff\xd9")

    def test_further_pictures_are_left_out_with_a_note(self) -> None:
        picture = codecs.decode(file_of(RGB, "MPO", save_all=True, append_images=[RGB]))
        made = codecs.restored_file(picture, picture.pixels)
        assert made.format == "JPEG"
        assert b"MPF\0" not in made.data
        assert "only the first of several pictures" in made.notes[0]

    def test_private_segments_stay_in_their_order(self) -> None:
        private = [
            (0xE5, b"scanner\0" + bytes(range(256))),
            (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
            (0xFE, b"one"),
            (0xFE, b"two"),
        ]
        plain = file_of(RGB, "JPEG", restart_marker_blocks=3)
        extra = b"".join(struct.pack(">BBH", 0xFF, m, len(b) + 2) + b for m, b in private)
        encoded = plain[:2] + extra + plain[2:]
        picture = codecs.decode(encoded)
        segments, _ = containers.jpeg_segments(codecs.encode(picture, picture.pixels))
        assert [segment for segment in segments if segment in private] == private
        assert containers.jpeg_restart_interval(codecs.encode(picture, picture.pixels)) == 3

    def test_rgb_stays_rgb(self) -> None:
        encoded = file_of(RGB, "JPEG", keep_rgb=True, quality=95)
        assert containers.jpeg_adobe_transform(encoded) == 0
        picture = codecs.decode(encoded)
        assert containers.jpeg_adobe_transform(codecs.encode(picture, picture.pixels)) == 0


class TestPngParts:
    def test_chunks_stay_in_their_order(self) -> None:
        plain = file_of(RGB, "PNG")
        private = [(b"prVt", b"private"), (b"tIME", b"\x07\xe0\1\1\1\1\1"), (b"tEXt", b"Title\0Harbour")]
        encoded = plain[:33] + b"".join(containers.png_chunk(*chunk) for chunk in private) + plain[33:-12]
        encoded += containers.png_chunk(b"tEXt", b"Comment\0after") + plain[-12:]
        picture = codecs.decode(encoded)
        kinds = [
            chunk
            for chunk in containers.png_chunks(codecs.encode(picture, picture.pixels))
            if chunk[0] not in (b"IHDR", b"IDAT", b"IEND")
        ]
        assert kinds == [*private, (b"tEXt", b"Comment\0after")]

    def test_an_animation_becomes_its_first_frame(self) -> None:
        encoded = file_of(RGB, "PNG", save_all=True, append_images=[RGB.rotate(90)])
        picture = codecs.decode(encoded)
        made = codecs.restored_file(picture, picture.pixels)
        assert made.notes == ("only the first frame of an animation was restored and kept",)
        assert getattr(Image.open(io.BytesIO(made.data)), "n_frames", 1) == 1
        assert {kind for kind, _ in containers.png_chunks(made.data)} == {b"IHDR", b"IDAT", b"IEND"}

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_few_bits(self, bits: int) -> None:
        levels = np.random.default_rng(0).integers(0, 1 << bits, (48, 64)).astype(np.uint8)
        indexed = Image.fromarray(levels)
        indexed.putpalette(np.random.default_rng(1).integers(0, 256, 3 << bits, dtype=np.uint8).tobytes())
        picture = codecs.decode(file_of(indexed, "PNG", bits=bits))
        made = codecs.restored_file(picture, picture.pixels)
        assert (made.bits, made.notes) == (bits, ())
        np.testing.assert_array_equal(codecs.decode(made.data).pixels, picture.pixels)
        many = codecs.restored_file(picture, gradient())
        assert "became too many" in many.notes[0]


class TestColoursOfPng:
    @pytest.mark.parametrize(
        ("chunks", "gamma"),
        [([(b"gAMA", 100_000)], 1.0), ([(b"gAMA", 55_556)], 1.8), ([(b"gAMA", 45_455)], None), ([], None)],
    )
    def test_gamma(self, chunks: list[tuple[bytes, int]], gamma: float | None) -> None:
        plain = file_of(RGB, "PNG")
        inner = b"".join(containers.png_chunk(kind, struct.pack(">I", value)) for kind, value in chunks)
        picture = codecs.decode(plain[:33] + inner + plain[33:])
        if gamma is None:
            assert picture.pixels.dtype == np.uint8
            return
        expected = profiles.srgb_code((gradient() / 255) ** gamma) * 255
        assert np.abs(eight(picture.pixels) - expected).max() < 0.6

    def test_srgb_goes_before_gamma(self) -> None:
        plain = file_of(RGB, "PNG")
        inner = containers.png_chunk(b"sRGB", b"\0") + containers.png_chunk(b"gAMA", struct.pack(">I", 100_000))
        assert codecs.decode(plain[:33] + inner + plain[33:]).pixels.dtype == np.uint8

    def test_what_is_not_supported_is_told(self) -> None:
        plain = file_of(RGB, "PNG")
        hdr = codecs.decode(plain[:33] + containers.png_chunk(b"cICP", bytes([9, 16, 0, 1])) + plain[33:])
        assert hdr.notes == ("colours of cICP 9/16 are not supported: taken for sRGB",)
        p3 = codecs.decode(plain[:33] + containers.png_chunk(b"cICP", bytes([12, 13, 0, 1])) + plain[33:])
        assert (p3.pixels.dtype, p3.notes) == (np.uint16, ())

    @pytest.mark.parametrize("file_format", ["AVIF", "HEIF"])
    def test_code_points_of_a_heif_without_profile(self, file_format: str) -> None:
        plain = file_of(RGB, file_format)
        at = plain.index(b"colrnclx") + 8

        def coded(primaries: int, transfer: int) -> bytes:
            return plain[:at] + struct.pack(">HH", primaries, transfer) + plain[at + 4 :]

        srgb, p3, hdr = (codecs.decode(coded(*points)) for points in ((1, 13), (12, 13), (9, 16)))
        assert (srgb.pixels.dtype, srgb.profile, srgb.notes) == (np.uint8, None, ())
        assert p3.profile
        by_profile = codecs.decode(file_of(RGB, "PNG", icc_profile=p3.profile)).pixels
        assert np.abs(p3.pixels.astype(int) - by_profile).mean() < 3 * 257  # lossy
        assert hdr.notes == ("colours of nclx 9/16 are not supported: taken for sRGB",)
        made = codecs.decode(codecs.encode(p3, p3.pixels))  # says its colours as it did, by a profile
        assert np.abs(made.pixels.astype(int) - p3.pixels).mean() < 3 * 257


class TestThumbnail:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (257, 255), (1500, 40)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_any_size(self, shape: tuple[int, int], dtype: Any) -> None:
        colour = np.array([200, 100, 50]) * (257 if dtype == np.uint16 else 1)
        thumbnail = codecs.thumbnail(np.broadcast_to(colour, (*shape, 3)).astype(dtype))
        assert thumbnail.shape == (THUMBNAIL, THUMBNAIL, 3)
        assert thumbnail.dtype == np.uint8
        assert (thumbnail == [200, 100, 50]).all()

    def test_area_average(self) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (THUMBNAIL * 3, THUMBNAIL * 2, 3), dtype=np.uint8)
        exact = pixels.reshape(THUMBNAIL, 3, THUMBNAIL, 2, 3).mean(axis=(1, 3))
        assert np.abs(codecs.thumbnail(pixels) - exact).max() <= 1

    def test_both_depths_agree(self) -> None:
        pixels = gradient(3000, 2500)
        deep = codecs.thumbnail(pixels.astype(np.uint16) * 257).astype(int)
        assert np.abs(deep - codecs.thumbnail(pixels)).max() <= 2

    def test_corners_keep_their_place(self) -> None:
        pixels = np.zeros((600, 900, 3), np.uint8)
        pixels[:300, :450] = 255
        thumbnail = codecs.thumbnail(pixels)
        assert thumbnail[:127, :127].min() == 255
        assert thumbnail[129:].max() == 0


FORMATS = sorted(codecs.EXTENSIONS)


class TestOutputName:
    @pytest.mark.parametrize(
        ("id", "format", "name"),
        [
            ("a", "JPEG", "a.jpg"),
            ("a.jpg", "JPEG", "a.jpg"),
            ("a.JPEG", "JPEG", "a.JPEG"),
            ("a.jpg", "PNG", "a.jpg.png"),
            ("a.tiff", "TIFF", "a.tiff"),
            ("box.1/a", "TIFF", "box.1/a.tif"),
            ("box.jpg/a", "JPEG", "box.jpg/a.jpg"),
            ("a.b.c", "WEBP", "a.b.c.webp"),
            ("1987.12", "JPEG", "1987.12.jpg"),
            ("a.gif", "GIF", "a.gif.png"),
            ("a.mpo", "MPO", "a.mpo.jpg"),
            ("a.jpg", "MPO", "a.jpg"),
            ("港口 🚢", "JPEG", "港口 🚢.jpg"),
        ],
    )
    def test_examples(self, id: str, format: str, name: str) -> None:
        assert codecs.output_name(id, format) == name

    @given(st.text(st.sampled_from("ab./jpgtifn 港"), min_size=1), st.sampled_from(FORMATS))
    def test_keeps_the_id_and_ends_like_its_format(self, id: str, format: str) -> None:
        name = codecs.output_name(id, format)
        assert name.startswith(id)
        added = name[len(id) :]
        extension = codecs.EXTENSIONS[codecs.output_format(format)]
        assert added in {"", extension}
        assert codecs.output_name(name, codecs.output_format(format)) == name  # never twice
        assert not (added and id.lower().endswith(extension) and "/" not in id[-len(extension) :])

    @given(st.text(st.sampled_from("ab./"), min_size=1), st.text(st.sampled_from("ab./"), min_size=1))
    def test_two_ids_share_no_name(self, first: str, second: str) -> None:
        if first != second:
            assert codecs.output_name(first, "JPEG") != codecs.output_name(second, "JPEG")


def _marked() -> Image.Image:
    """Four corners of four colours, of which no turn makes another."""
    pixels = np.full((32, 48, 3), 200, np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24] = (250, 20, 20), (20, 250, 20), (20, 20, 250)
    return Image.fromarray(pixels)


def _turned(kind: str, orientation: int) -> bytes:
    exif, picture = exif_block(orientation), _marked()
    if kind == "MPO":
        return file_of(picture, "MPO", exif=exif, save_all=True, append_images=[picture.rotate(90)], quality=95)
    if kind == "YCbCr TIFF":
        exif[530] = (1, 1)
        return file_of(picture.convert("YCbCr"), "TIFF", exif=exif, compression="tiff_adobe_deflate")
    return file_of(picture, kind, exif=exif)


def _upright(encoded: bytes) -> np.ndarray:
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    return np.asarray(shown.convert("RGB")).astype(int)


class TestOrientation:
    @pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "YCbCr TIFF", "AVIF", "HEIF"])
    def test_is_applied_or_kept_never_both(self, kind: str) -> None:
        """A viewer shows what it showed before, whatever the file is written as."""
        if kind == "HEIF":
            pytest.importorskip("pillow_heif")
        for orientation in (3, 6, 7):
            encoded = _turned(kind, orientation)
            before = _upright(encoded)
            if kind != "HEIF":  # its writer turns nothing
                assert before.shape == ((32, 48, 3) if orientation == 3 else (48, 32, 3))
            picture = codecs.decode(encoded)
            for override in (None, *codecs.OUTPUT_FORMATS):
                after = _upright(codecs.restored_file(picture, picture.pixels, override=override).data)
                assert after.shape == before.shape, (orientation, override)
                assert np.abs(after - before).mean() < 12, (orientation, override)


class TestColouredGreyTiff:
    @pytest.mark.parametrize(
        ("values", "options"),
        [
            (np.uint8, {"photometric": "minisblack", "iccprofile": profiles.grey_v2(1.8)}),
            (np.uint16, {"photometric": "miniswhite", "compression": "lzw", "predictor": 2}),
            (np.float32, {"photometric": "minisblack", "compression": 8, "predictor": 3}),
            (np.bool_, {"photometric": "minisblack"}),
        ],
    )
    def test_keeps_private_tags_and_pages(self, values: type, options: dict[str, Any]) -> None:
        grey = gradient(20, 30)[..., 1]
        stored = grey > 99 if values is np.bool_ else grey / np.float32(255) if values is np.float32 else grey
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            private = [(65000, "s", 0, "a scanner's own tag", True)]
            writer.write(np.asarray(stored, values), extratags=private, metadata=None, resolution=(600, 600), **options)
            writer.write(gradient(9, 8), photometric="rgb", metadata=None)
        picture = codecs.decode(buffer.getvalue())
        coloured = picture.pixels.copy()
        coloured[..., 0] //= 2
        made = codecs.restored_file(codecs.as_colour(picture, coloured), coloured)
        assert not any("left out" in note for note in made.notes)
        with tifffile.TiffFile(io.BytesIO(made.data)) as file:
            first, second = file.pages
            wanted = coloured if values in (np.uint16, np.float32) else codecs.decode(made.data).pixels
            np.testing.assert_array_equal(first.asarray(), wanted)
            assert first.asarray().dtype == (np.uint16 if values in (np.uint16, np.float32) else np.uint8)
            assert (first.photometric.name, first.samplesperpixel) == ("RGB", 3)
            assert first.tags[65000].value == "a scanner's own tag"
            assert first.tags["XResolution"].value == (600, 1)
            assert 34675 not in first.tags  # it was for greys
            np.testing.assert_array_equal(second.asarray(), gradient(9, 8))
        again = codecs.decode(made.data)
        assert again.space == "RGB"
        away = np.abs(again.pixels / np.iinfo(again.pixels.dtype).max - coloured / np.iinfo(coloured.dtype).max)
        assert away.max() <= 1 / 255


class TestCutOff:
    """What decoders would fill, or give up, without a word."""

    def test_a_jpeg_of_12_bits(self) -> None:
        deep = gradient(64, 96, dtype=np.uint16) >> 4
        whole = bytes(imagecodecs.jpeg8_encode(deep, 95, bitspersample=12))
        assert codecs.decode(whole + b"what a camera adds").notes == ()
        cut = whole[: len(whole) // 2]
        with pytest.raises(ItemFailure, match="the file ends too early") as caught:
            codecs.decode(cut)
        assert caught.value.error == "Truncated"
        picture = codecs.decode(cut, allow_truncated=True)
        assert picture.pixels.shape == (64, 96, 3)
        assert any("cut off" in note for note in picture.notes)

    def test_a_gif(self) -> None:
        noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (90, 80), dtype=np.uint8))
        whole = file_of(noise.convert("P"), "GIF")
        cut = whole[: len(whole) * 2 // 3]
        assert failure(cut).error == "Truncated"
        found, wanted = codecs.decode(cut, allow_truncated=True), codecs.decode(whole)
        assert (found.pixels == wanted.pixels).mean() > 0.5
        assert any("cut off" in note for note in found.notes)

    def test_half_a_heic_is_refused(self) -> None:
        pytest.importorskip("pillow_heif")
        whole = file_of(Image.fromarray(gradient(200, 300)), "HEIF", quality=90)
        with pytest.raises(ItemFailure):
            codecs.decode(whole[: len(whole) * 2 // 3], allow_truncated=True)


class TestColouredGrey:
    def coloured(self, encoded: bytes) -> codecs.RestoredFile:
        picture = codecs.decode(encoded)
        assert picture.grey
        pixels = picture.pixels.copy()
        pixels[..., 0] //= 2
        return codecs.restored_file(codecs.as_colour(picture, pixels), pixels)

    def test_a_jpeg_keeps_what_is_not_about_its_samples(self) -> None:
        grey = Image.fromarray(gradient(40, 60)[..., 1])
        exif = exif_block({0x010E: "Der Hafen"})
        plain = file_of(
            grey, "JPEG", quality=90, dpi=(600, 600), comment=b"box 7", exif=exif, icc_profile=profiles.grey_v2(1.8)
        )
        segments, scan = containers.jpeg_segments(plain)
        more = [
            (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0a\x1c\x02\x78\0\x05Hafen"),
            (0xE7, b"a scanner's own"),
        ]
        encoded = b"\xff\xd8" + b"".join(
            struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in [*segments, *more]
        )
        made = self.coloured(encoded + plain[scan:])
        kept = containers.jpeg_segments(made.data)[0]
        assert [segment for segment in [*segments, *more] if segment[0] in (0xE1, 0xE7, 0xED, 0xFE)] == [
            segment for segment in kept if segment[0] in (0xE1, 0xE7, 0xED, 0xFE)
        ]
        with Image.open(io.BytesIO(made.data)) as image:
            assert (image.mode, image.info["dpi"], image.info.get("icc_profile")) == ("RGB", (600, 600), None)
        assert codecs.decode(made.data).space == "RGB"

    @pytest.mark.parametrize("alpha", [False, True])
    def test_a_png_keeps_what_is_not_about_its_samples(self, alpha: bool) -> None:
        grey = Image.fromarray(gradient(40, 60)[..., 1])
        if alpha:
            grey.putalpha(Image.fromarray(gradient(40, 60)[..., 0]))
        plain = file_of(grey, "PNG", dpi=(600, 600), icc_profile=profiles.grey_v2(1.8))
        own = [
            (b"tEXt", b"Title\0Der Hafen"),
            (b"prVt", b"a scanner's own"),
            (b"tIME", b"\x07\xe6\x01\x02\x03\x04\x05"),
        ]
        end = plain.index(b"IDAT") - 4
        made = self.coloured(plain[:end] + b"".join(containers.png_chunk(*chunk) for chunk in own) + plain[end:])
        chunks = list(containers.png_chunks(made.data))
        assert [chunk for chunk in chunks if chunk in own] == own
        assert not {kind for kind, _ in chunks} & {b"iCCP", b"gAMA", b"sBIT"}
        with Image.open(io.BytesIO(made.data)) as image:
            image.load()
            assert image.mode == ("RGBA" if alpha else "RGB")
            assert round(image.info["dpi"][0]) == 600
            if alpha:
                np.testing.assert_array_equal(np.asarray(image)[..., 3], gradient(40, 60)[..., 0])
