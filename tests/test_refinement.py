"""The refined schedule is the paper's formula, written out."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from keras_lrs import callbacks, schedules
from keras_lrs.schedules import refined_from_gradient_norms


def published(norms, share, power=2.0):
    """The formula term by term, with the filter that the authors name."""
    width = 2 * (int(share * len(norms)) // 2) + 1
    pad = min(2 * width, len(norms) - 1)
    padded = np.pad(norms, (0, pad), mode="reflect")
    smooth = ndimage.median_filter(padded, size=width, mode="nearest")[: len(norms)]
    weights = [norm**-power for norm in smooth]
    rates = [
        weights[t] * sum(weights[p] for p in range(t + 1, len(norms)))
        for t in range(len(norms))
    ]
    return np.array(rates) / max(rates)


def some_norms(n=200, seed=0):
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, n)
    return (1.0 + 3.0 * np.exp(-20 * t) + t**3) * rng.lognormal(0, 0.2, n)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("n", [2, 7, 200])
def test_it_is_the_formula(n, share, power):
    norms = some_norms(n)
    schedule = refined_from_gradient_norms(norms, 0.3, smoothing=share, power=power)
    expected = 0.3 * published(norms, share, power)
    np.testing.assert_allclose(schedule.curve(n), expected, rtol=1e-9, atol=1e-16)


def test_published_values():
    curve = refined_from_gradient_norms([4, 2, *[1] * 7, 2], smoothing=0).curve(10)
    expected = [0.075, 0.29, 1, 0.84, 0.68, 0.52, 0.36, 0.2, 0.04, 0]
    np.testing.assert_allclose(curve, expected, atol=1e-15)


def test_constant_norms_give_linear_decay():
    curve = refined_from_gradient_norms([3.0] * 50, 0.1).curve(50)
    linear = schedules.LinearDecay(0.1, 49).curve(50)
    np.testing.assert_allclose(curve, linear, rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_the_scale_of_the_norms_does_not_matter(scale):
    norms = some_norms()
    curves = [refined_from_gradient_norms(n).curve(200) for n in (norms, norms * scale)]
    np.testing.assert_allclose(*curves, rtol=1e-9)
    assert curves[0].min() == curves[0][-1] == 0.0
    assert curves[0].max() == 1.0


@pytest.mark.parametrize("total", [37, 200, 1000])
def test_it_can_be_as_long_as_one_likes(total):
    norms = some_norms()
    schedule = refined_from_gradient_norms(norms, 0.1, total)
    curve = schedule.curve(total)
    own = refined_from_gradient_norms(norms, 0.1).curve(200)
    expected = np.interp(np.linspace(0, 1, total), np.linspace(0, 1, 200), own)
    # Points are moved to whole steps: by half of one at most.
    assert np.abs(curve - expected).max() < 0.01 * 0.1 * max(1, 1000 / total)
    assert curve[-1] == 0.0
    assert float(schedule(10 * total)) == 0.0


def test_a_recorded_training_can_be_refined():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    y = (x @ rng.normal(size=(4, 1))).astype("float32")
    dense = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((4,)), dense])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    recorder = callbacks.GradientNormRecorder()
    model.fit(x, y, 8, 4, verbose=0, callbacks=[recorder])
    schedule = refined_from_gradient_norms(recorder.norms, 0.1, 64)
    model.compile(keras.optimizers.SGD(schedule), "mse")
    model.fit(x, y, 8, 8, verbose=0)
    assert float(model.optimizer.learning_rate) == 0.0
    copied = keras.optimizers.SGD.from_config(model.optimizer.get_config())
    assert copied._learning_rate == schedule


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"norms": [1.0]}, ValueError, "`norms` must have at least two"),
        ({"norms": [1.0, 0.0]}, ValueError, "`norms` must be > 0"),
        ({"norms": [1.0, np.inf]}, ValueError, "`norms` must be finite"),
        ({"norms": "12"}, TypeError, "`norms` must be a list"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be > 0"),
        ({"total_steps": 1}, ValueError, "`total_steps` must be >= 2"),
        ({"smoothing": 1.5}, ValueError, "`smoothing` must be <= 1"),
        ({"power": 0}, ValueError, "`power` must be > 0"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        refined_from_gradient_norms(**{"norms": [1.0, 2.0, 1.0], **arguments})
