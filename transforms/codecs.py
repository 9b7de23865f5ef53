"""Picture files <-> pixels, through Pillow. Every way a file can be bad becomes an `ItemFailure` that names it."""

from __future__ import annotations

import dataclasses
import io
import struct
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from models.contract import THUMBNAIL
from transforms.items import ItemFailure

DEFAULT_MAX_PIXELS = 400_000_000
"""Larger pictures are refused by their header, before anything is decoded."""

EXTENSIONS = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "JPEG2000": ".jp2",
    "GIF": ".gif",
    "PPM": ".ppm",
}
"""Formats that are read, by Pillow's name, with the extension of an output whose id has none."""

_OWN_EXTENSIONS = {
    "JPEG": {".jpg", ".jpeg", ".jpe"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".mpo"},
    "PNG": {".png"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
    "BMP": {".bmp"},
    "JPEG2000": {".jp2", ".j2k", ".jpx"},
    "PPM": {".ppm", ".pgm", ".pnm"},
}

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP": "JPEG 2000",
}
"""First bytes of formats that are read: a file with these that cannot be opened is cut off, not a stranger."""

# The limit is ours, by header, per call; Pillow's global one would fail silently smaller or warn.
Image.MAX_IMAGE_PIXELS = None


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known before decoding: format (Pillow's name), width and height in pixels as stored."""

    format: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
      pixels: uint8 or uint16 [H, W, 3], sRGB; a grey picture has three equal channels.
      alpha: uint8 [H, W], or None.
      grey: Whether the file is single-channel, and is to be written so again.
      format: Pillow's name of the file's format.
      mode: Pillow's mode as stored, e.g. `CMYK`.
      bits: Of a sample as stored; more than `pixels` holds where Pillow reads 16-bit colour as 8.
      save: What `encode` hands on to the writer: profile, EXIF, resolution, quality tables.
    """

    pixels: npt.NDArray[Any]
    alpha: npt.NDArray[np.uint8] | None
    grey: bool
    format: str
    mode: str
    bits: int
    save: dict[str, Any]


def _open(encoded: bytes, max_pixels: int) -> Image.Image:
    if not encoded:
        raise ItemFailure("EmptyFile", "the file has no bytes; fetch it again from its source")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError:
        start = encoded[:8]
        if known := next((name for magic, name in _SIGNATURES.items() if start.startswith(magic)), None):
            message = f"starts like a {known} file, but its header is missing or broken; fetch it again from its source"
            raise ItemFailure("Truncated", message) from None
        raise ItemFailure("NotAnImage", f"not a picture in any known format (it starts with {start!r})") from None
    except Exception as error:
        raise ItemFailure("BadHeader", f"the picture's header is broken: {_first_line(error)}") from error
    if image.format not in EXTENSIONS:
        raise ItemFailure("UnknownFormat", f"{image.format} files are not supported; convert to TIFF, PNG or JPEG")
    if image.width * image.height > max_pixels:
        raise ItemFailure(
            "TooManyPixels",
            f"{image.width} x {image.height} pixels are over the limit of {max_pixels:,}; raise --max_pixels",
        )
    return image


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def read_header(encoded: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """Format and size, without decoding.

    Raises:
      ItemFailure: `EmptyFile`, `NotAnImage`, `BadHeader`, `UnknownFormat`, `TooManyPixels`.
    """
    image = _open(encoded, max_pixels)
    return Header(str(image.format), image.width, image.height)


def decode(encoded: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Decodes the first frame.

    Raises:
      ItemFailure: as `read_header`, and `Truncated` or `Corrupt`.
    """
    image = _open(encoded, max_pixels)
    try:
        save, bits = _save_options(image), _stored_bits(image)
        image.load()
        return _to_picture(image, bits, save)
    except (ItemFailure, MemoryError):
        raise
    except Exception as error:
        text = _first_line(error)
        if "truncated" in text.lower() or isinstance(error, (EOFError, IndexError, struct.error)):
            raise ItemFailure(
                "Truncated", f"the file ends too early ({text}); fetch it again from its source"
            ) from error
        raise ItemFailure("Corrupt", f"the picture data is damaged: {text}") from error


_TIFF_COMPRESSIONS = {"tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd", "lzma"}
"""Those that take every mode. libtiff refuses others for some, and Pillow's heap does not survive a refusal."""

_TIFF_TEXT = (270, 271, 272, 305, 306, 315, 316, 33432, 700, 33723, 34377)
"""Tags that describe a picture: title, maker, model, software, date, artist, host, copyright, XMP, IPTC, Photoshop."""


def _save_options(image: Image.Image) -> dict[str, Any]:
    """What the writer of the same format needs to give the file back as it came. Read before pixels are touched."""
    options: dict[str, Any] = {}
    for name in ("icc_profile", "exif", "dpi", "comment", "xmp"):
        value = image.info.get(name)
        if value:
            options[name] = value
    if image.format in ("JPEG", "MPO"):
        options["qtables"] = getattr(image, "quantization", None)
        options["progressive"] = bool(image.info.get("progressive"))
        sampling = JpegImagePlugin.get_sampling(image)
        if sampling >= 0:
            options["subsampling"] = sampling
        options["extra"] = b"".join(
            b"\xff\xed" + struct.pack(">H", len(data) + 2) + data
            for marker, data in getattr(image, "applist", [])
            if marker == "APP13"  # Photoshop's block, which holds IPTC
        )
    if image.format == "TIFF":
        compression = image.info.get("compression", "raw")
        if compression != "raw":
            options["compression"] = compression if compression in _TIFF_COMPRESSIONS else "tiff_adobe_deflate"
        tags = getattr(image, "tag_v2", {})
        options["tiffinfo"] = {tag: tags[tag] for tag in _TIFF_TEXT if tag in tags}
        options.pop("xmp", None)  # stands in its tag
    if image.format == "PNG":
        texts = PngImagePlugin.PngInfo()
        for key, text in getattr(image, "text", {}).items():
            if key != "XML:com.adobe.xmp" or "xmp" not in options:
                texts.add_itxt(key, str(text))
        if xmp := options.pop("xmp", None):
            texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp)
        options["pnginfo"] = texts
    if image.format == "WEBP" and encoded_lossless(image):
        options["lossless"] = True
    return options


