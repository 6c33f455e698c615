"""An ensemble predicts the mean of its members' outputs; NumPy says what that is."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_lrs._keras.weights import set_weights
from keras_lrs.ensembles.ensemble import Ensemble, Member

BACKEND = keras.backend.backend()
L = keras.layers
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def members_and_data():
    """The same, whatever was tested before."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def mlp():
    return keras.Sequential(
        [
            keras.Input((6,)),
            L.Dense(8, activation="relu"),
            L.BatchNormalization(),
            L.Dropout(0.5),
            L.Dense(3, activation="softmax"),
        ]
    )


def convnet():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(4, 3),
            L.BatchNormalization(),
            L.GlobalAveragePooling2D(),
            L.Dense(3, activation="softmax"),
        ]
    )


def several():
    """Two inputs and two outputs, by name."""
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    both = L.Concatenate()([L.Dense(5)(a), L.Dense(3)(b)])
    outputs = {"mean": L.Dense(1)(both), "kind": L.Dense(3, activation="softmax")(both)}
    return keras.Model({"a": a, "b": b}, outputs)


def nested():
    inner = keras.Sequential([keras.Input((6,)), L.Dense(4), L.LayerNormalization()])
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(2)(inner(inputs) + inner(2.0 * inputs)))


def embedding():
    return keras.Sequential(
        [keras.Input((5,), dtype="int32"), L.Embedding(7, 4), L.GRU(3), L.Dense(1)]
    )


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, width=4, **arguments):
        super().__init__(**arguments)
        self.width = width
        self.hidden = L.Dense(width)
        self.last = L.Dense(2)

    def call(self, inputs):
        return self.last(keras.ops.tanh(self.hidden(inputs)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


def data(name, count=37):
    if name == "convnet":
        return RNG.normal(size=(count, 8, 8, 1)).astype("float32")
    if name == "several":
        return {
            "a": RNG.normal(size=(count, 4)).astype("float32"),
            "b": RNG.normal(size=(count, 2)).astype("float32"),
        }
    if name == "embedding":
        return RNG.integers(0, 7, (count, 5))
    return RNG.normal(size=(count, 6)).astype("float32")


MODELS = {
    make.__name__: make
    for make in (mlp, convnet, several, nested, embedding, subclassed)
}


def ensemble_of(model, count=3, activation=None):
    """Members with random weights."""
    members = []
    for number in range(1, count + 1):
        values = []
        for variable in model.variables:
            value = keras.ops.convert_to_numpy(variable.value)
            if value.dtype.kind == "f":
                value = value + RNG.normal(scale=0.3, size=value.shape)
                value = np.abs(value) if "variance" in variable.path else value
                value = value.astype(variable.dtype)
            values.append(value)
        file = f"snapshot-{number:04d}.weights.h5"
        metrics = {"loss": 1.0 / number}
        members.append(Member(file, 10 * number, number, True, 0.01, metrics, values))
    return Ensemble(model, members, activation)


def alone(ensemble, x, **arguments):
    """The outputs of `model.predict` with the weights of each member."""
    model = ensemble.model
    own = [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.variables]
    outputs = []
    for member in ensemble:
        set_weights(model, member.values)
        outputs.append(model.predict(x, verbose=0, **arguments))
    set_weights(model, own)
    return outputs


def assert_close(ours, theirs):
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs
    )


def mean(outputs, weights=None):
    return keras.tree.map_structure(
        lambda *ys: np.average(ys, axis=0, weights=weights), *outputs
    )


class TestPredict:
    @pytest.mark.parametrize("name", MODELS)
    def test_is_the_mean_of_the_members(self, name):
        ensemble, x = ensemble_of(MODELS[name]()), data(name)
        before = ensemble.model.get_weights()
        outputs = alone(ensemble, x)
        assert_close(ensemble.predict(x, verbose=0), mean(outputs))
        assert_close(ensemble.predict(x, last=2, verbose=0), mean(outputs[1:]))
        weights = [1.0, 0.0, 3.0]
        assert_close(
            ensemble.predict(x, weights=weights, batch_size=10, verbose=0),
            mean(outputs, weights),
        )
        assert_close(ensemble.predict(x, last=1, weights=[5], verbose=0), outputs[-1])
        for ours, theirs in zip(before, ensemble.model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("name", MODELS)
    def test_of_every_member(self, name):
        ensemble, x = ensemble_of(MODELS[name]()), data(name)
        stacked = keras.tree.map_structure(
            lambda *ys: np.stack(ys), *alone(ensemble, x)
        )
        assert_close(ensemble.predict_members(x, batch_size=8, verbose=0), stacked)

    def test_of_all_kinds_of_data(self):
        ensemble, x = ensemble_of(mlp()), data("mlp", 40)
        expected = mean(alone(ensemble, x))

        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 5

            def __getitem__(self, index):
                return (x[8 * index : 8 * index + 8],)

        def generator():
            for index in range(5):
                yield (x[8 * index : 8 * index + 8],)

        kinds = [Batches(), generator(), keras.ops.convert_to_tensor(x)]
        if BACKEND == "tensorflow":
            import tensorflow as tf

            kinds.append(tf.data.Dataset.from_tensor_slices(x).batch(7))
        if BACKEND == "torch":
            import torch

            tensors = torch.utils.data.TensorDataset(torch.from_numpy(x))
            kinds.append(torch.utils.data.DataLoader(tensors, batch_size=7))
        for kind in kinds:
            steps = None if not hasattr(kind, "send") else 5
            assert_close(ensemble.predict(kind, steps=steps, verbose=0), expected)

    def test_averages_probabilities_of_a_model_that_gives_logits(self):
        model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
        ensemble, x = ensemble_of(model, activation="softmax"), data("mlp")
        logits = np.stack(alone(ensemble, x)).astype("float64")
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = powers / powers.sum(-1, keepdims=True)
        assert_close(ensemble.predict(x, verbose=0), probabilities.mean(0))
        assert_close(ensemble.predict_members(x, verbose=0), probabilities)
        assert_close(ensemble[1:].predict(x, verbose=0), probabilities[1:].mean(0))

    @pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
    def test_of_sixteen_bits_is_averaged_in_32(self, dtype):
        keras.config.set_dtype_policy(dtype)
        try:
            model = mlp()
        finally:
            keras.config.set_dtype_policy("float32")
        ensemble, x = ensemble_of(model), data("mlp")
        outputs = [np.asarray(y, "float32") for y in alone(ensemble, x)]
        found = ensemble.predict(x, verbose=0)
        assert found.dtype == "float32"
        # The members themselves are rounded differently when compiled together.
        resolution = 2.0 ** (-10 if dtype == "mixed_float16" else -7)
        np.testing.assert_allclose(found, mean(outputs), atol=4 * resolution)

    def test_of_a_model_with_a_predict_step_of_its_own(self):
        class Doubled(keras.Sequential):
            def predict_step(self, *arguments):
                found = super().predict_step(*arguments)
                if BACKEND == "jax":
                    return 2.0 * found[0], found[1]
                return 2.0 * found

        model = Doubled([keras.Input((6,)), L.Dense(3)])
        ensemble, x = ensemble_of(model), data("mlp")
        before = model.get_weights()
        expected = mean(alone(ensemble, x))
        assert_close(ensemble.predict(x, verbose=0), expected)
        assert ensemble.predict_members(x, verbose=0).shape == (3, 37, 3)
        for ours, theirs in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(TypeError, match="`x` must be data that can be read"):
            ensemble.predict(iter([(x,)]), verbose=0)

    @pytest.mark.skipif(BACKEND != "torch", reason="a module of PyTorch")
    def test_of_a_model_with_modules_of_pytorch(self):
        import torch

        wrapped = L.TorchModuleWrapper(torch.nn.Linear(6, 3))
        model = keras.Sequential([keras.Input((6,)), wrapped])
        ensemble, x = ensemble_of(model), data("mlp")
        outputs = alone(ensemble, x)
        assert np.abs(outputs[0] - outputs[1]).max() > 0.01
        assert_close(ensemble.predict(x, verbose=0), mean(outputs))

    def test_after_one_that_was_interrupted(self):
        class Broken(keras.utils.PyDataset):
            def __len__(self):
                return 3

            def __getitem__(self, index):
                if index == 2:
                    raise RuntimeError("no more")
                return (x[:8],)

        ensemble, x = ensemble_of(mlp()), data("mlp")
        with pytest.raises(Exception, match="no more"):
            ensemble.predict(Broken(), verbose=0)
        assert_close(ensemble.predict(x, verbose=0), mean(alone(ensemble, x)))

    def test_shows_its_progress(self, capsys):
        ensemble = ensemble_of(mlp())
        ensemble.predict(data("mlp"), verbose=1)
        assert "2/2" in capsys.readouterr().out

    def test_compiles_once(self):
        ensemble, x = ensemble_of(mlp()), data("mlp")
        ensemble.predict(x, verbose=0)
        joints = dict(ensemble._runner.joints)
        functions = [joint.predict_function for joint in joints.values()]
        ensemble.predict(x, weights=[1, 2, 3], verbose=0)
        assert ensemble._runner.joints == joints
        assert [joint.predict_function for joint in joints.values()] == functions

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"last": 0}, "`last` must be > 0"),
            ({"last": 4}, "`last` must be <= 3"),
            ({"weights": [1.0]}, r"`weights` must have an element per member \(3\)"),
            ({"weights": [1, -1, 1]}, "`weights` must be >= 0"),
            ({"weights": [0, 0, 0]}, "`weights` must be >= 0 and not all be 0"),
            ({"weights": [1, 1, np.nan]}, "`weights` must be finite"),
        ],
        ids=str,
    )
    def test_refuses_what_makes_no_mean(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ensemble_of(mlp()).predict(data("mlp"), verbose=0, **arguments)


class TestEvaluate:
    def test_is_of_the_mean(self):
        model = mlp()
        model.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"]
        )
        ensemble, x = ensemble_of(model), data("mlp")
        y = RNG.integers(0, 3, len(x))
        outputs = mean(alone(ensemble, x))
        loss = -np.mean(np.log(outputs[np.arange(len(x)), y]))
        accuracy = np.mean(outputs.argmax(1) == y)
        found = ensemble.evaluate(x, y, verbose=0, return_dict=True)
        assert found == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-5)
        assert ensemble.evaluate(x, y, verbose=0) == pytest.approx([loss, accuracy])

    def test_knows_that_probabilities_are_no_logits(self):
        model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss)
        ensemble, x = ensemble_of(model, activation="softmax"), data("mlp")
        y = RNG.integers(0, 3, len(x))
        outputs = ensemble.predict(x, verbose=0)
        expected = -np.mean(np.log(outputs[np.arange(len(x)), y]))
        assert ensemble.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)
        assert loss.from_logits

    def test_needs_a_compiled_model(self):
        with pytest.raises(ValueError, match="Compile the model"):
            ensemble_of(mlp()).evaluate(data("mlp"), verbose=0)


