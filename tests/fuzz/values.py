"""Values for any argument: near ones, which may be good, and nasty ones."""

import decimal
import fractions
import math
import pathlib

import keras
import numpy as np
from hypothesis import strategies as st

import keras_lrs as lrs
from tests import catalogue

S = lrs.schedules


class Unhelpful:
    """What answers every question about itself with an error of its own."""

    def __float__(self):
        raise ArithmeticError("not a float")

    def __eq__(self, other):
        raise ArithmeticError("not comparable")

    __hash__ = None

    def __repr__(self):
        return "<unhelpful>"


NASTY = [
    *(0, 1, -1, 2, 10**400, 10**5000, 2**31, 2**63, -(2**31), 2**20 + 1),
    *(math.nan, math.inf, -math.inf, -0.0, 0.5, -0.5, 1.5, 1e39, 1e300, 5e-324, 1e-45),
    *(True, False, None, 1j, ...),
    *("", "0.1", "linear", "epoch", "nan", "None", "\x00", "é", b"bytes", "a" * 1000),
    *(np.float32(0.1), np.float16("nan"), np.int64(3), np.int8(-1), np.bool_(True)),
    *(np.datetime64("2020-01-01"), np.str_("linear"), np.uint64(2**63)),
    *(np.array(0.1), np.array([0.1, 0.2]), np.zeros((2, 2)), np.array([]), np.ones(1)),
    *(np.array([None, "a"], dtype=object), np.array(["a"]), np.array([math.nan])),
    *([], [1, 2], (1,), [0.1, 0.2], [[1], [2]], [math.nan], [None], ["a", "b"], [True]),
    *({}, {"a": 1}, {1, 2}, frozenset(), range(3), range(0), iter([1, 2])),
    *(fractions.Fraction(1, 3), decimal.Decimal("0.1"), decimal.Decimal("NaN")),
    *(object(), object, int, len, lambda step: 0.1, Unhelpful(), pathlib.Path("x")),
    *(S.Epochs(2), S.Epochs(0), S.Epochs(1e30), S.Fraction(0.5), S.Fraction(1)),
    *(S.Fraction(0), [S.Fraction(0.5), S.Epochs(1)], S.Constant(0.1), S.LinearDecay),
    *(S.LinearDecay(0.1), S.Warmup(S.REXDecay(0.1), S.Epochs(1)), catalogue.Foreign(1)),
    *(catalogue.KERAS_COSINE, [S.Constant(0.1), 0.1], catalogue.inverse),
    lrs.averages.UniformAverage(),
    *(keras.ops.convert_to_tensor(0.1), keras.ops.convert_to_tensor([1, 2])),
    *(keras.ops.convert_to_tensor(3), keras.Variable(0.1), keras.optimizers.SGD()),
    *(keras.layers.Dense(1), keras.Sequential(), keras.callbacks.Callback()),
]

# Words that some argument takes.
WORDS = [
    *("linear", "cosine", "exponential", "polynomial", "constant", "1-sqrt", "rex"),
    *("triangular", "triangular2", "exp_range", "decoupled", "l2", "sqrt", "grid"),
    *("random", "min", "max", "auto", "epoch", "cycle", "average", "raw", "keep"),
    *("drop", "recalibrate", "median", "halving", "softmax", "loss", "val_loss"),
]

SCHEDULES = [*catalogue.SCHEDULES, *catalogue.OPEN]

lengths = st.one_of(
    st.integers(0, 50),
    st.integers(0, 2**31),
    st.integers(0, 2**40),
    st.sampled_from([2**24, 2**24 + 1, 2**31 - 2, 2**31 - 1, 2**31]),
    st.builds(S.Epochs, st.floats(0, 100)),
    st.builds(S.Fraction, st.floats(0, 1)),
    st.builds(S.Samples, st.integers(0, 10**6), st.integers(1, 1000)),
    st.builds(S.Tokens, st.integers(0, 10**13), st.none() | st.integers(1, 10**7)),
)
numbers = st.one_of(
    st.floats(0, 1),
    st.floats(0, 10),
    st.floats(-60, 60),
    st.floats(0, 3.5e38),
    st.integers(0, 3),
    st.builds(lambda exponent: 10.0**exponent, st.floats(-45, 38.6)),
)

nasty = st.one_of(
    st.sampled_from(NASTY),
    st.floats(),
    st.integers(),
    st.text(max_size=4),
    st.lists(st.one_of(st.sampled_from(NASTY), numbers, lengths), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def near(value):
    """Values of the same kind as one that is good."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, (int, S.Epochs, S.Fraction, S.Samples, S.Tokens)):
        return lengths
    if isinstance(value, float):
        return numbers
    if isinstance(value, str):
        return st.sampled_from(WORDS)
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return st.sampled_from(SCHEDULES)
    if isinstance(value, (list, tuple, range, np.ndarray)):
        kind = value[0] if len(value) else 1
        kind = kind.item() if isinstance(kind, np.generic) else kind
        some = st.lists(near(kind), max_size=6)
        rising = isinstance(kind, int)
        increasing = st.lists(st.integers(0, 2**31), max_size=6, unique=True).map(
            sorted
        )
        return st.one_of(increasing, some) if rising else some
    if value is None:
        return st.one_of(st.none(), lengths, numbers)
    return st.just(value)
