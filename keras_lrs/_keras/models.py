"""Functions for models: layers, optimizers, losses, and the variables of a run."""

import contextlib
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs._keras import interrupts, optimizers
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs._keras.variables import strategy_scope

if IS_JAX:
    import jax
elif IS_TORCH:
    import torch
elif IS_TENSORFLOW:
    import tensorflow as tf


def layers(model: Any) -> list:
    """Returns all layers of a model, including nested ones."""
    return list(model._flatten_layers())


def own_optimizers(model: Any) -> dict[str, Any]:
    """Returns a model's optimizers besides `model.optimizer`, by the attribute.

    They are found where Keras's saving finds them: in the attributes of the model and
    of its layers, even in nested lists, tuples and dictionaries.
    """
    found: dict[str, Any] = {}
    main = getattr(model, "optimizer", None)
    seen = set() if main is None else {id(one) for one in optimizers.within(main)}
    for layer in layers(model):
        prefix = "" if layer is model else f"{layer.name}/"
        for name, value in list(vars(layer).items()):
            if name.startswith("_self_"):  # TensorFlow keeps them here again.
                continue
            for label, one in _optimizers_in(name, value):
                if id(one) not in seen:
                    found[_free(prefix + label, found)] = one
                    seen.update(id(inner) for inner in optimizers.within(one))
    return found


def _free(label, taken):
    """Returns a label that is not taken, for layers with equal names."""
    labels = itertools.chain([label], (f"{label}_{i}" for i in itertools.count(1)))
    return next(one for one in labels if one not in taken)


def main_optimizers(model: Any) -> dict[str, Any]:
    """Returns the optimizers that train a model, by attribute; a wrapper is one.

    This is `model.optimizer` or, if it is None, the optimizers in other attributes.
    """
    main = getattr(model, "optimizer", None)
    return own_optimizers(model) if main is None else {"optimizer": main}


def updating(model: Any) -> list:
    """Returns the optimizers that update a model's variables, inside all wrappers."""
    found = main_optimizers(model).values()
    return [leaf for one in found for leaf in optimizers.leaves(one)]


def all_optimizers(model: Any) -> list:
    """Returns the optimizers that train a model: wrappers, and those inside."""
    found = main_optimizers(model).values()
    return [one for outer in found for one in optimizers.within(outer)]


def attribute_of(model: Any, optimizer: Any) -> str | None:
    """Returns the attribute that holds an optimizer; None if `model.optimizer` does."""
    for name, one in own_optimizers(model).items():
        if any(optimizer is inner for inner in optimizers.within(one)):
            return name
    return None


def hint_of_others(model: Any) -> str:
    """Returns advice in case another optimizer than `model.optimizer` trains."""
    names = ", ".join(f"`{name}`" for name in own_optimizers(model))
    if not names or model.optimizer is None:
        return ""
    return (
        f" This model holds other optimizers: {names}. If they are those that train "
        "it, compile it with `super().compile(optimizer=None)`."
    )


def _optimizers_in(name, value, above=()):
    """Yields pairs of a label and an optimizer that an attribute is or holds."""
    if isinstance(value, keras.Optimizer):
        yield name, value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in above:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(items):
            yield from _optimizers_in(f"{name}_{key}", item, (*above, id(value)))


def is_chief(model: Any) -> bool:
    """Whether this process is the one that writes files in a distributed run."""
    if IS_TENSORFLOW:
        strategy = getattr(model, "_distribute_strategy", None)
        return strategy is None or strategy.extended.should_checkpoint
    if IS_JAX:
        return jax.process_index() == 0
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return True


def can_be_called(model: Any) -> bool:
    """Whether a model or layer has a `call`; others have only a `train_step`."""
    return type(model).call not in (keras.Model.call, keras.layers.Layer.call)


def weights_exist(model: Any) -> bool:
    """Whether all variables that a model will train exist."""
    if model.built or can_be_called(model):
        return model.built
    return not unbuilt_layers(model) and bool(model.variables)


