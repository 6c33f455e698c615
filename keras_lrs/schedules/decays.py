"""Decays of known length, each with one profile."""

from typing import Any

from keras_lrs.schedules import base, durations, fields, numerics
from keras_lrs.schedules.base import Schedule, serializable
from keras_lrs.schedules.durations import Duration


@serializable
class Decay(Schedule):
    """A decay between two rates over `decay_steps`, along a profile.

    Subclasses implement `profile`, a function from progress in [0, 1] to the fraction
    of the way that is left: exactly 1 at the beginning and exactly 0 at the end.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The length, > 0, in steps, `Epochs` or a `Fraction`; None is the
            rest of the run.
        end_learning_rate: The rate at step `decay_steps` and ever after, >= 0.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.
    """

    initial_learning_rate: float = fields.rate()
    decay_steps: Duration = durations.length(default=None)
    end_learning_rate: float = fields.rate(default=0.0)

    def call(self, step):
        progress, remaining = numerics.fractions(step, self.decay_steps)
        value = self.initial_learning_rate * self.profile(progress, remaining)
        end = self.end_learning_rate
        if not (numerics.is_number(end) and end == 0.0):
            value = value + end * self.complement(progress, remaining)
            # XLA multiplies by `1 / decay_steps`, so the last progress may not be
            # exactly 1.
            value = numerics.where(numerics.reached(step, self.decay_steps), end, value)
        return numerics.where(step > 0, value, self.initial_learning_rate)

    def profile(self, progress: Any, remaining: Any) -> Any:
        """Returns the fraction left; `remaining` is a more precise `1 - progress`.

        Args:
            progress: The part of `decay_steps` that has passed, in [0, 1].
            remaining: The part that has not.

        Returns:
            A number in [0, 1], a float, array or tensor like the arguments.
        """
        raise NotImplementedError

    def complement(self, progress: Any, remaining: Any) -> Any:
        """Returns `1 - profile`; overridden if there is a form without cancellation."""
        return 1.0 - self.profile(progress, remaining)


def _bent(progress, remaining, k):
    """Returns `progress ** k` and its complement, both without cancellation."""
    if k == 1.0:
        return progress, remaining
    log_progress = numerics.where(
        progress < 0.5, numerics.log(progress), numerics.log1p(-remaining)
    )
    return numerics.raised(progress, k), -numerics.expm1(k * log_progress)


@serializable
class LinearDecay(Decay):
    """Linear decay: the rate falls by the same amount at every step.

    `end + (initial - end) * (1 - t / decay_steps)`

    Use it when the length of the run is known. In theory, and on ten deep-learning
    tasks, it is the schedule to beat (Defazio et al. 2023).

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The length, > 0, in steps, `Epochs` or a `Fraction`; None is the
            rest of the run.
        end_learning_rate: The rate at step `decay_steps` and ever after, >= 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = LinearDecay(0.1, decay_steps=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 25, 50, 100, 200)]
        [0.1, 0.075, 0.05, 0.0, 0.0]

    Reference: Defazio, Cutkosky, Mehta, Mishchenko, "Optimal Linear Decay Learning Rate
    Schedules and Further Refinements", 2023, arXiv:2310.07831.
    """

    def profile(self, progress, remaining):
        return remaining

    def complement(self, progress, remaining):
        return progress


@serializable
class PolynomialDecay(Decay):
    """A power of the remaining time, optionally of bent time (k-decay).

    `end + (initial - end) * (1 - (t / decay_steps) ** k) ** power`

    Use it when linear decay should spend more (`power < 1`, `k > 1`) or less (`power >
    1`) of the run at a high rate. It is common in segmentation. By default it ends at
    0, while Keras's `PolynomialDecay` ends at 1e-4.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The length, > 0, in steps, `Epochs` or a `Fraction`; None is the
            rest of the run.
        end_learning_rate: The rate at step `decay_steps` and ever after, >= 0.
        power: The exponent, > 0, at most 1000. 1 is linear.
        k: The exponent of progress, > 0, at most 1000. 1 is plain polynomial decay;
            larger values keep the rate high for longer.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = PolynomialDecay(0.1, 100, 0.001, power=2.0)
        >>> [round(float(schedule(step)), 4) for step in (0, 25, 50, 100)]
        [0.1, 0.0567, 0.0258, 0.001]

    Reference: for `k`, Zhang and Li, "k-decay: A New Method for Learning Rate
    Schedule", 2020, arXiv:2004.05909.
    """

    power: float = fields.exponent(default=1.0)
    k: float = fields.exponent(default=1.0)

    def profile(self, progress, remaining):
        return numerics.raised(_bent(progress, remaining, self.k)[1], self.power)

    def complement(self, progress, remaining):
        bent, left = _bent(progress, remaining, self.k)
        return _bent(left, bent, self.power)[1]


