"""Injects a fault into every operation on files, and looks what is left.

    python benchmarks/faults.py [--sample 20] [--output docs/reliability.md]

`benchmarks/faults.c`, which this compiles and preloads, sees the operations of Python,
HDF5 and Orbax alike. A small training is run once to count them. Then it is run again
for each operation and each kind of fault, in a process of its own, and after that once
more without a fault, as a user would: it must resume from what was saved, and end with
the same weights; or what was saved must load.
"""

import argparse
import collections
import contextlib
import ctypes
import errno
import json
import os
import pathlib
import platform
import random
import shutil
import subprocess
import sys
import tempfile

import keras
import numpy as np
from report import table, write_part

from keras_lrs import averages, callbacks, ensembles

with contextlib.suppress(ImportError):
    import tensorflow  # noqa: F401  (Or Keras imports it in each of the processes.)

TITLE = "# Faults of files"
TEXT = """\
A run of {epochs} epochs that saves after each epoch is repeated once for every file
operation that it makes (opening to write, write, fsync, rename, unlink, mkdir) and
every kind of fault:

- *killed*: the process is killed before the operation;
- *torn*: the process is killed in the middle of a write, or, if the operation is not a
  write, after it;
- *data lost*: the power fails, and unsynced data is lost, but renames are kept;
- *names lost*: the power fails, and unsynced renames are lost, but later
  removals are kept;
- *EIO*, *ENOSPC*: the operation fails, and the run continues if it can.

A run survives a fault if the same call then resumes from the last epoch that was saved
completely, and ends with the weights of a run without faults, bit for bit. If a
callback cannot resume a run, its saved files must load, and must be from that epoch or
a later one. The operations of HDF5 and Orbax are counted like those of Python."""
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
    """Notes the epochs that begin, before which those that are over were saved."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        """Those before it were saved."""
        with open(self.path, "a") as file:
            file.write(f"{epoch}\n")

    def on_train_end(self, logs=None):
        """All were."""
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
    "Keras's `OrbaxCheckpoint`": orbax,
}
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
    """What was saved, by the epoch after which: of the newest, or of all there are."""
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
    """Why a fault was not survived; None if it was."""
    log = folder.with_suffix(".log")
    after = folder.with_suffix(".after")
    log.write_text("")
    how, what = forked(faulty, kind, folder, log, number, fault)
    if how == "signal" and (what != 9 or fault in ("EIO", "ENOSPC")):
        return f"ended by signal {what}"
    begun = max(map(int, log.read_text().split()), default=0)
    how, what = forked(again, kind, folder, after)
    if how != "done" and kind in LOADED and not begun:
        return None  # Nothing had been saved.
    if how != "done":
        return f"what is left cannot be used: {what}"[:150]
    if kind in RESUMED:
        first = int(after.read_text().split()[0])
        if what[0] != expected[-1]:
            return "resumed, and ended otherwise"
        # While its files are removed, a training is over, and may be run again.
        return "started over" if first < begun < EPOCHS else None
    newest = max((expected.index(w) if w in expected else -2 for w in what), default=-1)
    if newest == -2 or any(w not in expected for w in what):
        return "loads what was never saved"
    late = newest + 1 >= begun or kind in SAVES_LATER
    return None if late else "lost what was saved"


# --- All of them ----------------------------------------------------------------------


def measured(kind, faults, sample, seed=0):
    """For each fault: how many, how many were survived, and why others were not."""
    report = {}
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place, "run")
        how, what = forked(faulty, kind, folder, folder.with_suffix(".log"), 10**9, "")
        if how != "done":
            return {"unmeasured": f"{how}: {what}"}
        count, expected = what
        if kind == "`PosthocAveraging`":
            expected = prefixes(kind, place)
        for fault in faults:
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
            survived = len(numbers) - len(failures)
            report[fault] = [len(numbers), survived, collections.Counter(failures)]
    return report


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


def report(found, sample):
    """The page's part, in Markdown."""
    rows, reasons = [], []
    for kind, faults in found.items():
        if "unmeasured" in faults:
            reasons.append(f"- {kind} could not be run: {faults['unmeasured']}")
            continue
        cells = [
            f"{faults[f][1]} of {faults[f][0]}" if f in faults else "-" for f in FAULTS
        ]
        rows.append([kind, *cells])
        total = collections.Counter()
        for _, _, failures in faults.values():
            total.update(failures)
        reasons += [f"- {kind}, {n} x: {why}" for why, n in total.most_common(4)]
    head = ["survived by", *FAULTS]
    version = (
        f"Keras {keras.__version__} with {keras.backend.backend()}, Python "
        f"{platform.python_version()}, {platform.system()}. Written by "
        "`benchmarks/faults.py`"
        + ("." if sample is None else f", for {sample} operations, chosen at random.")
    )
    text = [TITLE, "", TEXT.format(epochs=EPOCHS), "", version, "", table(head, rows)]
    if reasons:
        text += ["", "What was not survived, and why:", "", *reasons]
    return "\n".join(text)


def preloaded(arguments):
    """Runs this program again, with the library preloaded."""
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "faults.so")
        source = pathlib.Path(__file__).with_suffix(".c")
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"]
        subprocess.run([*command, "-lpthread"], check=True)
        environment = {**os.environ, "LD_PRELOAD": library, "PYTHONWARNINGS": "ignore"}
        program = [sys.executable, __file__, *arguments]
        return subprocess.run(program, env=environment, check=False).returncode


def main(arguments=None):
    """Prints the table, and writes it."""
    if "LD_PRELOAD" not in os.environ:
        sys.exit(preloaded(sys.argv[1:] if arguments is None else arguments))
    kinds = RESUMED | LOADED
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, help="how many operations; all if not")
    parser.add_argument("--kinds", nargs="+", default=[*kinds], help="parts of names")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=[*FAULTS])
    parser.add_argument("--output", help="the report to write into")
    options = parser.parse_args(arguments)
    chosen = [kind for kind in kinds if any(part in kind for part in options.kinds)]
    found = {k: measured(k, options.faults, options.sample) for k in chosen}
    text = report(found, options.sample)
    print(text)
    if options.output is not None:
        write_part(pathlib.Path(options.output), text)


if __name__ == "__main__":
    main()
