"""Tables of an evaluation: means with bootstrap intervals, paired differences, confidence, damage classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from models.contract import DAMAGE_CLASSES
from transforms.items import printable
from transforms.methods import ASKED, INPUT, place
from transforms.outputs import FIDELITY

Floats = npt.NDArray[np.float64]
_Line = tuple[str, ...]

RESAMPLES = 2000
_LEVEL = (2.5, 97.5)
_SURENESS = {"confidence": 1, "expected_error": -1}  # columns in which a model says how sure it is, and their sense
_BLOCK = 1 << 23  # weights in memory at once


def resampled_means(values: Floats, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Means over bootstrap resamples of the rows (B. Efron, 1979); every column sees the same resamples.

    Args:
      values: [N, K]; NaN where a row has no value, and is left out of the mean.
      seed: Same seed, same resamples.
      resamples: How many.

    Returns:
      [resamples, K]; NaN where no row drawn has a value.
    """
    count = len(values)
    rng = np.random.default_rng(seed)
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, _BLOCK // count)
    for start in range(0, resamples, step):
        rows = slice(start, min(start + step, resamples))
        # How often each row is drawn; a resample's mean is then one matrix product.
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=rows.stop - rows.start).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[rows] = (drawn @ filled) / (drawn @ there)
    return means


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything the tables say of one group of items.

    Args:
      rows: One an item and method, as `scores-*.parquet`; every item has every method, `identity` among them.

    Returns:
      `items`, and `methods`: by name, for each metric `mean`, `low`, `high` (percentile bootstrap, 95%, over items),
      `count`, and `difference` (to the input, paired); for CIEDE2000 also `p95` and `change` (relative, of the mean, to
      the input), for a model's variants `change_from_no_caption`, and without one of its parts `change_from_whole`; and
      what it says of itself: `confidence`, `expected_error`, `interval`, `classes`, `defect_iou`.
    """
    rows = sorted(rows, key=lambda row: str(row["id"]))
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    names = sorted(by_method, key=place)
    ids = [row["id"] for row in by_method[INPUT]]
    if any([row["id"] for row in found] != ids for found in by_method.values()):
        raise ValueError("not every item has every method")
    values = np.array([[[_float(row[m]) for m in FIDELITY] for row in by_method[name]] for name in names])
    differences = values - values[names.index(INPUT)]
    columns = np.concatenate([values, differences]).transpose(1, 0, 2).reshape(len(ids), -1)
    # The seed is the items': the same items are drawn alike, whatever the methods beside.
    seed = int.from_bytes(hashlib.sha256("\0".join(map(str, ids)).encode("utf-8", "replace")).digest()[:8], "big")
    drawn = resampled_means(columns, seed).reshape(RESAMPLES, 2, len(names), len(FIDELITY))
    delta_e = FIDELITY.index("ciede2000")

    def change(method: int, base: int) -> dict[str, Any]:
        return _interval(
            float(_ratio(values[method, :, delta_e].mean(), values[base, :, delta_e].mean())) - 1,
            _ratio(drawn[:, 0, method, delta_e], drawn[:, 0, base, delta_e]) - 1,
            len(ids),
        )

    methods: dict[str, Any] = {}
    for index, name in enumerate(names):
        entry: dict[str, Any] = {"identical": sum(bool(row["identical"]) for row in by_method[name])}
        for column, metric in enumerate(FIDELITY):
            own, paired = values[index, :, column], differences[index, :, column]
            entry[metric] = {
                **_interval(_mean(own), drawn[:, 0, index, column], len(ids)),
                "count": int(np.count_nonzero(~np.isnan(own))),
                "difference": _interval(_mean(paired), drawn[:, 1, index, column], len(ids)),
            }
        entry["ciede2000"]["p95"] = float(np.percentile(values[index, :, delta_e], 95))
        entry["ciede2000"]["change"] = change(index, names.index(INPUT))
        label, _, variant = name.partition(":")
        if variant in ("", *ASKED) and f"{label}:no_caption" in names and variant != "no_caption":
            entry["ciede2000"]["change_from_no_caption"] = change(index, names.index(f"{label}:no_caption"))
        if variant.startswith("no_") and label in names:
            entry["ciede2000"]["change_from_whole"] = change(index, names.index(label))
        for said, sign in _SURENESS.items():
            if by_method[name][0].get(said) is not None:
                entry[said] = _sureness(by_method[name], said, sign)
        if by_method[name][0].get("error_high") is not None:
            entry["interval"] = _coverage(by_method[name])
        if by_method[name][0].get("damage_clean") is not None and (classes := _classes(by_method[name])):
            entry["classes"] = classes
        overlaps = [row["defect_iou"] for row in by_method[name] if row.get("defect_iou") is not None]
        if overlaps:
            entry["defect_iou"] = {"mean": float(np.mean(overlaps)), "count": len(overlaps)}
        methods[name] = entry
    return {"items": len(ids), "methods": methods}


def _float(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _ratio(value: npt.ArrayLike, base: npt.ArrayLike) -> Floats:
    """NaN where the base is 0: nothing is a share of no error."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.equal(base, 0), np.nan, np.divide(value, base))


