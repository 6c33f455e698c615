"""Checks the arguments of `ScheduleFree`, and the optimizer that it wraps."""

import dataclasses
import warnings
from typing import Any

import keras

from keras_lrs._keras import fit_loop
from keras_lrs._step.hyperparameters import is_momentum
from keras_lrs.averages.schedules import Average
from keras_lrs.optimizers.wrapper import check_kind, check_new
from keras_lrs.schedules import fields


@dataclasses.dataclass(frozen=True, eq=False)
class Arguments(fields.Configured):
    """The arguments of `ScheduleFree` besides the optimizer."""

    beta: float = fields.number(at_least=0.0, below=1.0)
    weight_power: float = fields.number(at_least=0.0)
    step_power: float = fields.number(at_least=0.0)
    warmup_steps: int = fields.integer(at_least=0)
    average: Average | None = None

    def check(self):
        """Raises `TypeError` if `average` is not an average."""
        if self.average is not None and not isinstance(self.average, Average):
            bound = "be an average of `keras_lrs.averages` or None"
            fields.refuse("average", bound, self.average, TypeError)


def check_optimizer(optimizer: Any) -> None:
    """Raises if `ScheduleFree` cannot wrap an optimizer."""
    kind = type(optimizer).__name__
    check_kind(optimizer, "ScheduleFree")
    if isinstance(optimizer, keras.optimizers.Lion):
        fields.refuse("optimizer", "work without a momentum, which Lion needs", kind)
    for name, value in optimizer.get_config().items():
        if is_momentum(name) and name != "ema_momentum" and value:
            raise ValueError(
                "Argument `optimizer` must have no momentum: `beta` of `ScheduleFree` "
                f"takes its place. Construct it with {name}=0.0. Received: "
                f"optimizer={kind} with {name}={value}"
            )
    if optimizer.use_ema:
        raise ValueError(
            "Argument `optimizer` must not average the weights itself: `ScheduleFree` "
            f"does. Received: optimizer={kind} with use_ema=True"
        )
    check_new(optimizer)


def check_weights(variables: list) -> None:
    """Raises if variables that will be trained are not weights."""
    for variable in variables:
        if getattr(variable, "overwrite_with_gradient", False):
            raise ValueError(
                "`ScheduleFree` cannot train a model quantized to float8, whose scales "
                f"are not weights. Received: {variable.path}"
            )


def warn_of_validation() -> None:
    """Warns if the enclosing `fit` does not validate the average."""
    if fit_loop.validates_without("shows_average"):
        warnings.warn(
            "This `fit` validates the weights at which `ScheduleFree` takes its "
            "gradients instead of their average, which is better: add "
            "`keras_lrs.callbacks.AveragedEvaluation()` to its callbacks.",
            stacklevel=3,
        )
