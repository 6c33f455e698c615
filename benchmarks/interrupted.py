"""Trains with everything on, is killed again and again, and must end the same.

Run by `benchmarks/reliability.py` and by the tests, in processes of its own.

    python benchmarks/interrupted.py MODE FOLDER [KILLS] [SEED] [SIGNAL] [KIND]

prints, as JSON, what differs between an uninterrupted run and one that got a signal so
many times: half of them at random times, half in the middle of random file operations.
They hit the same run one after the other. When it reaches its end, a new run starts.

MODE says what resumes a run: `epoch` and `steps` are `ResumableTraining`, at the end of
each epoch and every 5 steps; `backup` is Keras's `BackupAndRestore`. SIGNAL is SIGKILL
or SIGTERM, after which a process has a minute to end. KIND is `restarts`, or
`combined`: 1cycle in mixed precision, whose loss scale starts so high that steps are
skipped, with gradients that are accumulated over a number of batches that does not
divide an epoch.
"""

import contextlib
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time
import traceback

import keras
import numpy as np

from keras_lrs import callbacks, ensembles
from keras_lrs import schedules as S  # noqa: N812

with contextlib.suppress(ImportError):
    import tensorflow  # noqa: F401  (Which Keras imports late on the other backends.)

EPOCHS, STEPS, BATCH = 8, 12, 8
MODES = ("epoch", "steps", "backup")
SIGNALS = ("SIGKILL", "SIGTERM")
KINDS = ("restarts", "combined")
GRACE = 60  # Seconds from SIGTERM to SIGKILL.


def main(mode, folder, kills=2, seed=0, sent="SIGKILL", kind="restarts"):
    """Prints how many kills there were, where they hit, and what then differed."""
    folder, kills, seed = pathlib.Path(folder), int(kills), int(seed)
    run = functools.partial(one_run, mode, kind, signal.Signals[sent])
    started = time.monotonic()
    run(folder / "straight")
    whole = time.monotonic() - started
    expected = result(folder / "straight")
    choose = random.Random(seed)
    report = {"kills": 0, "survived": 0, "hits": {}, "runs": 0, "differences": []}
    while report["kills"] < kills:
        again = folder / f"killed-{report['runs']}"
        before, where = report["kills"], "never"
        try:
            while report["kills"] < kills:
                if report["kills"] % 2:
                    moment = {"operation": choose.randrange(1, 60)}
                else:
                    moment = {"seconds": choose.uniform(0.0, whole)}
                hit = run(again, **moment)
                if hit is None:  # It was over before.
                    break
                where = hit
                report["kills"] += 1
                report["hits"][where] = report["hits"].get(where, 0) + 1
            run(again)
            different = differences(expected, result(again))
        except FailedError:
            different = [f"killed {where}, the run could not be resumed"]
        report["runs"] += 1
        report["differences"] += different
        report["survived"] += 0 if different else report["kills"] - before
        shutil.rmtree(again)
    print("REPORT" + json.dumps(report))


# --- Processes ------------------------------------------------------------------------


