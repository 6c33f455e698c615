"""Trainings as they seldom are: each goes right or says what is wrong.

What is right the catalogue knows of every callback. Where some are refused, a table
says which and with which message; all others must go right.
"""

import re

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.callbacks import catalogue, references

S, A, C = lrs.schedules, lrs.averages, lrs.callbacks
BACKEND = keras.backend.backend()


@pytest.fixture(params=catalogue.CALLBACKS)
def name(request):
    return request.param


@pytest.fixture
def callback(name, tmp_path):
    return catalogue.make(name, tmp_path)


def test_every_callback_is_here():
    exported = {name: getattr(C, name) for name in C.__all__}
    ours = {
        name
        for name, value in exported.items()
        if isinstance(value, type)
        and issubclass(value, keras.callbacks.Callback)
        and name != "FitCallback"  # The base of all.
    }
    assert ours == catalogue.CALLBACKS.keys()


class TestData:
    def test_losses_that_are_not_a_number(self, name, callback):
        def loss(y, prediction):
            return catalogue.falling(y, prediction) + np.nan

        model = catalogue.linear_model(name)
        model.compile(model.optimizer, loss)
        path = None
        if name == "ReduceOnPlateau":  # No look is the best: each lowers the rate.
            path = catalogue.path(catalogue.RATE * catalogue.FACTOR ** np.arange(30))
        watch = catalogue.watched_fit(model, callback, 3)
        assert np.isnan(watch.losses).all()
        catalogue.assert_worked(name, callback, watch, 30, path=path)

    @pytest.mark.filterwarnings("ignore:The run has weights that are not finite")
    def test_gradients_that_are_not_a_number(self, name, callback):
        def loss(y, prediction):
            return catalogue.falling(y, prediction) * np.nan

        model = catalogue.linear_model(name)
        model.compile(model.optimizer, loss)
        watch = catalogue.watched_fit(model, callback, 3)
        assert np.isnan(watch.moved(watch.steps[1:])).all()
        catalogue.assert_worked(name, callback, watch, 30, finite=False)

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    @pytest.mark.filterwarnings("ignore:`SnapshotEnsemble` took no snapshot")
    @pytest.mark.filterwarnings("ignore:`ReduceOnPlateau` never saw `loss`")
    def test_no_data_ends_as_without_us_or_is_refused(self, name, callback, tmp_path):
        def ending(model, callbacks):
            x, y = references.X[:0], references.Y[:0]
            try:
                model.fit(x, y, verbose=0, callbacks=callbacks)
            except Exception as error:
                return type(error), str(error)

        model, twin = catalogue.linear_model(name), catalogue.linear_model(name)
        before = catalogue.values_of(model)
        found, expected = ending(model, [callback]), ending(twin, [])
        scheduled = {
            "HyperparameterScheduler": "learning_rate",
            "OneCycleScheduler": "learning_rate",
            "VariableScheduler": catalogue.SCHEDULED,
        }.get(name)
        if BACKEND == "tensorflow" and scheduled is not None:
            assert found[0] is ValueError
            assert found[1].startswith(
                f"The schedule of `{scheduled}` needs the number of steps per epoch, "
                "which is not known for this data. Pass `steps_per_epoch=` to `fit`"
            )
        else:  # Keras ends in another way on each backend, on TensorFlow well.
            assert found == expected
        catalogue.assert_same(catalogue.values_of(model), before)
        # Keras's step counts itself on TensorFlow before it misses the data.
        assert catalogue.training_steps(model) in (0, catalogue.training_steps(twin))
        catalogue.compiled(model, name)
        again = catalogue.make(name, tmp_path / "second")
        catalogue.assert_works(model, name, again)

    def test_epochs_of_one_step(self, name, callback):
        model = catalogue.linear_model(name)
        catalogue.assert_works(model, name, callback, epochs=5, batches=1)

    def test_one_step_in_all(self, name, callback):
        model = catalogue.linear_model(name)
        catalogue.assert_works(model, name, callback, epochs=1, batches=1)

    def test_no_epochs(self, name, callback):
        model = catalogue.linear_model(name)
        before = catalogue.values_of(model)
        references.fit(model, [callback], epochs=0)
        catalogue.assert_same(catalogue.values_of(model), before)
        assert catalogue.training_steps(model) == 0
        assert catalogue.untouched(model)
        catalogue.assert_works(model, name, callback)

    def test_an_initial_epoch_after_the_last(self, name, callback):
        model = catalogue.linear_model(name)
        before = catalogue.values_of(model)
        references.fit(model, [callback], epochs=2, initial_epoch=5)
        catalogue.assert_same(catalogue.values_of(model), before)
        assert catalogue.training_steps(model) == 0
        assert catalogue.untouched(model)
        catalogue.assert_works(model, name, callback)


