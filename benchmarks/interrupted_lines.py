"""Interrupts the package at every one of its lines, and checks what is left.

    python benchmarks/interrupted_lines.py [--backends tensorflow jax torch]
        [--calls "range_test" "evaluate"] [--parts 2] [--resume] [--publish]
        [--workers 2] [--output docs/reliability.md]

`sys.settrace` raises KeyboardInterrupt before a line of the package is executed: at the
first and at the last time that it is, for each line, each time in a call of its own.
Where a line calls into C, the lines before and after it are its boundaries. Where this
leaves something behind, a real Ctrl-C is tried, which may wait for a section's end.

All points take hours per backend. They are interrupted in random order, in parts of
1,000, each of which is kept when it is finished, in
`benchmarks/results/interrupted_lines.jsonl`. `--parts` limits how many parts of each
call there are, `--resume` runs only those that are missing, and `--publish` runs
nothing, but writes the page again.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import gc
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unittest.mock
import warnings
from collections.abc import Callable
from typing import Any

import kept
import keras
import numpy as np
import reliability_page

import keras_lrs as lrs

C, S, A = lrs.callbacks, lrs.schedules, lrs.averages

PACKAGE = os.path.dirname(lrs.__file__) + os.sep
BACKEND = keras.backend.backend()
STEPS, EPOCHS, BATCH = 3, 2, 4
PART = 1000  # The points that are kept together.
RATE, OWN = 0.05, 3.0  # The user's values of what is scheduled.


# --- Lines ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """A moment: before a line is executed for the n-th time in a call.

    Args:
        file: The file, from the package on.
        line: The number of the line.
        time: From 1.
        first: Whether it is in the first call with a model, which compiles its step.
    """

    file: str
    line: int
    time: int
    first: bool = False

    def __str__(self):
        return f"{self.file}:{self.line} (time {self.time})"


def executed(function):
    """How often each line of the package is executed in a call."""
    counts = collections.Counter()

    def local(frame, event, argument):
        if event == "line":
            counts[frame.f_code.co_filename, frame.f_lineno] += 1
        return local

    def trace(frame, event, argument):
        return local if frame.f_code.co_filename.startswith(PACKAGE) else None

    traced(trace, function)
    return {(file[len(PACKAGE) :], line): n for (file, line), n in counts.items()}


def interrupted(point, function, by_signal=False):
    """Whether a call was interrupted at a point; it is not if it does not get there."""
    file, left = PACKAGE + point.file, point.time
    message = "" if by_signal else str(point)

    def local(frame, event, argument):
        nonlocal left
        if event == "line" and frame.f_lineno == point.line:
            left -= 1
            if left == 0 and by_signal:
                signal.raise_signal(signal.SIGINT)
            elif left == 0:
                raise KeyboardInterrupt(message)
        return local

    def trace(frame, event, argument):
        return local if frame.f_code.co_filename == file else None

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced(trace, function)
    except KeyboardInterrupt as error:
        if str(error) != message:
            raise
        return True
    finally:
        collect()
    # An exception in a finalizer is not raised.
    return left <= 0


def collect():
    """Collects Keras's lists of callbacks, once its threads are done with them."""
    kind = keras.callbacks.CallbackList
    for _ in range(100):
        gc.collect()
        if not any(type(one) is kind for one in gc.get_objects()):
            break
        time.sleep(0.01)


def traced(trace, function):
    """Calls a function while it is traced."""
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)


# --- What is interrupted --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A call that is interrupted.

    Args:
        call: A function of a model and a folder.
        optimizer: Makes the optimizer.
        trains: Whether it leaves the model trained; if not, as it was.
        prepare: What comes before it, with the same arguments.
    """

    call: Callable[[Any, pathlib.Path], Any]
    optimizer: Callable[[], Any]
    trains: bool = True
    prepare: Callable[[Any, pathlib.Path], Any] = lambda model, folder: None


def sgd():
    """An optimizer with a state."""
    return keras.optimizers.SGD(RATE, momentum=0.9)


def adam():
    """An optimizer with a bias correction."""
    return keras.optimizers.Adam(RATE)


def schedule_free():
    """An optimizer that averages."""
    return lrs.optimizers.ScheduleFree(keras.optimizers.SGD(RATE))


@functools.cache
def data():
    """Inputs and targets."""
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(STEPS * BATCH, 3)).astype("float32")
    return x, (x @ numbers.normal(size=(3, 1))).astype("float32")


class Scale(keras.layers.Layer):
    """A layer with a variable that a schedule can set."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(
            shape=(), initializer="ones", trainable=False, name="scale"
        )
        self.scale.assign(OWN)

    def call(self, x):
        """Multiplies."""
        return x * self.scale


