"""Measures the predictions of ensembles and the writing of snapshots.

    python benchmarks/ensembles.py [--backends tensorflow jax torch] [--quick]
                                   [--output docs/performance.md]

Five members predict in one pass, and as five models one after the other, turn and turn
about; five other models show the noise. Snapshots are written and hashed as in a
training, and the same bytes are written to the same disk without more. Every backend is
measured in a process of its own. The tables are Markdown; they replace those in the
output.
"""

import argparse
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import intervals
import numpy as np
import steps
from intervals import Estimate
from report import add_outputs, aim_cell, aims_part, aims_table, publish, table

TITLE = "# Ensembles and snapshots"
MEMBERS = 5
MLP, CONVNET = "MLP 64-128-10", "convnet, 3 layers, 32 x 32"
SAMPLES = {MLP: 2048, CONVNET: 256}
# Ratios to five predictions.
TARGETS = {
    ("tensorflow", MLP): 0.25,
    ("jax", MLP): 0.25,
    ("torch", MLP): 0.6,
    ("tensorflow", CONVNET): 0.5,
    ("jax", CONVNET): 1.05,
    ("torch", CONVNET): 1.05,
}
DISK_TARGET = 0.6
ROUNDS = {False: 9, True: 3}
# Its threads wait for each other at every operation, and on a busy machine for others.
PYTORCH_ALONE = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
LARGE = 4096  # Units of the layers that are written: 64 MiB each.


def network(name):
    import keras
    from keras import layers

    if name == MLP:
        return keras.Sequential(
            [
                keras.Input((64,)),
                layers.Dense(128, activation="relu"),
                layers.Dense(10, activation="softmax"),
            ]
        )
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for width, strides in ((16, 1), (32, 2), (64, 2)):
        model.add(layers.Conv2D(width, 3, strides, padding="same"))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10, activation="softmax"))
    return model


def ensemble_of(models):
    """An ensemble of the weights that models have."""
    from keras import ops

    from keras_lrs.ensembles import Ensemble, Member

    members = []
    for number, model in enumerate(models, 1):
        values = [np.array(ops.convert_to_numpy(v.value)) for v in model.variables]
        members.append(Member("", number, number, True, 0.0, {}, values))
    return Ensemble(models[0], members)


def measured(rounds):
    """Seconds of every round."""
    return {
        "predict": {name: predict_seconds(name, rounds) for name in SAMPLES},
        "write": write_seconds(rounds),
    }


def predict_seconds(name, rounds):
    """Of an ensemble, of its members alone, and of these again."""
    models = [network(name) for _ in range(MEMBERS)]
    again = [network(name) for _ in range(MEMBERS)]
    ensemble = ensemble_of(models)
    shape = (SAMPLES[name], *models[0].input_shape[1:])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")

    def alone(models):
        return sum(model.predict(x, verbose=0) for model in models) / MEMBERS

    contenders = {
        "ensemble": lambda: ensemble.predict(x, verbose=0),
        "alone": lambda: alone(models),
        "again": lambda: alone(again),
    }
    np.testing.assert_allclose(ensemble.predict(x, verbose=0), alone(models), atol=1e-5)
    return interleaved(contenders, rounds)


