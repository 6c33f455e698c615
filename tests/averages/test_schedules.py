"""The averages, against what they are the averages of."""

import json

import keras
import numpy as np
import pytest

from keras_lrs import averages as A  # noqa: N812
from tests import compiled

AVERAGES = [
    A.ExponentialAverage(),
    A.ExponentialAverage(0.9),
    A.ExponentialAverage(0.9999, debias=False),
    A.ExponentialAverage(half_life=50.0),
    A.ExponentialAverage(0.0),
    A.UniformAverage(),
    A.PolynomialAverage(0),
    A.PolynomialAverage(8),
    A.WarmupAverage(),
    A.WarmupAverage(0.5),
    A.PowerFunctionAverage(0.05),
    A.PowerFunctionAverage(0.25),
]


def test_none_is_missing_here():
    others = {"Average", "Averager"}
    classes = {name for name in A.__all__ if name[0].isupper()} - others
    assert {type(average).__name__ for average in AVERAGES} == classes


def averaged(average, values, initial=0.0):
    """The recurrence."""
    result = initial
    for step, value in enumerate(values):
        result += average.weight(step) * (value - result)
    return result


VALUES = np.random.default_rng(0).normal(size=300)


class TestMeanings:
    def test_uniform_is_the_mean(self):
        assert averaged(A.UniformAverage(), VALUES) == pytest.approx(VALUES.mean())

    def test_polynomial_of_power_0_is_the_mean(self):
        assert averaged(A.PolynomialAverage(0), VALUES) == pytest.approx(VALUES.mean())

    def test_polynomial_weights_are_ratios_of_gamma_functions(self):
        # Shamir and Zhang: proportional to Gamma(s + p) / Gamma(s), s from 1; here for
        # p = 3 the product s (s + 1) (s + 2).
        s = np.arange(1.0, len(VALUES) + 1.0)
        weights = s * (s + 1.0) * (s + 2.0)
        expected = (weights * VALUES).sum() / weights.sum()
        assert averaged(A.PolynomialAverage(3), VALUES) == pytest.approx(expected)

    @pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
    def test_debiased_exponential_is_the_corrected_one(self, decay):
        biased = averaged(A.ExponentialAverage(decay, debias=False), VALUES)
        corrected = biased / (1.0 - decay ** len(VALUES))
        found = averaged(A.ExponentialAverage(decay), VALUES, initial=123.0)
        assert found == pytest.approx(corrected)

    def test_exponential_that_is_not_debiased_remembers_its_initial_value(self):
        average = A.ExponentialAverage(0.9, debias=False)
        assert averaged(average, [0.0] * 5, initial=1.0) == pytest.approx(0.9**5)

    def test_half_life(self):
        average = A.ExponentialAverage(half_life=7.0, debias=False)
        assert averaged(average, [0.0] * 7, initial=1.0) == pytest.approx(0.5)

    def test_warmup_is_the_published_table(self):
        found = A.WarmupAverage(0.999)(np.array([0, 1, 10, 8989, 8990, 8991]))
        expected = [1 / 10, 2 / 11, 11 / 20, 8990 / 8999, 0.999, 0.999]
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    @pytest.mark.parametrize("sigma", [0.05, 0.1, 0.25])
    def test_power_function_weights_are_differences_of_powers(self, sigma):
        average = A.PowerFunctionAverage(sigma)
        s = np.arange(len(VALUES) + 1.0)
        powers = s ** (average.gamma + 1.0)
        expected = (np.diff(powers) * VALUES).sum() / powers[-1]
        found = averaged(average, VALUES, initial=123.0)
        assert found == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(
        ("sigma", "gamma"),
        [
            (0.05, 16.9721986023),
            (0.075, 10.2891164490),
            (0.1, 6.9372039376),
            (0.15, 3.5578687749),
            (0.25, 0.719823958),
        ],
    )
    def test_gamma_of_the_paper(self, sigma, gamma):
        assert A.PowerFunctionAverage(sigma).gamma == pytest.approx(gamma, rel=1e-9)

    def test_sigma_is_the_relative_width(self):
        average = A.PowerFunctionAverage(0.1)
        count = 20_000
        weights = np.diff((np.arange(count + 1.0) / count) ** (average.gamma + 1.0))
        s = np.arange(1.0, count + 1.0) / count
        deviation = np.sqrt((weights * s**2).sum() - (weights * s).sum() ** 2)
        assert deviation == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("average", AVERAGES, ids=str)
class TestLaws:
    STEPS = np.array([0, 1, 2, 9, 100, 8990, 10**5, 2**24 + 1, 2**31 - 2])

    def test_shares_add_up_to_one_and_stay_within_0_and_1(self, average):
        weights = average.weight(self.STEPS)
        assert ((weights > 0.0) & (weights <= 1.0)).all()
        np.testing.assert_allclose(average(self.STEPS) + weights, 1.0, rtol=1e-12)

    def test_a_compiled_weight_keeps_its_digits(self, average):
        expected = average.weight(self.STEPS)
        for compiler in compiled.compilers().values():
            found = compiled.values(average.weight, self.STEPS, compiler)
            np.testing.assert_allclose(found, expected, rtol=2e-6)

    def test_numbers_arrays_and_tensors_agree(self, average):
        array = average(self.STEPS[:6])
        numbers = [float(average(int(step))) for step in self.STEPS[:6]]
        np.testing.assert_allclose(numbers, array, atol=1e-7)

    def test_config(self, average):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(average)))
        assert keras.saving.deserialize_keras_object(config) == average

    def test_a_thinned_one_reaches_as_far_back(self, average):
        # Of values that change slowly, one in ten tells as much.
        values = np.sin(np.arange(3000) / 500.0)
        if type(average) is A.WarmupAverage:
            values = np.concatenate([np.zeros(3000) + values[0], values])
        dense = averaged(average, values, initial=values[0])
        thinned = averaged(average.thinned(10), values[9::10], initial=values[0])
        assert thinned == pytest.approx(dense, abs=0.02)


def test_a_debiased_average_of_one_value_is_that_value():
    for average in AVERAGES:
        if getattr(average, "debias", True) and not isinstance(
            average, A.WarmupAverage
        ):
            assert average.weight(0) == 1.0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: A.ExponentialAverage(1.0), "decay"),
        (lambda: A.ExponentialAverage(-0.1), "decay"),
        (lambda: A.ExponentialAverage(half_life=0.0), "half_life"),
        (lambda: A.ExponentialAverage(0.9, half_life=10.0), "decay"),
        (lambda: A.PolynomialAverage(-1.0), "power"),
        (lambda: A.WarmupAverage(1.0), "decay"),
        (lambda: A.PowerFunctionAverage(0.0), "sigma_rel"),
        (lambda: A.PowerFunctionAverage(0.3), "sigma_rel"),
        (lambda: A.UniformAverage().thinned(0), "every"),
    ],
)
def test_bad_arguments(make, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        make()
