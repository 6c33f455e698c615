"""`AveragedEvaluation`: shows an optimizer's own averages to all but training."""

from typing import Any

from keras_lrs._fit.registry import build_optimizer
from keras_lrs._fit.run import Run
from keras_lrs._keras import models, optimizers
from keras_lrs._step.part import Wanted
from keras_lrs.callbacks.swapping import SwappingCallback
from keras_lrs.optimizers.schedule_free import ScheduleFree


class AveragedEvaluation(SwappingCallback):
    """Puts the averages of `ScheduleFree` into the model, except in training.

    Validation, callbacks at the end of an epoch (`ModelCheckpoint`, `EarlyStopping`,
    ...), and `evaluate` and `predict` with this callback use the average `x`. Gradients
    are computed at `y`. So the weights that are measured, saved and restored are the
    same, whatever the order of the callbacks. `BackupAndRestore` backs up `y`. Files of
    the whole model hold both, and training resumes from `y`.

    Args:
        at_end: What the model holds after `fit`: `"average"`, or `"raw"` for `y`. If
            `fit` is interrupted, it holds `y`.
        batch_norm: The statistics that go with the average: `"keep"`, those of the raw
            weights; or `"recalibrate"`, those of `x`, computed in a pass over
            `batch_norm_data` each time that a new `x` is put into the model.
        batch_norm_data: Inputs, as `averages.recalibrate_batch_norm` takes them.
        batch_norm_steps: How many batches of them to use; None uses all.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range. Before the first step: if the model
            is not built, if no optimizer is a `ScheduleFree`, or if the list has
            another callback that swaps weights.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.callbacks import AveragedEvaluation
        >>> from keras_lrs.optimizers import ScheduleFree
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(ScheduleFree(keras.optimizers.SGD(0.5)), "mse")
        >>> x = np.linspace(-1, 1, 20)[:, None].astype("float32")
        >>> history = model.fit(
        ...     x, 3 * x, 4, epochs=20, shuffle=False, verbose=0,
        ...     validation_data=(x, 3 * x), callbacks=[AveragedEvaluation()],
        ... )
        >>> model.optimizer.uses_average
        True

    Reference: Defazio et al., "The Road Less Scheduled", 2024, arXiv:2405.15682.
    """

    shows_average = True
    """Whether validation sees the average of a `ScheduleFree`."""

    def __init__(
        self,
        at_end: str = "average",
        batch_norm: str = "keep",
        batch_norm_data: Any = None,
        batch_norm_steps: int | None = None,
    ):
        super().__init__(at_end, batch_norm, batch_norm_data, batch_norm_steps)
        self._optimizers: list[ScheduleFree] = []

    def prepare(self, run: Run) -> list[Wanted]:
        """Finds the averages, and begins with the raw weights."""
        wanted = super().prepare(run)
        self._optimizers = _schedule_free(run.model)
        if not self._optimizers:
            raise ValueError(
                "`AveragedEvaluation` needs `keras_lrs.optimizers.ScheduleFree`; use "
                "`WeightAveraging` for other optimizers. Received: "
                f"`{type(run.model.optimizer).__name__}`"
            )
        build_optimizer(self, run.model)
        self.swap_out()
        return wanted

    def swap(self, into: bool) -> None:
        """Gives the model the averages, or the raw weights back."""
        for optimizer in self._optimizers:
            if into:
                optimizer.use_average()
            else:
                optimizer.use_training_weights()

    @property
    def swapped(self) -> bool:
        """Whether the model holds the averages."""
        return any(optimizer.uses_average for optimizer in self._optimizers)

    @property
    def exists(self) -> bool:
        """Whether there is an average."""
        return any(optimizer.built for optimizer in self._optimizers)

    def holds(self, model: Any) -> bool:
        """Whether training has not begun, so that there is nothing to average."""
        found = _schedule_free(model)
        return bool(found) and not _trained(found)

    @property
    def averaged(self) -> list:
        """The variables that are averaged."""
        built = [one for one in self._optimizers if one.built]
        return [variable for one in built for variable in optimizers.trained(one)]

    def look_for_averages(self, model: Any) -> bool:
        """Looks for averages in its optimizers, and in those of an earlier `fit`."""
        found = _schedule_free(model)
        others = [one for one in _trained(models.updating(model)) if one.built]
        moved = {id(v) for one in others for v in optimizers.trained(one)}
        # Weights that another optimizer has trained further are no longer `y`.
        stale = any(id(variable) in moved for variable in self.averaged)
        earlier = not _trained(found) and self.shares_weights(model) and not stale
        if not earlier:
            self._optimizers = found
        return not earlier


def _schedule_free(model):
    """Returns the optimizers of a model that hold averages, even nested ones."""
    found = models.all_optimizers(model)
    return [one for one in found if isinstance(one, ScheduleFree)]


def _trained(found):
    leaves = [(one, optimizers.leaves(one)) for one in found]
    return [one for one, [leaf] in leaves if optimizers.iterations(leaf) > 0]
