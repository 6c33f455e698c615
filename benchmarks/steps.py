"""Measures what schedules and callbacks add to a training step, and prints tables.

    python benchmarks/steps.py [--backends tensorflow jax torch] [--quick]
                               [--output docs/performance.md]

Small models are trained by `model.fit`, turn and turn about. They differ in what sets
the learning rate, or averages the weights, and in nothing else; the one with a constant
rate is the reference. Every configuration is measured in a process of its own. The
tables are Markdown; they replace those in the output.
"""

import argparse
import dataclasses
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
from dataclasses import dataclass, field
from typing import Any

import intervals
import numpy as np
from contenders import boundaries, values
from report import add_outputs, aim_cell, aims_part, environment, publish, table

TITLE = "# A training step"
BACKENDS = ("tensorflow", "jax", "torch")
BATCH_SIZE = 32
NUM_FEATURES, NUM_CLASSES = 64, 10
RATE = 1e-3
WARMUP_STEPS, TOTAL_STEPS, CYCLE_STEPS = 500, 100_000, 500
MANY = 100_000
MOMENTUM = 0.999  # Of averages.
# Aims: ratios to a constant rate, apart from the noise.
SCHEDULED = 1.00
ONE_CYCLE = 1.02
EVERY_STEP = 1.05  # A scalar per step and hyperparameter, written to a file.
SMALL_AVERAGE, AVERAGE = 1.05, 1.15  # With 4 variables, and with 42.


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


SIZES = {False: Size(80.0, 15, 3), True: Size(0.0, 3, 1)}
NUM_WARMUPS = 2
SHORT_STEPS = 32  # Of the fits that are timed as a whole.
LATER_FITS = 4


# --- What is compared -----------------------------------------------------------------


def adam(rate, **options):
    import keras

    return network([128], keras.optimizers.Adam(rate, **options))


def sgd(rate, **options):
    import keras

    return network([128], keras.optimizers.SGD(rate, momentum=0.9, **options))


def adamw(rate, **options):
    import keras

    return network([64] * 20, keras.optimizers.AdamW(rate, **options))


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
# By how much shorter an epoch is, so that it takes about as long as with 4 variables.
SHORTER = {ADAMW: 3}
REFERENCE, CONTROL = "constant", "constant, again"
NOT_MEASURED = "not measured"


def constant(keras, lrs):
    return RATE


def no_callbacks(lrs, folder):
    return []


def unchanged(optimizer, lrs):
    return optimizer


@dataclass(frozen=True)
class Contender:
    """One way to set the rate.

    Attributes:
        workload: The model and its optimizer.
        name: What the tables call it.
        rate: What the optimizer is given; from `keras.optimizers.schedules` and
            `keras_lrs`.
        callbacks: What `fit` is given; from `keras_lrs` and a folder to write into.
        options: What else the optimizer is given.
        wrapped: The optimizer that the model is compiled with; from the one of the
            workload and `keras_lrs`.
        target: The largest ratio to the constant rate, if it is ours.
        leads: Whether the row is in the first table.
    """

    workload: str
    name: str
    rate: Callable[[Any, Any], Any] = constant
    callbacks: Callable[[Any, pathlib.Path], list] = no_callbacks
    options: dict[str, Any] = field(default_factory=dict)
    wrapped: Callable[[Any, Any], Any] = unchanged
    target: float | None = None
    leads: bool = False


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


def averaged(lrs, folder):
    average = lrs.averages.ExponentialAverage(MOMENTUM)
    return [lrs.callbacks.WeightAveraging(average, at_end="raw")]


def long_warmup_and_cosine(keras, lrs):
    """Of a length of its own, for an optimizer that knows no `fit`."""
    cosine = lrs.schedules.CosineAnnealing(RATE, TOTAL_STEPS)
    return lrs.schedules.Warmup(cosine, WARMUP_STEPS)


def hosted(optimizer, lrs):
    return lrs.optimizers.Scheduled(optimizer, long_warmup_and_cosine(None, lrs))


