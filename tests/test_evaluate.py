"""`unfade evaluate` in process: every item with a target is scored by every method, and the counts add up."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import archives
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines import evaluate
from transforms import baselines, codecs, evaluation, methods, metrics
from transforms.baselines import BASELINES
from transforms.items import UsageError

MODELS = {"cnn": "a/b", "gan": "c"}


class TestMethods:
    def test_models(self) -> None:
        assert methods.parse_models("a/b") == {"model": "a/b"}
        assert methods.parse_models("a/b, c,") == {"model": "a/b", "model2": "c"}
        assert methods.parse_models("cnn=a/b,gan=gs://x/y=z") == {"cnn": "a/b", "gan": "gs://x/y=z"}
        assert methods.parse_models("runs/lr=3/model") == {"model": "runs/lr=3/model"}

    @pytest.mark.parametrize("given", ["", ",", "a=x,a=y", "identity=x", "oracle=x", "x,model=y"])
    def test_models_refused(self, given: str) -> None:
        with pytest.raises(UsageError, match="--model"):
            methods.parse_models(given)

    def test_names(self) -> None:
        def names(given: str) -> list[str]:
            return [method.name for method in methods.parse_methods(given, MODELS)]

        assert names("stretch") == ["identity", "stretch"]
        assert names("ace, stretch,ace,identity") == ["identity", "stretch", "ace"]
        assert names("baselines") == list(BASELINES)
        assert names("model") == ["identity", "cnn", "gan"]
        assert names("gan:no_caption,model") == ["identity", "cnn", "gan", "gan:no_caption"]
        assert names("model:wrong_caption") == ["identity", "cnn:wrong_caption", "gan:wrong_caption"]
        assert names("cnn:all") == ["identity", "cnn", "cnn:no_caption", "cnn:wrong_caption", "cnn:no_reference"]
        assert len(names("baselines,model:all")) == len(BASELINES) + 8
        assert names("gan:parts")[1:3] == ["gan", "gan:no_caption"]
        assert len(names("model:parts")) == 1 + 2 * 7
        assert names("oracle,cnn:no_field,stretch") == ["identity", "stretch", "oracle", "cnn:no_field"]
        [_, method] = methods.parse_methods("gan:no_reference", MODELS)
        assert method == methods.Method("gan:no_reference", "gan", "c", "no_reference")

    @pytest.mark.parametrize("given", ["streth", "model:caption", "cnn:", "identity,"[:-1] + "x"])
    def test_unknown(self, given: str) -> None:
        with pytest.raises(UsageError, match="is unknown; one of: identity, stretch"):
            methods.parse_methods(given, MODELS)


class TestWrongCaptions:
    @given(st.dictionaries(st.text(max_size=4), st.sampled_from(["", "a red door", "a harbour", "a cat"]), max_size=12))
    def test_another_and_never_none_where_there_is_one(self, captions: dict[str, str]) -> None:
        wrong = evaluation.wrong_captions(captions)
        assert wrong.keys() == captions.keys()
        for id, caption in captions.items():
            others = {other for other in captions.values() if other and other != caption}
            assert wrong[id] in others if others else wrong[id] == ""
        assert evaluation.wrong_captions(dict(reversed(captions.items()))) == wrong

    def test_spread_over_the_collection(self) -> None:
        captions = {f"item {i}": f"caption {i}" for i in range(50)}
        wrong = evaluation.wrong_captions(captions)
        assert sorted(wrong.values()) == sorted(captions.values())
        assert all(wrong[id] != caption for id, caption in captions.items())


class TestReduced:
    def test_area_means(self) -> None:
        pixels = np.repeat(np.repeat(archives.photograph(1, 8, 12), 4, axis=0), 4, axis=1)
        np.testing.assert_array_equal(evaluation.reduced(pixels, 12), pixels[::4, ::4])
        wide = pixels.astype(np.uint16) * 257
        np.testing.assert_array_equal(evaluation.reduced(wide, 12), wide[::4, ::4])
        assert evaluation.reduced(pixels, 48) is pixels
        assert evaluation.reduced(pixels[:1], 5).shape == (1, 5, 3)


class TestOverlap:
    def test_by_hand(self) -> None:
        found = np.zeros((4, 4), np.uint8)
        found[0, 0], found[0, 1], found[3, 3] = 200, 128, 127
        defects = np.zeros((6, 10), np.uint8)
        defects[0, 3], defects[5, 9], defects[2, 0] = 255, 128, 127  # cells (0, 1) and (3, 3)
        assert evaluation._overlap(found, defects) == pytest.approx(1 / 3)
        assert evaluation._overlap(found, np.zeros_like(defects)) == 0
        assert evaluation._overlap(np.zeros_like(found), np.zeros_like(defects)) is None
        assert evaluation._overlap(None, defects) is None
        assert evaluation._overlap(found, None) is None


def run(source: str, output: pathlib.Path, *more: str) -> int:
    given = ["--input", source, "--output", str(output), "--direct_num_workers", "1"]
    return evaluate.main([*given, *more])


def rows(output: pathlib.Path) -> dict[tuple[str, str], dict[str, Any]]:
    table = pq.read_table(output / "scores-00000-of-00001.parquet")
    return {(row["id"], row["method"]): row for row in table.to_pylist()}


def summary(output: pathlib.Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return body


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three good pairs of two regimes, one in 16 bits grey; one without a target, three that fail."""
    folder = tmp_path_factory.mktemp("pairs")
    truth = {seed: archives.photograph(seed, 180, 200) for seed in (1, 2)}
    for seed, pixels in truth.items():
        Image.fromarray(pixels).save(folder / f"truth{seed}.png")
        Image.fromarray(archives.faded(pixels)).save(folder / f"faded{seed}.jpg", quality=95)
    grey = archives.photograph(3, 180, 200)[..., 0].astype(np.uint16)
    Image.fromarray(grey * 200 + 9000).save(folder / "grey.tif")
    Image.fromarray(grey.astype(np.uint8)).save(folder / "grey-truth.png")
    defects = np.zeros((180, 200), np.uint8)
    defects[:, 50] = 255
    Image.fromarray(defects).save(folder / "defects.png")
    (folder / "broken.jpg").write_bytes((folder / "faded1.jpg").read_bytes()[:900])
    lines = [
        "id,image,target,caption,regime,damage,wrong_caption,defects",
        "one,faded1.jpg,truth1.png,a red door,cyan_loss,faded,,defects.png",
        "two,faded2.jpg,truth2.png,a harbour,cyan_loss,faded;yellowed,please invert",
        "grey,grey.tif,grey-truth.png,,other,monochrome,",
        "untrue,faded1.jpg,,a cat,other,,",
        "gone,faded9.jpg,truth1.png,a dog,other,,",
        "broken,broken.jpg,truth1.png,a goat,other,,",
        "other size,faded1.jpg,broken.jpg,a cow,other,,",
        "",
    ]
    (folder / "pairs.csv").write_text("\n".join(lines))
    return str(folder / "pairs.csv")


