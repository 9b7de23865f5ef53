"""TIFF through tifffile and imagecodecs: samples of any depth in, the same file with new samples out.

A TIFF is not written anew. Its first page's samples are encoded as they were (compression, predictor, strips or tiles,
byte order), laid into the place of the old ones, and what is too long is appended, with a new directory. Private tags,
EXIF, further pages and everything else stay where they are, byte for byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from transforms import containers

Array = npt.NDArray[Any]

XMP, PROFILE, PHOTOSHOP, IPTC = 700, 34675, 34377, 33723

_OFFSETS, _COUNTS = (273, 324), (279, 325)  # of strips, of tiles
_OF_SAMPLES = {
    *(256, 257, 258, 259, 262, 266, 277, 278, 284, 292, 293, 317, 320, 322, 323, 338, 339, 347, 530, 531, 532),
    *_OFFSETS,
    *_COUNTS,
}
"""Tags that say how samples are stored: the new directory takes them from the encoder, all others from the file."""

_OF_GREYS = {280, 281, 290, 291, 301, 318, 319, 340, 341, PROFILE}
"""Tags that say what greys mean: range, response curve, transfer function, white, profile."""

_CCITT = {2: "tiff_ccitt", 3: "group3", 4: "group4"}
_LOSSLESS = {1, 5, 8, 32946, 32773, 34925, 50000}
_JPEG = 7
_FILES_WITHIN = (33003, 33004, 33005, 34712, 50001)  # JPEG 2000 and WebP, each with a size of its own
_SPACES = {0: "GRAY", 1: "GRAY", 2: "RGB", 3: "RGB", 5: "CMYK", 6: "RGB", 8: "LAB", 9: "LAB", 10: "LAB"}
_INKS = {"GRAY": 1, "RGB": 3, "CMYK": 4, "LAB": 3}
_ORIENTATION = 274
_TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes Pillow's turning, by EXIF orientation."""

_MOST_SAMPLES = 64
_JPEG_QUALITY = 95

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds odd in a file is told as the item's error


class TiffError(ValueError):
    """The file cannot be read; `truncated` if because it ends too early."""

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


@dataclasses.dataclass(frozen=True)
class Header:
    """What a TIFF says of its first page.

    Attributes:
      height: In pixels.
      width: In pixels.
      bits: Of a sample.
      pages: In the file.
    """

    height: int
    width: int
    bits: int
    pages: int


@dataclasses.dataclass(frozen=True)
class Samples:
    """The first page's samples, as other formats would give them.

    Attributes:
      values: [H, W] or [H, W, C]: bright is high in grey and RGB, much ink is high in CMYK; whole unsigned dtypes use
        their whole range (1 to 7 bits as uint8, 9 to 15 as uint16). CIELAB as littleCMS has it: uint8, or uint16.
      space: `GRAY`, `RGB`, `CMYK` or `LAB`.
      extra: [H, W, E] of the file's dtype: alpha and whatever else is beside the colours, or None.
      has_alpha: Whether the first of `extra` is one.
      profile: ICC.
      palette: Whether colours stand in a table.
      filled: Rows or tiles that were missing, and are white.
    """

    values: Array
    space: str
    extra: Array | None
    has_alpha: bool
    profile: bytes | None
    palette: bool
    filled: int


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[tuple[tifffile.TiffFile, tifffile.TiffPage]]:
    # Closed, because tifffile's objects refer to each other: the bytes would stay until the garbage is collected.
    with io.BytesIO(encoded) as buffer:
        try:
            file = tifffile.TiffFile(buffer)
            page = file.pages.first
            int(page.imagelength), int(page.imagewidth)
        except Exception as error:
            raise TiffError(f"the header is broken ({error})", truncated=_directory_is_beyond(encoded)) from error
        with file:
            yield file, page


