"""Groups of variables with hyperparameters of their own, against loops in NumPy."""

import inspect
import re
import warnings

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import PerVariable
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
    ResumableTraining,
    WeightAveraging,
)
from keras_lrs.optimizers import Scheduled, ScheduleFree
from tests.callbacks import grouped, references
from tests.ramp import mean_of_prediction

S, K = lrs.schedules, keras.optimizers
BACKEND = keras.backend.backend()

SETTINGS = [{}, {"run_eagerly": True}]
if BACKEND != "torch":
    SETTINGS += [{"jit_compile": False}, {"steps_per_execution": 4}]

RATE = S.Warmup(S.CosineAnnealing(0.05), lrs.Fraction(0.25))
RAMP = S.LinearDecay(0.0, 40, 1.0)  # A multiplier that grows.
# Keras 3.12 has one weight decay for all variables, and multiplies the rate of its Adam
# by 0.1 unless told otherwise, which rounds a tensor otherwise than a number.
HAS_TWO_DECAYS = "adam_weight_decay" in inspect.signature(K.Muon).parameters
MUON = {"adam_weight_decay": 0.02} if HAS_TWO_DECAYS else {"adam_lr_ratio": 1.0}
OPTIMIZERS = {
    "Adadelta": lambda: K.Adadelta(0.5, weight_decay=0.01),
    "Adafactor": lambda: K.Adafactor(0.05, weight_decay=0.01),
    "Adagrad": lambda: K.Adagrad(0.05, weight_decay=0.01),
    "Adam": lambda: K.Adam(0.05, amsgrad=True),
    "AdamW": lambda: K.AdamW(0.05, weight_decay=0.1),
    "Adamax": lambda: K.Adamax(0.05, weight_decay=0.01),
    "Ftrl": lambda: K.Ftrl(0.05, weight_decay=0.01),
    "Lamb": lambda: K.Lamb(0.05, weight_decay=0.01),
    "Lion": lambda: K.Lion(0.01, weight_decay=0.01),
    "Muon": lambda: K.Muon(0.05, weight_decay=0.01, **MUON),
    "Nadam": lambda: K.Nadam(0.05, weight_decay=0.01),
    "RMSprop": lambda: K.RMSprop(0.05, momentum=0.5, centered=True),
    "SGD": lambda: K.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "ScheduleFree": lambda: ScheduleFree(K.AdamW(0.05, beta_1=0.0, weight_decay=0.1)),
}
if hasattr(K, "ScheduleFreeAdamW"):
    OPTIMIZERS["ScheduleFreeAdamW"] = lambda: K.ScheduleFreeAdamW(0.05, warmup_steps=5)


def scheduler(**arguments):
    return HyperparameterScheduler(**arguments)


def curve(schedule, num_steps=40):
    return schedule.bind(num_steps, references.STEPS).curve(num_steps)


def state(model):
    """All that a training leaves in a model and its optimizer."""
    variables = [*model.variables, *model.optimizer.variables]
    return {v.path: keras.ops.convert_to_numpy(v.value).copy() for v in variables}


def assert_equal_states(one, other):
    for (path, value), expected in zip(one.items(), other.values(), strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=path)