@serializable
class CosineAnnealing(Decay):
    """Half a cosine from the initial rate to the end rate, optionally in bent time.

    `end + (initial - end) * (1 + cos(pi * (t / decay_steps) ** k)) / 2`

    Use it instead of linear decay when you want the most widely tried shape. It is
    computed as a squared sine of the remaining time, so that the last rates are
    accurate too. The end is a rate, while the `alpha` of Keras's `CosineDecay` is a
    fraction of the initial rate. PyTorch's `CosineAnnealingLR` rises again after
    `T_max`.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The length, > 0, in steps, `Epochs` or a `Fraction`; None is the
            rest of the run.
        end_learning_rate: The rate at step `decay_steps` and ever after, >= 0.
        k: The exponent of progress, > 0, at most 1000; larger values keep the rate high
            for longer.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = CosineAnnealing(0.1, 100, 0.001)
        >>> [round(float(schedule(step)), 4) for step in (0, 25, 50, 75, 100, 200)]
        [0.1, 0.0855, 0.0505, 0.0155, 0.001, 0.001]

    Reference: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
    Restarts", 2016, arXiv:1608.03983, equation 5. For `k`, Zhang and Li, "k-decay",
    2020, arXiv:2004.05909.
    """

    k: float = fields.exponent(default=1.0)

    def profile(self, progress, remaining):
        return numerics.half_cosine(_bent(progress, remaining, self.k)[1])

    def complement(self, progress, remaining):
        return numerics.half_cosine(_bent(progress, remaining, self.k)[0])


@serializable
class REXDecay(Decay):
    """Reflected exponential decay (REX).

    `end + (initial - end) * (1 - z) / ((1 - beta) + beta * (1 - z))`,
    `z = t / decay_steps`

    Use it when the budget is tight. It lies between linear and delayed linear decay,
    and was the best schedule across budgets in its paper.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The length, > 0, in steps, `Epochs` or a `Fraction`; None is the
            rest of the run.
        end_learning_rate: The rate at step `decay_steps` and ever after, >= 0.
        beta: How long the rate stays high, in [0, 1). 0 is linear decay, and 0.5 is the
            paper's REX. The authors' published code uses 0.9.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = REXDecay(1.0, decay_steps=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 25, 50, 90, 100)]
        [1.0, 0.8571, 0.6667, 0.1818, 0.0]

    Reference: Chen, Wolfe, Kyrillidis, "REX: Revisiting Budgeted Training with an
    Improved Schedule", 2021, arXiv:2107.04197.
    """

    beta: float = fields.number(default=0.5, at_least=0.0, below=1.0)

    def profile(self, progress, remaining):
        return remaining / ((1.0 - self.beta) + self.beta * remaining)

    def complement(self, progress, remaining):
        return (
            (1.0 - self.beta) * progress / ((1.0 - self.beta) + self.beta * remaining)
        )


@serializable
class TanhDecay(Decay):
    """Hyperbolic-tangent decay (HTD), rescaled so that both ends are exact.

    `end + (initial - end) * (tanh(upper) - tanh(b)) / (tanh(upper) - tanh(lower))`,
    `b = lower + (upper - lower) * t / decay_steps`

    Use it when the rate should stay high for longer than with a cosine, and drop more
    suddenly. The published form starts a little below the initial rate and never
    reaches the end rate. This one reaches both exactly.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The length, > 0, in steps, `Epochs` or a `Fraction`; None is the
            rest of the run.
        end_learning_rate: The rate at step `decay_steps` and ever after, >= 0.
        lower: The argument of tanh at the beginning, in [-40, 40].
        upper: The argument of tanh at the end, in [-40, 40], > `lower` by 1e-6 or more.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range, or `upper` is not > `lower`.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = TanhDecay(1.0, decay_steps=90)
        >>> [round(float(schedule(step)), 4) for step in (0, 45, 60, 90)]
        [1.0, 0.9525, 0.4988, 0.0]

    Reference: Hsueh, Li, Wu, "Stochastic Gradient Descent with Hyperbolic-Tangent Decay
    on Classification", 2018, arXiv:1806.01593.
    """

    lower: float = fields.number(default=-6.0, at_least=-40.0, at_most=40.0)
    upper: float = fields.number(default=3.0, at_least=-40.0, at_most=40.0)

    def check(self):
        if self.upper <= self.lower:
            fields.refuse("upper", f"be > lower={self.lower}", self.upper)
        if self.upper - self.lower < 1e-6:  # Nearly a line, lost in float32.
            bound = f"be > lower={self.lower} by 1e-6 or more"
            fields.refuse("upper", bound, self.upper)

    def profile(self, progress, remaining):
        return _tanh_profile(progress, remaining, self.lower, self.upper)

    def complement(self, progress, remaining):
        return _tanh_profile(remaining, progress, -self.upper, -self.lower)


