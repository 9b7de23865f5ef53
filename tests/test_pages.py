"""The pages of the docs: what they link to and name is there, and code blocks are found as they stand."""

from __future__ import annotations

import html
import importlib.util
import os
import pathlib
import re
import sys
from types import ModuleType

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def load(path: str) -> ModuleType:
    name = pathlib.Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec
    assert spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, run_pages = load("docs/pages.py"), load(".ci/run_pages.py")


def test_links_of_every_page_lead_to_files_of_the_repository() -> None:
    found, files = pages.gather(ROOT, [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert pathlib.Path("MODEL_CARD.md") in found
    assert pathlib.Path("docs/data-path.svg") in files


def test_a_link_that_leads_nowhere_is_named(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "[a](gone.md) [b](../beyond.md) `[c](code.md)` [d](#here) [e](https://x.org)\n```\n[f](no.md)\n```\n"
    )
    with pytest.raises(pages.BrokenLinkError) as caught:
        pages.gather(tmp_path, [page])
    assert re.findall(r": (\S+) leads", str(caught.value)) == ["gone.md", "../beyond.md"]


def test_architecture_names_every_module_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for package in pages.PACKAGES:
        section = text.split(f"**`{package}/`**")[1].split("\n**")[0].split("\n## ")[0]
        named = re.findall(r"`(\w+\.py)`", section)
        there = {path.name for path in (ROOT / package).glob("*.py") if path.stem != "__init__"}
        assert sorted(named) == sorted(there), f"docs/architecture.md, the list of {package}"
    every = {
        path.name for package in (*pages.PACKAGES, "deploy", "benchmarks") for path in (ROOT / package).glob("*.py")
    }
    assert set(re.findall(r"`(?:\w+/)*(\w+\.py)`", text)) <= every


def test_every_page_of_the_docs_has_a_place_in_the_nav() -> None:
    found, _ = pages.gather(ROOT, [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    named = re.findall(r": (\S+\.md)$", (ROOT / "docs" / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(map(str, found))


@pytest.mark.parametrize("command", pages.cli.COMMANDS)
def test_a_commands_page_has_all_its_options(command: str) -> None:
    page = html.unescape(pages.command_page(command))
    parser = pages.parser_of(command)
    assert parser.prog == f"unfade {command}"
    for action in parser._actions:
        assert all(f">{name}" in page or f", {name}" in page for name in action.option_strings)


def test_blocks_run_as_they_stand_but_for_what_is_declared(tmp_path: pathlib.Path) -> None:
    page = """
<!-- ci: => echo before -->
<!-- ci: open it => echo instead -->
```sh
echo first    # told
open it       # in a browser
```

```text
shown
```

```python
print("of Python")
```

```sh
false
```
"""
    path = f"{sys.prefix}/bin:{os.environ['PATH']}"  # as after `. .venv/bin/activate`
    done = run_pages.subprocess.run(
        ["bash", "-c", run_pages.script("page.md", page)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
    )
    assert [line for line in done.stdout.splitlines() if line[0] != "="] == ["before", "first", "instead", "of Python"]
    assert done.returncode == 1
    assert "page.md:17: failed with 1: false" in done.stderr


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("```\nls\n```", "page.md:1: a block must be sh"),
        ("<!-- ci: gone => : -->\n```sh\nls\n```", "page.md:2: the block has no line 'gone'"),
        ("<!-- ci: ls => : -->\ntext\n```sh\nls\n```", "page.md:2: what is declared must stand right above a block"),
    ],
)
def test_a_page_that_cannot_be_run_as_it_stands_is_refused(page: str, told: str) -> None:
    with pytest.raises(run_pages.PageError, match=re.escape(told)):
        run_pages.script("page.md", page)
