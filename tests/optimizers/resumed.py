"""Resumes from saved models; meant for a process of its own."""

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
    return found


def all_resumed(folder, names):
    return {name: resumed(folder / f"{name}.keras") for name in names}


def trained_on(path, begin, num_steps):
    """The weights of a loaded model after so many more batches, one by one."""
    model = keras.saving.load_model(path)
    size = references.BATCH
    for step in range(begin, begin + num_steps):
        at = size * (step % references.STEPS)
        batch = slice(at, at + size)
        model.train_on_batch(references.X[batch], references.Y[batch])
    return references.weights(model)
