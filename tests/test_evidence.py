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


def results(name):
    path = PAGE.with_suffix("") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["results"]


def slug(title):
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def sections():
    """The text of each claim, by title."""
    parts = re.split(r"^### (.*)$", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def statements(title):
    """The rows of a claim's last table: statement, outcome, and by what."""
    table = sections()[title].partition("| statement ")[2].split("\n\n")[0]
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


# --- What the statements compare ------------------------------------------------------
# One list for each statement; (differences of seeds, threshold, sign) is a comparison.
# With sign -1 less is better. None is a statement that noise has no part in.


def accuracy(ours, theirs, margin=0.0):
    return np.subtract(ours, theirs), -margin, 1


def error(ours, theirs, margin=0.0):
    return np.subtract(ours, theirs), margin, -1


def tuning():
    two = results("rate_search")["two"]
    return [None] * 4 + [[accuracy(two["random"], two["grid"])]]


def four_schedules():
    found = results("lecture_notes")
    ends = {
        name: 100.0 - np.array(method["scores"])[:, 2]
        for name, method in found["methods"].items()
    }
    best = max(ends, key=lambda name: ends[name].mean())
    stopped = {name: np.array(runs)[:, 0] for name, runs in found["stopped"].items()}
    trains = [
        None if name == best else [accuracy(ends[name], ends[best], 1.0)]
        for name in ("step decay, thirds", "1/sqrt(t)", "cosine", "cosine in phases")
    ]
    end, middle = "end of the last completed phase", "middle of the next"
    return [*trains, None, [accuracy(stopped[end], stopped[middle])]]


def batches():
    found = results("batch_sizes")["accuracies"]
    return {(size, rule, warm): runs for size, rule, warm, runs in found}


def scaling():
    found, compared = batches(), []
    for size in (128, 512):
        linear, fixed, root = (
            found[size, rule, False] for rule in ("linear", "fixed", "sqrt")
        )
        compared += [[accuracy(linear, fixed)], [accuracy(linear, root, POINTS)]]
    return [*compared, None, None]


def warmup():
    found, compared = batches(), []
    for size in (128, 512):
        warm, cold = (found[size, "linear", which] for which in (True, False))
        compared.append([accuracy(warm, cold)])
        compared.append([accuracy(warm, found[32, "fixed", False], 1.0)])
    return compared


def range_test():
    found = results("rate_search")
    grid = max((runs for _, runs in found["grid"]), key=np.mean)
    return [
        [accuracy(runs, grid, 1.0)]
        for _, method, runs in found["suggested"]
        if method != "fixed rate"
    ]


def triangular():
    found = results("triangular")["methods"]
    ours, step = (
        np.array(found[name]["accuracies"])
        for name in ("triangular cycles", "step decay")
    )
    ends, middles = [7, 15, 23, 31, 39], [3, 11, 19, 27, 35]
    return [
        [accuracy(ours[:, ends].mean(1), ours[:, middles].mean(1))],
        [accuracy(ours[:, ends[:4]].mean(1), ours[:, middles[1:]].mean(1))],
        [accuracy(ours.mean(1), step.mean(1), POINTS)],
        [accuracy(ours[:, ends].mean(1), step[:, ends].mean(1), POINTS)],
        [accuracy(ours[:, 39], step[:, 39], POINTS)],
    ]


def snapshots():
    found = results("snapshots")
    curves = {name: np.array(c)[:, 0] for name, c in found["curves"].items()}
    step, compared = curves["step decay"], []
    for name, ends in (("growing cycles", [4, 16, 39]), ("cycles", range(7, 40, 8))):
        ours, ends = curves[name], list(ends)
        compared.append([accuracy(ours.mean(1), step.mean(1))])
        compared.append([accuracy(ours[:, ends].mean(1), step[:, ends].mean(1))])
    compared.append([accuracy(curves["cycles"][:, 39], curves["cycles"][:, 7])])
    scores = {name: np.array(s)[..., 0] for name, s in found["scores"].items()}
    every, last = scores["last snapshots"][:, 4], scores["last snapshots"][:, 0]
    others = (last, scores["step decay"], scores["one cosine"])
    compared += [[accuracy(every, other)] for other in others]
    compared.append([accuracy(every, scores["independent"][:, 4])])
    return [*compared, None]


def mean_errors():
    """By method, the mean of optimizers and budgets, for each seed."""
    cells = [
        {name: np.array(cell["scores"])[:, 2] for name, cell in by_method.items()}
        for by_budget in results("budgets")["optimizers"].values()
        for by_method in by_budget.values()
    ]
    return {name: np.mean([cell[name] for cell in cells], axis=0) for name in cells[0]}


def budgets():
    found = mean_errors()
    ours = found["REX, every step"]
    others = [name for name in found if name != "REX, every step"]
    lower = [error(ours, found[name]) for name in others]
    near = [error(ours, found[name], POINTS) for name in others]
    sampled = [
        error(found[f"{name.split(',')[0]}, every step"], found[name])
        for name in found
        if re.search(", (every epoch|10 %|50 and 75 %)$", name)
    ]
    assert (len(lower), len(near), len(sampled)) == (22, 22, 15)
    return ["drawn"] * 4 + [lower, near, sampled]


def fractals():
    gaps = results("fractals")["gaps"]
    ends = {name: [run[-1] for run in runs] for name, (_, runs) in gaps.items()}

    def best(kind):
        names = [name for name in ends if name.startswith(kind)]
        finite = [name for name in names if np.isfinite(ends[name]).all()]
        return np.log10(ends[min(finite, key=lambda name: np.mean(ends[name]))])

    first = best("fractal")
    heavy = np.log10(ends["heavy ball"])
    return [None, None, [error(first, best("constant"))], [error(first, heavy, 0.3)]]


def losses(name, share=100):
    """The test losses after a share of 60 epochs; looked at after every 3."""
    return np.array(results("averages")["found"][name][0])[:, 60 * share // 300 - 1]


QUARTERS = (25, 50, 75, 100)


def linear(share):
    return losses(f"linear decay, {share} %", share)


def decay():
    cosine, late = losses("cosine"), losses("step at 75 %")
    return [
        [error(linear(share), losses("constant", share)) for share in QUARTERS],
        [error(cosine, linear(100), LOSS), error(linear(100), cosine, LOSS)],
        [error(late, linear(100), LOSS)],
        [error(late, losses("step at 25 %"))],
    ]


def averages():
    polyak, plain = "Polyak average", "constant"
    return [
        [error(losses("EMA, 1 %"), losses("cosine"), LOSS)],
        [error(losses("EMA, 10 %"), losses("cosine"), LOSS)],
        [error(losses(plain, share), losses(polyak, share)) for share in QUARTERS],
    ]


def schedule_free():
    name, compared = "schedule-free, exponential", []
    for share in QUARTERS:
        longer = [linear(share) - linear(less) for less in QUARTERS if less < share]
        worse = [
            stats.ttest_1samp(gap, 0.0).confidence_interval().low for gap in longer
        ]
        if any(low > 0.0 for low in worse):
            compared.append(None)
        else:
            compared.append(error(losses(name, share), linear(share), LOSS))
    assert compared[2] is None
    return [compared]


COMPARED = {
    "Tuning on a log scale": tuning,
    "Four schedules and completed phases": four_schedules,
    "Linear scaling with the batch size": scaling,
    "Warmup for large batches": warmup,
    "Bounds from a range test": range_test,
    "Triangular cycles": triangular,
    "Warm restarts and snapshots": snapshots,
    "Profiles and sampling rates across budgets": budgets,
    "Fractal schedules": fractals,
    "Decay at every budget": decay,
    "Averages at a constant rate": averages,
    "Schedule-free training": schedule_free,
}
OTHERS = {  # Whose numbers are computed again below.
    "Speed of 1cycle",
    "Weight decay as exponential growth",
    "The same with the batch normalization of Keras",
    "Step decay from its ends",
}


def rejected(p_values, level=0.05):
    """Holm's procedure: from the smallest on, until one is not small enough."""
    found = set()
    for rank, index in enumerate(np.argsort(p_values)):
        if p_values[index] > level / (len(p_values) - rank):
            break
        found.add(int(index))
    return found


def outcome(decided, differences, threshold, sign):
    if not decided:
        return "cannot be told"
    return "yes" if sign * differences.mean() > sign * threshold else "no"


def together(outcomes):
    if "no" in outcomes:
        return "no"
    return "yes" if set(outcomes) == {"yes"} else "cannot be told"


def test_every_claim_is_computed_again():
    assert set(sections()) == {*COMPARED, *OTHERS}


@pytest.mark.parametrize("title", COMPARED)
def test_differences_and_outcomes_are_those_of_the_runs(title):
    expected, rows = COMPARED[title](), statements(title)
    assert len(expected) == len(rows)
    drawn = sum(each == "drawn" for each in expected)
    flat = [one for each in expected if isinstance(each, list) for one in each]
    flat = [one for one in flat if one is not None]
    ps = [stats.ttest_1samp(d, threshold).pvalue for d, threshold, _ in flat]
    # The page says how many comparisons there are.
    number = len(flat) + drawn
    said = {1: "There is one comparison."}
    assert said.get(number, f"The {number} comparisons are corrected together.") in (
        " ".join(sections()[title].split())
    )
    # Those that are drawn come first: their p-values are checked elsewhere.
    decided = None if drawn else rejected(ps)
    index = 0
    for each, (text, word, by) in zip(expected, rows, strict=True):
        if not isinstance(each, list):
            continue
        found = []
        for one in each:
            if one is None:
                found.append("cannot be told")
                continue
            differences = one[0]
            interval = stats.ttest_1samp(differences, 0.0).confidence_interval()
            half = (interval.high - interval.low) / 2
            digits = 4 if re.search(r"\d\.\d{4}", by) else 2  # Losses have more.
            quoted = f"{differences.mean():+.{digits}f} ± {half:.{digits}f}"
            if len(each) <= 4:
                assert quoted in by, (text, quoted)
            if decided is not None:
                found.append(outcome(index in decided, *one))
            index += 1
        if decided is not None:
            assert word == together(found), text


def test_the_comparisons_of_budgets_are_corrected_together():
    found = budgets()
    flat = [one for each in found[4:] for one in each]
    ps = [stats.ttest_1samp(d, threshold).pvalue for d, threshold, _ in flat]
    page = load_program("examples/claims.page")
    experiment = next(one for one in page.EXPERIMENTS if one.name == "budgets")
    judged = page.judged(experiment.rows[0], results("budgets"))
    drawn = [one.statement.comparisons[0].p for one in judged[:4]]
    decided = rejected([*drawn, *ps])
    index, rows = 4, statements("Profiles and sampling rates across budgets")
    for each, (text, word, by) in zip(found[4:], rows[4:], strict=True):
        outcomes = []
        for one in each:
            outcomes.append(outcome(index in decided, *one))
            index += 1
        assert word == together(outcomes), text
        counts = [outcomes.count(w) for w in ("yes", "no", "cannot be told")]
        assert by.startswith(
            "of {}: {} yes, {} no, {} cannot".format(len(each), *counts)
        )
        lost = [o for o, w in zip(each, outcomes, strict=True) if w == "no"]
        for differences, _, _ in lost:
            assert f"{differences.mean():+.2f} ± " in by


def test_finishes_are_those_of_the_mean_errors():
    cells = [
        {name: np.mean(np.array(cell["scores"])[:, 2]) for name, cell in each.items()}
        for by_budget in results("budgets")["optimizers"].values()
        for each in by_budget.values()
    ]
    smooth = [name for name in cells[0] if "every step" in name]
    people = [*smooth, "constant", "step decay", "1cycle"]
    rows = iter(statements("Profiles and sampling rates across budgets"))
    for names in (people, list(cells[0])):
        for first in (1, 3):
            shares = dict.fromkeys(names, 0.0)
            for cell in cells:
                places = sorted(cell[name] for name in names)[:first]
                for value in set(places):
                    equal = [name for name in names if cell[name] == value]
                    for name in equal:
                        shares[name] += places.count(value) / len(equal)
            text, _, by = next(rows)
            share = 100.0 * shares.pop("REX, every step") / len(cells)
            most = 100.0 * max(shares.values()) / len(cells)
            assert f"top-{first}" in text
            assert f"({len(names)})" in text
            assert by.startswith(f"REX {share:.1f} % of the settings; the most of the ")
            assert f", {most:.1f} %; by chance" in by
            assert f"difference: {share - most:.1f} [" in by


def test_the_speed_of_1cycle_is_that_of_its_curves():
    found = results("super_convergence")["accuracies"]
    lengths = [length for length, _ in found["step decay"]]
    means = {n: [np.mean(runs) for _, runs in pairs] for n, pairs in found.items()}
    last = np.array(found["step decay"][-1][1])
    target = last.mean() - last.std(ddof=1) / len(last) ** 0.5

    def needed(name):
        # Piecewise linear in the logarithm of the length, on a fine grid.
        grid = np.linspace(np.log(lengths[0]), np.log(lengths[-1]), 200_001)
        curve = np.interp(grid, np.log(lengths), means[name])
        return np.exp(grid[np.argmax(curve >= target)])

    plain, full = "1cycle, momentum 0.9", "1cycle"
    pairs = (("step decay", full), ("step decay", plain))
    pairs += (("step decay", full), (plain, full))
    for (slower, faster), (_, word, by) in zip(
        pairs, statements("Speed of 1cycle"), strict=True
    ):
        ratio, low, high = map(float, re.findall(r"\d+\.\d+", by))
        assert ratio == pytest.approx(needed(slower) / needed(faster), abs=0.006)
        # Of four comparisons none is decided, nor is any interval on one side of 1.
        assert low < 1.0 < high
        assert word == "cannot be told"


def test_losses_without_weight_decay_are_the_same_in_float64_only():
    found = results("growth")["differences"]
    for name, (text, word, by) in zip(
        ("constant", "step decay"),
        statements("Weight decay as exponential growth"),
        strict=False,
    ):
        assert text.startswith(f"{name}: ")
        assert f"{found[name]['float64']:.1e}" in by
        assert (word == "yes") == (found[name]["float64"] <= 1e-9)
    rows = statements("The same with the batch normalization of Keras")
    for column, (text, word, by) in zip(("0", "1e-05", "0.001"), rows, strict=True):
        assert text.endswith(f"epsilon {column}")
        largest = [found[n][f"BN, {column}"] for n in ("constant", "step decay")]
        assert [f"{one:.1e}" in by for one in largest] == [True, True]
        assert word == ("yes" if max(largest) <= 1e-4 else "no")


def test_the_last_rates_of_step_decays_are_those_of_the_runs():
    found = results("bounded")
    rows = statements("Step decay from its ends")
    assert f"{found['example'][0]:.12f}" in rows[0][2]
    for kind, (_, word, by) in zip(("drops", "plateaus"), rows[1:], strict=True):
        last = {n: rate / 1e-3 for n, rate in found["last"].items() if kind in n}
        assert all(f"{n}: {ratio:.3f} eta_m" in by for n, ratio in last.items())
        exact = all(abs(ratio - 1.0) <= 1e-3 for ratio in last.values())
        assert word == ("yes" if exact else "no")


# --- Other pages ----------------------------------------------------------------------


QUOTING = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("index.md", "which_schedule.md")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
)
BLOCK = re.compile(
    r"<!-- evidence: ([\w-]+)(?:, statements)? -->\n(.*?)<!-- end of evidence -->", re.S
)


def test_what_other_pages_quote_is_in_the_evidence():
    titles = {slug(title): title for title in sections()}
    assert sum(bool(BLOCK.search(page.read_text())) for page in QUOTING) >= 7
    for page in QUOTING:
        for name, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            lines = [line for line in text.splitlines() if line]
            assert lines
            known = sections()[titles[name]].splitlines()
            assert [line for line in lines if line not in known] == [], page
        for name, word in re.findall(
            r"evidence\.md#([\w-]+)\): \*([^*]*)\*", page.read_text(encoding="utf-8")
        ):
            verdict = re.search(
                r"^\*\*Is it so here\? (yes|no|cannot be told) \(",
                sections()[titles[name]],
                re.M,
            )
            assert word == verdict.group(1), (page, name)


def test_no_other_page_states_results_of_its_own():
    for page in QUOTING:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        if page.name == "README.md":
            # What `make run` prints.
            text = re.sub(r"```\nschedule .*?```", "", text, flags=re.DOTALL)
        assert re.findall(r"[\d.]+ ± [\d.]+", text) == [], page
        assert "holds in part" not in text
