"""A factor on the learning rate that the host changes between steps."""

from typing import Any

from keras_lrs._keras import optimizers
from keras_lrs._step.part import StepPart
from keras_lrs._step.update import PastUpdates, RecordedNumber, Update
from keras_lrs.schedules import numerics


class RateFactor(StepPart):
    """Multiplies the rate of an optimizer by a number.

    It never lowers a rate below `min_rate`, and leaves a rate alone that is already
    lower.
    """

    scales = True

    def __init__(self, step: Any, min_rate: float = 0.0):
        super().__init__(step)
        self.min_rate = min_rate
        self.factor = RecordedNumber(step.model, 1.0)
        self.variables = [self.factor]

    def begin(self, used: float = 1.0, now: float = 1.0) -> None:
        """Sets the factor that the last update before this fit used, and the next."""
        self.factor.begin(used, now, optimizers.iterations(self.step.optimizer))

    def change(self, factor: float, iterations: int) -> None:
        """Changes the factor, from the update after `iterations` iterations on."""
        self.factor.change(factor, iterations)

    def values(self, update: Update | PastUpdates) -> None:
        """Multiplies the rate by the factor."""
        factor: Any = update.read(self.factor)

        def above_minimum(rate):
            least = numerics.minimum(rate, self.min_rate)
            return numerics.maximum(rate * factor, least)

        update.factors.append(above_minimum if self.min_rate > 0.0 else factor)
