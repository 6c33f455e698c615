"""A warmup where the rate respects the curvature, and where it does not."""

import numpy as np
import program

from claims.bound import SMALL_STEPS, Gradients, flat, small_batch
from claims.experiment import NOTES, Experiment, Row, job, wrap
from claims.harness import Kind, words_of
from claims.judging import MARGIN, better, no_worse, spread

EPOCHS, WARMUP_EPOCHS = 20, 4
RATIO = 4  # Of the large batch to the usual one.
WITHIN, BEYOND = 1, 8  # Rates, in units of 1 / (2 H).
COLD, WARM = "without a warmup", "with a warmup"


def jobs(size):
    epochs = size.pick(EPOCHS, WARMUP_EPOCHS + 1)
    return {"all": job(trained, epochs=epochs, seeds=size.seeds)}


def collect(found, size):
    epochs = size.pick(EPOCHS, WARMUP_EPOCHS + 1)
    return {"seeds": size.seeds, "epochs": epochs, **found["all"]}


def trained(harness, epochs, seeds):
    """H at the first weights, and test accuracies (%) at both rates."""
    from keras_lrs import Epochs, schedules
    from keras_lrs.callbacks import HyperparameterScheduler

    size = harness.data.batch_size
    kind = Kind(batch_size=RATIO * size, momentum=0.0)
    curvatures = []
    accuracies = {f"{f}, {w}": [] for f in (WITHIN, BEYOND) for w in (COLD, WARM)}
    for seed in range(seeds):
        x, y = harness.data.train(seed)
        rows = np.random.default_rng(seed).permutation(len(x))[: RATIO * size]
        parts = rows.reshape(RATIO, size)
        gradients = Gradients(harness, [(x[part], y[part]) for part in parts])
        start = flat(harness.restart(kind, seed).trainable_variables)
        curvatures.append(gradients.curvature(start))
        for factor in (WITHIN, BEYOND):
            constant = schedules.Constant(factor / (2.0 * curvatures[-1]))
            warmed = schedules.Warmup(constant, Epochs(WARMUP_EPOCHS))
            for name, schedule in ((COLD, constant), (WARM, warmed)):
                scheduler = HyperparameterScheduler(learning_rate=schedule)
                model, _ = harness.fit([scheduler], epochs, seed, kind)
                error = harness.score(model, harness.data.test)[0]
                accuracies[f"{factor}, {name}"].append(100.0 - error)
    return {"curvatures": curvatures, "accuracies": accuracies}


def judge(results):
    found = results["accuracies"]
    yield no_worse(
        "at eta B = 1 / (2 H) no warmup is needed: without it is no worse",
        found[f"{WITHIN}, {COLD}"],
        found[f"{WITHIN}, {WARM}"],
    )
    yield better(
        f"at {BEYOND} times that rate a warmup helps: with it is better",
        found[f"{BEYOND}, {WARM}"],
        found[f"{BEYOND}, {COLD}"],
    )


def tables(results):
    found = results["accuracies"]
    yield from wrap(
        f"H at the first weights is {spread(results['curvatures'], 1)}. Test accuracy "
        "(%), ± the standard deviation over seeds:"
    )
    yield ""
    rows = [
        [f"{factor} / (2 H)", *(spread(found[f"{factor}, {w}"]) for w in (COLD, WARM))]
        for factor in (WITHIN, BEYOND)
    ]
    yield from program.table(["rate", COLD, WARM], rows)
    yield ""
    within, beyond = (
        np.mean(found[f"{factor}, {COLD}"]) for factor in (WITHIN, BEYOND)
    )
    yield from wrap(
        f"Without a warmup, the mean accuracy is {within:.2f} % at {WITHIN} / (2 H), "
        f"against {beyond:.2f} % at {BEYOND} times that rate."
    )


def setting(results, data):
    number, large = SMALL_STEPS, RATIO * data.batch_size
    return (
        f"{words_of(data, Kind(batch_size=large))} SGD without momentum at a constant "
        f"rate, {results['epochs']} epochs, with or without a warmup from 0 over the "
        f"first {WARMUP_EPOCHS}; {results['seeds']} seeds. H is the largest curvature "
        f"at the first weights of each seed, of the mean loss of {RATIO} batches of "
        f"{data.batch_size} examples. The claim on one large step and many small ones "
        f"has {number} batches of {small_batch(data)}."
    )


def draw(results, path):
    """Accuracies with and without a warmup, at both rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(2)
    for offset, name in ((-0.1, COLD), (0.1, WARM)):
        runs = np.array(
            [results["accuracies"][f"{f}, {name}"] for f in (WITHIN, BEYOND)]
        )
        error = 2.0 * runs.std(1) / runs.shape[1] ** 0.5
        axes.errorbar(
            places + offset, runs.mean(1), error, fmt="o", capsize=4, label=name
        )
    axes.set_xticks(places, labels=[f"{f} / (2 H)" for f in (WITHIN, BEYOND)])
    axes.set(
        xlabel="learning rate",
        ylabel="test accuracy (%), ± 2 standard errors",
        xlim=(-0.5, 1.5),
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "curvature",
    (
        Row(
            "Warmup and the curvature",
            NOTES,
            "The argument for large batches needs eta B of at most 1 / (2 H); a warmup "
            "is for rates that do not respect it at the beginning.",
            "That the argument needs this limit is not judged, only what a warmup "
            'does. Test accuracies are compared. "No worse" means less than '
            f"{MARGIN:g} points below. The rate of the large batch stands for eta B. A "
            "warmup can only make it smaller. Where the larger of the two rates trains "
            "better, 1 / (2 H) is smaller than is best, and training without a warmup "
            "may be no worse for that reason only.",
            judge,
            tables,
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
