"""A composition is what it is made of: bound, called and refused alike."""

# A field specifier is a call by design, as `dataclasses.field` is.
# ruff: noqa: RUF009

import dataclasses
import json
import re
from typing import Any

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs.schedules import durations, fields
from keras_lrs.schedules.base import schedule_field, schedules_field
from tests import catalogue

S = lrs.schedules
TOTAL, STEPS_PER_EPOCH = 1000, 10


@keras.saving.register_keras_serializable(package="keras_lrs_tests")
@dataclasses.dataclass(frozen=True)
class WarmRestarts(S.Composition):
    """Cycles that warm up, with names of its own."""

    rate: float = fields.rate()
    cycle: durations.Duration = durations.length(default=None)
    rise: durations.Duration = durations.length(default=10)

    def compose(self):
        return S.Restarts(S.Warmup(S.CosineAnnealing(self.rate), self.rise), self.cycle)


@dataclasses.dataclass(frozen=True)
class Undeclared(S.Composition):
    """As a user may write it: no argument says what it is."""

    rate: float
    cycle: Any
    rise: Any

    def compose(self):
        return S.Restarts(S.Warmup(S.CosineAnnealing(self.rate), self.rise), self.cycle)


@dataclasses.dataclass(frozen=True)
class Rounded(S.Composition):
    """One length in two places, which are rounded differently."""

    half: durations.Duration = durations.length()

    def compose(self):
        piece = S.LinearDecay(1.0, self.half, 0.1)
        return S.Sequential([piece, piece], [self.half])


@dataclasses.dataclass(frozen=True)
class Lasting(S.Composition):
    """Open in a place that is no argument."""

    rate: float = fields.rate()

    def compose(self):
        return S.Delayed(S.LinearDecay(self.rate), 3)


@dataclasses.dataclass(frozen=True)
class Drops(S.Composition):
    """A list of lengths, under another name."""

    drops: tuple = durations.positions(at_least=1)

    def compose(self):
        return S.Warmup(S.MultiStepDecay(0.1, self.drops), 2)


@dataclasses.dataclass(frozen=True)
class Again(S.Composition):
    """Any schedule in cycles; its own arguments are schedules."""

    inner: S.Schedule = schedule_field()
    others: tuple = schedules_field()
    cycle: durations.Duration = durations.length()

    def compose(self):
        cycles = S.Restarts(self.inner, self.cycle)
        return S.Product([cycles, S.Sequential(self.others, [self.cycle])])


@dataclasses.dataclass(frozen=True)
class Named(S.Composition):
    """A composition of a composition."""

    every: durations.Duration = durations.length()

    def compose(self):
        return S.Warmup(WarmRestarts(0.2, self.every, S.Fraction(0.1)), self.every)


@dataclasses.dataclass(frozen=True)
class Halved(S.Composition):
    """Calculates with its length, and says so."""

    rate: float = fields.rate()
    length: durations.Duration = durations.length(default=None)

    calculates = True

    def compose(self):
        half = self.length // 2
        return S.Delayed(S.LinearDecay(self.rate, self.length - half), half)


EPOCHS, FRACTION = S.Epochs(20.25), S.Fraction(0.3)
OWN = [
    *(
        cls(0.1, cycle, rise)
        for cls in (WarmRestarts, Undeclared)
        for cycle in (FRACTION, EPOCHS, 150, None)
        for rise in (FRACTION, S.Epochs(2.5), 10)
        if cls is WarmRestarts or cycle is not None
    ),
    WarmRestarts(0.1, None, S.Fraction(0.25)),
    Rounded(S.Fraction(0.3335)),
    Lasting(0.1),
    Drops([FRACTION, S.Fraction(0.6)]),
    Drops([S.Epochs(0.1), S.Epochs(0.12)]),
    Again(S.LinearDecay(0.1), [S.REXDecay(1.0), S.LinearDecay(1.0)], FRACTION),
    Again(
        WarmRestarts(0.1, S.Fraction(0.5), FRACTION), [Lasting(1.0), Lasting(1)], EPOCHS
    ),
    Named(FRACTION),
    Named(S.Epochs(12.5)),
]


def is_composition(schedule):
    return isinstance(schedule, S.Composition)


def hands_on(schedule):
    return is_composition(schedule) and not schedule.calculates