class TestMembers:
    def test_are_counted_listed_and_sliced(self):
        ensemble = ensemble_of(mlp())
        assert len(ensemble) == 3
        assert [member.step for member in ensemble] == [10, 20, 30]
        assert ensemble[-1].step == 30
        assert [member.step for member in ensemble[::2]] == [10, 30]
        assert ensemble.members[1] == {
            "file": "snapshot-0002.weights.h5",
            "step": 20,
            "cycle": 2,
            "complete": True,
            "learning_rate": 0.01,
            "loss": 0.5,
        }
        assert "steps=[10, 20, 30]" in repr(ensemble)
        with pytest.raises(ValueError, match="`members` must hold a member"):
            ensemble[3:]

    def test_a_notebook_shows_a_table_of_them(self):
        ensemble = ensemble_of(mlp(), 2)
        ensemble[1].metrics["<f1>"] = 0.123456  # Of the second alone.
        shown = ensemble._repr_html_()
        rows = [
            re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in shown.split("<tr>")[1:]
        ]
        assert rows == [
            [
                *("file", "step", "cycle", "complete", "learning_rate", "loss"),
                "&lt;f1&gt;",
            ],
            ["snapshot-0001.weights.h5", "10", "1", "True", "0.01", "1", ""],
            ["snapshot-0002.weights.h5", "20", "2", "True", "0.01", "0.5", "0.1235"],
        ]


