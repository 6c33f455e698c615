"""Notebooks show the call of a schedule, and its curve."""

import math
import xml.etree.ElementTree as ElementTree

import keras
import numpy as np
import pytest

from keras_lrs import Epochs, Fraction
from keras_lrs.schedules import (
    Constant,
    CosineAnnealing,
    CosineRestarts,
    CyclicalLearningRate,
    Delayed,
    ExponentialDecay,
    FunctionSchedule,
    InverseSqrtDecay,
    LinearDecay,
    NoamDecay,
    OneCycle,
    PiecewiseConstant,
    Restarts,
    Scaled,
    StepDecay,
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
    found, ends = own_length(schedule)
    assert ends
    # What is left of a cosine so near its end is too small to be told.
    assert found == pytest.approx(length, rel=1e-6)
    held = schedule(np.array([length, 2 * length, 2**31 - 2]))
    before = schedule(np.array([length * 999 // 1_000]))[0]
    assert held.max() == held.min() != before


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(0.1),
        Delayed(Constant(0.1), Epochs(1)),
        FunctionSchedule(catalogue.inverse),
        Scaled(FunctionSchedule(catalogue.inverse), 2.0),
        Scaled(keras.optimizers.schedules.CosineDecay(0.1, 10), 2.0),
        CyclicalLearningRate(0.1, 0.2, 2**25),
        CosineRestarts(0.1, num_cycles=5, t_mul=1e4),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_what_is_flat_or_not_ours_or_takes_too_long_has_no_picture(schedule):
    assert SVG not in schedule._repr_html_()
    assert type(schedule).__name__ in schedule._repr_html_()


def in_words(schedule):
    return schedule._repr_html_().partition("<title>")[2].partition("</title>")[0]


@pytest.mark.parametrize(
    ("schedule", "length"),
    [
        # ln(200) time constants, and the first drop below a 200th.
        (ExponentialDecay(0.1, 1_000, 0.96), 1_000 * math.log(200, 1 / 0.96)),
        (ExponentialDecay(0.1, 10, 0.5), 77),
        (StepDecay(0.1, 30, decay_rate=0.1), 90),
        (ExponentialDecay(0.1, 1_000_000, 0.96), 1_000_000 * math.log(200, 1 / 0.96)),
        (CosineRestarts(0.1, 10, t_mul=1.0), 40),
        (Restarts(LinearDecay(0.1), 16, t_mul=2.0), 240),
        (Warmup(CosineRestarts(0.1, 10, t_mul=2.0), 5), 155),
        (CyclicalLearningRate(0.001, 0.01, 2_000), 16_000),
    ],
    ids=repr,
)
def test_what_never_ends_is_drawn_as_far_as_its_shape_can_be_seen(schedule, length):
    found, ends = own_length(schedule)
    assert found == pytest.approx(length, abs=1)
    assert not ends
    assert in_words(schedule).endswith(f"in the first {found:,} steps")


def test_the_picture_of_a_decay_that_never_ends_is_its_curve():
    x, y = points(ExponentialDecay(0.1, 1_000, 0.96))
    np.testing.assert_allclose(y, (1 - 200**-x) / (1 - 1 / 200), atol=2e-3)


def test_the_picture_of_triangles_is_four_triangles():
    x, y = points(CyclicalLearningRate(0.001, 0.01, 2_000))
    np.testing.assert_allclose(y, abs(1 - 8 * x % 2), atol=2e-3)


@pytest.mark.parametrize(
    "schedule", [NoamDecay(512, 4_000), InverseSqrtDecay(0.1, 4_000)]
)
def test_an_inverse_root_is_drawn_for_about_sixteen_times_its_scale(schedule):
    num_steps, ends = own_length(schedule)
    assert 14 * 4_000 < num_steps < 17 * 4_000
    assert not ends
    x, y = points(schedule)
    expected = schedule(np.linspace(0, num_steps, len(x)).astype(np.int64))
    expected = (expected.max() - expected) / np.ptp(expected)
    np.testing.assert_allclose(y, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (CosineAnnealing(0.1), "in 100 epochs of 100 steps, for example"),
        (Warmup(LinearDecay(0.1), Fraction(0.5)), "in 100 epochs of 100 steps, for"),
        (Warmup(LinearDecay(0.1), Epochs(1)), "in 100 epochs of 100 steps, for"),
        (CosineRestarts(0.1, Epochs(1)), "in the first 15 of 100 epochs of 100 steps"),
    ],
    ids=repr,
)
def test_an_open_schedule_is_drawn_in_a_training_that_the_caption_names(
    schedule, words
):
    assert words in in_words(schedule)
    x, y = points(schedule)
    if isinstance(schedule, Warmup):
        peak = 0.5 if schedule.warmup_steps == Fraction(0.5) else 0.01
        assert x[y.argmin()] == pytest.approx(peak, abs=0.004)
    elif isinstance(schedule, CosineAnnealing):
        np.testing.assert_allclose(y, np.sin(np.pi / 2 * x) ** 2, atol=0.01)


def test_every_open_schedule_has_a_picture():
    for schedule in catalogue.OPEN:
        assert SVG in schedule._repr_html_()


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
