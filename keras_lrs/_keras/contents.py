"""Compares what a user's data holds at two times, and puts it back after a reading."""

import collections
import contextlib
import copy
import hashlib
import io
import itertools
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_lrs._keras import interrupts, random
from keras_lrs._keras.objects import (
    attributes_of,
    children,
    own_classes,
    set_attributes,
    walked,
)
from keras_lrs._keras.stateful import Stateful
from keras_lrs._keras.states import is_loader, known

_WHOLE = 2**20  # Bytes of an array that are hashed; of a larger one some elements.
_SOME = 4096
_COPIED = 2**28  # Bytes of all arrays that are copied; larger ones hold samples.
_MOST = 20_000  # Values of an attribute that are hashed.
_DEPTH = 4
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque)
_CHANGING = (
    *(dict, list, set, collections.deque, collections.OrderedDict),
    *(collections.defaultdict, collections.Counter),
)


class DataState:
    """What some data remembers: the states of its generators, and its other values.

    The states can be restored. Of the values, hashes show whether they are as before.
    An object with methods for its state is trusted to tell all of it.

    Args:
        data: Any object; None for no data.
    """

    def __init__(self, data: Any):
        self.data = data
        self._first = self._restored = self._digests()

    def state(self) -> dict[str, Any]:
        """Returns the states, and hashes of the values that have changed since."""
        changed = {
            name: value
            for name, value in self._digests().items()
            if value != self._first.get(name)
        }
        return {"objects": Stateful(self.data).state(), "changed": changed}

    def fits(self, state: dict[str, Any]) -> bool:
        """Whether a state belongs to such data."""
        return Stateful(self.data).fits(state["objects"])

    def set_state(self, state: dict[str, Any]) -> list[str]:
        """Restores the states; returns the names of what is not as it was."""
        stateful = Stateful(self.data)
        if not stateful.fits(state["objects"]):
            names = {f"a `{kind}`" for kind, _ in state["objects"]}
            return sorted(names) or ["random generators"]
        stateful.set_state(state["objects"])
        found, changed = self._digests(), state.get("changed", {})
        self._restored = found
        lost = [name for name in changed if changed[name] != found.get(name)]
        lost += stateful.without(state["objects"])
        lost += [] if stateful.protocol else unknown(self.data)
        return [f"`{name}`" for name in sorted(set(lost))]

    def left_as_restored(self, names: list[str]) -> list[str]:
        """Returns those of `set_state`'s names that nobody has given a value since.

        Callbacks may set what an epoch needs when it begins.
        """
        found = self._digests()
        keys = {name: name.strip("`") for name in names}
        return [
            name
            for name, key in keys.items()
            if found.get(key) == self._restored.get(key)
        ]

    def _digests(self):
        return {} if Stateful(self.data).protocol else digests(self.data)


def digests(data: Any) -> dict[str, str]:
    """Returns hashes of the values that some data holds, by the names of attributes.

    Objects whose state `Stateful` restores are left out.
    """
    found: dict[str, Any] = {}
    for name, value in _attributes(walked(data)):
        hashed = found.setdefault(name, hashlib.blake2b(digest_size=8))
        try:
            for part in itertools.islice(_parts(value), _MOST):
                hashed.update(part)
        except Exception:  # Users' objects may raise any.
            hashed.update(type(value).__name__.encode())
    return {name: hashed.hexdigest() for name, hashed in found.items()}


def unknown(data: Any) -> list[str]:
    """Returns the names of what continues where it was and tells nobody where."""
    objects = walked(data)
    names = {id(value): name for name, value in _attributes(objects)}
    held = [each for one in objects if not is_loader(one) for each in children(one)]
    found = {id(one): one for one in [*objects, *held] if _continues(one)}
    return [names.get(key, type(one).__name__) for key, one in found.items()]


@contextlib.contextmanager
def untouched(data: Any) -> Iterator[None]:
    """Restores global random numbers and what some data holds after reading it."""
    state, copies = random.state(), _Copies(data)
    with interrupts.undoing() as undo:
        undo.callback(copies.put_back)
        undo.callback(random.set_state, state)
        yield


class _Copies:
    """Copies of what some data holds: of arrays at most 256 MiB, the smallest first."""

    def __init__(self, data):
        objects = walked(data)
        self._attributes = [
            (one, attributes_of(one))
            for one in objects
            if _is_users(one) or _is_torchs(one)
        ]
        classes = {kind: None for one in objects for kind in _classes(one)}
        self._classes = [(kind, dict(vars(kind))) for kind in classes]
        self._containers = [(one, copy.copy(one)) for one in objects if _changes(one)]
        self._arrays = _copies_of_arrays(objects)
        self._states = Stateful(data).kept()

    def put_back(self):
        for one, attributes in self._attributes:
            set_attributes(one, attributes)
        for kind, attributes in self._classes:
            for name in vars(kind).keys() - attributes.keys():
                # A count goes; what a class has prepared once stays.
                if isinstance(vars(kind)[name], _PLAIN) and name[:2] != "__":
                    with contextlib.suppress(AttributeError, TypeError):
                        delattr(kind, name)
            for name, value in attributes.items():
                if vars(kind).get(name) is not value:
                    setattr(kind, name, value)
        for one, values in self._containers:
            one.clear()
            add = "update" if isinstance(one, (dict, set)) else "extend"
            getattr(one, add)(values)
        for one, values in self._arrays:
            one[...] = values
        self._states.put_back()


