"""Bad arguments: every one is refused where it is given, by name, with its value."""

import functools
import math

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import catalogue

S = lrs.schedules
NAN, INF = math.nan, math.inf

NOT_A_RATE = [-0.1, NAN, INF, -INF, 3.402e38, 10**400, "0.1", None, True, [0.1], 1j]
NOT_A_LENGTH = [0, -1, 1.5, NAN, INF, "10", True, [10], 0.5, S.Fraction(0), S.Epochs(0)]
NOT_A_SCHEDULE = [0.1, None, "cosine", lambda step: 0.1, S.LinearDecay]

# A valid call, and for each argument the values that it must refuse.
REFUSED = [
    (S.LinearDecay, {"initial_learning_rate": 0.1, "decay_steps": 10}, {
        "initial_learning_rate": NOT_A_RATE,
        "decay_steps": NOT_A_LENGTH,
        "end_learning_rate": NOT_A_RATE,
    }),
    (S.PolynomialDecay, {"initial_learning_rate": 0.1}, {
        "power": [0, -1, 1001, NAN, INF, "2", None, True],
        "k": [0, -1, 1001, NAN, INF, "2", None, True],
    }),
    (S.CosineAnnealing, {"initial_learning_rate": 0.1}, {"k": [0, -1, NAN, "2"]}),
    (S.REXDecay, {"initial_learning_rate": 0.1}, {"beta": [-0.1, 1, 1.5, NAN, "1"]}),
    (S.TanhDecay, {"initial_learning_rate": 0.1}, {
        "lower": [NAN, INF, "1", -50, 3.0, 4.0],
        "upper": [NAN, INF, "1", 50, -6.0, -7.0],
    }),
    (S.TanhDecay, {"initial_learning_rate": 0.1, "lower": -1e-6, "upper": 0.0}, {
        "lower": [-1e-7, -1e-277],
        "upper": [-1e-7],
    }),
    (S.BoundedExponentialDecay,
     {"initial_learning_rate": 0.1, "decay_steps": 9, "end_learning_rate": 0.01}, {
        "initial_learning_rate": [*NOT_A_RATE, 0, 1e-40],
        "end_learning_rate": [*NOT_A_RATE, 0, 1e-40],
        "updates": [0, -1, 1.5, NAN, "3", True, 2**20 + 1],
    }),
    (S.Constant, {"value": 0.1}, {"value": NOT_A_RATE}),
    (S.ExponentialDecay,
     {"initial_learning_rate": 0.1, "decay_steps": 9, "decay_rate": 0.9}, {
        "initial_learning_rate": NOT_A_RATE,
        "decay_steps": [*NOT_A_LENGTH, None],
        "decay_rate": [0, -1, NAN, INF, "1", None],
        "staircase": [0, 1, "True", None],
    }),
    (S.InverseTimeDecay,
     {"initial_learning_rate": 0.1, "decay_steps": 9, "decay_rate": 0.9}, {
        "decay_steps": [*NOT_A_LENGTH, None],
        "decay_rate": [-1, NAN, INF, "1", None],
        "staircase": [0, "True", None],
    }),
    (S.StepDecay, {"initial_learning_rate": 0.1, "step_size": 3}, {
        "step_size": [*NOT_A_LENGTH, None],
        "decay_rate": [0, -1, NAN, "1", None],
    }),
    (S.MultiStepDecay, {"initial_learning_rate": 0.1, "milestones": [3, 5]}, {
        "milestones": [5, "35", None, [5, 3], [3, 3], [0, 3], [-1], [1.5], [NAN],
                       ["3"], [None], [S.Fraction(0.5), S.Fraction(0.4)],
                       [S.Epochs(2), S.Epochs(2)]],
        "decay_rate": [0, -1, NAN, "1", None],
    }),
    (S.PiecewiseConstant, {"boundaries": [3, 5], "values": [0.1, 0.2, 0.3]}, {
        "boundaries": [[3], [5, 3], [3, 3], [-1, 3], [3, None], 3, None, "35"],
        "values": [[0.1], [0.1, 0.2, -0.3], [0.1, NAN, 0.2], 0.1, None, ["a"] * 3],
    }),
    (S.PiecewiseInterpolation, {"boundaries": [3, 5], "values": [0.1, 0.2]}, {
        "boundaries": [[3], [5, 3], [3, 3], [], 3],
        "values": [[0.1], [0.1, -0.2], [0.1, INF]],
        "interpolation": ["cubic", None, 1, "LINEAR"],
    }),
    (S.PiecewiseInterpolation,
     {"boundaries": [3, 5], "values": [0.1, 0.2], "interpolation": "exponential"},
     {"values": [[0.0, 0.1], [0.1, 0.0], [1e-249, 1.0]]}),
    (S.InverseSqrtDecay, {"initial_learning_rate": 0.1}, {
        "timescale": [*NOT_A_LENGTH, None],
    }),
    (S.NoamDecay, {"model_dim": 8}, {
        "model_dim": [0, -1, 1.5, NAN, "8", True, None],
        "warmup_steps": [*NOT_A_LENGTH, None],
        "factor": [-1, NAN, "1", None, 1e300],
    }),
    (S.ExponentialGrowth, {"initial_learning_rate": 0.1, "growth_rate": 0.1}, {
        "growth_rate": [-0.1, NAN, INF, "1", None],
    }),
    (S.ChebyshevFractal,
     {"min_learning_rate": 0.1, "max_learning_rate": 1.0, "cycle_steps": 4}, {
        "min_learning_rate": [*NOT_A_RATE, 0],
        "max_learning_rate": [*NOT_A_RATE, 0.05],
        "cycle_steps": [0, 3, 6, -4, 2.5, "4", None, True, 2**21],
    }),
    (S.PowerDecay, {"max_learning_rate": 0.1, "scale": 1.0}, {
        "max_learning_rate": NOT_A_RATE,
        "scale": NOT_A_RATE,
        "exponent": [0.5, -9, NAN, "1", None],
    }),
    (S.Warmup, {"schedule": S.Constant(0.1), "warmup_steps": 3}, {
        "schedule": NOT_A_SCHEDULE,
        "warmup_steps": [-1, 1.5, NAN, "3", None, True],
        "initial_fraction": [-0.1, 1.1, NAN, "0", None],
        "shape": ["quadratic", None, 1],
        "power": [0, -1, NAN, "1", None],
    }),
    (S.Warmup, {"schedule": S.Constant(0.1), "warmup_steps": 3,
                "shape": "exponential", "initial_fraction": 0.1},
     {"initial_fraction": [0, -1, 1e-38, 6e-201]}),
    (S.Delayed, {"schedule": S.Constant(0.1), "delay_steps": 3}, {
        "schedule": NOT_A_SCHEDULE,
        "delay_steps": [-1, 1.5, NAN, "3", None, True],
    }),
    (S.Sequential, {"schedules": [S.Constant(0.1)] * 2, "boundaries": [3]}, {
        "schedules": [[], [S.Constant(0.1)], S.Constant(0.1), None, [0.1, 0.2]],
        "boundaries": [[], [3, 5], [-1], [1.5], 3, None, [None]],
    }),
    (S.Sampled, {"schedule": S.Constant(0.1), "every": 3}, {
        "schedule": NOT_A_SCHEDULE,
        "every": [*NOT_A_LENGTH, None],
        "at": [[3], [1, 2]],
    }),
    (S.Sampled, {"schedule": S.Constant(0.1), "at": [3, 5]}, {
        "at": [[5, 3], [3, 3], [0], [-1], 3, "35", None],
    }),
    (S.Scaled, {"schedule": S.Constant(0.1), "factor": 3}, {
        "schedule": NOT_A_SCHEDULE,
        "factor": NOT_A_RATE,
    }),
    (S.Product, {"schedules": [S.Constant(0.1)]}, {
        "schedules": [[], None, S.Constant(0.1), [0.1], ["a"]],
    }),
    (S.Sum, {"schedules": [S.Constant(0.1)]}, {
        "schedules": [[], None, S.Constant(0.1), [0.1], ["a"]],
    }),
    (S.Clipped, {"schedule": S.Constant(0.1), "minimum": 0.1, "maximum": 0.2}, {
        "schedule": NOT_A_SCHEDULE,
        "minimum": [-0.1, NAN, "0", True, 0.3, 1e300],
        "maximum": [-0.1, NAN, "0", True, 0.05, 1e300],
    }),
    (S.Clipped, {"schedule": S.Constant(0.1), "minimum": 0.1}, {"minimum": [None]}),
    (S.Noisy, {"schedule": S.Constant(0.1), "stddev": 0.1}, {
        "schedule": NOT_A_SCHEDULE,
        "stddev": [-0.1, NAN, "0", None],
        "limit": [0, 1, -0.5, NAN, None],
        "seed": [-1, 1.5, 2**31, "0", None, True],
    }),
    (S.FunctionSchedule, {"function": catalogue.inverse}, {
        "function": [lambda step: 0.1, math.cos, None, "inverse", 0.1,
                     functools.partial(max, 1), S.LinearDecay, S.Constant(0.1)],
    }),
    (S.Restarts, {"schedule": S.LinearDecay(0.1), "first_cycle_steps": 9}, {
        "schedule": NOT_A_SCHEDULE,
        "first_cycle_steps": NOT_A_LENGTH,
        "t_mul": [0.9, 0, -1, NAN, INF, "2", None],
        "m_mul": [0, -1, NAN, INF, "2", None],
        "num_cycles": [0, -1, 1.5, "2", True],
        "total_steps": [100],
    }),
    (S.Restarts, {"schedule": S.LinearDecay(0.1), "num_cycles": 5, "total_steps": 9}, {
        "num_cycles": [10],
        "total_steps": [0, 3, -1, "9", True],
    }),
    (S.CosineRestarts, {"initial_learning_rate": 0.1, "first_decay_steps": 10}, {
        "initial_learning_rate": NOT_A_RATE,
        "first_decay_steps": NOT_A_LENGTH,
        "t_mul": [0.9, NAN, "2", None],
        "m_mul": [0, NAN, "2", None],
        "end_learning_rate": NOT_A_RATE,
        "num_cycles": [0, 1.5, "2"],
        "total_steps": [100],
    }),
    (S.PhasedCosine, {"phase_steps": [3, 4], "max_learning_rates": [0.2, 0.1],
                      "min_learning_rates": [0.1, 0.0]}, {
        "phase_steps": [[3], [3, 0], [3, -1], [], None, 3, [3, None], [3, "4"]],
        "max_learning_rates": [[0.2], [0.2, -0.1], [0.05, 0.1], None, 0.2],
        "min_learning_rates": [[0.1], [0.1, 0.2], [NAN, 0.1], None],
    }),
    (S.CyclicalLearningRate, {"initial_learning_rate": 0.1,
                              "maximal_learning_rate": 0.2, "step_size": 4}, {
        "initial_learning_rate": [*NOT_A_RATE, 0.3],
        "maximal_learning_rate": [*NOT_A_RATE, 0.05],
        "step_size": [*NOT_A_LENGTH, None],
        "mode": ["triangle", None, 2],
        "gamma": [0, -1, 1.1, NAN, None],
        "step_size_down": NOT_A_LENGTH,
    }),
    (S.OneCycle, {"max_learning_rate": 0.1, "total_steps": 10}, {
        "max_learning_rate": NOT_A_RATE,
        "total_steps": NOT_A_LENGTH,
        "warmup_fraction": [-0.1, 1.1, NAN, "0.3", None],
        "div_factor": [0, 0.5, -1, NAN, INF, None],
        "final_div_factor": [0, 0.5, -1, NAN, INF, None],
        "shape": ["cos", None, 1],
        "three_phase": [1, "True", None],
    }),
    (S.OneCycle, {"max_learning_rate": 0.1, "three_phase": True}, {
        "warmup_fraction": [0.6, 1.0],
    }),
    (S.WarmupStableDecay, {"peak_learning_rate": 0.1, "warmup_steps": 10,
                           "decay_steps": 10, "total_steps": 20}, {
        "peak_learning_rate": NOT_A_RATE,
        "warmup_steps": [-1, 11, 1.5, "1", None, True],
        "decay_steps": [*NOT_A_LENGTH, 11, None],
        "total_steps": [*NOT_A_LENGTH, 19],
        "end_learning_rate": NOT_A_RATE,
        "shape": ["sqrt", None],
    }),
    (S.WarmupStableDecay, {"peak_learning_rate": 0.1, "warmup_steps": 1,
                           "decay_steps": 1, "shape": "exponential",
                           "end_learning_rate": 0.01}, {
        "end_learning_rate": [0.0, 5e-324, 1e-38],
        "peak_learning_rate": [0.0, 5e-324, 1e-38],
    }),
    (S.FlatCosine, {"initial_learning_rate": 0.1}, {
        "decay_steps": NOT_A_LENGTH,
        "flat_fraction": [-0.1, 1.1, NAN, "1", None],
        "end_learning_rate": NOT_A_RATE,
    }),
    (S.Epochs, {"epochs": 3}, {"epochs": [-1, NAN, INF, "3", None, True]}),
    (S.Fraction, {"fraction": 0.3}, {"fraction": [-0.1, 1.1, NAN, "0", None, True]}),
    (
        S.Samples,
        {"samples": 3},
        {"samples": [-1, 1.5, NAN, "3", None, True], "per_step": [0, -1, 1.5, "3"]},
    ),
    (
        S.Tokens,
        {"tokens": 3},
        {"tokens": [-1, 1.5, NAN, "3", None, True], "per_step": [0, -1, 1.5, "3"]},
    ),
]  # fmt: skip

