"""Loads the ensemble that a training run left in a folder."""

import os
import warnings
from collections.abc import Callable

import keras

from keras_lrs._keras.weights import loaded_weights
from keras_lrs.ensembles.ensemble import Ensemble, Member
from keras_lrs.ensembles.store import Store
from keras_lrs.schedules import fields


def load(
    directory: str | os.PathLike,
    model: keras.Model,
    strict: bool = True,
    activation: str | Callable | None = None,
) -> Ensemble:
    """Loads the members that `keras_lrs.callbacks.SnapshotEnsemble` wrote.

    Every byte is checked against the hashes in the manifest. The run may still be
    writing; then the members that are complete are loaded.

    Args:
        directory: The folder.
        model: A built model like the one that was trained. It is used to predict and
            keeps its own weights.
        strict: Whether a missing or damaged member is an error. If not, it is left out
            with a warning. A damaged manifest is always an error.
        activation: A function that is applied to each member's outputs before they are
            averaged, or its name: `"softmax"` or `"sigmoid"` for a model that returns
            logits.

    Returns:
        An `Ensemble`.

    Raises:
        FileNotFoundError: If there is no manifest, and no member to rebuild it from.
        ValueError: If a file is missing or damaged, or has another format, if no cycle
            was over yet, or if the model has other weights than the members.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from keras_lrs import callbacks, ensembles
        >>> from keras_lrs.schedules import CosineRestarts
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(CosineRestarts(0.1, 5, 1.0)), "mse")
        >>> x = np.ones((10, 1), "float32")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     snapshots = callbacks.SnapshotEnsemble(directory)
        ...     history = model.fit(x, x, 1, 2, verbose=0, callbacks=[snapshots])
        ...     ensemble = ensembles.load(directory, model)
        >>> len(ensemble), ensemble.predict(x, verbose=0).shape
        (4, (10, 1))
        >>> [member["step"] for member in ensemble.members]
        [5, 10, 15, 20]
    """
    directory = fields.any_path("directory", directory)
    strict = fields.truth("strict", strict)
    store = Store(directory)
    if not store.records and not store.manifest.exists():
        raise FileNotFoundError(
            f"There is no `{store.manifest}`: no `SnapshotEnsemble` has written to "
            "this directory."
        )
    fields.model("model", model)
    while True:
        refusal = None
        try:
            members, left_out = _members(store, model, strict)
        except ValueError as error:
            refusal, members, left_out = error, [], []
        if refusal is None and not left_out:
            return Ensemble(model, members, activation)
        # A run that is writing to the directory replaces and removes members.
        latest = Store(directory)
        if _hashes(latest) == _hashes(store):
            break
        store = latest
    if refusal is not None:
        raise refusal
    for reason in left_out:
        warnings.warn(f"A member is left out. {reason}", stacklevel=2)
    if not members:
        raise ValueError(f"All members in `{store.directory}` are damaged.")
    return Ensemble(model, members, activation)


def _members(store, model, strict):
    """Returns the undamaged members, and the errors of those left out."""
    if not store.records:
        raise ValueError(f"`{store.manifest}` names no member: no cycle has ended yet.")
    _check_shapes(store, model)
    members: list[Member] = []
    left_out: list[ValueError] = []
    for record in store.records:
        try:
            members.append(_member(store, record, model))
        except ValueError as error:
            if strict:
                raise
            left_out.append(error)
    return members, left_out


def _hashes(store):
    return [record.sha256 for record in store.records]


def _check_shapes(store, model):
    shapes = [list(variable.shape) for variable in model.variables]
    if len(shapes) != len(store.shapes):
        raise ValueError(
            f"Argument `model` must be like the one in `{store.directory}`, which has "
            f"{len(store.shapes)} variables. Received: a model with {len(shapes)}"
        )
    for variable, shape in zip(model.variables, store.shapes, strict=True):
        if list(variable.shape) != shape:
            raise ValueError(
                f"Argument `model` must be like the one in `{store.directory}`, where "
                f"`{variable.path}` has the shape {tuple(shape)}. Received: "
                f"{tuple(variable.shape)}"
            )


def _member(store, record, model):
    content = store.read(record)
    try:
        values = loaded_weights(model, content)
    except Exception as error:  # Keras may raise anything if a file does not fit.
        raise ValueError(
            f"`{store.path(record)}` does not fit the model: {error}"
        ) from error
    return Member(
        record.file,
        record.step,
        record.cycle,
        record.complete,
        record.learning_rate,
        record.metrics,
        values,
    )
