"""The tables, made from what the processes measured."""

import json
import re
import statistics
from dataclasses import dataclass

from accuracy import NUM_RESTARTS
from contenders import KERAS, OPTAX, OURS, RESTARTS, ROWS, TORCH
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
CHAINED = "A step is only known when the last value is: evaluations do not overlap. "
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


@dataclass(frozen=True)
class Cost:
    """Seconds per evaluation, without the loop: medians and minima of the rounds."""

    median: float
    minimum: float

    @classmethod
    def of(cls, samples, control):
        """What is left of the samples without the empty loop of the same round."""
        pairs = zip(samples, control, strict=True)
        median = statistics.median(sample - empty for sample, empty in pairs)
        return cls(median, min(samples) - min(control))


def markdown(results, imports, environment):
    """The whole report."""
    timings, sizes, accuracies = {}, {}, {}
    for backend, result in results.items():
        timings |= result["timings"]
        sizes[backend] = result["sizes"]
        accuracies[backend] = result["accuracy"]
    sections = [f"# Performance of the schedules\n\n{environment}"]
    sections += [timing_section(mode, timings[mode]) for mode in timings]
    if any(sizes.values()):
        sections.append(sizes_section(sizes))
    sections += [accuracy_section(accuracies), restarts_section(accuracies)]
    sections.append(imports_section(imports))
    return "\n\n".join(sections)


def write_part(path, part):
    """Replaces the part of a report that has the same title, or adds it.

    A title is the first line, a heading of the first level.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = parts_of(text) | parts_of(part)
    path.write_text("\n\n".join(parts.values()) + "\n", encoding="utf-8")


def parts_of(text):
    """The parts of a report, by their titles."""
    parts = [part.strip() for part in re.split(r"(?m)^(?=# )", text)]
    return {part.splitlines()[0]: part for part in parts if part}


def read_results(path):
    """What earlier processes, or other machines, have measured."""
    if path is None or not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def write_results(path, results):
    """Keeps what has been measured so far, if there is a file for it."""
    if path is not None:
        path.write_text(f"{json.dumps(results)}\n", encoding="utf-8")


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- Time -----------------------------------------------------------------------------


def timing_section(mode, samples):
    unit, factor = MEASURED_IN[mode]
    control = list(map(min, samples[CONTROL][OURS], samples[CONTROL][AGAIN]))
    costs = {
        row: {name: Cost.of(found, control) for name, found in contenders.items()}
        for row, contenders in samples.items()
    }
    header = ["schedule", OURS, *PEERS[mode]]
    if mode in TARGETS:
        header += ["target", ""]
    rows = [timing_row(mode, row, costs) for row in ROWS]
    return "\n\n".join(
        [
            f"## One evaluation: {mode}, {unit}",
            table(header, rows),
            (CHAINED if mode in (XLA_CHAIN, JAX_CHAIN) else "")
            + f"Medians of {len(control)} interleaved rounds (minima in parentheses), "
            f"less the faster of the round's two empty loops, which takes "
            f"{statistics.median(control) * factor:.3g} {unit} per step. "
            + noise(mode, samples),
        ]
    )


def timing_row(mode, row, costs):
    found = costs[row.name]
    cells = [row.name, cost_cell(mode, found[OURS])]
    for peer in PEERS[mode]:
        if peer in found:
            cells.append(cost_cell(mode, found[peer]))
        elif row.too_large:
            cells.append(NOT_RUN.get(mode, "not run"))
        else:
            cells.append("-")
    if mode in TARGETS:
        target, text = target_of(mode, row, costs)
        cells += [text, verdict(found[OURS].median, target, cosine_gap(costs))]
    return cells


def cost_cell(mode, cost):
    _, factor = MEASURED_IN[mode]
    return f"{cost.median * factor:.1f} ({cost.minimum * factor:.1f})"


def target_of(mode, row, costs):
    """Seconds, and how the table puts it."""
    _, factor = MEASURED_IN[mode]
    target = TARGETS[mode][row.is_table]
    if target is not None:
        return target, f"{target * factor:g}"
    peer = row.name if KERAS in costs[row.name] else RESTARTS.name
    target = costs[peer][KERAS].median
    text = f"{target * factor:.1f}"
    return target, text if peer == row.name else f"{text} (Keras's restarts)"


def verdict(found, target, noise=0.0):
    if found <= target:
        return "met"
    return "met within noise" if found <= target + noise else "not met"


def cosine_gap(costs):
    """Seconds by which two identical schedules differ."""
    cosine = costs["cosine"]
    return abs(cosine[OURS].median - cosine[AGAIN].median)


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
    header = ["schedule", "backend", OURS, KERAS, OPTAX, "target", ""]
    rows = []
    for backend, accuracy in accuracies.items():
        for case, errors in accuracy["errors"].items():
            cells = [error_cell(errors.get(name)) for name in (OURS, KERAS, OPTAX)]
            target = f"{LARGEST_ERROR:g}"
            met = verdict(errors[OURS], LARGEST_ERROR)
            rows.append([case, backend, *cells, target, met])
    return "\n\n".join(
        [
            "## Largest relative error in float32, compiled",
            table(header, rows),
            "Against float64, over the first and the last 1,000 steps, the "
            "neighbourhood of 2**24, every restart and 1,000 random steps. An error of "
            "1 is a rate of 0 where it is not 0; of more, the wrong cycle or a rate "
            "that does not decay.",
        ]
    )


def error_cell(error):
    return "-" if error is None else f"{error:.2g}"


def restarts_section(accuracies):
    header = ["backend", "contender", "missed", "the first one", "target", ""]
    rows = [
        [
            backend,
            contender,
            f"{len(missed)} of {NUM_RESTARTS}",
            f"{missed[0]:,}" if missed else "-",
            *(("0", verdict(len(missed), 0)) if contender == OURS else ("", "")),
        ]
        for backend, accuracy in accuracies.items()
        for contender, missed in accuracy["missed"].items()
    ]
    return "\n\n".join(
        [
            "## Restarts missed up to step 2**31, t_mul=2, first cycle 1,000 steps",
            table(header, rows),
            "Missed: the step before the restart is not low, or the restart itself or "
            "the step after it is not high.",
        ]
    )


# --- Import ---------------------------------------------------------------------------


def imports_section(imports):
    header = ["", "seconds, median (minimum)", "target", ""]
    rows = [
        [name, f"{statistics.median(seconds):.3f} ({min(seconds):.3f})", "", ""]
        for name, seconds in imports["seconds"].items()
    ]
    ours = imports["seconds"]["import keras_lrs after it"]
    rows[-1][2:] = str(LONGEST_IMPORT), verdict(statistics.median(ours), LONGEST_IMPORT)
    return "\n\n".join(
        [
            "## Import",
            table(header, rows),
            f"Of {len(ours)} fresh processes on {imports['backend']}.",
        ]
    )
