"""Parts of picture files: JPEG segments, PNG chunks, JPEG 2000 boxes. New pixels go into the old file's other parts.

The codecs are libraries; only the frames around their data are taken apart here, because no writer gives back what it
does not know: maker notes, private segments and chunks stay byte for byte.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator

JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
JPEG_EXIF = b"Exif\0\0"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_XMP = b"XML:com.adobe.xmp"
JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
JP2_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
JPEG_SEGMENT_LIMIT = 65533

_APP0, _APP1, _APP2, _APP13, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xEF, 0xFE
_SOS, _EOI, _DRI = 0xDA, 0xD9, 0xDD
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


class ContainerError(ValueError):
    """The file is not put together as its format says."""


# --- JPEG -------------------------------------------------------------------------------------------------------------


def jpeg_segments(encoded: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """(marker, body) of each segment before the first scan, and where that scan's segment begins."""
    segments: list[tuple[int, bytes]] = []
    at = 2
    while True:
        while encoded[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 4 > len(encoded) or encoded[at] != 0xFF:
            raise ContainerError("a JPEG segment is broken")
        marker, size = encoded[at + 1], struct.unpack_from(">H", encoded, at + 2)[0]
        if marker == _SOS:
            return segments, at
        if size < 2 or at + 2 + size > len(encoded):
            raise ContainerError("a JPEG segment is cut off")
        segments.append((marker, encoded[at + 4 : at + 2 + size]))
        at += 2 + size


def jpeg_trailer(encoded: bytes, scan: int) -> bytes:
    """What stands after the end of the picture: a phone's video, further pictures, a camera's own data."""
    at = scan
    while True:
        if encoded[at + 1] == _EOI:
            return encoded[at + 2 :]
        at += 2 + struct.unpack_from(">H", encoded, at + 2)[0]
        following = _NEXT_MARKER.search(encoded, at)
        if following is None or following.start() + 4 > len(encoded) + 2:
            return b""
        at = following.start()


def jpeg_restart_interval(encoded: bytes) -> int:
    """Blocks between restart markers, 0 for none."""
    bodies = [body for marker, body in jpeg_segments(encoded)[0] if marker == _DRI]
    return int(struct.unpack(">H", bodies[-1][:2])[0]) if bodies else 0


def jpeg_adobe_transform(encoded: bytes) -> int | None:
    """How an Adobe file says its samples are coded: 0 as they are, 1 YCbCr, 2 YCCK; None if it does not say."""
    bodies = [body for marker, body in jpeg_segments(encoded)[0] if marker == _APP14 and body.startswith(b"Adobe")]
    return bodies[-1][11] if bodies and len(bodies[-1]) > 11 else None


def _is_metadata(marker: int, body: bytes) -> bool:
    """Whether a segment describes the picture, rather than how its samples are coded, or where others lie."""
    if marker == _APP14 and body.startswith(b"Adobe"):
        return False
    if marker == _APP2 and body.startswith(b"MPF\0"):  # offsets of further pictures, which would lead nowhere
        return False
    return _APP0 <= marker <= _APP15 or marker == _COM


def splice_jpeg(original: bytes, written: bytes, xmp: bytes | None, *, profile: bool = True) -> tuple[bytes, list[str]]:
    """The original's metadata around the pixels of `written`.

    Args:
      original: The file as it came.
      written: The restored picture, as a JPEG encoder wrote it.
      xmp: A packet that takes the place of the original's, or None: leave it.
      profile: Whether the original's ICC profile holds for the new pixels, too.

    Returns:
      The file, and what could not be kept.
    """
    notes = []
    segments, scan = jpeg_segments(original)
    kept = [
        (marker, body)
        for marker, body in segments
        if _is_metadata(marker, body) and (profile or marker != _APP2 or not body.startswith(b"ICC_PROFILE\0"))
    ]
    if xmp is not None and len(JPEG_XMP) + len(xmp) > JPEG_SEGMENT_LIMIT:
        notes.append("XMP with the history of the restoration is too long for a JPEG, and was left as it was")
    elif xmp is not None:
        place = next((i for i, (m, body) in enumerate(kept) if m == _APP1 and body.startswith(JPEG_XMP)), None)
        if place is None:
            first = [i for i, (m, body) in enumerate(kept) if m == _APP0 or (m == _APP1 and body.startswith(JPEG_EXIF))]
            kept.insert(first[-1] + 1 if first else 0, (_APP1, JPEG_XMP + xmp))
        else:
            kept[place] = (_APP1, JPEG_XMP + xmp)
    trailer = jpeg_trailer(original, scan)
    if any(marker == _APP2 and body.startswith(b"MPF\0") for marker, body in segments):
        notes.append("only the first of several pictures in the file was restored and kept")
        trailer = b""
    new, scan = jpeg_segments(written)
    coding = [(marker, body) for marker, body in new if not _is_metadata(marker, body)]
    parts = [b"\xff\xd8"]
    for marker, body in [*kept, *coding]:
        parts.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)
    return b"".join([*parts, written[scan:], trailer]), notes


