"""What is logged is what the updates used."""

import csv
import shutil
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
)
from tests.callbacks.test_reduce_on_plateau import (
    FLAT,
    At,
    CrashError,
    compiled_only,
    crash,
    fit,
    rates,
    scaled,
    trail_model,
)

S = lrs.schedules
SGD = keras.optimizers.SGD
DECAY = S.LinearDecay(0.25, 30)


def logged(model, callbacks=(), epochs=3, steps=4, **arguments):
    """The history of a fit with a logger."""
    callbacks = [*callbacks, HyperparameterLogger()]
    return fit(model, callbacks, epochs, steps, **arguments).history


# --- In the logs of epochs ------------------------------------------------------------

SOURCES = {
    "a float": (lambda: SGD(0.125), None),
    "our schedule": (lambda: SGD(DECAY), None),
    "Keras's schedule": (
        lambda: SGD(keras.optimizers.schedules.ExponentialDecay(0.25, 3, 0.5)),
        None,
    ),
    "a function": (lambda: SGD(lambda: 0.125), None),
    "a scheduler": (lambda: SGD(0.5), S.CosineAnnealing(0.25)),
    "a scaled float": (lambda: scaled(SGD(0.125)), None),
    "a scaled schedule": (lambda: scaled(SGD(DECAY)), None),
    "a scaled scheduler": (lambda: scaled(SGD(0.5)), S.CosineAnnealing(0.25)),
}


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_the_rate_is_that_of_the_last_update_of_the_epoch(source, eager):
    optimizer, schedule = SOURCES[source]
    model = trail_model(optimizer(), run_eagerly=eager)
    callbacks = []
    if schedule is not None:
        callbacks.append(HyperparameterScheduler(learning_rate=schedule))
    history = logged(model, callbacks)
    used = rates(model)
    assert used[3] != used[4] or "float" in source or "function" in source
    np.testing.assert_allclose(history["learning_rate"], used[3::4], atol=1e-6)
    assert set(history) == {"loss", "learning_rate"}


@compiled_only
@pytest.mark.parametrize("steps", [8, 6])
def test_several_steps_in_an_execution_log_the_last(steps):
    model = trail_model(SGD(0.5), steps_per_execution=4)
    scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.25))
    history = logged(model, [scheduler], steps=steps)
    used = rates(model)[steps - 1 :: steps]
    np.testing.assert_allclose(history["learning_rate"], used, atol=1e-6)


def test_all_that_is_scheduled_is_logged():
    optimizer = SGD(0.5, momentum=0.9, weight_decay=0.1, clipnorm=1.0)
    schedules = {
        "learning_rate": S.CosineAnnealing(0.25),
        "momentum": S.LinearDecay(0.95, end_learning_rate=0.85),
        "weight_decay": S.LinearDecay(0.1),
    }
    model = trail_model(optimizer)
    history = logged(model, [HyperparameterScheduler(**schedules)])
    assert set(history) == {"loss", *schedules}  # Not the clipping, which is not.
    for name, schedule in schedules.items():
        expected = schedule.bind(12, 4).curve(12)[3::4]
        np.testing.assert_allclose(history[name], expected, rtol=1e-6)


