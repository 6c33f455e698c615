"""Optimizers that make more or fewer updates than the data has batches."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import Epochs, Samples
from keras_lrs.callbacks import (
    GradientNormRecorder,
    HyperparameterLogger,
    HyperparameterScheduler,
    OneCycleScheduler,
    ReduceOnPlateau,
    ResumableTraining,
    SnapshotEnsemble,
    VariableScheduler,
    WeightAveraging,
)
from tests.callbacks import catalogue, references

S, A = lrs.schedules, lrs.averages
BACKEND = keras.backend.backend()
EPOCHS = 4
RATE = 0.05

every_backend = pytest.mark.every_backend
quick_here = pytest.mark.only("torch")


class Patient(keras.Model):
    """A linear model that trains on one batch in several, and passes over the rest."""

    def __init__(self, wait=2, first=None):
        super().__init__()
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        self.wait, self.first = wait, wait if first is None else first
        self.seen = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="seen"
        )

    def call(self, x):
        return self.dense(x)

    def is_due(self, seen):
        return seen % self.wait == self.first % self.wait

    def train_step(self, *arguments):
        train = super().train_step
        if BACKEND == "torch":
            self.seen.assign_add(1)
            if self.is_due(int(self.seen)):
                return train(*arguments)
            return {"loss": keras.ops.zeros(())}
        if BACKEND == "tensorflow":
            import tensorflow as tf

            self.seen.assign_add(1)
            due, none = self.is_due(self.seen.value), {"loss": tf.zeros(())}
            return tf.cond(due, lambda: train(*arguments), lambda: none)
        import jax

        state, data = arguments
        at = [v is self.seen for v in self.non_trainable_variables].index(True)
        seen = state[1][at] + 1
        logs, trained = train(state, data)
        due = self.is_due(seen)
        state = jax.tree.map(
            lambda new, old: jax.numpy.where(due, new, old), trained, state
        )
        state[1][at] = seen
        return logs, state


def patient(optimizer=None, **arguments):
    model = Patient(**arguments)
    model(references.X[:1])
    model.compile(optimizer or keras.optimizers.SGD(1.0), "mse")
    return model


def weights_after(rates, wait=2, first=None):
    """What a loop in NumPy makes of the batches that are trained on."""
    w, first = np.zeros((3, 1)), wait if first is None else first
    for k, rate in enumerate(rates):
        w = w - rate * references.gradient(w, wait * k + first - 1)
    return w


def weights(model):
    return model.dense.get_weights()[0]


def decaying(**arguments):
    return HyperparameterScheduler(learning_rate=S.LinearDecay(RATE), **arguments)


UPDATES = EPOCHS * references.STEPS // 2
DECAY = S.LinearDecay(RATE, UPDATES).curve(UPDATES)


@every_backend
@pytest.mark.parametrize("told", [{}, {"updates_per_batch": 0.5}])
def test_lengths_are_those_of_the_updates(told):
    model = patient()
    logs = references.fit(model, [decaying(**told), HyperparameterLogger()]).history
    np.testing.assert_allclose(logs["learning_rate"], DECAY[4::5], rtol=1e-5)
    np.testing.assert_allclose(weights(model), weights_after(DECAY), atol=1e-5)


@quick_here
def test_a_later_fit_continues_where_the_updates_are():
    model = patient()
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1)
    )
    references.fit(model, [decaying(), stop])
    references.fit(model, [decaying()], initial_epoch=2)
    np.testing.assert_allclose(weights(model), weights_after(DECAY), atol=1e-5)


@every_backend
@pytest.mark.parametrize("every", ["epoch", 3])
def test_a_run_that_was_cut_off_resumes(every, tmp_path):
    class Cut(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_begin(self, batch, logs=None):
            self.seen += 1
            if self.seen == 17:
                raise KeyboardInterrupt

    def train(*more):
        model = patient()
        resumable = ResumableTraining(tmp_path, every, verbose=0)
        references.fit(model, [decaying(), resumable, *more])
        return weights(model)

    with pytest.raises(KeyboardInterrupt):
        train(Cut())
    np.testing.assert_allclose(train(), weights_after(DECAY), atol=1e-5)


@quick_here
def test_a_warmup_of_an_epoch_is_that_of_its_updates():
    schedule = S.Warmup(S.Constant(RATE), Epochs(1))
    model = patient()
    references.fit(model, [HyperparameterScheduler(schedule)])
    rates = S.Warmup(S.Constant(RATE), references.STEPS // 2).curve(UPDATES)
    np.testing.assert_allclose(weights(model), weights_after(rates), atol=1e-5)


@pytest.mark.parametrize("told", [{}, {"updates_per_batch": 0.5}])
def test_a_run_that_nobody_remembers_must_be_told(told):
    model = patient()
    references.fit(model, [decaying()], epochs=2)
    again = patient()
    again.set_weights(model.get_weights())
    again.optimizer.iterations.assign(10)
    start = weights(again)
    if not told:  # Its first update is not the first of the run.
        with pytest.raises(RuntimeError, match=r"Pass `updates_per_batch=0\.5`"):
            references.fit(again, [decaying()], initial_epoch=2)
        return
    references.fit(again, [decaying(**told)], initial_epoch=2)
    expected = start
    for k in range(10, 20):
        expected = expected - DECAY[k] * references.gradient(expected, 2 * k + 1)
    np.testing.assert_allclose(weights(again), expected, atol=1e-5)


@quick_here
def test_updates_that_come_otherwise_than_the_first_are_refused():
    # The first batch has an update, and then every fifth.
    message = "`sgd.*` made 2 updates in an epoch of 10 steps.*`updates_per_batch=0.2`"
    with pytest.raises(RuntimeError, match=message):
        references.fit(patient(wait=5, first=1), [decaying()])
    model = patient(wait=5, first=1)
    references.fit(model, [decaying(updates_per_batch=0.2)])
    rates = S.LinearDecay(RATE, 8).curve(8)
    found = weights_after(rates, wait=5, first=1)
    np.testing.assert_allclose(weights(model), found, atol=1e-5)


@every_backend
def test_an_average_once_an_epoch_is_of_the_epochs():
    model = patient(keras.optimizers.SGD(RATE))
    averaging = WeightAveraging(A.UniformAverage(), update_every="epoch")
    references.fit(model, [averaging])
    ends = [weights_after([RATE] * n) for n in (5, 10, 15, 20)]
    np.testing.assert_allclose(weights(model), np.mean(ends, 0), atol=1e-5)


@every_backend
def test_variables_follow_the_updates():
    model = patient(keras.optimizers.SGD(RATE))
    catalogue.give_a_variable(model)
    scheduler = VariableScheduler({catalogue.SCHEDULED: S.LinearDecay(1.0)})
    logs = references.fit(model, [scheduler, HyperparameterLogger()]).history
    expected = S.LinearDecay(1.0, UPDATES).curve(UPDATES)[4::5]
    np.testing.assert_allclose(logs[catalogue.SCHEDULED], expected, rtol=1e-5)


@quick_here
def test_a_loss_scale_skips_few_updates():
    def scaled(initial_scale):
        inner = keras.optimizers.SGD(RATE)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=initial_scale)

    # Its gradients overflow until the scale is halved.
    model = references.linear_model(scaled(3e38))
    references.fit(model, [decaying()], epochs=1)
    assert int(model.optimizer.inner_optimizer.iterations) < references.STEPS
    with pytest.raises(RuntimeError, match="made 5 updates in an epoch of 10 steps"):
        references.fit(patient(scaled(1.0)), [decaying()])


# --- More updates than batches ---


class Eager(keras.Model):
    """A linear model whose optimizer makes two updates for each batch."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")

    def call(self, x):
        return self.dense(x)

    def train_step(self, *arguments):
        if BACKEND != "jax":
            super().train_step(*arguments)
            return super().train_step(*arguments)
        state, data = arguments
        _, state = super().train_step(state, data)
        return super().train_step(state, data)


