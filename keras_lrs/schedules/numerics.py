"""The numeric vocabulary in which every schedule is written, once.

Each function here has three columns and picks one by the type it is given:

- a Python number: `math`, in float64. A single known step costs microseconds, which is
  what an eager backend (PyTorch) pays in every training step;
- a NumPy array: NumPy, in float64. The reference that `Schedule.curve` returns;
- a tensor: `keras.ops`, in float32 (float64 if that is Keras's `floatx`). The compiled
  training step.

Time stays an integer until the last operation. A float32 cannot count past 2**24, so
a number of steps becomes a float in `ratio`, `fractions`, `exponential`, `geometric`
and `power`, each of which keeps its *relative* precision at both ends.

No other module of the schedules knows the backends.
"""

import bisect
import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch

LARGEST = float(np.finfo(np.float32).max)
"""Where growing schedules saturate: the largest float32."""

HORIZON = 2**31
"""Steps up to which tables of cycles reach."""


# --- Which column? --------------------------------------------------------------------


def is_number(x: Any) -> bool:
    """True for the Python column."""
    return isinstance(x, (int, float))


def is_tensor(x: Any) -> bool:
    """True for the tensor column."""
    return not isinstance(x, (int, float, np.ndarray))


def _columns(scalar, array, tensor):
    """Returns one function of one argument made of its three columns."""

    def function(x):
        if isinstance(x, (int, float)):
            return scalar(x)
        if isinstance(x, np.ndarray):
            with np.errstate(divide="ignore", over="ignore"):
                return array(x)
        return tensor(x)

    return function


def _scalar_exp(x):
    return math.exp(x) if x < 709.0 else math.inf


def _scalar_log(x):
    return math.log(x) if x > 0.0 else -math.inf


def _scalar_log1p(x):
    return math.log1p(x) if x > -1.0 else -math.inf


sin = _columns(math.sin, np.sin, ops.sin)
sqrt = _columns(math.sqrt, np.sqrt, ops.sqrt)
exp = _columns(_scalar_exp, np.exp, ops.exp)
expm1 = _columns(math.expm1, np.expm1, ops.expm1)
log = _columns(_scalar_log, np.log, ops.log)
log1p = _columns(_scalar_log1p, np.log1p, ops.log1p)
floor = _columns(math.floor, np.floor, ops.floor)


