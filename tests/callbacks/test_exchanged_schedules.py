"""A fit never trains with the schedule of an earlier one."""

import keras
import numpy as np
import pytest

from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    ReduceOnPlateau,
)
from keras_lrs.schedules import Constant, LinearDecay, Scaled
from tests.test_identity import Table

pytestmark = pytest.mark.every_backend

X, Y = np.ones((4, 1), "float32"), np.full((4, 1), 100.0, "float32")


def unit_model(optimizer):
    """A weight that an update moves by the learning rate."""
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(optimizer, "mae")
    return model


def moved(model, *callbacks):
    """How far a fit of four steps moves the weight, and the last rate in its logs."""
    before = model.get_weights()[0].item()
    logs = model.fit(X, Y, batch_size=1, verbose=0, callbacks=callbacks).history
    after = model.get_weights()[0].item()
    return after - before, logs.get("learning_rate", [None])[-1]


def table(rate):
    return np.full(2_000, rate, "float32")


@pytest.mark.parametrize("inside", [lambda one: one, lambda one: Scaled(one, 1.0)])
def test_a_table_that_the_config_leaves_out_is_that_of_its_fit(inside):
    model = unit_model(keras.optimizers.SGD(0.01))
    schedule = Table(table(0.001), {})
    for rate in (0.001, 0.005, 0.002):
        schedule.rates[:] = rate
        scheduler = HyperparameterScheduler(learning_rate=inside(schedule))
        distance, logged = moved(model, scheduler, HyperparameterLogger())
        np.testing.assert_allclose([distance, logged], [4 * rate, rate], rtol=1e-5)


@pytest.mark.parametrize("beside", [(), (ReduceOnPlateau("loss"),)])
def test_an_optimizer_that_is_given_another_schedule_trains_with_it(beside):
    model = unit_model(keras.optimizers.SGD(Constant(0.25)))
    for rate in (0.25, 0.5, 0.125):
        model.optimizer.learning_rate = Constant(rate)
        distance, logged = moved(model, HyperparameterLogger(), *beside)
        np.testing.assert_allclose([distance, logged], [4 * rate, rate], rtol=1e-5)


def test_equal_schedules_of_ours_are_compiled_once():
    traces = []

    class Counting(keras.optimizers.SGD):
        def update_step(self, *arguments):
            traces.append(1)
            super().update_step(*arguments)

        def _parallel_update_step(self, *arguments):
            traces.append(1)
            super()._parallel_update_step(*arguments)

    model, counts = unit_model(Counting(0.01)), []
    for _ in range(3):
        schedule = Scaled(LinearDecay(0.1, 4), 2.0)
        moved(model, HyperparameterScheduler(learning_rate=schedule))
        counts.append(len(traces))
    if keras.backend.backend() != "torch":  # Which traces nothing.
        assert counts[2] == counts[1] == counts[0]
