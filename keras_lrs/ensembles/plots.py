"""Pictures of an ensemble; matplotlib is imported when one is asked for."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lrs.ensembles import ensemble as ensembles
from keras_lrs.schedules import fields, plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def disagreement(outputs: np.ndarray) -> np.ndarray:
    """How often members predict different classes, or how far apart they are.

    Args:
        outputs: `(members, samples, ...)`, of `Ensemble.predict_members`. With a last
            axis of more than one element this is taken for classes.

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
    ensemble: "ensembles.Ensemble",
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
        path: Where to save the picture; None does not.
        **predict_arguments: For `Ensemble.predict_members`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the suffix of `path` is not that of a picture.
    """
    path = _checked(ensemble, path)
    figure, axes = plotting.new_figure("plot_sizes")
    measure = ensembles.measure(metric)
    outputs = ensemble.predict_members(x, **predict_arguments)
    sizes = np.arange(1, len(ensemble) + 1)
    last = [
        measure(
            y, ensembles.mean_of(outputs, list(range(len(ensemble) - n, len(sizes))))
        )
        for n in sizes
    ]
    alone = [measure(y, ensembles.mean_of(outputs, [i])) for i in range(len(ensemble))]
    axes.plot(sizes, last, "o-", label="mean of the last members")
    axes.plot(sizes, alone[::-1], "x:", label="the member that is added")
    name = metric if isinstance(metric, str) else getattr(metric, "name", "metric")
    axes.set(xlabel="members", ylabel=name, xticks=sizes)
    axes.grid(alpha=0.3)
    axes.legend()
    return plotting.finished(figure, path)


def plot_disagreement(
    ensemble: "ensembles.Ensemble",
    x: Any,
    path: str | os.PathLike | None = None,
    **predict_arguments: Any,
) -> "Figure":
    """Draws the matrix of `disagreement` between the members.

    Members that never disagree are one member.

    Args:
        ensemble: The ensemble, of a model with one output.
        x: As for `Ensemble.predict`.
        path: Where to save the picture; None does not.
        **predict_arguments: For `Ensemble.predict_members`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the suffix of `path` is not that of a picture.
    """
    path = _checked(ensemble, path)
    figure, axes = plotting.new_figure("plot_disagreement")
    matrix = disagreement(ensemble.predict_members(x, **predict_arguments))
    image = axes.imshow(matrix, vmin=0.0, cmap="viridis")
    steps = [str(member.step) for member in ensemble]
    axes.set_xticks(range(len(steps)), labels=steps)
    axes.set_yticks(range(len(steps)), labels=steps)
    axes.set(xlabel="step of the member", ylabel="step of the member")
    figure.colorbar(image, label="disagreement")
    return plotting.finished(figure, path)


def _checked(ensemble, path):
    if not isinstance(ensemble, ensembles.Ensemble):
        fields.refuse("ensemble", "be an `Ensemble`", ensemble, TypeError)
    return plotting.picture(path)
