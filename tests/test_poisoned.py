"""Poisoned models through the whole command: refused before any work, or recorded picture by picture; never written."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import archives
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import cli
from transforms import codecs

pytestmark = pytest.mark.slow

POISONS = {
    "nan": "not finite",
    "infinite": "not finite",
    "small": "gives",
    "thousands": "0..1",
    "fails": "must not be asked",
}
"""What a caption makes the model do, and what its error says."""

Command = Callable[..., int]


@pytest.fixture
def restore(pictures: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `unfade restore` with a model; returns its exit status."""

    def run(model: str, *more: str) -> int:
        given = ["--input", str(pictures), "--output", f"{tmp_path}/out", "--model", model]
        monkeypatch.setattr(sys, "argv", ["unfade", "restore", *given, "--direct_num_workers", "1", *more])
        with pytest.raises(SystemExit) as caught:
            cli.run(sys.argv[1:])
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("in")
    for seed, name in enumerate(("sound", *POISONS)):
        Image.fromarray(archives.photograph(seed, 13, 21)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name)
    return folder


def saved(folder: pathlib.Path, function: Any, *inputs: Any) -> str:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(function, input_signature=inputs)
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return str(folder)


def test_refused_before_any_work(
    restore: Command, foreign_models: dict[str, str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    floats, secret = tf.TensorSpec([None, None, None, 3], tf.float32, "image"), tmp_path / "secret"
    secret.write_text("x")
    models = tmp_path / "models"

    def reads(image: tf.Tensor) -> Any:
        return {"restored": image + tf.cast(tf.strings.length(tf.io.read_file(str(secret))), tf.float32)}

    def texts(image: tf.Tensor) -> Any:
        return {"restored": tf.strings.as_string(image)}

    cut = pathlib.Path(saved(models / "cut", lambda image: {"restored": image}, floats)) / "saved_model.pb"
    cut.write_bytes(cut.read_bytes()[:500])
    for model, more, says in (
        (saved(models / "reads", reads, floats), (), "ReadFile"),
        (saved(models / "texts", texts, floats), (), "string"),
        (str(models / "cut"), (), "cannot be used"),
        (foreign_models["scalar"], (), "cannot be used"),
        (foreign_models["labels"], (), "cannot be used"),
        (foreign_models["no serving signature"], (), "serving_default"),
        (foreign_models["inverted"], ("--model_sha256", "0" * 64), f"not {'0' * 64}"),
        (str(models / "reads"), ("--model_sha256", "0" * 64, "--trust_model"), f"not {'0' * 64}"),
    ):
        assert restore(model, *more) == 2, model
        out, err = capsys.readouterr()
        said = [line for line in err.splitlines() if line.startswith("unfade: ")]
        assert len(said) == 1, err
        assert says in said[0]
        assert model in said[0]
        assert "Traceback" not in err + out
        left = [path for path in tmp_path.glob("out/**/*") if path.is_file() and path.name != "lock"]
        assert left == []
    assert secret.read_text() == "x"


def test_recorded_picture_by_picture(
    restore: Command, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is sound for one picture and poisoned for the others; the exit status is that of the share."""
    import tensorflow as tf

    def poisoned(image: tf.Tensor, text: tf.Tensor) -> Any:
        word = text[0]

        def fails() -> tf.Tensor:
            with tf.control_dependencies([tf.debugging.Assert(False, ["it must not be asked"])]):
                return tf.identity(image)

        other = tf.case(
            [
                (tf.equal(word, "nan"), lambda: image * float("nan")),
                (tf.equal(word, "infinite"), lambda: image + float("inf")),
                (tf.equal(word, "small"), lambda: image[:, ::2]),
                (tf.equal(word, "thousands"), lambda: image * 4000.0 - 9.0),
                (tf.equal(word, "fails"), fails),
            ],
            default=lambda: 1.0 - image,
        )
        return {"restored": other}

    signature = (tf.TensorSpec([None, None, None, 3], tf.float32, "image"), tf.TensorSpec([None], tf.string, "text"))
    model = saved(tmp_path / "model", poisoned, *signature)
    assert restore(model) == 3
    assert "5 of 6 items failed" in capsys.readouterr().err
    output = tmp_path / "out"
    summary = json.loads((output / "summary.json").read_text())
    assert summary["counts"] == {"input": 6, "restored": 1, "skipped": 0, "failed": 5}
    assert summary["errors"]["inference/ModelFailed"]["count"] == 5
    [written] = (path for path in (output / "images").rglob("*") if path.is_file())
    assert written.name == "sound.png"
    np.testing.assert_array_equal(codecs.decode(written.read_bytes()).pixels, 255 - archives.photograph(0, 13, 21))
    assert pq.read_table(output / "metrics").column("id").to_pylist() == ["sound.png"]
    lines = (output / "errors" / "errors-00000-of-00001.jsonl").read_text().splitlines()
    told = {record["id"].removesuffix(".png"): record["message"] for record in map(json.loads, lines)}
    assert set(told) == set(POISONS)
    for name, says in POISONS.items():
        assert says in told[name], told[name]


def test_a_model_without_an_end(restore: Command, tmp_path: pathlib.Path) -> None:
    """It is stopped: were it only left behind, the picture after it would find no core free and be late, too."""
    import tensorflow as tf

    def endless(image: tf.Tensor, text: tf.Tensor) -> Any:
        def spin() -> tf.Tensor:
            number = tf.while_loop(lambda n: n >= 0, lambda n: (n + 1) % 7, [tf.size(image) % 7])[0]
            return image + tf.cast(number, tf.float32)

        return {"restored": tf.cond(tf.equal(text[0], "sound"), lambda: 1.0 - image, spin)}

    signature = (tf.TensorSpec([None, None, None, 3], tf.float32, "image"), tf.TensorSpec([None], tf.string, "text"))
    model = saved(tmp_path / "model", endless, *signature)
    assert restore(model, "--max_item_seconds", "4") == 3
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"] == {"input": 6, "restored": 1, "skipped": 0, "failed": 5}
    assert summary["errors"]["inference/TimedOut"]["count"] == 5
    assert pq.read_table(tmp_path / "out" / "metrics").column("id").to_pylist() == ["sound.png"]
