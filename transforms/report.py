"""The report of a run: `report/index.html` and what it loads, all static, with relative names, readable from disk.

A page opened from disk may not fetch JSON, but may load scripts: data are scripts that call `unfade.<function>(JSON)`.
`data/index.js` is all that the page needs to start; `data/items-*.js` hold `SHARD` items each, least sure first, and
`data/column-*.js` one column of all items each, to filter and sort by. Both are loaded when they are asked for.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import importlib.resources
import json
import math
import os
import pathlib
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.contract import DAMAGE_CLASSES, NUMBERS, ORIGINS
from transforms import outputs, previews, resume, sinks, spooled, storage
from transforms.decisions import CAPTION, Decision

SHARD = 200
"""Items in a file of `data/`: some 150 KB."""

PAGE = ("index.html", "report.css", "report.js")

_MADE = "made.json"  # beside the data: what they were made of

_BINS = (8, 40)  # fewest and most of a histogram
_TAILS = (0.5, 99.5)  # percentiles at which histograms end: a few extremes must not squeeze all others into one bin
_TIMES = 120  # most points of the throughput plot
_CHOICES = 50  # a carried column with more values is no class to filter by

_CLASSES = ("colour_class", "damage", "error", "format", "output_format", "mode", "identical", "retryable")
_TEXTS = ("id", "caption")  # searched, not sorted by
_HIDDEN = ("sha256_in", "sha256_out", "model_sha256")  # long, and of no use to the eye: they are in the table

# What a column is called for a reader, where its name does not say.
_LABELS = {
    "colour_class": "colours are",
    "colour_measured": "colours measured",
    "colour_amplified": "colours amplified",
    "colour_invented": "colours invented",
    "damage": "looks",
    "error": "failed in",
    "expected_error": "expected error",
    "error_low": "error, at least",
    "error_high": "error, at most",
    "fallback": "drawn back to the input",
    "bits_in": "bits a sample, before",
    "bits": "bits a sample",
    "bytes_in": "bytes, before",
    "bytes_out": "bytes",
    "density_range": "density range",
    "cast_a": "cast, red to green",
    "cast_b": "cast, yellow to blue",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "ciede2000": "CIEDE2000",
    "invented_error": "expected error of invented colours",
    "output_format": "written as",
    "retryable": "may succeed later",
    "decision": "decided before this run",
}

_HELP = {
    "confidence": "1 for sure: exp(-expected error / 10)",
    "expected_error": "mean CIEDE2000 difference to the truth that the model expects; about 1 is just visible",
    "fallback": "1 where the model expects no gain and leaves colours alone",
    "colourfulness": "how vivid; neither more nor less is better by itself",
    "cast_a": "a* of what is nearly grey: nearer 0 is more neutral",
    "cast_b": "b* of what is nearly grey: nearer 0 is more neutral",
    "density_range": "from the lightest to the darkest tones, in optical density",
    "noise": "standard deviation on 0..255; fine texture counts, too",
    "clipped": "share of pixels with a channel at its end",
    "sharpness": "variance of the Laplacian; noise counts, too",
    "psnr": "decibels, against the target",
    "ssim": "against the target, 1 at most",
    "ms_ssim": "against the target, 1 at most",
    "ciede2000": "mean colour difference to the target; about 1 is just visible",
}


def write(output: str, summary: Mapping[str, Any], decisions: Iterable[Decision] = (), anew: bool = True) -> str:
    """Writes the report of a run; what an earlier one left and this does not need is removed.

    Metrics and errors are read from where the run left them. Memory does not grow with them, but for what the page
    itself loads as one: ids, and the numbers of one column.

    Args:
      output: The run's folder.
      summary: Its `summary.json`.
      decisions: What has been decided about its pictures so far.
      anew: Whether all is written, too, if it was made of the same metrics and errors before.

    Returns:
      URI of `index.html`.

    Raises:
      ItemFailure: `WriteFailed`.
      RuntimeError: A table cannot be read.
    """
    folder = storage.join(output, "report")
    data = storage.join(folder, "data")
    made_of = _made_of(output)
    made = None if anew else _made_before(data, made_of)
    if made is None:
        storage.delete([storage.join(data, _MADE)])  # files are about to change that it tells of
        made = {"of": made_of, **_write_items(output, data)}
        keep = {storage.join(data, name) for name in made["files"]}
        storage.delete([uri for uri in storage.listing(data, "*.js") if uri not in keep])
        storage.write_bytes(storage.join(data, _MADE), _json(made).encode("utf-8", "backslashreplace"))
    index = {
        "name": os.path.basename(output.rstrip("/")) or output,
        "shard": SHARD,
        **made["index"],
        "summary": {name: value for name, value in summary.items() if name not in ("timeline", "errors")},
        "errors": [{"kind": kind, **group} for kind, group in (summary.get("errors") or {}).items()],
        "timeline": throughput(summary.get("timeline") or {}),
        "unsure": [previews.UNSURE_FROM, previews.UNSURE_TO],
    }
    for name, text in (
        ("index.js", _call("start", index)),
        ("decisions.js", decisions_script(decisions, corrected(output), live=False)),
    ):
        storage.write_bytes(storage.join(data, name), text.encode("utf-8", "backslashreplace"))
    for name in PAGE:
        storage.write_bytes(storage.join(folder, name), page_file(name))
    return storage.join(folder, "index.html")


def _made_of(output: str) -> str:
    """Digest of all that `_write_items` depends on but the originals, which the page links if they are there."""
    digest = hashlib.sha256(_json([sinks.versions()["unfade"], os.path.abspath(output)]).encode("utf-8", "replace"))
    for uri in (*tables(output), *_error_files(output)):
        with storage.local_copy(uri) as path, open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _made_before(data: str, made_of: str) -> dict[str, Any] | None:
    """What `write` noted of the items, if they were the same and their files are all there."""
    uri = storage.join(data, _MADE)
    try:
        made = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else {}
    except ValueError:
        return None
    if made.get("of") != made_of:
        return None
    return made if {storage.join(data, name) for name in made["files"]} <= set(storage.listing(data, "*.js")) else None


def _write_items(output: str, data: str) -> dict[str, Any]:
    """Writes `items-*.js` and `column-*.js`; returns their `files`, and what the `index` says of the items."""
    files: list[str] = []
    with spooled.items(tables(output), error_records(output)) as items:
        fields = [name for name in items.schema.names if name not in _HIDDEN]
        starts = (part.slice(start, SHARD) for part in items.parts() for start in range(0, len(part), SHARD))
        for number, rows in enumerate(starts):
            shard = [_item(item, output) for item in rows.select(fields).to_pylist()]
            text = _call("items", number, [[item[name] for name in fields] for item in shard])
            files.append(f"items-{number:05d}.js")
            storage.write_bytes(storage.join(data, files[-1]), text.encode("utf-8", "backslashreplace"))
        columns: list[dict[str, Any]] = []
        for name in fields:
            about = _column(name, items)
            if about is not None:
                about["file"] = f"column-{len(columns):03d}.js"
                write = functools.partial(_write_column, items=items, about=about)
                storage.write_through(storage.join(data, about["file"]), write)
                files.append(about["file"])
                columns.append(about)
        index = {
            "items": items.count,
            "restored": items.restored,
            "fields": fields,
            "own": [name for name in fields if name in (*outputs.COLUMNS.names, *spooled.FAILED.names)],
            "columns": columns,
            "counts": {name: _counted(items, name) for name in ("damage", "colour_class")},
            "histograms": histograms(items),
        }
    return {"files": files, "index": index}


def tables(output: str) -> list[str]:
    """Files of a run's metrics."""
    return storage.listing(storage.join(output, "metrics"), "metrics-*.parquet")


