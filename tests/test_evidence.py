"""The evidence: each number of each statement is computed again from the runs.

Here every comparison is written a second time, from the JSON and with SciPy, without
the code that wrote the page.
"""

import json
import re

import numpy as np
import pytest
from scipy import stats

from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("jax"), pytest.mark.program]

PAGE = ROOT / "docs" / "evidence.md"
TEXT = PAGE.read_text(encoding="utf-8")
POINTS, LOSS = 0.5, 0.01
KEPT = {
    (path.parent.name, path.stem): json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(PAGE.with_suffix("").glob("*/*.json"))
}


def results(data, name):
    return KEPT[data, name]["results"]


def slug(title):
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def sections():
    """The text of each claim on each data set, by title and label."""
    found = {}
    parts = re.split(r"^### (.*)$", TEXT, flags=re.MULTILINE)
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        pieces = re.split(r"^#### On (.*)$", text, flags=re.MULTILINE)
        for label, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            found[title, label] = piece
    return found


SECTIONS = sections()


def section(title, data):
    return SECTIONS[title, KEPT[data, EXPERIMENT_OF[title]]["label"]]


def statements(title, data):
    """The rows of a claim's last table: statement, outcome, and by what."""
    return rows_of(section(title, data))


def rows_of(piece):
    """The same of a section's text."""
    table = piece.partition("| statement ")[2].split("\n\n")[0]
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def datasets(experiment):
    return [data for data, name in KEPT if name == experiment]


# --- What the statements compare ------------------------------------------------------
# One list for each statement; (differences of seeds, threshold, sign) is a comparison.
# With sign -1 less is better. None is a statement that noise has no part in, and a
# number that of comparisons whose intervals are drawn.


def accuracy(ours, theirs, margin=0.0):
    return np.subtract(ours, theirs), -margin, 1


def error(ours, theirs, margin=0.0):
    return np.subtract(ours, theirs), margin, -1


def tuning(data):
    two = results(data, "rate_search")["two"]
    return [None] * 4 + [[accuracy(two["random"], two["grid"])]]


def four_schedules(data):
    found = results(data, "lecture_notes")
    stopped = {name: np.array(runs)[:, 0] for name, runs in found["stopped"].items()}
    end, middle = "end of the last completed phase", "middle of the next"
    return [None, None, [accuracy(stopped[end], stopped[middle])]]


def batches(data):
    found = results(data, "batch_sizes")
    runs = {(size, rule, warm): each for size, rule, warm, each in found["accuracies"]}
    larger = sorted({size for size, _, _ in runs} - {found["base"]})
    return found, runs, larger


def scaling(data):
    _, runs, larger = batches(data)
    compared = []
    for size in larger:
        linear, fixed, root = (
            runs[size, rule, False] for rule in ("linear", "fixed", "sqrt")
        )
        compared += [[accuracy(linear, fixed)], [accuracy(linear, root, POINTS)]]
    return [*compared, "drawn twice"]


def warmup(data):
    found, runs, larger = batches(data)
    compared = []
    for size in larger:
        warm, cold = (runs[size, "linear", which] for which in (True, False))
        compared.append([accuracy(warm, cold)])
        compared.append([accuracy(warm, runs[found["base"], "fixed", False], 1.0)])
    return compared


def range_test(data):
    found = results(data, "rate_search")
    grid = max((runs for _, runs in found["grid"]), key=np.mean)
    read = [accuracy for _, accuracy in found["bounds"]]
    return [
        [accuracy(runs, grid, 1.0)]
        for runs in (read, *(r for _, m, r in found["suggested"] if m != "fixed rate"))
    ]


