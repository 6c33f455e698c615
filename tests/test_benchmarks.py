"""The benchmarks compare like with like."""

import re

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.programs import ROOT, load_program

contenders = load_program("benchmarks/contenders")
intervals = load_program("benchmarks/intervals")
report = load_program("benchmarks/report")
PROGRAMS = (
    "steps",
    "groups",
    "device",
    "growth",
    "averaging",
    "ensembles",
    "schedules",
)

ROWS = [row for row in contenders.ROWS if row.keras and not row.too_large]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_keras_and_we_give_the_same_rates_in_a_row_of_the_benchmark(row):
    ours = row.ours(lrs.schedules)
    theirs = row.keras(keras.optimizers.schedules)
    steps = [0, 1, 7, 500, 999, 1500, 33_334, 77_777, 250_001, 500_003]
    rates = [float(keras.ops.convert_to_numpy(theirs(step))) for step in steps]
    # Keras's float32 is not better than this at such steps.
    np.testing.assert_allclose(ours(np.array(steps)), rates, rtol=2e-3, atol=1e-7)


def test_every_row_has_a_schedule_of_ours():
    assert len(contenders.ROWS) == len({row.name for row in contenders.ROWS})
    for row in contenders.ROWS:
        assert isinstance(row.ours(lrs.schedules), lrs.schedules.Schedule)


def test_a_part_of_a_report_replaces_the_one_of_its_title(tmp_path):
    path = tmp_path / "report.md"
    for part, expected in (
        ("# One\n\nfirst\n\n## More", "# One\n\nfirst\n\n## More\n"),
        ("# Two\n\nfirst", "# One\n\nfirst\n\n## More\n\n# Two\n\nfirst\n"),
        ("# One\n\nnew", "# One\n\nnew\n\n# Two\n\nfirst\n"),
    ):
        report.write_part(path, part)
        assert path.read_text(encoding="utf-8") == expected


def test_what_a_step_costs_comes_first_and_unknown_parts_last(tmp_path):
    path = tmp_path / "report.md"
    titles = list(report.ORDER)
    for title in (titles[2], "# Another", titles[-1], titles[0]):
        report.write_part(path, title)
    found = list(report.parts_of(path.read_text(encoding="utf-8")))
    assert found == [titles[0], titles[2], titles[-1], "# Another"]


def test_the_order_of_the_page_is_of_the_programs_that_write_it():
    titles = [load_program(f"benchmarks/{name}").TITLE for name in PROGRAMS]
    on_a_gpu = load_program("benchmarks/gpu").TITLE
    assert [title for title in report.ORDER if title != on_a_gpu] == titles
    assert on_a_gpu in report.ORDER


def test_make_bench_runs_the_programs_that_write_the_page():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert tuple(re.findall(r"benchmarks/(\w+)\.py \$\(BENCH\)", text)) == PROGRAMS


def test_the_report_in_the_repository_has_all_parts():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for title in report.ORDER:
        assert f"{title}\n" in text


# --- Intervals ------------------------------------------------------------------------


def test_ninety_five_percent_of_the_intervals_contain_the_median():
    random = np.random.default_rng(1)
    samples = random.lognormal(size=(200, 20))
    found = [intervals.Estimate.of(each.tolist()) for each in samples]
    inside = [each.low <= 1.0 <= each.high for each in found]
    assert 0.9 <= np.mean(inside) <= 0.99
    assert [each.median for each in found] == np.median(samples, axis=1).tolist()


def test_ratios_are_those_within_a_round():
    # Rounds differ by a factor of 9, the two contenders by one of 2.
    samples = {"plain": [1.0, 3.0, 9.0], "ours": [2.0, 6.0, 18.0]}
    (estimate,) = intervals.ratios(samples, "plain").values()
    assert estimate == intervals.Estimate(2.0, 2.0, 2.0, 3)
    assert estimate.cell() == "2.00 [2.00, 2.00]"
    assert estimate.cell(1e3, digits=0) == "2000 [2000, 2000]"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.02, 1.05, "met"),
        (0.98, 1.04, "met"),
        (1.04, 1.06, "undecided"),
        (1.05, 1.09, "undecided"),
        (1.06, 1.09, "above"),
    ],
)
def test_a_row_is_above_its_aim_if_its_interval_is_by_more_than_the_noise(
    low, high, said
):
    found = intervals.Estimate((low + high) / 2, low, high, 20)
    for control in (0.97, 1.03):
        noise = intervals.noise(intervals.Estimate(control, 0.9, 1.1, 20))
        assert noise == pytest.approx(0.03)
        assert intervals.verdict(found, 1.0205, noise) == said


