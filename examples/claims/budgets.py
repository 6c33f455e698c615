"""A schedule is a profile times a sampling rate; which is best at which budget."""

import statistics

import program

from claims import regime
from claims.experiment import OVERVIEW, TUTORIAL, Experiment, Row
from claims.finishes import (
    APART,
    EVERY_STEP_METHODS,
    FIRSTS,
    budgets_apart,
    budgets_of,
    count_settings,
    finishes,
    leads,
    methods_of,
    optimizers_with,
    present,
)
from claims.harness import grid_words, measured, words_of
from claims.judging import MARGIN, RESAMPLES, Statement, difference, spread
from claims.methods import (
    CONSTANT,
    EVERY_STEP,
    LATE_STEP,
    LINEAR,
    ONE_CYCLE,
    OURS,
    PROFILE_WORDS,
    REX,
    STEP,
    named,
    sampled,
)
from claims.regime import ADAM, SGD

LOW, HIGH = (5, 10), (50, 100)


def grid(size):
    """Methods by optimizer, and budgets."""
    names = [*sampled(), CONSTANT, STEP, LATE_STEP, ONE_CYCLE]
    quick = [*EVERY_STEP_METHODS[:2], f"{REX}, 10 %", CONSTANT, STEP]
    by_optimizer = {SGD: names, ADAM: list(EVERY_STEP_METHODS)}
    budgets = size.pick(regime.BUDGETS, (25, 50, 100))
    return size.pick(by_optimizer, {SGD: quick}), budgets


def epochs_of(budget, size):
    return round(size.pick(regime.EPOCHS, 8) * budget / 100)


def jobs(size):
    by_optimizer, budgets = grid(size)
    return {
        (optimizer, budget, name): measured(
            name, epochs_of(budget, size), size, optimizer
        )
        for optimizer, names in by_optimizer.items()
        for budget in budgets
        for name in names
    }


def collect(found, size):
    """The chosen rates and the scores of all seeds, by optimizer, budget and method."""
    by_optimizer, budgets = grid(size)
    return {
        "epochs": epochs_of(100, size),
        "seeds": size.seeds,
        "optimizers": {
            optimizer: {
                f"{budget:g}": {name: found[optimizer, budget, name] for name in names}
                for budget in budgets
            }
            for optimizer, names in by_optimizer.items()
        },
    }


def setting(results, data):
    optimizers = results["optimizers"]
    budgets = list(next(iter(optimizers.values())))
    return (
        f"{words_of(data)} Optimizers: {' and '.join(optimizers)}. A whole run has "
        f"{results['epochs']} epochs; budgets are {', '.join(budgets)} % of it, and "
        f"every schedule is as long as its run. {results['seeds']} seeds. "
        f"{PROFILE_WORDS} At each "
        f"budget, each method uses {grid_words(data, *optimizers)}."
    )


def errors(results, name, optimizers, budgets=None):
    """The mean test errors of a method over the chosen settings, by seed."""
    budgets = budgets_of(results) if budgets is None else budgets
    by_seed = [
        [score[2] for score in results["optimizers"][optimizer][budget][name]["scores"]]
        for optimizer in optimizers
        for budget in budgets
    ]
    return [statistics.mean(found) for found in zip(*by_seed, strict=True)]


def compared(results, name, other, what="", budgets=None, **options):
    """The difference of two methods, over the optimizers that both were run with."""
    both = optimizers_with(results, (name, other))
    return difference(
        what,
        *(errors(results, one, both, budgets) for one in (name, other)),
        **options,
    )


