"""Prepared records: what `prepare` writes, `train` and `restore` read. The contract is `features.RECORD_FEATURES`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.contract import CAPTION_IDS, CAPTION_TEXT, CAPTION_WEIGHTS
from transforms import storage
from transforms.guard import Heavy
from transforms.items import ItemFailure, Pair, UsageError

if TYPE_CHECKING:
    import tensorflow as tf

SUCCESS = "_SUCCESS"


@dataclasses.dataclass(frozen=True)
class Item:
    """A pair whose picture has been read and found sound. Small: it crosses shuffles in the picture's stead.

    Attributes:
      pair: Where it came from.
      caption: The caption that holds: catalogue, sidecar or embedded; "" for none.
      sha256: Of the file's bytes, hexadecimal.
      format: Pillow's name of the format.
      height: In pixels, as stored.
      width: In pixels, as stored.
      statistics: float32 [15], see `models.statistics`.
      palette: float32 [64] of the related pictures, or empty.
    """

    pair: Pair
    caption: str
    sha256: str
    format: str
    height: int
    width: int
    statistics: npt.NDArray[np.float32]
    palette: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Source(Heavy):
    """One picture with its bytes, ready to be restored: read from a pair or from a prepared record.

    Attributes:
      pair: What the catalogue says. From a record, `uri` is where the picture was when it was prepared.
      encoded: The file's bytes.
      caption: The caption that holds, "" for none.
      palette: float32 [64] of the related pictures, or empty.
      target: Bytes of the undamaged original, where there is one.
      identity: Stands for all of these in few characters, see `identity`.
    """

    pair: Pair
    encoded: bytes
    caption: str
    palette: npt.NDArray[np.float32]
    target: bytes | None
    identity: str = ""


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def shard_of(item_id: str, shards: int) -> int:
    """The shard that an item goes to: by hash of its id, so neither order nor machine matters."""
    return int.from_bytes(hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).digest()[:8], "big") % shards


def shard_name(index: int, shards: int) -> str:
    """`records-00003-of-00016.tfrecord`."""
    return f"records-{index:05d}-of-{shards:05d}.tfrecord"


def to_example(item: Item, encoded: bytes, ids: list[int], weights: list[float], target: bytes | None) -> bytes:
    """A serialized `tf.train.Example`; the same input gives the same bytes.

    Args:
      item: The examined item.
      encoded: The picture's bytes, untouched.
      ids: The caption's word ids.
      weights: Their weights.
      target: Bytes of the undamaged original, if any.
    """
    import tensorflow as tf  # here, because it takes seconds to load and bad usage is told without it

    def text(*values: str | bytes) -> tf.train.Feature:
        data = [value.encode("utf-8", "replace") if isinstance(value, str) else value for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=data))

    def whole(*values: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def real(values: Any) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    features = {
        "id": text(item.pair.id),
        "uri": text(item.pair.uri),
        "image/encoded": text(encoded),
        "image/format": text(item.format),
        "image/height": whole(item.height),
        "image/width": whole(item.width),
        "image/sha256": text(item.sha256),
        CAPTION_TEXT: text(item.caption),
        CAPTION_IDS: whole(*ids),
        CAPTION_WEIGHTS: real(weights),
        "reference/palette": real(item.palette.tolist()),
        "target/encoded": text(*([target] if target is not None else [])),
        "extra": text(json.dumps(dict(item.pair.extra), sort_keys=True, ensure_ascii=False)),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString(deterministic=True))


def from_example(serialized: bytes) -> Source:
    """A record as something to restore. Raises `ItemFailure` (`BadRecord`) if a feature is missing."""
    import tensorflow as tf

    try:
        features = tf.train.Example.FromString(serialized).features.feature
        palette = features["reference/palette"].float_list.value
        target = features["target/encoded"].bytes_list.value
        pair = Pair(
            id=features["id"].bytes_list.value[0].decode(),
            uri=features["uri"].bytes_list.value[0].decode(),
            extra=json.loads(features["extra"].bytes_list.value[0]),
        )
        encoded, caption = (features[name].bytes_list.value[0] for name in ("image/encoded", CAPTION_TEXT))
        parts = (encoded, caption, np.asarray(palette, np.float32).tobytes(), *target)
        return Source(
            pair,
            encoded,
            caption.decode("utf-8", "replace"),
            np.asarray(palette, np.float32),
            target[0] if target else None,
            identity=sha256("".join(map(sha256, parts)).encode()),
        )
    except Exception as error:
        raise ItemFailure("BadRecord", f"a record that `unfade prepare` did not write: {error}") from error


def write_shard(uri: str, examples: Iterable[bytes]) -> None:
    """Writes one TFRecord file, uncompressed, atomically; one record at a time is in memory."""
    import tensorflow as tf

    def write(path: str) -> None:
        with tf.io.TFRecordWriter(path) as writer:
            for example in examples:
                writer.write(example)

    storage.write_through(uri, write)


def read_shard(uri: str) -> Iterator[bytes]:
    """The serialized examples of one TFRecord file, one in memory at a time.

    (Beam's own reader takes names as globs, and finds nothing in a folder called "scans [1]".)

    Raises:
      RuntimeError: The shard is gone or damaged: that is no single item's fault, and stops the run.
    """
    import tensorflow as tf

    try:
        with storage.local_copy(uri) as path:
            for serialized in tf.data.TFRecordDataset(path):
                yield serialized.numpy()
    except (tf.errors.OpError, ItemFailure) as error:
        raise RuntimeError(f"{uri} cannot be read ({error}); run `unfade prepare` again") from error


def write_success(folder: str, shards: list[str], records: int) -> None:
    """Writes `_SUCCESS`: from here on the folder is readable, and only these shards are."""
    body = json.dumps({"shards": sorted(shards), "records": records}, indent=2, sort_keys=True) + "\n"
    storage.write_bytes(storage.join(folder, SUCCESS), body.encode())


def read_success(folder: str) -> dict[str, Any]:
    """What `write_success` wrote: `shards` and `records`.

    Raises:
      UsageError: It is not there, or not readable.
    """
    marker = storage.join(folder, SUCCESS)
    if not storage.exists(marker):
        raise UsageError(f"{folder} holds no finished records ({SUCCESS} is missing); run `unfade prepare` again")
    try:
        body: dict[str, Any] = json.loads(storage.read_bytes(marker))
        if not all(isinstance(name, str) for name in body["shards"]):
            raise TypeError("a shard's name is not text")
        int(body["records"])
    except (ValueError, KeyError, TypeError, ItemFailure) as error:
        raise UsageError(f"{marker} is not readable ({error}); run `unfade prepare` again") from error
    return body


def is_prepared(folder: str) -> bool:
    """Whether a folder holds finished records."""
    return storage.exists(storage.join(folder, SUCCESS))


def shards_in(folder: str) -> list[str]:
    """URIs of the shards that `_SUCCESS` lists.

    Raises:
      UsageError: Not a finished folder of records, or a listed shard is gone.
    """
    uris = [storage.join(folder, name) for name in read_success(folder)["shards"]]
    there = set(storage.listing(folder.rstrip("/"), "*"))  # one request, however many there are
    missing = [uri for uri in uris if uri not in there]
    if missing:
        raise UsageError(f"{missing[0]} is listed in {SUCCESS} but missing; run `unfade prepare` again")
    return uris
