"""Worker processes are forked off one that has loaded Beam and TensorFlow, while the launcher gets ready.

Loading takes seconds: so all workers wait for it once, and share the memory that it fills.

Beam starts a worker by a command. Here that is a small client, this file run as a script: it hands its environment and
its standard streams to the server, waits, and ends as the worker ends. Without a server it becomes the worker itself.

Forking is safe because the server does nothing but import: no thread of Python's, gRPC's or TensorFlow's runs yet.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence

WORKER = "apache_beam.runners.worker.sdk_worker_main"

_LENGTH, _STATUS = struct.Struct("!Q"), struct.Struct("!i")
_FORKED = b"f"
_STREAMS = (0, 1, 2)

_sockets: list[str] = []


# --- in the launcher --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(folder: str, modules: Sequence[str]) -> Iterator[None]:
    """Starts the server, which loads while the caller goes on, and ends it at the end.

    Args:
      folder: For its socket; nobody else may enter it.
      modules: What workers are going to need, besides Beam.
    """
    path = os.path.join(folder, "workers")
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            os.close(os.pidfd_open(os.getpid()))
            listener.bind(path)
        except (AttributeError, OSError):  # not Linux, or an old one; too long for the path of a socket
            yield  # workers load by themselves
            return
        listener.listen()
        code = f"import sys; sys.path[:] = {sys.path!r}; from transforms import forkserver; "
        code += f"forkserver.serve({listener.fileno()}, {list(modules)!r})"
        shown = None if os.environ.get("UNFADE_DEBUG") else subprocess.DEVNULL  # what libraries write there is noise
        # One thread a worker for NumPy's products: workers take the cores, and a process with threads is not to fork.
        environment = {"OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        server = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # closed when this process is gone, however it went
            stdout=subprocess.DEVNULL,
            stderr=shown,
        )
    try:
        _sockets.append(path)
        atexit.register(_end, server)  # a run that is stopped leaves by `os._exit`, after these
        yield
    finally:
        _sockets.remove(path)
        atexit.unregister(_end)
        _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()


def command() -> list[str]:
    """What starts a worker, as words."""
    if not _sockets:
        return [sys.executable, "-m", WORKER]
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), _sockets[-1]]


# --- in the server ----------------------------------------------------------------------------------------------------


def serve(descriptor: int, modules: Sequence[str]) -> None:
    """Loads what workers need, and forks one for each client. Returns in a worker, when its work is done.

    Args:
      descriptor: Of the listening socket.
      modules: See `running`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them here, too; the launcher decides
        signal.signal(number, signal.SIG_IGN)
    main = importlib.import_module(WORKER).main
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # or the collector would write to all of the memory that workers share
    with socket.socket(fileno=descriptor) as listener:
        client = _forked(listener)
    with client:
        _become(client)
    main(sys.argv)


def _forked(listener: socket.socket) -> socket.socket:
    """Serves until the launcher is gone; returns in each worker, with the connection to its client."""
    workers: dict[int, tuple[int, socket.socket]] = {}  # by a descriptor that tells when the process ends
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    os._exit(0)  # workers see by themselves that the launcher is gone
                if key.fileobj is listener:
                    client = listener.accept()[0]
                    if not (process := os.fork()):
                        return client
                    ended = os.pidfd_open(process)
                    workers[ended] = process, client
                    selector.register(ended, selectors.EVENT_READ)
                else:
                    process, client = workers.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                    with client, contextlib.suppress(OSError):  # a client that was ended
                        client.sendall(_STATUS.pack(status if status >= 0 else 128 - status))


def _become(client: socket.socket) -> None:
    """Makes this process, as far as anybody can tell, the client."""
    size, streams, _, _ = socket.recv_fds(client, _LENGTH.size, len(_STREAMS))
    environment = client.makefile("rb").read(*_LENGTH.unpack(size))
    client.sendall(_FORKED)
    os.environ.clear()
    os.environ.update(json.loads(environment))
    for stream, mine in zip(streams, _STREAMS, strict=True):
        os.dup2(stream, mine)
        os.close(stream)


# --- the client -------------------------------------------------------------------------------------------------------


def _ask(path: str) -> None:
    """Has a worker forked and ends as it does; returns if there is none."""
    environment = json.dumps(dict(os.environ)).encode()
    with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
        server.connect(path)
        socket.send_fds(server, [_LENGTH.pack(len(environment))], _STREAMS)
        server.sendall(environment)
        if server.recv(1) == _FORKED:
            status = server.recv(_STATUS.size)
            sys.exit(_STATUS.unpack(status)[0] if status else 128 + signal.SIGKILL)


if __name__ == "__main__":
    _ask(sys.argv[1])
    os.execv(sys.executable, [sys.executable, "-m", WORKER])
