"""Variables between steps: read, write, swap, and numbers that the step reads."""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs._keras import interrupts
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs.schedules import numerics

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax.numpy as jnp
elif IS_TORCH:
    import torch


def strategy_scope(model: Any) -> contextlib.AbstractContextManager:
    """Where variables are made that a model's functions use."""
    # The public property gives TensorFlow's default strategy, which has no scope.
    strategy = getattr(model, "_distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def number(variable: Any) -> float:
    """The value of a variable or a tensor without dimensions."""
    tensor = variable.value if isinstance(variable, keras.Variable) else variable
    if IS_TENSORFLOW and isinstance(tensor, tf.distribute.DistributedValues):
        tensor = tensor.values[0]  # In a strategy's scope all of them are no array.
    return ops.convert_to_numpy(tensor).item()


def read(variables: list) -> list[np.ndarray]:
    """Copies of all that variables hold, which is more than one array on replicas."""
    # Without a copy NumPy may look at memory that the next step overwrites.
    return [np.array(ops.convert_to_numpy(one)) for one in holders(variables)]


def write(variables: list, values: list) -> None:
    """Gives variables what `read` returned, all of them, from wherever it is called."""

    def write_all():
        for holder, value in zip(holders(variables), values, strict=True):
            assign(holder, value)

    interrupts.finish(write_all)


def assign(variable: Any, value: Any) -> None:
    """Sets a variable, on all replicas, from wherever it is called.

    A finalizer may call it while another model is traced. Then it must not become part
    of that graph, nor be kept from taking effect by Keras's scope without state.
    """
    if IS_TENSORFLOW:
        target = variable._value if isinstance(variable, keras.Variable) else variable
        with tf.init_scope():
            target.assign(tf.cast(value, target.dtype))
    elif IS_TORCH:
        # Keras builds models on a device that holds no values.
        with torch.no_grad(), keras.device(str(variable._value.device)):
            variable._value.copy_(ops.convert_to_tensor(value))
    else:
        variable._direct_assign(jnp.asarray(value, variable.dtype))


class Swap:
    """Swaps the values of pairs of variables, from wherever it is called.

    If it is interrupted, `finish` continues where it was: one value at a time is held,
    so that none is lost.

    Args:
        ones: Variables, or `StepVariable`s.
        others: As many.
    """

    def __init__(self, ones: list, others: list):
        # Replicas may differ: each has statistics of its own.
        self._pairs = list(zip(_cells(ones), _cells(others), strict=True))
        # How many are done; of the next, the first value and whether it is replaced.
        self._at: tuple[int, Any, bool] = (0, None, False)

    def finish(self) -> None:
        """Swaps those that have not been swapped."""
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
    """What holds one value: a variable, a replica, or on JAX a `StepVariable`."""

    def __init__(self, holder: Any, name: str):
        self._holder, self._name = holder, name
        self._dtype = getattr(holder, "variable", holder).dtype

    def get(self) -> Any:
        """The value."""
        return getattr(self._holder, self._name, self._holder)

    def copy(self) -> Any:
        """A value that stays as it is."""
        if IS_TENSORFLOW:
            with tf.init_scope():
                return tf.identity(self.get())
        return self.get().detach().clone() if IS_TORCH else self.get()

    def set(self, value: Any) -> None:
        """Gives it another value."""
        if IS_TENSORFLOW:
            with tf.init_scope():
                self.get().assign(tf.cast(value, self._dtype))
        elif IS_TORCH:
            with torch.no_grad():
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
    """Gives one variable the value of another, in a buffer of its own."""
    if IS_TENSORFLOW:
        with tf.init_scope():
            target._value.assign(tf.cast(source._value, target._value.dtype))
    elif IS_TORCH:
        with torch.no_grad():
            target._value.copy_(source._value)
    else:
        # A step donates the buffers that it is given, so none may be shared.
        target._value = jnp.copy(source._value.astype(target.dtype))


def holders(variables: list) -> list:
    """What holds the values: variables, or their replicas where these may differ."""
    found = []
    for variable in variables:
        value = variable._value
        if IS_TENSORFLOW and isinstance(value, tf.distribute.DistributedValues):
            # Of a metric every replica has its own.
            found += value.values
        else:
            found.append(variable)
    return found


def copies(variables: list) -> list:
    """The values of variables, as tensors of their own."""
    values = [variable.value for variable in variables]
    if IS_TENSORFLOW:
        return [tf.identity(value) for value in values]
    if IS_TORCH:
        return [value.detach().clone() for value in values]
    return [jnp.copy(value) for value in values]  # A step donates the variable's.


def shapes(variables: list) -> list[list]:
    """The shapes of variables, and their types."""
    return [[list(variable.shape), variable.dtype] for variable in variables]


class StepVariable:
    """A variable, beside the optimizer's, that a compiled step reads or writes.

    JAX hands a step its arrays and takes them back: this one is inserted among the
    optimizer's while the step runs, and `array` is its value between steps.
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
        # The step donates what it is given, so the variable keeps its own.
        self.array: Any = jnp.copy(self.variable.value) if IS_JAX else None

    @property
    def value(self) -> Any:
        """The value now, or in the step that is being traced."""
        return self.variable.value

    def read(self) -> np.ndarray:
        """A copy of the value, between steps."""
        value = self.array if IS_JAX else self.variable.value
        return np.array(ops.convert_to_numpy(value))

    def write(self, value: Any) -> None:
        """Changes the value, between steps."""
        assign(self.variable, value)
        if IS_JAX:
            self.array = jnp.copy(self.variable.value)

    def to_variable(self) -> None:
        """JAX: gives the variable the value, for a step that is not compiled."""
        assign(self.variable, self.array)

    def from_variable(self) -> None:
        """JAX: takes up what such a step has made of it."""
        self.array = jnp.copy(self.variable.value)


class StepNumber(StepVariable):
    """A number that the step reads and the host changes between steps.

    Since the number is no constant of the compiled step, one step serves later fits.
    On PyTorch, which compiles nothing, it stays a Python number.
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
