"""Parity with `transformers.get_scheduler`, by name.

`reduce_on_plateau` and `greedy` follow a metric, not the step.
"""

import numpy as np
import pytest

from keras_lrs.schedules import (
    Constant,
    CosineAnnealing,
    Delayed,
    InverseSqrtDecay,
    LinearDecay,
    OneMinusSqrtDecay,
    PiecewiseInterpolation,
    PolynomialDecay,
    Restarts,
    Sequential,
    Warmup,
    WarmupStableDecay,
)
from tests.parity.curves import assert_same_curve, driven, sgd

pytest.importorskip("torch")
optimization = pytest.importorskip("transformers.optimization")

RATE = 0.3
LENGTHS = [(0, 200), (1, 150), (50, 300), (120, 300)]

lengths = pytest.mark.parametrize(("warmup", "total"), LENGTHS)


def peer(name, num_steps, warmup=None, total=None, rate=RATE, **arguments):
    """The rates of a schedule of transformers."""
    scheduler = optimization.get_scheduler(name, sgd(rate), warmup, total, arguments)
    return driven(scheduler, num_steps)


def test_constant_is_constant():
    assert_same_curve(Constant(RATE), peer("constant", 100))


@lengths
def test_warmup_of_a_constant_is_constant_with_warmup(warmup, total):
    expected = peer("constant_with_warmup", total, warmup)
    assert_same_curve(Warmup(Constant(RATE), warmup), expected)


@lengths
def test_warmup_of_linear_decay_is_linear(warmup, total):
    """Here and below transformers counts the warmup into the total."""
    schedule = Warmup(LinearDecay(RATE, total - warmup), warmup)
    assert_same_curve(schedule, peer("linear", total + 50, warmup, total))


@lengths
def test_warmup_of_a_cosine_is_cosine_until_its_end(warmup, total):
    schedule = Warmup(CosineAnnealing(RATE, total - warmup), warmup)
    assert_same_curve(schedule, peer("cosine", total + 1, warmup, total))


@lengths
def test_half_cycles_of_cosine_are_a_wave_through_points(warmup, total):
    third = (total - warmup) // 3
    total = warmup + 3 * third
    wave = PiecewiseInterpolation(
        [0, third, 2 * third, 3 * third], [RATE, 0.0, RATE, 0.0], "cosine"
    )
    expected = peer("cosine", total + 1, warmup, total, num_cycles=1.5)
    assert_same_curve(Warmup(wave, warmup), expected)


@lengths
@pytest.mark.parametrize("cycles", [1, 3, 6])
def test_warmup_of_restarts_is_cosine_with_restarts_where_cycles_are_whole_steps(
    cycles, warmup, total
):
    """Other cycles end between two steps in transformers, on the nearest one here."""
    total -= (total - warmup) % cycles
    restarts = Restarts(
        CosineAnnealing(RATE), num_cycles=cycles, total_steps=total - warmup
    )
    expected = peer(
        "cosine_with_restarts", total + 50, warmup, total, num_cycles=cycles
    )
    # transformers subtracts the number of the cycle from a time in cycles.
    assert_same_curve(Warmup(restarts, warmup), expected, roundings=20)


@lengths
@pytest.mark.parametrize(("power", "end"), [(1.0, 1e-7), (0.5, 0.0), (2.5, 0.01)])
def test_warmup_of_polynomial_decay_is_polynomial(power, end, warmup, total):
    decay = PolynomialDecay(RATE, total - warmup, end, power=power)
    expected = peer("polynomial", total + 50, warmup, total, power=power, lr_end=end)
    assert_same_curve(Warmup(decay, warmup), expected)


@pytest.mark.parametrize(
    ("warmup", "timescale"), [(50, None), (0, None), (50, 10), (7, 1000)]
)
def test_warmup_of_inverse_sqrt_decay_is_inverse_sqrt(warmup, timescale):
    expected = peer("inverse_sqrt", 400, warmup, timescale=timescale)
    decay = InverseSqrtDecay(RATE, timescale or warmup or 10_000)
    assert_same_curve(Warmup(decay, warmup), expected)


@lengths
@pytest.mark.parametrize("end", [0.01, 0.1])
def test_warmup_of_a_cosine_is_cosine_with_min_lr_until_its_end(end, warmup, total):
    schedule = Warmup(CosineAnnealing(RATE, total - warmup, end), warmup)
    name = "cosine_with_min_lr"
    by_rate = peer(name, total + 1, warmup, total, min_lr=end)
    by_ratio = peer(name, total + 1, warmup, total, min_lr_rate=end / RATE)
    assert_same_curve(schedule, by_rate)
    assert_same_curve(schedule, by_ratio)


