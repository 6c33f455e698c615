"""The learning rates that the user set, and the schedules that they follow."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs._fit.hooks import replace
from keras_lrs._keras import anywhere, interrupts, optimizers
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW
from keras_lrs._keras.variables import number
from keras_lrs._step import hosted
from keras_lrs._step.groups import RateGroups
from keras_lrs._step.hosted import HostedGroups, HostedHyperparameter
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.own_rate import OwnRate
from keras_lrs._step.update import Record


class OwnRates:
    """The rate of each optimizer before schedules drove it, if it is a number."""

    def __init__(self) -> None:
        self._rates: dict[int, float] = {}
        self._restored: dict[int, float] = {}
        self._by_hand: set[int] = set()
        self._writes_state = False
        self._records: dict[int, Record] = {}

    def note(self, found: list) -> None:
        """Notes the rates of optimizers that are new."""
        for optimizer, source in _variables(found):
            self._rates.setdefault(id(optimizer), number(source))

    def get(self, optimizer: Any) -> float | None:
        """Returns an optimizer's rate; None if it has a schedule."""
        return self._rates.get(id(optimizer))

    def set(self, optimizer: Any, rate: float) -> None:
        """Corrects a rate that was noted from a file but had been scheduled."""
        self._rates[id(optimizer)] = rate

    def restore(self, optimizer: Any) -> None:
        """Restores an optimizer's rate."""
        rate = self.get(optimizer)
        if rate is not None:
            optimizers.set_rate(optimizer, rate)

    # --- Rates that the user's callbacks set ---

    def note_restored(self, found: list) -> None:
        """Notes the rates once everything has been restored.

        If a rate differs before the run follows the variables, it was set by hand.
        """
        self._restored = {id(one): number(rate) for one, rate in _variables(found)}

    def begin(self, found: list, resumes: bool) -> None:
        """Takes the rates that callbacks have set since the run was made.

        Args:
            found: The optimizers.
            resumes: Whether a callback may have restored the rates last used.
        """
        for optimizer, source in _variables(found):
            own = self.get(optimizer)
            before = self._restored.get(id(optimizer), own) if resumes else own
            if own is not None and number(source) != before:
                self.take(optimizer, number(source))

    def take(self, optimizer: Any, rate: float | None) -> None:
        """Takes a rate that was set by hand, unless it is None."""
        if rate is not None:
            self.set(optimizer, rate)
            self._by_hand.add(id(optimizer))

    def set_by_hand(self, found: list) -> list[float | None]:
        """Returns the rates of optimizers that were set during this run, else None."""
        return [self.get(one) if id(one) in self._by_hand else None for one in found]

    def follow(
        self, steps: list, count: Callable[[Any], int], undo: interrupts.Undo
    ) -> None:
        """Lets the optimizers' rates be set and read while steps drive them.

        Args:
            steps: The steps of a run.
            count: Returns the iterations of an optimizer, even within an epoch.
            undo: Receives the functions that restore everything.
        """
        for step in steps:
            source = optimizers.rate_source(step.optimizer)
            driving = [
                part
                for part in step.parts
                if isinstance(part, Hyperparameter) and part.name == "learning_rate"
            ]
            # An optimizer with hosted schedules shows the rate last used.
            if driving and hosted.host_of(step.optimizer) is None:
                undo.callback(self.restore, step.optimizer)
            if driving and isinstance(source, keras.Variable):
                replace(source, "assign", self._taking(driving[0], count), undo)
            elif any(part.scales for part in step.parts):
                replace(step.optimizer, optimizers.CURRENT_RATE, _reading(step), undo)

    def record(self, run: Any, steps: list) -> None:
        """Records the rates that callbacks set between steps, if steps do not set them.

        Call it before `follow`.
        """
        undo, count = run.undo, run.progress.iterations
        if IS_JAX:
            replace(run.model, "jax_state_sync", self._writing, undo)
        driven = {id(one.optimizer) for one in steps if one.drives_rate}
        found = [one for one in run.progress.every if id(one) not in driven]
        for optimizer, source in _variables(found):
            record = self._records[id(optimizer)] = Record()
            record.start(number(source))
            make = self._noting(record, optimizer, source, count)
            replace(source, "assign", make, undo)

    def _noting(self, record, optimizer, source, count):
        """Makes an `assign` of a rate's variable that records each change."""

        def make(assign):
            def assign_and_note(value):
                result = assign(value)
                if not self._writes_state:
                    with contextlib.suppress(Exception):  # In a traced step.
                        record.note(number(source), count(optimizer))
                return result

            return assign_and_note

        return make

    def used(self, optimizer: Any, iterations: np.ndarray, now: float) -> Any:
        """Returns the rates that a variable held for updates after `iterations`.

        `now` is its current value. If it differs from the last record, steps set it.
        """
        record = self._records.get(id(optimizer))
        return now if record is None or record.last != now else record.at(iterations)

    def _writing(self, sync):
        """Makes a `jax_state_sync`, with which JAX's `fit` writes its trained state."""

        def sync_and_note():
            self._writes_state = True
            try:
                sync()
            finally:
                self._writes_state = False

        return sync_and_note

    def _taking(self, part, count):
        """Makes an `assign` of a rate's variable that takes the value as own rate."""
        optimizer = part.step.optimizer
        is_hosted = hosted.host_of(optimizer) is not None
        said = False

        def make(assign):
            def assign_and_take(value):
                nonlocal said
                if self._writes_state:
                    return assign(value)
                if anywhere.is_traced():
                    # On JAX, Keras assigns to all variables of an optimizer itself.
                    if IS_TENSORFLOW and not is_hosted:
                        _refuse_within_step(optimizer)
                    return assign(value)
                before = number(optimizer._learning_rate)
                rate = number(ops.convert_to_tensor(value))
                result = assign(value)
                if isinstance(part, OwnRate):
                    self.take(optimizer, rate)
                    part.change(rate, count(optimizer))
                elif not said and rate != before:  # A loop may write it unchanged.
                    said = True
                    warnings.warn(
                        f"The learning rate of `{optimizer.name}` was set to {rate:g}, "
                        "which has no effect: a schedule sets it in every step.",
                        stacklevel=3,
                    )
                return result

            return assign_and_take

        return make


