"""SGDR is good at any time, and its snapshots form a good ensemble."""

import tempfile

import numpy as np
import program
import snapshot_ensemble as example

from claims import methods, regime
from claims.experiment import OVERVIEW, Experiment, Row, job, wrap
from claims.harness import grid_words, measured, words_of
from claims.judging import MARGIN, better, difference, no_worse, spread
from claims.regime import SGD

FULL = "independent, fully trained"
METHODS = {
    example.STEP: methods.STEP,
    example.COSINE: methods.SHORT_COSINE,
    example.CYCLES: methods.CYCLES,
    example.GROWING: methods.GROWING,
}
ENSEMBLES = "ensembles"
# The name of the example does not say which cycles.
LABELS = {name: name for name in METHODS} | {example.CYCLES: "equal cycles"}


def jobs(size):
    epochs = size.pick(regime.EPOCHS, 2 * methods.NUM_CYCLES)
    found = {
        name: measured(method, epochs, size, looks=True)
        for name, method in METHODS.items()
    }
    return found | {ENSEMBLES: job(ensembles, epochs=epochs, seeds=size.seeds)}


def collect(found, size):
    curves = {name: found[name]["curves"] for name in METHODS}
    epochs = len(curves[example.STEP][0][0])
    single = {
        name: [[100.0 - score[2], score[3]] for score in found[name]["scores"]]
        for name in (example.STEP, example.COSINE)
    }
    return {
        "epochs": epochs,
        "cycles": methods.NUM_CYCLES,
        "seeds": size.seeds,
        "rates": {name: found[name]["rate"] for name in METHODS},
        "scores": {**found[ENSEMBLES], **single},
        "curves": curves,
    }


