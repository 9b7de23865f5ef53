"""How many machines, hours and how much money a large run takes, worked out from what a small one took.

Every figure has three cases: `low` (all goes well), `expected`, and `high` (all goes badly). A plan meets its deadline
in the worst of them. `docs/plan.md` states the assumptions; `benchmarks/fleet.py` holds the plans against a simulation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Range(NamedTuple):
    """A figure in the three cases: `low` is the one that makes a run cheap."""

    low: float
    expected: float
    high: float

    def __mul__(self, other: object) -> Range:
        if isinstance(other, Range):
            return Range(self.low * other.low, self.expected * other.expected, self.high * other.high)
        if isinstance(other, (int, float)):
            return Range(self.low * other, self.expected * other, self.high * other)
        return NotImplemented

    def plus(self, other: Range) -> Range:
        """Case by case."""
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


PARTS = ("store", "decode", "infer", "encode")
"""What a worker does with a picture: read and write files; decode; decide and correct; encode and measure."""

_STAGES = ("read", "decode", "decide", "inference", "write", "store_read", "store_write")


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a small run took.

    Attributes:
      pictures: Restored.
      megapixels: Of one, on average.
      seconds: Of one worker for one picture, by part.
      reads: Files read a picture.
      writes: Files written a picture.
      bytes_read: A picture; None where only the summary is there.
      bytes_written: The same.
      formats: How many pictures had each format; empty where only the summary is there.
      workers: Processes that worked at the same time.
      cores: That they had.
      gpus: That they had.
      remote: Whether it read from and wrote to a bucket.
      scored: How many were scored against a target, which takes longer than all the rest.
    """

    pictures: int
    megapixels: float
    seconds: Mapping[str, float]
    reads: float
    writes: float
    bytes_read: float | None
    bytes_written: float | None
    formats: Mapping[str, int]
    workers: int
    cores: int
    gpus: int
    remote: bool
    scored: int = 0


