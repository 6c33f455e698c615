"""How often each schedule finishes among the first, over optimizers and budgets."""

from claims.methods import (
    CONSTANT,
    EVERY_STEP,
    LATE_STEP,
    ONE_CYCLE,
    OURS,
    PROFILES,
    STEP,
)

# A finish among the first is what these are compared in.
EVERY_STEP_METHODS = (
    *(f"{profile}, {EVERY_STEP}" for profile in PROFILES),
    CONSTANT,
    STEP,
    LATE_STEP,
    ONE_CYCLE,
)
APART = 5  # Budgets below this many percent are in the tables, and not judged.


def budgets_of(results):
    """Those that are judged, in percent as they are written."""
    every = next(iter(results["optimizers"].values()))
    return [budget for budget in every if float(budget) >= APART]


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


def shares(values, first):
    """The share of settings in which each method is among the first, in percent.

    Equal values share their places.

    Args:
        values: An array of settings and methods; the least is the first.
        first: How many places.
    """
    import numpy as np

    before = (values[:, None, :] < values[:, :, None]).sum(-1)
    equal = (values[:, None, :] == values[:, :, None]).sum(-1)
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
    found = shares(table_of(results, methods, column).mean(-1), first)
    return dict(zip(methods, found.tolist(), strict=True))


def lead(results, methods, first):
    """How much larger the share of REX is than the largest of the others."""
    import numpy as np

    values = table_of(results, methods, 2)
    ours = methods.index(OURS)
    others = np.arange(len(methods)) != ours

    def statistic(seeds):
        found = shares(values[:, :, seeds].mean(-1), first)
        return found[ours] - found[others].max()

    return statistic


def present(results, names):
    methods = methods_of(results)
    return [name for name in names if name in methods]


def methods_of(results):
    by_budget = next(iter(results["optimizers"].values()))
    return list(next(iter(by_budget.values())))


def count_settings(results, methods):
    """How many settings these methods were run in."""
    return len(budgets_of(results)) * len(optimizers_with(results, methods))
