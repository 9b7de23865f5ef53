"""The caption of a picture: from the catalogue, from the file beside it, or from inside it."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar
from xml.etree import ElementTree

from PIL import Image, JpegImagePlugin, TiffImagePlugin

from transforms import containers, isolation
from transforms.items import Pair

SIDECAR_SUFFIXES = (".txt", ".json")

_CAPTION_KEYS = ("caption", "description", "title")

_EXIF_DESCRIPTION = 0x010E
_TIFF_XMP, _TIFF_IPTC, _TIFF_PHOTOSHOP = 700, 33723, 34377
_PHOTOSHOP_IPTC = 0x0404
_IPTC_CHARSET, _IPTC_CAPTION = (1, 90), (2, 120)
_EXIF_DIRECTORY, _EXIF_COMMENT, _EXIF_TITLE = 0x8769, 0x9286, 0x9C9B

# IPTC 1:90 names the character set by ISO 2022 escape sequences: UTF-8, or a Latin set put into G1 or G2.
_ISO_8859 = {"A": 1, "B": 2, "C": 3, "D": 4, "L": 5, "G": 6, "F": 7, "H": 8, "M": 9, "V": 10, "Y": 13, "b": 15, "f": 16}
_IPTC_CHARSETS = {
    b"\x1b%G": "utf-8",
    b"\x1b%/I": "utf-8",
    **{f"\x1b{group}{final}".encode(): f"iso8859-{part}" for final, part in _ISO_8859.items() for group in "-."},
}
_UUIDS = {  # of boxes of a JPEG 2000
    containers.JP2_XMP: "xmp",
    bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"): "iptc",
    b"JpgTiffExif->JP2": "exif",
}
_HEIF_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_XMP_LIMIT = 4 << 20

_DC = "{http://purl.org/dc/elements/1.1/}description"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

# What cameras and scanner software write into ImageDescription of every file: names of makers, shapes of arrays.
_BOILERPLATE = re.compile(
    r"((olympus|minolta|konica minolta|kodak|samsung|sanyo) digital camera|digital camera|sony dsc|dcim|samsung"
    r'|\{"shape": .*|imagej=.*|<\?xml .*)',
    re.IGNORECASE | re.DOTALL,
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")

# Less tabs, line ends and their like, which part words: split() deals with those.
_CONTROLS = re.compile("[\0-\b\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """One line of NFC text: control characters, byte-order marks and lone surrogates gone, whitespace collapsed.

    Joiners (which hold emoji families and Indic clusters together) stay.
    """
    text = _CONTROLS.sub("", replace_surrogates(text))
    return " ".join(unicodedata.normalize("NFC", text).split())


def replace_surrogates(text: str) -> str:
    """Text that can be written as UTF-8: JSON's escapes can say halves of characters."""
    return _SURROGATES.sub("\ufffd", text)


