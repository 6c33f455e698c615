"""The README: its code runs, its tables are complete and say what is so."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import catalogue

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def test_the_code_runs_as_one_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "rates.png").stat().st_size > 0
    assert names["schedule"].boundaries == (45 * 391,)
    # The last step of 80: 71 of the 72 that follow the warmup.
    last = lrs.schedules.CosineAnnealing(1e-2, 72).curve(72)[-1]
    rate = names["history"].history["learning_rate"][-1]
    # With some initial weights the loss stalls, and the plateau halves the rate.
    assert rate == pytest.approx(last) or rate == pytest.approx(last / 2)
    assert names["sgdr"].cycle_ends(100) == [10, 30, 70]
    loss = names["model"].evaluate(names["x"], names["y"], verbose=0)
    measured = names["averaged"].history["val_loss"][-1]
    assert measured == pytest.approx(loss, rel=1e-5)
    first = re.search(r"float\(schedule\(500\)\) +# ([\d.]+)", README)
    warm = lrs.schedules.Warmup(lrs.schedules.CosineAnnealing(0.1, 9_000), 1_000)
    assert float(warm(500)) == pytest.approx(float(first.group(1)), rel=1e-6)


def test_every_schedule_is_in_the_table():
    table = README.partition("## The schedules")[2].partition("## The callbacks")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert named == set(catalogue.BOUND)


def test_every_file_it_points_to_is_there():
    root = pathlib.Path(__file__).parents[1]
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("http") or (root / link).exists(), link


def test_every_name_on_the_right_of_the_migration_table_exists():
    table = README.partition("## Coming from elsewhere")[2].partition("## Fig")[0]
    right = [line.split("|")[2] for line in table.splitlines() if line.count("|") == 3]
    names = {
        name
        for cell in right
        for name in re.findall(r"\b([A-Z][a-zA-Z]+)\b(?!_)", cell)
    }
    assert len(names) > 15
    known = {*lrs.schedules.__all__, *lrs.callbacks.__all__}
    assert names - {"True"} <= known


def test_every_callback_is_in_the_table():
    table = README.partition("## The callbacks")[2].partition("Guides:")[0]
    named = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    callbacks = set(lrs.callbacks.__all__) - {"FitCallback", "StepPart", "Wanted"}
    assert sorted(named) == sorted(callbacks)


def test_the_rows_for_keras_are_equal_to_keras():
    decays = keras.optimizers.schedules
    lr, n, w, a = 0.1, 40, 8, 0.05
    rows = [
        (
            decays.CosineDecay(lr, n, alpha=a),
            lrs.schedules.CosineAnnealing(lr, n, a * lr),
        ),
        (
            decays.CosineDecay(0.0, n, warmup_target=lr, warmup_steps=w),
            lrs.schedules.Warmup(lrs.schedules.CosineAnnealing(lr, n), w),
        ),
        (
            decays.CosineDecayRestarts(lr, n, 2.0, 0.5),
            lrs.schedules.CosineRestarts(lr, n, 2.0, 0.5),
        ),
        (
            decays.PolynomialDecay(lr, n, 0.01, 2.0),
            lrs.schedules.PolynomialDecay(lr, n, 0.01, 2.0),
        ),
        (
            decays.PiecewiseConstantDecay([10], [lr, a]),
            lrs.schedules.PiecewiseConstant([11], [lr, a]),
        ),
    ]
    for theirs, ours in rows:
        values = [
            float(keras.ops.convert_to_numpy(theirs(t))) for t in range(0, 130, 3)
        ]
        np.testing.assert_allclose(
            ours(np.arange(0, 130, 3)), values, rtol=1e-4, atol=1e-8
        )
