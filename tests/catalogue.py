"""One list of schedules for the laws: every exported class, in its variants.

A new class is tested by adding a line; `test_laws.py` fails for one that has none.
"""

import keras

import keras_lrs as lrs

S = lrs.schedules


@keras.saving.register_keras_serializable(package="keras_lrs_tests")
def inverse(step):
    return 0.1 / (step + 1.0)


@keras.saving.register_keras_serializable(package="keras_lrs_tests")
class Foreign(keras.optimizers.schedules.LearningRateSchedule):
    """A user's schedule, as the Keras guide writes them."""

    def __init__(self, initial_learning_rate):
        self.initial_learning_rate = initial_learning_rate

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        return self.initial_learning_rate / (1.0 + step)

    def get_config(self):
        return {"initial_learning_rate": self.initial_learning_rate}


def _decays(cls, **variants):
    return [
        cls(0.1, 100),
        cls(0.1, 37, 0.001),
        cls(0.01, 55, 0.2),
        *(cls(0.1, 100, **{name: value}) for name, value in variants.items()),
    ]


KERAS_COSINE = keras.optimizers.schedules.CosineDecay(
    0.0, 50, warmup_target=0.1, warmup_steps=5
)

BOUND: dict[str, list] = {
    "BoundedExponentialDecay": [
        S.BoundedExponentialDecay(0.1, 100, 1e-4),
        S.BoundedExponentialDecay(0.1, 100, 1e-4, updates=10),
        S.BoundedExponentialDecay(0.1, 101, 1e-4, updates=7),
        S.BoundedExponentialDecay(0.001, 50, 0.1),
    ],
    "ChebyshevFractal": [
        S.ChebyshevFractal(1.0, 20.0, 8),
        S.ChebyshevFractal(0.5, 0.5, 1),
    ],
    "Clipped": [
        S.Clipped(S.CosineAnnealing(0.1, 60), minimum=0.01),
        S.Clipped(S.LinearDecay(0.1, 60), maximum=0.05),
        S.Clipped(Foreign(0.1), 0.01, 0.05),
    ],
    "Constant": [S.Constant(0.1), S.Constant(0)],
    "CosineAnnealing": _decays(S.CosineAnnealing, k=1.5),
    "CosineRestarts": [
        S.CosineRestarts(0.05, 10),
        S.CosineRestarts(0.05, 7, t_mul=1.5, m_mul=0.8, end_learning_rate=0.001),
        S.CosineRestarts(0.05, 20, t_mul=1.0, m_mul=0.5),
        S.CosineRestarts(0.05, 10, num_cycles=3),
        S.CosineRestarts(0.05, t_mul=1.0, num_cycles=4, total_steps=50),
        S.CosineRestarts(0.05, t_mul=2.0, num_cycles=3, total_steps=100),
    ],
    "CyclicalLearningRate": [
        S.CyclicalLearningRate(0.001, 0.006, 20),
        S.CyclicalLearningRate(0.001, 0.006, 20, mode="triangular2"),
        S.CyclicalLearningRate(0.001, 0.006, 20, mode="exp_range", gamma=0.99),
        S.CyclicalLearningRate(0.001, 0.006, 5, step_size_down=15),
    ],
    "Delayed": [S.Delayed(S.LinearDecay(0.1, 50), 50), S.Delayed(KERAS_COSINE, 10)],
    "ExponentialDecay": [
        S.ExponentialDecay(0.1, 10, 0.9),
        S.ExponentialDecay(0.1, 10, 0.9, staircase=True),
        S.ExponentialDecay(0.1, 10, 1.1),
    ],
    "ExponentialGrowth": [
        S.ExponentialGrowth(1e-3, 0.05),
        S.ExponentialGrowth(1e-30, 10.0),
        S.ExponentialGrowth(0.1, 0.0),
    ],
    "FlatCosine": [S.FlatCosine(0.1, 80), S.FlatCosine(0.1, 80, 0.5, 0.01)],
    "FunctionSchedule": [S.FunctionSchedule(inverse)],
    "InverseSqrtDecay": [S.InverseSqrtDecay(0.1), S.InverseSqrtDecay(0.1, 100)],
    "InverseTimeDecay": [
        S.InverseTimeDecay(0.1, 10, 0.5),
        S.InverseTimeDecay(0.1, 10, 0.5, staircase=True),
    ],
    "LinearDecay": _decays(S.LinearDecay),
    "MultiStepDecay": [
        S.MultiStepDecay(0.1, [50, 75]),
        S.MultiStepDecay(0.1, list(range(1, 200)), 0.99),
    ],
    "NoamDecay": [S.NoamDecay(512, 40), S.NoamDecay(64, 1, 2.0)],
    "Noisy": [
        S.Noisy(S.CosineAnnealing(0.1, 90), 0.2),
        S.Noisy(S.Constant(0.1), 0.0, seed=7),
    ],
    "OneCycle": [
        S.OneCycle(0.1, 100),
        S.OneCycle(0.1, 100, shape="linear", three_phase=True),
        S.OneCycle(0.1, 90, warmup_fraction=0.0),
        S.OneCycle(0.1, 90, warmup_fraction=1.0),
    ],
    "OneMinusSqrtDecay": _decays(S.OneMinusSqrtDecay),
    "PhasedCosine": [S.PhasedCosine([10, 20], [0.1, 0.05], [0.01, 0.001])],
    "PiecewiseConstant": [
        S.PiecewiseConstant([10, 20], [0.1, 0.05, 0.01]),
        S.PiecewiseConstant([], [0.1]),
        S.PiecewiseConstant(range(1, 3000), [1.0 / (i + 1) for i in range(3000)]),
    ],
    "PiecewiseInterpolation": [
        S.PiecewiseInterpolation([0, 10, 30], [0.0, 0.1, 0.05]),
        S.PiecewiseInterpolation([5, 10, 30, 31], [0.01, 0.1, 0.05, 0.1], "cosine"),
        S.PiecewiseInterpolation([0, 40], [1e-4, 0.1], "exponential"),
    ],
    "PolynomialDecay": _decays(S.PolynomialDecay, power=2.0, k=3.0),
    "PowerDecay": [S.PowerDecay(0.02, 0.1), S.PowerDecay(1.0, 1.0, -1.0)],
    "Product": [
        S.Product([S.LinearDecay(1.0, 80), S.StepDecay(0.1, 30)]),
        S.Product([Foreign(1.0), S.Constant(0.5)]),
    ],
    "REXDecay": _decays(S.REXDecay, beta=0.9),
    "Sum": [
        S.Sum([S.LinearDecay(1.0, 80), S.StepDecay(0.1, 30)]),
        S.Sum([Foreign(1.0), S.Constant(0.5)]),
    ],
    "Restarts": [
        S.Restarts(S.REXDecay(0.1), 20),
        S.Restarts(S.Warmup(S.CosineAnnealing(0.1), S.Fraction(0.2)), 15, t_mul=2.0),
        S.Restarts(S.LinearDecay(0.1, None, 0.01), 10, 1.1, 0.9, num_cycles=4),
        S.Restarts(S.OneCycle(0.1), t_mul=1.3, num_cycles=3, total_steps=97),
        S.Restarts(S.CosineRestarts(0.1, S.Fraction(0.5), t_mul=1.0), 40),
        S.Restarts(S.Sequential([S.Constant(0.1), S.TanhDecay(0.1)], [5]), 12, 1.5),
    ],
    "Sampled": [
        S.Sampled(S.REXDecay(0.1, 100), every=25),
        S.Sampled(S.LinearDecay(0.1, 100), at=[50, 75]),
        S.Sampled(KERAS_COSINE, every=3),
    ],
    "Scaled": [S.Scaled(S.LinearDecay(1.0, 70), 0.1), S.Scaled(KERAS_COSINE, 2)],
    "Sequential": [
        S.Sequential([S.Constant(0.1), S.LinearDecay(0.1, 10)], [5]),
        S.Sequential([S.LinearDecay(0.0, 9, 0.1), KERAS_COSINE, Foreign(0.1)], [9, 70]),
        S.Sequential([S.REXDecay(0.1, 10)], []),
        S.Sequential([S.Constant(1.0), S.Constant(0.1)], [0]),
    ],
    "StepDecay": [S.StepDecay(0.1, 30), S.StepDecay(0.1, 3, 0.9)],
    "TanhDecay": _decays(S.TanhDecay, lower=-4.0, upper=4.0),
    "Warmup": [
        *(
            S.Warmup(S.CosineAnnealing(0.1, 50), 10, 0.01, shape)
            for shape in ("linear", "cosine", "exponential", "polynomial", "constant")
        ),
        S.Warmup(S.CosineRestarts(0.1, 10), 5),
        S.Warmup(Foreign(0.1), 5, 0.5),
        S.Warmup(S.LinearDecay(0.1, 50), 0),
    ],
    "WarmupStableDecay": [
        S.WarmupStableDecay(0.1, 10, 20, 100, 0.001, shape)
        for shape in ("1-sqrt", "linear", "cosine", "exponential", "rex")
    ],
}


