"""The SavedModel: network, TFT graph and every preprocessing step behind signatures that take raw inputs.

decide(thumbnail, caption, reference_palette) -> the coefficients, how sure it is, what is wrong with the print
noisiness(places) -> the share of its noise that is to be taken out
apply_uint8 / apply_uint16(image, coefficients...) -> restored
serving_default(image, caption) -> restored, confidence, damage, confidence_map, defect_map
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import correction, words
from models.colour import density_table, density_to_linear, linear_to_lab
from models.contract import (
    CAPTION_IDS,
    CAPTION_TEXT,
    CAPTION_WEIGHTS,
    CONFIDENCE_SCALE,
    DAMAGE_CLASSES,
    IMAGE_STATISTICS,
    IMAGE_STATISTICS_Z,
    PALETTE,
    SIGHT,
    STATISTICS,
    THUMBNAIL,
)
from models.correction import FIELD, GRID, LEVELS, Coefficients
from models.detail import Detail
from models.generator import Decision, Generator
from models.loading import load_folder
from models.statistics import colour_left, density_statistics, view
from models.strips import probes


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


def _coefficient_specs() -> list[tf.TensorSpec]:
    """Of `Coefficients` for one picture, in their order."""
    shapes = {
        "matrix": [3, 4],
        "slope": [3, 4],
        "field": [FIELD, FIELD],
        "curves": [3, correction.SEGMENTS + 1],
        "chroma": [GRID, GRID, LEVELS, 2],
        "detail": [2],
    }
    return [tf.TensorSpec(shapes[name], tf.float32, name) for name in Coefficients._fields]


class Calibration(NamedTuple):
    """Numbers that are measured on validation pictures after training (`models.calibration`), not learned with it.

    Attributes:
      margin: The restored picture is taken if its expected error is below that of the input times exp(-margin).
      low: 80% of pictures have errors between expected * exp(low) and expected * exp(high).
      high: See `low`.
      noisy: Weights (constant, corrector's logit, logarithm of what the detail network finds) of the class noisy.
      scratched: Weights (constant, corrector's logit, logarithm of the defects it finds) of the class scratched.
    """

    margin: float = 0.0
    low: float = -1.0
    high: float = 1.0
    noisy: tuple[float, float, float] = (0.0, 1.0, 0.0)
    scratched: tuple[float, float, float] = (0.0, 1.0, 0.0)


RAMP = 0.3
"""Width of the transition from the result to the input, in the logarithm of expected errors."""


class Restorer(tf.Module):
    """The signatures.

    Args:
      generator: Trained.
      detail: Trained.
      transform: The graph of the records that they were trained on.
      calibration: See `Calibration`.
    """

    def __init__(
        self, generator: Generator, detail: Detail, transform: TransformGraph, calibration: Calibration
    ) -> None:
        super().__init__()
        # Only the weights are tracked: a Keras model would bring signatures of its own into the SavedModel.
        self.weights = [variable.value for model in (generator, detail) for variable in model.weights]
        self._network: Callable[..., Any] = lambda *inputs: generator(*inputs)  # noqa: PLW0108 (a model would be tracked)
        self._find: Callable[..., Any] = lambda srgb: detail(srgb)  # noqa: PLW0108
        self._noisiness: Callable[..., Any] = lambda places: detail.noisiness(places)  # noqa: PLW0108
        self._clean: Callable[..., Any] = lambda image, strength: detail.remove(image, strength)  # noqa: PLW0108
        self.transform = transform
        self._calibration = calibration

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
          The `COEFFICIENTS` for `apply_*` (see `models.correction.Coefficients`; `chroma` is 0 but for pictures without
          colour: who does not want invented colours sets it to 0); `expected_error` [N], the mean CIEDE2000 difference
          to the truth that the restored picture is expected to have, and `error_low`, `error_high` [N], within which
          80% lie; `invented_error` [N], the same with invented colours, 0 where there are none; `confidence` [N],
          exp(-expected_error / 10); `fallback` [N], how far the result is drawn back to the input because the
          correction is not expected to improve it, 0..1; `origin` [N, 3], shares of the restored picture's chroma, in
          the order of `ORIGINS`; `damage` [N, 7], probabilities in the order of `DAMAGE_CLASSES`; `asks` [N], whether
          the caption names a colour; `confidence_map` [N, 32, 32] and `defect_map` [N, 64, 64] in 0..1.
        """
        small = view(thumbnail)
        ids, weights = self.transform.captions(caption)
        statistics = density_statistics(small)
        left, known = colour_left(statistics), self.transform.statistics(statistics)
        decision: Decision = self._network(view(thumbnail, SIGHT), left, known, ids, weights, reference_palette)
        expected, untouched = decision.log_error, decision.log_untouched
        fallback = tf.clip_by_value((expected - untouched + self._calibration.margin) / RAMP + 0.5, 0.0, 1.0)
        coefficients = _drawn_back(decision.coefficients, fallback)
        grey = decision.grey
        coefficients = coefficients._replace(chroma=coefficients.chroma * grey[:, None, None, None, None])
        error = (1 - fallback) * tf.exp(expected) + fallback * tf.exp(untouched)
        found, defects = self._find(tf.cast(thumbnail, tf.float32) / 255.0)
        hidden = tf.sigmoid(defects)
        return {
            **coefficients._asdict(),
            "expected_error": error,
            "error_low": error * np.exp(self._calibration.low),
            "error_high": error * np.exp(self._calibration.high),
            "invented_error": tf.exp(decision.log_invented) * grey,
            "confidence": confidence(error),
            "fallback": fallback,
            "origin": _origin(small, coefficients),
            "damage": tf.sigmoid(self._damage(decision.damage, found, hidden)),
            "asks": words.asks_for_colour(ids),
            "confidence_map": confidence(tf.exp(decision.log_error_map)),
            "defect_map": tf.nn.max_pool2d(hidden[..., None], 4, 4, "VALID")[..., 0],
        }

    def _damage(self, logits: tf.Tensor, found: tf.Tensor, hidden: tf.Tensor) -> tf.Tensor:
        """Logits of the classes; what the corrector's small view cannot see, the detail network's findings add."""
        amount, defects = tf.unstack(log_findings(found, hidden))
        columns = tf.unstack(logits, axis=1)
        for name, weights, seen in (
            ("noisy", self._calibration.noisy, amount),
            ("scratched", self._calibration.scratched, defects),
        ):
            index = DAMAGE_CLASSES.index(name)
            columns[index] = weights[0] + weights[1] * columns[index] + weights[2] * seen
        return tf.stack(columns, axis=1)

    @tf.function(input_signature=[tf.TensorSpec([9, None, None, 3], tf.float32, "places")])
    def noisiness(self, places: tf.Tensor) -> dict[str, tf.Tensor]:
        """How much of the noise that `detail` would take out is to be: a share, judged for the whole picture.

        Args:
          places: float32 [9, H, W, 3] in 0..1, see `models.strips.probes`.

        Returns:
          `share`, float32 [], by which the first of `detail` is to be multiplied before `apply_*`.
        """
        return {"share": self._noisiness(places)}

    def _judged(self, image: tf.Tensor, coefficients: Coefficients) -> Coefficients:
        return coefficients._replace(detail=coefficients.detail * tf.stack([self._noisiness(probes(image)), 1.0]))

    def _apply(self, image: tf.Tensor, *coefficients: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"restored": correction.apply(image, Coefficients(*coefficients), self._clean)}

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8, "image"), *_coefficient_specs()])
    def apply_uint8(self, image: tf.Tensor, *coefficients: tf.Tensor) -> dict[str, tf.Tensor]:
        """Restores one 8-bit picture of any size; see `correction.apply`."""
        return self._apply(image, *coefficients)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint16, "image"), *_coefficient_specs()])
    def apply_uint16(self, image: tf.Tensor, *coefficients: tf.Tensor) -> dict[str, tf.Tensor]:
        """Restores one 16-bit picture of any size; see `correction.apply`."""
        return self._apply(image, *coefficients)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8, "image"),
            tf.TensorSpec([None], tf.string, "caption"),
        ]
    )
    def serve(self, image: tf.Tensor, caption: tf.Tensor) -> dict[str, tf.Tensor]:
        """Everything in one call, for a batch of pictures of one size: uint8 [N, H, W, 3] and string [N].

        A picture without colour is coloured if its caption names a colour, and else stays grey.
        """
        small = tf.image.resize(tf.cast(image, tf.float32), [THUMBNAIL, THUMBNAIL], method="area")
        decided = self.decide(
            tf.cast(tf.round(small), tf.uint8), caption, tf.zeros([tf.shape(image)[0], PALETTE], tf.float32)
        )
        asks = tf.cast(decided["asks"], tf.float32)
        decided["chroma"] *= asks[:, None, None, None, None]
        coefficients = Coefficients(**{name: decided[name] for name in Coefficients._fields})
        restored = tf.map_fn(
            lambda one: correction.apply(one[0], self._judged(one[0], Coefficients(*one[1:])), self._clean),
            (image, *coefficients),
            fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8),
        )
        kept = ("confidence", "damage", "confidence_map", "defect_map")
        return {"restored": restored, **{name: decided[name] for name in kept}}


