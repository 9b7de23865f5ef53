"""Tables of an evaluation: intervals against SciPy's, numbers by hand, and text that lines up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap

from models.contract import DAMAGE_CLASSES
from transforms import scores


def row(id: str, method: str, error: float, **more: Any) -> dict[str, Any]:
    psnr = None if error == 0 else 40 - error
    fidelity = {"ciede2000": error, "psnr": psnr, "ssim": 1 - error / 100, "ms_ssim": None, "identical": error == 0}
    return {"id": id, "method": method, "extra": {}, **fidelity, **more}


def rows(errors: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [row(f"{i:04}", method, error) for method, found in errors.items() for i, error in enumerate(found)]


class TestResampledMeans:
    def test_against_scipy(self) -> None:
        sample = np.random.default_rng(3).exponential(5.0, 80)
        drawn = scores.resampled_means(sample[:, None], seed=1, resamples=9000)[:, 0]
        expected = bootstrap((sample,), np.mean, n_resamples=9000, method="percentile", random_state=2)
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert low == pytest.approx(expected.confidence_interval.low, rel=0.02)
        assert high == pytest.approx(expected.confidence_interval.high, rel=0.02)
        assert drawn.std() == pytest.approx(expected.standard_error, rel=0.05)

    def test_same_seed_same_draws_in_blocks_of_any_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = np.random.default_rng(0).normal(size=(7, 2))
        whole = scores.resampled_means(values, seed=5, resamples=50)
        monkeypatch.setattr(scores, "_BLOCK", 7 * 11)
        np.testing.assert_allclose(scores.resampled_means(values, seed=5, resamples=50), whole)
        assert not np.allclose(scores.resampled_means(values, seed=6, resamples=50), whole)

    def test_columns_see_the_same_resamples(self) -> None:
        sample = np.random.default_rng(0).normal(size=30)
        drawn = scores.resampled_means(np.stack([sample, sample + 1], axis=1), seed=0, resamples=20)
        np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 1)

    def test_what_is_missing_is_left_out(self) -> None:
        drawn = scores.resampled_means(np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, np.nan]]), seed=0)
        assert set(drawn[~np.isnan(drawn[:, 0]), 0]) == {1.0}
        assert 0 < np.isnan(drawn[:, 0]).mean() < 0.1  # (1/3)^3 of the resamples draw the second row only
        assert np.isnan(drawn[:, 1]).all()


class TestSummarise:
    def test_by_hand(self) -> None:
        found = scores.summarise(rows({"identity": [4.0, 8.0, 12.0], "stretch": [2.0, 6.0, 4.0]}))
        assert found["items"] == 3
        assert list(found["methods"]) == ["identity", "stretch"]
        colour = found["methods"]["stretch"]["ciede2000"]
        assert colour["mean"] == 4
        assert colour["count"] == 3
        assert colour["p95"] == pytest.approx(5.8)
        assert colour["difference"]["mean"] == pytest.approx((-2 - 2 - 8) / 3)
        assert colour["change"]["mean"] == pytest.approx(-0.5)
        assert colour["low"] <= colour["mean"] <= colour["high"]
        assert -8 <= colour["difference"]["low"] < colour["difference"]["high"] <= -2
        assert found["methods"]["stretch"]["psnr"]["mean"] == 36
        assert found["methods"]["identity"]["ciede2000"]["change"] == {"mean": 0, "low": 0, "high": 0}
        assert found["methods"]["stretch"]["ms_ssim"]["mean"] is None
        assert found["methods"]["stretch"]["ms_ssim"]["count"] == 0

    def test_a_constant_lead_has_no_spread(self) -> None:
        errors = list(np.random.default_rng(1).uniform(3, 20, 40))
        found = scores.summarise(rows({"identity": errors, "stretch": [error - 2 for error in errors]}))
        lead = found["methods"]["stretch"]["ciede2000"]["difference"]
        assert (lead["low"], lead["high"]) == (pytest.approx(-2), pytest.approx(-2))
        own = found["methods"]["stretch"]["ciede2000"]
        assert own["high"] - own["low"] > 1

    def test_order_does_not_matter(self) -> None:
        found = rows({"identity": [4.0, 8.0, 12.0, 1.0], "stretch": [2.0, 6.0, 4.0, 2.0]})
        shuffled = [*found[4:6], *found[:4], *found[6:]]
        first, second = scores.summarise(found), scores.summarise(sorted(shuffled, key=lambda r: str(r["method"])))
        assert first == second
        assert list(first["methods"]) == list(second["methods"]) == ["identity", "stretch"]

    def test_methods_in_the_order_of_the_tables(self) -> None:
        names = ["gan:no_caption", "lut", "cnn:no_reference", "gan", "cnn", "identity", "cnn:wrong_caption"]
        found = scores.summarise(rows({name: [1.0, 2.0] for name in names}))
        expected = ["identity", "lut", "cnn", "cnn:wrong_caption", "cnn:no_reference", "gan", "gan:no_caption"]
        assert list(found["methods"]) == expected

    def test_an_untouched_input(self) -> None:
        found = scores.summarise(rows({"identity": [0.0, 0.0], "stretch": [1.0, 2.0]}))
        untouched, stretched = (found["methods"][name] for name in ("identity", "stretch"))
        assert untouched["identical"] == 2
        assert untouched["psnr"] | {"difference": None} == {
            "mean": None,
            "low": None,
            "high": None,
            "count": 0,
            "difference": None,
        }
        assert stretched["ciede2000"]["change"]["mean"] is None
        assert stretched["ciede2000"]["difference"]["mean"] == 1.5

    def test_one_item_has_no_interval(self) -> None:
        colour = scores.summarise(rows({"identity": [4.0]}))["methods"]["identity"]["ciede2000"]
        assert (colour["mean"], colour["low"], colour["high"]) == (4.0, None, None)

    def test_a_missing_method_is_not_overlooked(self) -> None:
        with pytest.raises(ValueError, match="every method"):
            scores.summarise(rows({"identity": [4.0, 3.0], "stretch": [2.0]}))

    def test_against_no_caption(self) -> None:
        found = scores.summarise(rows({"identity": [9.0, 9.0], "cnn": [3.0, 5.0], "cnn:no_caption": [4.0, 6.0]}))
        assert found["methods"]["cnn"]["ciede2000"]["change_from_no_caption"]["mean"] == pytest.approx(-0.2)
        assert "change_from_no_caption" not in found["methods"]["identity"]["ciede2000"]
        assert "change_from_no_caption" not in found["methods"]["cnn:no_caption"]["ciede2000"]

    def test_without_a_part(self) -> None:
        found = scores.summarise(rows({"identity": [9.0, 9.0], "cnn": [3.0, 5.0], "cnn:no_field": [4.0, 6.0]}))
        assert found["methods"]["cnn:no_field"]["ciede2000"]["change_from_whole"]["mean"] == pytest.approx(0.25)
        assert "change_from_no_caption" not in found["methods"]["cnn:no_field"]["ciede2000"]
        assert "change_from_whole" not in found["methods"]["cnn"]["ciede2000"]
        text = scores.table(found, {"uneven": found}).split("## CIEDE2000 without a part, against the whole model\n\n")[
            1
        ]
        assert [cell.strip() for cell in text.splitlines()[0].split("|")] == ["", "without", "overall", "uneven", ""]
        assert [cell.strip() for cell in text.splitlines()[2].split("|")[1:4]] == ["cnn:no_field", "+25.0%", "+25.0%"]

    def test_coverage_of_stated_intervals(self) -> None:
        said = [(1.0, 2.0, 3.0), (2.0, 2.0, 3.0), (2.5, 2.0, 3.0), (9.0, 2.0, 3.0)]  # below, within, within, above
        found = [row(str(i), "identity", 9.0) for i in range(4)]
        found += [row(str(i), "model", e, error_low=low, error_high=high) for i, (e, low, high) in enumerate(said)]
        body = scores.summarise(found)
        assert body["methods"]["model"]["interval"] == {"within": 0.5, "below": 0.25, "above": 0.25}
        assert "interval" not in body["methods"]["identity"]
        assert "## Share of pictures within the stated 80% interval\n" in scores.table(body, {})

    def test_confidence(self) -> None:
        said = [(0.9, 1.0), (0.1, 9.0), (0.8, 3.0), (0.3, 5.0), (0.5, 4.0)]
        found = [row(str(i), "identity", 9.0) for i in range(5)]
        found += [row(str(i), "model", error, confidence=sure) for i, (sure, error) in enumerate(said)]
        confidence = scores.summarise(found)["methods"]["model"]["confidence"]
        assert confidence == {
            "mean": pytest.approx(0.52),
            "error_surer_half": 2.0,
            "error_other_half": 7.0,
            "rank_correlation": pytest.approx(-1.0),
        }

    def test_expected_error(self) -> None:
        found = rows({"identity": [9.0, 9.0]})
        found += [row("0000", "model", 6.0, expected_error=5.0), row("0001", "model", 3.0, expected_error=2.0)]
        body = scores.summarise(found)
        assert body["methods"]["model"]["expected_error"] == {
            "mean": 3.5,
            "error_surer_half": 3.0,
            "error_other_half": 6.0,
            "rank_correlation": pytest.approx(1.0),
        }
        line = next(line for line in scores.table(body, {}).splitlines() if "model expected_error" in line)
        assert [cell.strip() for cell in line.split("|")[2:7]] == ["3.50", "3.00", "6.00", "0.50", "1.00"]

    def test_damage_classes(self) -> None:
        truths = ["faded", "faded;noisy", "clean", None]
        probabilities = [{"faded": 0.9}, {"faded": 0.4, "noisy": 0.5}, {"clean": 0.8, "faded": 0.6}, {"faded": 1.0}]
        found = []
        for i, (truth, said) in enumerate(zip(truths, probabilities, strict=True)):
            damage = {f"damage_{name}": said.get(name, 0.0) for name in DAMAGE_CLASSES}
            extra = {"damage": truth} if truth else {}
            found += [row(str(i), "identity", 1.0), row(str(i), "model", 1.0, **damage) | {"extra": extra}]
        classes = scores.summarise(found)["methods"]["model"]["classes"]
        assert classes["items"] == 3
        assert classes["by_class"]["faded"] == {
            "true": 2,
            "accuracy": pytest.approx(1 / 3),
            "balanced_accuracy": pytest.approx((1 / 2 + 0) / 2),
        }
        assert classes["by_class"]["noisy"]["balanced_accuracy"] == 1
        assert classes["by_class"]["scratched"] == {"true": 0, "accuracy": 1.0, "balanced_accuracy": None}
        assert list(classes["confusion"]) == ["faded;noisy", "faded", "clean"]
        both = classes["confusion"]["faded;noisy"]
        assert (both["items"], both["said"]["faded"], both["said"]["noisy"], both["all_right"]) == (1, 0, 1, 0)
        assert classes["confusion"]["faded"]["all_right"] == 1
        assert classes["accuracy"] == pytest.approx(19 / 21)
        assert classes["balanced_accuracy"] == pytest.approx((0.25 + 1 + 1) / 3)


def test_table() -> None:
    overall = scores.summarise(rows({"identity": [4.0, 8.0], "stretch": [2.0, 6.0]}))
    text = scores.table(overall, {"mixed": scores.summarise(rows({"identity": [4.0]}))})
    first, second = text.split("## ")[1:]
    assert first.startswith("overall: 2 pictures\n\n| method ")
    assert second.startswith("mixed: 1 pictures\n")
    lines = first.strip().splitlines()[2:]
    assert len({len(line) for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["identity", "stretch"]
    assert "|   -33.3% |" in lines[3]
    assert lines[3].split("|")[9].strip() == "+2.00"
    some = scores.summarise(rows({"identity": [0.0, 8.0], "stretch": [2.0, 6.0]}))
    identity, stretch = scores.table(some, {}).split("## ")[1].strip().splitlines()[4:]
    assert identity.split("|")[7].strip() == "32.00*"  # of one picture: the other has none
    assert stretch.split("|")[7].strip() == "36.00"
    assert stretch.split("|")[9].strip() == "+2.00"  # over the one picture in which both have one
    assert scores.table({"items": 0, "methods": {}}, {}).startswith("## overall: 0 pictures\n\n| method ")


def test_groups_whose_names_look_alike() -> None:
    found = scores.summarise(rows({"identity": [4.0]}))
    text = scores.table(found, {"a\x1b": found, "a\\x1b": found, "b|c\nd": found})
    assert text.count("## a\\x1b: 1 pictures\n") == 2
    assert "## b\\|c\\nd: 1 pictures\n" in text
    assert "\x1b" not in text
