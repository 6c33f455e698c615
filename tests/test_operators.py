"""`0.5 * schedule`, `schedule * schedule` and `schedule + schedule`."""

import keras
import numpy as np
import pytest

from keras_lrs import schedules as S  # noqa: N812

ONE, OTHER = S.LinearDecay(1.0, 10), S.StepDecay(0.5, 3)


def test_they_write_combinators_shorter():
    for scaled in (0.5 * ONE, ONE * 0.5, np.float64(0.5) * ONE):
        assert scaled == S.Scaled(ONE, 0.5)
    assert S.Product([ONE, OTHER]) == ONE * OTHER
    assert S.Sum([ONE, OTHER]) == ONE + OTHER
    steps = np.arange(12)
    expected = 0.5 * ONE.curve(12) * OTHER.curve(12) + ONE.curve(12)
    np.testing.assert_allclose((0.5 * ONE * OTHER + ONE)(steps), expected)


def test_schedules_of_keras_may_be_on_either_side():
    theirs = keras.optimizers.schedules.CosineDecay(1.0, 10)
    for made in (ONE + theirs, theirs + ONE):
        assert float(made(10)) == pytest.approx(0.0, abs=1e-7)
        assert float(made(0)) == 2.0
    assert float((theirs * ONE)(5)) == pytest.approx(0.25)


def test_what_is_no_rate_is_refused():
    for other in (1.0, "1", None):
        with pytest.raises(TypeError, match="unsupported operand"):
            ONE + other
    with pytest.raises(TypeError, match="unsupported operand"):
        ONE * None
    with pytest.raises(ValueError, match="`factor` must be >= 0"):
        -1.0 * ONE


def test_open_lengths_are_bound_with_the_whole():
    bound = (
        0.5 * S.LinearDecay(1.0) + S.Warmup(S.Constant(1.0), S.Fraction(0.5))
    ).bind(8)
    expected = 0.5 * (1.0 - np.arange(8) / 8) + np.minimum(np.arange(8) / 4, 1.0)
    np.testing.assert_allclose(bound.curve(8), expected)
