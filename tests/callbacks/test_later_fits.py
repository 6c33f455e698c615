"""A later fit looks again neither at each boundary of a table nor at needless steps."""

import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs._step.hyperparameters import sampled
from tests.callbacks import references

S, C = lrs.schedules, lrs.callbacks

PACKAGE = str(pathlib.Path(lrs.__file__).parent)


def calls_of_ours(function):
    """How many functions of the package a function calls."""
    calls = []

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls.append(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return len(calls)


def calls_of_a_later_fit(num_boundaries):
    rates = np.linspace(0.1, 0.01, num_boundaries + 1)
    table = S.PiecewiseConstant(list(range(1, num_boundaries + 1)), rates)
    model = references.linear_model(keras.optimizers.SGD(0.1))

    def fit():
        scheduler = C.HyperparameterScheduler(learning_rate=table)
        references.fit(model, [scheduler], epochs=1)

    fit()
    return calls_of_ours(fit)


@pytest.mark.every_backend
def test_does_not_look_at_each_boundary():
    assert calls_of_a_later_fit(10_000) < calls_of_a_later_fit(10) + 100


def test_samples_every_step_of_a_short_run():
    for length in (0, 1, 7, 10_000):
        steps, values = sampled(S.LinearDecay(1.0, 20_000), length)
        np.testing.assert_array_equal(steps, np.arange(length + 1))
        np.testing.assert_allclose(values, 1.0 - steps / 20_000.0)


@pytest.mark.parametrize("length", [10_001, 12_345, 2**31])
def test_samples_the_ends_of_a_long_run_and_even_steps_between(length):
    steps, _ = sampled(S.Constant(0.1), length)
    assert (steps[0], steps[-1], len(steps)) == (0, length, 10_001)
    distances = np.diff(steps)
    assert distances.min() >= 1
    assert distances.max() - distances.min() <= 1
