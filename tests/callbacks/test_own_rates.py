"""Rates that users set by hand, and rates that read as they were used."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    ReduceOnPlateau,
    ResumableTraining,
)
from keras_lrs.tuning import range_test
from tests.warned import warns

pytestmark = pytest.mark.every_backend

S = lrs.schedules
X, Y = np.ones((3, 1), "float32"), np.full((3, 1), 100.0, "float32")


class Trail(keras.callbacks.Callback):
    """How far each epoch of three steps moved the weight: by the sum of its rates."""

    def on_train_begin(self, logs=None):
        self.weights = [self.model.get_weights()[0].item()]

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights()[0].item())

    @property
    def rates(self):
        return np.diff(self.weights) / len(X)


class Setter(keras.callbacks.Callback):
    """Sets the rate in one hook, each time to half of what it set before."""

    def __init__(self, hook, rate=0.5):
        super().__init__()
        self.rate = rate
        setattr(self, hook, self.set)

    def set(self, *_, **__):
        self.model.optimizer.learning_rate = self.rate
        self.rate /= 2.0


def unit_model(optimizer):
    """A weight that an update moves by the learning rate; the loss never stalls."""
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(optimizer, "mae")
    return model


def train(model, *callbacks, epochs=4, **arguments):
    """The rates of each epoch, on average, and those in the logs."""
    trail, logger = Trail(), HyperparameterLogger()
    history = model.fit(
        X,
        Y,
        batch_size=1,
        epochs=epochs,
        verbose=0,
        callbacks=[*callbacks, trail, logger],
        **arguments,
    )
    return trail.rates, history.history["learning_rate"]


def falling():
    """A plateau whose factor is halved after the second epoch, and each one then."""
    # The loss falls, so it never gets better than the first by this much.
    return ReduceOnPlateau("loss", factor=0.5, patience=1, min_delta=1e6)


FACTORS = np.array([1.0, 1.0, 0.5, 0.25])
OF_HOOKS = {
    "on_train_begin": [0.5, 0.5, 0.5, 0.5],
    "on_epoch_begin": [0.5, 0.25, 0.125, 0.0625],
    "on_epoch_end": [1.0, 0.5, 0.25, 0.125],
}


@pytest.mark.parametrize("hook", OF_HOOKS)
@pytest.mark.parametrize("first", [True, False])
def test_the_factor_multiplies_what_a_callback_sets(hook, first):
    model, setter = unit_model(keras.optimizers.SGD(1.0)), Setter(hook)
    callbacks = [setter, falling()] if first else [falling(), setter]
    used, logged = train(model, *callbacks)
    np.testing.assert_allclose(used, OF_HOOKS[hook] * FACTORS, rtol=1e-5)
    np.testing.assert_allclose(logged, used, rtol=1e-5)
    # What was set comes back, and not what the optimizer was made with.
    last = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert last == pytest.approx(2.0 * setter.rate)


def test_the_factor_multiplies_what_is_set_within_an_epoch():
    model = unit_model(keras.optimizers.SGD(1.0))
    used, _ = train(model, falling(), Setter("on_train_batch_begin"))
    rates = (0.5 ** np.arange(1, 13)).reshape(4, 3).mean(1)
    np.testing.assert_allclose(used, rates * FACTORS, rtol=1e-5)


SET_BETWEEN_BATCHES = {
    "on_train_batch_begin": 0.5 ** np.arange(1, 13),
    "on_train_batch_end": 0.5 ** np.arange(12),
}


@pytest.mark.parametrize("hook", SET_BETWEEN_BATCHES)
def test_the_rate_of_the_last_update_is_logged_and_not_the_one_set_since(hook):
    model = unit_model(keras.optimizers.SGD(1.0))
    used, logged = train(model, Setter(hook))
    rates = SET_BETWEEN_BATCHES[hook].reshape(4, 3)
    np.testing.assert_allclose(used, rates.mean(1), atol=1e-6)
    np.testing.assert_allclose(logged, rates[:, -1], rtol=1e-5)


def test_rate_multipliers_multiply_what_a_callback_sets():
    model = unit_model(keras.optimizers.SGD(1.0))
    halved = HyperparameterScheduler(rate_multipliers={"kernel": 0.5})
    used, _ = train(model, halved, Setter("on_epoch_begin"))
    np.testing.assert_allclose(used, [0.25, 0.125, 0.0625, 0.03125], rtol=1e-5)


@pytest.mark.parametrize(
    "backup", [ResumableTraining, keras.callbacks.BackupAndRestore]
)
def test_a_run_that_resumes_keeps_the_rate_that_was_set(backup, tmp_path):
    class Cut(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    class Once(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                self.model.optimizer.learning_rate = 0.5

    def run(*callbacks):
        model = unit_model(keras.optimizers.SGD(1.0))
        return train(model, backup(tmp_path), Once(), falling(), *callbacks)[0]

    with pytest.raises(KeyboardInterrupt):
        run(Cut())
    np.testing.assert_allclose(run(), 0.5 * FACTORS[2:], rtol=1e-5)


def test_setting_a_rate_that_a_schedule_drives_is_warned_of():
    model = unit_model(keras.optimizers.SGD(1.0))
    scheduler = HyperparameterScheduler(learning_rate=S.Constant(0.5))
    with warns(r"was set to 0\.25, which has no effect"):
        used, _ = train(model, scheduler, Setter("on_epoch_begin", 0.25), epochs=1)
    np.testing.assert_allclose(used, 0.5, rtol=1e-5)


def test_an_optimizer_with_a_schedule_reads_as_the_rate_used():
    read = []

    class Reader(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rate = self.model.optimizer.learning_rate
            read.append(float(keras.ops.convert_to_numpy(rate)))

    schedule = S.PiecewiseConstant([3, 6], [1.0, 0.5, 0.25])
    model = unit_model(keras.optimizers.SGD(schedule))
    used, _ = train(model, falling(), Reader())
    np.testing.assert_allclose(used, [1.0, 0.5, 0.125, 0.0625], rtol=1e-5)
    np.testing.assert_allclose(read, used, rtol=1e-5)
    after = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert after == 0.25  # The schedule's own.


# --- Adafactor ---


@pytest.mark.parametrize("relative_step", [True, False])
def test_the_rates_of_adafactor_are_logged_as_it_uses_them(relative_step):
    optimizer = keras.optimizers.Adafactor(0.6, relative_step=relative_step)
    model = unit_model(optimizer)
    model.layers[0].kernel.assign([[1.0]])
    weights = [1.0]
    for _ in range(4):
        _, logged = train(model, epochs=1)
        # With a constant gradient a step is the weight's size times the rate.
        weights.append(model.get_weights()[0].item())
    steps = np.minimum(0.6, 1.0 / np.sqrt(np.arange(1, 13)))
    expected = np.cumprod(1.0 + steps)[2::3]
    np.testing.assert_allclose(weights[1:], expected, rtol=1e-4)
    assert logged == [pytest.approx(steps[-1], rel=1e-6)]


def test_rates_that_adafactor_would_not_use_are_refused():
    model = unit_model(keras.optimizers.Adafactor(0.1))
    scheduler = HyperparameterScheduler(learning_rate=S.Constant(0.5))
    with pytest.raises(ValueError, match=r"0\.5 at step 4, where 0\.447214 would be"):
        train(model, scheduler)
    with pytest.raises(ValueError, match="of `Adafactor`, which uses no larger rate"):
        range_test(model, X, Y, verbose=0)
    allowed = HyperparameterScheduler(learning_rate=S.Constant(0.25))
    _, logged = train(model, allowed)
    np.testing.assert_allclose(logged, 0.25, rtol=1e-6)


class SettingWithin(keras.Sequential):
    """A model whose own step sets the rate."""

    def train_step(self, *arguments):
        self.optimizer.learning_rate.assign(0.25)
        return super().train_step(*arguments)


@pytest.mark.parametrize(
    "callback",
    [
        ReduceOnPlateau("loss", 0.5, patience=1, verbose=0),
        HyperparameterScheduler(learning_rate=S.Constant(0.5)),
    ],
)
def test_a_rate_that_a_step_sets_is_used_or_refused(callback):
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = SettingWithin([keras.Input((1,)), dense])
    model.compile(keras.optimizers.SGD(1.0), "mae")
    if keras.backend.backend() == "tensorflow":
        with pytest.raises(RuntimeError, match="`train_step` that is compiled sets"):
            train(model, callback, epochs=2)
        return
    # On JAX, Keras itself gives the step's optimizer the rate from before.
    is_told = (
        keras.backend.backend() == "torch" and type(callback) is HyperparameterScheduler
    )
    with warns("set to 0.25, which has no effect") if is_told else nullcontext():
        rates, logged = train(model, callback, epochs=2)
    np.testing.assert_allclose(rates, logged, rtol=1e-6)
