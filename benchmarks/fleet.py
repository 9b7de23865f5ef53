"""Plans against a simulation of the fleet: machine by machine, up to 10 million pictures and 1,000 workers.

    python benchmarks/fleet.py [--quick] [--svg docs/plan.svg] [--seed 1]

What a picture takes in each step, how many workers a machine has and what the store bears are as in
`transforms/planning.py`; hours are not. It is a queue of events: workers take bundles, work on them ten pictures at a
time, wait for a GPU of their machine and for the bucket; some bundles take much longer; machines start one after
another, are taken away and replaced. Times of pictures vary as much as their mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import random
import time
from collections.abc import Sequence

from transforms import planning
from transforms.planning import Fleet, Machine, Prices, Range, Sample, Store, Work

CHUNK = 10  # pictures between two events of a worker


@dataclasses.dataclass(frozen=True)
class Truth:
    """What befalls a run, beside what its machines are.

    Attributes:
      startup: Seconds until the first machine works, and until the last.
      slow_share: Of bundles that take `slow_times` as long.
      slow_times: See there.
      preemptions: Of a machine, an hour.
      replacement: Seconds.
      first: Machines at the beginning; 0: all of them. Others join by doubling.
      doubling: Seconds.
    """

    startup: tuple[float, float] = (120.0, 360.0)
    slow_share: float = 0.0
    slow_times: float = 3.0
    preemptions: float = 0.0
    replacement: float = 180.0
    first: int = 0
    doubling: float = 180.0


@dataclasses.dataclass(frozen=True)
class Machines:
    """A fleet.

    Attributes:
      number: Of machines.
      workers: On each.
      alone: Seconds of a worker for a picture, without the GPU.
      on_gpu: Seconds of the GPU for a picture; 0: there is none.
      limit: Pictures a second that the bucket takes.
      bundle: Pictures.
    """

    number: int
    workers: int
    alone: float
    on_gpu: float
    limit: float
    bundle: int


START, CPU_DONE, GPU_DONE, TAKEN = range(4)


class Simulation:
    """One run. `run` gives seconds until the last picture is done, and machine-seconds paid for."""

    def __init__(self, machines: Machines, pictures: int, truth: Truth, seed: int) -> None:
        self.machines, self.pictures, self.truth, self.draw = machines, pictures, truth, random.Random(seed)
        self.total = machines.number * machines.workers
        self.events: list[tuple[float, int, int, int, int]] = []  # time, number, what, worker or machine, epoch
        self.count = self.done = 0
        self.left = pictures  # taken by no worker
        # Of each worker: pictures of its bundle, how many of these are done, how slow it is.
        self.held, self.at, self.slow = [0] * self.total, [0] * self.total, [1.0] * self.total
        self.epoch, self.gpu_free = [0] * machines.number, [0.0] * machines.number
        self.began = [0.0] * machines.number
        self.store_free = self.paid = self.end = 0.0
        self.idle: list[int] = []

    def push(self, when: float, what: int, who: int, machine: int) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, who, self.epoch[machine]))

    def chunk(self, now: float, worker: int) -> None:
        size = min(CHUNK, self.held[worker] - self.at[worker])
        # The sum of `size` times that each vary as much as their mean.
        seconds = self.draw.gammavariate(size, self.machines.alone * self.slow[worker])
        self.push(now + seconds, CPU_DONE, worker, worker // self.machines.workers)

    def take(self, now: float, worker: int) -> None:
        # Runners cut bundles smaller towards the end.
        size = min(self.machines.bundle, self.left, max(CHUNK, self.left // (2 * self.total)))
        if size <= 0:
            self.idle.append(worker)
            return
        self.left -= size
        self.held[worker], self.at[worker] = size, 0
        self.slow[worker] = self.truth.slow_times if self.draw.random() < self.truth.slow_share else 1.0
        self.chunk(now, worker)

    def workers_of(self, machine: int) -> range:
        return range(machine * self.machines.workers, (machine + 1) * self.machines.workers)

    def hire(self) -> None:
        first, last = self.truth.startup
        for machine in range(self.machines.number):
            asked, size = 0.0, self.truth.first or self.machines.number
            while size <= machine:
                size, asked = size * 2, asked + self.truth.doubling
            self.began[machine] = asked
            self.push(asked + first + (last - first) * self.draw.random(), START, machine, machine)

    def start(self, now: float, machine: int) -> None:
        if self.truth.preemptions:
            self.push(now + self.draw.expovariate(self.truth.preemptions / 3600), TAKEN, machine, machine)
        for worker in self.workers_of(machine):
            self.take(now, worker)

    def computed(self, now: float, worker: int) -> None:
        if not self.machines.on_gpu:
            self.store(now, worker)
            return
        machine, size = worker // self.machines.workers, min(CHUNK, self.held[worker] - self.at[worker])
        free = max(now, self.gpu_free[machine]) + self.draw.gammavariate(size, self.machines.on_gpu)
        self.gpu_free[machine] = free
        self.push(free, GPU_DONE, worker, machine)

    def store(self, now: float, worker: int) -> None:
        size = min(CHUNK, self.held[worker] - self.at[worker])
        self.store_free = max(now, self.store_free) + size / self.machines.limit
        now = max(now, self.store_free)  # as long as the bucket is behind, its clients wait
        self.at[worker] += size
        if self.at[worker] < self.held[worker]:
            self.chunk(now, worker)
            return
        self.done, self.end = self.done + self.held[worker], max(self.end, now)
        self.held[worker] = 0
        self.take(now, worker)

    def taken(self, now: float, machine: int) -> None:
        """Its bundles go back, and another machine takes its place."""
        self.epoch[machine] += 1
        self.paid += now - self.began[machine]
        self.began[machine], self.gpu_free[machine] = now + self.truth.replacement, 0.0
        mine = self.workers_of(machine)
        for worker in mine:
            self.left += self.held[worker]
            self.held[worker] = 0
        waiting, self.idle = [worker for worker in self.idle if worker not in mine], []
        self.push(now + self.truth.replacement, START, machine, machine)
        for worker in waiting:
            self.take(now, worker)

    def run(self) -> tuple[float, float]:
        self.hire()
        steps = {START: self.start, CPU_DONE: self.computed, GPU_DONE: self.store, TAKEN: self.taken}
        while self.done < self.pictures:
            now, _, what, who, epoch = heapq.heappop(self.events)
            if epoch == self.epoch[who if what in (START, TAKEN) else who // self.machines.workers]:
                steps[what](now, who)
        return self.end, self.paid + sum(max(0.0, self.end - start) for start in self.began)


SAMPLE = Sample(
    pictures=500,
    megapixels=4.0,
    seconds={"store": 0.1, "decode": 0.35, "infer": 1.1, "encode": 0.45},
    reads=1.0,
    writes=2.0,
    bytes_read=4e6,
    bytes_written=4e6,
    formats={},
    workers=8,
    cores=8,
    gpus=0,
    remote=True,
)
FLEET = Fleet()
CPU = Machine("8 cores", 8, 64, 0.85, 0.45, speed=Range(1, 1, 1), most=125)
GPU = Machine("8 cores + GPU", 8, 64, 1.45, 0.8, gpus=1, speed=Range(1, 1, 1), infer_speed=Range(30, 30, 30), most=125)
BUSY_GPU = dataclasses.replace(GPU, name="8 cores + slow GPU", infer_speed=Range(3, 3, 3))
WIDE = Store(1e9, 1e9, 1e9)
NARROW = Store(writes_per_second=400)


def scenarios(quick: bool) -> list[tuple[str, Machine, int, int, Store, bool, Truth]]:
    """Name, kind, machines, pictures, bucket, spot, what befalls it."""
    calm, stragglers = Truth(), Truth(slow_share=0.02)
    taken = Truth(preemptions=0.1)
    everything = Truth(slow_share=0.02, preemptions=0.1)
    found = [
        ("calm", CPU, 1, 10_000, WIDE, False, calm),
        ("calm", CPU, 12, 100_000, WIDE, False, calm),
        ("calm", CPU, 125, 1_000_000, WIDE, False, calm),
        ("GPUs", GPU, 12, 100_000, WIDE, False, calm),
        ("GPUs that are short", BUSY_GPU, 12, 100_000, WIDE, False, calm),
        ("small work, many workers", CPU, 125, 5_000, WIDE, False, stragglers),
        ("stragglers", CPU, 12, 100_000, WIDE, False, stragglers),
        ("machines taken away", CPU, 50, 500_000, WIDE, True, taken),
        ("machines taken away, GPUs", GPU, 50, 500_000, WIDE, True, taken),
        ("the bucket's limit", CPU, 125, 1_000_000, NARROW, False, stragglers),
        ("all of it", GPU, 60, 1_000_000, NARROW, True, everything),
        ("autoscaling from 1 machine", CPU, 60, 200_000, WIDE, False, Truth(first=1, slow_share=0.02)),
    ]
    if not quick:
        found += [
            ("10 million, calm", CPU, 125, 10_000_000, WIDE, False, calm),
            ("10 million, all of it", CPU, 125, 10_000_000, WIDE, True, everything),
            ("10 million, autoscaling", CPU, 125, 10_000_000, WIDE, False, Truth(first=1, slow_share=0.02)),
        ]
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: hours and money, planned and simulated."""

    name: str
    pictures: int
    workers: int
    hours: Range
    simulated: float
    cost: Range
    paid: float

    @property
    def within(self) -> bool:
        """Whether the simulated hours lie in the planned range."""
        return self.hours.low <= self.simulated <= self.hours.high


