"""Models with optimizers of their own beside `model.optimizer`, such as GANs."""

from typing import ClassVar

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import PerVariable
from keras_lrs.callbacks import (
    GradientNormRecorder,
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    PosthocAveraging,
    ReduceOnPlateau,
    ResumableTraining,
    VariableScheduler,
    WeightAveraging,
)
from keras_lrs.tuning import range_test
from tests.callbacks import catalogue, references
from tests.callbacks.test_epoch_logs import Batches

S = lrs.schedules
BACKEND = keras.backend.backend()
SGD = keras.optimizers.SGD
EPOCHS = 4
STEPS = EPOCHS * references.STEPS

pytestmark = pytest.mark.every_backend(2)
not_on_jax = pytest.mark.skipif(BACKEND == "jax", reason="refused there")


class Pair(keras.Model):
    """Two linear networks on the same data, each with an optimizer of its own."""

    def __init__(self, repeats=1):
        super().__init__()
        self.d, self.g = (self.network() for _ in "dg")
        self.repeats = repeats

    def network(self):
        return keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")

    def call(self, x):
        return self.d(x), self.g(x)

    def compile(self, d_optimizer, g_optimizer, **arguments):
        super().compile(**arguments)
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def train_step(self, data):
        x, y = data
        for _ in range(self.repeats):
            loss = self.update(self.d, self.d_optimizer, x, y)
        self.update(self.g, self.g_optimizer, x, y)
        return {"loss": loss}

    def output_of(self, network, x):
        return network(x)

    def update(self, network, optimizer, x, y):
        variables = network.trainable_variables
        if BACKEND == "torch":
            import torch

            self.zero_grad()
            loss = keras.ops.mean(keras.ops.square(self.output_of(network, x) - y))
            loss.backward()
            with torch.no_grad():
                optimizer.apply([v.value.grad for v in variables], variables)
            return loss.detach()
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self.output_of(network, x) - y))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss


class Beside(Pair):
    """Compiled with the optimizer of the first network."""

    def compile(self, d_optimizer, g_optimizer, optimizer):
        keras.Model.compile(self, optimizer=d_optimizer)
        self.g_optimizer = g_optimizer

    @property
    def d_optimizer(self):
        return self.optimizer


def momentum_sgd(rate):
    return SGD(rate, momentum=0.9)


def pair(repeats=1, built=True, make=momentum_sgd, kind=Pair, **arguments):
    model = kind(repeats)
    model(references.X[:4])
    model.compile(make(0.05), make(0.02), **{"optimizer": None, **arguments})
    if built:
        model.d_optimizer.build(model.d.trainable_variables)
        model.g_optimizer.build(model.g.trainable_variables)
    return model


def assert_trained(model, d_curves, g_curves):
    for network, curves in ((model.d, d_curves), (model.g, g_curves)):
        curves = {k: np.broadcast_to(v, STEPS) for k, v in curves.items()}
        wanted = references.SGD().train(STEPS, **curves)
        np.testing.assert_allclose(network.get_weights()[0], wanted, atol=1e-5)


@not_on_jax
def test_one_schedule_drives_both():
    model = pair()
    rate = S.LinearDecay(0.05)
    scheduler = HyperparameterScheduler(learning_rate=rate)
    logs = references.fit(model, [scheduler, HyperparameterLogger()]).history
    curve = rate.bind(STEPS).curve(STEPS)
    assert_trained(model, {"learning_rate": curve}, {"learning_rate": curve})
    for name in ("d_optimizer", "g_optimizer"):
        found = logs[f"learning_rate/{name}"]
        np.testing.assert_allclose(found, curve[9::10], rtol=1e-5)
    assert sorted(scheduler.bound["learning_rate"]) == ["d_optimizer", "g_optimizer"]
    # Their own rates are back.
    assert float(model.d_optimizer.learning_rate) == pytest.approx(0.05)
    assert float(model.g_optimizer.learning_rate) == pytest.approx(0.02)


@not_on_jax
def test_a_dictionary_chooses_by_attribute():
    model = pair()
    rate = S.LinearDecay(0.05)
    scheduler = HyperparameterScheduler(learning_rate={"g_optimizer": rate})
    logs = references.fit(model, [scheduler, HyperparameterLogger()]).history
    curve = rate.bind(STEPS).curve(STEPS)
    assert_trained(model, {"learning_rate": 0.05}, {"learning_rate": curve})
    np.testing.assert_allclose(logs["learning_rate/d_optimizer"], 0.05, rtol=1e-6)


