"""Averages against NumPy, and the same weights measured, saved and restored."""

import copy
import gc
import itertools
import warnings

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import averages as A  # noqa: N812
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    ResumableTraining,
    WeightAveraging,
)
from keras_lrs.schedules import Epochs, Fraction
from tests import processes
from tests.callbacks import averaged, references
from tests.callbacks.recording import Record
from tests.callbacks.references import STEPS, X, Y, linear_model

S = lrs.schedules
BACKEND = keras.backend.backend()
COMPILED = [{}] if BACKEND == "torch" else [{"jit_compile": j} for j in (True, False)]


def sgd(**arguments):
    return keras.optimizers.SGD(0.05, momentum=0.9, **arguments)


def trajectory(num_steps, accumulated=1):
    """The weights after each step of SGD, by NumPy."""
    loop, seen = references.SGD(), []
    for step in range(num_steps):
        if accumulated == 1:
            loop.train(1)
        elif (step + 1) % accumulated == 0:
            steps = range(step + 1 - accumulated, step + 1)
            loop.update(
                np.mean([references.gradient(loop.w, k) for k in steps], axis=0)
            )
        seen.append(loop.w.copy())
    return np.array(seen)


def ema(seen, decay):
    """The debiased exponential average: a weighted mean."""
    weights = decay ** np.arange(len(seen))[::-1]
    return np.tensordot(weights / weights.sum(), seen, axes=1)


