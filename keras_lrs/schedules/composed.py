"""Published schedules that are compositions of others."""

import itertools
import math
from typing import Any

import numpy as np

from keras_lrs.schedules import durations, fields, numerics
from keras_lrs.schedules.base import (
    Composition,
    Schedule,
    evaluate,
    schedule_field,
    serializable,
)
from keras_lrs.schedules.combinators import Delayed, Sequential, Warmup
from keras_lrs.schedules.cycles import Restarts
from keras_lrs.schedules.decays import (
    BoundedExponentialDecay,
    CosineAnnealing,
    LinearDecay,
    OneMinusSqrtDecay,
    REXDecay,
)
from keras_lrs.schedules.durations import Duration
from keras_lrs.schedules.piecewise import PiecewiseInterpolation


@serializable
class CosineRestarts(Composition):
    """Cosine annealing with warm restarts (SGDR).

    `Restarts(CosineAnnealing(initial, end_learning_rate=end), first_decay_steps, ...)`

    Use it for good models at the ends of cycles, before the run ends, and for
    snapshot ensembles. The end is a rate, while the `alpha` of Keras's
    `CosineDecayRestarts` is a fraction of the initial rate.

    Args:
        initial_learning_rate: The rate at the beginning of the first cycle, >= 0.
        first_decay_steps: The length of the first cycle, > 0; also `Epochs` or a
            `Fraction`. None is the rest of the run.
        t_mul: The factor from one cycle's length to the next, >= 1.
        m_mul: The factor from one cycle's amplitude above the end rate to the next,
            > 0.
        end_learning_rate: The rate to which every cycle falls, >= 0.
        num_cycles: The number of cycles; the end rate is held after the last. None is
            endless. With no `first_decay_steps`, the cycles fill `total_steps` exactly.
        total_steps: The steps that `num_cycles` cycles fill; None is the rest of the
            run.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range, or in the cases of `Restarts`.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = CosineRestarts(0.05, first_decay_steps=10)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 9, 10, 20, 30)]
        [0.05, 0.025, 0.0012, 0.05, 0.025, 0.05]
        >>> schedule.cycle_ends(100)
        [10, 30, 70]

    Reference: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
    Restarts", 2016, arXiv:1608.03983.
    """

    initial_learning_rate: float = fields.rate()
    first_decay_steps: Duration = durations.length(default=None)
    t_mul: float = fields.number(default=2.0, at_least=1.0)
    m_mul: float = fields.number(default=1.0, above=0.0)
    end_learning_rate: float = fields.rate(default=0.0)
    num_cycles: int | None = fields.integer(default=None, at_least=1, at_most=2**31 - 1)
    total_steps: Duration = durations.length(default=None, optional=True)

    _restarts = True

    def check(self):
        try:
            self._composed  # noqa: B018 (raises the errors of `Restarts`)
        except ValueError as error:
            message = str(error).replace("first_cycle_steps", "first_decay_steps")
            raise ValueError(message) from None

    def compose(self):
        return Restarts(
            CosineAnnealing(
                self.initial_learning_rate, end_learning_rate=self.end_learning_rate
            ),
            self.first_decay_steps,
            t_mul=self.t_mul,
            m_mul=self.m_mul,
            num_cycles=self.num_cycles,
            total_steps=self.total_steps,
        )


@serializable
class PhasedCosine(Composition):
    """Cosine annealing in phases, each with its own length and range.

    In phase `i`: `min_i + (max_i - min_i) * (1 + cos(pi * t / phase_steps_i)) / 2`

    Use it to choose every cycle by hand. Keep the weights from the end of the last
    completed phase; `cycle_ends` returns where the phases end.

    Args:
        phase_steps: The length of each phase, > 0; also `Epochs` or `Fraction`s.
        max_learning_rates: The rate at the beginning of each phase, >= 0.
        min_learning_rates: The rate at the end of each phase, >= 0 and <= the maximum.
            The last one is held.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range or the lists differ in length.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = PhasedCosine([10, 20], [0.1, 0.05], [0.01, 0.001])
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 20, 30)]
        [0.1, 0.055, 0.05, 0.0255, 0.001]
        >>> schedule.cycle_ends(30)
        [10, 30]

    Reference: Cutkosky, "Lecture Notes 5: tuning and learning rate schedules". They
    count from 1 in each phase. Here the first update of a phase is at 0, as everywhere.
    """

    phase_steps: tuple[Duration, ...] = durations.lengths()
    max_learning_rates: tuple[float, ...] = fields.rates()
    min_learning_rates: tuple[float, ...] = fields.rates()

    calculates = True

    def check(self):
        n = len(self.phase_steps)
        if n == 0:
            fields.refuse("phase_steps", "have at least one element", self.phase_steps)
        for name in ("max_learning_rates", "min_learning_rates"):
            if len(getattr(self, name)) != n:
                bound = f"have as many elements as `phase_steps` ({n})"
                fields.refuse(name, bound, getattr(self, name))
        ranges = zip(self.max_learning_rates, self.min_learning_rates, strict=True)
        if any(high < low for high, low in ranges):
            bound = f"be <= max_learning_rates={self.max_learning_rates}"
            fields.refuse("min_learning_rates", bound, self.min_learning_rates)

    def compose(self):
        phases = [
            CosineAnnealing(high, length, low)
            for high, length, low in zip(
                self.max_learning_rates,
                self.phase_steps,
                self.min_learning_rates,
                strict=True,
            )
        ]
        return Sequential(tuple(phases), tuple(self._ends()[:-1]))

    def _ends(self) -> Any:
        return list(itertools.accumulate(self.phase_steps))

    def _cycle_ends(self, num_steps):
        return {end for end in self._ends() if end <= num_steps}


