"""What is interrupted at a line leaves the model as it was between two steps."""

import gc
import itertools
import signal
import sys
import threading
import types
import warnings

import keras
import numpy as np
import pytest

from keras_lrs import averages, schedules
from keras_lrs._fit.train_function import TrainFunction
from keras_lrs._keras import (
    average_slots,
    average_statistics,
    contents,
    in_step,
    interrupts,
    scopes,
)
from keras_lrs._keras.variables import Swap, assign
from keras_lrs._keras.weights import copied_weights
from keras_lrs._step.optimizer_step import OptimizerStep
from keras_lrs.callbacks import (
    GradientNormRecorder,
    HyperparameterScheduler,
    ResumableTraining,
    SnapshotEnsemble,
    WeightAveraging,
)
from keras_lrs.callbacks.swapping import SwappingCallback
from keras_lrs.optimizers import ScheduleFree
from tests.programs import load_program

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = X[:, :1] * X[:, 1:2]


def network(optimizer=None, batch_norm=False):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    if batch_norm:
        layers.insert(2, keras.layers.BatchNormalization())
    model = keras.Sequential(layers)
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(one.value)) for one in variables]


def assert_same(ones, others):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one, other)


def interrupted(function, code, time):
    """Calls a function, and interrupts it at the n-th line of other code."""
    left = time

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code is not code:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        assert left == 0
        return True
    finally:
        sys.settrace(None)
    return False


def interruptions(function, code):
    """Interrupts calls at one line after another; yields its number after each."""
    time = 1
    while interrupted(function, code, time):
        yield time
        time += 1


def test_data_that_is_read_to_probe_it_is_put_back():
    class Data:
        def __init__(self):
            self.order, self.taken = [1, 2, 3], {}

    data = Data()

    def probe():
        with contents.untouched(data):
            data.order.reverse()
            data.taken["one"] = data.order.pop()

    for _ in interruptions(probe, contents._Copies.put_back.__code__):
        assert vars(data) == {"order": [1, 2, 3], "taken": {}}
    assert vars(data) == {"order": [1, 2, 3], "taken": {}}


# --- A sample of all lines ------------------------------------------------------------


SAMPLED = {
    "tensorflow": "`range_test`",
    "jax": "`evaluate(callbacks=)`",
    "torch": "`fit` that resumes",
}


@pytest.mark.every_backend
@pytest.mark.slow
def test_nothing_is_left_after_an_interruption_at_a_line(tmp_path):
    program = load_program("benchmarks/interrupted_lines")
    # The same in every run; `make lines` interrupts at all.
    case = SAMPLED[keras.backend.backend()]
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(sys, "unraisablehook", lambda unraisable: None)
        found = program.measured(case, tmp_path, number=8)
    assert found["all"] > 300
    assert not found["wrong"]


# --- What was found first -------------------------------------------------------------


class Raw(keras.callbacks.Callback):
    """The weights after each step."""

    def on_train_batch_end(self, batch, logs=None):
        if BACKEND == "jax":
            self.model.jax_state_sync()
        self.values = values(self.model.weights)


@pytest.mark.every_backend
@pytest.mark.parametrize("time", [3, 9, 16])
def test_a_swap_that_is_interrupted_leaves_the_weights_of_the_training(time):
    model, raw = network(), Raw()

    def train():
        model.fit(
            X,
            Y,
            4,
            epochs=2,
            verbose=0,
            validation_data=(X, Y),
            callbacks=[raw, WeightAveraging(averages.UniformAverage())],
        )

    assert interrupted(train, Swap.finish.__code__, time)
    gc.collect()
    assert_same(values(model.weights), raw.values)
    assert model.optimizer.ema_momentum == average_slots.SLOTS_HOLD_AVERAGE


@pytest.mark.every_backend
@pytest.mark.parametrize("method", [OptimizerStep.install, OptimizerStep.uninstall])
def test_a_plain_fit_after_an_interruption_between_steps_is_plain(method):
    expected = network()
    expected.fit(X, Y, 4, verbose=0, shuffle=False)
    model = network()
    start = values(model.variables)
    scheduler = HyperparameterScheduler(learning_rate=schedules.LinearDecay(0.5))

    def train():
        model.fit(X, Y, 4, epochs=3, verbose=0, callbacks=[scheduler])

    assert interrupted(train, method.__code__, 12)
    gc.collect()
    assert "apply" not in vars(model.optimizer)
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    for variable in model.optimizer.variables:
        if variable is not model.optimizer._learning_rate:
            variable.assign(np.zeros(variable.shape, variable.dtype))
    model.fit(X, Y, 4, verbose=0, shuffle=False)
    assert_same(values(model.variables), values(expected.variables))


