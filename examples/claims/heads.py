"""A network whose last layer is not trained."""

import program

from claims.experiment import EXPONENTIAL, Experiment, Row, job
from claims.harness import Harness, grid_words, measure, words_of
from claims.judging import MARGIN, no_worse, spread
from claims.methods import SHORT_COSINE
from claims.regime import SGD

HEADS = ("trained", "fixed")
EPOCHS = 20


def jobs(size):
    epochs = size.pick(EPOCHS, 1)
    return {
        name: job(trained, fixed=name == "fixed", epochs=epochs, seeds=size.seeds)
        for name in HEADS
    }


def collect(found, size):
    return {"seeds": size.seeds, "epochs": size.pick(EPOCHS, 1), "heads": found}


class Headed(Harness):
    """One whose networks have a last layer that is not trained."""

    def make_network(self):
        """That of the others, with a fixed last layer."""
        model = super().make_network()
        model.layers[-1].trainable = False
        return model


def trained(harness, fixed, epochs, seeds):
    """Test accuracies (%) with a last layer that is trained, or not."""
    used = Headed(harness.data, harness.quick) if fixed else harness
    found = measure(used, SHORT_COSINE, epochs, seeds)
    accuracies = [100.0 - score[2] for score in found["scores"]]
    return {"rate": found["rate"], "accuracies": accuracies}


def judge(results):
    fixed, learned = (
        results["heads"][name]["accuracies"] for name in ("fixed", "trained")
    )
    yield no_worse("a fixed last layer costs nothing", fixed, learned)


def tables(results):
    yield "Test accuracy (%), ± the standard deviation over seeds:"
    yield ""
    rows = [
        [f"last layer {name}", f"{one['rate']:g}", spread(one["accuracies"])]
        for name, one in results["heads"].items()
    ]
    yield from program.table(["network", "rate", "accuracy (%)"], rows)


def setting(results, data):
    return (
        f"{words_of(data)} {SGD}, {results['epochs']} epochs of a cosine, "
        f"{results['seeds']} seeds. A fixed last layer keeps its first weights. Each "
        f"of the two networks uses {grid_words(data, SGD)}."
    )


def draw(results, path):
    """The accuracies of all seeds, with a trained and with a fixed last layer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    runs = [results["heads"][name]["accuracies"] for name in HEADS]
    for pair in zip(*runs, strict=True):
        axes.plot(HEADS, pair, "o-", color="C0", alpha=0.4)
    axes.set(xlabel="last layer", ylabel="test accuracy (%), a line for each seed")
    axes.set_xlim(-0.5, 1.5)
    axes.grid(alpha=0.3)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "heads",
    (
        Row(
            "A fixed last layer",
            EXPONENTIAL,
            "In a normalized network, a last layer that is fixed costs nothing.",
            f'"Costs nothing" means less than {MARGIN:g} points of test accuracy '
            "below. Only the network for MNIST-1D is normalized, so only that outcome "
            "tests the claim; it is much narrower than the published ones.",
            judge,
            tables,
            "Hoffer et al., ICLR 2018, arXiv:1801.04540",
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
)
