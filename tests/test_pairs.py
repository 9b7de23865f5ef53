"""Input: manifests, folders and globs, local and in a bucket, and everything that can be wrong with them."""

import codecs
import csv
import dataclasses
import gzip
import io
import json
import os
import pickle
import threading
import time
import tracemalloc

import apache_beam as beam
import google.auth
import google.auth.exceptions
import pyarrow as pa
import pyarrow.parquet
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import buckets, captions, pairs, storage_access
from transforms.items import ItemError, ItemFailure, Pair, UsageError

HARBOUR = "Der Hafen 港口 im Winter 🚢"


def read(uri) -> tuple[list[Pair], list[ItemError]]:
    items = list(pairs.read(str(uri)))
    return [i for i in items if isinstance(i, Pair)], [i for i in items if isinstance(i, ItemError)]


def wrote(path, data: str | bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def manifest(folder, data: str | bytes, name="m.csv"):
    return wrote(folder / name, data)


def ids(found: list[Pair]) -> list[str]:
    return [pair.id for pair in found]


def kinds(errors: list[ItemError]) -> list[str]:
    return [error.error for error in errors]


class TestCheckId:
    @pytest.mark.parametrize(
        "id",
        ["a", "a.jpg", "a/b c/d.tif", "港口/🚢.jpg", "..a/b..", ".a", "ab:c", "s/C:x", "x" * 239, "-rf", "a*?[.jpg"],
    )
    def test_safe(self, id):
        pairs.check_id(id)

    @pytest.mark.parametrize(
        ("id", "reason"),
        [
            ("", "empty"),
            ("/a", "absolute"),
            ("../a", r"part '\.\.'"),
            ("a/../b", r"part '\.\.'"),
            ("a/..", r"part '\.\.'"),
            ("./a", r"part '\.'"),
            ("a//b", "part ''"),
            ("a/", "part ''"),
            ("gs://b/a", "scheme"),
            ("a/x://b", "scheme"),
            (r"a\b", "backslash"),
            ("C:/a", "drive"),
            ("c:a", "drive"),
            ("a\0b", "control"),
            ("a\nb", "control"),
            ("a\x85b", "control"),
            ("a\u2028b", "control"),
            ("a\udc80b", "UTF-8"),
            ("x" * 240, "239 bytes"),
            ("港" * 80, "239 bytes"),
            ("/".join("x" * 100 for _ in range(10)), "900 bytes"),
        ],
    )
    def test_unsafe(self, id, reason):
        with pytest.raises(ItemFailure, match=reason) as caught:
            pairs.check_id(id)
        assert caught.value.error == "UnsafeId"
        caught.value.message.encode()

    @given(st.text(st.sampled_from("./\\ab:C\0\u00e9 "), max_size=12))
    def test_what_is_safe_stays_in_the_folder(self, id):
        try:
            pairs.check_id(id)
        except ItemFailure:
            return
        assert os.path.normpath(f"/out/images/{id}") == f"/out/images/{id}"


class TestManifest:
    def test_csv(self, tmp_path):
        path = manifest(
            tmp_path,
            "image,caption,year,reference,target,id\r\n"
            f'a.jpg,"{HARBOUR}, ""am Kai""",1952,r 1.jpg| gs://b/r2.jpg ,t/a.tif,one\r\n'
            "sub/b.jpg,,,,,\r\n",
        )
        root = f"{tmp_path}/"
        assert read(path) == (
            [
                Pair(
                    "one",
                    root + "a.jpg",
                    f'{HARBOUR}, "am Kai"',
                    (root + "r 1.jpg", "gs://b/r2.jpg"),
                    root + "t/a.tif",
                    {"year": "1952"},
                ),
                Pair("sub/b.jpg", root + "sub/b.jpg", extra={"year": ""}),
            ],
            [],
        )

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_csv_dialects(self, tmp_path, encoding, end, delimiter):
        rows = ["Image ,CAPTION".replace(",", delimiter), f"a.jpg{delimiter}{HARBOUR}", "", f"b.jpg{delimiter}"]
        path = manifest(tmp_path, end.join(rows).encode(encoding))
        found, errors = read(path)
        assert ([(p.id, p.caption) for p in found], errors) == ([("a.jpg", HARBOUR), ("b.jpg", None)], [])

    def test_tsv_and_gzip(self, tmp_path):
        text = f"image\tcaption\na,b;c.jpg\t{HARBOUR}\n"
        manifest(tmp_path, text, "m.tsv")
        manifest(tmp_path, gzip.compress(text.encode()), "z.tsv.gz")
        manifest(tmp_path, gzip.compress(json.dumps({"image": "a,b;c.jpg", "caption": HARBOUR}).encode()), "z.jsonl.gz")
        for name in ("m.tsv", "z.tsv.gz", "z.jsonl.gz"):
            pairs.check_input(str(tmp_path / name))
            assert read(tmp_path / name) == ([Pair("a,b;c.jpg", f"{tmp_path}/a,b;c.jpg", HARBOUR)], [])

    def test_jsonl(self, tmp_path):
        rows = [
            {
                "image": "a.jpg",
                "caption": HARBOUR,
                "id": 7,
                "reference": ["r|1.jpg", "r2.jpg"],
                "year": 1952,
                "ok": True,
            },
            {
                "image": "b.jpg",
                "caption": ["", "first", "second"],
                "reference": "x.jpg|y.jpg",
                "no": None,
                "l": ["é", 1.5],
            },
            {"image": "c.jpg", "caption": "half \ud83d", "note": "\udc80"},
        ]
        path = manifest(tmp_path, "\r\n".join(json.dumps(row) for row in rows), "m.jsonl")
        root = f"{tmp_path}/"
        assert read(path) == (
            [
                Pair(
                    "7",
                    root + "a.jpg",
                    HARBOUR,
                    (root + "r|1.jpg", root + "r2.jpg"),
                    None,
                    {"year": "1952", "ok": "true"},
                ),
                Pair("b.jpg", root + "b.jpg", "first", (root + "x.jpg", root + "y.jpg"), None, {"l": '["é", 1.5]'}),
                Pair("c.jpg", root + "c.jpg", "half \ufffd", extra={"note": "\ufffd"}),
            ],
            [],
        )

    def test_jsonl_lines_that_fail(self, tmp_path):
        lines = [
            b'{"image": "a.jpg"}',
            b'{"image": ',
            b"[1]",
            b"",
            b'{"caption": "no image"}',
            b'{"image": " "}',
            b'{"image": ["a.jpg"]}',
            b'{"image": "c.jpg", "caption": {"en": "x"}}',
            b"[" * 100_000,
            b'{"image": "d.jpg", "n": ' + b"1" * 5000 + b"}",
            b'{"image": "b.jpg", "caption": "Stra\xdfe \xe6\xb8\xaf"}',
        ]
        path = manifest(tmp_path, b"\n".join(lines), "m.jsonl")
        found, errors = read(path)
        assert [(p.id, p.caption) for p in found] == [("a.jpg", None), ("b.jpg", "Straße 港")]
        assert [(e.uri.removeprefix(f"{path}:"), e.error, e.stage) for e in errors] == [
            ("2", "MalformedRow", "input"),
            ("3", "MalformedRow", "input"),
            ("5", "NoImage", "input"),
            ("6", "NoImage", "input"),
            ("7", "BadValue", "input"),
            ("8", "BadValue", "input"),
            ("9", "MalformedRow", "input"),
            ("10", "MalformedRow", "input"),
        ]
        assert all("line" in e.message and "\n" not in e.message for e in errors)

    def test_parquet(self, tmp_path):
        table = pa.table(
            {
                "image": pa.array(["a.jpg", None, "b.jpg"]).dictionary_encode(),
                "caption": pa.array([HARBOUR, "x", None], pa.large_string()),
                "reference": [["r.jpg"], None, []],
                "year": [1952, None, 1960],
                "pixels": pa.array([b"\xff" * 1000] * 3, pa.binary()),
                "nested": [{"bytes": b"\xff", "path": "p"}, None, None],
                "day": pa.array([0, None, 1], pa.date32()),
            }
        )
        pyarrow.parquet.write_table(table, tmp_path / "m.parquet", row_group_size=2)
        root = f"{tmp_path}/"
        found, errors = read(tmp_path / "m.parquet")
        nested = '{"bytes": null, "path": "p"}'
        assert found == [
            Pair(
                "a.jpg",
                root + "a.jpg",
                HARBOUR,
                (root + "r.jpg",),
                None,
                {"year": "1952", "nested": nested, "day": "1970-01-01"},
            ),
            Pair("b.jpg", root + "b.jpg", extra={"year": "1960", "day": "1970-01-02"}),
        ]
        assert [(e.uri, e.error) for e in errors] == [(f"{tmp_path}/m.parquet:2", "NoImage")]

    def test_csv_cells_missing_and_left_over(self, tmp_path):
        path = manifest(
            tmp_path,
            "image,caption,,x,x\na.jpg\n"
            "b.jpg,c,1,2,3,,\n,,,,\n,lost\nc.jpg,far, too, many, commas, here\n\n  \nd.jpg,ok\n",
        )
        found, errors = read(path)
        assert ids(found) == ["a.jpg", "b.jpg", "d.jpg"]
        assert found[1].extra == {"column_3": "1", "x": "2", "x_5": "3"}
        assert [(e.uri, e.error) for e in errors] == [(f"{path}:5", "NoImage"), (f"{path}:6", "MalformedRow")]
        assert "6 cells for 5 columns" in errors[1].message

    def test_csv_cell_of_several_lines(self, tmp_path):
        path = manifest(tmp_path, 'image,caption\r\na.jpg,"one\r\ntwo, three"\r\n,x\r\n')
        found, errors = read(path)
        assert [(p.id, p.caption) for p in found] == [("a.jpg", "one two, three")]
        assert errors[0].uri == f"{path}:4"

    @pytest.mark.parametrize(
        "stray", ['"Portrait of a man', '"Portrait" of a man', 'Portrait "of" a man', '7" by 5"', '"a" "b']
    )
    @pytest.mark.parametrize("suffix", ["csv", "tsv"])
    def test_stray_quotes_swallow_no_rows(self, tmp_path, stray, suffix):
        rows = ["image,caption", "a.jpg,A", f"b.jpg,{stray}", "c.jpg,C", f"d.jpg,{stray}", "e.jpg,E", "f.jpg,F"]
        text = "\n".join(rows).replace(",", "\t" if suffix == "tsv" else ",")
        found, errors = read(manifest(tmp_path, text, f"m.{suffix}"))
        assert ids(found) == [f"{c}.jpg" for c in "abcdef"]
        assert found[1].caption is not None
        assert found[1].caption.replace('"', "") == stray.replace('"', "")
        assert errors == []

    def test_quotes_beyond_repair_are_an_error(self, tmp_path):
        path = manifest(tmp_path, 'image,caption\n"a.jpg,one, two\nb.jpg,B\nc.jpg,"one, two\nd.jpg,D\n')
        found, errors = read(path)
        assert (ids(found), [(e.uri, e.error) for e in errors]) == (
            ["b.jpg", "c.jpg", "d.jpg"],
            [(f"{path}:2", "MalformedRow")],
        )
        assert found[1].caption == "one, two"
        assert "quotes" in errors[0].message

    def test_huge_fields(self, tmp_path):
        text = "x" * 1_000_000
        found, errors = read(manifest(tmp_path, f'image,ocr\na.jpg,{text}\nb.jpg,"{text}\n{text}"\n'))
        assert ([len(p.extra["ocr"]) for p in found], errors) == ([1_000_000, 2_000_001], [])

    def test_a_line_too_long_is_an_error_and_takes_no_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pairs, "_LINE_LIMIT", 1000)
        monkeypatch.setattr(pairs, "_RECORD_LIMIT", 5000)
        text = f"image,x\na.jpg,1\nb.jpg,{'x' * 5000}\nc.jpg,3\n"
        found, errors = read(manifest(tmp_path, text))
        assert (ids(found), [e.uri[-6:] for e in errors]) == (["a.jpg", "c.jpg"], [".csv:3"])
        lines = "".join(f"{i}.jpg,{'x' * 90}\n" for i in range(100))
        found, errors = read(manifest(tmp_path, f'image,x\na.jpg,"open\n{lines}'))
        assert (len(found), errors) == (101, [])

    def test_bytes_that_are_no_utf8_cost_no_letter(self, tmp_path):
        path = manifest(tmp_path, b"image,caption,place\na.jpg,Stra\xdfe \xe6\xb8\xaf \x93x\x94,K\xf6ln\nb.jpg,B,\n")
        found, errors = read(path)
        assert [(p.caption, p.extra["place"]) for p in found] == [("Straße 港 “x”", "Köln"), ("B", "")]
        assert errors == []

    def test_relative_names_and_ids(self, tmp_path):
        path = manifest(
            tmp_path / "cat",
            "image\na.jpg\n./b//c.jpg\n../scans/d.jpg\n"
            f"{tmp_path}/cat/e.jpg\n{tmp_path}/scans/f.jpg\nfile://{tmp_path}/cat/g%20h.jpg\ngs://bucket/i.jpg\n",
        )
        found, errors = read(path)
        away = str(tmp_path).lstrip("/")
        assert [(p.id, p.uri) for p in found] == [
            ("a.jpg", f"{tmp_path}/cat/a.jpg"),
            ("b/c.jpg", f"{tmp_path}/cat/b/c.jpg"),
            (f"{away}/scans/d.jpg", f"{tmp_path}/scans/d.jpg"),
            ("e.jpg", f"{tmp_path}/cat/e.jpg"),
            (f"{away}/scans/f.jpg", f"{tmp_path}/scans/f.jpg"),
            ("g h.jpg", f"{tmp_path}/cat/g h.jpg"),
            ("bucket/i.jpg", "gs://bucket/i.jpg"),
        ]
        assert errors == []

    def test_ids_do_not_depend_on_how_the_manifest_is_named(self, tmp_path, monkeypatch):
        manifest(tmp_path / "cat", f"image\na.jpg\n../b.jpg\n{tmp_path}/cat/c.jpg\n")
        expected = ids(read(tmp_path / "cat/m.csv")[0])
        monkeypatch.chdir(tmp_path / "cat")
        for name in ("m.csv", "./m.csv", "../cat/m.csv"):
            found, _ = read(name)
            assert ids(found) == expected
            assert found[0].uri == name.replace("m.csv", "a.jpg")

    def test_names_within_a_bucket(self):
        base = pairs._Base("gs://bucket/cat/m.csv")
        assert base.resolve("a/b.jpg") == "gs://bucket/cat/a/b.jpg"
        assert base.resolve("../a.jpg") == "gs://bucket/a.jpg"
        assert base.id_of("gs://bucket/cat/a/b.jpg") == "a/b.jpg"
        assert base.id_of("gs://bucket/a.jpg") == "bucket/a.jpg"
        for name in ("../../other/a.jpg", "../../a.jpg"):
            with pytest.raises(ItemFailure, match="out of the bucket"):
                base.resolve(name)

    @pytest.mark.parametrize(
        ("row", "error"),
        [
            ({"image": "http://x/a.jpg"}, "UnsupportedScheme"),
            ({"image": "a\0.jpg"}, "UnsafeName"),
            ({"image": "a\ud800.jpg"}, "UnsafeName"),
            ({"image": "a.jpg", "target": "b\n.jpg"}, "UnsafeName"),
            ({"image": r"scans\a.jpg"}, "UnsafeId"),
            ({"image": "a.jpg", "id": "../../etc/passwd"}, "UnsafeId"),
            ({"image": "a.jpg", "id": "\udc80"}, "UnsafeId"),
            ({"image": "a.jpg", "id": True}, "BadValue"),
            ({"image": 1.5}, "BadValue"),
        ],
    )
    def test_unsafe_rows(self, tmp_path, row, error):
        path = manifest(tmp_path, f'{json.dumps(row)}\n{{"image": "b.jpg"}}\n', "m.jsonl")
        found, errors = read(path)
        assert (ids(found), kinds(errors)) == (["b.jpg"], [error])
        errors[0].to_json().encode()
        assert all(c.isprintable() for c in errors[0].message)

    def test_duplicates(self, tmp_path):
        names = [
            "a.jpg",
            "a.png",
            "a",
            "A.jpg",
            "a.jpg",
            "b",
            "b.jpg",
            "c.JPG",
            "c.jpg",
            "d.x",
            "d.x.tif",
            "a.png",
            "e",
            "e",
        ]
        path = manifest(tmp_path, "image,id\n" + "".join(f"{i}.jpg,{name}\n" for i, name in enumerate(names)))
        found, errors = read(path)
        assert ids(found) == ["a.jpg", "a.png", "A.jpg", "b", "c.JPG", "c.jpg", "d.x", "e"]
        assert [(e.id, e.error) for e in errors] == [
            (id, "DuplicateId") for id in ("a", "a.jpg", "b.jpg", "d.x.tif", "a.png", "e")
        ]
        assert [e.uri for e in errors] == [f"{tmp_path}/{i}.jpg" for i in (2, 4, 6, 10, 11, 13)]
        assert "on line 13 is taken by line 3" in errors[4].message

    @given(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from(["", ".jpg", ".JPG", ".png", ".x", ".x.png"])), max_size=12
        )
    )
    def test_duplicates_against_brute_force(self, names):
        def clash(first: str, second: str) -> bool:
            def parts(id: str) -> tuple[str, str]:
                stem, suffix = os.path.splitext(id)
                return (stem, suffix) if suffix.lower() in pairs.IMAGE_SUFFIXES else (id, "")

            (stem, suffix), (other, other_suffix) = parts(first), parts(second)
            return stem == other and (suffix == other_suffix or "" in {suffix, other_suffix})

        seen: list[str] = []
        claims = pairs._Ids()
        for row, name in enumerate(map("".join, names), 1):
            taken = any(clash(name, other) for other in seen)
            assert (claims.claim(name, row) is not None) == taken
            if not taken:
                seen.append(name)

    def test_memory_of_ids(self):
        tracemalloc.start()
        try:
            claims = pairs._Ids()
            for row in range(1, 50_001):
                assert claims.claim(f"collection/box {row // 100}/scan {row}.jpg", row) is None
            assert tracemalloc.get_traced_memory()[0] / 50_000 < 160
        finally:
            tracemalloc.stop()

    def test_streams(self, tmp_path):
        lines = "".join(f"scans/{i}.jpg,{'caption ' * 40}\n" for i in range(10_000))
        path = manifest(tmp_path, f"image,caption\n{lines}")
        tracemalloc.start()
        try:
            assert sum(1 for _ in pairs.read_manifest(str(path))) == 10_000
            assert tracemalloc.get_traced_memory()[1] < 2_500_000 < path.stat().st_size
        finally:
            tracemalloc.stop()


NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='\\/:|"'), min_size=1, max_size=8)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@st.composite
def rows(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique_by=lambda n: n.split(".")[0]))
    return [
        {
            "image": f"x/{name}.jpg",
            "id": f"id-{name}",
            "caption": draw(TEXTS),
            "reference": [f"r/{r}" for r in draw(st.lists(NAMES, max_size=3))],
            "target": draw(st.sampled_from(["", "t/a.tif"])),
            "note": draw(TEXTS),
        }
        for name in names
    ]


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(rows=rows(), format=st.sampled_from(["csv", "tsv", "csv-bom", "jsonl", "jsonl-ascii", "parquet"]))
    def test_rows_come_back(self, tmp_path_factory, rows, format):
        folder = tmp_path_factory.mktemp("round")
        path = folder / f"m.{format.split('-')[0]}"
        if "sv" in format:
            # Line ends within cells are kept only by a writer that does not translate them.
            out = io.StringIO(newline="")
            writer = csv.DictWriter(out, rows[0], delimiter="\t" if format == "tsv" else ",", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows({**row, "reference": "|".join(row["reference"])} for row in rows)
            bom = codecs.BOM_UTF8 if format == "csv-bom" else b""
            path.write_bytes(bom + out.getvalue().encode())
        elif format.startswith("jsonl"):
            ascii_only = format == "jsonl-ascii"
            path.write_text("".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in rows), "utf-8", newline="")
        else:
            schema = pa.schema([(k, pa.list_(pa.string()) if k == "reference" else pa.string()) for k in rows[0]])
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), path)
        found, errors = read(path)
        assert errors == []
        assert found == [
            Pair(
                row["id"],
                f"{folder}/{row['image']}",
                captions.clean(row["caption"]) or None,
                tuple(f"{folder}/{name}" for name in row["reference"]),
                f"{folder}/{row['target']}" if row["target"] else None,
                {"note": row["note"]},
            )
            for row in rows
        ]

    @settings(max_examples=150, deadline=None)
    @given(data=st.binary(max_size=200), suffix=st.sampled_from(["csv", "tsv", "jsonl", "parquet", "csv.gz"]))
    def test_rubbish_is_never_more_than_an_error(self, tmp_path_factory, data, suffix):
        path = tmp_path_factory.mktemp("rubbish") / f"m.{suffix}"
        path.write_bytes(b"image,caption\n" + data if suffix in {"csv", "tsv"} else data)
        try:
            pairs.check_input(str(path))
        except UsageError as error:
            refused = str(error)
        else:
            refused = None
        if refused is not None:
            assert "\n" not in refused
            assert str(path) in refused
            return
        for item in pairs.read(str(path)):
            assert isinstance(item, Pair | ItemError)
            json.dumps(dataclasses.asdict(item), ensure_ascii=False).encode()


