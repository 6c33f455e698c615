"""Learning-rate schedules for Keras 3, exact and evaluated in the training step."""

from keras_lrs import (
    averages,
    callbacks,
    checkpoints,
    ensembles,
    optimizers,
    schedules,
    tuning,
)
from keras_lrs.callbacks.layerwise import layerwise_decay
from keras_lrs.callbacks.plateau import Plateau
from keras_lrs.schedules.durations import Epochs, Fraction, Samples, Tokens
from keras_lrs.schedules.per_variable import PerVariable
from keras_lrs.schedules.plotting import plot_schedules

__version__ = "0.2.0"

__all__ = [
    "Epochs",
    "Fraction",
    "PerVariable",
    "Plateau",
    "Samples",
    "Tokens",
    "__version__",
    "averages",
    "callbacks",
    "checkpoints",
    "ensembles",
    "layerwise_decay",
    "optimizers",
    "plot_schedules",
    "schedules",
    "tuning",
]
