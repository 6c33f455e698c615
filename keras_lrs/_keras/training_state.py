"""The state of a model that training changes, and what restores it."""

import random as python_random
import sys
from typing import Any

import numpy as np

from keras_lrs._keras import models, optimizers, random
from keras_lrs._keras.backend import IS_TORCH
from keras_lrs._keras.objects import children
from keras_lrs._keras.stateful import Stateful
from keras_lrs._keras.variables import read, write

# The attributes that `fit` sets on a model.
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


def _built(model):
    """Returns whether a model is built, and how many weights it has so far."""
    return models.is_built(model), len(model.weights)


class FitSideEffects:
    """The attributes and metrics of a model that `fit` changes before it trains.

    They include random numbers, unless `fit` has drawn some to build the model, which
    the next `fit` will not draw again.
    """

    def __init__(self, model: Any):
        self.model = model
        self.random, self.built = random.state(), _built(model)
        own = vars(model)
        self.attributes = {name: own[name] for name in _ATTRIBUTES if name in own}
        self.variables = list(model.metrics_variables)
        self.values = read(self.variables)

    def undo(self) -> None:
        """Restores everything, and removes new attributes."""
        # Metrics that were built since then have no old values.
        self.model.reset_metrics()
        write(self.variables, self.values)
        own = vars(self.model)
        for name in _ATTRIBUTES:
            own.pop(name, None)
        own.update(self.attributes)
        if self.built == _built(self.model):
            random.set_state(self.random)


class TrainingState:
    """The state that training changes: variables and random generators.

    The values are copied to the host. The model must be built, and its optimizer is
    built here. Optimizers in attributes that a step builds are reset to their
    initial state.
    """

    def __init__(self, model: Any):
        if model.optimizer is not None:
            optimizers.build(model)
        self.model = model
        self.unbuilt = [
            (one, _fresh(label, one))
            for label, one in models.own_optimizers(model).items()
            if not one.built
        ]
        self.variables = models.state_variables(model)
        self.values = read(self.variables)
        self.buffers = models.buffer_values(model)
        self.generators = generators(model).kept()
        self.random = random.state()

    def restore(self) -> None:
        """Restores everything bit for bit."""
        write(self.variables, self.values)
        models.set_buffers(self.model, self.buffers)
        self.generators.put_back()
        for one, fresh in self.unbuilt:
            if one.built:  # A step has built it.
                fresh.build(optimizers.trained(one))
                write(one.variables, read(fresh.variables))
        random.set_state(self.random)


def generators(model: Any) -> Stateful:
    """Returns the random generators of libraries that layers and losses hold.

    There are none where steps are compiled, because a compiled step draws no more from
    them.
    """
    if not (IS_TORCH or model.run_eagerly):
        return Stateful(None)
    kinds = [np.random.Generator, np.random.RandomState, python_random.Random]
    if "torch" in sys.modules:
        kinds.append(sys.modules["torch"].Generator)
    owners = [*models.layers(model), *models.losses(model)]
    held = [value for one in owners for value in vars(one).values()]
    lists = [value for value in held if isinstance(value, (dict, list, tuple))]
    held += [item for value in lists for item in children(value)]
    return Stateful([one for one in held if isinstance(one, tuple(kinds))])


def _fresh(label, optimizer):
    """Makes an optimizer like one that is not built."""
    try:
        return type(optimizer).from_config(optimizer.get_config())
    except Exception as error:  # A user's class may raise anything.
        raise ValueError(
            f"The state of `{label}` could not be restored, because it is not built "
            "and cannot be recreated from its config. Call its `build` first, with the "
            "variables that it updates."
        ) from error
