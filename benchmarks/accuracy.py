"""Relative errors in float32, compiled, against float64 formulas written here."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from contenders import CYCLE_STEPS, RATE, RESTARTS, Row, cosine_cycles, schedules

HORIZON = 2**31 - 1
EXACT_FLOATS = 2**24  # Beyond it a float32 skips integers.
NUM_RESTARTS = 21  # Up to the horizon, doubling from CYCLE_STEPS.


@dataclass(frozen=True)
class Case:
    """One schedule, its reference, and the steps at which they are compared."""

    row: Row
    reference: Callable[[np.ndarray], np.ndarray]
    probes: np.ndarray


def cosine_case(decay_steps):
    def reference(steps):
        return RATE * np.sin(np.pi / 2 * ((decay_steps - steps) / decay_steps)) ** 2

    return Case(
        Row(
            f"cosine over {decay_steps:,} steps",
            ours=lambda lrs: lrs.CosineAnnealing(RATE, decay_steps),
            keras=lambda keras: keras.CosineDecay(RATE, decay_steps),
            optax=lambda optax: optax.cosine_decay_schedule(RATE, decay_steps),
        ),
        reference,
        probes(decay_steps),
    )


def exponential_case(decay_rate, num_steps):
    def reference(steps):
        return RATE * np.exp(steps * np.log(decay_rate))

    return Case(
        Row(
            f"exponential, {decay_rate} per step, {num_steps:,} steps",
            ours=lambda lrs: lrs.ExponentialDecay(RATE, 1, decay_rate),
            keras=lambda keras: keras.ExponentialDecay(RATE, 1, decay_rate),
            optax=lambda optax: optax.exponential_decay(RATE, 1, decay_rate),
        ),
        reference,
        probes(num_steps),
    )


def restarts_case():
    starts = restart_steps(0)

    def reference(steps):
        cycle = np.searchsorted(starts, steps, side="right") - 1
        length = CYCLE_STEPS * 2**cycle
        remaining = length - (steps - starts[cycle])
        return RATE * np.sin(np.pi / 2 * (remaining / length)) ** 2

    cycles = cosine_cycles(CYCLE_STEPS, 2, NUM_RESTARTS + 1)
    # The last one would end beyond int32, in which optax counts.
    cycles[-1]["decay_steps"] = HORIZON - int(starts[-1])
    row = dataclasses.replace(
        RESTARTS,
        name=f"restarts, first cycle {CYCLE_STEPS:,}, t_mul=2",
        optax=lambda optax: optax.sgdr_schedule(cycles),
    )
    return Case(
        row,
        reference,
        np.union1d(probes(int(starts[-1])), around(restart_steps(1), 1)),
    )


def restart_steps(first):
    """The steps at which cycle `first` and the later ones start."""
    return CYCLE_STEPS * (2 ** np.arange(first, NUM_RESTARTS + 1) - 1)


def around(steps, distance):
    offsets = np.arange(-distance, distance + 1)
    return (np.asarray(steps)[:, None] + offsets).ravel()


def probes(num_steps):
    """Both ends, 1,000 steps each; around 2**24; 1,000 random steps."""
    random = np.random.default_rng(0).integers(0, num_steps, 1_000)
    steps = np.concatenate(
        [
            np.arange(1_000),
            np.arange(num_steps - 1_000, num_steps),
            around([EXACT_FLOATS], 50),
            random,
        ]
    )
    return np.unique(steps[steps < num_steps])


CASES = [
    cosine_case(100_000),
    cosine_case(10**9 + 7),
    restarts_case(),
    exponential_case(0.999999, 1_000_000),
    exponential_case(0.99999999, 100_000_000),
]


def measure(backend):
    """The largest relative errors, and the restarts that are missed."""
    errors, missed = {}, {}
    for case in CASES:
        errors[case.row.name] = {}
        for contender, schedule in schedules(case.row, backend):
            at = compiled(schedule, backend)
            found = np.array([at(step) for step in case.probes.tolist()])
            expected = case.reference(case.probes)
            error = np.max(np.abs(found / expected - 1.0))
            errors[case.row.name][contender] = float(error)
            if case.row.name.startswith("restarts"):
                missed[contender] = missed_restarts(at)
    return {"errors": errors, "missed": missed}


def missed_restarts(at):
    """The restarts where the step before is not low or the next two are not high."""
    half = RATE / 2
    return [
        step
        for step in restart_steps(1).tolist()
        if not (at(step - 1) < half and at(step) > half and at(step + 1) > half)
    ]


def compiled(schedule, backend) -> Callable[[int], Any]:
    """The schedule as a training step has it: XLA, jit, or eager."""
    if backend == "tensorflow":
        import tensorflow as tf

        steps = [tf.TensorSpec([], tf.int64)]
        function = tf.function(
            lambda step: schedule(step), steps, autograph=False, jit_compile=True
        )
        return lambda step: float(function(tf.constant(step, tf.int64)))
    if backend == "jax":
        import jax

        function = jax.jit(lambda step: schedule(step))
        return lambda step: float(function(np.int32(step)))
    import keras

    iterations = keras.Variable(0, dtype="int", trainable=False)

    def at(step):
        iterations.assign(step)
        return float(schedule(iterations))

    return at
