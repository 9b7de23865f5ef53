"""Decisions: their file, and the server that writes it."""

from __future__ import annotations

import http.client
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import decisions, previews
from transforms.decisions import KINDS, Decision
from transforms.desk import Desk
from transforms.items import UsageError

texts = st.text(min_size=1, max_size=40).filter(str.strip)
decided = st.builds(Decision, texts, st.sampled_from(KINDS), texts.map(str.strip))


@given(st.lists(decided, unique_by=lambda one: one.id))
def test_what_is_written_is_read_again(made: list[Decision]) -> None:
    text = decisions.dumps(made)
    assert decisions.loads(text) == {one.id: one for one in made}
    assert text.isascii()
    assert text.count("\n") == len(made)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        decisions.loads(text)
    except ValueError as error:
        assert str(error).startswith("line ")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[1]", "line 2: not an object"),
        ('{"decision": "accept"}', "line 2: id is missing"),
        ('{"id": 3, "decision": "accept"}', "line 2: id is missing"),
        (
            '{"id": "a", "decision": "maybe"}',
            "line 2: decision must be one of accept, reject, input, caption, not 'maybe'",
        ),
        ('{"id": "a", "decision": "caption"}', "line 2: caption is missing"),
        ('{"id": "a", "decision": "caption", "caption": " "}', "line 2: caption is missing"),
        ('{"id": "a", "decision": "accept", "caption": 3}', "line 2: caption must be text"),
        ("nonsense", "line 2: Expecting value"),
    ],
)
def test_bad_lines_are_named(line: str, why: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"id": "b", "decision": "accept"}\n' + line)
    with pytest.raises(UsageError, match="d.jsonl is no file of decisions: ") as caught:
        decisions.read(f"{tmp_path}/d.jsonl")
    assert why in str(caught.value)


def test_the_last_about_an_item_counts(tmp_path: pathlib.Path) -> None:
    lines = ['{"id": "a", "decision": "accept"}', "", '{"id": "a", "decision": "reject", "at": "noon"}']
    (tmp_path / "d.jsonl").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert decisions.read(f"{tmp_path}/d.jsonl") == {"a": Decision("a", "reject")}
    with pytest.raises(UsageError, match="does not exist"):
        decisions.read(f"{tmp_path}/none.jsonl")


