"""The recipes of the sources: their networks, their rates, and that they run."""

import argparse
import contextlib
import importlib
import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from tests.programs import ROOT, load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

command = load_program("examples/reproduce.command")
importing = importlib.import_module
RECIPES = command.RECIPES
recipe, runs = importing("reproduce.recipe"), importing("reproduce.recipe").runs
data = importing("reproduce.data")
augmentation = importing("reproduce.augmentation")
networks = importing("reproduce.networks")


def trained(model):
    """The number of parameters that are trained."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


# --- Networks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "published", "exactly"),
    [
        (20, 0.27, 269_722),
        (32, 0.46, 464_154),
        (56, 0.85, 853_018),
        (110, 1.7, 1_727_962),
    ],
)
def test_residual_networks_have_the_published_number_of_parameters(
    depth, published, exactly
):
    # He et al., 2015, table 6, in millions.
    model = networks.make_resnet(depth, classes=10)
    assert trained(model) == exactly
    assert round(exactly / 1e6, 2 if published < 1.0 else 1) == published
    weighted = (keras.layers.Conv2D, keras.layers.Dense)
    assert sum(isinstance(layer, weighted) for layer in model.layers) == depth


def kernels(model):
    return [
        tuple(layer.kernel.shape)
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    ]


def test_a_residual_network_is_the_published_one_layer_by_layer():
    expected = [(3, 3, 3, 16)]
    for before, width in ((16, 16), (16, 32), (32, 64)):
        expected += [(3, 3, before, width)] + [(3, 3, width, width)] * 5
    assert kernels(networks.make_resnet(20, 10)) == [*expected, (64, 10)]


def test_the_preactivated_network_trains_only_kernels_that_feed_a_normalization():
    model = networks.make_preresnet(32, 10, frozen=True, trained_head=False)
    assert len(kernels(model)) == 32
    assert len(model.trainable_variables) == 31
    assert all(variable.name == "kernel" for variable in model.trainable_variables)
    # ResNet-32 without scales, centers and the last layer.
    scales = 2 * (11 * 16 + 10 * 32 + 10 * 64)
    assert trained(model) == 464_154 - scales - 650
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    (moves,) = (e for e in model.layers if isinstance(e, augmentation.RandomShift))
    moves.pixels, moves.mirror = 0, False
    logits = ops.convert_to_numpy(model(x, training=True))
    for kernel in model.trainable_variables:
        kernel.assign(7.0 * kernel)
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(x, training=True)), logits, atol=0.02
    )


def test_resnet_50_has_the_parameters_of_torchvision():
    model = networks.make_resnet50()
    assert trained(model) == 25_557_032
    shapes = kernels(model)
    assert len(shapes) == 54  # 50, and 4 that change the width of a shortcut.
    assert [s[-1] for s in shapes[1:5]] == [64, 64, 256, 256]
    assert model.output_shape == (None, 1000)


def test_the_transformer_is_that_of_the_tutorial():
    model = networks.make_transformer()
    width, hidden = 128, 512
    patches = 8 * 8 * 3 * width + width
    attention = 4 * (width * width + width)
    between = width * hidden + hidden + hidden * width + width
    block = attention + between + 2 * (2 * width)
    head = 2 * width + width * 10 + 10
    assert trained(model) == patches + width + 4 * block + head
    attentions = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.MultiHeadAttention)
    ]
    assert [layer.num_heads for layer in attentions] == [4] * 4
    # 16 patches and the class token behind them; the head reads the first.
    tokens = next(layer for layer in model.layers if isinstance(layer, networks.Tokens))
    x = np.random.default_rng(0).normal(size=(2, 16, width)).astype("float32")
    found = ops.convert_to_numpy(tokens(x))
    places = np.arange(17)[:, None] / 10_000.0 ** (np.arange(0, width, 2) / width)
    np.testing.assert_allclose(
        found[:, :16, 0::2], x[:, :, 0::2] + np.sin(places[:16]), atol=1e-5
    )
    np.testing.assert_allclose(
        found[:, :16, 1::2], x[:, :, 1::2] + np.cos(places[:16]), atol=1e-5
    )
    token = ops.convert_to_numpy(tokens.token)[0, 0, 0::2]
    np.testing.assert_allclose(
        found[:, 16, 0::2], [token + np.sin(places[16])] * 2, atol=1e-5
    )
    head = model.layers[-1].input
    assert head.shape == (None, width)


# --- Data -----------------------------------------------------------------------------


def test_an_epoch_is_the_same_again_and_has_all_images():
    part = data.make(3, (8, 8, 3), 10, 5).train
    batches = data.make_batches(part, 4, seed=1)
    assert len(batches) == 3
    first = [batches[index] for index in range(3)]
    assert [len(y) for _, y in first] == [4, 4, 2]
    batches.begin(1)
    assert not np.array_equal(batches[0][0], first[0][0])
    batches.begin(0)
    for index in range(3):
        np.testing.assert_array_equal(batches[index][0], first[index][0])
    every = np.concatenate([x for x, _ in first]).reshape(10, -1)
    assert len(np.unique(every, axis=0)) == 10


def test_batches_with_replacement_repeat_images():
    part = data.make(3, (8, 8, 3), 10, 5).train
    batches = data.make_batches(part, 64, seed=1, replacement=True, steps=7)
    assert len(batches) == 7
    x, _ = batches[0]
    assert len(np.unique(x.reshape(64, -1), axis=0)) == 10


def test_images_are_read_from_folders(tmp_path):
    for name in ("train", "val"):
        for label, color in enumerate((10, 200)):
            folder = tmp_path / name / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(2):
                picture = Image.new("RGB", (40, 20), (color, 0, number))
                picture.save(folder / f"{number}.png")
    found = data.load(str(tmp_path), {})
    assert (found.classes, found.shape) == (2, (256, 256, 3))
    x, y = data.make_batches(found.train, 4, seed=0)[0]
    assert x.dtype == "uint8"
    assert x.shape == (4, 256, 256, 3)
    assert [{10: 0, 200: 1}[image[0, 0, 0]] for image in x] == y.tolist()
    with pytest.raises(FileNotFoundError, match="has no `train`"):
        data.load(str(tmp_path / "val"), {})


# --- Rates ----------------------------------------------------------------------------


def test_1cycle_goes_from_a_tenth_to_three_and_is_annihilated():
    (scheduler,) = importing("reproduce.one_cycle").make_callbacks("1cycle", 0.1)
    rates = scheduler.schedules["learning_rate"].bind(1000, 50).curve(1001)
    np.testing.assert_allclose(
        rates[[0, 450, 900, 1000]], [0.1, 3.0, 0.1, 0.001], rtol=1e-6
    )
    momenta = scheduler.mirrored.bind(1000, 50).curve(1001)
    np.testing.assert_allclose(momenta[[0, 450, 900]], [0.95, 0.85, 0.95], rtol=1e-6)


def test_imagenet_has_a_tenth_every_thirty_epochs():
    steps = importing("reproduce.imagenet_steps").make_schedule(
        "steps at 30 and 60", 0.1
    )
    rates = steps.bind(90 * 5005, 5005).curve(90 * 5005)[::5005]
    np.testing.assert_allclose(
        rates, [0.1] * 30 + [0.01] * 30 + [0.001] * 30, rtol=1e-6
    )


def test_the_rates_of_a_grid_are_compared_by_what_was_held_out(tmp_path):
    rex = importing("reproduce.rex")
    options = argparse.Namespace(rates=[0.01, 0.1])
    for rate, error in ((0.01, 30.0), (0.1, 20.0)):
        name = runs.file_name(rex.searched(20, 5, "REX", rate))
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({"error": error}))
    assert rex.best_rate((20, 5, "REX"), options, tmp_path / "other") == 0.1


def test_the_notebooks_rule_is_a_step_early():
    """The loop of the notebook: an average from 0, divided one step early."""
    vit = importing("reproduce.tutorial_vit")
    decay, beta, rate = 0.99, vit.BETA, 0.05
    start, target = np.array([[1.0], [-2.0]]), np.array([[0.3], [0.7]])
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((2,)), dense])
    dense.kernel.assign(start)
    optimizer = vit.make_literal(rate, decay)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    x = np.random.default_rng(0).normal(size=(12, 8, 2)).astype("float32")

    z, average, second = start.copy(), np.zeros((2, 1)), np.zeros((2, 1))
    for step in range(12):
        y = (1 - beta) * z + beta * average / (1 - decay ** (step + 1))
        if step == 0:
            np.testing.assert_allclose(y, 0.1 * start)
        gradient = 2.0 * x[step].T @ (x[step] @ y - x[step] @ target) / 8
        second = 0.999 * second + 0.001 * gradient**2
        z -= rate * gradient / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-7)
        average = decay * average + (1 - decay) * z
        model.train_on_batch(x[step], x[step] @ target)
    following = (1 - beta) * z + beta * average / (1 - decay**13)
    np.testing.assert_allclose(dense.kernel.numpy(), following, rtol=1e-3)
    vit.use_average(optimizer, model.trainable_variables, decay)
    np.testing.assert_allclose(
        dense.kernel.numpy(), average / (1 - decay**12), rtol=1e-3
    )


# --- Whole recipes --------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_small_and_reports(name, tmp_path, capsys):
    folder = tmp_path / "runs"
    logs = tmp_path / "logs"
    command.main(
        [name, "--quick", "--directory", str(folder), "--log-dir", str(logs)]
        + (["--literal"] if name == "tutorial_vit" else [])
    )
    printed = capsys.readouterr().out
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert table.strip() in printed
    assert "it shows only that it runs" in table
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["rows"]
    for cells in [*results["rows"], *results["published"]["rows"]]:
        assert all(cell in table for cell in cells)
    for training in results["trainings"].values():
        assert 0.0 <= training["error"] <= 100.0
        assert math.isfinite(training["loss"])
        assert training["curves"]
    assert len(list(logs.iterdir())) == len(results["trainings"])
    if RECIPES[name].draw is not None:
        assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def in_float64():
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.usefixtures("in_float64")  # A high rate makes a per cent of rounding.
def test_without_weight_decay_the_losses_are_the_same(tmp_path):
    command.main(["texp", "--quick", "--directory", str(tmp_path / "runs")])
    results = json.loads((tmp_path / "runs" / "results.json").read_text())["trainings"]
    for kind, plain in (("constant rate", "ExpLR"), ("step decay", "TEXP")):
        ours = results[f"{kind}, {plain}, seed 1"]["curves"]
        theirs = results[f"{kind}, with weight decay, seed 1"]["curves"]
        for one, other in zip(ours, theirs, strict=True):
            # But for the epsilon of the normalization.
            assert one["cross_entropy"] == pytest.approx(
                other["cross_entropy"], rel=1e-5
            )
            assert one["norm"] > other["norm"]


def test_an_interrupted_recipe_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    options = ["one_cycle", "--quick", "--iterations", "12", "--baseline", "4"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    command.main([*options, "--directory", str(straight)])
    make_clock = runs.make_clock

    def interrupting():
        clock = make_clock()

        class Interrupting(type(clock)):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 1:
                    raise KeyboardInterrupt

        clock.__class__ = Interrupting
        return clock

    with monkeypatch.context() as patch:
        patch.setattr(runs, "make_clock", interrupting)
        with pytest.raises(KeyboardInterrupt):
            command.main([*options, "--directory", str(broken)])
    command.main([*options, "--directory", str(broken), "--resume"])
    ours, theirs = (
        json.loads((folder / "results.json").read_text())["trainings"]
        for folder in (broken, straight)
    )
    for name, training in ours.items():
        assert training["curves"] == theirs[name]["curves"]
        assert training["loss"] == theirs[name]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rex", "--depths", "21"], "--depths must be 6 n + 2. Received: 21"),
        (["rex", "--budgets", "0"], "--budgets must be in (0, 100]"),
        (["snapshots", "--epochs", "7"], "--epochs must be a multiple of --cycles, 5"),
        (["imagenet_steps", "--data", "cifar10"], "--data must be a folder"),
        (["tutorial_vit", "--methods", "adam"], "--methods: there is no 'adam', but"),
        (["one_cycle", "--steps", "0"], "--steps must be at least 1"),
    ],
)
def test_wrong_options_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_the_program_lists_its_recipes():
    text = (ROOT / "examples" / "reproduce" / "__main__.py").read_text()
    assert all(f"examples/reproduce {name}" in text for name in RECIPES)
