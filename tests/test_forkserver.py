"""Workers forked off a server that has loaded what they need: they take over environment and streams, and end alike."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from test_console import descendants, end

from pipelines import cli
from transforms import forkserver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only on Linux"),
]

ROOT = pathlib.Path(__file__).parent.parent
NOBODY = 'url: "localhost:1"'  # Beam's worker waits for it


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Process of a server."""
    before = set(descendants(os.getpid()))
    with forkserver.running(str(tmp_path_factory.mktemp("server")), ("transforms.limits",)):
        [process] = set(descendants(os.getpid())) - before
        yield process


def wait_for(done: Callable[[], object], seconds: float = 60.0) -> None:
    end_ = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end_
        time.sleep(0.02)


def started(command: list[str], **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **more}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def test_takes_over_environment_and_streams_and_ends_alike(server: int) -> None:
    with started(forkserver.command(), PIPELINE_OPTIONS="[") as client:
        _, told = client.communicate(timeout=60)
    assert client.returncode == 1
    assert "JSONDecodeError" in told
    assert not descendants(server)


def test_many_at_once_and_one_is_killed(server: int) -> None:
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(started(forkserver.command(), CONTROL_API_SERVICE_DESCRIPTOR=NOBODY)) for _ in range(3)
        ]
        stack.callback(end, [client.pid for client in clients])
        wait_for(lambda: len(descendants(server)) == 3)
        workers = list(descendants(server))
        time.sleep(0.3)
        assert [client.poll() for client in clients] == [None] * 3
        os.kill(workers[1], signal.SIGKILL)
        wait_for(lambda: any(client.poll() is not None for client in clients))
        assert sorted(client.poll() or 0 for client in clients) == [0, 0, 128 + signal.SIGKILL]
        assert set(descendants(server)) == {workers[0], workers[2]}
        end(workers)


def test_without_a_server_the_client_is_the_worker(server: int) -> None:
    with started([*forkserver.command()[:-1], "/nowhere/workers"]) as client:
        _, told = client.communicate(timeout=60)
    assert client.returncode == 1
    assert "KeyError: 'CONTROL_API_SERVICE_DESCRIPTOR'" in told


def test_outside_of_it_the_command_is_beams() -> None:
    before = forkserver._sockets.copy()
    forkserver._sockets.clear()
    try:
        assert forkserver.command() == [sys.executable, "-m", forkserver.WORKER]
    finally:
        forkserver._sockets.extend(before)


def test_a_path_too_long_for_a_socket(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    before = forkserver._sockets.copy()
    with forkserver.running(str(folder), ()):
        assert forkserver._sockets == before


def test_ends_with_its_launcher(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, time\nfrom transforms import forkserver\n"
        "with forkserver.running(sys.argv[1], ()):\n    time.sleep(60)"
    )
    with started([sys.executable, "-c", code, str(tmp_path)]) as launcher:
        wait_for(lambda: descendants(launcher.pid))
        [server] = descendants(launcher.pid)
        launcher.kill()
    wait_for(
        lambda: (
            not pathlib.Path(f"/proc/{server}").exists() or " Z " in pathlib.Path(f"/proc/{server}/stat").read_text()
        )
    )


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["restore", "--input", "x"], True),
        (["restore", "--direct_num_workers", "1"], False),
        (["restore", "--direct_num_workers=1"], False),
        (["restore", "--direct_num_workers", "16"], True),
        (["evaluate", "--help"], False),
        (["prepare", "--runner=DataflowRunner"], False),
        (["report", "out"], False),
    ],
)
def test_only_for_jobs_that_start_workers(arguments: list[str], begins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    begun: list[str] = []

    @contextlib.contextmanager
    def running(folder: str, modules: tuple[str, ...]) -> Iterator[None]:
        begun.append(folder)
        assert modules[0] == f"pipelines.{arguments[0]}"
        yield

    monkeypatch.setattr(forkserver, "running", running)
    with cli._workers(arguments):
        assert bool(begun) == begins
