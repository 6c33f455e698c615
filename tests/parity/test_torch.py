"""Parity with `torch.optim.lr_scheduler`, driving a real SGD.

`ReduceLROnPlateau` is not a function of the step; `LambdaLR` and `MultiplicativeLR` are
whatever they are given.
"""

import math

import numpy as np
import pytest

from keras_lrs.schedules import (
    Constant,
    CosineAnnealing,
    CosineRestarts,
    CyclicalLearningRate,
    ExponentialDecay,
    LinearDecay,
    MultiStepDecay,
    OneCycle,
    PiecewiseInterpolation,
    PolynomialDecay,
    Product,
    Restarts,
    Sequential,
    StepDecay,
    Warmup,
)
from tests.parity.curves import assert_same_curve, driven, sgd

torch = pytest.importorskip("torch")
lr_scheduler = torch.optim.lr_scheduler

RATE = 0.3


@pytest.mark.parametrize(("step_size", "gamma"), [(30, 0.1), (7, 0.5), (1, 0.99)])
def test_step_decay_is_step_lr(step_size, gamma):
    peer = lr_scheduler.StepLR(sgd(RATE), step_size, gamma)
    assert_same_curve(StepDecay(RATE, step_size, gamma), driven(peer, 300))


@pytest.mark.parametrize(
    ("milestones", "gamma"), [([150, 225], 0.1), ([1, 2, 200], 0.5), ([299], 2.0)]
)
def test_multi_step_decay_is_multi_step_lr(milestones, gamma):
    peer = lr_scheduler.MultiStepLR(sgd(RATE), milestones, gamma)
    assert_same_curve(MultiStepDecay(RATE, milestones, gamma), driven(peer, 300))


def test_a_milestone_listed_twice_in_torch_is_two_factors_here():
    peer = lr_scheduler.MultiStepLR(sgd(RATE), [40, 40, 90], 0.5)
    both, one = MultiStepDecay(RATE, [40, 90], 0.5), MultiStepDecay(1.0, [40], 0.5)
    assert_same_curve(Product([both, one]), driven(peer, 200))


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.9999, 1.01])
def test_exponential_decay_over_one_step_is_exponential_lr(gamma):
    peer = lr_scheduler.ExponentialLR(sgd(RATE), gamma)
    assert_same_curve(ExponentialDecay(RATE, 1, gamma), driven(peer, 500))


@pytest.mark.parametrize(
    ("start", "end", "steps"), [(1 / 3, 1.0, 5), (0.01, 1.0, 200), (1.0, 0.0, 250)]
)
def test_linear_decay_is_linear_lr_in_either_direction(start, end, steps):
    peer = lr_scheduler.LinearLR(sgd(RATE), start, end, steps)
    schedule = LinearDecay(RATE * start, steps, RATE * end)
    assert_same_curve(schedule, driven(peer, 300))


@pytest.mark.parametrize(("factor", "steps"), [(1 / 3, 5), (0.1, 120)])
def test_constant_warmup_is_constant_lr(factor, steps):
    peer = lr_scheduler.ConstantLR(sgd(RATE), factor, steps)
    schedule = Warmup(Constant(RATE), steps, initial_fraction=factor, shape="constant")
    assert_same_curve(schedule, driven(peer, 200))


@pytest.mark.parametrize(("steps", "power"), [(5, 1.0), (250, 0.9), (300, 3.0)])
def test_polynomial_decay_to_zero_is_polynomial_lr(steps, power):
    peer = lr_scheduler.PolynomialLR(sgd(RATE), steps, power)
    schedule = PolynomialDecay(RATE, steps, power=power)
    assert_same_curve(schedule, driven(peer, 320))


@pytest.mark.parametrize(("steps", "end"), [(10, 0.0), (250, 0.01), (300, 0.3)])
def test_cosine_annealing_is_cosine_annealing_lr_until_its_end(steps, end):
    peer = lr_scheduler.CosineAnnealingLR(sgd(RATE), steps, end)
    schedule = CosineAnnealing(RATE, steps, end)
    assert_same_curve(schedule, driven(peer, steps + 1))


