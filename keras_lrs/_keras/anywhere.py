"""Variables that any loop can update: eagerly, in a graph, or in a scope."""

import contextlib
from typing import Any

import keras
from keras.src.backend.common import stateless_scope

from keras_lrs._keras import in_step
from keras_lrs._keras.average_slots import average_dtype
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs._keras.variables import assign, give, holders, number

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax
    import jax.numpy as jnp


def is_float(variable: Any) -> bool:
    """Whether the values of a variable can be averaged."""
    return keras.backend.is_float_dtype(variable.dtype)


def new_average(variable: Any) -> Any:
    """Makes a variable for the average of another, with a copy of its value."""
    with _strategy_scope(variable):
        average = keras.Variable(
            "zeros",
            shape=variable.shape,
            dtype=average_dtype(variable) if is_float(variable) else variable.dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            layout=getattr(variable, "_layout", None),
            name=f"{variable.path.replace('/', '_')}_average",
        )
    give(variable, average)
    return average


def new_count(beside: Any) -> Any:
    """Makes a variable for a number of updates, on the device of another one."""
    with _strategy_scope(beside):
        return keras.Variable(
            "zeros",
            shape=(),
            dtype="int32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name="updates",
        )


def _strategy_scope(variable):
    """Returns the scope that places a new variable with the one it belongs to."""
    if IS_TENSORFLOW and isinstance(variable._value, tf.distribute.DistributedValues):
        return variable._value.distribute_strategy.scope()
    return contextlib.nullcontext()


# --- The context of a call ---


def in_scope() -> bool:
    """Whether assignments change a `keras.StatelessScope` instead of variables."""
    return stateless_scope.in_stateless_scope()


def is_traced() -> bool:
    """Whether computations now become part of a compiled function."""
    if IS_TENSORFLOW:
        return not tf.executing_eagerly()
    return IS_JAX and isinstance(jnp.zeros(()) + 0.0, jax.core.Tracer)


def why_not_known(variables: list) -> str | None:
    """Returns why a call in this context would miss variables or lose their values."""
    scope = stateless_scope.get_stateless_scope()
    if scope is not None:
        unknown = [v.path for v in variables if scope.get_current_value(v) is None]
        if unknown:
            return (
                "the current `keras.StatelessScope` has no values for "
                f"{', '.join(unknown)}"
            )
        return None
    if IS_JAX and is_traced():
        return "a function that JAX traces cannot change variables"
    if IS_JAX:
        away = [v.path for v in variables if v._value is None or _is_gone(v._value)]
        if away:
            return (
                f"JAX's `fit` holds the values of {', '.join(away)} (call "
                "`model.jax_state_sync()` first), or a step has donated their buffers "
                "(assign what it returned first)"
            )
    return None


def _is_gone(value):
    return isinstance(value, jax.Array) and value.is_deleted()


# --- Values ---


class Count:
    """A count in a variable; on PyTorch the host keeps it too.

    On PyTorch, reading the variable would wait for the device.
    """

    def __init__(self, variable: Any):
        self.variable = variable
        self._host = 0
        self._seen: Any = None

    @property
    def value(self) -> Any:
        """The count: a Python number on PyTorch, and a tensor on other backends."""
        if in_scope() or not IS_TORCH:
            value = self.variable.value
            return tf.identity(value) if IS_TENSORFLOW else value
        if self._seen != self._identity:  # It was loaded or assigned.
            self._host, self._seen = int(number(self.variable)), self._identity
        return self._host

    def raise_by_one(self) -> None:
        """Adds one to the count."""
        if in_scope() or not IS_TORCH:
            self.variable.assign(self.variable.value + 1)
            return
        host = self.value
        self.variable._value.data.add_(1)
        self._host, self._seen = host + 1, self._identity

    @property
    def _identity(self):
        """A value that changes whenever the variable's value is changed in place."""
        tensor = self.variable._value
        return id(tensor), tensor._version

    def __getstate__(self):
        return {**vars(self), "_seen": None}


def interpolate(pairs: list[tuple[Any, Any]], share: Any, always: bool) -> None:
    """Moves averages by a share of their distance towards the weights."""
    if not in_scope():
        in_step.interpolate(pairs, share, always)
        return
    ops = keras.ops
    for weight, average in pairs:
        old = average.value
        moved = old + ops.cast(share, old.dtype) * (
            ops.cast(weight.value, old.dtype) - old
        )
        # A weight that is not averaged must have no effect, even if it is not finite.
        average.assign(moved if always else ops.where(share > 0.0, moved, old))


def hand_over(sources: list, targets: list) -> None:
    """Gives variables the values of others, in separate buffers."""
    if in_scope() or (IS_JAX and is_traced()):
        for source, target in zip(sources, targets, strict=True):
            value = keras.ops.cast(source.value, target.dtype)
            # JAX may return one buffer twice, and the next step donates both.
            target.assign(jnp.copy(value) if IS_JAX else value)
    elif IS_TENSORFLOW and (is_traced() or tf.distribute.has_strategy()):
        in_step.cast_copy(targets, sources)
    else:
        for source, target in zip(sources, targets, strict=True):
            give(source, target)


def held(variables: list) -> list[tuple[Any, Any]]:
    """Returns the holders of variables' values, and copies that stay on the device."""
    found = []
    for holder in holders(variables):
        value = holder._value if isinstance(holder, keras.Variable) else holder
        if IS_TENSORFLOW:
            value = tf.identity(value)
        elif IS_TORCH:
            value = value.detach().clone()
        else:
            value = jnp.copy(value)
        found.append((holder, value))
    return found


def put_back(found: list[tuple[Any, Any]]) -> None:
    """Gives variables what `held` has copied."""
    for holder, value in found:
        assign(holder, value)
