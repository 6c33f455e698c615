"""Schedules given by a table of steps and rates."""

import functools
import itertools
import math
from typing import Any

import numpy as np

from keras_lrs.schedules import durations, fields, numerics
from keras_lrs.schedules.base import Composition, Schedule, serializable
from keras_lrs.schedules.combinators import Delayed, Sequential
from keras_lrs.schedules.cycles import Segments
from keras_lrs.schedules.decays import (
    BoundedExponentialDecay,
    CosineAnnealing,
    LinearDecay,
)
from keras_lrs.schedules.durations import Duration


def lookup(boundaries: tuple):
    """Makes a function from a step to the number of boundaries reached.

    Boundaries that `Restarts` has gathered for the current cycle are compared one by
    one, because there are few of them.
    """
    if all(isinstance(boundary, int) for boundary in boundaries):
        return numerics.Lookup(boundaries)

    return lambda step: numerics.count_reached(step, boundaries)


@serializable
class MultiStepDecay(Schedule):
    """Multiplies the rate by a factor at each milestone.

    `initial * decay_rate ** (number of milestones <= t)`

    Use it for step decay at chosen points, such as half and three quarters of the run.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        milestones: The steps at which a drop takes effect, > 0 and increasing; also
            `Epochs` or `Fraction`s.
        decay_rate: The factor, > 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range or the milestones are out of order.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = MultiStepDecay(0.1, milestones=[50, 75])
        >>> [round(float(schedule(step)), 4) for step in (0, 49, 50, 75)]
        [0.1, 0.1, 0.01, 0.001]

    Reference: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional
    Networks", 2016, arXiv:1608.06993.
    """

    initial_learning_rate: float = fields.rate()
    milestones: tuple[Duration, ...] = durations.positions(at_least=1)
    decay_rate: float = fields.number(default=0.1, above=0.0)

    @functools.cached_property
    def _lookup(self):
        return lookup(self.milestones)

    def call(self, step):
        log_rate = math.log(self.decay_rate)
        drops = self._lookup(step)
        return numerics.geometric(self.initial_learning_rate, log_rate, drops)


@serializable
class PiecewiseConstant(Schedule):
    """A table of rates: `values[i]` from `boundaries[i - 1]` on.

    `values[number of boundaries <= t]`

    Use it for a hand-made staircase. A table of 100,000 rows costs as much as a table
    of ten. Note that Keras's `PiecewiseConstantDecay` keeps the old value *at* the
    boundary: its boundary `b` is `b + 1` here.

    Args:
        boundaries: The n steps at which the next value takes effect, >= 0 and
            increasing; also `Epochs` or `Fraction`s.
        values: The n + 1 rates, >= 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range, the boundaries are out of order or
            the numbers of boundaries and values do not match.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = PiecewiseConstant([10, 20], [1.0, 0.5, 0.1])
        >>> [round(float(schedule(step)), 4) for step in (0, 9, 10, 20)]
        [1.0, 1.0, 0.5, 0.1]

    Reference: Keras, `keras.optimizers.schedules.PiecewiseConstantDecay`.
    """

    boundaries: tuple[Duration, ...] = durations.positions()
    values: tuple[float, ...] = fields.rates()

    def check(self):
        n = len(self.boundaries)
        if len(self.values) != n + 1:
            bound = f"have one element more than `boundaries` ({n + 1})"
            fields.refuse("values", bound, self.values)

    @functools.cached_property
    def _lookup(self):
        return lookup(self.boundaries)

    @functools.cached_property
    def _table(self):
        return np.array(self.values)

    def call(self, step):
        return numerics.gather(self._table, self._lookup(step))


_SHAPES: dict[str, Any] = {
    "linear": LinearDecay,
    "cosine": CosineAnnealing,
    "exponential": BoundedExponentialDecay,
}


@serializable
class PiecewiseInterpolation(Composition):
    """A curve through points: `values[i]` at step `boundaries[i]`.

    Between two points it follows a line, half a cosine, or a geometric interpolation.
    It has the first value before the first point and the last value after the last
    point.

    Use it for a hand-made curve, or for rates that were measured or computed elsewhere.

    Args:
        boundaries: The n >= 2 steps of the points, >= 0 and increasing; also `Epochs`
            or `Fraction`s.
        values: The n rates, >= 0; >= 2**-126 for `"exponential"`.
        interpolation: `"linear"`, `"cosine"` or `"exponential"`.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range, the boundaries are out of order or
            the numbers of boundaries and values do not match.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = PiecewiseInterpolation([0, 10, 30], [0.0, 1.0, 0.5])
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 20, 30, 99)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]

    Reference: optax, `optax.schedules.piecewise_interpolate_schedule`.
    """

    boundaries: tuple[Duration, ...] = durations.positions()
    values: tuple[float, ...] = fields.rates()
    interpolation: str = fields.choice(tuple(_SHAPES), default="linear")

    calculates = True

    def check(self):
        n = len(self.boundaries)
        if n < 2:
            fields.refuse("boundaries", "have at least two elements", self.boundaries)
        if len(self.values) != n:
            bound = f"have as many elements as `boundaries` ({n})"
            fields.refuse("values", bound, self.values)
        if self.interpolation == "exponential":
            condition = ' with interpolation="exponential"'
            fields.check_positive("values", min(self.values), condition)

    def compose(self):
        shape = _SHAPES[self.interpolation]
        boundaries: Any = self.boundaries
        first = boundaries[0]
        starts = [boundary - first for boundary in boundaries[1:-1]]
        lengths = [end - start for start, end in itertools.pairwise(boundaries)]
        if any(isinstance(length, fields.Table) for length in lengths):
            pieces = [
                shape(initial, length, end)
                for (initial, end), length in zip(
                    itertools.pairwise(self.values), lengths, strict=True
                )
            ]
            return Delayed(Sequential(tuple(pieces), tuple(starts)), first)
        # One piece with looked-up arguments instead of a piece for every two points.
        piece = shape(
            fields.table(self.values[:-1]),
            fields.table(lengths),
            fields.table(self.values[1:]),
        )
        return Delayed(Segments(piece, np.array([0, *starts])), first)
