"""Makes `docs/damage.jpg`: each stage of the damage model alone, as training draws it: weak, middling, strong.

python docs/damage_sheet.py
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.colour import linear_table
from models.degradation import Damage, degrade
from models.detail_training import SPOIL

SOURCE = Path("samples/originals/guadalajara-mariachi.jpg")
SIDE, GAP, TEXT = 232, 6, 24
DRAWS = 24
SHOWN = (2, 12, 21)  # of the draws, by how far they are from the original

NONE = Damage(
    clean=0.0, fade=0.0, uneven=0.0, stain=0.0, cast=0.0, contrast=0.0, monochrome=0.0, grain=0.0, scratches=0.0
)
GRAIN = {"grain": 1.0, "grain_density": SPOIL.grain_density, "grain_size": SPOIL.grain_size}
WORN = {"scratches": 1.0, "scratch_width": SPOIL.scratch_width}
STAGES: dict[str, dict[str, float]] = {
    "dyes faded evenly": {"fade": 1.0},
    "dyes faded unevenly": {"fade": 1.0, "uneven": 1.0},
    "yellow stain": {"stain": 1.0},
    "cast of lamp or scanner": {"cast": 1.0},
    "contrast": {"contrast": 1.0},
    "black-and-white, toned or not": {"monochrome": 1.0},
    "unsharpness": {"blur": 1.0},
    "grain": GRAIN,
    "dust and scratches": WORN,
    "JPEG": {"jpeg": 1.0, "jpeg_quality": SPOIL.jpeg_quality},
    "faded, stained and worn": {"fade": 1.0, "stain": 1.0, "uneven": 0.5, **GRAIN, **WORN},
    "left alone": {"clean": 1.0},
}


def main() -> None:
    """Writes the picture."""
    with Image.open(SOURCE) as file:
        original = np.asarray(ImageOps.fit(file.convert("RGB"), (SIDE, SIDE)))
    linear = tf.repeat(tf.constant(linear_table(256)[original])[None], DRAWS, axis=0)
    cell = (3 * (SIDE + GAP) + GAP, SIDE + TEXT + GAP)
    sheet = Image.new("RGB", (2 * cell[0], (len(STAGES) + 1) // 2 * cell[1] + GAP), "white")
    write = ImageDraw.Draw(sheet)
    for index, (name, settings) in enumerate(STAGES.items()):
        x, y = index % 2 * cell[0] + GAP, index // 2 * cell[1]
        drawn = degrade(linear, tf.constant([2, index]), dataclasses.replace(NONE, **settings)).image.numpy()
        distance = np.abs(drawn.astype(int) - original).mean(axis=(1, 2, 3))
        write.text((x, y + 4), name, "black", ImageFont.load_default(16))
        for column, rank in enumerate(SHOWN):
            picture = Image.fromarray(drawn[np.argsort(distance)[rank]])
            sheet.paste(picture, (x + column * (SIDE + GAP), y + TEXT))
    sheet.save("docs/damage.jpg", quality=85)


if __name__ == "__main__":
    main()