def test_a_momentum_is_logged_beside_a_rate_that_has_its_own_schedule():
    momentum = S.LinearDecay(0.9)
    model = trail_model(SGD(DECAY, momentum=0.9))
    history = logged(model, [HyperparameterScheduler(momentum=momentum)])
    np.testing.assert_allclose(history["learning_rate"], DECAY.curve(12)[3::4])
    expected = momentum.bind(12, 4).curve(12)[3::4]
    np.testing.assert_allclose(history["momentum"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [(lambda: SGD(0.5, momentum=0.9), "momentum"), (keras.optimizers.Adam, "beta_1")],
)
def test_both_halves_of_one_cycle_are_logged(optimizer, name):
    model = trail_model(optimizer())
    cycle = OneCycleScheduler(0.125, warmup_fraction=0.5)
    history = logged(model, [cycle])
    wave = (1 - np.cos(np.pi * np.array([3, 7, 11]) / 6)) / 2
    np.testing.assert_allclose(history[name], 0.95 - 0.1 * wave, rtol=1e-6)
    low = np.array([0.125 / 25, 0.125 / 25e4, 0.125 / 25e4])
    expected = low + (0.125 - low) * wave
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-5)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
class TestWithSeveralOptimizers:
    def model(self, *optimizers):
        default, right = optimizers
        several = keras.optimizers.OptimizerMap(default, {".*right": right})
        return trail_model(keras.optimizers.MultiOptimizer(several))

    def test_the_keys_end_with_the_names_of_the_optimizers(self):
        model = self.model(SGD(0.125, name="slow"), SGD(DECAY, name="fast"))
        history = logged(model)
        assert set(history) == {"loss", "learning_rate/slow", "learning_rate/fast"}
        slow, fast = history["learning_rate/slow"], history["learning_rate/fast"]
        np.testing.assert_allclose(slow, rates(model, "left")[3::4], atol=1e-6)
        np.testing.assert_allclose(fast, rates(model, "right")[3::4], atol=1e-6)

    def test_equal_names_are_told_apart(self):
        # Those of the map come first, then the one of all others.
        history = logged(self.model(SGD(0.125, name="same"), SGD(0.25, name="same")))
        assert history["learning_rate/same_0"] == pytest.approx([0.25] * 3)
        assert history["learning_rate/same_1"] == pytest.approx([0.125] * 3)

    def test_what_each_is_scheduled_to_do_is_logged(self):
        slow = SGD(0.5, momentum=0.5, name="slow")
        model = self.model(slow, SGD(0.5, name="fast"))
        scheduler = HyperparameterScheduler(
            learning_rate={"slow": S.LinearDecay(0.125), "fast": S.LinearDecay(0.25)},
            momentum={"slow": S.LinearDecay(0.9)},
        )
        history = logged(model, [scheduler])
        left = 1 - np.array([3, 7, 11]) / 12
        expected = {
            "learning_rate/slow": 0.125 * left,
            "learning_rate/fast": 0.25 * left,
            "momentum/slow": 0.9 * left,
        }
        assert set(history) == {"loss", *expected}
        for name, values in expected.items():
            np.testing.assert_allclose(history[name], values, rtol=1e-6)

    def test_the_factor_of_a_plateau_is_in_the_rates_of_all(self):
        model = self.model(SGD(0.125, name="slow"), SGD(DECAY, name="fast"))
        history = logged(model, [ReduceOnPlateau("loss", 0.5, 1)])
        used = rates(model, "left")[3::4], rates(model, "right")[3::4]
        assert used[0] == pytest.approx([0.125, 0.125, 0.0625], abs=1e-6)
        np.testing.assert_allclose(history["learning_rate/slow"], used[0], atol=1e-6)
        np.testing.assert_allclose(history["learning_rate/fast"], used[1], atol=1e-6)


@pytest.mark.parametrize("scheduled", [False, True])
def test_under_accumulation_the_value_is_that_of_the_last_micro_batch(scheduled):
    rate = 0.5 if scheduled else DECAY
    model = trail_model(SGD(rate, gradient_accumulation_steps=2))
    callbacks = [HyperparameterScheduler(learning_rate=DECAY)] if scheduled else []
    history = logged(model, callbacks)
    # Every second micro-batch updates, by the mean of two gradients.
    np.testing.assert_allclose(rates(model)[1::2], DECAY.curve(12)[1::2], atol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], DECAY.curve(12)[3::4])


# The gradients of these steps overflow once they are multiplied by the loss scale.
HUGE = np.where(np.isin(np.arange(64), [1, 4, 5, 6, 7, 9]), 3e38, 1.0).tolist()


@pytest.mark.parametrize("scheduled", [False, True])
def test_updates_that_loss_scaling_skips_use_no_value(scheduled):
    """The second epoch has no update at all: the last one was in the first."""
    inner = SGD(0.5 if scheduled else DECAY)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**15)
    model = trail_model(optimizer, slopes=HUGE)
    callbacks = [HyperparameterScheduler(learning_rate=DECAY)] if scheduled else []
    history = logged(model, callbacks)
    used = DECAY.curve(6)
    expected = np.zeros(12)
    expected[[0, 2, 3, 8, 10, 11]] = used
    np.testing.assert_allclose(rates(model), expected, atol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], used[[2, 2, 5]], rtol=1e-6)


def test_mixed_precision_logs_the_rate_in_full():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trail_model(SGD(0.1))
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        history = logged(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert history["learning_rate"] == pytest.approx([0.1] * 3, rel=1e-7)


def test_callbacks_before_and_after_get_it(tmp_path):
    files = [tmp_path / "before.csv", tmp_path / "after.csv"]
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(logs["learning_rate"])
    )
    before, after = map(keras.callbacks.CSVLogger, files)
    model = trail_model(SGD(DECAY))
    fit(model, [look, before, HyperparameterLogger(), after], epochs=3, steps=4)
    expected = DECAY.curve(12)[3::4]
    np.testing.assert_allclose(seen, expected)
    for path in files:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        column = [float(row["learning_rate"]) for row in rows]
        np.testing.assert_allclose(column, expected)


def test_validation_is_in_the_history_beside_it():
    model = trail_model(SGD(DECAY))
    history = logged(model, validate=True)
    assert set(history) == {"loss", "val_loss", "learning_rate"}
    np.testing.assert_allclose(history["learning_rate"], DECAY.curve(12)[3::4])


