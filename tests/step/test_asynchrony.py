"""No step waits for the device: nothing that it computes is read on the host.

Neither is a tensor made of a number of the host: PyTorch copies it to a GPU, and waits.
"""

import contextlib
import os
import pathlib
import sys

import keras
import pytest

import keras_lrs as lrs
from tests.callbacks import catalogue
from tests.step import traced

S, A, C = lrs.schedules, lrs.averages, lrs.callbacks

BACKEND = keras.backend.backend()
STEPS = 4
pytestmark = pytest.mark.every_backend


def of_a_fit(folder):
    """Callbacks that share a fit, and do nothing on the host but between epochs."""
    decay = S.LinearDecay(0.9, end_learning_rate=0.5)
    return [
        C.HyperparameterScheduler(
            learning_rate=S.Warmup(S.CosineAnnealing(0.1), lrs.Fraction(0.5)),
            momentum=decay,
            momentum_correction=True,
        ),
        C.ReduceOnPlateau("loss", 0.5, patience=1),
        C.GradientNormRecorder(),
        C.VariableScheduler({catalogue.SCHEDULED: S.LinearDecay(1.0)}),
        C.WeightAveraging(A.ExponentialAverage(0.9), at_end="raw"),
        C.PosthocAveraging(folder / "averages", [0.2]),
        C.HyperparameterLogger(),
        C.ResumableTraining(folder / "generations", verbose=0),
        C.SnapshotEnsemble(folder / "snapshots", keep_last=2, schedule=[STEPS + 1]),
    ]


def with_betas(folder):
    return [
        C.HyperparameterScheduler(
            learning_rate=lrs.PerVariable({"kernel": 0.01}),
            beta_1=S.LinearDecay(0.9, end_learning_rate=0.5),
            weight_decay=S.LinearDecay(0.1),
        ),
        C.WeightAveraging(A.UniformAverage(), at_end="raw"),
    ]


def of_groups(folder):
    return [
        C.HyperparameterScheduler(
            learning_rate=S.LinearDecay(0.1),
            beta_2=S.LinearDecay(0.9, end_learning_rate=0.5),
            rate_multipliers={"kernel": 0.5},
            weight_decay=lrs.PerVariable({"bias$": 0.0}),
        )
    ]


def of_an_average(folder):
    decay = S.LinearDecay(0.1, end_learning_rate=0.01)
    return [
        C.HyperparameterScheduler(learning_rate=decay),
        C.AveragedEvaluation(at_end="raw"),
    ]


AVERAGER = "Averager"
CASES = {
    "SGD": (lambda: keras.optimizers.SGD(0.05, momentum=0.9), of_a_fit),
    "AdamW": (lambda: keras.optimizers.AdamW(0.01), with_betas),
    "groups": (lambda: keras.optimizers.AdamW(0.01), of_groups),
    "OneCycle": (
        lambda: keras.optimizers.Adam(0.01),
        lambda folder: [C.OneCycleScheduler(0.1)],
    ),
    "ScheduleFree": (
        lambda: lrs.optimizers.ScheduleFree(
            keras.optimizers.SGD(0.05, weight_decay=0.1), warmup_steps=3
        ),
        of_an_average,
    ),
    "Scheduled": (
        lambda: lrs.optimizers.Scheduled(
            keras.optimizers.SGD(0.05), learning_rate=S.CosineAnnealing(0.1, 10)
        ),
        lambda folder: [],
    ),
    AVERAGER: (lambda: keras.optimizers.SGD(0.05), lambda folder: []),
}


class Averaged(keras.Model):
    """Averages its weights in `train_step`."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(traced.CLASSES)
        self.dense.build((None, traced.FEATURES))
        self.averager = A.Averager(self.dense, A.ExponentialAverage(0.9))
        self.built = True

    def call(self, inputs):
        return self.dense(inputs)

    if BACKEND == "jax":

        def train_step(self, state, data):
            logs, state = super().train_step(state, data)
            return logs, self.averager.update_state(self, state)

    else:

        def train_step(self, data):
            logs = super().train_step(data)
            self.averager.update()
            return logs


def test_every_callback_is_in_a_case(tmp_path):
    made = [make(tmp_path) for _, make in CASES.values()]
    found = {type(callback).__name__ for some in made for callback in some}
    assert found == set(catalogue.CALLBACKS)


# --- What is refused ------------------------------------------------------------------

OURS = os.path.dirname(lrs.__file__)
KERAS = str(pathlib.Path(keras.__file__).parent / "src")
# What Keras does by itself in a step, and not because we called a function of `ops`.
OF_KERAS = [
    os.path.join(KERAS, name)
    for name in ("optimizers", "trainers", "layers", "losses", "metrics")
]
OPTIMIZERS = os.path.join(KERAS, "backend", "torch", "optimizers")
TRAINER = os.path.join(KERAS, "backend", BACKEND, "trainer.py")


@contextlib.contextmanager
def nothing_is_read(monkeypatch):
    """Within it, whatever takes a value from the device raises, but only once.

    What then is undone may read.
    """
    refused = False

    def refuse(*arguments, **keywords):
        nonlocal refused
        refused = True
        patch.undo()
        raise AssertionError("A value was read on the host, or a number made a tensor.")

    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        if BACKEND == "torch":
            import torch

            for name in ("cpu", "numpy", "tolist", "item", "__array__"):
                patch.setattr(torch.Tensor, name, refuse)
            for name in ("__bool__", "__float__", "__int__", "__index__"):
                patch.setattr(torch.Tensor, name, refuse)
            for name in ("tensor", "as_tensor", "asarray", "from_numpy"):
                patch.setattr(torch, name, not_by_us(getattr(torch, name), refuse))
            stack.enter_context(refusing_mode(lambda: refused or refuse()))
        elif BACKEND == "tensorflow":
            from tensorflow.python.framework import ops

            # All that reads an eager tensor asks this method. Keras asks whether the
            # data is over.
            kind = ops._EagerTensorBase
            patch.setattr(kind, "_numpy", but_for_keras(kind._numpy, refuse))
        else:
            import jax

            kind = type(jax.numpy.zeros(()))
            for name in ("item", "tolist", "__array__", "block_until_ready"):
                patch.setattr(kind, name, refuse)
            for name in ("__bool__", "__float__", "__int__", "__index__", "_value"):
                patch.setattr(kind, name, property(refuse))
        yield


def but_for_keras(function, otherwise):
    """The function where Keras's `fit` calls it, and else another one."""

    def checked(*arguments):
        by_keras = nearest(sys._getframe(), OURS, TRAINER) == TRAINER
        return (function if by_keras else otherwise)(*arguments)

    return checked


