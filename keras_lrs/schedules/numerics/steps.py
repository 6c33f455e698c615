"""Converts steps on the way in, and learning rates on the way out."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs.schedules.numerics.columns import (
    BACKEND,
    float_dtype,
    is_number,
    maximum,
)

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch


def to_steps(step: Any) -> Any:
    """Turns any step from a user or an optimizer into integer time.

    Args:
        step: A Python or NumPy integer or float, a NumPy array, a Keras Variable, or
            a tensor of any shape. Negative steps count as 0, and floats are rounded
            down.

    Returns:
        A Python int for a scalar whose value is known now, an int64 NumPy array for a
        NumPy array, and an integer tensor otherwise.

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
    """Returns the Python value of a scalar tensor; None while a graph is traced."""
    if _is_symbolic(tensor):
        return None
    return (tensor.numpy() if BACKEND == "tensorflow" else tensor).item()


def is_scalar(tensor):
    """True for a tensor without dimensions."""
    # TensorFlow's shapes may be unknown, and then have no length.
    return (tensor.shape.rank if BACKEND == "tensorflow" else tensor.ndim) == 0


def _is_symbolic(tensor):
    if BACKEND == "tensorflow":
        return not tf.executing_eagerly()
    if BACKEND == "jax":
        return isinstance(tensor, jax.core.Tracer)
    return torch.compiler.is_compiling()  # A value would break the graph.


def _tensor_steps(step):
    # Keras's integer is int64 on TensorFlow and int32 elsewhere, where Keras's
    # operations cast any int64 to int32.
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

    This is a float64 array for a NumPy array of steps, and a tensor of the step's shape
    otherwise.
    """
    if isinstance(step, np.ndarray):
        return value
    if BACKEND == "torch" and is_number(value):
        # Takes a quarter of the time of `convert_to_tensor`. A tensor without a
        # dimension works with tensors on any device.
        return torch.scalar_tensor(value, dtype=getattr(torch, float_dtype()))
    return ops.convert_to_tensor(value, dtype=float_dtype())


def mapped(function, steps):
    """Evaluates a function of one scalar step at a vector of steps."""

    def as_tensor(step):
        return ops.convert_to_tensor(function(step))

    steps = ops.convert_to_tensor(steps)
    # PyTorch's vmap cannot branch; on other backends a loop is a hundred times slower.
    map_over = ops.map if BACKEND == "torch" else ops.vectorized_map
    values = map_over(as_tensor, ops.reshape(steps, (-1,)))
    return ops.reshape(values, ops.shape(steps))
