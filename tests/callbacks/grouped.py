"""Models whose variables form groups, and loops that train each group by itself."""

import keras
import numpy as np

from tests.callbacks import references

NAMES = ("early", "late", "head")


def linear_models(optimizer, **compile_arguments):
    """Three linear models of the same data in one: none has anything to do with others.

    Each is one of `references`, so a loop with the group's values gives its weights.
    """
    inputs = keras.Input((3,))
    outputs = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name=name)(
            inputs
        )
        for name in NAMES
    ]
    model = keras.Model(inputs, outputs, name="all")
    model.compile(optimizer, ["mse"] * len(NAMES), **compile_arguments)
    return model


def fit(model, callbacks=(), epochs=4, **arguments):
    """Trains on the batches of `references` in their order."""
    data = references.batches(y=(references.Y,) * len(NAMES))
    return references.fit(model, callbacks, epochs, data, **arguments).history


def weights(model):
    """The weights of each linear model, in float64."""
    return {
        name: np.asarray(
            keras.ops.convert_to_numpy(model.get_layer(name).kernel.value), np.float64
        )
        for name in NAMES
    }


def assert_trained(model, make_loop, num_steps=40, atol=2e-6, **groups):
    """Asserts that each group has the weights of a loop with its values.

    `groups` are dictionaries from the names of hyperparameters to vectors.
    """
    found = weights(model)
    for name in NAMES:
        loop = make_loop()
        loop.train(num_steps, **groups[name])
        np.testing.assert_allclose(found[name], loop.w, atol=atol, err_msg=name)


def network(optimizer, loss="mse", **compile_arguments):
    """A network with layers, biases and normalization, the same every time."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Dense(6, activation="tanh", name="early"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dense(4, activation="tanh", name="late"),
        keras.layers.Dense(2, name="head"),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    model.compile(optimizer, loss, **compile_arguments)
    return model


def fit_network(model, callbacks=(), epochs=2, **arguments):
    """Trains it on fixed batches."""
    targets = np.concatenate([references.Y, references.X[:, :1]], axis=1)
    data = references.batches(y=targets)
    return references.fit(model, callbacks, epochs, data, **arguments).history
