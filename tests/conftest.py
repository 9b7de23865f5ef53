"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def random_generator() -> Callable[[int], Any]:
    """Makes a small generator with random weights in every layer: an untrained one decides nearly nothing."""

    def make(seed: int, scale: float = 0.3) -> Any:
        import numpy as np
        import tensorflow as tf

        from models.contract import PALETTE, STATISTICS, VIEW
        from models.generator import Generator

        generator = Generator(width=8)
        generator(
            tf.zeros([1, VIEW, VIEW, 3], tf.uint8),
            tf.zeros([1, STATISTICS]),
            tf.zeros([1, 1], tf.int64),
            tf.zeros([1, 1]),
            tf.zeros([1, PALETTE]),
        )
        rng = np.random.default_rng(seed)
        for variable in generator.trainable_variables:
            variable.assign(variable.numpy() + scale * rng.normal(0, 0.3, variable.shape))
        return generator

    return make
