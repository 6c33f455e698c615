"""Scale invariance: other normalizations, the L2 form, Lemma 1, the last layer."""

import exponential_equivalence as example
import numpy as np
import program

from claims import methods
from claims.experiment import EXPONENTIAL, Experiment, Row, job
from claims.harness import Harness
from claims.judging import MARGIN, Statement, at_most, largest, no_worse, spread

SAME = 1e-9  # Of losses in float64, as for batch normalization.
PARTS = 4  # Of the steps: in later ones the rounding of the first has grown.
ORTHOGONAL, LONGER = 1e-12, 1e-9  # The cosine, and how far 8 |g(8 w)| is from |g(w)|.
SETTLED = 0.1  # How much norm(w)^2 / rate changes in the last quarter, relatively.
SCHEDULES = ("constant", "step decay")
VARIANTS = {
    "layer normalization": {"kind": "layer"},
    "group normalization": {"kind": "group"},
    "batch normalization, L2": {"form": "l2"},
}
HEADS = ("trained", "fixed")
EPOCHS = 20


def jobs(size):
    epochs, steps = size.pick(EPOCHS, 1), size.pick(400, 16)
    return {
        "theorem": job(theorem, seeds=size.few, steps=steps, parts=PARTS),
        **{
            h: job(heads, fixed=h == "fixed", epochs=epochs, seeds=size.seeds)
            for h in HEADS
        },
    }


def collect(found, size):
    return {
        "seeds": size.seeds,
        "epochs": size.pick(EPOCHS, 1),
        **found["theorem"],
        "heads": {name: found[name] for name in HEADS},
    }


def theorem(harness, seeds, steps, parts):
    """On the example's own data: largest differences, Lemma 1, and norms."""
    data, _ = example.load_data()
    schedules = example.make_schedules()
    differences, settled = {}, {}
    for variant, arguments in VARIANTS.items():
        differences[variant], settled[variant] = {}, ([], [])
        for name in SCHEDULES:
            largest = np.zeros(parts)
            for seed in range(seeds):
                decayed, plain, rates = example.compare(
                    schedules[name], None, steps, seed, data, **arguments
                )
                gaps = np.abs(decayed[0] - plain[0]).reshape(parts, -1).max(1)
                largest = np.maximum(largest, gaps)
                if name == "constant":
                    runs = zip(settled[variant], (decayed, plain), rates, strict=True)
                    for quotients, (_, lengths), rate in runs:
                        quotients.append((lengths**2 / rate).tolist())
            differences[variant][name] = largest.tolist()
    lemma = [list(example.lemma(seed, data)) for seed in range(seeds)]
    return {
        "steps": steps,
        "few": seeds,
        "differences": differences,
        "settled": settled,
        "lemma": lemma,
    }


class Headed(Harness):
    """One whose networks have a last layer that is not trained."""

    def make_network(self):
        """That of the others, with a fixed last layer."""
        model = super().make_network()
        model.layers[-1].trainable = False
        return model


def heads(harness, fixed, epochs, seeds):
    """Test accuracies (%) with a last layer that is trained, or not."""
    used = Headed(harness.data, harness.quick) if fixed else harness

    def make_callbacks(rate):
        return [methods.make_callback(methods.SHORT_COSINE, rate)]

    rate, _ = used.choose(make_callbacks, epochs, key=f"cosine, fixed={fixed}")
    accuracies = []
    for seed in range(seeds):
        model, _ = used.fit(make_callbacks(rate), epochs, seed)
        accuracies.append(100.0 - used.score(model, used.data.test)[0])
    return {"rate": rate, "accuracies": accuracies}


