"""A training on two devices, as a program of its own: a process decides once how many devices its CPU is.

Prints a line of JSON: `spread`, the largest difference between the copies' weights; `moved`, how far they went; `loss`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf
from test_training import GAN, photograph

from models.training import Trainer, Validation


def main(output: pathlib.Path) -> None:
    """Trains two steps in `output`."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.run_functions_eagerly(True)  # compiling would take most of the time
    photographs = {"train": [photograph(index) for index in range(5)], "validation": [photograph(9)]}
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        trainer = Trainer(
            dataclasses.replace(GAN, batch=4, steps=2), photographs, lambda statistics: statistics - 0.5, output
        )
        weights = [variable.value for variable in trainer.generator.trainable_variables]
        start = [variable.numpy() for variable in weights]
        trainer.validate = lambda: Validation(float(trainer._step.numpy()), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        trainer.run(lambda line: print(line, file=sys.stderr))
        copies = [[one.numpy() for one in strategy.experimental_local_results(variable)] for variable in weights]
    history = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    print(
        json.dumps(
            {
                "spread": max(float(np.abs(one - other).max()) for one, other in copies),
                "moved": max(float(np.abs(one - before).max()) for (one, _), before in zip(copies, start, strict=True)),
                "loss": [row["train"]["total"] for row in history],
            }
        )
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
