"""Parity with `optax.schedules`, evaluated in float64."""

import itertools

import keras
import numpy as np
import pytest

from keras_lrs.schedules import (
    Clipped,
    Constant,
    CosineAnnealing,
    Delayed,
    ExponentialDecay,
    Fraction,
    LinearDecay,
    MultiStepDecay,
    OneCycle,
    PiecewiseConstant,
    PiecewiseInterpolation,
    PolynomialDecay,
    Product,
    Restarts,
    Sequential,
    Warmup,
)
from tests.parity.curves import assert_same_curve

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
peers = optax.schedules

RATE = 0.3


def evaluated(peer, num_steps, compiled=True):
    """The first values of a function of the step, in float64."""
    values = jax.vmap(peer)
    if compiled:  # Faster than an operation at a time.
        values = jax.jit(values)
    with jax.enable_x64(True):
        return np.asarray(values(jax.numpy.arange(num_steps)))


def test_constant_is_constant_schedule():
    assert_same_curve(Constant(RATE), evaluated(peers.constant_schedule(RATE), 300))


@pytest.mark.parametrize(
    ("start", "end", "steps", "begin"),
    [(RATE, 0.0, 250, 0), (RATE, 0.01, 100, 75), (0.0, RATE, 200, 0)],
)
def test_linear_decay_is_linear_schedule_in_either_direction(start, end, steps, begin):
    peer = peers.linear_schedule(start, end, steps, begin)
    schedule = Delayed(LinearDecay(start, steps, end), begin)
    assert_same_curve(schedule, evaluated(peer, 300))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize(("end", "steps", "begin"), [(0.0, 250, 0), (0.01, 100, 75)])
def test_polynomial_decay_is_polynomial_schedule(end, steps, begin, power):
    peer = peers.polynomial_schedule(RATE, end, power, steps, begin)
    schedule = Delayed(PolynomialDecay(RATE, steps, end, power=power), begin)
    # Compiled, the peer is NaN from its end on: see below.
    assert_same_curve(schedule, evaluated(peer, 300, compiled=False))


@pytest.mark.parametrize(
    ("init", "rate", "steps", "begin", "clip"),
    [
        (RATE, 0.5, 30, 0, {}),
        (RATE, 0.96, 1, 50, {}),
        (RATE, 0.5, 30, 0, {"minimum": 0.01}),
        (0.001, 2.0, 25, 10, {"maximum": 0.1}),
    ],
)
@pytest.mark.parametrize("staircase", [False, True])
def test_clipped_exponential_decay_is_exponential_decay_with_an_end_value(
    staircase, init, rate, steps, begin, clip
):
    peer = peers.exponential_decay(
        init, steps, rate, begin, staircase, next(iter(clip.values()), None)
    )
    schedule = Delayed(ExponentialDecay(init, steps, rate, staircase), begin)
    if clip:
        schedule = Clipped(schedule, **clip)
    assert_same_curve(schedule, evaluated(peer, 300))


@pytest.mark.parametrize(("steps", "alpha"), [(10, 0.0), (250, 0.1), (300, 1.0)])
def test_cosine_annealing_is_cosine_decay_schedule_with_alpha_a_fraction(steps, alpha):
    peer = peers.cosine_decay_schedule(RATE, steps, alpha)
    schedule = CosineAnnealing(RATE, steps, alpha * RATE)
    assert_same_curve(schedule, evaluated(peer, 320))


@pytest.mark.parametrize("exponent", [2, 3])
def test_an_exponent_of_a_cosine_is_a_product_of_cosines(exponent):
    """As long as it ends at 0."""
    peer = peers.cosine_decay_schedule(RATE, 250, exponent=exponent)
    others = [CosineAnnealing(1.0, 250)] * (exponent - 1)
    schedule = Product([CosineAnnealing(RATE, 250), *others])
    assert_same_curve(schedule, evaluated(peer, 300))


@pytest.mark.parametrize("end", [0.0, 0.01, RATE])
def test_an_exponent_above_an_end_is_a_sum(end):
    peer = peers.warmup_cosine_decay_schedule(0.0, RATE, 40, 250, end, exponent=2.0)
    squared = CosineAnnealing(RATE - end, 210) * CosineAnnealing(1.0, 210)
    schedule = Warmup(squared + Constant(end), 40)
    assert_same_curve(schedule, evaluated(peer, 300))


@pytest.mark.parametrize(
    "scales", [{50: 0.5, 120: 0.1, 121: 3.0}, {1: 0.1}, {100: 0.1, 200: 0.0}]
)
def test_piecewise_constant_is_piecewise_constant_schedule(scales):
    """optax multiplies the scales up."""
    peer = peers.piecewise_constant_schedule(RATE, scales)
    values = itertools.accumulate([RATE, *scales.values()], lambda x, y: x * y)
    schedule = PiecewiseConstant(list(scales), list(values))
    assert_same_curve(schedule, evaluated(peer, 300))


