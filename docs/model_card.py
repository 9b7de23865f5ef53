"""Writes the tables of `MODEL_CARD.md` from an evaluation, and its pictures from what `make demo` wrote.

    python docs/model_card.py --scores SCORES/summary.json [BASELINES/summary.json] [--demo demo-output]
                              [--stages ONE.json TWO.json]

SCORES is what `unfade evaluate` wrote of a set that `corpus/make_test.py` made; the card says how to ask it.
BASELINES is the same of the classical corrections, which do not change with the model and take longer than it does.
What stands between `<!-- NAME -->` and `<!-- /NAME -->` in the card is replaced if its file is given; the rest stays.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.contract import DEFAULT_MODEL
from transforms.baselines import BASELINES
from transforms.methods import INPUT

CARD = Path("MODEL_CARD.md")
FADED = ("cyan_loss", "yellow_loss", "mixed", "uneven")
WIDTH, HEIGHT, GAP, TEXT = 300, 210, 6, 22

Methods = dict[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all columns but the first to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def pooled(groups: Sequence[Methods], method: str, metric: str) -> float:
    """Mean over the pictures of several groups."""
    counts = [group[method][metric]["count"] for group in groups]
    means = [group[method][metric]["mean"] or 0.0 for group in groups]
    return sum(count * mean for count, mean in zip(counts, means, strict=True)) / max(1, sum(counts))


def best_baseline(groups: Sequence[Methods]) -> str | None:
    """The classical correction with the least CIEDE2000 over some groups; None if none was evaluated."""
    there = [name for name in BASELINES if name != INPUT and all(name in group for group in groups)]
    return min(there, key=lambda name: pooled(groups, name, "ciede2000"), default=None)


def with_baselines(summary: Methods, other: Methods) -> Methods:
    """The first, with the classical corrections of the second.

    Raises:
      SystemExit: They are of different pictures.
    """
    for name, group in (("overall", summary["overall"]), *summary["groups"].items()):
        found = other["overall"] if name == "overall" else other["groups"].get(name)
        if found is None or found["methods"][INPUT] != group["methods"][INPUT]:
            raise SystemExit(f"{name}: the two evaluations are of different pictures")
        group["methods"] |= {method: found["methods"][method] for method in BASELINES if method in found["methods"]}
    return summary


def labels_of(summary: Methods) -> list[str]:
    """The models, by label, that were asked as `restore` asks them."""
    return [label for label in summary["models"] if label in summary["overall"]["methods"]]


def targets(summary: Methods, label: str) -> list[list[str]]:
    """What was aimed at, what came of it, and whether that is enough."""
    groups = {name: group["methods"] for name, group in summary["groups"].items()}
    whole = summary["overall"]["methods"][label]
    rows: list[list[str]] = []

    def line(what: str, aim: str, value: float | None, text: str, reached: Callable[[float], bool]) -> None:
        if value is not None:
            rows.append([what, aim, text.format(value), "hit" if reached(value) else "missed"])

    def change(of: Sequence[Methods], method: str, base: str) -> float | None:
        if not of or any(name not in group for group in of for name in (method, base)):
            return None
        return pooled(of, method, "ciede2000") / pooled(of, base, "ciede2000") - 1

    for what, names, least, gain in (("faded", FADED, -0.45, 5.0), ("aged", ("aged",), -0.4, 4.0)):
        found = [groups[name] for name in names if name in groups]
        if not found:
            continue
        line(
            f"{what}: CIEDE2000 against the input", f"{least:.0%}", change(found, label, INPUT), "{:+.0%}", least.__ge__
        )
        if what == "faded" and (base := best_baseline(found)):
            beaten = change(found, label, base)
            line(f"{what}: against the best baseline ({base})", "-40%", beaten, "{:+.0%}", (-0.4).__ge__)
        psnr = pooled(found, label, "psnr") - pooled(found, INPUT, "psnr")
        line(f"{what}: PSNR above the input", f"{gain:.0f} dB", psnr, "{:+.1f} dB", gain.__le__)
    if sound := groups.get("undamaged"):
        colour = sound[label]["ciede2000"]
        line("undamaged: mean CIEDE2000", "under 1.0", colour["mean"], "{:.2f}", (1.0).__gt__)
        line("undamaged: 95th percentile", "under 2.0", colour["p95"], "{:.2f}", (2.0).__gt__)
    no, wrong = f"{label}:no_caption", f"{label}:wrong_caption"
    grey = [groups["monochrome"]] if "monochrome" in groups else []
    faded = [groups[name] for name in FADED if name in groups]
    line("monochrome: caption against none", "-12%", change(grey, label, no), "{:+.1%}", (-0.12).__ge__)
    line("monochrome: wrong caption against none", "at most +3%", change(grey, wrong, no), "{:+.1%}", (0.03).__ge__)
    line("faded: wrong caption against none", "at most +1%", change(faded, wrong, no), "{:+.1%}", (0.01).__ge__)
    if classes := whole.get("classes"):
        line("classes of damage: accuracy", "90%", classes["accuracy"], "{:.0%}", (0.9).__le__)
    if interval := whole.get("interval"):
        line("pictures within the stated 80%", "77% to 83%", interval["within"], "{:.0%}", lambda v: 0.77 <= v <= 0.83)
    if sure := whole.get("expected_error"):
        ratio = sure["error_surer_half"] / sure["error_other_half"]
        line("error, surer half over the other", "at most 0.5", ratio, "{:.2f}", (0.5).__ge__)
    if overlap := whole.get("defect_iou"):
        rows.append(["defect map: intersection over union", "", f"{overlap['mean']:.2f}", ""])
    size = sum(path.stat().st_size for path in Path(DEFAULT_MODEL).rglob("*") if path.is_file()) / 1e6
    line("SavedModel that ships", "under 30 MB", size, "{:.0f} MB", (30.0).__gt__)
    return rows


def by_regime(summary: Methods, label: str) -> str:
    """A line a regime."""
    groups = {name: group["methods"] for name, group in sorted(summary["groups"].items())}
    known = [name for name in ("oracle", "oracle_even") if name in summary["overall"]["methods"]]
    rows = []
    for name, methods in {**groups, "all": summary["overall"]["methods"]}.items():
        base = best_baseline([methods])
        own = methods[label]["ciede2000"]
        low, high = (f"{own[end]:.2f}" if own[end] is not None else "" for end in ("low", "high"))
        change = own["change"]["mean"]
        psnr = [methods[method]["psnr"]["mean"] for method in (INPUT, label)]
        rows.append(
            [
                name.replace("_", " "),
                f"{methods[INPUT]['ciede2000']['mean']:.2f}",
                f"{methods[base]['ciede2000']['mean']:.2f} ({base})" if base else "",
                f"{own['mean']:.2f} ({low} to {high})",
                "" if change is None else f"{change:+.0%}",
                *(f"{methods[oracle]['ciede2000']['mean']:.2f}" for oracle in known),
                *("" if value is None else f"{value:.1f}" for value in psnr),
            ]
        )
    header = ["regime", "input", "best baseline", f"{label} (95%)", "to input", *known, "PSNR input", "PSNR"]
    return table(header, rows)


def parts(summary: Methods, label: str) -> str:
    """What is lost where a part of the trained generator is left out."""
    columns = {"all": summary["overall"]["methods"]}
    columns |= {name: group["methods"] for name, group in sorted(summary["groups"].items())}
    rows = []
    for method in summary["overall"]["methods"]:
        changes = [methods[method]["ciede2000"].get("change_from_whole") for methods in columns.values()]
        if method.startswith(f"{label}:") and changes[0]:
            shown = (c["mean"] if c else None for c in changes)
            rows.append([method.partition(":")[2], *("" if c is None else f"{c:+.1%}" for c in shown)])
    return table(["without", *(name.replace("_", " ") for name in columns)], rows) if rows else ""


def classes(summary: Methods, label: str) -> str:
    """What pictures of each kind are called."""
    found = summary["overall"]["methods"][label].get("classes", {})
    if "confusion" not in found:
        return ""
    lines = list(found["confusion"].items())
    rows = [
        [kinds, str(line["items"]), *(f"{share:.0%}" for share in (*line["said"].values(), line["all_right"]))]
        for kinds, line in lines
    ]
    return table(["truly", "pictures", *lines[0][1]["said"], "all right"], rows)


def scores(summary: Methods) -> str:
    """All tables of all models."""
    blocks = [f"{summary['overall']['items']} pictures; `--method {summary['options']['method']}`."]
    for label in labels_of(summary):
        name = "" if len(labels_of(summary)) == 1 else f" of `{label}`"
        blocks.append(f"### Targets{name}\n\n{table(['what', 'target', 'reached', ''], targets(summary, label))}")
        blocks.append(f"### CIEDE2000 by regime{name}\n\n{by_regime(summary, label)}")
        if lost := parts(summary, label):
            blocks.append(f"### What each part brings{name}: CIEDE2000 without it, against the whole\n\n{lost}")
        if said := classes(summary, label):
            blocks.append(
                f"### Classes of damage{name}: of pictures that are truly ..., the share called ...\n\n{said}"
            )
    return "\n\n".join(blocks)


def stages(paths: Sequence[Path]) -> str:
    """What `benchmarks/stages.py --json` measured, a column a file."""
    found = [json.loads(path.read_text("utf-8")) for path in paths]
    rows = [[name, *(f"{one['mp_per_s'][name]:.1f}" for one in found)] for name in found[0]["mp_per_s"]]
    rows.append(["decide, ms a thumbnail", *(f"{one['decide_ms']:.1f}" for one in found)])
    return table(["MP/s of the samples", *(f"{one['cores']} core(s)" for one in found)], rows)


def pictures(demo: Path) -> None:
    """`docs/best-and-worst.jpg`: samples by how much nearer to the truth they came; scan, restored, original."""
    pairs = {pair["id"]: pair for pair in csv.DictReader(Path("samples/pairs.csv").read_text("utf-8").splitlines())}
    files = sorted((demo / "metrics").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist() if row["ciede2000"] is not None]
    rows.sort(key=lambda row: row["ciede2000"] / max(row["input_ciede2000"], 1e-6))
    chosen = [*rows[:2], *rows[-2:]]
    sheet = Image.new("RGB", (3 * (WIDTH + GAP) - GAP, len(chosen) * (HEIGHT + GAP + TEXT)), "white")
    write = ImageDraw.Draw(sheet)
    for index, row in enumerate(chosen):
        pair, y = pairs[row["id"]], index * (HEIGHT + GAP + TEXT)
        text = f"{row['id']}: CIEDE2000 {row['input_ciede2000']:.1f} before, {row['ciede2000']:.1f} after"
        write.text((0, y + 2), text, "black", ImageFont.load_default(15))
        (restored,) = (demo / "images").glob(f"{row['id']}.*")
        for column, path in enumerate((Path("samples") / pair["image"], restored, Path("samples") / pair["target"])):
            with Image.open(path) as image:
                cell = ImageOps.fit(image.convert("RGB"), (WIDTH, HEIGHT))
            sheet.paste(cell, (column * (WIDTH + GAP), y + TEXT))
    sheet.save("docs/best-and-worst.jpg", quality=88)


def put(card: str, name: str, text: str) -> str:
    """The card with the block NAME replaced."""
    pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    changed, count = pattern.subn(lambda found: f"{found[1]}{text}\n{found[2]}", card)
    if count != 1:
        raise SystemExit(f"{CARD} has {count} places for {name}; it needs one <!-- {name} --> ... <!-- /{name} -->")
    return changed


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrites what there is something new for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--scores", type=Path, nargs="+", help="summary.json of `unfade evaluate`, another of baselines"
    )
    parser.add_argument("--demo", type=Path, help="folder that `make demo` wrote")
    parser.add_argument("--stages", type=Path, nargs="+", help="what benchmarks/stages.py --json wrote")
    given = parser.parse_args(arguments)
    card = CARD.read_text("utf-8")
    if given.scores:
        first, *others = (json.loads(path.read_text("utf-8")) for path in given.scores)
        for other in others:
            first = with_baselines(first, other)
        card = put(card, "scores", scores(first))
    if given.stages:
        card = put(card, "stages", stages(given.stages))
    CARD.write_text(card, "utf-8")
    if given.demo:
        pictures(given.demo)


if __name__ == "__main__":
    main()