def not_by_us(function, otherwise):
    """The function, which makes a tensor of numbers, unless we call it."""

    def checked(*arguments, **keywords):
        places = OURS, OPTIMIZERS, TRAINER, *OF_KERAS
        by_us = nearest(sys._getframe(), *places) == OURS
        return (otherwise if by_us else function)(*arguments, **keywords)

    return checked


def refusing_mode(refuse):
    """Refuses what reads a number within PyTorch, but for Keras's own updates.

    There SGD hands its rate, a tensor, to a function that wants a number.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Refusing(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            reads = function.name() == "aten::_local_scalar_dense"
            if reads and nearest(sys._getframe(), OURS, OPTIMIZERS) != OPTIMIZERS:
                refuse()
            return function(*arguments, **(keywords or {}))

    return Refusing()


def nearest(frame, *places):
    """Which of some folders and files the innermost call from any of them is from."""
    while frame is not None:
        file = frame.f_code.co_filename
        for place in places:
            if file == place or file.startswith(place + os.sep):
                return place
        frame = frame.f_back
    return None


class Guard(keras.callbacks.Callback):
    """From the second step of an epoch to the last but one nothing may be read.

    The first may trace, and after the last `ResumableTraining` notes the random numbers
    with which a validation begins. Between the steps this is the host's part of `fit`,
    too.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.monkeypatch = monkeypatch
        self.guarded = 0

    def on_epoch_begin(self, epoch, logs=None):
        model, function = self.model, self.model.train_function
        count, stack = 0, contextlib.ExitStack()

        def call(*arguments):
            nonlocal count
            count += 1
            if count == 2:
                stack.enter_context(nothing_is_read(self.monkeypatch))
            try:
                result = function(*arguments)
            except BaseException:
                stack.close()
                raise
            self.guarded += 1 < count < STEPS
            if count == STEPS - 1:
                stack.close()
            return result

        model.train_function = call
        self.undo = lambda: setattr(model, "train_function", function)

    def on_epoch_end(self, epoch, logs=None):
        self.undo()


def network(name):
    make_optimizer, _ = CASES[name]
    if name == AVERAGER:
        model = Averaged()
        model.compile(make_optimizer(), "mse", jit_compile=BACKEND == "jax")
        return model
    model = traced.network(make_optimizer(), layers=2)
    catalogue.give_a_variable(model)
    return model


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_read_in_a_step_or_between_steps(name, tmp_path, monkeypatch):
    guard = Guard(monkeypatch)
    callbacks = [*CASES[name][1](tmp_path), guard]
    traced.train(network(name), callbacks, STEPS, epochs=2)
    assert guard.guarded == 2 * (STEPS - 2)


def to_a_number(logs):
    float(logs["loss"])


def of_a_number(logs):
    keras.ops.convert_to_tensor(1.0)


ACTS = {"to a number": to_a_number}
if BACKEND == "torch":
    ACTS["of a number"] = of_a_number


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_step_that_reads_is_noticed(act, monkeypatch):
    class Reading(C.FitCallback):
        every_step = True

        def step_ends(self, logs):
            act(logs)

    guard = Guard(monkeypatch)
    with pytest.raises(AssertionError, match="read"):
        traced.train(network("OneCycle"), [Reading(), guard], STEPS)


@pytest.mark.skipif(BACKEND == "torch", reason="an eager step has no graph")
@pytest.mark.parametrize("name", CASES)
def test_a_compiled_step_calls_no_python_and_moves_nothing(name, tmp_path):
    callbacks = CASES[name][1](tmp_path)
    found = set(traced.operations(network(name), callbacks, steps=STEPS + 1))
    words = ("callback", "device_put", "infeed", "outfeed", "PyFunc", "Print", "_Send")
    assert found
    assert [one for one in found if any(word in one for word in words)] == []
