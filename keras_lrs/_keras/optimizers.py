"""Functions for optimizers: inner optimizers, rates, and lists of variables."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import interrupts
from keras_lrs._keras.variables import assign, number, strategy_scope

CURRENT_RATE = "_get_current_learning_rate"
"""The method that `Optimizer.learning_rate` calls, even in an update."""


def leaves(optimizer: Any) -> list:
    """Returns the optimizers that update variables: inside a wrapper, or itself."""
    inside = _inside(optimizer)
    if inside is None:
        return [optimizer]
    return [leaf for one in inside for leaf in leaves(one)]


def within(optimizer: Any) -> list:
    """Returns an optimizer and all optimizers inside it, including wrappers."""
    inside = _inside(optimizer) or []
    return [optimizer, *(one for other in inside for one in within(other))]


def _inside(optimizer):
    """Returns the optimizers that a wrapper holds; None if it is not a wrapper."""
    # A `LossScaleOptimizer`, a `ScheduleFree` or a `Scheduled`.
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return [inner]
    return getattr(optimizer, "optimizers", None)  # A `MultiOptimizer`.


def default_of_map(optimizer: Any) -> Any:
    """Returns a `MultiOptimizer`'s optimizer for variables without a mapping, or None.

    It may have no variables to train.
    """
    found = (getattr(one, "_optimizer_map", None) for one in within(optimizer))
    return next((getattr(one, "default_optimizer", None) for one in found if one), None)


def may_skip(held: list, leaf: Any) -> bool:
    """Whether an optimizer of a model may skip updates of another optimizer."""
    return bool(_scaling(held, leaf))


def loss_scale(held: list, leaf: Any) -> float:
    """Returns the loss scale of one of a model's optimizers; 1 if it has none."""
    return math.prod(
        number(one.dynamic_scale) if one.built else one.initial_scale
        for one in _scaling(held, leaf)
    )


def most_skipped(held: list, leaf: Any, before: float, made: int) -> int:
    """Returns how many updates may have been skipped since the loss scale was `before`.

    Each skipped update halves the scale, and a number of others in a row doubles it.
    """
    found = _scaling(held, leaf)
    doubled = sum(made // one.dynamic_growth_steps + 1 for one in found)
    return doubled + round(math.log2(before / loss_scale(held, leaf)))


def _scaling(held, leaf):
    return [
        one
        for root in held
        for one in within(root)
        if isinstance(one, keras.optimizers.LossScaleOptimizer)
        and any(leaf is inner for inner in leaves(one))
    ]


def labels(optimizers: list) -> list[str]:
    """Returns a unique name for each of several optimizers."""
    names = [optimizer.name for optimizer in optimizers]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}"
        for i, name in enumerate(names)
    ]


def portable_config(optimizer: Any) -> dict[str, Any]:
    """Serializes an optimizer so that it loads on every backend.

    On PyTorch, Keras's optimizers have separate classes with PyTorch's steps.
    """
    config = keras.saving.serialize_keras_object(optimizer)
    if config["module"].startswith("keras.src.backend."):
        config["module"], config["registered_name"] = "keras.optimizers", None
    return config


def rate_source(optimizer: Any) -> Any:
    """Returns the variable, schedule or function that determines an optimizer's rate.

    `Optimizer.learning_rate` returns a schedule's current value instead.
    """
    return optimizer._learning_rate


def caps(optimizer: Any) -> bool:
    """Whether updates may use lower rates than the optimizer was given."""
    return isinstance(optimizer, keras.optimizers.Adafactor)


def capped(optimizer: Any, rates: Any, iterations: Any) -> Any:
    """Returns the rates that updates really use.

    Keras's `Adafactor` caps the rate at `1 / sqrt(k)` in update k, whatever its
    `relative_step`.
    """
    if not caps(optimizer):
        return rates
    updates = iterations // accumulated(optimizer) + 1
    return np.minimum(rates, 1.0 / np.sqrt(updates))


def set_rate(optimizer: Any, rate: float) -> None:
    """Sets the variable of an optimizer's rate, between steps."""
    assign(optimizer._learning_rate, rate)


def iterations(optimizer: Any) -> int:
    """Returns how often `apply` was called, including micro-batches.

    `Optimizer.iterations` is divided by the accumulation steps, but schedules are not.
    """
    return int(number(optimizer._iterations))


