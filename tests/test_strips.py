"""Strips: together the whole picture, and in each the coefficients mean what they mean in the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import strips
from models.contract import HALO
from models.correction import FIELD, GRID, LEVELS, interpolation


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 700),
    pieces=st.integers(1, 40),
    seed=st.integers(0, 99),
    flat=st.booleans(),
    grey=st.booleans(),
)
def test_strips_are_the_picture(height: int, pieces: int, seed: int, flat: bool, grey: bool) -> None:
    rng = np.random.default_rng(seed)
    coefficients = {
        "matrix": np.eye(3, 4, dtype=np.float32),
        "field": np.float32(0 if flat else 1) * rng.uniform(-1, 1, (FIELD, FIELD)).astype(np.float32),
        "chroma": np.float32(10 if grey else 0) * rng.normal(size=(GRID, GRID, LEVELS, 2)).astype(np.float32),
    }
    made = list(strips.cut(height, pieces, coefficients))
    assert [row for strip in made for row in range(height)[strip.inner]] == list(range(height))
    for strip in made:
        first, last = strip.outer.start, strip.outer.stop
        assert first == 0 or (first % 4 == 0 and strip.inner.start - first >= HALO)
        assert last == height or last - strip.inner.stop >= HALO
        assert range(first, last)[strip.kept] == range(height)[strip.inner]
        assert strip.inner.stop - strip.inner.start <= max(strips.LEAST, -(-height // pieces))
        np.testing.assert_array_equal(strip.coefficients["matrix"], coefficients["matrix"])
        for name in strips.MAPS:
            values = coefficients[name].reshape(len(coefficients[name]), -1)
            within = strip.coefficients[name].reshape(len(values), -1)
            whole = interpolation(height, len(values)) @ values
            part = interpolation(last - first, len(values)) @ within
            np.testing.assert_allclose(part[strip.kept], whole[strip.inner], atol=2e-3 * max(1.0, np.abs(values).max()))


def test_strips_are_small() -> None:
    field = np.random.default_rng(0).uniform(-1, 1, (FIELD, FIELD)).astype(np.float32)
    largest = [
        max(strip.outer.stop - strip.outer.start for strip in strips.cut(8000, pieces, {"field": field}))
        for pieces in (1, 2, 64, 512)
    ]
    assert largest == pytest.approx([1149, 1149, 160, 48], abs=4)
