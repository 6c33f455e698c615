"""Snapshots of all that schedules hold, which prove that two schedules are equal.

A compiled step contains the numbers of its schedules, and a later fit may use it only
if its schedules are the same. The config of a foreign schedule does not prove this: it
may leave things out, and its text shortens long arrays.
"""

import dataclasses
import enum
import fractions
import functools
import types
from typing import Any

import keras
import numpy as np
from keras import ops

_PLAIN = {
    *(type(None), bool, int, float, complex, str, bytes, fractions.Fraction, np.dtype),
}
# The contents of these do not change between two fits.
_FIXED = (type, enum.Enum, types.ModuleType, types.BuiltinFunctionType, np.ufunc)


def identity(value: Any) -> Any:
    """Returns a hashable snapshot; snapshots are equal only if the values provably are.

    A schedule is identified by its class and by everything that the instance holds. An
    object that cannot be inspected, such as one of a class that is not a schedule,
    equals nothing, not even itself, because it may have changed in between.
    """
    return _snapshot(value, ())


def _snapshot(value, above):
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if isinstance(value, _FIXED):
        return _Same(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return _of_array(kind, np.asarray(value))
    if any(value is one for one in above):
        return object()
    parts = _parts(value)
    if parts is None:
        return object()
    own, inside = parts
    if isinstance(inside, tuple) and set(map(type, inside)) in ({float}, {int}):
        return own, type(inside[0]), inside  # A long table of rates or boundaries.
    above = (*above, value)
    return own, *(_snapshot(one, above) for one in inside)


def _parts(value):
    """Returns what a value is and what it holds; None if that is not known."""
    kind = type(value)
    if kind in (list, tuple):  # A config turns a tuple into a list.
        return tuple, tuple(value)
    if kind is dict:
        return dict, [*value.keys(), *value.values()]
    if isinstance(value, types.FunctionType):
        cells = [*(value.__closure__ or ())]
        try:
            closure = [cell.cell_contents for cell in cells]
        except ValueError:  # The closure has a name without a value.
            return None
        return _Same(value), [closure, value.__defaults__, value.__kwdefaults__]
    if kind is types.MethodType:
        return kind, [value.__func__, value.__self__]
    if kind is functools.partial:
        return kind, [value.func, value.args, value.keywords]
    if isinstance(value, keras.Variable) or ops.is_tensor(value):
        try:
            return _Same(value), [np.array(ops.convert_to_numpy(value))]
        except Exception:  # A tensor of a graph has no value.
            return None
    if dataclasses.is_dataclass(value) and kind.__dataclass_params__.frozen:
        # Cached values follow from the fields.
        return kind, [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        held = object.__getstate__(value)  # Includes slots.
        try:
            return kind, [held, value.get_config()]
        except Exception:  # The class has no config, or it raises an error.
            return _Same(value), [held]
    return None


def _of_array(kind, array):
    if array.dtype.hasobject:
        return object()
    return kind, array.dtype, array.shape, array.tobytes()


class _Same:
    """Equals only a wrapper of the same object, which it keeps alive."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)
