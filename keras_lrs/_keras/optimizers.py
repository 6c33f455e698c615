"""Optimizers: those inside others, their rates, and their lists of variables."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import interrupts
from keras_lrs._keras.variables import assign, number, strategy_scope

CURRENT_RATE = "_get_current_learning_rate"
"""The method that `Optimizer.learning_rate` calls, also in an update."""


def leaves(optimizer: Any) -> list:
    """The optimizers that update variables: those inside a wrapper, or itself."""
    inside = _inside(optimizer)
    if inside is None:
        return [optimizer]
    return [leaf for one in inside for leaf in leaves(one)]


def within(optimizer: Any) -> list:
    """An optimizer and all those inside it, wrappers included."""
    inside = _inside(optimizer) or []
    return [optimizer, *(one for other in inside for one in within(other))]


def _inside(optimizer):
    """The optimizers that a wrapper holds; None for one that is no wrapper."""
    # A `LossScaleOptimizer`, a `ScheduleFree` or a `Scheduled`.
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return [inner]
    return getattr(optimizer, "optimizers", None)  # A `MultiOptimizer`.


def default_of_map(optimizer: Any) -> Any:
    """The optimizer of all variables that a `MultiOptimizer` maps to no other, or None.

    It may have none to train.
    """
    found = (getattr(one, "_optimizer_map", None) for one in within(optimizer))
    return next((getattr(one, "default_optimizer", None) for one in found if one), None)


def may_skip(held: list, leaf: Any) -> bool:
    """Whether one of the optimizers that a model holds may skip updates of another."""
    return bool(_scaling(held, leaf))


def loss_scale(held: list, leaf: Any) -> float:
    """The loss scale of an optimizer among those that a model holds; 1 if none."""
    return math.prod(
        number(one.dynamic_scale) if one.built else one.initial_scale
        for one in _scaling(held, leaf)
    )


def most_skipped(held: list, leaf: Any, before: float, made: int) -> int:
    """How many updates may have been skipped, since the loss scale was `before`.

    Each halves it, and each run of so many updates that are not skipped doubles it.
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
    """A name for each of several optimizers, no two the same."""
    names = [optimizer.name for optimizer in optimizers]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}"
        for i, name in enumerate(names)
    ]


def portable_config(optimizer: Any) -> dict[str, Any]:
    """An optimizer serialized such that it loads on every backend.

    On PyTorch, Keras's optimizers are of classes of their own, with PyTorch's steps.
    """
    config = keras.saving.serialize_keras_object(optimizer)
    if config["module"].startswith("keras.src.backend."):
        config["module"], config["registered_name"] = "keras.optimizers", None
    return config


def rate_source(optimizer: Any) -> Any:
    """The variable, schedule or function that an optimizer takes its rate from.

    `Optimizer.learning_rate` gives a schedule's current value instead.
    """
    return optimizer._learning_rate


def capped(optimizer: Any, rates: Any, iterations: Any) -> Any:
    """The rates that updates use, of those that they are given.

    Keras's `Adafactor` uses at most one over the root of the update's number, whatever
    its `relative_step` is.
    """
    if not isinstance(optimizer, keras.optimizers.Adafactor):
        return rates
    updates = iterations // accumulated(optimizer) + 1
    return np.minimum(rates, 1.0 / np.sqrt(updates))


def set_rate(optimizer: Any, rate: float) -> None:
    """Sets the variable of an optimizer's rate, between steps."""
    assign(optimizer._learning_rate, rate)


def iterations(optimizer: Any) -> int:
    """How often `apply` was called, micro-batches included.

    `Optimizer.iterations` is divided by the accumulation steps; schedules are not.
    """
    return int(number(optimizer._iterations))


def accumulated(optimizer: Any) -> int:
    """How many micro-batches make an update."""
    return optimizer.gradient_accumulation_steps or 1


def build(model: Any) -> None:
    """Builds a model's optimizer, as Keras does in the first step."""
    with strategy_scope(model):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)


def weights(optimizer: Any) -> list:
    """The variables that a built optimizer trains by their gradients."""
    # Scales of float8 are overwritten by theirs.
    return [v for v in trained(optimizer) if not is_overwritten(v)]


def is_overwritten(variable: Any) -> bool:
    """Whether a variable is set to its gradient, as the scales of float8 are."""
    return getattr(variable, "overwrite_with_gradient", False)


def trained(optimizer: Any) -> list:
    """The variables that an optimizer was built with, in its order."""
    return optimizer._trainable_variables


def trained_of_model(optimizer: Any) -> list:
    """The model's variables that an optimizer trains, in its order."""
    # Those of the optimizer inside a `ScheduleFree` stand for the model's.
    owner = optimizer
    if is_taken_over(optimizer):
        owner = vars(optimizer)["_apply_weight_decay"].__self__
    return trained(owner)


def trained_paths(optimizer: Any) -> list[str]:
    """The paths of the model's variables that an optimizer trains, in its order."""
    return [variable.path for variable in trained_of_model(optimizer)]


def position(optimizer: Any, variable: Any) -> int:
    """Where a variable is among those that an optimizer was built with."""
    return optimizer._get_variable_index(variable)


def accumulated_gradients(optimizer: Any, variables: list) -> list:
    """The sums of the gradients of the micro-batches before, for some variables."""
    sums = optimizer._accumulated_gradients
    return [sums[position(optimizer, variable)] for variable in variables]


def set_variables(optimizer: Any, variables: list) -> None:
    """Replaces the list of an optimizer's own variables.

    TensorFlow saves no list that was changed other than by appending. So this is a new
    list, set as in the optimizer's constructor, where there is no tracker yet.
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
    """Whether a run's own step stands in for the optimizer's `apply`."""
    return "apply" in vars(optimizer)


@contextlib.contextmanager
def original_apply(optimizer: Any) -> Iterator[None]:
    """Within it `apply` is the optimizer's own."""
    attributes = vars(optimizer)
    covering = {"apply": attributes.pop("apply")} if "apply" in attributes else {}
    try:
        yield
    finally:
        attributes.update(covering)


# --- An optimizer that makes the updates of another ---


def take_over(optimizer: Any, update: Any, decay: Any) -> None:
    """Calls methods of another optimizer where an optimizer would update and decay.

    Both are called once per update, not per micro-batch: `decay(variables)`, then
    `update(gradients, variables, rate)` with gradients that are averaged and clipped.
    """
    attributes = vars(optimizer)
    attributes["_backend_update_step"] = update
    attributes["_apply_weight_decay"] = decay


def is_taken_over(optimizer: Any) -> bool:
    """Whether another optimizer makes its updates."""
    return "_apply_weight_decay" in vars(optimizer)


def update(optimizer: Any, gradients: Any, variables: Any, rate: Any) -> None:
    """The update that an optimizer would make itself, without weight decay."""
    type(optimizer)._backend_update_step(optimizer, gradients, variables, rate)


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether an optimizer's weight decay applies to a variable."""
    return optimizer._use_weight_decay(variable)
