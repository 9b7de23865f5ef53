"""Calibration: its numbers fit what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import archives
import numpy as np
import pytest
from scipy.optimize import minimize

from models.calibration import Row, fit, logistic, measure
from models.contract import DAMAGE_CLASSES, PALETTE
from models.export import RAMP, Calibration
from models.records import Photograph
from transforms import metrics

NOISY, SCRATCHED, CLEAN = (DAMAGE_CLASSES.index(name) for name in ("noisy", "scratched", "clean"))


def rows(count: int, seed: int = 0, spread: float = 0.4, overconfident: float = 0.0) -> list[Row]:
    """A quarter undamaged. Errors stray log-normally from what is expected.

    Args:
      count: How many.
      seed: Of the draws.
      spread: Standard deviation of the logarithm of measured over expected errors.
      overconfident: How much too small the logarithm of the result's expected error is where nothing is wrong.
    """
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        clean = index % 4 == 0
        error, untouched = (2.5, 0.3) if clean else (3.0, 12.0)
        log_error = math.log(error) + rng.normal(0, spread) - overconfident * clean
        log_untouched = math.log(untouched) + rng.normal(0, spread)
        classes = np.zeros(len(DAMAGE_CLASSES))
        classes[CLEAN], classes[NOISY] = clean, rng.random() < 0.5
        classes[SCRATCHED] = rng.random() < 0.5
        logits = rng.normal(0, 1, len(DAMAGE_CLASSES))
        noise = rng.normal(-4, 0.5) + 2 * classes[NOISY]
        made.append(Row(log_error, log_untouched, error, untouched, logits, classes, noise, rng.normal(-4, 1)))
    return made


def outcome(calibration: Calibration, given: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured and expected errors with the calibration's fallback, and which pictures are undamaged."""
    back = np.clip([(r.log_error - r.log_untouched + calibration.margin) / RAMP + 0.5 for r in given], 0, 1)
    measured = (1 - back) * [r.error for r in given] + back * [r.untouched for r in given]
    expected = (1 - back) * np.exp([r.log_error for r in given]) + back * np.exp([r.log_untouched for r in given])
    return measured, expected, np.array([r.classes[CLEAN] > 0.5 for r in given])


def test_the_margin_leaves_undamaged_pictures_alone() -> None:
    given = rows(400, overconfident=1.6)
    fitted = fit(given)
    measured, _, clean = outcome(fitted, given)
    assert measured[clean].mean() <= 0.8
    assert measured[~clean].mean() < 6  # and damaged ones are restored all the same
    smaller, _, _ = outcome(fitted._replace(margin=fitted.margin - 0.051), given)
    assert smaller[clean].mean() > 0.8  # no larger than it must be
    assert fitted.margin > fit(rows(400)).margin


@pytest.mark.filterwarnings("error")
def test_without_an_undamaged_picture_the_margin_is_what_it_is_untrained() -> None:
    damaged = [row for row in rows(8) if row.classes[CLEAN] < 0.5]
    assert fit(damaged).margin == Calibration().margin
    assert fit(damaged[:1]).margin == Calibration().margin


def test_the_interval_covers_80_percent() -> None:
    fitted = fit(rows(2000))
    assert fitted.low < 0 < fitted.high
    measured, expected, _ = outcome(fitted, rows(2000, seed=1))
    inside = (measured >= expected * np.exp(fitted.low)) & (measured <= expected * np.exp(fitted.high))
    assert inside.mean() == pytest.approx(0.8, abs=0.04)
    wide = fit(rows(2000, spread=0.8))
    assert wide.high - wide.low > 1.5 * (fitted.high - fitted.low)


def test_classes_are_weighed_by_what_tells_them_apart() -> None:
    constant, logit, seen = fit(rows(1000)).noisy
    assert seen > 2  # the findings tell
    assert abs(logit) < 0.5  # the logits are noise
    assert constant + seen * -4 < 0 < constant + seen * -2
    assert abs(fit(rows(1000)).scratched[2]) < 0.5  # nothing tells of scratches


def test_logistic_is_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    features = np.stack([np.ones(5000), rng.normal(0, 1, 5000), rng.normal(0, 2, 5000)], axis=1)
    true = np.array([0.5, -1.0, 0.8])
    truth = (rng.random(5000) < 1 / (1 + np.exp(-features @ true))).astype(float)

    def loss(weights: np.ndarray) -> float:
        score = features @ weights
        return float(np.logaddexp(0, score).sum() - truth @ score + 0.05 * weights @ weights)

    found = logistic(features, truth)
    np.testing.assert_allclose(found, minimize(loss, np.zeros(3)).x, atol=1e-3)
    np.testing.assert_allclose(found, true, atol=0.15)


def test_logistic_is_finite_where_classes_separate() -> None:
    features = np.stack([np.ones(40), np.linspace(-1, 1, 40), np.zeros(40)], axis=1)
    constant, logit, seen = logistic(features, (features[:, 1] > 0).astype(float))
    assert 1 < logit < 1000
    assert constant == pytest.approx(0, abs=1e-6)
    assert seen == 0


@pytest.mark.slow
def test_measuring_real_pictures(prepared: str, random_generator: Callable[..., Any], detail: Any) -> None:
    from models.export import TransformGraph

    photographs = [
        Photograph(
            f"{seed}",
            "a red door",
            archives.photograph(seed, 100, 80),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
            np.zeros(PALETTE, np.float32),
        )
        for seed in range(3)
    ]

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        return float(metrics.mean_ciede2000(first, second))

    transform = TransformGraph(f"{prepared}/transform_fn")
    measured = measure(random_generator(1), detail, transform, photographs, difference, repeats=2)
    assert len(measured) == 6
    for row in measured:
        assert np.isfinite([row.log_error, row.log_untouched, row.error, row.untouched, row.noise, row.defects]).all()
        assert row.error != row.untouched
        assert row.logits.shape == row.classes.shape == (len(DAMAGE_CLASSES),)
        assert (row.untouched < 0.5) == bool(row.classes[CLEAN])
    assert any(row.classes[CLEAN] for row in measured)
    assert np.isfinite(np.concatenate([np.ravel(value) for value in fit(measured)])).all()