def _directory_is_beyond(encoded: bytes) -> bool:
    order = "<" if encoded[:2] == b"II" else ">"
    big = encoded[2:4] in (b"+\0", b"\0+")
    if len(encoded) < 16:
        return True
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), encoded, 8 if big else 4)
    if offset + 8 > len(encoded):
        return True
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), encoded, offset)
    return bool(offset + 2 + entries * 12 > len(encoded))


def _bits(page: tifffile.TiffPage) -> int:
    bits = page.bitspersample
    return int(max(bits) if isinstance(bits, tuple) else bits)


def read_header(encoded: bytes) -> Header:
    """Size and depth of the first page. Raises TiffError."""
    with _opened(encoded) as (_, page):
        return Header(int(page.imagelength), int(page.imagewidth), _bits(page), 1)


def pages_in(encoded: bytes) -> int:
    """Number of pages."""
    with _opened(encoded) as (file, _):
        try:
            return len(file.pages)
        except Exception:
            return 1


def check_segments(encoded: bytes, max_pixels: int) -> None:
    """Makes sure that no strip or tile unfolds to more than the picture may have. Raises TiffError."""
    with _opened(encoded) as (_, page):
        tile = int(page.tilewidth) * int(page.tilelength) if page.is_tiled else 0
        if tile > max(max_pixels, 1 << 26):
            raise TiffError(f"tiles of {page.tilewidth} x {page.tilelength} pixels are not supported")
        if page.compression not in (_JPEG, 6, *_FILES_WITHIN):
            return
        most = max(tile, int(page.imagewidth) * int(page.imagelength), 1 << 20)
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if page.compression in _FILES_WITHIN:
                _check_file_within(encoded[offset : offset + count], most)
                continue
            with contextlib.suppress(containers.ContainerError, struct.error, IndexError):
                segments, _ = containers.jpeg_segments(encoded[offset : offset + min(count, 1 << 16)])
                for marker, body in segments:
                    if marker in (0xC0, 0xC1, 0xC2):
                        height, width = struct.unpack(">HH", body[1:5])
                        if height * width > most:
                            raise TiffError(f"a strip or tile holds a JPEG of {width} x {height} pixels")


def _check_file_within(segment: bytes, most: int) -> None:
    if segment.startswith(b"RIFF"):
        try:
            with Image.open(io.BytesIO(segment), formats=("WEBP",)) as image:
                width, height = image.size
        except Exception as error:
            raise TiffError(f"a strip or tile cannot be decoded ({error})") from error
    else:
        at = segment.find(b"\xff\x4f\xff\x51") + 8  # a bare codestream, or one in boxes
        if at < 8 or len(segment) < at + 16:
            return  # the decoder will say so
        right, bottom, left, top = struct.unpack_from(">4I", segment, at)
        width, height = right - left, bottom - top
    if width * height > most:
        raise TiffError(f"a strip or tile holds a picture of {width} x {height} pixels")


def tag_bytes(encoded: bytes, code: int) -> bytes | None:
    """The raw bytes of one tag of the first page, or None."""
    with _opened(encoded) as (_, page):
        return _raw(page, encoded, code)


def _raw(page: tifffile.TiffPage, encoded: bytes | memoryview, code: int) -> bytes | None:
    tag = page.tags.get(code)
    if tag is None:
        return None
    size = tag.count * struct.calcsize("<" + tifffile.TIFF.DATA_FORMATS[tag.dtype])
    return bytes(encoded[tag.valueoffset : tag.valueoffset + size])


