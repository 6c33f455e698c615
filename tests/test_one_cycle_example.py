"""Tests that the example of super-convergence compares, and reports, what it says."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

one_cycle = load_program("examples/one_cycle")
STEP, PLAIN, FULL = one_cycle.METHODS


@pytest.fixture
def two_steps_per_epoch():
    (x, y), (x_test, y_test) = one_cycle.load_data()
    return (x[:128], y[:128]), (x_test[:32], y_test[:32])


def test_prints_a_table_and_a_summary_and_draws_a_picture(tmp_path, capsys):
    picture = tmp_path / "curves.png"
    one_cycle.main(["--epochs", "2", "1", "--seeds", "2", "--output", str(picture)])
    printed = capsys.readouterr().out
    header = re.search(r"^epochs +(.*)$", printed, re.M).group(1)
    assert re.split(" {2,}", header) == [STEP, PLAIN, FULL]
    rows = re.findall(r"^ *(\d+)((?: +[\d.]+ ± [\d.]+ %){3})$", printed, re.M)
    assert [row[0] for row in rows] == ["1", "2"]
    for _, cells in rows:
        means = [float(mean) for mean in re.findall(r"([\d.]+) ±", cells)]
        assert all(20.0 < mean <= 100.0 for mean in means)
    assert re.search(
        r"^Epochs to reach [\d.]+ %, the mean of step decay in 2", printed, re.M
    )
    for method in one_cycle.METHODS:
        assert re.search(rf"^  {method} +(1|2|not in 2)\b", printed, re.M)
    assert str(picture) in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_schedules_are_as_long_as_the_training(two_steps_per_epoch):
    accuracies, schedules = one_cycle.compare(
        "digits", two_steps_per_epoch, (0.1, 0.2, 0.3), [3], seeds=1
    )
    assert list(accuracies) == list(schedules) == [STEP, PLAIN, FULL]
    assert all(list(by_epochs) == [3] for by_epochs in accuracies.values())
    assert all(len(by_epochs[3]) == 1 for by_epochs in accuracies.values())
    rates = {name: bound["learning_rate"].curve(7) for name, bound in schedules.items()}
    staircase = [0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001]
    np.testing.assert_allclose(rates[STEP], staircase)
    for name, peak in ((PLAIN, 0.2), (FULL, 0.3)):
        np.testing.assert_allclose(rates[name][[0, 6]], [peak / 25, peak / 25e4])
        assert 0.9 * peak < rates[name].max() <= peak
    assert "momentum" not in schedules[STEP]
    assert "momentum" not in schedules[PLAIN]
    momentum = schedules[FULL]["momentum"].curve(7)
    np.testing.assert_allclose(momentum[[0, 6]], 0.95)
    assert momentum.argmin() == rates[FULL].argmax()
    assert 0.85 <= momentum.min() < 0.86


def test_every_run_begins_from_scratch(two_steps_per_epoch):
    trainer = one_cycle.Trainer("digits", two_steps_per_epoch, total=None)

    def state():
        variables = one_cycle.state(trainer.model)
        return [keras.ops.convert_to_numpy(variable) for variable in variables]

    starts, ends = [], []
    for seed in (0, 1, 0):
        trainer.restart(seed)
        starts.append(state())
        trainer.run(STEP, 0.1, epochs=1, seeds=1)
        ends.append(state())
    trainer.progress.close()
    for first, third in zip(starts[0], starts[2], strict=True):
        np.testing.assert_array_equal(first, third)
    # `run` restarts from its own seed, 0.
    for one, another in zip(ends[0], ends[1], strict=True):
        np.testing.assert_allclose(one, another, rtol=1e-3, atol=1e-4)
    assert not np.array_equal(starts[0][0], starts[1][0])
    assert not np.array_equal(starts[0][0], ends[0][0])
    assert trainer.model.optimizer.iterations == 2


HAND_MADE = {
    STEP: {2: [80.0, 82.0], 8: [90.0, 92.0], 32: [93.0, 97.0]},
    PLAIN: {2: [80.0, 80.0], 8: [92.9, 93.1], 32: [96.0, 96.0]},
    FULL: {2: [90.0, 90.0], 8: [92.9, 92.9], 32: [90.0, 90.0]},
}


def test_the_target_is_the_baseline_less_one_standard_error():
    # The deviation of 93 and 97 is sqrt(8), their standard error sqrt(8) / sqrt(2).
    assert one_cycle.target_accuracy(HAND_MADE) == pytest.approx(95.0 - 2.0)
    assert one_cycle.target_accuracy({STEP: {1: [10.0], 2: [90.0]}}) == 90.0


def test_the_fewest_epochs_that_reach_the_target_count():
    assert one_cycle.epochs_to_reach(91.0, HAND_MADE[STEP]) == 8
    assert one_cycle.epochs_to_reach(91.1, HAND_MADE[STEP]) == 32
    assert one_cycle.epochs_to_reach(95.1, HAND_MADE[STEP]) is None


def test_the_summary_tells_savings_and_failures():
    lines = list(one_cycle.summarize(HAND_MADE))
    assert lines[0].startswith("Epochs to reach 93.00 %, the mean of step decay in 32")
    verdicts = [re.split(" {2,}", line.strip()) for line in lines[1:4]]
    assert verdicts == [
        [STEP, "32"],
        [PLAIN, "8, 4.0 times fewer"],
        [FULL, "not in 32"],
    ]
    assert lines[4].startswith("Published: 8 times fewer")


def test_the_summary_tells_losses_and_draws():
    accuracies = {
        STEP: {2: [80.0, 80.0], 4: [90.0, 90.0], 8: [89.0, 91.0]},
        PLAIN: {2: [80.0, 80.0], 4: [88.0, 88.0], 8: [90.0, 90.0]},
        FULL: {2: [80.0, 80.0], 4: [90.0, 90.0], 8: [90.0, 90.0]},
    }
    verdicts = [
        re.split(" {2,}", line.strip()) for line in one_cycle.summarize(accuracies)
    ]
    assert verdicts[1:4] == [[STEP, "4"], [PLAIN, "8, 2.0 times more"], [FULL, "4"]]


def test_rates_are_chosen_without_the_test_data(monkeypatch, capsys):
    (x, y), _ = one_cycle.load_data()
    monkeypatch.setattr(one_cycle, "load_data", lambda: ((x[:512], y[:512]), None))
    monkeypatch.setattr(one_cycle, "RATE_GRID", (1e-4, 0.1))
    monkeypatch.setattr(one_cycle, "METHODS", (STEP, FULL))
    one_cycle.main(["--tune", "--epochs", "1", "--seeds", "1"])
    printed = capsys.readouterr().out
    for method in (STEP, FULL):
        assert f"{method}: accuracy (%) on held-out data, by rate and epochs" in printed
    rates = re.findall(r"^([\d.e-]+) +([\d.]+) +([\d.]+)$", printed, re.M)
    assert [row[0] for row in rates] == ["0.0001", "0.1"] * 2
    assert all(accuracy == mean for _, accuracy, mean in rates)
    assert printed.endswith("Best on average: --rates 0.1 0.1\n")


def test_held_out_data_are_a_quarter_that_is_not_trained_on():
    data = one_cycle.load_data()
    (x_train, y_train), (x_valid, y_valid) = one_cycle.hold_out(data)
    assert len(x_train) == len(y_train) == 1010
    assert len(x_valid) == len(y_valid) == 337
    both = np.concatenate([x_train, x_valid])
    np.testing.assert_array_equal(
        np.sort(both.reshape(1347, 64), axis=0),
        np.sort(data[0][0].reshape(1347, 64), axis=0),
    )


def test_the_best_rate_is_best_on_average():
    held_out = {
        0.1: {2: 90.0, 8: 92.0},
        0.3: {2: 85.0, 8: 96.0},
        1.0: {2: 91.0, 8: 90.5},
    }
    assert one_cycle.best_rate(held_out) == 0.1
    held_out[0.3][8] = 98.0
    assert one_cycle.best_rate(held_out) == 0.3


def test_the_chosen_rates_are_of_the_grid():
    assert set(one_cycle.RATES["digits"]) <= set(one_cycle.RATE_GRID)


def test_color_images_train_the_residual_network(monkeypatch, tmp_path, capsys):
    rng = np.random.default_rng(0)
    shapes = ((32, 32, 32, 3), (16, 32, 32, 3))
    made = tuple(
        (
            rng.integers(0, 256, shape, "uint8"),
            rng.integers(0, 10, (shape[0], 1), "uint8"),
        )
        for shape in shapes
    )
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: made)
    monkeypatch.setitem(one_cycle.BATCH_SIZE, "cifar10", 16)
    # oneDNN may crash with fewer than 8 channels (uxlfoundation/oneDNN#6035).
    monkeypatch.setattr(one_cycle, "RESNET", {"widths": (8, 16), "blocks": 1})
    for images, labels in one_cycle.load_cifar10():
        assert images.dtype == "float32"
        assert -1.0 <= images.min() < -0.9 < 0.9 < images.max() <= 1.0
        assert labels.shape == (len(images),)
    convolutions = [
        layer
        for layer in one_cycle.make_resnet(**one_cycle.RESNET).layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert len(convolutions) == 6  # The first, two per block, one in a shortcut.
    assert convolutions[-1].output.shape == (None, 16, 16, 16)
    picture = tmp_path / "curves.png"
    options = "--dataset cifar10 --epochs 2 --seeds 1 --rates 0.1 0.1 0.3 --output"
    one_cycle.main([*options.split(), str(picture)])
    assert re.search(r"^ +2(?: +[\d.]+ ± 0.00 %){3}$", capsys.readouterr().out, re.M)
    assert picture.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "2", "0"], "--epochs and --seeds must be at least 1"),
        (["--seeds", "0"], "--epochs and --seeds must be at least 1"),
        (["--rates", "0.1"], "expected 3 arguments"),
        (["--dataset", "cifar10"], "cifar10 needs --rates; --tune chooses them"),
        (["--dataset", "mnist"], "invalid choice: 'mnist'"),
    ],
)
def test_wrong_options_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit):
        one_cycle.main(arguments)
    assert message in capsys.readouterr().err


def test_the_backend_is_chosen_before_keras_is_imported():
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "examples")!r})
import one_cycle
one_cycle.load_data = sys.exit
try:
    one_cycle.main(["--backend", {keras.backend.backend()!r}])
except SystemExit:
    assert "keras" not in sys.modules
    import keras
    print(keras.backend.backend())
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == keras.backend.backend(), result.stderr
