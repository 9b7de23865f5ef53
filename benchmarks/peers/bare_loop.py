"""The bare model: what an expert would write by hand.

tf.data reads, decodes and shrinks in parallel, `decide` gets batches, a thread a core corrects and encodes. No colour
management, no metadata, no metrics, no error records, no resume.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib

import shared
import tensorflow as tf

BATCH = 16


def load(path: tf.Tensor, caption: tf.Tensor) -> tuple[tf.Tensor, ...]:
    picture = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")
    small = tf.image.resize(tf.cast(picture, tf.float32), [256, 256], method="area")
    return path, caption, picture, tf.cast(tf.round(small), tf.uint8)


def main() -> None:
    rows, output, folder, residual = shared.arguments()
    model = tf.saved_model.load(folder)
    decide, apply = model.signatures["decide"], model.signatures["apply_uint8"]
    paths, captions = ([row[column] for row in rows] for column in (0, 1))
    data = tf.data.Dataset.from_tensor_slices((paths, captions))
    data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(BATCH)

    def correct(path: str, picture: tf.Tensor, given: dict[str, tf.Tensor]) -> None:
        restored = apply(image=picture, **given)["restored"]
        tf.io.write_file(str(output / pathlib.Path(path).name), tf.io.encode_jpeg(restored, quality=shared.QUALITY))

    def run(batch: list[tuple[tf.Tensor, ...]], pool: concurrent.futures.Executor) -> None:
        thumbnails, texts = tf.stack([one[3] for one in batch]), tf.stack([one[1] for one in batch])
        decided = decide(thumbnail=thumbnails, caption=texts, reference_palette=tf.zeros([len(batch), 64]))
        work = [
            pool.submit(correct, one[0].numpy().decode(), one[2], shared.coefficients(decided, index, residual))
            for index, one in enumerate(batch)
        ]
        for done in work:
            done.result()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        batch: list[tuple[tf.Tensor, ...]] = []
        for item in data:
            batch.append(item)
            if len(batch) == BATCH:
                run(batch, pool)
                batch = []
        if batch:
            run(batch, pool)


if __name__ == "__main__":
    main()
