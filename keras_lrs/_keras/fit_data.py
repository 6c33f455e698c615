"""The data of a `fit`, and its state from epoch to epoch."""

import hashlib
from collections.abc import Callable
from typing import Any

import keras
from keras.src.trainers import data_adapters

from keras_lrs._keras import random
from keras_lrs._keras.backend import IS_TENSORFLOW, IS_TORCH
from keras_lrs._keras.contents import DataState, unknown, untouched
from keras_lrs._keras.fit_loop import (
    array_of,
    components,
    iterator_and_data,
    leaves,
    validation_data,
)
from keras_lrs._keras.stateful import Stateful, differ
from keras_lrs._keras.states import is_loader

_EVENTS = ("on_epoch_begin", "on_epoch_end")
_OWN = "own"  # The generators of the data itself, beside the global ones.


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
        self._memory = DataState(self._data)
        self._events: list = []
        self._replayed: dict[str, Any] = {}  # The states in which a replay would end.
        if not Stateful(self._data).protocol:
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
        arrays = [part for leaf in leaves(adapter._inputs) for part in components(leaf)]
        return digest([array[:: max(len(array) // 16, 1)] for array in arrays])

    # --- The state of the data ---

    def state(self) -> dict[str, Any]:
        """Returns the state as a tree of numbers, strings and arrays."""
        return {
            **self._memory.state(),
            "events": list(self._events),
            "read": self._read,
        }

    def set_state(self, state: dict[str, Any]) -> list[str]:
        """Gives the data the state of equal data, perhaps from another process.

        It draws random numbers, so set the state of the global generators afterwards.

        Returns:
            The names of what has changed in the other process and was not restored.
        """
        if self._memory.fits(state):
            lost = self._replay(state["events"])
            if lost:
                return lost
        lost = self._memory.set_state(state)
        if _is_tf_data(self._data):
            dataset = self._iterator.data_adapter._dataset
            for _ in range(state["read"] - self._read):
                iter(dataset)  # Draws the next order without reading.
            self._read = state["read"]
        return lost

    def left_as_restored(self, names: list[str]) -> list[str]:
        """As `DataState.left_as_restored`."""
        return self._memory.left_as_restored(names)

    def _replay(self, events):
        """Calls the hooks of the data again; returns the name of one it lacks."""
        for name, globally, own in events:
            if not _overrides(self._data, name):
                return [f"`{name}`"]
            if globally:
                random.set_state({**random.state(), **globally})
                self._replayed.update(globally)
            if own is not None:
                Stateful(self._data).set_state(own)
                self._replayed[_OWN] = own
            getattr(self._data, name)()
        self._events = list(events)
        self._note_replayed(random.state())
        return []

    def _note_replayed(self, globally):
        """Notes the states in which a replay of all events so far would end."""
        found = {**globally, _OWN: Stateful(self._data).state()}
        self._replayed = {k: v for k, v in found.items() if k in self._replayed}

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
        """Records every call of a hook of the data, and the random numbers drawn.

        A state is left out if the hook before has left it so, as a replay will.
        """
        method = getattr(adapter, name)

        def call():
            before = {**random.state(), _OWN: Stateful(self._data).state()}
            method()
            after = {**random.state(), _OWN: Stateful(self._data).state()}
            drawn = {k: v for k, v in before.items() if differ(v, after.get(k))}
            told = {
                name: state
                for name, state in drawn.items()
                if differ(state, self._replayed.get(name))
            }
            own = told.pop(_OWN, None)
            self._events.append([name, told, own])
            self._replayed.update((name, after[name]) for name in drawn)

        setattr(adapter, name, call)

    # --- Whether it can be read again ---

    def why_not_read_again(self, probe: bool = True) -> str | None:
        """Returns why its batches cannot be read again in the same order.

        None if an epoch with the same initial state has the same batches. To find out,
        the first batch is read twice, and everything is put back.

        Args:
            probe: Whether to find out; otherwise only the kind of the data decides.
        """
        iterator = self._iterator
        if iterator is None:
            return "is not known"
        adapter = iterator.data_adapter
        if iterator.steps_per_epoch is not None and (probe or not self._is_whole()):
            return "is read endlessly with `steps_per_epoch`"
        if isinstance(adapter, data_adapters.GeneratorDataAdapter):
            return "is a generator"
        return self._probe(adapter) if probe else None

    def _is_whole(self):
        """Whether every epoch takes all batches of arrays, and nothing else."""
        adapter = self._iterator.data_adapter
        # PyTorch draws a random number for the next epoch before this one ends.
        arrays = isinstance(adapter, data_adapters.ArrayDataAdapter) and not IS_TORCH
        return arrays and adapter.num_batches == self._iterator.steps_per_epoch

    def _probe(self, adapter):
        dataset = getattr(adapter, "py_dataset", None)
        if dataset is not None and adapter.enqueuer is not None and adapter.shuffle:
            return "is shuffled by threads, at times that vary"
        reason = "is ordered or altered differently every time"
        if _is_tf_data(self._data):
            # Reading a `tf.data.Dataset` would reshuffle it.
            return reason if _is_drawn_anew(self._data) else None
        if continuing := unknown(self._data):
            return f"holds `{continuing[0]}`, which cannot be put back"
        read = self._iterator._get_iterator
        if dataset is not None:
            # The threads of a `PyDataset` begin with an epoch, and read in order.
            read = lambda: (dataset[0],)  # noqa: E731
        elif is_loader(self._data):
            read = adapter.get_numpy_iterator  # TensorFlow would read ahead.
        digests = []
        with untouched(self._data):
            before, own = random.state(), Stateful(self._data)
            states = own.state()
            for _ in range(2):
                digests.append(digest(next(iter(read()), None)))
                random.set_state(before)  # What another process can restore.
                own.set_state(states)
        if digests[0] == digests[1]:
            return None
        arrays = isinstance(adapter, data_adapters.ArrayDataAdapter)
        if arrays and IS_TENSORFLOW and random.state()["tensorflow"]["seed"] is None:
            # TensorFlow draws a new seed whenever it shuffles arrays.
            reason += (
                " (unless you call `keras.utils.set_random_seed(...)` before `fit`)"
            )
        return reason


class ValidationData:
    """The validation data of the `fit` that is calling the callbacks.

    Its hooks are not repeated, so what they change is not restored.
    """

    def __init__(self, model: Any):
        self._memory = DataState(validation_data(model))

    def state(self) -> dict[str, Any]:
        """Returns the state as a tree of numbers, strings and arrays."""
        return self._memory.state()

    def set_state(self, state: dict[str, Any]) -> list[str]:
        """Restores the state; returns the names of what is not as it was."""
        data = self._memory.data
        shuffled = _is_tf_data(data) and _is_drawn_anew(data)
        return [*self._memory.set_state(state), *(["its order"] if shuffled else [])]

    def left_as_restored(self, names: list[str]) -> list[str]:
        """As `DataState.left_as_restored`."""
        return self._memory.left_as_restored(names)

    def is_read_when_made(self) -> bool:
        """Whether the first validation of a `fit` reads it before it begins."""
        data = self._memory.data
        if data is None or not IS_TENSORFLOW:
            return False
        # A hook that is called before it begins may draw as well.
        return not any(_overrides(data, name) for name in _EVENTS)


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
    pairs = [(leaf, part) for leaf in leaves(batch) for part in components(leaf)]
    for leaf, part in pairs:
        if not getattr(part, "is_fully_addressable", True):
            return None
        array = array_of(part)
        # The parts of a sparse array are as long as it has values.
        shape = list(array.shape) if part is leaf else "sparse"
        described.append(f"{array.dtype}{shape}")
        # The bytes of Python objects, such as TensorFlow's strings, are addresses.
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array
        hashed.update(content if isinstance(content, bytes) else content.tobytes())
    return [" ".join(described), hashed.hexdigest()]
