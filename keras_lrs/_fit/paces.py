"""The number of updates that an optimizer makes per batch of data."""

import contextlib
import fractions
import numbers
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from keras_lrs._keras import optimizers
from keras_lrs.schedules import fields

Ratio = int | fractions.Fraction


class Trained(NamedTuple):
    """The work of an optimizer in a run, up to the end of an epoch."""

    start: int
    """The optimizer's iterations at step 0 of the schedules."""
    iterations: int
    epoch: int
    """The number of epochs that were over."""
    pace: Ratio


_trained: weakref.WeakKeyDictionary[Any, Trained] = weakref.WeakKeyDictionary()


def trained(optimizer: Any, epoch: int) -> Trained | None:
    """Returns an optimizer's work in a run of this process that ended before an epoch.

    None if there was no such run, or if the optimizer has been trained or loaded since.
    """
    found = _trained.get(optimizer)
    if found is None or found.epoch != epoch:
        return None
    return found if found.iterations == optimizers.iterations(optimizer) else None


def note(optimizer: Any, trained: Trained) -> None:
    """Notes the work of an optimizer, for a `fit` that resumes."""
    _trained[optimizer] = trained


def check(given: Any) -> Ratio | None:
    """Returns the argument `updates_per_batch` as a ratio; None if not given."""
    if given is None:
        return None
    is_number = isinstance(given, numbers.Real) and not isinstance(given, bool)
    if not is_number or not 0 < given < float("inf"):
        kind = ValueError if is_number else TypeError
        fields.refuse("updates_per_batch", "be a number > 0", given, kind)
    # A float of 1/3 becomes exactly one third.
    return fractions.Fraction(given).limit_denominator(10_000)


class Paces:
    """The updates per batch of the optimizers of a run, 1 by default."""

    def __init__(self) -> None:
        self._told: dict[int, Ratio] = {}
        self._from: dict[int, str] = {}
        self._current: Any = None
        self.bound: set[int] = set()
        """The optimizers with lengths that depend on the length of the run."""
        self.fixed: set[int] = set()
        """The optimizers among them whose lengths callbacks have already used."""
        self.bound_ahead = False
        """Whether variables have such lengths, which follow the fastest optimizer."""
        self._planning = False

    def of(self, optimizer: Any) -> Ratio:
        """Returns the updates of an optimizer per batch."""
        return self._told.get(id(optimizer), 1)

    def is_told(self, optimizer: Any) -> bool:
        """Whether the updates per batch are known, and not only assumed."""
        return id(optimizer) in self._told

    def tell(self, optimizer: Any, pace: Ratio) -> None:
        """Notes the pace of an optimizer."""
        self._told.setdefault(id(optimizer), pace)

    def saved(self, every: list) -> list[str | None]:
        """Returns the known paces of a run's optimizers, as JSON."""
        return [str(self.of(one)) if self.is_told(one) else None for one in every]

    def load(self, every: list, saved: list[str | None] | None) -> None:
        """Takes saved paces, unless others are given."""
        for optimizer, pace in zip(every, saved or [], strict=False):
            if pace is not None:
                self.tell(optimizer, fractions.Fraction(pace))

    def take(self, callback: Any, found: Iterable[Any]) -> None:
        """Takes the argument of a callback, for the optimizers that it acts in."""
        given = callback.updates_per_batch
        for optimizer in [] if given is None else found:
            key = id(optimizer)
            before = self._told.setdefault(key, given)
            if before != given:
                other = self._from.get(key, "a checkpoint")
                bound = f"be {before}, as in {other}, which acts in the same optimizer"
                fields.refuse("updates_per_batch", bound, given)
            self._from[key] = f"`{type(callback).__name__}`"

    @contextlib.contextmanager
    def within(self, optimizer: Any, planning: bool = False) -> Iterator[None]:
        """Uses the pace of an optimizer for all lengths within the block.

        `planning` says whether they are bound for its step, and may be bound again.
        """
        before = self._current, self._planning
        self._current, self._planning = optimizer, planning
        try:
            yield
        finally:
            self._current, self._planning = before

    def bind(self, optimizer: Any) -> Ratio:
        """Returns the updates of an optimizer per batch, which decide a length."""
        self.bound.add(id(optimizer))
        self.bound_ahead |= self._planning and self._current is None
        if not self._planning:
            self.fixed.add(id(optimizer))
        return self.of(optimizer)

    def current(self, every: list) -> Any:
        """Returns the optimizer whose pace is used; the fastest by default."""
        if self._current is not None:
            return self._current
        return max(every, key=self.of, default=None)
