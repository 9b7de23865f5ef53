"""What the machine at hand offers a training: several GPUs, and their arithmetic of half precision."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers

_BFLOAT16_FROM = (8, 0)  # compute capability of the first GPUs that multiply bfloat16 themselves (Ampere)


def strategy() -> tf.distribute.Strategy:
    """A copy of the networks on each GPU if there are several, each with its share of every batch; else as usual."""
    return tf.distribute.MirroredStrategy() if len(_gpus()) > 1 else tf.distribute.get_strategy()


def has_bfloat16() -> bool:
    """Whether half precision pays here: there are GPUs, and all of them know bfloat16."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in _gpus()]
    return bool(details) and all(one.get("compute_capability", (0, 0)) >= _BFLOAT16_FROM for one in details)


def set_precision(model: keras.Model, half: bool) -> None:
    """Lets the model's inner convolutions multiply in bfloat16, or in float32 again; call it before they are traced.

    They are most of the work. Weights, sums and everything that decides a colour stay float32; bfloat16 has the range
    of float32, so gradients need no scaling.

    Args:
      model: Built or not. Its last convolutions, which have no activation, are left alone.
      half: Whether in bfloat16.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Conv2D) and layer.activation is not keras.activations.linear:
            layer.dtype_policy = "mixed_bfloat16" if half else "float32"


def _gpus() -> list[tf.config.PhysicalDevice]:
    return tf.config.list_physical_devices("GPU")