def sample_of(summary: Mapping[str, Any], formats: Mapping[str, int], sizes: tuple[float, float] | None) -> Sample:
    """The sample that a summary of `unfade restore` tells of.

    Args:
      summary: What `summary.json` holds.
      formats: Pictures by format, if known.
      sizes: Mean bytes of a file read and of one written, if known.

    Raises:
      ValueError: It cannot be planned from, and why.
    """
    if summary.get("command") != "restore":
        raise ValueError("it is no summary of `unfade restore`")
    pictures, stages, machine = summary["counts"]["restored"], summary.get("stages") or {}, summary.get("machine") or {}
    if not pictures:
        raise ValueError("that run restored no picture; run the sample into a new output folder")
    if missing := [name for name in _STAGES if name not in stages]:
        raise ValueError(f"it does not say what {', '.join(missing)} took; run the sample again with this version")
    if not machine:
        raise ValueError("it does not say on how many workers it ran; run the sample on one machine (see docs/plan.md)")

    took = {name: stages[name]["seconds"] / pictures for name in _STAGES}
    read, written = took["store_read"], took["store_write"]
    given = summary.get("options") or {}
    return Sample(
        pictures=pictures,
        megapixels=summary["megapixels"] / pictures,
        seconds={
            "store": read + written,
            "decode": took["decode"] + max(0.0, took["read"] - read),
            "infer": took["decide"] + took["inference"],
            "encode": max(0.0, took["write"] - written),
        },
        reads=stages["store_read"]["items"] / pictures,
        writes=stages["store_write"]["items"] / pictures,
        bytes_read=sizes[0] if sizes else None,
        bytes_written=sizes[1] if sizes else None,
        formats=dict(formats),
        workers=machine["workers"],
        cores=machine["cores"],
        gpus=machine["gpus"],
        remote="://" in f"{given.get('input')}{given.get('output')}",
        scored=summary.get("with_target") or 0,
    )


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of machine, as a price list names it.

    Attributes:
      name: Of the kind.
      cores: As the provider counts them.
      memory_gb: Of main memory.
      price: An hour.
      spot_price: An hour of one that may be taken away; None: there is none.
      gpus: How many it has.
      speed: Of one core, in those of the sample.
      infer_speed: Of one GPU in deciding and correcting, in workers of the sample; of no use without a GPU.
      most: How many can be had at most.
    """

    name: str
    cores: int
    memory_gb: float
    price: float
    spot_price: float | None = None
    gpus: int = 0
    speed: Range = Range(1.2, 0.9, 0.6)
    infer_speed: Range = Range(40.0, 20.0, 8.0)
    most: int = 1000


@dataclasses.dataclass(frozen=True)
class Store:
    """What a bucket allows, and costs.

    Attributes:
      reads_per_second: Most.
      writes_per_second: Most.
      gigabytes_per_second: Most, both ways together.
      request_seconds: How long one request takes before its first byte.
      megabytes_per_second: Of one transfer.
      price_of_1000_reads: In the list's currency.
      price_of_1000_writes: The same.
    """

    reads_per_second: float = 5000
    writes_per_second: float = 1000
    gigabytes_per_second: float = 25
    request_seconds: Range = Range(0.02, 0.05, 0.15)
    megabytes_per_second: Range = Range(150.0, 60.0, 25.0)
    price_of_1000_reads: float = 0.0
    price_of_1000_writes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Fleet:
    """How fleets behave.

    Attributes:
      startup_seconds: Until every machine works: starting it, the image, the model.
      overhead: Share of a worker's time that no step counts: Beam, journal, tables.
      bundle_pictures: How many a worker takes at a time, at most.
      straggler: The last bundle takes so many times as long as others.
      preemptions: Of a spot machine, an hour.
      replacement_seconds: Until another has taken its place.
      worker_memory_gb: Of one worker with its decoder.
    """

    startup_seconds: Range = Range(120.0, 240.0, 480.0)
    overhead: Range = Range(0.0, 0.05, 0.15)
    bundle_pictures: int = 100
    straggler: Range = Range(0.0, 0.5, 3.0)
    preemptions: Range = Range(0.0, 0.05, 0.2)
    replacement_seconds: float = 180
    worker_memory_gb: float = 2.5


@dataclasses.dataclass(frozen=True)
class Prices:
    """A price list: what can be had, at what price, and what is assumed of it.

    Attributes:
      date: When it was true.
      currency: Of all prices.
      note: For the person who reads the plan.
      machines: Kinds.
      store: The bucket.
      fleet: The behaviour.
    """

    date: str
    currency: str
    note: str
    machines: tuple[Machine, ...]
    store: Store = Store()
    fleet: Fleet = Fleet()


def read_prices(table: Mapping[str, Any]) -> Prices:
    """A price list from parsed TOML.

    Raises:
      ValueError: It is none, and why.
    """
    known = {field.name for field in dataclasses.fields(Prices)} - {"machines"} | {"machine"}
    if unknown := sorted(set(table) - known):
        raise ValueError(f"unknown key {unknown[0]}")
    machines = [_record(Machine, one, f"machine {number}") for number, one in enumerate(table.get("machine", ()), 1)]
    if not machines:
        raise ValueError("it lists no [[machine]]")
    names = [machine.name for machine in machines]
    if len(set(names)) < len(names):
        raise ValueError("two machines have the same name")
    return Prices(
        date=str(table.get("date", "undated")),
        currency=str(table.get("currency", "")),
        note=str(table.get("note", "")),
        machines=tuple(machines),
        store=_record(Store, table.get("store", {}), "store"),
        fleet=_record(Fleet, table.get("fleet", {}), "fleet"),
    )


def _record(kind: Any, given: Mapping[str, Any], where: str) -> Any:
    values: dict[str, Any] = {}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in given.items():
        if name not in fields:
            raise ValueError(f"{where}: unknown key {name}")
        if name == "name":
            values[name] = str(value)
            continue
        numbers = value if isinstance(value, list) else [value]
        ranged = fields[name].type == "Range"
        if len(numbers) not in ((1, 3) if ranged else (1,)) or not all(
            isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n < math.inf for n in numbers
        ):
            many = "a number, or three: the best, the expected, the worst" if ranged else "a number"
            raise ValueError(f"{where}: {name} must be {many}")
        values[name] = Range(*(numbers * 3)[:3]) if ranged else value
        falls = name in ("speed", "infer_speed", "megabytes_per_second")
        if ranged and numbers != sorted(numbers, reverse=falls):
            raise ValueError(f"{where}: {name} must go from the best to the worst case")
    for name in ("speed", "infer_speed", "cores", "most", "bundle_pictures", "megabytes_per_second"):
        worst = min(values[name]) if isinstance(values.get(name), Range) else values.get(name, 1)
        if worst <= 0:
            raise ValueError(f"{where}: {name} must be above 0")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {str(error).partition(': ')[2] or error} is missing") from None


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
      pictures: How many.
      megapixels: Of one, on average.
      deadline_hours: From the start to the end.
      remote: Whether they are in a bucket.
    """

    pictures: int
    megapixels: float
    deadline_hours: float
    remote: bool = True


@dataclasses.dataclass(frozen=True)
class Rate:
    """One case of one kind of machine.

    Attributes:
      workers: On one machine.
      seconds: Of a worker for one picture, by part, without waiting.
      pictures_per_second: Of one machine.
      gpu_use: How busy its GPUs are, 0..1.
    """

    workers: int
    seconds: Mapping[str, float]
    pictures_per_second: float
    gpu_use: float = 0.0


