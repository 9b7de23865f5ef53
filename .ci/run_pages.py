"""Runs the code blocks of pages for real, as their reader would, on a copy of the repository.

    python .ci/run_pages.py README.md docs/tutorial.md

All `sh` and `python` blocks of a page make one script; a `text` block is output and is not run; any other block is
refused. What CI cannot do as written is declared in the page, in comments right above the block:

    <!-- ci: xdg-open restored/report/index.html => test -s restored/report/index.html -->
    <!-- ci: => mkdir scans -->

The first has a line replaced, which must be there; the second runs something before the block. The copy shares the
repository's `.venv`, so that `. .venv/bin/activate` and `make demo` do what they say.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 1800
"""Limit of a page. It takes three minutes where nothing else runs."""

_DECLARED = re.compile(r"<!-- ci: (.*?) ?=> (.*?) -->")
_LEFT_OUT = ("/.git", "/.venv", "/.flink", "/build", "/demo-output", "/corpus/images", "/corpus/downloads")


class PageError(Exception):
    """A page that cannot be run as it stands."""


def script(page: str, text: str) -> str:
    """The page's blocks as one Bash script, which names page and line of the block that fails.

    Raises:
      PageError: A block says not what it is, or a declared line is not in it.
    """
    done = [
        "set -Eeuo pipefail",
        """trap 'echo "$at: failed with $?: $BASH_COMMAND" >&2' ERR""",
    ]
    declared: list[tuple[str, str]] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if found := _DECLARED.fullmatch(line.strip()):
            declared.append((found[1], found[2]))
        elif line.lstrip().startswith("```"):
            kind, begin, block = line.strip().removeprefix("```"), number, []
            while lines[number].strip() != "```":
                block.append(lines[number])
                number += 1
            number += 1
            if kind not in ("sh", "python", "text"):
                raise PageError(
                    f"{page}:{begin}: a block must be sh or python, which are run, or text, which is output"
                )
            if kind == "python":
                block = ["cat > block.py <<'END_OF_BLOCK'", *block, "END_OF_BLOCK", "python block.py"]
            if kind != "text":
                block = _replaced(page, begin, block, declared)
                done += [f"at={page}:{begin}", 'echo "== $at, after $SECONDS s"', *block]
            elif declared:
                raise PageError(f"{page}:{begin}: output is not run, so nothing is replaced in it")
            declared = []
        elif line.strip() and declared:
            raise PageError(f"{page}:{number}: what is declared must stand right above a block")
    return "\n".join(done) + "\n"


def _replaced(page: str, begin: int, block: list[str], declared: list[tuple[str, str]]) -> list[str]:
    before = [instead for line, instead in declared if not line]
    instead_of = {line: instead for line, instead in declared if line}
    lines = []
    for line in block:
        command = re.sub(r"\s+# .*", "", line).strip()
        lines.append(instead_of.pop(command, line))
    if instead_of:
        raise PageError(f"{page}:{begin}: the block has no line {', '.join(map(repr, instead_of))}")
    return before + lines


def run(page: str) -> None:
    """Runs a page in a copy of its own. Raises CalledProcessError, or PageError after `SECONDS`."""
    text = script(page, (ROOT / page).read_text(encoding="utf-8"))

    def left_out(folder: str, names: list[str]) -> list[str]:
        below = folder.removeprefix(str(ROOT))
        return [name for name in names if f"{below}/{name}" in _LEFT_OUT or name == "__pycache__"]

    with tempfile.TemporaryDirectory(prefix="unfade-pages-") as folder:
        copy = pathlib.Path(folder) / "unfade"
        shutil.copytree(ROOT, copy, ignore=left_out)
        (copy / ".venv").symlink_to(pathlib.Path(sys.prefix))
        began = time.monotonic()
        process = subprocess.Popen(["bash", "-c", text], cwd=copy, start_new_session=True)
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise PageError(f"{page}: not done after {SECONDS} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if status:
            raise PageError(f"{page}: ended with {status}")
        print(f"== {page}: every block ran, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        for name in sys.argv[1:]:
            run(name)
    except PageError as error:
        sys.exit(str(error))
