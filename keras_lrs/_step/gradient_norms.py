"""The norms of gradients, computed in the step and read later."""

from typing import Any

import numpy as np
from keras import ops

from keras_lrs._keras import in_step, optimizers
from keras_lrs._keras.backend import IS_JAX, IS_TORCH
from keras_lrs._keras.variables import StepVariable
from keras_lrs._step.part import StepPart
from keras_lrs._step.update import Update
from keras_lrs.schedules import numerics

_PLACES = 4096  # For norms that have not been read yet.


class GradientNorms(StepPart):
    """The norms of an optimizer's last gradients, before clipping and weight decay.

    Args:
        step: The optimizer's step.
        every: The number of updates per norm that is kept.
        order: The order of the norm, 1 or 2.
    """

    def __init__(self, step: Any, every: int, order: int):
        super().__init__(step)
        self.every, self.order = every, order
        self.size = max(_PLACES, 2 * step.model.steps_per_execution)
        if IS_TORCH:
            self.seen: dict[int, Any] = {}  # The tensors, by update.
        else:
            # The norm of update `every * k` is at place `k % size`.
            self.table = StepVariable(step.model, np.zeros(self.size), "float32")
            self.variables = [self.table]

    def before(self, update: Update) -> None:
        """Computes the norm; an update's last micro-batch overwrites the others."""
        pairs = update.gradients
        if not pairs:
            return
        number = update.iterations // self.step.accumulated
        if IS_TORCH:
            if number % self.every == 0:
                self.seen[number] = self._norm(pairs)
            return
        place = numerics.maximum(number, 0) // self.every % self.size
        here = ops.equal(ops.arange(self.size), ops.cast(place, "int32"))
        here = ops.logical_and(here, number % self.every == 0)
        table = ops.where(here, self._norm(pairs), self.table.value)
        self.table.variable.assign(table)

    def _norm(self, pairs):
        gradients = in_step.dense([gradient for gradient, _ in pairs])
        accumulated = self.step.accumulated
        if accumulated > 1:
            sums = optimizers.accumulated_gradients(
                self.step.optimizer, [variable for _, variable in pairs]
            )
            gradients = [
                (gradient + one) / accumulated
                for gradient, one in zip(gradients, sums, strict=True)
            ]
        return in_step.norm(in_step.sum_of_replicas(gradients), self.order)

    def take(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns at most `size` updates from `first` to `end`, and their norms."""
        updates = np.arange(-(-first // self.every) * self.every, end, self.every)
        if len(updates) > self.size and not IS_TORCH:
            raise RuntimeError(
                f"{len(updates)} gradient norms would have to be kept, but there is "
                f"room for {self.size}: some batches had many more updates than the "
                "first. Record fewer with `every`."
            )
        if IS_TORCH:
            values = in_step.stacked([self.seen[u] for u in updates.tolist()])
        elif IS_JAX and self.table.array.is_deleted():
            return updates[:0], np.zeros(0)  # An interrupted step took it.
        else:
            values = self.table.read()[updates // self.every % self.size]
        return updates, np.asarray(values, np.float64)

    def forget(self, end: int) -> None:
        """Frees the norms of the updates before `end`, which were taken and noted."""
        if IS_TORCH:
            self.seen = {u: norm for u, norm in self.seen.items() if u >= end}
