"""Plots how good the members of an ensemble are, and how far they disagree."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lrs.ensembles import selection
from keras_lrs.ensembles.ensemble import Ensemble
from keras_lrs.schedules import fields, plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def disagreement(outputs: np.ndarray) -> np.ndarray:
    """Measures how often members predict different classes, or how far they differ.

    Args:
        outputs: The result of `Ensemble.predict_members`: `(members, samples, ...)`. A
            last axis of more than one element is taken for classes.

    Returns:
        A symmetric matrix `(members, members)` with zeros on its diagonal: the share of
        predictions whose largest class differs, or else the root of the mean squared
        difference.

    Example:
        >>> import numpy as np
        >>> outputs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.3, 0.7]]])
        >>> disagreement(outputs).tolist()
        [[0.0, 0.5], [0.5, 0.0]]
    """
    try:
        outputs = np.asarray(outputs)
    except ValueError:  # Lists of different lengths.
        outputs = np.array(None)
    if outputs.ndim < 2 or outputs.dtype.kind not in "fiu":
        bound = "be numbers of shape (members, samples, ...)"
        fields.refuse("outputs", bound, outputs)
    if outputs.shape[-1] > 1 and outputs.ndim > 2:
        classes = outputs.argmax(-1).reshape(len(outputs), -1)
        return np.mean(classes[:, None] != classes[None], axis=-1)
    values = outputs.reshape(len(outputs), -1).astype(np.float64)
    return np.mean((values[:, None] - values[None]) ** 2, axis=-1) ** 0.5


def plot_sizes(
    ensemble: Ensemble,
    x: Any,
    y: Any,
    metric: Any = "accuracy",
    path: str | os.PathLike | None = None,
    **predict_arguments: Any,
) -> "Figure":
    """Draws the metric of the last 1, 2, ... members, and of each alone.

    Args:
        ensemble: The ensemble.
        x: As for `Ensemble.predict`.
        y: The targets: an array.
        metric: As for `Ensemble.greedy`.
        path: The file for the picture; None does not save it.
        **predict_arguments: For `Ensemble.predict_members`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the suffix of `path` is not that of a picture.
        OSError: If the file cannot be written; the old version is kept.
    """
    _check(ensemble)
    with plotting.drawn("plot_sizes", path) as figure:
        measure = selection.measure(metric)
        outputs = ensemble.predict_members(x, **predict_arguments)

        def measured(indices):
            return measure(y, selection.mean_of(outputs, indices))

        count = len(ensemble)
        sizes = np.arange(1, count + 1)
        last = [measured(list(range(count - size, count))) for size in sizes]
        alone = [measured([index]) for index in range(count)]
        axes = figure.add_subplot()
        axes.plot(sizes, last, "o-", label="mean of the last members")
        axes.plot(sizes, alone[::-1], "x:", label="the member that is added")
        name = metric if isinstance(metric, str) else getattr(metric, "name", "metric")
        axes.set(xlabel="members", ylabel=name, xticks=sizes)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def plot_disagreement(
    ensemble: Ensemble,
    x: Any,
    path: str | os.PathLike | None = None,
    **predict_arguments: Any,
) -> "Figure":
    """Draws the matrix of `disagreement` between the members.

    Two members that never disagree are no better than one of them.

    Args:
        ensemble: The ensemble, of a model with one output.
        x: As for `Ensemble.predict`.
        path: The file for the picture; None does not save it.
        **predict_arguments: For `Ensemble.predict_members`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the suffix of `path` is not that of a picture.
        OSError: If the file cannot be written; the old version is kept.
    """
    _check(ensemble)
    with plotting.drawn("plot_disagreement", path) as figure:
        matrix = disagreement(ensemble.predict_members(x, **predict_arguments))
        axes = figure.add_subplot()
        image = axes.imshow(matrix, vmin=0.0, cmap="viridis")
        steps = [str(member.step) for member in ensemble]
        axes.set_xticks(range(len(steps)), labels=steps)
        axes.set_yticks(range(len(steps)), labels=steps)
        axes.set(xlabel="step of the member", ylabel="step of the member")
        figure.colorbar(image, label="disagreement")
    return figure


def _check(ensemble):
    if not isinstance(ensemble, Ensemble):
        fields.refuse("ensemble", "be an `Ensemble`", ensemble, TypeError)
