"""Averages on two logical devices; run as a program, which may configure them."""

import keras
import numpy as np

from keras_lrs.averages import Averager, UniformAverage
from tests.averages import teachers
from tests.callbacks import devices, references


def main():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2

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
    print(devices.SAME)


if __name__ == "__main__":
    main()
