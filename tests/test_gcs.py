"""Jobs on a bucket: against an emulator over HTTP, and against no storage at all."""

from __future__ import annotations

import io
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import archives
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pillow_files import file_of

from pipelines import evaluate, prepare, report, restore
from transforms import buckets, pairs, records, storage
from transforms.items import ItemFailure, Pair
from transforms.storage_access import check_access

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bucket(emulator_bucket: Any) -> Any:
    check_access("gs://archive")  # as every command does first; Beam alone looks for credentials for 25 s
    return emulator_bucket


def objects(bucket: Any, prefix: str) -> dict[str, bytes]:
    found = [blob.name for blob in bucket.client.list_blobs(bucket, prefix=prefix)]
    # By name: the emulator's own links are not quoted, and no object with a % or ? in its name is behind them.
    return {name.removeprefix(prefix): bucket.blob(name).download_as_bytes() for name in found}


class TestFiles:
    NAMES = (
        *("plain.txt", "with space.txt", "box [3].txt", "st*r.txt", "港口 🚢.txt", "a&b=d.txt"),
        *("50% off.txt", "%41.txt", "what?.txt", "a#b.txt", "c;d.txt", "one+one.txt"),
    )

    def test_names(self, bucket: Any) -> None:
        for name in self.NAMES:
            uri = storage.join("gs://archive/names/box [1] 港", name)
            assert not storage.exists(uri)
            storage.write_bytes(uri, name.encode())
            assert storage.exists(uri)
            assert storage.read_bytes(uri) == name.encode()
        found = objects(bucket, "names/box [1] 港/")
        assert found == {name: name.encode() for name in self.NAMES}
        storage.write_bytes("gs://archive/names/box 1 港/other.txt", b"")
        uris = sorted(storage.join("gs://archive/names/box [1] 港", name) for name in self.NAMES)
        assert storage.listing("gs://archive/names/box [1] 港", "*.txt") == uris
        storage.delete([*uris[:4], "gs://archive/names/never"])
        assert storage.listing("gs://archive/names/box [1] 港", "**") == uris[4:]
        assert storage.exists("gs://archive/names/box 1 港/other.txt")

    def test_tree_both_ways(self, bucket: Any, tmp_path: pathlib.Path) -> None:
        files = {"a": b"1", "sub/b [1].txt": b"2", "sub/deep/c.pb": b""}
        for name, data in files.items():
            storage.write_bytes(f"{tmp_path}/from/{name}", data)
        storage.copy_tree(f"{tmp_path}/from", "gs://archive/tree [2]")
        assert objects(bucket, "tree [2]/") == files
        storage.copy_tree("gs://archive/tree [2]", f"{tmp_path}/to")
        for name, data in files.items():
            assert (tmp_path / "to" / name).read_bytes() == data

    def test_large_file_is_written_as_it_comes(self, bucket: Any) -> None:
        data = os.urandom(9 << 20)
        for name in ("large.bin", "50% of #1?.bin"):  # sent in pieces, to an address that the store gives
            storage.write_bytes(f"gs://archive/{name}", data)
            assert storage.read_bytes(f"gs://archive/{name}") == data

    @pytest.mark.parametrize("uri", ["gs://archive/nowhere.jpg", "gs://no-such-bucket/a.jpg"])
    def test_missing(self, bucket: Any, uri: str) -> None:
        with pytest.raises(ItemFailure) as caught:
            storage.read_bytes(uri)
        assert (caught.value.error, caught.value.retryable) == ("NotFound", False)

    def test_a_write_that_fails_leaves_the_old_object(self, bucket: Any) -> None:
        storage.write_bytes("gs://archive/kept", b"old")

        def write(path: str) -> None:
            raise OSError("no space")

        with pytest.raises(ItemFailure, match="gs://archive/kept could not be written"):
            storage.write_through("gs://archive/kept", write)
        assert storage.read_bytes("gs://archive/kept") == b"old"


