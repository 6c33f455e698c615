"""SIGTERM ends a run after its last finished step, and the next one resumes there."""

import contextlib
import gc
import os
import signal
import threading
import time
import warnings

import keras
import numpy as np
import pytest

from keras_lrs import averages, schedules
from keras_lrs._keras import interrupts
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    ReduceOnPlateau,
    ResumableTraining,
    WeightAveraging,
)
from keras_lrs.callbacks.sigterm import Sigterm

pytestmark = pytest.mark.every_backend

EPOCHS, STEPS, BATCH = 3, 4, 4


@pytest.fixture(autouse=True)
def no_run_that_was_dropped():
    """Runs of other tests that nobody ended have a handler until they are collected."""
    gc.collect()


class Terminated(keras.callbacks.Callback):
    """Sends SIGTERM to this process once, in a hook of an epoch."""

    def __init__(self, hook, epoch, batch=None):
        super().__init__()
        self.left = True

        def send(index, logs=None):
            if self.left and self.epoch == epoch and batch in (None, index):
                self.left = False
                os.kill(os.getpid(), signal.SIGTERM)

        setattr(self, hook, send)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


class Seen(keras.callbacks.Callback):
    """Which batches were trained on, and how many were validated on."""

    def __init__(self):
        super().__init__()
        self.batches, self.validated = [], 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append((self.epoch, batch))

    def on_test_batch_end(self, batch, logs=None):
        self.validated += 1


