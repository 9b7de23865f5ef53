"""`unfade report DIR`: the HTML report of a finished `restore`, from its metrics, summary and pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from pipelines import options
from transforms import report, sinks, storage
from transforms.items import UsageError
from transforms.storage_access import check_access

PICTURES = 60
"""Most pictures in a report by default: a file of some 4 MB."""


def write(output: str, pictures: int = PICTURES) -> str:
    """Writes `report/index.html` below a run's output folder; returns its URI.

    Raises:
      UsageError: The folder holds no finished run.
    """
    summary_uri = storage.join(output, "summary.json")
    if not storage.exists(summary_uri):
        raise UsageError(f"{output} holds no finished results (summary.json is missing); run `unfade restore` first")
    summary = sinks.read_json(summary_uri)
    if summary.get("command") != "restore":
        raise UsageError(f"{output} was not written by `unfade restore`")
    rows: list[dict[str, Any]] = []
    for uri in storage.listing(storage.join(output, "metrics"), "metrics-*.parquet"):
        rows += pq.read_table(io.BytesIO(storage.read_bytes(uri))).to_pylist()
    page = report.render(summary, report.choose(rows, pictures), output)
    target = storage.join(output, "report", "index.html")
    storage.write_bytes(target, page.encode("utf-8", "replace"))
    return target


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    parser = options.Parser(prog="unfade report", description="Writes the HTML report of a finished run again.")
    parser.add_argument("output", metavar="DIR", help="output folder of `unfade restore`")
    parser.add_argument(
        "--pictures", type=int, default=PICTURES, metavar="N", help="most pictures shown (default %(default)s)"
    )
    given = parser.parse_args(list(argv))
    check_access(given.output)
    print(f"report: {write(given.output, given.pictures)}")
    return options.DONE


if __name__ == "__main__":
    options.main(main)
