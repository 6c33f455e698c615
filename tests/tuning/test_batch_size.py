"""Rates for other batch sizes."""

import math

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests.callbacks import references

S = lrs.schedules
scale = lrs.tuning.scale_learning_rate
THEIRS = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)


def test_four_times_the_batch_takes_four_times_the_rate():
    assert scale(0.1, 1024, 256) == pytest.approx(0.4)
    assert scale(0.1, 1024, 256, rule="sqrt") == pytest.approx(0.2)
    assert scale(0.4, 256, 1024) == pytest.approx(0.1)
    assert isinstance(scale(1, 64, 256), float)
    assert scale(0.1, 300, 256) == pytest.approx(0.1171875)  # No whole multiple.


def test_replicas_and_accumulation_make_the_batch_larger():
    assert scale(0.1, 64, 256, num_replicas=8) == pytest.approx(0.2)
    assert scale(0.1, 64, 256, gradient_accumulation_steps=8) == pytest.approx(0.2)
    both = scale(0.1, 64, 256, num_replicas=4, gradient_accumulation_steps=4)
    assert both == pytest.approx(0.4)


@pytest.mark.parametrize("schedule", [S.CosineAnnealing(0.1, 40), THEIRS])
def test_every_rate_of_a_schedule_is_scaled(schedule):
    scaled = scale(schedule, 1024, 256)
    for step in (0, 7, 40):
        value = float(keras.ops.convert_to_numpy(schedule(step)))
        assert float(scaled(step)) == pytest.approx(4.0 * value, rel=1e-6)


def test_the_warmup_goes_in_a_line_from_the_old_rate_to_the_new_one():
    # Goyal et al.: eta * (1 + (k - 1) * t / W), here with k = 32 and W = 50.
    steps = np.arange(60)
    expected = 0.1 * (1.0 + 31.0 * np.minimum(steps, 50) / 50)
    warm = scale(0.1, 32 * 256, 256, warmup_steps=50)
    np.testing.assert_allclose(warm.curve(60), expected)
    decaying = scale(S.LinearDecay(0.1, 100), 1024, 256, "sqrt", warmup_steps=10)
    assert [round(float(decaying(step)), 4) for step in (0, 5, 10, 60, 110)] == [
        0.1, 0.15, 0.2, 0.1, 0.0,
    ]  # fmt: skip


def test_the_warmup_may_be_in_epochs():
    warm = scale(S.CosineAnnealing(0.1), 1024, 256, warmup_steps=lrs.Epochs(5))
    bound = warm.bind(total_steps=90 * 20, steps_per_epoch=20)
    assert bound.warmup_steps == 100
    assert bound.schedule.schedule.decay_steps == 1700
    np.testing.assert_allclose(bound.curve(101)[[0, 100]], [0.1, 0.4])


def test_a_smaller_rate_needs_no_rise():
    warm = scale(S.LinearDecay(0.4, 100), 256, 1024, warmup_steps=10)
    np.testing.assert_allclose(warm.curve(11), 0.1)
    assert float(warm(60)) == pytest.approx(0.05)


def trained(batch_size, accumulation, learning_rate):
    model = references.linear_model(
        keras.optimizers.SGD(
            learning_rate, gradient_accumulation_steps=accumulation or None
        )
    )
    model.fit(
        references.X, references.Y, batch_size=batch_size, epochs=2, shuffle=False,
        verbose=0,
    )  # fmt: skip
    return references.weights(model)


def test_accumulated_batches_are_one_large_batch():
    # Four times 5 is 20: the same updates, so the same rate must be right for both.
    rates = [
        scale(0.01, 20, 10),
        scale(0.01, 5, 10, gradient_accumulation_steps=4),
    ]
    assert rates[0] == rates[1]
    np.testing.assert_allclose(
        trained(20, None, rates[0]), trained(5, 4, rates[1]), rtol=1e-5
    )


def test_a_large_batch_takes_the_step_of_many_small_ones_where_gradients_are_small():
    # The reason for the linear rule: to first order in the rate they are the same.
    gaps = []
    for rate in (1e-3, 1e-4):
        small = trained(5, None, rate)
        large = trained(20, None, scale(rate, 20, 5))
        gaps.append(np.linalg.norm(small - large) / np.linalg.norm(small))
    assert gaps[0] < 0.05
    assert gaps[1] == pytest.approx(gaps[0] / 10.0, rel=0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -0.1}, "`learning_rate` must be >= 0"),
        ({"learning_rate": math.nan}, "`learning_rate` must be finite"),
        ({"learning_rate": 3e38}, "`learning_rate` must be <="),
        ({"batch_size": 0}, "`batch_size` must be > 0"),
        ({"batch_size": 1.5}, "`batch_size` must be a whole number"),
        ({"base_batch_size": -1}, "`base_batch_size` must be > 0"),
        ({"num_replicas": 0}, "`num_replicas` must be > 0"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be"),
        ({"rule": "cubic"}, "`rule` must be one of 'linear', 'sqrt'"),
        ({"warmup_steps": -1}, "`warmup_steps` must be >= 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    good = {"learning_rate": 0.1, "batch_size": 1024, "base_batch_size": 256}
    with pytest.raises(ValueError, match=message):
        scale(**good | arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"learning_rate": "0.1"},
        {"learning_rate": None},
        {"batch_size": "256"},
        {"batch_size": True},
        {"gradient_accumulation_steps": None},
    ],
)
def test_wrong_types_are_refused(arguments):
    good = {"learning_rate": 0.1, "batch_size": 1024, "base_batch_size": 256}
    with pytest.raises(TypeError, match=f"`{next(iter(arguments))}`"):
        scale(**good | arguments)