def judge(results):
    every = methods_of(results)
    for names, among in (
        (present(results, EVERY_STEP_METHODS), "the common schedules"),
        (every, "all methods"),
    ):
        for first, comparisons in leads(results, names).items():
            yield Statement(
                f"REX at every step has the most top-{first} finishes among {among} "
                f"({len(names)})",
                *comparisons,
            )
    others = [name for name in every if name != OURS]

    def all_compared(text, names=others, **options):
        return Statement(
            f"REX at every step {text}",
            *(
                compared(results, OURS, name, named(name), sign=-1, **options)
                for name in names
            ),
        )

    number = len(others)
    yield all_compared(f"has a lower mean error than each of the {number} others")
    yield all_compared(
        f"has a mean error less than {MARGIN:g} points above that of each of the "
        f"{number} others",
        margin=MARGIN,
    )
    for budgets in (LOW, HIGH):
        chosen = [each for each in budgets_of(results) if float(each) in budgets]
        for name in (f"{LINEAR}, {EVERY_STEP}", STEP) if chosen else ():
            yield all_compared(
                f"has a lower mean error at {' and '.join(chosen)} % of the epochs "
                f"than {named(name)}",
                [name],
                budgets=chosen,
            )
    for budget in budgets_apart(results):
        yield all_compared(
            f"has a lower mean error at {budget} % of the epochs than each of the "
            f"{number} others",
            budgets=[budget],
        )
    rarer = [n for n in every if n.startswith(f"{REX}, ") and n != OURS]
    yield all_compared(
        f"is better than each of the {len(rarer)} rarer samplings of REX", rarer
    )


def judge_small(results):
    linear = f"{LINEAR}, {EVERY_STEP}"
    for optimizer, by_budget in results["optimizers"].items():
        for budget in by_budget:
            yield Statement(
                f"with {short(optimizer)}, decay helps at {budget} % of the epochs",
                difference(
                    "",
                    *(
                        errors(results, name, [optimizer], [budget])
                        for name in (linear, CONSTANT)
                    ),
                    sign=-1,
                ),
            )


def tables(results):
    budgets = list(next(iter(results["optimizers"].values())))
    every = methods_of(results)
    methods = present(results, EVERY_STEP_METHODS)
    yield "How often each schedule came first or among the first three, in percent of"
    yield f"the settings (optimizer and budget, from {APART} % on), by mean test error"
    yield f"and mean test loss over {results['seeds']} seeds; ties share their places."
    yield from shares_table(results, methods, "The common schedules")
    yield ""
    yield from shares_table(results, every, "All methods")
    for optimizer, by_budget in results["optimizers"].items():
        yield ""
        yield f"Mean test error (%) with {optimizer}, by budget (in parentheses: the"
        yield "rate chosen on the held-out data), ± the standard deviation over seeds:"
        yield ""
        rows = []
        for name in by_budget[budgets[0]]:
            cells = [named(name)]
            for budget in budgets:
                rate = by_budget[budget][name]["rate"]
                found = errors(results, name, [optimizer], [budget])
                cells.append(f"{spread(found)} ({rate:g})")
            rows.append(cells)
        yield from program.table(["method", *(f"{b} %" for b in budgets)], rows)
    yield ""
    yield edges(results)
    yield ""
    yield "How much higher the test error is than that of REX at every step, mean over"
    yield "the optimizers that both methods were run with, ± half the 95 % interval of"
    yield "the difference within seeds:"
    yield ""
    rows, halves = [], []
    chosen = (*([budget] for budget in budgets), None)
    for name in every:
        if name != OURS:
            gaps = [
                compared(results, name, OURS, budgets=one, unit="") for one in chosen
            ]
            rows.append([with_optimizers(results, name), *(gap.by for gap in gaps)])
            halves.append([(gap.high - gap.low) / 2 for gap in gaps])
    medians = [statistics.median(column) for column in zip(*halves, strict=True)]
    rows.append(["half an interval, median", *(f"{half:.2f}" for half in medians)])
    header = ["method", *(f"{b} %" for b in budgets), f"all from {APART} % on"]
    yield from program.table(header, rows)


def with_optimizers(results, name):
    """A method, and which optimizers it was run with if these are not all."""
    both = optimizers_with(results, (name, OURS))
    if len(both) == len(results["optimizers"]):
        return named(name)
    return f"{named(name)} ({' and '.join(map(short, both))} only)"


def short(optimizer):
    """Its name without its momentum and weight decay."""
    return optimizer.partition(" ")[0]


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


