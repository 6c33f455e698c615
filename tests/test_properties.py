"""Properties that hold for all arguments, searched with hypothesis."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_lrs as lrs

S = lrs.schedules
settings.register_profile("keras_lrs", deadline=None, max_examples=60)
settings.load_profile("keras_lrs")

rates = st.floats(1e-6, 10.0)
lengths = st.integers(1, 10**9)
short = st.integers(1, 400)


@st.composite
def decays(draw, lengths=lengths):
    rate, steps = draw(rates), draw(lengths)
    end = draw(st.one_of(st.just(0.0), rates))
    return draw(
        st.sampled_from(
            [
                S.LinearDecay(rate, steps, end),
                S.PolynomialDecay(rate, steps, end, draw(st.floats(0.1, 5.0))),
                S.PolynomialDecay(rate, steps, end, k=draw(st.floats(0.2, 5.0))),
                S.CosineAnnealing(rate, steps, end, draw(st.floats(0.5, 3.0))),
                S.REXDecay(rate, steps, end, draw(st.floats(0.0, 0.99))),
                S.TanhDecay(rate, steps, end),
                S.OneMinusSqrtDecay(rate, steps, end),
                S.BoundedExponentialDecay(rate, steps, max(end, 1e-9)),
            ]
        )
    )


fractions, shares = st.floats(0.0, 1.0), st.floats(0.1, 1.0)
growth = st.floats(1.05, 3.0)


@st.composite
def schedules(draw, depth=2):
    """Any composition of schedules, in steps."""
    # What is not chosen draws nothing, or the smallest example would be a large one.
    if depth == 0:
        leaf = draw(
            st.sampled_from(
                [
                    lambda: draw(decays(short)),
                    lambda: S.Constant(draw(rates)),
                    lambda: S.StepDecay(draw(rates), draw(short), draw(shares)),
                    lambda: S.ExponentialDecay(draw(rates), draw(short), draw(shares)),
                    lambda: S.CosineRestarts(draw(rates), draw(short), draw(growth)),
                    lambda: S.OneCycle(draw(rates), draw(short), draw(fractions)),
                ]
            )
        )
        return leaf()
    inner = schedules(depth=depth - 1)
    first, steps = draw(inner), draw(short)
    composition = draw(
        st.sampled_from(
            [
                lambda: first,
                lambda: S.Warmup(first, draw(st.integers(0, 50)), draw(fractions)),
                lambda: S.Delayed(first, steps),
                lambda: S.Sequential([first, draw(inner)], [steps]),
                lambda: S.Sampled(first, every=steps),
                lambda: S.Scaled(first, draw(st.floats(0.0, 3.0))),
                lambda: S.Product([first, draw(inner)]),
                lambda: S.Sum([first, draw(inner)]),
                lambda: S.Clipped(first, 0.01, 0.5),
                lambda: S.Noisy(first, draw(fractions), seed=steps),
                lambda: S.Restarts(first, steps, m_mul=draw(shares)),
            ]
        )
    )
    return composition()


def probe(length):
    return np.unique(np.linspace(0, length, 40).astype(np.int64))


@given(decays())
def test_a_decay_goes_from_one_end_to_the_other_and_stays_there(decay):
    values = decay(probe(decay.decay_steps))
    low, high = sorted([decay.initial_learning_rate, decay.end_learning_rate])
    assert values[0] == decay.initial_learning_rate
    assert values[-1] == decay.end_learning_rate
    assert np.all((values >= low * (1 - 1e-12)) & (values <= high * (1 + 1e-12)))
    direction = np.sign(decay.end_learning_rate - decay.initial_learning_rate)
    assert np.all(np.diff(values) * direction >= -1e-12 * high)
    after = decay(np.array([decay.decay_steps + 1, 10 * decay.decay_steps, 2**40]))
    np.testing.assert_array_equal(after, decay.end_learning_rate)


@given(schedules())
def test_a_composition_is_finite_and_its_config_gives_it_back(schedule):
    curve = schedule.curve(300)
    assert np.all(np.isfinite(curve))
    assert np.all(curve >= 0.0)
    again = type(schedule).from_config(schedule.get_config())
    assert again == schedule
    np.testing.assert_array_equal(again.curve(300), curve)


@given(schedules(), st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_a_vector_equals_its_scalars(schedule, steps):
    scalars = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(
        scalars, schedule(np.array(steps)), rtol=1e-6, atol=1e-37
    )


@given(schedules())
def test_no_warmup_is_no_change(schedule):
    np.testing.assert_array_equal(
        S.Warmup(schedule, 0, 0.5).curve(200), schedule.curve(200)
    )


@given(schedules(), st.integers(1, 100), st.floats(0.0, 1.0))
def test_a_warmup_starts_at_its_fraction_and_joins_without_a_jump(
    schedule, steps, fraction
):
    curve = S.Warmup(schedule, steps, fraction).curve(steps + 50)
    first = schedule(np.array([0]))[0]
    np.testing.assert_allclose(curve[0], fraction * first, rtol=1e-12)
    np.testing.assert_array_equal(curve[steps:], schedule.curve(50))
    increment = first * (1 - fraction) / steps
    rounding = 4 * np.spacing(first)
    assert np.all(np.abs(np.diff(curve[: steps + 1])) <= increment + rounding)


@given(schedules())
def test_sampling_at_every_step_is_no_change(schedule):
    np.testing.assert_array_equal(
        S.Sampled(schedule, every=1).curve(200), schedule.curve(200)
    )


@given(schedules(), short)
def test_sampled_values_are_values_of_the_schedule(schedule, every):
    sampled = S.Sampled(schedule, every=every).curve(300)
    assert set(sampled) <= set(schedule.curve(300))


@given(schedules(), short)
def test_equal_restarts_are_periodic(schedule, period):
    curve = S.Restarts(schedule, period).curve(3 * period)
    np.testing.assert_array_equal(curve[:period], curve[period : 2 * period])
    np.testing.assert_array_equal(curve[:period], curve[2 * period :])


@given(schedules(), schedules(), short)
def test_a_sequence_is_its_pieces(first, second, boundary):
    curve = S.Sequential([first, second], [boundary]).curve(boundary + 50)
    np.testing.assert_array_equal(curve[:boundary], first.curve(boundary))
    np.testing.assert_array_equal(curve[boundary:], second.curve(50))


@given(st.floats(0.0, 0.99), st.integers(1, 10**6))
def test_rex_is_its_own_inverse(beta, numerator):
    z = numerator / 10**6
    rex = S.REXDecay(1.0, 10**6, beta=beta)
    value = rex(np.array([numerator]))[0]
    expected = (1 - z) / ((1 - beta) + beta * (1 - z))
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
    back = (1 - value) / ((1 - beta) + beta * (1 - value))
    np.testing.assert_allclose(back, z, atol=1e-9)


@given(st.integers(1, 200), st.floats(1.05, 4.0), st.integers(1, 5000))
def test_the_rate_is_back_at_its_peak_at_every_cycle_end(first, t_mul, num_steps):
    schedule = S.CosineRestarts(1.0, first, t_mul=t_mul)
    ends = schedule.cycle_ends(num_steps)
    values = schedule(np.array([0, *ends]))
    np.testing.assert_array_equal(values, 1.0)
    lengths = np.diff([0, *ends])
    assert np.all(np.abs(lengths - first * t_mul ** np.arange(len(lengths))) <= 1.0)


@given(st.integers(1, 1000), st.integers(1, 30), st.floats(1.0, 2.0))
def test_cycles_that_fill_a_training_end_with_it(total, cycles, t_mul):
    shares = t_mul ** np.arange(cycles)
    if total * shares[0] / shares.sum() < 1.0:
        return  # There may be an empty cycle, which is refused.
    schedule = S.Restarts(
        S.LinearDecay(1.0), t_mul=t_mul, num_cycles=cycles, total_steps=total
    )
    ends = schedule.cycle_ends(10 * total)
    assert len(ends) == cycles
    assert ends[-1] == total
    exact = total * np.cumsum(shares) / shares.sum()
    assert np.all(np.abs(np.array(ends) - exact) <= 0.5 + 1e-9)
    assert schedule(np.array([total]))[0] == 0.0


@given(
    st.integers(1, 10**6),
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6, unique=True),
)
def test_bound_positions_are_the_exact_ones_rounded_half_up(total, fractions):
    fractions = sorted(fractions)
    schedule = S.MultiStepDecay(0.1, [S.Fraction(f) for f in fractions])
    steps = np.array(schedule.bind(total).milestones)
    assert np.all(np.diff(steps) >= 1)
    assert steps[0] >= 1
    exact = np.array(fractions) * total
    spread = np.all(np.diff(exact) > 1.0) and exact[0] > 1.0
    assert not spread or np.all(np.abs(steps - exact) <= 0.5 + 1e-6)


@given(rates, st.integers(1, 10**6), st.floats(1e-6, 0.5), st.integers(1, 5000))
def test_a_bounded_step_decay_ends_where_it_was_told(rate, steps, share, updates):
    end = rate * share
    schedule = S.BoundedExponentialDecay(rate, steps, end, updates=updates)
    at = schedule(np.array([0, steps - 1, steps, steps + 1]))
    assert at[0] == rate or updates > steps
    assert at[2] == at[3] == end
    drops = (steps - 1) * updates // steps
    expected = rate * share ** (drops / updates)
    np.testing.assert_allclose(at[1], expected, rtol=1e-9)
