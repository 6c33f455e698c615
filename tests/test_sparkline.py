"""Notebooks show the call of a schedule, and the curve of one that comes to an end."""

import xml.etree.ElementTree as ElementTree

import keras
import numpy as np
import pytest

from keras_lrs import Epochs, Fraction
from keras_lrs.schedules import (
    Constant,
    CosineAnnealing,
    CosineRestarts,
    ExponentialDecay,
    FunctionSchedule,
    LinearDecay,
    OneCycle,
    PiecewiseConstant,
    Restarts,
    Scaled,
    Warmup,
)
from keras_lrs.schedules.sparkline import own_length
from tests import catalogue

SVG = "<svg"


def points(schedule):
    """The curve in the picture: steps and values between 0 and 1, downwards."""
    text = schedule._repr_html_().partition("<div>")[2]
    picture = ElementTree.fromstring(f"<div>{text}".replace("<br>", "<br/>"))
    line = picture.find(".//polyline").get("points")
    x, y = np.array([pair.split(",") for pair in line.split()], float).T
    return x / x.max(), y / y.max()


def test_the_picture_of_a_linear_decay_is_a_line():
    x, y = points(LinearDecay(0.1, 3_200))
    assert len(x) > 100
    np.testing.assert_allclose(y, x, atol=2e-3)


def test_the_picture_of_a_warmup_and_a_cosine_has_its_peak_where_the_warmup_ends():
    x, y = points(Warmup(CosineAnnealing(0.1, 900), 100))
    assert x[y.argmin()] == pytest.approx(0.1, abs=0.004)
    after = x > 0.11
    expected = np.sin(np.pi / 2 * (x[after] - 0.1) / 0.9) ** 2
    np.testing.assert_allclose(y[after], expected, atol=0.01)


@pytest.mark.parametrize(
    ("schedule", "length"),
    [
        (LinearDecay(0.1, 100), 100),
        (CosineAnnealing(0.1, 100_000), 100_000),
        (CosineAnnealing(0.1, 10**9, 0.01), 10**9),
        (OneCycle(0.1, 777), 777),
        (Warmup(CosineAnnealing(0.1, 90), 10), 100),
        (CosineRestarts(0.1, 10, t_mul=2.0, num_cycles=3), 70),
        (PiecewiseConstant([10, 2_000_001], [0.1, 0.3, 0.2]), 2_000_001),
        (Scaled(LinearDecay(0.1, 64), 2.0), 64),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_schedule_is_as_long_as_it_takes_until_its_rate_is_held(schedule, length):
    found = own_length(schedule)
    # What is left of a cosine so near its end is too small to be told.
    assert found == pytest.approx(length, rel=1e-6)
    held = schedule(np.array([length, 2 * length, 2**31 - 2]))
    before = schedule(np.array([length * 999 // 1_000]))[0]
    assert held.max() == held.min() != before


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(0.1),
        CosineRestarts(0.1, 10, t_mul=1.0),
        Restarts(LinearDecay(0.1), 16, t_mul=2.0),
        CosineAnnealing(0.1),
        Warmup(LinearDecay(0.1, 10), Epochs(1)),
        Warmup(LinearDecay(0.1), Fraction(0.5)),
        FunctionSchedule(catalogue.inverse),
        Scaled(keras.optimizers.schedules.CosineDecay(0.1, 10), 2.0),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_what_does_not_end_or_is_not_bound_has_no_picture(schedule):
    assert SVG not in schedule._repr_html_()
    assert type(schedule).__name__ in schedule._repr_html_()


def test_a_decay_that_only_comes_near_to_zero_is_drawn_as_far_as_it_can_be_seen():
    length = own_length(ExponentialDecay(0.1, 10, 0.5))
    assert 100 < length < 1_000  # From 2**-10 to 2**-100 of what it was.


def test_every_bound_schedule_has_a_call_that_cannot_be_taken_for_html():
    for schedules in catalogue.BOUND.values():
        for schedule in schedules:
            shown = schedule._repr_html_()
            call = shown.removeprefix("<code>").partition("</code>")[0]
            assert "<" not in call
            assert type(schedule).__name__ in call


def test_signs_of_html_in_a_call_are_escaped():
    shown = Scaled(catalogue.Foreign(0.1), 2.0)._repr_html_()
    assert "&lt;tests.catalogue.Foreign" in shown


def test_nothing_in_the_picture_is_loaded_from_elsewhere():
    shown = LinearDecay(0.1, 10)._repr_html_()
    assert SVG in shown
    for sign in ("http", "<script", "<style", "<img", "url("):
        assert sign not in shown