def read(encoded: bytes, *, allow_truncated: bool = False) -> Samples:
    """Decodes the first page.

    Args:
      encoded: The file; its size has been checked.
      allow_truncated: Missing strips and tiles become white, instead of an error.

    Raises:
      TiffError: Broken, cut off, or of a kind that is not read.
    """
    with _opened(encoded) as (_, page):
        photometric = int(page.photometric)
        if photometric not in _SPACES:
            raise TiffError(f"photometric interpretation {page.photometric!s} is not supported; convert it to RGB")
        if page.samplesperpixel > _MOST_SAMPLES or page.imagedepth != 1:
            raise TiffError(f"{page.samplesperpixel} samples a pixel are not supported")
        missing = _missing(page, len(encoded))
        if missing and not allow_truncated:
            raise TiffError("strips or tiles are missing at its end", truncated=True)
        coded = photometric == 6 and page.compression != _JPEG
        whole = tuple(page.subsampling or (2, 2)) == (1, 1) and page.dtype == np.uint8 and page.samplesperpixel == 3
        if page.compression == 6 or (coded and not whole):
            return _read_by_pillow(encoded, page)
        stored, filled = _read_segments(page, encoded) if allow_truncated and missing else (_as_array(page), 0)
        if coded:  # libtiff wants all YCbCr subsampled
            stored = np.asarray(Image.fromarray(stored, "YCbCr").convert("RGB"))
        return _samples(page, stored, encoded, filled)


def _as_array(page: tifffile.TiffPage) -> Array:
    values = page.asarray(maxworkers=1)
    shape = (page.imagelength, page.imagewidth)
    if int(page.planarconfig) == 2 and page.samplesperpixel > 1:
        values = np.moveaxis(values.reshape(page.samplesperpixel, *shape), 0, -1)
    return np.ascontiguousarray(values.reshape(*shape, page.samplesperpixel))


def _missing(page: tifffile.TiffPage, size: int) -> bool:
    ends = zip(page.dataoffsets, page.databytecounts, strict=False)
    return not page.dataoffsets or any(offset + count > size or not count for offset, count in ends)


def _read_segments(page: tifffile.TiffPage, encoded: bytes) -> tuple[Array, int]:
    """What can be decoded, segment by segment; the rest is white."""
    bilevel = page.dtype == np.bool_
    white: Any = int(page.photometric) != 0
    if page.dtype.kind in "ui":
        white = np.iinfo(page.dtype).max if int(page.photometric) not in (0, 3, 5) else 0
    values = np.full((page.imagelength, page.imagewidth, page.samplesperpixel), white, page.dtype)
    planar = int(page.planarconfig) == 2
    filled = 0
    for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=False)):
        try:
            if not count or offset + count > len(encoded):
                raise ValueError("cut off")
            segment, at, shape = page.decode(encoded[offset : offset + count], index, jpegtables=page.jpegtables)
            if segment is None:
                raise ValueError("empty")
            sample, _, top, left, _ = at
            part = segment.reshape(segment.shape[-3:])[: shape[-3], : shape[-2]]
            channels = slice(sample, sample + 1) if planar else slice(None)
            place = values[top : top + part.shape[0], left : left + part.shape[1], channels]
            place[...] = (part != 0 if bilevel else part)[: place.shape[0], : place.shape[1]]
        except Exception:
            filled += 1
    return values, filled


