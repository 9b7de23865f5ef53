"""How far restoring is from its limits: every stage on the same pictures in one process, in MP/s.

    python benchmarks/stages.py [--input samples/pairs.csv] [--repeat 3]

The limit is what no restorer can do without: decode the file, encode it again. Absolute numbers belong to the machine;
the ratios are what to compare.
"""

from __future__ import annotations

import argparse
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
    given = parser.parse_args()

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
        restored = stage("apply", apply.run, decided)
        stage("quality, one picture", lambda one: metrics.quality(one.pixels), restored)
        stage("encode + write + quality x 2", write.run, restored)

    seconds = dict(rows)
    limit = seconds["decode"] + seconds["encode"]
    whole = sum(
        seconds[name] for name in ("decode + thumbnail", "decide, one batch", "apply", "encode + write + quality x 2")
    )
    print(f"{len(sources)} pictures, {megapixels:.1f} MP\n\n{'stage':<32}{'MP/s':>8}{'of codec':>10}")
    for name, value in [*rows, ("limit: decode + encode", limit), ("all of restore, without Beam", whole)]:
        print(f"{name:<32}{megapixels / value:>8.1f}{limit / value:>10.2f}")


if __name__ == "__main__":
    main()
