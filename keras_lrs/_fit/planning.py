"""Plans the steps of a run's optimizers: collects, checks and binds parts."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lrs._fit import warmups
from keras_lrs._fit.progress import Progress
from keras_lrs._fit.rates import OwnRates
from keras_lrs._keras import optimizers
from keras_lrs._step import hosted, hyperparameters
from keras_lrs._step.bias_correction import BiasCorrection, corrected
from keras_lrs._step.groups import GroupedUpdate, Groups
from keras_lrs._step.hosted import HostedBiasCorrection
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.optimizer_step import PlannedPart, StepPlan
from keras_lrs._step.own_rate import OwnRate
from keras_lrs._step.part import Wanted
from keras_lrs._step.scheduled_variable import ScheduledVariable
from keras_lrs.schedules import base
from keras_lrs.schedules.open_ended import Constant


def check_wanted(run: Any, callback: Any, wanted: Any) -> None:
    """Raises if a callback's request is not valid in this run."""
    kind = type(callback).__name__
    if not isinstance(wanted, Wanted):
        raise TypeError(
            f"`{kind}.prepare` must return a list of `Wanted`. Received: {wanted!r}"
        )
    if not any(wanted.optimizer is optimizer for optimizer in run.progress.every):
        raise ValueError(
            f"`{kind}.prepare` must want parts of one of `run.optimizers`. "
            f"Received: optimizer={wanted.optimizer!r}"
        )


class WantedParts:
    """The parts that callbacks want, from which plans are made.

    Args:
        progress: The position of the run.
        own_rates: The learning rates that the user set.
    """

    def __init__(self, progress: Progress, own_rates: OwnRates):
        self._progress, self._own_rates = progress, own_rates
        self._wanted: list[tuple[Any, Wanted]] = []

    def add(self, callback: Any, wanted: Wanted, siblings: list) -> None:
        """Adds a callback's request if it is compatible with the others."""
        same = self._of(wanted.optimizer)
        wanted.kind.check(callback, wanted, [other for _, other in same])
        if wanted.slot == "learning_rate" or wanted.kind.scales:
            _refuse_keras_callbacks(callback, siblings)
        if wanted.kind.scales:
            _check_scalable(callback, wanted.optimizer)
        for other, taken in same:
            if wanted.slot is not None and taken.slot == wanted.slot:
                raise ValueError(_two_of_one(wanted, other, callback))
        self._wanted.append((callback, wanted))

    @property
    def finalize_averages(self) -> bool:
        """Whether parts finalize the averages of `model.optimizer`, not Keras."""
        main = self._progress.main
        own = [] if main is None else optimizers.leaves(main)
        return any(
            wanted.kind.finalizes_average
            for _, wanted in self._wanted
            if any(wanted.optimizer is one for one in own)
        )

    def _of(self, optimizer):
        """Returns the requests for an optimizer, including those of its host."""
        found = [(c, w) for c, w in self._wanted if w.optimizer is optimizer]
        return hosted.wanted_by_host(optimizer) + found

    def plan(self, run: Any, optimizer: Any) -> StepPlan:
        """Makes the plan of an optimizer's step."""
        wanted = self._of(optimizer)
        if not any(one.slot == "learning_rate" for _, one in wanted):
            # Nothing binds the optimizer's own schedule, so check it before it is
            # evaluated.
            own = optimizers.rate_source(optimizer)
            base.check_bound(own)
            if run is not None:
                done = self._progress.iterations(optimizer)
                warmups.warn_of_schedule(self._progress, own, done)
        # Schedules come first, because other parts may depend on them.
        wanted.sort(key=lambda pair: not issubclass(pair[1].kind, Hyperparameter))
        schedules: dict[str, Any] = {}
        parts = []
        for callback, one in wanted:
            # A variable counts the steps of the optimizer with the most.
            paced = None if one.kind is ScheduledVariable else optimizer
            with self._progress.paces.within(paced, planning=True):
                given = one.compiled
                given = given(schedules) if callable(given) else given
                arguments = one.kind.bind(run, *given)
            begins = one.begins() if callable(one.begins) else one.begins
            if issubclass(one.kind, Hyperparameter):
                name, schedules[name] = arguments
                if name == "learning_rate" and run is not None:
                    self._check_cap(optimizer, schedules[name])
            parts.append(PlannedPart(one.kind, arguments, begins, callback))
        parts += self._completing(optimizer, schedules, parts)
        return StepPlan(optimizer, tuple(parts), self._progress.start(optimizer))

    def _check_cap(self, optimizer, schedule):
        """Raises if an optimizer would use a lower rate than its schedule has."""
        if not optimizers.caps(optimizer):
            return
        progress = self._progress
        num_steps = progress.total or 10_000
        steps, rates = hyperparameters.sampled(schedule, num_steps - 1)
        before = max(progress.start(optimizer), 0)
        used = optimizers.capped(optimizer, rates, steps + before)
        above = rates > used * (1.0 + 1e-6)
        if above.any():
            first = int(np.argmax(above))
            raise ValueError(
                f"Argument `learning_rate` must be <= 1 / sqrt(k) in update k of "
                f"`{type(optimizer).__name__}`, which uses no larger rate: a schedule "
                "above it has no effect. Lower the schedule, or choose another "
                f"optimizer. Received: {rates[first]:g} at step {steps[first]}, where "
                f"{used[first]:g} would be used, from {schedule!r}"
            )

    def _completing(self, optimizer, schedules, parts):
        """Returns parts that others need: the scaled rate, the bias correction."""
        found = []
        host = hosted.host_of(optimizer)
        own = self._own_rates.get(optimizer) if host is None else host.own_rate
        scaled = own is not None and any(part.kind.scales for part in parts)
        if scaled and "learning_rate" not in schedules:
            # A host's rate never changes.
            rate = ("learning_rate", Constant(own))
            found.append(
                PlannedPart(OwnRate, (), {"rate": own})
                if host is None
                else PlannedPart(Hyperparameter, rate, {})
            )
        brought = hosted.names(optimizer)
        for kind, first, is_brought in (
            (BiasCorrection, self._first(optimizer), False),
            (HostedBiasCorrection, hosted.first_step(optimizer), True),
        ):
            betas = tuple(
                (name, schedules[name])
                for name in corrected(optimizer)
                if name in schedules and (name in brought) == is_brought
            )
            if betas:
                found.append(PlannedPart(kind, (betas, first), {}))
        if any(issubclass(part.kind, Groups) for part in parts):
            found.append(PlannedPart(GroupedUpdate, (), {}))  # It must be the last.
        return found

    def _first(self, optimizer):
        """Returns the schedules' step in the first update of this fit."""
        accumulated = optimizers.accumulated(optimizer)
        start = self._progress.start(optimizer)
        # Micro-batches that remain from an earlier fit are completed first.
        begun = max(start, 0) % accumulated
        return max(-start, 0) + accumulated - 1 - begun


