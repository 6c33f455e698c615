"""Trains on two logical devices; in a process that may configure them."""

import keras
import numpy as np

from keras_lrs import averages
from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.callbacks import HyperparameterScheduler
from keras_lrs.optimizers import ScheduleFree
from tests.callbacks import devices, references
from tests.optimizers import loops


def main():
    strategy = devices.two_replicas()

    for variant, scaled in (
        ({"warmup_steps": 15, "step_power": 1.0}, False),
        ({"beta": 0.0, "warmup_steps": 15}, False),
        ({"average": averages.ExponentialAverage(0.9)}, True),
    ):
        with strategy.scope():
            free = ScheduleFree(keras.optimizers.SGD(0.1, weight_decay=0.1), **variant)
            optimizer = keras.optimizers.LossScaleOptimizer(free) if scaled else free
            model = references.linear_model(optimizer)
        references.fit(model, epochs=2)
        loop = loops.ScheduleFree(**variant).train(20, 0.1, 0.1)
        compare(model, free, loop)
        rate = S.LinearDecay(0.05, 20)
        references.fit(model, [HyperparameterScheduler(learning_rate=rate)], epochs=2)
        compare(model, free, loop.train(20, rate.curve(20), 0.1))

    with strategy.scope():
        norm = keras.layers.BatchNormalization()
        layers = [keras.Input((3,)), norm, keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile("sgd", "mse")
    model.fit(references.X, references.Y, verbose=0)
    averages.recalibrate_batch_norm(model, references.X, batch_size=6)
    mean, variance = norm.get_weights()[2:]
    np.testing.assert_allclose(mean, references.X.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, references.X.var(0), atol=1e-6)


def compare(model, optimizer, loop):
    y = references.weights(model)
    np.testing.assert_allclose(y, loop.y, atol=1e-6)
    optimizer.use_average()
    for replica in model.weights[0].value.values:
        np.testing.assert_allclose(replica.numpy(), loop.x, atol=1e-6)
    optimizer.use_training_weights()
    for replica in model.weights[0].value.values:
        np.testing.assert_array_equal(replica.numpy(), y)
