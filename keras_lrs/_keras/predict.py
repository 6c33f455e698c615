"""Predicts with other weights than those of the model."""

from typing import Any

import keras

from keras_lrs._keras.backend import IS_JAX, IS_TORCH
from keras_lrs._keras.models import layers

if IS_JAX:
    import jax

# A scope can be entered again if it holds values. On other backends it holds symbols of
# one trace.
KEEPS_SCOPES = IS_TORCH
_MOST_FUSED = 256  # Variables in one compiled step; more take minutes to compile.


def ignores_scopes(model: Any) -> bool:
    """Whether `StatelessScope` cannot give a model other weights in `predict`.

    PyTorch's own modules use their parameters instead of Keras's variables. A custom
    `predict_step` works only within `predict`.
    """
    own_step = type(model).predict_step is not keras.Model.predict_step
    return own_step or has_modules(model)


def has_modules(model: Any) -> bool:
    """Whether a model contains PyTorch modules."""
    wrapper = keras.layers.TorchModuleWrapper
    return any(isinstance(layer, wrapper) for layer in layers(model))


def compile_arguments(model: Any) -> dict[str, Any]:
    """Returns the loss and metrics with which a model was compiled."""
    arguments = model._compile_config.config
    names = ("loss", "loss_weights", "metrics", "weighted_metrics")
    return {name: arguments[name] for name in names}


def jax_predict_function(joint: Any, has_convolutions: bool) -> Any:
    """Makes a `predict_function` for JAX that leaves the weights where they are.

    Keras's own function would pass all of them in and out of every step.

    Args:
        joint: A model with `member_variables` (a list per member). `outputs_with` maps
            the values of such a list and the inputs to the outputs, and to the values
            that the forward pass has changed, by their places in the list. `combine`
            makes one output of the members' outputs and the values of `shares`.
        has_convolutions: Whether the members have convolutions. On a CPU, several of
            them in one XLA program are slower than one after the other.
    """
    variables = joint.non_trainable_variables
    places = {id(variable): index for index, variable in enumerate(variables)}
    members = [[places[id(v)] for v in found] for found in joint.member_variables]
    on_cpu = jax.default_backend() == "cpu"
    one_by_one = (has_convolutions and on_cpu) or len(variables) > _MOST_FUSED
    forward: Any = jax.jit(joint.outputs_with) if one_by_one else joint.outputs_with
    share = places[id(joint.shares)]

    def outputs(values, inputs):
        values, found, places = list(values), [], set()
        for member in members:
            output, changed = forward([values[i] for i in member], inputs)
            for place, value in changed.items():
                values[member[place]] = value
                places.add(member[place])
            found.append(output)
        return joint.combine(found, values[share]), {i: values[i] for i in places}

    function = outputs if one_by_one else jax.jit(outputs)

    def predict_function(state, iterator):
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(next(iterator))
        found, changed = function(state[1], inputs)
        kept = [changed.get(i, value) for i, value in enumerate(state[1])]
        return found, (state[0], kept)

    return predict_function
