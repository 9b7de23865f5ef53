"""Puts together what the docs site is built from: the repository's pages, and a reference made from its code.

    python docs/pages.py build/docs     # then: mkdocs build --config-file build/docs/mkdocs.yml; `make docs` does both

Pages keep their place in the repository, and what they link to is copied with them: a link that holds in the
repository holds on the site. One that holds nowhere ends this with exit status 1.

The reference is not written but made. A command's page comes from the parser that the command itself uses, a module's
from its docstrings (mkdocstrings renders them).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import html
import importlib
import pathlib
import re
import shutil
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from pipelines import cli, options

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("pipelines", "transforms", "models")

_CODE = re.compile(r"^(```+|~~~+).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")


class BrokenLinkError(Exception):
    """A page links to what is not there."""


def links(text: str) -> list[str]:
    """Targets of a page's links and pictures, as written, code left out."""
    return _LINK.findall(_CODE.sub("", text))


def gather(root: pathlib.Path, first: Sequence[pathlib.Path]) -> tuple[set[pathlib.Path], set[pathlib.Path]]:
    """All that can be reached from some pages.

    Args:
      root: The repository.
      first: Pages to begin with, below it.

    Returns:
      Pages, and other files, both relative to the root.

    Raises:
      BrokenLinkError: With a line for each link that leads nowhere, or out of the repository.
    """
    pages: set[pathlib.Path] = set()
    files: set[pathlib.Path] = set()
    broken, waiting = [], [path.resolve() for path in first]
    while waiting:
        page = waiting.pop()
        if (name := page.relative_to(root)) in pages:
            continue
        pages.add(name)
        for link in links(page.read_text(encoding="utf-8")):
            address = urllib.parse.urlsplit(link)
            if address.scheme or address.netloc or not address.path:
                continue  # elsewhere, or on this page
            target = (page.parent / urllib.parse.unquote(address.path)).resolve()
            if not target.is_relative_to(root) or not target.is_file():
                broken.append(f"{name}: {link} leads to no file of the repository")
            elif target.suffix == ".md":
                waiting.append(target)
            else:
                files.add(target.relative_to(root))
    if broken:
        raise BrokenLinkError("\n".join(broken))
    return pages, files


class _Captured(Exception):
    pass


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser that a command reads its command line with, taken when it is about to."""

    def take(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Captured(parser)

    with mock.patch.object(options.Parser, "parse_known_args", take):
        try:
            importlib.import_module(f"pipelines.{command}").main([])
        except _Captured as captured:
            parser: argparse.ArgumentParser = captured.args[0]
            return parser
    raise AssertionError(f"unfade {command} reads its command line without options.Parser")


def _cell(text: str) -> str:
    kept = html.escape(text, quote=False)
    for character in "|*_[]":
        kept = kept.replace(character, f"&#{ord(character)};")
    return re.sub(r"`([^`]*)`", lambda code: f"<code>{code[1]}</code>", kept)


def command_page(command: str) -> str:
    """The page of a command: what it does, its arguments, its options."""
    parser = parser_of(command)
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        value = ""
        if action.option_strings and action.nargs != 0:
            value = str(action.metavar or (" or ".join(map(str, action.choices)) if action.choices else action.dest))
        said = parser._get_formatter()._expand_help(action) if action.help else ""
        rows.append(f'| <code style="white-space: nowrap">{_cell(names)}</code> | {_cell(value)} | {_cell(said)} |')
    lines = [
        f"# unfade {command}",
        "",
        parser.description or "",
        "",
        "| option | value | |",
        "|---|---|---|",
        *rows,
        "",
    ]
    if parser.epilog:
        lines += [parser.epilog, ""]
    return "\n".join(lines)


def modules() -> Iterator[tuple[str, str]]:
    """Dotted name and first line of the docstring of every public module, found without importing any."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).glob("*.py")):
            if not path.stem.startswith("_"):
                said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                yield f"{package}.{path.stem}", said.splitlines()[0]


def write_reference(folder: pathlib.Path) -> list[str]:
    """Writes the reference's pages below a folder of the site; returns their lines of the nav."""
    (folder / "commands").mkdir(parents=True)
    nav = ["  - Reference:", "      - Commands:"]
    index = ["# Commands", "", "```text", cli.usage(), "```", "", "| | |", "|---|---|"]
    for command, what in cli.COMMANDS.items():
        (folder / "commands" / f"{command}.md").write_text(command_page(command), encoding="utf-8")
        nav.append(f"          - {command}: reference/commands/{command}.md")
        index.append(f"| [unfade {command}](commands/{command}.md) | {what} |")
    (folder / "commands.md").write_text("\n".join(index) + "\n", encoding="utf-8")
    nav.insert(2, "          - All: reference/commands.md")

    index = ["# Modules", "", "Imports run one way: `pipelines` → `transforms` → `models`.", ""]
    index += ["[How unfade works](../docs/architecture.md) says which does what when.", ""]
    nav += ["      - Modules:", "          - All: reference/modules.md"]
    above = ""
    for name, first in modules():
        package, _, stem = name.partition(".")
        if package != above:
            above = package
            index += ["", f"## {package}", "", "| | |", "|---|---|"]
            nav.append(f"          - {package}:")
            (folder / package).mkdir()
        text = f"# {name}\n\n::: {name}\n"
        (folder / package / f"{stem}.md").write_text(text, encoding="utf-8")
        nav.append(f"              - {stem}: reference/{package}/{stem}.md")
        index.append(f"| [{stem}]({package}/{stem}.md) | {_cell(first)} |")
    (folder / "modules.md").write_text("\n".join(index) + "\n", encoding="utf-8")
    return nav


def main(output: pathlib.Path) -> None:
    """Writes `pages/` and `mkdocs.yml` below a folder, in place of what was there."""
    pages, files = gather(ROOT, [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(output / "pages")
    for name in sorted(pages | files):
        target = output / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    nav = write_reference(output / "pages" / "reference")
    settings = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    (output / "mkdocs.yml").write_text(settings + "\n".join(nav) + "\n", encoding="utf-8")
    print(f"docs: {len(pages)} pages of the repository, {len(files)} files they link to, {len(nav)} lines of reference")


if __name__ == "__main__":
    try:
        main(pathlib.Path(sys.argv[1]))
    except BrokenLinkError as error:
        sys.exit(str(error))
