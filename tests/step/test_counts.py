"""What callbacks add to the compiled step: few operations, however long a schedule."""

import functools

import keras
import pytest

import keras_lrs as lrs
from tests.step import traced

S, A, C = lrs.schedules, lrs.averages, lrs.callbacks

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.every_backend,
    pytest.mark.skipif(BACKEND == "torch", reason="an eager step has no graph"),
]
FEW, MANY = 1, 4  # Layers, of two variables each.


def scheduled(schedule):
    return C.HyperparameterScheduler(learning_rate=schedule)


def piecewise(number):
    values = [0.1 / (k + 1.0) for k in range(number + 1)]
    return S.PiecewiseConstant(list(range(1, number + 1)), values)


def warmup_and_cosine(folder):
    return scheduled(S.Warmup(S.CosineAnnealing(0.1), lrs.Fraction(0.5)))


# How a callback is made; then how many of TensorFlow's nodes and of JAX's equations it
# may add, to any step and for each variable.
LIMITS = {
    "a rate": (warmup_and_cosine, {"tensorflow": (60, 0), "jax": (30, 0)}),
    "100 boundaries": (
        lambda folder: scheduled(piecewise(100)),
        {"tensorflow": (35, 0), "jax": (30, 0)},
    ),
    "100,000 boundaries": (
        lambda folder: scheduled(piecewise(100_000)),
        {"tensorflow": (60, 0), "jax": (60, 0)},
    ),
    # Keras subtracts `beta_1` from 1 for each variable.
    "a rate and a momentum": (
        lambda folder: C.OneCycleScheduler(0.1),
        {"tensorflow": (180, 0), "jax": (140, 1)},
    ),
    "a factor": (
        lambda folder: C.ReduceOnPlateau("loss"),
        {"tensorflow": (20, 0), "jax": (5, 0)},
    ),
    # Square, sum, and add; TensorFlow names what it sums over.
    "a norm of gradients": (
        lambda folder: C.GradientNormRecorder(),
        {"tensorflow": (35, 4), "jax": (65, 3)},
    ),
    # Read both, subtract, multiply, add, and write.
    "an average": (
        lambda folder: C.WeightAveraging(A.ExponentialAverage(0.9)),
        {"tensorflow": (60, 8), "jax": (75, 3)},
    ),
    "an average of its own": (
        lambda folder: C.PosthocAveraging(folder, [0.2]),
        {"tensorflow": (60, 8), "jax": (75, 3)},
    ),
}


def network(layers):
    return traced.network(keras.optimizers.Adam(1e-3), layers)


@functools.cache
def plain(layers):
    return len(traced.operations(network(layers)))


@pytest.mark.parametrize("name", LIMITS)
def test_a_callback_adds_few_operations_to_a_step(name, tmp_path):
    make, limits = LIMITS[name]
    most, each = limits[BACKEND]
    few, many = (
        len(traced.operations(network(layers), [make(tmp_path / str(layers))]))
        - plain(layers)
        for layers in (FEW, MANY)
    )
    assert few <= most + each * 2 * FEW
    assert many - few <= each * 2 * (MANY - FEW)


def test_what_acts_between_steps_leaves_the_step_as_it_is(tmp_path):
    callbacks = [
        C.HyperparameterLogger(every=1, log_dir=tmp_path / "logs"),
        C.SnapshotEnsemble(tmp_path / "snapshots", schedule=[1, 2]),
        C.ResumableTraining(tmp_path / "generations", verbose=0),
    ]
    assert len(traced.operations(network(FEW), callbacks)) == plain(FEW)
