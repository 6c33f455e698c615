"""Averages of the statistics of batch normalization.

An optimizer has no slots for them. They are kept as long as the model lives, because
compiled steps hold them. No file contains them.
"""

import weakref
from typing import Any

import numpy as np

from keras_lrs._keras import interrupts
from keras_lrs._keras.average_slots import average_dtype
from keras_lrs._keras.backend import IS_JAX
from keras_lrs._keras.batch_norm import batch_norms
from keras_lrs._keras.variables import StepVariable, Swap, give
from keras_lrs.averages.choice import EVERYTHING, Choice
from keras_lrs.schedules import fields

if IS_JAX:
    import jax.numpy as jnp

_so_far: weakref.WeakKeyDictionary[Any, "AverageStatistics"]
_so_far = weakref.WeakKeyDictionary()


class AverageStatistics:
    """The averages of a model's moving means and variances.

    Attributes:
        statistics: The model's variables that are averaged.
        averages: A `StepVariable` for each of them.
        swapped: Whether the model holds the averages, and `averages` the statistics.
        known_at: The iterations of the optimizer at which the averages were right; None
            if they hold nothing.
    """

    def __init__(self, model: Any, chosen: list):
        self.statistics = chosen
        self.averages = [
            StepVariable(
                model,
                np.zeros(variable.shape),
                average_dtype(variable),
                layout=getattr(variable, "_layout", None),
            )
            for variable in self.statistics
        ]
        self.swapped = False
        self.known_at: int | None = None
        self._rounded: list[np.ndarray] | None = None
        self._swapping: tuple[bool, Any, Swap] | None = None

    def reset(self) -> None:
        """Sets the averages to the statistics."""
        for variable, average in zip(self.statistics, self.averages, strict=True):
            if IS_JAX:
                average.array = jnp.copy(variable._value.astype(average.variable.dtype))
            else:
                give(variable, average.variable)

    def read(self) -> list[np.ndarray]:
        """Returns copies of the averages."""
        return [average.read() for average in self.averages]

    def write(self, values: list[np.ndarray]) -> None:
        """Sets the averages."""
        for average, value in zip(self.averages, values, strict=True):
            average.write(value)

    def swap(self) -> None:
        """Swaps statistics and averages; both are restored bit for bit."""
        interrupts.finish(self._swap)

    def _swap(self):
        """Swaps, or ends a swap that was interrupted."""
        if self._swapping is None:
            into, rounded = not self.swapped, self._rounded
            pairs = zip(self.statistics, self.averages, strict=True)
            if into and any(v.dtype != a.variable.dtype for v, a in pairs):
                rounded = self.read()
            self._swapping = into, rounded, Swap(self.statistics, self.averages)
        into, rounded, swap = self._swapping
        swap.finish()
        if rounded is not None and not into:
            self.write(rounded)
        self._rounded = rounded if into else None
        self.swapped = into
        self._swapping = None

    def forget(self) -> None:
        """Forgets the averages; the model keeps what it holds."""
        self.swapped, self.known_at, self._rounded = False, None, None


def statistics(layer: Any, choice: Choice = EVERYTHING) -> list:
    """Returns the moving means and variances of a model or layer that training changes.

    It leaves out layers none of whose variables is chosen.
    """
    return [
        variable
        for one in batch_norms(layer)
        if any(map(choice, one.variables))
        for variable in one.non_trainable_variables
        if "float" in variable.dtype
    ]


def check_trained(model: Any) -> None:
    """Raises if a layer has statistics but no weights that an optimizer trains."""
    for layer in batch_norms(model):
        if not layer.trainable_variables:
            bound = (
                "be 'keep' with `optimizers`, which assigns layers by the weights that "
                f"they train: `{layer.path}` has neither a scale nor a center"
            )
            fields.refuse("batch_norm", bound, "average")


def of(model: Any, choice: Choice = EVERYTHING) -> AverageStatistics:
    """Returns the averages of a model, the same ones for the same choice."""
    found = _so_far.get(model)
    chosen = statistics(model, choice)
    if found is None or list(map(id, found.statistics)) != list(map(id, chosen)):
        found = _so_far[model] = AverageStatistics(model, chosen)
    return found
