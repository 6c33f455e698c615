"""Tests that the example of averages compares and reports what it says."""

import dataclasses
import re

import keras
import numpy as np
import pytest

from tests.programs import load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

averaging = load_program("examples/averaging")
CONSTANT, COSINE, POLYAK = averaging.CONSTANT, averaging.COSINE, averaging.POLYAK
EMA, FREE, LATE = averaging.EMAS[1], averaging.FREE, averaging.LATE_STEP
LINEAR = {budget: averaging.linear(budget) for budget in averaging.BUDGETS}
METHODS = averaging.make_methods()
TINY = averaging.Setting(4, 64, {"width": 8, "dropout": 0.1})


@pytest.fixture
def two_steps_per_epoch():
    (x, y), (x_test, y_test) = averaging.load_data()
    return (x[:130], y[:130]), (x_test[:32], y_test[:32])


def test_averages_are_validated_along_trainings_from_scratch(two_steps_per_epoch):
    trainer = averaging.Trainer("mlp", TINY, two_steps_per_epoch, total=None)
    assert trainer.steps == 8
    found = {
        name: trainer.run(name, METHODS[name], 0.01, seeds=2, points=[1, 2, 4])
        for name in (CONSTANT, LINEAR[50], EMA, FREE)
    }
    trainer.progress.close()
    for name, curves in found.items():
        # Losses and errors, of two seeds, at the points within the budget.
        assert curves.shape == (2, 2, 2 if name == LINEAR[50] else 3)
        assert (curves[0] > 0.0).all()
        assert ((curves[1] >= 0.0) & (curves[1] <= 100.0)).all()
        assert not np.array_equal(curves[0, 0], curves[0, 1])
    # A memory of 0.8 steps is shorter than one step: the training's own weights.
    np.testing.assert_allclose(found[EMA], found[CONSTANT], rtol=1e-3)
    assert not np.allclose(found[FREE], found[CONSTANT], rtol=1e-3)


@pytest.fixture
def long_trainer(two_steps_per_epoch):
    setting = dataclasses.replace(TINY, epochs=200)
    trainer = averaging.Trainer("mlp", setting, two_steps_per_epoch, total=None)
    trainer.progress.close()
    return trainer


def test_schedules_are_as_long_as_their_budgets_after_one_warmup(long_trainer):
    assert long_trainer.steps == 400
    for name, method in METHODS.items():
        scheduler = long_trainer.make_callbacks(method, 0.1)[0]
        steps = 400 * method.budget // 100
        rates = scheduler.schedules["learning_rate"].bind(steps, 2).curve(steps + 1)
        np.testing.assert_allclose(rates[:21], 0.1 * np.arange(21) / 20, rtol=1e-5)
        progress = np.arange(steps - 19) / (steps - 20)
        drops = [int(percent) / 100 for percent in re.findall(r"(\d+) %", name)]
        if name.startswith("linear"):
            expected = 0.1 * (1.0 - progress)
        elif name == COSINE:
            expected = 0.05 * (1.0 + np.cos(np.pi * progress))
        elif name.startswith("step"):
            passed = [np.arange(20, steps + 1) >= d * steps for d in drops]
            expected = 0.1 * 0.1 ** np.sum(passed, axis=0)
        else:
            expected = np.full(len(progress), 0.1)
        np.testing.assert_allclose(rates[20:], expected, rtol=1e-4, atol=1e-8)


def test_memories_are_shares_of_the_training():
    decays = {
        name: method.average(10_000).decay
        for name, method in METHODS.items()
        if method.average and name != POLYAK
    }
    names = (*averaging.EMAS, FREE)
    assert decays == pytest.approx(dict(zip(names, (0.99, 0.999, 0.999), strict=True)))


def test_schedule_free_methods_have_no_other_momentum(long_trainer):
    from keras_lrs.optimizers import ScheduleFree

    for name, method in METHODS.items():
        optimizer = long_trainer.make_model(method).optimizer
        assert isinstance(optimizer, ScheduleFree) == name.startswith("schedule-free")
        if name.startswith("schedule-free"):
            assert optimizer.inner_optimizer.beta_1 == 0.0
            average = optimizer.arguments.average
            assert average == (method.average(400) if name == FREE else None)
        else:
            assert optimizer.beta_1 == 0.9


