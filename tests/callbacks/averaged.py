"""Averages the weights of a part of a run; meant for a process of its own."""

import keras

from keras_lrs.averages import UniformAverage
from keras_lrs.callbacks import WeightAveraging
from tests.callbacks import references


def train(folder, part):
    """Returns the weights that the part ends with, and their average."""
    saved = folder / "model.keras"
    averaging = WeightAveraging(UniformAverage(), at_end="raw")
    if part == "first":
        model = references.linear_model(keras.optimizers.SGD(0.05, momentum=0.9))
        checkpoint = keras.callbacks.ModelCheckpoint(saved)
        references.fit(model, [averaging, checkpoint], 3)
    else:
        model = keras.saving.load_model(saved)
        references.fit(model, [averaging], 6, initial_epoch=3)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: seen.append(references.weights(model).tolist())
    )
    x, y = references.X, references.Y
    model.evaluate(x, y, verbose=0, callbacks=[averaging, look])
    return {"raw": references.weights(model).tolist(), "average": seen[0]}
