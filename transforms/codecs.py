"""Picture files <-> pixels. Every way a file can be bad becomes an `ItemFailure` that names it.

`decode` gives any picture in the working space (sRGB, 8 or 16 bits); `restored_file` puts a restored one back into the
file it came from: same format, depth, colour space and profile, with its metadata untouched. Codecs are Pillow's and
imagecodecs'; TIFF is in `tiff.py`, colours are in `colour_management.py`, the frames of files in `containers.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from models.contract import THUMBNAIL
from transforms import captions, colour_management, containers, provenance, tiff
from transforms.items import ItemFailure

try:
    import pillow_heif
except ImportError:  # an extra: its wheel holds x265, which is under the GPL
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

Array = npt.NDArray[Any]

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
    "AVIF": ".avif",
    "HEIF": ".heic",
}
"""Formats that are read, by Pillow's name, with the extension of an output whose id has none."""

OUTPUT_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
"""What `--output_format` may ask for."""

_OWN_EXTENSIONS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
    "BMP": {".bmp", ".dib"},
    "JPEG2000": {".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"},
    "PPM": {".ppm", ".pgm", ".pnm", ".pbm"},
    "AVIF": {".avif"},
    "HEIF": {".heic", ".heif"},
}

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"RIFF": "WebP",
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
"""First bytes of formats that are read: a file with these that cannot be opened is cut off, not a stranger."""

_MEND = "fetch it again from its source, or save it anew with another program"

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_CODESTREAM = b"\xff\x4f\xff\x51"
_QUALITY = 95  # of lossy formats whose own settings are not known
_BAND = 1 << 20  # pixels that go from Pillow to NumPy at a time

# The limit is ours, by header, per call; Pillow's global one would fail silently smaller or warn.
Image.MAX_IMAGE_PIXELS = None

logging.getLogger("imagecodecs").setLevel(logging.ERROR)  # it warns of what libpng does with every interlaced file

