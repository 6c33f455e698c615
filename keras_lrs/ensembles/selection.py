"""Measures how good a mean of members is, and selects the members that improve it."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_lrs._keras import metrics
from keras_lrs._keras.variables import number
from keras_lrs.ensembles.joint import mean_dtype
from keras_lrs.schedules import fields

_ACCURACY = ("acc", "accuracy")  # Keras chooses the kind by the shapes.


def greedy(count: int, score: Callable[[list[int]], float]) -> list[int]:
    """Adds member after member, each time the best one, while the score grows.

    Args:
        count: The number of members.
        score: The score of the mean of some members; larger is better.

    Returns:
        The members, in their order.

    Raises:
        ValueError: If no member has a score.
    """
    chosen: list[int] = []
    best = -np.inf
    while len(chosen) < count:
        left = [index for index in range(count) if index not in chosen]
        scores = [score([*chosen, index]) for index in left]
        if not np.nanmax([best, *scores]) > best:
            break
        best = np.nanmax(scores)
        chosen.append(left[int(np.nanargmax(scores))])
    if not chosen:
        raise ValueError("The metric is NaN for every member.")
    return sorted(chosen)


def mean_of(outputs: Any, indices: list[int]) -> Any:
    """Returns the mean of some members' outputs."""
    return tree.map_structure(
        lambda y: np.mean(y[indices], axis=0, dtype=mean_dtype(y.dtype)), outputs
    )


def measure(metric: Any) -> Callable[[Any, np.ndarray], float]:
    """Makes a function of targets and outputs from a metric that Keras knows.

    Args:
        metric: As for `Ensemble.greedy`.

    Raises:
        ValueError: If Keras does not know the metric.
    """
    is_accuracy = isinstance(metric, str) and metric in _ACCURACY
    found = metric if is_accuracy else known("metric", metric, keras.metrics.get)

    def measured(y, outputs):
        kind = _accuracy(y, outputs) if isinstance(found, str) else found
        try:
            if isinstance(kind, keras.Metric):
                kind.reset_state()
                kind.update_state(y, outputs)
                return number(kind.result())
            return float(np.mean(ops.convert_to_numpy(kind(y, outputs))))
        except Exception as error:  # A user's function may raise anything.
            raise ValueError(
                "Argument `metric` must be a metric for these targets and outputs. "
                f"Received: metric={metric!r}, {type(error).__name__}: {error}"
            ) from error

    return measured


def is_maximized(metric: Any, mode: str) -> bool:
    """Tells whether a metric is better when it is larger.

    Raises:
        ValueError: If that is not known and `mode` is `"auto"`.
    """
    if fields.one_of("mode", mode, ("auto", "min", "max")) != "auto":
        return mode == "max"
    name = getattr(metric, "name", None) or getattr(metric, "__name__", metric)
    found = metric
    if isinstance(metric, str) and metric not in _ACCURACY:
        found = known("metric", metric, keras.metrics.get)
    return metrics.direction(str(name), metric=found) == "max"


def known(argument: str, value: Any, get: Callable) -> Any:
    """Looks up a name with a `get` of Keras; a function may be given instead."""
    try:
        found = get(value)
    except Exception as error:  # Calling a class may raise anything.
        bound = f"be known to Keras, which says: {error}"
        fields.refuse(argument, bound, value)
    if not callable(found):
        fields.refuse(argument, "be a name known to Keras, or a function", value)
    return found


def _accuracy(y, outputs):
    """Chooses the kind of accuracy that Keras chooses for such shapes."""
    if outputs.shape[-1] == 1:
        return keras.metrics.BinaryAccuracy()
    if np.shape(y)[-1:] == outputs.shape[-1:] and np.ndim(y) == outputs.ndim:
        return keras.metrics.CategoricalAccuracy()
    return keras.metrics.SparseCategoricalAccuracy()
