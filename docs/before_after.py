"""Makes `docs/before-after.jpg` from what `make demo` wrote: scan, restored, original, a row a picture.

python docs/before_after.py demo-output
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from PIL import Image, ImageOps

SHOWN = ("guadalajara-mariachi", "pont-du-gard", "red-panda")
WIDTH, HEIGHT, GAP = 420, 300, 8


def main(demo: Path) -> None:
    """Writes the picture."""
    samples = Path("samples")
    pairs = {pair["id"]: pair for pair in csv.DictReader((samples / "pairs.csv").read_text("utf-8").splitlines())}
    size = (3 * WIDTH + 2 * GAP, len(SHOWN) * (HEIGHT + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    for row, name in enumerate(SHOWN):
        paths = (samples / pairs[name]["image"], demo / "images" / f"{name}.jpg", samples / pairs[name]["target"])
        for column, path in enumerate(paths):
            with Image.open(path) as image:
                cell = ImageOps.fit(image.convert("RGB"), (WIDTH, HEIGHT))
            sheet.paste(cell, (column * (WIDTH + GAP), row * (HEIGHT + GAP)))
    sheet.save("docs/before-after.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
