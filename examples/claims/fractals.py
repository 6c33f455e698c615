"""S1f: Chebyshev's rates in fractal order."""

import statistics

import fractal as example
import numpy as np
import program

from claims.harness import Experiment, Part, Row

EXACT = 0.01  # How far the measured error may be from the theorem's, relatively.


def run(size):
    cycles = size.pick(example.CYCLES, (4, 8))
    steps = size.pick(example.STEPS, 16)
    gaps = example.solve_logistic(cycles, size.seeds, steps)
    return {
        "steps": steps,
        "seeds": size.seeds,
        "quadratic": [[t, *v] for t, v in example.solve_quadratic(cycles).items()],
        "gaps": {
            name: [cycle, [run.tolist() for run in runs]]
            for name, (cycle, runs) in gaps.items()
        },
    }


def decoded(results):
    """The errors of the quadratic, and the gaps of logistic regression."""
    quadratic = {cycle: tuple(values) for cycle, *values in results["quadratic"]}
    gaps = {
        name: (cycle, [np.array(run) for run in runs])
        for name, (cycle, runs) in results["gaps"].items()
    }
    return quadratic, gaps


def judge(results):
    quadratic, gaps = decoded(results)
    off = {t: abs(ours / theory - 1.0) for t, (ours, theory, _) in quadratic.items()}
    yield Part(
        "the quadratic's error is 2 rho^T / (1 + rho^2T)",
        max(off.values()) <= EXACT,
        f"off by at most {100.0 * max(off.values()):.2g} %",
    )
    ratios = {t: constant / ours for t, (ours, _, constant) in quadratic.items()}
    yield Part(
        "on the quadratic it is better than the best constant rate",
        min(ratios.values()) > 1.0,
        f"{min(ratios.values()):.3g} to {max(ratios.values()):.3g} times smaller",
    )
    best = example.best_constant(gaps)
    fractals = {n: example.final(gap) for n, gap in gaps.items() if "fractal" in n}
    first = min(fractals, key=fractals.get)
    yield Part(
        "on logistic regression a fractal is better than the best constant rate",
        fractals[first] < example.final(gaps[best]),
        f"{first}: {fractals[first]:.1e}; {best}: {example.final(gaps[best]):.1e}",
    )


def tables(results):
    quadratic, gaps = decoded(results)
    yield "Quadratic: the largest error after a cycle of T steps."
    yield ""
    yield from program.table(
        ["T", "fractal", "theorem", "best constant rate"],
        [[f"{t}", *(f"{v:.4e}" for v in values)] for t, values in quadratic.items()],
    )
    yield ""
    yield f"Logistic regression: the loss above the lowest after {results['steps']}"
    yield "steps, mean over seeds, and the least and the largest of them:"
    yield ""
    best, rows = example.best_constant(gaps), []
    for name, gap in gaps.items():
        if name == best or not name.startswith("constant"):
            runs = [run[-1] for run in gap[1]]
            cells = (statistics.mean(runs), min(runs), max(runs))
            rows.append(["best " * (name == best) + name, *(f"{v:.2e}" for v in cells)])
    yield from program.table(["method", "mean", "least", "largest"], rows)


def setting(results):
    return (
        f"Gradient descent on all data, in float32: a quadratic with curvatures from "
        f"1/{example.CONDITION:g} to 1, and logistic regression (even or odd) on 640 "
        f"handwritten digits, {results['seeds']} draws of them, {results['steps']} "
        f"steps, the constant rate being the best of {example.GRID}; by "
        "`examples/fractal.py`."
    )


def draw(results, path):
    example.draw(*decoded(results), path)


EXPERIMENT = Experiment(
    "fractals",
    (
        Row(
            "S1f",
            "Wolfe, The Best Learning Rate Schedules; Agarwal, Goel and Zhang, ICML "
            "2021, arXiv:2103.01338",
            "Fractal schedules are worth exploring: plain gradient descent converges "
            "as fast as accelerated methods.",
            "Exact means within 1 % of the theorem. Better is a smaller mean at the "
            "last step.",
            judge,
            tables,
        ),
    ),
    run,
    setting,
    draw,
)