def error_records(output: str) -> Iterator[dict[str, Any]]:
    """The records of what failed in a run."""
    for uri in _error_files(output):
        yield from sinks.read_errors(uri)


def _error_files(output: str) -> list[str]:
    return storage.listing(storage.join(output, "errors"), "errors-*.jsonl")


def page_file(name: str) -> bytes:
    """One of the page's own files, `PAGE`."""
    return (importlib.resources.files("transforms") / "page" / name).read_bytes()


def corrected(output: str) -> dict[str, str]:
    """Captions by id of a run's pictures that were restored by a corrected one, to be looked at again."""
    found: dict[str, str] = {}
    for uri in tables(output):
        for batch in resume.read_rows(uri, ("id", "caption", "decision")):
            rows = batch.filter(pc.fill_null(pc.equal(batch.column("decision"), CAPTION), False))
            found.update(zip(rows.column("id").to_pylist(), rows.column("caption").to_pylist(), strict=True))
    return found


def decisions_script(decisions: Iterable[Decision], obeyed: Mapping[str, str], *, live: bool) -> str:
    """`data/decisions.js`.

    Args:
      decisions: What has been decided.
      obeyed: See `corrected`.
      live: Whether a server takes further decisions.
    """
    records: list[dict[str, Any]] = [decision.as_dict() for decision in decisions]
    for record in records:
        record["obeyed"] = record["decision"] == CAPTION and obeyed.get(record["id"]) == record["caption"]
    return _call("decided", records, live)


