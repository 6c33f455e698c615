"""An update while it is computed, and past updates."""

import copy
from typing import Any

import numpy as np

from keras_lrs._keras import in_step, optimizers
from keras_lrs._keras.backend import IS_TORCH
from keras_lrs._keras.variables import StepNumber
from keras_lrs.schedules import base


class Update:
    """One call of an optimizer's `apply`, as its parts see it.

    On PyTorch counts and values are Python numbers; on other backends they are tensors.

    Attributes:
        optimizer: The optimizer.
        iterations: How often `apply` was called before, micro-batches included.
        step: The step of the schedules: the iterations since their step 0.
        values: The scheduled value of each hyperparameter.
        groups: The values of groups of variables, by hyperparameter and by the group's
            name.
        factors: The factors of the learning rate; a function maps the rate to another.
        rate: The learning rate that is used, from phase 2 on; None if the optimizer
            determines it.
        group_rates: The learning rates of groups, by their names, from phase 3 on.
        overrides: The values that replace attributes of the optimizer.
    """

    def __init__(self, step: Any, gradients: Any, variables: Any):
        optimizer = step.optimizer
        self.optimizer = optimizer
        # PyTorch counts on the host, because reading a variable waits for the GPU.
        self.iterations = step.iterations if IS_TORCH else in_step.iterations(optimizer)
        self.step = self.iterations - step.start.value
        self.values: dict[str, Any] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.factors: list[Any] = []
        self.rate: Any = None
        self.group_rates: dict[str, Any] = {}
        self.overrides: dict[str, Any] = {}
        self._gradients, self._variables = gradients, variables

    def counting_all(self) -> "Update":
        """Returns the same update for schedules that count all iterations."""
        same = copy.copy(self)
        same.step = self.iterations
        return same

    def evaluate(self, schedule: Any) -> Any:
        """Returns the value of a schedule at this step."""
        return in_step.evaluate(schedule, self.step)

    def read(self, number: Any) -> Any:
        """Returns a number of the host."""
        return number.value

    def put(self, name: str, value: Any) -> None:
        """Replaces an attribute of the optimizer by a value in this update."""
        self.overrides[name] = value

    @property
    def gradients(self) -> list[tuple[Any, Any]]:
        """Pairs of a gradient, without the loss scale, and its variable.

        Like Keras's own update, they leave out gradients that are None or that
        overwrite their variable.
        """
        variables = self._variables
        if variables is None:
            variables = optimizers.trained(self.optimizer)
        scale = self.optimizer.loss_scale_factor
        return [
            (gradient if scale is None else gradient / scale, variable)
            for gradient, variable in zip(self._gradients, variables, strict=True)
            if gradient is not None and not optimizers.is_overwritten(variable)
        ]


class PastUpdates:
    """Past updates, from which the values that they used are computed.

    The `StepPart.values` of the compiled step runs on them, in NumPy.
    """

    def __init__(self, step: Any, iterations: np.ndarray):
        self.optimizer = step.optimizer
        self.iterations = iterations
        self.step = np.maximum(iterations - step.start.host, 0)
        self.values: dict[str, Any] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.factors: list[Any] = []
        self.rate: Any = None

    def counting_all(self) -> "PastUpdates":
        """Returns the same updates for schedules that count all iterations."""
        same = copy.copy(self)
        same.step = self.iterations
        return same

    def evaluate(self, schedule: Any) -> np.ndarray:
        """Returns the values of a schedule at these steps."""
        return np.asarray(base.evaluate(schedule, self.step), dtype=np.float64)

    def read(self, number: Any) -> np.ndarray:
        """Returns the values of a host's number that the updates read."""
        return number.at(self.iterations)


def scaled(rate: Any, factors: list) -> Any:
    """Applies factors, or functions of the rate, to a learning rate."""
    for factor in factors:
        rate = factor(rate) if callable(factor) else rate * factor
    return rate


class Record:
    """Records which updates read which value of a number that changes between steps."""

    def start(self, value: float) -> None:
        """Restarts the record with the value of all updates so far."""
        self._since, self._values = [-1], [value]

    def note(self, value: float, iterations: int) -> None:
        """Notes a change, from the update after `iterations` on."""
        self._since.append(iterations)
        self._values.append(value)

    @property
    def last(self) -> float:
        """The value of the next update."""
        return self._values[-1]

    def at(self, iterations: np.ndarray) -> np.ndarray:
        """Returns the values that updates after `iterations` read."""
        index = np.searchsorted(self._since, iterations, side="right") - 1
        return np.take(self._values, index)


class RecordedNumber(StepNumber, Record):
    """A number of the host that records which updates read which value."""

    def begin(self, before: float, now: float, iterations: int) -> None:
        """Starts the record with the values of earlier updates and the next one."""
        self.start(before)
        self.change(now, iterations)

    def change(self, value: float, iterations: int) -> None:
        """Changes the number, from the update after `iterations` on."""
        self.note(value, iterations)
        self.write(value)