def decode(data: bytes) -> str:
    """Text of unknown encoding, never refused: by its byte-order mark, else UTF-8, else Windows-1252 or Latin-1."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return decode_single(data)


def decode_single(data: bytes) -> str:
    """Text of one byte a character: Windows-1252, which is Latin-1 with curly quotes, or where that fails Latin-1."""
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


_SIDECAR_BYTES = 16 << 20
"""Larger ones are no caption, and must not fill the memory."""


def caption_of(pair: Pair, encoded: bytes, read: Callable[[str, int], bytes] | None = None) -> str:
    """The caption of one picture: the catalogue's, else the sidecar's, else the one inside the file, else "".

    Args:
      pair: The picture's names.
      encoded: The picture's bytes.
      read: Reads the sidecar; `storage.read_bytes` by default.

    Raises:
      ItemFailure: The listing named a sidecar that cannot be read. (Going on without would let the same input give
        different pictures from one run to the next.)
    """
    from transforms import storage  # imported here: it loads Beam, and a decoding process has no use for that

    if pair.caption is not None and (caption := clean(pair.caption)):
        return caption
    if pair.sidecar is not None and (
        beside := sidecar_caption(pair.sidecar, (read or storage.read_bytes)(pair.sidecar, _SIDECAR_BYTES))
    ):
        return beside
    return isolation.embedded_caption(encoded) or ""


def sidecar_caption(name: str, data: bytes) -> str | None:
    """The caption in a file that lies beside a picture.

    Args:
      name: The file's name: `.txt` is all caption; in `.json` it is the first text among `caption`, `description`
        and `title`.
      data: The file's bytes.

    Returns:
      None if there is no caption in it.
    """
    text = decode(data)
    if not name.lower().endswith(".json"):
        return clean(text) or None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    values = (fields.get(key) for key in _CAPTION_KEYS)
    return next((caption for value in values if isinstance(value, str) and (caption := clean(value))), None)


def embedded_caption(encoded: bytes) -> str | None:
    """The caption inside an image file: the first there is of XMP, IPTC and EXIF.

    In this order: XMP `dc:description`, IPTC Caption-Abstract (in the character set that 1:90 names, else UTF-8, else
    Windows-1252), EXIF ImageDescription, UserComment, XPTitle. Reads JPEG, PNG, TIFF, WebP, JPEG 2000, AVIF and HEIC.
    Looks at headers only and decodes no pixel, whatever the size.

    Returns:
      None if there is none, or if the metadata is rubbish.
    """
    blocks = _attempt(_blocks, encoded)
    if blocks is None:
        return None
    for block, caption_in in ((blocks.xmp, _xmp_caption), (blocks.iptc, _iptc_caption), (blocks.exif, _exif_caption)):
        if block and (caption := clean(_attempt(caption_in, block) or "")):
            return caption
    return None


def iptc(encoded: bytes) -> bytes | None:
    """The IPTC-IIM datasets of an image file as they are; None if there are none, or the metadata is rubbish."""
    blocks = _attempt(_blocks, encoded)
    return (blocks.iptc or None) if blocks else None


@dataclasses.dataclass
class _Blocks:
    """The metadata blocks of an image file, not parsed yet."""

    xmp: bytes | None = None
    iptc: bytes | None = None
    exif: bytes | None = None


def _attempt(function: Callable[[_In], _Out | None], value: _In) -> _Out | None:
    """`function(value)`, or None where the file is rubbish: parsers fail on that with every class of exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(value)
    except Exception:
        return None


def _blocks(encoded: bytes) -> _Blocks | None:
    # Not Image.open: that refuses large pictures, allocates the canvas of a WebP, and misses what a PNG says last.
    if encoded.startswith(b"\xff\xd8"):
        return _jpeg_blocks(encoded)
    if encoded.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_blocks(encoded)
    if encoded.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff_blocks(encoded)
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        return _webp_blocks(encoded)
    if encoded.startswith(b"\0\0\0\x0cjP  \r\n\x87\n"):
        return _jp2_blocks(encoded)
    if encoded[4:8] == b"ftyp":
        end = struct.unpack_from(">I", encoded)[0]
        brands = {encoded[at : at + 4] for at in (8, *range(16, min(end, 256), 4))}
        if brands & _HEIF_BRANDS:
            return _heif_blocks(encoded)
    return None


def _heif_blocks(encoded: bytes) -> _Blocks:
    # The parts of such a file are found by tables within tables: by the library after all, which decodes nothing yet.
    info = Image.open(io.BytesIO(encoded)).info
    return _Blocks(info.get("xmp"), None, info.get("exif"))


def _jpeg_blocks(encoded: bytes) -> _Blocks:
    info = JpegImagePlugin.JpegImageFile(io.BytesIO(encoded)).info
    photoshop = info.get("photoshop") or {}
    return _Blocks(info.get("xmp"), photoshop.get(_PHOTOSHOP_IPTC), info.get("exif"))


