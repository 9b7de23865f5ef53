"""Does a long run grow? Restores many small pictures, one in ten of them bad, and watches worker and decoder.

    python benchmarks/memory_growth.py [--items 10000]

Prints the resident memory of both processes at each tenth of the run, and the slope over its second half.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import pathlib
import tempfile
import threading

import numpy as np
import tensorflow as tf
from PIL import Image

from pipelines import restore
from transforms import isolation


def resident(pid: int) -> float:
    """Megabytes."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def model(folder: str) -> str:
    """A SavedModel that inverts: the cheapest there is, since the steps around it are what is watched."""
    module = tf.Module()
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, "image")
    module.serve = tf.function(lambda image: {"restored": 255 - image}, input_signature=[spec])
    tf.saved_model.save(module, folder, signatures=module.serve)
    return folder


def archive(folder: pathlib.Path, items: int) -> str:
    """A manifest of `items` rows over ten files of every common kind, the last one cut off."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC)
    kinds = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG", "PPM", "JPEG2000", "PNG")
    for number, kind in enumerate(kinds):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        data = buffer.getvalue()
        (folder / f"{number}.img").write_bytes(data[: len(data) // 2] if number == len(kinds) - 1 else data)
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "id"), *((f"{n % len(kinds)}.img", f"{n:06d}") for n in range(items))])
    return str(folder / "manifest.csv")


class Watch(threading.Thread):
    """Notes items done, and the memory of this process and of its decoder, four times a second."""

    def __init__(self, images: pathlib.Path) -> None:
        super().__init__(daemon=True)
        self.rows: list[tuple[int, float, float]] = []
        self._images, self._end = images, threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._end.wait(0.25):
            done = sum(1 for _ in os.scandir(self._images)) if self._images.exists() else 0
            decoders = [decoder._process.pid for decoder in list(isolation._idle)]
            if decoders and (not self.rows or done >= self.rows[-1][0] + 10):
                self.rows.append((done, resident(os.getpid()), max(map(resident, decoders))))

    def stop(self) -> None:
        """Ends it."""
        self._end.set()
        self.join()


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=10_000)
    items = parser.parse_args().items
    with tempfile.TemporaryDirectory() as scratch:
        folder, output = pathlib.Path(scratch), pathlib.Path(scratch, "out")
        (folder / "in").mkdir()
        flags = ["--input", archive(folder / "in", items), "--output", str(output), "--model", model(f"{folder}/model")]
        watch = Watch(output / "images")
        watch.start()
        restore.main([*flags, "--direct_num_workers", "1", "--max_error_fraction", "1"])
        watch.stop()
        counts = json.loads((output / "summary.json").read_text())["counts"]
        assert counts["input"] == items == counts["restored"] + counts["failed"], counts
    print(f"{'pictures':>9}{'worker MB':>11}{'decoder MB':>12}")
    for tenth in range(1, 11):
        row = next((row for row in watch.rows if row[0] >= counts["restored"] * tenth / 10), watch.rows[-1])
        print(f"{row[0]:>9}{row[1]:>11.0f}{row[2]:>12.0f}")
    late = np.array([row for row in watch.rows if counts["restored"] / 2 <= row[0] < counts["restored"]])
    for name, column in (("worker", 1), ("decoder", 2)):
        print(f"{name}: {np.polyfit(late[:, 0], late[:, column], 1)[0] * 1000:+.2f} MB per 1,000 pictures")


if __name__ == "__main__":
    main()
