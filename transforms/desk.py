"""The review desk's server: shows a run's report to the person at this machine and writes down what they decide.

It listens on the loopback interface alone. Every address begins with a token that only its user has been told. A page
of another site can send requests here, too, so requests that another page makes, or that name another host (DNS
rebinding), are refused.
"""

from __future__ import annotations

import json
import mimetypes
import posixpath
import secrets
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from transforms import decisions, report, storage
from transforms.items import ItemFailure, UsageError

_BODY_LIMIT = 100_000
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SHOWN = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/gif", "image/bmp")
_PAGES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Desk(ThreadingHTTPServer):
    """Serves the report of one run.

    Args:
      output: The run's folder.
      uris: The input's URI of every restored picture, by id.
      obeyed: See `report.corrected`.
      port: 0 for any that is free.

    Raises:
      OSError: The port is taken.
    """

    daemon_threads = True
    request_queue_size = 128  # with the default of 5, decisions made at once by several are refused at times

    def __init__(self, output: str, uris: Mapping[str, str], obeyed: Mapping[str, str], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.output, self.uris, self.obeyed = output, uris, obeyed
        self.token = secrets.token_urlsafe(24)
        self.file = storage.join(output, decisions.FILE)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self._writing = threading.Lock()

    @property
    def url(self) -> str:
        """Where the page is. Whoever has it can read the run's pictures and decide."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/report/index.html"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away while it is answered is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def decided(self) -> dict[str, decisions.Decision]:
        """What has been decided so far, by id.

        Raises:
          UsageError: The file was changed by hand, and is none of decisions any more.
        """
        return decisions.read(self.file) if storage.exists(self.file) else {}

    def decide(self, record: Any) -> None:
        """Writes a decision down, in place of an earlier one about the same picture; none takes that back.

        Raises:
          ValueError: It is no decision about a picture of this run.
          ItemFailure: `WriteFailed`.
          UsageError: See `decided`.
        """
        taken_back = isinstance(record, dict) and "decision" in record and record["decision"] is None
        made = None if taken_back else decisions.parse(record)
        id = made.id if made else record.get("id")
        if not isinstance(id, str) or id not in self.uris:
            raise ValueError(f"this run restored no picture {id!r}")
        with self._writing:  # read again: another desk, or an editor, may have written meanwhile
            known = self.decided()
            known.pop(id, None)
            if made:
                known[id] = made
            decisions.write(self.file, known)


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "unfade", ""
    protocol_version = "HTTP/1.1"

    @property
    def desk(self) -> Desk:
        return cast(Desk, self.server)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses hold the token."""

    def _answer(self, work: Any) -> None:
        try:
            kind, data = work(self._asked())
            status = HTTPStatus.OK
        except _Refused as refused:
            kind, data, status = "text/plain; charset=utf-8", str(refused).encode(), refused.status
            self.close_connection = True  # a body may be left unread
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if kind == "application/octet-stream":
            self.send_header("Content-Disposition", "attachment")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def _asked(self) -> urllib.parse.SplitResult:
        """The address below the token. Raises `_Refused` for who has no business here."""
        if self.headers.get("Host") not in self.desk.hosts:
            raise _Refused(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost only")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.desk.hosts}:
            raise _Refused(HTTPStatus.FORBIDDEN, "other pages may not ask here")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _Refused(HTTPStatus.FORBIDDEN, "other pages may not ask here")
        address = urllib.parse.urlsplit(self.path)
        token, _, rest = address.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(token.encode(), self.desk.token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "the address lacks its token: open the one that unfade review printed")
        return address._replace(path=rest)

    def _get(self, address: urllib.parse.SplitResult) -> tuple[str, bytes]:
        if address.path == "report/data/decisions.js":
            try:
                script = report.decisions_script(self.desk.decided().values(), self.desk.obeyed, live=True)
            except UsageError as error:
                raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from error
            return _PAGES[".js"], script.encode("utf-8", "backslashreplace")
        if address.path == "original":
            uri = self.desk.uris.get(dict(urllib.parse.parse_qsl(address.query)).get("id", ""))
            if uri is None:
                raise _Refused(HTTPStatus.NOT_FOUND, "this run restored no such picture")
            return self._file(uri, uri)
        path = urllib.parse.unquote(address.path, errors="surrogateescape")
        parts = path.split("/")
        if parts[0] not in ("report", "images") or not all(parts) or {".", ".."} & set(parts) or "\\" in path:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such file")
        return self._file(storage.join(self.desk.output, path), path)

    def _file(self, uri: str, name: str) -> tuple[str, bytes]:
        kind = mimetypes.guess_type(name)[0]
        if name.startswith("report/"):
            kind = _PAGES.get(posixpath.splitext(name)[1], kind)
        elif kind not in _SHOWN:
            kind = None  # whatever it is, it is for the disk: no page of ours
        try:
            return kind or "application/octet-stream", storage.read_bytes(uri)
        except ItemFailure as failure:
            raise _Refused(HTTPStatus.NOT_FOUND, failure.message) from failure

    def _post(self, address: urllib.parse.SplitResult) -> tuple[str, bytes]:
        if address.path != "decisions":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such place")
        # A form of another page cannot send JSON without asking first, and is refused then.
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "decisions are JSON")
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > _BODY_LIMIT:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a decision has at most {_BODY_LIMIT} bytes")
        try:
            self.desk.decide(json.loads(self.rfile.read(int(size))))
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        except (ItemFailure, UsageError) as error:
            message = error.message if isinstance(error, ItemFailure) else str(error)
            raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, message) from error
        return "application/json", b"{}"
