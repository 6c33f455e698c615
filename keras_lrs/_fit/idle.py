"""Detects optimizers that make no update although a callback acts in them."""

import warnings
from typing import Any

from keras_lrs._keras import models, optimizers


def check(run: Any, acting: str, before: dict[int, int]) -> None:
    """Raises if none of a run's optimizers made an update in the first epoch.

    It warns of an optimizer in a `MultiOptimizer` that received no variables.

    Args:
        run: The run.
        acting: The class of a callback that acts in all of its optimizers.
        before: The optimizers' iterations when the run began, by their `id`s.
    """
    progress = run.progress
    if all(
        optimizers.iterations(one) == before[id(one)]
        # The loss scale may be too large in all steps of a short epoch.
        and not optimizers.may_skip(progress.held, one)
        for one in run.optimizers
    ):
        if not run.model.trainable_variables:
            return  # Keras has already warned.
        names = "`model.optimizer`"
        if progress.main is None:
            names = ", ".join(f"`{label}`" for label in progress.labels)
        hint = models.hint_of_others(run.model) or (
            " The `train_step` of this model updates its weights in another way, or "
            "accumulates gradients over more batches than its first epoch has."
        )
        raise RuntimeError(f"`{acting}` acts in {names}, which made no update.{hint}")
    default = optimizers.default_of_map(progress.main)
    for label, one in zip(progress.labels, run.optimizers, strict=True):
        if progress.main is not None and not one.built and one is not default:
            warnings.warn(
                f"`{label}` of the model's `{type(progress.main).__name__}` trains no "
                f"variables, so `{acting}` has no effect on it. Check the patterns of "
                "its map, or the function that chooses.",
                stacklevel=2,
            )