def eager(optimizer=None):
    model = Eager()
    model(references.X[:1])
    model.compile(optimizer or keras.optimizers.SGD(1.0), "mse")
    return model


@every_backend
def test_two_updates_for_a_batch_are_told_or_refused():
    with pytest.raises(RuntimeError, match="made 20 updates in an epoch of 10 steps"):
        references.fit(eager(), [decaying()])
    model = eager()
    references.fit(model, [decaying(updates_per_batch=2)])
    w = np.zeros((3, 1))
    for k, rate in enumerate(S.LinearDecay(RATE, 80).curve(80)):
        w = w - rate * references.gradient(w, k // 2)
    np.testing.assert_allclose(weights(model), w, atol=1e-5)


@pytest.mark.only("tensorflow")
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_samples_of_data_that_does_not_tell_its_length():
    tf = pytest.importorskip("tensorflow")

    data = tf.data.Dataset.from_tensor_slices((references.X, references.Y))
    data = data.filter(lambda x, y: True).batch(4, drop_remainder=True)
    rate = S.LinearDecay(RATE, Samples(40))
    with pytest.raises(RuntimeError, match="made 20 updates in an epoch of 10 steps"):
        eager().fit(data, verbose=0, callbacks=[HyperparameterScheduler(rate)])
    model = eager()
    scheduler = HyperparameterScheduler(rate, updates_per_batch=2)
    model.fit(data, verbose=0, callbacks=[scheduler])
    assert scheduler.bound["learning_rate"].decay_steps == 20


@quick_here
def test_what_no_length_depends_on_is_not_refused():
    model = eager(keras.optimizers.SGD(RATE))
    recorder = GradientNormRecorder()
    callbacks = [
        recorder,
        ReduceOnPlateau("loss"),
        WeightAveraging(),
        HyperparameterScheduler(learning_rate=S.LinearDecay(RATE, 5)),
    ]
    references.fit(model, callbacks, epochs=2)
    np.testing.assert_array_equal(recorder.steps, np.arange(40))


@pytest.mark.skipif(BACKEND == "torch", reason="it has a place for every norm")
def test_many_updates_in_a_batch_lose_no_norm(monkeypatch):
    monkeypatch.setattr("keras_lrs._step.gradient_norms._PLACES", 6)
    recorder = GradientNormRecorder()
    references.fit(eager(keras.optimizers.SGD(RATE)), [recorder], epochs=1)
    np.testing.assert_array_equal(recorder.steps, np.arange(20))


@quick_here
def test_a_snapshot_is_taken_between_the_updates_of_two_batches(tmp_path):
    def fit(folder, end, **told):
        model = eager(keras.optimizers.SGD(RATE))
        snapshots = SnapshotEnsemble(tmp_path / folder, schedule=[end], **told)
        references.fit(model, [snapshots], epochs=1)
        return lrs.ensembles.load(tmp_path / folder, model)

    (member,) = fit("even", 4, updates_per_batch=2)
    w = np.zeros((3, 1))
    for k in range(4):
        w = w - RATE * references.gradient(w, k // 2)
    np.testing.assert_allclose(member.values[0], w, atol=1e-6)
    for folder, told in (("odd", {"updates_per_batch": 2}), ("untold", {})):
        with pytest.raises(RuntimeError, match="the weights of that step are lost"):
            fit(folder, 5, **told)


# --- The argument ---


@quick_here
def test_the_argument_is_a_number_above_0():
    for bad, error in ((0, ValueError), (-1, ValueError), ("2", TypeError)):
        with pytest.raises(error, match="`updates_per_batch` must be a number > 0"):
            OneCycleScheduler(0.1, updates_per_batch=bad)
    third = HyperparameterScheduler(S.LinearDecay(0.1), updates_per_batch=1 / 3)
    assert 3 * third.updates_per_batch == 1


@quick_here
def test_two_callbacks_agree():
    callbacks = [
        decaying(updates_per_batch=0.5),
        ReduceOnPlateau("loss", updates_per_batch=0.25),
    ]
    message = "`updates_per_batch` must be 1/2, as in `HyperparameterScheduler`"
    with pytest.raises(ValueError, match=message):
        references.fit(patient(), callbacks)


# --- Epochs of other lengths ---


@pytest.mark.parametrize("keep", ["one model", "its file"])
def test_a_file_an_epoch_continues_where_training_is(keep, tmp_path):
    """The position is what was trained, and the end is that of the last epoch."""
    model, rates = references.linear_model(keras.optimizers.SGD(1.0)), []
    for epoch, batches in enumerate((4, 10, 2)):
        x, y = references.X[: 4 * batches], references.Y[: 4 * batches]
        scheduler = HyperparameterScheduler(learning_rate=S.LinearDecay(RATE, 16))
        logs = model.fit(
            x,
            y,
            batch_size=4,
            epochs=epoch + 1,
            initial_epoch=epoch,
            verbose=0,
            callbacks=[scheduler, HyperparameterLogger()],
        ).history
        rates += logs["learning_rate"]
        if keep == "its file" and epoch == 0:
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
    expected = S.LinearDecay(RATE, 16).curve(16)[[3, 13, 15]]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


@quick_here
def test_the_rest_of_a_run_is_what_is_to_come():
    model, rates = references.linear_model(keras.optimizers.SGD(1.0)), []
    for epoch, batches in enumerate((4, 10, 2)):
        x, y = references.X[: 4 * batches], references.Y[: 4 * batches]
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
        )
        logs = model.fit(
            x,
            y,
            batch_size=4,
            epochs=3,
            initial_epoch=epoch,
            verbose=0,
            callbacks=[decaying(), HyperparameterLogger(), stop],
        ).history
        rates += logs["learning_rate"]
    # Of 3 * 4 steps, then of 4 + 2 * 10, then of 4 + 10 + 2.
    expected = RATE * np.array([1 - 3 / 12, 1 - 13 / 24, 1 - 15 / 16])
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
