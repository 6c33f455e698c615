"""Scale invariance: other normalizations, the L2 form, and Lemma 1."""

import exponential_equivalence as example
import numpy as np
import program

from claims.experiment import EXPONENTIAL, Experiment, Row, job, wrap
from claims.growth import SAME, first_steps, same_losses
from claims.judging import Statement, at_most, difference, largest

ORTHOGONAL, LONGER = 1e-12, 1e-9  # The cosine, and how far 3 |g(3 w)| is from |g(w)|.
SETTLED = 10.0  # How much norm(w)^2 / rate changes to the last quarter, in percent.
SCHEDULES = ("constant", "step decay")
VARIANTS = {
    "layer normalization": {"kind": "layer"},
    "group normalization": {"kind": "group"},
    "batch normalization, L2": {"form": "l2"},
}


def jobs(size):
    steps = size.pick(400, 16)
    return {
        variant: job(theorem, variant=variant, seeds=size.seeds, steps=steps)
        for variant in VARIANTS
    } | {"lemma": job(lemma, seeds=size.seeds)}


def collect(found, size):
    return {
        "seeds": size.seeds,
        "steps": size.pick(400, 16),
        "lemma": found["lemma"],
        **{
            key: {variant: found[variant][key] for variant in VARIANTS}
            for key in ("differences", "settled")
        },
    }


def lemma(harness, seeds):
    """The cosine of weights and gradient, and the gradient at longer weights, by seed.

    On the example's own data.
    """
    data, _ = example.load_data()
    return [list(example.lemma(seed, data)) for seed in range(seeds)]


def theorem(harness, variant, seeds, steps):
    """On the example's own data: largest differences of losses, and norms by seed."""
    data, _ = example.load_data()
    schedules = example.make_schedules()
    differences, settled = {}, ([], [])
    for name in SCHEDULES:
        differences[name] = np.zeros(example.PARTS)
        for seed in range(seeds):
            decayed, plain, rates = example.compare(
                schedules[name], None, steps, seed, data, **VARIANTS[variant]
            )
            # `max` would pass over the nan of a seed that diverged.
            differences[name] = np.maximum(
                differences[name], example.gaps(decayed, plain)
            )
            if name == "constant":
                runs = zip(settled, (decayed, plain), rates, strict=True)
                for quotients, (_, lengths), rate in runs:
                    quotients.append((lengths**2 / rate).tolist())
    return {
        "differences": {name: each.tolist() for name, each in differences.items()},
        "settled": settled,
    }


def judge(results):
    cosines, ratios, _ = np.array(results["lemma"]).T
    cosine, off = float(np.abs(cosines).max()), float(np.abs(ratios - 1.0).max())
    yield Statement(
        "Lemma 1: the gradient is orthogonal to the weights, and 1/c as long at c "
        "times the weights",
        at_most("cosine", cosine, ORTHOGONAL, f"at most {cosine:.0e}"),
        at_most(
            "c norm(g(c w)) / norm(g(w)) - 1, c = 3",
            off,
            LONGER,
            f"at most {off:.0e}",
        ),
    )
    differences = results["differences"]
    for variant, by_schedule in differences.items():
        yield Statement(
            f"{variant}: the same losses without weight decay in the first "
            f"{first_steps(results)} steps, in float64",
            *(same_losses(n, parts[0], SAME) for n, parts in by_schedule.items()),
        )
    yield Statement(
        f"all of them: the same losses in all {results['steps']} steps",
        *(
            same_losses(f"{variant}, {name}", largest(parts), SAME)
            for variant, by_schedule in differences.items()
            for name, parts in by_schedule.items()
        ),
    )
    yield Statement(
        "norm(w)^2 / rate settles: the last quarter of the steps has the same mean as "
        "the one before",
        *(
            difference(
                f"{variant}, {side}",
                changes(decayed),
                [0.0] * len(decayed),
                margin=SETTLED,
                unit="%",
                digits=1,
                sign=sign,
            )
            for variant, (decayed, _) in results["settled"].items()
            for side, sign in (("does not fall", 1), ("does not rise", -1))
        ),
    )


