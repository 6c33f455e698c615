"""Statistics of batch normalization against NumPy."""

import inspect

import keras
import numpy as np
import pytest

from keras_lrs.averages import recalibrate_batch_norm
from keras_lrs.callbacks import WeightAveraging

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(22, 3)) * [1.0, 2.0, 3.0] + [10.0, 0.0, -5.0]).astype("float32")
X += np.arange(22, dtype="float32")[:, None]  # The batches' means are far apart.
Y = RNG.normal(size=(22, 1)).astype("float32")
BATCH = 4  # The last has two.

BN = keras.layers.BatchNormalization


class Batches(keras.utils.PyDataset):
    def __init__(self, endless=False, **arguments):
        super().__init__(**arguments)
        self.endless = endless

    def __len__(self):
        return None if self.endless else 6

    @property
    def num_batches(self):
        return None if self.endless else 6

    def __getitem__(self, index):
        at = slice(BATCH * (index % 6), BATCH * (index % 6) + BATCH)
        return X[at], Y[at]


def generator():
    yield from (Batches()[i] for i in range(6))


def dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)


def loader():
    data = pytest.importorskip("torch.utils.data")
    torch = pytest.importorskip("torch")
    tensors = data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return data.DataLoader(tensors, batch_size=BATCH)


def normalized(x, norm):
    """The outputs of a layer in training mode, batch by batch."""
    gamma, beta = (w.astype(np.float64) for w in norm.get_weights()[:2])
    batches = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    return np.concatenate(
        [
            (b - b.mean(0)) / np.sqrt(b.var(0) + norm.epsilon) * gamma + beta
            for b in batches
        ]
    )


def assert_statistics(norm, outputs, axes=0):
    mean, variance = norm.get_weights()[-2:]
    np.testing.assert_allclose(mean, outputs.mean(axes), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variance, outputs.var(axes), rtol=1e-5, atol=1e-5)


def state(model):
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


@pytest.mark.parametrize(
    "data",
    [
        lambda: X,
        lambda: (X, Y),
        lambda: (X, Y, np.ones(22)),
        lambda: keras.ops.convert_to_tensor(X),
        dataset,
        Batches,
        lambda: Batches(workers=2),
        generator,
        loader,
    ],
    ids=[
        "array",
        "x and y",
        "weighted",
        "tensor",
        "tf.data",
        "PyDataset",
        "workers",
        "generator",
        "DataLoader",
    ],
)
def test_whatever_fit_takes(data):
    norm = BN(momentum=0.5)
    model = keras.Sequential([keras.Input((3,)), norm])
    data = data()
    arrays = isinstance(data, tuple) or hasattr(data, "shape")
    recalibrate_batch_norm(model, data, batch_size=BATCH if arrays else None)
    assert_statistics(norm, X.astype(np.float64))
    assert norm.momentum == 0.5


@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}], ids=str)
def test_layers_after_each_other_in_nested_models(settings):
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), BN()])
    norm, dense = BN(), keras.layers.Dense(5)
    layers = [keras.Input((3,)), dense, norm, keras.layers.Dropout(0.5), inner]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse", **settings)
    # Batches whose own variance is not small, by which the outputs are divided.
    x = RNG.normal(1.0, size=(24, 3)).astype("float32")
    model.fit(X, Y, BATCH, verbose=0)
    before = state(model)
    recalibrate_batch_norm(model, x, batch_size=BATCH)
    w, b = (v.astype(np.float64) for v in dense.get_weights())
    hidden = x @ w + b
    assert_statistics(norm, hidden)
    w, b = (v.astype(np.float64) for v in inner.layers[0].get_weights())
    assert_statistics(inner.layers[1], normalized(hidden, norm) @ w + b)
    for path, value in state(model).items():
        if "moving" not in path:  # Weights, and the seeds of the dropout.
            np.testing.assert_array_equal(value, before[path])
    assert [norm.momentum, inner.layers[1].momentum] == [0.99, 0.99]
    # And it still trains, by its own step.
    model.fit(X, Y, BATCH, verbose=0)
    assert all(np.isfinite(value).all() for value in state(model).values())


@pytest.mark.parametrize("how", ["list", "dict"])
def test_several_inputs(how):
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((1,), name="b")}
    norms = {name: BN() for name in inputs}
    outputs = [norms[name](x) for name, x in inputs.items()]
    inputs, data = (
        (inputs, {"a": X, "b": Y}) if how == "dict" else (list(inputs.values()), [X, Y])
    )
    model = keras.Model(inputs, keras.layers.Concatenate()(outputs))
    recalibrate_batch_norm(model, data, batch_size=BATCH)
    assert_statistics(norms["a"], X.astype(np.float64))
    assert_statistics(norms["b"], Y.astype(np.float64))