def linear(values):
    """An ensemble whose members give constants, whatever they are given."""
    model = keras.Sequential([keras.Input((1,)), L.Dense(1)])
    members = [
        Member("", i, i, True, 0.0, {}, [np.zeros((1, 1)), np.array([value])])
        for i, value in enumerate(values)
    ]
    return Ensemble(model, members)


class TestGreedy:
    def test_adds_what_makes_the_mean_better(self):
        # Towards 0: 1 is best alone; with -2 it is -0.5, with 3 then 2/3: worse.
        x, y = np.zeros((4, 1)), np.zeros((4, 1))
        chosen = linear([5.0, 1.0, -2.0, 3.0]).greedy(x, y, "mse", verbose=0)
        assert [member.step for member in chosen] == [1, 2]

    @pytest.mark.parametrize(
        ("metric", "mode"),
        [
            ("mae", "auto"),
            (keras.losses.MeanSquaredError(), "auto"),
            (keras.metrics.MeanSquaredError(), "auto"),
            (lambda y, p: np.mean(np.abs(y - p)), "min"),
            (lambda y, p: -np.mean(np.abs(y - p)), "max"),
        ],
        ids=["name", "loss", "metric", "function", "maximized function"],
    )
    def test_takes_all_kinds_of_metrics(self, metric, mode):
        x, y = np.zeros((4, 1)), np.zeros((4, 1))
        chosen = linear([5.0, 1.0, -2.0, 3.0]).greedy(x, y, metric, mode, verbose=0)
        assert [member.step for member in chosen] == [1, 2]

    @pytest.mark.parametrize("one_hot", [False, True])
    def test_maximizes_accuracy(self, one_hot):
        ensemble, x = ensemble_of(mlp(), 4), data("mlp", 60)
        outputs = ensemble.predict_members(x, verbose=0)
        y = outputs[2].argmax(-1)  # Which one member knows by heart.
        targets = np.eye(3)[y] if one_hot else y
        chosen = ensemble.greedy(x, targets, verbose=0)
        assert [member.step for member in chosen] == [30]

    def test_refuses_modes_and_metrics_that_are_none(self):
        x = np.zeros((2, 1))
        with pytest.raises(
            ValueError, match="`mode` must be one of 'auto', 'min', 'max'"
        ):
            linear([1.0]).greedy(x, x, "mse", "best", verbose=0)
        with pytest.raises(ValueError, match="NaN for every member"):
            linear([np.nan]).greedy(x, x, "mse", verbose=0)
        for metric in (keras.layers.Dense(1), lambda x: 0.0, lambda y, x: None):
            with pytest.raises(ValueError, match="`mode` must be 'max' or 'min'"):
                linear([1.0]).greedy(x, x, metric, verbose=0)
            with pytest.raises(ValueError, match="`metric` must be a metric for these"):
                linear([1.0]).greedy(x, x, metric, "min", verbose=0)