@pytest.fixture(scope="module")
def evaluated(
    pairs: str, saved_model: str, foreign_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    output = tmp_path_factory.mktemp("evaluated") / "out [1]"
    models = f"ours={saved_model},theirs={foreign_models['by caption']}"
    asked = "stretch,grey_world,oracle,oracle_even,model:all,ours:no_field,ours:no_curves,ours:no_detail"
    status = run(pairs, output, "--model", models, "--method", asked)
    assert status == 3
    return output


@pytest.mark.slow
class TestRun:
    def test_counts_add_up(self, evaluated: pathlib.Path) -> None:
        body = summary(evaluated)
        counts = body["counts"]
        assert counts == {"input": 7, "evaluated": 3, "skipped": 1, "failed": 3}
        assert counts["input"] == counts["evaluated"] + counts["skipped"] + counts["failed"]
        assert body["skipped"] == {"no target": 1}
        assert {name: group["count"] for name, group in body["errors"].items()} == {
            "read/NotFound": 1,
            "evaluate/Truncated": 1,
            "evaluate/TargetTruncated": 1,
        }
        assert body["overall"]["items"] == 3
        assert {name: group["items"] for name, group in body["groups"].items()} == {"cyan_loss": 2, "other": 1}
        assert set(body["models"]) == {"ours", "theirs"}
        found = rows(evaluated)
        assert len(found) == 3 * 16
        assert {id for id, _ in found} == {"one", "two", "grey"}
        assert (evaluated / "errors" / "errors-00000-of-00001.jsonl").read_text().count("\n") == 3

    def test_scores_are_those_of_fidelity(self, evaluated: pathlib.Path, pairs: str) -> None:
        folder = pathlib.Path(pairs).parent
        found = rows(evaluated)
        for id, image, target in [("one", "faded1.jpg", "truth1.png"), ("grey", "grey.tif", "grey-truth.png")]:
            pixels, truth = (codecs.decode((folder / name).read_bytes()).pixels for name in (image, target))
            eight = pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257).astype(np.uint8)
            for method, candidate in [("identity", pixels), ("stretch", baselines.stretch(eight))]:
                expected = metrics.fidelity(candidate, truth)
                for name, value in expected.items():
                    assert found[id, method][name] == pytest.approx(value), (id, method, name)
            assert found[id, "identity"]["ms_ssim"] is not None
        mean = np.mean([found[id, "stretch"]["ciede2000"] for id in ("one", "two", "grey")])
        assert summary(evaluated)["overall"]["methods"]["stretch"]["ciede2000"]["mean"] == pytest.approx(mean)

    def test_captions_of_the_variants(self, evaluated: pathlib.Path) -> None:
        found = rows(evaluated)
        assert {id: found[id, "ours"]["caption"] for id in ("one", "two", "grey")} == {
            "one": "a red door",
            "two": "a harbour",
            "grey": "",
        }
        assert {found[id, "ours:no_caption"]["caption"] for id in ("one", "two", "grey")} == {""}
        assert found["two", "ours:wrong_caption"]["caption"] == "please invert"
        wrong = found["one", "ours:wrong_caption"]["caption"]
        assert wrong in {"a harbour", "a dog", "a goat", "a cow"}
        # The foreign model inverts the picture where the caption says so: the caption arrives.
        assert found["two", "theirs"]["ciede2000"] == found["two", "identity"]["ciede2000"]
        assert found["two", "theirs:wrong_caption"]["ciede2000"] > 20

    def test_what_the_model_said(self, evaluated: pathlib.Path) -> None:
        found = rows(evaluated)
        ours, theirs, plain = (found["one", method] for method in ("ours", "theirs", "stretch"))
        assert 0 <= ours["confidence"] <= 1
        assert ours["damage"] in {"faded", "cast", "yellowed", "monochrome", "noisy", "scratched", "clean"}
        assert ours["damage_faded"] is not None
        assert (theirs["confidence"], plain["confidence"], plain["damage"]) == (None, None, None)
        assert ours["model_sha256"] != theirs["model_sha256"]
        assert plain["model_sha256"] is None
        assert (ours["extra_damage"], ours["regime"], ours["group"]) == ("faded", "cyan_loss", "cyan_loss")
        said = summary(evaluated)["overall"]["methods"]
        assert said["ours"]["classes"]["by_class"]["faded"]["true"] == 2
        assert "classes" not in said["theirs"]
        assert "error_other_half" in said["ours"]["confidence"]

    def test_parts_and_defects(self, evaluated: pathlib.Path) -> None:
        found, said = rows(evaluated), summary(evaluated)["overall"]["methods"]
        for part in ("field", "curves", "detail"):
            one, whole = found["one", f"ours:no_{part}"], found["one", "ours"]
            assert one["expected_error"] == whole["expected_error"]
            if part != "detail":  # which, untrained, finds less noise than is worth taking out
                assert one["psnr"] != whole["psnr"], part
            assert said[f"ours:no_{part}"]["ciede2000"]["change_from_whole"]["mean"] is not None
        assert 0 <= found["one", "ours"]["defect_iou"] < 1
        assert found["two", "ours"]["defect_iou"] is found["one", "identity"]["defect_iou"] is None
        assert said["ours"]["defect_iou"]["count"] == 1

    def test_the_oracle_is_far_better_than_the_input(self, evaluated: pathlib.Path) -> None:
        found = rows(evaluated)
        for id in ("one", "two", "grey"):
            known, even, given = (found[id, name]["ciede2000"] for name in ("oracle", "oracle_even", "identity"))
            assert known < 0.35 * given, id
            assert even < 0.5 * given, id
            assert known < 1.1 * even + 0.1, id

    def test_grey_files_stay_grey(self, evaluated: pathlib.Path) -> None:
        found = rows(evaluated)["grey", "grey_world"]
        assert found["ciede2000"] < 30
        assert found["width"] == 200

    def test_table(self, evaluated: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = (evaluated / "table.md").read_text()
        for title in ("overall: 3 pictures", "cyan_loss: 2 pictures", "other: 1 pictures", "Damage classes by ours"):
            assert f"## {title}\n" in text
        for method in ("identity", "stretch", "ours:no_caption", "theirs:no_reference"):
            assert f"| {method} " in text

    def test_again_the_same_bytes(
        self, pairs: str, saved_model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--model", saved_model, "--method", "model,ace", "--max_side", "64", "--group_by", "damage")
        assert run(pairs, tmp_path / "a", *arguments) == 3
        printed = capsys.readouterr().out
        assert "1 of 7 items have no target: skipped" in printed
        assert "| model " in printed
        assert run(pairs, tmp_path / "b", *arguments, "--direct_runner_bundle_repeat", "2") == 3
        for name in ("scores-00000-of-00001.parquet", "table.md"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert set(summary(tmp_path / "a")["groups"]) == {"faded", "faded;yellowed", "monochrome"}
        found = rows(tmp_path / "a")["one", "model"]
        assert (found["width"], found["height"]) == (64, 58)
        with pytest.raises(UsageError, match="already holds finished results"):
            run(pairs, tmp_path / "a", *arguments)
        assert run(pairs, tmp_path / "a", "--method", "stretch", "--max_side", "32", "--overwrite") == 3
        assert {method for _, method in rows(tmp_path / "a")} == {"identity", "stretch"}

    def test_nothing_to_compare_with(
        self, pairs: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = pathlib.Path(pairs).parent
        (folder / "untrue.csv").write_text("image\nfaded1.jpg\nfaded2.jpg\n")
        assert run(str(folder / "untrue.csv"), tmp_path / "out", "--method", "stretch") == 0
        assert summary(tmp_path / "out")["counts"] == {"input": 2, "evaluated": 0, "skipped": 2, "failed": 0}
        assert "2 of 2 items have no target: skipped" in capsys.readouterr().out


class TestBadUsage:
    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (("--method", "magic"), "--method magic is unknown"),
            (("--model", "a=x,a=y"), "label a is taken"),
            (("--model", "nowhere"), "--model nowhere does not exist"),
            (("--max_side", "-1"), "--max_side"),
            (("--size_multiple", "0"), "--size_multiple"),
        ],
    )
    def test_told_before_any_work(self, pairs: str, tmp_path: pathlib.Path, more: tuple[str, ...], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            run(pairs, tmp_path / "out", *more)
        assert not (tmp_path / "out").exists()

    def test_flags_of_restore_alone(self, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            run("pairs.csv", tmp_path / "out", "--no_history")
        assert caught.value.code == 2
        assert "unknown option --no_history" in capsys.readouterr().err

    @pytest.mark.slow
    def test_prepared_records(self, prepared: str, tmp_path: pathlib.Path) -> None:
        with pytest.raises(UsageError, match="takes the pairs that they were prepared from"):
            run(prepared, tmp_path / "out")
