"""The rate that a user gives an optimizer as a number, and may set during training."""

from typing import Any

from keras_lrs._keras import optimizers
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.update import PastUpdates, RecordedNumber, Update
from keras_lrs.schedules.open_ended import Constant


class OwnRate(Hyperparameter):
    """Sets the rate to the user's own, which other parts multiply.

    The optimizer's variable holds the product, so the user's rate is kept separately.
    """

    def __init__(self, step: Any):
        super().__init__(step, "learning_rate", None)
        self.number = RecordedNumber(step.model, 0.0)
        self.variables = [self.number]

    @staticmethod
    def key(*unused: Any) -> Any:
        """Returns a constant, because one compiled step serves all rates."""
        return ()

    @staticmethod
    def covers(*unused: Any) -> tuple[str, ...]:
        """Returns nothing, because the step itself sets the rate."""
        return ()

    def begin(self, rate: float) -> None:
        """Sets the rate that the user gave before this fit."""
        iterations = optimizers.iterations(self.step.optimizer)
        self.number.begin(rate, rate, iterations)
        self.schedule = Constant(rate)

    def change(self, rate: float, iterations: int) -> None:
        """Changes the rate, from the update after `iterations` on."""
        self.number.change(rate, iterations)
        self.schedule = Constant(rate)

    def values(self, update: Update | PastUpdates) -> None:
        """Sets the rate."""
        update.values[self.name] = update.read(self.number)
