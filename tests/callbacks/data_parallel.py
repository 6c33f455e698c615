"""Trains on four host devices; in a process whose `XLA_FLAGS` make them."""

import keras
import numpy as np

from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    ReduceOnPlateau,
)
from tests.callbacks import devices, forward, references


def main():
    import jax

    assert jax.device_count() == 4
    keras.distribution.set_distribution(keras.distribution.DataParallel())

    rate, momentum = S.OneCycle(0.05, 40), S.LinearDecay(0.95, 40, 0.5)
    model = references.linear_model(keras.optimizers.SGD(0.01, momentum=0.9))
    scheduler = HyperparameterScheduler(learning_rate=rate, momentum=momentum)
    plateau = ReduceOnPlateau("loss", 0.5, patience=1, min_delta=1e9)
    for _ in range(2):
        references.fit(model, [scheduler, plateau])
    loop = references.SGD()
    factors = np.repeat([1.0, 1.0, 0.5, 0.25], 10)
    for _ in range(2):
        rates = rate.curve(40) * factors
        loop.train(40, learning_rate=rates, momentum=momentum.curve(40))
    np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)

    model = references.linear_model(keras.optimizers.SGD(0.05, momentum=0.9))
    devices.check_average(model, update_every=1)

    devices.check_variable(forward.model())

    model = references.linear_model(keras.optimizers.SGD(0.05))
    devices.check_norms_and_range_test(model)