@pytest.mark.parametrize(("warmup", "total"), [(2, 150), (50, 300), (120, 300)])
@pytest.mark.parametrize("first", [None, 0.0, 0.2])
def test_warmup_of_a_cosine_is_cosine_warmup_with_min_lr_one_step_earlier(
    first, warmup, total
):
    """Transformers is at the peak at `warmup - 1` and at the minimum at `total - 1`."""
    fraction = 1 / warmup if first is None else first
    cosine = CosineAnnealing(RATE, total - warmup, 0.01)
    schedule = Warmup(cosine, warmup - 1, initial_fraction=fraction)
    expected = peer(
        "cosine_warmup_with_min_lr",
        total,
        warmup,
        total,
        min_lr=0.01,
        warmup_lr_rate=first,
    )
    assert_same_curve(schedule, expected)


SHAPES = ["linear", "cosine", "1-sqrt"]


@pytest.mark.parametrize(("warmup", "decay"), [(50, 60), (0, 300), (100, 200)])
@pytest.mark.parametrize("shape", SHAPES)
def test_warmup_stable_decay_is_warmup_stable_decay(shape, warmup, decay):
    expected = peer(
        "warmup_stable_decay",
        350,
        warmup,
        300,
        num_decay_steps=decay,
        decay_type=shape,
    )
    schedule = WarmupStableDecay(RATE, warmup, decay, 300, shape=shape)
    assert_same_curve(schedule, expected)


DECAYS = dict(
    zip(SHAPES, [LinearDecay, CosineAnnealing, OneMinusSqrtDecay], strict=True)
)


@pytest.mark.parametrize("decay_type", SHAPES)
@pytest.mark.parametrize("warmup_type", SHAPES)
def test_a_sequence_is_warmup_stable_decay_from_and_to_a_minimum(
    warmup_type, decay_type
):
    """The minimum of transformers is where the warmup begins, too."""
    low = 0.1
    expected = peer(
        "warmup_stable_decay",
        350,
        80,
        300,
        num_decay_steps=120,
        warmup_type=warmup_type,
        decay_type=decay_type,
        min_lr_ratio=low,
    )
    schedule = Delayed(DECAYS[decay_type](RATE, 120, low * RATE), 100)
    if warmup_type == "1-sqrt":
        rise = PolynomialDecay(low * RATE, 80, RATE, power=0.5)
        schedule = Sequential([rise, schedule], [80])
    else:
        schedule = Warmup(schedule, 80, initial_fraction=low, shape=warmup_type)
    assert_same_curve(schedule, expected)


# --- Where transformers slips ---


@pytest.mark.parametrize(
    ("name", "arguments", "end"),
    [
        ("cosine", {}, 0.0),
        ("cosine_with_min_lr", {"min_lr": 0.1}, 0.1),
        ("cosine_warmup_with_min_lr", {"min_lr": 0.1}, 0.1),
    ],
)
def test_the_cosines_climb_back_where_ours_hold(name, arguments, end):
    expected = peer(name, 500, 50, 250, rate=1.0, **arguments)
    assert expected[250] == pytest.approx(end, abs=1e-3)
    assert expected[450] == pytest.approx(1.0, abs=1e-3)
    curve = Warmup(CosineAnnealing(1.0, 200, end), 50).curve(500)
    np.testing.assert_allclose(curve[250:], end, rtol=1e-12)


def test_polynomial_divides_by_zero_where_ours_is_refused():
    with pytest.raises(ZeroDivisionError):
        peer("polynomial", 20, 10, 10)
    with pytest.raises(ValueError, match="Argument `decay_steps` must be > 0"):
        PolynomialDecay(RATE, 10 - 10)


def test_the_end_of_polynomial_is_of_another_group_where_ours_is_what_it_says():
    """Transformers divides `lr_end` by the default rate, not by the group's."""
    optimizer = sgd(1.0)
    optimizer.param_groups[0]["lr"] = 0.01
    scheduler = optimization.get_polynomial_decay_schedule_with_warmup(
        optimizer, 0, 100, lr_end=0.1
    )
    assert driven(scheduler, 101)[-1] == pytest.approx(0.001)
    assert PolynomialDecay(0.01, 100, 0.1).curve(101)[-1] == pytest.approx(0.1)
