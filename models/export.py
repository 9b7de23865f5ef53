"""The SavedModel: network, TFT graph and every preprocessing step behind signatures that take raw inputs.

decide(thumbnail, caption, reference_palette) -> matrix, curves, confidence, damage, confidence_map, defect_map
apply_uint8 / apply_uint16(image, matrix, curves) -> restored
serving_default(image, caption) -> restored, confidence, damage, confidence_map, defect_map
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models import correction
from models.contract import (
    CAPTION_IDS,
    CAPTION_TEXT,
    CAPTION_WEIGHTS,
    IMAGE_STATISTICS,
    IMAGE_STATISTICS_Z,
    PALETTE,
    STATISTICS,
    THUMBNAIL,
)
from models.generator import Generator
from models.loading import load_folder
from models.statistics import density_statistics, view

CONFIDENCE_SCALE = 10.0
"""confidence = exp(-expected CIE94 error / this): 0.82 at an expected error of 2, 0.37 at 10."""


class TransformGraph(tf.Module):
    """The TFT graph that `prepare` made, as a layer.

    Args:
      folder: `transform_fn/` of a folder of prepared records.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.graph = load_folder(folder)

    def captions(self, captions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Word ids and weights of captions, string [N]: int64 [N, T] and float32 [N, T], padding has weight 0."""
        features = self._call(captions, tf.zeros([tf.shape(captions)[0], STATISTICS]))
        return tf.sparse.to_dense(features[CAPTION_IDS]), tf.sparse.to_dense(features[CAPTION_WEIGHTS])

    def statistics(self, statistics: tf.Tensor) -> tf.Tensor:
        """Density statistics, float32 [N, 15], normalised over the training collection."""
        features = self._call(tf.fill([tf.shape(statistics)[0]], ""), statistics)
        return tf.ensure_shape(features[IMAGE_STATISTICS_Z], [None, STATISTICS])

    def _call(self, captions: tf.Tensor, statistics: tf.Tensor) -> dict[str, Any]:
        result: dict[str, Any] = self.graph.transform_fn({CAPTION_TEXT: captions, IMAGE_STATISTICS: statistics})
        return result


class Restorer(tf.Module):
    """What is saved: see the module."""

    def __init__(self, generator: Generator, transform: TransformGraph) -> None:
        super().__init__()
        # Only the weights are tracked: a Keras model would bring signatures of its own into the SavedModel.
        self.weights = [variable.value for variable in generator.weights]
        self._network: Callable[..., Any] = lambda *inputs: generator(*inputs)  # noqa: PLW0108 (a model would be tracked)
        self.transform = transform

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, THUMBNAIL, THUMBNAIL, 3], tf.uint8, "thumbnail"),
            tf.TensorSpec([None], tf.string, "caption"),
            tf.TensorSpec([None, PALETTE], tf.float32, "reference_palette"),
        ]
    )
    def decide(self, thumbnail: tf.Tensor, caption: tf.Tensor, reference_palette: tf.Tensor) -> dict[str, tf.Tensor]:
        """Decides for a batch of thumbnails.

        Args:
          thumbnail: uint8 [N, 256, 256, 3], the whole picture squeezed to a square, sRGB.
          caption: string [N], UTF-8, "" for none.
          reference_palette: float32 [N, 64], see `models.contract.PALETTE`.

        Returns:
          matrix float32 [N, 3, 4] and curves float32 [N, 3, 13] for `apply_*`; confidence [N] in 0..1; damage [N, 7],
          probabilities in the order of `DAMAGE_CLASSES`; confidence_map [N, 32, 32] and defect_map [N, 32, 32] in 0..1.
        """
        small = view(thumbnail)
        ids, weights = self.transform.captions(caption)
        decision = self._network(
            small, self.transform.statistics(density_statistics(small)), ids, weights, reference_palette
        )
        return {
            "matrix": decision.matrix,
            "curves": decision.curves,
            "confidence": tf.exp(-tf.exp(decision.log_error) / CONFIDENCE_SCALE),
            "damage": tf.sigmoid(decision.damage),
            "confidence_map": tf.exp(-tf.exp(decision.log_error_map) / CONFIDENCE_SCALE),
            "defect_map": tf.sigmoid(decision.defects),
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint8, "image"),
            tf.TensorSpec([3, 4], tf.float32, "matrix"),
            tf.TensorSpec([3, correction.SEGMENTS + 1], tf.float32, "curves"),
        ]
    )
    def apply_uint8(self, image: tf.Tensor, matrix: tf.Tensor, curves: tf.Tensor) -> dict[str, tf.Tensor]:
        """Restores one 8-bit picture of any size; see `correction.apply`."""
        return {"restored": correction.apply(image, matrix, curves)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint16, "image"),
            tf.TensorSpec([3, 4], tf.float32, "matrix"),
            tf.TensorSpec([3, correction.SEGMENTS + 1], tf.float32, "curves"),
        ]
    )
    def apply_uint16(self, image: tf.Tensor, matrix: tf.Tensor, curves: tf.Tensor) -> dict[str, tf.Tensor]:
        """Restores one 16-bit picture of any size; see `correction.apply`."""
        return {"restored": correction.apply(image, matrix, curves)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8, "image"),
            tf.TensorSpec([None], tf.string, "caption"),
        ]
    )
    def serve(self, image: tf.Tensor, caption: tf.Tensor) -> dict[str, tf.Tensor]:
        """Everything in one call, for a batch of pictures of one size: uint8 [N, H, W, 3] and string [N]."""
        small = tf.image.resize(tf.cast(image, tf.float32), [THUMBNAIL, THUMBNAIL], method="area")
        decided = self.decide(
            tf.cast(tf.round(small), tf.uint8), caption, tf.zeros([tf.shape(image)[0], PALETTE], tf.float32)
        )
        restored = tf.map_fn(
            lambda one: correction.apply(one[0], one[1], one[2]),
            (image, decided["matrix"], decided["curves"]),
            fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8),
        )
        kept = ("confidence", "damage", "confidence_map", "defect_map")
        return {"restored": restored, **{name: decided[name] for name in kept}}


def export(generator: Generator, transform: TransformGraph, folder: str) -> None:
    """Writes the SavedModel.

    Args:
      generator: Trained.
      transform: The graph of the records that it was trained on.
      folder: Where to write; replaced if it is there.
    """
    module = Restorer(generator, transform)
    tf.saved_model.save(
        module,
        folder,
        signatures={
            "decide": module.decide,
            "apply_uint8": module.apply_uint8,
            "apply_uint16": module.apply_uint16,
            "serving_default": module.serve,
        },
    )