@not_on_jax
def test_batches_have_what_each_optimizer_used():
    model, batches = pair(), Batches()
    rates = {"d_optimizer": S.LinearDecay(0.05), "g_optimizer": S.LinearDecay(0.02)}
    scheduler = HyperparameterScheduler(learning_rate=rates, log="batch")
    references.fit(model, [batches, scheduler])
    curves = {name: rate.bind(STEPS).curve(STEPS) for name, rate in rates.items()}
    assert_trained(model, *({"learning_rate": one} for one in curves.values()))
    for name, curve in curves.items():
        found = batches.values(f"learning_rate/{name}")
        np.testing.assert_allclose(found, curve, rtol=1e-5)
    assert all(len(logs) == 3 for logs in batches.logs)  # With the loss.


def test_a_name_that_is_none_is_refused_with_those_that_are():
    if BACKEND == "jax":
        return
    scheduler = HyperparameterScheduler(learning_rate={"SGD": S.Constant(0.1)})
    with pytest.raises(ValueError, match="optimizers are: d_optimizer, g_optimizer"):
        references.fit(pair(), [scheduler])


@not_on_jax
def test_a_plateau_multiplies_both_rates():
    model = pair()
    plateau = ReduceOnPlateau("loss", factor=0.5, patience=1, min_delta=1e6)
    references.fit(model, [plateau])
    factors = np.repeat([1.0, 1.0, 0.5, 0.25], references.STEPS)
    assert_trained(
        model, {"learning_rate": 0.05 * factors}, {"learning_rate": 0.02 * factors}
    )


@not_on_jax
def test_one_cycle_drives_both_halves_of_both():
    model = pair()
    scheduler = OneCycleScheduler(0.05)
    references.fit(model, [scheduler])
    found = {
        name: scheduler.bound[name]["d_optimizer"].curve(STEPS)
        for name in ("learning_rate", "momentum")
    }
    assert_trained(model, found, found)


@not_on_jax
def test_both_are_averaged_and_training_is_as_without():
    model = pair()
    references.fit(model, [WeightAveraging(lrs.averages.UniformAverage())])
    for network, rate in ((model.d, 0.05), (model.g, 0.02)):
        loop, seen = references.SGD(), []
        for _ in range(STEPS):
            seen.append(loop.train(1, learning_rate=[rate]))
        found = network.get_weights()[0]
        np.testing.assert_allclose(found, np.mean(seen, 0), atol=1e-5)


@not_on_jax
def test_the_average_has_statistics_of_its_own():
    class Normalized(Pair):
        def __init__(self, repeats):
            super().__init__(repeats)
            self.norm = keras.layers.BatchNormalization(center=False, scale=False)

        def call(self, x):
            return self.norm(self.d(x)), self.g(x)

    model = pair(kind=Normalized)
    average = WeightAveraging(
        lrs.averages.UniformAverage(),
        batch_norm="recalibrate",
        batch_norm_data=references.X,
    )
    references.fit(model, [average])
    outputs = references.X @ kernel(model.d)
    np.testing.assert_allclose(model.norm.moving_mean, outputs.mean(0), atol=1e-5)


@not_on_jax
def test_an_evaluation_later_sees_the_averages_of_both():
    model = pair()
    average = WeightAveraging(lrs.averages.UniformAverage(), at_end="raw")
    references.fit(model, [average])
    raw = kernel(model.d)
    seen = model.predict(references.X, verbose=0, callbacks=[average])
    np.testing.assert_array_equal(kernel(model.d), raw)
    for found, rate in zip(seen, (0.05, 0.02), strict=True):
        mean = np.mean(path_of(rate), 0)
        np.testing.assert_allclose(found, references.X @ mean, atol=1e-5)


@not_on_jax
def test_the_norm_is_that_over_both():
    model = pair()
    recorder = GradientNormRecorder()
    references.fit(model, [recorder], epochs=1)
    assert recorder.steps.tolist() == list(range(references.STEPS))
    first = np.sqrt(2.0) * np.linalg.norm(references.gradient(np.zeros((3, 1)), 0))
    np.testing.assert_allclose(recorder.norms[0], first, rtol=1e-5)


