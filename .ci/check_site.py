"""Checks a built docs site: every link leads somewhere, down to the heading, and a reader's browser asks nobody else.

    python .ci/check_site.py build/site

mkdocs checks links between pages of Markdown; this checks what came out: pictures, files, generated pages.
"""

from __future__ import annotations

import functools
import html.parser
import http.server
import pathlib
import re
import shutil
import sys
import threading
import urllib.parse

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class _Page(html.parser.HTMLParser):
    """What a page names itself (`ids`), links to (`links`), and loads by itself (`loads`)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])
        elif tag == "link" and "href" in given and "canonical" not in given.get("rel", ""):
            self.loads.append(given["href"])


def faults(site: pathlib.Path) -> list[str]:
    """A line for each thing that is wrong with the files."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its addresses are absolute: it may be shown anywhere
        for link in page.links + page.loads:
            address = urllib.parse.urlsplit(link)
            if address.scheme in ("http", "https", "") and (address.scheme or address.netloc):
                if link in page.loads:
                    found.append(f"{path.relative_to(site)}: loads {link} from elsewhere")
                continue
            if address.scheme:
                continue  # mailto, data
            target = (path.parent / urllib.parse.unquote(address.path)).resolve() if address.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{path.relative_to(site)}: {link} leads nowhere")
            elif address.fragment and target.suffix == ".html":
                name = urllib.parse.unquote(address.fragment)
                if name not in pages[target].ids | {"__top", ""}:
                    found.append(f"{path.relative_to(site)}: {link} has no such heading")
    for path in site.rglob("*.css"):
        for loaded in re.findall(
            r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^)'\"\s]+)", path.read_text(encoding="utf-8")
        ):
            found.append(f"{path.relative_to(site)}: loads {loaded} from elsewhere")
    return found


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def asked_elsewhere(site: pathlib.Path, names: list[str]) -> list[str]:
    """Addresses that a browser asks for beyond the site while it shows some pages, and search is used."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, asked, shown = f"http://127.0.0.1:{server.server_port}/", [], 0
    with sync_playwright() as play:
        path = next(path for name in BROWSERS if (path := shutil.which(name)))
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        for name in names:
            page.goto(home + name, wait_until="networkidle")
        page.focus("input[name=query]")
        page.keyboard.type("density")  # search listens to keys
        page.wait_for_selector(".md-search-result__item", state="attached", timeout=60_000)
        shown = page.locator(".md-search-result__item").count()
        browser.close()
    server.shutdown()
    assert shown, "search finds nothing"
    return sorted({url for url in asked if not url.startswith((home, "data:", "blob:"))})


def main(site: pathlib.Path) -> None:
    """Raises SystemExit with what is wrong."""
    site = site.resolve()
    found = faults(site)
    shown = ["index.html", "docs/tutorial.html", "docs/architecture.html", "reference/transforms/codecs.html"]
    found += [f"a browser asks for {url}" for url in asked_elsewhere(site, shown)]
    if found:
        sys.exit("\n".join(found))
    print(
        f"site: {len(list(site.rglob('*.html')))} pages, every link leads somewhere, nothing is loaded from elsewhere"
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
