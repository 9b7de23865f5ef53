"""Contact sheets: before and after beside each other, with name, caption and confidence, for print and e-mail."""

from __future__ import annotations

import bisect
import io
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from transforms import storage
from transforms.items import ItemFailure, UsageError

SUFFIXES = (".pdf", ".png")

_DPI = 200
_PAGE = (round(210 / 25.4 * _DPI), round(297 / 25.4 * _DPI))  # A4, upright
_MARGIN, _GAP = round(0.5 * _DPI), round(0.12 * _DPI)
_COLUMNS, _ROWS = 2, 5
_HEAD = round(0.35 * _DPI)
_NAME, _TEXT = 26, 22  # pixels: 9 and 8 points
_LONGEST = 200  # characters: more are never in a line, and need not be measured
_MOUNT, _INK, _QUIET = (228, 228, 228), (20, 20, 20), (90, 90, 90)
_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "LiberationSans-Regular.ttf"),
    *("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "YuGothR.ttc"),
)
"""Where the system has them; a text is set in the first that has all its characters."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write(uri: str, output: str, rows: Sequence[Mapping[str, Any]], title: str, font: str | None = None) -> list[str]:
    """Writes contact sheets, ten pictures a page.

    Args:
      uri: Of a `.pdf`, or of a `.png`: then further pages are `NAME-2.png` and so on.
      output: The run's folder, where the previews are.
      rows: Of the metrics, in the order to show.
      title: Stands at the head of every page.
      font: A TrueType or OpenType file that has the captions' characters; None: those of `_FONTS` that the system has,
        else Pillow's own, which is Latin only.

    Returns:
      URIs of the files written.

    Raises:
      UsageError: Another suffix; no such font; no rows.
      ItemFailure: `WriteFailed`.
    """
    stem, suffix = posixpath.splitext(uri)
    if suffix.lower() not in SUFFIXES:
        raise UsageError(f"--sheet {uri} must end in {' or '.join(SUFFIXES)}")
    if not rows:
        raise UsageError("there is no restored picture to put on a sheet")
    names, texts = _fonts(font, _NAME), _fonts(font, _TEXT)
    name, text = _font_for(title, names), texts[0]
    per_page = _COLUMNS * _ROWS
    count = -(-len(rows) // per_page)
    pages = []
    for number in range(count):
        page = Image.new("RGB", _PAGE, "white")
        draw = ImageDraw.Draw(page)
        draw.text((_MARGIN, _MARGIN - _HEAD // 2), _fitted(title, name, _PAGE[0] // 2), _INK, name)
        draw.text((_PAGE[0] - _MARGIN, _MARGIN - _HEAD // 2), f"{number + 1} / {count}", _QUIET, text, anchor="ra")
        for place, row in enumerate(rows[number * per_page : (number + 1) * per_page]):
            _cell(page, draw, place, row, output, names, texts)
        pages.append(page)
    if suffix.lower() == ".png":
        uris = [uri if number == 1 else f"{stem}-{number}{suffix}" for number in range(1, count + 1)]
        for page_uri, page in zip(uris, pages, strict=True):
            storage.write_bytes(page_uri, _encoded(page, "PNG"))
        return uris
    storage.write_bytes(
        uri, _encoded(pages[0], "PDF", save_all=True, append_images=pages[1:], resolution=_DPI, title=title, quality=88)
    )
    return [uri]


def _cell(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: int,
    row: Mapping[str, Any],
    output: str,
    names: Sequence[Font],
    texts: Sequence[Font],
) -> None:
    name, text = _font_for(str(row["id"]), names), _font_for(row["caption"] or "", texts)
    width = (_PAGE[0] - 2 * _MARGIN - 2 * _GAP * (_COLUMNS - 1)) // _COLUMNS
    height = (_PAGE[1] - 2 * _MARGIN - _HEAD) // _ROWS
    left = _MARGIN + place % _COLUMNS * (width + 2 * _GAP)
    top = _MARGIN + _HEAD + place // _COLUMNS * height
    words = 4 * (_TEXT + 8)
    side = ((width - _GAP // 4) // 2, height - words - _GAP)
    for number, label in enumerate(("before", "after")):
        corner = left + number * (width - side[0]), top
        draw.rectangle((*corner, corner[0] + side[0] - 1, corner[1] + side[1] - 1), _MOUNT)
        picture = _preview(output, row, label)
        if picture is None:
            draw.text((corner[0] + side[0] // 2, corner[1] + side[1] // 2), "no preview", _QUIET, text, anchor="mm")
            continue
        picture = ImageOps.contain(picture, side, Image.Resampling.LANCZOS)
        page.paste(picture, (corner[0] + (side[0] - picture.width) // 2, corner[1] + (side[1] - picture.height) // 2))
    below = top + side[1] + 6
    sure = "" if row["confidence"] is None else f"confidence {row['confidence']:.2f}"
    room = width - draw.textlength(sure, text) - _GAP
    draw.text((left, below), _fitted(str(row["id"]), name, room), _INK, name)
    draw.text((left + width, below), sure, _QUIET, text, anchor="ra")
    for number, line in enumerate(_wrapped(row["caption"] or "", text, width, 2), start=1):
        draw.text((left, below + number * (_TEXT + 8)), line, _QUIET, text)


def _preview(output: str, row: Mapping[str, Any], label: str) -> Image.Image | None:
    if not row["preview"]:
        return None
    try:
        with Image.open(io.BytesIO(storage.read_bytes(storage.join(output, f"{row['preview']}-{label}.jpg")))) as image:
            return image.convert("RGB")
    except (ItemFailure, OSError):  # taken away since; the sheet says so in its place
        return None


def _fonts(given: str | None, size: int) -> list[Font]:
    found: list[Font] = []
    for name in (given,) if given else _FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError as error:
            if given:
                raise UsageError(f"--font {given} cannot be read: {error}") from error
    return found or [ImageFont.load_default(size)]


def _font_for(text: str, fonts: Sequence[Font]) -> Font:
    """The first font that has every character of a text; the first of all where none has."""

    def has(font: Font, character: str) -> bool:
        return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))  # the sign for what a font lacks

    characters = {character for character in text if not character.isspace()}
    return next((font for font in fonts if all(has(font, character) for character in characters)), fonts[0])


def _fitted(line: str, font: Font, width: float) -> str:
    """The line, cut with an ellipsis where it is too long."""
    line = " ".join(line.split())
    if font.getlength(line[:_LONGEST]) <= width and len(line) <= _LONGEST:
        return line
    count = bisect.bisect(range(min(len(line), _LONGEST)), width, key=lambda end: font.getlength(line[:end] + "…"))
    return line[: max(0, count - 1)] + "…"


def _wrapped(caption: str, font: Font, width: float, most: int) -> list[str]:
    """A caption in at most so many lines, broken between words where there are any."""
    lines: list[str] = []
    words = caption[: _LONGEST * most].split()
    while words and len(lines) < most - 1:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        line = " ".join(words[:count])
        if font.getlength(line) > width:
            break  # one word longer than a line, as in scripts without spaces
        lines.append(line)
        words = words[count:]
    return [*lines, _fitted(" ".join(words), font, width)] if words else lines


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
