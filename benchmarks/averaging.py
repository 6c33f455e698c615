"""Measures what averaging the weights adds to a training step, and its memory.

    python benchmarks/averaging.py [--backends tensorflow jax torch] [--quick]
                                   [--output docs/performance.md]

Models whose step does little but update their weights are trained in turn, a few steps
each: without an average, with Keras's `use_ema`, with `WeightAveraging`, and on PyTorch
with the averages of `torch` and `ema-pytorch` in a callback. What each adds is divided
by the time in which this machine adds two arrays of the weights' size in place: as much
has to be read and written. Every backend is measured in a process of its own, and so is
the memory of each contender.
"""

import argparse
import concurrent.futures
import functools
import importlib.util
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time

import intervals
import numpy as np
from intervals import Estimate
from report import add_outputs, aim_cell, aims_part, publish, table
from steps import synchronize, wait_for

TITLE = "# Performance of averages"
PLAIN, AGAIN = "none", "none, again"
EMA, OURS = "Keras's `use_ema`", "`WeightAveraging`"
IN_STEP = "`Averager` in `train_step`"
TORCH, EMA_PYTORCH = "torch's `AveragedModel`", "ema-pytorch"
# Tensors, and floats in each.
WORKLOADS = {
    "100 M floats, one tensor": (1, 10**8),
    "10 M floats in 200": (200, 50_000),
    "1 M floats in 200": (200, 5_000),
}
CONFIGURATIONS = {
    "TensorFlow": ("tensorflow", False),
    "TensorFlow XLA": ("tensorflow", True),
    "JAX": ("jax", True),
    "PyTorch": ("torch", False),
}
# Of the limit, with 100 M floats in one tensor, with 10 M in 200, and with 1 M.
TARGETS = {
    "TensorFlow": (1.7, None, None),
    "TensorFlow XLA": (1.1, None, None),
    "PyTorch": (1.2, 1.3, 3.7),
}
ROUNDS = {False: 5, True: 2}
STEPS = 4
BACKENDS = ("tensorflow", "jax", "torch")


# --- The step -------------------------------------------------------------------------


def contenders(backend):
    found = [PLAIN, AGAIN, EMA, OURS, IN_STEP]
    if backend == "torch":
        found.append(TORCH)
        if importlib.util.find_spec("ema_pytorch") is not None:
            found.append(EMA_PYTORCH)
    return found


def trainer(name, workload, jit_compile):
    """A function that trains for some steps and returns the seconds of each."""
    import keras

    from keras_lrs.averages import Averager, ExponentialAverage
    from keras_lrs.callbacks import WeightAveraging

    average = ExponentialAverage(0.999, debias=False)
    count, size = WORKLOADS[workload]

    class Weights(keras.Model):
        def __init__(self):
            super().__init__()
            self.tensors = [
                self.add_weight(shape=(size,), initializer="ones") for _ in range(count)
            ]

        def call(self, inputs):
            total = sum(keras.ops.sum(tensor) for tensor in self.tensors)
            return keras.ops.mean(inputs) * total

    class Averaged(Weights):
        def __init__(self):
            super().__init__()
            self.averager = Averager(self.tensors, average)

        def train_step(self, *state_and_data):
            found = super().train_step(*state_and_data)
            if keras.backend.backend() == "jax":  # There variables are in the state.
                logs, state = found
                return logs, self.averager.update_state(self, state)
            self.averager.update()
            return found

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            synchronize(self.model)
            self.seconds.append(time.perf_counter() - self.start)

    model, clock = (Averaged if name == IN_STEP else Weights)(), Clock()
    model(np.ones((1, 1), "float32"))
    model.compile(
        keras.optimizers.SGD(1e-6, use_ema=name == EMA, ema_momentum=0.999),
        lambda y, prediction: prediction,
        jit_compile=jit_compile,
    )
    callbacks = [clock]
    if name == OURS:
        callbacks.append(WeightAveraging(average, at_end="raw"))
    elif name in (TORCH, EMA_PYTORCH):
        callbacks.insert(0, eager_average(name, model))
    x = np.ones((STEPS + 1, 1), "float32")

    def train():
        clock.seconds = []
        if name == EMA:
            # On JAX it fails in a second `fit`: weight and average are one array.
            for variable in model.optimizer.variables:
                variable.assign(np.array(keras.ops.convert_to_numpy(variable)))
        model.fit(x, x, batch_size=1, verbose=0, callbacks=callbacks)
        return clock.seconds[1:]  # The first one may compile.

    return train