def _stored_bits(image: Image.Image) -> int:
    """Bits of a sample as the file stores it; Pillow reads 16-bit colour as 8."""
    if image.format == "TIFF":
        return int(getattr(image, "tag_v2", {}).get(258, (1,))[0])
    if image.format == "PNG":
        return 16 if ";16" in str(getattr(image, "tile", "")) else 8
    return 16 if image.mode.startswith("I") else 8


def encoded_lossless(image: Image.Image) -> bool:
    """Whether a WebP was compressed without loss: its first chunk says so (`VP8L`)."""
    file = getattr(image, "fp", None)
    if file is None:
        return False
    position = file.tell()
    file.seek(0)
    head = file.read(64)
    file.seek(position)
    return b"VP8L" in head


def _to_picture(image: Image.Image, bits: int, save: dict[str, Any]) -> Picture:
    mode, file_format = image.mode, str(image.format)
    alpha: npt.NDArray[np.uint8] | None = None
    if mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        grey16 = np.asarray(image).astype(np.uint16)
        return Picture(np.repeat(grey16[..., None], 3, axis=2), None, True, file_format, mode, bits, save)
    if mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        if mode == "F" and values.size and np.nanmax(values) <= 1.0:
            values = values * 65535.0
        grey16 = np.clip(np.nan_to_num(values), 0, 65535).round().astype(np.uint16)
        return Picture(np.repeat(grey16[..., None], 3, axis=2), None, True, file_format, mode, bits, save)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"))
        grey = mode in ("LA", "La", "L", "1")
        return Picture(np.asarray(rgba.convert("RGB")), alpha, grey, file_format, mode, bits, save)
    if mode in ("1", "L"):
        grey8 = np.asarray(image.convert("L"))
        return Picture(np.repeat(grey8[..., None], 3, axis=2), None, True, file_format, mode, bits, save)
    if mode in ("CMYK", "LAB"):
        return Picture(_by_profile(image, save), None, False, file_format, mode, bits, save)
    return Picture(np.asarray(image.convert("RGB")), None, False, file_format, mode, bits, save)


