"""Tests that the full-size examples train, report and go on after an interruption."""

import json
import re

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import keras_lrs as lrs
from tests.programs import load_program

pytestmark = [pytest.mark.only("torch"), pytest.mark.program]

load_program("examples/reproduce.command")  # The programs import the augmentation late.
resnet = load_program("examples/cifar10_resnet")
tinyvit = load_program("examples/cifar10_tinyvit")


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """Three steps per epoch, of 16 images."""
    (x, y), (x_test, y_test) = resnet.quickstart.load_data()
    data = (x[:50], y[:50]), (x_test[:32], y_test[:32])
    for example in (resnet, tinyvit):
        monkeypatch.setattr(example.quickstart, "load_data", lambda: data)


DIGITS = ["--dataset", "digits", "--batch-size", "16", "--directory"]
RESNET = ["--epochs", "4", "--schedule", "sgdr", "--snapshots", "--cycles", "2"]


def small_transformer(monkeypatch, dropout):
    network = {"patch": 4, "width": 8, "depth": 1, "heads": 2, "dropout": dropout}
    setting = tinyvit.averaging.Setting(4, 16, network)
    for dataset in ("digits", "cifar10"):
        monkeypatch.setitem(tinyvit.averaging.SETTINGS, ("vit", dataset), setting)


def interrupt(monkeypatch, example, when):
    """Lets the trainings end with a `KeyboardInterrupt`, at an epoch and a batch."""
    make_clock = example.runs.make_clock

    def interrupting_clock():
        clock = make_clock()

        class Interrupting(type(clock)):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch
                super().on_epoch_begin(epoch, logs)

            def on_train_batch_end(self, batch, logs=None):
                if (self.epoch, batch) == when:
                    raise KeyboardInterrupt

        clock.__class__ = Interrupting
        return clock

    monkeypatch.setattr(example.runs, "make_clock", interrupting_clock)


def final_weights(directory, name):
    path = directory / "trainings" / name / "model.keras"
    model = keras.saving.load_model(path, compile=False)
    return [np.array(weights) for weights in model.get_weights()]


def scalars(folder):
    """The values of all tags in all files of a folder, by step."""
    found = {}
    for file in folder.iterdir():
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            values = {each.step: each.value for each in events.Scalars(tag)}
            found.setdefault(tag, {}).update(values)
        for tag in events.Tags()["tensors"]:
            values = {e.step: tensor_value(e) for e in events.Tensors(tag)}
            found.setdefault(tag, {}).update(values)
    return found


def tensor_value(event):
    return float(tensor_util.make_ndarray(event.tensor_proto))


# --- The residual network -------------------------------------------------------------


def test_the_table_has_accuracy_and_time_of_every_schedule(tmp_path, capsys):
    schedule = "REXDecay(0.05, beta=0.7)"
    options = [*DIGITS, str(tmp_path / "runs"), "--epochs", "1", "--schedule"]
    resnet.main([*options, "one_cycle", schedule])
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\S.*?) +([\d.]+) % +([\d.]+) ms$", printed, re.M)
    assert [name for name, _, _ in rows] == ["one_cycle", schedule]
    for _, accuracy, time in rows:
        assert 0.0 <= float(accuracy) <= 100.0
        assert float(time) > 0.0
    assert "momentum" in printed  # Of the epochs of one_cycle.