class TestFolder:
    def test_folder(self, tmp_path):
        for name in (
            "b.jpg",
            "sub/a.TIF",
            "sub/deep/港口 🚢.png",
            "a.jpeg",
            "notes.md",
            "m.csv",
            ".hidden.jpg",
            ".git/x.jpg",
        ):
            wrote(tmp_path / name, b"")
        for root in (tmp_path, f"{tmp_path}/"):
            found, errors = read(root)
            assert ids(found) == ["a.jpeg", "b.jpg", "sub/a.TIF", "sub/deep/港口 🚢.png"]
            assert [p.uri for p in found] == [f"{tmp_path}/{id}" for id in ids(found)]
            assert errors == []

    def test_relative_folder(self, tmp_path, monkeypatch):
        wrote(tmp_path / "s/a.jpg", b"")
        monkeypatch.chdir(tmp_path)
        assert read("s") == ([Pair("a.jpg", "s/a.jpg")], [])
        assert ids(read(".")[0]) == ids(read("**.jpg")[0]) == ids(read("s*/*.jpg")[0]) == ["s/a.jpg"]
        assert read("s/a.jpg") == ([Pair("a.jpg", "s/a.jpg")], [])

    def test_sidecars(self, tmp_path):
        for name in (
            "a.jpg",
            "a.txt",
            "b.jpg",
            "b.json",
            "c.jpg",
            "c.jpg.txt",
            "c.txt",
            "d.e.jpg",
            "d.txt",
            "f.jpg",
            "F.txt",
        ):
            wrote(tmp_path / name, b"")
        wrote(tmp_path / "sub/a.jpg", b"")
        wrote(tmp_path / "g.JPG", b"")
        wrote(tmp_path / "g.TXT", b"")
        found, _ = read(tmp_path)
        assert {p.id: p.sidecar and p.sidecar.removeprefix(f"{tmp_path}/") for p in found} == {
            "a.jpg": "a.txt",
            "b.jpg": "b.json",
            "c.jpg": "c.jpg.txt",
            "d.e.jpg": None,
            "f.jpg": None,
            "g.JPG": "g.TXT",
            "sub/a.jpg": None,
        }
        assert read(tmp_path / "a.jpg")[0] == [Pair("a.jpg", f"{tmp_path}/a.jpg", sidecar=f"{tmp_path}/a.txt")]
        assert [p.sidecar for p in read(tmp_path / "a.jp*")[0]] == [f"{tmp_path}/a.txt"]

    def test_lists_without_asking_for_each_item(self, tmp_path, monkeypatch):
        for i in range(20):
            wrote(tmp_path / f"{i}.jpg", b"")
            wrote(tmp_path / f"{i}.txt", b"")
        asked = []
        for name in ("stat", "lstat"):
            real = getattr(os, name)
            monkeypatch.setattr(
                os, name, lambda path, *a, real=real, **k: asked.append(str(path)) or real(path, *a, **k)
            )
        [listed] = pairs._local_listing(f"{tmp_path}/", None)
        monkeypatch.undo()
        assert len(listed) == 40
        assert [path for path in asked if path.endswith((".jpg", ".txt"))] == []

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.jpg", ["a.jpg"]),
            ("**.jpg", ["a.jpg", "s/b.jpg", "s/t/c.jpg"]),
            ("**/*.jpg", ["a.jpg", "s/b.jpg", "s/t/c.jpg"]),
            ("s/**", ["b.jpg", "d.tif", "t/c.jpg"]),
            ("s/**/c.*", ["t/c.jpg"]),
            ("*/*.jpg", ["s/b.jpg"]),
            ("s/[a-c].jpg", ["b.jpg"]),
            ("s/[!b].*", ["d.tif"]),
            ("s/?.tif", ["d.tif"]),
            ("?/t/*", ["s/t/c.jpg"]),
        ],
    )
    def test_globs(self, tmp_path, pattern, expected):
        for name in ("a.jpg", "s/b.jpg", "s/d.tif", "s/t/c.jpg", "s/.t/c.jpg"):
            wrote(tmp_path / name, b"")
        found, errors = read(f"{tmp_path}/{pattern}")
        assert (ids(found), errors) == (expected, [])
        assert all(os.path.exists(pair.uri) for pair in found)

    @pytest.mark.parametrize("name", ["box [3]", "who?", "a*b", "[", "**"])
    def test_a_folder_with_a_glob_for_a_name(self, tmp_path, name):
        wrote(tmp_path / name / "a [1].jpg", b"")
        wrote(tmp_path / "box 3/b.jpg", b"")
        pairs.check_input(str(tmp_path / name))
        assert ids(read(tmp_path / name)[0]) == ["a [1].jpg"]
        assert ids(read(tmp_path / name / "a [1].jpg")[0]) == ["a [1].jpg"]

    def test_symbolic_links(self, tmp_path):
        wrote(tmp_path / "in/a/1.jpg", b"")
        wrote(tmp_path / "in/.store/5.jpg", b"")
        wrote(tmp_path / "out/2.jpg", b"")
        wrote(tmp_path / "out/year/3.jpg", b"")
        for link, to in [
            ("in/a/up", ".."),
            ("in/b", "a"),
            ("in/self", "self"),
            ("in/c", "../out"),
            ("in/d", "../out"),
            ("out/back", "."),
            ("out/year/home", "../../in"),
            ("in/4.jpg", "../out/2.jpg"),
            ("in/gone.jpg", "nowhere.jpg"),
            ("in/e", ".store"),
        ]:
            (tmp_path / link).symlink_to(to)
        found, errors = read(tmp_path / "in")
        assert sorted(ids(found)) == ["4.jpg", "a/1.jpg", "c/2.jpg", "c/year/3.jpg", "e/5.jpg", "gone.jpg"]
        assert errors == []
        assert ids(read(f"{tmp_path}/in/*/*.jpg")[0]) == ["a/1.jpg", "b/1.jpg", "c/2.jpg", "d/2.jpg", "e/5.jpg"]

    def test_folder_that_cannot_be_read(self, tmp_path, monkeypatch):
        wrote(tmp_path / "a/1.jpg", b"")
        wrote(tmp_path / "b/2.jpg", b"")
        real = os.scandir

        def scandir(path):
            if str(path).rstrip("/").endswith("/a"):
                raise PermissionError(13, "no")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        found, errors = read(tmp_path)
        assert ids(found) == ["b/2.jpg"]
        assert [(e.id, e.uri, e.stage, e.error) for e in errors] == [
            ("", f"{tmp_path}/a/", "input", "PermissionDenied")
        ]
        with pytest.raises(UsageError, match="may not be listed"):
            pairs.check_input(str(tmp_path / "a"))

    def test_names_that_are_not_utf8(self, tmp_path):
        wrote(tmp_path / "a.jpg", b"")
        with open(os.fsencode(tmp_path) + b"/stra\xdfe.jpg", "wb"):
            pass
        wrote(tmp_path / "new\nline.jpg", b"")
        found, errors = read(tmp_path)
        assert (ids(found), kinds(errors)) == (["a.jpg"], ["UnsafeId", "UnsafeId"])
        for error in errors:
            error.to_json().encode()


