"""Compares the attributes of models, their optimizers and their losses.

Configurations omit much that decides training: an object may have none, or leave
arguments out. Its attributes hold what it uses.
"""

import enum
import functools
import json
import math
import re
import types
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import fingerprint, models, optimizers
from keras_lrs._keras.backend import IS_TORCH

if IS_TORCH:
    import torch

_MOST = 1000  # Items of lists and arrays. Of larger ones, only the size is compared.
_DEEPEST = 10  # Levels of containers and objects within an attribute.
_NOTHING: Any = object()  # Stands for a value that is not compared.

# Private attributes of these change by themselves, as do those of any optimizer.
_OURS = ("keras", "keras_lrs")
_LIBRARIES = (*_OURS, "jax", "jaxlib", "numpy", "tensorflow", "torch")
# Compared elsewhere, or without an effect once the model is built.
_SEPARATE = (
    keras.Layer,
    keras.Optimizer,
    keras.Variable,
    keras.Metric,
    keras.KerasTensor,
    keras.initializers.Initializer,
    keras.random.SeedGenerator,
)
# Last words of names whose values tell where and when a process runs, and how it tells.
_OF_A_PROCESS = {"id", "time", "timestamp", "host", "hostname", "pid", "rank", "device"}
_OF_A_PROCESS |= {"uid", "uuid", "guid", "seed", "verbose"}
# Paths, dates and identifiers, also hexadecimal ones.
_OF_A_RUN = re.compile(
    r"[/\\]|\d{4}|\b0x[0-9a-f]{4,}|[0-9a-f]{8}-[0-9a-f]{4}-|"
    r"\b(?=[a-f]*\d)[0-9a-f]{12,}\b",
    re.IGNORECASE,
)
_TIMES = 1e9  # Numbers from here on are times or ids.


def of(model: Any) -> dict[str, str]:
    """Returns the attributes of a model's layers, optimizers and losses, as JSON.

    They are numbers, strings, booleans, None, small arrays, functions with what they
    capture, the attributes of other objects that can be called, such as regularizers
    and schedules, and tuples, lists and dictionaries of these.
    """
    reader = _Reader()
    found = {
        "model": reader.model(model),
        "optimizer": [
            fingerprint.tried(reader.optimizer, one)
            for root in fingerprint.optimizers_of(model).values()
            for one in optimizers.within(root)
        ],
        "loss": reader.read(models.loss_of(model)),
    }
    return {name: json.dumps(part, sort_keys=True) for name, part in found.items()}


def unchanged(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """Returns the attributes that are equal at two points of a run.

    A part of which nothing can be compared is left out.
    """
    found = {}
    for name, text in before.items():
        if text != now[name]:
            common = _common(json.loads(text), json.loads(now[name]))
            if common is _NOTHING:
                continue
            text = json.dumps(common)
        found[name] = text
    return found


def difference(name: str, found: str, expected: str) -> str | None:
    """Returns the first difference between attributes that both have; None if none."""
    if found == expected:
        return None
    return _difference(name, json.loads(found), json.loads(expected))


def _common(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        both = {k: _common(one[k], other[k]) for k in one.keys() & other.keys()}
        return {k: value for k, value in both.items() if value is not _NOTHING}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        items = [_common(*pair) for pair in zip(one, other, strict=True)]
        return _NOTHING if any(item is _NOTHING for item in items) else items
    return one if _is_equal(one, other) else _NOTHING


def _difference(path, found, expected):
    if isinstance(found, dict) and isinstance(expected, dict):
        # Other versions of Keras have other attributes, and some come with the use.
        both = sorted(found.keys() & expected.keys(), key=lambda k: (k != "class", k))
        parts = [(f"{path}.{k}", found[k], expected[k]) for k in both]
    elif _are_lists(found, expected):
        items = enumerate(zip(found, expected, strict=True))
        parts = [(f"{path}[{i}]", *pair) for i, pair in items]
    elif _is_equal(found, expected):
        return None
    else:
        return fingerprint.told(path, found, expected)
    texts = (_difference(*part) for part in parts)
    return next((text for text in texts if text), None)


def _are_lists(one, other):
    return isinstance(one, list) and isinstance(other, list) and len(one) == len(other)


def _is_equal(one, other):
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        # Means of data, for example, differ in their last bits on another machine.
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=1e-6)
    return one == other


class _Reader:
    """Reads the values that are compared, and the attributes of an object once."""

    def __init__(self):
        self._seen: set[int] = set()

    def model(self, model: Any) -> list[dict[str, Any]]:
        """Reads the attributes of a model's layers."""
        trained = {id(variable) for variable in model.trainable_variables}
        layers = models.layers(model)
        return [fingerprint.tried(self._layer, layer, trained) for layer in layers]

    def _layer(self, layer, trained):
        own = [*layer._trainable_variables, *layer._non_trainable_variables]
        functional = isinstance(layer, keras.Function)
        operations = layer._operations if functional else ()
        return {
            **self._held(_attributes(layer)),
            "frozen_variables": [i for i, v in enumerate(own) if id(v) not in trained],
            "operations": [
                self.read(one) for one in operations if not isinstance(one, keras.Layer)
            ],
        }

    def optimizer(self, optimizer: Any) -> dict[str, Any]:
        """Reads the attributes of an optimizer without those inside it."""
        held = _attributes(optimizer)
        held["learning_rate"] = vars(optimizer).get("_learning_rate")
        if optimizer.built and getattr(optimizer, "weight_decay", None) is not None:
            held["not_decayed_variables"] = [
                i
                for i, variable in enumerate(optimizers.trained(optimizer))
                if not optimizers.decays(optimizer, variable)
            ]
        return self._held(held)

    def read(self, value: Any, depth: int = 0) -> Any:
        """Returns a value as JSON, or `_NOTHING`."""
        try:
            return _NOTHING if depth > _DEEPEST else self._read(value, depth)
        except Exception:  # Users' objects may raise anything.
            return _NOTHING

    def _read(self, value, depth):
        if isinstance(value, _SEPARATE):
            return _NOTHING
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, np.generic):
            return self._read(value.item(), depth)
        if isinstance(value, (str, int, float, type(None))):
            return _scalar(value)
        if isinstance(value, np.ndarray) or keras.ops.is_tensor(value):
            if math.prod(value.shape) > _MOST:
                return {"shape": list(value.shape)}
            return self._read(keras.ops.convert_to_numpy(value).tolist(), depth)
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            return self._items(value, depth)
        if IS_TORCH and isinstance(value, torch.nn.ParameterDict):
            return _NOTHING
        if IS_TORCH and isinstance(value, torch.nn.Module):
            return re.sub(r" at 0x\w+", "", repr(value))
        return self._called(value, depth) if callable(value) else _class(value)

    def _items(self, value, depth):
        if len(value) > _MOST:
            return {"length": len(value)}
        if isinstance(value, dict):
            named = {_text(self.read(k, depth + 1)): v for k, v in value.items()}
            named.pop(None, None)
            return {"keys": sorted(named), **self._held(named, depth)}
        items = [self.read(item, depth + 1) for item in value]
        items = [item for item in items if item is not _NOTHING]
        is_set = isinstance(value, (set, frozenset))
        return sorted(items, key=json.dumps) if is_set else items

    def _called(self, value, depth):
        if isinstance(value, functools.partial):
            held = {one: getattr(value, one) for one in ("func", "args", "keywords")}
            return {"class": "partial", **self._held(held, depth)}
        name = getattr(value, "__qualname__", getattr(value, "__name__", None))
        if name is not None:
            # A lambda that was loaded from a file does not know where it was made.
            name = "<lambda>" if name.endswith("<lambda>") else name
            held = _captured(value)
            if not held:
                return name
        else:
            name, held = type(value).__name__, _attributes(value)
        if id(value) in self._seen:
            return {"class": name}
        if not isinstance(value, types.MethodType):  # Python makes one for each look.
            self._seen.add(id(value))
        return {"class": name, **self._held(held, depth)}

    def _held(self, held, depth=0):
        read = {name: self.read(value, depth + 1) for name, value in held.items()}
        return {name: value for name, value in read.items() if value is not _NOTHING}


