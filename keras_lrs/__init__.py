"""Learning-rate schedules for Keras 3, exact and evaluated in the compiled step."""

from keras_lrs import averages, callbacks, ensembles, optimizers, schedules, tuning
from keras_lrs.callbacks.plateau import Plateau
from keras_lrs.schedules.durations import Epochs, Fraction
from keras_lrs.schedules.plotting import plot_schedules

__version__ = "0.1.0"

__all__ = [
    "Epochs",
    "Fraction",
    "Plateau",
    "__version__",
    "averages",
    "callbacks",
    "ensembles",
    "optimizers",
    "plot_schedules",
    "schedules",
    "tuning",
]
