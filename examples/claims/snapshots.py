"""S1b: SGDR is good at any time, and its snapshots form a good ensemble."""

import numpy as np
import program
import snapshot_ensemble as example

from claims.harness import Experiment, Row, better, spread


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
    curves = {name: runs[:, 0].mean(-1) for name, runs in found["curves"].items()}
    for name in (example.GROWING, example.CYCLES):
        yield better(
            f"mean accuracy over all epochs: {name} above step decay",
            curves[name],
            curves[example.STEP],
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
            "S1b",
            "Wolfe, The Best Learning Rate Schedules; Huang et al., 2017, "
            "arXiv:1704.00109",
            "SGDR with cycles that grow is better at any time than step decay; "
            "snapshots at the ends of cycles form an ensemble that beats the single "
            "model.",
            "Better means that the 95 % interval (Student) of the differences of test "
            "accuracies within seeds lies above 0.",
            judge,
            tables,
        ),
    ),
    run,
    setting,
    draw,
)
