"""Models that could reach files, other programs or machines are refused before anything of them runs."""

from __future__ import annotations

import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from models import loading, vetting
from models.contract import DEFAULT_MODEL, DEFAULT_SHA256
from models.decision import Decision
from transforms.inference import check_model
from transforms.items import UsageError

IMAGE = tf.TensorSpec([None, None, None, 3], tf.float32, "image")


def saved(folder: pathlib.Path, function: Callable[[tf.Tensor], Any], **attributes: Any) -> str:
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    module.serve = tf.function(lambda image: {"restored": function(image)}, input_signature=[IMAGE])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return str(folder)


def edited(folder: str, edit: Callable[[Any], None]) -> None:
    """Changes a model's graph as it lies on the disk."""
    path = pathlib.Path(folder) / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())


def leaks(text: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """The picture, brighter by the length of what was read."""
    return image + tf.cast(tf.strings.length(text), tf.float32)


def first_line(path: str) -> tf.Tensor:
    return tf.data.TextLineDataset(path).reduce("", lambda _, line: line)


def written_first(image: tf.Tensor, path: str) -> tf.Tensor:
    with tf.control_dependencies([tf.io.write_file(path, "x")]):
        return tf.identity(image)


def printed_first(image: tf.Tensor, path: str) -> tf.Tensor:
    with tf.control_dependencies([tf.raw_ops.PrintV2(input="x", output_stream=f"file://{path}")]):
        return tf.identity(image)


def saved_first(image: tf.Tensor, path: str) -> tf.Tensor:
    save = tf.raw_ops.SaveV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[image])
    with tf.control_dependencies([save]):
        return tf.identity(image)


def sampled(image: tf.Tensor, path: str) -> tf.Tensor:
    drawn = tf.raw_ops.FixedUnigramCandidateSampler(
        true_classes=[[tf.constant(0, tf.int64)]],
        num_true=1,
        num_sampled=1,
        unique=True,
        range_max=9,
        vocab_file=path,
    )
    return image + tf.cast(drawn.sampled_candidates[0], tf.float32)


def decoded(image: tf.Tensor, path: str) -> tf.Tensor:
    proto = tf.raw_ops.DecodeProtoV2(
        bytes=[""], message_type="m", field_names=[], output_types=[], descriptor_source=path
    )
    return image + tf.cast(tf.shape(proto.sizes)[0], tf.float32)


HOSTILE: dict[str, tuple[str, Callable[[tf.Tensor, str], tf.Tensor]]] = {
    "reads a file": ("ReadFile", lambda image, path: leaks(tf.io.read_file(path), image)),
    "writes a file": ("WriteFile", written_first),
    "lists files": ("MatchingFiles", lambda image, path: leaks(tf.io.matching_files(path + "*")[0], image)),
    "maps a file": (
        "ImmutableConst",
        lambda image, path: image + tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[], memory_region_name=path),
    ),
    "prints to a file": ("PrintV2", printed_first),
    "saves": ("SaveV2", saved_first),
    "restores": (
        "RestoreV2",
        lambda image, path: (
            image + tf.raw_ops.RestoreV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])[0]
        ),
    ),
    "reads lines": ("TextLineDataset", lambda image, path: leaks(first_line(path), image)),
    "calls Python": ("EagerPyFunc", lambda image, path: tf.py_function(lambda x: x, [image], tf.float32)),
    "calls NumPy": ("PyFunc", lambda image, path: tf.numpy_function(np.negative, [image], tf.float32)),
    "reads words to draw": ("FixedUnigramCandidateSampler", sampled),
    "reads descriptors": ("DecodeProtoV2", decoded),
    "watches": (
        "DebugIdentity",
        lambda image, path: tf.raw_ops.DebugIdentity(input=image, debug_urls=[f"file://{path}"]),
    ),
    "in a branch": (
        "ReadFile",
        lambda image, path: tf.cond(
            tf.reduce_mean(image) > 2, lambda: leaks(tf.io.read_file(path), image), lambda: image
        ),
    ),
    "in a loop in a loop": (
        "ReadFile",
        lambda image, path: tf.map_fn(lambda one: tf.map_fn(lambda row: leaks(tf.io.read_file(path), row), one), image),
    ),
}


