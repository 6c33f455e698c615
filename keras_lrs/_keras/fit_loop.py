"""Finds the enclosing `fit`: its callbacks, its data, and where it begins."""

import inspect
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.trainers import epoch_iterator

from keras_lrs._keras import models
from keras_lrs._keras.backend import IS_TENSORFLOW
from keras_lrs._keras.contents import unknown, untouched

_ENDLESS = 2**48  # For data that repeats, Grain returns the length `sys.maxsize`.

# Attributes that Keras's callbacks keep from epoch to epoch; some are private.
_REMEMBERED: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        *("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        *("best", "_current_epoch", "_last_batch_seen"),
        "_batches_seen_since_last_saving",
    ),
    keras.callbacks.History: ("epoch", "history"),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
}


def callback_list() -> keras.callbacks.CallbackList | None:
    """Returns the list of callbacks that is calling `set_model`.

    Keras tells a callback nothing about the others, but its list is the caller.
    """
    for frame in _frames_with("self"):
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller
    return None


def length(model: Any) -> tuple[int, int | None] | None:
    """Returns the epochs of a model's enclosing `fit`, and their steps if known.

    None if no `fit` is calling. A list of callbacks that is used again has the numbers
    of an earlier `fit`.
    """
    frame = _frame_of_fit(model)
    if frame is None:
        return None
    return frame.f_locals["epochs"], frame.f_locals["epoch_iterator"].num_batches


def remembered(callback: Any) -> dict[str, Any] | None:
    """Returns the state of one of Keras's callbacks; None if none of it is known."""
    names, own = _names(callback), vars(callback)
    return {name: own[name] for name in names if name in own} if names else None


def remind(callback: Any, state: dict[str, Any]) -> None:
    """Gives a callback what `remembered` returned, and nothing else."""
    if others := state.keys() - set(_names(callback)):
        raise ValueError(f"`{type(callback).__name__}` has no state {sorted(others)}")
    vars(callback).update(state)


def _names(callback):
    """Returns the names of the attributes that are the state of a callback."""
    found = (names for kind, names in _REMEMBERED.items() if isinstance(callback, kind))
    return next(found, ())


def begin_at(model: Any, epoch: int | None) -> None:
    """Makes `fit` begin with an epoch, in `on_train_begin`; None means its own."""
    model._initial_epoch = epoch


def first_epoch(model: Any) -> int:
    """Returns the epoch with which a callback makes `fit` begin; 0 by default."""
    return model._initial_epoch or 0


def validates_without(shows_average: str) -> bool:
    """Whether the enclosing `fit` validates, and no callback has such an attribute.

    False outside of a `fit`.
    """
    for frame in _frames_with("self", "validation_data"):
        found = frame.f_locals
        own = isinstance(found.get("self"), keras.Model)
        if own and frame.f_code.co_name == "fit" and "validation_data" in found:
            given = found.get("callbacks")
            # Before `fit` makes a `CallbackList` of it, it is the user's argument.
            given = getattr(given, "callbacks", keras.tree.flatten(given or []))
            shown = any(getattr(one, shows_average, False) for one in given)
            return found["validation_data"] is not None and not shown
    return False


def build(model: Any) -> Exception | None:
    """Builds a model from the data of the enclosing `fit`, as Keras does.

    TensorFlow's `fit` would build it in the first step. On JAX and PyTorch, and under a
    strategy on TensorFlow, `fit` has already built it before it calls any callback.

    Returns:
        The error if the model cannot be built from the data, or None.
    """
    iterator = _epoch_iterator(model)
    if not IS_TENSORFLOW or iterator is None:
        return None
    try:
        # No data is consumed.
        models.build_from(model, iterator._get_iterator().element_spec)
    except Exception as error:  # The model's `call` may raise anything.
        return error
    return None


def length_of_data(model: Any) -> int | None:
    """Returns the number of batches that the data reports, if Keras does not know it.

    Keras does not ask Grain's datasets, but finite ones know their length.
    """
    iterator = _epoch_iterator(model)
    dataset = getattr(getattr(iterator, "data_adapter", None), "_dataset", None)
    try:
        found = len(dataset)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if 0 < found < _ENDLESS else None


