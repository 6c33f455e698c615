"""Chebyshev's rates in fractal order: the theorem, and what the order is for."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import compiled

SETTINGS = [(100.0, 16), (100.0, 64), (1000.0, 128)]


def theorem(condition, cycle):
    """How much of the error a cycle leaves at most."""
    rho = (condition**0.5 - 1.0) / (condition**0.5 + 1.0)
    return 2.0 * rho**cycle / (1.0 + rho ** (2 * cycle))


def fractal(condition, cycle):
    """For curvatures from 1 / condition to 1."""
    return lrs.schedules.ChebyshevFractal(1.0, condition, cycle)


def errors(rates, condition):
    """What is left after each step, of an error of 1 for every curvature."""
    curvatures = np.geomspace(1.0 / condition, 1.0, 2001)
    left = np.ones(2001)
    for rate in rates:
        left = left - rate * curvatures * left
        yield np.abs(left)


def rotated(condition, size=64):
    """A quadratic's matrix in float32, its curvatures and directions in float64."""
    curvatures = np.geomspace(1.0 / condition, 1.0, size)
    directions, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))
    matrix = (directions * curvatures) @ directions.T
    return matrix.astype(np.float32), directions


def descend(rates, condition):
    """Gradient descent in float32: what is left in every direction."""
    matrix, directions = rotated(condition)
    w = directions.sum(axis=1).astype(np.float32)  # 1 in every direction.
    for rate in rates.astype(np.float32):
        w = w - rate * (matrix @ w)
    return np.abs(directions.T @ w)


@pytest.mark.parametrize(("condition", "cycle"), SETTINGS)
def test_a_cycle_contracts_at_exactly_the_rate_of_the_theorem(condition, cycle):
    *_, left = errors(fractal(condition, cycle).curve(cycle), condition)
    assert left.max() == pytest.approx(theorem(condition, cycle), rel=1e-9)
    # At both ends of the spectrum, and nowhere more.
    np.testing.assert_allclose(left[[0, -1]], theorem(condition, cycle), rtol=1e-9)


@pytest.mark.parametrize(("condition", "cycle"), SETTINGS)
def test_rates_in_float32_are_good_for_it(condition, cycle):
    rates = compiled.values(fractal(condition, cycle), np.arange(cycle))
    *_, left = errors(rates, condition)
    # Of the factors `1 - rate`, those near 0 keep few digits: 1.7e-6 at the most.
    assert left.max() == pytest.approx(theorem(condition, cycle), abs=2e-6)


@pytest.mark.parametrize(("condition", "cycle"), SETTINGS)
def test_so_is_all_arithmetic_in_float32(condition, cycle):
    left = descend(fractal(condition, cycle).curve(cycle), condition)
    # The first steps make errors as large as the condition; that is what is rounded.
    assert left.max() == pytest.approx(theorem(condition, cycle), abs=condition * 1e-7)


def test_keras_does_so_on_a_quadratic():
    condition, cycle = SETTINGS[0]
    size = 64
    matrix, directions = rotated(condition, size)
    # With this square root of the matrix as data, it is the loss's matrix of second
    # derivatives: that of the mean over `size` rows of (x w)^2 is 2 x^T x / size.
    values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    x = np.sqrt(0.5 * size * values)[:, None] * vectors.T
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((size,)), dense])
    model.set_weights([directions.sum(axis=1, keepdims=True)])
    model.compile(keras.optimizers.SGD(fractal(condition, cycle)), "mse")
    model.fit(x, np.zeros((size, 1)), batch_size=size, epochs=cycle, verbose=0)
    left = np.abs(directions.T @ model.get_weights()[0]).max()
    assert left == pytest.approx(theorem(condition, cycle), abs=condition * 1e-7)


@pytest.mark.parametrize(("condition", "cycle"), SETTINGS)
def test_the_order_bounds_what_comes_before_and_after_every_step(condition, cycle):
    rates = fractal(condition, cycle).curve(cycle)
    prefixes = [left.max() for left in errors(rates, condition)]
    # Errors of the start grow meanwhile, to about the condition number at most.
    assert 0.7 * condition < max(prefixes) < condition
    # Errors made on the way, by rounding or noise, are never amplified by the rest.
    suffixes = [
        list(errors(rates[step:], condition))[-1].max() for step in range(1, cycle)
    ]
    assert max(suffixes) < 1.0


@pytest.mark.parametrize(("condition", "cycle"), SETTINGS[1:])
def test_in_sorted_order_float32_blows_up(condition, cycle):
    rates = np.sort(fractal(condition, cycle).curve(cycle))
    for order in (rates, rates[::-1]):
        with np.errstate(over="ignore", invalid="ignore"):
            assert not descend(order, condition).max() < 1e6
    assert descend(fractal(condition, cycle).curve(cycle), condition).max() < 0.01


@pytest.mark.parametrize(("condition", "cycle"), SETTINGS)
def test_half_of_the_steps_are_longer_than_constant_ones_may_be(condition, cycle):
    rates = fractal(condition, cycle).curve(cycle)
    assert np.mean(rates > 2.0) == pytest.approx(0.5, abs=2.0 / cycle)
    assert rates[0] == rates.max()