BOUND = [s for s in catalogue.SCHEDULES if is_composition(s)]
COMPOSITIONS = BOUND + [s for s in catalogue.OPEN if hands_on(s)] + OWN


def restarts(schedule):
    """Whether there are cycles in it."""
    return "Restarts" in repr(schedule) + repr(schedule.compose())


AROUND = {
    "alone": lambda s: s,
    "in Warmup": lambda s: S.Warmup(s, S.Fraction(0.07)),
    "in Delayed": lambda s: S.Delayed(s, S.Epochs(1.75)),
    "in Sequential": lambda s: S.Sequential([s, s], [S.Fraction(0.4335)]),
    "in Sampled": lambda s: S.Sampled(s, every=S.Epochs(0.3)),
    "in Product": lambda s: S.Product([S.Scaled(s, 2.0), S.Clipped(s, 0.01)]),
    "in Restarts": lambda s: S.Restarts(s, S.Fraction(0.4)),
    "in longer Restarts": lambda s: S.Restarts(s, S.Fraction(0.3), t_mul=1.5),
    "in two Restarts": lambda s: S.Restarts(S.Restarts(s, S.Fraction(0.4)), 700),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(
    "schedule", COMPOSITIONS, ids=lambda schedule: type(schedule).__name__
)
def test_binding_a_composition_binds_what_it_is_made_of(schedule, around):
    place = AROUND[around]
    if around == "in longer Restarts" and restarts(schedule):
        for refused in (schedule, schedule.compose()):
            with pytest.raises(ValueError, match="must not have restarts"):
                place(refused)
        return
    bound = place(schedule).bind(TOTAL, STEPS_PER_EPOCH)
    made = place(schedule.compose()).bind(TOTAL, STEPS_PER_EPOCH)
    np.testing.assert_array_equal(bound.curve(TOTAL + 5), made.curve(TOTAL + 5))
    assert bound.is_bound
    assert bound.bind(7, 3) == bound
    again = bound.bind(7, 3).curve(TOTAL)
    np.testing.assert_array_equal(again, bound.curve(TOTAL))


@pytest.mark.parametrize(
    "schedule", BOUND + OWN, ids=lambda schedule: type(schedule).__name__
)
def test_the_cycles_of_a_composition_are_those_of_what_it_is_made_of(schedule):
    bound = schedule.bind(TOTAL, STEPS_PER_EPOCH)
    made = schedule.compose().bind(TOTAL, STEPS_PER_EPOCH)
    if not isinstance(schedule, S.PhasedCosine):  # Whose phases are its cycles.
        assert bound.cycle_ends(TOTAL) == made.cycle_ends(TOTAL)


@pytest.mark.parametrize("cls", [WarmRestarts, Undeclared])
def test_a_warmup_in_cycles_is_a_fraction_of_the_cycle(cls):
    bound = cls(0.1, S.Fraction(0.3), S.Fraction(0.3)).bind(1000)
    assert bound.cycle_ends(1000) == [300, 600, 900]
    t = np.arange(300)
    ramp, cosine = t / 90, (1 + np.cos(np.pi * (t - 90) / 210)) / 2
    cycle = 0.1 * np.where(t < 90, ramp, cosine)
    expected = np.tile(cycle, 4)[:1000]
    np.testing.assert_allclose(bound.curve(1000), expected, rtol=1e-12, atol=1e-15)


def test_a_bound_composition_keeps_its_name_and_can_be_saved():
    bound = WarmRestarts(0.1, S.Fraction(0.3), S.Epochs(2)).bind(1000, 10)
    assert bound == WarmRestarts(0.1, 300, 20)
    open_inside = WarmRestarts(0.1, None, S.Fraction(0.3)).bind(1000)
    assert open_inside == WarmRestarts(0.1, 1000, S.Fraction(0.3))
    config = json.dumps(keras.saving.serialize_keras_object(open_inside))
    again = keras.saving.deserialize_keras_object(json.loads(config))
    assert again == open_inside
    assert Undeclared(0.1, S.Epochs(1), 2).bind(99, 10) == Undeclared(0.1, 10, 2)
    drops = Drops([S.Epochs(1), S.Fraction(0.5)]).bind(100, 10)
    assert drops == Drops([10, 50])
    again = Again(S.LinearDecay(0.1, S.Epochs(1)), [S.LinearDecay(1.0)] * 2, 20)
    bound = again.bind(100, 10)
    assert bound.inner.decay_steps == 10
    assert [other.decay_steps for other in bound.others] == [20, 80]


def test_what_no_arguments_can_say_becomes_what_it_is_made_of():
    halves = Rounded(S.Fraction(0.5)).bind(55)
    assert isinstance(halves, S.Sequential)
    assert [piece.decay_steps for piece in halves.schedules] == [28, 27]
    assert Lasting(0.1).bind(10) == S.Delayed(S.LinearDecay(0.1, 7), 3)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            WarmRestarts(0.1),
            "Argument `cycle` of `WarmRestarts` is open. .*=None",
        ),
        (
            WarmRestarts(0.1, 50, EPOCHS),
            "Argument `rise` of `WarmRestarts` is open. .* rise=Epochs",
        ),
        (Undeclared(0.1, FRACTION, 3), "Argument `cycle` of `Undeclared`"),
        (Drops([FRACTION]), "Argument `drops` of `Drops` is open"),
        (
            Again(S.LinearDecay(0.1, EPOCHS), [S.LinearDecay(0.1, 5)] * 2, 20),
            "Argument `inner.decay_steps` of `Again` is open",
        ),
        (
            Again(S.LinearDecay(0.1), [S.LinearDecay(0.1, 5), Lasting(0.1)], 20),
            "Argument `others.* of `Again` is open",
        ),
        (Named(FRACTION), "Argument `every` of `Named` is open"),
        (
            S.CosineRestarts(0.1, num_cycles=2),
            "Argument `total_steps` of `CosineRestarts` is open",
        ),
        (S.CosineRestarts(0.1), "Argument `first_decay_steps` of `CosineRestarts`"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_open_goes_by_the_name_of_the_argument(schedule, message):
    assert not schedule.is_bound
    with pytest.raises(ValueError, match=message):
        schedule(0)


def test_what_cannot_be_bound_goes_by_the_name_of_the_argument():
    schedule = Drops([S.Epochs(5), S.Fraction(0.1)])
    message = "`drops` must be in increasing order once bound. Received: drops=("
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule.bind(1000, 20)


def test_a_composition_that_calculates_says_so():
    assert Halved(1.0).bind(10).curve(11).tolist() == [
        *[1.0] * 5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0
    ]  # fmt: skip

    class Silent(Halved):
        calculates = False

    for use in (
        lambda: Silent(1.0).bind(10),
        lambda: Silent(1.0, S.Fraction(0.5)).bind(10),
        lambda: S.Restarts(Silent(1.0), 10),
        lambda: S.Restarts(Silent(1.0), 10, t_mul=2.0),
        lambda: S.Warmup(Silent(1.0), 3).bind(10),
    ):
        with pytest.raises(ValueError, match=r"`length` must be.*`calculates = True`"):
            use()
    assert not Silent(1.0).is_bound
    np.testing.assert_array_equal(Silent(1.0, 9).curve(9), Halved(1.0, 9).curve(9))


def test_cycles_that_only_show_once_composed_are_refused_too():
    @dataclasses.dataclass(frozen=True)
    class Hidden(S.Composition):
        length: durations.Duration = durations.length(default=None)

        calculates = True

        def compose(self):
            return S.Restarts(S.LinearDecay(1.0), (self.length + 1) // 2)

    even = S.Restarts(Hidden(), 8)
    expected = S.Restarts(S.LinearDecay(1.0), 4).curve(16)
    np.testing.assert_array_equal(even.curve(16), expected)
    with pytest.raises(ValueError, match="must not have restarts"):
        S.Restarts(Hidden(), 8, t_mul=1.5)(3)


def test_a_formula_in_a_composition_is_refused():
    for name in ("call", "_cycle_ends"):
        with pytest.raises(TypeError, match=f"must not define `{name}`"):
            type("Formula", (S.Composition,), {name: lambda self, step: 0.1})


def test_an_error_of_the_users_is_not_taken_for_an_open_length():
    @dataclasses.dataclass(frozen=True)
    class Wrong(S.Composition):
        length: durations.Duration = durations.length()

        def compose(self):
            return S.LinearDecay(1.0, self.length) + 1

    with pytest.raises(TypeError, match="unsupported operand"):
        Wrong(10).bind(10)
