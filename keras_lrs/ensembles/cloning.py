"""New models from the weights of members."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_lrs._keras import interrupts, random
from keras_lrs._keras.weights import hand_over
from keras_lrs.ensembles.joint import mean_dtype


def averaged(model: keras.Model, members: Sequence[list[np.ndarray]]) -> keras.Model:
    """Clones a model, with the mean of the members' weights."""
    means = []
    for index, variable in enumerate(model.variables):
        values = [member[index] for member in members]
        if keras.backend.is_float_dtype(variable.dtype):
            mean = np.mean([value.astype(np.float64) for value in values], axis=0)
            means.append(mean.astype(values[0].dtype))
        else:
            means.append(values[-1])
    return clone(model, means)


def joined(
    model: keras.Model,
    members: Sequence[list[np.ndarray]],
    shares: Sequence[float],
    activation: Any,
    inputs: Any,
) -> keras.Model:
    """Builds a functional model that returns the weighted mean of its members."""
    inputs = inputs_of(model) if inputs is None else inputs
    outputs = []
    for number, values in enumerate(members):
        member = clone(model, values)
        random.set_seeds(member, number + 1)
        member.name = f"{model.name}_member_{number + 1}"
        outputs.append(member(inputs))
    mean = tree.map_structure(lambda *ys: _mean(ys, shares, activation), *outputs)
    return keras.Model(inputs, mean, name=f"{model.name}_ensemble")


def _mean(outputs, shares, activation):
    """Returns the weighted mean of symbolic tensors, made by layers of Keras."""
    layers, dtype = keras.layers, mean_dtype(outputs[0].dtype)
    if activation is not None:
        outputs = [layers.Activation(activation)(y) for y in outputs]
    if len(outputs) == 1:
        return outputs[0]
    if len(set(shares)) > 1:
        outputs = [
            layers.Rescaling(float(share * len(outputs)), dtype=dtype)(y)
            for share, y in zip(shares, outputs, strict=True)
        ]
    return layers.Average(dtype=dtype)(outputs)


def clone(model: keras.Model, values: list[np.ndarray]) -> keras.Model:
    """Makes a new model from the configuration of another, with other weights.

    Raises:
        ValueError: If the configuration does not make a model with such weights.
    """
    try:
        with interrupts.undoing() as undo:
            undo.callback(setattr, model, "compiled", model.compiled)
            model.compiled = False  # Otherwise Keras would compile the clone too.
            cloned = keras.models.clone_model(model)
            if not cloned.built:
                cloned.build_from_config(model.get_build_config())
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"`{type(model).__name__}` cannot be cloned: give it a `get_config` with "
            "the arguments of its constructor."
        ) from error
    shapes = [[tuple(v.shape) for v in each.variables] for each in (model, cloned)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"A clone of `{type(model).__name__}`, made from its configuration, has "
            "other weights than the model."
        )
    hand_over(model, cloned, values)
    return cloned


def inputs_of(model: keras.Model) -> Any:
    """Makes new inputs like those of a model.

    Raises:
        ValueError: If the model does not know their shapes.
    """
    if getattr(model, "inputs", None):
        # A `Sequential` that was never called has no `input`.
        single = isinstance(model, keras.Sequential)
        structure = model.inputs[0] if single else model.input
        return tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
            structure,
        )
    config = model.get_build_config() or {}
    if "input_shape" not in config:
        raise ValueError(
            f"`{type(model).__name__}` does not know the shapes of its inputs. Pass "
            "`inputs=keras.Input(...)`, in the structure that it takes."
        )
    shape = config["input_shape"]
    return keras.Input(batch_shape=(None, *shape[1:]))