def test_an_interrupted_training_ends_as_if_it_had_not_been(
    tmp_path, capsys, monkeypatch
):
    logs = tmp_path / "logs"
    straight = tmp_path / "straight"
    resnet.main([*DIGITS, str(straight), *RESNET, "--log-dir", str(logs / "straight")])
    table = capsys.readouterr().out
    assert re.search(r"ensemble of 2: [\d.]+ %$", table, re.M)

    directory = tmp_path / "interrupted"
    options = [*DIGITS, str(directory), *RESNET, "--log-dir", str(logs / "resumed")]
    with monkeypatch.context() as patch:
        interrupt(patch, resnet, when=(2, 1))
        with pytest.raises(KeyboardInterrupt):
            resnet.main(options)
    assert not (directory / "trainings" / "sgdr" / "result.json").exists()
    resnet.main([*options, "--resume"])
    resumed = capsys.readouterr().out
    assert "Epoch 3/4" in resumed
    assert resumed.index("Epoch 1/4") < resumed.index("Epoch 3/4")
    assert resumed.count("Epoch 1/4") == 1  # Before it was interrupted.
    for ours, theirs in zip(
        final_weights(directory, "sgdr"), final_weights(straight, "sgdr"), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for name in ("snapshot-0001", "snapshot-0002"):
        file = f"trainings/sgdr/snapshots/{name}.weights.h5"
        assert (directory / file).exists()
        assert (straight / file).exists()
    ours, theirs = (scalars(logs / name / "sgdr") for name in ("resumed", "straight"))
    assert ours["learning_rate"] == theirs["learning_rate"]
    assert ours["epoch/learning_rate"] == pytest.approx(theirs["epoch/learning_rate"])

    # What is finished is not trained again.
    resnet.main([*options, "--resume"])
    again = capsys.readouterr().out
    assert "sgdr: finished before" in again
    assert "Epoch" not in again
    assert again.splitlines()[-1] == resumed.splitlines()[-1]


def test_tensorboard_shows_losses_and_the_rate_along_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(resnet.runs, "EVERY", 2)
    options = [*DIGITS, str(tmp_path / "runs"), "--epochs", "2"]
    resnet.main([*options, "--schedule", "linear", "--log-dir", str(tmp_path / "logs")])
    found = scalars(tmp_path / "logs" / "linear")
    expected = lrs.schedules.LinearDecay(0.1, 6).curve(6)
    assert found["learning_rate"] == pytest.approx({s: expected[s] for s in (0, 2, 4)})
    assert found["epoch/learning_rate"] == pytest.approx(
        {1: expected[2], 2: expected[5]}
    )
    for tag in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert list(found[f"epoch/{tag}"]) == [1, 2]


def test_a_resumed_epoch_has_the_same_batches_and_another_one_others():
    x, y = resnet.quickstart.load_data()[0]
    batches = resnet.runs.make_batches((x, np.arange(len(y))), 16, seed=1)
    assert len(batches) == 3
    first = [batches[index] for index in range(3)]
    batches.begin(1)
    assert not np.array_equal(batches[0][1], first[0][1])
    batches.begin(0)
    for index in range(3):
        np.testing.assert_array_equal(batches[index][0], first[index][0])
        np.testing.assert_array_equal(batches[index][1], first[index][1])
        # On the host they are taken from the data, and nothing else is done.
        np.testing.assert_array_equal(x[first[index][1]], first[index][0])


def test_images_are_moved_and_mirrored_by_the_model_and_nothing_else():
    x = np.random.default_rng(0).normal(size=(200, 8, 8, 3)).astype("float32")
    network = resnet.make_model("cifar10", 8, x.shape[1:])
    layer = network.layers[1]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(x)), x)
    images = keras.ops.convert_to_numpy(layer(x, training=True))
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    seen = set()
    for number, image in enumerate(images):
        moves = [
            (down, right, step)
            for down in range(9)
            for right in range(9)
            for step in (1, -1)
            if np.array_equal(
                padded[number, down : down + 8, right : right + 8][:, ::step], image
            )
        ]
        assert len(moves) == 1
        seen.update(moves)
    assert (
        {down for down, _, _ in seen} == {right for _, right, _ in seen} == {*range(9)}
    )
    assert {step for _, _, step in seen} == {1, -1}


def test_digits_are_moved_by_a_pixel_and_not_mirrored():
    layer = resnet.make_model("digits", 6, (8, 8, 1)).layers[1]
    assert (layer.pixels, layer.mirror) == (1, False)


def test_every_name_is_a_schedule_with_this_peak_and_so_is_a_call(capsys):
    named = resnet.named_schedules(0.1, cycles=3)
    for name, schedule in named.items():
        curve = schedule.bind(100, 10).curve(100)
        assert curve.max() == pytest.approx(0.1, rel=0.01), name
    with pytest.raises(SystemExit):
        resnet.main(["--help"])
    printed = capsys.readouterr().out
    assert all(re.search(rf"\b{name}\b", printed) for name in named)
    assert named["sgdr"].bind(99, 33).cycle_ends(99) == [33, 66, 99]
    assert named["triangular"].bind(90, 30).cycle_ends(90) == [30, 60, 90]
    call = resnet.make_schedule("Warmup(REXDecay(0.1), Epochs(5))", 0.3, 1)
    assert call == lrs.schedules.Warmup(lrs.schedules.REXDecay(0.1), lrs.Epochs(5))


def test_color_images_train_a_resnet_20_in_mixed_precision(
    tmp_path, monkeypatch, capsys
):
    made_images(monkeypatch)
    monkeypatch.setitem(resnet.WIDTHS, "cifar10", (4, 4, 4))
    model = resnet.make_model("cifar10", 38, (32, 32, 3))
    weighted = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense)
        or (isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3))
    ]
    assert len(weighted) == 38
    options = "--epochs 1 --batch-size 8 --depth 8 --mixed-precision bfloat16"
    resnet.main([*options.split(), "--directory", str(tmp_path / "runs")])
    assert re.search(r"^cosine +[\d.]+ % +[\d.]+ ms$", capsys.readouterr().out, re.M)
    assert keras.config.dtype_policy().name == "float32"
    path = tmp_path / "runs" / "trainings" / "cosine" / "model.keras"
    saved = keras.saving.load_model(path, compile=False)
    assert {layer.compute_dtype for layer in saved.layers} == {"bfloat16", "float32"}


def made_images(monkeypatch):
    rng = np.random.default_rng(0)
    made = tuple(
        (
            rng.integers(0, 256, (size, 32, 32, 3), "uint8"),
            rng.integers(0, 10, (size, 1), "uint8"),
        )
        for size in (16, 8)
    )
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: made)


