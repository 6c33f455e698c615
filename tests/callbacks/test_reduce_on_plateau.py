"""The factor that falls on a plateau: when, by how much, and in every weight change."""

import contextlib
import gc
import itertools
import json
import math
import os
import pathlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
)
from keras_lrs.callbacks.best_weights import BestWeights
from keras_lrs.callbacks.reduce_on_plateau import PlateauState
from tests import processes
from tests.callbacks import grouped, references

S = lrs.schedules
Epochs, Fraction = S.Epochs, S.Fraction
BACKEND = keras.backend.backend()
compiled_only = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch is eager")

ROOT = pathlib.Path(__file__).parents[2]
FLAT = [1.0] * 64


# --- A model that shows its rates -----------------------------------------------------


@keras.saving.register_keras_serializable("keras_lrs_tests")
class Trail(keras.Model):
    """Two weights whose gradients are -1, which remembers where they were.

    Its loss in training step `k` is `levels[k]`; in a validation it is minus the level
    of the last training step. The gradient in step `k` is `-slopes[k]`.
    """

    def __init__(self, levels, slopes=None, **arguments):
        super().__init__(**arguments)
        self.levels = [float(level) for level in levels]
        self.slopes = [1.0] * len(levels) if slopes is None else list(slopes)
        zeros = {"initializer": "zeros", "trainable": False}
        self.left = self.add_weight(name="left", shape=(), initializer="zeros")
        self.right = self.add_weight(name="right", shape=(), initializer="zeros")
        self.count = self.add_weight(name="count", shape=(), dtype="int32", **zeros)
        self.trail = self.add_weight(name="trail", shape=(2, len(levels)), **zeros)
        self.traces = 0
        self.built = True

    def get_config(self):
        config = {"levels": self.levels, "slopes": self.slopes}
        return {**super().get_config(), **config}

    def call(self, inputs, training=None):
        self.traces += 1
        zero = ops.cast(ops.zeros_like(inputs), "float32")
        count = ops.convert_to_tensor(self.count) + 0  # Not the variable itself.
        levels = ops.convert_to_tensor(self.levels, "float32")
        if not training:
            return zero - ops.take(levels, ops.maximum(count - 1, 0))
        slope = ops.take(ops.convert_to_tensor(self.slopes, "float32"), count)
        now = ops.stack([ops.cast(w, "float32") for w in (self.left, self.right)])
        still = ops.stop_gradient(now)
        here = ops.equal(np.arange(len(self.levels), dtype="int32"), count)
        trail = ops.where(here, still[:, None], ops.convert_to_tensor(self.trail))
        self.trail.assign(trail)
        self.count.assign(count + 1)
        return zero + ops.take(levels, count) + slope * ops.sum(still - now)


@keras.saving.register_keras_serializable("keras_lrs_tests")
def the_prediction(y, prediction):
    return ops.mean(prediction)


def trail_model(optimizer=0.125, levels=FLAT, slopes=None, **compile_arguments):
    """A compiled `Trail`; a number is the rate of an SGD."""
    if isinstance(optimizer, float):
        optimizer = keras.optimizers.SGD(optimizer)
    model = Trail(levels, slopes)
    model.compile(optimizer, the_prediction, **compile_arguments)
    return model


def fit(model, callbacks, epochs, steps=1, validate=False, **arguments):
    """Fits a `Trail`; its data say nothing."""
    x = np.zeros((steps, 1), "float32")
    validation = (x[:1], x[:1]) if validate else None
    data = references.batches(x, x, 1)
    return references.fit(
        model, callbacks, epochs, data, validation_data=validation, **arguments
    )


def rates(model, weight="left"):
    """The rate of every update so far: how far the weight went."""
    trail = ops.convert_to_numpy(model.trail)[["left", "right"].index(weight)]
    now = ops.convert_to_numpy(getattr(model, weight)).item()
    count = int(ops.convert_to_numpy(model.count))
    return np.diff([*trail[:count], now])


def state_of(model):
    """Everything that a training has changed, but the rate it left behind."""
    tensors = (model.left, model.right, model.count, model.trail)
    return [ops.convert_to_numpy(tensor).tolist() for tensor in tensors]


