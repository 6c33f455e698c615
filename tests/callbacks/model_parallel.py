"""Trains a model that four host devices share, which `XLA_FLAGS` make."""

import contextlib
import pathlib
import tempfile

import keras
import numpy as np

from keras_lrs import ensembles
from keras_lrs import schedules as S  # noqa: N812
from keras_lrs.callbacks import (
    AveragedEvaluation,
    HyperparameterScheduler,
    ResumableTraining,
    SnapshotEnsemble,
    WeightAveraging,
)
from keras_lrs.optimizers import ScheduleFree
from keras_lrs.tuning import range_test

EPOCHS, BATCH = 4, 8
X = np.random.default_rng(0).normal(size=(6 * BATCH, 4)).astype("float32")
Y = np.tanh(X @ np.random.default_rng(1).normal(size=(4, 2))).astype("float32")


class PowerCutError(Exception):
    pass


class PowerCut(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise PowerCutError


def network(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(2, name="output"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def fit(model, *callbacks):
    model.fit(X, Y, BATCH, EPOCHS, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def everything(check):
    """Arrays of all that trainings end with; `check` is given the models."""
    found = {}
    rate, momentum = S.CosineRestarts(0.1, 12), S.OneCycle(0.9)

    def sgd():
        return network(keras.optimizers.SGD(0.1, momentum=0.9))

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def callbacks():
            return [
                HyperparameterScheduler(learning_rate=rate, momentum=momentum),
                WeightAveraging(at_end="raw"),
                SnapshotEnsemble(folder / "snapshots"),
            ]

        model = fit(sgd(), *callbacks())
        found["scheduled"] = model.get_weights()
        found["averages"] = [
            np.array(keras.ops.convert_to_numpy(v.value))
            for v in model.optimizer._model_variables_moving_average
        ]
        found["snapshots"] = [ensembles.load(folder / "snapshots", model).predict(X)]
        check(model)

        for cut in ([PowerCut()], []):
            resumed = sgd()
            resumable = ResumableTraining(folder / "generations", verbose=0)
            with contextlib.suppress(PowerCutError):
                fit(resumed, resumable, *cut, *callbacks())
        for one, other in zip(resumed.get_weights(), found["scheduled"], strict=True):
            np.testing.assert_array_equal(one, other)
        check(resumed)

    model = network(ScheduleFree(keras.optimizers.Adam(0.05, beta_1=0.0)))
    found["schedule-free"] = fit(model, AveragedEvaluation()).get_weights()
    test = range_test(
        sgd(), X, Y, num_steps=12, batch_size=BATCH, shuffle=False, verbose=0
    )
    found["range test"] = [np.array(test.losses)]
    return found


def is_sharded(model):
    """The averages are spread over the devices as the weights are."""
    weights = model.optimizer._trainable_variables
    averages = model.optimizer._model_variables_moving_average
    for weight, average in zip(weights, averages, strict=True):
        assert average.value.sharding == weight.value.sharding, weight.path
        split = "hidden" in weight.path
        assert average.value.sharding.is_fully_replicated != split, weight.path


def main():
    import jax

    assert jax.device_count() == 4
    expected = everything(lambda model: None)
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*hidden/kernel"] = (None, "model")
    layout[".*hidden/bias"] = ("model",)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    found = everything(is_sharded)
    for name, arrays in expected.items():
        for one, other in zip(arrays, found[name], strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5, err_msg=name)
