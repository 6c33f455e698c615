"""Averages of any length, reconstructed from snapshots of a real training."""

import contextlib
import hashlib

import keras
import numpy as np
import pytest

from keras_lrs import averages
from keras_lrs._storage import labels
from keras_lrs.averages import PowerFunctionAverage, snapshots
from keras_lrs.callbacks import PosthocAveraging, ResumableTraining, WeightAveraging
from tests.callbacks import references
from tests.callbacks.recording import Record
from tests.callbacks.references import STEPS, linear_model

LAST = "averages-0000000020.npz"
COMPILED = [False] if keras.backend.backend() == "torch" else [False, True]


def sgd(**arguments):
    return keras.optimizers.SGD(0.002, momentum=0.9, **arguments)


def power_average(seen, sigma):
    """The average of the weights after every update, by its definition."""
    s = np.arange(len(seen) + 1.0) / len(seen)
    weights = np.diff(s ** (PowerFunctionAverage(sigma).gamma + 1.0))
    return np.tensordot(weights, seen, axes=1)


def trajectory(num_steps):
    loop = references.SGD()
    rates = {"learning_rate": [0.002]}
    return np.array([loop.train(1, **rates).copy() for _ in range(num_steps)])


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("jit_compile", COMPILED)
def test_any_width_between_those_that_were_kept(tmp_path, jit_compile):
    model = linear_model(sgd(), jit_compile=jit_compile)
    references.fit(model, [PosthocAveraging(tmp_path)], epochs=30)
    seen = trajectory(30 * STEPS)
    last = references.weights(model)
    np.testing.assert_allclose(last, seen[-1], atol=1e-5)
    for sigma in (0.05, 0.06, 0.075, 0.09, 0.1):
        (found,) = averages.posthoc(tmp_path, sigma)
        assert error(found, power_average(seen, sigma)) <= 1e-3
    (found,) = averages.posthoc(tmp_path, 0.08, step=20 * STEPS, model=model)
    assert error(found, power_average(seen[: 20 * STEPS], 0.08)) <= 1e-3
    np.testing.assert_allclose(references.weights(model), found, atol=1e-7)


def test_the_widths_that_were_kept_are_exact(tmp_path):
    model = linear_model(sgd())
    averaging = PosthocAveraging(tmp_path, (0.15, 0.25), every=2)
    references.fit(model, [averaging], epochs=3)
    seen = trajectory(3 * STEPS)
    for sigma in (0.15, 0.25):
        for step in (2 * STEPS, 3 * STEPS):
            (found,) = averages.posthoc(tmp_path, sigma, step)
            np.testing.assert_allclose(
                found, power_average(seen[:step], sigma), atol=1e-6
            )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["averages-0000000020.npz", "averages-0000000030.npz"]


