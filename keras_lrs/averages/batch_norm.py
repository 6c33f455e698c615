"""Statistics of batch normalization for averaged weights."""

from typing import Any

import keras


def batch_norm_layers(model: Any) -> list:
    """The batch normalizations of a model, nested models included."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def recalibrate_batch_norm(model, data, steps=None):
    raise NotImplementedError
