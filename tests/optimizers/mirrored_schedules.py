"""Trains scheduled optimizers on two logical devices, in a process of its own."""

import keras
import numpy as np

from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.callbacks import HyperparameterLogger
from keras_lrs.optimizers import Scheduled
from tests.callbacks import devices, references


def main():
    strategy = devices.two_replicas()
    for callbacks in ([], [HyperparameterLogger()]):
        with strategy.scope():
            optimizer = Scheduled(
                keras.optimizers.SGD(0.1, momentum=0.9),
                S.LinearDecay(0.1),
                momentum=S.LinearDecay(0.9, end_learning_rate=0.5),
            ).bind(40)
            model = references.linear_model(optimizer)
        optimizer.rate_factor = 0.5
        references.fit(model, callbacks)
        rates = 0.5 * S.LinearDecay(0.1).bind(40).curve(40)
        momenta = S.LinearDecay(0.9, end_learning_rate=0.5).bind(40).curve(40)
        wanted = references.SGD().train(40, learning_rate=rates, momentum=momenta)
        np.testing.assert_allclose(references.weights(model), wanted, atol=1e-5)
