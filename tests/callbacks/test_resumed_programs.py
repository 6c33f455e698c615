"""A checkpoint is taken up by its own fit, of the same model, with finite weights."""

import contextlib
import sys

import keras
import numpy as np
import pytest
from keras.src.utils import module_utils

from keras_lrs import schedules as S  # noqa: N812
from keras_lrs._storage import fits
from keras_lrs.averages import ExponentialAverage, UniformAverage
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    ResumableTraining,
    WeightAveraging,
)
from tests.callbacks import references
from tests.warned import warns

EPOCHS, BATCH = 4, 4
X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Break(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def network(activation="tanh", optimizer=None, loss="mse", **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, activation), keras.layers.Dense(1)]
    )
    optimizer = optimizer or sgd()
    # One of its own, in each process that the test stands for.
    optimizer = type(optimizer).from_config(optimizer.get_config())
    model.compile(optimizer, loss, **compiled)
    return model


def sgd(rate=0.05, momentum=0.9, **options):
    return keras.optimizers.SGD(rate, momentum, **options)


def fit(model, *callbacks, y=Y):
    options = {"epochs": EPOCHS, "verbose": 0, "shuffle": False}
    return model.fit(X, y, BATCH, callbacks=list(callbacks), **options)


def resumable(folder, **options):
    return ResumableTraining(folder, verbose=0, **options)


def interrupted(folder, model):
    with pytest.raises(KeyboardInterrupt):
        fit(model, resumable(folder), Break())


# --- Another model of the same shapes -------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "part", "told"),
    [
        ({}, {"activation": "relu"}, "model", "activation` is 'relu', and was 'tanh'"),
        (
            {"optimizer": keras.optimizers.Adam(0.1)},
            {"optimizer": keras.optimizers.Adamax(0.1)},
            "optimizer",
            "class` is 'Adamax', and was 'Adam'",
        ),
        (
            {},
            {"optimizer": sgd(momentum=0.5)},
            "optimizer",
            "momentum` is 0.5, and was 0.9",
        ),
        ({}, {"optimizer": sgd(0.25)}, "optimizer", "`learning_rate` is 0.25, and was"),
        (
            {"optimizer": sgd(S.LinearDecay(0.1, 9))},
            {"optimizer": sgd(S.LinearDecay(0.2, 9))},
            "optimizer",
            "initial_learning_rate` is 0.2, and was 0.1",
        ),
        ({}, {"loss": "mae"}, "loss", "is 'mae', and was 'mse'"),
        ({}, {"loss_weights": [2.0]}, "loss", r"is \[2.0\], and was None"),
    ],
)
def test_another_of_the_same_shapes_is_refused_by_name(
    tmp_path, one, other, part, told
):
    interrupted(tmp_path, network(**one))
    message = rf"checkpoints of this {part}, or none.*{told}.*accept='{part}'"
    with pytest.raises(ValueError, match=message):
        fit(network(**other), resumable(tmp_path))
    history = fit(network(**other), resumable(tmp_path, accept=part))
    assert history.epoch == [0, 1, 2, 3]


def test_names_and_a_rate_that_a_callback_lowered_are_no_difference(tmp_path):
    def callbacks():
        return [
            keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=9.0),
            resumable(tmp_path, delete_at_end=False),
        ]

    model = network()
    fit(model, *callbacks())
    lowered = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert lowered < 0.05
    # Both the rate that the first began with, and the one that it ended with.
    for rate in (0.05, lowered):
        again = network(optimizer=sgd(rate))
        fit(again, *callbacks())
        np.testing.assert_array_equal(
            references.weights(again), references.weights(model)
        )


def test_what_may_be_accepted_is_checked():
    with pytest.raises(ValueError, match="`accept` must be one of 'model', 'optimiz"):
        ResumableTraining("d", accept=["model", "shapes"])


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="it is there")
def test_comparing_configurations_does_not_import_tensorflow(tmp_path, monkeypatch):
    """Which takes seconds, and half a gigabyte."""
    model = network()  # `keras.utils.set_random_seed` does import it.
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    lazy = module_utils.tensorflow
    monkeypatch.setattr(lazy, "_available", None)
    monkeypatch.setattr(lazy, "initialize", lambda: pytest.fail("It was imported."))
    fit(model, resumable(tmp_path))


# --- Several fits with one folder -----------------------------------------------------


def same(model, number):
    return model or network()


def recompiled(model, number):
    model = model or network()
    model.compile(sgd(0.05 / (number + 1)), "mse")
    return model


def new_of_the_same_seed(model, number):
    return network()


@pytest.mark.parametrize(
    ("make", "keep"),
    [(same, True), (recompiled, False), (new_of_the_same_seed, False)],
)
def test_each_fit_takes_up_its_own_checkpoints(tmp_path, make, keep):
    """A program of three fits is killed in the second, and run again."""

    def program(folder, *more):
        model, found = None, []
        for number in range(3):
            model = make(model, number)
            extra = more if number == 1 else ()
            callback = resumable(folder, delete_at_end=not keep)
            fit(model, callback, *extra, y=Y * (1 - number))
            found.append(references.weights(model))
        return found

    # Where the first keeps its own, those of the second are not in its way.
    assert_ends_as_if_not_killed(program, tmp_path, is_told=not keep)


