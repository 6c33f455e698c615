"""A cycle of `Restarts` is a run of its own, whatever plays in it."""

# A field specifier is a call by design, as `dataclasses.field` is.
# ruff: noqa: RUF009

import dataclasses
import inspect

import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.schedules import base, durations, numerics

S = lrs.schedules
TOTAL, STEPS_PER_EPOCH = 100, 8
LENGTHS = [None, S.Fraction(0.35), S.Epochs(0.625), 5]

DECAYS = {
    name: cls
    for name, cls in vars(S).items()
    if inspect.isclass(cls) and issubclass(cls, S.Decay) and cls is not S.Decay
}

COMBINATORS = {
    "Warmup": lambda decay, length: S.Warmup(decay, length),
    "Delayed": lambda decay, length: S.Delayed(decay, length),
    "Sequential": lambda decay, length: S.Sequential([decay, decay], [length]),
    "Sampled every": lambda decay, length: S.Sampled(decay, every=length),
    "Sampled at": lambda decay, length: S.Sampled(decay, at=[length]),
    "Scaled": lambda decay, length: S.Scaled(decay, 0.5),
    "Product": lambda decay, length: S.Product([decay, S.StepDecay(1.0, length)]),
    "Sum": lambda decay, length: S.Sum([decay, S.StepDecay(0.0, length)]),
    "Clipped": lambda decay, length: S.Clipped(decay, 0.02),
    "Noisy": lambda decay, length: S.Noisy(decay, 0.1),
    "Restarts": lambda decay, length: S.Restarts(decay, length),
    "Warmup in Delayed": lambda decay, length: S.Delayed(
        S.Warmup(decay, length), length
    ),
    "Last": lambda decay, length: Last(decay, length),
}
WITHOUT_A_LENGTH = {"Scaled", "Clipped", "Noisy", "Restarts"}


@dataclasses.dataclass(frozen=True)
class Last(S.Schedule):
    """Calculates in its window: the schedule plays in the last steps."""

    schedule: S.Schedule = base.schedule_field()
    last_steps: durations.Duration = durations.length()
    first_steps: durations.Duration = durations.length(default=None)

    def call(self, step):
        return base.evaluate(self.schedule, numerics.since(step, self.first_steps))

    def _bind(self, window):
        last = window.length(self.last_steps)
        first = durations.at_least(window.length(self.first_steps) - last, 1)
        return self._replaced(
            {
                "schedule": base.bind(self.schedule, window.after(first)),
                "last_steps": last,
                "first_steps": first,
            }
        )

    def _cycle_ends(self, num_steps):
        ends = base.cycle_ends(self.schedule, max(num_steps - self.first_steps, 0))
        return {end + self.first_steps for end in ends}


# What holds values hides both ends and jumps; `Restarts` ends only to begin again.
HOLDING = {"Sampled every", "Sampled at", "Restarts"}


@pytest.mark.parametrize("combinator", sorted(COMBINATORS.keys() - HOLDING))
def test_the_rest_of_a_window_ends_with_the_run(combinator):
    whole = COMBINATORS[combinator](S.LinearDecay(1.0), 11).bind(100)
    before, end = whole(np.array([99, 100]))
    assert end == pytest.approx(0.02 if combinator == "Clipped" else 0.0, abs=1e-15)
    assert before > 0.0


@pytest.mark.parametrize("combinator", sorted(COMBINATORS.keys() - HOLDING))
def test_a_cycle_ends_where_the_rate_jumps(combinator):
    cycles = S.CosineRestarts(1.0, 7, t_mul=1.0, end_learning_rate=0.1)
    whole = COMBINATORS[combinator](cycles, 11).bind(60)
    curve = whole.curve(60)
    jumps = np.flatnonzero((curve[1:] > 3.0 * curve[:-1]) & (curve[:-1] > 0.0)) + 1
    assert len(jumps) > 0
    assert [end for end in whole.cycle_ends(60) if end < 60] == jumps.tolist()


