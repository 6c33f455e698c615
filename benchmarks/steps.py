"""Measures what schedules and callbacks add to a training step, and prints tables.

    python benchmarks/steps.py [--backends tensorflow jax torch] [--quick] [--verbose]
                               [--output docs/performance.md]

Small models are trained by `model.fit`, turn and turn about. They differ in what sets
the learning rate and in nothing else; the one with a constant rate is the reference.
Every configuration is measured in a process of its own. The tables are Markdown; they
replace those in the output, where they come last.
"""

import argparse
import gc
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from contenders import boundaries, values
from report import table, write_part

TITLE = "# A training step"
BACKENDS = ("tensorflow", "jax", "torch")
BATCH_SIZE = 32
NUM_FEATURES, NUM_CLASSES = 64, 10
RATE = 1e-3
WARMUP_STEPS, TOTAL_STEPS, CYCLE_STEPS = 500, 100_000, 500
MANY = 100_000
NOISE_FLOOR = 1.03  # What two identical models may differ by.
EVERY_STEP = 1.05  # A scalar per step and hyperparameter, written to a file.


@dataclass(frozen=True)
class Configuration:
    """How models are compiled, by what, and how long an epoch is: a sample.

    An interval is so many executions long that it does not matter whether the device
    is ahead of Python or behind; JAX has up to 32 of them under way.
    """

    backend: str
    options: dict[str, Any]
    steps: int = 192
    interval: int = 1


CONFIGURATIONS = {
    "TensorFlow": Configuration("tensorflow", {"jit_compile": False}),
    "TensorFlow XLA": Configuration("tensorflow", {"jit_compile": True}),
    "TensorFlow, 16 steps per execution": Configuration(
        "tensorflow", {"jit_compile": False, "steps_per_execution": 16}, steps=512
    ),
    "JAX": Configuration("jax", {}, steps=512, interval=32),
    "PyTorch": Configuration("torch", {}, steps=64),
}
# On a busy machine, threads that wait for each other measure the others' work.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    seconds: float  # Of rounds, in one configuration.
    rounds: int  # At least.
    fresh: int  # Models whose first fits are timed.


SIZES = {False: Size(40.0, 9, 2), True: Size(5.0, 3, 1)}
NUM_WARMUPS = 2
SHORT_STEPS = 32  # Of the fits that are timed as a whole.
LATER_FITS = 4


# --- What is compared -----------------------------------------------------------------


def adam(rate):
    import keras

    return network([128], keras.optimizers.Adam(rate))


def sgd(rate):
    import keras

    return network([128], keras.optimizers.SGD(rate, momentum=0.9))


def adamw(rate):
    import keras

    return network([64] * 20, keras.optimizers.AdamW(rate))


def network(widths, optimizer):
    """Dense layers, and how they are optimized."""
    import keras

    hidden = [keras.layers.Dense(width, activation="relu") for width in widths]
    inputs = keras.Input((NUM_FEATURES,))
    outputs = keras.layers.Dense(NUM_CLASSES)
    return keras.Sequential([inputs, *hidden, outputs]), optimizer


ADAM = "Adam, 4 variables"
SGD = "SGD with momentum, 4 variables"
ADAMW = "AdamW, 42 variables"
WORKLOADS = {ADAM: adam, SGD: sgd, ADAMW: adamw}
REFERENCE, CONTROL = "constant", "constant, again"


def constant(keras, lrs):
    return RATE


def no_callbacks(lrs, folder):
    return []


@dataclass(frozen=True)
class Contender:
    """One way to set the rate.

    Attributes:
        workload: The model and its optimizer.
        name: What the tables call it.
        rate: What the optimizer is given; from `keras.optimizers.schedules` and
            `keras_lrs`.
        callbacks: What `fit` is given; from `keras_lrs` and a folder to write into.
        target: The largest ratio to the constant rate, if it is ours.
    """

    workload: str
    name: str
    rate: Callable[[Any, Any], Any] = constant
    callbacks: Callable[[Any, pathlib.Path], list] = no_callbacks
    target: float | None = None


def keras_cosine(keras, lrs):
    return keras.CosineDecay(
        0.0, TOTAL_STEPS, warmup_target=RATE, warmup_steps=WARMUP_STEPS
    )


