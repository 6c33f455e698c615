"""The integer arithmetic under the schedules, checked against Python's own."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_lrs.schedules import (
    Constant,
    ExponentialDecay,
    ExponentialGrowth,
    Product,
    numerics,
)
from tests import compiled


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values), dtype=compiled.integer_dtype())


def array(x):
    return np.asarray(ops.convert_to_numpy(x))


@pytest.mark.parametrize("length", [1, 7, 1000, 10**9 + 7, 2**30 + 1, 2**31 - 1])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 1000, 9_999, 2**20])
def test_a_share_of_a_length_is_exact_in_int32(length, parts):
    rng = np.random.default_rng(parts)
    drops = rng.integers(0, parts + 1, 300)
    edges = -(-drops * length // parts)  # Where a share is reached.
    steps = np.concatenate([edges - 1, edges, rng.integers(0, length, 300)])
    steps = np.clip(steps, 0, length)
    expected = [int(step) * parts // length for step in steps]
    for compiler in compiled.compilers().values():
        function = compiler(lambda step: numerics.share(step, parts, length))
        np.testing.assert_array_equal(array(function(tensor(steps))), expected)
    np.testing.assert_array_equal(numerics.share(steps, parts, length), expected)


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 1000, 1024, 1025, 33_000])
def test_a_lookup_counts_the_boundaries_reached(count):
    rng = np.random.default_rng(count)
    boundaries = np.sort(rng.integers(0, 2**31 - 2, count))
    boundaries[count // 2 :: 7] = boundaries[count // 2]
    boundaries = np.sort(boundaries)
    lookup = numerics.Lookup(boundaries)
    steps = np.concatenate([boundaries - 1, boundaries, boundaries + 1, [0, 2**31 - 2]])
    steps = np.clip(steps, 0, 2**31 - 2)[:3000]
    expected = np.searchsorted(boundaries, steps, side="right")
    np.testing.assert_array_equal(lookup(steps), expected)
    assert [lookup(int(step)) for step in steps[:50]] == expected[:50].tolist()
    for compiler in compiled.compilers().values():
        np.testing.assert_array_equal(array(compiler(lookup)(tensor(steps))), expected)


def test_an_empty_lookup_counts_nothing():
    lookup = numerics.Lookup([])
    assert lookup(5) == 0
    np.testing.assert_array_equal(array(lookup(tensor([0, 5]))), [0, 0])


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 - 1])
def test_the_hash_is_the_same_in_every_column(seed):
    rng = np.random.default_rng(0)
    steps = np.concatenate([np.arange(1000), rng.integers(0, 2**31 - 2, 1000)])
    expected = [numerics.scrambled(int(step), seed) for step in steps]
    assert all(0 <= value < 2**31 for value in expected)
    assert len(set(expected)) == len(set(steps.tolist()))
    np.testing.assert_array_equal(numerics.scrambled(steps, seed), expected)
    for compiler in compiled.compilers().values():
        function = compiler(lambda step: numerics.scrambled(step, seed))
        np.testing.assert_array_equal(array(function(tensor(steps))), expected)


def test_gathered_lengths_beyond_int32_keep_their_ratio():
    table = np.array([10, 2**31 + 11, 10**12, 5])
    index = tensor([0, 1, 2, 3])
    length = numerics.gather(table, index)
    step = tensor([5, 2**31 - 2, 2**31 - 2, 5])
    progress, remaining = map(array, numerics.fractions(step, length))
    exact = np.array([5, 2**31 - 2, 2**31 - 2, 5]) / table
    np.testing.assert_allclose(progress, exact, rtol=3e-7)
    np.testing.assert_allclose(remaining, 1 - exact, rtol=3e-7, atol=1e-20)
    value = array(numerics.exponential(-9.0, step, length))
    np.testing.assert_allclose(value, np.exp(-9.0 * exact), rtol=1.2e-6)


def test_rates_are_never_narrower_than_float32():
    floatx = keras.backend.floatx()
    try:
        keras.backend.set_floatx("float16")
        assert numerics.float_dtype() == "float32"
        keras.backend.set_floatx("float64")
        assert numerics.float_dtype() == "float64"
    finally:
        keras.backend.set_floatx(floatx)


def test_steps_beyond_int64_are_held():
    steps = np.array([1e30, 5.9])
    assert numerics.to_steps(steps).tolist() == [2**62, 5]
    large = np.array([2**63 + 5], dtype="uint64")
    assert numerics.to_steps(large).tolist() == [2**62]


@pytest.mark.parametrize(
    "step", [1j, "3", None, True, np.array(["a"]), np.array([True])]
)
def test_what_is_no_step_is_refused(step):
    with pytest.raises(TypeError, match="Argument `step`"):
        numerics.to_steps(step)


@pytest.mark.parametrize("step", [[0.0, np.nan], [np.inf]])
def test_a_vector_with_a_step_that_is_not_finite_is_refused(step):
    with pytest.raises(ValueError, match="Argument `step` must be finite"):
        numerics.to_steps(ops.convert_to_tensor(step, dtype="float32"))


def test_a_tensor_of_booleans_is_refused():
    for step in (True, [True, False]):
        with pytest.raises(TypeError, match="Argument `step`"):
            numerics.to_steps(ops.convert_to_tensor(step))


def test_float_steps_beyond_every_integer_saturate():
    steps = ops.convert_to_tensor([1e30, 3e9, 2.7, -4.0], dtype="float32")
    values = array(numerics.to_steps(steps))
    assert values[2:].tolist() == [2, 0]
    assert np.all(values[:2] >= 2**31 - 128)
    if keras.backend.backend() == "torch":
        large = ops.convert_to_tensor(np.array([2**40, 3]), dtype="int64")
        assert array(numerics.to_steps(large)).tolist() == [2**31 - 1, 3]


def test_a_tiny_rate_that_hardly_grows_stays_finite():
    schedule = ExponentialGrowth(2.717312643641716e-44, 1.1758053127792153e-13)
    steps = [0, 1, 2**24, 2**31 - 2]
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, np.array(steps), compiler)
        assert np.all((values >= 0.0) & (values < 1e-43)), values


def test_growth_by_a_huge_factor_saturates():
    schedule = ExponentialGrowth(2.225073858507203e-309, 10.0**22.5)
    steps = np.array([0, 13, 14, 15, 16, 2**31 - 2])
    exponents = math.log(2.225073858507203e-309) + 22.5 * math.log(10.0) * steps
    expected = np.exp(np.minimum(exponents, math.log(numerics.LARGEST)))
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, steps, compiler)
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-44)
    np.testing.assert_allclose(schedule(steps), expected, rtol=1e-6, atol=1e-44)


def test_what_has_saturated_times_zero_is_zero():
    growing = ExponentialDecay(0.1, 10, 1.1)
    schedule = Product([growing, growing, Constant(0.0)])
    for compiler in compiled.compilers().values():
        values = compiled.values(schedule, np.array([0, 2**20, 2**31 - 2]), compiler)
        np.testing.assert_array_equal(values, 0.0)
