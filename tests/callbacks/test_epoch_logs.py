"""What schedules drive is in the logs of epochs without a second callback."""

import csv
import itertools
import re
import time

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
    VariableScheduler,
)
from tests.callbacks import catalogue, references
from tests.callbacks.test_reduce_on_plateau import At, fit, rates, trail_model

S = lrs.schedules
SGD = keras.optimizers.SGD


def scheduled_fit(optimizer, *callbacks, **arguments):
    """A fit of 3 epochs of 4 steps: its model and its history."""
    model = trail_model(optimizer)
    history = fit(model, list(callbacks), epochs=3, steps=4, **arguments).history
    return model, history


@pytest.mark.every_backend
def test_the_rate_is_that_of_the_last_weight_change_wherever_the_callback_stands(
    tmp_path,
):
    files = [tmp_path / "before.csv", tmp_path / "after.csv"]
    before, after = map(keras.callbacks.CSVLogger, files)
    callback = HyperparameterScheduler(S.CosineAnnealing(0.25))
    model, history = scheduled_fit(SGD(0.5), before, callback, after, validate=True)
    used = rates(model)[3::4]
    np.testing.assert_allclose(history["learning_rate"], used, atol=1e-6)
    assert set(history) == {"learning_rate", "loss", "val_loss"}
    for path in files:
        with open(path, newline="") as file:
            column = [float(row["learning_rate"]) for row in csv.DictReader(file)]
        np.testing.assert_allclose(column, used, atol=1e-6)


@pytest.mark.every_backend
def test_a_plateau_logs_the_rate_with_the_factor_that_was_used():
    """The factor changes at the end of each epoch, for the next one."""
    model, history = scheduled_fit(0.125, ReduceOnPlateau("loss", 0.5, 1))
    used = rates(model)[3::4]
    np.testing.assert_allclose(used, [0.125, 0.125, 0.0625], atol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], used, atol=1e-6)


def test_several_callbacks_log_one_rate():
    """That of the weight changes: the schedule's times the factor."""
    callbacks = [
        HyperparameterScheduler(S.LinearDecay(0.25)),
        ReduceOnPlateau("loss", 0.5, 1),
    ]
    model, history = scheduled_fit(SGD(0.5), *callbacks, HyperparameterLogger())
    np.testing.assert_allclose(history["learning_rate"], rates(model)[3::4], atol=1e-6)
    assert set(history) == {"learning_rate", "loss"}


def test_both_halves_of_one_cycle_are_logged():
    cycle = OneCycleScheduler(0.125, warmup_fraction=0.5, shape="linear")
    _, history = scheduled_fit(SGD(0.5, momentum=0.9), cycle)
    expected = np.interp([3, 7, 11], [0, 6, 12], [0.95, 0.85, 0.95])
    np.testing.assert_allclose(history["momentum"], expected, rtol=1e-6)
    assert set(history) == {"learning_rate", "loss", "momentum"}


def test_a_rate_that_nothing_drives_is_not_logged():
    """A callback may set it after the last update of an epoch."""
    callback = HyperparameterScheduler(momentum=S.LinearDecay(0.9))
    _, history = scheduled_fit(SGD(0.5, momentum=0.9), callback)
    assert set(history) == {"loss", "momentum"}
    expected = 0.9 * (1 - np.array([3, 7, 11]) / 12)
    np.testing.assert_allclose(history["momentum"], expected, rtol=1e-6)


def test_a_rate_that_is_set_at_the_end_of_an_epoch_is_not_that_of_the_epoch():
    def double(model):
        model.optimizer.learning_rate = 0.25

    callbacks = [At(0, double), ReduceOnPlateau("loss", 0.5, 9)]
    model, history = scheduled_fit(0.125, *callbacks)
    assert history["learning_rate"] == [0.125, 0.25, 0.25]
    np.testing.assert_allclose(rates(model)[3::4], [0.125, 0.25, 0.25], atol=1e-6)


def test_a_variable_is_logged_with_what_the_forward_pass_saw():
    model = catalogue.linear_model("VariableScheduler")
    callback = VariableScheduler({catalogue.SCHEDULED: S.LinearDecay(1.0)})
    history = references.fit(model, [callback], epochs=2).history
    assert set(history) == {"loss", catalogue.SCHEDULED}
    expected = 1 - np.array([9, 19]) / 20
    np.testing.assert_allclose(history[catalogue.SCHEDULED], expected, rtol=1e-5)


