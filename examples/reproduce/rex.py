"""REX against other schedules over budgets, with a grid of rates."""

import json

import runs
from claims.finishes import places, shares

from reproduce import recipe

FULL = 300  # Epochs.
HELD_OUT = 5_000  # Images that rates are chosen by.
REX = "REX"
METHODS = (
    "none", "exponential", "one cycle", "linear", "step, 50-75", "step, 33-66",
    "cosine", "plateau", REX,
)  # fmt: skip


def make_callbacks(method, rate, epochs):
    """What drives the optimizer; `fit` fills in the lengths."""
    from keras_lrs import Fraction, callbacks, schedules

    def steps_at(*shares):
        milestones = [Fraction(share) for share in shares]
        return schedules.MultiStepDecay(rate, milestones)

    if method == "one cycle":
        return [callbacks.OneCycleScheduler(rate)]
    if method == "plateau":
        patience = max(epochs // 20, 1)
        constant = recipe.scheduled(learning_rate=schedules.Constant(rate))
        # Not the loss of what is reported.
        return [constant, callbacks.ReduceOnPlateau("loss", patience=patience)]
    schedule = {
        "none": lambda: schedules.Constant(rate),
        "exponential": lambda: schedules.BoundedExponentialDecay(
            rate, end_learning_rate=rate / 100.0
        ),
        "linear": lambda: schedules.LinearDecay(rate),
        "step, 50-75": lambda: steps_at(0.5, 0.75),
        "step, 33-66": lambda: steps_at(0.33, 0.66),
        "cosine": lambda: schedules.CosineAnnealing(rate),
        REX: lambda: schedules.REXDecay(rate),
    }[method]()
    return [recipe.scheduled(learning_rate=schedule)]


def add_options(parser):
    parser.add_argument("--depths", type=int, nargs="+", help="20, 38, or 6 n + 2")
    parser.add_argument(
        "--budgets", type=float, nargs="+", help="percent of the epochs"
    )
    parser.add_argument("--rates", type=float, nargs="+", help="the grid")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD")


def check(parser, options):
    for depth in options.depths:
        if depth % 6 != 2 or depth < 8:
            parser.error(f"--depths must be 6 n + 2. Received: {depth}")
    if min(options.budgets) <= 0.0 or max(options.budgets) > 100.0:
        parser.error(f"--budgets must be in (0, 100]. Received: {options.budgets}")


def epochs_of(budget, options):
    return max(round(options.epochs * budget / 100.0), 1)


def searched(depth, budget, method, rate):
    """The name of a training whose rate is tried."""
    return f"ResNet-{depth}, {budget:g} %, {method}, at {rate:g}"


def trained(depth, budget, method, seed):
    """The name of one that is reported."""
    return f"ResNet-{depth}, {budget:g} %, {method}, seed {seed}"


def settings(options):
    """Depths, budgets and methods."""
    return [
        (depth, budget, method)
        for depth in options.depths
        for budget in options.budgets
        for method in options.methods
    ]


def trainings(options, found):
    chosen = found.held_out(min(HELD_OUT, len(found.train) // 5))
    every = {}
    for setting in settings(options):
        for rate in options.rates:
            every[searched(*setting, rate)] = (
                lambda folder, setting=setting, rate=rate: train(
                    *setting, rate, 0, options, chosen, folder
                )
            )
        for seed in range(1, options.seeds + 1):
            every[trained(*setting, seed)] = (
                lambda folder, setting=setting, seed=seed: train(
                    *setting, best_rate(setting, options, folder), seed,
                    options, found, folder,
                )
            )  # fmt: skip
    return every


def best_rate(setting, options, folder):
    """That with the least error on the held-out data."""

    def error(rate):
        name = runs.file_name(searched(*setting, rate))
        result = folder.parent / name / "result.json"
        return json.loads(result.read_text(encoding="utf-8"))["error"]

    return min(options.rates, key=error)


def train(depth, budget, method, rate, seed, options, found, folder):
    from reproduce import networks

    widths = (4, 8, 16) if options.quick else (16, 32, 64)
    model = recipe.make(
        options, seed,
        lambda: networks.make_resnet(
            depth, found.classes, found.shape, widths, decay=5e-4
        ),
        recipe.momentum_sgd,
    )  # fmt: skip
    epochs = epochs_of(budget, options)
    chosen = make_callbacks(method, rate, epochs)
    scores = recipe.fit(model, found, options, epochs, chosen, folder, seed)
    return {"rate": rate, **scores}


def report(options, found):
    """Errors by budget, and how often a method finishes among the first."""
    import numpy as np

    columns = [(depth, b) for depth in options.depths for b in options.budgets]
    errors = {
        setting: [
            found[trained(*setting, seed)]["error"]
            for seed in range(1, options.seeds + 1)
        ]
        for setting in settings(options)
    }
    means = np.array(
        [[np.mean(errors[*c, method]) for method in options.methods] for c in columns]
    )
    top = {first: shares(*places(means), first) for first in (1, 3)}
    header = ["error (%)", *(f"ResNet-{d}, {b:g} %" for d, b in columns)]
    rows = []
    for number, method in enumerate(options.methods):
        rates = [found[trained(*c, method, 1)]["rate"] for c in columns]
        cells = [
            f"{recipe.spread(errors[*c, method])} ({rate:g})"
            for c, rate in zip(columns, rates, strict=True)
        ]
        shown = [f"{top[first][number]:.0f} %" for first in (1, 3)]
        rows.append([method, *cells, *shown])
    return [*header, "top 1", "top 3"], rows


RECIPE = recipe.Recipe(
    "rex",
    "Chen, Wolfe and Kyrillidis, REX, 2021, arXiv:2107.04197. ResNet-20 and ResNet-38 "
    f"on CIFAR-10, budgets of 1, 5, 10, 25, 50 and 100 % of {FULL} epochs, SGD with "
    "momentum 0.9, batches of 128. Each method has, at each budget, the best rate of a "
    "grid on 5,000 images held out (in parentheses).",
    {
        "data": "cifar10", "epochs": FULL, "batch_size": 128, "seeds": 3,
        "depths": [20, 38], "budgets": [1, 5, 10, 25, 50, 100],
        "rates": [0.01, 0.03, 0.1, 0.3], "methods": list(METHODS),
    },
    {
        "epochs": 4, "batch_size": 16, "seeds": 1, "depths": [8],
        "budgets": [50], "rates": [0.03, 0.1],
        "methods": ["plateau", REX],
    },
    {"classes": 10, "shape": (32, 32, 3), "train": 2_000, "test": 1_000},
    {"classes": 4, "shape": (16, 16, 3), "train": 64, "test": 32},
    trainings,
    report,
    (
        ["finishes in all settings of the paper", "top 1", "top 3"],
        [
            ["none", "1 %", "5 %"],
            ["exponential", "5 %", "11 %"],
            ["one cycle", "13 %", "45 %"],
            ["linear", "11 %", "70 %"],
        ],
    ),
    add_options,
    check,
)  # fmt: skip
