"""Four schedules train the same network; of phases, the completed ones count."""

import statistics
import tempfile

import program

from claims import methods
from claims.experiment import NOTES, Experiment, Row, job, wrap
from claims.harness import grid_words, measured, words_of
from claims.judging import (
    Fact,
    Statement,
    at_most,
    better,
    interval,
    largest,
    spread,
)
from claims.methods import CONSTANT, PHASED, PHASES, ROOT
from claims.regime import SGD

EPOCHS = 28
HALF = 50.0  # Percent of accuracy: what trains must exceed it.
STEP, COSINE = methods.THIRDS, "cosine"
METHODS = {
    STEP: methods.THIRDS,
    ROOT: ROOT,
    COSINE: methods.FLOORED,
    PHASED: PHASED,
    CONSTANT: CONSTANT,
}
CLAIMED = (STEP, ROOT, COSINE, PHASED)
SAME = 1e-3  # Of accuracies (%) and losses of the same weights.
STOPPED = "stopped"
END, MIDDLE, KEPT = "end of the last completed phase", "middle of the next", "kept"


def jobs(size):
    epochs = size.pick(EPOCHS, sum(PHASES))
    found = {name: measured(method, epochs, size) for name, method in METHODS.items()}
    return found | {STOPPED: job(interrupt, epochs=epochs, seeds=size.seeds)}


def collect(found, size):
    return {
        "epochs": size.pick(EPOCHS, sum(PHASES)),
        "seeds": size.seeds,
        "methods": {name: found[name] for name in METHODS},
        STOPPED: found[STOPPED],
    }


def interrupt(harness, epochs, seeds):
    """Test accuracy and loss where a run stops in the middle of its last phase."""
    from keras_lrs.callbacks import HyperparameterScheduler, SnapshotEnsemble

    def make_callbacks(rate):
        return [methods.make_callback(PHASED, rate)]

    rate, _ = harness.choose(make_callbacks, epochs, key=PHASED)
    per_epoch = harness.steps_per_epoch()
    whole = methods.phased(rate).bind(epochs * per_epoch, per_epoch)
    ends = whole.cycle_ends(epochs * per_epoch)
    end, last = (round(step / per_epoch) for step in ends[-2:])
    middle = (end + last) // 2
    found = {END: [], MIDDLE: [], KEPT: []}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            # The run is as long as it was to be; what stops it is not its schedule.
            callbacks = [
                HyperparameterScheduler(learning_rate=whole),
                SnapshotEnsemble(folder, restore_last_completed=True),
            ]
            model, history = harness.fit(
                callbacks, middle, seed, looks=range(1, middle + 1)
            )
        for name, epoch in ((END, end), (MIDDLE, middle)):
            accuracy = 100.0 * history["val_accuracy"][epoch - 1]
            found[name].append([accuracy, history["val_loss"][epoch - 1]])
        error, loss = harness.score(model, harness.data.test)
        found[KEPT].append([100.0 - error, loss])
    return found


def column(runs, index):
    return [run[index] for run in runs]


def accuracies_of(results):
    """Of each schedule, those of all seeds (%)."""
    return {
        name: [round(100.0 - error, 4) for error in column(found["scores"], 2)]
        for name, found in results["methods"].items()
    }


def judge(results):
    means = {
        name: statistics.mean(runs) for name, runs in accuracies_of(results).items()
    }
    yield Statement(
        "all four train: each classifies more than half of the test set correctly",
        *(Fact(name, means[name] > HALF, f"{means[name]:.2f} %") for name in CLAIMED),
    )
    stopped = results["stopped"]
    off = largest(
        abs(ours - theirs)
        for kept, end in zip(stopped[KEPT], stopped[END], strict=True)
        for ours, theirs in zip(kept, end, strict=True)
    )
    yield Statement(
        f"stopped in the middle of a phase, what is kept is the {END}",
        at_most("", off, SAME, f"accuracy (%) and loss differ by at most {off:.0e}"),
    )
    yield better(
        f"it is better than the {MIDDLE}",
        column(stopped[END], 0),
        column(stopped[MIDDLE], 0),
    )


