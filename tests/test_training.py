"""The rates that a compiled `fit` really uses, seen in the weights."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import catalogue, compiled
from tests.ramp import Ramp, ramp

pytestmark = pytest.mark.every_backend(8)

S = lrs.schedules


def fit(optimizer, batches, epochs=1, **compile_arguments):
    """Trains a `Ramp`; returns it. Its loss is its output."""
    model = ramp(optimizer, **compile_arguments)
    x = np.zeros((batches, 1), "float32")
    model.fit(x, x, batch_size=1, epochs=epochs, shuffle=False, verbose=0)
    return model


SETTINGS = [
    {},
    {"run_eagerly": True},
]
if keras.backend.backend() != "torch":  # Which is always eager.
    SETTINGS += [{"steps_per_execution": 4}, {"jit_compile": False}]

SCHEDULES = [
    S.CosineAnnealing(0.1, 24, 0.01),
    S.Warmup(S.REXDecay(0.1, 20), 5),
    S.CosineRestarts(0.1, 5, t_mul=1.5),
    S.OneCycle(0.1, 24),
    S.BoundedExponentialDecay(0.1, 24, 1e-3, updates=5),
    S.PiecewiseConstant(range(1, 100), np.linspace(0.1, 0.01, 100)),
    S.Sequential([S.Constant(0.1), catalogue.KERAS_COSINE], [7]),
    S.FunctionSchedule(catalogue.inverse),
    S.Noisy(S.LinearDecay(0.1, 24), 0.2),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_fit_uses_the_rate_of_each_step(schedule, settings):
    model = fit(keras.optimizers.SGD(schedule), batches=8, epochs=3, **settings)
    # A rate baked into the compiled step would add 24 times the same.
    expected = schedule.curve(24).sum()
    position = float(keras.ops.convert_to_numpy(model.position))
    assert position == pytest.approx(expected, rel=1e-5)
    assert int(model.optimizer.iterations) == 24
    now = float(model.optimizer.learning_rate)
    assert now == pytest.approx(schedule(np.array([24]))[0], rel=1e-5, abs=1e-12)


def test_a_second_fit_goes_on_with_the_schedule():
    schedule = S.LinearDecay(0.1, 16)
    model = fit(keras.optimizers.SGD(schedule), batches=8)
    x = np.zeros((8, 1), "float32")
    model.fit(x, x, batch_size=1, shuffle=False, verbose=0)
    position = float(keras.ops.convert_to_numpy(model.position))
    assert position == pytest.approx(schedule.curve(16).sum(), rel=1e-5)


def test_every_rate_of_a_run_is_right():
    schedule = S.Warmup(S.CosineRestarts(0.1, 4), 3)
    positions = [0.0]

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            positions.append(float(keras.ops.convert_to_numpy(self.model.position)))

    model = Ramp()
    model.compile(keras.optimizers.SGD(schedule), lambda y, p: keras.ops.mean(p))
    x = np.zeros((20, 1), "float32")
    model.fit(x, x, batch_size=1, shuffle=False, verbose=0, callbacks=[Record()])
    np.testing.assert_allclose(np.diff(positions), schedule.curve(20), atol=2e-7)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Lion"])
def test_every_kind_of_optimizer_takes_a_schedule(name):
    model = fit(getattr(keras.optimizers, name)(S.OneCycle(0.01, 12)), batches=12)
    assert int(model.optimizer.iterations) == 12
    assert np.isfinite(float(keras.ops.convert_to_numpy(model.position)))


def test_a_loss_scale_optimizer_takes_a_schedule():
    schedule = S.LinearDecay(0.1, 10)
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(schedule), initial_scale=8.0
    )
    model = fit(optimizer, batches=10)
    position = float(keras.ops.convert_to_numpy(model.position))
    assert position == pytest.approx(schedule.curve(10).sum(), rel=1e-5)


def test_gradient_accumulation_counts_micro_batches_as_keras_does():
    schedule = S.LinearDecay(0.1, 12)
    optimizer = keras.optimizers.SGD(schedule, gradient_accumulation_steps=4)
    model = fit(optimizer, batches=12)
    # Updates happen at micro-batches 3, 7 and 11; the schedule ends with the training.
    position = float(keras.ops.convert_to_numpy(model.position))
    assert position == pytest.approx(schedule(np.array([3, 7, 11])).sum(), rel=1e-5)


def test_mixed_precision_leaves_the_rate_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        schedule = S.CosineAnnealing(0.1, 8)
        model = fit(keras.optimizers.SGD(schedule), batches=8)
    finally:
        keras.config.set_dtype_policy("float32")
    position = float(keras.ops.convert_to_numpy(model.position))
    assert position == pytest.approx(schedule.curve(8).sum(), rel=1e-5)


def test_an_open_schedule_stops_a_fit_before_its_first_update():
    with pytest.raises(ValueError, match="Argument `decay_steps`"):
        fit(keras.optimizers.SGD(S.LinearDecay(0.1)), batches=2)


def test_a_table_of_any_length_is_the_same_small_graph():
    sizes = {}
    for count in (10, 100, 1_000, 10_000, 100_000):
        schedule = S.PiecewiseConstant(
            range(1, count + 1), np.linspace(0.1, 0.01, count + 1)
        )
        sizes[count] = compiled.graph_size(schedule)
        step = count // 2
        expected = schedule(np.array([step]))
        for compiler in compiled.compilers().values():
            value = compiled.scalar_values(schedule, [step], compiler)
            np.testing.assert_allclose(value, expected, rtol=1e-6)
    # Four levels of 32 cover a million boundaries.
    assert sizes[100_000] <= sizes[10] + 3 * 20
    assert sizes[100_000] <= 80


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a TF strategy")
def test_a_mirrored_strategy_uses_the_rate_of_each_step():
    import tensorflow as tf

    schedule = S.LinearDecay(0.1, 6)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = Ramp()
        model.compile(keras.optimizers.SGD(schedule), lambda y, p: keras.ops.mean(p))
    x = np.zeros((6, 1), "float32")
    model.fit(x, x, batch_size=1, shuffle=False, verbose=0)
    position = float(keras.ops.convert_to_numpy(model.position))
    assert position == pytest.approx(schedule.curve(6).sum(), rel=1e-5)
