"""Steps that may fail: the item becomes a record, its neighbours are unharmed."""

from __future__ import annotations

import dataclasses
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to

from transforms.guard import Guarded, Step, in_worker, to_error
from transforms.items import ItemError, ItemFailure, Pair


class Shout(Step[Pair, str]):
    stage = "shout"

    def run(self, pair: Pair) -> str:
        caption = pair.caption or ""
        if caption == "foreseen":
            raise ItemFailure("TooQuiet", "it says nothing; speak up", retryable=True)
        if caption == "fault":
            raise KeyError("who\nwrote this")
        if caption == "memory":
            raise MemoryError
        if caption == "empty":
            raise ValueError
        return caption.upper()


@dataclasses.dataclass(frozen=True)
class Holder:
    pair: Pair


class Hold(Step[Holder, str]):
    stage = "hold"

    def run(self, holder: Holder) -> str:
        raise ItemFailure("Heavy", "too heavy")


class NeedsSetup(Step[Pair, str]):
    stage = "setup"

    def setup(self) -> None:
        self.suffix = "!"

    def run(self, pair: Pair) -> str:
        return pair.id + self.suffix


def pair(caption: str) -> Pair:
    return Pair(f"{caption}.jpg", f"gs://b/{caption}.jpg", caption)


ERRORS = [
    ItemError("foreseen.jpg", "gs://b/foreseen.jpg", "shout", "TooQuiet", "it says nothing; speak up", True),
    ItemError(
        "fault.jpg",
        "gs://b/fault.jpg",
        "shout",
        "Unexpected",
        r"KeyError: 'who\nwrote this' (this is a fault of unfade's)",
        False,
    ),
    ItemError(
        "memory.jpg",
        "gs://b/memory.jpg",
        "shout",
        "OutOfMemory",
        "not enough memory for this item; fewer workers leave more",
        True,
    ),
    ItemError(
        "empty.jpg", "gs://b/empty.jpg", "shout", "Unexpected", "ValueError:  (this is a fault of unfade's)", False
    ),
]


@pytest.mark.parametrize("repeat", [0, 2])
def test_every_failure_is_a_record_and_neighbours_go_on(repeat: int) -> None:
    captions = ["one", "foreseen", "two", "fault", "memory", "three", "empty", "four"]
    options = PipelineOptions(direct_runner_bundle_repeat=repeat)
    with BeamPipeline(runner="FnApiRunner", options=options) as pipeline:
        done = pipeline | beam.Create([pair(c) for c in captions], reshuffle=False) | Guarded(Shout())
        assert_that(done.results, equal_to(["ONE", "TWO", "THREE", "FOUR"]), label="results")
        assert_that(done.errors, equal_to(ERRORS), label="errors")


def test_all_fail_and_none_fail() -> None:
    with BeamPipeline(runner="FnApiRunner") as pipeline:
        bad = pipeline | "bad" >> beam.Create([pair("fault")] * 3) | "b" >> Guarded(Shout())
        good = pipeline | "good" >> beam.Create([pair("x")] * 3) | "g" >> Guarded(Shout())
        none = pipeline | "none" >> beam.Create([]) | "n" >> Guarded(Shout())
        assert_that(bad.results, equal_to([]), label="br")
        assert_that(bad.errors | beam.Map(lambda e: e.error), equal_to(["Unexpected"] * 3), label="be")
        assert_that(good.results, equal_to(["X"] * 3), label="gr")
        assert_that(good.errors, equal_to([]), label="ge")
        assert_that((none.results, none.errors) | beam.Flatten(), equal_to([]), label="n0")


def test_items_that_hold_a_pair() -> None:
    with BeamPipeline(runner="FnApiRunner") as pipeline:
        done = pipeline | beam.Create([Holder(pair("a"))]) | Guarded(Hold())
        assert_that(done.errors, equal_to([ItemError("a.jpg", "gs://b/a.jpg", "hold", "Heavy", "too heavy")]))


def test_setup_runs_before_the_first_item() -> None:
    with BeamPipeline(runner="FnApiRunner") as pipeline:
        done = pipeline | beam.Create([pair("a")]) | Guarded(NeedsSetup())
        assert_that(done.results, equal_to(["a.jpg!"]))


def test_a_long_message_is_cut_and_one_line() -> None:
    error = to_error("s", "i", "u", RuntimeError("first " + "x" * 5000 + "\nsecond"))
    assert len(error.message) < 400
    assert "\n" not in error.message
    assert error.message.startswith("RuntimeError: first")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_no_failure_of_an_item(error: type[BaseException]) -> None:
    class Stops(Step[Any, Any]):
        def run(self, item: Any) -> Any:
            raise error

    from transforms.guard import _StepFn

    with pytest.raises(error):
        list(_StepFn(Stops(), 60).process(pair("a")))


def test_outside_an_item_a_failure_stops_the_run() -> None:
    def write() -> None:
        raise ItemFailure("WriteFailed", "the disk is full", retryable=True)

    with pytest.raises(RuntimeError, match="the disk is full"):
        in_worker(write)()
    assert in_worker(lambda value: value + 1)(1) == 2
