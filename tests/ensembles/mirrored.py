"""Snapshots on two logical devices; in a process that may configure them."""

import tempfile

import keras
import numpy as np

from keras_lrs import ensembles
from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.callbacks import HyperparameterScheduler, SnapshotEnsemble
from tests.callbacks import devices, references


class Record(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.after = []

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.after.append(self.model.get_weights())


def network():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def check(model):
    record = Record()
    with tempfile.TemporaryDirectory() as directory:
        schedule = S.CosineRestarts(0.01, 7, t_mul=2.0)
        callbacks = [
            HyperparameterScheduler(learning_rate=schedule),
            SnapshotEnsemble(directory, restore_last_completed=True),
            record,
        ]
        references.fit(model, callbacks, 3)
        ensemble = ensembles.load(directory, model)
    assert [member.step for member in ensemble] == [7, 21]
    for member in ensemble:
        recorded = record.after[member.step - 1]
        for ours, theirs in zip(member.values, recorded, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(model.get_weights(), record.after[20], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Batches that two devices can share.
    outputs = ensemble.predict_members(references.X, batch_size=8, verbose=0)
    mean = ensemble.predict(references.X, batch_size=8, verbose=0)
    np.testing.assert_allclose(mean, outputs.mean(0), atol=1e-5)
    np.testing.assert_allclose(
        outputs[1], model.predict(references.X, batch_size=8, verbose=0), atol=1e-5
    )


def main():
    strategy = devices.two_replicas()
    with strategy.scope():
        model = network()
    check(model)
