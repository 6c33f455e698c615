"""Schedules without a fixed end."""

import functools
import math
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lrs.schedules import base, durations, fields, numerics
from keras_lrs.schedules.base import Schedule, serializable
from keras_lrs.schedules.durations import Duration


@serializable
class Constant(Schedule):
    """The same rate at every step.

    `value`

    Use it as a baseline, as a piece of `Sequential`, or with averaged weights.

    Args:
        value: The rate, >= 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If `value` is negative or not finite.
        TypeError: If `value` is not a number.

    Example:
        >>> round(float(Constant(0.1)(1000)), 4)
        0.1

    Reference: Robbins and Monro, "A Stochastic Approximation Method", 1951.
    """

    value: float = fields.rate()

    def call(self, step):
        return numerics.full(step, self.value)


@serializable
class ExponentialDecay(Schedule):
    """Multiplies the rate by a factor every `decay_steps`, smoothly or in a staircase.

    `initial * decay_rate ** (t / decay_steps)`; with `staircase`, of the floor

    Use it as a drop-in replacement for `keras.optimizers.schedules.ExponentialDecay`.
    It stays accurate where Keras's drifts, such as with a factor close to 1 over a
    million steps.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The number of steps per factor, > 0; also `Epochs` or a `Fraction`.
        decay_rate: The factor, > 0.
        staircase: Whether to multiply only at multiples of `decay_steps`.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.
        Held at the largest float32 if it grows beyond.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = ExponentialDecay(0.1, 1000, 0.96)
        >>> [round(float(schedule(step)), 6) for step in (0, 500, 1000, 2500)]
        [0.1, 0.09798, 0.096, 0.090298]

    Reference: Keras, `keras.optimizers.schedules.ExponentialDecay`.
    """

    initial_learning_rate: float = fields.rate()
    decay_steps: Duration = durations.length()
    decay_rate: float = fields.number(above=0.0)
    staircase: bool = fields.flag(default=False)

    def call(self, step):
        initial, log_rate = self.initial_learning_rate, math.log(self.decay_rate)
        length = self.decay_steps
        if isinstance(length, int) and not self.staircase:
            return numerics.geometric(initial, log_rate / length, step)
        drops, rest = numerics.divided(step, length)
        value = numerics.geometric(initial, log_rate, drops)
        if self.staircase:
            return value
        within = numerics.exponential(log_rate, rest, length)
        return numerics.minimum(value * within, numerics.LARGEST)


@serializable
class InverseTimeDecay(Schedule):
    """Divides the rate by one plus a multiple of the time.

    `initial / (1 + decay_rate * t / decay_steps)`; with `staircase`, of the floor of
    `t / decay_steps`

    Use it as a drop-in replacement for `keras.optimizers.schedules.InverseTimeDecay`,
    or if the theory of strongly convex problems applies.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        decay_steps: The unit of time, in steps > 0; also `Epochs` or a `Fraction`.
        decay_rate: How much the denominator grows in one unit, >= 0.
        staircase: Whether to decay only at multiples of `decay_steps`.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = InverseTimeDecay(0.1, 10, 0.5)
        >>> [round(float(schedule(step)), 4) for step in (0, 10, 20, 100)]
        [0.1, 0.0667, 0.05, 0.0167]

    Reference: Keras, `keras.optimizers.schedules.InverseTimeDecay`.
    """

    initial_learning_rate: float = fields.rate()
    decay_steps: Duration = durations.length()
    decay_rate: float = fields.number(at_least=0.0)
    staircase: bool = fields.flag(default=False)

    def call(self, step):
        if self.staircase:
            units = numerics.to_float(numerics.divided(step, self.decay_steps)[0])
        else:
            units = numerics.ratio(step, self.decay_steps)
        return self.initial_learning_rate / (1.0 + self.decay_rate * units)


@serializable
class StepDecay(Schedule):
    """Multiplies the rate by a factor every `step_size` steps.

    `initial * decay_rate ** floor(t / step_size)`

    Use it for the classic recipe: ten times less every thirty epochs.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        step_size: The steps from one drop to the next, > 0; also `Epochs` or a
            `Fraction`. The first drop takes effect at step `step_size`.
        decay_rate: The factor, > 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = StepDecay(0.1, step_size=30)
        >>> [round(float(schedule(step)), 4) for step in (0, 29, 30, 60, 90)]
        [0.1, 0.1, 0.01, 0.001, 0.0001]

    Reference: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
    2015, arXiv:1512.03385.
    """

    initial_learning_rate: float = fields.rate()
    step_size: Duration = durations.length()
    decay_rate: float = fields.number(default=0.1, above=0.0)

    def call(self, step):
        drops, _ = numerics.divided(step, self.step_size)
        log_rate = math.log(self.decay_rate)
        return numerics.geometric(self.initial_learning_rate, log_rate, drops)