def unbuilt_layers(model: Any) -> list[str]:
    """Returns the names of the layers of a model that are not built."""
    inside = [layer for layer in layers(model) if layer is not model]
    return [layer.name for layer in inside if not layer.built]


def is_built(model: Any, metrics: bool = False) -> bool:
    """Whether a first `fit` finds everything that it would build with a batch.

    On TensorFlow the first step builds metrics; `metrics` says whether to include them.
    """
    # A model without `call` is never built itself.
    parts = [one for one in layers(model) if one is not model or can_be_called(model)]
    if metrics or not IS_TENSORFLOW or model._distribute_strategy is not None:
        parts += [model._compile_metrics, model._compile_loss]
    return all(part is None or part.built for part in parts)


def build_from(model: Any, batch_spec: Any) -> None:
    """Builds everything that a first step would build from a batch of such tensors."""
    model._symbolic_build(data_batch=batch_spec)


def can_set(model: Any, variable: Any) -> bool:
    """Whether a training step uses a value assigned to a variable beforehand.

    JAX compiles the values of variables that are not the model's into the step.
    """
    return not IS_JAX or any(variable is v for v in model.non_trainable_variables)


def tokens_per_sample(model: Any) -> int | None:
    """Returns the length of the sequences that a model takes; None if it is not known.

    It is known if the only input has integers and the shape (batch, length).
    """
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if len(inputs) != 1 or len(inputs[0].shape) != 2:
        return None
    is_integer = "int" in keras.backend.standardize_dtype(inputs[0].dtype)
    return inputs[0].shape[1] if is_integer else None


@contextlib.contextmanager
def built_first(model: Any) -> Iterator[None]:
    """Makes TensorFlow's `fit` build a model before it calls any callback.

    On JAX and PyTorch, and under a strategy on TensorFlow, it always does. Otherwise
    the first step builds the model, which is too late to copy its initial state.
    """
    if not IS_TENSORFLOW or model._distribute_strategy is not None:
        yield
        return

    def build(iterator=None, data_batch=None):
        if is_built(model):
            return
        for _, _, batches in iterator:
            data_batch = batches.element_spec  # No data is consumed.
            break
        build_from(model, data_batch)

    with interrupts.undoing() as undo:
        undo.callback(vars(model).pop, "_maybe_symbolic_build", None)
        vars(model)["_maybe_symbolic_build"] = build
        yield


def recurrent_states(model: Any) -> list:
    """Returns the states of stateful recurrent layers, which are not Keras variables.

    On JAX there are none, because Keras's own steps do not pass them on.
    """
    known = {id(variable) for variable in model.variables}
    return [
        state
        for layer in ([] if IS_JAX else layers(model))
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for state in keras.tree.flatten(layer.states)
        if state is not None and id(state) not in known
    ]


def state_variables(model: Any, all_held: bool = True) -> list:
    """Returns the variables of a model, its optimizers and losses, not of metrics.

    Args:
        model: The model.
        all_held: Whether to include those of losses, and of optimizers that others hold
            in their own attributes. They come last.
    """
    found = [*model.variables, *recurrent_states(model)]
    every = _all_within(model)
    for one in every:
        found += one.variables
    for _, one in _held_by(every) if all_held else ():
        found += one.variables
    for loss in losses(model) if all_held else ():
        found += [one for one in vars(loss).values() if isinstance(one, keras.Variable)]
        found += [
            one.state
            for one in vars(loss).values()
            if isinstance(one, keras.random.SeedGenerator)
        ]
    return list({id(variable): variable for variable in found}.values())


def _all_within(model):
    """Returns all optimizers of a model, and those that Keras knows inside them."""
    optimizer = getattr(model, "optimizer", None)  # Of a compiled model.
    main = [] if optimizer is None else [optimizer]
    found = [*main, *own_optimizers(model).values()]
    return [one for optimizer in found for one in optimizers.within(optimizer)]


def _held_by(every):
    """Returns pairs of an optimizer and one that it holds in its own attributes."""
    found: list = []
    seen = {id(one) for one in every}
    pending = list(every)
    while pending:
        holder = pending.pop(0)
        for name, value in list(vars(holder).items()):
            for _, inner in _optimizers_in(name, value):
                if id(inner) not in seen:
                    seen.add(id(inner))
                    found.append((holder, inner))
                    pending.append(inner)
    return found


