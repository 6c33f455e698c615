"""`ScheduleFree` against the reference package and loops in NumPy."""

import itertools
import json

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import averages
from keras_lrs._keras.optimizers import leaves
from keras_lrs._keras.variables import number
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
)
from keras_lrs.optimizers import ScheduleFree
from tests import processes
from tests.callbacks import references
from tests.optimizers import loops, resumed

S = lrs.schedules
BACKEND = keras.backend.backend()
SGD = keras.optimizers.SGD

SETTINGS = [{}, {"run_eagerly": True}, {"jit_compile": False}]
if BACKEND != "torch":
    SETTINGS += [{"jit_compile": True}, {"steps_per_execution": 4}]

VARIANTS = [
    {},
    {"warmup_steps": 15},
    {"step_power": 1.0},
    {"weight_power": 0.0, "warmup_steps": 15},
    {"beta": 0.98, "step_power": 0.5, "warmup_steps": 5},
    {"beta": 0.0, "warmup_steps": 15},
    {"average": averages.ExponentialAverage(0.9)},
    {"average": averages.ExponentialAverage(0.9999), "beta": 0.0},
    {"average": averages.PolynomialAverage(3), "warmup_steps": 15},
]


def adamw(rate=0.05, **arguments):
    return keras.optimizers.AdamW(rate, beta_1=0.0, epsilon=1e-8, **arguments)


def x_and_y(model):
    """What the model holds in evaluation and in training."""
    optimizer = next(iter(wrappers(model.optimizer)))
    y = references.weights(model)
    with optimizer.averaged():
        return references.weights(model), y


def wrappers(optimizer):
    while not isinstance(optimizer, ScheduleFree):
        optimizer = optimizer.inner_optimizer
    return [optimizer]


def assert_same(model, loop, atol=1e-6):
    x, y = x_and_y(model)
    np.testing.assert_allclose(y, loop.y, atol=atol)
    np.testing.assert_allclose(x, loop.x, atol=atol)


class TestTheReferencePackage:
    """`schedulefree`, 50 steps on the same batches."""

    def train(self, kind, num_steps=50, **arguments):
        torch = pytest.importorskip("torch")
        peer = getattr(pytest.importorskip("schedulefree"), kind)
        w = torch.nn.Parameter(torch.zeros(3, 1))
        optimizer = peer([w], **arguments)
        optimizer.train()
        for k in range(num_steps):
            at = slice(4 * (k % 10), 4 * (k % 10) + 4)
            x, y = torch.tensor(references.X[at]), torch.tensor(references.Y[at])
            optimizer.zero_grad()
            ((x @ w - y) ** 2).mean().backward()
            optimizer.step()
        y = w.detach().numpy().copy()
        optimizer.eval()
        return w.detach().numpy(), y

    def compare(self, model, theirs, atol):
        references.fit(model, epochs=5)
        for ours, expected in zip(x_and_y(model), theirs, strict=True):
            np.testing.assert_allclose(ours, expected, atol=atol, rtol=0.0)

    @pytest.mark.parametrize("weight_decay", [0.0, 0.1])
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({}, {}),
            ({"warmup_steps": 20}, {"warmup_steps": 20}),
            ({"step_power": 1.0}, {"r": 1.0}),
            ({"weight_power": 0.0}, {"weight_lr_power": 0.0}),
            (
                {"beta": 0.98, "step_power": 0.5, "warmup_steps": 5},
                {"momentum": 0.98, "r": 0.5, "warmup_steps": 5},
            ),
        ],
        ids=str,
    )
    def test_sgd(self, ours, theirs, weight_decay):
        expected = self.train(
            "SGDScheduleFree", lr=0.1, weight_decay=weight_decay, **theirs
        )
        inner = SGD(0.1, weight_decay=weight_decay or None)
        model = references.linear_model(ScheduleFree(inner, **ours))
        self.compare(model, expected, 1e-6)

    @pytest.mark.parametrize("warmup_steps", [0, 20])
    def test_adamw(self, warmup_steps):
        expected = self.train(
            "AdamWScheduleFree", lr=0.05, weight_decay=0.1, warmup_steps=warmup_steps
        )
        inner = adamw(weight_decay=0.1)
        model = references.linear_model(ScheduleFree(inner, warmup_steps=warmup_steps))
        self.compare(model, expected, 1e-4)


