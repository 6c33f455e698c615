"""Snapshot ensembles against single models and fully trained independent ones."""

import itertools
from pathlib import Path

from reproduce import recipe

SINGLE, SHORT = "single model", "single cycle"


def add_options(parser):
    parser.add_argument("--depth", type=int, help="110, or another 6 n + 2")
    parser.add_argument("--widen", type=int, help="times the width; 4 with depth 32")
    parser.add_argument("--cycles", type=int, help="of the snapshots")
    parser.add_argument("--rates", type=float, nargs="+", help="at the restarts")


def check(parser, options):
    if options.depth % 6 != 2 or options.depth < 8:
        parser.error(f"--depth must be 6 n + 2. Received: {options.depth}")
    if options.epochs % options.cycles:
        parser.error(f"--epochs must be a multiple of --cycles, {options.cycles}")


def snapshots_at(rate):
    return f"snapshots, restarts at {rate:g}"


def trainings(options, found):
    from keras_lrs import Fraction, schedules

    step = schedules.MultiStepDecay(0.1, [Fraction(0.5), Fraction(0.75)])
    every = {}
    for number in range(1, options.cycles + 1):
        every[f"{SINGLE} {number}"] = lambda folder, seed=number: train(
            step, options.epochs, seed, options, found, folder
        )
    for rate in options.rates:
        every[snapshots_at(rate)] = lambda folder, rate=rate: train(
            schedules.CosineRestarts(rate, t_mul=1.0, num_cycles=options.cycles),
            options.epochs, 1, options, found, folder, keep=True,
        )  # fmt: skip
    for number in range(1, options.cycles + 1):
        every[f"{SHORT} {number}"] = lambda folder, seed=number: train(
            schedules.CosineAnnealing(max(options.rates)),
            options.epochs // options.cycles, 100 + seed, options, found, folder,
        )  # fmt: skip
    return every


def train(schedule, epochs, seed, options, found, folder, keep=False):
    """Trains, and writes the probabilities of the test images."""
    import keras
    import numpy as np

    from keras_lrs import callbacks, ensembles
    from reproduce import data, networks

    base = (4, 8, 16) if options.quick else (16, 32, 64)
    widths = [options.widen * width for width in base]
    model = recipe.make(
        options, seed,
        lambda: networks.make_resnet(
            options.depth, found.classes, found.shape, widths, decay=1e-4
        ),
        lambda: recipe.momentum_sgd(nesterov=True),
    )  # fmt: skip
    chosen = [recipe.scheduled(learning_rate=schedule)]
    if keep:
        chosen.append(callbacks.SnapshotEnsemble(folder / "snapshots"))
    scores = recipe.fit(model, found, options, epochs, chosen, folder, seed)
    test = found.test.first(recipe.TESTED_IN) if options.steps else found.test
    batches = data.make_plain_batches(test, recipe.TESTED_IN)
    if keep:
        ensemble = ensembles.load(folder / "snapshots", model, activation="softmax")
        members = ensemble.predict_members(batches, verbose=0)
    else:
        logits = model.predict(batches, verbose=0)
        members = keras.ops.convert_to_numpy(keras.ops.softmax(logits))[None]
    np.save(folder / "probabilities.npy", members.astype("float16"))
    np.save(folder / "labels.npy", test.labels)
    return scores | {
        "rate": schedule.initial_learning_rate,
        "folder": str(folder),
        "errors": ensemble_errors(members, test.labels),
        "disagreement": disagreement(members),
    }


def ensemble_errors(members, labels):
    """Errors (%) of the mean of the last m members, for each m."""
    import numpy as np

    means = [members[-m:].mean(0) for m in range(1, len(members) + 1)]
    return [float(100.0 * np.mean(mean.argmax(-1) != labels)) for mean in means]


def disagreement(members):
    """How often two members have different classes (%), the mean over pairs."""
    import numpy as np

    classes = members.argmax(-1)
    pairs = [
        np.mean(classes[a] != classes[b])
        for a, b in itertools.combinations(range(len(classes)), 2)
    ]
    return float(100.0 * np.mean(pairs)) if pairs else 0.0


def joined(found, kind):
    """Error and disagreement of the models of a kind together."""
    import numpy as np

    every = [each for name, each in found.items() if name.startswith(kind)]
    folders = [Path(each["folder"]) for each in every]
    members = np.concatenate(
        [np.load(folder / "probabilities.npy") for folder in folders]
    ).astype("float32")
    labels = np.load(folders[0] / "labels.npy")
    return ensemble_errors(members, labels)[-1], disagreement(members)


def report(options, found):
    cycles, epochs = options.cycles, options.epochs
    singles = [found[f"{SINGLE} {n}"]["error"] for n in range(1, cycles + 1)]
    rows = [[SINGLE, f"{epochs}", recipe.spread(singles), ""]]
    for rate in options.rates:
        each = found[snapshots_at(rate)]
        rows.append(
            [
                f"{cycles} {snapshots_at(rate)}", f"{epochs}",
                f"{each['errors'][-1]:.2f}", f"{each['disagreement']:.1f} %",
            ]
        )  # fmt: skip
    for kind, text, cost in (
        (SHORT, "independent models of a cycle each", epochs),
        (SINGLE, "fully trained independent models", epochs * cycles),
    ):
        error, differ = joined(found, kind)
        rows.append([f"{cycles} {text}", f"{cost}", f"{error:.2f}", f"{differ:.1f} %"])
    return ["models", "epochs", "error (%)", "two of them disagree"], rows


RECIPE = recipe.Recipe(
    "snapshots",
    "Huang et al., Snapshot Ensembles, 2017, arXiv:1704.00109. ResNet-110 (or, with "
    "--depth 32 --widen 4, the paper's wide one) on CIFAR-10 or CIFAR-100, 200 epochs, "
    "5 cycles that restart at 0.1 or 0.2, batches of 64; against step decay from 0.1, "
    "and against 5 models that are fully trained, at 5 times the cost.",
    {
        "data": "cifar100", "epochs": 200, "batch_size": 64, "seeds": 1, "depth": 110,
        "widen": 1, "cycles": 5, "rates": [0.1, 0.2],
    },
    {"epochs": 4, "batch_size": 16, "depth": 8, "cycles": 2, "rates": [0.1]},
    {"classes": 100, "shape": (32, 32, 3), "train": 2_000, "test": 1_000},
    {"classes": 4, "shape": (16, 16, 3), "train": 64, "test": 32},
    trainings,
    report,
    (
        ["models (ResNet-110)", "CIFAR-10, error (%)", "CIFAR-100, error (%)"],
        [
            ["single model", "5.52", "28.02"],
            ["snapshots of a schedule without cycles", "5.49", "26.97"],
            ["independent models of a cycle each", "6.66", "24.54"],
            ["snapshots, restarts at 0.1", "5.73", "25.55"],
            ["snapshots, restarts at 0.2", "5.32", "24.19"],
        ],
    ),
    add_options,
    check,
)  # fmt: skip
