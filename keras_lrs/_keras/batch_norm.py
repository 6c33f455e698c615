"""A pass over data in which batch normalization alone trains."""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops
from keras.src.trainers import data_adapters

from keras_lrs._keras import interrupts
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs._keras.models import layers as layers_of
from keras_lrs._keras.variables import copies

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax
elif IS_TORCH:
    import torch


def batch_norms(model: Any) -> list:
    """The layers of batch normalization that are not frozen, however deep."""
    return [
        layer
        for layer in layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def inputs(data: Any, batch_size: int | None, steps: int | None) -> Iterator:
    """The inputs of a model, batch by batch, from whatever `fit` takes."""
    adapter = data_adapters.get_data_adapter(data, batch_size=batch_size)
    adapter.on_epoch_begin()
    try:
        for batch in itertools.islice(adapter.get_numpy_iterator(), steps):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            yield keras.tree.map_structure(ops.convert_to_tensor, x)
    finally:
        adapter.on_epoch_end()


@contextlib.contextmanager
def batch_statistics(model: Any, layers: list) -> Iterator:
    """Gives a function that runs a model and returns what its layers saw.

    For a batch of inputs it returns, by a layer's index, a list of what `_moments`
    gives for every call of the layer. All layers are as they were when the block is
    left.
    """
    seen: dict[int, list] = {}
    state = [v for layer in layers for v in layer.non_trainable_variables]
    values = copies(state)

    def watched(index, layer):
        call = layer.call

        def watched_call(inputs, *arguments, **keywords):
            moments = _moments(inputs, layer.axis, keywords.get("mask"))
            seen.setdefault(index, []).append(moments)
            return call(inputs, *arguments, **{**keywords, "training": True})

        return watched_call

    def forward(x):
        seen.clear()
        model(x, training=False)
        return dict(seen)

    def stateless_forward(values, x):
        mapping = zip(model.variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(mapping)):
            return forward(x)

    function = forward
    if IS_TORCH:
        function = torch.no_grad()(forward)
    elif IS_TENSORFLOW and not model.run_eagerly:
        function = tf.function(forward, reduce_retracing=True)
    elif IS_JAX and not model.run_eagerly:
        compiled = jax.jit(stateless_forward)
        function = functools.partial(compiled, [v.value for v in model.variables])

    def put_back():
        for layer in layers:
            vars(layer).pop("call", None)
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)

    with interrupts.undoing() as undo:
        undo.callback(put_back)
        for index, layer in enumerate(layers):
            vars(layer)["call"] = watched(index, layer)
        yield lambda x: keras.tree.map_structure(ops.convert_to_numpy, function(x))


def _moments(inputs, axis, mask):
    """A point near the mean over all axes but one; by how much the mean is above it.

    Then the mean squared distance from the point, and the number of elements. Keras's
    own variance is `E[x^2] - E[x]^2` on PyTorch, of which far from 0 little is left.
    """
    shape = ops.shape(inputs)
    others = [i for i in range(len(shape)) if i != axis % len(shape)]
    inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    if mask is None:
        mask = ops.ones_like(inputs, dtype="bool")
    else:
        mask = ops.broadcast_to(ops.expand_dims(mask, -1), shape)
    count = ops.sum(ops.cast(mask, inputs.dtype), others, keepdims=True)

    def mean(x):
        return ops.sum(ops.where(mask, x, 0.0), others, keepdims=True) / ops.maximum(
            count, 1.0
        )

    point = mean(inputs)
    ways = inputs - point
    found = (point, mean(ways), mean(ops.square(ways)), count)
    return tuple(ops.squeeze(one, others) for one in found)