class Cut(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@not_on_jax
@pytest.mark.parametrize("optimizer", [None, "rmsprop"])
def test_a_run_that_was_cut_off_resumes_exactly(tmp_path, optimizer):
    def train(*callbacks):
        model = pair(make=keras.optimizers.Adam, optimizer=optimizer)
        callbacks = [ResumableTraining(tmp_path, verbose=0), *callbacks]
        references.fit(model, callbacks)
        return np.array(model.get_weights())

    with pytest.raises(KeyboardInterrupt):
        train(Cut())
    resumed = train()
    np.testing.assert_array_equal(resumed, train())


class Nested(Pair):
    """Holds its optimizers deep inside of its attributes."""

    def compile(self, d_optimizer, g_optimizer, optimizer):
        keras.Model.compile(self, optimizer=optimizer)
        self.kept = {"pairs": [(d_optimizer, {"g": g_optimizer})]}

    @property
    def d_optimizer(self):
        return self.kept["pairs"][0][0]

    @property
    def g_optimizer(self):
        return self.kept["pairs"][0][1]["g"]


@not_on_jax
@pytest.mark.parametrize("kind", [Pair, Nested])
@pytest.mark.parametrize("every", ["epoch", 7])
def test_optimizers_that_the_first_step_builds_resume_exactly(tmp_path, kind, every):
    def train(*callbacks):
        model = pair(
            make=keras.optimizers.Adam, optimizer="sgd", built=False, kind=kind
        )
        callbacks = [ResumableTraining(tmp_path, every, verbose=0), *callbacks]
        references.fit(model, callbacks)
        return np.array(model.get_weights())

    with pytest.raises(KeyboardInterrupt):
        train(Cut())
    resumed = train()
    np.testing.assert_array_equal(resumed, train())


@not_on_jax
def test_resuming_with_an_optimizer_of_other_variables_needs_it_built(tmp_path):
    def train(*callbacks):
        model = pair(make=keras.optimizers.Adam, built=False)
        model.extra = keras.optimizers.Adam()
        if callbacks:
            model.extra.build([keras.Variable(0.0)])
        references.fit(model, [ResumableTraining(tmp_path, verbose=0), *callbacks])

    with pytest.raises(KeyboardInterrupt):
        train(Cut())
    with pytest.raises(ValueError, match="needs to know what `extra` trains"):
        train()


@not_on_jax
@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("optimizer", [None, "sgd"])
def test_a_range_test_leaves_no_trace_in_any_of_them(built, optimizer):
    def trained(tested):
        keras.utils.set_random_seed(0)
        model = pair(built=built, make=keras.optimizers.Adam, optimizer=optimizer)
        if tested and optimizer is None:
            found = range_test(model, references.X, references.Y, verbose=0)
            assert len(found.losses) > 0
        elif tested:
            # What it drives makes no update, but the others have made some.
            with pytest.raises(RuntimeError, match="holds other optimizers"):
                range_test(model, references.X, references.Y, verbose=0)
        references.fit(model)
        return np.array(model.get_weights())

    np.testing.assert_array_equal(trained(True), trained(False))


@not_on_jax
def test_those_that_train_are_logged_where_the_main_one_does_not():
    model = pair(optimizer="rmsprop")
    logs = references.fit(model, [HyperparameterLogger()], epochs=2).history
    logged = {key: value for key, value in logs.items() if "learning_rate" in key}
    assert logged == {
        "learning_rate/d_optimizer": pytest.approx([0.05, 0.05]),
        "learning_rate/g_optimizer": pytest.approx([0.02, 0.02]),
    }


@not_on_jax
def test_an_optimizer_that_makes_no_update_is_told_of_by_name():
    callbacks = (
        ReduceOnPlateau("loss"),
        HyperparameterScheduler(learning_rate=S.LinearDecay(0.1)),
    )
    for callback in callbacks:
        model = pair(optimizer="rmsprop")
        with pytest.raises(RuntimeError, match="holds other optimizers: `d_optimizer`"):
            references.fit(model, [callback])


@not_on_jax
def test_an_open_schedule_needs_one_update_a_step():
    scheduler = HyperparameterScheduler(
        learning_rate={"d_optimizer": S.LinearDecay(0.05)}
    )
    message = "`d_optimizer` made 20 updates in an epoch of 10 steps"
    with pytest.raises(RuntimeError, match=message):
        references.fit(pair(repeats=2), [scheduler])
    bound = {"d_optimizer": S.LinearDecay(0.05).bind(2 * STEPS)}
    references.fit(pair(repeats=2), [HyperparameterScheduler(learning_rate=bound)])


@not_on_jax
def test_a_later_epoch_needs_one_update_a_step():
    model = pair(repeats=2)
    references.fit(model, epochs=2)
    with pytest.raises(ValueError, match="Resume with `ResumableTraining`"):
        references.fit(
            model,
            [HyperparameterScheduler(learning_rate=S.Constant(0.1))],
            initial_epoch=2,
        )


@not_on_jax
def test_a_run_that_was_cut_off_within_an_epoch_resumes_its_open_schedules(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.g_optimizer.iterations == 17:
                raise KeyboardInterrupt

    def train(model, *callbacks):
        scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.05))
        references.fit(model, [scheduler, *callbacks])
        return model

    with pytest.raises(KeyboardInterrupt):
        train(pair(), ResumableTraining(tmp_path, 5, verbose=0), Stop())
    resumed = train(pair(), ResumableTraining(tmp_path, 5, verbose=0))
    curve = {"learning_rate": S.LinearDecay(0.05, STEPS).curve(STEPS)}
    assert_trained(resumed, curve, curve)