def new_model(optimizer):
    """A model, which is the same each time."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(2, name="first"),
            layers.BatchNormalization(),
            Scale(),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer, "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model, callbacks, epochs=EPOCHS, shuffle=False):
    """Trains, on the same batches each time unless they are shuffled."""
    x, y = data()
    given = {"validation_data": (x, y)} if callbacks else {}
    model.fit(
        x, y, BATCH, epochs, verbose=0, shuffle=shuffle, callbacks=callbacks, **given
    )


def fit_with_all(model, folder):
    """A `fit` with all callbacks that go together."""
    paths = [variable.path for variable in model.variables if "scale" in variable.path]
    callbacks = [
        C.HyperparameterScheduler(
            learning_rate=S.Warmup(S.CosineAnnealing(0.1), 2),
            momentum=S.LinearDecay(0.9, end_learning_rate=0.5),
            rate_multipliers={"first": 0.5},
        ),
        C.VariableScheduler({paths[0]: S.LinearDecay(1.0)}),
        C.HyperparameterLogger(),
        C.GradientNormRecorder(),
        C.ReduceOnPlateau("loss", 0.5, 1, min_delta=1e9),
        C.SnapshotEnsemble(folder / "snapshots", schedule=[2, 5]),
        C.PosthocAveraging(folder / "averages"),
        C.WeightAveraging(
            A.UniformAverage(),
            at_end="raw",
            batch_norm="recalibrate",
            batch_norm_data=data()[0],
        ),
        C.ResumableTraining(folder / "run", 2, verbose=0),
    ]
    fit(model, callbacks)


def fit_to_the_average(model, folder):
    """A `fit` after which the model holds the average."""
    average = C.WeightAveraging(A.ExponentialAverage(0.5), batch_norm="average")
    fit(model, [C.OneCycleScheduler(0.1), average])


def fit_schedule_free(model, folder):
    """A `fit` of an optimizer that averages by itself."""
    callbacks = [
        C.AveragedEvaluation(
            at_end="raw", batch_norm="recalibrate", batch_norm_data=data()[0]
        ),
        keras.callbacks.BackupAndRestore(folder / "backup"),
    ]
    fit(model, callbacks)


def resumed_fit(model, folder):
    """A `fit` that goes on within an epoch, where another one stopped."""
    average = C.WeightAveraging(A.UniformAverage(), at_end="raw")
    fit(model, [C.ResumableTraining(folder / "run", 2, verbose=0), average])


def stopped_fit(model, folder, hook="on_train_batch_begin"):
    """A `fit` that breaks off in its second epoch; without a folder, of Keras alone."""
    callbacks = [stopping(hook)]
    if folder is not None:
        callbacks.append(C.WeightAveraging(A.UniformAverage(), at_end="raw"))
        callbacks.append(C.ResumableTraining(folder / "run", 2, verbose=0))
    with contextlib.suppress(StopError):
        fit(model, callbacks)
    gc.collect()


def stopping(hook="on_train_batch_begin"):
    """A callback that ends a `fit` before its last step, or at once."""
    left = iter(range(STEPS + 2)) if hook == "on_train_batch_begin" else iter(())

    def stop(*arguments, **keywords):
        if next(left, None) is None:
            raise StopError

    callback = keras.callbacks.Callback()
    setattr(callback, hook, stop)
    return callback


class StopError(Exception):
    """Ends a `fit`."""


def range_test(model, folder):
    """A learning-rate range test."""
    lrs.tuning.range_test(model, *data(), num_steps=4, batch_size=BATCH, verbose=0)


def fit_for_averages(model, folder):
    """Leaves the averages in the optimizer."""
    fit(model, [C.WeightAveraging(A.UniformAverage(), at_end="raw")])


def evaluate(model, folder):
    """An `evaluate` of the averages, with statistics of their own."""
    average = C.WeightAveraging(
        A.UniformAverage(), batch_norm="recalibrate", batch_norm_data=data()[0]
    )
    model.evaluate(*data(), batch_size=BATCH, verbose=0, callbacks=[average])


def averaged(model, folder):
    """Averages of a loop of one's own."""
    averager = A.Averager(model, A.UniformAverage(), batch_norm="average")
    averager.update()
    with averager.averaged():
        pass


