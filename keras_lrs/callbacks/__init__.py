"""Callbacks for `model.fit`, and base classes for your own."""

from keras_lrs._step.part import StepPart, Wanted
from keras_lrs.callbacks.averaged_evaluation import AveragedEvaluation
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.gradient_norm_recorder import GradientNormRecorder
from keras_lrs.callbacks.hyperparameter_logger import HyperparameterLogger
from keras_lrs.callbacks.hyperparameter_scheduler import HyperparameterScheduler
from keras_lrs.callbacks.one_cycle_scheduler import OneCycleScheduler
from keras_lrs.callbacks.posthoc_averaging import PosthocAveraging
from keras_lrs.callbacks.reduce_on_plateau import ReduceOnPlateau
from keras_lrs.callbacks.resumable_training import ResumableTraining
from keras_lrs.callbacks.snapshot_ensemble import SnapshotEnsemble
from keras_lrs.callbacks.variable_scheduler import VariableScheduler
from keras_lrs.callbacks.weight_averaging import WeightAveraging

__all__ = [
    "AveragedEvaluation",
    "FitCallback",
    "GradientNormRecorder",
    "HyperparameterLogger",
    "HyperparameterScheduler",
    "OneCycleScheduler",
    "PosthocAveraging",
    "ReduceOnPlateau",
    "ResumableTraining",
    "SnapshotEnsemble",
    "StepPart",
    "VariableScheduler",
    "Wanted",
    "WeightAveraging",
]
