"""Cycles: where they start, how they shrink, and where they are said to end."""

import fractions

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import catalogue, compiled

pytestmark = pytest.mark.every_backend(3)

S = lrs.schedules
LAST = 2**31 - 2


def exact_ends(first, t_mul, limit):
    """Cycle ends in exact rational arithmetic, rounded half up."""
    factor = fractions.Fraction(str(t_mul))
    length, total, ends = fractions.Fraction(first), fractions.Fraction(0), []
    while True:
        total += length
        length *= factor
        end = int((2 * total + 1) // 2)
        if end > limit:
            return ends
        ends.append(end)


@pytest.mark.parametrize("t_mul", [1.1, 1.5, 2.0, 3.0, 10.0])
@pytest.mark.parametrize("first", [1, 10, 97, 1000])
def test_growing_cycles_end_at_the_exact_sums(first, t_mul):
    schedule = S.CosineRestarts(1.0, first, t_mul=t_mul)
    assert schedule.cycle_ends(LAST) == exact_ends(first, t_mul, LAST)


@pytest.mark.parametrize("t_mul", [1.0, 1.1, 1.5, 2.0, 3.0, 10.0])
@pytest.mark.parametrize("first", [10, 1000])
def test_every_restart_is_exactly_where_cycle_ends_says(first, t_mul):
    schedule = S.CosineRestarts(1.0, first, t_mul=t_mul)
    if t_mul == 1.0:
        cycles = np.unique(np.linspace(1, LAST // first, 500).astype(np.int64))
        ends = cycles * first
        assert schedule.cycle_ends(50 * first) == [first * i for i in range(1, 51)]
    else:
        ends = np.array(schedule.cycle_ends(LAST))
    steps = np.concatenate([ends - 1, ends, np.minimum(ends + 1, LAST)])
    for compiler in compiled.compilers().values():
        before, at, after = np.split(compiled.values(schedule, steps, compiler), 3)
        assert np.all(at == 1.0)
        assert np.all(before < 0.1)
        assert np.all(after <= 1.0)
        assert np.all(after > 0.9)
        np.testing.assert_allclose(
            np.concatenate([before, at, after]), schedule(steps), rtol=1e-6
        )


def test_cycles_of_the_docs():
    assert S.CosineRestarts(1.0, 10, t_mul=2.0).cycle_ends(100) == [10, 30, 70]
    assert S.CosineRestarts(1.0, 10, t_mul=2.0).cycle_ends(70) == [10, 30, 70]
    assert S.CosineRestarts(1.0, 10, t_mul=2.0).cycle_ends(69) == [10, 30]


def test_cycles_that_fill_a_training_end_half_up():
    schedule = S.CosineRestarts(1.0, t_mul=1.0, num_cycles=4, total_steps=50)
    assert schedule.cycle_ends(100) == [13, 25, 38, 50]
    growing = S.CosineRestarts(1.0, t_mul=2.0, num_cycles=3, total_steps=100)
    assert growing.cycle_ends(1000) == [14, 43, 100]
    bound = S.CosineRestarts(1.0, t_mul=1.0, num_cycles=4).bind(50)
    assert bound == schedule


def test_the_end_is_held_after_the_last_cycle():
    for schedule in (
        S.CosineRestarts(1.0, 10, num_cycles=3, end_learning_rate=0.1),
        S.CosineRestarts(
            1.0, t_mul=1.0, num_cycles=7, total_steps=70, end_learning_rate=0.1
        ),
        S.CosineRestarts(
            1.0, t_mul=1.0, num_cycles=3, total_steps=70, end_learning_rate=0.1
        ),
    ):
        np.testing.assert_array_equal(schedule(np.array([70, 71, 10**9])), 0.1)
        assert schedule(np.array([69]))[0] > 0.1


def test_an_open_ended_schedule_stands_still_after_the_last_cycle():
    schedule = S.Restarts(S.InverseTimeDecay(1.0, 1, 1.0), 4, num_cycles=2)
    expected = [1, 1 / 2, 1 / 3, 1 / 4, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 5]
    np.testing.assert_allclose(schedule.curve(10), expected)
    growing = S.Restarts(S.InverseTimeDecay(1.0, 1, 1.0), 2, t_mul=2.0, num_cycles=2)
    expected = [1, 1 / 2, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 5]
    np.testing.assert_allclose(growing.curve(8), expected)


@pytest.mark.parametrize("t_mul", [1.0, 2.0])
def test_the_amplitude_above_the_floor_shrinks_and_the_floor_stays(t_mul):
    schedule = S.CosineRestarts(1.0, 8, t_mul=t_mul, m_mul=0.5, end_learning_rate=0.2)
    starts = [0, *schedule.cycle_ends(60)]
    plain = S.CosineRestarts(1.0, 8, t_mul=t_mul, end_learning_rate=0.2)
    peaks = schedule(np.array(starts))
    np.testing.assert_allclose(peaks, 0.2 + 0.8 * 0.5 ** np.arange(len(starts)))
    cycle = np.searchsorted(starts, np.arange(60), side="right") - 1
    expected = 0.2 + (plain.curve(60) - 0.2) * 0.5**cycle
    np.testing.assert_allclose(schedule.curve(60), expected, rtol=1e-12)


COMPOSITES = [
    S.Warmup(S.CosineAnnealing(0.1), S.Fraction(0.2)),
    S.Warmup(S.LinearDecay(0.1, None, 0.01), 2, 0.1, "exponential"),
    S.Sequential(
        [S.LinearDecay(0.1), S.Constant(0.05), S.REXDecay(0.1, end_learning_rate=0.02)],
        [S.Fraction(0.25), S.Fraction(0.6)],
    ),
    S.Sampled(S.CosineAnnealing(0.1), every=S.Fraction(0.2)),
    S.Sampled(S.CosineAnnealing(0.1), at=[S.Fraction(0.5), S.Fraction(0.75)]),
    S.BoundedExponentialDecay(0.1, None, 1e-3, updates=5),
    S.MultiStepDecay(0.1, [S.Fraction(0.5), S.Fraction(0.8)]),
    S.PiecewiseConstant([S.Fraction(0.5)], [0.1, 0.2]),
    S.PiecewiseInterpolation([0, S.Fraction(0.5), S.Fraction(1)], [0.1, 0.3, 0.2]),
    S.PiecewiseInterpolation([0, 3, 7], [0.1, 0.3, 0.2], "exponential"),
    S.OneCycle(0.1, three_phase=True, shape="linear"),
    S.OneCycle(0.1, warmup_fraction=0.0, three_phase=True),
    S.Warmup(S.LinearDecay(1.0), S.Fraction(0.0)),
    S.WarmupStableDecay(0.1, S.Fraction(0.1), S.Fraction(0.3), shape="exponential",
                        end_learning_rate=0.001),
    S.FlatCosine(0.1),
    S.PhasedCosine([S.Fraction(0.4), S.Fraction(0.6)], [0.2, 0.1], [0.1, 0.0]),
    S.ExponentialDecay(0.1, S.Fraction(0.5), 0.5),
    S.StepDecay(0.1, S.Fraction(0.3)),
    S.Product([S.LinearDecay(1.0), S.Noisy(S.TanhDecay(0.1), 0.1)]),
    S.Clipped(S.Scaled(S.OneMinusSqrtDecay(0.1), 2.0), 0.05),
    S.ChebyshevFractal(0.1, 1.0, 4),
]  # fmt: skip


@pytest.mark.parametrize("inner", COMPOSITES, ids=lambda s: type(s).__name__)
def test_growing_restarts_play_any_composite_bound_to_each_cycle(inner):
    schedule = S.Restarts(inner, 10, t_mul=1.5)
    starts = [0, *exact_ends(10, 1.5, 1000)]
    cycles = [inner.bind(length).curve(length) for length in np.diff(starts)]
    expected = np.concatenate(cycles)[:400]
    np.testing.assert_allclose(schedule.curve(400), expected, rtol=1e-12, atol=1e-18)
    steps = np.arange(400)
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, steps, compiler)
        np.testing.assert_allclose(values, expected, rtol=2e-6, atol=1e-18)
    scalars = [float(schedule(step)) for step in range(60)]
    np.testing.assert_allclose(scalars, expected[:60], rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("inner", COMPOSITES, ids=lambda s: type(s).__name__)
def test_equal_restarts_repeat_the_schedule_bound_to_a_cycle(inner):
    schedule = S.Restarts(inner, 20)
    cycle = inner.bind(20).curve(20)
    np.testing.assert_allclose(schedule.curve(100), np.tile(cycle, 5), rtol=1e-12)


def test_the_graph_does_not_grow_with_the_number_of_cycles():
    schedules = [S.CosineRestarts(1.0, 10, t_mul=t) for t in (3.0, 1.1, 1.001)]
    counts = [len(s.cycle_ends(LAST)) for s in schedules]
    assert counts[0] < 20 < 100 < counts[1] < 1000 < counts[2]
    sizes = [compiled.graph_size(schedule) for schedule in schedules]
    assert max(sizes) <= 2 * min(sizes)  # Levels of the lookup, not cycles.


def test_a_hundred_thousand_cycles_are_fine_and_too_many_are_refused():
    schedule = S.CosineRestarts(1.0, 10, t_mul=1.0001)
    ends = schedule.cycle_ends(LAST)
    assert len(ends) > 90_000
    assert np.all(schedule(np.array(ends)) == 1.0)
    with pytest.raises(ValueError, match=r"t_mul=1\.0000001"):
        S.CosineRestarts(1.0, 1, t_mul=1.0000001)


@pytest.mark.parametrize(
    "inner",
    [
        S.Restarts(S.LinearDecay(1.0), 5),
        S.CosineRestarts(1.0, 5),
        S.Warmup(S.CyclicalLearningRate(0.1, 1.0, 5), 3),
    ],
)
def test_restarts_inside_growing_restarts_are_refused_by_name(inner):
    with pytest.raises(ValueError, match=r"(Restarts|CyclicalLearningRate)\(\.\.\.\)"):
        S.Restarts(inner, 10, t_mul=2.0)
    with pytest.raises(ValueError, match="must not have restarts"):
        S.Restarts(inner, num_cycles=4, total_steps=100)
    S.Restarts(inner, 10)
    S.Restarts(inner, num_cycles=1).bind(100)


def test_cycle_ends_see_through_every_combinator():
    inner = S.CosineRestarts(1.0, 10)  # 10, 30, 70
    other = S.CyclicalLearningRate(0.1, 1.0, 8)  # 16, 32, 48, ...
    assert S.Warmup(inner, 5).cycle_ends(100) == [15, 35, 75]
    assert S.Delayed(inner, 5).cycle_ends(35) == [15, 35]
    assert S.Scaled(inner, 2.0).cycle_ends(70) == [10, 30, 70]
    assert S.Clipped(inner, 0.1).cycle_ends(70) == [10, 30, 70]
    assert S.Noisy(inner, 0.1).cycle_ends(70) == [10, 30, 70]
    assert S.Sampled(inner, every=2).cycle_ends(70) == [10, 30, 70]
    assert S.Product([inner, other]).cycle_ends(48) == [10, 16, 30, 32, 48]
    sequence = S.Sequential([inner, other, S.Constant(1.0)], [35, 70])
    assert sequence.cycle_ends(100) == [10, 30, 51, 67]
    nested = S.Restarts(S.CosineRestarts(1.0, 10, t_mul=1.0), 25)
    assert nested.cycle_ends(60) == [10, 20, 25, 35, 45, 50, 60]
    assert S.PhasedCosine([10, 5], [1, 1], [0, 0]).cycle_ends(14) == [10]
    assert S.ChebyshevFractal(0.1, 1.0, 8).cycle_ends(20) == [8, 16]
    phases = S.PhasedCosine([S.Fraction(0.5)] * 2, [1.0, 1.0], [0.0, 0.0])
    assert S.Restarts(phases, 10).cycle_ends(30) == [5, 10, 15, 20, 25, 30]
    assert S.Restarts(phases, 10, 2.0).cycle_ends(30) == [5, 10, 20, 30]
    assert S.CosineAnnealing(1.0, 10).cycle_ends(100) == []
    assert S.Warmup(catalogue.KERAS_COSINE, 5).cycle_ends(100) == []


def test_cycle_ends_are_the_minima_of_the_curve():
    for schedule in (
        S.CosineRestarts(1.0, 10, t_mul=1.5),
        S.CyclicalLearningRate(0.1, 1.0, 8, step_size_down=5),
        S.Warmup(S.CosineRestarts(1.0, 7, t_mul=1.0), 3, 0.5),
    ):
        curve = schedule.curve(300)
        rises = curve[1:] > curve[:-1]
        falls = np.concatenate([[False], curve[1:-1] < curve[:-2]])
        minima = np.flatnonzero(rises & falls) + 1
        ends = np.array(schedule.cycle_ends(298))
        for end in ends[ends > 3]:
            assert np.min(np.abs(minima - end)) <= 1


def test_keras_itself_restarts_at_the_wrong_step():
    ours = S.CosineRestarts(1.0, 1000, t_mul=2.0)
    keras_own = keras.optimizers.schedules.CosineDecayRestarts(1.0, 1000, t_mul=2.0)
    ends = np.array(ours.cycle_ends(LAST))
    steps = np.concatenate([ends - 1, ends, ends + 1])
    expected = ours(steps)
    ours_wrong = np.abs(compiled.values(ours, steps) - expected) > 0.01
    keras_wrong = np.abs(compiled.values(keras_own, steps) - expected) > 0.01
    assert np.count_nonzero(ours_wrong) == 0
    assert np.count_nonzero(keras_wrong) > 5


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.3])
def test_the_shortest_cycles_of_one_cycle_are_those_of_a_training(
    first, three_phase, warmup_fraction
):
    inner = S.OneCycle(1.0, None, warmup_fraction, three_phase=three_phase)
    schedule = S.Restarts(inner, first, t_mul=1.5)
    starts = [0, *exact_ends(first, 1.5, 60)]
    cycles = [inner.bind(length).curve(length) for length in np.diff(starts)]
    expected = np.concatenate(cycles)
    np.testing.assert_allclose(schedule.curve(starts[-1]), expected, rtol=1e-12)


def test_the_halves_of_a_cyclical_rate_are_rounded_as_positions():
    halves = S.CyclicalLearningRate(
        0.1, 0.2, S.Fraction(0.5), step_size_down=S.Fraction(0.5)
    ).bind(55)
    assert (halves.step_size, halves.step_size_down) == (28, 27)
    assert S.CyclicalLearningRate(0.1, 0.2, S.Fraction(0.5)).bind(55) == halves
    assert halves.cycle_ends(55) == [55]
    even = S.CyclicalLearningRate(0.1, 0.2, S.Fraction(0.5)).bind(54)
    assert even == S.CyclicalLearningRate(0.1, 0.2, 27)


def test_amplitudes_that_grow_stop_at_the_largest_float32():
    schedule = S.Restarts(S.LinearDecay(10.0), 10, m_mul=10.0)
    largest = float(np.finfo(np.float32).max)
    steps = np.array([1000, 1001])
    np.testing.assert_array_equal(schedule(steps), largest)
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, steps, compiler)
        np.testing.assert_array_equal(values, largest)


def test_cycles_longer_than_int32_time():
    schedule = S.Restarts(S.LinearDecay(1.0), 2**33, num_cycles=2)
    steps = np.array([0, 2**30, 2**31 - 2])
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, steps, compiler)
        np.testing.assert_allclose(values, 1 - steps / 2**33, rtol=1e-6)
    sampled = S.Sampled(S.LinearDecay(1.0, 2**33), at=[5, 2**32])
    for compiler in compiled.compilers().values():
        values = compiled.values(sampled, [4, 5, 2**31 - 2], compiler)
        np.testing.assert_allclose(values, [1.0, 1 - 5 / 2**33, 1 - 5 / 2**33])


def test_a_last_cycle_that_leaves_nothing_to_the_first_is_refused():
    """Their ratio, 1e1800000, is beyond what decimal numbers hold by default."""
    with pytest.raises(ValueError, match="`num_cycles` must leave no cycle empty"):
        S.CosineRestarts(0.1, t_mul=1e9, num_cycles=200_000, total_steps=50)
