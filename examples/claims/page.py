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

from claims import judging, quotes
from claims.experiment import SOURCES, Size

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
    """Each row and its experiment, in the order of the sources."""
    pairs = [(row, one) for one in EXPERIMENTS for row in one.rows]
    return sorted(pairs, key=lambda pair: SOURCES.index(pair[0].source))


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
        "what each of them claims, and whether it is so in real runs of small "
        "networks. What is not so at this size is reported as it is; nothing was "
        "tuned until it was. Nothing on this page is typed: numbers, verdicts and "
        "figures come from the runs, which lie beside the figures as JSON, and a test "
        "writes the page again from them."
    )
    yield ""
    yield from wrap(about(kept))
    yield ""
    yield "## How claims are judged"
    yield ""
    for paragraph in RULES:
        yield from wrap(paragraph)
        yield ""
    yield "## All claims"
    yield ""
    yield from program.table(
        ["claim", "is it so here?"],
        (
            [
                f"[{row.title}](#{row.name})",
                judging.verdict(judged(row, kept[one.name]["results"])),
            ]
            for row, one in rows
        ),
    )
    source = None
    for row, experiment in rows:
        if row.source != source:
            source = row.source
            yield ""
            yield f"## {source}"
        yield from section(row, experiment, kept[experiment.name], page)


RULES = (
    "Each claim is split into statements, and each statement into comparisons. All "
    "three have one of three outcomes: yes, no, or cannot be told. A comparison is "
    "decided if the 95 % interval of its number lies on one side of a threshold. For "
    '"better" the threshold is 0. For "no worse" and "as good as" it is a margin of '
    f"{judging.MARGIN:g} points of accuracy, or {judging.LOSS_MARGIN:g} of loss, "
    "unless the claim names another. A difference that was not found decides nothing.",
    "A statement is a yes if all its comparisons are, and a no if one of them is; "
    "otherwise it cannot be told. The same goes for a claim and its statements.",
    "Intervals are those of the differences between runs with the same seed (Student), "
    "unless the claim says otherwise; ± is half of the interval. The p-values of all "
    "comparisons of a claim are corrected together by Holm's method, and their number "
    "is stated. So an interval may lie on one side and decide nothing.",
    "A seed is that of the first weights and of the order of the data. All seeds have "
    "the same training and test data: what another draw of these would change is in no "
    "interval of this page. The margins were fixed after these runs, and before the "
    "next.",
)


def judged(row, results):
    return judging.judge(row.judge(results))


def section(row, experiment, kept, page):
    """A row: claim, runs, numbers, verdict, figure."""
    results = kept["results"]
    found = judged(row, results)
    source = f" ({row.reference})" if row.reference else ""
    yield ""
    yield f"### {row.title}"
    yield ""
    yield from wrap(f"**Claim.** {row.claim}{source}")
    yield ""
    yield from wrap(
        f"**Run.** {experiment.setting(results)} {kept['backend']}, "
        f'{kept["seconds"] / 60.0:.1f} minutes. `make claims ARGS="--rows '
        f'{row.name}"`'
    )
    yield ""
    first = first_of(row, experiment)
    if first is row:
        yield from row.tables(results)
    else:
        yield f"The numbers are those of [{first.title}](#{first.name})."
    yield ""
    yield from wrap(f"**Judged by.** {row.criterion} {correction(found)}")
    yield ""
    yield from statements(found)
    yield ""
    yield f"**Is it so here? {judging.verdict(found)}**"
    yield ""
    folder = page.with_suffix("").name
    yield f"![{row.title}]({folder}/{experiment.name}.png)"


def first_of(row, experiment):
    """The row beside which the numbers stand that this one is judged by."""
    return next(one for one in experiment.rows if one.tables is row.tables)


def correction(found):
    """How many comparisons are corrected for their number, in words."""
    number = sum(len(judging.comparisons_of(one.statement)) for one in found)
    if number == 0:
        return "Nothing here depends on noise."
    if number == 1:
        return "There is one comparison."
    return f"The {number} comparisons are corrected together."


def statements(found):
    """The table of a row's statements."""
    return program.table(
        ["statement", "so here?", "by"],
        ([one.statement.text, one.outcome, one.by] for one in found),
    )


def requote(page, kept):
    """Yields pages that quote this one, each with the text that it is to have.

    Only those of the repository's own page do.
    """
    if page.resolve() != PAGE:
        return
    rows = {row.name: (row, one) for row, one in all_rows() if one.name in kept}

    def block(name, with_tables):
        row, experiment = rows[name]
        results = kept[experiment.name]["results"]
        if with_tables and first_of(row, experiment) is row:
            yield from row.tables(results)
            yield ""
        yield from statements(judged(row, results))

    def outcome(name):
        row, experiment = rows[name]
        found = judged(row, kept[experiment.name]["results"])
        return judging.together([one.outcome for one in found])

    for other in quotes.pages(ROOT):
        yield other, quotes.quote(other.read_text(encoding="utf-8"), block, outcome)


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
    size, page = Size(options.seeds, options.quick), options.output
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
    for other, quoted in requote(page, kept):
        other.write_text(quoted, encoding="utf-8")
    for row, experiment in all_rows():
        if experiment.name in kept:
            found = judged(row, kept[experiment.name]["results"])
            print(f"{row.title}: {judging.verdict(found)}")
    print(f"\nThe page: {page}")
