"""S1d: a schedule is a profile times a sampling rate; which is best at which budget."""

import dataclasses
import statistics

import program

from claims.experiment import OVERVIEW, Experiment, Row
from claims.harness import ADAM, BATCH_SIZE, NETWORK, SGD, Trainer, grid_of
from claims.judging import (
    MARGIN,
    POINTS,
    RESAMPLES,
    Statement,
    bootstrap,
    difference,
    spread,
)

EPOCHS = 40
BUDGETS = (5, 10, 25, 50, 100)  # Percent of these epochs.

REX, LINEAR, COSINE = "REX", "linear", "cosine"
EXPONENTIAL, ONE_MINUS_SQRT = "exponential", "1 - sqrt"
PROFILES = (REX, LINEAR, COSINE, EXPONENTIAL, ONE_MINUS_SQRT)
EVERY_STEP = "every step"
CONSTANT, STEP, ONE_CYCLE = "constant", "step decay", "1cycle"
OURS = f"{REX}, {EVERY_STEP}"
# A finish among the first is what these are compared in.
EVERY_STEP_METHODS = (
    *(f"{profile}, {EVERY_STEP}" for profile in PROFILES),
    CONSTANT,
    STEP,
    ONE_CYCLE,
)


def make_methods():
    """A function from the rate to the schedule, by name. `fit` fills in the lengths."""
    from keras_lrs import Epochs, Fraction, schedules

    profiles = {
        REX: schedules.REXDecay,
        LINEAR: schedules.LinearDecay,
        COSINE: schedules.CosineAnnealing,
        # To a hundredth of the rate: it never reaches 0.
        EXPONENTIAL: lambda rate: schedules.BoundedExponentialDecay(
            rate, end_learning_rate=rate / 100.0
        ),
        ONE_MINUS_SQRT: schedules.OneMinusSqrtDecay,
    }
    samplings = {
        "every epoch": {"every": Epochs(1)},
        "10 %": {"every": Fraction(0.1)},
        "50 and 75 %": {"at": (Fraction(0.5), Fraction(0.75))},
    }

    def sampled(profile, when):
        return lambda rate: schedules.Sampled(profile(rate), **when)

    methods = {}
    for name, profile in profiles.items():
        methods[f"{name}, {EVERY_STEP}"] = profile
        for sampling, when in samplings.items():
            methods[f"{name}, {sampling}"] = sampled(profile, when)
    methods[CONSTANT] = schedules.Constant
    methods[STEP] = lambda rate: schedules.MultiStepDecay(
        rate, [Fraction(0.5), Fraction(0.75)]
    )
    methods[ONE_CYCLE] = schedules.OneCycle
    return methods


def run(size):
    """The chosen rates and the scores of all seeds, by optimizer, budget and method."""
    from tqdm import tqdm

    epochs = size.pick(EPOCHS, 4)
    budgets = size.pick(BUDGETS, (50, 100))
    seeds = size.seeds * size.pick(2, 1)
    methods = make_methods()
    if size.quick:
        quick = (*EVERY_STEP_METHODS[:2], f"{REX}, 10 %", STEP)
        methods = {name: methods[name] for name in quick}
    optimizers = size.pick((SGD, ADAM), (SGD,))
    found = {}
    total = len(optimizers) * len(budgets) * len(methods)
    with tqdm(total=total, unit="method") as progress:
        for optimizer in optimizers:
            trainer = Trainer(optimizer)
            found[optimizer] = {}
            for budget in budgets:
                found[optimizer][str(budget)] = {}
                for name, make_schedule in methods.items():
                    progress.set_description(f"{optimizer}, {budget} %, {name}")
                    found[optimizer][str(budget)][name] = trainer.run(
                        make_schedule, epochs * budget // 100, seeds
                    )
                    progress.update()
    return {"epochs": epochs, "seeds": seeds, "optimizers": found}


