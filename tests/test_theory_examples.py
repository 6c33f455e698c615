"""The examples of batch sizes, equivalence, fractal rates and bounded decay, small."""

import math
import re

import keras
import numpy as np
import pytest

from tests.programs import load_program

pytestmark = [pytest.mark.only("jax"), pytest.mark.program]

bounded = load_program("examples/bounded_step_decay")
equivalence = load_program("examples/exponential_equivalence")
fractal = load_program("examples/fractal")
large_batch = load_program("examples/large_batch")
ALL = (bounded, equivalence, fractal, large_batch)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    yield path
    assert path.read_bytes().startswith(b"\x89PNG")


def printed(program, capsys, picture, *options):
    program.main([*options, "--seeds", "1", "--output", str(picture)])
    text = capsys.readouterr().out
    assert str(picture) in text
    return text


def test_weight_decay_is_replaced_to_the_precision_of_the_floats(
    capsys, picture, monkeypatch
):
    few = {
        name: equivalence.make_schedules()[name] for name in ("constant", "step decay")
    }
    monkeypatch.setattr(equivalence, "make_schedules", lambda: few)
    monkeypatch.setattr(equivalence, "EPSILONS", (0.0, 1e-3))
    monkeypatch.setattr(
        equivalence, "COLUMNS", ("float64", "float32", "BN, 0", "BN, 0.001")
    )
    text = printed(equivalence, capsys, picture, "--steps", "60")
    rows = re.findall(r"^(constant|step decay|cosine) +(.*)$", text, re.M)
    assert [name for name, _ in rows] == list(few)
    for _, cells in rows:
        exact, rounded, no_epsilon, epsilon, rate, weights = map(float, cells.split())
        # On PyTorch, Keras multiplies matrices of float64 in float32.
        assert exact < (1e-6 if keras.backend.backend() == "torch" else 1e-12)
        assert max(rounded, no_epsilon) < 1e-4
        assert epsilon > 10.0 * no_epsilon
        # The rate grows as the square of the weights, but for one step.
        assert rate == pytest.approx(weights**2, rel=0.03)
    assert keras.config.floatx() == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_a_seed_that_diverged_is_not_passed_over(monkeypatch):
    def compare(schedule, epsilon, steps, seed, data, dtype):
        losses = np.array([1.0, np.nan if seed == 1 else 1.5])
        return (losses, losses), (np.ones(2), losses), losses

    monkeypatch.setattr(equivalence, "compare", compare)
    differences, _ = equivalence.compare_all(2, 3, None)
    found = np.array([list(found.values()) for found in differences.values()])
    # Of two losses, the second is in the second part.
    assert np.isnan(found[..., 1]).all()
    assert (np.delete(found, 1, -1) == 0.0).all()


def test_lemma_1_is_shown(capsys):
    equivalence.main(["--lemma", "--seeds", "2"])
    rows = re.findall(r"^ +(\d) +([-\d.e+]+) +([\d.]+)$", capsys.readouterr().out, re.M)
    assert [row[0] for row in rows] == ["0", "1"]
    for _, cosine, ratio in rows:
        # On PyTorch, Keras multiplies matrices of float64 in float32.
        loose = keras.backend.backend() == "torch"
        assert abs(float(cosine)) < (1e-5 if loose else 1e-12)
        assert float(ratio) == pytest.approx(1.0, abs=1e-4 if loose else 1e-9)


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_a_normalization_has_the_mean_and_the_deviation_of_its_groups(kind):
    x = np.random.default_rng(0).normal(2.0, 3.0, (equivalence.BATCH_SIZE, 64))
    groups = x.reshape(-1, *{"layer": (1, 64), "group": (8, 8)}[kind])
    expected = groups - groups.mean(2, keepdims=True)
    expected = (expected / groups.std(2, keepdims=True)).reshape(x.shape)
    found = equivalence.normalized(keras.ops.convert_to_tensor(x), kind)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(found), expected, rtol=1e-4, atol=1e-5
    )


def test_a_bounded_decay_ends_where_it_should(capsys, picture):
    text = printed(bounded, capsys, picture, "--epochs", "1", "--drops", "4")
    assert "here: gamma = 0.999309463003, n = 100" in text
    rows = re.findall(
        r"^(.*?) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) ± 0.00 %$", text, re.M
    )
    names = ["4 drops", "4 plateaus", "smooth"]
    assert [name for name, *_ in rows] == names
    for (name, gamma, last, ratio, _), factor in zip(
        rows, (100**0.25, 1.0, 1.0), strict=True
    ):
        assert float(last) == pytest.approx(1e-3 * factor, rel=2e-3)
        assert float(ratio) == pytest.approx(factor, abs=0.005)
        if "drops" in name:
            assert float(gamma) == pytest.approx(1.0 / factor, abs=1e-4)


