"""The updates of an optimizer that `WeightAveraging` averages."""

from typing import Any

from keras_lrs._fit.run import Run
from keras_lrs._keras import optimizers
from keras_lrs._keras.average_slots import AverageSlots
from keras_lrs._step.averages import Averaging
from keras_lrs.callbacks.cycle_ends import cycle_ends_of


def check_optimizers(callback: Any, run: Run, slots: list[AverageSlots]) -> None:
    """Checks that nothing else averages the weights, in a run.

    Args:
        callback: The `WeightAveraging`.
        run: The run.
        slots: The averages of its optimizers.

    Raises:
        ValueError: If Keras averages them, or another of the optimizers does.
    """
    # Keras overwrites the weights of all of `model.optimizer`, or of none.
    for one in [*map(AverageSlots, run.optimizers), *slots]:
        if one.optimizer.use_ema and not one.attached:
            raise ValueError(
                f"`{type(callback).__name__}` needs an optimizer that does not average "
                "the weights itself. Construct it with use_ema=False; a model that "
                "was loaded with its averages may be passed as `initial`. Received:"
                f" `{type(one.optimizer).__name__}` with use_ema=True"
            )
    trained = [id(v) for one in slots for v in optimizers.weights(one.optimizer)]
    if len(set(trained)) < len(trained):
        raise ValueError(
            f"`{type(callback).__name__}` cannot average weights that two optimizers "
            "train: each has its own averages. Let each optimizer train different "
            "weights."
        )


def averaging(callback: Any, optimizer: Any, schedules: dict[str, Any]) -> Averaging:
    """Returns the updates that are averaged, in a run whose length is known if needed.

    Args:
        callback: The `WeightAveraging`.
        optimizer: One of its optimizers.
        schedules: The schedules that are bound to the optimizer, by name.

    Raises:
        ValueError: If no update is averaged.
    """
    progress = callback.run.progress
    every, start_step = callback.update_every, callback.start_step
    accumulated = optimizers.accumulated(optimizer)
    first = progress.length(start_step) // accumulated
    if progress.total is not None:
        total = progress.total // accumulated
        if first >= total > 0:
            raise ValueError(
                "Argument `start_step` must be before the end of the run, which has "
                f"{total} updates. Received: start_step={start_step!r}"
            )
    began = AverageSlots(optimizer).began_late
    if began is not None:
        first = max(first, (began - progress.start(optimizer)) // accumulated)
    if every not in ("epoch", "cycle"):
        updates = progress.length(every)
        if not isinstance(every, int):
            updates = max(updates // accumulated, 1)
        return Averaging(callback.average.thinned(updates), first, updates)
    if every == "epoch":
        steps = progress.epoch_ends
    else:
        steps = cycle_ends_of(progress, optimizer, schedules)
    ends = sorted({step // accumulated for step in steps} - set(range(first + 1)))
    if not ends and began is None:
        raise ValueError(
            f"Argument `update_every` must occur in the run: no {every} ends after "
            f"{first} updates. Received: update_every={every!r}"
        )
    return Averaging(callback.average, ends=tuple(ends))
