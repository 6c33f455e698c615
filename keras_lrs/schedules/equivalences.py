"""Schedules that train the same functions as others, by a theorem."""

import math
from typing import Any

import keras
import numpy as np

from keras_lrs.schedules import base, fields, numerics
from keras_lrs.schedules.base import Schedule
from keras_lrs.schedules.open_ended import Constant, ExponentialGrowth
from keras_lrs.schedules.piecewise import PiecewiseConstant, PiecewiseInterpolation

MOST_STEPS = 2**22
"""The largest number of steps: every step is listed, which takes about 20 seconds."""

FORMS = ("decoupled", "l2")


def without_weight_decay(
    schedule: float | keras.optimizers.schedules.LearningRateSchedule,
    weight_decay: float,
    num_steps: int,
    momentum: float = 0.0,
    form: str = "decoupled",
    start_step: int = 0,
) -> tuple[Schedule, Schedule]:
    """Computes rates and momenta that replace weight decay for normalized weights.

    The output of a network does not depend on the length of weights that feed a
    normalization. So SGD with the rate `eta(t)`, the momentum `gamma` and the decay
    `lambda` trains the same functions, step for step, as SGD without decay and with

    `eta(t) * P(t) * P(t + 1)` and `gamma * P(t + 1) / P(t)` (`"decoupled"`)
    `eta(t) * P(t) * P(t + 1)` and `gamma / (a(t) * a(t + 1))` (`"l2"`)

    `P(0) = 1`, `P(t + 1) = P(t) / a(t + 1)`: the weights are `P` times as long.

    - `"decoupled"`: `a(t + 1) = 1 - lambda * eta(t)`
    - `"l2"`: `a(t + 1) = 1 - lambda * eta(t) + gamma * (1 - 1 / a(t))`, `a(0) = 1`

    A constant rate becomes an exponentially *growing* rate, ExpLR. A step decay becomes
    TEXP, the tapered exponential. Both runs start with a velocity of 0, as in Keras. So
    the first rates of `"l2"` differ a little from the exponential of the paper, which
    begins with the velocity `(1 - a) * weights`.

    The equivalence holds for SGD without `nesterov` and without clipping, on the same
    batches, if all weights that the optimizer trains feed a batch, layer or group
    normalization directly. These are the kernels of convolutions and dense layers, but
    not their biases, not the `gamma` and `beta` of a normalization, and not the last
    layer. Keep those fixed, or give them to another optimizer, with the rate and the
    decay that they had. The equivalence is exact if the normalization's `epsilon` is
    negligible compared with the variance to which it is added. Keras's default of 1e-3
    is not negligible.

    Args:
        schedule: The rates of the run with weight decay: a float or any schedule.
            Open lengths are bound to `num_steps`.
        weight_decay: The weight decay, >= 0: `SGD(weight_decay=)` for `"decoupled"`,
            and twice the factor of `keras.regularizers.L2` for `"l2"`.
        num_steps: The steps of the run, > 0, at most 2**22. The schedules are not valid
            for later steps.
        momentum: The momentum of the run with weight decay, in [0, 1).
        form: `"decoupled"` for `SGD(weight_decay=)`, which shrinks the weights; `"l2"`
            for a regularizer on each kernel, whose gradient goes through the velocity.
        start_step: The step of the run at which the schedules begin, if the weights and
            the velocities have been divided by `P` at that step.

    Returns:
        `(learning_rate, momentum)`, two schedules for `HyperparameterScheduler`,
        computed in float64 on the host. Without momentum, the first one is enough.

    Raises:
        ValueError: If an argument is out of range. If no such schedules exist, because
            `weight_decay * schedule(t)` is not below `1 - momentum` (`"decoupled"`), or
            is above `(1 - sqrt(momentum))**2` (`"l2"`). If a rate is too large for a
            float32: then the message says from which step on, and how to train in
            stages.
        TypeError: If an argument has the wrong type.

    Example:
        >>> rate, momentum = without_weight_decay(0.1, 5e-4, 10_000, momentum=0.9)
        >>> [round(float(rate(step)), 4) for step in (0, 1, 9_999)]
        [0.1, 0.1, 0.2718]
        >>> round(float(momentum(0)), 6)
        0.900045

    Reference: Li and Arora, "An Exponential Learning Rate Schedule for Deep Learning",
    2019, arXiv:1910.07454, theorems 1 and 2, for Keras's SGD, whose velocity holds the
    rate.
    """
    num_steps = fields.count("num_steps", num_steps, 1, MOST_STEPS)
    start_step = fields.count("start_step", start_step, 0)
    if start_step >= num_steps:
        fields.refuse("start_step", f"be < num_steps={num_steps}", start_step)
    if (decay := fields.real("weight_decay", weight_decay)) < 0.0:
        fields.refuse("weight_decay", "be >= 0", weight_decay)
    if not 0.0 <= (gamma := fields.real("momentum", momentum)) < 1.0:
        fields.refuse("momentum", "be in [0, 1)", momentum)
    fields.one_of("form", form, FORMS)
    rates = _rates(schedule, num_steps)
    _check_decay(decay, rates, gamma, form)

    factors = _factors(decay * rates, gamma, form)
    log_growth = np.concatenate([[0.0], np.cumsum(-np.log(factors[1:]))])
    log_growth -= log_growth[start_step]
    factors, rates = factors[start_step:], rates[start_step:]
    log_growth = log_growth[start_step:]
    with np.errstate(divide="ignore"):
        log_rates = np.log(rates) + log_growth[:-1] + log_growth[1:]
    _check_overflow(log_rates, log_growth, start_step)
    momenta = gamma / factors[1:]
    if form == "l2":
        momenta /= factors[:-1]
    starts = _starts_of_runs(rates, factors)
    return _growing(starts, rates, log_rates), _staircase(momenta)


