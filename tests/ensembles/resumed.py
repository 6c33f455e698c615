"""Trains, whole or in two processes, the first of which is killed within an epoch.

Run as a program, it is the first.
"""

import json
import os
import pathlib
import signal
import sys

import keras

from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.callbacks import HyperparameterScheduler, SnapshotEnsemble
from tests.callbacks import references

EPOCHS = 6


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.batches = getattr(self, "batches", 0) + 1
        if self.batches == 27:  # Seven after the last backup, six after a cycle's end.
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder, part):
    """Returns what the manifest says at the end."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    callbacks = [
        keras.callbacks.BackupAndRestore(folder / "backup"),
        SnapshotEnsemble(folder / "ensemble", partial="keep"),
        HyperparameterScheduler(learning_rate=S.CosineRestarts(0.01, 7, t_mul=2.0)),
    ]
    if part == "first":
        callbacks.append(Kill())
    references.fit(model, callbacks, EPOCHS)
    content = json.loads((folder / "ensemble" / "manifest.json").read_bytes())
    return {
        "steps": [member["step"] for member in content["members"]],
        "numbers": [member["number"] for member in content["members"]],
        "hashes": [member["sha256"] for member in content["members"]],
    }


if __name__ == "__main__":
    train(pathlib.Path(sys.argv[1]), "first")
