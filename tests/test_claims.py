"""The published claims: every row runs, is judged by its runs, and is in the page."""

import json
import re

import keras
import numpy as np
import pytest
from scipy import stats

from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("jax"), pytest.mark.program]

page = load_program("examples/claims.page")
harness = page.harness
EXPERIMENTS = {one.name: one for one in page.EXPERIMENTS}
ROWS = (
    "S0a S0b S0c S0d S1a S1b S1c S1d S1e S1f S2a S2b S2c S3a S4a".split()  # noqa: SIM905
)
PAGE = ROOT / "docs" / "evidence.md"
SEEDS = 3
VERDICTS = r"(holds in part \(\d of \d\)|holds|does not hold|cannot be told)"


@pytest.fixture(autouse=True)
def same_backend(monkeypatch):
    # The program sets these variables: for Keras, which is imported already.
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


def module_of(name):
    return page.importlib.import_module(f"claims.{name}")


@pytest.fixture
def less(monkeypatch):
    """Of what takes long to compile."""
    sweeps = module_of("rate_search").example
    monkeypatch.setattr(sweeps, "GRID", (0.1, 0.3))
    large = module_of("batch_sizes").example
    monkeypatch.setattr(large, "BATCH_SIZES", (128,))
    monkeypatch.setattr(large, "WARMUP_EPOCHS", 1)
    monkeypatch.setattr(large, "RULES", ("fixed", "sqrt", "linear"))
    growth = module_of("growth").example
    few = ("constant", "step decay")
    made = {name: growth.make_schedules()[name] for name in few}
    monkeypatch.setattr(growth, "make_schedules", lambda: made)
    monkeypatch.setattr(growth, "EPSILONS", (1e-3,))
    monkeypatch.setattr(growth, "COLUMNS", ("float64", "BN, 0.001"))
    monkeypatch.setitem(harness.GRIDS, harness.SGD, (0.1,))
    monkeypatch.setattr(harness, "EXTENSIONS", 0)
    monkeypatch.setattr(module_of("fractals").example, "GRID", 2)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_and_writes_its_rows(name, tmp_path, less, capsys):
    rows = [row.name for row in EXPERIMENTS[name].rows]
    output = tmp_path / "evidence.md"
    options = ["--quick", "--seeds", "1", "--rows", rows[0], "--output", str(output)]
    page.main(options)
    said = dict(re.findall(rf"^(S\d\w): {VERDICTS}$", capsys.readouterr().out, re.M))
    assert list(said) == rows
    text = output.read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", text, re.M) == rows
    assert re.findall(rf"^\*\*Verdict: {VERDICTS}\.\*\*$", text, re.M) == [
        *said.values()
    ]
    assert text.count(f"](evidence/{name}.png)") == len(rows)
    picture = tmp_path / "evidence" / f"{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    # The page can be written again, without running anything.
    output.unlink()
    page.main([*options, "--resume"])
    assert output.read_text(encoding="utf-8") == text


def test_the_rows_are_those_that_were_claimed():
    assert [row.name for row, _ in page.all_rows()] == ROWS


def test_the_page_has_every_row_with_a_verdict_and_a_figure():
    text = PAGE.read_text(encoding="utf-8")
    for name in ROWS:
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        verdict = re.search(rf"^\*\*Verdict: {VERDICTS}\.\*\*$", section, re.M).group(1)
        assert re.search(rf"^\| \[{name}\].*\| {re.escape(verdict)} +\|$", text, re.M)
        (picture,) = re.findall(r"^!\[.*\]\((.*)\)$", section, re.M)
        assert (PAGE.parent / picture).read_bytes().startswith(b"\x89PNG")
        spread = "± " in section or "The numbers are those of [" in section
        assert spread or name in ("S1f", "S3a")  # Of which no mean is judged.


def test_nothing_of_the_page_is_typed():
    kept = {one.name: page.load(one, PAGE) for one in page.EXPERIMENTS}
    assert not any(one["quick"] for one in kept.values())
    assert all(one["results"]["seeds"] >= 5 for one in kept.values())
    assert PAGE.read_text(encoding="utf-8") == "\n".join(page.write(PAGE, kept)) + "\n"


