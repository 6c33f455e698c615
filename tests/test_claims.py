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
judging = page.judging
experiment = page.importlib.import_module("claims.experiment")
harness = page.importlib.import_module("claims.harness")
EXPERIMENTS = {one.name: one for one in page.EXPERIMENTS}
ROWS = {
    "Tuning on a log scale",
    "Four schedules and completed phases",
    "Linear scaling with the batch size",
    "Warmup for large batches",
    "Triangular cycles",
    "Warm restarts and snapshots",
    "Speed of 1cycle",
    "Profiles and sampling rates across budgets",
    "Bounds from a range test",
    "Fractal schedules",
    "Decay at every budget",
    "Averages at a constant rate",
    "Schedule-free training",
    "Weight decay as exponential growth",
    "The same with the batch normalization of Keras",
    "Step decay from its ends",
}
PAGE = ROOT / "docs" / "evidence.md"
SEEDS = 3
VERDICTS = r"((?:yes|no|cannot be told) \(of \d+: [^()]*\))"


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
    rows = [row.title for row in EXPERIMENTS[name].rows]
    output = tmp_path / "evidence.md"
    first = EXPERIMENTS[name].rows[0].name
    options = ["--quick", "--seeds", "1", "--rows", first, "--output", str(output)]
    page.main(options)
    said = dict(re.findall(rf"^(.*): {VERDICTS}$", capsys.readouterr().out, re.M))
    text = output.read_text(encoding="utf-8")
    assert re.findall(r"^### (.*)$", text, re.M) == list(said)
    assert set(said) == set(rows)
    found = re.findall(rf"^\*\*Is it so here\? {VERDICTS}\*\*$", text, re.M)
    assert found == [*said.values()]
    assert text.count(f"](evidence/{name}.png)") == len(rows)
    picture = tmp_path / "evidence" / f"{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    # The page can be written again, without running anything.
    output.unlink()
    page.main([*options, "--resume"])
    assert output.read_text(encoding="utf-8") == text


def test_the_rows_are_those_that_were_claimed():
    assert {row.title for row, _ in page.all_rows()} == ROWS


def test_the_page_has_every_row_with_a_verdict_and_a_figure():
    text = PAGE.read_text(encoding="utf-8")
    for title in ROWS:
        section = re.split(r"\n##+ ", text.partition(f"\n### {title}\n")[2])[0]
        verdict = re.search(
            rf"^\*\*Is it so here\? {VERDICTS}\*\*$", section, re.M
        ).group(1)
        row = rf"^\| \[{re.escape(title)}\].*\| {re.escape(verdict)} +\|$"
        assert re.search(row, text, re.M)
        (picture,) = re.findall(r"^!\[.*\]\((.*)\)$", section, re.M)
        assert (PAGE.parent / picture).read_bytes().startswith(b"\x89PNG")


def test_nothing_of_the_page_is_typed():
    kept = {one.name: page.load(one, PAGE) for one in page.EXPERIMENTS}
    assert not any(one["quick"] for one in kept.values())
    assert all(one["results"]["seeds"] >= 5 for one in kept.values())
    assert PAGE.read_text(encoding="utf-8") == "\n".join(page.write(PAGE, kept)) + "\n"
    for other, text in page.requote(PAGE, kept):
        assert other.read_text(encoding="utf-8") == text


