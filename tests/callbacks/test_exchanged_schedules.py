"""A fit never trains with the schedule of an earlier one."""

import keras
import numpy as np
import pytest

from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    ReduceOnPlateau,
)
from keras_lrs.schedules import Constant, LinearDecay, Scaled
from tests.test_identity import Table

pytestmark = pytest.mark.every_backend

X, Y = np.ones((4, 1), "float32"), np.full((4, 1), 100.0, "float32")


def unit_model(optimizer):
    """A weight that an update moves by the learning rate."""
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(optimizer, "mae")
    return model


def moved(model, *callbacks):
    """How far a fit of four steps moves the weight, and the last rate in its logs."""
    before = model.get_weights()[0].item()
    logs = model.fit(X, Y, batch_size=1, verbose=0, callbacks=callbacks).history
    after = model.get_weights()[0].item()
    return after - before, logs.get("learning_rate", [None])[-1]


def table(rate):
    return np.full(2_000, rate, "float32")


@pytest.mark.parametrize("inside", [lambda one: one, lambda one: Scaled(one, 1.0)])
def test_a_table_that_the_config_leaves_out_is_that_of_its_fit(inside):
    model = unit_model(keras.optimizers.SGD(0.01))
    schedule = Table(table(0.001), {})
    for rate in (0.001, 0.005, 0.002):
        schedule.rates[:] = rate
        scheduler = HyperparameterScheduler(learning_rate=inside(schedule))
        distance, logged = moved(model, scheduler, HyperparameterLogger())
        np.testing.assert_allclose([distance, logged], [4 * rate, rate], rtol=1e-5)


@pytest.mark.parametrize("beside", [(), (ReduceOnPlateau("loss"),)])
def test_an_optimizer_that_is_given_another_schedule_trains_with_it(beside):
    model = unit_model(keras.optimizers.SGD(Constant(0.25)))
    for rate in (0.25, 0.5, 0.125):
        model.optimizer.learning_rate = Constant(rate)
        distance, logged = moved(model, HyperparameterLogger(), *beside)
        np.testing.assert_allclose([distance, logged], [4 * rate, rate], rtol=1e-5)


def exchange_in(hook, function):
    """A callback that does something in a hook of the second epoch."""

    class Exchange(keras.callbacks.Callback):
        pass

    def act(self, epoch, logs=None):
        if epoch == 1:
            function(self.model)

    setattr(Exchange, hook, act)
    return Exchange()


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end"])
@pytest.mark.parametrize(
    "function",
    [
        lambda model: model.make_train_function(force=True),
        lambda model: model.compile(keras.optimizers.SGD(0.5), "mae"),
    ],
)
def test_a_train_function_that_is_exchanged_within_a_run_is_refused(hook, function):
    model = unit_model(keras.optimizers.SGD(0.01))
    callbacks = [HyperparameterScheduler(LinearDecay(0.5)), exchange_in(hook, function)]
    with pytest.raises((RuntimeError, TypeError)) as raised:
        model.fit(X, Y, 1, epochs=4, verbose=0, callbacks=callbacks)
    if raised.type is TypeError:  # Keras misses its train function before we can.
        assert hook == "on_epoch_begin"
        assert "not callable" in str(raised.value)
    else:
        assert "was compiled, or `make_train_function`" in str(raised.value)


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end"])
def test_an_optimizer_that_is_exchanged_within_a_run_is_refused(hook):
    model = unit_model(keras.optimizers.SGD(0.01))

    def exchange(model):
        model.optimizer = keras.optimizers.SGD(0.5)

    callbacks = [HyperparameterScheduler(LinearDecay(0.5)), exchange_in(hook, exchange)]
    with pytest.raises(RuntimeError, match=r"`model.optimizer` was replaced"):
        model.fit(X, Y, 1, epochs=4, verbose=0, callbacks=callbacks)


def test_a_train_function_that_calls_ours_may_replace_it():
    calls = []

    def wrap(model):
        ours = model.train_function

        def function(*arguments):
            calls.append(1)
            return ours(*arguments)

        model.train_function = function

    model = unit_model(keras.optimizers.SGD(0.01))
    callbacks = [
        HyperparameterScheduler(LinearDecay(0.5)),
        exchange_in("on_epoch_begin", wrap),
    ]
    logged = model.fit(X, Y, 4, epochs=4, verbose=0, callbacks=callbacks).history
    assert len(calls) == 3
    assert model.get_weights()[0].item() == sum(logged["learning_rate"])


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end"])
def test_a_schedule_that_is_exchanged_within_a_run_is_used_or_refused(hook):
    def exchange(model):
        model.optimizer.learning_rate = Constant(0.25)

    model = unit_model(keras.optimizers.SGD(Constant(0.5)))
    callbacks = [HyperparameterLogger(), exchange_in(hook, exchange)]
    train = lambda: model.fit(X, Y, 4, epochs=4, verbose=0, callbacks=callbacks)  # noqa: E731
    if keras.backend.backend() != "torch":
        with pytest.raises(RuntimeError, match="another learning-rate schedule"):
            train()
        return
    logged = train().history["learning_rate"]
    at = 1 if hook == "on_epoch_begin" else 2
    assert logged == [0.5] * at + [0.25] * (4 - at)
    assert model.get_weights()[0].item() == sum(logged)


@pytest.mark.only("torch")
def test_a_schedule_that_is_exchanged_when_all_epochs_are_over_is_for_the_next_fit():
    def exchange(model):
        model.compile(keras.optimizers.SGD(Constant(0.25)), "mae")

    model = unit_model(keras.optimizers.SGD(Constant(0.5)))
    callbacks = [HyperparameterLogger(), exchange_in("on_epoch_end", exchange)]
    model.fit(X, Y, 4, epochs=2, verbose=0, callbacks=callbacks)
    assert moved(model, HyperparameterLogger()) == (1.0, 0.25)


def test_equal_schedules_of_ours_are_compiled_once():
    traces = []

    class Counting(keras.optimizers.SGD):
        def update_step(self, *arguments):
            traces.append(1)
            super().update_step(*arguments)

        def _parallel_update_step(self, *arguments):
            traces.append(1)
            super()._parallel_update_step(*arguments)

    model, counts = unit_model(Counting(0.01)), []
    for _ in range(3):
        schedule = Scaled(LinearDecay(0.1, 4), 2.0)
        moved(model, HyperparameterScheduler(learning_rate=schedule))
        counts.append(len(traces))
    if keras.backend.backend() != "torch":  # Which traces nothing.
        assert counts[2] == counts[1] == counts[0]
