"""What a run costs that finds everything done: seconds and memory by the number of items.

    python -m benchmarks.resume 1000 10000 100000

Restores one small picture, makes an archive of as many names for it (hard links) and an output that holds them all with
their rows, and runs `unfade restore` on it in a process of its own, with one worker: once when the report has to be
written as well, and once when nothing has.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines import restore
from transforms import identity, metrics_table, sinks
from transforms.items import Pair
from transforms.records import shard_of

_LINKS = 50_000  # ext4 allows a file 65,000 names


def archive(folder: pathlib.Path, items: int) -> None:
    """Makes `in/` and `out/` below a folder as a finished run over so many items would have left them."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    (folder / "one").mkdir()
    Image.fromarray(pixels).save(folder / "one" / "a.png")
    restore.main([*given(folder / "one", folder / "first")])
    [row] = pq.read_table(folder / "first" / "metrics").to_pylist()
    settings = json.loads((folder / "first" / "summary.json").read_text())["options"]
    made_by = identity.maker(row["model_sha256"], {name: settings[name] for name in restore._SETTINGS})
    names = [folder / "one" / "a.png", folder / "first" / row["output"]]
    shards: list[list[dict[str, object]]] = [[] for _ in range(-(-items // metrics_table.ROWS_A_SHARD))]
    for number in range(items):
        id = f"box {number // 1000:04d}/scan {number:07d}.png"
        source, output = folder / "in" / id, folder / "out" / "images" / id
        for place, path in enumerate((source, output)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if number % _LINKS:
                os.link(names[place], path)
            else:
                names[place] = pathlib.Path(shutil.copy(names[place], path))
        made = identity.fingerprint(made_by, identity.identity(Pair(id, str(source)), identity.file_version))
        told = {**row, "id": id, "uri": str(source), "output": f"images/{id}", "fingerprint": made}
        shards[shard_of(id, len(shards))].append(told)
    (folder / "out" / "metrics").mkdir()
    for index, rows in enumerate(shards):
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["id"])), schema=metrics_table.outputs.COLUMNS)
        name = f"metrics-{index:05d}-of-{len(shards):05d}.parquet"
        (folder / "out" / "metrics" / name).write_bytes(sinks.table_bytes(table))


def given(source: pathlib.Path, output: pathlib.Path) -> list[str]:
    """Arguments of a run."""
    return ["--input", str(source), "--output", str(output), "--direct_num_workers", "1"]


def measured(folder: pathlib.Path, items: int) -> str:
    """Runs the command and says what it cost."""
    code = (
        "import json, sys; from pipelines import restore; status = restore.main(json.loads(sys.argv[1]));"
        "print('peak', next(line.split()[1] for line in open('/proc/self/status') if line[:6] == 'VmHWM:'));"
        "sys.exit(status)"
    )
    began, spent = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(given(folder / "in", folder / "out"))],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - began
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - spent
    peak = int(done.stdout.rpartition("peak ")[2])
    counts = json.loads((folder / "out" / "summary.json").read_text())["counts"]
    assert counts == {"input": items, "restored": 0, "skipped": items, "failed": 0}, counts
    return f"{seconds:.1f} s, {spent:.1f} s of the processor, {peak / 1024:.0f} MiB at most"


def main() -> None:
    """Prints two lines for each number of items."""
    for items in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            archive(folder, items)
            print(f"{items} items done, with the report: {measured(folder, items)}", flush=True)
            print(f"{items} items done: {measured(folder, items)}", flush=True)


if __name__ == "__main__":
    main()