def _rates(schedule, num_steps):
    """Returns the float64 rates of the run with weight decay."""
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        schedule = Constant(fields.validate("schedule", schedule, fields.rate()))
    schedule = base.bind_to_steps("schedule", schedule, num_steps)
    return np.array(base.evaluate(schedule, np.arange(num_steps)))


def _check_decay(weight_decay, rates, momentum, form):
    if form == "decoupled":
        limit, bound = 1.0 - momentum, "below 1 - momentum"
    else:
        limit, bound = (1.0 - math.sqrt(momentum)) ** 2, "<= (1 - sqrt(momentum))**2"
    decay = weight_decay * rates
    # Exactly at the limit, the factors of `"l2"` stay positive if there is a momentum.
    at_limit = form == "l2" and momentum > 0.0
    bad = decay > limit if at_limit else decay >= limit
    if bad.any():
        step = int(np.argmax(bad))
        raise ValueError(
            f"Argument `weight_decay` times the rate must be {bound} = {limit:.6g} for "
            f"form={form!r}: beyond it, no run without weight decay is equivalent. "
            f"Received: weight_decay={weight_decay!r}, {rates[step]:.6g} at step {step}"
        )


def _factors(decay, momentum, form):
    """Returns `a(0)`, `a(1)`, ..., one more than there are steps."""
    factors = np.concatenate([[1.0], 1.0 - decay])
    if form == "l2" and momentum > 0.0:
        for step in range(len(decay)):
            factors[step + 1] += momentum * (1.0 - 1.0 / factors[step])
    return factors


def _check_overflow(log_rates, log_growth, start_step):
    too_large = log_rates > math.log(numerics.LARGEST)
    if not too_large.any():
        return
    first = int(np.argmax(too_large))
    stop = max(first // 2, 1)
    raise ValueError(
        f"The learning rate is too large for a float32 from step {start_step + first} "
        f"on. Train in stages: for `num_steps={start_step + stop}` first; then divide "
        f"the weights and their velocities by {math.exp(log_growth[stop]):.9g}, which "
        "does not change the function, and continue with "
        f"`start_step={start_step + stop}`."
    )


def _starts_of_runs(rates, factors):
    """Returns the steps at which the rate or the factor, and so the growth, changes."""
    changes = (np.diff(rates) != 0.0) | (np.diff(factors[1:]) != 0.0)
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def _growing(starts, rates, log_rates):
    """Makes a schedule through `exp(log_rates)`, geometric between the starts."""
    num_steps = len(rates)
    values = np.exp(log_rates)
    if num_steps == 1 or not rates.any():
        return Constant(values[0])
    if len(starts) == 1:
        growth = math.expm1((log_rates[-1] - log_rates[0]) / (num_steps - 1))
        return ExponentialGrowth(values[0], max(growth, 0.0))
    if not rates.all():  # A logarithm cannot go through 0.
        return PiecewiseConstant(range(1, num_steps), values)
    ends = np.append(starts[1:], num_steps) - 1
    points = np.unique(np.concatenate([starts, ends]))
    return PiecewiseInterpolation(points, values[points], "exponential")


def _staircase(values: Any) -> Schedule:
    """Makes a schedule of values that are held until they change."""
    boundaries = np.flatnonzero(np.diff(values)) + 1
    if len(boundaries) == 0:
        return Constant(values[0])
    return PiecewiseConstant(boundaries, values[np.append(0, boundaries)])
