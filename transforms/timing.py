"""How long each step takes over its items, told by Beam's counters: the same way on one machine and on a fleet.

A worker adds to a distribution in its own memory, some microseconds an item; the sums arrive with the run's result.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

from apache_beam.metrics.metric import Metrics
from apache_beam.runners.runner import PipelineResult

NAMESPACE = "unfade_microseconds"

STORE_READ, STORE_WRITE = "store_read", "store_write"
"""Reading and writing whole files, which other steps wait for: their time is within that of `read` and `write`."""

MEASURE = "measure"
"""Quality, scores against a target and previews: within the time of `write`."""

DECIDE = "decide"
"""RunInference, which counts by itself: batches and their time."""

_GPUS = "gpus"

_BATCH_TIME, _INFERENCES = "inference_batch_latency_micro_secs", "num_inferences"


@functools.cache
def _distribution(step: str) -> Any:
    return Metrics.distribution(NAMESPACE, step)


@contextlib.contextmanager
def timed(step: str) -> Iterator[None]:
    """Adds the time of its body to a step's, whether it fails or not."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _distribution(step).update(int((time.perf_counter() - began) * 1e6))


def tell_gpus(count: int) -> None:
    """Says, from a worker, how many GPUs it sees: the process that waits for the result does not load TensorFlow."""
    Metrics.distribution(_GPUS, _GPUS).update(count)


def gpus(result: PipelineResult) -> int:
    """How many GPUs the worker saw that saw most; 0 where none told."""
    told = [one.result for one in _query(result)["distributions"] if one.key.metric.namespace == _GPUS]
    return max((found.max for found in told if found is not None), default=0)


def counter(result: PipelineResult, name: str) -> int:
    """The sum of a counter."""
    return sum(one.result or 0 for one in _query(result)["counters"] if one.key.metric.name == name)


def _query(result: PipelineResult) -> Mapping[str, Any]:
    try:
        return result.metrics().query()
    except Exception:  # not every runner tells
        return {"counters": (), "distributions": ()}


def stages(result: PipelineResult) -> dict[str, dict[str, float]]:
    """What the steps of a run took.

    Args:
      result: Of a finished run.

    Returns:
      By step: `items`, `seconds` (of all workers together) and `slowest` (seconds; of `decide`, a batch). Empty where
      a runner does not tell.
    """
    steps: dict[str, dict[str, float]] = {}
    inferences = counter(result, _INFERENCES)
    for one in _query(result)["distributions"]:
        name, told = one.key.metric, one.result
        decides = name.name == _BATCH_TIME
        if told is None or not (decides or name.namespace == NAMESPACE):
            continue
        step = steps.setdefault(DECIDE if decides else name.name, {"items": 0, "seconds": 0.0, "slowest": 0.0})
        step["items"] += inferences if decides else told.count
        step["seconds"] = round(step["seconds"] + told.sum / 1e6, 6)
        step["slowest"] = round(max(step["slowest"], told.max / 1e6), 6)
    return dict(sorted(steps.items()))
