"""Values from the papers' formulas and from their published examples."""

import math

import numpy as np
import pytest

import keras_lrs as lrs

S = lrs.schedules

# Schedule, steps, and the values computed elsewhere from the published formula.
PUBLISHED = [
    (S.StepDecay(0.1, 30), [0, 29, 30, 59, 60, 90], [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-4]),
    (
        S.ExponentialDecay(0.1, 1000, 0.96),
        [500, 1000, 2500],
        [0.0979795897113, 0.096, 0.090297989878],
    ),
    (
        S.InverseTimeDecay(0.1, 10, 0.5),
        [10, 20, 100],
        [0.0666666666667, 0.05, 0.0166666666667],
    ),
    (S.PolynomialDecay(0.1, 100, 0.001, power=2.0), [25, 50], [0.0566875, 0.02575]),
    (S.PolynomialDecay(1.0, 100, k=3.0), [25, 50, 75], [0.984375, 0.875, 0.578125]),
    (
        S.CosineAnnealing(0.1, 100, 0.001),
        [25, 50, 75, 99, 100],
        [0.0855017856687, 0.0505, 0.0154982143313, 0.0010244252619, 0.001],
    ),
    (
        S.CosineAnnealing(1.0, 100, k=1.5),
        [25, 50, 75],
        [0.961939766256, 0.722007920163, 0.273678137712],
    ),
    (
        S.REXDecay(1.0, 100),
        [0, 10, 25, 50, 75, 90, 100],
        [1, 0.947368421053, 0.857142857143, 0.666666666667, 0.4, 0.181818181818, 0],
    ),
    (
        S.REXDecay(1.0, 100, beta=0.9),
        [10, 25, 50, 75, 90],
        [
            0.989010989011,
            0.967741935484,
            0.909090909091,
            0.769230769231,
            0.526315789474,
        ],
    ),
    (
        S.BoundedExponentialDecay(0.1, 10**6, 1e-4, updates=10**4),
        [0, 99, 100, 500_000, 10**6 - 1, 10**6],
        [0.1, 0.1, 0.0999309463003, 0.00316227766017, 1.00069101417e-4, 1e-4],
    ),
    (
        S.NoamDecay(512, 4000),
        [0, 1999, 3999, 7999, 15999],
        [
            1.74692810742e-07,
            3.49385621484e-4,
            6.98771242969e-4,
            4.94105884401e-4,
            3.49385621484e-4,
        ],
    ),
    (
        S.CosineRestarts(0.05, 10),
        [0, 5, 9, 10, 20, 30],
        [0.05, 0.025, 0.00122358709262, 0.05, 0.025, 0.05],
    ),
    (
        # The notes count from 1 in each phase; here the phase's step 0 is its maximum.
        S.PhasedCosine([10, 20], [0.1, 0.05], [0.01, 0.001]),
        [1, 10, 11, 30],
        [0.0977975432333, 0.05, 0.0496983643446, 0.001],
    ),
    (
        S.CyclicalLearningRate(0.001, 0.006, 2000),
        [0, 1000, 2000, 3000, 4000, 6000, 8000],
        [0.001, 0.0035, 0.006, 0.0035, 0.001, 0.006, 0.001],
    ),
    (
        S.CyclicalLearningRate(0.001, 0.006, 2000, mode="triangular2"),
        [0, 1000, 2000, 3000, 4000, 6000, 8000],
        [0.001, 0.0035, 0.006, 0.0035, 0.001, 0.0035, 0.001],
    ),
    (
        S.CyclicalLearningRate(0.001, 0.006, 2000, mode="exp_range", gamma=0.99994),
        [1000, 2000, 3000, 6000],
        [0.00335440709585, 0.00543458621841, 0.00308816425196, 0.00448834395453],
    ),
    (
        S.OneCycle(1.0, 1000, 0.25, 25.0, 4e3),
        [0, 125, 250, 625, 1000],
        [0.04, 0.52, 1.0, 0.500005, 1e-5],
    ),
    (
        S.OneCycle(1.0, 100, 0.45, 10.0, 100.0, shape="linear", three_phase=True),
        [0, 45, 90, 95, 100],
        [0.1, 1.0, 0.1, 0.0505, 0.001],
    ),
    (
        S.WarmupStableDecay(1.0, 10, 20, 100),
        [5, 10, 80, 81, 85, 90, 99, 100],
        [0.5, 1, 1, 0.77639320225, 0.5, 0.292893218813, 0.0253205655191, 0],
    ),
    (
        S.ChebyshevFractal(1.0, 10.0, 8),
        range(8),
        [9.204152, 1.008722, 2.163522, 1.567913, 5.687031, 1.082062, 3.333407, 1.24999],
    ),
    (
        S.ChebyshevFractal(1.0, 20.0, 4),
        range(4),
        [11.606688053809435, 1.0375136099834763, 2.913537542658826, 1.4148781761898548],
    ),
    (
        S.PowerDecay(0.02, 128 * 4),
        [10**9, 10**10],
        [0.0131604264078, 0.00406696056179],
    ),
    (
        S.Sampled(S.REXDecay(1.0, 100), every=25),
        [0, 24, 25, 50, 75, 99],
        [1, 1, 0.857142857143, 0.666666666667, 0.4, 0.4],
    ),
    (
        S.Delayed(S.LinearDecay(1.0, 75), 25),
        [0, 25, 90],
        [1.0, 1.0, 0.133333333333],
    ),
    (
        # Goyal et al.: from 0.1 to 3.2 in five epochs.
        S.Warmup(S.Constant(3.2), 5, initial_fraction=1 / 32),
        [0, 1, 5],
        [0.1, 0.72, 3.2],
    ),
]


