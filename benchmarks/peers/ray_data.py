"""Ray Data: `map_batches` with an actor a core, each with the model."""

from __future__ import annotations

import os
import pathlib

import shared


class Restorer:
    """The actor."""

    def __init__(self, folder: str, output: str, residual: bool) -> None:
        import tensorflow as tf

        # One core an actor: with all of them in each, actors get in each other's way.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        self._output, self._residual = pathlib.Path(output), residual
        self._model = tf.saved_model.load(folder)

    def __call__(self, batch: dict) -> dict:
        import io

        import numpy as np
        import tensorflow as tf
        from PIL import Image

        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in batch["path"]]
        small = [np.asarray(Image.fromarray(one).resize((256, 256), Image.Resampling.BOX)) for one in pictures]
        decided = self._model.signatures["decide"](
            thumbnail=tf.constant(np.stack(small)),
            caption=tf.constant(list(batch["caption"])),
            reference_palette=tf.zeros([len(small), 64]),
        )
        for index, (path, picture) in enumerate(zip(batch["path"], pictures, strict=True)):
            given = shared.coefficients(decided, index, self._residual)
            restored = self._model.signatures["apply_uint8"](image=tf.constant(picture), **given)["restored"].numpy()
            buffer = io.BytesIO()
            Image.fromarray(restored).save(buffer, "JPEG", quality=shared.QUALITY, subsampling=2)
            (self._output / pathlib.Path(path).name).write_bytes(buffer.getvalue())
        return {"path": batch["path"]}


def main() -> None:
    import ray

    rows, output, folder, residual = shared.arguments()
    here = str(pathlib.Path(__file__).parent)
    ray.init(num_cpus=os.cpu_count(), logging_level="error", runtime_env={"env_vars": {"PYTHONPATH": here}})
    data = ray.data.from_items([{"path": path, "caption": caption} for path, caption in rows])
    done = data.map_batches(
        Restorer,
        fn_constructor_args=(folder, str(output), residual),
        batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=os.cpu_count()),
        num_cpus=1,
    )
    assert done.count() == len(rows)


if __name__ == "__main__":
    main()
