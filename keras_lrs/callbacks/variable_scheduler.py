"""`VariableScheduler`: schedules of a model's own variables."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_lrs._fit import epoch_logs, lengths, paces
from keras_lrs._fit.run import Run
from keras_lrs._keras import fit_loop, models, variables
from keras_lrs._step import scheduled_variable
from keras_lrs._step.part import Wanted
from keras_lrs._step.scheduled_variable import ScheduledVariable
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.descriptions import described
from keras_lrs.schedules import fields
from keras_lrs.schedules.sparkline import markup_of

Schedule = keras.optimizers.schedules.LearningRateSchedule

_HOLD_IT = (
    "Hold the number in a variable, `self.add_weight(shape=(), trainable=False)` in a "
    "layer's `__init__`, and use it in `call`"
)


class VariableScheduler(FitCallback):
    """Sets variables of the model from schedules before every forward pass.

    Use it for a number on which the loss or a layer depends: the weight of a loss term,
    the beta of a variational autoencoder, a temperature, a dropout rate. Hold the
    number in a variable, because a Python number is a constant of the compiled step.
    The guide "Schedules of any variable" has a dropout layer that holds one.

    The forward pass of step `t` sees `schedule(t)`. Schedules are bound to the `fit`,
    start over and resume as in `HyperparameterScheduler`. Steps are what the optimizer
    counts: batches, or micro-batches under gradient accumulation. A batch whose update
    a `LossScaleOptimizer` skips is not counted, so the next forward pass sees the same
    value. With several optimizers, the step is that of the optimizer with the most
    updates. Values may be negative with `FunctionSchedule` or Keras's own schedules.

    Validation sees the value of the last step, and files that are saved during `fit`
    hold it. After `fit` the variables have their previous values again, however `fit`
    ended.

    Args:
        schedules: Pairs of a variable and its schedule, or a dictionary from paths of
            variables (`variable.path`) to schedules. A variable itself cannot be the
            key of a dictionary, because it is unhashable. Each variable must hold a
            single float (its shape is `()`) and must not be trainable. On JAX it must
            be one of `model.non_trainable_variables`.
        steps_per_epoch: As in `HyperparameterScheduler`.
        updates_per_batch: As in `HyperparameterScheduler`.
        log: Whether to add the values that the last forward pass of an epoch saw to the
            logs of the epoch, under the paths of the variables. `"batch"` adds those of
            the last forward pass to the logs of each batch as well, which the progress
            bar shows. Reading them waits for the device in each batch.

    Raises:
        TypeError: If an argument that must be a schedule, a variable or a path is not
            one.
        ValueError: If there is no schedule, or a variable has two. Before the first
            step: if a variable is trainable, is not a single float, or belongs to the
            optimizer, if the model has no variable of that path (or, on JAX, does not
            hold the variable), if a value is not finite, or if the number of steps is
            needed and not known.

    Example:
        The weight of a penalty rises from 0 to 1 in the first of two epochs.

        >>> import keras, numpy as np
        >>> from keras_lrs import Epochs
        >>> from keras_lrs.callbacks import VariableScheduler
        >>> from keras_lrs.schedules import Constant, Warmup
        >>> class Penalty(keras.layers.Layer):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.beta = self.add_weight(shape=(), trainable=False, name="beta")
        ...
        ...     def call(self, x):
        ...         self.add_loss(self.beta * keras.ops.mean(x**2))
        ...         return x
        >>> penalty = Penalty()
        >>> layers = [keras.Input((1,)), keras.layers.Dense(1), penalty]
        >>> model = keras.Sequential(layers)
        >>> model.compile(keras.optimizers.SGD(0.1), "mse")
        >>> schedule = Warmup(Constant(1.0), Epochs(1))
        >>> x = np.ones((8, 1), "float32")
        >>> history = model.fit(
        ...     x,
        ...     x,
        ...     batch_size=2,
        ...     epochs=2,
        ...     verbose=0,
        ...     callbacks=[VariableScheduler([(penalty.beta, schedule)])],
        ... )
        >>> [round(value, 4) for value in history.history[penalty.beta.path]]
        [0.75, 1.0]

    Reference: Bowman et al., "Generating Sentences from a Continuous Space", 2016,
    arXiv:1511.06349, section 3.1 (the weight of the KL term is warmed up).
    """

    described = True

    def __init__(
        self,
        schedules: Sequence[tuple[Any, Any]] | Mapping[str, Any],
        *,
        steps_per_epoch: int | None = None,
        updates_per_batch: float | None = None,
        log: bool | str = True,
    ) -> None:
        super().__init__()
        self.steps_per_epoch = lengths.check(steps_per_epoch)
        self.updates_per_batch = paces.check(updates_per_batch)
        self.log = epoch_logs.check(log)
        self.schedules = _checked(schedules)
        self._own: list[tuple[Any, float]] = []

    @property
    def bound(self) -> dict[str, Any]:
        """The schedules as the last `fit` bound them, by the paths of the variables."""
        if self.run is None:
            return {}
        parts = [p for p in self.run.parts(self) if isinstance(p, ScheduledVariable)]
        return {part.variable.path: part.schedule for part in parts}

    def describe(self) -> dict[str, str | int | float]:
        """Describes the schedules, as `HyperparameterScheduler.describe` does.

        The keys begin with the paths of the variables.
        """
        bound = self.bound
        return described(bound or self._given, self.run if bound else None, {})

    def _repr_html_(self) -> str:
        """The schedules and their curves, as the last `fit` bound them."""
        return markup_of(type(self).__name__, self.bound or self._given)

    @property
    def _given(self):
        """The schedules as they were given, by the paths of the variables."""
        return {
            target if isinstance(target, str) else target.path: schedule
            for target, schedule in self.schedules
        }

    def set_model(self, model: Any) -> None:
        """Notes the user's values before `BackupAndRestore` overwrites them."""
        super().set_model(model)
        if self.run is None or self.run.closed:
            self._own = []
            found = [_named(model, target) for target, _ in self.schedules]
            self._note([one[0] for one in found if len(one) == 1])

    def prepare(self, run: Run) -> list[Wanted]:
        """Finds the variables, and assigns each its schedule."""
        if not models.weights_exist(run.model) and models.can_be_called(run.model):
            fit_loop.build(run.model)
        pairs = [(_found(run.model, target), one) for target, one in self.schedules]
        targets = [variable for variable, _ in pairs]
        for index, variable in enumerate(targets):
            if any(variable is other for other in targets[:index]):
                bound = f"give `{variable.path}` one schedule"
                fields.refuse("schedules", bound, self.schedules)
        self._note(targets)
        run.undo.callback(self._restore)
        return [
            scheduled_variable.wanted(optimizer, variable, schedule)
            for optimizer in run.optimizers
            for variable, schedule in pairs
        ]

    def after_all(self, hook: str, *arguments: Any) -> None:
        """Restores the values once more: `EarlyStopping` may have changed them."""
        if hook == "on_train_end":
            self._restore()

    def _note(self, found):
        known = {id(variable) for variable, _ in self._own}
        self._own += [(v, variables.number(v)) for v in found if id(v) not in known]

    def _restore(self):
        for variable, value in self._own:
            variables.assign(variable, value)