@pytest.mark.every_backend
class TestLoops:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_sgd_with_multipliers_and_decays(self, settings):
        optimizer = K.SGD(0.01, momentum=0.9, weight_decay=0.3)
        model = grouped.linear_models(optimizer, **settings)
        grouped.fit(
            model,
            [
                scheduler(
                    learning_rate=RATE,
                    rate_multipliers={"^early/": 0.5, "late/": RAMP},
                    weight_decay=PerVariable({"late": S.LinearDecay(0.2)}),
                )
            ],
        )
        rate, own = curve(RATE), np.full(40, 0.3)
        grouped.assert_trained(
            model,
            references.SGD,
            early={"learning_rate": 0.5 * rate, "weight_decay": own},
            late={
                "learning_rate": rate * curve(RAMP),
                "weight_decay": curve(S.LinearDecay(0.2)),
            },
            head={"learning_rate": rate, "weight_decay": own},
        )
        assert optimizer.weight_decay == 0.3
        assert float(optimizer.learning_rate) == pytest.approx(0.01)

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_adamw_with_rates_of_their_own(self, settings):
        model = grouped.linear_models(K.AdamW(0.01, weight_decay=0.2), **settings)
        grouped.fit(
            model,
            [
                scheduler(
                    learning_rate=PerVariable({"early": RATE, "late": 0.02}),
                    weight_decay=PerVariable({"early|head": 0.0}),
                )
            ],
        )
        ones = np.ones(40)
        grouped.assert_trained(
            model,
            references.Adam,
            atol=1e-5,
            early={"learning_rate": curve(RATE)},
            late={"learning_rate": 0.02 * ones, "weight_decay": 0.2 * ones},
            head={"learning_rate": 0.01 * ones},
        )

    def test_adam_with_betas_that_change_for_all(self):
        model = grouped.linear_models(K.Adam(0.01))
        betas = {
            "beta_1": S.LinearDecay(0.95, None, 0.8),
            "beta_2": S.LinearDecay(0.999, None, 0.95),
        }
        rates = {"early": RATE, "late": S.Constant(0.02), ".*": S.LinearDecay(0.03)}
        grouped.fit(model, [scheduler(learning_rate=PerVariable(rates), **betas)])
        betas = {name: curve(schedule) for name, schedule in betas.items()}
        grouped.assert_trained(
            model,
            references.Adam,
            atol=1e-5,
            **{
                name: {"learning_rate": curve(rate), **betas}
                for name, rate in zip(grouped.NAMES, rates.values(), strict=True)
            },
        )

    def test_momenta_and_rhos_of_their_own(self):
        model = grouped.linear_models(K.RMSprop(0.01, momentum=0.7, rho=0.8))
        momentum = S.LinearDecay(0.9, end_learning_rate=0.5)
        grouped.fit(
            model,
            [
                scheduler(
                    learning_rate=RATE,
                    momentum=PerVariable({"early": momentum, "late": 0.0}),
                    rho=PerVariable({"late|head": 0.5}),
                )
            ],
        )
        rate, ones = curve(RATE), np.ones(40)
        values = {
            "early": (curve(momentum), 0.8 * ones),
            "late": (0.0 * ones, 0.5 * ones),
            "head": (0.7 * ones, 0.5 * ones),
        }
        grouped.assert_trained(
            model,
            references.RMSprop,
            atol=1e-5,
            **{
                name: {"learning_rate": rate, "momentum": momentum, "rho": rho}
                for name, (momentum, rho) in values.items()
            },
        )

    def test_the_rate_may_be_the_optimizers_own(self):
        rates = {"float": 0.05, "schedule": S.LinearDecay(0.05, 40)}
        for rate in rates.values():
            model = grouped.linear_models(K.SGD(rate, momentum=0.9, weight_decay=0.1))
            grouped.fit(model, [scheduler(rate_multipliers={"late": RAMP})])
            own = np.full(40, rate) if isinstance(rate, float) else curve(rate)
            decay = np.full(40, 0.1)
            grouped.assert_trained(
                model,
                references.SGD,
                early={"learning_rate": own, "weight_decay": decay},
                late={"learning_rate": own * curve(RAMP), "weight_decay": decay},
                head={"learning_rate": own, "weight_decay": decay},
            )

    def test_momentum_correction_rescales_constant_multiples(self):
        model = grouped.linear_models(K.SGD(0.01, momentum=0.9))
        grouped.fit(
            model,
            [
                scheduler(
                    learning_rate=RATE,
                    rate_multipliers={"early": 0.5, "late": 2.0},
                    momentum_correction=True,
                )
            ],
        )
        rate = curve(RATE)
        grouped.assert_trained(
            model,
            lambda: references.SGD(corrected=True),
            early={"learning_rate": 0.5 * rate},
            late={"learning_rate": 2.0 * rate},
            head={"learning_rate": rate},
        )

    def test_gradients_that_are_accumulated(self):
        optimizer = K.SGD(0.05, weight_decay=0.1, gradient_accumulation_steps=2)
        model = grouped.linear_models(optimizer)
        rate = S.LinearDecay(0.05)
        grouped.fit(
            model,
            [
                scheduler(
                    learning_rate=rate,
                    rate_multipliers={"early": 0.5},
                    weight_decay=PerVariable({"late": 0.0}),
                )
            ],
        )
        # The last micro-batch of an update has the last word.
        rates, found = curve(rate)[1::2], grouped.weights(model)
        values = {"early": (0.5, 0.1), "late": (1.0, 0.0), "head": (1.0, 0.1)}
        for name, (multiplier, decay) in values.items():
            w = np.zeros((3, 1))
            for k, one in enumerate(multiplier * rates):
                mean = [references.gradient(w, 2 * k + i) for i in range(2)]
                w = w * (1.0 - one * decay) - one * sum(mean) / 2
            np.testing.assert_allclose(found[name], w, atol=2e-6)

    def test_fits_with_and_without_groups_follow_each_other(self):
        model = grouped.linear_models(K.SGD(0.01))
        multipliers = {"early": 0.0, "late": 0.5}
        grouped.fit(model, epochs=1)
        for _ in range(2):
            grouped.fit(model, [scheduler(rate_multipliers=multipliers)], epochs=1)
        grouped.fit(model, epochs=1)
        own = np.repeat([1.0, 0.0, 1.0], [10, 20, 10])
        grouped.assert_trained(
            model,
            lambda: references.SGD(),
            early={"learning_rate": 0.01 * own, "momentum": 0.0 * own},
            late={"learning_rate": 0.01 * (1 + own) / 2, "momentum": 0.0 * own},
            head={"learning_rate": np.full(40, 0.01), "momentum": 0.0 * own},
        )