def shares_table(results, methods, what):
    number = count_settings(results, methods)
    optimizers = " and ".join(map(short, optimizers_with(results, methods)))
    chance = (100.0 * min(1.0, first / len(methods)) for first in FIRSTS)
    one, three = (f"{share:.1f} %" for share in chance)
    yield f"{what}, in {number} settings with {optimizers} (by chance, each"
    yield f"of the {len(methods)} would be first in {one} of them, and among the first"
    yield f"three in {three}):"
    yield ""
    columns = [
        finishes(results, methods, first, column)
        for column in (2, 3)
        for first in FIRSTS
    ]
    order = sorted(methods, key=lambda name: -columns[0][name])
    header = ["method", "top 1, error", "top 3, error", "top 1, loss", "top 3, loss"]
    rows = [[named(n), *(f"{column[n]:.1f}" for column in columns)] for n in order]
    yield from program.table(header, rows)


def draw(results, path):
    """Errors above that of REX by budget, and finishes, of the common schedules."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    methods = present(results, EVERY_STEP_METHODS)
    optimizers = optimizers_with(results, methods)
    budgets = list(results["optimizers"][optimizers[0]])
    # One above the other, so that they can be read at the width of a page.
    figure = Figure(figsize=(9.0, 4.5 * (len(optimizers) + 1)), layout="constrained")
    *panels, last = figure.subplots(len(optimizers) + 1, 1)
    for panel, optimizer in zip(panels, optimizers, strict=True):
        for number, name in enumerate(methods):
            if name == OURS:
                panel.axhline(0.0, color="black", linewidth=2.0, label=name)
                continue
            gaps = [
                difference(
                    "", *(errors(results, n, [optimizer], [b]) for n in (name, OURS))
                )
                for b in budgets
            ]
            panel.errorbar(
                np.array(budgets, float),
                [gap.mean for gap in gaps],
                [gap.high - gap.mean for gap in gaps],
                fmt=f"C{number}o-",
                linewidth=1.0,
                markersize=3,
                capsize=2,
                label=named(name),
            )
        # Linear between -1 and 1, where most of the differences are.
        panel.set_yscale("symlog", linthresh=1.0)
        panel.set(xscale="log", title=optimizer, xlabel="budget (% of a whole run)")
        panel.set(ylabel="test error above that of REX (points)")
        panel.set_xticks([float(b) for b in budgets], labels=budgets)
        ticks = [sign * n for sign in (-1, 1) for n in (1, 2, 5, 10, 20, 50)]
        panel.yaxis.set_major_locator(FixedLocator([0, *ticks]))
        panel.yaxis.set_major_formatter(lambda x, _: f"{x:+g}" if x else "0")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", fontsize="small", ncols=3)
    places = np.arange(len(methods))
    for first, offset in zip(FIRSTS, (0.2, -0.2), strict=True):
        found = finishes(results, methods, first)
        last.barh(
            places + offset,
            [found[name] for name in methods],
            0.4,
            label=f"top {first}",
        )
    last.set_yticks(places, labels=[named(name) for name in methods])
    last.invert_yaxis()
    last.set(xlabel="finishes, % of the settings, by the test error")
    last.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "budgets",
    (
        Row(
            "Profiles and sampling rates across budgets",
            OVERVIEW,
            "A schedule is a profile times a sampling rate; REX at every step is the "
            "best across budgets.",
            "Finishes are counted by the mean test error of the seeds, over the "
            "optimizers that all these schedules were run with and the budgets from "
            f"{APART} % on, which was fixed beforehand. REX has the most if it has "
            "more than each of the others; a difference is that of two shares of the "
            "settings, and its interval that of seeds drawn with replacement "
            f"({RESAMPLES:,} times). Mean errors are "
            "those of each seed, over the optimizers that both methods were run with "
            f"and the budgets from {APART} % on, or the budgets that a statement "
            "names. The rarer samplings of the other profiles are compared with REX at "
            "every step, but not with their own profile at every step.",
            judge,
            tables,
            "Chen, Wolfe, Kyrillidis, REX, 2021, arXiv:2107.04197",
        ),
        Row(
            "Decay at small budgets",
            TUTORIAL,
            "Decay helps at every budget, small ones included.",
            "[Decay at every budget](#decay-at-every-budget) judges losses from 25 % "
            "of 20 epochs on; here errors are judged, from 2.5 % of 40 epochs on. Test "
            "errors are compared: those of the linear decay at every step, and of a "
            "constant rate, each at the rate that was chosen for that budget and "
            "optimizer.",
            judge_small,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
