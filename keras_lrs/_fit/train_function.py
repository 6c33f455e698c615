"""The function that replaces a model's train function during a run."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs._fit.hooks import replace
from keras_lrs._keras import (
    first_batch,
    in_step,
    interrupts,
    models,
    optimizers,
    variables,
)
from keras_lrs._keras.backend import END_OF_DATA, IS_JAX, IS_TENSORFLOW, IS_TORCH
from keras_lrs._keras.weights import WeightsCopy, copied_weights
from keras_lrs._step import scheduled_variable
from keras_lrs._step.optimizer_step import OptimizerStep, StepPlan, installed
from keras_lrs.schedules.identity import identity

if IS_JAX:
    from keras_lrs._fit.jax_state import JaxState, with_followers

_MOST_KEPT = 8  # Compiled functions besides the plain one.


@dataclasses.dataclass
class Skip:
    """Batches of an epoch on which a resumed run has already trained.

    Args:
        batches: The number of batches still to be taken from the data.
        metrics: Returns what a model's metrics' variables hold after these batches.
        logs: The keys that their last step would have returned, with any values.
        over: Called when the last batch has been taken.
    """

    batches: int
    metrics: Callable[[Any], list[np.ndarray]]
    logs: dict[str, float]
    over: Callable[[], None]

    def failed(self) -> ValueError:
        """Returns the error for data that ends earlier."""
        return ValueError(
            f"The data ended {self.batches} batches before the one at which this run "
            "resumes. The run began with different data."
        )


class TrainFunction:
    """Replaces `model.train_function` from `install` to `remove`.

    Args:
        model: The model.
        plans: The plans of its optimizers' steps.
        after_execution: Functions of the logs, called after every execution.
        readable: Whether variables may be read within an epoch.
        fresh_metrics: Whether the metrics start over in every execution.
        undo: The stack that restores everything if the run is interrupted.
    """

    def __init__(
        self,
        model: Any,
        plans: list[StepPlan],
        after_execution: list[Callable[[Any], None]],
        readable: bool,
        fresh_metrics: bool,
        undo: interrupts.Undo,
    ):
        self.model = model
        self.keras_function = model.train_function
        self.plans = plans
        self.function, self.steps = compiled(model, plans)
        self.skip: Skip | None = None
        self.loop: Any = None  # A `Loop` if the caller is not `fit`.
        self.first_batch: Callable[[Any], None] | None = None
        self._after_execution = after_execution
        self._readable, self._fresh_metrics = readable, fresh_metrics
        self._undo = undo
        # Keras gives a model a new one in every fit, so it tells whether this is over.
        self._history = getattr(model, "history", None)
        self.executed = self._checked = False
        self.executions = 0  # In this epoch.
        self._state: Any = JaxState(model, self.steps) if IS_JAX else None

    # --- Installing ---

    def install(self) -> None:
        """Replaces the model's own train function."""
        self.model.train_function = self

    def rebind(self, plans: list[StepPlan], optimizer: Any, last: int) -> bool:
        """Continues with other lengths in the same steps, which are traced again.

        Returns:
            Whether the only update of the optimizer so far, at step `last`, would have
            been the same with these lengths.
        """
        same = True
        for step, old, new in zip(self.steps, self.plans, plans, strict=True):
            for part, before, after in zip(
                step.parts, old.parts, new.parts, strict=True
            ):
                if before.key != after.key:
                    same &= part.rebind(last, *after.compiled)
        self.plans = plans
        if self.function is not self.keras_function:
            self.function = _traced_anew(self.model, self.steps)
        _keep(self.keras_function, _key(self.model, plans), self.function, self.steps)
        return same

    def remove(self) -> None:
        """Gives the model its own train function back."""
        for step in self.steps:
            step.uninstall()
        if IS_JAX and self._history is getattr(self.model, "history", None):
            self._state.take_back()
        self._forget()
        for step in self.steps:
            step.end()
        if self.model.train_function is self:
            self.model.train_function = self.keras_function

    # --- Epochs ---

    def begin_epoch(self) -> None:
        """Starts counting from the values of the variables."""
        if IS_JAX:
            self._state.epoch_begins()
        self.executions = 0
        for step in self.steps:
            step.iterations = optimizers.iterations(step.optimizer)

    def end_epoch(self) -> None:
        """Checks once that the parts of the steps took effect."""
        self._forget()
        if self.skip is not None:  # PyTorch's loop reached the end of the data.
            raise self.skip.failed()
        if not self._checked and self.executed:
            self._check()

    def batches(self, told: int | None) -> int | None:
        """Returns the batches of the epoch; None if it had fewer than expected."""
        each = self.model.steps_per_execution
        if self.loop is not None:  # A loop may not execute this function.
            return told
        if told is None:
            return self.executions if each == 1 else None
        return told if self.executions == -(-told // each) else None

    def _forget(self):
        """Notes that JAX's `fit` has written its state into the variables."""
        if IS_JAX:
            self._state.forget()

    # --- Reading, even within an epoch ---

    @property
    def _in_variables(self):
        return not IS_JAX or not self._state.is_known

    def iterations(self, optimizer: Any) -> int:
        """Returns how often an optimizer's `apply` was called."""
        return int(self.number(optimizer._iterations))

    def number(self, variable: Any) -> float:
        """Returns the value of an optimizer's variable of shape ()."""
        if self._in_variables or not self._state.holds(variable):
            return variables.number(variable)
        return self._state.number(variable)

    def read(self, found: list) -> list[np.ndarray]:
        """Returns copies of the values of variables."""
        return variables.read(found) if self._in_variables else self._state.read(found)

    def copied_weights(self) -> WeightsCopy:
        """Copies all weights of the model."""
        if self._in_variables:
            return copied_weights(self.model)
        return self._state.copied_weights()

    # --- Executions ---

    def __call__(self, *arguments: Any) -> Any:
        """Runs one execution of one or several steps."""
        if self._history is not getattr(self.model, "history", None):
            # This run was interrupted outside of a step, and the next has no
            # `FitCallback`.
            self._undo.close()
            return self.keras_function(*arguments)
        try:
            if self.first_batch is not None:
                note, self.first_batch = self.first_batch, None
                most = self.model.steps_per_execution
                steps = most if self.skip is None else min(most, self.skip.batches)
                arguments = first_batch.noted(arguments, steps, note)
            if self.skip is not None:
                result = self._pass_over(self.skip, arguments)
                self.executions += 1
                return result
            if self.loop is None:
                result = self._run(arguments)
            else:
                with self.loop.executing():
                    result = self._run(arguments)
            self.executed = True
            self.executions += 1
            if not self._checked and self.function is not self.keras_function:
                self._check()
            logs = result[0] if IS_JAX else result
            for function in self._after_execution:
                function(logs)
            if IS_JAX:
                self._state.ends()
        except END_OF_DATA:
            raise
        except BaseException:
            for step in self.steps:  # Before `fit` assigns values to variables.
                step.uninstall()
            if IS_JAX:
                self._state.broke_off(arguments[0])
            if IS_JAX and self.loop is not None:
                self.model.jax_state_sync()
            if not IS_JAX or self.loop is not None:
                self._undo.close()  # Otherwise `finalize_variable_values` follows.
            raise
        if self.loop is not None:  # There, variables hold their values between steps.
            self._forget()
        return result

    def _run(self, arguments):
        found = [step for step in self.steps if not step.installs_itself]
        if not found:  # The usual case on JAX and TensorFlow.
            return self._execute(arguments)
        with installed(found):
            return self._execute(arguments)

    def _execute(self, arguments):
        if IS_JAX:
            return self._state.run(
                self.function, arguments, self._fresh_metrics, self._readable
            )
        if self._fresh_metrics:
            self.model.reset_metrics()
        if IS_TORCH:  # Executions have one step, and nothing is traced.
            scheduled_variable.set_variables(self.steps)
        return self.function(*arguments)

    def _pass_over(self, skip, arguments):
        """Takes the batches of an execution from the data without training on them."""
        wanted = min(self.model.steps_per_execution, skip.batches)
        if IS_TORCH:
            skip.batches -= wanted
        else:
            iterator = arguments[-1]
            if IS_TENSORFLOW and not models.is_built(self.model, metrics=True):
                # The variables of metrics exist only after a batch.
                models.build_from(self.model, iterator.element_spec)
            for _ in range(wanted):
                try:
                    next(iterator)
                except END_OF_DATA as error:
                    raise skip.failed() from error
                skip.batches -= 1
        if skip.batches == 0:
            self.skip = None
            skip.over()
        if IS_JAX:
            *state, _ = arguments[0]
            metrics = [ops.array(value) for value in skip.metrics(self.model)]
            return skip.logs, (*state, metrics)
        variables.write(self.model.metrics_variables, skip.metrics(self.model))
        return self.model.get_metrics_result()

    def _check(self):
        self._checked = True
        for part in scheduled_variable.of(self.steps):
            if not part.was_set:
                raise RuntimeError(
                    f"`{type(self.model).__name__}.make_train_function` never called "
                    "`train_step`: the schedule of the variable "
                    f"`{part.variable.path}` would have no effect."
                )
        if not self.model.trainable_variables:
            return
        traced = self.function is not self.keras_function
        for step in self.steps:
            # A wrapper may have skipped the first update, unless both branches were
            # traced. It may also have no variables for this optimizer.
            own = step.optimizer is self.model.optimizer
            if not step.used and (own or (traced and step.optimizer.built)):
                name = models.attribute_of(self.model, step.optimizer)
                hint = models.hint_of_others(self.model) if name is None else ""
                raise RuntimeError(
                    "The training step never called "
                    f"`{name or step.optimizer.name}.apply`: schedules would have no "
                    "effect. A custom `train_step` must update the variables with "
                    f"`self.{name or 'optimizer'}.apply` or `apply_gradients`, at "
                    "least once in the first epoch." + hint
                )


# --- Compiling ---


def compiled(model: Any, plans: list[StepPlan]) -> tuple[Any, list[OptimizerStep]]:
    """Returns a train function traced with the parts, and the steps of these parts.

    Both are kept with the plain train function. Fits share one compilation if their
    plans and the optimizers' own schedules are equal. `compile` drops the plain
    function, and these with it.
    """
    plain = model.train_function
    cache = getattr(plain, "keras_lrs_compiled", {})
    key = own, _ = _key(model, plans)
    kept = cache.get(key)  # Once, because a hash of a long table takes a while.
    if kept is None:
        steps = [OptimizerStep(model, plan) for plan in plans]
        # Only the new function contains what surrounds a step; an execution may have
        # many.
        surrounded = _is_followed(steps) or scheduled_variable.of(steps)
        eager = model.run_eagerly and not surrounded
        is_plain = IS_TORCH or eager or not (plans or own)
        function = plain if is_plain else _traced_anew(model, steps)
        kept = _keep(plain, key, function, steps)
    function, steps = kept
    for step, plan in zip(steps, plans, strict=True):
        step.begin(plan)
    return function, steps


def _key(model, plans):
    """Returns what fits must have in common to share a compilation; call it once."""
    # Keras keeps its trace even if an optimizer gets another schedule.
    sources = map(optimizers.rate_source, models.updating(model))
    own = [identity(one) for one in sources if not isinstance(one, keras.Variable)]
    return tuple(own), tuple(plan.key for plan in plans)


def _keep(plain, key, function, steps):
    """Keeps a function and its steps with the plain one, and returns both."""
    cache = getattr(plain, "keras_lrs_compiled", {})
    others = [(k, kept) for k, kept in cache.items() if kept[1] is not steps]
    cache = {**dict(others[1 - _MOST_KEPT :]), key: (function, steps)}
    with contextlib.suppress(AttributeError):  # A callable without attributes.
        plain.keras_lrs_compiled = cache
    return function, steps


def _is_followed(steps):
    """Whether a part acts after the whole step."""
    return any(part.follows_step for step in steps for part in step.parts)


def _traced_anew(model, steps):
    """Makes a separate train function that is traced while the steps are installed."""
    plain = model.train_function
    set_variables = functools.partial(scheduled_variable.set_variables, steps)
    alone = getattr(model, "_distribute_strategy", None) is None
    installs_itself = alone and not IS_TORCH  # PyTorch traces nothing.

    def make(train_step):
        # `jax.jit` caches traces by the equality of functions, and bound methods of one
        # model are equal, so it would use the plain step. A new function equals no
        # other.
        def step_with_batch(*arguments):
            for step in steps if installs_itself else []:
                step.installs_itself = True
            with (
                installed(steps if installs_itself else []),
                in_step.with_batch(arguments),
            ):
                if scheduled_variable.of(steps):
                    arguments = in_step.before_forward(model, arguments, set_variables)
                result = train_step(*arguments)
                if _is_followed(steps):
                    return with_followers(model, steps, arguments[0], result)
                return result

        return step_with_batch

    with interrupts.undoing() as undo:
        undo.callback(setattr, model, "train_function", plain)
        replace(model, "train_step", make, undo)
        for step in steps:
            undo.callback(step.uninstall)
            step.install()
        model.make_train_function(force=True)
        return model.train_function
