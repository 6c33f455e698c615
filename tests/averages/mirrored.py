"""Averages on two logical devices; in a process that may configure them."""

import keras
import numpy as np

from keras_lrs.averages import Averager, UniformAverage
from keras_lrs.callbacks import WeightAveraging
from tests.averages import teachers
from tests.callbacks import devices, references
from tests.callbacks.recording import Record


def main():
    strategy = devices.two_replicas()

    with strategy.scope():
        model = teachers.MeanTeacher()
        model.compile(keras.optimizers.SGD(0.05))
    teachers.check(model)
    for variable in model.averager.variables:
        first, second = variable.value.values
        np.testing.assert_array_equal(first.numpy(), second.numpy())

    # Made outside of the scope, and called between steps.
    with strategy.scope():
        model = references.linear_model(keras.optimizers.SGD(0.05, momentum=0.9))
    averager = Averager(model, UniformAverage())
    loop, seen = references.SGD(), []
    for _ in range(3):
        references.fit(model, epochs=1)
        averager.update()
        seen.append(loop.train(references.STEPS).copy())
    last = references.weights(model)
    with averager.averaged():
        for replica in model.weights[0].value.values:
            expected = np.mean(seen, axis=0)
            np.testing.assert_allclose(replica.numpy(), expected, atol=1e-6)
    for replica in model.weights[0].value.values:
        np.testing.assert_array_equal(replica.numpy(), last.astype("float32"))

    def normalized():
        keras.utils.set_random_seed(0)
        norm = keras.layers.BatchNormalization(momentum=0.5)
        layers = [keras.layers.Dense(2), norm, keras.layers.Dense(1)]
        with strategy.scope():
            model = keras.Sequential([keras.Input((3,)), *layers])
            model.compile(keras.optimizers.SGD(0.05), "mse")
        return model

    # Statistics, of which each replica has its own.
    plain, model, record = normalized(), normalized(), Record()
    references.fit(plain, [record], 2)
    averaging = WeightAveraging(UniformAverage(), batch_norm="average", at_end="raw")
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: seen.append(model.get_weights())
    )
    x, y = references.X, references.Y
    references.fit(model, [averaging, look], 2, validation_data=(x, y))
    expected = [np.mean(group, axis=0) for group in zip(*record.weights, strict=True)]
    for found, wanted in zip(seen[-1], expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    for found, wanted in zip(model.weights, plain.weights, strict=True):
        for one, other in zip(found.value.values, wanted.value.values, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)