def judge(results):
    cosines, ratios, _ = np.array(results["lemma"]).T
    cosine, off = float(np.abs(cosines).max()), float(np.abs(ratios - 1.0).max())
    yield Statement(
        "Lemma 1: the gradient is orthogonal to the weights, and 1/c as long at c "
        "times the weights",
        at_most("cosine", cosine, ORTHOGONAL, f"at most {cosine:.0e}"),
        at_most(
            "c norm(g(c w)) / norm(g(w)) - 1, c = 8",
            off,
            LONGER,
            f"at most {off:.0e}",
        ),
    )
    differences = results["differences"]
    first = results["steps"] // PARTS
    for variant, by_schedule in differences.items():
        yield Statement(
            f"{variant}: the same losses without weight decay in the first {first} "
            "steps, in float64",
            *(same(name, parts[0]) for name, parts in by_schedule.items()),
        )
    yield Statement(
        f"all of them: the same losses in all {results['steps']} steps",
        *(
            same(f"{variant}, {name}", largest(parts))
            for variant, by_schedule in differences.items()
            for name, parts in by_schedule.items()
        ),
    )
    facts = []
    for variant, curves in results["settled"].items():
        changes = [change(curve) for curve in curves]
        by = " and ".join(f"{one:.1%}" for one in changes)
        facts.append(at_most(variant, largest(changes), SETTLED, f"changes by {by}"))
    yield Statement(
        "norm(w)^2 / rate is constant in the last quarter, with weight decay and "
        "without",
        *facts,
    )
    heads = results["heads"]
    yield no_worse(
        "a fixed last layer costs nothing",
        heads["fixed"]["accuracies"],
        heads["trained"]["accuracies"],
    )


def same(what, difference):
    """Whether losses are the same, to what rounding allows."""
    return at_most(what, difference, SAME, f"differ by at most {difference:.1e}")


def change(curve):
    """How much a curve changes in its last quarter, relatively."""
    last = np.array(curve)[-max(len(curve) // 4, 2) :]
    return float(last.max() / last.min() - 1.0)


def tables(results):
    yield "The largest difference of the losses with weight decay and without, in"
    yield "float64, by steps: a trajectory may amplify the rounding of its first steps."
    yield ""
    part = results["steps"] // PARTS
    rows = [
        [variant, name, *(f"{one:.1e}" for one in largest)]
        for variant, by_schedule in results["differences"].items()
        for name, largest in by_schedule.items()
    ]
    ends = [f"to step {part * (number + 1)}" for number in range(PARTS)]
    yield from program.table(["network", "schedule", *ends], rows)
    yield ""
    yield "Test accuracy (%), ± the standard deviation over seeds:"
    yield ""
    rows = [
        [f"last layer {name}", f"{one['rate']:g}", spread(one["accuracies"])]
        for name, one in results["heads"].items()
    ]
    yield from program.table(["network", "rate", "accuracy (%)"], rows)


def setting(results, data):
    return (
        "Two normalized layers of 64 units, SGD with momentum "
        f"{example.MOMENTUM:g}, {results['steps']} steps of {example.BATCH_SIZE} "
        f"handwritten digits, {results['few']} seeds, by "
        "`examples/exponential_equivalence.py`. The last layer is compared on the "
        f"network and the data of the other claims, {results['epochs']} epochs of a "
        f"cosine at the best rate of each, {results['seeds']} seeds."
    )


def draw(results, path):
    """norm(w)^2 over the rate, with weight decay and without."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (variant, curves) in enumerate(results["settled"].items()):
        for curve, line in zip(curves, ("-", "--"), strict=True):
            steps = example.EVERY * np.arange(1, len(curve) + 1)
            label = variant if line == "-" else None
            axes.plot(steps, curve, f"C{number}{line}", label=label)
    axes.set(
        xlabel="step", ylabel="norm(w)^2 / rate, first kernel", yscale="log",
        title="with weight decay, and (dashed) without: the same curve",
    )  # fmt: skip
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


EXPERIMENT = Experiment(
    "normalizations",
    (
        Row(
            "Normalizations and forms of weight decay",
            EXPONENTIAL,
            "By scale invariance the equality holds for layer and group normalization "
            "(and instance normalization, which has a group for each channel) and for "
            "L2 regularization, too; norm(w)^2 / rate settles; a fixed last layer "
            "costs nothing.",
            f'"The same losses" differ by at most {SAME:g} in float64; Lemma 1 holds '
            f'to {ORTHOGONAL:g} and {LONGER:g}; "constant" means to within '
            f'{100.0 * SETTLED:g} %; a fixed last layer "costs nothing" if the '
            f"accuracies are less than {MARGIN:g} points below.",
            judge,
            tables,
            "Li and Arora, ICLR 2020, arXiv:1910.07454",
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
    swaps=False,
)