def jpeg_with_iptc(encoded: bytes, iptc: bytes) -> bytes | None:
    """A JPEG with IPTC-IIM datasets, in a Photoshop resource block; None where they are too long for a segment."""
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = b"Photoshop 3.0\0" + block
    if len(body) > JPEG_SEGMENT_LIMIT:
        return None
    segments, _ = jpeg_segments(encoded)
    at = 2
    for marker, before in segments:
        if not (_APP0 <= marker < _APP13):
            break
        at += len(before) + 4
    return encoded[:at] + struct.pack(">BBH", 0xFF, _APP13, len(body) + 2) + body + encoded[at:]


def jpeg_xmp(encoded: bytes) -> bytes | None:
    """The XMP packet of a JPEG."""
    bodies = (body for marker, body in jpeg_segments(encoded)[0] if marker == _APP1)
    return next((body[len(JPEG_XMP) :] for body in bodies if body.startswith(JPEG_XMP)), None)


# --- PNG --------------------------------------------------------------------------------------------------------------

_PNG_OF_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_OF_FRAMES = {b"acTL", b"fcTL", b"fdAT"}
_PNG_OF_DEPTH = {b"sBIT", b"bKGD", b"hIST", b"sPLT"}
PNG_COLOURS = {b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI"}


def png_chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each whole chunk."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, at)
        if at + 12 + size > len(encoded):
            return
        yield kind, encoded[at + 8 : at + 8 + size]
        at += 12 + size


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_xmp_chunk(xmp: bytes) -> tuple[bytes, bytes]:
    """An XMP packet as a chunk, not compressed."""
    return b"iTXt", PNG_XMP + b"\0\0\0\0\0" + xmp


def is_png_xmp(kind: bytes, body: bytes) -> bool:
    """Whether a chunk holds XMP."""
    return kind == b"iTXt" and body.startswith(PNG_XMP + b"\0")


def png_xmp(encoded: bytes) -> bytes | None:
    """The XMP packet of a PNG; empty if it is there but cannot be read."""
    for kind, body in png_chunks(encoded):
        if is_png_xmp(kind, body):
            rest = body[len(PNG_XMP) + 1 :]
            text = rest[2:].split(b"\0", 2)[-1]
            try:
                return zlib.decompressobj().decompress(text, 4 << 20) if rest[:1] == b"\x01" else text
            except zlib.error:
                return b""
    return None


def splice_png(
    original: bytes, written: bytes, xmp: bytes | None, header: bytes | None = None, *, profile: bool = True
) -> bytes:
    """The original's ancillary chunks, before and after the pixels as they were, around the pixels of `written`.

    Args:
      original: The file as it came.
      written: The restored picture, as a PNG encoder wrote it.
      xmp: A packet that takes the place of the original's, or None: leave it.
      header: IHDR in place of the encoder's; its palette and transparency are then left out.
      profile: Whether what the original says its codes look like holds for the new pixels, too.
    """
    own = [(kind, b"" if kind == b"IDAT" else body) for kind, body in png_chunks(original)]
    new = [(kind, b"" if kind == b"IDAT" else body) for kind, body in png_chunks(written)]
    old_header = next((body for kind, body in own if kind == b"IHDR"), b"")
    new_header = header or next(body for kind, body in new if kind == b"IHDR")
    left_out = _PNG_OF_PIXELS | _PNG_OF_FRAMES | (set() if old_header[8:10] == new_header[8:10] else _PNG_OF_DEPTH)
    left_out |= set() if profile else PNG_COLOURS
    data = next((i for i, (kind, _) in enumerate(own) if kind == b"IDAT"), len(own))
    before = [chunk for chunk in own[:data] if chunk[0] not in left_out]
    after = [chunk for chunk in own[data:] if chunk[0] not in left_out]
    if xmp is not None:
        before = [*(chunk for chunk in before if not is_png_xmp(*chunk)), png_xmp_chunk(xmp)]
        after = [chunk for chunk in after if not is_png_xmp(*chunk)]
    coding = [chunk for chunk in new if chunk[0] in ({b"PLTE", b"tRNS"} if header is None else set())]
    colours = [chunk for chunk in before if chunk[0] in PNG_COLOURS | {b"sBIT"}]  # these stand before a palette
    others = [chunk for chunk in before if chunk[0] not in PNG_COLOURS | {b"sBIT"}]
    first = [png_chunk(*chunk) for chunk in [(b"IHDR", new_header), *colours, *coding, *others]]
    last = [png_chunk(*chunk) for chunk in [*after, (b"IEND", b"")]]
    return b"".join([PNG_SIGNATURE, *first, *_png_pixels(written), *last])


def _png_pixels(encoded: bytes) -> Iterator[memoryview]:
    """The chunks of pixels, with their frames, not copied: they are as large as the picture."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, at)
        if kind == b"IDAT":
            yield memoryview(encoded)[at : at + 12 + size]
        at += 12 + size


# --- JPEG 2000 --------------------------------------------------------------------------------------------------------


def jp2_boxes(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each top-level box."""
    at = 0
    while at + 8 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", encoded, at + 8)
            head = 16
        end = at + size if size else len(encoded)
        if end < at + head:
            raise ContainerError("a JPEG 2000 box is broken")
        yield kind, encoded[at + head : end]
        at = end


def jp2_box(kind: bytes, body: bytes) -> bytes:
    """A box with its length."""
    if len(body) + 8 < 1 << 32:
        return struct.pack(">I4s", len(body) + 8, kind) + body
    return struct.pack(">I4sQ", 1, kind, len(body) + 16) + body


def is_jp2_xmp(kind: bytes, body: bytes) -> bool:
    """Whether a box holds XMP."""
    return kind == b"uuid" and body.startswith(JP2_XMP)


def jp2_codestream(encoded: bytes) -> bytes:
    """The coded samples of a JP2 file or of a bare codestream."""
    if not encoded.startswith(JP2_SIGNATURE):
        return encoded
    return next((body for kind, body in jp2_boxes(encoded) if kind == b"jp2c"), b"")


def jp2_profile(encoded: bytes) -> bytes | None:
    """The ICC profile of a JP2 file."""
    for kind, body in jp2_boxes(encoded) if encoded.startswith(JP2_SIGNATURE) else ():
        if kind == b"jp2h":
            for inner, colour in jp2_boxes(body):
                if inner == b"colr" and colour[:1] in (b"\x02", b"\x03"):
                    return colour[3:]
    return None


def splice_jp2(original: bytes, codestream: bytes, xmp: bytes | None) -> bytes:
    """The original's boxes around a new codestream of the same components and depth.

    Args:
      original: The file as it came; a bare codestream has no boxes.
      codestream: The restored picture.
      xmp: A packet that takes the place of the original's, or None: leave it.
    """
    if not original.startswith(JP2_SIGNATURE):
        return codestream
    boxes: list[tuple[bytes, bytes]] = []
    done = False
    for kind, body in jp2_boxes(original):
        if xmp is not None and is_jp2_xmp(kind, body):
            continue
        if kind == b"jp2c" and not done:
            if xmp is not None:
                boxes.append((b"uuid", JP2_XMP + xmp))
            boxes.append((kind, codestream))
            done = True
        elif kind != b"jp2c":
            boxes.append((kind, body))
    return join_boxes(boxes)


def join_boxes(boxes: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Boxes as a file."""
    return b"".join(jp2_box(*box) for box in boxes)


def jp2_xmp(encoded: bytes) -> bytes | None:
    """The XMP packet of a JP2 file."""
    if not encoded.startswith(JP2_SIGNATURE):
        return None
    return next((body[len(JP2_XMP) :] for kind, body in jp2_boxes(encoded) if is_jp2_xmp(kind, body)), None)
