"""What is measured, saved and restored is the average of a schedule-free training."""

import gc

import keras
import numpy as np
import pytest

from keras_lrs.callbacks import AveragedEvaluation, WeightAveraging
from keras_lrs.optimizers import ScheduleFree
from tests.callbacks import references
from tests.callbacks.references import STEPS, X, Y, linear_model

RATE, BETA = 0.1, 0.9


def optimizer():
    return ScheduleFree(keras.optimizers.SGD(RATE), beta=BETA)


def loop(num_steps):
    """The algorithm of the paper: `x` and `y` after each step."""
    x = y = z = np.zeros((3, 1))
    seen = []
    for k in range(num_steps):
        z = z - RATE * references.gradient(y, k)
        x = x + (z - x) / (k + 1)
        y = (1.0 - BETA) * z + BETA * x
        seen.append((x, y))
    return seen


class Weights(keras.callbacks.Callback):
    def __init__(self, hook):
        super().__init__()
        self.seen = []
        setattr(self, hook, self.record)

    def record(self, *arguments, **logs):
        self.seen.append(np.array(self.model.get_weights()[0]))


def test_all_but_training_see_the_average(tmp_path):
    model = linear_model(optimizer())
    in_epochs, at_ends = Weights("on_train_batch_end"), Weights("on_epoch_end")
    tests = Weights("on_test_begin")
    path = str(tmp_path / "{epoch}.keras")
    callbacks = [
        in_epochs,
        at_ends,
        tests,
        keras.callbacks.ModelCheckpoint(path),
        AveragedEvaluation(),
    ]
    history = references.fit(model, callbacks, 3, validation_data=(X, Y))
    expected = loop(3 * STEPS)
    for found, (_, y) in zip(in_epochs.seen, expected, strict=True):
        np.testing.assert_allclose(found, y, atol=1e-6)
    for epoch in range(3):
        x, _ = expected[(epoch + 1) * STEPS - 1]
        np.testing.assert_allclose(at_ends.seen[epoch], x, atol=2e-6)
        np.testing.assert_allclose(tests.seen[epoch], x, atol=2e-6)
        saved = keras.saving.load_model(path.format(epoch=epoch + 1))
        np.testing.assert_allclose(references.weights(saved), x, atol=2e-6)
        loss = np.mean((X @ x - Y) ** 2)
        assert history.history["val_loss"][epoch] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(references.weights(model), expected[-1][0], atol=2e-6)


@pytest.mark.parametrize("at_end", ["average", "raw"])
def test_evaluate_and_predict(at_end):
    model = linear_model(optimizer())
    evaluation = AveragedEvaluation(at_end)
    references.fit(model, [evaluation], 2)
    x, y = loop(2 * STEPS)[-1]
    before = references.weights(model)
    np.testing.assert_allclose(before, x if at_end == "average" else y, atol=2e-6)
    for _ in range(2):
        found = model.predict(X, verbose=0, callbacks=[evaluation])
        np.testing.assert_allclose(found, X @ x, atol=1e-5)
        np.testing.assert_array_equal(references.weights(model), before)


@pytest.mark.parametrize("how", ["same model", "file", "backup"])
def test_training_goes_on_where_it_was(tmp_path, how):
    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(model, epochs, *others, **arguments):
        callbacks = [AveragedEvaluation(), *others]
        if how == "backup":
            callbacks.append(keras.callbacks.BackupAndRestore(tmp_path))
        references.fit(model, callbacks, epochs, validation_data=(X, Y), **arguments)

    model = linear_model(optimizer())
    if how == "backup":
        with pytest.raises(KeyboardInterrupt):
            train(model, 4, Break())
        model = linear_model(optimizer())
        train(model, 4)
    else:
        train(model, 2)
        if how == "file":
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
        train(model, 4, initial_epoch=2)
    x, _ = loop(4 * STEPS)[-1]
    np.testing.assert_allclose(references.weights(model), x, atol=2e-6)


def test_a_training_that_breaks_leaves_its_own_weights():
    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = linear_model(optimizer())
    with pytest.raises(KeyboardInterrupt):
        references.fit(model, [Break(), AveragedEvaluation()])
    gc.collect()
    _, y = loop(STEPS)[-1]
    np.testing.assert_allclose(references.weights(model), y, atol=1e-6)


def test_early_stopping_restores_the_best_average():
    model = linear_model(optimizer())
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", mode="max", patience=1, restore_best_weights=True
    )
    references.fit(model, [stopping, AveragedEvaluation()], 4, validation_data=(X, Y))
    x, _ = loop(STEPS)[-1]
    np.testing.assert_allclose(references.weights(model), x, atol=2e-6)


def test_inside_loss_scaling():
    scaled = keras.optimizers.LossScaleOptimizer(optimizer(), 2.0)
    model = linear_model(scaled)
    references.fit(model, [AveragedEvaluation()], 2)
    np.testing.assert_allclose(
        references.weights(model), loop(2 * STEPS)[-1][0], atol=2e-6
    )


class TestRefusals:
    def test_of_another_optimizer(self):
        model = linear_model(keras.optimizers.SGD())
        with pytest.raises(ValueError, match="`WeightAveraging` for other"):
            references.fit(model, [AveragedEvaluation()])

    def test_of_an_average_of_an_average(self):
        model = linear_model(optimizer())
        with pytest.raises(ValueError, match="use `AveragedEvaluation`"):
            references.fit(model, [WeightAveraging()])

    def test_of_an_unknown_end(self):
        with pytest.raises(ValueError, match="at_end='last'"):
            AveragedEvaluation("last")
