"""The tensorflow-transform step: words of the caption and statistics of the picture, by what the collection holds.

Analysed once over the whole collection in `prepare`; the same graph goes into the SavedModel, so a caption gives the
same features in training and in serving. It sees captions and a few numbers a picture, never image bytes.
"""

from __future__ import annotations

import hashlib
import pathlib
import pickle
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam import pvalue
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx_bsl.tfxio import tensor_adapter, tf_example_record

from models.contract import (
    CAPTION_IDS,
    CAPTION_TEXT,
    CAPTION_WEIGHTS,
    IMAGE_STATISTICS,
    IMAGE_STATISTICS_Z,
    MAX_TOKENS,
    STATISTICS,
)
from models.words import UNKNOWN, VOCABULARY_PATH, WORDS
from transforms import storage
from transforms.guard import in_worker
from transforms.records import Item

RAW_FEATURES: dict[str, Any] = {
    CAPTION_TEXT: tf.io.FixedLenFeature([], tf.string),
    IMAGE_STATISTICS: tf.io.FixedLenFeature([STATISTICS], tf.float32),
}

_ITEM = "item"  # passthrough column: the pickled Item, hidden from the TFT graph
_BATCH = 256  # captions in one record batch

_BREAKS = r"[^\p{L}\p{M}\p{N}]+"  # what separates words: spaces, punctuation, emoji
_POSSESSIVE = r"['’]s([^\p{L}\p{M}\p{N}]|$)"  # (RE2's \b knows ASCII only)
_IDEOGRAPH = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])"  # scripts without spaces: every character is a word


def raw_metadata() -> dataset_metadata.DatasetMetadata:
    """Schema of what goes into the TFT graph."""
    return dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(RAW_FEATURES))


def words(captions: tf.Tensor) -> tf.SparseTensor:
    """Captions as words: lower case, without punctuation, at most `MAX_TOKENS`.

    Args:
      captions: string [N], UTF-8; invalid bytes become separators.

    Returns:
      Sparse string [N, T].
    """
    text = tf.strings.unicode_transcode(captions, "UTF-8", "UTF-8", replacement_char=32)
    text = tf.strings.lower(text, encoding="utf-8")
    text = tf.strings.regex_replace(text, _POSSESSIVE, " ")
    text = tf.strings.regex_replace(text, _BREAKS, " ")
    text = tf.strings.regex_replace(text, _IDEOGRAPH, r" \1 ")
    tokens = tf.strings.split(tf.strings.strip(text)).to_sparse()
    return tf.sparse.slice(tokens, [0, 0], [tokens.dense_shape[0], MAX_TOKENS])


class _Words(tf.lookup.TextFileInitializer):
    """The vocabulary; its table is named by what it holds.

    Else its name would be the path of this installation, as that of tft.apply_vocabulary is. Without any name
    (anonymous) it stays empty where a SavedModel is loaded into a session, as TensorFlow Serving does.
    """

    @property
    def _shared_name(self) -> str:
        return f"unfade_words_{hashlib.sha256(pathlib.Path(VOCABULARY_PATH).read_bytes()).hexdigest()[:16]}"


def _word_table() -> tf.lookup.StaticHashTable:
    line = tf.lookup.TextFileIndex
    words = _Words(VOCABULARY_PATH, tf.string, line.WHOLE_LINE, tf.int64, line.LINE_NUMBER)
    return tf.lookup.StaticHashTable(words, UNKNOWN)


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """TFT's preprocessing function.

    Args:
      inputs: `caption/text` string [N], `image/statistics` float32 [N, STATISTICS].

    Returns:
      `caption/ids` (sparse int64 [N, T], ids of `models.words`, one a word, in the caption's order), `caption/weights`
      (sparse float32 [N, T], the words' inverse document frequency 1 + ln((n + 1) / (d + 1)), d of the collection's n
      captions having the word), `image/statistics_z` (float32 [N, STATISTICS], mean 0 and variance 1 over the
      collection).
    """
    # The vocabulary is given, its file becomes an asset of the graph; what is analysed is how rare each word is here.
    ids = tft.make_and_track_object(_word_table).lookup(words(inputs[CAPTION_TEXT]))
    return {
        CAPTION_IDS: ids,
        CAPTION_WEIGHTS: tft.experimental.idf(ids, WORDS + 1),
        IMAGE_STATISTICS_Z: tft.scale_to_z_score(inputs[IMAGE_STATISTICS], elementwise=True),
    }


def schema() -> schema_pb2.Schema:
    """Schema of a prepared record, the contract that readers rely on (written beside the shards as `schema.pbtxt`)."""
    return schema_utils.schema_from_feature_spec(RECORD_FEATURES)


def write_schemas(output: str) -> None:
    """Writes `schema.pbtxt` (of the records) and `metadata/schema.pbtxt` (of the TFT graph's input)."""
    for uri, written in (
        (storage.join(output, "schema.pbtxt"), schema()),
        (storage.join(output, "metadata", "schema.pbtxt"), raw_metadata().schema),
    ):
        storage.write_bytes(uri, text_format.MessageToString(written).encode())


