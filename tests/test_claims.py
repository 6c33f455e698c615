"""The published claims: every row runs, is judged by its runs, and is in the page."""

import json
import re
import sys
import types

import keras
import numpy as np
import pytest
from scipy import stats

from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("jax"), pytest.mark.program]

command = load_program("examples/claims.command")
page = command.page
judging, quotes = page.judging, page.quotes
importing = page.importlib.import_module
data, experiment = importing("claims.data"), importing("claims.experiment")
harness, methods = importing("claims.harness"), importing("claims.methods")
networks, pool = importing("claims.networks"), importing("claims.pool")
regime = importing("claims.regime")
EXPERIMENTS = {one.name: one for one in page.EXPERIMENTS}
ROWS = {
    "Tuning on a log scale",
    "Four schedules and completed phases",
    "Linear scaling with the batch size",
    "Warmup for large batches",
    "Triangular cycles",
    "Warm restarts",
    "Snapshot ensembles",
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
    "Linear decay and uniform averages",
    "Loss after each drop",
    "One large step and many small ones",
    "Warmup and the curvature",
    "The smallest budget",
    "Pareto figure",
    "Normalizations and forms of weight decay",
    "A fixed last layer",
    "Decay at small budgets",
}
PAGE = ROOT / "docs" / "evidence.md"
SEEDS = 5
VERDICTS = r"((?:yes|no|cannot be told) \(of \d+: [^()]*\))"


def module_of(name):
    return page.importlib.import_module(f"claims.{name}")


@pytest.fixture
def less(monkeypatch):
    """Of what takes long to compile."""
    sweeps = module_of("rate_search").example
    monkeypatch.setattr(sweeps, "GRID", (0.1, 0.3))
    growth = module_of("growth").example
    few = ("constant", "step decay")
    made = {name: growth.make_schedules()[name] for name in few}
    monkeypatch.setattr(growth, "make_schedules", lambda: made)
    monkeypatch.setattr(growth, "EPSILONS", (1e-3,))
    monkeypatch.setattr(growth, "COLUMNS", ("float64", "float32", "BN, 0.001"))
    monkeypatch.setattr(module_of("fractals").example, "GRID", 2)
    # Of one rate, which is at the edge of its grid.
    monkeypatch.setattr(
        harness, "search", lambda scores, *_: (0.05, {"0.05": scores(0.05)[0][0]})
    )
    monkeypatch.setattr(module_of("batch_sizes"), "RATIOS", (4, 8))
    monkeypatch.setattr(module_of("bound"), "SMALL_STEPS", 4)
    variants = {"batch normalization, L2": {"form": "l2"}}
    monkeypatch.setattr(module_of("normalizations"), "VARIANTS", variants)
    monkeypatch.setattr(regime, "EXTENSIONS", 1)


