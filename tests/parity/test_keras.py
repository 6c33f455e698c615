"""Parity with `keras.optimizers.schedules`, evaluated on the current backend.

Keras computes in float32, and forms `1 - t / T` and `(1 + cos(x)) / 2`: near zero it is
off by a few roundings, 6e-8 each, of the peak, however small the value.
"""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_lrs.schedules import (
    CosineAnnealing,
    CosineRestarts,
    Delayed,
    Epochs,
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstant,
    PiecewiseInterpolation,
    PolynomialDecay,
    StepDecay,
    Warmup,
)

peers = keras.optimizers.schedules

RATE = 0.3


def evaluated(schedule, steps, one_by_one=False):
    """The values at integer tensors; Keras's conditions want these to be scalars."""
    steps = ops.convert_to_tensor(steps, dtype="int32")
    values = ops.map(schedule, steps) if one_by_one else schedule(steps)
    return ops.convert_to_numpy(values).astype(np.float64)


def assert_same_curve(
    schedule, peer, num_steps, *, rtol=2e-6, roundings=16, one_by_one=False
):
    """Asserts that the curve of `schedule` is `peer`'s, to roundings of float32."""
    expected = evaluated(peer, np.arange(num_steps), one_by_one)
    atol = roundings * 6e-8 * expected.max()
    curve = schedule.curve(num_steps)
    np.testing.assert_allclose(curve, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("steps", "alpha"), [(10, 0.0), (250, 0.1), (300, 0.01), (100, 1.0)]
)
def test_cosine_annealing_is_cosine_decay_with_alpha_a_fraction(steps, alpha):
    peer = peers.CosineDecay(RATE, steps, alpha)
    assert_same_curve(CosineAnnealing(RATE, steps, alpha * RATE), peer, 320)


@pytest.mark.parametrize(
    ("start", "warmup", "steps", "alpha"),
    [(0.0, 50, 100, 0.0), (0.03, 20, 150, 0.1), (RATE, 10, 100, 0.0)],
)
def test_warmup_of_a_cosine_is_cosine_decay_with_a_warmup_target(
    start, warmup, steps, alpha
):
    """Keras does not count the warmup into `decay_steps`, either."""
    peer = peers.CosineDecay(
        start, steps, alpha, warmup_target=RATE, warmup_steps=warmup
    )
    cosine = CosineAnnealing(RATE, steps, alpha * RATE)
    schedule = Warmup(cosine, warmup, initial_fraction=start / RATE)
    assert_same_curve(schedule, peer, 200, one_by_one=True)


@pytest.mark.parametrize(
    ("first", "t_mul"), [(10, 2.0), (50, 1.0), (10, 3.0), (300, 1.5), (7, 2.0)]
)
@pytest.mark.parametrize(("m_mul", "alpha"), [(1.0, 0.0), (0.5, 0.0), (0.8, 0.1)])
def test_cosine_restarts_are_cosine_decay_restarts(m_mul, alpha, first, t_mul):
    """`m_mul` is of what lies above the floor, also in Keras."""
    peer = peers.CosineDecayRestarts(RATE, first, t_mul, m_mul, alpha)
    schedule = CosineRestarts(RATE, first, t_mul, m_mul, alpha * RATE)
    # Keras subtracts the start of the cycle from a time in first cycles, up to 100.
    assert_same_curve(schedule, peer, 700, roundings=200)


staircase = pytest.mark.parametrize("staircase", [False, True])
time_decays = pytest.mark.parametrize(
    ("steps", "rate"), [(30, 0.5), (100, 0.96), (7, 0.9), (1, 0.999)]
)


@staircase
@time_decays
def test_exponential_decay_is_exponential_decay(steps, rate, staircase):
    peer = peers.ExponentialDecay(RATE, steps, rate, staircase)
    schedule = ExponentialDecay(RATE, steps, rate, staircase)
    # The rounded `decay_rate` is raised to `300 / steps`.
    assert_same_curve(schedule, peer, 300, rtol=2e-6 + 6e-8 * 300 / steps)


@staircase
@time_decays
def test_inverse_time_decay_is_inverse_time_decay(steps, rate, staircase):
    peer = peers.InverseTimeDecay(RATE, steps, rate, staircase)
    schedule = InverseTimeDecay(RATE, steps, rate, staircase)
    assert_same_curve(schedule, peer, 300)


@pytest.mark.parametrize("boundaries", [[100], [10, 20, 250], [0, 1]])
def test_piecewise_constant_is_piecewise_constant_decay_one_step_later(boundaries):
    """Keras keeps the old value at the boundary: `step <= boundary`."""
    values = [RATE / 2**piece for piece in range(len(boundaries) + 1)]
    peer = peers.PiecewiseConstantDecay(boundaries, values)
    schedule = PiecewiseConstant([boundary + 1 for boundary in boundaries], values)
    assert_same_curve(schedule, peer, 300, one_by_one=True)


@pytest.mark.parametrize("power", [1.0, 0.5, 2.0, 3.7])
@pytest.mark.parametrize(("steps", "end"), [(10, 0.0), (250, 1e-4), (300, 0.1)])
def test_polynomial_decay_is_polynomial_decay(steps, end, power):
    """The end of Keras is 1e-4 where none is given."""
    peer = peers.PolynomialDecay(RATE, steps, end, power)
    schedule = PolynomialDecay(RATE, steps, end, power=power)
    assert_same_curve(schedule, peer, 320)


