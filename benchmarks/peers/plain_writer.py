"""The plain way to TFRecords: tf.io.TFRecordWriter in a for loop, the file's bytes, size, digest and caption."""

from __future__ import annotations

import hashlib

import shared
import tensorflow as tf
from PIL import Image


def _bytes(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _ints(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def main() -> None:
    rows, output, _, _ = shared.arguments()
    with tf.io.TFRecordWriter(str(output / "records.tfrecord")) as writer:
        for path, caption in rows:
            with open(path, "rb") as file:
                data = file.read()
            with Image.open(path) as picture:
                picture.load()  # a broken file must not get into a training
                width, height = picture.size
            feature = {
                "id": _bytes(path.encode()),
                "image/encoded": _bytes(data),
                "image/height": _ints(height),
                "image/width": _ints(width),
                "image/sha256": _bytes(hashlib.sha256(data).hexdigest().encode()),
                "caption/text": _bytes(caption.encode()),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


if __name__ == "__main__":
    main()
