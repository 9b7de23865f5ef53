"""The report and the review desk in a real browser (Chromium), opened from disk as a user opens it."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pathlib
import shutil
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import reports

from transforms import decisions, report, storage
from transforms.decisions import Decision
from transforms.desk import Desk

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="needs chromium"),
]

PHONE = {"viewport": {"width": 360, "height": 780}, "has_touch": True}
ERRORS = [
    reports.error("letter.jpg"),
    reports.error("half.jpg", "decode", "Truncated", "it ends before its last row"),
    reports.error("", "input", "NoImage", "line 7 names no image"),
]
HOSTILE = (
    "<img src=x onerror='hacked=1'>",
    "</script><script>hacked=1</script>",
    "<svg onload=hacked=1><a xlink:href='javascript:hacked=1'>x</a></svg>",
    "&lt;b&gt;not bold&lt;/b&gt; \u2028\u2029 \u202egnihtemos",
    "${hacked=1} `${hacked=1}` '+(hacked=1)+\"",
)
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests here."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    """Opens a report at an address, in a window of its own, and fails if the page complained of anything."""
    contexts, complaints = [], []

    def open_page(uri: str, address: str = "", **window: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **window})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: open_page.asked.append(request.url))  # type: ignore[attr-defined]
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(uri if "://" in uri else pathlib.Path(uri).as_uri() + address)
        page.wait_for_selector(".card, .deskhead, .tiles")
        return page

    open_page.complaints = complaints  # type: ignore[attr-defined]
    open_page.asked = []  # type: ignore[attr-defined]
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of ten pictures and three failures."""
    folder = tmp_path_factory.mktemp("ten") / "out #1 [a] 港?"
    return reports.make(folder, 10, ERRORS, year=["1901", "1902", "1901"])[0]


def ids(page: Any) -> list[str]:
    """Names on the cards, in their order, once the page has settled."""
    page.wait_for_selector("#cards:not([aria-busy])", state="attached")
    return page.locator(".card h3").all_inner_texts()


def until(page: Any, expression: str) -> None:
    """Waits for it to be true. (Playwright's own waiting needs `eval`, which the page forbids.)"""
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def loaded(page: Any, selector: str) -> bool:
    """Whether every picture that a selector finds is there."""
    until(page, f"[...document.querySelectorAll({json.dumps(selector)})].every(image => image.complete)")
    return bool(
        page.evaluate("selector => [...document.querySelectorAll(selector)].every(i => i.naturalWidth > 0)", selector)
    )


def at(page: Any, selector: str = ".compare") -> float:
    """Where the cut of a comparison is, in percent."""
    style = page.locator(selector).first.evaluate("box => box.style.getPropertyValue('--at')")
    return float(style.rstrip("%"))


