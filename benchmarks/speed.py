"""How fast `unfade` is beside its limits and what users would pick instead: `make bench`.

    python -m benchmarks.speed [--rounds 5] [--few 8] [--many 100] [--only NAME] [--photographs samples] [--output DIR]

Every contestant is a whole process over the same pictures with the same model. In each round all of them run one after
the other, so that whatever else the machine does hits all alike. What is compared is seconds for one picture more, as
an archive has millions: of those that write pictures by the times of their files, the first quarter left out, since
starting takes anything from 13 to 40 seconds; of the others by a run over a few pictures and one over many.
A figure is the median over the rounds of the ratio within each round, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import pictures
from models.contract import DEFAULT_MODEL

HERE = pathlib.Path(__file__).parent
PEERS = HERE / "peers"
ENVIRONMENT = PEERS / ".venv"

PICTURE = "?????.jpg"
"""What contestants call the pictures that they write: as `pictures.write` does. Previews have longer names."""


@dataclasses.dataclass(frozen=True)
class Spent:
    """What a process cost.

    Attributes:
      seconds: Wall time.
      first: Seconds to its first picture, if it writes any.
      memory: Peak of all its processes, in MB.
      each: Seconds between two pictures, the first quarter left out; None where there are less than 8.
    """

    seconds: float
    first: float | None
    memory: float
    each: float | None = None


@dataclasses.dataclass(frozen=True)
class Measure:
    """One line of the table: `over` / `under` in cost for each picture more.

    Attributes:
      name: What is compared.
      ours: The contestant whose speed is asked for.
      other: What it is measured against.
      target: Least (`>=`) or most (`<=`) for the ratio.
      of: "speed" (other's seconds over ours) or "time" (ours over other's).
    """

    name: str
    ours: str
    other: str
    target: str
    of: str = "speed"


Command = Callable[[pathlib.Path, pathlib.Path], list[str]]
"""(manifest, output) -> command line."""


def unfade(command: str, *flags: str) -> Command:
    """One of our own commands."""
    return lambda manifest, output: [
        *(sys.executable, "-m", "pipelines.cli", command, "--progress", "quiet"),
        *("--input", str(manifest), "--output", str(output), *flags),
    ]


def peer(name: str, *, residual: bool = False, own: bool = False) -> Command:
    """One of `peers/`, in our environment or in their own."""
    python = str(ENVIRONMENT / "bin" / "python") if own else sys.executable
    return lambda manifest, output: [
        *(python, str(PEERS / f"{name}.py"), str(manifest), str(output), str(DEFAULT_MODEL)),
        "residual" if residual else "colour",
    ]


Row = dict[str, float | str | None]
"""What one contestant spent in one round."""

SETS = {"2.5 MP": (2.0, 3.0), "12 MP": (12.0, 12.0), "0.5 MP": (0.3, 0.7)}
"""Megapixels of the pictures, the least and the most."""

CONTESTANTS: dict[str, tuple[str, Command]] = {
    "restore": ("2.5 MP", unfade("restore", "--keep_grain")),
    "bare loop": ("2.5 MP", peer("bare_loop")),
    "plain script": ("2.5 MP", peer("plain_script")),
    "ray": ("2.5 MP", peer("ray_data", own=True)),
    "restore, residual": ("2.5 MP", unfade("restore")),
    "bare loop, residual": ("2.5 MP", peer("bare_loop", residual=True)),
    "restore, one worker": ("2.5 MP", unfade("restore", "--keep_grain", "--direct_num_workers", "1")),
    "restore 12 MP": ("12 MP", unfade("restore", "--keep_grain")),
    "restore 12 MP, residual": ("12 MP", unfade("restore")),
    "codec 12 MP": ("12 MP", peer("codec")),
    "prepare": ("0.5 MP", unfade("prepare")),
    "img2dataset": ("0.5 MP", peer("img2dataset_peer", own=True)),
    "plain writer": ("0.5 MP", peer("plain_writer")),
}

MEASURES = (
    Measure("restore over the bare tf.data loop", "restore", "bare loop", ">= 0.95"),
    Measure("the same with the residual", "restore, residual", "bare loop, residual", ">= 0.95"),
    Measure("restore over Ray Data", "restore", "ray", ">= 1.3"),
    Measure("restore over the plain script", "restore", "plain script", ">= 1.8"),
    Measure("two workers over one", "restore", "restore, one worker", ">= 1.7"),
    Measure("12 MP, colour, time over the codec", "restore 12 MP", "codec 12 MP", "<= 2.0", "time"),
    Measure("12 MP, residual, time over the codec", "restore 12 MP, residual", "codec 12 MP", "<= 4.0", "time"),
    Measure("prepare over img2dataset", "prepare", "img2dataset", ">= 2.0"),
    Measure("prepare over the plain writer", "prepare", "plain writer", ">= 0.9"),
)


def _pace(output: pathlib.Path) -> float | None:
    """See `Spent.each`."""
    times = sorted(path.stat().st_mtime for path in output.rglob(PICTURE))
    late = times[len(times) // 4 :]
    return (late[-1] - late[0]) / (len(late) - 1) if len(times) >= 8 else None


def _memory(session: int) -> float:
    """Proportional set size of all processes of a session, in MB: what two share is counted once."""
    total = 0
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue  # it has ended
    return total / 1024


def spend(command: Sequence[str], output: pathlib.Path) -> Spent:
    """Runs a command in a session of its own and watches it.

    Raises:
      RuntimeError: It failed; with the end of what it said.
    """
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "TF_CPP_MIN_LOG_LEVEL": "3"}
    began, memory = time.monotonic(), 0.0
    first: float | None = None
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)
        ended = threading.Event()

        def watch() -> None:
            nonlocal first, memory
            while not ended.wait(0.5):
                memory = max(memory, _memory(process.pid))
                if first is None and any(output.rglob(PICTURE)):
                    first = time.monotonic() - began

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = process.wait()
        seconds = time.monotonic() - began
        ended.set()
        watcher.join()
        if status:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {status}:\n{said.read().decode()[-3000:]}")
    return Spent(seconds, first, memory, _pace(output))


def environment() -> None:
    """Installs the peers, apart from unfade; once, and again when others are wanted."""
    wanted, complete = (PEERS / "requirements.txt").read_text(), ENVIRONMENT / "complete"
    if not complete.exists() or complete.read_text() != wanted:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(PEERS / "requirements.txt")], check=True)
        complete.write_text(wanted)


def read_ahead(python: str) -> None:
    """Reads an environment's libraries into the system's cache: from the disk, TensorFlow alone takes 30 seconds."""
    for path in pathlib.Path(python).parent.parent.glob("lib/python*/site-packages/**/*"):
        if path.suffix in (".so", ".2", ".pyc") and path.is_file():
            path.read_bytes()


def run(names: Sequence[str], given: argparse.Namespace, folder: pathlib.Path) -> list[Row]:
    """All rounds: a row for each contestant and round."""
    sources = pictures.photographs(pathlib.Path(given.photographs))
    manifests = {}
    for kind in {CONTESTANTS[name][0] for name in names}:
        most = max(1.0, SETS[kind][1] / SETS["2.5 MP"][1])  # fewer of large ones
        counts = [max(2, round(given.few / most)), max(8, round(given.many / most))]
        if kind == "0.5 MP":
            counts = [4 * count for count in counts]
        manifests[kind] = [
            (count, pictures.write(folder / f"{kind} {count}", sources, count, SETS[kind])) for count in counts
        ]

    def once(command: Command, manifest: pathlib.Path) -> Spent:
        output = folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        return spend(command(manifest, output), output)

    rows: list[Row] = []
    for turn in range(given.rounds):
        for name in names:
            kind, command = CONTESTANTS[name]
            read_ahead(command(manifests[kind][0][1], folder)[0])
            (few, little), (many, much) = manifests[kind]
            more = once(command, much)
            each = more.each
            if each is None:
                each = (more.seconds - once(command, little).seconds) / (many - few)
            start = more.seconds - many * each
            row: Row = {"contestant": name, "round": turn, "pictures": kind, "seconds_each": each, "start": start}
            rows.append({**row, "first": more.first, "memory": more.memory})
            print(f"round {turn + 1} {name}: {each:.3f} s a picture, {start:.1f} s to start", file=sys.stderr)
    return rows


def ratios(rows: list[Row], measure: Measure) -> list[float]:
    """Of one measure, a value for each round in which both ran."""
    each = {(row["contestant"], row["round"]): float(row["seconds_each"] or 0) for row in rows}
    turns = sorted({turn for _, turn in each})
    pairs = [(each.get((measure.ours, turn)), each.get((measure.other, turn))) for turn in turns]
    found = [(ours, other) for ours, other in pairs if ours and other]
    return [other / ours if measure.of == "speed" else ours / other for ours, other in found]


def table(rows: list[Row]) -> str:
    """Markdown: ratios against their targets, then each contestant by itself."""
    lines = ["| measure | target | median | lowest to highest | |", "|---|---|---|---|---|"]
    for measure in MEASURES:
        if values := ratios(rows, measure):
            middle, (sign, bound) = statistics.median(values), measure.target.split()
            met = middle >= float(bound) if sign == ">=" else middle <= float(bound)
            spread = f"{min(values):.2f} to {max(values):.2f}"
            lines.append(
                f"| {measure.name} | {measure.target} | **{middle:.2f}** | {spread} | {'met' if met else 'missed'} |"
            )
    lines += ["", "| contestant | pictures | s a picture | start, s | first picture, s | most memory, MB |"]
    lines.append("|---|---|---|---|---|---|")
    for name in dict.fromkeys(str(row["contestant"]) for row in rows):
        own = [row for row in rows if row["contestant"] == name]
        each, start, first, memory = (
            statistics.median([float(value) for row in own if (value := row[key]) is not None] or [float("nan")])
            for key in ("seconds_each", "start", "first", "memory")
        )
        lines.append(f"| {name} | {own[0]['pictures']} | {each:.3f} | {start:.1f} | {first:.1f} | {memory:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Runs, prints the table, keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--few", type=int, default=8, help="pictures of 2.5 MP in short runs")
    parser.add_argument("--many", type=int, default=100, help="and in the others; of other sizes accordingly")
    parser.add_argument("--only", default="", help="measures whose name has one of these in it, parted by commas")
    parser.add_argument("--photographs", default="samples", help="JPEGs that the pictures are made of")
    parser.add_argument("--output", default="benchmarks/results", help="folder for speed.parquet and speed.md")
    given = parser.parse_args()
    chosen = [measure for measure in MEASURES if any(part in measure.name for part in given.only.split(","))]
    names = [name for name in CONTESTANTS if any(name in (one.ours, one.other) for one in chosen)]
    environment()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(names, given, pathlib.Path(folder))
    output = pathlib.Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), output / "speed.parquet")
    about = {"cores": os.cpu_count(), "rounds": given.rounds, "few": given.few, "many": given.many}
    text = f"{table(rows)}\n\n{json.dumps(about)}\n"
    (output / "speed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
