"""Decoders in a process of their own: a file that crashes one, hangs it or fills the memory costs only itself.

Decoders are C code that is given strangers' files. Each worker keeps one such process, or one a thread, started with
the first picture; it loads neither Beam nor TensorFlow. Pixels come back over a socket.
"""

from __future__ import annotations

import atexit
import builtins
import collections
import contextlib
import dataclasses
import io
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms import limits
from transforms.items import ItemFailure

if TYPE_CHECKING:
    from transforms import codecs

_FRAME = struct.Struct("!QQ")  # bytes of the pickle, number of buffers (or bytes of the file) after it
_CHILD = "import sys; sys.path[:] = {path!r}; from transforms import isolation; isolation._serve({descriptor})"


def decode(encoded: bytes, max_pixels: int | None = None, *, allow_truncated: bool = False) -> codecs.Picture:
    """As `codecs.decode`.

    Raises:
      ItemFailure: As there, and `DecoderCrashed`, `TimedOut`; `OutOfMemory` where the process was killed.
    """
    limit = {} if max_pixels is None else {"max_pixels": max_pixels}
    picture: codecs.Picture = _call("decode", encoded, allow_truncated=allow_truncated, **limit)
    return dataclasses.replace(picture, encoded=encoded)


def read_header(encoded: bytes, max_pixels: int) -> codecs.Header:
    """As `codecs.read_header`; failures also as `decode`."""
    header: codecs.Header = _call("read_header", encoded, max_pixels=max_pixels)
    return header


def embedded_caption(encoded: bytes) -> str | None:
    """As `captions.embedded_caption`; failures also as `decode`."""
    caption: str | None = _call("embedded_caption", encoded)
    return caption


# --- in the worker ----------------------------------------------------------------------------------------------------

_idle: collections.deque[_Decoder] = collections.deque()  # its own operations are atomic


def _call(name: str, encoded: bytes, **arguments: Any) -> Any:
    decoder = _take()
    try:
        seconds = limits.remaining()
        result, error = decoder.call(name, encoded, arguments, limits.ITEM_SECONDS if seconds is None else seconds)
    except BaseException:
        decoder.stop()
        raise
    _idle.append(decoder)
    if error is not None:
        raise error
    return result


def _take() -> _Decoder:
    with contextlib.suppress(IndexError):
        while True:
            decoder = _idle.pop()
            if decoder.is_alive():
                return decoder
            decoder.stop()
    return _Decoder()


@atexit.register
def _stop_all() -> None:
    while _idle:
        _idle.pop().stop()


os.register_at_fork(after_in_child=_idle.clear)  # the parent's processes answer the parent alone


