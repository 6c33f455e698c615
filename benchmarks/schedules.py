"""Measures the schedules beside those of Keras, optax and PyTorch, and prints tables.

    python benchmarks/schedules.py [--backends tensorflow jax torch] [--quick]
                                   [--output docs/performance.md]

Every backend is measured in a process of its own. The tables are Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from accuracy import NUM_RESTARTS
from contenders import KERAS, OPTAX, OURS, RESTARTS, ROWS, TORCH
from intervals import ABOVE, MET, Estimate
from report import add_outputs, aim_cell, aims_part, aims_table, publish, table
from timing import (
    AGAIN,
    CONTROL,
    EAGER,
    GRAPH,
    JAX,
    JAX_CHAIN,
    XLA,
    XLA_CHAIN,
)

TITLE = "# Performance of the schedules"
BACKENDS = ("tensorflow", "jax", "torch")
MEASURED_IN = {
    GRAPH: ("us", 1e6),
    XLA: ("ns", 1e9),
    XLA_CHAIN: ("ns", 1e9),
    JAX: ("ns", 1e9),
    JAX_CHAIN: ("ns", 1e9),
    EAGER: ("us", 1e6),
}
PEERS = {
    GRAPH: (KERAS,),
    XLA: (KERAS,),
    XLA_CHAIN: (KERAS,),
    JAX: (KERAS, OPTAX),
    JAX_CHAIN: (KERAS, OPTAX),
    EAGER: (KERAS, TORCH),
}
CHAINED = "Each step depends on the last value, so evaluations do not overlap. "
# Seconds, for a formula and for a table. None: as much as Keras's schedule takes.
TARGETS = {
    GRAPH: (None, 15e-6),
    XLA: (50e-9, 100e-9),
    JAX: (20e-9, 60e-9),
    EAGER: (10e-6, 10e-6),
}
# Tables with thousands of boundaries, for each of which Keras and optax have an
# operation or more. TensorFlow does not get to the end of building such a graph.
NOT_RUN = dict.fromkeys((GRAPH, XLA, XLA_CHAIN), "not run: does not finish")
LARGEST_ERROR = 1e-6
LONGEST_IMPORT = 0.15
IMPORT = "import keras_lrs after it"


def measured(backend, quick):
    """What this process, which runs on `backend`, finds out."""
    import accuracy
    import sizes
    import timing

    return {
        "timings": timing.measure(backend, quick),
        "sizes": sizes.measure(backend),
        "accuracy": accuracy.measure(backend),
    }


def measured_in_a_process(backend, quick):
    print(f"Measuring on {backend} ...", file=sys.stderr)
    command = [sys.executable, __file__, "--measure", backend]
    done = subprocess.run(
        command + ["--quick"] * quick,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured_imports(arguments):
    """The import on the cheapest of the backends, JAX if it is among them."""
    import imports

    backend = "jax" if "jax" in arguments.backends else arguments.backends[-1]
    print(f"Measuring imports on {backend} ...", file=sys.stderr)
    return {"backend": backend, "seconds": imports.measure(backend, arguments.quick)}


# --- The tables -----------------------------------------------------------------------


def markdown(results, imports):
    """All that is said of schedules; results by backend."""
    timings, sizes, accuracies = by_kind(results)
    sections = [TITLE]
    sections += [timing_section(mode, samples) for mode, samples in timings.items()]
    if any(sizes.values()):
        sections.append(sizes_section(sizes))
    sections += [accuracy_section(accuracies), restarts_section(accuracies)]
    sections.append(imports_section(imports))
    return "\n\n".join(sections)


def by_kind(results):
    timings, sizes, accuracies = {}, {}, {}
    for backend, result in results.items():
        timings |= result["timings"]
        sizes[backend] = result["sizes"]
        accuracies[backend] = result["accuracy"]
    return timings, sizes, accuracies


def aims_of(results, imports):
    """The aims of all that is measured here, and whether they were met."""
    timings, _, accuracies = by_kind(results)
    return "\n\n".join(
        [
            aims_part(TITLE, *timing_aims(timings)),
            aims_table(*accuracy_aims(accuracies)),
            aims_table(*imports_aim(imports)),
        ]
    )


# --- Time -----------------------------------------------------------------------------


def timing_section(mode, samples):
    unit, factor = MEASURED_IN[mode]
    control = empty_loop(samples)
    found = costs(samples)
    rows = [timing_row(mode, row, found[row.name]) for row in ROWS]
    return "\n\n".join(
        [
            f"## One evaluation: {mode}, {unit}",
            table(["schedule", OURS, *PEERS[mode]], rows),
            (CHAINED if mode in (XLA_CHAIN, JAX_CHAIN) else "")
            + f"Each cell is the median of {len(control)} interleaved rounds with its "
            "95 % interval, less the faster of the round's two empty loops, which "
            f"takes {statistics.median(control) * factor:.3g} {unit} per step. "
            + noise(mode, samples),
        ]
    )


def empty_loop(samples):
    return list(map(min, samples[CONTROL][OURS], samples[CONTROL][AGAIN]))


def costs(samples):
    """Estimates the seconds of each evaluation, without the loop of the same round."""
    control = empty_loop(samples)
    return {
        row: {
            name: Estimate.of([s - e for s, e in zip(found, control, strict=True)])
            for name, found in contenders.items()
        }
        for row, contenders in samples.items()
    }


def timing_row(mode, row, found):
    _, factor = MEASURED_IN[mode]
    cells = [row.name, found[OURS].cell(factor, digits=1)]
    for peer in PEERS[mode]:
        if peer in found:
            cells.append(found[peer].cell(factor, digits=1))
        elif row.too_large:
            cells.append(NOT_RUN.get(mode, "not run"))
        else:
            cells.append("-")
    return cells


def timing_aims(timings):
    """The modes that have aims, and a row of cells by mode for each schedule."""
    found = {mode: costs(timings[mode]) for mode in timings if mode in TARGETS}
    rows = [
        (
            row.name,
            {mode: timing_aim(mode, row, found[mode]) for mode in found},
        )
        for row in ROWS
    ]
    header = {mode: f"{mode}, {MEASURED_IN[mode][0]}" for mode in found}
    rows = [
        (name, {header[m]: cell for m, cell in cells.items()}) for name, cells in rows
    ]
    return list(header.values()), rows


def timing_aim(mode, row, found):
    _, factor = MEASURED_IN[mode]
    cosine = found["cosine"]
    gap = abs(cosine[OURS].median - cosine[AGAIN].median)
    return aim_cell(found[row.name][OURS], target_of(mode, row, found), gap, factor, 1)


def target_of(mode, row, found):
    """Seconds: of the table, or those of Keras's schedule, or else of its restarts."""
    target = TARGETS[mode][row.is_table]
    if target is not None:
        return target
    peer = row.name if KERAS in found[row.name] else RESTARTS.name
    return found[peer][KERAS].median