class Seen(keras.callbacks.Callback):
    """The weights that other callbacks see at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(references.weights(self.model))


class TestNumpy:
    @pytest.mark.parametrize("compiled", COMPILED, ids=str)
    @pytest.mark.parametrize(
        ("average", "expected"),
        [
            (A.ExponentialAverage(0.9), lambda seen: ema(seen, 0.9)),
            (A.UniformAverage(), lambda seen: seen.mean(0)),
            (
                A.PolynomialAverage(1),
                lambda seen: np.average(
                    seen, axis=0, weights=np.arange(1.0, len(seen) + 1)
                ),
            ),
            (
                A.PowerFunctionAverage(0.1),
                lambda seen: np.average(
                    seen,
                    axis=0,
                    weights=np.diff(np.arange(len(seen) + 1.0) ** 7.9372039376),
                ),
            ),
        ],
        ids=["exponential", "uniform", "polynomial", "power"],
    )
    def test_of_every_epoch(self, average, expected, compiled):
        model, seen = linear_model(sgd(), **compiled), Seen()
        references.fit(model, [seen, WeightAveraging(average)], epochs=3)
        steps = trajectory(3 * STEPS)
        for epoch, found in enumerate(seen.weights, 1):
            np.testing.assert_allclose(
                found, expected(steps[: epoch * STEPS]), atol=1e-6
            )
        np.testing.assert_allclose(references.weights(model), found, atol=0)

    def test_that_starts_after_an_update_is_pytorchs(self):
        torch = pytest.importorskip("torch")
        from torch.optim import swa_utils

        mirror = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
        theirs = swa_utils.AveragedModel(
            mirror, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)
        )
        for weights in trajectory(2 * STEPS):
            mirror.weight.data.copy_(torch.tensor(weights.T))
            theirs.update_parameters(mirror)
        model = linear_model(sgd())
        average = A.ExponentialAverage(0.9, debias=False)
        references.fit(model, [WeightAveraging(average, start_step=1)], epochs=2)
        expected = theirs.module.weight.detach().numpy().T
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    def test_that_starts_late_is_tf_addons(self):
        # Until then the decay of its `MovingAverage` is 0.
        expected = np.zeros((3, 1))
        for step, weights in enumerate(trajectory(2 * STEPS)):
            decay = 0.0 if step < 7 else 0.9
            expected = decay * expected + (1.0 - decay) * weights
        model = linear_model(sgd())
        average = A.ExponentialAverage(0.9, debias=False)
        references.fit(model, [WeightAveraging(average, start_step=7)], epochs=2)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    def test_that_is_a_number_is_exponential(self):
        found = []
        for average in (0.9, np.array(0.9), A.ExponentialAverage(0.9)):
            model = linear_model(sgd())
            references.fit(model, [WeightAveraging(average)], epochs=1)
            found.append(references.weights(model))
            assert A.Averager(model, average).average == A.ExponentialAverage(0.9)
        np.testing.assert_array_equal(found[0], found[2])
        np.testing.assert_array_equal(found[1], found[2])

    def test_that_is_not_debiased_begins_with_the_first_weights(self):
        model = linear_model(sgd())
        model.set_weights([np.full((3, 1), 2.0)])
        average = A.ExponentialAverage(0.9, debias=False)
        references.fit(model, [WeightAveraging(average)], epochs=1)
        loop = references.SGD()
        loop.w = expected = np.full((3, 1), 2.0)
        for _ in range(STEPS):
            expected = 0.9 * expected + 0.1 * loop.train(1)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    @pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no steps per execution")
    def test_with_several_steps_per_execution(self):
        model = linear_model(sgd(), steps_per_execution=4)
        references.fit(model, [WeightAveraging(A.UniformAverage())], epochs=3)
        expected = trajectory(3 * STEPS).mean(0)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    @pytest.mark.parametrize("compiled", [*COMPILED, {"run_eagerly": True}], ids=str)
    def test_one_update_in_three_after_five(self, compiled):
        model, seen = linear_model(sgd(), **compiled), Seen()
        averaging = WeightAveraging(A.UniformAverage(), start_step=5, update_every=3)
        references.fit(model, [averaging, seen], epochs=2)
        steps = trajectory(2 * STEPS)
        np.testing.assert_allclose(seen.weights[0], steps[7:8].mean(0), atol=1e-6)
        np.testing.assert_allclose(seen.weights[1], steps[7::3].mean(0), atol=1e-6)

    def test_the_decay_is_that_of_as_many_updates(self):
        model = linear_model(sgd())
        averaging = WeightAveraging(A.ExponentialAverage(0.9), update_every=5)
        references.fit(model, [averaging], epochs=2)
        expected = ema(trajectory(2 * STEPS)[4::5], 0.9**5)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    def test_before_its_start_the_model_is_seen_as_it_is(self):
        model, seen = linear_model(sgd()), Seen()
        averaging = WeightAveraging(A.UniformAverage(), start_step=Epochs(2))
        references.fit(model, [averaging, seen], epochs=3)
        plain = linear_model(sgd())
        references.fit(plain, epochs=2)
        np.testing.assert_array_equal(seen.weights[1], references.weights(plain))
        expected = trajectory(3 * STEPS)[2 * STEPS :].mean(0)
        np.testing.assert_allclose(seen.weights[2], expected, atol=1e-6)

    @pytest.mark.parametrize("start", [0, 3, Fraction(0.25)])
    def test_of_the_ends_of_epochs(self, start):
        model = linear_model(sgd())
        averaging = WeightAveraging(A.UniformAverage(), start, update_every="epoch")
        references.fit(model, [averaging], epochs=4)
        ends = trajectory(4 * STEPS)[STEPS - 1 :: STEPS]
        expected = ends[1 if isinstance(start, Fraction) else 0 :].mean(0)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    @pytest.mark.parametrize("scheduled", [True, False])
    def test_of_the_ends_of_cycles(self, scheduled):
        schedule = S.CosineRestarts(0.05, 5, t_mul=2.0)
        if scheduled:
            model = linear_model(sgd())
            callbacks = [HyperparameterScheduler(learning_rate=schedule)]
        else:
            model, callbacks = linear_model(keras.optimizers.SGD(schedule, 0.9)), []
        averaging = WeightAveraging(A.UniformAverage(), update_every="cycle")
        references.fit(model, [*callbacks, averaging], epochs=4)
        loop, seen = references.SGD(), []
        for rate in schedule.curve(40):
            seen.append(loop.train(1, learning_rate=[rate]).copy())
        expected = np.mean([seen[4], seen[14], seen[34]], axis=0)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    @pytest.mark.parametrize("average", [A.UniformAverage(), A.ExponentialAverage(0.8)])
    def test_updates_are_counted_and_not_micro_batches(self, average):
        model = linear_model(sgd(gradient_accumulation_steps=4))
        references.fit(model, [WeightAveraging(average)], epochs=2)
        steps = trajectory(2 * STEPS, accumulated=4)[3::4]
        uniform = isinstance(average, A.UniformAverage)
        expected = steps.mean(0) if uniform else ema(steps, 0.8)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    @pytest.mark.skipif(
        not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
    )
    def test_of_two_optimizers(self):
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(2, name="first"),
                keras.layers.Dense(1, name="second"),
            ]
        )
        optimizers = keras.optimizers.OptimizerMap(
            keras.optimizers.Adam(0.01), {".*first/.*": sgd(name="other")}
        )
        model.compile(keras.optimizers.MultiOptimizer(optimizers), "mse")
        record = Record()
        references.fit(model, [record, WeightAveraging(A.UniformAverage())], epochs=2)
        for found, *seen in zip(model.get_weights(), *record.weights, strict=True):
            np.testing.assert_allclose(found, np.mean(seen, axis=0), atol=1e-6)


@pytest.mark.parametrize("compiled", COMPILED, ids=str)
def test_training_follows_the_trajectory_it_would(compiled):
    def train(callbacks):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(8, "tanh"), keras.layers.Dropout(0.3)]
        model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.05), "mse", **compiled)
        history = model.fit(
            X,
            Y,
            batch_size=4,
            epochs=3,
            verbose=0,
            validation_data=(X, Y),
            callbacks=callbacks,
        )
        return model, history.history["loss"]

    plain, losses = train([])
    model, with_average = train([WeightAveraging(at_end="raw")])
    for expected, found in zip(plain.get_weights(), model.get_weights(), strict=True):
        # XLA may fuse the update differently when it is read twice.
        tolerance = 1e-6 if compiled.get("jit_compile") else 0.0
        np.testing.assert_allclose(found, expected, atol=tolerance)
    np.testing.assert_allclose(with_average, losses, rtol=1e-6)


class TestWhichWeights:
    """What is measured, saved and restored are the same weights."""

    class Broken(Exception):  # noqa: N818
        pass

    @pytest.mark.parametrize("end", ["all epochs", "stopped early", "broken"])
    @pytest.mark.parametrize("validation_freq", [1, 2])
    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
    def test_in_every_order(self, tmp_path, order, validation_freq, end):
        model = linear_model(sgd())
        saved = str(tmp_path / "{epoch}.keras")
        patience = 1 if end == "stopped early" else 100
        callbacks = [
            WeightAveraging(A.UniformAverage()),
            keras.callbacks.ModelCheckpoint(saved),
            keras.callbacks.EarlyStopping(
                # It gets worse from the beginning, so that the first epoch is the best.
                "val_mae" if validation_freq == 1 else "loss",
                mode="max",
                patience=patience,
                restore_best_weights=True,
            ),
        ]
        model.compile(sgd(), "mse", metrics=["mae"])
        callbacks = [callbacks[index] for index in order]
        if end == "broken":

            def stop(epoch, logs):
                if epoch == 3:
                    raise self.Broken

            callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=stop))
        try:
            history = references.fit(
                model,
                callbacks,
                epochs=4,
                validation_data=(X, Y),
                validation_freq=validation_freq,
            )
        except self.Broken:
            assert end == "broken"
            gc.collect()
        steps = trajectory(4 * STEPS)
        files = sorted(tmp_path.glob("*.keras"))
        assert len(files) == (2 if end == "stopped early" else 4)
        for epoch, file in enumerate(files, 1):
            expected = steps[: epoch * STEPS].mean(0)
            found = keras.saving.load_model(file).get_weights()[0]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            if end != "broken" and epoch % validation_freq == 0:
                measured = history.history["val_mae"][epoch // validation_freq - 1]
                mae = np.abs(X @ found - Y).mean()
                assert measured == pytest.approx(mae, rel=1e-6)
        best = steps[:STEPS].mean(0)
        expected = steps[-1] if end == "broken" else best
        np.testing.assert_allclose(references.weights(model), expected, atol=2e-6)

    @pytest.mark.parametrize("at_end", ["average", "raw"])
    def test_at_the_end(self, at_end):
        model = linear_model(sgd())
        averaging = WeightAveraging(A.UniformAverage(), at_end=at_end)
        history = references.fit(model, [averaging], 3, validation_data=(X, Y))
        steps = trajectory(3 * STEPS)
        average, last = steps.mean(0), steps[-1]
        expected = {"average": average, "raw": last}[at_end]
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)
        # Given the callback, the average is seen in any case; and is gone afterwards.
        before = model.get_weights()
        loss = model.evaluate(X, Y, verbose=0, callbacks=[averaging])
        assert loss == pytest.approx(history.history["val_loss"][-1], rel=1e-6)
        predicted = model.predict(X, verbose=0, callbacks=[averaging])
        np.testing.assert_allclose(predicted, X @ average, atol=1e-5)
        np.testing.assert_array_equal(model.get_weights(), before)
        if at_end == "average":
            assert not model.optimizer.use_ema
            assert model.optimizer.ema_momentum == 0.99
            assert len(model.optimizer.variables) == 3

    def test_an_evaluation_that_ended_does_not_end_the_next(self):
        model = linear_model(sgd())
        averaging = WeightAveraging(A.UniformAverage(), at_end="raw")
        references.fit(model, [averaging], 2)

        class Collecting(keras.callbacks.Callback):
            def on_predict_batch_begin(self, batch, logs=None):
                gc.collect()

        gc.disable()  # So that the first list of callbacks is dropped in the second.
        try:
            model.evaluate(X, Y, verbose=0, callbacks=[averaging])
            found = model.predict(X, verbose=0, callbacks=[averaging, Collecting()])
        finally:
            gc.enable()
        expected = X @ trajectory(2 * STEPS).mean(0)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_an_evaluation_that_breaks_leaves_the_weights_of_the_training(self):
        model = linear_model(sgd())
        averaging = WeightAveraging(A.UniformAverage(), at_end="raw")
        references.fit(model, [averaging], 3)
        before = model.get_weights()

        class Breaking(keras.callbacks.Callback):
            def on_test_batch_begin(self, batch, logs=None):
                raise TestWhichWeights.Broken

        with pytest.raises(self.Broken):
            model.evaluate(X, Y, verbose=0, callbacks=[averaging, Breaking()])
        gc.collect()
        np.testing.assert_array_equal(model.get_weights(), before)

    @pytest.mark.parametrize(
        "hook", ["on_epoch_end", "on_train_batch_end", "on_test_batch_end"]
    )
    def test_a_training_that_breaks_leaves_its_own_weights(self, hook):
        model = linear_model(sgd())
        averaging = WeightAveraging(A.UniformAverage())

        class Breaking(keras.callbacks.Callback):
            calls = 0

        def act(self, *arguments, **logs):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt

        setattr(Breaking, hook, act)
        with pytest.raises(KeyboardInterrupt):
            references.fit(
                model,
                [averaging, Breaking()],
                validation_data=(X, Y),
                validation_batch_size=8,
            )
        gc.collect()
        steps = {"on_epoch_end": 2 * STEPS, "on_train_batch_end": 2}.get(hook, STEPS)
        seen = trajectory(steps)
        np.testing.assert_allclose(references.weights(model), seen[-1], atol=1e-6)
        # What was averaged is not lost.
        predicted = model.predict(X, verbose=0, callbacks=[averaging])
        np.testing.assert_allclose(predicted, X @ seen.mean(0), atol=1e-5)

    def test_weights_files(self, tmp_path):
        model = linear_model(sgd())
        path = tmp_path / "last.weights.h5"
        checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
        averaging = WeightAveraging(A.UniformAverage(), at_end="raw")
        references.fit(model, [checkpoint, averaging], epochs=2)
        other = linear_model(sgd())
        with warnings.catch_warnings():
            # It has no averages for those of the file.
            warnings.simplefilter("ignore")
            other.load_weights(path)
        expected = trajectory(2 * STEPS).mean(0)
        np.testing.assert_allclose(references.weights(other), expected, atol=1e-6)


class TestGoingOn:
    WHOLE = 6

    def expected(self):
        steps = trajectory(self.WHOLE * STEPS)
        return steps[-1], steps.mean(0)

    def check(self, model, averaging):
        last, average = self.expected()
        np.testing.assert_allclose(references.weights(model), last, atol=2e-6)
        predicted = model.predict(X, verbose=0, callbacks=[averaging])
        np.testing.assert_allclose(predicted, X @ average, atol=1e-5)

    def test_with_initial_epoch(self):
        model = linear_model(sgd())
        averaging = WeightAveraging(A.UniformAverage(), at_end="raw")
        references.fit(model, [averaging], 2)
        references.fit(model, [averaging], self.WHOLE, initial_epoch=2)
        self.check(model, averaging)

    @pytest.mark.parametrize("saved", ["in an epoch", "after an epoch", "at the end"])
    def test_from_a_file(self, tmp_path, saved):
        """The weights go on from where training was, not from their average."""
        path, averaging = (
            tmp_path / "model.keras",
            WeightAveraging(A.UniformAverage(), at_end="raw"),
        )
        model = linear_model(sgd())
        callbacks = [averaging]
        if saved != "at the end":
            freq = "epoch" if saved == "after an epoch" else 3 * STEPS
            callbacks.append(keras.callbacks.ModelCheckpoint(path, save_freq=freq))
        references.fit(model, callbacks, 3)
        if saved == "at the end":
            model.save(path)
        model = keras.saving.load_model(path)
        references.fit(model, [averaging], self.WHOLE, initial_epoch=3)
        self.check(model, averaging)

    def test_after_a_backup(self, tmp_path):
        def train(model, *others):
            averaging = WeightAveraging(A.UniformAverage(), at_end="raw")
            backup = keras.callbacks.BackupAndRestore(tmp_path)
            callbacks = [*others, averaging, backup]
            references.fit(model, callbacks, self.WHOLE, validation_data=(X, Y))
            return averaging

        class Break(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 3:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(linear_model(sgd()), Break())
        model = linear_model(sgd())
        self.check(model, train(model))

    def test_a_second_fit_begins_anew(self):
        model = linear_model(sgd())
        for _ in range(2):
            references.fit(model, [WeightAveraging(A.UniformAverage())], 2)
        loop = references.SGD()
        loop.train(2 * STEPS)
        loop.w = trajectory(2 * STEPS).mean(0)
        expected = np.mean([loop.train(1).copy() for _ in range(2 * STEPS)], axis=0)
        np.testing.assert_allclose(references.weights(model), expected, atol=2e-6)

    def test_without_averages_it_begins_with_what_is_left(self):
        model = linear_model(sgd())
        references.fit(model, epochs=2)
        averaging = WeightAveraging(A.UniformAverage())
        references.fit(model, [averaging], 4, initial_epoch=2)
        expected = trajectory(4 * STEPS)[2 * STEPS :].mean(0)
        np.testing.assert_allclose(references.weights(model), expected, atol=2e-6)

    def test_a_fit_without_it_goes_on_as_if_there_were_no_averages(self):
        model, plain = linear_model(sgd()), linear_model(sgd())
        references.fit(model, [WeightAveraging(at_end="raw")], 2)
        references.fit(plain, epochs=2)
        for one in (model, plain):
            references.fit(one, epochs=2)
        np.testing.assert_allclose(
            references.weights(model), references.weights(plain), atol=1e-6
        )

    def test_many_fits_compile_once(self):
        calls = []

        class Counted(keras.layers.Dense):
            def call(self, inputs):
                calls.append(1)
                return super().call(inputs)

        model = keras.Sequential([keras.Input((3,)), Counted(1)])
        model.compile(sgd(), "mse")
        for _ in range(2):
            references.fit(model, [WeightAveraging()], 1)
        before = len(calls)
        for _ in range(3):
            references.fit(model, [WeightAveraging()], 1)
        per_fit = STEPS if BACKEND == "torch" else 0
        assert len(calls) == before + 3 * per_fit

    @pytest.mark.slow
    def test_in_a_process_of_its_own(self, tmp_path):
        processes.call(averaged.train, tmp_path, "first")
        last, average = self.expected()
        found = processes.call(averaged.train, tmp_path, "second")
        np.testing.assert_allclose(found["raw"], last, atol=2e-6)
        np.testing.assert_allclose(found["average"], average, atol=2e-6)


class TestPrecision:
    def test_mixed_float16(self):
        dense = keras.layers.Dense(1, use_bias=False, dtype="mixed_float16")
        model = keras.Sequential([keras.Input((3,)), dense])
        model.compile(keras.optimizers.LossScaleOptimizer(sgd(), 8.0), "mse")
        record = Record()
        references.fit(model, [record, WeightAveraging(A.UniformAverage())], 2)
        expected = np.mean([w for (w,) in record.weights], axis=0)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    def test_a_skipped_update_is_not_averaged(self):
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((3,)), dense])
        model.compile(keras.optimizers.LossScaleOptimizer(sgd()), "mse")
        x = X.copy()
        x[8:12] = np.inf
        record = Record()
        averaging = WeightAveraging(A.UniformAverage())
        model.fit(
            x, Y, batch_size=4, shuffle=False, verbose=0, callbacks=[record, averaging]
        )
        recorded = [w for (w,) in record.weights]
        assert (recorded[2] == recorded[1]).all()
        expected = np.mean(np.delete(recorded, 2, axis=0), axis=0)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    @pytest.mark.parametrize("built", [False, True])
    def test_an_average_of_bfloat16_does_not_stall(self, built):
        dense = keras.layers.Dense(
            1, use_bias=False, kernel_initializer="zeros", dtype="bfloat16"
        )
        model = keras.Sequential([keras.Input((1,), dtype="bfloat16"), dense])
        # Every update adds 2**-4, exactly.
        optimizer = keras.optimizers.SGD(2.0**-4)
        model.compile(optimizer, lambda y, prediction: -keras.ops.mean(prediction))
        x = np.ones((40, 1), "float32")
        if built:
            model.fit(x[:1], x[:1], verbose=0)
            model.set_weights([np.zeros((1, 1))])
        averaging = WeightAveraging(A.UniformAverage(), at_end="raw")
        model.fit(x, x, batch_size=1, verbose=0, callbacks=[averaging])
        assert float(model.get_weights()[0][0, 0]) == 40 / 16
        slot = optimizer._model_variables_moving_average[0]
        assert slot.dtype == "float32"
        found = keras.ops.convert_to_numpy(slot.value).item()
        assert found == pytest.approx(np.mean(np.arange(1, 41) / 16), rel=1e-6)
        # In and out, neither is rounded for good.
        model.evaluate(x, x, verbose=0, callbacks=[averaging])
        assert float(model.get_weights()[0][0, 0]) == 40 / 16
        assert keras.ops.convert_to_numpy(slot.value).item() == found


class TestBatchNorm:
    def model(self):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(2, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.Dense(1),
            ]
        )
        model.compile(sgd(), "mse")
        return model

    @staticmethod
    def assert_statistics_of(weights):
        """They are those of the first layer's outputs on all data."""
        kernel, _, _, mean, variance, *_ = weights
        outputs = X.astype(np.float64) @ kernel
        np.testing.assert_allclose(mean, outputs.mean(0), atol=1e-5)
        np.testing.assert_allclose(variance, outputs.var(0), rtol=1e-4)

    @pytest.mark.parametrize("at_end", ["average", "raw"])
    def test_statistics_are_those_of_the_average(self, tmp_path, at_end):
        plain, model = self.model(), self.model()
        references.fit(plain, epochs=2)
        path = str(tmp_path / "{epoch}.keras")
        averaging = WeightAveraging(
            A.UniformAverage(),
            at_end=at_end,
            batch_norm="recalibrate",
            batch_norm_data=X,
        )
        callbacks = [keras.callbacks.ModelCheckpoint(path), averaging]
        references.fit(model, callbacks, 2, validation_data=(X, Y), validation_freq=2)
        for epoch in (1, 2):
            saved = keras.saving.load_model(path.format(epoch=epoch))
            self.assert_statistics_of(saved.get_weights())
        if at_end == "average":
            self.assert_statistics_of(model.get_weights())
        else:
            for found, expected in zip(
                model.get_weights(), plain.get_weights(), strict=True
            ):
                np.testing.assert_allclose(found, expected, atol=1e-6)
            seen = []
            look = keras.callbacks.LambdaCallback(
                on_test_begin=lambda logs: seen.append(model.get_weights())
            )
            before = model.get_weights()
            model.evaluate(X, Y, verbose=0, callbacks=[averaging, look])
            self.assert_statistics_of(seen[0])
            for found, expected in zip(model.get_weights(), before, strict=True):
                np.testing.assert_array_equal(found, expected)

    def test_is_kept_otherwise(self):
        plain, model = self.model(), self.model()
        references.fit(plain, epochs=2)
        references.fit(model, [WeightAveraging(A.UniformAverage())], epochs=2)
        for index in (3, 4):
            np.testing.assert_allclose(
                model.get_weights()[index], plain.get_weights()[index], atol=1e-6
            )


