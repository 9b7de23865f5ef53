"""A hostile archive, made in memory: files that lie, break off, unfold without end; names and captions that attack.

Nothing here is an attack on a known fault: each kind is something that stands in real archives, or that whoever wants
to stop a night's run, read a file of the machine or write outside the output would try first.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import pathlib
import socket
import struct
import zlib
from collections.abc import Iterator

import archives
import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from pillow_files import ICC, exif_block, file_of

from transforms import containers

PICTURE = Image.fromarray(archives.photograph(1, 48, 64))
SECRET = b"unfade-secret-that-must-not-leak"
SCRIPT = '"><script>alert(1)</script><svg onload=alert(2)><img src=x onerror=alert(3)>'


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the manifest.

    Attributes:
      kind: What is wrong with it; no two rows have the same.
      image: As the manifest names it.
      id: As the manifest gives it, raw bytes of UTF-8 or not; empty: the default.
      caption: Raw bytes.
      reference: As the manifest names it.
      target: As the manifest names it.
    """

    kind: str
    image: str
    id: bytes = b""
    caption: bytes = b""
    reference: str = ""
    target: str = ""


# --- files ------------------------------------------------------------------------------------------------------------


@functools.cache
def sound() -> dict[str, bytes]:
    """A small sound file of each format, by its usual suffix."""
    pixels = np.asarray(PICTURE)
    return {
        "jpg": file_of(PICTURE, "JPEG", quality=90),
        "png": file_of(PICTURE, "PNG"),
        "tif": file_of(PICTURE, "TIFF", compression="tiff_lzw"),
        "webp": file_of(PICTURE, "WEBP", lossless=True),
        "gif": file_of(PICTURE.quantize(32), "GIF"),
        "bmp": file_of(PICTURE, "BMP"),
        "jp2": bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", reversible=True)),
        "ppm": file_of(PICTURE, "PPM"),
        "avif": file_of(PICTURE, "AVIF"),
        "heic": file_of(PICTURE, "HEIF"),
        "mpo": file_of(PICTURE, "MPO", save_all=True, append_images=[PICTURE]),
        "btf": _tiled(bigtiff=True),
    }


def _tiled(bigtiff: bool) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=bigtiff) as writer:
        writer.write(np.asarray(PICTURE), photometric="rgb", tile=(16, 16), compression="zlib")
    return buffer.getvalue()


