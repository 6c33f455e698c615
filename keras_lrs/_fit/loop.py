"""A custom training loop, and the updates in it that our steps have seen."""

import contextlib
from collections.abc import Iterator
from typing import Any

from keras_lrs._fit import hooks
from keras_lrs._keras import optimizers
from keras_lrs._step import scheduled_variable
from keras_lrs._step.optimizer_step import OptimizerStep

INSTEAD = (
    "In a custom loop use `keras_lrs.optimizers.Scheduled` for schedules, "
    "`keras_lrs.averages.Averager` for averages and `keras_lrs.Plateau` for a factor "
    "that falls."
)

_NO_UPDATE = "made no update in its first epoch: none was seen in the variables. "


class Loop:
    """A custom loop that calls the hooks of a `keras.callbacks.CallbackList`.

    It may call `train_on_batch`, which runs the train function of the run, or `apply`
    of an optimizer. So the steps are installed from the first epoch to the end, instead
    of for each execution. Updates that they have not seen raise an error at the end of
    the epoch, because a function that was compiled before the run began leaves them
    out.

    Args:
        run: The run.
        train_function: Its train function, installed.
    """

    def __init__(self, run: Any, train_function: Any):
        self._run, self._train_function = run, train_function
        self._steps = [
            step
            for step, plan in zip(
                train_function.steps, train_function.plans, strict=True
            )
            # `Scheduled` hosts its own parts in any loop.
            if any(part.callback in run.callbacks for part in plan.parts)
        ]
        self._executed = {id(step): 0 for step in self._steps}
        every = [*run.progress.every, *run.progress.outside.values()]
        self._began = {one: train_function.iterations(one) for one in every}
        self._seen: dict[int, tuple[int, int]] = {}
        self._is_first = True
        self._told = self._told_ever = False

    def begin(self) -> None:
        """Installs the steps until the run ends."""
        run = self._run
        for step in self._steps:
            step.install_in_loop(run.undo)
        if self._every_step:
            name = "on_train_batch_end"
            hooks.replace_hook(run, run.callback_list(), name, self._telling)

    @property
    def _every_step(self):
        return [one for one in self._run.callbacks if one.every_step]

    def _telling(self, method):
        """Makes the hook of a batch that calls callbacks after a step.

        If the train function made the step, they have already been called.
        """

        def on_train_batch_end(batch, logs=None):
            method(batch, logs)
            told, self._told = self._told, False
            self._told_ever = True
            if not told:
                for callback in self._every_step:
                    callback.step_ends({} if logs is None else logs)

        return on_train_batch_end

    @contextlib.contextmanager
    def executing(self) -> Iterator[None]:
        """Counts the updates of an execution of the train function."""
        before = [self._iterations(step) for step in self._steps]
        yield
        for step, count in zip(self._steps, before, strict=True):
            self._executed[id(step)] += self._iterations(step) - count
        self._told = self._told_ever = True

    # --- Checking that all updates were ours ---

    def begin_epoch(self) -> None:
        """Starts to count the updates of the epoch."""
        self._seen = {
            id(step): (self._iterations(step), self._ours(step)) for step in self._steps
        }

    def end_epoch(self) -> None:
        """Raises if the epoch had updates without our steps, or none."""
        for step in self._steps:
            self._check(step)
        is_first, self._is_first = self._is_first, False
        if not is_first:
            return
        self._check_any()
        self._check_variables()
        if self._every_step and not self._told_ever:
            raise RuntimeError(
                f"`{type(self._every_step[0]).__name__}` acts after steps, but this "
                "loop does not report them. Call `on_train_batch_end(batch, logs)` of "
                "the `CallbackList` after each step, or train with `train_on_batch` or "
                "`fit`."
            )

    def _check(self, step):
        iterations, ours = self._seen[id(step)]
        made = self._iterations(step) - iterations
        ours = self._ours(step) - ours
        held = self._run.progress.held
        idle = made == 0 and not optimizers.may_skip(held, step.optimizer)
        if made == ours and not (idle and self._is_first):
            return
        if idle:
            acts = f"{self._named(step)} acts in the optimizer `{step.optimizer.name}`"
            raise RuntimeError(f"{acts}, which {_NO_UPDATE}{INSTEAD}")
        raise RuntimeError(
            f"{self._named(step)} acts in the optimizer `{step.optimizer.name}`, but "
            f"of its {made} updates in this epoch {max(made - ours, 0)} bypassed its "
            "step: they were made by a function that was compiled before the first "
            "epoch began, or without `apply`. Compile it after `on_epoch_begin`, or "
            "train with `train_on_batch` or `fit`. " + INSTEAD
        )

    def _named(self, step):
        plans = zip(self._train_function.steps, self._train_function.plans, strict=True)
        (plan,) = (plan for one, plan in plans if one is step)
        callbacks = [part.callback for part in plan.parts]
        ours = next(one for one in callbacks if one in self._run.callbacks)
        return f"`{type(ours).__name__}`"

    def _check_any(self):
        """Raises if the loop changed no variable, as with JAX's stateless functions."""
        now = {one: self._train_function.iterations(one) for one in self._began}
        held = self._run.progress.held
        if now == self._began and not any(optimizers.may_skip(held, o) for o in now):
            kind = type(self._run.callbacks[0]).__name__
            raise RuntimeError(f"`{kind}` is used in a loop that {_NO_UPDATE}{INSTEAD}")

    def _check_variables(self):
        """Raises if scheduled variables were never set before forward passes."""
        function = self._train_function
        parts = scheduled_variable.of(function.steps)
        if parts and not function.executed:
            raise RuntimeError(
                f"The schedule of the variable `{parts[0].variable.path}` had no "
                "effect: only `train_on_batch` and `fit` set it before a forward pass. "
                "In another loop assign it yourself: `variable.assign(schedule(step))`."
            )

    def _iterations(self, step: OptimizerStep):
        return self._train_function.iterations(step.optimizer)

    def _ours(self, step):
        """Returns how many updates have gone through a step."""
        return step.applied + self._executed[id(step)]