@serializable
class Damped(Schedule):
    """A schedule whose height above a floor shrinks by the same factor at every step.

    Only other schedules make it; users do not.

    Args:
        schedule: A schedule that is never below the floor.
        floor: The rate towards which it is damped.
        decay_rate: The factor, in (0, 1].
    """

    schedule: Schedule = schedule_field()
    floor: float = fields.rate()
    decay_rate: float = fields.number(above=0.0, at_most=1.0)

    def call(self, step):
        scale = numerics.geometric(1.0, math.log(self.decay_rate), step)
        return self.floor + (evaluate(self.schedule, step) - self.floor) * scale


@serializable
class CyclicalLearningRate(Composition):
    """Triangular cycles between two rates (CLR).

    `initial + (maximal - initial) * triangle(t) * scale`, where the triangle rises from
    0 to 1 in `step_size` steps and falls in `step_size_down`; `scale` is

    - `"triangular"`: 1
    - `"triangular2"`: `0.5 ** cycle`
    - `"exp_range"`: `gamma ** t`

    Use it with the bounds from a range test, and stop training at the end of a cycle.

    Args:
        initial_learning_rate: The lower bound, >= 0.
        maximal_learning_rate: The upper bound, >= the lower.
        step_size: The length of the rising half, > 0; also `Epochs` or a `Fraction`.
            The paper uses 2 to 10 epochs.
        mode: One of the three above.
        gamma: The factor of `"exp_range"`, in (0, 1].
        step_size_down: The length of the falling half, > 0; None is `step_size`.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = CyclicalLearningRate(0.001, 0.006, step_size=2000)
        >>> [round(float(schedule(step)), 4) for step in (0, 1000, 2000, 3000, 4000)]
        [0.001, 0.0035, 0.006, 0.0035, 0.001]
        >>> schedule.cycle_ends(9000)
        [4000, 8000]

    Reference: Smith, "Cyclical Learning Rates for Training Neural Networks", 2015,
    arXiv:1506.01186.
    """

    initial_learning_rate: float = fields.rate()
    maximal_learning_rate: float = fields.rate()
    step_size: Duration = durations.length()
    mode: str = fields.choice(
        ("triangular", "triangular2", "exp_range"), default="triangular"
    )
    gamma: float = fields.number(default=1.0, above=0.0, at_most=1.0)
    step_size_down: Duration = durations.length(default=None, optional=True)

    calculates = True
    _restarts = True

    def check(self):
        if self.maximal_learning_rate < self.initial_learning_rate:
            bound = f"be >= initial_learning_rate={self.initial_learning_rate}"
            fields.refuse("maximal_learning_rate", bound, self.maximal_learning_rate)

    def _bind(self, window):
        down = self.step_size_down
        halves = (self.step_size, self.step_size if down is None else down)
        first, second = window.lengths(halves)
        same = down is None and first == second
        return self._replaced(
            {"step_size": first, "step_size_down": None if same else second}
        )

    def compose(self):
        low, high = self.initial_learning_rate, self.maximal_learning_rate
        up: Any = self.step_size
        down: Any = up if self.step_size_down is None else self.step_size_down
        triangle = PiecewiseInterpolation((0, up, up + down), (low, high, low))
        m_mul = 0.5 if self.mode == "triangular2" else 1.0
        cycles = Restarts(triangle, up + down, m_mul=m_mul)
        return Damped(cycles, low, self.gamma) if self.mode == "exp_range" else cycles


