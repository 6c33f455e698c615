"""How often each schedule finishes among the first, over optimizers and budgets."""

import dataclasses

from claims.judging import POINTS, exceeds, resample
from claims.methods import (
    CONSTANT,
    EVERY_STEP,
    LATE_STEP,
    ONE_CYCLE,
    OURS,
    PROFILES,
    STEP,
    named,
)

# A finish among the first is what these are compared in.
EVERY_STEP_METHODS = (
    *(f"{profile}, {EVERY_STEP}" for profile in PROFILES),
    CONSTANT,
    STEP,
    LATE_STEP,
    ONE_CYCLE,
)
FIRSTS = 1, 3  # Places that count as a finish.
APART = 5  # Below this many percent finishes are not counted: each budget is apart.


def budgets_of(results):
    """Those that are judged together, in percent as they are written."""
    every = next(iter(results["optimizers"].values()))
    return [budget for budget in every if float(budget) >= APART]


def budgets_apart(results):
    """Those that are each judged alone."""
    every = next(iter(results["optimizers"].values()))
    return [budget for budget in every if float(budget) < APART]


def optimizers_with(results, methods):
    """Those that all of these methods were run with."""
    return [
        optimizer
        for optimizer, by_budget in results["optimizers"].items()
        if set(methods) <= set(next(iter(by_budget.values())))
    ]


def table_of(results, methods, column):
    """A score as an array of settings, methods and seeds."""
    import numpy as np

    found = [
        [[score[column] for score in by_method[name]["scores"]] for name in methods]
        for optimizer in optimizers_with(results, methods)
        for budget in budgets_of(results)
        for by_method in (results["optimizers"][optimizer][budget],)
    ]
    # A diverged training is the last.
    return np.nan_to_num(np.array(found, float), nan=np.inf)


def places(values):
    """How many methods are before each one, and how many equal it, by setting."""
    before = (values[:, None, :] < values[:, :, None]).sum(-1)
    equal = (values[:, None, :] == values[:, :, None]).sum(-1)
    return before, equal


def shares(before, equal, first):
    """The share of settings in which each method is among the first, in percent.

    Equal values share their places.

    Args:
        before: As of `places`.
        equal: The same.
        first: How many places.
    """
    import numpy as np

    return 100.0 * (np.clip(first - before, 0, equal) / equal).mean(0)


def finishes(results, methods, first, column=2):
    """Percent of the settings in which each is among the first, by the mean of seeds.

    A setting is an optimizer and a budget.

    Args:
        results: Those of `run`.
        methods: Between which.
        first: How many places count.
        column: Of the scores: 2 is the test error, 3 the test loss.
    """
    values = table_of(results, methods, column).mean(-1)
    found = shares(*places(values), first)
    return dict(zip(methods, found.tolist(), strict=True))


def leads(results, methods):
    """How much larger the share of REX is than that of each other, by places.

    The largest share of several is no comparison: among equal methods it is above that
    of REX in most of the draws.
    """
    import numpy as np

    values, ours = table_of(results, methods, 2), methods.index(OURS)

    def statistic(seeds):
        found = places(values[:, :, seeds].mean(-1))
        return np.array([shares(*found, first) for first in FIRSTS])

    every, drawn = resample(statistic, results["seeds"])

    def compared(number, other):
        gap, gaps = (
            found[..., number, ours] - found[..., number, other]
            for found in (every, drawn)
        )
        one = exceeds(named(methods[other]), gap, gaps, 0.0, POINTS, 1)
        by = f"{every[number, ours]:.1f} % against {every[number, other]:.1f} %"
        return dataclasses.replace(one, by=f"{by}, {one.by}")

    others = [index for index in range(len(methods)) if index != ours]
    return {
        first: [compared(number, other) for other in others]
        for number, first in enumerate(FIRSTS)
    }


def present(results, names):
    methods = methods_of(results)
    return [name for name in names if name in methods]


def methods_of(results):
    by_budget = next(iter(results["optimizers"].values()))
    return list(next(iter(by_budget.values())))


def count_settings(results, methods):
    """How many settings these methods were run in."""
    return len(budgets_of(results)) * len(optimizers_with(results, methods))