def sampling(pictures: int) -> Range:
    """How far the mean of so many pictures may be from the collection's, where one varies as much as its mean."""
    error = 2 / math.sqrt(pictures)
    return Range(max(0.5, 1 - error), 1.0, 1 + error)


def scaling(sample: float, wanted: float) -> Range:
    """What a picture of another size takes: in proportion, or (in the other extreme) what one of the sample does."""
    ratio = wanted / sample
    return Range(min(1.0, ratio), ratio, max(1.0, ratio))


def rates(sample: Sample, machine: Machine, work: Work, prices: Prices, *, measured: bool = False) -> list[Rate]:
    """What one machine does, in the three cases.

    Args:
      sample: The run to plan from.
      machine: The kind.
      work: What is to be done.
      prices: For store and fleet.
      measured: Whether the sample ran on just such a machine: then nothing is assumed of its speed.

    Returns:
      One a case; empty where the memory does not suffice for one worker.
    """
    in_cores = machine.cores * sample.workers // sample.cores if not measured else sample.workers
    workers = min(max(1, in_cores), int(machine.memory_gb / prices.fleet.worker_memory_gb))
    if workers < 1:
        return []
    factor = scaling(sample.megapixels, work.megapixels) * sampling(sample.pictures)
    slow = factor * Range(*(1 + share for share in prices.fleet.overhead))
    found = []
    for case in range(3):
        speed = 1.0 if measured else machine.speed[case]
        seconds = {part: sample.seconds[part] * slow[case] / speed for part in ("decode", "infer", "encode")}
        seconds["store"] = _store_seconds(sample, work, prices.store, case) * factor[case]
        if not machine.gpus or measured:
            rate, use = workers / sum(seconds.values()), 0.0
        else:
            seconds["infer"] = sample.seconds["infer"] * slow[case] / machine.infer_speed[case]
            rate, use = _shared(workers, machine.gpus, sum(seconds.values()) - seconds["infer"], seconds["infer"])
        found.append(Rate(workers, {part: seconds[part] for part in PARTS}, rate, use))
    return found


def _store_seconds(sample: Sample, work: Work, store: Store, case: int) -> float:
    if sample.remote or not work.remote:
        return sample.seconds["store"]
    size = (sample.bytes_read or 0) + (sample.bytes_written or 0)
    return (sample.reads + sample.writes) * store.request_seconds[case] + size / 1e6 / store.megabytes_per_second[case]