class At(keras.callbacks.Callback):
    """Does something to the model at the end of an epoch, or of a batch in it."""

    def __init__(self, epoch, action, batch=None):
        super().__init__()
        self.epoch, self.action, self.batch = epoch, action, batch
        if batch is not None:
            self.on_train_batch_end = self.batch_ends

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def batch_ends(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            self.action(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch and self.batch is None:
            self.action(self.model)


class CrashError(Exception):
    pass


def crash(model):
    raise CrashError


def stop(model):
    model.stop_training = True


# --- The rule, once more --------------------------------------------------------------


def reference(
    values,
    *,
    factor=0.5,
    patience=1,
    mode="min",
    min_delta=0.0,
    cooldown=0,
    min_factor=0.0,
    relative=False,
    raise_factor=None,
    max_factor=math.inf,
):
    """The factor after each look, as the documentation says it.

    `streak` counts the better values in a row, or with a minus sign the others.
    """
    best, now, streak, rest, factors = None, 1.0, 0, 0, []
    for value in values:
        if best is None:
            better = not math.isnan(value)
        else:
            gain = best - value if mode == "min" else value - best
            better = gain > (min_delta * abs(best) if relative else min_delta)
        best = value if better else best
        if rest > 0:
            rest -= 1
        else:
            streak = max(streak, 0) + 1 if better else min(streak, 0) - 1
            after = now
            if streak == -patience:
                streak, after = 0, max(now * factor, min_factor)
            elif streak == patience and raise_factor is not None:
                streak, after = 0, min(now * raise_factor, max_factor)
            rest = cooldown if after != now else 0
            now = after
        factors.append(now)
    return factors


def looks(values, **arguments):
    """The factor after each look, as the callback's rule has it."""
    defaults = {"factor": 0.5, "patience": 1, "min_delta": 0.0}
    plateau = ReduceOnPlateau("loss", **{**defaults, **arguments})
    state, factors = PlateauState(), []
    for value in values:
        state = plateau.rule.next(state, value)
        factors.append(state.factor)
    return factors


def reductions(factors):
    """Which looks, counted from 1, changed the factor."""
    return (np.flatnonzero(np.diff([1.0, *factors])) + 1).tolist()


# Quarters, so that differences and products are exact.
quarters = st.integers(-8, 8).map(lambda n: n / 4)
metrics = st.lists(st.one_of(quarters, st.just(math.nan)), max_size=40)
rules = st.fixed_dictionaries(
    {
        "factor": st.sampled_from([0.5, 0.25]),
        "patience": st.integers(1, 4),
        "mode": st.sampled_from(["min", "max"]),
        "min_delta": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        "cooldown": st.integers(0, 3),
        "min_factor": st.sampled_from([0.0, 0.125, 0.375, 1.0]),
        "relative": st.booleans(),
        "raise_factor": st.sampled_from([None, 1.5, 2.0]),
    },
    optional={"max_factor": st.sampled_from([1.0, 3.0, 4.0])},
).filter(lambda rule: rule["raise_factor"] is not None or "max_factor" not in rule)


@settings(deadline=None, max_examples=400)
@given(values=metrics, rule=rules)
def test_the_factor_follows_the_documented_rule(values, rule):
    assert looks(values, **rule) == reference(values, **rule)


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_patience_reduces_at_that_look_in_a_row_without_improvement(patience):
    # The first look is the best one.
    factors = looks([1.0] * 16, factor=0.5, patience=patience)
    assert reductions(factors) == list(range(1 + patience, 17, patience))
    interrupted = looks([*[1.0] * patience, 0.5, *[0.5] * patience], patience=patience)
    assert reductions(interrupted) == [1 + 2 * patience]


def keras_reductions(values, **arguments):
    """The looks at which Keras's callback reduces the rate."""
    model = trail_model()
    theirs = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, mode="min", min_delta=0.0, **arguments
    )
    theirs.set_model(model)
    theirs.on_train_begin()
    factors = []
    for epoch, value in enumerate(values):
        theirs.on_epoch_end(epoch, {"loss": value})
        rate = ops.convert_to_numpy(model.optimizer.learning_rate).item()
        factors.append(rate / 0.125)
    return reductions(factors)


def test_a_cooldown_of_one_look_ignores_one_where_that_of_keras_does_nothing():
    values = [1.0] * 12
    without = reductions(looks(values, patience=2))
    assert without == [3, 5, 7, 9, 11]
    assert keras_reductions(values, patience=2) == without
    assert keras_reductions(values, patience=2, cooldown=1) == without
    assert reductions(looks(values, patience=2, cooldown=1)) == [3, 6, 9, 12]


@pytest.mark.parametrize("cooldown", [0, 1, 2, 5])
def test_a_cooldown_ignores_that_many_looks(cooldown):
    factors = looks([1.0] * 30, patience=3, cooldown=cooldown)
    assert np.diff(reductions(factors)).tolist()[0] == 3 + cooldown
    assert set(np.diff(reductions(factors))) == {3 + cooldown}


def test_the_best_value_is_kept_up_to_date_while_cooling_down():
    # 0.5 comes in the cooldown; the looks after it are no better than it.
    values = [1.0, 1.0, 0.5, 0.75, 0.75]
    assert looks(values, cooldown=1) == [1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("size", [8.0, -8.0])
@pytest.mark.parametrize("relative", [False, True])
def test_a_better_value_beats_the_best_by_more_than_min_delta(mode, size, relative):
    """Also a relative one where the metric is negative."""
    needed = 0.25 * 8.0 if relative else 0.25
    ahead = -1.0 if mode == "min" else 1.0
    arguments = {"min_delta": 0.25, "relative": relative, "mode": mode}
    for gain, expected in ((needed, 0.5), (needed + 0.125, 1.0)):
        values = [size, size + ahead * gain]
        assert looks(values, **arguments) == [1.0, expected]
    worse = [size, size - ahead * needed, size - ahead * 4 * needed]
    assert looks(worse, **arguments) == [1.0, 0.5, 0.25]


def test_a_worse_negative_metric_is_no_improvement_where_it_is_one_to_torch():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "min", 0.5, patience=0, threshold=0.25, threshold_mode="rel"
    )
    values, factors = [-8.0, -7.0], []
    for value in values:
        theirs.step(value)
        factors.append(optimizer.param_groups[0]["lr"])
    # To be better it must be below -8 * (1 - 0.25).
    assert factors == [1.0, 1.0]
    arguments = {"min_delta": 0.25, "relative": True, "mode": "min"}
    assert looks(values, **arguments) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("val_mean_absolute_error", "min"),
        ("accuracy", "max"),
        ("val_acc", "max"),
        ("val_sparse_categorical_accuracy", "max"),
        ("val_AUC", "max"),
        ("val_precision_1", "max"),
        ("recall", "max"),
        ("val_f1_score", "max"),
        ("val_mean_io_u", "max"),
        ("val_mean_iou", "max"),
        ("val_r2_score", "max"),
    ],
)
def test_auto_takes_the_direction_from_the_name(monitor, mode):
    plateau = ReduceOnPlateau(monitor, factor=0.5, patience=1, min_delta=0.0)
    state = plateau.rule.next(PlateauState(), 1.0)
    state = plateau.rule.next(state, 2.0)
    assert (state.factor == 1.0) == (mode == "max")


def test_the_name_does_not_overrule_a_mode():
    assert looks([1.0, 2.0], mode="max") == [1.0, 1.0]
    plateau = ReduceOnPlateau("accuracy", factor=0.5, patience=1, mode="min")
    state = plateau.rule.next(PlateauState(), 1.0)
    assert plateau.rule.next(state, 2.0).factor == 0.5


def test_nan_is_never_better():
    nan = math.nan
    assert looks([nan, nan, nan], patience=2) == [1.0, 0.5, 0.5]
    assert looks([nan, 1.0, nan, 0.5], patience=2) == [1.0] * 4
    assert looks([1.0, nan, 2.0, 0.5]) == [1.0, 0.5, 0.25, 0.25]


def test_infinity_is_worse_than_any_number():
    inf = math.inf
    assert looks([inf, 1.0, inf, 0.5]) == [1.0, 1.0, 0.5, 0.5]
    assert looks([-inf, 1.0, -inf, 2.0], mode="max") == [1.0, 1.0, 0.5, 0.5]


def test_the_factor_does_not_fall_below_its_floor():
    assert looks([1.0] * 5, min_factor=0.375) == [1.0, 0.5, 0.375, 0.375, 0.375]
    assert looks([1.0] * 3, min_factor=1.0) == [1.0, 1.0, 1.0]


def test_at_the_floor_nothing_changes_and_nothing_cools_down():
    values = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    arguments = {"cooldown": 2, "raise_factor": 2.0}
    factors = looks(values, min_factor=0.5, max_factor=1.0, **arguments)
    # The second look reduces, two are ignored; the last raises, having been counted.
    assert factors == [1.0, 0.5, 0.5, 0.5, 0.5, 1.0]


