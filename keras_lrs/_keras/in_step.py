"""Values and variables inside a training step or its trace."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs._keras import interrupts, scopes
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs._keras.variables import copies, number
from keras_lrs.schedules import base, numerics

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax
    import jax.numpy as jnp
elif IS_TORCH:
    import torch


# --- Order ---

# When data ends, a TensorFlow graph still runs what does not depend on it.
_batch: contextvars.ContextVar[list] = contextvars.ContextVar("keras_lrs_batch")


@contextlib.contextmanager
def with_batch(data: Any) -> Iterator[None]:
    """Notes the tensors of a batch, for `after_batch` within the block."""
    flat = tf.nest.flatten(data, expand_composites=True) if IS_TENSORFLOW else []
    token = _batch.set([one for one in flat if tf.is_tensor(one)])
    try:
        yield
    finally:
        _batch.reset(token)


def after_batch(gradients: Any) -> contextlib.AbstractContextManager:
    """Makes a TensorFlow graph run the block only when it has a batch.

    The block also waits for the last gradient, which is computed first, because reading
    variables before backpropagation only slows the forward pass. If the batch is not
    known, the block waits for all gradients, because at least one depends on the batch.
    Then no update overlaps with backpropagation.
    """
    if not IS_TENSORFLOW or tf.executing_eagerly():
        return contextlib.nullcontext()
    found = [gradient for gradient in gradients if gradient is not None]
    batch = _batch.get([])
    awaited = [*batch, *found[-1:]] if batch else found
    return tf.control_dependencies([getattr(one, "values", one) for one in awaited])


def undivided() -> contextlib.AbstractContextManager:
    """Makes Ctrl-C wait for the end of an update of one variable after the other."""
    if IS_TENSORFLOW and not tf.executing_eagerly():  # A graph runs as a whole.
        return contextlib.nullcontext()
    return interrupts.deferred()


@scopes.closed
def before_forward(model: Any, arguments: tuple, act: Any) -> tuple:
    """Calls `act()`, which sets variables, and returns the new `train_step` arguments.

    On JAX a step receives the values of all variables, and reads only these.
    """
    if not IS_JAX:
        with after_batch(()):
            act()
        return arguments
    (trainable, non_trainable, own, metrics), *data = arguments
    mapping = list(zip(model.optimizer.variables, own, strict=True))
    with keras.StatelessScope(mapping) as scope:
        act()
    new = [scope.get_current_value(one) for one in model.non_trainable_variables]
    non_trainable = [
        before if value is None else value
        for before, value in zip(non_trainable, new, strict=True)
    ]
    return (trainable, non_trainable, own, metrics), *data


def outside_of_graph() -> contextlib.AbstractContextManager:
    """Makes TensorFlow compute eagerly within the block, even in a trace."""
    traced = IS_TENSORFLOW and not tf.executing_eagerly()
    # The replicas of a strategy create variables together.
    if not traced or tf.distribute.has_strategy():
        return contextlib.nullcontext()
    return tf.init_scope()


def unconverted(function: Any) -> Any:
    """Returns a function that compilers of a user's step call without rewriting it."""
    if IS_TENSORFLOW:
        return tf.autograph.experimental.do_not_convert(function)
    return uncompiled(function)


def uncompiled(function: Any) -> Any:
    """Returns a function that PyTorch's compiler skips, because it reads numbers."""
    return torch.compiler.disable(function) if IS_TORCH else function


# --- Values ---


def evaluate(schedule: Any, step: Any) -> Any:
    """Returns the value of any schedule: a float for an int, a tensor for a tensor."""
    if isinstance(step, int):
        return base.evaluate(schedule, max(step, 0))
    step = numerics.to_steps(step)
    return numerics.to_learning_rate(base.evaluate(schedule, step), step)


def value_of(variable: Any) -> Any:
    """Returns the current number: a Python number on PyTorch, else a tensor."""
    if IS_TORCH:
        return number(variable)
    value = variable.value if isinstance(variable, keras.Variable) else variable
    # On TensorFlow the value is the variable itself, which later assignments change.
    return tf.identity(value) if IS_TENSORFLOW else value