class TestDesk:
    @pytest.fixture
    def desk(self, tmp_path: pathlib.Path) -> Iterator[Desk]:
        out = tmp_path / "out"
        for name, text in (("report/index.html", "page"), ("report/data/index.js", "js"), ("images/a b.tif", "tiff")):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)
        (out / "summary.json").write_text("secret")
        (tmp_path / "in.jpg").write_text("input")
        with Desk(str(out), {"a b": str(tmp_path / "in.jpg"), "港": "nowhere"}, {}) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server
            server.shutdown()

    @staticmethod
    def ask(
        desk: Desk, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> tuple[int, str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", desk.server_port, timeout=20)
        given = {
            "Host": f"127.0.0.1:{desk.server_port}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            given = {"Content-Type": "application/json", **given}
        connection.request(
            "GET" if body is None else "POST", f"/{desk.token if token is None else token}/{path}", data, given
        )
        answer = connection.getresponse()
        result = answer.status, answer.read().decode(), answer.headers
        connection.close()
        return result

    def test_files(self, desk: Desk) -> None:
        status, text, headers = self.ask(desk, "report/index.html")
        assert (status, text, headers["Content-Type"]) == (200, "page", "text/html; charset=utf-8")
        assert "script-src 'self';" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        status, text, headers = self.ask(desk, "images/a%20b.tif")
        assert (status, text, headers["Content-Type"]) == (200, "tiff", "application/octet-stream")
        assert headers["Content-Disposition"] == "attachment"
        status, text, headers = self.ask(desk, "original?id=a+b")
        assert (status, text, headers["Content-Type"]) == (200, "input", "image/jpeg")
        assert self.ask(desk, "original?id=%E6%B8%AF")[0] == 404
        assert desk.url.startswith(f"http://127.0.0.1:{desk.server_port}/{desk.token}/")

    @pytest.mark.parametrize(
        "path",
        [
            *("summary.json", "report/../summary.json", "report/%2e%2e/summary.json", "images/..%2fsummary.json"),
            *("report//etc/passwd", "images/%2Fetc%2Fpasswd", "report", "", "original?id=../summary.json"),
            "images/..%5csummary.json",
        ],
    )
    def test_nothing_else(self, desk: Desk, path: str) -> None:
        status, text, _ = self.ask(desk, path)
        assert status == 404
        assert "secret" not in text

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example"},
            {"Host": "evil.example:80"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"token": ""},
            {"token": "x" * 32},
            {"token": "report"},
        ],
    )
    def test_strangers(self, desk: Desk, headers: dict[str, str]) -> None:
        assert self.ask(desk, "report/index.html", **headers)[0] == 403
        assert self.ask(desk, "decisions", {"id": "a b", "decision": "accept"}, **headers)[0] == 403
        assert not pathlib.Path(desk.file).exists()

    def test_decisions_are_written(self, desk: Desk) -> None:
        origin = f"http://127.0.0.1:{desk.server_port}"
        for record in (
            {"id": "港", "decision": "caption", "caption": "A harbour"},
            {"id": "a b", "decision": "accept"},
        ):
            assert self.ask(desk, "decisions", record, Origin=origin, Sec_Fetch_Site="same-origin")[0] == 200
        assert list(decisions.read(desk.file).values()) == [
            Decision("a b", "accept"),
            Decision("港", "caption", "A harbour"),
        ]
        script = self.ask(desk, "report/data/decisions.js")[1]
        assert script.endswith("],true);\n")
        assert '"caption":"A harbour"' in script
        assert self.ask(desk, "decisions", {"id": "a b", "decision": None})[0] == 200
        assert list(decisions.read(desk.file)) == ["港"]
        assert [path.name for path in pathlib.Path(desk.output).glob("*")].count("decisions.jsonl") == 1
        assert not list(pathlib.Path(desk.output).glob(".*"))  # nothing half-written is left

    @pytest.mark.parametrize(
        ("body", "headers", "status"),
        [
            ({"id": "other", "decision": "accept"}, {}, 400),
            ({"id": "a b", "decision": "delete"}, {}, 400),
            ({"id": "a b", "decision": "caption"}, {}, 400),
            ({"id": ["a b"], "decision": None}, {}, 400),
            ([], {}, 400),
            (b"\xff{", {}, 400),
            (b"x" * 200_000, {}, 413),
            ({"id": "a b", "decision": "accept"}, {"Content_Type": "text/plain"}, 415),
            ({"id": "a b", "decision": "accept"}, {"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ],
    )
    def test_what_is_no_decision(self, desk: Desk, body: Any, headers: dict[str, str], status: int) -> None:
        assert self.ask(desk, "decisions", body, **headers)[0] == status
        assert not pathlib.Path(desk.file).exists()

    def test_a_file_spoilt_by_hand_is_left_alone(self, desk: Desk) -> None:
        pathlib.Path(desk.file).write_text("not decisions")
        status, text, _ = self.ask(desk, "decisions", {"id": "a b", "decision": "accept"})
        assert status == 500
        assert "line 1" in text
        assert pathlib.Path(desk.file).read_text() == "not decisions"

    def test_many_at_once(self, desk: Desk) -> None:
        desk.uris = {f"{n}": "" for n in range(20)}
        threads = [
            threading.Thread(target=self.ask, args=(desk, "decisions", {"id": f"{n}", "decision": "reject"}))
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(decisions.read(desk.file)) == 20


def test_previews_have_names_that_need_no_escaping() -> None:
    for id in ("a", "港口 🚢", "box #1/%41?.tif", "\udcff", "a/" * 400):
        assert previews.place(id).isascii()
        assert len(previews.place(id)) < 60
    assert previews.place("a") != previews.place("b")
