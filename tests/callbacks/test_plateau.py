"""`Plateau`: the rule of `ReduceOnPlateau` for loops that have no callbacks."""

import json
import math

import keras
import numpy as np
import pytest
from hypothesis import given

from keras_lrs import Plateau
from tests.callbacks.test_reduce_on_plateau import metrics, reference, rules


@given(metrics, rules)
def test_a_loop_sees_the_factors_of_the_reference(values, rule):
    plateau = Plateau(**rule)
    found = [plateau.update(value) for value in values]
    assert found == reference(values, **rule)


def test_it_is_lowered_after_patience_updates_without_a_better_one():
    plateau = Plateau(factor=0.5, patience=2, min_delta=0.0)
    found = [plateau.update(metric) for metric in (3.0, 2.0, 2.0, 2.0, 1.0)]
    assert found == [1.0, 1.0, 1.0, 0.5, 0.5]
    assert plateau.state["best"] == 1.0


def test_the_best_is_told():
    plateau = Plateau(factor=0.5, patience=1, cooldown=2)
    found = []
    for metric in (2.0, 3.0, 1.0, 1.0, math.nan, 0.5):
        plateau.update(metric)
        found.append(plateau.is_best)
    assert found == [True, False, True, False, False, True]


def test_nan_is_never_better():
    plateau = Plateau(factor=0.5, patience=1)
    assert [plateau.update(m) for m in (1.0, math.nan, 0.5)] == [1.0, 0.5, 0.5]
    assert plateau.state["best"] == 0.5


@pytest.mark.every_backend
def test_a_metric_may_be_a_tensor_or_a_variable():
    plateau = Plateau(factor=0.5, patience=1)
    plateau.update(keras.ops.convert_to_tensor(1.0))
    assert plateau.update(keras.Variable(2.0)) == 0.5
    assert plateau.update(np.float32(3.0)) == 0.25


@pytest.mark.parametrize("metric", ["1", None, True, [1.0, 2.0], 1j])
def test_what_is_no_number_is_refused(metric):
    with pytest.raises(TypeError, match=r"`metric` must be a number. Received: metric"):
        Plateau().update(metric)


def test_a_state_that_went_through_json_continues():
    rule = {"factor": 0.5, "patience": 2, "cooldown": 1}
    values = [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    straight, first, second = (Plateau(**rule) for _ in range(3))
    found = [first.update(value) for value in values[:3]]
    second.set_state(json.loads(json.dumps(first.get_state())))
    found += [second.update(value) for value in values[3:]]
    assert found == [straight.update(value) for value in values]


@pytest.mark.parametrize("state", [{}, None, {"factor": 1.0}])
def test_another_state_is_refused(state):
    with pytest.raises(ValueError, match=r"`state` must have the keys factor, best"):
        Plateau().set_state(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("factor", value) for value in (math.nan, math.inf, -5.0, True, None, "1")),
        *(("best", value) for value in (math.nan, 10**400, True, "1")),
        *(("wait", value) for value in (-1, 0.5, math.inf, True, None)),
    ],
)
def test_a_value_that_no_state_has_is_refused(name, value):
    plateau = Plateau()
    with pytest.raises(ValueError, match="`state` must be what `get_state` returned"):
        plateau.set_state({**plateau.get_state(), name: value})
    assert plateau.state == Plateau().state


def test_the_direction_must_be_given():
    with pytest.raises(ValueError, match=r"`mode` must be one of 'min', 'max'"):
        Plateau(mode="auto")
