"""Averages a part of a training in a process of its own; prints the weights as JSON."""

import json
import pathlib
import sys

import keras

from keras_lrs.averages import UniformAverage
from keras_lrs.callbacks import WeightAveraging
from tests.callbacks import references


def main(folder, part):
    saved = pathlib.Path(folder) / "model.keras"
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
    raw = references.weights(model).tolist()
    print("RESULT" + json.dumps({"raw": raw, "average": seen[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