def accumulated(optimizer: Any) -> int:
    """Returns the number of micro-batches per update."""
    return optimizer.gradient_accumulation_steps or 1


def build(model: Any) -> None:
    """Builds a model's optimizer, as Keras does in the first step."""
    with strategy_scope(model):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)


def weights(optimizer: Any) -> list:
    """Returns the variables that a built optimizer trains by their gradients."""
    # Scales of float8 are overwritten by their gradients.
    return [v for v in trained(optimizer) if not is_overwritten(v)]


def is_overwritten(variable: Any) -> bool:
    """Whether a variable is set to its gradient, as the scales of float8 are."""
    return getattr(variable, "overwrite_with_gradient", False)


def trained(optimizer: Any) -> list:
    """Returns the variables with which an optimizer was built, in its order."""
    return optimizer._trainable_variables


def trained_of_model(optimizer: Any) -> list:
    """Returns the model's variables that an optimizer trains, in its order."""
    # The variables of the optimizer inside a `ScheduleFree` stand for the model's.
    owner = optimizer
    if is_taken_over(optimizer):
        owner = vars(optimizer)["_apply_weight_decay"].__self__
    return trained(owner)


def trained_paths(optimizer: Any) -> list[str]:
    """Returns the paths of the model's variables that an optimizer trains."""
    return [variable.path for variable in trained_of_model(optimizer)]


def position(optimizer: Any, variable: Any) -> int:
    """Returns the index of a variable among those of a built optimizer."""
    return optimizer._get_variable_index(variable)


def accumulated_gradients(optimizer: Any, variables: list) -> list:
    """Returns the sums of the past micro-batches' gradients, for some variables."""
    sums = optimizer._accumulated_gradients
    return [sums[position(optimizer, variable)] for variable in variables]


def set_variables(optimizer: Any, variables: list) -> None:
    """Replaces the list of an optimizer's own variables.

    TensorFlow cannot save a list that was changed other than by appending. So this sets
    a new list, as in the optimizer's constructor, where there is no tracker yet.
    """
    tracker = optimizer._tracker

    def change():
        vars(optimizer).pop("_tracker", None)
        optimizer._variables = list(variables)
        vars(optimizer)["_tracker"] = tracker
        is_variable, _ = tracker.config["variables"]
        tracker.config["variables"] = (is_variable, optimizer._variables)
        tracker.stored_ids["variables"] = {id(variable) for variable in variables}

    interrupts.finish(change)


def has_other_apply(optimizer: Any) -> bool:
    """Whether a run's own step replaces the optimizer's `apply`."""
    return "apply" in vars(optimizer)


@contextlib.contextmanager
def original_apply(optimizer: Any) -> Iterator[None]:
    """Restores the optimizer's own `apply` within the block."""
    attributes = vars(optimizer)
    covering = {"apply": attributes.pop("apply")} if "apply" in attributes else {}
    try:
        yield
    finally:
        attributes.update(covering)


# --- An optimizer that makes the updates of another ---


def take_over(optimizer: Any, update: Any, decay: Any, known: Any) -> None:
    """Makes an optimizer call another one's methods instead of its update and decay.

    Both are called once per update, not per micro-batch: `decay(variables)`, then
    `update(gradients, variables, rate)` with gradients that are averaged and clipped.
    `known` are the `KnownNumbers` of the one that takes over.
    """
    attributes = vars(optimizer)
    attributes["_keras_lrs_known"] = known
    attributes["_backend_update_step"] = update
    attributes["_apply_weight_decay"] = decay


def known_numbers(optimizer: Any) -> Any:
    """Returns the numbers of the one that has taken over an optimizer, or None."""
    return vars(optimizer).get("_keras_lrs_known")


def is_taken_over(optimizer: Any) -> bool:
    """Whether another optimizer makes this optimizer's updates."""
    return "_apply_weight_decay" in vars(optimizer)


def update(optimizer: Any, gradients: Any, variables: Any, rate: Any) -> None:
    """Makes the update that an optimizer would make itself, without weight decay."""
    type(optimizer)._backend_update_step(optimizer, gradients, variables, rate)


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether an optimizer's weight decay applies to a variable."""
    return optimizer._use_weight_decay(variable)