def test_groups_are_logged_under_their_patterns():
    callback = HyperparameterScheduler(
        S.LinearDecay(0.25), rate_multipliers={"right": 0.5}
    )
    model, history = scheduled_fit(SGD(0.5), callback)
    for key, which in (("learning_rate", "left"), ("learning_rate/right", "right")):
        np.testing.assert_allclose(history[key], rates(model, which)[3::4], atol=1e-6)


def test_a_loop_that_gives_no_logs_has_them_too():
    model = references.linear_model(SGD(0.01))
    callbacks = [HyperparameterScheduler(S.LinearDecay(0.01))]
    hooks = keras.callbacks.CallbackList(
        callbacks, add_history=True, model=model, epochs=2, steps=2
    )
    hooks.on_train_begin()
    for epoch in range(2):
        hooks.on_epoch_begin(epoch)
        for _ in range(2):
            model.train_on_batch(references.X[:4], references.Y[:4])
        hooks.on_epoch_end(epoch)
    hooks.on_train_end()
    logged = model.history.history["learning_rate"]
    np.testing.assert_allclose(logged, [0.0075, 0.0025], rtol=1e-6)


MAKE = [
    lambda log: HyperparameterScheduler(S.LinearDecay(0.25), log=log),
    lambda log: OneCycleScheduler(0.25, log=log),
    lambda log: ReduceOnPlateau("loss", log=log),
    lambda log: VariableScheduler({"path": S.LinearDecay(1.0)}, log=log),
]


@pytest.mark.parametrize("make", MAKE[:3])
def test_nothing_is_logged_where_it_is_not_wanted(make):
    _, history = scheduled_fit(SGD(0.5, momentum=0.9), make(log=False))
    assert set(history) == {"loss"}


@pytest.mark.parametrize("make", MAKE)
def test_a_log_that_is_none_of_the_three_is_refused(make):
    assert [make(log=log).log for log in (True, False, "batch")] == [
        True,
        False,
        "batch",
    ]
    for value, error in (("epoch", ValueError), (3, TypeError), (None, TypeError)):
        received = re.escape(f"True, False or 'batch'. Received: log={value!r}")
        with pytest.raises(error, match=f"Argument `log` must be {received}"):
            make(log=value)


# --- Batches --------------------------------------------------------------------------