def test_summaries_hold_few_numbers_and_all_names():
    estimate = report.Estimate(1.23456789, 1.0, 2.0, 3)
    found = report.summarized(
        {"JAX": {7: [3.0, 1.0, 2.0], "missed": [], "of": estimate, "bytes": 12}}
    )
    assert found == {
        "JAX": {
            "7": {"median": 2.0, "minimum": 1.0, "rounds": 3},
            "missed": [],
            "of": {"median": 1.2346, "low": 1.0, "high": 2.0, "rounds": 3},
            "bytes": 12,
        }
    }


# --- Tables of what all programs would measure ----------------------------------------


def test_averages_are_judged_by_what_they_add_over_the_limit():
    averaging = load_program("benchmarks/averaging")
    # Twice what the machine needs at least, beside a control that adds nothing.
    seconds = {averaging.PLAIN: [1.0, 2.0], averaging.AGAIN: [1.0, 2.0]}
    seconds |= {averaging.OURS: [2.0, 3.0], "limit": [0.5, 0.5]}
    times = {
        name: dict.fromkeys(averaging.WORKLOADS, seconds)
        for name in averaging.CONFIGURATIONS
    }
    memory = {averaging.PLAIN: 1e8, averaging.EMA: 3e8, averaging.OURS: 2e8}
    page = averaging.markdown(times, dict.fromkeys(times, memory))
    assert f"| {averaging.OURS} | 2.00 [2.00, 2.00] |" in page
    assert f"| {averaging.OURS} | 1.0 |" in page
    aims = averaging.aims_of(times)
    above = "above: 2.00 [2.00, 2.00], aim"
    assert f"tensor | {above} 1.7 | {above} 1.1 |  | {above} 1.2 |" in aims
    assert "1 M floats in 200 |  |  |  | met: 2.00 [2.00, 2.00], aim 3.7 |" in aims


def test_schedules_are_judged_by_what_they_take_beside_the_loop():
    schedules = load_program("benchmarks/schedules")
    ours, theirs = [6e-6, 6e-6, 6e-6], [4e-6, 4e-6, 4e-6]
    rows = {schedules.CONTROL: dict.fromkeys((schedules.OURS, "again"), [2e-6] * 3)}
    for row in contenders.ROWS:
        rows[row.name] = {schedules.OURS: ours}
        if row.keras and not row.too_large:
            rows[row.name][schedules.KERAS] = theirs
    rows["cosine"]["again"] = ours
    result = {
        "timings": {schedules.GRAPH: rows},
        "sizes": {row.name: {schedules.OURS: 7} for row in contenders.ROWS},
        "accuracy": {
            "errors": {"some case": {schedules.OURS: 1e-7}},
            "missed": {schedules.OURS: [], schedules.KERAS: [3_000]},
        },
    }
    imports = {"backend": "jax", "seconds": {schedules.IMPORT: [0.1, 0.1]}}
    page = schedules.markdown({"tensorflow": result}, imports)
    assert "| cosine | 4.0 [4.0, 4.0] | 2.0 [2.0, 2.0] |" in page
    assert "| tensorflow | Keras | 1 of 21 | 3,000 |" in page
    aims = schedules.aims_of({"tensorflow": result}, imports)
    assert "| cosine | above: 4.0 [4.0, 4.0], aim 2 |" in aims
    assert "| piecewise, 10 boundaries | met: 4.0 [4.0, 4.0], aim 15 |" in aims
    assert "| restarts missed | met: 0, aim 0 |" in aims