@pytest.mark.parametrize(("schedule", "steps", "expected"), PUBLISHED)
def test_published_values(schedule, steps, expected):
    np.testing.assert_allclose(schedule(np.array(steps)), expected, rtol=1e-6)


T = np.arange(0, 131)
Z = np.minimum(T, 100) / 100


def blend(profile):
    return 0.01 + (0.2 - 0.01) * profile


FORMULAS = [
    (S.LinearDecay(0.2, 100, 0.01), blend(1 - Z)),
    (S.PolynomialDecay(0.2, 100, 0.01, 1.7, 2.3), blend((1 - Z**2.3) ** 1.7)),
    (S.CosineAnnealing(0.2, 100, 0.01), blend((1 + np.cos(np.pi * Z)) / 2)),
    (S.REXDecay(0.2, 100, 0.01), blend((1 - Z) / (1 - Z / 2))),
    (S.OneMinusSqrtDecay(0.2, 100, 0.01), blend(1 - np.sqrt(Z))),
    (
        S.TanhDecay(0.2, 100, 0.01),
        blend((np.tanh(3) - np.tanh(-6 + 9 * Z)) / (np.tanh(3) - np.tanh(-6))),
    ),
    (S.BoundedExponentialDecay(0.2, 100, 0.01), 0.2 * (0.01 / 0.2) ** Z),
    (
        S.BoundedExponentialDecay(0.2, 100, 0.01, updates=7),
        0.2 * (0.01 / 0.2) ** (np.minimum(T, 100) * 7 // 100 / 7),
    ),
    (S.ExponentialDecay(0.2, 7, 0.5, staircase=True), 0.2 * 0.5 ** (T // 7)),
    (S.InverseTimeDecay(0.2, 7, 0.5, staircase=True), 0.2 / (1 + 0.5 * (T // 7))),
    (S.MultiStepDecay(0.2, [20, 50], 0.3), 0.2 * 0.3 ** ((T >= 20) * 1 + (T >= 50))),
    (S.InverseSqrtDecay(0.2, 5), 0.2 * np.sqrt(5 / (T + 5))),
    (S.ExponentialGrowth(0.2, 0.01), 0.2 * 1.01**T),
    (
        S.PiecewiseInterpolation([3, 50, 120], [0.1, 0.5, 0.2]),
        np.interp(T, [3, 50, 120], [0.1, 0.5, 0.2]),
    ),
    (
        S.PiecewiseInterpolation([3, 50, 120], [0.1, 0.5, 0.2], "exponential"),
        np.exp(np.interp(T, [3, 50, 120], np.log([0.1, 0.5, 0.2]))),
    ),
    (
        S.PiecewiseInterpolation([0, 100], [0.2, 0.01], "cosine"),
        blend((1 + np.cos(np.pi * Z)) / 2),
    ),
    (
        S.FlatCosine(0.2, 100, 0.6, 0.01),
        blend((1 + np.cos(np.pi * np.clip((T - 60) / 40, 0, 1))) / 2),
    ),
    (S.Scaled(S.LinearDecay(1.0, 100), 0.3), 0.3 * (1 - Z)),
    (S.Clipped(S.LinearDecay(1.0, 100), 0.2, 0.7), np.clip(1 - Z, 0.2, 0.7)),
    (
        S.Product([S.LinearDecay(1.0, 100), S.InverseSqrtDecay(0.2)]),
        (1 - Z) * 0.2 / np.sqrt(T + 1),
    ),
    (
        S.Sum([S.LinearDecay(1.0, 100), S.InverseSqrtDecay(0.2), S.Constant(0.1)]),
        (1 - Z) + 0.2 / np.sqrt(T + 1) + 0.1,
    ),
    (
        S.Sampled(S.LinearDecay(1.0, 100), at=[50, 75]),
        np.select([T < 50, T < 75], [1.0, 0.5], 0.25),
    ),
]


@pytest.mark.parametrize(("schedule", "expected"), FORMULAS)
def test_the_curve_is_the_formula(schedule, expected):
    np.testing.assert_allclose(schedule.curve(131), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("shape", "ramp"),
    [
        ("linear", lambda s: 0.01 + 0.99 * s),
        ("cosine", lambda s: 0.01 + 0.99 * (1 - np.cos(np.pi * s)) / 2),
        ("exponential", lambda s: 0.01 ** (1 - s)),
        ("polynomial", lambda s: 0.01 + 0.99 * s**3),
        ("constant", lambda s: np.where(s < 1, 0.01, 1.0)),
    ],
)
def test_warmup_follows_its_ramp_and_then_the_schedule(shape, ramp):
    inner = S.CosineAnnealing(0.2, 100)
    schedule = S.Warmup(inner, 30, 0.01, shape, power=3.0)
    expected = ramp(np.minimum(T, 30) / 30) * inner(np.maximum(T - 30, 0))
    np.testing.assert_allclose(schedule.curve(131), expected, rtol=1e-12, atol=1e-18)


def test_bounded_step_decay_makes_exactly_the_drops_it_was_asked_for():
    for length, updates in ((10**6, 10**4), (1_000_003, 10_000), (97, 13), (50, 50)):
        schedule = S.BoundedExponentialDecay(0.1, length, 1e-4, updates=updates)
        curve = schedule.curve(length + 2)
        assert np.count_nonzero(np.diff(curve)) == updates
        assert curve[length - 1] > 1e-4
        assert curve[length] == curve[length + 1] == 1e-4
        gamma = (1e-4 / 0.1) ** (1 / updates)
        assert schedule.decay_rate == pytest.approx(gamma, rel=1e-14)


def test_bounded_decay_rate_without_updates_is_that_of_one_step():
    schedule = S.BoundedExponentialDecay(1.0, 3, 0.001)
    assert schedule.decay_rate == pytest.approx(0.1, rel=1e-14)
    with pytest.raises(ValueError, match="`decay_steps`"):
        S.BoundedExponentialDecay(1.0, None, 0.001).decay_rate  # noqa: B018
    unbound = S.BoundedExponentialDecay(0.1, None, 1e-4, updates=3)
    assert unbound.decay_rate == pytest.approx(0.1, rel=1e-14)


def test_the_area_under_rex_is_the_papers():
    mean = S.REXDecay(1.0, 10**6).curve(10**6).mean()
    assert mean == pytest.approx(2 - 2 * math.log(2), rel=1e-5)


@pytest.mark.parametrize(("kappa", "steps"), [(100.0, 16), (100.0, 64), (1000.0, 128)])
def test_a_chebyshev_cycle_contracts_at_the_published_rate(kappa, steps):
    rates = S.ChebyshevFractal(1.0, kappa, steps).curve(steps)
    curvatures = np.linspace(1 / kappa, 1.0, 4001)
    contraction = np.abs(np.prod(1 - np.outer(curvatures, rates), axis=1)).max()
    rho = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    expected = 2 * rho**steps / (1 + rho ** (2 * steps))
    assert contraction == pytest.approx(expected, rel=1e-3)


def test_noise_is_a_truncated_normal_distribution():
    curve = S.Noisy(S.Constant(1.0), stddev=0.5, limit=0.67, seed=3).curve(200_000) - 1
    from statistics import NormalDist

    normal = NormalDist(0, 0.5)
    low, high = normal.cdf(-0.67), normal.cdf(0.67)
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = normal.inv_cdf(low + (high - low) * quantile)
        assert np.quantile(curve, quantile) == pytest.approx(expected, abs=0.01)
    assert np.abs(curve).max() < 0.67
    for lag in (1, 2, 7, 64):
        assert abs(np.corrcoef(curve[lag:], curve[:-lag])[0, 1]) < 0.01


def test_noise_of_another_seed_is_other_noise():
    first, second = (S.Noisy(S.Constant(1.0), 0.2, seed=s).curve(5000) for s in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