def keras_piecewise(keras, lrs):
    return keras.PiecewiseConstantDecay(boundaries(100), rates(100))


def piecewise(lrs, number):
    return lrs.schedules.PiecewiseConstant(boundaries(number), rates(number))


def rates(number):
    return [RATE * value for value in values(number)]


def warmup_and_cosine(lrs):
    """Of the length that `fit` tells."""
    cosine = lrs.schedules.CosineAnnealing(RATE)
    return lrs.schedules.Warmup(cosine, lrs.Fraction(0.1))


def scheduled(lrs, folder):
    return [lrs.callbacks.HyperparameterScheduler(learning_rate=warmup_and_cosine(lrs))]


def scheduled_piecewise(lrs, folder):
    schedule = piecewise(lrs, MANY)
    return [lrs.callbacks.HyperparameterScheduler(learning_rate=schedule)]


def one_cycle(lrs, folder):
    return [lrs.callbacks.OneCycleScheduler(RATE)]


def one_cycle_logged(lrs, folder):
    return [*one_cycle(lrs, folder), lrs.callbacks.HyperparameterLogger()]


def one_cycle_logged_every_step(lrs, folder):
    logger = lrs.callbacks.HyperparameterLogger(every=1, log_dir=folder)
    return [*one_cycle(lrs, folder), logger]


def reduce_on_plateau(lrs, folder):
    return [lrs.callbacks.ReduceOnPlateau("loss")]


def hand_written(lrs, folder):
    return [hand_written_one_cycle()()]


def hand_written_logged(lrs, folder):
    class Logged(hand_written_one_cycle()):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.rates = []

        def on_train_batch_end(self, batch, logs=None):
            self.rates.append(float(self.model.optimizer.learning_rate))

    return [Logged()]


