"""The one place that touches an optimizer's step and a model's train function.

Nothing is left on an optimizer: while the train function runs, and only then, `apply` is
replaced on the instance by one that first puts the values of this step where the
optimizer looks for its hyperparameters (`DrivenOptimizer`). On TensorFlow and JAX that
happens when the step is traced, so the schedules are part of the compiled step.

A `Fit` is what all our callbacks together do to one run of `model.fit`, from its first
epoch to its end, however it ends.
"""

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lrs.schedules import base, durations, numerics
from keras_lrs.schedules.open_ended import Constant

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax.numpy as jnp
elif BACKEND == "torch":
    import torch


# --- Optimizers -----------------------------------------------------------------------


def leaves(optimizer: Any) -> list:
    """The optimizers that update variables: those inside a wrapper, or itself."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return leaves(optimizer.inner_optimizer)
    several = getattr(optimizer, "optimizers", None)  # A `MultiOptimizer`.
    return [optimizer] if several is None else list(several)


def labels(optimizers: list) -> list[str]:
    """A name for each of several optimizers, no two the same."""
    names = [optimizer.name for optimizer in optimizers]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}"
        for i, name in enumerate(names)
    ]


def rate_variable(optimizer: Any) -> Any:
    """The variable that holds an optimizer's rate; None if a schedule or function does.

    `Optimizer.learning_rate` cannot tell: it gives a schedule's current value.
    """
    rate = optimizer._learning_rate
    return rate if isinstance(rate, keras.Variable) else None


def iterations(optimizer: Any) -> int:
    """How often `apply` was called, micro-batches included.

    `Optimizer.iterations` is divided by the accumulation steps; schedules are not.
    """
    return int(_number(optimizer._iterations))


def _number(variable):
    # Under a TensorFlow strategy `float(variable)` raises.
    return ops.convert_to_numpy(variable).item()


# Read only when the optimizer is built, or no hyperparameter in the usual sense.
_EXCLUDED = ("initial_accumulator_value", "loss_scale_factor", "beta_2_decay")
_OPTIONAL = ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue")
_CLIPPING = ("clipnorm", "global_clipnorm", "clipvalue")
_AVERAGING = ("momentum", "beta", "rho", "ema_momentum")
_NOT_IN_USE = {
    "ema_momentum": lambda optimizer: not optimizer.use_ema,
    # Without it the optimizer makes no room for a velocity.
    "momentum": lambda optimizer: optimizer.momentum == 0,
}


def hyperparameters(optimizer: Any) -> list[str]:
    """The names of what can be scheduled: numbers that every step reads."""
    attributes = vars(optimizer)
    return ["learning_rate"] + [
        name
        for name in optimizer.get_config()
        if name in attributes
        and name not in _EXCLUDED
        and (
            isinstance(attributes[name], float)
            or (name in _OPTIONAL and not isinstance(attributes[name], bool))
            or (_is_averaging(name) and type(attributes[name]) is int)
        )
    ]


def check_hyperparameter(optimizer: Any, name: str) -> None:
    """Raises `ValueError` if `name` cannot be scheduled, saying what can."""
    kind = type(optimizer).__name__
    if name == "learning_rate" and rate_variable(optimizer) is None:
        raise ValueError(
            f"Argument `learning_rate` cannot be scheduled: the optimizer `{kind}` "
            "holds a schedule already. Compile it with a float, which the schedule "
            f"will replace during `fit`. Received: {optimizer._learning_rate!r}"
        )
    available = hyperparameters(optimizer)
    if name not in available:
        hint = {"momentum": "beta_1", "beta_1": "momentum"}.get(name)
        hint = f"Use `{hint}`. " if hint in available else ""
        raise ValueError(
            f"Argument `{name}` is not a hyperparameter of `{kind}`. {hint}"
            f"It has: {', '.join(available)}"
        )
    if name in _NOT_IN_USE and _NOT_IN_USE[name](optimizer):
        how = "use_ema=True" if name == "ema_momentum" else "a momentum that is not 0"
        raise ValueError(
            f"Argument `{name}` cannot be scheduled: this `{kind}` does not use it. "
            f"Construct it with {how}. Received: {name}={getattr(optimizer, name)}"
        )
    if name in _CLIPPING:
        for other in _CLIPPING:
            if other != name and getattr(optimizer, other) is not None:
                raise ValueError(
                    f"Argument `{name}` cannot be scheduled beside the `{other}` of "
                    f"`{kind}`: only one kind of clipping can be used. Received: "
                    f"{other}={getattr(optimizer, other)}"
                )


def _is_averaging(name):
    """Whether a hyperparameter is the share of an old value that an average keeps."""
    return any(name == word or f"{word}_" in name for word in _AVERAGING)


def check_values(name: str, schedule: Any, num_steps: int) -> None:
    """Raises `ValueError` if a schedule leaves the range of its hyperparameter.

    At most 10,001 steps are looked at, both ends among them.
    """
    steps = np.unique(np.linspace(0, num_steps, 10_001).astype(np.int64))
    values = np.asarray(base.evaluate(schedule, steps))
    good = np.isfinite(values) & (values >= 0.0)
    constraint = ">= 0 and finite"
    if _is_averaging(name):
        good &= values < 1.0
        constraint = "in [0, 1)"
    if not good.all():
        worst = np.argmin(good)
        raise ValueError(
            f"Argument `{name}` must be a schedule whose values are {constraint}. "
            f"Received: {values[worst]:g} at step {steps[worst]}, from {schedule!r}"
        )


# --- Values inside the step -----------------------------------------------------------


class Live:
    """A number that the step reads and the host changes between steps.

    A variable on TensorFlow and JAX, so that a compiled step serves later fits.
    """

    def __init__(self, model: Any, value: Any, dtype: str):
        self.host = value
        if BACKEND == "torch":
            return
        with _strategy_scope(model):
            self.variable = keras.Variable(
                value,
                dtype=dtype,
                trainable=False,
                aggregation="only_first_replica",
                name="keras_lrs_live",
            )
        self.set(value)

    @property
    def value(self) -> Any:
        return self.host if BACKEND == "torch" else self.variable.value

    def set(self, value: Any) -> None:
        self.host = value
        if BACKEND != "torch":
            self.variable.assign(value)
        if BACKEND == "jax":
            # The train step is given the array and donates it: the variable keeps its.
            self.array = jnp.copy(self.variable.value)


@contextlib.contextmanager
def _strategy_scope(model):
    """Where variables must be made that a model's replicas read."""
    # The public property gives TensorFlow's default strategy, which has no scope.
    strategy = getattr(model, "_distribute_strategy", None)
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        yield