def compare(
    name: str, machine: Machine, number: int, pictures: int, store: Store, spot: bool, truth: Truth, seed: int
) -> Row:
    """Plans for a given number of machines, and simulates the same with what is expected of them."""
    prices, work = Prices("", "", "", (machine,), store, FLEET), Work(pictures, SAMPLE.megapixels, 1e9)
    cases = planning.rates(SAMPLE, machine, work, prices)
    limit = planning.store_limit(SAMPLE, work, store)
    hours = Range(
        *(planning.seconds_of(number, cases[c], c, pictures, limit, FLEET, spot=spot) / 3600 for c in range(3))
    )
    usual = cases[1]
    on_gpu = usual.seconds["infer"] if machine.gpus else 0.0
    alone = sum(usual.seconds.values()) - on_gpu
    fleet = Machines(number, usual.workers, alone, on_gpu, limit, FLEET.bundle_pictures)
    seconds, paid = Simulation(fleet, pictures, truth, seed).run()
    price = (machine.spot_price or 0.0) if spot else machine.price
    return Row(
        name, pictures, number * usual.workers, hours, seconds / 3600, hours * (number * price), paid / 3600 * price
    )


def svg(rows: Sequence[Row]) -> str:
    """Planned ranges as bars, expected as lines, simulated as dots; hours relative to the expected."""
    left, width, line, most = 250, 560, 26, 2.0
    height = 70 + line * len(rows)

    def x(share: float) -> float:
        return left + width * min(share, most) / most

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {height}" font-family="system-ui, sans-serif"'
        ' font-size="12">',
        f'<rect width="860" height="{height}" fill="#fff"/>',
        '<text x="20" y="20" fill="#222">Hours, in those expected: planned range (bar), simulated (dot)</text>',
    ]
    for tick in (0.0, 0.5, 1.0, 1.5, 2.0):
        out.append(f'<path d="M{x(tick):.0f} 34V{height - 24}" stroke="#ddd"/>')
        out.append(f'<text x="{x(tick):.0f}" y="{height - 8}" text-anchor="middle" fill="#666">{tick:g}</text>')
    for number, row in enumerate(rows):
        y, usual = 40 + line * number, row.hours.expected
        low, high = x(row.hours.low / usual), x(row.hours.high / usual)
        colour = "#2b7a3d" if row.within else "#b3261e"
        out.append(f'<text x="{left - 10}" y="{y + 12}" text-anchor="end" fill="#222">{row.name}</text>')
        out.append(f'<rect x="{low:.1f}" y="{y}" width="{high - low:.1f}" height="16" rx="3" fill="#c9d9ee"/>')
        out.append(f'<path d="M{x(1):.1f} {y}v16" stroke="#5b7fb0" stroke-width="2"/>')
        out.append(f'<circle cx="{x(row.simulated / usual):.1f}" cy="{y + 8}" r="5" fill="{colour}"/>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out 10 million pictures")
    parser.add_argument("--svg", help="also draw it here")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rows = []
    print("| what befalls the run | pictures | workers | hours planned | simulated | USD planned | simulated |")
    print("|---|---|---|---|---|---|---|")
    began = time.monotonic()
    for name, *rest in scenarios(given.quick):
        row = compare(name, *rest, given.seed)
        rows.append(row)
        print(
            f"| {name} | {row.pictures:,} | {row.workers:,} | {row.hours.expected:.2f}"
            f" ({row.hours.low:.2f}-{row.hours.high:.2f}) | {row.simulated:.2f}{'' if row.within else ' (outside)'}"
            f" | {row.cost.expected:,.0f} ({row.cost.low:,.0f}-{row.cost.high:,.0f}) | {row.paid:,.0f} |",
            flush=True,
        )
    print(f"\n{sum(row.within for row in rows)} of {len(rows)} within the range; {time.monotonic() - began:.0f} s")
    if given.svg:
        with open(given.svg, "w", encoding="utf-8") as file:
            file.write(svg(rows))


if __name__ == "__main__":
    main()