def test_an_interrupted_run_is_taken_up(tmp_path, monkeypatch, capsys):
    ran = []

    def make(name):
        def run(size):
            ran.append(name)
            if name == "second" and len(ran) == 2:
                raise KeyboardInterrupt
            return {"seeds": size.seeds, "runs": [1.0, 3.0]}

        row = experiment.Row(
            f"The {name}", experiment.NOTES, "claim", "criterion",
            lambda results: [judging.Statement("a", judging.Fact("", True, "b"))],
            lambda results: [judging.spread(results["runs"])],
        )  # fmt: skip
        return experiment.Experiment(
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
    page.main([*arguments[:2], "--seeds", "4", "--resume", "--rows", "the-first"])
    page.main([*arguments, "--rows", "the-second"])
    assert ran[3:] == ["first", "second"]
    kept = json.loads((tmp_path / "page" / "first.json").read_text())
    assert (kept["seeds"], kept["backend"]) == (4, keras.backend.backend())


def compared(*ps, mean=1.0, threshold=0.0):
    return [
        judging.Comparison("", mean, mean - 1.0, mean + 1.0, threshold, p, "")
        for p in ps
    ]


def outcomes(*groups):
    statements = [judging.Statement("", *group) for group in groups]
    return [one.outcome for one in judging.judge(statements)]


def test_a_statement_is_true_if_all_its_comparisons_are():
    (true,), (unsure,) = compared(0.0), compared(1.0)
    (false,) = compared(0.0, mean=-1.0)
    assert outcomes([true, true]) == ["yes"]
    assert outcomes([true, unsure]) == ["cannot be told"]
    assert outcomes([true, unsure, false]) == ["no"]
    fact = [judging.Fact("", holds, "") for holds in (True, False, None)]
    assert outcomes(*([one] for one in fact)) == ["yes", "no", "cannot be told"]


def test_a_claim_says_how_many_statements_are_true():
    (true,), (false,) = compared(0.0), compared(0.0, mean=-1.0)
    unknown = judging.Fact("", None, "")

    def verdict(*ones):
        statements = [judging.Statement("", one) for one in ones]
        return judging.verdict(judging.judge(statements))

    assert verdict(true, true) == "yes (of 2: 2 yes)"
    assert verdict(true, unknown) == "cannot be told (of 2: 1 yes, 1 cannot be told)"
    assert verdict(true, false, unknown) == "no (of 3: 1 yes, 1 no, 1 cannot be told)"


def test_comparisons_are_corrected_for_their_number():
    # Holm (1979): 0.01 * 4, 0.02 * 3, 0.03 * 2, and no less than the one before.
    adjusted = judging.holm([0.03, 0.01, 0.5, 0.02])
    assert adjusted == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert judging.holm([0.9, 0.8]) == [1.0, 1.0]
    # 0.02 decides alone, and not beside three others.
    assert outcomes(compared(0.02)) == ["yes"]
    assert (
        outcomes(*([one] for one in compared(0.02, 0.5, 0.5, 0.5)))
        == ["cannot be told"] * 4
    )
    # Facts are not counted.
    fact = judging.Fact("", True, "")
    assert outcomes(compared(0.02), [fact], [fact]) == ["yes"] * 3


def test_a_difference_is_judged_by_a_paired_t_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1.0, size=8), rng.normal(size=8)
    one = judging.difference("", ours, theirs)
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(0.95)
    assert (one.low, one.high) == pytest.approx(tuple(interval))
    assert one.p == pytest.approx(test.pvalue)
    assert one.by == f"{one.mean:+.2f} ± {(one.high - one.low) / 2:.2f} points"
    near = judging.difference("", ours, theirs, 0.5)
    assert near.p == pytest.approx(stats.ttest_rel(ours + 0.5, theirs).pvalue)
    assert near.by == f"{one.by} (to be above -0.5)"


def test_less_is_better_where_it_is_said():
    # What is shown is ours - theirs all the same.
    one = judging.loss_difference("", [0.1, 0.2, 0.3], [0.4, 0.5, 0.7])
    assert (one.mean, one.by[:7]) == (pytest.approx(1.0 / 3.0), "-0.3333")
    assert outcomes([one]) == ["yes"]
    worse = judging.loss_difference("", [0.4, 0.5, 0.7], [0.1, 0.2, 0.3], 0.01)
    assert worse.by.endswith("(to be below +0.01)")
    assert outcomes([worse]) == ["no"]


def test_what_was_not_found_is_neither_better_nor_as_good():
    ours, theirs = [90.0, 92.0, 94.0], [91.0, 91.0, 94.5]
    assert outcomes([judging.difference("", ours, theirs)]) == ["cannot be told"]
    assert outcomes([judging.difference("", ours, theirs, 0.5)]) == ["cannot be told"]
    # Nearly equal is as good, though nothing is better.
    near = [90.1, 92.0, 94.1]
    assert outcomes([judging.difference("", near, ours)]) == ["cannot be told"]
    assert outcomes([judging.difference("", near, ours, 0.5)]) == ["yes"]


def test_one_seed_tells_nothing():
    assert outcomes([judging.difference("", [2.0], [1.0])]) == ["cannot be told"]
    assert outcomes([judging.difference("", [2.0], [1.0], 0.5)]) == ["cannot be told"]
    one = judging.bootstrap("", lambda seeds: 3.0, 1, 0.0)
    assert outcomes([one]) == ["cannot be told"]


def test_seeds_are_drawn_with_replacement():
    values = np.random.default_rng(0).normal(2.0, size=40)
    one = judging.bootstrap("", lambda seeds: values[seeds].mean(), 40, 0.0)
    error = values.std() / 40**0.5
    assert one.mean == pytest.approx(values.mean())
    assert one.low == pytest.approx(one.mean - 1.96 * error, abs=0.02)
    assert one.high == pytest.approx(one.mean + 1.96 * error, abs=0.02)
    assert outcomes([one]) == ["yes"]
    assert one.p > 0.0  # No number of draws shows that it is impossible.
    other = judging.bootstrap("", lambda seeds: values[seeds].mean(), 40, 2.0)
    assert other.low < 2.0 < other.high
    assert outcomes([other]) == ["cannot be told"]


