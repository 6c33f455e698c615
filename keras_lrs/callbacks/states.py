"""What callbacks remember, of this library and others, in checkpoints."""

import warnings
from typing import Any

from keras_lrs._keras import fit_loop


def of(callbacks: list) -> list[list]:
    """Pairs of the name of a class and what a callback of it remembers."""
    return [
        [_name(callback), remembered]
        for callback in callbacks
        if (remembered := _state(callback))
    ]


def matched(callbacks: list, states: list) -> list[tuple[Any, dict[str, Any]]]:
    """Pairs of callbacks and their states, by the names of the classes."""
    left, found = list(states), []
    for callback in callbacks:
        own = [item for item in left if item[0] == _name(callback)][:1]
        for item in own:
            left.remove(item)
            found.append((callback, item[1]))
    if left:
        names = ", ".join(f"`{name}`" for name, _ in left)
        warnings.warn(
            f"This run resumes without callbacks that it had: {names}.",
            stacklevel=3,
        )
    return found


def _name(callback):
    return type(callback).__name__


def _state(callback):
    """What a callback remembers; None if it is not known to remember anything."""
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        return callback.get_state()
    return fit_loop.remembered(callback)