def test_an_interrupted_run_is_taken_up(tmp_path, monkeypatch, capsys):
    ran = []

    def make(name):
        def run(size):
            ran.append(name)
            if name == "second" and len(ran) == 2:
                raise KeyboardInterrupt
            return {"seeds": size.seeds, "runs": [1.0, 3.0]}

        row = harness.Row(
            f"S{name}", "source", "claim", "criterion",
            lambda results: [harness.Part("a", True, "b")],
            lambda results: [f"{harness.spread(results['runs'])}"],
        )  # fmt: skip
        return harness.Experiment(
            name, (row,), run, lambda results: "setting",
            lambda results, path: path.write_text(name),
        )  # fmt: skip

    monkeypatch.setattr(page, "EXPERIMENTS", [make("first"), make("second")])
    output = tmp_path / "page.md"
    arguments = ["--output", str(output), "--seeds", "2"]
    with pytest.raises(KeyboardInterrupt):
        page.main(arguments)
    assert not output.exists()
    page.main([*arguments, "--resume"])
    assert ran == ["first", "second", "second"]
    assert output.read_text(encoding="utf-8").count("2.00 ± 1.00") == 2
    # Another size is run anew, and so is a row that is asked for.
    page.main([*arguments[:2], "--seeds", "4", "--resume", "--rows", "Sfirst"])
    page.main([*arguments, "--rows", "Ssecond"])
    assert ran[3:] == ["first", "second"]
    kept = json.loads((tmp_path / "page" / "first.json").read_text())
    assert (kept["seeds"], kept["backend"]) == (4, keras.backend.backend())


def test_a_verdict_is_of_all_parts():
    def verdict(*parts):
        return harness.verdict([harness.Part("", holds, "") for holds in parts])

    assert verdict(True, True) == "holds"
    assert verdict(True, False, None) == "holds in part (1 of 3)"
    assert verdict(False, None) == "does not hold"
    assert verdict(None) == "cannot be told"


def test_a_gap_is_as_large_as_a_paired_t_test_says():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1.0, size=8), rng.normal(size=8)
    gap = harness.Gap(ours, theirs)
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (gap.mean - gap.half, gap.mean + gap.half) == pytest.approx(tuple(interval))
    assert gap.above == (interval.low > 0.0)
    assert harness.Gap(theirs, ours).below == gap.above
    assert harness.Gap([1.0], [0.0]).above is None
    assert harness.no_worse("", [1.0], [0.0]).holds is None


def test_the_rate_is_chosen_on_the_data_held_out():
    scores = {
        # Error and loss of the data held out, then of the test data.
        0.1: [[3.0, 0.1, 0.0, 0.0], [5.0, 0.1, 0.0, 0.0]],
        0.2: [[4.0, 0.1, 9.0, 9.0], [2.0, 0.4, 9.0, 9.0]],
        0.3: [[3.0, 0.1, 9.0, 9.0], [3.0, 0.2, 9.0, 9.0]],
        0.4: [[3.0, 0.1, 9.0, 9.0], [3.0, np.nan, 9.0, 9.0]],
    }
    assert harness.best_rate(scores) == 0.3


def test_the_grid_goes_on_where_the_best_rate_is_at_its_edge(monkeypatch):
    trainer = object.__new__(harness.Trainer)
    trainer.optimizer = harness.SGD
    rates = []
    monkeypatch.setattr(
        trainer, "fit", lambda rate, epochs, seed: rates.append(rate), raising=False
    )
    error = {0.001: 4.0, 0.003: 1.0, 0.01: 2.0}
    monkeypatch.setattr(
        trainer, "score", lambda: [error.get(rates[-1], 5.0)] * 4, raising=False
    )
    found = trainer.run(lambda rate: rate, epochs=1, seeds=7)
    assert found["rate"] == 0.003
    assert found["scores"] == [[1.0] * 4] * 7
    tried = (0.01, 0.03, 0.1, 0.3, 0.003, 0.001)
    assert rates == [rate for rate in tried for _ in range(5)] + [0.003] * 2
    assert harness.next_rate(0.3, (0.03, 0.1, 0.3)) == 1.0
    assert harness.next_rate(1.0, (0.1, 0.3, 1.0)) == 3.0


def test_the_three_parts_of_the_digits_share_no_image():
    parts = harness.load_parts()
    assert [len(y) for _, y in parts] == [640, 357, 800]
    images = [{x.tobytes() for x in part} for part, _ in parts]
    assert not images[0] & images[1] | images[0] & images[2] | images[1] & images[2]


def test_places_are_shared_by_equal_values():
    finishes = module_of("budgets").finishes
    values = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0}
    assert finishes(values, 1) == {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    assert finishes(values, 2) == {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.0}
    assert finishes(values, 3) == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}
    assert sum(finishes(dict.fromkeys("abcde", 1.0), 3).values()) == 3.0


def around(mean):
    """Runs of three seeds whose differences to others are the same in each."""
    return [mean - 0.1, mean, mean + 0.1]


