"""Reads, writes and swaps variables between steps, and numbers for the step."""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs._keras import interrupts, scopes
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs.schedules import numerics

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax.numpy as jnp


def strategy_scope(model: Any) -> contextlib.AbstractContextManager:
    """Returns the scope in which to make variables for a model's functions."""
    # The public property returns TensorFlow's default strategy, which has no scope.
    strategy = getattr(model, "_distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def number(variable: Any) -> float:
    """Returns the value of a variable or a tensor of shape ()."""
    tensor = variable.value if isinstance(variable, keras.Variable) else variable
    if IS_TENSORFLOW and isinstance(tensor, tf.distribute.DistributedValues):
        tensor = tensor.values[0]  # In a strategy's scope they are no single array.
    return ops.convert_to_numpy(tensor).item()


def read(variables: list) -> list[np.ndarray]:
    """Returns copies of variables' values; replicas have more than one array each."""
    # Without a copy, NumPy may share memory that the next step overwrites.
    return [np.array(ops.convert_to_numpy(one)) for one in holders(variables)]


def write(variables: list, values: list) -> None:
    """Gives variables all values that `read` returned, in any context."""

    def write_all():
        for holder, value in zip(holders(variables), values, strict=True):
            assign(holder, value)

    interrupts.finish(write_all)


def assign(variable: Any, value: Any) -> None:
    """Sets a variable, on all replicas, in any context.

    A finalizer may call it while another model is traced. Then it must neither become
    part of that graph nor be lost in a `StatelessScope`.
    """
    if IS_TENSORFLOW:
        target = variable._value if isinstance(variable, keras.Variable) else variable
        with tf.init_scope():
            target.assign(tf.cast(value, target.dtype))
    elif IS_TORCH:
        # Keras builds models on a device without values.
        with scopes.no_grad(), keras.device(str(variable._value.device)):
            variable._value.copy_(ops.convert_to_tensor(value))
    else:
        variable._direct_assign(jnp.asarray(value, variable.dtype))


class Swap:
    """Swaps the values of pairs of variables, in any context.

    If it is interrupted, `finish` continues where it stopped. It holds one value at a
    time, so that none is lost.

    Args:
        ones: Variables, or `StepVariable`s.
        others: The same number of variables.
    """

    def __init__(self, ones: list, others: list):
        # Replicas may differ, because each has its own statistics.
        self._pairs = list(zip(_cells(ones), _cells(others), strict=True))
        # The number of pairs done; the next pair's first value, and whether it is
        # replaced.
        self._at: tuple[int, Any, bool] = (0, None, False)

    def finish(self) -> None:
        """Swaps the pairs that have not been swapped."""
        while self._at[0] < len(self._pairs):
            index, held, replaced = self._at
            one, other = self._pairs[index]
            if held is None:
                held = one.copy()
                self._at = (index, held, False)
            if not replaced:
                one.set(other.get())
                self._at = (index, held, True)
            other.set(held)
            self._at = (index + 1, None, False)


class _Cell:
    """A holder of one value: a variable, a replica, or on JAX a `StepVariable`."""

    def __init__(self, holder: Any, name: str):
        self._holder, self._name = holder, name
        self._dtype = getattr(holder, "variable", holder).dtype

    def get(self) -> Any:
        """Returns the value."""
        return getattr(self._holder, self._name, self._holder)

    def copy(self) -> Any:
        """Returns a copy that later changes do not affect."""
        if IS_TENSORFLOW:
            with tf.init_scope():
                return tf.identity(self.get())
        return self.get().detach().clone() if IS_TORCH else self.get()

    def set(self, value: Any) -> None:
        """Sets the value."""
        if IS_TENSORFLOW:
            with tf.init_scope():
                self.get().assign(tf.cast(value, self._dtype))
        elif IS_TORCH:
            with scopes.no_grad():
                self.get().copy_(value)
        else:
            setattr(self._holder, self._name, value.astype(self._dtype))


def _cells(variables):
    if IS_JAX:
        return [
            _Cell(one, "array" if isinstance(one, StepVariable) else "_value")
            for one in variables
        ]
    found = [
        one.variable if isinstance(one, StepVariable) else one for one in variables
    ]
    return [_Cell(holder, "_value") for holder in holders(found)]


def give(source: Any, target: Any) -> None:
    """Gives one variable the value of another, in a separate buffer."""
    if IS_TENSORFLOW:
        with tf.init_scope():
            target._value.assign(tf.cast(source._value, target._value.dtype))
    elif IS_TORCH:
        with scopes.no_grad():
            target._value.copy_(source._value)
    else:
        # A step donates its buffers, so they must not be shared.
        target._value = jnp.copy(source._value.astype(target.dtype))


def holders(variables: list) -> list:
    """Returns the holders of values: variables, or replicas if these may differ."""
    found = []
    for variable in variables:
        value = variable._value
        if IS_TENSORFLOW and isinstance(value, tf.distribute.DistributedValues):
            # Each replica has its own value of a metric.
            found += value.values
        else:
            found.append(variable)
    return found


def owners(variables: list) -> list:
    """Returns the variable of each value that `read` returns."""
    return [variable for variable in variables for _ in holders([variable])]


def copies(variables: list) -> list:
    """Returns copies of the values of variables, as tensors."""
    values = [variable.value for variable in variables]
    if IS_TENSORFLOW:
        return [tf.identity(value) for value in values]
    if IS_TORCH:
        return [value.detach().clone() for value in values]
    return [jnp.copy(value) for value in values]  # A step donates the originals.


def shapes(variables: list) -> list[list]:
    """Returns the shapes and types of the values that `read` returns."""
    return [[list(one.shape), one.dtype] for one in owners(variables)]


class StepVariable:
    """A variable besides the optimizer's that a compiled step reads or writes.

    JAX passes arrays into a step and takes them back. This variable is inserted among
    the optimizer's while the step runs, and `array` is its value between steps.
    """

    def __init__(self, model: Any, value: Any, dtype: str, layout: Any = None):
        with strategy_scope(model):
            self.variable = keras.Variable(
                value,
                dtype=dtype,
                trainable=False,
                aggregation="only_first_replica",
                layout=layout,
                name="keras_lrs",
            )
        # The step donates its arrays, so the variable keeps its own.
        self.array: Any = jnp.copy(self.variable.value) if IS_JAX else None

    @property
    def value(self) -> Any:
        """The current value, or the value in the step that is traced."""
        return self.variable.value

    def read(self) -> np.ndarray:
        """Returns a copy of the value, between steps."""
        value = self.array if IS_JAX else self.variable.value
        return np.array(ops.convert_to_numpy(value))

    def write(self, value: Any) -> None:
        """Changes the value, between steps."""
        assign(self.variable, value)
        if IS_JAX:
            self.array = jnp.copy(self.variable.value)

    def to_variable(self) -> None:
        """On JAX, gives the variable the value for a step that is not compiled."""
        assign(self.variable, self.array)

    def from_variable(self) -> None:
        """On JAX, takes the value that such a step has set."""
        self.array = jnp.copy(self.variable.value)


class StepNumber(StepVariable):
    """A number that the step reads and the host changes between steps.

    The number is not a constant of the compiled step, so one step serves later fits. On
    PyTorch, which compiles nothing, it stays a Python number.
    """

    def __init__(self, model: Any, value: float, dtype: str | None = None):
        self.host = value
        if not IS_TORCH:
            super().__init__(model, value, dtype or numerics.float_dtype())

    @property
    def value(self) -> Any:
        """The value now, or in the step that is being traced."""
        return self.host if IS_TORCH else self.variable.value

    def write(self, value: float) -> None:
        """Changes the number from the next step on."""
        self.host = value
        if not IS_TORCH:
            super().write(value)
