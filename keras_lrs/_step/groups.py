"""Groups of variables: hyperparameters that also depend on the variable."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import float_values, optimizers
from keras_lrs._keras.backend import IS_TORCH
from keras_lrs._step import hyperparameters
from keras_lrs._step.bias_correction import corrected
from keras_lrs._step.optimizer_step import put_back
from keras_lrs._step.part import StepPart, Wanted
from keras_lrs._step.update import PastUpdates, Update, scaled
from keras_lrs.schedules import base
from keras_lrs.schedules.identity import identity
from keras_lrs.schedules.open_ended import Constant
from keras_lrs.schedules.per_variable import PerVariable

RATE, MULTIPLIERS, DECAY = "learning_rate", "rate_multipliers", "weight_decay"
CORRECTION = "momentum_correction"
# Muon has a separate decay for the variables that its Adam trains.
DECAYS = (DECAY, "adam_weight_decay")
_GROUPED = (RATE, DECAY, "momentum", "rho", "epsilon")
_ONE = Constant(1.0)


def _attributes(name):
    """Returns the attributes of an optimizer that hold a hyperparameter."""
    return DECAYS if name == DECAY else (name,)


class Groups(StepPart):
    """Gives groups of variables their own values of one hyperparameter.

    It determines the value of each variable, and `GroupedUpdate` applies it.

    Args:
        step: The optimizer's step.
        name: The hyperparameter, or `"rate_multipliers"`.
        groups: Pairs of a pattern and a bound schedule.
    """

    def __init__(self, step: Any, name: str, groups: tuple[tuple[str, Any], ...]):
        super().__init__(step)
        self.name = name
        self._groups, given = groups, PerVariable(groups)
        # One snapshot each, because some schedules do not even equal themselves.
        snapshots = {id(schedule): identity(schedule) for _, schedule in groups}
        known = {pattern: snapshots[id(schedule)] for pattern, schedule in groups}
        self.schedules: dict[str, Any] = {}
        """The schedule of each group, by the first of its patterns."""
        self.group_of: list[str | None] = []
        """The group of each variable, in the optimizer's order; None is the rest."""
        first: dict[Any, str | None] = {}
        if name == MULTIPLIERS:
            first[identity(_ONE)] = None
        paths = optimizers.trained_paths(step.optimizer)
        deciding = [given.pattern_of(path) for path in paths]
        for pattern, schedule in groups:
            if pattern in deciding:
                kept = first.setdefault(known[pattern], pattern)
                if kept is not None:
                    self.schedules.setdefault(kept, schedule)
        self.group_of += [
            None if pattern is None else first[known[pattern]] for pattern in deciding
        ]

    def per_variable(self, rest: Any) -> PerVariable:
        """Returns it as a `PerVariable`; `rest` is the schedule of other variables."""
        groups = self._groups if rest is None else (*self._groups, (".*", rest))
        return PerVariable(groups)

    @staticmethod
    def check(callback: Any, wanted: Wanted, beside: list[Wanted]) -> None:
        """Raises if the optimizer cannot have such groups."""
        name, _ = wanted.compiled  # type: ignore[misc]
        if name != MULTIPLIERS:
            check_groupable(wanted.optimizer, name)
        together = [
            one for one in (wanted, *beside) if issubclass(one.kind, RateGroups)
        ]
        if len({one.compiled[0] for one in together}) > 1:  # type: ignore[index]
            raise ValueError(
                "Argument `rate_multipliers` cannot be given together with a "
                "`PerVariable` of `learning_rate`: multiply its schedules, with "
                "`keras_lrs.schedules.Scaled`, or give `learning_rate` one schedule."
            )
        check_constant_ratios([wanted, *beside])

    @staticmethod
    def bind(run: Any, name: str, groups: tuple) -> tuple:
        """Binds the schedules."""
        return name, tuple(
            (pattern, run.bind(name, as_schedule(value))) for pattern, value in groups
        )

    @staticmethod
    def key(name: str, groups: tuple) -> Any:
        """Returns a key that is equal for the same patterns with equal schedules."""
        return name, tuple((pattern, identity(one)) for pattern, one in groups)

    def rebind(self, last: int, name: str, groups: tuple) -> bool:
        """Takes other schedules for the groups."""
        before = self._groups
        Groups.__init__(self, self.step, name, groups)
        pairs = zip(before, groups, strict=True)
        return all(base.agree(old, new, last) for (_, old), (_, new) in pairs)

    def values(self, update: Update | PastUpdates) -> None:
        """Evaluates the schedule of each group."""
        update.groups[self.name] = {
            pattern: update.evaluate(schedule)
            for pattern, schedule in self.schedules.items()
        }


