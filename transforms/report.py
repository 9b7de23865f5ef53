"""The HTML report of a run: what was done, what failed, before and after to judge by eye. One file, no links out."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from transforms import codecs, storage
from transforms.items import ItemFailure

_SIDE = 420  # pixels of a picture in the report

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1320px; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
article { border-top: 1px solid #ccc; padding: 1rem 0 }
article h3 { margin: 0 }
p.note, figcaption { color: #666; margin: .2rem 0 .6rem }
.row { display: flex; gap: .6rem; flex-wrap: wrap }
figure { margin: 0 }
img { display: block; max-width: 100% }
"""


def choose(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """The rows to show: all of them, or evenly many along the model's confidence, least sure first."""
    ordered = sorted(rows, key=lambda row: (row["confidence"] if row["confidence"] is not None else 1.0, row["id"]))
    if len(ordered) <= most:
        return ordered
    return [ordered[round(index)] for index in np.linspace(0, len(ordered) - 1, most)]


def render(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], output: str) -> str:
    """The report.

    Args:
      summary: `summary.json` of the run.
      rows: Rows of metrics, in the order to show.
      output: The run's folder, to read the restored pictures from.

    Returns:
      HTML. Everything that came from files or catalogues is escaped.
    """
    counts = ", ".join(f"{count} {name}" for name, count in summary["counts"].items())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>unfade report</title>",
        f"<style>{_STYLE}</style><h1>Restored photographs</h1>",
        f"<p>{_text(counts)}. Model {_text(str(summary.get('model_sha256'))[:12])}, "
        f"{_text(summary['seconds'])} seconds.</p>",
        _quality(summary.get("quality") or {}),
        _errors(summary.get("errors") or {}),
        "<h2>Before and after</h2>",
        f"<p class=note>{len(rows)} pictures, those first of which the model is least sure.</p>",
        *(_article(row, output) for row in rows),
    ]
    return "\n".join(parts) + "\n"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _quality(quality: Mapping[str, Mapping[str, float]]) -> str:
    before, after = quality.get("before", {}), quality.get("after", {})
    lines = "".join(
        f"<tr><td>{_text(name)}<td class=n>{_number(before.get(name))}<td class=n>{_number(value)}"
        for name, value in after.items()
    )
    return f"<table><tr><th>mean over pictures<th class=n>before<th class=n>after{lines}</table>" if lines else ""


def _errors(errors: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<tr><td>{_text(kind)}<td class=n>{group['count']}<td>{_text(group['examples'][0]['id'])}:"
        f" {_text(group['examples'][0]['message'])}"
        for kind, group in errors.items()
    )
    return f"<h2>Failed</h2><table><tr><th>class<th class=n>items<th>for example{lines}</table>" if lines else ""


def _article(row: Mapping[str, Any], output: str) -> str:
    figures = _figure("before", row["uri"]) + _figure("after", storage.join(output, row["output"]))
    facts = [f"{row['width']} x {row['height']} {row['format']}"]
    if row["confidence"] is not None:
        facts.append(f"confidence {row['confidence']:.2f}")
    if row["damage"]:
        facts.append(f"looks {row['damage']}")
    if row["ciede2000"] is not None:
        facts.append(f"CIEDE2000 to the original {row['input_ciede2000']:.1f} -> {row['ciede2000']:.1f}")
    return (
        f"<article><h3>{_text(row['id'])}</h3><p class=note>{_text(row['caption'] or 'no caption')}<br>"
        f"{_text(', '.join(facts))}</p><div class=row>{figures}</div></article>"
    )


def _figure(label: str, uri: str) -> str:
    try:
        pixels = codecs.decode(storage.read_bytes(uri)).pixels
    except ItemFailure as failure:
        return f"<figure><figcaption>{label}: {_text(failure.message)}</figcaption></figure>"
    step = max(1, min(pixels.shape[:2]) // (4 * _SIDE))  # enough for a small picture, and a large one is not copied
    pixels = pixels[::step, ::step]
    image = Image.fromarray(np.ascontiguousarray(pixels >> 8 if pixels.dtype == np.uint16 else pixels, dtype=np.uint8))
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{label}" width={image.width} height={image.height} src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{label}</figcaption></figure>"
    )