def bind(
    progress: Progress,
    name: str,
    schedule: Any,
    check: Callable[[str, Any, int], None] = hyperparameters.check_values,
) -> Any:
    """Returns a schedule of a hyperparameter with all lengths in steps of this run.

    `check(name, schedule, num_steps)` raises an error if a value is out of range.

    Raises:
        ValueError: If the number of steps is needed and not known, or if a value
            leaves the range of the hyperparameter.
    """
    known = progress.steps_per_epoch is not None
    # A schedule without open lengths, such as a long table, needs no binding.
    if base.is_open(schedule):
        if known:
            schedule = base.bind(schedule, progress.window())
        elif not base.needs_length(schedule):
            schedule = base.bind(schedule, progress.window_of_batches())
        else:
            raise ValueError(
                f"The schedule of `{name}` needs the number of steps per epoch, which "
                f"is not known for this data. {progress.how_to_tell}; or bind the "
                "schedule: `schedule.bind(total_steps, steps_per_epoch)`. Received: "
                f"{schedule!r}"
            )
    num_steps = progress.total or 10_000
    check(name, schedule, num_steps)
    warmups.warn_of_schedule(progress, schedule)
    return schedule


def _refuse_keras_callbacks(callback, siblings):
    theirs = (
        keras.callbacks.ReduceLROnPlateau,
        keras.callbacks.LearningRateScheduler,
    )
    for other in siblings:
        if isinstance(other, theirs):
            raise ValueError(
                f"`{type(callback).__name__}` cannot work together with Keras's "
                f"`{type(other).__name__}`: both set the learning rate. Use "
                "`keras_lrs.callbacks.ReduceOnPlateau` and `HyperparameterScheduler` "
                "instead."
            )


def _check_scalable(callback, optimizer):
    source = optimizers.rate_source(optimizer)
    schedule = keras.optimizers.schedules.LearningRateSchedule
    if not isinstance(source, (keras.Variable, schedule)):
        raise ValueError(
            f"`{type(callback).__name__}` needs a learning rate that is a float or a "
            f"`LearningRateSchedule`. Received: learning_rate={source!r}"
        )


def _two_of_one(wanted, one, other):
    names = f"`{type(one).__name__}` and `{type(other).__name__}`"
    if issubclass(wanted.kind, (Hyperparameter, Groups)):
        name = wanted.slot
        return (
            f"Argument `{name}` of `{type(wanted.optimizer).__name__}` must have one "
            f"schedule. Received: {names} both schedule `{name}`"
        )
    return f"A run takes one `{type(other).__name__}`. Received: {names}"
