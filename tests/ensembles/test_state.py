"""Members behave as models of their own: in what they hold, and in what they change."""

import keras
import numpy as np
import pytest

from keras_lrs import ensembles
from keras_lrs._keras.weights import set_weights
from keras_lrs.callbacks import SnapshotEnsemble
from keras_lrs.ensembles.ensemble import Ensemble
from keras_lrs.schedules import CosineRestarts
from tests.ensembles.test_ensemble import alone, ensemble_of

pytestmark = pytest.mark.every_backend

BACKEND = keras.backend.backend()
L = keras.layers
RNG = np.random.default_rng(0)
X = (7.0 * RNG.normal(size=(40, 3)) + 50.0).astype("float32")
TEXTS = np.array([["a b"], ["b c"], ["c d a"], ["d d"]] * 10)


def text():
    if BACKEND != "tensorflow":
        pytest.skip("strings are in the models of TensorFlow only")
    return L.TextVectorization(output_mode="tf_idf"), TEXTS


def lookup():
    if BACKEND != "tensorflow":
        pytest.skip("strings are in the models of TensorFlow only")
    return L.StringLookup(output_mode="multi_hot"), TEXTS


def bins():
    pytest.importorskip("tensorflow", reason="Keras adapts it with TensorFlow")
    return L.Discretization(num_bins=4), X


ADAPTED = {
    "Normalization": lambda: (L.Normalization(), X),
    "Discretization": bins,
    "TextVectorization": text,
    "StringLookup": lookup,
}


def adapted(name):
    """A model, linear after its first layer, and what it takes."""
    layer, x = ADAPTED[name]()
    if x is TEXTS:
        import tensorflow as tf

        x = tf.constant(x)
    layer.adapt(x)
    inputs = keras.Input(x.shape[1:], dtype=layer.input_dtype or "string")
    return keras.Sequential([inputs, layer, L.Dense(1)]), x


@pytest.mark.parametrize("name", ADAPTED)
def test_copies_have_adapted_to_what_the_model_has(name):
    model, x = adapted(name)
    ensemble = ensemble_of(model, 2)
    for variable, *values in zip(
        model.variables, *(member.values for member in ensemble), strict=True
    ):
        if "dense" not in variable.path:  # What was adapted is the same in all.
            for value in values:
                value[...] = keras.ops.convert_to_numpy(variable.value)
    expected = np.mean(alone(ensemble, x), axis=0)
    assert np.ptp(expected) > 0.01
    for found in (ensemble, ensemble.to_model(), ensemble.average_weights()):
        np.testing.assert_allclose(found.predict(x, verbose=0), expected, atol=1e-4)