SCHEDULES = [schedule for variants in BOUND.values() for schedule in variants]


def holds_a_keras_schedule(schedule):
    """Keras's float32 cosine is no better than 1e-5."""
    return "CosineDecay object" in repr(schedule)


EPOCHS, FRACTION = S.Epochs(1.5), S.Fraction(0.3)
SAMPLES, TOKENS = S.Samples(20, per_step=8), S.Tokens(1000, per_step=256)

OPEN = [
    S.LinearDecay(0.1),
    S.CosineAnnealing(0.1, FRACTION),
    S.REXDecay(0.1, EPOCHS),
    S.BoundedExponentialDecay(0.1, None, 1e-3, updates=2),
    S.ExponentialDecay(0.1, EPOCHS, 0.9),
    S.InverseTimeDecay(0.1, EPOCHS, 0.9),
    S.StepDecay(0.1, FRACTION),
    S.InverseSqrtDecay(0.1, EPOCHS),
    S.NoamDecay(64, FRACTION),
    S.MultiStepDecay(0.1, [FRACTION, S.Fraction(0.6)]),
    S.PiecewiseConstant([EPOCHS, S.Epochs(2)], [0.1, 0.2, 0.3]),
    S.PiecewiseInterpolation([0, FRACTION, S.Fraction(1)], [0.1, 0.2, 0.3]),
    S.Warmup(S.LinearDecay(0.1), EPOCHS),
    S.Warmup(S.WarmupStableDecay(0.1, 0, FRACTION), FRACTION),
    S.Delayed(S.TanhDecay(0.1), FRACTION),
    S.Sequential([S.LinearDecay(0.1), S.LinearDecay(0.1)], [S.Fraction(0.5)]),
    S.Sampled(S.LinearDecay(0.1), every=S.Fraction(0.1)),
    S.Sampled(S.LinearDecay(0.1), at=[S.Fraction(0.5), S.Fraction(0.75)]),
    S.Scaled(S.LinearDecay(0.1), 2.0),
    S.Product([S.LinearDecay(0.1), S.CosineAnnealing(1.0)]),
    S.Sum([S.LinearDecay(0.1), S.CosineAnnealing(1.0)]),
    S.Clipped(S.LinearDecay(0.1), 0.01),
    S.Noisy(S.LinearDecay(0.1), 0.1),
    S.Restarts(S.LinearDecay(0.1)),
    S.Restarts(S.LinearDecay(0.1, EPOCHS), FRACTION, t_mul=2.0),
    S.Restarts(S.Warmup(S.CosineAnnealing(0.1), EPOCHS), EPOCHS),
    S.CosineRestarts(0.1, EPOCHS),
    S.CosineRestarts(0.1, t_mul=2.0, num_cycles=2),
    S.PhasedCosine([FRACTION, S.Fraction(0.7)], [0.2, 0.1], [0.1, 0.0]),
    S.CyclicalLearningRate(0.1, 0.2, EPOCHS),
    S.CyclicalLearningRate(0.1, 0.2, FRACTION, step_size_down=EPOCHS),
    S.OneCycle(0.1),
    S.OneCycle(0.1, EPOCHS, three_phase=True),
    S.WarmupStableDecay(0.1, EPOCHS, FRACTION),
    S.WarmupStableDecay(0.1, FRACTION, S.Fraction(0.7), shape="rex"),
    S.FlatCosine(0.1),
    S.Warmup(S.CosineAnnealing(0.1), SAMPLES),
    S.StepDecay(0.1, TOKENS),
    S.PiecewiseConstant([SAMPLES, TOKENS, S.Samples(99, 8)], [0.1, 0.2, 0.3, 0.4]),
    S.Sampled(S.LinearDecay(0.1), every=S.Samples(24, per_step=8)),
    S.Restarts(S.Warmup(S.CosineAnnealing(0.1), SAMPLES), TOKENS),
    S.Restarts(S.Warmup(S.CosineAnnealing(0.1), SAMPLES), FRACTION, t_mul=2.0),
    S.WarmupStableDecay(0.1, SAMPLES, FRACTION),
]

# The steps that an open schedule needs, where that is more than one.
SHORTEST = {
    S.WarmupStableDecay(0.1, EPOCHS, FRACTION): 5,  # 3 steps of warmup, 30 % cooldown.
    S.CosineRestarts(0.1, t_mul=2.0, num_cycles=2): 2,
    S.WarmupStableDecay(0.1, SAMPLES, FRACTION): 5,
}