def build_held(model: Any) -> None:
    """Builds optimizers that others hold in attributes of their own, for their weights.

    Some are built by the first step only.
    """
    for holder, one in _held_by(_all_within(model)):
        if holder.built and not one.built:
            with strategy_scope(model):
                one.build(optimizers.trained(holder))


def losses(model: Any) -> list:
    """Returns the losses that are objects: with which it was compiled, and its own."""
    held = [value for layer in layers(model) for value in vars(layer).values()]
    found = keras.tree.flatten(loss_of(model)) + held
    return [one for one in found if isinstance(one, keras.Loss)]


def loss_of(model: Any) -> Any:
    """Returns the losses with which a model was compiled, and their weights."""
    compiled = getattr(model, "_compile_loss", None)
    if compiled is None:
        return getattr(model, "loss", None)
    return [compiled._user_loss, compiled._user_loss_weights]


def places_of_trained(model: Any) -> dict[str, list[int]]:
    """Returns which variables of a model its other optimizers train.

    Variables are identified by their places in `model.variables`. An optimizer that is
    not built, or that trains other variables, is left out.
    """
    place = {id(variable): index for index, variable in enumerate(model.variables)}
    trained = {
        label: [id(variable) for variable in optimizers.trained(one)]
        for label, one in own_optimizers(model).items()
        if one.built
    }
    return {
        label: [place[one] for one in found]
        for label, found in trained.items()
        if place.keys() >= set(found)
    }


def build_others(model: Any, places: dict[str, list[int]]) -> None:
    """Builds the optimizers besides `model.optimizer` as they were in another run."""
    found = model.variables
    for label, one in own_optimizers(model).items():
        wanted = places.get(label, [])
        if not one.built and wanted and max(wanted) < len(found):
            with strategy_scope(model):
                one.build([found[index] for index in wanted])


def buffer_values(model: Any) -> list[np.ndarray]:
    """Returns copies of what layers hold besides Keras's variables.

    These are the buffers of PyTorch modules, and TensorFlow's own variables, such as
    those of a `tf.random.Generator`.
    """
    return [ops.convert_to_numpy(buffer).copy() for buffer in _buffers(model)]


def set_buffers(model: Any, values: list[np.ndarray]) -> None:
    """Restores the values of the buffers."""
    buffers = _buffers(model)
    if IS_TENSORFLOW and buffers and not values:
        names = ", ".join(f"`{buffer.name}`" for buffer in buffers)
        warnings.warn(
            f"The checkpoint has no values of {names}, variables of layers which "
            "earlier versions did not save: they are not restored.",
            stacklevel=2,
        )
        return
    for buffer, value in zip(buffers, values, strict=True):
        if IS_TORCH:
            buffer.copy_(torch.as_tensor(value))
        else:
            buffer.assign(value)


def _buffers(model):
    if IS_TENSORFLOW:
        return _tensorflow_variables(model)
    found = layers(model) if IS_TORCH else []
    return list({id(b): b for layer in found for b in layer.buffers()}.values())


def _tensorflow_variables(model):
    """Returns the variables of layers that are TensorFlow's and not Keras's."""
    known = [*state_variables(model), *model.metrics_variables]
    ours = {id(getattr(one, "value", one)) for one in known} | set(map(id, known))
    found = [
        variable
        for layer in layers(model)
        for value in list(vars(layer).values())
        for variable in _variables_in(value)
    ]
    return list({id(one): one for one in found if id(one) not in ours}.values())


def _variables_in(value):
    """Yields TensorFlow's variables in an attribute, even in nested lists."""
    if isinstance(value, tf.Variable):
        yield value
    elif isinstance(value, tf.random.Generator):
        yield value.state
    elif isinstance(value, tf.Module):
        yield from value.variables
    elif isinstance(value, (dict, list, tuple)):
        items = value.values() if isinstance(value, dict) else value
        for item in list(items):
            yield from _variables_in(item)
