"""Steps, epochs and fractions: what they become when a schedule is bound."""

import numpy as np
import pytest

import keras_lrs as lrs

S = lrs.schedules


def test_positions_are_rounded_and_not_lengths():
    halves = S.Sequential(
        [S.LinearDecay(1.0, S.Fraction(0.5)), S.LinearDecay(1.0, S.Fraction(0.5))],
        [S.Fraction(0.5)],
    ).bind(55)
    assert halves.boundaries == (28,)
    assert [piece.decay_steps for piece in halves.schedules] == [28, 27]
    phases = S.PhasedCosine([S.Fraction(0.5)] * 2, [1.0, 1.0], [0.0, 0.0]).bind(55)
    assert phases.phase_steps == (28, 27)
    warm = S.Warmup(S.LinearDecay(1.0, S.Fraction(0.5)), S.Fraction(0.5)).bind(55)
    assert (warm.warmup_steps, warm.schedule.decay_steps) == (28, 27)


def test_a_fraction_is_the_decimal_number_it_is_written_as():
    for total, expected in ((5, 2), (15, 5), (25, 8), (35, 11), (1005, 302)):
        assert S.LinearDecay(1.0, S.Fraction(0.3)).bind(total).decay_steps == expected
    bound = S.LinearDecay(1.0, S.Fraction(0.1)).bind(10**9 + 5)
    assert bound.decay_steps == 100_000_001  # 100_000_000.5, half up


def test_epochs_are_counted_in_steps_per_epoch():
    assert S.StepDecay(1.0, S.Epochs(30)).bind(10**5, 391).step_size == 11730
    assert S.StepDecay(1.0, S.Epochs(0.5)).bind(100, 7).step_size == 4
    with pytest.raises(ValueError, match="`steps_per_epoch` must be given"):
        S.StepDecay(1.0, S.Epochs(30)).bind(10**5)


def test_samples_are_counted_in_batches():
    schedule = S.StepDecay(1.0, S.Samples(12_800))
    assert schedule.bind(1000, samples_per_step=256).step_size == 50
    assert schedule.bind(1000, samples_per_step=3).step_size == 4267  # 4266.67
    assert S.StepDecay(1.0, S.Samples(4, per_step=8)).bind(1000).step_size == 1
    own = S.StepDecay(1.0, S.Samples(12_800, per_step=128))
    assert own.bind(1000, samples_per_step=256).step_size == 100


def test_tokens_are_counted_in_batches():
    schedule = S.StepDecay(1.0, S.Tokens(10**12))
    assert schedule.bind(10**6, tokens_per_step=4 * 10**6).step_size == 250_000
    assert S.StepDecay(1.0, S.Tokens(10**13, 3)).bind(9).step_size == 3333333333333


@pytest.mark.parametrize("kind", [S.Samples, S.Tokens])
def test_positions_in_samples_and_tokens_are_rounded_and_not_lengths(kind):
    half = kind(55 * 4, per_step=8)  # 27.5 steps.
    pieces = S.Sequential([S.LinearDecay(1.0, half)] * 2, [half]).bind(55)
    assert pieces.boundaries == (28,)
    assert [piece.decay_steps for piece in pieces.schedules] == [28, 27]
    phases = S.PhasedCosine([half] * 2, [1.0, 1.0], [0.0, 0.0]).bind(55)
    assert phases.phase_steps == (28, 27)
    warm = S.Warmup(S.LinearDecay(1.0, half), half).bind(55)
    assert (warm.warmup_steps, warm.schedule.decay_steps) == (28, 27)


def test_in_cycles_of_growing_length_samples_stay_what_they_are():
    cycle = S.Warmup(S.LinearDecay(1.0), S.Samples(40))
    schedule = S.Restarts(cycle, S.Samples(160), t_mul=2.0, num_cycles=2)
    bound = schedule.bind(1000, samples_per_step=8)
    expected = []
    for length in (20, 40):
        t = np.arange(length)
        down = 1.0 - (t - 5.0) / (length - 5.0)
        expected = np.append(expected, np.where(t < 5, t / 5.0, down))
    np.testing.assert_allclose(bound.curve(60), expected, rtol=1e-12)


def test_samples_or_tokens_that_cannot_be_counted_say_what_to_pass():
    for kind, unit in ((S.Samples, "samples"), (S.Tokens, "tokens")):
        schedule = S.StepDecay(1.0, kind(100))
        message = rf"`{kind.__name__}\(100, per_step=...\)`, or `{unit}_per_step="
        with pytest.raises(ValueError, match=message):
            schedule.bind(1000, 10)
        for wrong in (0, -1, 1.5, "8"):
            with pytest.raises((TypeError, ValueError), match=f"`{unit}_per_step`"):
                schedule.bind(1000, **{f"{unit}_per_step": wrong})


