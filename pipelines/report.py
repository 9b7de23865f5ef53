"""`unfade report DIR`: the report and contact sheets of a finished `restore`, from its tables and previews."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines import options
from transforms import decisions, report, sheets, sinks, spooled, storage
from transforms.items import UsageError
from transforms.storage_access import check_access


def write(output: str, anew: bool = True) -> str:
    """Writes `report/` below a run's output folder; returns the URI of its page.

    Args:
      output: The folder.
      anew: See `report.write`.

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
    return report.write(output, summary, known, anew)


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
        rows = spooled.least_sure(report.tables(given.output), given.pictures)
        name = f"unfade: {given.output.rstrip('/').rpartition('/')[2]}"
        for uri in sheets.write(given.sheet, given.output, rows, name, given.font):
            print(f"sheet: {uri}")
    return options.DONE


if __name__ == "__main__":
    options.main(main)
