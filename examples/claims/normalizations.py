"""Scale invariance: other normalizations, the L2 form, Lemma 1, the last layer."""

import exponential_equivalence as example
import numpy as np
import program

from claims import methods
from claims.experiment import EXPONENTIAL, Experiment, Row, job
from claims.harness import Harness, grid_words, words_of
from claims.judging import MARGIN, Statement, at_most, largest, no_worse, spread
from claims.regime import SGD

SAME = 1e-9  # Of losses in float64, as for batch normalization.
PARTS = 4  # Of the steps: in later ones the rounding of the first has grown.
ORTHOGONAL, LONGER = 1e-12, 1e-9  # The cosine, and how far 8 |g(8 w)| is from |g(w)|.
SETTLED = 0.1  # How much norm(w)^2 / rate changes to the last quarter, relatively.
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
    for variant, runs in results["settled"].items():
        changes = [change(curves) for curves in runs]
        by = " and ".join(f"{one:+.1%}" for one in changes)
        largest_change = largest(map(abs, changes))
        facts.append(at_most(variant, largest_change, SETTLED, f"changes by {by}"))
    yield Statement(
        "norm(w)^2 / rate settles: in the last quarter of the steps its level is that "
        "of the quarter before, with weight decay and without",
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


def quarters(curves):
    """The last quarter of each curve, and the one before."""
    curves = np.array(curves)
    length = max(curves.shape[1] // 4, 1)
    return curves[:, -length:], curves[:, -2 * length : -length]


def levels(curves):
    """The means of the last quarter and of the one before, over steps and seeds.

    A single curve fluctuates with its batches, wherever its level is.
    """
    return [float(part.mean()) for part in quarters(curves)]


def change(curves):
    """How much the level of the last quarter is above that before, relatively."""
    last, before = levels(curves)
    return last / before - 1.0


def fluctuation(curves):
    """How far a single curve's highest point of the last quarter is above its lowest.

    It is that of the curve where this is most, relatively.
    """
    last, _ = quarters(curves)
    return largest(last.max(1) / last.min(1) - 1.0)


def tables(results):
    yield "The largest difference, with weight decay and without, of the mean losses of"
    yield f"every {example.EVERY} steps, in float64. A trajectory may amplify the"
    yield "rounding of its first steps:"
    yield ""
    part = results["steps"] // PARTS
    rows = [
        [variant, name, *(f"{one:.1e}" for one in largest)]
        for variant, by_schedule in results["differences"].items()
        for name, largest in by_schedule.items()
    ]
    spans = [f"steps {part * n + 1} to {part * (n + 1)}" for n in range(PARTS)]
    yield from program.table(["network", "schedule", *spans], rows)
    yield ""
    yield "norm(w)^2 / rate of the first kernel at a constant rate: its level, the mean"
    yield "over seeds and steps; how far a single curve's highest point of the last"
    yield "quarter is above its lowest, in the seed where this is most; and how many"
    yield "times as large it is without weight decay as with it, over all steps and"
    yield "seeds:"
    yield ""
    rows = []
    for variant, (decayed, plain) in results["settled"].items():
        ratio = np.array(plain) / np.array(decayed)
        times = f"{ratio.min():.4f} to {ratio.max():.4f}"
        for decay, curves, cell in (("with", decayed, ""), ("without", plain, times)):
            last, before = (f"{level:.1f}" for level in levels(curves))
            rows.append(
                [variant, decay, before, last, f"{fluctuation(curves):.0%}", cell]
            )
    header = ["network", "weight decay", "third quarter", "last quarter"]
    header += ["a curve varies by", "without / with"]
    yield from program.table(header, rows)
    yield ""
    yield "Test accuracy (%), ± the standard deviation over seeds:"
    yield ""
    rows = [
        [f"last layer {name}", f"{one['rate']:g}", spread(one["accuracies"])]
        for name, one in results["heads"].items()
    ]
    yield from program.table(["network", "rate", "accuracy (%)"], rows)


def setting(results, data):
    decoupled, term = (f"{example.DECAYS[form]:g}" for form in ("decoupled", "l2"))
    return (
        "Two normalized layers of 64 units, SGD with momentum "
        f"{example.MOMENTUM:g} and weight decay {decoupled}, or {term} as L2 "
        f"regularization, {results['steps']} steps of {example.BATCH_SIZE} handwritten "
        f"digits, {results['few']} seeds with the same data, by "
        "`examples/exponential_equivalence.py`. The last layer is compared in other "
        f"runs: {words_of(data)} {SGD}, {results['epochs']} epochs of a cosine, "
        f"{results['seeds']} seeds. The network with a trained last layer and that "
        f"with a fixed one each use {grid_words(data, SGD, when=' at the end,')}."
    )


def draw(results, path):
    """norm(w)^2 over the rate, with weight decay and without: means over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (variant, runs) in enumerate(results["settled"].items()):
        for curves, line in zip(runs, ("-", "--"), strict=True):
            curve = np.mean(curves, axis=0)
            steps = example.EVERY * np.arange(1, len(curve) + 1)
            label = variant if line == "-" else None
            axes.plot(steps, curve, f"C{number}{line}", label=label)
    axes.set(
        xlabel="step", ylabel="norm(w)^2 / rate, first kernel", yscale="log",
        title="means over seeds, with weight decay and (dashed) without",
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
            "By scale invariance the gradient is orthogonal to the weights, and 1/c as "
            "long at c times the weights (Lemma 1); the equality holds for layer and "
            "group normalization (and instance normalization, which has a group for "
            "each channel) and for L2 regularization, too; norm(w)^2 / rate settles; a "
            "fixed last layer costs nothing.",
            '"The same losses" means that for all seeds the mean losses of every '
            f"{example.EVERY} steps differ by at most {SAME:g} in float64. Lemma 1 "
            f'holds to {ORTHOGONAL:g} and {LONGER:g}. "Settles" means that the mean '
            "over all seeds and the last quarter of the steps is within "
            f"{100.0 * SETTLED:g} % of that over the quarter before; how much single "
            'curves fluctuate is in the table. A fixed last layer "costs nothing" if '
            f"the accuracies are less than {MARGIN:g} points below.",
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