def made_up_rate_search(good):
    grid = [0.1, 0.9] if good else [1.0, 0.9]

    def sweep(best, value, edge, warnings=()):
        return {
            "range": [0.001, 1.0], "trials": [[0.1, 0.9]], "best": [best, value],
            "at edge": edge, "warnings": list(warnings),
        }  # fmt: skip

    edge = None if good else "high"
    example = module_of("rate_search").example
    return {
        "seeds": SEEDS,
        "epochs": 1,
        "sweeps": {
            example.LOG_GRID: sweep(*grid, edge),
            example.RANDOM: sweep(*grid, edge),
            example.LOW: sweep(1e-3, 0.5, "high" if good else None, ["edge"] * good),
            example.EXTENDED: sweep(0.1, 0.9 if good else 0.4, edge),
        },
        "two": {
            "trials": 9, "epochs": 1,
            "grid": around(90.0), "random": around(91.0 if good else 89.0),
        },
        "tests": [
            {
                "learning_rates": np.geomspace(1e-3, 1.0, 30).tolist(),
                "losses": [*np.linspace(2.0, 1.0, 20), *[1.0] * 10],
                "num_steps": 30,
                "smoothing": 0.0,
            }
        ] * SEEDS,
        "suggested": [
            [reading, method, around(97.0 if good else 90.0)]
            for reading in ("valley", "steepest", "minimum", "slide")
            for method in example.METHODS
        ],
        "grid": [[0.1, around(97.5)], [0.3, around(80.0)]],
    }  # fmt: skip


def made_up_lecture_notes(good):
    notes = module_of("lecture_notes")

    def found(error):
        return {"rate": 0.1, "scores": [[3.0, 0.1, e, 0.1] for e in around(error)]}

    errors = dict.fromkeys((notes.STEP, notes.ROOT, notes.COSINE, notes.PHASED), 3.0)
    if not good:
        errors = dict.fromkeys(errors, 9.0)
    end = [[a, 0.1] for a in around(96.0)]
    return {
        "seeds": SEEDS,
        "epochs": 28,
        "methods": {
            name: found(e) for name, e in (errors | {notes.CONSTANT: 3.5}).items()
        },
        "stopped": {
            notes.END: end,
            notes.MIDDLE: [[a, 0.1] for a in around(94.0 if good else 96.0)],
            notes.KEPT: end if good else [[a, 0.2] for a in around(94.0)],
        },
    }


def made_up_batch_sizes(good):
    linear = 97.0 if good else 93.0
    found = [[32, "fixed", warmup, around(97.0)] for warmup in (False, True)]
    for size in (128, 512):
        for rule, mean in (("fixed", 95.0), ("sqrt", 96.0), ("linear", linear)):
            found.append([size, rule, False, around(mean)])
            found.append([size, rule, True, around(mean + (0.5 if good else -0.5))])
    late = 0.1 if good else 0.9
    return {
        "seeds": SEEDS, "epochs": 20, "accuracies": found,
        "gaps": [[0, [0.5] * SEEDS], [20, [late] * SEEDS]],
    }  # fmt: skip


def made_up_triangular(good):
    triangular = module_of("triangular")
    curve = np.full(8, 95.0 if good else 90.0)
    curve[[3, 7]] += 2.0 if good else -2.0

    def found(curve):
        return {"rate": 0.1, "accuracies": [list(curve + n) for n in around(0.0)]}

    return {
        "seeds": SEEDS, "epochs": 8, "cycles": 2,
        "methods": {
            triangular.TRIANGULAR: found(curve),
            triangular.STEP: found(np.full(8, 93.0)),
        },
    }  # fmt: skip


def made_up_snapshots(good):
    example = module_of("snapshots").example
    # By seed; then accuracy and loss.
    single = [[a, 0.1] for a in around(97.0)]
    ours = [[[a, 0.1], [a + (1.0 if good else -1.0), 0.1]] for a in around(97.0)]
    better = 1.0 if good else -1.0

    def curves(more):
        return [[[a + more] * 4, [0.1] * 4] for a in around(90.0)]

    return {
        "seeds": SEEDS, "epochs": 4, "cycles": 2,
        "scores": {
            example.SNAPSHOTS: ours, example.INDEPENDENT: ours,
            example.STEP: single, example.COSINE: single,
        },
        "curves": {
            example.STEP: curves(0.0), example.COSINE: curves(0.0),
            example.CYCLES: curves(better), example.GROWING: curves(better),
        },
        "within": single, "completed": single,
    }  # fmt: skip


