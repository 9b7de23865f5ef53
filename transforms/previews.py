"""Small pictures for the report: before and after, and what the model says of every place in the picture.

Named by a digest of the item's id: any id makes a short name that needs no escaping in a URL, and no folder has many.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from models.contract import CONFIDENCE_SCALE
from transforms import storage

FOLDER = "report/previews"

SIDE = 640
"""Longer side of a preview, in pixels: about 45 KB a picture as JPEG."""

_QUALITY = 82
_MAP_SIDE = 128  # of a map, whose 32 or 64 cells are drawn smoothly; its shape must be the preview's

UNSURE = (255, 106, 0)
"""Colour laid over places whose expected error is high."""

UNSURE_FROM, UNSURE_TO = 4.0, 16.0
"""Expected error (CIEDE2000) from which that colour shows, and at which it is at its strongest."""

DEFECT = (224, 0, 208)
"""Colour laid over scratches and dust."""

_STRONGEST = 0.7  # opacity: the picture stays visible below
_ORIENTATION = 0x0112


def place(id: str) -> str:
    """Where an item's previews stand below the output folder, without `-before.jpg` and its like."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{FOLDER}/{digest[:2]}/{digest[2:24]}"


def made(
    encoded: bytes,
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    maps: Mapping[str, npt.NDArray[np.uint8]],
) -> dict[str, bytes]:
    """The previews of one picture, upright: files by the end of their names.

    Args:
      encoded: The file, for its EXIF orientation.
      before: uint8 or uint16 [H, W, 3], sRGB.
      after: The same of the restored picture.
      maps: `confidence_map` and `defect_map` of the whole picture, uint8 [h, w], 255 for 1; or nothing.
    """
    files = {}
    turned = _orientation(encoded)
    size = (0, 0)
    for label, pixels in (("before", before), ("after", after)):
        image = _upright(shrunk(pixels), turned)
        size = image.size
        files[f"{label}.jpg"] = _encoded(image, "JPEG", quality=_QUALITY)
    for label, values, colour, opacity in (
        ("unsure", maps.get("confidence_map"), UNSURE, _unsure()),
        ("defects", maps.get("defect_map"), DEFECT, _STRONGEST * np.arange(256) / 255),
    ):
        if values is not None:
            image = _overlay(_upright(Image.fromarray(values), turned), size, colour, opacity)
            files[f"{label}.png"] = _encoded(image, "PNG")
    return files


def write(output: str, id: str, files: Mapping[str, bytes]) -> str:
    """Writes the previews of one picture.

    Args:
      output: The run's output folder.
      id: The item's.
      files: See `made`.

    Returns:
      `place(id)`.

    Raises:
      ItemFailure: `WriteFailed`.
    """
    name = place(id)
    for end, data in files.items():
        storage.write_bytes(storage.join(output, f"{name}-{end}"), data)
    return name


def shrunk(pixels: npt.NDArray[Any]) -> Image.Image:
    """The picture with a longer side of at most `SIDE`."""
    if pixels.dtype == np.uint16:
        step = max(1, max(pixels.shape[:2]) // (4 * SIDE))  # enough to average over, and spares a copy of a large scan
        pixels = pixels[::step, ::step] >> 8
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
    # Hamming looks like bicubic here and takes a third of the time of Lanczos; whole multiples are averaged before.
    image.thumbnail((SIDE, SIDE), Image.Resampling.HAMMING, reducing_gap=1.1)
    return image


def _orientation(encoded: bytes) -> int:
    """EXIF orientation, 1..8. Files that Pillow cannot open, and those without, count as upright."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises whatever a broken block makes it stumble over
        return 1
    return found if found in range(1, 9) else 1


def _upright(image: Image.Image, turned: int) -> Image.Image:
    image.getexif()[_ORIENTATION] = turned
    return ImageOps.exif_transpose(image)


def _unsure() -> npt.NDArray[np.float64]:
    """Opacity by code of the confidence map."""
    error = -CONFIDENCE_SCALE * np.log(np.maximum(np.arange(256), 1) / 255)
    return _STRONGEST * np.clip((error - UNSURE_FROM) / (UNSURE_TO - UNSURE_FROM), 0, 1)


def _overlay(
    values: Image.Image, size: tuple[int, int], colour: tuple[int, int, int], opacity: npt.NDArray[np.float64]
) -> Image.Image:
    scale = min(1.0, _MAP_SIDE / max(size))
    shape = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    # One colour in 256 opacities is a palette: a quarter of the bytes of RGBA, and much less work for the encoder.
    image = Image.frombytes("P", shape, values.resize(shape, Image.Resampling.BILINEAR).tobytes())
    image.putpalette(bytes(colour) * 256)
    image.info["transparency"] = bytes(round(255 * value) for value in opacity)
    return image


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
