"""How much memory does one large picture take? Restores one of each kind with one worker, and watches all processes.

    python benchmarks/memory.py [--megapixels 100] [--only "TIFF RGB 16, Adobe RGB"] [--keep_grain]

Prints, for each kind of file, the peak of the sum over the process tree (worker and decoder) of proportional set sizes:
memory that processes share counts once. Linux only.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import profiles  # noqa: E402

ADOBE = profiles.rgb_v2(profiles.ADOBE, 2.19921875)
P3 = profiles.rgb_v4(profiles.P3, None)

Array = Any


def photograph(megapixels: float, dtype: type = np.uint8, channels: int = 3) -> Array:
    """The samples of the package, tiled: [H, W, channels] of 4:3. More bits hold noise, as those of a scanner do."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    tiles = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((ROOT / "samples/scans").glob("*.jpg"))]
    least = min(tile.shape[0] for tile in tiles)
    strip = np.concatenate([tile[:least] for tile in tiles], axis=1)
    picture = np.empty((height, width, channels), dtype)
    rng = np.random.default_rng(0)
    for top in range(0, height, least):
        rows = np.roll(strip, 97 * top, axis=1)
        rows = np.concatenate([rows] * (width // rows.shape[1] + 1), axis=1)[: height - top, :width]
        rows = np.concatenate([rows, rows[..., :1]], axis=2)[..., :channels]
        if np.dtype(dtype).itemsize > 1:
            rows = rows * np.uint16(257) ^ rng.integers(0, 64, rows.shape, np.uint16)
        picture[top : top + least] = rows / 65535 if np.dtype(dtype).kind == "f" else rows
    return picture


def _pillow(mode: str = "RGB", **options: Any) -> Callable[[pathlib.Path, float], None]:
    def write(path: pathlib.Path, megapixels: float) -> None:
        pixels = photograph(megapixels, channels=len(mode))
        picture = Image.frombuffer(mode, pixels.shape[1::-1], pixels, "raw", mode, 0, 1)
        picture.save(path, **options)

    return write


def _tiff(dtype: type = np.uint8, channels: int = 3, **options: Any) -> Callable[[pathlib.Path, float], None]:
    def write(path: pathlib.Path, megapixels: float) -> None:
        pixels = photograph(megapixels, dtype, channels)
        pixels = pixels[..., 0] if channels == 1 else pixels
        photometric = {1: "minisblack", 3: "rgb", 4: "separated"}[channels]
        tifffile.imwrite(path, pixels, photometric=photometric, metadata=None, **options)

    return write


def _png16(channels: int) -> Callable[[pathlib.Path, float], None]:
    def write(path: pathlib.Path, megapixels: float) -> None:
        path.write_bytes(imagecodecs.png_encode(photograph(megapixels, np.uint16, channels), level=1))

    return write


def _jp2(dtype: type) -> Callable[[pathlib.Path, float], None]:
    def write(path: pathlib.Path, megapixels: float) -> None:
        pixels = photograph(megapixels, dtype)
        path.write_bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", reversible=True))

    return write


KINDS: dict[str, tuple[str, Callable[[pathlib.Path, float], None]]] = {
    "JPEG RGB 8": ("jpg", _pillow(quality=90)),
    "JPEG RGB 8, Display P3": ("jpg", _pillow(quality=90, icc_profile=P3)),
    "JPEG CMYK 8": ("jpg", _pillow("CMYK", quality=90)),
    "PNG RGB 8": ("png", _pillow(compress_level=1)),
    "PNG RGB 16": ("png", _png16(3)),
    "PNG RGBA 16": ("png", _png16(4)),
    "TIFF grey 16": ("tif", _tiff(np.uint16, 1)),
    "TIFF RGB 8": ("tif", _tiff()),
    "TIFF RGB 8, Adobe RGB": ("tif", _tiff(iccprofile=ADOBE)),
    "TIFF RGB 16": ("tif", _tiff(np.uint16)),
    "TIFF RGB 16, Adobe RGB": ("tif", _tiff(np.uint16, iccprofile=ADOBE)),
    "TIFF RGB 16, Adobe RGB, LZW": (
        "tif",
        _tiff(np.uint16, iccprofile=ADOBE, compression="lzw", predictor=2, rowsperstrip=16),
    ),
    "TIFF CMYK 16": ("tif", _tiff(np.uint16, 4)),
    "TIFF RGB float32": ("tif", _tiff(np.float32)),
    "JPEG 2000 RGB 8": ("jp2", _jp2(np.uint8)),
    "JPEG 2000 RGB 16": ("jp2", _jp2(np.uint16)),
    "WebP RGB 8": ("webp", _pillow(quality=90, method=0)),
}


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for pid in found:
        try:
            found += [
                int(child)
                for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
        except OSError:  # it has ended
            continue
    return found


def _proportional(pid: int) -> int:
    """Proportional set size in bytes; 0 of a process that has ended."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def peak_of(command: list[str]) -> tuple[int, list[int]]:
    """Runs a command: peak of its tree in bytes, and what each process had then.

    Raises:
      RuntimeError: It failed.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT)
        most: list[int] = []
        while process.poll() is None:
            now = [size for pid in _tree(process.pid) if (size := _proportional(pid))]
            most = max(most, now, key=sum)
            time.sleep(0.1)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode("utf-8", "replace")[-2000:])
    return sum(most), most


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megapixels", type=float, default=100)
    parser.add_argument("--only", action="append", choices=list(KINDS))
    parser.add_argument("--keep_grain", action="store_true")
    arguments = parser.parse_args()
    print(f"{arguments.megapixels:g} megapixels{', --keep_grain' if arguments.keep_grain else ''}\n")
    print("| file | its size | peak, worker and decoder | bytes a pixel over 0.9 GiB |\n|---|---|---|---|", flush=True)
    for kind in arguments.only or KINDS:
        suffix, write = KINDS[kind]
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch, "in", f"a.{suffix}")
            path.parent.mkdir()
            write(path, arguments.megapixels)
            command = [sys.executable, "-m", "pipelines.cli", "restore", "--input", str(path.parent)]
            command += ["--output", f"{scratch}/out", "--direct_num_workers", "1", "--max_item_seconds", "3600"]
            peak, parts = peak_of([*command, *(["--keep_grain"] if arguments.keep_grain else [])])
            counts = json.loads(pathlib.Path(scratch, "out", "summary.json").read_text())["counts"]
            assert counts["restored"] == 1, counts
            size = path.stat().st_size
        gib = 1 << 30
        split = " + ".join(f"{part / gib:.2f}" for part in sorted(parts, reverse=True))
        a_pixel = (peak - 0.9 * gib) / (arguments.megapixels * 1e6)
        print(f"| {kind} | {size / 1e6:.0f} MB | {peak / gib:.2f} GiB ({split}) | {a_pixel:.0f} |", flush=True)


if __name__ == "__main__":
    main()
