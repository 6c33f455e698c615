"""Four schedules train the same network; of phases, the completed ones count."""

import statistics
import tempfile

import program

from claims.experiment import NOTES, Experiment, Row
from claims.harness import NETWORK, SGD, Trainer, grid_of
from claims.judging import Fact, Statement, better, no_worse, spread

PHASES = (1, 2, 4)  # Their lengths, and how much lower the rate of each begins.
EPOCHS = 28
POINT = 1.0  # Of accuracy: how much worse than the best one that trains may be.
STEP, ROOT, COSINE = "step decay, thirds", "1/sqrt(t)", "cosine"
PHASED, CONSTANT = "cosine in phases", "constant"
END, MIDDLE, KEPT = "end of the last completed phase", "middle of the next", "kept"


def phased(rate, epochs):
    """Phases that are this long in all; the rate of each has a range of its own."""
    from keras_lrs import Epochs, schedules

    unit = epochs // sum(PHASES)
    return schedules.PhasedCosine(
        [Epochs(unit * length) for length in PHASES],
        [rate / length for length in PHASES],
        [rate / 100.0] * len(PHASES),
    )


def make_methods(epochs):
    """A function from the rate to the schedule, by name."""
    from keras_lrs import Epochs, Fraction, schedules

    return {
        STEP: lambda rate: schedules.MultiStepDecay(
            rate, [Fraction(1 / 3), Fraction(2 / 3)], decay_rate=0.1
        ),
        ROOT: lambda rate: schedules.InverseSqrtDecay(rate, timescale=Epochs(1)),
        COSINE: lambda rate: schedules.CosineAnnealing(
            rate, end_learning_rate=rate / 100.0
        ),
        PHASED: lambda rate: phased(rate, epochs),
        CONSTANT: schedules.Constant,
    }


def run(size):
    from tqdm import tqdm

    epochs = size.pick(EPOCHS, 7)
    trainer = Trainer()
    found = {
        name: trainer.run(make_schedule, epochs, size.seeds)
        for name, make_schedule in tqdm(make_methods(epochs).items(), unit="schedule")
    }
    stopped = interrupt(trainer, phased(found[PHASED]["rate"], epochs), size.seeds)
    return {
        "epochs": epochs,
        "seeds": size.seeds,
        "methods": found,
        "stopped": stopped,
    }


def interrupt(trainer, schedule, seeds):
    """Test accuracy and loss where a training stops in the middle of its last phase."""
    from keras_lrs.callbacks import SnapshotEnsemble

    ends = schedule.bind(EPOCHS, 1).cycle_ends(EPOCHS)
    end, last = (round(e) for e in ends[-2:])
    middle = (end + last) // 2
    found = {END: [], MIDDLE: [], KEPT: []}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            snapshots = SnapshotEnsemble(folder, restore_last_completed=True)
            history = trainer.fit(schedule, middle, seed, [snapshots], validate=True)
        for name, epoch in ((END, end), (MIDDLE, middle)):
            accuracy = 100.0 * history["val_accuracy"][epoch - 1]
            found[name].append([accuracy, history["val_loss"][epoch - 1]])
        _, _, error, loss = trainer.score()
        found[KEPT].append([100.0 - error, loss])
    return found


def column(runs, index):
    return [run[index] for run in runs]


def judge(results):
    accuracies = {
        name: [100.0 - error for error in column(found["scores"], 2)]
        for name, found in results["methods"].items()
    }
    best = max(accuracies, key=lambda name: statistics.mean(accuracies[name]))
    for name in (STEP, ROOT, COSINE, PHASED):
        text = f"{name} trains the network"
        if name == best:
            yield Statement(text, Fact("", True, "it is the best"))
        else:
            text = f"{text}: less than {POINT:g} point below the best, {best}"
            yield no_worse(text, accuracies[name], accuracies[best], POINT)
    stopped = results["stopped"]
    off = max(
        abs(ours - theirs)
        for kept, end in zip(stopped[KEPT], stopped[END], strict=True)
        for ours, theirs in zip(kept, end, strict=True)
    )
    yield Statement(
        f"stopped in the middle of a phase, what is kept is the {END}",
        Fact("", off < 1e-3, f"accuracy (%) and loss differ by at most {off:.0e}"),
    )
    yield better(
        f"it is better than the {MIDDLE}",
        column(stopped[END], 0),
        column(stopped[MIDDLE], 0),
    )


def tables(results):
    yield "Test accuracy (%), ± the standard deviation over seeds:"
    yield ""
    rows = [
        [
            name,
            f"{found['rate']:g}",
            spread([100.0 - error for error in column(found["scores"], 2)]),
        ]
        for name, found in results["methods"].items()
    ]
    yield from program.table(["schedule", "rate", "accuracy (%)"], rows)
    yield ""
    yield f"Cosine in phases, stopped in the middle of its phase {len(PHASES)}:"
    yield ""
    rows = [
        [name, spread(column(runs, 0)), spread(column(runs, 1), 4)]
        for name, runs in results["stopped"].items()
    ]
    yield from program.table(["weights", "accuracy (%)", "loss"], rows)


def setting(results):
    unit = results["epochs"] // sum(PHASES)
    lengths = ", ".join(str(unit * length) for length in PHASES)
    return (
        f"{NETWORK}. {SGD}, {results['epochs']} epochs, phases of {lengths} that begin "
        "at the rate, a half and a quarter of it and end at a hundredth; "
        f"{results['seeds']} seeds. Each schedule has {grid_of(SGD)}."
    )


def draw(results, path):
    """The schedules on the left; on the right what each of them ends with."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs, per_epoch = results["epochs"], 20
    for number, (name, make) in enumerate(make_methods(epochs).items()):
        found = results["methods"][name]
        bound = make(found["rate"]).bind(epochs * per_epoch, per_epoch)
        steps = np.arange(epochs * per_epoch)
        left.plot(steps / per_epoch, bound.curve(len(steps)), label=name)
        runs = [100.0 - error for error in column(found["scores"], 2)]
        mean, deviation = statistics.mean(runs), statistics.pstdev(runs)
        right.errorbar(number, mean, deviation, fmt=f"C{number}o", capsize=4)
    names = list(results["methods"])
    for number, name in enumerate((END, MIDDLE), start=len(names)):
        runs = column(results["stopped"][name], 0)
        mean, deviation = statistics.mean(runs), statistics.pstdev(runs)
        right.errorbar(number, mean, deviation, fmt="ks", capsize=4)
        names.append(f"phases:\n{name}".replace(" the ", "\nthe "))
    left.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    left.legend(fontsize="small")
    right.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    right.set(ylabel="test accuracy (%)")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "lecture_notes",
    (
        Row(
            "Four schedules and completed phases",
            NOTES,
            "Step decay tenfold per third of the training, 1/sqrt(t), a cosine between "
            "two rates, and a cosine in phases with ranges and lengths of their own "
            "all train; after phases, the end of the last completed one is kept.",
            "A schedule trains if its test accuracy is less than one point below that "
            "of the schedule with the best mean. What is kept must have the accuracy "
            "and the loss of the phase's end.",
            judge,
            tables,
        ),
    ),
    run,
    setting,
    draw,
)
