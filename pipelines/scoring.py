"""Scores a model on held-out photographs against doing nothing and against what any editor's auto-levels does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms import metrics
from transforms.baselines import stretch

if TYPE_CHECKING:
    from models.degradation import Damage
    from models.records import Photograph


def score(saved_model: str, photographs: list[Photograph], damage: Damage) -> dict[str, dict[str, float]]:
    """Mean scores over held-out photographs, each damaged once, the same way every time.

    Args:
      saved_model: Folder of the exported model: what ships is what is scored.
      photographs: Not seen in training.
      damage: The damage model's settings.

    Returns:
      Means of CIEDE2000, PSNR and SSIM by method: the input itself, `stretch`, and the model with and without captions
      (`restored`, `restored, no caption`).
    """
    import tensorflow as tf

    from models import loading
    from models.colour import linear_table, linear_to_srgb
    from models.contract import PALETTE, THUMBNAIL
    from models.degradation import degrade

    model = loading.load(saved_model)
    sums: dict[str, list[dict[str, Any]]] = {}
    for index, photograph in enumerate(photographs):
        square = tf.image.resize(photograph.image, [THUMBNAIL, THUMBNAIL], method="area")
        linear = tf.gather(tf.constant(linear_table(256)), tf.cast(tf.round(square), tf.int32))
        damaged = degrade(linear[None], tf.constant([104729, index]), dataclasses.replace(damage, region="all"))
        image = damaged.image.numpy()[0]
        target = np.rint(linear_to_srgb(damaged.target)[0].numpy() * 255.0).astype(np.uint8)
        candidates = {"input": image, "per-channel stretch": stretch(image)}
        for name, caption in (("restored", photograph.caption), ("restored, no caption", "")):
            decision = model.decide(image[None], [caption], np.zeros((1, PALETTE), np.float32))[0]
            candidates[name] = model.apply(image, decision.as_wished("never", clean=True))
        for name, candidate in candidates.items():
            sums.setdefault(name, []).append(metrics.fidelity(candidate, target))
    return {
        name: {
            key: float(np.mean([row[key] for row in rows if row[key] is not None]))
            for key in ("ciede2000", "psnr", "ssim")
        }
        for name, rows in sums.items()
    }