def _is_on(self, other):
    """The answer to `momentum != 0` and `clipnorm > 0`, asked in Python: it is used."""
    if isinstance(other, (int, float)) and other == 0:
        return True
    return NotImplemented


class _TracedHyperparameter:
    """A tensor where an optimizer expects a float.

    It converts to a tensor by itself and says in Python that it is not 0.
    """

    def __init__(self, tensor):
        self.tensor = tensor

    def __tf_tensor__(self, dtype=None, name=None):
        return self.tensor if dtype is None else tf.cast(self.tensor, dtype)

    def __jax_array__(self):
        return self.tensor

    def __bool__(self):
        return True

    def __add__(self, other):
        return self.tensor + other

    def __radd__(self, other):
        return other + self.tensor

    def __sub__(self, other):
        return self.tensor - other

    def __rsub__(self, other):
        return other - self.tensor

    def __mul__(self, other):
        return self.tensor * other

    def __rmul__(self, other):
        return other * self.tensor

    def __truediv__(self, other):
        return self.tensor / other

    def __rtruediv__(self, other):
        return other / self.tensor

    def __neg__(self):
        return -self.tensor

    def __eq__(self, other):
        on = _is_on(self, other)
        return on if on is NotImplemented else not on

    __hash__ = None  # type: ignore[assignment]
    __ne__ = _is_on
    __gt__ = _is_on
    __ge__ = _is_on


class _EagerHyperparameter(float):
    """A float that is not 0 even where its value is: the velocity must go on."""

    def __bool__(self):
        return True

    def __ne__(self, other):
        return _is_on(self, other) is True or float(self) != other

    def __gt__(self, other):
        return _is_on(self, other) is True or float(self) > other

    __hash__ = float.__hash__


_Hyperparameter = _EagerHyperparameter if BACKEND == "torch" else _TracedHyperparameter


