"""What must hold on several devices, whatever makes them one."""

import numpy as np

from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.averages import UniformAverage
from keras_lrs.callbacks import (
    GradientNormRecorder,
    VariableScheduler,
    WeightAveraging,
)
from keras_lrs.tuning import range_test
from tests.callbacks import forward, references


def two_replicas():
    """A strategy of TensorFlow, in a process that has used no device yet."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy


def check_average(model, update_every):
    """The average is that of one device; it is put in and taken out."""
    averaging = WeightAveraging(
        UniformAverage(), update_every=update_every, at_end="raw"
    )
    references.fit(model, [averaging], validation_data=(references.X, references.Y))
    loop = references.SGD()
    steps = [loop.train(1).copy() for _ in range(40)]
    np.testing.assert_allclose(references.weights(model), steps[-1], atol=1e-6)
    found = model.predict(references.X, verbose=0, callbacks=[averaging])
    taken = steps[update_every - 1 :: update_every]
    expected = references.X @ np.mean(taken, axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(references.weights(model), steps[-1], atol=1e-6)


def check_variable(model):
    """Every forward pass sees the value of its step, on all devices."""
    beta = forward.beta(model)
    scheduler = VariableScheduler([(beta, forward.FALLING)])
    for _ in range(2):
        seen = forward.fit(model, [scheduler])
        np.testing.assert_allclose(seen, forward.values(0, 18), atol=1e-6)
        assert forward.number(beta) == forward.OWN


def check_norms_and_range_test(model):
    """So are norms of gradients, and losses; a range test leaves nothing behind."""
    rates = S.BoundedExponentialDecay(1e-3, 19, 0.2).curve(20)
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
        # Two epochs: TensorFlow may stall for minutes where one is broken off.
        num_steps=20,
        stop_factor=1e9,
        batch_size=4,
        shuffle=False,
        verbose=0,
    )
    losses = references.losses_of_sgd(rates, loop.w)
    np.testing.assert_allclose(test.losses, losses, rtol=1e-4)
    np.testing.assert_array_equal(references.weights(model), before)