@serializable
class OneCycle(Composition):
    """The rate of the 1cycle policy: up to the maximum, then down to almost nothing.

    From `max / div_factor` at 0 up to `max` at `warmup_fraction * total_steps`, which
    is rounded to a step (halves up), then down to
    `max / div_factor / final_div_factor` at `total_steps`. With `three_phase`, down to
    `max / div_factor` as slowly as it went up, and from there to the end.

    Use it to train fast at rates at which training would diverge if they were held. The
    other half of the policy moves the momentum in the opposite direction. PyTorch's
    `OneCycleLR` reaches its peak and its end one step earlier.

    Args:
        max_learning_rate: The peak, >= 0.
        total_steps: The length of the run, > 0; None is the rest of it.
        warmup_fraction: The position of the peak as a fraction of the run, in [0, 1];
            at most 0.5 with `three_phase`.
        div_factor: The peak divided by the first rate, >= 1.
        final_div_factor: The first rate divided by the last, >= 1.
        shape: `"cosine"` or `"linear"`.
        three_phase: Whether the rate falls in two phases, as in the paper.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = OneCycle(1.0, total_steps=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 15, 30, 65, 100)]
        [0.04, 0.52, 1.0, 0.5, 0.0]

    Reference: Smith and Topin, "Super-Convergence: Very Fast Training of Neural
    Networks Using Large Learning Rates", 2017, arXiv:1708.07120 (three phases, linear);
    two phases with cosines are fastai's.
    """

    max_learning_rate: float = fields.rate()
    total_steps: Duration = durations.length(default=None)
    warmup_fraction: float = fields.number(default=0.3, at_least=0.0, at_most=1.0)
    div_factor: float = fields.number(default=25.0, at_least=1.0)
    final_div_factor: float = fields.number(default=1e4, at_least=1.0)
    shape: str = fields.choice(("cosine", "linear"), default="cosine")
    three_phase: bool = fields.flag(default=False)

    calculates = True

    def check(self):
        if self.three_phase and self.warmup_fraction > 0.5:
            bound = "be <= 0.5 with three_phase=True"
            fields.refuse("warmup_fraction", bound, self.warmup_fraction)

    def compose(self):
        start = self.max_learning_rate / self.div_factor
        return self._through(
            start, self.max_learning_rate, start / self.final_div_factor
        )

    def _through(self, start, top, end):
        """Returns the cycle from a start through a top value to an end."""
        total: Any = self.total_steps
        peak = _share(self.warmup_fraction, total)
        points = [(0, start), (peak, top)]
        if self.three_phase and self.warmup_fraction > 0.0:
            middle = durations.at_most(2 * peak, total - 1)
            # With no room between the peak and the end, the middle moves to the end.
            middle = middle + (total - middle) * (middle <= peak)
            points.append((middle, start))
        points.append((total, end))
        # If steps coincide, the peak replaces the start, and the end replaces the
        # middle.
        points = [
            point
            for point, after in itertools.zip_longest(points, points[1:])
            if after is None or np.any(point[0] < after[0])
        ]
        steps, values = zip(*points, strict=True)
        return PiecewiseInterpolation(steps, values, self.shape)


@serializable
class MirroredOneCycle(Composition):
    """The momentum of the 1cycle policy: low where the rate of `cycle` is high.

    The momentum falls from `max_momentum` to `base_momentum` at the peak of the rate,
    and rises again. With three phases it stays at the maximum in the last phase.

    `keras_lrs.callbacks.OneCycleScheduler` uses both halves.

    Args:
        cycle: The rate, a `OneCycle`.
        base_momentum: The momentum at the peak, in [0, 1).
        max_momentum: The momentum at both ends, in [0, 1).

    Returns:
        A schedule: called with a step of any shape, a tensor of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = MirroredOneCycle(OneCycle(1.0, total_steps=100))
        >>> [round(float(schedule(step)), 4) for step in (0, 15, 30, 65, 100)]
        [0.95, 0.9, 0.85, 0.9, 0.95]

    Reference: as `OneCycle`.
    """

    cycle: Any = schedule_field()
    base_momentum: float = fields.number(default=0.85, at_least=0.0, below=1.0)
    max_momentum: float = fields.number(default=0.95, at_least=0.0, below=1.0)

    calculates = True

    def check(self):
        if not isinstance(self.cycle, OneCycle):
            fields.refuse("cycle", "be a `OneCycle`", self.cycle, TypeError)
        if self.base_momentum > self.max_momentum:
            bound = f"be <= max_momentum={self.max_momentum}"
            fields.refuse("base_momentum", bound, self.base_momentum)

    def compose(self):
        high = self.max_momentum
        return self.cycle._through(high, self.base_momentum, high)