CASES = [
    pytest.param(cls, valid, name, value, id=f"{cls.__name__}-{name}-{number}")
    for cls, valid, arguments in REFUSED
    for name, values in arguments.items()
    for number, value in enumerate(values)
]


@pytest.mark.parametrize(("cls", "valid", "name", "value"), CASES)
def test_a_bad_argument_is_refused_by_name_and_value(cls, valid, name, value):
    cls(**valid)
    with pytest.raises((ValueError, TypeError)) as raised:
        cls(**{**valid, name: value})
    message = str(raised.value)
    assert f"`{name}`" in message or f"{name}=" in message
    assert "Received: " in message


def test_every_argument_of_every_class_is_checked():
    checked = {(cls, name) for cls, _, arguments in REFUSED for name in arguments}
    inherited = {"initial_learning_rate", "decay_steps", "end_learning_rate"}
    for class_name, variants in catalogue.BOUND.items():
        cls = getattr(lrs.schedules, class_name)
        for name in variants[0].get_config():
            by_decay = issubclass(cls, S.Decay) and name in inherited
            known = (cls, name) in checked or by_decay
            shared = name == "initial_learning_rate"  # The same field everywhere.
            assert known or shared, f"{class_name}.{name}"


def test_the_error_states_the_constraint_and_then_the_value():
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the text is compared)
        S.LinearDecay(0.1, decay_steps=-1)
    expected = "Argument `decay_steps` must be > 0. Received: decay_steps=-1"
    assert str(raised.value) == expected


