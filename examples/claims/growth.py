"""S3a: weight decay is an exponential schedule."""

import exponential_equivalence as example
import numpy as np
import program

from claims.harness import Experiment, Part, Row

CLAIMED = ("constant", "step decay")  # The table has another: its rate ends at 0.
SAME = 1e-9  # Of losses in float64.
STRAIGHT = 1e-6  # Of the growth from one rate to the next.


def run(size):
    steps = size.pick(400, 16)
    data, _ = example.load_data()
    differences, curves = example.compare_all(steps, size.seeds, data)
    return {
        "steps": steps,
        "seeds": size.seeds,
        "differences": differences,
        "curves": {
            name: [[curve.tolist() for curve in pair] for pair in pairs]
            for name, pairs in curves.items()
        },
    }


def curves_of(results):
    return {
        name: tuple(tuple(np.array(curve) for curve in pair) for pair in pairs)
        for name, pairs in results["curves"].items()
    }


def judge(results):
    for name in CLAIMED:
        largest = results["differences"][name][example.COLUMNS[0]]
        yield Part(
            f"{name}: the same losses without weight decay, in float64",
            largest <= SAME,
            f"differ by at most {largest:.1e} in {results['steps']} steps",
        )
    _, _, (_, rates) = curves_of(results)["constant"]
    growth = rates[1:] / rates[:-1]
    off = float(np.abs(growth / growth[0] - 1.0).max())
    yield Part(
        "a constant rate becomes one that grows exponentially",
        bool(growth[0] > 1.0 and off <= STRAIGHT),
        f"by {growth[0]:.4f} every {example.EVERY} steps, the same to {off:.0e}",
    )


def tables(results):
    yield "The largest difference of the losses: in float64, and with Keras's batch"
    yield "normalization in float32 and its epsilon; then how many times larger rate"
    yield "and weights are at the last step than with weight decay:"
    yield ""
    rows, curves = [], curves_of(results)
    for name, by_column in results["differences"].items():
        decayed, plain, (before, after) = curves[name]
        cells = [f"{by_column[column]:.1e}" for column in example.COLUMNS]
        grown = (after[-1] / before[-1], plain[1][-1] / decayed[1][-1])
        rows.append([name, *cells, *(f"{value:.3g}" for value in grown)])
    header = ["schedule", *example.COLUMNS, "rate x", "weights x"]
    yield from program.table(header, rows)


def setting(results):
    return (
        "Two normalized layers of 64 units, SGD with momentum "
        f"{example.MOMENTUM:g} and weight decay {example.WEIGHT_DECAY:g}, "
        f"{results['steps']} steps of {example.BATCH_SIZE} handwritten digits, "
        f"{results['seeds']} seeds, each schedule with weight decay and without; by "
        "`examples/exponential_equivalence.py`."
    )


def draw(results, path):
    example.draw(curves_of(results), path)


EXPERIMENT = Experiment(
    "growth",
    (
        Row(
            "S3a",
            "Li and Arora, Exponential learning rate schedules, ICLR 2020, "
            "arXiv:1910.07454",
            "A constant rate with weight decay, momentum and normalization equals an "
            "exponentially growing rate without weight decay, function for function; "
            "step decay equals the tapered exponential.",
            f"The losses of all steps and seeds differ by at most {SAME:g} in float64, "
            f"with a normalization without epsilon; the growth of the rate from one "
            f"to the next is constant to {STRAIGHT:g}.",
            judge,
            tables,
        ),
    ),
    run,
    setting,
    draw,
)