_truncation = threading.Lock()  # Pillow's switch is the process's


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known before decoding: format (Pillow's name), width and height in pixels as stored."""

    format: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture, with all that is needed to write it back.

    Attributes:
      pixels: uint8 or uint16 [H, W, 3], sRGB; a grey picture has three equal channels. 8 bits only where that loses
        nothing: 8-bit samples that are sRGB.
      alpha: [H, W] of the file's dtype, or None.
      grey: Whether the file is single-channel, and is to be written so again.
      format: Pillow's name of the file's format.
      mode: Colours as stored: `1`, `L`, `P`, `RGB`, `CMYK`, `LAB`, with `A` for alpha and `;16`, `;F` for depth.
      bits: Of a sample as stored.
      values: The file's own samples, [H, W] or [H, W, C], see `colour_management.to_working`.
      space: Of the values: `GRAY`, `RGB`, `CMYK` or `LAB`.
      profile: ICC profile that the values were read by; None: see `colour_management.conversion`.
      extra: [H, W, E], alpha and further samples beside the colours, or None.
      encoded: The file.
      settings: What the writer of the same format needs: quality tables, sampling, compression.
      notes: What had to be assumed.
      recoloured: Whether the file is grey and this is not, see `as_colour`.
    """

    pixels: Array
    alpha: Array | None
    grey: bool
    format: str
    mode: str
    bits: int
    values: Array
    space: str
    profile: bytes | None
    extra: Array | None
    encoded: bytes
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    recoloured: bool = False


@dataclasses.dataclass(frozen=True)
class RestoredFile:
    """A restored picture as a file.

    Attributes:
      data: The file.
      format: Pillow's name of its format.
      bits: Of a sample.
      notes: What could not be kept, was added or had to be assumed; one sentence each.
    """

    data: bytes
    format: str
    bits: int
    notes: tuple[str, ...]


@dataclasses.dataclass
class _Stored:
    """What a reader gives; `Picture` has the same."""

    values: Array
    space: str
    bits: int
    mode: str
    profile: bytes | None = None
    extra: Array | None = None
    has_alpha: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


# --- headers ----------------------------------------------------------------------------------------------------------


def _open(encoded: bytes, max_pixels: int) -> tuple[Header, Image.Image | None]:
    """The header, and for formats that Pillow reads the opened image, nothing of it decoded."""
    if not encoded:
        raise ItemFailure("EmptyFile", "the file has no bytes; fetch it again from its source")
    image = None
    if encoded.startswith(_TIFF_MAGIC):
        header = _tiff_header(encoded)
    elif encoded.startswith(b"\xff\xd8\xff") and _jpeg_precision(encoded) > 8:
        _, height, width = _jpeg_frame(encoded) or (0, 0, 0)
        header = Header("JPEG", width, height)
    else:
        image = _open_by_pillow(encoded)
        header = Header(str(image.format), *image.size)
        if header.format == "JPEG2000":
            width, height, _ = _codestream_header(encoded)
            header = Header("JPEG2000", max(width, header.width), max(height, header.height))
    if header.width * header.height > max_pixels:
        raise ItemFailure(
            "TooManyPixels",
            f"{header.width} x {header.height} pixels are over the limit of {max_pixels:,}; raise --max_pixels",
        )
    if header.width < 1 or header.height < 1:
        raise ItemFailure(
            "BadHeader", f"the picture's header is broken: {header.width} x {header.height} pixels; {_MEND}"
        )
    return header, image


def _open_by_pillow(encoded: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError:
        start = encoded[:8]
        if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIF_BRANDS and pillow_heif is None:
            raise ItemFailure("UnknownFormat", "HEIC is read with the extra unfade[heif]; install it") from None
        if known := next((name for magic, name in _SIGNATURES.items() if start.startswith(magic)), None):
            message = f"starts like a {known} file, but its header is missing or broken; fetch it again from its source"
            raise ItemFailure("Truncated", message) from None
        raise ItemFailure(
            "NotAnImage", f"not a picture in any known format (it starts with {start!r}); convert it, or leave it out"
        ) from None
    except Exception as error:
        raise ItemFailure("BadHeader", f"the picture's header is broken: {_first_line(error)}; {_MEND}") from error
    if image.format not in EXTENSIONS:
        raise ItemFailure("UnknownFormat", f"{image.format} files are not supported; convert to TIFF, PNG or JPEG")
    return image


def _tiff_header(encoded: bytes) -> Header:
    try:
        header = tiff.read_header(encoded)
    except tiff.TiffError as error:
        raise _tiff_failure(error) from error
    return Header("TIFF", header.width, header.height)


def _tiff_failure(error: tiff.TiffError) -> ItemFailure:
    text = _first_line(error)
    if error.truncated:
        return ItemFailure("Truncated", f"the file ends too early ({text}); fetch it again from its source")
    return ItemFailure("BadHeader" if "header" in text else "Corrupt", f"the TIFF cannot be read: {text}; {_MEND}")


def _jpeg_frame(encoded: bytes) -> tuple[int, int, int] | None:
    """Bits of a sample, height and width by a JPEG's frame header."""
    try:
        for marker, body in containers.jpeg_segments(encoded)[0]:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                return struct.unpack(">BHH", body[:5])
    except (containers.ContainerError, struct.error):
        pass
    return None


def _jpeg_precision(encoded: bytes) -> int:
    frame = _jpeg_frame(encoded)
    return frame[0] if frame else 8


def _codestream_header(encoded: bytes) -> tuple[int, int, int]:
    """Width, height and bits of a sample by a JPEG 2000 codestream; a wrapper may say something else."""
    at = encoded.find(_CODESTREAM)
    if at < 0 or at + 43 > len(encoded):
        raise ItemFailure("Truncated", "the file ends before its codestream; fetch it again from its source")
    right, bottom, left, top = struct.unpack_from(">4I", encoded, at + 8)
    return max(0, right - left), max(0, bottom - top), (encoded[at + 42] & 0x7F) + 1


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def read_header(encoded: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """Format and size, without decoding.

    Raises:
      ItemFailure: `EmptyFile`, `NotAnImage`, `BadHeader`, `UnknownFormat`, `TooManyPixels`, or `Truncated` where the
        header is cut off.
    """
    return _open(encoded, max_pixels)[0]


# --- reading ----------------------------------------------------------------------------------------------------------


def decode(encoded: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, *, allow_truncated: bool = False) -> Picture:
    """Decodes the first frame or page.

    Args:
      encoded: The file.
      max_pixels: Larger pictures are refused by their header.
      allow_truncated: What is missing at the end of a file is filled, with a note, instead of an error.

    Raises:
      ItemFailure: as `read_header`, and `Truncated` or `Corrupt`.
    """
    header, image = _open(encoded, max_pixels)
    try:
        stored = _read(header, image, encoded, max_pixels, allow_truncated)
        return _to_picture(stored, header.format, encoded)
    except (ItemFailure, MemoryError):
        raise
    except tiff.TiffError as error:
        raise _tiff_failure(error) from error
    except Exception as error:
        text = _first_line(error)
        if "truncated" in text.lower() or isinstance(error, (EOFError, IndexError, struct.error)):
            raise ItemFailure(
                "Truncated", f"the file ends too early ({text}); fetch it again from its source"
            ) from error
        raise ItemFailure("Corrupt", f"the picture data is damaged: {text}; {_MEND}") from error


def _read(header: Header, image: Image.Image | None, encoded: bytes, max_pixels: int, allow_truncated: bool) -> _Stored:
    if header.format == "TIFF":
        return _read_tiff(encoded, max_pixels, allow_truncated)
    if image is None:
        return _read_deep_jpeg(encoded, allow_truncated)
    if header.format == "PNG":
        return _read_png(image, encoded, allow_truncated)
    if header.format == "JPEG2000":
        return _read_jpeg2000(encoded, allow_truncated)
    if header.format in ("HEIF", "AVIF"):
        # What libheif makes of half a file is black: --allow_truncated does not hold.
        stored = _read_deep_heif(header, image, encoded) or _read_by_pillow(image, encoded, False)
        if not stored.profile:
            stored.profile, notes = _heif_colours(encoded, grey=stored.space == "GRAY")
            stored.notes += notes
    else:
        stored = _read_by_pillow(image, encoded, allow_truncated)
    if header.format in ("JPEG", "MPO"):
        stored.settings |= _jpeg_settings(image, encoded)
    elif header.format == "WEBP":
        stored.settings["lossless"] = _is_lossless_webp(encoded)
    if getattr(image, "n_frames", 1) > 1 and header.format != "MPO":
        stored.notes.append("only the first frame of an animation was restored and kept")
    return stored


def _to_picture(stored: _Stored, file_format: str, encoded: bytes) -> Picture:
    profile = stored.profile or None
    notes = list(stored.notes)
    try:
        convert = colour_management.conversion(stored.space, profile)
    except colour_management.ProfileError as error:
        default = "plain CMYK" if stored.space == "CMYK" else "sRGB"
        notes.append(f"{error}: taken for {default}")
        profile = None
        convert = colour_management.conversion(stored.space, None)
    pixels = colour_management.to_working(stored.values, convert)
    alpha = stored.extra[..., 0] if stored.has_alpha and stored.extra is not None else None
    return Picture(
        pixels,
        alpha,
        stored.space == "GRAY",
        file_format,
        stored.mode,
        stored.bits,
        stored.values,
        stored.space,
        profile,
        stored.extra,
        encoded,
        stored.settings,
        tuple(notes),
    )


@contextlib.contextmanager
def _truncated_allowed(allowed: bool) -> Iterator[None]:
    if not allowed:
        yield
        return
    with _truncation:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


_TRUNCATED_NOTE = "the file was cut off: what was missing is filled"


def _load(image: Image.Image, encoded: bytes, allow_truncated: bool) -> tuple[Image.Image, list[str]]:
    """Decodes; with a note if it had to be told to go on."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:
        if not allow_truncated:
            raise
        with _truncated_allowed(True):
            image = Image.open(io.BytesIO(encoded))  # a decoder that has given up does not begin again
            image.load()
        return image, [_TRUNCATED_NOTE]
    return image, []


def _read_by_pillow(image: Image.Image, encoded: bytes, allow_truncated: bool) -> _Stored:
    profile = image.info.get("icc_profile")
    image, notes = _load(image, encoded, allow_truncated)
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        values = np.asarray(image)
        values = values.astype(np.float32) if mode == "F" else values.clip(0, 65535).astype(np.uint16)
        return _Stored(values, "GRAY", 8 * values.itemsize, "L;F" if mode == "F" else "L;16", profile, notes=notes)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        grey = mode in ("LA", "La", "L", "1")
        values = np.ascontiguousarray(rgba[..., 0] if grey else rgba[..., :3])
        extra = np.ascontiguousarray(rgba[..., 3:])
        name = mode.upper() if mode.upper().endswith("A") else mode + "A"
        return _Stored(values, "GRAY" if grey else "RGB", 8, name, profile, extra, True, notes=notes)
    if mode in ("1", "L"):
        return _Stored(np.asarray(image.convert("L")), "GRAY", 1 if mode == "1" else 8, mode, profile, notes=notes)
    if mode == "CMYK":
        return _Stored(_array(image), "CMYK", 8, mode, profile, notes=notes)
    if mode == "LAB":
        return _Stored(np.asarray(image), "LAB", 8, mode, profile, notes=notes)
    return _Stored(_array(image if mode == "RGB" else image.convert("RGB")), "RGB", 8, mode, profile, notes=notes)


def _array(image: Image.Image) -> Array:
    """The samples, uint8, band by band: NumPy would take a large picture from Pillow in three copies."""
    width, height = image.size
    samples = np.empty((height, width, len(image.getbands())), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        samples[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return samples


def _jpeg_settings(image: Image.Image, encoded: bytes) -> dict[str, Any]:
    sampling = JpegImagePlugin.get_sampling(image)
    restart = containers.jpeg_restart_interval(encoded)
    as_rgb = image.mode == "RGB" and containers.jpeg_adobe_transform(encoded) == 0
    return {
        "qtables": getattr(image, "quantization", None),
        "progressive": bool(image.info.get("progressive")),
        **({"subsampling": sampling} if sampling >= 0 else {}),
        **({"restart_marker_blocks": restart} if restart else {}),
        **({"keep_rgb": True} if as_rgb else {}),
    }


def _is_lossless_webp(encoded: bytes) -> bool:
    """Whether a WebP's first picture was compressed without loss (`VP8L`)."""
    at = 12
    while at + 8 <= len(encoded):
        kind, size = struct.unpack_from("<4sI", encoded, at)
        if kind in (b"VP8 ", b"VP8L"):
            return bool(kind == b"VP8L")
        at += 8 + (16 if kind == b"ANMF" else size + size % 2)  # a frame's own chunks follow its header
    return False


def _widened(values: Array, bits: int) -> Array:
    """Samples of 9 to 15 bits over the whole range of uint16."""
    most = (1 << bits) - 1
    if values.dtype != np.uint16 or bits >= 16:
        return values
    return ((np.minimum(values, most).astype(np.uint32) * 65535 + most // 2) // most).astype(np.uint16)


def _lowered(values: Array, bits: int) -> Array:
    """The inverse of `_widened`."""
    most = (1 << bits) - 1
    return ((values.astype(np.uint32) * most + 32767) // 65535).astype(np.uint16)


def _split(samples: Array, bits: int, profile: bytes | None, prefix: str = "") -> _Stored:
    """Samples [H, W] or [H, W, 1..4] as colours and alpha."""
    channels = samples.shape[2] if samples.ndim == 3 else 1
    colours = 3 if channels >= 3 else 1
    samples = samples.reshape(*samples.shape[:2], channels)
    values = np.ascontiguousarray(samples[..., 0] if colours == 1 else samples[..., :3])
    extra = np.ascontiguousarray(samples[..., colours:]) if channels > colours else None
    mode = prefix or ("L" if colours == 1 else "RGB")
    mode += "A" if extra is not None else ""
    mode += ";16" if samples.dtype == np.uint16 else ""
    return _Stored(values, "GRAY" if colours == 1 else "RGB", bits, mode, profile, extra, extra is not None)


def _read_deep_jpeg(encoded: bytes, allow_truncated: bool) -> _Stored:
    """JPEG of 12 or 16 bits, which Pillow does not know."""
    bits = _jpeg_precision(encoded)
    segments, scan = containers.jpeg_segments(encoded)
    whole = encoded.find(b"\xff\xd9", scan) >= 0  # the library fills what is missing, and says nothing
    if not whole and not allow_truncated:
        raise ItemFailure("Truncated", "the file ends too early (no end of image); fetch it again from its source")
    samples = _widened(np.asarray(imagecodecs.jpeg8_decode(encoded)), bits)
    if samples.ndim == 3 and samples.shape[2] not in (1, 3):
        raise ValueError(f"{bits}-bit JPEG with {samples.shape[2]} channels is not supported")
    parts = [body[14:] for marker, body in segments if marker == 0xE2 and body.startswith(b"ICC_PROFILE\0")]
    stored = _split(samples, bits, b"".join(parts) or None)
    if not whole:
        stored.notes.append(_TRUNCATED_NOTE)
    return stored


def _read_png(image: Image.Image, encoded: bytes, allow_truncated: bool) -> _Stored:
    chunks = {kind: body for kind, body in containers.png_chunks(encoded) if kind in (b"IHDR", *containers.PNG_COLOURS)}
    depth, colour_type = chunks[b"IHDR"][8], chunks[b"IHDR"][9]
    profile: bytes | None = image.info.get("icc_profile")
    notes: list[str] = []
    if profile is None:
        profile, notes = _png_colours(chunks, grey=colour_type in (0, 4))
    if depth == 16:
        whole = any(kind == b"IEND" for kind, _ in containers.png_chunks(encoded))
        if not whole and not allow_truncated:
            raise ItemFailure("Truncated", "the file ends too early (no IEND); fetch it again from its source")
        try:
            samples = imagecodecs.png_decode(encoded)
        except imagecodecs.PngError as error:
            if not allow_truncated:
                raise
            samples = imagecodecs.png_decode(_completed_png(encoded, error))
            notes = [*notes, _TRUNCATED_NOTE]
        stored = _split(samples, 16, profile)
    else:
        stored = _read_by_pillow(image, encoded, allow_truncated)
        stored.profile, stored.bits = profile, depth
        if colour_type == 3:
            stored.mode = "PA" if stored.has_alpha else "P"
    stored.notes += notes
    if getattr(image, "n_frames", 1) > 1:
        stored.notes.append("only the first frame of an animation was restored and kept")
    return stored


def _completed_png(encoded: bytes, error: Exception) -> bytes:
    """A PNG that was cut off, with what is missing as zeros. Raises `error` if it cannot be completed."""
    header, data, at = b"", b"", len(containers.PNG_SIGNATURE)
    while at + 8 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, at)
        body = encoded[at + 8 : at + 8 + size]
        header = body if kind == b"IHDR" else header
        data += body if kind == b"IDAT" else b""
        at += 12 + size
    width, height, depth, colour_type = struct.unpack(">IIBB", header[:10])
    if header[12]:  # interlaced: seven pictures, each with rows of its own
        raise error
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    whole = height * (1 + (width * channels * depth + 7) // 8)
    rows = zlib.decompressobj().decompress(data, whole)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.ljust(whole, b"\0"), 1)), (b"IEND", b"")]
    return containers.PNG_SIGNATURE + b"".join(containers.png_chunk(*part) for part in parts)


_SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_P3_CHROMATICITIES = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
_REC2020_CHROMATICITIES = (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046)


def _coded_colours(primaries: int, transfer: int, where: str, *, grey: bool) -> tuple[bytes | None, list[str]]:
    """A profile of code points of ITU-T H.273, None for sRGB; video's curves are taken for sRGB's, as browsers do."""
    known = {1: None, 2: None, 5: None, 6: None, 9: _REC2020_CHROMATICITIES, 12: _P3_CHROMATICITIES}
    if primaries not in known or transfer not in (1, 2, 6, 13, 14, 15):
        return None, [f"colours of {where} {primaries}/{transfer} are not supported: taken for sRGB"]
    chromaticities = known[primaries]
    return (_parametric(chromaticities, None, grey=grey) if chromaticities else None), []


def _heif_colours(encoded: bytes, *, grey: bool) -> tuple[bytes | None, list[str]]:
    """What a HEIC or AVIF without ICC profile says of its colours: the first `nclx` box (ISO 14496-12, 12.1.5)."""
    at = encoded.find(b"colrnclx")
    if at < 0 or at + 12 > len(encoded):
        return None, []
    primaries, transfer = struct.unpack_from(">HH", encoded, at + 8)
    return _coded_colours(primaries, transfer, "nclx", grey=grey)


def _png_colours(chunks: Mapping[bytes, bytes], *, grey: bool) -> tuple[bytes | None, list[str]]:
    """A profile of what a PNG says in cICP, sRGB, gAMA and cHRM, in the order that the specification gives."""
    if cicp := chunks.get(b"cICP"):
        return _coded_colours(cicp[0], cicp[1], "cICP", grey=grey)
    if b"sRGB" in chunks or not ({b"gAMA", b"cHRM"} & set(chunks)):
        return None, []
    try:
        gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000 if b"gAMA" in chunks else 1 / 2.2
        points = struct.unpack(">8I", chunks[b"cHRM"]) if b"cHRM" in chunks else ()
        chromaticities = tuple(point / 100_000 for point in points) or _SRGB_CHROMATICITIES
        standard = np.allclose(chromaticities, _SRGB_CHROMATICITIES, atol=0.002)
        if standard and abs(gamma * 2.2 - 1) < 0.01:
            return None, []  # 45455 is how sRGB is written in gAMA
        return _parametric(chromaticities, 1 / gamma, grey=grey), []
    except (struct.error, ZeroDivisionError, imagecodecs.CmsError, ValueError):
        return None, ["gAMA or cHRM is broken: taken for sRGB"]


def _parametric(chromaticities: tuple[float, ...], gamma: float | None, *, grey: bool) -> bytes:
    curve: dict[str, Any] = {"gamma": gamma}
    if gamma is None:
        code = np.linspace(0, 1, 4096)
        curve = {
            "transferfunction": np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(
                np.float32
            )
        }
    white = chromaticities[:2]
    if grey:
        return bytes(imagecodecs.cms_profile("gray", whitepoint=white, **curve))
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=white, primaries=chromaticities[2:], **curve))


