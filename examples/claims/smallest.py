"""The smallest budget: 1 % of the epochs, which is less than one of them."""

import dataclasses

import program

from claims import regime
from claims.experiment import OVERVIEW, Experiment, Row, job
from claims.finishes import EVERY_STEP_METHODS
from claims.harness import Harness, grid_words, measure, words_of
from claims.judging import Statement, difference, spread
from claims.methods import LINEAR, OURS, REX, named
from claims.regime import SGD

BUDGET = 1  # Percent.
RARER = tuple(
    f"{REX}, {at}" for at in ("50 and 75 %", "33 and 66 %", "25, 50 and 75 %")
)
METHODS = (*EVERY_STEP_METHODS, *RARER)
FEWEST = (OURS, f"{LINEAR}, every step", "step decay", "constant", *RARER)


def jobs(size):
    names = size.pick(METHODS, FEWEST)
    return {name: job(short, method=name, seeds=size.seeds) for name in names}


def collect(found, size):
    first = next(iter(found.values()))
    methods = {
        name: {key: one[key] for key in ("rate", "scores")}
        for name, one in found.items()
    }
    return {"seeds": size.seeds, "steps": first["steps"], "methods": methods}


def short(harness, method, seeds):
    """A method at its best rate, on the images that 1 % of the epochs sees."""
    per_epoch = harness.steps_per_epoch()
    steps = round(regime.EPOCHS * per_epoch * BUDGET / 100)
    images = steps * harness.data.batch_size
    if not hasattr(harness, "short"):
        training = tuple((x[:images], y[:images]) for x, y in harness.data.training)
        cut = dataclasses.replace(harness.data, training=training)
        harness.short = Sized(cut, harness.quick, harness.data.batch_size)
    return {**measure(harness.short, method, 1, seeds), "steps": steps}


class Sized(Harness):
    """One whose batches are those of the whole data."""

    def __init__(self, data, quick, size):
        super().__init__(data, quick)
        self.size = size

    def batch_size(self, kind):
        """The same, however few images there are."""
        return self.size


def errors(results, name):
    return [score[2] for score in results["methods"][name]["scores"]]


def judge(results):
    for name in results["methods"]:
        if name == OURS:
            continue
        yield Statement(
            f"REX at every step has a lower error than {named(name)}",
            difference("", errors(results, OURS), errors(results, name), sign=-1),
        )


def tables(results):
    yield f"Test error (%) after {results['steps']} steps, ± the standard deviation"
    yield "over seeds:"
    yield ""
    rows = [
        [named(name), f"{one['rate']:g}", spread(errors(results, name))]
        for name, one in results["methods"].items()
    ]
    yield from program.table(["schedule", "rate", "error (%)"], rows)


def setting(results, data):
    return (
        f"{words_of(data)} {SGD}, {results['steps']} steps, {BUDGET} % of a whole run; "
        f"{results['seeds']} seeds. Each method uses {grid_words(data, SGD)}."
    )


def draw(results, path):
    """The errors, and their 95 % intervals."""
    import numpy as np
    from matplotlib.figure import Figure

    names = sorted(results["methods"], key=lambda n: np.mean(errors(results, n)))
    runs = np.array([errors(results, name) for name in names])
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    halves = [program.half_interval(each) for each in runs]
    places = np.arange(len(names))
    axes.errorbar(runs.mean(1), places, xerr=halves, fmt="o", capsize=3)
    axes.set_yticks(places, labels=[named(name) for name in names])
    axes.invert_yaxis()
    steps = f"after {results['steps']} steps"
    axes.set(xlabel=f"test error (%) {steps}, ± half the 95 % interval")
    axes.grid(alpha=0.3)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "smallest",
    (
        Row(
            "The smallest budget",
            OVERVIEW,
            f"REX is the best at {BUDGET} % of the epochs.",
            "Test errors of REX at every step are compared with those of each other "
            "schedule in the table.",
            judge,
            tables,
            "Chen, Wolfe, Kyrillidis, REX, 2021, arXiv:2107.04197",
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
