"""The state that layers get from `adapt` and keep outside of variables."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import interrupts
from keras_lrs._keras.models import layers

_FILE = "file "  # Before the name of a file in a layer's state.


@contextlib.contextmanager
def kept(model: Any) -> Iterator[None]:
    """Lets adapted layers change within the block, and restores them afterwards."""
    found = [(layer, layer.mean, layer.variance) for layer in normalizations(model)]

    def put_back():
        for layer, mean, variance in found:
            layer.mean, layer.variance = mean, variance

    with interrupts.undoing() as undo:
        undo.callback(put_back)
        yield


def finalize(model: Any) -> None:
    """Makes adapted layers use the current values of their variables.

    A `Normalization` uses tensors that it has made from its variables.
    """
    for layer in normalizations(model):
        layer.finalize_state()


def normalizations(model: Any) -> list:
    """Returns the `Normalization` layers that are adapted."""
    return [
        layer
        for layer in layers(model)
        if isinstance(layer, keras.layers.Normalization)
        and layer.built
        and layer.input_mean is None
    ]


def read(model: Any) -> list[dict[str, Any]]:
    """Reads the state of adapted layers outside of variables, such as vocabularies.

    Returns:
        A tree of numbers and arrays for each layer that may have such a state.
    """
    return [_state(layer) for layer in _layers_with_more(model)]


def write(model: Any, found: list[dict[str, Any]] | None) -> None:
    """Gives adapted layers the values of their variables, and what `read` returned."""
    finalize(model)
    if found is None:
        return
    for layer, given in zip(_layers_with_more(model), found, strict=True):
        # Only if it differs, because compiled functions would not know a new table.
        if given and not _is_equal(_state(layer), given):
            _set_state(layer, given)


def check(model: Any, found: list[dict[str, Any]] | None) -> None:
    """Raises `ValueError` if `found` is not what `read` returns for such a model."""
    if found is None:
        return
    expected = _layers_with_more(model)
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} adapted layers instead of {len(expected)}")
    for layer, given in zip(expected, found, strict=True):
        for name in given:
            file = name.removeprefix(_FILE)
            # A path would be written outside of the folder that `load_assets` reads.
            is_bare = pathlib.PureWindowsPath(file).name == file
            if file != name and (not is_bare or file in ("", "..")):
                raise ValueError(f"the file name {file!r} for the layer {layer.name!r}")


def _layers_with_more(model):
    return [
        layer
        for layer in layers(model)
        if isinstance(layer, keras.layers.Discretization)
        or hasattr(layer, "save_assets")
    ]


def _state(layer):
    if isinstance(layer, keras.layers.Discretization):
        return {"boundaries": layer.bin_boundaries}
    arrays: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            layer.save_own_variables(arrays)
            layer.save_assets(folder)
        except AttributeError:  # It was never adapted.
            return {}
        for path in pathlib.Path(folder).iterdir():
            arrays[f"{_FILE}{path.name}"] = np.frombuffer(path.read_bytes(), np.uint8)
    return arrays


def _set_state(layer, state):
    if isinstance(layer, keras.layers.Discretization):
        layer.bin_boundaries = state["boundaries"]
        return
    own = {name: value for name, value in state.items() if not name.startswith(_FILE)}
    if own:
        layer.load_own_variables(own)
    with tempfile.TemporaryDirectory() as folder:
        for name in state.keys() - own.keys():
            (pathlib.Path(folder) / name.removeprefix(_FILE)).write_bytes(
                state[name].tobytes()
            )
        layer.load_assets(folder)


def _is_equal(one, other):
    same = one.keys() == other.keys()
    return same and all(np.array_equal(one[name], other[name]) for name in one)
