"""What the form of the correction could reach: matrix, field and curves fitted to a truth that nobody has in use.

No generator whose decisions are applied by `models.correction` can do better than the best of such decisions. What
separates an oracle from the input is what it is able to undo; what separates it from zero is the limit of the form
(and of 8 bits, grain and defects); what separates a generator from the oracle is what it does not know.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models import correction
from models.colour import MAX_DENSITY, delta_e94, density_table, density_to_linear, linear_to_lab
from models.contract import VIEW
from models.correction import FIELD, SEGMENTS, Coefficients
from models.statistics import view

_STEPS = 500
_RATE = 0.03


def restore(
    image: npt.NDArray[np.generic],
    thumbnail: npt.NDArray[np.uint8],
    target: npt.NDArray[np.uint8],
    even: bool = False,
) -> npt.NDArray[np.generic]:
    """Corrects a picture as well as its truth allows.

    Args:
      image: uint8 or uint16 [H, W, 3], sRGB.
      thumbnail: uint8 [256, 256, 3], of the picture.
      target: uint8 [256, 256, 3], of the truth.
      even: Without a field.

    Returns:
      Same dtype and shape as `image`. Noise and defects stay.
    """
    fitted = Coefficients(*_fit(view(thumbnail[None])[0], view(target[None])[0], tf.constant(not even)))
    restored: npt.NDArray[np.generic] = _apply(image, fitted).numpy()
    return restored


@tf.function(reduce_retracing=True)
def _apply(image: tf.Tensor, coefficients: Coefficients) -> tf.Tensor:
    return correction.apply(image, coefficients, lambda pixels, _: tf.cast(pixels, tf.uint16))


@tf.function(jit_compile=True)
def _fit(picture: tf.Tensor, target: tf.Tensor, field: tf.Tensor) -> list[tf.Tensor]:
    """Minimises the mean CIE94 difference to the target by Adam (Kingma and Ba 2015), from least squares in density.

    Args:
      picture: uint8 [64, 64, 3].
      target: uint8 [64, 64, 3].
      field: bool [], whether there is one.

    Returns:
      The fields of `Coefficients`, for one picture.
    """
    table = tf.constant(density_table(256))
    density, wanted = (tf.gather(table, tf.cast(codes, tf.int32))[None] for codes in (picture, target))
    truth = linear_to_lab(density_to_linear(wanted))
    # A little of the identity holds what a picture of few colours leaves open.
    seen = tf.reshape(density, [-1, 3])
    seen = tf.concat([seen, tf.ones_like(seen[:, :1])], axis=1)
    start = tf.eye(4, 3)
    normal = tf.matmul(seen, seen, transpose_a=True) / VIEW**2 + 1e-3 * tf.eye(4)
    aim = tf.matmul(seen, tf.reshape(wanted, [-1, 3]), transpose_a=True) / VIEW**2 + 1e-3 * start
    matrix = tf.transpose(tf.matmul(tf.linalg.inv(normal), aim))
    values = [matrix, tf.zeros([3, 4]), tf.zeros([FIELD, FIELD]), tf.zeros([3, SEGMENTS])]
    # A field and its slope start the other from a standstill, were both 0.
    values[2] = tf.random.stateless_normal([FIELD, FIELD], [1, 2]) * 0.1

    def coefficients(matrix: tf.Tensor, slope: tf.Tensor, cells: tf.Tensor, bent: tf.Tensor) -> Coefficients:
        curves = tf.concat([tf.zeros([3, 1]), tf.cumsum(tf.exp(bent), axis=1)], axis=1) * (MAX_DENSITY / SEGMENTS)
        return correction.identity(1)._replace(
            matrix=matrix[None],
            slope=slope[None] * tf.cast(field, tf.float32),
            field=tf.tanh(cells)[None],
            curves=curves[None],
        )

    def step(
        index: tf.Tensor, values: list[tf.Tensor], first: list[tf.Tensor], second: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            linear = density_to_linear(correction.correct(density, coefficients(*values)))
            loss = tf.reduce_mean(delta_e94(linear_to_lab(tf.clip_by_value(linear, -0.05, 1.3)), truth))
        gradients = tape.gradient(loss, values)
        count = tf.cast(index + 1, tf.float32)
        rate = _RATE * 0.5 * (1 + tf.cos(np.pi * count / _STEPS))
        first = [0.9 * old + 0.1 * new for old, new in zip(first, gradients, strict=True)]
        second = [0.99 * old + 0.01 * new**2 for old, new in zip(second, gradients, strict=True)]
        values = [
            value - rate * (a / (1 - 0.9**count)) / (tf.sqrt(b / (1 - 0.99**count)) + 1e-6)
            for value, a, b in zip(values, first, second, strict=True)
        ]
        return index + 1, values, first, second

    still = [tf.zeros_like(value) for value in values]
    _, values, _, _ = tf.while_loop(
        lambda index, *_: index < _STEPS, step, [tf.constant(0), values, still, [tf.zeros_like(v) for v in values]]
    )
    return [value[0] for value in coefficients(*values)]