def _read_jpeg2000(encoded: bytes, allow_truncated: bool) -> _Stored:
    codestream = containers.jp2_codestream(encoded)
    whole = codestream.rstrip(b"\0").endswith(b"\xff\xd9") if codestream else False
    del codestream  # a copy
    if not whole and not allow_truncated:
        raise ItemFailure("Truncated", "the file ends too early (no end of codestream); fetch it again from its source")
    _, _, bits = _codestream_header(encoded)
    try:
        samples = np.asarray(imagecodecs.jpeg2k_decode(encoded))
    except imagecodecs.Jpeg2kError as error:
        if whole:
            raise
        raise ItemFailure(  # OpenJPEG wants every packet
            "Truncated",
            "the file ends too early, and part of a JPEG 2000 cannot be read; fetch it again from its source",
        ) from error
    if samples.dtype not in (np.uint8, np.uint16) or (samples.ndim == 3 and samples.shape[2] > 4):
        raise ValueError(f"JPEG 2000 with samples {samples.shape[2:]} of {samples.dtype} is not supported")
    if samples.dtype == np.uint8 and bits < 8:
        samples = (samples.astype(np.uint16) * 255 // ((1 << bits) - 1)).astype(np.uint8)
    stored = _split(_widened(samples, bits), bits, containers.jp2_profile(encoded))
    stored.settings["components"] = samples.shape[2] if samples.ndim == 3 else 1
    if not whole:
        stored.notes.append(_TRUNCATED_NOTE)
    return stored


def _read_deep_heif(header: Header, image: Image.Image, encoded: bytes) -> _Stored | None:
    """HEIC and AVIF of 10 and 12 bits; None for 8 bits, which Pillow reads."""
    profile = image.info.get("icc_profile")
    if header.format == "AVIF":
        bits = _avif_bits(encoded)
        if bits <= 8:
            return None
        return _split(_widened(imagecodecs.avif_decode(encoded, index=0), bits), bits, profile)
    bits = int(image.info.get("bit_depth", 8))
    if bits <= 8:
        return None
    file = pillow_heif.open_heif(io.BytesIO(encoded), convert_hdr_to_8bit=False)
    return _split(np.asarray(file).astype(np.uint16, copy=False), bits, profile)


def _avif_bits(encoded: bytes) -> int:
    """Bits of a sample by the first AV1 configuration box (ISO 14496-12, AV1-ISOBMFF 2.3)."""
    at = encoded.find(b"av1C")
    if at < 0 or at + 7 > len(encoded):
        return 8
    flags = encoded[at + 6]
    return 12 if flags & 0x40 and flags & 0x20 else 10 if flags & 0x40 else 8


def _read_tiff(encoded: bytes, max_pixels: int, allow_truncated: bool) -> _Stored:
    header = tiff.read_header(encoded)
    tiff.check_segments(encoded, max_pixels)
    samples = tiff.read(encoded, allow_truncated=allow_truncated)
    values, bits = samples.values, header.bits
    mode = {"GRAY": "1" if bits == 1 else "L"}.get(samples.space, samples.space)
    mode = "P" if samples.palette else mode
    mode += "A" if samples.has_alpha else ""
    mode += ";F" if values.dtype.kind == "f" else f";{8 * values.itemsize}" if values.itemsize > 1 else ""
    notes = [f"{_TRUNCATED_NOTE} ({samples.filled} strips or tiles)"] if samples.filled else []
    if (pages := tiff.pages_in(encoded)) > 1:
        notes.append(f"the first of {pages} pages was restored, the others kept as they were")
    return _Stored(values, samples.space, bits, mode, samples.profile, samples.extra, samples.has_alpha, notes=notes)


def thumbnail(pixels: Array) -> npt.NDArray[np.uint8]:
    """The square picture that `decide` sees.

    Args:
      pixels: uint8 or uint16 [H, W, 3], any size from 1 x 1.

    Returns:
      uint8 [256, 256, 3]: the whole picture squeezed to a square, averaged over the area each pixel covers.
    """
    if pixels.dtype == np.uint16:
        # Every n-th pixel is enough before the averaging below, and spares a copy of a large scan.
        step = max(1, min(pixels.shape[:2]) // (4 * THUMBNAIL))
        pixels = pixels[::step, ::step]
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=2.0))


