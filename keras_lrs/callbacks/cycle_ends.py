"""The ends of a run's cycles, in iterations of an optimizer."""

import bisect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_lrs._fit.progress import Progress
from keras_lrs._fit.run import Run
from keras_lrs._keras import optimizers
from keras_lrs._step import hosted
from keras_lrs.schedules import base, durations, fields

_LAST_STEP = 2**31
_STEPS = durations.positions(at_least=1)


def checked(schedule: Any) -> Any:
    """Returns what defines where cycles end: a schedule, a tuple of steps, or None."""
    kind = keras.optimizers.schedules.LearningRateSchedule
    if schedule is None or isinstance(schedule, kind):
        return schedule
    if len(steps := fields.validate("schedule", schedule, _STEPS)) == 0:
        fields.refuse("schedule", "have a step", schedule)
    return steps


class CycleEnds:
    """The ends of cycles, in iterations of an optimizer.

    Args:
        optimizer: The optimizer whose iterations are counted.
        start: The iteration at which the schedule is at its step 0.
        find: A function from a number of steps to the cycle ends up to there.
    """

    def __init__(self, optimizer: Any, start: int, find: Callable[[int], list[int]]):
        self.optimizer, self.start, self._find = optimizer, start, find
        self._known: list[int] = []
        self._horizon = 0

    def after(self, count: int) -> int:
        """Returns the first end after `count` iterations; a huge number if none."""
        while True:
            index = bisect.bisect_right(self._known, count - self.start)
            if index < len(self._known):
                return self.start + self._known[index]
            if self._horizon >= _LAST_STEP:
                return self.start + 2 * _LAST_STEP
            # The horizon grows: an endless schedule can have billions of ends.
            horizon = max(2 * (count - self.start), 4 * self._horizon, 1024)
            self._horizon = min(horizon, _LAST_STEP)
            self._known = self._find(self._horizon)

    def last_before(self, count: int) -> int:
        """Returns the last end at or before `count` iterations; 0 if there is none."""
        self.after(count)
        index = self.cycles(count)
        return self.start + self._known[index - 1] if index else 0

    def cycles(self, count: int) -> int:
        """Returns how many cycles end within `count` iterations."""
        self.after(count)
        return bisect.bisect_right(self._known, count - self.start)

    def exist(self) -> bool:
        """Whether there are any ends."""
        self.after(self.start)
        return bool(self._known)

    def up_to(self, first: int, last: int) -> Iterator[int]:
        """The ends after `first` iterations, up to `last`."""
        end = self.after(first)
        while end <= last:
            yield end
            end = self.after(end)


class EpochEnds(CycleEnds):
    """The ends of cycles that end with epochs whose steps are known only afterwards.

    Args:
        optimizer: The optimizer whose iterations are counted.
        start: The iteration at which the schedule is at its step 0.
        epochs: The numbers of epochs after which cycles end.
    """

    def __init__(self, optimizer: Any, start: int, epochs: list[int]):
        super().__init__(optimizer, start, lambda num_steps: [])
        self._horizon = _LAST_STEP
        self._epochs = epochs
        self._before = 0

    def epoch_ends(self, epoch: int, count: int) -> bool:
        """Notes that `epoch` epochs are over; returns whether a cycle is over too."""
        if epoch not in self._epochs:
            return False
        if not self._known:  # Cycles before the run resumed.
            self._before = self._epochs.index(epoch)
        self._known.append(count - self.start)
        return True

    def cycles(self, count: int) -> int:
        """Returns how many ends there are at or before `count` iterations."""
        return self._before + super().cycles(count)

    def last_before(self, count: int) -> int:
        """Returns the last end seen at or before `count` iterations; 0 if none was."""
        index = super().cycles(count)
        return self.start + self._known[index - 1] if index else 0


def find(run: Run, schedule: Any) -> CycleEnds:
    """Finds the ends of a run's cycles.

    Args:
        run: The run.
        schedule: What `checked` returned: a schedule or steps, which count from the
            run's step 0; or None for the schedule of the optimizer's rate.

    Raises:
        ValueError: If there are none, or they differ between optimizers.
    """
    first = run.optimizers[0]
    if isinstance(schedule, tuple):
        start = run.progress.start(first)
        if run.progress.steps_per_epoch is None and all(map(_is_whole, schedule)):
            return EpochEnds(first, start, [int(one.epochs) for one in schedule])
        with run.progress.paces.within(first):
            steps = _bound_steps(run, schedule)
        return CycleEnds(first, start, lambda n: [step for step in steps if step <= n])
    if schedule is not None:
        with run.progress.paces.within(first):
            schedule = run.bind("schedule", schedule, lambda *unchecked: None)
        candidates = [(first, run.progress.start(first), schedule)]
    else:
        candidates = [
            (optimizer, *run.rate_schedules(optimizer)[0])
            for optimizer in run.optimizers
        ]
    found = [
        ends
        for optimizer, start, candidate in candidates
        if (ends := CycleEnds(optimizer, start, _finder(candidate))).exist()
    ]
    if not found:
        received = ", ".join(repr(candidate) for _, _, candidate in candidates)
        raise ValueError(
            "`SnapshotEnsemble` needs a schedule with cycles, such as "
            "`CosineRestarts`. Or pass where cycles end: `schedule=[Epochs(10), "
            f"Epochs(20)]`. Received: learning_rate={received}"
        )
    if len({(ends.start, ends.after(ends.start)) for ends in found}) > 1:
        raise ValueError(
            "The optimizers' cycles end at different steps. Pass `schedule=` to "
            "`SnapshotEnsemble`, which takes one snapshot of the whole model."
        )
    return found[0]


def _is_whole(duration):
    return isinstance(duration, durations.Epochs) and duration.epochs % 1 == 0


def _finder(schedule):
    return lambda num_steps: sorted(base.cycle_ends(schedule, num_steps))


def _bound_steps(run, steps):
    if all(isinstance(step, int) for step in steps):
        return steps  # Plain steps need no window.
    if all(isinstance(step, (int, *durations.OF_BATCHES)) for step in steps):
        return run.progress.window_of_batches().positions("schedule", steps)
    return run.progress.window().positions("schedule", steps)


def cycle_ends_of(
    progress: Progress, optimizer: Any, schedules: dict[str, Any]
) -> list[int]:
    """Returns the steps of a run after which a cycle of an optimizer's rate ends.

    Args:
        progress: The progress of the run.
        optimizer: One of the optimizers.
        schedules: The schedules that are bound to it, by name.
    """
    total = progress.window().total
    schedule = schedules.get("learning_rate")
    if schedule is not None and "learning_rate" not in hosted.names(optimizer):
        return sorted(base.cycle_ends(schedule, total))
    # The optimizer's own schedule counts all iterations that it has ever made.
    schedule = optimizers.rate_source(optimizer) if schedule is None else schedule
    start = progress.start(optimizer)
    ends = base.cycle_ends(schedule, start + total)
    return sorted(end - start for end in ends if end > start)
