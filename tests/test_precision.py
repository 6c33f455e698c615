"""Every value to 1e-6, relatively, up to 2**31 steps, against 50-digit references."""

import mpmath
import numpy as np
import pytest

import keras_lrs as lrs
from tests import compiled

pytestmark = pytest.mark.every_backend(5)

S = lrs.schedules
LAST = 2**31 - 2
LONG = 10**9 + 7
SMALLEST = 2.0**-126  # Below it, float32 has no full precision.

mp = mpmath.mp.clone()
mp.dps = 50


def probes(length):
    """Steps at both ends (the last thousand included), around 2**24, and at random."""
    rng = np.random.default_rng(0)
    steps = np.concatenate(
        [
            np.arange(64),
            length - 1000 + np.arange(1010),
            2**24 + np.arange(-2, 3),
            length // 2 + np.arange(-3, 4),
            np.exp(rng.uniform(0, np.log(length), 1500)).astype(np.int64),
            length - np.exp(rng.uniform(0, np.log(length), 1500)).astype(np.int64),
            rng.integers(0, LAST, 1500),
            LAST - np.arange(10),
        ]
    )
    return np.unique(np.clip(steps, 0, LAST))


def affine(initial, end, length, profile):
    """The reference of a decay: exact progress, then its profile."""
    initial, end = mp.mpf(initial), mp.mpf(end)

    def reference(step):
        z = mp.mpf(min(step, length)) / length
        return end + (initial - end) * profile(z)

    return reference


def cosine(z):
    return (1 + mp.cos(mp.pi * z)) / 2


def tanh(lower, upper):
    def profile(z):
        b = lower + (upper - lower) * z
        return (mp.tanh(upper) - mp.tanh(b)) / (mp.tanh(upper) - mp.tanh(lower))

    return profile


def rex(beta):
    return lambda z: (1 - z) / ((1 - mp.mpf(beta)) + mp.mpf(beta) * (1 - z))


DECAYS = {
    "linear": (S.LinearDecay(0.1, LONG), affine(0.1, 0.0, LONG, lambda z: 1 - z)),
    "linear with an end": (
        S.LinearDecay(0.1, LONG, 1e-4),
        affine(0.1, 1e-4, LONG, lambda z: 1 - z),
    ),
    "linear that rises": (
        S.LinearDecay(1e-7, LONG, 10.0),
        affine(1e-7, 10.0, LONG, lambda z: 1 - z),
    ),
    "polynomial 0.5": (
        S.PolynomialDecay(0.1, LONG, power=0.5),
        affine(0.1, 0.0, LONG, lambda z: mp.sqrt(1 - z)),
    ),
    "polynomial 2": (
        S.PolynomialDecay(0.1, LONG, 1e-5, power=2.0),
        affine(0.1, 1e-5, LONG, lambda z: (1 - z) ** 2),
    ),
    "polynomial 3": (
        S.PolynomialDecay(0.1, LONG, power=3.0),
        affine(0.1, 0.0, LONG, lambda z: (1 - z) ** 3),
    ),
    "polynomial, k 3": (
        S.PolynomialDecay(0.1, LONG, k=3.0),
        affine(0.1, 0.0, LONG, lambda z: 1 - z**3),
    ),
    "cosine": (S.CosineAnnealing(0.1, LONG), affine(0.1, 0.0, LONG, cosine)),
    "cosine over 1000": (S.CosineAnnealing(0.1, 1000), affine(0.1, 0.0, 1000, cosine)),
    "cosine with an end": (
        S.CosineAnnealing(0.1, LONG, 1e-3),
        affine(0.1, 1e-3, LONG, cosine),
    ),
    "cosine that rises": (
        S.CosineAnnealing(1e-7, LONG, 10.0),
        affine(1e-7, 10.0, LONG, cosine),
    ),
    "cosine, k 1.5": (
        S.CosineAnnealing(0.1, LONG, k=1.5),
        affine(0.1, 0.0, LONG, lambda z: cosine(z ** mp.mpf(1.5))),
    ),
    "cosine beyond 2**31": (
        S.CosineAnnealing(0.1, 2**31 + 5),
        affine(0.1, 0.0, 2**31 + 5, cosine),
    ),
    "cosine far beyond 2**31": (
        S.CosineAnnealing(0.1, 10**12),
        affine(0.1, 0.0, 10**12, cosine),
    ),
    "REX": (S.REXDecay(0.1, LONG), affine(0.1, 0.0, LONG, rex(0.5))),
    "REX 0.9": (S.REXDecay(0.1, LONG, 1e-6, 0.9), affine(0.1, 1e-6, LONG, rex(0.9))),
    "tanh": (S.TanhDecay(0.1, LONG), affine(0.1, 0.0, LONG, tanh(-6, 3))),
    "1 - sqrt": (
        S.OneMinusSqrtDecay(0.1, LONG),
        affine(0.1, 0.0, LONG, lambda z: 1 - mp.sqrt(z)),
    ),
}


def bounded(initial, end, length):
    ratio = mp.mpf(end) / mp.mpf(initial)
    return lambda step: mp.mpf(initial) * ratio ** (mp.mpf(min(step, length)) / length)