class TestPictures:
    def test_least_sure_first_then_what_failed(self, ten: str, opened: Opened) -> None:
        page = opened(ten)
        assert ids(page) == [f"box 0/scan {n:05d}" for n in range(10)] + ["letter.jpg", "half.jpg", "/in/"]
        assert page.locator("#found").inner_text() == "13 pictures"
        assert page.locator(".card", has_text="half.jpg").inner_text().count("it ends before its last row") == 1
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        assert loaded(page, ".card img")
        assert page.locator(".card img").count() == 20

    def test_slider(self, ten: str, opened: Opened) -> None:
        page = opened(ten)
        box = page.locator(".compare").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60, steps=4)
        page.mouse.up()
        assert at(page) == pytest.approx(25, abs=2)
        clip = page.locator(".compare .after").first.evaluate("image => getComputedStyle(image).clipPath")
        assert clip == f"inset(0px 0px 0px {at(page):g}%)"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert at(page) == pytest.approx(27, abs=2)
        page.keyboard.press("Home")
        assert at(page) == 0
        said = page.locator(".compare input").first.get_attribute("aria-valuetext")
        assert said == "0% before, 100% after"

    def test_slider_by_touch(self, ten: str, opened: Opened) -> None:
        page = opened(ten, **PHONE)
        box = page.locator(".compare").first.bounding_box()
        page.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + 60)
        assert at(page) == pytest.approx(80, abs=3)

    def test_filter_sort_search_and_share(self, ten: str, opened: Opened) -> None:
        page = opened(ten)
        page.locator("select[data-class=colour_class]").select_option("amplified")
        assert ids(page) == [f"box 0/scan {n:05d}" for n in (1, 3, 5, 7, 9)]
        page.get_by_label("Sort by").select_option("confidence")
        page.get_by_label("Order").select_option("descending")
        assert ids(page) == [f"box 0/scan {n:05d}" for n in (9, 7, 5, 3, 1)]
        page.get_by_label("Search").fill("eglise")  # as typed, without the accent and in small letters
        until(page, "document.querySelectorAll('.card').length == 2")
        assert ids(page) == ["box 0/scan 00007", "box 0/scan 00001"]
        page.get_by_text("More filters").click()
        page.locator("#range-name").select_option("confidence")
        page.get_by_label("From").fill("0,5")
        page.get_by_role("button", name="Add").click()
        until(page, "document.querySelectorAll('.card').length == 1")
        assert ids(page) == ["box 0/scan 00007"]
        assert page.locator("#found").inner_text() == "1 of 13 pictures"

        other = opened(page.url)  # the address tells all of it
        assert ids(other) == ["box 0/scan 00007"]
        assert other.get_by_label("Search").input_value() == "eglise"
        assert other.locator("#chips button").all_inner_texts() == [
            "“eglise” ×", "colours are: amplified ×", "confidence: at least 0.5 ×",
        ]  # fmt: skip
        for _ in range(3):
            other.locator("#chips button").first.click()
        until(other, "document.querySelectorAll('.card').length == 13")
        assert ids(other)[:1] == ["box 0/scan 00009"]
        other.go_back()
        until(other, "document.querySelectorAll('.card').length < 13")

    def test_by_error_and_by_a_carried_column(self, ten: str, opened: Opened) -> None:
        page = opened(ten, "#view=run")
        page.get_by_role("link", name="decode/Truncated").click()
        assert ids(page) == ["half.jpg"]
        assert page.locator("#result").input_value() == "decode/Truncated"
        page.locator("#result").select_option("failed")
        assert ids(page) == ["letter.jpg", "half.jpg", "/in/"]
        page.get_by_label("Sort by").select_option("error")
        page.get_by_label("Order").select_option("descending")
        until(page, "document.querySelector('.card h3, .card h2').textContent == '/in/'")  # by the kind of error
        assert ids(page) == ["/in/", "half.jpg", "letter.jpg"]
        page.get_by_label("Order").select_option("ascending")
        page.get_by_label("Sort by").select_option("")
        page.locator("#result").select_option("any")
        page.get_by_text("More filters").click()
        page.locator("select[data-class=year]").select_option("1901")
        assert ids(page) == ["box 0/scan 00000", "box 0/scan 00002"]
        page.locator("select[data-class=year]").select_option("any")
        page.get_by_label("Sort by").select_option("colour_class")
        assert ids(page)[:3] == [f"box 0/scan {n:05d}" for n in (1, 3, 5)]  # amplified, then measured, then what failed
        page.get_by_label("Order").select_option("descending")
        assert ids(page)[0] == "box 0/scan 00000"


