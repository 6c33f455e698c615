"""The page: what was claimed, what was run, what came out, and whether it is so."""

import functools
import importlib
import json
from pathlib import Path

import program

from claims import changes, data, judging, quotes, regime
from claims.experiment import SOURCES, wrap

MODULES = (
    "rate_search",
    "lecture_notes",
    "batch_sizes",
    "drops",
    "bound",
    "curvature",
    "triangular",
    "snapshots",
    "super_convergence",
    "budgets",
    "smallest",
    "fractals",
    "averages",
    "pareto",
    "growth",
    "normalizations",
    "heads",
    "bounded",
)
EXPERIMENTS = [importlib.import_module(f"claims.{name}").EXPERIMENT for name in MODULES]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence.md"


def all_rows():
    """Each row and its experiment, in the order of the sources."""
    pairs = [(row, one) for one in EXPERIMENTS for row in one.rows]
    return sorted(pairs, key=lambda pair: SOURCES.index(pair[0].source))


def path_of(experiment, page, name, suffix):
    """Of the results on the data of that name, or of their figure."""
    return page.with_suffix("") / name / f"{experiment.name}{suffix}"


def load_all(page):
    """What was kept, by experiment and then by data; those of the regime come first."""
    folder = page.with_suffix("")
    names = sorted((one.name for one in folder.iterdir() if one.is_dir()), key=place_of)
    found = {}
    for experiment in EXPERIMENTS:
        for name in names:
            path = path_of(experiment, page, name, ".json")
            if path.exists():
                kept = json.loads(path.read_text(encoding="utf-8"))
                found.setdefault(experiment.name, {})[name] = kept
    return found


def place_of(name):
    """What data are sorted by: those by name come first, in their order."""
    names = list(data.NAMES)
    return (names.index(name) if name in names else len(names)), name


def about(kept):
    """How the runs were made: a sentence for all of them."""
    every = [one for by_data in kept.values() for one in by_data.values()]
    minutes = sum(one["seconds"] for one in every) / 60.0
    backends = sorted({one["backend"] for one in every})
    found = {n: v for one in every for n, v in one["versions"].items()}
    names = ", ".join(f"{name} {version}" for name, version in found.items())
    lines = [
        f"The times of all runs add up to {minutes:.0f} minutes on",
        f"{every[0]['cores']} cores with {' and '.join(backends)} (Python",
        f"{every[0]['python']}, {names}).",
        "That is wall-clock time, and other programs may have run at the same time.",
    ]
    if any(one["quick"] for one in every):
        lines.append("This is the quick size, which shows nothing.")
    return " ".join(lines)


