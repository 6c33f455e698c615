"""Half precision, quantized weights and scaled losses, with every callback.

What each callback must have done the catalogue computes in NumPy, so that the tests of
types and quantization need one backend only.
"""

import warnings

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.callbacks import catalogue, references

S, A, C = lrs.schedules, lrs.averages, lrs.callbacks
POLICIES = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
INFINITE = 3  # Of which batch the gradients are.


@pytest.fixture(params=catalogue.CALLBACKS)
def name(request):
    return request.param


@pytest.fixture
def callback(name, tmp_path):
    return catalogue.make(name, tmp_path)


def model_of(policy):
    dense = keras.layers.Dense(1, dtype=policy, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((3,)), dense])


@pytest.mark.parametrize("policy", POLICIES)
def test_half_precision(policy, name, callback):
    model = catalogue.compiled(model_of(policy), name)
    dtype = keras.DTypePolicy(policy).variable_dtype
    catalogue.assert_works(model, name, callback, epochs=2, dtype=dtype)


def quantized(mode):
    model = model_of("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The input has nothing to quantize.
        model.quantize(mode)
    return model


def test_float8(name, callback):
    model = catalogue.compiled(quantized("float8"), name)
    if name != "AveragedEvaluation":
        catalogue.assert_works(model, name, callback)
        return
    before = catalogue.values_of(model)
    # Scales are no weights that could be averaged in a line.
    message = "`ScheduleFree` cannot train a model quantized to float8, whose scales"
    with pytest.raises(ValueError, match=message):
        references.fit(model, [callback], epochs=1)
    catalogue.assert_same(catalogue.values_of(model), before)
    assert catalogue.training_steps(model) == 0
    assert catalogue.untouched(model)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable")
def test_int8(name, callback):
    # Only the bias can still be trained.
    model = catalogue.compiled(quantized("int8"), name)
    kernel = np.array(keras.ops.convert_to_numpy(model.layers[0]._kernel))
    catalogue.assert_works(model, name, callback)
    again = keras.ops.convert_to_numpy(model.layers[0]._kernel)
    np.testing.assert_array_equal(kernel, again)


def overflowing_fit(callbacks, optimizer, infinite):
    """A training of which the gradients of some batches are infinite."""
    scale = keras.optimizers.LossScaleOptimizer(
        optimizer, initial_scale=8.0, dynamic_growth_steps=10**6
    )
    model = references.linear_model(scale)
    weight = np.ones(len(references.X), "float32")
    for batch in infinite:
        weight[batch * references.BATCH] = np.inf
    history = references.fit(
        model, callbacks, 1, references.batches(sample_weight=weight)
    )
    return model, history


def without(batches):
    """The steps of the loop whose batches are finite."""
    return [k for k in range(references.STEPS) if k not in batches]


@pytest.mark.parametrize("infinite", [[INFINITE], [0], [2, 3, 9]], ids=str)
class TestInfiniteGradients:
    def test_schedule_and_momentum_wait(self, infinite):
        rate, momentum = S.LinearDecay(0.05, 10), S.LinearDecay(0.9, 10, 0.5)
        scheduler = C.HyperparameterScheduler(learning_rate=rate, momentum=momentum)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        model, _ = overflowing_fit([scheduler], optimizer, infinite)
        loop = references.SGD()
        rates, momenta = rate.curve(10), momentum.curve(10)
        for count, k in enumerate(without(infinite)):
            loop.update(references.gradient(loop.w, k), rates[count], momenta[count])
        assert catalogue.training_steps(model) == 10 - len(infinite)
        np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)

    def test_the_average_takes_no_part(self, infinite):
        averaging = C.WeightAveraging(A.UniformAverage(), at_end="average")
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        model, _ = overflowing_fit([averaging], optimizer, infinite)
        loop, seen = references.SGD(), []
        for k in without(infinite):
            loop.update(references.gradient(loop.w, k), 0.05, 0.9)
            seen.append(loop.w.copy())
        np.testing.assert_allclose(
            references.weights(model), np.mean(seen, axis=0), atol=1e-6
        )

    def test_cycles_end_after_as_many_updates(self, infinite, tmp_path):
        snapshots = C.SnapshotEnsemble(tmp_path, schedule=[3, 6])
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        model, _ = overflowing_fit([snapshots], optimizer, infinite)
        loop, seen = references.SGD(), []
        for k in without(infinite):
            loop.update(references.gradient(loop.w, k), 0.05, 0.9)
            seen.append(loop.w.copy())
        members = lrs.ensembles.load(tmp_path, model)
        assert [member.step for member in members] == [3, 6]
        for member in members:
            np.testing.assert_allclose(
                member.values[0], seen[member.step - 1], atol=1e-6
            )

    def test_what_is_logged_is_what_was_used(self, infinite):
        rate = S.LinearDecay(0.05, 10)
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
        _, history = overflowing_fit([C.HyperparameterLogger()], optimizer, infinite)
        last = rate.curve(10)[9 - len(infinite)]
        assert history.history["learning_rate"] == [pytest.approx(last, rel=1e-6)]

    def test_norms_are_of_the_updates(self, infinite):
        recorder = C.GradientNormRecorder()
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        overflowing_fit([recorder], optimizer, infinite)
        loop, norms = references.SGD(), []
        for k in without(infinite):
            gradient = references.gradient(loop.w, k)
            norms.append(np.linalg.norm(gradient))
            loop.update(gradient, 0.05, 0.9)
        np.testing.assert_array_equal(recorder.steps, np.arange(10 - len(infinite)))
        np.testing.assert_allclose(recorder.norms, norms, rtol=1e-5)

    def test_averages_for_posthoc_take_no_part(self, infinite, tmp_path):
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        kept = C.PosthocAveraging(tmp_path, sigma_rels=[0.2])
        overflowing_fit([kept], optimizer, infinite)
        loop, average = references.SGD(), None
        shares = A.PowerFunctionAverage(0.2)
        for count, k in enumerate(without(infinite)):
            loop.update(references.gradient(loop.w, k), 0.05, 0.9)
            share = 1.0 - shares(np.array([count]))[0]
            average = loop.w if count == 0 else average + share * (loop.w - average)
        (found,) = A.posthoc(tmp_path, 0.2)
        np.testing.assert_allclose(found, average, atol=1e-6)
