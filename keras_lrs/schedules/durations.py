"""Lengths in steps, epochs, samples, tokens or fractions of a run, and binding."""

import dataclasses
import fractions
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_lrs.schedules import fields


@fields.serializable
class Epochs(fields.Configured):
    """A length in epochs, for any argument of a schedule that is a number of steps.

    A schedule with such a length must be bound (`Schedule.bind`) before it is used.
    Every epoch has as many steps as an epoch of the `fit` that binds it, including
    epochs before its `initial_epoch`.

    Args:
        epochs: The number of epochs, >= 0; may be fractional.

    Raises:
        ValueError: If `epochs` is negative or not finite.
        TypeError: If `epochs` is not a number.

    Example:
        >>> from keras_lrs.schedules import Epochs, LinearDecay, Warmup
        >>> schedule = Warmup(LinearDecay(0.1), Epochs(5))
        >>> schedule.bind(total_steps=1000, steps_per_epoch=20).warmup_steps
        100
    """

    epochs: float = fields.number(at_least=0.0)


def _fraction(name, value):
    result = fields.validate(name, value, fields.number(at_least=0.0))
    if result > 1.0:
        bound = (
            "be <= 1, which is the whole run: 10 % of it is `Fraction(0.1)`, and "
            f"{result:g} epochs are `Epochs({result:g})`. Steps are a plain number"
        )
        fields.refuse(name, bound, value)
    return result


@fields.serializable
class Fraction(fields.Configured):
    """A length as a fraction of the whole run, for any argument in steps.

    A schedule with such a length must be bound (`Schedule.bind`) before it is used.
    Inside `Restarts` it is a fraction of the cycle.

    Args:
        fraction: The fraction, in [0, 1]. It counts as the decimal number that you
            write: `0.1` is exactly one tenth.

    Raises:
        ValueError: If `fraction` is outside [0, 1].
        TypeError: If `fraction` is not a number.

    Example:
        >>> from keras_lrs.schedules import Fraction, LinearDecay, Warmup
        >>> Warmup(LinearDecay(0.1), Fraction(0.1)).bind(total_steps=1000).warmup_steps
        100
    """

    fraction: float = fields.checked(fields.REQUIRED, _fraction)


@fields.serializable
class Samples(fields.Configured):
    """A length in samples, for any argument of a schedule that is a number of steps.

    A schedule with such a length must be bound (`Schedule.bind`) before it is used.
    Every step counts as a full batch, even the last step of an epoch. With gradient
    accumulation a step is a micro-batch.

    In `fit`, the samples per step are the global batch size. It is known for arrays, a
    `PyDataset` (its first batch), a `DataLoader`, and a `tf.data.Dataset` that is
    batched with `drop_remainder=True`. For other data, give `per_step`.

    Args:
        samples: The number of samples, >= 0.
        per_step: The samples per step, > 0; None takes the number from `bind` or `fit`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is not a number.

    Example:
        >>> from keras_lrs.schedules import LinearDecay, Samples, Warmup
        >>> schedule = Warmup(LinearDecay(0.1), Samples(12_800))
        >>> schedule.bind(total_steps=1000, samples_per_step=256).warmup_steps
        50
    """

    samples: int = fields.integer(at_least=0)
    per_step: int | None = fields.integer(None, at_least=1)


@fields.serializable
class Tokens(fields.Configured):
    """A length in tokens, for any argument of a schedule that is a number of steps.

    A schedule with such a length must be bound (`Schedule.bind`) before it is used.
    Every step counts as a full batch of full sequences, including padding.

    In `fit`, the tokens per step are known if the samples per step are (see `Samples`)
    and the model has a single integer input of shape `(batch, length)` with a known
    length. Otherwise give `per_step`.

    Args:
        tokens: The number of tokens, >= 0.
        per_step: The tokens per step, > 0; None takes the number from `bind` or `fit`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is not a number.

    Example:
        >>> from keras_lrs.schedules import CosineAnnealing, Tokens, Warmup
        >>> schedule = Warmup(CosineAnnealing(0.1, Tokens(10**9)), Tokens(10**7))
        >>> bound = schedule.bind(total_steps=5000, tokens_per_step=2**18)
        >>> bound.warmup_steps, bound.schedule.decay_steps
        (38, 3815)
    """

    tokens: int = fields.integer(at_least=0)
    per_step: int | None = fields.integer(None, at_least=1)


_MOST_POSITIONS = 10_000_000  # A table holds them.

Duration = int | Epochs | Fraction | Samples | Tokens | None
"""Steps, epochs, samples, tokens, a fraction of the run, or None: the rest of it."""

OF_BATCHES = (Samples, Tokens)
"""Lengths that depend on the size of a batch, and not on the length of the run."""
OF_DATA = (Epochs, *OF_BATCHES)
"""Lengths that depend only on the data, even inside a cycle of unknown length."""
OPEN = (*OF_DATA, Fraction)
"""All lengths that must be bound."""