def iterations(optimizer: Any) -> Any:
    """Returns how often `apply` was called before, including micro-batches."""
    return value_of(optimizer._iterations)


def values_of(variables: list) -> list:
    """Returns the current values of variables."""
    return _values(variables) if IS_JAX else copies(variables)


def power(beta: Any, exponent: Any) -> Any:
    """Returns a beta to the power of a count, rounded like Keras."""
    if isinstance(beta, float) and isinstance(exponent, int):
        return float(np.float32(beta) ** np.float32(exponent))
    dtype = numerics.float_dtype()
    return ops.power(ops.cast(beta, dtype), ops.cast(exponent, dtype))


def ratio(value: Any, variable: Any, known: Any) -> Any:
    """Returns a value divided by a variable's; 1 if the variable's is not known."""
    if IS_TORCH:
        previous = variable.value
        return torch.where(previous > 0.0, value / previous, 1.0) if known else 1.0
    previous = ops.cast(variable.value, value.dtype)
    known = ops.logical_and(known, previous > 0.0)
    return ops.where(known, value / ops.where(known, previous, 1.0), 1.0)


def times(rate: Any, factor: Any) -> Any:
    """Multiplies a rate, which may be a variable, by a number."""
    if IS_TORCH and isinstance(rate, keras.Variable):
        # Keras would make the number a tensor first, and PyTorch copy it to the GPU.
        rate = rate.value
    return rate * factor


def norm(tensors: list, order: int) -> Any:
    """Returns the norm of order 1 or 2 over all entries of tensors, in float32."""
    # Squares of 16-bit values would overflow.
    tensors = [ops.cast(tensor, "float32") for tensor in tensors]
    if IS_TORCH:
        return torch.nn.utils.get_total_norm(tensors, order).detach()
    if order == 1:
        return sum(ops.sum(ops.abs(tensor)) for tensor in tensors)
    return ops.sqrt(sum(ops.sum(ops.square(tensor)) for tensor in tensors))


def stacked(norms: list) -> np.ndarray:
    """Returns norms that were kept as tensors, on the host."""
    return ops.convert_to_numpy(ops.stack(norms)) if norms else np.zeros(0)


def dense(gradients: list) -> list:
    """Returns dense gradients, because those of embeddings may repeat a row."""
    if IS_TENSORFLOW:
        return [tf.convert_to_tensor(gradient) for gradient in gradients]
    return [ops.convert_to_tensor(gradient, sparse=False) for gradient in gradients]


def sum_of_replicas(tensors: list) -> list:
    """Returns the sums of tensors over the replicas of a TensorFlow strategy."""
    if not IS_TENSORFLOW or tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensors
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


# --- Assigning to variables ---


def assign(variable: Any, value: Any) -> None:
    """Sets a variable to a number."""
    if IS_TORCH:
        # Filling does not wait, but a tensor made from a number is copied to the GPU.
        with scopes.no_grad():
            variable.value.fill_(value)
    else:  # Bypasses a run's `assign`, which is for users' calls.
        type(variable).assign(variable, value)


def set_variable(variable: Any, value: Any) -> None:
    """Sets a variable of a model, even if replicas may not assign to it."""
    if IS_TORCH:
        assign(variable, value)
    else:
        value = ops.cast(value, variable.dtype)
        _on_each_replica(_assigned, [variable], [value])


def scale(variables: list, factor: Any) -> None:
    """Multiplies variables by a number."""
    if IS_TORCH:
        with scopes.no_grad():
            torch._foreach_mul_(_values(variables), factor)
        return

    def scaled(variable, factor):
        value = ops.convert_to_tensor(variable)
        variable.assign(value * ops.cast(factor, value.dtype))

    _on_each_replica(scaled, variables, [factor] * len(variables))


