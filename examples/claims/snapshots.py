"""SGDR is good at any time, and its snapshots form a good ensemble."""

import tempfile

import numpy as np
import program
import snapshot_ensemble as example

from claims import methods, regime
from claims.experiment import OVERVIEW, Experiment, Row, job
from claims.harness import grid_words, measured, words_of
from claims.judging import MARGIN, Fact, Statement, better, no_worse, spread
from claims.regime import SGD

FULL = "independent, fully trained"
METHODS = {
    example.STEP: methods.STEP,
    example.COSINE: methods.SHORT_COSINE,
    example.CYCLES: methods.CYCLES,
    example.GROWING: methods.GROWING,
}
ENSEMBLES = "ensembles"


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


def judge(results):
    found = arrays(results)
    curves = {name: runs[:, 0] for name, runs in found["curves"].items()}
    step = curves[example.STEP]
    for name, cycles in (
        (example.GROWING, growing_ends(results)),
        (example.CYCLES, equal_ends(results)),
    ):
        yield better(
            f"mean accuracy over all epochs: {name} above step decay",
            curves[name].mean(-1),
            step.mean(-1),
        )
        ends = [end - 1 for end in cycles]
        yield better(
            f"at the ends of cycles, mean over them: {name} above step decay there",
            curves[name][:, ends].mean(-1),
            step[:, ends].mean(-1),
        )
    equal = [end - 1 for end in equal_ends(results)]
    yield better(
        "the end of the last equal cycle is better than that of the first",
        curves[example.CYCLES][:, equal[-1]],
        curves[example.CYCLES][:, equal[0]],
    )
    scores = found["scores"]
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
    text = "all snapshots are no worse than as many fully trained independent models"
    if FULL in scores:
        yield no_worse(text, ensemble, scores[FULL][:, -1, 0])
    else:
        yield Statement(text, Fact("", None, "they were not trained"))


def equal_ends(results):
    """After which epochs the equal cycles end."""
    length = results["epochs"] // results["cycles"]
    return [length * (number + 1) for number in range(results["cycles"])]


def growing_ends(results):
    """The last whole epoch of each growing cycle: they are 1, 2 and 4 sevenths."""
    return [max(results["epochs"] * part // 7, 1) for part in (1, 3, 7)]


def tables(results):
    found = arrays(results)
    scores = found["scores"]

    def cells(runs):
        return [spread(runs[:, 0].tolist()), spread(runs[:, 1].tolist(), 4)]

    yield "On the test data, ± the standard deviation over seeds:"
    yield ""
    rows = [
        [f"{name}, {m}", *cells(scores[name][:, m - 1])]
        for name in (example.SNAPSHOTS, example.INDEPENDENT, FULL)
        if name in scores
        for m in range(1, results["cycles"] + 1)
    ]
    for name in (example.STEP, example.COSINE):
        rows.append([f"single model, {name}", *cells(scores[name])])
    for name, runs in found["curves"].items():
        rows.append([f"mean over all epochs, {name}", *cells(runs.mean(-1))])
    yield from program.table(["models", "accuracy (%)", "loss"], rows)


def setting(results, data):
    epochs, cycles = results["epochs"], results["cycles"]
    return (
        f"{words_of(data)} {SGD}, {epochs} epochs, {cycles} cycles of "
        f"{epochs // cycles} or three that double in length; {results['seeds']} seeds. "
        f"Independent models have a cosine over {epochs // cycles} epochs each, which "
        f"is the cost of the snapshots, or over {epochs}, {cycles} times that cost. "
        f"Each schedule uses {grid_words(SGD)}."
    )


def draw(results, path):
    example.draw(arrays(results), results["epochs"], results["cycles"], path)


EXPERIMENT = Experiment(
    "snapshots",
    (
        Row(
            "Warm restarts and snapshots",
            OVERVIEW,
            "SGDR with cycles that grow is better at any time than step decay; "
            "snapshots at the ends of cycles form an ensemble that beats the single "
            "model.",
            'Test accuracies are compared. "No worse" means less than '
            f"{MARGIN:g} points below. The end of a growing cycle is its last "
            "whole epoch.",
            judge,
            tables,
            "Huang et al., 2017, arXiv:1704.00109",
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
