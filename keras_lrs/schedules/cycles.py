"""Schedules that repeat in cycles."""

import decimal
import functools
import math
from typing import Any

import numpy as np

from keras_lrs.schedules import base, durations, fields, numerics
from keras_lrs.schedules.base import Schedule, evaluate, serializable
from keras_lrs.schedules.durations import Duration, Window

MAX_CYCLES = 2**20
"""The largest table of cycles that `Restarts` makes."""


@serializable
class Segments(Schedule):
    """A schedule whose arguments change from segment to segment.

    Only other schedules make it; users do not.

    Args:
        schedule: A schedule with a `fields.Table` in place of each argument that
            changes, one entry per segment.
        starts: The steps at which the segments start, from 0, as an int64 array.
        lengths: The steps after which the time of each segment stops, or None.
    """

    schedule: Any = base.schedule_field()
    starts: np.ndarray = fields.unchecked()
    lengths: np.ndarray | None = fields.unchecked(default=None)

    @functools.cached_property
    def index(self):
        """A function from a step to the segment in which it falls."""
        return numerics.Lookup(self.starts[1:])

    @functools.cached_property
    def _segment(self):
        # An eager backend asks for the same segment many times.
        return functools.lru_cache(maxsize=16)(self._gathered)

    def _gathered(self, index):
        """Returns a segment's start, length (None if endless) and schedule."""
        start = numerics.gather(self.starts, index)
        length = None
        if self.lengths is not None:
            length = numerics.gather(self.lengths, index)
        return start, length, base.entry(self.schedule, index)

    def call(self, step):
        at = self._segment if numerics.is_number(step) else self._gathered
        start, length, schedule = at(self.index(step))
        local = numerics.since(step, start)
        if length is not None:
            local = numerics.capped(local, length)
        return evaluate(schedule, local)

    def _take(self, index):
        return self  # The tables inside belong to this schedule.