class RateGroups(Groups):
    """Groups of variables with their own learning rates."""

    scales = True

    def __init__(self, step: Any, name: str, groups: tuple[tuple[str, Any], ...]):
        super().__init__(step, name, groups)
        if not isinstance(step.optimizer, keras.optimizers.Ftrl):
            return
        for pattern, schedule in self.schedules.items():
            # The length of the run is not known here, but a rate that ends at 0 stays
            # there.
            late = np.geomspace(10_001, 2**31, 1_000).astype(np.int64)
            steps = np.concatenate([np.arange(10_001), late])
            rates = np.asarray(base.evaluate(schedule, steps))
            if (rates == 0.0).any():
                raise ValueError(
                    f"Argument `{name}` must be > 0 with `Ftrl`, which divides by the "
                    "learning rate. Received: 0 at step "
                    f"{steps[np.argmin(rates)]} for the pattern {pattern!r}"
                )


class GroupedUpdate(StepPart):
    """Updates each variable with the values of its groups.

    On TensorFlow and JAX, Keras updates the variables in one loop, and the values are
    set for each variable. PyTorch updates all variables at once, so there is one update
    for each group. Keras's own weight decay runs once for each group.

    This must be the last of the parts, so that it acts before all others. It passes
    them the rate 1, and the rate that comes back is the product of their factors.
    """

    @staticmethod
    def covers() -> tuple[str, ...]:
        """Returns all attributes that it switches."""
        attributes = [a for name in _GROUPED if name != RATE for a in _attributes(name)]
        return ("update_step", "_apply_weight_decay", *attributes)

    def __init__(self, step: Any):
        super().__init__(step)
        # Now, because the replicas of a TensorFlow strategy run the step inside
        # another.
        self._plain_step = step.optimizer.update_step
        self._plain_decay = step.optimizer._apply_weight_decay
        self._splits: dict[Any, list[tuple[tuple, list[int]]]] = {}

    @functools.cached_property
    def _of_update(self) -> list[Groups]:
        """The groups that matter to the update."""
        parts = [part for part in self.step.parts if isinstance(part, Groups)]
        return [part for part in parts if part.name != DECAY]

    @functools.cached_property
    def _of_decay(self) -> list[Groups]:
        """The groups that matter to the weight decay."""
        parts = [part for part in self.step.parts if isinstance(part, Groups)]
        return [part for part in parts if part.name == DECAY or part.scales]

    def before(self, update: Update) -> None:
        """Replaces the method that Keras calls."""
        update.group_rates = rates(update)
        if self._of_decay:
            update.put("_apply_weight_decay", functools.partial(self._decay, update))
        if self._of_update and not IS_TORCH:
            update.put("update_step", functools.partial(self._step_of_one, update))

    def update_step(self, update: Update, call: Callable) -> Callable:
        """Separates the factors of other parts; on PyTorch, splits the update."""
        scales = any(part.scales for part in self._of_update)

        def in_one_loop(gradients, variables, rate):
            call(gradients, variables, 1.0 if scales else rate)

        def group_by_group(gradients, variables, rate):
            undo = float_values.repeatable(self.step.optimizer)
            splits = self._split(variables, self._of_update)
            for number, (group, members) in enumerate(splits):
                if number:
                    undo()
                with self._switched(update, self._of_update, group):
                    call(
                        [gradients[i] for i in members],
                        [variables[i] for i in members],
                        self._rate(update, self._of_update, group) if scales else rate,
                    )

        if not self._of_update:
            return call
        return group_by_group if IS_TORCH else in_one_loop

    def used(self, update: PastUpdates) -> dict[str, Any]:
        """Returns the values of groups, by the name and first pattern of the group."""
        groups = {name: of for name, of in update.groups.items() if not is_rate(name)}
        return {
            f"{name}/{pattern}": value
            for name, values in {RATE: rates(update), **groups}.items()
            for pattern, value in values.items()
        }

    def _step_of_one(self, update, gradient, variable, rate):
        """Runs `Optimizer.update_step` with the values of a variable."""
        parts = self._of_update
        group = self._group(variable, parts)
        if any(part.scales for part in parts):
            rate = self._rate(update, parts, group) * rate
        with self._switched(update, parts, group):
            return self._plain_step(gradient, variable, rate)

    def _decay(self, update, variables):
        """Runs `Optimizer._apply_weight_decay` group by group."""
        optimizer, parts = self.step.optimizer, self._of_decay
        for group, members in self._split(variables, parts):
            more = {}
            rate = self._rate(update, parts, group)
            if rate is not update.rate:
                more["_learning_rate"] = float_values.rate_of(optimizer, rate)
            with self._switched(update, parts, group, more):
                self._plain_decay([variables[i] for i in members])

    def _group(self, variable, parts):
        """Returns the pattern of each part that applies to a variable."""
        index = optimizers.position(self.step.optimizer, variable)
        return tuple(part.group_of[index] for part in parts)

    def _split(self, variables, parts):
        """Returns groups and the indices of their variables, ordered by the first."""
        key = id(parts), tuple(map(id, variables))
        if key not in self._splits:
            found: dict[tuple, list[int]] = {}
            for index, variable in enumerate(variables):
                found.setdefault(self._group(variable, parts), []).append(index)
            self._splits[key] = list(found.items())
        return self._splits[key]

    def _rate(self, update, parts, group):
        """Returns the learning rate of a group, without the factors of other parts."""
        for part, pattern in zip(parts, group, strict=True):
            if part.scales and pattern is not None:
                return update.group_rates[pattern]
        return update.rate

    @contextlib.contextmanager
    def _switched(self, update, parts, group, more=()) -> Iterator[None]:
        """Gives the optimizer the values of a group, and some more, for a block."""
        attributes = vars(self.step.optimizer)
        switched = dict(more)
        for part, pattern in zip(parts, group, strict=True):
            if not part.scales and pattern is not None:
                value = float_values.hyperparameter(update.groups[part.name][pattern])
                own = (a for a in _attributes(part.name) if a in attributes)
                switched.update(dict.fromkeys(own, value))
        self.step.overridden.update(switched)
        attributes.update(switched)
        try:
            yield
        finally:
            # Not the values found above, which may be those of another replica.
            put_back(attributes, switched, {**self.step.originals, **update.overrides})


