"""Exponentials and powers of integer time.

`exp(x)` in float32 has a relative error of `|x| * 6e-8`, because `x` is rounded. So the
exponent is split into a coarse part, whose digits are few enough to be exact in
float32, and a small rest. XLA rewrites `exp(a) * exp(b)` into `exp(a + b)`, which would
undo the split, but it leaves `exp(a) * (1 + expm1(b))` alone. TensorFlow, whose time is
int64, uses float64 instead, with fewer operations and no split.
"""

import math

import numpy as np
from keras import ops

from keras_lrs.schedules.numerics.columns import (
    BACKEND,
    LARGEST,
    exp,
    expm1,
    float_dtype,
    full,
    is_number,
    is_tensor,
    minimum,
    tensor_power,
    where,
)
from keras_lrs.schedules.numerics.time import divided, split, to_float


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
    steps, excess = split(length, step)
    whole = to_float(length)
    digit = ops.round(to_float(step) * (digits / whole))
    # In int32 time the products may wrap, but their difference, which is at most half
    # of `length`, is still exact.
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
    # Chunks of a power of two steps, each with an exponent of at most 1 if possible.
    chunk = 2 ** max(0, min(30, math.floor(-math.log2(abs(log_base)))))
    exponent = log_base * chunk
    coarse = _rounded(exponent, 4096)
    # Count the chunks from where the value is about 1, if it ever is. Otherwise the
    # exponential could over- or underflow although `initial` makes up for it.
    offset = 0
    if coarse != 0.0:
        offset = max(0, round(-math.log(initial) / coarse))
    start = math.exp(math.log(initial) + offset * coarse)
    chunks, rest = divided(count, chunk)
    if coarse != 0.0:  # If it is 0, time ends before the value changes much.
        chunks = minimum(chunks, offset + math.ceil(104.0 / abs(exponent)))
    chunks = to_float(chunks)
    fine = chunks * (exponent - coarse) + to_float(rest) * log_base
    value = start * exp((chunks - offset) * coarse) * (1.0 + expm1(fine))
    return where(count > 0, minimum(value, LARGEST), initial)


def _grown(initial, exponent):
    """`initial * exp(exponent)` in float64, held at the largest float32."""
    if initial < 1e-200:  # The exponential alone would overflow too soon.
        return minimum(exp(math.log(initial) + exponent), LARGEST)
    return minimum(initial * exp(exponent), LARGEST)


def power(step, exponent: float):
    """`step ** exponent` for integer time >= 1."""
    if not is_tensor(step):
        return to_float(step) ** exponent
    # Rounding the exponent to float32 has an effect of `log(step)` times: correct it.
    base = to_float(step)
    rounded = float(np.float32(exponent))
    return tensor_power(base, rounded) * (1.0 + (exponent - rounded) * ops.log(base))
