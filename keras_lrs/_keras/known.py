"""Numbers in variables that the host knows on PyTorch without reading them."""

from typing import Any

import keras
import numpy as np

from keras_lrs._keras import in_step
from keras_lrs._keras.backend import IS_TORCH

_EXACT = ("float32", "float64", "int32", "int64")  # NumPy rounds to these like PyTorch.


class KnownNumbers:
    """Reads and writes numbers in a step; on PyTorch it does not read what it wrote.

    On PyTorch, reading a variable waits for the GPU. A number is known as long as its
    tensor still has the version with which it was noted. Other writes change the
    version, except those of compiled code, so use this only for variables that eager
    code writes.

    On other backends numbers are tensors of the graph.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, int, float]] = {}

    def value_of(self, variable: Any) -> Any:
        """Returns the current number: a Python number on PyTorch, else a tensor."""
        if not IS_TORCH or not isinstance(variable, keras.Variable):
            return in_step.value_of(variable)
        tensor = variable.value
        known, version, number = self._known.get(id(variable), (None, 0, 0.0))
        if known is not tensor or tensor._version != version:
            number = in_step.value_of(variable)
            self.note(variable, number)
        return number

    def iterations(self, optimizer: Any) -> Any:
        """Returns how often `apply` was called before, including micro-batches."""
        return self.value_of(optimizer._iterations)

    def note_iterations(self, optimizer: Any, number: Any) -> None:
        """Notes how often `apply` has been called now."""
        self.note(optimizer._iterations, number)

    def assign(self, variable: Any, value: Any) -> None:
        """Sets a variable to a number."""
        in_step.assign(variable, value)
        self.note(variable, value)

    def note(self, variable: Any, number: Any) -> None:
        """Notes the current value of a variable, on PyTorch."""
        self._known.pop(id(variable), None)
        if not IS_TORCH or variable.dtype not in _EXACT:
            return
        tensor = variable.value
        if not tensor.is_inference():  # Inference tensors have no version.
            rounded = np.dtype(variable.dtype).type(number).item()
            self._known[id(variable)] = tensor, tensor._version, rounded
