"""Models with optimizers of their own beside `model.optimizer`, such as GANs."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    GradientNormRecorder,
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
    ResumableTraining,
    WeightAveraging,
)
from tests.callbacks import references

S = lrs.schedules
BACKEND = keras.backend.backend()
SGD = keras.optimizers.SGD
EPOCHS = 4
STEPS = EPOCHS * references.STEPS

pytestmark = pytest.mark.every_backend
not_on_jax = pytest.mark.skipif(BACKEND == "jax", reason="refused there")


class Pair(keras.Model):
    """Two linear networks on the same data, each with an optimizer of its own."""

    def __init__(self, repeats=1):
        super().__init__()
        linear = {"use_bias": False, "kernel_initializer": "zeros"}
        self.d, self.g = (keras.layers.Dense(1, **linear) for _ in "dg")
        self.repeats = repeats

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

    def update(self, network, optimizer, x, y):
        variables = network.trainable_variables
        if BACKEND == "torch":
            import torch

            self.zero_grad()
            loss = keras.ops.mean(keras.ops.square(network(x) - y))
            loss.backward()
            with torch.no_grad():
                optimizer.apply([v.value.grad for v in variables], variables)
            return loss.detach()
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(network(x) - y))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss


def pair(repeats=1, built=True, make=lambda rate: SGD(rate, momentum=0.9), **arguments):
    model = Pair(repeats)
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


@not_on_jax
def test_resuming_needs_to_know_what_they_train(tmp_path):
    with pytest.raises(ValueError, match="needs to know what `d_optimizer` trains"):
        references.fit(pair(built=False), [ResumableTraining(tmp_path)])


@not_on_jax
def test_an_optimizer_that_makes_no_update_is_told_of_by_name():
    callbacks = (
        HyperparameterLogger(),
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