def hand_written_one_cycle():
    """1cycle as it is usually written: between the batches, in Python."""
    import keras

    class OneCycle(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.step = 0
            self.total = self.params["steps"] * self.params["epochs"]

        def on_train_batch_begin(self, batch, logs=None):
            peak = 0.3 * self.total
            if self.step < peak:
                bottom = RATE / 25.0
                height = (1.0 - math.cos(math.pi * self.step / peak)) / 2.0
            else:
                bottom = RATE / 25e4
                fallen = (self.step - peak) / (self.total - peak)
                height = (1.0 + math.cos(math.pi * fallen)) / 2.0
            optimizer = self.model.optimizer
            optimizer.learning_rate = bottom + (RATE - bottom) * height
            optimizer.beta_1 = 0.95 - 0.1 * height
            self.step += 1

    return OneCycle


def ours(workload, name, target=NOISE_FLOOR, **how):
    return Contender(workload, name, target=target, **how)


CONTENDERS = [
    Contender(ADAM, REFERENCE),
    Contender(ADAM, CONTROL),
    Contender(ADAM, "Keras: cosine with warmup", rate=keras_cosine),
    Contender(
        ADAM,
        "Keras: cosine restarts",
        rate=lambda keras, lrs: keras.CosineDecayRestarts(RATE, CYCLE_STEPS),
    ),
    Contender(ADAM, "Keras: piecewise, 100 boundaries", rate=keras_piecewise),
    ours(
        ADAM,
        "`Warmup(CosineAnnealing)`",
        rate=lambda keras, lrs: lrs.schedules.Warmup(
            lrs.schedules.CosineAnnealing(RATE, TOTAL_STEPS), WARMUP_STEPS
        ),
    ),
    ours(
        ADAM,
        "`CosineRestarts`",
        rate=lambda keras, lrs: lrs.schedules.CosineRestarts(
            RATE, CYCLE_STEPS, t_mul=2.0
        ),
    ),
    ours(
        ADAM,
        "`PiecewiseConstant`, 100 boundaries",
        rate=lambda keras, lrs: piecewise(lrs, 100),
    ),
    ours(
        ADAM,
        "`PiecewiseConstant`, 100,000 boundaries",
        rate=lambda keras, lrs: piecewise(lrs, MANY),
    ),
    ours(
        ADAM,
        "`HyperparameterScheduler`: `Warmup(CosineAnnealing)`",
        callbacks=scheduled,
    ),
    ours(
        ADAM,
        "`HyperparameterScheduler`: `PiecewiseConstant`, 100,000 boundaries",
        callbacks=scheduled_piecewise,
    ),
    ours(ADAM, "`OneCycleScheduler`: rate and `beta_1`", callbacks=one_cycle),
    ours(
        ADAM,
        "`OneCycleScheduler`, `HyperparameterLogger`",
        callbacks=one_cycle_logged,
    ),
    ours(
        ADAM,
        "`OneCycleScheduler`, `HyperparameterLogger(every=1)`",
        callbacks=one_cycle_logged_every_step,
        target=EVERY_STEP,
    ),
    ours(ADAM, '`ReduceOnPlateau("loss")`', callbacks=reduce_on_plateau),
    Contender(ADAM, "hand-written 1cycle", callbacks=hand_written),
    Contender(
        ADAM,
        "hand-written 1cycle, logging the rate",
        callbacks=hand_written_logged,
    ),
    Contender(SGD, REFERENCE),
    Contender(SGD, CONTROL),
    ours(SGD, "`OneCycleScheduler`: rate and `momentum`", callbacks=one_cycle),
    Contender(ADAMW, REFERENCE),
    Contender(ADAMW, CONTROL),
    Contender(ADAMW, "Keras: cosine with warmup", rate=keras_cosine),
    ours(
        ADAMW,
        "`HyperparameterScheduler`: `Warmup(CosineAnnealing)`",
        callbacks=scheduled,
    ),
]
FITS = [
    Contender(ADAM, REFERENCE),
    ours(
        ADAM,
        "`HyperparameterScheduler`: `Warmup(CosineAnnealing)`",
        callbacks=scheduled,
    ),
    ours(
        ADAM,
        "`HyperparameterScheduler`: `PiecewiseConstant`, 100,000 boundaries",
        callbacks=scheduled_piecewise,
    ),
]


# --- Measuring, in a process per configuration ----------------------------------------


class Trainee:
    """A model that is trained over and over."""

    def __init__(self, contender, configuration, folder):
        import keras

        import keras_lrs

        self.contender = contender
        self.configuration = configuration
        self.folder = folder
        self.renew_callbacks()
        rate = contender.rate(keras.optimizers.schedules, keras_lrs)
        self.model, optimizer = WORKLOADS[contender.workload](rate)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(optimizer, loss, **configuration.options)

    def renew_callbacks(self):
        """As if the program made new ones for its next fit."""
        import keras_lrs

        self.callbacks = self.contender.callbacks(keras_lrs, self.folder)

    def fit(self, data):
        """Seconds of the epoch, undisturbed, and of the call."""
        stopwatch = stopwatch_of(self.model)
        callbacks = [*self.callbacks, stopwatch]
        start = time.perf_counter()
        self.model.fit(**data, callbacks=callbacks, verbose=0)
        seconds = time.perf_counter() - start
        return stopwatch.seconds(self.configuration.interval), seconds


def stopwatch_of(model):
    """A callback that comes last and has no batch hooks, which would end asynchrony."""
    import keras

    class Stopwatch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.starts = []
            self.function = model.train_function

            def started(*arguments):
                self.starts.append(time.perf_counter())
                return self.function(*arguments)

            model.train_function = started

        def on_epoch_end(self, epoch, logs=None):
            model.train_function = self.function
            synchronize(model)
            self.end = time.perf_counter()

        def seconds(self, interval):
            """Every execution as long as the median; then the end of the epoch."""
            starts = np.array(self.starts)
            interval = min(interval, len(starts) - 1)
            typical = np.median(starts[interval:] - starts[:-interval]) / interval
            return typical * (len(starts) - 1) + self.end - starts[-1]

    return Stopwatch()


def synchronize(model):
    """Waits until the device has made the last step.

    TensorFlow has, once the metrics have been read.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready([v.value for v in model.trainable_variables])
    elif keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def data(steps, shape=(NUM_FEATURES,), batch_size=BATCH_SIZE):
    """What `fit` is given; where there is a choice, the input that costs least."""
    import keras

    random = np.random.default_rng(0)
    size = steps * batch_size
    x = random.normal(size=(size, *shape)).astype("float32")
    y = random.integers(0, NUM_CLASSES, size)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        batch = x[:batch_size], y[:batch_size]
        dataset = tf.data.Dataset.from_tensors(batch).repeat(steps)
        return {"x": dataset, "shuffle": False}
    return {"x": x, "y": y, "batch_size": batch_size, "shuffle": False}


def measured(configuration, size, contenders=CONTENDERS, fits=FITS):
    """Samples of one configuration: seconds per step, and per fit."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        return {
            "fits": fit_seconds(configuration, size, fits, folder),
            "steps": step_seconds(configuration, size, contenders, folder),
        }


