"""Draws docs/speed.svg from what `benchmarks.speed` and `benchmarks.scale` have measured; run by `make bench`.

    benchmarks/peers/.venv/bin/python benchmarks/plot.py [--input benchmarks/results] [--output docs/speed.svg]

In the peers' environment: nothing else in unfade needs matplotlib.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import matplotlib as mpl
import pandas as pd

mpl.use("svg")
from matplotlib import pyplot as plt

SIZES = ("0.5 MP", "2.5 MP", "12 MP")
STEPS = ("read", "decode", "decide", "inference", "measure", "write")
COLOURS = {"restore": "#1b6ca8", "prepare": "#1b6ca8"}
OTHERS = "#b0b7bd"


def contestants(axis: Any, speed: pd.DataFrame, kind: str) -> None:
    """Seconds for one picture more, of each contestant with pictures of one size: median, lowest and highest."""
    found = speed[speed["pictures"] == kind].groupby("contestant", sort=False)["seconds_each"]
    rows = found.agg(["median", "min", "max"]).sort_values("median", ascending=False)
    ends = [rows["median"] - rows["min"], rows["max"] - rows["median"]]
    colours = [COLOURS.get(str(name).split()[0].strip(","), OTHERS) for name in rows.index]
    axis.barh(rows.index, rows["median"], xerr=ends, color=colours, ecolor="#444", capsize=2)
    axis.set_title(f"seconds for one picture more, {kind}", loc="left")


def steps(axis: Any, sizes: pd.DataFrame, kind: str) -> None:
    """Core seconds of each step against megapixels, stacked."""
    found = sizes[sizes["kind"] == kind].groupby("megapixels")[[f"step_{step}" for step in STEPS]].median()
    found["step_write"] -= found["step_measure"]  # which is within it
    axis.stackplot(found.index, [found[f"step_{step}"].clip(lower=0) for step in STEPS], labels=STEPS, alpha=0.85)
    axis.set_title(f"core seconds of each step, {kind}", loc="left")
    axis.set_xlabel("megapixels")
    axis.legend(fontsize=7, loc="upper left")


def main() -> None:
    """Draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default="benchmarks/results")
    parser.add_argument("--output", default="docs/speed.svg")
    given = parser.parse_args()
    speed, scale = (pd.read_parquet(pathlib.Path(given.input, f"{name}.parquet")) for name in ("speed", "scale"))
    mpl.rcParams.update(
        {
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "0",
        }
    )
    kinds = [kind for kind in SIZES if kind in set(speed["pictures"])]  # `--only` leaves some out
    heights = [max(2, speed[speed["pictures"] == kind]["contestant"].nunique()) for kind in kinds]
    figure = plt.figure(figsize=(8, 0.5 * sum(heights) + 4), layout="constrained")
    rows = figure.add_gridspec(len(kinds) + 1, 1, height_ratios=[*heights, 8])
    for row, kind in enumerate(kinds):
        contestants(figure.add_subplot(rows[row]), speed, kind)
    sizes = scale[scale["part"] == "megapixels"]
    inner = rows[len(kinds)].subgridspec(1, 2)
    for column, kind in enumerate(("colour", "residual")):
        steps(figure.add_subplot(inner[column]), sizes, kind)
    figure.savefig(given.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