class TestTheStep:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    @pytest.mark.parametrize("variant", [VARIANTS[1], VARIANTS[5]], ids=str)
    def test_however_it_is_compiled(self, variant, settings):
        optimizer = ScheduleFree(SGD(0.1, weight_decay=0.1), **variant)
        model = references.linear_model(optimizer, **settings)
        references.fit(model)
        assert_same(model, loops.ScheduleFree(**variant).train(40, 0.1, 0.1))

    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    def test_every_average(self, variant):
        model = references.linear_model(ScheduleFree(SGD(0.1), **variant))
        references.fit(model)
        assert_same(model, loops.ScheduleFree(**variant).train(40, 0.1))

    def test_the_published_numbers(self):
        """Five steps on `x.T @ diag(1, 10) @ x / 2`."""
        optimizer = ScheduleFree(SGD(0.1), warmup_steps=10)
        w = keras.Variable([1.0, 1.0])
        for _ in range(5):
            gradient = w * np.array([1.0, 10.0], "float32")
            optimizer.apply_gradients([(gradient, w)])
        y = keras.ops.convert_to_numpy(w)
        np.testing.assert_allclose(y, [0.89083874, 0.23568234], atol=1e-7)
        with optimizer.averaged():
            x = keras.ops.convert_to_numpy(w)
        np.testing.assert_allclose(x, [0.89462895, 0.25484213], atol=1e-7)

    def test_without_beta_x_is_the_mean_of_what_the_optimizer_would_do_alone(self):
        alone = references.linear_model(SGD(0.1))
        model = references.linear_model(ScheduleFree(SGD(0.1), beta=0.0))
        z = []
        for step in range(10):
            at = slice(4 * step, 4 * step + 4)
            for one in (alone, model):
                one.train_on_batch(references.X[at], references.Y[at])
            z.append(references.weights(alone))
            np.testing.assert_array_equal(references.weights(model), z[-1])
        x, _ = x_and_y(model)
        np.testing.assert_allclose(x, np.mean(z, axis=0), atol=1e-6)

    def test_a_rate_of_zero_at_first_counts_nothing(self):
        rate = S.Warmup(S.Constant(0.1), 5)
        model = references.linear_model(ScheduleFree(SGD(rate)))
        references.fit(model)
        loop = loops.ScheduleFree().train(40, rate.curve(40))
        assert_same(model, loop)

    def test_a_rate_that_falls_keeps_the_weight_of_the_largest(self):
        rate = S.LinearDecay(0.1, 40)
        model = references.linear_model(ScheduleFree(SGD(rate)))
        references.fit(model)
        assert_same(model, loops.ScheduleFree().train(40, rate.curve(40)))

    def test_clipping(self):
        model = references.linear_model(ScheduleFree(SGD(0.1, clipnorm=0.5)))
        references.fit(model)
        assert_same(model, loops.ScheduleFree(clip=0.5).train(40, 0.1))

    @pytest.mark.parametrize(
        ("variant", "settings"),
        [
            *((VARIANTS[1], settings) for settings in SETTINGS),
            *((variant, {}) for variant in VARIANTS[4:7]),
        ],
        ids=str,
    )
    def test_gradient_accumulation(self, variant, settings):
        inner = SGD(0.1, weight_decay=0.1, gradient_accumulation_steps=3)
        optimizer = ScheduleFree(inner, **variant)
        model = references.linear_model(optimizer, **settings)
        references.fit(model)  # 13 updates, and one micro-batch more.
        loop = loops.ScheduleFree(accumulated=3, **variant).train(13, 0.1, 0.1)
        assert_same(model, loop)
        assert int(optimizer.iterations) == 13

    def test_a_second_fit_goes_on(self):
        model = references.linear_model(ScheduleFree(SGD(0.1), warmup_steps=15))
        references.fit(model, epochs=1)
        references.fit(model, epochs=3)
        assert_same(model, loops.ScheduleFree(warmup_steps=15).train(40, 0.1))

    @pytest.mark.parametrize("variant", [{}, {"beta": 0.0}], ids=str)
    def test_weights_given_after_it_was_built_are_where_it_starts(self, variant):
        model = references.linear_model(ScheduleFree(SGD(0.1), **variant))
        model.optimizer.build(model.trainable_variables)
        start = np.array([[1.0], [-1.0], [2.0]])
        model.set_weights([start])
        references.fit(model)
        assert_same(model, loops.ScheduleFree(start=start, **variant).train(40, 0.1))

    def test_it_counts_past_the_integers_of_a_float32(self):
        """After 2**24 equal steps, 1,000 more are 1,000 more."""
        optimizer = ScheduleFree(SGD(1.0))
        w = keras.Variable([0.0])
        optimizer.build([w])
        steps = {v.name: v for v in optimizer.variables}
        steps["weight_sum"].assign(2.0**24)
        steps["largest_learning_rate"].assign(1.0)
        steps["iteration"].assign(2**24)
        gradient = keras.ops.zeros((1,))
        for _ in range(1000):
            optimizer.apply([gradient], [w])
        assert number(steps["weight_sum"]) == 2.0**24 + 1000

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_data_whose_end_is_not_known(self):
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((references.X, references.Y))
        data = data.batch(references.BATCH).filter(lambda x, y: True)
        settings = {} if BACKEND == "torch" else {"steps_per_execution": 4}
        model = references.linear_model(ScheduleFree(SGD(0.1)), **settings)
        for _ in range(2):
            model.fit(data, shuffle=False, verbose=0)
        assert_same(model, loops.ScheduleFree().train(20, 0.1))

    def test_a_step_taken_at_the_average_goes_on_from_the_training_weights(self):
        model = references.linear_model(ScheduleFree(SGD(0.1)))
        references.fit(model, epochs=2)
        model.optimizer.use_average()
        references.fit(model, epochs=2)
        assert not model.optimizer.uses_average
        loop = loops.ScheduleFree().train(20, 0.1)
        loop.step_at_x(0.1)
        loop.train(19, 0.1)
        assert_same(model, loop)