@pytest.mark.parametrize("axis", [-1, 1])
def test_images_of_any_size(axis):
    """A batch counts by its number of pixels."""
    norm = BN(axis=axis)
    shape = (2, None, None) if axis == 1 else (None, None, 2)
    model = keras.Sequential([keras.Input(shape), norm])
    batches = [RNG.normal(i, 1.0 + i, (2, 3 + i, 4, 2)) for i in range(3)]
    pixels = np.concatenate([b.reshape(-1, 2) for b in batches])

    def images():
        for batch in batches:
            batch = batch.astype("float32")
            yield (np.moveaxis(batch, -1, 1) if axis == 1 else batch,)

    recalibrate_batch_norm(model, images())
    assert_statistics(norm, pixels)


def test_means_that_are_far_from_zero():
    norm = BN()
    model = keras.Sequential([keras.Input((3,)), norm])
    x = X + np.float32(10_000.0)
    recalibrate_batch_norm(model, x, batch_size=BATCH)
    assert_statistics(norm, x.astype(np.float64))


def test_masked_elements_do_not_count():
    norm = BN()
    layers = [keras.Input((5, 3)), keras.layers.Masking(), norm]
    model = keras.Sequential(layers)
    x = RNG.normal(3.0, size=(6, 5, 3)).astype("float32")
    for i, length in enumerate([5, 1, 3, 2, 4, 1]):
        x[i, length:] = 0.0
    recalibrate_batch_norm(model, x, batch_size=2)
    assert_statistics(norm, x[x.any(-1)].astype(np.float64))


def test_a_layer_that_is_called_twice_has_the_statistics_of_both():
    norm = BN()
    a = keras.Input((3,))
    model = keras.Model(a, [norm(a), norm(a * 2.0 + 50.0)])
    recalibrate_batch_norm(model, X, batch_size=BATCH)
    both = np.concatenate([X, X * 2.0 + 50.0]).astype(np.float64)
    assert_statistics(norm, both)


@pytest.mark.skipif(
    "renorm" not in inspect.signature(BN).parameters, reason="not in this Keras"
)
def test_renormalization():
    norm = BN(renorm=True)
    model = keras.Sequential([keras.Input((3,)), norm])
    before = keras.ops.convert_to_numpy(norm.renorm_mean)
    recalibrate_batch_norm(model, X, batch_size=BATCH)
    x = X.astype(np.float64)
    found = [norm.moving_mean, norm.moving_variance, norm.moving_stddev]
    expected = [x.mean(0), x.var(0), np.sqrt(x.var(0) + norm.epsilon)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(one), other, rtol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(norm.renorm_mean), before)


def test_half_precision():
    norm = BN(dtype="mixed_float16")
    model = keras.Sequential([keras.Input((3,)), norm])
    recalibrate_batch_norm(model, X, batch_size=BATCH)
    assert_statistics(norm, X.astype("float16").astype(np.float64))


def test_a_subclassed_model():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [keras.layers.Dense(4), BN()]

        def call(self, x):
            return self.parts[1](self.parts[0](x))

    model = Model()
    with pytest.raises(ValueError, match="`model` must be built"):
        recalibrate_batch_norm(model, X)
    model(X[:2])
    recalibrate_batch_norm(model, X, batch_size=BATCH)
    w, b = (v.astype(np.float64) for v in model.parts[0].get_weights())
    assert_statistics(model.parts[1], X @ w + b)


def test_a_frozen_layer_keeps_its_statistics():
    frozen, norm = BN(), BN()
    frozen.trainable = False
    model = keras.Sequential([keras.Input((3,)), frozen, norm])
    ones = np.ones(3)
    frozen.set_weights([ones, 0.0 * ones, 2.0 * ones, 4.0 * ones])
    recalibrate_batch_norm(model, X, batch_size=BATCH)
    np.testing.assert_array_equal(frozen.get_weights()[2], 2.0 * ones)
    assert_statistics(norm, (X - 2.0) / np.sqrt(4.0 + frozen.epsilon))


def test_no_more_than_the_steps_asked_for():
    norm = BN()
    model = keras.Sequential([keras.Input((3,)), norm])
    recalibrate_batch_norm(model, Batches(endless=True), steps=2)
    assert_statistics(norm, X[: 2 * BATCH].astype(np.float64))
    recalibrate_batch_norm(model, X, batch_size=BATCH, steps=3)
    assert_statistics(norm, X[: 3 * BATCH].astype(np.float64))


def test_a_model_without_batch_normalization_is_not_run():
    def untouched():
        raise AssertionError
        yield

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    recalibrate_batch_norm(model, untouched())


