"""The fidelity bench: files of every kind, restored by a model that changes nothing, compared by independent readers.

Pixels are read by ImageMagick, metadata and profiles by exiftool, neither of which unfade uses. `python
tests/fidelity.py` runs the bench and writes `docs/fidelity.md`; `test_fidelity.py` runs it as a test.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import profiles
import tifffile
from PIL import Image
from pillow_files import file_of

from transforms import containers

TABLE = pathlib.Path(__file__).parent.parent / "docs" / "fidelity.md"
HEIGHT, WIDTH = 96, 120

Array = Any


def photograph(dtype: Any = np.uint8, channels: int = 3, seed: int = 0) -> Array:
    """A soft picture with grain, [HEIGHT, WIDTH, channels] over the dtype's whole range."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((7, 9, channels)).astype(np.float32)
    planes = [
        np.asarray(Image.fromarray(coarse[..., c]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        for c in range(channels)
    ]
    picture = (np.stack(planes, axis=-1) + rng.normal(0, 0.01, (HEIGHT, WIDTH, channels))).clip(0, 1)
    if np.dtype(dtype).kind == "f":
        return picture.astype(dtype)
    return np.rint(picture * np.iinfo(dtype).max).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Case:
    """One file of the bench.

    Attributes:
      name: What it is, for the table.
      file: Its name; the suffix tells the format.
      make: Its bytes.
      colours: ImageMagick's name of its channels: `gray`, `rgb`, `rgba`, `cmyk`.
      bits: Of a sample.
      most: Largest difference allowed, in codes of its depth; lossy formats are coded again.
      tags: Whether exiftool is to write EXIF, IPTC and XMP into it first.
      output: Name of the written file, if it is another.
      note: What the record has to say, if anything.
      truth: 16-bit samples [N, channels] of the input where ImageMagick does not read them at their depth.
      may_differ: exiftool's names of tags that are no metadata but tell how samples are stored.
    """

    name: str
    file: str
    make: Callable[[], bytes]
    colours: str = "rgb"
    bits: int = 8
    most: float = 0
    tags: bool = True
    output: str | None = None
    note: str | None = None
    truth: Any = None
    may_differ: tuple[str, ...] = ()


def _jpeg(image: Image.Image, **options: Any) -> Callable[[], bytes]:
    return lambda: file_of(image, "JPEG", **{"quality": 92, **options})


def _png(image: Image.Image, **options: Any) -> Callable[[], bytes]:
    return lambda: file_of(image, "PNG", **options)


def _png_with(pixels: Array, *chunks: tuple[bytes, bytes]) -> Callable[[], bytes]:
    def make() -> bytes:
        data = bytes(imagecodecs.png_encode(pixels))
        inner = list(containers.png_chunks(data))
        return containers.PNG_SIGNATURE + b"".join(
            containers.png_chunk(*chunk) for chunk in [inner[0], *chunks, *inner[1:]]
        )

    return make


def _tiff(pixels: Array, *, pages: int = 1, byteorder: Any = "<", bigtiff: bool = False, **options: Any) -> Any:
    def make() -> bytes:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer, byteorder=byteorder, bigtiff=bigtiff) as writer:
            private = [(65000, "s", 0, "a scanner's own tag", True), (65001, "B", 5, b"\x01\x02\x03\x04\x05", True)]
            more = {"metadata": None, "software": "Atelier", "resolution": (600, 600), "resolutionunit": "inch"}
            writer.write(pixels, **{**more, "extratags": private, **options})
            for page in range(1, pages):
                writer.write(photograph(seed=page), photometric="rgb", metadata=None, software=False)
        return buffer.getvalue()

    return make


def _magick(pixels: bytes, *arguments: str) -> Callable[[], bytes]:
    """What ImageMagick makes of a PNG."""

    def make() -> bytes:
        return subprocess.run([magick(), "png:-", *arguments], input=pixels, capture_output=True, check=True).stdout

    return make


def _animation(file_format: str) -> bytes:
    frames = [Image.fromarray(photograph(seed=seed)) for seed in range(3)]
    if file_format == "GIF":
        frames = [frame.quantize(64) for frame in frames]
    return file_of(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)


def _heif(pixels: Array, **options: Any) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    mode = "RGB;16" if pixels.dtype == np.uint16 else "RGB"
    pillow_heif.encode(mode, (WIDTH, HEIGHT), pixels.tobytes(), buffer, quality=95, chroma=444, **options)
    return buffer.getvalue()


def _ycck() -> bytes:
    """YCCK, 4:2:0, inverted as Adobe does."""
    return bytes(imagecodecs.jpeg8_encode(255 - CMYK, 95, colorspace="CMYK", outcolorspace="YCCK"))


RGB, RGB16 = photograph(), photograph(np.uint16)
GREY, GREY16 = RGB[..., 1].copy(), RGB16[..., 1].copy()
RGBA, RGBA16 = photograph(channels=4), photograph(np.uint16, 4)
CMYK, CMYK16 = photograph(channels=4, seed=5), photograph(np.uint16, 4, 5)
IMAGE = Image.fromarray(RGB)
CMYK_IMAGE = Image.frombytes("CMYK", (WIDTH, HEIGHT), CMYK.tobytes())
PALETTE = IMAGE.quantize(200)
ADOBE2, ADOBE4 = profiles.rgb_v2(profiles.ADOBE, 2.19921875), profiles.rgb_v4(profiles.ADOBE, 2.19921875)
PROPHOTO2, PROPHOTO4 = profiles.rgb_v2(profiles.PROPHOTO, 1.80078125), profiles.rgb_v4(profiles.PROPHOTO, 1.8)
P3, SRGB = profiles.rgb_v4(profiles.P3, None), profiles.rgb_v4(profiles.SRGB, None)
GAMA = (b"gAMA", (55556).to_bytes(4, "big"))
CHRM = (
    b"cHRM",
    b"".join(round(value * 100_000).to_bytes(4, "big") for value in profiles.ADOBE),
)

_JPEG_TAGS = ("JFIFVersion", "APP14Flags0", "ColorTransform", "DCTEncodeVersion", "APP14Flags1")
_TIFF_CASES = [
    ("grey 8", GREY, {"photometric": "minisblack"}, "gray", 8),
    ("grey 16", GREY16, {"photometric": "minisblack"}, "gray", 16),
    ("white is zero", GREY, {"photometric": "miniswhite"}, "gray", 8),
    ("RGB 8", RGB, {"photometric": "rgb"}, "rgb", 8),
    ("RGB 16", RGB16, {"photometric": "rgb"}, "rgb", 16),
    ("RGB 16 big endian", RGB16, {"photometric": "rgb", "byteorder": ">"}, "rgb", 16),
    ("RGB 16 BigTIFF", RGB16, {"photometric": "rgb", "bigtiff": True}, "rgb", 16),
    ("RGB 8 BigTIFF, big endian", RGB, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}, "rgb", 8),
    ("RGB 16 LZW, predictor", RGB16, {"photometric": "rgb", "compression": "lzw", "predictor": 2}, "rgb", 16),
    ("RGB 16 Deflate, strips", RGB16, {"photometric": "rgb", "compression": 8, "rowsperstrip": 8}, "rgb", 16),
    ("RGB 8 ZSTD", RGB, {"photometric": "rgb", "compression": "zstd"}, "rgb", 8),
    ("RGB 8 PackBits", RGB, {"photometric": "rgb", "compression": "packbits"}, "rgb", 8),
    ("RGB 16 planar", np.moveaxis(RGB16, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, "rgb", 16),
    ("RGB 16 tiled", RGB16, {"photometric": "rgb", "tile": (32, 48)}, "rgb", 16),
    ("RGB 8 of 3 pages", RGB, {"photometric": "rgb", "pages": 3}, "rgb", 8),
    ("RGBA 16", RGBA16, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "rgba", 16),
    ("CMYK 8", CMYK, {"photometric": "separated"}, "cmyk", 8),
    ("CMYK 16", CMYK16, {"photometric": "separated"}, "cmyk", 16),
    ("CMYK 8, ICC v2", CMYK, {"photometric": "separated", "iccprofile": profiles.cmyk_v2()}, "cmyk", 8),
    ("float32 grey", photograph(np.float32)[..., 1], {"photometric": "minisblack"}, "gray", 32),
    ("float32 RGB", photograph(np.float32), {"photometric": "rgb"}, "rgb", 32),
    ("sRGB v4, 16", RGB16, {"photometric": "rgb", "iccprofile": SRGB}, "rgb", 16),
    ("Adobe RGB v2, 16", RGB16, {"photometric": "rgb", "iccprofile": ADOBE2}, "rgb", 16),
    ("Adobe RGB v4, 8", RGB, {"photometric": "rgb", "iccprofile": ADOBE4}, "rgb", 8),
    ("ProPhoto v2, 16", RGB16, {"photometric": "rgb", "iccprofile": PROPHOTO2}, "rgb", 16),
    ("ProPhoto v4, 8", RGB, {"photometric": "rgb", "iccprofile": PROPHOTO4}, "rgb", 8),
    ("Display P3, 16", RGB16, {"photometric": "rgb", "iccprofile": P3}, "rgb", 16),
    ("grey gamma 1.8, 16", GREY16, {"photometric": "minisblack", "iccprofile": profiles.grey_v2(1.8)}, "gray", 16),
]


def _cases() -> list[Case]:
    cases = [
        Case("JPEG 4:2:0", "420.jpg", _jpeg(IMAGE, subsampling="4:2:0"), most=12),
        Case("JPEG 4:4:4", "444.jpg", _jpeg(IMAGE, subsampling="4:4:4"), most=6),
        Case("JPEG progressive", "progressive.jpg", _jpeg(IMAGE, progressive=True, subsampling=0), most=6),
        Case("JPEG restart markers", "restart.jpg", _jpeg(IMAGE, restart_marker_blocks=4, subsampling=0), most=6),
        Case("JPEG grey", "grey.jpg", _jpeg(Image.fromarray(GREY)), "gray", most=4),
        Case("JPEG Adobe CMYK", "cmyk.jpg", _jpeg(CMYK_IMAGE, subsampling=0), "cmyk", most=5),
        Case(
            "JPEG YCCK",
            "ycck.jpg",
            _ycck,
            "cmyk",
            most=8,
            note="YCCK was written as CMYK",
            may_differ=("YCbCrSubSampling",),
        ),
        Case(
            "JPEG CMYK, ICC",
            "cmyk-icc.jpg",
            _jpeg(CMYK_IMAGE, subsampling=0, icc_profile=profiles.cmyk_v2()),
            "cmyk",
            most=5,
        ),
        Case("JPEG Adobe RGB", "adobe.jpg", _jpeg(IMAGE, subsampling=0, icc_profile=ADOBE2), most=6),
        Case("PNG RGB 8", "rgb.png", _png(IMAGE)),
        Case("PNG grey 1", "1.png", _png(Image.fromarray(GREY).convert("1")), "gray"),
        Case("PNG grey 2", "2.png", lambda: _low_png(2), "gray"),
        Case("PNG grey 4", "4.png", lambda: _low_png(4), "gray"),
        Case("PNG grey 8", "8.png", _png(Image.fromarray(GREY)), "gray"),
        Case("PNG grey 16", "16.png", lambda: bytes(imagecodecs.png_encode(GREY16)), "gray", 16),
        Case("PNG RGB 16", "rgb16.png", lambda: bytes(imagecodecs.png_encode(RGB16)), bits=16),
        Case("PNG RGBA 8", "rgba.png", _png(Image.fromarray(RGBA)), "rgba"),
        Case("PNG RGBA 16", "rgba16.png", lambda: bytes(imagecodecs.png_encode(RGBA16)), "rgba", 16),
        Case("PNG palette", "palette.png", _png(PALETTE), may_differ=("Palette",)),
        Case("PNG palette 4 bit", "palette4.png", _png(IMAGE.quantize(16), bits=4), may_differ=("Palette",)),
        Case(
            "PNG interlaced 8",
            "interlaced8.png",
            _magick(file_of(IMAGE, "PNG"), "-interlace", "PNG", "png:-"),
            may_differ=("Interlace",),
        ),
        Case(
            "PNG interlaced 16",
            "interlaced.png",
            _magick(bytes(imagecodecs.png_encode(RGB16)), "-interlace", "PNG", "png:-"),
            bits=16,
            may_differ=("Interlace",),
        ),
        Case("PNG gAMA 1.8", "gama.png", _png_with(RGB16, GAMA), bits=16),
        Case("PNG gAMA, cHRM Adobe", "chrm.png", _png_with(RGB, (b"gAMA", (45455).to_bytes(4, "big")), CHRM)),
        Case("PNG sRGB chunk", "srgb.png", _png_with(RGB, (b"sRGB", b"\0"))),
        Case("PNG Display P3", "p3.png", _png(IMAGE, icc_profile=P3)),
        Case("PNG grey gamma", "grey-icc.png", _png(Image.fromarray(GREY), icc_profile=profiles.grey_v2(1.8)), "gray"),
        Case("JPEG 2000 8", "8.jp2", lambda: bytes(imagecodecs.jpeg2k_encode(RGB, codecformat="jp2", reversible=True))),
        Case(
            "JPEG 2000 16",
            "16.jp2",
            lambda: bytes(imagecodecs.jpeg2k_encode(RGB16, codecformat="jp2", reversible=True)),
            bits=16,
        ),
        Case(
            "JPEG 2000 grey 12",
            "12.jp2",
            lambda: bytes(imagecodecs.jpeg2k_encode(GREY16 >> 4, codecformat="jp2", reversible=True, bitspersample=12)),
            "gray",
            12,
        ),
        Case("WebP lossless", "lossless.webp", lambda: file_of(IMAGE, "WEBP", lossless=True, icc_profile=ADOBE4)),
        Case("WebP lossy", "lossy.webp", lambda: file_of(IMAGE, "WEBP", quality=90), most=12),
        Case(
            "WebP animated",
            "animated.webp",
            lambda: _animation("WEBP"),
            tags=False,
            note="first frame",
            may_differ=("FrameCount", "AnimationLoopCount", "BackgroundColor", "Duration", "WebP_Flags"),
        ),
        Case("AVIF 8", "8.avif", lambda: file_of(IMAGE, "AVIF", quality=100, subsampling="4:4:4"), most=8, tags=False),
        Case(
            "AVIF 10 -> PNG 16",
            "10.avif",
            lambda: bytes(imagecodecs.avif_encode(RGB16 >> 6, level=100, bitspersample=10, pixelformat="444")),
            bits=10,
            most=1,
            tags=False,
            output="10.avif.png",
            note="written as PNG",
            truth=RGB16.reshape(-1, 3).astype(int),
        ),
        Case("HEIC 8", "8.heic", lambda: _heif(RGB, icc_profile=P3), most=8, tags=False),
        Case("HEIC 10", "10.heic", lambda: _heif(RGB16), bits=10, most=32, tags=False),
        Case("BMP", "rgb.bmp", lambda: file_of(IMAGE, "BMP", dpi=(300, 300)), tags=False, note="no place"),
        Case(
            "BMP grey", "grey.bmp", lambda: file_of(Image.fromarray(GREY), "BMP"), "gray", tags=False, note="no place"
        ),
        Case(
            "GIF animated -> PNG",
            "old.gif",
            lambda: _animation("GIF"),
            tags=False,
            output="old.gif.png",
            note="written as PNG",
        ),
    ]
    for name, pixels, options, colours, bits in _TIFF_CASES:
        file = name.lower().replace(" ", "-").replace(",", "") + ".tif"
        cases.append(
            Case(
                f"TIFF {name}",
                file,
                _tiff(pixels, **options),
                colours,
                bits,
                note="the others kept" if "pages" in options else None,
            )
        )
    cases += [
        Case("TIFF palette", "palette.tif", lambda: file_of(PALETTE, "TIFF"), may_differ=("ColorMap",)),
        Case(
            "TIFF group 4",
            "group4.tif",
            lambda: file_of(Image.fromarray(GREY).convert("1"), "TIFF", compression="group4"),
            "gray",
        ),
        Case(
            "TIFF JPEG",
            "jpeg.tif",
            _tiff(RGB, photometric="rgb", compression=7, subsampling=(1, 1), compressionargs={"level": 95}),
            most=6,
            may_differ=("PreviewImage", "PreviewImageLength"),
        ),
    ]
    return cases


def _low_png(bits: int) -> bytes:
    """A grey PNG of few bits, put together here: neither Pillow nor ImageMagick writes one."""
    height, width = GREY.shape
    single = np.unpackbits((GREY >> (8 - bits))[..., None], axis=2)[..., 8 - bits :]
    rows = np.packbits(single.reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return containers.PNG_SIGNATURE + b"".join(containers.png_chunk(*chunk) for chunk in chunks)


# --- independent readers ----------------------------------------------------------------------------------------------


def magick() -> str:
    """ImageMagick's `convert`, not a namesake."""
    candidates = ["/usr/bin/convert", shutil.which("convert"), shutil.which("magick")]
    return next(path for path in candidates if path and pathlib.Path(path).exists())


def missing_tools() -> str | None:
    """Why the bench cannot run here, or None."""
    if shutil.which("exiftool") is None:
        return "exiftool is not installed (apt-get install libimage-exiftool-perl)"
    if shutil.which("identify") is None:
        return "ImageMagick is not installed (apt-get install imagemagick)"
    return None


def samples(path: pathlib.Path, colours: str) -> Array:
    """16-bit samples of the first picture in a file by ImageMagick, not colour managed, [N, channels]."""
    command = [magick(), f"{path}[0]", "-depth", "16", "-endian", "LSB", f"{colours}:-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, "<u2").reshape(-1, {"gray": 1, "rgb": 3, "rgba": 4, "cmyk": 4}[colours]).astype(int)


def tag(path: pathlib.Path) -> None:
    """Writes EXIF with GPS, IPTC and XMP by exiftool."""
    facts = {
        "IFD0:Artist": "Atelier Braun",
        "IFD0:Orientation#": "6",
        "ExifIFD:DateTimeOriginal": "1931:05:04 03:02:01",
        "ExifIFD:UserComment": "Glass plate, Ægir 港",
        "GPS:GPSLatitude": "32.75",
        "GPS:GPSLatitudeRef": "N",
        "IPTC:Caption-Abstract": "Harbour of Nagasaki",
        "IPTC:Keywords": "harbour",
        "IPTC:By-line": "Felice Beato",
        "XMP-dc:Description": "Harbour of Nagasaki, about 1865",
        "XMP-dc:Rights": "No known restrictions",
        "XMP-photoshop:Credit": "City archive",
        "XMP-xmpMM:DocumentID": "xmp.did:1234",
    }
    arguments = [f"-{name}={value}" for name, value in facts.items()]
    subprocess.run(
        ["exiftool", "-q", "-q", "-m", "-overwrite_original", *arguments, str(path)], capture_output=True, check=False
    )


_NOT_METADATA = {
    *(
        "StripOffsets",
        "StripByteCounts",
        "TileOffsets",
        "TileByteCounts",
        "ThumbnailOffset",
        "RowsPerStrip",
        "Predictor",
    ),
    *("XMPToolkit", "PixelAspectRatio", "Compressed_bits_per_pixel", "FreeOffsets", "SubIFD", "T6Options"),
    *(
        "MediaData",
        "MediaDataOffset",
        "MediaDataSize",
        "T4Options",
        "SMinSampleValue",
        "FillOrder",
        "BMPVersion",
        "ImageLength",
        "NumColors",
        "NumImportantColors",
    ),
}
_GROUPS_OF_FILES = ("File", "System", "Composite", "ExifTool", "SourceFile")


def exiftool(paths: list[pathlib.Path], *arguments: str) -> dict[pathlib.Path, dict[str, Any]]:
    """What exiftool reads from files, by file: group and name -> value, binary as base64."""
    command = ["exiftool", "-j", "-G1", *arguments, *map(str, paths)]
    read = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {pathlib.Path(found.pop("SourceFile")): found for found in read}


def facts(found: dict[str, Any]) -> dict[str, Any]:
    """Of what exiftool read that which is metadata: not how samples are stored, and not our own record."""
    return {
        key: value
        for key, value in found.items()
        if key.rpartition(":")[0] not in _GROUPS_OF_FILES
        and key.rpartition(":")[2] not in _NOT_METADATA
        and "History" not in key
    }


# --- the bench --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes:
      case: The case.
      difference: Largest difference of a sample, in codes of the file's depth.
      changed: Metadata that is gone or is not the same: exiftool's names.
      kept: Number of facts that are the same.
      profile: `same`, `none`, or `changed`.
      recorded: Whether the restoration stands in its history.
      notes: Of its row of metrics.
    """

    case: Case
    difference: float
    changed: tuple[str, ...]
    kept: int
    profile: str
    recorded: bool
    notes: str


def make(folder: pathlib.Path) -> None:
    """Writes every case's file."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        path = folder / case.file
        path.write_bytes(case.make())
        if case.tags:
            tag(path)


def identity_model(folder: pathlib.Path) -> str:
    """A SavedModel that gives back what it gets, at any depth."""
    import tensorflow as tf

    module = tf.Module()
    specification = tf.TensorSpec([None, None, None, 3], tf.float32, "image")
    module.serve = tf.function(lambda image: {"restored": image}, input_signature=[specification])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return str(folder)


def run(folder: pathlib.Path, *more: str) -> pathlib.Path:
    """Makes the files and restores them by the whole command. Returns the output folder."""
    from pipelines import restore

    make(folder / "in")
    model = identity_model(folder / "model")
    given = ["--input", str(folder / "in"), "--output", str(folder / "out"), "--model", model, *more]
    status = restore.main([*given, "--direct_num_workers", "1"])
    if status != 0:
        raise RuntimeError(f"restore ended with status {status}")
    return folder / "out"


def rows(output: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The rows of metrics by id."""
    import pyarrow.parquet as pq

    return {row["id"]: row for row in pq.read_table(output / "metrics").to_pylist()}


def compare(source: pathlib.Path, output: pathlib.Path) -> list[Result]:
    """Every file before and after."""
    before = [source / case.file for case in CASES]
    after = [output / "images" / (case.output or case.file) for case in CASES]
    read = exiftool([*before, *after], "-a", "-n", "-b", "-u")
    icc = exiftool([*before, *after], "-icc_profile", "-b")
    events = exiftool([*before, *after], "-struct", "-XMP-xmpMM:History")
    found = rows(output)
    results = []
    for case, old, new in zip(CASES, before, after, strict=True):
        row = found[case.file]
        ours, theirs = samples(new, case.colours), samples(old, case.colours) if case.truth is None else case.truth
        if ours.shape != theirs.shape:
            raise AssertionError(f"{case.name}: {ours.shape} samples for {theirs.shape}")
        difference = np.abs(ours - theirs).max() / (65535 / ((1 << min(case.bits, 16)) - 1))
        had, has = facts(read[old]) if case.output is None else {}, facts(read[new])
        left_out = {*case.may_differ, *_JPEG_TAGS}
        changed = [key for key in had if key.rpartition(":")[2] not in left_out and has.get(key) != had[key]]
        profile = "none" if not icc[old] else "same" if icc[old] == icc[new] else "changed"
        event = ([{}, *(events[new].get("XMP-xmpMM:History") or [])])[-1]
        recorded = row["sha256_in"] in str(event.get("Parameters")) and "unfade" in str(event.get("SoftwareAgent"))
        results.append(
            Result(
                case, float(difference), tuple(changed), len(had) - len(changed), profile, recorded, row["notes"] or ""
            )
        )
    return results


def table(results: list[Result]) -> str:
    """The results as a page."""
    lines = [
        "# Fidelity",
        "",
        "Every file below was restored by a model that changes nothing, through the whole `unfade restore`, and read",
        "again by programs that unfade does not use: pixels by ImageMagick (without colour management, in the file's",
        "own channels), metadata and profiles by exiftool. Made by `python tests/fidelity.py`;",
        "`tests/test_fidelity.py` holds every run of the tests to it.",
        "",
        "- *difference*: largest difference of any sample, in codes of the file's own depth. Lossy formats are decoded",
        "  and coded once more, which alone makes the difference there.",
        "- *facts kept*: EXIF with GPS, IPTC, XMP, dpi, comments, private tags, as exiftool reads them, the same",
        "  before and after. Where samples are stored (offsets, byte counts, rows a strip) is not counted.",
        "- *recorded*: the restoration stands in `xmpMM:History`, with digests of source and model.",
        "",
        "| file | bits | difference | facts kept | facts changed | ICC profile | recorded | notes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        case = result.case
        lines.append(
            f"| {case.name} | {case.bits} | {result.difference:.3g} | {result.kept} | {len(result.changed)} | "
            f"{result.profile} | {'yes' if result.recorded else 'no'} | {result.notes} |"
        )
    return "\n".join(lines) + "\n"


CASES = _cases()


def main() -> None:
    """Runs the bench and writes the table."""
    if reason := missing_tools():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        output = run(root)
        results = compare(root / "in", output)
    TABLE.write_text(table(results), encoding="utf-8")
    for result in results:
        if result.changed or result.difference > result.case.most:
            print(result.case.name, result.difference, result.changed[:8])


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
    main()
