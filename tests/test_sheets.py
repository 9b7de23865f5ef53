"""Contact sheets."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
import reports
from PIL import Image, ImageFont

from transforms import sheets
from transforms.items import UsageError


def test_pages(tmp_path: pathlib.Path) -> None:
    """Ten pictures a page, in the order given; what has no preview says so; no caption is too long."""
    captions = ["Boats " * 300, "長崎港" * 200, "", "x" * 3000, "two\nlines\tand a tab"]
    _, table = reports.make(tmp_path / "out", 23, caption=captions, confidence=[None], id=["n" * 300, "港 🚢"])
    rows = table.to_pylist()
    rows[0]["preview"], rows[1]["preview"] = None, "report/previews/gone"
    written = sheets.write(f"{tmp_path}/s.png", str(tmp_path / "out"), rows, "a title " * 30)
    assert [pathlib.Path(name).name for name in written] == ["s.png", "s-2.png", "s-3.png"]
    pages = [np.asarray(Image.open(name)) for name in written]
    for page in pages:
        assert page.shape == (2339, 1654, 3)  # A4 at 200 dots an inch
        edge = np.concatenate([page[:40].ravel(), page[-40:].ravel(), page[:, :40].ravel(), page[:, -40:].ravel()])
        assert edge.min() == 255  # nothing runs over the margins
    assert (pages[2][1200:] == 255).all()  # three pictures on the last: nothing below

    [pdf] = sheets.write(f"{tmp_path}/s.pdf", str(tmp_path / "out"), rows, "a title")
    data = pathlib.Path(pdf).read_bytes()
    assert data.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", data)) == 3
    assert len(data) < 3_000_000


def test_before_is_left_of_after(tmp_path: pathlib.Path) -> None:
    _, table = reports.make(tmp_path / "out", 1)
    [name] = sheets.write(f"{tmp_path}/s.png", str(tmp_path / "out"), table.to_pylist(), "t")
    preview = tmp_path / "out" / f"{table.column('preview')[0].as_py()}-before.jpg"
    page, before = Image.open(name).convert("RGB"), Image.open(preview)
    left = page.crop((100, 200, 440, 400)).resize((34, 20))
    colours = [np.asarray(image.resize((1, 1), Image.Resampling.BOX)).astype(int)[0, 0] for image in (left, before)]
    assert np.abs(colours[0] - colours[1]).max() < 12


def test_a_text_is_set_in_a_font_that_has_it() -> None:
    latin = ImageFont.load_default(20)
    assert sheets._font_for("Boats at Nagasaki", [latin]) is latin
    assert sheets._font_for("長崎", [latin]) is latin  # for want of a better
    try:
        wide = ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("no DejaVu here")
    assert sheets._font_for("Это Нагасаки", [latin, wide]) is wide


def test_what_cannot_be_written(tmp_path: pathlib.Path) -> None:
    rows = [{"id": "a", "caption": None, "confidence": None, "preview": None}]
    with pytest.raises(UsageError, match=r"must end in .pdf or .png"):
        sheets.write(f"{tmp_path}/s.doc", str(tmp_path), rows, "t")
    with pytest.raises(UsageError, match="there is no restored picture"):
        sheets.write(f"{tmp_path}/s.pdf", str(tmp_path), [], "t")
    with pytest.raises(UsageError, match="--font .* cannot be read"):
        sheets.write(f"{tmp_path}/s.pdf", str(tmp_path), rows, "t", f"{tmp_path}/none.ttf")
    assert list(tmp_path.iterdir()) == []