@pytest.mark.every_backend(2)
class TestEveryOptimizer:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_groups_of_one_schedule_equal_that_schedule(self, name):
        rate = S.LinearDecay(0.05, end_learning_rate=0.01)
        one = S.PiecewiseConstant([7], [1.0, 1.0])
        other = S.PiecewiseConstant([8], [1.0, 1.0])
        ways = [
            {"learning_rate": rate},
            {"learning_rate": rate, "rate_multipliers": {"early": one, "late": other}},
            {
                "learning_rate": PerVariable(
                    {"early": S.Product([rate, one]), "head": rate, ".*": rate}
                )
            },
        ]
        if name == "ScheduleFree":
            del ways[-1]
        first = None
        for way in ways:
            model = grouped.network(OPTIMIZERS[name]())
            # Groups build it; Keras's ScheduleFreeAdamW forgets its weights if it is
            # built while TensorFlow traces the first step.
            model.optimizer.build(model.trainable_variables)
            grouped.fit_network(model, [scheduler(**way)])
            found = state(model)
            if first is not None:
                assert_equal_states(found, first)
            first = found

    # Ftrl divides by the rate; ScheduleFreeAdamW computes its weights from two others.
    @pytest.mark.parametrize(
        "name", sorted(OPTIMIZERS.keys() - {"Ftrl", "ScheduleFreeAdamW"})
    )
    def test_a_multiplier_of_0_freezes_bit_for_bit(self, name):
        optimizer = OPTIMIZERS[name]()
        model = grouped.network(optimizer)
        before = [np.array(w) for w in model.get_layer("late").get_weights()]
        multipliers = {"(^|/)late/": 0.0}
        grouped.fit_network(model, [scheduler(rate_multipliers=multipliers)])
        if name == "ScheduleFree":
            optimizer.use_average()
        after = model.get_layer("late").get_weights()
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_frozen_layer_warms_adam_and_normalization(self):
        def trained(multiplier):
            model = grouped.network(K.Adam(0.01, name="adam"))
            multipliers = {"norm/": multiplier, "late/": multiplier}
            callback = scheduler(rate_multipliers=multipliers)
            grouped.fit_network(model, [callback], epochs=1)
            return state(model)

        frozen = trained(0.0)
        slots = [p for p in frozen if "late_kernel" in p or "norm_gamma" in p]
        assert len(slots) == 4
        for path in [*slots, "net/norm/moving_mean", "net/norm/moving_variance"]:
            assert np.ptp(frozen[path]) > 0.0, path
        # What the averages hold is what a rate that moves next to nothing leaves.
        other = trained(1e-9)
        for path in slots:
            np.testing.assert_allclose(frozen[path], other[path], 1e-3, 1e-9)

    @pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon", "ScheduleFree"])
    def test_variables_without_decay_are_as_without_it(self, name):
        config = OPTIMIZERS[name]

        def trained(**schedules):
            model = grouped.network(config())
            # One constant of the optimizer for all, or for each group.
            grouped.fit_network(model, [scheduler(**schedules)])
            return state(model)

        rate = S.LinearDecay(0.05)
        none = trained(learning_rate=rate, weight_decay=PerVariable({".*": 0.0}))
        optimizer = config()
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        inner.weight_decay = None
        if name == "Muon":
            inner.adam_weight_decay = None
        model = grouped.network(optimizer)
        grouped.fit_network(model, [scheduler(learning_rate=rate)])
        assert_equal_states(none, state(model))

    def test_nadam_multiplies_its_momenta_once(self):
        model = grouped.network(K.Nadam(0.01))
        multipliers = {"early": 0.1, "late": 0.2, "head": 0.3}
        grouped.fit_network(model, [scheduler(rate_multipliers=multipliers)])
        product = 1.0
        for k in range(1, 21):
            product *= 0.9 * (1.0 - 0.5 * 0.96**k)
        found = keras.ops.convert_to_numpy(model.optimizer._u_product.value)
        assert found == pytest.approx(product, rel=1e-4)

    def test_schedule_free_with_groups_is_two_of_them(self):
        def free():
            return ScheduleFree(K.SGD(0.05, weight_decay=0.1), warmup_steps=4)

        model = grouped.linear_models(free())
        decays = PerVariable({"late": 0.0})
        callback = scheduler(rate_multipliers={"early": 0.5}, weight_decay=decays)
        grouped.fit(model, [callback])
        found = grouped.weights(model)
        alone = {"early": (0.025, 0.1), "late": (0.05, None), "head": (0.05, 0.1)}
        for name, (rate, decay) in alone.items():
            optimizer = ScheduleFree(K.SGD(rate, weight_decay=decay), warmup_steps=4)
            other = references.linear_model(optimizer)
            references.fit(other)
            # The weights of the average are ratios of rates.
            np.testing.assert_allclose(
                found[name], references.weights(other), atol=1e-6, err_msg=name
            )


class Unused(keras.layers.Layer):
    """A layer with a weight that gets no gradient."""

    def build(self, shape):
        self.used = self.add_weight(shape=(), initializer="ones", name="used")
        self.unused = self.add_weight(shape=(), initializer="ones", name="unused")

    def call(self, inputs):
        return inputs * self.used


