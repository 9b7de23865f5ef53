"""What `restore` costs by number and by size of the pictures, where its time goes, and what starting costs.

    python -m benchmarks.scale [--pictures 1000,10000] [--megapixels 0.3,1,3,12,24] [--rounds 3] [--output DIR]

Numbers: many small pictures, once each; seconds between the first and the last, and the peak of all processes' memory.
Sizes: a few pictures and more of them; what one costs more in each step is the difference of the runs' own summaries.
Start: one picture, and in the same round TensorFlow and Beam imported and nothing else. The numbers of pictures and the
rounds may be made smaller to try it out.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import pictures
from benchmarks.speed import Spent, spend, unfade

Row = dict[str, float | str | None]
"""One run: `part` ("pictures", "megapixels" or "start"), what was done and what it cost."""

SMALL = (0.1, 0.2)
"""Megapixels of the pictures whose number counts."""

DISTINCT = 50
"""Files of these; the manifest names each many times over, with ids of their own."""

STEPS = ("read", "decode", "decide", "inference", "write")
"""Of the summary: what a picture goes through. Others are parts of these."""

IMPORTS = [sys.executable, "-c", "import apache_beam, tensorflow"]


def repeated(manifest: pathlib.Path, count: int) -> pathlib.Path:
    """A manifest beside another, whose pictures it names in turn until there are `count` of them."""
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    path = manifest.with_name(f"{count}.csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "caption"])
        for index in range(count):
            row = rows[index % len(rows)]
            writer.writerow([f"{index:05d}", row["image"], row["caption"]])
    return path


class Bench:
    """Runs commands into one output folder, and keeps their rows."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.rows: list[Row] = []
        self._output = folder / "output"

    def restore(self, manifest: pathlib.Path, *flags: str) -> tuple[Spent, dict[str, float]]:
        """One run: what it cost, and the seconds of each step, of all workers together."""
        spent = self._spend(unfade("restore", *flags)(manifest, self._output))
        summary = json.loads((self._output / "summary.json").read_text())
        return spent, {step: float(told["seconds"]) for step, told in summary["stages"].items()}

    def after_last(self) -> float:
        """Seconds since the last picture was written: after a run, what its tables and its report took."""
        return time.time() - max(file.stat().st_mtime for file in (self._output / "images").iterdir())

    def imports(self) -> Spent:
        """What no command can do without."""
        return self._spend(IMPORTS)

    def keep(self, row: Row) -> None:
        """Adds a row and says so."""
        self.rows.append(row)
        print(
            " ".join(f"{name}={value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items())
        )

    def _spend(self, command: Sequence[str]) -> Spent:
        shutil.rmtree(self._output, ignore_errors=True)
        return spend(command, self._output)


def number(bench: Bench, manifest: pathlib.Path, counts: Sequence[int]) -> None:
    """The part "pictures": in the order given, each once."""
    for count in counts:
        spent, steps = bench.restore(repeated(manifest, count), "--keep_grain")
        tables = bench.after_last()
        bench.keep(
            {
                "part": "pictures",
                "pictures": float(count),
                "seconds": spent.seconds,
                "seconds_each": spent.each,
                "memory": spent.memory,
                "measure_share": steps["measure"] / sum(steps[step] for step in STEPS),
                "tables_share": tables / spent.seconds,
            }
        )


def size(bench: Bench, manifests: dict[float, list[tuple[int, pathlib.Path]]], rounds: int) -> None:
    """The part "megapixels": every size in every round."""
    for turn in range(rounds):
        for megapixels, ((few, less), (many, more)) in manifests.items():
            for kind, flags in (("colour", ("--keep_grain",)), ("residual", ())):
                (short, begun), (long, ended) = (bench.restore(manifest, *flags) for manifest in (less, more))
                row: Row = {
                    "part": "megapixels",
                    "round": float(turn),
                    "kind": kind,
                    "megapixels": megapixels,
                    "seconds_each": long.each or (long.seconds - short.seconds) / (many - few),
                    "memory": long.memory,
                }
                bench.keep(
                    row
                    | {f"step_{step}": (ended[step] - begun.get(step, 0.0)) / (many - few) for step in sorted(ended)}
                )


def start(bench: Bench, manifest: pathlib.Path, rounds: int) -> None:
    """The part "start"."""
    for turn in range(rounds):
        alone, (spent, _) = bench.imports().seconds, bench.restore(manifest)
        first = spent.first or spent.seconds
        bench.keep({"part": "start", "round": float(turn), "first": first, "imports": alone, "ours": first - alone})


def table(rows: Sequence[Row]) -> str:
    """Markdown, a table for each part that was run."""

    def of(part: str, **wanted: float | str) -> list[Row]:
        return [row for row in rows if row["part"] == part and all(row[key] == value for key, value in wanted.items())]

    def median(found: Sequence[Row], name: str) -> float:
        return statistics.median(float(row.get(name) or 0.0) for row in found)

    lines = ["| pictures | s a picture | most memory, MB | measuring | tables and report |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['pictures']:,.0f} | {row['seconds_each']:.4f} | {row['memory']:.0f} | {row['measure_share']:.1%} |"
        f" {row['tables_share']:.1%} |"
        for row in of("pictures")
    ]
    steps = sorted({name for row in of("megapixels") for name in row if name.startswith("step_")})
    titles = [step.removeprefix("step_") for step in steps]
    lines += ["", f"| MP | | s a picture | {' | '.join(titles)} | most memory, MB |", "|---" * (len(steps) + 4) + "|"]
    for kind in ("colour", "residual"):
        for megapixels in sorted({float(row["megapixels"] or 0) for row in of("megapixels")}):
            found = of("megapixels", kind=kind, megapixels=megapixels)
            shown = [f"{1000 * median(found, step):.0f} ms" for step in steps]
            each, memory = median(found, "seconds_each"), median(found, "memory")
            lines.append(f"| {megapixels:g} | {kind} | {each:.3f} | {' | '.join(shown)} | {memory:.0f} |")
    if begun := of("start"):
        first, alone, ours = (median(begun, name) for name in ("first", "imports", "ours"))
        lines += ["", f"First picture after {first:.1f} s; TensorFlow and Beam alone {alone:.1f} s; ours {ours:.1f} s."]
    return "\n".join(lines)


def main() -> None:
    """Runs, prints the tables, keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", default="1000,10000", help="how many small ones")
    parser.add_argument("--megapixels", default="0.3,1,3,12,24", help="how large")
    parser.add_argument("--rounds", type=int, default=3, help="of sizes and starts")
    parser.add_argument("--photographs", default="samples", help="JPEGs that the pictures are made of")
    parser.add_argument("--output", default="benchmarks/results", help="folder for scale.parquet and scale.md")
    given = parser.parse_args()
    sources = pictures.photographs(pathlib.Path(given.photographs))
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        bench = Bench(folder)
        small = pictures.write(folder / "small", sources, DISTINCT, SMALL)
        one = pictures.write(folder / "one", sources, 1, SMALL)
        bench.restore(one)  # not counted: the first process reads TensorFlow from the disk
        manifests = {}
        for megapixels in (float(text) for text in given.megapixels.split(",") if text):
            few = max(2, round(8 / max(1.0, megapixels)))
            manifests[megapixels] = [
                (count, pictures.write(folder / f"{megapixels} {count}", sources, count, (megapixels, megapixels)))
                for count in (few, few + max(6, round(60 / max(1.0, megapixels))))
            ]
        start(bench, one, given.rounds)
        size(bench, manifests, given.rounds)
        number(bench, small, [int(text) for text in given.pictures.split(",") if text])
    output = pathlib.Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(name for row in bench.rows for name in row)  # of each part its own
    pq.write_table(pa.table({name: [row.get(name) for row in bench.rows] for name in names}), output / "scale.parquet")
    text = table(bench.rows)
    (output / "scale.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
