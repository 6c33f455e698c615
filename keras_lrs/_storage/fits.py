"""Finds the `fit` of a program to which a checkpoint belongs.

A program may call `fit` several times with one folder. If it was killed in a later
`fit` and runs again, it first comes to the earlier ones. A `fit` is identified by its
initial weights or, if these are random, by the number of fits before it.
"""

import dataclasses
import weakref
from typing import Any

from keras_lrs._storage.remote import resolved

_MOST = 64  # Fits that are remembered per folder; others are only counted.
_MOST_FOLDERS = 256


@dataclasses.dataclass(frozen=True)
class Fit:
    """One call of `fit` with a folder.

    Args:
        updates: The optimizer's iterations when it begins.
        initial: The hash of its initial weights; None if it is not known.
        before: The initial hashes of the fits with this folder that this process has
            completed.
        count: The number of these fits.
        sample: A sample that distinguishes its arrays from others; None if it is not
            known.
        completed: The hashes with which completed fits of the same model began and
            ended.
        nth: How many of these fits trained the same model.
        broken: The initial hash of a fit of the same model that was interrupted here.
    """

    updates: int
    initial: str | None = None
    before: tuple[str | None, ...] = ()
    count: int = 0
    sample: Any = None
    completed: tuple[tuple[str | None, str], ...] = ()
    nth: int = 0
    broken: str | None = None

    def state(self) -> dict[str, Any]:
        """Returns the part of a checkpoint that identifies the fit."""
        return {
            "began": self.updates,
            "initial": self.initial,
            "before": list(self.before),
            "count": self.count,
            "sample": self.sample,
            "nth": self.nth,
        }

    def continued(self, state: dict[str, Any]) -> "Fit":
        """Returns the fit that wrote a state, which this one continues, or itself."""
        known: dict[str, Any] = {
            k: state[k] for k in ("initial", "count", "nth") if k in state
        }
        if "before" in state:
            known["before"] = tuple(state["before"])
        updates = state.get("began", 0) if state else self.updates
        return dataclasses.replace(self, updates=updates, **known)

    def wrote(self, state: dict[str, Any]) -> bool:
        """Whether this fit wrote a state, perhaps in another process."""
        is_earlier = state.get("began", 0) > self.updates
        if self.initial is None or state.get("initial") is None:
            return not is_earlier
        if state["initial"] == self.broken:
            return True
        if state["initial"] == self.initial:
            # A later fit of the program may begin with the same weights and data.
            is_later = state["count"] > self.count
            return not (is_later and self.initial in state["before"])
        again = (state["initial"], self.initial) in self.completed
        if again and self.sample is not None:
            # It is the same call once more, unless its data differs.
            return state.get("sample") == self.sample
        if self.initial in state["before"] or is_earlier:
            return False
        return (state["count"], state["nth"]) == (self.count, self.nth)


class _Folder:
    """The fits of this process that used a folder."""

    def __init__(self) -> None:
        self.count = 0
        self.completed: tuple[str | None, ...] = ()
        # For each model, the first and last hashes of completed fits, and the first one
        # of the interrupted fit.
        self.models: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


_FOLDERS: dict[str, _Folder] = {}


def _folder(directory):
    # Symbolic links and `..` may lead to one folder.
    name = str(resolved(directory))
    # The most recently used folder comes last.
    _FOLDERS[name] = _FOLDERS.pop(name) if name in _FOLDERS else _Folder()
    if len(_FOLDERS) > _MOST_FOLDERS:
        del _FOLDERS[next(iter(_FOLDERS))]
    return _FOLDERS[name]


def begins(directory: Any, model: Any, updates: int, initial: str, sample: Any) -> Fit:
    """Notes that a fit of a model begins.

    Args:
        directory: The folder.
        model: The model.
        updates: The optimizer's iterations.
        initial: The hash of the model's weights and data.
        sample: A sample that distinguishes its arrays from others; None if it is not
            known.
    """
    folder = _folder(directory)
    done, broken = folder.models.get(model, ((), None))
    return Fit(
        updates,
        initial,
        folder.completed,
        folder.count,
        sample,
        done,
        len(done),
        broken,
    )


def breaks_off(directory: Any, model: Any, fit: Fit) -> None:
    """Notes the initial hash of a fit in case it does not complete.

    A later fit of this model then continues it.
    """
    folder = _folder(directory)
    done, _ = folder.models.get(model, ((), None))
    folder.models[model] = (done, fit.initial)


def completed(directory: Any, model: Any, fit: Fit, ended: str) -> None:
    """Notes that a fit of a model is complete.

    Args:
        directory: The folder.
        model: The model.
        fit: The fit.
        ended: The hash of the model's weights and data at the end.
    """
    folder = _folder(directory)
    done, _ = folder.models.get(model, ((), None))
    folder.models[model] = ((*done, (fit.initial, ended))[-_MOST:], None)
    folder.count += 1
    folder.completed = (*folder.completed, fit.initial)[-_MOST:]
