"""Schedules that are computed from the gradient norms of an earlier run."""

from collections.abc import Sequence

import numpy as np

from keras_lrs.schedules import fields
from keras_lrs.schedules.piecewise import PiecewiseInterpolation


def refined_from_gradient_norms(
    norms: Sequence[float] | np.ndarray,
    learning_rate: float = 1.0,
    total_steps: int | None = None,
    *,
    smoothing: float = 0.1,
    power: float = 2.0,
) -> PiecewiseInterpolation:
    """Computes the schedule with the lowest bound on the loss, from a run's norms.

    `w_t = norm_t**-power`; `rate_t` is proportional to `w_t * sum(w_p for p > t)`, its
    largest value is `learning_rate` and its last is 0. Constant norms give linear
    decay, and norms that are large at first give a warmup.

    Use it to repeat a training run with a schedule that suits it. Record the norms of
    the first run with `keras_lrs.callbacks.GradientNormRecorder`.

    Args:
        norms: The norms of a run's gradients, in order, > 0; at least 2. If only every
            n-th update was recorded, the rates between are interpolated.
        learning_rate: The largest rate, >= 2**-126. Tune it again.
        total_steps: The number of steps of the schedule, >= 2, over which the norms are
            spread evenly. None is the number of norms.
        smoothing: The width of the median filter that smooths the norms, as a fraction
            of their number, in [0, 1]; 0 does not smooth.
        power: 2 for SGD, with Euclidean norms; 1 for Adam, with sums of absolute values
            from `GradientNormRecorder(order=1)`.

    Returns:
        A `PiecewiseInterpolation` that has exactly the value of the formula at every
        norm.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = refined_from_gradient_norms([1.0] * 5)
        >>> [round(float(schedule(step)), 4) for step in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> norms = [4, 2, 1, 1, 1, 1, 1, 1, 1, 2]
        >>> schedule = refined_from_gradient_norms(norms, smoothing=0)
        >>> schedule.curve(10).round(3).tolist()
        [0.075, 0.29, 1.0, 0.84, 0.68, 0.52, 0.36, 0.2, 0.04, 0.0]

    Reference: Defazio, Cutkosky, Mehta, Mishchenko, "When, Why and How Much? Adaptive
    Learning Rate Scheduling by Refinement", 2023, arXiv:2310.07831, algorithm 1.
    """
    given = np.array(
        [fields.real("norms", norm) for norm in fields.items("norms", norms)]
    )
    if len(given) < 2:
        fields.refuse("norms", "have at least two elements", norms)
    if not (given > 0.0).all():
        fields.refuse("norms", "be > 0", float(given.min()))
    peak = fields.validate("learning_rate", learning_rate, fields.rate(positive=True))
    if total_steps is None:
        total_steps = len(given)
    steps = fields.validate(
        "total_steps", total_steps, fields.integer(at_least=2, at_most=fields.LONGEST)
    )
    share = fields.validate(
        "smoothing", smoothing, fields.number(at_least=0.0, at_most=1.0)
    )
    power = fields.validate("power", power, fields.number(above=0.0))

    # Uses ratios to the smallest norm, because the scale of the norms cancels.
    weights = (_median(given, share) / given.min()) ** -power
    later = np.cumsum(weights[::-1])[::-1] - weights
    later[-1] = 0.0
    rates = weights * later
    if not rates.max() > 0.0:
        bound = f"differ less for `power={power:g}`: all weights but one are 0"
        fields.refuse("norms", bound, given.tolist())
    rates = peak * rates / rates.max()
    positions = np.linspace(0, steps - 1, len(rates))
    if steps < len(rates):  # Two norms cannot share a step.
        rates = np.interp(np.arange(steps), positions, rates)
        positions = np.arange(steps)
    places = np.floor(positions + 0.5).astype(int)
    return PiecewiseInterpolation(tuple(places.tolist()), tuple(rates.tolist()))


def _median(norms, share):
    """Median-filters norms, reflected at the end and held at the beginning."""
    half = int(share * len(norms)) // 2
    if half == 0:
        return norms
    width = 2 * half + 1
    # A reflection longer than the norms goes back and forth.
    padded = np.pad(norms, (0, half), mode="reflect")
    padded = np.pad(padded, (half, 0), mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
