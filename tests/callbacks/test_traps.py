"""Mistakes that look like working code: each has its word."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.averages import ExponentialAverage
from keras_lrs.callbacks import (
    AveragedEvaluation,
    HyperparameterLogger,
    HyperparameterScheduler,
    ReduceOnPlateau,
)
from keras_lrs.optimizers import ScheduleFree
from tests.callbacks import references
from tests.callbacks.references import X, Y
from tests.warned import warns

pytestmark = pytest.mark.every_backend

S = lrs.schedules
SGD = keras.optimizers.SGD
Keras = keras.optimizers.schedules


def warmed_up(steps):
    return S.Warmup(S.Constant(0.1), steps)


@pytest.mark.parametrize(
    ("own", "callbacks"),
    [
        (0.1, lambda: [HyperparameterScheduler(learning_rate=warmed_up(41))]),
        (warmed_up(41), lambda: [HyperparameterLogger()]),
        (
            Keras.CosineDecay(0.0, 9, 0.0, warmup_target=0.1, warmup_steps=41),
            lambda: [],
        ),
    ],
)
def test_a_warmup_longer_than_the_run_is_warned_of(own, callbacks):
    model = references.linear_model(SGD(own))
    with warns("warmup of 41 steps is longer than this run of 40"):
        references.fit(model, [*callbacks(), ReduceOnPlateau("loss")])


def test_a_warmup_as_long_as_the_run_is_not():
    model = references.linear_model(SGD(0.1))
    references.fit(model, [HyperparameterScheduler(learning_rate=warmed_up(40))])


def test_a_schedule_that_began_in_an_earlier_fit_has_warmed_up():
    model = references.linear_model(SGD(warmed_up(30)))
    references.fit(model, [HyperparameterLogger()])
    references.fit(model, [HyperparameterLogger()], epochs=1)


def test_a_plateau_that_never_looks_is_warned_of():
    model = references.linear_model(SGD(0.1))
    with warns("never looks at its metric: its `warmup` of 40 steps"):
        references.fit(model, [ReduceOnPlateau("loss", warmup=S.Epochs(4))])


def schedule_free():
    return references.linear_model(ScheduleFree(SGD(0.1)))


@pytest.mark.parametrize(
    "given", [{"validation_data": (X, Y)}, {"validation_split": 0.5}]
)
@pytest.mark.parametrize("wrap", [lambda one: one, keras.optimizers.LossScaleOptimizer])
def test_validating_schedule_free_without_its_average_is_warned_of(given, wrap):
    model = references.linear_model(wrap(ScheduleFree(SGD(0.1))))
    for _ in range(2):
        with warns("validates the weights at which `ScheduleFree` takes its gradients"):
            references.fit(model, epochs=1, data=references.arrays(), **given)


def test_validating_its_average_or_nothing_is_not():
    references.fit(schedule_free(), epochs=1)
    references.fit(
        schedule_free(), [AveragedEvaluation()], epochs=1, validation_data=(X, Y)
    )


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        (S.LinearDecay(0.1), "HyperparameterScheduler"),
        (S.PerVariable({"kernel": 0.1}), "HyperparameterScheduler"),
        (ExponentialAverage(0.9), "WeightAveraging"),
    ],
)
def test_a_schedule_among_the_callbacks_is_refused(given, instead):
    model = references.linear_model(SGD(0.1))
    message = f"`callbacks` must hold callbacks.*{instead}"
    with pytest.raises(TypeError, match=message):
        references.fit(model, [given])
    with pytest.raises(TypeError, match=message):
        model.fit(X, Y, verbose=0, callbacks=given)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
def test_a_part_of_a_multi_optimizer_without_a_variable_is_warned_of():
    def model(pattern):
        found = {pattern: SGD(0.5, name="sgd_of_kernels")}
        default = SGD(0.1, name="sgd_of_all")
        several = keras.optimizers.OptimizerMap(default, found)
        return references.linear_model(keras.optimizers.MultiOptimizer(several))

    scheduler = HyperparameterScheduler(learning_rate=S.Constant(0.1))
    with warns("`sgd_of_kernels` of the model's `MultiOptimizer` trains no variable"):
        logs = references.fit(
            model("nowhere"), [scheduler, HyperparameterLogger()], epochs=1
        ).history
    assert "learning_rate/sgd_of_kernels" not in logs
    # One for all others may have none.
    references.fit(model(".*kernel"), [scheduler], epochs=1)


def test_the_mean_of_integers_is_refused():
    inputs = keras.Input((3,))
    classes = keras.ops.argmax(keras.layers.Dense(2)(inputs), axis=-1)
    model = keras.Model(inputs, classes)
    values = [np.array(value) for value in model.get_weights()]
    members = [lrs.ensembles.Member("", i, i, True, 0.0, {}, values) for i in range(2)]
    ensemble = lrs.ensembles.Ensemble(model, members)
    for predict in (ensemble.predict, lambda x, **_: ensemble.to_model()):
        with pytest.raises(ValueError, match="whose mean is meaningless"):
            predict(X, verbose=0)
    assert ensemble.predict_members(X, verbose=0).shape == (2, len(X))
