"""Learning rates: those that the user gave, and the schedules that they follow."""

from typing import Any

import keras
import numpy as np

from keras_lrs._keras import optimizers
from keras_lrs._keras.variables import number
from keras_lrs._step.groups import RateGroups
from keras_lrs._step.hosted import HostedGroups, HostedHyperparameter
from keras_lrs._step.hyperparameters import Hyperparameter


class OwnRates:
    """The rate of each optimizer before schedules drove it, where it is a number."""

    def __init__(self) -> None:
        self._rates: dict[int, float] = {}

    def note(self, found: list) -> None:
        """Notes the rates of optimizers that were not seen before."""
        for optimizer in found:
            source = optimizers.rate_source(optimizer)
            if isinstance(source, keras.Variable):
                self._rates.setdefault(id(optimizer), number(source))

    def get(self, optimizer: Any) -> float | None:
        """An optimizer's rate; None for one with a schedule."""
        return self._rates.get(id(optimizer))

    def set(self, optimizer: Any, rate: float) -> None:
        """Corrects what was noted, which was a scheduled rate from a file."""
        self._rates[id(optimizer)] = rate

    def restore(self, optimizer: Any) -> None:
        """Gives an optimizer its rate back."""
        rate = self.get(optimizer)
        if rate is not None:
            optimizers.set_rate(optimizer, rate)


def followed(steps: list, progress: Any, optimizer: Any) -> list[tuple[int, Any]]:
    """The schedules that an optimizer's rates follow, the main one first.

    Each comes with the iterations at which it is at its step 0: a schedule of the
    optimizer's own, or one that `Scheduled` brings along, counts all of them. The main
    one is None if the rate is a float; the others are those of groups of variables.
    """
    source = optimizers.rate_source(optimizer)
    main = (0, None if isinstance(source, keras.Variable) else source)
    groups = []
    for part in (p for one in steps if one.optimizer is optimizer for p in one.parts):
        brought = isinstance(part, (HostedHyperparameter, HostedGroups))
        start = 0 if brought else progress.start(optimizer)
        if isinstance(part, RateGroups):
            groups += [(start, schedule) for schedule in part.schedules.values()]
        elif isinstance(part, Hyperparameter) and part.name == "learning_rate":
            main = (start, part.schedule)
    return [main, *groups]


def last_used(run: Any, found: list) -> list[float]:
    """The rates of the last updates of some optimizers, those of groups as well."""
    rates = []
    for one in found:
        last = np.array([max(run.progress.iterations(one) - 1, 0)])
        values = run.used_values(one, last)
        rates += [values[key].item() for key in values if key.startswith("learning_r")]
    return rates