@pytest.mark.every_backend
def test_a_plain_fit_between_plain_fits_and_averages_is_plain():
    expected, model = network(), network()
    average = WeightAveraging(averages.UniformAverage(), at_end="raw")
    for one, callbacks in ((expected, []), (model, [average])):
        for each in ([], callbacks, []):  # The same steps in all of them.
            one.fit(X, Y, 4, verbose=0, shuffle=False, callbacks=each)
    for one, other in zip(values(model.weights), values(expected.weights), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_swap_that_is_interrupted_twice_is_ended_by_who_comes_next(monkeypatch):
    model, average = network(), WeightAveraging(averages.UniformAverage(), at_end="raw")
    model.fit(X, Y, 4, verbose=0, callbacks=[average])
    raw = values(model.weights)
    plain, left = Swap.finish, [KeyboardInterrupt] * 2

    def finish(swap):
        if left:
            swap._pairs, kept = swap._pairs[:1], swap._pairs
            plain(swap)
            swap._pairs = kept
            raise left.pop()
        plain(swap)

    monkeypatch.setattr(Swap, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        average.swap_in()
    average.swap_out()
    assert_same(values(model.weights), raw)


# --- Signals --------------------------------------------------------------------------


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a process in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.mark.only("torch")
def test_ctrl_c_waits_for_the_end_of_a_section_and_a_second_one_does_not(ctrl_c):
    done = []

    def section(times):
        with interrupts.deferred():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            done.append(times)

    for times, finished in ((1, [1]), (2, [1])):
        with pytest.raises(KeyboardInterrupt):
            section(times)
        assert done == finished
        assert signal.getsignal(signal.SIGINT) is ctrl_c


@pytest.mark.only("torch")
def test_sections_within_sections_and_in_threads_keep_the_handlers():
    before = signal.getsignal(signal.SIGINT)

    def nested():
        with interrupts.deferred(), interrupts.deferred():
            pass

    nested()
    thread = threading.Thread(target=nested)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.only("torch")
def test_what_is_undone_is_undone_to_its_end_in_the_other_order():
    undone = []

    def interrupted_once():
        undone.append("interrupted")
        if len(undone) == 2:
            raise KeyboardInterrupt

    def failing():
        undone.append("failing")
        raise ValueError("once")

    undo = interrupts.Undo()
    for function in (lambda: undone.append("first"), interrupted_once, failing):
        undo.callback(function)
    with pytest.raises(KeyboardInterrupt):
        undo.close()
    assert undone == ["failing", "interrupted", "interrupted", "first"]
    undo.close()  # There is nothing left, nor an error that would hide another.
    undo.callback(failing)
    with pytest.raises(ValueError, match="once"):
        undo.close()


@pytest.mark.every_backend
@pytest.mark.parametrize("kind", ["undoing", "finish"])
def test_scopes_that_were_left_open_are_left(kind):
    calls = []

    def leave_scopes_open():
        if calls:  # `finish` calls it again.
            return
        calls.append(kind)
        keras.StatelessScope().__enter__()
        if BACKEND == "torch":
            torch.no_grad().__enter__()
        raise KeyboardInterrupt

    def section():
        if kind == "finish":
            interrupts.finish(leave_scopes_open)
        with interrupts.undoing():
            leave_scopes_open()

    if BACKEND == "torch":
        import torch
    with pytest.raises(KeyboardInterrupt):
        section()
    keras.Variable(1.0).assign(2.0)  # Keras refuses variables in such a scope.
    if BACKEND == "torch":
        assert torch.is_grad_enabled()


@pytest.mark.every_backend
def test_a_copy_of_weights_closes_its_scope_at_once_wherever_it_is_interrupted():
    model, held = network(), []
    groups = (model.trainable_variables, model.non_trainable_variables)
    state = [[variable.value for variable in group] for group in groups]

    def copy():
        try:
            copied_weights(model, state)
        except KeyboardInterrupt as error:
            held.append(error)  # With its frames, as a notebook holds it.
            raise

    for time in interruptions(copy, copied_weights.__wrapped__.__code__):
        assert scopes.state()[0] is None, f"line {time}"
    assert len(held) > 10


@pytest.mark.every_backend
def test_a_run_that_is_interrupted_while_it_saves_is_closed_at_once(
    tmp_path, monkeypatch
):
    def stop(*arguments):
        raise KeyboardInterrupt

    model = network()
    monkeypatch.setattr(ResumableTraining, "save", stop)
    callbacks = [
        HyperparameterScheduler(learning_rate=schedules.LinearDecay(0.5)),
        ResumableTraining(tmp_path / "run", 2, verbose=0),
    ]
    # It holds the frames, so that Keras's list of callbacks is not collected.
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, 4, epochs=2, verbose=0, callbacks=callbacks)
    rate = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
    assert rate == np.float32(0.05)
    assert not isinstance(model.train_function, TrainFunction)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["_open_store", "_start_thread"])
def test_a_run_that_is_interrupted_as_its_snapshots_begin_ends_as_such(tmp_path, name):
    def train():
        snapshots = SnapshotEnsemble(tmp_path, schedule=[2, 4])
        network().fit(X, Y, 4, 2, verbose=0, callbacks=[snapshots])

    # No other exception takes the place of the interruption, and the folder is free.
    code = getattr(SnapshotEnsemble, name).__code__
    assert len(list(interruptions(train, code))) >= 2


