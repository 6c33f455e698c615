"""Recorded norms are those that NumPy computes, update by update."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs._step import gradient_norms
from keras_lrs._step.gradient_norms import GradientNorms
from keras_lrs.callbacks import GradientNormRecorder, HyperparameterScheduler
from tests.callbacks import references

S = lrs.schedules
BACKEND = keras.backend.backend()
SETTINGS = [{}, {"run_eagerly": True}]
if BACKEND != "torch":
    SETTINGS += [{"jit_compile": False}, {"steps_per_execution": 4}]


def sgd(**arguments):
    return keras.optimizers.SGD(0.05, **arguments)


def expected_norms(num_steps, rates=0.05, order=2, first=0):
    """The norm of every gradient of SGD in NumPy."""
    loop, norms = references.SGD(), []
    for rate in np.broadcast_to(rates, num_steps):
        gradient = references.gradient(loop.w, loop.step)
        norms.append(np.linalg.norm(gradient.ravel(), order))
        loop.train(1, learning_rate=[rate], momentum=[0.0])
    return np.array(norms[first:])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("order", [1, 2])
def test_the_norm_of_every_gradient(settings, order):
    model = references.linear_model(sgd(), **settings)
    recorder = GradientNormRecorder(order=order)
    references.fit(model, [recorder])
    assert recorder.steps.tolist() == list(range(40))
    np.testing.assert_allclose(recorder.norms, expected_norms(40, order=order), 1e-5)
    assert recorder.norms.dtype == np.float64


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_third(settings):
    model = references.linear_model(sgd(), **settings)
    recorder = GradientNormRecorder(every=3)
    references.fit(model, [recorder])
    assert recorder.steps.tolist() == list(range(0, 40, 3))
    np.testing.assert_allclose(recorder.norms, expected_norms(40)[::3], 1e-5)


def test_beside_a_schedule():
    rates = S.REXDecay(0.1, 40)
    recorder = GradientNormRecorder()
    scheduler = HyperparameterScheduler(learning_rate=rates)
    model = references.linear_model(sgd())
    references.fit(model, [scheduler, recorder])
    expected = expected_norms(40, rates.curve(40))
    np.testing.assert_allclose(recorder.norms, expected, 1e-5)


def test_it_changes_nothing():
    model, twin = (references.linear_model(keras.optimizers.Adam()) for _ in range(2))
    references.fit(model, [GradientNormRecorder()])
    references.fit(twin)
    np.testing.assert_allclose(
        references.weights(model), references.weights(twin), rtol=1e-6
    )
    for name in ("apply", "_backend_apply_gradients"):
        assert name not in vars(model.optimizer)
    assert len(model.optimizer.variables) == len(twin.optimizer.variables)


def test_a_second_fit_begins_anew_and_steps_go_on():
    model, recorder = references.linear_model(sgd()), GradientNormRecorder(every=7)
    references.fit(model, [recorder], epochs=3)
    assert recorder.steps.tolist() == [0, 7, 14, 21, 28]
    references.fit(model, [recorder], epochs=1)
    assert recorder.steps.tolist() == [35]
    np.testing.assert_allclose(recorder.norms, expected_norms(36)[35:], 1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_more_updates_than_are_kept_in_the_step(settings, monkeypatch):
    made = GradientNorms.__init__

    def small(self, *arguments):
        monkeypatch.setattr(gradient_norms, "max", lambda *_: 9, raising=False)
        made(self, *arguments)
        monkeypatch.delattr(gradient_norms, "max")

    monkeypatch.setattr(GradientNorms, "__init__", small)
    model, recorder = references.linear_model(sgd(), **settings), GradientNormRecorder()
    references.fit(model, [recorder])
    assert recorder.steps.tolist() == list(range(40))
    np.testing.assert_allclose(recorder.norms, expected_norms(40), 1e-5)


def test_clipping_comes_after_it():
    model = references.linear_model(sgd(global_clipnorm=1e-6))
    recorder = GradientNormRecorder()
    references.fit(model, [recorder], epochs=1)
    expected = [
        np.linalg.norm(references.gradient(np.zeros((3, 1)), k)) for k in range(10)
    ]
    np.testing.assert_allclose(recorder.norms, expected, 1e-3)


def test_accumulated_gradients():
    model = references.linear_model(sgd(gradient_accumulation_steps=4))
    recorder = GradientNormRecorder(every=2)
    references.fit(model, [recorder])
    w, norms = np.zeros((3, 1)), []
    for update in range(10):
        steps = range(4 * update, 4 * update + 4)
        mean = np.mean([references.gradient(w, step) for step in steps], axis=0)
        norms.append(np.linalg.norm(mean))
        w = w - 0.05 * mean
    assert recorder.steps.tolist() == [3, 11, 19, 27, 35]
    np.testing.assert_allclose(recorder.norms, norms[::2], 1e-5)


def test_a_scaled_loss():
    optimizer = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=64.0)
    model, recorder = references.linear_model(optimizer), GradientNormRecorder()
    references.fit(model, [recorder])
    np.testing.assert_allclose(recorder.norms, expected_norms(40), 1e-5)


def test_a_loss_scale_factor():
    model = references.linear_model(sgd(loss_scale_factor=8.0))
    recorder = GradientNormRecorder()
    references.fit(model, [recorder], epochs=1)
    # Keras multiplies the loss by it and divides the gradients.
    np.testing.assert_allclose(recorder.norms, expected_norms(10), 1e-5)


def test_rows_of_an_embedding_that_come_twice():
    embedding = keras.layers.Embedding(5, 1, embeddings_initializer="zeros")
    model = keras.Sequential([keras.Input((3,), dtype="int32"), embedding])
    model.compile(sgd(), lambda y, p: keras.ops.sum(p))
    recorder = GradientNormRecorder()
    x = np.array([[1, 1, 3]], "int32")
    model.fit(x, x, verbose=0, callbacks=[recorder])
    # Twice row 1 and once row 3.
    np.testing.assert_allclose(recorder.norms, [np.sqrt(5.0)], 1e-6)


def test_it_keeps_what_it_had_when_the_training_breaks_off():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    model, recorder = references.linear_model(sgd()), GradientNormRecorder()
    with pytest.raises(KeyboardInterrupt):
        references.fit(model, [recorder, Stop()])
    np.testing.assert_allclose(recorder.norms, expected_norms(20), 1e-5)


def test_before_any_training():
    assert GradientNormRecorder().norms.tolist() == []
    assert GradientNormRecorder().steps.dtype == np.int64


def test_two_of_them_are_refused():
    model = references.linear_model(sgd())
    with pytest.raises(ValueError, match="takes one `GradientNormRecorder`"):
        references.fit(model, [GradientNormRecorder(), GradientNormRecorder()])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "`every` must be > 0"),
        ({"every": "epoch"}, TypeError, "`every` must be a number"),
        ({"order": 3}, ValueError, "`order` must be 1 or 2"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        GradientNormRecorder(**arguments)


def test_of_too_many_norms_every_second_is_dropped(monkeypatch):
    """As often as it takes; what is left is what was recorded."""
    found = []
    for most in (2**20, 8):
        monkeypatch.setattr(GradientNormRecorder, "_bound", most)
        model, recorder = references.linear_model(sgd()), GradientNormRecorder()
        references.fit(model, [recorder], 3)
        found.append((recorder.steps, recorder.norms))
    (steps, norms), (kept, thinned) = found
    assert len(steps) > 16
    assert kept.tolist() == [step for step in steps if step % 4 == 0]
    np.testing.assert_array_equal(thinned, norms[::4])
