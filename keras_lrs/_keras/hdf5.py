"""An HDF5 file in memory that holds large arrays without a copy of them."""

import io
import itertools
from typing import Any

import h5py
import numpy as np

_LARGE = 2**16  # Bytes. Smaller arrays are copied.
# For what HDF5 writes about a group, whose attributes have at most 2**16 bytes, and
# about an array.
_ROOM_OF_GROUP, _ROOM_OF_ARRAY = 2**17, 2**13


class Layout(io.RawIOBase):
    """The file in which h5py lays out arrays.

    HDF5 only reserves the places of large arrays. Memory that it does not write is
    never touched, so that the system does not provide it.

    Args:
        arrays: All arrays that will be added.
        num_groups: The number of groups that will hold them.
    """

    def __init__(self, arrays: list[np.ndarray], num_groups: int):
        super().__init__()
        room = (num_groups + 1) * _ROOM_OF_GROUP + len(arrays) * _ROOM_OF_ARRAY
        # Not `np.empty`, whose bytes between the arrays may be anything.
        self._memory = np.zeros(sum(x.nbytes for x in arrays) + room, np.uint8)
        self._large: dict[int, np.ndarray] = {}  # By their places.
        self._at = self._size = 0

    def add(self, group: h5py.Group, key: str, array: np.ndarray) -> h5py.Dataset:
        """Adds an array to a group; a large one must not change until it is written."""
        is_plain = array.dtype.kind in "biuf" and array.dtype.isnative
        if array.nbytes < _LARGE or not is_plain or not array.flags.c_contiguous:
            return group.create_dataset(key, data=array)
        found = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        found.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        found.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        dataset = group.create_dataset(key, array.shape, array.dtype, dcpl=found)
        self._large[dataset.id.get_offset()] = array
        return dataset

    def pieces(self) -> list[Any]:
        """Returns the content of the closed file, as buffers that follow each other."""
        whole = self._memory.data
        ends = [(place, place + x.nbytes) for place, x in sorted(self._large.items())]
        between = itertools.pairwise([(0, 0), *ends, (self._size, self._size)])
        found: list[Any] = []
        for (_, begin), (end, _) in between:
            found.append(whole[begin:end])
            if end in self._large:
                found.append(self._large[end].data.cast("B"))
        return [piece for piece in found if len(piece)]

    # --- What h5py calls ---

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        self._at = start[whence] + offset
        return self._at

    def tell(self) -> int:
        """Returns the place."""
        return self._at

    def write(self, content: Any) -> int:
        """Writes bytes."""
        content = memoryview(content).cast("B")
        end = self._at + len(content)
        self._memory[self._at : end] = content
        self._at, self._size = end, max(self._size, end)
        return len(content)

    def readinto(self, buffer: Any) -> int:
        """Reads bytes."""
        buffer = memoryview(buffer).cast("B")
        found = self._memory[self._at : min(self._at + len(buffer), self._size)]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def truncate(self, size: int | None = None) -> int:
        """Sets the size of the file."""
        self._size = self._at if size is None else size
        return self._size