def write_seconds(rounds):
    """Of a snapshot of 128 MiB: copying, writing behind; and of the bare minimum."""
    import keras

    from keras_lrs._keras.weights import copied_weights
    from keras_lrs.ensembles import store

    layers = [keras.layers.Dense(LARGE) for _ in range(2)]
    model = keras.Sequential([keras.Input((LARGE,)), *layers])
    arrays = [keras.ops.convert_to_numpy(v.value) for v in model.variables]
    weights = copied_weights(model)
    content = weights.content()
    record = store.Record(0, 1, 1, True, 0.1, {})
    with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as name:
        found = store.Store(pathlib.Path(name, "ensemble"))
        found.begin([], lambda record: True)

        def write_bare():
            with open(pathlib.Path(name, "bare"), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

        return interleaved(
            {
                "copy": lambda: copied_weights(model),
                "bare copy": lambda: [np.array(array) for array in arrays],
                "write": lambda: found.add(record, weights.pieces(), keep_last=1),
                "bare write": write_bare,
            },
            max(rounds // 3, 2),
        ) | {"bytes": len(content)}


def interleaved(contenders, rounds):
    """Runs all once per round, so that a slow moment hits all alike."""
    for contender in contenders.values():
        contender()  # Compiles, and fills caches.
        contender()
    samples = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    for number in range(rounds):
        names = list(contenders)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            contenders[name]()
            samples[name].append(time.perf_counter() - start)
    gc.enable()
    return samples


# --- The tables -----------------------------------------------------------------------


def markdown(results):
    """All that is said of ensembles; results by backend."""
    return "\n\n".join(
        [
            TITLE,
            f"The table shows what `Ensemble.predict` with {MEMBERS} members takes, as "
            f"a ratio to {MEMBERS} calls of `model.predict` and a mean.",
            predict_table(results),
            "Each cell is the median of the ratios within a round, with its 95 % "
            'interval. The column "again" has five other models of the same kind and '
            "shows the noise. Batches of 32 samples are in memory: "
            + ", ".join(
                f"{count:,} samples ({name})" for name, count in SAMPLES.items()
            )
            + ". PyTorch has one thread. Compilation is not counted.",
            "The next table shows how fast a snapshot is written, and what the machine "
            "does at best.",
            write_table(results),
            "The snapshot has two layers of 64 MiB. Training waits while it is copied, "
            'and "NumPy" is a plain copy of the same arrays. A thread then lays the '
            "snapshot out as HDF5, writes it to the disk (`fsync`), hashes it and adds "
            'it to the manifest, which is on the disk too. "Disk" is a plain write of '
            "the same bytes to the same disk. The numbers are medians.",
        ]
    )


def predict_table(results):
    rows = []
    for name in SAMPLES:
        for backend, result in results.items():
            found = ratios_of(result)[name]
            milliseconds = 1e3 * statistics.median(result["predict"][name]["alone"])
            cells = [found[which].cell() for which in ("again", "ensemble")]
            rows.append([name, backend, f"{milliseconds:.0f}", *cells])
    return table(["model", "backend", "five, ms", "again", "ensemble"], rows)


def ratios_of(result):
    """Estimates of the ratios to five predictions: by model and contender."""
    return {
        name: intervals.ratios(samples, "alone")
        for name, samples in result["predict"].items()
    }


def write_table(results):
    rows = []
    for backend, result in results.items():
        samples = result["write"]
        rates = [
            samples["bytes"] / 1e6 / statistics.median(samples[name])
            for name in ("copy", "bare copy", "write", "bare write")
        ]
        ratio = f"{rates[2] / rates[3]:.2f}"
        rows.append([backend, *(f"{rate:.0f}" for rate in rates), ratio])
    return table(["MB/s", "copied", "NumPy", "written", "disk", "ratio"], rows)


def aims_of(results):
    """The aims, and whether they were met."""
    predict = [
        (
            name,
            {
                backend: aim_cell(
                    found["ensemble"],
                    TARGETS[backend, name],
                    intervals.noise(found["again"]),
                )
                for backend, result in results.items()
                for found in [ratios_of(result)[name]]
            },
        )
        for name in SAMPLES
    ]
    write = {
        backend: aim_cell(slowdown(result["write"]), 1.0 / DISK_TARGET)
        for backend, result in results.items()
    }
    backends = list(results)
    return "\n\n".join(
        [
            aims_part(TITLE, backends, predict),
            aims_table(backends, [("seconds to write, over those of the disk", write)]),
        ]
    )


def slowdown(samples):
    return Estimate.of_ratio(samples["write"], samples["bare write"])


# --- The program ----------------------------------------------------------------------


def measured_in_a_process(backend, quick):
    print(f"Measuring ensembles on {backend} ...", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, __file__, "--measure", backend] + ["--quick"] * quick,
        env={**os.environ, **PYTORCH_ALONE, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments=None):
    arguments = parsed_arguments(arguments)
    if arguments.measure:
        print(json.dumps(measured(ROUNDS[arguments.quick])))
        return
    results = {
        backend: measured_in_a_process(backend, arguments.quick)
        for backend in arguments.backends
    }
    ratios = {backend: ratios_of(result) for backend, result in results.items()}
    found = {"seconds": results, "ratios": ratios}
    publish(__file__, arguments, markdown(results), found, aims_of(results))


def parsed_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = steps.BACKENDS
    parser.add_argument("--backends", nargs="+", choices=known, default=known)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    add_outputs(parser)
    parser.add_argument("--measure", choices=known, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
