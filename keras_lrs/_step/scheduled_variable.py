"""Sets variables of a model from schedules before every forward pass."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs._keras import in_step
from keras_lrs._step.hyperparameters import sampled
from keras_lrs._step.optimizer_step import OptimizerStep
from keras_lrs._step.part import StepPart, Wanted
from keras_lrs.schedules import base, numerics
from keras_lrs.schedules.identity import identity


class ScheduledVariable(StepPart):
    """Sets a variable from a schedule before the forward pass.

    The phases of an update come after the forward pass, so this part has none of them,
    and `set_variables` acts on it. Every optimizer of the model has an equal part, so
    that each counts its iterations of this run.

    Args:
        step: The optimizer's step.
        variable: The variable, of shape ().
        schedule: Its bound schedule.
    """

    def __init__(self, step: Any, variable: keras.Variable, schedule: Any):
        super().__init__(step)
        self.variable, self.schedule = variable, schedule
        self.was_set = False

    @staticmethod
    def check(callback: Any, wanted: Wanted, beside: list[Wanted]) -> None:
        """Raises if the variable has a schedule already."""
        if any(other.slot == wanted.slot for other in beside):
            given: Any = wanted.compiled
            raise ValueError(
                f"The variable `{given[0].path}` must have one schedule. Received: two "
                "callbacks that schedule it"
            )

    @staticmethod
    def bind(run: Any, variable: keras.Variable, schedule: Any) -> tuple:
        """Binds the schedule, whose values may be negative."""
        check = functools.partial(check_values, dtype=variable.dtype)
        return variable, run.bind(variable.path, schedule, check)

    @staticmethod
    def key(variable: keras.Variable, schedule: Any) -> Any:
        """Returns a key that is equal for the same variable with an equal schedule."""
        return id(variable), identity(schedule)

    def rebind(self, last: int, variable: keras.Variable, schedule: Any) -> bool:
        """Takes another schedule of the variable."""
        before, self.schedule = self.schedule, schedule
        return base.agree(before, schedule, last)


def wanted(optimizer: Any, variable: keras.Variable, schedule: Any) -> Wanted:
    """Returns the request, for one optimizer, by which a schedule sets a variable."""
    slot = (ScheduledVariable, id(variable))
    return Wanted(optimizer, ScheduledVariable, (variable, schedule), slot=slot)


def check_values(name: str, schedule: Any, num_steps: int, dtype: str) -> None:
    """Raises `ValueError` if a value is not finite in the variable's type."""
    steps, values = sampled(schedule, num_steps)
    held = ops.convert_to_numpy(ops.cast(values, dtype)).astype(np.float64)
    good = np.isfinite(held)
    if not good.all():
        worst = np.argmin(good)
        raise ValueError(
            f"The schedule of `{name}` must have values that are finite in {dtype}. "
            f"Received: {values[worst]:g} at step {steps[worst]}, from {schedule!r}"
        )


def of(steps: list[OptimizerStep]) -> list[ScheduledVariable]:
    """Returns the parts that set variables, of the model's first optimizer."""
    parts = steps[0].parts if steps else []
    return [part for part in parts if isinstance(part, ScheduledVariable)]


def set_variables(steps: list[OptimizerStep]) -> None:
    """Sets all scheduled variables to their values at the step of this forward pass.

    The step is that of the optimizer with the most updates.
    """
    parts = of(steps)
    if not parts:
        return
    step = functools.reduce(numerics.maximum, [one.next_step for one in steps])
    for part in parts:
        part.was_set = True
        in_step.set_variable(part.variable, in_step.evaluate(part.schedule, step))


def values_at(
    steps: list[OptimizerStep],
    at: np.ndarray,
    last: int,
    read: Callable[[list], list[np.ndarray]],
) -> dict[str, np.ndarray]:
    """Returns the values that forward passes at steps of the schedules saw, by path.

    The last forward pass was at or before step `last`, and `read` returns the values
    that it saw. It was earlier if several updates followed it. Then it is not known to
    which forward passes the earlier updates belong, and they are left out.
    """
    found = {}
    for part in of(steps):
        held, *_ = read([part.variable])  # All replicas hold the same.
        values = np.asarray(base.evaluate(part.schedule, np.maximum(at, 0)), np.float64)
        # It was after `last` if a loss scale skipped the update that followed.
        near = base.evaluate(part.schedule, np.maximum([last, last + 1], 0))
        narrow = keras.backend.standardize_dtype(part.variable.dtype).endswith("16")
        if at.tolist() == [last]:
            found[part.variable.path] = held.astype(np.float64).reshape(1)
        elif np.isclose(held, near, rtol=1e-2 if narrow else 1e-5).any():
            found[part.variable.path] = values
    return found
