"""Loops that are not `fit`, and a list of callbacks that serves again."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterLogger,
    HyperparameterScheduler,
    ReduceOnPlateau,
    ResumableTraining,
    SnapshotEnsemble,
    VariableScheduler,
    WeightAveraging,
)
from tests.callbacks import catalogue, references
from tests.callbacks.test_law import apply, bias_of, loop, train_on_batch

S = lrs.schedules
BACKEND = keras.backend.backend()
RATE = catalogue.PEAK

quick_here = pytest.mark.only("torch")


def model_of(name="HyperparameterLogger"):
    model = catalogue.linear_model(name)
    model.compile(catalogue.plain_sgd(), catalogue.falling)
    model.optimizer.build(model.trainable_variables)
    return model


def decaying(steps=None):
    return HyperparameterScheduler(learning_rate=S.LinearDecay(RATE, steps))


def listed(model, *callbacks, **params):
    return keras.callbacks.CallbackList(
        list(callbacks), add_history=True, model=model, **params
    )


def assert_moved(model, rates):
    np.testing.assert_allclose(bias_of(model.layers[-1]), np.sum(rates), atol=1e-6)


@pytest.mark.every_backend
@pytest.mark.parametrize("step", [apply, train_on_batch])
def test_a_schedule_is_as_long_as_the_loop(step):
    model = model_of()
    loop(model, [decaying()], step, epochs=2, steps=3)
    assert_moved(model, S.LinearDecay(RATE, 6).curve(6))
    assert float(model.optimizer.learning_rate) == pytest.approx(catalogue.RATE)


def test_both_kinds_of_step_in_one_loop():
    model, kinds = model_of(), [apply, train_on_batch, train_on_batch, apply]
    plateau = ReduceOnPlateau("loss", 0.5, 1, min_delta=1e9, every=1)
    callbacks = [decaying(), plateau, WeightAveraging(lrs.averages.UniformAverage())]
    _, places = loop(
        model, callbacks, lambda model: kinds.pop()(model), steps=4, epochs=1
    )
    rates = S.LinearDecay(RATE, 4).curve(4) * [1.0, 1.0, 0.5, 0.25]
    np.testing.assert_allclose(places, np.cumsum(rates), atol=1e-6)
    np.testing.assert_allclose(bias_of(model.layers[-1]), np.mean(places), atol=1e-6)


def test_a_list_that_serves_again_has_the_length_of_the_new_fit():
    model = model_of()
    hooks = listed(model, decaying(), HyperparameterLogger(), epochs=9, steps=9)
    x, y = references.X[:8], references.Y[:8]
    for epochs in (2, 3):
        model.fit(x, y, 4, epochs=epochs, verbose=0, callbacks=hooks)
        rates = S.LinearDecay(RATE, 2 * epochs).curve(2 * epochs)
        logged = model.history.history["learning_rate"][-epochs:]
        np.testing.assert_allclose(logged, rates[1::2], rtol=1e-5)
    loop_of = hooks.callbacks[0]
    assert loop_of.run.closed
    assert catalogue.untouched(model)


@quick_here
def test_a_list_that_serves_again_puts_back_what_the_user_has_set_meanwhile():
    model = catalogue.linear_model("VariableScheduler")
    hooks = listed(model, VariableScheduler({catalogue.SCHEDULED: S.LinearDecay(1.0)}))
    for value in (catalogue.OWN, 5.0):
        model.scheduled.assign(value)
        model.fit(references.X, references.Y, verbose=0, callbacks=hooks)
        assert catalogue.scheduled(model) == [value]


def test_a_list_serves_again_after_a_run_that_broke_off(tmp_path):
    class Break(keras.callbacks.Callback):
        armed = True

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1 and self.armed:
                raise KeyboardInterrupt

    model = model_of()
    resumable = ResumableTraining(tmp_path, verbose=0)
    breaking = Break()
    hooks = listed(model, decaying(), resumable, breaking)
    fit = {"epochs": 3, "verbose": 0, "callbacks": hooks}
    with pytest.raises(KeyboardInterrupt):
        model.fit(references.X[:8], references.Y[:8], 4, **fit)
    breaking.armed = False
    model.fit(references.X[:8], references.Y[:8], 4, **fit)
    assert_moved(model, S.LinearDecay(RATE, 6).curve(6))
    assert resumable.resumed_from.epoch == 1
    assert not list(tmp_path.glob("generation-*"))


# --- What a loop must tell ---


@quick_here
def test_a_loop_that_does_not_tell_its_length():
    for params in ({}, {"epochs": 2}, {"steps": 2}):
        hooks = listed(model_of(), decaying(), **params)
        hooks.on_train_begin()
        with pytest.raises(ValueError, match="Pass `epochs=` and `steps=` to the"):
            hooks.on_epoch_begin(0)


@quick_here
def test_a_length_that_is_not_that_of_the_loop():
    model = model_of()
    hooks = listed(model, decaying(), epochs=2, steps=2)
    hooks.on_train_begin()
    hooks.on_epoch_begin(0)
    for _ in range(5):
        apply(model)
    with pytest.raises(RuntimeError, match="made 5 updates in an epoch of 2 steps"):
        hooks.on_epoch_end(0)
    assert catalogue.untouched(model)


@quick_here
def test_a_loop_that_tells_of_no_epoch():
    model = model_of()
    hooks = listed(model, decaying(4))
    hooks.on_train_begin()
    with pytest.raises(RuntimeError, match="Call `on_epoch_begin"):
        hooks.on_epoch_end(0)
    apply(model)
    with pytest.raises(RuntimeError, match="no effect on 1 updates"):
        hooks.on_train_end()


@quick_here
def test_a_loop_that_tells_of_no_batch(tmp_path):
    model = model_of()
    hooks = listed(model, SnapshotEnsemble(tmp_path, schedule=[1]))
    hooks.on_train_begin()
    hooks.on_epoch_begin(0)
    apply(model)
    message = r"`SnapshotEnsemble` acts after steps.*Call `on_train_batch_end"
    with pytest.raises(RuntimeError, match=message):
        hooks.on_epoch_end(0)


def test_a_fit_within_a_loop():
    model = model_of()
    hooks = listed(model, decaying(4))
    hooks.on_train_begin()
    hooks.on_epoch_begin(0)
    model.fit(references.X, references.Y, verbose=0)
    assert catalogue.untouched(model)
    with pytest.raises(RuntimeError, match="by another `fit` of the model"):
        hooks.on_epoch_end(0)


@quick_here
def test_a_callback_without_a_list():
    callback = decaying(4)
    callback.set_model(model_of())
    with pytest.raises(RuntimeError, match=r"or to a\s`keras.callbacks.CallbackList`"):
        callback.on_train_begin()


@quick_here
def test_a_loop_that_resumes_begins_where_training_ended(tmp_path):
    def train(epochs, first=0):
        model = model_of()
        resumable = ResumableTraining(tmp_path, delete_at_end=False, verbose=0)
        hooks = listed(model, decaying(), resumable, epochs=3, steps=1)
        hooks.on_train_begin()
        for epoch in range(first, epochs):
            hooks.on_epoch_begin(epoch)
            apply(model)
            hooks.on_epoch_end(epoch)
        return model, resumable

    train(2)
    with pytest.raises(RuntimeError, match=r"in epoch 2 .* begins with epoch 0"):
        train(3)
    model, resumable = train(3, 2)
    assert resumable.resumed_from.epoch == 2
    assert_moved(model, S.LinearDecay(RATE, 3).curve(3))


# --- Steps that are compiled ---


def compiled(model):
    """A step of the user's, compiled when it is first called."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda: apply_without_logs(model))
    import jax

    optimizer = model.optimizer

    @jax.jit
    def update(trainable, own):
        gradients = [jax.numpy.zeros(w.shape) for w in trainable[:-1]]
        gradients.append(-jax.numpy.ones(trainable[-1].shape))
        return optimizer.stateless_apply(own, gradients, trainable)

    def step():
        trainable, own = model.trainable_variables, optimizer.variables
        states = update([v.value for v in trainable], [v.value for v in own])
        for variables, values in zip((trainable, own), states, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    return step


def apply_without_logs(model):
    *_, bias = variables = model.trainable_variables
    gradients = [keras.ops.zeros(variable.shape) for variable in variables]
    model.optimizer.apply([*gradients[:-1], -keras.ops.ones(bias.shape)], variables)


def run(model, step, hooks, epochs=2):
    hooks.on_train_begin()
    for epoch in range(epochs):
        hooks.on_epoch_begin(epoch)
        step()
        hooks.on_epoch_end(epoch)
    hooks.on_train_end()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a graph keeps what it was made of")
def test_a_graph_is_made_within_the_run():
    model = model_of()
    step = compiled(model)
    hooks = listed(model, decaying(), epochs=2, steps=1)
    for k in (1, 2):  # The second run has an equal step, and so the same graph.
        run(model, step, hooks)
        assert_moved(model, k * S.LinearDecay(RATE, 2).curve(2))
    other = listed(model, decaying(), WeightAveraging(), epochs=2, steps=1)
    with pytest.raises(RuntimeError, match=r"1 bypassed its step.*Scheduled"):
        run(model, step, other)


@pytest.mark.skipif(BACKEND == "torch", reason="its steps are not compiled")
def test_a_function_that_was_compiled_before_says_what_to_use():
    model = model_of()
    step = compiled(model)
    step()
    message = "of its 1 updates in this epoch 1 bypassed its step.*Averager"
    with pytest.raises(RuntimeError, match=message):
        run(model, step, listed(model, decaying(4)))
    assert catalogue.untouched(model)


@pytest.mark.filterwarnings("ignore:The learning rate of")  # It writes its state.
@pytest.mark.skipif(BACKEND != "jax", reason="only there steps have no state")
def test_a_step_without_state_says_what_to_use():
    model = model_of()
    hooks = listed(model, decaying(4))
    with pytest.raises(RuntimeError, match=r"`stateless_apply` would lose.*Scheduled"):
        run(model, compiled(model), hooks)
    # What is in the optimizer is in its step; the logger has nothing to lose.
    schedule = S.LinearDecay(RATE, 2)
    model.compile(lrs.optimizers.Scheduled(catalogue.plain_sgd(), schedule), "mse")
    model.optimizer.build(model.trainable_variables)
    run(model, compiled(model), listed(model, HyperparameterLogger()))
    np.testing.assert_allclose(
        model.history.history["learning_rate"], schedule.curve(2), rtol=1e-6
    )


@quick_here
def test_a_model_that_knows_no_optimizer():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    for callback in (decaying(4), HyperparameterLogger(), WeightAveraging()):
        hooks = listed(model, callback)
        with pytest.raises(ValueError, match="Compile the model with the optimizer"):
            hooks.on_train_begin()


@quick_here
def test_a_list_that_knows_no_model():
    hooks = keras.callbacks.CallbackList([decaying(4)])
    with pytest.raises(RuntimeError, match="Pass `model=` to the `CallbackList`"):
        model_of().fit(references.X, references.Y, verbose=0, callbacks=hooks)


@quick_here
def test_a_plateau_beside_a_schedule_in_the_optimizer():
    model = model_of()
    schedule = S.LinearDecay(RATE, 4)
    optimizer = lrs.optimizers.Scheduled(catalogue.plain_sgd(), schedule)
    model.compile(optimizer, catalogue.falling)
    optimizer.build(model.trainable_variables)
    plateau = ReduceOnPlateau("loss", 0.5, 1, min_delta=1e9)
    loop(model, [plateau], apply, epochs=4)
    assert_moved(model, schedule.curve(4) * [1.0, 1.0, 0.5, 0.25])
