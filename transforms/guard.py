"""Per-item steps that may fail, or come to no end: the item becomes an error record, its neighbours go on.

Beam's own `with_exception_handling` is not used: it fails the whole batch around RunInference, and hands on the failing
element, pixels included.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.coders.observable import ObservableMixin
from apache_beam.runners.worker import statesampler

from transforms import limits, timing
from transforms.items import ItemError, ItemFailure

In = TypeVar("In")
Out = TypeVar("Out")

_log = logging.getLogger(__name__)


class Step(Generic[In, Out]):
    """One per-item step. Subclasses say what to do; they are pickled to the workers, so keep them small.

    Attributes:
      stage: Name of the step in error records.
    """

    stage = "unnamed"

    def setup(self) -> None:
        """Called once a worker, before the first item: load what is heavy here."""

    def run(self, item: In) -> Out:
        """Does the work. Raises `ItemFailure` for what was foreseen; anything else is recorded as `Unexpected`."""
        raise NotImplementedError

    def name(self, item: In) -> tuple[str, str]:
        """Id and URI of an item, for its error record. Items that are or hold a `Pair` need not override."""
        pair: Any = getattr(item, "pair", item)
        return pair.id, pair.uri


class Outcome(NamedTuple):
    """What a guarded step gives: results, and the errors of the items that failed."""

    results: pvalue.PCollection
    errors: pvalue.PCollection


def to_error(stage: str, id: str, uri: str, error: BaseException) -> ItemError:
    """The record of an exception."""
    if isinstance(error, ItemFailure):
        return ItemError(id, uri, stage, error.error, error.message, error.retryable)
    if isinstance(error, MemoryError):
        return ItemError(
            id, uri, stage, "OutOfMemory", "not enough memory for this item; fewer workers leave more", True
        )
    if isinstance(error, TimeoutError):
        message = f"not done: {error}; raise --max_item_seconds, or look at the storage and the load of the machine"
        return ItemError(id, uri, stage, "TimedOut", message, True)
    text = (str(error).strip().splitlines() or [""])[0][:300]
    return ItemError(id, uri, stage, "Unexpected", f"{type(error).__name__}: {text} (this is a fault of unfade's)")


class Heavy(ObservableMixin):
    """Elements that hold files or pixels. Beam measures samples of all elements by pickling them: of such, it does not.

    (It leaves out what says that it is observed while it is read; nothing here is.)
    """

    def register_observer(self, callback: Callable[..., Any]) -> None:
        """Does nothing."""


class _StepFn(beam.DoFn):
    def __init__(self, step: Step[Any, Any], seconds: float) -> None:
        self._step, self._seconds = step, seconds

    def setup(self) -> None:
        self._step.setup()

    def process(self, item: Any) -> Iterator[Any]:
        try:
            with timing.timed(self._step.stage):
                result = limits.within(self._seconds, self._counted(item))
        except Exception as error:
            id, uri = self._step.name(item)
            if not isinstance(error, ItemFailure):
                _log.debug("%s failed in %s", id, self._step.stage, exc_info=True)
            yield pvalue.TaggedOutput("errors", to_error(self._step.stage, id, uri, error))
        else:
            yield result

    def _counted(self, item: Any) -> Callable[[], Any]:
        tracker = statesampler.get_current_tracker()

        def run() -> Any:
            statesampler.set_current_tracker(tracker)  # or what the step counts (Beam's metrics) is lost in its thread
            return self._step.run(item)

        return run


class Guarded(beam.PTransform):
    """Runs a step on every item of a PCollection.

    Args:
      step: What to do.
      seconds: How long it may take over one item.
    """

    def __init__(self, step: Step[Any, Any], seconds: float = limits.ITEM_SECONDS) -> None:
        super().__init__()
        self._step, self._seconds = step, seconds

    def expand(self, items: pvalue.PCollection) -> Outcome:
        """PCollection[In] -> (PCollection[Out], PCollection[ItemError])."""
        done = items | "Run" >> beam.ParDo(_StepFn(self._step, self._seconds)).with_outputs("errors", main="results")
        return Outcome(done.results, done.errors)


def in_worker(function: Callable[..., Out]) -> Callable[..., Out]:
    """Turns an `ItemFailure` outside any item (a shard that cannot be written) into an error that stops the run."""

    def wrapped(*args: Any, **kwargs: Any) -> Out:
        try:
            return function(*args, **kwargs)
        except ItemFailure as failure:
            raise RuntimeError(failure.message) from failure

    return wrapped
