"""Calls `fit` thousands of times in one process, and looks whether its memory grows.

    python benchmarks/endurance.py [--fits 2000] [--snapshots 500]
                                   [--backends tensorflow jax torch]
                                   [--output docs/reliability.md]

Each kind of fit has a process of its own, which makes a model and calls its `fit` again
and again. Beside the kinds of ours there is one without callbacks: what grows there is
not ours. Memory is that of the process; objects are those that Python's garbage
collector knows.
"""

import argparse
import gc
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import keras
import numpy as np
from report import table, write_part

from keras_lrs import callbacks
from keras_lrs import schedules as S  # noqa: N812

TITLE = "# Thousands of fits"
PLAIN, STEP, SNAPSHOTS = "no callbacks", "schedules and averages", "snapshots"
RESUMABLE = "checkpoints"
KINDS = (PLAIN, STEP, SNAPSHOTS, RESUMABLE)
EPOCHS, STEPS, BATCH = 2, 4, 8
PARTS = 20


def main(arguments=None):
    """Prints the table, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fits", type=int, default=2000)
    parser.add_argument("--snapshots", type=int, default=500, help="fits with files")
    backends = ["tensorflow", "jax", "torch"]
    parser.add_argument("--backends", nargs="+", choices=backends, default=backends)
    parser.add_argument("--kind", choices=KINDS, help="run this one here")
    parser.add_argument("--output", help="the report to write into")
    options = parser.parse_args(arguments)
    if options.kind is not None:
        print("REPORT" + json.dumps(repeated(options.kind, options.fits)))
        return
    found = {
        (backend, kind): in_a_process(backend, kind, options)
        for backend in options.backends
        for kind in KINDS
    }
    text = report(found)
    print(text)
    if options.output is not None:
        write_part(pathlib.Path(options.output), text)


def in_a_process(backend, kind, options):
    """What `repeated` returns, in a process of its own."""
    with_files = kind in (SNAPSHOTS, RESUMABLE)
    fits = options.snapshots if with_files else options.fits
    result = subprocess.run(
        [sys.executable, __file__, "--kind", kind, "--fits", str(fits)],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.split("REPORT")[1])


def repeated(kind, fits):
    """Calls `fit` so many times; the memory and the objects after parts of them."""
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(STEPS * BATCH, 4)).astype("float32")
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    seen = []
    folder = pathlib.Path(tempfile.mkdtemp())
    for number in range(fits):
        found = of_kind(kind, folder / str(number))
        model.fit(x, x[:, :1], BATCH, EPOCHS, verbose=0, callbacks=found)
        shutil.rmtree(folder / str(number), ignore_errors=True)
        if (number + 1) % max(fits // PARTS, 1) == 0:
            gc.collect()
            seen.append((number + 1, resident(), len(gc.get_objects())))
    shutil.rmtree(folder)
    return seen


def of_kind(kind, folder):
    """Callbacks, new in every fit."""
    restarts = S.CosineRestarts(0.01, num_cycles=2, t_mul=1.0)
    return {
        PLAIN: lambda: [],
        STEP: lambda: [
            callbacks.HyperparameterScheduler(
                learning_rate=restarts, momentum=S.LinearDecay(0.9, None, 0.5)
            ),
            callbacks.WeightAveraging(),
            callbacks.HyperparameterLogger(),
            callbacks.GradientNormRecorder(),
            callbacks.ReduceOnPlateau("loss"),
        ],
        SNAPSHOTS: lambda: [
            callbacks.HyperparameterScheduler(learning_rate=restarts),
            callbacks.SnapshotEnsemble(folder, keep_last=1),
        ],
        RESUMABLE: lambda: [
            callbacks.HyperparameterScheduler(learning_rate=restarts),
            callbacks.ResumableTraining(folder, every=3, verbose=0),
        ],
    }[kind]()


def resident():
    """The memory of this process, in bytes."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(seen):
    """The bytes and objects that a fit added, in the second half of all."""
    second = np.array(seen[len(seen) // 2 - 1 :], np.float64)
    fits = second[-1, 0] - second[0, 0]
    line = np.polyfit(second[:, 0], second[:, 1], 1)[0]
    return line, (second[-1, 2] - second[0, 2]) / fits


def report(found):
    """The page's part, in Markdown."""
    rows = []
    for (backend, kind), seen in found.items():
        grown, objects = growth(seen)
        first, last = seen[0], seen[-1]
        memory = f"{first[1] / 1e6:.1f} to {last[1] / 1e6:.1f}"
        added = f"{grown / 1e3:+.2f}"
        rows.append([backend, kind, f"{last[0]:,}", memory, added, f"{objects:+.2f}"])
    header = ["backend", "callbacks", "fits", "memory, MB", "kB a fit", "objects a fit"]
    return "\n\n".join(
        [
            TITLE,
            f"Fits of {EPOCHS} epochs of {STEPS} steps of one model, one after another "
            "in one process, with new callbacks in each. What a fit adds is the slope "
            "of a line through the second half. What grows without callbacks, too, is "
            f"not ours. Keras {keras.__version__}, Python "
            f"{platform.python_version()}. Written by `benchmarks/endurance.py`.",
            table(header, rows),
        ]
    )


if __name__ == "__main__":
    main()
