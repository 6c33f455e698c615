"""Numbers that PyTorch's host knows: reading none, and missing no change."""

import copy

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs._keras.known import KnownNumbers

pytestmark = pytest.mark.only("torch")


@pytest.fixture
def variable():
    return keras.Variable(3.0, dtype="float32", trainable=False)


def test_what_was_assigned_is_known_as_the_variable_rounds_it(variable):
    known = KnownNumbers()
    known.assign(variable, 0.1)
    assert known.value_of(variable) == np.float32(0.1).item()
    assert keras.ops.convert_to_numpy(variable.value) == np.float32(0.1)


def test_a_change_by_others_is_noticed(variable):
    known = KnownNumbers()
    assert known.value_of(variable) == 3.0
    variable.assign(4.0)
    assert known.value_of(variable) == 4.0
    variable.assign_add(1.0)
    assert known.value_of(variable) == 5.0
    twin = copy.deepcopy(known)
    assert twin.value_of(variable) == 5.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: lrs.optimizers.ScheduleFree(keras.optimizers.SGD(0.1), warmup_steps=10),
        lambda: lrs.optimizers.Scheduled(
            keras.optimizers.SGD(0.1), learning_rate=lrs.schedules.LinearDecay(0.1, 10)
        ),
    ],
)
def test_an_optimizer_continues_from_the_state_that_it_is_given(make):
    def trained(steps, optimizer, weight):
        for _ in range(steps):
            optimizer.apply([keras.ops.convert_to_tensor([1.0])], [weight])
        return keras.ops.convert_to_numpy(weight.value).item()

    weight, optimizer = keras.Variable([1.0]), make()
    trained(3, optimizer, weight)
    values = [np.array(keras.ops.convert_to_numpy(v)) for v in optimizer.variables]
    start = keras.ops.convert_to_numpy(weight.value).copy()
    end = trained(2, optimizer, weight)
    # Back to where it was, in the middle of what it knows.
    for one, value in zip(optimizer.variables, values, strict=True):
        one.assign(value)
    weight.assign(start)
    assert trained(2, optimizer, weight) == end
