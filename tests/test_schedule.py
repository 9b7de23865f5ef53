"""What schedulers are given: the request that launches the template, and the DAG around it."""

from __future__ import annotations

import ast
import json
import pathlib
import re
import shlex
import string
from typing import Any

import pytest
from google.cloud import dataflow as api
from google.protobuf import json_format

from pipelines import dataflow, options, restore, template

DEPLOY = pathlib.Path(__file__).parent.parent / "deploy"


@pytest.fixture(scope="module")
def request_body() -> dict[str, Any]:
    body: dict[str, Any] = json.loads((DEPLOY / "launch.json").read_text())
    return body


def test_the_request_is_one_of_the_api(request_body: dict[str, Any]) -> None:
    """By Google's own definition of it: a field that it does not know is an error."""
    parsed = json_format.ParseDict(request_body, api.LaunchFlexTemplateRequest.pb()())
    assert parsed.launch_parameter.environment.max_workers == 10
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({"launchParameter": {"jobname": "x"}}, api.LaunchFlexTemplateRequest.pb()())


def test_the_request_fits_the_template(request_body: dict[str, Any]) -> None:
    given = request_body["launchParameter"]["parameters"]
    known = {one["name"]: one for one in template.metadata("restore")["parameters"]}
    for name, value in given.items():
        assert all(re.fullmatch(pattern, value) for pattern in known[name].get("regexes", [])), name
    assert {name for name, one in known.items() if not one["isOptional"]} <= set(given)
    _, words = template.arguments([f"--{name}={value}" for name, value in given.items()])
    parsed = options.parse("restore", "", restore.RestoreOptions, words, options.ModelOptions)
    assert parsed.view_as(restore.RestoreOptions).accelerator == given["accelerator"]
    assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", request_body["launchParameter"]["jobName"])


def test_the_page(request_body: dict[str, Any]) -> None:
    """Files that docs/dataflow.md names are there, and its command line is one."""
    text = (DEPLOY.parent / "docs" / "dataflow.md").read_text()
    for name in re.findall(r"deploy/\w+(?:\.\w+)?", text):
        assert (DEPLOY.parent / name).exists(), name
    assert request_body["launchParameter"]["jobName"] in text
    names = dict(
        re.findall(r"(\w+)=(\S+)", "".join(line for line in text.splitlines(True) if line.startswith("export")))
    )
    names = {name: value.strip("'") for name, value in names.items()}
    [command] = re.findall(r"unfade (restore --input gs.*?)\n```", text, re.DOTALL)
    words = [string.Template(word).safe_substitute(names) for word in shlex.split(command.replace("\\\n", " "))]
    given = options.parse("restore", "", restore.RestoreOptions, words[1:], options.ModelOptions)
    accelerator = given.view_as(restore.RestoreOptions).accelerator
    dataflow.complete(given, "restore", None, accelerator)
    assert accelerator == request_body["launchParameter"]["parameters"]["accelerator"]
    assert dataflow.job_of(given).project == "my-museum"


def test_the_dag_is_python() -> None:
    """Without Airflow, with which `.ci/airflow` loads it: its syntax, and that it takes the same request."""
    names = {
        node.value
        for node in ast.walk(ast.parse((DEPLOY / "airflow_dag.py").read_text()))
        if isinstance(node, ast.Constant)
    }
    assert "launch.json" in names