@serializable
class InverseSqrtDecay(Schedule):
    """Divides the rate by the square root of the time.

    `initial * sqrt(timescale / (t + timescale))`

    Use it when the length of the run is not known. Put `Warmup` before it for the
    schedule of transformers.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        timescale: The steps after which the rate has fallen by a factor of sqrt(2),
            > 0; also `Epochs` or a `Fraction`.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = InverseSqrtDecay(0.1, timescale=100)
        >>> [round(float(schedule(step)), 4) for step in (0, 100, 300)]
        [0.1, 0.0707, 0.05]

    Reference: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
    Text-to-Text Transformer", 2019, arXiv:1910.10683.
    """

    initial_learning_rate: float = fields.rate()
    timescale: Duration = durations.length(default=1)

    def call(self, step):
        units = numerics.ratio(step, self.timescale)
        return self.initial_learning_rate / numerics.sqrt(units + 1.0)


@serializable
class NoamDecay(Schedule):
    """Linear warmup and inverse square root, scaled by the width of the model.

    `factor * model_dim ** -0.5 * min(s ** -0.5, s * warmup_steps ** -1.5)`, `s = t + 1`

    Use it to reproduce the original transformer.

    Args:
        model_dim: The width of the model, > 0.
        warmup_steps: The step count `s` at which the rate peaks, > 0; also `Epochs` or
            a `Fraction`.
        factor: The factor of all values, >= 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = NoamDecay(model_dim=512, warmup_steps=4000)
        >>> [round(float(schedule(step)), 7) for step in (0, 1999, 3999, 15999)]
        [2e-07, 0.0003494, 0.0006988, 0.0003494]

    Reference: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762,
    equation 3.
    """

    model_dim: int = fields.integer(at_least=1)
    warmup_steps: Duration = durations.length(default=4000)
    factor: float = fields.rate(default=1.0)

    def call(self, step):
        # In units of the warmup, both sides of the minimum are 1 at the peak.
        units = (numerics.to_float(step) + 1.0) / numerics.to_float(self.warmup_steps)
        peak = self.factor / numerics.sqrt(
            numerics.to_float(self.warmup_steps) * float(self.model_dim)
        )
        return peak * numerics.minimum(units, 1.0 / numerics.sqrt(units))


@serializable
class ExponentialGrowth(Schedule):
    """Multiplies the rate by the same factor, at least 1, at every step.

    `initial * (1 + growth_rate) ** t`

    Use it with normalization layers and no weight decay: up to their epsilon and to
    rounding, it then trains the same functions as a constant rate with weight decay.
    Or use it to find where a model diverges.

    Args:
        initial_learning_rate: The rate at step 0, >= 0.
        growth_rate: The growth per step, >= 0.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.
        Held at the largest float32 once it gets there.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = ExponentialGrowth(0.1, growth_rate=0.01)
        >>> [round(float(schedule(step)), 4) for step in (0, 1, 100)]
        [0.1, 0.101, 0.2705]

    Reference: Li and Arora, "An Exponential Learning Rate Schedule for Deep Learning",
    2019, arXiv:1910.07454.
    """

    initial_learning_rate: float = fields.rate()
    growth_rate: float = fields.number(at_least=0.0)

    def call(self, step):
        log_rate = math.log1p(self.growth_rate)
        return numerics.geometric(self.initial_learning_rate, log_rate, step)


@serializable
class PowerDecay(Schedule):
    """A power law of the time, cut off at a maximum.

    `min(max_learning_rate, scale * max(t, 1) ** exponent)`

    Use it with `Warmup` and a cooldown to train for lengths that are not known in
    advance, with a rate that was tuned on a shorter run.

    Args:
        max_learning_rate: The largest rate, >= 0.
        scale: The rate at step 1, if it is below the largest rate; >= 0.
        exponent: The power, in [-8, 0].

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = PowerDecay(0.02, scale=1.0)
        >>> [round(float(schedule(step)), 5) for step in (0, 1000, 10_000, 1_000_000)]
        [0.02, 0.02, 0.00912, 0.00087]

    Reference: Shen et al., "Power Scheduler: A Batch Size and Token Number Agnostic
    Learning Rate Scheduler", 2024, arXiv:2408.13359.
    """

    max_learning_rate: float = fields.rate()
    scale: float = fields.rate()
    exponent: float = fields.number(default=-0.51, at_least=-8.0, at_most=0.0)

    def call(self, step):
        power = numerics.power(numerics.maximum(step, 1), self.exponent)
        return numerics.minimum(self.scale * power, self.max_learning_rate)