def log_findings(found: tf.Tensor, hidden: tf.Tensor) -> tf.Tensor:
    """Logarithms of the mean of what is taken out and of the share that is hidden: float32 [2, N].

    Args:
      found: float32 [N, H, W, 3], what the detail network subtracts.
      hidden: float32 [N, H, W], probabilities of a defect.
    """
    return tf.stack(
        [
            tf.math.log(tf.reduce_mean(tf.abs(found), axis=[1, 2, 3]) + 1e-4),
            tf.math.log(tf.reduce_mean(hidden, axis=[1, 2]) + 1e-4),
        ]
    )


def confidence(error: tf.Tensor) -> tf.Tensor:
    """exp(-expected error / 10): 0.82 at an expected error of 2, 0.37 at 10."""
    return tf.exp(-error / CONFIDENCE_SCALE)


def _drawn_back(coefficients: Coefficients, share: tf.Tensor) -> Coefficients:
    """The coefficients, drawn towards changing nothing by a share [N]; what is invented or cleaned stays."""
    same = correction.identity(tf.shape(share)[0])
    drawn = {}
    for name in ("matrix", "slope", "curves"):
        value = getattr(coefficients, name)
        drawn[name] = value + share[:, None, None] * (getattr(same, name) - value)
    return coefficients._replace(**drawn)


