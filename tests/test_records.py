"""Prepared records: the contract of `tf.train.Example`, shard names, and the list of shards that holds."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import features, records, storage
from transforms.items import ItemFailure, Pair, UsageError

CAPTION = "Der Hafen 港口 im Winter 🚢"


def item(**changes: Any) -> records.Item:
    pair = Pair(
        "box 1/a.jpg", "gs://archive/box 1/a.jpg", CAPTION, ("r.jpg",), "t.jpg", {"year": "1952", "Archiv": "Köln"}
    )
    palette = np.linspace(0, 1, 64, dtype=np.float32)
    whole = records.Item(pair, CAPTION, records.sha256(b"jpeg"), "JPEG", 480, 640, np.zeros(15, np.float32), palette)
    return dataclasses.replace(whole, **changes)


def example(one: records.Item | None = None, target: bytes | None = b"target") -> bytes:
    return records.to_example(one or item(), b"jpeg", [5, 2, 8192], [0.5, 1.25, 3.0], target)


class TestExample:
    def test_golden_contract(self) -> None:
        """Names and kinds of the features, as section 6 of the format promises them to every reader."""
        found = tf.train.Example.FromString(example()).features.feature
        assert {name: (feature.WhichOneof("kind"), len(_values(feature))) for name, feature in found.items()} == {
            "id": ("bytes_list", 1),
            "uri": ("bytes_list", 1),
            "image/encoded": ("bytes_list", 1),
            "image/format": ("bytes_list", 1),
            "image/height": ("int64_list", 1),
            "image/width": ("int64_list", 1),
            "image/sha256": ("bytes_list", 1),
            "caption/text": ("bytes_list", 1),
            "caption/ids": ("int64_list", 3),
            "caption/weights": ("float_list", 3),
            "reference/palette": ("float_list", 64),
            "target/encoded": ("bytes_list", 1),
            "extra": ("bytes_list", 1),
        }
        values = {name: list(_values(feature)) for name, feature in found.items()}
        assert values["id"] == [b"box 1/a.jpg"]
        assert values["uri"] == [b"gs://archive/box 1/a.jpg"]
        assert values["image/encoded"] == [b"jpeg"]
        assert (values["image/height"], values["image/width"]) == ([480], [640])
        assert values["image/format"] == [b"JPEG"]
        assert values["image/sha256"] == [records.sha256(b"jpeg").encode()]
        assert values["caption/text"] == [CAPTION.encode()]
        assert (values["caption/ids"], values["caption/weights"]) == ([5, 2, 8192], [0.5, 1.25, 3.0])
        assert values["target/encoded"] == [b"target"]
        assert values["extra"] == ['{"Archiv": "Köln", "year": "1952"}'.encode()]

    def test_same_input_same_bytes(self) -> None:
        turned = item(pair=dataclasses.replace(item().pair, extra={"Archiv": "Köln", "year": "1952"}))
        assert example(turned) == example()

    @pytest.mark.parametrize("empty", [False, True])
    def test_the_schema_reads_every_record(self, empty: bool) -> None:
        bare = item(pair=Pair("a", "u"), caption="", palette=np.zeros(0, np.float32))
        serialized = records.to_example(bare, b"jpeg", [], [], None) if empty else example()
        parsed = tf.io.parse_single_example(serialized, features.RECORD_FEATURES)
        assert set(parsed) == set(tf.train.Example.FromString(serialized).features.feature)
        assert parsed["image/encoded"].numpy() == b"jpeg"

    def test_the_schema_is_the_contract(self) -> None:
        declared = {feature.name: feature.type for feature in features.schema().feature}
        kinds = {"bytes_list": 1, "int64_list": 2, "float_list": 3}
        found = tf.train.Example.FromString(example()).features.feature
        assert declared == {name: kinds[feature.WhichOneof("kind")] for name, feature in found.items()}

    def test_round_trip(self) -> None:
        source = records.from_example(example())
        assert source.pair == Pair("box 1/a.jpg", "gs://archive/box 1/a.jpg", extra={"year": "1952", "Archiv": "Köln"})
        assert (source.encoded, source.caption, source.target) == (b"jpeg", CAPTION, b"target")
        np.testing.assert_array_equal(source.palette, item().palette)
        assert source.palette.dtype == np.float32

    def test_round_trip_of_little(self) -> None:
        bare = item(pair=Pair("a", "u"), caption="", palette=np.zeros(0, np.float32))
        source = records.from_example(records.to_example(bare, b"", [], [], None))
        assert (source.pair, source.encoded, source.caption, source.target) == (Pair("a", "u"), b"", "", None)
        assert source.palette.size in (0, 64)
        assert not source.palette.any()

    @settings(max_examples=60, deadline=None)
    @given(
        id=st.text(st.characters(exclude_categories=("Cs",)), min_size=1),
        caption=st.text(),
        extra=st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), st.text(), max_size=4),
        encoded=st.binary(max_size=50),
        target=st.none() | st.binary(min_size=1, max_size=20),
    )
    def test_any_text_comes_back(
        self, id: str, caption: str, extra: dict[str, str], encoded: bytes, target: bytes | None
    ) -> None:
        one = item(pair=Pair(id, "u", extra=extra), caption=caption)
        serialized = records.to_example(one, encoded, [], [], target)
        assert serialized == records.to_example(one, encoded, [], [], target)
        source = records.from_example(serialized)
        assert (source.pair.id, source.encoded, source.target) == (id, encoded, target)
        assert source.caption == caption.encode("utf-8", "replace").decode()
        assert {k: v.encode("utf-8", "replace") for k, v in source.pair.extra.items()} == {
            k: v.encode("utf-8", "replace") for k, v in extra.items()
        }

    @pytest.mark.parametrize("missing", ["id", "uri", "image/encoded", "caption/text", "extra"])
    def test_a_feature_that_is_missing(self, missing: str) -> None:
        broken = tf.train.Example.FromString(example())
        del broken.features.feature[missing]
        with pytest.raises(ItemFailure) as caught:
            records.from_example(broken.SerializeToString())
        assert caught.value.error == "BadRecord"

    @given(st.binary(max_size=200))
    def test_rubbish(self, serialized: bytes) -> None:
        with pytest.raises(ItemFailure) as caught:
            records.from_example(serialized)
        assert caught.value.error == "BadRecord"


def _values(feature: Any) -> Any:
    return getattr(feature, feature.WhichOneof("kind")).value


class TestShards:
    def test_golden(self) -> None:
        """An item must find its shard again on any machine, in any release."""
        ids = ["", "a", "a.jpg", "box 1/a.jpg", "港口 🚢", "\udc80", "1"]
        assert [records.shard_of(id, 16) for id in ids] == [4, 10, 10, 2, 12, 1, 1]
        assert [records.shard_of(id, 1) for id in ids] == [0] * len(ids)

    def test_even(self) -> None:
        counts = Counter(records.shard_of(f"scan-{number:06d}.jpg", 8) for number in range(8000))
        assert len(counts) == 8
        assert min(counts.values()) > 850

    @given(st.text(), st.integers(1, 10_000))
    def test_in_range(self, id: str, shards: int) -> None:
        assert 0 <= records.shard_of(id, shards) < shards

    def test_name(self) -> None:
        assert records.shard_name(3, 16) == "records-00003-of-00016.tfrecord"

    def test_written_shards_are_tfrecords_without_compression(self, tmp_path: pathlib.Path) -> None:
        path = f"{tmp_path}/{records.shard_name(0, 1)}"
        records.write_shard(path, (data for data in (example(), b"second")))
        assert [record.numpy() for record in tf.data.TFRecordDataset(path)] == [example(), b"second"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["records-00000-of-00001.tfrecord"]

    def test_a_shard_that_fails_half_way_leaves_nothing(self, tmp_path: pathlib.Path) -> None:
        def examples() -> Any:
            yield example()
            raise RuntimeError("the network went away")

        with pytest.raises(ItemFailure, match="the network went away"):
            records.write_shard(f"{tmp_path}/r.tfrecord", examples())
        assert list(tmp_path.iterdir()) == []


class TestSuccess:
    @pytest.fixture
    def folder(self, tmp_path: pathlib.Path) -> str:
        folder = f"{tmp_path}/box [1] 港"
        for name in (
            "records-00000-of-00002.tfrecord",
            "records-00001-of-00002.tfrecord",
            "records-00000-of-00009.tfrecord",
        ):
            storage.write_bytes(f"{folder}/{name}", b"")
        return folder

    def test_lists_exactly_its_shards(self, folder: str) -> None:
        assert not records.is_prepared(folder)
        records.write_success(folder, ["records-00001-of-00002.tfrecord", "records-00000-of-00002.tfrecord"], 7)
        assert records.is_prepared(folder)
        assert records.shards_in(folder) == [f"{folder}/records-0000{n}-of-00002.tfrecord" for n in (0, 1)]
        assert json.loads((pathlib.Path(folder) / "_SUCCESS").read_text()) == {
            "records": 7,
            "shards": ["records-00000-of-00002.tfrecord", "records-00001-of-00002.tfrecord"],
        }

    def test_not_finished(self, folder: str) -> None:
        with pytest.raises(UsageError, match="_SUCCESS is missing.*run `unfade prepare` again"):
            records.shards_in(folder)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"shards": 5}', b"\xff\xfe", b"null"])
    def test_marker_that_cannot_be_read(self, folder: str, body: bytes) -> None:
        storage.write_bytes(f"{folder}/_SUCCESS", body)
        with pytest.raises(UsageError, match="not readable.*run `unfade prepare` again"):
            records.shards_in(folder)

    def test_a_shard_that_is_gone(self, folder: str) -> None:
        records.write_success(folder, ["records-00000-of-00002.tfrecord", "records-00001-of-00002.tfrecord"], 7)
        storage.delete([f"{folder}/records-00001-of-00002.tfrecord"])
        with pytest.raises(UsageError, match="records-00001-of-00002.tfrecord is listed.*but missing"):
            records.shards_in(folder)
