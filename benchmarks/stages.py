"""How far restoring is from its limits: every stage on the same pictures in one process, in MP/s.

    python benchmarks/stages.py [--input samples/pairs.csv] [--repeat 3] [--cores 1] [--json FILE]

The limit is what no restorer can do without: decode the file, encode it again. Absolute numbers belong to the machine;
the ratios are what to compare.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from models.contract import DEFAULT_MODEL
from transforms import codecs, metrics, pairs
from transforms.inference import Apply, DecideHandler, Thumbnail
from transforms.items import Pair
from transforms.loading import ReadSource
from transforms.outputs import WriteRestored

MAX_PIXELS = codecs.DEFAULT_MAX_PIXELS


def timed(work: Callable[[Any], Any], items: Sequence[Any], repeat: int) -> tuple[float, list[Any]]:
    """Best seconds of some passes over the items, and what the last pass gave."""
    best, results = float("inf"), []
    for _ in range(repeat):
        began = time.perf_counter()
        results = [work(item) for item in items]
        best = min(best, time.perf_counter() - began)
    return best, results


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", default="samples/pairs.csv")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cores", type=int, help="run on so many (default: all); Linux only")
    parser.add_argument("--json", help="also write the table here, for docs/model_card.py")
    given = parser.parse_args()
    if given.cores:
        # Before TensorFlow makes its threads: one for each core that it may use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])

    # Without targets: full-reference scores are for evaluation, and slower than everything else together.
    found = [pair for pair in pairs.read(given.input) if isinstance(pair, Pair)]
    read = ReadSource(MAX_PIXELS)
    sources = [read.run(Pair(pair.id, pair.uri, pair.caption)) for pair in found]
    decoded = [codecs.decode(source.encoded) for source in sources]
    megapixels = sum(picture.pixels.shape[0] * picture.pixels.shape[1] for picture in decoded) / 1e6

    handler = DecideHandler(given.model)
    model = handler.load_model()
    apply = Apply(given.model, 1, MAX_PIXELS)
    apply.setup()
    with tempfile.TemporaryDirectory() as folder:
        write = WriteRestored(folder, "", MAX_PIXELS)
        rows: list[tuple[str, float]] = []

        def stage(name: str, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            seconds, results = timed(work, items, given.repeat)
            rows.append((name, seconds))
            return results

        stage("decode", lambda source: codecs.decode(source.encoded), sources)
        stage("encode", lambda picture: codecs.encode(picture, picture.pixels), decoded)
        undecided = stage("decode + thumbnail", Thumbnail(MAX_PIXELS).run, sources)
        decided = stage("decide, one batch", lambda batch: list(handler.run_inference(batch, model)), [undecided])[0]
        plain = [dataclasses.replace(one, decision=one.decision.as_wished("never", clean=False)) for one in decided]
        stage("apply, colours alone", apply.run, plain)
        restored = stage("apply", apply.run, decided)
        stage("quality, one picture", lambda one: metrics.quality(one.pixels), restored)
        # Of copies: a picture that is written gives up its pixels.
        stage(
            "encode + write + quality x 2",
            lambda one: write.run(dataclasses.replace(one, pixels=one.pixels.copy())),
            restored,
        )

    seconds = dict(rows)
    limit = seconds["decode"] + seconds["encode"]
    whole = sum(
        seconds[name] for name in ("decode + thumbnail", "decide, one batch", "apply", "encode + write + quality x 2")
    )
    rows += [("limit: decode + encode", limit), ("all of restore, without Beam", whole)]
    print(f"{len(sources)} pictures, {megapixels:.1f} MP\n\n{'stage':<32}{'MP/s':>8}{'of codec':>10}")
    for name, value in rows:
        print(f"{name:<32}{megapixels / value:>8.1f}{limit / value:>10.2f}")
    decide = 1000 * seconds["decide, one batch"] / len(sources)
    print(f"\ndecide: {decide:.1f} ms a thumbnail")
    if given.json:
        speeds = {name: megapixels / value for name, value in rows}
        result = {"cores": len(os.sched_getaffinity(0)), "decide_ms": decide, "mp_per_s": speeds}
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
