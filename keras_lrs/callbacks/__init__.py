"""Callbacks for `model.fit`."""

from keras_lrs.callbacks.averaged_evaluation import AveragedEvaluation
from keras_lrs.callbacks.gradient_norm_recorder import GradientNormRecorder
from keras_lrs.callbacks.hyperparameter_logger import HyperparameterLogger
from keras_lrs.callbacks.hyperparameter_scheduler import HyperparameterScheduler
from keras_lrs.callbacks.one_cycle_scheduler import OneCycleScheduler
from keras_lrs.callbacks.posthoc_averaging import PosthocAveraging
from keras_lrs.callbacks.reduce_on_plateau import ReduceOnPlateau
from keras_lrs.callbacks.resumable_training import ResumableTraining
from keras_lrs.callbacks.snapshot_ensemble import SnapshotEnsemble
from keras_lrs.callbacks.weight_averaging import WeightAveraging

__all__ = [
    "AveragedEvaluation",
    "GradientNormRecorder",
    "HyperparameterLogger",
    "HyperparameterScheduler",
    "OneCycleScheduler",
    "PosthocAveraging",
    "ReduceOnPlateau",
    "ResumableTraining",
    "SnapshotEnsemble",
    "WeightAveraging",
]