def step_seconds(configuration, size, contenders, folder, inputs=None):
    """All contenders once per round, in another order each time.

    `inputs` are what `fit` is given, unless the data are those of this program.
    """
    trainees = [
        Trainee(contender, configuration, folder / str(index))
        for index, contender in enumerate(contenders)
    ]
    if inputs is None:
        inputs = data(configuration.steps)
    for trainee in trainees:
        for _ in range(NUM_WARMUPS):
            trainee.fit(inputs)
    samples = [[] for _ in trainees]
    order = list(range(len(trainees)))
    shuffle = random.Random(0).shuffle
    end = time.monotonic() + size.seconds
    gc.disable()
    while len(samples[0]) < size.rounds or time.monotonic() < end:
        shuffle(order)
        gc.collect()
        for index in order:
            seconds, _ = trainees[index].fit(inputs)
            samples[index].append(seconds / configuration.steps)
    gc.enable()
    found = {}
    for contender, seconds in zip(contenders, samples, strict=True):
        found.setdefault(contender.workload, {})[contender.name] = seconds
    return found


def fit_seconds(configuration, size, contenders, folder):
    """Whole fits of new models: the first one of each, and the later ones."""
    inputs = data(SHORT_STEPS)
    # The first of all fills Keras's caches.
    Trainee(contenders[0], configuration, folder).fit(inputs)
    found = {contender.name: {"first": [], "later": []} for contender in contenders}
    for _ in range(size.fresh):
        trainees = [
            Trainee(contender, configuration, folder) for contender in contenders
        ]
        for which in ["first"] + ["later"] * LATER_FITS:
            for trainee in trainees:
                trainee.renew_callbacks()
                _, seconds = trainee.fit(inputs)
                found[trainee.contender.name][which].append(seconds)
    return found


def measured_in_a_process(name, quick):
    print(f"Measuring training steps on {name} ...", file=sys.stderr)
    arguments = ["--measure", name] + ["--quick"] * quick
    return run(__file__, CONFIGURATIONS[name].backend, arguments)


def run(program, backend, arguments, environment=ONE_THREAD):
    """What a program measures in a process of its own, with one backend."""
    own = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, program, *arguments],
        env={**os.environ, **environment, **own},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


# --- The tables -----------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """To the reference: the quartiles of all rounds', and that of the minima."""

    low: float
    median: float
    high: float
    minimum: float

    @classmethod
    def of(cls, samples, reference):
        """That of paired samples."""
        quartiles = np.quantile(np.divide(samples, reference), [0.25, 0.5, 0.75])
        return cls(*quartiles.tolist(), min(samples) / min(reference))

    def cell(self, verbose):
        """What a table shows of it."""
        quartiles = f" [{self.low:.2f}-{self.high:.2f}]" * verbose
        return f"{self.median:.2f}{quartiles} ({self.minimum:.2f})"

    def excess(self, target, control=None):
        """By how much the median and the minimum are above, less the control's error.

        What is real shows in both.
        """
        excess = [self.median - target, self.minimum - target]
        if control is not None:
            excess[0] -= abs(control.median - 1.0)
            excess[1] -= abs(control.minimum - 1.0)
        return min(excess)