@pytest.mark.every_backend
class TestGradients:
    def test_embeddings_whose_gradients_are_sparse(self):
        tokens = np.random.default_rng(0).integers(0, 9, (40, 3))
        target = np.ones((40, 1), "float32")

        def trained(**arguments):
            keras.utils.set_random_seed(0)
            layers = [
                keras.layers.Embedding(9, 4, name="words"),
                keras.layers.Flatten(),
                keras.layers.Dense(1, name="head"),
            ]
            model = keras.Sequential([keras.Input((3,), dtype="int32"), *layers])
            model.compile(K.Adam(0.01), "mse")
            model.fit(
                tokens,
                target,
                4,
                shuffle=False,
                verbose=0,
                callbacks=[scheduler(**arguments)],
            )
            return model.get_weights()

        rate = S.LinearDecay(0.05)
        one = S.PiecewiseConstant([7], [1.0, 1.0])
        alone = trained(learning_rate=rate)
        together = trained(learning_rate=rate, rate_multipliers={"words": one})
        frozen = trained(learning_rate=rate, rate_multipliers={"words": 0.0})
        unmoved = trained(learning_rate=S.Constant(0.0))
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(frozen[0], unmoved[0])
        assert not np.array_equal(frozen[1], unmoved[1])

    def test_variables_without_a_gradient(self):
        inputs = keras.Input((1,))
        model = keras.Model(inputs, Unused(name="first")(Unused(name="last")(inputs)))
        model.compile(K.SGD(0.1), mean_of_prediction)
        x = np.ones((4, 1), "float32")
        multipliers = {"/unused": 0.5, "first/": 0.0}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist")
            callback = scheduler(rate_multipliers=multipliers)
            model.fit(x, x, 4, verbose=0, callbacks=[callback])
        values = {v.path: float(v.numpy()) for v in model.trainable_variables}
        expected = {
            "last/used": pytest.approx(0.9),
            "last/unused": 1.0,
            "first/used": 1.0,
            "first/unused": 1.0,
        }
        assert values == expected


class Towers(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__(name="towers")
        self.early = keras.layers.Dense(2, name="early")
        self.late = keras.layers.Dense(1, name="late")

    def call(self, inputs):
        return self.late(self.early(inputs))


def sequential():
    layers = [keras.layers.Dense(2, name="early"), keras.layers.Dense(1, name="late")]
    return keras.Sequential([keras.Input((3,)), *layers], name="towers")


def functional():
    inputs = keras.Input((3,))
    early = keras.layers.Dense(2, name="early")(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, name="late")(early))


def nested():
    inputs = keras.Input((3,))
    inner = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name="early")], name="inner"
    )
    return keras.Model(inputs, keras.layers.Dense(1, name="late")(inner(inputs)))


def subclassed():
    model = Towers()
    model(np.ones((1, 3), "float32"))
    return model


@pytest.mark.parametrize("make", [sequential, functional, nested, subclassed])
def test_a_layer_is_found_in_any_kind_of_model(make):
    model = make()
    model.compile(K.SGD(0.1), "mse")
    before = model.get_weights()
    multipliers = {"(^|/)early/kernel$": 0.0, "(^|/)late/": 0.0}
    x, y = references.X, references.Y
    model.fit(x, y, verbose=0, callbacks=[scheduler(rate_multipliers=multipliers)])
    moved = [
        not np.array_equal(one, other)
        for one, other in zip(before, model.get_weights(), strict=True)
    ]
    assert moved == [False, True, False, False]