def test_members_are_normalized_by_what_they_had_adapted_to(tmp_path):
    def model():
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((3,)), L.Normalization(), L.Dense(1)])

    trained, other = model(), model()
    trained.compile(keras.optimizers.SGD(CosineRestarts(1e-3, 5, 1.0)), "mse")
    trained.layers[0].adapt(X)
    callbacks = [SnapshotEnsemble(tmp_path)]
    trained.fit(X, X[:, :1], 8, 2, verbose=0, callbacks=callbacks)
    before = other.predict(X, verbose=0)
    ensemble = ensembles.load(tmp_path, other)
    expected = []
    for member in ensemble:
        loaded = model()
        loaded.load_weights(tmp_path / member.file)
        expected.append(loaded.predict(X, verbose=0))
    found = ensemble.predict_members(X, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(other.predict(X, verbose=0), before)


class Always(L.Dropout):
    """Monte Carlo dropout: active in inference, too."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


keras.saving.register_keras_serializable("tests")(Always)


def test_masks_of_dropout_are_other_ones_in_every_call_batch_and_member():
    model = keras.Sequential([keras.Input((64,)), Always(0.5)])
    ensemble, ones = ensemble_of(model, 2), np.ones((8, 64), "float32")
    calls = [ensemble.predict_members(ones, batch_size=4, verbose=0) for _ in range(2)]
    masks = np.reshape(calls, (2, 2, 2, 4, 64))  # Calls, members, batches.
    one = ensemble.to_model()
    of_copies = [layer for layer in one.layers if isinstance(layer, keras.Sequential)]
    copies = [keras.ops.convert_to_numpy(copy(ones[:4])) for copy in of_copies]
    every = [*masks.reshape(8, 4, 64), *copies]
    for index, mask in enumerate(every):
        assert set(np.unique(mask)) == {0.0, 2.0}
        assert abs(mask.mean() - 1.0) < 0.3
        for other in every[:index]:
            assert abs(np.mean(mask == other) - 0.5) < 0.2
    # The mean of two independent masks has half of the variance of one.
    means = ensemble.predict(np.ones((512, 64), "float32"), verbose=0)
    assert np.var(means) == pytest.approx(0.5, rel=0.05)


def test_states_of_recurrent_layers_run_on_from_batch_to_batch_and_call_to_call():
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, 3, 1)), L.GRU(2, stateful=True), L.Dense(1)]
    )
    ensemble = ensemble_of(model, 2)
    x = RNG.normal(size=(8, 3, 1)).astype("float32")
    before = model.get_weights()
    expected = []
    for member in ensemble:
        twin = keras.models.clone_model(model)
        set_weights(twin, member.values)
        calls = [twin.predict(x, batch_size=2, verbose=0) for _ in range(2)]
        expected.append(calls)
    expected = np.array(expected)
    assert (np.abs(expected[:, 0] - expected[:, 1]).max() > 1e-3) == (BACKEND != "jax")
    first = ensemble.predict(x, batch_size=2, verbose=0)
    second = ensemble.predict_members(x, batch_size=2, verbose=0)
    np.testing.assert_allclose(first, expected[:, 0].mean(0), atol=1e-5)
    np.testing.assert_allclose(second, expected[:, 1], atol=1e-5)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if BACKEND == "jax":
        return  # Where Keras's own `predict` begins every batch with the same states.
    # A slice is an ensemble that begins with what is in the files.
    again = ensemble[:].predict(x, batch_size=2, verbose=0)
    np.testing.assert_allclose(again, first, atol=1e-6)


class OwnLoss(keras.Model):
    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return 100.0 + keras.ops.mean(keras.ops.square(y - y_pred))


class OwnMetrics(keras.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "own": 7.0}


class OwnStep(keras.Model):
    def test_step(self, *arguments):
        x, y, *_ = arguments[-1]
        if BACKEND == "jax":
            trainable, other, metrics = arguments[0]
            output, other = self.stateless_call(trainable, other, x, training=False)
            error = keras.ops.mean(keras.ops.abs(y - output))
            return {"error": error}, (trainable, other, metrics)
        return {"error": keras.ops.mean(keras.ops.abs(y - self(x, training=False)))}


class PastItself(keras.Model):
    def test_step(self, *arguments):
        (x, *_) = arguments[-1]
        found = {"error": keras.ops.mean(x)}
        return (found, arguments[0]) if BACKEND == "jax" else found


def evaluated(kind, count=2):
    inputs = keras.Input((3,))
    model = kind(inputs, L.Dense(1)(inputs))
    model.compile(loss="mse")
    return ensemble_of(model, count)


class TestEvaluateByTheModelsOwn:
    @pytest.mark.parametrize("kind", [OwnLoss, OwnMetrics, OwnStep])
    def test_methods_with_the_mean_of_the_members(self, kind):
        ensemble, y = evaluated(kind), X[:, :1]
        before = ensemble.model.get_weights()
        ensemble.model.evaluate(X, y, verbose=0)  # Which compiles its own function.
        error = np.mean(alone(ensemble, X), axis=0) - y
        mse, mae = np.mean(error**2), np.mean(np.abs(error))
        expected = {
            OwnLoss: {"loss": 100.0 + mse},
            OwnMetrics: {"loss": mse, "own": 7.0},
            OwnStep: {"error": mae},
        }[kind]
        found = ensemble.evaluate(X, y, batch_size=40, verbose=0, return_dict=True)
        assert found == pytest.approx(expected, rel=1e-5)
        for ours, theirs in zip(ensemble.model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        # Of one member, it is what the model itself says with its weights.
        model, [member] = ensemble.model, ensemble[1:]
        for variable, value in zip(model.variables, member.values, strict=True):
            variable.assign(value)
        last = ensemble.evaluate(X, y, verbose=0, last=1, batch_size=40)
        own = model.evaluate(X, y, verbose=0, batch_size=40)
        assert last == pytest.approx(own, rel=1e-5)

    def test_step_that_does_not_call_the_model_is_refused(self):
        with pytest.raises(
            RuntimeError, match=r"`PastItself.test_step`, which does not"
        ):
            evaluated(PastItself).evaluate(X, X[:, :1], verbose=0)

    def test_methods_are_refused_what_an_activation_gives(self):
        ensemble = evaluated(OwnLoss)
        ensemble = Ensemble(ensemble.model, list(ensemble), "sigmoid")
        with pytest.raises(ValueError, match=r"whether `OwnLoss.compute_loss` expects"):
            ensemble.evaluate(X, X[:, :1], verbose=0)


@pytest.mark.skipif(BACKEND != "torch", reason="a module of PyTorch")
def test_evaluates_modules_of_pytorch_with_the_weights_of_each_member():
    import torch

    wrapped = L.TorchModuleWrapper(torch.nn.Linear(3, 1))
    model = keras.Sequential([keras.Input((3,)), wrapped])
    model.compile(loss="mse")
    ensemble, y = ensemble_of(model), X[:, :1]
    mean = np.mean(alone(ensemble, X), axis=0)
    found = ensemble.evaluate(X, y, verbose=0)
    assert found == pytest.approx(np.mean((mean - y) ** 2), rel=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="a module of PyTorch")
def test_loads_modules_of_pytorch_and_leaves_those_of_the_model(tmp_path):
    import torch

    wrapped = L.TorchModuleWrapper(torch.nn.Linear(3, 1))
    model = keras.Sequential([keras.Input((3,)), wrapped])
    model.compile(keras.optimizers.SGD(CosineRestarts(1e-5, 5, 1.0)), "mse")
    callbacks = [SnapshotEnsemble(tmp_path)]
    model.fit(X, X[:, :1], 8, 2, verbose=0, callbacks=callbacks)
    before = [np.array(weight) for weight in model.get_weights()]
    ensemble = ensembles.load(tmp_path, model)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    found = ensemble.predict_members(X, verbose=0)
    plain = keras.Sequential([keras.Input((3,)), wrapped])
    for outputs, member in zip(found, ensemble, strict=True):
        plain.load_weights(tmp_path / member.file)
        np.testing.assert_allclose(outputs, plain.predict(X, verbose=0), atol=1e-5)
