"""Optimizers that need no schedule."""

from keras_lrs.optimizers.schedule_free import ScheduleFree

__all__ = ["ScheduleFree"]
