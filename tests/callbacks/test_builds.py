"""Models without weights when `fit` begins are built as Keras builds them, or named."""

import keras
import numpy as np
import pytest

from keras_lrs import averages as A  # noqa: N812
from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.averages import recalibrate_batch_norm
from keras_lrs.callbacks import (
    HyperparameterLogger,
    PosthocAveraging,
    ResumableTraining,
    VariableScheduler,
    WeightAveraging,
)

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")

pytestmark = pytest.mark.every_backend


class WithoutCall(keras.Model):
    """Trains by its `train_step` alone: each weight falls by the rate."""

    def __init__(self, built):
        super().__init__()
        layers = [keras.layers.Dense(1, kernel_initializer="zeros", name="inner")]
        self.net = keras.Sequential([*([keras.Input((2,))] if built else []), *layers])

    def train_step(self, data):
        weights = self.net.trainable_variables
        ones = [keras.ops.ones(weight.shape) for weight in weights]
        self.optimizer.apply(ones, weights)
        return {"loss": keras.ops.sum(weights[0])}


def without_call(built=True):
    model = WithoutCall(built)
    model.compile(keras.optimizers.SGD(0.5))
    return model


KINDS = {
    "WeightAveraging": lambda path: WeightAveraging(A.UniformAverage()),
    "PosthocAveraging": PosthocAveraging,
    "ResumableTraining": ResumableTraining,
}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others need a `call` in `fit`")
@pytest.mark.parametrize("kind", KINDS)
class TestWithoutCall:
    def test_trains_with_its_layers_as_they_are(self, kind, tmp_path):
        model = without_call()
        callback = KINDS[kind](tmp_path)
        model.fit(X, batch_size=2, epochs=2, verbose=0, callbacks=[callback])
        # Eight steps of -0.5; their average is that of -0.5, -1.0, ..., -4.0.
        expected = -2.25 if kind == "WeightAveraging" else -4.0
        for weight in model.net.get_weights():
            np.testing.assert_allclose(weight, np.full(weight.shape, expected))

    def test_names_the_layers_that_are_not_built(self, kind, tmp_path):
        message = "`WithoutCall` has no `call` that would build its layers.*`inner`"
        with pytest.raises(ValueError, match=message):
            without_call(False).fit(X, verbose=0, callbacks=[KINDS[kind](tmp_path)])


def test_averager_takes_a_model_without_call_whose_layers_are_built():
    averager = A.Averager(without_call())
    assert len(averager.averages) == 2
    with pytest.raises(ValueError, match="have built layers: call each on a batch"):
        A.Averager(without_call(False))


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the others build it before callbacks"
)
def test_variables_are_scheduled_in_a_model_that_the_first_batch_would_build():
    class Scaled(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(), trainable=False, name="factor")

        def call(self, x):
            return self.factor * x

    layers = [Scaled(name="scaled"), keras.layers.Dense(1)]
    model, path = keras.Sequential(layers, name="model"), "model/scaled/factor"
    model.compile("sgd", "mse")
    scheduler = VariableScheduler({path: S.LinearDecay(1.0, 4)})
    logger = HyperparameterLogger()
    found = model.fit(X, X, 2, verbose=0, callbacks=[scheduler, logger]).history
    assert found[path] == [0.25]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others fail before callbacks")
def test_says_why_a_model_cannot_be_built():
    class Broken(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            raise KeyError("no such key")

    model = Broken()
    model.compile("sgd", "mse")
    with pytest.raises(
        ValueError, match=r"(?s)cannot be built from the data.*no such key"
    ):
        model.fit(X, X, verbose=0, callbacks=[WeightAveraging()])


def test_is_recalibrated_by_a_function_that_runs_it():
    class Parts(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()
            self.norm.build((None, 2))

    model = Parts()
    with pytest.raises(ValueError, match="`Parts` has no `call`: pass"):
        recalibrate_batch_norm(model, X)
    calls = [
        lambda model, x, training: model.norm(x, training=training),
        lambda model, x: model.norm(x),
    ]
    for call in calls:
        model.norm.set_weights([np.ones(2), np.zeros(2), np.zeros(2), np.ones(2)])
        recalibrate_batch_norm(model, X, call_fn=call)
        np.testing.assert_allclose(model.norm.moving_mean, X.mean(0), atol=1e-6)
        np.testing.assert_allclose(model.norm.moving_variance, X.var(0), rtol=1e-5)
    with pytest.raises(TypeError, match="`call_fn` must be a function"):
        recalibrate_batch_norm(model, X, call_fn="norm")