# --- The vision transformer -----------------------------------------------------------


def test_the_table_has_every_method_and_shorter_budgets(tmp_path, monkeypatch, capsys):
    small_transformer(monkeypatch, dropout=0.1)
    methods = ["linear-decay-50", "ema-10"]
    tinyvit.main([*DIGITS, str(tmp_path / "runs"), "--methods", *methods])
    printed = capsys.readouterr().out
    rows = re.findall(
        r"^(\S.*?) {2,}(\d+) +([\d.]+) +([\d.]+) % +([\d.]+) ms$", printed, re.M
    )
    assert [row[:2] for row in rows] == [
        ("linear decay, 50 %", "2"),
        ("EMA, 10 %", "4"),
    ]
    for _, _, loss, accuracy, time in rows:
        assert 0.0 < float(loss) < 10.0
        assert 0.0 <= float(accuracy) <= 100.0
        assert float(time) > 0.0


@pytest.mark.parametrize("method", ["ema-10", "schedule-free-exponential"])
def test_an_interrupted_average_goes_on(method, tmp_path, monkeypatch, capsys):
    small_transformer(monkeypatch, dropout=0.1)
    straight, directory = tmp_path / "straight", tmp_path / "interrupted"
    options = ["--methods", method]
    tinyvit.main([*DIGITS, str(straight), *options])
    with monkeypatch.context() as patch:
        interrupt(patch, tinyvit, when=(3, 0))
        with pytest.raises(KeyboardInterrupt):
            tinyvit.main([*DIGITS, str(directory), *options])
    capsys.readouterr()
    tinyvit.main([*DIGITS, str(directory), *options, "--resume"])
    printed = capsys.readouterr().out
    assert "Epoch 4/4" in printed
    assert "Epoch 3/4" not in printed
    for ours, theirs in zip(
        final_weights(directory, method), final_weights(straight, method), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_color_images_train_the_transformer(tmp_path, monkeypatch, capsys):
    made_images(monkeypatch)
    small_transformer(monkeypatch, dropout=0.1)
    options = ["--batch-size", "8", "--directory", str(tmp_path / "runs")]
    tinyvit.main([*options, "--epochs", "4", "--method", "polyak-average"])
    assert re.search(r"^Polyak average +4 ", capsys.readouterr().out, re.M)


def test_all_methods_have_names_of_their_own_on_the_command_line():
    known = tinyvit.averaging.make_methods()
    assert tinyvit.chosen_methods(None, ["all"], "digits") == list(known)
    for dataset, names in tinyvit.METHODS.items():
        assert set(names) <= set(known)
        short = [tinyvit.runs.file_name(name) for name in names]
        assert tinyvit.chosen_methods(None, short, dataset) == list(names)


# --- What is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "arguments", "message"),
    [
        (resnet, ["--schedule", "rexx"], "'rexx' is no schedule: there is none of"),
        (resnet, ["--schedule", "open('x')"], "there is no keras_lrs.schedules.open"),
        (resnet, ["--schedule", "REXDecay(-1.0)"], "`initial_learning_rate` must be"),
        (resnet, ["--schedule", "0.1"], "it is no call of one"),
        (resnet, ["--schedule", "rex", "rex"], "all names must differ"),
        (resnet, ["--depth", "21"], "--depth must be 6 n + 2. Received: 21"),
        (resnet, ["--rate", "-1"], "--rate must be > 0"),
        (resnet, ["--epochs", "0"], "--epochs must be at least 1"),
        (resnet, ["--mixed-precision", "float8"], "invalid choice: 'float8'"),
        (tinyvit, ["--methods", "emma"], "--methods: there is no 'emma', but constant"),
        (tinyvit, ["--epochs", "6"], "--epochs must be a multiple of 4"),
        (tinyvit, ["--rate", "0"], "--rate must be > 0"),
    ],
)
def test_wrong_options_are_explained(
    example, arguments, message, tmp_path, monkeypatch, capsys
):
    made_images(monkeypatch)
    with pytest.raises(SystemExit):
        example.main([*arguments, "--directory", str(tmp_path / "runs")])
    assert message in capsys.readouterr().err


def test_a_training_goes_on_with_its_own_settings_only(tmp_path, capsys):
    options = [*DIGITS, str(tmp_path / "runs"), "--epochs", "1"]
    resnet.main(options)
    with pytest.raises(SystemExit):
        resnet.main([*options, "--rate", "0.2", "--resume"])
    message = "was begun with --rate 0.1, which must stay to resume. Received: 0.2"
    assert message in capsys.readouterr().err
    settings = json.loads((tmp_path / "runs" / "settings.json").read_text())
    assert settings["rate"] == 0.1


def test_a_folder_of_others_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit):
        resnet.main([*DIGITS, str(tmp_path)])
    assert f"--directory {tmp_path} holds something else" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()
