"""`Run`: one run of `model.fit`, as the callbacks of this package share it."""

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lrs._fit import hooks, planning
from keras_lrs._fit.progress import Progress
from keras_lrs._fit.rates import OwnRates
from keras_lrs._fit.train_function import Skip, TrainFunction
from keras_lrs._keras import fit_loop, interrupts, models, optimizers, variables
from keras_lrs._keras.weights import WeightsCopy, copied_weights
from keras_lrs._step import hosted, hyperparameters, scheduled_variable
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.optimizer_step import OptimizerStep
from keras_lrs.schedules import base


class Run:
    """What our callbacks do to one run of `model.fit`, and how it is undone.

    `register` finds or makes it when Keras hands callbacks their model. When training
    begins they `join` with the parts that they want. At the first epoch's beginning
    schedules are bound and the parts are installed: only there it is known which epoch
    it is, and `BackupAndRestore` has restored what it restores.

    Attributes:
        model: The model that is trained.
        progress: Where the run is.
        own_rates: The learning rates that the user gave.
        undo: What is to be undone when the run ends or breaks off.
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
        self._resume: Resume | None = None
        self._acting: str | None = None
        self._chosen: dict[int, dict[str, Any]] = {}
        self._choosing: list[Any] = []
        self._iterations_before: dict[int, int] = {}
        self._train_function: TrainFunction | None = None
        self.undo.callback(self._note_closed)
        # Before `BackupAndRestore` overwrites them.
        self.own_rates.note(self.optimizers)

    @property
    def optimizers(self) -> list:
        """The optimizers that update the model's variables."""
        return self.progress.optimizers

    @property
    def siblings(self) -> list:
        """All callbacks in the list that was passed to `fit`, Keras's too."""
        return getattr(self.callback_list(), "callbacks", [])

    def chosen(self, callback: Any) -> dict[str, Any]:
        """The optimizers that a callback acts in, by their labels."""
        found = self._chosen.get(id(callback))
        if found is None:
            found = dict(zip(self.progress.labels, self.optimizers, strict=True))
        return found

    # --- Joining ---

    def choose(self, callback: Any, found: dict[str, Any]) -> None:
        """Notes which optimizers a callback has named."""
        self._chosen[id(callback)] = found
        self._choosing.append(callback)
        self.progress.join(list(found.values()))
        self.own_rates.note(list(found.values()))

    def join(self, callback: Any) -> None:
        """Adds a callback, and the parts that it wants."""
        if not self.callbacks:
            hooks.guard(self, self.callback_list())
        if callback not in self.callbacks:
            self.callbacks.append(callback)
            self.undo.callback(callback.fit_ends)
        self.progress.set_length(callback.params or {})
        found = list(callback.prepare(self) or ())
        if (found or callback.reads_optimizers) and callback.optimizers is None:
            self._acting = self._acting or type(callback).__name__
        for wanted in found:
            planning.check_wanted(self, callback, wanted)
            self.wanted.add(callback, wanted, self.siblings)

    def resume(self, resume: "Resume") -> None:
        """Takes up an interrupted run where it was, when the first epoch begins."""
        self._resume = resume

    # --- Epochs and steps ---

    def begin_epoch(self, epoch: int) -> None:
        """Binds and installs when the first epoch begins."""
        if not self.begun:
            self.begun = True
            for callback in self.callbacks:
                callback.fit_begins(epoch)
            if self._resume is not None:
                self._resume.set_states()
            self._install(epoch)
        if self._train_function is not None:
            self._train_function.begin_epoch()
        for callback in self.callbacks:
            callback.epoch_begins(epoch)

    def end_epoch(self) -> None:
        """Notes that the variables hold what they should."""
        if self._train_function is not None:
            self._train_function.end_epoch()
            self._check_optimizers()

    def _check_optimizers(self):
        """Raises, once, if others made the updates that callbacks ask about."""
        acting, self._acting = self._acting, None
        choosing: list[Any] = []
        train_function: Any = self._train_function
        if train_function.executed:
            choosing, self._choosing = self._choosing, []
        others = models.own_optimizers(self.model) if acting else {}
        stepped = [name for name, one in others.items() if _iterations(one) > 0]
        if stepped and all(_iterations(one) == 0 for one in self.optimizers):
            raise RuntimeError(
                f"`{acting}` acts in `model.optimizer`, which made no update."
                + models.hint_of_others(self.model)
            )
        for callback in choosing:
            self._check_updates(callback)
        if acting or choosing:
            self._check_pace()

    def _check_updates(self, callback):
        """Raises if an optimizer that a callback has named made no update."""
        for label, one in self.chosen(callback).items():
            made = optimizers.iterations(one) - self._iterations_before[id(one)]
            # A loss scale may be too large for all steps of a short epoch.
            if made == 0 and not optimizers.may_skip(self.progress.held, one):
                raise RuntimeError(
                    f"`{type(callback).__name__}` acts in `{label}`, as its argument "
                    "`optimizers` says, which made no update in the first epoch."
                )

    def _check_pace(self):
        """Raises if an optimizer does not update once a step, as its schedules ask."""
        steps = self.progress.steps_per_epoch
        cut_short = self._resume is not None or self.model.stop_training
        if steps is None or cut_short:
            return
        plain = self.progress.held
        for name, one in self.progress.outside.items():
            if id(one) not in self._iterations_before:
                continue
            made = optimizers.iterations(one) - self._iterations_before[id(one)]
            # A wrapper skips updates: loss scaling, where gradients overflow.
            skips = made < steps and not any(one is other for other in plain)
            bound = any(one is other for other in self.wanted.bound_here)
            if made != steps and bound and not skips:
                raise RuntimeError(
                    f"`{name}` made {made} updates in an epoch of {steps} steps, so "
                    "that its schedules would not end with the run. Bind them to the "
                    "number of its updates: `schedule.bind(total_steps)`."
                )

    def training_ends(self) -> None:
        """Takes up a run that was killed when all its epochs were over."""
        callback_list: Any = self.callback_list()
        vars(callback_list).pop("on_train_end", None)
        epoch = fit_loop.first_epoch(self.model)
        if epoch and not self.begun:
            hooks.surrounded(self, "on_epoch_begin")(self.begin_epoch)(epoch)

    def surround_batches(self) -> None:
        """Tells callbacks `after_all` of the ends of batches, too."""
        hooks.surround_batches(self, self.callback_list())

    def pass_over(self, skip: Skip) -> None:
        """Takes batches of the first epoch from the data, and trains on none of them.

        No callback is told of them.
        """
        train_function: Any = self._train_function
        train_function.skip = skip
        hooks.pass_over_batches(
            self, self.callback_list(), lambda: train_function.skip is not None
        )

    # --- What callbacks may ask while training ---

    def parts(self, callback: Any) -> list[Any]:
        """The living parts that a callback wanted, optimizer by optimizer.

        Ask for them when they are needed: a part belongs to a compiled step, which a
        later fit may share.
        """
        return [
            part
            for step, plan in self._steps_and_plans
            for part, planned in zip(step.parts, plan.parts, strict=True)
            if planned.callback is callback
        ]

    def read(self, found: list) -> list[np.ndarray]:
        """Copies of what variables of the model hold, also within an epoch."""
        if self._train_function is None:
            return variables.read(found)
        return self._train_function.read(found)

    def copied_weights(self) -> WeightsCopy:
        """Copies all weights into the host's memory, also within an epoch."""
        if self._train_function is None:
            return copied_weights(self.model)
        return self._train_function.copied_weights()

    def rate_schedule(self, optimizer: Any) -> Any:
        """The schedule that an optimizer's rate follows; None if it is a float."""
        driven = self._schedules(optimizer).get("learning_rate")
        if driven is not None:
            return driven
        source = optimizers.rate_source(optimizer)
        return None if isinstance(source, keras.Variable) else source

    def rate_start(self, optimizer: Any) -> int:
        """The iterations of an optimizer at which `rate_schedule` is at its step 0.

        A schedule of the optimizer's own, or one that `Scheduled` brings along, counts
        all its iterations.
        """
        driven = "learning_rate" in self._schedules(optimizer)
        brought = "learning_rate" in hosted.names(optimizer)
        return self.progress.start(optimizer) if driven and not brought else 0

    def used_values(
        self, optimizer: Any, iterations: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The values that updates after so many iterations used, by name.

        Always the rate; of the others, what a schedule drives. Those of groups of
        variables are `"<name>/<pattern>"`.
        """
        own = np.asarray(self._own_rate(optimizer, iterations), np.float64)
        own = np.broadcast_to(own, iterations.shape)
        for step in self._steps:
            if step.optimizer is optimizer:
                return step.used_values(iterations, own)
        return {"learning_rate": own}

    def variable_values(self, steps: np.ndarray) -> dict[str, np.ndarray]:
        """The values of scheduled variables that forward passes saw, by path.

        Args:
            steps: The steps of the schedules, as `progress.step()` counts them.
        """
        return scheduled_variable.values_at(self._steps, steps)

    def _own_rate(self, optimizer, iterations):
        source: Any = optimizers.rate_source(optimizer)
        if isinstance(source, keras.optimizers.schedules.LearningRateSchedule):
            return base.evaluate(source, iterations)
        if not isinstance(source, keras.Variable):
            return variables.number(source())
        if self._train_function is None:
            return variables.number(source)
        return self._train_function.number(source)

    def _schedules(self, optimizer):
        """The bound schedules of an optimizer."""
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
        progress.begin(epoch, None if self._resume is None else self._resume.starts)
        plans = [self.wanted.plan(self, optimizer) for optimizer in progress.every]
        self._train_function = TrainFunction(
            self.model,
            [plan for plan in plans if plan.parts],
            [c.step_ends for c in self.callbacks if c.every_step],
            any(callback.every_step for callback in self.callbacks),
            any(callback.fresh_metrics for callback in self.callbacks),
            self.undo,
        )
        progress.read_from(self._train_function)
        self._iterations_before = {
            id(one): optimizers.iterations(one) for one in progress.every
        }
        for step in self._steps:
            # One that brings its schedules along reads as the rate last used.
            hosts = hosted.host_of(step.optimizer) is not None
            if "learning_rate" in self._schedules(step.optimizer) and not hosts:
                self.undo.callback(self.own_rates.restore, step.optimizer)
        self.undo.callback(self._train_function.remove)
        self._train_function.install()
        for step in self._steps:
            iterations = optimizers.iterations(step.optimizer)
            driven = "learning_rate" in self._schedules(step.optimizer)
            if driven and iterations > step.start.host:
                # What it would read in a run that was not interrupted.
                used = self.used_values(step.optimizer, np.array([iterations - 1]))
                optimizers.set_rate(step.optimizer, used["learning_rate"].item())

    def bind(
        self,
        name: str,
        schedule: Any,
        check: Callable[[str, Any, int], None] = hyperparameters.check_values,
    ) -> Any:
        """A schedule of a hyperparameter, with all lengths in steps of this run.

        `check(name, schedule, num_steps)` refuses values that are out of range.

        Raises:
            ValueError: If the number of steps is needed and not known, or if a value
                leaves the range of the hyperparameter.
        """
        return planning.bind(self.progress, name, schedule, check)

    # --- Ending ---

    def is_over(self, callback_list: Any = None) -> bool:
        """Whether the model has begun another run, or never began this one."""
        if callback_list is not None and not self.begun:
            return self.callback_list() is not callback_list
        return self._history is not getattr(self.model, "history", None)

    def close(self) -> None:
        """Undoes everything; does nothing the second time."""
        self.undo.close()

    def _note_closed(self):
        self.closed = True

    def belong_to(self, callback_list: Any) -> None:
        """Closes the run when nobody keeps this list of callbacks any more.

        `fit` calls nothing when the data raises, but then its list is dropped.
        """
        self.callback_list = weakref.ref(callback_list)
        finalizer = weakref.finalize(callback_list, _close, weakref.ref(self))
        finalizer.atexit = False
        self.undo.callback(finalizer.detach)


@dataclasses.dataclass
class Resume:
    """Where an interrupted run is taken up.

    Args:
        set_states: Gives our callbacks the states that they had.
        starts: Where the optimizers' schedules are at step 0; None if that follows from
            the epoch.
    """

    set_states: Callable[[], None]
    starts: list[int] | None


def _iterations(optimizer):
    return max(optimizers.iterations(one) for one in optimizers.leaves(optimizer))


def _close(reference):
    run = reference()
    if run is not None:
        run.close()
