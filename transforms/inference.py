"""Restoring: a Beam `ModelHandler` decides for many thumbnails at once; each picture is corrected at its own size.

`TFModelHandlerTensor` cannot be used: it loads through Keras, which refuses a SavedModel. RunInference collects all
results of a batch before it hands on the first, so the handler returns decisions of a few hundred bytes, and `Apply`
holds one full-size picture at a time.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from apache_beam.ml.inference.base import ModelHandler

from models import vetting
from models.contract import DEFAULT_MODEL, DEFAULT_SHA256, NUMBERS, PALETTE
from models.decision import Decision, Model
from models.stopping import stopped_after
from transforms import codecs, isolation, launcher, limits, storage, timing
from transforms.guard import Heavy, Step
from transforms.items import ItemFailure, Pair, UsageError
from transforms.records import Source

SHIPPED = ""
"""Names the model that ships with the package, wherever that is installed: workers may have it elsewhere."""

_KEPT_BYTES = (
    12_000_000  # smaller pictures (4 MP of 8 bits) keep their pixels until correction; larger ones decode twice
)


@dataclasses.dataclass(frozen=True)
class Undecided(Heavy):
    """A picture ready for the model: its source, its thumbnail, and its pixels unless it is large.

    Attributes:
      source: With the file's bytes.
      thumbnail: uint8 [256, 256, 3].
      picture: The decoded picture, or None: decode again.
    """

    source: Source
    thumbnail: npt.NDArray[np.uint8]
    picture: codecs.Picture | None

    @property
    def pair(self) -> Pair:
        """The pair it comes from."""
        return self.source.pair


@dataclasses.dataclass(frozen=True)
class Decided(Heavy):
    """A picture with the model's decision, or with why there is none.

    Attributes:
      undecided: The picture.
      decision: The model's; None if it failed.
      failure: What went wrong, or None.
    """

    undecided: Undecided
    decision: Decision | None
    failure: ItemFailure | None = None

    @property
    def pair(self) -> Pair:
        """The pair it comes from."""
        return self.undecided.pair


@dataclasses.dataclass
class Restored(Heavy):
    """A restored picture at full size.

    Attributes:
      source: Where it came from.
      picture: The decoded input.
      pixels: Of the restored picture, same dtype and shape as the input's.
      decision: What the model said.
    """

    source: Source
    picture: codecs.Picture
    pixels: npt.NDArray[Any]
    decision: Decision

    @property
    def pair(self) -> Pair:
        """The pair it comes from."""
        return self.source.pair

    def give_up_pixels(self) -> None:
        """Frees all pixels: Beam holds this object until it is written, and a large scan's would stay with it."""
        self.pixels = self.pixels[:0].copy()
        self.picture = dataclasses.replace(self.picture, pixels=self.pixels, values=self.pixels)


def open_model(uri: str, size_multiple: int = 1, sha256: str | None = None, trusted: bool = False) -> Model:
    """A model by local path or URI, loaded once a process, however many threads ask at the same time.

    Args:
      uri: Local path or URI.
      size_multiple: For foreign models.
      sha256: What its digest must be; None: anything. Compared before it is loaded.
      trusted: See `vetting.check`.

    Raises:
      vetting.ModelError: It has another digest; else see `loading.load`.
    """
    with _loading:
        return _opened(DEFAULT_MODEL if uri == SHIPPED else uri, size_multiple, sha256, trusted)


_loading = threading.Lock()


@functools.lru_cache(maxsize=16)
def _opened(uri: str, size_multiple: int, sha256: str | None, trusted: bool) -> Model:
    # Here and below: it loads TensorFlow, which takes seconds, and jobs are put together without.
    from models import loading

    folder = local_model(uri)
    if sha256 is not None and (found := vetting.digest(folder)) != sha256:
        raise vetting.ModelError(
            f"its digest is {found}, not {sha256}; it was changed, or another was meant: see where it comes from"
        )
    return loading.load(folder, size_multiple, trusted)


@functools.lru_cache(maxsize=16)
def local_model(uri: str) -> str:
    """A local folder with the model's files: the one named, or a copy of one in a bucket."""
    if not storage.is_remote(uri):
        return uri
    # A new one: another user of this machine may have made what can be guessed, and change what was looked at.
    folder = tempfile.mkdtemp(prefix=launcher.MODEL_PREFIX, suffix=launcher.suffix())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    storage.copy_tree(uri, folder)
    return folder