class _Decoder:
    """One process, and the socket to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            code = _CHILD.format(path=sys.path, descriptor=theirs.fileno())
            shown = (
                None if os.environ.get("UNFADE_DEBUG") else subprocess.DEVNULL
            )  # what libraries write there is noise
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=shown,
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._socket.close()

    def call(self, name: str, encoded: bytes, arguments: dict[str, Any], seconds: float) -> tuple[Any, Any]:
        """Result and exception, one of them None."""
        try:
            self._socket.settimeout(seconds + 1)  # the process watches the limit, too, and ends by itself
            head = pickle.dumps((name, arguments, seconds))
            self._socket.sendall(_FRAME.pack(len(head), len(encoded)) + head)
            self._socket.sendall(encoded)
            return self._answer()
        except TimeoutError:
            raise _timed_out(seconds) from None
        except (EOFError, ConnectionError):
            raise self._death(seconds) from None

    def _answer(self) -> tuple[Any, Any]:
        size, count = _FRAME.unpack(_receive(self._socket, _FRAME.size))
        sizes = struct.unpack(f"!{count}Q", _receive(self._socket, 8 * count))
        body = _receive(self._socket, size)
        answer: tuple[Any, Any] = _Unpickler(
            io.BytesIO(body), buffers=[_receive(self._socket, size) for size in sizes]
        ).load()
        return answer

    def _death(self, seconds: float) -> ItemFailure | RuntimeError:
        status = self._process.wait()
        if status == -signal.SIGALRM:
            return _timed_out(seconds)
        if status == -signal.SIGKILL:
            return ItemFailure(
                "OutOfMemory",
                "the decoder was killed over it, most likely for memory; fewer workers leave more",
                retryable=True,
            )
        if status < 0:
            return ItemFailure(
                "DecoderCrashed",
                f"the decoder crashed on this file ({signal.Signals(-status).name}); save it anew with another program",
            )
        return RuntimeError(f"the decoding process ended with status {status}; UNFADE_DEBUG=1 shows why")


def _timed_out(seconds: float) -> ItemFailure:
    return ItemFailure(
        "TimedOut",
        f"the decoder did not come to an end within {seconds:.0f} s; raise --max_item_seconds, or save the file anew",
    )


class _Unpickler(pickle.Unpickler):
    """Makes nothing but what an answer may hold: a decoder that a file has taken over must not run code here."""

    _KNOWN = {  # noqa: RUF012
        ("transforms.codecs", "Picture"),
        ("transforms.codecs", "Header"),
        ("transforms.items", "_rebuild_failure"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
    }
    _NUMPY = ("_frombuffer", "_reconstruct", "scalar")

    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and isinstance(found := getattr(builtins, name, None), type):
            if issubclass(found, Exception):
                return found
        elif (module, name) in self._KNOWN or (module.startswith("numpy.") and name in self._NUMPY):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a decoder's answer")


# --- both sides -------------------------------------------------------------------------------------------------------


def _receive(connection: socket.socket, size: int) -> memoryview:
    data: memoryview = np.empty(size, np.uint8).data  # not filled with zeros first, as a bytearray is
    at = 0
    while at < size:
        if not (count := connection.recv_into(data[at:])):
            raise EOFError
        at += count
    return data


# --- in the decoding process ------------------------------------------------------------------------------------------


def _serve(descriptor: int) -> None:
    """Answers calls until the worker is gone."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends it, whatever code it is in, worker or none
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # short of memory, the kernel ends this process, not the worker

    from transforms import captions, codecs

    functions: dict[str, Callable[..., Any]] = {
        "decode": codecs.decode,
        "read_header": codecs.read_header,
        "embedded_caption": captions.embedded_caption,
    }
    with socket.socket(fileno=descriptor) as connection:
        while True:
            try:
                head_size, size = _FRAME.unpack(_receive(connection, _FRAME.size))
                name, arguments, seconds = pickle.loads(_receive(connection, head_size))  # the worker's own
                encoded = bytes(_receive(connection, size))
            except (EOFError, ConnectionError):
                return
            signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
            answer: tuple[Any, Any]
            try:
                answer = functions[name](encoded, **arguments), None
                if name == "decode":
                    answer = dataclasses.replace(answer[0], encoded=b""), None  # the worker has it
            except Exception as error:
                answer = None, _portable(error)
            del encoded
            signal.setitimer(signal.ITIMER_REAL, 0)
            body, views = _packed(answer)
            del answer
            try:
                _send(connection, body, views)
            except ConnectionError:
                return


def _portable(error: Exception) -> Exception:
    """The exception as one that can be sent: a class of Python's own, or ours."""
    if isinstance(error, ItemFailure) or type(error).__module__ == "builtins":
        return error.with_traceback(None)
    return RuntimeError(f"{type(error).__name__}: {error}")


def _packed(answer: tuple[Any, Any]) -> tuple[bytes, list[memoryview]]:
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    return body, [buffer.raw() for buffer in buffers]


def _send(connection: socket.socket, body: bytes, views: list[memoryview]) -> None:
    """Empties `views`: each is given up when it is sent, or a large picture would be in memory twice as a whole."""
    sizes = struct.pack(f"!{len(views)}Q", *(view.nbytes for view in views))
    connection.sendall(_FRAME.pack(len(body), len(views)) + sizes + body)
    views.reverse()
    while views:
        connection.sendall(views.pop())
