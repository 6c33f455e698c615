"""Weight decay is an exponential schedule."""

import exponential_equivalence as example
import numpy as np
import program

from claims.experiment import EXPONENTIAL, Experiment, Row, job
from claims.judging import Fact, Statement, at_most

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
    return {"all": job(run, seeds=size.few, quick=size.quick)}


def collect(found, size):
    return found["all"]


def curves_of(results):
    return {
        name: tuple(tuple(np.array(curve) for curve in pair) for pair in pairs)
        for name, pairs in results["curves"].items()
    }


def same_losses(results, name, column, limit):
    """Whether the losses with and without weight decay differ by no more."""
    largest = results["differences"][name][column]
    by = f"differ by at most {largest:.1e} in {results['steps']} steps"
    return at_most(name, largest, limit, by)


def judge_in_keras(results):
    for column in example.COLUMNS[1:]:
        epsilon = column.removeprefix("BN, ")
        yield Statement(
            f"the same losses without weight decay, epsilon {epsilon}",
            *(same_losses(results, n, column, SAME_IN_FLOAT32) for n in CLAIMED),
        )


def judge(results):
    for name in CLAIMED:
        yield Statement(
            f"{name}: the same losses without weight decay, in float64",
            same_losses(results, name, example.COLUMNS[0], SAME),
        )
    _, _, (_, rates) = curves_of(results)["constant"]
    growth = rates[1:] / rates[:-1]
    off = float(np.abs(growth / growth[0] - 1.0).max())
    yield Statement(
        "a constant rate becomes one that grows exponentially",
        Fact(
            "",
            bool(growth[0] > 1.0 and off <= STRAIGHT),
            f"by {growth[0]:.4f} every {example.EVERY} steps, the same to {off:.0e}",
        ),
    )


def tables(results):
    yield f"The largest difference of the mean losses of every {example.EVERY} steps:"
    yield "in float64, and with Keras's batch normalization in float32 and its epsilon;"
    yield "then how many times as large as with weight decay the rate is at the last"
    yield "step, and the length of the first kernel for one seed. The source names the"
    yield f"schedules {' and '.join(CLAIMED)}, and only they are judged. (In a compiled"
    yield "step, the rate of a cosine has the rounding of a float32.)"
    yield ""
    rows, curves = [], curves_of(results)
    for name, by_column in results["differences"].items():
        decayed, plain, (before, after) = curves[name]
        cells = [f"{by_column[column]:.1e}" for column in example.COLUMNS]
        grown = (after[-1] / before[-1], plain[1][-1] / decayed[1][-1])
        rows.append([name, *cells, *(f"{value:.3g}" for value in grown)])
    header = ["schedule", *example.COLUMNS, "rate x", "weights x"]
    yield from program.table(header, rows)


def setting(results, data):
    return (
        "Two normalized layers of 64 units, SGD with momentum "
        f"{example.MOMENTUM:g} and weight decay {example.WEIGHT_DECAY:g}, "
        f"{results['steps']} steps of {example.BATCH_SIZE} handwritten digits, "
        f"{results['seeds']} seeds with the same data, each schedule with weight decay "
        "and without; by `examples/exponential_equivalence.py`."
    )


def draw(results, path):
    example.draw(curves_of(results), path)


MEANS = f"For all seeds, the mean losses of every {example.EVERY} steps"
EXPERIMENT = Experiment(
    "growth",
    (
        Row(
            "Weight decay as exponential growth",
            EXPONENTIAL,
            "A constant rate with weight decay, momentum and normalization equals an "
            "exponentially growing rate without weight decay, function for function; "
            "step decay equals the tapered exponential.",
            f"{MEANS} differ by at most {SAME:g} in float64, with a normalization "
            "without epsilon; the factor by which the rate grows in every "
            f"{example.EVERY} steps is the same to {STRAIGHT:g}.",
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
            f"{MEANS} differ by at most {SAME_IN_FLOAT32:g}.",
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