def made_up_super_convergence(good):
    example = module_of("super_convergence").example

    def found(*means):
        return [[e, around(mean)] for e, mean in zip((2, 8, 16), means, strict=True)]

    full = found(98.0, 98.0, 98.0) if good else found(90.0, 92.0, 98.0)
    plain = found(90.0, 98.0, 98.0) if good else found(90.0, 92.0, 98.0)
    return {
        "seeds": SEEDS, "rates": [0.1] * 3,
        "accuracies": {
            example.STEP: found(90.0, 92.0, 98.0),
            example.PLAIN: plain,
            example.FULL: full,
        },
    }  # fmt: skip


def made_up_budgets(good):
    budgets = module_of("budgets")
    names = (*budgets.EVERY_STEP_METHODS, "REX, 10 %", "linear, 10 %")
    best = budgets.OURS if good else "linear, 10 %"

    def found(name):
        error = 3.0 if name == best else 5.0 if "10 %" in name else 4.0
        error += 3.0 * (name == budgets.OURS and not good)
        return {
            "rate": 0.1,
            "scores": [[3.0, 0.1, e, e] for e in around(error)],
            "errors held out": {"0.03": 4.0, "0.1": 3.0, "0.3": 5.0},
        }

    return {
        "seeds": SEEDS, "epochs": 40,
        "optimizers": {
            harness.SGD: {b: {n: found(n) for n in names} for b in ("5", "100")}
        },
    }  # fmt: skip


def made_up_fractals(good):
    ours = 0.5 if good else 2.0
    return {
        "seeds": SEEDS, "steps": 16,
        "quadratic": [[8, ours, 0.5, 0.9 if good else 1.0]],
        "gaps": {
            "constant 1 / M": [8, [[0.5, 0.2]] * SEEDS],
            "fractal, T = 8": [8, [[0.5, 0.1 if good else 0.3]] * SEEDS],
            "heavy ball": [8, [[0.5, 0.01]] * SEEDS],
        },
    }  # fmt: skip


def made_up_averages(good):
    example = module_of("averages").example
    points = example.make_points(60)
    flat = 0.4 if good else 0.9

    def losses(name, method):
        if name == example.CONSTANT:
            mean = 0.8
        elif name == example.POLYAK:
            mean = flat + (0.1 if good else -0.2)
        elif name == example.FREE and not good:
            mean = 1.2
        else:
            mean = flat
        if not good and name == example.linear(100):
            mean = 0.85
        if not good and name == example.COSINE:
            mean = 0.1
        seen = [point for point in points if point <= 60 * method.budget // 100]
        return [[[mean + n] * len(seen) for n in around(0.0)]] * 2

    methods = example.make_methods()
    return {
        "seeds": SEEDS, "epochs": 60,
        "found": {name: losses(name, method) for name, method in methods.items()},
    }  # fmt: skip


def made_up_growth(good):
    example = module_of("growth").example
    rates = np.geomspace(0.1, 10.0, 5) if good else np.linspace(1.0, 0.1, 5)
    pair = [[1.0] * 5, [1.0] * 5]
    columns = dict.fromkeys(example.COLUMNS, 1e-13 if good else 0.1)
    names = ("constant", "step decay", "cosine")
    return {
        "seeds": SEEDS, "steps": 20,
        "differences": dict.fromkeys(names, columns),
        "curves": {name: [pair, pair, [[0.1] * 5, rates.tolist()]] for name in names},
    }  # fmt: skip


def made_up_bounded(good):
    names = ("2 drops", "2 plateaus", "smooth")
    return {
        "seeds": SEEDS, "epochs": 12, "drops": [2], "steps": 264,
        "example": [0.9993094630025899 if good else 0.99, 100 if good else 99],
        "accuracies": {name: around(97.0) for name in names},
        "last": dict.fromkeys(names, 1e-3 if good else 1e-2),
    }  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_judges_say_both(name):
    make = globals()[f"made_up_{name}"]
    for row in EXPERIMENTS[name].rows:
        good, bad = (list(row.judge(make(each))) for each in (True, False))
        assert harness.verdict(good) == "holds", (row.name, good)
        assert harness.verdict(bad) == "does not hold", (row.name, bad)
        for results in (make(True), make(False)):
            assert "| " in "\n".join(row.tables(results))
            assert EXPERIMENTS[name].setting(results)


def test_the_choice_of_a_schedule_quotes_the_verdicts_of_the_page():
    text = (PAGE.parent / "which_schedule.md").read_text(encoding="utf-8")
    quoted = re.findall(rf"\[(S\d\w)\]\(evidence\.md#\w+\) {VERDICTS}", text)
    found = re.findall(rf"^\| \[(S\d\w)\].*\| {VERDICTS} +\|$", PAGE.read_text(), re.M)
    assert len({name for name, _ in quoted}) >= 8
    assert set(quoted) <= set(found)
