"""`unfade train` reads records in a bucket and leaves its model in one; TensorFlow sees folders of this machine."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

import pytest

from pipelines import train
from transforms import records, storage
from transforms.storage_access import check_access

RECORDS, OUTPUT = "gs://archive/records [1] 港", "gs://archive/model [1] 港"


@pytest.fixture
def bucket(emulator_bucket: Any) -> Any:
    check_access("gs://archive")
    for name in ("records-00000-of-00002.tfrecord", "records-00001-of-00002.tfrecord", "transform_fn/assets/words.txt"):
        storage.write_bytes(f"{RECORDS}/{name}", name.encode())
    storage.write_bytes(f"{RECORDS}/records-00009-of-00010.tfrecord", b"of another run")
    records.write_success(RECORDS, ["records-00000-of-00002.tfrecord", "records-00001-of-00002.tfrecord"], 2)
    storage.write_bytes(f"{OUTPUT}/checkpoints/1", b"one step")
    storage.write_bytes(f"{OUTPUT}/saved_model/of an older model", b"")
    return emulator_bucket


def test_records_come_and_the_model_goes(bucket: Any) -> None:
    with contextlib.suppress(KeyboardInterrupt), train._of_this_machine(RECORDS, OUTPUT) as (source, output):
        shards = records.shards_in(source)
        assert [pathlib.Path(shard).read_text() for shard in shards] == [
            "records-00000-of-00002.tfrecord",
            "records-00001-of-00002.tfrecord",
        ]
        assert (pathlib.Path(source) / "transform_fn" / "assets" / "words.txt").exists()
        assert not (pathlib.Path(source) / "records-00009-of-00010.tfrecord").exists()
        assert (output / "checkpoints" / "1").read_text() == "one step"  # an interrupted training goes on
        (output / "checkpoints" / "2").write_text("two steps")
        (output / "checkpoints" / "1").unlink()
        (output / "saved_model" / "of an older model").unlink()
        (output / "saved_model" / "saved_model.pb").write_text("new")
        raise KeyboardInterrupt  # what is done is kept all the same
    assert {uri.removeprefix(f"{OUTPUT}/") for uri in storage.listing(OUTPUT, "**")} == {
        "checkpoints/2",
        "saved_model/saved_model.pb",
    }
    assert storage.read_bytes(f"{OUTPUT}/checkpoints/2") == b"two steps"


def test_folders_stay_where_they_are(tmp_path: pathlib.Path) -> None:
    with train._of_this_machine(f"{tmp_path}/records", f"{tmp_path}/model") as (source, output):
        assert (source, output) == (f"{tmp_path}/records", tmp_path / "model")
    assert not list(tmp_path.iterdir())
