"""Tests that the example of snapshot ensembles compares, and reports, what it says."""

import re

import keras
import numpy as np
import pytest

from tests.programs import load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

example = load_program("examples/snapshot_ensemble")
load_data = example.load_data


def few_digits():
    (x, y), (x_test, y_test) = load_data()
    return (x[:256], y[:256]), (x_test[:64], y_test[:64])


def test_prints_tables_and_claims_and_draws_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "load_data", few_digits)
    picture = tmp_path / "picture.png"
    arguments = ["--epochs", "4", "--cycles", "2", "--seeds", "2"]
    example.main([*arguments, "--output", str(picture)])
    printed = capsys.readouterr().out
    number = r" +[\d.]+ ± [\d.]+"
    row = rf"^ +(\d+)((?:{number} %{number}){{2}}) +(\d+)$"
    rows = re.findall(row, printed, re.M)
    assert [(row[0], row[2]) for row in rows] == [("1", "2"), ("2", "4")]
    for _, cells, _ in rows:
        means = [float(mean) for mean in re.findall(r"([\d.]+) ±", cells)]
        assert all(10.0 < mean <= 100.0 for mean in means[::2])
        assert all(0.0 < mean < 5.0 for mean in means[1::2])
    for name in (
        "single model, step decay",
        "single model, one cosine",
        "middle of the last cycle",
        "end of the cycle before, as restored",
        "mean over all epochs, cycles",
    ):
        assert re.search(rf"^{name}{number} %{number}$", printed, re.M)
    for name in ("last snapshots", "independent"):
        assert re.search(rf"^disagreement of two, {name}{number} %$", printed, re.M)
    claims = re.findall(r"^  (accuracy|loss) .* ± [\d.]+.*: (.*)$", printed, re.M)
    assert [name for name, _ in claims] == ["accuracy", "loss"] * 5
    known = {"better", "worse", "cannot be told apart"}
    assert {word for _, word in claims} <= known
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_last_snapshot_is_the_model_at_the_end():
    found = example.compare("digits", few_digits(), epochs=4, cycles=2, seeds=1)
    curves = found["curves"]["cycles"][0]  # Accuracy and loss, by epoch.
    last = found["scores"]["last snapshots"][0, 0]
    np.testing.assert_allclose(last, curves[:, 3], rtol=1e-5)
    np.testing.assert_array_equal(found["within"], [curves[:, 2]])
    np.testing.assert_array_equal(found["completed"], [curves[:, 1]])


def test_verdicts_are_of_differences_within_seeds():
    def verdict(*differences, better=1.0):
        return example.verdict(np.array(differences), "points", 2, better)

    # The standard error is 1/30, and Student's quantile for three is 4.303.
    assert verdict(1.0, 0.9, 0.9) == "+0.93 ± 0.14 points: better"
    assert verdict(1.0, 0.9, 0.9, better=-1.0) == "+0.93 ± 0.14 points: worse"
    assert verdict(-1.0, -1.1).endswith("worse")
    # Two standard errors are not enough for two seeds: those would say "better".
    assert verdict(1.0, 2.5).endswith("cannot be told apart")
    assert verdict(1.0, -1.0).endswith("cannot be told apart")
    assert verdict(0.5) == "+0.50 points (one seed)"


def test_color_images_train_a_resnet_20(monkeypatch, tmp_path, capsys):
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
    monkeypatch.setitem(example.BATCH_SIZE, "cifar10", 16)
    resnet = example.make_resnet(**example.RESNET20)
    weighted = [
        layer
        for layer in resnet.layers
        if isinstance(layer, keras.layers.Dense)
        or (isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3))
    ]
    assert len(weighted) == 20
    # oneDNN may crash with fewer than 8 channels (uxlfoundation/oneDNN#6035).
    monkeypatch.setattr(example, "RESNET20", {"widths": (8, 16), "blocks": 1})
    options = "--dataset cifar10 --epochs 4 --cycles 2 --seeds 1 --output"
    example.main([*options.split(), str(tmp_path / "picture.png")])
    assert "2 cycles of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cycles", "1"], "--cycles must be at least 2"),
        (["--seeds", "0"], "--seeds at least 1"),
        (["--epochs", "12"], "--epochs must be a multiple of 5"),
        (["--epochs", "5"], "--epochs must be a multiple of 5, twice that or more"),
        (["--dataset", "mnist"], "invalid choice: 'mnist'"),
    ],
)
def test_wrong_options_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert message in capsys.readouterr().err
