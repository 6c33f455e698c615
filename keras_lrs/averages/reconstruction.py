"""Reconstructs averages that were not kept from snapshots of others."""

import os
from typing import Any

import numpy as np

from keras_lrs.averages import snapshots
from keras_lrs.averages.posthoc import posthoc_coefficients
from keras_lrs.schedules import fields


def posthoc(
    directory: str | os.PathLike,
    sigma_rel: float,
    step: int | None = None,
    model: Any = None,
) -> list[np.ndarray]:
    """Reconstructs an average that was not kept from snapshots of a `PosthocAveraging`.

    Args:
        directory: The folder of the snapshots.
        sigma_rel: The relative width of the average, as in `PowerFunctionAverage`.
            Between the widths that were kept, the result is most accurate.
        step: The number of updates before the average; None takes the latest
            snapshot's.
        model: A model to put the average into. Statistics of batch normalization stay
            as they are: see `recalibrate_batch_norm`.

    Returns:
        The averages of `model.trainable_variables`, in their order and shapes; float64.

    Raises:
        FileNotFoundError: If there are no snapshots.
        ValueError: If an argument is out of range, if a snapshot is damaged, if the
            snapshots are of different runs, or if the model's weights have other
            shapes.

    Reference: Karras et al., "Analyzing and Improving the Training Dynamics of
    Diffusion Models", 2024, arXiv:2312.02696, section 3.2.
    """
    if model is not None:
        fields.model("model", model)
    folder = fields.any_path("directory", directory)
    paths = snapshots.paths(folder)
    while True:
        if not paths:
            raise FileNotFoundError(f"There are no snapshots of averages in {folder}")
        try:
            total = _total(paths, sigma_rel, step)
            break
        except FileNotFoundError:
            # A run that resumes removes the snapshots that it will write again.
            before, paths = paths, snapshots.paths(folder)
            if paths == before:
                raise
    if model is not None:
        shapes = [tuple(variable.shape) for variable in model.trainable_variables]
        if shapes != [array.shape for array in total]:
            fields.refuse("model", "have the shapes of the snapshots", shapes)
        for variable, array in zip(model.trainable_variables, total, strict=True):
            variable.assign(array)
    return total


def _total(paths, sigma_rel, step):
    """Returns the weighted sum of the snapshots at some paths."""
    step = max(paths) if step is None else fields.count("step", step, 1)
    keys: list[tuple[int, float, Any]] = []
    runs: dict[str | None, Any] = {}
    for taken, path in paths.items():
        found = snapshots.read(path)
        keys += [(taken, sigma, path) for sigma in found.averages]
        runs.setdefault(found.run, path)
    runs.pop(None, None)
    if len(runs) > 1:
        one, other = list(runs.values())[:2]
        raise ValueError(f"The snapshots {one} and {other} are of different runs.")
    steps, sigmas, _ = zip(*keys, strict=True)
    coefficients = posthoc_coefficients(steps, sigmas, step, sigma_rel)
    total: list[np.ndarray] = []
    for coefficient, (_, sigma, path) in zip(coefficients, keys, strict=True):
        if coefficient != 0.0:
            parts = [
                coefficient * array for array in snapshots.read(path).averages[sigma]
            ]
            total = (
                [a + b for a, b in zip(total, parts, strict=True)] if total else parts
            )
    return total