def one_run(mode, kind, sent, folder, seconds=None, operation=None):
    """Trains in a new process; returns where it was killed, or None if it was not.

    The process is a fork of this one, which has imported everything and computed
    nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "where").write_text("during startup")
    pid = os.fork()
    if pid == 0:
        try:
            train(mode, kind, folder, functools.partial(die_within, operation, sent))
        except KeyboardInterrupt:
            os._exit(128 + signal.SIGTERM)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                break
            time.sleep(0.005)
        else:
            os.kill(pid, sent)
            status = ended(pid)
    else:
        _, status = os.waitpid(pid, 0)
    by_signal = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (sent, signal.SIGKILL)
    if by_signal or os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM:
        return (folder / "where").read_text().strip()
    if status:
        raise FailedError(f"The run in {folder} failed.")
    return None


def ended(pid):
    """Waits until a process ends, and kills it after the grace period."""
    end = time.monotonic() + GRACE
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


class FailedError(Exception):
    """A run ended with an error."""


class Where(keras.callbacks.Callback):
    """Notes what the run is doing, for the report."""

    def __init__(self, path):
        super().__init__()
        file = os.open(path, os.O_WRONLY)

        def noting(what):
            return lambda *_, **__: os.pwrite(file, what.ljust(24).encode(), 0)

        self.on_epoch_begin = noting("during training")
        self.on_test_begin = noting("during validation")
        self.on_test_end = noting("at the end of an epoch")
        self.on_train_end = noting("at the end of the run")


def die_within(operations, sent):
    """Sends a signal to this process in the middle of a file operation."""
    if operations is None:
        return
    left = [operations]

    def dying(function):
        def call(*arguments, **keywords):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), sent)
            return function(*arguments, **keywords)

        return call

    for name in ("replace", "fsync", "unlink"):
        setattr(os, name, dying(getattr(os, name)))


# --- The run --------------------------------------------------------------------------


def data():
    """Inputs and targets that take more than a few steps to learn."""
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=((STEPS + 3) * BATCH, 6)).astype("float32")
    y = np.tanh(x @ numbers.normal(size=(6, 2))) + 0.3 * numbers.normal(
        size=(len(x), 2)
    )
    return x, y.astype("float32")


def optimizer(kind):
    """SGD; in the combined run it accumulates, and its loss is scaled."""
    if kind == "restarts":
        return keras.optimizers.SGD(0.1, momentum=0.9)
    inner = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=5)
    return keras.optimizers.LossScaleOptimizer(
        inner, initial_scale=2.0**30, dynamic_growth_steps=20
    )


def driven(kind):
    """The callbacks of the rate and of the averages."""
    if kind == "combined":
        return [
            callbacks.OneCycleScheduler(0.05),
            callbacks.WeightAveraging(),
        ]
    cycles = S.CosineRestarts(0.05, S.Epochs(1.5), t_mul=1.5)
    momentum = S.LinearDecay(0.95, end_learning_rate=0.8)
    return [
        callbacks.HyperparameterScheduler(learning_rate=cycles, momentum=momentum),
        callbacks.WeightAveraging(),
    ]


def train(mode, kind, folder, before=lambda: None):
    """Trains or resumes, and writes the result into files of the folder."""
    keras.utils.set_random_seed(1)
    if kind == "combined":
        keras.config.set_dtype_policy("mixed_float16")
    exact = mode != "backup"  # It forgets the state of random generators.
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            *([keras.layers.Dropout(0.2)] if exact else []),
            keras.layers.Dense(2),
        ]
    )
    model.compile(optimizer(kind), "mse", metrics=["mae"])
    ends = None if kind == "restarts" else [17, 41, 60, 93]
    plateau = callbacks.ReduceOnPlateau("val_loss", 0.7, patience=1, min_delta=0.01)
    backup = folder / "backup"
    kept = {
        "epoch": lambda: callbacks.ResumableTraining(backup, verbose=0),
        "steps": lambda: callbacks.ResumableTraining(backup, 5, verbose=0),
        "backup": lambda: keras.callbacks.BackupAndRestore(
            backup, double_checkpoint=True
        ),
    }
    x, y = data()
    count = STEPS * BATCH
    before()
    history = model.fit(
        x[:count],
        y[:count],
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=exact,
        verbose=0,
        validation_data=(x[count:], y[count:]),
        callbacks=[
            Where(folder / "where"),
            kept[mode](),
            *driven(kind),
            callbacks.HyperparameterLogger(),
            callbacks.SnapshotEnsemble(folder / "snapshots", schedule=ends),
            keras.callbacks.EarlyStopping(patience=EPOCHS, restore_best_weights=False),
            keras.callbacks.ModelCheckpoint(
                folder / "best.weights.h5", save_best_only=True, save_weights_only=True
            ),
            plateau,
        ],
    )
    arrays = dict(enumerate(map(keras.ops.convert_to_numpy, state(model))))
    np.savez(folder / "result.npz", **{f"variable {i}": a for i, a in arrays.items()})
    found = {
        "history": history.history if exact else history.history["val_loss"][-1:],
        "plateau": plateau.state,
    }
    (folder / "result.json").write_text(json.dumps(found))


def state(model):
    """All variables of a model and its optimizer, by what they hold."""
    optimizers = [model.optimizer]
    if hasattr(model.optimizer, "inner_optimizer"):
        optimizers.append(model.optimizer.inner_optimizer)
    found = [*model.variables, *(v for one in optimizers for v in one.variables)]
    return [v.value for v in found]


def result(folder):
    """What a run ended with."""
    found = json.loads((folder / "result.json").read_text())
    with np.load(folder / "result.npz") as arrays:
        found["variables"] = dict(arrays)
    members = ensembles.store.Store(folder / "snapshots").records
    found["snapshots"] = [
        (m.file, m.step, m.cycle, m.learning_rate, m.metrics, m.sha256) for m in members
    ]
    found["best"] = (folder / "best.weights.h5").stat().st_size
    return found


def differences(expected, found):
    """What is not the same to the last bit, by name, with the numbers."""
    different = [
        f"{name} is {found[name]} instead of {expected[name]}"
        for name in expected
        if name != "variables" and expected[name] != found[name]
    ]
    for name, array in expected["variables"].items():
        other = found["variables"][name]
        if not np.array_equal(array, other, equal_nan=True):
            distance = np.max(np.abs(array.astype("float64") - other))
            different.append(f"{name} differs by up to {distance:.1e}")
    return [text[:300] for text in different]


if __name__ == "__main__":
    main(*sys.argv[1:])