def usage(uri) -> str:
    with pytest.raises(UsageError) as caught:
        pairs.check_input(str(uri))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestCheckInput:
    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("m.csv", "", "is empty"),
            ("m.csv", "image,caption\n", "is empty"),
            ("m.csv", "\n\n  \n", "is empty"),
            ("m.csv", "file,title\na.jpg,x\n", "no column `image`.*columns: file, title"),
            ("m.csv", "\x00\x01\x02", "is no text in UTF-8"),
            ("m.tsv", "image;x\na;b\n", "no column `image`"),
            ("m.jsonl", "", "is empty"),
            ("m.jsonl", '{"file": "a"}\n', "no column `image`.*file"),
            ("m.jsonl", "[]\n{\n", "no readable row: line 1 is not a JSON object"),
            ("m.parquet", "PAR1", "not a sound Parquet file"),
            ("m.csv.gz", "image\na.jpg\n", "cannot be read"),
            ("m.json", "[]", "is no IIIF manifest"),
            ("m.tar", "[]", "is not a sound tar file"),
            ("m.xlsx", "x", r"unknown file type \.xlsx"),
            ("README", "x", "without a type"),
        ],
    )
    def test_files(self, tmp_path, name, data, message):
        path = wrote(tmp_path / name, data)
        text = usage(path)
        assert str(path) in text
        with pytest.raises(UsageError, match=message):
            pairs.check_input(str(path))

    def test_parquet_columns(self, tmp_path):
        pyarrow.parquet.write_table(pa.table({"file": ["a"]}), tmp_path / "m.parquet")
        assert "no column `image`" in usage(tmp_path / "m.parquet")
        pyarrow.parquet.write_table(pa.table({"image": pa.array([], pa.string())}), tmp_path / "m.parquet")
        assert "is empty" in usage(tmp_path / "m.parquet")

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
    def test_other_encodings_without_a_mark(self, tmp_path, encoding):
        manifest(tmp_path, "image,caption\na.jpg,x\n".encode(encoding))
        assert "Export it anew as CSV in UTF-8" in usage(tmp_path / "m.csv")

    def test_tables_under_a_false_name(self, tmp_path):
        pyarrow.parquet.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / "a.csv")
        wrote(tmp_path / "b.csv", b"PK\3\4\x14\0\6\0\x08\0\0\0!\0[Content_Types].xml")
        for name in ("a.csv", "b.csv"):
            assert "is no text in UTF-8" in usage(tmp_path / name)

    def test_folders_and_globs(self, tmp_path):
        wrote(tmp_path / "notes.txt", "x")
        assert "holds no picture" in usage(tmp_path)
        assert "matches no picture" in usage(tmp_path / "*.jpg")
        assert "matches no picture" in usage(tmp_path / "nowhere/**/*.jpg")
        assert "does not exist" in usage(tmp_path / "nowhere")
        assert "does not exist" in usage(tmp_path / "nowhere.csv")
        assert "is empty" in usage("")
        wrote(tmp_path / "a.jpg", b"")
        for sound in (tmp_path, tmp_path / "*.jpg", tmp_path / "a.jpg"):
            pairs.check_input(str(sound))

    def test_other_storage(self):
        assert "`http://` is not supported" in usage("http://example.org/m.csv")
        assert "leave out `file://`" in usage("file:///data/m.csv")
        assert "no bucket" in usage("gs:///m.csv")

    def test_sound_manifests(self, tmp_path):
        for name, text in [("m.csv", "image\na.jpg\n"), ("m.ndjson", 'x\n{"image": "a.jpg"}\n')]:
            pairs.check_input(str(manifest(tmp_path, text, name)))


