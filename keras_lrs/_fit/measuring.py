"""Optimizers that update once in several batches, as the first update shows."""

import fractions
from typing import Any

from keras_lrs._keras import optimizers


class FirstUpdates:
    """Waits for the first update of each optimizer that has lengths of the run.

    Nobody knows before how many batches an update has, in a `train_step` that
    accumulates gradients itself. The first update is at the beginning of every length,
    so the right lengths can take their place right after it. What a later update shows
    is too late for that, and refused at the end of the epoch.

    Args:
        run: The run, whose lengths are bound.
    """

    def __init__(self, run: Any):
        self._run = run
        self._batches = 0
        paces, held = run.progress.paces, run.progress.held
        # Of an execution of several steps only the last is seen.
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
        """Whether there is one that has made no update yet."""
        return bool(self._before)

    def step_ends(self, logs: Any) -> None:
        """Looks at those that are waited for; there, it waits for the device."""
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