class Batches(keras.callbacks.Callback):
    """Keeps the logs of all batches."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))

    def values(self, key):
        return [logs[key] for logs in self.logs]


class AveragingBar(keras.callbacks.ProgbarLogger):
    """The bar of Keras 3.12, which shows means of the values so far."""

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.progbar = keras.utils.Progbar(self.target, stateful_metrics=[])


BARS = [(1, keras.callbacks.ProgbarLogger), (1, AveragingBar)]
if keras.backend.backend() != "torch":
    BARS.append((2, keras.callbacks.ProgbarLogger))


@pytest.mark.every_backend
@pytest.mark.parametrize(("steps_per_execution", "bar"), BARS)
def test_every_batch_has_the_rate_of_its_last_weight_change(
    steps_per_execution, bar, monkeypatch, capsys
):
    """In the logs of other callbacks, and in the bar, which does not average it."""
    # The bar leaves out what comes within 50 ms of the last.
    monkeypatch.setattr(time, "time", itertools.count(0.0, 60.0).__next__)
    before, after = Batches(), Batches()
    callback = HyperparameterScheduler(S.LinearDecay(0.25), log="batch")
    model = trail_model(SGD(0.5), steps_per_execution=steps_per_execution)
    callbacks = [before, callback, after, bar()]
    history = fit(model, callbacks, epochs=2, steps=4, verbose=1).history
    by_step = 0.25 * (1 - np.arange(8) / 8)
    by_batch = by_step[steps_per_execution - 1 :: steps_per_execution]
    np.testing.assert_allclose(rates(model), by_step, atol=1e-6)
    for batches in (before, after):
        np.testing.assert_allclose(batches.values("learning_rate"), by_batch, rtol=1e-6)
        assert all(set(logs) == {"learning_rate", "loss"} for logs in batches.logs)
    np.testing.assert_allclose(history["learning_rate"], by_step[3::4], rtol=1e-6)
    shown = re.findall(r"learning_rate: [^\d]*([\d.]+)", capsys.readouterr().out)
    # The end of an epoch repeats its last batch.
    by_epoch = by_batch.reshape(2, -1)
    expected = np.concatenate([by_epoch, by_epoch[:, -1:]], axis=1).ravel()
    np.testing.assert_allclose(np.array(shown, "float64"), expected, atol=5.1e-5)


@pytest.mark.every_backend
def test_batches_have_it_in_other_threads_too():
    """Keras calls callbacks there, in any order, if all say that they can be called."""
    batches = Batches()
    batches.async_safe = True
    callback = HyperparameterScheduler(S.LinearDecay(0.25), log="batch")
    scheduled_fit(SGD(0.5), batches, callback)
    logged = sorted(batches.values("learning_rate"), reverse=True)
    np.testing.assert_allclose(logged, 0.25 * (1 - np.arange(12) / 12), rtol=1e-6)


@pytest.mark.every_backend
def test_batches_have_a_factor_that_fell_from_the_next_batch_on():
    """It falls before callbacks see the logs of the batch that shows the plateau."""
    batches = Batches()
    plateau = ReduceOnPlateau("loss", 0.5, 1, every=2, log="batch")
    model, _ = scheduled_fit(0.125, plateau, batches)
    logged = batches.values("learning_rate")
    assert logged[3:5] == [0.125, 0.0625]
    np.testing.assert_allclose(logged, rates(model), atol=1e-6)


@pytest.mark.every_backend
def test_batches_have_variables_with_what_the_forward_pass_saw():
    batches = Batches()
    model = catalogue.linear_model("VariableScheduler")
    callback = VariableScheduler({catalogue.SCHEDULED: S.LinearDecay(1.0)}, log="batch")
    references.fit(model, [callback, batches], epochs=2)
    expected = 1 - np.arange(20) / 20
    found = batches.values(catalogue.SCHEDULED)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_batches_have_only_what_callbacks_that_ask_for_it_drive():
    """Groups are named as in the logs of epochs."""
    batches = Batches()
    callbacks = [
        HyperparameterScheduler(
            S.LinearDecay(0.25), rate_multipliers={"right": 0.5}, log="batch"
        ),
        HyperparameterScheduler(momentum=S.Constant(0.0)),
    ]
    optimizer = SGD(0.5, momentum=0.9)
    model, history = scheduled_fit(optimizer, *callbacks, batches)
    keys = {"learning_rate", "learning_rate/right", "loss"}
    assert set(batches.logs[0]) == keys
    assert set(history) == keys | {"momentum"}
    for key, which in (("learning_rate", "left"), ("learning_rate/right", "right")):
        np.testing.assert_allclose(batches.values(key), rates(model, which), atol=1e-6)


def test_batches_have_no_rate_before_an_update_has_used_one():
    """The loss scale skips updates whose gradients are infinite."""
    batches = Batches()
    slopes = [np.inf, 1.0, np.inf, 1.0]
    optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.5), initial_scale=2.0)
    model = trail_model(optimizer, slopes=slopes)
    callback = HyperparameterScheduler(S.LinearDecay(0.25, 4), log="batch")
    fit(model, [callback, batches], epochs=1, steps=4)
    logged = [logs.get("learning_rate") for logs in batches.logs]
    assert logged == [None, 0.25, 0.25, 0.1875]


def test_batches_of_a_loop_have_the_rate_too():
    model = references.linear_model(SGD(0.01))
    batches = Batches()
    callback = HyperparameterScheduler(S.LinearDecay(0.01), log="batch")
    hooks = keras.callbacks.CallbackList(
        [batches, callback], model=model, epochs=1, steps=4
    )
    hooks.on_train_begin()
    hooks.on_epoch_begin(0)
    for batch in range(4):
        hooks.on_train_batch_begin(batch)
        model.train_on_batch(references.X[:4], references.Y[:4])
        hooks.on_train_batch_end(batch)
    hooks.on_epoch_end(0)
    hooks.on_train_end()
    expected = [0.01, 0.0075, 0.005, 0.0025]
    np.testing.assert_allclose(batches.values("learning_rate"), expected, rtol=1e-6)