def _mean(values: Floats) -> float:
    """Mean of what is there, NaN for nothing."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else np.nan


def _interval(mean: float, drawn: Floats, items: int) -> dict[str, float | None]:
    """Mean with its interval; None for what is not defined, or for an interval over one item."""
    sound = drawn[~np.isnan(drawn)]
    if np.isnan(mean) or items < 2 or not sound.size:
        return {"mean": None if np.isnan(mean) else mean, "low": None, "high": None}
    low, high = np.percentile(sound, _LEVEL)
    return {"mean": mean, "low": float(low), "high": float(high)}


def _sureness(rows: Sequence[Mapping[str, Any]], column: str, sign: int) -> dict[str, Any]:
    """Whether a model's word tells its CIEDE2000: means of the surer and of the other half, and rank correlation.

    Args:
      rows: Of one method.
      column: What the model says.
      sign: 1 where more of it means surer, -1 where less.
    """
    ranked = sorted(rows, key=lambda row: (-sign * row[column], str(row["id"])))
    half = len(ranked) // 2
    error = np.array([row["ciede2000"] for row in ranked])
    said = np.array([row[column] for row in ranked])
    found: dict[str, Any] = {"mean": float(said.mean())}
    if half:
        surer, other = error[:half].mean(), error[len(ranked) - half :].mean()
        found |= {"error_surer_half": float(surer), "error_other_half": float(other)}
        if np.ptp(error) > 0 and np.ptp(said) > 0:
            found["rank_correlation"] = float(spearmanr(said, error).statistic)
    return found


def _coverage(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of pictures whose CIEDE2000 lies `within` the stated 80% interval, `below` it and `above`."""
    error, low, high = (np.array([row[key] for row in rows]) for key in ("ciede2000", "error_low", "error_high"))
    below, above = float((error < low).mean()), float((error > high).mean())
    return {"within": 1 - below - above, "below": below, "above": above}


def _classes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy of the damage classes at probability 0.5 over the items whose manifest says what is true of them."""
    known = [row for row in rows if row["extra"].get("damage")]
    if not known:
        return {}
    truth = np.array([[name in _names(row["extra"]["damage"]) for name in DAMAGE_CLASSES] for row in known])
    said = np.array([[row[f"damage_{name}"] >= 0.5 for name in DAMAGE_CLASSES] for row in known])
    by_class: dict[str, Any] = {}
    for index, name in enumerate(DAMAGE_CLASSES):
        true, found = truth[:, index], said[:, index]
        # None where all items, or none, are of the class: there is nothing to tell apart.
        balanced = float((found[true].mean() + (~found[~true]).mean()) / 2) if 0 < true.sum() < len(true) else None
        by_class[name] = {
            "true": int(true.sum()),
            "accuracy": float((true == found).mean()),
            "balanced_accuracy": balanced,
        }
    confusion: dict[str, Any] = {}
    for kinds in sorted({tuple(row) for row in truth.tolist()}, reverse=True):
        these = (truth == kinds).all(axis=1)
        confusion[";".join(name for name, there in zip(DAMAGE_CLASSES, kinds, strict=True) if there)] = {
            "items": int(these.sum()),
            "said": dict(zip(DAMAGE_CLASSES, said[these].mean(axis=0).tolist(), strict=True)),
            "all_right": float((said[these] == truth[these]).all(axis=1).mean()),
        }
    scored = [entry["balanced_accuracy"] for entry in by_class.values() if entry["balanced_accuracy"] is not None]
    return {
        "items": len(known),
        "accuracy": float((truth == said).mean()),
        "balanced_accuracy": float(np.mean(scored)) if scored else None,
        "by_class": by_class,
        "confusion": confusion,
    }


def _names(text: str) -> set[str]:
    """`faded;noisy` as a set."""
    return {name.strip() for name in text.split(";")}


def table(overall: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables for a person: Markdown, padded so that it reads as well on a terminal."""
    header = (
        "method",
        "CIEDE2000",
        "95% interval",
        "p95",
        "to input",
        "95% interval",
        "PSNR",
        "95% interval",
        "to input",
    )
    parts = []
    for title, found in [("overall", overall), *sorted(groups.items())]:
        lines = [_line(name, entry) for name, entry in found["methods"].items()]
        parts.append(
            f"## {_heading(title)}: {found['items']} pictures\n\n{_aligned((*header, 'SSIM', 'MS-SSIM'), lines)}"
        )
    return "\n\n".join([*parts, *_said(overall["methods"]), *_by_group(overall, groups)]) + "\n"


def _heading(title: str) -> str:
    """A group's name as Markdown and a terminal take it: it is a catalogue's own words."""
    return printable(title).replace("|", "\\|")