def test_prepare_and_restore_end_to_end(
    bucket: Any, archive: archives.Archive, archive_records: str, saved_model: str, tmp_path: pathlib.Path
) -> None:
    """A bucket in, a bucket out, the model in it too: the same records and pictures as from a disk."""
    for path in archive.folder.iterdir():
        bucket.blob(f"scans [1]/{path.name}").upload_from_filename(path)
    storage.copy_tree(saved_model, "gs://archive/model")
    source, prepared, output = ("gs://archive/scans [1]/catalogue.csv", "gs://archive/rec [1]", "gs://archive/out [1]")
    one = ["--direct_num_workers", "1"]

    assert prepare.main(["--input", source, "--output", prepared, "--num_shards", "3", *one]) == 3
    tree = objects(bucket, "rec [1]/")
    assert json.loads(tree["_SUCCESS"]) == json.loads((pathlib.Path(archive_records) / "_SUCCESS").read_text())
    assert {"schema.pbtxt", "transform_fn/saved_model.pb", "transform_fn/assets/vocabulary.txt", "summary.json"} <= set(
        tree
    )
    found = [
        json.loads(line) for name, data in tree.items() if name.startswith("errors/") for line in data.splitlines()
    ]
    assert sorted((e["id"], e["stage"], e["error"]) for e in found) == sorted(archive.bad)
    assert records.shards_in(prepared) == [f"{prepared}/{name}" for name in json.loads(tree["_SUCCESS"])["shards"]]

    model = ["--model", "gs://archive/model", *one]
    assert restore.main(["--input", prepared, "--output", output, *model]) == 0
    assert (
        restore.main(["--input", archive_records, "--output", f"{tmp_path}/local", "--model", saved_model, *one]) == 0
    )
    local = tmp_path / "local" / "images"
    assert {
        name.removeprefix("images/"): data
        for name, data in objects(bucket, "out [1]/").items()
        if name.startswith("images/")
    } == {path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("*") if path.is_file()}
    tree = objects(bucket, "out [1]/")
    assert json.loads(tree["summary.json"])["counts"] == {"input": 12, "restored": 12, "skipped": 0, "failed": 0}
    table = pq.read_table(io.BytesIO(tree["metrics/metrics-00000-of-00001.parquet"]))
    assert table.column("id").to_pylist() == sorted(archive.good)
    assert all(uri.startswith("gs://archive/scans [1]/") for uri in table.column("uri").to_pylist())
    previews = {
        name for name in tree if name.startswith("report/previews/") and name.endswith(("-before.jpg", "-after.jpg"))
    }
    assert len(previews) == 24
    assert b"<html" in tree["report/index.html"]

    assert restore.main(["--input", source, "--output", output, "--overwrite", *model]) == 3
    again = objects(bucket, "out [1]/")
    assert {n: d for n, d in again.items() if n.startswith("images/")} == {
        n: d for n, d in tree.items() if n.startswith("images/")
    }
    assert json.loads(again["summary.json"])["counts"] == {"input": 22, "restored": 12, "skipped": 0, "failed": 10}


ODD = ("plain.jpg", "50% #1?.jpg", "Hafen; 港 🚢.jpg", "sub folder/a&b+c=%41.jpg")
"""Names that a store takes and an address does not without being quoted."""


