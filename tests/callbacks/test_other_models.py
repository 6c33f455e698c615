"""Averages are seen, or refused, on models beside the one that was trained."""

import keras
import numpy as np
import pytest

from keras_lrs import averages as A  # noqa: N812
from keras_lrs.callbacks import AveragedEvaluation, WeightAveraging
from keras_lrs.optimizers import ScheduleFree
from tests.callbacks import references
from tests.callbacks.references import X, Y, linear_model

pytestmark = pytest.mark.every_backend

RATE = 0.05
KINDS = ("WeightAveraging", "AveragedEvaluation")


def trained(kind, at_end="raw", epochs=2):
    """A model, its callback, and the average by a loop."""
    sgd = keras.optimizers.SGD(RATE)
    steps = epochs * references.STEPS
    w = z = x = np.zeros((3, 1))
    if kind == "WeightAveraging":
        model, callback = linear_model(sgd), WeightAveraging(A.UniformAverage())
        for k in range(steps):
            w = w - RATE * references.gradient(w, k)
            x = x + (w - x) / (k + 1)
    else:
        model, callback = linear_model(ScheduleFree(sgd)), AveragedEvaluation()
        for k in range(steps):
            z = z - RATE * references.gradient(0.1 * z + 0.9 * x, k)
            x = x + (z - x) / (k + 1)
    callback.at_end = at_end
    references.fit(model, [callback], epochs)
    return model, callback, x


def loss_of(average):
    return np.mean((X @ average - Y) ** 2)


def around(model):
    """Another model that has its layers."""
    other = keras.Sequential([keras.Input((3,)), model.layers[0]])
    other.compile("sgd", "mse")
    return other


@pytest.mark.parametrize("at_end", ["raw", "average"])
@pytest.mark.parametrize("how", ["compiled anew", "shared layers"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_seen(kind, how, at_end):
    model, callback, average = trained(kind, at_end)
    if how == "compiled anew":
        model.compile("sgd", "mse")
    else:
        model = around(model)
    before = model.get_weights()
    for _ in range(2):
        found = model.evaluate(X, Y, verbose=0, callbacks=[callback])
        assert found == pytest.approx(loss_of(average), rel=1e-5)
        np.testing.assert_array_equal(model.get_weights(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_seen_while_another_model_trains(kind):
    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            given = {"verbose": 0, "callbacks": [averaging]}
            found.append(other.evaluate(X, Y, **given))

    sgd = keras.optimizers.SGD(RATE)
    free = kind == "AveragedEvaluation"
    averaging = AveragedEvaluation() if free else WeightAveraging(A.UniformAverage())
    model = linear_model(ScheduleFree(sgd) if free else sgd)
    other, found = around(model), []
    references.fit(model, [Evaluate(), averaging], 2)
    twin, _, average = trained(kind, "average")
    expected = [loss_of(trained(kind, epochs=1)[2]), loss_of(average)]
    assert found == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(model.get_weights(), twin.get_weights(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_other_weights_are_refused(kind):
    _, callback, _ = trained(kind)
    with pytest.raises(ValueError, match=f"`{kind}` has no average of the weights"):
        linear_model("sgd").evaluate(X, Y, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_were_trained_since_are_refused(kind):
    model, callback, _ = trained(kind, "average")
    model.compile("sgd", "mse")
    references.fit(model)
    with pytest.raises(ValueError, match="since they were last trained"):
        model.evaluate(X, Y, verbose=0, callbacks=[callback])


def test_a_model_without_an_average_is_refused():
    with pytest.raises(ValueError, match="needs no callback"):
        linear_model("sgd").predict(X, verbose=0, callbacks=[WeightAveraging()])


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a loop of its own")
def test_what_schedule_free_does_not_train_stays_where_it_is(from_file, tmp_path):
    optimizer = ScheduleFree(keras.optimizers.SGD(RATE))
    dense = [keras.layers.Dense(1, name=name) for name in ("own", "other")]
    model = keras.Sequential([keras.Input((3,)), *dense])
    model.compile(optimizer, "mse")
    own, other = (layer.trainable_variables for layer in dense)
    optimizer.build([*own, *other])
    for _ in range(3):
        gradients = [keras.ops.ones(v.shape) for v in own]
        optimizer.apply(gradients, own)
        for variable in other:  # Trained by something else.
            variable.assign_add(keras.ops.ones(variable.shape))
    if from_file:
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
        optimizer = model.optimizer
    before = model.get_weights()
    with optimizer.averaged():
        after = model.get_weights()
    assert np.abs(after[0] - before[0]).max() > 1e-3
    for index in (2, 3):
        np.testing.assert_array_equal(after[index], before[index])