class TestOtherModels:
    def embedding_model(self, optimizer):
        embedding = keras.layers.Embedding(7, 3, embeddings_initializer="ones")
        constraint = keras.constraints.NonNeg()
        dense = keras.layers.Dense(
            1, kernel_initializer="ones", kernel_constraint=constraint
        )
        layers = [keras.Input((2,), dtype="int32"), embedding]
        model = keras.Sequential([*layers, keras.layers.Flatten(), dense])
        model.compile(optimizer, "mse")
        return model

    def test_sparse_gradients_and_constraints(self):
        """As with a constraint that projects what a dense optimizer made."""
        rng = np.random.default_rng(0)
        x = rng.integers(0, 7, (40, 2))
        y = rng.normal(size=(40, 1)) - 3.0
        optimizer = ScheduleFree(SGD(0.1))
        model = self.embedding_model(optimizer)
        loop = loops.embedding(x, y, 0.1, batch=4)
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        with optimizer.averaged():
            for found, expected in zip(model.get_weights(), loop, strict=True):
                np.testing.assert_allclose(found, expected, atol=2e-6)
            assert (model.get_weights()[1] >= 0.0).all()

    @pytest.mark.filterwarnings("ignore:Gradients do not exist")
    def test_a_variable_without_a_gradient_stays(self):
        inputs = keras.Input((3,))
        used, unused = keras.layers.Dense(1), keras.layers.Dense(1)
        model = keras.Model(inputs, [used(inputs), unused(inputs)])
        model.compile(ScheduleFree(SGD(0.1)), ["mse", None])
        before = unused.get_weights()
        model.fit(references.X, [references.Y, references.Y], verbose=0)
        for now, then in zip(unused.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)
        model.optimizer.use_average()
        for now, then in zip(unused.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)

    def test_weight_decay_leaves_out_what_was_excluded(self):
        inner = SGD(0.1, weight_decay=0.5)
        optimizer = ScheduleFree(inner)
        optimizer.exclude_from_weight_decay(var_names=["^kernel$"])
        model = references.linear_model(optimizer)
        references.fit(model)
        assert_same(model, loops.ScheduleFree().train(40, 0.1))

    def test_whatever_has_no_momentum_trains(self):
        kinds = [
            keras.optimizers.RMSprop(0.01),
            keras.optimizers.Adagrad(0.1),
            keras.optimizers.Adadelta(1.0),
            keras.optimizers.Adafactor(0.1),
            keras.optimizers.Adam(0.05, beta_1=0.0, amsgrad=True),
            keras.optimizers.Adamax(0.05, beta_1=0.0),
            keras.optimizers.Lamb(0.05, beta_1=0.0),
        ]
        for inner in kinds:
            model = references.linear_model(ScheduleFree(inner))
            losses = references.fit(model).history["loss"]
            assert losses[-1] < losses[0], inner.name

    @pytest.mark.skipif(
        not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
    )
    def test_several_optimizers(self):
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)]
        )
        first, second = ScheduleFree(SGD(0.05)), ScheduleFree(adamw(0.01))
        paths = {id(v): i for i, v in enumerate(model.trainable_variables)}
        optimizer = keras.optimizers.MultiOptimizer(
            lambda v: first if paths[id(v)] < 2 else second
        )
        model.compile(optimizer, "mse")
        losses = model.fit(references.X, references.Y, epochs=3, verbose=0).history
        assert losses["loss"][-1] < losses["loss"][0]
        assert leaves(optimizer) == [
            first.inner_optimizer,
            second.inner_optimizer,
        ]
        assert int(first.iterations) == int(second.iterations) == 6


