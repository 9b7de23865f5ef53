"""A graph without an end is stopped, and takes nothing from what comes after it."""

from __future__ import annotations

import time

import pytest
import tensorflow as tf

from models.stopping import stopped_after


@tf.function
def endless(number: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda n: n >= 0, lambda n: (n + 1) % 7, [number])[0]


@tf.function
def short(number: tf.Tensor) -> tf.Tensor:
    return number + 1


def test_an_endless_loop_is_stopped() -> None:
    began = time.monotonic()
    for _ in range(2 * (tf.config.threading.get_inter_op_parallelism_threads() or 4)):
        with pytest.raises(TimeoutError, match="no end after 0 s"), stopped_after(0.2):
            endless(tf.constant(1))
    assert time.monotonic() - began < 60
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.25  # nothing works on behind
    with stopped_after(60):
        assert short(tf.constant(1)) == 2


def test_what_ends_is_left_alone() -> None:
    with stopped_after(None):
        assert short(tf.constant(1)) == 2
    with stopped_after(0.05):
        assert short(tf.constant(2)) == 3
    time.sleep(0.1)
    assert short(tf.constant(3)) == 4
    with pytest.raises(tf.errors.CancelledError), stopped_after(60):  # somebody else's
        raise tf.errors.CancelledError(None, None, "not ours")
    with pytest.raises(ValueError, match="own"), stopped_after(60):
        raise ValueError("its own")