def markdown(results, verbose=False, contenders=CONTENDERS):
    """All that is said of training steps; results by configuration."""
    lengths = sorted({found.steps for found in CONFIGURATIONS.values()})
    epochs = f"{lengths[0]} to {lengths[-1]} steps"
    return "\n\n".join(
        [
            TITLE,
            "What `model.fit` takes per step, as a ratio to the same model with a "
            "constant rate.",
            steps_table(results, verbose, contenders),
            "Medians of the ratios within a round"
            + (" [quartiles in brackets]" * verbose)
            + ", and in parentheses the ratio of the fastest epochs, which other "
            "programs disturb least. In a round every model is trained for an epoch of "
            f"{epochs}, in random order; each execution counts as the median one, and "
            "what callbacks do when the epoch ends is added. A second model with a "
            "constant rate shows the noise: a target is missed if both the median and "
            "the minimum are above it by more than this model is off 1.",
            "Layers are dense: 64-128-10, or 21 of width 64; batches are of 32 and in "
            "memory; one thread per library. `HyperparameterLogger(every=1)` writes "
            "two scalars per step. The hand-written callback sets `learning_rate` and "
            "`beta_1` in `on_train_batch_begin`, as is often seen; in a compiled step "
            "the `beta_1` half does nothing, and with several steps per execution the "
            "rate changes once per execution.",
            "## A call of `fit`",
            fits_table(results),
            f"Whole calls with {SHORT_STEPS} steps: medians (minima). A new model's "
            "first one compiles. The later ones have new callbacks with equal "
            "schedules, and compile nothing; what is longer is the work when `fit` "
            "begins, such as checking and binding 100,000 boundaries.",
        ]
    )


def steps_table(results, verbose, contenders):
    found = {
        configuration: {
            workload: {
                name: Ratio.of(seconds, samples[REFERENCE])
                for name, seconds in samples.items()
            }
            for workload, samples in result["steps"].items()
        }
        for configuration, result in results.items()
    }
    rows = []
    for contender in contenders:
        workload, name = contender.workload, contender.name
        if name == REFERENCE:
            cells = [
                microseconds(result["steps"][workload][name])
                for result in results.values()
            ]
            rows.append([f"**{workload}: {REFERENCE}, us**", *cells, "", ""])
        else:
            cells = [ratios[workload][name].cell(verbose) for ratios in found.values()]
            rows.append([name, *cells, *target_cells(contender, found)])
    counts = [
        str(len(next(iter(result["steps"].values()))[REFERENCE]))
        for result in results.values()
    ]
    rows.append(["rounds", *counts, "", ""])
    return table(["", *results, "target", ""], rows)


def microseconds(samples):
    return f"{1e6 * statistics.median(samples):.0f} ({1e6 * min(samples):.0f})"


def target_cells(contender, found):
    """The target, and where it is missed."""
    if contender.target is None:
        return ["", ""]
    target = contender.target
    missed, within = [], False
    for configuration, workloads in found.items():
        ratio = workloads[contender.workload][contender.name]
        control = workloads[contender.workload][CONTROL]
        within |= ratio.excess(target) > 0.0
        if ratio.excess(target, control) > 0.0:
            missed.append(configuration)
    if missed:
        return [f"{target:g}", f"not met: {', '.join(missed)}"]
    return [f"{target:g}", "met within noise" if within else "met"]


def fits_table(results):
    rows = []
    for which in ("first", "later"):
        for name in next(iter(results.values()))["fits"]:
            cells = [
                milliseconds(found["fits"][name][which]) for found in results.values()
            ]
            rows.append([f"{which}: {name}", *cells])
    return table(["ms", *results], rows)


def milliseconds(samples):
    return f"{1e3 * statistics.median(samples):.0f} ({1e3 * min(samples):.0f})"


# --- The program ----------------------------------------------------------------------


def main(arguments=None):
    arguments = parsed_arguments(arguments)
    if arguments.measure:
        configuration = CONFIGURATIONS[arguments.measure]
        print(json.dumps(measured(configuration, SIZES[arguments.quick])))
        return
    results = {
        name: measured_in_a_process(name, arguments.quick)
        for name, configuration in CONFIGURATIONS.items()
        if configuration.backend in arguments.backends
    }
    part = markdown(results, arguments.verbose)
    print(part)
    if arguments.output:
        write_part(arguments.output, part)


def parsed_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--verbose", action="store_true", help="with quartiles")
    parser.add_argument("--output", type=pathlib.Path, help="a file for the tables")
    parser.add_argument("--measure", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
