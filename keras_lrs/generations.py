"""The folder of a training that can go on: what it was, at two of its moments.

A generation is one file. The manifest is replaced whole after it, so at every moment it
names files that are there and complete, the newest first, with their hashes.
"""

import dataclasses
import io
import json
import os
import pathlib
import warnings
from typing import Any

import ml_dtypes  # noqa: F401  (Makes NumPy know `bfloat16` and its kind.)
import numpy as np

from keras_lrs import files

FORMAT = 1
MANIFEST = "manifest.json"
_FILES = "generation-*.npz"
_KEPT = 2
_ARRAY = "__array__"


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the manifest says of a generation.

    Args:
        number: That of its file, from 1.
        epoch: The epoch with which the training goes on, from 0.
        batch: How many of its batches are done.
        iterations: How many updates (micro-batches) the optimizer had made.
        sha256: Of the file.
    """

    number: int
    epoch: int
    batch: int
    iterations: int
    sha256: str = ""

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"generation-{self.number:08d}.npz"


class Generations:
    """The generations in a folder, the newest first.

    Args:
        directory: The folder; it need not be there.

    Raises:
        ValueError: If the manifest is damaged, or of a later version.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = pathlib.Path(directory)
        self.manifest = self.directory / MANIFEST
        self.found: list[Generation] = []
        if self.manifest.exists():
            content = files.read_manifest(self.manifest, FORMAT)
            self.found = [_generation(self.manifest, g) for g in content["generations"]]

    def add(self, generation: Generation, tree: dict[str, Any]) -> None:
        """Writes a generation, and drops all but the one before it.

        Args:
            generation: Its number and hash are filled in.
            tree: Dicts with string keys, lists and tuples of numbers, strings, None and
                arrays.
        """
        number = self.found[0].number + 1 if self.found else 1
        generation = dataclasses.replace(generation, number=number)
        path = self.directory / generation.file
        digest = files.write_atomically(path, lambda path: _write(path, tree))
        new = dataclasses.replace(generation, sha256=digest)
        self.found = [new, *self.found][:_KEPT]
        generations = [dataclasses.asdict(g) for g in self.found]
        content = {**files.origin(FORMAT), "generations": generations}
        files.write_manifest(self.manifest, content)
        self._clean()

    def newest(self) -> tuple[Generation, dict[str, Any]] | None:
        """The newest generation that is not damaged, and its tree; None without any.

        Warns if it is not the last one that was written.

        Raises:
            ValueError: If there are generations and all are damaged.
        """
        errors = []
        for generation in self.found:
            try:
                content = files.read(
                    self.directory / generation.file, generation.sha256
                )
            except ValueError as error:
                errors.append(str(error))
                continue
            if errors:
                warnings.warn(
                    f"{errors[0]} The training goes on from the generation before it.",
                    stacklevel=4,
                )
            return generation, _read(content)
        if errors:
            raise ValueError(" ".join(errors))
        return None

    def remove(self) -> None:
        """Removes the files, the manifest first."""
        self.found = []
        files.remove([self.manifest] if self.manifest.exists() else [])
        self._clean()

    def _clean(self):
        """Removes what the manifest does not name."""
        kept = [self.directory / generation.file for generation in self.found]
        files.keep_only(self.directory, [self.manifest, *kept], MANIFEST, _FILES)


def _generation(manifest, item):
    fields = [field.name for field in dataclasses.fields(Generation)]
    if sorted(item) != sorted(fields) or type(item["number"]) is not int:
        raise ValueError(f"`{manifest}` names no generation: {item}")
    return Generation(**item)


def _write(path, tree):
    arrays: dict[str, np.ndarray] = {}
    content = json.dumps(_packed(tree, arrays))
    with open(path, "xb") as file:
        np.savez(file, **arrays, tree=np.array(content))  # type: ignore[arg-type]


def _packed(tree, arrays):
    """JSON of a tree; its arrays, which take their places in `arrays`."""
    if isinstance(tree, dict):
        return {str(key): _packed(value, arrays) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_packed(item, arrays) for item in tree]
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray):
        name = f"array-{len(arrays)}"
        # As bytes: the format knows only NumPy's own types.
        arrays[name] = np.ascontiguousarray(tree).reshape(-1).view(np.uint8)
        return {_ARRAY: name, "dtype": tree.dtype.name, "shape": tree.shape}
    if tree is None or isinstance(tree, (str, int, float)):
        return tree
    raise TypeError(
        "A state must be made of dicts, lists, numbers, strings, None and arrays. "
        f"Received: {tree!r}"
    )


def _read(content):
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return _unpacked(json.loads(str(arrays["tree"])), arrays)


def _unpacked(tree, arrays):
    if isinstance(tree, list):
        return [_unpacked(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _ARRAY in tree:
        return arrays[tree[_ARRAY]].view(tree["dtype"]).reshape(tree["shape"])
    return {key: _unpacked(value, arrays) for key, value in tree.items()}
