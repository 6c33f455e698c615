"""Averages of weights: their schedules, and tools to compute and use them."""

from keras_lrs.averages.averager import Averager
from keras_lrs.averages.batch_norm import recalibrate_batch_norm
from keras_lrs.averages.posthoc import posthoc_coefficients
from keras_lrs.averages.reconstruction import posthoc
from keras_lrs.averages.schedules import (
    Average,
    ExponentialAverage,
    PolynomialAverage,
    PowerFunctionAverage,
    UniformAverage,
    WarmupAverage,
)

__all__ = [
    "Average",
    "Averager",
    "ExponentialAverage",
    "PolynomialAverage",
    "PowerFunctionAverage",
    "UniformAverage",
    "WarmupAverage",
    "posthoc",
    "posthoc_coefficients",
    "recalibrate_batch_norm",
]
