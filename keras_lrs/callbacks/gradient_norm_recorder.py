"""`GradientNormRecorder`: the norms of a run's gradients."""

import dataclasses
from typing import Any

import numpy as np

from keras_lrs._fit import chosen
from keras_lrs._fit.run import Run
from keras_lrs._keras import optimizers
from keras_lrs._step.gradient_norms import GradientNorms
from keras_lrs._step.part import Wanted
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import fields


class GradientNormRecorder(FitCallback):
    """Records the global norm of the gradients of each update.

    `norm = sqrt(sum of g**2)` over all entries of all gradients, before clipping and
    weight decay, without the loss scale, summed over the replicas of a strategy. It is
    computed in the training step, in float32, and read every few thousand steps and at
    the end, so training does not wait for it. Under gradient accumulation it is the
    norm of the mean gradient that the update uses. With several optimizers it is the
    norm over all of them. Updates that a `LossScaleOptimizer` skips are not recorded.

    Memory is bounded. Beyond a million updates, every second norm is dropped, as if
    `every` had been twice as large. This repeats as the run continues.

    `schedules.refined_from_gradient_norms` turns the norms into a schedule.

    Args:
        every: Record the updates whose number is a multiple of this.
        order: 2 for the Euclidean norm; 1 for the sum of absolute values, which
            refinement uses for Adam.
        optimizers: The optimizers to act in: a name (of an optimizer, or of the model's
            attribute that holds it), an optimizer, or a list of these. None means all.

    Attributes:
        steps: The steps of the updates, as schedules count them (micro-batches, from
            0); int64 of shape `(updates,)`. They are those of the last `fit`, even if
            it was interrupted.
        norms: Their norms; float64 of the same shape.

    Raises:
        ValueError: If an argument is out of range, or two recorders share a run.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.callbacks import GradientNormRecorder
        >>> dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        >>> model = keras.Sequential([keras.Input((1,)), dense])
        >>> model.compile(keras.optimizers.SGD(0.25), "mse")
        >>> recorder = GradientNormRecorder()
        >>> x = np.ones((4, 1), "float32")
        >>> history = model.fit(x, x, 1, verbose=0, callbacks=[recorder])
        >>> recorder.steps.tolist(), recorder.norms.round(4).tolist()
        ([0, 1, 2, 3], [2.0, 1.0, 0.5, 0.25])

    Reference: Defazio, Cutkosky, Mehta, Mishchenko, "When, Why and How Much? Adaptive
    Learning Rate Scheduling by Refinement", 2023, arXiv:2310.07831.
    """

    every_step = True
    _bound = 2**20  # Norms of an optimizer, 16 bytes each.

    def __init__(
        self,
        every: int = 1,
        order: int = 2,
        *,
        optimizers: chosen.Optimizers = None,
    ):
        super().__init__()
        self.optimizers = chosen.check(optimizers)
        self.every = fields.count("every", every, 1)
        self.order = fields.whole("order", order)
        if self.order not in (1, 2):
            fields.refuse("order", "be 1 or 2", order)
        self._forget()

    def _forget(self):
        self._leaves: list[Any] = []
        self._found: list[_Found] = []
        self._waiting = self._most = 0  # Updates since the last read, and of a step.
        self._every = self.every

    @property
    def steps(self) -> np.ndarray:
        """The steps of the updates that were recorded."""
        return self._joined[0]

    @property
    def norms(self) -> np.ndarray:
        """The norms of their gradients."""
        return self._joined[1]

    def prepare(self, run: Run) -> list[Wanted]:
        """Asks for the norms."""
        return [
            Wanted(optimizer, GradientNorms, (self.every, self.order), slot=type(self))
            for optimizer in run.chosen(self).values()
        ]

    def fit_begins(self, epoch: int) -> None:
        """Starts over."""
        self._forget()
        self._leaves = list(self._run.chosen(self).values())
        self._found = [_Found(self._updates(one)) for one in self._leaves]

    def step_ends(self, logs: Any) -> None:
        """Reads the norms before the step overwrites them."""
        if self._most == 0:  # A custom `train_step` may make several updates.
            pairs = zip(map(self._updates, self._leaves), self._found, strict=True)
            self._most = max(now - found.end for now, found in pairs)
            self._most = max(self._most, self._run.model.steps_per_execution)
        self._waiting += self._most
        if self._waiting + self._most > self._run.parts(self)[0].size:
            self._take()

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Reads the norms so far, for callbacks that use them during training."""
        self._take()

    def fit_ends(self) -> None:
        """Reads the rest."""
        self._take()

    def get_state(self) -> dict[str, Any]:
        """Returns the norms that were recorded."""
        self._take()
        return {
            "found": [[found.joined] for found in self._found],
            "every": self._every,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores these norms."""
        self._found = [
            _Found(own.end, tuple(tuple(part) for part in found))
            for own, found in zip(self._found, state["found"], strict=True)
        ]
        self._every = state.get("every", self.every)

    def _updates(self, optimizer):
        return self._run.progress.iterations(optimizer) // optimizers.accumulated(
            optimizer
        )

    def _take(self):
        self._waiting = 0
        # There are none if the run was interrupted before its first step.
        for index, part in enumerate(self._run.parts(self)):
            end = self._updates(self._leaves[index])
            found = self._found[index]
            parts = found.parts
            if end > found.end:
                updates, values = part.take(found.end, end)
                # The step of an update is that of its last micro-batch.
                steps = (updates + 1) * part.step.accumulated - 1
                parts = (*parts, (steps, values))
            # At once, because `fit_ends` takes what an interruption has left.
            self._found[index] = _Found(end, parts)
            part.forget(end)
        self._thin_out()

    def _thin_out(self):
        """Drops every second norm, of all optimizers, while there are too many."""
        if self._every > self.every:
            self._drop()
        while any(len(found) > self._bound for found in self._found):
            self._every *= 2
            self._drop()

    def _drop(self):
        """Keeps the norms of the updates that are multiples of `_every`."""
        for index, found in enumerate(self._found):
            accumulated = optimizers.accumulated(self._leaves[index])
            steps, norms = found.joined
            kept = ((steps + 1) // accumulated - 1) % self._every == 0
            self._found[index] = _Found(found.end, ((steps[kept], norms[kept]),))

    @property
    def _joined(self):
        joined = [found.joined for found in self._found if found.parts]
        if not joined:
            return np.zeros(0, np.int64), np.zeros(0)
        shortest = min(len(steps) for steps, _ in joined)
        powers = sum(norms[:shortest] ** self.order for _, norms in joined)
        return joined[0][0][:shortest], powers ** (1.0 / self.order)


@dataclasses.dataclass(frozen=True)
class _Found:
    """The norms of an optimizer that were read so far.

    Args:
        end: The update up to which they were read.
        parts: Arrays of their steps, and of the norms.
    """

    end: int
    parts: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    def __len__(self):
        return sum(len(steps) for steps, _ in self.parts)

    @property
    def joined(self):
        """The steps and the norms, each in one array."""
        if not self.parts:
            return np.zeros(0, np.int64), np.zeros(0)
        steps, norms = zip(*self.parts, strict=True)
        return np.concatenate(steps), np.concatenate(norms)
