"""Measures from the first update how many batches an optimizer's update takes."""

import fractions
from typing import Any

from keras_lrs._fit import trackers
from keras_lrs._keras import optimizers


class FirstUpdates:
    """Waits for the first update of each optimizer with lengths of the run.

    If a `train_step` accumulates gradients itself, the number of batches per update is
    not known in advance. The first update is at the beginning of every length, so the
    lengths can be corrected right after it. A later update would be too late, and
    raises an error at the end of the epoch.

    Args:
        run: The run, whose lengths are bound.
    """

    def __init__(self, run: Any):
        self._run = run
        self._batches = 0
        paces, held = run.progress.paces, run.progress.held
        # Of an execution of several steps, only the last is visible.
        is_seen = run.model.steps_per_execution == 1 and not run.progress.in_loop
        self._before = {
            one: optimizers.iterations(one)
            for one in run.progress.every
            if id(one) in paces.bound
            and id(one) not in paces.fixed
            and not paces.is_told(one)
            and not optimizers.may_skip(held, one)
            and is_seen
        }

    @property
    def are_awaited(self) -> bool:
        """Whether an optimizer has not made its first update yet."""
        return bool(self._before)

    def begin(self) -> None:
        """Publishes the schedules, if no update can change their lengths any more."""
        if not self._before:
            trackers.publish(self._run)

    def step_ends(self, logs: Any) -> None:
        """Checks the awaited optimizers, which waits for the device."""
        if not self._before:
            return
        self._batches += 1
        progress = self._run.progress
        for one, before in list(self._before.items()):
            made = progress.iterations(one) - before
            if made == 0:
                continue
            del self._before[one]
            if made == 1 < self._batches:
                progress.tell_pace(one, fractions.Fraction(1, self._batches))
                self._run.bind_anew(one)
        if not self._before:
            trackers.publish(self._run)
