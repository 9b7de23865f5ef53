"""What `docs/results.md` says of the results is true of the files, line by line."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re
import sys
from typing import Any

import duckdb
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from transforms import outputs, sinks
from transforms.items import ItemError

DOCS = pathlib.Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def results() -> Any:
    spec = importlib.util.spec_from_file_location("results", DOCS / "results.py")
    assert spec
    assert spec.loader
    module = sys.modules["results"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Tables as a run writes them, in a folder of the name that the page has."""
    folder = tmp_path_factory.mktemp("run") / "restored"
    for name in ("metrics", "errors"):
        (folder / name).mkdir(parents=True)
    rows = [
        {"id": f"{n}", "damage": kind, "confidence": n / 4, "width": 3, "identical": None, "extra": {"year": "1865"}}
        for n, kind in enumerate(("faded", "faded", "clean"))
    ]
    (folder / "metrics" / "metrics-00000-of-00001.parquet").write_bytes(outputs.rows_to_parquet(rows, ["year"]))
    errors = [
        ItemError("3", "scans/3.jpg", "decode", "Truncated", "it ends \u2028 early"),
        ItemError("4", "4", "read", "NotFound", "gone"),
    ]
    (folder / "errors" / "errors-00000-of-00001.jsonl").write_bytes(sinks.error_lines(errors))
    return folder


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / "results.md").read_text("utf-8"), re.DOTALL)


def test_pages_and_schemas_are_those_of_the_tables(results: Any) -> None:
    page = (DOCS / "results.md").read_text("utf-8")
    assert results.markdown(page) == page, "run python docs/results.py demo-output"
    assert f"| `{outputs.COLUMNS.names[-1]}` | string |" in page
    for table in ("metrics", "errors"):
        assert (DOCS / f"bigquery-{table}.json").read_text("utf-8") == results.bigquery(table)


def test_files_are_as_documented(results: Any, restored: pathlib.Path) -> None:
    results.check_files(restored)


def test_pandas(restored: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(restored.parent)
    space: dict[str, Any] = {}
    [lines] = blocks("python")
    exec(lines, space)
    assert list(space["metrics"].columns) == [*outputs.COLUMNS.names, "year"]
    assert list(space["metrics"]["confidence"]) == [0.0, 0.25, 0.5]
    assert sorted(space["errors"]["error"]) == ["NotFound", "Truncated"]


def test_duckdb(restored: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(restored.parent)
    [lines] = blocks("sql")
    metrics, errors = (duckdb.sql(line).fetchall() for line in lines.strip().splitlines())
    assert metrics == [("faded", 2, 0.125), ("clean", 1, 0.5)]
    assert sorted(errors) == [("decode", "Truncated", 1), ("read", "NotFound", 1)]


def test_bigquery(results: Any, restored: pathlib.Path) -> None:
    client = bigquery.Client("project", AnonymousCredentials())
    metrics = client.schema_from_json(str(DOCS / "bigquery-metrics.json"))
    kinds = {"STRING": "string", "INTEGER": "int64", "FLOAT": "double", "BOOLEAN": "bool"}
    assert [(one.name, kinds[one.field_type]) for one in metrics] == [
        (one.name, str(one.type)) for one in outputs.COLUMNS
    ]
    assert all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,299}", one.name) and one.is_nullable for one in metrics)
    errors = client.schema_from_json(str(DOCS / "bigquery-errors.json"))
    line = (restored / "errors" / "errors-00000-of-00001.jsonl").read_text("utf-8").split("\n")[0]
    assert {one.name for one in errors} == set(json.loads(line))
    named = set(re.findall(r"docs/bigquery\S+\.json", (DOCS / "results.md").read_text("utf-8")))
    assert named == {"docs/bigquery-metrics.json", "docs/bigquery-errors.json"}


def test_notebook_cells_run_in_order_and_show_what_jupyter_would(results: Any, tmp_path: pathlib.Path) -> None:
    sources = ["x = 2\nprint('two')", "x * 3", "import pandas as pd\npd.DataFrame({'a': [x]})", "None"]
    notebook = {"cells": [{"cell_type": "code", "source": [source]} for source in sources]}
    results.execute(notebook, tmp_path)
    shown = [cell["outputs"] for cell in notebook["cells"]]
    assert shown[0] == [{"output_type": "stream", "name": "stdout", "text": "two\n"}]
    assert shown[1][0]["data"] == {"text/plain": "6"}
    assert "<table" in shown[2][0]["data"]["text/html"]
    assert shown[3] == []
    with pytest.raises(ZeroDivisionError):
        results.execute({"cells": [{"cell_type": "code", "source": ["1 / 0"]}]}, tmp_path)


def test_the_committed_notebook_was_executed() -> None:
    notebook = json.loads((DOCS / "results.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) >= len(cells) - 1
