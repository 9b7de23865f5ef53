"""Picture files made in memory, sound ones and hostile ones."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
"""A sound sRGB profile."""


def gradient(height: int = 48, width: int = 64, dtype: Any = np.uint8) -> Any:
    """A smooth colourful picture [height, width, 3] that uses the dtype's whole range."""
    y, x = np.mgrid[0:height, 0:width]
    right, down = x / max(1, width - 1), y / max(1, height - 1)
    return np.rint(np.stack([right, down, (right + 1 - down) / 2], axis=-1) * np.iinfo(dtype).max).astype(dtype)


def file_of(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """An image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif_block(orientation: int = 1, description: str = "Harbour") -> Image.Exif:
    """EXIF with a description, a copyright and an orientation."""
    exif = Image.Exif()
    exif[0x010E], exif[0x8298], exif[0x0112] = description, "CC0", orientation
    return exif
