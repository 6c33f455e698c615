"""Data of unknown length: what needs no length works; what needs one may be told."""

import keras
import numpy as np
import pytest
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

import keras_lrs as lrs
from keras_lrs import averages as A  # noqa: N812
from keras_lrs import ensembles
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    ResumableTraining,
    SnapshotEnsemble,
    WeightAveraging,
)
from tests.callbacks.references import (
    BATCH,
    STEPS,
    X,
    Y,
    gradient,
    linear_model,
    weights,
)

S = lrs.schedules

pytestmark = [
    pytest.mark.every_backend,
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed"),
]


def data():
    tf = pytest.importorskip("tensorflow")
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    return batches.filter(lambda x, y: True)


class Ends(keras.callbacks.Callback):
    """The weights at the ends of epochs."""

    def __init__(self):
        super().__init__()
        self.seen, self.iterations = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(weights(self.model))
        self.iterations.append(int(self.model.optimizer.iterations))


def ends(epochs):
    look, model = Ends(), linear_model(keras.optimizers.SGD(0.05))
    model.fit(data(), epochs=epochs, verbose=0, callbacks=[look])
    return look.seen


def averaged(callbacks, epochs=4, **arguments):
    model = linear_model(keras.optimizers.SGD(0.05))
    model.fit(data(), epochs=epochs, verbose=0, callbacks=callbacks, **arguments)
    return model


