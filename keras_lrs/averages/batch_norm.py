"""Recalibrates batch normalization for weights that were not trained, as averages."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import interrupts, models
from keras_lrs._keras.batch_norm import (
    batch_norms,
    batch_statistics,
    inputs,
    set_statistics,
    torch_batch_norms,
)
from keras_lrs.schedules import fields


def recalibrate_batch_norm(
    model: keras.Model,
    data: Any,
    steps: int | None = None,
    *,
    batch_size: int | None = None,
    call_fn: Callable | None = None,
) -> None:
    """Recomputes the statistics of batch normalization in one pass over data.

    A network with averaged weights needs this, because its moving means and variances
    are those of the weights that were trained. They are replaced by the mean and the
    variance over all the data, as if it were one batch (but see below). The old values
    and the momentum play no role.

    The pass is forward only. Batch-normalization layers are in training mode, as in
    `fit`: each normalizes by its batch and passes the result on. All other layers are
    in inference mode, so dropout and augmentation within the model are off. Frozen
    layers (`trainable=False`) keep their statistics and normalize by them. So do layers
    that the model calls with `training=False`, as in fine-tuning, because `fit` leaves
    them alone too. A forward pass of the first batch with `training=True` shows which
    layers these are. Batch-normalization layers in PyTorch's modules
    (`TorchModuleWrapper`) are recalibrated too. If a model has no batch normalization,
    neither the model nor the data is touched.

    Nothing else in the model changes. If the data raises an error, the statistics do
    not change either.

    Args:
        model: A model, which may contain others. It need not be compiled.
        data: The same data as `fit` takes: inputs, as an array or a list or dict of
            arrays; a tuple `(x, y)` or `(x, y, sample_weight)`, of which `x` is used; a
            `tf.data.Dataset`, a `PyDataset`, a generator, or a `DataLoader`. Use the
            data of the training run, in batches of the same size, shuffled and
            augmented.
        steps: The largest number of batches to use, > 0; None uses all. Endless data
            needs it.
        batch_size: The batch size for arrays, > 0; None is 32.
        call_fn: A function that runs the model as training does, if that is not
            `model(x)`: `call_fn(model, x, training)` or `call_fn(model, x)`. Models
            without `call`, such as GANs, need it.

    Raises:
        ValueError: If an argument is out of range, the data is empty or endless, or the
            model is not built or has no `call`.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.averages import recalibrate_batch_norm
        >>> norm = keras.layers.BatchNormalization()
        >>> model = keras.Sequential([keras.Input((1,)), norm])
        >>> recalibrate_batch_norm(model, np.arange(5.0)[:, None], batch_size=2)
        >>> [round(v.item(), 4) for v in norm.get_weights()[2:]]
        [2.0, 2.0]

    Reference: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization", 2018, arXiv:1803.05407, section 3.2. They average the variances of
    the batches, which leaves out the differences between their means.
    """
    if steps is not None:
        steps = fields.count("steps", steps, 1)
    if batch_size is not None:
        batch_size = fields.count("batch_size", batch_size, 1)
    if not isinstance(model, keras.Model):
        fields.refuse("model", "be a `keras.Model`", model, TypeError)
    if call_fn is not None and not callable(call_fn):
        fields.refuse("call_fn", "be a function", call_fn, TypeError)
    layers = [*batch_norms(model), *torch_batch_norms(model)]
    if not layers:
        return
    call = _call_of(model, call_fn)
    if not models.weights_exist(model):
        raise ValueError(
            "Argument `model` must be built: call it on a batch, or give it an "
            f"`Input`. Received: model={model.name!r}"
        )
    if isinstance(data, tuple):
        data, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    if steps is None and _is_endless(data):
        raise ValueError(
            f"Argument `steps` must be given for infinite data. Received: data={data!r}"
        )
    moments = [_Moments() for _ in layers]
    empty = True
    with batch_statistics(model, layers, call) as statistics:
        for x in inputs(data, batch_size, steps):
            empty = False
            for index, calls in statistics(x).items():
                for moment in calls:
                    moments[index].add(*moment)
    if empty:
        raise ValueError("Argument `data` must hold at least one batch. It was empty.")

    def set_all():
        for layer, one in zip(layers, moments, strict=True):
            if one.seen:
                set_statistics(layer, one.mean, one.variance, one.count)

    interrupts.finish(set_all)


def _call_of(model, call_fn):
    """Returns a function of inputs and of `training` that runs the model."""
    if call_fn is None:
        if not models.can_be_called(model):
            raise ValueError(
                f"`{type(model).__name__}` has no `call`: pass `call_fn=lambda model, "
                "x, training: ...`, which calls it as in training."
            )
        return model
    parameters = inspect.signature(call_fn).parameters.values()
    takes_training = any(
        one.name == "training" or one.kind is one.VAR_KEYWORD for one in parameters
    )

    def call(x, training):
        keywords = {"training": training} if takes_training else {}
        return call_fn(model, x, **keywords)

    return call


def _is_endless(data):
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    cardinality = getattr(data, "cardinality", None)  # Of `tf.data`.
    return cardinality is not None and int(cardinality()) == -1


class _Moments:
    """The mean and variance of batches together (Chan et al., 1983), in float64."""

    def __init__(self):
        self.count: Any = 0.0
        self.mean: Any = 0.0
        self.squares: Any = 0.0  # The sum of squared distances from the mean.

    @property
    def seen(self):
        return np.any(self.count > 0.0)

    @property
    def variance(self):
        return self.squares / self.count

    def add(self, point: Any, above: Any, squares: Any, count: Any) -> None:
        """Adds a batch: its mean is `point + above`; `squares` is around `point`."""
        point, above, squares, count = map(np.float64, (point, above, squares, count))
        total = self.count + count
        share = count / np.maximum(total, 1.0)
        way = point + above - self.mean
        self.mean = self.mean + share * way
        self.squares = (
            self.squares + count * (squares - above**2) + self.count * share * way**2
        )
        self.count = total
