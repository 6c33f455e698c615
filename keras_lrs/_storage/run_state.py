"""What the state of a run in a checkpoint must be.

A hash shows that a file is as it was written, not that `ResumableTraining` wrote it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _is_count(value):
    return isinstance(value, (int, np.integer)) and value >= 0


def _is_list_of(*kinds):
    return lambda value: (
        isinstance(value, list) and all(isinstance(item, kinds) for item in value)
    )


def _is_list_of_pairs(*kinds):
    return lambda value: (
        isinstance(value, list)
        and all(
            isinstance(pair, list)
            and len(pair) == len(kinds)
            and all(map(isinstance, pair, kinds))
            for pair in value
        )
    )


_NOTHING = type(None)
_SINCE_THE_FIRST: dict[str, Callable[[Any], bool]] = {
    "backend": _is(str),
    "epoch": _is_count,
    "batch": _is_count,
    "steps": lambda value: value is None or _is_count(value),
    "stopped": _is(bool),
    "starts": _is_list_of(int, np.integer),
    "products": _is_list_of(dict),
    "shapes": _is_list_of_pairs(list, str),
    "values": _is_list_of(np.ndarray, np.generic),
    "buffers": _is_list_of(np.ndarray, np.generic),
    "metrics": _is_list_of(np.ndarray, np.generic),
    "logs": _is_list_of(str),
    "callbacks": _is_list_of_pairs(str, object),
    "random": _is(dict),
    "random_at_epoch": _is(dict, _NOTHING),
}
_SINCE_LATER: dict[str, Callable[[Any], bool]] = {
    "began": _is_count,
    "initial": _is(str, _NOTHING),
    "before": _is_list_of(str, _NOTHING),
    "count": _is_count,
    "nth": _is_count,
    "configs": _is(dict),
    "attributes": _is(dict),
    "rates": _is_list_of(float, int, _NOTHING),
    "paces": _is_list_of(str, _NOTHING),
    "rates_set": _is_list_of(float, int, _NOTHING),
    "trained": _is(dict),
    "adapted": _is_list_of(dict),
    "generators": _is_list_of(list),
    "first_batches": _is(dict),
    "data": _is(dict, _NOTHING),
    "callbacks_described": _is_list_of(str),
    "metrics_named": _is_list_of(str),
}


def check(path: Any, state: dict[str, Any]) -> None:
    """Raises `ValueError` if a state lacks something, or if something is of no use.

    Args:
        path: The file, for the message.
        state: Its state.
    """
    missing = _SINCE_THE_FIRST.keys() - state.keys()
    # Later versions add these together; the fit is identified by all of them.
    if "initial" in state:
        missing |= {"before", "count", "nth"} - state.keys()
    if missing:
        raise ValueError(
            f"`{path}` is no checkpoint of `ResumableTraining`: it lacks "
            f"{', '.join(sorted(missing))}."
        )
    for name, is_right in {**_SINCE_THE_FIRST, **_SINCE_LATER}.items():
        if name in state and not is_right(state[name]):
            raise ValueError(
                f"`{path}` is damaged: its {name!r} cannot be {_shown(state[name])}."
            )
    if len(state.get("callbacks_described", state["callbacks"])) != len(
        state["callbacks"]
    ):
        raise ValueError(f"`{path}` is damaged: it describes other callbacks.")
    shapes = [list(np.shape(value)) for value in state["values"]]
    if shapes != [shape for shape, _ in state["shapes"]]:
        raise ValueError(f"`{path}` is damaged: its values have other shapes.")


def _shown(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
