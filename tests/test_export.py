"""The SavedModel: its signatures, and that a caption means the same in preparation, training and serving."""

from __future__ import annotations

import pathlib
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from models import correction
from models.contract import (
    CAPTION_IDS,
    CAPTION_TEXT,
    CAPTION_WEIGHTS,
    COEFFICIENTS,
    DAMAGE_CLASSES,
    IMAGE_STATISTICS,
    IMAGE_STATISTICS_Z,
    MAX_TOKENS,
    ORIGINS,
    PALETTE,
    SIGHT,
    STATISTICS,
    THUMBNAIL,
)
from models.correction import Coefficients
from models.export import RAMP, Calibration, Restorer, TransformGraph, export
from models.generator import CELLS, Generator
from models.statistics import colour_left, density_statistics, view
from models.strips import probes
from models.words import UNKNOWN, VOCABULARY_PATH, WORDS, vocabulary
from transforms.features import ExtractFeatures, words
from transforms.items import Pair
from transforms.records import Item

KNOTS = correction.SEGMENTS + 1
NEVER_BACK = Calibration(margin=-100.0, low=-0.5, high=0.7)


class Raw(str):
    """A caption that encodes to bytes which are not UTF-8, as `prepare` never lets through but a caller might."""

    raw: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _raw, (self.raw,)

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        return self.raw


def _raw(data: bytes) -> Raw:
    caption = Raw(data.decode("utf-8", "replace"))
    caption.raw = data
    return caption


CAPTIONS: list[str] = [
    "A harbour in winter, with fishing boats",
    "The harbour, about 1935",
    "Boats. BOATS! boats?",
    "Ein Hafen im Winter: Fischerboote",
    "港口的冬天",
    "冬の港 with boats",
    "ท่าเรือในฤดูหนาว",
    "🚢 harbour 🚢🚢",
    "🚢",
    "",
    "   \n\t",
    "?!...",
    "ÉCOLE école E\u0301COLE",
    "a'b c-d_e 12.5",
    "nul\0inside",
    "x" * 5000,
    " ".join(f"word{index}" for index in range(1000)),
    " ".join(["harbour"] * 1000),
    _raw(b"Caf\xe9 in the \xff\xfe harbour"),
    _raw(b"\xff"),
    _raw(b"\xed\xa0\x80 surrogate"),
]


class Prepared(NamedTuple):
    """What the Beam job gave: (word ids, weights) by item, and the folder of the graph."""

    rows: dict[str, tuple[list[int], list[float]]]
    transform_fn: str
    statistics: np.ndarray


class Exported(NamedTuple):
    model: Any
    folder: pathlib.Path
    before: dict[str, np.ndarray]  # what the network decided before it was saved


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    statistics = np.random.default_rng(0).uniform(0, 3, (len(CAPTIONS), STATISTICS)).astype(np.float32)
    items = [
        Item(Pair(f"{index}", ""), caption, "", "PNG", 1, 1, statistics[index], np.zeros(PALETTE, np.float32))
        for index, caption in enumerate(CAPTIONS)
    ]
    rows = folder / "rows.pickle"
    with beam.Pipeline("FnApiRunner", PipelineOptions([])) as pipeline:
        found, _ = pipeline | beam.Create(items) | ExtractFeatures(str(folder), str(folder / "temporary"))
        _ = (
            found
            | beam.Map(lambda row: (row[0].pair.id, (row[1], row[2])))
            | beam.combiners.ToList()
            | "Keep" >> beam.Map(lambda done, path: pathlib.Path(path).write_bytes(pickle.dumps(dict(done))), str(rows))
        )
    return Prepared(pickle.loads(rows.read_bytes()), str(folder / "transform_fn"), statistics)


