"""Scheduled values that replace an optimizer's floats, or accompany its variables."""

import sys
from collections.abc import Callable
from typing import Any

from keras_lrs._keras import scopes
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax
elif IS_TORCH:
    import torch


def _is_not_zero(self, other):
    """Makes `momentum != 0` and `clipnorm > 0` true in Python, so that it is used."""
    return True if isinstance(other, (int, float)) and other == 0 else NotImplemented


class _TracedHyperparameter:
    """Wraps a scheduled value so that `if momentum != 0` stays true in the optimizer.

    It converts to a tensor automatically.
    """

    def __init__(self, tensor):
        self.tensor = tensor

    def __tf_tensor__(self, dtype=None, name=None):
        return self.tensor if dtype is None else tf.cast(self.tensor, dtype)

    def __jax_array__(self):
        return self.tensor

    def __bool__(self):
        return True

    def __add__(self, other):
        return self.tensor + other

    def __radd__(self, other):
        return other + self.tensor

    def __sub__(self, other):
        return self.tensor - other

    def __rsub__(self, other):
        return other - self.tensor

    def __mul__(self, other):
        return self.tensor * other

    def __rmul__(self, other):
        return other * self.tensor

    def __truediv__(self, other):
        return self.tensor / other

    def __rtruediv__(self, other):
        return other / self.tensor

    def __neg__(self):
        return -self.tensor

    def __eq__(self, other):
        is_not_zero = _is_not_zero(self, other)
        return is_not_zero if is_not_zero is NotImplemented else not is_not_zero

    __hash__ = None  # type: ignore[assignment]
    __ne__ = __gt__ = __ge__ = _is_not_zero


if IS_JAX:
    # Functions that are compiled by themselves, such as `jnp.clip`, take only these.
    jax.tree_util.register_pytree_node(
        _TracedHyperparameter,
        lambda hyperparameter: ((hyperparameter.tensor,), None),
        lambda _, tensors: _TracedHyperparameter(*tensors),
    )


def hyperparameter(value: Any) -> Any:
    """What an optimizer takes for a float; in Python it never equals 0."""
    if IS_TORCH:
        # Without a momentum the velocity would stand still, where it must be forgotten.
        return value or sys.float_info.min
    return _TracedHyperparameter(value)


def rate_of(optimizer: Any, rate: Any) -> Any:
    """A rate as an optimizer's own variable of it would give it."""
    if not IS_TORCH:
        return rate
    # Filled on the device, and rounded as the variable is.
    device = optimizer._iterations.value.device
    return torch.full((), rate, dtype=torch.float32, device=device)


def repeatable(optimizer: Any) -> Callable[[], None]:
    """Returns a function that undoes what only one call of several updates may do.

    Nadam multiplies the product of its momenta in every call.
    """
    product = getattr(optimizer, "_u_product", None)
    if product is None:
        return lambda: None
    before = product.value.detach().clone()

    def undo():
        with scopes.no_grad():
            product.value.copy_(before)

    return undo