def _checked(schedules):
    """Pairs of a variable or a path, and a schedule."""
    if isinstance(schedules, Mapping):
        pairs = list(schedules.items())
    else:
        bound = "be a list of pairs (variable, schedule), or a dictionary from paths"
        pairs = [
            fields.items("schedules", pair, bound)
            for pair in fields.items("schedules", schedules, bound)
        ]
        if any(len(pair) != 2 for pair in pairs):
            fields.refuse("schedules", bound, schedules)
    if not pairs:
        fields.refuse("schedules", "hold at least one schedule", schedules)
    for target, schedule in pairs:
        _check_target(target)
        if not isinstance(schedule, Schedule):
            bound = (
                "give every variable a `LearningRateSchedule`; use "
                "`keras_lrs.schedules.Constant` for a number, and `FunctionSchedule` "
                "for a function of the step"
            )
            fields.refuse("schedules", bound, schedule, TypeError)
    return pairs


def _check_target(target):
    if isinstance(target, keras.layers.Layer):
        bound = (
            "name variables, not layers: an argument such as `Dropout.rate` is a "
            f"constant of the compiled step. {_HOLD_IT}"
        )
        fields.refuse("schedules", bound, target, TypeError)
    if isinstance(target, str):
        return
    if not isinstance(target, keras.Variable):
        bound = (
            "hold variables or their paths: a number is a constant of the compiled "
            f"step. {_HOLD_IT}"
        )
        fields.refuse("schedules", bound, target, TypeError)
    _check_variable(target)


def _check_variable(variable):
    if not _is_one_float(variable):
        bound = "name variables that hold one float, of shape ()"
        shape = f"of shape {tuple(variable.shape)} and type {variable.dtype}"
        fields.refuse("schedules", bound, f"{variable.path} {shape}")


def _is_one_float(variable):
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return tuple(variable.shape) == () and "float" in dtype


def _named(model, target):
    """Returns the variables that a target names, without checking them."""
    if not isinstance(target, str):
        return [target]
    return [one for one in model.variables if one.path == target]


def _found(model, target):
    """Returns the variable that a target names, if it can be scheduled."""
    found = _named(model, target)
    if len(found) != 1:
        possible = [v for v in model.variables if _is_one_float(v) and not v.trainable]
        paths = ", ".join(variable.path for variable in possible) or "none"
        built = "" if models.weights_exist(model) else "Build the model before `fit`. "
        bound = (
            f"name one variable of the model; {len(found)} have this path. {built}"
            f"Those that can be scheduled are: {paths}"
        )
        fields.refuse("schedules", bound, target)
    (variable,) = found
    _check_variable(variable)
    if variable.trainable:
        bound = "name variables that are not trained: create them with trainable=False"
        fields.refuse("schedules", bound, variable.path)
    for optimizer in models.all_optimizers(model):
        if any(variable is one for one in optimizer.variables):
            bound = "not name variables of the optimizer: use `HyperparameterScheduler`"
            fields.refuse("schedules", bound, variable.path)
    if not models.can_set(model, variable):
        bound = (
            "name variables among `model.non_trainable_variables` on JAX: any other is "
            f"a constant of the compiled step. {_HOLD_IT}"
        )
        fields.refuse("schedules", bound, variable.path)
    return variable
