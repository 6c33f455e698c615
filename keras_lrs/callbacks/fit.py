"""A run of `model.fit`, as our callbacks share it."""

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lrs import training
from keras_lrs.callbacks import hyperparameters
from keras_lrs.schedules import base, durations
from keras_lrs.schedules.open_ended import Constant

# What `fit` and `evaluate` call while a training is under way.
_HOOKS = (
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_end",
    "on_train_end",
)
# Around which callbacks are told `before_all` and `after_all`.
OUTER = ("on_epoch_begin", "on_epoch_end", "on_train_end")
_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end")
_ATTRIBUTE = "_keras_lrs_fit"  # In the model's `__dict__`, past Keras's tracking.


class Fit:
    """What our callbacks do to one run of `model.fit`, and how it is undone.

    `announce` finds or makes it when Keras hands callbacks their model. When training
    begins they `join` and say what they want with `drive`, `scale` and
    `correct_momentum`; then they hand on the epochs' beginnings and ends. At the first
    epoch's beginning schedules are bound and the step is replaced: only there is known
    which epoch it is, and has `BackupAndRestore` restored what it restores.
    """

    def __init__(self, model: Any):
        self.model = model
        self.params: dict[str, Any] = {}
        self.begun = False
        # Keras gives a model a new one in every fit: it says whether this one is over.
        self._history = getattr(model, "history", None)
        self._callbacks: list[Any] = []
        self._callback_list: Callable[[], Any] = lambda: None
        self._drives: dict[tuple[int, str], tuple[Any, Any]] = {}
        self._scaled_by: Any = None
        self._averaged_by: Any = None
        self._snapped_by: Any = None
        self._recorded_by: Any = None
        self._momentum_correction = False
        self._factors: list[tuple[dict[int, int], float]] = []
        self._train_function: training.TrainFunction | None = None
        self._starts: dict[int, int] = {}
        self._finalizer: Any = None
        self._closed = False
        self._own_rates: dict[int, float] = {}
        self._goes_on: GoesOn | None = None
        self.note_rates()  # Before `BackupAndRestore` overwrites them.

    # --- What it is ---

    @property
    def optimizers(self) -> list:
        """The optimizers that update the model's variables."""
        optimizer = getattr(self.model, "optimizer", None)
        return [] if optimizer is None else training.leaves(optimizer)

    @property
    def siblings(self) -> list:
        """The other callbacks in the list that was passed to `fit`."""
        return getattr(self._callback_list(), "callbacks", [])

    @property
    def steps_per_epoch(self) -> int | None:
        """Batches per epoch; None for data of unknown length."""
        steps = self.params.get("steps")
        return int(steps) if steps is not None and steps > 0 else None

    def window(self) -> durations.Window:
        """What lengths are measured by; raises if the data's length is not known."""
        steps = self.steps_per_epoch
        if steps is None:
            raise ValueError(
                "The data does not tell its steps per epoch, which lengths in epochs, "
                "fractions or 'the rest' need. Pass `steps_per_epoch=` to `fit`."
            )
        return durations.Window(steps * self.params["epochs"], steps)

    @property
    def closed(self) -> bool:
        """Whether everything has been undone."""
        return self._closed

    def is_over(self, callback_list: Any = None) -> bool:
        """Whether the model has begun another training, or never began this one."""
        if callback_list is not None and not self.begun:
            return self._callback_list() is not callback_list
        return self._history is not getattr(self.model, "history", None)

    @property
    def callbacks(self) -> list:
        """Ours that take part, in their order."""
        return list(self._callbacks)

    # --- What callbacks ask for before the first epoch ---

    def note_rates(self) -> None:
        """Notes the rates that the user gave to optimizers not seen before."""
        for optimizer in self.optimizers:
            source = training.rate_source(optimizer)
            if isinstance(source, keras.Variable):
                self._own_rates.setdefault(id(optimizer), training.number(source))

    def join(self, callback: Any) -> None:
        """Adds a callback to those that are told of steps and epochs' ends."""
        if not self._callbacks:
            self._guard()
        if callback not in self._callbacks:
            self._callbacks.append(callback)
        self.params = callback.params or {}

    def drive(
        self,
        callback: Any,
        optimizer: Any,
        name: str,
        schedule: Any,
        instead: bool = False,
    ) -> None:
        """Lets a schedule drive a hyperparameter; also instead of an own schedule."""
        beside = [other for key, other in self._drives if key == id(optimizer)]
        if not instead:
            hyperparameters.check_name(optimizer, name, beside)
        if name == "learning_rate":
            self._refuse_keras_callbacks(callback)
        key = (id(optimizer), name)
        other, _ = self._drives.setdefault(key, (callback, schedule))
        if other is not callback:
            raise ValueError(
                f"Argument `{name}` of `{type(optimizer).__name__}` must have one "
                f"schedule. Received: `{type(other).__name__}` and "
                f"`{type(callback).__name__}` both schedule `{name}`"
            )

    def go_on(self, goes_on: "GoesOn") -> None:
        """Takes up a training where it was, at the first epoch's beginning."""
        self._goes_on = goes_on

    def correct_momentum(self) -> None:
        """Rescales the velocity of SGD with the rate."""
        for optimizer in self.optimizers:
            kind = type(optimizer).__name__
            sgd = isinstance(optimizer, keras.optimizers.SGD)
            if (id(optimizer), "learning_rate") in self._drives and not (
                sgd and optimizer.momentum != 0
            ):
                raise ValueError(
                    "Argument `momentum_correction` needs the optimizer `SGD` with a "
                    f"momentum. Received: {kind}{' with momentum=0' if sgd else ''}"
                )
        self._momentum_correction = True

    def scale(self, callback: Any) -> None:
        """Lets a callback multiply all rates by a factor (`set_factor`)."""
        self._refuse_keras_callbacks(callback)
        kind = type(callback).__name__
        for optimizer in self.optimizers:
            source = training.rate_source(optimizer)
            schedule = keras.optimizers.schedules.LearningRateSchedule
            if not isinstance(source, (keras.Variable, schedule)):
                raise ValueError(
                    f"`{kind}` needs a learning rate that is a float or a "
                    f"`LearningRateSchedule`. Received: learning_rate={source!r}"
                )
        self._scaled_by = _only(callback, self._scaled_by)

    def average(self, callback: Any) -> None:
        """Lets a callback average the weights in the optimizers' slots.

        Its `averaging` says how, when schedules are bound.
        """
        self._averaged_by = _only(callback, self._averaged_by)

    def average_besides(self, callback: Any) -> None:
        """Lets a callback average the weights in variables of its own.

        Its `averagings` say how.
        """
        self._snapped_by = _only(callback, self._snapped_by)

    def record_norms(self, callback: Any) -> None:
        """Lets the step compute the norms of gradients; `norms_seen` says how."""
        self._recorded_by = _only(callback, self._recorded_by)

    def _refuse_keras_callbacks(self, callback):
        theirs = (
            keras.callbacks.ReduceLROnPlateau,
            keras.callbacks.LearningRateScheduler,
        )
        for other in self.siblings:
            if isinstance(other, theirs):
                raise ValueError(
                    f"`{type(callback).__name__}` cannot work beside Keras's "
                    f"`{type(other).__name__}`: both set the learning rate. Use "
                    "`keras_lrs.callbacks.ReduceOnPlateau` and "
                    "`HyperparameterScheduler`, which work together."
                )

    # --- What callbacks tell ---

    def begin_epoch(self, epoch: int) -> None:
        """Binds and installs when the first epoch begins."""
        if not self.begun:
            self.begun = True
            for callback in self._callbacks:
                callback.fit_begins(epoch)
            if self._goes_on is not None:
                self._goes_on.set_states()
            self._install(epoch)
        if self._train_function is not None:
            self._train_function.begin_epoch()
        for callback in self._callbacks:
            callback.epoch_begins(epoch)

    @property
    def every_step(self) -> bool:
        """Whether a callback wants to know of every execution."""
        return any(callback.every_step for callback in self._callbacks)

    @property
    def fresh_metrics(self) -> bool:
        """Whether a callback wants the metrics of every execution by itself."""
        return any(callback.fresh_metrics for callback in self._callbacks)

    def step_ends(self, logs: Any) -> None:
        """Tells the callbacks that want to know."""
        for callback in self._callbacks:
            if callback.every_step:
                callback.step_ends(logs)

    def end_epoch(self) -> None:
        """Notes that the variables hold what they should."""
        if self._train_function is not None:
            self._train_function.end_epoch()

    # --- What callbacks may know and change while training ---

    def count(self, optimizer: Any) -> int:
        """How many updates (micro-batches) an optimizer has made, also mid-epoch."""
        # Not `Optimizer.iterations`, which counts the accumulated ones as one.
        if self._train_function is None:
            return training.iterations(optimizer)
        return self._train_function.count(optimizer)

    @property
    def total_count(self) -> int:
        """How many updates the training has made; some optimizers may make fewer."""
        return max(self.count(optimizer) for optimizer in self.optimizers)

    @property
    def position(self) -> int:
        """The step at which the schedules are: how many this training has made."""
        return max(self.position_of(optimizer) for optimizer in self.optimizers)

    def start(self, optimizer: Any) -> int:
        """The optimizer's iteration at which this training's schedules are at step 0.

        It is negative where a training goes on without the optimizer's count.
        """
        return self._starts[id(optimizer)]

    def schedule_start(self, optimizer: Any) -> int:
        """The iteration at which `rate_schedule` is at its step 0.

        A schedule of the optimizer's own counts its iterations.
        """
        driven = "learning_rate" in self._schedules(optimizer)
        return self.start(optimizer) if driven else 0

    def values_of(self, variables: list) -> list[np.ndarray]:
        """Copies of what the model's variables hold, also mid-epoch."""
        if self._train_function is None:
            return training.values_of(variables)
        return self._train_function.values_of(variables)

    def copied_weights(self) -> training.WeightsFile:
        """A copy of all weights in the host's memory, also mid-epoch."""
        if self._train_function is None:
            return training.copied_weights(self.model)
        return self._train_function.copied_weights()

    def bound(self, callback: Any) -> dict[str, Any]:
        """A callback's schedules, bound; by optimizer where there are several."""
        optimizers = self.optimizers
        found: dict[str, Any] = {}
        for label, optimizer in zip(
            training.labels(optimizers), optimizers, strict=True
        ):
            for name, schedule in self._schedules(optimizer).items():
                owner, _ = self._drives.get((id(optimizer), name), (None, None))
                if owner is callback and len(optimizers) == 1:
                    found[name] = schedule
                elif owner is callback:
                    found.setdefault(name, {})[label] = schedule
        return found

    @property
    def averaged(self) -> int:
        """How many updates the average of the weights has taken."""
        taken = [driven.taken(self.count(driven.optimizer)) for driven in self._driven]
        return max(taken, default=0)

    @property
    def free_averages(self) -> list[list[training.FreeAverage]]:
        """Of each of the callback's `averagings`, the averages of all weights."""
        kinds = zip(*(driven.free for driven in self._driven), strict=True)
        found = [[one for averages in kind for one in averages] for kind in kinds]
        order = {id(v): i for i, v in enumerate(self.model.trainable_variables)}
        return [sorted(one, key=lambda a: order[id(a.weight)]) for one in found]

    @property
    def updates(self) -> int:
        """How many updates this training has made, each of all micro-batches."""
        return max(
            self.count(o) // (accumulated := o.gradient_accumulation_steps or 1)
            - self._starts[id(o)] // accumulated
            for o in self.optimizers
        )

    def position_of(self, optimizer: Any) -> int:
        """How many updates (micro-batches) of this training an optimizer has made."""
        return self.count(optimizer) - self.start(optimizer)

    def cycle_ends(self, optimizer: Any, schedules: dict[str, Any]) -> list[int]:
        """The steps of this training after which a cycle of an optimizer's rate ends.

        Args:
            optimizer: One of the optimizers.
            schedules: Those that are bound to it.
        """
        total = self.window().total
        if "learning_rate" in schedules:
            return sorted(base.cycle_ends(schedules["learning_rate"], total))
        # Its own schedule counts all steps it has ever made.
        start = self._starts[id(optimizer)]
        ends = base.cycle_ends(training.rate_source(optimizer), start + total)
        return sorted(end - start for end in ends if end > start)

    def rate_schedule(self, optimizer: Any) -> Any:
        """The schedule that an optimizer's rate follows; None if it is a float."""
        source = training.rate_source(optimizer)
        own = None if isinstance(source, keras.Variable) else source
        return self._schedules(optimizer).get("learning_rate", own)

    @property
    def own_rates(self) -> list[float | None]:
        """The rates that the user gave the optimizers; None for one with a schedule."""
        return [self._own_rates.get(id(optimizer)) for optimizer in self.optimizers]

    @own_rates.setter
    def own_rates(self, rates: list[float | None]) -> None:
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            if rate is not None:
                self._own_rates[id(optimizer)] = rate

    def begin_with_factors(self, used: float, now: float) -> None:
        """Notes the factor of the update before this fit, and sets that of the next."""
        self._factors = [({id(o): -1 for o in self.optimizers}, used)]
        self.set_factor(now)

    def set_factor(self, factor: float) -> None:
        """Multiplies all rates by `factor` from the next step on."""
        self._factors.append(({id(o): self.count(o) for o in self.optimizers}, factor))
        for driven in self._driven:
            driven.factor.set(factor)

    def values(self, optimizer: Any, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The values used by the updates that followed `counts` others.

        Always the rate; of the others, what a schedule drives.
        """
        source: Any = training.rate_source(optimizer)
        if isinstance(source, keras.optimizers.schedules.LearningRateSchedule):
            rates = base.evaluate(source, counts)
        elif not isinstance(source, keras.Variable):
            rates = training.number(source())
        elif self._train_function is not None:
            rates = self._train_function.read(source)
        else:
            rates = training.number(source)
        rates = np.broadcast_to(np.asarray(rates, np.float64), counts.shape)
        values: dict[str, Any] = {"learning_rate": rates}
        for driven in self._driven:
            if driven.optimizer is optimizer:
                values |= driven.values(counts)
        if self._factors:
            since = [counted[id(optimizer)] for counted, _ in self._factors]
            factors = [factor for _, factor in self._factors]
            index = np.searchsorted(since, counts, side="right") - 1
            values["learning_rate"] = values["learning_rate"] * np.take(factors, index)
        return values

    def norms(self, optimizer: Any) -> training.GradientNorms | None:
        """The norms of an optimizer's gradients, if they are recorded."""
        found = [d.norms for d in self._driven if d.optimizer is optimizer]
        return found[0] if found else None

    # --- How it is done and undone ---

    @property
    def _driven(self):
        return [] if self._train_function is None else self._train_function.driven

    def _schedules(self, optimizer):
        """The bound schedules of an optimizer."""
        for driven in self._driven:
            if driven.optimizer is optimizer:
                return driven.schedules
        return {}

    @property
    def starts(self) -> list[int]:
        """Of each optimizer, the iteration at which schedules are at their step 0."""
        return [self.start(optimizer) for optimizer in self.optimizers]

    def _install(self, epoch):
        self._starts = {id(o): self._start(o, epoch) for o in self.optimizers}
        if self._goes_on is not None and self._goes_on.starts is not None:
            starts = zip(self.optimizers, self._goes_on.starts, strict=True)
            self._starts = {id(optimizer): start for optimizer, start in starts}
        drives = [
            training.Drive(
                optimizer,
                schedules,
                self._scaled_by is not None,
                self._momentum_correction and "learning_rate" in schedules,
                self._starts[id(optimizer)],
                self._averaging(optimizer, schedules),
                () if self._snapped_by is None else self._snapped_by.averagings,
                self._recorded_by and self._recorded_by.norms_seen,
            )
            for optimizer in self.optimizers
            if (schedules := self._bound_schedules(optimizer))
            or self._scaled_by
            or self._averaged_by
            or self._snapped_by
            or self._recorded_by
        ]
        self._train_function = training.TrainFunction(self, drives)
        self._train_function.install()
        for driven in self._driven:
            driven.factor.set(self._factors[-1][1] if self._factors else 1.0)
            count = training.iterations(driven.optimizer)
            if "learning_rate" in driven.schedules and count > driven.start.host:
                # What it would read in a training that was not interrupted.
                used = self.values(driven.optimizer, np.array([count - 1]))
                training.set_rate(driven.optimizer, used["learning_rate"].item())

    def _averaging(self, optimizer, schedules):
        if self._averaged_by is None:
            return None
        return self._averaged_by.averaging(self, optimizer, schedules)

    def _guard(self):
        """Sees to it that this is undone when a callback or a validation raises.

        JAX's `fit` has a `finally`, which `TrainFunction` uses.
        """
        on_jax = keras.backend.backend() == "jax"
        if not on_jax:
            vars(self.model)["evaluate"] = self._guarded(self.model.evaluate)
        callback_list = self._callback_list()
        for name in _HOOKS if callback_list is not None else ():
            if name in OUTER or not on_jax:
                hook = getattr(callback_list, name)
                hook = self._announced(name, hook) if name in OUTER else hook
                vars(callback_list)[name] = hook if on_jax else self._guarded(hook)

    def _begin_at_the_end(self):
        """Takes up a training that was killed when all its epochs were over."""
        epoch = training.first_epoch(self.model)
        if epoch:
            self._announced("on_epoch_begin", self.begin_epoch)(epoch)

    def _guarded(self, function):
        def call(*arguments, **keywords):
            try:
                return function(*arguments, **keywords)
            except BaseException:
                self.close()
                raise

        return call

    def _announced(self, name, hook):
        def call(*arguments, **keywords):
            if name == "on_train_end":
                # JAX's `fit` has closed this by now, which leaves this hook.
                vars(self._callback_list()).pop(name, None)
                if not self.begun:
                    self._begin_at_the_end()
            given = (*arguments, *keywords.values())
            for callback in self._callbacks:
                callback.before_all(name, *given)
            hook(*arguments, **keywords)
            for callback in self._callbacks:
                callback.after_all(name, *given)

        return call

    def announce_batches(self) -> None:
        """Tells callbacks `after_all` of the ends of batches, too."""
        hooks = vars(self._callback_list())
        name = "on_train_batch_end"
        hooks[name] = self._announced(name, getattr(self._callback_list(), name))

    def pass_over(self, skip: training.Skip) -> None:
        """Takes batches of the first epoch from the data, and trains on none of them.

        No callback is told of them.
        """
        train_function: Any = self._train_function
        train_function.skip = skip
        callback_list: Any = self._callback_list()
        hooks = vars(callback_list)
        own = {name: hooks[name] for name in _BATCH_HOOKS if name in hooks}

        def on_train_batch_begin(batch, logs=None):
            if train_function.skip is not None:
                return
            for name in _BATCH_HOOKS:
                del hooks[name]
            hooks.update(own)
            callback_list.on_train_batch_begin(batch, logs)

        hooks.update(
            on_train_batch_begin=on_train_batch_begin,
            on_train_batch_end=lambda batch, logs=None: None,
        )

    def _bound_schedules(self, optimizer):
        """The schedules of an optimizer, with all lengths in steps of this fit."""
        schedules = {
            name: schedule
            for (key, name), (_, schedule) in self._drives.items()
            if key == id(optimizer)
        }
        if "learning_rate" not in schedules:
            # Nothing binds the optimizer's own: said before anything evaluates it.
            base.check_bound(training.rate_source(optimizer))
        own = self._own_rates.get(id(optimizer))
        if self._scaled_by is not None and own is not None:
            schedules.setdefault("learning_rate", Constant(own))
        return {
            name: self._bound(name, schedule) for name, schedule in schedules.items()
        }

    def _bound(self, name, schedule):
        known = self.steps_per_epoch is not None
        # One without open lengths, such as a long table, need not be gone through.
        if isinstance(schedule, base.Schedule) and schedule._unbound:
            if known:
                schedule = base.bind(schedule, self.window())
            else:
                raise ValueError(
                    f"The schedule of `{name}` needs the number of steps per epoch, "
                    "which this data does not tell. Pass `steps_per_epoch=` to `fit`, "
                    "or bind the schedule: `schedule.bind(total_steps, "
                    f"steps_per_epoch)`. Received: {schedule!r}"
                )
        num_steps = self.window().total if known else 10_000
        hyperparameters.check_values(name, schedule, num_steps)
        return schedule

    def _start(self, optimizer, epoch):
        """The optimizer's iteration at which the schedules are at their step 0."""
        count = training.iterations(optimizer)
        if epoch == 0:
            return count
        if self.steps_per_epoch is None:
            if count == 0:
                raise ValueError(
                    f"Where the schedules are at initial_epoch={epoch} is not known: "
                    "the data does not tell its steps per epoch and the optimizer has "
                    "made no updates. Pass `steps_per_epoch=` to `fit`."
                )
            return 0
        start = count - epoch * self.steps_per_epoch
        # A wrapper skips updates: loss scaling, where gradients overflow.
        skipped = start < 0 < count and optimizer is not self.model.optimizer
        return 0 if skipped else start

    def close(self) -> None:
        """Undoes everything; does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        attributes = vars(self.model)
        if attributes.get(_ATTRIBUTE) is self:
            del attributes[_ATTRIBUTE]
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._train_function is not None:
            self._train_function.remove()
        attributes.pop("evaluate", None)
        callback_list = self._callback_list()
        for name in _HOOKS if callback_list is not None else ():
            if name != "on_train_end":
                vars(callback_list).pop(name, None)
        for driven in self._driven:
            own = self._own_rates.get(id(driven.optimizer))
            if "learning_rate" in driven.schedules and own is not None:
                training.set_rate(driven.optimizer, own)
        for callback in self._callbacks:
            callback.fit_ends()


@dataclasses.dataclass
class GoesOn:
    """Where a training goes on that was interrupted.

    Args:
        set_states: Gives our callbacks the states that they had.
        starts: Where the optimizers' schedules are at step 0; None if that follows from
            the epoch.
    """

    set_states: Callable[[], None]
    starts: list[int] | None


def _only(callback, other):
    """The callback, if there is no other of its kind."""
    if other not in (None, callback):
        kind = type(callback).__name__
        raise ValueError(f"A training takes one `{kind}`. Received: two")
    return callback


def announce(callback: Any, model: Any) -> None:
    """Notes, when Keras hands a callback its model, what others may change.

    Keras also does so for `evaluate` and `predict`, within a fit or outside; then
    nothing comes of it. Here callbacks are put in the order that they need.
    """
    attributes = vars(model)
    fit = attributes.get(_ATTRIBUTE)
    callback_list = training.callback_list()
    if fit is not None and fit.is_over(callback_list):
        fit.close()
        fit = None
    if fit is None:
        fit = attributes[_ATTRIBUTE] = Fit(model)
    if callback_list is not None and not fit.begun:
        _reorder(callback, callback_list.callbacks)
        fit._callback_list = weakref.ref(callback_list)
        if fit._finalizer is None:
            # `fit` calls nothing when the data raises, but then nobody keeps its list
            # of callbacks.
            fit._finalizer = weakref.finalize(callback_list, _close, weakref.ref(fit))
            fit._finalizer.atexit = False


def _reorder(callback, callbacks):
    """Moves a callback forward, to the beginning or before what backs training up.

    What it writes of an epoch must be there before the backup of the epoch is.
    """
    at = callbacks.index(callback)
    for index, other in enumerate(callbacks[:at]):
        if callback.first or (backs_up(other) and not callback.backs_up):
            callbacks.insert(index, callbacks.pop(at))
            return


def backs_up(callback: Any) -> bool:
    """Whether a callback saves the training, to go on with it."""
    keras_own = isinstance(callback, keras.callbacks.BackupAndRestore)
    return keras_own or getattr(callback, "backs_up", False)


def begin(callback: Any, model: Any) -> Fit:
    """The `Fit` that begins now, joined by a callback."""
    fit = vars(model).get(_ATTRIBUTE)
    if fit is not None and fit.begun:
        fit.close()  # It broke off, and the user's own `History` serves again.
        fit = None
    if fit is None:
        fit = vars(model)[_ATTRIBUTE] = Fit(model)
    if not fit.optimizers:
        # A `MultiOptimizer` that chooses by a function knows none before it is built.
        build_optimizer(callback, model)
        fit.note_rates()
    fit.join(callback)
    return fit


def build_to_average(callback: Any, fit: Fit) -> None:
    """Builds the optimizer, whose weights are to be averaged, before the first step."""
    build_optimizer(callback, fit.model)
    if any(training.is_taken_over(optimizer) for optimizer in fit.optimizers):
        raise ValueError(
            f"`{type(callback).__name__}` cannot average the weights of "
            "`ScheduleFree`, which averages them itself: use `AveragedEvaluation`."
        )


def build_optimizer(callback: Any, model: Any) -> None:
    """Builds the optimizer before the first step does."""
    if model.optimizer is None or not model.built:
        raise ValueError(
            f"`{type(callback).__name__}` needs to know the weights. Build the model "
            "before `fit`, by calling it on a batch or giving it an `Input`."
        )
    training.build_optimizer(model)


def _close(reference):
    fit = reference()
    if fit is not None:
        fit.close()
