"""The bias correction of Adam's averages for scheduled betas."""

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import in_step, optimizers
from keras_lrs._keras.variables import StepNumber
from keras_lrs._step.part import StepPart
from keras_lrs._step.update import Update
from keras_lrs.schedules import base, numerics
from keras_lrs.schedules.identity import identity

# The products of the betas of all updates of an optimizer, and their number.
_products_so_far: weakref.WeakKeyDictionary[Any, dict[str, tuple[int, float]]]
_products_so_far = weakref.WeakKeyDictionary()


def products(optimizer: Any) -> dict[str, tuple[int, float]]:
    """Returns the products of the betas up to the last fit, and their lengths."""
    return dict(_products_so_far.get(optimizer, {}))


def set_products(optimizer: Any, found: dict[str, Any]) -> None:
    """Sets the products of an optimizer to what `products` returned."""
    so_far = {name: (count, value) for name, (count, value) in found.items()}
    _products_so_far[optimizer] = so_far


def corrected(optimizer: Any) -> list[str]:
    """Returns the betas whose bias this kind of optimizer corrects."""
    if isinstance(optimizer, keras.optimizers.Adam):
        return ["beta_1", "beta_2"]
    if isinstance(optimizer, keras.optimizers.Adamax):
        return ["beta_1"]
    return []


class BiasCorrection(StepPart):
    """Corrects Keras's update for the bias of changing betas.

    Keras divides by `1 - beta**t`, which is correct for a constant beta. A scheduled
    beta needs 1 minus the product of the betas used so far. Both can be expressed as
    factors of the rate (Kingma and Ba, 2014, end of section 2).

    Args:
        step: The optimizer's step.
        schedules: Pairs of the name of a beta and its schedule.
        first: The schedules' step in the first update of the fit.
    """

    def __init__(self, step: Any, schedules: tuple[tuple[str, Any], ...], first: int):
        super().__init__(step)
        self._tables = {
            name: _products(schedule, first, step.accumulated)
            for name, schedule in schedules
        }
        self._before = {name: StepNumber(step.model, 1.0) for name in self._tables}
        self.variables = list(self._before.values())

    @staticmethod
    def key(schedules: tuple[tuple[str, Any], ...], first: int) -> Any:
        """Returns a key that is equal for the same schedules from the same step on."""
        return tuple((name, identity(one)) for name, one in schedules), first

    def begin(self) -> None:
        """Multiplies the betas of all updates before the schedules' step 0."""
        updates = self._updates_before
        for name, before in self._before.items():
            # Outside of scheduled fits the optimizer used its own beta.
            count, product = products(self.step.optimizer).get(name, (0, 1.0))
            if count > updates:  # The optimizer was reset.
                count, product = 0, 1.0
            own = self.step.originals[name]
            before.write(product * own ** (updates - count))

    def end(self) -> None:
        """Stores the products for later fits."""
        optimizer = self.step.optimizer
        updates = optimizers.iterations(optimizer) // self.step.accumulated
        so_far = _products_so_far.setdefault(optimizer, {})
        for name, table in self._tables.items():
            index = min(updates - self._updates_before, len(table)) - 1
            product = table[index] if index >= 0 else 1.0
            so_far[name] = (updates, float(product * self._before[name].host))

    def rebind(
        self, last: int, schedules: tuple[tuple[str, Any], ...], first: int
    ) -> bool:
        """Takes other schedules for the betas."""
        before = self._tables
        self._tables = {
            name: _products(schedule, first, self.step.accumulated)
            for name, schedule in schedules
        }
        index = last // self.step.accumulated
        return all(
            before[name][: index + 1].tolist() == table[: index + 1].tolist()
            for name, table in self._tables.items()
        )

    @property
    def _updates_before(self):
        """The updates before the schedules' step 0."""
        return max(self.step.start.host, 0) // self.step.accumulated

    def update_step(self, update: Update, call: Callable) -> Callable:
        """Multiplies the rate by the ratio of the two corrections."""

        def corrected_step(gradients, variables, rate):
            corrected = in_step.times(rate, self._correction(update))
            return call(gradients, variables, corrected)

        return corrected_step

    def _correction(self, update):
        updates = update.iterations // self.step.accumulated
        correction: Any = 1.0
        for name, table in self._tables.items():
            product = self._before[name].value * self._product(table, updates)
            power = in_step.power(update.values[name], updates + 1)
            ratio = (1.0 - power) / (1.0 - product)
            correction *= ratio if name == "beta_1" else ratio**-0.5
        return correction

    def _product(self, table, updates):
        """Returns the product of the scheduled betas of all updates up to this one."""
        index = numerics.minimum(updates - self._first_update, len(table) - 1)
        return numerics.gather(table, index)

    @property
    def _first_update(self):
        """The update at the schedules' step 0, in the step."""
        return numerics.maximum(self.step.start.value, 0) // self.step.accumulated


def _products(schedule, first, accumulated):
    """Returns the running product of the values that updates use, until it vanishes."""
    length = 64
    while True:
        steps = first + accumulated * np.arange(length)
        found = np.cumprod(np.asarray(base.evaluate(schedule, steps)))
        if found[-1] < 1e-9 or length >= 2**20:
            return found[: np.searchsorted(-found, -1e-9) + 1]
        length *= 4
