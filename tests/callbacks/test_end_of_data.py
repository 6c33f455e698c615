"""Where its data ends, a TensorFlow graph must not make one more update.

Only TensorFlow finds the end within the compiled step, and then still runs what does
not depend on the data: the gradient of a regularizer, for one.
"""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    GradientNormRecorder,
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
    WeightAveraging,
)

S = lrs.schedules
BACKEND = keras.backend.backend()
EPOCHS, BATCHES = 4, 5  # The last batch is not full.

pytestmark = [
    pytest.mark.skipif(BACKEND != "tensorflow", reason="a pipeline of TensorFlow"),
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),
]


class Scalar(keras.layers.Layer):
    """One weight that moves by the rate, whose gradient may depend on the data."""

    def __init__(self, sees_data):
        super().__init__()
        self.sees_data = sees_data

    def build(self, shape):
        self.position = self.add_weight(shape=(), initializer="zeros")

    def call(self, x):
        if self.sees_data:
            ones = keras.ops.mean(x)  # The data are ones.
            return x * 0.0 - self.position * ones
        self.add_loss(-self.position)
        return x


def loss(y, prediction):
    return keras.ops.mean(prediction)


def trained(order, optimizer, callbacks, **compile_arguments):
    import tensorflow as tf

    layers = [Scalar(sees_data) for sees_data in order]
    inputs = outputs = keras.Input((1,))
    ones = []
    for layer in layers:
        result = layer(inputs)
        ones.append(result if layer.sees_data else 0.0 * result)
    outputs = sum(ones[1:], start=ones[0])
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, loss, **compile_arguments)
    x = np.ones((2 * BATCHES - 1, 1), "float32")
    data = tf.data.Dataset.from_tensor_slices((x, x)).batch(2).filter(lambda *_: True)
    model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
    return [float(keras.ops.convert_to_numpy(layer.position)) for layer in layers]


@pytest.mark.parametrize("order", [(True, False), (False, True), (False, True, False)])
@pytest.mark.parametrize(
    "settings",
    [{"jit_compile": False}, {"jit_compile": True}, {"steps_per_execution": 3}],
    ids=str,
)
def test_a_schedule_counts_the_batches_alone(order, settings):
    schedule = S.LinearDecay(0.1, EPOCHS * BATCHES)
    optimizer = keras.optimizers.SGD(0.3)
    scheduler = HyperparameterScheduler(learning_rate=schedule)
    positions = trained(order, optimizer, [scheduler], **settings)
    assert int(optimizer.iterations) == EPOCHS * BATCHES
    expected = schedule.curve(EPOCHS * BATCHES).sum()
    np.testing.assert_allclose(positions, expected, rtol=1e-5)


CALLBACKS = {
    "average": lambda: [WeightAveraging(lrs.averages.UniformAverage(), at_end="raw")],
    "norms": lambda: [GradientNormRecorder(), HyperparameterLogger()],
    "cycle": lambda: [OneCycleScheduler(0.1, total_steps=EPOCHS * BATCHES)],
    "plateau": lambda: [ReduceOnPlateau("loss", patience=9)],
}


@pytest.mark.parametrize("order", [(True, False), (False, True)])
@pytest.mark.parametrize("name", CALLBACKS)
def test_no_callback_makes_an_update_more(order, name):
    optimizer = keras.optimizers.SGD(0.125, momentum=0.5)
    trained(order, optimizer, CALLBACKS[name](), jit_compile=False)
    assert int(optimizer.iterations) == EPOCHS * BATCHES


@pytest.mark.parametrize("order", [(True, False), (False, True), (False, True, False)])
@pytest.mark.parametrize("jit_compile", [True, False])
def test_schedule_free_makes_no_update_more(order, jit_compile):
    optimizer = lrs.optimizers.ScheduleFree(keras.optimizers.SGD(0.125), beta=0.5)
    positions = trained(order, optimizer, [], jit_compile=jit_compile)
    assert int(optimizer.inner_optimizer.iterations) == EPOCHS * BATCHES
    # A gradient of -1: z moves by the rate, x is the mean of all z, y between them.
    z = 0.125 * np.arange(1, EPOCHS * BATCHES + 1)
    np.testing.assert_allclose(positions, 0.5 * z[-1] + 0.5 * z.mean(), rtol=1e-5)
