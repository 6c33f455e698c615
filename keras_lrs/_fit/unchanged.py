"""Detects changes during a run that its compiled step would ignore."""

from typing import Any

import keras

from keras_lrs._keras import optimizers
from keras_lrs._keras.backend import IS_TORCH


class Unchanged:
    """Raises if a train function or a schedule was replaced during a run.

    Args:
        run: The run, whose train function is installed.
    """

    def __init__(self, run: Any):
        self._model = run.model
        self._optimizer = getattr(run.model, "optimizer", None)
        self._train_function = run.model.train_function
        self._sources = [
            (one, optimizers.rate_source(one)) for one in run.progress.every
        ]

    def check(self, hook: str) -> None:
        """Raises before an epoch or its logs would be wrong."""
        ours, found = self._train_function, self._model.train_function
        # Another function, such as a profiler's, may call ours.
        was_missed = hook == "on_epoch_end" and ours.executions == 0
        if found is not ours and (found is None or was_missed):
            raise RuntimeError(
                "The model was compiled, or `make_train_function` was called, during "
                "training: the callbacks of this `fit` would no longer have an effect. "
                "End it first (`model.stop_training = True`), and continue with "
                "another `fit`, whose `initial_epoch` is the next epoch."
            )
        if getattr(self._model, "optimizer", None) is not self._optimizer:
            raise RuntimeError(
                "`model.optimizer` was replaced during training: the callbacks of this "
                "`fit` would no longer have an effect. End it first "
                "(`model.stop_training = True`), compile the model with the other "
                "optimizer, and continue with another `fit`, whose `initial_epoch` is "
                "the next epoch."
            )
        if IS_TORCH or self._model.run_eagerly:  # Nothing is traced there.
            return
        for one, before in self._sources:
            now = optimizers.rate_source(one)
            if now is not before and (_is_schedule(now) or _is_schedule(before)):
                raise RuntimeError(
                    f"`{one.name}` was given another learning-rate schedule during "
                    "training: the compiled step still uses the previous one. End this "
                    "`fit` first (`model.stop_training = True`), and continue with "
                    "another, whose `initial_epoch` is the next epoch."
                )


def _is_schedule(source):
    return isinstance(source, keras.optimizers.schedules.LearningRateSchedule)