@pytest.mark.parametrize(("steps", "end"), [(10, 0.0), (45, 0.01)])
def test_what_cosine_annealing_lr_does_after_its_end_is_a_wave(steps, end):
    peer = lr_scheduler.CosineAnnealingLR(sgd(RATE), steps, end)
    wave = PiecewiseInterpolation([0, steps, 2 * steps], [RATE, end, RATE], "cosine")
    # torch goes from value to value: its roundings add up.
    assert_same_curve(Restarts(wave, 2 * steps), driven(peer, 400), roundings=400)


@pytest.mark.parametrize(
    ("first", "factor", "end"), [(10, 1, 0.0), (50, 1, 0.01), (10, 2, 0.0), (3, 3, 0.1)]
)
def test_cosine_restarts_are_cosine_annealing_warm_restarts(first, factor, end):
    peer = lr_scheduler.CosineAnnealingWarmRestarts(sgd(RATE), first, factor, end)
    schedule = CosineRestarts(RATE, first, t_mul=factor, end_learning_rate=end)
    assert_same_curve(schedule, driven(peer, 1300))


SIZES = [(50, None), (20, 80), (70, 7), (1, 3)]


@pytest.mark.parametrize(("up", "down"), SIZES)
@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cyclical_learning_rate_is_cyclic_lr(mode, up, down):
    peer = lr_scheduler.CyclicLR(sgd(1.0), 0.01, RATE, up, down, mode, gamma=0.995)
    schedule = CyclicalLearningRate(
        0.01, RATE, up, mode=mode, gamma=0.995, step_size_down=down
    )
    # torch subtracts the number of the cycle from a time in cycles, up to 150 of them.
    assert_same_curve(schedule, driven(peer, 600), roundings=1000)


@pytest.mark.parametrize(("up", "down"), SIZES)
def test_the_momentum_of_cyclic_lr_is_the_triangle_upside_down(up, down):
    peer = lr_scheduler.CyclicLR(sgd(1.0), 0.01, RATE, up, down)
    cycle = up + (down or up)
    triangle = PiecewiseInterpolation([0, up, cycle], [0.9, 0.8, 0.9])
    momentum = driven(peer, 600, "momentum")
    assert_same_curve(Restarts(triangle, cycle), momentum, roundings=1000)


def test_a_scale_function_of_the_cycle_is_the_amplitude_of_restarts():
    peer = lr_scheduler.CyclicLR(
        sgd(1.0), 0.01, RATE, 20, 30, scale_fn=lambda cycle: 0.8 ** (cycle - 1)
    )
    triangle = PiecewiseInterpolation([0, 20, 50], [0.01, RATE, 0.01])
    schedule = Restarts(triangle, 50, m_mul=0.8)
    assert_same_curve(schedule, driven(peer, 400), roundings=100)


ONE_CYCLES = [(100, 0.3), (200, 0.25), (400, 0.45), (300, 0.1)]


@pytest.mark.parametrize(("total", "share"), ONE_CYCLES)
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_is_one_cycle_lr_with_peak_and_end_one_step_earlier(
    three_phase, shape, total, share
):
    """Torch ends at step `total - 1`, the peak is at `share * total - 1`."""
    peer = lr_scheduler.OneCycleLR(
        sgd(1.0),
        RATE,
        total,
        pct_start=share,
        anneal_strategy={"cosine": "cos"}.get(shape, shape),
        div_factor=10.0,
        final_div_factor=1e3,
        three_phase=three_phase,
    )
    schedule = OneCycle(
        RATE,
        total - 1,
        warmup_fraction=(round(share * total) - 1) / (total - 1),
        div_factor=10.0,
        final_div_factor=1e3,
        shape=shape,
        three_phase=three_phase,
    )
    assert_same_curve(schedule, driven(peer, total))


