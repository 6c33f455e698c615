"""Callbacks for `model.fit`."""

from keras_lrs.callbacks.hyperparameter_scheduler import HyperparameterScheduler
from keras_lrs.callbacks.one_cycle_scheduler import OneCycleScheduler

__all__ = ["HyperparameterScheduler", "OneCycleScheduler"]
