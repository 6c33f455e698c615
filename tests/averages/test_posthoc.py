"""Averages that were not kept, from two that were."""

import mpmath
import numpy as np
import pytest

from keras_lrs.averages import PowerFunctionAverage, posthoc_coefficients

TRACKED = (0.05, 0.1)


def power_average(values, sigma):
    """The average at the end of a series of weights, by its definition."""
    gamma = PowerFunctionAverage(sigma).gamma
    s = np.arange(len(values) + 1.0) / len(values)
    return np.diff(s ** (gamma + 1.0)) @ values


@pytest.fixture(scope="module")
def series():
    """4,096 vectors on their way, as weights are."""
    rng = np.random.default_rng(0)
    way = np.outer(np.linspace(0.0, 1.0, 4096) ** 0.5, rng.normal(size=50))
    return way + 0.05 * np.cumsum(rng.normal(size=way.shape), axis=0) / 64.0


@pytest.fixture(scope="module")
def snapshots(series):
    """Steps, widths and averages, every 256 steps."""
    return [
        (step, sigma, power_average(series[:step], sigma))
        for step in range(256, 4097, 256)
        for sigma in TRACKED
    ]


def reconstructed(snapshots, step, sigma):
    steps, sigmas, stored = zip(*snapshots, strict=True)
    return posthoc_coefficients(steps, sigmas, step, sigma) @ np.array(stored)


@pytest.mark.parametrize(
    ("sigma", "tolerance"),
    [(0.05, 1e-9), (0.06, 1e-3), (0.075, 1e-3), (0.09, 1e-3), (0.1, 1e-9)],
)
def test_between_the_tracked_widths(series, snapshots, sigma, tolerance):
    expected = power_average(series, sigma)
    found = reconstructed(snapshots, 4096, sigma)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= tolerance


def test_of_an_earlier_step(series, snapshots):
    expected = power_average(series[:2048], 0.075)
    found = reconstructed(snapshots, 2048, 0.075)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) <= 1e-3


@pytest.mark.parametrize(("step", "sigma"), [(9, 0.08), (20, 0.08), (2**31, 1 / 64)])
def test_the_coefficients_are_those_of_the_least_squares(step, sigma):
    """With 60 digits: `1e-500` is not 0 there."""
    mp = mpmath.mp.clone()
    mp.dps = 60
    stored = [(5, 0.05), (9, 0.05), (9, 0.1)]

    def product(a, b):
        (t, g), (u, h) = (
            (mp.mpf(t), mp.mpf(PowerFunctionAverage(sigma).gamma))
            for t, sigma in (a, b)
        )
        area = min(t, u) ** (g + h + 1) / (g + h + 1)
        return (g + 1) * (h + 1) * area / (t ** (g + 1) * u ** (h + 1))

    products = mp.matrix([[product(a, b) for b in stored] for a in stored])
    right = mp.matrix([product(a, (step, sigma)) for a in stored])
    found = mp.lu_solve(products, right)
    expected = [float(value / sum(found)) for value in found]
    steps, sigmas = zip(*stored, strict=True)
    coefficients = posthoc_coefficients(steps, sigmas, step, sigma)
    np.testing.assert_allclose(coefficients, expected, rtol=1e-9, atol=1e-12)


def test_later_snapshots_do_not_count():
    found = posthoc_coefficients([10, 20, 30], [0.1] * 3, 20, 0.08)
    assert found[2] == 0.0
    assert found.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([10, 20], [0.1], 20, 0.1), "sigma_rels"),
        (([10], [0.5], 20, 0.1), "sigma_rels"),
        (([10], [0.1], 20, 0.5), "sigma_rel"),
        (([10], [0.1], 5, 0.1), "step"),
        (([], [], 5, 0.1), "step"),
        (([0], [0.1], 5, 0.1), "steps"),
        (([10, 10], [0.1, 0.1], 20, 0.1), "steps"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        posthoc_coefficients(*arguments)