def _shared(workers: int, gpus: int, alone: float, on_gpu: float) -> tuple[float, float]:
    """Pictures a second of workers that share GPUs, and how busy these are: mean value analysis of a closed queue.

    Args:
      workers: That take turns.
      gpus: Each serves its share of the workers.
      alone: Seconds of a worker by itself, a picture.
      on_gpu: Seconds of the GPU, a picture.
    """
    whole = 0.0
    for gpu in range(gpus):
        queued = rate = 0.0
        for others in range(1, workers // gpus + (gpu < workers % gpus) + 1):
            stay = on_gpu * (1 + queued)
            rate = others / (alone + stay)
            queued = rate * stay
        whole += rate
    return whole, min(1.0, whole * on_gpu / gpus)


def store_limit(sample: Sample, work: Work, store: Store) -> float:
    """Pictures a second that the bucket allows."""
    if not work.remote:
        return math.inf
    size = ((sample.bytes_read or 0) + (sample.bytes_written or 0)) * work.megapixels / sample.megapixels
    bounds = [store.reads_per_second / sample.reads if sample.reads else math.inf]
    bounds += [store.writes_per_second / sample.writes if sample.writes else math.inf]
    bounds += [store.gigabytes_per_second * 1e9 / size if size else math.inf]
    return min(bounds)


def seconds_of(
    machines: int, rate: Rate, case: int, pictures: int, limit: float, fleet: Fleet, *, spot: bool = False
) -> float:
    """How long a fleet takes.

    Args:
      machines: How many.
      rate: Of one.
      case: 0, 1 or 2.
      pictures: How many.
      limit: See `store_limit`.
      fleet: The behaviour.
      spot: Whether machines may be taken away.
    """
    each = rate.workers / rate.pictures_per_second  # seconds a picture, waiting for a GPU included
    lost = fleet.preemptions[case] * (fleet.replacement_seconds + fleet.bundle_pictures * each / 2) / 3600
    together = min(machines * rate.pictures_per_second / (1 + (lost if spot else 0.0)), limit)
    last = min(fleet.bundle_pictures, max(1.0, pictures / (machines * rate.workers))) * each
    return fleet.startup_seconds[case] + pictures / together + fleet.straggler[case] * last


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to do the work.

    Attributes:
      machine: The kind.
      spot: Whether of those that may be taken away.
      machines: How many meet the deadline even in the worst case; None: it cannot be met.
      workers: Processes on one machine.
      hours: From start to end.
      cost: Of the machines and the store's requests.
      bottleneck: What takes most: one of `PARTS`, `GPU`, or `store limit`.
      shares: Of a worker's time, by part, as expected.
      measured: Whether the sample ran on such a machine.
      why_not: Why there is no plan.
      machines_expected: How many meet it if all goes as expected.
    """

    machine: Machine
    spot: bool
    machines: int | None
    workers: int
    hours: Range | None
    cost: Range | None
    bottleneck: str
    shares: Mapping[str, float]
    measured: bool
    why_not: str = ""
    machines_expected: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        told = {**dataclasses.asdict(self), "machine": self.machine.name, "gpus": self.machine.gpus}
        for name in ("hours", "cost"):
            if (value := getattr(self, name)) is not None:
                told[name] = value._asdict()
        return told


def options(sample: Sample, work: Work, prices: Prices, own: Mapping[str, Sample] | None = None) -> list[Option]:
    """Every way to do the work, those that meet the deadline first, the cheapest first.

    Args:
      sample: The run to plan from.
      work: What is to be done.
      prices: What can be had.
      own: Samples that ran on a machine of the list, by its name.
    """
    found = []
    for machine in prices.machines:
        measured = (own or {}).get(machine.name)
        for spot in (False, True):
            if not spot or machine.spot_price is not None:
                found.append(option(measured or sample, machine, work, prices, spot, measured=measured is not None))
    return sorted(found, key=lambda one: (one.cost is None, one.cost.expected if one.cost else 0.0))


def option(
    sample: Sample, machine: Machine, work: Work, prices: Prices, spot: bool = False, *, measured: bool = False
) -> Option:
    """The fewest machines of a kind that meet the deadline in the worst case. See `options`."""
    if sample.gpus and not measured:
        why = "its speed is unknown: the sample ran on a GPU; give one of a run on CPUs, or KIND=DIR of a run there"
        return Option(machine, spot, None, 0, None, None, "", {}, measured, why)
    cases = rates(sample, machine, work, prices, measured=measured)
    if not cases:
        why = f"its memory does not suffice for one worker of {prices.fleet.worker_memory_gb:g} GB"
        return Option(machine, spot, None, 0, None, None, "memory", {}, measured, why)
    limit, fleet = store_limit(sample, work, prices.store), prices.fleet

    def hours(machines: int, case: int) -> float:
        return seconds_of(machines, cases[case], case, work.pictures, limit, fleet, spot=spot) / 3600

    usual = cases[1]
    total = sum(usual.seconds.values())
    shares = {part: seconds / total for part, seconds in usual.seconds.items()}
    slowest = "GPU" if usual.gpu_use > 0.8 else max(shares, key=shares.__getitem__)
    if hours(machine.most, 2) > work.deadline_hours:
        why, held = _why_not(machine, cases[2], work, limit, fleet, hours(machine.most, 2))
        slowest = "store limit" if held else slowest
        return Option(machine, spot, None, usual.workers, None, None, slowest, shares, measured, why)

    def fewest(case: int) -> int:
        low, count = 0, machine.most  # `count` suffices, `low` does not
        while count - low > 1:
            middle = (low + count) // 2
            low, count = (low, middle) if hours(middle, case) <= work.deadline_hours else (middle, count)
        return count

    count = fewest(2)
    if count * usual.pictures_per_second > limit:
        slowest = "store limit"
    took = Range(*(hours(count, case) for case in range(3)))
    price = machine.spot_price if spot and machine.spot_price is not None else machine.price
    requests = sample.reads * prices.store.price_of_1000_reads + sample.writes * prices.store.price_of_1000_writes
    fees = requests * work.pictures / 1000 if work.remote else 0.0
    cost = (took * (count * price)).plus(Range(fees, fees, fees))
    return Option(
        machine, spot, count, usual.workers, took, cost, slowest, shares, measured, machines_expected=fewest(1)
    )


def _why_not(machine: Machine, rate: Rate, work: Work, limit: float, fleet: Fleet, hours: float) -> tuple[str, bool]:
    """Why the most machines that can be had do not suffice, and whether it is the store."""
    together = machine.most * rate.pictures_per_second
    starting = fleet.startup_seconds.high / 3600
    why = f"{machine.most} of them take up to {hours:,.{0 if hours >= 100 else 1}f} h"
    if starting > hours / 2:
        return f"{why}, of which {starting:.1f} h to start", False
    return (f"{why}, held up by the store's limits", True) if together > limit else (why, False)


def here(sample: Sample, work: Work, fleet: Fleet) -> Range:
    """Hours that the machine of the sample takes by itself."""
    factor = scaling(sample.megapixels, work.megapixels) * sampling(sample.pictures)
    slow = factor * Range(*(1 + share for share in fleet.overhead))
    return slow * (sum(sample.seconds.values()) / sample.workers * work.pictures / 3600)
