"""1cycle, with the momentum cycled the other way, trains several times faster."""

import math

import numpy as np
import one_cycle as example
import program

from claims import methods, regime
from claims.budgets import epochs_of
from claims.experiment import OVERVIEW, Experiment, Row
from claims.harness import grid_words, measured, words_of
from claims.judging import RESAMPLES, Statement, exceeds, resample, spread
from claims.regime import SGD

SEVERAL = 2.0
PART = "half"  # Of the epochs, which is so many times fewer.
METHODS = {
    example.STEP: methods.STEP,
    example.PLAIN: methods.ONE_CYCLE,
    example.FULL: methods.FULL_ONE_CYCLE,
}


def lengths(size):
    """Of the runs, in epochs."""
    budgets = size.pick(regime.BUDGETS, (25, 50, 100))
    return [epochs_of(budget, size) for budget in budgets]


def jobs(size):
    return {
        (name, epochs): measured(method, epochs, size)
        for name, method in METHODS.items()
        for epochs in lengths(size)
    }


def collect(found, size):
    """Accuracies (%) by method and epochs, and the rates of the longest runs."""

    def accuracies(name, epochs):
        return [100.0 - score[2] for score in found[name, epochs]["scores"]]

    return {
        "seeds": size.seeds,
        "rates": [found[name, lengths(size)[-1]]["rate"] for name in METHODS],
        "accuracies": {
            name: [[epochs, accuracies(name, epochs)] for epochs in lengths(size)]
            for name in METHODS
        },
    }


def arrays_of(results):
    """Numbers of epochs, and accuracies by method: an array of epochs and seeds."""
    found = {
        method: np.array([runs for _, runs in pairs], float)
        for method, pairs in results["accuracies"].items()
    }
    return [epochs for epochs, _ in results["accuracies"][example.STEP]], found


def target_of(step_decay):
    """The target: its mean in the longest run, less a standard error."""
    final = step_decay[-1]
    if len(final) == 1:
        return final[0]
    return final.mean() - final.std(ddof=1) / len(final) ** 0.5


def epochs_to_reach(target, epochs, means):
    """Where the means first reach the target, between lengths on a log scale.

    It is infinite if none does, and the shortest length if that does already.
    """
    for number, mean in enumerate(means):
        if mean >= target:
            if number == 0:
                return float(epochs[0])
            before = means[number - 1]
            share = (target - before) / (mean - before)
            low, high = math.log(epochs[number - 1]), math.log(epochs[number])
            return math.exp(low + share * (high - low))
    return math.inf


def ratio(results, slower, faster):
    """How many times fewer epochs the faster one needs, as a function of the seeds."""
    epochs, found = arrays_of(results)

    def statistic(seeds):
        target = target_of(found[example.STEP][:, seeds])
        needed = [
            epochs_to_reach(target, epochs, found[name][:, seeds].mean(1))
            for name in (slower, faster)
        ]
        # What never gets there is no faster than anything.
        return 0.0 if needed[1] == math.inf else needed[0] / needed[1]

    return statistic


def judge(results):
    every, drawn = resample(
        ratio(results, example.STEP, example.FULL), results["seeds"]
    )
    for text, threshold in (
        ("needs fewer epochs than step decay", 1.0),
        (f"needs at most {PART} the epochs of step decay", SEVERAL),
    ):
        yield Statement(
            f"{example.FULL} {text}", exceeds("", every, drawn, threshold, "times")
        )


def tables(results):
    epochs, found = arrays_of(results)
    yield "Test accuracy (%), ± the standard deviation over seeds:"
    yield ""
    rows = [
        [f"{length}", *(spread(runs[number].tolist()) for runs in found.values())]
        for number, length in enumerate(epochs)
    ]
    target = target_of(found[example.STEP])
    needed = [epochs_to_reach(target, epochs, runs.mean(1)) for runs in found.values()]
    last = [f"epochs to reach {target:.2f} %"]
    rows.append(last + [f"{n:.1f}" if n < math.inf else "none" for n in needed])
    yield from program.table(["epochs", *found], rows)


def setting(results, data):
    budgets = ", ".join(f"{e}" for e in arrays_of(results)[0])
    return (
        f"{words_of(data)} {SGD}; separate runs of {budgets} epochs, "
        f"{results['seeds']} seeds. Step decay divides the rate by 10 after 50 and "
        "75 % of a run. 1cycle consists of two cosines, not of the three straight "
        "lines of the publication: the rate rises over the first "
        "30 % of a run and then falls to almost 0, while the momentum goes from 0.95 "
        f'to 0.85 and back. "{example.PLAIN}" has the same rates at a constant '
        f"momentum. At each length, each method uses {grid_words(data, SGD)}."
    )


def bound(method, rate, epochs, per_epoch):
    """The schedules of a run, rate and momentum, as `fit` binds them.

    Only `fit` binds the momentum. The model that it trains here has one weight.
    """
    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    optimizer = keras.optimizers.SGD(0.1, momentum=regime.MOMENTUM)
    model.compile(optimizer, "mse", steps_per_execution=per_epoch)
    callback = methods.make_callback(METHODS[method], rate)
    x = np.zeros((per_epoch, 1), "float32")
    model.fit(x, x, batch_size=1, epochs=epochs, verbose=0, callbacks=[callback])
    return callback.bound


def draw(results, path):
    accuracies = {name: dict(pairs) for name, pairs in results["accuracies"].items()}
    per_epoch = 20  # As finely as the schedules are drawn.
    epochs = max(accuracies[example.STEP])
    schedules = {
        method: bound(method, rate, epochs, per_epoch)
        for method, rate in zip(METHODS, results["rates"], strict=True)
    }
    example.draw(accuracies, schedules, per_epoch * epochs, path)


EXPERIMENT = Experiment(
    "super_convergence",
    (
        Row(
            "Speed of 1cycle",
            OVERVIEW,
            "1cycle, with the momentum cycled the other way, trains several times "
            "faster than step decay.",
            "The target is the mean accuracy of step decay in the longest run, less "
            "one standard error; epochs are those where the mean accuracies first "
            "reach it, interpolated between two lengths on a log scale, and at least "
            'the shortest length; a longer run may lie below it again. "Several times '
            f'faster" means with at most {PART} the epochs. What is measured is the '
            "epochs that step decay needs, divided by those that 1cycle needs. Its "
            f"interval is that of seeds drawn with replacement ({RESAMPLES:,} times), "
            "and the target is that of the seeds drawn; if 1cycle never gets there, "
            "the quotient counts as 0. The claim includes the momentum, so 1cycle at a "
            "constant momentum is in the table, and is not judged.",
            judge,
            tables,
            "Smith and Topin, 2017, arXiv:1708.07120",
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