def batch_size(model: Any) -> int | None:
    """Returns the samples in a full batch of a model's `fit`, over all replicas.

    None if it is not known: for a generator, or a dataset whose batches may differ.
    """
    iterator = _epoch_iterator(model)
    if iterator is None:
        return None
    adapter = iterator.data_adapter
    dataset = getattr(adapter, "py_dataset", None)
    if dataset is not None:
        if unknown(dataset):
            return None  # Reading a batch might lose it.
        with untouched(dataset):
            size = next(iter(leaves(dataset[0]))).shape[0]
    else:
        try:
            size = adapter.batch_size
        except (AttributeError, IndexError, ValueError):
            # The dataset is already distributed, or consists of scalars.
            size = None
    return None if size is None else int(size)


def _epoch_iterator(model):
    """Returns the `EpochIterator` of the enclosing `fit` of a model."""
    return iterator_and_data(model)[0]


def iterator_and_data(model: Any) -> tuple[Any, Any]:
    """Returns the `EpochIterator` of a model's enclosing `fit`, and its argument `x`.

    Both are None in a custom loop.
    """
    frame = _frame_of_fit(model)
    if frame is None:
        return None, None
    return frame.f_locals["epoch_iterator"], frame.f_locals.get("x")


def validation_data(model: Any) -> Any:
    """Returns the inputs or the dataset for validation of a model's enclosing `fit`.

    None if there is none.
    """
    frame = _frame_of_fit(model)
    return None if frame is None else frame.f_locals.get("val_x")


def is_fitting(model: Any) -> bool:
    """Whether a model's `fit` is calling, and not a custom loop."""
    return _frame_of_fit(model) is not None


def _frame_of_fit(model):
    for frame in _frames_with("self", "epochs", "epoch_iterator"):
        found = frame.f_locals.get("epoch_iterator")
        ours = isinstance(found, epoch_iterator.EpochIterator)
        if ours and frame.f_locals.get("self") is model:
            return frame
    return None


def jax_fit(model: Any) -> dict[str, Any]:
    """Returns the local variables of a model's enclosing `fit` on JAX.

    The result is empty if this model's `fit` is not calling.
    """
    for frame in _frames_with("self", "training_finished"):
        found = frame.f_locals
        if "training_finished" in found and found.get("self") is model:
            return found
    return {}


def _frames_with(*names):
    """Yields the calling frames whose functions have such variables, innermost first.

    It does not access the variables of other frames, because Python would then keep
    their values, such as a model that the function deletes, until the function returns.
    """
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if {*code.co_varnames, *code.co_cellvars}.issuperset(names):
            yield frame
        frame = frame.f_back


def leaves(batch: Any) -> list:
    """Returns the tensors or arrays in a batch."""
    return [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]


def components(leaf: Any) -> list:
    """Returns the arrays of which a sparse or ragged array consists."""
    if hasattr(leaf, "tocsr"):  # SciPy's.
        leaf = leaf.tocsr()
    elif hasattr(leaf, "todense"):  # JAX's.
        pass
    elif hasattr(leaf, "__len__") or not ops.is_tensor(leaf):
        return [leaf]
    names = next(names for names in _COMPONENTS if hasattr(leaf, names[0]))
    return keras.tree.flatten([getattr(leaf, name) for name in names])


_COMPONENTS = (
    ("indptr", "indices", "data"),
    ("flat_values", "nested_row_splits"),  # TensorFlow's ragged arrays.
    ("values", "indices"),  # Its sparse ones.
    ("data", "indices"),
)


def array_of(leaf: Any) -> np.ndarray:
    """Returns the array in a part of a batch."""
    # A strategy's batch has a part for each replica.
    parts = getattr(leaf, "values", None) if IS_TENSORFLOW else None
    if isinstance(parts, tuple):
        return np.concatenate([ops.convert_to_numpy(part) for part in parts])
    return np.asarray(ops.convert_to_numpy(leaf))
