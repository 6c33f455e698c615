"""Learning-rate schedules for Keras 3, exact and evaluated in the compiled step."""

from keras_lrs import averages, callbacks, schedules, tuning
from keras_lrs.plotting import plot_schedules
from keras_lrs.schedules.durations import Epochs, Fraction

__version__ = "0.1.0"

__all__ = [
    "Epochs",
    "Fraction",
    "__version__",
    "averages",
    "callbacks",
    "plot_schedules",
    "schedules",
    "tuning",
]
