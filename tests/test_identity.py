"""Schedules are equal only if everything that they hold is."""

import functools

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.schedules.identity import identity

S = lrs.schedules

Base = keras.optimizers.schedules.LearningRateSchedule


class Table(Base):
    """Rates in a table, of which the config tells as much as the test asks for."""

    def __init__(self, rates, config=None):
        self.rates, self.config = rates, config

    def __call__(self, step):
        rates = keras.ops.convert_to_tensor(self.rates)
        return keras.ops.take(rates, keras.ops.cast(step, "int32"))

    def get_config(self):
        return {"rates": self.rates} if self.config is None else self.config


class Slotted(Table):
    __slots__ = ("factor",)

    def __init__(self, factor):
        super().__init__([0.1])
        self.factor = factor


def long_table(last):
    return np.append(np.zeros(2_000, "float32"), np.float32(last))


def tables(last):
    """Schedules that differ in one number at most, by how they hold it."""
    kept = [last]

    def closed(step):
        return kept[0]

    def default(step, rate=last):
        return rate

    return {
        "an array that repr shortens": Table(long_table(last)),
        "a config that leaves it out": Table(long_table(last), {}),
        "a tensor": Table(keras.ops.convert_to_tensor(long_table(last))),
        "a variable": Table(keras.Variable(long_table(last))),
        "slots": Slotted(last),
        "a list in a dictionary": Table({"rates": [0.0, last]}),
        "a type": Table(np.float32(1.0) if last == 1.0 else np.float64(1.0)),
        "a closure": Table(closed),
        "a default": Table(default),
        "a partial": Table(functools.partial(max, last)),
        "one of ours": S.Scaled(Table(long_table(last)), 2.0),
        "one of Keras's": keras.optimizers.schedules.ExponentialDecay(last, 10, 0.9),
    }


ONES = tables(1.0)


@pytest.mark.parametrize("name", ONES)
def test_what_holds_another_number_is_another_schedule(name):
    assert identity(ONES[name]) != identity(tables(2.0)[name])


@pytest.mark.parametrize("name", ONES)
def test_the_same_schedule_is_equal_to_itself(name):
    assert identity(ONES[name]) == identity(ONES[name])
    assert hash(identity(ONES[name])) == hash(identity(ONES[name]))


def test_schedules_with_equal_arrays_are_equal():
    one, other = Table(long_table(1.0)), Table(long_table(1.0))
    assert identity(one) == identity(other)
    assert S.Scaled(one, 2.0) == S.Scaled(other, 2.0)
    assert S.Scaled(one, 2.0) != S.Scaled(Table(long_table(2.0)), 2.0)


@pytest.mark.parametrize("inside", [lambda one: one, lambda one: S.Scaled(one, 2.0)])
def test_a_schedule_that_was_altered_is_another(inside):
    schedule = Table(long_table(1.0), {})
    before = identity(inside(schedule))
    schedule.rates[-1] = 2.0
    assert identity(inside(schedule)) != before


def test_numbers_of_another_type_are_others():
    rows = [[0, 1], [0.0, 1.0], [False, True], [0, 1.0], [0, True]]
    found = [identity(Table(row, {})) for row in rows]
    for one in found:
        assert sum(one == other for other in found) == 1


def test_what_cannot_be_looked_into_equals_nothing():
    schedule = Table(object())
    assert identity(schedule) != identity(schedule)
    schedule.rates = schedule
    assert identity(schedule) != identity(schedule)


def test_our_own_schedules_are_equal_by_their_arguments():
    def made():
        warm = S.Warmup(S.CosineAnnealing(0.1, 90), 10)
        return S.Sequential([warm, S.PiecewiseConstant([5], [0.1, 0.2])], [100])

    assert identity(made()) == identity(made())
    made_before = made()
    made_before(3)  # What it caches is no part of it.
    assert identity(made_before) == identity(made())
