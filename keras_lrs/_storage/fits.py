"""Which `fit` of a program a checkpoint belongs to.

A program may call `fit` several times with one folder. Run again after it was killed in
a later one, it comes to the earlier ones first. Each begins with weights of its own;
or, where these are drawn anew every time, after as many others as before.
"""

import dataclasses
import pathlib
import weakref
from typing import Any

_MOST = 64  # Fits that are remembered of a folder; more are only counted.
_MOST_FOLDERS = 256


@dataclasses.dataclass(frozen=True)
class Fit:
    """One call of `fit` with a folder.

    Args:
        updates: The optimizer's iterations when it begins.
        initial: The hash of the weights that it begins with; None if it is not known.
        before: Those of the fits with this folder that this process has completed.
        count: How many these are.
        nth: How many of them trained the same model.
        broken: The hash that a fit of the same model began with that broke off here.
    """

    updates: int
    initial: str | None = None
    before: tuple[str | None, ...] = ()
    count: int = 0
    nth: int = 0
    broken: str | None = None

    def state(self) -> dict[str, Any]:
        """What its checkpoints say of it."""
        return {
            "began": self.updates,
            "initial": self.initial,
            "before": list(self.before),
            "count": self.count,
            "nth": self.nth,
        }

    def continued(self, state: dict[str, Any]) -> "Fit":
        """The fit that wrote a state, which this one continues; itself if it is new."""
        known: dict[str, Any] = {
            k: state[k] for k in ("initial", "count", "nth") if k in state
        }
        if "before" in state:
            known["before"] = tuple(state["before"])
        updates = state.get("began", 0) if state else self.updates
        return dataclasses.replace(self, updates=updates, **known)

    def wrote(self, state: dict[str, Any]) -> bool:
        """Whether a state is of this fit, called perhaps in another process."""
        is_earlier = state.get("began", 0) > self.updates
        if self.initial is None or state.get("initial") is None:
            return not is_earlier
        if state["initial"] in (self.initial, self.broken):
            return True
        if self.initial in state["before"] or is_earlier:
            return False
        return (state["count"], state["nth"]) == (self.count, self.nth)


class _Folder:
    """What this process has done with a folder."""

    def __init__(self) -> None:
        self.count = 0
        self.completed: tuple[str | None, ...] = ()
        # By the models: how many fits were completed, and what the one that was not
        # began with.
        self.models: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


_FOLDERS: dict[str, _Folder] = {}


def _folder(directory):
    local = isinstance(directory, pathlib.Path)
    name = str(directory.absolute() if local else directory)
    # The one that was used last comes last.
    _FOLDERS[name] = _FOLDERS.pop(name) if name in _FOLDERS else _Folder()
    if len(_FOLDERS) > _MOST_FOLDERS:
        del _FOLDERS[next(iter(_FOLDERS))]
    return _FOLDERS[name]


def begins(directory: Any, model: Any, updates: int, initial: str) -> Fit:
    """Notes that a fit of a model begins.

    Args:
        directory: The folder.
        model: The model.
        updates: The optimizer's iterations.
        initial: The hash of the model's weights.
    """
    folder = _folder(directory)
    nth, broken = folder.models.get(model, (0, None))
    return Fit(updates, initial, folder.completed, folder.count, nth, broken)


def breaks_off(directory: Any, model: Any, fit: Fit) -> None:
    """Notes what a fit of a model began with, unless it is completed.

    A later one of this model continues it.
    """
    folder = _folder(directory)
    folder.models[model] = (fit.nth, fit.initial)


def completed(directory: Any, model: Any, fit: Fit) -> None:
    """Notes that a fit of a model is over."""
    folder = _folder(directory)
    folder.models[model] = (fit.nth + 1, None)
    folder.count += 1
    folder.completed = (*folder.completed, fit.initial)[-_MOST:]
