"""The fidelity bench as a test: every kind of file comes back as it was, by the judgement of independent readers."""

from __future__ import annotations

import os
import pathlib

import fidelity
import pytest

pytestmark = pytest.mark.slow

REASON = fidelity.missing_tools()
if REASON and os.environ.get("CI"):  # there they must be, and a bench that is left out would go unseen
    raise RuntimeError(REASON)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, fidelity.Result]:
    """Every case, restored once."""
    if REASON:
        pytest.skip(REASON)
    root: pathlib.Path = tmp_path_factory.mktemp("fidelity")
    output = fidelity.run(root)
    return {result.case.name: result for result in fidelity.compare(root / "in", output)}


@pytest.mark.parametrize("case", fidelity.CASES, ids=lambda case: case.name)
def test_comes_back_as_it_was(case: fidelity.Case, results: dict[str, fidelity.Result]) -> None:
    result = results[case.name]
    assert result.difference <= case.most
    assert result.changed == ()
    assert result.profile in ("same", "none")
    assert result.recorded == (not case.file.endswith(".bmp"))
    assert (case.note or "") in result.notes
    assert bool(case.note) == bool(result.notes)
    if case.tags and case.file.endswith((".jpg", ".png", ".tif")) and "BigTIFF" not in case.name:
        assert result.kept >= 20  # exiftool's EXIF, IPTC and XMP were there to be kept


def test_the_table_in_the_docs_has_a_row_for_each() -> None:
    page = fidelity.TABLE.read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]
    assert rows == [case.name for case in fidelity.CASES]
