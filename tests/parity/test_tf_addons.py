"""Parity with TensorFlow Addons' cyclical learning rates, by their formula.

The package has reached its end of life and does not install with Keras 3.
"""

import numpy as np
import pytest

from keras_lrs.schedules import (
    CyclicalLearningRate,
    PiecewiseInterpolation,
    Restarts,
)
from tests.parity.curves import assert_same_curve

LOW, HIGH = 0.01, 0.3


def cyclical(step_size, scale, scale_mode="cycle", num_steps=600):
    """`tfa.optimizers.CyclicalLearningRate.__call__`, in float64."""
    step = np.arange(num_steps, dtype=np.float64)
    cycle = np.floor(1 + step / (2 * step_size))
    x = np.abs(step / step_size - 2 * cycle + 1)
    scaled = scale(cycle if scale_mode == "cycle" else step)
    return LOW + (HIGH - LOW) * np.maximum(0, 1 - x) * scaled


def assert_cycles(schedule, expected):
    # `x` is the difference of times in half cycles, up to hundreds of them.
    assert_same_curve(schedule, expected, roundings=1000)


sizes = pytest.mark.parametrize("step_size", [50, 7, 1, 200])


@sizes
def test_triangular_is_triangular_cyclical_learning_rate(step_size):
    schedule = CyclicalLearningRate(LOW, HIGH, step_size)
    assert_cycles(schedule, cyclical(step_size, lambda x: 1.0))


@sizes
def test_triangular2_is_triangular2_cyclical_learning_rate(step_size):
    schedule = CyclicalLearningRate(LOW, HIGH, step_size, mode="triangular2")
    assert_cycles(schedule, cyclical(step_size, lambda x: 1 / 2.0 ** (x - 1)))


@sizes
@pytest.mark.parametrize("gamma", [0.99, 0.999, 1.0])
def test_exp_range_is_exponential_cyclical_learning_rate_of_iterations(
    gamma, step_size
):
    schedule = CyclicalLearningRate(LOW, HIGH, step_size, mode="exp_range", gamma=gamma)
    expected = cyclical(step_size, lambda x: gamma**x, "iterations")
    assert_cycles(schedule, expected)


@sizes
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_restarts_are_exponential_cyclical_learning_rate_of_cycles(gamma, step_size):
    """Its cycles count from 1, so that the first one is scaled, too."""
    peak = LOW + (HIGH - LOW) * gamma
    triangle = PiecewiseInterpolation([0, step_size, 2 * step_size], [LOW, peak, LOW])
    schedule = Restarts(triangle, 2 * step_size, m_mul=gamma)
    assert_cycles(schedule, cyclical(step_size, lambda x: gamma**x))