CASES = {
    "`fit` with all callbacks": Case(fit_with_all, sgd),
    "`fit` to the average": Case(fit_to_the_average, adam),
    "`fit` with `ScheduleFree`": Case(fit_schedule_free, schedule_free),
    "`fit` that resumes": Case(resumed_fit, sgd, prepare=stopped_fit),
    "`range_test`": Case(range_test, adam, trains=False),
    "`evaluate(callbacks=)`": Case(evaluate, sgd, False, fit_for_averages),
    "`Averager.averaged`": Case(averaged, sgd, False),
}


# --- What is left ---------------------------------------------------------------------


def values(variables):
    """Copies of what variables hold."""
    return [np.array(keras.ops.convert_to_numpy(one.value)) for one in variables]


def leaf(model):
    """The optimizer that counts."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def count(model):
    """How many updates the optimizer has made."""
    if BACKEND == "jax":
        model.jax_state_sync()
    return int(keras.ops.convert_to_numpy(leaf(model)._iterations.value))


def is_same(ones, others):
    """Whether arrays are, to the last bit."""
    return len(ones) == len(others) and all(map(np.array_equal, ones, others))


class Watch(keras.callbacks.Callback):
    """The variables of a model after each step."""

    def __init__(self):
        super().__init__()
        self.after = {}

    def on_train_begin(self, logs=None):
        """Before the first step."""
        self.on_train_batch_end(0)

    def on_train_batch_end(self, batch, logs=None):
        """After a step."""
        number = count(self.model)
        self.after.setdefault(number, values(self.model.variables))


class Subject:
    """A model that is interrupted, and what it must be like then.

    Args:
        case: What is interrupted.
        folder: For its files.
    """

    def __init__(self, case, folder):
        self.case, self.folder = case, folder
        self.expected = self._expected()
        self.renew()

    def renew(self):
        """Takes a new model."""
        self.model = new_model(self.case.optimizer())
        self.own = self.model.optimizer.variables
        self.start = values(self.model.variables), values(self.own)

    def warm_up(self):
        """Compiles what the call compiles, at first and after a plain `fit`."""
        for _ in range(2):
            self.reset()
            self.case.prepare(self.model, self.folder)
            self.case.call(self.model, self.folder)
            fit(self.model, None, 1)
        gc.collect()
        gc.freeze()  # Later collections need not look at what stays.

    def reset(self):
        """Sets the model and its optimizer back, and empties the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for variables, found in zip(
            (self.model.variables, self.own), self.start, strict=True
        ):
            for variable, value in zip(variables, found, strict=True):
                variable.assign(value)
        if BACKEND == "tensorflow":
            # Nothing draws from its generators, and a new seed clears its kernels.
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
        else:
            keras.utils.set_random_seed(0)

    def interrupt(self, point, by_signal=False):
        """What is wrong after an interruption; None if there was none."""
        self.reset()
        model = self.model
        self.case.prepare(model, self.folder)
        before, keys = self._everything(), self._keys()
        handler = signal.getsignal(signal.SIGINT)
        call = functools.partial(self.case.call, model, self.folder)
        try:
            if not interrupted(point, call, by_signal):
                return None
            wrong = self._traces(before, keys, point.first)
            if signal.getsignal(signal.SIGINT) is not handler:
                wrong.append("SIGINT has another handler")
            if point.first and not self.case.trains:
                fit(model, None, 1, shuffle=True)
                if not is_same(values(model.variables), self.expected["next"]):
                    wrong.append("the next `fit` trains differently")
            self.reset()
            fit(model, None, 1)
            found = values(model.variables)
            if not any(is_same(found, plain) for plain in self.expected["plain"]):
                wrong.append("a plain `fit` trains differently")
        except Exception as error:
            traceback.print_exc()
            return [f"another exception: {error!r}"]
        return wrong

    def _traces(self, before, keys_before, first):
        wrong = []
        after = self._everything()
        if first:
            # Keras draws some to build the model, and will not draw them again.
            del after["random numbers"]
        if self.case.trains:
            number = count(self.model)
            # At its last lines, a call to the average has already put it in.
            over = is_same(after["weights"], self.expected["end"])
            if not (over or self._is_raw(number, after["weights"])):
                wrong.append(f"the weights are not those after {number} updates")
            rate = values([leaf(self.model)._learning_rate])[0]
            if rate != np.float32(RATE):
                wrong.append(f"the learning rate is {rate}")
        else:
            wrong += [
                f"other {name}"
                for name in after
                if not is_same(before[name], after[name])
            ]
        for name, keys in self._keys().items():
            known = keys_before[name]
            if self.case.trains:
                known = known | self.expected["keys"][name]
            if more := keys - known:
                wrong.append(f"{', '.join(sorted(more))} in `vars` of the {name}")
        return wrong

    def _is_raw(self, number, found):
        known = self.expected["steps"].get(number)
        if known is None:
            return False
        if is_same(found, known):
            return True
        # PyTorch's forward pass has updated the statistics before the update.
        later = self.expected["steps"].get(number + 1, known)
        trained = {id(variable) for variable in self.model.trainable_variables}
        mixed = [
            one if id(variable) in trained else other
            for variable, one, other in zip(
                self.model.variables, known, later, strict=True
            )
        ]
        return BACKEND == "torch" and is_same(found, mixed)

    def _everything(self):
        """All that a call may change."""
        state = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
        return {
            "weights": values(self.model.variables),
            "optimizer": values(self.model.optimizer.variables),
            "random numbers": [np.frombuffer(repr(state).encode(), np.uint8)],
        }

    def _keys(self):
        model = self.model
        found = {"model": model, "optimizer": model.optimizer, "inner": leaf(model)}
        return {name: set(vars(one)) for name, one in found.items()}

    def _expected(self):
        """What calls leave that are not interrupted, or between two steps."""
        self.renew()
        fit(self.model, None, 1)
        plain = [values(self.model.variables)]
        stopped = self._keys()
        for hook in ("on_train_begin", "on_train_batch_begin"):
            stopped_fit(self.model, None, hook)
            stopped = {
                name: stopped[name] | found for name, found in self._keys().items()
            }
        self.renew()
        self.reset()
        watch = Watch()
        self.case.prepare(self.model, self.folder)
        with beside(watch):
            self.case.call(self.model, self.folder)
        for after in watch.after.values():  # The user's value comes back.
            for i, variable in enumerate(self.model.variables):
                if "scale" in variable.path:
                    after[i] = np.float32(OWN)
        gc.collect()
        end = values(self.model.variables)
        keys = {name: found | stopped[name] for name, found in self._keys().items()}
        if self.case.trains:
            # The averages stay in an optimizer when a run is stopped between steps.
            self.renew()
            self.reset()
            self.case.prepare(self.model, self.folder)
            with contextlib.suppress(StopError), beside(stopping()):
                self.case.call(self.model, self.folder)
            gc.collect()
            keys = {name: keys[name] | found for name, found in self._keys().items()}
            self.reset()
            fit(self.model, None, 1)
            plain.append(values(self.model.variables))
        self.renew()
        self.reset()
        self.case.prepare(self.model, self.folder)
        fit(self.model, None, 1, shuffle=True)
        return {
            "plain": plain,
            "steps": watch.after,
            "keys": keys,
            "end": end,
            "next": values(self.model.variables),
        }


