"""Calls `fit` thousands of times in one process, and looks whether its memory grows.

    python benchmarks/endurance.py [--fits 2000] [--snapshots 500]
                                   [--backends tensorflow jax torch]
                                   [--resume] [--publish] [--workers 2]
                                   [--output docs/reliability.md]

Each kind of fit has a process of its own, which makes a model and calls its `fit` again
and again. Beside the kinds of ours there is one without callbacks: what grows there is
not ours. Memory is that of the process; objects are those that Python's garbage
collector knows. Each kind is kept when it is finished, in
`benchmarks/results/endurance.jsonl`: `--resume` runs only those that are missing, and
`--publish` runs nothing, but writes the page again.
"""

import argparse
import functools
import gc
import json
import os
import pathlib
import shutil
import tempfile

import kept
import keras
import numpy as np
import reliability_page

from keras_lrs import callbacks
from keras_lrs import schedules as S  # noqa: N812

PLAIN, STEP, SNAPSHOTS = "no callbacks", "schedules and averages", "snapshots"
RESUMABLE = "checkpoints"
KINDS = (PLAIN, STEP, SNAPSHOTS, RESUMABLE)
EPOCHS, STEPS, BATCH = 2, 4, 8
PARTS = 20


def main(arguments=None):
    """Runs what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fits", type=int, default=2000)
    parser.add_argument("--snapshots", type=int, default=500, help="fits with files")
    backends = ["tensorflow", "jax", "torch"]
    parser.add_argument("--backends", nargs="+", choices=backends, default=backends)
    parser.add_argument("--kind", choices=KINDS, help="run this one here")
    kept.add_options(parser, __file__)
    options = parser.parse_args(arguments)
    if options.kind is not None:
        print("REPORT" + json.dumps(growth(repeated(options.kind, options.fits))))
        return
    if not options.publish:
        store = kept.Kept(options.work, [__file__], options.resume)
        jobs = [
            functools.partial(
                store.measure, case, functools.partial(in_a_process, **case)
            )
            for case in cases(options)
        ]
        kept.run_all(jobs, options.workers)
    lines = kept.read(options.work)
    reliability_page.publish(options, reliability_page.endurance, lines)


def cases(options):
    """What is measured: each kind of fit on each backend."""
    fits = dict.fromkeys(KINDS, options.fits)
    fits |= dict.fromkeys((SNAPSHOTS, RESUMABLE), options.snapshots)
    return [
        {"callbacks": kind, "backend": backend, "fits": fits[kind]}
        for backend in options.backends
        for kind in KINDS
    ]


def in_a_process(callbacks, backend, fits):
    """What was found, in a process of its own."""
    return kept.in_a_process([__file__, "--kind", callbacks, "--fits", fits], backend)


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
    """What all fits used, and what each of the second half added."""
    second = np.array(seen[len(seen) // 2 - 1 :], np.float64)
    fits = second[-1, 0] - second[0, 0]
    line = np.polyfit(second[:, 0], second[:, 1], 1)[0]
    return {
        "fits": seen[-1][0],
        "first_mb": seen[0][1] / 1e6,
        "last_mb": seen[-1][1] / 1e6,
        "kb_per_fit": line / 1e3,
        "objects_per_fit": (second[-1, 2] - second[0, 2]) / fits,
    }


if __name__ == "__main__":
    main()
