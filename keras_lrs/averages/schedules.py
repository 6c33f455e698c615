"""Schedules of the share of an average that each update keeps.

Every average of weights here is one recurrence, `a <- a + (1 - d(k)) * (w - a)`, in the
k-th update, k from 0. The methods differ only in the schedule `d(k)`.
"""

import functools
import math
from typing import Any

import numpy as np

from keras_lrs.schedules import fields, numerics
from keras_lrs.schedules.base import Schedule, serializable


class Average(Schedule):
    """A schedule of the share `d(k)` of the average that the k-th update keeps.

    Subclasses implement `weight`, the share `1 - d(k)` of the new weights. Near 0, a
    float holds this share with full precision, while `d(k)` would be rounded.
    Subclasses are frozen dataclasses with the decorator
    `keras_lrs.schedules.serializable`, like your own schedules.

    Example:
        A mean of the weights in which older weights count less and less.

        >>> import dataclasses
        >>> from keras_lrs.averages import Average
        >>> @dataclasses.dataclass(frozen=True)
        ... class RecentAverage(Average):
        ...     share: float = 2.0
        ...
        ...     def weight(self, step):
        ...         return self.share / (step + self.share)
        >>> RecentAverage().curve(4).round(4).tolist()
        [0.0, 0.3333, 0.5, 0.6]
    """

    _instead = "This is an average: give it to `keras_lrs.callbacks.WeightAveraging`."

    def weight(self, step: Any) -> Any:
        """Returns the share of the new weights in update `step`, counted from 0.

        Args:
            step: An int >= 0, an int64 NumPy array, or an integer tensor.

        Returns:
            A float, a float64 NumPy array, or a float tensor, like `step`; in [0, 1].
        """
        raise NotImplementedError

    def call(self, step):
        """Returns the share of the average that is kept."""
        return 1.0 - self.weight(step)

    def thinned(self, every: int) -> "Average":
        """Returns an average over the same stretch of training that updates less often.

        Args:
            every: The number of steps per update, > 0.

        Raises:
            ValueError: If `every` is not > 0.
        """
        fields.count("every", every, 1)
        return self


@serializable
class ExponentialAverage(Average):
    """An exponential moving average (EMA).

    `d(k) = d`; debiased `d(k) = d * (1 - d**k) / (1 - d**(k + 1))`

    Use it with a constant or slowly decaying rate. At any time it gives about what
    decaying the rate to 0 would give. If debiased, it forgets the initial weights at
    once and is the weighted mean of the weights seen so far.

    Args:
        decay: The share that each update keeps, in [0, 1).
        debias: Whether to leave out the initial weights.
        half_life: Instead of `decay`, the number of updates after which the share of
            old weights halves, >= 1e-6.

    Returns:
        A schedule: called with a number of updates, the share that is kept.

    Raises:
        ValueError: If an argument is out of range, or both are given.
        TypeError: If an argument has the wrong type.

    Example:
        >>> average = ExponentialAverage(0.9)
        >>> [round(float(average(update)), 4) for update in (0, 1, 2, 1000)]
        [0.0, 0.4737, 0.631, 0.9]

    Reference: Kingma and Ba, 2014, arXiv:1412.6980, section 7.2: Polyak's average with
    their bias correction.
    """

    decay: float = fields.number(default=0.999, at_least=0.0, below=1.0)
    debias: bool = fields.flag(default=True)
    half_life: float | None = fields.number(default=None, at_least=1e-6)

    def check(self):
        if self.half_life is not None and self.decay != 0.999:
            fields.refuse("decay", "not be given with `half_life`", self.decay)

    @property
    def _log_decay(self):
        if self.half_life is not None:
            return -math.log(2.0) / self.half_life
        return math.log(self.decay) if self.decay > 0.0 else -math.inf

    def weight(self, step):
        latest = -math.expm1(self._log_decay)
        if not self.debias or latest == 1.0:
            return numerics.full(step, latest)
        seen = numerics.to_float(step) + 1.0
        # The first weight is 1, which rounding may exceed.
        return numerics.minimum(-latest / numerics.expm1(self._log_decay * seen), 1.0)

    def thinned(self, every):
        super().thinned(every)
        if self.half_life is not None:
            half_life = max(self.half_life / every, 1e-6)
            return type(self)(debias=self.debias, half_life=half_life)
        return type(self)(self.decay**every, self.debias)


@serializable
class UniformAverage(Average):
    """The mean of all weights (Polyak and Ruppert, SWA).

    `d(k) = k / (k + 1)`

    Use it late in training, or once per cycle (SWA). If it begins at the start, it
    lags, because the weights of the first updates count as much as the last.

    Returns:
        A schedule: called with a number of updates, the share that is kept.

    Example:
        >>> [round(float(UniformAverage()(update)), 4) for update in (0, 1, 2, 3)]
        [0.0, 0.5, 0.6667, 0.75]

    Reference: Polyak and Juditsky, "Acceleration of Stochastic Approximation by
    Averaging", 1992. Izmailov et al., "Averaging Weights Leads to Wider Optima and
    Better Generalization", 2018, arXiv:1803.05407.
    """

    def weight(self, step):
        return 1.0 / (numerics.to_float(step) + 1.0)