class TestPrecision:
    def test_a_loss_scale_changes_nothing(self):
        inner = ScheduleFree(SGD(0.1, weight_decay=0.1), warmup_steps=15)
        optimizer = keras.optimizers.LossScaleOptimizer(inner)
        model = references.linear_model(optimizer)
        references.fit(model)
        assert_same(model, loops.ScheduleFree(warmup_steps=15).train(40, 0.1, 0.1))
        assert int(optimizer.iterations) == 40
        assert float(optimizer.learning_rate) == pytest.approx(0.1)

    def test_a_step_that_the_loss_scale_skips_counts_nothing(self):
        inner = ScheduleFree(SGD(0.1), warmup_steps=15)
        model = references.linear_model(keras.optimizers.LossScaleOptimizer(inner))
        references.fit(model, epochs=1)
        bad = np.full((4, 3), np.inf, "float32")
        model.train_on_batch(bad, references.Y[:4])
        references.fit(model, epochs=3)
        assert_same(model, loops.ScheduleFree(warmup_steps=15).train(40, 0.1))

    def test_a_loss_scale_factor_of_the_optimizer_inside(self):
        optimizer = ScheduleFree(SGD(0.1, loss_scale_factor=1024.0))
        assert optimizer.loss_scale_factor == 1024.0
        model = references.linear_model(optimizer)
        references.fit(model)
        assert_same(model, loops.ScheduleFree().train(40, 0.1))

    @pytest.fixture
    def half(self):
        keras.config.set_dtype_policy("mixed_float16")
        yield
        keras.config.set_dtype_policy("float32")

    def test_mixed_precision(self, half, tmp_path):
        model = references.linear_model(ScheduleFree(SGD(0.1)))
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        model.optimizer.initial_scale = 16.0  # With which nothing overflows.
        references.fit(model)
        assert int(model.optimizer.iterations) == 40
        loop = loops.ScheduleFree().train(40, 0.1)
        assert_same(model, loop, atol=2e-3)
        model.optimizer.inner_optimizer.use_average()
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.inner_optimizer.uses_average
        loaded.optimizer.inner_optimizer.use_training_weights()
        np.testing.assert_allclose(references.weights(loaded), loop.y, atol=2e-3)

    def test_bfloat16_weights(self):
        dense = keras.layers.Dense(1, dtype="bfloat16")
        model = keras.Sequential([keras.Input((3,)), dense])
        model.compile(ScheduleFree(SGD(0.05), warmup_steps=5), "mse")
        losses = references.fit(model).history["loss"]
        assert losses[-1] < losses[0]
        with model.optimizer.averaged():
            assert keras.backend.standardize_dtype(dense.kernel.dtype) == "bfloat16"


@pytest.mark.every_backend
@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_a_mirrored_strategy():
    processes.call_with_devices("tests.optimizers.mirrored")


