"""The worker image, as far as it can be looked at without building it."""

from __future__ import annotations

import fnmatch
import pathlib
import re
import subprocess
import sys

import pytest

from pipelines import dataflow

ROOT = pathlib.Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"

Steps = list[tuple[str, str]]


@pytest.fixture(scope="module")
def steps() -> Steps:
    """Instructions of the Dockerfile: word and rest, lines joined, comments left out."""
    text = "\n".join(
        line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")
    )
    joined = text.replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def stage(steps: Steps, name: str) -> Steps:
    """What is done in one stage."""
    [start] = [index for index, (word, rest) in enumerate(steps) if word == "FROM" and rest.endswith(f" AS {name}")]
    end = next((index for index in range(start + 1, len(steps)) if steps[index][0] == "FROM"), len(steps))
    return steps[start:end]


def pins(path: pathlib.Path) -> set[tuple[str, str]]:
    """Names and versions; some names have several, by version of Python."""
    return set(re.findall(r"^([a-z0-9_.-]+)==([^ ]+)", path.read_text(), re.MULTILINE))


def test_known_instructions(steps: Steps) -> None:
    assert {word for word, _ in steps} <= {"ARG", "FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT"}


def test_beam_is_the_locked_one(steps: Steps) -> None:
    given = dict(rest.split("=", 1) for word, rest in steps if word == "ARG")
    assert ("apache-beam", given["BEAM"]) in pins(ROOT / "requirements.lock")
    assert ("FROM", "apache/beam_python${PYTHON}_sdk:${BEAM} AS beam") in steps
    launcher = given["PYTHON"].replace(".", "")
    assert any(f"python{launcher}-template-launcher-base" in rest for word, rest in steps if word == "FROM")
    assert f'python_version = "{given["PYTHON"]}"' in (ROOT / "pyproject.toml").read_text()


def test_what_is_copied_is_there(steps: Steps) -> None:
    shown = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in steps:
        if word == "COPY" and "--from=" not in rest:
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, pattern) for pattern in shown), f"{source} is in .dockerignore"


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_user_and_entry_point(steps: Steps, name: str) -> None:
    own = stage(steps, name)
    assert [rest for word, rest in own if word == "USER"][-1] == "unfade"
    every = stage(steps, "cpu") + own
    assert [rest for word, rest in every if word == "ENTRYPOINT"] == ['["/opt/apache/beam/boot"]'] * (
        2 - (name == "gpu")
    )
    assert any("useradd" in rest and "unfade" in rest for word, rest in every if word == "RUN")


def test_environment(steps: Steps) -> None:
    environment = " ".join(rest for word, rest in steps if word == "ENV")
    assert f"{dataflow.IMAGE}=${{IMAGE}}" in environment
    assert "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in environment
    [launcher] = re.findall(r"FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/unfade/(\S+)", environment)
    assert (ROOT / launcher).is_file()


def test_all_that_is_installed_is_locked(steps: Steps) -> None:
    for word, rest in steps:
        for command in rest.split("&&") if word == "RUN" else ():
            if "pip install" in command:
                assert "--no-deps" in command
                assert "--require-hashes -r deploy/" in command or command.split()[-1] == "."


def test_locks_hold_the_versions_of_the_tests() -> None:
    known, worker, cuda = (
        pins(path) for path in (ROOT / "requirements.lock", DEPLOY / "worker.lock", DEPLOY / "cuda.lock")
    )
    assert worker <= known
    names, cudas = ({name for name, _ in found} for found in (worker, cuda))
    assert len(names) == len(worker)
    assert not {"pytest", "mypy", "ruff", "playwright"} & names
    assert {"apache-beam", "tensorflow", "setuptools"} <= names
    assert all(name.startswith("nvidia-") for name in cudas)
    assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12"} <= cudas
    for path in (DEPLOY / "worker.lock", DEPLOY / "cuda.lock"):
        pinned = re.split(r"^(?=[a-z0-9])", path.read_text(), flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in one for one in pinned)


def test_the_launcher_starts() -> None:
    """As Dataflow runs it, with a command that is none: in a process of its own, from a folder of its own."""
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "launch.py"), "--command=none"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (2, "unfade: --command none: one of restore, prepare\n")