@pytest.mark.every_backend
class TestBesideOthers:
    def test_a_plateau_multiplies_all_rates_once(self):
        model = grouped.linear_models(K.SGD(0.01))
        plateau = ReduceOnPlateau("loss", 0.5, patience=1, min_delta=1e9, warmup=0)
        history = grouped.fit(
            model,
            [
                plateau,
                scheduler(learning_rate=PerVariable({"early": RATE, "late": 0.02})),
                HyperparameterLogger(),
            ],
        )
        # The first look is the best; each of the others reduces.
        factors = np.repeat([1.0, 1.0, 0.5, 0.25], 10)
        rates = {
            "early": curve(RATE) * factors,
            "late": 0.02 * factors,
            "head": 0.01 * factors,
        }
        none = np.zeros(40)
        grouped.assert_trained(
            model,
            references.SGD,
            **{k: {"learning_rate": r, "momentum": none} for k, r in rates.items()},
        )
        keys = {"head": "learning_rate"}
        for name, rate in rates.items():
            logged = history[keys.get(name, f"learning_rate/{name}")]
            np.testing.assert_allclose(logged, rate[9::10], rtol=1e-6, err_msg=name)

    @pytest.mark.parametrize("kind", ["rates", "multipliers", "in the optimizer"])
    def test_a_plateau_waits_for_the_warmup_of_a_group(self, kind):
        warmup = S.Warmup(S.Constant(0.01), 20)
        schedules = {"learning_rate": PerVariable({"early": warmup, ".*": 0.01})}
        if kind == "multipliers":
            schedules = {"rate_multipliers": {"early": S.Warmup(S.Constant(1.0), 20)}}
        optimizer, callbacks = K.SGD(0.01), []
        if kind == "in the optimizer":
            optimizer = Scheduled(optimizer, **schedules)
        else:
            callbacks.append(scheduler(**schedules))
        plateau = ReduceOnPlateau("loss", 0.5, 1, min_delta=1e9)
        grouped.fit(grouped.linear_models(optimizer), [*callbacks, plateau])
        # Of four looks two are in the warmup, and the third is the best.
        assert plateau.state["factor"] == 0.5

    def test_one_cycle_has_one_momentum(self):
        model = grouped.linear_models(K.SGD(0.01, momentum=0.9))
        cycle = OneCycleScheduler(0.05)
        grouped.fit(model, [cycle, scheduler(rate_multipliers={"early|late": 0.5})])
        rate, momentum = curve(S.OneCycle(0.05)), curve(cycle.mirrored)
        grouped.assert_trained(
            model,
            references.SGD,
            early={"learning_rate": 0.5 * rate, "momentum": momentum},
            late={"learning_rate": 0.5 * rate, "momentum": momentum},
            head={"learning_rate": rate, "momentum": momentum},
        )

    def test_an_average_takes_the_weights_of_each_group(self):
        model = grouped.linear_models(K.SGD(0.01))
        averaging = WeightAveraging(lrs.averages.UniformAverage())
        multipliers = {"early": 0.0, "late": 0.5}
        grouped.fit(model, [averaging, scheduler(rate_multipliers=multipliers)])
        found = grouped.weights(model)
        for name, rate in {"early": 0.0, "late": 0.005, "head": 0.01}.items():
            w, total = np.zeros((3, 1)), 0.0
            for k in range(40):
                w = w - rate * references.gradient(w, k)
                total = total + w
            np.testing.assert_allclose(found[name], total / 40, atol=1e-6)

    def test_a_scaled_loss(self):
        optimizer = K.LossScaleOptimizer(K.SGD(0.01), initial_scale=8.0)
        model = grouped.linear_models(optimizer)
        grouped.fit(model, [scheduler(rate_multipliers={"early": 0.0, "late": 0.5})])
        rates, none = {"early": 0.0, "late": 0.005, "head": 0.01}, np.zeros(40)
        grouped.assert_trained(
            model,
            references.SGD,
            **{
                name: {"learning_rate": np.full(40, rate), "momentum": none}
                for name, rate in rates.items()
            },
        )

    @pytest.mark.skipif(not hasattr(K, "MultiOptimizer"), reason="Keras has none")
    def test_several_optimizers(self):
        sgd, other = K.SGD(0.01, name="one"), K.SGD(0.02, name="other")
        optimizer = K.MultiOptimizer(K.OptimizerMap(sgd, {"head/.*": other}))
        model = grouped.linear_models(optimizer)
        multipliers = {"early": 0.5, "head": 0.25}
        history = grouped.fit(
            model, [scheduler(rate_multipliers=multipliers), HyperparameterLogger()]
        )
        rates, none = {"early": 0.005, "late": 0.01, "head": 0.005}, np.zeros(40)
        grouped.assert_trained(
            model,
            references.SGD,
            **{
                name: {"learning_rate": np.full(40, rate), "momentum": none}
                for name, rate in rates.items()
            },
        )
        logged = {name: values[-1] for name, values in history.items()}
        assert logged["learning_rate/one/early"] == pytest.approx(0.005)
        assert logged["learning_rate/other/head"] == pytest.approx(0.005)
        assert logged["learning_rate/other"] == pytest.approx(0.02)

    def test_a_run_that_breaks_off_within_an_epoch_resumes(self, tmp_path):
        def callbacks():
            return [
                scheduler(
                    learning_rate=RATE,
                    rate_multipliers={"early": 0.5, "late": RAMP},
                    weight_decay=PerVariable({"(bias|gamma|beta)$": 0.0}),
                ),
                HyperparameterLogger(),
            ]

        class Break(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 6:
                    raise KeyboardInterrupt

        def model():
            return grouped.network(K.AdamW(0.01, weight_decay=0.1))

        whole = model()
        expected = grouped.fit_network(whole, callbacks())
        broken = model()
        resumable = ResumableTraining(tmp_path, every=3, verbose=0)
        with pytest.raises(KeyboardInterrupt):
            grouped.fit_network(broken, [resumable, *callbacks(), Break()])
        resumed = model()
        resumable = ResumableTraining(tmp_path, every=3, verbose=0)
        history = grouped.fit_network(resumed, [resumable, *callbacks()])
        assert_equal_states(state(resumed), state(whole))
        assert history["learning_rate/late"] == expected["learning_rate/late"]

    def test_files_saved_meanwhile_are_plain(self, tmp_path):
        class Save(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.save(tmp_path / "model.keras")

        model = grouped.network(K.AdamW(0.01, weight_decay=0.1))
        config = model.optimizer.get_config()
        callback = scheduler(
            learning_rate=PerVariable({"early": RATE}),
            weight_decay=PerVariable({"head": 0.0}),
        )
        grouped.fit_network(model, [callback, Save()])
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        found = loaded.optimizer.get_config()
        assert found.pop("learning_rate") == pytest.approx(config.pop("learning_rate"))
        assert found == config
        assert_equal_states(state(loaded), state(model))


class FailingError(Exception):
    pass


@pytest.mark.every_backend
@pytest.mark.parametrize("name", ["SGD", "AdamW", "ScheduleFree"])
def test_the_optimizer_is_as_it_was_after_an_exception(name):
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise FailingError

    optimizer = OPTIMIZERS[name]()
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    model = grouped.network(optimizer)
    grouped.fit_network(model, epochs=1)
    before = {k: v for k, v in vars(inner).items() if k != "_tracker"}
    rate = float(inner.learning_rate)
    callback = scheduler(
        learning_rate=RATE,
        rate_multipliers={"early": 0.5},
        weight_decay=PerVariable({"head": 0.0}),
    )
    with pytest.raises(FailingError):
        grouped.fit_network(model, [callback, Fail()])
    after = {k: v for k, v in vars(inner).items() if k != "_tracker"}
    assert after.keys() == before.keys()
    assert inner.weight_decay == before["weight_decay"]
    assert float(inner.learning_rate) == rate


@pytest.mark.every_backend
def test_an_exception_within_the_update_leaves_nothing():
    class Failing(K.SGD):
        def update_step(self, gradient, variable, learning_rate):
            raise FailingError

        _parallel_update_step = update_step

    if BACKEND == "torch":
        Failing._backend_update_step = Failing.update_step
    optimizer = Failing(0.01, momentum=0.9)
    model = grouped.network(optimizer)
    callback = scheduler(
        rate_multipliers={"early": 0.5}, momentum=PerVariable({"head": 0.0})
    )
    with pytest.raises(FailingError):
        grouped.fit_network(model, [callback])
    assert optimizer.momentum == 0.9
    for name in ("apply", "update_step", "_apply_weight_decay", "_backend_update_step"):
        assert name not in vars(optimizer)


class Used(lrs.callbacks.FitCallback):
    """What each update used, asked for at the end of every epoch."""

    def fit_begins(self, epoch):
        self.values = []

    def epoch_ends(self, epoch, logs):
        (optimizer,) = self.run.optimizers
        end = self.run.progress.iterations(optimizer)
        past = np.arange(end - references.STEPS, end)
        self.values.append(self.run.used_values(optimizer, past))

    def sums(self):
        return {
            name: sum(values[name].sum() for values in self.values)
            for name in self.values[0]
        }


def biases(optimizer, **arguments):
    """Three weights, of which each has the constant gradient -1."""

    def falling(y, prediction):
        return -keras.ops.mean(keras.ops.sum(prediction, axis=-1))

    inputs = keras.Input((3,))
    layers = [
        keras.layers.Dense(1, kernel_initializer="zeros", trainable=True, name=name)
        for name in grouped.NAMES
    ]
    model = keras.Model(inputs, [layer(inputs) for layer in layers])
    for layer in layers:
        layer.kernel.trainable = False
    model.compile(optimizer, [falling] * 3, **arguments)
    return model


@pytest.mark.every_backend
class TestLogs:
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_weights_move_by_the_sums_of_the_rates_that_are_logged(self, settings):
        model = biases(K.SGD(0.01), **settings)
        used = Used()
        plateau = ReduceOnPlateau("loss", 0.5, patience=1, mode="max")
        multipliers = {"early": RAMP, "late": 0.25}
        grouped.fit(
            model,
            [
                plateau,
                scheduler(learning_rate=RATE, rate_multipliers=multipliers),
                used,
            ],
        )
        sums = used.sums()
        assert sums.keys() == {
            "learning_rate",
            "learning_rate/early",
            "learning_rate/late",
        }
        for name, key in zip(grouped.NAMES, ("/early", "/late", ""), strict=True):
            moved = float(model.get_layer(name).bias.numpy().item())
            assert moved == pytest.approx(sums[f"learning_rate{key}"], rel=1e-5)

    def test_equal_groups_are_one(self):
        model = grouped.linear_models(K.SGD(0.01, weight_decay=0.1))
        callback = scheduler(
            learning_rate=RATE,
            rate_multipliers={"early": 0.5, "late": 0.5, "head": 1.0},
            weight_decay=PerVariable({"late": 0.0, "head": S.Constant(0.0)}),
        )
        history = grouped.fit(model, [callback, HyperparameterLogger()], epochs=1)
        own = {name for name in history if "loss" not in name}
        assert own == {"learning_rate", "learning_rate/early", "weight_decay/late"}
        rate = RATE.bind(10, 10).curve(10)[-1]
        np.testing.assert_allclose(history["learning_rate/early"], [0.5 * rate])
        assert history["weight_decay/late"] == [0.0]

    def test_the_last_of_patterns_for_all_is_the_main_rate(self):
        model = grouped.linear_models(K.SGD(0.01))
        last = S.LinearDecay(0.02)
        rates = PerVariable({"early": 0.5, "late": RATE, ".*": last})
        callback = scheduler(learning_rate=rates)
        history = grouped.fit(model, [callback, HyperparameterLogger()])
        np.testing.assert_allclose(history["learning_rate"], curve(last)[9::10])
        assert "learning_rate/early" in history
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
        assert callback.bound["learning_rate"].values == (
            ("early", S.Constant(0.5)),
            ("late", RATE.bind(40, 10)),
            (".*", last.bind(40, 10)),
        )

    def test_a_pattern_for_all_is_one_schedule(self):
        model = grouped.linear_models(K.SGD(0.01))
        used = Used()
        callback = scheduler(learning_rate=PerVariable({".*": RATE}))
        grouped.fit(model, [callback, used])
        assert used.sums().keys() == {"learning_rate"}
        assert callback.bound == {"learning_rate": RATE.bind(40, 10)}


# --- What is refused ---


def refused(message, optimizer=None, error=ValueError, beside=(), **arguments):
    """Asserts that it is said before the first step."""
    optimizer = K.SGD(0.01, momentum=0.9) if optimizer is None else optimizer
    model = grouped.network(optimizer)
    before = model.get_weights()
    with pytest.raises(error, match=re.compile(message, re.S)):
        grouped.fit_network(model, [*beside, scheduler(**arguments)])
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class TestErrors:
    def test_a_pattern_without_a_variable_lists_the_paths(self):
        message = (
            "Argument `rate_multipliers`: the pattern 'backbone/' matches no trainable "
            "variable.*The paths are:\n  net/early/kernel\n.*  net/head/bias"
        )
        refused(message, rate_multipliers={"backbone/": 0.1})
        refused("`weight_decay`: the .*'x'", weight_decay=PerVariable({"x": 0.1}))

    def test_a_pattern_of_frozen_variables_says_so(self):
        model = grouped.network(K.SGD(0.01))
        model.get_layer("late").trainable = False
        model.compile(K.SGD(0.01), "mse")
        message = (
            "'late/' matches only variables that are not trained, such as "
            "'net/late/kernel'. Leave it out.*compile the model again.*net/early/kernel"
        )
        multipliers = {"late/": 0.1}
        with pytest.raises(ValueError, match=re.compile(message, re.S)):
            grouped.fit_network(model, [scheduler(rate_multipliers=multipliers)])

    def test_a_pattern_that_is_hidden_says_by_which(self):
        message = (
            "`rate_multipliers`: all variables that the pattern 'late/kernel' "
            "matches are matched by 'late' before it, and the first match "
            "decides.*net/late/kernel"
        )
        refused(message, rate_multipliers={"late": 0.1, "late/kernel": 0.2})

    @pytest.mark.parametrize("name", ["clipnorm", "clipvalue", "global_clipnorm"])
    def test_clipping(self, name):
        each = PerVariable({"late": 1.0})
        refused(f"`{name}` cannot be a `PerVariable`: an .* clips", **{name: each})

    def test_what_keras_does_for_all_variables(self):
        each = PerVariable({"late": 0.5})
        refused("`ema_momentum` cannot be a `PerVariable`", ema_momentum=each)
        for optimizer in (K.Adam(0.01), K.Adamax(0.01)):
            refused("`beta_1` of .* bias correction", optimizer, beta_1=each)
        refused("`beta_2` of `AdamW`", K.AdamW(0.01), beta_2=each)
        refused("`beta_1` cannot .*learning_rate, weight_", K.Lion(0.01), beta_1=each)

    def test_what_the_optimizer_does_not_have(self):
        each = PerVariable({"late": 0.5})
        refused("`rho` is not a hyperparameter of `SGD`", rho=each)
        refused("does not use it", K.SGD(0.01), momentum=each)
        own = K.SGD(S.LinearDecay(0.1, 10))
        refused("already holds a schedule", own, learning_rate=each)

    def test_a_weight_decay_of_groups_that_would_do_nothing(self):
        none = {"weight_decay": PerVariable({"bias$": 0.0})}
        message = "`weight_decay` would change nothing: `SGD` has no weight decay"
        refused(message, **none)
        optimizer = Scheduled(K.SGD(0.01), **none)
        with pytest.raises(ValueError, match=message):
            optimizer.build(grouped.network(K.SGD()).trainable_variables)
        for wrapped in (lambda one: one, lambda one: ScheduleFree(one)):
            optimizer = K.AdamW(0.01, beta_1=0.0)
            optimizer.exclude_from_weight_decay(var_names=["bias"])
            message = "for the pattern 'bias\\$': `exclude_from_weight_decay`"
            some = PerVariable({"bias$": 0.1})
            refused(message, wrapped(optimizer), weight_decay=some)

    def test_a_number_of_the_model(self):
        refused("`kl_weight`.* use `VariableScheduler`", kl_weight=RATE)

    def test_absolute_rates_of_schedule_free(self):
        free = ScheduleFree(K.SGD(0.1))
        each = PerVariable({"late": 0.5})
        refused("`ScheduleFree`.* Use `rate_multipliers`", free, learning_rate=each)

    def test_both_kinds_of_rates(self):
        message = "`rate_multipliers` cannot be given together with a `PerVariable`"
        each, multipliers = PerVariable({"late": 0.5}), {"early": 0.1}
        refused(message, learning_rate=each, rate_multipliers=multipliers)
        all_of_them = PerVariable({"late": 0.5, ".*": 0.1})
        beside = [scheduler(learning_rate=all_of_them)]
        refused(message, beside=beside, rate_multipliers=multipliers)

    def test_momentum_correction_where_ratios_differ(self):
        message = "Argument `momentum_correction` rescales .*numbers in `rate_mult"
        corrected = {"learning_rate": RATE, "momentum_correction": True}
        refused(message, rate_multipliers={"late": RAMP}, **corrected)
        beside = [scheduler(rate_multipliers={"late": RAMP})]
        refused(message, beside=beside, **corrected)
        refused(message, beside=[scheduler(**corrected)], rate_multipliers={"l": RAMP})
        each = PerVariable({"late": 0.5, ".*": RATE})
        refused(message, learning_rate=each, momentum_correction=True)

    def test_a_rate_of_0_for_ftrl(self):
        message = r"must be > 0 with `Ftrl`.*at step 0 .*'late'"
        refused(message, K.Ftrl(0.1), rate_multipliers={"late": 0.0})
        refused(message, K.Ftrl(0.1), rate_multipliers={"late": RAMP})
        each = PerVariable({"late": S.LinearDecay(0.0, 5, 1.0)})
        refused(message, K.Ftrl(0.1), learning_rate=each)

    def test_values_out_of_range(self):
        refused("`momentum` .*in \\[0, 1\\)", momentum=PerVariable({"late": 1.0}))

    def test_two_callbacks_for_one_hyperparameter(self):
        multipliers = {"late": 0.5}
        names = "`HyperparameterScheduler` and `HyperparameterScheduler` both schedule"
        for one in (
            {"rate_multipliers": multipliers},
            {"learning_rate": PerVariable(multipliers)},
            {"weight_decay": PerVariable(multipliers)},
        ):
            refused(names, beside=[scheduler(**one)], **one)
        beside = [scheduler(learning_rate=RATE)]
        for each in (multipliers, {**multipliers, ".*": 0.1}):
            refused(names, beside=beside, learning_rate=PerVariable(each))

    def test_a_callback_of_keras_that_sets_the_rate(self):
        theirs = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
        message = "cannot work together with Keras's `LearningRateScheduler`"
        refused(message, beside=[theirs], rate_multipliers={"late": 0.5})

    def test_a_model_that_is_not_built(self):
        model = Towers()
        model.compile(K.SGD(0.1), "mse")
        callback = scheduler(rate_multipliers={"late": 0.0})
        late: list = []
        look = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: late.extend(model.late.get_weights())
        )
        model.fit(references.X, references.Y, verbose=0, callbacks=[callback, look])
        assert len(late) == 2
        for value, before in zip(model.late.get_weights(), late, strict=True):
            np.testing.assert_array_equal(value, before)

    @pytest.mark.parametrize("given", [{}, {1: 0.1}, {"(": 0.1}, {"a": -1.0}, 0.1])
    def test_what_maps_no_patterns_to_numbers(self, given):
        with pytest.raises((TypeError, ValueError), match="`rate_multipliers"):
            scheduler(rate_multipliers=given)


def test_ftrl_refuses_a_rate_that_ends_at_zero_late():
    model = references.linear_model(keras.optimizers.Ftrl(0.1))
    ends = S.PiecewiseConstant([15_000], [1.0, 0.0])
    scheduler = HyperparameterScheduler(rate_multipliers={".*": ends})
    with pytest.raises(ValueError, match=r"must be > 0 with `Ftrl`.*0 at step"):
        references.fit(model, [scheduler], epochs=1)


def test_equal_groups_are_logged_under_the_first_pattern_as_it_was_written():
    layers = [keras.layers.Dense(3, name="enc"), keras.layers.Dense(1, name="head")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    multipliers = {"/head/": 0.5, "/enc/": 0.5}
    callbacks = [
        HyperparameterScheduler(rate_multipliers=multipliers),
        HyperparameterLogger(),
    ]
    logs = references.fit(model, callbacks, epochs=1).history
    assert logs["learning_rate//head/"] == pytest.approx([0.05])
    assert "learning_rate//enc/" not in logs