@pytest.mark.parametrize("variant", [{}, {"beta": 0.0}], ids=str)
class TestTheExchange:
    def trained(self, variant, **arguments):
        model = references.linear_model(ScheduleFree(SGD(0.1), **variant), **arguments)
        references.fit(model)
        return model, model.optimizer

    def test_twice_is_once(self, variant):
        model, optimizer = self.trained(variant)
        x, y = x_and_y(model)
        assert not (x == y).any()
        optimizer.use_training_weights()
        np.testing.assert_array_equal(references.weights(model), y)
        for _ in range(2):
            optimizer.use_average()
            np.testing.assert_array_equal(references.weights(model), x)
            assert optimizer.uses_average
        for _ in range(2):
            optimizer.use_training_weights()
            np.testing.assert_array_equal(references.weights(model), y)
            assert not optimizer.uses_average

    def test_a_training_with_exchanges_is_one_without(self, variant):
        straight, _ = self.trained(variant)
        model = references.linear_model(ScheduleFree(SGD(0.1), **variant))

        class Exchange(keras.callbacks.Callback):
            losses = []  # noqa: RUF012

            def on_epoch_end(self, epoch, logs=None):
                with self.model.optimizer.averaged():
                    loss = self.model.evaluate(references.X, references.Y, verbose=0)
                self.losses.append(loss)

        exchange = Exchange()
        references.fit(model, [exchange])
        np.testing.assert_array_equal(
            references.weights(model), references.weights(straight)
        )
        x, _ = x_and_y(model)
        loss = np.mean((references.X @ x - references.Y) ** 2)
        assert exchange.losses[-1] == pytest.approx(loss, rel=1e-5)

    def test_an_exception_puts_the_training_weights_back(self, variant):
        model, optimizer = self.trained(variant)
        y = references.weights(model)
        with pytest.raises(KeyboardInterrupt), optimizer.averaged():
            raise KeyboardInterrupt
        np.testing.assert_array_equal(references.weights(model), y)

    def test_a_block_within_a_block_leaves_the_average(self, variant):
        model, optimizer = self.trained(variant)
        x, _ = x_and_y(model)
        with optimizer.averaged():
            with optimizer.averaged():
                pass
            np.testing.assert_array_equal(references.weights(model), x)

    def test_before_the_first_step_all_are_the_same(self, variant):
        model = references.linear_model(ScheduleFree(SGD(0.1), **variant))
        optimizer = model.optimizer
        optimizer.use_average()
        optimizer.use_training_weights()  # It may not even be built.
        optimizer.build(model.trainable_variables)
        start = np.array([[1.0], [-1.0], [2.0]])
        model.set_weights([start])
        optimizer.use_average()
        np.testing.assert_array_equal(references.weights(model), start)
        model.evaluate(references.X, references.Y, verbose=0)
        optimizer.use_training_weights()
        np.testing.assert_array_equal(references.weights(model), start)

    def test_weights_files_hold_it_all(self, variant, tmp_path):
        model, optimizer = self.trained(variant)
        x, y = x_and_y(model)
        optimizer.use_average()
        model.save_weights(tmp_path / "model.weights.h5")
        optimizer.use_training_weights()
        references.fit(model)
        optimizer.use_average()
        model.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_array_equal(references.weights(model), x)
        optimizer.use_training_weights()
        np.testing.assert_array_equal(references.weights(model), y)

    def test_variables_alone_are_enough_to_go_on(self, variant):
        model, optimizer = self.trained(variant)
        _, y = x_and_y(model)
        optimizer.use_average()
        other, other_optimizer = self.trained(variant)
        other.set_weights(model.get_weights())
        for mine, theirs in zip(
            other_optimizer.variables, optimizer.variables, strict=True
        ):
            mine.assign(keras.ops.convert_to_numpy(theirs))
        assert other_optimizer.uses_average
        other_optimizer.use_training_weights()
        np.testing.assert_allclose(references.weights(other), y, atol=1e-6)

    def test_a_file_of_another_optimizer_is_not_read(self, variant, tmp_path):
        _, optimizer = self.trained(variant)
        store = {}
        optimizer.save_own_variables(store)
        store["99"] = np.zeros(3)
        with pytest.warns(UserWarning, match="Skipping the state"):
            optimizer.load_own_variables(store)


@pytest.mark.slow
def test_a_saved_model_goes_on_in_another_process(tmp_path):
    """Saved at x or at y, by itself or in a loss scale, with x derived or kept."""
    expected = {}
    for at, scaled, beta in itertools.product("xy", (False, True), (0.9, 0.0)):
        free = ScheduleFree(adamw(0.05), beta=beta, warmup_steps=15)
        optimizer = keras.optimizers.LossScaleOptimizer(free) if scaled else free
        model = references.linear_model(optimizer)
        references.fit(model, epochs=2)
        x, y = x_and_y(model)
        if at == "x":
            free.use_average()
        name = f"{at}-{scaled}-{beta}"
        model.save(tmp_path / f"{name}.keras")
        free.use_training_weights()
        references.fit(model, epochs=2)
        expected[name] = [x if at == "x" else y, y, *x_and_y(model)]
    found = processes.call(resumed.all_resumed, tmp_path, list(expected))
    for name, (loaded, y, *later) in expected.items():
        np.testing.assert_array_equal(found[name][0], loaded)
        np.testing.assert_array_equal(found[name][1], y)
        np.testing.assert_allclose(found[name][2:], later, atol=1e-7)