@contextlib.contextmanager
def beside(callback):
    """Adds a callback to all lists of them that are made meanwhile."""
    plain_list = keras.callbacks.CallbackList.__init__

    def longer_list(self, callbacks=None, **keywords):
        plain_list(self, [*(callbacks or []), callback], **keywords)

    kind = keras.callbacks.CallbackList
    with unittest.mock.patch.object(kind, "__init__", longer_list):
        yield


# --- All of them ----------------------------------------------------------------------


@contextlib.contextmanager
def pipelines_made_once():
    """Keeps Keras's pipelines on TensorFlow, which take a third of the time to make."""
    adapter = keras.src.trainers.data_adapters.array_data_adapter.ArrayDataAdapter
    make, known = adapter.get_tf_dataset, {}

    def made_once(self):
        if self._shuffle:
            return make(self)
        arrays = [array.tobytes() for array in keras.tree.flatten(self._inputs)]
        key = self._batch_size, *arrays
        if key not in known:
            known[key] = make(self)
        return known[key]

    with unittest.mock.patch.object(adapter, "get_tf_dataset", made_once):
        yield


def points(subject):
    """The points of a call: of those with a compiled step, and then of the first."""
    found = []
    subject.warm_up()
    for first in (False, True):
        if first:
            subject.renew()
        subject.reset()
        subject.case.prepare(subject.model, subject.folder)
        call = functools.partial(subject.case.call, subject.model, subject.folder)
        counts = executed(call)
        known = {(point.file, point.line) for point in found}
        for file, line in sorted(counts.keys() - known):
            times = {1, counts[file, line]}
            found += [Point(file, line, time, first) for time in sorted(times)]
    subject.renew()
    # An order that does not depend on which other points there are.
    return sorted(found, key=lambda point: random.Random(str(point)).random())