def _origin(picture: tf.Tensor, coefficients: Coefficients) -> tf.Tensor:
    """Shares of the restored chroma that was in the input, was amplified from it, or invented: float32 [N, 3].

    A pixel's chroma (CIELAB) counts as measured up to the input's, as amplified beyond. Where `chroma` adds colours
    all are invented. A picture without chroma before and after has nothing but measured.
    """
    density = tf.gather(tf.constant(density_table(256)), tf.cast(picture, tf.int32))

    def chroma(of: tf.Tensor) -> tf.Tensor:
        lab = linear_to_lab(tf.clip_by_value(density_to_linear(of), 0.0, 1.0))
        return tf.sqrt(lab[..., 1] ** 2 + lab[..., 2] ** 2)

    before, after = chroma(density), chroma(correction.correct(density, coefficients))
    measured = tf.reduce_sum(tf.minimum(before, after), axis=[1, 2]) + 1.0
    amplified = tf.reduce_sum(tf.nn.relu(after - before), axis=[1, 2])
    invented = tf.cast(tf.reduce_any(coefficients.chroma != 0, axis=[1, 2, 3, 4]), tf.float32)
    shares = tf.stack([measured, amplified, tf.zeros_like(measured)], axis=1)
    shares /= tf.reduce_sum(shares, axis=1, keepdims=True)
    return shares + invented[:, None] * (tf.constant([0.0, 0.0, 1.0]) - shares)


def export(
    generator: Generator, detail: Detail, transform: TransformGraph, calibration: Calibration, folder: str
) -> None:
    """Writes the SavedModel.

    Args:
      generator: Trained.
      detail: Trained.
      transform: The graph of the records that they were trained on.
      calibration: See `Calibration`.
      folder: Where to write; replaced if it is there.
    """
    module = Restorer(generator, detail, transform, calibration)
    tf.saved_model.save(
        module,
        folder,
        signatures={
            "decide": module.decide,
            "noisiness": module.noisiness,
            "apply_uint8": module.apply_uint8,
            "apply_uint16": module.apply_uint16,
            "serving_default": module.serve,
        },
    )
