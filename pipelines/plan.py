"""`unfade plan`: a sample run, a number of pictures, a deadline, a price list -> machines, hours, cost. No network."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import posixpath
import sys
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import options
from transforms import pairs, planning, records, sinks, storage
from transforms.items import Pair, UsageError
from transforms.planning import Option, Prices, Range, Sample, Work
from transforms.progress import duration
from transforms.storage_access import check_access

EXAMPLE_PRICES = pathlib.Path(planning.__file__).with_name("prices.toml")

_FEW = 100  # pictures of a sample that says little

_SUFFIXES = {"JPG": "JPEG", "JPE": "JPEG", "JFIF": "JPEG", "TIF": "TIFF", "JP2": "JPEG2000", "J2K": "JPEG2000"}


def _table(uri: str, columns: Sequence[str]) -> pa.Table | None:
    """Columns of a run's metrics; None if there are none."""
    tables = []
    for file in storage.listing(storage.join(uri, "metrics"), "metrics-*.parquet"):
        with storage.local_copy(file) as path:
            tables.append(pq.read_table(path, columns=list(columns)))
    return pa.concat_tables(tables) if sum(map(len, tables)) else None


def _formats(table: pa.Table) -> collections.Counter[str]:
    return collections.Counter({row["values"]: row["counts"] for row in pc.value_counts(table["format"]).to_pylist()})


def read_sample(uri: str) -> Sample:
    """A sample from the output folder of `unfade restore`, or from its `summary.json` alone.

    Raises:
      UsageError: It cannot be planned from.
    """
    check_access(uri)
    file = uri if uri.endswith(".json") else storage.join(uri, "summary.json")
    if not storage.exists(file):
        raise UsageError(f"--sample {uri}: {file} does not exist; run `unfade restore` on some pictures first")
    try:
        summary = sinks.read_json(file)
        table = _table(posixpath.dirname(file) or ".", ("format", "bytes_in", "bytes_out"))
        if table is None:
            return planning.sample_of(summary, {}, None)
        sizes = pc.mean(table["bytes_in"]).as_py(), pc.mean(table["bytes_out"]).as_py()
        return planning.sample_of(summary, _formats(table), sizes)
    except (ValueError, KeyError) as error:
        raise UsageError(f"--sample {uri} cannot be planned from: {error}") from None


def read_inventory(uri: str) -> tuple[int, float | None, Mapping[str, int]]:
    """How many pictures, how many megapixels each has (None: not told), and how many have each format.

    Args:
      uri: Anything that `unfade restore` takes; or an output folder of it, whose metrics tell most.
    """
    check_access(uri)
    if (table := _table(uri, ("width", "height", "format"))) is not None:
        pixels = pc.multiply(table["width"].cast(pa.float64()), table["height"].cast(pa.float64()))
        return len(table), pc.mean(pixels).as_py() / 1e6, _formats(table)
    if records.is_prepared(uri):
        return records.read_success(uri)["records"], None, {}
    pairs.check_input(uri)
    suffixes = (posixpath.splitext(one.uri)[1][1:].upper() for one in pairs.read(uri) if isinstance(one, Pair))
    formats = collections.Counter(_SUFFIXES.get(suffix, suffix) for suffix in suffixes)
    return sum(formats.values()), None, formats