def eager_average(name, model):
    """A callback that averages after each step, as PyTorch's users do."""
    import keras
    import torch

    if name == TORCH:
        # It copies a module deeply, which a Keras model is not made for.
        module = torch.nn.Module()
        module.tensors = torch.nn.ParameterList([v.value for v in model.variables])
        average = torch.optim.swa_utils.AveragedModel(
            module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
        )
        update = functools.partial(average.update_parameters, module)
    else:
        import ema_pytorch

        module = torch.nn.Module()
        module.tensors = torch.nn.ParameterList([v.value for v in model.variables])
        average = ema_pytorch.EMA(
            module, beta=0.999, update_after_step=-1, update_every=1
        )
        update = average.update

    class Average(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            update()

    return Average()


def limit(size):
    """A function that adds two arrays in place, on all cores; returns seconds."""
    arrays = [
        np.ones((2, size // os.cpu_count()), "float32") for _ in range(os.cpu_count())
    ]
    pool = concurrent.futures.ThreadPoolExecutor(len(arrays))

    def add():
        start = time.perf_counter()
        list(pool.map(lambda pair: np.add(*pair, out=pair[0]), arrays))
        return [time.perf_counter() - start]

    return add


def device_limit(size):
    """The same on the device, which adds often: once may be too short to be timed."""
    from keras import ops

    add, total, ones = device_addition(), ops.zeros((size,)), ops.ones((size,))
    repeats = 20

    def add_often():
        nonlocal total
        wait_for([total])
        start = time.perf_counter()
        for _ in range(repeats):
            total = add(total, ones)
        wait_for([total])
        return [(time.perf_counter() - start) / repeats]

    return add_often


def device_addition():
    """A function that adds in place, as far as the backend can."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(lambda total, more: total + more, donate_argnums=0)
    if keras.backend.backend() == "torch":
        import torch

        return torch.Tensor.add_
    import tensorflow as tf

    return tf.function(lambda total, more: total + more, jit_compile=True)


def measured(configuration, quick):
    """Seconds: `{workload: {contender: one per round}}`."""
    return {
        workload: update_seconds(configuration, workload, ROUNDS[quick])
        for workload, (count, _) in WORKLOADS.items()
        if not (quick and count == 1)
    }


def update_seconds(configuration, workload, rounds, end=-math.inf, make_limit=limit):
    """Seconds of a step of all contenders, in turn.

    There are so many rounds, and more until `end`.
    """
    backend, jit_compile = CONFIGURATIONS[configuration]
    count, size = WORKLOADS[workload]
    trainers = {
        name: trainer(name, workload, jit_compile) for name in contenders(backend)
    }
    trainers["limit"] = make_limit(count * size)
    for train in trainers.values():
        train()
    found = {name: [] for name in trainers}
    while len(found[PLAIN]) < rounds or time.monotonic() < end:
        for name, train in trainers.items():
            found[name].append(statistics.median(train()))
    return found


# --- Memory ---------------------------------------------------------------------------


def peak(configuration, name):
    """The most memory that a process had which trained with 25 M floats, in bytes."""
    WORKLOADS["memory"] = (1, 25 * 10**6)
    trainer(name, "memory", CONFIGURATIONS[configuration][1])()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- The tables -----------------------------------------------------------------------


def markdown(times, peaks):
    parts = [TITLE]
    parts.append("## Time of one update of the average, relative to the memory limit")
    parts += [updates_table(workload, times) for workload in WORKLOADS]
    parts.append(
        "Each cell is the time that an average adds to a step, divided by the time in "
        "which this machine adds two arrays of the weights' size in place. Both read "
        "and write the same amount of memory. The cell is the median of rounds in "
        "which all models took turns, with its 95 % interval. The first row shows the "
        "noise: it is a second model without an average."
    )
    parts.append("## Memory, relative to the size of the weights")
    rows = [
        [name, *(f"{(p[name] - p[PLAIN]) / 1e8:.1f}" for p in peaks.values())]
        for name in (EMA, OURS)
    ]
    parts.append(table(["100 MB of weights", *peaks], rows))
    parts.append(
        "Each cell is the largest resident set of a process that trains for one whole "
        "epoch, minus that of a process without an average, divided by the size of the "
        "weights. The average itself accounts for 1. A swap copies one tensor at a "
        "time, and here there is only one."
    )
    return "\n\n".join(parts)


def updates_table(workload, times):
    """A row for every contender, and a column for every configuration."""
    rows = [
        [name, *(ratio_cell(of.get(workload, {}), name) for of in times.values())]
        for name in (AGAIN, EMA, OURS, IN_STEP, TORCH, EMA_PYTORCH)
    ]
    return table([workload, *times], rows)


def excess(found, name):
    """What a contender adds, over the limit, in every round."""
    return [
        (with_average - plain) / bound
        for with_average, plain, bound in zip(
            found[name], found[PLAIN], found["limit"], strict=True
        )
    ]


def estimates(found):
    """What every contender adds to one workload, over the limit."""
    names = [name for name in found if name not in (PLAIN, "limit")]
    return {name: Estimate.of(excess(found, name)) for name in names}


def ratio_cell(found, name):
    return Estimate.of(excess(found, name)).cell() if name in found else "-"


def aims_of(times):
    """The aims of `WeightAveraging`, and whether they were met."""
    rows = [
        (
            workload,
            {
                name: aim(estimates(found[workload]), TARGETS[name][index])
                for name, found in times.items()
                if name in TARGETS and workload in found
            },
        )
        for index, workload in enumerate(WORKLOADS)
    ]
    return aims_part(TITLE, list(times), rows)


def aim(found, target):
    if target is None:
        return ""
    return aim_cell(found[OURS], target, intervals.noise(found[AGAIN], neutral=0.0))


# --- The program ----------------------------------------------------------------------


def in_a_process(configuration, *arguments):
    backend, _ = CONFIGURATIONS[configuration]
    output = subprocess.run(
        [sys.executable, __file__, "--measure", configuration, *arguments],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    add_outputs(parser)
    parser.add_argument("--measure", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args(arguments)
    if arguments.measure:
        if arguments.peak:
            print(json.dumps(peak(arguments.measure, arguments.peak)))
        else:
            print(json.dumps(measured(arguments.measure, arguments.quick)))
        return
    chosen = [c for c, (b, _) in CONFIGURATIONS.items() if b in arguments.backends]
    quick = ["--quick"] if arguments.quick else []
    times = {name: in_a_process(name, *quick) for name in chosen}
    peaks = {
        name: {
            contender: in_a_process(name, "--peak", contender)
            for contender in (PLAIN, EMA, OURS)
        }
        for name in chosen
    }
    found = {
        "seconds": times,
        "ratios": {
            name: {workload: estimates(samples) for workload, samples in of.items()}
            for name, of in times.items()
        },
        "bytes": peaks,
    }
    publish(__file__, arguments, markdown(times, peaks), found, aims_of(times))


if __name__ == "__main__":
    main()
