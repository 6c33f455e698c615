"""SGDR is good at any time, and its snapshots form a good ensemble."""

import numpy as np
import program
import snapshot_ensemble as example

from claims.experiment import OVERVIEW, Experiment, Row
from claims.judging import MARGIN, Fact, Statement, better, no_worse, spread

FULL = "independent, fully trained"


def run(size):
    epochs, cycles = size.pick((40, 5), (4, 2))
    found = example.compare("digits", example.load_data(), epochs, cycles, size.seeds)
    for name in ("scores", "curves"):
        found[name] = {key: runs.tolist() for key, runs in found[name].items()}
    for name in ("within", "completed"):
        found[name] = found[name].tolist()
    return {"epochs": epochs, "cycles": cycles, "seeds": size.seeds, **found}


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
        for name in (example.SNAPSHOTS, example.INDEPENDENT)
        for m in range(1, results["cycles"] + 1)
    ]
    for name in (example.STEP, example.COSINE):
        rows.append([f"single model, {name}", *cells(scores[name])])
    for name, runs in found["curves"].items():
        rows.append([f"mean over all epochs, {name}", *cells(runs.mean(-1))])
    yield from program.table(["models", "accuracy (%)", "loss"], rows)


def setting(results):
    epochs, cycles = results["epochs"], results["cycles"]
    return (
        f"The convolutional network of `examples/quickstart.py`, SGD with momentum "
        f"0.9, 1,347 handwritten digits and 450 to test, {epochs} epochs in all for "
        f"every method, {cycles} cycles of {epochs // cycles}, or three that double "
        f"in length; {results['seeds']} seeds, by `examples/snapshot_ensemble.py`."
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
            "Test accuracies are compared. No worse is less than "
            f"{MARGIN:g} points below. The end of a growing cycle is its last "
            "whole epoch.",
            judge,
            tables,
            "Huang et al., 2017, arXiv:1704.00109",
        ),
    ),
    run,
    setting,
    draw,
)
