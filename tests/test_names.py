"""Names of other libraries, and misspelt ones: which of ours is meant."""

import pathlib
import re

import pytest

import keras_lrs as lrs
from keras_lrs.averages import ExponentialAverage
from keras_lrs.callbacks import OneCycleScheduler, ReduceOnPlateau, WeightAveraging
from keras_lrs.optimizers import ScheduleFree
from keras_lrs.schedules import names

S = lrs.schedules


@pytest.mark.parametrize(
    ("make", "name", "meant"),
    [
        (S.CosineAnnealing, "alpha", "end_learning_rate"),
        (S.CosineAnnealing, "eta_min", "end_learning_rate"),
        (S.CosineAnnealing, "T_max", "decay_steps"),
        (S.CosineAnnealing, "lr", "initial_learning_rate"),
        (S.CosineRestarts, "steps", "first_decay_steps"),
        (S.CyclicalLearningRate, "base_lr", "initial_learning_rate"),
        (S.CyclicalLearningRate, "step_size_up", "step_size"),
        (S.LinearDecay, "steps", "decay_steps"),
        (S.LinearDecay, "decay_step", "decay_steps"),
        (S.LinearDecay, "end_value", "end_learning_rate"),
        (S.OneCycle, "max_lr", "max_learning_rate"),
        (S.OneCycle, "pct_start", "warmup_fraction"),
        (S.StepDecay, "gamma", "decay_rate"),
        (S.PiecewiseConstant, "milestones", "boundaries"),
        (S.Warmup, "warmup", "warmup_steps"),
        (S.Constant, "lr", "value"),
        (S.Clipped, "min_lr", "minimum"),
        (ExponentialAverage, "beta", "decay"),
        (OneCycleScheduler, "max_lr", "max_learning_rate"),
        (ReduceOnPlateau, "min_lr", "min_learning_rate"),
        (WeightAveraging, "decay", "average"),
        (ScheduleFree, "momentum", "beta"),
        (lrs.plot_schedules, "steps", "num_steps"),
    ],
)
def test_the_argument_that_is_meant_is_named(make, name, meant):
    with pytest.raises(
        TypeError, match=f"no argument `{name}`. Did you mean `{meant}`"
    ):
        make(**{name: 0.1})


def test_a_share_is_told_from_a_rate():
    with pytest.raises(TypeError, match="a rate: alpha times the first one"):
        S.CosineAnnealing(0.1, alpha=0.01)


def test_what_is_handed_on_is_told_by_who_gets_it():
    with pytest.raises(TypeError, match=r"`OneCycle` .* mean `warmup_fraction`"):
        OneCycleScheduler(0.1, pct_start=0.3)


def test_what_resembles_nothing_is_told_what_there_is():
    with pytest.raises(TypeError, match=r"`banana`\. It has: initial_learning_rate, "):
        S.LinearDecay(0.1, banana=1)


def test_a_fraction_above_one_is_told_what_it_may_mean():
    message = r"<= 1, .*`Fraction\(0\.1\)`.*`Epochs\(10\)`.*fraction=10"
    with pytest.raises(ValueError, match=message):
        S.Fraction(10)


@pytest.mark.parametrize(
    ("value", "name"), [(1.0, "Constant"), (lambda step: 1.0, "FunctionSchedule")]
)
def test_what_is_no_schedule_is_told_which_to_make(value, name):
    with pytest.raises(TypeError, match=f"`schedule` must be .*use `{name}`"):
        S.Warmup(value, 10)


def test_the_page_of_names_is_what_errors_say():
    """Each name that is not ours leads to the one in its row."""
    page = pathlib.Path(__file__).parents[1] / "docs" / "migration" / "names.md"
    rows = [
        [re.findall("`(.*?)`", cell) for cell in line.strip("|").split("|")]
        for line in page.read_text("utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 10
    for (ours,), *others, _ in rows:
        for name in {name for cell in others for name in cell} - {ours}:
            assert names.meant(name, [ours]) == ours, (name, ours)
