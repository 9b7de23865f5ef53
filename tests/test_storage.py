"""Files: written whole or not at all, and found again whatever they are called."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import storage
from transforms.items import ItemFailure

NAMES = [
    "plain.txt",
    "with space.txt",
    "box [3].txt",
    "what?.txt",
    "st*r.txt",
    "100%25.txt",
    "港口 ü 🚢.txt",
    "#a;b&c=d.txt",
]
FOLDERS = ["plain", "with space", "box [3]", "[ab]", "what?", "a*b", "100%", "港口 🚢"]


def below(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failure(call: Callable[[], object]) -> ItemFailure:
    with pytest.raises(ItemFailure) as caught:
        call()
    assert "\n" not in caught.value.message
    return caught.value


class TestNames:
    @pytest.mark.parametrize("folder", FOLDERS)
    def test_everything_works_under_any_name(self, tmp_path: pathlib.Path, folder: str) -> None:
        root = storage.join(str(tmp_path), folder)
        uris = [storage.join(root, name) for name in NAMES]
        for uri in uris:
            assert not storage.exists(uri)
            storage.write_bytes(uri, uri.encode())
        for uri in uris:
            assert storage.exists(uri)
            assert storage.read_bytes(uri) == uri.encode()
        assert storage.listing(root, "*.txt") == sorted(uris)
        storage.delete(uris[:3])
        assert storage.listing(root, "*.txt") == sorted(uris[3:])
        storage.delete(uris)
        assert storage.listing(root, "**") == []

    def test_delete_takes_names_literally(self, tmp_path: pathlib.Path) -> None:
        for name in ("a1.txt", "a[1].txt", "a*.txt"):
            (tmp_path / name).write_text(name)
        storage.delete([f"{tmp_path}/a[1].txt", f"{tmp_path}/a*.txt"])
        assert below(tmp_path) == {"a1.txt": b"a1.txt"}

    def test_delete_what_is_gone(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "a").write_text("")
        storage.delete([f"{tmp_path}/never", f"{tmp_path}/a", f"{tmp_path}/a"])
        storage.delete([])
        assert below(tmp_path) == {}

    def test_listing_of_what_is_not_there(self, tmp_path: pathlib.Path) -> None:
        assert storage.listing(f"{tmp_path}/nowhere", "*") == []
        assert storage.listing(f"{tmp_path}/nowhere", "**") == []

    def test_listing_stays_in_the_folder(self, tmp_path: pathlib.Path) -> None:
        for name in ("m-1.x", "m-2.x", "m-1.y", "sub/m-3.x", "n-1.x"):
            storage.write_bytes(f"{tmp_path}/{name}", b"")
        assert storage.listing(str(tmp_path), "m-*.x") == [f"{tmp_path}/m-1.x", f"{tmp_path}/m-2.x"]
        assert len(storage.listing(str(tmp_path), "**")) == 5

    def test_join(self) -> None:
        assert storage.join("gs://b/out/", "/images/", "a b/c.jpg") == "gs://b/out/images/a b/c.jpg"
        assert storage.join("out", "x") == "out/x"
        assert storage.join("/", "x") == "/x"
        assert storage.join("gs://b", "x") == "gs://b/x"

    def test_is_remote(self) -> None:
        assert storage.is_remote("gs://b/a")
        assert not storage.is_remote("/a/b")
        assert not storage.is_remote("a:b/c")

    @settings(max_examples=50, deadline=None)
    @given(
        name=st.text(
            st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\0"), min_size=1, max_size=40
        ).filter(lambda name: name not in {".", ".."} and len(name.encode()) < 200),
        data=st.binary(max_size=50),
    )
    def test_what_is_written_is_read(self, tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes) -> None:
        root = tmp_path_factory.mktemp("s")
        storage.write_bytes(f"{root}/{name}/{name}", data)
        assert storage.read_bytes(f"{root}/{name}/{name}") == data
        assert [path.removeprefix(f"{root}/") for path in storage.listing(str(root), "**")] == [f"{name}/{name}"]
        storage.delete([f"{root}/{name}/{name}"])
        assert below(root) == {}


class TestAtomic:
    def test_no_temporary_is_left(self, tmp_path: pathlib.Path) -> None:
        storage.write_bytes(f"{tmp_path}/d/a", b"1")
        storage.write_bytes(f"{tmp_path}/d/a", b"2")
        assert below(tmp_path) == {"d/a": b"2"}

    def test_a_failure_leaves_the_old_content(self, tmp_path: pathlib.Path) -> None:
        storage.write_bytes(f"{tmp_path}/a", b"old")

        def write(path: str) -> None:
            pathlib.Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        found = failure(lambda: storage.write_through(f"{tmp_path}/a", write))
        assert (found.error, found.retryable) == ("DiskFull", True)
        assert found.message.endswith(
            "No space left on device; free space or raise the quota, then run again for what is missing"
        )
        assert f"{tmp_path}/a" in found.message
        assert below(tmp_path) == {"a": b"old"}

    def test_a_stop_leaves_the_old_content(self, tmp_path: pathlib.Path) -> None:
        storage.write_bytes(f"{tmp_path}/a", b"old")

        def write(path: str) -> None:
            pathlib.Path(path).write_bytes(b"half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            storage.write_through(f"{tmp_path}/a", write)
        assert below(tmp_path) == {"a": b"old"}

    def test_readers_never_see_a_part(self, tmp_path: pathlib.Path) -> None:
        target = tmp_path / "a"
        target.write_bytes(b"old")

        def write(path: str) -> None:
            for _ in range(3):
                with open(path, "ab") as file:
                    file.write(b"new")
                assert target.read_bytes() == b"old"
            assert os.path.dirname(path) == str(tmp_path)  # on the same disk, or the rename would copy

        storage.write_through(str(target), write)
        assert target.read_bytes() == b"newnewnew"

    def test_who_reads_already_reads_the_old_file_to_its_end(self, tmp_path: pathlib.Path) -> None:
        storage.write_bytes(f"{tmp_path}/a", b"old")
        with open(tmp_path / "a", "rb") as reader:
            storage.write_bytes(f"{tmp_path}/a", b"new and longer")
            assert reader.read() == b"old"  # a copy over it would tear it

    def test_relative_path(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        storage.write_bytes("a", b"1")
        storage.write_bytes("d/a", b"2")
        assert below(tmp_path) == {"a": b"1", "d/a": b"2"}
        assert storage.listing("d", "*") == ["d/a"]

    def test_a_folder_in_the_way(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "f").write_text("x")
        assert failure(lambda: storage.write_bytes(f"{tmp_path}/a", b"")).error == "WriteFailed"
        assert failure(lambda: storage.write_bytes(f"{tmp_path}/f/a", b"")).error == "WriteFailed"
        assert below(tmp_path) == {"f": b"x"}


class TestRead:
    def test_what_is_not_there(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "file").write_text("x")
        for name in ("nowhere", "no/where.jpg", "file/a.jpg"):
            found = failure(lambda name=name: storage.read_bytes(f"{tmp_path}/{name}"))  # type: ignore[misc]
            assert (found.error, found.retryable) == ("NotFound", False), name
            assert f"{tmp_path}/{name}" in found.message

    def test_not_a_file(self, tmp_path: pathlib.Path) -> None:
        os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
        for path in (str(tmp_path), f"{tmp_path}/pipe"):
            assert failure(lambda path=path: storage.read_bytes(path)).error == "NotAFile"  # type: ignore[misc]

    def test_permission(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").chmod(0)
        if os.geteuid() == 0:  # who may read everything

            def refuse(*_: object, **__: object) -> None:
                raise PermissionError(13, "Permission denied")

            monkeypatch.setattr("builtins.open", refuse)
        found = failure(lambda: storage.read_bytes(f"{tmp_path}/a"))
        assert (found.error, found.retryable) == ("PermissionDenied", False)

    def test_names_that_no_file_has(self, tmp_path: pathlib.Path) -> None:
        for name in ("x" * 300, "a\0b"):
            found = failure(lambda name=name: storage.read_bytes(f"{tmp_path}/{name}"))  # type: ignore[misc]
            assert found.error in {"NotFound", "ReadFailed"}
            assert not found.retryable  # the same run would fail again

    def test_a_bad_disk_may_be_tried_again(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_text("x")

        def fail(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("builtins.open", fail)
        found = failure(lambda: storage.read_bytes(f"{tmp_path}/a"))
        assert (found.error, found.retryable) == ("ReadFailed", True)

    def test_empty_file(self, tmp_path: pathlib.Path) -> None:
        storage.write_bytes(f"{tmp_path}/a", b"")
        assert storage.read_bytes(f"{tmp_path}/a") == b""


class TestCopyTree:
    @pytest.mark.parametrize("folder", FOLDERS)
    def test_all_files_and_no_more(self, tmp_path: pathlib.Path, folder: str) -> None:
        source, target = tmp_path / folder / "from", tmp_path / folder / "to"
        files = {"a": b"1", "sub/b [1].txt": b"2", "sub/deep/c%20.pb": b"", ".hidden": b"3"}
        for name, data in files.items():
            storage.write_bytes(f"{source}/{name}", data)
        storage.copy_tree(f"{source}/", str(target))
        assert below(target) == files
        assert below(source) == files

    def test_over_what_is_there(self, tmp_path: pathlib.Path) -> None:
        storage.write_bytes(f"{tmp_path}/s/a", b"new")
        storage.write_bytes(f"{tmp_path}/t/a", b"old")
        storage.write_bytes(f"{tmp_path}/t/b", b"kept")
        storage.copy_tree(f"{tmp_path}/s", f"{tmp_path}/t")
        assert below(tmp_path / "t") == {"a": b"new", "b": b"kept"}


class TestCheckPlace:
    def test_links_that_lead_out(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out" / "images").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out" / "images" / "away").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "out" / "images" / "near").symlink_to(tmp_path / "out")
        (tmp_path / "link").symlink_to(tmp_path / "out")
        (tmp_path / "out" / "images" / "a.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")  # it will be replaced
        monkeypatch.chdir(tmp_path)
        for output in (f"{tmp_path}/out", "out", "link", f"{tmp_path}/not yet/there"):
            for name in ("images/a.jpg", "images/new/a.jpg", "images/near/a.jpg"):
                storage.check_place(f"{output}/{name}", output)
        for output in (f"{tmp_path}/out", "out", "link"):
            with pytest.raises(ItemFailure, match="remove the link") as failure:
                storage.check_place(f"{output}/images/away/deep/a.jpg", output)
            assert failure.value.error == "UnsafeOutput"
        storage.check_place("gs://bucket/out/images/a.jpg", "gs://bucket/out")

    def test_a_file_for_a_folder(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "folder.jpg").mkdir()
        (tmp_path / "file.jpg").touch()
        storage.check_place(f"{tmp_path}/file.jpg", str(tmp_path))
        for name in ("folder.jpg", "file.jpg/a.jpg", "file.jpg/b/a.jpg"):
            with pytest.raises(ItemFailure, match="give it another id") as failure:
                storage.check_place(f"{tmp_path}/{name}", str(tmp_path))
            assert failure.value.error == "DuplicateOutput"


def test_names_that_a_disk_takes_for_one(tmp_path: pathlib.Path) -> None:
    """Other disks than this one are not at hand: what they would show for the file that is tried stands for them."""
    for name in ("NAMES \u00c9", "names e\u0301"):
        assert not storage.folds_names(str(tmp_path))
        assert list(tmp_path.iterdir()) == []
        (tmp_path / name).write_bytes(b"")
        assert storage.folds_names(str(tmp_path))
        (tmp_path / name).unlink()
    assert not storage.folds_names("gs://bucket/folder")
