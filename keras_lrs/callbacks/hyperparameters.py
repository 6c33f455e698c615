"""Which hyperparameters an optimizer has, and which values they may take."""

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lrs import training
from keras_lrs.schedules import base

# Read only when the optimizer is built, or no hyperparameter in the usual sense.
_EXCLUDED = ("initial_accumulator_value", "loss_scale_factor", "beta_2_decay")
_CLIPPING = ("clipnorm", "global_clipnorm", "clipvalue")
_OPTIONAL = ("weight_decay", *_CLIPPING)
# The share of an old value that an average keeps.
_AVERAGING = re.compile("(^|_)(momentum|beta_[12]|rho)$")
_MOMENTUM = re.compile("(^|_)(momentum|beta_1)$")


def names(optimizer: Any) -> list[str]:
    """What can be scheduled: the rate, and numbers that every step reads."""
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


def check_name(optimizer: Any, name: str, beside: Sequence[str] = ()) -> None:
    """Raises `ValueError` if `name` cannot be scheduled, saying what can.

    `beside` are those that are scheduled already.
    """
    kind = type(optimizer).__name__
    source = training.rate_source(optimizer)
    if name == "learning_rate" and not isinstance(source, keras.Variable):
        raise ValueError(
            f"Argument `learning_rate` cannot be scheduled: the optimizer `{kind}` "
            "holds a schedule or a function already. Compile it with a float, which "
            f"the schedule will replace during `fit`. Received: {source!r}"
        )
    available = names(optimizer)
    if name not in available:
        hint = {"momentum": "beta_1", "beta_1": "momentum"}.get(name)
        hint = f"Use `{hint}`. " if hint in available else ""
        raise ValueError(
            f"Argument `{name}` is not a hyperparameter of `{kind}`. {hint}"
            f"It has: {', '.join(available)}"
        )
    if training.is_taken_over(optimizer) and _MOMENTUM.search(name):
        raise ValueError(
            f"Argument `{name}` cannot be scheduled: `beta` of `ScheduleFree` is in "
            f"the place of a momentum of `{kind}`."
        )
    value = getattr(optimizer, name)
    # Without a momentum the optimizer makes no room for a velocity.
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
    for other in _CLIPPING if name in _CLIPPING else ():
        given = getattr(optimizer, other) is not None or other in beside
        if other != name and given:
            raise ValueError(
                f"Argument `{name}` cannot be scheduled beside `{other}` of `{kind}`: "
                "an optimizer clips in one way. Received: "
                f"{other}={getattr(optimizer, other)}"
            )


def check_values(name: str, schedule: Any, num_steps: int) -> None:
    """Raises `ValueError` if a schedule leaves the range of its hyperparameter.

    At most 10,001 steps are looked at, both ends among them.
    """
    steps = np.unique(np.linspace(0, num_steps, 10_001).astype(np.int64))
    values = np.asarray(base.evaluate(schedule, steps))
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
