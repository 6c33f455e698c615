"""The learning rates that the user gave the optimizers, which come back after `fit`."""

from typing import Any

import keras

from keras_lrs._keras import optimizers
from keras_lrs._keras.variables import number


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
