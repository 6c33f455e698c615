"""Injects a fault into every file operation, and checks what is left.

    python benchmarks/faults.py [--sample 20] [--kinds Resumable Snapshot]
                                [--faults killed torn] [--resume] [--publish]
                                [--workers 2] [--output docs/reliability.md]

`benchmarks/faults.c`, which this compiles and preloads, sees the operations of Python,
HDF5 and Orbax alike. A small run is made once to count them. Then it is repeated for
each operation and each kind of fault, in a process of its own, and after that once more
without a fault, as a user would: it must resume from what was saved, and end with the
same weights; or what was saved must load. Uses the backend that Keras is set to.

Each kind of callback with each kind of fault is kept when it is finished, in
`benchmarks/results/faults.jsonl`: `--resume` runs only those that are missing, and
`--publish` runs nothing, but writes the page again.
"""

import argparse
import contextlib
import ctypes
import errno
import functools
import importlib.util
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile

import kept
import keras
import numpy as np
import reliability_page

from keras_lrs import averages, callbacks, ensembles

with contextlib.suppress(ImportError):
    import tensorflow  # noqa: F401  (Or Keras imports it in each of the processes.)

SOURCE = pathlib.Path(__file__).with_suffix(".c")
EPOCHS = 3
FAULTS = {
    "killed": (1, 0),
    "torn": (2, 0),
    "data lost": (3, 0),
    "names lost": (4, 0),
    "EIO": (5, errno.EIO),
    "ENOSPC": (5, errno.ENOSPC),
}


# --- The training ---------------------------------------------------------------------


def flat(model):
    """All weights in one array."""
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


class Log(keras.callbacks.Callback):
    """Notes each epoch that begins: all epochs before it were saved."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        """Notes it."""
        with open(self.path, "a") as file:
            file.write(f"{epoch}\n")

    def on_train_end(self, logs=None):
        """Notes that all were saved."""
        with open(self.path, "a") as file:
            file.write(f"{EPOCHS}\n")


class Weights(keras.callbacks.Callback):
    """Keeps the weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        """Adds those of this one."""
        self.found.append(flat(self.model))


def made():
    """A model, always the same."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def orbax(folder):
    """Keras's callback around Orbax, which waits until all is written."""
    return keras.callbacks.OrbaxCheckpoint(
        folder, save_on_background=False, save_weights_only=True, max_to_keep=2
    )


RESUMED = {
    "`ResumableTraining`": lambda folder: callbacks.ResumableTraining(
        folder, verbose=0
    ),
    "Keras's `BackupAndRestore`": lambda folder: keras.callbacks.BackupAndRestore(
        folder, double_checkpoint=True
    ),
}
LOADED = {
    "`SnapshotEnsemble`": lambda folder: callbacks.SnapshotEnsemble(
        folder, schedule=[4, 8, 12]
    ),
    "`PosthocAveraging`": lambda folder: callbacks.PosthocAveraging(folder),
    "Keras's `ModelCheckpoint`": lambda folder: keras.callbacks.ModelCheckpoint(
        f"{folder}/last.weights.h5", save_weights_only=True
    ),
}
if importlib.util.find_spec("orbax") is not None:
    LOADED["Keras's `OrbaxCheckpoint`"] = orbax
SAVES_LATER = ("`SnapshotEnsemble`",)  # In a thread; what is there must be whole.


def train(kind, folder, log):
    """Trains, or resumes; returns the weights after each epoch."""
    model, weights = made(), Weights()
    saving = (RESUMED | LOADED)[kind](str(folder))
    x = np.linspace(-1, 1, 48).reshape(16, 3).astype("float32")
    y = np.stack([x.sum(1), x.prod(1)], 1)
    model.fit(
        x, y, 4, EPOCHS, verbose=0, shuffle=False, callbacks=[Log(log), weights, saving]
    )
    return [*weights.found, flat(model)]


def loaded(kind, folder):
    """Returns the weights in the newest file, or in all files of snapshots."""
    model = made()
    if kind == "`SnapshotEnsemble`":
        try:
            members = ensembles.load(folder, model)
        except FileNotFoundError:
            return []
        except ValueError as error:
            if "names no member" in str(error):
                return []
            raise
        return [np.concatenate([v.ravel() for v in m.values]) for m in members]
    if kind == "`PosthocAveraging`":
        try:
            found = averages.posthoc(folder, 0.07)
        except FileNotFoundError:
            return []
        return [np.concatenate([v.ravel() for v in found])]
    path = folder / "last.weights.h5" if "Model" in kind else folder
    if not path.exists():
        return []
    # Orbax gives a checkpoint that is whole the name of its step.
    if "Orbax" in kind and not any(each.name.isdigit() for each in path.iterdir()):
        return []
    model.load_weights(path)
    return [flat(model)]


# --- One fault ------------------------------------------------------------------------