def _attributes(one):
    """Returns the attributes of an object that may decide how it trains."""
    package = type(one).__module__.split(".")[0]
    if package in _LIBRARIES and package not in _OURS:
        return {}
    own = getattr(one, "__dict__", {})
    if IS_TORCH and isinstance(one, torch.nn.Module):
        own = {**own, **own["_modules"]}
    if getattr(getattr(one, "adapt", None), "__module__", "").startswith("keras."):
        # What it was given; the rest is in its configuration, or adapted and resumed.
        fixed = {"bin_boundaries"} if own.get("num_bins") is None else set()
        return {k: v for k, v in own.items() if k in fixed or k.startswith("input_")}
    hidden = _of_every_model() if isinstance(one, keras.Operation) else set()
    # The arguments of Keras's losses are private, and not in their configurations.
    changing = package in _OURS and not isinstance(one, keras.Loss)
    skipped = "_" if changing or isinstance(one, keras.Optimizer) else "_self_"
    return {
        name: value
        for name, value in own.items()
        if name not in hidden
        and not name.startswith(skipped)
        and not name.endswith("_initializer")
        and name.lstrip("_").split("_")[-1] not in _OF_A_PROCESS
        and name.lstrip("_") != "name"  # Keras numbers names.
    }


@functools.cache
def _of_every_model():
    """Returns the names of the attributes that Keras gives layers and models."""
    return vars(keras.Model(name="model")).keys() - {"activity_regularizer"}


def _captured(function):
    """Returns what a function holds besides its code."""
    if isinstance(function, types.MethodType):
        return {"self": function.__self__}
    package = (getattr(function, "__module__", None) or "").split(".")[0]
    if package in _LIBRARIES or not isinstance(function, types.FunctionType):
        return {}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = {name: cell.cell_contents for name, cell in cells}
    defaults = [*(function.__defaults__ or ()), function.__kwdefaults__ or {}]
    return {**held, "defaults": defaults} if defaults != [{}] else held


def _scalar(value):
    if isinstance(value, str):
        return _NOTHING if _OF_A_RUN.search(value) else _unnumbered(value)
    is_time = value is not None and _TIMES <= abs(value) < math.inf
    return _NOTHING if is_time else value


def _unnumbered(text):
    """Returns a text without the number at its end, which Keras gives to names."""
    return re.sub(r"_\d+$", "", text)


def _text(key):
    """Returns the key of a dictionary as a text; None if it is not compared."""
    if key is _NOTHING:
        return None
    return key if isinstance(key, str) else json.dumps(key)


def _class(value):
    return {"class": type(value).__name__}
