"""A pass over data in which only batch normalization trains."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.trainers import data_adapters

from keras_lrs._keras import interrupts, random, scopes
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs._keras.models import buffer_values, set_buffers
from keras_lrs._keras.models import layers as layers_of
from keras_lrs._keras.variables import copies

if IS_TENSORFLOW:
    import tensorflow as tf
elif IS_JAX:
    import jax
elif IS_TORCH:
    import torch


def batch_norms(model: Any) -> list:
    """Returns all batch-normalization layers that are not frozen, even nested ones."""
    return [
        layer
        for layer in layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def inputs(data: Any, batch_size: int | None, steps: int | None) -> Iterator:
    """Yields the inputs of a model, batch by batch, from any data that `fit` takes."""
    adapter = data_adapters.get_data_adapter(data, batch_size=batch_size)
    adapter.on_epoch_begin()
    try:
        for batch in itertools.islice(adapter.get_numpy_iterator(), steps):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            yield keras.tree.map_structure(ops.convert_to_tensor, x)
    finally:
        adapter.on_epoch_end()


def torch_batch_norms(model: Any) -> list:
    """Returns PyTorch's own batch-normalization layers in the modules of a model."""
    if not IS_TORCH:
        return []
    kind = torch.nn.modules.batchnorm._BatchNorm
    wrappers = [
        layer
        for layer in layers_of(model)
        if isinstance(layer, keras.layers.TorchModuleWrapper)
    ]
    found = [one for wrapper in wrappers for one in wrapper.module.modules()]
    found = [one for one in found if isinstance(one, kind) and one.track_running_stats]
    return list({id(one): one for one in found}.values())


def set_statistics(layer: Any, mean: Any, variance: Any, count: Any) -> None:
    """Sets the statistics of a layer or of a PyTorch module.

    Args:
        layer: One of `batch_norms` or `torch_batch_norms`.
        mean: The mean of each channel.
        variance: The mean squared distance from it.
        count: The number of elements of each channel.
    """
    if not isinstance(layer, keras.layers.BatchNormalization):
        # PyTorch keeps the unbiased estimate, and normalizes by the other one.
        unbiased = variance * count / np.maximum(count - 1.0, 1.0)
        layer.running_mean.copy_(torch.as_tensor(mean))
        layer.running_var.copy_(torch.as_tensor(unbiased))
        return
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    if getattr(layer, "renorm", False):
        layer.moving_stddev.assign(np.sqrt(variance + layer.epsilon))


@contextlib.contextmanager
def batch_statistics(model: Any, layers: list, call: Callable) -> Iterator:
    """Yields a function that runs a model and returns moments of layers' inputs.

    For a batch of inputs it returns, by a layer's index, a list of the `_moments` of
    every call of the layer in which `fit` updates its statistics. When the block ends,
    all layers are as they were before.

    Args:
        model: The model.
        layers: Those of `batch_norms` and `torch_batch_norms`.
        call: A function of inputs and of `training` that runs the model.
    """
    watch = _Watch(layers)
    own = [one for one in layers if isinstance(one, keras.layers.BatchNormalization)]
    state = [v for layer in own for v in layer.non_trainable_variables]
    values, buffers = copies(state), buffer_values(model)

    def forward(x):
        watch.begin()
        call(x, training=False)
        return dict(watch.seen)

    @scopes.closed
    def stateless_forward(values, x):
        mapping = list(zip(model.variables, values, strict=True))
        with keras.StatelessScope(mapping):
            return forward(x)

    function = forward
    if IS_TORCH:
        function = torch.no_grad()(forward)
    elif IS_TENSORFLOW and not model.run_eagerly:
        function = tf.function(forward, reduce_retracing=True)
    elif IS_JAX and not model.run_eagerly:
        compiled = jax.jit(stateless_forward)
        function = functools.partial(compiled, [v.value for v in model.variables])

    def statistics(x):
        if watch.trained is None:
            with _restoring(model):
                watch.look(lambda: call(x, training=True))
        return keras.tree.map_structure(ops.convert_to_numpy, function(x))

    def put_back():
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        set_buffers(model, buffers)

    with interrupts.undoing() as undo:
        undo.callback(put_back)
        watch.install(undo)
        yield statistics


@contextlib.contextmanager
def _restoring(model):
    """Makes a forward pass within the block leave no trace."""
    grad: Any = torch.no_grad() if IS_TORCH else contextlib.nullcontext()
    with interrupts.undoing() as undo:
        undo.callback(set_buffers, model, buffer_values(model))
        undo.callback(random.set_state, random.state())
        with keras.StatelessScope(), grad:
            yield


class _Watch:
    """Watches the calls of batch-normalization layers while it is installed.

    Attributes:
        seen: The moments of the layers' inputs in the last forward pass.
        trained: For each layer, which of its calls are in training mode if the model
            is; None as long as this is not known.
    """

    def __init__(self, layers: list):
        self.seen: dict[int, list] = {}
        self.trained: list[list[bool]] | None = None
        self._layers = layers
        self._noted: list[list[bool]] | None = None
        self._calls: list[int] = []

    def install(self, undo: interrupts.Undo) -> None:
        """Begins to watch."""
        for index, layer in enumerate(self._layers):
            if isinstance(layer, keras.layers.BatchNormalization):
                undo.callback(vars(layer).pop, "call", None)
                vars(layer)["call"] = self._watched(index, layer)
            else:
                hook = functools.partial(self._before_module, index)
                with interrupts.deferred():
                    undo.callback(layer.register_forward_pre_hook(hook).remove)

    def look(self, forward: Callable) -> None:
        """Notes which calls are in training mode in a forward pass of `fit`."""
        self._noted = [[] for _ in self._layers]
        try:
            forward()
        finally:
            noted, self._noted = self._noted, None
        self.trained = noted

    def begin(self) -> None:
        """Begins a forward pass."""
        self.seen = {}
        self._calls = [0] * len(self._layers)

    def _trains(self, index, training):
        """Whether a call must be in training mode."""
        if self._noted is not None:
            self._noted[index].append(bool(training))
            return training
        calls, self._calls[index] = self._calls[index], self._calls[index] + 1
        trained: Any = self.trained
        return trained[index][calls : calls + 1] == [True]

    def _watched(self, index, layer):
        call = layer.call

        def watched_call(inputs, *arguments, **keywords):
            # Without the argument, no outer layer passes it on.
            given = keywords.get("training")
            training = self._trains(index, given is None or given)
            if training and self._noted is None:
                moments = _moments(inputs, layer.axis, keywords.get("mask"))
                self.seen.setdefault(index, []).append(moments)
            return call(inputs, *arguments, **{**keywords, "training": training})

        return watched_call

    def _before_module(self, index, module, arguments):
        module.training = self._trains(index, module.training)
        if module.training and self._noted is None:
            found = _moments(arguments[0], 1, None)
            self.seen.setdefault(index, []).append(found)


def _moments(inputs, axis, mask):
    """Returns the moments of inputs over all axes but one.

    The first is a point near the mean, and the second is the mean minus the point. It
    also returns the mean squared distance from the point, and the number of elements.
    On PyTorch, Keras's own variance is `E[x^2] - E[x]^2`, which loses precision far
    from 0.
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