class TestAverageWeights:
    @pytest.mark.parametrize("name", MODELS)
    def test_is_the_mean_of_what_is_a_float(self, name):
        ensemble = ensemble_of(MODELS[name]())
        before = ensemble.model.get_weights()
        soup = ensemble.average_weights()
        members = [member.values for member in ensemble]
        for variable, *values in zip(soup.variables, *members, strict=True):
            found = keras.ops.convert_to_numpy(variable.value)
            if found.dtype.kind == "f":
                np.testing.assert_allclose(found, np.mean(values, 0), atol=1e-6)
            else:
                np.testing.assert_array_equal(found, values[-1])
        assert not soup.compiled
        for ours, theirs in zip(before, ensemble.model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


class TestToModel:
    @pytest.mark.parametrize("name", MODELS)
    def test_predicts_as_the_ensemble_and_after_saving(self, name, tmp_path):
        ensemble, x = ensemble_of(MODELS[name]()), data(name)
        path = tmp_path / "model.keras"
        expected = ensemble.predict(x, last=2, weights=[1.0, 3.0], verbose=0)
        model = ensemble.to_model(last=2, weights=[1.0, 3.0])
        assert_close(model.predict(x, verbose=0), expected)
        model.save(path)
        loaded = keras.saving.load_model(path)
        assert_close(loaded.predict(x, verbose=0), expected)

    def test_of_all_members_or_of_one(self):
        ensemble, x = ensemble_of(mlp()), data("mlp")
        for last in (None, 1):
            expected = ensemble.predict(x, last=last, verbose=0)
            model = ensemble.to_model(last=last)
            assert_close(model.predict(x, verbose=0), expected)

    @pytest.mark.slow
    def test_loads_without_this_library(self, tmp_path):
        ensemble = ensemble_of(mlp(), activation=None)
        x = data("mlp")
        ensemble.to_model(weights=[1, 2, 3]).save(tmp_path / "model.keras")
        np.save(tmp_path / "x.npy", x)
        code = (
            "import sys, keras, numpy as np\n"
            "model = keras.saving.load_model(sys.argv[1] + '/model.keras')\n"
            "y = model.predict(np.load(sys.argv[1] + '/x.npy'), verbose=0)\n"
            "assert 'keras_lrs' not in sys.modules\n"
            "np.save(sys.argv[1] + '/y.npy', y)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        expected = ensemble.predict(x, weights=[1, 2, 3], verbose=0)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)

    def test_averages_what_the_activation_gives(self):
        model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
        ensemble, x = ensemble_of(model, activation="softmax"), data("mlp")
        expected = ensemble.predict(x, verbose=0)
        assert_close(ensemble.to_model().predict(x, verbose=0), expected)

    def test_can_be_trained_further(self):
        keras.utils.set_random_seed(0)  # The masks of dropout make the loss noisy.
        ensemble, x = ensemble_of(mlp()), data("mlp")
        model = ensemble.to_model()
        y = RNG.integers(0, 3, len(x))
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        assert len(model.trainable_variables) == 3 * 6
        before = model.get_weights()
        losses = model.fit(x, y, epochs=20, verbose=0).history["loss"]
        changed = [
            np.abs(a - b).max() > 0.0
            for a, b in zip(before, model.get_weights(), strict=True)
        ]
        assert all(changed)
        assert losses[-1] < losses[0]

    @pytest.mark.skipif(BACKEND == "torch", reason="needs what PyTorch's export needs")
    def test_can_be_served(self, tmp_path):
        tf = pytest.importorskip("tensorflow")
        ensemble, x = ensemble_of(mlp()), data("mlp", 5)
        ensemble.to_model().export(tmp_path / "served", verbose=False)
        served = tf.saved_model.load(str(tmp_path / "served"))
        expected = ensemble.predict(x, verbose=0)
        np.testing.assert_allclose(served.serve(x).numpy(), expected, atol=1e-5)

    def test_of_an_own_class_that_says_too_little(self):
        class Silent(keras.Model):
            def __init__(self, width):
                super().__init__()
                self.dense = L.Dense(width)

            def call(self, inputs):
                return self.dense(inputs)

        model = Silent(2)
        model(np.zeros((1, 6), "float32"))
        with pytest.raises(ValueError, match="`Silent` cannot be cloned"):
            ensemble_of(model).average_weights()