def test_better_values_in_a_row_raise_the_factor_up_to_its_ceiling():
    values = np.arange(10.0, 0.0, -1.0)
    raised = looks(values, patience=2, raise_factor=1.5, max_factor=2.0)
    assert raised == [1.0, 1.5, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    unbounded = looks(values, patience=2, raise_factor=2.0)
    assert unbounded == [1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0, 16.0, 16.0, 32.0]
    assert looks(values, patience=2) == [1.0] * 10


def test_the_factor_rises_and_falls_with_the_metric():
    values = [4.0, 3.0, 3.0, 3.0, 2.0, 1.0]
    arguments = {"patience": 2, "raise_factor": 2.0}
    assert looks(values, **arguments) == [1.0, 2.0, 2.0, 1.0, 1.0, 2.0]


# --- The rate of every step -----------------------------------------------------------

# Stalls, improves, stalls for long.
BUMPY = [4.0, 4.0, 3.0, 3.0, 3.5, 2.0, 2.0, 2.0, 2.0, 2.5, 1.0, 1.0]


def expected_factors(levels, steps=1, **arguments):
    """The factor in every step, where each epoch ends with a look."""
    return np.repeat([1.0, *reference(levels, **arguments)[:-1]], steps)


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": 1},
        {"patience": 2, "cooldown": 1, "factor": 0.25},
        {"patience": 1, "min_delta": 0.5, "min_factor": 0.125},
        {"patience": 1, "min_delta": 0.25, "relative": True, "cooldown": 1},
        {"patience": 1, "raise_factor": 2.0, "max_factor": 1.5},
    ],
    ids=str,
)
def test_every_rate_of_a_fit_is_the_rate_times_the_factor(arguments):
    model = trail_model(levels=BUMPY)
    fit(
        model,
        [ReduceOnPlateau("loss", **{"factor": 0.5, "min_delta": 0.0, **arguments})],
        12,
    )
    expected = 0.125 * expected_factors(BUMPY, **arguments)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


def scaled(optimizer):
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)


def keras_curve(schedule):
    """What a schedule, also one of Keras's, says of 24 steps."""
    return np.array([ops.convert_to_numpy(schedule(k)).item() for k in range(24)])


SGD = keras.optimizers.SGD
DECAY = S.LinearDecay(0.25, 30)
ANNEALED = 0.25 * (1 + np.cos(np.pi * np.arange(24) / 24)) / 2
SOURCES = {
    "a float": (lambda: SGD(0.125), [], np.full(24, 0.125)),
    "our schedule": (lambda: SGD(DECAY), [], DECAY.curve(24)),
    "Keras's schedule": (
        lambda: SGD(keras.optimizers.schedules.CosineDecay(0.25, 24)),
        [],
        ANNEALED,
    ),
    "a scheduler": (lambda: SGD(0.5), [S.CosineAnnealing(0.25)], ANNEALED),
    "a scaled float": (lambda: scaled(SGD(0.125)), [], np.full(24, 0.125)),
    "a scaled schedule": (lambda: scaled(SGD(DECAY)), [], DECAY.curve(24)),
    "a scaled scheduler": (
        lambda: scaled(SGD(0.5)),
        [S.CosineAnnealing(0.25)],
        ANNEALED,
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_factor_multiplies_whatever_the_rate_comes_from(source):
    optimizer, schedules, curve = SOURCES[source]
    model = trail_model(optimizer(), np.repeat(BUMPY, 2))
    schedulers = [HyperparameterScheduler(learning_rate=s) for s in schedules]
    plateau = ReduceOnPlateau("loss", factor=0.5, patience=1)
    fit(model, [plateau, *schedulers], epochs=12, steps=2)
    expected = curve * expected_factors(BUMPY, 2)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


def test_the_order_of_plateau_and_scheduler_does_not_matter():
    schedulers = [HyperparameterScheduler(learning_rate=DECAY)]
    plateaus = [ReduceOnPlateau("loss", factor=0.5, patience=1)]
    trails = []
    for callbacks in (schedulers + plateaus, plateaus + schedulers):
        model = trail_model(levels=BUMPY)
        fit(model, callbacks, epochs=12)
        trails.append(rates(model))
    np.testing.assert_array_equal(*trails)


def test_the_factor_multiplies_the_rate_of_one_cycle_and_not_its_momentum():
    model = trail_model(SGD(0.5, momentum=0.9), np.repeat(BUMPY, 2))
    cycle = OneCycleScheduler(0.125, warmup_fraction=0.5)
    plateau = ReduceOnPlateau("loss", factor=0.5, patience=1)
    fit(model, [cycle, plateau], epochs=12, steps=2)
    wave = (1 - np.cos(np.pi * np.arange(24) / 12)) / 2
    momentum = 0.95 - 0.1 * wave
    low = np.where(np.arange(24) < 12, 0.125 / 25, 0.125 / 25e4)
    rate = (low + (0.125 - low) * wave) * expected_factors(BUMPY, 2)
    velocity, expected = 0.0, []
    for k in range(24):
        velocity = momentum[k] * velocity + rate[k]
        expected.append(velocity)
    np.testing.assert_allclose(rates(model), expected, atol=2e-6)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
@pytest.mark.parametrize("wrap", [lambda o: o, scaled], ids=["plain", "scaled"])
def test_the_factor_multiplies_the_rates_of_all_optimizers(wrap):
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(SGD(0.125), {".*right": SGD(DECAY)})
    )
    model = trail_model(wrap(several), np.repeat(BUMPY, 2))
    fit(model, [ReduceOnPlateau("loss", factor=0.5, patience=1)], 12, steps=2)
    factors = expected_factors(BUMPY, 2)
    np.testing.assert_allclose(rates(model, "left"), 0.125 * factors, atol=1e-6)
    expected = DECAY.curve(24) * factors
    np.testing.assert_allclose(rates(model, "right"), expected, atol=1e-6)


def test_an_eager_fit_uses_the_same_rates():
    model = trail_model(levels=BUMPY, run_eagerly=True)
    fit(model, [ReduceOnPlateau("loss", factor=0.5, patience=1)], 12)
    expected = 0.125 * expected_factors(BUMPY)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


@compiled_only
@pytest.mark.parametrize("optimizer", [0.125, DECAY], ids=["float", "schedule"])
def test_a_change_of_the_factor_compiles_nothing(optimizer):
    traces = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: traces.append(model.traces)
    )
    model = trail_model(SGD(optimizer))
    for _ in range(2):
        plateau = ReduceOnPlateau("val_loss", factor=0.5, patience=1)
        fit(model, [plateau, look], epochs=5, validate=True)
        assert plateau.state["factor"] == 0.0625
    assert len(set(traces)) == 1


def test_momentum_sees_the_factor_in_the_rate_alone():
    model = trail_model(SGD(0.125, momentum=0.5))
    fit(model, [ReduceOnPlateau("loss", factor=0.5, patience=2)], epochs=8)
    velocity, expected = 0.0, []
    for factor in expected_factors(FLAT[:8], patience=2):
        velocity = 0.5 * velocity + 0.125 * factor
        expected.append(velocity)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


# --- What is looked at, and when ------------------------------------------------------


def test_a_training_metric_and_a_validation_metric_are_told_apart():
    """A loss that falls; in the validation it rises."""
    levels = [5.0, 4.0, 3.0, 2.0, 1.0]
    for monitor, values in (("loss", levels), ("val_loss", [-v for v in levels])):
        model = trail_model(levels=levels)
        fit(model, [ReduceOnPlateau(monitor, 0.5, 1)], 5, validate=True)
        expected = 0.125 * expected_factors(values)
        np.testing.assert_allclose(rates(model), expected, atol=1e-6)


