"""The floor: the same files decoded and encoded again by libjpeg-turbo, on all cores, and nothing done to them."""

from __future__ import annotations

import io
import multiprocessing
import pathlib

import shared
from PIL import Image

_output = pathlib.Path()


def _start(output: pathlib.Path) -> None:
    global _output  # noqa: PLW0603 (one a process)
    _output = output


def _copy(row: tuple[str, str]) -> None:
    path = pathlib.Path(row[0])
    picture, buffer = Image.open(io.BytesIO(path.read_bytes())), io.BytesIO()
    picture.load()
    picture.save(buffer, "JPEG", quality=shared.QUALITY, subsampling=2)
    (_output / path.name).write_bytes(buffer.getvalue())


def main() -> None:
    rows, output, _, _ = shared.arguments()
    with multiprocessing.Pool(initializer=_start, initargs=(output,)) as pool:
        for _ in pool.imap_unordered(_copy, rows):
            pass


if __name__ == "__main__":
    main()