@pytest.mark.parametrize(("total", "share"), ONE_CYCLES)
@pytest.mark.parametrize(("strategy", "shape"), [("cos", "cosine"), ("linear",) * 2])
@pytest.mark.parametrize("three_phase", [False, True])
def test_the_momentum_of_one_cycle_lr_is_a_curve_through_points(
    three_phase, strategy, shape, total, share
):
    peer = lr_scheduler.OneCycleLR(
        sgd(1.0),
        RATE,
        total,
        pct_start=share,
        anneal_strategy=strategy,
        three_phase=three_phase,
    )
    peak = round(share * total) - 1
    steps, values = [0, peak, total - 1], [0.95, 0.85, 0.95]
    if three_phase:
        steps.insert(2, 2 * peak)
        values.append(0.95)
    schedule = PiecewiseInterpolation(steps, values, shape)
    assert_same_curve(schedule, driven(peer, total, "momentum"))


@pytest.mark.parametrize(
    ("strategy", "decay"), [("linear", LinearDecay), ("cos", CosineAnnealing)]
)
def test_a_decay_to_the_averaging_rate_is_swa_lr(strategy, decay):
    peer = torch.optim.swa_utils.SWALR(
        sgd(RATE), 0.05, anneal_epochs=120, anneal_strategy=strategy
    )
    # torch recovers the initial rate from the current one: its roundings add up.
    assert_same_curve(decay(RATE, 120, 0.05), driven(peer, 200), rtol=1e-10)


SEQUENCES = {
    "warmup_and_cosine": (
        lambda optimizer: [
            lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20),
            lr_scheduler.CosineAnnealingLR(optimizer, 180),
        ],
        [20],
        Warmup(CosineAnnealing(RATE, 180), 20, initial_fraction=0.1),
    ),
    "three_pieces": (
        lambda optimizer: [
            lr_scheduler.ExponentialLR(optimizer, 0.97),
            lr_scheduler.StepLR(optimizer, 30, 0.5),
            lr_scheduler.PolynomialLR(optimizer, 40, 2.0),
        ],
        [33, 150],
        Sequential(
            [
                ExponentialDecay(RATE, 1, 0.97),
                StepDecay(RATE, 30, 0.5),
                PolynomialDecay(RATE, 40, power=2.0),
            ],
            [33, 150],
        ),
    ),
    "restarts_after_a_plateau": (
        lambda optimizer: [
            lr_scheduler.ConstantLR(optimizer, 0.5, 1000),
            lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, 2),
        ],
        [25],
        Sequential([Constant(RATE / 2), CosineRestarts(RATE, 10)], [25]),
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequential_is_sequential_lr(name):
    pieces, milestones, schedule = SEQUENCES[name]
    optimizer = sgd(RATE)
    peer = lr_scheduler.SequentialLR(optimizer, pieces(optimizer), milestones)
    assert_same_curve(schedule, driven(peer, 201))