class TestDesk:
    def test_what_it_shows(self, ten: str, opened: Opened) -> None:
        page = opened(ten)
        page.get_by_role("link", name="box 0/scan 00001").click()
        page.wait_for_selector("#desk h2")
        assert loaded(page, ".viewer img")
        for label, kind in (("where the model is unsure", "unsure"), ("scratches and dust", "defects")):
            overlay = page.locator(f".viewer .overlay.{kind}")
            assert not overlay.is_visible()
            page.get_by_label(label).check()
            assert overlay.is_visible()
        text = page.locator(".facts").inner_text().lower()
        for said in ("église number 1,", "confidence 0.15", "colourfulness", "ciede2000", "year", "1902", "amplified"):
            assert said in text
        folder = pathlib.Path(ten).parent
        for name in ("input file", "restored file"):
            link = page.get_by_role("link", name=name).get_attribute("href")
            assert (folder / urllib.parse.unquote(link)).resolve().is_file(), link
        page.get_by_label("full files").check()
        until(page, "document.querySelector('.viewer img.after').naturalWidth > 900")
        page.get_by_role("link", name="All pictures").click()
        assert ids(page)[0] == "box 0/scan 00000"

    def test_keyboard(self, ten: str, opened: Opened) -> None:
        page = opened(ten)
        page.get_by_role("link", name="Review", exact=True).press("Enter")
        title = page.locator("#desk h2")
        title.wait_for()
        assert title.inner_text() == "box 0/scan 00000"
        until(page, "document.activeElement.tagName == 'H2'")  # a reader starts at the title
        for key, expected in (("j", 1), ("j", 2), ("k", 1)):
            page.keyboard.press(key)
            until(page, f"document.querySelector('#desk h2').textContent.endsWith('{expected}')")
        page.get_by_label("keys A, R").uncheck()
        page.keyboard.press("j")
        page.wait_for_timeout(200)
        assert title.inner_text() == "box 0/scan 00001"

    def test_decisions_round_trip(self, ten: str, opened: Opened, tmp_path: pathlib.Path) -> None:
        page = opened(ten, "#view=desk&decision=none")
        title = page.locator("#desk h2")

        def moved_to(number: int) -> None:
            until(page, f"document.querySelector('#desk h2').textContent.endsWith('{number}')")

        page.keyboard.press("a")
        moved_to(1)
        page.keyboard.press("r")
        moved_to(2)
        page.keyboard.press("i")
        moved_to(3)
        page.keyboard.press("c")
        page.get_by_label("The right caption").fill('Nagasaki 長崎, "the harbour"\nfrom a hill  ')
        page.get_by_role("button", name="Save, restore").click()
        moved_to(4)
        page.keyboard.press("a")
        moved_to(5)
        page.keyboard.press("k")
        moved_to(4)
        page.get_by_role("button", name="Accept").click()  # taken back
        until(page, "document.querySelector('[data-decision=accept]').ariaPressed == 'false'")
        assert page.locator("#saved").inner_text().startswith("4 pictures decided, 6 to go.")
        page.reload()  # nothing is lost
        page.wait_for_selector("#desk h2")
        assert page.locator("#saved").inner_text().startswith("4 pictures decided, 6 to go.")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download decisions").click()
        waiting.value.save_as(tmp_path / "decisions.jsonl")
        assert decisions.read(f"{tmp_path}/decisions.jsonl") == {
            one.id: one
            for one in (
                Decision("box 0/scan 00000", "accept"),
                Decision("box 0/scan 00001", "reject"),
                Decision("box 0/scan 00002", "input"),
                Decision("box 0/scan 00003", "caption", 'Nagasaki 長崎, "the harbour"\nfrom a hill'),
            )
        }
        page.goto(page.url.partition("#")[0] + "#view=pictures&decision=reject")
        page.wait_for_selector(".card .decided")
        assert ids(page) == ["box 0/scan 00001"]
        assert title.count() == 0 or not title.is_visible()

        # A run has obeyed them: its report knows, the browser may forget, and what has a new caption comes up again.
        obeyed = decisions.read(f"{tmp_path}/decisions.jsonl")
        caption = {"box 0/scan 00003": obeyed["box 0/scan 00003"].caption}
        script = pathlib.Path(ten).parent / "data/decisions.js"
        before = script.read_text()
        try:
            script.write_text(report.decisions_script(obeyed.values(), caption, live=False))
            page.reload()
            page.wait_for_selector(".card")
            assert page.evaluate("localStorage.getItem(`unfade:decisions:${location.pathname}`)") == "[]"
            page.goto(page.url.partition("#")[0] + "#view=desk&decision=none")
            page.wait_for_selector("#desk h2")
            assert page.locator("#saved").inner_text().startswith("3 pictures decided, 7 to go.")
            assert title.inner_text() == "box 0/scan 00003"
        finally:
            script.write_text(before)