class TestCallbacks:
    def test_schedules_drive_the_optimizer_inside(self):
        schedules = {
            "learning_rate": S.Warmup(S.CosineAnnealing(0.1), 5),
            "weight_decay": S.LinearDecay(0.3, end_learning_rate=0.1),
        }
        curves = {name: s.bind(40).curve(40) for name, s in schedules.items()}
        optimizer = ScheduleFree(SGD(0.01), warmup_steps=15)
        model = references.linear_model(optimizer)
        logger = HyperparameterLogger()
        history = references.fit(model, [HyperparameterScheduler(**schedules), logger])
        loop = loops.ScheduleFree(warmup_steps=15)
        loop.train(40, curves["learning_rate"], curves["weight_decay"])
        assert_same(model, loop)
        for name, curve in curves.items():
            np.testing.assert_allclose(history.history[name], curve[9::10], rtol=1e-5)
        assert float(optimizer.learning_rate) == pytest.approx(0.01)
        # And without them, it goes on as it was.
        references.fit(model, epochs=2)
        assert_same(model, loop.train(20, 0.01))

    def test_beta_2_is_driven_with_its_bias_correction(self):
        schedules = {
            "learning_rate": S.Constant(0.05),
            "beta_2": S.LinearDecay(0.999, end_learning_rate=0.9),
        }
        optimizer = ScheduleFree(adamw(0.01, weight_decay=0.1), warmup_steps=15)
        model = references.linear_model(optimizer)
        references.fit(model, [HyperparameterScheduler(**schedules)])
        loop = loops.ScheduleFree(warmup_steps=15, adam=True)
        loop.train(40, 0.05, 0.1, beta_2=schedules["beta_2"].bind(40).curve(40))
        assert_same(model, loop, atol=1e-5)
        references.fit(model, epochs=1)
        assert "_corrected" not in repr(vars(optimizer.inner_optimizer))

    @pytest.mark.parametrize("rate", [0.1, S.LinearDecay(0.1, 40)], ids=repr)
    def test_a_plateau_reduces_the_rate(self, rate):
        model = references.linear_model(ScheduleFree(SGD(rate)))
        plateau = ReduceOnPlateau("loss", 0.5, patience=1, min_delta=1e9)
        references.fit(model, [plateau])
        rates = rate.curve(40) if isinstance(rate, S.LinearDecay) else np.full(40, 0.1)
        factors = np.repeat([1.0, 1.0, 0.5, 0.25], 10)
        assert_same(model, loops.ScheduleFree().train(40, rates * factors))

    @pytest.mark.parametrize("inner", [SGD, adamw])
    def test_a_momentum_beside_it_cannot_be_scheduled(self, inner):
        model = references.linear_model(ScheduleFree(inner(0.1)))
        with pytest.raises(ValueError, match="used instead of a momentum"):
            references.fit(model, [OneCycleScheduler(0.1)])