def ensembles(harness, epochs, seeds):
    """Accuracy (%) and loss of the last m snapshots, and of m independent models.

    The independent ones have a cosine each: over a cycle's epochs, or over all.
    """
    from keras_lrs import ensembles
    from keras_lrs.callbacks import SnapshotEnsemble

    cycles = methods.NUM_CYCLES
    images, labels = harness.data.test
    size = harness.evaluated_in(harness.data.test)

    def chosen(method, length):
        def make_callbacks(rate):
            return [methods.make_callback(method, rate)]

        rate, _ = harness.choose(make_callbacks, length, key=method)
        return make_callbacks(rate)

    def scores(members):
        means = [np.mean(members[:m], axis=0) for m in range(1, len(members) + 1)]
        return [accuracy_and_loss(mean, labels) for mean in means]

    found = {example.SNAPSHOTS: [], example.INDEPENDENT: [], FULL: []}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as directory:
            callbacks = [*chosen(methods.CYCLES, epochs), SnapshotEnsemble(directory)]
            model, _ = harness.fit(callbacks, epochs, seed)
            ensemble = ensembles.load(directory, model, activation="softmax")
        members = ensemble.predict_members(images, size, 0)
        found[example.SNAPSHOTS].append(scores(members[::-1]))
        for name, length in ((example.INDEPENDENT, epochs // cycles), (FULL, epochs)):
            members = []
            for number in range(cycles):
                part = 100 * (seed + 100) + number  # Weights of its own.
                callbacks = chosen(methods.SHORT_COSINE, length)
                model, _ = harness.fit(callbacks, length, seed, part=part)
                members.append(softmax(model.predict(images, size, 0)))
            found[name].append(scores(members))
    return found


def softmax(logits):
    """Of the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def accuracy_and_loss(probabilities, labels):
    """In percent, and the mean of minus the logarithm of the right class's."""
    right = probabilities[np.arange(len(labels)), labels]
    accuracy = 100.0 * (probabilities.argmax(-1) == labels).mean()
    return [float(accuracy), float(-np.log(np.maximum(right, 1e-12)).mean())]


def arrays(results):
    """As the example gives them."""
    found = dict(results)
    for name in ("scores", "curves"):
        found[name] = {key: np.array(runs) for key, runs in results[name].items()}
    return found


def judge_restarts(results):
    curves, ours = accuracies(results), example.GROWING
    ends = growing_ends(results)
    yield better(
        f"mean accuracy over all epochs: {ours} above step decay",
        *(curves[name].mean(-1) for name in (ours, example.STEP)),
    )
    yield better(
        f"at the ends of cycles, mean over them: {ours} above step decay there",
        *(curves[name][:, ends].mean(-1) for name in (ours, example.STEP)),
    )
    yield better(
        f"at the end of the run: {ours} above step decay",
        *(curves[name][:, -1] for name in (ours, example.STEP)),
    )


def judge_ensembles(results):
    scores = arrays(results)["scores"]
    ensemble = scores[example.SNAPSHOTS][:, -1, 0]
    last = scores[example.SNAPSHOTS][:, 0, 0]
    yield better("all snapshots are better than the last one", ensemble, last)
    for name in (example.STEP, example.COSINE):
        yield better(
            f"all snapshots are better than a single model, {name}",
            ensemble,
            scores[name][:, 0],
        )
    yield better(
        "all snapshots are better than as many independent models of the same cost",
        ensemble,
        scores[example.INDEPENDENT][:, -1, 0],
    )
    yield no_worse(
        "all snapshots are no worse than as many fully trained independent models",
        ensemble,
        scores[FULL][:, -1, 0],
    )


def accuracies(results):
    """By schedule: an array of seeds and epochs."""
    return {name: runs[:, 0] for name, runs in arrays(results)["curves"].items()}


def equal_ends(results):
    """The epochs, from 0, that end the equal cycles."""
    length = results["epochs"] // results["cycles"]
    return [length * (number + 1) - 1 for number in range(results["cycles"])]


def growing_ends(results):
    """The last whole epoch of each growing cycle: they are 1, 2 and 4 sevenths."""
    return [max(results["epochs"] * part // 7, 1) - 1 for part in (1, 3, 7)]


def restart_tables(results):
    curves, equal = accuracies(results), equal_ends(results)
    parts = {
        "all epochs": slice(None),
        "ends of the growing cycles": growing_ends(results),
        "ends of the equal cycles": equal,
        "the first of these": equal[:1],
        "the last": equal[-1:],
    }
    yield "Test accuracy (%) of each schedule, mean over the epochs of a column, ± the"
    yield "standard deviation over seeds:"
    yield ""
    yield from program.table(
        ["schedule", "rate", *parts],
        [
            [
                LABELS[name],
                f"{results['rates'][name]:g}",
                *(spread(runs[:, p].mean(-1).tolist()) for p in parts.values()),
            ]
            for name, runs in curves.items()
        ],
    )
    ours, step = curves[example.CYCLES], curves[example.STEP]
    growing, cosine = curves[example.GROWING], curves[example.COSINE]
    yield ""
    yield "Equal cycles and a single cosine are not judged. Differences of accuracies,"
    yield "± half the 95 % interval:"
    yield ""
    gaps = {
        "all epochs: growing cycles above one cosine": (
            growing.mean(-1),
            cosine.mean(-1),
        ),
        "all epochs: equal cycles above step decay": (ours.mean(-1), step.mean(-1)),
        "ends of the equal cycles: equal cycles above step decay there": (
            ours[:, equal].mean(-1),
            step[:, equal].mean(-1),
        ),
        "the end of the last equal cycle above that of the first": (
            ours[:, equal[-1]],
            ours[:, equal[0]],
        ),
    }
    yield from program.table(
        ["difference", "measured"],
        [[what, difference("", *pair).by] for what, pair in gaps.items()],
    )


def ensemble_tables(results):
    scores = arrays(results)["scores"]
    yield "Ensembles of models, and single ones, on the test data, ± the standard"
    yield "deviation over seeds:"
    yield ""
    rows = [
        (f"{name}, {m}", scores[name][:, m - 1])
        for name in (example.SNAPSHOTS, example.INDEPENDENT, FULL)
        for m in range(1, results["cycles"] + 1)
    ]
    for name in (example.STEP, example.COSINE):
        rows.append((f"single model, {name}", scores[name]))
    yield from program.table(
        ["models", "accuracy (%)", "loss"],
        [
            [what, spread(runs[:, 0].tolist()), spread(runs[:, 1].tolist(), 4)]
            for what, runs in rows
        ],
    )
    ours = scores[example.SNAPSHOTS][:, :, 0]
    fewer = [
        f"{difference('', ours[:, m - 1], ours[:, 0], unit='').by} with {m}"
        for m in range(2, results["cycles"])
    ]
    if fewer:
        yield ""
        yield from wrap(
            "How much more accurate an ensemble of the last snapshots is than the last "
            f"one, in points, ± half the 95 % interval: {', '.join(fewer)}. This is "
            "not judged."
        )


def setting(results, data, schedules):
    """What both rows share, around the schedules in words."""
    chosen = grid_words(data, SGD, when=" at the end of a run")
    return (
        f"{words_of(data)} {SGD}, {results['epochs']} epochs; {results['seeds']} "
        f"seeds. {schedules} Each schedule uses {chosen}."
    )


def restarts_setting(results, data):
    epochs, cycles = results["epochs"], results["cycles"]
    return setting(
        results,
        data,
        "There are three growing cycles, each twice as long as the one before, and "
        f"{cycles} equal cycles of {epochs // cycles} epochs. Step decay drops at 50 "
        "and 75 %.",
    )


def ensembles_setting(results, data):
    epochs, cycles = results["epochs"], results["cycles"]
    return setting(
        results,
        data,
        f"The snapshots are the ends of {cycles} equal cycles in one run. Independent "
        "models share its training set, but differ in their first weights and the "
        f"order of the data. Each is trained with a cosine, for {epochs // cycles} "
        f"epochs or, if fully trained, for {epochs}. So {cycles} short ones cost as "
        f"much as the snapshots, and {cycles} fully trained ones {cycles} times as "
        "much. Step decay drops at 50 and 75 %.",
    )


def draw(results, path):
    example.draw(arrays(results), results["epochs"], results["cycles"], path)


EXPERIMENT = Experiment(
    "snapshots",
    (
        Row(
            "Warm restarts",
            OVERVIEW,
            "SGDR with cycles that grow is better at any time than step decay.",
            '"At any time" is judged by the mean of the test accuracies over all '
            "epochs, by that over the ends of cycles, where step decay is looked at "
            "after the same epochs of its run, and at the end of the run. Only the "
            "last cycle ends after step decay has dropped. The end of a growing cycle "
            "is its last whole epoch.",
            judge_restarts,
            restart_tables,
            "Loshchilov and Hutter, SGDR, 2016, arXiv:1608.03983",
            restarts_setting,
        ),
        Row(
            "Snapshot ensembles",
            OVERVIEW,
            "Train one, get M for free: an ensemble of the snapshots at the ends of "
            "cycles has a lower error than a single model at no additional training "
            "cost, and compares favorably with traditional ensembles.",
            'Test accuracies are compared. "All snapshots" means the ensemble of them, '
            "as was fixed beforehand; those of fewer are in the table. A single model "
            "is the last snapshot, or one that is trained for as many epochs with "
            "another schedule. Traditional ensembles are as many independent models: "
            "the snapshots must be better than those of the same total cost, and no "
            'worse than those that are fully trained. "No worse" means less than '
            f"{MARGIN:g} points below.",
            judge_ensembles,
            ensemble_tables,
            "Huang et al., 2017, arXiv:1704.00109",
            ensembles_setting,
        ),
    ),
    jobs,
    collect,
    None,
    draw,
)