class TestCompiling:
    def test_a_model_that_is_not_compiled(self, callback):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        before = catalogue.values_of(model)
        message = re.escape("You must call `compile()` before using the model.")
        with pytest.raises(ValueError, match=message):
            references.fit(model, [callback])
        catalogue.assert_same(catalogue.values_of(model), before)

    def test_an_optimizer_that_is_built_before(self, name, callback):
        model = catalogue.linear_model(name)
        model.optimizer.build(model.trainable_variables)
        catalogue.assert_works(model, name, callback, epochs=2)

    def test_compiling_again_between_fits(self, name, callback, tmp_path):
        model = catalogue.linear_model(name)
        catalogue.assert_works(model, name, callback)
        catalogue.compiled(model, name)
        again = catalogue.make(name, tmp_path / "second")
        catalogue.assert_works(model, name, again)

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
        optimizer = catalogue.optimizer_for(name)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        inner.learning_rate = rate
        model = references.linear_model(optimizer)
        if name == "VariableScheduler":
            catalogue.give_a_variable(model)
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
        model = catalogue.linear_model(name, run_eagerly=True)
        catalogue.assert_works(model, name, callback)


class Subclassed(keras.Model):
    """A model that its first batch builds."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(2, kernel_initializer="ones")
        self.second = keras.layers.Dense(1, kernel_initializer="ones")

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
        catalogue.compiled(model, name)
        catalogue.assert_works(model, name, callback, epochs=2)

    def test_frozen_layers(self, name, callback):
        frozen = keras.layers.Dense(3, trainable=False)
        model = keras.Sequential([keras.Input((3,)), frozen, keras.layers.Dense(1)])
        before = frozen.get_weights()
        self.check(model, name, callback)
        catalogue.assert_same(frozen.get_weights(), before)

    @pytest.mark.filterwarnings("ignore:The model does not have any trainable")
    @pytest.mark.filterwarnings("ignore:`SnapshotEnsemble` took no snapshot")
    def test_all_layers_frozen(self, name, callback):
        model = catalogue.linear_model(name)
        model.trainable = False
        catalogue.compiled(model, name)
        before = catalogue.values_of(model)
        watch = catalogue.watched_fit(model, callback)
        # All batches are seen, and none makes a step: there is nothing to refuse.
        assert len(watch.losses) == references.STEPS
        assert catalogue.training_steps(model) == 0
        catalogue.assert_same(catalogue.values_of(model), before)
        assert model.optimizer.get_config() == watch.config
        assert catalogue.untouched(model)
        # What needs no step is done.
        if name in ("HyperparameterScheduler", "OneCycleScheduler"):
            assert "learning_rate" in callback.bound
        elif name == "VariableScheduler":  # No step after the first.
            assert watch.scheduled == [1.0] * references.STEPS
        elif name == "HyperparameterLogger":
            assert watch.logs[0]["learning_rate"] == pytest.approx(catalogue.RATE)
        elif name == "ReduceOnPlateau":
            factor = catalogue.FACTOR ** (references.STEPS - 1)
            assert callback.state["factor"] == pytest.approx(factor)
        elif name == "ResumableTraining":
            assert list(callback.directory.glob("generation-*"))

    def test_shared_layers(self, name, callback):
        shared, inputs = keras.layers.Dense(3), keras.Input((3,))
        outputs = keras.layers.Dense(1)(shared(shared(inputs)))
        self.check(keras.Model(inputs, outputs), name, callback)

    def test_a_model_of_an_own_class(self, name, callback):
        model = Subclassed()
        model(references.X[:1])
        self.check(model, name, callback)

    def test_a_model_that_its_first_batch_builds(self, name, callback):
        model, twin = Subclassed(), Subclassed()
        catalogue.compiled(model, name)
        twin(references.X[:1])
        watch = catalogue.watched_fit(model, callback)
        watch.steps[0] = catalogue.values_of(twin)  # It began without weights.
        catalogue.assert_worked(name, callback, watch, references.STEPS)

    def test_a_step_of_the_users(self, name, callback):
        layers = [keras.Input((3,)), keras.layers.Dense(1)]
        self.check(Own(layers), name, callback)

    def test_layers_added_between_fits(self, name, callback, tmp_path):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        catalogue.compiled(model, name)
        y = np.repeat(references.Y, 2, axis=1)
        watch = catalogue.Watch()
        model.fit(
            references.X, y, 4, shuffle=False, verbose=0, callbacks=[watch, callback]
        )
        catalogue.assert_worked(name, callback, watch, references.STEPS)
        model.add(keras.layers.Dense(1))
        # An optimizer is built for the variables there were, and Keras says so.
        error, message = ValueError, "Unknown variable: (.|\n)*recreate a new optimizer"
        if BACKEND == "jax":
            message = "`optimizer_variables` must be .* corresponding 1:1"
        elif name == "AveragedEvaluation":  # The key that `ScheduleFree` looks up.
            error, message = KeyError, r"/kernel|^\d+$"
        again = catalogue.make(name, tmp_path / "second")
        with pytest.raises(error, match=message):
            references.fit(model, [again], epochs=1)
        assert catalogue.untouched(model)
        # With an optimizer of its own it goes right.
        self.check(model, name, catalogue.make(name, tmp_path / "third"))


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
