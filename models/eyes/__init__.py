"""Eyes that know the world: the features of a network that has seen a million photographs, its weights frozen.

EfficientNet-Lite0 (Tan & Le 2019; Google's "Lite" variant without squeeze-and-excitation), trained on ImageNet. A
thousand photographs cannot teach what grass, skin or sky look like; it knows. `README.md` here says where the weights
come from.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers

_WEIGHTS = pathlib.Path(__file__).with_name("weights.npz")

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
"""Of the blocks."""

_MIDDLE = 10
"""The last block at a sixteenth of the picture's side."""

MIDDLE, DEEP = 112, 320
"""Channels at a sixteenth and at a thirty-second of the picture's side."""


@functools.cache
def _weights() -> dict[str, np.ndarray]:
    with np.load(_WEIGHTS) as arrays:
        return {name: arrays[name] for name in arrays.files}


class Eyes(layers.Layer):
    """Looks at pictures. Nothing in it is trained: its weights are constants, as small as they are kept."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kept = {name: tf.constant(value) for name, value in _weights().items()}

    def call(self, pictures: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of a batch.

        Args:
          pictures: float32 [N, S, S, 3], sRGB in 0..1; S a multiple of 32.

        Returns:
          float32 [N, S/16, S/16, MIDDLE] and [N, S/32, S/32, DEEP].
        """
        middle = x = tf.nn.relu6(self._convolve(pictures * (255 / 128) - 127 / 128, "stem", 2))
        for block, stride in enumerate(_STRIDES):
            before = x
            if f"{block}/expand/kernel" in self._kept:
                x = tf.nn.relu6(self._convolve(x, f"{block}/expand", 1))
            kernel, bias = self._of(f"{block}/depthwise")
            x = tf.nn.relu6(tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME") + bias)
            x = self._convolve(x, f"{block}/project", 1)
            if x.shape == before.shape:
                x += before
            if block == _MIDDLE:
                middle = x
        return middle, x

    def _of(self, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(self._kept[f"{name}/kernel"], tf.float32), self._kept[f"{name}/bias"]

    def _convolve(self, x: tf.Tensor, name: str, stride: int) -> tf.Tensor:
        kernel, bias = self._of(name)
        return tf.nn.conv2d(x, kernel, stride, "SAME") + bias
