"""Scores a model on held-out photographs against doing nothing and against what any editor's auto-levels does."""

from __future__ import annotations

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

    from models.contract import PALETTE, THUMBNAIL
    from models.degradation import degrade

    model: Any = tf.saved_model.load(saved_model)
    sums: dict[str, list[dict[str, Any]]] = {}
    for index, photograph in enumerate(photographs):
        square = tf.image.resize(photograph.image[None], [THUMBNAIL, THUMBNAIL], antialias=True) / 255.0
        damaged = degrade(tf.clip_by_value(square, 0.0, 1.0), tf.constant([104729, index]), damage)
        image = damaged.image.numpy()[0]
        target = np.rint(damaged.target.numpy()[0] * 255.0).astype(np.uint8)
        candidates = {"input": image, "per-channel stretch": stretch(image)}
        for name, caption in (("restored", photograph.caption), ("restored, no caption", "")):
            decided = model.decide(damaged.image, tf.constant([caption]), tf.zeros([1, PALETTE]))
            done = model.apply_uint8(damaged.image[0], decided["matrix"][0], decided["curves"][0])
            candidates[name] = done["restored"].numpy()
        for name, candidate in candidates.items():
            sums.setdefault(name, []).append(metrics.fidelity(candidate, target))
    return {
        name: {
            key: float(np.mean([row[key] for row in rows if row[key] is not None]))
            for key in ("ciede2000", "psnr", "ssim")
        }
        for name, rows in sums.items()
    }