# --- writing ----------------------------------------------------------------------------------------------------------


def output_format(picture_format: str, bits: int = 8, override: str | None = None) -> str:
    """The format a restored picture is written in: its own, or PNG where that cannot hold it.

    Args:
      picture_format: Pillow's name of the input's format.
      bits: Of a sample of the input: no library writes AVIF of more than 8 bits with its metadata.
      override: One of `OUTPUT_FORMATS`, whatever the input's.
    """
    if override:
        return override
    if picture_format == "MPO":
        return "JPEG"
    return "PNG" if picture_format == "GIF" or (picture_format == "AVIF" and bits > 8) else picture_format


def output_name(item_id: str, picture_format: str, bits: int = 8, override: str | None = None) -> str:
    """`<id>.<ext>`, or the id itself where it already ends like a file of that format."""
    written = output_format(picture_format, bits, override)
    dot = item_id.rfind(".")
    if dot > item_id.rfind("/") and item_id[dot:].lower() in _OWN_EXTENSIONS[written]:
        return item_id
    return item_id + EXTENSIONS[written]


def encode(picture: Picture, pixels: Array) -> bytes:
    """The restored file, without a record of the restoration. See `restored_file`."""
    return restored_file(picture, pixels).data


def restored_file(
    picture: Picture,
    pixels: Array,
    stamp: provenance.Stamp | None = None,
    override: str | None = None,
    caption: str = "",
) -> RestoredFile:
    """Writes restored pixels as the file they came from: same format, channels, depth, profile and metadata.

    Args:
      picture: The decoded input.
      pixels: uint8 or uint16 [H, W, 3], the restored picture, of the input's size and dtype.
      stamp: See `file_of`.
      override: See `file_of`.
      caption: See `file_of`.

    Raises:
      ItemFailure: `EncodeFailed`.
    """
    return file_of(picture, restored_values(picture, pixels), stamp, override, caption)