def png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = (64, 48)) -> bytes:
    """A PNG of these chunks after a header that says 8-bit RGB of `size`."""
    header = (b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return containers.PNG_SIGNATURE + b"".join(containers.png_chunk(*chunk) for chunk in (header, *chunks))


def _png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    data = next(body for kind, body in containers.png_chunks(sound()["png"]) if kind == b"IDAT")
    return png(*chunks, (b"IDAT", data), (b"IEND", b""))


def _jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    whole = sound()["jpg"]
    made = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return whole[:2] + made + whole[2:]


def _xmp(packet: bytes) -> bytes:
    return _jpeg_with((0xE1, containers.JPEG_XMP + packet))


def _patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _tiff(entries: list[tuple[int, int, int, int]], rest: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF: entries of (tag, type, count, value) at 8, then what follows them."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + directory + struct.pack("<I", following) + rest


def _tiff_strip(strip: bytes, compression: int, size: tuple[int, int] = (64, 48), **more: int) -> bytes:
    entries = [
        *((256, 4, 1, size[0]), (257, 4, 1, size[1]), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)),
        *((277, 3, 1, 1), (278, 4, 1, size[1]), (279, 4, 1, more.get("count", len(strip)))),
    ]
    at = 8 + 2 + 12 * (len(entries) + 1) + 4
    return _tiff([*entries, (273, 4, 1, at)], strip, more.get("following", 0))


@functools.cache
def _zeros(megabytes: int) -> bytes:
    """Many megabytes of zeros, deflated to a thousandth."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


def _codestream(width: int, height: int, components: int, tile: int = 0) -> bytes:
    """The main header of a JPEG 2000 codestream, and an empty tile."""
    side = tile or max(width, height)
    siz = (
        struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, side, side, 0, 0, components) + b"\x07\x01\x01" * components
    )
    cod = bytes([0, 0, 0, 1, 0, 5, 4, 4, 0, 1])
    qcd = bytes([0x40, *([0x40] * 16)])
    parts = ((0xFF51, siz), (0xFF52, cod), (0xFF5C, qcd))
    body = b"".join(struct.pack(">HH", marker, len(part) + 2) + part for marker, part in parts)
    return b"\xff\x4f" + body + struct.pack(">HHHIBB", 0xFF90, 10, 0, 14, 0, 1) + b"\xff\x93\xff\xd9"


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def _flipped(data: bytes, seed: int) -> bytes:
    damaged, rng = bytearray(data), np.random.default_rng(seed)
    for place in rng.integers(0, len(data), 3 + len(data) // 500):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _laughs() -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{entities}]>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:description="&l9;"/></rdf:RDF></x:xmpmeta>'
    ).encode()


def _outer_entity(uri: str) -> bytes:
    return (
        f'<!DOCTYPE x [<!ENTITY e SYSTEM "{uri}">]><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description>'
        '<dc:description xmlns:dc="http://purl.org/dc/elements/1.1/">&e;</dc:description>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def damaged() -> Iterator[tuple[str, bytes]]:
    """Each format cut off at several points, with flipped bits, and under another's name."""
    for suffix, whole in sound().items():
        for share in (0.02, 0.3, 0.7, 0.98):
            yield f"{suffix} cut at {share:.0%}.{suffix}", whole[: max(1, int(share * len(whole)))]
        for seed in range(2):
            yield f"{suffix} with flipped bits {seed}.{suffix}", _flipped(whole, seed)
        head = min(len(whole), 64)
        yield f"{suffix} with a flipped header.{suffix}", _flipped(whole[:head], 5) + whole[head:]
        yield f"{suffix} and rubbish behind it.{suffix}", whole + bytes(range(256)) * 8


def strangers() -> Iterator[tuple[str, bytes]]:
    """What is no picture."""
    yield "no bytes.jpg", b""
    yield "one byte.png", b"\x89"
    yield "zeros.tif", bytes(4096)
    yield "noise.jp2", np.random.default_rng(1).bytes(4096)
    yield "html.jpg", b"<!doctype html><script>alert(1)</script>404 Not Found"
    yield "svg.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    yield "elf.jpg", pathlib.Path("/proc/self/exe").read_bytes()[:4096]
    yield "zip.jpg", b"PK\x03\x04" + bytes(200)
    yield "gzip.tif", b"\x1f\x8b\x08" + bytes(200)
    yield "pdf.jpg", b"%PDF-1.7\n1 0 obj <</Type/Catalog>> endobj"
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n" + b"(x) run\n" * 50
    yield "pickle.jpg", b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    yield "psd.jpg", b"8BPS\0\1" + bytes(60)
    yield "icon.png", file_of(PICTURE, "ICO")
    yield "git-lfs.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that unfold without end, or whose headers say so."""
    yield from _png_bombs()
    yield from _tiff_bombs()
    yield from _other_bombs()


def _png_bombs() -> Iterator[tuple[str, bytes]]:
    files = sound()
    yield "png of 60000 x 60000.png", png((b"IDAT", _zeros(1)), (b"IEND", b""), size=(60000, 60000))
    yield "png of 2 ** 31 - 1.png", png((b"IDAT", b""), size=(2**31 - 1, 2**31 - 1))
    yield "png of no pixels.png", png((b"IDAT", _zeros(1)), (b"IEND", b""), size=(0, 48))
    yield "png with more data than pixels.png", png((b"IDAT", _zeros(100)), (b"IEND", b""))
    yield "png with less data than pixels.png", png((b"IDAT", _zeros(1)), (b"IEND", b""), size=(4000, 4000))
    yield "png with a bomb of text.png", _png_with((b"zTXt", b"Comment\0\0" + _zeros(100)))
    yield "png with a bomb of XMP.png", _png_with((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _zeros(100)))
    yield "png with a bomb of a profile.png", _png_with((b"iCCP", b"x\0\0" + _zeros(100)))
    yield "png with many texts.png", _png_with(*[(b"tEXt", b"k\0" + b"v" * 1000)] * 3000)
    yield "png with a chunk of 2 GiB.png", files["png"][:33] + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(100)


def _tiff_bombs() -> Iterator[tuple[str, bytes]]:
    yield "tif of 60000 x 60000.tif", _tiff_strip(_zeros(1), 8, (60000, 60000))
    yield "tif of 2 ** 32 - 1.tif", _tiff_strip(bytes(99), 1, (2**32 - 1, 2**32 - 1))
    yield "tif strip that unfolds.tif", _tiff_strip(_zeros(100), 8)
    yield "tif strip of zstd that unfolds.tif", _tiff_strip(imagecodecs.zstd_encode(bytes(100 << 20)), 50000)
    yield "tif strip of lzma that unfolds.tif", _tiff_strip(imagecodecs.lzma_encode(bytes(20 << 20)), 34925)
    yield "tif strip of packbits that unfolds.tif", _tiff_strip(b"\x81\0" * 500_000, 32773)
    large = np.zeros((3000, 3000), np.uint8)
    yield "tif strip that is a large jpeg.tif", _tiff_strip(imagecodecs.jpeg8_encode(large), 7)
    yield "tif strip that is a large jp2.tif", _tiff_strip(imagecodecs.jpeg2k_encode(large), 34712)
    yield "tif strip that is a large webp.tif", _tiff_strip(imagecodecs.webp_encode(np.stack([large] * 3, -1)), 50001)
    yield "tif strip of 4 GiB.tif", _tiff_strip(bytes(99), 1, count=2**32 - 1)
    yield "tif that leads to itself.tif", _tiff_strip(bytes(64 * 48), 1, following=8)
    yield "tif whose tag has 2 ** 31 values.tif", _tiff([(256, 4, 2**31, 8), (257, 4, 1, 48), (273, 4, 2**31, 8)])
    yield "tif with an EXIF directory that leads to itself.tif", _tiff([(34665, 4, 1, 8), (330, 4, 1, 8)])
    yield "tif with 65535 entries.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(65535 * 12)
    yield "tif whose directory is in its header.tif", b"II*\0\0\0\0\0" + bytes(99)
    yield "tif with an ImageJ description.tif", _described("ImageJ=1.53\nimages=999999999\nslices=999999999\n")
    yield "bigtiff with 2 ** 60 entries.tif", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(99)


def _other_bombs() -> Iterator[tuple[str, bytes]]:
    files = sound()
    yield "jp2 of 60000 x 60000.j2k", _codestream(60000, 60000, 3)
    yield "jp2 of 16384 components.j2k", _codestream(4000, 4000, 16384)
    yield "jp2 of tiny tiles.j2k", _codestream(4000, 4000, 1, 1)
    box = files["jp2"].index(b"ihdr") + 4
    yield "jp2 whose box says 60000 x 60000.jp2", _patched(files["jp2"], box, struct.pack(">II", 60000, 60000))
    yield "jp2 whose box is 2 GiB.jp2", _patched(files["jp2"], files["jp2"].index(b"jp2h") - 4, b"\x7f\xff\xff\xff")
    yield "webp of 16384 x 16384.webp", _riff(_vp8x(16384, 16384), (b"VP8L", files["webp"][20:]))
    yield "webp of 2 ** 24.webp", _riff(_vp8x(2**24, 2**24), (b"VP8L", files["webp"][20:]))
    frame = bytes(6) + bytes([63, 0, 0, 47, 0, 0, 1, 0, 0, 0]) + b"VP8L" + files["webp"][16:]
    frames = [(b"ANMF", frame)] * 2000
    yield "webp of 2000 frames.webp", _riff(_vp8x(64, 48, 2), (b"ANIM", bytes(6)), *frames)
    yield "gif of 65535 x 65535.gif", _patched(files["gif"], 6, b"\xff\xff\xff\xff")
    at = files["gif"].index(b",\0\0\0\0") + 5
    yield "gif whose frame is larger than its screen.gif", _patched(files["gif"], at, b"\xff\xff\xff\xff")
    yield "gif of 5000 frames.gif", files["gif"][:-1] + files["gif"][at - 5 : -1] * 5000 + b";"
    yield "bmp of 60000 x 60000.bmp", _patched(files["bmp"], 18, struct.pack("<ii", 60000, 60000))
    yield "bmp upside down by 2 ** 31.bmp", _patched(files["bmp"], 18, struct.pack("<iI", 64, 2**31))
    yield "bmp of 65535 bits.bmp", _patched(files["bmp"], 28, b"\xff\xff")
    yield "ppm of 999999999.ppm", b"P6 999999999 999999999 255\n" + bytes(99)
    yield "ppm of a long number.ppm", b"P6 " + b"9" * 100_000 + b" 1 255\n"
    yield "ppm of a long comment.ppm", b"P6 #" + b"x" * 1_000_000
    at = files["avif"].index(b"ispe") + 8
    yield "avif of 60000 x 60000.avif", _patched(files["avif"], at, struct.pack(">II", 60000, 60000))
    at = files["avif"].index(b"meta") - 4
    at = files["heic"].index(b"ispe") + 8
    yield "heic of 60000 x 60000.heic", _patched(files["heic"], at, struct.pack(">II", 60000, 60000))
    yield "avif whose box is 2 GiB.avif", _patched(files["avif"], at, b"\x7f\xff\xff\xff")
    at = files["jpg"].index(b"\xff\xc0") + 5
    yield "jpg of 65500 x 65500.jpg", _patched(files["jpg"], at, struct.pack(">HH", 65500, 65500))
    yield "jpg of no height.jpg", _patched(files["jpg"], at, b"\0\0")
    yield "jpg of 4000 x 4000 without data.jpg", _patched(files["jpg"], at, struct.pack(">HH", 4000, 4000))
    progressive = file_of(PICTURE.resize((1200, 1000)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    yield "jpg of 3000 scans.jpg", progressive[:-2] + scan[:40] * 3000 + b"\xff\xd9"


def _described(text: str) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(PICTURE), photometric="rgb", description=text, metadata=None)
    return buffer.getvalue()


def metadata(secret: str) -> Iterator[tuple[str, bytes]]:
    """Sound pictures with hostile metadata."""
    profile = bytearray(ICC)
    yield "profile of noise.jpg", file_of(PICTURE, "JPEG", icc_profile=np.random.default_rng(2).bytes(900))
    yield "profile that breaks off.jpg", file_of(PICTURE, "JPEG", icc_profile=ICC[:200])
    profile[128:132] = b"\xff\xff\xff\xff"
    yield "profile of 2 ** 32 tags.png", file_of(PICTURE, "PNG", icc_profile=bytes(profile))
    profile = bytearray(ICC)
    profile[136:144] = b"\x7f\xff\xff\xf0\x7f\xff\xff\xf0"
    yield "profile whose tag is beyond its end.tif", file_of(PICTURE, "TIFF", icc_profile=bytes(profile))
    yield "profile for ink in RGB.jpg", file_of(PICTURE, "JPEG", icc_profile=ICC[:16] + b"CMYK" + ICC[20:])
    yield "profile in parts that are missing.jpg", _jpeg_with((0xE2, b"ICC_PROFILE\0\x02\x09" + ICC))
    exif = exif_block().tobytes()
    yield "exif of noise.jpg", _jpeg_with((0xE1, b"Exif\0\0" + np.random.default_rng(3).bytes(500)))
    yield "exif that breaks off.jpg", _jpeg_with((0xE1, exif[:20]))
    loop = b"Exif\0\0" + _tiff([(34665, 4, 1, 8), (34853, 4, 1, 8)], following=8)
    yield "exif that leads to itself.jpg", _jpeg_with((0xE1, loop))
    yield "exif of 2 ** 31 values.webp", file_of(PICTURE, "WEBP", exif=b"Exif\0\0" + _tiff([(270, 2, 2**31, 8)]))
    yield "exif turned by 999.jpg", _jpeg_with((0xE1, b"Exif\0\0" + _tiff([(274, 3, 1, 999)])))
    yield "iptc of noise.jpg", _jpeg_with((0xED, b"Photoshop 3.0\08BIM\x04\x04\0\0" + b"\xff\xff\xff\xff" + bytes(99)))
    yield (
        "iptc that breaks off.jpg",
        _jpeg_with((0xED, b"Photoshop 3.0\08BIM\x04\x04\0\0\0\0\0\x20\x1c\x02\x78\xff\xff")),
    )
    yield "xmp of a billion laughs.jpg", _xmp(_laughs())
    yield "xmp of a billion laughs.png", _png_with(containers.png_xmp_chunk(_laughs()))
    yield "xmp that reads a file.jpg", _xmp(_outer_entity(f"file://{secret}"))
    yield "xmp that reads the network.jpg", _xmp(_outer_entity("http://127.0.0.1:9/x"))
    yield "xmp in utf-16 that reads a file.jpg", _xmp(_outer_entity(f"file://{secret}").decode().encode("utf-16"))
    yield "xmp that is no xml.jpg", _xmp(b"<x:xmpmeta><rdf:RDF>&nope;<<<")
    yield "xmp nested 20000 deep.png", _png_with(containers.png_xmp_chunk(b"<a>" * 20000 + b"</a>" * 20000))
    yield "xmp of 3 MB.png", _png_with(containers.png_xmp_chunk(b"<a>" + b"x" * 3_000_000 + b"</a>"))
    yield (
        "xmp of many attributes.png",
        _png_with(containers.png_xmp_chunk(b"<a " + b" ".join(b'a%d="%d"' % (n, n) for n in range(100_000)) + b"/>")),
    )
    yield "comment of html.jpg", _jpeg_with((0xFE, SCRIPT.encode()))
    yield "description with a script.tif", _described(SCRIPT)


CAPTIONS = {
    "a NUL": b"a\0b",
    "invalid UTF-8": b"\xff\xfe\x80 caf\xe9 \xc3",
    "a megabyte": b"word " * 200_000,
    "a megabyte without a space": b"x" * 1_000_000,
    "right to left": "\u202egpj.exe \u202d שלום \u2066".encode(),
    "controls": bytes(set(range(1, 32)) - {10, 13}) + b"\x7f\xc2\x85\x1b[2J\x1b]0;title\x07",
    "a script": SCRIPT.encode(),
    "a formula": b"=cmd|' /C calc'!A0",
    "format signs": b"%s%n {0.__class__} ${jndi:ldap://x} $(id) `id`",
    "combining marks": ("a" + "\u0301" * 5000).encode(),
    "quotes and lines": b'"one""\r\n"two", \'three\'',
    "not in planes": "\U0010ffff\ufffe\uffff\ud7ff".encode(),
}

IDS = {
    "dots": b"..",
    "up": b"../up.jpg",
    "down and up": b"a/../../up.jpg",
    "absolute": b"/tmp/up.jpg",
    "a bucket": b"gs://bucket/up.jpg",
    "a bucket inside": b"a/gs://bucket/up.jpg",
    "a web address": b"http://127.0.0.1/up.jpg",
    "a drive": b"C:up.jpg",
    "a Windows path": b"..\\up.jpg",
    "a Windows device": b"CON",
    "a Windows device with a suffix": b"aux.jpg",
    "dots at its end": b"trailing...",
    "a stream": b"name.jpg:stream",
    "an empty part": b"a//b.jpg",
    "a dot": b"./a.jpg",
    "300 bytes": b"n" * 300 + b".jpg",
    "250 bytes": b"n" * 250,
    "2000 bytes in parts": b"/".join([b"n" * 99] * 20),
    "a NUL": b"a\0.jpg",
    "a newline": b"a\nb.jpg",
    "invalid UTF-8": b"caf\xe9.jpg",
    "right to left": "a\u202egpj.exe".encode(),
    "percent signs": b"%2e%2e/%2fup.jpg",
    "an option": b"--output=x.jpg",
    "a home": b"~/up.jpg",
    "a script": b'<img src=x onerror="alert(1)">',
    "a formula": b"=1+1.jpg",
    "stars": b"*?[a].jpg",
    "fragment": b"a.tar#bytes=0+9",
    "upper case": b"Case.jpg",
    "lower case": b"case.jpg",
    "a hidden name": b".hidden.jpg",
    "a temporary's name": b".unfade-0123456789abcdef0123456789abcdef.tmp",
    "a file for a folder": b"stem.jpg",
    "below that file": b"stem.jpg/leaf.jpg",
}


@dataclasses.dataclass(frozen=True)
class Hostile:
    """Where it is and what is in it.

    Attributes:
      manifest: CSV, one row a kind.
      rows: In its order.
      secret: A file that nothing may read.
    """

    manifest: str
    rows: list[Row]
    secret: str


def make(folder: pathlib.Path) -> Hostile:
    """Writes the archive: files, what only looks like one, and a manifest that names each once, beside neighbours."""
    folder.mkdir(parents=True)
    secret = folder.parent / "secret.txt"
    secret.write_bytes(SECRET)
    rows = []
    for name, data in (*damaged(), *strangers(), *bombs(), *metadata(str(secret))):
        (folder / name).write_bytes(data)
        rows.append(Row(name, name))
    rows += [Row(name, name) for name in _not_files(folder)]
    (folder / "sound.jpg").write_bytes(sound()["jpg"])
    (folder / "a.jpg").write_bytes(sound()["png"])
    (folder / "a.jpg.png").write_bytes(sound()["png"])
    rows += [Row("a PNG called a.jpg", "a.jpg"), Row("its neighbour called a.jpg.png", "a.jpg.png")]
    rows += [
        Row(f"caption of {kind}", "sound.jpg", f"caption {n}".encode(), c)
        for n, (kind, c) in enumerate(CAPTIONS.items())
    ]
    rows += [Row(f"id of {kind}", "sound.jpg", id) for kind, id in IDS.items()]
    rows += [
        Row("nothing named", "", b"nothing"),
        Row("image beyond the archive", "../../../../../../etc/no such file.jpg", b"beyond"),
        Row("image in no storage", "ftp://127.0.0.1/a.jpg", b"ftp"),
        Row("image with a NUL", "a\0b.jpg", b"nul"),
        Row("image of a device", "/dev/zero", b"device"),
        Row("image at a closed port", "http://127.0.0.1:9/a.jpg", b"closed"),
        Row("image of 5000 bytes", "n" * 5000 + ".jpg", b"long"),
        Row("target that is a pipe", "sound.jpg", b"target 1", target="pipe.jpg"),
        Row("target that is a bomb", "sound.jpg", b"target 2", target="png of 60000 x 60000.png"),
        Row("target that is cut off", "sound.jpg", b"target 3", target="jpg cut at 70%.jpg"),
        Row("reference that is a device", "sound.jpg", b"reference 1", reference="zero.jpg"),
        Row("reference that is a bomb", "sound.jpg", b"reference 2", reference="tif strip that unfolds.tif"),
        Row("sound, the first", "sound.jpg", b"twice"),
        Row("the same id", "sound.jpg", b"twice"),
    ]
    manifest = folder / "catalogue.csv"
    manifest.write_bytes(b"image,id,caption,reference,target,kind\n" + b"".join(map(_line, rows)))
    return Hostile(str(manifest), rows, str(secret))


def _line(row: Row) -> bytes:
    cells = (row.image.encode(), row.id, row.caption, row.reference.encode(), row.target.encode(), row.kind.encode())
    return b",".join(b'"' + cell.replace(b'"', b'""') + b'"' for cell in cells) + b"\n"


def _not_files(folder: pathlib.Path) -> list[str]:
    """Names in a folder that are no files, or not to be read."""
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        try:
            os.chdir(folder)  # a socket's path may have 100 bytes
            made.bind("socket.jpg")
        finally:
            os.chdir(here)
    for name, to in (
        ("itself.jpg", "itself.jpg"),
        ("round.jpg", "about.jpg"),
        ("about.jpg", "round.jpg"),
        ("dangling.jpg", "no such file"),
        ("zero.jpg", "/dev/zero"),
        ("null.jpg", "/dev/null"),
        ("memory.jpg", "/proc/self/mem"),
        ("link to a pipe.jpg", "pipe.jpg"),
        ("link to a folder.jpg", "."),
    ):
        (folder / name).symlink_to(to)
    (folder / "unreadable.jpg").write_bytes(sound()["jpg"])
    (folder / "unreadable.jpg").chmod(0)
    with open(folder / "sparse.tif", "wb") as sparse:
        sparse.write(b"II*\0\x08\0\0\0")
        sparse.truncate(20 << 30)
    names = ("folder", "pipe", "socket", "itself", "round", "dangling", "zero", "null", "memory", "link to a pipe")
    return [*(f"{name}.jpg" for name in (*names, "link to a folder", "unreadable")), "sparse.tif", "no such file.jpg"]
