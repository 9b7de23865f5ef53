"""`unfade restore` in process: every good picture comes back as its own kind of file, every bad one is on the list."""

from __future__ import annotations

import collections
import io
import json
import os
import pathlib
import shutil
from typing import Any

import archives
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pillow_files import ICC, exif_block, file_of

from models import loading, vetting
from models.contract import DAMAGE_CLASSES
from models.decision import Decision as Said
from pipelines import restore
from transforms import codecs, containers, decisions, outputs, previews, records, storage
from transforms.decisions import Decision
from transforms.items import Pair, UsageError
from transforms.report import PAGE

pytestmark = pytest.mark.slow

# `restore` decodes a target only when it has something to compare with it.
BAD_STAGES = {"wrong-target": "write"}


def run(source: str, output: pathlib.Path | str, model: str, *more: str) -> int:
    given = ["--input", source, "--output", str(output), "--model", model, "--direct_num_workers", "1"]
    return restore.main([*given, *more])


def below(folder: pathlib.Path | str) -> dict[str, bytes]:
    root = pathlib.Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def images(folder: pathlib.Path | str) -> dict[str, bytes]:
    return below(pathlib.Path(folder) / "images")


def summary(folder: pathlib.Path | str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((pathlib.Path(folder) / "summary.json").read_text())
    return body


def rows(folder: pathlib.Path | str) -> dict[str, dict[str, Any]]:
    table = pq.read_table(pathlib.Path(folder) / "metrics" / "metrics-00000-of-00001.parquet")
    return {row["id"]: row for row in table.to_pylist()}


def errors(folder: pathlib.Path | str) -> list[dict[str, Any]]:
    path = pathlib.Path(folder) / "errors" / "errors-00000-of-00001.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def restored(archive: archives.Archive, saved_model: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The hostile archive, restored once; small batches, so that good and bad share them."""
    output = tmp_path_factory.mktemp("restored") / "out [1] 港"
    assert run(archive.manifest, output, saved_model, "--max_batch_size", "5") == 3
    return output


class TestHostileArchive:
    def test_output_tree(self, archive: archives.Archive, restored: pathlib.Path) -> None:
        found = set(below(restored))
        report = {name for name in found if name.startswith("report/")}
        assert found - report == {
            *(f"images/{name}" for name in archive.good.values()),
            "metrics/metrics-00000-of-00001.parquet",
            "errors/errors-00000-of-00001.jsonl",
            "summary.json",
        }
        small = ("-before.jpg", "-after.jpg", "-unsure.png", "-defects.png")
        assert {name for name in report if name.startswith("report/previews/")} == {
            previews.place(id) + kind for id in archive.good for kind in small
        }
        assert {f"report/{name}" for name in (*PAGE, "data/index.js", "data/items-00000.js")} <= report

    def test_every_bad_item_is_on_the_list(self, archive: archives.Archive, restored: pathlib.Path) -> None:
        found = errors(restored)
        expected = [(id, BAD_STAGES.get(id, stage), error) for id, stage, error in archive.bad]
        assert sorted((e["id"], e["stage"], e["error"]) for e in found) == sorted(expected)
        for error in found:
            assert set(error) == {"id", "uri", "stage", "error", "message", "retryable"}
            assert error["uri"].startswith(str(archive.folder))
            assert "\n" not in error["message"]

    def test_counts_add_up(self, archive: archives.Archive, restored: pathlib.Path) -> None:
        body = summary(restored)
        counts = body["counts"]
        assert counts == {"input": 22, "restored": 12, "skipped": 0, "failed": 10}
        assert counts["input"] == counts["restored"] + counts["skipped"] + counts["failed"]
        assert sum(group["count"] for group in body["errors"].values()) == counts["failed"]
        assert len(rows(restored)) == counts["restored"] == len(images(restored))
        assert len(errors(restored)) == counts["failed"]

    def test_summary(self, restored: pathlib.Path, saved_model: str) -> None:
        body = summary(restored)
        assert body["command"] == "restore"
        assert body["model_sha256"] == vetting.digest(saved_model)
        assert body["with_target"] == 1
        assert 0 < body["confidence"] <= 1
        assert body["options"]["max_batch_size"] == 5
        assert {"psnr", "ssim", "ciede2000", "colourfulness"} <= set(body["quality"]["before"]) & set(
            body["quality"]["after"]
        )
        assert body["pictures_per_second"] > 0
        taken = body["stages"]
        items = {name: stage["items"] for name, stage in taken.items()}
        failures = collections.Counter(error["stage"] for error in errors(restored))
        tried = 22 - failures["input"]
        assert items["read"] == tried
        assert items["decode"] == tried - failures["read"]
        assert items["decide"] == items["inference"] == items["decode"] - failures["decode"]
        assert items["write"] == items["inference"] - failures["inference"] == 12 + failures["write"]
        assert items["store_read"] >= items["read"]
        assert items["store_write"] >= 12 * 5  # the picture and its small ones
        assert items["measure"] == items["inference"] - failures["inference"]
        assert taken["measure"]["seconds"] < taken["write"]["seconds"]
        within = ("store_read", "store_write", "measure")  # of other steps
        whole = sum(stage["seconds"] for name, stage in taken.items() if name not in within)
        assert 0 < whole < body["seconds"] * 1.01
        assert all(0 < stage["slowest"] <= stage["seconds"] for stage in taken.values())
        assert body["machine"] == {"workers": 1, "cores": os.cpu_count(), "gpus": 0}
        pictures = rows(restored).values()
        assert body["megapixels"] == pytest.approx(sum(row["width"] * row["height"] for row in pictures) / 1e6)
        found = rows(restored).values()
        for name in ("colourfulness", "density_range"):
            mean = np.mean([row[f"after_{name}"] for row in found])
            assert body["quality"]["after"][name] == pytest.approx(mean)
        assert body["quality"]["after"]["psnr"] == pytest.approx(rows(restored)["faded"]["psnr"])

    def test_each_file_is_still_the_archives_file(self, archive: archives.Archive, restored: pathlib.Path) -> None:
        sources = {id: row["uri"] for id, row in rows(restored).items()}
        for id, name in archive.good.items():
            before = Image.open(sources[id])
            after = Image.open(restored / "images" / name)
            assert after.size == before.size, id
            assert after.format == {"GIF": "PNG"}.get(str(before.format), before.format), id
            expected = {"1": "L", "P": "RGB"}.get(before.mode, before.mode)
            assert after.mode == expected, id
            after.load()
        whole = Image.open(restored / "images" / "faded.jpg")
        assert whole.info["icc_profile"] == ICC
        assert dict(whole.getexif()) == dict(exif_block(orientation=6))
        assert whole.info["dpi"] == (300, 300)
        scan = Image.open(restored / "images" / "box 1/scan [1].tif")
        assert scan.info["compression"] == "tiff_lzw"
        assert scan.info["dpi"] == (600, 600)
        assert scan.tag_v2[270] == "embedded harbour"  # type: ignore[attr-defined]

    def test_pixels_are_what_the_model_gives(
        self, archive: archives.Archive, restored: pathlib.Path, saved_model: str
    ) -> None:
        model = loading.load(saved_model)
        row = rows(restored)["again"]
        picture = codecs.decode(pathlib.Path(row["uri"]).read_bytes())
        [decision] = model.decide(
            codecs.thumbnail(picture.pixels)[None], [row["caption"]], np.zeros((1, 64), np.float32)
        )
        expected = model.apply(picture.pixels, decision.as_wished("never", clean=True))
        written = codecs.decode(images(restored)[archive.good["again"]]).pixels
        assert np.abs(written.astype(int) - expected).max() <= 1
        assert not np.array_equal(written, picture.pixels)

    def test_metrics_schema(self, restored: pathlib.Path) -> None:
        schema = pq.read_schema(restored / "metrics" / "metrics-00000-of-00001.parquet")
        assert schema.names == [*outputs.COLUMNS.names, "extra_format", "year"]
        assert {str(schema.field(name).type) for name in ("id", "uri", "damage", "model_sha256", "year")} == {"string"}
        quality = ("colourfulness", "cast_a", "cast_b", "density_range", "noise", "clipped", "sharpness")
        golden = {
            *("id", "uri", "output", "format", "width", "height", "bits", "caption", "sha256_in", "sha256_out"),
            *("psnr", "ssim", "ms_ssim", "ciede2000", "input_psnr", "input_ciede2000", "identical"),
            *("confidence", "damage", "model_sha256"),
            *(f"damage_{name}" for name in DAMAGE_CLASSES),
            *(f"{when}_{name}" for when in ("before", "after") for name in quality),
        }
        assert golden <= set(schema.names)

    def test_metrics_rows(self, archive: archives.Archive, restored: pathlib.Path, saved_model: str) -> None:
        found = rows(restored)
        assert list(found) == sorted(archive.good)
        for id, row in found.items():
            name = archive.good[id]
            written = images(restored)[name]
            source = pathlib.Path(row["uri"]).read_bytes()
            assert row["output"] == f"images/{name}"
            assert (row["sha256_in"], row["bytes_in"]) == (records.sha256(source), len(source))
            assert (row["sha256_out"], row["bytes_out"]) == (records.sha256(written), len(written))
            assert (row["width"], row["height"]) == Image.open(io.BytesIO(source)).size
            assert row["model_sha256"] == vetting.digest(saved_model)
            assert 0 <= row["confidence"] <= 1
            assert row["damage"] == max(DAMAGE_CLASSES, key=lambda kind, row=row: row[f"damage_{kind}"])
            assert all(row[f"{when}_{name}"] is not None for when in ("before", "after") for name in outputs.QUALITY)
            assert (row["psnr"] is not None) == (id == "faded")
        assert found["box 1/deep.tif"]["bits"] == 16
        assert found["box 1/scan [1]"]["caption"] == archives.NAGASAKI
        assert found["again"]["caption"] == "embedded harbour"
        assert (found["faded"]["year"], found["faded"]["extra_format"]) == ("1865", "print")
        assert found["faded"]["format"] == "JPEG"
        assert found["faded"]["input_psnr"] > 5
        assert found["faded"]["psnr"] != found["faded"]["input_psnr"]
        assert found["faded"]["identical"] is False

    def test_report(self, restored: pathlib.Path) -> None:
        index = (restored / "report/data/index.js").read_text()
        assert archives.NAGASAKI in (restored / "report/data/items-00000.js").read_text()
        assert '"items":22,"restored":12' in index
        assert "decode/NotAnImage" in index
        sizes = {id: Image.open(restored / f"{previews.place(id)}-after.jpg").size for id in ("faded", "line.png")}
        assert sizes == {"faded": (90, 120), "line.png": (640, 1)}  # the first upright, as EXIF says; as large as it is

    def test_timeline(self, restored: pathlib.Path) -> None:
        timeline = summary(restored)["timeline"]
        assert sum(count for _, count in timeline["restored"]) == 12
        assert all(start >= timeline["began"] - timeline["seconds"] for start, _ in timeline["restored"])


class TestAgain:
    def test_redone_to_the_same_bytes(
        self,
        archive: archives.Archive,
        restored: pathlib.Path,
        saved_model: str,
        tmp_path: pathlib.Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = tmp_path / "copy [1]"
        shutil.copytree(restored, output)
        before = below(output)
        with pytest.raises(UsageError, match="does not exist"):
            run(archive.manifest, output, f"{tmp_path}/no model", "--overwrite")
        assert below(output) == before

        storage.write_bytes(f"{output}/metrics/metrics-00001-of-00002.parquet", b"of an earlier run")
        more = ("--overwrite", "--direct_runner_bundle_repeat", "2", "--max_error_fraction", "0.5")
        assert run(archive.manifest, output, saved_model, *more) == 0  # half fail, and half may
        assert "over --max_error_fraction" not in capsys.readouterr().err
        after = below(output)
        assert images(output) == images(restored)
        for name in ("metrics/metrics-00000-of-00001.parquet", "errors/errors-00000-of-00001.jsonl"):
            assert after[name] == before[name], name
        assert set(after) == set(before)
        assert summary(output)["counts"] == summary(restored)["counts"]

    def test_from_records(
        self, archive: archives.Archive, archive_records: str, restored: pathlib.Path, saved_model: str, tmp_path: Any
    ) -> None:
        """Prepared records give the same pictures, scores and carried columns as the pairs they came from."""
        assert run(archive_records, tmp_path / "out", saved_model) == 0
        assert images(tmp_path / "out") == images(restored)
        assert summary(tmp_path / "out")["counts"] == {"input": 12, "restored": 12, "skipped": 0, "failed": 0}
        assert errors(tmp_path / "out") == []
        from_pairs, from_records = rows(restored), rows(tmp_path / "out")
        assert list(from_records) == list(from_pairs)
        for row in (*from_pairs.values(), *from_records.values()):
            assert len(row.pop("fingerprint")) == 32  # the one knows a file's time, the other its digest
        assert from_records == from_pairs

    def test_records_that_are_not_finished(self, archive_records: str, saved_model: str, tmp_path: Any) -> None:
        shutil.copytree(archive_records, tmp_path / "records")
        [first, *_] = sorted((tmp_path / "records").glob("*.tfrecord"))
        first.unlink()
        with pytest.raises(UsageError, match=f"{first.name} is listed in _SUCCESS but missing"):
            run(f"{tmp_path}/records", tmp_path / "out", saved_model)

    def test_a_bad_record_fails_alone(self, archive_records: str, saved_model: str, tmp_path: Any) -> None:
        serialized = [record.numpy() for record in _dataset(archive_records)]
        records.write_shard(f"{tmp_path}/r/a.tfrecord", [serialized[0], b"\x0a\x03 no", serialized[1]])
        records.write_success(f"{tmp_path}/r", ["a.tfrecord"], 3)
        assert run(f"{tmp_path}/r", tmp_path / "out", saved_model) == 3
        assert summary(tmp_path / "out")["counts"] == {"input": 3, "restored": 2, "skipped": 0, "failed": 1}
        [error] = errors(tmp_path / "out")
        assert (error["stage"], error["error"]) == ("read", "BadRecord")

    def test_a_shard_that_is_cut_off_is_told(self, archive_records: str, saved_model: str, tmp_path: Any) -> None:
        shutil.copytree(archive_records, tmp_path / "records")
        [first, *_] = sorted((tmp_path / "records").glob("*.tfrecord"))
        first.write_bytes(first.read_bytes()[:-100])
        with pytest.raises(Exception, match="prepare"):
            run(f"{tmp_path}/records", tmp_path / "out", saved_model)


def _dataset(folder: str) -> Any:
    import tensorflow as tf

    return tf.data.TFRecordDataset(records.shards_in(folder))


class TestForeign:
    @pytest.fixture
    def folder(self, tmp_path: pathlib.Path) -> pathlib.Path:
        """Pictures without a manifest: one has its caption beside it."""
        folder = tmp_path / "in"
        for name, seed in (("a.png", 1), ("deep/b.png", 2)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(file_of(Image.fromarray(archives.photograph(seed, 13, 21)), "PNG"))
        (folder / "deep/b.txt").write_text("please invert this")
        return folder

    def test_caption_decides(self, folder: pathlib.Path, foreign_models: dict[str, str], tmp_path: Any) -> None:
        assert run(str(folder), tmp_path / "out", foreign_models["by caption"]) == 0
        plain, inverted = (codecs.decode(images(tmp_path / "out")[name]).pixels for name in ("a.png", "deep/b.png"))
        np.testing.assert_array_equal(plain, archives.photograph(1, 13, 21))
        np.testing.assert_array_equal(inverted, 255 - archives.photograph(2, 13, 21))
        row = rows(tmp_path / "out")["deep/b.png"]
        assert (row["confidence"], row["damage"], row["caption"]) == (None, None, "please invert this")
        assert summary(tmp_path / "out")["confidence"] is None

    def test_without_captions_and_with_a_size_multiple(
        self, folder: pathlib.Path, foreign_models: dict[str, str], tmp_path: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = foreign_models["eights"]
        assert run(f"{folder}/*.png", tmp_path / "out", model, "--size_multiple", "8") == 0
        [written] = images(tmp_path / "out").values()
        np.testing.assert_array_equal(codecs.decode(written).pixels, 255 - archives.photograph(1, 13, 21))
        assert capsys.readouterr().err.lower().count("captions are ignored") == 1

    def test_a_model_that_fails_every_time(
        self, folder: pathlib.Path, foreign_models: dict[str, str], tmp_path: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(str(folder), tmp_path / "out", foreign_models["not finite"]) == 3
        assert "2 of 2 items failed" in capsys.readouterr().err
        assert {(e["stage"], e["error"]) for e in errors(tmp_path / "out")} == {("inference", "ModelFailed")}
        assert images(tmp_path / "out") == {}
        assert summary(tmp_path / "out")["counts"] == {"input": 2, "restored": 0, "skipped": 0, "failed": 2}


def test_no_original_is_written_over(foreign_models: dict[str, str], tmp_path: Any) -> None:
    """A manifest may name pictures where this run writes, or give such ids: they fail, and stay as they are."""
    output, model = tmp_path / "out", foreign_models["inverted"]
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        (output / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(archives.photograph(seed, 20, 30)).save(output / "images" / name)
    before = below(output)
    (tmp_path / "link.png").symlink_to("out/images/b.png")
    lines = ("image,id,target", "out/images/a.png,a.png,", "link.png,b.png,", "out/images/a.png,c,out/images/c.png")
    (tmp_path / "m.csv").write_text("\n".join((*lines, "out/images/a.png,new/a.png,")))
    assert run(f"{tmp_path}/m.csv", output, model) == 3
    assert {error["id"]: error["error"] for error in errors(output)} == dict.fromkeys(
        ("a.png", "b.png", "c"), "OverwritesInput"
    )
    assert images(output) == {**images(output), **{name.removeprefix("images/"): data for name, data in before.items()}}
    assert set(rows(output)) == {"new/a.png"}
    with pytest.raises(UsageError, match="would replace it; name another --output"):
        run(f"{output}/images", output, model)


class TestColourise:
    @pytest.mark.parametrize(
        ("flags", "coloured"),
        [
            ((), set()),
            (("--colourise", "caption"), {"red.jpg"}),
            (("--colourise", "always", "--keep_grain"), {"red.jpg", "plain.jpg", "deep.tif"}),
        ],
    )
    def test_grey_files(self, saved_model: str, tmp_path: Any, flags: tuple[str, ...], coloured: set[str]) -> None:
        """A grey file keeps its one channel, unless its picture is given colours."""
        folder = tmp_path / "in"
        folder.mkdir()
        grey = archives.photograph(4, 80, 90)[..., 1]
        for name, caption in (("red", "A red door"), ("plain", "A door")):
            (folder / f"{name}.jpg").write_bytes(file_of(Image.fromarray(grey), "JPEG", quality=90))
            (folder / f"{name}.txt").write_text(caption)
        (folder / "deep.tif").write_bytes(file_of(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"))
        (folder / "colour.jpg").write_bytes(file_of(Image.fromarray(archives.photograph(4, 80, 90)), "JPEG"))
        assert run(str(folder), tmp_path / "out", saved_model, *flags) == 0
        found, written = rows(tmp_path / "out"), images(tmp_path / "out")
        assert sorted(found) == ["colour.jpg", "deep.tif", "plain.jpg", "red.jpg"]
        for name in ("red.jpg", "plain.jpg", "deep.tif"):
            picture, row = codecs.decode(written[name]), found[name]
            assert picture.grey == (name not in coloured), name
            assert picture.bits == (16 if name == "deep.tif" else 8)
            assert (np.ptp(picture.pixels.astype(int), axis=-1).max() > 0) == (name in coloured), name
            assert row["colour_invented"] == float(name in coloured)
            assert row["colour_class"] == ("invented" if name in coloured else "measured")
            assert (row["invented_error"] is not None) == (name in coloured)
            assert ("was given colours" in (row["notes"] or "")) == (name in coloured)
        assert not codecs.decode(written["colour.jpg"]).grey
        assert found["colour.jpg"]["colour_invented"] == 0
        if coloured:
            assert Image.open(io.BytesIO(written["red.jpg"])).mode == "RGB"
        else:
            assert Image.open(io.BytesIO(written["red.jpg"])).mode == "L"
            assert b"colours=measured" in written["red.jpg"]


class TestFiles:
    """How files are written, by flags, and inputs that are no folder."""

    @pytest.fixture
    def folder(self, tmp_path: pathlib.Path) -> pathlib.Path:
        folder = tmp_path / "in"
        folder.mkdir()
        image = Image.fromarray(archives.photograph(1, 80, 90))
        whole = file_of(image, "JPEG", quality=90)
        (folder / "a.jpg").write_bytes(whole)
        (folder / "b.gif").write_bytes(file_of(image.quantize(32), "GIF"))
        (folder / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
        return folder

    def test_history(self, folder: pathlib.Path, foreign_models: dict[str, str], tmp_path: Any) -> None:
        model = foreign_models["inverted"]
        assert run(str(folder), tmp_path / "out", model, "--max_error_fraction", "1") == 0
        row = rows(tmp_path / "out")["a.jpg"]
        xmp = (containers.jpeg_xmp(images(tmp_path / "out")["a.jpg"]) or b"").decode()
        for said in (
            f"model_sha256={vetting.digest(model)}",
            f"source_sha256={row['sha256_in']}",
            "<stEvt:softwareAgent>unfade ",
        ):
            assert said in xmp
        assert "description" not in xmp
        assert rows(tmp_path / "out")["b.gif"]["notes"].startswith("GIF was written as PNG")
        assert [error["id"] for error in errors(tmp_path / "out")] == ["cut.jpg"]

    def test_what_the_model_says_of_itself_is_recorded(self, folder: pathlib.Path, tmp_path: Any) -> None:
        from transforms.inference import Restored

        encoded = (folder / "a.jpg").read_bytes()
        picture = codecs.decode(encoded)
        source = records.Source(Pair("a.jpg", "a.jpg"), encoded, "", np.zeros(0, np.float32), None)
        decision = Said("", {}, confidence=0.875, colour_measured=0.1, colour_amplified=0.3, colour_invented=0.6)
        files = outputs.FileOptions(source_type=True)
        outputs.WriteRestored(str(tmp_path), "m" * 64, 10**6, files).run(
            Restored(source, picture, picture.pixels, decision)
        )
        xmp = (containers.jpeg_xmp((tmp_path / "images/a.jpg").read_bytes()) or b"").decode()
        assert "confidence=0.875; colours=invented; measured=0.100; amplified=0.300; invented=0.600" in xmp
        assert "compositeWithTrainedAlgorithmicMedia" in xmp

    def test_flags(self, folder: pathlib.Path, foreign_models: dict[str, str], tmp_path: Any) -> None:
        (folder / "a.jpg").with_name("big.png").write_bytes(
            file_of(Image.fromarray(archives.photograph(2, 300, 300)), "PNG")
        )
        flags = ("--allow_truncated", "--output_format", "tiff", "--describe", "--digital_source_type")
        model = foreign_models["inverted"]
        assert run(str(folder), tmp_path / "out", model, *flags, "--max_pixels", "50000") == 3
        found = images(tmp_path / "out")
        assert sorted(found) == ["a.jpg.tif", "b.gif.tif", "cut.jpg.tif"]
        assert "the file was cut off" in rows(tmp_path / "out")["cut.jpg"]["notes"]
        assert rows(tmp_path / "out")["a.jpg"]["output_format"] == "TIFF"
        [error] = errors(tmp_path / "out")
        assert (error["id"], error["error"]) == ("big.png", "TooManyPixels")
        assert b"[Colours restored by unfade" in found["a.jpg.tif"]
        assert b"algorithmicallyEnhanced" in found["a.jpg.tif"]

    def test_infinite_psnr_is_null_with_a_flag(
        self, folder: pathlib.Path, foreign_models: dict[str, str], tmp_path: Any
    ) -> None:
        truth = file_of(Image.fromarray(archives.photograph(1, 30, 40)), "PNG")
        (folder / "same.png").write_bytes(truth)
        (folder / "m.csv").write_text("image,target\nsame.png,same.png\n")
        run(f"{folder}/m.csv", tmp_path / "out", foreign_models["by caption"])
        row = rows(tmp_path / "out")["same.png"]
        assert (row["psnr"], row["input_psnr"], row["identical"]) == (None, None, True)
        assert (row["ssim"], row["ms_ssim"], row["ciede2000"]) == (1.0, None, 0.0)
        assert "NaN" not in (tmp_path / "out/summary.json").read_text()

    def test_no_history(self, folder: pathlib.Path, foreign_models: dict[str, str], tmp_path: Any) -> None:
        run(f"{folder}/a.jpg", tmp_path / "out", foreign_models["inverted"], "--no_history", "--no_previews")
        assert rows(tmp_path / "out")["a.jpg"]["preview"] is None
        assert not (tmp_path / "out/report/previews").exists()
        assert containers.jpeg_xmp(images(tmp_path / "out")["a.jpg"]) is None

    def test_from_a_shard(self, folder: pathlib.Path, foreign_models: dict[str, str], tmp_path: Any) -> None:
        import tarfile

        with tarfile.open(tmp_path / "00000.tar", "w") as shard:
            shard.add(folder / "a.jpg", "000.jpg")
        assert run(f"{tmp_path}/00000.tar", tmp_path / "out", foreign_models["inverted"]) == 0
        assert list(images(tmp_path / "out")) == ["00000/000.jpg"]
        assert (tmp_path / "out" / f"{previews.place('00000/000.jpg')}-after.jpg").is_file()


class TestDecisions:
    def test_are_obeyed(
        self, foreign_models: dict[str, str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Rejected pictures are the files that came; a corrected caption decides anew; other pictures as ever."""
        folder = tmp_path / "in"
        folder.mkdir()
        pixels = {name: archives.photograph(seed, 13, 21) for seed, name in enumerate("abcdef")}
        files = {name: file_of(Image.fromarray(pixels[name]), "PNG") for name in "abcdef"}
        files["c"] = file_of(Image.fromarray(pixels["c"]).quantize(32), "GIF")
        for name, data in files.items():
            (folder / f"{name}.{'gif' if name == 'c' else 'png'}").write_bytes(data)
            (folder / f"{name}.txt").write_text("invert this" if name in "abc" else "leave this")
        made = [
            Decision("a.png", "reject"),
            Decision("b.png", "input"),
            Decision("c.gif", "reject"),
            Decision("d.png", "caption", "please invert"),
            Decision("e.png", "accept", "invert, as was decided before"),
            Decision("gone.png", "accept"),
        ]
        (tmp_path / "d.jsonl").write_text(decisions.dumps(made))
        flags = ("--decisions", f"{tmp_path}/d.jsonl")
        assert run(str(folder), tmp_path / "out", foreign_models["by caption"], *flags) == 0
        assert "1 of 6 decisions in" in capsys.readouterr().err
        written, found = images(tmp_path / "out"), rows(tmp_path / "out")
        assert (written["a.png"], written["b.png"]) == (files["a"], files["b"])
        assert found["a.png"]["sha256_out"] == found["a.png"]["sha256_in"]
        assert found["a.png"]["notes"] == "kept as it came, as was decided in review"
        assert found["a.png"]["after_colourfulness"] == found["a.png"]["before_colourfulness"]
        kept = codecs.decode(written["c.gif.png"]).pixels  # PNG as ever, and of the input's pixels
        np.testing.assert_array_equal(kept, codecs.decode(files["c"]).pixels)
        for name in "de":
            np.testing.assert_array_equal(codecs.decode(written[f"{name}.png"]).pixels, 255 - pixels[name])
        np.testing.assert_array_equal(codecs.decode(written["f.png"]).pixels, pixels["f"])
        assert found["d.png"]["caption"] == "please invert"
        assert [found[id]["decision"] for id in sorted(found)] == [
            *("reject", "input", "reject", "caption", "accept"),
            None,
        ]
        assert summary(tmp_path / "out")["decisions"] == {"accept": 1, "caption": 1, "input": 1, "reject": 2}
        assert decisions.read(f"{tmp_path}/out/decisions.jsonl") == {one.id: one for one in made}
        assert '"id":"a.png","decision":"reject"' in (tmp_path / "out/report/data/decisions.js").read_text()

    def test_a_kept_picture_has_nothing_invented(self, tmp_path: pathlib.Path) -> None:
        from transforms.inference import Restored

        encoded = file_of(Image.fromarray(archives.photograph(1)[..., 0]), "JPEG")
        picture = codecs.decode(encoded)
        source = records.Source(Pair("a", "a.jpg"), encoded, "", np.zeros(0, np.float32), None)
        said = Said("", {}, confidence=0.4, colour_measured=0.0, colour_amplified=0.0, colour_invented=1.0)
        write = outputs.WriteRestored(str(tmp_path), "m", 10**6, decided={"a": Decision("a", "reject")})
        row = write.run(Restored(source, picture, 255 - picture.pixels, said))
        assert (row["colour_class"], row["colour_invented"], row["confidence"]) == ("measured", 0.0, 0.4)
        assert (tmp_path / "images/a.jpg").read_bytes() == encoded

    def test_a_bad_file_is_told_before_any_work(self, foreign_models: dict[str, str], tmp_path: pathlib.Path) -> None:
        (tmp_path / "in.png").write_bytes(file_of(Image.fromarray(archives.photograph(1)), "PNG"))
        with pytest.raises(UsageError, match="does not exist"):
            run(f"{tmp_path}/*.png", tmp_path / "out", foreign_models["inverted"], "--decisions", f"{tmp_path}/none")
        assert not (tmp_path / "out").exists()


def test_two_processes_give_the_same(
    archive: archives.Archive, restored: pathlib.Path, saved_model: str, tmp_path: pathlib.Path
) -> None:
    more = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
    assert run(archive.manifest, tmp_path / "out", saved_model, *more) == 3
    assert images(tmp_path / "out") == images(restored)
    assert errors(tmp_path / "out") == errors(restored)
    assert summary(tmp_path / "out")["counts"] == summary(restored)["counts"]