def triangular(data):
    found = results(data, "triangular")
    ours, step = (
        np.array(found["methods"][name]["accuracies"])
        for name in ("triangular cycles", "step decay")
    )
    length = found["epochs"] // found["cycles"]
    ends = np.arange(length, found["epochs"] + 1, length) - 1
    middles = ends - length // 2
    pairs = zip(ends, middles, strict=True)
    later = zip(ends[:-1], middles[1:], strict=True)
    return [
        [accuracy(ours[:, end], ours[:, middle]) for end, middle in pairs],
        [accuracy(ours[:, end], ours[:, middle]) for end, middle in later],
        [accuracy(ours.mean(1), step.mean(1), POINTS)],
        [accuracy(ours[:, ends].mean(1), step[:, ends].mean(1), POINTS)],
        [accuracy(ours[:, -1], step[:, -1], POINTS)],
    ]


def restarts(data):
    found = results(data, "snapshots")
    ours, step = (
        np.array(found["curves"][name])[:, 0]
        for name in ("growing cycles", "step decay")
    )
    # Growing cycles are 1, 2 and 4 sevenths of the run.
    ends = [int(found["epochs"] * part / 7) - 1 for part in (1, 3, 7)]
    return [
        [accuracy(ours.mean(1), step.mean(1))],
        [accuracy(ours[:, ends].mean(1), step[:, ends].mean(1))],
        [accuracy(ours[:, -1], step[:, -1])],
    ]


def snapshots(data):
    found = results(data, "snapshots")["scores"]
    scores = {name: np.array(s)[..., 0] for name, s in found.items()}
    every, last = scores["last snapshots"][:, -1], scores["last snapshots"][:, 0]
    alone = scores["independent"][:, -1], scores["independent, fully trained"][:, -1]
    others = (last, scores["step decay"], scores["one cosine"], alone[0])
    compared = [[accuracy(every, other)] for other in others]
    return [*compared, [accuracy(every, alone[1], POINTS)]]


def cells(data, *names):
    """Of all optimizers with these methods, and all budgets."""
    return {
        (optimizer, float(budget)): by_method
        for optimizer, by_budget in results(data, "budgets")["optimizers"].items()
        for budget, by_method in by_budget.items()
        if set(names) <= set(by_method)
    }


def mean_errors(data, name, other, chosen):
    """Of two methods: the means of optimizers and budgets, for each seed."""
    both = [
        by_method
        for (_, budget), by_method in cells(data, name, other).items()
        if budget in chosen
    ]
    return [
        np.mean([np.array(cell[n]["scores"])[:, 2] for cell in both], axis=0)
        for n in (name, other)
    ]


ALL_BUDGETS = (5.0, 10.0, 25.0, 50.0, 100.0)
REX = "REX, every step"


def budgets(data):
    found = results(data, "budgets")["optimizers"]
    names = list(next(iter(next(iter(found.values())).values())))

    def compared(name, other, margin=0.0, chosen=ALL_BUDGETS):
        return error(*mean_errors(data, name, other, chosen), margin)

    others = [name for name in names if name != REX]
    lower = [compared(REX, name) for name in others]
    near = [compared(REX, name, POINTS) for name in others]
    parts = [
        [compared(REX, name, chosen=chosen)]
        for chosen in ((5.0, 10.0), (50.0, 100.0))
        for name in ("linear, every step", "step decay")
    ]
    smallest = [
        [compared(REX, name, chosen=(float(budget),)) for name in others]
        for budget in next(iter(found.values()))
        if float(budget) < min(ALL_BUDGETS)
    ]
    rarer = [compared(REX, name) for name in others if name.startswith("REX")]
    finishes = [len(people) - 1 for people in sets(data) for _ in (1, 3)]
    return [*finishes, lower, near, *parts, *smallest, rarer]


def sets(data):
    """The methods among which finishes are counted."""
    every = list(next(iter(cells(data).values())))
    smooth = [name for name in every if "every step" in name]
    late = [name for name in ("step decay at 75 %",) if name in every]
    return [*smooth, "constant", "step decay", *late, "1cycle at momentum 0.9"], every