def check_model(uri: str, size_multiple: int = 1, sha256: str | None = None, trusted: bool = False) -> str:
    """Makes sure before any work that a model can be loaded and restores pictures.

    Args:
      uri: Local path or URI.
      size_multiple: For foreign models.
      sha256: What its digest must be; None: anything.
      trusted: See `vetting.check`.

    Returns:
      Its digest.

    Raises:
      UsageError: It cannot, and why.
    """
    try:
        folder = local_model(uri)
        if not os.path.isdir(folder):
            raise UsageError(f"--model {uri} does not exist")
        found = vetting.digest(folder)
        if found == DEFAULT_SHA256 and sha256 in (None, found):
            return found  # the tests have loaded it, and workers that are processes of their own do it anew
        # With the digest of now, which the workers ask for: all of them use the model that was looked at here.
        open_model(uri, size_multiple, found if sha256 is None else sha256, trusted)
    except vetting.ModelError as error:
        raise UsageError(f"--model {uri} cannot be used: {error}") from error
    return found


def reads_captions(uri: str, size_multiple: int, sha256: str, trusted: bool) -> bool:
    """Whether a model takes captions; it has been looked at by `check_model`, which gave its digest."""
    return sha256 == DEFAULT_SHA256 or open_model(uri, size_multiple, sha256, trusted).reads_captions


class Thumbnail(Step[Source, Undecided]):
    """Source -> Undecided: decodes, so that only sound pictures reach the model.

    Args:
      max_pixels: Larger pictures are refused by their header.
      allow_truncated: Files that are cut off are taken.
    """

    stage = "decode"

    def __init__(self, max_pixels: int, allow_truncated: bool = False) -> None:
        self._max_pixels, self._allow_truncated = max_pixels, allow_truncated

    def run(self, source: Source) -> Undecided:
        """See the class."""
        picture = isolation.decode(source.encoded, self._max_pixels, allow_truncated=self._allow_truncated)
        keep = picture.pixels.nbytes <= _KEPT_BYTES
        return Undecided(source, codecs.thumbnail(picture.pixels), picture if keep else None)


class DecideHandler(ModelHandler[Undecided, Decided, Model]):
    """RunInference's handler: one `decide` for all thumbnails of a batch.

    A batch that fails is halved until the bad element is alone: only that fails. Where memory does not suffice for a
    batch, later ones are no larger than what did. One that comes to no end is stopped, and taken apart at once: every
    such try takes the whole limit.

    Args:
      model: Path or URI of the SavedModel.
      size_multiple: For foreign models.
      max_batch_size: Most pictures in a batch.
      colourise: See `models.contract.COLOURISE`.
      clean: Whether noise, scratches and JPEG artefacts are taken out.
      sha256: See `open_model`.
      trusted: See `vetting.check`.
      seconds: How long a batch may take, or a picture that is alone.
    """

    def __init__(
        self,
        model: str,
        size_multiple: int = 1,
        max_batch_size: int = 32,
        colourise: str = "never",
        clean: bool = True,
        sha256: str | None = None,
        trusted: bool = False,
        seconds: float = limits.ITEM_SECONDS,
    ) -> None:
        super().__init__()
        self._seconds = seconds
        self._colourise, self._clean = colourise, clean
        self._model, self._max_batch_size = (model, size_multiple, sha256, trusted), max_batch_size
        self._most = max_batch_size

    def load_model(self) -> Model:
        """Loads it, in a worker's setup."""
        return open_model(*self._model)

    def run_inference(
        self, batch: Sequence[Undecided], model: Model, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Decided]:
        """One decision for each picture of the batch, in order."""
        from models import loading

        timing.tell_gpus(loading.gpus())
        parts = [batch[start : start + self._most] for start in range(0, len(batch), self._most)]
        return [decided for part in parts for decided in self._bisected(part, model)]

    def _bisected(self, batch: Sequence[Undecided], model: Model) -> list[Decided]:
        try:
            return limits.within(self._seconds, functools.partial(self._decide, batch, model))
        except Exception as error:
            if len(batch) == 1:
                return [Decided(batch[0], None, _failure("decide", error))]
            if isinstance(error, TimeoutError):
                return [decided for one in batch for decided in self._bisected([one], model)]
            middle = len(batch) // 2
            if _is_out_of_memory(error):
                self._most = min(self._most, middle)
            return [*self.run_inference(batch[:middle], model), *self.run_inference(batch[middle:], model)]

    def _decide(self, batch: Sequence[Undecided], model: Model) -> list[Decided]:
        palettes = np.zeros((len(batch), PALETTE), np.float32)
        for row, one in zip(palettes, batch, strict=True):
            if one.source.palette.size:
                row[:] = one.source.palette
        thumbnails, captions = np.stack([one.thumbnail for one in batch]), [one.source.caption for one in batch]
        with stopped_after(limits.remaining()):
            decisions = model.decide(thumbnails, captions, palettes)
        for decision in decisions:
            _check(decision)
        return [
            Decided(one, decision.as_wished(self._colourise, self._clean))
            for one, decision in zip(batch, decisions, strict=True)
        ]

    def batch_elements_kwargs(self) -> dict[str, Any]:
        """Batches grow to the limit; what is left at the end of a bundle goes as it is."""
        return {"min_batch_size": min(4, self._max_batch_size), "max_batch_size": self._max_batch_size}

    def get_num_bytes(self, batch: Sequence[Undecided]) -> int:
        """Of the thumbnails, which is what crosses into the model (Beam's default counts the objects themselves)."""
        return sum(one.thumbnail.nbytes for one in batch)

    def get_metrics_namespace(self) -> str:
        """Where Beam's counters for this model stand."""
        return "unfade_decide"


