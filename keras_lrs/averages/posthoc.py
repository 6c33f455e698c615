"""Coefficients that combine averages of some widths into one of any other width."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lrs.averages import schedules
from keras_lrs.schedules import fields


def posthoc_coefficients(
    steps: Sequence[int],
    sigma_rels: Sequence[float],
    step: int,
    sigma_rel: float,
) -> np.ndarray:
    """Computes the coefficients that combine stored averages into another one.

    Args:
        steps: The number of updates before each snapshot, > 0.
        sigma_rels: The relative width of each snapshot's `PowerFunctionAverage`.
        step: The number of updates before the wanted average, > 0. Later snapshots get
            the coefficient 0.
        sigma_rel: The relative width of the wanted average.

    Returns:
        One float64 coefficient per snapshot; their sum is 1. Some may be negative.

    Raises:
        ValueError: If the lists differ in length, if no snapshot is early enough, if
            two snapshots are the same, or if a value is out of range.

    Example:
        >>> steps, sigmas = [100, 100, 200, 200], [0.05, 0.1, 0.05, 0.1]
        >>> coefficients = posthoc_coefficients(steps, sigmas, 200, 0.1)
        >>> (coefficients.round(6) + 0.0).tolist()  # A solver's zeros may be -0.0.
        [0.0, 0.0, 0.0, 1.0]

    Reference: Karras et al., "Analyzing and Improving the Training Dynamics of
    Diffusion Models", 2024, arXiv:2312.02696, algorithm 3.
    """
    steps = fields.items("steps", steps)
    sigma_rels = fields.items("sigma_rels", sigma_rels)
    if len(steps) != len(sigma_rels):
        bound = f"have as many elements as `steps`: {len(steps)}"
        fields.refuse("sigma_rels", bound, sigma_rels)
    stored_times = np.array([fields.count("steps", s, 1) for s in steps], np.float64)
    stored = np.array(
        [power_function("sigma_rels", sigma).gamma for sigma in sigma_rels]
    )
    time = fields.count("step", step, 1)
    wanted = power_function("sigma_rel", sigma_rel).gamma
    if len(set(zip(stored_times, stored, strict=True))) < len(stored):
        fields.refuse("steps", "not name one snapshot twice", list(steps))
    early = stored_times <= time
    if not early.any():
        fields.refuse("step", f"be >= {min(steps, default=1)}", step)
    times, exponents = stored_times[early], stored[early]
    products = _product(
        times[:, None], exponents[:, None], times[None, :], exponents[None, :]
    )
    # The coefficients of a later average are the same, but its products may be 0.
    right = _product(times, exponents, times.max(), wanted)
    found = np.linalg.solve(products, right)
    coefficients = np.zeros(len(stored))
    coefficients[early] = found / found.sum()
    return coefficients


def power_function(name: str, sigma_rel: Any) -> schedules.PowerFunctionAverage:
    """Returns the average of a width; errors name the caller's argument."""
    try:
        return schedules.PowerFunctionAverage(sigma_rel)
    except (ValueError, TypeError) as error:
        raise type(error)(str(error).replace("sigma_rel", name)) from None


def _product(time_a, gamma_a, time_b, gamma_b) -> Any:
    """The inner product of two profiles `(gamma + 1) * s**gamma / t**(gamma + 1)`."""
    earlier = np.where(time_a < time_b, gamma_b, -gamma_a)
    ratio = (time_a / time_b) ** earlier
    scale = (gamma_a + 1.0) * (gamma_b + 1.0)
    return scale * ratio / ((gamma_a + gamma_b + 1.0) * np.maximum(time_a, time_b))