def test_an_unknown_argument_in_a_config_is_refused():
    with pytest.raises(ValueError, match="REXDecay has no argument `gamma`"):
        S.REXDecay.from_config({"initial_learning_rate": 0.1, "gamma": 0.5})


def test_numbers_of_every_kind_mean_the_same():
    schedule = S.LinearDecay(1.0, 100)
    assert S.LinearDecay(1, 100) == schedule
    assert S.LinearDecay(np.float32(1), np.int64(100)) == schedule
    assert S.LinearDecay(1, 1e2) == schedule
    values = np.array([1.0, 0.5], dtype="float32")
    table = S.PiecewiseConstant(np.array([10]), values)
    assert table == S.PiecewiseConstant([10], [1, 0.5])
    assert table.values == (1.0, 0.5)


def test_a_lambda_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"must not be a lambda.*never loaded again"):
        S.FunctionSchedule(lambda step: 0.1)
    with pytest.raises(ValueError, match="must be registered with Keras"):
        S.FunctionSchedule(math.cos)


# --- Numbers in arrays and tensors ---


def _numbers(value, dtype):
    return [
        np.array(value, dtype),
        keras.ops.convert_to_tensor(value, dtype),
        keras.Variable(value, dtype=dtype, trainable=False),
    ]


@pytest.mark.every_backend
def test_a_number_may_be_an_array_or_a_tensor_without_dimensions():
    expected = S.Warmup(S.LinearDecay(0.25, 10, 0.125), 5, power=3)
    numbers = (_numbers(0.25, "float32"), _numbers(0.125, "float32"))
    steps = (_numbers(10, "int32"), _numbers(5, "int32"))
    for rate, end, n, w in zip(*numbers, *steps, strict=True):
        made = S.Warmup(S.LinearDecay(rate, n, end), w, power=np.array(3))
        assert made == expected
        assert made.get_config() == expected.get_config()
        assert (S.Fraction(rate), S.Epochs(w)) == (S.Fraction(0.25), S.Epochs(5))
        assert lrs.Plateau(factor=rate, patience=w).rule.patience == 5
        assert lrs.averages.ExponentialAverage(rate).decay == 0.25


@pytest.mark.parametrize("value", [np.array(True), np.array("1"), np.array(1j)])
def test_an_array_of_something_else_is_no_number(value):
    with pytest.raises(TypeError, match="`value` must be a number"):
        S.Constant(value)


def test_a_vector_is_no_number():
    with pytest.raises(TypeError, match="`value` must be a number"):
        S.Constant(np.array([0.1]))