def test_the_metrics_of_compile_can_be_monitored():
    model = trail_model(levels=BUMPY, metrics=[keras.metrics.MeanSquaredError("error")])
    plateau = ReduceOnPlateau("error", 0.5, 1)
    fit(model, [plateau], 12)
    # The targets are 0.
    expected = 0.125 * expected_factors(np.square(BUMPY))
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


def test_epochs_without_a_validation_are_no_looks():
    model = trail_model()
    plateau = ReduceOnPlateau("val_loss", factor=0.5, patience=1)
    fit(model, [plateau], epochs=8, validate=True, validation_freq=2)
    # After epochs 2 (the first is best), 4, 6 and 8.
    expected = 0.125 * np.array([1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25])
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)
    assert plateau.state["factor"] == 0.125


def block_looks(levels, every, **arguments):
    """The factor in every step, with a look every so many steps."""
    factors, values, blocks = [], [], []
    for k in range(len(levels)):
        now = reference(values, **arguments)[-1] if values else 1.0
        factors.append(now)
        blocks.append(levels[k])
        if len(blocks) == every:
            values.append(sum(blocks) / every)
            blocks = []
    return np.array(factors)


STEPWISE = np.tile([4.0, 2.0, 3.0, 3.0, 1.0, 5.0, 2.0, 3.5], 5)


@pytest.mark.parametrize(
    ("steps", "every"), [(8, 4), (8, 2), (8, 1), (8, 8), (10, 4), (5, 3)]
)
def test_every_so_many_steps_the_mean_over_them_is_looked_at(steps, every):
    model = trail_model(levels=STEPWISE)
    plateau = ReduceOnPlateau("loss", 0.75, 2, every=every, min_delta=0.01)
    fit(model, [plateau], epochs=40 // steps, steps=steps)
    arguments = {"factor": 0.75, "patience": 2, "min_delta": 0.01}
    expected = 0.125 * block_looks(STEPWISE, every, **arguments)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


@compiled_only
@pytest.mark.parametrize("every", [4, 8])
def test_every_so_many_steps_with_several_in_one_execution(every):
    model = trail_model(levels=STEPWISE, steps_per_execution=4)
    plateau = ReduceOnPlateau("loss", 0.75, 2, every=every, min_delta=0.01)
    fit(model, [plateau], epochs=5, steps=8)
    arguments = {"factor": 0.75, "patience": 2, "min_delta": 0.01}
    expected = 0.125 * block_looks(STEPWISE, every, **arguments)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


@compiled_only
def test_a_look_waits_for_the_end_of_the_execution():
    model = trail_model(levels=FLAT[:16], steps_per_execution=4)
    fit(model, [ReduceOnPlateau("loss", 0.5, 1, every=3)], epochs=2, steps=8)
    expected = 0.125 * np.repeat([1.0, 1.0, 0.5, 0.25], 4)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


# Low while warming up: it must not be taken for the best.
WARM = [0.0] * 6 + [4.0, 3.0, 3.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    "warmup", [12, 11, Epochs(6), Epochs(5.5), Fraction(0.5)], ids=str
)
def test_nothing_is_looked_at_during_the_warmup(warmup):
    model = trail_model(levels=np.repeat(WARM, 2))
    plateau = ReduceOnPlateau("loss", 0.5, 1, warmup=warmup)
    fit(model, [plateau], epochs=12, steps=2)
    # The look after 12 steps is the last within 12 steps, and the first after 11.
    ignored = 6 if warmup in (12, Epochs(6), Fraction(0.5)) else 5
    factors = np.repeat([1.0] * ignored + [1.0, *reference(WARM[ignored:])[:-1]], 2)
    np.testing.assert_allclose(rates(model), 0.125 * factors, atol=1e-6)


WARMUP = S.Warmup(S.Constant(0.125), 12)
WARMUPS = {
    "in the optimizer": (WARMUP, None),
    "Keras's": (
        keras.optimizers.schedules.CosineDecay(
            0.0, 50, warmup_target=0.125, warmup_steps=12
        ),
        None,
    ),
    "in a scheduler": (0.5, S.Warmup(S.Constant(0.125), Epochs(6))),
    "with the decay": (0.5, S.WarmupStableDecay(0.125, Epochs(6), Epochs(2))),
}


@pytest.mark.parametrize("source", WARMUPS)
def test_the_warmup_is_that_of_the_schedule(source):
    rate, schedule = WARMUPS[source]
    curve = rate if schedule is None else schedule.bind(24, 2)
    curve = keras_curve(curve)
    model = trail_model(SGD(rate), np.repeat(WARM, 2))
    callbacks = [ReduceOnPlateau("loss", 0.5, 1)]
    if schedule is not None:
        callbacks.append(HyperparameterScheduler(learning_rate=schedule))
    fit(model, callbacks, epochs=12, steps=2)
    factors = np.repeat([1.0] * 7 + reference(WARM[6:])[:-1], 2)
    np.testing.assert_allclose(rates(model), curve * factors, atol=1e-6)


def test_a_warmup_of_no_steps_overrules_that_of_the_schedule():
    model = trail_model(SGD(WARMUP), np.repeat(WARM, 2))
    plateau = ReduceOnPlateau("loss", 0.5, 1, warmup=0)
    fit(model, [plateau], epochs=12, steps=2)
    curve = keras_curve(WARMUP)
    expected = curve * expected_factors(WARM, 2)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`ReduceOnPlateau` never looks at its metric")
def test_a_training_that_goes_on_within_the_warmup_waits_for_its_end():
    plateau = ReduceOnPlateau("loss", 0.5, 1, warmup=Epochs(6))
    model = trail_model(levels=WARM)
    fit(model, [plateau], epochs=3)
    fit(model, [plateau], epochs=12, initial_epoch=3)
    factors = [1.0] * 7 + reference(WARM[6:])[:-1]
    np.testing.assert_allclose(rates(model), 0.125 * np.array(factors), atol=1e-6)


def test_warmup_counts_the_steps_of_this_training():
    """A second fit that starts afresh warms up again."""
    plateau = ReduceOnPlateau("loss", 0.5, 1, warmup=4)
    model = trail_model(levels=FLAT)
    fit(model, [plateau], epochs=7)
    fit(model, [plateau], epochs=7)
    once = [1.0] * 4 + [1.0, 1.0, 0.5]
    expected = 0.125 * np.array(once + once)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


# --- What is refused ------------------------------------------------------------------


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize(
    "theirs",
    [
        lambda: keras.callbacks.ReduceLROnPlateau("loss"),
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate),
    ],
    ids=["ReduceLROnPlateau", "LearningRateScheduler"],
)
def test_keras_callbacks_that_set_the_rate_are_refused(theirs, ours_first):
    other = theirs()
    callbacks = [ReduceOnPlateau("loss"), other]
    model = trail_model()
    name = type(other).__name__
    with pytest.raises(ValueError, match=f"`ReduceOnPlateau` cannot .* `{name}`"):
        fit(model, callbacks if ours_first else callbacks[::-1], epochs=2)
    assert rates(model).size == 0
    assert int(model.optimizer.iterations) == 0