CHAINS = {
    "warmup_and_exponential": (
        lambda optimizer: [
            lr_scheduler.LinearLR(optimizer, 0.25, 1.0, 40),
            lr_scheduler.ExponentialLR(optimizer, 0.99),
        ],
        [
            Warmup(Constant(RATE), 40, initial_fraction=0.25),
            ExponentialDecay(1.0, 1, 0.99),
        ],
    ),
    "steps_milestones_and_a_cosine": (
        lambda optimizer: [
            lr_scheduler.StepLR(optimizer, 50, 0.5),
            lr_scheduler.MultiStepLR(optimizer, [30, 180], 0.1),
            lr_scheduler.CosineAnnealingLR(optimizer, 250),
        ],
        [
            StepDecay(RATE, 50, 0.5),
            MultiStepDecay(1.0, [30, 180], 0.1),
            CosineAnnealing(1.0, 250),
        ],
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_product_is_chained_scheduler(name):
    factors, schedules = CHAINS[name]
    peer = lr_scheduler.ChainedScheduler(factors(sgd(RATE)))
    assert_same_curve(Product(schedules), driven(peer, 251))


# --- Where torch slips ---


def test_cosine_annealing_lr_climbs_back_where_ours_holds():
    peer = driven(lr_scheduler.CosineAnnealingLR(sgd(1.0), 100), 201)
    curve = CosineAnnealing(1.0, 100).curve(201)
    assert peer[200] == pytest.approx(1.0)
    assert not curve[100:].any()


def test_warm_restarts_stepped_to_a_restart_miss_it_where_ours_do_not():
    """`int(log(243, 3))` is 4, so torch plays the end of cycle 4."""
    optimizer = sgd(1.0)
    peer = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, 3)
    optimizer.step()
    peer.step(1210)
    assert optimizer.param_groups[0]["lr"] == 0.0
    starts = np.array([10 * (3**cycle - 1) // 2 for cycle in range(15)])
    assert starts[5] == 1210
    assert (CosineRestarts(1.0, 10, t_mul=3.0)(starts) == 1.0).all()


@pytest.mark.parametrize(
    ("step", "local", "length"), [(11, 2, 12), (26, 5, 24), (41, 20, 24)]
)
def test_warm_restarts_resumed_forget_their_cycle_where_ours_have_no_state(
    step, local, length
):
    """With `T_0=3, T_mult=2` the cycles start at 0, 3, 9, 21, 45."""
    optimizer = sgd(1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3, 2, last_epoch=step - 1)
    true = (1.0 + math.cos(math.pi * local / length)) / 2.0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.75)
    assert abs(true - 0.75) > 0.1
    assert CosineRestarts(1.0, 3).curve(step + 1)[-1] == pytest.approx(true, rel=1e-12)


@pytest.mark.parametrize(("total", "share"), [(10, 0.1), (2, 0.5)])
def test_one_cycle_lr_divides_by_zero_where_ours_has_a_peak(total, share):
    with pytest.raises(ZeroDivisionError):
        lr_scheduler.OneCycleLR(sgd(1.0), 1.0, total, pct_start=share)
    curve = OneCycle(1.0, total, share).curve(total + 1)
    assert curve[0] == pytest.approx(0.04)
    assert curve[1] == 1.0
    assert curve[total] == pytest.approx(4e-6)


def test_a_short_one_cycle_lr_has_no_rise_where_ours_has():
    peer = driven(lr_scheduler.OneCycleLR(sgd(1.0), 1.0, 3), 3)
    assert peer[0] == pytest.approx(0.994, abs=1e-3)
    true = [0.04, 1.0, (1.0 + 4e-6) / 2.0, 4e-6]
    np.testing.assert_allclose(OneCycle(1.0, 3).curve(4), true, rtol=1e-12)


def test_one_cycle_lr_steps_over_its_peak_where_ours_is_on_a_step():
    """In torch the peak of 55 steps is at 15.5."""
    peer = driven(lr_scheduler.OneCycleLR(sgd(1.0), 1.0, 55), 55)
    assert 0.99 < peer.max() < 1.0
    assert OneCycle(1.0, 55).curve(55).max() == 1.0


def test_one_cycle_lr_bounces_and_then_raises_where_ours_holds():
    peer = lr_scheduler.OneCycleLR(sgd(1.0), 1.0, 10)
    assert driven(peer, 11)[-1] == pytest.approx(0.0495, abs=1e-4)
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        peer.step()
    assert OneCycle(1.0, 9).curve(1000)[9:] == pytest.approx(4e-6, rel=1e-12)


def test_linear_lr_of_no_steps_never_warms_up_where_ours_has_no_warmup():
    peer = lr_scheduler.LinearLR(sgd(1.0), 0.25, 1.0, total_iters=0)
    assert (driven(peer, 50) == 0.25).all()
    warmup = Warmup(Constant(1.0), 0, initial_fraction=0.25)
    assert (warmup.curve(50) == 1.0).all()


def test_constant_lr_cannot_leave_zero_where_ours_can():
    peer = lr_scheduler.ConstantLR(sgd(1.0), 0.0, 3)
    with pytest.raises(ZeroDivisionError):
        driven(peer, 5)
    schedule = Warmup(Constant(1.0), 3, shape="constant")
    assert schedule.curve(5).tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