def read_prices(path: str | None) -> Prices:
    """A price list from a local TOML file; None: the example that comes with unfade.

    Raises:
      UsageError: It cannot be read.
    """
    try:
        return planning.read_prices(tomllib.loads(pathlib.Path(path or EXAMPLE_PRICES).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UsageError(f"--prices {path}: {error}") from None


def _parser() -> options.Parser:
    parser = options.Parser(
        prog="unfade plan",
        description="Works out from a sample run how many machines, hours and how much money a large one takes.",
        epilog="Take the sample at random from the collection, at least 100 pictures, on all cores. Exit status:"
        " 0 there is a plan; 1 no machine of the list meets the deadline; 2 bad usage.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--sample",
        action="append",
        metavar="[KIND=]DIR",
        help="output folder of a sample run of `unfade restore` on one machine, or its summary.json; with KIND= of a"
        " run on that machine of the price list, whose speed is then measured and not assumed (repeatable)",
    )
    parser.add_argument("--images", type=int, metavar="N", help="how many pictures")
    parser.add_argument(
        "--input", metavar="PAIRS", help="count these: what `restore` takes, or an output folder of an earlier run"
    )
    parser.add_argument(
        "--megapixels", type=float, metavar="MP", help="of a picture, on average (default: as --input or the sample)"
    )
    parser.add_argument("--deadline", type=float, metavar="HOURS", help="hours from start to end")
    parser.add_argument("--prices", metavar="FILE", help="price list, TOML (default: an example, not anybody's prices)")
    parser.add_argument("--print_prices", action="store_true", help="print the example price list, to change it")
    parser.add_argument(
        "--local", action="store_true", help="the pictures are on the machines' own disks, not in a bucket"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the plan here")
    return parser


def _samples(given: Sequence[str], prices: Prices) -> tuple[Sample, dict[str, Sample]]:
    kinds = {machine.name for machine in prices.machines}
    own: dict[str, Sample] = {}
    plain: Sample | None = None
    for text in given:
        kind, equals, uri = text.rpartition("=")
        if equals and kind in kinds:
            own[kind] = read_sample(uri)
        elif equals and not storage.exists(text):
            raise UsageError(f"--sample {text}: the price list has no {kind!r}; it has {', '.join(sorted(kinds))}")
        elif plain is None:
            plain = read_sample(text)
        else:
            raise UsageError("--sample is given twice without the kind of machine it ran on")
    return plain or next(iter(own.values())), own


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    parser = _parser()
    given = parser.parse_args(list(argv))
    if given.print_prices:
        print(EXAMPLE_PRICES.read_text(encoding="utf-8"), end="")
        return options.DONE
    for name in ("sample", "deadline"):
        if getattr(given, name) is None:
            parser.error(f"--{name} is missing")
    if (given.images is None) == (given.input is None):
        parser.error("give --images or --input")
    for name in ("images", "megapixels", "deadline"):
        if (value := getattr(given, name)) is not None and not 0 < value < float("inf"):
            parser.error(f"--{name} {value} is not above 0")

    prices = read_prices(given.prices)
    sample, own = _samples(given.sample, prices)
    count, megapixels, formats = read_inventory(given.input) if given.input else (given.images, None, {})
    if not count:
        raise UsageError(f"{given.input} holds no pictures")
    known = given.megapixels or megapixels
    work = Work(count, known or sample.megapixels, given.deadline, remote=not given.local)
    found = planning.options(sample, work, prices, own)
    warnings = _warnings(sample, work, formats, known is None, own)
    print("\n".join(_shown(sample, work, prices, found, warnings)))
    if given.json:
        sinks.write_json(given.json, _as_dict(sample, work, prices, found, warnings))
        print(f"plan: {given.json}")
    if any(one.machines for one in found):
        return options.DONE
    print(f"unfade: no machine of the price list does it in {given.deadline:g} hours", file=sys.stderr)
    return options.FAILED


def _warnings(
    sample: Sample, work: Work, formats: Mapping[str, int], size_unknown: bool, own: Mapping[str, Sample]
) -> list[str]:
    said = []
    few = min(one.pictures for one in (sample, *own.values()))
    if few < _FEW:
        said.append(f"a sample has {few} pictures only: take {_FEW} or more, at random from the collection")
    if sample.scored:
        said.append(f"{sample.scored} pictures of the sample have a target, and scoring takes long: leave targets out")
    if sample.workers < sample.cores and not sample.gpus:
        said.append(f"the sample ran on {sample.workers} of {sample.cores} cores: run it with one worker a core")
    if size_unknown:
        said.append(f"pictures are taken to have {work.megapixels:.1f} MP, as the sample's; else give --megapixels")
    elif not 0.5 <= work.megapixels / sample.megapixels <= 2:
        said.append(
            f"pictures of {work.megapixels:.1f} MP from a sample of {sample.megapixels:.1f} MP make the range wide"
        )
    if sample.formats and (unseen := sorted(set(formats) - set(sample.formats) - {""})):
        said.append(f"the sample has no {', '.join(unseen)}: others may take several times as long")
    return said


def _shown(sample: Sample, work: Work, prices: Prices, found: Sequence[Option], warnings: Sequence[str]) -> list[str]:
    total = sum(sample.seconds.values())
    parts = ", ".join(f"{part} {share:.0%}" for part, share in ((p, s / total) for p, s in sample.seconds.items()))
    lines = [
        f"sample: {sample.pictures:,} pictures of {sample.megapixels:.1f} MP, {total:.3g} s of a worker each ({parts})",
        f"work: {work.pictures:,} pictures of {work.megapixels:.1f} MP within {work.deadline_hours:g} hours",
        "",
        f"{'machine':<22}{'number':>7}{'workers':>9}   {'hours':<20}{prices.currency or 'cost':<24}{'most time':<14}"
        "as expected",
    ]
    for one in found:
        name = one.machine.name + (", spot" if one.spot else "")
        if one.machines is None or one.hours is None or one.cost is None:
            lines.append(f"{name:<22}{'-':>7}{'-':>9}   {one.why_not}")
            continue
        workers = one.machines * one.workers
        lines.append(
            f"{name:<22}{one.machines:>7,}{workers:>9,}   {_range(one.hours):<20}{_range(one.cost):<24}"
            f"{one.bottleneck:<14}{one.machines_expected:,}"
        )
    lines += [
        "",
        "number: meets the deadline in the worst case; as expected: if all goes so. In brackets: best to worst case.",
    ]
    for title, gpus in (("cheapest without GPUs", False), ("cheapest with GPUs", True)):
        if any(bool(one.machine.gpus) == gpus for one in found):
            best = next((one for one in found if bool(one.machine.gpus) == gpus and one.machines), None)
            lines.append(f"{title}: {_named(best, prices)}")
    alone = planning.here(sample, work, prices.fleet)
    lines += [f"the sample's machine by itself: {duration(alone.expected * 3600)}", ""]
    lines.append(f"prices of {prices.date}" + (f"; {prices.note}" if prices.note else ""))
    if assumed := sorted({one.machine.name for one in found if not one.measured}):
        lines.append(f"speed assumed, not measured: {', '.join(assumed)}; --sample KIND=DIR of a run there measures it")
    if any(one.bottleneck == "store limit" for one in found) and sample.writes > 2:
        lines.append(f"{sample.writes:.1f} files are written a picture: --no_previews in restore leaves one or two")
    if work.remote and not sample.remote:
        lines.append("time of the bucket assumed, not measured: the sample ran on local files")
    return lines + [f"warning: {warning}" for warning in warnings]


def _named(one: Option | None, prices: Prices) -> str:
    if one is None or one.cost is None:
        return "none meets the deadline"
    spot = ", spot" if one.spot else ""
    return f"{one.machines:,} x {one.machine.name}{spot}, {_number(one.cost.expected)} {prices.currency}".rstrip()


def _range(value: Range) -> str:
    return f"{_number(value.expected)} ({_number(value.low)}-{_number(value.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _as_dict(
    sample: Sample, work: Work, prices: Prices, found: Sequence[Option], warnings: Sequence[str]
) -> dict[str, Any]:
    return {
        "sample": dataclasses.asdict(sample),
        "work": dataclasses.asdict(work),
        "prices": {"date": prices.date, "currency": prices.currency},
        "assumed": {"store": dataclasses.asdict(prices.store), "fleet": dataclasses.asdict(prices.fleet)},
        "options": [one.as_dict() for one in found],
        "this_machine_hours": planning.here(sample, work, prices.fleet)._asdict(),
        "warnings": list(warnings),
    }


if __name__ == "__main__":
    options.main(main)