@pytest.fixture(scope="module")
def exported(
    prepared: Prepared, random_generator: Callable[..., Any], detail: Any, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """Saved from a copy of the graph that is deleted afterwards; then the model is moved, too."""
    folder = tmp_path_factory.mktemp("export")
    copy = folder / "transform_fn"
    shutil.copytree(prepared.transform_fn, copy)
    transform = TransformGraph(str(copy))
    generator = random_generator(1, 0.5)
    export(generator, detail, transform, NEVER_BACK, str(folder / "saved"))
    ids, weights = transform.captions(tf.constant(encoded()[:4]))
    small = view(thumbnails(4))
    statistics = density_statistics(small)
    decision = generator(
        view(thumbnails(4), SIGHT),
        colour_left(statistics),
        transform.statistics(statistics),
        ids,
        weights,
        tf.zeros([4, PALETTE]),
    )
    shutil.rmtree(copy)
    (folder / "saved").rename(folder / "moved")
    model = tf.saved_model.load(str(folder / "moved"))
    plain = {**decision.coefficients._asdict(), **decision._asdict()}
    before = {name: value.numpy() for name, value in plain.items() if name != "coefficients"}
    return Exported(model, folder / "moved", before)


def encoded() -> list[bytes]:
    return [caption.encode() for caption in CAPTIONS]


def thumbnails(count: int, seed: int = 0) -> tf.Tensor:
    coarse = tf.random.stateless_uniform([count, 6, 6, 3], [seed, 0], 0, 255)
    return tf.cast(tf.image.resize(coarse, [THUMBNAIL, THUMBNAIL]), tf.uint8)


def grey(count: int, seed: int = 0) -> tf.Tensor:
    return tf.repeat(thumbnails(count, seed)[..., 1:2], 3, axis=-1)


def decide(model: Any, count: int = 3, captions: list[bytes] | None = None) -> dict[str, np.ndarray]:
    result = model.signatures["decide"](
        thumbnail=thumbnails(count),
        caption=tf.constant(captions or encoded()[:count]),
        reference_palette=tf.one_hot(tf.range(count), PALETTE),
    )
    return {name: value.numpy() for name, value in result.items()}


def test_in_a_session(exported: Exported) -> None:
    """As TensorFlow Serving loads it."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(exported.folder))
        signature = loaded.signature_def["decide"]
        asks = session.run(
            signature.outputs["asks"].name,
            {
                signature.inputs["thumbnail"].name: np.zeros((2, THUMBNAIL, THUMBNAIL, 3), np.uint8),
                signature.inputs["caption"].name: [b"a red door", b"a door"],
                signature.inputs["reference_palette"].name: np.zeros((2, PALETTE), np.float32),
            },
        )
    assert asks.tolist() == [True, False]


# Signatures

COEFFICIENT_SHAPES = {
    "matrix": [3, 4],
    "slope": [3, 4],
    "field": [correction.FIELD, correction.FIELD],
    "curves": [3, KNOTS],
    "chroma": [correction.GRID, correction.GRID, correction.LEVELS, 2],
    "detail": [2],
}

INPUTS = {
    "decide": {
        "thumbnail": ([None, THUMBNAIL, THUMBNAIL, 3], tf.uint8),
        "caption": ([None], tf.string),
        "reference_palette": ([None, PALETTE], tf.float32),
    },
    "noisiness": {"places": ([9, None, None, 3], tf.float32)},
    "apply_uint8": {
        "image": ([None, None, 3], tf.uint8),
        **{name: (shape, tf.float32) for name, shape in COEFFICIENT_SHAPES.items()},
    },
    "apply_uint16": {
        "image": ([None, None, 3], tf.uint16),
        **{name: (shape, tf.float32) for name, shape in COEFFICIENT_SHAPES.items()},
    },
    "serving_default": {"image": ([None, None, None, 3], tf.uint8), "caption": ([None], tf.string)},
}

SERVED = {
    "confidence": ((2,), np.float32),
    "damage": ((2, len(DAMAGE_CLASSES)), np.float32),
    "confidence_map": ((2, CELLS, CELLS), np.float32),
    "defect_map": ((2, 64, 64), np.float32),
}

ABOUT = {
    **SERVED,
    **dict.fromkeys(("expected_error", "error_low", "error_high", "invented_error", "fallback"), ((2,), np.float32)),
    "origin": ((2, len(ORIGINS)), np.float32),
    "asks": ((2,), np.bool_),
}

OUTPUTS = {  # for two pictures, or one of 5 x 7
    "decide": {**{name: ((2, *shape), np.float32) for name, shape in COEFFICIENT_SHAPES.items()}, **ABOUT},
    "noisiness": {"share": ((), np.float32)},
    "apply_uint8": {"restored": ((5, 7, 3), np.uint8)},
    "apply_uint16": {"restored": ((5, 7, 3), np.uint16)},
    "serving_default": {"restored": ((2, 5, 7, 3), np.uint8), **SERVED},
}


def test_signatures_are_the_contract(exported: Exported) -> None:
    assert set(exported.model.signatures) == set(INPUTS)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_signature_is_the_contract(exported: Exported, name: str) -> None:
    signature = exported.model.signatures[name]
    positional, given = signature.structured_input_signature
    assert not positional
    assert {key: (spec.shape.as_list(), spec.dtype) for key, spec in given.items()} == INPUTS[name]
    values: dict[str, Any] = {
        "thumbnail": thumbnails(2),
        "caption": tf.constant(["a harbour", ""]),
        "reference_palette": tf.zeros([2, PALETTE]),
        **{key: value[0] for key, value in correction.identity(1)._asdict().items()},
        "places": tf.zeros([9, 5, 7, 3]),
    }
    shape = [2, 5, 7, 3] if name == "serving_default" else [5, 7, 3]
    values["image"] = tf.zeros(shape, tf.uint16 if name == "apply_uint16" else tf.uint8)
    result = signature(**{key: values[key] for key in given})
    assert {key: (tuple(value.shape), value.numpy().dtype.type) for key, value in result.items()} == OUTPUTS[name]
    assert {key: value.dtype.as_numpy_dtype for key, value in signature.structured_outputs.items()} == {
        key: dtype for key, (_, dtype) in OUTPUTS[name].items()
    }


def test_every_coefficient_of_decide_goes_into_apply() -> None:
    assert set(COEFFICIENTS) == set(INPUTS["apply_uint8"]) - {"image"} == set(Coefficients._fields)
    assert set(COEFFICIENTS) == set(OUTPUTS["decide"]) - set(ABOUT)


# What the signatures do


def test_the_model_decides_what_the_network_decided(exported: Exported) -> None:
    result = exported.model.decide(thumbnails(4), tf.constant(encoded()[:4]), tf.zeros([4, PALETTE]))
    before = exported.before
    for name in ("matrix", "slope", "field", "curves"):
        np.testing.assert_allclose(result[name], before[name], atol=1e-4, err_msg=name)
    np.testing.assert_allclose(result["damage"], tf.sigmoid(before["damage"]), atol=1e-4)
    np.testing.assert_allclose(result["expected_error"], np.exp(before["log_error"]), rtol=1e-3)
    np.testing.assert_allclose(result["error_low"], np.exp(before["log_error"] - 0.5), rtol=1e-3)
    np.testing.assert_allclose(result["error_high"], np.exp(before["log_error"] + 0.7), rtol=1e-3)
    np.testing.assert_allclose(result["confidence"], np.exp(-np.exp(before["log_error"]) / 10), rtol=1e-3)
    assert np.abs(result["matrix"] - correction.identity(4).matrix).max() > 0.01
    assert not result["fallback"].numpy().any()


def test_shares_are_between_0_and_1(exported: Exported) -> None:
    result = decide(exported.model, 8)
    for name in (*SERVED, "fallback", "origin"):
        assert 0 <= result[name].min() <= result[name].max() <= 1


# Where colours come from


def test_only_pictures_without_colour_are_given_any(exported: Exported) -> None:
    pictures = tf.concat([thumbnails(2), grey(2)], 0)
    result = exported.model.decide(pictures, tf.constant(["a red door"] * 4), tf.zeros([4, PALETTE]))
    result = {name: value.numpy() for name, value in result.items()}
    assert not result["chroma"][:2].any()
    assert (np.abs(result["chroma"][2:]).max((1, 2, 3, 4)) > 1).all()
    assert result["invented_error"][:2].tolist() == [0, 0]
    assert (result["invented_error"][2:] > 0).all()
    np.testing.assert_allclose(result["origin"].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(result["origin"][2:], [[0, 0, 1]] * 2, atol=1e-6)
    assert (result["origin"][:2, 2] == 0).all()
    assert (result["origin"][:2, :2] > 0).all()


def test_asking_is_naming_a_colour(exported: Exported) -> None:
    captions = ["a red door", "a door", "", "black and white, grey", "The BLUE boat", "港口", "x red"]
    result = exported.model.decide(grey(7), tf.constant(captions), tf.zeros([7, PALETTE]))
    assert result["asks"].numpy().tolist() == [True, False, False, False, True, False, True]


def test_serving_colours_a_grey_picture_only_if_its_caption_names_a_colour(exported: Exported) -> None:
    images = tf.cast(tf.image.resize(tf.tile(grey(1), [2, 1, 1, 1]), [40, 50]), tf.uint8)
    served = exported.model.signatures["serving_default"](image=images, caption=tf.constant(["a red door", "a door"]))
    coloured, plain = np.ptp(served["restored"].numpy().astype(int), axis=-1)
    assert coloured.mean() > 5
    assert plain.mean() < 0.2 * coloured.mean()  # the untrained detail network is not neutral
    undetailed = exported.model.decide(
        tf.image.resize(images, [THUMBNAIL, THUMBNAIL], "nearest"), tf.constant(["", ""]), tf.zeros([2, PALETTE])
    )
    given = {name: undetailed[name][1] for name in COEFFICIENTS}
    given |= {"chroma": tf.zeros_like(given["chroma"]), "detail": tf.zeros([2])}
    restored = exported.model.signatures["apply_uint8"](image=images[1], **given)["restored"].numpy()
    assert np.ptp(restored.astype(int), axis=-1).max() == 0


# Calibration


def decided_with(prepared: Prepared, generator: Any, detail: Any, calibration: Calibration) -> dict[str, np.ndarray]:
    """Two pictures with colour and one without, without saving."""
    pictures = tf.concat([thumbnails(2), grey(1)], 0)
    restorer = Restorer(generator, detail, TransformGraph(prepared.transform_fn), calibration)
    result = restorer.decide(pictures, tf.constant(["", "a boat", "red"]), tf.zeros([3, PALETTE]))
    return {name: value.numpy() for name, value in result.items()}


def test_the_fallback_draws_to_the_identity(
    prepared: Prepared, random_generator: Callable[..., Any], detail: Any
) -> None:
    generator = random_generator(1, 0.5)
    never = decided_with(prepared, generator, detail, Calibration(margin=-100.0))
    always = decided_with(prepared, generator, detail, Calibration(margin=100.0))
    same = correction.identity(3)
    assert (never["fallback"] == 0).all()
    assert (always["fallback"] == 1).all()
    for name in ("matrix", "slope", "curves"):
        np.testing.assert_allclose(always[name], getattr(same, name), atol=1e-5)
        assert np.abs(never[name] - getattr(same, name)).max() > 0.01
    np.testing.assert_allclose(always["origin"][:2], [[1, 0, 0]] * 2, atol=1e-4)
    # What is invented and what is cleaned stays, however little the correction is trusted.
    np.testing.assert_allclose(always["chroma"], never["chroma"])
    np.testing.assert_array_equal(always["detail"], never["detail"])
    assert (always["detail"][:, 0] == 1).all()

    # Where both errors are equal, half: the middle of the ramp.
    gap = float(np.log(never["expected_error"][0]) - np.log(always["expected_error"][0]))
    half = decided_with(prepared, generator, detail, Calibration(margin=-gap))
    assert half["fallback"][0] == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(half["matrix"][0], (never["matrix"][0] + always["matrix"][0]) / 2, atol=1e-2)
    quarter = decided_with(prepared, generator, detail, Calibration(margin=-gap - 0.25 * RAMP))
    assert quarter["fallback"][0] == pytest.approx(0.25, abs=0.01)
    assert quarter["expected_error"][0] == pytest.approx(
        0.75 * never["expected_error"][0] + 0.25 * always["expected_error"][0], rel=0.01
    )


def test_noise_and_scratches_are_weighed_with_what_the_detail_network_finds(
    prepared: Prepared, random_generator: Callable[..., Any], detail: Any
) -> None:
    generator = random_generator(1, 0.5)
    plain = decided_with(prepared, generator, detail, Calibration())["damage"]
    weighed = decided_with(
        prepared, generator, detail, Calibration(noisy=(50.0, 0.0, 0.0), scratched=(0.0, 0.0, -5.0))
    )["damage"]
    noisy, scratched = (DAMAGE_CLASSES.index(name) for name in ("noisy", "scratched"))
    assert (weighed[:, noisy] > 0.999).all()
    assert np.abs(weighed[:, scratched] - plain[:, scratched]).max() > 1e-3
    others = [index for index in range(len(DAMAGE_CLASSES)) if index not in (noisy, scratched)]
    np.testing.assert_allclose(weighed[:, others], plain[:, others], atol=1e-5)


# Deciding and applying


def test_a_picture_alone_is_decided_as_in_a_batch(exported: Exported) -> None:
    captions = [CAPTIONS[index].encode() for index in (0, 4, 9, 16, 18)]
    batch = decide(exported.model, 5, captions)
    for index in range(5):
        alone = exported.model.decide(
            thumbnails(5)[index : index + 1], tf.constant(captions[index : index + 1]), tf.one_hot([index], PALETTE)
        )
        for name, value in batch.items():
            np.testing.assert_allclose(alone[name][0], value[index], 1e-3, 1e-3, err_msg=f"{name} of {index}")


def test_captions_and_palettes_count(exported: Exported) -> None:
    pictures = grey(1)  # with colour enough in the picture, a caption is not heard
    plain = exported.model.decide(pictures, tf.constant([""]), tf.zeros([1, PALETTE]))["matrix"]
    worded = exported.model.decide(pictures, tf.constant(["a harbour"]), tf.zeros([1, PALETTE]))["matrix"]
    lent = exported.model.decide(pictures, tf.constant([""]), tf.one_hot([5], PALETTE))["matrix"]
    assert np.abs(plain - worded).max() > 1e-4
    assert np.abs(plain - lent).max() > 1e-4
    blank = exported.model.decide(pictures, tf.constant(["🚢 ?!"]), tf.zeros([1, PALETTE]))["matrix"]
    np.testing.assert_allclose(blank, plain, atol=1e-6)


@pytest.mark.parametrize("shape", [(THUMBNAIL, THUMBNAIL), (300, 420), (31, 17), (1, 1)])
def test_serving_is_deciding_and_applying(exported: Exported, shape: tuple[int, int]) -> None:
    images = tf.cast(tf.image.resize(thumbnails(2, 5), shape), tf.uint8)
    captions = tf.constant(["a harbour in winter", "red and blue boats"])
    served = exported.model.signatures["serving_default"](image=images, caption=captions)
    small = tf.image.resize(tf.cast(images, tf.float32), [THUMBNAIL, THUMBNAIL], method="area")
    decided = exported.model.decide(tf.cast(tf.round(small), tf.uint8), captions, tf.zeros([2, PALETTE]))
    for index in range(2):
        given = {name: decided[name][index] for name in COEFFICIENTS}
        share = exported.model.signatures["noisiness"](places=probes(images[index]))["share"]
        given["detail"] *= tf.stack([share, 1.0])
        applied = exported.model.signatures["apply_uint8"](image=images[index], **given)["restored"]
        difference = np.abs(applied.numpy().astype(int) - served["restored"][index].numpy())
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
    for name in SERVED:
        np.testing.assert_allclose(served[name], decided[name], atol=1e-4)


def test_8_and_16_bits_are_restored_alike(exported: Exported) -> None:
    image = thumbnails(1, 7)[0]
    decided = exported.model.decide(image[None], tf.constant([""]), tf.zeros([1, PALETTE]))
    given = {name: decided[name][0] for name in COEFFICIENTS}
    eight = exported.model.signatures["apply_uint8"](image=image, **given)["restored"].numpy()
    wide = tf.constant(image.numpy().astype(np.uint16) * 257)
    sixteen = exported.model.signatures["apply_uint16"](image=wide, **given)["restored"].numpy()
    assert np.abs(sixteen / 257 - eight).max() < 1.1


# Captions: one meaning everywhere


def features_of(ids: Any, weights: Any) -> list[tuple[int, float]]:
    """The words of one caption, without padding, in order."""
    pairs = [(int(word), float(weight)) for word, weight in zip(ids, weights, strict=True) if weight != 0]
    return [(word, round(weight, 6)) for word, weight in pairs]


@pytest.mark.parametrize("how", ["before saving", "in the SavedModel"])
@pytest.mark.parametrize("together", [True, False], ids=["batch", "alone"])
def test_captions_give_the_features_that_prepare_gave(
    prepared: Prepared, exported: Exported, how: str, together: bool
) -> None:
    transform = TransformGraph(prepared.transform_fn)
    if how == "in the SavedModel":
        transform.graph = exported.model.transform.graph
    groups = [list(range(len(CAPTIONS)))] if together else [[index] for index in range(len(CAPTIONS))]
    for group in groups:
        ids, weights = transform.captions(tf.constant([encoded()[index] for index in group]))
        for row, index in enumerate(group):
            expected = features_of(*prepared.rows[str(index)])
            assert features_of(ids[row].numpy(), weights[row].numpy()) == expected, CAPTIONS[index][:60]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A harbour in winter, with fishing boats", "a harbour in winter with fishing boats"),
        ("Boats. BOATS! boats?", "boats boats boats"),
        ("港口的冬天", "港 口 的 冬 天"),
        ("冬の港 with boats", "冬 の 港 with boats"),
        ("🚢 harbour 🚢🚢", "harbour"),
        ("a'b c-d_e 12.5", "a b c d e 12 5"),
        ("The king's boat, the kings' boats; O’Brien’s", "the king boat the kings boats o brien"),
        ("ÉCOLE école", "école école"),
        ("", ""),
        (" \n\t?!…🚢", ""),
        (b"Caf\xe9 in the \xff\xfe harbour", "caf in the harbour"),
        (" ".join(["boat"] * 1000), " ".join(["boat"] * MAX_TOKENS)),
    ],
)
def test_captions_are_cut_into_words(caption: str | bytes, expected: str) -> None:
    found = words(tf.constant([caption, "x y"]))
    row = tf.sparse.to_dense(found).numpy()[0]
    assert b" ".join(word for word in row if word).decode() == expected


def test_the_features_of_prepare_are_sound(prepared: Prepared) -> None:
    row = {caption[:20]: prepared.rows[str(index)] for index, caption in enumerate(CAPTIONS)}
    for ids, weights in row.values():
        assert len(ids) == len(weights) <= MAX_TOKENS
        assert all(0 <= word < WORDS + 1 for word in ids)
        assert all(weight > 0 for weight in weights)
    assert row["🚢"] == row[""] == row["?!..."] == ([], [])
    boats = vocabulary().index("boats")
    assert row["Boats. BOATS! boats?"][0] == [boats] * 3
    assert len(set(row["Boats. BOATS! boats?"][1])) == 1
    assert row[CAPTIONS[0][:20]][0] == [
        vocabulary().index(word) for word in ("a", "harbour", "in", "winter", "with", "fishing", "boats")
    ]
    documents = sum(boats in prepared.rows[str(index)][0] for index in range(len(CAPTIONS)))
    np.testing.assert_allclose(
        row["Boats. BOATS! boats?"][1][0], 1 + np.log((len(CAPTIONS) + 1) / (documents + 1)), rtol=1e-5
    )
    assert row["🚢 harbour 🚢🚢"][0][0] in row[CAPTIONS[1][:20]][0]


def test_a_word_never_seen_counts_as_unknown(prepared: Prepared) -> None:
    ids, weights = TransformGraph(prepared.transform_fn).captions(
        tf.constant(["harbour zeppelin", "xqzvk harbour", ""])
    )
    harbour, zeppelin = (vocabulary().index(word) for word in ("harbour", "zeppelin"))
    assert ids[:2].numpy().tolist() == [[harbour, zeppelin], [UNKNOWN, harbour]]
    assert (weights[:2].numpy() > 0).all()
    assert weights[0, 1] > weights[0, 0]
    assert not weights[2].numpy().any()


def test_the_transform_graph_brings_its_vocabulary(prepared: Prepared, tmp_path: pathlib.Path) -> None:
    """Moved elsewhere, it reads the file that moved with it, not the package's."""
    folder = tmp_path / "moved"
    shutil.copytree(prepared.transform_fn, folder)
    assert (folder / "assets" / "vocabulary.txt").read_bytes() == pathlib.Path(VOCABULARY_PATH).read_bytes()
    for file in folder.rglob("*.pb"):
        assert str(pathlib.Path(VOCABULARY_PATH).parent).encode() not in file.read_bytes()
    asset = folder / "assets" / "vocabulary.txt"
    asset.write_text(asset.read_text(encoding="utf-8").replace("\nharbour\n", "\nhxrbour\n"), encoding="utf-8")
    ids, _ = TransformGraph(str(folder)).captions(tf.constant(["hxrbour harbour"]))
    assert ids.numpy().tolist() == [[vocabulary().index("harbour"), UNKNOWN]]


def test_statistics_are_normalised_over_the_collection(prepared: Prepared, exported: Exported) -> None:
    for graph in (TransformGraph(prepared.transform_fn).graph, exported.model.transform.graph):
        raw = {
            CAPTION_TEXT: tf.fill([len(CAPTIONS)], ""),
            IMAGE_STATISTICS: tf.constant(prepared.statistics),
        }
        normal = graph.transform_fn(raw)[IMAGE_STATISTICS_Z].numpy()
        np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(normal.std(0), 1, atol=1e-3)


def test_the_graph_names_its_features(prepared: Prepared) -> None:
    graph = TransformGraph(prepared.transform_fn).graph
    result = graph.transform_fn({CAPTION_TEXT: tf.constant(["a"]), IMAGE_STATISTICS: tf.zeros([1, STATISTICS])})
    assert set(result) == {CAPTION_IDS, CAPTION_WEIGHTS, IMAGE_STATISTICS_Z}


# By itself


def test_the_model_needs_nothing_but_its_folder(exported: Exported, prepared: Prepared, tmp_path: pathlib.Path) -> None:
    """In a fresh process, with TensorFlow only, where no table of this process can help out."""
    for file in exported.folder.rglob("*"):
        if file.is_file() and file.suffix == ".pb":
            assert str(exported.folder.parent).encode() not in file.read_bytes()
            assert str(pathlib.Path(VOCABULARY_PATH).parent).encode() not in file.read_bytes()
    script = """
import sys, numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
given = np.load(sys.argv[2])
result = model.decide(given["thumbnail"], tf.constant(given["caption"]), tf.one_hot(tf.range(3), 64))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in result.items()})
assert not {"models", "tensorflow_transform"} & set(sys.modules)
"""
    captions = [encoded()[0], encoded()[4], b""]
    np.savez(tmp_path / "in.npz", thumbnail=thumbnails(3).numpy(), caption=np.array(captions))
    done = subprocess.run(
        [sys.executable, "-c", script, str(exported.folder), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = decide(exported.model, 3, captions)
    found = np.load(tmp_path / "out.npz")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


def test_exporting_again_replaces(
    prepared: Prepared, exported: Exported, random_generator: Callable[..., Any], detail: Any, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "saved"
    shutil.copytree(exported.folder, folder)
    export(random_generator(2, 0.5), detail, TransformGraph(prepared.transform_fn), NEVER_BACK, str(folder))
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert sum(name.startswith("assets/") for name in files) == 1
    assert not [name for name in files if "keras" in name]
    before, after = decide(exported.model), decide(tf.saved_model.load(str(folder)))
    assert np.abs(before["matrix"] - after["matrix"]).max() > 0.01


def test_it_is_small(exported: Exported) -> None:
    """With the networks at their usual size, too: less than 30 MB."""
    saved = sum(file.stat().st_size for file in exported.folder.rglob("*") if file.is_file())
    usual = Generator()
    usual(
        tf.zeros([1, SIGHT, SIGHT, 3], tf.uint8),
        tf.zeros([1]),
        tf.zeros([1, STATISTICS]),
        tf.zeros([1, 1], tf.int64),
        tf.zeros([1, 1]),
        tf.zeros([1, PALETTE]),
    )
    assert saved + 4 * usual.count_params() < 30e6