def noise(mode, samples):
    ratios = [
        statistics.median(samples[row][AGAIN]) / statistics.median(samples[row][OURS])
        for row in (CONTROL, "cosine")
    ]
    return (
        f"Noise: the ratio of two identical empty loops is {ratios[0]:.3f}, of two "
        f"loops over identical cosines {ratios[1]:.3f}."
    )


# --- Size -----------------------------------------------------------------------------


def sizes_section(sizes):
    columns = [
        (backend, contender)
        for backend, contenders in (
            ("tensorflow", (OURS, KERAS)),
            ("jax", (OURS, KERAS, OPTAX)),
        )
        if backend in sizes
        for contender in contenders
    ]
    names = {"tensorflow": "graph nodes", "jax": "jaxpr equations"}
    header = ["schedule", *(f"{names[b]}, {contender}" for b, contender in columns)]
    rows = [
        [row.name, *(str(sizes[b][row.name].get(c, "-")) for b, c in columns)]
        for row in ROWS
    ]
    return f"## Size of the compiled program\n\n{table(header, rows)}"


# --- Accuracy -------------------------------------------------------------------------


def accuracy_section(accuracies):
    header = ["schedule", "backend", OURS, KERAS, OPTAX]
    rows = []
    for backend, accuracy in accuracies.items():
        for case, errors in accuracy["errors"].items():
            cells = [error_cell(errors.get(name)) for name in (OURS, KERAS, OPTAX)]
            rows.append([case, backend, *cells])
    return "\n\n".join(
        [
            "## Largest relative error in float32, compiled",
            table(header, rows),
            "The reference is float64. The steps are the first and the last 1,000, the "
            "neighbourhood of 2**24, every restart and 1,000 random ones. An error of "
            "1 means a rate of 0 where it should not be 0. A larger error means the "
            "wrong cycle, or a rate that does not decay.",
        ]
    )


def error_cell(error):
    return "-" if error is None else f"{error:.2g}"


def restarts_section(accuracies):
    header = ["backend", "contender", "missed", "the first one"]
    rows = [
        [
            backend,
            contender,
            f"{len(missed)} of {NUM_RESTARTS}",
            f"{missed[0]:,}" if missed else "-",
        ]
        for backend, accuracy in accuracies.items()
        for contender, missed in accuracy["missed"].items()
    ]
    return "\n\n".join(
        [
            "## Restarts missed up to step 2**31, t_mul=2, first cycle 1,000 steps",
            table(header, rows),
            "A restart is missed if the rate is not low at the step before it, or not "
            "high at the restart or the step after it.",
        ]
    )


def accuracy_aims(accuracies):
    """The backends, and rows for the errors and for the restarts that are missed."""
    cases = list(next(iter(accuracies.values()))["errors"])
    rows = [
        (
            f"error, {case}",
            {
                backend: exact_cell(found["errors"][case][OURS], LARGEST_ERROR)
                for backend, found in accuracies.items()
            },
        )
        for case in cases
    ]
    missed = {
        backend: exact_cell(len(found["missed"][OURS]), 0)
        for backend, found in accuracies.items()
    }
    return list(accuracies), [*rows, ("restarts missed", missed)]


def exact_cell(found, aim):
    """What has no noise is above its aim or is not."""
    return f"{MET if found <= aim else ABOVE}: {found:.2g}, aim {aim:g}"


# --- Import ---------------------------------------------------------------------------


def imports_section(imports):
    found = imports["seconds"]
    rows = [[name, Estimate.of(s).cell(digits=3)] for name, s in found.items()]
    return "\n\n".join(
        [
            "## Import",
            table(["", "seconds"], rows),
            f"Each cell is the median of {len(found[IMPORT])} fresh processes on "
            f"{imports['backend']}, with its 95 % interval.",
        ]
    )


def imports_aim(imports):
    cell = aim_cell(Estimate.of(imports["seconds"][IMPORT]), LONGEST_IMPORT, digits=3)
    return [imports["backend"]], [(IMPORT, {imports["backend"]: cell})]


# --- The program ----------------------------------------------------------------------


def main():
    arguments = parsed_arguments()
    if arguments.measure:
        print(json.dumps(measured(arguments.measure, arguments.quick)))
        return
    results = {
        backend: measured_in_a_process(backend, arguments.quick)
        for backend in arguments.backends
    }
    imports = measured_imports(arguments)
    part, aims = markdown(results, imports), aims_of(results, imports)
    publish(__file__, arguments, part, {**results, "imports": imports}, aims)


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    add_outputs(parser)
    parser.add_argument("--measure", choices=BACKENDS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
