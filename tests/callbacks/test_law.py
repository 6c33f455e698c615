"""What is logged is what was used, for every callback, whoever makes the steps.

SGD on a constant gradient moves a bias by exactly the rate, so the logged rates (and
momenta) say where it is. With one batch an epoch, every update is logged.
"""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import HyperparameterLogger
from tests.callbacks import catalogue, references

BACKEND = keras.backend.backend()
EPOCHS = 5
X, Y = references.X[:4], references.Y[:4]


@pytest.fixture(params=catalogue.CALLBACKS)
def name(request):
    return request.param


def bias_of(layer):
    return keras.ops.convert_to_numpy(layer.bias.value).item()


def assert_logged(logs, places, optimizer, suffix=""):
    """Asserts that the bias went where the logged values take it."""
    rates = np.array(logs[f"learning_rate{suffix}"])
    assert len(rates) == len(places) == EPOCHS
    if isinstance(optimizer, lrs.optimizers.ScheduleFree):
        z = np.cumsum(rates)
        expected = 0.1 * z + 0.9 * np.cumsum(z) / np.arange(1, EPOCHS + 1)
    else:
        own = np.full(EPOCHS, optimizer.momentum)
        expected = catalogue.path(rates, logs.get(f"momentum{suffix}", own))
    np.testing.assert_allclose(places, expected, rtol=0.0, atol=1e-6)


class Places(keras.callbacks.Callback):
    """Where biases are after each step."""

    def __init__(self, *layers):
        super().__init__()
        self.layers, self.places = layers, [[] for _ in layers]

    def on_train_batch_end(self, batch, logs=None):
        assert self.model is not None  # On JAX, asking writes the variables.
        for layer, places in zip(self.layers, self.places, strict=True):
            places.append(bias_of(layer))


@pytest.mark.every_backend
def test_in_fit(name, tmp_path):
    model = catalogue.linear_model(name)
    places = Places(model.layers[-1])
    callbacks = [catalogue.make(name, tmp_path), HyperparameterLogger(), places]
    logs = model.fit(X, Y, 4, epochs=EPOCHS, verbose=0, callbacks=callbacks).history
    assert_logged(logs, places.places[0], model.optimizer)


# --- A loop of one's own ---


def apply(model):
    """An update of an eager loop, which sees the gradients of `falling`."""
    *_, bias = variables = model.trainable_variables
    gradients = [keras.ops.zeros(variable.shape) for variable in variables]
    gradients[-1] = keras.ops.full(bias.shape, -1.0)
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            model.optimizer.apply(gradients, variables)
    else:
        model.optimizer.apply(gradients, variables)
    return {"loss": -float(bias_of(model.layers[-1]))}


def train_on_batch(model):
    return model.train_on_batch(X, Y, return_dict=True)


def loop(model, callbacks, step, epochs=EPOCHS, steps=1):
    """Trains as the documentation of `keras.callbacks.Callback` shows."""
    places = []
    hooks = keras.callbacks.CallbackList(
        callbacks, add_history=True, model=model, epochs=epochs, steps=steps
    )
    hooks.on_train_begin()
    for epoch in range(epochs):
        hooks.on_epoch_begin(epoch)
        for batch in range(steps):
            hooks.on_train_batch_begin(batch)
            logs = step(model)
            places.append(bias_of(model.layers[-1]))
            hooks.on_train_batch_end(batch, logs)
        hooks.on_epoch_end(epoch, logs)
    hooks.on_train_end()
    return model.history.history, places


@pytest.mark.every_backend
@pytest.mark.parametrize("step", [apply, train_on_batch])
def test_in_a_loop_with_a_list_of_callbacks(name, step, tmp_path):
    model = catalogue.linear_model(name)
    callbacks = [catalogue.make(name, tmp_path), HyperparameterLogger()]
    if (name, step) == ("VariableScheduler", apply):
        with pytest.raises(RuntimeError, match="`scheduled` had no effect"):
            loop(model, callbacks, step)
        assert catalogue.untouched(model)
        return
    logs, places = loop(model, callbacks, step)
    assert_logged(logs, places, model.optimizer)
    assert catalogue.untouched(model)


def scheduled():
    schedule = lrs.schedules.LinearDecay(catalogue.PEAK, EPOCHS)
    return lrs.optimizers.Scheduled(catalogue.plain_sgd(), schedule)


@pytest.mark.parametrize("step", [apply, train_on_batch])
def test_in_a_loop_with_a_schedule_in_the_optimizer(step):
    model = catalogue.linear_model("HyperparameterLogger")
    model.compile(scheduled(), catalogue.falling)
    places, used = [0.0], []
    for _ in range(EPOCHS):
        step(model)
        places.append(bias_of(model.layers[-1]))
        used.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
    np.testing.assert_allclose(np.diff(places), used, rtol=0.0, atol=1e-7)


DRIVE_THE_RATE = ("AveragedEvaluation", "HyperparameterScheduler", "OneCycleScheduler")


def test_beside_a_schedule_in_the_optimizer(name, tmp_path):
    if name in DRIVE_THE_RATE:
        return
    model = catalogue.linear_model(name)
    model.compile(scheduled(), catalogue.falling)
    callbacks = [catalogue.make(name, tmp_path), HyperparameterLogger()]
    logs, places = loop(model, callbacks, train_on_batch)
    assert_logged(logs, places, model.optimizer.inner_optimizer)


# --- Several optimizers ---


class Both(keras.Model):
    """Two layers, each with an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.d, self.g = keras.layers.Dense(1), keras.layers.Dense(1)

    def call(self, x):
        return self.d(x) + self.g(x)

    def compile(self, name, **arguments):
        super().compile(**arguments)
        self.d_optimizer = catalogue.optimizer_for(name)
        self.g_optimizer = catalogue.optimizer_for(name)
        self.d_optimizer.build(self.d.trainable_variables)
        self.g_optimizer.build(self.g.trainable_variables)

    def train_step(self, data):
        pairs = ((self.d, self.d_optimizer), (self.g, self.g_optimizer))
        for layer, optimizer in pairs:
            kernel, bias = layer.trainable_variables
            gradients = [keras.ops.zeros(kernel.shape), -keras.ops.ones(bias.shape)]
            optimizer.apply(gradients, [kernel, bias])
        return {"loss": -keras.ops.sum(self.d.bias)}


@pytest.mark.skipif(BACKEND == "jax", reason="`fit` trains with one optimizer there")
@pytest.mark.parametrize("compiled_with", [None, "rmsprop"])
def test_with_several_optimizers(name, compiled_with, tmp_path):
    if compiled_with and name != "HyperparameterLogger":
        return  # They name their optimizers; it logs those that make updates.
    model = Both()
    model(X)
    if name == "VariableScheduler":
        catalogue.give_a_variable(model)
    model.compile(name, optimizer=compiled_with)
    places = Places(model.d, model.g)
    callbacks = [catalogue.make(name, tmp_path), HyperparameterLogger(), places]
    logs = model.fit(X, Y, 4, epochs=EPOCHS, verbose=0, callbacks=callbacks).history
    assert "learning_rate" not in logs
    for found, label in zip(places.places, ("d_optimizer", "g_optimizer"), strict=True):
        assert_logged(logs, found, getattr(model, label), f"/{label}")
