"""Runs experiments, keeps what they found, and writes the page of it."""

import argparse
import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import textwrap
import time
from pathlib import Path

import program

from claims import harness

MODULES = (
    "rate_search",
    "lecture_notes",
    "batch_sizes",
    "triangular",
    "snapshots",
    "super_convergence",
    "budgets",
    "fractals",
    "averages",
    "growth",
    "bounded",
)
EXPERIMENTS = [importlib.import_module(f"claims.{name}").EXPERIMENT for name in MODULES]
PACKAGES = ("keras", "numpy", "scikit-learn", "optuna")
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence.md"


def all_rows():
    """Each row and its experiment, in the order of their names."""
    pairs = [(row, one) for one in EXPERIMENTS for row in one.rows]
    return sorted(pairs, key=lambda pair: pair[0].name)


def path_of(experiment, page, suffix):
    return page.with_suffix("") / f"{experiment.name}{suffix}"


def load(experiment, page):
    """What an earlier run has kept, or None."""
    path = path_of(experiment, page, ".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def versions():
    backend = os.environ["KERAS_BACKEND"]
    found = {name: importlib.metadata.version(name) for name in (*PACKAGES, backend)}
    return {
        "backend": backend,
        "versions": found,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def run(experiment, size, page):
    """Runs an experiment and writes its results."""
    print(f"\n{experiment.name}: {', '.join(row.name for row in experiment.rows)}")
    start = time.perf_counter()
    results = experiment.run(size)
    kept = {
        "seeds": size.seeds,
        "quick": size.quick,
        **versions(),
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - start, 1),
        "results": results,
    }
    path = path_of(experiment, page, ".json")
    unfinished = path.with_suffix(".part")
    text = json.dumps(kept, separators=(",", ":"))
    unfinished.write_text(f"{text}\n", encoding="utf-8")
    unfinished.replace(path)


def wrap(text):
    return textwrap.wrap(text, 88, break_on_hyphens=False, break_long_words=False)


def about(kept):
    """How the runs were made: a sentence for all of them."""
    first = next(iter(kept.values()))
    minutes = sum(one["seconds"] for one in kept.values()) / 60.0
    backends = sorted({one["backend"] for one in kept.values()})
    found = {n: v for one in kept.values() for n, v in one["versions"].items()}
    names = ", ".join(f"{name} {version}" for name, version in found.items())
    lines = [
        f"Made by `make claims` in {minutes:.0f} minutes on {first['cores']} cores",
        f"with {' and '.join(backends)} (Python {first['python']}, {names}).",
        "Minutes are those of the clock, whatever else ran on the machine.",
    ]
    if first["quick"]:
        lines.append("This is the quick size, which shows nothing.")
    return " ".join(lines)


def write(page, kept):
    """The page of what was kept, by the experiment's name, as lines of Markdown."""
    rows = [pair for pair in all_rows() if pair[1].name in kept]
    yield "# Evidence"
    yield ""
    yield from wrap(
        "The library exists so that what five sources describe can be used. Here is "
        "what each of them claims, and whether it holds in real trainings of small "
        "networks on handwritten digits. What does not hold at this size is reported "
        "as it is; nothing was tuned until it did. Nothing on this page is typed: "
        "numbers, verdicts and figures come from the runs, which lie beside the "
        "figures as JSON, and a test writes the page again from them."
    )
    yield ""
    yield from wrap(about(kept))
    yield ""
    yield from program.table(
        ["row", "claim", "here"],
        (
            [
                f"[{row.name}](#{row.name.lower()})",
                row.claim,
                harness.verdict(judged(row, kept[one.name]["results"])),
            ]
            for row, one in rows
        ),
    )
    yield ""
    yield from wrap(
        "A claim is of several comparisons: it holds if all of them are as it says, in "
        "part if some are, and it does not hold if none is."
    )
    for row, experiment in rows:
        yield from section(row, experiment, kept[experiment.name], page)


def judged(row, results):
    return list(row.judge(results))


def section(row, experiment, kept, page):
    """A row: claim, runs, numbers, verdict, figure."""
    results = kept["results"]
    parts = judged(row, results)
    yield ""
    yield f"## {row.name}"
    yield ""
    yield from wrap(f"**Claim.** {row.claim} ({row.source})")
    yield ""
    yield from wrap(
        f"**Run.** {experiment.setting(results)} {kept['backend']}, "
        f'{kept["seconds"] / 60.0:.1f} minutes. `make claims ARGS="--rows '
        f'{row.name}"`'
    )
    yield ""
    first = next(one for one in experiment.rows if one.tables is row.tables)
    if first is row:
        yield from row.tables(results)
    else:
        yield f"The numbers are those of [{first.name}](#{first.name.lower()})."
    yield ""
    yield from wrap(f"**Judged by.** {row.criterion}")
    yield ""
    yield from program.table(
        ["comparison", "as claimed", "by"],
        ([part.claim, part.word, part.by] for part in parts),
    )
    yield ""
    yield f"**Verdict: {harness.verdict(parts)}.**"
    yield ""
    folder = page.with_suffix("").name
    yield f"![{row.name}]({folder}/{experiment.name}.png)"


def main(arguments=None, description=""):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row, _ in all_rows()]
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"])
    parser.add_argument("--rows", nargs="+", choices=names, metavar="ROW", default=[])
    parser.add_argument("--seeds", type=int, default=5, help="runs of everything")
    parser.add_argument("--quick", action="store_true", help="tiny, to try it")
    parser.add_argument("--resume", action="store_true", help="only what is missing")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page's path")
    # For networks this small it is several times quicker than the others.
    if importlib.util.find_spec("jax"):
        os.environ.setdefault("KERAS_BACKEND", "jax")
    options = program.parse(parser, arguments)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    size, page = harness.Size(options.seeds, options.quick), options.output
    page.with_suffix("").mkdir(parents=True, exist_ok=True)
    chosen = [
        one
        for one in EXPERIMENTS
        if not options.rows or any(row.name in options.rows for row in one.rows)
    ]
    if options.resume:
        chosen = [one for one in chosen if not same_size(load(one, page), size)]
    for experiment in chosen:
        path_of(experiment, page, ".json").unlink(missing_ok=True)
    for experiment in chosen:
        run(experiment, size, page)
    publish(page)


def same_size(kept, size):
    return kept and (kept["seeds"], kept["quick"]) == (size.seeds, size.quick)


def publish(page):
    """Draws and writes what all the runs so far have kept."""
    kept = {one.name: load(one, page) for one in EXPERIMENTS}
    kept = {name: found for name, found in kept.items() if found}
    for experiment in EXPERIMENTS:
        if experiment.name in kept:
            picture = path_of(experiment, page, ".png")
            experiment.draw(kept[experiment.name]["results"], picture)
    text = "\n".join(write(page, kept))
    page.write_text(f"{text}\n", encoding="utf-8")
    for row, experiment in all_rows():
        if experiment.name in kept:
            found = judged(row, kept[experiment.name]["results"])
            print(f"{row.name}: {harness.verdict(found)}")
    print(f"\nThe page: {page}")
