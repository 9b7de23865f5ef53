"""Fixtures that several test modules share."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import archives
import faulty
import pytest

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"

LONGEST = frozenset(
    f"test_{name}.py"
    for name in (
        "training",
        "kills",
        "stop",
        "resume",
        "export",
        "loading",
        "storage_faults",
        "gcs",
        "report_page",
        "hostile",
        "restore",
        "fidelity",
        "cli",
        "console",
    )
)
"""Files of few but long tests: begun last, as xdist would, one of them keeps one core waiting for the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def random_generator() -> Callable[..., Any]:
    """Makes a small generator with random weights in every layer: an untrained one decides nearly nothing.

    The errors that it expects stay between 1 and 10, so that confidences are neither 0 nor 1.
    """

    def make(seed: int, scale: float = 0.3, **parts: bool) -> Any:
        import keras
        import numpy as np
        import tensorflow as tf

        from models.contract import PALETTE, SIGHT, STATISTICS
        from models.generator import Generator, Parts

        keras.utils.set_random_seed(seed)
        generator = Generator(width=8, colour_width=8, parts=Parts(**parts))
        generator(
            tf.zeros([1, SIGHT, SIGHT, 3], tf.uint8),
            tf.zeros([1]),
            tf.zeros([1, STATISTICS]),
            tf.zeros([1, 1], tf.int64),
            tf.zeros([1, 1]),
            tf.zeros([1, PALETTE]),
        )
        rng = np.random.default_rng(seed)
        for variable in generator.trainable_variables:
            value = variable.numpy() + scale * rng.normal(0, 0.3, variable.shape)
            if variable.path.split("/")[-2] in ("errors", "error", "local"):
                value = 0.02 * value + (1.0 if variable.name == "bias" else 0.0)
            variable.assign(value)
        return generator

    return make


@pytest.fixture(scope="session")
def detail() -> Any:
    """An untrained detail network: it changes a little everywhere, and no code value by much."""
    import keras
    import tensorflow as tf

    from models.detail import Detail

    keras.utils.set_random_seed(1)
    network = Detail(width=8)
    network(tf.zeros([1, 16, 16, 3]))
    return network


