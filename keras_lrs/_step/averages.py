"""Averages of the weights, updated in the step."""

import dataclasses
import functools
from typing import Any

import numpy as np

from keras_lrs._keras import average_statistics, in_step
from keras_lrs._keras.average_slots import AverageSlots, average_dtype
from keras_lrs._keras.backend import IS_JAX
from keras_lrs._keras.variables import StepVariable, read
from keras_lrs._step.part import StepPart
from keras_lrs._step.update import Update
from keras_lrs.averages.choice import EVERYTHING, Choice
from keras_lrs.schedules import numerics


@dataclasses.dataclass(frozen=True)
class Averaging:
    """The updates that an average takes, and their weights in it.

    Args:
        average: The schedule of the average.
        first: The number of updates before it begins; until then it follows the
            weights.
        every: The number of updates per averaged update.
        ends: Alternatively, the numbers of updates after which it takes the weights.
    """

    average: Any
    first: int = 0
    every: int = 1
    ends: tuple[int, ...] | None = None

    def taken(self, updates: Any) -> Any:
        """Returns how many of the run's updates have been averaged."""
        if self.ends is None:
            return numerics.maximum(updates - self.first, 0) // self.every
        return self._reached(updates)

    def weight(self, updates: Any) -> Any:
        """Returns the share of the new weights after the last of `updates` updates."""
        taken = self.taken(updates)
        weight = self.average.weight(numerics.maximum(taken - 1, 0))
        due = taken > self.taken(updates - 1)
        return numerics.where(taken <= 0, 1.0, numerics.where(due, weight, 0.0))

    @property
    def always(self) -> bool:
        """Whether it takes every update."""
        return self.ends is None and self.every == 1

    @functools.cached_property
    def _reached(self):
        return numerics.Lookup(self.ends)


class _Average(StepPart):
    """Moves averages towards the new weights."""

    def __init__(self, step: Any, averaging: Averaging):
        super().__init__(step)
        self.averaging = averaging

    def rebind(self, last: int, averaging: Averaging, *others: Any) -> bool:
        """Changes which updates the average takes."""
        before, self.averaging = self.averaging, averaging
        updates = (last + 1) // self.step.accumulated
        return float(before.weight(updates)) == float(averaging.weight(updates))

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """The weights and their averages, as variables."""
        raise NotImplementedError

    def before(self, update: Update) -> Any:
        """Returns the share of the new weights before the update raises the count."""
        return self._share(update.iterations + 1)

    def taken(self, iterations: int) -> int:
        """Returns how many updates the average has taken after `iterations`."""
        every = self.step.accumulated
        updates = iterations // every - self.step.start.host // every
        return int(self.averaging.taken(updates))

    def _share(self, after):
        every = self.step.accumulated
        updates = after // every - self.step.start.value // every
        share = self.averaging.weight(updates)
        if every == 1:
            return share
        return numerics.where(after % every == 0, share, 0.0)

    def after(self, update: Update, kept: Any) -> None:
        """Moves the averages."""
        always = self.averaging.always and self.step.accumulated == 1
        in_step.interpolate(self.pairs, kept, always)


class SlotsAverage(_Average):
    """The average in the optimizer's slots, which are saved with the model."""

    finalizes_average = True

    def __init__(self, step: Any, averaging: Averaging, choice: Choice = EVERYTHING):
        super().__init__(step, averaging)
        self.choice = choice

    @staticmethod
    def covers(averaging: Averaging, choice: Choice = EVERYTHING) -> tuple[str, ...]:
        """Covers `use_ema`, so that Keras leaves its slots of averages to us."""
        return ("use_ema",)

    @functools.cached_property
    def pairs(self) -> list[tuple[Any, Any]]:
        """The weights and their averages, as variables."""
        return AverageSlots(self.step.optimizer, self.choice).pairs

    def before(self, update: Update) -> Any:
        """Keeps Keras from updating the slots."""
        update.put("use_ema", False)
        return super().before(update)


class AverageOfEpochs(SlotsAverage):
    """The average in the slots, which the host moves between epochs."""

    def __init__(self, step: Any, average: Any, choice: Choice = EVERYTHING):
        super().__init__(step, Averaging(average), choice)
        self.count = 0
        """How often the average has been moved in this run."""

    def taken(self, iterations: int) -> int:
        """Returns how often the average has been moved."""
        return self.count

    def before(self, update: Update) -> None:
        """Keeps Keras from updating the slots."""
        update.put("use_ema", False)

    def after(self, update: Update, kept: Any) -> None:
        """Leaves the averages to the host."""

    def take(self, share: float) -> None:
        """Moves the averages by a share of their distance towards the weights."""
        in_step.interpolate(self.pairs, share, always=share > 0.0)


class StatisticsAverage(_Average):
    """The average of the statistics of batch normalization.

    The forward pass has already updated the statistics when the optimizer's `apply` is
    called. On JAX they are then in the state that the step passes on, where `apply`
    does not see them.
    """

    follows_step = IS_JAX

    def __init__(self, step: Any, averaging: Averaging, choice: Choice = EVERYTHING):
        super().__init__(step, averaging)
        kept = average_statistics.of(step.model, choice)
        self.statistics, self.variables = kept.statistics, kept.averages

    @functools.cached_property
    def pairs(self) -> list[tuple[Any, Any]]:
        """The statistics and their averages, as variables."""
        averages = [one.variable for one in self.variables]
        return list(zip(self.statistics, averages, strict=True))

    def after(self, update: Update, kept: Any) -> None:
        """Moves the averages."""
        if not self.follows_step:
            super().after(update, kept)

    def step_ends(self, before: Any) -> None:
        """Moves the averages, unless the update was skipped."""
        now = in_step.iterations(self.step.optimizer)
        share = numerics.where(now > before, self._share(now), 0.0)
        in_step.interpolate(self.pairs, share, always=False)


class FreeAverage(_Average):
    """An average in variables that are neither the model's nor the optimizer's.

    Args:
        step: The optimizer's step.
        index: The index among several averages of a callback.
        averaging: The updates that it takes.
    """

    def __init__(self, step: Any, index: int, averaging: Averaging):
        super().__init__(step, averaging)
        self.index = index
        self.variables = [
            StepVariable(
                step.model,
                np.zeros(weight.shape),
                average_dtype(weight),
                layout=getattr(weight, "_layout", None),
            )
            for weight in step.weights
        ]

    @functools.cached_property
    def pairs(self) -> list[tuple[Any, Any]]:
        """The weights and their averages, as variables."""
        averages = [one.variable for one in self.variables]
        return list(zip(self.step.weights, averages, strict=True))

    def begin(self) -> None:
        """Sets the averages to the weights."""
        for weight, average in zip(self.step.weights, self.variables, strict=True):
            (value,) = read([weight])
            average.write(value)
