"""Decoding in a process of its own, and the time limit: what crashes or hangs costs one item, neighbours go on."""

from __future__ import annotations

import io
import os
import pathlib
import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import archives
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image
from pillow_files import ICC, exif_block, file_of

from transforms import captions, codecs, isolation, limits
from transforms.guard import Guarded, Step
from transforms.items import ItemFailure, Pair

PICTURE = Image.fromarray(archives.photograph(1))
FILES = {
    "jpeg": file_of(PICTURE, "JPEG", icc_profile=ICC, exif=exif_block(orientation=6)),
    "cmyk": file_of(PICTURE.convert("CMYK"), "JPEG"),
    "alpha": file_of(PICTURE.convert("RGBA"), "PNG"),
    "palette": file_of(PICTURE.quantize(8), "PNG"),
    "tiff": file_of(PICTURE.convert("L"), "TIFF", description="A harbour"),
    "deep": file_of(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "TIFF"),
}


def test_the_same_as_in_this_process() -> None:
    for name, encoded in FILES.items():
        there, here = isolation.decode(encoded, 10**6), codecs.decode(encoded, 10**6)
        for field, value in vars(here).items():
            same = np.array_equal if isinstance(value, np.ndarray) else lambda a, b: a == b
            assert same(getattr(there, field), value), (name, field)
        assert codecs.encode(there, there.pixels) == codecs.encode(here, here.pixels)
        assert isolation.read_header(encoded, 10**6) == codecs.read_header(encoded)
        assert isolation.embedded_caption(encoded) == captions.embedded_caption(encoded)


def test_failures_are_the_same() -> None:
    for encoded, most in ((b"", 100), (b"<html>", 100), (FILES["jpeg"], 100), (FILES["jpeg"][:900], 10**6)):
        with pytest.raises(ItemFailure) as here:
            codecs.decode(encoded, most)
        with pytest.raises(ItemFailure) as there:
            isolation.decode(encoded, most)
        assert there.value.args == here.value.args


@pytest.fixture
def stopped() -> Callable[[], int]:
    """Makes the next decoder one that stands still, and gives its process id."""

    def stop() -> int:
        isolation.decode(FILES["tiff"])
        pid = isolation._idle[-1]._process.pid
        os.kill(pid, signal.SIGSTOP)
        return pid

    return stop


@pytest.mark.parametrize(
    ("number", "error", "retryable"),
    [
        (signal.SIGSEGV, "DecoderCrashed", False),
        (signal.SIGABRT, "DecoderCrashed", False),
        (signal.SIGKILL, "OutOfMemory", True),
    ],
)
def test_a_decoder_that_dies(stopped: Callable[[], int], number: int, error: str, retryable: bool) -> None:
    pid = stopped()

    def kill() -> None:
        time.sleep(0.2)
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)

    threading.Thread(target=kill).start()
    with pytest.raises(ItemFailure) as failure:
        isolation.decode(FILES["jpeg"])
    assert (failure.value.error, failure.value.retryable) == (error, retryable)
    assert isolation.decode(FILES["jpeg"]).format == "JPEG"  # a new one


def test_a_decoder_that_died_between_two_pictures_costs_none() -> None:
    isolation.decode(FILES["jpeg"])
    process = isolation._idle[-1]._process
    process.kill()
    process.wait()
    assert isolation.decode(FILES["jpeg"]).format == "JPEG"


def test_a_decoder_that_stands_still(stopped: Callable[[], int]) -> None:
    pid = stopped()
    began = time.monotonic()
    with pytest.raises(ItemFailure, match=r"within 1 s; raise --max_item_seconds") as failure:
        limits.within(1, lambda: isolation.decode(FILES["jpeg"]))
    assert failure.value.error == "TimedOut"
    assert time.monotonic() - began < 4
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_c_code_is_ended_by_the_kernel() -> None:
    """The process ends itself, so that it does not outlive a worker that was killed."""
    large = file_of(Image.fromarray(np.zeros((3000, 3000, 3), np.uint8)), "PNG")
    with pytest.raises(ItemFailure) as failure:
        limits.within(0.05, lambda: isolation.decode(large))
    assert failure.value.error == "TimedOut"


def test_the_process_is_light() -> None:
    isolation.decode(FILES["jpeg"])
    libraries = pathlib.Path(f"/proc/{isolation._idle[-1]._process.pid}/maps").read_text()
    assert "imagecodecs" in libraries
    assert "apache_beam" not in libraries
    assert "tensorflow" not in libraries


def test_an_answer_makes_no_strange_objects() -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    for thing in (Bad(), io.BytesIO, eval):
        with pytest.raises(pickle.UnpicklingError, match="has no place"):
            isolation._Unpickler(io.BytesIO(pickle.dumps((thing, None)))).load()


def test_two_threads_have_a_decoder_each() -> None:
    done: list[str] = []
    threads = [threading.Thread(target=lambda: done.append(isolation.decode(FILES["jpeg"]).format)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["JPEG"] * 3


class Waits(Step[Pair, str]):
    stage = "wait"

    def __init__(self, pipe: str) -> None:
        self._pipe = pipe

    def run(self, pair: Pair) -> str:
        if pair.id == "pipe":
            with open(self._pipe, "rb") as pipe:  # nobody ever writes
                return str(pipe.read())
        if pair.id == "loop":
            while True:
                pass
        return pair.id


def test_a_step_without_an_end_is_a_record_and_neighbours_go_on(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "_GRACE", 0.1)
    os.mkfifo(tmp_path / "pipe")
    threads = threading.active_count()
    items = [Pair(id, f"{id}.jpg") for id in ("a", "pipe", "b", "loop", "c")]
    with BeamPipeline(runner="FnApiRunner") as pipeline:
        done = pipeline | beam.Create(items, reshuffle=False) | Guarded(Waits(str(tmp_path / "pipe")), 0.3)
        assert_that(done.results, equal_to(["a", "b", "c"]), label="results")
        said = done.errors | beam.Map(lambda error: (error.id, error.stage, error.error, error.retryable))
        assert_that(said, equal_to([(id, "wait", "TimedOut", True) for id in ("pipe", "loop")]), label="errors")
        told = done.errors | "Told" >> beam.Filter(lambda error: "raise --max_item_seconds" not in error.message)
        assert_that(told, equal_to([]), label="mend")
    os.close(os.open(tmp_path / "pipe", os.O_WRONLY))  # lets the reader go
    time.sleep(0.3)
    assert threading.active_count() <= threads + 1


def test_no_limit_outside() -> None:
    assert limits.remaining() is None
    assert 0 < (limits.within(60, limits.remaining) or 0) <= 60
