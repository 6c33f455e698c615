"""Tables that the host computed, and the search for a step in them."""

import bisect

import keras
import numpy as np
from keras import ops

from keras_lrs.schedules.numerics.columns import (
    BACKEND,
    float_dtype,
    is_number,
    minimum,
    where,
)
from keras_lrs.schedules.numerics.time import HORIZON, Length, largest_step

if BACKEND == "tensorflow":
    import tensorflow as tf


def gather(table: np.ndarray, index):
    """Returns row `index` of a table that the host computed.

    Tables of integers are lengths. In int32 time, entries that are too large become a
    `Length`.
    """
    if is_number(index):
        return table[index].item()
    if isinstance(index, np.ndarray):
        return table[index]
    if table.dtype.kind == "f":
        return _take(table.astype(float_dtype()), index)
    dtype = keras.backend.standardize_dtype(index.dtype)
    largest = largest_step(index)
    steps = _take(np.minimum(table, largest).astype(dtype), index)
    if table.max() <= largest:
        return steps
    excess = np.maximum(table - largest, 0).astype(float_dtype())
    return Length(steps, _take(excess, index))


def _take(table, index):
    if len(table) == 1:
        return ops.full(ops.shape(index), table[0], dtype=table.dtype.name)
    if len(table) == 2:
        first, second = map(ops.convert_to_tensor, table)
        return where(index > 0, second, first)
    if BACKEND == "tensorflow":
        # `ops.take` adds three more nodes for negative indices.
        return tf.gather(table, index)
    return ops.take(_constant(table), index, axis=0)


def _constant(table):
    # Give the dtype, because on JAX integers become floats for some `floatx`.
    return ops.convert_to_tensor(table, dtype=table.dtype.name)


class Lookup:
    """Counts the boundaries that have been reached at a step.

    Known steps use a binary search. In a graph, a tree of comparisons that is 32 wide
    needs four levels for 100,000 boundaries, and the number of nodes per level does not
    grow. On XLA, where `searchsorted` compares with every boundary, it is 250 times
    faster.

    Args:
        boundaries: Non-decreasing steps.
    """

    WIDTH = 32

    def __init__(self, boundaries):
        self._array = np.asarray(boundaries, dtype=np.int64)
        self._list = self._array.tolist()
        self._trees: dict[str, list[np.ndarray]] = {}

    def __call__(self, step):
        if is_number(step):
            return bisect.bisect_right(self._list, step)
        if isinstance(step, np.ndarray):
            return np.searchsorted(self._array, step, side="right")
        dtype = step.dtype
        if len(self._list) > self.WIDTH**2 and self._list[-1] < HORIZON - 1:
            # XLA compares int32 four times as fast as TensorFlow's int64.
            step = ops.cast(minimum(step, HORIZON - 1), "int32")
        top, *levels = self._tree(keras.backend.standardize_dtype(step.dtype))
        steps = ops.expand_dims(step, -1)
        count = _reached_of_row(_constant(top), steps)
        for level in levels:
            row = _take(level, count)
            count = count * self.WIDTH + _reached_of_row(row, steps)
        return ops.cast(count, dtype)

    def _tree(self, dtype):
        """Returns the levels from the top: one row, then tables of rows, padded."""
        if dtype in self._trees:
            return self._trees[dtype]
        never = np.iinfo(dtype).max
        level = np.minimum(self._array, never)
        levels = []
        while len(level) > self.WIDTH:
            rows = -(-len(level) // self.WIDTH) + 1
            padded = np.full(rows * self.WIDTH, never, dtype=dtype)
            padded[: len(level)] = level
            levels.append(padded.reshape(rows, self.WIDTH))
            level = level[self.WIDTH - 1 :: self.WIDTH]
        levels.append(level.astype(dtype))
        self._trees[dtype] = levels[::-1]
        return self._trees[dtype]


def _reached_of_row(row, steps):
    return ops.sum(ops.cast(steps >= row, steps.dtype), axis=-1)
