"""Closes scopes of Keras and PyTorch that an interruption may leave open."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from keras.src.backend.common import global_state

from keras_lrs._keras.backend import IS_TORCH

if IS_TORCH:
    import torch

_STATELESS = "stateless_scope"


def closed(function: Callable) -> Callable:
    """Makes a function close the scopes that it opened, even if it is interrupted.

    A `with` whose end is interrupted leaves its scope open. JAX's `fit`, which then
    writes its state into the variables, would write it into the scope.
    """

    @functools.wraps(function)
    def call(*arguments, **keywords):
        found = state()
        try:
            try:
                return function(*arguments, **keywords)
            finally:
                set_state(found)
        finally:
            set_state(found)  # The first call may have been interrupted.

    return call


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Disables PyTorch's gradients until the block ends, even if that is interrupted.

    `torch.no_grad` leaves them disabled if Ctrl-C arrives just before its `__exit__`.
    Python closes a generator that the frame drops.
    """
    found = torch.is_grad_enabled()
    try:
        try:
            torch.set_grad_enabled(False)
            yield
        finally:
            torch.set_grad_enabled(found)
    finally:
        torch.set_grad_enabled(found)  # The first call may have been interrupted.


def state() -> tuple[Any, bool]:
    """Returns the innermost `keras.StatelessScope`, and if PyTorch has gradients."""
    scope = global_state.get_global_attribute(_STATELESS)
    return scope, IS_TORCH and torch.is_grad_enabled()


def set_state(found: tuple[Any, bool]) -> None:
    """Closes the scopes that were opened since `state` returned this."""
    scope, computes = found
    global_state.set_global_attribute(_STATELESS, scope)
    if IS_TORCH:
        torch.set_grad_enabled(computes)