def _check(decision: Decision) -> None:
    """Raises ValueError for what no sound model says."""
    said = {name: value for name in NUMBERS if (value := getattr(decision, name)) is not None} | decision.damage
    for name, value in (decision.coefficients | said).items():
        if not np.isfinite(np.asarray(value)).all():
            raise ValueError(f"{name} has values that are not finite")
    shares = {name: value for name, value in said.items() if not name.endswith(("error", "_low", "_high"))}
    for name, share in shares.items():
        if not -_ROUNDING <= share <= 1 + _ROUNDING:
            raise ValueError(f"{name} is {share:.4g}, not within 0..1")


_ROUNDING = 1e-3


def _is_out_of_memory(error: Exception) -> bool:
    from models import loading

    return loading.is_out_of_memory(error)


def _failure(what: str, error: Exception) -> ItemFailure:
    """Why the model gave nothing for a picture, even by itself."""
    if _is_out_of_memory(error):
        mend = "run fewer workers (--direct_num_workers), or machines with more memory"
        return ItemFailure("OutOfMemory", f"not enough memory for the model to {what}; {mend}", retryable=True)
    if isinstance(error, TimeoutError):
        mend = "raise --max_item_seconds, or look at the model and the load of the machine"
        return ItemFailure("TimedOut", f"the model did not {what}: {error}; {mend}", retryable=True)
    return ItemFailure("ModelFailed", f"the model cannot {what}: {type(error).__name__}: {_reason(error)}")


_WHERE = ("Graph execution error:", "Detected at node", "<stack traces", "File ")
"""How lines begin that TensorFlow puts before the reason."""


def _reason(error: Exception) -> str:
    """The line of an exception's text that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(_WHERE)), "".join(lines[:1]))[:300]


class Apply(Step[Decided, Restored]):
    """Decided -> Restored: corrects one picture at its own size; memory is linear in its pixels.

    Args:
      model: Path or URI of the SavedModel.
      size_multiple: For foreign models.
      max_pixels: As for decoding.
      allow_truncated: As for decoding.
      sha256: See `open_model`.
      trusted: See `vetting.check`.
    """

    stage = "inference"

    def __init__(
        self,
        model: str,
        size_multiple: int,
        max_pixels: int,
        allow_truncated: bool = False,
        sha256: str | None = None,
        trusted: bool = False,
    ) -> None:
        self._model = (model, size_multiple, sha256, trusted)
        self._max_pixels, self._allow_truncated = max_pixels, allow_truncated

    def setup(self) -> None:
        """Loads the model, which RunInference has already loaded in the same process."""
        open_model(*self._model)

    def run(self, decided: Decided) -> Restored:
        """See the class."""
        if decided.failure is not None or decided.decision is None:
            raise decided.failure or ItemFailure("ModelFailed", "the model gave no decision")
        undecided = decided.undecided
        picture = undecided.picture or isolation.decode(
            undecided.source.encoded, self._max_pixels, allow_truncated=self._allow_truncated
        )
        model = open_model(*self._model)
        try:
            with stopped_after(limits.remaining()):
                pixels = model.apply(picture.pixels, decided.decision)
        except Exception as error:
            raise _failure("restore it", error) from error
        if pixels.shape != picture.pixels.shape or pixels.dtype != picture.pixels.dtype:
            raise ItemFailure("ModelFailed", f"the model gave {pixels.dtype} {pixels.shape}, not the input's shape")
        return Restored(undecided.source, picture, pixels, decided.decision)
