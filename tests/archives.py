"""A small archive made in memory: pictures of every kind that come through, and items of every kind that cannot."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import tarfile
from typing import Any

import numpy as np
from PIL import Image
from pillow_files import ICC, exif_block, file_of, gradient

NAGASAKI = "長崎港 harbour 🚢, Felice Beato, about 1865"


@dataclasses.dataclass(frozen=True)
class Archive:
    """Where it is and what is to become of it.

    Attributes:
      manifest: CSV.
      good: Output file below `images/` by id.
      bad: (id, stage, error class) of the items that fail, in both jobs.
    """

    manifest: str
    good: dict[str, str]
    bad: list[tuple[str, str, str]]

    @property
    def folder(self) -> pathlib.Path:
        """Where the pictures are."""
        return pathlib.Path(self.manifest).parent


def photograph(seed: int, height: int = 90, width: int = 120) -> Any:
    """A soft colourful picture, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def faded(pixels: Any) -> Any:
    """The same, yellowed and flat."""
    return np.rint(pixels * [0.5, 0.45, 0.3] + [110, 95, 60]).astype(np.uint8)


def make(folder: pathlib.Path) -> Archive:
    """Writes the archive."""
    truth = photograph(1)
    colour = Image.fromarray(faded(truth))
    whole = file_of(Image.fromarray(faded(photograph(9, 200, 200))), "JPEG", quality=95)
    files = {
        "faded.jpg": file_of(
            colour, "JPEG", quality=90, icc_profile=ICC, exif=exif_block(orientation=6), dpi=(300, 300)
        ),
        "truth.png": file_of(Image.fromarray(truth), "PNG"),
        "grey.jpg": file_of(colour.convert("L"), "JPEG", quality=90),
        "cmyk.jpg": file_of(colour.convert("CMYK"), "JPEG", quality=90),
        "dot.png": file_of(Image.new("RGB", (1, 1), (180, 150, 90)), "PNG"),
        "line.png": file_of(Image.fromarray(faded(photograph(3, 1, 3000))), "PNG"),
        "scan.tif": file_of(colour, "TIFF", compression="tiff_lzw", dpi=(600, 600), description="embedded harbour"),
        "deep.tif": file_of(Image.fromarray(gradient(60, 70, np.uint16)[..., 0]), "TIFF"),
        "bitonal.tif": file_of(colour.convert("1"), "TIFF", compression="group4"),
        "alpha.png": file_of(colour.convert("RGBA"), "PNG"),
        "print.webp": file_of(colour, "WEBP", quality=90),
        "old.gif": file_of(colour.quantize(32), "GIF"),
        "text.jpg": b"<html>404 Not Found</html>",
        "cut.jpg": whole[: len(whole) // 2],
        "empty.png": b"",
        "small.png": file_of(Image.fromarray(photograph(2, 10, 10)), "PNG"),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    rows = [
        # image, id, caption, reference, target, year, format
        ("faded.jpg", "faded", "The harbour, hand coloured", "", "truth.png", "1865", "print"),
        ("grey.jpg", "", "The old harbour", "", "", "1871", ""),
        ("cmyk.jpg", "", "", "", "", "", ""),
        ("dot.png", "", "A dot", "", "", "", ""),
        ("line.png", "", "A line of the harbour", "", "", "", ""),
        ("scan.tif", "box 1/scan [1]", NAGASAKI, "faded.jpg|truth.png", "", "1865", "albumen"),
        ("scan.tif", "again", "", "", "", "", ""),
        ("deep.tif", "box 1/deep.tif", "Depth 100% of it", "", "", "", ""),
        ("bitonal.tif", "", "Map of the harbour", "", "", "", ""),
        ("alpha.png", "", "", "", "", "", ""),
        ("print.webp", "港口 🚢", "", "", "", "", ""),
        ("old.gif", "", "", "", "", "", ""),
        ("missing.jpg", "", "a", "", "", "", ""),
        ("text.jpg", "", "b", "", "", "", ""),
        ("cut.jpg", "", "c", "", "", "", ""),
        ("empty.png", "", "d", "", "", "", ""),
        ("grey.jpg", "../escape", "e", "", "", "", ""),
        ("grey.jpg", "faded", "f", "", "", "", ""),
        ("", "", "no picture", "", "", "", ""),
        ("grey.jpg", "wrong-target", "g", "", "small.png", "", ""),
        ("grey.jpg", "no-target", "h", "", "nowhere.png", "", ""),
        ("grey.jpg", "no-reference", "i", "faded.jpg|nowhere.png", "", "", ""),
    ]
    manifest = folder / "catalogue.csv"
    with manifest.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("image", "id", "caption", "reference", "target", "year", "format"), *rows])
    return Archive(
        str(manifest),
        good={
            "faded": "faded.jpg",
            "grey.jpg": "grey.jpg",
            "cmyk.jpg": "cmyk.jpg",
            "dot.png": "dot.png",
            "line.png": "line.png",
            "box 1/scan [1]": "box 1/scan [1].tif",
            "again": "again.tif",
            "box 1/deep.tif": "box 1/deep.tif",
            "bitonal.tif": "bitonal.tif",
            "alpha.png": "alpha.png",
            "港口 🚢": "港口 🚢.webp",
            "old.gif": "old.gif.png",
        },
        bad=[
            ("", "input", "NoImage"),
            ("../escape", "input", "UnsafeId"),
            ("faded", "input", "DuplicateId"),
            ("missing.jpg", "read", "NotFound"),
            ("no-reference", "read", "ReferenceNotFound"),
            ("no-target", "read", "TargetNotFound"),
            ("cut.jpg", "decode", "Truncated"),
            ("empty.png", "decode", "EmptyFile"),
            ("text.jpg", "decode", "NotAnImage"),
            ("wrong-target", "decode", "TargetSize"),
        ],
    )


def shard(path: pathlib.Path, members: list[tuple[str, bytes]], **options: Any) -> pathlib.Path:
    """A WebDataset shard of names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path