def _by_group(overall: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is told in one number a group: what parts bring, how often intervals hold."""
    columns = {"overall": overall["methods"], **{title: found["methods"] for title, found in sorted(groups.items())}}

    def lines(number: Callable[[Mapping[str, Any]], str]) -> list[_Line]:
        rows = [
            (name, *(number(found[name]) if name in found else "" for found in columns.values()))
            for name in overall["methods"]
        ]
        return [row for row in rows if any(row[1:])]

    parts = lines(lambda entry: _percent(entry["ciede2000"].get("change_from_whole", {}).get("mean")))
    if parts:
        yield "## CIEDE2000 without a part, against the whole model\n\n" + _aligned(
            ("without", *map(_heading, columns)), parts
        )
    held = lines(lambda entry: _percent(entry.get("interval", {}).get("within"), ""))
    if held:
        yield "## Share of pictures within the stated 80% interval\n\n" + _aligned(
            ("method", *map(_heading, columns)), held
        )


def _line(name: str, entry: Mapping[str, Any]) -> _Line:
    colour, psnr = entry["ciede2000"], entry["psnr"]
    return (
        name,
        _number(colour["mean"], 2),
        _range(colour, 2),
        _number(colour["p95"], 2),
        "" if name == INPUT else _percent(colour["change"]["mean"]),
        "" if name == INPUT else _percents(colour["change"]),
        # An identical picture has none: such a mean is over other pictures than the ones beside it.
        _number(psnr["mean"], 2) + ("*" if entry["identical"] and psnr["count"] else ""),
        _range(psnr, 2),
        "" if name == INPUT or psnr["difference"]["mean"] is None else f"{psnr['difference']['mean']:+.2f}",
        _number(entry["ssim"]["mean"], 3),
        _number(entry["ms_ssim"]["mean"], 3),
    )


def _said(methods: Mapping[str, Any]) -> Iterator[str]:
    """What the models said: confidence against error, captions, damage classes."""
    sure: list[_Line] = []
    captioned: list[_Line] = []
    for name, entry in methods.items():
        for column in _SURENESS:
            found = entry.get(column, {})
            keys = ("mean", "error_surer_half", "error_other_half")
            if keys[1] in found:
                ratio = _ratio(found[keys[1]], found[keys[2]])
                sure.append(
                    (
                        f"{name} {column}",
                        *(_number(found[key], 2) for key in keys),
                        "" if np.isnan(ratio) else f"{float(ratio):.2f}",
                        _number(found.get("rank_correlation"), 2),
                    )
                )
        change = entry["ciede2000"].get("change_from_no_caption")
        if change:
            captioned.append((name, _percent(change["mean"]), _percents(change)))
    if sure:
        yield "## What models say of themselves, and CIEDE2000\n\n" + _aligned(
            ("method", "mean", "error, surer half", "error, other half", "surer / other", "rank correlation"), sure
        )
    if captioned:
        yield "## CIEDE2000 against the same model without a caption\n\n" + _aligned(
            ("method", "change", "95% interval"), captioned
        )
    for name, entry in methods.items():
        if "classes" in entry and ":" not in name:
            yield f"## Damage classes by {name}\n\n" + _aligned(
                ("class", "true of", "accuracy", "balanced accuracy"), _class_lines(entry["classes"])
            )
            yield f"## Of pictures that are truly ..., the share that {name} calls ...\n\n" + _aligned(
                ("truly", "pictures", *DAMAGE_CLASSES, "all right"), _confusion_lines(entry["classes"]["confusion"])
            )
        if "defect_iou" in entry and ":" not in name:
            overlap = entry["defect_iou"]
            yield (
                f"## Defects found by {name}\n\nIntersection over union of the cells with a defect, mean of"
                f" {overlap['count']} pictures: {overlap['mean']:.2f}"
            )


def _class_lines(classes: Mapping[str, Any]) -> list[_Line]:
    lines: list[_Line] = []
    for kind, found in [*classes["by_class"].items(), ("all", {**classes, "true": classes["items"]})]:
        shares = (_percent(found[key], "") for key in ("accuracy", "balanced_accuracy"))
        lines.append((kind, str(found["true"]), *shares))
    return lines


def _confusion_lines(confusion: Mapping[str, Any]) -> list[_Line]:
    return [
        (kinds, str(found["items"]), *(_percent(share, "") for share in (*found["said"].values(), found["all_right"])))
        for kinds, found in confusion.items()
    ]


def _aligned(header: _Line, rows: Sequence[_Line]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _range(found: Mapping[str, Any], digits: int) -> str:
    return "" if found["low"] is None else f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"


def _percent(value: float | None, sign: str = "+") -> str:
    return "" if value is None else f"{value:{sign}.1%}"


def _percents(found: Mapping[str, Any]) -> str:
    return "" if found["low"] is None else f"{found['low']:+.1%} to {found['high']:+.1%}"
