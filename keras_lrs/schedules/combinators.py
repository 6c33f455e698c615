"""Changes of time and changes of value for any schedule."""

import functools
import statistics
from typing import Any

import keras
import numpy as np

from keras_lrs.schedules import base, durations, fields, numerics
from keras_lrs.schedules.base import Schedule, evaluate, serializable
from keras_lrs.schedules.durations import Duration


@serializable
class Warmup(Schedule):
    """Raises the rate to a schedule's first value, and then follows the schedule.

    `schedule(max(t - warmup_steps, 0)) * ramp(t / warmup_steps)`; the ramp goes from
    `r = initial_fraction` at 0 to 1 at 1:

    - `"linear"`: `r + (1 - r) * s`
    - `"cosine"`: `r + (1 - r) * (1 - cos(pi * s)) / 2`
    - `"exponential"`: `r ** (1 - s)`
    - `"polynomial"`: `r + (1 - r) * s ** power`
    - `"constant"`: `r` until the end

    Use it if the first updates could make the run diverge: with large batches, Adam, or
    transformers.

    Args:
        schedule: The schedule that follows; its step 0 is the end of the warmup.
        warmup_steps: The length of the warmup, >= 0; also `Epochs` or a `Fraction`.
            0 means no warmup.
        initial_fraction: The first rate divided by the schedule's first rate, in [0,
            1]; >= 2**-126 for `"exponential"`.
        shape: One of the five above.
        power: The exponent of `"polynomial"`, > 0, at most 1000.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import CosineAnnealing
        >>> schedule = Warmup(CosineAnnealing(0.1, 100), warmup_steps=10)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 60, 110)]
        [0.0, 0.05, 0.1, 0.05, 0.0]

    Reference: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1
    Hour", 2017, arXiv:1706.02677.
    """

    schedule: Schedule = base.schedule_field()
    warmup_steps: Duration = durations.length(at_least=0)
    initial_fraction: float = fields.number(default=0.0, at_least=0.0, at_most=1.0)
    shape: str = fields.choice(
        ("linear", "cosine", "exponential", "polynomial", "constant"), default="linear"
    )
    power: float = fields.exponent(default=2.0)

    def check(self):
        if self.shape == "exponential":
            condition = ' with shape="exponential"'
            fields.check_positive("initial_fraction", self.initial_fraction, condition)

    def call(self, step):
        if isinstance(self.warmup_steps, int) and self.warmup_steps == 0:
            return evaluate(self.schedule, step)
        # During the warmup the inner schedule stays at its first value.
        value = evaluate(self.schedule, numerics.since(step, self.warmup_steps))
        return value * self._ramp(step)

    def _ramp(self, step):
        start, time = self.initial_fraction, numerics.capped(step, self.warmup_steps)
        progress = numerics.ratio(time, self.warmup_steps)
        if self.shape == "constant":
            ramp = start
        elif self.shape == "linear":
            ramp = start + (1.0 - start) * progress
        elif self.shape == "cosine":
            ramp = start + (1.0 - start) * numerics.half_cosine(progress)
        elif self.shape == "polynomial":
            ramp = start + (1.0 - start) * numerics.raised(progress, self.power)
        else:
            log_ratio = -numerics.log(start)
            ramp = start * numerics.exponential(log_ratio, time, self.warmup_steps)
        return numerics.where(numerics.reached(step, self.warmup_steps), 1.0, ramp)

    def _bind(self, window):
        return self._replaced(
            {
                "schedule": base.bind(self.schedule, window.after(self.warmup_steps)),
                "warmup_steps": window.length(self.warmup_steps),
            }
        )

    def _cycle_ends(self, num_steps):
        return _shifted(self.schedule, self.warmup_steps, num_steps)