def forked(function, *arguments):
    """Calls a function in a fork; its result as JSON, what it raised, or a signal."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        try:
            found = ["done", function(*arguments)]
        except BaseException as error:
            found = ["raised", f"{type(error).__name__}: {error}"]
        with os.fdopen(writer, "w") as file:
            file.write(json.dumps(found))
            file.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    _, status = os.waitpid(process, 0)
    return json.loads(text) if text else ["signal", os.WTERMSIG(status)]


def faulty(kind, folder, log, number, fault):
    """Trains with a fault; returns how many operations there were."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    mode, code = FAULTS[fault] if fault else (0, 0)
    library.faults_arm(os.fsencode(folder), ctypes.c_long(number), mode, code)
    weights = train(kind, folder, log)
    count = ctypes.c_long(library.faults_counted()).value
    library.faults_arm(b"", ctypes.c_long(-1), 0, 0)
    return count, [array.tolist() for array in weights]


def again(kind, folder, log):
    """Resumes, or loads; returns the weights."""
    found = train(kind, folder, log)[-1:] if kind in RESUMED else loaded(kind, folder)
    return [array.tolist() for array in found]


def outcome(kind, folder, number, fault, expected):
    """Says why a fault was not survived; None if it was."""
    log = folder.with_suffix(".log")
    after = folder.with_suffix(".after")
    log.write_text("")
    how, what = forked(faulty, kind, folder, log, number, fault)
    if how == "signal" and (what != 9 or fault in ("EIO", "ENOSPC")):
        return f"the process crashed with signal {what}"
    begun = max(map(int, log.read_text().split()), default=0)
    how, what = forked(again, kind, folder, after)
    if how != "done" and kind in LOADED and not begun:
        return None  # Nothing had been saved.
    if how != "done":
        left = "the run cannot resume" if kind in RESUMED else "the files do not load"
        return f"{left}: {what}"[:150]
    if kind in RESUMED:
        first = int(after.read_text().split()[0])
        if what[0] != expected[-1]:
            return "resumed, but ended with different weights"
        # A run is over while its files are removed, and may then start over.
        lost = first < begun < EPOCHS
        return "resumed from an epoch before the last saved one" if lost else None
    newest = max((expected.index(w) if w in expected else -2 for w in what), default=-1)
    if newest == -2 or any(w not in expected for w in what):
        return "the files load, but hold weights that were never saved"
    late = newest + 1 >= begun or kind in SAVES_LATER
    return None if late else "a saved epoch was lost"


# --- All of them ----------------------------------------------------------------------


def measured(kind, fault, sample, seed=0):
    """Returns how many faults were injected and survived, and why others were not."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place, "run")
        how, what = forked(faulty, kind, folder, folder.with_suffix(".log"), 10**9, "")
        if how != "done":
            raise RuntimeError(f"{kind} does not train without a fault: {how}, {what}")
        count, expected = what
        if kind == "`PosthocAveraging`":
            expected = prefixes(kind, place)
        numbers = range(count)
        if sample is not None and sample < count:
            numbers = sorted(random.Random(seed).sample(numbers, sample))
        failures = []
        for number in numbers:
            shutil.rmtree(folder, ignore_errors=True)
            for left in pathlib.Path(place).glob("run.*"):
                left.unlink()
            reason = outcome(kind, folder, number, fault, expected)
            if reason is not None:
                failures.append(reason)
    run = len(numbers)
    survived = run - len(failures)
    return {"operations": count, "run": run, "survived": survived, "failures": failures}


def prefixes(kind, place):
    """The averages that are reconstructed after each epoch."""
    found = []
    folder = pathlib.Path(place, "whole")
    forked(faulty, kind, folder, pathlib.Path(place, "whole.log"), 10**9, "")
    paths = sorted(folder.glob("averages-*.npz"))
    for path in reversed(paths):
        found.insert(0, forked(again, kind, folder, None)[1][0])
        path.unlink()
    return found


@contextlib.contextmanager
def library():
    """Compiles the library, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "faults.so")
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", path, SOURCE, "-ldl"]
        subprocess.run([*command, "-lpthread"], check=True)
        yield path


def main(arguments=None):
    """Runs what is missing, and writes the page."""
    kinds = RESUMED | LOADED
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, help="how many operations; all if not")
    parser.add_argument("--kinds", nargs="+", default=[*kinds], help="parts of names")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=[*FAULTS])
    parser.add_argument("--case", nargs=2, help="a kind and a fault to run here")
    kept.add_options(parser, __file__)
    options = parser.parse_args(arguments)
    if options.case is not None:
        print("REPORT" + json.dumps(measured(*options.case, options.sample)))
        return
    if not options.publish:
        store = kept.Kept(options.work, [__file__, SOURCE], options.resume)
        with library() as path:
            run = functools.partial(in_a_process, path)
            jobs = [
                functools.partial(store.measure, case, functools.partial(run, **case))
                for case in cases(kinds, options)
            ]
            kept.run_all(jobs, options.workers)
    reliability_page.publish(options, reliability_page.faults, kept.read(options.work))


def cases(kinds, options):
    """What is measured: each kind of callback with each fault."""
    backend = keras.backend.backend()
    return [
        {"kind": kind, "fault": fault, "backend": backend, "sample": options.sample}
        for kind in kinds
        if any(part in kind for part in options.kinds)
        for fault in options.faults
    ]


def in_a_process(path, kind, fault, backend, sample):
    """What `measured` returns, with the library preloaded."""
    sampled = [] if sample is None else ["--sample", sample]
    command = [__file__, "--case", kind, fault, *sampled]
    return kept.in_a_process(command, backend, LD_PRELOAD=path)


if __name__ == "__main__":
    main()
