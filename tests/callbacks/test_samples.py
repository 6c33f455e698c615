"""Lengths in samples and tokens, which `fit` turns into steps."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.callbacks import (
    HyperparameterScheduler,
    ReduceOnPlateau,
    SnapshotEnsemble,
    WeightAveraging,
)
from tests.callbacks import references
from tests.ramp import mean_of_prediction, ramp

S = lrs.schedules
BACKEND = keras.backend.backend()
SCHEDULE = S.Warmup(S.LinearDecay(0.1, lrs.Samples(52)), lrs.Samples(14))

pytestmark = pytest.mark.every_backend


def bound_by_fit(schedule=SCHEDULE, model=None, epochs=2, **data):
    """The schedule that a `fit` makes of one."""
    scheduler = HyperparameterScheduler(schedule)
    model = ramp(keras.optimizers.SGD(0.3)) if model is None else model
    model.fit(**data, epochs=epochs, shuffle=False, verbose=0, callbacks=[scheduler])
    return scheduler.bound["learning_rate"]


def zeros(count):
    return np.zeros((count, 1), "float32")


def arrays(count, **more):
    return {"x": zeros(count), "y": zeros(count), **more}


class TestWhatTheDataTells:
    def test_arrays_tell_the_size_of_their_batches(self):
        bound = bound_by_fit(**arrays(30, batch_size=4))  # 7 batches of 4, one of 2.
        assert bound == SCHEDULE.bind(16, 8, samples_per_step=4)
        assert (bound.warmup_steps, bound.schedule.decay_steps) == (4, 13)

    def test_arrays_without_a_batch_size_have_batches_of_32(self):
        assert bound_by_fit(**arrays(64)) == SCHEDULE.bind(4, samples_per_step=32)

    def test_every_update_uses_its_value(self):
        model = ramp(keras.optimizers.SGD(0.3))
        bound_by_fit(model=model, **arrays(32, batch_size=4))
        position = float(keras.ops.convert_to_numpy(model.position))
        expected = SCHEDULE.bind(16, samples_per_step=4).curve(16).sum()
        assert position == pytest.approx(expected, rel=1e-5)

    def test_a_py_dataset_tells_it_by_its_first_batch(self):
        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 3

            def __getitem__(self, index):
                count = 4 if index < 2 else 1
                return {"one": zeros(count)}, zeros(count)

        class Named(keras.Model):
            def __init__(self):
                super().__init__()
                self.position = self.add_weight(shape=(), initializer="zeros")

            def call(self, inputs):
                return inputs["one"] * 0.0 - self.position

        model = Named()
        model.compile(keras.optimizers.SGD(0.3), mean_of_prediction)
        bound = bound_by_fit(model=model, x=Batches())
        assert bound == SCHEDULE.bind(6, samples_per_step=4)

    def test_a_data_loader(self):
        torch = pytest.importorskip("torch")
        pairs = torch.utils.data.TensorDataset(torch.zeros(20, 1), torch.zeros(20, 1))
        bound = bound_by_fit(x=torch.utils.data.DataLoader(pairs, batch_size=4))
        assert bound == SCHEDULE.bind(10, samples_per_step=4)

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="a pipeline of TensorFlow")
    def test_a_tf_data_pipeline_whose_batches_are_all_full(self):
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((zeros(20), zeros(20)))
        full = data.batch(4, drop_remainder=True)
        assert bound_by_fit(x=full) == SCHEDULE.bind(10, samples_per_step=4)
        with pytest.raises(ValueError, match=r"Samples\(14, per_step=...\)"):
            bound_by_fit(x=data.batch(4))
        own = S.StepDecay(0.1, lrs.Samples(40, per_step=4))
        assert bound_by_fit(own, x=data.batch(4)).step_size == 10

    def test_micro_batches_are_batches(self):
        optimizer = keras.optimizers.SGD(0.3, gradient_accumulation_steps=2)
        bound = bound_by_fit(model=ramp(optimizer), **arrays(32, batch_size=4))
        assert bound == SCHEDULE.bind(16, samples_per_step=4)


def batches(count):
    for _ in range(count):
        yield zeros(4), zeros(4)


class TestDataThatDoesNotTell:
    def test_a_generator_needs_the_samples_of_a_step(self):
        with pytest.raises(ValueError, match=r"`Samples\(14, per_step=...\)`"):
            bound_by_fit(x=batches(8), epochs=1, steps_per_epoch=8)

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_a_stream_of_unknown_length_is_enough_where_only_batches_are_counted(self):
        per_step = {"per_step": 4}
        schedule = S.Warmup(
            S.LinearDecay(0.1, lrs.Samples(52, **per_step)),
            lrs.Samples(14, **per_step),
        )
        bound = bound_by_fit(schedule, x=batches(8), epochs=1)
        assert bound == schedule.bind(1000)
        rest = S.Warmup(S.LinearDecay(0.1), lrs.Samples(14, **per_step))
        with pytest.raises(ValueError, match=r"`learning_rate`.*`steps_per_epoch=`"):
            bound_by_fit(rest, x=batches(8), epochs=1)

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_also_for_the_arguments_of_callbacks(self):
        model = references.linear_model(keras.optimizers.SGD(0.05, momentum=0.9))
        start = lrs.Samples(12, per_step=4)
        averaging = WeightAveraging(lrs.averages.UniformAverage(), start)

        def stream():
            for k in range(10):
                part = slice(4 * k, 4 * k + 4)
                yield references.X[part], references.Y[part]

        model.fit(stream(), shuffle=False, verbose=0, callbacks=[averaging])
        loop = references.SGD()
        steps = [loop.train(1).copy() for _ in range(10)]
        expected = np.mean(steps[3:], axis=0)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)


class TestTokens:
    def model(self, *shape, dtype="int32", inputs=1):
        found = [keras.Input(shape, dtype=dtype) for _ in range(inputs)]
        outputs = [
            keras.layers.Dense(1)(keras.layers.Embedding(5, 2)(one)) for one in found
        ]
        model = keras.Model(found, sum(outputs[1:], start=outputs[0]))
        model.compile(keras.optimizers.SGD(0.3), "mse")
        return model

    schedule = S.StepDecay(0.1, lrs.Tokens(120))

    def fit(self, model, schedule=None):
        x = np.zeros((8, 6), "int32")
        x = [x] * len(model.inputs) if len(model.inputs) > 1 else x
        y = np.zeros((8, 6, 1), "float32")
        schedule = self.schedule if schedule is None else schedule
        return bound_by_fit(schedule, model, x=x, y=y, batch_size=4)

    def test_a_model_of_one_input_of_integers_tells_the_length(self):
        assert self.fit(self.model(6)).step_size == 5  # 24 tokens in a batch.

    @pytest.mark.parametrize(
        "arguments",
        [{"shape": (None,)}, {"dtype": "float32"}, {"inputs": 2}],
        ids=str,
    )
    def test_other_models_need_the_tokens_of_a_step(self, arguments):
        shape = arguments.pop("shape", (6,))
        model = self.model(*shape, **arguments)
        with pytest.raises(ValueError, match=r"`Tokens\(120, per_step=...\)`"):
            self.fit(model)
        own = S.StepDecay(0.1, lrs.Tokens(120, per_step=12))
        assert self.fit(model, own).step_size == 10


class TestCallbacks:
    """Each argument that is a length takes samples, as it takes steps."""

    def test_the_start_and_the_interval_of_an_average(self):
        model = references.linear_model(keras.optimizers.SGD(0.05, momentum=0.9))
        averaging = WeightAveraging(
            lrs.averages.UniformAverage(),
            start_step=lrs.Samples(40),
            update_every=lrs.Samples(20),
        )
        references.fit(model, [averaging], data=references.arrays())
        loop = references.SGD()
        steps = [loop.train(1).copy() for _ in range(40)]
        expected = np.mean(steps[14::5], axis=0)
        np.testing.assert_allclose(references.weights(model), expected, atol=1e-6)

    def test_the_warmup_of_a_plateau(self):
        found = []
        for warmup in (20, lrs.Samples(80), lrs.Samples(160, per_step=8)):
            plateau = ReduceOnPlateau(
                "loss", 0.5, patience=1, min_delta=1e9, warmup=warmup
            )
            model = references.linear_model(keras.optimizers.SGD(0.05))
            references.fit(model, [plateau], data=references.arrays())
            found.append(plateau.state)
        assert found[0]["factor"] == 0.5
        assert found[1] == found[0] == found[2]

    def test_the_ends_of_snapshots(self, tmp_path):
        model = references.linear_model(keras.optimizers.SGD(0.05))
        ends = [lrs.Samples(40), lrs.Samples(100)]
        ensemble = SnapshotEnsemble(tmp_path, schedule=ends)
        references.fit(model, [ensemble], data=references.arrays())
        members = lrs.ensembles.load(tmp_path, model)
        assert [member.step for member in members] == [10, 25]
