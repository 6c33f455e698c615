"""`Run`: one run of `model.fit`, which the callbacks of this package share."""

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lrs._fit import checks, epoch_logs, hooks, planning, rates, unchanged
from keras_lrs._fit.loop import Loop
from keras_lrs._fit.measuring import FirstUpdates
from keras_lrs._fit.progress import Progress, Resume
from keras_lrs._fit.rates import OwnRates
from keras_lrs._fit.train_function import Skip, TrainFunction
from keras_lrs._keras import fit_loop, interrupts, optimizers, variables
from keras_lrs._keras.weights import WeightsCopy, copied_weights
from keras_lrs._step import hyperparameters, scheduled_variable
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.optimizer_step import OptimizerStep
from keras_lrs.schedules import base


class Run:
    """Everything that our callbacks do to one run of `model.fit`, and how to undo it.

    `register` finds or makes the run when Keras gives callbacks their model. When
    training begins, callbacks `join` with the parts that they want. When the first
    epoch begins, schedules are bound and the parts are installed. Only then is the
    number of the epoch known, and `BackupAndRestore` has restored its backup.

    Attributes:
        model: The model that is trained.
        progress: The position of the run.
        own_rates: The learning rates that the user set.
        undo: The functions that undo everything when the run ends or is interrupted.
        callbacks: Our callbacks that take part, in their order.
        callback_list: A function that returns Keras's list of callbacks, if it exists.
        begun: Whether the first epoch has begun.
        wanted: The parts that the callbacks want.
        closed: Whether everything has been undone.
    """

    def __init__(self, model: Any):
        self.model = model
        self.progress = Progress(model)
        self.own_rates = OwnRates()
        self.undo = interrupts.Undo()
        self.callbacks: list[Any] = []
        self.begun = self.closed = False
        # Keras gives a model a new one in every fit: it tells whether this one is over.
        self._history = getattr(model, "history", None)
        self.callback_list: Callable[[], Any] = lambda: None
        self.wanted = planning.WantedParts(self.progress, self.own_rates)
        self.resumes: Resume | None = None
        self.joined_at = 0
        self.acting: str | None = None
        self._chosen: dict[int, dict[str, Any]] = {}
        self.choosing: list[Any] = []
        self._first_epoch: Any = None
        self.epoch_logs: Any = None  # An `EpochLogs` once the first epoch begins.
        self._loop: Loop | None = None
        self.unchanged: unchanged.Unchanged | None = None
        self._train_function: TrainFunction | None = None
        self.undo.callback(self._note_closed)
        # Before `BackupAndRestore` overwrites them.
        self.own_rates.note(self.optimizers)
        self.progress.register()

    @property
    def optimizers(self) -> list:
        """The optimizers that update the model's variables."""
        return self.progress.optimizers

    @property
    def siblings(self) -> list:
        """All callbacks in the list that was passed to `fit`, including Keras's."""
        return getattr(self.callback_list(), "callbacks", [])

    def chosen(self, callback: Any) -> dict[str, Any]:
        """Returns the optimizers that a callback acts in, by their labels."""
        found = self._chosen.get(id(callback))
        if found is None:
            found = dict(zip(self.progress.labels, self.optimizers, strict=True))
        return found

    # --- Joining ---

    def choose(self, callback: Any, found: dict[str, Any]) -> None:
        """Notes the optimizers that a callback has named."""
        self._chosen[id(callback)] = found
        self.choosing.append(callback)
        self.progress.join(list(found.values()))
        self.own_rates.note(list(found.values()))

    def join(self, callback: Any) -> None:
        """Adds a callback and the parts that it wants."""
        if not self.callbacks:
            hooks.guard(self, self.callback_list())
        if callback not in self.callbacks:
            self.callbacks.append(callback)
            self.undo.callback(callback.fit_ends)
        self.joined_at = sum(map(optimizers.iterations, self.optimizers))
        self.progress.set_length(callback.params or {}, self.siblings or [callback])
        self.progress.paces.take(callback, self.chosen(callback).values())
        found = list(callback.prepare(self) or ())
        if found and callback.optimizers is None:
            self.acting = self.acting or type(callback).__name__
        for wanted in found:
            planning.check_wanted(self, callback, wanted)
            self.wanted.add(callback, wanted, self.siblings)

    def resume(self, resume: Resume) -> None:
        """Resumes an interrupted run when the first epoch begins."""
        self.resumes = resume

    # --- Epochs and steps ---

    def begin(self, epoch: int) -> None:
        """Binds schedules and installs parts, unless that has been done."""
        checks.check_open(self)
        if self.begun:
            return
        checks.check_first(self, epoch)
        self.begun = True
        self.epoch_logs = epoch_logs.EpochLogs(self)
        for callback in self.callbacks:
            callback.fit_begins(epoch)
        if self.resumes is not None:
            self.resumes.set_states()
        self._install(epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Begins the run with its first epoch, and tells its callbacks of each."""
        self.begin(epoch)
        if self._train_function is not None:
            self._train_function.begin_epoch()
            if self._loop is not None:
                self._loop.begin_epoch()
        for callback in self.callbacks:
            callback.epoch_begins(epoch)

    def end_epoch(self, epoch: int) -> None:
        """Notes that the variables hold their values."""
        checks.check_open(self)
        checks.check_begun(self)
        self.end_steps()
        if self._train_function is not None:
            if self._loop is not None:
                self._loop.end_epoch()
            self._first_epoch.ends()
            self.progress.note_end_of(epoch)

    def driven_values(self) -> dict[str, float]:
        """Returns the logged values that the epoch's last update used."""
        if not self.begun or self.closed:
            return {}
        self.end_steps()
        return self.epoch_logs.driven()

    def end_steps(self) -> None:
        """Notes that the variables hold the values of the last step."""
        if self._train_function is not None:
            self._train_function.end_epoch()

    @property
    def executed(self) -> bool:
        """Whether a step of this run has been made, which is not known of loops."""
        function: Any = self._train_function
        return function.executed or self._loop is not None

    @property
    def batches(self) -> int | None:
        """The batches of the epoch; None if it was cut short or they are not known."""
        function: Any = self._train_function
        if self.resumes is not None or self.model.stop_training:
            return None
        return function.batches(self.progress.steps_per_epoch)

    def training_ends(self) -> None:
        """Resumes a run that was killed after its last epoch."""
        callback_list: Any = self.callback_list()
        vars(callback_list).pop("on_train_end", None)
        epoch = fit_loop.first_epoch(self.model)
        checks.check_told(self)
        if epoch and not self.begun:
            hooks.surrounded(self, "on_epoch_begin")(self.begin_epoch)(epoch)

    def surround_batches(self) -> None:
        """Calls `after_all` of callbacks after batches as well."""
        hooks.surround_batches(self, self.callback_list())

    def pass_over(self, skip: Skip) -> None:
        """Takes batches of the first epoch from the data without training on them.

        No callback is called for them.
        """
        train_function: Any = self._train_function
        train_function.skip = skip
        hooks.pass_over_batches(
            self, self.callback_list(), lambda: train_function.skip is not None
        )

    def watch_first_batch(self, note: Callable[[Any], None]) -> None:
        """Calls a function with the next batch before the model is trained on it."""
        train_function: Any = self._train_function
        train_function.first_batch = note

    # --- What callbacks may read during training ---

    def parts(self, callback: Any) -> list[Any]:
        """Returns the live parts of a callback, optimizer by optimizer.

        Get them when they are needed, because a part belongs to a compiled step, which
        a later fit may share.
        """
        return [
            part
            for step, plan in self._steps_and_plans
            for part, planned in zip(step.parts, plan.parts, strict=True)
            if planned.callback is callback
        ]

    def read(self, found: list) -> list[np.ndarray]:
        """Returns copies of the values of variables, even within an epoch."""
        if self._train_function is None:
            return variables.read(found)
        return self._train_function.read(found)

    def copied_weights(self) -> WeightsCopy:
        """Copies all weights into the host's memory, even within an epoch."""
        if self._train_function is None:
            return copied_weights(self.model)
        return self._train_function.copied_weights()

    def rate_schedules(self, optimizer: Any) -> list[tuple[int, Any]]:
        """Returns the schedules that an optimizer's rates follow, the main one first.

        Each comes with the iterations at which it is at its step 0. The main schedule
        is None if the rate is a float. The others belong to groups of variables.
        """
        return rates.followed(self._steps, self.progress, optimizer)

    def used_values(
        self, optimizer: Any, iterations: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the values that updates after `iterations` used, by name.

        They include the rate, and all other hyperparameters that a schedule drives. The
        values of groups of variables are named `"<name>/<pattern>"`.
        """
        own = np.asarray(self._own_rate(optimizer, iterations), np.float64)
        own = np.broadcast_to(own, iterations.shape)
        for step in self._steps:
            if step.optimizer is optimizer:
                return step.used_values(iterations, own)
        return {"learning_rate": optimizers.capped(optimizer, own, iterations)}

    def variable_values(self, steps: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the values of scheduled variables that forward passes saw, by path.

        If a step of the model makes several updates, they are known only for the last
        one, and the others are left out.

        Args:
            steps: The steps of the schedules, as `progress.step()` counts them.
        """
        last = self.progress.step() - 1
        return scheduled_variable.values_at(self._steps, steps, last, self.read)

    def _own_rate(self, optimizer, iterations):
        source: Any = optimizers.rate_source(optimizer)
        if isinstance(source, keras.optimizers.schedules.LearningRateSchedule):
            return base.evaluate(source, iterations)
        if not isinstance(source, keras.Variable):
            return variables.number(source())
        if self._train_function is None:
            return variables.number(source)
        now = self._train_function.number(source)
        return self.own_rates.used(optimizer, iterations, now)

    def _schedules(self, optimizer):
        """Returns the bound schedules of an optimizer."""
        return {
            part.name: part.schedule
            for step in self._steps
            for part in step.parts
            if step.optimizer is optimizer and isinstance(part, Hyperparameter)
        }

    @property
    def _steps(self) -> list[OptimizerStep]:
        return [] if self._train_function is None else self._train_function.steps

    @property
    def _steps_and_plans(self):
        if self._train_function is None:
            return []
        plans = self._train_function.plans
        return list(zip(self._train_function.steps, plans, strict=True))

    # --- Installing ---

    def _install(self, epoch):
        progress = self.progress
        progress.begin(epoch, None if self.resumes is None else self.resumes.starts)
        self.own_rates.begin(progress.every, epoch > 0 or self.resumes is not None)
        plans = self._plans
        first_updates = FirstUpdates(self)
        every_step = [callback for callback in self.callbacks if callback.every_step]
        is_read = every_step or any(map(epoch_logs.are_of_batches, self.callbacks))
        if progress.in_loop:
            self.model.make_train_function()
        self._train_function = TrainFunction(
            self.model,
            plans,
            [one.step_ends for one in (first_updates, *every_step)],
            progress.in_loop or first_updates.are_awaited or bool(is_read),
            any(callback.fresh_metrics for callback in self.callbacks),
            self.undo,
        )
        progress.read_from(self._train_function)
        self.own_rates.record(self, self._steps)
        self.own_rates.follow(self._steps, progress.iterations, self.undo)
        self.undo.callback(self._train_function.remove)
        self._train_function.install()
        self._first_epoch = checks.FirstEpoch(self)
        if progress.in_loop:
            self._loop = self._train_function.loop = Loop(self, self._train_function)
            self._loop.begin()
        else:
            self.unchanged = unchanged.Unchanged(self)
        for optimizer in [step.optimizer for step in self._steps]:
            if "learning_rate" in self._schedules(optimizer):
                rates.show_last_used(self, optimizer)
        first_updates.begin()

    @property
    def _plans(self):
        plans = [self.wanted.plan(self, one) for one in self.progress.every]
        return [plan for plan in plans if plan.parts]

    def bind_anew(self, optimizer: Any) -> None:
        """Binds lengths again, after an optimizer's first update has shown its pace.

        Raises:
            RuntimeError: If that update would have been different with these lengths.
        """
        function: Any = self._train_function
        last = self.progress.step(optimizer) - 1
        if not function.rebind(self._plans, optimizer, last):
            raise RuntimeError(checks.mismatch(self.progress, optimizer))

    def bind(
        self,
        name: str,
        schedule: Any,
        check: Callable[[str, Any, int], None] = hyperparameters.check_values,
    ) -> Any:
        """Returns a schedule of a hyperparameter with all lengths in steps of this run.

        `check(name, schedule, num_steps)` raises an error if a value is out of range.

        Raises:
            ValueError: If the number of steps is needed and not known, or if a value
                leaves the range of the hyperparameter.
        """
        return planning.bind(self.progress, name, schedule, check)

    # --- Ending ---

    def is_over(self, callback_list: Any = None) -> bool:
        """Whether the model has begun another run, or never began this run."""
        if callback_list is not None and not self.begun:
            return self.callback_list() is not callback_list
        return self._history is not getattr(self.model, "history", None)

    def close(self) -> None:
        """Undoes everything; does nothing if called again."""
        self.undo.close()

    def _note_closed(self):
        self.closed = True

    def belong_to(self, callback_list: Any) -> None:
        """Closes the run when this list of callbacks is garbage-collected.

        If the data raises an error, `fit` calls no hook, but drops its list.
        """
        self.callback_list = weakref.ref(callback_list)
        for _ in range(2):  # Python drops an interruption of one; the other closes.
            finalizer = weakref.finalize(callback_list, _close, weakref.ref(self))
            finalizer.atexit = False
            self.undo.callback(finalizer.detach)


def _close(reference):
    run = reference()
    if run is not None:
        run.close()
