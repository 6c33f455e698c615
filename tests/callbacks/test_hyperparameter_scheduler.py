"""Schedules that `fit` binds, against loops in NumPy."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import HyperparameterScheduler
from tests.callbacks import references
from tests.ramp import Positions, mean_of_prediction, ramp

S = lrs.schedules
BACKEND = keras.backend.backend()

RATE = S.Warmup(S.CosineAnnealing(0.05), lrs.Fraction(0.25))
MOMENTUM = S.LinearDecay(0.95, end_learning_rate=0.5)

SETTINGS = [{}, {"run_eagerly": True}]
if BACKEND == "torch":
    SETTINGS += [{"jit_compile": False}]
else:
    SETTINGS += [
        {"jit_compile": True},
        {"jit_compile": False},
        {"steps_per_execution": 4},  # 10 steps per epoch: 4, 4, 2.
    ]


def sgd(**arguments):
    return keras.optimizers.SGD(0.01, momentum=0.9, **arguments)


def curves(num_steps=40, **schedules):
    return {
        name: schedule.bind(num_steps, references.STEPS).curve(num_steps)
        for name, schedule in schedules.items()
    }


def assert_same_weights(model, reference, atol=1e-6):
    np.testing.assert_allclose(references.weights(model), reference.w, atol=atol)


class TestTheStep:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_rate_and_momentum_are_those_of_the_loop(self, settings):
        model = references.linear_model(sgd(), **settings)
        scheduler = HyperparameterScheduler(learning_rate=RATE, momentum=MOMENTUM)
        references.fit(model, [scheduler])
        loop = references.SGD()
        loop.train(40, **curves(learning_rate=RATE, momentum=MOMENTUM))
        assert_same_weights(model, loop)

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_fits_with_and_without_schedules_follow_each_other(self, settings):
        model = references.linear_model(sgd(), **settings)
        loop = references.SGD()
        frozen = {"learning_rate": S.Constant(0.0), "momentum": S.Constant(0.5)}
        driven = {"learning_rate": RATE, "momentum": MOMENTUM}
        plain = {"learning_rate": S.Constant(0.01), "momentum": S.Constant(0.9)}
        for schedules in (plain, driven, plain, frozen, driven, driven, plain):
            callbacks = [HyperparameterScheduler(**schedules)]
            references.fit(model, [] if schedules is plain else callbacks, epochs=2)
            loop.train(20, **curves(20, **schedules))
            assert_same_weights(model, loop)

    def test_a_loaded_model_is_driven_too(self, tmp_path):
        model = references.linear_model(sgd())
        references.fit(model, epochs=1)
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
        scheduler = HyperparameterScheduler(learning_rate=RATE, momentum=MOMENTUM)
        references.fit(model, [scheduler])
        loop = references.SGD()
        loop.train(10, learning_rate=np.full(10, 0.01))
        loop.train(40, **curves(learning_rate=RATE, momentum=MOMENTUM))
        assert_same_weights(model, loop)

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_nesterov_momentum(self, nesterov):
        model = references.linear_model(sgd(nesterov=nesterov))
        scheduler = HyperparameterScheduler(learning_rate=RATE, momentum=MOMENTUM)
        references.fit(model, [scheduler])
        loop = references.SGD(nesterov)
        loop.train(40, **curves(learning_rate=RATE, momentum=MOMENTUM))
        assert_same_weights(model, loop)

    @pytest.mark.parametrize("given", [None, 0.3])
    def test_weight_decay(self, given):
        model = references.linear_model(sgd(weight_decay=given))
        decay = S.LinearDecay(0.2)
        references.fit(
            model, [HyperparameterScheduler(learning_rate=RATE, weight_decay=decay)]
        )
        loop = references.SGD()
        loop.train(40, **curves(learning_rate=RATE, weight_decay=decay))
        assert_same_weights(model, loop)
        assert model.optimizer.weight_decay == given

    @pytest.mark.parametrize("given", [None, 1.0])
    def test_clipnorm(self, given):
        model = references.linear_model(sgd(clipnorm=given))
        norm = S.ExponentialDecay(0.5, 20, 0.5)
        references.fit(
            model, [HyperparameterScheduler(learning_rate=RATE, clipnorm=norm)]
        )
        loop = references.SGD()
        loop.train(40, **curves(learning_rate=RATE), clip=norm.curve(40))
        assert_same_weights(model, loop)

    def test_a_momentum_of_zero_forgets_the_velocity_as_the_formula_does(self):
        momentum = S.PiecewiseConstant([10, 20], [0.9, 0.0, 0.9])
        model = references.linear_model(sgd())
        references.fit(
            model, [HyperparameterScheduler(learning_rate=RATE, momentum=momentum)]
        )
        loop = references.SGD()
        loop.train(40, **curves(learning_rate=RATE, momentum=momentum))
        assert_same_weights(model, loop)

    def test_rmsprop(self):
        schedules = {
            "learning_rate": S.LinearDecay(0.02),
            "momentum": MOMENTUM,
            "rho": S.LinearDecay(0.99, end_learning_rate=0.8),
        }
        model = references.linear_model(keras.optimizers.RMSprop(0.1, momentum=0.1))
        references.fit(model, [HyperparameterScheduler(**schedules)])
        loop = references.RMSprop()
        loop.train(40, **curves(**schedules))
        assert_same_weights(model, loop, atol=2e-6)

    def test_lion(self):
        schedules = {
            "learning_rate": S.LinearDecay(0.02),
            "beta_1": S.LinearDecay(0.95, end_learning_rate=0.8),
            "beta_2": S.LinearDecay(0.8, end_learning_rate=0.2),
        }
        model = references.linear_model(keras.optimizers.Lion(0.1))
        references.fit(model, [HyperparameterScheduler(**schedules)])
        loop = references.Lion()
        loop.train(40, **curves(**schedules))
        assert_same_weights(model, loop)

    def test_the_ema_of_keras(self):
        optimizer = sgd(use_ema=True, ema_momentum=0.5)
        model = references.linear_model(optimizer)
        ema = S.LinearDecay(0.9, end_learning_rate=0.1)
        references.fit(model, [HyperparameterScheduler(ema_momentum=ema)])
        loop = references.SGD()
        average = None
        for decay in curves(ema=ema)["ema"]:
            loop.train(1, learning_rate=[0.01])
            w = loop.w
            average = w if average is None else decay * average + (1 - decay) * w
        # Keras puts the average into the model when `fit` ends.
        np.testing.assert_allclose(references.weights(model), average, atol=1e-6)

    @pytest.mark.parametrize(
        "name", ["Adadelta", "Adamax", "Lamb", "Muon", "Nadam", "Ftrl", "Adafactor"]
    )
    def test_every_optimizer_of_keras_takes_all_that_it_names(self, name):
        if not hasattr(keras.optimizers, name):
            pytest.skip(f"this Keras has no {name}")
        from keras_lrs._step import hyperparameters

        optimizer = getattr(keras.optimizers, name)(0.01)
        names = [
            hyperparameter
            for hyperparameter in hyperparameters.names(optimizer)
            if hyperparameter not in ("ema_momentum", "clipvalue", "global_clipnorm")
            and getattr(optimizer, hyperparameter, None) is not None
        ]
        twin = references.linear_model(getattr(keras.optimizers, name)(0.01))
        model = references.linear_model(optimizer)
        values = {n: getattr(optimizer, n) for n in names if n != "learning_rate"}
        schedules = {n: S.Constant(abs(float(v))) for n, v in values.items() if v >= 0}
        # Held at what the optimizer has anyway, schedules must not change anything.
        references.fit(
            model,
            [HyperparameterScheduler(learning_rate=S.Constant(0.01), **schedules)],
        )
        references.fit(twin)
        np.testing.assert_allclose(
            references.weights(model), references.weights(twin), rtol=2e-6, atol=1e-6
        )


ADAMW = {
    "learning_rate": S.OneCycle(0.05),
    "beta_1": S.LinearDecay(0.95, end_learning_rate=0.8),
    "beta_2": S.LinearDecay(0.999, end_learning_rate=0.95),
    "weight_decay": S.LinearDecay(0.1),
}


class TestAdam:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_the_bias_is_corrected_with_the_product_of_the_betas(self, settings):
        optimizer = keras.optimizers.AdamW(0.01)
        model = references.linear_model(optimizer, **settings)
        references.fit(model, [HyperparameterScheduler(**ADAMW)])
        loop = references.Adam()
        loop.train(40, **curves(**ADAMW))
        assert_same_weights(model, loop, atol=5e-6)

    def test_also_in_a_second_fit(self):
        model = references.linear_model(keras.optimizers.Adam(0.01))
        schedules = {"beta_1": ADAMW["beta_1"]}
        references.fit(model, epochs=1)
        references.fit(model, [HyperparameterScheduler(**schedules)], epochs=2)
        loop = references.Adam()
        loop.train(10, learning_rate=np.full(10, 0.01))
        loop.train(20, learning_rate=np.full(20, 0.01), **curves(20, **schedules))
        assert_same_weights(model, loop, atol=5e-6)

    def test_also_when_the_same_schedule_is_played_again(self):
        optimizer = keras.optimizers.Adam(0.01)
        model = references.linear_model(optimizer)
        schedules = {name: ADAMW[name] for name in ("beta_1", "beta_2")}
        loop = references.Adam()
        for scheduled in (True, True, False, True):
            callbacks = [HyperparameterScheduler(**schedules)] if scheduled else []
            if scheduled:
                loop.train(
                    10, learning_rate=np.full(10, 0.01), **curves(10, **schedules)
                )
                references.fit(model, callbacks, epochs=1)
                assert_same_weights(model, loop, atol=5e-6)
            else:
                # Keras's own correction; what it leaves behind is its own beta.
                optimizer.learning_rate = 0.0
                references.fit(model, epochs=1)
                optimizer.learning_rate = 0.01
                loop.train(10, learning_rate=np.zeros(10))

    def test_also_when_micro_batches_are_accumulated(self):
        beta = S.LinearDecay(0.95, 40, 0.6)
        optimizer = keras.optimizers.Adam(0.05, gradient_accumulation_steps=4)
        model = references.linear_model(optimizer)
        references.fit(model, [HyperparameterScheduler(beta_1=beta)])
        loop = references.Adam()
        for update in range(10):
            steps = range(4 * update, 4 * update + 4)
            mean = np.mean(
                [references.gradient(loop.w, step) for step in steps], axis=0
            )
            loop.update(mean, beta_1=beta.curve(40)[steps[-1]])
        assert_same_weights(model, loop, atol=5e-6)

    def test_a_constant_beta_is_keras_exactly(self):
        model = references.linear_model(keras.optimizers.Adam(0.05, beta_1=0.9))
        twin = references.linear_model(keras.optimizers.Adam(0.05, beta_1=0.9))
        references.fit(model, [HyperparameterScheduler(beta_1=S.Constant(0.9))])
        references.fit(twin)
        np.testing.assert_allclose(
            references.weights(model), references.weights(twin), rtol=1e-6
        )


class TestMomentumCorrection:
    DROP = S.PiecewiseConstant([13, 27], [0.05, 0.005, 0.02])

    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_the_velocity_follows_the_rate(self, settings, nesterov):
        model = references.linear_model(sgd(nesterov=nesterov), **settings)
        scheduler = HyperparameterScheduler(
            learning_rate=self.DROP, momentum=MOMENTUM, momentum_correction=True
        )
        references.fit(model, [scheduler])
        loop = references.SGD(nesterov, corrected=True)
        loop.train(40, **curves(learning_rate=self.DROP, momentum=MOMENTUM))
        assert_same_weights(model, loop)

    def test_it_makes_a_difference(self):
        loops = [references.SGD(corrected=corrected) for corrected in (True, False)]
        for loop in loops:
            loop.train(15, learning_rate=self.DROP.curve(15))
        assert np.abs(loops[0].w - loops[1].w).max() > 0.01

    def test_a_resumed_training_goes_on_with_the_last_rate(self):
        straight = references.linear_model(sgd())
        resumed = references.linear_model(sgd())
        for model, parts in ((straight, [(0, 4)]), (resumed, [(0, 2), (2, 4)])):
            for initial_epoch, epochs in parts:
                scheduler = HyperparameterScheduler(
                    learning_rate=self.DROP, momentum_correction=True
                )
                references.fit(
                    model, [scheduler], epochs=epochs, initial_epoch=initial_epoch
                )
        np.testing.assert_array_equal(
            references.weights(straight), references.weights(resumed)
        )

    @pytest.mark.parametrize(
        ("optimizer", "received"),
        [
            (lambda: keras.optimizers.Adam(), "Adam"),
            (lambda: keras.optimizers.SGD(0.1), "SGD with momentum=0"),
        ],
    )
    def test_it_needs_sgd_with_a_momentum(self, optimizer, received):
        model = references.linear_model(optimizer())
        scheduler = HyperparameterScheduler(
            learning_rate=RATE, momentum_correction=True
        )
        with pytest.raises(ValueError, match=rf"`momentum_correction`.*{received}"):
            references.fit(model, [scheduler])

    def test_it_needs_a_rate(self):
        with pytest.raises(ValueError, match=r"`momentum_correction`.*learning_rate"):
            HyperparameterScheduler(momentum=MOMENTUM, momentum_correction=True)
        with pytest.raises(TypeError, match=r"`momentum_correction`.*1"):
            HyperparameterScheduler(learning_rate=RATE, momentum_correction=1)


class TestBinding:
    """What rates a training uses, seen where each update adds the rate to a weight."""

    def rates(self, epochs, optimizer=None, data=None, schedule=None, **arguments):
        """The sum of the rates of every epoch."""
        schedule = S.LinearDecay(0.1) if schedule is None else schedule
        model = arguments.pop("model", None)
        if model is None:
            model = ramp(keras.optimizers.SGD(0.3) if optimizer is None else optimizer)
        record = Positions()
        x = np.zeros((8, 1), "float32")
        data = {"x": x, "y": x, "batch_size": 1} if data is None else data
        model.fit(
            **data,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[HyperparameterScheduler(learning_rate=schedule), record],
            **arguments,
        )
        return np.diff(record.positions)

    def expected(self, total, steps, first=0):
        curve = S.LinearDecay(0.1, total).curve(total)
        return curve.reshape(-1, steps).sum(axis=1)[first:]

    def test_a_schedule_ends_with_the_training(self):
        np.testing.assert_allclose(self.rates(3), self.expected(24, 8), rtol=1e-5)

    def test_an_uneven_last_batch_is_a_step(self):
        x = np.zeros((10, 1), "float32")
        data = {"x": x, "y": x, "batch_size": 4}  # 4, 4, 2.
        np.testing.assert_allclose(
            self.rates(2, data=data), self.expected(6, 3), rtol=1e-5
        )

    def test_initial_epoch_goes_on_where_it_says(self):
        model = ramp(keras.optimizers.SGD(0.3))
        first = self.rates(2, model=model, schedule=S.LinearDecay(0.1, 32))
        second = self.rates(4, model=model, initial_epoch=2)
        both = np.concatenate([first, second])
        np.testing.assert_allclose(both, self.expected(32, 8), rtol=1e-5)

    def test_initial_epoch_without_the_optimizers_state_is_the_same_place(self):
        late = self.rates(4, initial_epoch=3)
        np.testing.assert_allclose(late, self.expected(32, 8, first=3), rtol=1e-5)

    def test_a_second_fit_starts_afresh(self):
        model = ramp(keras.optimizers.SGD(0.3))
        for _ in range(2):
            rates = self.rates(2, model=model)
            np.testing.assert_allclose(rates, self.expected(16, 8), rtol=1e-5)
        longer = self.rates(3, model=model)
        np.testing.assert_allclose(longer, self.expected(24, 8), rtol=1e-5)

    def test_steps_per_epoch(self):
        def batches():
            while True:
                yield np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32")

        rates = self.rates(2, data={"x": batches()}, steps_per_epoch=5)
        np.testing.assert_allclose(rates, self.expected(10, 5), rtol=1e-5)

    def test_class_weight_and_sample_weight_change_no_step(self):
        x = np.zeros((8, 1), "float32")
        data = {"x": x, "y": np.zeros(8, "int32"), "batch_size": 1}
        rates = self.rates(2, data=data, class_weight={0: 1.0})
        np.testing.assert_allclose(rates, self.expected(16, 8), rtol=1e-5)

    def test_a_py_dataset(self):
        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 6

            def __getitem__(self, index):
                return np.zeros((2, 1), "float32"), np.zeros((2, 1), "float32")

        rates = self.rates(2, data={"x": Batches()})
        np.testing.assert_allclose(rates, self.expected(12, 6), rtol=1e-5)

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="a pipeline of TensorFlow")
    def test_a_tf_data_pipeline(self):
        import tensorflow as tf

        x = np.zeros((9, 1), "float32")
        known = tf.data.Dataset.from_tensor_slices((x, x)).batch(2)
        rates = self.rates(2, data={"x": known})
        np.testing.assert_allclose(rates, self.expected(10, 5), rtol=1e-5)
        repeated = known.repeat()
        rates = self.rates(2, data={"x": repeated}, steps_per_epoch=7)
        np.testing.assert_allclose(rates, self.expected(14, 7), rtol=1e-5)
        unknown = known.filter(lambda *_: True)
        with pytest.raises(ValueError, match="steps_per_epoch"):
            self.rates(2, data={"x": unknown})

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="a pipeline of TensorFlow")
    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    @pytest.mark.parametrize("jit_compile", [True, False])
    def test_data_whose_end_only_tensorflow_knows(self, jit_compile):
        import tensorflow as tf

        x = np.zeros((9, 1), "float32")
        unknown = tf.data.Dataset.from_tensor_slices((x, x)).batch(2)
        unknown = unknown.filter(lambda *_: True)
        schedule = S.LinearDecay(0.1, 20)
        model = ramp(keras.optimizers.SGD(0.3), jit_compile=jit_compile)
        rates = self.rates(4, data={"x": unknown}, model=model, schedule=schedule)
        expected = schedule.curve(20).reshape(4, 5).sum(axis=1)
        np.testing.assert_allclose(rates, expected, rtol=1e-5)
        # The end of the data is no step.
        assert int(model.optimizer.iterations) == 20

    def test_gradient_accumulation_ends_with_the_training(self):
        optimizer = keras.optimizers.SGD(0.3, gradient_accumulation_steps=4)
        total = self.rates(2, optimizer).sum()
        # Updates at micro-batches 3, 7, 11 and 15 of 16.
        used = S.LinearDecay(0.1, 16)(np.array([3, 7, 11, 15])).sum()
        assert total == pytest.approx(used, rel=1e-5)

    def test_a_training_that_is_stopped_early_is_bound_to_all_its_epochs(self):
        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch == 1

        model, record = ramp(keras.optimizers.SGD(0.3)), Positions()
        scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.1))
        x = np.zeros((8, 1), "float32")
        model.fit(x, x, 1, 4, verbose=0, callbacks=[scheduler, record, Stop()])
        np.testing.assert_allclose(
            np.diff(record.positions), self.expected(32, 8)[:2], rtol=1e-5
        )

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_data_of_unknown_length_needs_bound_schedules(self):
        def batches(count):
            for _ in range(count):
                yield np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32")

        with pytest.raises(ValueError, match=r"`learning_rate`.*`steps_per_epoch=`"):
            self.rates(1, data={"x": batches(6)})
        rates = self.rates(1, data={"x": batches(6)}, schedule=S.LinearDecay(0.1, 6))
        np.testing.assert_allclose(rates, self.expected(6, 6), rtol=1e-5)

    def test_lengths_in_epochs_and_fractions(self):
        schedule = S.Warmup(S.StepDecay(0.1, lrs.Epochs(1)), lrs.Fraction(0.25))
        bound = schedule.bind(32, 8).curve(32).reshape(4, 8).sum(axis=1)
        rates = self.rates(4, schedule=schedule)
        np.testing.assert_allclose(rates, bound, atol=1e-6)

    def test_schedules_of_others(self):
        theirs = keras.optimizers.schedules.PolynomialDecay(0.1, 16, 0.0)
        rates = self.rates(2, schedule=theirs)
        np.testing.assert_allclose(rates, self.expected(16, 8), rtol=1e-5)

    def test_the_schedule_of_the_rate_may_be_given_without_a_name(self):
        x = np.zeros((8, 1), "float32")
        scheduler = HyperparameterScheduler(S.LinearDecay(0.1), momentum=MOMENTUM)
        model = ramp(keras.optimizers.SGD(0.3, momentum=0.9))
        model.fit(x, x, 1, 3, verbose=0, callbacks=[scheduler])
        assert scheduler.bound["learning_rate"] == S.LinearDecay(0.1, 24)
        assert scheduler.schedules == {
            "learning_rate": S.LinearDecay(0.1),
            "momentum": MOMENTUM,
        }
        HyperparameterScheduler(S.LinearDecay(0.1), momentum_correction=True)

    def test_what_was_bound_can_be_looked_at(self):
        scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.1))
        assert scheduler.bound == {}
        x = np.zeros((8, 1), "float32")
        ramp(keras.optimizers.SGD(0.3)).fit(
            x, x, 1, 3, verbose=0, callbacks=[scheduler]
        )
        assert scheduler.bound == {"learning_rate": S.LinearDecay(0.1, 24)}


class TestWrappers:
    def test_a_loss_scale_optimizer_passes_skipped_steps_over(self):
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.3), initial_scale=4.0
        )
        model = ramp(optimizer)
        x = np.ones((8, 1), "float32")
        weight = np.ones(8, "float32")
        weight[2] = np.inf  # Its gradient is not finite: no update.
        scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.1))
        model.fit(
            x,
            x,
            1,
            shuffle=False,
            verbose=0,
            sample_weight=weight,
            callbacks=[scheduler],
        )
        position = float(keras.ops.convert_to_numpy(model.position))
        assert int(optimizer.iterations) == 7
        # The seven updates use the first seven rates.
        assert position == pytest.approx(S.LinearDecay(0.1, 8).curve(7).sum(), rel=1e-5)

    @pytest.mark.skipif(
        not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
    )
    def test_optimizers_that_are_chosen_by_a_function(self):
        chosen = keras.optimizers.SGD(0.3, momentum=0.9, name="chosen")
        model = references.linear_model(
            keras.optimizers.MultiOptimizer(lambda variable: chosen)
        )
        references.fit(model, [HyperparameterScheduler(learning_rate=RATE)])
        loop = references.SGD()
        loop.train(40, **curves(learning_rate=RATE))
        assert_same_weights(model, loop)
        assert float(chosen.learning_rate) == pytest.approx(0.3)

    @pytest.mark.skipif(
        not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
    )
    @pytest.mark.parametrize("scaled", [False, True])
    def test_each_optimizer_of_several_can_have_its_own(self, scaled):
        first = keras.optimizers.SGD(0.3, momentum=0.9, name="first")
        second = keras.optimizers.SGD(0.3, momentum=0.9, name="second")
        optimizer = keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(first, {"late/.*": second})
        )
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        dense = [
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=name)
            for name in ("early", "late")
        ]
        inputs = keras.Input((1,))
        model = keras.Model(inputs, [dense[0](inputs), dense[1](inputs)])
        model.compile(optimizer, [mean_of_prediction, mean_of_prediction])
        x = np.ones((8, 1), "float32")
        rates = {"first": S.LinearDecay(0.1), "second": S.CosineAnnealing(0.01)}
        momentum = S.LinearDecay(0.9)
        scheduler = HyperparameterScheduler(learning_rate=rates, momentum=momentum)
        model.fit(x, [x, x], 1, 2, shuffle=False, verbose=0, callbacks=[scheduler])
        for layer, rate in zip(dense, rates.values(), strict=True):
            w, v = 1.0, 0.0
            values = curves(16, rate=rate, momentum=momentum)
            for k in range(16):
                v = values["momentum"][k] * v - values["rate"][k]
                w += v
            weight = keras.ops.convert_to_numpy(layer.kernel.value).item()
            assert weight == pytest.approx(w, rel=1e-5)
        assert set(scheduler.bound["learning_rate"]) == {"first", "second"}
        unknown = HyperparameterScheduler(learning_rate={"third": S.LinearDecay(0.1)})
        with pytest.raises(ValueError, match=r"`learning_rate`.*second, first"):
            model.fit(x, [x, x], verbose=0, callbacks=[unknown])

    def test_mixed_precision(self):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = ramp(sgd())
        finally:
            keras.config.set_dtype_policy("float32")
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        scheduler = HyperparameterScheduler(learning_rate=RATE, momentum=MOMENTUM)
        x = np.zeros((8, 1), "float32")
        model.fit(x, x, 1, 5, verbose=0, callbacks=[scheduler])
        w = v = 0.0
        values = RATE.bind(40, 8).curve(40), MOMENTUM.bind(40, 8).curve(40)
        for rate, momentum in zip(*values, strict=True):
            v = momentum * v + rate
            w += v
        position = keras.ops.convert_to_numpy(model.position).item()
        assert position == pytest.approx(w, rel=1e-6)


def test_a_number_is_a_constant_schedule():
    model = references.linear_model(keras.optimizers.SGD(0.01, momentum=0.5))
    callback = HyperparameterScheduler(momentum=0.9, learning_rate=np.array(0.02))
    references.fit(model, [callback])
    loop = references.SGD()
    loop.train(40, learning_rate=np.full(40, 0.02), momentum=np.full(40, 0.9))
    np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)
    assert model.optimizer.momentum == 0.5


class TestRefusals:
    """Before the first step: the weights have not moved."""

    def refused(self, optimizer, message, *callbacks, error=ValueError):
        model = references.linear_model(optimizer)
        before = references.weights(model)
        with pytest.raises(error, match=message):
            references.fit(model, callbacks)
        np.testing.assert_array_equal(references.weights(model), before)
        assert "apply" not in vars(model.optimizer)

    @pytest.mark.parametrize(
        ("optimizer", "names", "message"),
        [
            (lambda: keras.optimizers.Adam(), ["momentum"], "`momentum`.*Use `beta_1`"),
            (lambda: sgd(), ["beta_1"], "`beta_1`.*Use `momentum`"),
            (lambda: sgd(), ["learning_rte"], "`learning_rte`.*learning_rate, "),
            (lambda: keras.optimizers.SGD(0.1), ["momentum"], "momentum=0.0"),
            (lambda: sgd(), ["ema_momentum"], "`ema_momentum`.*use_ema=True"),
            (lambda: sgd(nesterov=True), ["nesterov"], "`nesterov`"),
            (lambda: sgd(clipvalue=1.0), ["clipnorm"], "`clipnorm`.*clipvalue=1.0"),
            (lambda: sgd(), ["clipnorm", "clipvalue"], "`clipvalue`.*`clipnorm`"),
            (lambda: sgd(), ["gradient_accumulation_steps"], "has: learning_rate"),
            (lambda: keras.optimizers.SGD(RATE.bind(9)), ["learning_rate"], "float"),
            (lambda: keras.optimizers.SGD(lambda: 0.1), ["learning_rate"], "float"),
        ],
    )
    def test_what_the_optimizer_does_not_have_or_use(self, optimizer, names, message):
        schedules = dict.fromkeys(names, S.Constant(0.5))
        self.refused(optimizer(), message, HyperparameterScheduler(**schedules))

    @pytest.mark.parametrize("value", [1.0, 1.5])
    def test_a_momentum_that_leaves_its_range(self, value):
        momentum = S.PiecewiseConstant([30], [0.9, value])
        self.refused(
            sgd(),
            rf"`momentum`.*\[0, 1\).*{value:g} at step 30",
            HyperparameterScheduler(momentum=momentum),
        )

    def test_two_schedules_for_one_hyperparameter(self):
        self.refused(
            sgd(),
            "`momentum` of `SGD` must have one schedule",
            HyperparameterScheduler(momentum=MOMENTUM),
            HyperparameterScheduler(learning_rate=RATE, momentum=MOMENTUM),
        )

    @pytest.mark.parametrize(
        "theirs",
        [
            lambda: keras.callbacks.ReduceLROnPlateau("loss"),
            lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
        ],
    )
    @pytest.mark.parametrize("before", [True, False])
    def test_callbacks_of_keras_that_set_the_rate(self, theirs, before):
        ours = HyperparameterScheduler(learning_rate=RATE)
        callbacks = [theirs(), ours] if before else [ours, theirs()]
        name = type(theirs()).__name__
        self.refused(sgd(), f"`HyperparameterScheduler`.*`{name}`", *callbacks)

    def test_an_empty_dictionary(self):
        with pytest.raises(TypeError, match=r"`learning_rate`.*\{\}"):
            HyperparameterScheduler(learning_rate={})

    def test_what_is_no_schedule(self):
        with pytest.raises(TypeError, match=r"`momentum`.*or a number.*'0\.9'"):
            HyperparameterScheduler(momentum="0.9")
        with pytest.raises(ValueError, match=r"`momentum` must be >= 0.*=-0\.9"):
            HyperparameterScheduler(momentum=-0.9)
        with pytest.raises(ValueError, match="At least one"):
            HyperparameterScheduler()
        with pytest.raises(ValueError, match="At least one"):
            HyperparameterScheduler(None)
        with pytest.raises(TypeError, match=r"`learning_rate`.*FunctionSchedule"):
            HyperparameterScheduler(lambda epoch: 0.1)

    def test_a_step_that_does_not_call_apply(self):
        class Own(keras.Sequential):
            def train_step(self, *arguments):
                if BACKEND == "jax":
                    return {"loss": 0.0}, arguments[0]
                return {"loss": keras.ops.zeros(())}

        model = Own([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(sgd(), "mse")
        model.optimizer.build(model.trainable_variables)
        with pytest.raises(RuntimeError, match=r"(?i)sgd\w*\.apply"):
            references.fit(model, [HyperparameterScheduler(learning_rate=RATE)])

    def test_a_callback_that_was_not_told_of_a_training(self):
        with pytest.raises(RuntimeError, match=r"model\.fit"):
            HyperparameterScheduler(learning_rate=RATE).on_epoch_begin(0)