def test_two_of_them_are_refused():
    model = trail_model()
    callbacks = [ReduceOnPlateau("loss"), ReduceOnPlateau("loss", every=2)]
    with pytest.raises(ValueError, match="one `ReduceOnPlateau`"):
        fit(model, callbacks, epochs=2)
    assert rates(model).size == 0


def test_a_function_as_the_rate_is_refused():
    model = trail_model(SGD(lambda: 0.125))
    with pytest.raises(ValueError, match="`ReduceOnPlateau` needs a learning rate"):
        fit(model, [ReduceOnPlateau("loss")], epochs=2)
    assert rates(model).size == 0


@pytest.mark.parametrize(
    ("monitor", "every", "validate"),
    [("los", "epoch", False), ("los", 1, False), ("val_los", "epoch", True)],
)
# That there was no look is said as well.
@pytest.mark.filterwarnings("ignore:`ReduceOnPlateau` never saw")
def test_a_metric_that_is_not_there_is_refused_with_what_is(monitor, every, validate):
    plateau = ReduceOnPlateau(monitor, every=every)
    with pytest.raises(ValueError, match=r"Argument `monitor` must .*loss") as error:
        fit(trail_model(), [plateau], epochs=2, validate=validate)
    assert f"monitor='{monitor}'" in str(error.value)


# NumPy's about Keras's variables, which `pytest.warns` would raise again.
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_a_training_without_any_look_says_so():
    model = trail_model()
    with pytest.warns(UserWarning, match="`ReduceOnPlateau` never saw `val_loss`"):
        fit(model, [ReduceOnPlateau("val_loss")], epochs=2)


def test_a_fit_that_has_not_begun_is_named():
    plateau = ReduceOnPlateau("loss")
    plateau.set_model(trail_model())
    with pytest.raises(RuntimeError, match="`ReduceOnPlateau` has not joined"):
        plateau.on_epoch_end(0, {"loss": 1.0})


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *[("monitor", v, TypeError) for v in ("", None, 3)],
        *[("factor", v, ValueError) for v in (0.0, 1.0, 1.5, -0.1, NAN)],
        *[("factor", v, TypeError) for v in ("half", None, True)],
        *[("patience", v, ValueError) for v in (0, -1, 1.5)],
        *[("patience", v, TypeError) for v in ("long", None, True)],
        *[("mode", v, ValueError) for v in ("best", None, 1)],
        *[("min_delta", v, ValueError) for v in (-1e-9, NAN, INF)],
        *[("min_delta", v, TypeError) for v in (None, "1")],
        *[("cooldown", v, ValueError) for v in (-1, 0.5)],
        *[("cooldown", v, TypeError) for v in (None, "1")],
        *[("min_factor", v, ValueError) for v in (-0.1, 1.1, NAN)],
        *[("min_factor", v, TypeError) for v in (None, "1")],
        *[("every", v, ValueError) for v in (0, -1, 1.5)],
        *[("every", v, TypeError) for v in (None, True)],
        ("every", "batch", ValueError),
        *[("relative", v, TypeError) for v in (1, "yes", None)],
        *[("warmup", v, ValueError) for v in (-1, 0.5)],
        *[("warmup", v, TypeError) for v in ("1", True)],
        *[("raise_factor", v, ValueError) for v in (1.0, 0.5, NAN, INF)],
        *[("raise_factor", v, TypeError) for v in ("1", True)],
        *[("max_factor", v, ValueError) for v in (0.9, NAN, INF)],
        *[("max_factor", v, TypeError) for v in ("1",)],
    ],
)
def test_a_bad_argument_is_named(name, value, error):
    with pytest.raises(error, match=f"Argument `{name}` must") as raised:
        ReduceOnPlateau(**{"monitor": "loss", name: value})
    assert f"{name}={value!r}" in str(raised.value)


def test_a_validation_metric_cannot_be_looked_at_within_an_epoch():
    with pytest.raises(ValueError, match="Argument `monitor` must be a training"):
        ReduceOnPlateau("val_loss", every=5)


# --- The state ------------------------------------------------------------------------


def test_the_state_says_all_there_is():
    plateau = ReduceOnPlateau("loss", 0.5, 2, cooldown=3)
    fit(trail_model(levels=[4.0, 2.0, 3.0, 3.0, 3.0]), [plateau], epochs=5)
    expected = {"factor": 0.5, "best": 2.0, "wait": 0, "good": 0, "cooldown": 2}
    assert plateau.state == expected


def test_a_change_is_printed_if_asked_for(capsys):
    model = trail_model()
    fit(model, [ReduceOnPlateau("loss", 0.5, 2, verbose=1)], epochs=4)
    assert capsys.readouterr().out.strip() == "ReduceOnPlateau: learning rate x 0.5"
    fit(model, [ReduceOnPlateau("loss", 0.5, 2)], epochs=4)
    assert capsys.readouterr().out == ""


# Of 8 epochs: looks 3 and 6 reduce; 4 and 7 cool down; some wait.
RUN = {"factor": 0.5, "patience": 2, "cooldown": 1}


def callbacks_of(source, **arguments):
    """A plateau, and a scheduler of the rate or none."""
    callbacks = [ReduceOnPlateau("val_loss", **RUN, **arguments)]
    if source == "scheduler":
        callbacks.append(HyperparameterScheduler(learning_rate=S.LinearDecay(0.25)))
    return callbacks


def run_model(source):
    rate = DECAY if source == "schedule" else 0.125
    return trail_model(SGD(rate, momentum=0.5), FLAT[:16])


def run(model, callbacks, **arguments):
    fit(model, callbacks, epochs=8, steps=2, validate=True, **arguments)


def uninterrupted(source):
    model = run_model(source)
    run(model, callbacks_of(source))
    return state_of(model)


@pytest.mark.parametrize(
    ("source", "epochs"),
    [("float", [2, 3, 5]), ("schedule", [5]), ("scheduler", [4])],
)
def test_a_fit_goes_on_at_an_epoch_as_if_there_had_been_no_break(source, epochs):
    expected = uninterrupted(source)
    for epoch in epochs:
        model, callbacks = run_model(source), callbacks_of(source)
        run(model, [*callbacks, At(epoch - 1, stop)])
        run(model, callbacks, initial_epoch=epoch)
        assert state_of(model) == expected


def stopped(source, epoch, folder):
    """A training that ends early and is saved with its state."""
    path = folder / "state.json"
    model = run_model(source)
    run(model, [*callbacks_of(source, state_path=path), At(epoch - 1, stop)])
    model.save(folder / "model.keras")