@pytest.fixture
def no_emulator(monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


@pytest.mark.usefixtures("no_emulator")
class TestCheckApart:
    """What a run writes is neither over its input, nor among the input of the next."""

    APART = (
        ("scans", "out"),
        ("scans", "scans 2"),
        ("scans/*.jpg", "scans"),
        ("scans/*.jpg", "scans/out"),
        ("scans/box [12]/*/*.jpg", "scans/out"),
        ("scans/box [12]/**/*.jpg", "scans/out"),
        ("scans/box 1/a.jpg", "scans"),
        ("scans/m.csv", "scans/out"),
        ("out/images", "out 2"),
        ("gs://archive/scans", "gs://archive/scans-out"),
        ("gs://archive/scans/*.jpg", "gs://archive/scans/out"),
    )
    MIXED = (
        ("scans", "scans"),
        ("scans", "scans/out"),
        ("scans", "link/out"),
        ("link", "scans/box 1/out"),
        ("scans/**/*.jpg", "scans/out"),
        ("scans/*/*.jpg", "scans"),
        ("scans/*/*/*.jpg", "scans/out"),
        ("scans/o[tu]t/**", "scans/out"),
        ("scans/box 1/**", "scans/box 1/deep/out"),
        ("gs://archive/scans", "gs://archive/scans/out"),
        ("gs://archive/scans/**", "gs://archive/scans/out/"),
    )
    OVER = (
        ("out/images", "out"),
        ("out/images/box", "out"),
        ("out/images/*.jpg", "out"),
        ("out/images/a.jpg", "out"),
        ("link to images", "out"),
        ("gs://archive/out/images/", "gs://archive/out"),
    )

    @pytest.fixture
    def place(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        for folder in ("scans/box 1/deep", "out/images/box"):
            (tmp_path / folder).mkdir(parents=True)
        for name in ("scans/box 1/a.jpg", "out/images/a.jpg", "out/images/box/b.jpg"):
            wrote(tmp_path / name, b"")
        manifest(tmp_path / "scans", "image\n")
        (tmp_path / "link").symlink_to("scans")
        (tmp_path / "link to images").symlink_to("out/images")
        kinds = {"gs://archive/scans": "folder", "gs://archive/out/images/": "folder"}
        real = pairs.kind_of
        monkeypatch.setattr(
            pairs, "kind_of", lambda uri: kinds.get(uri, "glob") if uri.startswith("gs://") else real(uri)
        )
        monkeypatch.chdir(tmp_path)

    @pytest.mark.usefixtures("place")
    @pytest.mark.parametrize("absolute", [False, True])
    def test_all(self, tmp_path, absolute: bool) -> None:
        def named(uri: str) -> str:
            return f"{tmp_path}/{uri}" if absolute and "://" not in uri else uri

        for uri, output in self.APART:
            pairs.check_apart(named(uri), named(output))
        for cases, says in ((self.MIXED, "would be read as input"), (self.OVER, "would replace it")):
            for uri, output in cases:
                with pytest.raises(UsageError, match=says):
                    pairs.check_apart(named(uri), named(output))


class TestCredentials:
    def test_none(self, monkeypatch):
        def default():
            raise google.auth.exceptions.DefaultCredentialsError("none\nfound")

        monkeypatch.setattr(google.auth, "default", default)
        assert usage("gs://bucket/m.csv") == (
            "gs://bucket/m.csv: there are no Google Cloud credentials here; "
            "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
        )
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
        assert "of no use: none found" in usage("gs://bucket/m.csv")

    def test_a_stall_is_cut_short(self, monkeypatch):
        stop = threading.Event()
        monkeypatch.setattr(google.auth, "default", stop.wait)
        monkeypatch.setattr(storage_access, "CREDENTIALS_SECONDS", 0.2)
        start = time.monotonic()
        try:
            assert "no Google Cloud credentials found" in usage("gs://bucket/m.csv")
        finally:
            stop.set()
        assert time.monotonic() - start < 3

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (storage_access.api_exceptions.NotFound("x"), "there is no bucket gs://bucket"),
            (storage_access.api_exceptions.Forbidden("x"), "may not list gs://bucket"),
            (google.auth.exceptions.RefreshError("expired\nnow"), r"refuses the credentials \(expired now\)"),
            (OSError("no route"), r"storage.googleapis.com cannot be reached \(OSError: no route\)"),
        ],
    )
    def test_what_the_bucket_says(self, monkeypatch, error, message):
        class Client:
            def list_blobs(self, *_, **__):
                raise error

        monkeypatch.setattr(google.auth, "default", lambda: (None, None))
        monkeypatch.setattr(buckets, "client", Client)
        with pytest.raises(UsageError, match=message):
            storage_access.check_access("gs://bucket/out")

    def test_local_paths_pass(self):
        storage_access.check_access("/nowhere/at all")


