"""Measures how the cost of a training step grows with the size of what is in it.

    python benchmarks/growth.py [--backends tensorflow jax torch] [--quick]
                                [--axes boundaries variables parameters]
                                [--results results.json] [--output docs/performance.md]

With the number of boundaries of a piecewise constant rate, with the number of variables
of the model, and with the number of its parameters. Models that differ in nothing else
are trained turn and turn about, as in `benchmarks/steps.py`; a second model with a
constant rate shows the noise. Every backend and axis is measured in a process of its
own. With `--results` what was measured is added to a file, and the tables are of all
that is in it.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile

import intervals
import numpy as np
import steps
from contenders import boundaries
from report import (
    add_outputs,
    milliseconds,
    publish,
    read_results,
    table,
    write_results,
)
from steps import CONTROL, NUM_CLASSES, NUM_FEATURES, REFERENCE, Contender, Size

TITLE = "# How the cost of a training step grows"
CONFIGURATIONS = {"TensorFlow": "tensorflow", "JAX": "jax", "PyTorch": "torch"}
BOUNDARIES, VARIABLES, PARAMETERS = "boundaries", "variables", "parameters"
COUNTS = {
    BOUNDARIES: (10, 100, 1_000, 10_000, 100_000),
    VARIABLES: (10, 100, 300),
    PARAMETERS: (10**5, 10**6, 10**7, 10**8),
}
QUICK_COUNTS = {BOUNDARIES: (10, 1_000), VARIABLES: (10,), PARAMETERS: (10**5,)}
# Of Keras's schedule, which has an operation or more for each: those beyond take
# minutes to compile, or seconds to evaluate.
MOST_OF_KERAS = {"tensorflow": 1_000, "jax": 1_000, "torch": 10_000}
STEPS = {"tensorflow": 64, "jax": 64, "torch": 16}
SIZES = {False: Size(4.0, 5, 0), True: Size(0.0, 2, 0)}
FLOATS = 100  # In each of many variables.

KERAS_PIECEWISE, PIECEWISE = "Keras's `PiecewiseConstantDecay`", "`PiecewiseConstant`"
KERAS_COSINE = "Keras's cosine with warmup"
SCHEDULER = "`HyperparameterScheduler`: `Warmup(CosineAnnealing)`"
ONE_CYCLE = "`OneCycleScheduler`: rate and momentum"
AVERAGING = "`WeightAveraging`"


# --- What is compared -----------------------------------------------------------------


def tensors(count, size):
    """A model that does little but update this many tensors."""
    import keras

    class Tensors(keras.Model):
        def __init__(self):
            super().__init__()
            self.tensors = [
                self.add_weight(shape=(size,), initializer="ones") for _ in range(count)
            ]

        def call(self, inputs):
            total = sum(keras.ops.sum(tensor) for tensor in self.tensors)
            return inputs[:, :NUM_CLASSES] + total

    model = Tensors()
    model(np.zeros((1, NUM_FEATURES), "float32"))
    return model


def workload(axis, count):
    """Makes a model and its optimizer from a rate."""
    import keras

    if axis == BOUNDARIES:
        return steps.adam
    if axis == VARIABLES:
        return lambda rate: (tensors(count, FLOATS), keras.optimizers.AdamW(rate))
    return lambda rate: (tensors(1, count), keras.optimizers.SGD(rate, momentum=0.9))


def contenders(axis, count, backend):
    """Ways to train, the two with a constant rate first."""
    name = f"{count:,} {axis}"
    found = [Contender(name, REFERENCE), Contender(name, CONTROL)]
    if axis == BOUNDARIES:
        if count <= MOST_OF_KERAS[backend]:
            found.append(
                Contender(
                    name,
                    KERAS_PIECEWISE,
                    rate=lambda keras, lrs: keras.PiecewiseConstantDecay(
                        boundaries(count), steps.rates(count)
                    ),
                )
            )
        ours = Contender(
            name, PIECEWISE, rate=lambda keras, lrs: steps.piecewise(lrs, count)
        )
        return [*found, ours]
    if axis == VARIABLES:
        return [
            *found,
            Contender(name, KERAS_COSINE, rate=steps.keras_cosine),
            Contender(name, SCHEDULER, callbacks=steps.scheduled),
            Contender(name, AVERAGING, callbacks=steps.averaged),
        ]
    return [
        *found,
        Contender(name, ONE_CYCLE, callbacks=steps.one_cycle),
        Contender(name, AVERAGING, callbacks=steps.averaged),
    ]


ROWS = {
    BOUNDARIES: (CONTROL, KERAS_PIECEWISE, PIECEWISE),
    VARIABLES: (CONTROL, KERAS_COSINE, SCHEDULER, AVERAGING),
    PARAMETERS: (CONTROL, ONE_CYCLE, AVERAGING),
}
ABOUT = {
    BOUNDARIES: "The rate is piecewise constant, the optimizer is Adam, and the dense "
    "layers are 64-128-10. Keras's schedule has operations for every boundary. Cells "
    "where compiling takes minutes or a step takes seconds were not run.",
    VARIABLES: f"The optimizer is AdamW, and each variable has {FLOATS} floats. On "
    "TensorFlow, Keras evaluates a schedule in the optimizer once more for every "
    "variable with weight decay. A `HyperparameterScheduler` evaluates it once.",
    PARAMETERS: "The optimizer is SGD with momentum, and there is one tensor. An "
    "average is as large as the weights. It is read and written in every step, in "
    "addition to what the step itself reads and writes.",
}


# --- Measuring, in a process per backend ----------------------------------------------


def measured(name, axis, quick):
    """Seconds per step: `{count: {contender: one per round}}`."""
    backend = CONFIGURATIONS[name]
    found = {}
    for count in (QUICK_COUNTS if quick else COUNTS)[axis]:
        print(f"{name}: {count:,} {axis}", file=sys.stderr)
        found[count] = step_seconds(name, axis, count, backend, SIZES[quick])
    return found


def step_seconds(name, axis, count, backend, size):
    # Few where a step takes a tenth of a second or longer.
    length = min(STEPS[backend], max(8 * 10**7 // count, 4))
    configuration = dataclasses.replace(steps.CONFIGURATIONS[name], steps=length)
    chosen = contenders(axis, count, backend)
    key = chosen[0].workload
    steps.WORKLOADS[key] = workload(axis, count)
    with tempfile.TemporaryDirectory() as folder:
        found = steps.step_seconds(configuration, size, chosen, pathlib.Path(folder))
    return found[key]


# --- The tables -----------------------------------------------------------------------


def markdown(results):
    """All that is said of it; results by configuration."""
    parts = [
        TITLE,
        "The tables show how long a step of `model.fit` takes, as a ratio to the same "
        "model with a constant rate. Each cell is the median of the ratios within a "
        "round, with its 95 % interval. The row of the second constant rate shows the "
        f"noise. Batches have {steps.BATCH_SIZE} samples, each library has one thread, "
        "and TensorFlow runs without XLA.",
    ]
    for axis, rows in ROWS.items():
        by_name = {name: found.get(axis, {}) for name, found in results.items()}
        counts = sorted({int(count) for found in by_name.values() for count in found})
        header = [axis, *(f"{count:,}" for count in counts)]
        lines = []
        for name, found in by_name.items():
            of_counts = [found.get(str(count)) for count in counts]
            lines.append([f"**{name}: {REFERENCE}**", *map(reference_cell, of_counts)])
            lines += [[row, *(ratio_cell(c, row) for c in of_counts)] for row in rows]
        if counts:
            parts += [f"## {axis.capitalize()}", table(header, lines), ABOUT[axis]]
    return "\n\n".join(parts)


def reference_cell(found):
    if found is None:
        return "not measured"
    return milliseconds(found[REFERENCE])


def ratio_cell(found, row):
    if found is None:
        return "not measured"
    return intervals.ratios(found, REFERENCE)[row].cell() if row in found else "not run"


def by_count(results):
    """Estimates of all ratios: by configuration, axis, count and name."""
    return {
        name: {
            axis: {
                count: intervals.ratios(samples, REFERENCE)
                for count, samples in counts.items()
            }
            for axis, counts in found.items()
        }
        for name, found in results.items()
    }


# --- The program ----------------------------------------------------------------------


def main(arguments=None):
    arguments = parsed_arguments(arguments)
    if arguments.measure:
        found = measured(arguments.measure, *arguments.axes, arguments.quick)
        print(json.dumps(found))
        return
    results = read_results(arguments.results)
    for axis in arguments.axes:
        for name, backend in CONFIGURATIONS.items():
            if backend not in arguments.backends:
                continue
            quick = ["--quick"] * arguments.quick
            asked = ["--measure", name, "--axes", axis, *quick]
            found = steps.run(__file__, backend, asked)
            results.setdefault(name, {}).setdefault(axis, {}).update(found)
            write_results(arguments.results, results)
    found = {"seconds": results, "ratios": by_count(results)}
    publish(__file__, arguments, markdown(results), found)


def parsed_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backends", nargs="+", choices=steps.BACKENDS, default=steps.BACKENDS
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--axes", nargs="+", choices=list(COUNTS), default=list(COUNTS))
    parser.add_argument("--results", type=pathlib.Path, help="a file to add them to")
    add_outputs(parser)
    parser.add_argument("--measure", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
