"""Keeps `docs/results.md`, the schemas for BigQuery and the notebook true: one command writes them, or checks them.

    python docs/results.py demo-output            # writes the tables, the schemas, and the notebook's outputs
    python docs/results.py demo-output --check    # CI: executes the notebook, fails where anything would change

The notebook has plain Python cells, so that it is executed here as Jupyter would, without Jupyter.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.contract import DAMAGE_CLASSES
from transforms.items import ItemError
from transforms.outputs import COLUMNS, FIDELITY, QUALITY

DOCS = pathlib.Path(__file__).parent

_MEASURES = {
    "colourfulness": "colourfulness M3",
    "cast_a": "mean a* of near-neutrals: + red, - green",
    "cast_b": "mean b* of near-neutrals: + yellow, - blue",
    "density_range": "optical density between the 0.5% and 99.5% percentiles",
    "noise": "noise sigma, 0..255 codes",
    "clipped": "share of pixels with a channel at its end, 0..1",
    "sharpness": "variance of the Laplacian",
    "psnr": "PSNR in dB; null if identical",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM; null under 176 px",
    "ciede2000": "mean CIEDE2000",
}

METRICS = {
    "id": "names the picture in every output; unique",
    "uri": "where the input is",
    "output": "the restored file, relative to the output folder",
    "format": "of the input",
    "output_format": "of the restored file",
    "mode": "of the input's samples, e.g. RGB, L, CMYK",
    "caption": "the caption that was used",
    "sha256_in": "of the input file",
    "sha256_out": "of the restored file",
    "damage": "most probable kind of damage",
    "notes": "what was done to the file beside the restoration; null if nothing",
    "colour_class": "measured, amplified or invented: where most of the colour came from",
    "preview": "stem of the report's small pictures, relative to the output folder; null without previews",
    "decision": "decided in review and obeyed: accept, reject, input, caption; null if none",
    "width": "pixels",
    "height": "pixels",
    "bits_in": "bits a sample of the input",
    "bits": "bits a sample of the restored file",
    "bytes_in": "size of the input file",
    "bytes_out": "size of the restored file",
    "confidence": "exp(-expected_error / 10), 0..1",
    "expected_error": "CIEDE2000 to the truth that the model expects of the result",
    "error_low": "lower end of the 80% interval of that",
    "error_high": "upper end",
    "fallback": "how far the result was drawn back to the input, 0..1",
    "colour_measured": "share of the chroma that was in the input, 0..1",
    "colour_amplified": "share that was amplified from it, 0..1",
    "colour_invented": "share that came from caption and training alone, 0..1",
    "invented_error": "expected error of invented colours; null where none were added",
    **{f"damage_{kind}": f"probability of {kind}, 0..1" for kind in DAMAGE_CLASSES},
    **{f"before_{name}": f"input: {_MEASURES[name]}" for name in QUALITY},
    **{f"after_{name}": f"restored: {_MEASURES[name]}" for name in QUALITY},
    **{f"input_{name}": f"input against the target: {_MEASURES[name]}" for name in FIDELITY},
    **{name: f"restored against the target: {_MEASURES[name]}" for name in FIDELITY},
    "identical": "whether the restored picture is its target; null without one",
    "model_sha256": "digest of the model",
    "fingerprint": "stands for source, caption, model and options (docs/resume.md)",
}
"""What each column of the metrics holds."""

ERRORS = {
    "id": "of the item; empty where it failed before it had one",
    "uri": "where its picture is, or the manifest and line that named it",
    "stage": "the step that failed: input, read, decode, inference, write, ...",
    "error": "short stable class to group by, e.g. NotFound, Truncated",
    "message": "one sentence: the cause, and the mend where there is one",
    "retryable": "whether the same run may well succeed later",
}
"""What each field of an error record holds."""

_BIGQUERY = {"string": "STRING", "int64": "INTEGER", "double": "FLOAT", "bool": "BOOLEAN"}


def fields() -> dict[str, list[tuple[str, str, str]]]:
    """Name, type in BigQuery and meaning of every field, by table, in order."""
    metrics = [(field.name, _BIGQUERY[str(field.type)], METRICS[field.name]) for field in COLUMNS]
    kinds = {"str": "STRING", "bool": "BOOLEAN"}
    errors = [(field.name, kinds[str(field.type)], ERRORS[field.name]) for field in dataclasses.fields(ItemError)]
    return {"metrics": metrics, "errors": sorted(errors)}  # as in the files


def bigquery(table: str) -> str:
    """A schema file for `bq mk` and `bq load`."""
    schema = [
        {"name": name, "type": kind, "mode": "NULLABLE", "description": meaning}
        for name, kind, meaning in fields()[table]
    ]
    return json.dumps(schema, indent=2) + "\n"


def markdown(text: str) -> str:
    """`results.md` with its tables as they should be."""
    types = {"STRING": "string", "INTEGER": "int64", "FLOAT": "double", "BOOLEAN": "bool"}
    for table, known in fields().items():
        begin, end = f"<!-- {table}: written by docs/results.py -->", f"<!-- end of {table} -->"
        before, _, rest = text.partition(begin)
        rows = [f"| `{name}` | {types[kind]} | {meaning} |" for name, kind, meaning in known]
        lines = [begin, "| column | type | meaning |", "|---|---|---|", *rows, end]
        text = before + "\n".join(lines) + rest.partition(end)[2]
    return text


def _shown(value: Any) -> dict[str, Any]:
    """What Jupyter would show of a value, by MIME type."""
    data: dict[str, Any] = {"text/plain": repr(value)}
    if html := getattr(value, "_repr_html_", lambda: None)():
        data["text/html"] = html
    if png := getattr(value, "_repr_png_", lambda: None)():
        data["image/png"] = base64.b64encode(png).decode()
    return data


def execute(notebook: dict[str, Any], folder: pathlib.Path) -> None:
    """Runs the cells one after another in a folder, and puts in what they print and show. Raises what a cell raises."""
    space: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(folder):
        cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        for number, cell in enumerate(cells, start=1):
            tree = ast.parse("".join(cell["source"]), f"cell {number}")
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(tree, f"cell {number}", "exec"), space)
                value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), space) if last else None
            cell["execution_count"], outputs = number, []
            if printed.getvalue():
                outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
            if value is not None:
                result = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
                outputs.append({**result, "data": _shown(value)})
            cell["outputs"] = outputs


def check_files(results: pathlib.Path) -> None:
    """Makes sure that a run's tables have the documented columns, and after them only the manifest's own."""
    for path in (results / "metrics").glob("*.parquet"):
        schema = pq.read_schema(path)
        ours = pa.schema([schema.field(at) for at in range(len(COLUMNS))])
        assert ours.equals(COLUMNS), f"{path} has other columns than are documented"
        assert all(schema.field(at).type == pa.string() for at in range(len(COLUMNS), len(schema)))
    for path in (results / "errors").glob("*.jsonl"):
        assert all(list(json.loads(line)) == sorted(ERRORS) for line in path.read_text("utf-8").split("\n") if line)


def main() -> None:
    """Writes or checks; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path, help="output folder of `unfade restore`, e.g. of make demo")
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    check_files(given.results)
    page = DOCS / "results.md"
    wanted = {page: markdown(page.read_text("utf-8"))}
    wanted |= {DOCS / f"bigquery-{table}.json": bigquery(table) for table in fields()}
    os.environ["UNFADE_RESULTS"] = str(given.results.resolve())
    path = DOCS / "results.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    execute(notebook, DOCS)
    if not given.check:
        wanted[path] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        for file, text in wanted.items():
            file.write_text(text, "utf-8")
    elif stale := [str(file) for file, text in wanted.items() if not file.exists() or file.read_text("utf-8") != text]:
        sys.exit(f"{', '.join(stale)}: out of date; python docs/results.py demo-output")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    print(f"results: {len(cells)} cells of the notebook executed on {given.results}")


if __name__ == "__main__":
    main()