def test_many_comparisons_are_counted_and_the_false_ones_named():
    few = judging.Statement("", *compared(0.0, 1.0))
    assert judging.judge([few])[0].by == ": , yes; : , cannot be told"
    five = [
        *compared(0.0, 0.0, 1.0, 1.0),
        judging.Comparison("the fifth", -1.0, -2.0, -0.5, 0.0, 0.0, "-1.00 ± 0.50"),
    ]
    (many,) = judging.judge([judging.Statement("", *five)])
    assert many.by == "of 5: 2 yes, 1 no, 2 cannot be told (the fifth: -1.00 ± 0.50)"


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
    shares = module_of("budgets").shares
    values = np.array([[1.0, 2.0, 2.0, 3.0]])
    assert shares(values, 1).tolist() == [100.0, 0.0, 0.0, 0.0]
    assert shares(values, 2).tolist() == [100.0, 50.0, 50.0, 0.0]
    assert shares(values, 3).tolist() == [100.0, 100.0, 100.0, 0.0]
    assert shares(np.ones((2, 5)), 3).sum() == pytest.approx(300.0)
    both = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert shares(both, 1).tolist() == [50.0, 50.0]


def test_lengths_are_read_off_between_two_trainings():
    reach = module_of("super_convergence").epochs_to_reach
    assert reach(90.0, [2, 8, 32], [80.0, 90.0, 95.0]) == pytest.approx(8.0)
    assert reach(85.0, [2, 8, 32], [80.0, 90.0, 95.0]) == pytest.approx(4.0)
    assert reach(70.0, [2, 8, 32], [80.0, 90.0, 95.0]) == 2.0
    assert reach(96.0, [2, 8, 32], [80.0, 90.0, 95.0]) == np.inf


def test_a_badly_tuned_decay_is_compared_with_nothing():
    good = made_up_averages(True)
    example = module_of("averages").example
    judge = module_of("averages").judge_schedule_free
    (before,) = judging.judge(judge(good))
    good["found"][example.linear(75)][0] = [
        [loss + 0.1 for loss in run] for run in good["found"][example.linear(75)][0]
    ]
    (after,) = judging.judge(judge(good))
    assert (before.outcome, after.outcome) == ("yes", "cannot be told")
    assert after.outcomes == ("yes", "yes", "cannot be told", "yes")
    assert (
        "the linear decay over 75 % is worse than that over 50 % (+0.1000" in after.by
    )


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
        accuracies = more * np.arange(1.0, 5.0)
        return [[list(a + accuracies), [0.1] * 4] for a in around(90.0)]

    alone = [[[a, 0.1]] * 2 for a in around(97.5)]

    return {
        "seeds": SEEDS, "epochs": 4, "cycles": 2,
        "scores": {
            example.SNAPSHOTS: ours, example.INDEPENDENT: alone,
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
    plain = found(96.0, 98.5, 98.0) if good else found(90.0, 92.0, 98.0)
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
            "heavy ball": [8, [[0.5, 0.08 if good else 0.01]] * SEEDS],
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
            mean = 0.9 if good else 0.7
        elif name == example.EARLY_STEP and good:
            mean = 0.9
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


NOT_MEASURED = {
    "Linear scaling with the batch size": 2,
    "Warm restarts and snapshots": 1,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_judges_say_both(name):
    make = globals()[f"made_up_{name}"]
    for row in EXPERIMENTS[name].rows:
        good, bad = (
            [one.outcome for one in page.judged(row, make(each))]
            for each in (True, False)
        )
        unknown = NOT_MEASURED.get(row.title, 0)
        assert good == ["yes"] * (len(good) - unknown) + ["cannot be told"] * unknown
        assert "yes" not in bad
        assert "no" in bad
        for results in (make(True), make(False)):
            assert "| " in "\n".join(row.tables(results))
            assert EXPERIMENTS[name].setting(results)


def test_quotes_are_renewed_and_nothing_else():
    text = (
        "a\n<!-- evidence: one-claim -->\nold\n<!-- end of evidence -->\nb\n"
        "[it](../evidence.md#one-claim): *old*, [it](evidence.md#one-claim)\n"
        "<!-- evidence: one-claim, statements -->\n<!-- end of evidence -->\n"
    )

    def block(name, with_tables):
        return [name, f"{with_tables}"]

    new = page.quotes.quote(text, block, lambda name: "no")
    assert new == (
        "a\n<!-- evidence: one-claim -->\n\none-claim\nTrue\n\n"
        "<!-- end of evidence -->\nb\n"
        "[it](../evidence.md#one-claim): *no*, [it](evidence.md#one-claim)\n"
        "<!-- evidence: one-claim, statements -->\n\none-claim\nFalse\n\n"
        "<!-- end of evidence -->\n"
    )
    assert page.quotes.quote(new, block, lambda name: "no") == new


def test_another_page_than_ours_is_quoted_nowhere(tmp_path):
    assert list(page.requote(tmp_path / "evidence.md", {})) == []
