"""On JAX, the state that `fit` passes from step to step, with our variables."""

import functools
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
from keras import ops

from keras_lrs._keras import fit_loop, interrupts, scopes
from keras_lrs._keras.variables import number
from keras_lrs._keras.weights import WeightsCopy, copied_weights
from keras_lrs._step.optimizer_step import installed


@scopes.closed
def with_followers(model: Any, steps: list, before: tuple, result: tuple) -> tuple:
    """Runs the parts that follow the whole step on the result of a `train_step`.

    Args:
        model: The model.
        steps: The steps of its optimizers, installed.
        before: The state before the step.
        result: The logs and the new state.
    """
    logs, (trainable, non_trainable, optimizer, metrics) = result
    variables = model.optimizer.variables
    counts = dict(zip(map(id, variables), before[2], strict=True))
    mapping = [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(model.non_trainable_variables, non_trainable, strict=True),
        *zip(variables, optimizer, strict=True),
    ]
    with keras.StatelessScope(mapping) as scope:
        for step in steps:
            for part in step.parts:
                if part.follows_step:
                    part.step_ends(counts[id(step.optimizer._iterations)])
    optimizer = [scope.get_current_value(variable) for variable in variables]
    return logs, (trainable, non_trainable, optimizer, metrics)


class JaxState:
    """The state between the steps of an epoch, as the train function knows it.

    During an epoch, the variables do not hold their values. `fit` has taken them, and
    writes them back at the end of the epoch.
    """

    def __init__(self, model: Any, steps: list):
        self._model = model
        self._steps = steps
        self._fresh_metrics: list[np.ndarray] | None = None
        self._result: Any = None
        self.forget()

    def epoch_begins(self) -> None:
        """Makes `fit` forget the last state, so that changes made now are kept."""
        self.forget()
        vars(self._model)["_jax_state"] = None

    def forget(self) -> None:
        """Notes that `fit` has written the state into the variables."""
        self._weights: Any = None
        self._optimizer: Any = None
        self._metrics: Any = None

    def run(self, function: Any, arguments: tuple, fresh_metrics: bool, kept: bool):
        """Runs an execution, with our variables among the optimizer's.

        Args:
            function: The train function.
            arguments: The state and the iterator.
            fresh_metrics: Whether the metrics start over.
            kept: Whether the state may be read after it.
        """
        (*weights, variables, metrics), iterator = arguments
        if fresh_metrics:
            # `fit` reset them before the first step; each step donates its own.
            if self._fresh_metrics is None:
                self._fresh_metrics = [np.array(metric) for metric in metrics]
            metrics = [jnp.array(metric) for metric in self._fresh_metrics]
        variables = list(variables)
        for index, ours in self._places:
            variables.insert(index, ours.array)
        with interrupts.deferred():
            # From here on only the result holds the values.
            self._result = function((*weights, variables, metrics), iterator)
            return self._taken(kept)

    def _taken(self, kept=False):
        """Takes our variables out of a result, and passes the others to `fit`."""
        logs, (*weights, variables, metrics) = self._result
        variables = list(variables)
        for index, ours in reversed(self._places):
            ours.array = variables.pop(index)
        state = (*weights, variables, metrics)
        self._hand_over(state)
        if kept:
            self._weights, self._optimizer = weights, variables
            self._metrics = metrics
        return logs, state

    @functools.cached_property
    def _places(self):
        """Our variables, and their places among the optimizer's while installed."""
        ours = [one for step in self._steps for one in step.step_variables]
        with installed(self._steps):
            places = [(self._index(one.variable), one) for one in ours]
        return sorted(places, key=lambda place: place[0])

    def _index(self, variable):
        variables = enumerate(self._model.optimizer.variables)
        found = (index for index, other in variables if other is variable)
        return next(found, None)

    # --- Reading within an epoch ---

    @property
    def is_known(self) -> bool:
        """Whether the values are here instead of in the variables."""
        return self._optimizer is not None

    def holds(self, variable: Any) -> bool:
        """Whether `fit` has taken the value of a variable."""
        return any(one is variable for one in self._model.optimizer.variables)

    def number(self, variable: Any) -> float:
        """Returns the value of an optimizer's variable of shape ()."""
        index = self._index(variable)
        # An optimizer that `fit` does not use keeps its value in the variable.
        return number(variable) if index is None else self._optimizer[index].item()

    def read(self, variables: list) -> list[np.ndarray]:
        """Returns copies of values of variables of the model, optimizer or metrics."""
        model, (trainable, non_trainable) = self._model, self._weights
        values = {
            id(variable): array
            for variables, arrays in (
                (model.trainable_variables, trainable),
                (model.non_trainable_variables, non_trainable),
                (model.optimizer.variables, self._optimizer),
                (model.metrics_variables, self._metrics),
            )
            for variable, array in zip(variables, arrays, strict=True)
        }
        # Copy them, because the next step gets these arrays and overwrites them.
        # Optimizers that `fit` does not use keep their values in the variables.
        found = [values.get(id(variable), variable) for variable in variables]
        return [np.array(ops.convert_to_numpy(value)) for value in found]

    def copied_weights(self) -> WeightsCopy:
        """Copies all weights of the model."""
        return copied_weights(self._model, self._weights)

    # --- When a step is interrupted ---

    def _hand_over(self, state):
        """Gives `fit` the state of a step that may never return.

        `fit` has taken the variables' values, and in its `finally` it restores what it
        finds here.
        """
        names = ("trainable", "non_trainable", "optimizer", "metrics")
        # Bypasses Keras's tracking, which would wrap it in every step.
        vars(self._model)["_jax_state"] = {
            f"{name}_variables": values
            for name, values in zip(names, state, strict=True)
        }

    def broke_off(self, state: Any) -> None:
        """Gives `fit` the newest state if an execution fails.

        Args:
            state: The state before the execution. While it is traced, nothing of it has
                been donated yet.
        """
        if self._result is not None:
            self._taken()
        elif _is_there(state):
            self._hand_over(state)

    def ends(self) -> None:
        """Notes that an execution is over and that `fit` has its state."""
        self._result = None

    def take_back(self) -> None:
        """Restores the variables' values if `fit` ended without doing so."""
        found = [*self._model.variables, *self._model.optimizer.variables]
        if all(variable._value is not None for variable in found):
            return
        state = fit_loop.jax_fit(self._model).get("state")
        if state is not None and _is_there(state):
            self._hand_over(state)
            self._model._jax_state_synced = False
            self._model.jax_state_sync()


def _is_there(state):
    """Whether no step has taken the arrays of a state."""
    return not any(array.is_deleted() for part in state for array in part)
