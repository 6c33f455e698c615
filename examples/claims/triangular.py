"""Triangular cycles are good at any time, and best at the end of each."""

import program

from claims import methods, regime
from claims.experiment import OVERVIEW, Experiment, Row
from claims.harness import grid_words, measured, words_of
from claims.judging import MARGIN, Statement, difference, no_worse, spread
from claims.methods import STEP, TRIANGULAR
from claims.regime import SGD


def jobs(size):
    epochs = size.pick(regime.EPOCHS, 2 * methods.NUM_CYCLES)
    return {
        name: measured(name, epochs, size, looks=True) for name in (TRIANGULAR, STEP)
    }


def collect(found, size):
    """The rates, and test accuracies (%) by seed and epoch."""
    accuracies = {
        name: [curve for curve, _ in one["curves"]] for name, one in found.items()
    }
    return {
        "epochs": len(accuracies[STEP][0]),
        "cycles": methods.NUM_CYCLES,
        "seeds": size.seeds,
        "methods": {
            name: {
                "rate": found[name]["rate"],
                "accuracies": runs,
                "errors held out": found[name]["errors held out"],
            }
            for name, runs in accuracies.items()
        },
    }


def points(results):
    """The epochs, from 0, at which cycles end, and at whose end the rate is highest."""
    length = results["epochs"] // results["cycles"]
    ends = [length * (number + 1) - 1 for number in range(results["cycles"])]
    return ends, [end - length // 2 for end in ends]


def mean_at(results, name, epochs=None):
    """The mean over epochs of each seed's accuracy; None takes all of them."""
    import numpy as np

    runs = np.array(results["methods"][name]["accuracies"])
    return runs[:, epochs if epochs is not None else slice(None)].mean(1).tolist()


def judge(results):
    ends, middles = points(results)
    for text, first, second in (
        ("in its middle", ends, middles),
        ("in the middle of the next", ends[:-1], middles[1:]),
    ):
        yield Statement(
            f"better at the end of each cycle than {text}",
            *(
                difference(
                    f"cycle {number}",
                    mean_at(results, TRIANGULAR, [end]),
                    mean_at(results, TRIANGULAR, [middle]),
                )
                for number, (end, middle) in enumerate(
                    zip(first, second, strict=True), start=1
                )
            ),
        )
    yield no_worse(
        "at any time (mean over all epochs) no worse than step decay",
        mean_at(results, TRIANGULAR),
        mean_at(results, STEP),
    )
    yield no_worse(
        "at the ends of cycles, mean over them, no worse than step decay there",
        mean_at(results, TRIANGULAR, ends),
        mean_at(results, STEP, ends),
    )
    yield no_worse(
        "at the end of the last cycle no worse than step decay at its end",
        mean_at(results, TRIANGULAR, ends[-1:]),
        mean_at(results, STEP, ends[-1:]),
    )


def tables(results):
    ends, middles = points(results)
    yield "Test accuracy (%), ± the standard deviation over seeds. Step decay has no"
    yield "cycles: it is looked at after the same epochs."
    yield ""
    rows = []
    for name in (TRIANGULAR, STEP):
        for what, epochs in (("middle", middles), ("end", ends)):
            cells = [spread(mean_at(results, name, [epoch])) for epoch in epochs]
            rows.append([f"{name}, {what} of the cycle", *cells])
    header = ["", *(f"cycle {number + 1}" for number in range(len(ends)))]
    yield from program.table(header, rows)
    yield ""
    parts = {"all epochs": None, "ends of the cycles": ends}
    yield "Mean over epochs:"
    yield ""
    yield from program.table(
        ["", *parts],
        [
            [name, *(spread(mean_at(results, name, part)) for part in parts.values())]
            for name in (TRIANGULAR, STEP)
        ],
    )


def setting(results, data):
    rates = ", ".join(
        f"{found['rate']:g} for {name}" for name, found in results["methods"].items()
    )
    length = results["epochs"] // results["cycles"]
    return (
        f"{words_of(data)} {SGD}, {results['epochs']} epochs: {results['cycles']} "
        f"cycles of {length} between a tenth of the rate and the rate, or step decay "
        f"at 50 and 75 %; {results['seeds']} seeds. Each uses "
        f"{grid_words(data, SGD, when=' at the end of a run')}: {rates}."
    )


def draw(results, path):
    """Accuracies by epoch; the ends of cycles are marked."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    epochs = np.arange(1, results["epochs"] + 1)
    ends, _ = points(results)
    for name, found in results["methods"].items():
        runs = np.array(found["accuracies"])
        mean, deviation = runs.mean(0), runs.std(0)
        (line,) = axes.plot(epochs, mean, label=name)
        color = line.get_color()
        low, high = mean - deviation, mean + deviation
        axes.fill_between(epochs, low, high, color=color, alpha=0.15)
    mean = np.mean(results["methods"][TRIANGULAR]["accuracies"], axis=0)
    axes.plot(epochs[ends], mean[ends], "C0o", label="ends of cycles")
    lowest = min(
        np.mean(found["accuracies"], axis=0)[len(epochs) // 8]
        for found in results["methods"].values()
    )
    axes.set(xlabel="epoch", ylim=(lowest - 2.0, None))
    axes.set(ylabel="test accuracy (%), ± the standard deviation")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


EXPERIMENT = Experiment(
    "triangular",
    (
        Row(
            "Triangular cycles",
            OVERVIEW,
            "Triangular cycles are good at any time, and best at the end of each "
            "cycle.",
            "Test accuracies are compared. The middle of a cycle is the epoch after "
            'which the rate is highest. "Good at any time" means no worse than step '
            "decay in the mean over all epochs, in the mean over the ends of cycles, "
            'and at the end; "no worse" means less than '
            f"{MARGIN:g} points below.",
            judge,
            tables,
            "Smith, 2015, arXiv:1506.01186",
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
