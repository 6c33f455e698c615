"""Compares the configurations of models, their optimizers and their losses."""

import contextlib
import datetime
import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.utils import module_utils

from keras_lrs._keras import models, optimizers, variables

PARTS = ("model", "optimizer", "loss")
_LONGEST = 500_000  # Characters, which checkpoints hold.
# Origins, names, and entries without effect once a layer is built. The rate is compared
# as a variable, and seeds are resumed.
_LEFT_OUT = {
    *("module", "registered_name", "name", "shared_object_id", "seed"),
    *("build_config", "compile_config", "build_input_shape"),
    # `adapt` sets these, and they are resumed.
    *("bin_boundaries", "vocabulary", "vocabulary_size", "idf_weights"),
    *("mean", "variance"),
}


def of(model: Any) -> dict[str, str]:
    """Returns the configurations of a model's parts, as JSON.

    They are equal for models that differ only in names or in the batch size. Functions
    are identified by their names.
    """
    with warnings.catch_warnings(), _without_importing_tensorflow():
        # Keras warns that functions without a name cannot be loaded.
        warnings.simplefilter("ignore")
        found = {
            "model": [tried(_of_layer, layer) for layer in models.layers(model)],
            "optimizer": {
                name: tried(_of_optimizer, one)
                for name, one in optimizers_of(model).items()
            },
            "loss": tried(_plain, models.loss_of(model)),
        }
        return {name: _shortened(_json(part)) for name, part in found.items()}


def tried(describe: Callable, one: Any, *arguments: Any) -> Any:
    """Describes an object; only by its class where its own code raises an error."""
    try:
        return describe(one, *arguments)
    except Exception:
        return {"class": type(one).__name__}


def _json(part):
    return json.dumps(part, sort_keys=True, default=_other)


def _other(value):
    """Returns the text for a value that JSON does not know."""
    plain = isinstance(value, (complex, np.generic, datetime.date, datetime.timedelta))
    return str(value) if plain else type(value).__name__


@contextlib.contextmanager
def _without_importing_tensorflow():
    """Keeps Keras from importing TensorFlow, half a gigabyte, to serialize."""
    if "tensorflow" in sys.modules:
        yield
        return
    module_utils.tensorflow._available = False
    try:
        yield
    finally:
        module_utils.tensorflow._available = None


def _shortened(text):
    """Returns a configuration, or its hash if it is long, as with a vocabulary."""
    if len(text) <= _LONGEST:
        return text
    return json.dumps(hashlib.blake2b(text.encode(), digest_size=16).hexdigest())


def rates(model: Any) -> list[float | None]:
    """Returns the rate of each optimizer; None if it has a schedule."""
    return [
        variables.number(variable) if variable is not None else None
        for variable in rate_variables(model)
    ]


def rate_variables(model: Any) -> list:
    """Returns the variable of each optimizer's rate; None if it has a schedule."""
    sources = [
        optimizers.rate_source(leaf)
        for one in optimizers_of(model).values()
        for leaf in optimizers.leaves(one)
    ]
    return [one if isinstance(one, keras.Variable) else None for one in sources]


def difference(name: str, found: str, expected: str) -> str | None:
    """Returns the first difference between two configurations; None if none."""
    if found == expected:
        return None
    return _difference(name, json.loads(found), json.loads(expected))


def _difference(path, found, expected):
    if isinstance(found, dict) and isinstance(expected, dict):
        # The class comes first, because other differences follow from it.
        keys = sorted(found.keys() | expected.keys(), key=lambda k: (k != "class", k))
        pairs = [(f"{path}.{k}", found.get(k), expected.get(k)) for k in keys]
    elif isinstance(found, list) and isinstance(expected, list):
        most = range(max(len(found), len(expected)))
        pairs = [(f"{path}[{i}]", _at(found, i), _at(expected, i)) for i in most]
    else:
        return told(path, found, expected)
    texts = (_difference(*pair) for pair in pairs if pair[1] != pair[2])
    # What is missing is paired with None, and may differ from it in nothing.
    text = f"`{path}` has {len(found)} items, and had {len(expected)}"
    return next(texts, text)


def told(path: str, found: Any, expected: Any) -> str:
    """Returns the text for a difference between two values."""
    return f"`{path}` is {_short(found)}, and was {_short(expected)}"


def _at(items, index):
    return items[index] if index < len(items) else None


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def optimizers_of(model: Any) -> dict[str, Any]:
    """Returns all optimizers of a model by their attributes."""
    main = getattr(model, "optimizer", None)
    own = models.own_optimizers(model)
    return own if main is None else {"optimizer": main, **own}


def _of_layer(layer):
    """Returns a layer's class, and its configuration without those of inner layers."""
    config = _config(layer)
    names: dict[str, int] = {}
    inner = config.get("layers") if isinstance(config, dict) else None
    if isinstance(inner, list):
        items = [item if isinstance(item, dict) else {} for item in inner]
        configs = [item.get("config") for item in items]
        named = [one.get("name") if isinstance(one, dict) else None for one in configs]
        names = {name: i for i, name in enumerate(named) if name is not None}
        config = {**config, "layers": [item.get("inbound_nodes") for item in items]}
    return {"class": type(layer).__name__, **_plain(config, names)}


def _of_optimizer(optimizer):
    return _without_rates(_plain(_of_object(optimizer)))


def _of_object(one):
    return {"class": type(one).__name__, **_config(one)}


def _config(one) -> dict:
    try:
        found = one.get_config()
    except Exception:
        return {}
    return found if isinstance(found, dict) else {}


def _plain(value: Any, names: Any = ()) -> Any:
    """Returns a configuration as JSON, without entries that do not matter."""
    if isinstance(value, dict):
        kind = str(value.get("class_name", ""))
        if "DTypePolicy" in kind:
            return _plain(list(value.get("config", {}).values()))
        found = {
            str(k): _plain(v, names)
            for k, v in value.items()
            if k not in _LEFT_OUT and not str(k).endswith("_initializer")
        }
        if isinstance(found.get("batch_shape"), list):
            found["batch_shape"] = found["batch_shape"][1:]
        # The code of a lambda contains its line number.
        is_code = kind == "__lambda__" or list(found) == ["value"]
        return "<lambda>" if is_code else found
    if isinstance(value, (list, tuple)):
        if len(value) == 3 and isinstance(value[0], str) and value[0] in names:
            return [names[value[0]], *value[1:]]  # A layer and one of its tensors.
        return [_plain(item, names) for item in value]
    if isinstance(value, (str, bool, int, float, type(None))):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, bytes):
        return None
    if callable(getattr(value, "get_config", None)):
        return _plain(_of_object(value), names)
    return getattr(value, "__qualname__", type(value).__name__)


def _without_rates(config):
    if isinstance(config, dict):
        return {
            key: _without_rates(value)
            for key, value in config.items()
            if key != "learning_rate" or not isinstance(value, (int, float))
        }
    if isinstance(config, list):
        return [_without_rates(item) for item in config]
    return config