def restored_values(picture: Picture, pixels: Array, *, in_place: bool = False) -> Array:
    """Restored pixels as the file's own samples.

    Args:
      picture: The decoded input.
      pixels: As for `restored_file`.
      in_place: `picture.values` may be written over, which spares memory.
    """
    if picture.recoloured:
        return picture.values
    convert = colour_management.conversion(picture.space, picture.profile)
    return colour_management.from_working(picture.values, picture.pixels, pixels, convert, in_place=in_place)


def file_of(
    picture: Picture,
    values: Array,
    stamp: provenance.Stamp | None = None,
    override: str | None = None,
    caption: str = "",
) -> RestoredFile:
    """The file with other samples.

    Args:
      picture: The decoded input; its own pixels and samples are not looked at.
      values: See `restored_values`.
      stamp: What XMP is to say of the restoration. None: nothing is added.
      override: One of `OUTPUT_FORMATS`: written so, whatever the input is.
      caption: See `provenance.add`.

    Raises:
      ItemFailure: `EncodeFailed`.
    """
    written = output_format(picture.format, picture.bits, override)
    notes = list(picture.notes)
    if written != output_format(picture.format):
        why = "as was asked" if override else f"a {picture.bits}-bit {picture.format} cannot be written back whole"
        notes.append(f"{picture.format} was written as {written}: {why}")
    elif picture.format == "GIF":
        notes.append("GIF was written as PNG: its palette cannot hold restored colours")
    try:
        xmp = _stamped(picture, stamp, notes, caption)
        own = written == picture.format or (written, picture.format) == ("JPEG", "MPO")
        if own and picture.recoloured and written in ("JPEG", "PNG", "WEBP"):
            data, bits, more = _recoloured(picture, values, written, xmp)
        elif own:
            data, bits, more = _WRITERS[written](picture, values, xmp)
        else:
            data, bits, more = _converted(picture, values, written, xmp)
    except ItemFailure:
        raise
    except Exception as error:
        raise ItemFailure("EncodeFailed", f"cannot be written as {written}: {_first_line(error)}") from error
    return RestoredFile(data, written, bits, tuple(notes + more))