@pytest.fixture(scope="module")
def bucket(emulator_bucket):
    """A function that puts an object into gs://archive of an emulator."""
    return lambda name, data=b"": emulator_bucket.blob(name).upload_from_string(data)


class TestBucket:
    def test_folder_glob_and_sidecars(self, bucket):
        for name in ("s/b.jpg", "s/b.txt", "s/b-1.jpg", "s/b.c.jpg", "s/d/e.tif", "s/d/e.tif.json", "s/.h/x.jpg", "s/"):
            bucket(name)
        bucket("sx/other.jpg")
        expected = {"b-1.jpg": None, "b.c.jpg": None, "b.jpg": "s/b.txt", "d/e.tif": "s/d/e.tif.json"}
        for uri in ("gs://archive/s", "gs://archive/s/", "gs://archive/s/**"):
            pairs.check_input(uri)
            found, errors = read(uri)
            assert {p.id: p.sidecar and p.sidecar.removeprefix("gs://archive/") for p in found} == expected
            assert all(p.uri == f"gs://archive/s/{p.id}" for p in found)
            assert errors == []
        assert ids(read("gs://archive/s/b*.jpg")[0]) == ["b-1.jpg", "b.c.jpg", "b.jpg"]
        assert [p.sidecar for p in read("gs://archive/s/b.j*")[0]] == ["gs://archive/s/b.txt"]
        assert ids(read("gs://archive/**/e.tif")[0]) == ["s/d/e.tif"]
        assert {"s/b.jpg", "sx/other.jpg"} <= set(ids(read("gs://archive")[0]))
        assert read("gs://archive/s/b.jpg")[0] == [
            Pair("b.jpg", "gs://archive/s/b.jpg", sidecar="gs://archive/s/b.txt")
        ]

    def test_manifests(self, bucket):
        text = f"image,caption\nscans/a.jpg,{HARBOUR}\n../up.jpg,\ngs://other/b.jpg,\n,\n,x\n"
        bucket("cat/m.csv", b"\xef\xbb\xbf" + text.encode())
        bucket("cat/m.csv.gz", gzip.compress(text.encode()))
        out = io.BytesIO()
        images = ["scans/a.jpg", "../up.jpg", "gs://other/b.jpg", None]
        pyarrow.parquet.write_table(pa.table({"image": images, "caption": [HARBOUR, None, "", "x"]}), out)
        bucket("cat/m.parquet", out.getvalue())
        for name in ("m.csv", "m.csv.gz", "m.parquet"):
            uri = f"gs://archive/cat/{name}"
            pairs.check_input(uri)
            found, errors = read(uri)
            assert found == [
                Pair("scans/a.jpg", "gs://archive/cat/scans/a.jpg", HARBOUR),
                Pair("archive/up.jpg", "gs://archive/up.jpg"),
                Pair("other/b.jpg", "gs://other/b.jpg"),
            ]
            assert kinds(errors) == ["NoImage"]

    def test_sidecar_is_read(self, bucket):
        bucket("c/a.jpg", b"")
        bucket("c/a.json", json.dumps({"caption": HARBOUR}))
        [pair], _ = read("gs://archive/c")
        assert captions.caption_of(pair, b"") == HARBOUR

    def test_what_is_missing(self, bucket):
        bucket("notes/x.txt", b"")
        start = time.monotonic()
        assert "there is no bucket gs://nowhere" in usage("gs://nowhere/m.csv")
        assert "does not exist" in usage("gs://archive/nowhere.csv")
        assert "does not exist" in usage("gs://archive/nowhere")
        assert "holds no picture" in usage("gs://archive/notes")
        assert "matches no picture" in usage("gs://archive/notes/*.jpg")
        assert "unknown file type .txt" in usage("gs://archive/notes/x.txt")
        assert time.monotonic() - start < 15

    def test_emulator_that_is_not_there(self, bucket, monkeypatch):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://localhost:9")
        monkeypatch.setattr(storage_access, "REPEAT_SECONDS", 1.0)
        assert "http://localhost:9 cannot be reached" in usage("gs://archive/m.csv")