# --- What it holds ---


def _attributes(objects) -> Iterator:
    """Yields the names and values of the attributes of a user's objects and classes."""
    for one in objects:
        for kind in _classes(one):
            for name, value in list(vars(kind).items()):
                if isinstance(value, (*_PLAIN, *_CONTAINERS)) and name[:2] != "__":
                    yield f"{kind.__name__}.{name}", value
        if _is_users(one) and known(one) is None:
            for name, value in attributes_of(one).items():
                yield f"{type(one).__name__}.{name}", value


def _parts(value, depth=_DEPTH) -> Iterator[bytes]:
    """Yields bytes that stand for a value in any process."""
    torch = sys.modules.get("torch")
    if type(value) is int:
        yield hex(value).encode()  # Long ones have no decimals.
    elif isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif isinstance(value, np.ndarray):
        yield from _parts_of_array(value, depth)
    elif torch is not None and isinstance(value, torch.Tensor):
        if value.device.type == "cpu" and value.layout is torch.strided:
            flat = value.detach().resolve_conj().resolve_neg().reshape(-1)
            few = _some(flat, value.nbytes, depth).contiguous()
            yield few.view(torch.uint8).numpy().tobytes()
    elif type(value).__name__ == "ArrayImpl":  # An array, or a key, of JAX.
        if value.nbytes <= _WHOLE:
            yield repr(value).encode()
    elif isinstance(value, _CONTAINERS) and depth:
        yield f"{type(value).__name__}{len(value)}".encode()
        items = itertools.islice(
            value.items() if isinstance(value, dict) else value, _MOST
        )
        if not isinstance(value, (set, frozenset)):
            for item in list(items):
                yield from _parts(item, depth - 1)
        elif len(value) <= _MOST:  # Its order differs from process to process.
            yield from sorted(b"".join(_parts(item, 1)) for item in items)
    elif hasattr(type(value), "iloc"):  # The index tells the order of a pandas table.
        yield from _parts(value.index.to_numpy(), depth)
    else:
        yield type(value).__name__.encode()


def _parts_of_array(array, depth):
    yield f"{array.dtype}{array.shape}".encode()
    if isinstance(array, np.memmap) and array.nbytes > _WHOLE:
        return  # Reading it takes long.
    few = _some(array.flat, array.nbytes, depth)
    if not array.dtype.hasobject:
        yield few.tobytes()
    elif depth:
        for item in few:
            yield from _parts(item, depth - 1)


def _some(elements, size, depth):
    """Returns all elements of an array, or some of a large one or one in a list."""
    few = _SOME if depth == _DEPTH else _SOME // 64
    is_small = size <= (_WHOLE if depth == _DEPTH else _WHOLE // 256)
    return elements[:: 1 if is_small else max(len(elements) // few, 1)]


def _classes(one):
    return [kind for kind in own_classes(one) if not _is_standard(kind)]


def _is_standard(kind):
    name = kind.__module__.partition(".")[0]
    return name in sys.stdlib_module_names or name in ("jaxlib", "google")


def _is_users(one):
    if _is_standard(type(one)) or not _classes(one):
        return False
    return hasattr(one, "__dict__") or bool(attributes_of(one))


def _is_torchs(one):
    """Whether an object is a loader, sampler or dataset of PyTorch."""
    return type(one).__module__.startswith("torch.utils.data")


def _continues(one):
    """Whether reading an object changes it in a way that is not seen."""
    if isinstance(one, io.IOBase):
        return not one.closed and one.readable() and not known(one)
    if isinstance(one, (threading.Thread, queue.Queue, queue.SimpleQueue)):
        return True
    if type(one).__module__ == "multiprocessing.queues":
        return True
    return hasattr(type(one), "__next__") and not known(one) and not _is_users(one)


def _changes(one):
    """Whether an object is a container whose content can be put back."""
    return type(one) in _CHANGING


def _is_writable(one):
    """Whether an object is a tensor of PyTorch whose values can be written."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(one, torch.Tensor):
        return False
    if one.layout is not torch.strided or one.is_nested or one.is_meta:
        return False
    # An expanded tensor has several elements in one place.
    sizes = zip(one.shape, one.stride(), strict=True)
    expanded = any(size > 1 and stride == 0 for size, stride in sizes)
    return not (expanded or one.requires_grad or one.is_inference())


def _copies_of_arrays(objects):
    """Returns pairs of an array or tensor and its copy."""
    held = [*objects, *(each for one in objects for each in children(one))]
    found = {
        id(one): one
        for one in held
        if (isinstance(one, np.ndarray) and one.flags.writeable) or _is_writable(one)
    }
    smallest = sorted(found.values(), key=lambda one: one.nbytes)
    sums = itertools.accumulate(one.nbytes for one in smallest)
    few = [one for one, total in zip(smallest, sums, strict=True) if total <= _COPIED]
    return [
        (one, one.copy() if isinstance(one, np.ndarray) else one.clone()) for one in few
    ]