def as_colour(picture: Picture, pixels: Array) -> Picture:
    """A grey picture that has been given colours, so that it is written in colour: sRGB, at its own depth.

    Args:
      picture: The decoded grey input.
      pixels: uint8 or uint16 [H, W, 3], coloured.
    """
    deep = picture.bits > 8
    values = colour_management.to_depth(pixels, np.dtype(np.uint16 if deep else np.uint8))
    return dataclasses.replace(
        picture,
        pixels=pixels,
        grey=False,
        values=values,
        space="RGB",
        mode="RGB;16" if deep else "RGB",
        bits=16 if deep else 8,
        profile=None,
        recoloured=True,
        notes=(*picture.notes, "the grey picture was given colours: written as sRGB with three channels"),
    )


def _stamped(picture: Picture, stamp: provenance.Stamp | None, notes: list[str], caption: str) -> bytes | None:
    if stamp is None:
        return None
    try:
        stamp = dataclasses.replace(stamp, notes=(*stamp.notes, *notes))
        return provenance.add(_xmp_of(picture), stamp, caption)
    except provenance.XmpError as error:
        notes.append(f"no history was written: {error}")
        return None


def _xmp_of(picture: Picture) -> bytes | None:
    encoded = picture.encoded
    if picture.format in ("JPEG", "MPO"):
        return containers.jpeg_xmp(encoded)
    if picture.format == "PNG":
        return containers.png_xmp(encoded)
    if picture.format == "TIFF":
        return tiff.tag_bytes(encoded, tiff.XMP)
    if picture.format == "JPEG2000":
        return containers.jp2_xmp(encoded)
    return _info(picture).get("xmp")


def _info(picture: Picture) -> Mapping[Any, Any]:
    return _open_by_pillow(picture.encoded).info if _jpeg_precision(picture.encoded[:65536]) == 8 else {}


def _with_extra(values: Array, extra: Array | None) -> Array:
    if extra is None:
        return values
    return np.concatenate([values.reshape(*values.shape[:2], -1), extra], axis=2)


def _image(values: Array, picture: Picture, *, alpha: bool) -> Image.Image:
    """8-bit samples as a Pillow image."""
    if picture.space in ("CMYK", "LAB"):
        height, width = values.shape[:2]
        return Image.frombuffer(
            picture.space, (width, height), np.ascontiguousarray(values), "raw", picture.space, 0, 1
        )
    if alpha and picture.extra is not None:
        values = _with_extra(values, picture.extra)
    return Image.fromarray(np.ascontiguousarray(values))


def _save(image: Image.Image, written: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=written, **{name: value for name, value in options.items() if value is not None})
    return buffer.getvalue()


_Written = tuple[bytes, int, list[str]]


def _write_jpeg(picture: Picture, values: Array, xmp: bytes | None) -> _Written:
    if values.dtype == np.uint16:
        narrow = _lowered(values, picture.bits)
        data = imagecodecs.jpeg8_encode(narrow, _QUALITY, bitspersample=picture.bits)
        return (*_spliced_jpeg(picture, bytes(data), xmp, picture.bits),)
    options = dict(picture.settings)
    tables = options.pop("qtables", None)
    if values.ndim == 2:
        options.pop("subsampling", None)
        tables = {0: tables[0]} if tables and 0 in tables else tables
    if picture.space == "CMYK":
        options["subsampling"] = 0  # black must not be subsampled, and Pillow does not write YCCK
    quality: dict[str, Any] = {"qtables": tables} if tables else {"quality": _QUALITY}
    image = _image(values, picture, alpha=False)
    try:
        data = _save(image, "JPEG", **options, **quality)
    except Exception:  # tables that the encoder does not take
        data = _save(image, "JPEG", quality=_QUALITY, subsampling=0)
    return _spliced_jpeg(picture, data, xmp, 8)


def _spliced_jpeg(picture: Picture, data: bytes, xmp: bytes | None, bits: int) -> _Written:
    try:
        spliced, notes = containers.splice_jpeg(picture.encoded, data, xmp, profile=not picture.recoloured)
        if picture.space == "CMYK" and containers.jpeg_adobe_transform(picture.encoded) == 2:
            notes.append("YCCK was written as CMYK")
    except (containers.ContainerError, struct.error, IndexError):
        return data, bits, ["the file's segments are broken: its metadata was left out"]
    return spliced, bits, notes


def _write_png(picture: Picture, values: Array, xmp: bytes | None) -> _Written:
    data, bits, header, notes = _png_pixels(picture, values)
    return containers.splice_png(picture.encoded, data, xmp, header), bits, notes