def test_multi_step_decay_is_piecewise_constant_schedule_of_equal_scales():
    peer = peers.piecewise_constant_schedule(RATE, {90: 0.1, 180: 0.1, 240: 0.1})
    schedule = MultiStepDecay(RATE, [90, 180, 240], 0.1)
    assert_same_curve(schedule, evaluated(peer, 300))


@pytest.mark.parametrize("interpolation", ["linear", "cosine"])
@pytest.mark.parametrize(
    "scales", [{50: 4.0, 120: 0.1, 250: 0.5}, {100: 0.0}, {1: 10.0, 2: 0.1}]
)
def test_piecewise_interpolation_is_piecewise_interpolate_schedule(
    scales, interpolation
):
    """optax multiplies the scales up."""
    peer = peers.piecewise_interpolate_schedule(interpolation, RATE, scales)
    values = itertools.accumulate([RATE, *scales.values()], lambda x, y: x * y)
    schedule = PiecewiseInterpolation([0, *scales], list(values), interpolation)
    assert_same_curve(schedule, evaluated(peer, 300))


@pytest.mark.parametrize(("total", "share"), [(100, 0.3), (250, 0.1), (300, 0.5)])
@pytest.mark.parametrize(("div", "final_div"), [(25.0, 1e4), (10.0, 100.0)])
def test_one_cycle_is_cosine_onecycle_schedule(div, final_div, total, share):
    peer = peers.cosine_onecycle_schedule(total, RATE, share, div, final_div)
    schedule = OneCycle(RATE, total, share, div, final_div)
    assert_same_curve(schedule, evaluated(peer, total + 50))


@pytest.mark.parametrize(("total", "share"), [(100, 0.3), (250, 0.1), (300, 0.4)])
def test_three_phases_are_linear_onecycle_schedule_with_equal_slopes(total, share):
    peer = peers.linear_onecycle_schedule(total, RATE, share, 2 * share)
    schedule = OneCycle(RATE, total, share, shape="linear", three_phase=True)
    assert_same_curve(schedule, evaluated(peer, total + 50))


def test_linear_onecycle_schedule_with_unequal_slopes_is_a_curve_through_points():
    peer = peers.linear_onecycle_schedule(200, RATE, 0.3, 0.85)
    steps, start = [0, 60, 170, 200], RATE / 25.0
    schedule = PiecewiseInterpolation(steps, [start, RATE, start, start / 1e4])
    assert_same_curve(schedule, evaluated(peer, 250))


WARMUPS = [(0.0, 50), (0.01, 100), (RATE, 7)]


@pytest.mark.parametrize(("init", "steps"), WARMUPS)
def test_warmup_of_a_constant_is_warmup_constant_schedule(init, steps):
    peer = peers.warmup_constant_schedule(init, RATE, steps)
    schedule = Warmup(Constant(RATE), steps, initial_fraction=init / RATE)
    assert_same_curve(schedule, evaluated(peer, 200))


@pytest.mark.parametrize(("init", "steps"), WARMUPS)
@pytest.mark.parametrize("end", [0.0, 0.02])
def test_warmup_of_a_cosine_is_warmup_cosine_decay_schedule(end, init, steps):
    """optax counts the warmup into `decay_steps`."""
    peer = peers.warmup_cosine_decay_schedule(init, RATE, steps, 250, end)
    cosine = CosineAnnealing(RATE, 250 - steps, end)
    schedule = Warmup(cosine, steps, initial_fraction=init / RATE)
    assert_same_curve(schedule, evaluated(peer, 300))


@pytest.mark.parametrize(("init", "steps"), WARMUPS)
@pytest.mark.parametrize("staircase", [False, True])
def test_warmup_of_an_exponential_is_warmup_exponential_decay_schedule(
    staircase, init, steps
):
    peer = peers.warmup_exponential_decay_schedule(
        init, RATE, steps, 20, 0.7, 30, staircase, end_value=0.005
    )
    decay = Delayed(ExponentialDecay(RATE, 20, 0.7, staircase), 30)
    clipped = Clipped(decay, minimum=0.005)
    schedule = Warmup(clipped, steps, initial_fraction=init / RATE)
    assert_same_curve(schedule, evaluated(peer, 400))


def sgdr_cycle(peak, warmup, length, end=0.0):
    return {
        "init_value": 0.1 * peak,
        "peak_value": peak,
        "warmup_steps": warmup,
        "decay_steps": length,
        "end_value": end,
    }


