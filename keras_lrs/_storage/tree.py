"""Trees of arrays and JSON values in one `.npz` file."""

import io
import json
import pathlib
from typing import Any

import ml_dtypes  # noqa: F401  (Registers `bfloat16` and the like with NumPy.)
import numpy as np

_ARRAY = "__array__"


def write(path: pathlib.Path, tree: dict[str, Any]) -> None:
    """Writes a tree to a new file.

    Args:
        path: The file, which must not exist.
        tree: Dicts with string keys, lists and tuples of numbers, strings, None and
            arrays.

    Raises:
        TypeError: If the tree holds anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    content = json.dumps(_packed(tree, arrays))
    with open(path, "xb") as file:
        np.savez(file, **arrays, tree=np.array(content))  # type: ignore[arg-type]


def read(content: bytes) -> dict[str, Any]:
    """Returns the tree in the bytes of a file that `write` has written."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return _unpacked(json.loads(str(arrays["tree"])), arrays)


def _packed(tree, arrays):
    """Returns the JSON of a tree and moves its arrays to `arrays`."""
    if isinstance(tree, dict):
        return {str(key): _packed(value, arrays) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_packed(item, arrays) for item in tree]
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray):
        name = f"array-{len(arrays)}"
        # As bytes: the file format knows only NumPy's own types.
        arrays[name] = np.ascontiguousarray(tree).reshape(-1).view(np.uint8)
        return {_ARRAY: name, "dtype": tree.dtype.name, "shape": tree.shape}
    if tree is None or isinstance(tree, (str, int, float)):
        return tree
    raise TypeError(
        "A state must be made of dicts, lists, numbers, strings, None and arrays. "
        f"Received: {tree!r}"
    )


def _unpacked(tree, arrays):
    if isinstance(tree, list):
        return [_unpacked(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _ARRAY in tree:
        return arrays[tree[_ARRAY]].view(tree["dtype"]).reshape(tree["shape"])
    return {key: _unpacked(value, arrays) for key, value in tree.items()}