class DrivenOptimizer:
    """An optimizer whose hyperparameters follow schedules while `installed`.

    Args:
        model: The model that is trained.
        optimizer: One that updates variables.
        schedules: The schedule of each hyperparameter, bound.
        scaled: Whether the rate is multiplied by the live `factor`.
        momentum_correction: Whether the velocity is rescaled with the rate.
        start: The optimizer's iteration at which the schedules are at their step 0.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        schedules: dict[str, Any],
        scaled: bool,
        momentum_correction: bool,
        start: int,
    ):
        self.optimizer = optimizer
        self.schedules = schedules
        self.scaled = scaled
        self.momentum_correction = momentum_correction
        self.start = Live(model, start, "int")
        self.factor = Live(model, 1.0, "float32")
        self.iterations = 0  # Counted on the host on PyTorch: reading waits for a GPU.
        self.used = False
        attributes = vars(optimizer)
        self._own = {
            name: attributes[name]
            for name in ("_learning_rate", *schedules)
            if name in attributes
        }
        self._apply = optimizer.apply
        self._update_step = optimizer._backend_update_step
        self._accumulated = optimizer.gradient_accumulation_steps or 1
        self._products = {
            name: _products(schedules[name], start, self._accumulated)
            for name in self._corrected
        }
        # On PyTorch the schedules are Python, which its compiler must not trace.
        self._patch = torch.compiler.disable(self.apply) if _IS_TORCH else self.apply

    @property
    def _corrected(self):
        """The scheduled averages whose bias this kind of optimizer corrects."""
        if isinstance(self.optimizer, keras.optimizers.Adam):
            names = ["beta_1", "beta_2"]
        elif isinstance(self.optimizer, keras.optimizers.Adamax):
            names = ["beta_1"]
        else:
            names = []
        return [name for name in names if name in self.schedules]

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Drives the optimizer; on leaving it is as it was."""
        attributes = vars(self.optimizer)
        with _replaced(attributes, {"apply": self._patch}):
            # A variable that an optimizer does not list is a constant in a JAX step.
            tracked = self.optimizer._variables if BACKEND == "jax" else []
            tracked.extend(live.variable for live in self.live)
            try:
                yield
            finally:
                del tracked[len(tracked) - len(self.live) :]

    @property
    def live(self) -> list[Live]:
        """What a JAX step must be handed with the optimizer's variables."""
        return [self.start, self.factor] if BACKEND == "jax" else []

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """`Optimizer.apply` with the values of this step."""
        optimizer = self.optimizer
        self.used = True
        if not optimizer.built:
            optimizer.build(list(trainable_variables))
        count = self.iterations if _IS_TORCH else optimizer._iterations.value
        step = count - self.start.value
        values = {name: self._value(name, step) for name in self.schedules}
        rate = values.pop("learning_rate", None)
        place: dict[str, Any] = {
            name: _Hyperparameter(value) for name, value in values.items()
        }
        if rate is not None:
            variable = optimizer._learning_rate
            if self.momentum_correction:
                _scale(optimizer, optimizer.momentums, _ratio(rate, variable, step))
            _assign(variable, rate)
        elif self.scaled:
            # `Optimizer.learning_rate` hands on whatever is neither schedule nor
            # variable.
            place["_learning_rate"] = self._factored(self._own["_learning_rate"], count)
        if self._products:
            place["_backend_update_step"] = functools.partial(
                self._corrected_update_step, values, count
            )
        with _replaced(vars(optimizer), place, self._own):
            self._apply(grads, trainable_variables)
        if _IS_TORCH and len(grads) > 0:  # As Keras counts.
            self.iterations += 1

    def _value(self, name, step):
        schedule = self.schedules[name]
        if name == "learning_rate" and self.scaled:
            return self._factored(schedule, step)
        return _evaluate(schedule, step)

    def _factored(self, schedule, step):
        return _evaluate(schedule, step) * self.factor.value

    def _corrected_update_step(self, values, count, grads, variables, learning_rate):
        """Keras's update, with the bias correction that changing betas need.

        Keras divides by `1 - beta**t`, which is right for a constant beta; a scheduled
        one needs 1 minus the product of the betas used so far. Both appear as factors
        of the rate (Kingma and Ba, 2014, end of section 2).
        """
        correction: Any = 1.0
        for name, table in self._products.items():
            product = self._product(name, table, count)
            power = _power(values[name], count // self._accumulated + 1)
            ratio = (1.0 - power) / (1.0 - product)
            correction *= ratio if name == "beta_1" else ratio**-0.5
        self._update_step(grads, variables, learning_rate * correction)

    def _product(self, name, table, count):
        """The product of the betas of all updates up to this one."""
        # Before the schedules began, it was the optimizer's own.
        before = numerics.maximum(self.start.value, 0) // self._accumulated
        index = count // self._accumulated - before
        index = numerics.minimum(index, len(table) - 1)
        return numerics.gather(table, index) * _power(self._own[name], before)

    def values(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The values that the updates used which followed `counts` others."""
        steps = np.maximum(counts - self.start.host, 0)
        return {
            name: np.asarray(base.evaluate(schedule, steps), dtype=np.float64)
            for name, schedule in self.schedules.items()
        }


_IS_TORCH = BACKEND == "torch"


@contextlib.contextmanager
def _replaced(attributes, values, own=None):
    """Entries of a dictionary, replaced for a while; `own` is what to put back.

    The replicas of a TensorFlow strategy enter this one inside the other: what they
    put back must not be what they found.
    """
    if own is None:
        own = {name: attributes[name] for name in values if name in attributes}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            if name in own:
                attributes[name] = own[name]
            else:
                attributes.pop(name, None)


def _evaluate(schedule, step):
    """The value of any schedule: a float for an int, a tensor for a tensor."""
    if isinstance(step, int):
        return base.evaluate(schedule, max(step, 0))
    step = numerics.to_steps(step)
    return numerics.to_learning_rate(base.evaluate(schedule, step), step)


def _assign(variable, value):
    if _IS_TORCH:
        # Filling waits for nothing; a tensor made of a number is copied to the GPU.
        with torch.no_grad():
            variable.value.fill_(value)
    else:
        variable.assign(value)


def _power(base_value, exponent):
    """A beta to the power of a count, rounded as Keras rounds it."""
    if isinstance(base_value, float) and isinstance(exponent, int):
        return float(np.float32(base_value) ** np.float32(exponent))
    dtype = numerics.float_dtype()
    return ops.power(ops.cast(base_value, dtype), ops.cast(exponent, dtype))


def _products(schedule, start, accumulated):
    """The running product of the values updates use, until nothing is left of it."""
    # The first update comes when the micro-batches of an earlier fit are made up to
    # the number accumulated.
    first = max(-start, 0) + accumulated - 1 - max(start, 0) % accumulated
    length = 64
    while True:
        steps = first + accumulated * np.arange(length)
        products = np.cumprod(np.asarray(base.evaluate(schedule, steps)))
        if products[-1] < 1e-9 or length >= 2**20:
            return products[: np.searchsorted(-products, -1e-9) + 1]
        length *= 4


def _ratio(rate, variable, step):
    """The new rate over the one last used; 1 where there is none."""
    if _IS_TORCH:
        previous = variable.value
        return torch.where(previous > 0.0, rate / previous, 1.0) if step > 0 else 1.0
    previous = ops.cast(variable.value, rate.dtype)
    known = ops.logical_and(step > 0, previous > 0.0)
    return ops.where(known, rate / ops.where(known, previous, 1.0), 1.0)


def _scale(optimizer, variables, ratio):
    """Multiplies an optimizer's variables by a number."""
    values = [variable.value for variable in variables]
    if _IS_TORCH:
        with torch.no_grad():
            torch._foreach_mul_(values, ratio)
    elif BACKEND == "tensorflow":

        def scale(distribution, values, ratio):
            for value in values:
                distribution.extended.update(
                    value, lambda v, r: v.assign(v * tf.cast(r, v.dtype)), args=(ratio,)
                )

        # As Keras's optimizers do it, so that it works on the replicas of a strategy.
        tf.__internal__.distribute.interim.maybe_merge_call(
            scale, optimizer._distribution_strategy, values, ratio
        )
    else:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value * ops.cast(ratio, value.dtype))


# --- A run of `model.fit` -------------------------------------------------------------

_ATTRIBUTE = "_keras_lrs_fit"


class Fit:
    """What our callbacks do to one run of `model.fit`, and how it is undone.

    `announce` finds or makes it when Keras hands callbacks their model; they `join` when
    the training begins, say what they want with `drive` and `scale`, and hand on the
    epochs' beginnings and ends. The first epoch's beginning binds the schedules and
    puts a `TrainFunction` in the model's place for it: only there is known which epoch
    it is, and only there has `BackupAndRestore` restored what it restores.
    """

    def __init__(self, model: Any):
        self.model = model
        # Keras gives a model a new one in every fit: it says whether this is over.
        self.history = getattr(model, "history", None)
        self.callbacks: list[Any] = []
        self.begun = False
        self.last_ended: int | None = None
        self.params: dict[str, Any] = {}
        self.driven: list[DrivenOptimizer] = []
        self.drives: dict[tuple[int, str], tuple[Any, Any]] = {}
        self._momentum_correction = False
        self.factors: list[tuple[int, float]] = []
        self.siblings: Callable[[], Any] = lambda: None
        self._scaled_by: Any = None
        self._finalizer: Any = None
        self._train_function: Any = None
        self._jax_variables: Any = None
        self._first_start = 0
        self._closed = False
        # Before `BackupAndRestore` overwrites them in `on_train_begin`.
        self._own_rates = {
            id(optimizer): _number(rate_variable(optimizer))
            for optimizer in self.optimizers
            if rate_variable(optimizer) is not None
        }

    @property
    def optimizers(self) -> list:
        """The optimizers that update the model's variables."""
        optimizer = getattr(self.model, "optimizer", None)
        return [] if optimizer is None else leaves(optimizer)

    @property
    def steps_per_epoch(self) -> int | None:
        """Batches per epoch; None for data of unknown length."""
        steps = self.params.get("steps")
        return int(steps) if steps is not None and steps > 0 else None

    # What callbacks ask for before the first epoch.

    def join(self, callback: Any) -> None:
        """Adds a callback to those that are told of steps and epochs' ends."""
        if callback not in self.callbacks:
            self.callbacks.append(callback)
            self.callbacks.sort(key=lambda joined: joined.priority)
        self.params = callback.params or {}

    def refuse_keras_callbacks(self, callback: Any) -> None:
        """Raises `ValueError` if one of Keras's own sets the rate as well."""
        theirs = (
            keras.callbacks.ReduceLROnPlateau,
            keras.callbacks.LearningRateScheduler,
        )
        for other in getattr(self.siblings(), "callbacks", []):
            if isinstance(other, theirs):
                raise ValueError(
                    f"`{type(callback).__name__}` cannot work beside Keras's "
                    f"`{type(other).__name__}`: both set the learning rate. Use "
                    "`keras_lrs.callbacks.ReduceOnPlateau` with "
                    "`HyperparameterScheduler` instead."
                )

    def drive(self, callback: Any, optimizer: Any, name: str, schedule: Any) -> None:
        """Lets a schedule drive a hyperparameter in this fit."""
        check_hyperparameter(optimizer, name)
        if name == "learning_rate":
            self.refuse_keras_callbacks(callback)
        other, _ = self.drives.setdefault((id(optimizer), name), (callback, schedule))
        if other is not callback:
            raise ValueError(
                f"Argument `{name}` of `{type(optimizer).__name__}` must have one "
                f"schedule. Received: `{type(other).__name__}` and "
                f"`{type(callback).__name__}` both schedule `{name}`"
            )

    def correct_momentum(self) -> None:
        """Rescales the velocity of SGD with the rate."""
        for optimizer in self.optimizers:
            sgd = isinstance(optimizer, keras.optimizers.SGD)
            if (id(optimizer), "learning_rate") in self.drives and not (
                sgd and optimizer.momentum != 0
            ):
                raise ValueError(
                    "Argument `momentum_correction` needs the optimizer `SGD` with a "
                    f"momentum. Received: {type(optimizer).__name__}"
                    + (" with momentum=0" if sgd else "")
                )
        self._momentum_correction = True

    def bound(self, callback: Any) -> dict[str, Any]:
        """A callback's schedules, bound; by optimizer where there are several."""
        optimizers = self.optimizers
        found: dict[str, Any] = {}
        for name, optimizer in zip(labels(optimizers), optimizers, strict=True):
            for hyperparameter, schedule in self._schedules(optimizer).items():
                owner, _ = self.drives.get(
                    (id(optimizer), hyperparameter), (None, None)
                )
                if owner is callback and len(optimizers) == 1:
                    found[hyperparameter] = schedule
                elif owner is callback:
                    found.setdefault(hyperparameter, {})[name] = schedule
        return found

    def _schedules(self, optimizer):
        for driven in self.driven:
            if driven.optimizer is optimizer:
                return driven.schedules
        return {}

    def scale(self, callback: Any) -> None:
        """Lets a callback multiply all rates by a factor (`set_factor`)."""
        self.refuse_keras_callbacks(callback)
        for optimizer in self.optimizers:
            rate = optimizer._learning_rate
            schedule = keras.optimizers.schedules.LearningRateSchedule
            if not isinstance(rate, (keras.Variable, schedule)):
                raise ValueError(
                    f"`{type(callback).__name__}` needs a learning rate that is a "
                    "float or a `LearningRateSchedule`. Received: "
                    f"learning_rate={rate!r}"
                )
        if self._scaled_by not in (None, callback):
            raise ValueError(
                f"A training takes one `{type(callback).__name__}`. Received: two"
            )
        self._scaled_by = callback

    # What callbacks tell.

    def begin_epoch(self, epoch: int) -> None:
        """Binds and installs when the first epoch begins."""
        self._jax_variables = None
        if not self.begun:
            self.begun = True
            for callback in self.callbacks:
                callback.fit_begins(epoch)
            self._install(epoch)
        for driven in self.driven:
            driven.iterations = iterations(driven.optimizer)
        for callback in self.callbacks:
            callback.epoch_begins(epoch)

    def end_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        """Tells every callback once, in the order of their priorities."""
        self._jax_variables = None
        if self.last_ended != epoch:
            self.last_ended = epoch
            for callback in self.callbacks:
                callback.epoch_ends(epoch, logs)

    # What callbacks may know and change while training.

    def count(self, optimizer: Any) -> int:
        """How many updates (micro-batches) an optimizer has made, also mid-epoch."""
        return int(self._read(optimizer._iterations))

    def window(self) -> durations.Window:
        """What lengths are measured by in this fit; its length must be known."""
        steps = self.steps_per_epoch
        if steps is None:
            raise ValueError(
                "The data does not tell its steps per epoch, which a length in epochs "
                "or fractions needs. Pass `steps_per_epoch=` to `fit`."
            )
        return durations.Window(steps * self.params["epochs"], steps)

    @property
    def position(self) -> int:
        """The step at which the schedules are: how many this training has made."""
        return self.count(self.optimizers[0]) - self._first_start

    def _read(self, variable):
        """The value of an optimizer's variable, also mid-epoch."""
        if self._jax_variables is None:
            return _number(variable)
        # There the values are in the state that `fit` hands from step to step.
        index = _index(self.model.optimizer.variables, variable)
        return self._jax_variables[index].item()

    def rate_schedule(self, optimizer: Any) -> Any:
        """The schedule that an optimizer's rate follows, bound; None if it is a float."""
        schedule = self._schedules(optimizer).get("learning_rate")
        if schedule is None and rate_variable(optimizer) is None:
            schedule = optimizer._learning_rate
        return schedule

    @property
    def own_rates(self) -> list[float | None]:
        """The rates that the user gave the optimizers; None for one with a schedule."""
        return [self._own_rates.get(id(optimizer)) for optimizer in self.optimizers]

    @own_rates.setter
    def own_rates(self, rates: list[float | None]) -> None:
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            if rate is not None:
                self._own_rates[id(optimizer)] = rate

    @property
    def factor(self) -> float:
        """What all rates are multiplied by."""
        return self.factors[-1][1] if self.factors else 1.0

    def set_factor(self, factor: float) -> None:
        """Multiplies all rates by `factor` from the next step on."""
        # What is set before the first step has been there for ever (a resumed training).
        since = -1 if self._train_function is None else self.count(self.optimizers[0])
        self.factors.append((since, factor))
        for driven in self.driven:
            driven.factor.set(factor)

    def values(self, optimizer: Any, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The values used by the updates that followed `counts` others.

        Always the rate; of the others, what a schedule drives.
        """
        rate: Any = optimizer._learning_rate
        if isinstance(rate, keras.Variable):
            rate = self._read(rate)
        elif isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = base.evaluate(rate, counts)
        else:
            rate = _number(rate())
        rates = np.broadcast_to(np.asarray(rate, np.float64), counts.shape)
        values: dict[str, Any] = {"learning_rate": rates}
        for driven in self.driven:
            if driven.optimizer is optimizer:
                values |= driven.values(counts)
        if self.factors:
            since, factors = zip(*self.factors, strict=True)
            index = np.searchsorted(since, counts, side="right") - 1
            used = np.where(index < 0, 1.0, np.asarray(factors)[index])
            values["learning_rate"] = values["learning_rate"] * used
        return values

    # How it is done and undone.

    def _install(self, epoch):
        specification = []
        for optimizer in self.optimizers:
            schedules = {
                name: schedule
                for (key, name), (_, schedule) in self.drives.items()
                if key == id(optimizer)
            }
            own = self._own_rates.get(id(optimizer))
            scaled = self._scaled_by is not None
            if scaled and own is not None:
                schedules.setdefault("learning_rate", Constant(own))
            if not schedules and not scaled:
                continue
            schedules = {
                name: self._bound(name, schedule)
                for name, schedule in schedules.items()
            }
            start = self._start(optimizer, epoch)
            specification.append((optimizer, schedules, scaled, start))
        self._first_start = self._start(self.optimizers[0], epoch)
        wants_steps = any(callback.every_step for callback in self.callbacks)
        if not specification and not wants_steps:
            return
        function, self.driven = self._compiled(specification)
        for driven, (*_, start) in zip(self.driven, specification, strict=True):
            driven.start.set(start)
            driven.factor.set(self.factor)
            position = iterations(driven.optimizer) - start
            if "learning_rate" in driven.schedules and position > 0:
                # What an uninterrupted training would read: the rate last used.
                last = np.array([iterations(driven.optimizer) - 1])
                used = self.values(driven.optimizer, last)["learning_rate"][0]
                rate_variable(driven.optimizer).assign(used)
        self._train_function = TrainFunction(self, self.model.train_function, function)
        self.model.train_function = self._train_function
        if BACKEND == "jax":
            # `fit` calls it in a `finally`, after it has written its state back into
            # the variables and with it a rate of ours.
            outer = self.model.optimizer
            finalize = outer.finalize_variable_values

            def finalize_variable_values(variables):
                self.close()
                finalize(variables)

            vars(outer)["finalize_variable_values"] = finalize_variable_values

    def _bound(self, name, schedule):
        """A schedule with its lengths in steps of this fit."""
        known = self.steps_per_epoch is not None
        if isinstance(schedule, base.Schedule):
            if known:
                schedule = base.bind(schedule, self.window())
            elif schedule._unbound:
                raise ValueError(
                    f"The schedule of `{name}` needs the number of steps per epoch, "
                    "which this data does not tell. Pass `steps_per_epoch=` to `fit`, "
                    "or bind the schedule: `schedule.bind(total_steps, "
                    f"steps_per_epoch)`. Received: {schedule!r}"
                )
        check_values(name, schedule, self.window().total if known else 10_000)
        return schedule

    def _start(self, optimizer, epoch):
        """The optimizer's iteration at which the schedules are at their step 0."""
        count = iterations(optimizer)
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
        if start < 0 < count and optimizer is not self.model.optimizer:
            # A wrapper skips updates: loss scaling, where gradients overflow.
            return 0
        return start

    def _compiled(self, specification):
        """A train function traced with the schedules, and the optimizers it drives.

        They are kept beside the plain train function: fits with equal schedules share
        one compilation, and `compile`, which drops the plain one, drops them.
        """
        model = self.model
        plain = model.train_function
        key = tuple(
            (
                id(optimizer),
                id(optimizer._learning_rate),
                frozenset(schedules.items()),
                tuple(getattr(optimizer, n) for n in schedules if n != "learning_rate"),
                scaled,
                self._momentum_correction,
                max(-start, 0),
                max(start, 0) % (optimizer.gradient_accumulation_steps or 1),
            )
            for optimizer, schedules, scaled, start in specification
        )
        cache = getattr(plain, "keras_lrs_compiled", {})
        if key not in cache:
            driven = [
                DrivenOptimizer(
                    model,
                    optimizer,
                    schedules,
                    scaled,
                    self._momentum_correction,
                    start,
                )
                for optimizer, schedules, scaled, start in specification
            ]
            eager = _IS_TORCH or model.run_eagerly
            function = plain if eager or not driven else _traced_anew(model, driven)
            cache = {**dict(list(cache.items())[-7:]), key: (function, driven)}
            with contextlib.suppress(AttributeError):  # A callable without attributes.
                plain.keras_lrs_compiled = cache
        return cache[key]

    def run(self, function: Callable, arguments: tuple) -> Any:
        """One execution of a train function, with the optimizers driven."""
        with contextlib.ExitStack() as stack:
            for driven in self.driven:
                stack.enter_context(driven.installed())
            if BACKEND != "jax":
                return function(*arguments)
            (*state, variables, metrics), iterator = arguments
            live = self._live()
            variables = list(variables)
            for index, number in live:
                variables.insert(index, number.array)
            logs, state = function((*state, variables, metrics), iterator)
            (*state, variables, metrics) = state
            variables = list(variables)
            for index, number in reversed(live):
                number.array = variables.pop(index)
            self._jax_variables = variables
            return logs, (*state, variables, metrics)

    def _live(self):
        """The live numbers of all optimizers, by their place among the variables."""
        variables = self.model.optimizer.variables
        return sorted(
            (
                (_index(variables, live.variable), live)
                for driven in self.driven
                for live in driven.live
            ),
            key=lambda pair: pair[0],
        )

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
        for callback in self.callbacks:
            callback.fit_ends()
        installed, self._train_function = self._train_function, None
        if installed is None:
            return
        if self.model.train_function is installed:
            self.model.train_function = installed.plain
        for driven in self.driven:
            own = self._own_rates.get(id(driven.optimizer))
            if "learning_rate" in driven.schedules and own is not None:
                rate_variable(driven.optimizer).assign(own)
        if BACKEND == "jax":
            vars(self.model.optimizer).pop("finalize_variable_values", None)


class TrainFunction:
    """The model's train function during a `Fit`."""

    def __init__(self, fit: Fit, plain: Callable, function: Callable):
        self.fit = fit
        self.plain = plain
        self.function = function
        self.checked = False

    def __call__(self, *arguments: Any) -> Any:
        fit = self.fit
        if fit.model.history is not fit.history:
            # That fit broke off outside a step, and this one has no callback of ours.
            fit.close()
            return self.plain(*arguments)
        try:
            result = fit.run(self.function, arguments)
            if not self.checked:
                self._check()
            for callback in fit.callbacks:
                if callback.every_step:
                    callback.step_ends(result[0] if BACKEND == "jax" else result)
        except StopIteration:  # The data has ended.
            raise
        except BaseException:
            if BACKEND != "jax":  # Whose `fit` finalizes, and overwrites before.
                fit.close()
            raise
        return result

    def _check(self):
        self.checked = True
        if self.fit.model.trainable_variables:
            for driven in self.fit.driven:
                if not driven.used and driven.optimizer.built:
                    raise RuntimeError(
                        f"The training step never called `{driven.optimizer.name}"
                        ".apply`: the schedules would have no effect. A custom "
                        "`train_step` must update the variables with "
                        "`self.optimizer.apply` or `apply_gradients`."
                    )


def _traced_anew(model, driven):
    """A train function of its own, to be traced while the optimizers are driven."""
    attributes = vars(model)
    plain = model.train_function
    train_step = model.train_step
    # `jax.jit` keeps its traces by the equality of functions, and bound methods of one
    # model are equal: it would serve the plain step. A function is equal to itself.
    fresh = functools.wraps(train_step)(lambda *arguments: train_step(*arguments))
    with contextlib.ExitStack() as stack:
        for one in driven:
            stack.enter_context(one.installed())
        stack.enter_context(_replaced(attributes, {"train_step": fresh}))
        model.make_train_function(force=True)
        function = model.train_function
    model.train_function = plain
    return function


def _index(variables, variable):
    return next(i for i, other in enumerate(variables) if other is variable)


def announce(callback: Any, model: Any) -> Fit:
    """The `Fit` that a callback is part of, when Keras hands it its model.

    Keras also does so for `evaluate` and `predict`, within a fit or outside; then
    nothing comes of it. The callback is moved to the front of the list, so that what it
    writes into an epoch's logs is there for all others.
    """
    attributes = vars(model)
    fit = attributes.get(_ATTRIBUTE)
    if fit is not None and fit.history is not getattr(model, "history", None):
        fit.close()  # It broke off.
        fit = None
    if fit is None:
        fit = attributes[_ATTRIBUTE] = Fit(model)
    siblings = _callback_list()
    if siblings is not None and not fit.begun:
        others = [other for other in siblings.callbacks if other is not callback]
        siblings.callbacks[:] = [callback, *others]
        fit.siblings = weakref.ref(siblings)
        if fit._finalizer is None:
            # `fit` calls nothing when a callback or a validation raises, but then
            # nobody keeps its list of callbacks.
            fit._finalizer = weakref.finalize(siblings, _close, weakref.ref(fit))
            fit._finalizer.atexit = False
    return fit


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
        if model.optimizer is None or not model.built:
            raise ValueError(
                f"`{type(callback).__name__}` needs to know the optimizers. Build the "
                "model before `fit`, by calling it on a batch or giving it an `Input`."
            )
        model.optimizer.build(model.trainable_variables)
    fit.join(callback)
    return fit


def _close(fit_reference):
    fit = fit_reference()
    if fit is not None:
        fit.close()


def _callback_list():
    """The list of callbacks that is handing out the model.

    Keras tells a callback nothing about the others; its list is the caller of
    `set_model`.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller
        frame = frame.f_back
    return None