def measured(call, folder, first=0, number=PART):
    """Interrupts some of the points of a call; returns what was wrong after which."""
    subject = Subject(CASES[call], pathlib.Path(folder) / "files")
    every = points(subject)
    chosen = every[first : first + number]
    wrong, waits, reached, is_warm = {}, {}, 0, False
    for point in sorted(chosen, key=lambda point: (point.first, point)):
        if point.first:
            subject.renew()
        elif not is_warm:
            subject.warm_up()
            is_warm = True
        found = subject.interrupt(point)
        reached += found is not None
        if found:
            subject.renew()
            if not point.first:
                subject.warm_up()
            (wrong if subject.interrupt(point, True) else waits)[str(point)] = found
            print(point, found, file=sys.stderr, flush=True)
            subject.renew()
            is_warm = False
    run = {"all": len(every), "run": len(chosen)}
    return {**run, "reached": reached, "wrong": wrong, "only if it waits": waits}


def main(arguments=None):
    """Runs what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    backends = ["tensorflow", "jax", "torch"]
    parser.add_argument("--backends", nargs="+", choices=backends, default=backends)
    parser.add_argument("--calls", nargs="+", default=[*CASES], help="parts of names")
    parser.add_argument(
        "--parts", type=int, help=f"parts of {PART} points of each call; all if none"
    )
    parser.add_argument("--case", choices=CASES, help="run a part of this one here")
    parser.add_argument("--first", type=int, default=0, help="the part's first point")
    kept.add_options(parser, __file__)
    options = parser.parse_args(arguments)
    if options.case is not None:
        sys.unraisablehook = lambda unraisable: None  # Interrupted finalizers.
        # A shell in the background lets its children ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with tempfile.TemporaryDirectory() as folder, pipelines_made_once():
            found = measured(options.case, folder, options.first)
        print("REPORT" + json.dumps(found))
        return
    if not options.publish:
        store = kept.Kept(options.work, [__file__], options.resume)
        jobs = [
            functools.partial(run_parts, store, call, backend, options.parts)
            for call in CASES
            if any(part in call for part in options.calls)
            for backend in options.backends
        ]
        kept.run_all(jobs, options.workers)
    lines = kept.read(options.work)
    reliability_page.publish(options, reliability_page.interrupts, lines)


def run_parts(store, call, backend, parts):
    """Interrupts the points of a call, part by part."""
    first, points = 0, PART
    while first < points:
        case = {"call": call, "backend": backend, "first": first}
        found = store.measure(case, functools.partial(in_a_process, **case))
        points = found["all"] if parts is None else min(found["all"], parts * PART)
        first += PART


def in_a_process(call, backend, first):
    """What `measured` returns on a backend."""
    return kept.in_a_process([__file__, "--case", call, "--first", first], backend)


if __name__ == "__main__":
    main()