class TestEpochsAreAveraged:
    @pytest.mark.parametrize(
        ("start", "waited"),
        [(0, 0), (lrs.Epochs(2), 2), (lrs.Fraction(0.25), 1), (STEPS, 1)],
        ids=str,
    )
    def test_whatever_their_length(self, start, waited):
        averaging = WeightAveraging(A.UniformAverage(), start, "epoch")
        expected = np.mean(ends(4)[waited:], axis=0)
        model = averaged([averaging])
        np.testing.assert_allclose(weights(model), expected, atol=1e-6)
        # The second run uses the compiled step of the first, and starts over.
        model.set_weights([np.zeros((3, 1))])
        model.fit(data(), epochs=4, verbose=0, callbacks=[averaging])
        np.testing.assert_allclose(weights(model), expected, atol=1e-6)

    @pytest.mark.parametrize("start", [0, STEPS])
    def test_in_a_run_that_resumes(self, start, tmp_path):
        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    raise KeyboardInterrupt

        def callbacks():
            averaging = WeightAveraging(A.UniformAverage(), start, "epoch")
            return [averaging, ResumableTraining(tmp_path, verbose=0)]

        with pytest.raises(KeyboardInterrupt):
            averaged([*callbacks(), Stop()])
        model = averaged(callbacks())
        expected = np.mean(ends(4)[start // STEPS :], axis=0)
        np.testing.assert_allclose(weights(model), expected, atol=1e-6)

    def test_but_not_where_it_is_not_known_which_were(self):
        averaging = WeightAveraging(A.UniformAverage(), 15, "epoch", at_end="raw")
        model = averaged([averaging], 2)
        with pytest.raises(ValueError, match="`start_step` must be `Epochs` or"):
            model.fit(data(), epochs=4, initial_epoch=2, callbacks=[averaging])

    def test_with_the_statistics_of_batch_normalization(self):
        class Statistics(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen.append(self.model.get_weights())

        def train(*callbacks):
            keras.utils.set_random_seed(0)
            norm = keras.layers.BatchNormalization(momentum=0.5)
            dense = keras.layers.Dense(1)
            model = keras.Sequential([keras.Input((3,)), norm, dense])
            model.compile(keras.optimizers.SGD(0.01), "mse")
            model.fit(data(), epochs=3, verbose=0, callbacks=list(callbacks))
            return model.get_weights()

        seen = []
        train(Statistics())
        average = A.UniformAverage()
        found = train(WeightAveraging(average, 0, "epoch", batch_norm="average"))
        for index, weight in enumerate(found):
            expected = np.mean([one[index] for one in seen], axis=0)
            np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-5)


class TestLengthsAreTold:
    def test_to_the_callback(self):
        told = {"steps_per_epoch": STEPS}
        schedule = HyperparameterScheduler(learning_rate=S.LinearDecay(0.1), **told)
        model = averaged([schedule], 2)
        expected = np.zeros((3, 1))
        for k in range(2 * STEPS):
            rate = 0.1 * (1.0 - k / (2 * STEPS))
            expected = expected - rate * gradient(expected, k)
        np.testing.assert_allclose(weights(model), expected, atol=1e-5)

    @pytest.mark.parametrize("told", [STEPS - 1, STEPS + 1])
    def test_and_compared_with_the_first_epoch(self, told):
        schedule = HyperparameterScheduler(
            learning_rate=S.LinearDecay(0.1), steps_per_epoch=told
        )
        message = f"`steps_per_epoch` of `HyperparameterScheduler` must be.*={told}"
        with pytest.raises(RuntimeError, match=message):
            averaged([schedule])

    def test_and_with_what_the_data_tells(self):
        averaging = WeightAveraging(steps_per_epoch=3)
        model = linear_model("sgd")
        with pytest.raises(ValueError, match="`steps_per_epoch` must be 10"):
            model.fit(X, Y, BATCH, verbose=0, callbacks=[averaging])
        with pytest.raises(ValueError, match="`steps_per_epoch` must be > 0"):
            WeightAveraging(steps_per_epoch=0)

    def test_by_data_that_keras_does_not_ask(self):
        class Adapter(PyDatasetAdapter):
            """Says nothing to Keras, as the adapter of Grain's datasets does."""

            num_batches = None

            def __init__(self):
                super().__init__(Batches(), shuffle=False)
                self._dataset = range(STEPS)

        class Batches(keras.utils.PyDataset):
            @property
            def num_batches(self):
                return STEPS

            def __getitem__(self, index):
                at = slice(index * BATCH, (index + 1) * BATCH)
                return X[at], Y[at]

        schedule = HyperparameterScheduler(learning_rate=S.LinearDecay(0.1))
        model = linear_model("sgd")
        model.fit(Adapter(), epochs=2, verbose=0, callbacks=[schedule])
        assert schedule.bound["learning_rate"].decay_steps == 2 * STEPS

    def test_or_the_error_says_how(self):
        schedule = HyperparameterScheduler(learning_rate=S.LinearDecay(0.1))
        with pytest.raises(ValueError, match="assert_cardinality"):
            averaged([schedule])
        tf = pytest.importorskip("tensorflow")
        known = data().apply(tf.data.experimental.assert_cardinality(STEPS))
        linear_model("sgd").fit(known, verbose=0, callbacks=[schedule])
        assert schedule.bound["learning_rate"].decay_steps == STEPS


def test_snapshots_after_samples_need_no_length(tmp_path):
    after = [lrs.Samples(6 * BATCH, per_step=BATCH), lrs.Samples(60, per_step=BATCH)]
    snapshots = SnapshotEnsemble(tmp_path, schedule=after)
    model = averaged([snapshots], 2)
    found = [member.step for member in ensembles.load(tmp_path, model)]
    assert found == [6, 15]


def test_snapshots_at_the_ends_of_epochs_need_no_length(tmp_path):
    look = Ends()
    snapshots = SnapshotEnsemble(tmp_path, schedule=[lrs.Epochs(1), lrs.Epochs(3)])
    model = averaged([snapshots, look], 4)
    ensemble = ensembles.load(tmp_path, model)
    # On TensorFlow, Keras counts the attempt to read past the end of the data, too.
    ends = [(look.iterations[0], 1), (look.iterations[2], 2)]
    assert [(member.step, member.cycle) for member in ensemble] == ends
    for member, epoch in zip(ensemble, (0, 2), strict=True):
        np.testing.assert_array_equal(member.values[0], look.seen[epoch])
        assert "loss" in member.metrics