def setting(results):
    optimizers = results["optimizers"]
    budgets = list(next(iter(optimizers.values())))
    grids = "; ".join(f"with {name} {grid_of(name)}" for name in optimizers)
    short = [b for b in budgets if results["epochs"] * int(b) == 1000]
    total = results["epochs"] * 640 // BATCH_SIZE
    return (
        f"{NETWORK}. Optimizers: {' and '.join(optimizers)}. A "
        f"full training has {results['epochs']} epochs ({total} steps); budgets are "
        f"{', '.join(budgets)} % of it, and every schedule is as long as its training. "
        f"{results['seeds']} seeds. "
        f"Each method has, at each budget, {grids}."
        + "".join(f" At {b} %, every epoch is every 10 %." for b in short)
    )


def table_of(results, methods, column):
    """A score as an array of settings, methods and seeds."""
    import numpy as np

    found = [
        [[score[column] for score in by_method[name]["scores"]] for name in methods]
        for by_budget in results["optimizers"].values()
        for by_method in by_budget.values()
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


def errors(results, name, optimizer=None, budget=None):
    """The mean test errors over the chosen settings, by seed."""
    by_seed = [
        [score[2] for score in by_method[name]["scores"]]
        for its_optimizer, by_budget in results["optimizers"].items()
        for its_budget, by_method in by_budget.items()
        if optimizer in (None, its_optimizer) and budget in (None, its_budget)
    ]
    return [statistics.mean(found) for found in zip(*by_seed, strict=True)]


def judge(results):
    every = methods_of(results)
    for names, among in (
        (present(results, EVERY_STEP_METHODS), "all that people choose from"),
        (every, "all profiles and sampling rates"),
    ):
        for first in (1, 3):
            found = finishes(results, names, first)
            others = [name for name in names if name != OURS]
            best = max(others, key=found.get)
            chance = 100.0 * min(1.0, first / len(names))
            one = bootstrap(
                "", lead(results, names, first), results["seeds"], 0.0, POINTS, 1
            )
            by = (
                f"REX {found[OURS]:.1f} % of the settings; the most of the others: "
                f"{best}, {found[best]:.1f} %; by chance {chance:.1f} %; difference: "
                f"{one.by}"
            )
            yield Statement(
                f"REX at every step has the most top-{first} finishes among {among} "
                f"({len(names)})",
                dataclasses.replace(one, by=by),
            )
    ours = errors(results, OURS)
    others = [name for name in every if name != OURS]
    for what, margin in (
        ("has a lower mean error than", 0.0),
        (f"has a mean error less than {MARGIN:g} points above that of", MARGIN),
    ):
        yield Statement(
            f"REX at every step {what} each of the {len(others)} others",
            *(difference(n, ours, errors(results, n), margin, sign=-1) for n in others),
        )
    rarer = [n for n in every if "," in n and not n.endswith(EVERY_STEP)]
    yield Statement(
        f"every step is better than each of the {len(rarer)} rarer samplings of the "
        "same profile",
        *(
            difference(
                name,
                errors(results, f"{name.partition(',')[0]}, {EVERY_STEP}"),
                errors(results, name),
                sign=-1.0,
            )
            for name in rarer
        ),
    )


def tables(results):
    budgets = list(next(iter(results["optimizers"].values())))
    every = methods_of(results)
    methods = present(results, EVERY_STEP_METHODS)
    number = len(budgets) * len(results["optimizers"])
    yield f"Finishes among the first, in percent of the {number} settings (optimizer"
    yield f"and budget), by the mean of {results['seeds']} seeds, of the test error and"
    yield "of the test loss; equal means share their places. Among the schedules that"
    yield "people choose from:"
    yield ""
    yield from shares_table(results, methods)
    yield ""
    yield "Among all profiles and sampling rates:"
    yield ""
    yield from shares_table(results, every)
    for optimizer in results["optimizers"]:
        yield ""
        yield f"Mean test error (%) with {optimizer}, by budget (in parentheses: the"
        yield "rate chosen on the data held out), ± the standard deviation over seeds:"
        yield ""
        rows = []
        for name in every:
            cells = [name]
            for budget in budgets:
                rate = results["optimizers"][optimizer][budget][name]["rate"]
                found = errors(results, name, optimizer, budget)
                cells.append(f"{spread(found)} ({rate:g})")
            rows.append(cells)
        yield from program.table(["method", *(f"{b} %" for b in budgets)], rows)
    yield ""
    yield edges(results)
    yield ""
    yield "How much higher the test error is than that of REX at every step, mean over"
    yield "the optimizers, ± half the 95 % interval of the difference within seeds:"
    yield ""
    rows = []
    for name in every:
        if name != OURS:
            gaps = [
                difference(
                    "", errors(results, name, None, b), errors(results, OURS, None, b)
                )
                for b in (*budgets, None)
            ]
            rows.append([name, *(gap.by.removesuffix(f" {POINTS}") for gap in gaps)])
    header = ["method", *(f"{b} %" for b in budgets), "all budgets"]
    yield from program.table(header, rows)


def edges(results):
    """How often the best rate was the last one tried: a better one may lie beyond."""
    found = [
        one
        for by_budget in results["optimizers"].values()
        for by_method in by_budget.values()
        for one in by_method.values()
    ]
    at = 0
    for one in found:
        tried = [float(rate) for rate in one["errors held out"]]
        at += one["rate"] in (min(tried), max(tried))
    return f"{at} of the {len(found)} rates are at an edge of what was tried."


def shares_table(results, methods):
    columns = [
        finishes(results, methods, first, column)
        for column in (2, 3)
        for first in (1, 3)
    ]
    order = sorted(methods, key=lambda name: -columns[0][name])
    header = ["method", "top 1, error", "top 3, error", "top 1, loss", "top 3, loss"]
    rows = [[n, *(f"{column[n]:.1f}" for column in columns)] for n in order]
    return program.table(header, rows)


def draw(results, path):
    """Errors against REX by budget, and finishes, of those that people choose from."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

    methods = present(results, EVERY_STEP_METHODS)
    optimizers = list(results["optimizers"])
    budgets = list(results["optimizers"][optimizers[0]])
    figure = Figure(figsize=(6.0 * (len(optimizers) + 1), 5.0), layout="constrained")
    *panels, right = figure.subplots(1, len(optimizers) + 1)
    for panel, optimizer in zip(panels, optimizers, strict=True):
        for number, name in enumerate(methods):
            runs = np.array([errors(results, name, optimizer, b) for b in budgets])
            panel.errorbar(
                np.array(budgets, float) * 1.03 ** (number - len(methods) / 2),
                runs.mean(1),
                runs.std(1),
                fmt=f"C{number}o-",
                linewidth=2.5 if name == OURS else 1.0,
                markersize=3,
                capsize=2,
                label=name,
            )
        panel.set(xscale="log", yscale="log", title=optimizer)
        panel.set(xlabel="budget (% of a full training)", ylabel="test error (%)")
        panel.set_xticks([float(b) for b in budgets], labels=budgets)
        panel.yaxis.set_major_locator(FixedLocator([5, 6, 7, 8, 10, 15, 20, 30, 50]))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    places = np.arange(len(methods))
    for first, offset in ((1, 0.2), (3, -0.2)):
        found = finishes(results, methods, first)
        right.barh(
            places + offset,
            [found[name] for name in methods],
            0.4,
            label=f"top {first}",
        )
    right.set_yticks(places, labels=methods)
    right.invert_yaxis()
    right.set(xlabel="finishes, % of the settings, by the test error")
    right.legend()
    figure.savefig(path)


EXPERIMENT = Experiment(
    "budgets",
    (
        Row(
            "Profiles and sampling rates across budgets",
            OVERVIEW,
            "A schedule is a profile times a sampling rate; REX at every step is the "
            "best across budgets.",
            "Finishes are counted over all settings, by the mean test error of the "
            "seeds. The interval of a difference of shares is that of seeds drawn with "
            f"replacement ({RESAMPLES:,} times). Mean errors are those over optimizers "
            "and budgets, of each seed.",
            judge,
            tables,
            "Chen, Wolfe, Kyrillidis, REX, 2021, arXiv:2107.04197",
        ),
    ),
    run,
    setting,
    draw,
)