@serializable
class ChebyshevFractal(Schedule):
    """The reciprocals of Chebyshev nodes in fractal order, repeated.

    `1 / (m + (M - m) * sin((2 j - 1) * pi / (4 T)) ** 2)` with `m = 1 / max`,
    `M = 1 / min`, `T = cycle_steps` and `j` the next number of the permutation
    `[1]`, `[1, 2]`, `[1, 4, 2, 3]`, ... (each followed by its mirror)

    Use it with plain gradient descent (no momentum) on quadratic problems whose
    curvature lies in `[1/max, 1/min]`: a cycle then converges as fast as accelerated
    methods. It leaves `2 r**T / (1 + r**(2 T))` of the error, with
    `r = (sqrt(k) - 1) / (sqrt(k) + 1)` and `k = max / min`. Look at the loss only at
    the ends of cycles, because after the first steps of a cycle the error may be up to
    `k` times the error at the start. The order ensures that later steps do not amplify
    errors from rounding or noise. In sorted order, they amplify them by many orders of
    magnitude.

    Args:
        min_learning_rate: One over the largest curvature, > 0.
        max_learning_rate: One over the smallest curvature, >= `min_learning_rate`.
        cycle_steps: The length of a cycle: a power of two, up to 2**20.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = ChebyshevFractal(1.0, 20.0, cycle_steps=4)
        >>> [round(float(schedule(step)), 4) for step in range(5)]
        [11.6067, 1.0375, 2.9135, 1.4149, 11.6067]

    Reference: Agarwal, Goel, Zhang, "Acceleration via Fractal Learning Rate Schedules",
    2021, arXiv:2103.01338.
    """

    min_learning_rate: float = fields.number(at_least=1e-37)
    max_learning_rate: float = fields.rate()
    cycle_steps: int = fields.integer(at_least=1, at_most=2**20)

    def check(self):
        if self.min_learning_rate <= 0.0:
            fields.refuse("min_learning_rate", "be > 0", self.min_learning_rate)
        if self.max_learning_rate < self.min_learning_rate:
            bound = f"be >= min_learning_rate={self.min_learning_rate}"
            fields.refuse("max_learning_rate", bound, self.max_learning_rate)
        if self.cycle_steps & (self.cycle_steps - 1):
            fields.refuse("cycle_steps", "be a power of two", self.cycle_steps)

    def call(self, step):
        return numerics.gather(self._rates, numerics.divided(step, self.cycle_steps)[1])

    @functools.cached_property
    def _rates(self):
        order = np.array([1])
        while len(order) < self.cycle_steps:
            order = np.stack([order, 2 * len(order) + 1 - order], axis=-1).ravel()
        low, high = 1.0 / self.max_learning_rate, 1.0 / self.min_learning_rate
        angle = (2 * order - 1) * (math.pi / (4 * self.cycle_steps))
        return 1.0 / (low + (high - low) * np.sin(angle) ** 2)

    def _cycle_ends(self, num_steps):
        return set(range(self.cycle_steps, num_steps + 1, self.cycle_steps))


@serializable
class FunctionSchedule(Schedule):
    """Evaluates any function of the step, which is saved by its registered name.

    `function(t)`

    Use it for a formula that no other class has. Write the function with operators and
    `keras.ops` (`keras.ops.where`, not `if`), because it becomes part of the compiled
    training step.

    Args:
        function: A function that returns the rate of a step. It receives the step as a
            float (in a compiled step a float32 tensor, in which whole numbers are exact
            up to 2**24). It must be registered with
            `keras.saving.register_keras_serializable`, so that a saved model can be
            loaded.

    Returns:
        A schedule: called with a step of any shape, a tensor of rates of that shape.

    Raises:
        ValueError: If `function` is a lambda or is not registered.
        TypeError: If `function` is not callable.

    Example:
        >>> import keras
        >>> @keras.saving.register_keras_serializable(package="example")
        ... def halved_and_shifted(step):
        ...     return 0.1 / (step + 2.0)
        >>> round(float(FunctionSchedule(halved_and_shifted)(8)), 4)
        0.01

    Reference: TensorFlow, PyTorch and optax all accept functions, but cannot save them.
    """

    function: Callable[[Any], Any] = fields.checked(
        fields.REQUIRED, lambda name, value: value
    )

    def check(self):
        function = self.function
        if not isinstance(function, (types.FunctionType, types.BuiltinFunctionType)):
            fields.refuse("function", "be a function", function, TypeError)
        advice = (
            "It could be saved but never loaded again. Define it with `def` and put "
            "`@keras.saving.register_keras_serializable(package=...)` above it."
        )
        if function.__name__ == "<lambda>":
            raise ValueError(
                f"Argument `function` must not be a lambda. {advice} "
                f"Received: function={function}"
            )
        name = keras.saving.get_registered_name(function)
        if keras.saving.get_registered_object(name) is not function:
            raise ValueError(
                f"Argument `function` must be registered with Keras. {advice} "
                f"Received: function={function}"
            )

    def call(self, step):
        return base.evaluate_foreign(
            lambda step: self.function(numerics.to_float(step)), step
        )