def test_polynomial_decay_that_cycles_is_a_sawtooth_whose_peaks_shrink():
    """Tooth `k` is the end of a decay over `k` lengths: it starts below `1 / k`."""
    length, end, teeth = 40, 0.01, 6
    points, values = [0, length], [RATE, end]
    for tooth in range(2, teeth + 1):
        points += [(tooth - 1) * length + 1, tooth * length]
        values += [end + (RATE - end) * (length - 1) / (tooth * length), end]
    peer = peers.PolynomialDecay(RATE, length, end, cycle=True)
    assert_same_curve(PiecewiseInterpolation(points, values), peer, teeth * length + 1)


# --- Where Keras slips ---


def restarted_cosine(step, first, factor):
    """SGDR from 1 to 0 in integers."""
    length = first
    while step >= length:
        step, length = step - length, length * factor
    return math.sin(math.pi / 2 * (length - step) / length) ** 2


@pytest.mark.parametrize(
    ("first", "steps"),
    [
        (100, [819_100, 3_276_700, 6_553_499]),
        (1000, [4_094_999, 8_191_000, 32_767_000]),
    ],
)
def test_restarts_found_by_logarithms_come_early_or_late_where_ours_come_in_time(
    first, steps
):
    """Which of these it misses depends on the backend's logarithm."""
    true = [restarted_cosine(step, first, 2) for step in steps]
    peer = evaluated(peers.CosineDecayRestarts(1.0, first), steps, one_by_one=True)
    assert np.abs(peer - true).max() > 0.99
    schedule = CosineRestarts(1.0, first)
    np.testing.assert_allclose(schedule(np.array(steps)), true, rtol=1e-12)
    np.testing.assert_allclose(evaluated(schedule, steps), true, rtol=1e-6)


def test_early_restarts_are_missed_on_torch_where_ours_are_not():
    """Its `log(2.25) / log(1.5)` comes out below 2."""
    first, t_mul, restarts = 1024, 1.5, [2560, 32_944, 50_440, 76_684]
    if keras.backend.backend() == "torch":
        peer = peers.CosineDecayRestarts(1.0, first, t_mul)
        assert evaluated(peer, restarts).min() == 0.0
    assert (evaluated(CosineRestarts(1.0, first, t_mul), restarts) == 1.0).all()


def test_a_cosine_is_zero_near_its_end_where_ours_is_not():
    steps, total = np.array([999_990, 999_999]), 10**6
    true = np.sin(np.pi / 2 * (total - steps) / total) ** 2
    assert not evaluated(peers.CosineDecay(1.0, total), steps).any()
    schedule = CosineAnnealing(1.0, total)
    np.testing.assert_allclose(schedule(steps), true, rtol=1e-12)
    np.testing.assert_allclose(evaluated(schedule, steps), true, rtol=1e-6)


def test_a_float_cannot_count_to_a_late_drop_where_ours_counts_in_integers():
    first = 2**24 + 1
    arguments = 1.0, first, 0.5, True
    steps = [first - 1, first]
    assert evaluated(peers.ExponentialDecay(*arguments), steps).tolist() == [0.5, 0.5]
    schedule = ExponentialDecay(*arguments)
    assert schedule(np.array(steps)).tolist() == [1.0, 0.5]
    assert evaluated(schedule, steps).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("peer", "schedule", "wrong", "true"),
    [
        (peers.ExponentialDecay, ExponentialDecay, 0.0, 0.5**0.5),
        (peers.InverseTimeDecay, InverseTimeDecay, 1.0, 1 / 1.25),
    ],
    ids=["exponential", "inverse_time"],
)
def test_an_integer_rate_computes_in_integers_where_ours_means_the_float(
    peer, schedule, wrong, true
):
    assert evaluated(peer(1, 10, 0.5), [5]) == [wrong]
    assert schedule(1, 10, 0.5).curve(6)[5] == pytest.approx(true, rel=1e-12)


def test_the_integer_zero_spoils_a_warmup_where_ours_starts_from_a_fraction():
    """As in the docstring of Keras's `CosineDecay`."""
    peer = peers.CosineDecay(0, 100, warmup_target=0.1, warmup_steps=10)
    steps = list(range(0, 50, 5))
    if keras.backend.backend() == "tensorflow":
        with pytest.raises(Exception, match="int32"):
            evaluated(peer, steps, one_by_one=True)
    else:
        assert not evaluated(peer, steps, one_by_one=True).any()
    schedule = Warmup(CosineAnnealing(0.1, 100), 10)
    assert schedule.curve(11)[[5, 10]].tolist() == [0.05, 0.1]


def test_unordered_boundaries_give_sums_of_rates_where_ours_are_refused():
    boundaries, values = [20, 10], [1.0, 0.5, 0.1]
    peer = peers.PiecewiseConstantDecay(boundaries, values)
    assert evaluated(peer, [15], one_by_one=True) == pytest.approx([1.1])
    with pytest.raises(ValueError, match="Argument `boundaries` must be in increasing"):
        PiecewiseConstant(boundaries, values)


def test_a_function_of_the_epoch_and_the_rate_is_a_decay_that_starts_late():
    """The example of Keras's documentation."""
    factor = math.exp(-0.1)
    peer = keras.callbacks.LearningRateScheduler(
        lambda epoch, lr: lr if epoch < 10 else lr * factor
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    peer.set_model(model)
    rates = []
    for epoch in range(20):
        peer.on_epoch_begin(epoch)
        rates.append(float(model.optimizer.learning_rate))
    schedule = Delayed(StepDecay(0.1, Epochs(1), factor), Epochs(9)).bind(100, 5)
    np.testing.assert_allclose(schedule.curve(100), np.repeat(rates, 5), rtol=1e-5)
