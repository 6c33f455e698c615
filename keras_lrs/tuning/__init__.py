"""Ways to choose the learning rate."""

from keras_lrs.tuning.range_test import RangeTest, Suggestions, range_test

__all__ = [
    "RangeTest",
    "Suggestions",
    "range_test",
]
