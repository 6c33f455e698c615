"""Goes on with saved models in a process of its own; prints weights as JSON."""

import json
import pathlib
import sys

import keras

import keras_lrs  # noqa: F401
from tests.callbacks import references


def resumed(path):
    """The weights loaded, of training, and then those of x and y two epochs later."""
    model = keras.saving.load_model(path)
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    found = [references.weights(model)]
    optimizer.use_training_weights()
    found.append(references.weights(model))
    references.fit(model, epochs=2)
    with optimizer.averaged():
        found.append(references.weights(model))
    found.append(references.weights(model))
    return [weights.tolist() for weights in found]


def main(folder, *names):
    found = {name: resumed(pathlib.Path(folder, f"{name}.keras")) for name in names}
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