def tables(results):
    accuracies = accuracies_of(results)
    best = max(accuracies, key=lambda name: statistics.mean(accuracies[name]))
    yield from wrap(
        "Test accuracy (%), ± the standard deviation over seeds; and by how many "
        "points it is below that of the schedule with the best mean: the mean of the "
        "differences of seeds, ± half of its 95 % interval. How far it is below is not "
        "judged, because the best is chosen by the same test data."
    )
    yield ""
    rows = []
    for name, runs in accuracies.items():
        below = "the best"
        if name != best:
            pairs = zip(accuracies[best], runs, strict=True)
            mean, half = interval([ours - theirs for ours, theirs in pairs])
            below = f"{mean:.2f} ± {half:.2f}"
        rate = f"{results['methods'][name]['rate']:g}"
        rows.append([name, rate, spread(runs), below])
    header = ["schedule", "rate", "accuracy (%)", "below the best"]
    yield from program.table(header, rows)
    yield ""
    yield f"Cosine in phases, stopped in the middle of its phase {len(PHASES)}:"
    yield ""
    rows = []
    for name, runs in results["stopped"].items():
        # The same weights were measured in two ways, whose decimals differ in number.
        accuracies = [round(accuracy, 4) for accuracy in column(runs, 0)]
        losses = [round(loss, 5) for loss in column(runs, 1)]
        rows.append([name, spread(accuracies), spread(losses, 4)])
    yield from program.table(["weights", "accuracy (%)", "loss"], rows)


def setting(results, data):
    unit = results["epochs"] // sum(PHASES)
    lengths = ", ".join(str(unit * length) for length in PHASES)
    return (
        f"{words_of(data)} {SGD}, {results['epochs']} epochs, phases of {lengths} "
        "epochs that begin at the rate, a half and a quarter of it, and all end at a "
        f"hundredth of it; {results['seeds']} seeds. Each schedule uses "
        f"{grid_words(data, SGD)}."
    )


def draw(results, path):
    """The schedules, and below them the accuracy that each of them ends with."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 8.5), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    epochs, per_epoch = results["epochs"], 20
    made, accuracies = methods.make_methods(), accuracies_of(results)
    for number, (name, method) in enumerate(METHODS.items()):
        found = results["methods"][name]
        bound = made[method](found["rate"]).bind(epochs * per_epoch, per_epoch)
        steps = np.arange(epochs * per_epoch)
        upper.plot(steps / per_epoch, bound.curve(len(steps)), label=name)
        runs = accuracies[name]
        mean, deviation = statistics.mean(runs), statistics.pstdev(runs)
        lower.errorbar(number, mean, deviation, fmt=f"C{number}o", capsize=4)
    names = list(results["methods"])
    for number, name in enumerate((END, MIDDLE), start=len(names)):
        runs = column(results["stopped"][name], 0)
        mean, deviation = statistics.mean(runs), statistics.pstdev(runs)
        lower.errorbar(number, mean, deviation, fmt="ks", capsize=4)
        names.append(f"phases:\n{name}".replace(" the ", "\nthe "))
    upper.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    upper.legend(fontsize="small")
    lower.set_xticks(
        range(len(names)), names, rotation=25, ha="right", fontsize="small"
    )
    lower.set(ylabel="test accuracy (%)")
    for panel in (upper, lower):
        panel.grid(alpha=0.3)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "lecture_notes",
    (
        Row(
            "Four schedules and completed phases",
            NOTES,
            "Step decay by a factor of 10 after each third of a run, 1/sqrt(t), a "
            "cosine between two rates, and a cosine in phases with ranges and lengths "
            "of their own all train; after a phase, keep the weights at its end rather "
            "than those in the middle of the next.",
            "A schedule trains if its mean test accuracy over the seeds is above "
            f"{HALF:g} %. What is kept must have the accuracy and the loss of the "
            "phase's end. Both could hardly have failed.",
            judge,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
