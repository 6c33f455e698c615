"""Trees of arrays and JSON values in one `.npz` file.

JSON has no NumPy numbers or tuples, and only strings as keys. Such values are written
as a dictionary with one of the keys below, so that they are restored exactly. Values
that cannot be restored exactly raise an error when they are written.
"""

import collections
import io
import json
import zipfile
from typing import Any

import ml_dtypes  # noqa: F401  (Registers `bfloat16` and similar types with NumPy.)
import numpy as np

_ARRAY, _SCALAR, _BYTES, _ITEMS = "__array__", "__scalar__", "__bytes__", "__items__"
_TUPLE = "__tuple__"
_MARKS = {_ARRAY, _SCALAR, _BYTES, _ITEMS, _TUPLE}


def written(tree: dict[str, Any]) -> bytes:
    """Returns the bytes of the file of a tree.

    They are assembled in memory, so that a full disk raises a single error. Closing a
    half-written archive would raise more.

    Args:
        tree: Dicts, lists and tuples of numbers, strings, bytes, None, and arrays of
            any type but Python objects.

    Raises:
        TypeError: If the tree holds anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    content = json.dumps(_packed(tree, arrays))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, tree=np.array(content))  # type: ignore[arg-type]
    return buffer.getvalue()


def check(tree: Any) -> None:
    """Raises `TypeError` if `written` cannot write a part of its tree."""
    _packed(tree, {})


def read(content: bytes) -> dict[str, Any]:
    """Returns the tree in the bytes of a file.

    Raises:
        ValueError: If the bytes were not returned by `written`.
    """
    try:
        check_unpacked(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = set(arrays.files) - {"tree"}
            found = _unpacked(json.loads(str(arrays["tree"])), arrays, names)
    except Exception as error:  # NumPy may raise anything for foreign bytes.
        raise ValueError(f"it holds no state: {error!r}") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds no state, but {type(found).__name__}")
    return found


def check_unpacked(content: bytes) -> None:
    """Raises `ValueError` if the arrays of a file take more memory than the file.

    NumPy does not compress them, but someone else may have compressed gigabytes of
    zeros.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
    if sum(sizes) > len(content):
        raise ValueError(f"its arrays would take {sum(sizes)} bytes")


def _packed(tree, arrays):
    """Returns the JSON of a tree and moves its arrays to `arrays`."""
    kind = type(tree)
    # Keras wraps the containers that its layers hold, and returns the wrappers.
    if kind.__module__.startswith("keras.") and isinstance(tree, (dict, list)):
        tree = dict(tree) if isinstance(tree, dict) else list(tree)
    if type(tree) in _DICTS:
        keys = set(tree)
        if all(type(key) is str for key in keys) and not keys & _MARKS:
            return {key: _packed(value, arrays) for key, value in tree.items()}
        items = [[_key(key), _packed(value, arrays)] for key, value in tree.items()]
        return {_ITEMS: items}
    if type(tree) is list:
        return [_packed(item, arrays) for item in tree]
    if type(tree) is tuple:
        return {_TUPLE: [_packed(item, arrays) for item in tree]}
    if isinstance(tree, np.generic) and _is_named(tree.dtype):
        return {_SCALAR: tree.tobytes().hex(), "dtype": tree.dtype.name}
    if isinstance(tree, np.generic):
        return {**_packed_array(np.asarray(tree), arrays), "scalar": True}
    if type(tree) in _ARRAYS:
        return _packed_array(tree, arrays)
    if type(tree) is bytes:
        return {_BYTES: tree.hex()}
    if tree is None or type(tree) in (str, int, float, bool):
        return tree
    raise TypeError(
        "A state must be made of dicts, lists, tuples, numbers, strings, bytes, None "
        f"and arrays. Received: {tree!r} of type {type(tree).__name__}"
    )


# Subclasses would lose what they add, such as a default or a mask.
_DICTS = (dict, collections.OrderedDict)
_ARRAYS = (np.ndarray, np.memmap)


def _key(key):
    if key is not None and type(key) not in (str, int, float, bool):
        raise TypeError(
            "The keys of a state's dicts must be strings, numbers or None. "
            f"Received: {key!r} of type {type(key).__name__}"
        )
    return key


def _packed_array(array, arrays):
    name = f"array-{len(arrays)}"
    if _is_named(array.dtype):
        # Stored as bytes, because the file format knows only NumPy's own types.
        flat = np.ascontiguousarray(array).reshape(-1)
        arrays[name] = flat.view(np.uint8)
        return {_ARRAY: name, "dtype": array.dtype.name, "shape": array.shape}
    if not _is_native(array.dtype):
        raise TypeError(
            "The arrays of a state must be of numbers, strings, dates or records of "
            f"these. Received: an array of dtype {array.dtype!r}"
        )
    arrays[name] = np.asarray(array)
    return {_ARRAY: name}


def _is_named(dtype):
    """Whether the name of a type describes it completely."""
    if dtype.hasobject or dtype.metadata or dtype.itemsize == 0 or dtype.kind in "SU":
        return False
    try:
        return np.dtype(dtype.name) == dtype
    except TypeError:  # The name of a record type is not a type.
        return False


def _is_native(dtype):
    """Whether NumPy's file format preserves a type."""
    if dtype.hasobject or dtype.metadata:
        return False
    try:
        description = np.lib.format.dtype_to_descr(dtype)
        return np.lib.format.descr_to_dtype(description) == dtype
    except (TypeError, ValueError):
        return False


def _unpacked(tree, arrays, names):
    """Returns the tree of a JSON; takes each array's name out of `names`.

    If a file could refer to an array many times, a small one could fill the memory.
    """
    if isinstance(tree, list):
        return [_unpacked(item, arrays, names) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _ARRAY in tree:
        name = tree[_ARRAY]
        if name not in names:
            raise ValueError(f"it refers to {name} twice, or does not hold it")
        names.remove(name)
        array = arrays[name]
        if "dtype" in tree:
            array = array.view(tree["dtype"]).reshape(tree["shape"])
        return array[()] if tree.get("scalar") else array
    if _SCALAR in tree:
        content = bytes.fromhex(tree[_SCALAR])
        return np.frombuffer(content, tree["dtype"])[0]
    if _BYTES in tree:
        return bytes.fromhex(tree[_BYTES])
    if _TUPLE in tree:
        return tuple(_unpacked(item, arrays, names) for item in tree[_TUPLE])
    if _ITEMS in tree:
        return {key: _unpacked(value, arrays, names) for key, value in tree[_ITEMS]}
    return {key: _unpacked(value, arrays, names) for key, value in tree.items()}