def link(uri: str, folder: str) -> str | None:
    """What a page in a folder may link to for a file; None for what no browser opens, such as a picture in a shard.

    Args:
      uri: Local path, `gs://` or `http(s)://`.
      folder: The page's, local or not.
    """
    scheme = uri.partition("://")[0] if storage.is_remote(uri) else ""
    if storage.is_part(uri):
        return None
    if scheme == "gs":
        return "https://storage.cloud.google.com/" + urllib.parse.quote(uri[len("gs://") :])
    if scheme in ("http", "https"):
        return uri
    if scheme or not os.path.isfile(uri):
        return None
    if storage.is_remote(folder):
        return pathlib.Path(uri).resolve().as_uri()
    return urllib.parse.quote(os.path.relpath(uri, folder).replace(os.sep, "/"), errors="surrogateescape")


def histograms(items: spooled.Items) -> list[dict[str, Any]]:
    """Distributions before and after, of every measure that has values.

    Returns:
      Of each `label`, `help`; `low`, `high`: the ends of the range; `before`, `after`: counts in bins of equal width,
      values beyond an end in the bin there; `medians`: before and after. `before` is None where a value is the model's
      own.
    """
    pairs: list[tuple[str, str | None, str]] = [
        *((name, f"before_{name}", f"after_{name}") for name in outputs.QUALITY),
        *((name, f"input_{name}", name) for name in outputs.FIDELITY),
        *((name, None, name) for name in ("confidence", "expected_error", "fallback")),
    ]
    found = []
    for name, *columns in pairs:
        values = [None if column is None else _values(items, column) for column in columns]
        known = [value for value in values if value is not None]
        if not all(value.size for value in known):
            continue
        low, high = np.percentile(np.concatenate(known), _TAILS)
        bins = int(np.clip(2 * np.cbrt(known[-1].size), *_BINS))  # Rice's rule
        if high <= low:
            low, high = low - 0.5, high + 0.5
        counts = [
            None if value is None else np.histogram(np.clip(value, low, high), bins=bins, range=(low, high))[0].tolist()
            for value in values
        ]
        found.append(
            {
                **_named(name),
                "low": _short(low),
                "high": _short(high),
                "before": counts[0],
                "after": counts[1],
                "medians": [None if value is None else _short(float(np.median(value))) for value in values],
            }
        )
    return found