def go_on(source, epoch, folder):
    """Loads it and trains it to its end."""
    model = keras.saving.load_model(folder / "model.keras")
    callbacks = callbacks_of(source, state_path=folder / "state.json")
    run(model, callbacks, initial_epoch=epoch)
    return state_of(model)


@pytest.mark.parametrize(
    ("source", "epochs"), [("float", [2, 4, 5]), ("schedule", [4]), ("scheduler", [5])]
)
def test_a_saved_model_goes_on_with_the_state_in_the_file(source, epochs, tmp_path):
    expected = uninterrupted(source)
    for epoch in epochs:
        stopped(source, epoch, tmp_path)
        assert go_on(source, epoch, tmp_path) == expected


@pytest.mark.slow
def test_a_new_process_goes_on_with_the_state_in_the_file(tmp_path):
    stopped("scheduler", 4, tmp_path)
    there = processes.call(go_on, "scheduler", 4, tmp_path)
    assert there == uninterrupted("scheduler")


def test_a_checkpoint_of_an_epoch_goes_on_from_that_epoch(tmp_path):
    """Though the state in the file is of a later one."""
    checkpoint = tmp_path / "{epoch}.keras"
    saver = keras.callbacks.ModelCheckpoint(checkpoint)
    path = tmp_path / "state.json"
    run(run_model("float"), [saver, *callbacks_of("float", state_path=path)])
    model = keras.saving.load_model(tmp_path / "4.keras")
    run(model, callbacks_of("float", state_path=path), initial_epoch=4)
    assert state_of(model) == uninterrupted("float")


def backed_up(source, epoch, folder):
    """A training that is backed up, which may crash; run again it goes on."""
    model = run_model(source)
    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    after = [At(epoch, crash, batch=0)] if epoch < 8 else []
    run(model, [backup, *callbacks_of(source), *after])
    return state_of(model)


@pytest.mark.parametrize("source", ["float", "scheduler"])
def test_a_training_that_crashed_goes_on_from_its_backup(source, tmp_path):
    for epoch in (2, 4):
        with pytest.raises(CrashError):
            backed_up(source, epoch, tmp_path)
        assert list(tmp_path.glob("backup/*.json"))
    assert backed_up(source, 8, tmp_path) == uninterrupted(source)
    assert not list(tmp_path.glob("backup/*"))


def test_a_training_that_crashed_goes_on_with_the_same_objects(tmp_path):
    model, callbacks = run_model("float"), callbacks_of("float")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with contextlib.suppress(CrashError):
        run(model, [*callbacks, backup, At(4, crash, batch=0)])
    run(model, [*callbacks, backup])
    assert state_of(model) == uninterrupted("float")


@pytest.mark.slow
def test_a_training_that_crashed_goes_on_in_a_new_process(tmp_path):
    with contextlib.suppress(CrashError):
        backed_up("scheduler", 4, tmp_path)
    there = processes.call(backed_up, "scheduler", 8, tmp_path)
    assert there == uninterrupted("scheduler")


def test_a_state_path_is_used_in_place_of_the_backup(tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    path = tmp_path / "deep" / "state.json"
    run(run_model("float"), [backup, *callbacks_of("float", state_path=path)])
    assert json.loads(path.read_bytes())[-1]["state"]["factor"] == 0.25


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_temporary_file_of_a_killed_process_is_removed(tmp_path):
    (tmp_path / ".state.json.0123abcd").write_bytes(b"half")
    plateau = ReduceOnPlateau("loss", 0.5, 1, state_path=tmp_path / "state.json")
    fit(trail_model(), [plateau], epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_second_fit_starts_afresh(tmp_path):
    plateau = ReduceOnPlateau("loss", 0.5, 1, state_path=tmp_path / "state.json")
    model = trail_model()
    fit(model, [plateau], epochs=4)
    fit(model, [plateau], epochs=4)
    again = ReduceOnPlateau("loss", 0.5, 1, state_path=tmp_path / "state.json")
    fit(model, [again], epochs=4)
    expected = 0.125 * np.tile([1.0, 1.0, 0.5, 0.25], 3)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON",
        b"\xff\x00",
        b'[{"count": 2',
        b"[" * 100_000 + b"]" * 100_000,
        b'[{"count": Infinity, "rates": [0.1], "state": {}}]',
    ],
    ids=["empty", "not JSON", "not text", "cut off", "nested", "infinite"],
)
def test_a_broken_state_file_is_named(content, tmp_path):
    path = tmp_path / "state.json"
    model = trail_model()
    fit(model, [ReduceOnPlateau("loss", state_path=path)], epochs=2)
    path.write_bytes(content)
    plateau = ReduceOnPlateau("loss", state_path=path)
    with pytest.raises(ValueError, match=r"state\.json` does not hold the state"):
        fit(model, [plateau], epochs=4, initial_epoch=2)
    assert len(rates(model)) == 2


# --- Afterwards -----------------------------------------------------------------------


def rate_of(model):
    return ops.convert_to_numpy(model.optimizer.learning_rate).item()


def test_the_rate_is_its_own_again_after_a_fit():
    model = trail_model()
    fit(model, [ReduceOnPlateau("loss", 0.5, 1)], epochs=4)
    assert rate_of(model) == 0.125
    fit(model, [], epochs=2)
    expected = 0.125 * np.array([1.0, 1.0, 0.5, 0.25, 1.0, 1.0])
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


class CrashInValidation(keras.callbacks.Callback):
    def on_test_begin(self, logs=None):
        if int(ops.convert_to_numpy(self.model.optimizer.iterations)) >= 3:
            raise CrashError


@pytest.mark.parametrize(
    "failing",
    [
        lambda: At(2, crash),
        lambda: At(2, crash, batch=0),
        CrashInValidation,
    ],
    ids=["at an epoch's end", "at a batch's end", "in the validation"],
)
def test_the_rate_is_its_own_again_after_an_exception(failing):
    model = trail_model()
    plateau = ReduceOnPlateau("loss", 0.5, 1)
    with contextlib.suppress(CrashError):
        fit(model, [plateau, failing()], epochs=6, validate=True)
    gc.collect()
    assert rate_of(model) == 0.125
    fit(model, [], epochs=1)
    fit(model, [plateau], epochs=3)
    expected = 0.125 * np.array([1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.5])
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