def separate_averages(lrs, folder):
    """Lets a model with `use_ema` be trained twice.

    Keras ends a `fit` with weights and averages in the same arrays, which JAX refuses
    to donate twice. This is undone when the next one begins, before the epoch is timed.
    """
    import keras

    class Separate(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            for variable in self.model.optimizer.variables:
                variable.assign(np.array(keras.ops.convert_to_numpy(variable)))

    return [Separate()]


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


def ours(workload, name, target=SCHEDULED, **how):
    return Contender(workload, name, target=target, **how)


def leading(workload, averaging):
    """The rows of the first table for one workload; `averaging` is an average's aim."""
    found = [
        Contender(workload, REFERENCE),
        Contender(workload, CONTROL),
        ours(workload, "`Warmup(CosineAnnealing)`", rate=long_warmup_and_cosine),
        ours(workload, "`optimizers.Scheduled`", wrapped=hosted),
        Contender(workload, "Keras: cosine with warmup", rate=keras_cosine),
        ours(
            workload,
            "`HyperparameterScheduler`: `Warmup(CosineAnnealing)`",
            callbacks=scheduled,
        ),
        ours(
            workload,
            "`OneCycleScheduler`: rate and `beta_1`",
            ONE_CYCLE,
            callbacks=one_cycle,
        ),
        Contender(workload, "hand-written 1cycle", callbacks=hand_written),
        ours(workload, '`ReduceOnPlateau("loss")`', callbacks=reduce_on_plateau),
        ours(workload, "`WeightAveraging`", averaging, callbacks=averaged),
        Contender(
            workload,
            "Keras: `use_ema`",
            callbacks=separate_averages,
            options={"use_ema": True, "ema_momentum": MOMENTUM},
        ),
    ]
    return [dataclasses.replace(each, leads=True) for each in found]


CONTENDERS = [
    *leading(ADAM, averaging=SMALL_AVERAGE),
    *leading(ADAMW, averaging=AVERAGE),
    ours(
        ADAM,
        "`CosineRestarts`",
        rate=lambda keras, lrs: lrs.schedules.CosineRestarts(
            RATE, CYCLE_STEPS, t_mul=2.0
        ),
    ),
    Contender(
        ADAM,
        "Keras: cosine restarts",
        rate=lambda keras, lrs: keras.CosineDecayRestarts(RATE, CYCLE_STEPS),
    ),
    ours(
        ADAM,
        "`PiecewiseConstant`, 100 boundaries",
        rate=lambda keras, lrs: piecewise(lrs, 100),
    ),
    Contender(ADAM, "Keras: piecewise, 100 boundaries", rate=keras_piecewise),
    ours(
        ADAM,
        "`PiecewiseConstant`, 100,000 boundaries",
        rate=lambda keras, lrs: piecewise(lrs, MANY),
    ),
    ours(
        ADAM,
        "`HyperparameterScheduler`: `PiecewiseConstant`, 100,000 boundaries",
        callbacks=scheduled_piecewise,
    ),
    ours(
        ADAM,
        "`OneCycleScheduler`, `HyperparameterLogger`",
        ONE_CYCLE,
        callbacks=one_cycle_logged,
    ),
    ours(
        ADAM,
        "`OneCycleScheduler`, `HyperparameterLogger(every=1)`",
        callbacks=one_cycle_logged_every_step,
        target=EVERY_STEP,
    ),
    Contender(
        ADAM,
        "hand-written 1cycle, logging the rate",
        callbacks=hand_written_logged,
    ),
    Contender(SGD, REFERENCE),
    Contender(SGD, CONTROL),
    ours(
        SGD,
        "`OneCycleScheduler`: rate and `momentum`",
        ONE_CYCLE,
        callbacks=one_cycle,
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
        make = WORKLOADS[contender.workload]
        self.model, optimizer = make(rate, **contender.options)
        optimizer = contender.wrapped(optimizer, keras_lrs)
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
    """Waits until the device has made the last step."""
    wait_for([variable.value for variable in model.trainable_variables])


def wait_for(arrays):
    """Waits until the device has computed them; where it can, all that it was told."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.test.experimental.sync_devices()
    elif keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready(arrays)
    else:
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


def step_seconds(configuration, size, contenders, folder, inputs=None, end=None):
    """All contenders once per round, in another order each time.

    `inputs` are what `fit` is given, unless the data are those of this program. The
    last round begins before `end`, or when `size.seconds` have passed since the setup.
    """
    lengths = [length(configuration, contender.workload) for contender in contenders]
    trainees = [
        Trainee(contender, configuration, folder / str(index))
        for index, contender in enumerate(contenders)
    ]
    made = {steps: inputs or data(steps) for steps in set(lengths)}
    for trainee, steps in zip(trainees, lengths, strict=True):
        for _ in range(NUM_WARMUPS):
            trainee.fit(made[steps])
    samples = [[] for _ in trainees]
    order = list(range(len(trainees)))
    shuffle = random.Random(0).shuffle
    end = time.monotonic() + size.seconds if end is None else end
    gc.disable()
    while len(samples[0]) < size.rounds or time.monotonic() < end:
        shuffle(order)
        gc.collect()
        for index in order:
            seconds, _ = trainees[index].fit(made[lengths[index]])
            samples[index].append(seconds / lengths[index])
    gc.enable()
    found = {}
    for contender, seconds in zip(contenders, samples, strict=True):
        found.setdefault(contender.workload, {})[contender.name] = seconds
    return found


def length(configuration, workload):
    """The steps of an epoch: whole executions, and at least two to time one."""
    each = configuration.options.get("steps_per_execution", 1)
    executions = configuration.steps // each // SHORTER.get(workload, 1)
    return max(executions, 2) * each


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
    pipe = {"stdout": subprocess.PIPE, "text": True, "check": True}
    done = process(program, backend, arguments, environment, **pipe)
    return json.loads(done.stdout.splitlines()[-1])


def process(program, backend, arguments, environment, **options):
    """Runs a program with one backend; the options are those of `subprocess.run`."""
    own = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, program, *arguments],
        env={**os.environ, **environment, **own},
        **options,
    )


# --- The tables -----------------------------------------------------------------------


def markdown(results, contenders=CONTENDERS):
    """All that is said of training steps; results by configuration."""
    counts = [
        len(samples[REFERENCE])
        for result in results.values()
        for samples in result["steps"].values()
    ]
    workloads = {c.workload for c in contenders}
    return "\n\n".join(
        [
            TITLE,
            "The table shows how long a step of `model.fit` takes, as a ratio to the "
            "same model with a constant rate. A schedule at 1.00 costs nothing. The "
            'row "constant, again" is a second model with a constant rate, and shows '
            "the noise: a row that is no further from 1 than this one may cost "
            "nothing.",
            steps_table(results, [c for c in contenders if c.leads]),
            f"Each cell is the median of {min(counts)} or more rounds, with its 95 % "
            "interval (bootstrap). In a round, every model is trained for one epoch, "
            "in random order, and its time is divided by that of the constant rate in "
            "the same round. The time of an epoch is the number of executions times "
            "the median time of one, plus the time of the callbacks at the end of the "
            f"epoch. An epoch has {described_lengths(workloads)}.",
            "The layers are dense: 64-128-10 (4 variables), or 21 of width 64 (42 "
            "variables). Batches of 32 samples are in memory, and each library has one "
            "thread. `optimizers.Scheduled` needs no `fit`. The hand-written callback "
            "sets `learning_rate` and `beta_1` in `on_train_batch_begin`, as is often "
            "seen; in a compiled step the `beta_1` half does nothing, and with several "
            "steps per execution the rate changes once per execution. "
            "`WeightAveraging` and `use_ema` keep an exponential average of the "
            "weights.",
            environment(),
            "## More schedules, and logging",
            steps_table(results, [c for c in contenders if not c.leads]),
            "These models were trained in the same rounds as those above. "
            "`HyperparameterLogger(every=1)` writes two scalars per step.",
            "## A call of `fit`",
            fits_table(results),
            f"Each cell is the median time of a whole call with {SHORT_STEPS} steps, "
            "with the minimum in parentheses. The first call of a new model compiles. "
            "The later calls have new callbacks with equal schedules and compile "
            "nothing; what they add is work at the beginning of `fit`, such as "
            "checking and binding 100,000 boundaries.",
        ]
    )


def described_lengths(workloads):
    """The shortest and the longest epoch, in words."""
    lengths = [length(c, w) for c in CONFIGURATIONS.values() for w in workloads]
    return f"{min(lengths)} to {max(lengths)} steps, about a tenth of a second"


def steps_table(results, contenders):
    """Rows of ratios, below the time of the constant rate of each workload."""
    found = by_configuration(results)
    rows, seen = [], set()
    for contender in contenders:
        workload, name = contender.workload, contender.name
        if workload not in seen:
            cells = [
                duration(result["steps"][workload][REFERENCE])
                if workload in result["steps"]
                else NOT_MEASURED
                for result in results.values()
            ]
            rows.append([f"**{workload}: {REFERENCE}**", *cells])
            seen.add(workload)
        if name != REFERENCE:
            cells = [
                of[workload][name].cell() if workload in of else NOT_MEASURED
                for of in found.values()
            ]
            rows.append([name, *cells])
    return table(["", *results], rows)


def by_configuration(results):
    """Estimates of all ratios: by configuration, workload and name."""
    return {
        configuration: {
            workload: intervals.ratios(samples, REFERENCE)
            for workload, samples in result["steps"].items()
        }
        for configuration, result in results.items()
    }


def aims_of(results, contenders=CONTENDERS, title=TITLE):
    """The aims of our rows, and whether they were met."""
    found = by_configuration(results)
    rows = [
        (
            f"{contender.workload}: {contender.name}",
            {
                configuration: aim_cell(
                    of[contender.workload][contender.name],
                    contender.target,
                    intervals.noise(of[contender.workload][CONTROL]),
                )
                for configuration, of in found.items()
                if contender.workload in of
            },
        )
        for contender in contenders
        if contender.target is not None
    ]
    return aims_part(title, list(results), rows)


def duration(samples):
    """The median of some seconds, in a unit that suits it."""
    microseconds = 1e6 * statistics.median(samples)
    if microseconds < 10_000:
        return f"{microseconds:.0f} us"
    return f"{microseconds / 1e3:.1f} ms"


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
    found = {"seconds": results, "ratios": by_configuration(results)}
    publish(__file__, arguments, markdown(results), found, aims_of(results))


def parsed_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    add_outputs(parser)
    parser.add_argument("--measure", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
