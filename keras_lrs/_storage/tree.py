"""Trees of arrays and JSON values in one `.npz` file."""

import io
import json
import zipfile
from typing import Any

import ml_dtypes  # noqa: F401  (Registers `bfloat16` and the like with NumPy.)
import numpy as np

_ARRAY = "__array__"


def written(tree: dict[str, Any]) -> bytes:
    """Returns the bytes of the file of a tree.

    They are made in memory: where the disk is full, writing them is a single error, and
    closing a half-written archive raises others.

    Args:
        tree: Dicts with string keys, lists and tuples of numbers, strings, None and
            arrays.

    Raises:
        TypeError: If the tree holds anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    content = json.dumps(_packed(tree, arrays))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, tree=np.array(content))  # type: ignore[arg-type]
    return buffer.getvalue()


def read(content: bytes) -> dict[str, Any]:
    """Returns the tree in the bytes of a file.

    Raises:
        ValueError: If they are not what `written` returns.
    """
    try:
        check_unpacked(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = _unpacked(json.loads(str(arrays["tree"])), arrays)
    except Exception as error:  # NumPy raises anything for bytes that it did not write.
        raise ValueError(f"it holds no state: {error!r}") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds no state, but {type(found).__name__}")
    return found


def check_unpacked(content: bytes) -> None:
    """Raises `ValueError` if the arrays of a file take more memory than the file.

    NumPy writes them as they are; someone else may have compressed gigabytes of zeros.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
    if sum(sizes) > len(content):
        raise ValueError(f"its arrays would take {sum(sizes)} bytes")


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
