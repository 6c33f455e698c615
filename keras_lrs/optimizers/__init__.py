"""Optimizers that need no schedule, or hold their own schedules."""

from keras_lrs.optimizers.makers import ScheduleFreeAdamW, ScheduleFreeSGD
from keras_lrs.optimizers.schedule_free import ScheduleFree
from keras_lrs.optimizers.scheduled import Scheduled

__all__ = ["ScheduleFree", "ScheduleFreeAdamW", "ScheduleFreeSGD", "Scheduled"]
