"""A real HTTP proxy before a real object store, which does to requests and answers what networks and stores do."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import http.server
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Request:
    """What a fault may depend on.

    Attributes:
      kind: `read`, `write`, `list`, `delete`, `stat` (metadata of an object or bucket).
      name: The object's name, or the prefix that is listed.
      attempt: How often this was asked before: 0, 1, ...
    """

    kind: str
    name: str
    attempt: int


STATUSES = {
    "500": 500,
    "502": 502,
    "503": 503,
    "504": 504,
    "429": 429,
    "408": 408,
    "403": 403,
    "404": 404,
    "412": 412,
}
BODIES = (
    *("short", "length too small", "length too large", "corrupted", "corrupted, no hash", "empty", "garbage"),
    *("reset in the middle", "dripping"),
)
OTHERS = ("reset", "reset afterwards", "corrupted on the way in", "slow", "stalled", "no permissions")
"""Every fault by name: a status in place of an answer; an answer's body; the connection, the request, the time."""

Plan = Callable[[Request], str | None]


class Proxy:
    """Forwards to a store, after asking a plan which fault to commit.

    Args:
      port: The store's, on this machine.
    """

    def __init__(self, port: int) -> None:
        self.plan: Plan = lambda request: None
        self.committed: collections.Counter[str] = collections.Counter()
        self.requests: list[Request] = []
        self._asked: collections.Counter[tuple[str, str]] = collections.Counter()
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                proxy._serve(self, port)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A connection that was reset, on purpose or by a client that gave up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reset(self, plan: Plan | None = None) -> None:
        """Forgets what was asked, and follows another plan."""
        with self._lock:
            self.plan = plan or (lambda request: None)
            self.committed.clear()
            self.requests.clear()
            self._asked.clear()

    @contextlib.contextmanager
    def following(self, plan: Plan) -> Iterator[collections.Counter[str]]:
        """Follows a plan for a while; gives how often each fault was committed."""
        self.reset(plan)
        try:
            yield self.committed
        finally:
            self.plan = lambda request: None

    def _fault(self, method: str, path: str, body: bytes) -> str | None:
        kind, name = _kind(method, path, body)
        with self._lock:
            attempt = self._asked[kind, name]
            self._asked[kind, name] += 1
            request = Request(kind, name, attempt)
            self.requests.append(request)
            fault = self.plan(request)
            if fault:
                self.committed[fault] += 1
        return fault

    def _serve(self, handler: http.server.BaseHTTPRequestHandler, port: int) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = self._fault(handler.command, handler.path, body)
        if fault in STATUSES:
            return _answer(handler, STATUSES[fault], [], b'{"error": {"message": "a fault"}}')
        if fault == "reset":
            return _reset(handler)
        if fault == "stalled":
            time.sleep(1.0)
            return _reset(handler)
        if fault == "slow":
            time.sleep(0.1)
        if fault == "corrupted on the way in" and len(body) > 1000:  # not the name
            body = _flipped(body, len(body) * 3 // 4)
        upstream = http.client.HTTPConnection("127.0.0.1", port)
        upstream.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data, headers = answer.read(), answer.getheaders()
        upstream.close()
        if fault == "reset afterwards":
            return _reset(handler)
        if fault == "dripping":
            return _drip(handler, answer.status, headers, data)
        if fault == "no permissions":
            data = b'{"kind": "storage#testIamPermissionsResponse"}'
        if fault == "garbage":
            data = b"<html>the store is being repaired"
        if fault == "corrupted, no hash":
            headers = [(name, value) for name, value in headers if name.lower() != "x-goog-hash"]
        if fault in ("corrupted", "corrupted, no hash"):
            data = _flipped(data, len(data) // 2)
        length = len(data)
        if fault == "empty":
            data, length = b"", 0
        if fault == "length too small":
            data, length = data[: len(data) // 2], len(data) // 2
        if fault == "length too large":
            length += 10
        if fault in ("short", "reset in the middle"):
            data = data[: len(data) // 2]
        _answer(handler, answer.status, headers, data, length)
        if fault == "reset in the middle":
            _reset(handler)
        elif fault in ("short", "length too large"):
            handler.close_connection = True
        return None


def _kind(method: str, path: str, body: bytes) -> tuple[str, str]:
    """What a request of the JSON API is about: its kind, and the object's name."""
    url = urllib.parse.urlsplit(path)
    query = urllib.parse.parse_qs(url.query)
    parts = url.path.split("/o/", 1)
    name = urllib.parse.unquote(parts[1]) if len(parts) > 1 else ""
    if url.path.startswith("/upload/"):
        found = query.get("name", [""])[0] or body.partition(b'"name": "')[2].partition(b'"')[0].decode()
        session = query.get("upload_id", [":"])[0].split(":")[1]  # the emulator names it bucket:object:time
        return "write", found or session
    if method == "DELETE":
        return "delete", name
    if url.path.startswith("/download/") or query.get("alt") == ["media"]:
        return "read", name
    if url.path.endswith("/o"):
        return "list", query.get("prefix", [""])[0]
    return "stat", name or url.path


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :] if data else data


def _answer(
    handler: http.server.BaseHTTPRequestHandler,
    status: int,
    headers: list[tuple[str, str]],
    data: bytes,
    length: int | None = None,
) -> None:
    handler.send_response_only(status)
    for name, value in headers:
        if name.lower() not in ("content-length", "connection", "transfer-encoding"):
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)
    handler.wfile.flush()


def _reset(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Ends the connection by RST, as a store that dies or a firewall does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    for part in (handler.rfile, handler.wfile, handler.connection):
        part.close()


def _drip(
    handler: http.server.BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], data: bytes
) -> None:
    """A byte now and then: no timeout of a socket ever fires."""
    _answer(handler, status, headers, b"", len(data))
    with contextlib.suppress(OSError):
        for index in range(min(len(data), 100)):
            handler.wfile.write(data[index : index + 1])
            handler.wfile.flush()
            time.sleep(0.1)
    _reset(handler)
