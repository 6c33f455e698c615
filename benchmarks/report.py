"""Writes the parts of the page, the aims, and summaries of what was measured."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import sys

from intervals import Estimate, verdict

PACKAGES = ("keras_lrs", "keras", "tensorflow", "jax", "torch", "optax", "numpy")
# What a step costs comes first on the page. Other reports have other parts, which stay
# in the order in which they were written.
ORDER = (
    "# A training step",
    "# Groups of variables",
    "# A training step of a ResNet-20",
    "# A training step on a GPU",
    "# How the cost of a training step grows",
    "# Performance of averages",
    "# Ensembles and snapshots",
    "# Performance of the schedules",
)


def add_outputs(parser):
    """Adds the options of all programs that write a part of the page."""
    folder = "a folder for summaries of what was measured, in JSON"
    parser.add_argument("--output", type=pathlib.Path, help="the page for the tables")
    parser.add_argument(
        "--aims", type=pathlib.Path, help="a page for aims and verdicts"
    )
    parser.add_argument("--summaries", type=pathlib.Path, help=folder)


def publish(program, options, part, measured, aims=None):
    """Prints a part of the page, and writes what the options ask for.

    Args:
        program: The path of the program.
        options: What `add_outputs` has parsed.
        part: Markdown for readers of the page.
        measured: What the summary holds: dictionaries of samples and estimates.
        aims: Markdown for developers: aims, and whether they were met.
    """
    print(part)
    if options.output:
        write_part(options.output, part)
    if aims is not None:
        print(aims, file=sys.stderr)
        if options.aims:
            write_part(options.aims, aims)
    if options.summaries:
        options.summaries.mkdir(parents=True, exist_ok=True)
        path = options.summaries / f"{pathlib.Path(program).stem}.json"
        summary = {**surroundings(), "measured": summarized(measured)}
        path.write_text(f"{json.dumps(summary, indent=1)}\n", encoding="utf-8")


def write_part(path, part):
    """Replaces the part of a report that has the same title, or adds it.

    A title is the first line, a heading of the first level. Parts of the page about
    performance have an order; others stay where they are.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = parts_of(text) | parts_of(part)
    first = {title: parts.pop(title) for title in ORDER if title in parts}
    ordered = [*first.values(), *parts.values()]
    path.write_text("\n\n".join(ordered) + "\n", encoding="utf-8")


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


def surroundings():
    """Returns what a measurement depends on, to compare releases."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "packages": versions(),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
    }


def versions():
    """The versions of the packages that matter, where they are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def processor():
    """The model of the processor, where the system tells it, or its architecture."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"model name\s*: (.*)", text)
    return found[1] if found else platform.machine()


def environment():
    """Says in a sentence what the measurements were made with."""
    found = surroundings()
    packages = ", ".join(f"{name} {v}" for name, v in found["packages"].items())
    return (
        f"Measured on {found['date']} with Python {found['python']}, {packages}; "
        f"{found['machine']['processor']}, {found['machine']['cores']} CPU cores."
    )


def summarized(found):
    """The same with a median, a minimum and a number of rounds for each sample."""
    if isinstance(found, Estimate):
        return summarized(dataclasses.asdict(found))
    if isinstance(found, dict):
        return {str(key): summarized(value) for key, value in found.items()}
    if isinstance(found, list | tuple) and found and isinstance(found[0], float):
        median, least = statistics.median(found), min(found)
        return summarized({"median": median, "minimum": least, "rounds": len(found)})
    return float(f"{found:.5g}") if isinstance(found, float) else found


def aims_part(title, columns, rows):
    """The aims of a part of the page."""
    return f"{title}\n\n{aims_table(columns, rows)}"


def aims_table(columns, rows):
    """A table of verdicts; rows are names with cells by column, where there are any."""
    lines = [
        [name, *(cells.get(column, "") for column in columns)] for name, cells in rows
    ]
    return table(["", *columns], lines)


def aim_cell(found, aim, noise=0.0, factor=1.0, digits=2):
    """Says whether an aim was met, and by which estimate."""
    said = verdict(found, aim, noise)
    allowed = f"aim {aim * factor:.3g}" + f" + noise {noise * factor:.2g}" * bool(noise)
    return f"{said}: {found.cell(factor, digits)}, {allowed}"


def milliseconds(samples):
    """A cell: the median of some seconds."""
    return f"{1e3 * statistics.median(samples):.3g} ms"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
