"""Integer time, and its conversion to fractions."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_lrs.schedules.numerics.columns import (
    alike,
    float_dtype,
    floor,
    is_number,
    is_tensor,
    maximum,
    minimum,
    where,
)

HORIZON = 2**31
"""The number of steps that tables of cycles cover."""


class Length(NamedTuple):
    """A number of steps too large for int32 time: `steps + excess`.

    It never occurs on TensorFlow, whose time is int64. Comparisons and differences with
    int32 time need only `steps`, and ratios need the `excess` too.
    """

    steps: Any
    excess: Any


def split(length, step) -> Length:
    """Splits a length into a part that fits the dtype of time, and an excess."""
    if isinstance(length, Length):
        return length
    if is_number(length) and length >= HORIZON and is_tensor(step):
        largest = largest_step(step)
        if length > largest:
            return Length(largest, float(length - largest))
    return Length(length, None)


def fitting(length, step):
    """Returns a length, capped at the largest step that time can count."""
    return length if is_number(step) else split(length, step).steps


def largest_step(tensor):
    """The largest integer that a tensor of steps can hold."""
    return int(np.iinfo(keras.backend.standardize_dtype(tensor.dtype)).max)


def since(step, start):
    """Returns the steps since `start`, and 0 before it."""
    return maximum(step - fitting(start, step), 0)


def capped(step, length):
    """Returns `step`, held at `length`."""
    return minimum(step, fitting(length, step))


def reached(step, boundary):
    """Returns True from step `boundary` on, so that pieces are half open."""
    return step >= fitting(boundary, step)


def count_reached(step, boundaries):
    """Returns how many of a few boundaries have been reached."""
    count: Any = 0
    for boundary in boundaries:
        now = reached(step, boundary)
        count = count + (ops.cast(now, step.dtype) if is_tensor(now) else now * 1)
    return count


def divided(step, length):
    """Returns the number of whole lengths in `step`, and the remaining steps."""
    length = fitting(length, step)
    index = step // length
    return index, step - index * length


def to_float(x):
    """Returns integer time as a float, rounded if there are more than 2**24 steps."""
    if isinstance(x, Length):
        return to_float(x.steps) + x.excess
    if is_number(x):
        return float(x)
    if isinstance(x, np.ndarray):
        return x.astype(np.float64)
    return ops.cast(x, float_dtype())


def ratio(step, length):
    """Returns `step / length`, without holding it at the end."""
    return _over(to_float(step), to_float(length))


def _over(x, y):
    if is_tensor(x) or is_number(y):
        return x / y
    # A cycle of `Restarts` may have an empty piece, which is computed but never used.
    with np.errstate(divide="ignore", invalid="ignore"):
        return x / y


def fractions(step, length):
    """Returns how much of `length` has passed at `step`, and how much remains.

    Both are computed from integers, so that neither is a difference of nearly equal
    floats near its end. Both are held at the ends.

    Returns:
        `(progress, remaining)`, two fractions in [0, 1].
    """
    if is_number(step):
        elapsed = min(step, length)
        return elapsed / length, (length - elapsed) / length
    steps, excess = split(length, step)
    elapsed = minimum(step, steps)
    whole, rest = to_float(length), to_float(steps - elapsed)
    if excess is not None:
        rest = rest + excess
    return _over(to_float(elapsed), whole), _over(rest, whole)


def share(step, parts: int, length):
    """Returns `floor(step * parts / length)` for `step <= length`.

    It is exact unless int32 time cannot count the length. Then a share may come late.
    """
    if not is_tensor(step) or largest_step(step) > HORIZON:
        return step * parts // length
    # In int32 time the product overflows. Estimate the quotient in float32, low by less
    # than one, and correct it by the remainder. The remainder is less than 2 * length <
    # 2**32, so its wrapped low 32 bits are exact, and negative only beyond 2**31 >
    # length.
    steps, excess = split(length, step)
    estimate = to_float(step) * (parts / to_float(length))
    low = ops.cast(maximum(floor(estimate * (1.0 - 4e-7) - 0.01), 0.0), step.dtype)
    remainder = step * parts - low * steps
    next_one = ops.logical_or(remainder >= steps, remainder < 0)
    exact = low + ops.cast(next_one, step.dtype)
    if excess is None:
        return exact
    return where(excess > 0, ops.cast(floor(estimate), step.dtype), exact)


def scrambled(step, seed: int):
    """Hashes `(seed, step)` into [0, 2**31), equally in every column and backend.

    It uses products and xor-shifts on 31 bits, which fit int64 and wrap correctly in
    int32.
    """
    bits = 2**31 - 1
    state = _xor(_and(step, bits), (seed * 0x9E3779B1 + 0x5BD1E995) & bits)
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D), (16, 0x297A2D39)):
        state = _and(_xor(state, state // 2**shift) * factor, bits)
    return _xor(state, state // 2**15)


def _xor(x, y):
    return ops.bitwise_xor(*alike(x, y)) if is_tensor(x) else x ^ y


def _and(x, y):
    return ops.bitwise_and(*alike(x, y)) if is_tensor(x) else x & y