def fractals(data):
    gaps = results(data, "fractals")["gaps"]
    # No nearer to the lowest loss than a float32 can tell.
    ends = {n: np.maximum([r[-1] for r in runs], 1e-7) for n, (_, runs) in gaps.items()}

    def best(kind):
        names = [name for name in ends if name.startswith(kind)]
        finite = [name for name in names if np.isfinite(ends[name]).all()]
        return np.log10(ends[min(finite, key=lambda name: np.mean(ends[name]))])

    first = best("fractal")
    heavy = np.log10(ends["heavy ball"])
    return [None, None, [error(first, best("constant"))], [error(first, heavy, 0.3)]]


QUARTERS = (25, 50, 75, 100)


def losses(data, name, share=100, number=0):
    """The test losses after a share of the epochs, of which 20 are looked at."""
    curves = np.array(results(data, "averages")["found"][name][number])
    return curves[:, share // 5 - 1]


def linear(data, share, number=0):
    return losses(data, f"linear decay, {share} %", share, number)


def decay(data):
    cosine, late = losses(data, "cosine"), losses(data, "step at 75 %")
    full = linear(data, 100)
    chosen = results(data, "averages")["constants"]
    constants = {
        share: np.array(chosen[f"constant, {share} %"]["curves"][0])[:, -1]
        for share in QUARTERS[:-1]
    } | {100: losses(data, "constant")}
    return [
        [error(linear(data, share), plain) for share, plain in constants.items()],
        [error(cosine, full, LOSS), error(full, cosine, LOSS)],
        [error(late, full, LOSS)],
        [error(late, losses(data, "step at 25 %"))],
    ]


def averages(data):
    cosine = losses(data, "cosine")
    return [
        [error(losses(data, "EMA, 1 %"), cosine, LOSS)],
        [error(losses(data, "EMA, 10 %"), cosine, LOSS)],
    ]


def uniform(data):
    average, decayed = losses(data, "Polyak average"), linear(data, 100)
    return [[error(average, decayed, LOSS), error(decayed, average, LOSS)]]


def drops(data):
    found, compared = results(data, "drops")["methods"], []
    for name in ("step decay, thirds", "cosine in phases"):
        runs, window = np.array(found[name]["losses"]), found[name]["window"]
        each = []
        for jump in found[name]["jumps"]:
            # Records of 4 steps; the loss of a step is taken before its update.
            steps = 4 * np.arange(runs.shape[1])
            old = runs[:, steps + 3 <= jump]
            earlier, before = old[:, -2 * window : -window], old[:, -window:]
            after = runs[:, steps > jump][:, :window]
            earlier, before, after = (w.mean(1) for w in (earlier, before, after))
            if name.startswith("step"):
                each.append(error(after, before))
                each.append(error(after - before, before - earlier))
            else:
                each.append(accuracy(after, before))  # Which is to rise.
        compared.append(each)
    return compared


def bound(data):
    stages = np.array([runs for _, runs in results(data, "bound")["stages"]])
    # The distance over eta B, which is 1 / (2 H).
    gaps, norms = np.log(stages[..., 0] * 2.0 * stages[..., 4]), np.log(stages[..., 2])
    slopes = [
        stats.linregress(norm, gap).slope
        for norm, gap in zip(norms.T, gaps.T, strict=True)
    ]
    return [None, [accuracy(slopes, 0.0)]]


def curvature(data):
    found = results(data, "curvature")["accuracies"]
    cold, warm = "without a warmup", "with a warmup"
    return [
        [accuracy(found[f"1, {cold}"], found[f"1, {warm}"], POINTS)],
        [accuracy(found[f"8, {warm}"], found[f"8, {cold}"])],
    ]


def smallest(data):
    found = results(data, "smallest")["methods"]
    ends = {name: np.array(one["scores"])[:, 2] for name, one in found.items()}
    return [[error(ends[REX], ends[name])] for name in ends if name != REX]


def pareto(data):
    curves = results(data, "pareto")["curves"]

    def at(name, share, budget):
        """Of a run over a budget, which was looked at as often for each share."""
        return [run[1][len(run[1]) * share // budget - 1] for run in curves[name]]

    ends = {s: at(f"linear decay, {s} %", s, s) for s in QUARTERS}
    front = [error(ends[s], ends[s - 25]) for s in QUARTERS[1:]]
    plain = [error(ends[s], at("constant", s, 100), LOSS) for s in QUARTERS]
    singles = [
        [error(at(name, s, 100), ends[s], LOSS) for s in QUARTERS]
        for name in ("EMA, 10 %", "schedule-free, exponential")
    ]
    polyak = [
        error(at("constant", s, 100), at("Polyak average", s, 100)) for s in QUARTERS
    ]
    ends_of = {
        name: at(name, 100, 100) for name in ("cosine", "step at 75 %", "step at 25 %")
    }
    full, cosine, late, early = ends[100], *ends_of.values()
    forms = [
        [error(cosine, full, LOSS), error(full, cosine, LOSS)],
        [error(late, full, LOSS)],
        [error(late, early)],
    ]
    return [front, plain, *forms, *singles, polyak]


def normalizations(data):
    settled = []
    for decayed, _ in results(data, "normalizations")["settled"].values():
        before, last = np.array(decayed)[:, 50:75], np.array(decayed)[:, 75:]
        percent = 100.0 * (last.mean(1) / before.mean(1) - 1.0)
        settled += [accuracy(percent, 0.0, 10.0), error(percent, 0.0, 10.0)]
    return [None] * 5 + [settled]


def heads(data):
    found = results(data, "heads")["heads"]
    fixed, trained = (found[name]["accuracies"] for name in ("fixed", "trained"))
    return [[accuracy(fixed, trained, POINTS)]]


def small_budgets(data):
    return [
        [
            error(
                *(
                    np.array(by_method[name]["scores"])[:, 2]
                    for name in ("linear, every step", "constant")
                )
            )
        ]
        for by_budget in results(data, "budgets")["optimizers"].values()
        for by_method in by_budget.values()
    ]


def schedule_free(data):
    """By losses, and then by errors."""
    return [below_family(data, number) for number in (0, 1)]


def below_family(data, number):
    name, compared = "schedule-free, exponential", []
    for share in QUARTERS:
        ours = linear(data, share, number)
        longer = [
            ours - linear(data, less, number) for less in QUARTERS if less < share
        ]
        intervals = [
            stats.ttest_1samp(gap, 0.0).confidence_interval() for gap in longer
        ]
        # To lie below a decay that is above a shorter one shows nothing.
        vacuous = any(interval.low > 0.0 for interval in intervals)
        theirs = losses(data, name, share, number)
        compared.append((*error(theirs, ours, (LOSS, POINTS)[number]), vacuous))
    return compared


COMPARED = {
    "Tuning on a log scale": tuning,
    "Four schedules and completed phases": four_schedules,
    "Linear scaling with the batch size": scaling,
    "Warmup for large batches": warmup,
    "Bounds from a range test": range_test,
    "Triangular cycles": triangular,
    "Warm restarts": restarts,
    "Snapshot ensembles": snapshots,
    "Profiles and sampling rates across budgets": budgets,
    "Fractal schedules": fractals,
    "Decay at every budget": decay,
    "Averages at a constant rate": averages,
    "Schedule-free training": schedule_free,
    "Linear decay and uniform averages": uniform,
    "Loss after each drop": drops,
    "One large step and many small ones": bound,
    "Warmup and the curvature": curvature,
    "The smallest budget": smallest,
    "Pareto figure": pareto,
    "Normalizations and forms of weight decay": normalizations,
    "A fixed last layer": heads,
    "Decay at small budgets": small_budgets,
}
EXPERIMENT_OF = {
    "Tuning on a log scale": "rate_search",
    "Four schedules and completed phases": "lecture_notes",
    "Linear scaling with the batch size": "batch_sizes",
    "Warmup for large batches": "batch_sizes",
    "Bounds from a range test": "rate_search",
    "Triangular cycles": "triangular",
    "Warm restarts": "snapshots",
    "Snapshot ensembles": "snapshots",
    "Profiles and sampling rates across budgets": "budgets",
    "Fractal schedules": "fractals",
    "Decay at every budget": "averages",
    "Averages at a constant rate": "averages",
    "Schedule-free training": "averages",
    "Linear decay and uniform averages": "averages",
    "Loss after each drop": "drops",
    "One large step and many small ones": "bound",
    "Warmup and the curvature": "curvature",
    "The smallest budget": "smallest",
    "Pareto figure": "pareto",
    "Normalizations and forms of weight decay": "normalizations",
    "A fixed last layer": "heads",
    "Decay at small budgets": "budgets",
    # Whose numbers are computed again further below.
    "Speed of 1cycle": "super_convergence",
    "Weight decay as exponential growth": "growth",
    "The same with the batch normalization of Keras": "growth",
    "Step decay from its ends": "bounded",
}
CASES = [(t, data) for t in COMPARED for data in datasets(EXPERIMENT_OF[t])]


def rejected(p_values, level=0.05):
    """Holm's procedure: from the smallest on, until one is not small enough."""
    found = set()
    for rank, index in enumerate(np.argsort(p_values)):
        if p_values[index] > level / (len(p_values) - rank):
            break
        found.add(int(index))
    return found


def outcome(decided, differences, threshold, sign, vacuous=False):
    if not decided:
        return "cannot be told"
    if sign * differences.mean() <= sign * threshold:
        return "no"
    return "cannot be told" if vacuous else "yes"


def together(outcomes):
    if "no" in outcomes:
        return "no"
    return "yes" if set(outcomes) == {"yes"} else "cannot be told"


def test_every_claim_is_computed_again():
    assert {title for title, _ in SECTIONS} == set(EXPERIMENT_OF)
    assert len(SECTIONS) == sum(
        len(datasets(experiment)) for experiment in EXPERIMENT_OF.values()
    )


@pytest.mark.parametrize(("title", "data"), CASES)
def test_differences_and_outcomes_are_those_of_the_runs(title, data):
    expected, rows = COMPARED[title](data), statements(title, data)
    assert len(expected) == len(rows)
    drawn = expected.count("drawn") + 2 * expected.count("drawn twice")
    drawn += sum(each for each in expected if isinstance(each, int))
    flat = [one for each in expected if isinstance(each, list) for one in each]
    ps = [stats.ttest_1samp(one[0], one[1]).pvalue for one in flat]
    # The page says how many comparisons there are.
    number = len(flat) + drawn
    said = {1: "There is one comparison."}
    assert said.get(number, f"The {number} comparisons are corrected together.") in (
        " ".join(section(title, data).split())
    )
    # Those that are drawn come first: their p-values are checked elsewhere.
    decided = None if drawn else rejected(ps)
    index = 0
    for each, (text, word, by) in zip(expected, rows, strict=True):
        if not isinstance(each, list):
            continue
        found = []
        for one in each:
            differences = one[0]
            interval = stats.ttest_1samp(differences, 0.0).confidence_interval()
            half = (interval.high - interval.low) / 2
            digits = 4 if re.search(r"\d\.\d{4}", by) else 2  # Losses have more.
            # The mean of decimals may lie halfway, which its sum misses by a rounding.
            mean = round(differences.mean(), 9)
            quoted = f"{mean:+.{digits}f} ± {half:.{digits}f}"
            if len(each) <= 4:
                assert quoted in by, (text, quoted)
            if decided is not None:
                found.append(outcome(index in decided, *one))
            index += 1
        if decided is not None:
            assert word == together(found), text


@pytest.mark.parametrize("data", datasets("budgets"))
def test_the_comparisons_of_budgets_are_corrected_together(data):
    title = "Profiles and sampling rates across budgets"
    found = budgets(data)
    flat = [one for each in found[4:] for one in each]
    ps = [stats.ttest_1samp(d, threshold).pvalue for d, threshold, _ in flat]
    page = load_program("examples/claims.page")
    experiment = next(one for one in page.EXPERIMENTS if one.name == "budgets")
    judged = page.judged(experiment.rows[0], results(data, "budgets"))
    drawn = [one.p for each in judged[:4] for one in each.statement.comparisons]
    decided = rejected([*drawn, *ps])
    index, rows = len(drawn), statements(title, data)
    for each, (text, word, by) in zip(found[4:], rows[4:], strict=True):
        outcomes = []
        for one in each:
            outcomes.append(outcome(index in decided, *one))
            index += 1
        assert word == together(outcomes), text
        if len(each) == 1:
            continue
        counts = [outcomes.count(w) for w in ("yes", "no", "cannot be told")]
        said = "of {}: {} yes, {} no, {} cannot be told".format(len(each), *counts)
        if len(each) > 4:
            assert by.startswith(said)
        lost = [o for o, w in zip(each, outcomes, strict=True) if w == "no"]
        for differences, _, _ in lost:
            assert f"{differences.mean():+.2f} ± " in by


@pytest.mark.parametrize("data", datasets("budgets"))
def test_finishes_are_those_of_the_mean_errors(data):
    rows = iter(statements("Profiles and sampling rates across budgets", data))
    page = load_program("examples/claims.page")
    experiment = next(one for one in page.EXPERIMENTS if one.name == "budgets")
    judged = iter(page.judged(experiment.rows[0], results(data, "budgets")))
    for names in sets(data):
        means = [
            {name: np.mean(np.array(cell[name]["scores"])[:, 2]) for name in names}
            for (_, budget), cell in cells(data, *names).items()
            if budget in ALL_BUDGETS
        ]
        for first in (1, 3):
            shares = dict.fromkeys(names, 0.0)
            for cell in means:
                places = sorted(cell.values())[:first]
                for value in set(places):
                    equal = [name for name in names if cell[name] == value]
                    for name in equal:
                        shares[name] += places.count(value) / len(equal)
            text, _, by = next(rows)
            ours = 100.0 * shares.pop(REX) / len(means)
            assert f"top-{first}" in text
            assert f"({len(names)})" in text
            one = next(judged)
            assert by == one.by
            compared = zip(
                shares.values(), one.statement.comparisons, one.outcomes, strict=True
            )
            for found, comparison, said in compared:
                theirs = 100.0 * found / len(means)
                begins = f"{ours:.1f} % against {theirs:.1f} %, {ours - theirs:.1f} ["
                assert comparison.by.startswith(begins)
                if said != "cannot be told":
                    assert said == ("yes" if ours > theirs else "no")
                    assert comparison.low > 0.0 or comparison.high < 0.0


@pytest.mark.parametrize("data", datasets("super_convergence"))
def test_the_speed_of_1cycle_is_that_of_its_curves(data):
    found = results(data, "super_convergence")["accuracies"]
    lengths = [length for length, _ in found["step decay"]]
    means = {n: [np.mean(runs) for _, runs in pairs] for n, pairs in found.items()}
    last = np.array(found["step decay"][-1][1])
    target = last.mean() - last.std(ddof=1) / len(last) ** 0.5

    def needed(name):
        # Piecewise linear in the logarithm of the length, on a fine grid.
        grid = np.linspace(np.log(lengths[0]), np.log(lengths[-1]), 200_001)
        curve = np.interp(grid, np.log(lengths), means[name])
        if (curve < target).all():
            return np.inf
        return np.exp(grid[np.argmax(curve >= target)])

    rows = statements("Speed of 1cycle", data)
    for threshold, (_, word, by) in zip((1, 2), rows, strict=True):
        ratio, low, high = map(float, re.findall(r"inf|\d+\.\d+", by))
        expected = needed("step decay") / needed("1cycle")
        assert ratio == pytest.approx(expected, abs=0.006)
        if low < threshold < high:
            assert word == "cannot be told"
        assert word in ("cannot be told", "yes" if ratio > threshold else "no")


@pytest.mark.parametrize("data", datasets("growth"))
def test_losses_without_weight_decay_are_those_of_the_runs(data):
    found = results(data, "growth")["differences"]
    for name, (text, word, by) in zip(
        ("constant", "step decay"),
        statements("Weight decay as exponential growth", data),
        strict=False,
    ):
        assert text.startswith(f"{name}: ")
        largest = max(found[name]["float64"])
        assert f"{largest:.1e}" in by
        assert (word == "yes") == (largest <= 1e-9)
    # How the rates grow, from one record to the next.
    curves = results(data, "growth")["curves"]
    rows = statements("Weight decay as exponential growth", data)
    for name, (_, word, by) in zip(("constant", "step decay"), rows[2:], strict=True):
        rates = np.array(curves[name][2][1])
        growth = np.round(rates[1:] / rates[:-1], 9)
        factors = sorted({g for g in growth if g > 1.0}, reverse=True)
        assert re.findall(r"1\.\d+", by) == [f"{g:.5g}" for g in factors]
        assert word == ("yes" if len(factors) == {"constant": 1}.get(name, 3) else "no")
    rows = statements("The same with the batch normalization of Keras", data)
    for column, (text, word, by) in zip(("0", "1e-05", "0.001"), rows, strict=True):
        assert text.endswith(f"epsilon {column}")
        largest = [found[n][f"BN, {column}"][0] for n in ("constant", "step decay")]
        assert [f"{one:.1e}" in by for one in largest] == [True, True]
        assert word == ("yes" if max(largest) <= 1e-4 else "no")


@pytest.mark.parametrize("data", datasets("bounded"))
def test_the_last_rates_of_step_decays_are_those_of_the_runs(data):
    found = results(data, "bounded")
    rows = statements("Step decay from its ends", data)
    assert f"{found['example'][0]:.12f}" in rows[0][2]
    assert rows[1][1] == "yes"
    assert all(abs(rate / 0.1 - 1.0) <= 1e-3 for rate in found["first"].values())
    for kind, (_, word, by) in zip(("drops", "plateaus"), rows[2:], strict=True):
        last = {n: rate / 1e-3 for n, rate in found["last"].items() if kind in n}
        assert all(f"{n}: {ratio:.3f} eta_m" in by for n, ratio in last.items())
        exact = all(abs(ratio - 1.0) <= 1e-3 for ratio in last.values())
        assert word == ("yes" if exact else "no")


@pytest.mark.parametrize("data", datasets("bound"))
def test_the_bound_of_the_notes_is_that_of_what_was_measured(data):
    found = results(data, "bound")
    number = found["small steps"]
    _, word, by = statements("One large step and many small ones", data)[0]
    shares = []
    for stage, runs in found["stages"]:
        gap, bound, norm, sigma, curvature = np.array(runs).T
        step = 1.0 / (2.0 * curvature * number)
        expected = (
            2.0 * sigma / (curvature * np.sqrt(number)) + step * number / 2 * norm
        )
        np.testing.assert_allclose(bound, expected)
        shares.append((gap / bound).max())
        assert f"after {stage} epochs: at most {shares[-1]:.2f} of the bound" in by
    assert word == ("yes" if max(shares) <= 1.0 else "no")


@pytest.mark.parametrize("data", datasets("lecture_notes"))
def test_four_schedules_train_and_are_below_the_best_by_what_is_said(data):
    title = "Four schedules and completed phases"
    methods = results(data, "lecture_notes")["methods"]
    ends = {n: 100.0 - np.array(one["scores"])[:, 2] for n, one in methods.items()}
    _, word, by = statements(title, data)[0]
    four = ("step decay, thirds", "1/sqrt(t)", "cosine", "cosine in phases")
    means = [ends[name].mean() for name in four]
    assert word == ("yes" if min(means) > 50.0 else "no")
    for name, mean in zip(four, means, strict=True):
        said = re.search(rf"{re.escape(name)}: ([\d.]+) %", by).group(1)
        assert float(said) == pytest.approx(mean, abs=0.00501)
    best = max(ends, key=lambda name: ends[name].mean())
    table = section(title, data)
    for name in ends.keys() - {best}:
        gap = ends[best] - ends[name]
        interval = stats.ttest_1samp(gap, 0.0).confidence_interval()
        half = (interval.high - interval.low) / 2
        said = f"{round(gap.mean(), 9):.2f} ± {half:.2f}"
        assert re.search(rf"^\| {re.escape(name)} .*\| {said} +\|$", table, re.M)


@pytest.mark.parametrize("data", datasets("normalizations"))
def test_other_normalizations_have_the_same_losses(data):
    found = results(data, "normalizations")
    rows = statements("Normalizations and forms of weight decay", data)
    cosines, ratios, _ = np.array(found["lemma"]).T
    lemma = abs(cosines).max() <= 1e-12 and abs(ratios - 1.0).max() <= 1e-9
    assert rows[0][1] == ("yes" if lemma else "no")
    assert f"at most {abs(cosines).max():.0e}" in rows[0][2]
    for (variant, by_schedule), (text, word, by) in zip(
        found["differences"].items(), rows[1:4], strict=True
    ):
        assert text.startswith(f"{variant}: ")
        largest = [parts[0] for parts in by_schedule.values()]
        assert all(f"{one:.1e}" in by for one in largest)
        assert word == ("yes" if max(largest) <= 1e-9 else "no")
    every = [
        part
        for by_schedule in found["differences"].values()
        for parts in by_schedule.values()
        for part in parts
    ]
    assert rows[4][1] == ("yes" if max(every) <= 1e-9 else "no")


# --- Other pages ----------------------------------------------------------------------


QUOTING = (
    ROOT / "README.md",
    *(ROOT / "docs" / n for n in ("index.md", "which_schedule.md", "sources.md")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
)
OUTCOME = re.compile(r'evidence\.md#([\w-]+)\)(?:, "([^"]*)")?: \*([^*]*)\*')
BLOCK = re.compile(
    r"<!-- evidence: ([\w-]+)(?:, statements)? -->\n(.*?)<!-- end of evidence -->", re.S
)


def test_what_other_pages_quote_is_in_the_evidence():
    titles = {slug(title): title for title in EXPERIMENT_OF}
    assert sum(bool(BLOCK.search(page.read_text())) for page in QUOTING) >= 7
    for page in QUOTING:
        text = page.read_text(encoding="utf-8")
        for name, block in BLOCK.findall(text):
            label = re.match(r"\nOn (.*):\n", block).group(1)
            lines = [line for line in block.splitlines()[2:] if line]
            assert lines
            known = SECTIONS[titles[name], label].splitlines()
            assert [line for line in lines if line not in known] == [], page
        for name, beginning, said in OUTCOME.findall(text):
            found = []
            for (title, label), piece in SECTIONS.items():
                if title == titles[name]:
                    found.append(f"{word_of(piece, beginning)} ({label})")
            assert said == ", ".join(found), (page, name, beginning)


def word_of(piece, beginning):
    """The outcome of a claim, or of its statements that begin with these words."""
    if not beginning:
        verdict = r"^\*\*Outcome: (yes|no|cannot be told) \("
        return re.search(verdict, piece, re.M).group(1)
    words = [word for text, word, _ in rows_of(piece) if text.startswith(beginning)]
    assert words, beginning
    return together(words)


def test_no_other_page_states_results_of_its_own():
    for page in QUOTING:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        if page.name == "groups.md":
            # What `examples/finetune_layerwise.py` prints; no source makes the claim.
            text = re.sub(r"^\|.* ± .*\|$", "", text, flags=re.MULTILINE)
        assert re.findall(r"[\d.]+ ± [\d.]+", text) == [], page
        assert "holds in part" not in text