def write(page, kept, found):
    """The page of what was kept, by experiment and data, as lines of Markdown."""
    rows = [pair for pair in all_rows() if pair[1].name in kept]
    labels = {
        name: one["label"] for by_data in kept.values() for name, one in by_data.items()
    }
    labels = dict(sorted(labels.items(), key=lambda pair: place_of(pair[0])))
    yield "# Evidence"
    yield ""
    yield from wrap(
        "The library implements what [five sources](sources.md) describe. This page "
        "lists what each of them claims, and says whether we find the same when we "
        "train small networks. Where we do not, the page says so: no rate or margin "
        "was tuned to make a claim come true, and where a criterion was changed after "
        "a first run, the page says [what it was before](#criteria-that-were-changed). "
        "Where a claim goes back to another publication, it is cited after the claim. "
        "A rate is a learning rate, and a seed is one repetition of a run. All "
        "numbers, verdicts and figures of the claims are computed from the runs, whose "
        "results are stored as JSON beside the figures. A test recomputes the page "
        "from them."
    )
    yield ""
    yield from wrap(about(kept))
    yield ""
    yield "## How claims are judged"
    yield ""
    for paragraph in RULES:
        yield from wrap(paragraph)
        yield ""
    yield "## The regime"
    yield ""
    yield from wrap(
        "These settings were fixed before the first run on MNIST-1D, and those of the "
        "diamonds before the first run on them. The exceptions are the grids of rates "
        "(see Rates) and the seeds of some claims (see "
        f"[below](#criteria-that-were-changed)). {not_yet(labels)}"
    )
    yield ""
    for paragraph in regime.paragraphs(judging.MARGIN, judging.LOSS_MARGIN):
        yield from wrap(paragraph)
        yield ""
    yield "## Criteria that were changed"
    yield ""
    yield from changes.paragraphs({row.title: row for row, _ in rows})
    yield ""
    yield "## All claims"
    yield ""
    yield from wrap(
        "In parentheses: how many statements a claim has, and their outcomes. Where a "
        "cell is empty, the claim was not tried on that data."
    )
    yield ""
    yield from program.table(
        ["claim", *labels.values()],
        (
            [
                f"[{row.title}](#{row.name})",
                *(
                    judging.verdict(found(row.name, name))
                    if name in kept[one.name]
                    else ""
                    for name in labels
                ),
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
        yield from section(row, experiment, kept[experiment.name], page, found)


def not_yet(labels):
    """What is said of the regime's own data while no run on them is published."""
    if data.DEFAULT in labels:
        return ""
    return (
        f"No run on {data.label_of(data.DEFAULT)} is published yet: all rows below are "
        f"on {' or '.join(labels.values())}, with settings of their own."
    )


RULES = (
    "Each claim is split into statements, and each statement into comparisons. A "
    "claim, a statement and a comparison each have one of three outcomes: yes, no, or "
    "cannot be told. A comparison is decided if its whole 95 % interval lies on one "
    f"side of a threshold and its corrected p-value is below {judging.LEVEL:g}. For "
    '"better" the threshold is 0. "No worse" and "as good as" may lose '
    f"{judging.MARGIN:g} points of accuracy, or {judging.LOSS_MARGIN:g} of the loss, "
    "unless the claim names another margin. Failing to find a difference is not "
    "evidence that there is none, so it decides nothing.",
    "A statement is a yes if all its comparisons are, and a no if at least one of them "
    "is a no; otherwise it cannot be told. A claim follows from its statements in the "
    "same way. What needs no interval, as the result of a single run, is simply a yes "
    "or a no, and is not counted among the comparisons.",
    "Intervals are Student's t intervals of the differences between runs with the same "
    "seed, unless the claim says otherwise. The p-values of all comparisons of a claim "
    "are corrected together by Holm's method, and the page says how many comparisons "
    "there are. Because of this correction, a comparison may be undecided although its "
    "interval lies on one side.",
    "In a table of statements, the number after ± is half the interval's width, and "
    "two numbers in brackets are the ends of an interval. Where the statement or a "
    "parenthesis names no limit, a measured difference supports its statement if it is "
    "positive, or, for errors and losses, if it is negative. In a table of results, "
    "the number after ± is the standard deviation of the seeds that were run (the root "
    "of their mean squared deviation), unless the table says otherwise.",
)


def judged(row, results):
    return judging.judge(row.judge(results))


def outcomes_of(kept):
    """A function from the names of a row and of data to what is judged there."""
    rows = {row.name: (row, one.name) for row, one in all_rows()}

    @functools.cache  # Resampling takes long, and a row is quoted again and again.
    def found(name, data):
        row, experiment = rows[name]
        return judged(row, kept[experiment][data]["results"])

    return found


def section(row, experiment, by_data, page, found):
    """A row: claim, runs, numbers, verdicts, figures."""
    source = f" ({row.reference})" if row.reference else ""
    yield ""
    yield f"### {row.title}"
    yield ""
    yield from wrap(f"**Claim.** {row.claim}{source}")
    for name, kept in by_data.items():
        yield ""
        yield f"#### On {kept['label']}"
        yield ""
        yield from on_data(row, experiment, kept, found(row.name, name))
        yield ""
        picture = path_of(experiment, page, name, ".png").relative_to(page.parent)
        yield f"![{row.title}]({picture.as_posix()})"


def on_data(row, experiment, kept, found):
    """The runs of a row on one data set, and what is judged by them."""
    yield from wrap(
        f"**Run.** {kept['settings'][row.name]} The runs took "
        f"{kept['seconds'] / 60.0:.1f} minutes with {kept['backend']}. "
        f'`make claims ARGS="--rows {row.name} --data {kept["data"]}"`'
    )
    yield ""
    first = first_of(row, experiment)
    if first is row:
        yield from row.tables(kept["results"])
    else:
        yield f"The numbers are those of [{first.title}](#{first.name})."
    yield ""
    yield from wrap(f"**Judged by.** {row.criterion} {correction(found)}")
    yield ""
    yield from statements(found)
    yield ""
    yield f"**Outcome: {judging.verdict(found)}**"


def first_of(row, experiment):
    """The row beside which the numbers stand that this one is judged by."""
    return next(one for one in experiment.rows if one.tables is row.tables)


def correction(found):
    """How many comparisons are corrected for their number, in words."""
    number = sum(len(judging.comparisons_of(one.statement)) for one in found)
    if number == 0:
        return "No outcome here rests on an interval."
    if number == 1:
        return "There is one comparison."
    return f"The {number} comparisons are corrected together."


def statements(found):
    """The table of a row's statements."""
    return program.table(
        ["statement", "outcome", "measured"],
        ([one.statement.text, one.outcome, one.by] for one in found),
    )


def outcome_where(found, beginning):
    """The outcome of the statements that begin so; of the whole claim, if it is ""."""
    outcomes = [o.outcome for o in found if o.statement.text.startswith(beginning)]
    if not outcomes:
        raise ValueError(f"A page quotes a statement that is not there: {beginning!r}")
    return judging.together(outcomes)


def requote(page, kept, found):
    """Yields pages that quote this one, each with the text that it is to have.

    They quote the first data set of each experiment. Only our own page is quoted.
    """
    if page.resolve() != PAGE:
        return
    rows = {row.name: (row, one) for row, one in all_rows() if one.name in kept}

    def block(name, with_tables):
        row, experiment = rows[name]
        data, first = next(iter(kept[experiment.name].items()))
        yield f"On {first['label']}:"
        yield ""
        if with_tables and first_of(row, experiment) is row:
            yield from row.tables(first["results"])
            yield ""
        yield from statements(found(name, data))

    def outcome(name, beginning):
        _, experiment = rows[name]
        return ", ".join(
            f"{outcome_where(found(name, data), beginning)} ({one['label']})"
            for data, one in kept[experiment.name].items()
        )

    folders = {name: next(iter(by_data)) for name, by_data in kept.items()}
    titles = {row.title: name for name, (row, _) in rows.items()}
    for other in quotes.pages(ROOT):
        text = other.read_text(encoding="utf-8")
        yield other, quotes.quote(text, block, outcome, folders, titles)


def publish(page):
    """Draws and writes what all the runs so far have kept."""
    import matplotlib

    kept = load_all(page)
    # Figures are shown at two thirds of their size.
    with matplotlib.rc_context({"font.size": 13.0}):
        for experiment in EXPERIMENTS:
            for name, one in kept.get(experiment.name, {}).items():
                experiment.draw(one["results"], path_of(experiment, page, name, ".png"))
    found = outcomes_of(kept)
    text = "\n".join(write(page, kept, found))
    page.write_text(f"{text}\n", encoding="utf-8")
    for other, quoted in requote(page, kept, found):
        other.write_text(quoted, encoding="utf-8")
    for row, experiment in all_rows():
        for name, one in kept.get(experiment.name, {}).items():
            verdict = judging.verdict(found(row.name, name))
            print(f"{row.title} ({one['label']}): {verdict}")
    print(f"\nThe page: {page}")
