"""Tables beside the pictures: names and bytes depend on the rows alone, older shards go, counts add up."""

from __future__ import annotations

import io
import json
import pathlib
import random
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from transforms import sinks, storage
from transforms.items import ItemError, ItemFailure

ERRORS = [
    ItemError("b.jpg", "gs://a/b.jpg", "decode", "Truncated", "the file ends too early; fetch it again", False),
    ItemError("a.jpg", "gs://a/a.jpg", "read", "NotFound", "gs://a/a.jpg does not exist", False),
    ItemError("", "m.csv:7", "input", "NoImage", "line 7 names no picture", False),
    ItemError("港.jpg", "gs://a/港.jpg", "read", "ReadFailed", "Köln said „nein“", True),
    ItemError("c.jpg", "gs://a/c.jpg", "decode", "Truncated", "the file ends too early; fetch it again", False),
]

GOLDEN = (
    '{"error": "NoImage", "id": "", "message": "line 7 names no picture", "retryable": false, "stage": "input",'
    ' "uri": "m.csv:7"}\n'
    '{"error": "NotFound", "id": "a.jpg", "message": "gs://a/a.jpg does not exist", "retryable": false,'
    ' "stage": "read", "uri": "gs://a/a.jpg"}\n'
    '{"error": "Truncated", "id": "b.jpg", "message": "the file ends too early; fetch it again", "retryable": false,'
    ' "stage": "decode", "uri": "gs://a/b.jpg"}\n'
    '{"error": "Truncated", "id": "c.jpg", "message": "the file ends too early; fetch it again", "retryable": false,'
    ' "stage": "decode", "uri": "gs://a/c.jpg"}\n'
    '{"error": "ReadFailed", "id": "港.jpg", "message": "Köln said „nein“", "retryable": true, "stage": "read",'
    ' "uri": "gs://a/港.jpg"}\n'
)


