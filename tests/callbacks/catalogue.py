"""Every callback once: how to make it, and what a fit with it must have done.

The loss falls by exactly 1 with every bias of the output, whatever is in front of it.
So SGD moves that bias by its rates alone, which NumPy repeats for any model and data.
What callbacks make of weights is computed from the weights that each step left.
"""

import dataclasses
import gc
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest

import keras_lrs as lrs
from tests.callbacks import references

S, A, C = lrs.schedules, lrs.averages, lrs.callbacks

RATE, MOMENTUM = 0.01, 0.9  # Of the optimizer.
PEAK = 0.05  # Of what is in the place of its rate.
DECAY = 0.9  # Of the average.
FACTOR = 0.5  # On the rate, after each look but the first.
SCHEDULED = "scheduled"  # The path of a variable that a schedule sets,
OWN = 3.0  # and the user's value of it.
WIDTH = 18.0**-0.5  # Relative, of the average in which the k-th step counts 2k - 1.


def falling(y, prediction):
    """A loss whose gradient by each bias of the output is -1."""
    return -keras.ops.mean(keras.ops.sum(prediction, axis=-1))


def variables_of(model):
    """All variables but that which a schedule sets, which is the user's again later."""
    return [variable for variable in model.variables if variable.path != SCHEDULED]


def values_of(model):
    """The values of these variables, in float64."""
    return [
        keras.ops.convert_to_numpy(variable.value).astype(np.float64)
        for variable in variables_of(model)
    ]


def scheduled(model):
    """What the variable holds that a schedule sets; nothing if there is none."""
    found = [variable for variable in model.variables if variable.path == SCHEDULED]
    return [float(keras.ops.convert_to_numpy(variable.value)) for variable in found]


