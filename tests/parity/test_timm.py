"""Parity with `timm.scheduler`, driving a real SGD as timm's training script does.

The plateau scheduler follows a metric, and the noise is torch's generator's.
"""

import importlib.util
import math

import numpy as np
import pytest

from keras_lrs.schedules import (
    CosineAnnealing,
    CosineRestarts,
    Delayed,
    InverseSqrtDecay,
    InverseTimeDecay,
    LinearDecay,
    MultiStepDecay,
    OneMinusSqrtDecay,
    PhasedCosine,
    PolynomialDecay,
    Product,
    Restarts,
    StepDecay,
    TanhDecay,
    Warmup,
    WarmupStableDecay,
)
from tests.parity.curves import assert_same_curve, driven, sgd

pytest.importorskip("torch")
if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)

RATE = 0.3
LOW = 0.01


@pytest.fixture
def peer(timm):
    """The rates of a scheduler of timm."""

    def rates(name, num_steps, *, rate=RATE, **arguments):
        scheduler = getattr(timm, name)(sgd(rate), **arguments)
        return driven(scheduler, num_steps, told_the_step=True)

    return rates


@pytest.mark.parametrize(
    ("steps", "low", "k"), [(250, 0.0, 1.0), (100, LOW, 1.5), (300, 0.1, 0.7)]
)
def test_cosine_annealing_is_the_cosine_of_one_cycle(peer, steps, low, k):
    expected = peer("CosineLRScheduler", 350, t_initial=steps, lr_min=low, k_decay=k)
    assert_same_curve(CosineAnnealing(RATE, steps, low, k=k), expected)


CYCLES = [(50, 1.0, 4), (20, 2.0, 4), (10, 3.0, 3), (100, 1.5, 3)]

cycles = pytest.mark.parametrize(("first", "factor", "limit"), CYCLES)


@cycles
@pytest.mark.parametrize(("low", "decay"), [(0.0, 1.0), (LOW, 1.0), (0.0, 0.5)])
def test_cosine_restarts_are_the_cosine_of_several_cycles(
    peer, low, decay, first, factor, limit
):
    """`cycle_limit` cycles, then the minimum."""
    expected = peer(
        "CosineLRScheduler",
        600,
        t_initial=first,
        lr_min=low,
        cycle_mul=factor,
        cycle_decay=decay,
        cycle_limit=limit,
    )
    schedule = CosineRestarts(RATE, first, factor, decay, low, num_cycles=limit)
    # timm rounds the time since the last restart.
    assert_same_curve(schedule, expected, roundings=50)


@cycles
def test_phased_cosine_is_a_cosine_whose_peaks_shrink_towards_zero(
    peer, first, factor, limit
):
    """`cycle_decay` is of the peak; `m_mul` of what lies above the minimum."""
    expected = peer(
        "CosineLRScheduler",
        600,
        t_initial=first,
        lr_min=LOW,
        cycle_mul=factor,
        cycle_decay=0.5,
        cycle_limit=limit,
    )
    schedule = PhasedCosine(
        [int(first * factor**cycle) for cycle in range(limit)],
        [RATE * 0.5**cycle for cycle in range(limit)],
        [LOW] * limit,
    )
    assert_same_curve(schedule, expected, roundings=50)


@cycles
def test_restarts_of_a_bent_cosine_are_the_cosine_with_k_decay(
    peer, first, factor, limit
):
    expected = peer(
        "CosineLRScheduler",
        600,
        t_initial=first,
        lr_min=LOW,
        cycle_mul=factor,
        cycle_limit=limit,
        k_decay=1.7,
    )
    cosine = CosineAnnealing(RATE, end_learning_rate=LOW, k=1.7)
    schedule = Restarts(cosine, first, factor, num_cycles=limit)
    assert_same_curve(schedule, expected, roundings=50)


@pytest.mark.parametrize(("warmup", "start"), [(50, 0.0), (20, 0.1), (1, 0.01)])
def test_warmup_is_a_warmup_with_a_prefix(peer, warmup, start):
    expected = peer(
        "CosineLRScheduler",
        350,
        t_initial=200,
        lr_min=LOW,
        warmup_t=warmup,
        warmup_lr_init=start,
        warmup_prefix=True,
    )
    cosine = CosineAnnealing(RATE, 200, LOW)
    schedule = Warmup(cosine, warmup, initial_fraction=start / RATE)
    assert_same_curve(schedule, expected)


