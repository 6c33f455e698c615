"""Trains on four host devices; run as a program, with `XLA_FLAGS` that make them."""

import keras
import numpy as np

from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.averages import UniformAverage
from keras_lrs.callbacks import (
    GradientNormRecorder,
    HyperparameterScheduler,
    ReduceOnPlateau,
    WeightAveraging,
)
from keras_lrs.tuning import range_test
from tests.callbacks import references


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
    averaging = WeightAveraging(UniformAverage(), at_end="raw")
    references.fit(model, [averaging], validation_data=(references.X, references.Y))
    loop = references.SGD()
    steps = [loop.train(1).copy() for _ in range(40)]
    np.testing.assert_allclose(references.weights(model), steps[-1], atol=1e-6)
    found = model.predict(references.X, verbose=0, callbacks=[averaging])
    expected = references.X @ np.mean(steps, axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # The norms of gradients, and the losses of a range test that leaves nothing behind.
    rates = S.BoundedExponentialDecay(1e-3, 19, 0.2).curve(20)
    model = references.linear_model(keras.optimizers.SGD(0.05))
    recorder, gradients = GradientNormRecorder(), []
    references.fit(model, [recorder], epochs=1)
    loop = references.SGD()
    for step in range(10):
        gradients.append(references.gradient(loop.w, step))
        loop.train(1, momentum=[0.0])
    np.testing.assert_allclose(
        recorder.norms, [np.linalg.norm(g) for g in gradients], rtol=1e-5
    )
    before = references.weights(model)
    test = range_test(
        model,
        references.X,
        references.Y,
        min_learning_rate=1e-3,
        max_learning_rate=0.2,
        num_steps=20,
        stop_factor=1e9,
        batch_size=4,
        shuffle=False,
        verbose=0,
    )
    losses = references.losses_of_sgd(rates, loop.w)
    np.testing.assert_allclose(test.losses, losses, rtol=1e-4)
    np.testing.assert_array_equal(references.weights(model), before)
    print("every number is that of one device")


if __name__ == "__main__":
    main()
