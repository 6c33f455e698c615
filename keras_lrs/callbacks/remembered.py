"""What the callbacks of a run remember, which a checkpoint holds."""

import hashlib
import warnings
from typing import Any

import keras

from keras_lrs._fit.run import Run
from keras_lrs._keras import fit_loop
from keras_lrs._storage import tree
from keras_lrs.callbacks import resumption
from keras_lrs.callbacks.base import FitCallback

_PLAIN = (str, int, float, bool, type(None))
_MOST_BITS = 1024


class Siblings:
    """The callbacks in the list of a run that begins.

    Callbacks of one class are distinguished by the numbers and strings that they hold
    before they train, such as the arguments of `EarlyStopping`.

    Args:
        run: The run.
    """

    def __init__(self, run: Run):
        self._callbacks = list(run.siblings)
        self._described = list(map(_description, self._callbacks))

    def check(self) -> None:
        """Raises `TypeError` for a user's state that cannot be written.

        A state that a callback does not have before it trains is checked when it is
        written.
        """
        for callback in self._callbacks:
            if _tells(callback) and not isinstance(callback, FitCallback):
                try:
                    found = callback.get_state()
                except Exception:
                    continue
                _check(callback, found)

    def state(self) -> dict[str, list]:
        """Returns the part of a checkpoint that holds the states of callbacks."""
        states, described = [], []
        for callback, text in zip(self._callbacks, self._described, strict=True):
            if found := _state(callback):
                states.append([_name(callback), found])
                described.append(text)
        return {"callbacks": states, "callbacks_described": described}

    def matched(self, found: dict[str, Any]) -> list[tuple[Any, Any]]:
        """Pairs callbacks with their states in a checkpoint.

        Args:
            found: The checkpoint's state.
        """
        states = found["callbacks"]
        texts = found.get("callbacks_described", [None] * len(states))
        left = [(*pair, text) for pair, text in zip(states, texts, strict=True)]
        pairs: list[tuple[Any, Any]] = []
        # First those whose arguments are the same, then the others in their order.
        waiting = list(zip(self._callbacks, self._described, strict=True))
        for alike in (True, False):
            unpaired = []
            for callback, text in waiting:
                own = [
                    item
                    for item in left
                    if item[0] == _name(callback) and (item[2] == text or not alike)
                ]
                if not own:
                    unpaired.append((callback, text))
                    continue
                pairs.append((callback, own[0][1]))
                left = [item for item in left if item is not own[0]]
            waiting = unpaired
        if left:
            names = ", ".join(f"`{name}`" for name, *_ in left)
            warnings.warn(
                f"This run resumes without callbacks of the interrupted run: {names}.",
                stacklevel=3,
            )
        return pairs


def restore(callback: Any, state: Any, path: Any) -> None:
    """Gives one of the user's callbacks, or Keras's, its state in a checkpoint."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)  # Raises the user's own errors.
        return
    with resumption.restoring(path):
        fit_loop.remind(callback, state)


def _state(callback):
    """Returns what a callback remembers; None if no state of it is known."""
    if not _tells(callback):
        return _writable(fit_loop.remembered(callback), _name(callback))
    found = callback.get_state()
    if not isinstance(callback, FitCallback):
        _check(callback, found)
    return found


def _writable(value, name):
    """Returns what one of Keras's callbacks remembers in a form for files.

    Variables and tensors, which others put into `logs`, become numbers and arrays.
    """
    if isinstance(value, dict):
        return {key: _writable(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(item, name) for item in value]
    if isinstance(value, keras.Variable) or keras.ops.is_tensor(value):
        array = keras.ops.convert_to_numpy(value)
        return array.item() if array.ndim == 0 else array
    try:
        tree.check(value)
    except TypeError:
        warnings.warn(
            f"`{name}` holds a `{type(value).__name__}`, which a checkpoint cannot "
            "hold. A run that resumes has None instead.",
            stacklevel=2,
        )
        return None
    return value


def _check(callback, state):
    try:
        tree.check(state)
    except TypeError as error:
        raise TypeError(
            f"`{_name(callback)}.get_state()` returned what a checkpoint cannot hold. "
            f"{error}"
        ) from None


def _tells(callback):
    return hasattr(callback, "get_state") and hasattr(callback, "set_state")


def _description(callback):
    plain = {
        name: value
        for name, value in vars(callback).items()
        if isinstance(value, _PLAIN)
        and not name.startswith("_")
        # Python refuses to write longer ones.
        and not (isinstance(value, int) and value.bit_length() > _MOST_BITS)
    }
    text = repr(sorted(plain.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _name(callback):
    return type(callback).__name__
