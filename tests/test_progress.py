"""Progress of a local run: bytes in a file, a line now and then where no terminal is."""

from __future__ import annotations

import io
import json
import pathlib
import time
from collections.abc import Callable

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to

from transforms import progress
from transforms.progress import DONE, FAILED, FOUND, Now, Progress, Tick, describe, describe_json, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)


def test_tick_counts_every_item_and_hands_it_on(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "progress")
    options = PipelineOptions(direct_num_workers=3, direct_running_mode="multi_threading")
    with BeamPipeline(runner="FnApiRunner", options=options) as pipeline:
        items = pipeline | beam.Create(range(500)) | "found" >> Tick(path, FOUND)
        done = items | beam.Filter(lambda n: n % 5) | "done" >> Tick(path, DONE)
        failed = items | "bad" >> beam.Filter(lambda n: n % 5 == 0) | "failed" >> Tick(path, FAILED)
        assert_that(done, equal_to([n for n in range(500) if n % 5]), label="d")
        assert_that(failed, equal_to(list(range(0, 500, 5))), label="f")
    marks = (tmp_path / "progress").read_bytes()
    assert (marks.count(FOUND), marks.count(DONE), marks.count(FAILED)) == (500, 400, 100)


def test_without_a_file_nothing_is_marked(tmp_path: pathlib.Path) -> None:
    with BeamPipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create([1, 2]) | Tick(None, DONE), equal_to([1, 2]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (("starting", 10, 0, 0, 0.0, 1, 5.0), "starting: 0 of 10 pictures, 0 failed, 1 worker"),
        (
            ("restoring", 1000, 90, 10, 2.0, 2, 50.0),
            "restoring: 100 of 1000 pictures, 2.0 a second, 8 min left, 10 failed, 2 workers",
        ),
        (
            ("writing the tables", 100, 100, 0, 2.0, 2, 50.0),
            "writing the tables: 100 of 100 pictures, 2.0 a second, 0 failed, 2 workers",
        ),
    ],
)
def test_describe(now: tuple[str, int, int, int, float, int, float], line: str) -> None:
    assert describe(Now(*now)) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (5990, "1 h 40 min"),
        (6060, "1 h 41 min"),
        (7200, "2 h 0 min"),
        (190_000, "2 days 5 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_rate_is_of_late_and_leaves_start_up_out(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    path = tmp_path / "progress"
    shown = Progress(str(path), "restoring", workers=3)

    def after(seconds: float, marks: bytes) -> Now:
        clock[0] += seconds
        with path.open("ab") as file:
            file.write(marks)
        return shown._now()

    assert after(10, b"") == Now("reading the input", 0, 0, 0, 0.0, 3, 10.0)
    assert after(10, FOUND * 1000).stage == "starting"
    now = after(10, DONE * 18 + FAILED * 2)
    assert (now.stage, now.done, now.failed, now.rate, now.seconds_left) == ("restoring", 18, 2, 2.0, 490.0)
    for _ in range(100):
        now = after(1, DONE * 5)
    assert now.rate == pytest.approx(5.0, rel=0.02)  # not (20 + 500) / 110
    assert after(1, DONE * 480).stage == "writing the tables"


def test_lines_where_no_terminal_is(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.02)
    path, stream = tmp_path / "progress", io.StringIO()
    with Progress(str(path), "preparing", stream, workers=2):
        path.write_bytes(FOUND * 4 + DONE)
        wait_for(lambda: "1 of 4 pictures" in stream.getvalue())
        path.write_bytes(FOUND * 4 + DONE * 2 + FAILED)
        wait_for(lambda: "3 of 4 pictures" in stream.getvalue())
        time.sleep(0.2)
    lines = stream.getvalue().splitlines()
    assert all(line.startswith("preparing: ") for line in lines)
    assert lines[-1].endswith(", 1 failed, 2 workers")
    assert len(lines) <= 3  # only where something has changed
    assert "\r" not in stream.getvalue()


def test_json_lines(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.02)
    path, stream = tmp_path / "progress", Terminal()
    path.write_bytes(FOUND * 4 + DONE + FAILED)
    with Progress(str(path), "restoring", stream, "json"):
        wait_for(lambda: "\n" in stream.getvalue())
    line = json.loads(stream.getvalue().splitlines()[0])
    assert (line["stage"], line["found"], line["done"], line["failed"]) == ("restoring", 4, 1, 1)
    assert line["workers"] == 1
    assert json.loads(stream.getvalue().splitlines()[-1])["done"] == 1  # one at the end, too
    assert json.loads(describe_json(Now("restoring", 100, 8, 2, 0.5, 2, 20.0)))["seconds_left"] == 180
    assert json.loads(describe_json(Now("starting", 0, 0, 0, 0.0, 2, 0.0)))["seconds_left"] is None


def test_quiet(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.02)
    path, stream = tmp_path / "progress", Terminal()
    path.write_bytes(FOUND * 4 + DONE)
    with Progress(str(path), "restoring", stream, "quiet"):
        time.sleep(0.2)
    assert stream.getvalue() == ""


def test_bar_on_a_terminal(tmp_path: pathlib.Path) -> None:
    path, stream = tmp_path / "progress", Terminal()
    path.write_bytes(FOUND * 4 + DONE * 3 + FAILED)
    with Progress(str(path), "restoring", stream):
        wait_for(lambda: "4/4" in stream.getvalue())
    assert "writing the tables: 100%" in stream.getvalue()
    assert "1 failed, 1 worker [" in stream.getvalue()


def test_a_run_that_fails_stops_the_watching(tmp_path: pathlib.Path) -> None:
    stream = io.StringIO()
    start = time.monotonic()
    with pytest.raises(RuntimeError), Progress(str(tmp_path / "never"), "restoring", stream):
        raise RuntimeError
    assert time.monotonic() - start < 5
    assert stream.getvalue() == "failed: 0 of 0 pictures, 0 failed, 1 worker\n"