def _tiff_blocks(encoded: bytes) -> _Blocks:
    file = io.BytesIO(encoded)
    directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if b"+" in encoded[:4] else 8))
    file.seek(directory.next)
    directory.load(file)

    raw: dict[int, bytes] = directory._tagdata  # as PIL itself reads IPTC: its decoder drops all but the first number
    iptc = raw.get(_TIFF_IPTC)
    if iptc and iptc[:1] != b"\x1c" and iptc[3:4] == b"\x1c":  # taken for 32-bit numbers, and turned round
        words = struct.unpack(f">{len(iptc) // 4}I", iptc[: len(iptc) // 4 * 4])
        iptc = struct.pack(f"<{len(words)}I", *words)
    if not iptc and (resources := raw.get(_TIFF_PHOTOSHOP)):
        iptc = _attempt(_photoshop_iptc, resources)
    return _Blocks(raw.get(_TIFF_XMP), iptc, encoded)  # a TIFF is laid out as an EXIF block is


def _photoshop_iptc(data: bytes) -> bytes | None:
    at = 0
    while data[at : at + 4] == b"8BIM":
        (code,) = struct.unpack_from(">H", data, at + 4)
        at += 6 + (1 + data[at + 6] + 1) // 2 * 2  # a name, padded to an even length
        (size,) = struct.unpack_from(">I", data, at)
        if code == _PHOTOSHOP_IPTC:
            return data[at + 4 : at + 4 + size]
        at += 4 + (size + 1) // 2 * 2
    return None


def _webp_blocks(encoded: bytes) -> _Blocks:
    blocks = _Blocks()
    at = 12
    while at + 8 <= len(encoded):
        kind, size = struct.unpack_from("<4sI", encoded, at)
        if kind == b"XMP ":
            blocks.xmp = encoded[at + 8 : at + 8 + size]
        elif kind == b"EXIF":
            blocks.exif = encoded[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return blocks


def _jp2_blocks(encoded: bytes) -> _Blocks:
    blocks = _Blocks()
    at = 0
    while at + 8 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", encoded, at + 8)
            header = 16
        end = at + size if size else len(encoded)
        if kind == b"uuid" and (name := _UUIDS.get(encoded[at + header : at + header + 16])):
            setattr(blocks, name, encoded[at + header + 16 : end])
        if end < at + header:
            break
        at = end
    return blocks


def _png_blocks(encoded: bytes) -> _Blocks:
    blocks = _Blocks()
    at = 8
    while at + 8 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, at)
        if kind in {b"iTXt", b"tEXt", b"zTXt"}:
            keyword, text = _attempt(_png_text, (kind, encoded[at + 8 : at + 8 + size])) or (b"", b"")
            if keyword in {b"XML:com.adobe.xmp", b"Raw profile type xmp"}:
                blocks.xmp = text
            elif keyword == b"Raw profile type iptc":
                blocks.iptc = text
            elif keyword in {b"Raw profile type exif", b"Raw profile type APP1"} and text.startswith(b"Exif"):
                blocks.exif = text
        elif kind == b"eXIf":
            blocks.exif = encoded[at + 8 : at + 8 + size]
        at += 12 + size
    if blocks.iptc and blocks.iptc.startswith(b"8BIM"):
        blocks.iptc = _photoshop_iptc(blocks.iptc)
    return blocks


def _png_text(chunk: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    kind, body = chunk
    keyword, _, body = body.partition(b"\0")
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed = body[:1] == b"\x01"
        body = body[2:].split(b"\0", 2)[2]  # a language, a translated keyword
    elif kind == b"zTXt":
        body = body[1:]
    if compressed:
        body = zlib.decompressobj().decompress(body, _XMP_LIMIT)
    if keyword.startswith(b"Raw profile type "):  # ImageMagick: a name, a length, then hexadecimal digits
        body = bytes.fromhex(b"".join(body.split(b"\n")[3:]).decode("ascii"))
    return keyword, body


def _xmp_caption(packet: bytes) -> str | None:
    text = decode(packet.strip(b"\0"))
    text = text[text.find("<") : text.rfind(">") + 1]
    # XMP has no use for a document type; one with entities can be a bomb.
    if len(text) > _XMP_LIMIT or re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        return None
    # From text the parser takes no other encoding, so nothing hides from the line above. What XML has no
    # place for (a stray NUL) would cost the whole packet.
    root = ElementTree.fromstring(re.sub("[\0-\b\v\f\x0e-\x1f]", "", replace_surrogates(text)))
    for element in root.iter():
        if element.tag == _DC:
            if caption := _alternative(list(element.iter(f"{_RDF}li"))) or "".join(element.itertext()).strip():
                return caption
        elif (short := element.get(_DC)) and short.strip():
            return short
    return None


def _alternative(items: Sequence[ElementTree.Element]) -> str | None:
    default_first = sorted(items, key=lambda item: item.get(_LANG, "").lower() != "x-default")
    return next((text for item in default_first if (text := "".join(item.itertext()).strip())), None)


def _iptc_caption(data: bytes) -> str | None:
    charset = None
    for dataset, value in _iptc_datasets(data):
        if dataset == _IPTC_CHARSET:
            charset = next((name for escape, name in _IPTC_CHARSETS.items() if escape in value), None)
        elif dataset == _IPTC_CAPTION and value.strip(b"\0 \r\n\t"):
            return value.decode(charset, "replace") if charset else decode(value)
    return None


def _iptc_datasets(data: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """(record, dataset) and value, up to the first byte that is not IIM (PIL's parser loses all there)."""
    at = 0
    while at + 5 <= len(data) and data[at] == 0x1C:
        record, dataset, size = struct.unpack_from(">BBH", data, at + 1)
        at += 5
        if size & 0x8000:  # the length of the length
            width = size & 0x7FFF
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        yield (record, dataset), data[at : at + size]
        at += size


def _exif_caption(data: bytes) -> str | None:
    exif = Image.Exif()
    exif.load(data)
    texts = (
        _exif_text(exif.get(_EXIF_DESCRIPTION)),
        _exif_comment(exif.get_ifd(_EXIF_DIRECTORY).get(_EXIF_COMMENT), exif.endian or "<"),
        _exif_title(exif.get(_EXIF_TITLE)),
    )
    return next((text for text in texts if (line := clean(text)) and not _BOILERPLATE.fullmatch(line)), None)


def _exif_text(value: object) -> str:
    if isinstance(value, str):  # PIL takes it for Latin-1
        value = value.encode("latin-1", "replace")
    return decode(value) if isinstance(value, bytes) else ""


def _exif_comment(value: object, endian: str) -> str:
    """UserComment: eight bytes name the code, the text follows (EXIF 2.32, 4.6.5)."""
    if not isinstance(value, bytes):
        return _exif_text(value)
    code, text = value[:8], value[8:]
    if code.startswith(b"UNICODE"):
        return _utf16(text, endian)
    if code.startswith(b"JIS"):
        return text.decode("iso2022_jp", "replace")
    return decode((text if code.startswith(b"ASCII") or not code.strip(b"\0") else value).rstrip(b"\0 "))


def _exif_title(value: object) -> str:
    """XPTitle, which Windows writes: UTF-16, low byte first."""
    if isinstance(value, tuple):
        value = bytes(number & 0xFF for number in value)
    return _utf16(value, "<") if isinstance(value, bytes) else ""


def _utf16(data: bytes, endian: str) -> str:
    """UTF-16 by its mark, else as its zeros stand (the high bytes of Latin letters), else as the block is ordered."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").rstrip("\0")
    first, second = data[::2].count(0), data[1::2].count(0)
    big = endian == ">" if first == second else first > second
    return data.decode("utf-16-be" if big else "utf-16-le", "replace").rstrip("\0")