def train(resumable, *more, data=None):
    """A program that is run again; its model and the history it ends with."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="tanh"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"])
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(STEPS * BATCH, 3)).astype("float32")
    y = x[:, :1] * x[:, 1:2]
    fitted = {"x": x, "y": y, "batch_size": BATCH} if data is None else data(x, y)
    history = model.fit(
        **fitted,
        epochs=EPOCHS,
        verbose=0,
        validation_data=(x, y),
        validation_batch_size=BATCH,
        callbacks=[
            HyperparameterScheduler(learning_rate=schedules.CosineAnnealing(0.1)),
            WeightAveraging(averages.ExponentialAverage(0.9)),
            ReduceOnPlateau("val_loss", 0.5, patience=1),
            *([] if resumable is None else [resumable]),
            *more,
        ],
    )
    return model, history.history


def values(model):
    found = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(one.value)) for one in found]


MOMENTS = {
    "first step": (("on_train_batch_begin", 0, 0), (0, 1)),
    "a step": (("on_train_batch_begin", 1, 1), (1, 2)),
    "last step": (("on_train_batch_begin", 1, 3), (1, 4)),
    "validation": (("on_test_batch_begin", 1, 1), (1, 4)),
    "end of an epoch": (("on_epoch_end", 1), (2, 0)),
}


@pytest.mark.every_backend(2)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.slow
def test_a_run_that_is_terminated_ends_as_if_it_had_not_been(tmp_path, moment):
    given, (epoch, batch) = MOMENTS[moment]
    seen = Seen()
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        train(ResumableTraining(tmp_path, verbose=0), seen, Terminated(*given))
    assert len(seen.batches) == epoch * STEPS + batch
    if moment == "validation":
        assert seen.validated < 2 * STEPS
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumable, rest = ResumableTraining(tmp_path, verbose=0), Seen()
    model, history = train(resumable, rest)
    assert (resumable.resumed_from.epoch, resumable.resumed_from.batch) == (
        epoch,
        batch,
    )
    assert seen.batches + rest.batches == [
        (epoch, batch) for epoch in range(EPOCHS) for batch in range(STEPS)
    ]
    straight, expected = train(None)
    assert history == expected
    for one, other in zip(values(model), values(straight), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.only("torch")
def test_the_handler_from_before_is_called_when_the_run_is_saved(tmp_path):
    saved = []

    def handler(number, frame):
        saved.append(sorted(path.name for path in tmp_path.glob("generation-*")))
        raise SystemExit(7)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(SystemExit) as raised:
            train(
                ResumableTraining(tmp_path, verbose=0),
                Terminated("on_train_batch_begin", 0, 1),
            )
        assert raised.value.code == 7
        assert saved == [["generation-00000001.npz"]]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.only("torch")
def test_a_signal_in_the_last_step_is_handed_on_when_the_run_is_over(tmp_path):
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        train(
            ResumableTraining(tmp_path, verbose=0),
            Terminated("on_epoch_end", EPOCHS - 1),
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


@pytest.mark.only("torch")
@pytest.mark.parametrize("how", ["None", "ignored"])
def test_a_signal_that_is_not_waited_for_is_left_alone(tmp_path, how):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(signal.getsignal(signal.SIGTERM))

    expected = signal.SIG_IGN if how == "ignored" else signal.default_int_handler
    before = signal.signal(signal.SIGTERM, expected)
    try:
        on_sigterm = "save" if how == "ignored" else None
        train(ResumableTraining(tmp_path, on_sigterm=on_sigterm, verbose=0), Look())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [expected] * EPOCHS


@pytest.mark.only("torch")
def test_a_thread_is_told_that_it_cannot_wait_for_the_signal(tmp_path):
    warned = []

    def run():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            train(ResumableTraining(tmp_path, verbose=0))
        warned.extend(str(one.message) for one in found)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    warned = [text for text in warned if "on_sigterm='save'" in text]
    assert len(warned) == 1
    assert "main thread" in warned[0]


@pytest.mark.only("torch")
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_data_that_cannot_be_read_again_resumes_at_an_epoch(tmp_path):
    def batches(x, y):
        return {"x": x, "y": y, "batch_size": BATCH, "steps_per_epoch": STEPS}

    terminated = Terminated("on_train_batch_begin", 1, 1)
    with (
        pytest.warns(UserWarning, match="If this run .* is read endlessly"),
        pytest.warns(UserWarning, match="SIGTERM.*is read endlessly.*accept='data'"),
        pytest.raises(KeyboardInterrupt),
    ):
        train(ResumableTraining(tmp_path, verbose=0), terminated, data=batches)
    resumable = ResumableTraining(tmp_path, accept="data", verbose=0)
    train(resumable, data=batches)
    assert (resumable.resumed_from.epoch, resumable.resumed_from.batch) == (1, 0)


@pytest.mark.only("torch")
@pytest.mark.parametrize("saving", [False, True])
def test_a_process_that_was_forked_dies_of_the_signal(tmp_path, monkeypatch, saving):
    """Such as the worker of a data set, which is terminated when the program ends."""
    children = []

    def fork(*arguments, **keywords):
        if not children:
            children.append(os.fork())
            if children == [0]:
                time.sleep(60)
                os._exit(0)
        return write(*arguments, **keywords)

    write = ResumableTraining.save
    monkeypatch.setattr(ResumableTraining, "save", fork)
    if saving:  # Within a section that defers signals.

        def deferred_fork(*arguments, **keywords):
            with interrupts.deferred():
                return fork(*arguments, **keywords)

        monkeypatch.setattr(ResumableTraining, "save", deferred_fork)
    before = signal.getsignal(signal.SIGTERM)
    train(ResumableTraining(tmp_path, verbose=0))
    (child,) = children
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_values_of_the_argument_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Argument `on_sigterm` must be one of 'save'"):
        ResumableTraining(tmp_path, on_sigterm="stop")


def test_a_loop_that_is_dropped_leaves_no_handler(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def begin():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        callbacks = keras.callbacks.CallbackList(
            [ResumableTraining(tmp_path, verbose=0)], model=model, epochs=2, steps=1
        )
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(0)
        assert signal.getsignal(signal.SIGTERM) != before

    begin()
    gc.collect()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.only("torch")
def test_runs_that_end_in_the_order_of_their_beginning_leave_no_handler(tmp_path):
    class Run:
        def __init__(self):
            self.undo = contextlib.ExitStack()

    first, second = Sigterm(), Sigterm()
    runs = Run(), Run()
    first.begin(runs[0])
    second.begin(runs[1])
    runs[0].undo.close()
    assert signal.getsignal(signal.SIGTERM) == second._note
    runs[1].undo.close()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
