"""Learning-rate schedules: functions of the training step that can be combined."""

from keras_lrs.schedules.base import Composition, Schedule
from keras_lrs.schedules.combinators import (
    Clipped,
    Delayed,
    Noisy,
    Product,
    Sampled,
    Scaled,
    Sequential,
    Sum,
    Warmup,
)
from keras_lrs.schedules.composed import (
    CosineRestarts,
    CyclicalLearningRate,
    FlatCosine,
    OneCycle,
    PhasedCosine,
    WarmupStableDecay,
)
from keras_lrs.schedules.cycles import Restarts
from keras_lrs.schedules.decays import (
    BoundedExponentialDecay,
    CosineAnnealing,
    Decay,
    LinearDecay,
    OneMinusSqrtDecay,
    PolynomialDecay,
    REXDecay,
    TanhDecay,
)
from keras_lrs.schedules.durations import Epochs, Fraction, Samples, Tokens
from keras_lrs.schedules.equivalences import without_weight_decay
from keras_lrs.schedules.open_ended import (
    ChebyshevFractal,
    Constant,
    ExponentialDecay,
    ExponentialGrowth,
    FunctionSchedule,
    InverseSqrtDecay,
    InverseTimeDecay,
    NoamDecay,
    PowerDecay,
    StepDecay,
)
from keras_lrs.schedules.per_variable import PerVariable
from keras_lrs.schedules.piecewise import (
    MultiStepDecay,
    PiecewiseConstant,
    PiecewiseInterpolation,
)
from keras_lrs.schedules.refinement import refined_from_gradient_norms

__all__ = [
    "BoundedExponentialDecay",
    "ChebyshevFractal",
    "Clipped",
    "Composition",
    "Constant",
    "CosineAnnealing",
    "CosineRestarts",
    "CyclicalLearningRate",
    "Decay",
    "Delayed",
    "Epochs",
    "ExponentialDecay",
    "ExponentialGrowth",
    "FlatCosine",
    "Fraction",
    "FunctionSchedule",
    "InverseSqrtDecay",
    "InverseTimeDecay",
    "LinearDecay",
    "MultiStepDecay",
    "NoamDecay",
    "Noisy",
    "OneCycle",
    "OneMinusSqrtDecay",
    "PerVariable",
    "PhasedCosine",
    "PiecewiseConstant",
    "PiecewiseInterpolation",
    "PolynomialDecay",
    "PowerDecay",
    "Product",
    "REXDecay",
    "Restarts",
    "Sampled",
    "Samples",
    "Scaled",
    "Schedule",
    "Sequential",
    "StepDecay",
    "Sum",
    "TanhDecay",
    "Tokens",
    "Warmup",
    "WarmupStableDecay",
    "refined_from_gradient_norms",
    "without_weight_decay",
]