def test_an_exception_that_is_kept_does_not_keep_the_factor():
    model = trail_model()
    with pytest.raises(CrashError) as kept:
        fit(model, [ReduceOnPlateau("loss", 0.5, 1), At(2, crash)], epochs=6)
    fit(model, [], epochs=2)
    assert rate_of(model) == 0.125
    expected = 0.125 * np.array([1.0, 1.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)
    del kept


def test_the_history_has_the_rates_that_were_used():
    model = trail_model(SGD(DECAY), np.repeat(BUMPY, 2))
    callbacks = [HyperparameterLogger(), ReduceOnPlateau("loss", 0.5, 1)]
    history = fit(model, callbacks, epochs=12, steps=2).history["learning_rate"]
    np.testing.assert_allclose(history, rates(model)[1::2], atol=1e-6)
    expected = (DECAY.curve(24) * expected_factors(BUMPY, 2))[1::2]
    np.testing.assert_allclose(history, expected, rtol=1e-6)


# --- Awkward cases --------------------------------------------------------------------


def test_a_finite_value_beats_an_infinite_one_also_relatively():
    values = [math.inf, 1.0, 0.5, 0.25]
    assert looks(values, relative=True) == [1.0] * 4
    values = [-math.inf, 1.0, 2.0, 4.0]
    assert looks(values, relative=True, mode="max") == [1.0] * 4


@compiled_only
def test_the_last_execution_of_an_epoch_may_have_fewer_steps():
    """4, 4 and 2: the steps of the last wait for the first of the next epoch."""
    levels = np.tile([4.0, 2.0, 3.0, 3.0, 1.0, 5.0, 2.0, 3.5, 1.0, 6.0], 4)
    model = trail_model(levels=levels, steps_per_execution=4)
    plateau = ReduceOnPlateau("loss", 0.75, 2, every=4, min_delta=0.01)
    fit(model, [plateau], epochs=4, steps=10)
    arguments = {"factor": 0.75, "patience": 2, "min_delta": 0.01}
    values, ends = [], [0, 4, 8, 14, 18, 24, 28, 34, 38, 40]
    expected = np.full(40, 0.125)
    for first, end in itertools.pairwise(ends[:-1]):
        values.append(levels[first:end].mean())
        expected[end:] = 0.125 * reference(values, **arguments)[-1]
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`ReduceOnPlateau` never saw")
def test_looks_may_be_further_apart_than_an_epoch_is_long():
    model = trail_model()
    fit(model, [ReduceOnPlateau("loss", 0.5, 1, every=6)], epochs=6, steps=4)
    expected = 0.125 * np.repeat([1.0, 1.0, 0.5, 0.25], 6)
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`ReduceOnPlateau` never saw")
def test_a_metric_that_a_callback_before_it_writes_can_be_monitored():
    mine = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(mine=1.0)
    )
    model = trail_model()
    fit(model, [mine, ReduceOnPlateau("mine", 0.5, 1, "min")], epochs=4)
    expected = 0.125 * np.array([1.0, 1.0, 0.5, 0.25])
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


def test_a_rate_that_the_user_sets_between_two_fits_holds():
    model, plateau = trail_model(), ReduceOnPlateau("loss", 0.5, 1)
    fit(model, [plateau], epochs=2)
    model.optimizer.learning_rate = 0.5
    fit(model, [plateau], epochs=4, initial_epoch=2)
    np.testing.assert_allclose(rates(model), [0.125, 0.125, 0.25, 0.125], atol=1e-6)
    assert rate_of(model) == 0.5


@pytest.mark.parametrize(
    "content",
    [
        {},
        None,
        3,
        [1],
        [{"count": 1}],
        [{"count": 1, "rates": [0.125], "state": {"factors": 1.0}}],
        [{"count": 1, "rates": [0.125, 0.125], "state": {"factor": 1.0}}],
        [{"count": 1, "rates": ["0.1"], "state": {"factor": 1.0}}],
        [{"count": 1, "rates": [0.125], "state": {"factor": "1.0"}}],
        *(
            [{"count": 1, "rates": [0.125], "state": {name: value}}]
            for name, value in (
                *(("factor", value) for value in (NAN, INF, -5.0, True, 10**400)),
                *(("best", value) for value in (NAN, True)),
                *(("wait", value) for value in (INF, -1, 0.5, True)),
                *(("good", -1), ("cooldown", -1)),
            )
        ),
        *(
            [{"count": 1, "rates": [0.125], "state": {}, **other}]
            for other in (
                *({"count": count} for count in (-1, "1", True, 0.5)),
                *({"rates": [rate]} for rate in (NAN, INF, True)),
                *({"set_by_hand": [rate]} for rate in (NAN, "0.1", True)),
            )
        ),
    ],
    ids=str,
)
def test_a_state_file_that_holds_something_else_is_named(content, tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps(content))
    model = trail_model()
    fit(model, [], epochs=2)
    plateau = ReduceOnPlateau("loss", state_path=path)
    with pytest.raises(ValueError, match=r"state\.json` does not hold the state"):
        fit(model, [plateau], epochs=4, initial_epoch=2)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
@pytest.mark.filterwarnings("ignore:.* trains no variable")
def test_the_warmup_ends_though_the_first_optimizer_has_no_variables():
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(SGD(0.125), {"nothing": SGD(0.125)})
    )
    model = trail_model(several)
    fit(model, [ReduceOnPlateau("loss", 0.5, 1, warmup=4)], epochs=7)
    expected = 0.125 * np.array([1.0] * 6 + [0.5])
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


def test_updates_that_loss_scaling_skips_do_not_end_the_warmup():
    """No update in the first epoch, which is not looked at."""
    optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.125), initial_scale=2.0**15)
    slopes = [3e38] * 4 + [1.0] * 60
    model = trail_model(optimizer, [0.0] * 4 + FLAT[:60], slopes)
    plateau = ReduceOnPlateau("loss", 0.5, 1, warmup=8)
    fit(model, [plateau], epochs=4, steps=4)
    assert plateau.state["factor"] == 1.0
    assert plateau.state["best"] == 1.0


@pytest.mark.parametrize("eager", [False, True])
def test_loss_scaling_may_skip_the_first_update(eager):
    optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.125), initial_scale=2.0**15)
    model = trail_model(optimizer, slopes=[3e38] + [1.0] * 63, run_eagerly=eager)
    fit(model, [ReduceOnPlateau("loss", 0.5, 1)], epochs=4)
    expected = 0.125 * np.array([0.0, 1.0, 0.5, 0.25])
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`ReduceOnPlateau` never saw")
def test_a_metric_refused_within_an_epoch_leaves_the_weights():
    model = trail_model()
    with pytest.raises(ValueError, match="Argument `monitor`"):
        fit(model, [ReduceOnPlateau("los", every=1)], epochs=2)
    np.testing.assert_allclose(rates(model), [0.125])


def test_a_refused_metric_is_the_only_complaint(recwarn):
    with contextlib.suppress(ValueError):
        fit(trail_model(), [ReduceOnPlateau("los")], epochs=2)
    gc.collect()
    assert not [w for w in recwarn if w.category is UserWarning]


# Keras's, about data that it was not told the end of.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_warmup_that_cannot_be_counted_is_refused_before_the_first_step():
    x = np.zeros((1, 1), "float32")
    batches = ((x, x) for _ in range(4))
    model = trail_model()
    plateau = ReduceOnPlateau("loss", warmup=Fraction(0.5))
    with pytest.raises(ValueError, match="steps per epoch"):
        model.fit(batches, shuffle=False, verbose=0, callbacks=[plateau])
    assert rates(model).size == 0


