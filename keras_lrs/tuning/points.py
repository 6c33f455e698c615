"""The points of a sweep: where it searches, and where it searches next."""

from typing import Any

import numpy as np

from keras_lrs.tuning.results import Sweep

Ranges = dict[str, tuple[float, float]]


def points(
    optuna: Any, search: str, ranges: Ranges, tried: Sweep, count: int, seed: int | None
) -> list[dict[str, float]]:
    """Lists parameters to try: a grid without what has been tried, or random draws."""
    if search == "grid":
        ((name, (low, high)),) = ranges.items()
        known = {trial.parameters[name] for trial in tried.trials}
        values = np.geomspace(low, high, count + len(known & {low, high})).tolist()
        values[0], values[-1] = low, high
        return [{name: value} for value in values if value not in known]
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(sampler=sampler)
    log_range = optuna.distributions.FloatDistribution
    space = {name: log_range(*ends, log=True) for name, ends in ranges.items()}
    return [study.ask(space).params for _ in range(count)]


def beyond(result: Sweep, ranges: Ranges, share: float) -> Ranges:
    """Returns where to search next: past the edges, by a share of `ranges`."""
    part = dict(result.ranges)
    for name, end in result.at_edge.items():
        (low, high), (first, last) = result.ranges[name], ranges[name]
        factor = (last / first) ** share
        part[name] = (low / factor, low) if end == "low" else (high, high * factor)
    return part