def _refuse_within_step(optimizer):
    raise RuntimeError(
        "A `train_step` that is compiled sets the learning rate of "
        f"`{optimizer.name}`, which would have no effect: a callback sets or "
        "multiplies it in every step. Set it in a callback, or give the schedule to "
        "`HyperparameterScheduler`."
    )


def followed(steps: list, progress: Any, optimizer: Any) -> list[tuple[int, Any]]:
    """Returns the schedules that an optimizer's rates follow, the main one first.

    Each comes with the iterations at which it is at its step 0. The optimizer's own
    schedule, or a schedule that `Scheduled` hosts, counts all iterations. The main
    schedule is None if the rate is a float. The others belong to groups of variables.
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
    """Returns the rates of optimizers' last updates, including those of groups."""
    rates = []
    for one in found:
        last = np.array([max(run.progress.iterations(one) - 1, 0)])
        values = run.used_values(one, last)
        rates += [values[key].item() for key in values if key.startswith("learning_r")]
    return rates


def _reading(step):
    """Makes the method that returns a schedule's rate times the factors."""
    optimizer, own = step.optimizer, optimizers.rate_source(step.optimizer)

    def make(current):
        def scaled():
            # During an update the step has set the rate.
            if optimizers.rate_source(optimizer) is not own:
                return current()
            return ops.convert_to_tensor(step.rate_now())

        return scaled

    return make


def _variables(found):
    """Yields pairs of an optimizer and the variable of its rate, if it has one."""
    for optimizer in found:
        source = optimizers.rate_source(optimizer)
        if isinstance(source, keras.Variable):
            yield optimizer, source


def show_last_used(run: Any, optimizer: Any) -> None:
    """Sets a driven rate to what it would be here in an uninterrupted run."""
    iterations = optimizers.iterations(optimizer)
    if iterations > run.progress.start(optimizer):
        used = run.used_values(optimizer, np.array([iterations - 1]))
        optimizers.set_rate(optimizer, used["learning_rate"].item())
