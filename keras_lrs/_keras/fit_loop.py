"""What surrounds the calls of a `fit`: its callbacks, its data, where it begins."""

import inspect
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.trainers import data_adapters, epoch_iterator

from keras_lrs._keras import random
from keras_lrs._keras.backend import IS_TENSORFLOW

# What Keras's callbacks remember from epoch to epoch; some of it is private.
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
    """The list of callbacks that is handing out the model, asked in `set_model`.

    Keras tells a callback nothing about the others; its list is the caller.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller
        frame = frame.f_back
    return None


def remembered(callback: Any) -> dict[str, Any] | None:
    """What one of Keras's callbacks remembers; None if it is none that does."""
    for kind, names in _REMEMBERED.items():
        if isinstance(callback, kind):
            own = vars(callback)
            return {name: own[name] for name in names if name in own}
    return None


def begin_at(model: Any, epoch: int | None) -> None:
    """Lets the `fit` that calls `on_train_begin` begin with an epoch; None: its own."""
    model._initial_epoch = epoch


def first_epoch(model: Any) -> int:
    """The epoch that a callback has let `fit` begin at; 0 if none has."""
    return model._initial_epoch or 0


def why_not_read_again() -> str | None:
    """Why the data of the calling `fit` cannot be read again in the same order.

    None if an epoch, begun with the same state of the random generators, has the same
    batches: the first one is read twice.
    """
    iterator = _epoch_iterator()
    if iterator is None:
        return "is not known"
    adapter = iterator.data_adapter
    if iterator.steps_per_epoch is not None:
        return "is read on and on with `steps_per_epoch`"
    if isinstance(adapter, data_adapters.GeneratorDataAdapter):
        return "is a generator"
    dataset = getattr(adapter, "py_dataset", None)
    if dataset is not None and adapter.enqueuer is not None and adapter.shuffle:
        return "is shuffled by threads, at moments of their own"
    state = random.state()
    batches = []
    for _ in range(2):
        # The threads of a `PyDataset` begin with an epoch, and read in order.
        data = iterator._get_iterator() if dataset is None else (dataset[0],)
        # As bytes: there may be NaN among them.
        batches.append(
            [_array(leaf).tobytes() for leaf in _leaves(next(iter(data), None))]
        )
        random.set_state(state)
    if batches[0] == batches[1]:
        return None
    reason = "comes in another order, or altered, every time"
    arrays = isinstance(adapter, data_adapters.ArrayDataAdapter)
    if arrays and IS_TENSORFLOW and state["tensorflow"]["seed"] is None:
        # TensorFlow draws a new seed for each order that it shuffles arrays in.
        reason += " (unless you call `keras.utils.set_random_seed(...)` before `fit`)"
    return reason


def batch_size() -> int | None:
    """The samples in a full batch of the calling `fit`, of all replicas together.

    None if the data does not tell: a generator, or a dataset whose batches may differ.
    """
    iterator = _epoch_iterator()
    if iterator is None:
        return None
    adapter = iterator.data_adapter
    dataset = getattr(adapter, "py_dataset", None)
    if dataset is not None:
        size = next(iter(_leaves(dataset[0]))).shape[0]
    else:
        try:
            size = adapter.batch_size
        except (AttributeError, IndexError, ValueError):
            # A dataset that is distributed already, or one of scalars.
            size = None
    return None if size is None else int(size)


def _epoch_iterator():
    """Returns the `EpochIterator` of the enclosing `fit`."""
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals.get("epoch_iterator")
        if isinstance(found, epoch_iterator.EpochIterator):
            return found
        frame = frame.f_back
    return None


def jax_fit(model: Any) -> dict[str, Any]:
    """The local variables of the `fit` of a model that is calling, on JAX.

    Those that it has, and nothing if it is not this model's `fit` that calls.
    """
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals
        if "training_finished" in found and found.get("self") is model:
            return found
        frame = frame.f_back
    return {}


def _leaves(batch):
    return [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]


def _array(leaf):
    # A strategy's batch has a part for each replica.
    parts = getattr(leaf, "values", None) if IS_TENSORFLOW else None
    if isinstance(parts, tuple):
        return np.concatenate([ops.convert_to_numpy(part) for part in parts])
    return np.asarray(ops.convert_to_numpy(leaf))