def _png_pixels(picture: Picture, values: Array) -> tuple[bytes, int, bytes | None, list[str]]:
    """An encoded PNG, bits of a sample, an IHDR in place of its own, and notes."""
    bits, extra = picture.bits, picture.extra
    if values.dtype == np.uint16:
        return bytes(imagecodecs.png_encode(_with_extra(values, extra))), 16, None, []
    height, width = values.shape[:2]
    notes = []
    if picture.mode in ("P", "PA"):
        indexed = _indexed(_with_extra(values, extra), bits)
        if indexed is not None:
            image, clear = indexed
            return _save(image, "PNG", bits=bits, transparency=clear), bits, None, []
        notes.append("the palette's colours became too many: written as RGB")
    elif bits < 8 and extra is None and values.ndim == 2:
        most = (1 << bits) - 1
        small = ((values.astype(np.uint16) * most + 127) // 255).astype(np.uint8)
        if np.array_equal(small.astype(np.uint16) * 255 // most, values):
            image = Image.fromarray(small)
            image.putpalette(bytes(768))  # indices are packed as greys are; the header says grey
            header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
            return _save(image, "PNG", bits=bits), bits, header, []
        notes.append(f"{bits}-bit samples became 8-bit: the restored picture has more tones")
    elif bits < 8:
        notes.append(f"{bits}-bit samples became 8-bit: no smaller ones have transparency in a channel of its own")
    return _save(_image(values, picture, alpha=True), "PNG"), 8, None, notes


def _indexed(samples: Array, bits: int) -> tuple[Image.Image, bytes | None] | None:
    """Samples uint8 [H, W, 3 or 4] with a palette; None where they have too many colours for it."""
    height, width, channels = samples.shape
    packed = np.zeros((height, width, 4), np.uint8)
    packed[..., :channels] = samples
    codes = packed.view(np.uint32)[..., 0]
    if len(np.unique(codes.ravel()[: 1 << 16])) > 1 << bits:
        return None
    colours, indices = np.unique(codes, return_inverse=True)
    if len(colours) > 1 << bits:
        return None
    table = colours.view(np.uint8).reshape(-1, 4)
    image = Image.fromarray(indices.reshape(height, width).astype(np.uint8))
    image.putpalette(np.ascontiguousarray(table[:, :3]).tobytes())
    return image, table[:, 3].tobytes() if channels == 4 else None


def _write_tiff(picture: Picture, values: Array, xmp: bytes | None) -> _Written:
    extra = picture.extra
    if picture.recoloured and extra is not None:
        extra = colour_management.to_depth(extra, values.dtype)
    return tiff.write(picture.encoded, values, extra, xmp, coloured=picture.recoloured)


def _write_webp(picture: Picture, values: Array, xmp: bytes | None) -> _Written:
    info = _info(picture)
    quality: dict[str, Any] = {"quality": _QUALITY}
    if picture.settings.get("lossless"):
        quality = {"lossless": True, "exact": True}
    data = _save(
        _image(values, picture, alpha=True),
        "WEBP",
        icc_profile=info.get("icc_profile"),
        exif=info.get("exif"),
        xmp=xmp if xmp is not None else info.get("xmp"),
        **quality,
    )
    return data, 8, []


def _write_simple(picture: Picture, values: Array, xmp: bytes | None) -> _Written:
    """BMP and PPM, which have no place for metadata."""
    indexed = _indexed(values, 8) if picture.mode == "P" and picture.format == "BMP" else None
    image = indexed[0] if indexed else _image(values, picture, alpha=picture.format == "BMP")
    if picture.mode == "1" and not ((values != 0) & (values != 255)).any():
        image = image.convert("1", dither=Image.Dither.NONE)
    data = _save(image, picture.format, dpi=_info(picture).get("dpi") if picture.format == "BMP" else None)
    notes = [f"{picture.format} has no place for a history: it stands in the metrics only"] if xmp is not None else []
    if picture.format == "BMP" and 1 < (bits := _bmp_bits(picture.encoded)) < 8:
        notes.append(f"{bits}-bit samples became 8-bit")
    return data, 1 if image.mode == "1" else 8 * values.itemsize, notes


def _bmp_bits(encoded: bytes) -> int:
    """Bits of a pixel; OS/2's header is shorter."""
    return int(struct.unpack_from("<H", encoded, 24 if encoded[14:18] == b"\x0c\0\0\0" else 28)[0])


def _write_jpeg2000(picture: Picture, values: Array, xmp: bytes | None) -> _Written:
    """Without loss, whatever the input's compression: how much loss that was is not written in it."""
    samples = _with_extra(values, picture.extra)
    bits, notes = picture.bits, []
    if bits < 8:
        bits, notes = 8, [f"{bits}-bit samples became 8-bit"]
    narrow = _lowered(samples, bits) if samples.dtype == np.uint16 and bits < 16 else samples
    made = bytes(imagecodecs.jpeg2k_encode(narrow, codecformat="jp2", reversible=True, bitspersample=bits))
    codestream = containers.jp2_codestream(made)
    original = picture.encoded
    if not original.startswith(containers.JP2_SIGNATURE):
        notes += ["a bare codestream has no place for a history: it stands in the metrics only"] if xmp else []
        return codestream, bits, notes
    if not _same_components(original, made):
        own = [box for box in containers.jp2_boxes(original) if box[0] in (b"uuid", b"xml ", b"uuif")]
        new = [box for box in containers.jp2_boxes(made) if box[0] != b"jp2c"]
        original = containers.join_boxes([*new, *own, (b"jp2c", b"")])
        notes.append("the picture's colours were stored in a table or in other components: its header was made anew")
    return containers.splice_jp2(original, codestream, xmp), bits, notes


def _same_components(original: bytes, made: bytes) -> bool:
    """Whether the header boxes of two JP2 files agree on components and depth, and neither has a palette."""
    inner = [
        dict(containers.jp2_boxes(dict(containers.jp2_boxes(file)).get(b"jp2h", b""))) for file in (original, made)
    ]
    headers = [boxes.get(b"ihdr", b"") for boxes in inner]
    sycc = inner[0].get(b"colr", b"")[:1] == b"\x01" and inner[0].get(b"colr", b"")[3:7] == b"\0\0\0\x12"
    return headers[0][:11] == headers[1][:11] and b"pclr" not in inner[0] and b"bpcc" not in inner[0] and not sycc


def _write_heif(picture: Picture, values: Array, xmp: bytes | None) -> _Written:
    info = _info(picture)
    samples = _with_extra(values, picture.extra)
    height, width = samples.shape[:2]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[2] if samples.ndim == 3 else 1]
    deep = samples.dtype == np.uint16
    options = pillow_heif.options
    before, options.SAVE_HDR_TO_12_BIT = options.SAVE_HDR_TO_12_BIT, picture.bits > 10
    buffer = io.BytesIO()
    try:
        pillow_heif.encode(
            mode + (";16" if deep else ""),
            (width, height),
            np.ascontiguousarray(samples).tobytes(),
            buffer,
            quality=_QUALITY,
            chroma=444,
            exif=info.get("exif"),
            xmp=xmp if xmp is not None else info.get("xmp"),
            icc_profile=info.get("icc_profile") or picture.profile,
        )
    finally:
        options.SAVE_HDR_TO_12_BIT = before
    return buffer.getvalue(), picture.bits, []


def _write_avif(picture: Picture, values: Array, xmp: bytes | None) -> _Written:
    info = _info(picture)
    data = _save(
        _image(values, picture, alpha=True),
        "AVIF",
        quality=_QUALITY,
        subsampling="4:4:4",
        max_threads=1,
        icc_profile=info.get("icc_profile") or picture.profile,
        exif=info.get("exif"),
        xmp=xmp if xmp is not None else info.get("xmp"),
    )
    return data, 8, []


_WRITERS: dict[str, Callable[[Picture, Array, bytes | None], _Written]] = {
    "JPEG": _write_jpeg,
    "PNG": _write_png,
    "TIFF": _write_tiff,
    "WEBP": _write_webp,
    "BMP": _write_simple,
    "PPM": _write_simple,
    "JPEG2000": _write_jpeg2000,
    "HEIF": _write_heif,
    "AVIF": _write_avif,
}


# --- another format than the input's ----------------------------------------------------------------------------------

_DESCRIBING = (270, 271, 272, 274, 305, 306, 315, 33432)
"""EXIF tags of a TIFF that are taken along into another format: title, make, model, orientation, software, date, ..."""

_DIRECTORIES = (0x8769, 0x8825)
"""Tags of EXIF that hold further tags: of the exposure, of the place (GPS)."""


def _converted(picture: Picture, values: Array, written: str, xmp: bytes | None) -> _Written:
    """A picture in another format. What that cannot hold as it was (CMYK, CIELAB, floats) becomes sRGB."""
    deep = written in ("PNG", "TIFF")
    keeps = picture.space in ("GRAY", "RGB") and values.dtype in (np.uint8, np.uint16)
    profile = picture.profile
    notes = []
    if not keeps:
        convert = colour_management.conversion(picture.space, picture.profile)
        values = colour_management.to_working(values, convert)
        values = values[..., 1] if picture.grey else values
        profile = None
        notes.append(f"{picture.mode} became sRGB")
    if values.dtype == np.uint16 and not deep:
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        notes.append(f"{picture.bits} bits became 8: {written} holds no more")
    extra = picture.extra[..., :1] if picture.alpha is not None and picture.extra is not None else None
    if extra is not None and written == "JPEG":
        extra = None
        notes.append("transparency was left out: a JPEG has none")
    if picture.format == "TIFF":
        notes.append("private tags and further pages were left out: the file was written anew")
    if extra is not None and extra.dtype != values.dtype:
        extra = colour_management.to_depth(extra, values.dtype)
    samples = np.ascontiguousarray(_with_extra(values, extra))
    info, exif = _describing(picture)
    bits = 8 * samples.itemsize
    packet = xmp if xmp is not None else _xmp_of(picture)
    iptc = None  # in its own format the file's other parts stay around the new pixels
    if written != picture.format:
        iptc = captions.iptc(picture.encoded)
        if iptc and written not in ("JPEG", "TIFF"):
            notes.append(f"IPTC was left out: a {written} has no place for it")
        if info.get("comment") and written != "JPEG":
            notes.append("the file's comment was left out")
    if written == "PNG":
        return _new_png(samples, profile, exif, packet, info.get("dpi")), bits, notes
    if written == "TIFF":
        if _has_directories(exif):
            notes.append("of EXIF only title, make, model, date, artist, rights and orientation were kept")
        return tiff.new(samples, profile, packet, info.get("dpi"), exif, iptc), bits, notes
    image = Image.fromarray(samples)
    options: dict[str, Any] = {"icc_profile": profile, "exif": exif or None, "xmp": packet, "quality": _QUALITY}
    if written == "WEBP":
        return _save(image, written, **options), bits, notes
    options |= {"subsampling": 0, "dpi": info.get("dpi"), "comment": info.get("comment")}
    data = _save(image, written, **options)
    if iptc and (with_iptc := containers.jpeg_with_iptc(data, iptc)):
        return with_iptc, bits, notes
    return data, bits, [*notes, "IPTC was left out: it is too long for a JPEG"] if iptc else notes


def _recoloured(picture: Picture, values: Array, written: str, xmp: bytes | None) -> _Written:
    """In the picture's own format, but written anew: what a grey file says of its samples does not fit colours."""
    data, bits, notes = _converted(picture, values, written, xmp)
    if written == "JPEG":
        data, bits, more = _spliced_jpeg(picture, data, xmp, bits)
        return data, bits, notes + more
    if written == "PNG":
        return containers.splice_png(picture.encoded, data, xmp, profile=False), bits, notes
    return data, bits, notes


def _describing(picture: Picture) -> tuple[Mapping[Any, Any], bytes]:
    """Pillow's facts of a file, and its EXIF block."""
    try:
        image = Image.open(io.BytesIO(picture.encoded))
    except Exception:
        return {}, b""
    exif = image.info.get("exif") or b""
    if picture.format == "TIFF":
        tags = Image.Exif()
        found = image.getexif()
        for code in _DESCRIBING:
            if code in found:
                tags[code] = found[code]
        exif = tags.tobytes()
        with contextlib.suppress(Exception):  # they may be broken where the first directory is sound
            for code in _DIRECTORIES:
                if directory := found.get_ifd(code):
                    tags.get_ifd(code).update(directory)
                    tags[code] = directory  # its offset, when written
            exif = tags.tobytes()
    # Some formats hold the block without its name, without which others do not take it.
    return image.info, exif if exif.startswith(containers.JPEG_EXIF) or not exif else containers.JPEG_EXIF + exif


def _has_directories(exif: bytes) -> bool:
    """Whether an EXIF block says more than a picture's first directory does."""
    found = Image.Exif()
    with contextlib.suppress(Exception):
        found.load(exif)
    return any(code in found for code in _DIRECTORIES)


def _new_png(
    samples: Array, profile: bytes | None, exif: bytes, xmp: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
    data = bytes(imagecodecs.png_encode(samples))
    header = next(body for kind, body in containers.png_chunks(data) if kind == b"IHDR")
    chunks = [(b"IHDR", header)]
    if profile:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(profile)))
    if dpi:
        x, y = (round(float(value) / 0.0254) for value in dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if exif:
        chunks.append((b"eXIf", re.sub(rb"^Exif\0\0", b"", exif)))
    if xmp:
        chunks.append(containers.png_xmp_chunk(xmp))
    frame = containers.PNG_SIGNATURE + b"".join(containers.png_chunk(*chunk) for chunk in chunks)
    return containers.splice_png(frame, data, None)