def throughput(timeline: Mapping[str, Any]) -> dict[str, Any] | None:
    """Pictures a second over the time of a run, from the summary's `timeline`: at most `_TIMES` points.

    Returns:
      `seconds`: between points, `rates`: pictures a second; None if nothing was finished.
    """
    counts = timeline.get("restored") or []
    if not counts:
        return None
    began, step = timeline["began"] // timeline["seconds"] * timeline["seconds"], timeline["seconds"]
    length = (counts[-1][0] - began) // step + 1
    merged = math.ceil(length / _TIMES)
    rates = [0.0] * math.ceil(length / merged)
    for start, count in counts:
        rates[max(0, start - began) // step // merged] += count / (step * merged)
    return {"seconds": step * merged, "rates": [_short(rate) for rate in rates]}


def _item(item: dict[str, Any], output: str) -> dict[str, Any]:
    """An item as the page has it: links in place of places, numbers to four digits."""
    folder = storage.join(output, "report")
    item["uri"] = [item["uri"], link(item["uri"] or "", folder)]
    if item["output"]:
        item["output"] = [item["output"], "../" + urllib.parse.quote(item["output"], errors="surrogateescape")]
    if item["preview"]:
        item["preview"] = item["preview"].removeprefix("report/")
    return {name: _short(value) if isinstance(value, float) else value for name, value in item.items()}


def _column(name: str, items: spooled.Items) -> dict[str, Any] | None:
    """What the page knows of a column; None if there is nothing to filter or sort by."""
    if name in ("uri", "output", "preview", "message", "notes"):
        return None
    about = {"name": name, **_named(name)}
    kind = items.schema.field(name).type
    if name in _TEXTS:
        known = any(part.null_count < len(part) for part in items.column(name))
        return about | {"kind": "text"} if known else None
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        ends = [pc.min_max(part).as_py() for part in items.column(name) if part.null_count < len(part)]
        if not ends:
            return None
        low, high = min(end["min"] for end in ends), max(end["max"] for end in ends)
        return about | {"kind": "number", "low": _short(float(low)), "high": _short(float(high))}
    counts: collections.Counter[str] = collections.Counter()
    for part in items.column(name):
        for row in pc.value_counts(part.cast(pa.string()).drop_null()).to_pylist():
            counts[row["values"]] += row["counts"]
        if name not in _CLASSES and len(counts) > _CHOICES:
            return None
    names = sorted(counts)
    return about | {"kind": "class", "values": names, "counts": [counts[name] for name in names]} if names else None


def _write_column(path: str, items: spooled.Items, about: Mapping[str, Any]) -> None:
    """The script with a column's values: text, numbers, or the places of classes among `values`, -1 for none."""
    places = {value: place for place, value in enumerate(about.get("values", ()))}
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
        out.write(f"unfade.column({json.dumps(about['name'])},[")
        for number, part in enumerate(items.column(about["name"])):
            values = part.to_pylist()
            if about["kind"] == "class":
                values = [places.get(value, -1) for value in part.cast(pa.string()).to_pylist()]
            elif pa.types.is_floating(part.type):
                text = ("null" if value is None or not math.isfinite(value) else f"{value:.4g}" for value in values)
                out.write("," * (number > 0) + ",".join(text))
                continue
            out.write("," * (number > 0) + _json(values)[1:-1])
        out.write("]);\n")


def _named(name: str) -> dict[str, Any]:
    """Group, label and explanation of a column."""
    for prefix, group in (("before_", "before"), ("after_", "after"), ("input_", "before, against the target")):
        bare = name.removeprefix(prefix)
        if bare != name and bare in (*outputs.QUALITY, *outputs.FIDELITY):
            return {"group": group, "label": _LABELS.get(bare, bare), "help": _HELP.get(bare)}
    group = "catalogue"
    if name in outputs.FIDELITY:
        group = "after, against the target"
    elif name.removeprefix("damage_") in DAMAGE_CLASSES and name != "damage":
        return {"group": "damage", "label": name.removeprefix("damage_"), "help": "probability"}
    elif name in outputs.QUALITY:
        group = "quality"
    elif name in NUMBERS or name in ("damage", "colour_class"):
        group = "the model says"
    elif name in outputs.COLUMNS.names or name in _CLASSES:
        group = "file"
    return {"group": group, "label": _LABELS.get(name, name.replace("_", " ")), "help": _HELP.get(name)}


def _counted(items: spooled.Items, name: str) -> list[list[Any]]:
    """How many restored items have each value of a class, in the model's order of classes."""
    found: collections.Counter[str] = collections.Counter()
    for part in items.column(name, restored=True):
        for row in pc.value_counts(part).to_pylist():
            found[row["values"]] += row["counts"]
    order = {"damage": DAMAGE_CLASSES, "colour_class": ORIGINS}[name]
    return [[value, found[value]] for value in order if value in found]


def _values(items: spooled.Items, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What is known of a column of the restored items."""
    parts = [part.drop_null().to_numpy().astype(np.float64) for part in items.column(name, restored=True)]
    return np.concatenate([np.zeros(0), *parts])


def _short(value: float) -> float | None:
    """To four digits: what a reader can use, in half the bytes."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _call(function: str, *arguments: Any) -> str:
    return f"unfade.{function}({','.join(_json(argument) for argument in arguments)});\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
