"""The start of an average, if it is not the model's own weights."""

import os
import pathlib
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import models, optimizers, variables
from keras_lrs._keras.average_slots import AverageSlots
from keras_lrs._keras.weights import loaded_weights
from keras_lrs.averages.schedules import Average
from keras_lrs.schedules import fields

_BOUND = (
    "be a model, the list of arrays of its `get_weights()`, or the path of its "
    "`.weights.h5` file"
)


def check(initial: Any, average: Average) -> Any:
    """Returns `initial`, with a path made absolute.

    Raises:
        ValueError: If it would be forgotten at once.
        TypeError: If it has an unknown type.
    """
    if not isinstance(initial, (keras.Model, str, os.PathLike)):
        try:
            for value in fields.items("initial", initial, _BOUND):
                np.asarray(value, "float64")
        except (ValueError, TypeError, OverflowError):
            fields.refuse("initial", _BOUND, initial, TypeError)
    elif not isinstance(initial, keras.Model):
        initial = fields.path("initial", initial)
    if float(average.weight(0)) == 1.0:
        bound = (
            "keep a share of `initial` in its first update, as "
            "`ExponentialAverage(0.999, debias=False)` does"
        )
        fields.refuse("average", bound, average)
    return initial


def values(initial: Any, model: Any) -> dict[int, np.ndarray]:
    """Returns the arrays with which averages begin, by the `id` of the variable.

    If `initial` is a model whose optimizer holds averages (with `use_ema=True`, or from
    an earlier `fit`), these are used.
    """
    if isinstance(initial, keras.Model):
        found = _averages_of(initial)
    elif isinstance(initial, pathlib.Path):
        if not initial.is_file():
            fields.refuse("initial", _BOUND, str(initial))
        content = loaded_weights(model, initial.read_bytes())
        by_variable = dict(zip(map(id, model.variables), content, strict=True))
        found = [by_variable[id(weight)] for weight in model.weights]
    else:
        found = [np.asarray(value, "float64") for value in initial]
    if len(found) != len(model.weights):
        raise ValueError(
            f"Argument `initial` must have the {len(model.weights)} weights of the "
            f"model. Received: {len(found)} weights"
        )
    for weight, value in zip(model.weights, found, strict=True):
        if tuple(weight.shape) != value.shape:
            raise ValueError(
                f"Argument `initial` must have the shape {tuple(weight.shape)} for "
                f"`{weight.path}`. Received: an array of shape {value.shape}"
            )
    return dict(zip(map(id, model.weights), found, strict=True))


def give(found: dict[int, np.ndarray], slots: list, statistics: Any) -> None:
    """Starts averages from what `values` returned.

    Args:
        found: The arrays.
        slots: The `AverageSlots` of the optimizers.
        statistics: The `AverageStatistics`, or None.
    """
    for one in slots:
        for weight, average in one.pairs:
            variables.assign(average, found[id(weight)])
    if statistics is not None:
        statistics.write([found[id(variable)] for variable in statistics.statistics])


def _averages_of(model):
    held = {}
    for optimizer in models.updating(model):
        slots = AverageSlots(optimizer)
        # Keras's own slots are zeros until the first update.
        begun = optimizer.built and optimizers.iterations(optimizer) > 0
        if begun and optimizer.use_ema and not slots.swapped:
            held.update({id(weight): average for weight, average in slots.pairs})
    return variables.read([held.get(id(weight), weight) for weight in model.weights])