RECORD_FEATURES: dict[str, Any] = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "uri": tf.io.FixedLenFeature([], tf.string),
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/format": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
    "image/sha256": tf.io.FixedLenFeature([], tf.string),
    CAPTION_TEXT: tf.io.FixedLenFeature([], tf.string),
    CAPTION_IDS: tf.io.VarLenFeature(tf.int64),
    CAPTION_WEIGHTS: tf.io.VarLenFeature(tf.float32),
    "reference/palette": tf.io.VarLenFeature(tf.float32),
    "target/encoded": tf.io.VarLenFeature(tf.string),
    "extra": tf.io.FixedLenFeature([], tf.string),
}


class ExtractFeatures(beam.PTransform):
    """The TFT step: analyses the captions of the whole collection, then applies what it found.

    Args:
      output: Folder that `transform_fn/` and `transformed_metadata/` are written below.
      temporary: Folder that all workers see, for what TFT keeps between its passes.
    """

    def __init__(self, output: str, temporary: str) -> None:
        super().__init__()
        self._output, self._temporary = output, temporary

    def expand(self, items: pvalue.PCollection) -> tuple[pvalue.PCollection, pvalue.PCollection]:
        """PCollection[Item] -> PCollection[(Item, word ids, word weights)], and one to wait for the write."""
        batches = (
            items
            | "Batch" >> beam.BatchElements(min_batch_size=_BATCH, max_batch_size=_BATCH)
            | "ToArrow" >> beam.Map(_to_record_batch)
        )
        layout = tf_example_record.TFExampleBeamRecord(
            physical_format="inmem", schema=raw_metadata().schema
        ).TensorRepresentations()
        config = tensor_adapter.TensorAdapterConfig(_RECORD_BATCH, layout)
        with tft_beam.Context(temp_dir=self._temporary, passthrough_keys={_ITEM}, desired_batch_size=_BATCH):
            analysed = (batches, _blank_if_none(items)) | "Analysed" >> beam.Flatten()
            transform_fn = (analysed, config) | "Analyze" >> tft_beam.AnalyzeDataset(preprocessing_fn)
            transformed, _ = ((batches, config), transform_fn) | "Transform" >> tft_beam.TransformDataset(
                output_record_batches=True
            )
        # Not TFT's WriteTransformFn: it moves its files, so a bundle that is run again finds none.
        saved_model, metadata = transform_fn
        graph = (
            saved_model | "WriteTransformFn" >> beam.Map(_write_graph, self._output),
            metadata.deferred_metadata | "WriteMetadata" >> beam.Map(_write_transformed_schema, self._output),
        ) | "GraphWritten" >> beam.Flatten()
        return transformed | "FromArrow" >> beam.FlatMap(_from_record_batch), graph


def _blank_if_none(items: pvalue.PCollection) -> pvalue.PCollection:
    """One empty record batch where there is no item: TFT cannot analyse nothing, and every picture may have failed."""
    blank = pa.RecordBatch.from_pydict(
        {CAPTION_TEXT: [[b""]], IMAGE_STATISTICS: [[0.0] * STATISTICS], _ITEM: [[b""]]}, schema=_RECORD_BATCH
    )
    count = items | "CountItems" >> beam.combiners.Count.Globally()
    return count | "BlankIfNone" >> beam.FlatMap(lambda found: [] if found else [blank])


def _write_graph(saved_model: str, output: str) -> None:
    in_worker(storage.copy_tree)(saved_model, storage.join(output, "transform_fn"))


def _write_transformed_schema(metadata: dataset_metadata.DatasetMetadata, output: str) -> None:
    uri = storage.join(output, "transformed_metadata", "schema.pbtxt")
    in_worker(storage.write_bytes)(uri, text_format.MessageToString(metadata.schema).encode())


_RECORD_BATCH = pa.schema(
    [
        (CAPTION_TEXT, pa.large_list(pa.large_binary())),
        (IMAGE_STATISTICS, pa.large_list(pa.float32())),
        (_ITEM, pa.large_list(pa.large_binary())),
    ]
)


def _to_record_batch(items: list[Item]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            CAPTION_TEXT: [[item.caption.encode("utf-8", "replace")] for item in items],
            IMAGE_STATISTICS: [item.statistics.tolist() for item in items],
            _ITEM: [[pickle.dumps(item)] for item in items],  # our own bytes, within one run: safe to unpickle
        },
        schema=_RECORD_BATCH,
    )


def _from_record_batch(batch: Any) -> Iterator[tuple[Item, list[int], list[float]]]:
    table = (batch[0] if isinstance(batch, tuple) else batch).to_pydict()
    for item, ids, weights in zip(table[_ITEM], table[CAPTION_IDS], table[CAPTION_WEIGHTS], strict=True):
        yield pickle.loads(item[0]), list(ids), list(weights)