@serializable
class PolynomialAverage(Average):
    """A mean in which later weights count more, as a power of their number.

    `d(k) = k / (k + 1 + power)`

    Use it if the uniform mean lags and you do not want to tune a decay. Its memory
    grows with the run. `power=0` is the uniform mean.

    Args:
        power: The power, in [0, 1e6]; 3 and 8 are common.

    Returns:
        A schedule: called with a number of updates, the share that is kept.

    Raises:
        ValueError: If `power` is out of range.
        TypeError: If `power` is not a number.

    Example:
        >>> average = PolynomialAverage(3)
        >>> [round(float(average(update)), 4) for update in (0, 1, 2, 3)]
        [0.0, 0.2, 0.3333, 0.4286]

    Reference: Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth
    Optimization", 2012, arXiv:1212.1824.
    """

    power: float = fields.number(at_least=0.0, at_most=1e6)

    def weight(self, step):
        return (self.power + 1.0) / (numerics.to_float(step) + (self.power + 1.0))


@serializable
class WarmupAverage(Average):
    """An exponential average whose decay rises to its final value.

    `d(k) = min(decay, (1 + k) / (10 + k))`

    Use it as a drop-in replacement for `MovingAverage(dynamic_decay=True)` of
    TensorFlow Addons and `num_updates` of TensorFlow's own average. A debiased
    `ExponentialAverage` does the same without the constant 10.

    Args:
        decay: The final share that each update keeps, in [0, 1).

    Returns:
        A schedule: called with a number of updates, the share that is kept.

    Raises:
        ValueError: If `decay` is out of range.
        TypeError: If `decay` is not a number.

    Example:
        >>> average = WarmupAverage(0.999)
        >>> [round(float(average(update)), 4) for update in (0, 1, 10, 100_000)]
        [0.1, 0.1818, 0.55, 0.999]

    Reference: `tf.train.ExponentialMovingAverage`.
    """

    decay: float = fields.number(default=0.999, at_least=0.0, below=1.0)

    def weight(self, step):
        return numerics.maximum(
            9.0 / (numerics.to_float(step) + 10.0), 1.0 - self.decay
        )

    def thinned(self, every):
        super().thinned(every)
        return type(self)(self.decay**every)


@serializable
class PowerFunctionAverage(Average):
    """A mean whose memory is a fixed fraction of the run so far.

    `d(k) = (1 - 1 / (k + 1)) ** (gamma + 1)`, `gamma` from `sigma_rel`

    Use it for long runs of generative models. From two of these averages, any other
    length can be reconstructed afterwards (post-hoc EMA).

    Args:
        sigma_rel: The width of the average as a fraction of the run, in
            [1e-6, 0.288675): the standard deviation of the step numbers under the
            average's weights, divided by the number of steps. Common values are 0.05 to
            0.15.

    Returns:
        A schedule: called with a number of updates, the share that is kept.

    Raises:
        ValueError: If `sigma_rel` is out of range.
        TypeError: If `sigma_rel` is not a number.

    Example:
        >>> average = PowerFunctionAverage(0.1)
        >>> round(average.gamma, 4)
        6.9372
        >>> [round(float(average(update)), 4) for update in (0, 1, 9, 99)]
        [0.0, 0.0041, 0.4333, 0.9233]

    Reference: Karras et al., "Analyzing and Improving the Training Dynamics of
    Diffusion Models", 2024, arXiv:2312.02696, section 3 and appendix C.
    """

    # Above the bound, the exponent would be negative, and early weights count more.
    sigma_rel: float = fields.number(at_least=1e-6, below=12.0**-0.5)

    @functools.cached_property
    def gamma(self) -> float:
        """The exponent: the k-th weights count in proportion to `k ** gamma`."""
        return gamma(self.sigma_rel)

    def weight(self, step):
        seen = numerics.to_float(step) + 1.0
        return -numerics.expm1((self.gamma + 1.0) * numerics.log1p(-1.0 / seen))


def gamma(sigma_rel: float) -> float:
    """Returns the exponent of the power function of a width (equation 126)."""
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def as_average(value: Any) -> Average:
    """Returns the average that an argument `average` stands for; a number is a decay.

    Raises:
        TypeError: If it is neither an average nor a number.
        ValueError: If the number is out of range.
    """
    if value is None:
        return ExponentialAverage()
    if fields.is_number(value):
        decay = fields.number(at_least=0.0, below=1.0)
        return ExponentialAverage(fields.validate("average", value, decay))
    if not isinstance(value, Average):
        bound = "be a schedule of `keras_lrs.averages`, or a decay"
        fields.refuse("average", bound, value, TypeError)
    return value