@pytest.fixture(scope="session")
def random_detail() -> Any:
    """A detail network with random weights, which changes every pixel visibly."""
    import keras
    import numpy as np

    from models.detail import Detail

    keras.utils.set_random_seed(1)
    network = Detail()
    network(np.zeros((1, 16, 16, 3), np.float32))
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(variable.numpy() + rng.normal(0, 0.02, variable.shape))
    return network


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of records that `unfade prepare` made of `samples/`."""
    from pipelines import prepare

    folder = str(tmp_path_factory.mktemp("prepared") / "records")
    status = prepare.main(["--input", f"{SAMPLES}/pairs.csv", "--output", folder, "--direct_num_workers", "1"])
    assert status == 0
    return folder


@pytest.fixture(scope="session")
def saved_model(
    prepared: str, random_generator: Callable[..., Any], detail: Any, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """An untrained generator, exported as `unfade train` exports a trained one; it never falls back to the input."""
    from models.export import Calibration, TransformGraph, export

    folder = str(tmp_path_factory.mktemp("model") / "saved_model")
    graph = TransformGraph(f"{prepared}/transform_fn")
    export(random_generator(1), detail, graph, Calibration(margin=-100.0), folder)
    return folder


@pytest.fixture(scope="session")
def foreign_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of SavedModels that others might bring, sound ones and bad ones, by what they do."""
    import tensorflow as tf

    def inverted(image: tf.Tensor) -> tf.Tensor:
        return {"restored": 1.0 - image}

    def by_caption(picture: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
        invert = tf.strings.regex_full_match(text, ".*invert.*")[:, None, None, None]
        return {"output": tf.where(invert, 255 - picture, picture)}

    def not_finite(image: tf.Tensor) -> tf.Tensor:
        return {"restored": image / 0.0 - image / 0.0}

    def smaller(image: tf.Tensor) -> tf.Tensor:
        return {"restored": image[:, ::2, ::2]}

    def eights(image: tf.Tensor) -> tf.Tensor:
        whole = tf.debugging.Assert(tf.reduce_all(tf.shape(image)[1:3] % 8 == 0), ["sides must be multiples of 8"])
        with tf.control_dependencies([whole]):
            return {"restored": 1.0 - image}

    def scalar(x: tf.Tensor) -> tf.Tensor:
        return {"y": x + 1.0}

    def labels(image: tf.Tensor) -> tf.Tensor:
        return {"label": tf.reduce_mean(image, axis=[1, 2])}

    floats = tf.TensorSpec([None, None, None, 3], tf.float32, "image")
    functions = {
        "inverted": (inverted, [floats]),
        "by caption": (
            by_caption,
            [tf.TensorSpec([None, None, None, 3], tf.uint8, "picture"), tf.TensorSpec([None], tf.string, "text")],
        ),
        "not finite": (not_finite, [floats]),
        "smaller": (smaller, [floats]),
        "eights": (eights, [floats]),
        "scalar": (scalar, [tf.TensorSpec([None], tf.float32, "x")]),
        "labels": (labels, [floats]),
    }
    root = tmp_path_factory.mktemp("foreign")
    folders = {}
    for name, (function, signature) in functions.items():
        module = tf.Module()
        module.serve = tf.function(function, input_signature=signature)
        folders[name] = str(root / name)
        tf.saved_model.save(module, folders[name], signatures=module.serve)
    module = tf.Module()
    module.other = tf.function(inverted, input_signature=[floats])
    folders["no serving signature"] = str(root / "none")
    tf.saved_model.save(module, folders["no serving signature"], signatures={"other": module.other})
    return folders


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> archives.Archive:
    """A small archive with every kind of picture, and every kind of trouble."""
    return archives.make(tmp_path_factory.mktemp("archive") / "box [1] 港")


@pytest.fixture(scope="session")
def archive_records(archive: archives.Archive, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `unfade prepare` makes of the archive."""
    from pipelines import prepare

    folder = str(tmp_path_factory.mktemp("records") / "out [1]")
    arguments = ["--input", archive.manifest, "--output", folder, "--direct_num_workers", "1", "--num_shards", "3"]
    assert prepare.main(arguments) == 3  # half of it is bad
    return folder


@pytest.fixture(scope="module")
def emulator() -> Iterator[Any]:
    """An object store over HTTP with the bucket gs://archive."""
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = create_server("localhost", 0, in_memory=True, default_bucket="archive")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def emulator_bucket(emulator: Any) -> Iterator[Any]:
    """Its bucket, as the storage client sees it; commands find the store, too."""
    from apache_beam.internal.gcp import auth as beam_auth
    from google.cloud import storage as client

    with pytest.MonkeyPatch.context() as patch:
        host, port = emulator._api._httpd.server_address[:2]
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
        patch.setattr(beam_auth._Credentials, "_credentials_init", False)
        yield client.Client.create_anonymous_client().bucket("archive")


@pytest.fixture(scope="module")
def proxy(emulator_bucket: Any) -> Iterator[faulty.Proxy]:
    """A proxy before the object store, through which all requests go; it commits no fault until told."""
    import os
    import urllib.parse

    port = urllib.parse.urlsplit(os.environ["STORAGE_EMULATOR_HOST"]).port
    assert port
    with pytest.MonkeyPatch.context() as patch, faulty.Proxy(port) as proxy:
        patch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy of retries with waits of milliseconds, and a deadline of a second or two."""
    from transforms import retrying

    monkeypatch.setattr(retrying, "INITIAL_SECONDS", 0.01)
    monkeypatch.setattr(retrying, "MAXIMUM_SECONDS", 0.05)
    monkeypatch.setattr(retrying, "SECONDS", 1.5)
    monkeypatch.setattr(retrying, "WEB_SECONDS", 1.0)
    monkeypatch.setattr(retrying, "SOCKET_SECONDS", 0.4)
    monkeypatch.setattr(retrying, "WINDOW_SECONDS", 0.6)
