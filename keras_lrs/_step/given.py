"""Checks what users want to schedule, and rejects what would have no effect."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import keras

from keras_lrs._keras import optimizers
from keras_lrs._step import groups, hyperparameters
from keras_lrs._step.groups import as_schedule
from keras_lrs._step.optimizer_step import identity
from keras_lrs.schedules.open_ended import Constant
from keras_lrs.schedules.per_variable import PerVariable, pairs_of

Value: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule | PerVariable
"""The value of a hyperparameter: a number, a schedule, or one of these per group."""
Values: TypeAlias = Value | Mapping[str, Value]
"""One value for all optimizers, or one for each by its name."""
Multipliers: TypeAlias = Mapping[
    str, float | keras.optimizers.schedules.LearningRateSchedule
]
"""Numbers or schedules by the patterns of the groups of variables."""


def checked(
    learning_rate: Any, rate_multipliers: Any, schedules: dict[str, Any]
) -> dict[str, Any]:
    """Returns everything to be scheduled, by the names of arguments.

    Each value is a schedule, a `PerVariable`, or a dictionary from the names of
    optimizers to these. The multipliers are a `PerVariable`.
    """
    if learning_rate is not None:
        schedules = {groups.RATE: learning_rate, **schedules}
    if not schedules and rate_multipliers is None:
        raise ValueError(
            "At least one hyperparameter must be given a schedule, such as "
            "`learning_rate=`. Received: none"
        )
    found = {name: _schedules(name, value) for name, value in schedules.items()}
    if rate_multipliers is not None:
        name = groups.MULTIPLIERS
        found[name] = PerVariable(pairs_of(name, rate_multipliers))
    return found


def _schedules(name, value):
    """Returns a schedule, or a dictionary from names of optimizers to schedules."""
    if not isinstance(value, dict) or not value:
        return hyperparameters.as_schedule(name, value, value)
    return {
        key: hyperparameters.as_schedule(name, one, value) for key, one in value.items()
    }


def check_decay(value: PerVariable, found: list) -> None:
    """Raises if weight decay of groups would have no effect in built optimizers."""
    zero = identity(Constant(0.0))
    by_pattern = {p: identity(as_schedule(one)) for p, one in value.values}
    own = [vars(one).get(name) for one in found for name in groups.DECAYS]
    if not any(own) and all(one == zero for one in by_pattern.values()):
        kinds = ", ".join(f"`{type(one).__name__}`" for one in found)
        raise ValueError(
            f"Argument `weight_decay` would change nothing: {kinds} has no weight "
            "decay to exclude variables from. Construct the optimizer with "
            "`weight_decay=`, or give the other variables a weight decay with a last "
            f"pattern '.*'. Received: weight_decay={value!r}"
        )
    acting = {
        value.pattern_of(variable.path)
        for one in found
        for variable in optimizers.trained_of_model(one)
        if optimizers.decays(one, variable)
    }
    for pattern, one in by_pattern.items():
        if pattern not in acting and one != zero:
            raise ValueError(
                "Argument `weight_decay` would change nothing for the pattern "
                f"{pattern!r}: `exclude_from_weight_decay` excludes all variables that "
                f"it matches. Received: weight_decay={value!r}"
            )
