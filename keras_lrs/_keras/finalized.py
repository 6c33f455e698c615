"""State that layers keep beside their variables, made of them or read from files."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_lrs._keras.models import layers


@contextlib.contextmanager
def kept(model: Any) -> Iterator[None]:
    """Within it adapted layers may be finalized anew; then they are as they were."""
    found = [(layer, layer.mean, layer.variance) for layer in normalizations(model)]
    try:
        yield
    finally:
        for layer, mean, variance in found:
            layer.mean, layer.variance = mean, variance


def finalize(model: Any) -> None:
    """Lets adapted layers take up the values that their variables have.

    A `Normalization` calls with tensors that it has made of its variables.
    """
    for layer in normalizations(model):
        layer.finalize_state()


def normalizations(model: Any) -> list:
    """The layers of `Normalization` that are adapted."""
    return [
        layer
        for layer in layers(model)
        if isinstance(layer, keras.layers.Normalization)
        and layer.built
        and layer.input_mean is None
    ]
