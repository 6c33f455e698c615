"""Describes schedules in flat dictionaries, for tools that log runs."""

import dataclasses
import numbers
from typing import Any

import keras
import numpy as np

from keras_lrs.schedules import base
from keras_lrs.schedules.per_variable import PerVariable

_MOST_STEPS = 2**20  # Longer runs are sampled to find the peak.
_MOST_ITEMS = 16  # Longer lists are summarized: MLflow limits values.


def described(
    schedules: dict[str, Any], run: Any, found: dict[str, Any]
) -> dict[str, str | int | float]:
    """Lists all arguments of schedules, and the lengths of the run they are bound to.

    Args:
        schedules: Schedules, or dictionaries from labels of optimizers to schedules.
        run: The run that they are bound to; None if they are not bound.
        found: The optimizers by their labels; empty to describe the run as a whole.
    """
    result: dict[str, Any] = {}
    for name, given in schedules.items():
        by_label = given if isinstance(given, dict) else {None: given}
        for label, schedule in by_label.items():
            key = name if label is None else f"{name}/{label}"
            _add(result, key, schedule)
            chosen = [one for one in found if label in (None, one)]
            num_steps = (
                0 if run is None else _steps(run, [found[one] for one in chosen])
            )
            if num_steps and not isinstance(schedule, PerVariable):
                result[f"{key}.peak"] = _peak(schedule, num_steps)
    return result | _lengths(run)


def described_average(callback: Any) -> dict[str, str | int | float]:
    """Lists the arguments of an average, and when its callback updates it.

    Args:
        callback: The `WeightAveraging`.
    """
    run = callback.run
    if run is not None and not run.begun:
        run = None
    result: dict[str, Any] = {}
    _add(result, "average", callback.average)
    for name in ("start_step", "update_every", "batch_norm"):
        value = getattr(callback, name)
        if run is not None and not isinstance(value, str):
            value = run.progress.length(value)
        _add(result, f"average.{name}", value)
    return result | _lengths(run)


def _lengths(run):
    """Returns the lengths of a run that are known."""
    if run is None:
        return {}
    progress = run.progress
    found = (progress.epochs, progress.steps_per_epoch, progress.total)
    names = ("run.epochs", "run.steps_per_epoch", "run.steps")
    return {name: value for name, value in zip(names, found, strict=True) if value}


def _steps(run, found):
    """Returns how many steps the first optimizer makes in a run; 0 if not known."""
    with run.progress.paces.within(found[0] if found else None):
        return run.progress.total or 0


def _peak(schedule, num_steps):
    """Returns the largest value of a run, approximately for very long runs."""
    steps = np.linspace(0, num_steps - 1, min(num_steps, _MOST_STEPS)).astype(np.int64)
    return float(np.max(base.evaluate(schedule, steps)))


def _add(result, key, value):
    """Adds a value, and its own arguments under keys that begin with its key."""
    if isinstance(value, PerVariable):
        # Patterns contain characters that tools reject in keys.
        result[key] = "PerVariable"
        for index, (pattern, inside) in enumerate(value.values):
            result[f"{key}.{index}.pattern"] = pattern
            _add(result, f"{key}.{index}", inside)
    elif isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        result[key] = type(value).__name__
        for name, inside in _arguments(value).items():
            _add(result, f"{key}.{name}", inside)
    elif isinstance(value, (tuple, list)):
        _add_list(result, key, value)
    elif isinstance(value, numbers.Number):
        result[key] = value.item() if isinstance(value, np.generic) else value
    elif value is not None:
        result[key] = getattr(value, "__name__", None) or str(value)


def _add_list(result, key, values):
    kind = keras.optimizers.schedules.LearningRateSchedule
    if any(isinstance(value, kind) for value in values):
        for index, value in enumerate(values):
            _add(result, f"{key}.{index}", value)
    elif len(values) > _MOST_ITEMS:
        result[key] = f"{len(values)} values, from {values[0]} to {values[-1]}"
    else:
        result[key] = ", ".join(map(str, values))


def _arguments(schedule):
    """Returns the arguments of a schedule by name."""
    if dataclasses.is_dataclass(schedule):
        names = [field.name for field in dataclasses.fields(schedule)]
        return {name: getattr(schedule, name) for name in names}
    try:
        return schedule.get_config()
    except NotImplementedError:  # A user's schedule that cannot be saved.
        return {}
