"""Opens a SavedModel for restoring: one of ours, or anybody's that turns a picture into a picture."""

from __future__ import annotations

import atexit
import contextlib
import glob
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models import strips, vetting
from models.contract import COEFFICIENTS, DAMAGE_CLASSES, ORIGINS, PALETTE, THUMBNAIL
from models.decision import Decision, Model, Pixels
from models.vetting import ModelError

GPU_BATCHES = (1, 4, 32)
"""Sizes of batches on a GPU: a picture tried alone, what is left at the end of a bundle, a full batch."""


def share_gpus() -> None:
    """Lets TensorFlow take a GPU's memory as it needs it, not all at once: other processes may use the same GPU.

    Call it before the first use of a GPU; later it changes nothing.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # in use already
            tf.config.experimental.set_memory_growth(gpu, True)


def gpus() -> int:
    """How many GPUs TensorFlow sees."""
    return len(tf.config.list_physical_devices("GPU"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller piece of work may go where this did not."""
    return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError))


class Generator:
    """One of our own models: decides on thumbnails, applies at full size.

    Args:
      loaded: The SavedModel.

    Attributes:
      batches: Sizes of the batches that `decide` is called with, smallest first.

    Raises:
      ModelError: Its signatures are not those of such a model.
    """

    reads_captions = True

    def __init__(self, loaded: Any) -> None:
        _check_signatures(loaded.signatures)
        self._loaded = loaded  # signatures hold their model only weakly
        self.batches = GPU_BATCHES if gpus() else (1,)
        self._decide = loaded.signatures["decide"]
        self._noisiness = loaded.signatures.get("noisiness")  # models exported before have none
        self._apply: dict[Any, Any] = {np.dtype(np.uint8): loaded.signatures["apply_uint8"]}
        self._apply[np.dtype(np.uint16)] = loaded.signatures["apply_uint16"]

    def decide(self, thumbnails: Pixels, captions: list[str], palettes: npt.NDArray[np.float32]) -> list[Decision]:
        """See `Model.decide`.

        On a CPU the signature is called picture by picture: the last bits of a matrix product depend on a row's place
        in it, places differ from run to run, and the same input must give the same bytes. It costs about as much
        as in batches; on a GPU, which needs batches, files may differ by one code value here and there.
        There it is called with few sizes of batch only: for each, kernels are chosen anew.
        """
        decided: list[Decision] = []
        while len(decided) < len(captions):
            left = len(captions) - len(decided)
            size = next((size for size in self.batches if size >= left), self.batches[-1])
            # What is missing is filled with the last picture, whose further decisions are dropped.
            rows = np.minimum(np.arange(len(decided), len(decided) + size), len(captions) - 1)
            batch = self._decide_batch(thumbnails[rows], [captions[row] for row in rows], palettes[rows])
            decided += batch[:left]
        return decided

    def _decide_batch(
        self, thumbnails: Pixels, captions: list[str], palettes: npt.NDArray[np.float32]
    ) -> list[Decision]:
        outputs = self._decide(
            thumbnail=tf.constant(thumbnails),
            caption=tf.constant([caption.encode("utf-8", "replace") for caption in captions]),
            reference_palette=tf.constant(palettes, tf.float32),
        )
        values = {name: tensor.numpy() for name, tensor in outputs.items()}
        return [
            _decision({name: value[index] for name, value in values.items()}, captions[index])
            for index in range(len(captions))
        ]

    def apply(self, pixels: Pixels, decision: Decision) -> Pixels:
        """See `Model.apply`. Large pictures, and those for which memory does not suffice, are restored in strips."""
        coefficients = self._judged(pixels, decision.coefficients)
        count = pixels.shape[0] * pixels.shape[1]
        pieces = math.ceil(count / _STRIP) if count > _WHOLE else 1
        if pieces == 1:
            try:
                return self._strip(pixels, coefficients)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            pieces = 2
        restored = np.empty_like(pixels)
        while True:
            try:
                for strip in strips.cut(len(pixels), pieces, coefficients):
                    restored[strip.inner] = self._strip(pixels[strip.outer], strip.coefficients)[strip.kept]
            except Exception as error:
                if not is_out_of_memory(error) or pieces * strips.LEAST > len(pixels):
                    raise
                pieces *= 2
            else:
                return restored

    def _judged(
        self, pixels: Pixels, coefficients: Mapping[str, npt.NDArray[np.float32]]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        """How much noise is taken out is judged for the whole picture, before it is cut into strips."""
        if self._noisiness is None or not coefficients["detail"][0]:
            return coefficients
        share = self._noisiness(places=strips.probes(pixels))["share"].numpy()
        return {**coefficients, "detail": coefficients["detail"] * np.array([share, 1.0], np.float32)}

    def _strip(self, pixels: Pixels, coefficients: Mapping[str, npt.NDArray[np.float32]]) -> Pixels:
        given = {name: tf.constant(value) for name, value in coefficients.items()}
        restored: Pixels = self._apply[pixels.dtype](image=tf.constant(pixels), **given)["restored"].numpy()
        return restored


_WHOLE, _STRIP = 1 << 24, 1 << 22
"""Pictures of more pixels are restored in strips of so many: the signature's temporaries are about 25 bytes a pixel.
The margins of strips cost a seventh more time, whatever their size."""


def _decision(values: dict[str, Any], caption: str) -> Decision:
    """One picture's outputs of `decide` as a `Decision`; a float for each number, whatever NumPy calls it."""
    numbers = {
        name: float(values[name]) for name in ("confidence", "expected_error", "error_low", "error_high", "fallback")
    }
    origin = {f"colour_{name}": float(share) for name, share in zip(ORIGINS, values["origin"], strict=True)}
    invents = bool(np.any(values["chroma"]))
    if invents:  # `origin` speaks of the picture with invented colours; without them it has none
        origin = {"colour_measured": 1.0, "colour_amplified": 0.0, "colour_invented": 0.0}
    return Decision(
        caption,
        {name: values[name] for name in COEFFICIENTS},
        {name: float(p) for name, p in zip(DAMAGE_CLASSES, values["damage"], strict=True)},
        **numbers,
        **origin,
        invented_error=float(values["invented_error"]) if invents else None,
        asks=bool(values["asks"]),
        maps={name: np.rint(255 * values[name]).astype(np.uint8) for name in ("confidence_map", "defect_map")},
    )


def _check_signatures(signatures: Any) -> None:
    """Compares with the contract what can be known before a picture is seen: names, types, shapes."""
    decide = signatures["decide"]
    count = len(DAMAGE_CLASSES)
    taken = {
        "thumbnail": tf.TensorSpec([None, THUMBNAIL, THUMBNAIL, 3], tf.uint8),
        "caption": tf.TensorSpec([None], tf.string),
        "reference_palette": tf.TensorSpec([None, PALETTE], tf.float32),
    }
    numbers = ("confidence", "expected_error", "error_low", "error_high", "fallback", "invented_error")
    given = {
        **dict.fromkeys(numbers, tf.TensorSpec([None], tf.float32)),
        "damage": tf.TensorSpec([None, count], tf.float32),
        "origin": tf.TensorSpec([None, len(ORIGINS)], tf.float32),
        "asks": tf.TensorSpec([None], tf.bool),
        **dict.fromkeys(COEFFICIENTS, tf.TensorSpec(None, tf.float32)),
    }
    _compare("decide takes", decide.structured_input_signature[1], taken)
    _compare("decide gives", decide.structured_outputs, given)
    one = {name: tf.TensorSpec(decide.structured_outputs[name].shape[1:], tf.float32) for name in COEFFICIENTS}
    for name, dtype in (("apply_uint8", tf.uint8), ("apply_uint16", tf.uint16)):
        image = tf.TensorSpec([None, None, 3], dtype)
        _compare(f"{name} takes", signatures[name].structured_input_signature[1], {"image": image, **one})
        _compare(f"{name} gives", signatures[name].structured_outputs, {"restored": image})


def _compare(what: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, spec in wanted.items():
        if name not in found:
            raise ModelError(f"its signature {what} no {name}; export it with this version of unfade")
        shape = found[name].shape
        if found[name].dtype != spec.dtype or not shape.is_compatible_with(spec.shape):
            raise ModelError(
                f"its signature {what} {name} as {found[name].dtype.name}{shape}, not {spec.dtype.name}{spec.shape};"
                " export it with this version of unfade"
            )
    if what.endswith("takes") and (more := set(found) - set(wanted)):
        raise ModelError(f"its signature {what} {', '.join(sorted(more))}, too; export it with this version of unfade")


class ForeignModel:
    """Anybody's SavedModel: one image batch in (uint8, or float32 in 0..1), perhaps one caption, one image batch out.

    Args:
      loaded: The SavedModel.
      size_multiple: Sides are padded (edge pixels repeated) to a multiple of this, and the result cropped.

    Raises:
      ModelError: The serving signature has no such inputs and outputs.
    """

    def __init__(self, loaded: Any, size_multiple: int) -> None:
        self._loaded = loaded
        self._multiple = size_multiple
        signatures = loaded.signatures
        if "serving_default" not in signatures:
            raise ModelError(f"it has no serving_default signature (only: {', '.join(signatures) or 'none'})")
        self._serve = signatures["serving_default"]
        inputs = self._serve.structured_input_signature[1]
        images = [
            name for name, spec in inputs.items() if spec.dtype in (tf.uint8, tf.float32) and _is_image(spec.shape)
        ]
        texts = [name for name, spec in inputs.items() if spec.dtype == tf.string and spec.shape.rank in (None, 1)]
        if len(images) != 1 or len(texts) > 1 or len(images) + len(texts) != len(inputs):
            described = ", ".join(f"{name} {spec.dtype.name}{spec.shape}" for name, spec in inputs.items())
            raise ModelError(
                "its serving signature must take one image batch [N, H, W, 3] of uint8 or float32, and at most one"
                f" string [N]; it takes {described or 'nothing'}"
            )
        given = self._serve.structured_outputs
        outputs = [
            name
            for name, spec in given.items()
            if (spec.dtype == tf.uint8 or spec.dtype.is_floating) and _is_image(spec.shape)
        ]
        if len(outputs) != 1:
            described = ", ".join(f"{name} {spec.dtype.name}{spec.shape}" for name, spec in given.items())
            raise ModelError(
                f"its serving signature must give one image batch of uint8 or float; it gives {len(outputs)}"
                f" ({described or 'nothing'})"
            )
        self._image, self._text, self._output = images[0], (texts or [None])[0], outputs[0]
        self._dtype = inputs[self._image].dtype
        self.reads_captions = self._text is not None

    def decide(self, thumbnails: Pixels, captions: list[str], palettes: npt.NDArray[np.float32]) -> list[Decision]:
        """Keeps the caption for `apply`: such a model decides nothing beforehand."""
        del thumbnails, palettes
        return [Decision(caption, {}) for caption in captions]

    def apply(self, pixels: Pixels, decision: Decision) -> Pixels:
        """See `Model.apply`. Raises ValueError if the model gives another size, or values that are no picture's."""
        height, width = pixels.shape[:2]
        depth = np.iinfo(pixels.dtype).max
        pad = [(0, -height % self._multiple), (0, -width % self._multiple), (0, 0)]
        padded = np.pad(pixels, pad, mode="edge")
        fractions = padded.astype(np.float32) / depth
        image = fractions if self._dtype == tf.float32 else np.rint(fractions * 255).astype(np.uint8)
        inputs = {self._image: tf.constant(image[None])}
        if self._text is not None:
            inputs[self._text] = tf.constant([decision.caption.encode("utf-8", "replace")])
        output = self._serve(**inputs)[self._output].numpy()[0]
        if output.shape != padded.shape:
            raise ValueError(
                f"the model gives {output.shape[1]} x {output.shape[0]} pixels for {padded.shape[1]} x"
                f" {padded.shape[0]}; a --size_multiple may help"
            )
        fractions = output.astype(np.float32) / (255.0 if output.dtype == np.uint8 else 1.0)
        if not np.isfinite(fractions).all():
            raise ValueError("the model's output is not finite")
        beyond = float(np.abs(fractions - np.clip(fractions, 0, 1)).mean())
        if (
            beyond > _BEYOND
        ):  # another range (0..255, -1..1), or a model that has gone astray; clipped it would be written
            low, high = fractions.min(), fractions.max()
            raise ValueError(f"the model's output reaches from {low:.4g} to {high:.4g}, far outside 0..1")
        return np.rint(np.clip(fractions[:height, :width], 0, 1) * depth).astype(pixels.dtype)


_BEYOND = 0.1
"""How far a foreign model's output may lie outside 0..1, in the mean over a picture."""


def _is_image(shape: tf.TensorShape) -> bool:
    return shape.rank is None or (shape.rank == 4 and shape[-1] in (3, None))


def load_folder(folder: str, trusted: bool = False) -> Any:
    """`tf.saved_model.load`, after a look at what its graph could do, and for any name.

    Args:
      folder: Local folder.
      trusted: See `vetting.check`.

    Raises:
      ModelError: It is damaged, or not to be loaded.
    """
    vetting.check(folder, trusted)
    if glob.escape(folder) == folder:
        return tf.saved_model.load(folder)
    # TensorFlow takes "models [1]" as a glob, and finds no variables in it.
    plain = tempfile.mkdtemp(prefix="unfade-model-", suffix=f"-{os.getpid()}")  # by which it is found if this is killed
    atexit.register(shutil.rmtree, plain, ignore_errors=True)  # not before: a new export copies the assets from here
    link = pathlib.Path(plain) / "model"
    link.symlink_to(pathlib.Path(folder).resolve(), target_is_directory=True)
    return tf.saved_model.load(str(link))


def load(folder: str, size_multiple: int = 1, trusted: bool = False) -> Model:
    """Opens a SavedModel.

    Args:
      folder: Local folder with `saved_model.pb`.
      size_multiple: For foreign models, see `ForeignModel`.
      trusted: See `vetting.check`.

    Raises:
      ModelError: Not a SavedModel, not one that restores pictures, or not to be loaded.
    """
    share_gpus()
    try:
        loaded = load_folder(folder, trusted)
    except ModelError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"TensorFlow cannot load it ({first[:300]}); export or copy it again") from error
    if {"decide", "apply_uint8", "apply_uint16"} <= set(loaded.signatures):
        return Generator(loaded)
    return ForeignModel(loaded, size_multiple)