@not_on_jax
def test_a_training_that_is_stopped_in_its_first_epoch_is_no_error():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    model = pair()
    scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(0.05))
    references.fit(model, [scheduler, Stop()])
    assert int(model.g_optimizer.iterations) == 1


@not_on_jax
def test_an_open_schedule_of_groups_needs_one_update_a_step():
    model = pair(repeats=2)
    multipliers = {"dense": S.LinearDecay(1.0)}
    scheduler = HyperparameterScheduler(rate_multipliers=multipliers)
    with pytest.raises(RuntimeError, match="`d_optimizer` made 20 updates"):
        references.fit(model, [scheduler])


@not_on_jax
def test_weights_that_two_optimizers_train_are_not_averaged():
    model = pair(built=False)
    model.d_optimizer.build(model.trainable_variables)
    model.g_optimizer.build(model.g.trainable_variables)
    with pytest.raises(ValueError, match="weights that two optimizers train"):
        references.fit(model, [WeightAveraging()])


@not_on_jax
def test_evaluate_sees_the_averages_that_a_fit_has_left():
    model = pair()
    averaging = WeightAveraging(lrs.averages.UniformAverage(), at_end="raw")
    references.fit(model, [averaging], epochs=1)
    raw = model.get_weights()

    class Seen(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            self.weights = self.model.get_weights()

    seen = Seen()
    model.test_step = lambda data: {"loss": keras.ops.zeros(())}
    again = WeightAveraging(lrs.averages.UniformAverage(), at_end="raw")
    model.evaluate(references.X, verbose=0, callbacks=[again, seen])
    assert not np.allclose(seen.weights[0], raw[0], atol=1e-3)
    np.testing.assert_array_equal(model.get_weights()[0], raw[0])


@not_on_jax
def test_groups_of_an_optimizer_that_is_not_built_name_that_cause():
    def scheduled(rate):
        return lrs.optimizers.Scheduled(SGD(rate), rate_multipliers={"dense": 0.5})

    model = pair(built=False, make=scheduled)
    with pytest.raises(ValueError, match="`d_optimizer` that is not built"):
        references.fit(model, [HyperparameterLogger()])


@pytest.mark.skipif(BACKEND != "jax", reason="the others train them")
def test_jax_says_what_to_do_instead():
    with pytest.raises(ValueError, match="on JAX, `fit` trains with `model"):
        references.fit(pair(), [HyperparameterLogger()])


# --- Callbacks that name their optimizers ---

NAMED = {"optimizers": ["g_optimizer"]}
KINDS = {
    "compiled with none": {},
    "compiled with one that is idle": {"optimizer": "rmsprop"},
    "compiled with the other": {"kind": Beside},
}
of_every_kind = pytest.mark.parametrize("kind", KINDS)


def kernel(network):
    return network.get_weights()[0]


def fit_of_g(kind, *callbacks, **arguments):
    """Trains one of a kind, and checks that the other network trains as without."""
    plain, model = pair(**KINDS[kind]), pair(**KINDS[kind])
    references.fit(plain, **arguments)
    logs = references.fit(model, callbacks, **arguments).history
    np.testing.assert_array_equal(kernel(model.d), kernel(plain.d))
    for optimizer, rate in ((model.d_optimizer, 0.05), (model.g_optimizer, 0.02)):
        assert float(optimizer.learning_rate) == pytest.approx(rate)
        assert float(optimizer.momentum) == 0.9
        assert "apply" not in vars(optimizer)
    return model, logs


def assert_g_trained(model, **curves):
    wanted = references.SGD().train(STEPS, **curves)
    np.testing.assert_allclose(kernel(model.g), wanted, atol=1e-5)


def path_of(rate=0.02):
    """The weights after each step at a constant rate."""
    loop = references.SGD()
    return [loop.train(1, learning_rate=[rate]) for _ in range(STEPS)]


@not_on_jax
@of_every_kind
def test_a_schedule_drives_the_one_that_is_named(kind):
    rate = S.LinearDecay(0.05)
    scheduler = HyperparameterScheduler(learning_rate=rate, **NAMED)
    model, logs = fit_of_g(kind, scheduler, HyperparameterLogger(**NAMED))
    curve = rate.bind(STEPS).curve(STEPS)
    assert_g_trained(model, learning_rate=curve)
    assert set(logs) == {"loss", "learning_rate/g_optimizer"}
    np.testing.assert_allclose(
        logs["learning_rate/g_optimizer"], curve[9::10], rtol=1e-5
    )
    assert scheduler.bound["learning_rate"].decay_steps == STEPS


@not_on_jax
def test_variables_are_logged_whatever_optimizer_is_named():
    def logs_of(logger):
        model = pair(repeats=2)
        catalogue.give_a_variable(model)
        schedule = S.LinearDecay(1.0).bind(2 * STEPS)
        scheduler = VariableScheduler({catalogue.SCHEDULED: schedule})
        return references.fit(model, [scheduler, logger]).history

    named = logs_of(HyperparameterLogger(**NAMED))
    plain = logs_of(HyperparameterLogger())
    assert set(named) == {"loss", "learning_rate/g_optimizer", catalogue.SCHEDULED}
    assert named[catalogue.SCHEDULED] == plain[catalogue.SCHEDULED]


def test_an_epoch_of_skipped_updates_is_no_error():
    inner = SGD(0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=3e38)
    model = references.linear_model(optimizer)
    logger = HyperparameterLogger(optimizers=[inner])
    model.fit(references.X, 1e3 * references.Y, verbose=0, callbacks=[logger])
    assert int(inner.iterations) == 0


@not_on_jax
@of_every_kind
def test_one_cycle_drives_the_one_that_is_named(kind):
    scheduler = OneCycleScheduler(0.05, **NAMED)
    model, _ = fit_of_g(kind, scheduler)
    names = ("learning_rate", "momentum")
    curves = {name: scheduler.bound[name].curve(STEPS) for name in names}
    assert_g_trained(model, **curves)


@not_on_jax
@of_every_kind
def test_a_plateau_multiplies_the_rate_that_is_named(kind):
    arguments = {"factor": 0.5, "patience": 1, "min_delta": 1e6}
    model, _ = fit_of_g(kind, ReduceOnPlateau("loss", **arguments, **NAMED))
    factors = np.repeat([1.0, 1.0, 0.5, 0.25], references.STEPS)
    assert_g_trained(model, learning_rate=0.02 * factors)


@not_on_jax
@of_every_kind
@pytest.mark.parametrize("at_end", ["average", "raw"])
def test_the_network_that_is_named_is_averaged(kind, at_end):
    average = WeightAveraging(lrs.averages.UniformAverage(), at_end=at_end, **NAMED)
    model, _ = fit_of_g(kind, average)
    path = path_of()
    if at_end == "raw":
        np.testing.assert_allclose(kernel(model.g), path[-1], atol=1e-5)
        d = kernel(model.d)
        average.swap_in()
        np.testing.assert_array_equal(kernel(model.d), d)
    np.testing.assert_allclose(kernel(model.g), np.mean(path, 0), atol=1e-5)
    assert model.d_optimizer.use_ema is False
    assert model.g_optimizer.use_ema is (at_end == "raw")


@not_on_jax
@of_every_kind
def test_snapshots_are_of_the_network_that_is_named(kind, tmp_path):
    fit_of_g(kind, PosthocAveraging(tmp_path, [0.1], **NAMED))
    (found,) = lrs.averages.posthoc(tmp_path, 0.1)
    average = lrs.averages.PowerFunctionAverage(0.1)
    wanted = np.zeros((3, 1))
    for step, weights in enumerate(path_of()):
        wanted += float(average.weight(step)) * (weights - wanted)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@not_on_jax
@of_every_kind
def test_the_norm_is_that_of_the_one_that_is_named(kind):
    recorder = GradientNormRecorder(**NAMED)
    fit_of_g(kind, recorder)
    before = [np.zeros((3, 1)), *path_of()[:-1]]
    norms = [np.linalg.norm(references.gradient(w, k)) for k, w in enumerate(before)]
    np.testing.assert_allclose(recorder.norms, norms, rtol=1e-4)
    assert recorder.steps.tolist() == list(range(STEPS))


@not_on_jax
@of_every_kind
def test_callbacks_of_one_kind_may_name_one_each(kind, tmp_path):
    d = {"optimizers": "SGD" if kind == "compiled with the other" else "d_optimizer"}
    model = pair(make=lambda rate: SGD(rate, momentum=0.9, name="SGD"), **KINDS[kind])
    rates = S.LinearDecay(0.05), S.CosineAnnealing(0.02)
    plateaus = {"monitor": "loss", "factor": 0.5, "patience": 1, "min_delta": 1e6}
    recorders = [GradientNormRecorder(**one) for one in (d, NAMED)]
    callbacks = [
        HyperparameterScheduler(learning_rate=rates[0], **d),
        HyperparameterScheduler(learning_rate=rates[1], **NAMED),
        ReduceOnPlateau(**plateaus, **NAMED),
        *recorders,
    ]
    references.fit(model, callbacks)
    factors = np.repeat([1.0, 1.0, 0.5, 0.25], references.STEPS)
    curves = [rate.bind(STEPS).curve(STEPS) for rate in rates]
    assert_trained(
        model, {"learning_rate": curves[0]}, {"learning_rate": curves[1] * factors}
    )
    assert [len(one.norms) for one in recorders] == [STEPS, STEPS]
    np.testing.assert_allclose(recorders[0].norms[0], recorders[1].norms[0], rtol=1e-5)


@not_on_jax
def test_callbacks_of_one_kind_that_name_the_same_are_refused(tmp_path):
    rate = S.LinearDecay(0.05)
    twice = [
        HyperparameterScheduler(learning_rate=rate, optimizers=["g_optimizer"]),
        HyperparameterScheduler(learning_rate=rate),
    ]
    with pytest.raises(ValueError, match="must have one schedule"):
        references.fit(pair(), twice)
    path = tmp_path / "plateau.json"
    plateaus = [
        ReduceOnPlateau("loss", optimizers=name, state_path=path)
        for name in ("d_optimizer", "g_optimizer")
    ]
    with pytest.raises(ValueError, match="`state_path` must be another one"):
        references.fit(pair(), plateaus)


@not_on_jax
@of_every_kind
def test_an_optimizer_may_be_given_itself(kind):
    model = pair(**KINDS[kind])
    rate = S.LinearDecay(0.05)
    references.fit(
        model,
        [HyperparameterScheduler(learning_rate=rate, optimizers=model.g_optimizer)],
    )
    curve = rate.bind(STEPS).curve(STEPS)
    assert_trained(model, {"learning_rate": 0.05}, {"learning_rate": curve})


@not_on_jax
@of_every_kind
@pytest.mark.parametrize("by_name", [True, False])
def test_a_wrapper_stands_for_what_it_holds(kind, by_name):
    def make(rate):
        inner = SGD(rate, momentum=0.5)
        return lrs.optimizers.Scheduled(inner, momentum=S.Constant(0.9))

    model = pair(make=make, **KINDS[kind])
    given = "g_optimizer" if by_name else model.g_optimizer
    rate = S.LinearDecay(0.05)
    callbacks = [
        HyperparameterScheduler(learning_rate=rate, optimizers=given),
        HyperparameterLogger(optimizers=given),
    ]
    logs = references.fit(model, callbacks).history
    curve = rate.bind(STEPS).curve(STEPS)
    assert_trained(model, {"learning_rate": 0.05}, {"learning_rate": curve})
    assert {"learning_rate/g_optimizer", "momentum/g_optimizer"} < set(logs)
    assert not any("d_optimizer" in key or "SGD" in key for key in logs)


@not_on_jax
@of_every_kind
@pytest.mark.parametrize("built", [True, False])
def test_a_wrapper_with_groups_must_be_built(kind, built):
    def make(rate):
        half = PerVariable({".*": S.Constant(rate / 2.0)})
        return lrs.optimizers.Scheduled(momentum_sgd(rate), learning_rate=half)

    model = pair(make=make, built=built, **KINDS[kind])
    recorder = GradientNormRecorder(**NAMED)
    if built:
        references.fit(model, [recorder])
        assert_trained(model, {"learning_rate": 0.025}, {"learning_rate": 0.01})
        return
    # Compiled with none, the model has both of them trained.
    first = "d_optimizer" if kind == "compiled with none" else "g_optimizer"
    with pytest.raises(ValueError, match=f"needs to know what `{first}` trains"):
        references.fit(model, [recorder])


TAKING = {
    "HyperparameterScheduler": lambda folder, **arguments: HyperparameterScheduler(
        learning_rate=S.LinearDecay(0.05), **arguments
    ),
    "OneCycleScheduler": lambda folder, **arguments: OneCycleScheduler(
        0.05, **arguments
    ),
    "ReduceOnPlateau": lambda folder, **arguments: ReduceOnPlateau("loss", **arguments),
    "HyperparameterLogger": lambda folder, **arguments: HyperparameterLogger(
        **arguments
    ),
    "WeightAveraging": lambda folder, **arguments: WeightAveraging(**arguments),
    "PosthocAveraging": lambda folder, **arguments: PosthocAveraging(
        folder, **arguments
    ),
    "GradientNormRecorder": lambda folder, **arguments: GradientNormRecorder(
        **arguments
    ),
}
by_each = pytest.mark.parametrize("name", TAKING)


@not_on_jax
@by_each
@of_every_kind
def test_a_name_that_no_optimizer_has_is_refused(name, kind, tmp_path):
    model = pair(**KINDS[kind])
    callback = TAKING[name](tmp_path, optimizers=["g_optimizer", "generator"])
    message = "which are .*g_optimizer. Received: optimizers='generator'"
    with pytest.raises(ValueError, match=message):
        references.fit(model, [callback])
    assert int(model.g_optimizer.iterations) == 0


@by_each
def test_an_optimizer_that_the_model_does_not_hold_is_refused(name, tmp_path):
    model = references.linear_model(SGD(0.1))
    callback = TAKING[name](tmp_path, optimizers=SGD(0.1))
    with pytest.raises(ValueError, match="must be optimizers that the model holds"):
        references.fit(model, [callback])


@by_each
def test_what_names_no_optimizer_is_refused_at_once(name, tmp_path):
    for given, error in (([], ValueError), (3, TypeError), ([None], TypeError)):
        with pytest.raises(error, match="Argument `optimizers` must be an optimizer"):
            TAKING[name](tmp_path, optimizers=given)


@not_on_jax
@by_each
@pytest.mark.parametrize("idle", ["main", "d_optimizer"])
def test_one_that_is_named_and_makes_no_update_is_told_of(name, idle, tmp_path):
    model = pair(optimizer=SGD(0.1, momentum=0.9, name="main"))
    if idle == "d_optimizer":
        model.train_step = lambda data: {
            "loss": model.update(model.g, model.g_optimizer, *data)
        }
    references.fit(model, epochs=1)
    callback = TAKING[name](tmp_path, optimizers=["g_optimizer", idle])
    error: type[Exception] = RuntimeError
    message = f"`{idle}`, .* made no update|never called `{idle}.apply`"
    if name == "WeightAveraging" and idle == "main":
        # It was built with all weights, those of the generator among them.
        error, message = ValueError, "weights that two optimizers train"
    with pytest.raises(error, match=message):
        references.fit(model, [callback])


@not_on_jax
def test_two_optimizers_of_one_name_are_refused():
    model = pair(kind=Beside, make=lambda rate: SGD(rate, name="g_optimizer"))
    logger = HyperparameterLogger(optimizers="g_optimizer")
    with pytest.raises(ValueError, match=r"Two optimizers .* `g_optimizer`"):
        references.fit(model, [logger])
    references.fit(model, [HyperparameterLogger()])


class Normalized(Pair):
    """The same with a batch normalization in each of the networks."""

    normalization: ClassVar[dict] = {"momentum": 0.5}

    def network(self):
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        norm = keras.layers.BatchNormalization(**self.normalization)
        return keras.Sequential([keras.Input((3,)), dense, norm])

    def output_of(self, network, x):
        return network(x, training=True)


@not_on_jax
def test_statistics_of_the_network_that_is_named_are_averaged():
    class Statistics(keras.callbacks.Callback):
        seen: ClassVar[list] = []

        def on_train_batch_end(self, batch, logs=None):
            self.seen.append(statistics(self.model.g))

    def statistics(network):
        variables = network.layers[1].non_trainable_variables
        return np.ravel([keras.ops.convert_to_numpy(v.value) for v in variables])

    plain, averaged = pair(kind=Normalized), pair(kind=Normalized)
    references.fit(plain, [Statistics()], epochs=1)
    average = lrs.averages.UniformAverage()
    arguments = {"batch_norm": "average", **NAMED}
    references.fit(averaged, [WeightAveraging(average, **arguments)], epochs=1)
    expected = np.mean(Statistics.seen, axis=0)
    assert not np.allclose(expected, Statistics.seen[-1], rtol=1e-3)
    np.testing.assert_allclose(statistics(averaged.g), expected, rtol=1e-5)
    np.testing.assert_array_equal(statistics(averaged.d), statistics(plain.d))


@not_on_jax
def test_statistics_that_cannot_be_of_one_of_several_are_refused():
    with pytest.raises(ValueError, match=r"`batch_norm` .*other networks.*recalib"):
        WeightAveraging(batch_norm="recalibrate", batch_norm_data=references.X, **NAMED)

    class Bare(Normalized):
        normalization: ClassVar[dict] = {"center": False, "scale": False}

    average = WeightAveraging(batch_norm="average", **NAMED)
    with pytest.raises(ValueError, match=r"`batch_norm` .*neither a scale nor"):
        references.fit(pair(kind=Bare), [average])


@not_on_jax
@of_every_kind
def test_an_evaluation_later_sees_the_average_of_the_one_that_is_named(kind):
    average = WeightAveraging(lrs.averages.UniformAverage(), at_end="raw", **NAMED)
    model, _ = fit_of_g(kind, average)
    raw = kernel(model.d), kernel(model.g)
    d, g = model.predict(references.X, verbose=0, callbacks=[average])
    mean = np.mean(path_of(), 0)
    np.testing.assert_allclose(d, references.X @ raw[0], atol=1e-5)
    np.testing.assert_allclose(g, references.X @ mean, atol=1e-5)
    np.testing.assert_array_equal(kernel(model.g), raw[1])


@not_on_jax
@of_every_kind
def test_a_run_resumes_with_those_that_are_named(kind, tmp_path):
    def train(*callbacks):
        model = pair(make=keras.optimizers.Adam, **KINDS[kind])
        named = [
            HyperparameterScheduler(learning_rate=S.LinearDecay(0.05), **NAMED),
            WeightAveraging(lrs.averages.ExponentialAverage(0.9), **NAMED),
        ]
        references.fit(
            model, [*named, ResumableTraining(tmp_path, verbose=0), *callbacks]
        )
        return np.array(model.get_weights())

    with pytest.raises(KeyboardInterrupt):
        train(Cut())
    resumed = train()
    np.testing.assert_array_equal(resumed, train())


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
def test_one_of_a_multi_optimizer_may_be_named():
    def train(*callbacks):
        optimizers = keras.optimizers
        several = optimizers.MultiOptimizer(
            optimizers.OptimizerMap(
                SGD(0.05, momentum=0.9, name="first"),
                {"late/.*": SGD(0.02, momentum=0.9, name="second")},
            )
        )
        linear = {"use_bias": False, "kernel_initializer": "zeros"}
        dense = [
            keras.layers.Dense(1, name=name, **linear) for name in ("early", "late")
        ]
        inputs = keras.Input((3,))
        model = keras.Model(inputs, [layer(inputs) for layer in dense])
        model.compile(several, ["mse", "mse"])
        logs = model.fit(
            references.X,
            [references.Y, references.Y],
            batch_size=references.BATCH,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=list(callbacks),
        ).history
        return [kernel(layer) for layer in dense], logs

    (first, _), _ = train()
    rate = S.LinearDecay(0.05)
    (other, second), logs = train(
        HyperparameterScheduler(learning_rate=rate, optimizers="second"),
        HyperparameterLogger(optimizers=["second"]),
    )
    curve = rate.bind(STEPS).curve(STEPS)
    np.testing.assert_array_equal(other, first)
    wanted = references.SGD().train(STEPS, learning_rate=curve)
    np.testing.assert_allclose(second, wanted, atol=1e-5)
    found = logs["learning_rate/second"]
    np.testing.assert_allclose(found, curve[9::10], rtol=1e-5)
    assert "learning_rate/first" not in logs
    (other, second), _ = train(
        WeightAveraging(lrs.averages.UniformAverage(), optimizers="second")
    )
    np.testing.assert_array_equal(other, first)
    np.testing.assert_allclose(second, np.mean(path_of(), 0), atol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="the others train them")
@by_each
def test_jax_refuses_an_optimizer_that_it_does_not_train(name, tmp_path):
    for arguments in KINDS.values():
        callback = TAKING[name](tmp_path, **NAMED)
        with pytest.raises(ValueError, match="g_optimizer: on JAX, `fit` trains with"):
            references.fit(pair(**arguments), [callback])
