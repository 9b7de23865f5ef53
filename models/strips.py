"""Takes a picture apart into strips that are restored one by one, for when memory does not suffice for the whole.

`apply_*` is given the strip with a margin, and coefficients that mean in the strip what the picture's mean there. The
detail network sees `HALO` pixels around each, so a margin of that makes no seam. The maps (`field`, `chroma`) have
their values at the centres of equal cells and are linear between, constant outside. A strip that lies between two
centres is therefore given the same line, sampled at the centres of its own cells; the margin takes up the constant
parts at its ends.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.contract import HALO

MAPS = ("field", "chroma")
"""Coefficients that depend on the place, by cells of rows and columns."""

LEAST = 8
"""Rows of a strip, at least."""

Coefficients = Mapping[str, npt.NDArray[np.float32]]


class Strip(NamedTuple):
    """One strip, all of the picture's width.

    Attributes:
      inner: The picture's rows that it restores.
      outer: The rows that it needs for that.
      kept: Of what comes of `outer`, the rows that are `inner`.
      coefficients: For `outer`.
    """

    inner: slice
    outer: slice
    kept: slice
    coefficients: Coefficients


def cut(height: int, pieces: int, coefficients: Coefficients) -> Iterator[Strip]:
    """The strips of a picture.

    Args:
      height: The picture's rows.
      pieces: At least so many strips, if there are rows enough.
      coefficients: The whole picture's.
    """
    maps = {name: coefficients[name] for name in MAPS if name in coefficients and np.any(coefficients[name])}
    ends = {0, height}
    for values in maps.values():
        cells = len(values)
        ends |= {math.ceil((index + 0.5) * height / cells - 0.5) for index in range(cells)}
    longest = max(LEAST, math.ceil(height / pieces))
    stops = sorted(ends)
    for start, stop in itertools.pairwise(stops):
        for top in range(start, stop, longest):
            yield _strip(height, top, min(stop, top + longest), coefficients, maps)


def _strip(height: int, top: int, bottom: int, coefficients: Coefficients, maps: Coefficients) -> Strip:
    # A cell is 1/n of the outer rows, half of one at either end is constant; n is 8 or more.
    cells = min((len(values) for values in maps.values()), default=8)
    margin = max(HALO, math.ceil((bottom - top) / (2 * cells - 2)) + 1)
    first, last = max(0, top - margin), min(height, bottom + margin)
    first -= first % 4  # the detail network folds rows by four
    changed = {name: _within(values, height, top, bottom, first, last) for name, values in maps.items()}
    return Strip(
        slice(top, bottom), slice(first, last), slice(top - first, bottom - first), {**coefficients, **changed}
    )


def _within(
    values: npt.NDArray[np.float32], height: int, top: int, bottom: int, first: int, last: int
) -> npt.NDArray[np.float32]:
    """A map of the rows `first` to `last` that is the picture's between `top` and `bottom`."""
    cells = len(values)
    middle = (top + bottom) / 2 * cells / height - 0.5
    low = min(max(math.floor(middle), 0), cells - 2)
    centres = first + (np.arange(cells) + 0.5) * (last - first) / cells
    along = centres * cells / height - 0.5 - low
    if middle < 0:
        along = np.zeros(cells)
    elif middle > cells - 1:
        along = np.ones(cells)
    share = along.reshape(-1, *[1] * (values.ndim - 1))
    return (values[low] + share * (values[low + 1] - values[low])).astype(np.float32)


_PROBE = 96  # pixels


def probes(image: Any) -> tf.Tensor:
    """Nine places of a picture, by which its noise is judged.

    Args:
      image: uint8 or uint16 [H, W, 3], a tensor or an array. Of an array only the places are copied.

    Returns:
      float32 [9, h, w, 3] in 0..1, at most 96 x 96 pixels each.
    """
    size = tf.shape(image)[:2] if isinstance(image, tf.Tensor) else tf.constant(image.shape[:2])
    height, width = tf.unstack(tf.minimum(size, _PROBE))
    down, right = tf.unstack(size - tf.stack([height, width]))
    corners = [(down * row // 2, right * column // 2) for row in range(3) for column in range(3)]
    places = [image[y : y + height, x : x + width] for y, x in corners]
    return tf.cast(tf.stack(places), tf.float32) * (1 / float(tf.as_dtype(image.dtype).max))