def run(uri, expected: list[Pair], failed: list[str], **options):
    with BeamPipeline(runner="FnApiRunner", options=PipelineOptions(**options)) as pipeline:
        read_ = pipeline | pairs.ReadPairs(str(uri))
        assert_that(read_.pairs, equal_to(expected), label="pairs")
        assert_that(read_.errors | beam.Map(lambda e: e.error), equal_to(failed), label="errors")


class TestReadPairs:
    @pytest.fixture
    def path(self, tmp_path):
        text = "image,id,caption,reference,year\n"
        text += f"a.jpg,,{HARBOUR},r.jpg|s.jpg,1952\nb.jpg,../x,,,\n,,c,,\nc.jpg,a.jpg,,,\n"
        return manifest(tmp_path, text)

    def expected(self, path):
        root = f"{path.parent}/"
        return [Pair("a.jpg", root + "a.jpg", HARBOUR, (root + "r.jpg", root + "s.jpg"), None, {"year": "1952"})]

    def test_manifest(self, path):
        run(path, self.expected(path), ["UnsafeId", "NoImage", "DuplicateId"])

    def test_bundles_replayed(self, path):
        run(path, self.expected(path), ["UnsafeId", "NoImage", "DuplicateId"], direct_runner_bundle_repeat=2)

    @pytest.mark.slow
    def test_several_processes(self, path):
        run(
            path,
            self.expected(path),
            ["UnsafeId", "NoImage", "DuplicateId"],
            direct_running_mode="multi_processing",
            direct_num_workers=2,
        )

    def test_types_survive_the_shuffle(self, path):
        def check(found):
            assert [(type(p), type(p.references), type(p.extra)) for p in found] == [(Pair, tuple, dict)]

        with BeamPipeline(runner="FnApiRunner") as pipeline:
            assert_that((pipeline | pairs.ReadPairs(str(path))).pairs, check)

    def test_folder(self, tmp_path):
        for name in ("a.jpg", "a.txt", "s/b.png"):
            wrote(tmp_path / name, b"")
        run(
            tmp_path,
            [Pair("a.jpg", f"{tmp_path}/a.jpg", sidecar=f"{tmp_path}/a.txt"), Pair("s/b.png", f"{tmp_path}/s/b.png")],
            [],
        )

    def test_bucket(self, bucket):
        bucket("run/a.jpg")
        run("gs://archive/run", [Pair("a.jpg", "gs://archive/run/a.jpg")], [])

    def test_can_be_pickled(self):
        assert pickle.loads(pickle.dumps(Pair("a", "b", sidecar="c"))) == Pair("a", "b", sidecar="c")
