"""Tests that the example of range tests and sweeps compares what it says."""

import re

import keras
import numpy as np
import pytest

from keras_lrs.tuning import RangeTest
from tests.programs import load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

program = load_program("examples/find_learning_rate")
READINGS = ["valley", "steepest", "minimum", "slide"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    # The program sets these variables: for Keras, which is imported already.
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setattr(program, "GRID", (0.003, 0.1))

    def little_data():
        (x, y), (x_test, y_test) = load_data()
        return (x[:256], y[:256]), (x_test[:32], y_test[:32])

    load_data = program.load_data
    monkeypatch.setattr(program, "load_data", little_data)


def test_prints_tables_and_draws_a_picture(tmp_path, capsys):
    picture = tmp_path / "curves.png"
    program.main(["--epochs", "1", "--seeds", "1", "--output", str(picture)])
    printed = capsys.readouterr().out
    for title in ("A grid", "At random", "Too low a range", "The same, extending"):
        assert re.search(
            rf"^{title}.*: \d+ rates in \[.* on held-out data$", printed, re.M
        )
    cell = r"(none|[\d.]+ ± [\d.]+ %)"
    for reading in READINGS:
        assert re.search(rf"^{reading} +\S+( +{cell}){{3}}$", printed, re.M)
    for rate in ("0.003", "0.1"):
        assert re.search(rf"^{rate} +{cell}$", printed, re.M)
    assert re.search(rf"\(sweep\) +{cell}$", printed, re.M)
    assert re.search(r"^seed +valley +steepest +minimum +slide +factor$", printed, re.M)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_suggestions_are_used_as_they_are():
    rates = {method: program.make_schedule(method, 0.2) for method in program.METHODS}
    curves = {m: s.bind(40).curve(41) for m, s in rates.items()}
    np.testing.assert_array_equal(curves["fixed rate"], 0.2)
    cycles = curves["triangular cycles"]
    np.testing.assert_allclose(cycles[[0, 10, 20, 30, 40]], [0.05, 0.2] * 2 + [0.05])
    assert curves["1cycle"].max() == 0.2


def test_every_seed_has_a_test_and_a_training_of_its_own(monkeypatch):
    trainer = program.Trainer(program.load_data(), 1)
    runs = []

    def run(method, rate, seed):
        runs.append((method, rate, seed))
        return float(seed)

    monkeypatch.setattr(trainer, "run", run)
    tests, suggested, grid = program.compare(trainer, 2)
    assert not np.array_equal(tests[0].losses, tests[1].losses)
    assert list(grid) == [0.003, 0.1]
    assert grid[0.1] == [0.0, 1.0]
    for reading in READINGS:
        for method in program.METHODS:
            expected = [
                seed for seed, test in enumerate(tests) if test.suggestion(reading)
            ]
            assert suggested[reading, method] == expected
            for seed in expected:
                assert (method, tests[seed].suggestion(reading), seed) in runs


def test_the_tables_of_made_up_numbers():
    rates, losses = np.geomspace(1e-3, 1, 30), np.r_[np.linspace(2, 1, 20), np.ones(10)]
    test = RangeTest(rates, losses, 30, 0.0)
    made_up = {
        (reading, method): [90.0, 92.0]
        for reading in READINGS
        for method in program.METHODS
    }
    made_up["slide", "1cycle"] = []
    grid = {0.1: [95.0, 97.0], 0.3: [80.0, 80.0]}
    lines = "\n".join(program.summarize([test] * 2, made_up, grid, 0.1, [94.0]))
    assert re.search(r"^valley +\S+ +91.00 ± 1.00 % +91.00", lines, re.M)
    assert re.search(r"^slide .* none$", lines, re.M)
    assert re.search(r"^0.1 +96.00 ± 1.00 %$", lines, re.M)
    assert re.search(r"^0.1 \(sweep\) +94.00 ± 0.00 %$", lines, re.M)
    assert "best of the grid, 0.1," in lines


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--epochs", "0"]])
def test_what_makes_no_sense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        program.main(arguments)
    assert "must be at least 1" in capsys.readouterr().err