def norm_model(optimizer=None, dtype="float32", **compiled):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(2, name="dense"),
        keras.layers.BatchNormalization(momentum=0.5, name="norm"),
        keras.layers.Dense(1, name="last"),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(optimizer or sgd(), "mse", **compiled)
    return model


def seen_by(model, averaging):
    """The weights that an evaluation with the callback sees."""
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: seen.append(model.get_weights())
    )
    model.evaluate(X, Y, verbose=0, callbacks=[averaging, look])
    return seen[0]


def assert_same(found, expected, atol=1e-6):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=atol)


def recorded(epochs=2, accumulated=None, **compiled):
    """All weights after each step, of a run without an average."""
    model, record = (
        norm_model(sgd(gradient_accumulation_steps=accumulated), **compiled),
        Record(),
    )
    references.fit(model, [record], epochs)
    return record.weights


class TestAveragedStatistics:
    """Moving means and variances are averaged as the weights are."""

    @pytest.mark.every_backend(3)
    @pytest.mark.parametrize("accumulated", [None, 5])
    @pytest.mark.parametrize("compiled", [*COMPILED, {"run_eagerly": True}], ids=str)
    def test_are_the_mean_of_all_that_were_seen(self, compiled, accumulated):
        model = norm_model(sgd(gradient_accumulation_steps=accumulated), **compiled)
        averaging = WeightAveraging(
            A.UniformAverage(), batch_norm="average", at_end="raw"
        )
        references.fit(model, [averaging], 2)
        steps = recorded(2, accumulated, **compiled)
        assert_same(model.get_weights(), steps[-1], 2e-6)
        before = model.get_weights()
        taken = steps[(accumulated or 1) - 1 :: accumulated or 1]
        expected = [np.mean(group, axis=0) for group in zip(*taken, strict=True)]
        for _ in range(2):
            assert_same(seen_by(model, averaging), expected, 2e-6)
            for one, other in zip(model.get_weights(), before, strict=True):
                np.testing.assert_array_equal(one, other)

    @pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no steps per execution")
    def test_with_several_steps_per_execution(self):
        model = norm_model(steps_per_execution=4)
        averaging = WeightAveraging(A.UniformAverage(), batch_norm="average")
        references.fit(model, [averaging], 2)
        expected = [np.mean(group, axis=0) for group in zip(*recorded(), strict=True)]
        assert_same(model.get_weights(), expected, 2e-6)

    def test_epochs_and_files_hold_them_and_fits_follow_one_another(self, tmp_path):
        model, steps = norm_model(), recorded(3)
        path = str(tmp_path / "{epoch}.keras")
        averaging = WeightAveraging(
            A.UniformAverage(), batch_norm="average", at_end="raw"
        )
        callbacks = [averaging, keras.callbacks.ModelCheckpoint(path)]
        references.fit(model, callbacks, 2, validation_data=(X, Y))
        references.fit(model, callbacks, 3, initial_epoch=2)
        for epoch in (1, 2, 3):
            saved = keras.saving.load_model(path.format(epoch=epoch))
            taken = steps[: epoch * STEPS]
            expected = [np.mean(group, axis=0) for group in zip(*taken, strict=True)]
            assert_same(saved.get_weights(), expected, 2e-6)
        assert_same(model.get_weights(), steps[-1], 2e-6)

    def test_a_later_beginning_is_waited_for(self):
        model = norm_model()
        averaging = WeightAveraging(
            A.UniformAverage(), start_step=STEPS + 5, batch_norm="average"
        )
        references.fit(model, [averaging], 2)
        taken = recorded(2)[STEPS + 5 :]
        expected = [np.mean(group, axis=0) for group in zip(*taken, strict=True)]
        assert_same(model.get_weights(), expected, 2e-6)

    @pytest.mark.every_backend
    def test_those_of_layers_that_are_not_chosen_stay_as_they_are(self):
        layers = [
            keras.layers.BatchNormalization(name="enc"),
            keras.layers.Dense(1, name="head"),
            keras.layers.BatchNormalization(name="norm_of_head"),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(sgd(), "mse")
        averaging = WeightAveraging(
            A.UniformAverage(), include="enc/", batch_norm="average", at_end="raw"
        )
        references.fit(model, [averaging], 1)
        raw, seen = model.get_weights(), seen_by(model, averaging)
        for variable, one, other in zip(model.weights, raw, seen, strict=True):
            same = np.array_equal(one, other)
            assert same != ("enc/" in variable.path), variable.path

    def test_an_update_that_is_skipped_is_not_averaged(self):
        # The loss scale is infinite after float32: the first update is skipped.
        model = norm_model(keras.optimizers.LossScaleOptimizer(sgd(), 1e38))
        record = Record()
        averaging = WeightAveraging(A.UniformAverage(), batch_norm="average")
        references.fit(model, [record, averaging], 1)
        kernels = [weights[0] for weights in record.weights]
        start = norm_model().get_weights()[0]
        moved = [
            not np.array_equal(one, other)
            for one, other in zip(kernels, [start, *kernels[:-1]], strict=True)
        ]
        assert not all(moved)
        assert any(moved)
        taken = [w for w, kept in zip(record.weights, moved, strict=True) if kept]
        expected = [np.mean(group, axis=0) for group in zip(*taken, strict=True)]
        assert_same(model.get_weights(), expected, 2e-6)

    @pytest.mark.every_backend
    @pytest.mark.parametrize("every", ["epoch", 3])
    @pytest.mark.slow
    def test_a_run_that_was_killed_resumes_exactly(self, tmp_path, every):
        class Break(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                if self.model.optimizer.iterations == 25:
                    raise KeyboardInterrupt

        def train(*others):
            averaging = WeightAveraging(
                A.UniformAverage(), batch_norm="average", at_end="raw"
            )
            model = norm_model()
            resumable = ResumableTraining(tmp_path, every, verbose=0)
            references.fit(model, [*others, averaging, resumable], 4)
            return [*model.get_weights(), *seen_by(model, averaging)]

        whole = train()
        with pytest.raises(KeyboardInterrupt):
            train(Break())
        for found, expected in zip(train(), whole, strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_what_cannot_resume_says_so(self, tmp_path):
        path = tmp_path / "model.keras"
        averaging = WeightAveraging(batch_norm="average", at_end="raw")
        callbacks = [averaging, keras.callbacks.ModelCheckpoint(path)]
        references.fit(norm_model(), callbacks, 2)
        model = keras.saving.load_model(path)
        with pytest.raises(ValueError, match="resume with `ResumableTraining`"):
            references.fit(model, [averaging], 3, initial_epoch=2)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        with pytest.raises(ValueError, match="instead of it"):
            references.fit(norm_model(), [averaging, backup], 1)

    @pytest.mark.skipif(BACKEND != "torch", reason="compares with PyTorch's own")
    def test_equal_the_averaged_model_of_torch_step_by_step(self):
        import torch
        from torch.optim import swa_utils

        class Mirror(torch.nn.Module):
            """Parameters and buffers that follow those of a Keras model."""

            def __init__(self, model):
                super().__init__()
                for variable in model.trainable_variables:
                    value = variable.value.detach().clone()
                    self.register_parameter(variable.name, torch.nn.Parameter(value))
                for variable in model.non_trainable_variables:
                    self.register_buffer(variable.name, variable.value.clone())

            def follow(self, model):
                held = {**dict(self.named_parameters()), **dict(self.named_buffers())}
                for variable in model.weights:
                    held[variable.name].data.copy_(variable.value)

        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(2), keras.layers.BatchNormalization(momentum=0.5)]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(keras.optimizers.Adam(0.05), "mse")
        mirror = Mirror(model)
        theirs = swa_utils.AveragedModel(
            mirror, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
        )
        theirs.update_parameters(mirror)  # Their first is a copy.

        class Compare(keras.callbacks.Callback):
            compared = 0

            def on_train_batch_end(self, batch, logs=None):
                mirror.follow(self.model)
                theirs.update_parameters(mirror)
                expected = {
                    **dict(theirs.module.named_parameters()),
                    **dict(theirs.module.named_buffers()),
                }
                averaging.swap_in()
                for variable in self.model.weights:
                    found = variable.value.detach().numpy()
                    wanted = expected[variable.name].detach().numpy()
                    np.testing.assert_allclose(found, wanted, atol=1e-6)
                    self.compared += 1
                averaging.swap_out()

        averaging = WeightAveraging(
            A.ExponentialAverage(0.9, debias=False), batch_norm="average"
        )
        compare = Compare()
        model.fit(
            X,
            np.repeat(Y, 2, 1),
            batch_size=4,
            epochs=2,
            verbose=0,
            callbacks=[averaging, compare],
        )
        assert compare.compared == 6 * 2 * STEPS


class TestChoice:
    @pytest.mark.every_backend
    @pytest.mark.parametrize(
        ("arguments", "chosen"),
        [
            ({"include": "dense/"}, [0, 1]),
            ({"exclude": ["norm/", "bias$"]}, [0, 6]),
            ({"include": ["dense/", "last/"], "exclude": "bias"}, [0, 6]),
        ],
    )
    def test_what_is_not_chosen_is_seen_as_it_is(self, arguments, chosen):
        model, steps = norm_model(), recorded()
        averaging = WeightAveraging(A.UniformAverage(), at_end="raw", **arguments)
        references.fit(model, [averaging], 2, validation_data=(X, Y))
        expected = list(steps[-1])
        for index in chosen:
            expected[index] = np.mean([weights[index] for weights in steps], axis=0)
        assert_same(seen_by(model, averaging), expected, 2e-6)
        assert_same(model.get_weights(), steps[-1], 2e-6)

    def test_a_file_resumes(self, tmp_path):
        path, steps = tmp_path / "model.keras", recorded(4)
        arguments = {"include": "dense/", "at_end": "raw"}
        averaging = WeightAveraging(A.UniformAverage(), **arguments)
        checkpoint = keras.callbacks.ModelCheckpoint(path)
        references.fit(norm_model(), [averaging, checkpoint], 2)
        model = keras.saving.load_model(path)
        averaging = WeightAveraging(A.UniformAverage(), **arguments)
        references.fit(model, [averaging], 4, initial_epoch=2)
        expected = list(steps[-1])
        for index in (0, 1):
            expected[index] = np.mean([weights[index] for weights in steps], axis=0)
        assert_same(seen_by(model, averaging), expected, 1e-5)

    def test_an_expression_that_is_found_nowhere_names_the_paths(self):
        model = norm_model()
        with pytest.raises(ValueError, match=r"dense/kernel.*include='backbone'"):
            references.fit(model, [WeightAveraging(include="backbone")], 1)
        with pytest.raises(ValueError, match="leave a variable"):
            references.fit(model, [WeightAveraging(exclude=["/"])], 1)


class TestInitial:
    AVERAGE = A.ExponentialAverage(0.9, debias=False)

    def expected(self, initial):
        for weights in trajectory(STEPS):
            initial = 0.9 * initial + 0.1 * weights
        return initial

    @pytest.mark.every_backend
    @pytest.mark.parametrize("kind", ["model", "arrays", "path"])
    def test_is_what_the_average_begins_with(self, tmp_path, kind):
        other, first = linear_model(sgd()), np.full((3, 1), 2.0)
        other.set_weights([first])
        path = tmp_path / "other.weights.h5"
        other.save_weights(path)
        initial = {"model": other, "arrays": [first], "path": path}[kind]
        model = linear_model(sgd())
        references.fit(model, [WeightAveraging(self.AVERAGE, initial=initial)], 1)
        expected = self.expected(first)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)
        assert (references.weights(other) == 2.0).all()

    def test_is_the_average_that_keras_has_kept(self, tmp_path):
        keras_own = linear_model(sgd(use_ema=True, ema_momentum=0.9))
        path = tmp_path / "model.keras"
        checkpoint = keras.callbacks.ModelCheckpoint(path)
        references.fit(keras_own, [checkpoint], 1)
        loaded = keras.saving.load_model(path)
        steps = trajectory(STEPS)
        average = steps[0]
        for weights in steps[1:]:
            average = 0.9 * average + 0.1 * weights
        # The file has the weights of the training, and their average.
        np.testing.assert_allclose(references.weights(loaded), steps[-1], atol=1e-6)
        model = linear_model(sgd())
        references.fit(model, [WeightAveraging(self.AVERAGE, initial=loaded)], 1)
        expected = self.expected(average)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    def test_goes_with_the_statistics(self):
        model, other = norm_model(), norm_model()
        other.set_weights([value + 3.0 for value in other.get_weights()])
        averaging = WeightAveraging(self.AVERAGE, batch_norm="average", initial=other)
        references.fit(model, [averaging], 1)
        expected = other.get_weights()
        for weights in recorded(1):
            expected = [
                0.9 * x + 0.1 * y for x, y in zip(expected, weights, strict=True)
            ]
        assert_same(model.get_weights(), expected, 1e-5)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"initial": 3}, TypeError, "initial=3"),
            ({"initial": "missing.weights.h5"}, ValueError, "missing"),
            ({"initial": [np.zeros((3, 1))] * 2}, ValueError, "2 weights"),
            ({"initial": [np.zeros((2, 1))]}, ValueError, r"shape \(3, 1\) for"),
            (
                {"initial": [np.zeros((3, 1))], "average": A.UniformAverage()},
                ValueError,
                "keep a share of `initial`",
            ),
            (
                {"initial": [np.zeros((3, 1))], "start_step": 3},
                ValueError,
                "start_step=0",
            ),
        ],
    )
    def test_that_does_not_fit_is_refused(self, arguments, error, message):
        arguments = {"average": self.AVERAGE, **arguments}
        with pytest.raises(error, match=message):
            references.fit(linear_model(sgd()), [WeightAveraging(**arguments)], 1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"average": "0.9"}, TypeError, "average='0.9'"),
            ({"average": 1.5}, ValueError, "`average` must be < 1. Received: average="),
            ({"average": S.Constant(0.9)}, TypeError, "Argument `average`"),
            ({"start_step": -1}, ValueError, "start_step=-1"),
            ({"start_step": None}, ValueError, "start_step=None"),
            ({"update_every": 0}, ValueError, "update_every=0"),
            ({"update_every": "step"}, ValueError, "update_every='step'"),
            ({"at_end": "both"}, ValueError, "at_end='both'"),
            ({"batch_norm": "forget"}, ValueError, "batch_norm='forget'"),
            ({"batch_norm": "recalibrate"}, ValueError, "batch_norm_data=None"),
            ({"batch_norm_data": X}, ValueError, "batch_norm_data"),
            (
                {
                    "batch_norm": "recalibrate",
                    "batch_norm_data": X,
                    "batch_norm_steps": 0,
                },
                ValueError,
                "batch_norm_steps=0",
            ),
        ],
    )
    def test_of_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            WeightAveraging(**arguments)

    @pytest.mark.parametrize(
        ("averaging", "message"),
        [
            (WeightAveraging(start_step=40), "start_step=40"),
            (WeightAveraging(start_step=Epochs(4)), "start_step=Epochs"),
            (WeightAveraging(update_every="cycle"), "no cycle ends"),
            (WeightAveraging(update_every="epoch", start_step=35), None),
        ],
    )
    def test_of_lengths_before_the_first_step(self, averaging, message):
        model = linear_model(sgd())
        if message is None:
            references.fit(model, [averaging])
            return
        with pytest.raises(ValueError, match=message):
            references.fit(model, [averaging])
        assert (references.weights(model) == 0.0).all()

    @pytest.mark.parametrize(
        "other", [WeightAveraging(), keras.callbacks.SwapEMAWeights()]
    )
    def test_of_others_that_exchange_weights(self, other):
        model = linear_model(sgd())
        with pytest.raises(ValueError, match=type(other).__name__):
            references.fit(model, [WeightAveraging(), other])

    def test_of_an_optimizer_that_averages_itself(self):
        model = linear_model(sgd(use_ema=True))
        with pytest.raises(ValueError, match="use_ema=True"):
            references.fit(model, [WeightAveraging()])

    def test_builds_a_model_that_is_not_built(self):
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(sgd(), "mse")
        references.fit(model, [WeightAveraging(A.UniformAverage())])
        assert model.built

    def test_a_training_that_ends_too_early_warns(self):
        model = linear_model(sgd())

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = True

        averaging = WeightAveraging(start_step=Epochs(2))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            references.fit(model, [averaging, Stop()])
        (message,) = [str(w.message) for w in caught if w.category is UserWarning]
        assert "before an update was averaged" in message
        expected = trajectory(STEPS)[-1]
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)


def test_a_copy_takes_no_part():
    averaging = WeightAveraging(A.UniformAverage())
    references.fit(linear_model(sgd()), [averaging], 1)
    other = copy.deepcopy(averaging)
    assert other.average == averaging.average
    model = linear_model(sgd())
    references.fit(model, [other], 1)
    expected = trajectory(STEPS).mean(0)
    np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's checkpoints")
def test_tensorflow_saves_checkpoints_of_the_optimizer(tmp_path):
    import tensorflow as tf

    model = linear_model(sgd())
    references.fit(model, epochs=1)  # It is built without averages.
    references.fit(model, [WeightAveraging(at_end="raw")], 1)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(
        str(tmp_path / "checkpoint")
    )
    names = [name for name, _ in tf.train.list_variables(path)]
    # The average and the velocity, after the iteration and the rate.
    assert sum("optimizer/_variables/" in name for name in names) == 2
    model.export(tmp_path / "exported", verbose=False)
