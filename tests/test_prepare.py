"""`unfade prepare` in process: what it leaves, that it leaves it again, and that nothing bad stops it."""

from __future__ import annotations

import csv
import json
import pathlib
import shutil
import tempfile
from typing import Any

import archives
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from conftest import SAMPLES

from models.contract import STATISTICS
from models.export import TransformGraph
from models.words import UNKNOWN, vocabulary
from pipelines import prepare
from transforms import features, records

pytestmark = pytest.mark.slow


def run(manifest: str, output: pathlib.Path | str, *more: str) -> int:
    return prepare.main(["--input", manifest, "--output", str(output), "--direct_num_workers", "1", *more])


def below(folder: pathlib.Path | str) -> dict[str, bytes]:
    root = pathlib.Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def shards(folder: pathlib.Path | str) -> dict[str, bytes]:
    return {name: data for name, data in below(folder).items() if name.endswith(".tfrecord")}


def examples(folder: str) -> dict[str, Any]:
    """Features of every record by id, through the schema that is written beside them."""
    found = {}
    for serialized in tf.data.TFRecordDataset(records.shards_in(folder)):
        parsed = tf.io.parse_single_example(serialized, features.RECORD_FEATURES)
        found[parsed["id"].numpy().decode()] = parsed
    return found


def summary(folder: pathlib.Path | str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((pathlib.Path(folder) / "summary.json").read_text())
    return body


def errors(folder: pathlib.Path | str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted((pathlib.Path(folder) / "errors").glob("errors-*.jsonl"))
        for line in path.read_text().splitlines()
    ]


class TestSamples:
    def test_output_tree(self, prepared: str) -> None:
        names = [f"records-{index:05d}-of-00008.tfrecord" for index in range(8)]
        tree = set(below(prepared))
        written = {int(name[8:13]) for name in tree if name.endswith(".tfrecord")}
        assert tree - set(names) == {
            "_SUCCESS",
            "metadata/schema.pbtxt",
            "schema.pbtxt",
            "summary.json",
            "transform_fn/assets/vocabulary.txt",
            "transform_fn/fingerprint.pb",
            "transform_fn/saved_model.pb",
            "transform_fn/variables/variables.data-00000-of-00001",
            "transform_fn/variables/variables.index",
            "transform_fn/.tft_metadata/schema.pbtxt",
            "transformed_metadata/schema.pbtxt",
        }
        with (SAMPLES / "pairs.csv").open(encoding="utf-8") as file:
            ids = [row["id"] for row in csv.DictReader(file)]
        assert written == {records.shard_of(id, 8) for id in ids}
        assert json.loads(below(prepared)["_SUCCESS"]) == {
            "records": 16,
            "shards": [name for index, name in enumerate(names) if index in written],
        }

    def test_tensorflow_transform_reads_it(self, prepared: str) -> None:
        output = tft.TFTransformOutput(prepared)
        assert set(output.transformed_feature_spec()) == {"caption/ids", "caption/weights", "image/statistics_z"}

    def test_summary(self, prepared: str) -> None:
        body = summary(prepared)
        assert body["command"] == "prepare"
        assert body["counts"] == {"input": 16, "prepared": 16, "skipped": 0, "failed": 0}
        assert body["errors"] == {}
        assert body["options"]["input"].endswith("samples/pairs.csv")
        assert body["versions"]["apache-beam"].startswith("2.")

    def test_records_hold_what_the_manifest_says(self, prepared: str) -> None:
        with (SAMPLES / "pairs.csv").open(encoding="utf-8") as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
        found = examples(prepared)
        assert set(found) == set(rows)
        for id, row in rows.items():
            example = found[id]
            encoded = (SAMPLES / row["image"]).read_bytes()
            assert example["image/encoded"].numpy() == encoded
            assert example["image/sha256"].numpy().decode() == records.sha256(encoded)
            assert example["uri"].numpy().decode() == str(SAMPLES / row["image"])
            assert example["caption/text"].numpy().decode() == row["caption"]
            target = tf.sparse.to_dense(example["target/encoded"]).numpy().tolist()
            assert target == ([(SAMPLES / row["target"]).read_bytes()] if row["target"] else [])
            extra = json.loads(example["extra"].numpy())
            assert (extra["licence"], extra["credit"]) == (row["licence"], row["credit"])

    def test_each_record_lies_in_the_shard_of_its_id(self, prepared: str) -> None:
        for uri in records.shards_in(prepared):
            ids = [records.from_example(record.numpy()).pair.id for record in tf.data.TFRecordDataset(uri)]
            assert ids == sorted(ids)
            assert ids
            assert {records.shard_name(records.shard_of(id, 8), 8) for id in ids} == {pathlib.Path(uri).name}


def check_features(folder: str, captions: dict[str, str]) -> None:
    """Caption features of the records are what the exported graph gives for the same captions."""
    found = examples(folder)
    assert {id: example["caption/text"].numpy().decode() for id, example in found.items()} == captions
    with tempfile.TemporaryDirectory() as plain:  # TensorFlow takes `[` in a folder's name for a pattern
        shutil.copytree(f"{folder}/transform_fn", f"{plain}/transform_fn")
        graph = TransformGraph(f"{plain}/transform_fn")
    order = sorted(captions)
    ids, weights = (t.numpy() for t in graph.captions(tf.constant([captions[id].encode() for id in order])))
    seen = 0
    for row, id in enumerate(order):
        own_ids = tf.sparse.to_dense(found[id]["caption/ids"]).numpy()
        own_weights = tf.sparse.to_dense(found[id]["caption/weights"]).numpy()
        length = len(own_ids)
        np.testing.assert_array_equal(ids[row, :length], own_ids)
        np.testing.assert_allclose(weights[row, :length], own_weights, rtol=1e-6)
        assert not weights[row, length:].any()
        assert (length > 0) == any(character.isalnum() for character in captions[id])
        seen += length
    assert seen or not any(captions.values())


class TestCaptionFeatures:
    def test_samples(self, prepared: str) -> None:
        with (SAMPLES / "pairs.csv").open(encoding="utf-8") as file:
            check_features(prepared, {row["id"]: row["caption"] for row in csv.DictReader(file)})

    def test_any_script(self, archive: archives.Archive, archive_records: str) -> None:
        captions = {
            "faded": "The harbour, hand coloured",
            "grey.jpg": "The old harbour",
            "dot.png": "A dot",
            "line.png": "A line of the harbour",
            "box 1/scan [1]": archives.NAGASAKI,
            "again": "embedded harbour",
            "box 1/deep.tif": "Depth 100% of it",
            "bitonal.tif": "Map of the harbour",
        }
        check_features(archive_records, {id: captions.get(id, "") for id in archive.good})

    def test_one_id_a_word_in_order(self, archive_records: str) -> None:
        found = examples(archive_records)

        def ids(id: str) -> list[int]:
            return tf.sparse.to_dense(found[id]["caption/ids"]).numpy().tolist()

        def expected(*words: str) -> list[int]:
            return [vocabulary().index(word) if word in vocabulary() else UNKNOWN for word in words]

        assert ids("grey.jpg") == expected("the", "old", "harbour")
        assert ids("line.png") == expected("a", "line", "of", "the", "harbour")
        assert ids("faded") == expected("the", "harbour", "hand", "coloured")
        assert ids("box 1/scan [1]")[:4] == [UNKNOWN, UNKNOWN, UNKNOWN, *expected("harbour")]

    def test_rare_words_weigh_more(self, archive_records: str) -> None:
        weights = tf.sparse.to_dense(examples(archive_records)["grey.jpg"]["caption/weights"]).numpy()
        the, old, harbour = weights
        assert old > the > 1
        assert old > harbour > 1


class TestHostileArchive:
    def test_bad_items_are_errors_and_the_others_are_prepared(
        self, archive: archives.Archive, archive_records: str
    ) -> None:
        found = examples(archive_records)
        assert set(found) == set(archive.good)
        recorded = errors(archive_records)
        assert sorted((e["id"], e["stage"], e["error"]) for e in recorded) == sorted(archive.bad)
        assert all(set(e) == {"id", "uri", "stage", "error", "message", "retryable"} for e in recorded)
        assert not any(e["retryable"] for e in recorded)
        counts = summary(archive_records)["counts"]
        assert counts == {"input": 22, "prepared": len(archive.good), "skipped": 0, "failed": len(archive.bad)}
        assert counts["input"] == counts["prepared"] + counts["skipped"] + counts["failed"]
        classes = summary(archive_records)["errors"]
        assert {name: group["count"] for name, group in classes.items()} == {
            f"{stage}/{error}": 1 for _, stage, error in archive.bad
        }
        assert json.loads(below(archive_records)["_SUCCESS"])["records"] == len(archive.good)

    def test_formats_and_sizes(self, archive_records: str) -> None:
        found = {
            id: (
                example["image/format"].numpy().decode(),
                int(example["image/width"]),
                int(example["image/height"]),
            )
            for id, example in examples(archive_records).items()
        }
        assert found == {
            "faded": ("JPEG", 120, 90),
            "grey.jpg": ("JPEG", 120, 90),
            "cmyk.jpg": ("JPEG", 120, 90),
            "dot.png": ("PNG", 1, 1),
            "line.png": ("PNG", 3000, 1),
            "box 1/scan [1]": ("TIFF", 120, 90),
            "again": ("TIFF", 120, 90),
            "box 1/deep.tif": ("TIFF", 70, 60),
            "bitonal.tif": ("TIFF", 120, 90),
            "alpha.png": ("PNG", 120, 90),
            "港口 🚢": ("WEBP", 120, 90),
            "old.gif": ("GIF", 120, 90),
        }

    def test_palette_of_related_pictures(self, archive_records: str) -> None:
        for id, example in examples(archive_records).items():
            palette = tf.sparse.to_dense(example["reference/palette"]).numpy()
            if id == "box 1/scan [1]":
                assert palette.shape == (64,)
                assert palette.sum() == pytest.approx(1, abs=1e-5)
            else:
                assert not palette.any()

    def test_bundles_replayed_give_the_same_bytes_and_older_shards_go(
        self, archive: archives.Archive, archive_records: str, tmp_path: pathlib.Path
    ) -> None:
        folder = tmp_path / "other [name]"
        folder.mkdir()
        (folder / "records-00000-of-00009.tfrecord").write_bytes(b"of an earlier run with more shards")
        (folder / "errors").mkdir()
        (folder / "errors" / "errors-00001-of-00002.jsonl").write_bytes(b"of an earlier run with more errors")
        (folder / "notes.txt").write_text("not ours")
        assert run(archive.manifest, folder, "--num_shards", "3", "--direct_runner_bundle_repeat", "2") == 3
        assert shards(folder) == shards(archive_records)
        assert len(shards(folder)) > 1
        before, after = below(archive_records), below(folder)
        assert set(after) == {*before, "notes.txt"}
        for name in ("errors/errors-00000-of-00001.jsonl", "_SUCCESS", "transform_fn/assets/vocabulary.txt"):
            assert after[name] == before[name]

    def test_nothing_but_bad_items(self, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "m.csv").write_text("image,caption\nno.jpg,a\nbad.jpg,b\n")
        (tmp_path / "bad.jpg").write_bytes(b"no picture")
        assert run(f"{tmp_path}/m.csv", tmp_path / "out") == 3
        captured = capsys.readouterr()
        assert "2 of 2 items failed, over --max_error_fraction 0.05" in captured.err
        assert "no.jpg does not exist" in captured.out
        assert summary(tmp_path / "out")["counts"] == {"input": 2, "prepared": 0, "skipped": 0, "failed": 2}
        assert {e["error"] for e in errors(tmp_path / "out")} == {"NotFound", "NotAnImage"}

    def test_pictures_without_any_caption(self, tmp_path: pathlib.Path, archive: archives.Archive) -> None:
        """No caption is normal: the graph is made of what there is, and gives nothing for words."""
        (tmp_path / "in").mkdir()
        for number in range(2):
            (tmp_path / "in" / f"{number}.webp").write_bytes((archive.folder / "print.webp").read_bytes())
        assert run(f"{tmp_path}/in", tmp_path / "out", "--num_shards", "1") == 0
        check_features(f"{tmp_path}/out", {"0.webp": "", "1.webp": ""})
        graph = TransformGraph(f"{tmp_path}/out/transform_fn")
        _, weights = graph.captions(tf.constant(["a harbour", ""]))
        assert np.isfinite(weights.numpy()).all()
        assert np.isfinite(graph.statistics(tf.zeros([1, STATISTICS])).numpy()).all()


def test_an_input_that_cannot_be_leaves_finished_records_alone(archive_records: str, tmp_path: pathlib.Path) -> None:
    before = below(archive_records)
    with pytest.raises(prepare.UsageError, match="does not exist"):
        run(f"{tmp_path}/nowhere.csv", archive_records)
    assert below(archive_records) == before
