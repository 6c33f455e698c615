"""Weight decay is an exponential schedule."""

import itertools

import exponential_equivalence as example
import numpy as np
import program

from claims.experiment import EXPONENTIAL, Experiment, Row, job, wrap
from claims.judging import Fact, Statement, at_most, largest

CLAIMED = ("constant", "step decay")
SAME = 1e-9  # Of losses in float64.
SAME_IN_FLOAT32 = 1e-4
STRAIGHT = 1e-6  # Of the growth from one rate to the next.


def run(harness, seeds, quick):
    """The program's runs, on its own data."""
    steps = 16 if quick else 400
    data, _ = example.load_data()
    differences, curves = example.compare_all(steps, seeds, data)
    return {
        "steps": steps,
        "seeds": seeds,
        "differences": differences,
        "curves": {
            name: [[curve.tolist() for curve in pair] for pair in pairs]
            for name, pairs in curves.items()
        },
    }


def jobs(size):
    return {"all": job(run, seeds=size.seeds, quick=size.quick)}


def collect(found, size):
    return found["all"]


def curves_of(results):
    return {
        name: tuple(tuple(np.array(curve) for curve in pair) for pair in pairs)
        for name, pairs in results["curves"].items()
    }


def first_steps(results):
    """How many steps are in the first part."""
    return results["steps"] // example.PARTS


def same_losses(name, difference, limit):
    """Whether the losses with and without weight decay differ by no more."""
    return at_most(name, difference, limit, f"differ by at most {difference:.1e}")


def judge_in_keras(results):
    found = results["differences"]
    for column in example.COLUMNS:
        if column in (example.EXACT, example.ROUNDED):
            continue
        epsilon = column.removeprefix("BN, ")
        yield Statement(
            f"the same losses without weight decay in the first {first_steps(results)} "
            f"steps, epsilon {epsilon}",
            *(same_losses(n, found[n][column][0], SAME_IN_FLOAT32) for n in CLAIMED),
        )


def judge(results):
    for name in CLAIMED:
        difference = largest(results["differences"][name][example.EXACT])
        yield Statement(
            f"{name}: the same losses without weight decay in all {results['steps']} "
            "steps, in float64",
            same_losses("", difference, SAME),
        )
    yield Statement(
        "a constant rate becomes one that grows exponentially",
        grows_by(results, "constant", 1),
    )
    yield Statement(
        "step decay becomes a rate that grows exponentially between the drops, and "
        "more slowly after each",
        grows_by(results, "step decay", 3),
    )


def grows_by(results, name, phases):
    """Whether the rate grows by one factor in each of so many phases, ever less."""
    _, _, (_, rates) = curves_of(results)[name]
    growth = rates[1:] / rates[:-1]
    drops = np.flatnonzero(growth < 1.0)
    parts = np.split(growth, np.stack([drops, drops + 1], 1).ravel())[::2]
    parts = [part for part in parts if len(part)]  # None is left of a very short run.
    factors = [float(part[0]) for part in parts]
    off = largest([0.0, *(np.abs(part / part[0] - 1.0).max() for part in parts)])
    holds = (
        len(factors) == phases
        and factors[-1] > 1.0
        and all(after < before for before, after in itertools.pairwise(factors))
        and off <= STRAIGHT
    )
    by = ", then ".join(f"{factor:.5g}" for factor in factors)
    return Fact(
        "", holds, f"by {by} every {example.EVERY} steps, the same to {off:.0e}"
    )


def tables(results):
    yield from wrap(
        f"The largest difference of the mean losses of every {example.EVERY} steps, in "
        f"the first {first_steps(results)} steps and in all {results['steps']}: with a "
        "normalization without epsilon in float64 and in float32, and with Keras's "
        "batch normalization (BN) in float32 and its epsilon. In the column float32, "
        "rounding is all that differs from the one before. The source names the "
        f"schedules {' and '.join(CLAIMED)}, and only they are judged. (In a compiled "
        "step, the rate of a cosine has the rounding of a float32.)"
    )
    yield ""
    rows = [
        [
            name,
            *(f"{one[0]:.1e}, {largest(one):.1e}" for one in by_column.values()),
        ]
        for name, by_column in results["differences"].items()
    ]
    yield from program.table(["schedule", *example.COLUMNS], rows)
    yield ""
    yield from wrap(
        "At the last step, the rate without weight decay divided by that with it, and "
        "the same of the length of the first kernel, for one seed:"
    )
    yield ""
    rows, curves = [], curves_of(results)
    for name, (decayed, plain, (before, after)) in curves.items():
        grown = (after[-1] / before[-1], plain[1][-1] / decayed[1][-1])
        rows.append([name, *(f"{value:.3g}" for value in grown)])
    yield from program.table(["schedule", "rates", "lengths"], rows)


def setting(results, data):
    return (
        "Two normalized layers of 64 units and a last layer that is not trained, SGD "
        f"with momentum {example.MOMENTUM:g} and decoupled weight decay "
        f"{example.WEIGHT_DECAY:g}; the equal run without weight decay has a momentum "
        f"of {plain_momentum():.4f}; {results['steps']} steps of {example.BATCH_SIZE} "
        f"handwritten digits, {results['seeds']} seeds with the same data, each "
        "schedule with weight decay and without; by "
        "`examples/exponential_equivalence.py`."
    )


def draw(results, path):
    example.draw(curves_of(results), path)


def plain_momentum():
    """That of the equal run, at the constant rate."""
    from keras_lrs import schedules

    constant = schedules.Constant(example.RATE)
    _, momentum = schedules.without_weight_decay(
        constant, example.WEIGHT_DECAY, 1, example.MOMENTUM
    )
    return float(momentum.curve(1)[0])


MEANS = f"For all seeds, the mean losses of every {example.EVERY} steps"
EXPERIMENT = Experiment(
    "growth",
    (
        Row(
            "Weight decay as exponential growth",
            EXPONENTIAL,
            "A constant rate with weight decay, momentum and normalization equals an "
            "exponentially growing rate without weight decay, function for function; "
            "step decay equals the tapered exponential, whose growth is slower after "
            "each drop.",
            f"{MEANS} differ by at most {SAME:g} in float64, with a normalization "
            "without epsilon. Keras decouples weight decay, so the equal run has "
            "another momentum. The source adds it to the gradient: that form is judged "
            "in [Normalizations and forms of weight "
            "decay](#normalizations-and-forms-of-weight-decay). How the rates grow is "
            f"read off the schedules: the factor of every {example.EVERY} steps must "
            f"be the same to {STRAIGHT:g}.",
            judge,
            tables,
            "Li and Arora, ICLR 2020, arXiv:1910.07454",
        ),
        Row(
            "The same with the batch normalization of Keras",
            EXPONENTIAL,
            "The equality of Li and Arora, tried with Keras's own layer: "
            "`keras.layers.BatchNormalization` in float32, with an epsilon of "
            f"{', '.join(f'{one:g}' for one in example.EPSILONS)}.",
            f"{MEANS} differ by at most {SAME_IN_FLOAT32:g}. Only the first steps are "
            "judged, because later ones amplify rounding more. In some seeds rounding "
            "may do so within them, too: where the column float32, in which rounding "
            "alone differs, has more than this limit, a no does not say whether it "
            "comes from Keras's layer, its epsilon or rounding. What is judged is the "
            "largest difference of all seeds, and more seeds can only make it larger.",
            judge_in_keras,
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