@serializable
class Delayed(Schedule):
    """Starts a schedule later, and holds its first value until then.

    `schedule(max(t - delay_steps, 0))`

    Use it to keep a rate constant for a while before a decay.

    Args:
        schedule: The schedule that follows; its step 0 is the end of the delay.
        delay_steps: The length of the delay, >= 0; also `Epochs` or a `Fraction`.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import LinearDecay
        >>> schedule = Delayed(LinearDecay(1.0, 50), delay_steps=50)
        >>> [round(float(schedule(step)), 4) for step in (0, 50, 75, 100)]
        [1.0, 1.0, 0.5, 0.0]

    Reference: Chen, Wolfe, Kyrillidis, "REX", 2021, arXiv:2107.04197 (delayed linear).
    """

    schedule: Schedule = base.schedule_field()
    delay_steps: Duration = durations.length(at_least=0)

    def call(self, step):
        return evaluate(self.schedule, numerics.since(step, self.delay_steps))

    def _bind(self, window):
        return self._replaced(
            {
                "schedule": base.bind(self.schedule, window.after(self.delay_steps)),
                "delay_steps": window.length(self.delay_steps),
            }
        )

    def _cycle_ends(self, num_steps):
        return _shifted(self.schedule, self.delay_steps, num_steps)


def _shifted(schedule, steps, num_steps):
    ends = base.cycle_ends(schedule, max(num_steps - steps, 0))
    return {end + steps for end in ends}


@serializable
class Sequential(Schedule):
    """Joins schedules one after the other, each with its own step 0.

    `schedules[i](t - boundaries[i - 1])` from `boundaries[i - 1]` on

    Use it to join any pieces, such as your own warmup, a plateau and a cooldown.

    Args:
        schedules: The n >= 1 schedules. A length of None lasts until the piece ends.
        boundaries: The n - 1 steps at which the next piece starts, >= 0 and
            increasing; also `Epochs` or `Fraction`s.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If the boundaries are out of order or the numbers of schedules and
            boundaries do not match.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import Constant, LinearDecay
        >>> schedule = Sequential([Constant(1.0), LinearDecay(1.0, 10)], boundaries=[5])
        >>> [round(float(schedule(step)), 4) for step in (0, 4, 5, 10, 15)]
        [1.0, 1.0, 1.0, 0.5, 0.0]

    Reference: optax, `optax.schedules.join_schedules`.
    """

    schedules: tuple[Schedule, ...] = base.schedules_field()
    boundaries: tuple[Duration, ...] = durations.positions()

    def check(self):
        n = len(self.schedules)
        if len(self.boundaries) != n - 1:
            bound = f"have one element less than `schedules` ({n - 1})"
            fields.refuse("boundaries", bound, self.boundaries)

    def call(self, step):
        if numerics.is_number(step):
            started = [0, *(b for b in self.boundaries if step >= b)]
            return evaluate(self.schedules[len(started) - 1], step - started[-1])
        value = evaluate(self.schedules[0], step)
        for schedule, boundary in zip(self.schedules[1:], self.boundaries, strict=True):
            piece = evaluate(schedule, numerics.since(step, boundary))
            value = numerics.where(numerics.reached(step, boundary), piece, value)
        return value

    def _bind(self, window):
        boundaries = window.positions("boundaries", self.boundaries)
        windows = window.pieces(self.boundaries, boundaries)
        return self._replaced(
            {
                "schedules": tuple(map(base.bind, self.schedules, windows)),
                "boundaries": boundaries,
            }
        )

    def _cycle_ends(self, num_steps):
        found = set()
        starts: Any = [0, *self.boundaries]
        stops: Any = [*self.boundaries, num_steps]
        for schedule, start, stop in zip(self.schedules, starts, stops, strict=True):
            length = max(min(stop, num_steps) - start, 0)
            found |= {start + end for end in base.cycle_ends(schedule, length)}
        return found