def test_the_fractal_measures_the_theorem(capsys, picture):
    text = printed(fractal, capsys, picture, "--cycles", "4", "8", "--steps", "16")
    rows = re.findall(r"^ +(4|8) +([\d.e+-]+) +([\d.e+-]+) +([\d.e+-]+)$", text, re.M)
    assert [row[0] for row in rows] == ["4", "8"]
    for cycle, measured, theorem, constant in rows:
        rho = 9.0 / 11.0  # (sqrt(100) - 1) / (sqrt(100) + 1)
        expected = 2.0 * rho ** int(cycle) / (1.0 + rho ** (2 * int(cycle)))
        assert float(theorem) == pytest.approx(expected, rel=1e-4)
        assert float(measured) == pytest.approx(expected, rel=1e-3)
        assert float(constant) == pytest.approx((99 / 101) ** int(cycle), rel=1e-4)
    methods = re.findall(r"^(best constant|fractal|heavy ball)", text, re.M)
    assert methods == ["best constant", "fractal", "fractal", "heavy ball"]


def test_the_lowest_loss_is_the_lowest():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), (rng.random((40, 1)) < 0.5).astype(float)
    lowest = fractal.lowest_loss(x, y)

    def loss(w):
        z = x @ w
        plain = np.mean(np.log1p(np.exp(z)) - y[:, 0] * z)
        return plain + 0.5 * fractal.PENALTY * w @ w

    w = np.zeros(3)
    for _ in range(20_000):
        p = 1.0 / (1.0 + np.exp(-x @ w))
        w -= 0.5 * (x.T @ (p - y[:, 0]) / 40 + fractal.PENALTY * w)
    assert lowest == pytest.approx(loss(w), rel=1e-10)


def test_diverged_rates_are_not_the_best_constant():
    gaps = {
        "constant 1": (4, [np.array([1.0, 0.5]), np.array([1.0, 0.3])]),
        "constant 2": (4, [np.array([1.0, 0.1]), np.array([1.0, math.nan])]),
        "fractal": (4, [np.array([1.0, 0.0])]),
    }
    assert fractal.best_constant(gaps) == "constant 1"


def test_large_batches_are_compared(capsys, picture, monkeypatch):
    monkeypatch.setattr(large_batch, "BATCH_SIZES", (128,))
    monkeypatch.setattr(large_batch, "WARMUP_EPOCHS", 1)
    monkeypatch.setattr(large_batch, "STAGES", (0, 1))
    text = printed(large_batch, capsys, picture, "--epochs", "2")
    rows = re.findall(r"^ +(\d+) (\w+) +([\d.]+) ± 0.00 +([\d.]+) ± 0.00$", text, re.M)
    assert [row[:2] for row in rows] == [
        ("32", "fixed"), ("128", "fixed"), ("128", "sqrt"), ("128", "linear"),
    ]  # fmt: skip
    assert all(50.0 < float(cell) <= 100.0 for row in rows for cell in row[2:])
    assert "One step on 128 images against 4 steps on 32" in text
    assert re.findall(r"^after +(\d+) epochs", text, re.M) == ["0", "1"]


def test_rates_are_scaled_and_warmed_up():
    rate = large_batch.RATE
    for rule, factor in (("fixed", 1.0), ("sqrt", 4.0), ("linear", 16.0)):
        plain = large_batch.make_schedule(512, rule, warmup=False).bind(40, 2)
        assert float(plain(0)) == pytest.approx(factor * rate)
        warm = large_batch.make_schedule(512, rule, warmup=True).bind(40, 2)
        peak = 2 * large_batch.WARMUP_EPOCHS
        assert float(warm(0)) == pytest.approx(rate)
        assert float(warm(peak)) == pytest.approx(factor * rate)
        assert float(warm(40)) == pytest.approx(0.0, abs=1e-9)


def test_the_base_rate_is_swept(capsys, monkeypatch):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    monkeypatch.setattr(large_batch, "IMAGES", 256)
    monkeypatch.setattr(large_batch, "NUM_TRIALS", 4)
    large_batch.main(["--tune", "--epochs", "1"])
    text = capsys.readouterr().out
    best = re.search(r"^Best: ([\d.]+)$", text, re.M).group(1)
    assert re.search(rf"^ +{best}\d* .* best ", text, re.M)


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (bounded, ["--drops", "1"], "--drops must be at least 2"),
        (bounded, ["--epochs", "1", "--drops", "50"], "--drops must be at most 22"),
        (equivalence, ["--steps", "6"], "--steps must be a multiple of 4"),
        (fractal, ["--cycles", "6"], "--cycles must be powers of two"),
        (fractal, ["--cycles", "64", "--steps", "100"], "that divide --steps"),
        *((program, ["--seeds", "0"], "--seeds must be at least 1") for program in ALL),
    ],
)
def test_wrong_options_are_explained(program, arguments, message, capsys):
    with pytest.raises(SystemExit):
        program.main(arguments)
    assert message in capsys.readouterr().err
