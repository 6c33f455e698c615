"""The states of random generators, iterators, files, and users' objects."""

import copy
import io
import random
import sys
import types
from typing import Any

import keras
import numpy as np

from keras_lrs._keras.variables import read, write

_PROTOCOLS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))
# They hold no data, or a run's own state.
LEAVES = (
    *(str, bytes, bytearray, int, float, complex, type(None), np.ndarray, np.generic),
    *(type, types.ModuleType, keras.Variable, keras.Model, keras.Optimizer),
    *(keras.callbacks.Callback, random.SystemRandom),
)
LIBRARIES = ("keras", "numpy", "torch", "tensorflow", "jax", "builtins", "abc")


def known(one: Any) -> str | None:
    """Returns the kind of an object's state; None if it has no known state."""
    return kind_of(one) or kind_of_more(one)


def kind_of_more(one: Any) -> str | None:
    """Returns the kind of a file, or of a user's object that cannot be iterated."""
    if isinstance(one, LEAVES) or kind_of(one):
        return None
    if isinstance(one, io.IOBase):
        return None if _position(one) is None else "file"
    names = protocol(one)
    modules = [getattr(type(one), name).__module__ for name in names or ()]
    users = names and not any(m.partition(".")[0] in LIBRARIES for m in modules)
    return "protocol" if users else None


def _position(file):
    """Returns the position in a file that is read; None if it cannot be moved."""
    try:
        return file.tell() if file.readable() and file.seekable() else None
    except (OSError, ValueError):  # It is being iterated over, or closed.
        return None


def kind_of(one: Any, is_root: bool = False) -> str | None:
    """Returns the kind of an object's state; None if it has no known state."""
    if isinstance(one, LEAVES):
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
    return "protocol" if protocol(one) else None


def _is_read(one):
    """Whether an object can be iterated, as all sources of data can."""
    return hasattr(type(one), "__next__") or hasattr(type(one), "__iter__")


def described(one: Any) -> str:
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


def protocol(one: Any) -> Any:
    """Returns the names of the methods that get and set an object's state."""
    # Keras starts to read a `DataLoader` one extra time, which the state of torchdata's
    # loader does not survive. Its generators do.
    if is_loader(one, "StatefulDataLoader", "torchdata"):
        return None
    for names in _PROTOCOLS:
        if all(callable(getattr(type(one), name, None)) for name in names):
            return names
    return None


def state_of(one: Any) -> Any:
    """Returns the state of an object: a tree of numbers, strings and arrays."""
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
    return _without_tensors(getattr(one, protocol(one)[0])())


def set_state(one: Any, state: Any) -> None:
    """Restores what `state_of` returned, perhaps in another process."""
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
        getattr(one, protocol(one)[1])(_with_tensors(state))


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