@pytest.mark.only("torch")  # Where a part keeps the norms until they are read.
def test_norms_are_neither_lost_nor_doubled_wherever_reading_is_interrupted():
    model, recorder = network(), None
    model.optimizer.build(model.trainable_variables)
    start = values([*model.variables, *model.optimizer.variables])

    def train():
        nonlocal recorder
        recorder = GradientNormRecorder()
        every = [*model.variables, *model.optimizer.variables]
        for variable, value in zip(every, start, strict=True):
            variable.assign(value)
        model.fit(X, Y, 4, 2, verbose=0, shuffle=False, callbacks=[recorder])

    train()
    whole = recorder.norms
    assert len(whole) == 6
    for time in interruptions(train, GradientNormRecorder._take.__code__):
        made = int(model.optimizer.iterations)
        assert recorder.steps.tolist() == list(range(made)), f"line {time}"
        np.testing.assert_array_equal(recorder.norms, whole[:made])
    assert time > 20


@pytest.mark.only("torch")
def test_a_save_that_is_interrupted_anywhere_leaves_the_raw_weights(tmp_path):
    model = raw = None
    folders = map(str, itertools.count())

    def train():
        nonlocal model, raw
        model, raw = network(), Raw()
        callbacks = [
            raw,
            WeightAveraging(averages.UniformAverage(), at_end="raw"),
            ResumableTraining(tmp_path / next(folders), 2, verbose=0),
        ]
        model.fit(X, Y, 4, verbose=0, callbacks=callbacks)

    for time in interruptions(train, ResumableTraining.save.__code__):
        gc.collect()
        found = values(model.weights)
        assert all(map(np.array_equal, found, raw.values)), f"line {time}"
    assert time > 30


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    "code",
    [
        WeightAveraging.keep.__code__,
        average_slots.AverageSlots.detach.__code__,
        average_statistics.AverageStatistics.forget.__code__,
        SwappingCallback.on_train_end.__code__,
    ],
    ids=lambda code: code.co_qualname,
)
def test_a_fit_that_is_interrupted_at_its_end_leaves_all_of_one_kind_of_weights(code):
    model = raw = None

    def train():
        nonlocal model, raw
        model, raw = network(batch_norm=True), Raw()
        average = WeightAveraging(0.5, batch_norm="average")
        model.fit(X, Y, 4, verbose=0, shuffle=False, callbacks=[raw, average])

    train()
    average = values(model.weights)
    codes = [code, *(one for one in code.co_consts if isinstance(one, types.CodeType))]
    for time in itertools.chain(*(interruptions(train, one) for one in codes)):
        gc.collect()
        found = values(model.weights)
        known = [raw.values, average]
        same = [all(map(np.array_equal, found, one)) for one in known]
        assert sum(same) == 1, f"line {time}"
        assert model.optimizer.use_ema is not same[1], f"line {time}"


@pytest.mark.only("torch")
@pytest.mark.parametrize("kind", ["optimizer", "average"])
def test_ctrl_c_waits_for_the_end_of_an_update_of_ours(kind):
    model = network(ScheduleFree(keras.optimizers.SGD(0.05)))
    optimizer, averager = model.optimizer, averages.Averager(model)
    optimizer.build(model.trainable_variables)
    every = [*model.variables, *optimizer.variables, *averager.variables]
    start = values(every)
    gradients = [keras.ops.ones_like(one) for one in model.trainable_variables]

    def update():
        if kind == "optimizer":
            optimizer.apply(gradients, model.trainable_variables)
        else:
            averager.update()

    def traced(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename.endswith(("schedule_free.py", "in_step.py")):
            left -= event == "line"
            if left == 0 and event == "line":
                signal.raise_signal(signal.SIGINT)
            return traced
        return None

    update()
    whole, time = values(every), 0
    while True:
        time += 1
        left = time
        for variable, value in zip(every, start, strict=True):
            variable.assign(value)
        optimizer.use_training_weights()
        sys.settrace(traced)
        try:
            update()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        found = values(every)
        same = [all(map(np.array_equal, found, known)) for known in (start, whole)]
        assert any(same), f"line {time}"
        if left > 0:
            break
    assert time > 10
    assert same == [False, True]


@pytest.mark.skipif(BACKEND != "torch", reason="has gradients to disable")
@pytest.mark.parametrize("time", range(1, 14))
def test_gradients_are_enabled_after_an_interruption_of_an_average(time):
    import torch

    averager = averages.Averager(network(), averages.UniformAverage())
    averager.update()
    # Its `with` is a line that comes twice: the second time, before its `__exit__`.
    interrupted(averager.update, in_step.interpolate.__code__, time)
    interrupted(averager.update, scopes.no_grad.__wrapped__.__code__, time)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        averager.update()
        assert not torch.is_grad_enabled()


@pytest.mark.skipif(BACKEND != "torch", reason="has a device without values")
def test_a_finalizer_restores_a_number_while_keras_builds_another_model():
    variable = keras.Variable(1.0)
    with keras.device("meta"):  # There Keras calls a model without values.
        assign(variable, 0.5)
    assert keras.ops.convert_to_numpy(variable).item() == 0.5
