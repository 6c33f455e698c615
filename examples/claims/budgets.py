"""S1d: a schedule is a profile times a sampling rate; which is best at which budget."""

import statistics

import program

from claims.harness import (
    ADAM,
    BATCH_SIZE,
    NETWORK,
    SGD,
    Experiment,
    Gap,
    Part,
    Row,
    Trainer,
    grid_of,
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
        f"{results['seeds']} seeds: a setting is an optimizer, a budget and a seed. "
        f"Each method has, at each budget, {grids}."
        + "".join(f" At {b} %, every epoch is every 10 %." for b in short)
    )


def settings(results):
    """The scores of one seed, by method, for each optimizer, budget and seed."""
    for optimizer, budgets in results["optimizers"].items():
        for budget, methods in budgets.items():
            for seed in range(results["seeds"]):
                yield (
                    (optimizer, budget, seed),
                    {name: found["scores"][seed] for name, found in methods.items()},
                )


def finishes(values, first):
    """The share that each has of the places up to `first`; equal values share theirs.

    Args:
        values: Errors or losses by name; the least is the first.
        first: How many places.
    """
    shares = {}
    for name, value in values.items():
        before = sum(other < value for other in values.values())
        equal = sum(other == value for other in values.values())
        shares[name] = min(max(first - before, 0), equal) / equal
    return shares


def count(results, methods, first, column):
    """Percent of the settings in which each finishes among the first, by seed.

    Args:
        results: Those of `run`.
        methods: Between which.
        first: How many places count.
        column: Of the scores: 2 is the test error, 3 the test loss.
    """
    by_seed = {name: [0.0] * results["seeds"] for name in methods}
    number = 0
    for (_, _, seed), scores in settings(results):
        number += 1
        values = {name: scores[name][column] for name in methods}
        # A diverged training is the last.
        values = {n: v if v == v else float("inf") for n, v in values.items()}
        for name, share in finishes(values, first).items():
            by_seed[name][seed] += share
    each = number / results["seeds"]
    return {n: [100.0 * s / each for s in shares] for n, shares in by_seed.items()}


def present(results, names):
    methods = next(settings(results))[1]
    return [name for name in names if name in methods]


def errors(results, name, optimizer=None, budget=None):
    """The mean test errors over the chosen settings, by seed."""
    by_seed = [[] for _ in range(results["seeds"])]
    for (its_optimizer, its_budget, seed), scores in settings(results):
        if optimizer in (None, its_optimizer) and budget in (None, its_budget):
            by_seed[seed].append(scores[name][2])
    return [statistics.mean(found) for found in by_seed]


def judge(results):
    methods = present(results, EVERY_STEP_METHODS)
    every = list(next(settings(results))[1])
    for names, among in (
        (methods, "all that change at every step, constant, step decay and 1cycle"),
        (every, "all profiles and sampling rates"),
    ):
        for first in (1, 3):
            shares = count(results, names, first, 2)
            means = {name: statistics.mean(s) for name, s in shares.items()}
            best = max(means, key=means.get)
            others = [value for name, value in means.items() if name != OURS]
            yield Part(
                f"REX at every step has the most top-{first} finishes among {among}",
                means[OURS] > max(others),
                f"{means[OURS]:.1f} % of the settings; the most: {best}, "
                f"{means[best]:.1f} %; by chance "
                f"{100.0 * min(1.0, first / len(names)):.1f} %",
            )
    ours = errors(results, OURS)
    worse = [name for name in methods if Gap(errors(results, name), ours).below]
    yield Part(
        "no other has a lower mean error than REX at every step, beyond noise",
        not worse,
        f"lower: {', '.join(worse) or 'none'}",
    )
    rarer = [n for n in every if "," in n and not n.endswith(EVERY_STEP)]
    gaps = {
        name: Gap(
            errors(results, f"{name.partition(',')[0]}, {EVERY_STEP}"),
            errors(results, name),
        )
        for name in rarer
    }
    lower = [name for name, gap in gaps.items() if gap.below]
    higher = [name for name, gap in gaps.items() if gap.above]
    yield Part(
        "every step is the best sampling rate of a profile: nowhere a higher mean "
        "error than at a rarer one, beyond noise, and somewhere a lower one",
        bool(lower) and not higher,
        f"lower than {len(lower)}, higher than {len(higher)} of {len(rarer)}"
        + (f" ({'; '.join(higher)})" if higher else ""),
    )


def tables(results):
    budgets = list(next(iter(results["optimizers"].values())))
    every = list(next(settings(results))[1])
    methods = present(results, EVERY_STEP_METHODS)
    yield "Finishes among the first, in percent of all settings, by the test error and"
    yield "by the test loss; ± is the standard deviation over seeds, and equal errors"
    yield "share their places. Among the schedules that people choose from:"
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
                Gap(errors(results, name, None, b), errors(results, OURS, None, b))
                for b in (*budgets, None)
            ]
            rows.append([name, *(str(gap) for gap in gaps)])
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
        count(results, methods, first, column) for column in (2, 3) for first in (1, 3)
    ]
    order = sorted(methods, key=lambda name: -statistics.mean(columns[0][name]))
    header = ["method", "top 1, error", "top 3, error", "top 1, loss", "top 3, loss"]
    rows = [[n, *(spread(column[n], 1) for column in columns)] for n in order]
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
        shares = count(results, methods, first, 2)
        right.barh(
            places + offset,
            [statistics.mean(shares[name]) for name in methods],
            0.4,
            xerr=[statistics.pstdev(shares[name]) for name in methods],
            label=f"top {first}",
            capsize=2,
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
            "S1d",
            "Wolfe, The Best Learning Rate Schedules; Chen, Wolfe, Kyrillidis, REX, "
            "2021, arXiv:2107.04197",
            "A schedule is a profile times a sampling rate; REX at every step is the "
            "best across budgets.",
            "Finishes are counted over all settings, by the test error. REX must have "
            "more of them than any other. A mean error is lower than another if the "
            "95 % interval (Student) of the differences within seeds, each the mean "
            "over optimizers and budgets, lies below 0.",
            judge,
            tables,
        ),
    ),
    run,
    setting,
    draw,
)
