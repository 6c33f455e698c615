"""Lengths in steps, epochs, samples, tokens or fractions of a run; binding them."""

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

    A schedule that holds one must be bound (`Schedule.bind`) before it is used. All of
    them have as many steps as an epoch of the `fit` that binds it, also those before
    its `initial_epoch`.

    Args:
        epochs: The number of epochs, >= 0; parts of an epoch are allowed.

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

    A schedule that holds one must be bound (`Schedule.bind`) before it is used. Inside
    `Restarts` the whole is the cycle.

    Args:
        fraction: In [0, 1]. Read as the decimal number it is written as: `0.1` is one
            tenth.

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

    A schedule that holds one must be bound (`Schedule.bind`) before it is used. A step
    counts as a full batch, also the last one of an epoch. With gradient accumulation a
    step is a micro-batch.

    In `fit`, the samples per step are the global batch size: that of arrays, of a
    `PyDataset` (its first batch), of a `DataLoader`, and of a `tf.data.Dataset` that is
    batched with `drop_remainder=True`. Other data does not tell it: give `per_step`.

    Args:
        samples: The number of samples, >= 0.
        per_step: The samples of a step, > 0; None is what `bind` or `fit` tells.

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

    A schedule that holds one must be bound (`Schedule.bind`) before it is used. A step
    counts as a full batch of full sequences, padding included.

    In `fit`, the tokens per step are known if the samples are (see `Samples`) and the
    model has one input, of integers and of shape `(batch, length)` with a known length.
    Otherwise give `per_step`.

    Args:
        tokens: The number of tokens, >= 0.
        per_step: The tokens of a step, > 0; None is what `bind` or `fit` tells.

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


_MOST_POSITIONS = 10_000_000  # They are kept in a table.

Duration = int | Epochs | Fraction | Samples | Tokens | None
"""Steps, epochs, samples, tokens, a fraction of the run, or None: the rest of it."""

OF_BATCHES = (Samples, Tokens)
"""What the size of a batch turns into steps, whatever the length of the run is."""
OF_DATA = (Epochs, *OF_BATCHES)
"""What the data turns into steps, also inside a cycle whose length is not known."""
OPEN = (*OF_DATA, Fraction)
"""All that must be bound."""


def check(name: str, value: Any, at_least: int = 0) -> Duration:
    """`value`, if it is a duration or None; for arguments that are no fields."""
    return None if value is None else _duration(name, value, at_least)


def length(
    default: Any = fields.REQUIRED, *, at_least: int = 1, optional: bool = False
) -> Any:
    """Field specifier: a duration. None is allowed where it is the default.

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
    """The number that a duration is written with: the first of its fields."""
    if not isinstance(duration, OPEN):
        return duration
    return getattr(duration, dataclasses.fields(duration)[0].name)


def _unit(duration):
    """Equal for durations whose sizes can be compared."""
    return type(duration), getattr(duration, "per_step", None)


def exact(value: float) -> fractions.Fraction:
    """The decimal number that `value` is written as: 0.1 is one tenth."""
    return fractions.Fraction(repr(float(value)))


def half_up(x):
    """Rounds an exact number (or an object array of them), halves up."""
    return (2 * x + 1) // 2


def at_least(x, low):
    """The larger of two exact numbers (or object arrays of them)."""
    if isinstance(x, np.ndarray) or isinstance(low, np.ndarray):
        return np.maximum(x, low)
    return max(x, low)


def at_most(x, high):
    """The smaller of two exact numbers (or object arrays of them)."""
    return -at_least(-x, -high)


@dataclasses.dataclass(frozen=True)
class Window:
    """The stretch of the run in which a schedule plays.

    Positions are rounded, not lengths, so that pieces one after the other end where
    their exact lengths say: `start` is where the window begins exactly, `first` the
    step at which it begins. `total` may be an object array, one whole run per
    cycle of `Restarts`; then all positions and lengths are arrays like it.

    `batch` tells the numbers of samples and of tokens per step, by the class of the
    duration; a number that is not known is None. It is only asked for what is needed.
    """

    total: Any
    steps_per_epoch: Any  # A number, perhaps a fraction; None if it is not known.
    start: Any = 0
    first: Any = 0
    stop: Any = None
    batch: Callable[[type], int | None] = lambda kind: None

    def exact(self, duration: Any) -> Any:
        """A duration's exact number of steps."""
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
                f"`{unit}_per_step=` to `bind`. In `fit`, the data or the model does "
                f"not tell it. Received: per_step=None"
            )
        return per_step

    def length(self, duration: Duration) -> Any:
        """The whole number of steps of a duration at the window's beginning.

        None is the rest of the window. At least 1, unless no steps were asked for.
        """
        if isinstance(duration, (int, fields.Table)):
            return duration
        if duration is None:
            stop = self.total if self.stop is None else self.stop
            return at_least(stop - self.first, 1)
        end = half_up(self.start + self.exact(duration))
        return at_least(end - self.first, 1 if _size(duration) > 0 else 0)

    def lengths(self, durations: tuple) -> tuple:
        """The steps of durations that follow each other."""
        steps, window = [], self
        for duration in durations:
            steps.append(window.length(duration))
            window = window.after(duration)
        return tuple(steps)

    def both_ends(self, early: Duration, late: Duration, total: Any) -> tuple[Any, Any]:
        """The steps of a duration at the beginning of `total`, and of one at its end.

        They only overlap if they do so exactly, not by rounding.
        """
        first, last = self.length(early), late
        if isinstance(late, OPEN):
            last = at_least(total - half_up(total - self.exact(late)), 1)
        if np.all(self.exact(early) + self.exact(late) <= total):
            first = at_most(first, total - last)
        return first, last

    def positions(self, name: str, durations: tuple) -> tuple:
        """Steps from the window's beginning, in increasing order."""
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
        """The window that begins a duration later."""
        return dataclasses.replace(
            self,
            start=self.start + self.exact(duration),
            first=self.first + self.length(duration),
        )

    def pieces(self, durations: tuple, steps: tuple) -> list["Window"]:
        """The windows between positions that `positions` has turned into steps."""
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
        """`(every, at)`: a whole number of steps, or else positions up to the end."""
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
                f"{duration!r} is {float(every):g} steps, and {count} such positions "
                f"in a run are too many: at most {_MOST_POSITIONS} may fall between "
                "steps. Give a whole number of steps."
            )
        return None, tuple(k * every for k in range(1, count + 1))

    def cycle(self) -> "CycleWindow":
        """What is known of a cycle of `Restarts` that plays in this window."""
        return CycleWindow(None, self.steps_per_epoch, batch=self.batch)


class CycleWindow(Window):
    """A cycle or a run whose length is not known: what is `OF_DATA` becomes steps.

    Other durations come back as they are. They can be stored in a field, to be bound
    when the cycle is, but not calculated with: `Restarts` refuses a schedule that does.
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
