"""Models: their layers, what `fit` changes on them, and the state of a training run."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs._keras import interrupts, optimizers, random
from keras_lrs._keras.backend import IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs._keras.variables import read, strategy_scope, write

if IS_JAX:
    import jax
elif IS_TORCH:
    import torch

# What `fit` sets on a model, besides variables.
_ATTRIBUTES = (
    "history",
    "stop_training",
    "stop_evaluating",
    "train_function",
    "steps_per_execution",
    "_initial_epoch",
    "_eval_epoch_iterator",
    "_jax_state",
)


def layers(model: Any) -> list:
    """All layers of a model, also those inside others."""
    return list(model._flatten_layers())


def own_optimizers(model: Any) -> dict[str, Any]:
    """The optimizers that a model holds beside `model.optimizer`, by where they are.

    They are found where Keras's saving finds them: among the attributes of the model
    and of its layers, also in lists, tuples and dictionaries, nested ones too.
    """
    found: dict[str, Any] = {}
    main = getattr(model, "optimizer", None)
    seen = set() if main is None else {id(one) for one in optimizers.within(main)}
    for layer in layers(model):
        prefix = "" if layer is model else f"{layer.name}/"
        for name, value in list(vars(layer).items()):
            if name.startswith("_self_"):  # Where TensorFlow notes them once more.
                continue
            for label, one in _optimizers_in(name, value):
                if id(one) not in seen:
                    found[_free(prefix + label, found)] = one
                    seen.update(id(inner) for inner in optimizers.within(one))
    return found


def _free(label, taken):
    """A label that is not taken, such as that of a layer with another's name."""
    labels = itertools.chain([label], (f"{label}_{i}" for i in itertools.count(1)))
    return next(one for one in labels if one not in taken)


def main_optimizers(model: Any) -> dict[str, Any]:
    """The optimizers that train a model, wrappers as one, by where they are.

    That is `model.optimizer`; or, if it is None, those that the model holds otherwise.
    """
    main = getattr(model, "optimizer", None)
    return own_optimizers(model) if main is None else {"optimizer": main}


def updating(model: Any) -> list:
    """The optimizers that update the variables of a model, inside all wrappers."""
    found = main_optimizers(model).values()
    return [leaf for one in found for leaf in optimizers.leaves(one)]


def all_optimizers(model: Any) -> list:
    """The optimizers that train a model: wrappers, and those inside."""
    found = main_optimizers(model).values()
    return [one for outer in found for one in optimizers.within(outer)]


def attribute_of(model: Any, optimizer: Any) -> str | None:
    """Where a model holds an optimizer; None for one inside of `model.optimizer`."""
    for name, one in own_optimizers(model).items():
        if any(optimizer is inner for inner in optimizers.within(one)):
            return name
    return None


def hint_of_others(model: Any) -> str:
    """What to do if `model.optimizer` is not the one that trains; empty if it is."""
    names = ", ".join(f"`{name}`" for name in own_optimizers(model))
    if not names or model.optimizer is None:
        return ""
    return (
        f" This model holds other optimizers: {names}. If they are those that train "
        "it, compile it with `super().compile(optimizer=None)`."
    )


def _optimizers_in(name, value, above=()):
    """Pairs of a label and an optimizer that an attribute is or holds."""
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
    """Whether a model or layer has a `call`; others train by a `train_step` alone."""
    return type(model).call not in (keras.Model.call, keras.layers.Layer.call)


def weights_exist(model: Any) -> bool:
    """Whether all variables exist that a model is going to train."""
    if model.built or can_be_called(model):
        return model.built
    return not unbuilt_layers(model) and bool(model.variables)


def unbuilt_layers(model: Any) -> list[str]:
    """The names of the layers of a model that have not been built."""
    inside = [layer for layer in layers(model) if layer is not model]
    return [layer.name for layer in inside if not layer.built]


def is_built(model: Any, metrics: bool = False) -> bool:
    """Whether a first `fit` finds everything that it would build with a batch.

    On TensorFlow it builds metrics in the first step; `metrics` asks for them, too.
    """
    # A model without `call` is never built itself.
    parts = [one for one in layers(model) if one is not model or can_be_called(model)]
    if metrics or not IS_TENSORFLOW or model._distribute_strategy is not None:
        parts += [model._compile_metrics, model._compile_loss]
    return all(part is None or part.built for part in parts)


def build_from(model: Any, batch_spec: Any) -> None:
    """Builds all that a first step would build from a batch of such tensors."""
    model._symbolic_build(data_batch=batch_spec)


def can_set(model: Any, variable: Any) -> bool:
    """Whether a training step reads what a variable, not trained, is set to before it.

    JAX compiles the value of any that is not the model's into the step.
    """
    return not IS_JAX or any(variable is v for v in model.non_trainable_variables)


def tokens_per_sample(model: Any) -> int | None:
    """The length of the sequences that a model takes; None if it is not known.

    It is if the only input is of integers and of shape (batch, length).
    """
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if len(inputs) != 1 or len(inputs[0].shape) != 2:
        return None
    is_integer = "int" in keras.backend.standardize_dtype(inputs[0].dtype)
    return inputs[0].shape[1] if is_integer else None


