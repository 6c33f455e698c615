"""Tests that the quickstart runs, on the backend of the tests."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("tensorflow"), pytest.mark.program]

quickstart = load_program("examples/quickstart")


class Silent:
    """A progress bar that nobody sees."""

    def update(self):
        pass


def run(options, output):
    quickstart.main([*options.split(), str(output)])


def test_prints_a_table_and_draws_a_picture(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quickstart, "TIMING_ROUNDS", 1)
    picture = tmp_path / "curves.png"
    run("--epochs 2 --seeds 1 --schedules constant sgdr --output", picture)
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +([\d.]+) ± .* ms \(([\d.]+) x\)$", printed, re.M)
    assert [name for name, _, _ in rows] == ["constant", "sgdr"]
    assert all(50.0 < float(accuracy) <= 100.0 for _, accuracy, _ in rows)
    assert rows[0][2] == "1.00"
    assert str(picture) in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_epoch_is_enough(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quickstart, "TIMING_ROUNDS", 1)
    picture = tmp_path / "curves.png"
    run("--epochs 1 --seeds 1 --schedules wsd --output", picture)
    assert "1.00 x the time of wsd" in capsys.readouterr().out
    assert picture.exists()


def test_all_schedules_are_as_long_as_the_training():
    for epochs in (1, 3, 12):
        for name, schedule in quickstart.make_schedules().items():
            rates = schedule.bind(43 * epochs, steps_per_epoch=43).curve(43 * epochs)
            assert rates.max() <= quickstart.PEAK * (1.0 + 1e-12), name
            if name != "constant":
                assert rates[-1] < 0.5 * quickstart.PEAK, name


def test_seeds_fix_the_weights_and_the_order_of_the_data():
    (x, y), test_data = quickstart.load_data()
    data = (x[:256], y[:256]), test_data
    schedules = quickstart.make_schedules()
    losses = []
    for name, seed in (("constant", 0), ("step", 0), ("constant", 1)):
        schedule = schedules[name].bind(total_steps=16)
        _, history = quickstart.train(schedule, seed, 2, data, Silent())
        losses.append(history["val_loss"])
    # The step decay drops the rate after the first of the two epochs.
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-3)
    assert abs(losses[0][1] / losses[1][1] - 1.0) > 1e-3
    assert abs(losses[0][0] / losses[2][0] - 1.0) > 1e-3


def test_the_classes_are_in_the_same_proportion_in_both_parts():
    (x_train, y_train), (x_test, y_test) = quickstart.load_data()
    assert x_train.shape == (1347, 8, 8, 1)
    assert x_test.shape == (450, 8, 8, 1)
    assert 0.0 <= x_train.min() < x_train.max() <= 1.0
    shares = [np.bincount(y) / len(y) for y in (y_train, y_test)]
    np.testing.assert_allclose(*shares, atol=0.002)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schedules", "rex", "cosin"], "unknown schedule 'cosin'; there are"),
        (["--epochs", "0"], "--epochs and --seeds must be at least 1"),
        (["--seeds", "0"], "--epochs and --seeds must be at least 1"),
        (["--backend", "numpy"], "invalid choice: 'numpy'"),
    ],
)
def test_wrong_options_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit):
        quickstart.main(arguments)
    assert message in capsys.readouterr().err


def test_the_backend_is_chosen_before_keras_is_imported():
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "examples")!r})
import quickstart
assert "keras" not in sys.modules
try:
    quickstart.main(["--backend", {keras.backend.backend()!r}, "--schedules", "none"])
except SystemExit:
    print(sys.modules["keras"].backend.backend())
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == keras.backend.backend(), result.stderr
