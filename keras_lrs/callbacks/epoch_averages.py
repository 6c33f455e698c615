"""Averages the weights at the ends of epochs of unknown length."""

import math
from typing import Any

from keras_lrs._fit.run import Run
from keras_lrs._keras import optimizers
from keras_lrs.averages.schedules import Average
from keras_lrs.schedules import durations


class EpochAverages:
    """Adds the weights to the averages from the host, when an epoch has ended.

    Args:
        run: A run whose steps per epoch are not known.
        average: The schedule of the average.
        start_step: When averaging starts.
    """

    def __init__(self, run: Run, average: Average, start_step: durations.Duration):
        self._run, self._average, self._start = run, average, start_step
        self.taken: int | None = 0
        """How many epochs have been averaged; None if that is not known."""

    def resume(self, epoch: int) -> None:
        """Counts the epochs before this one that have been averaged."""
        wait = self._epochs_to_wait
        self.taken = None if wait is None else max(epoch - math.floor(wait), 0)

    def epoch_begins(self, parts: list) -> None:
        """Tells the parts of the step how many epochs have been averaged."""
        if self.taken is None:
            raise ValueError(
                "Argument `start_step` must be `Epochs` or a `Fraction` to resume with "
                "data that has no known steps per epoch: otherwise it is not known "
                f"which epochs have been averaged. Received: start_step={self._start!r}"
            )
        self._tell(parts)

    def epoch_ends(self, epoch: int, parts: list, statistics: Any) -> None:
        """Averages the weights, and the statistics if they are averaged too."""
        taken: Any = self.taken
        if not self._is_due(epoch + 1):
            return
        # The first epoch replaces the initial values, which are of no epoch's end.
        share = float(self._average.weight(taken)) if taken else 1.0
        for part in parts:
            part.take(share)
        if statistics is not None:
            now = self._run.read(statistics.statistics)
            pairs = zip(statistics.read(), now, strict=True)
            statistics.write([old + share * (new - old) for old, new in pairs])
        self.taken = taken + 1
        self._tell(parts)

    def _tell(self, parts):
        for part in parts:
            part.count = self.taken

    @property
    def _epochs_to_wait(self):
        """The epochs before averaging starts; None if they are given in steps."""
        if self._start == 0:
            return 0
        if isinstance(self._start, durations.Epochs):
            return durations.exact(self._start.epochs)
        if isinstance(self._start, durations.Fraction):
            epochs = self._run.progress.epochs
            return durations.exact(self._start.fraction) * epochs
        return None

    def _is_due(self, epochs):
        if (wait := self._epochs_to_wait) is not None:
            return epochs > wait
        progress = self._run.progress
        first = progress.length(self._start)
        return any(
            progress.updates(one) > first // optimizers.accumulated(one)
            for one in self._run.optimizers
        )