def test_restarts_of_a_warmed_up_cosine_are_sgdr_schedule():
    """The last cycle of either holds its end."""
    cycles = [sgdr_cycle(RATE, length // 10, length) for length in (20, 40, 80, 160)]
    peer = peers.sgdr_schedule(cycles)
    cycle = Warmup(CosineAnnealing(RATE), Fraction(0.1), initial_fraction=0.1)
    schedule = Restarts(cycle, 20, t_mul=2.0, num_cycles=4)
    assert_same_curve(schedule, evaluated(peer, 350))


def test_a_sequence_of_warmed_up_cosines_is_sgdr_schedule_of_any_cycles():
    cycles = [(RATE, 5, 50, 0.01), (0.1, 20, 70, 0.0), (0.2, 1, 90, 0.05)]
    peer = peers.sgdr_schedule([sgdr_cycle(*cycle) for cycle in cycles])
    pieces = [
        Warmup(CosineAnnealing(peak, length - warmup, end), warmup, 0.1)
        for peak, warmup, length, end in cycles
    ]
    assert_same_curve(Sequential(pieces, [50, 120]), evaluated(peer, 250))


def test_sequential_is_join_schedules():
    peer = peers.join_schedules(
        [
            peers.linear_schedule(0.0, RATE, 40),
            peers.exponential_decay(RATE, 10, 0.8),
            peers.cosine_decay_schedule(RATE, 90, 0.1),
            peers.constant_schedule(0.001),
        ],
        [40, 110, 190],
    )
    schedule = Sequential(
        [
            LinearDecay(0.0, 40, RATE),
            ExponentialDecay(RATE, 10, 0.8),
            CosineAnnealing(RATE, 90, 0.1 * RATE),
            Constant(0.001),
        ],
        [40, 110, 190],
    )
    assert_same_curve(schedule, evaluated(peer, 250))


# --- Where optax slips ---


def test_warmup_constant_schedule_of_no_steps_stays_at_zero_where_ours_has_no_warmup():
    assert not evaluated(peers.warmup_constant_schedule(0.0, 1.0, 0), 100).any()
    assert (Warmup(Constant(1.0), 0).curve(100) == 1.0).all()


def test_linear_schedule_of_no_steps_stays_at_its_start_where_ours_is_refused():
    assert (evaluated(peers.linear_schedule(1.0, 0.0, 0), 100) == 1.0).all()
    with pytest.raises(ValueError, match="Argument `decay_steps` must be > 0"):
        LinearDecay(1.0, 0)


@pytest.mark.parametrize(
    ("total", "wrong", "true"),
    [(1, 0.0016, [1.0, 4e-6]), (3, 1.0, [0.04, 1.0, 0.04, 4e-6])],
)
def test_a_short_linear_onecycle_schedule_loses_points_where_ours_drops_them_in_order(
    total, wrong, true
):
    """In optax points at the same step overwrite each other, but not their scales."""
    assert evaluated(peers.linear_onecycle_schedule(total, 1.0), 1)[0] == (
        pytest.approx(wrong)
    )
    schedule = OneCycle(1.0, total, shape="linear", three_phase=True)
    np.testing.assert_allclose(schedule.curve(total + 1), true, rtol=1e-12)


@pytest.mark.parametrize("power", [0.5, 3.7])
def test_a_compiled_polynomial_schedule_ends_in_nan_where_ours_ends(power):
    """XLA multiplies by the inverse of a constant: `1 - 10 * (1 / 10)` is below 0."""
    peer = jax.jit(peers.polynomial_schedule(1.0, 0.1, power, 10))
    assert np.isnan([peer(10), peer(1000)]).all()
    schedule = PolynomialDecay(1.0, 10, 0.1, power=power)
    assert schedule.curve(1001)[[10, 1000]].tolist() == [0.1, 0.1]
    if keras.backend.backend() == "jax":
        compiled = jax.jit(schedule)
        ends = [float(compiled(10)), float(compiled(1000))]
        assert ends == pytest.approx([0.1, 0.1], rel=1e-6)


def test_a_cosine_in_float32_ends_early_where_ours_does_not():
    """`(1 + cos(x)) / 2` has no digits left where `sin(x / 2) ** 2` has all."""
    steps, total = np.array([999_900, 999_999]), 10**6
    true = np.sin(np.pi / 2 * (total - steps) / total) ** 2
    peer = np.asarray(jax.vmap(peers.cosine_decay_schedule(1.0, total))(steps))
    assert np.abs(peer / true - 1).max() == 1.0
    np.testing.assert_allclose(CosineAnnealing(1.0, total)(steps), true, rtol=1e-12)
    tensors = [float(CosineAnnealing(1.0, total)(int(step))) for step in steps]
    np.testing.assert_allclose(tensors, true, rtol=1e-6)