def assert_ends_as_if_not_killed(program, folder, is_told):
    """`is_told` says whether a `fit` warns of the checkpoints of a later one."""
    straight = program(folder / "straight")
    with pytest.raises(KeyboardInterrupt):
        program(folder / "broken", Break())
    told = warns("They are kept for it, and this `fit`")
    with told if is_told else contextlib.nullcontext():
        resumed = program(folder / "broken")
    for one, other in zip(resumed, straight, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_fits_that_begin_alike_take_up_their_own_checkpoints(
    tmp_path, monkeypatch, killed
):
    """Schedules are compared from the same seed with the same data."""

    def program(folder, *more):
        monkeypatch.setattr(fits, "_FOLDERS", {})  # As in a new process.
        found = []
        for number in range(3):
            model = network()
            schedule = S.LinearDecay(0.1 / (number + 1))
            scheduler = HyperparameterScheduler(learning_rate=schedule)
            extra = more if number == killed else ()
            fit(model, scheduler, resumable(folder), *extra)
            found.append(references.weights(model))
        return found

    assert_ends_as_if_not_killed(program, tmp_path, is_told=killed > 0)


def test_a_fit_that_broke_off_in_this_process_resumes_with_the_same_model(tmp_path):
    straight = network()
    fit(straight)
    model = network()
    interrupted(tmp_path, model)
    fit(model, resumable(tmp_path))
    np.testing.assert_array_equal(
        references.weights(model), references.weights(straight)
    )


def test_those_of_another_fit_are_taken_up_on_demand(tmp_path):
    model = network()
    fit(model, resumable(tmp_path, delete_at_end=False))
    weights = references.weights(model)
    fit(model, resumable(tmp_path, delete_at_end=False, accept="fit"))
    np.testing.assert_array_equal(references.weights(model), weights)


# --- Not finite -----------------------------------------------------------------------


class Poison(keras.callbacks.Callback):
    """What a bad batch does."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            kernel = self.model.layers[-1].kernel
            kernel.assign(np.full(kernel.shape, self.value))


# Of weights that are finite, too, the loss may not be.
@pytest.mark.parametrize("value", [1e25, np.nan])
@pytest.mark.parametrize("keep", [False, True])
def test_a_run_that_stopped_on_nan_resumes_from_before(tmp_path, value, keep):
    straight = network()
    fit(straight)
    with warns("stopped in epoch 3 with a loss that is not finite: no checkpoint"):
        fit(
            network(),
            resumable(tmp_path, delete_at_end=not keep),
            Poison(value),
            keras.callbacks.TerminateOnNaN(),
        )
    assert_resumes_from_before(tmp_path, keep, straight)


def assert_resumes_from_before(folder, keep, straight, *others):
    callback = resumable(folder, delete_at_end=not keep)
    model = network()
    fit(model, callback, *others)
    assert callback.resumed_from.epoch == 2
    np.testing.assert_array_equal(
        references.weights(model), references.weights(straight)
    )


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("every", ["epoch", 1])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, keep, stops, every):
    """`EarlyStopping` waits for some epochs, and a run may not stop at all."""
    straight = network()
    fit(straight)
    stopping = [keras.callbacks.EarlyStopping("loss", patience=2)] * stops
    callback = resumable(tmp_path, every=every, delete_at_end=not keep)
    with warns("has weights that are not finite in epoch 3: no checkpoint"):
        fit(network(), callback, Poison(np.nan), *stopping)
    assert_resumes_from_before(tmp_path, keep, straight, *stopping)


def test_weights_that_the_last_step_of_an_epoch_spoils_are_not_saved(tmp_path):
    """Its loss is finite, so that `TerminateOnNaN` sees it in the next epoch only."""

    class Last(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 3 * len(X) // BATCH:
                Poison.on_epoch_begin(self, 2)

        value = np.inf

    straight = network()
    fit(straight)
    with warns("has weights that are not finite in epoch 3: no checkpoint"):
        terminating = keras.callbacks.TerminateOnNaN()
        fit(network(), terminating, Last(), resumable(tmp_path))
    assert_resumes_from_before(tmp_path, False, straight)


def test_a_fit_of_other_weights_is_not_the_same_again(tmp_path):
    model = network()
    fit(model, resumable(tmp_path, delete_at_end=False))
    trained = model.get_weights()
    again = resumable(tmp_path, delete_at_end=False)
    fit(model, again)
    assert again.resumed_from is not None
    assert all(map(np.array_equal, model.get_weights(), trained))
    model.set_weights([0.5 * weight for weight in trained])
    other = resumable(tmp_path, delete_at_end=False)
    history = fit(model, other)
    assert other.resumed_from is None
    assert history.epoch == list(range(EPOCHS))


def test_a_shorter_fit_after_it_has_nothing_to_average(tmp_path):
    model = network()
    averaging = WeightAveraging(ExponentialAverage(0.9))
    fit(model, averaging, resumable(tmp_path, delete_at_end=False))
    trained = model.get_weights()
    averaging = WeightAveraging(ExponentialAverage(0.9))
    callbacks = [averaging, resumable(tmp_path, delete_at_end=False)]
    model.fit(X, Y, BATCH, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
    assert all(map(np.array_equal, model.get_weights(), trained))


@pytest.mark.every_backend
@pytest.mark.parametrize("batch_norm", ["keep", "average"])
@pytest.mark.parametrize("every", [1, "epoch"])
def test_an_average_that_began_late_is_resumed(tmp_path, every, batch_norm):
    def start(*callbacks):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(sgd(), "mse")
        model.fit(X, Y, BATCH, epochs=1, verbose=0, shuffle=False)
        averaging = WeightAveraging(UniformAverage(), batch_norm=batch_norm)
        options = {"initial_epoch": 1, "epochs": EPOCHS, "verbose": 0, "shuffle": False}
        model.fit(X, Y, BATCH, callbacks=[averaging, *callbacks], **options)
        return references.weights(model)

    straight = start()
    with pytest.raises(KeyboardInterrupt):
        start(resumable(tmp_path, every=every), Break())
    resumed = resumable(tmp_path, every=every)
    np.testing.assert_array_equal(start(resumed), straight)
    assert resumed.resumed_from is not None