def check(name: str, value: Any, at_least: int = 0) -> Duration:
    """Returns `value` if it is a duration or None; for arguments without a field."""
    return None if value is None else _duration(name, value, at_least)


def length(
    default: Any = fields.REQUIRED, *, at_least: int = 1, optional: bool = False
) -> Any:
    """Field specifier: a duration. None is allowed if it is the default.

    None means the rest of the piece; with `optional` it means that there is no length.
    """

    def check(name, value):
        if value is None and default is None:
            return None
        return _duration(name, value, at_least)

    return fields.checked(default, check, "optional_length" if optional else "length")


def lengths(default: Any = fields.REQUIRED) -> Any:
    """Field specifier: a list of durations > 0, one after the other."""

    def check(name, value):
        return tuple(_duration(name, item, 1) for item in fields.items(name, value))

    return fields.checked(default, check, kind="lengths")


def positions(default: Any = fields.REQUIRED, *, at_least: int = 0) -> Any:
    """Field specifier: a list of positions in increasing order, each a duration."""

    def check(name, value):
        if value is None and default is None:
            return None
        result = tuple(
            _duration(name, item, at_least) for item in fields.items(name, value)
        )
        units = [_unit(item) for item in result]
        for unit in set(units) - {(fields.Table, None)}:
            pairs = zip(result, units, strict=True)
            same = [_size(item) for item, its in pairs if its == unit]
            if any(late <= early for early, late in itertools.pairwise(same)):
                fields.refuse(name, "be in increasing order", value)
        return result

    return fields.checked(default, check, kind="positions")


def _duration(name, value, at_least):
    if isinstance(value, fields.Table):
        return value.astype(np.int64)
    if isinstance(value, OPEN):
        if at_least > 0 and _size(value) == 0:
            fields.refuse(name, "be > 0", value)
        return value
    try:
        result = fields.whole(name, value)
    except (TypeError, ValueError) as error:
        fields.refuse(
            name,
            "be a whole number of steps, `Epochs`, `Samples`, `Tokens` or a `Fraction`",
            value,
            type(error),
        )
    if result < at_least:
        fields.refuse(name, "be > 0" if at_least == 1 else f"be >= {at_least}", value)
    if result > fields.LONGEST:
        fields.refuse(name, f"be <= {fields.LONGEST}", value)
    return result


def _size(duration):
    """Returns the number of a duration: the first of its fields."""
    if not isinstance(duration, OPEN):
        return duration
    return getattr(duration, dataclasses.fields(duration)[0].name)


def _unit(duration):
    """Returns a unit, which is equal for durations whose sizes can be compared."""
    return type(duration), getattr(duration, "per_step", None)


def exact(value: float) -> fractions.Fraction:
    """Returns `value` as the exact decimal number of its `repr`: 0.1 is one tenth."""
    return fractions.Fraction(repr(float(value)))


def half_up(x):
    """Rounds an exact number (or an object array of them), halves up."""
    return (2 * x + 1) // 2


def at_least(x, low):
    """Returns the larger of two exact numbers (or object arrays of them)."""
    if isinstance(x, np.ndarray) or isinstance(low, np.ndarray):
        return np.maximum(x, low)
    return max(x, low)


