"""The points that a sweep tries, and the ranges that it tries next."""

import itertools
from typing import Any

import numpy as np

from keras_lrs.tuning.results import Sweep

Ranges = dict[str, tuple[float, float]]


def points(
    optuna: Any, search: str, ranges: Ranges, tried: Sweep, count: int, seed: int | None
) -> list[dict[str, float]]:
    """Lists points to try: those of a grid that have not been tried, or random ones.

    For a grid, `count` is the number of new values of each parameter that is extended.
    """
    if search == "grid":
        values = [_values(ends, tried, name, count) for name, ends in ranges.items()]
        known = [trial.parameters for trial in tried.trials]
        found = (
            dict(zip(ranges, point, strict=True))
            for point in itertools.product(*values)
        )
        return [point for point in found if point not in known]
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(sampler=sampler)
    log_range = optuna.distributions.FloatDistribution
    space = {name: log_range(*ends, log=True) for name, ends in ranges.items()}
    return [study.ask(space).params for _ in range(count)]


def _values(ends, tried, name, count):
    """Lists the values of one parameter in a grid: its old ones, or `count` new ones.

    If a range begins at an edge that has been tried, that value is included as well,
    because it has not been tried together with the new values of other parameters.
    """
    known = {trial.parameters[name] for trial in tried.trials}
    if known and ends == tried.ranges[name]:
        return sorted(known)
    low, high = ends
    values = np.geomspace(low, high, count + len(known & {low, high})).tolist()
    values[0], values[-1] = low, high
    return values


def beyond(result: Sweep, ranges: Ranges, share: float) -> Ranges:
    """Returns the ranges to search next: beyond the edges, by a share of `ranges`."""
    part = dict(result.ranges)
    for name, end in result.at_edge.items():
        (low, high), (first, last) = result.ranges[name], ranges[name]
        factor = (last / first) ** share
        part[name] = (low / factor, low) if end == "low" else (high, high * factor)
    return part