@contextlib.contextmanager
def built_first(model: Any) -> Iterator[None]:
    """Within it, TensorFlow's `fit` builds a model before it calls any callback.

    On JAX and PyTorch it always does, and under a strategy on TensorFlow. Otherwise the
    first step builds the model, which is too late to remember what it began with.
    """
    if not IS_TENSORFLOW or model._distribute_strategy is not None:
        yield
        return

    def build(iterator=None, data_batch=None):
        if is_built(model):
            return
        for _, _, batches in iterator:
            data_batch = batches.element_spec  # None of the data is used up.
            break
        build_from(model, data_batch)

    with interrupts.undoing() as undo:
        undo.callback(vars(model).pop, "_maybe_symbolic_build", None)
        vars(model)["_maybe_symbolic_build"] = build
        yield


class FitSideEffects:
    """What a model's `fit` changes before it trains: attributes and metrics.

    Also the random numbers, unless `fit` is going to draw some to build the model.
    """

    def __init__(self, model: Any):
        self.model = model
        self.random = random.state() if is_built(model) else None
        own = vars(model)
        self.attributes = {name: own[name] for name in _ATTRIBUTES if name in own}
        self.variables = list(model.metrics_variables)
        self.values = read(self.variables)

    def undo(self) -> None:
        """Puts everything back, and takes away what was not there."""
        # Metrics that were built since then have no value to go back to.
        self.model.reset_metrics()
        write(self.variables, self.values)
        own = vars(self.model)
        for name in _ATTRIBUTES:
            own.pop(name, None)
        own.update(self.attributes)
        if self.random is not None:
            random.set_state(self.random)


class TrainingState:
    """What training changes: variables and generators of random numbers.

    The values are copied to the host. The model must be built; its optimizer is built.
    Those in attributes that a training step builds become what they were when built.
    """

    def __init__(self, model: Any):
        if model.optimizer is not None:
            optimizers.build(model)
        self.model = model
        self.unbuilt = [
            (one, _fresh(label, one))
            for label, one in own_optimizers(model).items()
            if not one.built
        ]
        self.variables = state_variables(model)
        self.values = read(self.variables)
        self.buffers = buffer_values(model)
        self.random = random.state()

    def restore(self) -> None:
        """Puts everything back, bit for bit."""
        write(self.variables, self.values)
        set_buffers(self.model, self.buffers)
        for one, fresh in self.unbuilt:
            if one.built:  # By a training step, with variables that were not there.
                fresh.build(optimizers.trained(one))
                write(one.variables, read(fresh.variables))
        random.set_state(self.random)


def _fresh(label, optimizer):
    """An optimizer like one that is not built."""
    try:
        return type(optimizer).from_config(optimizer.get_config())
    except Exception as error:  # A class of the user's raises anything.
        raise ValueError(
            f"The state of `{label}` could not be restored, since it is not built and "
            "not recreated from its config. Build it before, by its `build` with the "
            "variables that it updates."
        ) from error


def recurrent_states(model: Any) -> list:
    """The states of stateful recurrent layers, which Keras counts among no variables.

    On JAX there are none: Keras's own steps do not hand them on.
    """
    known = {id(variable) for variable in model.variables}
    return [
        state
        for layer in ([] if IS_JAX else layers(model))
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for state in keras.tree.flatten(layer.states)
        if state is not None and id(state) not in known
    ]


def state_variables(model: Any) -> list:
    """All variables of a model and its optimizers, each once; not those of metrics."""
    found = [*model.variables, *recurrent_states(model)]
    main = [] if model.optimizer is None else [model.optimizer]
    for optimizer in [*main, *own_optimizers(model).values()]:
        for one in optimizers.within(optimizer):
            found += one.variables
    return list({id(variable): variable for variable in found}.values())


def places_of_trained(model: Any) -> dict[str, list[int]]:
    """Which variables of a model the optimizers beside `model.optimizer` train.

    They are told by their places in `model.variables`; an optimizer that is not built,
    or that trains others, is left out.
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
    """Builds the optimizers beside `model.optimizer` as they were in another run."""
    found = model.variables
    for label, one in own_optimizers(model).items():
        wanted = places.get(label, [])
        if not one.built and wanted and max(wanted) < len(found):
            with strategy_scope(model):
                one.build([found[index] for index in wanted])


def buffer_values(model: Any) -> list[np.ndarray]:
    """Copies of the buffers of PyTorch's modules in a model: they are no variables."""
    return [ops.convert_to_numpy(buffer).copy() for buffer in _buffers(model)]


def set_buffers(model: Any, values: list[np.ndarray]) -> None:
    """Gives the buffers back what they were."""
    for buffer, value in zip(_buffers(model), values, strict=True):
        buffer.copy_(torch.as_tensor(value))


def _buffers(model):
    found = layers(model) if IS_TORCH else []
    return list({id(b): b for layer in found for b in layer.buffers()}.values())
