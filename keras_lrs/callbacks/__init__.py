"""Callbacks for `model.fit`."""

from keras_lrs.callbacks.gradient_norm_recorder import GradientNormRecorder
from keras_lrs.callbacks.hyperparameter_logger import HyperparameterLogger
from keras_lrs.callbacks.hyperparameter_scheduler import HyperparameterScheduler
from keras_lrs.callbacks.one_cycle_scheduler import OneCycleScheduler
from keras_lrs.callbacks.reduce_on_plateau import ReduceOnPlateau
from keras_lrs.callbacks.weight_averaging import WeightAveraging

__all__ = [
    "GradientNormRecorder",
    "HyperparameterLogger",
    "HyperparameterScheduler",
    "OneCycleScheduler",
    "ReduceOnPlateau",
    "WeightAveraging",
]