def test_no_combinator_is_missing():
    combinators = {
        name
        for name, cls in vars(S).items()
        if inspect.isclass(cls)
        and issubclass(cls, S.Schedule)
        and {"schedule", "schedules"} & set(inspect.signature(cls).parameters)
    }
    assert combinators <= {name.partition(" ")[0] for name in COMBINATORS}


@pytest.mark.parametrize(
    ("combinator", "length"),
    [
        (combinator, length)
        for combinator in COMBINATORS
        for length in LENGTHS
        if length is not None or combinator in WITHOUT_A_LENGTH
    ],
)
@pytest.mark.parametrize("decay_steps", LENGTHS, ids=repr)
@pytest.mark.parametrize("decay", DECAYS)
def test_every_cycle_is_a_run_of_its_own(decay, combinator, decay_steps, length):
    inner = made(decay, combinator, decay_steps, length)
    for first, t_mul, lengths in (
        (20, 1.0, [20] * 5),
        (S.Epochs(2.5), 1.5, [20, 30, 45]),
        (S.Fraction(0.25), 1.0, [25] * 4),
        (None, 1.0, [100]),
    ):
        try:
            bound = S.Restarts(inner, first, t_mul).bind(TOTAL, STEPS_PER_EPOCH)
        except ValueError as error:
            refused(error, inner, t_mul)
            continue
        cycles = [
            inner.bind(cycle, STEPS_PER_EPOCH).curve(cycle + 1) for cycle in lengths
        ]
        held = np.concatenate([cycle[:-1] for cycle in cycles])[:TOTAL]
        found = bound.curve(TOTAL)[: len(held)]
        np.testing.assert_allclose(found, held, rtol=1e-12, atol=0.0)


def made(decay, combinator, decay_steps, length):
    return COMBINATORS[combinator](DECAYS[decay](0.1, decay_steps, 0.01), length)


@pytest.mark.parametrize("decay_steps", LENGTHS, ids=repr)
@pytest.mark.parametrize("combinator", COMBINATORS)
@pytest.mark.parametrize("decay", DECAYS)
def test_parts_of_a_step_are_rounded_before_the_cycle_is_known(
    decay, combinator, decay_steps
):
    inner = made(decay, combinator, decay_steps, S.Epochs(0.6))
    for t_mul in (1.0, 1.5):
        try:
            bound = S.Restarts(inner, 20, t_mul).bind(TOTAL, STEPS_PER_EPOCH)
        except ValueError as error:
            refused(error, inner, t_mul)
            continue
        whole = made(decay, combinator, decay_steps, 5)
        if not isinstance(inner, S.Delayed):  # Twice 4.8 steps are 5 and 5, not 10.
            expected = S.Restarts(whole, 20, t_mul).bind(TOTAL, STEPS_PER_EPOCH)
            np.testing.assert_array_equal(bound.curve(TOTAL), expected.curve(TOTAL))
        assert np.all(np.isfinite(bound.curve(TOTAL)))


def refused(error, inner, t_mul):
    """By the name of an argument, and only for one of two reasons."""
    assert "Argument `schedule` must not" in str(error), error
    if "have restarts" in str(error):
        assert isinstance(inner, S.Restarts)
        assert t_mul > 1.0
    else:
        assert isinstance(inner, Last)
        assert "Epochs" in repr(inner)


def test_a_length_that_only_the_cycle_gives_is_not_calculated_with():
    schedule = S.Restarts(Last(S.LinearDecay(1.0), S.Epochs(1)), 20)
    with pytest.raises(ValueError, match="`schedule` must not hold `Epochs` where"):
        schedule.bind(100, 10)
    fractions = S.Restarts(Last(S.LinearDecay(1.0), S.Fraction(0.5)), 4)
    expected = [1.0, 1.0, 1.0, 0.5] * 2
    np.testing.assert_array_equal(fractions.bind(100, 10).curve(8), expected)
