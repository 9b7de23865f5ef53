"""Makes the pictures of the report in README and docs from what `make demo` wrote.

python docs/screenshots.py demo-output

Needs Chromium, as `tests/test_report_page.py` does.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1360, 860
SHOWN = "guadalajara-mariachi"


def main(demo: Path) -> None:
    """Writes `docs/report-pictures.jpg` and `docs/report-review.jpg`."""
    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    page_uri = (demo / "report/index.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=next(filter(None, browsers)), args=["--no-sandbox"])
        for name, scheme, address in (
            ("pictures", "light", ""),
            ("review", "dark", f"#view=desk&id={SHOWN}"),
        ):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(page_uri + address)
            page.wait_for_selector(".card img, .viewer img")
            if name == "review":
                page.get_by_label("scratches and dust found").check()
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(500)  # pictures are there, and drawn
            shot = Image.open(io.BytesIO(page.screenshot()))
            shot.convert("RGB").save(f"docs/report-{name}.jpg", quality=88)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
