"""Trainings as they seldom are: each goes right or says what is wrong."""

import gc

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.callbacks import references

S, A, C = lrs.schedules, lrs.averages, lrs.callbacks
BACKEND = keras.backend.backend()

CALLBACKS = {
    "AveragedEvaluation": lambda folder: C.AveragedEvaluation(at_end="raw"),
    "GradientNormRecorder": lambda folder: C.GradientNormRecorder(),
    "HyperparameterLogger": lambda folder: C.HyperparameterLogger(),
    "HyperparameterScheduler": lambda folder: C.HyperparameterScheduler(
        learning_rate=S.LinearDecay(0.01)
    ),
    "OneCycleScheduler": lambda folder: C.OneCycleScheduler(0.01),
    "PosthocAveraging": lambda folder: C.PosthocAveraging(folder / "averages"),
    "ReduceOnPlateau": lambda folder: C.ReduceOnPlateau("loss", patience=1),
    "ResumableTraining": lambda folder: C.ResumableTraining(folder / "generations"),
    "SnapshotEnsemble": lambda folder: C.SnapshotEnsemble(
        folder / "snapshots", schedule=[1, 2]
    ),
    "WeightAveraging": lambda folder: C.WeightAveraging(at_end="raw"),
}


def sgd():
    return keras.optimizers.SGD(0.01, momentum=0.9)


def optimizer_for(name):
    free = name == "AveragedEvaluation"
    return lrs.optimizers.ScheduleFree(keras.optimizers.SGD(0.01)) if free else sgd()


@pytest.fixture(params=CALLBACKS)
def name(request):
    return request.param


@pytest.fixture
def callback(name, tmp_path):
    return CALLBACKS[name](tmp_path)


def test_every_callback_is_here():
    assert set(lrs.callbacks.__all__) == CALLBACKS.keys()


def linear(name, **compile_arguments):
    return references.linear_model(optimizer_for(name), **compile_arguments)


def finite(model):
    return all(np.isfinite(weights).all() for weights in model.get_weights())


def untouched(model):
    """Whether nothing of ours is left on a model and its optimizer."""
    gc.collect()  # Of what broke off, when Keras's list of callbacks is dropped.
    leaf = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return "apply" not in vars(leaf) and not any("keras_lrs" in n for n in vars(model))


class TestData:
    def test_losses_that_are_not_a_number(self, name, callback):
        model = linear(name)
        y = np.full_like(references.Y, np.nan)
        model.fit(references.X, y, 4, 3, verbose=0, callbacks=[callback])
        assert untouched(model)
        if name == "ReduceOnPlateau":  # Which are not better than any.
            assert callback.state["best"] is None

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    @pytest.mark.filterwarnings("ignore:`SnapshotEnsemble` took no snapshot")
    @pytest.mark.filterwarnings("ignore:The training ended before an update")
    def test_no_data_ends_as_without_us_or_is_refused(self, name, callback):
        def ending(model, callbacks):
            x, y = references.X[:0], references.Y[:0]
            try:
                model.fit(x, y, verbose=0, callbacks=callbacks)
            except Exception as error:
                return type(error)

        model = linear(name)
        # Keras ends in another way on each backend, on TensorFlow without an error.
        assert ending(model, [callback]) in (ending(linear(name), []), ValueError)
        references.fit(model, epochs=1)
        assert finite(model)

    def test_epochs_of_one_step(self, name, callback):
        model = linear(name)
        x, y = references.X[:4], references.Y[:4]
        model.fit(x, y, 4, epochs=5, verbose=0, callbacks=[callback])
        assert training_steps(model) == 5
        assert finite(model)
        assert untouched(model)

    def test_one_step_in_all(self, name, callback):
        model = linear(name)
        x, y = references.X[:4], references.Y[:4]
        model.fit(x, y, 4, epochs=1, verbose=0, callbacks=[callback])
        assert finite(model)
        assert untouched(model)

    def test_no_epochs(self, name, callback):
        model = linear(name)
        before = model.get_weights()
        references.fit(model, [callback], epochs=0)
        for one, other in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        assert untouched(model)

    def test_an_initial_epoch_after_the_last(self, name, callback):
        model = linear(name)
        references.fit(model, [callback], epochs=2, initial_epoch=5)
        assert training_steps(model) == 0
        assert untouched(model)


def training_steps(model):
    leaf = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return int(keras.ops.convert_to_numpy(leaf.iterations))


