"""The time of one evaluation: loops over steps, interleaved in rounds.

The step depends on the loop's index and the sum of the values is what a loop returns,
so no compiler can hoist or drop an evaluation. A processor still works on several at a
time, and hides the cheap ones behind the loop itself. So what XLA compiles is also run
in chains: there the next step is only known when the last value is.
"""

import gc
import time
import warnings

import numpy as np
from contenders import COSINE, OURS, ROWS, TORCH, TOTAL_STEPS, schedules

CONTROL = "empty loop"
AGAIN = "again"

GRAPH, XLA, JAX, EAGER = "TensorFlow graph", "TensorFlow XLA", "JAX", "PyTorch eager"
XLA_CHAIN, JAX_CHAIN = "TensorFlow XLA, chained", "JAX, chained"
MODES = {
    "tensorflow": (GRAPH, XLA, XLA_CHAIN),
    "jax": (JAX, JAX_CHAIN),
    "torch": (EAGER,),
}
NUM_STEPS = {GRAPH: 1_000, EAGER: 100}
MANY_STEPS = 500_000  # Of what is measured in nanoseconds.
NUM_ROUNDS = {False: 41, True: 5}
NEVER = 1e30  # A rate that no schedule here has, which compilers cannot know.


def measure(backend, quick):
    """Timings per mode: `{mode: {row: {contender: seconds of every round}}}`."""
    return {
        mode: interleaved(loops(backend, mode), NUM_ROUNDS[quick], num_steps(mode))
        for mode in MODES[backend]
    }


def num_steps(mode):
    return NUM_STEPS.get(mode, MANY_STEPS)


def stride(mode):
    return TOTAL_STEPS // num_steps(mode)


def interleaved(loops, num_rounds, num_steps):
    """Runs all loops once per round, so that a slow moment hits all alike."""
    samples = {}
    for row, contender, loop in loops:
        loop()  # Compiles, and fills caches.
        samples.setdefault(row, {})[contender] = []
    gc.collect()
    gc.disable()
    for _ in range(num_rounds):
        for row, contender, loop in loops:
            start = time.perf_counter()
            loop()
            seconds = time.perf_counter() - start
            samples[row][contender].append(seconds / num_steps)
    gc.enable()
    return samples


def loops(backend, mode):
    """Triples of a row's name, a contender's name and a loop over steps."""
    make = LOOPS[backend]
    empty = control_value(mode)
    found = [(CONTROL, OURS, make(empty, mode))]
    for row in ROWS:
        for contender, schedule in schedules(row, backend):
            loop = make(schedule, mode)
            if contender == OURS and mode != EAGER:
                check(schedule, loop(), mode)
            found.append((row.name, contender, loop))
            if contender == OURS and row is COSINE:
                found.append((row.name, AGAIN, make(schedule, mode)))
        if mode == EAGER and row.torch is not None:
            found.append((row.name, TORCH, torch_loop(row.torch)))
    return [*found, (CONTROL, AGAIN, make(empty, mode))]


def control_value(mode):
    """What an empty loop has in place of a schedule."""
    if mode in (XLA_CHAIN, JAX_CHAIN):
        from keras import ops

        return lambda step: ops.cast(step, "float32")
    return lambda step: 1.0


def check(schedule, total, mode):
    """Raises unless `total` is, in float32, what the schedule sums to."""
    expected = schedule(np.arange(num_steps(mode)) * stride(mode)).sum()
    if not np.isclose(total, expected, rtol=0.05):
        raise AssertionError(f"{schedule} summed to {total}, not {expected}")


# --- One loop per backend -------------------------------------------------------------


def tensorflow_loop(schedule, mode):
    import tensorflow as tf

    # It warns of what is meant here: a new function for every schedule.
    tf.get_logger().setLevel("ERROR")

    # Like Keras's training step, without AutoGraph.
    @tf.function(jit_compile=mode != GRAPH, autograph=False)
    def total(start):
        def body(index, step, total):
            value = schedule(step)
            step += stride(mode)
            if mode == XLA_CHAIN:
                step += tf.cast(value > NEVER, step.dtype)
            return index + 1, step, total + value

        return tf.while_loop(
            lambda index, step, total: index < num_steps(mode),
            body,
            (tf.constant(0), start, tf.constant(0.0)),
            # One iteration does not begin before the last one has ended.
            parallel_iterations=1,
        )[2]

    start = tf.constant(0, tf.int64)
    return lambda: float(total(start))


def jax_loop(schedule, mode):
    import jax
    import jax.numpy as jnp

    @jax.jit
    def total(start):
        def body(index, carried):
            step, total = carried
            value = schedule(step)
            step += stride(mode)
            if mode == JAX_CHAIN:
                step += jnp.asarray(value > NEVER, step.dtype)
            return step, total + value

        carried = start, jnp.float32(0.0)
        return jax.lax.fori_loop(0, num_steps(mode), body, carried)[1]

    start = jnp.int32(0)
    return lambda: float(total(start).block_until_ready())


def eager_loop(schedule, mode):
    """Calls the schedule with variables, as a Keras optimizer does."""
    import keras

    steps = [
        keras.Variable(index * stride(mode), dtype="int", trainable=False)
        for index in range(num_steps(mode))
    ]

    def loop():
        for step in steps:
            schedule(step)

    return loop


LOOPS = {"tensorflow": tensorflow_loop, "jax": jax_loop, "torch": eager_loop}


def torch_loop(make):
    """PyTorch's own schedulers, which count the steps themselves."""
    import torch

    warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    optimizer.step()

    def loop():
        for _ in range(NUM_STEPS[EAGER]):
            scheduler.step()

    return loop