def _tanh_profile(progress, remaining, lower, upper):
    # (tanh(u) - tanh(b)) / (tanh(u) - tanh(l)) without a difference of nearly equal
    # numbers: sinh(u - b) cosh(l) / (sinh(u - l) cosh(b)), in exponentials.
    width = upper - lower
    b = numerics.where(
        progress < 0.5, lower + width * progress, upper - width * remaining
    )
    falling = numerics.expm1(-2.0 * width * remaining)
    risen = 1.0 + numerics.exp(2.0 * b)
    scale = (1.0 + numerics.exp(2.0 * lower)) / numerics.expm1(-2.0 * width)
    return scale * falling / risen


@serializable
class OneMinusSqrtDecay(Decay):
    """One minus a square root: steep at first, then gentle.

    `end + (initial - end) * (1 - sqrt(t / decay_steps))`

    Use it as the cooldown of a warmup-stable-decay schedule (`WarmupStableDecay` does).

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The length, > 0, in steps, `Epochs` or a `Fraction`; None is the
            rest of the run.
        end_learning_rate: The rate at step `decay_steps` and ever after, >= 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = OneMinusSqrtDecay(1.0, decay_steps=20)
        >>> [round(float(schedule(step)), 4) for step in (0, 1, 5, 10, 20)]
        [1.0, 0.7764, 0.5, 0.2929, 0.0]

    Reference: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", 2024, arXiv:2405.18392.
    """

    def profile(self, progress, remaining):
        return remaining / (1.0 + numerics.sqrt(progress))

    def complement(self, progress, remaining):
        return numerics.sqrt(progress)


@serializable
class BoundedExponentialDecay(Decay):
    """Exponential decay between two rates, smoothly or in a given number of drops.

    `initial * (end / initial) ** (t / decay_steps)`; with `updates=m`,
    `initial * gamma ** floor(t * m / decay_steps)`, `gamma = (end / initial) ** (1/m)`

    Use it when you know where the rate should begin and end. The factor and the step
    size of the step decay follow from that.

    Args:
        initial_learning_rate: The rate at step 0, >= 2**-126.
        decay_steps: The length, > 0, in steps, `Epochs` or a `Fraction`; None is the
            rest of the run.
        end_learning_rate: The rate at step `decay_steps` and ever after, >= 2**-126.
        updates: The number of equal drops, in [1, 2**20]. The last drop falls on step
            `decay_steps`, even if the length is not a multiple. None decays at every
            step.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = BoundedExponentialDecay(0.1, 10**6, 1e-4, updates=10**4)
        >>> round(schedule.decay_rate, 12)
        0.999309463003
        >>> [round(float(schedule(step)), 6) for step in (0, 99, 100, 500_000, 10**6)]
        [0.1, 0.1, 0.099931, 0.003162, 0.0001]

    Reference: Meneghetti, "Reverse engineering a step decay for learning rate", 2020:
    choose the two rates, the number of updates and the length; gamma follows.
    """

    updates: int | None = fields.integer(default=None, at_least=1, at_most=2**20)

    def check(self):
        for name in ("initial_learning_rate", "end_learning_rate"):
            value = getattr(self, name)
            if not isinstance(value, fields.Table):
                fields.check_positive(name, value)

    @property
    def decay_rate(self) -> float:
        """Gamma, the factor of one drop or, without `updates`, of one step.

        Raises:
            ValueError: If there are no `updates` and the schedule is not bound.
        """
        if self.updates is None:
            base.check_bound(self)
        drops = self.decay_steps if self.updates is None else self.updates
        return float(numerics.exp(self._log_ratio() / drops))

    def call(self, step):
        time, length = numerics.capped(step, self.decay_steps), self.decay_steps
        if self.updates is not None:
            time, length = numerics.share(time, self.updates, length), self.updates
        # Uses the root, because the ratio itself may be too large for a float32.
        root = numerics.exponential(0.5 * self._log_ratio(), time, length)
        return numerics.where(
            numerics.reached(step, self.decay_steps),
            self.end_learning_rate,
            self.initial_learning_rate * root * root,
        )

    def _log_ratio(self):
        return numerics.log(self.end_learning_rate / self.initial_learning_rate)