def test_a_second_fit_logs_its_own_values():
    model = trail_model(SGD(0.5))
    scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.25))
    logger = HyperparameterLogger()
    expected = S.LinearDecay(0.25).bind(12, 4).curve(12)[3::4]
    for _ in range(2):
        history = fit(model, [scheduler, logger], epochs=3, steps=4).history
        np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-6)
    history = fit(model, [logger], epochs=1, steps=4).history
    assert history["learning_rate"] == [0.5]


def test_a_rate_that_someone_sets_is_logged():
    model = trail_model(0.125)

    def double(model):
        model.optimizer.learning_rate = 0.25

    history = logged(model, [At(0, double)])
    np.testing.assert_allclose(history["learning_rate"], rates(model)[3::4], atol=1e-6)
    assert history["learning_rate"][1:] == [0.25, 0.25]


# --- In event files -------------------------------------------------------------------


def events(folder):
    """What TensorBoard reads: steps and values of every tag."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    read = accumulator.EventAccumulator(str(folder), {"scalars": 0})
    read.Reload()

    def scalars(tag):
        # TensorBoard numbers the files of a second, and reads the 10th before the 9th.
        written = sorted(
            read.Scalars(tag), key=lambda event: (event.wall_time, event.step)
        )
        return tuple(zip(*((e.step, e.value) for e in written), strict=True))

    return {tag: scalars(tag) for tag in read.Tags()["scalars"]}


# TensorBoard's own, of NumPy and of the protocol's library.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@quiet
def test_an_epoch_is_written_at_the_step_of_its_last_update(tmp_path):
    model = trail_model(SGD(DECAY))
    fit(model, [HyperparameterLogger(log_dir=tmp_path)], epochs=3, steps=4)
    (tag, (steps, values)), *others = events(tmp_path).items()
    assert (tag, steps, others) == ("learning_rate", (3, 7, 11), [])
    np.testing.assert_allclose(values, DECAY.curve(12)[3::4])


@quiet
@pytest.mark.parametrize("every", [1, 3, 5, 100])
def test_every_so_many_steps_are_written(tmp_path, every):
    model = trail_model(SGD(0.5, momentum=0.5))
    schedules = {
        "learning_rate": S.LinearDecay(0.25),
        "momentum": S.LinearDecay(0.9, end_learning_rate=0.5),
    }
    logger = HyperparameterLogger(every, str(tmp_path))
    fit(model, [HyperparameterScheduler(**schedules), logger], epochs=3, steps=4)
    written = events(tmp_path)
    assert set(written) == set(schedules)
    for name, schedule in schedules.items():
        steps, values = written[name]
        assert steps == tuple(range(0, 12, every))
        expected = schedule.bind(12, 4).curve(12)[::every]
        np.testing.assert_allclose(values, expected, rtol=1e-6)


@quiet
def test_the_values_written_are_the_weight_changes(tmp_path):
    """Under a schedule and a plateau, whose factor changes within epochs."""
    levels = [3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    model = trail_model(SGD(DECAY), levels)
    plateau = ReduceOnPlateau("loss", 0.5, 1, every=1, cooldown=1)
    logger = HyperparameterLogger(1, tmp_path)
    fit(model, [logger, plateau], epochs=3, steps=4)
    used = rates(model)
    assert used[-1] < 0.25 * DECAY.curve(12)[-1]
    steps, values = events(tmp_path)["learning_rate"]
    assert steps == tuple(range(12))
    np.testing.assert_allclose(values, used, atol=1e-6)


@quiet
@pytest.mark.parametrize("every", [1, 3, "epoch"])
def test_a_second_fit_goes_on_with_the_steps(tmp_path, every):
    model = trail_model(SGD(DECAY))
    logger = HyperparameterLogger(every, tmp_path)
    for epochs in (2, 1):
        fit(model, [logger], epochs=epochs, steps=4)
    steps, values = events(tmp_path)["learning_rate"]
    assert steps == ((3, 7, 11) if every == "epoch" else tuple(range(0, 12, every)))
    np.testing.assert_allclose(values, DECAY.curve(12)[list(steps)], rtol=1e-6)


@quiet
@compiled_only
def test_every_step_of_an_execution_of_several_is_written(tmp_path):
    model = trail_model(SGD(DECAY), steps_per_execution=4)
    fit(model, [HyperparameterLogger(1, tmp_path)], epochs=2, steps=6)
    steps, values = events(tmp_path)["learning_rate"]
    assert steps == tuple(range(12))
    np.testing.assert_allclose(values, DECAY.curve(12), rtol=1e-6)


@quiet
def test_steps_that_were_skipped_are_not_written(tmp_path):
    optimizer = keras.optimizers.LossScaleOptimizer(SGD(DECAY), initial_scale=2.0**15)
    model = trail_model(optimizer, slopes=HUGE)
    fit(model, [HyperparameterLogger(1, tmp_path)], epochs=3, steps=4)
    steps, values = events(tmp_path)["learning_rate"]
    assert steps == tuple(range(6))
    np.testing.assert_allclose(values, DECAY.curve(6), rtol=1e-6)


@quiet
@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
def test_each_of_several_optimizers_is_written(tmp_path):
    several = keras.optimizers.OptimizerMap(
        SGD(0.125, name="slow"), {".*right": SGD(DECAY, name="fast")}
    )
    model = trail_model(keras.optimizers.MultiOptimizer(several))
    fit(model, [HyperparameterLogger(2, tmp_path)], epochs=2, steps=3)
    written = events(tmp_path)
    assert written["learning_rate/slow"] == ((0, 2, 4), (0.125,) * 3)
    steps, values = written["learning_rate/fast"]
    assert steps == (0, 2, 4)
    np.testing.assert_allclose(values, DECAY.curve(6)[::2], rtol=1e-6)


@quiet
def test_what_was_written_is_there_when_the_training_crashes(tmp_path):
    model = trail_model(SGD(DECAY))
    with pytest.raises(CrashError):
        fit(model, [HyperparameterLogger(1, tmp_path), At(1, crash)], 3, steps=4)
    steps, _ = events(tmp_path)["learning_rate"]
    assert steps == tuple(range(8))


@quiet
@pytest.mark.parametrize("every", [1, "epoch"])
def test_a_folder_that_is_removed_is_made_again(tmp_path, every):
    folder = tmp_path / "logs"
    model = trail_model(SGD(DECAY))
    remove = At(0, lambda model: shutil.rmtree(folder))
    fit(model, [remove, HyperparameterLogger(every, folder)], epochs=3, steps=4)
    steps, values = events(folder)["learning_rate"]
    assert steps == ((7, 11) if every == "epoch" else tuple(range(4, 12)))
    np.testing.assert_allclose(values, DECAY.curve(12)[list(steps)], rtol=1e-6)


@quiet
def test_scalars_that_cannot_be_written_end_the_run(tmp_path):
    """As on a full disk."""
    folder = tmp_path / "logs"

    def block(model):
        shutil.rmtree(folder)
        folder.write_bytes(b"")

    model = trail_model(SGD(DECAY))
    callbacks = [At(0, block), HyperparameterLogger(1, folder)]
    with pytest.raises(OSError, match=r"logs/events\.out\.tfevents\..*\.keras_lrs"):
        fit(model, callbacks, epochs=3, steps=4)


@quiet
def test_a_long_epoch_is_written_in_parts(tmp_path, monkeypatch):
    """As if there were no time between two looks within an epoch."""
    from keras_lrs.callbacks import hyperparameter_logger

    monkeypatch.setattr(hyperparameter_logger, "_SECONDS", 0.0)
    model = trail_model(SGD(DECAY))
    fit(model, [HyperparameterLogger(2, tmp_path)], 1, steps=12)
    steps, values = events(tmp_path)["learning_rate"]
    assert steps == tuple(range(0, 12, 2))
    np.testing.assert_allclose(values, DECAY.curve(12)[::2], rtol=1e-6)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logged(trail_model())
    assert list(tmp_path.iterdir()) == []


# --- What is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "error"),
    [
        ("step", ValueError),
        ("", ValueError),
        (0, ValueError),
        (-1, ValueError),
        (1.5, ValueError),
        (None, TypeError),
        (True, TypeError),
    ],
)
@pytest.mark.parametrize("folder", [None, "logs"])
def test_a_bad_every_is_named(every, error, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match="Argument `every` must") as raised:
        HyperparameterLogger(every, folder)
    assert f"every={every!r}" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_steps_needs_a_folder():
    with pytest.raises(ValueError, match="'epoch' without `log_dir`"):
        HyperparameterLogger(every=1)


@pytest.mark.parametrize("every", ["epoch", 1])
def test_without_tensorboard_it_says_how_to_install_it(every, monkeypatch, tmp_path):
    for name in list(sys.modules):
        if name.split(".")[0] == "tensorboard":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        HyperparameterLogger(every, tmp_path)
    HyperparameterLogger()


def test_a_logger_alone_leaves_the_step_of_the_optimizer_alone():
    """Its training is the one without it, bit for bit."""
    trails = []
    for callbacks in ([], [HyperparameterLogger()]):
        model = trail_model(SGD(DECAY, momentum=0.9), FLAT)
        fit(model, callbacks, epochs=3, steps=4)
        trails.append(ops.convert_to_numpy(model.trail))
    np.testing.assert_array_equal(*trails)
