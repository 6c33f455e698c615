"""The three columns, and the elementwise functions that pick one."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf

LARGEST = float(np.finfo(np.float32).max)
"""The largest float32, at which growing schedules saturate."""


def is_number(x: Any) -> bool:
    """Whether a value is in the Python column."""
    return isinstance(x, (int, float))


def is_tensor(x: Any) -> bool:
    """Whether a value is in the tensor column."""
    return not isinstance(x, (int, float, np.ndarray))


def float_dtype() -> str:
    """Returns the dtype of a learning rate, which is at least float32."""
    return "float64" if keras.backend.floatx() == "float64" else "float32"


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
    """Returns `x` where `condition` holds, else `y`, without a branch in a graph."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(condition, np.ndarray):
        return np.where(condition, x, y)
    x, y = alike(x, y)
    if BACKEND == "tensorflow" and condition.shape.rank == 0:
        # Takes a third of the time of `tf.where`, which can broadcast.
        return tf.raw_ops.Select(condition=condition, x=x, y=y)
    return ops.where(condition, x, y)


def alike(x, y):
    """Returns two tensors of one dtype; one argument may be a Python number.

    Keras would choose the dtype by its `floatx`, and on JAX turn an integer into a
    float.
    """
    dtype = next((z.dtype for z in (x, y) if is_tensor(z)), float_dtype())
    return ops.convert_to_tensor(x, dtype), ops.convert_to_tensor(y, dtype)


def minimum(x, y):
    """The smaller of `x` and `y`, elementwise."""
    if is_number(x) and is_number(y):
        return min(x, y)
    if is_tensor(x) or is_tensor(y):
        return ops.minimum(*alike(x, y))
    return np.minimum(x, y)


def maximum(x, y):
    """The larger of `x` and `y`, elementwise."""
    if is_number(x) and is_number(y):
        return max(x, y)
    if is_tensor(x) or is_tensor(y):
        return ops.maximum(*alike(x, y))
    return np.maximum(x, y)


def raised(x, exponent: float):
    """`x ** exponent` for a non-negative fraction `x` and an exponent > 0."""
    if exponent == 1.0:
        return x
    return tensor_power(x, exponent) if is_tensor(x) else x**exponent


def tensor_power(x, exponent):
    """`x ** exponent` in the tensor column."""
    return ops.power(*alike(x, exponent))


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