def _by_profile(image: Image.Image, save: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """CMYK or Lab to sRGB by the embedded profile where it is sound, else by Pillow's plain formula."""
    profile = save.get("icc_profile")
    if profile and image.mode == "CMYK":
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return np.asarray(converted)
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    if image.mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return np.asarray(ImageCms.applyTransform(image, transform))
    return np.asarray(image.convert("RGB"))


def thumbnail(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The square picture that `decide` sees.

    Args:
      pixels: uint8 or uint16 [H, W, 3], any size from 1 x 1.

    Returns:
      uint8 [256, 256, 3]: the whole picture squeezed to a square, averaged over the area each pixel covers.
    """
    if pixels.dtype == np.uint16:
        # Every n-th pixel is enough before the averaging below, and spares a copy of a large scan.
        step = max(1, min(pixels.shape[:2]) // (4 * THUMBNAIL))
        pixels = (pixels[::step, ::step] >> 8).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=2.0))


def output_format(picture_format: str) -> str:
    """The format a restored picture is written in: its own, or PNG where that would lose colours (GIF)."""
    if picture_format == "MPO":
        return "JPEG"
    return "PNG" if picture_format == "GIF" else picture_format


def output_name(item_id: str, picture_format: str) -> str:
    """`<id>.<ext>`, or the id itself where it already ends like a file of that format."""
    written = output_format(picture_format)
    dot = item_id.rfind(".")
    if dot > item_id.rfind("/") and item_id[dot:].lower() in _OWN_EXTENSIONS[written]:
        return item_id
    return item_id + EXTENSIONS[written]


def encode(picture: Picture, pixels: npt.NDArray[Any]) -> bytes:
    """Writes restored pixels as the file they came from: same format, channels, depth, profile and resolution.

    Args:
      picture: The decoded input.
      pixels: uint8 or uint16 [H, W, 3], the restored picture, of the input's size and dtype.

    Raises:
      ItemFailure: `EncodeFailed`.
    """
    written = output_format(picture.format)
    image = _image_to_write(picture, pixels, written)
    save = _writer_options(picture, image, written)
    # A profile or EXIF block that the writer refuses must not cost the picture; pixels and quality come first.
    error: Exception | None = None
    for dropped in ((), ("exif", "comment", "extra", "xmp", "tiffinfo", "pnginfo"), ("icc_profile", "dpi")):
        for name in dropped:
            save.pop(name, None)
        try:
            return _save(image, written, save)
        except Exception as refusal:
            error = refusal
    raise ItemFailure("EncodeFailed", f"cannot be written as {written}: {_first_line(error)}") from error


def _image_to_write(picture: Picture, pixels: npt.NDArray[Any], written: str) -> Image.Image:
    """The restored pixels in the mode of the file they came from."""
    if pixels.dtype == np.uint16 and written not in ("PNG", "TIFF", "JPEG2000", "PPM"):
        pixels = (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 1] if picture.grey else pixels))
    if picture.alpha is not None and written not in ("JPEG", "PPM", "BMP"):
        image.putalpha(Image.fromarray(picture.alpha))
    if picture.mode == "CMYK" and written in ("JPEG", "TIFF") and "icc_profile" not in picture.save:
        image = image.convert("CMYK")
    return image


def _writer_options(picture: Picture, image: Image.Image, written: str) -> dict[str, Any]:
    """The input's own settings, less those that do not fit what is written."""
    save = dict(picture.save)
    if picture.mode in ("CMYK", "LAB") and image.mode != picture.mode:
        for name in ("icc_profile", "qtables", "subsampling"):  # the pixels are sRGB now
            save.pop(name, None)
    if written == "JPEG":
        tables = save.pop("qtables", None)
        if tables and (len(tables) == 1 or image.mode != "L"):
            save["qtables"] = tables
        else:
            save["quality"] = 95
        if image.mode == "L":
            save.pop("subsampling", None)
    elif written == "WEBP" and "lossless" not in save:
        save["quality"] = 95
    elif written == "JPEG2000":
        save["irreversible"] = False
    return save


def _save(image: Image.Image, written: str, save: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=written, **save)
    return buffer.getvalue()
