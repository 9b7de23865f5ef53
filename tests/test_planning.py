"""Plans: properties that any plan has, brute force over counts, and the command on a summary."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import plan
from transforms import planning
from transforms.items import UsageError
from transforms.planning import Fleet, Machine, Prices, Range, Sample, Store, Work

ROOT = pathlib.Path(__file__).parent.parent

SAMPLE = Sample(
    pictures=400,
    megapixels=10.0,
    seconds={"store": 0.1, "decode": 0.4, "infer": 1.0, "encode": 0.5},
    reads=1.0,
    writes=5.0,
    bytes_read=4e6,
    bytes_written=4e6,
    formats={"JPEG": 400},
    workers=4,
    cores=4,
    gpus=0,
    remote=False,
)
CERTAIN = Fleet(
    startup_seconds=Range(0, 0, 0),
    overhead=Range(0, 0, 0),
    straggler=Range(0, 0, 0),
    preemptions=Range(0, 0, 0),
)
NO_LIMITS = Store(1e12, 1e12, 1e12)
CPU = Machine("cpu", 8, 64, 1.0, 0.3, speed=Range(1, 1, 1), most=500)
GPU = Machine("gpu", 8, 64, 3.0, gpus=1, speed=Range(1, 1, 1), infer_speed=Range(20, 20, 20), most=500)

SECONDS = st.floats(0.001, 20)
SAMPLES = st.builds(
    lambda parts, pictures, megapixels, workers, writes: dataclasses.replace(
        SAMPLE,
        seconds=dict(zip(planning.PARTS, parts, strict=True)),
        pictures=pictures,
        megapixels=megapixels,
        workers=workers,
        writes=writes,
    ),
    st.tuples(SECONDS, SECONDS, SECONDS, SECONDS),
    st.integers(1, 10_000),
    st.floats(0.1, 200),
    st.integers(1, 8),
    st.floats(1, 6),
)
MACHINES = st.builds(
    lambda cores, memory, gpus, best, spread, most: Machine(
        "m",
        cores,
        memory,
        1.0,
        0.4,
        gpus=gpus,
        speed=Range(best, best * spread, best * spread**2),
        infer_speed=Range(best * 50, best * 50 * spread, best * 50 * spread**2),
        most=most,
    ),
    st.integers(1, 64),
    st.integers(3, 256),
    st.integers(0, 4),
    st.floats(0.2, 3),
    st.floats(0.3, 1),
    st.integers(1, 150),
)
WORKS = st.builds(Work, st.integers(1, 10_000_000), st.floats(0.1, 200), st.floats(0.05, 500), st.booleans())
LIST = Prices("2026-11-01", "USD", "", ())


def option(sample: Sample, machine: Machine, work: Work, prices: Prices = LIST, spot: bool = False) -> planning.Option:
    return planning.option(sample, machine, work, prices, spot)


@settings(max_examples=60, deadline=None)
@given(SAMPLES, MACHINES, WORKS, st.booleans())
def test_the_chosen_count_is_the_one_that_trying_all_of_them_finds(
    sample: Sample, machine: Machine, work: Work, spot: bool
) -> None:
    found = option(sample, machine, work, spot=spot)
    cases = planning.rates(sample, machine, work, LIST)
    limit = planning.store_limit(sample, work, LIST.store)
    for case, count in ((2, found.machines), (1, found.machines_expected)):
        enough = [
            n
            for n in range(1, machine.most + 1)
            if planning.seconds_of(n, cases[case], case, work.pictures, limit, LIST.fleet, spot=spot) / 3600
            <= work.deadline_hours
        ]
        if found.machines is not None or case == 2:
            assert count == (enough[0] if enough else None)
            assert enough == list(range(enough[0], machine.most + 1)) if enough else True  # more are never slower


@settings(max_examples=60, deadline=None)
@given(SAMPLES, MACHINES, WORKS, st.floats(1, 20), st.booleans())
def test_more_time_never_takes_more_machines_nor_costs_more(
    sample: Sample, machine: Machine, work: Work, more: float, spot: bool
) -> None:
    now = option(sample, machine, work, spot=spot)
    later = option(sample, machine, dataclasses.replace(work, deadline_hours=work.deadline_hours * more), spot=spot)
    if now.machines is not None:
        assert later.machines is not None
        assert later.machines <= now.machines
        assert now.cost
        assert later.cost
        for case in range(3):
            assert later.cost[case] <= now.cost[case] * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(SAMPLES, MACHINES, WORKS, st.integers(1, 1_000_000))
def test_more_pictures_never_take_fewer_machines(sample: Sample, machine: Machine, work: Work, more: int) -> None:
    now, then = (
        option(sample, machine, dataclasses.replace(work, pictures=n)) for n in (work.pictures, work.pictures + more)
    )
    if then.machines is not None:
        assert now.machines is not None
        assert now.machines <= then.machines


@settings(max_examples=60, deadline=None)
@given(SAMPLES, MACHINES, WORKS, st.booleans())
def test_a_plan_is_consistent(sample: Sample, machine: Machine, work: Work, spot: bool) -> None:
    found = option(sample, machine, work, spot=spot)
    assert sum(found.shares.values()) == pytest.approx(1)
    if found.machines is None:
        assert found.why_not
        return
    assert found.hours
    assert found.cost
    assert found.machines_expected
    assert found.machines_expected <= found.machines <= machine.most
    assert found.hours.low <= found.hours.expected <= found.hours.high <= work.deadline_hours
    price = 0.4 if spot else 1.0
    assert found.cost == pytest.approx([hours * found.machines * price for hours in found.hours])
    assert found.workers * LIST.fleet.worker_memory_gb <= machine.memory_gb


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 64), st.integers(1, 4), SECONDS, SECONDS)
def test_shared_gpus_stay_within_the_bounds_of_queues(workers: int, gpus: int, alone: float, on_gpu: float) -> None:
    rate, use = planning._shared(workers, gpus, alone, on_gpu)
    used = min(gpus, workers)
    assert rate <= min(workers / (alone + on_gpu), used / on_gpu) * (1 + 1e-9)
    longest_queue = -(-workers // gpus)
    assert rate >= workers / (alone + longest_queue * on_gpu) * (1 - 1e-9)
    assert 0 < use <= 1


def test_by_hand() -> None:
    prices = Prices("", "", "", (), NO_LIMITS, CERTAIN)
    sample = dataclasses.replace(SAMPLE, pictures=10**12, remote=True)
    found = option(sample, CPU, Work(1_440_000, 10.0, 10.001), prices)
    # 8 workers, 2 s a picture: 4 a second, 14,400 an hour; 100 machine-hours
    assert (found.machines, found.machines_expected, found.workers, found.bottleneck) == (10, 10, 8, "infer")
    assert found.hours == pytest.approx((10.0, 10.0, 10.0), rel=1e-5)
    assert found.cost == pytest.approx((100.0, 100.0, 100.0), rel=1e-5)
    assert option(sample, CPU, Work(1_440_000, 10.0, 10.001), prices, spot=True).cost == pytest.approx(
        (30.0,) * 3, rel=1e-5
    )
    # With a GPU 1 + 0.05 s, and waits: a bit less than 8 / 1.05 a second
    assert 6.5 < planning.rates(sample, GPU, Work(1, 10.0, 1.0), prices)[1].pictures_per_second < 8 / 1.05
    # Twice the megapixels: between the same time and twice as long
    rates = planning.rates(sample, CPU, Work(1, 20.0, 1.0), prices)
    assert [rate.pictures_per_second for rate in rates] == pytest.approx([4.0, 2.0, 2.0], rel=1e-5)


def test_the_stores_limit_is_a_floor() -> None:
    store = Store(writes_per_second=100)
    work = Work(360_000, 10.0, 6.0)
    prices = Prices("", "", "", (), store, CERTAIN)
    assert planning.store_limit(SAMPLE, work, store) == 20  # five writes a picture; 5 hours
    assert option(SAMPLE, CPU, work, prices).machines
    none = option(SAMPLE, CPU, dataclasses.replace(work, deadline_hours=4.9), prices)
    assert (none.machines, none.bottleneck) == (None, "store limit")
    assert "store's limits" in none.why_not
    assert planning.store_limit(SAMPLE, dataclasses.replace(work, remote=False), store) == float("inf")


def test_memory_limits_workers() -> None:
    small = dataclasses.replace(CPU, memory_gb=6)
    assert option(SAMPLE, small, Work(10, 10.0, 100.0)).workers == 2
    none = option(SAMPLE, dataclasses.replace(CPU, memory_gb=2), Work(10, 10.0, 100.0))
    assert none.machines is None
    assert "memory" in none.why_not


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "lists no"),
        ({"machine": [{"name": "a", "cores": 8, "memory_gb": 8}]}, "machine 1: .*price.* is missing"),
        ({"machine": [{"name": "a", "cores": 0, "memory_gb": 8, "price": 1}]}, "machine 1: cores must be above 0"),
        ({"machine": [{"name": "a", "cores": 8, "memory_gb": 8, "price": "1"}]}, "machine 1: price must be a number"),
        ({"machine": [{"name": "a", "cores": 8, "memory_gb": 8, "price": -1}]}, "machine 1: price must be a number"),
        ({"machine": [{"name": "a", "cores": 8, "memory_gb": 8, "price": 1, "gpu": 1}]}, "unknown key gpu"),
        ({"machine": [{"name": "a", "cores": 8, "memory_gb": 8, "price": 1}] * 2}, "same name"),
        ({"machine": [{"name": "a", "cores": 8, "memory_gb": 8, "price": 1, "speed": [1, 2, 3]}]}, "best to the worst"),
        ({"machine": [{"name": "a", "cores": 8, "memory_gb": 8, "price": 1}], "fleet": {"x": 1}}, "fleet: unknown"),
        ({"prices": 1}, "unknown key prices"),
    ],
)
def test_bad_price_lists(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        planning.read_prices(table)


def test_plans_agree_with_a_simulation_of_the_fleet() -> None:
    fleet = _benchmark()
    rows = [fleet.compare(name, *rest, seed=1) for name, *rest in fleet.scenarios(quick=True) if rest[2] <= 200_000]
    assert len(rows) >= 6
    for row in rows:
        assert row.within, row
        if "autoscaling" not in row.name:  # which plans do not have
            assert row.simulated == pytest.approx(row.hours.expected, rel=0.15), row
            assert row.paid == pytest.approx(row.cost.expected, rel=0.15), row


def _benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("fleet", ROOT / "benchmarks" / "fleet.py")
    assert spec
    assert spec.loader
    module = sys.modules["fleet"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUMMARY = {
    "command": "restore",
    "counts": {"input": 210, "restored": 200, "skipped": 0, "failed": 10},
    "megapixels": 2000.0,
    "stages": {
        name: {"items": items, "seconds": seconds, "slowest": seconds / 10}
        for name, items, seconds in (
            ("read", 210, 12.0),
            ("decode", 205, 80.0),
            ("decide", 200, 10.0),
            ("inference", 200, 190.0),
            ("write", 200, 110.0),
            ("store_read", 210, 10.0),
            ("store_write", 1000, 10.0),
        )
    },
    "machine": {"workers": 2, "cores": 2, "gpus": 0},
    "options": {"input": "scans", "output": "out"},
}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A sample's output, as far as it is planned from."""
    out = tmp_path / "sample"
    (out / "metrics").mkdir(parents=True)
    (out / "summary.json").write_text(json.dumps(SUMMARY))
    columns = {
        "format": ["JPEG", "PNG"],
        "bytes_in": [2e6, 4e6],
        "bytes_out": [2e6, 6e6],
        "width": [4000] * 2,
        "height": [2500] * 2,
    }
    pq.write_table(pa.table(columns), out / "metrics" / "metrics-00000-of-00001.parquet")
    return out