def test_a_warmup_without_a_prefix_is_two_curves_and_a_jump(peer):
    """By default timm plays the rise to the full rate, then the cosine where it is."""
    expected = peer("CosineLRScheduler", 300, t_initial=200, warmup_t=100)
    assert_same_curve(LinearDecay(0.0, 100, RATE), expected[:100])
    cosine = CosineAnnealing(RATE, 200).curve(300)
    np.testing.assert_allclose(expected[100:], cosine[100:], rtol=1e-12, atol=1e-16)
    assert expected[100] == pytest.approx(RATE / 2)


@pytest.mark.parametrize(("every", "rate"), [(30, 0.1), (7, 0.5), (1, 0.99)])
@pytest.mark.parametrize("warmup", [0, 40])
def test_step_decay_is_step(peer, warmup, every, rate):
    expected = peer(
        "StepLRScheduler", 300, decay_t=every, decay_rate=rate, warmup_t=warmup
    )
    assert_same_curve(Warmup(StepDecay(RATE, every, rate), warmup), expected)


@pytest.mark.parametrize("milestones", [[150, 225], [2, 3, 200], [299]])
@pytest.mark.parametrize("warmup", [0, 40])
def test_multi_step_decay_is_multistep_with_milestones_one_step_later(
    peer, warmup, milestones
):
    """timm compares its milestones with `step + 1`."""
    expected = peer(
        "MultiStepLRScheduler",
        350,
        decay_t=milestones,
        decay_rate=0.3,
        warmup_t=warmup,
    )
    schedule = MultiStepDecay(RATE, [milestone - 1 for milestone in milestones], 0.3)
    assert_same_curve(Warmup(schedule, warmup), expected)


@pytest.mark.parametrize(("power", "k"), [(0.5, 1.0), (1.0, 2.0), (2.5, 0.7)])
@pytest.mark.parametrize(("low", "decay"), [(0.0, 0.5), (LOW, 1.0)])
@cycles
def test_restarts_of_polynomial_decay_are_poly(
    peer, first, factor, limit, low, decay, power, k
):
    expected = peer(
        "PolyLRScheduler",
        600,
        t_initial=first,
        power=power,
        lr_min=low,
        cycle_mul=factor,
        cycle_decay=decay,
        cycle_limit=limit,
        k_decay=k,
    )
    polynomial = PolynomialDecay(RATE, None, low, power=power, k=k)
    schedule = Restarts(polynomial, first, factor, decay, num_cycles=limit)
    # timm rounds the time since the last restart; a root of it magnifies that.
    assert_same_curve(schedule, expected, rtol=1e-11, roundings=50)


@pytest.mark.parametrize(("lower", "upper"), [(-7.0, 3.0), (-4.0, 4.0), (-6.0, 3.0)])
@pytest.mark.parametrize("low", [0.0, LOW])
def test_tanh_decay_from_and_to_where_tanh_is_is_tanh(peer, low, lower, upper):
    """timm begins below the rate and jumps to the minimum; both our ends are exact."""
    expected = peer(
        "TanhLRScheduler", 250, t_initial=200, lb=lower, ub=upper, lr_min=low
    )

    def value(argument):
        return low + (RATE - low) * (1.0 - math.tanh(argument)) / 2.0

    schedule = TanhDecay(value(lower), 200, value(upper), lower, upper)
    curve = schedule.curve(200)
    np.testing.assert_allclose(curve[1:], expected[1:200], rtol=1e-12)
    # At step 0 its schedulers have not been asked yet.
    assert expected[0] == RATE
    assert curve[0] == pytest.approx(value(lower), rel=1e-12)
    assert (expected[200:] == low).all()


@cycles
def test_restarts_of_tanh_decay_are_tanh_with_cycles(peer, first, factor, limit):
    lower, upper = -5.0, 3.0
    expected = peer(
        "TanhLRScheduler",
        600,
        t_initial=first,
        lb=lower,
        ub=upper,
        cycle_mul=factor,
        cycle_limit=limit,
    )
    high, low = ((1.0 - math.tanh(end)) / 2.0 * RATE for end in (lower, upper))
    tanh = TanhDecay(high, None, low, lower, upper)
    schedule = Restarts(tanh, first, factor, num_cycles=limit)
    last = schedule.cycle_ends(600)[-1]
    curve = schedule.curve(last)
    np.testing.assert_allclose(curve[1:], expected[1:last], rtol=1e-11)