@serializable
class Sampled(Schedule):
    """Evaluates a schedule only at some steps, and holds its value in between.

    `schedule(s)` with `s` the last sample at or before `t`

    Use it to turn any profile into a step decay: a schedule is a profile times a
    sampling rate.

    Args:
        schedule: The profile.
        every: The steps from one sample to the next, > 0; also `Epochs` or a
            `Fraction`.
        at: Instead of `every`, the steps of the samples after step 0, which is always
            one; > 0 and increasing; also `Epochs` or `Fraction`s (`at=[Fraction(0.5),
            Fraction(0.75)]`).

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range, or if not exactly one of `every` and
            `at` is given.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import REXDecay
        >>> schedule = Sampled(REXDecay(1.0, 100), every=25)
        >>> [round(float(schedule(step)), 4) for step in (0, 24, 25, 50, 99)]
        [1.0, 1.0, 0.8571, 0.6667, 0.4]

    Reference: Chen, Wolfe, Kyrillidis, "REX: Revisiting Budgeted Training with an
    Improved Schedule", 2021, arXiv:2107.04197.
    """

    schedule: Schedule = base.schedule_field()
    every: Duration = durations.length(default=None, optional=True)
    at: tuple[Duration, ...] | None = durations.positions(default=None, at_least=1)

    def check(self):
        if (self.every is None) == (self.at is None):
            raise ValueError(
                "Exactly one of the arguments `every` and `at` must be given. "
                f"Received: every={self.every!r}, at={self.at!r}"
            )

    def call(self, step):
        return evaluate(self.schedule, self._sample(step))

    def _sample(self, step):
        if self.every is not None:
            return step - numerics.divided(step, self.every)[1]
        at: Any = self.at
        if all(isinstance(sample, int) for sample in at):
            latest = numerics.gather(self._samples, self._lookup(step))
            return numerics.capped(step, latest)
        latest = numerics.since(step, step)
        for sample in at:  # Gathered by `Restarts` for the current cycle.
            reached = numerics.reached(step, sample)
            latest = numerics.where(reached, numerics.capped(step, sample), latest)
        return latest

    @functools.cached_property
    def _lookup(self):
        return numerics.Lookup(self.at)

    @functools.cached_property
    def _samples(self):
        return np.array([0, *(self.at or ())])

    def _bind(self, window):
        every, at = self.every, self.at
        if every is not None:
            every, at = window.multiples(every)
        if at is not None:
            at = window.positions("at", at)
        schedule = base.bind(self.schedule, window)
        return self._replaced({"schedule": schedule, "every": every, "at": at})


@serializable
class Scaled(Schedule):
    """Multiplies a schedule by a number.

    `factor * schedule(t)`

    Use it to try the same shape with another rate.

    Args:
        schedule: The schedule.
        factor: The number, >= 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If `factor` is negative or not finite.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import LinearDecay
        >>> round(float(Scaled(LinearDecay(1.0, 100), 0.1)(50)), 4)
        0.05

    Reference: linearity.
    """

    schedule: Schedule = base.schedule_field()
    factor: float = fields.rate()

    def call(self, step):
        value = self.factor * evaluate(self.schedule, step)
        return (
            value if self.factor <= 1.0 else numerics.minimum(value, numerics.LARGEST)
        )


@serializable
class Product(Schedule):
    """Multiplies schedules that run at the same time.

    `schedules[0](t) * schedules[1](t) * ...`

    Use it for effects that multiply, such as a warmup, a decay and your own steps.

    Args:
        schedules: At least one schedule.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If there is no schedule.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import LinearDecay, StepDecay
        >>> schedule = Product([LinearDecay(1.0, 100), StepDecay(1.0, 50)])
        >>> [round(float(schedule(step)), 4) for step in (0, 25, 50, 75)]
        [1.0, 0.75, 0.05, 0.025]

    Reference: PyTorch, `torch.optim.lr_scheduler.ChainedScheduler`.
    """

    schedules: tuple[Schedule, ...] = base.schedules_field()

    def call(self, step):
        value = evaluate(self.schedules[0], step)
        for schedule in self.schedules[1:]:
            product = value * evaluate(schedule, step)
            value = numerics.minimum(product, numerics.LARGEST)
        return value


@serializable
class Sum(Schedule):
    """Adds schedules that run at the same time.

    `schedules[0](t) + schedules[1](t) + ...`

    Use it to raise a shape above 0 with a `Constant`, or to add one effect to another.

    Args:
        schedules: At least one schedule.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If there is no schedule.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import Constant, LinearDecay
        >>> schedule = Sum([LinearDecay(0.5, 100), Constant(0.25)])
        >>> [round(float(schedule(step)), 4) for step in (0, 50, 100)]
        [0.75, 0.5, 0.25]
        >>> schedule == LinearDecay(0.5, 100) + Constant(0.25)
        True

    Reference: linearity.
    """

    schedules: tuple[Schedule, ...] = base.schedules_field()

    def call(self, step):
        value = evaluate(self.schedules[0], step)
        for schedule in self.schedules[1:]:
            value = numerics.minimum(value + evaluate(schedule, step), numerics.LARGEST)
        return value