def quarters(curves):
    """The last quarter of each curve, and the one before."""
    curves = np.array(curves)
    length = max(curves.shape[1] // 4, 1)
    return curves[:, -length:], curves[:, -2 * length : -length]


def changes(curves):
    """By how many percent the last quarter of each curve is above the one before.

    It is that of the means: a curve fluctuates with its batches.
    """
    last, before = (part.mean(1) for part in quarters(curves))
    return (100.0 * (last / before - 1.0)).tolist()


def fluctuation(curves):
    """How far a single curve's highest point of the last quarter is above its lowest.

    It is that of the curve where this is most, relatively.
    """
    last, _ = quarters(curves)
    return largest(last.max(1) / last.min(1) - 1.0)


def tables(results):
    yield from wrap(
        "The largest difference, with weight decay and without, of the mean losses of "
        f"every {example.EVERY} steps, in float64. A trajectory may amplify the "
        "rounding of its first steps:"
    )
    yield ""
    part = first_steps(results)
    rows = [
        [variant, name, *(f"{one:.1e}" for one in largest)]
        for variant, by_schedule in results["differences"].items()
        for name, largest in by_schedule.items()
    ]
    spans = [f"steps {part * n + 1} to {part * (n + 1)}" for n in range(example.PARTS)]
    yield from program.table(["network", "schedule", *spans], rows)
    yield ""
    yield from wrap(
        "norm(w)^2 / rate of the first kernel at a constant rate: its mean over seeds "
        "and steps; how far a single curve's highest point of the last quarter is "
        "above its lowest, in the seed with the largest such range; and its value "
        "without weight decay divided by that with it, over all steps and seeds:"
    )
    yield ""
    rows = []
    for variant, (decayed, plain) in results["settled"].items():
        ratio = np.array(plain) / np.array(decayed)
        times = f"{ratio.min():.4f} to {ratio.max():.4f}"
        for decay, curves, cell in (("with", decayed, ""), ("without", plain, times)):
            last, before = (f"{part.mean():.1f}" for part in quarters(curves))
            rows.append(
                [variant, decay, before, last, f"{fluctuation(curves):.0%}", cell]
            )
    header = ["network", "weight decay", "third quarter", "last quarter"]
    header += ["a curve varies by", "without / with"]
    yield from program.table(header, rows)


def setting(results, data):
    decoupled, term = (f"{example.DECAYS[form]:g}" for form in ("decoupled", "l2"))
    return (
        "Two normalized layers of 64 units and a last layer that is not trained, SGD "
        f"with momentum {example.MOMENTUM:g} and decoupled weight decay {decoupled}, "
        f"or {term} as L2 regularization, {results['steps']} steps of "
        f"{example.BATCH_SIZE} handwritten digits, {results['seeds']} seeds with the "
        "same data, by `examples/exponential_equivalence.py`. Group normalization has "
        "8 groups."
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
            "By scale invariance the gradient is orthogonal to the weights, and "
            "multiplying the weights by c divides it by c (Lemma 1); the equality "
            "holds for layer and group normalization and for L2 regularization, too; "
            "norm(w)^2 / rate settles.",
            '"The same losses" means that for all seeds the mean losses of every '
            f"{example.EVERY} steps differ by at most {SAME:g} in float64. In Lemma 1 "
            f"the cosine must be at most {ORTHOGONAL:g}, and the length exact to "
            f'{LONGER:g}. "Settles" means that, with weight decay, the mean over the '
            f"last quarter of the steps is within {SETTLED:g} % of that over the "
            "quarter before, judged on each side of it; how much single curves "
            "fluctuate is in the table. Without weight decay the quotient is larger by "
            "about the same factor all along, as the last column shows. Instance "
            "normalization, which has a group for each channel, was not tried.",
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