def test_after_an_exception_all_is_as_before():
    def broken():
        yield X[:4], Y[:4]
        yield X[4:8], Y[4:8]
        raise KeyboardInterrupt

    norm = BN(momentum=0.7)
    model = keras.Sequential([keras.Input((3,)), norm])
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    before, output = state(model), model.predict(X, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        recalibrate_batch_norm(model, broken())
    for path, value in state(model).items():
        np.testing.assert_array_equal(value, before[path])
    np.testing.assert_array_equal(model.predict(X, verbose=0), output)
    assert norm.momentum == 0.7
    assert "call" not in vars(norm)


class TestArguments:
    def model(self):
        return keras.Sequential([keras.Input((3,)), BN()])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"steps": 0}, "`steps` must be > 0. Received: steps=0"),
            ({"steps": 1.5}, "`steps` must be a whole number"),
            ({"batch_size": 0}, "`batch_size` must be > 0"),
        ],
    )
    def test_a_bad_argument_is_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            recalibrate_batch_norm(self.model(), X, **arguments)

    def test_data_without_an_end_needs_steps(self):
        with pytest.raises(ValueError, match="`steps` must be given"):
            recalibrate_batch_norm(self.model(), Batches(endless=True))
        endless = dataset().repeat()
        with pytest.raises(ValueError, match="`steps` must be given"):
            recalibrate_batch_norm(self.model(), endless)

    def test_empty_data_is_refused(self):
        empty = dataset().take(0)
        with pytest.raises(ValueError, match="`data` must hold at least one batch"):
            recalibrate_batch_norm(self.model(), empty)


class FineTuned(keras.Model):
    """Normalizes twice: as in training, and by what a pretrained layer knows."""

    def __init__(self):
        super().__init__()
        self.trained, self.pretrained, self.last = BN(), BN(), keras.layers.Dense(1)

    def call(self, x, training=None):
        hidden = self.pretrained(self.trained(x), training=False)
        return self.last(hidden)


@pytest.mark.every_backend
@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}], ids=str)
def test_layers_that_the_model_calls_for_inference_are_left_alone(settings):
    model = FineTuned()
    model(X)
    model.pretrained.set_weights([np.ones(3), np.zeros(3), np.ones(3), np.full(3, 2.0)])
    model.compile("sgd", "mse", **settings)
    model.fit(X, Y, BATCH, verbose=0)
    before = [np.array(w) for w in model.pretrained.get_weights()]
    recalibrate_batch_norm(model, X, batch_size=BATCH)
    assert_statistics(model.trained, X.astype(np.float64))
    for found, expected in zip(model.pretrained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.every_backend
def test_of_a_layer_that_is_called_in_both_ways_only_training_counts():
    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = BN()

        def call(self, x, training=None):
            fixed = self.norm(100.0 + x, training=False)
            return self.norm(x, training=training) + fixed

    model = Both()
    model(X)
    recalibrate_batch_norm(model, X, batch_size=BATCH)
    assert_statistics(model.norm, X.astype(np.float64))


@pytest.mark.every_backend
def test_where_all_are_called_for_inference_nothing_changes():
    class Frozen(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.dropout = BN(), keras.layers.Dropout(0.5)

        def call(self, x, training=None):
            return self.dropout(self.norm(x, training=False), training=training)

    model = Frozen()
    model(X)
    before = state(model)
    keras.utils.set_random_seed(1)
    expected = np.random.rand(3)  # noqa: NPY002
    keras.utils.set_random_seed(1)
    recalibrate_batch_norm(model, X)
    np.testing.assert_array_equal(np.random.rand(3), expected)  # noqa: NPY002
    for path, value in state(model).items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.skipif(BACKEND != "torch", reason="modules of PyTorch")
class TestModulesOfPyTorch:
    def model(self):
        import torch

        modules = torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1)
        wrapped = keras.layers.TorchModuleWrapper(torch.nn.Sequential(*modules))
        model = keras.Sequential([keras.Input((3,)), wrapped])
        model.compile("sgd", "mse")
        return model, modules[0]

    def test_are_recalibrated(self):
        model, norm = self.model()
        model.fit(X, Y, BATCH, verbose=0)
        recalibrate_batch_norm(model, X, batch_size=BATCH)
        x = X.astype(np.float64)
        np.testing.assert_allclose(norm.running_mean, x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(norm.running_var, x.var(0, ddof=1), rtol=1e-5)
        assert norm.momentum == 0.1

    def test_are_left_alone_where_they_are_called_for_inference(self):
        inner, norm = self.model()

        class Frozen(keras.Model):
            def call(self, x, training=None):
                return self.inner(x, training=False)

        model = Frozen()
        model.inner = inner
        model(X)
        model.compile("sgd", "mse")
        model.fit(X, Y, BATCH, verbose=0)
        recalibrate_batch_norm(model, X, batch_size=BATCH)
        np.testing.assert_array_equal(norm.running_mean, np.zeros(3))
        np.testing.assert_array_equal(norm.running_var, np.ones(3))

    @pytest.mark.parametrize("how", ["average", "recalibrate"])
    def test_are_named_where_they_cannot_be_swapped(self, how):
        model, _ = self.model()
        given = {"batch_norm_data": X} if how == "recalibrate" else {}
        averaging = WeightAveraging(batch_norm=how, **given)
        with pytest.raises(ValueError, match="PyTorch's modules: BatchNorm1d"):
            model.fit(X, Y, verbose=0, callbacks=[averaging])