class TestCompiling:
    def test_a_model_that_is_not_compiled(self, callback):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        with pytest.raises(ValueError, match=r"compile|needs to know the weights"):
            references.fit(model, [callback])

    def test_an_optimizer_that_is_built_before(self, name, callback):
        model = linear(name)
        model.optimizer.build(model.trainable_variables)
        references.fit(model, [callback], epochs=2)
        assert finite(model)
        assert untouched(model)

    def test_compiling_again_between_fits(self, name, callback, tmp_path):
        model = linear(name)
        references.fit(model, [callback], epochs=1)
        model.compile(optimizer_for(name), "mse")
        references.fit(model, [CALLBACKS[name](tmp_path / "second")], epochs=1)
        assert training_steps(model) == references.STEPS
        assert finite(model)
        assert untouched(model)

    @pytest.mark.parametrize(
        "rate",
        [
            S.CosineRestarts(0.3, t_mul=1.0, num_cycles=5),
            S.CosineRestarts(0.3, lrs.Epochs(1)),
            S.Warmup(S.CosineRestarts(0.3, 5), lrs.Epochs(1)),
            S.Sequential([S.Constant(0.1), S.Constant(0.3)], [lrs.Fraction(0.5)]),
            S.CyclicalLearningRate(0.1, 0.3, lrs.Epochs(1)),
            S.CosineAnnealing(0.3),
        ],
        ids=lambda rate: type(rate).__name__,
    )
    def test_an_open_schedule_in_the_optimizer(self, name, callback, rate):
        message = r"is open\.(.|\n)*HyperparameterScheduler"
        if name in ("HyperparameterScheduler", "OneCycleScheduler"):
            message = "holds a schedule"  # They refuse any.
        optimizer = optimizer_for(name)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        inner.learning_rate = rate
        model = references.linear_model(optimizer)
        with pytest.raises(ValueError, match=message):
            references.fit(model, [callback], 1)
        assert int(optimizer.iterations) == 0

    def test_the_ends_of_cycles_of_an_open_schedule_in_the_optimizer(self, tmp_path):
        rate = S.CosineRestarts(0.3, t_mul=1.0, num_cycles=5)
        for callback in (
            C.SnapshotEnsemble(tmp_path),
            C.WeightAveraging(update_every="cycle"),
        ):
            model = references.linear_model(keras.optimizers.SGD(rate))
            with pytest.raises(ValueError, match=r"`total_steps`.* is open"):
                references.fit(model, [callback], 1)

    def test_running_eagerly(self, name, callback):
        model = linear(name, run_eagerly=True)
        references.fit(model, [callback], epochs=1)
        assert training_steps(model) == references.STEPS
        assert untouched(model)


class Subclassed(keras.Model):
    """A model that its first batch builds."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(1)

    def call(self, inputs):
        return self.second(self.first(inputs))


class Own(keras.Sequential):
    """A step of the user's own, which updates by `optimizer.apply`."""

    steps = 0

    def train_step(self, *arguments):
        if BACKEND == "jax":
            return super().train_step(*arguments)
        x, y = arguments[0][:2]
        if BACKEND == "torch":
            self.zero_grad()
            loss = self.compute_loss(x, y, self(x, training=True))
            loss.backward()
            gradients = [v.value.grad for v in self.trainable_weights]
            import torch

            with torch.no_grad():
                self.optimizer.apply(gradients, self.trainable_weights)
        else:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply(gradients, self.trainable_weights)
        return {"loss": loss}


class TestModels:
    def check(self, model, name, callback):
        model.compile(optimizer_for(name), "mse")
        references.fit(model, [callback], epochs=2)
        assert training_steps(model) == 2 * references.STEPS
        assert finite(model)
        assert untouched(model)

    def test_frozen_layers(self, name, callback):
        frozen = keras.layers.Dense(3, trainable=False)
        model = keras.Sequential([keras.Input((3,)), frozen, keras.layers.Dense(1)])
        before = frozen.get_weights()
        self.check(model, name, callback)
        for one, other in zip(before, frozen.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.filterwarnings("ignore:The model does not have any trainable")
    @pytest.mark.filterwarnings("ignore:`SnapshotEnsemble` took no snapshot")
    def test_all_layers_frozen(self, name, callback):
        model = linear(name)
        model.trainable = False
        model.compile(optimizer_for(name), "mse")
        before = model.get_weights()
        try:
            references.fit(model, [callback], epochs=1)
        except ValueError as error:
            assert "trainable" in str(error) or "weights" in str(error)
        for one, other in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        assert untouched(model)

    def test_shared_layers(self, name, callback):
        shared, inputs = keras.layers.Dense(3), keras.Input((3,))
        outputs = keras.layers.Dense(1)(shared(shared(inputs)))
        self.check(keras.Model(inputs, outputs), name, callback)

    def test_a_model_of_an_own_class(self, name, callback):
        model = Subclassed()
        model(references.X[:1])
        self.check(model, name, callback)

    def test_a_model_that_its_first_batch_builds(self, name, callback):
        model = Subclassed()
        model.compile(optimizer_for(name), "mse")
        try:
            references.fit(model, [callback], epochs=1)
        except ValueError as error:
            assert "Build the model before `fit`" in str(error)
            model(references.X[:1])
            references.fit(model, [callback], epochs=1)
        assert training_steps(model) == references.STEPS
        assert untouched(model)

    def test_a_step_of_the_users(self, name, callback):
        layers = [keras.Input((3,)), keras.layers.Dense(1)]
        self.check(Own(layers), name, callback)

    def test_layers_added_between_fits(self, name, callback, tmp_path):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(optimizer_for(name), "mse")
        y = np.repeat(references.Y, 2, axis=1)
        model.fit(references.X, y, 4, verbose=0, callbacks=[callback])
        model.add(keras.layers.Dense(1))
        # An optimizer is built for the variables there were: Keras says so, or a new
        # one is compiled.
        again = CALLBACKS[name](tmp_path / "second")
        with pytest.raises((ValueError, KeyError)):
            references.fit(model, [again], epochs=1)
        assert untouched(model)
        self.check(model, name, CALLBACKS[name](tmp_path / "third"))


def test_a_loop_of_ones_own_uses_the_schedule_of_the_optimizer():
    schedule = S.Warmup(S.LinearDecay(0.1, 6), 3)
    variable = keras.Variable([0.0])
    optimizer = keras.optimizers.SGD(schedule)
    places = [0.0]
    for _ in range(9):
        optimizer.apply([keras.ops.convert_to_tensor([-1.0])], [variable])
        places.append(keras.ops.convert_to_numpy(variable.value)[0])
    np.testing.assert_allclose(np.diff(places), schedule.curve(9), atol=1e-7)


def test_a_callback_called_by_hand_says_what_to_do(name, callback):
    with pytest.raises(RuntimeError, match=r"Pass it to `model.fit"):
        callback.on_epoch_begin(0)
    with pytest.raises(RuntimeError, match=r"Pass it to `model.fit"):
        callback.on_epoch_end(0)