def test_the_ends_of_all_budgets_are_validated():
    assert averaging.make_points(4) == [1, 2, 3, 4]
    assert averaging.make_points(60) == list(range(3, 61, 3))
    assert {7, 14, 21, 28} <= set(averaging.make_points(28))


def test_intervals_are_those_of_student():
    # 2.776 is the table's for 4 degrees of freedom; the standard error is 0.5 ** 0.5.
    half = averaging.half_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert half == pytest.approx(2.776 * 0.5**0.5, rel=1e-3)
    assert np.isnan(averaging.half_interval(np.ones(1)))


def made_up(**losses):
    """Results of three seeds: a loss at all points, or one for each budget."""
    ends = {LINEAR[25]: 0.8, LINEAR[50]: 0.6, LINEAR[75]: 0.5, LINEAR[100]: 0.4}
    found = {
        name: losses.get(name, ends.get(name, [1.0, 0.9, 0.9, 0.8])) for name in METHODS
    }
    noise = 1e-3 * np.array([[-1.0], [0.0], [1.0]])
    return averaging.Results(
        {
            name: np.array(
                2 * [np.broadcast_to(means, METHODS[name].budget // 25) + noise * i]
            )
            for i, (name, means) in enumerate(found.items(), start=1)
        },
        [15, 30, 45, 60],
    )


ALL_AS_PUBLISHED = {
    COSINE: 0.41,
    LATE: 0.44,
    POLYAK: [1.0, 0.9, 0.8, 0.7],
    averaging.EMAS[0]: 0.5,
    EMA: [0.8, 0.6, 0.5, 0.4],
    FREE: [0.8, 0.5, 0.4, 0.4],
}


def test_gaps_are_differences_within_seeds():
    results = made_up(**ALL_AS_PUBLISHED)
    mean, half = results.gap(POLYAK, LINEAR[75], 75)
    order = list(METHODS)
    noise = 1e-3 * (order.index(POLYAK) - order.index(LINEAR[75]))
    # 4.303 is Student's for 2 degrees of freedom.
    assert (mean, half) == pytest.approx((0.3, 4.303 * noise / 3**0.5), rel=1e-3)


def run_main(monkeypatch, results, *arguments):
    called = []

    def compare(*given):
        called.append(given)
        return results.found

    monkeypatch.setattr(averaging, "compare", compare)
    monkeypatch.setattr(averaging, "make_points", lambda epochs: results.points)
    averaging.main(list(arguments))
    return called[0]


def test_prints_and_writes_tables_and_draws_a_picture(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "averaging.png"
    results = made_up(**ALL_AS_PUBLISHED)
    network, setting, data, rates, seeds = run_main(
        monkeypatch, results, "--output", str(picture)
    )
    assert (network, setting, seeds) == ("mlp", averaging.SETTINGS["mlp", "digits"], 5)
    assert len(data[0][0]) == 1347
    text = (tmp_path / "averaging.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    table = {row[0]: row[1:] for row in rows[2:16]}
    assert list(table) == list(METHODS)
    assert [float(cells[0]) for cells in table.values()] == list(rates)
    assert table[LINEAR[50]][1:] == ["0.6000 ± 0.0024", "0.60 ± 0.00", *4 * [""]]
    assert [cell[:7] for cell in table[FREE][3:]] == [
        "+0.0000", "-0.1000", "-0.1000", "+0.0000"
    ]  # fmt: skip
    assert [cell[:7] for cell in table[COSINE][3:]] == ["", "", "", "+0.0100"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_rates_are_chosen_without_the_test_data(monkeypatch, capsys):
    (x, y), _ = averaging.load_data()
    monkeypatch.setattr(averaging, "load_data", lambda: ((x[:512], y[:512]), None))
    setting = dataclasses.replace(TINY, grid=(1e-5, 0.01))
    monkeypatch.setitem(averaging.SETTINGS, ("mlp", "digits"), setting)
    one = {LINEAR[50]: METHODS[LINEAR[50]]}
    monkeypatch.setattr(averaging, "make_methods", lambda: one)
    averaging.main(["--tune", "--seeds", "1"])
    printed = capsys.readouterr().out
    assert re.search(rf"^{LINEAR[50]} +[\d.]+ +[\d.]+$", printed, re.M)
    assert printed.endswith("Best: --rates 0.01\n")


def test_the_best_rate_has_the_least_loss_and_did_not_diverge(capsys):
    assert averaging.best_rate({0.001: np.nan, 0.01: 0.4, 0.1: 0.3}) == 0.1
    assert averaging.best_rate({0.001: 0.3, 0.01: 0.4, 0.1: np.nan}) == 0.001
    losses = {0.001: 0.5, 0.01: 0.5, 0.1: 0.4}
    averaging.print_tuning({COSINE: losses, POLYAK: losses | {0.01: 0.3}})
    assert re.findall("The rate of (.*) is at the edge", capsys.readouterr().out) == [
        COSINE
    ]


def test_the_chosen_rates_are_of_the_grid():
    settings = [one for one in averaging.SETTINGS.values() if one.rates]
    assert settings
    for setting in settings:
        assert len(setting.rates) == len(METHODS)
        assert set(setting.rates) <= set(setting.grid)


def test_the_vision_transformer_knows_patches_and_their_positions():
    keras.utils.set_random_seed(0)
    model = averaging.make_vit((4, 4, 1), 2, 8, depth=1, heads=2, dropout=0.0)
    embed = next(x for x in model.layers if isinstance(x, keras.layers.EinsumDense))
    assert [tuple(w.shape) for w in embed.weights] == [(4, 8), (4, 8)]
    image = np.arange(16.0, dtype="float32").reshape(1, 4, 4, 1) / 16.0
    swapped = image[:, :, [2, 3, 0, 1]]  # The patches at the left and the right.

    def logits(image):
        return model.predict(image, verbose=0)

    assert abs(logits(image) - logits(swapped)).max() > 1e-5
    kernel, positions = embed.get_weights()
    embed.set_weights([kernel, 0.0 * positions])
    # Without positions it sees a set of patches.
    np.testing.assert_allclose(logits(image), logits(swapped), atol=1e-5)


def test_color_images_train_the_vision_transformer(monkeypatch):
    rng = np.random.default_rng(0)

    def images(size):
        """Noise, in which one color is bright: its number is the class."""
        labels = rng.integers(0, 3, (size, 1), "uint8")
        pixels = rng.integers(0, 128, (size, 32, 32, 3), "uint8")
        pixels[np.arange(size), :, :, labels[:, 0]] += 127
        return pixels, labels

    made = (images(48), images(24))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: made)
    network = {"patch": 16, "width": 8, "depth": 1, "heads": 2, "dropout": 0.1}
    trainer = averaging.Trainer(
        "vit", averaging.Setting(12, 16, network), averaging.load_cifar10(), total=None
    )
    method = METHODS[CONSTANT]
    losses, errors = trainer.run(CONSTANT, method, 0.01, seeds=1, points=[1, 12])
    trainer.progress.close()
    assert losses.shape == errors.shape == (1, 2)
    # Among three classes, chance is a loss of 1.1 and an error of 67 %.
    assert losses[0, 1] < 0.5 * losses[0, 0]
    assert losses[0, 1] < 0.5
    assert errors[0, 1] < 10.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "6"], "--epochs must be a multiple of 4"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--rates", "0.1"], "--rates must be 14: of constant, linear decay, 25 %"),
        (["--dataset", "cifar10"], "cifar10 is for --model vit"),
        (
            ["--dataset", "cifar10", "--model", "vit"],
            "cifar10 needs --rates; --tune chooses them",
        ),
    ],
)
def test_wrong_options_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit):
        averaging.main(arguments)
    assert message in capsys.readouterr().err
