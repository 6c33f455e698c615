"""The argument `steps_per_epoch` of callbacks, for data of unknown length."""

from collections.abc import Iterable
from typing import Any

from keras_lrs._keras import fit_loop
from keras_lrs.schedules import fields

HOW_TO_TELL = (
    "Pass `steps_per_epoch=` to `fit`, or, to read the data to its end, to the "
    "callback. The length of a `tf.data.Dataset` can be set with "
    "`data.apply(tf.data.experimental.assert_cardinality(batches))`"
)


def check(given: Any) -> int | None:
    """Returns the argument if it is valid; None if it is not given."""
    return None if given is None else fields.count("steps_per_epoch", given, 1)


def steps_per_epoch(
    model: Any, params: dict[str, Any], callbacks: Iterable[Any]
) -> int | None:
    """Returns the batches per epoch of the enclosing `fit`; None if not known.

    Args:
        model: The model that is trained.
        params: The parameters that Keras gives callbacks.
        callbacks: The callbacks of the `fit`, which may have `steps_per_epoch`.

    Raises:
        ValueError: If a callback has a different number.
    """
    found = params.get("steps") or -1  # It is None for data of unknown length.
    found = int(found) if found > 0 else fit_loop.length_of_data(model)
    for callback in callbacks:
        told = getattr(callback, "steps_per_epoch", None)
        if told is None:
            continue
        if found is not None and told != found:
            bound = f"be {found}, the number of batches of an epoch"
            fields.refuse("steps_per_epoch", bound, told)
        found = told
    return found


def check_epoch(callback: Any, progress: Any) -> None:
    """Raises if the first epoch had a different number of batches than given."""
    told = callback.steps_per_epoch
    if told is None or callback.model.stop_training or progress.in_loop:
        return
    executions = -(-told // callback.model.steps_per_execution)
    if progress.executions != executions:
        raise RuntimeError(
            f"Argument `steps_per_epoch` of `{type(callback).__name__}` must be the "
            f"number of batches of an epoch: this one had {progress.executions} "
            f"executions of {callback.model.steps_per_execution} each. Received: "
            f"steps_per_epoch={told}"
        )
