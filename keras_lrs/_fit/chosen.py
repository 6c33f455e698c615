"""The argument `optimizers` of callbacks: the optimizers that a callback acts in."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_lrs._fit.progress import Progress
from keras_lrs._keras import optimizers
from keras_lrs.schedules import fields

Optimizers = str | keras.Optimizer | Sequence[str | keras.Optimizer] | None
"""Optimizers or their names, one or several; None means all."""

_KIND = "be an optimizer, its name, or a list of those"


def check(given: Any) -> tuple | None:
    """Returns the argument as a tuple of names and optimizers; None if not given."""
    if given is None:
        return None
    if isinstance(given, (str, keras.Optimizer)):
        return (given,)
    found = fields.items("optimizers", given, _KIND)
    if not found:
        fields.refuse("optimizers", _KIND, given)
    for one in found:
        if not isinstance(one, (str, keras.Optimizer)):
            fields.refuse("optimizers", _KIND, given, TypeError)
    return found


def find(progress: Progress, given: tuple, strict: bool = True) -> dict[str, Any]:
    """Returns the optimizers that update variables for those given, by their labels.

    Raises:
        ValueError: If the model holds no such optimizer, and `strict`.
    """
    known = progress.known
    found: set[int] = set()
    for one in given:
        leaves = _leaves(progress, known, one)
        if not leaves and strict:
            names = ", ".join(known) or "none"
            bound = f"be optimizers that the model holds, which are {names}"
            fields.refuse("optimizers", bound, one)
        found.update(map(id, leaves))
    return {label: leaf for label, leaf in known.items() if id(leaf) in found}


def _leaves(progress, known, given):
    if isinstance(given, str):
        if given in known:
            return [known[given]]
        root = progress.roots.get(given)
        return [] if root is None else optimizers.leaves(root)
    inside = [one for root in progress.held for one in optimizers.within(root)]
    held = any(given is one for one in inside)
    return optimizers.leaves(given) if held else []
