"""The data of a `fit`, and its state from epoch to epoch."""

import hashlib
from collections.abc import Callable
from typing import Any

import keras
from keras.src.trainers import data_adapters

from keras_lrs._keras import random
from keras_lrs._keras.backend import IS_TENSORFLOW
from keras_lrs._keras.fit_loop import array_of, iterator_and_data, leaves
from keras_lrs._keras.stateful import Stateful, differ

_EVENTS = ("on_epoch_begin", "on_epoch_end")


class FitData:
    """The data of the `fit` that is calling the callbacks.

    Its state consists of the generators and iterators that it holds. A `PyDataset`
    without methods for its state may also change itself when an epoch begins or ends.
    This change is repeated by calling its hooks for the same epochs with the same
    random numbers.
    """

    def __init__(self, model: Any):
        self._iterator, self._data = iterator_and_data(model)
        self._read = 0  # How often a `tf.data.Dataset` has been read.
        # Arrays have no state, and keeping them alive would cost memory.
        adapter = getattr(self._iterator, "data_adapter", None)
        if isinstance(adapter, data_adapters.ArrayDataAdapter):
            self._data = None
        self._stateful = Stateful(self._data)
        self._events: list = []
        if not self._stateful.protocol:
            for name in _EVENTS:
                if _overrides(self._data, name):
                    self._record(adapter, name)
        if _is_tf_data(self._data):
            self._count(adapter)

    def sample(self) -> Any:
        """Returns a digest of some rows of arrays, which identifies the data.

        None for other data, which would have to be read.
        """
        adapter = getattr(self._iterator, "data_adapter", None)
        if not isinstance(adapter, data_adapters.ArrayDataAdapter):
            return None
        arrays = leaves(adapter._inputs)
        return digest([array[:: max(len(array) // 16, 1)] for array in arrays])

    # --- The state of the data ---

    def state(self) -> dict[str, Any]:
        """Returns the state as a tree of numbers, strings and arrays."""
        return {
            "objects": self._stateful.state(),
            "events": list(self._events),
            "read": self._read,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Gives the data the state of equal data, perhaps from another process.

        It draws random numbers, so set the state of the global generators afterwards.
        """
        objects = state["objects"]
        if not self._stateful.fits(objects):
            return  # The data differs; its first batch shows whether this matters.
        for name, globally, own in state["events"]:
            if not _overrides(self._data, name):
                return
            if globally:
                random.set_state({**random.state(), **globally})
            if own is not None:
                self._stateful.set_state(own)
            getattr(self._data, name)()
        self._events = list(state["events"])
        self._stateful.set_state(objects)
        if _is_tf_data(self._data):
            dataset = self._iterator.data_adapter._dataset
            for _ in range(state["read"] - self._read):
                iter(dataset)  # Draws the next order without reading.
            self._read = state["read"]

    def _count(self, adapter):
        """Counts how often a `tf.data.Dataset` is read, which decides its order."""
        if not IS_TENSORFLOW:
            adapter._dataset = _Counted(adapter._dataset, self._is_read)
            return
        make = self._iterator._get_iterator

        def counted():
            self._is_read()
            return make()

        self._iterator._get_iterator = counted

    def _is_read(self):
        self._read += 1

    def _record(self, adapter, name):
        """Records every call of a hook of the data, and the random numbers drawn."""
        method = getattr(adapter, name)

        def call():
            globally, own = random.state(), self._stateful.state()
            method()
            after = random.state()
            drawn = {k: v for k, v in globally.items() if differ(v, after.get(k))}
            moved = differ(own, self._stateful.state())
            self._events.append([name, drawn, own if moved else None])

        setattr(adapter, name, call)

    # --- Whether it can be read again ---

    def why_not_read_again(self) -> str | None:
        """Returns why its batches cannot be read again in the same order.

        None if an epoch with the same initial state has the same batches. To find out,
        the first batch is read twice, and the state is restored.
        """
        iterator = self._iterator
        if iterator is None:
            return "is not known"
        adapter = iterator.data_adapter
        if iterator.steps_per_epoch is not None:
            return "is read endlessly with `steps_per_epoch`"
        if isinstance(adapter, data_adapters.GeneratorDataAdapter):
            return "is a generator"
        dataset = getattr(adapter, "py_dataset", None)
        if dataset is not None and adapter.enqueuer is not None and adapter.shuffle:
            return "is shuffled by threads, at times that vary"
        reason = "is ordered or altered differently every time"
        if _is_tf_data(self._data):
            # Reading a `tf.data.Dataset` would reshuffle it.
            return reason if _is_drawn_anew(self._data) else None
        state, own = random.state(), self._stateful.state()
        kept = self._stateful.kept()
        attributes = {} if dataset is None else dict(vars(dataset))
        digests = []
        for _ in range(2):
            # The threads of a `PyDataset` begin with an epoch, and read in order.
            data = iterator._get_iterator() if dataset is None else (dataset[0],)
            digests.append(digest(next(iter(data), None)))
            random.set_state(state)
            self._stateful.set_state(own)
        kept.put_back()
        if dataset is not None:  # It may count its batches.
            vars(dataset).update(attributes)
        if digests[0] == digests[1]:
            return None
        arrays = isinstance(adapter, data_adapters.ArrayDataAdapter)
        if arrays and IS_TENSORFLOW and state["tensorflow"]["seed"] is None:
            # TensorFlow draws a new seed whenever it shuffles arrays.
            reason += (
                " (unless you call `keras.utils.set_random_seed(...)` before `fit`)"
            )
        return reason


def _overrides(data, name):
    """Whether data overrides a hook of an epoch."""
    if not isinstance(data, keras.utils.PyDataset):
        return False
    return getattr(type(data), name) is not getattr(keras.utils.PyDataset, name, None)


def _is_tf_data(data):
    return hasattr(data, "element_spec") and hasattr(data, "_inputs")


class _Counted:
    """A `tf.data.Dataset` that calls a function when it is read."""

    def __init__(self, dataset: Any, is_read: Callable[[], None]):
        self._dataset, self._is_read = dataset, is_read

    def __iter__(self):
        self._is_read()
        return iter(self._dataset)

    def __getattr__(self, name):
        return getattr(self._dataset, name)


def _is_drawn_anew(dataset):
    """Whether a `tf.data.Dataset` or its order changes each time."""
    pending = [dataset]
    while pending:
        one = pending.pop()
        # None means True.
        if getattr(one, "_reshuffle_each_iteration", False) is not False:
            return True
        for function in one._functions():
            names = [op.type for op in function.function.graph.get_operations()]
            if any(name in _RANDOM for name in names):
                return True
        pending += one._inputs()
    return False


# Operations whose numbers continue from one reading to the next.
_RANDOM = {
    *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "RandomShuffle"),
    *("TruncatedNormal", "RandomGamma", "RandomPoissonV2", "Multinomial"),
    *("ParameterizedTruncatedNormal", "StatefulUniform", "StatefulStandardNormalV2"),
}


def digest(batch: Any) -> list[str] | None:
    """Returns the shapes and types of a batch's content, and a hash of its bits.

    None if this process does not have all values.
    """
    described, hashed = [], hashlib.blake2b(digest_size=8)
    for leaf in leaves(batch):
        if not getattr(leaf, "is_fully_addressable", True):
            return None
        array = array_of(leaf)
        described.append(f"{array.dtype}{list(array.shape)}")
        # The bytes of Python objects, such as TensorFlow's strings, are addresses.
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array
        hashed.update(content if isinstance(content, bytes) else content.tobytes())
    return [" ".join(described), hashed.hexdigest()]