def _read_by_pillow(encoded: bytes, page: tifffile.TiffPage) -> Samples:
    """Old-style JPEG, and YCbCr that is not JPEG: libtiff knows them."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            turned = image.getexif().get(_ORIENTATION, 1)
            shown = image.convert("L" if image.mode == "L" else "RGB")
            # Pillow has turned it as the tag says, which stays in the file: viewers would turn it once more.
            if turned in _TURNED_BACK and _ORIENTATION not in image.getexif():
                shown = shown.transpose(_TURNED_BACK[turned])
            values = np.asarray(shown)
    except Exception as error:
        raise TiffError(f"its samples cannot be decoded ({error})", truncated="truncated" in str(error)) from error
    return Samples(values, "GRAY" if values.ndim == 2 else "RGB", None, False, _raw(page, encoded, PROFILE), False, 0)


def _samples(page: tifffile.TiffPage, stored: Array, encoded: bytes, filled: int) -> Samples:
    photometric, bits = int(page.photometric), _bits(page)
    space = _SPACES[photometric]
    inks = 1 if photometric == 3 else _INKS[space]
    if stored.shape[2] < inks:
        raise TiffError(f"{stored.shape[2]} samples a pixel are too few for {page.photometric!s}")
    if stored.dtype.kind not in "uifb" or stored.dtype.itemsize > 8:
        raise TiffError(f"samples of type {stored.dtype} are not supported")
    extra = np.ascontiguousarray(stored[..., inks:]) if stored.shape[2] > inks else None
    colours = stored[..., :inks]
    if photometric == 3:
        table = np.asarray(page.colormap).T  # [2**bits, 3]
        low = table & 0xFF
        if not low.any() or (low == table >> 8).all():
            table = (table >> 8).astype(np.uint8)
        values = table[np.minimum(colours[..., 0].astype(np.intp), len(table) - 1)]
    else:
        values = _full_range(colours, bits)
        if photometric == 0:
            values = _inverted(values)
        elif space == "LAB":
            values = _lab(values, photometric)
    values = np.ascontiguousarray(values[..., 0] if space == "GRAY" else values)
    kinds = tuple(int(kind) for kind in page.extrasamples)
    # Two samples of an RGB file's five may be anything; a fourth that nobody explains is alpha, as everywhere.
    alpha = extra is not None and (kinds[:1] in ((1,), (2,)) or (extra.shape[2] == 1 and space != "CMYK"))
    return Samples(values, space, extra, alpha, _raw(page, encoded, PROFILE), photometric == 3, filled)


def _full_range(values: Array, bits: int) -> Array:
    """Samples of fewer bits than their dtype, spread over its range."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and bits < 8 * values.dtype.itemsize and bits < 16:
        most, top = (1 << bits) - 1, np.iinfo(values.dtype).max
        return ((np.minimum(values, most).astype(np.uint32) * top + most // 2) // most).astype(values.dtype)
    return values


def _narrowed(values: Array, bits: int) -> Array | None:
    """The inverse of `_full_range`; None where the values need more bits (fewer than 8 only: no writer has 9 to 15)."""
    most, top = (1 << bits) - 1, int(np.iinfo(values.dtype).max)
    small = ((values.astype(np.uint32) * most + top // 2) // top).astype(values.dtype)
    if bits < 8 and not np.array_equal(_full_range(small, bits), values):
        return None
    return small


def _inverted(values: Array) -> Array:
    if values.dtype.kind == "u":
        return np.iinfo(values.dtype).max - values
    return 1 - values if values.dtype.kind == "f" else -1 - values


def _lab(values: Array, photometric: int) -> Array:
    """CIELAB (a*, b* signed) as ICC has it (offset), in both directions for 8 bits."""
    if photometric != 8 or values.dtype not in (np.uint8, np.int8, np.uint16, np.int16):
        return values
    unsigned = values.view(np.dtype(f"u{values.dtype.itemsize}")).copy()
    unsigned[..., 1:] ^= 1 << (8 * values.dtype.itemsize - 1)
    return unsigned


# --- writing ----------------------------------------------------------------------------------------------------------


def write(
    original: bytes, values: Array, extra: Array | None, xmp: bytes | None, *, coloured: bool = False
) -> tuple[bytes, int, list[str]]:
    """The original file with other samples in its first page.

    Args:
      original: The file as it came.
      values: As `Samples.values`, of the same space and dtype.
      extra: As `Samples.extra`.
      xmp: A packet that takes the place of the original's, or None: leave it.
      coloured: `values` are uint8 or uint16 sRGB in place of greys, and `extra` has their dtype.

    Returns:
      The file, bits of a sample in it, and what could not be kept.
    """
    with _opened(original) as (file, page):
        encoded, bits, notes = _encoded_page(file, page, values, extra, coloured)
        with tifffile.TiffFile(encoded) as new:
            grafted = _graft(
                original,
                file,
                page,
                encoded,
                new.pages.first,
                _free(file, page, len(original)),
                xmp,
                _OF_SAMPLES | _OF_GREYS if coloured else _OF_SAMPLES,
            )
    return grafted, bits, notes


def _encoded_page(
    file: tifffile.TiffFile, page: tifffile.TiffPage, values: Array, extra: Array | None, coloured: bool
) -> tuple[io.BytesIO, int, list[str]]:
    """A one-page TIFF of the samples, stored as the page's."""
    compression = int(page.compression)
    values, bits, layout, notes = _as_stored(page, values, coloured)
    if values.dtype == np.bool_ and compression in _CCITT:
        return _ccitt(values, _CCITT[compression], int(page.photometric)), 1, notes
    samples = values if extra is None else np.concatenate([values.reshape(*values.shape[:2], -1), extra], axis=2)
    if extra is not None:
        kinds = [int(kind) for kind in page.extrasamples][: extra.shape[2]]
        layout["extrasamples"] = kinds + [0] * (extra.shape[2] - len(kinds))
    if samples.ndim == 3:
        layout["planarconfig"] = int(page.planarconfig)
        if int(page.planarconfig) == 2:
            samples = np.ascontiguousarray(np.moveaxis(samples, -1, 0))
    if page.is_tiled:
        layout["tile"] = (page.tilelength, page.tilewidth)
    else:
        layout["rowsperstrip"] = min(int(page.rowsperstrip), page.imagelength)
    wanted: dict[str, Any] = {"compression": compression if compression in _LOSSLESS else 8}
    if compression in _LOSSLESS and int(page.predictor) in (2, 3) and "bitspersample" not in layout:
        wanted["predictor"] = 2 if coloured else int(page.predictor)
    elif compression == _JPEG and values.dtype == np.uint8 and extra is None and layout["photometric"] in (1, 2, 6):
        wanted = {"compression": _JPEG, "compressionargs": {"level": _JPEG_QUALITY}}
        if layout["photometric"] == 6:
            layout["photometric"] = 2  # the writer is given RGB, and codes it as YCbCr
            wanted["subsampling"] = tuple(page.subsampling or (2, 2))
    for settings in (wanted, {"compression": 8}, {"compression": 1}):
        buffer = io.BytesIO()
        try:
            with tifffile.TiffWriter(buffer, bigtiff=True, byteorder=file.byteorder) as writer:
                writer.write(samples, **layout, **settings)
        except Exception:
            if settings["compression"] == 1:
                raise
        else:
            if settings["compression"] != compression:
                notes.append(f"compression {page.compression!s} became {tifffile.COMPRESSION(settings['compression'])}")
            buffer.seek(0)
            return buffer, bits, notes
    raise AssertionError


def _as_stored(page: tifffile.TiffPage, values: Array, coloured: bool) -> tuple[Array, int, dict[str, Any], list[str]]:
    """Samples as the page has them, their bits, how the writer is to call them, and notes."""
    photometric, bits = int(page.photometric), _bits(page)
    layout: dict[str, Any] = {"photometric": photometric, "metadata": None, "software": False}
    notes: list[str] = []
    if coloured:
        return values, 8 * values.itemsize, {**layout, "photometric": 2}, notes
    if photometric == 6:
        layout["photometric"] = 1 if values.ndim == 2 else 6 if int(page.compression) == _JPEG else 2
        if layout["photometric"] == 2:
            notes.append("YCbCr was written as RGB")
    if photometric == 3:
        indexed = _indexed(values, bits, np.asarray(page.colormap))
        if indexed is not None:
            values, layout["colormap"] = indexed
        else:
            notes.append("the palette's colours became too many: written as RGB")
            layout["photometric"], bits = 2, 8 * values.dtype.itemsize
    elif page.dtype == np.bool_ or (bits < 16 and bits != 8 and values.dtype.kind == "u"):
        small = _narrowed(values, bits)
        if small is not None:
            values = small.astype(np.bool_) if bits == 1 else small
        else:
            notes.append(f"{bits}-bit samples became 8-bit: the restored picture has more tones")
            bits = 8
    if photometric == 0:
        values = ~values if values.dtype == np.bool_ else _inverted_at(values, bits)
    elif photometric == 8:
        values = _lab(values, 8).view(page.dtype)
    if bits not in (1, 8, 16, 32, 64) and values.dtype.kind == "u":
        layout["bitspersample"] = bits
    return values, bits, layout, notes


def new(
    samples: Array,
    profile: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
    exif: bytes,
    iptc: bytes | None,
) -> bytes:
    """A new file of one page, Deflate.

    Args:
      samples: uint8 or uint16 [H, W] or [H, W, 2..4], the last of 2 and 4 alpha.
      profile: ICC.
      xmp: A packet.
      dpi: Resolution, x and y.
      exif: A block whose first directory's texts and orientation are taken along.
      iptc: IPTC-IIM datasets.
    """
    channels = samples.shape[2] if samples.ndim == 3 else 1
    tags: list[tuple[Any, ...]] = []
    found = Image.Exif()
    with contextlib.suppress(Exception):
        found.load(exif)
    for code, value in found.items():
        if code == 274 and isinstance(value, int):
            tags.append((code, 3, 1, value, True))
        elif code in (271, 272, 306, 315, 33432) and isinstance(value, str):
            tags.append((code, 2, 0, value.encode() + b"\0", True))
    if xmp:
        tags.append((XMP, 1, len(xmp), xmp, True))
    if iptc:
        tags.append((IPTC, 7, len(iptc), iptc, True))
    description = found.get(270)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(
            samples,
            photometric="rgb" if channels >= 3 else "minisblack",
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            planarconfig="contig" if channels > 1 else None,
            compression="adobe_deflate",
            predictor=True,
            iccprofile=profile,
            resolution=tuple(float(value) for value in dpi) if dpi else None,
            resolutionunit="inch" if dpi else None,
            description=description.encode() if isinstance(description, str) else None,
            metadata=None,
            software=False,
            extratags=tags,
        )
    return buffer.getvalue()


def _inverted_at(values: Array, bits: int) -> Array:
    if values.dtype.kind == "u" and bits < 8 * values.dtype.itemsize:
        return ((1 << bits) - 1 - values).astype(values.dtype)
    return _inverted(values)


def _indexed(values: Array, bits: int, old_table: Array) -> tuple[Array, Array] | None:
    """Indices and colour table (8 bits written as the old one's are) of RGB samples; None where they are too many."""
    flat = values.reshape(-1, 3).astype(np.uint64)
    colours, indices = np.unique(flat[:, 0] << 32 | flat[:, 1] << 16 | flat[:, 2], return_inverse=True)
    if len(colours) > 1 << bits:
        return None
    table = np.zeros((3, 1 << bits), np.uint16)
    for row, shift in zip(table, (32, 16, 0), strict=True):
        row[: len(colours)] = (colours >> np.uint64(shift)) & np.uint64(0xFFFF)
    if values.dtype == np.uint8:
        table *= 257 if (old_table & 0xFF).any() else 256
    dtype = np.uint8 if bits <= 8 else np.uint16
    return indices.reshape(values.shape[:2]).astype(dtype), table


def _ccitt(values: Array, compression: str, photometric: int) -> io.BytesIO:
    """Fax coding, which only libtiff writes."""
    buffer = io.BytesIO()
    image = Image.fromarray(values ^ (photometric == 0))
    image.save(buffer, "TIFF", compression=compression)
    buffer.seek(0)
    return buffer


def _free(file: tifffile.TiffFile, page: tifffile.TiffPage, size: int) -> list[tuple[int, int]]:
    """Where the old samples stand, as (start, end), merged; nothing where something else stands there, too."""
    old = sorted(zip(page.dataoffsets, page.databytecounts, strict=False))
    merged: list[list[int]] = []
    for offset, count in old:
        if merged and offset <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], offset + count)
        else:
            merged.append([offset, offset + count])
    try:
        taken = [(0, 16)]
        seen = set()
        for other in file.pages:
            whole = other.aspage() if hasattr(other, "aspage") else other
            if whole.offset in seen:  # pages that lead in a circle have no end
                return []
            seen.add(whole.offset)
            taken.append((whole.offset, whole.offset + 8))
            taken += [(tag.valueoffset, tag.valueoffset + 1) for tag in whole.tags]
            if whole.offset != page.offset:
                spans = zip(whole.dataoffsets, whole.databytecounts, strict=False)
                taken += [(offset, offset + count) for offset, count in spans]
    except Exception:
        return []
    clear = all(end <= begin or last <= start for begin, last in merged for start, end in taken)
    return [(start, min(end, size)) for start, end in merged if start < size] if clear else []


def _graft(
    original: bytes,
    file: tifffile.TiffFile,
    page: tifffile.TiffPage,
    encoded: io.BytesIO,
    new: tifffile.TiffPage,
    free: list[tuple[int, int]],
    xmp: bytes | None,
    left_out: set[int],
) -> bytes:
    order, big = file.byteorder, file.is_bigtiff
    entry_size, word = (20, "Q") if big else (12, "I")
    out = bytearray(original)
    free = list(free)

    def append(data: bytes | memoryview) -> int:
        out.extend(b"\0" * (-len(out) % 2))
        out.extend(data)
        return len(out) - len(data)

    def place(data: memoryview) -> int:
        for index, (start, end) in enumerate(free):
            if end - start >= len(data):
                out[start : start + len(data)] = data
                free[index] = (start + len(data), end)
                return start
        return append(data)

    if free and free[-1][1] >= len(out) - 1:  # nothing follows the old samples: the file need not grow round them
        del out[free[-1][0] :]
        free.pop()
    source = encoded.getbuffer()
    spans = list(zip(new.dataoffsets, new.databytecounts, strict=True))
    offsets = [place(source[offset : offset + count]) for offset, count in spans]

    def entry(code: int, kind: int, count: int, data: bytes) -> bytes:
        room = struct.calcsize(word)
        value = data.ljust(room, b"\0") if len(data) <= room else struct.pack(order + word, append(data))
        return struct.pack(order + "HH" + word, code, kind, count) + value

    def numbers(code: int, values: list[int]) -> bytes:
        return entry(code, 16 if big else 4, len(values), struct.pack(f"{order}{len(values)}{word}", *values))

    entries = {
        tag.code: original[tag.offset : tag.offset + entry_size] for tag in page.tags if tag.code not in left_out
    }
    for tag in new.tags:
        if tag.code in _OFFSETS:
            entries[tag.code] = numbers(tag.code, offsets)
        elif tag.code in _COUNTS:
            entries[tag.code] = numbers(tag.code, [count for _, count in spans])
        elif tag.code in _OF_SAMPLES:
            raw = _raw(new, source, tag.code) or b""
            if tag.dtype == 16 and not big:
                entries[tag.code] = numbers(tag.code, list(tag.value if isinstance(tag.value, tuple) else [tag.value]))
            else:
                entries[tag.code] = entry(tag.code, int(tag.dtype), tag.count, raw)
    for tag in page.tags:
        if tag.code == 284 and 284 not in entries:  # says nothing of one sample a pixel, but was there
            entries[284] = original[tag.offset : tag.offset + entry_size]
    if xmp is not None:
        entries[XMP] = entry(XMP, 1, len(xmp), xmp)
    following = _next_directory(original, page.offset, order, big)
    table = b"".join(entries[code] for code in sorted(entries))
    directory = struct.pack(order + ("Q" if big else "H"), len(entries)) + table + struct.pack(order + word, following)
    place_of_directory = append(directory)
    if len(out) >= 1 << 32 and not big:
        raise TiffError("it would be larger than the 4 GiB of a classic TIFF")
    struct.pack_into(order + word, out, 8 if big else 4, place_of_directory)
    source.release()
    encoded.close()  # before the copy below: a large scan's samples need not be in memory three times
    return bytes(out)


def _next_directory(original: bytes, offset: int, order: str, big: bool) -> int:
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), original, offset)
    at = offset + (8 + 20 * count if big else 2 + 12 * count)
    return int(struct.unpack_from(order + ("Q" if big else "I"), original, at)[0])