@serializable
class Clipped(Schedule):
    """Clips a schedule to bounds.

    `min(max(schedule(t), minimum), maximum)`

    Use it to give a floor to a schedule that has none.

    Args:
        schedule: The schedule.
        minimum: The lower bound, >= 0; None is no bound.
        maximum: The upper bound, >= `minimum`; None is no bound.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range, or neither bound is given.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import LinearDecay
        >>> schedule = Clipped(LinearDecay(1.0, 100), minimum=0.2)
        >>> [round(float(schedule(step)), 4) for step in (0, 50, 90, 100)]
        [1.0, 0.5, 0.2, 0.2]

    Reference: nanoGPT's `min_lr`.
    """

    schedule: Schedule = base.schedule_field()
    minimum: float | None = fields.rate(default=None)
    maximum: float | None = fields.rate(default=None)

    def check(self):
        if self.minimum is None and self.maximum is None:
            raise ValueError(
                "At least one of the arguments `minimum` and `maximum` must be given. "
                "Received: minimum=None, maximum=None"
            )
        if self.maximum is not None and self.maximum < (self.minimum or 0.0):
            fields.refuse("maximum", f"be >= minimum={self.minimum}", self.maximum)

    def call(self, step):
        value = evaluate(self.schedule, step)
        if self.minimum is not None:
            value = numerics.maximum(value, self.minimum)
        if self.maximum is not None:
            value = numerics.minimum(value, self.maximum)
        return value


@serializable
class Noisy(Schedule):
    """Multiplies a schedule by reproducible noise.

    `schedule(t) * (1 + n)`, with `n` drawn from a normal distribution of mean 0,
    truncated to `(-limit, limit)`

    Use it to explore around a schedule. The noise is a pure function of the seed and
    the step, so it is the same on every backend, after resuming, and in `curve`.

    Args:
        schedule: The schedule.
        stddev: The standard deviation of the normal distribution, >= 0.
        limit: The largest relative change, in (0, 1).
        seed: The seed of the noise, an integer in [0, 2**31).

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.schedules import Constant
        >>> schedule = Noisy(Constant(0.1), stddev=0.1)
        >>> [round(float(schedule(step)), 4) for step in range(4)]
        [0.0946, 0.1081, 0.0885, 0.113]

    Reference: timm, `timm.scheduler.Scheduler` (its `noise_*` arguments).
    """

    schedule: Schedule = base.schedule_field()
    stddev: float = fields.number(at_least=0.0)
    limit: float = fields.number(default=0.67, above=0.0, below=1.0)
    seed: int = fields.integer(default=0, at_least=0, at_most=2**31 - 1)

    LEVELS = 4096  # Quantiles of the distribution among which the hash chooses.

    def call(self, step):
        level = numerics.scrambled(step, self.seed) % self.LEVELS
        noise = numerics.gather(self._quantiles, level)
        value = evaluate(self.schedule, step) * (1.0 + noise)
        return numerics.minimum(value, numerics.LARGEST)

    @functools.cached_property
    def _quantiles(self):
        if self.stddev == 0.0:
            return np.zeros(self.LEVELS)
        normal = statistics.NormalDist(0.0, self.stddev)
        low, high = normal.cdf(-self.limit), normal.cdf(self.limit)
        middles = (np.arange(self.LEVELS) + 0.5) / self.LEVELS
        return np.array([normal.inv_cdf(low + (high - low) * x) for x in middles])


def warmup_steps(schedule: Any) -> int:
    """Returns the steps of a schedule's warmup, even within changes of value."""
    if isinstance(schedule, (Clipped, Noisy, Product, Scaled, Sum)):
        return max(warmup_steps(inner) for _, inner in schedule._inner())
    found = getattr(schedule, "warmup_steps", 0)
    return found if isinstance(found, int) else 0


# --- Operators ---


def _multiplied(one: Schedule, other: Any) -> Any:
    """`0.5 * schedule`, `schedule * schedule`."""
    if isinstance(other, keras.optimizers.schedules.LearningRateSchedule):
        return Product([one, other])
    return Scaled(one, other) if fields.is_number(other) else NotImplemented


def _added(one: Schedule, other: Any) -> Any:
    """`schedule + schedule`."""
    if isinstance(other, keras.optimizers.schedules.LearningRateSchedule):
        return Sum([one, other])
    return NotImplemented


Schedule.__mul__ = Schedule.__rmul__ = _multiplied
Schedule.__add__ = Schedule.__radd__ = _added