def at_most(x, high):
    """Returns the smaller of two exact numbers (or object arrays of them)."""
    return -at_least(-x, -high)


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of the run that a schedule covers.

    Positions are rounded and lengths are not, so that consecutive pieces end where
    their exact lengths end. `start` is the exact position at which the window begins,
    and `first` is the step. `total` may be an object array, with one run per cycle of
    `Restarts`. Then all positions and lengths are arrays of the same shape.

    `batch` returns the samples or tokens per step for a class of durations, or None if
    the number is not known. It is called only if the number is needed.
    """

    total: Any
    steps_per_epoch: Any  # May be a fraction; None if it is not known.
    start: Any = 0
    first: Any = 0
    stop: Any = None
    batch: Callable[[type], int | None] = lambda kind: None

    def exact(self, duration: Any) -> Any:
        """Returns a duration's exact number of steps."""
        if isinstance(duration, Fraction):
            return exact(duration.fraction) * self.total
        if isinstance(duration, OF_BATCHES):
            return fractions.Fraction(_size(duration), self._per_step(duration))
        if not isinstance(duration, Epochs):
            return duration
        if self.steps_per_epoch is None:
            raise ValueError(
                f"Argument `steps_per_epoch` must be given to bind {duration}. "
                "Received: steps_per_epoch=None"
            )
        return exact(duration.epochs) * self.steps_per_epoch

    def _per_step(self, duration):
        kind = type(duration)
        per_step = duration.per_step or self.batch(kind)
        if per_step is None:
            unit = kind.__name__.lower()
            raise ValueError(
                f"The {unit} of a step must be known to bind {duration}: pass "
                f"`{kind.__name__}({_size(duration)}, per_step=...)`, or "
                f"`{unit}_per_step=` to `bind`. In `fit`, it is not known from the "
                "data or the model. Received: per_step=None"
            )
        return per_step

    def length(self, duration: Duration) -> Any:
        """Returns the whole number of steps of a duration at the window's beginning.

        None is the rest of the window. The result is at least 1, unless the duration is
        0.
        """
        if isinstance(duration, (int, fields.Table)):
            return duration
        if duration is None:
            stop = self.total if self.stop is None else self.stop
            return at_least(stop - self.first, 1)
        end = half_up(self.start + self.exact(duration))
        return at_least(end - self.first, 1 if _size(duration) > 0 else 0)

    def lengths(self, durations: tuple) -> tuple:
        """Returns the steps of consecutive durations."""
        steps, window = [], self
        for duration in durations:
            steps.append(window.length(duration))
            window = window.after(duration)
        return tuple(steps)

    def both_ends(self, early: Duration, late: Duration, total: Any) -> tuple[Any, Any]:
        """Returns the steps of one duration at the start of `total`, one at its end.

        They overlap only if the exact lengths do, and not by rounding.
        """
        first, last = self.length(early), late
        if isinstance(late, OPEN):
            last = at_least(total - half_up(total - self.exact(late)), 1)
        if np.all(self.exact(early) + self.exact(late) <= total):
            first = at_most(first, total - last)
        return first, last

    def positions(self, name: str, durations: tuple) -> tuple:
        """Returns increasing positions as steps from the window's beginning."""
        steps: list[Any] = []
        latest: Any = -1
        for duration in durations:
            position = self.exact(duration)
            if np.any(position <= latest):
                fields.refuse(name, "be in increasing order once bound", durations)
            latest = position
            if isinstance(duration, int):
                step = duration
            else:
                step = half_up(self.start + position) - self.first
            if steps:
                step = at_least(step, steps[-1] + 1)
            elif np.any(position > 0):
                step = at_least(step, 1)
            steps.append(step)
        return tuple(steps)

    def after(self, duration: Duration) -> "Window":
        """Returns the window that begins a duration later."""
        return dataclasses.replace(
            self,
            start=self.start + self.exact(duration),
            first=self.first + self.length(duration),
        )

    def pieces(self, durations: tuple, steps: tuple) -> list["Window"]:
        """Returns the windows between positions that `positions` turned into steps."""
        stop = self.total if self.stop is None else self.stop
        starts = [self.start, *(self.start + self.exact(d) for d in durations)]
        firsts = [self.first, *(self.first + step for step in steps)]
        return [
            dataclasses.replace(self, start=start, first=first, stop=end)
            for start, first, end in zip(
                starts, firsts, [*firsts[1:], stop], strict=True
            )
        ]

    def multiples(self, duration: Duration) -> tuple[Any, tuple | None]:
        """Returns `(every, at)`: a whole number of steps, or else positions."""
        if isinstance(duration, (int, fields.Table)):
            return duration, None
        every = self.exact(duration)
        if not isinstance(every, np.ndarray) and (every <= 1 or every == int(every)):
            return max(int(every), 1), None
        if isinstance(duration, Fraction):
            count = math.floor(1 / exact(duration.fraction))
        else:
            count = math.floor(self.total / every)
        if count > _MOST_POSITIONS:
            raise ValueError(
                f"{duration!r} is {float(every):g} steps, and a run has {count} such "
                f"positions: at most {_MOST_POSITIONS} may fall between steps. Give a "
                "whole number of steps."
            )
        return None, tuple(k * every for k in range(1, count + 1))

    def cycle(self) -> "CycleWindow":
        """Returns the window of a cycle of `Restarts` whose length is not known yet."""
        return CycleWindow(None, self.steps_per_epoch, batch=self.batch)


class CycleWindow(Window):
    """A cycle or a run of unknown length, in which only `OF_DATA` lengths become steps.

    Other durations are returned unchanged. They can be stored in a field until the
    cycle is bound, but a schedule that calculates with them raises an error in
    `Restarts`.
    """

    def length(self, duration):
        return super().length(duration) if _is_known(duration) else duration

    def lengths(self, durations):
        if all(map(_is_known, durations)):
            return super().lengths(durations)
        return tuple(map(self.length, durations))

    def both_ends(self, early, late, total):
        return self.length(early), self.length(late)

    def positions(self, name, durations):
        if all(map(_is_known, durations)):
            return super().positions(name, durations)
        return tuple(map(self.length, durations))

    def after(self, duration):
        return super().after(duration) if _is_known(duration) else self

    def pieces(self, durations, steps):
        return [self.after(duration) for duration in (0, *durations)]

    def multiples(self, duration):
        return self.length(duration), None


def _is_known(duration):
    return isinstance(duration, (int, *OF_DATA))