def test_sample_of_a_summary(folder: pathlib.Path) -> None:
    sample = plan.read_sample(str(folder))
    assert sample == plan.read_sample(str(folder / "summary.json"))
    assert dict(sample.seconds) == pytest.approx({"store": 0.1, "decode": 0.41, "infer": 1.0, "encode": 0.5})
    assert (sample.megapixels, sample.writes, sample.bytes_read, sample.bytes_written) == (10.0, 5.0, 3e6, 4e6)
    assert (sample.workers, sample.cores, sample.remote, sample.formats) == (2, 2, False, {"JPEG": 1, "PNG": 1})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": "prepare"}, "no summary of `unfade restore`"),
        ({"counts": {"restored": 0}}, "restored no picture"),
        ({"stages": {}}, "does not say what read, decode"),
        ({"machine": {}}, "how many workers"),
    ],
)
def test_summaries_that_do_not_tell_enough(folder: pathlib.Path, change: dict[str, Any], said: str) -> None:
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, **change}))
    with pytest.raises(UsageError, match=said):
        plan.read_sample(str(folder))


class TestCommand:
    def test_plan(self, folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        given = ["--sample", str(folder), "--images", "2000000", "--megapixels", "12", "--deadline", "100"]
        assert plan.main([*given, "--json", str(tmp_path / "plan.json")]) == 0
        said = capsys.readouterr().out
        assert "sample: 200 pictures of 10.0 MP, 2.01 s of a worker each (store 5%, decode 20%, infer 50%" in said
        assert "cheapest without GPUs: " in said
        assert "cheapest with GPUs: " in said
        assert "example prices: replace by your own" in said
        assert "warning" not in said
        body = json.loads((tmp_path / "plan.json").read_text())
        assert body["work"] == {"pictures": 2_000_000, "megapixels": 12.0, "deadline_hours": 100.0, "remote": True}
        first = body["options"][0]
        assert 0 < first["cost"]["low"] <= first["cost"]["expected"] <= first["cost"]["high"]
        assert first["hours"]["high"] <= 100
        assert body["this_machine_hours"]["expected"] == pytest.approx(2.01 * 1.2 * 1.05 / 2 * 2e6 / 3600, rel=0.01)

    def test_a_deadline_that_nothing_meets(self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan.main(["--sample", str(folder), "--images", "10000000", "--deadline", "0.5"]) == 1
        out, err = capsys.readouterr()
        assert err == "unfade: no machine of the price list does it in 0.5 hours\n"
        assert "none meets the deadline" in out

    def test_a_sample_of_a_kind_of_machine_is_measured(
        self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kind = "8 vCPU + L4"
        given = ["--sample", str(folder), "--sample", f"{kind}={folder}", "--images", "9000", "--deadline", "9"]
        assert plan.main(given) == 0
        [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("speed assumed")]
        assert kind not in line
        assert "8 vCPU + T4" in line
        with pytest.raises(UsageError, match="has no 'toaster'"):
            plan.main(["--sample", f"toaster={folder}", "--images", "9000", "--deadline", "9"])

    def test_counted_inventory(self, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
        assert plan.read_inventory(str(folder)) == (2, 10.0, {"JPEG": 1, "PNG": 1})
        (tmp_path / "list.csv").write_text("image\na.tif\nb.TIFF\nc.jpg\n")
        assert plan.read_inventory(str(tmp_path / "list.csv")) == (3, None, {"TIFF": 2, "JPEG": 1})

    def test_formats_that_the_sample_lacks(
        self, folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "list.csv").write_text("image\na.tif\nc.jpg\n")
        plan.main(["--sample", str(folder), "--input", str(tmp_path / "list.csv"), "--deadline", "9"])
        said = capsys.readouterr().out
        assert "warning: the sample has no TIFF" in said
        assert "have a target" not in said
        assert "warning: pictures are taken to have 10.0 MP" in said

    def test_a_sample_that_tells_little(self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        machine = {"workers": 1, "cores": 2, "gpus": 0}
        counts = {"restored": 20}
        (folder / "summary.json").write_text(
            json.dumps({**SUMMARY, "machine": machine, "counts": counts, "with_target": 7})
        )
        plan.main(["--sample", str(folder), "--images", "100", "--deadline", "99", "--megapixels", "9"])
        said = capsys.readouterr().out
        for warning in (
            "20 pictures only",
            "1 of 2 cores",
            "7 pictures of the sample have a target",
            "make the range wide",
        ):
            assert warning in said

    def test_own_prices(self, folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert plan.main(["--print_prices"]) == 0
        own = tmp_path / "prices.toml"
        own.write_text(capsys.readouterr().out.replace('"USD"', '"EUR"'))
        given = ["--sample", str(folder), "--images", "1000", "--deadline", "9", "--prices"]
        assert plan.main([*given, str(own)]) == 0
        assert "EUR" in capsys.readouterr().out
        own.write_text("[[machine]\n")
        with pytest.raises(UsageError, match="prices.toml: .*line 1"):
            plan.main([*given, str(own)])

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["--images", "9", "--deadline", "9"], "--sample is missing"),
            (["--sample", "x", "--images", "9"], "--deadline is missing"),
            (["--sample", "x", "--deadline", "9"], "give --images or --input"),
            (["--sample", "x", "--deadline", "-1", "--images", "9"], "--deadline -1.0 is not above 0"),
        ],
    )
    def test_bad_usage(self, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            plan.main(argv)
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


def test_a_sample_of_a_gpu_says_nothing_of_other_machines() -> None:
    gpus, own = dataclasses.replace(SAMPLE, gpus=1), {"gpu": dataclasses.replace(SAMPLE, gpus=1)}
    prices = dataclasses.replace(LIST, machines=(CPU, GPU))
    found = {one.machine.name: one for one in planning.options(gpus, Work(1000, 10.0, 24.0), prices, own)}
    assert found["gpu"].machines == 1
    assert (found["cpu"].machines, found["cpu"].cost) == (None, None)
    assert "the sample ran on a GPU" in found["cpu"].why_not