class Watch(keras.callbacks.Callback):
    """All variables of a model after each step, and what the ends of epochs show.

    Attributes:
        steps: The values of all variables, before the first step and after each.
        scheduled: The value of the variable that a schedule sets, after each step.
        losses: The mean loss of the epoch so far, after each step.
        shown: The values of all variables at the end of each epoch.
        logs: The logs of each epoch.
    """

    def __init__(self):
        super().__init__()
        self.steps, self.losses, self.shown, self.logs = [], [], [], []
        self.scheduled = []

    def on_train_begin(self, logs=None):
        self.config = self.model.optimizer.get_config()
        self.steps.append(values_of(self.model))

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(values_of(self.model))
        self.scheduled += scheduled(self.model)
        self.losses.append(float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        self.shown.append(values_of(self.model))
        self.logs.append(dict(logs))

    def trained(self, values):
        """All entries of the trained weights; a row of each of `values`."""
        trainable = {
            id(variable)
            for variable in self.model.trainable_variables
            if not variable.overwrite_with_gradient  # The scales of float8.
        }
        kept = [id(variable) in trainable for variable in variables_of(self.model)]
        rows = [
            [x.ravel() for x, keep in zip(row, kept, strict=True) if keep]
            for row in values
        ]
        return np.array([np.concatenate(row) for row in rows])

    def moved(self, values):
        """How far the first bias of the output has moved, of each of `values`."""
        bias = self.model.layers[-1].bias
        index = [v is bias for v in variables_of(self.model)].index(True)
        start = self.steps[0][index].ravel()[0]
        return np.array([row[index].ravel()[0] - start for row in values])

    @property
    def ends(self):
        """After how many steps each epoch ended."""
        per_epoch = (len(self.steps) - 1) // len(self.shown)
        return per_epoch * np.arange(1, len(self.shown) + 1)


def path(rates, momenta=None):
    """Where each step of SGD takes a bias whose gradient is -1."""
    momenta = np.full(len(rates), MOMENTUM) if momenta is None else momenta
    place, velocity, places = 0.0, 0.0, []
    for rate, momentum in zip(rates, momenta, strict=True):
        velocity = momentum * velocity + rate
        place += velocity
        places.append(place)
    return np.array(places)


def path_at_its_own_rate(num_steps):
    return path(np.full(num_steps, RATE))


def path_of_linear_decay(num_steps):
    return path(PEAK * (1.0 - np.arange(num_steps) / num_steps))


def path_of_linear_decay_on_a_plateau(num_steps):
    return path(PEAK * (1.0 - np.arange(num_steps) / num_steps) * factors(num_steps))


def path_of_one_cycle(num_steps):
    """Straight lines; where there is no room for the way up, from the peak."""
    middle = min((num_steps + 1) // 2, num_steps - 1)
    corners = [min(middle - 1, 0), middle, num_steps]
    steps = np.arange(num_steps)
    rates = np.interp(steps, corners, [PEAK / 25.0, PEAK, PEAK / 25.0 / 1e4])
    return path(rates, np.interp(steps, corners, [0.95, 0.85, 0.95]))


def path_on_a_plateau(num_steps):
    return path(RATE * factors(num_steps))


def factors(num_steps):
    """The first loss is the best; each one after it lowers the next step's rate."""
    return FACTOR ** np.maximum(np.arange(num_steps) - 1.0, 0.0)


def path_of_inverse_time(num_steps):
    return path(RATE / (1.0 + np.arange(num_steps)))


def path_of_a_plain_step(num_steps):
    return path(np.full(num_steps, RATE), np.zeros(num_steps))


def path_of_schedule_free(num_steps):
    """Where gradients are taken: `y = (1 - beta) z + beta x`."""
    z = PEAK * np.arange(1, num_steps + 1)
    return 0.1 * z + 0.9 * np.cumsum(z) / np.arange(1, num_steps + 1)


def nothing_else(callback, watch, close):
    """The path says it all."""


def showed_x(callback, watch, close):
    """Epochs ended with the mean of all `z`."""
    z = PEAK * np.arange(1, len(watch.steps))
    means = [np.mean(z[:end]) for end in watch.ends]
    close(watch.moved(watch.shown), means)


def showed_the_average(callback, watch, close):
    """Epochs ended with the debiased average of all weights."""
    trained = watch.trained(watch.steps)[1:]
    averages = [
        np.average(trained[:end], axis=0, weights=DECAY ** np.arange(end)[::-1])
        for end in watch.ends
    ]
    close(watch.trained(watch.shown), averages)


def recorded_the_norms(callback, watch, close):
    """Plain SGD moves the weights by the rate times the gradients."""
    moves = np.diff(watch.trained(watch.steps), axis=0) / RATE
    norms = np.linalg.norm(moves, axis=1)
    assert not np.any(norms < 0.9)  # The bias alone makes it 1.
    np.testing.assert_array_equal(callback.steps, np.arange(len(norms)))
    close(RATE * callback.norms, RATE * norms)


def logged_what_was_used(callback, watch, close):
    used = [RATE / (1.0 + end - 1.0) for end in watch.ends]
    logged = [logs["learning_rate"] for logs in watch.logs]
    np.testing.assert_allclose(logged, used, rtol=1e-6)


def wrote_averages(callback, watch, close):
    """The average that was kept, from its snapshots at the ends of epochs."""
    trained = watch.trained(watch.steps)[1:]
    counts = 2.0 * np.arange(1, len(trained) + 1) - 1.0
    steps = sorted(int(path.stem[9:]) for path in callback.directory.iterdir())
    np.testing.assert_array_equal(steps, watch.ends)
    found = A.posthoc(callback.directory, WIDTH)
    found = np.concatenate([np.ravel(array) for array in found])
    # XLA may average weights before it rounds them to 16 bits.
    close(found, np.average(trained, axis=0, weights=counts))


def lowered_the_rate(callback, watch, close):
    looks, first = len(watch.losses), watch.losses[0]
    if np.isnan(first):  # Which is not better than any.
        assert callback.state["best"] is None
        assert callback.state["factor"] == pytest.approx(FACTOR**looks)
    else:
        assert callback.state["best"] == pytest.approx(first, rel=1e-6)
        assert callback.state["factor"] == pytest.approx(FACTOR ** (looks - 1))


def wrote_a_generation(callback, watch, close):
    """Another fit takes the weights up, and has nothing left to train."""
    model, epochs = watch.model, watch.params["epochs"]
    if not all(np.isfinite(values).all() for values in values_of(model)):
        assert not list(callback.directory.glob("generation-*"))
        return
    for variable in model.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    # On other data than the first, maybe.
    again = C.ResumableTraining(
        callback.directory, delete_at_end=False, verbose=0, accept="fit"
    )
    references.fit(model, [again], epochs)
    assert again.resumed_from.epoch == epochs
    assert again.resumed_from.iterations == len(watch.losses)
    assert len(list(callback.directory.glob("generation-*"))) == min(epochs, 2)


def wrote_snapshots(callback, watch, close):
    """The first two steps, as they were."""
    members = lrs.ensembles.load(callback.directory, watch.model)
    taken = [1, 2][: len(watch.losses)]
    assert [member.step for member in members] == taken
    for member in members:
        assert member.learning_rate == pytest.approx(RATE)
        for value, seen in zip(member.values, watch.steps[member.step], strict=True):
            np.testing.assert_array_equal(np.asarray(value).astype(np.float64), seen)


def set_the_variable(callback, watch, close):
    """Every step found its value in the variable; then the user's came back."""
    expected = 1.0 - np.arange(len(watch.losses)) / len(watch.losses)
    np.testing.assert_allclose(watch.scheduled, expected, atol=1e-6)
    assert scheduled(watch.model) == [OWN]


def sgd():
    return keras.optimizers.SGD(RATE, momentum=MOMENTUM)


def plain_sgd():
    return keras.optimizers.SGD(RATE)


def sgd_with_a_schedule():
    schedule = keras.optimizers.schedules.InverseTimeDecay(RATE, 1, 1.0)
    return keras.optimizers.SGD(schedule, momentum=MOMENTUM)


def schedule_free():
    return lrs.optimizers.ScheduleFree(keras.optimizers.SGD(PEAK))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A callback.

    Args:
        make: A function from a folder to the callback.
        path: A function from a number of steps to where they take a bias of the output.
        effect: Asserts what else it has done; a function of the callback, the `Watch`,
            and an assertion that weights are close.
        optimizer: Makes an optimizer for it.
    """

    make: Callable[[pathlib.Path], keras.callbacks.Callback]
    path: Callable[[int], np.ndarray]
    effect: Callable[[Any, Watch, Callable], None]
    optimizer: Callable[[], keras.optimizers.Optimizer] = sgd


CALLBACKS = {
    "AveragedEvaluation": Entry(
        lambda folder: C.AveragedEvaluation(at_end="raw"),
        path_of_schedule_free,
        showed_x,
        schedule_free,
    ),
    "GradientNormRecorder": Entry(
        lambda folder: C.GradientNormRecorder(),
        path_of_a_plain_step,
        recorded_the_norms,
        plain_sgd,
    ),
    "HyperparameterLogger": Entry(
        lambda folder: C.HyperparameterLogger(),
        path_of_inverse_time,
        logged_what_was_used,
        sgd_with_a_schedule,
    ),
    "HyperparameterScheduler": Entry(
        lambda folder: C.HyperparameterScheduler(learning_rate=S.LinearDecay(PEAK)),
        path_of_linear_decay,
        nothing_else,
    ),
    "OneCycleScheduler": Entry(
        lambda folder: C.OneCycleScheduler(PEAK, warmup_fraction=0.5, shape="linear"),
        path_of_one_cycle,
        nothing_else,
    ),
    "PosthocAveraging": Entry(
        lambda folder: C.PosthocAveraging(folder / "averages", [WIDTH]),
        path_at_its_own_rate,
        wrote_averages,
    ),
    "ReduceOnPlateau": Entry(
        lambda folder: C.ReduceOnPlateau("loss", FACTOR, 1, min_delta=1e9, every=1),
        path_on_a_plateau,
        lowered_the_rate,
    ),
    "ResumableTraining": Entry(
        lambda folder: C.ResumableTraining(
            folder / "generations", delete_at_end=False, verbose=0
        ),
        path_at_its_own_rate,
        wrote_a_generation,
    ),
    "SnapshotEnsemble": Entry(
        lambda folder: C.SnapshotEnsemble(folder / "snapshots", schedule=[1, 2]),
        path_at_its_own_rate,
        wrote_snapshots,
    ),
    "VariableScheduler": Entry(
        lambda folder: C.VariableScheduler({SCHEDULED: S.LinearDecay(1.0)}),
        path_at_its_own_rate,
        set_the_variable,
    ),
    "WeightAveraging": Entry(
        lambda folder: C.WeightAveraging(A.ExponentialAverage(DECAY), at_end="raw"),
        path_at_its_own_rate,
        showed_the_average,
    ),
}


def make(name, folder):
    """The callback, which keeps its files in a folder."""
    return CALLBACKS[name].make(folder)


def optimizer_for(name):
    """The optimizer whose path the catalogue knows."""
    return CALLBACKS[name].optimizer()


def linear_model(name, **compile_arguments):
    """A linear model from zero, compiled for a callback."""
    dense = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((3,)), dense])
    return compiled(model, name, **compile_arguments)


def compiled(model, name, **compile_arguments):
    """A model, compiled as the catalogue knows it."""
    if name == "VariableScheduler" and not scheduled(model):
        give_a_variable(model)
    model.compile(optimizer_for(name), falling, **compile_arguments)
    return model


def give_a_variable(model):
    """Gives a model, also one that is built, a variable that is not trained."""
    tracker = model._tracker
    locked, tracker.locked = tracker.locked, False
    model.scheduled = keras.Variable(OWN, trainable=False, name=SCHEDULED)
    tracker.locked = locked
    assert scheduled(model) == [OWN]


def training_steps(model):
    """How many steps the optimizer has made."""
    leaf = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return int(keras.ops.convert_to_numpy(leaf.iterations))


def untouched(model):
    """Whether nothing of ours is left on a model and its optimizer."""
    gc.collect()  # Of what broke off, when Keras's list of callbacks is dropped.
    leaf = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return "apply" not in vars(leaf) and not any("keras_lrs" in n for n in vars(model))


def watched_fit(model, callback, epochs=1, batches=references.STEPS):
    """Trains on the first batches, in their order; returns what was seen of it."""
    watch, size = Watch(), batches * references.BATCH
    data = references.batches(references.X[:size], references.Y[:size])
    references.fit(model, [watch, callback], epochs, data)
    return watch


def assert_worked(
    name, callback, watch, num_steps, *, dtype="float32", path=None, finite=True
):
    """Asserts that a callback did in a fit what it is for, and nothing else.

    What it did is compared with NumPy, so a test that varies the data or the model
    needs one backend only. The callback's own tests cover how each compiles the step.

    Args:
        name: In the catalogue.
        callback: The one that took part.
        watch: What was seen of the fit.
        num_steps: How many steps there must have been, of a new optimizer.
        dtype: Of the weights.
        path: Another path than that of the catalogue.
        finite: Whether the gradients are numbers; if not, no weight is.
    """
    entry, model = CALLBACKS[name], watch.model
    assert len(watch.losses) == num_steps
    assert training_steps(model) == num_steps
    places = entry.path(num_steps) if path is None else path
    # Each step may round the rate, the velocity and the sum; an average is rounded when
    # it is shown, and taken in float32.
    single, rounding = (float(ml_dtypes.finfo(d).eps) for d in ("float32", dtype))
    size = 1.0 + np.abs(places).max()

    def close(found, expected, eps=num_steps * single + rounding):
        expected = expected if finite else np.full(np.shape(expected), np.nan)
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=size * eps)

    close(watch.moved(watch.steps)[1:], places, num_steps * rounding)
    if entry.effect not in (showed_x, showed_the_average):
        for shown, end in zip(watch.shown, watch.ends, strict=True):
            assert_same(shown, watch.steps[end])
    assert_same(values_of(model), watch.steps[-1])
    entry.effect(callback, watch, close)
    assert_same(values_of(model), watch.steps[-1])
    assert model.optimizer.get_config() == watch.config
    assert training_steps(model) == num_steps
    assert untouched(model)


def assert_same(some, others):
    """Asserts that values are the same, bit for bit."""
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_works(model, name, callback, epochs=1, batches=references.STEPS, **more):
    """Asserts that a callback does in a fit what it is for, and nothing else."""
    watch = watched_fit(model, callback, epochs, batches)
    assert_worked(name, callback, watch, epochs * batches, **more)
    assert all(np.isfinite(values).all() for values in values_of(model))