def test_samples_are_in_increasing_order_where_that_can_be_told():
    with pytest.raises(ValueError, match="increasing order"):
        S.MultiStepDecay(1.0, [S.Samples(9), S.Samples(8)])
    # So many samples of larger batches come earlier.
    mixed = S.MultiStepDecay(1.0, [S.Samples(9, 9), S.Samples(8, 1)])
    assert mixed.bind(100).milestones == (1, 8)
    with pytest.raises(ValueError, match="increasing order once bound"):
        S.MultiStepDecay(1.0, [S.Samples(8, 1), S.Samples(9, 9)]).bind(100)


def test_none_is_the_rest_of_the_piece():
    assert S.LinearDecay(1.0).bind(100).decay_steps == 100
    assert S.Warmup(S.LinearDecay(1.0), 10).bind(100).schedule.decay_steps == 90
    assert S.Delayed(S.LinearDecay(1.0), 10).bind(100).schedule.decay_steps == 90
    pieces = S.Sequential([S.LinearDecay(1.0)] * 3, [20, 70]).bind(100).schedules
    assert [piece.decay_steps for piece in pieces] == [20, 50, 30]
    inner = S.Sequential([S.LinearDecay(1.0)] * 2, [S.Fraction(0.1)])
    outer = S.Sequential([inner, S.LinearDecay(1.0)], [50]).bind(100)
    first, second = outer.schedules[0].schedules
    assert (first.decay_steps, second.decay_steps) == (10, 40)
    assert S.Restarts(S.LinearDecay(1.0)).bind(100).first_cycle_steps == 100


def test_a_fraction_is_always_of_the_whole_training():
    schedule = S.Warmup(S.LinearDecay(1.0, S.Fraction(0.5)), 40).bind(100)
    assert schedule.schedule.decay_steps == 50


def test_a_piece_that_was_asked_for_is_never_empty():
    tiny = S.Fraction(0.001)
    assert S.Warmup(S.LinearDecay(1.0), tiny).bind(10).warmup_steps == 1
    assert S.Warmup(S.LinearDecay(1.0), S.Fraction(0)).bind(10).warmup_steps == 0
    assert S.LinearDecay(1.0, tiny).bind(10).decay_steps == 1
    assert S.Warmup(S.LinearDecay(1.0), 10).bind(10).schedule.decay_steps == 1
    crowded = S.MultiStepDecay(1.0, [S.Fraction(0.5), S.Fraction(0.51)]).bind(10)
    assert crowded.milestones == (5, 6)
    assert S.MultiStepDecay(1.0, [tiny]).bind(10).milestones == (1,)


def test_steps_stay_as_they_are_wherever_they_stand():
    late = S.Warmup(S.MultiStepDecay(0.1, [3, 5]), S.Fraction(0.01))
    assert late.bind(10).schedule.milestones == (3, 5)


def test_epochs_inside_restarts_are_rounded_as_they_are_outside():
    def inside(schedule):
        return S.Restarts(schedule, 20).bind(1000, 10).schedule

    phases = S.PhasedCosine([S.Epochs(0.25)] * 2, [1, 1], [0, 0])
    assert inside(phases).phase_steps == phases.bind(1000, 10).phase_steps == (3, 2)
    steps = S.MultiStepDecay(0.1, [S.Epochs(0.1), S.Epochs(0.12)])
    assert inside(steps).milestones == steps.bind(1000, 10).milestones == (1, 2)
    mixed = S.MultiStepDecay(0.1, [S.Epochs(0.1), S.Fraction(0.5)])
    assert inside(mixed).milestones == (1, S.Fraction(0.5))
    late = S.Warmup(S.LinearDecay(0.1, S.Epochs(0.25)), S.Epochs(0.25))
    assert inside(late).schedule.decay_steps == 2


def test_mixed_durations_must_be_in_order_once_bound():
    schedule = S.MultiStepDecay(1.0, [S.Epochs(5), S.Fraction(0.1)])
    assert schedule.bind(1000, 10).milestones == (50, 100)
    for steps_per_epoch in (20, 100):
        with pytest.raises(ValueError, match="`milestones` must be in increasing"):
            schedule.bind(1000, steps_per_epoch)


def test_inside_restarts_a_cycle_is_a_training_of_its_own():
    schedule = S.Restarts(S.Warmup(S.LinearDecay(1.0), S.Fraction(0.1)), 50)
    assert schedule.bind(1000) == schedule
    warm = S.Warmup(S.LinearDecay(1.0, 45), 5)
    np.testing.assert_allclose(schedule.curve(50), warm.curve(50))
    epochs = S.Restarts(S.Warmup(S.LinearDecay(1.0), S.Epochs(0.5)), S.Epochs(3))
    bound = epochs.bind(1000, 10)
    assert (bound.first_cycle_steps, bound.schedule.warmup_steps) == (30, 5)
    assert bound.schedule.schedule.decay_steps is None
    np.testing.assert_allclose(
        bound.curve(30), S.Warmup(S.LinearDecay(1.0, 25), 5).curve(30)
    )