@pytest.mark.parametrize("shape", ["linear", "1-sqrt", "cosine"])
@pytest.mark.parametrize(("warmup", "decay"), [(0, 200), (50, 60), (150, 1)])
@pytest.mark.parametrize("low", [0.0, LOW])
def test_warmup_stable_decay_is_wsd_with_the_warmup_counted(
    peer, low, warmup, decay, shape
):
    """timm does not count the warmup into the length."""
    expected = peer(
        "WSDLRScheduler",
        400,
        t_initial=200,
        decay_t=decay,
        lr_min=low,
        decay_fn=shape,
        warmup_t=warmup,
    )
    schedule = WarmupStableDecay(RATE, warmup, decay, 200 + warmup, low, shape)
    assert_same_curve(schedule, expected)


def one_minus_power(power):
    return PolynomialDecay(RATE, 80, LOW, k=power)


def normalized_exponential(ratio):
    """`(ratio**z - ratio) / (1 - ratio)`: the tail of a tanh is an exponential."""
    return TanhDecay(RATE, 80, LOW, lower=20.0, upper=20.0 - math.log(ratio) / 2.0)


@pytest.mark.parametrize(
    ("arguments", "cooldown"),
    [
        ({"decay_fn": "power", "decay_power": 2.0}, one_minus_power(2.0)),
        ({"decay_fn": "power", "decay_power": 0.3}, one_minus_power(0.3)),
        ({"decay_fn": "exp", "decay_ratio": 0.1}, normalized_exponential(0.1)),
        ({"decay_fn": "exp", "decay_ratio": 0.001}, normalized_exponential(0.001)),
    ],
    ids=str,
)
def test_other_cooldowns_are_delayed_decays(peer, arguments, cooldown):
    expected = peer(
        "WSDLRScheduler",
        300,
        t_initial=200,
        decay_t=80,
        lr_min=LOW,
        warmup_t=50,
        warmup_lr_init=0.03,
        **arguments,
    )
    schedule = Warmup(Delayed(cooldown, 120), 50, initial_fraction=0.03 / RATE)
    assert_same_curve(schedule, expected)


@pytest.mark.parametrize(
    ("arguments", "stable"),
    [
        ({"stable_fn": "rsqrt"}, InverseSqrtDecay(RATE, 50)),
        ({"stable_fn": "rsqrt", "stable_timescale": 7}, InverseSqrtDecay(RATE, 7)),
        ({"stable_fn": "power", "stable_power": 1.0}, InverseTimeDecay(RATE, 50, 1.0)),
    ],
    ids=str,
)
def test_a_stable_phase_that_decays_is_a_product(peer, arguments, stable):
    expected = peer(
        "WSDLRScheduler", 300, t_initial=200, decay_t=80, warmup_t=50, **arguments
    )
    cooldown = Delayed(OneMinusSqrtDecay(1.0, 80), 120)
    assert_same_curve(Warmup(Product([stable, cooldown]), 50), expected)


# --- Where timm slips ---


@pytest.mark.parametrize(("factor", "restart"), [(3, 1210), (10, 1110)])
@pytest.mark.parametrize(
    ("name", "decay"),
    [("CosineLRScheduler", CosineAnnealing), ("PolyLRScheduler", LinearDecay)],
)
def test_a_restart_found_by_logarithms_is_missed_where_ours_is_not(
    peer, timm, name, decay, factor, restart
):
    """`floor(log(243, 3))` is 4."""
    scheduler = getattr(timm, name)(
        sgd(1.0), t_initial=10, cycle_mul=factor, cycle_limit=9
    )
    scheduler.step(restart)
    assert scheduler.optimizer.param_groups[0]["lr"] == 0.0
    starts = [10 * (factor**cycle - 1) // (factor - 1) for cycle in range(9)]
    assert restart in starts
    schedule = Restarts(decay(1.0), 10, t_mul=factor, num_cycles=9)
    assert (schedule(np.array(starts)) == 1.0).all()


def test_tanh_never_gets_to_its_minimum_but_jumps_where_ours_arrives(peer):
    expected = peer("TanhLRScheduler", 10_001, rate=1.0, t_initial=10_000)
    assert expected[9_999] > 0.00247
    assert expected[10_000] == 0.0
    curve = TanhDecay(1.0, 10_000, lower=-7.0).curve(10_001)
    assert 0.0 < curve[9_999] < 1e-5
    assert curve[10_000] == 0.0
