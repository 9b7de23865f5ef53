"""`unfade review DIR`: shows a finished run's report on this machine and writes what is decided into its folder."""

from __future__ import annotations

import collections
import shlex
import webbrowser
from collections.abc import Sequence

from pipelines import options, report
from transforms import decisions, resume, sinks, storage
from transforms.desk import Desk
from transforms.items import UsageError
from transforms.report import corrected, tables
from transforms.storage_access import check_access


def conclude(output: str, known: dict[str, decisions.Decision]) -> str:
    """What has been decided, and the command that obeys it."""
    counts = collections.Counter(decision.decision for decision in known.values())
    if not counts:
        return "nothing decided"
    given = sinks.read_json(storage.join(output, "summary.json")).get("options", {})
    command = ["unfade", "restore", "--input", str(given.get("input")), "--output", output]
    command += ["--decisions", storage.join(output, decisions.FILE), "--overwrite"]
    said = ", ".join(f"{kind} {counts[kind]}" for kind in decisions.KINDS if counts[kind])
    return f"decided: {said}\nto obey: {shlex.join(command)} (and the options of the run before)"


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    parser = options.Parser(
        prog="unfade review",
        description="Shows a finished run's report in the browser and writes what you decide to DIR/decisions.jsonl.",
    )
    parser.add_argument("output", metavar="DIR", help="output folder of `unfade restore`")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--no_browser", action="store_true", help="print the address, open no browser")
    given = parser.parse_args(list(argv))
    check_access(given.output)
    report.write(given.output, anew=False)
    uris: dict[str, str] = {}
    for table in tables(given.output):
        for rows in resume.read_rows(table, ("id", "uri")):
            uris.update(zip(rows.column("id").to_pylist(), rows.column("uri").to_pylist(), strict=True))
    try:
        desk = Desk(given.output, uris, corrected(given.output), given.port)
    except (OSError, OverflowError) as error:
        raise UsageError(f"--port {given.port} cannot be used: {error}") from error
    with desk:
        print(f"review: {desk.url}\nCtrl-C ends it; decisions go to {desk.file}", flush=True)
        if not given.no_browser:
            webbrowser.open(desk.url)
        try:
            desk.serve_forever()
        except KeyboardInterrupt:
            print()
        print(conclude(given.output, desk.decided()))
    return options.DONE


if __name__ == "__main__":
    options.main(main)
