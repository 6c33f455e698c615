"""The best weights by a metric, to which a run returns when the rate is reduced."""

from typing import Any

import keras
import numpy as np

from keras_lrs._fit.run import Run
from keras_lrs._keras import optimizers, variables
from keras_lrs.callbacks.plateau import PlateauState
from keras_lrs.callbacks.swapping import SwappingCallback


class BestWeights:
    """A copy of a model's weights at the best look so far."""

    def __init__(self) -> None:
        self._best: float | None = None
        self._values: list[np.ndarray] = []

    def look(self, model: Any, before: PlateauState, after: PlateauState) -> None:
        """Copies the weights at the best look, and restores them at a reduction."""
        if after.best != before.best:
            self._best, self._values = after.best, variables.read(model.weights)
        elif after.factor < before.factor and after.best is not None:
            variables.write(model.weights, self._values)

    def check(self, best: float | None) -> None:
        """Raises if the copy does not belong to the best value so far."""
        if best is not None and best != self._best:
            raise ValueError(
                "`ReduceOnPlateau(restore_best_weights=True)` cannot resume without "
                "the weights of the best epoch, which this run does not have: use "
                f"`ResumableTraining`. Received: {best:g}, the best value so far"
            )

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        return {"best": self._best, "values": self._values}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what a checkpoint holds."""
        self._best, self._values = state["best"], list(state["values"])


def check(run: Run) -> None:
    """Raises if it is not enough to restore the model's weights."""
    for other in run.siblings:
        if isinstance(other, (SwappingCallback, keras.callbacks.SwapEMAWeights)):
            raise ValueError(
                "`ReduceOnPlateau(restore_best_weights=True)` cannot work together "
                f"with `{type(other).__name__}`, whose averages would not be restored "
                "with the weights."
            )
    theirs = getattr(keras.optimizers, "ScheduleFreeAdamW", ())
    for one in run.optimizers:
        if optimizers.is_taken_over(one) or isinstance(one, theirs):
            raise ValueError(
                "`ReduceOnPlateau(restore_best_weights=True)` cannot work with "
                "`ScheduleFree`, which keeps other weights besides the model's."
            )
