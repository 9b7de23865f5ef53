"""What stores, networks and disks do to a run: repeated, checked, and reported by item; never torn, never lost."""

from __future__ import annotations

import io
import itertools
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import time
from typing import Any

import faulty
import numpy as np
import pyarrow.parquet as pq
import pytest
from faulty import BODIES, Proxy, Request
from PIL import Image
from pillow_files import file_of

from pipelines import restore
from transforms import records, retrying, run_lock, storage, storage_access
from transforms.items import ItemFailure, UsageError

pytestmark = pytest.mark.usefixtures("quick_retries")

PASSING = ("500", "502", "503", "504", "429", "408")
"""Statuses that pass."""

ROOT = "gs://archive/faults"
ROOT_FOLDER = pathlib.Path(__file__).parent.parent
SMALL, LARGE = os.urandom(70_000), os.urandom(9 << 20)
"""One request, and several: large files are sent in pieces."""


@pytest.fixture(scope="module", autouse=True)
def store(emulator_bucket: Any, proxy: Proxy) -> Any:
    """What is in the bucket, as seen by a client that no fault reaches."""
    storage.write_bytes(f"{ROOT}/small.bin", SMALL)
    storage.write_bytes(f"{ROOT}/large.bin", LARGE)
    return emulator_bucket


def only(kind: str, fault: str, times: int = 2, name: str = "") -> faulty.Plan:
    """The first `times` requests of a kind fail."""

    def plan(request: Request) -> str | None:
        return fault if request.kind == kind and name in request.name and request.attempt < times else None

    return plan