@pytest.fixture
def tiny(tmp_path):
    """A file of a few images, whose classes are easy to tell."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    x = rng.normal(size=(400, 12)) + 2.0 * np.eye(12)[y]
    path = tmp_path / "tiny_table.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_and_writes_its_rows(name, tmp_path, less, capsys, tiny):
    one = EXPERIMENTS[name]
    rows = [row.title for row in one.rows]
    output = tmp_path / "evidence.md"
    options = [
        "--quick", "--rows", one.rows[0].name, "--output", str(output),
        "--work", str(tmp_path / "work"), "--processes", "1",
        "--data", str(tiny) if one.swaps else "digits",
    ]  # fmt: skip
    command.main(options)
    found = capsys.readouterr().out
    label = "tiny table" if one.swaps else "handwritten digits"
    said = dict(re.findall(rf"^(.*) \({label}\): {VERDICTS}$", found, re.M))
    text = output.read_text(encoding="utf-8")
    assert re.findall(r"^### (.*)$", text, re.M) == list(said)
    assert set(said) == set(rows)
    verdicts = re.findall(rf"^\*\*Outcome: {VERDICTS}\*\*$", text, re.M)
    assert verdicts == [*said.values()]
    folder = "tiny_table" if one.swaps else "digits"
    assert text.count(f"](evidence/{folder}/{name}.png)") == len(rows)
    picture = tmp_path / "evidence" / folder / f"{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    # The page can be written again, without running anything.
    output.unlink()
    command.main([*options, "--resume"])
    assert output.read_text(encoding="utf-8") == text


def test_the_rows_are_those_that_were_claimed():
    assert {row.title for row, _ in page.all_rows()} == ROWS


def test_the_page_has_every_row_with_a_verdict_and_a_figure():
    text = PAGE.read_text(encoding="utf-8")
    for title in ROWS:
        section = re.split(r"\n##+ ", text.partition(f"\n### {title}\n")[2])
        piece = next(each for each in section[1:] if each.startswith("On "))
        verdict = re.search(rf"^\*\*Outcome: {VERDICTS}\*\*$", piece, re.M).group(1)
        row = rf"^\| \[{re.escape(title)}\].*\| {re.escape(verdict)} +\|"
        assert re.search(row, text, re.M)
        (picture,) = re.findall(r"^!\[.*\]\((.*)\)$", piece, re.M)
        assert (PAGE.parent / picture).read_bytes().startswith(b"\x89PNG")


def test_nothing_of_the_page_is_typed():
    kept = page.load_all(PAGE)
    assert set(kept) == set(EXPERIMENTS)
    for by_data in kept.values():
        for one in by_data.values():
            assert not one["quick"]
            assert one["results"]["seeds"] >= 5
    outcomes = page.outcomes_of(kept)
    lines = page.write(PAGE, kept, outcomes)
    assert PAGE.read_text(encoding="utf-8") == "\n".join(lines) + "\n"
    for other, text in page.requote(PAGE, kept, outcomes):
        assert other.read_text(encoding="utf-8") == text


def test_the_page_states_the_regime():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for paragraph in regime.paragraphs(judging.MARGIN, judging.LOSS_MARGIN):
        assert paragraph in text
    assert "0.24 at 100 % of the whole run" in text


# --- Jobs -----------------------------------------------------------------------------


CALLS = []


def found(harness, label, seeds, fail=False):
    """A job of a made-up experiment."""
    CALLS.append(label)
    if fail and CALLS.count(label) == 1:
        raise KeyboardInterrupt
    return {"seeds": seeds, "runs": [1.0, 3.0]}


def made_up_experiment(name, fail=False):
    row = experiment.Row(
        f"The {name}", experiment.NOTES, "claim", "criterion",
        lambda results: [judging.Statement("a", judging.Fact("", True, "b"))],
        lambda results: [judging.spread(results["runs"])],
    )  # fmt: skip

    def jobs(size):
        common = experiment.job(found, label="common", seeds=size.seeds)
        own = experiment.job(found, label=name, seeds=size.seeds, fail=fail)
        return {"common": common, "own": own}

    return experiment.Experiment(
        name, (row,), jobs, lambda found, size: found["own"],
        lambda results, data: "setting",
        lambda results, path: path.write_text(name),
    )  # fmt: skip


def test_an_interrupted_run_is_taken_up(tmp_path, monkeypatch, capsys, tiny):
    CALLS.clear()
    made = [made_up_experiment("first"), made_up_experiment("second", fail=True)]
    monkeypatch.setattr(page, "EXPERIMENTS", made)
    output = tmp_path / "page.md"
    common = ["--output", str(output), "--work", str(tmp_path), "--data", str(tiny)]
    arguments = [*common, "--processes", "1", "--seeds", "2"]
    with pytest.raises(KeyboardInterrupt):
        command.main(arguments)
    assert not output.exists()
    command.main([*arguments, "--resume"])
    # What two experiments share is run once.
    assert CALLS == ["common", "first", "second", "second"]
    assert output.read_text(encoding="utf-8").count("2.00 ± 1.00") == 2
    # Another size is run anew, and so is what is not resumed.
    command.main([*arguments, "--seeds", "4", "--resume", "--rows", "the-first"])
    command.main([*arguments, "--rows", "the-first"])
    assert CALLS[4:] == ["common", "first"] * 2
    # And the page alone, of what was kept, without the jobs.
    written = output.read_text(encoding="utf-8")
    output.unlink()
    command.main([*common, "--work", str(tmp_path / "none"), "--publish"])
    assert output.read_text(encoding="utf-8") == written
    assert len(CALLS) == 8
    kept = json.loads((tmp_path / "page" / "tiny_table" / "first.json").read_text())
    assert (kept["seeds"], kept["backend"]) == (2, keras.backend.backend())
    assert (kept["data"], kept["label"]) == ("tiny_table", "tiny table")


def test_what_a_killed_process_had_begun_to_write_is_left_out(tmp_path):
    path = tmp_path / "work" / "jobs.jsonl"
    store = pool.Store(path, resume=False)
    store.keep("a", {"b": [1.0]}, 2.0)
    with path.open("a") as file:
        file.write('["c", {"d')
    resumed = pool.Store(path, resume=True)
    assert resumed.found == {"a": [{"b": [1.0]}, 2.0]}
    resumed.keep("c", 3.0, 4.0)
    both = {"a": [{"b": [1.0]}, 2.0], "c": [3.0, 4.0]}
    assert pool.Store(path, resume=True).found == both
    assert pool.Store(path, resume=False).found == {}


def test_a_quick_run_writes_no_page_of_ours(tmp_path, monkeypatch, tiny):
    CALLS.clear()
    monkeypatch.setattr(page, "EXPERIMENTS", [made_up_experiment("first")])
    before = PAGE.read_text(encoding="utf-8")
    options = ["--quick", "--data", str(tiny), "--processes", "1"]
    command.main([*options, "--work", str(tmp_path)])
    assert PAGE.read_text(encoding="utf-8") == before
    text = (tmp_path / "quick" / "evidence.md").read_text(encoding="utf-8")
    assert "This is the quick size, which shows nothing." in " ".join(text.split())


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path, tiny, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))  # As it is for the program.
    monkeypatch.setattr(pool, "MOST_JOBS", 1)  # So that one pool follows another.
    job = experiment.job(
        harness.measure, method=methods.STEP, epochs=1, seeds=1,
        optimizer=regime.SGD, looks=False,
    )  # fmt: skip
    other = experiment.job(
        harness.measure, method=methods.CONSTANT, epochs=1, seeds=1,
        optimizer=regime.SGD, looks=False,
    )  # fmt: skip
    stores = [pool.Store(tmp_path / f"{n}.jsonl", resume=False) for n in (1, 2)]
    for number, store in enumerate(stores, start=1):
        pool.run_all([job, other], store, (str(tiny), 1, True, tmp_path), number)
    scores = [
        {key: result["scores"] for key, (result, _) in store.found.items()}
        for store in stores
    ]
    assert set(scores[0]) == {job.key, other.key}
    for key, found in scores[0].items():
        np.testing.assert_allclose(found, scores[1][key], rtol=1e-4)


# --- How claims are judged ------------------------------------------------------------


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


def test_a_statement_without_comparisons_cannot_be_told():
    assert outcomes([]) == ["cannot be told"]
    results = made_up_drops(True)
    results["methods"][methods.THIRDS]["jumps"] = []
    first = judging.judge(module_of("drops").judge(results))[0]
    assert first.outcome == "cannot be told"


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
    assert near.by == f"{one.by} (must be above -0.5)"


def test_less_is_better_where_it_is_said():
    # What is shown is ours - theirs all the same.
    one = judging.loss_difference("", [0.1, 0.2, 0.3], [0.4, 0.5, 0.7])
    assert (one.mean, one.by[:7]) == (pytest.approx(1.0 / 3.0), "-0.3333")
    assert outcomes([one]) == ["yes"]
    worse = judging.loss_difference("", [0.4, 0.5, 0.7], [0.1, 0.2, 0.3], 0.01)
    assert worse.by.endswith("(must be below +0.01)")
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


def test_what_diverged_tells_nothing():
    ours, theirs = [1.0, np.nan, 2.0], [0.1, 0.2, 0.3]
    assert outcomes([judging.loss_difference("", ours, theirs)]) == ["cannot be told"]
    values = np.array([1.0, 2.0, np.nan, 3.0, 4.0])
    one = judging.bootstrap("", lambda seeds: values[seeds].mean(), 5, 0.0)
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


# --- Data, networks, rates ------------------------------------------------------------


def test_the_rate_is_chosen_on_the_data_held_out():
    scores = {
        # Error and loss.
        0.1: [[3.0, 0.1], [5.0, 0.1]],
        0.2: [[4.0, 0.1], [2.0, 0.4]],
        0.3: [[3.0, 0.1], [3.0, 0.2]],
        0.4: [[3.0, 0.1], [3.0, np.nan]],
    }
    assert harness.best_of(scores) == 0.3


def test_the_grid_goes_on_until_the_best_rate_is_inside():
    tried = []

    def scores(rate):
        tried.append(rate)
        return [[abs(np.log2(rate / 0.0125)), 1.0]] * 2

    rate, held_out = harness.search(scores, 0.1)
    assert rate == pytest.approx(0.0125)
    # Factors of two around the first, and on at the lower edge.
    expected = [0.05, 0.1, 0.2, 0.025, 0.0125, 0.00625]
    assert tried == pytest.approx(expected)
    assert list(map(float, held_out)) == pytest.approx(sorted(expected))
    assert min(held_out.values()) == 0.0


def test_a_wide_grid_finds_the_lower_of_two_minima():
    def scores(rate):
        # One minimum at the first rate, and a lower one at a sixteenth of it.
        exponent = np.log2(rate / 0.1)
        return [[min(1.0 + abs(exponent), abs(exponent + 4.0)), 1.0]] * 2

    assert harness.search(scores, 0.1)[0] == pytest.approx(0.1)
    rate, held_out = harness.search(scores, 0.1, regime.WIDE_GRID)
    assert rate == pytest.approx(0.1 / 16.0)
    assert list(map(float, held_out)) == pytest.approx(
        [0.1 * 2.0**n for n in range(-5, 3)], rel=1e-4
    )


def test_two_functions_do_not_share_a_rate_by_name(tiny, tmp_path, monkeypatch):
    used = harness.Harness(data.load(str(tiny), 2, tmp_path), quick=True)
    found = iter([(0.1, {}), (0.2, {})])
    monkeypatch.setattr(harness, "search", lambda *_: next(found))

    def one(rate):
        return []

    def other(rate):
        return []

    rates = [used.choose(f, 5, key="constant")[0] for f in (one, other, one, other)]
    assert rates == [0.1, 0.2, 0.1, 0.2]


def test_all_methods_of_the_pareto_figure_share_one_rate():
    pareto = module_of("pareto")
    found = {
        name: {"rate": 0.1, "curves": []} for name in pareto.example.make_methods()
    }
    assert pareto.collect(found, experiment.Size(4))["rate"] == 0.1
    found[pareto.example.FREE]["rate"] = 0.2
    with pytest.raises(ValueError, match="must share one rate"):
        pareto.collect(found, experiment.Size(4))


def test_parts_of_the_digits_share_nothing(tmp_path):
    found = data.load("digits", 3, tmp_path)
    parts = [*found.training, found.held_out, found.test]
    assert [len(y) for _, y in parts] == [640, 357, 800]
    assert (found.shape, found.classes, found.one_each) == ((64,), 10, False)
    images = [{x.tobytes() for x in part} for part, _ in parts]
    assert not images[0] & images[1] | images[0] & images[2] | images[1] & images[2]
    assert "All seeds share the same training and test data" in found.describe()


@pytest.fixture
def few_diamonds(monkeypatch):
    """For the package `plotnine`: a table whose rows are numbered by their prices."""
    import pandas

    number = np.arange(130)
    grades = {
        "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
        "color": list("DEFGHIJ"),
        "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
    }
    columns = {"carat": number % 11}
    for name, names in grades.items():
        codes = number % len(names)
        columns[name] = pandas.Categorical.from_codes(codes, names, ordered=True)
    columns |= dict.fromkeys(("depth", "table"), number % 13)
    columns |= dict.fromkeys(("price", "x", "y", "z"), number * 2 + 7)
    module = types.ModuleType("plotnine.data")
    module.diamonds = pandas.DataFrame(columns)
    monkeypatch.setitem(sys.modules, "plotnine", types.ModuleType("plotnine"))
    monkeypatch.setitem(sys.modules, "plotnine.data", module)
    for name, size in (("TABLE_TRAINING", 10), ("HELD_OUT", 20), ("TEST", 30)):
        monkeypatch.setattr(regime, name, size)


def test_every_seed_has_rows_of_its_own(few_diamonds, tmp_path):
    found = data.load("diamonds", 3, tmp_path)
    assert (found.shape, found.classes, found.one_each) == ((9,), 5, True)
    sets = [found.train(seed) for seed in range(3)]
    sets += [found.train(seed, choosing=True) for seed in range(regime.TUNING_SEEDS)]
    sets += [found.held_out, found.test]
    assert [len(y) for _, y in sets] == [10] * 8 + [20, 30]
    # A price is its row's number, standardized.
    rows = np.concatenate([x[:, 5] for x, _ in sets])
    number = np.round(rows * np.std(np.arange(130)) + np.mean(np.arange(130)))
    assert sorted(number) == list(range(130))
    np.testing.assert_array_equal(np.concatenate([y for _, y in sets]), number % 5)
    color = np.concatenate([x[:, 1] for x, _ in sets])
    grade = np.arange(130) % 7
    expected = (number % 7 - grade.mean()) / grade.std()
    np.testing.assert_allclose(color, expected, rtol=1e-5, atol=1e-6)


def test_more_seeds_than_the_table_has_rows_for_are_refused(few_diamonds, tmp_path):
    with pytest.raises(ValueError, match=r"too few rows \(130\).*--seeds 4"):
        data.load("diamonds", 4, tmp_path)


@pytest.fixture
def stand_in(monkeypatch):
    """For the package `mnist1d`: what it makes is numbered."""
    made = []

    class Arguments:
        num_samples, train_split, seed = 5000, 0.8, 42

    def make_dataset(arguments):
        made.append(arguments)
        number = np.arange(arguments.num_samples)
        return {"x": number[:, None] + np.zeros(40), "y": number % 10}

    package, module = types.ModuleType("mnist1d"), types.ModuleType("mnist1d.data")
    module.get_dataset_args, module.make_dataset = Arguments, make_dataset
    monkeypatch.setitem(sys.modules, "mnist1d", package)
    monkeypatch.setitem(sys.modules, "mnist1d.data", module)
    for name, size in (("TRAINING", 40), ("HELD_OUT", 20), ("TEST", 30)):
        monkeypatch.setattr(regime, name, size)
    return made


def test_every_seed_has_a_training_set_of_its_own(stand_in, tmp_path):
    found = data.load("mnist1d", 3, tmp_path)
    (arguments,) = stand_in
    assert arguments.num_samples == 40 * (3 + regime.TUNING_SEEDS) + 20 + 30
    assert (arguments.train_split, arguments.seed) == (1.0, regime.GENERATOR_SEED)
    assert regime.GENERATOR_SEED not in (7, 42)
    assert (found.shape, found.classes, found.one_each) == ((40, 1), 10, True)
    sets = [found.train(seed) for seed in range(3)]
    sets += [found.train(seed, choosing=True) for seed in range(regime.TUNING_SEEDS)]
    sets += [found.held_out, found.test]
    numbers = [set(x[:, 0, 0].tolist()) for x, _ in sets]
    assert [len(each) for each in numbers] == [40] * 8 + [20, 30]
    assert len(set().union(*numbers)) == sum(map(len, numbers))
    # What was made is read again by the other processes.
    again = data.load("mnist1d", 3, tmp_path)
    assert len(stand_in) == 1
    np.testing.assert_array_equal(again.train(2)[0], found.train(2)[0])


@pytest.mark.parametrize(
    ("name", "package"), [("mnist1d", "mnist1d"), ("diamonds", "plotnine")]
)
def test_without_the_package_it_is_said_what_to_install(
    name, package, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.data", None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
        data.load(name, 3, tmp_path)


@pytest.mark.parametrize("shape", [(7,), (20, 1), (8, 8), (9, 8, 3)])
def test_shapes_and_classes_are_read_from_a_file(shape, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, *shape)).astype("uint8")
    labels = np.arange(60) % 4
    np.savez(
        tmp_path / "own.npz", x_train=images[:40], y_train=labels[:40, None],
        x_test=images[40:], y_test=labels[40:],
    )  # fmt: skip
    found = data.load(str(tmp_path / "own.npz"), 3, tmp_path)
    assert found.shape == (shape if shape != (8, 8) else (8, 8, 1))
    assert (found.classes, found.name, found.one_each) == (4, "own", False)
    sizes = [len(y) for _, y in (*found.training, found.held_out, found.test)]
    assert sizes == [32, 8, 20]
    x = found.training[0][0]
    mean = x.mean(0) if len(shape) == 1 else x.mean()
    np.testing.assert_allclose(mean, 0.0, atol=1e-5)
    model = networks.make_network(found.shape, found.classes)
    assert model.output_shape == (None, 4)
    assert model.predict(x, verbose=0).shape == (32, 4)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (None, FileNotFoundError, "--data must be one of mnist1d, digits"),
        ({"images": [1.0]}, ValueError, "must have x_train, y_train, x_test and y_te"),
    ],
)
def test_other_files_are_refused(arrays, error, message, tmp_path):
    path = tmp_path / "bad.npz"
    if arrays:
        np.savez(path, **arrays)
    with pytest.raises(error, match=message):
        data.load(str(path), 3, tmp_path)


def test_patches_and_a_dense_layer_are_a_convolution():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 11, 3)).astype("float32")
    kernel = rng.normal(size=(5, 3, 4)).astype("float32")
    ours = np.asarray(networks.patches(x, 1, 5)) @ kernel.reshape(15, 4)
    padded = np.pad(x, [(0, 0), (1, 1), (0, 0)])
    for place in range(5):
        seen = padded[:, 2 * place : 2 * place + 5]
        expected = np.einsum("bkc,kcd->bd", seen, kernel)
        np.testing.assert_allclose(ours[:, place], expected, rtol=1e-4, atol=1e-5)
    assert ours.shape == (2, 5, 4)


def test_each_seed_is_trained_from_scratch_and_the_same_again(tiny, tmp_path):
    one = harness.Harness(data.load(str(tiny), 2, tmp_path))

    def train(seed):
        callback = methods.make_callback(methods.LATE_STEP, 0.05)
        model, _ = one.fit([callback], 2, seed)
        return model.get_weights()

    first, other, again = train(0), train(1), train(0)
    for ours, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(ours, same)
        assert not np.array_equal(ours, different)
    assert len(one.models) == 1


def test_averages_are_looked_at_with_statistics_of_their_own(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    x = rng.normal(size=(400, 12, 1)) + 2.0 * np.eye(12)[y][..., None]
    np.savez(tmp_path / "sequences.npz", x=x, y=y)
    monkeypatch.setattr(harness, "search", lambda scores, first, _: (first, {}))
    one = harness.Harness(data.load(str(tmp_path / "sequences.npz"), 1, tmp_path))
    example = module_of("averages").example
    for name in (example.EMAS[1], example.FREE):
        found = module_of("averages").averaged(one, name, epochs=8, seeds=1)
        (losses,), (errors,) = found["curves"]
        assert len(losses) == len(errors) == 8
        # Among three classes, chance is a loss of 1.1 and an error of 67 %.
        assert losses[-1] < 0.6
        assert errors[-1] < 25.0


def test_all_methods_are_schedules_that_end_with_the_run():
    made = methods.make_methods()
    # Profiles at every step and four rarer samplings, and eleven others.
    assert len(made) == 5 * 5 + 12
    for name, make in made.items():
        curve = make(0.1).bind(280, 10).curve(280)
        assert np.isfinite(curve).all(), name
        assert curve.max() <= 0.1 + 1e-9, name
        if methods.EVERY_STEP in name:
            assert curve[-1] < 0.02, name
    late = made[f"{methods.LINEAR}, 33 and 66 %"](0.1).bind(100, 10).curve(100)
    values, counts = np.unique(late, return_counts=True)
    assert counts.tolist() == [34, 33, 33]
    np.testing.assert_allclose(values, [0.034, 0.067, 0.1], rtol=1e-5)


def test_the_exponent_is_that_of_the_best_rates():
    rates = [0.1 * 2.0**n for n in range(-3, 4)]

    def errors(best):
        bowl = [(np.log2(rate / best)) ** 2 for rate in rates]
        return [[rate, [e + n for n in around(3.0)]] for rate, e in
                zip(rates, bowl, strict=True)]  # fmt: skip

    made = [[25, errors(0.05)], [100, errors(0.2)], [400, errors(0.4)]]
    exponent = module_of("batch_sizes").best_exponent({"best": made})
    expected = np.polyfit(np.log2([25, 100, 400]), np.log2([0.05, 0.2, 0.4]), 1)[0]
    assert exponent(np.arange(SEEDS)) == pytest.approx(expected)


def test_places_are_shared_by_equal_values():
    finishes = module_of("finishes")

    def shares(values, first):
        return finishes.shares(*finishes.places(values), first)

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


def test_to_lie_below_a_badly_tuned_decay_shows_nothing():
    good = made_up_averages(True)
    example = module_of("averages").example
    judge = module_of("averages").judge_schedule_free
    before = judging.judge(judge(good))
    assert [one.outcome for one in before] == ["yes", "yes"]
    # By loss, and not by error.
    decay = good["found"][example.linear(75)]
    good["found"][example.linear(75)] = [
        [[loss + 0.1 for loss in run] for run in decay[0]],
        decay[1],
    ]
    by_loss, by_error = judging.judge(judge(good))
    assert (by_loss.outcome, by_error.outcome) == ("cannot be told", "yes")
    assert by_loss.outcomes == ("yes", "yes", "cannot be told", "yes")
    said = "the linear decay over 75 % is above that over 50 % by +0.1000"
    assert said in by_loss.by
    # But to lie above it is a no.
    ours = good["found"][example.FREE]
    good["found"][example.FREE] = [[[0.9] * 20 for _ in ours[0]], ours[1]]
    assert judging.judge(judge(good))[0].outcomes[2] == "no"


def test_schedule_free_is_judged_by_losses_and_by_errors():
    results = made_up_averages(True)
    averages = module_of("averages")
    losses, errors = results["found"][averages.FREE]
    # Within the margin of points, which would be far beyond that of losses.
    within = [[error + 0.4 for error in run] for run in errors]
    beyond = [[error + 0.6 for error in run] for run in errors]
    for found, expected in ((within, "yes"), (beyond, "no")):
        results["found"][averages.FREE] = [losses, found]
        judged = judging.judge(averages.judge_schedule_free(results))
        assert [one.outcome for one in judged] == ["yes", expected]
        assert "(must be below +0.5)" in judged[1].by
    # Of runs that scatter, nothing is told.
    noise = around(0.4)[::-1]
    scattered = [[e + n for e in run] for run, n in zip(errors, noise, strict=True)]
    results["found"][averages.FREE] = [losses, scattered]
    judged = judging.judge(averages.judge_schedule_free(results))
    assert [one.outcome for one in judged] == ["yes", "cannot be told"]


def test_a_decay_is_compared_with_the_constant_rate_of_its_budget():
    results = made_up_averages(True)
    averages = module_of("averages")
    first = judging.judge(averages.judge_decays(results))[0]
    assert first.outcomes == ("yes",) * 4
    # The curve of the whole run's rate is that of another claim.
    whole = averages.example.CONSTANT
    ends = [[*[0.1] * 15, *run[15:]] for run in results["found"][whole][0]]
    results["found"][whole] = [ends, results["found"][whole][1]]
    first = judging.judge(averages.judge_decays(results))[0]
    assert first.outcomes == ("yes",) * 4
    better = [[0.9] * 9 + [run[-1]] for run in curves_around(0.1, 1)]
    results["constants"][averages.constant(50)]["curves"] = [better, better]
    first = judging.judge(averages.judge_decays(results))[0]
    assert first.outcomes == ("yes", "no", "yes", "yes")
    assert "at 50 %: +0.3000 ± 0.0000, no" in first.by
    lines = "\n".join(averages.tables(results))
    assert re.search(r"^\| constant, 25 % +\| 0.04 +\| 0.8000 ± ", lines, re.M)
    assert re.search(r"^\| constant, 50 % +\| 0.02 +\| 0.1000 ± ", lines, re.M)
    # A gap only where it ends.
    (row,) = re.findall(r"^\| constant, 50 % .*$", lines, re.M)
    assert [bool(c.strip()) for c in row.split("|")[5:-1]] == [
        False, True, False, False,
    ]  # fmt: skip


def test_memories_of_averages_are_shares_of_the_run():
    assert module_of("averages").memories() == (
        'The exponential averages "EMA, 1 %" and "EMA, 10 %" have a time constant of '
        "1 % and 10 % of the steps of the whole run, and that of schedule-free "
        "training one of 10 %."
    )


@pytest.mark.parametrize(
    ("off", "expected"), [(0.1, "yes"), (-0.1, "no"), (None, "cannot be told")]
)
def test_a_polyak_average_is_compared_with_the_same_training(off, expected):
    results = made_up_pareto(True)
    pareto = module_of("pareto")
    plain = results["curves"][pareto.example.CONSTANT]
    noise = around(0.0)[::-1] if off is None else [off] * SEEDS
    results["curves"][pareto.example.POLYAK] = [
        [run[0], [loss + n for loss in run[1]], run[2]]
        for run, n in zip(plain, noise, strict=True)
    ]
    last = judging.judge(pareto.judge(results))[-1]
    assert last.outcome == expected
    assert last.statement.text.startswith(
        "with one rate for all, a Polyak average lags"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # In percent, of five seeds: equal to 10 % beyond doubt, or not, or not at all.
        ([1.0, -2.0, 3.0, 0.0, -1.0], "yes"),
        ([7.0, 9.0, -13.0, -1.0, 0.0], "cannot be told"),
        ([19.0, 20.0, 21.0, 20.0, 20.0], "no"),
        ([-19.0, -20.0, -21.0, -20.0, -20.0], "no"),
    ],
)
def test_what_settles_is_equal_to_a_margin_in_the_mean_of_seeds(changes, expected):
    normalizations = module_of("normalizations")
    results = made_up_normalizations(True)
    wave = 40.0 * (-1.0) ** np.arange(4)
    curves = [
        [*[300.0] * 8, *(200.0 + wave), *(200.0 * (1.0 + change / 100.0) + wave)]
        for change in changes
    ]
    assert normalizations.changes(curves) == pytest.approx(changes)
    assert normalizations.fluctuation([[*[1.0] * 12, *(200.0 + wave)]]) == 0.5
    results["settled"]["group normalization"] = [curves, curves]
    found = judging.judge(normalizations.judge(results))[-1]
    assert found.statement.text.startswith("norm(w)^2 / rate settles")
    assert found.outcome == expected


def test_a_variant_of_the_normalizations_is_shown_beside_the_others():
    lines = "\n".join(module_of("normalizations").tables(made_up_normalizations(True)))
    assert "1.0100 to 1.0100" in lines
    assert "steps 9 to 16" in lines


def test_the_last_rate_of_a_decay_is_said_beside_the_one_before():
    results = made_up_bounded(True)
    results["last"]["2 drops"] = 0.01
    _, first, drops, plateaus = judging.judge(module_of("bounded").judge(results))
    assert first.outcome == "yes"
    assert (drops.outcome, plateaus.outcome) == ("no", "yes")
    assert drops.by == "10.000 eta_m, where eta_m / gamma is 10.000 eta_m"
    assert plateaus.by == "1.000 eta_m"


def around(mean):
    """Runs of the seeds whose differences to others are the same in each."""
    return [mean + 0.1 * (seed - SEEDS // 2) for seed in range(SEEDS)]


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
            "parameters": "rate and weight decay", "trials": 9, "epochs": 1,
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
        "bounds": [
            [[0.01, 0.2], accuracy] for accuracy in around(97.0 if good else 90.0)
        ],
    }  # fmt: skip


def made_up_lecture_notes(good):
    notes = module_of("lecture_notes")

    def found(error):
        return {"rate": 0.1, "scores": [[3.0, 0.1, e, 0.1] for e in around(error)]}

    errors = dict.fromkeys((notes.STEP, notes.ROOT, notes.COSINE, notes.PHASED), 3.0)
    if not good:
        errors = dict.fromkeys(errors, 60.0)
    constant = 3.5 if good else 55.0
    end = [[a, 0.1] for a in around(96.0)]
    return {
        "seeds": SEEDS,
        "epochs": 28,
        "methods": {
            name: found(e) for name, e in (errors | {notes.CONSTANT: constant}).items()
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
    # Between a rate that is proportional, and one that is the same for all.
    best = [[32, 0.1], [128, 0.4 if good else 0.1], [512, 1.6 if good else 0.1]]
    grid = [0.1 * 2.0**n for n in range(-1, 6)]
    return {
        "seeds": SEEDS, "epochs": 20, "base": 32, "rate": 0.1, "accuracies": found,
        "best": [
            [size, [[r, around(3.0 + np.log2(r / rate) ** 2)] for r in grid]]
            for size, rate in best
        ],
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
        "rates": dict.fromkeys(module_of("snapshots").METHODS, 0.1),
        "scores": {
            example.SNAPSHOTS: ours, example.INDEPENDENT: alone,
            module_of("snapshots").FULL: alone,
            example.STEP: single, example.COSINE: single,
        },
        "curves": {
            example.STEP: curves(0.0), example.COSINE: curves(0.0),
            example.CYCLES: curves(better), example.GROWING: curves(better),
        },
    }  # fmt: skip


def made_up_super_convergence(good):
    example = module_of("super_convergence").example

    def found(*means):
        return [[e, around(mean)] for e, mean in zip((2, 8, 16), means, strict=True)]

    # At a constant momentum 1cycle is never there, which is not judged.
    full = found(98.0, 98.0, 98.0) if good else found(90.0, 92.0, 98.0)
    plain = found(90.0, 91.0, 92.0)
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
    people = budgets.EVERY_STEP_METHODS
    names = (*people, "REX, 10 %", "linear, 10 %")
    best = budgets.OURS if good else "linear, 10 %"

    def found(name):
        error = 3.0 if name == best else 5.0 if "10 %" in name else 4.0
        error += 3.0 * (name == budgets.OURS and not good)
        error += (0.5 if good else -0.5) * (name == budgets.CONSTANT)
        return {
            "rate": 0.1,
            "scores": [[3.0, 0.1, e, e] for e in around(error)],
            "errors held out": {"0.03": 4.0, "0.1": 3.0, "0.3": 5.0},
        }

    return {
        "seeds": SEEDS, "epochs": 40,
        "optimizers": {
            optimizer: {b: {n: found(n) for n in every} for b in ("2.5", "5", "100")}
            for optimizer, every in ((regime.SGD, names), (regime.ADAM, people))
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
            mean = 1.6
        else:
            mean = flat
        if not good and name == example.linear(100):
            mean = 0.85
        if not good and name == example.COSINE:
            mean = 0.1
        seen = [point for point in points if point <= 60 * method.budget // 100]
        return [[[mean + n] * len(seen) for n in around(0.0)]] * 2

    methods = example.make_methods()
    ends = {25: 0.04, 50: 0.02, 75: 0.01}
    return {
        "seeds": SEEDS, "epochs": 60, "rates": [0.01] * len(methods),
        "found": {name: losses(name, method) for name, method in methods.items()},
        "constants": {
            module_of("averages").constant(budget): {
                "rate": rate, "curves": [curves_around(0.8, budget // 5)] * 2,
            }
            for budget, rate in ends.items()
        },
    }  # fmt: skip


def curves_around(mean, points):
    """Curves of the seeds that stay where they are."""
    return [[one] * points for one in around(mean)]


def made_up_growth(good):
    example = module_of("growth").example
    falling = np.linspace(1.0, 0.1, 9).tolist()
    rates = {
        "constant": np.geomspace(0.1, 10.0, 9).tolist(),
        # Twice as large, and after the drops 1.1 and 1.01 times.
        "step decay": [1.0, 2.0, 4.0, 0.5, 0.55, 0.605, 0.06, 0.0606, 0.061206],
        "cosine": falling,
    }
    pair = [[1.0] * 9, [1.0] * 9]
    columns = {column: [1e-13 if good else 0.1] * 4 for column in example.COLUMNS}
    return {
        "seeds": SEEDS, "steps": 36,
        "differences": {name: dict(columns) for name in rates},
        "curves": {
            name: [pair, pair, [[0.1] * 9, grown if good else falling]]
            for name, grown in rates.items()
        },
    }  # fmt: skip


def made_up_bounded(good):
    names = ("2 drops", "2 plateaus", "smooth")
    return {
        "seeds": SEEDS, "epochs": 12, "drops": [2], "steps": 264,
        "example": [0.9993094630025899 if good else 0.99, 100 if good else 99],
        "accuracies": {name: around(97.0) for name in names},
        "first": dict.fromkeys(names, 0.1 if good else 0.2),
        "last": dict.fromkeys(names, 1e-3 if good else 1e-2),
    }  # fmt: skip


def made_up_drops(good):
    """A loss every few steps: its fall per step changes only where the rate jumps."""

    def found(jumps, falls):
        loss = 3.0 - np.cumsum(falls)
        return {
            "rate": 0.1, "jumps": jumps, "window": 3, "rates": [0.1] * len(falls),
            "losses": [(loss + n).tolist() for n in around(0.0)],
        }  # fmt: skip

    slow, fast = [0.01] * 6, [0.2] * 3
    # Without the fall after a drop, what was lost before it comes back.
    drops = [*slow, *(fast if good else [-0.1] * 3)]
    phases = [*slow, -0.5 if good else 0.2, 0.05, 0.05]
    drops, phases = ([*slow, *twice, *slow] for twice in (drops * 2, phases * 2))
    # The losses of steps 48 and 84 are the first that the new rates affect.
    jumps = [4 * 12 - 1, 4 * 21 - 1]
    return {
        "seeds": SEEDS, "epochs": 28,
        "methods": {
            methods.THIRDS: found(jumps, drops),
            methods.PHASED: found(jumps, phases),
        },
    }  # fmt: skip


def made_up_bound(good):
    """Sixteen small steps where sigma is 4 and H is 2: the bound is 4 + norm / 8."""
    bounds = {8.0: 5.0, 4.0: 4.5, 2.0: 4.25, 1.0: 4.125}
    # Of a gap that shrinks with the gradient, or grows beyond the bound.
    gaps = [2.0, 0.9, 0.5, 0.2] if good else [2.0, 4.0, 9.0, 20.0]

    def runs(gap, norm):
        each = enumerate(around(0.0))
        return [[gap + n / (10 + k), bounds[norm], norm, 4.0, 2.0] for k, n in each]

    stages = zip((0, 1, 5, 20), gaps, bounds, strict=True)
    return {
        "seeds": SEEDS, "small steps": 16,
        "stages": [[stage, runs(gap, norm)] for stage, gap, norm in stages],
    }  # fmt: skip


def made_up_curvature(good):
    # At a rate within the bound, and at one that is eight times as large.
    means = [(95.0, 95.0), (60.0, 90.0)] if good else [(85.0, 95.0), (90.0, 60.0)]
    return {
        "seeds": SEEDS, "epochs": 20, "curvatures": around(4.0),
        "accuracies": {
            f"{factor}, {name}": around(mean)
            for factor, pair in zip((1, 8), means, strict=True)
            for name, mean in zip(
                ("without a warmup", "with a warmup"), pair, strict=True
            )
        },
    }  # fmt: skip


def made_up_smallest(good):
    smallest = module_of("smallest")

    def found(error):
        return {"rate": 0.1, "scores": [[e, 1.5, e, 1.5] for e in around(error)]}

    every = dict.fromkeys(smallest.METHODS, 55.0)
    every[methods.OURS] = 50.0 if good else 60.0
    return {
        "seeds": SEEDS, "steps": 16,
        "methods": {name: found(error) for name, error in every.items()},
    }  # fmt: skip


def made_up_pareto(good):
    """Twenty epochs; the ends of linear decays fall, or rise where they are bad."""
    example = module_of("pareto").example
    epochs = 20
    ends = [1.6, 0.8, 0.5, 0.4] if good else [0.4, 0.5, 0.8, 1.6]
    front = np.interp(np.arange(1, 21), [5, 10, 15, 20], ends)
    moved = -0.05 if good else 0.1

    def curves(name, method):
        averaged = name in ("EMA, 10 %", "schedule-free, exponential")
        other = 0.2 if good else -0.2
        if name in ("cosine", "step at 75 %"):
            other = 0.0 if good else 0.2
        test = front + (moved if averaged else 0.0 if "linear" in name else other)
        if name == example.POLYAK:
            test = test + moved * -1.0
        test = test[: epochs * method.budget // 100]
        return [[(test + n).tolist()] * 2 + [(10.0 * test).tolist()]
                for n in around(0.0)]  # fmt: skip

    return {
        "seeds": SEEDS, "epochs": epochs, "rate": 0.01,
        "curves": {n: curves(n, one) for n, one in example.make_methods().items()},
    }  # fmt: skip


def made_up_normalizations(good):
    variants = ("layer normalization", "group normalization", "batch norm., L2")
    largest = [1e-15, 1e-14, 1e-12, 1e-10] if good else [1e-3, 0.01, 0.1, 1.0]
    # norm(w)^2 / rate falls, and then stays or rises again.
    settled = np.array([400.0, 300.0, 250.0, 220.0, 205.0, 200.0])
    settled = np.append(settled, [200.5, 200.0] if good else [300.0, 400.0])
    decayed = [(settled + n).tolist() for n in around(0.0)]
    plain = [[1.01 * one for one in curve] for curve in decayed]
    return {
        "seeds": SEEDS, "steps": 32,
        "differences": {
            name: {"constant": largest, "step decay": largest} for name in variants
        },
        "settled": {name: [decayed, plain] for name in variants},
        "lemma": [[1e-17 if good else 0.3, 1.0 if good else 3.0, 0.0]] * 2,
    }  # fmt: skip


def made_up_heads(good):
    return {
        "seeds": SEEDS, "epochs": 20,
        "heads": {
            "trained": {"rate": 0.1, "accuracies": around(94.0)},
            "fixed": {"rate": 0.1, "accuracies": around(94.0 if good else 90.0)},
        },
    }  # fmt: skip


def made_up_uniform(good):
    """The results of `averages` where the uniform average is the linear decay.

    It lags the constant rate in those of the other claims, which is another claim.
    """
    results = made_up_averages(True)
    example = module_of("averages").example
    runs = [[mean if good else mean + 0.2] * 20 for mean in around(0.4)]
    results["found"][example.POLYAK] = [runs] * 2
    return results


# Claims that contradict others of the same experiment.
MADE_UP_APART = {"Linear decay and uniform averages": made_up_uniform}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_judges_say_both(name, monkeypatch):
    monkeypatch.setattr(judging, "RESAMPLES", 2_000)
    for row in EXPERIMENTS[name].rows:
        make = MADE_UP_APART.get(row.title, globals()[f"made_up_{name}"])
        good, bad = (
            [one.outcome for one in page.judged(row, make(each))]
            for each in (True, False)
        )
        assert set(good) == {"yes"}, row.title
        assert "yes" not in bad
        assert "no" in bad
        for results in (make(True), make(False)):
            assert "| " in "\n".join(row.tables(results))


def diverged_normalizations():
    results = made_up_normalizations(True)
    results["differences"]["group normalization"]["constant"] = [1e-15, np.nan] * 2
    flat = [200.0] * 8
    curves = [*[flat] * 4, [*flat[:7], np.nan]]
    results["settled"]["group normalization"] = [curves, curves]
    results["lemma"] = [[1e-17, 1.0, 0.0], [np.nan] * 3]
    return results, [0, 4, 5]


def diverged_growth():
    results = made_up_growth(True)
    for by_column in results["differences"].values():
        by_column["float64"] = [1e-13, np.nan, 1e-13, 1e-13]
    return results, [0, 1]


def diverged_fractals():
    results = made_up_fractals(True)
    results["quadratic"].append([16, np.nan, 0.3, 0.5])
    return results, [0, 1]


def test_schedules_train_if_they_classify_more_than_half():
    notes = module_of("lecture_notes")
    row = EXPERIMENTS["lecture_notes"].rows[0]

    def first(errors):
        results = made_up_lecture_notes(True)
        for name, error in errors.items():
            scores = [[9.0, 0.1, e, 0.1] for e in around(error)]
            results["methods"][name]["scores"] = scores
        return page.judged(row, results)[0]

    # However far below the best.
    far = first({notes.ROOT: 40.0})
    assert far.statement.text.startswith("all four train: ")
    assert (far.outcome, far.outcomes) == ("yes", ("yes",) * 4)
    assert "1/sqrt(t): 60.00 %, yes" in far.by
    assert first({notes.PHASED: 50.0}).outcomes == ("yes", "yes", "yes", "no")
    # The constant rate is not one of the four.
    assert first({notes.CONSTANT: 90.0}).outcome == "yes"
    assert first(dict.fromkeys(notes.METHODS, 90.0)).outcomes == ("no",) * 4


def test_how_far_a_schedule_is_below_the_best_is_in_the_table():
    notes = module_of("lecture_notes")
    results = made_up_lecture_notes(True)
    scores = [[3.0, 0.1, error, 0.1] for error in (4.0, 5.0, 6.0, 4.0, 6.0)]
    results["methods"][notes.ROOT]["scores"] = scores
    table = "\n".join(notes.tables(results))
    best = [2.8, 2.9, 3.0, 3.1, 3.2]
    gaps = np.subtract([error for _, _, error, _ in scores], best)
    high = stats.ttest_1samp(gaps, 0.0).confidence_interval().high
    expected = f"{gaps.mean():.2f} ± {high - gaps.mean():.2f}"
    assert re.search(rf"^\| 1/sqrt\(t\) .*\| {expected} +\|$", table, re.M)
    assert re.search(r"^\| step decay, thirds .*\| the best +\|$", table, re.M)


def test_the_same_weights_have_the_same_numbers_in_the_table():
    notes = module_of("lecture_notes")
    results = made_up_lecture_notes(True)
    # One of them has more decimals: of 93.275 one is printed as 93.27, one as 93.28.
    results["stopped"][notes.END] = [[93.27499771118164, 0.12345432]] * SEEDS
    results["stopped"][notes.KEPT] = [[100.0 - 6.725, 0.12345]] * SEEDS
    rows = [line.split("|")[2:] for line in notes.tables(results)]
    ends = [row for row in rows if "93.2" in "".join(row)]
    assert len(ends) == 2
    assert ends[0] == ends[1]


def diverged_lecture_notes():
    results = made_up_lecture_notes(True)
    end, kept = module_of("lecture_notes").END, module_of("lecture_notes").KEPT
    for name in (end, kept):
        runs = results["stopped"][name]
        results["stopped"][name] = [*runs[:-1], [runs[-1][0], np.nan]]
    return results, [1]


def diverged_bound():
    results = made_up_bound(True)
    results["stages"][1][1][2] = [np.nan, np.nan, 4.0, np.nan, np.nan]
    return results, [0]


@pytest.mark.parametrize(
    "name", ["normalizations", "growth", "fractals", "lecture_notes", "bound"]
)
def test_what_diverged_is_neither_the_same_nor_different(name):
    results, unknown = globals()[f"diverged_{name}"]()
    found = page.judged(EXPERIMENTS[name].rows[0], results)
    outcomes = [one.outcome for one in found]
    assert [outcomes[index] for index in unknown] == ["cannot be told"] * len(unknown)
    assert "no" not in outcomes


def test_a_loss_that_rises_less_does_not_decrease_faster():
    results = made_up_drops(True)
    rising = np.concatenate([np.arange(12) / 2.0, 6.0 + np.arange(12) / 10.0])
    results["methods"][methods.THIRDS]["jumps"] = [4 * 12 - 1]
    results["methods"][methods.THIRDS]["losses"] = [
        (rising + n).tolist() for n in around(0.0)
    ]
    first = judging.judge(module_of("drops").judge(results))[0]
    assert first.outcomes == ("no", "yes")


@pytest.mark.parametrize("jump", range(46, 52))
def test_windows_have_only_losses_on_one_side_of_a_jump(jump):
    drops = module_of("drops")
    # Of each step; the first that the new rate affects is the one after the jump.
    affected = (np.arange(160) > jump).astype(float)
    records = affected.reshape(-1, drops.EVERY).mean(1)
    found = {"losses": [records.tolist()] * 2, "window": 3}
    windows = [each.tolist() for each in drops.around(found, jump)]
    assert windows == [[0.0] * 2] * 2 + [[1.0] * 2] * 3
    # The nearest ones leave out a record at most: that with steps on both sides.
    steps = {"losses": [np.arange(40.0).tolist()], "window": 3}
    before, after = (drops.around(steps, jump)[n][0] for n in (1, 2))
    assert after - before == (3.0 if (jump + 1) % drops.EVERY == 0 else 4.0)
    # Of a run that ends before its third window, nothing is said of that.
    steps["losses"] = [steps["losses"][0][:20]]
    assert np.isnan([each[0] for each in drops.around(steps, jump)]).tolist() == (
        [False] * 4 + [True]
    )


def test_a_rise_of_the_loss_is_a_positive_difference():
    one = judging.judge(module_of("drops").judge(made_up_drops(True)))[1]
    assert one.statement.text.endswith("the loss rises (a positive difference)")
    assert one.by.startswith("phase 2: +0.")
    assert one.outcome == "yes"


def test_windows_are_described_by_their_length():
    results = made_up_drops(True)
    drops = module_of("drops")
    # Of 30 records, each of 4 steps, in 28 epochs.
    assert drops.window_of(results) == (12, pytest.approx(3 * 28 / 30))
    table = "\n".join(drops.tables(results))
    assert "in windows of 12 steps (2.8 epochs)" in table
    assert re.findall(r"^\| step decay, thirds +\| (\d+) ", table, re.M) == ["47", "83"]


def judged_budgets(results):
    return {
        one.statement.text: one
        for one in judging.judge(module_of("budgets").judge(results))
    }


def test_equal_methods_do_not_decide_who_finishes_first_most_often(monkeypatch):
    """The largest share of several equal ones is above that of REX in most draws."""
    monkeypatch.setattr(judging, "RESAMPLES", 1_000)
    rng = np.random.default_rng(0)
    seeds, names = 20, module_of("finishes").EVERY_STEP_METHODS
    outcomes = []
    for _ in range(10):
        results = {
            "seeds": seeds,
            "optimizers": {
                regime.SGD: {
                    budget: {
                        name: {"scores": [[0, 0, e, e] for e in rng.normal(size=seeds)]}
                        for name in names
                    }
                    for budget in ("5", "10", "25", "50", "100")
                }
            },
        }
        by_places = module_of("finishes").leads(results, list(names))
        statements = [judging.Statement("", *one) for one in by_places.values()]
        outcomes += [one.outcome for one in judging.judge(statements)]
    assert set(outcomes) == {"cannot be told"}


def test_one_method_that_finishes_first_more_often_decides_it():
    results = made_up_budgets(True)
    for by_method in results["optimizers"][regime.ADAM].values():
        by_method[methods.CONSTANT]["scores"] = [[3.0, 0.1, 1.0, 1.0]] * SEEDS
    found = judged_budgets(results)
    first = "REX at every step has the most top-1 finishes among "
    # It wins with one of two optimizers, and REX with the other: equal shares.
    assert found[f"{first}the common schedules (9)"].outcome == "cannot be told"
    for by_method in results["optimizers"][regime.SGD].values():
        by_method[methods.CONSTANT]["scores"] = [[3.0, 0.1, 1.0, 1.0]] * SEEDS
    one = judged_budgets(results)[f"{first}the common schedules (9)"]
    assert (one.outcome, one.outcomes.count("no")) == ("no", 1)
    assert "(constant: 0.0 % against 100.0 %, -100.0 [-100.0, -100.0] points)" in one.by


def test_holm_can_decide_all_finishes_at_the_size_that_is_published():
    """A percentile of so many draws is no less probable than two of them."""
    names = module_of("budgets").grid(experiment.Size(20))[0]
    methods_of = {n: {"rate": 0.1, "scores": [[0, 0, 1.0, 1.0]] * 5} for n in names[
        regime.SGD]}  # fmt: skip
    adam = {n: methods_of[n] for n in names[regime.ADAM]}
    results = {
        "seeds": 5,
        "optimizers": {
            optimizer: {f"{budget:g}": found for budget in regime.BUDGETS}
            for optimizer, found in ((regime.SGD, methods_of), (regime.ADAM, adam))
        },
    }
    statements = module_of("budgets").judge(results)
    number = sum(len(judging.comparisons_of(one)) for one in statements)
    assert 2.0 / judging.RESAMPLES * number < judging.LEVEL


def test_the_smallest_budgets_are_judged_one_by_one():
    results = made_up_budgets(True)
    text = "REX at every step has a lower mean error at 2.5 % of the epochs than each "
    text += "of the 10 others"
    assert judged_budgets(results)[text].outcome == "yes"
    smallest = results["optimizers"][regime.SGD]["2.5"]
    smallest["REX, 10 %"]["scores"] = [[3.0, 0.1, 1.0, 1.0]] * SEEDS
    found = judged_budgets(results)
    assert found.pop(text).outcome == "no"
    assert {one.outcome for one in found.values()} == {"yes"}
    # What was run with one optimizer only is said in the table.
    lines = "\n".join(module_of("budgets").tables(results)).splitlines()
    gaps = lines[lines.index("the difference within seeds:") :]
    marked = [line for line in gaps if "(SGD only)" in line]
    assert [line[2:].partition(" (")[0] for line in marked] == [
        "REX, 10 %", "linear, 10 %",
    ]  # fmt: skip


def test_rarer_samplings_of_other_profiles_are_not_judged():
    results = made_up_budgets(True)
    for by_method in results["optimizers"][regime.SGD].values():
        by_method["linear, 10 %"]["scores"] = [[3.0, 0.1, 3.5, 3.5]] * SEEDS
    found = judged_budgets(results)
    (text,) = [one for one in found if "rarer" in one]
    assert (
        text == "REX at every step is better than each of the 1 rarer samplings of REX"
    )
    assert found[text].outcome == "yes"


def test_the_speed_of_1cycle_is_that_with_its_momentum():
    claims = module_of("super_convergence")

    def outcomes(*means):
        results = made_up_super_convergence(True)
        results["accuracies"][claims.example.FULL] = [
            [e, around(mean)] for e, mean in zip((2, 8, 16), means, strict=True)
        ]
        return [one.outcome for one in judging.judge(claims.judge(results))]

    # The target is close to 98, which step decay needs 16 epochs for.
    assert outcomes(90.0, 98.2, 98.2) == ["yes", "yes"]
    assert outcomes(90.0, 95.0, 99.0) == ["yes", "no"]
    assert outcomes(90.0, 92.0, 97.0) == ["no", "no"]


def test_the_schedules_that_are_drawn_are_those_that_were_run():
    claims = module_of("super_convergence")
    step, plain, full = (claims.bound(n, 0.5, 10, 20) for n in claims.METHODS)
    curve = step["learning_rate"].curve(200)
    np.testing.assert_allclose(
        curve[[0, 99, 100, 149, 150]], [0.5, 0.5, 0.05, 0.05, 0.005]
    )
    assert set(plain) == {"learning_rate"}
    rates, momentum = (full[n].curve(200) for n in ("learning_rate", "momentum"))
    np.testing.assert_array_equal(rates, plain["learning_rate"].curve(200))
    # As the page says of them.
    assert rates.argmax() == momentum.argmin() == 60
    assert rates[-1] < 1e-3
    np.testing.assert_allclose(momentum[[0, 60, 199]], [0.95, 0.85, 0.95], atol=1e-4)


def test_cycles_are_compared_one_by_one():
    results = made_up_triangular(True)
    triangular = module_of("triangular")
    runs = np.array(results["methods"][triangular.TRIANGULAR]["accuracies"])
    runs[:, 5] += 4.0  # The middle of the last cycle; the mean of the ends is higher.
    results["methods"][triangular.TRIANGULAR]["accuracies"] = runs.tolist()
    first = judging.judge(triangular.judge(results))[0]
    assert (first.outcome, first.outcomes) == ("no", ("yes", "no"))


def test_equal_cycles_are_not_judged():
    results = made_up_snapshots(True)
    example = module_of("snapshots").example
    results["curves"][example.CYCLES] = results["curves"][example.STEP]
    restarts, ensembles = EXPERIMENTS["snapshots"].rows
    assert {one.outcome for one in page.judged(restarts, results)} == {"yes"}
    # No worse than fully trained models, or worse.
    results["scores"][module_of("snapshots").FULL] = [
        [[a, 0.1]] * 2 for a in around(98.4)
    ]
    assert page.judged(ensembles, results)[-1].outcome == "yes"
    results["scores"][module_of("snapshots").FULL] = [
        [[a, 0.1]] * 2 for a in around(99.0)
    ]
    outcomes = [one.outcome for one in page.judged(ensembles, results)]
    assert outcomes == ["yes"] * 4 + ["no"]


def test_rates_of_a_range_test_are_those_of_the_seeds():
    search = module_of("rate_search")
    results = made_up_rate_search(True)
    results["tests"][0] = results["tests"][0] | {"losses": [1.0] * 30}
    tests, _, _ = search.range_tests(results)
    rates = [test.suggestion("steepest") for test in tests]
    middle, ends = search.rates_of(rates)
    assert float(middle) == pytest.approx(rates[1], rel=0.1)
    assert ends.endswith(f" ({SEEDS - 1} of {SEEDS} seeds)")
    # What the page says of the cycles and of the data.
    cycles = search.example.make_schedule(search.example.CYCLES, 1.0).bind(8, 4)
    np.testing.assert_allclose(cycles.curve(8)[[0, 2, 4, 6]], [0.25, 1.0, 0.25, 1.0])
    (x, _), (x_test, _) = search.example.load_data()
    assert (len(x), len(x_test)) == (1_347, 450)
    assert search.example.make_network("digits").optimizer.nesterov


def test_logistic_regression_is_judged_outside_of_the_theorem():
    results = made_up_fractals(True)
    results["gaps"]["heavy ball"] = [8, [[0.5, 0.01]] * SEEDS]
    found = page.judged(EXPERIMENTS["fractals"].rows[0], results)
    assert [one.outcome for one in found] == ["yes", "yes", "yes", "no"]
    outside = [one.statement.text.startswith("outside of the th") for one in found]
    assert outside == [False, False, True, True]


@pytest.mark.parametrize("name", ["cosine, every step", methods.ONE_CYCLE])
def test_rex_is_not_the_best_if_any_method_that_was_run_is_better(name):
    results = made_up_smallest(True)
    results["methods"][name] = {"rate": 0.1, "scores": [[40.0, 1.0] * 2] * SEEDS}
    found = judging.judge(module_of("smallest").judge(results))
    assert judging.verdict(found) == "no (of 11: 10 yes, 1 no)"


def test_an_average_that_is_better_than_the_decay_does_not_act_like_it():
    results = made_up_uniform(True)
    example = module_of("averages").example
    runs = [[mean] * 20 for mean in around(0.1)]
    results["found"][example.POLYAK] = [runs] * 2
    found = judging.judge(module_of("averages").judge_uniform(results))
    assert [one.outcomes for one in found] == [("yes", "no")]


def test_both_rates_of_the_curvature_are_compared_in_words():
    table = " ".join(module_of("curvature").tables(made_up_curvature(True)))
    assert (
        "Without a warmup, the mean accuracy is 95.00 % at 1 / (2 H), against 60.00 % "
        "at 8 times that rate."
    ) in table


def test_ends_are_compared_per_unit_of_a_rate_that_changes():
    bound = module_of("bound")

    def second(curvatures):
        results = made_up_bound(True)
        for (_, runs), by_seed in zip(results["stages"], curvatures, strict=True):
            for run, curvature in zip(runs, by_seed, strict=True):
                run[4] = curvature
        return judging.judge(bound.judge(results))[1]

    same, falling = [2.0] * 4, [2.0, 1.0, 0.5, 0.01]
    # Distances alone are the same, and smaller where gradients are.
    assert second([[h] * SEEDS for h in same]).outcome == "yes"
    # But they are so by the rate, which is smaller where H is larger.
    rising = [2.0, 8.0, 32.0, 128.0]
    assert second([[h] * SEEDS for h in rising]).outcome == "no"
    assert second([[h] * SEEDS for h in falling]).outcome == "yes"
    mixed = [[h, h, h, k, k] for h, k in zip(falling, rising, strict=True)]
    assert second(mixed).outcome == "cannot be told"


def test_a_bound_that_is_longer_than_the_step_says_so():
    bound = module_of("bound")
    results = made_up_bound(True)
    # 5 and a large step of 8 / (2 * 2) = 2, and the same of the other stages.
    said = "The bound is at least 2.5 times as long as the large step"
    assert bound.severity(results) == (
        f"{said}, in every seed and at every stage. That it holds therefore says "
        "little: it could hardly have failed."
    )
    # Or it did.
    assert bound.severity(made_up_bound(False)) == f"{said}."
    results["stages"][0][1][0][1] = 1.0
    said = "The bound is at least 0.5 times as long as the large step."
    assert bound.severity(results) == said
    results = diverged_bound()[0]
    assert "hardly" not in bound.severity(results)


def test_an_exponent_that_differs_from_1_may_be_within_the_margin(monkeypatch):
    monkeypatch.setattr(judging, "RESAMPLES", 1_000)
    batch_sizes = module_of("batch_sizes")

    def last(exponent, noise=0.0):
        results = made_up_batch_sizes(True)
        results["best"] = []
        for size in (32, 128, 512):
            best = 0.1 * (size / 32) ** exponent
            # The best rate of each seed is moved, by more at the larger batches.
            seeds = 2.0 ** (noise * np.array(around(0.0)) * np.log2(size / 32))
            errors = [
                [0.1 * 2.0**n, (3.0 + (n - np.log2(best * seeds / 0.1)) ** 2).tolist()]
                for n in range(-4, 10)
            ]
            results["best"].append([size, errors])
        return judging.judge(batch_sizes.judge_scaling(results))[-1]

    text = "the exponent of the best rate over the batch size is within 0.25 of 1"
    one = last(0.9)
    assert (one.statement.text, one.outcome) == (text, "yes")
    assert one.by == (
        "above 0.75: 0.900 [0.900, 0.900] (the whole interval lies below 1), yes; "
        "below 1.25: the same exponent, yes"
    )
    assert "(the whole interval lies above 1)" in last(1.1).by
    assert last(0.5).outcome == last(1.5).outcome == "no"
    unsure = last(1.0, noise=2.0)
    assert unsure.outcome == "cannot be told"
    assert "whole interval" not in unsure.by


def test_a_fixed_rate_is_not_shown_as_warmed_up():
    results = made_up_batch_sizes(True)
    lines = list(module_of("batch_sizes").tables(results))
    start = next(n for n, line in enumerate(lines) if line.startswith("| batch"))
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in lines[start:]]
    header, fixed, linear = table[0], table[2], table[5]
    assert header[3:] == ["held for 4 epochs first", "a warmup of 4 epochs first"]
    assert (fixed[:2], fixed[3] != "", fixed[4]) == (["32", "fixed"], True, "")
    assert (linear[:2], linear[3], linear[4] != "") == (["128", "linear"], "", True)


def test_quotes_are_renewed_and_nothing_else():
    text = (
        "a\n<!-- evidence: one-claim -->\nold\n<!-- end of evidence -->\nb\n"
        "[it](../evidence.md#one-claim): *old*, [it](evidence.md#one-claim)\n"
        "<!-- evidence: one-claim, statements -->\n<!-- end of evidence -->\n"
    )

    def block(name, with_tables):
        return [name, f"{with_tables}"]

    def outcome(name, beginning):
        return f"yes, {beginning}" if beginning else "no"

    def quoted(text):
        folders, names = {"figure": "mnist1d"}, {"It was run": "it-was-run"}
        return quotes.quote(text, block, outcome, folders, names)

    new = quoted(text)
    assert new == (
        "a\n<!-- evidence: one-claim -->\n\none-claim\nTrue\n\n"
        "<!-- end of evidence -->\nb\n"
        "[it](../evidence.md#one-claim): *no*, [it](evidence.md#one-claim)\n"
        "<!-- evidence: one-claim, statements -->\n\none-claim\nFalse\n\n"
        "<!-- end of evidence -->\n"
    )
    assert quoted(new) == new
    statement = '[it](evidence.md#one-claim), "it is": *{}*'
    assert quoted(statement.format("old")) == statement.format("yes, it is")
    picture = "![a](../evidence/digits/figure.png) ![b](evidence/digits/other.png)"
    assert quoted(picture) == picture.replace("digits/figure", "mnist1d/figure")
    links = "[It was run](evidence.md): *not run*; [It was not](evidence.md): *not run*"
    assert quoted(links) == (
        "[It was run](evidence.md#it-was-run): *no*; [It was not](evidence.md): "
        "*not run*"
    )


def test_the_outcome_of_a_statement_may_differ_from_that_of_its_claim():
    held = [judging.Fact("", holds, "") for holds in (True, False, None)]
    texts = ("a thing is so", "another thing is so", "a thing is known")
    statements = map(judging.Statement, texts, held)
    found = judging.judge(statements)
    assert page.outcome_where(found, "") == "no"
    assert page.outcome_where(found, "a thing is so") == "yes"
    assert page.outcome_where(found, "a thing") == "cannot be told"
    with pytest.raises(ValueError, match="not there: 'no thing'"):
        page.outcome_where(found, "no thing")


def test_the_page_says_that_the_regime_was_not_run_while_it_was_not():
    said = page.not_yet({"digits": "handwritten digits", "tiny": "tiny table"})
    assert "No run on MNIST-1D" in said
    assert "on handwritten digits or tiny table" in said
    assert page.not_yet({"mnist1d": "MNIST-1D", "digits": "handwritten digits"}) == ""


def test_another_page_than_ours_is_quoted_nowhere(tmp_path):
    assert list(page.requote(tmp_path / "evidence.md", {}, None)) == []
