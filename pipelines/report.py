"""`unfade report DIR`: the report and contact sheets of a finished `restore`, from its tables and previews."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import options
from transforms import decisions, report, sheets, sinks, storage
from transforms.items import UsageError
from transforms.storage_access import check_access


def read_rows(output: str) -> pa.Table:
    """The metrics of a run's pictures."""
    uris = storage.listing(storage.join(output, "metrics"), "metrics-*.parquet")
    return pa.concat_tables(pq.read_table(io.BytesIO(storage.read_bytes(uri))) for uri in uris)


def read_errors(output: str) -> list[dict[str, Any]]:
    """The records of what failed in a run."""
    uris = storage.listing(storage.join(output, "errors"), "errors-*.jsonl")
    return [json.loads(line) for uri in uris for line in storage.read_bytes(uri).decode().split("\n") if line]


def write(output: str) -> str:
    """Writes `report/` below a run's output folder; returns the URI of its page.

    Raises:
      UsageError: The folder holds no finished run.
    """
    summary_uri = storage.join(output, "summary.json")
    if not storage.exists(summary_uri):
        raise UsageError(f"{output} holds no finished results (summary.json is missing); run `unfade restore` first")
    summary = sinks.read_json(summary_uri)
    if summary.get("command") != "restore":
        raise UsageError(f"{output} was not written by `unfade restore`")
    decided = storage.join(output, decisions.FILE)
    known = decisions.read(decided).values() if storage.exists(decided) else ()
    return report.write(output, summary, read_rows(output), read_errors(output), known)


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    parser = options.Parser(prog="unfade report", description="Writes the report of a finished run again.")
    parser.add_argument("output", metavar="DIR", help="output folder of `unfade restore`")
    parser.add_argument("--sheet", metavar="FILE", help="write contact sheets, too: .pdf, or .png a page")
    parser.add_argument(
        "--pictures",
        type=int,
        default=60,
        metavar="N",
        help="most pictures on the sheets, the least sure first (default %(default)s)",
    )
    parser.add_argument("--font", metavar="FILE", help="TrueType font with the captions' characters, for the sheets")
    given = parser.parse_args(list(argv))
    if given.pictures < 1:
        parser.error(f"--pictures {given.pictures} is less than 1")
    check_access(given.output)
    print(f"report: {write(given.output)}")
    if given.sheet:
        check_access(given.sheet)
        rows = report.ordered(read_rows(given.output)).slice(0, given.pictures).to_pylist()
        name = f"unfade: {given.output.rstrip('/').rpartition('/')[2]}"
        for uri in sheets.write(given.sheet, given.output, rows, name, given.font):
            print(f"sheet: {uri}")
    return options.DONE


if __name__ == "__main__":
    options.main(main)
