"""The command: runs experiments on data, keeps what they found, and writes the page."""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
from pathlib import Path

import program

from claims import data, page, pool, regime
from claims.experiment import Size

PACKAGES = ("keras", "numpy", "scikit-learn", "optuna", "mnist1d", "plotnine")
OWN = "digits"  # The data of the experiments with programs of their own.
QUICK_SEEDS, QUICK_DATA = 2, [data.DEFAULT, OWN]


def versions():
    backend = os.environ["KERAS_BACKEND"]
    found = {}
    for name in (*PACKAGES, backend):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "backend": backend,
        "versions": found,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def main(arguments=None, description=""):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row, _ in page.all_rows()]
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"])
    parser.add_argument("--rows", nargs="+", choices=names, metavar="ROW", default=[])
    parser.add_argument("--data", nargs="+", help="names, or .npz files")
    parser.add_argument("--seeds", type=int, default=regime.SEEDS, help="of everything")
    parser.add_argument("--quick", action="store_true", help="tiny; writes no page")
    parser.add_argument("--resume", action="store_true", help="only what is missing")
    parser.add_argument(
        "--publish", action="store_true", help="runs nothing; writes the page again"
    )
    parser.add_argument("--processes", type=int, default=2, help="side by side")
    parser.add_argument(
        "--output", type=Path, default=page.PAGE, help="the page's path"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/claims"), help="a folder for all jobs"
    )
    # For networks this small it is several times quicker than the others.
    if importlib.util.find_spec("jax"):
        os.environ.setdefault("KERAS_BACKEND", "jax")
    options = program.parse(parser, arguments)
    if options.data is None:
        options.data = QUICK_DATA if options.quick else list(data.NAMES)
    if options.quick:
        options.seeds = min(options.seeds, QUICK_SEEDS)
        if options.output == page.PAGE:
            options.output = options.work / "quick" / "evidence.md"
    chosen = [
        one
        for one in page.EXPERIMENTS
        if not options.rows or any(row.name in options.rows for row in one.rows)
    ]
    if options.processes > 1:
        # Each has a core: else both would want all of them.
        os.environ.setdefault(
            "XLA_FLAGS",
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        )
    for name in [] if options.publish else options.data:
        run(chosen, name, options)
    page.publish(options.output)


def run(experiments, name, options):
    """Runs all experiments on one data set, and writes what they found."""
    size = Size(options.seeds, options.quick)
    # Here, so that it is made or refused before anything begins.
    found = data.load(name, size.seeds, options.work)
    ours = [one for one in experiments if one.swaps or found.name == OWN]
    jobs = {one.name: one.jobs(size) for one in ours}
    quick = "-quick" if size.quick else ""
    path = options.work / f"{found.name}-{size.seeds}{quick}.jsonl"
    store = pool.Store(path, options.resume)
    print(f"\n{found.label}: {', '.join(one.name for one in ours) or 'nothing to run'}")
    every = [job for by_label in jobs.values() for job in by_label.values()]
    arguments = name, size.seeds, size.quick, options.work
    pool.run_all(every, store, arguments, options.processes)
    for one in ours:
        kept = {label: store.found[job.key] for label, job in jobs[one.name].items()}
        results = one.collect({label: r for label, (r, _) in kept.items()}, size)
        write(
            one, results, sum(seconds for _, seconds in kept.values()), found, options
        )


def write(experiment, results, seconds, found, options):
    """Writes what an experiment found on some data."""
    kept = {
        "data": found.name,
        "label": found.label,
        "seeds": options.seeds,
        "quick": options.quick,
        **versions(),
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds, 1),
        "settings": experiment.settings(results, found),
        "results": results,
    }
    path = page.path_of(experiment, options.output, found.name, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    text = json.dumps(kept, separators=(",", ":"))
    unfinished.write_text(f"{text}\n", encoding="utf-8")
    unfinished.replace(path)