@serializable
class Restarts(Schedule):
    """Repeats any schedule from its beginning in every cycle.

    `floor + (schedule(t - start_i) - floor) * m_mul ** i` in cycle `i`, which lasts
    `first_cycle_steps * t_mul ** i` steps; the floor is the schedule's value at the end
    of a cycle

    Use it for warm restarts of any shape, including a warmup. Inside the schedule, None
    means the rest of the cycle, and a `Fraction` is a fraction of the cycle.

    Args:
        schedule: The schedule that each cycle repeats.
        first_cycle_steps: The length of the first cycle, > 0; also `Epochs` or a
            `Fraction`. None is the rest of the run.
        t_mul: The factor from one cycle's length to the next, >= 1. The start of a
            cycle is the exact sum of the lengths before it, rounded half up.
        m_mul: The factor from one cycle's amplitude to the next, > 0. Above 1, digits
            are lost if the floor is close to the peak.
        num_cycles: The number of cycles; after the last cycle, its end is held. None is
            endless. With no `first_cycle_steps`, the cycles fill `total_steps` exactly:
            cycle `i` ends at its share of `total_steps`, rounded half up.
        total_steps: The steps that `num_cycles` cycles fill; None is the rest of the
            run.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range, if `total_steps` is given with
            `first_cycle_steps` or without `num_cycles`, if a cycle would be empty, if
            there would be more than 2**20 cycles of different lengths, or if cycles
            that may differ in length (`t_mul` above 1, or cycles that fill
            `total_steps`) hold a schedule that restarts itself.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import LinearDecay
        >>> schedule = Restarts(LinearDecay(1.0), first_cycle_steps=4, t_mul=2.0)
        >>> [round(float(schedule(step)), 4) for step in (0, 2, 4, 8, 12)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
        >>> schedule.cycle_ends(28)
        [4, 12, 28]

    Reference: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
    Restarts", 2016, arXiv:1608.03983.
    """

    schedule: Schedule = base.schedule_field()
    first_cycle_steps: Duration = durations.length(default=None)
    t_mul: float = fields.number(default=1.0, at_least=1.0)
    m_mul: float = fields.number(default=1.0, above=0.0)
    num_cycles: int | None = fields.integer(default=None, at_least=1, at_most=2**31 - 1)
    total_steps: Duration = durations.length(default=None, optional=True)

    _restarts = True

    def check(self):
        if self.total_steps is not None and not self._fills:
            bound = "only be given with `num_cycles` and no `first_cycle_steps`"
            fields.refuse("total_steps", bound, self.total_steps)
        if self.t_mul != 1.0 or (self._fills and self.num_cycles != 1):
            self._refuse_restarts_inside()
        if isinstance(getattr(self, self._measured), fields.Table):
            # Made by a composition that is composed only now, for a table of cycles.
            _refuse_restarts("Restarts", self)
        if self.is_bound:
            # Made now, outside of any graph, so that errors (too many cycles, or a
            # schedule that cannot be bound to them) come now.
            self._played  # noqa: B018
            if self.m_mul != 1.0:
                self._floor  # noqa: B018

    @property
    def _fills(self):
        return self.num_cycles is not None and self.first_cycle_steps is None

    @property
    def _measured(self):
        """The name of the length that determines the cycles."""
        return "total_steps" if self._fills else "first_cycle_steps"

    def call(self, step):
        if self._even:
            index, local = numerics.divided(step, self._lengths)
            if self.num_cycles is not None:
                end = numerics.fitting(self._lengths, step)
                local = numerics.where(index < self.num_cycles, local, end)
                index = numerics.minimum(index, self.num_cycles - 1)
            value = evaluate(self._played, local)
        else:
            value = self._played.call(step)
        if self.m_mul == 1.0:
            return value
        if not self._even:
            index = self._played.index(step)
        floor = self._floor
        if isinstance(floor, np.ndarray):
            floor = numerics.gather(floor, index)
        scale = numerics.geometric(1.0, math.log(self.m_mul), index)
        value = numerics.minimum(floor + (value - floor) * scale, numerics.LARGEST)
        # If a schedule ends higher than it began, growth would make it negative.
        return numerics.maximum(value, 0.0)

    # --- The cycles ---

    @functools.cached_property
    def _lengths(self) -> Any:
        """The length of every cycle, or one int if all are the same."""
        if not self._fills:
            if self.t_mul == 1.0:
                return self.first_cycle_steps
            return np.diff(self._growing_ends(), prepend=0)
        total: Any = self.total_steps
        if self.t_mul == 1.0 and total % self.num_cycles == 0:
            return total // self.num_cycles
        lengths = np.diff(self._filling_ends(), prepend=0)
        if lengths.min() < 1:
            bound = f"leave no cycle empty in total_steps={total}"
            fields.refuse("num_cycles", bound, self.num_cycles)
        return lengths

    @functools.cached_property
    def _even(self) -> bool:
        return isinstance(self._lengths, int)

    def _growing_ends(self):
        ends: list[int] = []
        for total in _sums(self.first_cycle_steps, self.t_mul, self.num_cycles):
            ends.append(min(_half_up(total), 2**62))
            if ends[-1] >= numerics.HORIZON:
                break
        return ends

    def _filling_ends(self):
        sums = list(_sums(1, self.t_mul, self.num_cycles))
        with decimal.localcontext(_PRECISE):
            return [_half_up(self.total_steps * part / sums[-1]) for part in sums]

    @functools.cached_property
    def _played(self) -> Schedule:
        """The schedule bound to the lengths of the cycles, or to their only length."""
        if self._even:
            return base.bind(self.schedule, Window(self._lengths, None))
        lengths = fields.table(self._lengths.astype(object))
        starts = np.cumsum(self._lengths) - self._lengths
        schedule = base.bind(self.schedule, Window(lengths, None))
        return Segments(schedule, starts, self._lengths)

    @functools.cached_property
    def _floor(self) -> Any:
        """The schedule's value at the end of each cycle: a float, or an array."""
        if self._even:
            return evaluate(self._played, self._lengths)
        cycles = np.arange(len(self._lengths))
        return evaluate(base.entry(self._played.schedule, cycles), self._lengths)

    def _refuse_restarts_inside(self):
        for name in _restarting(self.schedule):
            _refuse_restarts(name, self.schedule)

    # --- As part of others ---

    def _open(self, in_cycle=False):
        name = self._measured
        value = getattr(self, name)
        is_open = not isinstance(value, int) and not (
            in_cycle and not isinstance(value, durations.OF_DATA)
        )
        own = [(name, value)] if is_open else []
        return own + self._open_inside(in_cycle=True)

    def _bind(self, window):
        length = window.length(getattr(self, self._measured))
        return self._replaced(
            {"schedule": self._in_steps(window), self._measured: length}
        )

    def _in_steps(self, window):
        """Binds the lengths that depend only on the data; cycles bind the rest."""
        schedule = self.schedule
        found = isinstance(schedule, Schedule) and schedule._open(in_cycle=True)
        if not found:
            return schedule
        try:
            return schedule._bind(window.cycle())
        except TypeError as error:
            kind = next(name for name in _OF_DATA if f"{name}(" in repr(found))
            raise ValueError(
                f"Argument `schedule` must not hold `{kind}` where it calculates with "
                "lengths that depend on a cycle. Use a number of steps or a "
                f"`Fraction`. Received: schedule={schedule!r}"
            ) from error

    def _cycle_ends(self, num_steps):
        if self._even:
            length = self._lengths
            last = num_steps
            if self.num_cycles is not None:
                last = min(last, length * self.num_cycles)
            starts = range(0, last, length)
            inner = base.cycle_ends(self._played, length)
            found = {start + end for start in starts for end in (*inner, length)}
        else:
            ends = np.cumsum(self._lengths)
            ends = ends[: np.searchsorted(ends, num_steps) + 1].tolist()
            lengths = self._lengths[: len(ends)].tolist()
            found = set(ends)
            if self._inside(max(lengths)):
                for end, length in zip(ends, lengths, strict=True):
                    found |= {end - length + part for part in self._inside(length)}
        return {end for end in found if end <= num_steps}

    def _inside(self, length):
        """Returns the ends of the cycles that the schedule has within one cycle."""
        return base.cycle_ends(base.bind(self.schedule, Window(length, None)), length)