def where(condition, x, y):
    """`x` where `condition` holds, else `y`. Never a branch in a compiled graph."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(condition, np.ndarray):
        return np.where(condition, x, y)
    x, y = _alike(x, y)
    if BACKEND == "tensorflow" and condition.shape.rank == 0:
        # A third of the time that `tf.where` takes, which can broadcast.
        return tf.raw_ops.Select(condition=condition, x=x, y=y)
    return ops.where(condition, x, y)


def _alike(x, y):
    """Two tensors of one dtype, of which one may have been a Python number.

    Keras would choose the dtype by its `floatx`, and on JAX make an integer a float.
    """
    dtype = next((z.dtype for z in (x, y) if is_tensor(z)), float_dtype())
    return ops.convert_to_tensor(x, dtype), ops.convert_to_tensor(y, dtype)


def minimum(x, y):
    """The smaller of `x` and `y`, elementwise."""
    if is_number(x) and is_number(y):
        return min(x, y)
    if is_tensor(x) or is_tensor(y):
        return ops.minimum(*_alike(x, y))
    return np.minimum(x, y)


def maximum(x, y):
    """The larger of `x` and `y`, elementwise."""
    if is_number(x) and is_number(y):
        return max(x, y)
    if is_tensor(x) or is_tensor(y):
        return ops.maximum(*_alike(x, y))
    return np.maximum(x, y)


def raised(x, exponent: float):
    """`x ** exponent` for a non-negative fraction `x` and an exponent > 0."""
    if exponent == 1.0:
        return x
    return _power(x, exponent) if is_tensor(x) else x**exponent


def _power(x, exponent):
    return ops.power(*_alike(x, exponent))


def half_cosine(x):
    """`(1 - cos(pi * x)) / 2` as a squared sine, which is precise near 0."""
    return sin((math.pi / 2.0) * x) ** 2


def full(step, value: float):
    """`value` at every step of `step`."""
    if is_number(step):
        return value
    if isinstance(step, np.ndarray):
        return np.full(step.shape, value, dtype=np.float64)
    return ops.full(ops.shape(step), value, dtype=float_dtype())


# --- Steps in, learning rates out -----------------------------------------------------


def float_dtype() -> str:
    """The dtype of a learning rate: never narrower than float32."""
    return "float64" if keras.backend.floatx() == "float64" else "float32"


def to_steps(step: Any) -> Any:
    """Turns any step a user or an optimizer may hand over into integer time.

    Args:
        step: A Python or NumPy integer or float, a NumPy array, a Keras Variable, or
            a tensor of any shape. Negative steps read as 0, floats are rounded down.

    Returns:
        A Python int for a scalar whose value is known now, an int64 NumPy array for a
        NumPy array, else an integer tensor.

    Raises:
        TypeError: If `step` is a bool or not a number.
        ValueError: If a step whose value is known now is NaN or infinite.
    """
    if isinstance(step, (bool, np.bool_, str, complex)) or step is None:
        raise TypeError(f"Argument `step` must be a number. Received: step={step!r}")
    if isinstance(step, (int, np.integer)):
        return max(int(step), 0)
    if isinstance(step, (float, np.floating)):
        _check_finite(step)
        return max(math.floor(step), 0)
    if isinstance(step, np.ndarray):
        if step.dtype.kind not in "iuf":
            raise TypeError(f"Argument `step` must hold numbers. Received: step={step}")
        _check_finite(step)
        if step.dtype.kind == "f":
            step = np.floor(step)
        return np.clip(step, 0, 2**62).astype(np.int64)
    if isinstance(step, keras.Variable):
        # Not `_value`, which on JAX would bake the current step into the compiled one.
        step = step.value
    if not (BACKEND == "torch" and isinstance(step, torch.Tensor)):
        step = ops.convert_to_tensor(step)
    known = known_value(step) if is_scalar(step) else None
    return _tensor_steps(step) if known is None else to_steps(known)


def _check_finite(step):
    if not np.all(np.isfinite(step)):
        raise ValueError(f"Argument `step` must be finite. Received: step={step}")


def known_value(tensor):
    """The Python value of a scalar tensor, or None while a graph is being traced."""
    if _is_symbolic(tensor):
        return None
    return (tensor.numpy() if BACKEND == "tensorflow" else tensor).item()


def is_scalar(tensor):
    """True for a tensor without dimensions."""
    # TensorFlow's shapes may be unknown, and have no length then.
    return (tensor.shape.rank if BACKEND == "tensorflow" else tensor.ndim) == 0


def _is_symbolic(tensor):
    if BACKEND == "tensorflow":
        return not tf.executing_eagerly()
    if BACKEND == "jax":
        return isinstance(tensor, jax.core.Tracer)
    return torch.compiler.is_compiling()  # A value would break the graph.


def _tensor_steps(step):
    # Keras's integer: int64 on TensorFlow, int32 elsewhere, where its operations turn
    # an int64 into an int32 whatever it holds.
    dtype = keras.backend.standardize_dtype("int")
    given = keras.backend.standardize_dtype(step.dtype)
    if given == "bool":
        raise TypeError(f"Argument `step` must hold numbers. Received: step={step}")
    if keras.backend.is_float_dtype(given):
        if not _is_symbolic(step):
            _check_finite(ops.convert_to_numpy(step))
        # The last float32 that an int32 can hold; far enough in an int64.
        largest = 2.0**31 - 128.0 if dtype == "int32" else 2.0**62
        return ops.cast(ops.clip(ops.floor(step), 0.0, largest), dtype)
    if given in ("int64", "uint32", "uint64") and dtype == "int32":
        return ops.cast(ops.clip(step, 0, 2**31 - 1), dtype)
    return maximum(ops.cast(step, dtype), 0)


def to_learning_rate(value: Any, step: Any) -> Any:
    """Turns the value of a schedule at `step` into what `__call__` returns.

    A float64 array for a NumPy array of steps, else a tensor of the step's shape.
    """
    if isinstance(step, np.ndarray):
        return value
    if BACKEND == "torch" and is_number(value):
        # A quarter of the time that `convert_to_tensor` takes. Without a dimension, it
        # goes with tensors on any device.
        return torch.scalar_tensor(value, dtype=getattr(torch, float_dtype()))
    return ops.convert_to_tensor(value, dtype=float_dtype())


def mapped(function, steps):
    """The values of a function of one scalar step at a vector of steps."""

    def as_tensor(step):
        return ops.convert_to_tensor(function(step))

    steps = ops.convert_to_tensor(steps)
    # PyTorch's vmap cannot branch; elsewhere a loop takes a hundred times as long.
    map_over = ops.map if BACKEND == "torch" else ops.vectorized_map
    values = map_over(as_tensor, ops.reshape(steps, (-1,)))
    return ops.reshape(values, ops.shape(steps))


# --- Integer time ---------------------------------------------------------------------


class Length(NamedTuple):
    """A number of steps too large for int32 time: `steps + excess`.

    TensorFlow, whose time is int64, does not meet it. `steps` is all that comparisons
    and differences with int32 time need; the `excess` matters to ratios.
    """

    steps: Any
    excess: Any


def _split(length, step) -> Length:
    """A length in two parts, the first in the dtype of time; or None and no excess."""
    if isinstance(length, Length):
        return length
    if is_number(length) and length >= HORIZON and is_tensor(step):
        largest = _largest(step)
        if length > largest:
            return Length(largest, float(length - largest))
    return Length(length, None)


def fitting(length, step):
    """A length as far as time can count."""
    return length if is_number(step) else _split(length, step).steps


def _largest(tensor):
    return int(np.iinfo(keras.backend.standardize_dtype(tensor.dtype)).max)


def since(step, start):
    """Steps passed since `start`, 0 before it."""
    return maximum(step - fitting(start, step), 0)


def capped(step, length):
    """`step`, held at `length`."""
    return minimum(step, fitting(length, step))


def reached(step, boundary):
    """True from step `boundary` on: pieces are half open."""
    return step >= fitting(boundary, step)


def count_reached(step, boundaries):
    """How many of a few boundaries have been reached."""
    count: Any = 0
    for boundary in boundaries:
        now = reached(step, boundary)
        count = count + (ops.cast(now, step.dtype) if is_tensor(now) else now * 1)
    return count


def divided(step, length):
    """The number of whole lengths in `step`, and the steps that remain."""
    length = fitting(length, step)
    index = step // length
    return index, step - index * length


def to_float(x):
    """Integer time as a float, rounded if there are more than 2**24 steps."""
    if isinstance(x, Length):
        return to_float(x.steps) + x.excess
    if is_number(x):
        return float(x)
    if isinstance(x, np.ndarray):
        return x.astype(np.float64)
    return ops.cast(x, float_dtype())


def ratio(step, length):
    """`step / length`, not held at the end."""
    return _over(to_float(step), to_float(length))


def _over(x, y):
    if is_tensor(x) or is_number(y):
        return x / y
    # A cycle of `Restarts` may have a piece without steps: never used, but computed.
    with np.errstate(divide="ignore", invalid="ignore"):
        return x / y


def fractions(step, length):
    """How much of `length` has passed at `step`, and how much remains.

    Both are formed from integers, so that neither end is a difference of nearly equal
    floats. Both are held at the ends.

    Returns:
        `(progress, remaining)`, two fractions in [0, 1].
    """
    if is_number(step):
        elapsed = min(step, length)
        return elapsed / length, (length - elapsed) / length
    steps, excess = _split(length, step)
    elapsed = minimum(step, steps)
    whole, rest = to_float(length), to_float(steps - elapsed)
    if excess is not None:
        rest = rest + excess
    return _over(to_float(elapsed), whole), _over(rest, whole)


def share(step, parts: int, length):
    """`floor(step * parts / length)` for `step <= length`.

    Exact, unless int32 time cannot count the length: then a share may come late.
    """
    if not is_tensor(step) or _largest(step) > HORIZON:
        return step * parts // length
    # int32 time: the product overflows. Estimate the quotient in float32, low by less
    # than one, and correct it by the remainder. That is less than 2 * length < 2**32,
    # so its wrapped low 32 bits are exact, and negative only beyond 2**31 > length.
    steps, excess = _split(length, step)
    estimate = to_float(step) * (parts / to_float(length))
    low = ops.cast(maximum(floor(estimate * (1.0 - 4e-7) - 0.01), 0.0), step.dtype)
    remainder = step * parts - low * steps
    next_one = ops.logical_or(remainder >= steps, remainder < 0)
    exact = low + ops.cast(next_one, step.dtype)
    if excess is None:
        return exact
    return where(excess > 0, ops.cast(floor(estimate), step.dtype), exact)


# --- Exponentials of integer time -----------------------------------------------------
#
# `exp(x)` in float32 is wrong by `|x| * 6e-8`, relatively, because `x` is rounded. So
# the exponent is split: a coarse part whose digits are few enough to be exact in
# float32, and a small rest. XLA rewrites `exp(a) * exp(b)` into `exp(a + b)`, which
# would undo the split; `exp(a) * (1 + expm1(b))` it leaves alone. On TensorFlow, whose
# time is int64, float64 is at hand: fewer operations, and no split.


def exponential(log_ratio, step, length):
    """`exp(log_ratio * step / length)` for `step <= length`."""
    if not is_tensor(step) and not is_tensor(log_ratio):
        return exp(log_ratio * (step / length))
    if BACKEND == "tensorflow":
        step, length, log_ratio = (
            ops.cast(x, "float64") for x in (step, length, log_ratio)
        )
        return ops.cast(ops.exp(log_ratio * step / length), float_dtype())
    digits = 512
    steps, excess = _split(length, step)
    whole = to_float(length)
    digit = ops.round(to_float(step) * (digits / whole))
    # On int32 time the products may wrap; their difference, at most half of `length`,
    # comes out exact all the same.
    rest = to_float(step * digits - ops.cast(digit, step.dtype) * steps)
    if excess is not None:
        rest = where(excess > 0, to_float(step) * digits - digit * whole, rest)
    coarse = _rounded(log_ratio, 64)
    fine = (log_ratio - coarse) * digit + log_ratio * (rest / whole)
    return exp(coarse * digit / digits) * (1.0 + expm1(fine / digits))


def _rounded(x, denominator):
    """`x` rounded to a multiple of `1 / denominator`, a power of two."""
    if is_number(x):
        return round(x * denominator) / denominator
    return ops.round(x * denominator) / denominator


def geometric(initial: float, log_base: float, count):
    """`initial * exp(log_base * count)`, held at the largest float32.

    Args:
        initial: The value at count 0.
        log_base: The logarithm of the factor, a float.
        count: An integer >= 0 in any column.
    """
    if log_base == 0.0 or initial == 0.0:
        return full(count, initial)
    if not is_tensor(count):
        return _grown(initial, log_base * count)
    if BACKEND == "tensorflow":
        value = _grown(initial, log_base * ops.cast(count, "float64"))
        return ops.cast(value, float_dtype())
    # Chunks of a power of two steps, each worth an exponent of at most 1 if it can be.
    chunk = 2 ** max(0, min(30, math.floor(-math.log2(abs(log_base)))))
    exponent = log_base * chunk
    coarse = _rounded(exponent, 4096)
    # Count them from where the value is about 1, if it ever is: the exponential by
    # itself would overflow where a tiny or huge `initial` still makes up for it.
    offset = 0
    if coarse != 0.0:
        offset = max(0, round(-math.log(initial) / coarse))
    start = math.exp(math.log(initial) + offset * coarse)
    chunks, rest = divided(count, chunk)
    if coarse != 0.0:  # Otherwise time ends before the value has changed much.
        chunks = minimum(chunks, offset + math.ceil(104.0 / abs(exponent)))
    chunks = to_float(chunks)
    fine = chunks * (exponent - coarse) + to_float(rest) * log_base
    value = start * exp((chunks - offset) * coarse) * (1.0 + expm1(fine))
    return where(count > 0, minimum(value, LARGEST), initial)


def _grown(initial, exponent):
    """`initial * exp(exponent)` in float64, held at the largest float32."""
    if initial < 1e-200:  # The exponential by itself would overflow too soon.
        return minimum(exp(math.log(initial) + exponent), LARGEST)
    return minimum(initial * exp(exponent), LARGEST)


def power(step, exponent: float):
    """`step ** exponent` for integer time >= 1."""
    if not is_tensor(step):
        return to_float(step) ** exponent
    # The exponent's own rounding to float32 counts `log(step)` times: correct it.
    base = to_float(step)
    rounded = float(np.float32(exponent))
    return _power(base, rounded) * (1.0 + (exponent - rounded) * ops.log(base))


# --- Tables ---------------------------------------------------------------------------


def gather(table: np.ndarray, index):
    """Row `index` of a table that the host computed.

    Tables of integers are lengths: on int32 time, entries too large for it come back
    as a `Length`.
    """
    if is_number(index):
        return table[index].item()
    if isinstance(index, np.ndarray):
        return table[index]
    if table.dtype.kind == "f":
        return _take(table.astype(float_dtype()), index)
    dtype = keras.backend.standardize_dtype(index.dtype)
    largest = _largest(index)
    steps = _take(np.minimum(table, largest).astype(dtype), index)
    if table.max() <= largest:
        return steps
    excess = np.maximum(table - largest, 0).astype(float_dtype())
    return Length(steps, _take(excess, index))


def _take(table, index):
    if len(table) == 1:
        return ops.full(ops.shape(index), table[0], dtype=table.dtype.name)
    if len(table) == 2:
        first, second = map(ops.convert_to_tensor, table)
        return where(index > 0, second, first)
    if BACKEND == "tensorflow":
        # `ops.take` spends three more nodes on negative indices.
        return tf.gather(table, index)
    return ops.take(_constant(table), index, axis=0)


def _constant(table):
    # With the dtype: by itself, JAX's column makes integers floats for some `floatx`.
    return ops.convert_to_tensor(table, dtype=table.dtype.name)


class Lookup:
    """Counts the boundaries that have been reached at a step.

    A binary search where steps are known; in a graph, a tree of comparisons 32 wide:
    four levels for 100,000 boundaries, a number of nodes that does not grow within a
    level, and on XLA, where `searchsorted` compares with every boundary, 250 times
    faster.

    Args:
        boundaries: Non-decreasing steps.
    """

    WIDTH = 32

    def __init__(self, boundaries):
        self._array = np.asarray(boundaries, dtype=np.int64)
        self._list = self._array.tolist()
        self._trees: dict[str, list[np.ndarray]] = {}

    def __call__(self, step):
        if is_number(step):
            return bisect.bisect_right(self._list, step)
        if isinstance(step, np.ndarray):
            return np.searchsorted(self._array, step, side="right")
        dtype = step.dtype
        if len(self._list) > self.WIDTH**2 and self._list[-1] < HORIZON - 1:
            # XLA compares int32 four times as fast as TensorFlow's int64.
            step = ops.cast(minimum(step, HORIZON - 1), "int32")
        top, *levels = self._tree(keras.backend.standardize_dtype(step.dtype))
        steps = ops.expand_dims(step, -1)
        count = _reached_of_row(_constant(top), steps)
        for level in levels:
            row = _take(level, count)
            count = count * self.WIDTH + _reached_of_row(row, steps)
        return ops.cast(count, dtype)

    def _tree(self, dtype):
        """From the top: one row, then rows of rows, padded with the largest int."""
        if dtype in self._trees:
            return self._trees[dtype]
        never = np.iinfo(dtype).max
        level = np.minimum(self._array, never)
        levels = []
        while len(level) > self.WIDTH:
            rows = -(-len(level) // self.WIDTH) + 1
            padded = np.full(rows * self.WIDTH, never, dtype=dtype)
            padded[: len(level)] = level
            levels.append(padded.reshape(rows, self.WIDTH))
            level = level[self.WIDTH - 1 :: self.WIDTH]
        levels.append(level.astype(dtype))
        self._trees[dtype] = levels[::-1]
        return self._trees[dtype]


def _reached_of_row(row, steps):
    return ops.sum(ops.cast(steps >= row, steps.dtype), axis=-1)


def scrambled(step, seed: int):
    """A hash of `(seed, step)` in [0, 2**31), the same in every column and backend.

    Products and xor-shifts on 31 bits, which fit int64 and wrap rightly in int32.
    """
    bits = 2**31 - 1
    state = _xor(_and(step, bits), (seed * 0x9E3779B1 + 0x5BD1E995) & bits)
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D), (16, 0x297A2D39)):
        state = _and(_xor(state, state // 2**shift) * factor, bits)
    return _xor(state, state // 2**15)


def _xor(x, y):
    return ops.bitwise_xor(*_alike(x, y)) if is_tensor(x) else x ^ y


def _and(x, y):
    return ops.bitwise_and(*_alike(x, y)) if is_tensor(x) else x & y
