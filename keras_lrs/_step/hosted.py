"""Schedules that an optimizer hosts, in `fit` and in any other loop.

`optimizers.Scheduled` is the host. Outside of a `Run` it makes its own step, and a
`Run` includes its schedules in the plan. Both request the same parts. Unlike a
callback's schedules, hosted schedules count all iterations of the optimizer.
"""

import dataclasses
import weakref
from typing import Any

from keras_lrs._keras import in_step, optimizers, variables
from keras_lrs._keras.known import KnownNumbers
from keras_lrs._step import given, groups
from keras_lrs._step.bias_correction import BiasCorrection
from keras_lrs._step.groups import Groups, RateGroups, as_schedule
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.part import StepPart, Wanted
from keras_lrs._step.update import PastUpdates, Record, Update
from keras_lrs.schedules import base
from keras_lrs.schedules.per_variable import PerVariable

_hosts: weakref.WeakKeyDictionary[Any, weakref.ref] = weakref.WeakKeyDictionary()


def set_host(optimizer: Any, host: Any) -> None:
    """Notes the wrapper that hosts the schedules of an optimizer.

    The host has `schedules`, a dictionary, `own_rate`, the rate if none is scheduled,
    and `factor`, a `HostedNumber`.
    """
    _hosts[optimizer] = weakref.ref(host)


def host_of(optimizer: Any) -> Any:
    """Returns the wrapper that hosts schedules of an optimizer, or None."""
    reference = _hosts.get(optimizer)
    return None if reference is None else reference()


def names(optimizer: Any) -> list[str]:
    """Returns the hyperparameters for which the optimizer has hosted schedules."""
    host = host_of(optimizer)
    return [] if host is None else list(host.schedules)


def check_bound(host: Any) -> None:
    """Raises `RuntimeError` if a hosted schedule is open."""
    for name, value in host.schedules.items():
        for schedule in groups.schedules_of(value):
            if base.is_open(schedule):
                raise RuntimeError(
                    f"The schedule of `{name}` has open lengths. Bind the optimizer "
                    "before its first update: `optimizer.bind(total_steps, "
                    f"steps_per_epoch)`. Received: {schedule!r}"
                )


def has_groups(optimizer: Any) -> bool:
    """Whether the optimizer has hosted values for groups of variables."""
    host = host_of(optimizer)
    values = [] if host is None else host.schedules.values()
    return any(isinstance(value, PerVariable) for value in values)


def wanted_by_host(optimizer: Any) -> list[tuple[Any, Wanted]]:
    """Returns pairs of the host and a part that it requests, like a callback."""
    host = host_of(optimizer)
    if host is None:
        return []
    check_bound(host)
    found = [Wanted(optimizer, HostedFactor, (host.factor,))]
    for name, value in host.schedules.items():
        if isinstance(value, PerVariable):
            value.check_paths(name, optimizers.trained_paths(optimizer))
            if name == groups.DECAY:
                given.check_decay(value, [optimizer])
        found += [
            dataclasses.replace(one, kind=_HOSTED[one.kind])
            for one in groups.wanted(optimizer, name, value)
        ]
    return [(host, one) for one in found]


class HostedNumber(Record):
    """A factor on the rate in a variable of the host, with a record of its values.

    `used_rate` is the host's variable for the rate that the last update used.
    """

    def __init__(self, used_rate: Any) -> None:
        self.used_rate = used_rate
        self.variable: Any = None
        self._known = KnownNumbers()
        self.start(1.0)

    @property
    def latest(self) -> float:
        """The current value, between steps."""
        if self.variable is None:
            return self._values[-1]
        return variables.number(self.variable)

    @property
    def value(self) -> Any:
        """The current value, or the value in the step that is traced."""
        return self._known.value_of(self.variable)

    def begin(self) -> None:
        """Restarts the record with the value of the variable."""
        self.start(self.latest)


class HostedHyperparameter(Hyperparameter):
    """Drives a hyperparameter by a schedule, from the optimizer's first iteration."""

    @staticmethod
    def bind(run: Any, name: str, schedule: Any) -> tuple:
        """Returns the arguments unchanged, because the host binds the schedule."""
        return name, schedule

    def values(self, update: Update | PastUpdates) -> None:
        """Evaluates the schedule."""
        super().values(update.counting_all())


class HostedGroups(Groups):
    """Values of groups of variables, from the optimizer's first iteration."""

    @staticmethod
    def bind(run: Any, name: str, given: tuple) -> tuple:
        """Returns schedules for numbers; the host binds the schedules."""
        return name, tuple((pattern, as_schedule(value)) for pattern, value in given)

    def values(self, update: Update | PastUpdates) -> None:
        """Evaluates the schedule of each group."""
        super().values(update.counting_all())


class HostedRateGroups(HostedGroups, RateGroups):
    """Learning rates of groups of variables, from the first iteration."""


_HOSTED: dict[type[StepPart], type[StepPart]] = {
    Hyperparameter: HostedHyperparameter,
    Groups: HostedGroups,
    RateGroups: HostedRateGroups,
}


class HostedFactor(StepPart):
    """Multiplies the rate by a number that the host keeps in a variable."""

    scales = True

    def __init__(self, step: Any, number: HostedNumber):
        super().__init__(step)
        self.number = number

    def begin(self) -> None:
        """Starts the record of past updates here."""
        self.number.begin()

    def values(self, update: Update | PastUpdates) -> None:
        """Multiplies the rate by the factor."""
        update.factors.append(update.read(self.number))

    def before(self, update: Update) -> None:
        """Stores the rate, so that the host can read it."""
        in_step.assign(self.number.used_rate, update.rate)


class HostedBiasCorrection(BiasCorrection):
    """The bias correction of betas that have been scheduled from the beginning."""

    def begin(self) -> None:
        """Does nothing, because the tables hold the products of all updates."""

    def end(self) -> None:
        """Does nothing, because nothing must be remembered."""

    @property
    def _updates_before(self):
        return 0

    @property
    def _first_update(self):
        return 0


def first_step(optimizer: Any) -> int:
    """Returns the step at which the first update of an optimizer is evaluated."""
    return optimizers.accumulated(optimizer) - 1
