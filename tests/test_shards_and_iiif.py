"""WebDataset shards and IIIF manifests as inputs: pairs as from any other, pictures read where they are."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import pathlib
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to
from archives import photograph, shard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pillow_files import file_of

from transforms import codecs, iiif, limits, pairs, storage, webdataset
from transforms.items import ItemError, ItemFailure, Pair, UsageError

PICTURES = [file_of(Image.fromarray(photograph(seed, 20 + seed, 30)), "JPEG") for seed in range(4)]


def img2dataset(number: int) -> list[tuple[str, bytes]]:
    """Members of a shard as img2dataset writes them: picture, caption, facts."""
    members = []
    for index in range(2):
        key = f"{number:05d}{index:04d}"
        facts = {
            "caption": f"Harbour {key}",
            "url": f"https://example.org/{key}.jpg",
            "key": key,
            "status": "success",
            "error_message": None,
            "width": 30,
            "sha256": "ab",
        }
        members += [
            (f"{key}.jpg", PICTURES[2 * number + index]),
            (f"{key}.txt", f"Harbour {key} 港".encode()),
            (f"{key}.json", json.dumps(facts).encode()),
        ]
    return members


def read(uri: Any) -> tuple[list[Pair], list[ItemError]]:
    items = list(pairs.read(str(uri)))
    return [i for i in items if isinstance(i, Pair)], [i for i in items if isinstance(i, ItemError)]


class TestShards:
    @pytest.fixture
    def folder(self, tmp_path: pathlib.Path) -> pathlib.Path:
        for number in range(2):
            shard(tmp_path / "shards" / f"{number:05d}.tar", img2dataset(number))
            (tmp_path / "shards" / f"{number:05d}_stats.json").write_text("{}")
        return tmp_path / "shards"

    def test_a_shard_beside_the_folder_that_it_was_unpacked_into(self, tmp_path: pathlib.Path) -> None:
        for name in ("x", "a", "a/b", "free"):
            shard(tmp_path / f"{name}.tar", [("y.jpg", PICTURES[0])])
        (tmp_path / "x" / "deep").mkdir(parents=True)
        (tmp_path / "x" / "deep" / "z.jpg").write_bytes(PICTURES[1])
        (tmp_path / "free").mkdir()
        (tmp_path / "free" / "notes.txt").write_text("no picture")
        found, errors = read(tmp_path)
        assert sorted(pair.id for pair in found) == ["a/b/y.jpg", "free/y.jpg", "x/deep/z.jpg"]
        assert [(error.id, error.error) for error in errors] == [("a.tar", "DuplicateId"), ("x.tar", "DuplicateId")]
        assert f"{tmp_path}/x.tar and the folder {tmp_path}/x both give ids that begin with x/" in errors[1].message
        found, errors = read(f"{tmp_path}/*.tar")
        assert ([pair.id for pair in found], errors) == (["a/y.jpg", "free/y.jpg", "x/y.jpg"], [])

    @pytest.mark.parametrize("how", ["{}", "{}/*.tar", "{}/00000.tar"])
    def test_samples(self, folder: pathlib.Path, how: str) -> None:
        found, errors = read(how.format(folder))
        assert errors == []
        shards = 1 if how.endswith("00000.tar") else 2
        assert [pair.id for pair in found] == [
            f"{number:05d}/{number:05d}{index:04d}.jpg" for number in range(shards) for index in range(2)
        ]
        assert found[0].caption == "Harbour 000000000 港"
        assert found[0].extra["url"] == "https://example.org/000000000.jpg"
        assert found[0].extra["width"] == "30"
        assert "caption" not in found[0].extra
        for pair, picture in zip(found, PICTURES, strict=False):
            assert storage.read_bytes(pair.uri) == picture
        pairs.check_input(how.format(folder))

    def test_captions(self, tmp_path: pathlib.Path) -> None:
        path = shard(
            tmp_path / "a.tar",
            [
                ("1.jpg", PICTURES[0]),
                ("1.json", b'{"caption": "from json"}'),
                ("2.json", b"no json"),
                ("2.png", PICTURES[1]),
                ("3.jpg", PICTURES[2]),
                ("3.txt", b" \n"),
                ("3.json", b'{"caption": null, "title": "a title"}'),
                ("sub/4.JPG", PICTURES[3]),
                ("5.txt", b"no picture"),
            ],
        )
        found, errors = read(path)
        assert errors == []
        assert [(pair.id, pair.caption) for pair in found] == [
            ("a/1.jpg", "from json"),
            ("a/2.png", None),
            ("a/3.jpg", "a title"),
            ("a/sub/4.JPG", None),
        ]

    @pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_names(self, tmp_path: pathlib.Path, tar_format: int) -> None:
        name = "a" * 90 + "/" + "b" * 90 + ".jpg"
        [pair], _ = read(shard(tmp_path / "a.tar", [(name, PICTURES[0])], format=tar_format))
        assert pair.id == f"a/{name}"
        assert storage.read_bytes(pair.uri) == PICTURES[0]

    def test_every_picture_of_a_key_is_an_item(self, tmp_path: pathlib.Path) -> None:
        members = [
            ("1923.05.12 harbour.jpg", PICTURES[0]),
            ("1923.05.12 harbour.txt", b"The harbour"),
            ("1923.05.13 market.jpg", PICTURES[1]),
            ("1923.txt", b"A journey"),
            ("b.jpg", PICTURES[2]),
            ("b.png", file_of(Image.fromarray(photograph(9)), "PNG")),
            ("b.json", b'{"caption": "Both"}'),
        ]
        shard(tmp_path / "box.tar", members)
        found, errors = read(tmp_path / "box.tar")
        assert {pair.id: pair.caption for pair in found} == {
            "box/1923.05.12 harbour.jpg": "The harbour",
            "box/1923.05.13 market.jpg": "A journey",
            "box/b.jpg": "Both",
            "box/b.png": "Both",
        }
        assert errors == []

    def test_cut_off(self, tmp_path: pathlib.Path) -> None:
        whole = shard(tmp_path / "a.tar", img2dataset(0)).read_bytes()
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole[: whole.index(PICTURES[1]) + 50])
        found, [error] = read(cut)
        assert [pair.id for pair in found] == ["cut/000000000.jpg"]
        assert (error.error, error.retryable) == ("BadShard", False)
        assert "cut off in 000000001.jpg" in error.message
        cut.write_bytes(whole[: whole.index(PICTURES[0]) + 50])
        with pytest.raises(UsageError, match="names no picture.*cut off"):
            pairs.check_input(str(cut))
        (tmp_path / "no.tar").write_bytes(b"no tar at all" * 100)
        assert read(tmp_path / "no.tar")[1][0].error == "BadShard"

    def test_unsafe_names(self, tmp_path: pathlib.Path) -> None:
        found, [error] = read(shard(tmp_path / "a.tar", [("../../x.jpg", PICTURES[0]), ("y.jpg", PICTURES[1])]))
        assert error.error == "UnsafeId"
        assert [pair.id for pair in found] == ["a/y.jpg"]

    def test_a_part_beyond_the_end(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "a.tar").write_bytes(b"12345")
        assert storage.read_bytes(storage.part_uri(str(tmp_path / "a.tar"), 1, 3)) == b"234"
        with pytest.raises(ItemFailure, match="ends before byte 9"):
            storage.read_bytes(storage.part_uri(str(tmp_path / "a.tar"), 1, 8))
        with pytest.raises(ItemFailure, match="does not exist"):
            storage.read_bytes(storage.part_uri(str(tmp_path / "b.tar"), 1, 8))

    def test_parts_and_other_stores_have_the_same_limit(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.tar").write_bytes(b"12345")
        monkeypatch.setattr(storage.FileSystems, "open", lambda uri, **_: io.BytesIO(b"12345"))
        for uri, size in ((storage.part_uri(str(tmp_path / "a.tar"), 1, 4), 4), ("s3://archive/a.jpg", 5)):
            assert storage.read_bytes(uri, size) == b"12345"[-size:]
            with pytest.raises(ItemFailure, match="split it") as large:
                storage.read_bytes(uri, size - 1)
            assert (large.value.error, large.value.retryable) == ("TooLarge", False)

    def test_transform(self, folder: pathlib.Path) -> None:
        shard(folder / "bad.tar", [])
        (folder / "bad.tar").write_bytes(b"x" * 2000)
        with BeamPipeline() as pipeline:
            read_ = pipeline | pairs.ReadPairs(str(folder))
            ids = read_.pairs | beam.Map(lambda pair: pair.id)
            assert_that(ids, equal_to([f"{n:05d}/{n:05d}{i:04d}.jpg" for n in range(2) for i in range(2)]))
            assert_that(read_.errors | beam.Map(lambda e: e.error), equal_to(["BadShard"]), label="errors")


VERSION_2 = {
    "@context": "http://iiif.io/api/presentation/2/context.json",
    "@id": "https://example.org/m.json",
    "@type": "sc:Manifest",
    "label": "Album of Nagasaki",
    "license": "https://creativecommons.org/publicdomain/zero/1.0/",
    "sequences": [
        {
            "canvases": [
                {
                    "@id": "https://example.org/c1",
                    "label": "The harbour",
                    "images": [{"resource": {"@id": "pictures/1.jpg", "@type": "dctypes:Image"}}],
                },
                {
                    "label": [{"@value": "Der Hafen", "@language": "de"}],
                    "images": [{"resource": {"@type": "oa:Choice", "default": {"@id": "pictures/2.jpg"}}}],
                },
                {"label": "blank"},
                {"images": [{"resource": {"service": {"@id": "http://example.org/iiif/4"}}}]},
            ]
        }
    ],
}

VERSION_3 = {
    "@context": ["http://www.w3.org/ns/anno.jsonld", "http://iiif.io/api/presentation/3/context.json"],
    "id": "https://example.org/m3.json",
    "type": "Manifest",
    "label": {"de": ["Fotoalbum"], "en": ["Album of Nagasaki"]},
    "rights": "http://rightsstatements.org/vocab/NoC-US/1.0/",
    "requiredStatement": {"label": {"en": ["Credit"]}, "value": {"en": ["City archive"]}},
    "items": [
        {
            "id": "https://example.org/c1",
            "type": "Canvas",
            "label": {"none": ["The harbour 港"]},
            "items": [{"items": [{"body": {"id": "pictures/1.jpg", "type": "Image", "format": "image/jpeg"}}]}],
        },
        {
            "type": "Canvas",
            "items": [
                {"items": [{"body": {"type": "Choice", "items": [{"id": "pictures/2.jpg", "type": "Image"}]}}]},
            ],
        },
        {"type": "Canvas", "items": [{"items": [{"body": {"id": "sound.mp3", "type": "Sound"}}]}]},
        {
            "items": [
                {
                    "items": [
                        {
                            "body": {
                                "type": "Image",
                                "service": [{"id": "http://example.org/iiif/4", "type": "ImageService3"}],
                            }
                        }
                    ]
                }
            ]
        },
    ],
}


class TestIiif:
    @pytest.fixture
    def folder(self, tmp_path: pathlib.Path) -> pathlib.Path:
        (tmp_path / "pictures").mkdir()
        for number in (1, 2):
            (tmp_path / "pictures" / f"{number}.jpg").write_bytes(PICTURES[number])
        for name, body in (("two", VERSION_2), ("three", VERSION_3)):
            (tmp_path / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "captions", "service"),
        [
            ("two", ["Album of Nagasaki, The harbour", "Album of Nagasaki, Der Hafen"], "full/full"),
            ("three", ["Album of Nagasaki, The harbour 港", "Album of Nagasaki"], "full/max"),
        ],
    )
    def test_canvases(self, folder: pathlib.Path, name: str, captions: list[str], service: str) -> None:
        uri = str(folder / f"{name}.json")
        assert pairs.kind_of(uri) == "iiif"
        pairs.check_input(uri)
        [first, second, fourth], [error] = read(uri)
        assert [pair.id for pair in (first, second, fourth)] == [f"{name}/000{number}" for number in (1, 2, 4)]
        assert [first.caption, second.caption] == captions
        assert fourth.caption == "Album of Nagasaki"
        assert fourth.uri == f"http://example.org/iiif/4/{service}/0/default.jpg"
        assert (error.id, error.error) == (f"{name}/0003", "NoImage")
        assert storage.read_bytes(first.uri) == PICTURES[1]
        assert storage.read_bytes(second.uri) == PICTURES[2]
        assert first.extra["iiif_canvas"] == "https://example.org/c1"
        rights = {"two": "iiif_license", "three": "iiif_rights"}[name]
        assert first.extra[rights].startswith("http")
        if name == "three":
            assert first.extra["iiif_requiredStatement"] == "City archive"

    def test_a_glob_of_manifests(self, folder: pathlib.Path) -> None:
        found, errors = read(f"{folder}/*.json")
        assert [pair.id for pair in found] == [f"{name}/000{n}" for name in ("three", "two") for n in (1, 2, 4)]
        assert len(errors) == 2

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("no json", "is not JSON"),
            ("[]", "no IIIF Presentation manifest"),
            ('{"caption": "a sidecar"}', "no IIIF Presentation manifest"),
            (json.dumps({**VERSION_3, "type": "Collection"}), "it is a IIIF Collection"),
        ],
    )
    def test_what_is_no_manifest(self, text: str, message: str, tmp_path: pathlib.Path) -> None:
        with pytest.raises(iiif.IiifError, match=message):
            list(iiif.canvases(text.encode()))
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(UsageError, match=message):
            pairs.check_input(str(tmp_path / "m.json"))

    def test_rubbish_inside(self) -> None:
        for body in (VERSION_2, VERSION_3):
            broken = json.loads(json.dumps(body).replace('"images"', '"x"').replace("Canvas", "7"))
            for key in ("sequences", "items", "label"):
                for value in (None, 7, "text", [None, 3], {"a": {}}):
                    list(iiif.canvases(json.dumps({**broken, key: value}).encode()))

    @pytest.fixture
    def server(self, folder: pathlib.Path) -> Iterator[str]:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        handler.log_message = lambda *_: None  # type: ignore[attr-defined]
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()

    def test_pictures_from_the_web(self, server: str, quick_retries: None) -> None:
        assert storage.read_bytes(f"{server}/pictures/1.jpg") == PICTURES[1]
        codecs.decode(storage.read_bytes(f"{server}/pictures/2.jpg"))
        with pytest.raises(ItemFailure, match="HTTP 404") as missing:
            storage.read_bytes(f"{server}/pictures/3.jpg")
        assert (missing.value.error, missing.value.retryable) == ("NotFound", False)
        with pytest.raises(ItemFailure) as dead:
            storage.read_bytes("http://127.0.0.1:9/x.jpg")
        assert (dead.value.error, dead.value.retryable) == ("ReadFailed", True)


def test_a_server_without_end() -> None:
    """What it sends has a limit; and whoever has stopped waiting for it has it sent no more."""
    sent: list[int] = []

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    sent.append(self.wfile.write(bytes(1 << 16)))
                    time.sleep(0.001)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_address[1]}/a.jpg"
    try:
        with pytest.raises(ItemFailure, match="more than 4,194,304 bytes; split it") as large:
            storage.read_bytes(place, 4 << 20)
        assert (large.value.error, large.value.retryable) == ("TooLarge", False)
        with pytest.raises(ItemFailure, match="the time that one item has is over"):
            limits.within(0.5, lambda: storage.read_bytes(place))
        time.sleep(0.2)
        before = len(sent)
        time.sleep(0.5)
        assert len(sent) == before
    finally:
        server.shutdown()


class TestHostile:
    """Broken on purpose: an error of that shard or manifest, never an exception, never without end."""

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8), st.floats(0, 1))
    def test_shards_damaged_anywhere(self, flips: list[tuple[float, int]], share: float) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
            for name, data in (
                ("a.jpg", b"x" * 600),
                ("a.txt", b"text"),
                ("港.jpg", b"y"),
                ("b" * 120 + ".json", b"{}"),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        damaged = bytearray(out.getvalue())
        for place, value in flips:
            damaged[int(place * len(damaged))] = value
        data = bytes(damaged[: int(share * len(damaged))])
        with contextlib.suppress(webdataset.ShardError):
            assert len(list(webdataset.samples(io.BytesIO(data), len(data), (".jpg",)))) <= 3

    @pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"notoctal\0\0\0\0", b"-0000001000\0"])
    def test_sizes_that_lead_back(self, tmp_path: pathlib.Path, size: bytes) -> None:
        path = shard(tmp_path / "a.tar", [("a.jpg", PICTURES[0]), ("b.jpg", PICTURES[1])])
        data = bytearray(path.read_bytes())
        at = data.index(b"b.jpg")
        data[at + 124 : at + 136] = size
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        path.write_bytes(bytes(data))
        found, errors = read(path)
        assert {pair.id for pair in found} <= {"a/a.jpg"}  # its sample may not have been whole yet
        assert [error.error for error in errors] == ["BadShard"]

    @pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
    def test_headers_without_end(self, tmp_path: pathlib.Path, kind: bytes) -> None:
        header = tarfile.TarInfo("a")
        header.type, header.size = kind, 1 << 30
        with (tmp_path / "a.tar").open("wb") as file:
            file.write(header.tobuf(tarfile.USTAR_FORMAT))
            file.truncate((1 << 30) + 2048)
        tracemalloc.start()
        try:
            found, [error] = read(tmp_path / "a.tar")
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
        assert found == []
        assert "the header at byte 512 says that it has 1,073,741,824 bytes" in error.message

    @pytest.mark.parametrize(("kind", "size"), [(b"L", 20), (b"x", 20), (b"g", 20), (b"K", 1 << 20)])
    def test_headers_one_before_another(self, tmp_path: pathlib.Path, kind: bytes, size: int) -> None:
        body = b"12 comment=\n" + b"\n" * (size - 12) if kind in (b"x", b"g") else b"n" * size
        header = tarfile.TarInfo("a")
        header.type, header.size = kind, len(body)
        block = header.tobuf(tarfile.USTAR_FORMAT) + body + b"\0" * (-len(body) % 512)
        (tmp_path / "a.tar").write_bytes(block * (2000 if size == 20 else 20) + b"\0" * 1024)
        found, [error] = read(tmp_path / "a.tar")
        assert (found, error.error) == ([], "BadShard")

    def test_a_manifest_nested_without_end(self, tmp_path: pathlib.Path) -> None:
        deep = "[" * 900 + '"x"' + "]" * 900
        about = '"@context": "http://iiif.io/api/presentation/3/context.json", "type": "Manifest", "items": []'
        (tmp_path / "a.json").write_text(f'{{{about}, "label": {deep}}}')
        _, [error] = read(tmp_path / "a.json")
        assert error.error == "BadManifest"
