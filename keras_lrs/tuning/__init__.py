"""Tools for choosing the learning rate."""

from keras_lrs.tuning.batch_size import scale_learning_rate
from keras_lrs.tuning.curve import RangeTest, Suggestions
from keras_lrs.tuning.range_test import range_test
from keras_lrs.tuning.sweep import sweep

__all__ = [
    "RangeTest",
    "Suggestions",
    "range_test",
    "scale_learning_rate",
    "sweep",
]
