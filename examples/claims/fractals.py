"""Chebyshev's rates in fractal order."""

import statistics

import fractal as example
import numpy as np
import program

from claims.experiment import OVERVIEW, Experiment, Row, job
from claims.judging import Fact, Statement, at_most, difference, largest

EXACT = 0.01  # How far the measured error may be from the theorem's, relatively.
RESOLVED = 1e-7  # How far above the lowest a loss in float32 differs from it.
TWICE = 0.3  # In log10 of the loss: what "as fast as" may lose.


def run(harness, seeds, quick):
    """The program's runs, on its own data."""
    cycles = (4, 8) if quick else example.CYCLES
    steps = 16 if quick else example.STEPS
    gaps = example.solve_logistic(cycles, seeds, steps)
    return {
        "steps": steps,
        "seeds": seeds,
        "quadratic": [[t, *v] for t, v in example.solve_quadratic(cycles).items()],
        "gaps": {
            name: [cycle, [run.tolist() for run in runs]]
            for name, (cycle, runs) in gaps.items()
        },
    }


def jobs(size):
    return {"all": job(run, seeds=size.seeds, quick=size.quick)}


def collect(found, size):
    return found["all"]


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
    off = largest(abs(ours / theory - 1.0) for ours, theory, _ in quadratic.values())
    yield Statement(
        "on the quadratic, gradient descent with the fractal schedule converges as "
        "fast as accelerated methods: its error is 2 rho^T / (1 + rho^(2T))",
        at_most("", off, EXACT, f"off by at most {100.0 * off:.2g} %"),
    )
    ratios = np.array([constant / ours for ours, _, constant in quadratic.values()])
    least, most = ratios.min(), ratios.max()
    yield Statement(
        "on the quadratic it is better than the best constant rate, whose error is "
        "((M - m) / (M + m))^T",
        Fact(
            "",
            None if np.isnan(least) else bool(least > 1.0),
            f"{least:.3g} to {most:.3g} times smaller",
        ),
    )
    best = example.best_constant(gaps)
    fractals = {n: example.final(gap) for n, gap in gaps.items() if "fractal" in n}
    first = min(fractals, key=fractals.get)
    heavy = next(
        name for name in gaps if name not in fractals and "constant" not in name
    )

    def ends(name):
        return np.log10(np.maximum([run[-1] for run in gaps[name][1]], RESOLVED))

    def lower(other, margin):
        return difference(
            "", ends(first), ends(other), margin, unit="in log10 of the loss", sign=-1
        )

    yield Statement(
        f"outside of the theorem, on logistic regression, the best fractal, "
        f"{first[9:]}, is better than the best constant rate, {best[9:]}",
        lower(best, 0.0),
    )
    yield Statement(
        "outside of the theorem, on logistic regression, it is as fast as an "
        f"accelerated method, {heavy}",
        lower(heavy, TWICE),
    )


def tables(results):
    quadratic, gaps = decoded(results)
    yield "Quadratic: the largest error after a cycle of T steps. Only that of the"
    yield "fractal is measured; the others are formulas."
    yield ""
    yield from program.table(
        ["T", "fractal", "theorem", "best constant rate (formula)"],
        [[f"{t}", *(f"{v:.4e}" for v in values)] for t, values in quadratic.items()],
    )
    yield ""
    yield f"Logistic regression: the loss above the lowest after {results['steps']}"
    yield "steps, mean over seeds, and the least and the largest of them. M is an upper"
    yield "bound of the curvature:"
    yield ""
    best, rows = example.best_constant(gaps), []
    for name, gap in gaps.items():
        if name == best or not name.startswith("constant"):
            runs = [run[-1] for run in gap[1]]
            cells = (statistics.mean(runs), min(runs), max(runs))
            rows.append(["best " * (name == best) + name, *(f"{v:.2e}" for v in cells)])
    yield from program.table(["method", "mean", "least", "largest"], rows)


def setting(results, data):
    return (
        "Gradient descent on all data, in float32: a quadratic with curvatures from "
        f"1/{example.CONDITION:g} to 1, and logistic regression (even or odd) on 640 "
        f"handwritten digits, {results['seeds']} draws of them, {results['steps']} "
        f"steps. There the constant rate is the best of a grid of {example.GRID}. The "
        "fractals and the heavy ball are not tuned: they are set for a quadratic with "
        "the bounds of the loss's curvature, m and M. By `examples/fractal.py`."
    )


def draw(results, path):
    example.draw(*decoded(results), path)


EXPERIMENT = Experiment(
    "fractals",
    (
        Row(
            "Fractal schedules",
            OVERVIEW,
            "Fractal schedules are worth exploring: plain gradient descent converges "
            "as fast as accelerated methods.",
            "The theorem is about quadratics with curvatures from m to M. After T "
            "steps their error is at most 2 rho^T / (1 + rho^(2T)), where rho = "
            "(sqrt(M/m) - 1) / (sqrt(M/m) + 1). No T steps along gradients can "
            f"guarantee less (Chebyshev). So if the error is within {100.0 * EXACT:g} "
            "% of this, the schedule converges as fast as any accelerated method is "
            "guaranteed to. The error of the best constant rate is a formula, too. The "
            "theorem does not apply to logistic regression, whose curvature changes "
            "along the way. There the losses above the lowest, after the last step, "
            'are compared on a log scale: "as fast" means less than twice as large. A '
            f"loss less than {RESOLVED:g} above counts as {RESOLVED:g} above, because "
            "float32 tells no less. The scale of the fractals is not tuned, while the "
            "constant rate is the best of a grid. The best fractal and the best "
            "constant rate are chosen on these runs.",
            judge,
            tables,
            "Agarwal, Goel and Zhang, ICML 2021, arXiv:2103.01338",
        ),
    ),
    jobs,
    collect,
    setting,
    draw,
    swaps=False,
)