def drops(initial, end, length, updates):
    ratio = mp.mpf(end) / mp.mpf(initial)
    return lambda step: (
        mp.mpf(initial)
        * ratio ** (mp.mpf(min(step, length) * updates // length) / updates)
    )


OTHERS = {
    "bounded exponential": (
        S.BoundedExponentialDecay(0.1, LONG, 1e-4),
        bounded(0.1, 1e-4, LONG),
    ),
    "bounded exponential, wide": (
        S.BoundedExponentialDecay(10.0, LONG, 1e-20),
        bounded(10.0, 1e-20, LONG),
    ),
    "bounded exponential that rises": (
        S.BoundedExponentialDecay(1e-7, LONG, 10.0),
        bounded(1e-7, 10.0, LONG),
    ),
    "bounded step decay": (
        S.BoundedExponentialDecay(0.1, LONG, 1e-4, updates=10**4),
        drops(0.1, 1e-4, LONG, 10**4),
    ),
    "bounded step decay near 2**31": (
        S.BoundedExponentialDecay(0.1, 2**31 - 1, 1e-4, updates=999_983),
        drops(0.1, 1e-4, 2**31 - 1, 999_983),
    ),
    "exponential": (
        S.ExponentialDecay(0.1, 1000, 0.999_999),
        lambda t: mp.mpf(0.1) * mp.mpf(0.999_999) ** (mp.mpf(t) / 1000),
    ),
    "exponential, gamma close to 1": (
        S.ExponentialDecay(0.1, 1, 1 - 1e-8),
        lambda t: mp.mpf(0.1) * mp.mpf(1 - 1e-8) ** t,
    ),
    "exponential staircase": (
        S.ExponentialDecay(0.1, 10**6, 0.96, staircase=True),
        lambda t: mp.mpf(0.1) * mp.mpf(0.96) ** (t // 10**6),
    ),
    "step": (
        S.StepDecay(0.1, 10**8),
        lambda t: mp.mpf(0.1) * mp.mpf(0.1) ** (t // 10**8),
    ),
    "inverse time": (
        S.InverseTimeDecay(0.1, 10, 0.5),
        lambda t: mp.mpf(0.1) / (1 + mp.mpf(0.5) * t / 10),
    ),
    "inverse sqrt": (
        S.InverseSqrtDecay(0.1, 10_000),
        lambda t: mp.mpf(0.1) * mp.sqrt(mp.mpf(10_000) / (t + 10_000)),
    ),
    "Noam": (
        S.NoamDecay(512, 4000),
        lambda t: (
            mp.mpf(512) ** -0.5
            * min(mp.mpf(t + 1) ** -0.5, (t + 1) * mp.mpf(4000) ** -1.5)
        ),
    ),
    "growth": (
        S.ExponentialGrowth(1e-7, 1e-8),
        lambda t: mp.mpf(1e-7) * (1 + mp.mpf(1e-8)) ** t,
    ),
    "power": (
        S.PowerDecay(0.02, 1.0),
        lambda t: min(mp.mpf(0.02), mp.mpf(max(t, 1)) ** mp.mpf(-0.51)),
    ),
    "steep power": (
        S.PowerDecay(0.02, 1.0, exponent=-2.3),
        lambda t: min(mp.mpf(0.02), mp.mpf(max(t, 1)) ** mp.mpf(-2.3)),
    ),
    "exponential warmup": (
        S.Warmup(S.Constant(0.1), LONG, initial_fraction=1e-6, shape="exponential"),
        lambda t: mp.mpf(0.1) * mp.mpf(1e-6) ** (1 - mp.mpf(min(t, LONG)) / LONG),
    ),
    "linear warmup": (
        S.Warmup(S.Constant(0.1), LONG),
        lambda t: mp.mpf(0.1) * min(t, LONG) / LONG,
    ),
    "cosine warmup": (
        S.Warmup(S.Constant(0.1), LONG, shape="cosine"),
        lambda t: mp.mpf(0.1) * (1 - mp.cos(mp.pi * min(t, LONG) / mp.mpf(LONG))) / 2,
    ),
}

CASES = {**DECAYS, **OTHERS}


def relative_error(values, reference):
    assert np.all(np.isfinite(values))
    normal = reference >= SMALLEST
    assert np.all(values[~normal] <= SMALLEST * 1.01)
    return np.max(np.abs(values[normal] / reference[normal] - 1.0), initial=0.0)


@pytest.mark.parametrize("name", CASES)
def test_every_probed_step_is_right_to_a_millionth(name):
    schedule, reference = CASES[name]
    length = getattr(schedule, "decay_steps", LONG)
    steps = probes(min(length, LAST))
    expected = np.array([float(reference(int(step))) for step in steps])
    assert relative_error(schedule(steps), expected) <= 2e-13
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, steps, compiler)
        assert relative_error(values, expected) <= 1e-6


@pytest.mark.parametrize("name", CASES)
def test_a_scalar_step_in_a_compiled_step_is_right_too(name):
    schedule, reference = CASES[name]
    steps = [0, 1, 2**24 + 1, LONG // 3, LONG - 1, LONG, LAST]
    for compiler in compiled.compilers().values():
        function = compiler(schedule)
        for step in steps:
            tensor = compiled.ops.convert_to_tensor(
                step, dtype=compiled.integer_dtype()
            )
            value = np.array(compiled.ops.convert_to_numpy(function(tensor)))
            assert value.shape == ()
            expected = np.array(float(reference(step)))
            assert relative_error(value[None].astype(float), expected[None]) <= 1e-6