class TestHostile:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_refused(self, kind: str, tmp_path: pathlib.Path) -> None:
        op, function = HOSTILE[kind]
        folder = saved(tmp_path / "model", lambda image: function(image, f"{tmp_path}/secret"))
        with pytest.raises(vetting.ModelError, match=rf"could reach files.*{op} \(in .*add --trust_model") as told:
            vetting.check(folder)
        assert "\n" not in str(told.value)
        vetting.check(folder, trusted=True)

    def test_what_runs_at_loading(self, tmp_path: pathlib.Path) -> None:
        """Proof of what is at stake: loading alone writes the file, once the model is trusted."""
        target = tmp_path / "written"

        class Resource(tf.saved_model.experimental.TrackableResource):
            def _create_resource(self) -> tf.Tensor:
                return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])

            def _initialize(self) -> None:
                tf.io.write_file(str(target), "x")

        resource = Resource()
        _ = resource.resource_handle
        folder = saved(tmp_path / "model", lambda image: image, resource=resource)
        target.unlink(missing_ok=True)
        with pytest.raises(UsageError, match="WriteFile.*--trust_model"):
            check_model(folder)
        assert not target.exists()
        check_model(folder, trusted=True)
        assert target.exists()

    def test_a_table_of_another_file(self, tmp_path: pathlib.Path) -> None:
        """Vocabularies are read from assets of the model, never from elsewhere."""
        (tmp_path / "vocabulary.txt").write_text("red\nblue\n")
        words = tf.lookup.TextFileInitializer(
            f"{tmp_path}/vocabulary.txt", tf.string, 0, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        table = tf.lookup.StaticHashTable(words, -1)
        folder = saved(
            tmp_path / "model",
            lambda image: image + tf.cast(table.lookup(tf.constant("blue")), tf.float32),
            table=table,
        )
        vetting.check(folder)
        shutil.copytree(folder, tmp_path / "constant")
        shutil.copytree(folder, tmp_path / "outside")

        def constant(graph: Any) -> None:
            [function] = [f for f in graph.graph_def.library.function if "initializer" in f.signature.name]
            [node] = [n for n in function.node_def if n.op == "InitializeTableFromTextFileV2"]
            path = function.node_def.add(name="path", op="Const")
            path.attr["dtype"].type = tf.string.as_datatype_enum
            path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/etc/passwd"))
            node.input[1] = "path:output:0"

        def outside(graph: Any) -> None:
            graph.asset_file_def[0].filename = "../../../../etc/passwd"

        edited(f"{tmp_path}/constant", constant)
        edited(f"{tmp_path}/outside", outside)
        with pytest.raises(vetting.ModelError, match="InitializeTableFromTextFileV2"):
            vetting.check(f"{tmp_path}/constant")
        with pytest.raises(vetting.ModelError, match="asset '../../../../etc/passwd' lies outside its folder"):
            vetting.check(f"{tmp_path}/outside")
        pathlib.Path(folder, "assets", "vocabulary.txt").unlink()
        with pytest.raises(vetting.ModelError, match="asset 'vocabulary.txt' is missing"):
            vetting.check(folder)

    def test_disguises(self, tmp_path: pathlib.Path) -> None:
        folder = saved(tmp_path / "model", lambda image: image * 2.0)

        def named_as_an_op(graph: Any) -> None:
            graph.graph_def.library.function[0].signature.name = "ReadFile"

        def unknown(graph: Any) -> None:
            graph.graph_def.library.function[0].node_def.add(name="x", op="NobodyKnowsIt")

        def first_version(graph: Any) -> None:
            graph.ClearField("object_graph_def")

        for index, (edit, message) in enumerate(
            [
                (named_as_an_op, "a function that calls itself ReadFile"),
                (unknown, "NobodyKnowsIt"),
                (first_version, "exported by TensorFlow 1"),
            ]
        ):
            copy = str(shutil.copytree(folder, tmp_path / str(index)))
            edited(copy, edit)
            with pytest.raises(vetting.ModelError, match=message):
                vetting.check(copy)
        for name in ("saved_model.pbtxt", "saved_model.cpb"):
            (pathlib.Path(folder) / name).write_text("")
            with pytest.raises(vetting.ModelError, match=f"{name} stands beside"):
                vetting.check(folder)
            (pathlib.Path(folder) / name).unlink()
        vetting.check(folder)


class TestSound:
    def test_ours(self, saved_model: str, prepared: str) -> None:
        vetting.check(DEFAULT_MODEL)
        vetting.check(saved_model)
        vetting.check(f"{prepared}/transform_fn")

    def test_all_foreign_ones(self, foreign_models: dict[str, str]) -> None:
        for folder in foreign_models.values():
            vetting.check(folder)

    def test_what_keras_exports(self, tmp_path: pathlib.Path) -> None:
        """Convolutions, normalisation, dropout, words by table and by file, an optimiser: exported in both ways."""
        import keras
        from keras import layers

        (tmp_path / "words.txt").write_text("red\nblue\n")
        image, text = keras.Input((None, None, 3), name="image"), keras.Input((), dtype="string", name="text")
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
        x = layers.Dropout(0.5)(layers.BatchNormalization()(x))
        x = layers.UpSampling2D()(layers.MaxPooling2D()(x))
        x = layers.Conv2D(3, 1, activation="sigmoid")(x)
        plain = keras.Model(image, x)
        plain.compile("adam", "mse")
        vectorise = layers.TextVectorization()
        vectorise.adapt(["a red door", "a blue boat"])
        words = layers.GlobalAveragePooling1D()(layers.Embedding(20, 3)(vectorise(text)))
        looked_up = layers.StringLookup(vocabulary=f"{tmp_path}/words.txt")(text)
        mixed = layers.Lambda(
            lambda a: a[0] + 0.01 * a[1][:, None, None] + 0.0 * tf.cast(a[2], tf.float32)[:, None, None, None]
        )
        captioned = keras.Model([image, text], mixed([x, words, looked_up]))
        plain.export(f"{tmp_path}/exported", verbose=False)
        tf.saved_model.save(plain, f"{tmp_path}/saved")
        captioned.export(f"{tmp_path}/captioned", verbose=False)
        pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        for name in ("exported", "saved", "captioned"):
            check_model(f"{tmp_path}/{name}")
            model = loading.load(f"{tmp_path}/{name}")
            assert model.apply(pixels, Decision("a red door", {})).shape == pixels.shape
        assert model.reads_captions


class TestDamaged:
    def test_cut_off_and_flipped(self, foreign_models: dict[str, str], tmp_path: pathlib.Path) -> None:
        """Sixty damaged graphs: each is refused in one line, or is a graph still; none brings the process down."""
        folder = tmp_path / "model"
        shutil.copytree(foreign_models["by caption"], folder)
        whole = (folder / "saved_model.pb").read_bytes()
        dice = random.Random(3)
        damaged = [whole[: len(whole) * part // 20] for part in range(20)]
        for _ in range(40):
            flipped = bytearray(whole)
            for _ in range(dice.choice((1, 3, 30))):
                flipped[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
            damaged.append(bytes(flipped))
        refused = 0
        for data in damaged:
            (folder / "saved_model.pb").write_bytes(data)
            try:
                loading.load(str(folder), trusted=True)
            except vetting.ModelError as error:
                refused += 1
                assert "\n" not in str(error)
                assert len(str(error)) < 700
        assert refused >= 20

    def test_what_is_missing_or_huge(self, saved_model: str, tmp_path: pathlib.Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(saved_model, folder)
        index, [data] = folder / "variables" / "variables.index", (folder / "variables").glob("*.data*")
        content = data.read_bytes()
        data.write_bytes(content[: len(content) // 2])
        with pytest.raises(UsageError, match="TensorFlow cannot load it.*export or copy it again"):
            check_model(str(folder))
        data.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
        with pytest.raises(UsageError, match="TensorFlow cannot load it.*[Cc]hecksum"):
            check_model(str(folder))
        index.unlink()
        with pytest.raises(UsageError, match="variables.index is missing; copy the whole folder"):
            check_model(str(folder))
        with (folder / "saved_model.pb").open("r+b") as file:
            file.truncate(3 << 30)  # sparse: takes no room
        with pytest.raises(vetting.ModelError, match="has 3221225472 bytes, more than any graph"):
            vetting.check(str(folder))
        (folder / "saved_model.pb").unlink()
        with pytest.raises(UsageError, match="saved_model.pb is missing"):
            check_model(str(folder))
        shutil.rmtree(folder)
        with pytest.raises(UsageError, match="does not exist"):
            check_model(str(folder))


class TestDigest:
    def test_as_documented(self, foreign_models: dict[str, str]) -> None:
        import hashlib

        folder, total = pathlib.Path(foreign_models["inverted"]), hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(path.relative_to(folder)).replace("\\", "/").encode()
            total.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        assert vetting.digest(str(folder)) == total.hexdigest()

    def test_checked_before_loading(self, foreign_models: dict[str, str], tmp_path: pathlib.Path) -> None:
        folder = str(shutil.copytree(foreign_models["inverted"], tmp_path / "model"))
        digest = vetting.digest(folder)
        assert check_model(folder, sha256=digest) == digest
        (pathlib.Path(folder) / "saved_model.pb").write_bytes(b"anything")
        with pytest.raises(UsageError, match=f"its digest is .*, not {digest}; it was changed"):
            check_model(folder, sha256=digest, trusted=True)


def test_the_digest_of_the_model_that_ships_is_known() -> None:
    """After an export `models/contract.py` must say the new one, or every run loads the model once more to try it."""
    assert vetting.digest(DEFAULT_MODEL) == DEFAULT_SHA256
