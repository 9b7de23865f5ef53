"""The builder of test sets: repeatable, truthful about what it did, and fair where nothing is to be done."""

from __future__ import annotations

import csv
import pathlib
import sys

import archives
import numpy as np
import pytest
from PIL import Image

from models.contract import DAMAGE_CLASSES
from transforms import metrics, pairs
from transforms.items import Pair

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from corpus import make_test

Rows = dict[str, dict[str, str]]


def make(corpus: pathlib.Path, output: pathlib.Path, *more: str) -> Rows:
    make_test.main(["--input", str(corpus), "--output", str(output), "--side", "128", *more])
    with (output / "pairs.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Four colour photographs of `test`; one of another split, one monochrome, one cut-out."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = ["image,caption,colours,kind,monochrome,people,source,split"]
    kinds = [("photo", 0, "test")] * 4 + [("photo", 0, "train"), ("photo", 1, "test"), ("cutout", 0, "test")]
    for number, (kind, monochrome, split) in enumerate(kinds):
        Image.fromarray(archives.photograph(number, 180, 256)).save(folder / f"p{number}.jpg", quality=95)
        lines.append(f'p{number}.jpg,picture {number},"red {number}, blue",{kind},{monochrome},1,npm:x,{split}')
    (folder / "corpus.csv").write_text("\n".join(lines))
    return folder / "corpus.csv"


@pytest.fixture(scope="module")
def folder(corpus: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("set") / "test"
    make(corpus, folder)
    return folder


@pytest.fixture(scope="module")
def rows(folder: pathlib.Path) -> Rows:
    with (folder / "pairs.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def below(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(folder: pathlib.Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / name).convert("RGB"))


def test_same_input_same_bytes(corpus: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    make(corpus, tmp_path / "again")
    assert below(tmp_path / "again") == below(folder)
    one = make(corpus, tmp_path / "one", "--regimes", "uneven")
    assert below(tmp_path / "one")["images/uneven/p2.jpg"] == below(folder)["images/uneven/p2.jpg"]
    assert len(one) == 4
    make(corpus, tmp_path / "other", "--seed", "1", "--regimes", "uneven")
    assert below(tmp_path / "other")["images/uneven/p2.jpg"] != below(folder)["images/uneven/p2.jpg"]


def test_which_photographs(rows: Rows) -> None:
    assert set(rows) == {f"{regime}/p{number}" for regime in make_test.REGIMES for number in range(4)}


def test_it_is_a_manifest(folder: pathlib.Path, rows: Rows) -> None:
    found = list(pairs.read(str(folder / "pairs.csv")))
    assert all(isinstance(pair, Pair) and pair.target for pair in found)
    assert len(found) == len(rows)
    for row in rows.values():
        for column in ("image", "target", "reference", "defects"):
            assert not row[column] or (folder / row[column]).is_file(), row["id"]
        picture, target = (pixels(folder, row[column]) for column in ("image", "target"))
        assert picture.shape == target.shape
        assert max(picture.shape) <= 128


def test_undamaged_is_the_target(folder: pathlib.Path, rows: Rows) -> None:
    for number in range(4):
        row = rows[f"undamaged/p{number}"]
        assert row["target"] == row["image"]
        truth = pixels(folder, rows[f"mixed/p{number}"]["target"])
        assert metrics.fidelity(pixels(folder, row["image"]), truth)["ciede2000"] < 1.5  # JPEG alone


def test_damage_is_damage(folder: pathlib.Path, rows: Rows) -> None:
    for regime in make_test.REGIMES:
        errors = []
        for number in range(4):
            row = rows[f"{regime}/p{number}"]
            errors.append(metrics.fidelity(pixels(folder, row["image"]), pixels(folder, row["target"]))["ciede2000"])
        assert regime == "undamaged" or np.mean(errors) > 3, regime


def test_classes(rows: Rows) -> None:
    expected = {
        "undamaged": {"clean"},
        "monochrome": {"monochrome"},
        "yellowed": {"yellowed"},
        "cast": {"cast"},
        "aged": {"faded", "noisy", "scratched"},
        "cyan_loss": {"faded"},
    }
    for row in rows.values():
        damage = set(row["damage"].split(";"))
        assert damage <= set(DAMAGE_CLASSES)
        assert expected.get(row["regime"], {"faded"}) <= damage
        assert bool(row["defects"]) == ("scratched" in damage)
        assert bool(row["held_out"]) == ("faded" in damage)


def test_fading_in_numbers() -> None:
    drawn = [make_test.fading(make_test.generator(3, str(number))) for number in range(2000)]
    shares = np.array([sorted(recipe.left) for recipe in drawn])
    assert 0.25 <= shares[:, 0].min() < 0.27
    assert 0.83 < shares[:, 0].max() <= 0.85
    assert (shares[:, 1] >= 0.5).all()
    assert (shares[:, 2] >= 0.8).all()
    assert (shares <= 1).all()
    for recipe in drawn:
        left = dict(zip(make_test.DYES, recipe.left, strict=True))
        band = 0.40 <= min(left.values()) < 0.55
        turned = left["magenta"] < left["yellow"] < left["cyan"]
        assert make_test.is_held_out(recipe) == (band or turned)
    # A quarter of the shares and a sixth of the orders.
    assert np.mean([make_test.is_held_out(recipe) for recipe in drawn]) == pytest.approx(0.25 + 0.75 / 6, abs=0.03)


@pytest.mark.parametrize(("regime", "fastest"), [("cyan_loss", "cyan"), ("yellow_loss", "yellow")])
def test_the_named_dye_fades_most(folder: pathlib.Path, rows: Rows, regime: str, fastest: str) -> None:
    lightened = np.zeros(3)
    for number in range(4):
        row = rows[f"{regime}/p{number}"]
        assert row["fastest"] == fastest
        difference = pixels(folder, row["image"]).astype(float) - pixels(folder, row["target"])
        lightened += difference.mean(axis=(0, 1))
    assert np.argmax(lightened) == make_test.DYES.index(fastest)


def test_monochrome_lost_its_colours_only(folder: pathlib.Path, rows: Rows) -> None:
    row = rows["monochrome/p1"]
    picture, target = (pixels(folder, row[column]).astype(int) for column in ("image", "target"))
    assert np.ptp(picture, axis=2).max() <= 1
    assert np.ptp(target, axis=2).max() > 50
    assert np.corrcoef(picture[..., 1].ravel(), target.mean(axis=2).ravel())[0, 1] > 0.8
    assert Image.open(folder / row["image"]).mode == "RGB"  # as a grey file it would have to come back grey


def test_defects_are_where_the_mask_is(folder: pathlib.Path) -> None:
    rng = make_test.generator(0, "x")
    recipe = make_test.dataclasses.replace(make_test.fading(rng), dust=20, scratches=3)
    gone, dirt = make_test.ageing.wear_mask(recipe, rng, 100, 120)
    density = np.full((100, 120, 3), 1.0)
    worn = make_test.ageing.wear(density, recipe, gone, dirt)
    mask = np.maximum(gone, dirt)[..., 0]
    assert (np.abs(worn - density).max(axis=2) > 0).any()
    np.testing.assert_array_equal(np.abs(worn - density).max(axis=2) > 0, mask > 0)
    assert (worn < density).any()
    assert (worn > density).any()


def test_captions(rows: Rows) -> None:
    for row in rows.values():
        number = row["photograph"][1:]
        assert row["caption"] == f"picture {number}; red {number}, blue"
        assert row["wrong_caption"].startswith("picture ")
        assert row["wrong_caption"] != row["caption"]
    assert len({row["wrong_caption"] for row in rows.values()}) == 4


def test_references(folder: pathlib.Path, rows: Rows) -> None:
    for number in range(4):
        related, unrelated = (rows[f"reference_{kind}/p{number}"] for kind in ("related", "unrelated"))
        assert related["image"] == unrelated["image"]
        assert related["target"] == unrelated["target"]
        whole = pixels(folder, rows[f"mixed/p{number}"]["target"])
        half = pixels(folder, related["target"])
        np.testing.assert_array_equal(half, whole[:, : half.shape[1]])
        rest = pixels(folder, related["reference"])
        assert metrics.fidelity(rest, np.ascontiguousarray(whole[:, half.shape[1] :]))["ciede2000"] < 1.5
        other = pathlib.Path(unrelated["reference"]).stem
        assert rows[f"mixed/{other}"]["caption"] == unrelated["wrong_caption"]
        assert other != f"p{number}"


def test_bad_usage(corpus: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make(corpus, tmp_path, "--regimes", "mixed,sunshine")
    assert caught.value.code == 2
    assert "unknown sunshine" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="at least 2"):
        make(corpus, tmp_path, "--split", "train")