def below(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_errors(folder: pathlib.Path, errors: list[ItemError], **options: Any) -> None:
    with BeamPipeline(runner="FnApiRunner", options=PipelineOptions(**options)) as pipeline:
        names = pipeline | beam.Create(errors) | sinks.WriteErrors(str(folder))
        expected = ["errors-00000-of-00001.jsonl"] if errors else []
        assert_that(names, equal_to([expected]))


class TestErrors:
    def test_golden(self, tmp_path: pathlib.Path) -> None:
        write_errors(tmp_path, ERRORS)
        assert below(tmp_path) == {"errors/errors-00000-of-00001.jsonl": GOLDEN.encode()}

    def test_order_and_replay_do_not_matter(self, tmp_path: pathlib.Path) -> None:
        shuffled = random.Random(3).sample(ERRORS, len(ERRORS))
        write_errors(tmp_path, shuffled, direct_runner_bundle_repeat=2)
        assert below(tmp_path) == {"errors/errors-00000-of-00001.jsonl": GOLDEN.encode()}

    def test_none_removes_those_of_an_earlier_run(self, tmp_path: pathlib.Path) -> None:
        folder = tmp_path / "box [1]"
        write_errors(folder, ERRORS)
        storage.write_bytes(f"{folder}/errors/notes.txt", b"mine")
        write_errors(folder, [])
        assert below(folder) == {"errors/notes.txt": b"mine"}

    def test_what_is_no_utf8_is_escaped(self, tmp_path: pathlib.Path) -> None:
        write_errors(tmp_path, [ItemError("a\udc80", "u", "read", "NotFound", "m")])
        [line] = below(tmp_path).values()
        line.decode("utf-8")

    def test_by_class(self) -> None:
        with BeamPipeline(runner="FnApiRunner") as pipeline:
            more = [ItemError(f"z{n}", "u", "decode", "Truncated", "m") for n in range(5)]
            found = pipeline | beam.Create([*ERRORS, *more]) | sinks.CountErrors()
            assert_that(
                found | beam.Map(lambda group: (group[0], group[1]["count"], [e["id"] for e in group[1]["examples"]])),
                equal_to(
                    [
                        ("input/NoImage", 1, ["m.csv:7"]),
                        ("read/NotFound", 1, ["a.jpg"]),
                        ("read/ReadFailed", 1, ["港.jpg"]),
                        ("decode/Truncated", 7, ["b.jpg", "c.jpg", "z0"]),
                    ]
                ),
            )

    @given(st.lists(st.integers(0, 6), max_size=12), st.integers(0, 12))
    def test_examples_do_not_depend_on_how_work_was_split(self, numbers: list[int], cut: int) -> None:
        combine = sinks._ErrorClass()

        def fold(part: list[int]) -> Any:
            accumulator = combine.create_accumulator()
            for number in part:
                accumulator = combine.add_input(accumulator, ItemError(f"i{number}", "u", "s", "e", "m"))
            return accumulator

        whole = combine.extract_output(fold(numbers))
        merged = combine.merge_accumulators([fold(numbers[cut:]), fold(numbers[:cut])])
        assert combine.extract_output(merged) == whole
        assert whole["count"] == len(numbers)
        assert [e["id"] for e in whole["examples"]] == [f"i{number}" for number in sorted(numbers)[:3]]


def as_lines(rows: list[tuple[str, int]], side: Any) -> bytes:
    return "".join(f"{name} {number} {side}\n" for name, number in rows).encode()


def first(row: tuple[str, int]) -> str:
    return row[0]


class TestWriteTable:
    def write(self, folder: pathlib.Path, rows: list[tuple[str, int]], **options: Any) -> None:
        with BeamPipeline(runner="FnApiRunner", options=PipelineOptions(**options)) as pipeline:
            side = pipeline | "side" >> beam.Create(["s"])
            table = sinks.WriteTable(str(folder), "rows", ".txt", as_lines, first, beam.pvalue.AsSingleton(side))
            _ = pipeline | "rows" >> beam.Create(rows) | table

    def test_many_shards_then_fewer(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [(f"r{number:02d}", number) for number in range(23)]
        monkeypatch.setattr(sinks, "_ROWS_A_SHARD", 5)
        self.write(tmp_path, rows)
        files = below(tmp_path)
        assert set(files) == {f"rows-{n:05d}-of-00005.txt" for n in range(5)}
        lines = [line for data in files.values() for line in data.decode().splitlines()]
        assert sorted(lines) == [f"r{number:02d} {number} s" for number in range(23)]
        assert all(data == b"".join(sorted(data.splitlines(keepends=True))) for data in files.values())

        self.write(tmp_path, rows[::-1], direct_runner_bundle_repeat=2)
        assert below(tmp_path) == files

        self.write(tmp_path, rows[:7])
        assert set(below(tmp_path)) == {"rows-00000-of-00002.txt", "rows-00001-of-00002.txt"}

    def test_a_full_disk_stops_the_run(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "out").write_text("a file where the folder should be")
        with pytest.raises(Exception, match="could not be written"):
            self.write(tmp_path / "out", [("a", 1)])


class TestParquet:
    SCHEMA = pa.schema([("id", pa.string()), ("psnr", pa.float64())])

    def test_rows(self) -> None:
        data = sinks.parquet_bytes([{"id": "a", "psnr": 30.5}, {"id": "b"}], self.SCHEMA)
        table = pq.read_table(io.BytesIO(data))
        assert table.schema.equals(self.SCHEMA)
        assert table.to_pylist() == [{"id": "a", "psnr": 30.5}, {"id": "b", "psnr": None}]
        assert data == sinks.parquet_bytes([{"id": "a", "psnr": 30.5}, {"id": "b"}], self.SCHEMA)

    def test_no_rows(self) -> None:
        assert pq.read_table(io.BytesIO(sinks.parquet_bytes([], self.SCHEMA))).schema.equals(self.SCHEMA)


class TestJson:
    def test_round_trip(self, tmp_path: pathlib.Path) -> None:
        body = {"b": [1, None, "港 🚢"], "a": {"x": 0.5}}
        sinks.write_json(f"{tmp_path}/s [1].json", body)
        assert sinks.read_json(f"{tmp_path}/s [1].json") == body
        text = (tmp_path / "s [1].json").read_text()
        assert "港 🚢" in text
        assert text.index('"a"') < text.index('"b"')
        assert text == json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_is_no_json_is_refused(self, tmp_path: pathlib.Path, value: float) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            sinks.write_json(f"{tmp_path}/s.json", {"x": value})
        assert below(tmp_path) == {}

    def test_versions(self) -> None:
        found = sinks.versions()
        assert {"unfade", "python", "apache-beam", "tensorflow", "pillow"} <= set(found)
        assert "unknown" not in found.values()

    def test_a_failure_names_the_file(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "f").write_text("")
        with pytest.raises(ItemFailure, match=f"{tmp_path}/f/s.json"):
            sinks.write_json(f"{tmp_path}/f/s.json", {})