def interpolate(pairs: list[tuple[Any, Any]], share: Any, always: bool) -> None:
    """Moves averages by a share of their distance towards the weights.

    It computes `a + c (w - a)`, because with `(1 - c) a + c w` the error of `1 - c`
    would accumulate.

    Args:
        pairs: Weights and their averages.
        share: The number c, from 0 to 1.
        always: Whether c is always above 0.
    """
    averages = [average for _, average in pairs]
    weights = [weight for weight, _ in pairs]
    if IS_TORCH:
        if share > 0.0:
            values = _values(averages)
            wide = [
                weight.to(value.dtype)
                for weight, value in zip(_values(weights), values, strict=True)
            ]
            with scopes.no_grad():
                torch._foreach_lerp_(values, wide, share)
        return

    def move(average, weight, share):
        old = ops.convert_to_tensor(average)
        weight = ops.cast(weight, old.dtype)

        def moved():
            return old + ops.cast(share, old.dtype) * (weight - old)

        def act():
            handle = _handle(average)
            if handle is None:
                average.assign(moved())
            else:  # The same number in two passes over the memory instead of four.
                tf.raw_ops.ResourceApplyGradientDescent(
                    var=handle, alpha=ops.cast(share, old.dtype), delta=old - weight
                )
            return True

        if IS_JAX:
            value = moved() if always else jax.lax.cond(share > 0.0, moved, lambda: old)
            average.assign(value)
        elif always:
            act()
        else:
            tf.cond(share > 0.0, act, lambda: True)

    _on_each_replica(move, averages, weights, [share] * len(pairs))


def copy(targets: list, sources: list, condition: Any = True) -> None:
    """Assigns the values of variables to others, if a condition holds."""
    if IS_TORCH:
        if condition and targets:
            with scopes.no_grad():
                torch._foreach_copy_(_values(targets), _values(sources))
        return

    def assign(target, source, condition):
        if condition is True:
            target.assign(source)
        elif IS_JAX:
            target.assign(jnp.where(condition, source, target.value))
        else:
            tf.cond(condition, lambda: _assigned(target, source), lambda: True)

    _on_each_replica(assign, targets, sources, [condition] * len(targets))


def cast_copy(targets: list, sources: list) -> None:
    """Assigns the values of variables to others of any type."""

    def assign(target, source):
        target.assign(ops.cast(source, target.dtype))

    _on_each_replica(assign, targets, sources)


def move(variables: list, *moves: tuple[Any, Any, Any]) -> None:
    """Adds `factor * (end - start)` to variables, for each of some moves.

    A move consists of a factor and lists of ends and starts, which are variables or
    tensors. A number stands for a list that repeats it.
    """
    if not variables:
        return
    columns = [
        x if isinstance(x, list) else [x] * len(variables)
        for move in moves
        for x in move
    ]
    thirds = range(0, len(columns), 3)
    if IS_TORCH:
        with scopes.no_grad():
            for i in thirds:
                factors, ends, starts = columns[i : i + 3]
                ways = torch._foreach_sub(_values(ends), _values(starts))
                torch._foreach_add_(_values(variables), ways, alpha=factors[0])
        return

    def moved(variable, *entries):
        value = ops.convert_to_tensor(variable)
        for i in thirds:
            factor, end, start = entries[i : i + 3]
            value = value + ops.cast(factor, value.dtype) * (end - start)
        variable.assign(value)

    _on_each_replica(moved, variables, *columns)


def _handle(variable):
    """Returns the handle of a TensorFlow variable, if it is one on one device."""
    value = variable._value if isinstance(variable, keras.Variable) else variable
    is_one = not isinstance(value, tf.distribute.DistributedValues)
    return value.handle if is_one and value.dtype in (tf.float32, tf.float64) else None


def _values(variables):
    return [v.value if isinstance(v, keras.Variable) else v for v in variables]


def _assigned(target, source):
    target.assign(source)
    return True


def _on_each_replica(function, variables, *lists):
    """Calls `function(variable, *entries)`, on each replica of a strategy if any."""
    columns = [_values(one) for one in lists]
    if IS_TENSORFLOW and tf.distribute.has_strategy():
        extended, plain = tf.distribute.get_strategy().extended, function

        def function(variable, *entries):
            extended.update(variable, plain, args=entries, group=False)

        variables = _values(variables)
    for variable, *entries in zip(variables, *columns, strict=True):
        function(variable, *entries)
