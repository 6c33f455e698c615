"""Schedules of variables: what each forward pass sees, against NumPy."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    ResumableTraining,
    VariableScheduler,
)
from tests.callbacks import forward
from tests.callbacks.forward import BATCH, FALLING, OWN, STEPS, beta, number

S = lrs.schedules
BACKEND = keras.backend.backend()

pytestmark = pytest.mark.every_backend

SETTINGS = [{}, {"run_eagerly": True}, {"jit_compile": False}]
if BACKEND != "torch":
    SETTINGS += [
        {"jit_compile": True},
        {"steps_per_execution": 4},  # 6 steps per epoch: 4, 2.
        {"steps_per_execution": 4, "run_eagerly": True},
    ]

WARMUP = S.Warmup(S.Constant(1.0), lrs.Epochs(3))


def scheduler(model, schedule=FALLING):
    return VariableScheduler([(beta(model), schedule)])


class Break(keras.callbacks.Callback):
    """Breaks a run off when an epoch begins, ends or is in the middle."""

    def __init__(self, hook, epoch):
        super().__init__()
        self.epoch = epoch
        setattr(self, hook, self.stop)

    def stop(self, index, logs=None):
        if index == self.epoch:
            raise KeyboardInterrupt


class TestTheForwardPass:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_every_step_sees_its_value(self, settings):
        model = forward.model(**settings)
        seen = forward.fit(model, [scheduler(model)])
        np.testing.assert_array_equal(seen, forward.values(0, 3 * STEPS))
        assert number(beta(model)) == OWN

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_a_weight_that_is_warmed_up_over_three_epochs(self, settings):
        model = forward.model(**settings)
        seen = forward.fit(model, [scheduler(model, WARMUP)], epochs=5)
        expected = np.minimum(np.arange(5 * STEPS) / (3 * STEPS), 1.0)
        np.testing.assert_allclose(seen, expected, atol=5e-7)

    def test_fits_with_and_without_a_schedule_follow_each_other(self):
        model = forward.model()
        for schedule in (None, FALLING, None, WARMUP, FALLING, FALLING, None):
            callbacks = [] if schedule is None else [scheduler(model, schedule)]
            seen = forward.fit(model, callbacks, epochs=1)
            expected = forward.values(0, STEPS)
            if schedule is None:
                expected = np.full(STEPS, OWN)
            elif schedule is WARMUP:
                expected = np.arange(STEPS) / (3 * STEPS)
            np.testing.assert_allclose(seen, expected, atol=1e-5)

    def test_batches_of_another_size_are_steps_too(self):
        model = forward.model()
        x = forward.X[: 3 * BATCH + 1]  # 4, 4, 4, 1.
        seen = forward.fit(model, [scheduler(model)], 2, x=x, y=forward.Y[: len(x)])
        seen = seen.reshape(2, STEPS)[:, :4].ravel()
        np.testing.assert_array_equal(seen, forward.values(0, 8))

    def test_micro_batches_are_steps(self):
        optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=3)
        model = forward.model(optimizer)
        seen = 3.0 * forward.fit(model, [scheduler(model)])
        np.testing.assert_allclose(seen, forward.values(0, 3 * STEPS), rtol=1e-6)

    def test_a_path_names_the_variable(self):
        model = forward.model()
        by_path = VariableScheduler({beta(model).path: FALLING})
        seen = forward.fit(model, [by_path])
        np.testing.assert_array_equal(seen, forward.values(0, 3 * STEPS))
        assert by_path.bound == {beta(model).path: FALLING}

    def test_beside_a_schedule_of_the_rate(self):
        model = forward.model()
        rate = S.LinearDecay(1.0)
        callbacks = [scheduler(model), HyperparameterScheduler(rate)]
        seen = forward.fit(model, callbacks)
        expected = forward.values(0, 3 * STEPS) * rate.bind(18).curve(18)
        np.testing.assert_allclose(seen, expected, atol=1e-6)

    def test_several_variables(self):
        inputs = keras.Input((STEPS,))
        layers = [forward.Recorder(name=name) for name in ("one", "two")]
        outputs = layers[0](inputs) + layers[1](inputs)
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(1.0), forward.mean_of_prediction)
        pairs = [(layers[0].beta, FALLING), (layers[1].beta, S.LinearDecay(2.0))]
        model.fit(
            *(forward.X, forward.Y, BATCH),
            shuffle=False,
            verbose=0,
            callbacks=[VariableScheduler(pairs)],
        )
        for layer, expected in zip(
            layers, (forward.values(0, 6), 2.0 - np.arange(6) / 3.0), strict=True
        ):
            seen = keras.ops.convert_to_numpy(layer.seen.value)[:, 0]
            np.testing.assert_allclose(seen, expected, rtol=1e-6)

    def test_a_step_of_the_users(self):
        class Own(keras.Sequential):
            def train_step(self, *arguments):
                return super().train_step(*arguments)

        layers = [keras.Input((STEPS,)), forward.Recorder()]
        model = Own(layers)
        model.compile(keras.optimizers.SGD(1.0), forward.mean_of_prediction)
        seen = forward.fit(model, [scheduler(model)])
        np.testing.assert_array_equal(seen, forward.values(0, 3 * STEPS))

    def test_a_dropout_rate_that_is_held_in_a_variable(self):
        class Dropout(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.rate = self.add_weight(shape=(), trainable=False, name="rate")
                self.seeds = keras.random.SeedGenerator(3)

            def call(self, x, training=False):
                if not training:
                    return x
                kept = keras.random.uniform(keras.ops.shape(x), seed=self.seeds)
                return keras.ops.where(kept < self.rate, 0.0, x / (1.0 - self.rate))

        class Share(keras.layers.Layer):
            def call(self, x):
                zeros = keras.ops.cast(x == 0.0, "float32")
                return keras.ops.mean(zeros, axis=1, keepdims=True)

        dropout, dense = Dropout(), keras.layers.Dense(1, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((10_000,)), dropout, Share(), dense])
        model.compile(keras.optimizers.SGD(0.0), forward.mean_of_prediction)
        rates = S.PiecewiseConstant([1, 2], [0.0, 0.5, 0.75])
        x, y = np.ones((1, 10_000), "float32"), np.ones((1, 1), "float32")
        history = model.fit(
            *(x, y),
            epochs=3,
            verbose=0,
            callbacks=[VariableScheduler([(dropout.rate, rates)])],
        )
        np.testing.assert_allclose(history.history["loss"], [0.0, 0.5, 0.75], atol=0.03)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a pipeline of TensorFlow")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_end_of_the_data_is_no_step(jit_compile):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((forward.X, forward.Y)).batch(BATCH)
    data = data.filter(lambda *_: True)  # Of unknown length.
    model, record = forward.model(jit_compile=jit_compile), forward.Record()
    callbacks = [scheduler(model), record]
    model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
    np.testing.assert_array_equal(record.values, forward.values(0, 3 * STEPS))
    assert record.held == forward.values(0, 3 * STEPS)[STEPS - 1 :: STEPS].tolist()


class TestOptimizers:
    def test_a_loss_scale_optimizer_does_not_count_what_it_skips(self):
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(1.0), initial_scale=4.0
        )
        model = forward.model(optimizer)
        weight = np.ones(len(forward.X), "float32")
        weight[2 * BATCH] = np.inf  # The third batch makes no update.
        seen = forward.fit(model, [scheduler(model)], 1, sample_weight=weight)
        expected = np.insert(forward.values(0, STEPS - 1), 2, 0.0)
        np.testing.assert_array_equal(seen, expected)

    @pytest.mark.skipif(
        not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
    )
    def test_of_several_optimizers_the_one_that_is_ahead_counts(self):
        optimizers = [keras.optimizers.SGD(1.0, name=name) for name in ("a", "b")]
        optimizers[0].iterations.assign(5)  # Of an earlier fit.
        multi = keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(
                optimizers[0], {".*recorder.*": optimizers[1]}
            )
        )
        layers = [keras.Input((STEPS,)), forward.Recorder(name="recorder")]
        model = keras.Sequential([*layers, keras.layers.Dense(1, name="late")])
        model.layers[-1].kernel.trainable = False
        model.layers[-1].kernel.assign([[1.0]])
        model.compile(multi, forward.mean_of_prediction)
        logger = HyperparameterLogger()
        seen = forward.fit(model, [scheduler(model), logger])
        np.testing.assert_array_equal(seen, forward.values(0, 3 * STEPS))
        logged = model.history.history[beta(model).path]
        assert logged == forward.values(0, 18)[5::6].tolist()


class TestWhatOthersSee:
    def test_validation_sees_the_value_of_the_last_step(self):
        model = forward.model()
        x = np.ones((BATCH, STEPS), "float32")
        y = np.zeros((BATCH, 1), "float32")
        record = forward.Record()
        history = model.fit(
            *(forward.X, forward.Y, BATCH, 3),
            shuffle=False,
            verbose=0,
            validation_data=(x, y),
            callbacks=[scheduler(model), record],
        )
        held = forward.values(0, 3 * STEPS)[STEPS - 1 :: STEPS]
        assert record.held == held.tolist()
        totals = np.array([seen.sum() for seen in record.seen[1:]])
        np.testing.assert_allclose(
            history.history["val_loss"], -held * totals, rtol=1e-6
        )

    def test_what_is_logged_is_what_the_last_forward_pass_saw(self):
        model = forward.model()
        callbacks = [scheduler(model), HyperparameterLogger()]
        forward.fit(model, callbacks)
        logged = model.history.history[beta(model).path]
        assert logged == forward.values(0, 3 * STEPS)[STEPS - 1 :: STEPS].tolist()
        assert model.history.history["learning_rate"] == [1.0] * 3

    def test_what_is_logged_where_a_step_makes_several_updates(self, tmp_path):
        class Twice(keras.Sequential):
            def train_step(self, *arguments):
                first = super().train_step(*arguments)
                if BACKEND == "jax":
                    arguments = first[1], arguments[1]
                return super().train_step(*arguments)

        layers = [keras.Input((STEPS,)), forward.Recorder()]
        model = Twice(layers)
        model.compile(keras.optimizers.SGD(1.0), forward.mean_of_prediction)
        seen = forward.fit(model, [scheduler(model), HyperparameterLogger()])
        expected = forward.values(0, 6 * STEPS)[::2]
        np.testing.assert_array_equal(seen, 2.0 * expected)
        logged = model.history.history[beta(model).path]
        assert logged == expected[STEPS - 1 :: STEPS].tolist()

    def test_tensorboard_has_the_value_of_every_step(self, tmp_path):
        pytest.importorskip("tensorboard.summary.writer.event_file_writer")
        from tensorboard.backend.event_processing import event_accumulator

        model = forward.model()
        logger = HyperparameterLogger(every=1, log_dir=tmp_path)
        forward.fit(model, [scheduler(model), logger])
        events = event_accumulator.EventAccumulator(str(tmp_path))
        events.Reload()
        scalars = events.Scalars(beta(model).path)
        assert [scalar.step for scalar in scalars] == list(range(3 * STEPS))
        values = [scalar.value for scalar in scalars]
        assert values == forward.values(0, 3 * STEPS).tolist()


class TestTheEnd:
    @pytest.mark.parametrize(
        ("hook", "at"),
        [
            ("on_epoch_begin", 1),
            ("on_epoch_end", 1),
            ("on_train_batch_begin", 3),
            ("on_train_batch_end", 3),
        ],
    )
    def test_the_users_value_comes_back_however_it_ends(self, hook, at):
        model = forward.model()
        with pytest.raises(KeyboardInterrupt):
            forward.fit(model, [scheduler(model), Break(hook, at)])
        assert number(beta(model)) == OWN
        assert "train_step" not in vars(model)
        seen = forward.fit(model, [], epochs=1)
        np.testing.assert_allclose(seen, OWN)

    def test_the_users_value_comes_back_when_the_data_breaks_off(self):
        class Broken(keras.utils.PyDataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                if index == 3:
                    raise OSError("The disk broke.")
                return forward.X[:BATCH], forward.Y[:BATCH]

        model = forward.model()
        with pytest.raises(Exception, match="The disk broke"):
            model.fit(Broken(), verbose=0, callbacks=[scheduler(model)])
        seen = forward.fit(model, [], epochs=1)
        np.testing.assert_allclose(seen, OWN)

    def test_also_when_the_best_weights_are_restored(self):
        model = forward.model()
        stop = keras.callbacks.EarlyStopping(
            "loss", patience=1, mode="max", restore_best_weights=True
        )
        forward.fit(model, [scheduler(model), stop], epochs=5)
        assert number(beta(model)) == OWN

    def test_a_model_that_is_saved_meanwhile_holds_the_value_of_the_step(
        self, tmp_path
    ):
        model = forward.model()
        path = tmp_path / "model.keras"
        save = keras.callbacks.ModelCheckpoint(path)
        forward.fit(model, [scheduler(model), save], epochs=2)
        custom = {"mean_of_prediction": forward.mean_of_prediction}
        loaded = keras.saving.load_model(path, custom_objects=custom)
        assert number(beta(loaded)) == forward.values(0, 12)[-1]


class TestResuming:
    def test_initial_epoch(self):
        model = forward.model()
        first = forward.fit(model, [scheduler(model, WARMUP)], epochs=1)
        second = forward.fit(
            model, [scheduler(model, WARMUP)], epochs=5, initial_epoch=1
        )
        expected = np.minimum(np.arange(5 * STEPS) / (3 * STEPS), 1.0)
        np.testing.assert_allclose(np.append(first, second), expected, atol=1e-6)

    def test_backup_and_restore(self, tmp_path):
        def backup():
            return keras.callbacks.BackupAndRestore(tmp_path / "backup")

        model = forward.model()
        with pytest.raises(KeyboardInterrupt):
            forward.fit(model, [backup(), scheduler(model), Break("on_epoch_begin", 2)])
        again = forward.model()
        record = forward.Record()
        again.fit(
            *(forward.X, forward.Y, BATCH, 3),
            shuffle=False,
            verbose=0,
            callbacks=[backup(), scheduler(again), record],
        )
        np.testing.assert_allclose(
            record.total, forward.values(0, 18).reshape(3, STEPS).sum(axis=0)
        )
        assert number(beta(again)) == OWN

    @pytest.mark.parametrize(("every", "at"), [("epoch", 1), (2, 4)])
    def test_resumable_training(self, every, at, tmp_path):
        hook = "on_epoch_end" if every == "epoch" else "on_train_batch_end"

        def resumable():
            return ResumableTraining(tmp_path / "run", every, verbose=0)

        keras.utils.set_random_seed(1)
        model = forward.model()
        with pytest.raises(KeyboardInterrupt):
            forward.fit(model, [resumable(), scheduler(model), Break(hook, at)])
        again, last = forward.model(), resumable()
        record = forward.Record()
        again.fit(
            *(forward.X, forward.Y, BATCH, 3),
            shuffle=False,
            verbose=0,
            callbacks=[last, scheduler(again), HyperparameterLogger(), record],
        )
        assert last.resumed_from is not None
        np.testing.assert_allclose(
            record.total, forward.values(0, 18).reshape(3, STEPS).sum(axis=0)
        )
        assert number(beta(again)) == OWN


class TestRefusals:
    def refused(self, message, schedules, error=ValueError, model=None):
        model = forward.model() if model is None else model
        with pytest.raises(error, match=message):
            forward.fit(model, [VariableScheduler(schedules)], epochs=1)
        assert not np.any(keras.ops.convert_to_numpy(model.layers[0].seen.value))

    def test_nothing_to_schedule(self):
        for nothing in ([], {}, ()):
            self.refused("hold at least one schedule", nothing)

    def test_what_is_no_list_of_pairs(self):
        for wrong in (3, "beta", [1.0], [(1, 2, 3)], None):
            self.refused("list of pairs", wrong, (TypeError, ValueError))

    def test_a_number_or_a_layer(self):
        for target in (0.5, keras.layers.Dropout(0.5)):
            message = r"constant of the compiled step.*self\.add_weight"
            self.refused(message, [(target, FALLING)], TypeError)

    def test_what_is_no_schedule(self):
        model = forward.model()
        message = "LearningRateSchedule(.|\n)*Constant"
        self.refused(message, [(beta(model), 0.5)], TypeError, model)

    def test_a_variable_that_is_trained(self):
        class Trained(forward.Recorder):
            def build(self, shape):
                super().build(shape)
                self.scale = self.add_weight(shape=(), name="scale")

        model = keras.Sequential([keras.Input((STEPS,)), Trained()])
        model.compile(keras.optimizers.SGD(1.0), forward.mean_of_prediction)
        scale = model.layers[0].scale
        for target in (scale, scale.path):
            self.refused("not trained", [(target, FALLING)], model=model)

    def test_a_variable_with_a_shape_or_of_integers(self):
        for variable in (
            keras.Variable([1.0], trainable=False),
            keras.Variable(1, dtype="int32", trainable=False),
            keras.Variable(True, dtype="bool", trainable=False),
        ):
            self.refused(r"one float, of shape \(\)", [(variable, FALLING)])

    def test_a_path_that_the_model_does_not_have(self):
        message = r"0 have this path\. Those .* are: recorder/beta"
        self.refused(message, {"recorder/gamma": FALLING})

    def test_a_variable_of_the_optimizer(self):
        model = forward.model()
        rate = model.optimizer.learning_rate
        message = "HyperparameterScheduler"
        self.refused(message, [(rate, FALLING)], model=model)

    def test_one_variable_twice(self):
        model = forward.model()
        pairs = [(beta(model), FALLING), (beta(model), WARMUP)]
        self.refused("one schedule", pairs, model=model)
        one, other = scheduler(model), scheduler(model, WARMUP)
        with pytest.raises(ValueError, match=r"recorder/beta.*must have one schedule"):
            forward.fit(model, [one, other])

    def test_values_that_are_not_finite(self):
        @keras.saving.register_keras_serializable(package="keras_lrs_tests")
        def reciprocal(step):
            return 1.0 / (step - 3.0)

        model = forward.model()
        schedules = [(beta(model), S.FunctionSchedule(reciprocal))]
        with np.errstate(divide="ignore"):
            message = "finite in float32. Received: inf at step 3"
            self.refused(message, schedules, (ValueError, ZeroDivisionError), model)

    @pytest.mark.skipif(BACKEND != "jax", reason="JAX compiles values into the step")
    def test_on_jax_a_variable_that_is_not_the_models(self):
        free = keras.Variable(1.0, trainable=False)
        self.refused(r"non_trainable_variables(.|\n)*on JAX", [(free, FALLING)])

    @pytest.mark.skipif(BACKEND == "jax", reason="refused there")
    def test_elsewhere_a_variable_of_the_loss_is_enough(self):
        free = keras.Variable(1.0, trainable=False)
        model = forward.model()
        model.compile(
            keras.optimizers.SGD(1.0),
            lambda y, prediction: free * keras.ops.mean(prediction),
        )
        seen = forward.fit(model, [VariableScheduler([(free, FALLING)])])
        np.testing.assert_allclose(seen, OWN * forward.values(0, 3 * STEPS), rtol=1e-6)
        assert number(free) == 1.0

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_data_of_unknown_length_needs_bound_schedules(self):
        model = forward.model()

        def batches():
            for k in range(STEPS):
                part = slice(k * BATCH, (k + 1) * BATCH)
                yield forward.X[part], forward.Y[part]

        with pytest.raises(ValueError, match=r"recorder/beta(.|\n)*steps_per_epoch"):
            model.fit(
                batches(),
                shuffle=False,
                verbose=0,
                callbacks=[scheduler(model, WARMUP)],
            )

    def test_a_train_function_without_a_train_step(self):
        if BACKEND == "torch":
            pytest.skip("there variables are set before every execution")

        class Odd(keras.Sequential):
            def make_train_function(self, force=False):
                keep = type(self).train_step.__get__(self)
                hidden = self.__dict__.pop("train_step", None)
                self.train_step = keep
                try:
                    super().make_train_function(force)
                finally:
                    del self.__dict__["train_step"]
                    if hidden is not None:
                        self.__dict__["train_step"] = hidden

        model = Odd([keras.Input((STEPS,)), forward.Recorder()])
        model.compile(keras.optimizers.SGD(1.0), forward.mean_of_prediction)
        with pytest.raises(RuntimeError, match="never called `train_step`"):
            forward.fit(model, [scheduler(model)])