def test_a_temporary_file_of_a_killed_process_is_removed(tmp_path):
    (tmp_path / ".averages-0000000010.npz.0123abcd").write_bytes(b"half")
    references.fit(linear_model(sgd()), [PosthocAveraging(tmp_path)], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["averages-0000000010.npz"]


def test_model_and_optimizer_stay_as_they_are(tmp_path):
    model, plain = linear_model(sgd()), linear_model(sgd())
    references.fit(plain)
    references.fit(model, [PosthocAveraging(tmp_path)])
    np.testing.assert_allclose(
        references.weights(model), references.weights(plain), atol=1e-6
    )
    assert len(model.optimizer.variables) == len(plain.optimizer.variables)
    assert not model.optimizer.use_ema


def test_beside_an_average_and_with_accumulation(tmp_path):
    model = linear_model(sgd(gradient_accumulation_steps=2))
    callbacks = [WeightAveraging(at_end="raw"), PosthocAveraging(tmp_path)]
    record = Record()
    references.fit(model, [record, *callbacks])
    seen = [weights for (weights,) in record.weights]
    (found,) = averages.posthoc(tmp_path, 0.1)
    np.testing.assert_allclose(found, power_average(seen[1::2], 0.1), atol=1e-6)


@pytest.mark.parametrize("backup", [True, False])
def test_goes_on_from_its_snapshots(tmp_path, backup):
    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    folder, saved = tmp_path / "averages", tmp_path / "backup"

    def train(model, *others, **arguments):
        callbacks = [PosthocAveraging(folder, (0.15, 0.25)), *others]
        if backup:
            callbacks.append(keras.callbacks.BackupAndRestore(saved))
        references.fit(model, callbacks, 5, **arguments)

    model = linear_model(sgd())
    if backup:
        with pytest.raises(KeyboardInterrupt):
            # The snapshot of the third epoch is there, its backup is not.
            train(model, Break())
        train(linear_model(sgd()))
    else:
        references.fit(model, [PosthocAveraging(folder, (0.15, 0.25))], 3)
        train(model, initial_epoch=3)
    seen = trajectory(5 * STEPS)
    for sigma in (0.15, 0.25):
        (found,) = averages.posthoc(folder, sigma)
        np.testing.assert_allclose(found, power_average(seen, sigma), atol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ({"sigma_rels": ()}, "sigma_rels"),
            ({"sigma_rels": (0.1, 0.1)}, "sigma_rels"),
            ({"sigma_rels": (0.1, 0.5)}, "sigma_rels"),
            ({"every": 0}, "every"),
        ],
    )
    def test_of_arguments(self, tmp_path, arguments, name):
        with pytest.raises(ValueError, match=f"Argument `{name}`"):
            PosthocAveraging(tmp_path, **arguments)

    def test_of_snapshots_of_another_training(self, tmp_path):
        references.fit(linear_model(sgd()), [PosthocAveraging(tmp_path)], 1)
        with pytest.raises(ValueError, match="of another run"):
            references.fit(linear_model(sgd()), [PosthocAveraging(tmp_path)], 1)

    def test_of_snapshots_of_another_training_which_are_kept(self, tmp_path):
        """Also if this one could resume: it has nothing to resume from."""
        folder = tmp_path / "averages"
        references.fit(linear_model(sgd()), [PosthocAveraging(folder)], 2)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        other = linear_model(sgd())
        other.trainable_variables[0].assign(other.trainable_variables[0] + 1.0)
        backups = ResumableTraining(tmp_path / "run", verbose=0)
        with pytest.raises(ValueError, match="of another run"):
            references.fit(other, [backups, PosthocAveraging(folder)], 1)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_of_snapshots_of_several_runs(self, tmp_path):
        for number, folder in enumerate((tmp_path / "one", tmp_path / "other")):
            model = linear_model(sgd())
            weight = model.trainable_variables[0]
            weight.assign(weight + number)
            references.fit(model, [PosthocAveraging(folder)], 2)
        (tmp_path / "other" / LAST).rename(tmp_path / "one" / LAST)
        with pytest.raises(ValueError, match="are of different runs"):
            averages.posthoc(tmp_path / "one", 0.1)

    def test_of_a_snapshot_with_the_name_of_another(self, tmp_path):
        references.fit(linear_model(sgd()), [PosthocAveraging(tmp_path)], 2)
        (tmp_path / LAST).rename(tmp_path / "averages-0000000030.npz")
        with pytest.raises(ValueError, match=r"30.npz is damaged: .* 20 updates"):
            averages.posthoc(tmp_path, 0.1)

    def test_of_any_damage(self, tmp_path):
        """Of all bytes; only a file without its whole label is one of 0.1.0."""
        references.fit(linear_model(sgd()), [PosthocAveraging(tmp_path)], 1)
        (path,) = tmp_path.iterdir()
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(
                whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            )
            with pytest.raises(ValueError, match="is damaged"):
                snapshots.read(path)
        read = []
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            with contextlib.suppress(ValueError):
                snapshots.read(path)
                read.append(end)
        assert read == [whole.rindex(b'{"entry"')]

    @pytest.mark.parametrize(
        "label",
        [
            {},
            *(
                {"entry": entry}
                for entry in (None, [], "step", 5, {"step": 30}, {"step": 30, "run": 5})
            ),
        ],
    )
    def test_of_a_label_with_another_entry(self, tmp_path, label):
        references.fit(linear_model(sgd()), [PosthocAveraging(tmp_path)], 1)
        content, _ = labels.parted(next(tmp_path.iterdir()).read_bytes())
        sha256 = hashlib.sha256(content).hexdigest()
        path = tmp_path / "averages-0000000030.npz"
        path.write_bytes(content + labels.made(label, sha256))
        with pytest.raises(ValueError, match=r"30.npz is damaged: .* of another kind"):
            snapshots.read(path)
        backups = ResumableTraining(tmp_path / "run", verbose=0)
        with pytest.raises(ValueError, match="of another run"):
            references.fit(
                linear_model(sgd()), [backups, PosthocAveraging(tmp_path)], 1
            )

    def test_of_going_on_without_a_snapshot(self, tmp_path):
        model = linear_model(sgd())
        references.fit(model, epochs=1)
        with pytest.raises(ValueError, match="the snapshot after 10 updates"):
            references.fit(model, [PosthocAveraging(tmp_path)], 2, initial_epoch=1)

    def test_of_a_damaged_snapshot(self, tmp_path):
        references.fit(linear_model(sgd()), [PosthocAveraging(tmp_path)], 1)
        (path,) = tmp_path.iterdir()
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="is damaged"):
            averages.posthoc(tmp_path, 0.1)

    def test_of_an_empty_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no snapshots"):
            averages.posthoc(tmp_path, 0.1)

    def test_of_a_model_of_other_shapes(self, tmp_path):
        references.fit(linear_model(sgd()), [PosthocAveraging(tmp_path)], 1)
        other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        with pytest.raises(ValueError, match="shapes of the snapshots"):
            averages.posthoc(tmp_path, 0.1, model=other)