def test_a_bound_on_a_factor_that_is_never_raised_is_refused():
    with pytest.raises(ValueError, match=r"`max_factor`.*`raise_factor`"):
        ReduceOnPlateau("loss", max_factor=2.0)


def test_corrected_momentum_is_resumed_with_the_factor_last_used(tmp_path):
    """The look at the end of the second epoch changes the rate of the third."""

    def trained(*parts):
        model = references.linear_model(keras.optimizers.SGD(0.01, momentum=0.9))
        for initial_epoch, epochs in parts:
            scheduler = HyperparameterScheduler(
                learning_rate=S.LinearDecay(0.05, 40), momentum_correction=True
            )
            plateau = ReduceOnPlateau(
                "loss", 0.5, 1, min_delta=1e9, state_path=tmp_path / f"{parts}.json"
            )
            references.fit(
                model, [scheduler, plateau], epochs, initial_epoch=initial_epoch
            )
        return references.weights(model)

    loop = references.SGD(corrected=True)
    rates = S.LinearDecay(0.05, 40).curve(40) * np.repeat([1.0, 1.0, 0.5, 0.25], 10)
    loop.train(40, learning_rate=rates)
    np.testing.assert_allclose(trained((0, 4)), loop.w, atol=1e-6)
    np.testing.assert_allclose(trained((0, 2), (2, 4)), loop.w, atol=1e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX must be told of 64 bits first")
def test_a_floatx_of_64_bits():
    keras.config.set_floatx("float64")
    try:
        model = references.linear_model(keras.optimizers.SGD(0.01))
        plateau = ReduceOnPlateau("loss", 0.5, 1, min_delta=1e9)
        references.fit(model, [plateau])
    finally:
        keras.config.set_floatx("float32")
    assert plateau.state["factor"] == 0.125


@pytest.mark.parametrize("schedule_in_optimizer", [False, True])
def test_a_warmup_within_another_schedule_counts(schedule_in_optimizer):
    schedule = S.Scaled(S.Warmup(S.Constant(0.1), 20), 0.5)
    rate = schedule if schedule_in_optimizer else 0.01
    callbacks = [ReduceOnPlateau("loss", 0.5, 1, min_delta=1e9)]
    if not schedule_in_optimizer:
        callbacks.append(HyperparameterScheduler(learning_rate=schedule))
    model = references.linear_model(keras.optimizers.SGD(rate))
    references.fit(model, callbacks, epochs=4)
    # Of four looks two are in the warmup, and the third is the best.
    assert callbacks[0].state["factor"] == 0.5


# --- A lowest rate, and the best weights ---


def test_the_factor_takes_no_rate_below_the_minimum():
    model = trail_model(levels=FLAT[:8])
    plateau = ReduceOnPlateau("loss", 0.5, 1, min_learning_rate=0.02)
    fit(model, [plateau], epochs=8)
    expected = np.maximum(0.125 * 0.5 ** np.maximum(np.arange(8) - 1, 0), 0.02)
    np.testing.assert_allclose(rates(model), expected, rtol=1e-5)
    # The factor stops where the rate does, so that it can rise from there.
    assert plateau.state["factor"] == pytest.approx(0.02 / 0.125)


def test_a_schedule_that_is_below_the_minimum_is_left_alone():
    schedule = S.LinearDecay(0.25, 16)
    model = trail_model(SGD(schedule), FLAT[:16])
    fit(model, [ReduceOnPlateau("loss", 0.5, 2, min_learning_rate=0.06)], epochs=16)
    own = schedule.curve(16)
    # After the look at the best value, two make a reduction each.
    factors = 0.5 ** np.maximum((np.arange(16) - 1) // 2, 0)
    expected = np.maximum(own * factors, np.minimum(own, 0.06))
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)
    assert expected.min() < 0.02


def test_each_group_of_variables_keeps_its_own_minimum():
    each = lrs.PerVariable({"early": 0.01, "late": 0.001, ".*": 0.02})
    model = grouped.linear_models(keras.optimizers.SGD(0.5))
    plateau = ReduceOnPlateau("loss", 0.1, 1, min_delta=1e9, min_learning_rate=0.005)
    scheduler = HyperparameterScheduler(learning_rate=each)
    history = grouped.fit(model, [scheduler, plateau, HyperparameterLogger()])
    assert history["learning_rate"] == pytest.approx([0.02, 0.02, 0.005, 0.005])
    late = history["learning_rate/late"]
    assert history["learning_rate/early"] == pytest.approx([0.01, 0.01, 0.005, 0.005])
    assert late == pytest.approx([0.001] * 4)


class Score(keras.callbacks.Callback):
    """Logs a value that is given for each epoch."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs):
        logs["score_loss"] = self.values[epoch]


SCORES = [3.0, 2.0, 1.0, 5.0, 5.0, 4.0, 6.0, 6.0]


def returning(**arguments):
    arguments = {"patience": 2, "restore_best_weights": True, **arguments}
    return ReduceOnPlateau("score_loss", 0.5, **arguments)


def test_a_reduction_returns_to_the_best_weights():
    model = references.linear_model(keras.optimizers.SGD(0.02))
    references.fit(model, [Score(SCORES), returning()], epochs=len(SCORES))
    loop, factor, best, kept, wait = references.SGD(), 1.0, math.inf, None, 0
    for score in SCORES:
        steps = np.ones(references.STEPS)
        loop.train(len(steps), learning_rate=0.02 * factor * steps, momentum=0 * steps)
        wait += 1
        if score < best:
            best, kept, wait = score, loop.w, 0
        elif wait == 2:
            loop.w, factor, wait = kept, 0.5 * factor, 0
    assert factor == 0.25
    np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)


def test_best_weights_that_a_resumed_run_lacks_are_missed():
    model = references.linear_model(keras.optimizers.SGD(0.02))
    plateau = returning()
    references.fit(model, [Score(SCORES), plateau], epochs=3)
    references.fit(model, [Score(SCORES), plateau], epochs=4, initial_epoch=3)
    plateau.best_weights = BestWeights()
    with pytest.raises(ValueError, match="without the weights of the best epoch"):
        references.fit(model, [Score(SCORES), plateau], epochs=5, initial_epoch=4)


@pytest.mark.parametrize("every", [3, "epoch"])
def test_where_the_best_weights_cannot_come_back_is_told(every):
    if every == 3:
        with pytest.raises(ValueError, match="`restore_best_weights` must be False"):
            ReduceOnPlateau("loss", every=3, restore_best_weights=True)
        return
    model = references.linear_model(keras.optimizers.SGD(0.02))
    average = lrs.callbacks.WeightAveraging()
    with pytest.raises(ValueError, match="cannot work together with `WeightAveraging`"):
        references.fit(model, [average, returning()])
    model = references.linear_model(lrs.optimizers.ScheduleFreeSGD(0.02))
    with pytest.raises(ValueError, match="cannot work with `ScheduleFree`"):
        references.fit(model, [returning()])
