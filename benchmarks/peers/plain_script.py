"""The plain script, what most users would write: Pillow and the model in a for loop."""

from __future__ import annotations

import pathlib

import numpy as np
import shared
import tensorflow as tf
from PIL import Image


def main() -> None:
    rows, output, folder, residual = shared.arguments()
    model = tf.saved_model.load(folder)
    decide, apply = model.signatures["decide"], model.signatures["apply_uint8"]
    for path, caption in rows:
        picture = Image.open(path).convert("RGB")
        small = np.asarray(picture.resize((256, 256), Image.Resampling.BOX))
        decided = decide(
            thumbnail=tf.constant(small[None]), caption=tf.constant([caption]), reference_palette=tf.zeros([1, 64])
        )
        given = shared.coefficients(decided, 0, residual)
        restored = apply(image=tf.constant(np.asarray(picture)), **given)["restored"]
        Image.fromarray(restored.numpy()).save(output / pathlib.Path(path).name, quality=shared.QUALITY, subsampling=2)


if __name__ == "__main__":
    main()
