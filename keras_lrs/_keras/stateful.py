"""Finds the state in a user's data: random generators and stateful iterators."""

import collections
import contextlib
import copy
import functools
import io
import itertools
import pickle
import random
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._keras.variables import read, write

_MOST = 5000  # Objects that are searched; of a longer list or dict only the first ones.
_PROTOCOLS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))
# They hold no data, or a run's own state.
_LEAVES = (
    *(str, bytes, bytearray, int, float, complex, type(None), np.ndarray, np.generic),
    *(type, types.ModuleType, keras.Variable, keras.Model, keras.Optimizer),
    *(keras.callbacks.Callback, random.SystemRandom),
)
_WITHOUT_DATA = ("concurrent.futures", "multiprocessing.pool", "logging")
_LIBRARIES = ("keras", "numpy", "torch", "tensorflow", "jax", "builtins", "abc")


class Stateful:
    """The objects with a state in some data, in a reproducible order.

    They are the object itself, what it holds, what its functions refer to, and what its
    classes hold.

    Args:
        data: Any object; None for no data.
    """

    def __init__(self, data: Any):
        self.protocol = _protocol(data)
        found = [data] if self.protocol else walked(data)
        first = [one for one in found if _kind(one, is_root=one is data)]
        more = [] if self.protocol else [*filter(_kind_of_more, found)]
        more += [] if self.protocol else [*filter(known, _of_classes(found))]
        self._own = list({id(one): one for one in first + more}.values())
        # Version 0.2.0 saved the states of these only.
        self._first = len(first)

    def state(self) -> list:
        """Returns the kinds and states of all: trees of numbers, strings and arrays."""
        return [[_described(one), _state(one)] for one in self._own]

    def fits(self, states: list) -> bool:
        """Whether states belong to the same number of objects of the same kinds."""
        own = [_described(one) for one in self._own]
        return [kind for kind, _ in states] in (own, own[: self._first])

    def without(self, states: list) -> list[str]:
        """Returns the classes of the objects that have none of some states."""
        return [_described(one) for one in self._own[len(states) :]]

    def set_state(self, states: list) -> None:
        """Restores what `state` returned, in this process or in another."""
        for one, (_, state) in zip(self._own, states, strict=False):
            _set_state(one, state)

    def kept(self) -> "Kept":
        """Returns a copy of the states."""
        return Kept([(one, _state(one)) for one in self._own])


class Kept:
    """States of objects in this process that can be restored."""

    def __init__(self, pairs: list):
        self._pairs = pairs

    def put_back(self) -> None:
        """Restores the states."""
        for one, state in self._pairs:
            _set_state(one, state)


def differ(state: Any, other: Any) -> bool:
    """Whether two states, as trees of the same kind, differ."""
    return pickle.dumps(state) != pickle.dumps(other)


# --- Finding ---


def walked(data: Any) -> list:
    """Returns the objects that some data holds, each once, itself first."""
    found: list = []
    seen, queue = {id(data)}, collections.deque([data])
    while queue and len(found) < _MOST:
        one = queue.popleft()
        if is_loader(one, "_BaseDataLoaderIter"):
            continue  # There is a new one in every epoch.
        if type(one).__module__.startswith(_WITHOUT_DATA):
            continue
        found.append(one)
        if _kind(one):
            continue
        for child in children(one):
            if id(child) not in seen and not isinstance(child, _LEAVES):
                seen.add(id(child))
                queue.append(child)
    return found


def children(one: Any) -> list:
    """Returns what an object holds and what its functions refer to."""
    found = []
    with contextlib.suppress(Exception):  # Users' containers may raise any.
        for child in _children(one):
            # What a proxy refers to may be gone, and whatever holds it is elsewhere.
            if type(child) not in weakref.ProxyTypes:
                found.append(child)
    return found


def _children(one) -> Iterator:
    # Lists are made at once, because threads may change what they are made of.
    if isinstance(one, dict):
        yield from list(itertools.islice(one.values(), _MOST))
    elif isinstance(one, (list, tuple, set, frozenset, collections.deque)):
        yield from list(itertools.islice(one, _MOST))
    elif isinstance(one, types.FunctionType):
        yield from _referred(one)
    elif isinstance(one, types.MethodType):
        yield from (one.__self__, one.__func__)
    elif isinstance(one, functools.partial):
        yield from (one.func, one.args, one.keywords)
    else:
        yield from attributes_of(one).values()
        for kind in own_classes(one):
            for value in vars(kind).values():
                if isinstance(value, types.FunctionType):
                    yield from _referred(value)


def attributes_of(one: Any) -> dict[str, Any]:
    """Returns the attributes of an object, also those in `__slots__`."""
    found = dict(vars(one)) if hasattr(one, "__dict__") else {}
    for name, member in _members(one).items():
        with contextlib.suppress(AttributeError):  # It has no value.
            found[name] = member.__get__(one)
    return found


def set_attributes(one: Any, attributes: dict[str, Any]) -> None:
    """Gives an object the attributes that `attributes_of` returned, and no others."""
    members = _members(one)
    for name in attributes_of(one).keys() - attributes.keys():
        if name in members:
            members[name].__delete__(one)
        else:
            del vars(one)[name]
    for name, value in attributes.items():
        if name in members:
            members[name].__set__(one, value)  # Works in frozen classes too.
        else:
            vars(one)[name] = value