class TestOddNames:
    """Every command, with every path in the bucket and names that must be quoted."""

    @pytest.fixture(scope="class")
    def restored(self, bucket: Any, saved_model: str) -> str:
        """A folder restored in the bucket; its pictures are `ODD`, each with a caption beside it."""
        for seed, name in enumerate(ODD):
            picture = Image.fromarray(archives.photograph(seed, 40, 60))
            storage.write_bytes(f"gs://archive/odd #1/in/{name}", file_of(picture, "JPEG"))
            storage.write_bytes(f"gs://archive/odd #1/in/{name.removesuffix('.jpg')}.txt", name.encode())
        storage.copy_tree(saved_model, "gs://archive/odd #1/model")
        output = "gs://archive/odd #1/out"
        given = ["--input", "gs://archive/odd #1/in", "--output", output, "--model", "gs://archive/odd #1/model"]
        assert restore.main([*given, "--direct_num_workers", "1"]) == 0
        assert self.counts(output) == {"input": 4, "restored": 4, "skipped": 0, "failed": 0}
        storage.delete([f"{output}/images/{ODD[1]}"])
        assert restore.main([*given, "--direct_num_workers", "1"]) == 0  # resumes
        assert self.counts(output) == {"input": 4, "restored": 1, "skipped": 3, "failed": 0}
        return output

    def counts(self, output: str) -> Any:
        return json.loads(storage.read_bytes(f"{output}/summary.json"))["counts"]

    def test_restore(self, restored: str) -> None:
        found = storage.listing(f"{restored}/images", "**")
        assert found == sorted(f"{restored}/images/{name}" for name in ODD)
        table = pq.read_table(io.BytesIO(storage.read_bytes(f"{restored}/metrics/metrics-00000-of-00001.parquet")))
        told = dict(zip(table.column("id").to_pylist(), table.column("caption").to_pylist(), strict=True))
        assert told == {name: name for name in ODD}
        assert [name for name in storage.listing(restored, "**") if "unfinished" in name or ".tmp" in name] == []

    def test_report(self, restored: str, tmp_path: pathlib.Path) -> None:
        page = storage.read_bytes(f"{restored}/report/index.html")
        storage.delete([f"{restored}/report/index.html"])
        assert report.main([restored, "--sheet", f"{restored}/sheet #1.pdf"]) == 0
        assert storage.read_bytes(f"{restored}/report/index.html") == page
        assert storage.read_bytes(f"{restored}/sheet #1.pdf").startswith(b"%PDF")

    def test_evaluate(self, restored: str) -> None:
        rows = "".join(f'"in/{name}","in/{name}"\n' for name in ODD)
        storage.write_bytes("gs://archive/odd #1/pairs.csv", f"image,target\n{rows}".encode())
        given = ["--input", "gs://archive/odd #1/pairs.csv", "--output", "gs://archive/odd #1/scores"]
        assert evaluate.main([*given, "--method", "identity,stretch", "--direct_num_workers", "1"]) == 0
        summary = json.loads(storage.read_bytes("gs://archive/odd #1/scores/summary.json"))
        assert summary["counts"] == {"input": 4, "evaluated": 4, "skipped": 0, "failed": 0}

    def test_shards_and_iiif(self, restored: str, tmp_path: pathlib.Path) -> None:
        members = []
        for index, name in enumerate(ODD):
            picture = storage.read_bytes(f"gs://archive/odd #1/in/{name}")
            members += [(f"{index:04d}.jpg", picture), (f"{index:04d}.txt", name.encode())]
        # Shards are read piece by piece by Beam, which follows the emulator's unquoted links: no odd names for these.
        storage.copy(str(archives.shard(tmp_path / "00000.tar", members)), "gs://archive/shards/00000.tar")
        canvases = [
            {
                "type": "Canvas",
                "label": {"none": [name]},
                "items": [{"items": [{"body": {"id": f"gs://archive/odd #1/in/{name}", "type": "Image"}}]}],
            }
            for name in ODD
        ]
        album = {"@context": "http://iiif.io/api/presentation/3/context.json", "type": "Manifest", "items": canvases}
        storage.write_bytes("gs://archive/odd #1/albums/an album #1.json", json.dumps(album).encode())
        for kind, source in (("tar", "shards"), ("iiif", "odd #1/albums/*.json")):
            output = f"gs://archive/odd #1/out {kind}"
            given = ["--input", f"gs://archive/{source}", "--output", output]
            assert restore.main([*given, "--model", "gs://archive/odd #1/model", "--direct_num_workers", "1"]) == 0
            assert self.counts(output) == {"input": 4, "restored": 4, "skipped": 0, "failed": 0}
            table = pq.read_table(io.BytesIO(storage.read_bytes(f"{output}/metrics/metrics-00000-of-00001.parquet")))
            assert table.column("caption").to_pylist() == list(ODD)


def test_a_listing_of_100_000_objects(emulator: Any, bucket: Any) -> None:
    """Every picture is found, with its caption, by one listing: no request an object."""
    storage.write_bytes("gs://archive/many/0000000.jpg", b"x")
    objects = emulator._storage.objects["archive"]
    [first] = [about for name, about in objects.items() if name == "many/0000000.jpg"]
    many = {f"many/{index // 1000:03d}/{index:07d} #.jpg": first for index in range(1, 100_001)}
    asked = []
    try:
        objects.update({name: {**about, "name": name} for name, about in many.items()})
        objects["many/000/0000001 #.txt"] = {**first, "name": "many/000/0000001 #.txt"}
        with pytest.MonkeyPatch.context() as patch:
            ask = buckets._page
            patch.setattr(buckets, "_page", lambda *given: asked.append(given) or ask(*given))
            found = [one for one in pairs.read("gs://archive/many") if isinstance(one, Pair)]
    finally:
        for name in [name for name in objects if name.startswith("many/")]:
            del objects[name]
    assert len(found) == 100_001
    assert len({pair.id for pair in found}) == 100_001
    assert found[0].uri == "gs://archive/many/000/0000001 #.jpg"
    assert len(asked) < 250  # pages of 1,000, where the store gives them


def test_without_credentials_it_says_so_within_seconds(tmp_path: pathlib.Path) -> None:
    """In a process of its own, with no emulator, no credentials and a home where none are found."""
    (tmp_path / "a.csv").write_text("image\na.jpg\n")
    given = ["--input", f"{tmp_path}/a.csv", "--output", "gs://archive/out"]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("STORAGE_", "GOOGLE_", "GCE_"))
    }
    environment |= {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": f"{tmp_path}/none", "NO_GCE_CHECK": "true"}
    command = [sys.executable, "-m", "pipelines.cli", "restore"]
    start = time.monotonic()
    done = subprocess.run(
        [*command, *given],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    seconds = time.monotonic() - start
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "gs://archive/out" in done.stderr
    assert "gcloud auth application-default login" in done.stderr
    assert seconds < 60  # of which the libraries' own loading is most
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
