"""A model saved in one process trains on in another, from the right step."""

import json

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import catalogue, processes

pytestmark = pytest.mark.every_backend

S = lrs.schedules

NESTED = S.Sequential(
    [
        S.Warmup(S.Clipped(S.REXDecay(0.1, 50), 0.01), 5, 0.1, "exponential"),
        S.Product(
            [
                S.Noisy(S.Sampled(S.CosineRestarts(0.1, 10), every=3), 0.1, seed=4),
                keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.9),
            ]
        ),
        S.Restarts(S.Warmup(S.OneCycle(0.1), S.Fraction(0.2)), 12, t_mul=1.5),
    ],
    [20, 60],
)


def model(schedule):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), "mse")
    return model


def train(model, steps):
    for _ in range(steps):
        model.train_on_batch(np.ones((4, 3)), np.ones((4, 1)))


def resume(path, steps):
    """Trains on, in a process of its own."""
    resumed = keras.models.load_model(path, safe_mode=True)
    start, rates = int(resumed.optimizer.iterations), []
    for _ in range(steps):
        rates.append(float(resumed.optimizer.learning_rate))
        train(resumed, 1)
    schedule = resumed.optimizer.get_config()["learning_rate"]
    return {"start": start, "rates": rates, "schedule": json.dumps(schedule)}


@pytest.mark.parametrize(
    "schedule",
    [NESTED, S.CosineAnnealing(0.1, 20), S.WarmupStableDecay(0.1, 5, 10, 30)],
    ids=lambda schedule: type(schedule).__name__,
)
@pytest.mark.slow
def test_a_model_trains_on_in_a_fresh_process(schedule, tmp_path):
    path = tmp_path / "model.keras"
    saved = model(schedule)
    train(saved, 17)
    saved.save(path)
    found = processes.call(resume, path, 8)
    assert found["start"] == 17
    np.testing.assert_allclose(
        found["rates"], schedule(np.arange(17, 25)), rtol=3e-6, atol=1e-12
    )
    again = keras.saving.deserialize_keras_object(json.loads(found["schedule"]))
    assert again == schedule


def test_every_schedule_survives_the_config_of_an_optimizer():
    for schedule in catalogue.SCHEDULES:
        config = json.dumps(keras.optimizers.SGD(schedule).get_config())
        optimizer = keras.optimizers.SGD.from_config(json.loads(config))
        assert json.dumps(optimizer.get_config()) == config
        assert float(optimizer.learning_rate) == pytest.approx(
            float(schedule(0)), rel=1e-6
        )


def test_a_saved_model_resumes_to_the_same_weights(tmp_path):
    path = tmp_path / "model.keras"
    straight, first = model(NESTED), model(NESTED)
    first.set_weights(straight.get_weights())
    train(straight, 30)
    train(first, 13)
    first.save(path)
    resumed = keras.models.load_model(path)
    train(resumed, 17)
    for ours, theirs in zip(resumed.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
