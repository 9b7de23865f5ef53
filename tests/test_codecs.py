"""Picture files: every kind comes back as what it was, and every kind of bad bytes is a failure with a name."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin
from pillow_files import ICC, exif_block, file_of, gradient

from models.contract import THUMBNAIL
from transforms import codecs
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
        for size in {1, 2, 4, 8, 12, 16, 20, 24, 30, 33, 50, 100, len(whole) // 3, len(whole) // 2}:
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