class TestArguments:
    @pytest.mark.parametrize(
        ("inner", "name"),
        [
            (lambda: SGD(0.1, momentum=0.9), "momentum=0.9"),
            (lambda: keras.optimizers.RMSprop(0.1, momentum=0.5), "momentum=0.5"),
            (lambda: keras.optimizers.AdamW(0.1), "beta_1=0.9"),
            (lambda: keras.optimizers.Nadam(0.1), "beta_1=0.9"),
            (lambda: keras.optimizers.Lion(0.1), "Lion"),
            (lambda: SGD(0.1, use_ema=True), "use_ema=True"),
            (lambda: keras.optimizers.LossScaleOptimizer(SGD(0.1)), "LossScale"),
            (lambda: ScheduleFree(SGD(0.1)), "optimizer=ScheduleFree"),
        ],
    )
    def test_an_optimizer_that_does_not_fit_is_refused(self, inner, name):
        with pytest.raises(ValueError, match=f"`optimizer` must .*{name}"):
            ScheduleFree(inner())

    def test_an_optimizer_in_use_is_refused(self):
        inner = SGD(0.1)
        ScheduleFree(inner)
        with pytest.raises(ValueError, match="`optimizer` must be a new one"):
            ScheduleFree(inner)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"optimizer": "sgd"}, TypeError, "`optimizer` must be a Keras optimizer"),
            ({"beta": 1.0}, ValueError, "`beta` must be < 1. Received: beta=1.0"),
            ({"beta": -0.1}, ValueError, "`beta` must be >= 0"),
            ({"beta": float("nan")}, ValueError, "`beta` must be finite"),
            ({"weight_power": -1.0}, ValueError, "`weight_power` must be >= 0"),
            ({"step_power": "1"}, TypeError, "`step_power` must be a number"),
            ({"warmup_steps": -1}, ValueError, "`warmup_steps` must be >= 0"),
            ({"warmup_steps": 1.5}, ValueError, "`warmup_steps` must be a whole"),
            ({"warmup_steps": lrs.Epochs(1)}, TypeError, "`warmup_steps` must be a"),
            ({"average": 0.9}, TypeError, "`average` must be an average"),
            ({"name": 3}, TypeError, "`name` must be a string or None"),
            ({"average": S.Constant(0.9)}, TypeError, "`average` must be an average"),
        ],
    )
    def test_a_bad_argument_is_named(self, arguments, error, message):
        with pytest.raises(error, match=message):
            ScheduleFree(**{"optimizer": SGD(0.1), **arguments})

    def test_a_model_in_float8_is_refused(self):
        w = keras.Variable([0.0])
        w.overwrite_with_gradient = True
        with pytest.raises(ValueError, match="float8"):
            ScheduleFree(SGD(0.1)).build([w])

    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    def test_the_config_is_json(self, variant):
        inner = keras.optimizers.AdamW(
            S.Warmup(S.REXDecay(0.1, 100), 10), beta_1=0.0, clipnorm=1.0
        )
        optimizer = ScheduleFree(inner, **variant, name="free")
        config = keras.saving.serialize_keras_object(optimizer)
        config = json.loads(json.dumps(config))
        again = keras.saving.deserialize_keras_object(config)
        assert keras.saving.serialize_keras_object(again) == config
        assert again.name == "free"
        assert again.arguments == optimizer.arguments

    def test_the_config_names_no_class_of_one_backend(self):
        inner = ScheduleFree(SGD()).get_config()["optimizer"]
        assert inner["module"] == "keras.optimizers"

    def test_the_rate_is_that_of_the_optimizer_inside(self):
        optimizer = ScheduleFree(SGD(0.1))
        optimizer.learning_rate = 0.3
        assert float(optimizer.inner_optimizer.learning_rate) == pytest.approx(0.3)
        assert float(optimizer.learning_rate) == pytest.approx(0.3)
        assert int(optimizer.iterations) == 0


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_one_line_makes_what_the_long_form_is(kind):
    optimizers = keras.optimizers
    long_form, short = {
        "SGD": (
            ScheduleFree(optimizers.SGD(0.1, weight_decay=0.01), 0.8, warmup_steps=5),
            lrs.optimizers.ScheduleFreeSGD(0.1, 0.8, weight_decay=0.01, warmup_steps=5),
        ),
        "AdamW": (
            ScheduleFree(optimizers.AdamW(0.1, 0.01, beta_1=0.0, beta_2=0.9)),
            lrs.optimizers.ScheduleFreeAdamW(0.1, beta_2=0.9, weight_decay=0.01),
        ),
    }[kind]
    trained = []
    for optimizer in (long_form, short):
        model = references.linear_model(optimizer)
        references.fit(model, epochs=1)
        with optimizer.averaged():
            trained.append(references.weights(model))
    np.testing.assert_array_equal(*trained)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"learning_rate": 0.0}, ValueError),
        ({"learning_rate": "1"}, TypeError),
        ({"learning_rate": 1.0, "weight_decay": -1.0}, ValueError),
        ({"learning_rate": 1.0, "beta": 1.0}, ValueError),
        ({"learning_rate": 1.0, "warmup_steps": -1}, ValueError),
    ],
)
def test_bad_arguments_of_one_line_are_named(arguments, error):
    for make in (lrs.optimizers.ScheduleFreeSGD, lrs.optimizers.ScheduleFreeAdamW):
        *_, name = arguments
        with pytest.raises(error, match=f"Argument `{name}` must"):
            make(**arguments)
    with pytest.raises(TypeError, match=r"`lr`\. Did you mean `learning_rate`"):
        lrs.optimizers.ScheduleFreeSGD(lr=1.0)
