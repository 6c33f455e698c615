"""What tools that log runs are told of the schedules of a run."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    OneCycleScheduler,
    VariableScheduler,
    WeightAveraging,
)
from tests.callbacks import catalogue, references

S = lrs.schedules
Epochs = lrs.Epochs


def sgd(**arguments):
    return keras.optimizers.SGD(0.01, momentum=0.9, **arguments)


def test_a_schedule_is_described_as_the_fit_bound_it():
    schedule = S.Warmup(S.CosineAnnealing(0.05), Epochs(1))
    scheduler = HyperparameterScheduler(schedule, momentum=0.5)
    references.fit(references.linear_model(sgd()), [scheduler], epochs=3)
    assert scheduler.describe() == {
        "learning_rate": "Warmup",
        "learning_rate.schedule": "CosineAnnealing",
        "learning_rate.schedule.initial_learning_rate": 0.05,
        "learning_rate.schedule.decay_steps": 20,
        "learning_rate.schedule.end_learning_rate": 0.0,
        "learning_rate.schedule.k": 1.0,
        "learning_rate.warmup_steps": 10,
        "learning_rate.initial_fraction": 0.0,
        "learning_rate.shape": "linear",
        "learning_rate.power": 2.0,
        "learning_rate.peak": pytest.approx(0.05),
        "momentum": "Constant",
        "momentum.value": 0.5,
        "momentum.peak": 0.5,
        "run.epochs": 3,
        "run.steps_per_epoch": 10,
        "run.steps": 30,
    }


def test_before_a_fit_lengths_are_as_given():
    schedule = S.Warmup(S.CosineAnnealing(0.05), Epochs(1))
    found = HyperparameterScheduler(schedule).describe()
    assert found["learning_rate.warmup_steps"] == "Epochs(epochs=1.0)"
    assert "learning_rate.schedule.decay_steps" not in found
    assert "learning_rate.peak" not in found
    assert "run.steps" not in found


def test_the_peak_of_one_cycle_is_found_in_both_halves():
    cycle = OneCycleScheduler(0.05, warmup_fraction=0.5)
    references.fit(references.linear_model(sgd()), [cycle], epochs=2)
    found = cycle.describe()
    assert found["learning_rate"] == "OneCycle"
    assert found["learning_rate.peak"] == pytest.approx(0.05)
    assert found["momentum.peak"] == pytest.approx(0.95)


def test_all_is_a_string_or_a_number_under_a_key_that_tools_take():
    """MLflow takes letters, digits, spaces and `_-./`."""
    schedule = S.Sequential(
        [S.PiecewiseConstant(list(range(1, 40)), np.ones(40)), S.LinearDecay(0.1)],
        [5],
    )
    scheduler = HyperparameterScheduler(
        schedule, rate_multipliers={"(^|/)kernel$": keras_decay()}
    )
    references.fit(references.linear_model(sgd()), [scheduler])
    found = scheduler.describe()
    assert found["rate_multipliers.0.pattern"] == "(^|/)kernel$"
    assert found["rate_multipliers.0.decay_rate"] == 0.5
    for key, value in found.items():
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-./ "), key
        assert type(value) in (str, int, float, bool), key
        assert len(str(value)) < 250


def keras_decay():
    return keras.optimizers.schedules.ExponentialDecay(0.9, 10, 0.5)


def test_a_variable_is_described_under_its_path():
    model = catalogue.linear_model("VariableScheduler")
    scheduler = VariableScheduler({catalogue.SCHEDULED: S.LinearDecay(2.0)})
    assert "scheduled.decay_steps" not in scheduler.describe()
    references.fit(model, [scheduler], epochs=2)
    found = scheduler.describe()
    assert found["scheduled"] == "LinearDecay"
    assert (found["scheduled.decay_steps"], found["scheduled.peak"]) == (20, 2.0)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
def test_each_of_several_optimizers_is_described():
    several = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1, name="slow"),
        {".*kernel": keras.optimizers.SGD(0.1, name="fast")},
    )
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.MultiOptimizer(several), "mse")
    schedules = {"slow": S.LinearDecay(0.01), "fast": S.LinearDecay(0.02)}
    scheduler = HyperparameterScheduler(schedules)
    references.fit(model, [scheduler], epochs=2)
    found = scheduler.describe()
    for name, peak in (("slow", 0.01), ("fast", 0.02)):
        assert found[f"learning_rate/{name}"] == "LinearDecay"
        assert found[f"learning_rate/{name}.decay_steps"] == 20
        assert found[f"learning_rate/{name}.peak"] == pytest.approx(peak)


# --- In notebooks ---


def test_a_notebook_shows_the_schedules_that_the_fit_has_bound():
    scheduler = HyperparameterScheduler(
        S.CosineAnnealing(0.05),
        momentum=keras_decay(),
        rate_multipliers={"<k|kernel": 2},
    )
    assert "decay_steps=None" in scheduler._repr_html_()
    references.fit(references.linear_model(sgd()), [scheduler], epochs=2)
    shown = scheduler._repr_html_()
    rows = shown.removesuffix("</tr></table>").split("<tr>")[1:]
    assert scheduler.bound["learning_rate"]._repr_html_() in rows[0]
    assert "<svg" in rows[0]
    assert "ExponentialDecay" in rows[1]
    assert "rate_multipliers of &lt;k|kernel" in rows[2]


def test_a_notebook_shows_the_schedules_of_variables():
    scheduler = VariableScheduler({"a/<b>": S.LinearDecay(2.0, 7)})
    shown = scheduler._repr_html_()
    assert "<td>a/&lt;b&gt;</td>" in shown
    assert S.LinearDecay(2.0, 7)._repr_html_() in shown


def test_an_average_is_described_with_its_lengths_in_steps():
    averaging = WeightAveraging(
        lrs.averages.ExponentialAverage(0.9), start_step=Epochs(1), update_every=2
    )
    assert averaging.describe()["average.start_step"] == "Epochs(epochs=1.0)"
    references.fit(references.linear_model(sgd()), [averaging], epochs=3)
    found = averaging.describe()
    assert found["average"] == "ExponentialAverage"
    assert found["average.decay"] == 0.9
    assert found["average.start_step"] == 10
    assert found["average.update_every"] == 2
    assert found["average.batch_norm"] == "keep"
    assert found["run.steps"] == 30