class TestPassing:
    @pytest.mark.parametrize("fault", [*PASSING, *BODIES, "reset", "stalled", "slow"])
    def test_read(self, proxy: Proxy, fault: str) -> None:
        with proxy.following(only("read", fault)) as committed:
            assert storage.read_bytes(f"{ROOT}/small.bin") == SMALL
        assert committed == {fault: 1 if fault == "slow" else 2}

    @pytest.mark.parametrize("fault", ["503", "short", "length too small", "corrupted", "reset in the middle"])
    def test_read_a_large_file_to_disk(self, proxy: Proxy, fault: str) -> None:
        with proxy.following(only("read", fault)) as committed, storage.local_copy(f"{ROOT}/large.bin") as path:
            assert pathlib.Path(path).read_bytes() == LARGE
        assert committed == {fault: 2}

    @pytest.mark.parametrize("fault", ["503", "short", "reset", "dripping"])
    def test_read_a_part(self, proxy: Proxy, fault: str) -> None:
        uri = storage.part_uri(f"{ROOT}/small.bin", 1000, 5000)
        with proxy.following(only("read", fault)) as committed:
            assert storage.read_bytes(uri) == SMALL[1000:6000]
        assert committed == {fault: 2}

    UNDERWAY = ("reset", "reset afterwards", "corrupted on the way in", "garbage", "short")

    @pytest.mark.parametrize(
        ("fault", "data"),
        [
            *((fault, SMALL) for fault in (*PASSING, *UNDERWAY, "slow", "stalled")),
            *((fault, LARGE) for fault in ("503", *UNDERWAY)),
            ("503", b""),
        ],
        ids=lambda value: value if isinstance(value, str) else f"{len(value)}",
    )
    def test_write(self, proxy: Proxy, store: Any, fault: str, data: bytes) -> None:
        with proxy.following(only("write", fault)) as committed:
            storage.write_bytes(f"{ROOT}/new.bin", data)
        assert committed[fault] >= 1
        assert store.blob("faults/new.bin").download_as_bytes() == data

    @pytest.mark.parametrize("fault", [*PASSING, "reset", "stalled", "short", "empty", "garbage", "slow"])
    def test_list_ask_and_remove(self, proxy: Proxy, fault: str) -> None:
        uris = [f"{ROOT}/{fault}/{index}" for index in range(3)]
        for uri in uris:
            storage.write_bytes(uri, b"x")
        counts = []
        with proxy.following(only("list", fault)) as committed:
            assert storage.listing(f"{ROOT}/{fault}", "*") == uris
            assert list(storage_access.list_objects(f"{ROOT}/{fault}/")) == uris
            counts.append(committed[fault])
        if fault not in ("short", "empty", "garbage"):  # what is asked is told by the status alone
            with proxy.following(only("stat", fault)) as committed:
                assert storage.exists(uris[0])
                assert not storage.exists(f"{ROOT}/{fault}/none")
                counts.append(committed[fault])
        with proxy.following(only("delete", fault)) as committed:
            storage.delete([*uris, f"{ROOT}/{fault}/none"])
            counts.append(committed[fault])
        assert storage.listing(f"{ROOT}/{fault}", "*") == []
        assert all(count >= 1 for count in counts), counts

    def test_a_lock_whose_answer_is_lost(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        """The store takes it, and refuses the repeated request: the run still holds it, and keeps it when renewed."""
        monkeypatch.setattr(run_lock, "RENEWAL_SECONDS", 0.05)
        ended: list[str] = []
        monkeypatch.setattr(run_lock, "_end", ended.append)

        def lost(request: Request) -> str | None:
            return ("reset afterwards", "412")[request.attempt % 2] if request.kind == "write" else None

        with proxy.following(lost) as committed:
            with run_lock.hold(f"{ROOT}/locked"):
                deadline = time.monotonic() + 60
                while committed["412"] < 3 and time.monotonic() < deadline:
                    time.sleep(0.05)
            assert committed["412"] >= 3
        assert ended == []
        assert not storage.exists(f"{ROOT}/locked/unfinished/lock")
        faster = only("write", "412", times=1)
        with proxy.following(faster), pytest.raises(UsageError, match="another run"), run_lock.hold(f"{ROOT}/locked"):
            pass

    def test_a_lock_that_is_left(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Taken over once nobody renews it; refused while somebody does."""
        monkeypatch.setattr(run_lock, "LAPSE_SECONDS", 1.0)
        left = store.blob("faults/left/unfinished/lock")
        left.upload_from_string(json.dumps({"host": "elsewhere", "process": 7, "since": "noon"}))
        with run_lock.hold(f"{ROOT}/left") as held:
            assert held.interrupted
            monkeypatch.setattr(run_lock, "RENEWAL_SECONDS", 0.1)
        with run_lock.hold(f"{ROOT}/left") as held:
            assert not held.interrupted
            monkeypatch.setattr(run_lock, "_is_dead_here", lambda said: False)
            with pytest.raises(UsageError, match=f"process {os.getpid()} on "), run_lock.hold(f"{ROOT}/left"):
                pass

    def test_waits_grow_and_differ(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        from transforms import retrying

        monkeypatch.setattr(retrying, "INITIAL_SECONDS", 0.05)
        monkeypatch.setattr(retrying, "MAXIMUM_SECONDS", 0.3)
        waits = []
        for _ in range(2):
            times: list[float] = []

            def plan(request: Request, times: list[float] = times) -> str | None:
                times.append(time.monotonic())
                return "503" if request.attempt < 6 else None

            with proxy.following(plan):
                storage.read_bytes(f"{ROOT}/small.bin")
            waits.append([after - before for before, after in itertools.pairwise(times)])
        assert max(waits[0][0], waits[1][0]) < 0.15 <= max(*waits[0][2:], *waits[1][2:])
        assert waits[0] != pytest.approx(waits[1], abs=0.005)


class TestLasting:
    """What does not pass within the deadline, or never will."""

    @pytest.mark.parametrize(
        ("fault", "error", "retryable", "message"),
        [
            ("503", "ReadFailed", True, "ServiceUnavailable: 503 .*after repeated attempts.*run again later"),
            ("429", "ReadFailed", True, "429"),
            ("reset", "ReadFailed", True, "Connection(Reset)?Error"),
            ("corrupted", "Damaged", True, "its 70000 bytes have CRC32C .*, not .*upload it anew"),
            ("corrupted, no hash", "Damaged", True, "CRC32C"),
            ("length too small", "Damaged", True, "its 35000 bytes have CRC32C"),
            ("short", "ReadFailed", True, "after repeated attempts"),
            ("stalled", "ReadFailed", True, "timed out"),
            ("dripping", "ReadFailed", True, r"only \d+ bytes in"),
            ("404", "NotFound", False, "does not exist; check the name in the manifest, and whether it was removed"),
            ("403", "PermissionDenied", False, "may not be read with these credentials"),
            ("412", "ReadFailed", False, "412 .*retention and organisation policies"),
        ],
    )
    def test_read(self, proxy: Proxy, fault: str, error: str, retryable: bool, message: str) -> None:
        began = time.monotonic()
        with proxy.following(only("read", fault, 1000)) as committed, pytest.raises(ItemFailure, match=message) as told:
            storage.read_bytes(f"{ROOT}/small.bin")
        assert (told.value.error, told.value.retryable) == (error, retryable)
        assert told.value.message.startswith(f"{ROOT}/small.bin ")
        assert "\n" not in told.value.message
        assert time.monotonic() - began < 8
        assert (committed[fault] == 1) == (fault in ("404", "403", "412"))

    @pytest.mark.parametrize(
        ("fault", "error", "retryable", "message"),
        [
            ("503", "WriteFailed", True, "503 .*run again later"),
            ("reset", "WriteFailed", True, "after repeated attempts"),
            ("corrupted on the way in", "WriteFailed", True, "match calculated"),
            ("403", "PermissionDenied", False, "storage.objectUser"),
            ("412", "WriteFailed", False, r"PreconditionFailed: 412 POST \S+ \S+ \S+ fault.*policies"),
        ],
    )
    def test_write_leaves_what_was_there(
        self, proxy: Proxy, store: Any, fault: str, error: str, retryable: bool, message: str
    ) -> None:
        storage.write_bytes(f"{ROOT}/kept.bin", b"old")
        with proxy.following(only("write", fault, 1000)), pytest.raises(ItemFailure, match=message) as told:
            storage.write_bytes(f"{ROOT}/kept.bin", SMALL)
        assert (told.value.error, told.value.retryable) == (error, retryable)
        assert "\n" not in told.value.message
        assert store.blob("faults/kept.bin").download_as_bytes() == b"old"

    def test_listing(self, proxy: Proxy) -> None:
        with proxy.following(only("list", "503", 1000)), pytest.raises(ItemFailure, match="503") as told:
            storage.listing(ROOT, "*")
        assert told.value.retryable
        with proxy.following(only("stat", "500", 1000)), pytest.raises(ItemFailure, match="500"):
            storage.exists(f"{ROOT}/small.bin")
        with proxy.following(only("delete", "503", 1000)), pytest.raises(ItemFailure, match="could not be removed"):
            storage.delete([f"{ROOT}/small.bin"])

    def test_a_bucket_that_may_not_be_written(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        storage_access.check_access(f"{ROOT}/out", write=True)
        with proxy.following(lambda request: "no permissions" if "testPermissions" in request.name else None):
            with pytest.raises(UsageError, match="may not write to gs://archive; grant them roles/storage.objectUser"):
                storage_access.check_access(f"{ROOT}/out", write=True)
            storage_access.check_access(f"{ROOT}/out")


LASTING = {
    "p07.png": ("read", "404", ("read", "NotFound", False)),
    "p19.png": ("read", "corrupted", ("read", "Damaged", True)),
    "p33.png": ("read", "403", ("read", "PermissionDenied", False)),
    "p38.png": ("write", "412", ("write", "WriteFailed", False)),
}
FAULTS = {
    "read": (*PASSING, *BODIES, "reset", "slow", "stalled"),
    "write": (*PASSING, "reset", "reset afterwards", "corrupted on the way in", "garbage", "short", "slow"),
    "list": (*PASSING, "reset", "short", "empty", "garbage"),
    "stat": (*PASSING, "reset", "slow"),
    "delete": (*PASSING, "reset", "slow"),
}


class TestWholeRun:
    """Forty pictures through a store where four requests of ten fail, and four objects that never work."""

    @pytest.mark.slow
    def test_nothing_is_lost(
        self,
        proxy: Proxy,
        store: Any,
        foreign_models: dict[str, str],
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        rng = np.random.default_rng(5)
        (tmp_path / "in").mkdir()
        for index in range(40):
            picture, path = (
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)),
                tmp_path / "in" / f"p{index:02d}.png",
            )
            path.write_bytes(file_of(picture, "PNG"))
            store.blob(f"many/{path.name}").upload_from_filename(str(path))
        common = ["--model", foreign_models["inverted"], "--direct_num_workers", "1"]
        assert restore.main(["--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out", *common]) == 0
        dice = random.Random(7)

        def plan(request: Request) -> str | None:
            kind, fault, _ = LASTING.get(request.name.split("/")[-1], ("", "", None))
            if kind == request.kind:
                return fault
            again = request.attempt < 3 and dice.random() < 0.4
            return dice.choice(FAULTS[request.kind]) if again else None

        monkeypatch.setattr(retrying, "SECONDS", 6.0)  # for three attempts, each stalled, on a busy machine
        given = ["--input", "gs://archive/many", "--output", "gs://archive/many-out", *common]
        with proxy.following(plan) as committed:
            assert restore.main(given) == 3
        total = sum(committed.values())
        print(f"{total} faults of {len(committed)} kinds in {len(proxy.requests)} requests: {dict(committed)}")
        assert total > 80
        assert len(committed) > 18

        found = {blob.name: blob.download_as_bytes() for blob in store.client.list_blobs(store, prefix="many-out/")}
        summary = json.loads(found["many-out/summary.json"])
        assert summary["counts"] == {"input": 40, "restored": 36, "skipped": 0, "failed": 4}
        assert summary["repeated_requests"] > 40
        errors = [json.loads(line) for line in found["many-out/errors/errors-00000-of-00001.jsonl"].splitlines()]
        assert {e["id"]: (e["stage"], e["error"], e["retryable"]) for e in errors} == {
            name: expected for name, (_, _, expected) in LASTING.items()
        }
        pictures = {name.split("/")[-1]: data for name, data in found.items() if "/images/" in name}
        whole = {path.name: path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()}
        assert pictures == {name: data for name, data in whole.items() if name not in LASTING}
        rows = pq.read_table(io.BytesIO(found["many-out/metrics/metrics-00000-of-00001.parquet"]))
        assert sorted(rows.column("id").to_pylist()) == sorted(pictures)


class TestDisk:
    def test_a_file_that_is_too_large(self, tmp_path: pathlib.Path) -> None:
        """RLIMIT_FSIZE: a quota, as the system sees it."""
        storage.write_bytes(f"{tmp_path}/a", b"old")
        writers = {
            "bytes": lambda: storage.write_bytes(f"{tmp_path}/a", bytes(100_000)),
            "records": lambda: records.write_shard(f"{tmp_path}/a", [bytes(100_000)] * 3),
        }
        for name, write in writers.items():
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
            try:
                with pytest.raises(ItemFailure, match="File too large.*free space or raise the quota") as told:
                    write()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert (told.value.error, told.value.retryable) == ("DiskFull", True), name
            assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
            assert (tmp_path / "a").read_bytes() == b"old"

    def test_output_that_cannot_be_written(self, tmp_path: pathlib.Path) -> None:
        storage_access.check_access(f"{tmp_path}/new/folder", write=True)
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "file").write_text("x")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        for output in (f"{tmp_path}/file", f"{tmp_path}/file/out", f"{tmp_path}/dangling", "/proc/out"):
            with pytest.raises(UsageError, match="cannot be written.*or name another --output"):
                storage_access.check_access(output, write=True)

    @pytest.mark.slow
    def test_a_full_disk_and_one_that_is_read_only(
        self, foreign_models: dict[str, str], tmp_path: pathlib.Path
    ) -> None:
        """Real ones, of half a megabyte, in a name space of their own."""
        small = tmp_path / "small"
        small.mkdir()
        mount = f"mount -t tmpfs -o size=512k none {small}"
        if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount; RLIMIT_FSIZE is tested above")
        rng = np.random.default_rng(5)
        (tmp_path / "in").mkdir()
        for index in range(8):
            picture = Image.fromarray(rng.integers(0, 256, (160, 200, 3), dtype=np.uint8))  # 96 kB, it does not shrink
            (tmp_path / "in" / f"p{index}.png").write_bytes(file_of(picture, "PNG"))
        common = f"--model '{foreign_models['inverted']}' --direct_num_workers 1"
        run = f"{sys.executable} -m pipelines.cli restore --input {tmp_path}/in {common} --output"
        script = f"""
            {mount}
            {run} {small}/out; echo $? > {tmp_path}/status
            cp -r {small}/out {tmp_path}/copy
            mount -o remount,ro {small}
            {run} {small}/other; echo $? > {tmp_path}/status2
        """
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT_FOLDER
        )
        assert "Traceback" not in done.stderr
        written = {path.name: path for path in (tmp_path / "copy").rglob("*") if path.is_file()}
        assert not [name for name in written if "tmp" in name]
        pictures = [path for path in written.values() if path.suffix == ".png"]
        assert 1 <= len(pictures) < 8
        for path in pictures:
            restored = np.asarray(Image.open(path))
            np.testing.assert_array_equal(restored, 255 - np.asarray(Image.open(tmp_path / "in" / path.name)))
        status = int((tmp_path / "status").read_text())
        if "summary.json" in written:
            counts = json.loads(written["summary.json"].read_text())["counts"]
            assert counts == {"input": 8, "restored": len(pictures), "skipped": 0, "failed": 8 - len(pictures)}
            errors = [json.loads(line) for line in written["errors-00000-of-00001.jsonl"].read_text().splitlines()]
            assert {(e["stage"], e["error"], e["retryable"]) for e in errors} == {("write", "DiskFull", True)}
            assert status in (1, 3), done.stderr  # 1: the report found no room
        else:
            assert status == 1, done.stderr
        assert "No space left on device" in done.stdout + done.stderr
        assert int((tmp_path / "status2").read_text()) == 2
        assert f"unfade: {small}/other cannot be written: {small}: Read-only file system" in done.stderr