def rates(update: Any) -> dict[str, Any]:
    """Returns the learning rates of groups, by pattern, once the main rate is known."""
    found = {
        pattern: multiplier * update.rate
        for pattern, multiplier in update.groups.get(MULTIPLIERS, {}).items()
    }
    for pattern, rate in update.groups.get(RATE, {}).items():
        found[pattern] = scaled(rate, update.factors)
    return found


def is_rate(name: str) -> bool:
    """Whether groups of this name have their own rates."""
    return name in (RATE, MULTIPLIERS)


def schedules_of(value: Any) -> list:
    """Returns the schedules of a value that may be a `PerVariable`."""
    if not isinstance(value, PerVariable):
        return [value]
    return [one for _, one in value.values if not isinstance(one, float)]


def as_schedule(value: Any) -> Any:
    """Returns a schedule, which is constant for a number."""
    return Constant(value) if isinstance(value, float) else value


def wanted(optimizer: Any, name: str, given: Any) -> list[Wanted]:
    """Returns the requests by which a schedule or a `PerVariable` drives a value.

    If every variable has its own rate, the rate of the last pattern becomes the
    optimizer's, so that its `learning_rate` is a rate that is used.
    """
    if not isinstance(given, PerVariable):
        return [hyperparameters.wanted(optimizer, name, given)]
    deciding = [given.pattern_of(p) for p in optimizers.trained_paths(optimizer)]
    groups = [(pattern, v) for pattern, v in given.values if pattern in deciding]
    found = []
    slot: Any = name
    if name == RATE and groups and None not in deciding:
        _, last = groups.pop()
        schedule = as_schedule(last)
        found.append(hyperparameters.wanted(optimizer, RATE, schedule))
        slot = (RATE, "groups")
    if groups:
        kind = RateGroups if is_rate(name) else Groups
        found.append(Wanted(optimizer, kind, (name, tuple(groups)), slot=slot))
    return found


def check_constant_ratios(together: list[Wanted]) -> None:
    """Raises if momentum correction is requested but the ratios of rates differ."""
    if not any(one.slot == CORRECTION for one in together):
        return
    for one in together:
        if not issubclass(one.kind, RateGroups):
            continue
        name, groups = one.compiled  # type: ignore[misc]
        changing = [
            p for p, value in groups if not isinstance(value, (float, Constant))
        ]
        if name == RATE or changing:
            raise ValueError(
                "Argument `momentum_correction` rescales the whole velocity by one "
                "ratio of rates, so groups of variables must have constant multiples "
                "of one rate: numbers in `rate_multipliers`. Received: a separate "
                f"schedule or rate for the pattern {(changing or [groups[0][0]])[0]!r}"
            )


def check_groupable(optimizer: Any, name: str) -> None:
    """Raises if a hyperparameter cannot have a value for each variable."""
    kind = type(optimizer).__name__
    if name in hyperparameters.CLIPPING:
        raise ValueError(
            f"Argument `{name}` cannot be a `PerVariable`: an optimizer clips the "
            "gradients of all variables before it updates the first. Give it one "
            "schedule."
        )
    if name == "ema_momentum":
        raise ValueError(
            "Argument `ema_momentum` cannot be a `PerVariable`: Keras averages all "
            "variables at once. Give it one schedule."
        )
    if name in corrected(optimizer):
        raise ValueError(
            f"Argument `{name}` of `{kind}` cannot be a `PerVariable`: all variables "
            "have the same bias correction. Give it one schedule."
        )
    hyperparameters.check_name(optimizer, name)
    if name not in _GROUPED:
        raise ValueError(
            f"Argument `{name}` cannot be a `PerVariable`. It can be the value of: "
            f"{', '.join(_GROUPED)}"
        )
    if name == RATE and optimizers.is_taken_over(optimizer):
        raise ValueError(
            "Argument `learning_rate` cannot be a `PerVariable` with `ScheduleFree`, "
            "whose average weighs each update by one rate. Use `rate_multipliers`."
        )
