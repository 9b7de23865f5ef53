"""Dataflow's REST API as far as a launch needs it: takes jobs, tells of them, refuses a second one of a name."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse
from types import TracebackType
from typing import Any

Json = dict[str, Any]


class Dataflow:
    """The service on a port of this machine.

    Attributes:
      jobs: What was posted, with the state of each; a test may change that.
      failing: Status that every request is answered with, 0 for none.
    """

    def __init__(self) -> None:
        self.jobs: list[Json] = []
        self.failing = 0
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if stub.failing:
                    return self.answer(stub.failing, {"error": {"code": stub.failing, "message": "as told"}})
                if any(job["name"] == body["name"] and job["currentState"] == RUNNING for job in stub.jobs):
                    return self.answer(409, {"error": {"code": 409, "message": "There is already an active job"}})
                stub.add(body | {"path": urllib.parse.urlsplit(self.path).path})
                return self.answer(200, {"id": stub.jobs[-1]["id"], "name": body["name"], "currentState": RUNNING})

            def do_GET(self) -> None:
                if stub.failing:
                    return self.answer(stub.failing, {"error": {"code": stub.failing, "message": "as told"}})
                fields = ("id", "name", "currentState", "currentStateTime")
                return self.answer(200, {"jobs": [{name: job[name] for name in fields} for job in stub.jobs]})

            def answer(self, status: int, body: Json) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
        self.url = f"http://localhost:{self._server.server_address[1]}"

    def add(self, job: Json) -> None:
        """A job that runs."""
        self.jobs.append(
            job | {"id": f"job-{len(self.jobs)}", "currentState": RUNNING, "currentStateTime": "2026-01-01T00:00:00Z"}
        )

    def end(self, state: str, time: str) -> None:
        """All jobs have come to an end."""
        for job in self.jobs:
            job.update(currentState=f"JOB_STATE_{state}", currentStateTime=time)

    def __enter__(self) -> Dataflow:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


RUNNING = "JOB_STATE_RUNNING"
