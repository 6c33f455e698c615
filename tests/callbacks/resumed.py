"""Trains a part of a run; meant for a process of its own."""

import keras

from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    ReduceOnPlateau,
)
from keras_lrs.schedules import Fraction
from tests.callbacks import references

EPOCHS, HALF = 6, 3


class Break(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == HALF:
            raise KeyboardInterrupt


def train(folder, how, part):
    """Returns what the training used, and what it ended with."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "model.keras"
    scheduler = HyperparameterScheduler(
        learning_rate=S.Warmup(S.CosineRestarts(0.05, Fraction(0.2)), 5),
        momentum=S.LinearDecay(0.95, end_learning_rate=0.5),
        momentum_correction=True,
    )
    plateau = ReduceOnPlateau(
        "loss",
        0.5,
        patience=1,
        cooldown=1,
        min_delta=1e9,
        state_path=folder / "plateau.json" if how == "model" else None,
    )
    callbacks = [HyperparameterLogger(), scheduler, plateau]
    epochs, initial_epoch = EPOCHS, 0
    if how == "model" and part == "second":
        model, initial_epoch = keras.saving.load_model(saved), HALF
    else:
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
        model = references.linear_model(optimizer)
    if how == "backup":
        callbacks.insert(0, keras.callbacks.BackupAndRestore(folder / "backup"))
    if part == "first":
        callbacks.append(Break())
        if how == "model":
            callbacks.append(keras.callbacks.ModelCheckpoint(saved))
    try:
        references.fit(model, callbacks, epochs, initial_epoch=initial_epoch)
    except KeyboardInterrupt:
        assert part == "first"
    return {
        **model.history.history,
        "weights": references.weights(model).tolist(),
        "plateau": plateau.state,
    }