def _share(fraction, total):
    """Returns the step at `fraction` of `total`; not the last, nor 0 by rounding."""
    step = durations.half_up(durations.exact(fraction) * total)
    if fraction > 0.0:
        step = durations.at_least(step, 1)
    return durations.at_most(step, total - 1)


_COOLDOWNS = {
    "1-sqrt": OneMinusSqrtDecay,
    "linear": LinearDecay,
    "cosine": CosineAnnealing,
    "exponential": BoundedExponentialDecay,
    "rex": REXDecay,
}


@serializable
class WarmupStableDecay(Composition):
    """Warmup, a constant rate, and a cooldown (WSD, trapezoid).

    `Warmup(Delayed(cooldown(peak, decay_steps, end), stable), warmup_steps)`, where
    `stable` is the rest of `total_steps`

    Use it when the length of the run may change, because you can cool down from any
    checkpoint of the stable phase.

    Args:
        peak_learning_rate: The constant rate, >= 0.
        warmup_steps: The length of the linear warmup from 0, >= 0; also `Epochs` or a
            `Fraction`.
        decay_steps: The length of the cooldown, > 0, counted from the end; also
            `Epochs` or a `Fraction`. The paper recommends a fifth of the run.
        total_steps: The length of all phases together, > 0; None is the rest of the
            run.
        end_learning_rate: The rate at the end, >= 0. For `"exponential"`, both rates
            must be >= 2**-126.
        shape: The shape of the cooldown: `"1-sqrt"`, `"linear"`, `"cosine"`,
            `"exponential"` or `"rex"`.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range, or warmup and cooldown overlap.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = WarmupStableDecay(1.0, 10, 20, total_steps=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 80, 85, 100)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Reference: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", 2024, arXiv:2405.18392.
    """

    peak_learning_rate: float = fields.rate()
    warmup_steps: Duration = durations.length(at_least=0)
    decay_steps: Duration = durations.length()
    total_steps: Duration = durations.length(default=None)
    end_learning_rate: float = fields.rate(default=0.0)
    shape: str = fields.choice(tuple(_COOLDOWNS), default="1-sqrt")

    calculates = True

    def check(self):
        if self.shape == "exponential":
            condition = ' with shape="exponential"'
            for name in ("peak_learning_rate", "end_learning_rate"):
                fields.check_positive(name, getattr(self, name), condition)
        lengths: tuple = (self.warmup_steps, self.decay_steps, self.total_steps)
        if all(isinstance(length, (int, np.ndarray)) for length in lengths):
            warmup, decay, total = lengths
            if np.any(warmup + decay > total):
                raise ValueError(
                    "Arguments `warmup_steps` and `decay_steps` must not add up to "
                    f"more than total_steps={total}. Received: warmup_steps={warmup}, "
                    f"decay_steps={decay}"
                )

    def compose(self):
        cooldown = _COOLDOWNS[self.shape](
            self.peak_learning_rate, self.decay_steps, self.end_learning_rate
        )
        warmup: Any = self.warmup_steps
        stable = self.total_steps - warmup - self.decay_steps
        return Warmup(Delayed(cooldown, stable), warmup)

    def _bind(self, window):
        total = window.length(self.total_steps)
        warmup, decay = window.both_ends(self.warmup_steps, self.decay_steps, total)
        return self._replaced(
            {"warmup_steps": warmup, "decay_steps": decay, "total_steps": total}
        )


@serializable
class FlatCosine(Composition):
    """A constant rate, then half a cosine.

    `Delayed(CosineAnnealing(initial, ..., end), flat_fraction * decay_steps)`

    Use it with adaptive optimizers that do not need a warmup.

    Args:
        initial_learning_rate: The constant rate, >= 0.
        decay_steps: The length of both parts together, > 0; also `Epochs` or a
            `Fraction`. None is the rest of the run.
        flat_fraction: The fraction that is flat, in [0, 1]. The end rate is reached in
            any case.
        end_learning_rate: The rate at the end, >= 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = FlatCosine(1.0, decay_steps=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 75, 90, 100)]
        [1.0, 1.0, 0.3455, 0.0]

    Reference: fastai, `Learner.fit_flat_cos`.
    """

    initial_learning_rate: float = fields.rate()
    decay_steps: Duration = durations.length(default=None)
    flat_fraction: float = fields.number(default=0.75, at_least=0.0, at_most=1.0)
    end_learning_rate: float = fields.rate(default=0.0)

    calculates = True

    def compose(self):
        total = self.decay_steps
        flat = _share(self.flat_fraction, total)
        cosine = CosineAnnealing(
            self.initial_learning_rate, total - flat, self.end_learning_rate
        )
        return Delayed(cosine, flat)