_OF_DATA = [kind.__name__ for kind in durations.OF_DATA]
_PRECISE = decimal.Context(120, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)


def _sums(first: Any, factor: float, count: int | None):
    """Yields `first`, `first + first * factor`, ..., exact to 120 digits.

    The factor is taken as the decimal number that its `repr` shows.
    """
    decimal_factor = decimal.Decimal(repr(factor))
    length, total, number = decimal.Decimal(first), decimal.Decimal(0), 0
    while count is None or number < count:
        if number == MAX_CYCLES:
            bound = f"give no more than {MAX_CYCLES} cycles of different lengths"
            fields.refuse("t_mul", bound, factor)
        total = _PRECISE.add(total, length)
        length = _PRECISE.multiply(length, decimal_factor)
        number += 1
        yield total


def _half_up(x: decimal.Decimal) -> int:
    return int(x.to_integral_value(decimal.ROUND_HALF_UP, _PRECISE))


def _refuse_restarts(name, schedule):
    raise ValueError(
        "Argument `schedule` must not have restarts inside `Restarts` whose cycles may "
        f"differ in length. Received: schedule={name}(...) inside {schedule!r}"
    )


def _restarting(schedule):
    """Yields the class names of the schedules inside `schedule` that restart."""
    if isinstance(schedule, Schedule):
        if getattr(schedule, "_restarts", False):
            yield type(schedule).__name__
        if isinstance(schedule, base.Composition) and not schedule.calculates:
            yield from _restarting(schedule._composed_open())
        for _, inner in schedule._inner():
            yield from _restarting(inner)
