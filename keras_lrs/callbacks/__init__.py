"""Callbacks for `model.fit`."""

from keras_lrs.callbacks.hyperparameter_logger import HyperparameterLogger
from keras_lrs.callbacks.hyperparameter_scheduler import HyperparameterScheduler
from keras_lrs.callbacks.one_cycle_scheduler import OneCycleScheduler
from keras_lrs.callbacks.reduce_on_plateau import ReduceOnPlateau
from keras_lrs.callbacks.snapshot_ensemble import SnapshotEnsemble

__all__ = [
    "HyperparameterLogger",
    "HyperparameterScheduler",
    "OneCycleScheduler",
    "ReduceOnPlateau",
    "SnapshotEnsemble",
]