class TestServed:
    """The same page by `unfade review`, which writes decisions down."""

    @pytest.fixture
    def desk(self, tmp_path: pathlib.Path) -> Iterator[Desk]:
        pages, rows = reports.make(tmp_path / "out", 5)
        captions = {"box 0/scan 00004": rows.column("caption")[4].as_py()}
        known = [Decision("box 0/scan 00000", "accept"), Decision("box 0/scan 00004", "caption", *captions.values())]
        (tmp_path / "out/decisions.jsonl").write_text(decisions.dumps(known))
        uris = dict(zip(rows.column("id").to_pylist(), rows.column("uri").to_pylist(), strict=True))
        with Desk(str(pathlib.Path(pages).parent.parent), uris, captions) as desk:
            threading.Thread(target=desk.serve_forever, daemon=True).start()
            yield desk
            desk.shutdown()

    def test_decisions_are_written_at_once(self, desk: Desk, opened: Opened) -> None:
        page = opened(f"{desk.url}#view=desk&decision=none")
        for key, number in (("r", 1), ("i", 2)):  # 0 is decided already
            until(page, f"document.querySelector('#desk h2').textContent.endsWith('{number}')")
            page.keyboard.press(key)
        until(page, "document.querySelector('#desk h2').textContent.endsWith('3')")
        assert decisions.read(desk.file)["box 0/scan 00001"] == Decision("box 0/scan 00001", "reject")
        assert "Written to decisions.jsonl." in page.locator("#saved").inner_text()
        assert loaded(page, ".viewer img")
        page.get_by_label("full files").check()  # the input, too, comes by the server
        until(page, "document.querySelector('.viewer img.before').src.includes('/original?id=')")
        assert loaded(page, ".viewer img")
        # What was restored by a corrected caption comes again, and keeps that caption when it is accepted.
        page.keyboard.press("j")
        until(page, "document.querySelector('#desk h2').textContent.endsWith('4')")
        page.keyboard.press("a")
        until(page, "document.querySelector('#saved').textContent.startsWith('4 pictures decided')")
        found = decisions.read(desk.file)
        assert found["box 0/scan 00004"] == Decision("box 0/scan 00004", "accept", *desk.obeyed.values())
        assert sorted(one.decision for one in found.values()) == ["accept", "accept", "input", "reject"]

    def test_another_page_cannot_reach_it(self, desk: Desk, ten: str, opened: Opened) -> None:
        """Even with the token: another origin's requests are refused by the server, whatever the browser lets out."""
        page = opened(desk.url)
        page.goto("data:text/html,<p>another page</p>")
        refused = page.evaluate(
            """async (url) => {
              const image = new Image();
              const shown = await new Promise((done) => {
                image.onload = () => done(true);
                image.onerror = () => done(false);
                image.src = url.replace("report/index.html", "images/kingfisher.jpg");
              });
              await fetch(url.replace("report/index.html", "decisions"), { method: "POST", mode: "no-cors",
                body: '{"id": "box 0/scan 00003", "decision": "accept"}' }).catch(() => null);
              return shown;
            }""",
            desk.url,
        )
        assert refused is False
        assert "box 0/scan 00003" not in decisions.read(desk.file)
        opened.complaints.clear()  # type: ignore[attr-defined]


class TestRun:
    def test_plots(self, ten: str, opened: Opened) -> None:
        page = opened(ten, "#view=run")
        plots = page.locator("figure svg[role=img]")
        said = [plots.nth(n).get_attribute("aria-label") for n in range(plots.count())]
        assert any(text.startswith("Distribution of colourfulness: median") for text in said)
        assert said[-1] == "Pictures a second over 5 min: at most 3.40"
        assert "decode/NotAnImage" in page.locator("#run").inner_text()
        page.get_by_role("link", name="yellowed").click()
        assert ids(page) == [f"box 0/scan {n:05d}" for n in (2, 5, 8)]


def test_by_a_plain_web_server(ten: str, opened: Opened) -> None:
    """As from a bucket or an intranet: no server of ours, decisions stay in the browser."""
    folder = pathlib.Path(ten).parent.parent.parent
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = urllib.parse.quote(str(pathlib.Path(ten).relative_to(folder)))
        page = opened(f"http://127.0.0.1:{server.server_port}/{where}")
        assert len(ids(page)) == 13
        assert loaded(page, ".card img")
        assert page.locator(".card img:not([loading=lazy])").count() == 0
        page.goto(page.url.partition("#")[0] + "#view=desk&decision=none")
        page.wait_for_selector("#desk h2")
        assert loaded(page, ".viewer img")
        page.keyboard.press("a")
        until(page, "document.querySelector('#desk h2').textContent.endsWith('1')")
        page.reload()
        page.wait_for_selector("#desk h2")
        assert page.locator("#saved").inner_text().startswith("1 picture decided, 9 to go. Kept in this browser")
        server.shutdown()
    assert all(name.startswith("http://127.0.0.1:") for name in opened.asked)  # type: ignore[attr-defined]


