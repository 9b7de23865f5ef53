"""`.ci/check_audit.py`: what pip-audit found, as an exit status."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

CHECK = pathlib.Path(__file__).parent.parent / ".ci" / "check_audit.py"
SOUND = {"name": "numpy", "version": "2.3.5", "vulns": []}
BAD = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-2023-175", "fix_versions": ["10.0.1"]}]}
UNKNOWN = {"name": "unfade", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("found", "status", "says"),
    [
        ([SOUND], 0, ""),
        ([SOUND, BAD], 1, "pillow 9.0: PYSEC-2023-175, mended in 10.0.1"),
        ([BAD, UNKNOWN], 1, "1 of 2 packages could not be asked about: unfade"),
        ([SOUND, UNKNOWN], 2, "could not be asked about"),
        ([], 2, ""),
        (None, 2, "no answer"),
    ],
)
def test_status(found: list[dict[str, Any]] | None, status: int, says: str, tmp_path: pathlib.Path) -> None:
    if found is not None:
        (tmp_path / "audit.json").write_text(json.dumps({"dependencies": found, "fixes": []}))
    done = subprocess.run(
        [sys.executable, "-I", str(CHECK), str(tmp_path / "audit.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert says in done.stderr