def _members(one):
    """Returns what reads and writes the attributes in an object's `__slots__`."""
    return {
        name: member
        for kind in own_classes(one)
        for name, member in vars(kind).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def _referred(function) -> Iterator:
    """Yields what a function refers to: defaults, closure, generators and functions."""
    yield from function.__defaults__ or ()
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # It is not assigned yet.
            continue
        if _kind(content) or isinstance(content, types.FunctionType):
            yield content
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if _kind(value) or _is_users_function(value):
            yield value


def _names(code) -> Iterator:
    """Yields the global names in a function, and in those inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_users_function(one):
    package = (getattr(one, "__module__", None) or "").partition(".")[0]
    is_function = isinstance(one, types.FunctionType)
    return is_function and package not in (*_LIBRARIES, *sys.stdlib_module_names)


def _of_classes(found) -> list:
    return [
        value
        for one in found
        for kind in own_classes(one)
        for value in vars(kind).values()
        if not isinstance(value, _LEAVES)
    ]


def own_classes(one: Any) -> list:
    """Returns the user's classes of an object."""
    return [
        kind
        for kind in type(one).__mro__
        if kind.__module__.partition(".")[0] not in _LIBRARIES
    ]


# --- States ---


def known(one: Any) -> str | None:
    """Returns the kind of an object's state; None if it has no known state."""
    return _kind(one) or _kind_of_more(one)


def _kind_of_more(one) -> str | None:
    """Returns the kind of a file, or of a user's object that cannot be iterated."""
    if isinstance(one, _LEAVES) or _kind(one):
        return None
    if isinstance(one, io.IOBase):
        return None if _position(one) is None else "file"
    names = _protocol(one)
    modules = [getattr(type(one), name).__module__ for name in names or ()]
    users = names and not any(m.partition(".")[0] in _LIBRARIES for m in modules)
    return "protocol" if users else None


def _position(file):
    """Returns the position in a file that is read; None if it cannot be moved."""
    try:
        return file.tell() if file.readable() and file.seekable() else None
    except (OSError, ValueError):  # It is being iterated over, or closed.
        return None


def _kind(one, is_root=False) -> str | None:
    """Returns the kind of an object's state; None if it has no known state."""
    if isinstance(one, _LEAVES):
        return None
    if isinstance(one, (np.random.Generator, np.random.BitGenerator)):
        return "numpy"
    if isinstance(one, np.random.RandomState):
        return "legacy"
    if isinstance(one, random.Random):
        return "python"
    if isinstance(one, keras.random.SeedGenerator):
        return "keras"
    torch, tf = sys.modules.get("torch"), sys.modules.get("tensorflow")
    if torch is not None and isinstance(one, torch.Generator):
        return "torch"
    if tf is not None and isinstance(one, tf.random.Generator):
        return "tensorflow"
    if torch is not None and isinstance(one, torch.nn.Module):
        return None
    if not (is_root or (_is_read(one) and not is_loader(one))):
        return None
    return "protocol" if _protocol(one) else None


def _is_read(one):
    """Whether an object can be iterated, as all sources of data can."""
    return hasattr(type(one), "__next__") or hasattr(type(one), "__iter__")


def _described(one):
    """Returns the class whose objects can take an object's state."""
    return type(getattr(one, "bit_generator", one)).__qualname__


def is_loader(
    one: Any, name: str = "DataLoader", module: str = "torch.utils.data"
) -> bool:
    """Whether an object is PyTorch's data loader, or iterates over one."""
    return any(
        kind.__name__ == name and kind.__module__.startswith(module)
        for kind in type(one).__mro__
    )


def _protocol(one) -> Any:
    """Returns the names of the methods that get and set an object's state."""
    # Keras starts to read a `DataLoader` one extra time, which the state of torchdata's
    # loader does not survive. Its generators do.
    if is_loader(one, "StatefulDataLoader", "torchdata"):
        return None
    for names in _PROTOCOLS:
        if all(callable(getattr(type(one), name, None)) for name in names):
            return names
    return None


def _state(one):
    kind = known(one)
    if kind == "numpy":
        return getattr(one, "bit_generator", one).state
    if kind == "legacy":
        return one.get_state(legacy=False)
    if kind == "python":
        version, numbers, gauss = one.getstate()
        return [version, np.array(numbers, np.uint32), gauss]
    if kind == "keras":
        return read([one.state])[0]
    if kind == "torch":
        return one.get_state().numpy().copy()
    if kind == "tensorflow":
        return one.state.numpy()
    if kind == "file":
        return _position(one)
    return _without_tensors(getattr(one, _protocol(one)[0])())


def _set_state(one, state):
    kind = known(one)
    if kind == "numpy":
        getattr(one, "bit_generator", one).state = state
    elif kind == "legacy":
        one.set_state(state)
    elif kind == "python":
        version, numbers, gauss = state
        one.setstate((version, tuple(numbers.tolist()), gauss))
    elif kind == "keras":
        write([one.state], [state])
    elif kind == "torch":
        one.set_state(sys.modules["torch"].from_numpy(state))
    elif kind == "tensorflow":
        one.state.assign(state)
    elif kind == "file":
        one.seek(state)
    else:
        getattr(one, _protocol(one)[1])(_with_tensors(state))


_TENSOR = "__torch__"


def _without_tensors(state):
    """Returns a state with arrays in place of PyTorch's tensors, for files."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(state, torch.Tensor):
        return {_TENSOR: state.detach().cpu().numpy().copy()}
    if isinstance(state, dict):
        return {key: _without_tensors(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_without_tensors(value) for value in state)
    return copy.deepcopy(state)  # The object may change it in place.


def _with_tensors(state):
    if isinstance(state, dict) and state.keys() == {_TENSOR}:
        return sys.modules["torch"].from_numpy(np.array(state[_TENSOR]))
    if isinstance(state, dict):
        return {key: _with_tensors(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_with_tensors(value) for value in state)
    return copy.deepcopy(state)