def test_what_a_page_links_to(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a b#.jpg").touch()
    assert report.link(f"{tmp_path}/in/a b#.jpg", f"{tmp_path}/out/report") == "../../in/a%20b%23.jpg"
    assert report.link("gs://bucket/a b.jpg", "/out") == "https://storage.cloud.google.com/bucket/a%20b.jpg"
    for shard in ("gs://bucket/shard.tar", "https://example.org/shard.tar", f"{tmp_path}/in/a b#.jpg"):
        assert report.link(storage.part_uri(shard, 512, 100), "/out") is None


def test_captions_that_try_to_inject(tmp_path: pathlib.Path, opened: Opened) -> None:
    """Nothing that came from a file, a catalogue or an error becomes markup, a script or a link that runs."""
    errors = [reports.error(text, "decode", "NotAnImage", text) for text in HOSTILE]
    count = len(HOSTILE)
    uri, _ = reports.make(
        tmp_path / HOSTILE[0].replace("/", ""),
        count,
        errors,
        id=[f"{n} {text}" for n, text in enumerate(HOSTILE)],
        caption=list(HOSTILE),
        notes=list(HOSTILE),
        uri=["javascript:hacked=1", "javascript://%0ahacked=1", "data:text/html,x", *HOSTILE[:2]],
        damage=list(HOSTILE),
        format=list(HOSTILE),
        **{"<b onmouseover=hacked=1>": list(HOSTILE)},
    )
    page = opened(uri)
    assert len(ids(page)) == 2 * count
    seen = page.locator(".card .caption").all_text_contents()
    assert seen[:count] == list(HOSTILE)
    page.get_by_text("More filters").click()
    for number in range(count):
        page.goto(uri_of(uri) + "#" + urllib.parse.urlencode({"view": "desk", "id": f"{number} {HOSTILE[number]}"}))
        until(page, f"document.querySelector('#desk h2')?.textContent.startsWith('{number} ')")
        assert page.locator(".words").text_content() == HOSTILE[number]
        links = page.locator("a").evaluate_all("all => all.filter(a => a.href).map(a => a.protocol)")
        assert set(links) <= {"file:"}
    page.goto(uri_of(uri) + "#view=run")
    page.wait_for_selector(".tiles")
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("main b, main svg a, img[src=x], script:not([src])").count() == 0


def uri_of(path: str) -> str:
    return pathlib.Path(path).as_uri()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of 20,000 pictures."""
    return reports.make(tmp_path_factory.mktemp("many"), 20_000, ERRORS)[0]


@pytest.mark.slow
class TestMany:
    def test_starts_small(self, many: str, opened: Opened) -> None:
        folder = pathlib.Path(many).parent
        start = sum(
            (folder / name).stat().st_size for name in ("index.html", "report.css", "report.js", "data/index.js")
        )
        assert start < 200_000
        began = time.monotonic()
        page = opened(many)
        assert ids(page)[0] == "box 0/scan 00000"
        assert time.monotonic() - began < 15  # 1 s on an idle machine
        asked = opened.asked  # type: ignore[attr-defined]
        assert sum("items-" in name for name in asked) == 1
        assert not any("column-" in name for name in asked)
        assert all(name.startswith("file:") for name in asked)
        assert page.locator(".card").count() == 24

    def test_whole_collection_is_within_reach(self, many: str, opened: Opened) -> None:
        page = opened(many, "#view=pictures&sort=confidence&desc=1")
        assert ids(page)[0] == "box 199/scan 19999"
        page.get_by_role("link", name="Page 834").click()  # the last
        until(page, "document.querySelectorAll('.card').length < 24")
        assert ids(page)[-1] == "/in/"
        page.get_by_label("Search").fill("PANDA 19997")
        until(page, "document.querySelectorAll('.card').length == 1")
        assert ids(page) == ["box 199/scan 19997"]
        page.get_by_role("link", name="box 199/scan 19997").click()
        page.wait_for_selector("#desk h2")
        assert loaded(page, ".viewer img")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "addresses"),
    [
        ({}, ("", "#view=desk&decision=none", "#view=desk&id=letter.jpg", "#view=run")),
        ({"color_scheme": "dark"}, ("", "#view=desk&decision=none")),
        (PHONE, ("#view=desk&decision=none", "#view=run")),
    ],
    ids=["light", "dark", "phone"],
)
def test_accessible(ten: str, opened: Opened, window: dict[str, Any], addresses: tuple[str, ...]) -> None:
    """axe-core finds no serious violation in any view, and a phone need not scroll sideways."""
    from axe_playwright_python.sync_playwright import Axe

    for address in addresses:
        page = opened(ten, address, **window)
        if address.endswith("none"):
            page.keyboard.press("c")
            for box in page.locator("#tools input").all():
                box.check()
        found = Axe().run(page, options={"preload": False}).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], json.dumps(serious, indent=1)[:3000]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