def test_sampling_at_a_fraction_keeps_the_number_of_samples():
    schedule = S.Sampled(S.LinearDecay(1.0), every=S.Fraction(0.1))
    assert schedule.bind(100).every == 10
    bound = schedule.bind(54)
    assert bound.at == (5, 11, 16, 22, 27, 32, 38, 43, 49, 54)
    assert len(np.unique(bound.curve(54))) == 10
    assert bound(np.array([54]))[0] == 0.0
    halves = S.Sampled(S.LinearDecay(1.0), every=S.Epochs(0.5)).bind(14, 7)
    assert halves.at == (4, 7, 11, 14)
    assert S.Sampled(S.LinearDecay(1.0), every=S.Fraction(0.001)).bind(10).every == 1


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.75), (0.33, 0.66)])
def test_sampling_at_a_list_of_fractions(first, second):
    schedule = S.Sampled(S.LinearDecay(1.0), at=[S.Fraction(first), S.Fraction(second)])
    bound = schedule.bind(100)
    expected = np.select(
        [np.arange(100) < 100 * first, np.arange(100) < 100 * second],
        [1.0, 1 - first],
        1 - second,
    )
    np.testing.assert_allclose(bound.curve(100), expected, rtol=1e-12)


PROFILES = [
    S.LinearDecay(0.1),
    S.PolynomialDecay(0.1, power=2.0),
    S.CosineAnnealing(0.1),
    S.REXDecay(0.1),
    S.TanhDecay(0.1),
    S.OneMinusSqrtDecay(0.1),
    S.BoundedExponentialDecay(0.1, None, 1e-4),
    S.OneCycle(0.1),
]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("every", [1, 7, 25, 50, 99, 100, 1000])
def test_every_profile_at_every_sampling_rate(profile, every):
    schedule = S.Sampled(profile, every=every).bind(100)
    plain = profile.bind(100).curve(101)
    samples = np.arange(101) // every * every
    np.testing.assert_array_equal(schedule.curve(101), plain[samples])


def test_warmup_stable_decay_counts_its_cooldown_from_the_end():
    bound = S.WarmupStableDecay(1.0, S.Fraction(0.1), S.Fraction(0.5)).bind(55)
    assert (bound.warmup_steps, bound.decay_steps) == (6, 27)
    later = S.Warmup(S.WarmupStableDecay(1.0, 0, S.Fraction(0.2)), 5).bind(100)
    assert later.schedule.total_steps == 95
    assert later.schedule.decay_steps == 20


def test_the_cooldown_can_be_branched_off_the_stable_phase():
    long = S.WarmupStableDecay(1.0, 10, 20, 1000)
    short = S.WarmupStableDecay(1.0, 10, 20, 100)
    np.testing.assert_array_equal(long.curve(80), short.curve(80))


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("total_steps", [1, 2, 3, 4, 7])
def test_the_shortest_one_cycles_peak_once_and_end_at_the_end(
    total_steps, warmup_fraction, three_phase
):
    if three_phase and warmup_fraction > 0.5:
        return
    schedule = S.OneCycle(1.0, total_steps, warmup_fraction, three_phase=three_phase)
    curve = schedule.curve(total_steps + 10)
    assert np.count_nonzero(curve == 1.0) == 1
    np.testing.assert_array_equal(curve[total_steps:], 1.0 / 25 / 1e4)
    assert np.all(curve[:total_steps] > 1.0 / 25 / 1e4)


@pytest.mark.parametrize(
    ("total_steps", "steps_per_epoch", "name"),
    [
        (0, None, "total_steps"),
        (-1, None, "total_steps"),
        (1.5, None, "total_steps"),
        ("100", None, "total_steps"),
        (None, None, "total_steps"),
        (True, None, "total_steps"),
        (100, 0, "steps_per_epoch"),
        (100, -3, "steps_per_epoch"),
        (100, "1", "steps_per_epoch"),
    ],
)
def test_binding_checks_its_arguments(total_steps, steps_per_epoch, name):
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        S.LinearDecay(0.1).bind(total_steps, steps_per_epoch)


@pytest.mark.parametrize("num_steps", [-1, 1.5, "3", None, True])
def test_curves_and_cycle_ends_check_their_arguments(num_steps):
    for method in (S.LinearDecay(0.1, 3).curve, S.LinearDecay(0.1, 3).cycle_ends):
        with pytest.raises((TypeError, ValueError), match="`num_steps`"):
            method(num_steps)


def test_lengths_beyond_2_to_the_31_are_accepted():
    bound = S.Warmup(S.CosineAnnealing(0.1), S.Fraction(0.1)).bind(10**12)
    assert bound.warmup_steps == 10**11
    assert bound(np.array([10**11]))[0] == 0.1
    assert float(bound(10**12 - 1)) > 0.0
    assert float(bound(10**12)) == 0.0


def test_too_many_positions_between_steps_are_refused():
    schedule = S.Sampled(S.LinearDecay(1.0), every=S.Epochs(0.5))
    with pytest.raises(ValueError, match=r"is 3.5 steps, and .*at most"):
        schedule.bind(2**31 - 2, 7)
