"""Hyperparameters of optimizers, their ranges, and their schedules."""

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import float_values, optimizers
from keras_lrs._step.part import StepPart, Wanted
from keras_lrs._step.update import PastUpdates, Update
from keras_lrs.schedules import base, fields
from keras_lrs.schedules.identity import identity
from keras_lrs.schedules.names import meant
from keras_lrs.schedules.open_ended import Constant
from keras_lrs.schedules.per_variable import PerVariable

# These are read only when the optimizer is built, or are not hyperparameters.
_EXCLUDED = ("initial_accumulator_value", "loss_scale_factor", "beta_2_decay")
CLIPPING = ("clipnorm", "global_clipnorm", "clipvalue")
_OPTIONAL = ("weight_decay", *CLIPPING)
# Shares of old values that averages keep.
_AVERAGING = re.compile("(^|_)(momentum|beta_[12]|rho)$")
_MOMENTUM = re.compile("(^|_)(momentum|beta_1)$")


def names(optimizer: Any) -> list[str]:
    """Returns what can be scheduled: the rate, and numbers that every step reads."""
    attributes = vars(optimizer)
    return ["learning_rate"] + [
        name
        for name in optimizer.get_config()
        if name in attributes
        and name not in _EXCLUDED
        and (
            isinstance(attributes[name], float)
            or name in _OPTIONAL
            or (_AVERAGING.search(name) and type(attributes[name]) is int)
        )
    ]


def is_momentum(name: str) -> bool:
    """Whether a hyperparameter is the decay of an average of gradients."""
    return bool(_MOMENTUM.search(name))


def check_name(optimizer: Any, name: str, beside: Sequence[str] = ()) -> None:
    """Raises `ValueError` if `name` cannot be scheduled, and says what can.

    `beside` are the names that are scheduled already.
    """
    kind = type(optimizer).__name__
    source = optimizers.rate_source(optimizer)
    if name == "learning_rate" and not isinstance(source, keras.Variable):
        raise ValueError(
            f"Argument `learning_rate` cannot be scheduled: the optimizer `{kind}` "
            "already holds a schedule or a function. Construct it with a float, which "
            f"the schedule replaces. Received: {source!r}"
        )
    available = names(optimizer)
    if name not in available:
        found = meant(name, available)
        hint = "" if found is None else f"Use `{found}`. "
        raise ValueError(
            f"Argument `{name}` is not a hyperparameter of `{kind}`. {hint}It has: "
            f"{', '.join(available)}. For a number of the model, such as the weight of "
            "a loss term, use `VariableScheduler`"
        )
    if optimizers.is_taken_over(optimizer) and is_momentum(name):
        raise ValueError(
            f"Argument `{name}` cannot be scheduled: `beta` of `ScheduleFree` is used "
            f"instead of a momentum of `{kind}`."
        )
    value = getattr(optimizer, name)
    # Without a momentum the optimizer creates no velocity.
    unused = {
        "momentum": ("a momentum that is not 0", value == 0),
        "ema_momentum": ("use_ema=True", not optimizer.use_ema),
    }
    how, is_unused = unused.get(name, ("", False))
    if is_unused:
        raise ValueError(
            f"Argument `{name}` cannot be scheduled: this `{kind}` does not use it. "
            f"Construct it with {how}. Received: {name}={value}"
        )
    for other in CLIPPING if name in CLIPPING else ():
        given = getattr(optimizer, other) is not None or other in beside
        if other != name and given:
            raise ValueError(
                f"Argument `{name}` cannot be scheduled together with `{other}` of "
                f"`{kind}`: an optimizer clips in only one way. Received: "
                f"{other}={getattr(optimizer, other)}"
            )


def sampled(schedule: Any, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most 10,001 steps of a run, including both ends, and their values."""
    # All steps of a short run: `fit` may be called often with few steps.
    count = min(num_steps, 10_000)
    steps = np.arange(count + 1) * num_steps // max(count, 1)
    return steps, np.asarray(base.evaluate(schedule, steps))


def as_schedule(name: str, value: Any, given: Any) -> Any:
    """Returns a schedule or a `PerVariable`; a number becomes a constant schedule.

    Raises `TypeError` for any other value, and shows the argument `given`.
    """
    if fields.is_number(value):
        return Constant(fields.validate(name, value, fields.rate()))
    schedule = keras.optimizers.schedules.LearningRateSchedule
    if not isinstance(value, (schedule, PerVariable)):
        bound = (
            "be a `LearningRateSchedule` or a number; use `FunctionSchedule` for a "
            "function of the step, and `PerVariable` for groups of variables"
        )
        fields.refuse(name, bound, given, TypeError)
    return value


def check_values(name: str, schedule: Any, num_steps: int) -> None:
    """Raises `ValueError` if a schedule leaves the range of its hyperparameter.

    It checks at most 10,001 steps, including both ends.
    """
    steps, values = sampled(schedule, num_steps)
    good = np.isfinite(values) & (values >= 0.0)
    constraint = ">= 0 and finite"
    if _AVERAGING.search(name):
        good &= values < 1.0
        constraint = "in [0, 1)"
    if not good.all():
        worst = np.argmin(good)
        raise ValueError(
            f"Argument `{name}` must be a schedule whose values are {constraint}. "
            f"Received: {values[worst]:g} at step {steps[worst]}, from {schedule!r}"
        )


class Hyperparameter(StepPart):
    """Drives a hyperparameter by a schedule.

    Args:
        step: The optimizer's step.
        name: The name of the hyperparameter in the optimizer's arguments.
        schedule: Its bound schedule.
    """

    def __init__(self, step: Any, name: str, schedule: Any):
        super().__init__(step)
        self.name, self.schedule = name, schedule

    @staticmethod
    def check(callback: Any, wanted: Wanted, beside: list[Wanted]) -> None:
        """Raises if the optimizer has no such hyperparameter, or does not use it."""
        others = [w.slot for w in beside if issubclass(w.kind, Hyperparameter)]
        check_name(wanted.optimizer, wanted.slot, others)

    @staticmethod
    def bind(run: Any, name: str, schedule: Any) -> tuple:
        """Binds the schedule."""
        return name, run.bind(name, schedule)

    @staticmethod
    def key(name: str, schedule: Any) -> Any:
        """Returns a key that is equal for the same name with an equal schedule."""
        return name, identity(schedule)

    @staticmethod
    def covers(name: str, schedule: Any) -> tuple[str, ...]:
        """Returns the attribute, except for the rate, which the step itself sets."""
        return () if name == "learning_rate" else (name,)

    def rebind(self, last: int, name: str, schedule: Any) -> bool:
        """Takes another schedule of the hyperparameter."""
        before, self.schedule = self.schedule, schedule
        return base.agree(before, schedule, last)

    def values(self, update: Update | PastUpdates) -> None:
        """Evaluates the schedule."""
        update.values[self.name] = update.evaluate(self.schedule)

    def before(self, update: Update) -> None:
        """Puts the value where the optimizer looks for its float."""
        if self.name != "learning_rate":
            value = float_values.hyperparameter(update.values[self.name])
            update.put(self.name, value)


class ReplacedRate(Hyperparameter):
    """Drives the learning rate, wherever the optimizer takes it from."""

    @staticmethod
    def check(callback: Any, wanted: Wanted, beside: list[Wanted]) -> None:
        """Accepts any rate."""


def wanted(optimizer: Any, name: str, schedule: Any) -> Wanted:
    """Returns the request by which a schedule drives a hyperparameter."""
    return Wanted(optimizer, Hyperparameter, (name, schedule), slot=name)
