"""How many updates an optimizer makes for a batch of the data."""

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
    """What an optimizer has done in a run, up to the end of an epoch."""

    start: int
    """Its iterations at step 0 of the schedules."""
    iterations: int
    epoch: int
    """How many epochs were over."""
    pace: Ratio


_trained: weakref.WeakKeyDictionary[Any, Trained] = weakref.WeakKeyDictionary()


def trained(optimizer: Any, epoch: int) -> Trained | None:
    """What an optimizer did in the run of this process that ended before an epoch.

    None if there was none, or if it has been trained or loaded since.
    """
    found = _trained.get(optimizer)
    if found is None or found.epoch != epoch:
        return None
    return found if found.iterations == optimizers.iterations(optimizer) else None


def note(optimizer: Any, trained: Trained) -> None:
    """Notes what an optimizer has done, for a `fit` that resumes."""
    _trained[optimizer] = trained


def check(given: Any) -> Ratio | None:
    """The argument `updates_per_batch` of callbacks; None if it is not given."""
    if given is None:
        return None
    is_number = isinstance(given, numbers.Real) and not isinstance(given, bool)
    if not is_number or not 0 < given < float("inf"):
        kind = ValueError if is_number else TypeError
        fields.refuse("updates_per_batch", "be a number > 0", given, kind)
    # A third as a float is a third.
    return fractions.Fraction(given).limit_denominator(10_000)


class Paces:
    """The updates that the optimizers of a run make for a batch: 1, if nobody says."""

    def __init__(self) -> None:
        self._told: dict[int, Ratio] = {}
        self._from: dict[int, str] = {}
        self._current: Any = None
        self.bound: set[int] = set()
        """The optimizers that have lengths that the length of the run decides."""
        self.fixed: set[int] = set()
        """Those of them for which callbacks have calculated with them already."""
        self.bound_ahead = False
        """Whether variables have such lengths, which follow whoever is ahead."""
        self._planning = False

    def of(self, optimizer: Any) -> Ratio:
        """The updates of an optimizer for a batch."""
        return self._told.get(id(optimizer), 1)

    def is_told(self, optimizer: Any) -> bool:
        """Whether they are known, and not only supposed."""
        return id(optimizer) in self._told

    def tell(self, optimizer: Any, pace: Ratio) -> None:
        """Notes what was found out about an optimizer."""
        self._told.setdefault(id(optimizer), pace)

    def saved(self, every: list) -> list[str | None]:
        """What is known of the optimizers of a run, as JSON."""
        return [str(self.of(one)) if self.is_told(one) else None for one in every]

    def load(self, every: list, saved: list[str | None] | None) -> None:
        """Takes what was saved, where nobody says otherwise."""
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
        """Within it lengths are those of an optimizer.

        `planning` says whether they are bound for its step, and may be bound anew.
        """
        before = self._current, self._planning
        self._current, self._planning = optimizer, planning
        try:
            yield
        finally:
            self._current, self._planning = before

    def bind(self, optimizer: Any) -> Ratio:
        """The updates of an optimizer for a batch, which decide a length."""
        self.bound.add(id(optimizer))
        self.bound_ahead |= self._planning and self._current is None
        if not self._planning:
            self.fixed.add(id(optimizer))
        return self.of(optimizer)

    def current(self, every: list) -> Any:
        """The optimizer whose lengths are asked for; the fastest, if nobody says."""
        if self._current is not None:
            return self._current
        return max(every, key=self.of, default=None)
