"""The one place that touches an optimizer's step and a model's train function.

Nothing is left on an optimizer. While the train function runs, and only then, `apply`
is replaced on the instance; that one puts the values of this step where the optimizer
looks for its hyperparameters, calls the real one, and puts the floats back. On
TensorFlow and JAX this happens when the step is traced: schedules are part of the
compiled step.

All private attributes of Keras that the library relies on are used in this file.
"""

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import h5py
import keras
import numpy as np
from keras import ops
from keras.src.saving import saving_lib
from keras.src.trainers import data_adapters, epoch_iterator

from keras_lrs.schedules import base, numerics

BACKEND = keras.backend.backend()
_IS_TORCH = BACKEND == "torch"

_END_OF_DATA: tuple[type[BaseException], ...] = (StopIteration,)
if BACKEND == "tensorflow":
    import tensorflow as tf

    _END_OF_DATA += (tf.errors.OutOfRangeError,)
elif BACKEND == "jax":
    import jax
    import jax.numpy as jnp
elif BACKEND == "torch":
    import torch


# --- Looking at optimizers and callbacks ----------------------------------------------


def leaves(optimizer: Any) -> list:
    """The optimizers that update variables: those inside a wrapper, or itself."""
    # A `LossScaleOptimizer` or a `ScheduleFree`.
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return leaves(inner)
    several = getattr(optimizer, "optimizers", None)  # A `MultiOptimizer`.
    if several is None:
        return [optimizer]
    return [leaf for one in several for leaf in leaves(one)]


def portable_config(optimizer: Any) -> dict[str, Any]:
    """An optimizer serialized such that it loads on every backend.

    On PyTorch those of Keras are of classes of its own, whose steps are PyTorch's.
    """
    config = keras.saving.serialize_keras_object(optimizer)
    if config["module"].startswith("keras.src.backend."):
        config["module"], config["registered_name"] = "keras.optimizers", None
    return config


def labels(optimizers: list) -> list[str]:
    """A name for each of several optimizers, no two the same."""
    names = [optimizer.name for optimizer in optimizers]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}"
        for i, name in enumerate(names)
    ]


def rate_source(optimizer: Any) -> Any:
    """The variable, schedule or function that an optimizer takes its rate from.

    `Optimizer.learning_rate` gives a schedule's current value instead.
    """
    return optimizer._learning_rate


def iterations(optimizer: Any) -> int:
    """How often `apply` was called, micro-batches included.

    `Optimizer.iterations` is divided by the accumulation steps; schedules are not.
    """
    return int(number(optimizer._iterations))


def number(variable: Any) -> float:
    """The value of a variable or a tensor without dimensions."""
    # Under a TensorFlow strategy `float(variable)` raises.
    tensor = variable.value if isinstance(variable, keras.Variable) else variable
    return ops.convert_to_numpy(tensor).item()


def set_rate(optimizer: Any, rate: float) -> None:
    """Sets the variable of an optimizer's rate.

    Also from a finalizer, which may run while another model is traced: not in its graph
    then, and not in the scope in which Keras keeps assignments from taking effect.
    """
    variable = optimizer._learning_rate
    if BACKEND == "tensorflow":
        with tf.init_scope():
            variable._value.assign(rate)
    elif _IS_TORCH:
        with torch.no_grad():
            variable._value.fill_(rate)
    else:
        variable.assign(rate)


def values(variables: list) -> list[np.ndarray]:
    """Copies of variables' values."""
    return [np.array(ops.convert_to_numpy(variable.value)) for variable in variables]


def assign(variables: list, values: list[np.ndarray]) -> None:
    """Sets variables, from wherever it is called, like `set_rate`."""
    for variable, value in zip(variables, values, strict=True):
        if BACKEND == "tensorflow":
            with tf.init_scope():
                variable._value.assign(tf.cast(value, variable.dtype))
        elif _IS_TORCH:
            if value.dtype.name == "bfloat16":  # Which PyTorch takes from no array.
                value = value.astype("float32")
            with torch.no_grad():
                variable._value.copy_(torch.as_tensor(value))
        else:
            variable._direct_assign(jnp.asarray(value, variable.dtype))


def build_optimizer(model: Any) -> None:
    """Builds a model's optimizer, as Keras does in the first step."""
    with strategy_scope(model):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)


def callback_list() -> keras.callbacks.CallbackList | None:
    """The list of callbacks that is handing out the model, asked in `set_model`.

    Keras tells a callback nothing about the others; its list is the caller.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller
        frame = frame.f_back
    return None


def layers(model: Any) -> list:
    """All layers of a model, also those inside others."""
    return list(model._flatten_layers())


def strategy_scope(model: Any) -> contextlib.AbstractContextManager:
    """Where variables are made that a model's functions use."""
    # The public property gives TensorFlow's default strategy, which has no scope.
    strategy = getattr(model, "_distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


# --- Values inside the step -----------------------------------------------------------


class Live:
    """A number that the step reads and the host changes between steps.

    A variable on TensorFlow and JAX, so that a compiled step serves later fits.
    """

    def __init__(self, model: Any, value: Any, dtype: str):
        self.host = value
        if _IS_TORCH:
            return
        with strategy_scope(model):
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
        """The value now, or in the step that is being traced."""
        return self.host if _IS_TORCH else self.variable.value

    def set(self, value: Any) -> None:
        """Changes the value from the next step on."""
        self.host = value
        if not _IS_TORCH:
            self.variable.assign(value)
        if BACKEND == "jax":
            # The train step is given the array and donates it; the variable keeps its.
            self.array = jnp.copy(self.variable.value)


def _answers_on(self, other):
    """Answers `momentum != 0` and `clipnorm > 0`, asked in Python: it is used."""
    return True if isinstance(other, (int, float)) and other == 0 else NotImplemented


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
        on = _answers_on(self, other)
        return on if on is NotImplemented else not on

    __hash__ = None  # type: ignore[assignment]
    __ne__ = __gt__ = __ge__ = _answers_on


if BACKEND == "jax":
    # Functions that are compiled by themselves, such as `jnp.clip`, take only these.
    jax.tree_util.register_pytree_node(
        _TracedHyperparameter,
        lambda hyperparameter: ((hyperparameter.tensor,), None),
        lambda _, tensors: _TracedHyperparameter(*tensors),
    )


def _hyperparameter(value):
    """What stands for a float in an optimizer; it is never 0 in Python's eyes."""
    if _IS_TORCH:
        # Without a momentum the velocity would stand still, where it must be forgotten.
        return value or sys.float_info.min
    return _TracedHyperparameter(value)


# --- Averages of weights --------------------------------------------------------------

# What `ema_momentum` says of slots that hold our averages. Both are 0 to Keras: a fit
# without our callback keeps the slots equal to the weights, which changes nothing.
_KEPT = 0.0
_EXCHANGED = 1e-300  # The model holds the averages, and the slots the weights.

# Compiled steps hold on to the variables: an optimizer is given the same ones again.
_slots_so_far: weakref.WeakKeyDictionary[Any, list]
_slots_so_far = weakref.WeakKeyDictionary()


class Slots:
    """The averages of an optimizer's weights, where `use_ema` has them.

    There they are saved, loaded and resumed with the model. Averages of weights of less
    than 32 bits are kept in float32: they would stall.
    """

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer
        self._rounded: list[np.ndarray] | None = None
        self._empty_since: int | None = None

    @staticmethod
    def weights(optimizer: Any) -> list:
        """The variables of a built optimizer that can be averaged."""
        return [
            variable
            for variable in optimizer._trainable_variables
            # Not scales of float8, which are set and not trained.
            if not optimizer._overwrite_variable_with_gradient(variable)
        ]

    @property
    def attached(self) -> bool:
        """Whether they are among the optimizer's variables, maybe from a file."""
        optimizer = self.optimizer
        return optimizer.use_ema and optimizer.ema_momentum in (_KEPT, _EXCHANGED)

    @property
    def exchanged(self) -> bool:
        """Whether the model holds the averages, and the slots the weights."""
        return self.attached and self.optimizer.ema_momentum == _EXCHANGED

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """The weights and their averages, as variables."""
        averages = self.optimizer._model_variables_moving_average
        weights = self.optimizer._trainable_variables
        return [
            (weight, average)
            for weight, average in zip(weights, averages, strict=True)
            if average is not None
        ]

    def attach(self, model: Any) -> None:
        """Makes room for them among the variables of a built optimizer."""
        optimizer = self.optimizer
        weights = optimizer._trainable_variables
        # What a file was loaded into has the types of the weights.
        loaded = (
            list(optimizer._model_variables_moving_average)
            if self.attached
            else [None] * len(weights)
        )
        slots = _slots_so_far.get(optimizer)
        if slots is None:
            slots = [
                old
                if old is not None and old.dtype == _average_dtype(weight)
                else _new_slot(model, optimizer, weight, old)
                for weight, old in zip(weights, loaded, strict=True)
            ]
        known = [slot for slot in slots if slot is not None]
        gone = {id(slot) for slot in (*known, *loaded)}
        others = [v for v in optimizer.variables if id(v) not in gone]
        # Where `build` puts them: before all other slots.
        first = 1 + isinstance(optimizer._learning_rate, keras.Variable)
        _set_variables(optimizer, [*others[:first], *known, *others[first:]])
        # Past Keras's tracking, as in its `build`.
        vars(optimizer)["_model_variables_moving_average"] = slots
        if not self.attached:
            self._empty_since = iterations(optimizer)
            optimizer.use_ema, optimizer.ema_momentum = True, _KEPT
        _slots_so_far[optimizer] = slots

    def detach(self) -> None:
        """Leaves the optimizer without averages."""
        optimizer = self.optimizer
        slots = vars(optimizer).pop("_model_variables_moving_average")
        gone = {id(slot) for slot in slots}
        _set_variables(optimizer, [v for v in optimizer.variables if id(v) not in gone])
        optimizer.use_ema, optimizer.ema_momentum = False, 0.99

    def reset(self) -> None:
        """Lets the averages be the weights."""
        for weight, average in self.pairs:
            _exchange(weight, average, both=False)

    @property
    def known(self) -> bool:
        """Whether they have been loaded, if they were empty when they were attached."""
        return self._empty_since != iterations(self.optimizer)

    def exchange(self) -> None:
        """Exchanges weights and averages; the weights come back bit for bit."""
        pairs = self.pairs
        narrow = [average for weight, average in pairs if weight.dtype != average.dtype]
        rounded, self._rounded = self._rounded, None
        if not self.exchanged:
            self._rounded = [ops.convert_to_numpy(a.value).copy() for a in narrow]
        for weight, average in pairs:
            _exchange(weight, average)
        for average, value in zip(narrow, rounded or (), strict=rounded is not None):
            average.assign(value)
        self.optimizer.ema_momentum = _KEPT if self.exchanged else _EXCHANGED


class FreeAverage:
    """An average of a weight in a variable that is not the optimizer's.

    On JAX the step is handed its array, and hands it back.
    """

    def __init__(self, model: Any, weight: Any):
        with strategy_scope(model):
            self.variable = keras.Variable(
                np.zeros(weight.shape),
                dtype=_average_dtype(weight),
                trainable=False,
                layout=getattr(weight, "_layout", None),
                name="keras_lrs_average",
            )
        self.weight = weight
        self.array: Any = None

    @property
    def value(self) -> np.ndarray:
        """A copy of it, between steps."""
        value = self.variable.value if self.array is None else self.array
        return np.array(ops.convert_to_numpy(value))

    def set(self, value: np.ndarray) -> None:
        """Changes it, between steps."""
        assign([self.variable], [value])
        if BACKEND == "jax":
            # The train step donates what it is given; the variable keeps its own.
            self.array = jnp.copy(self.variable.value)


def _average_dtype(weight):
    return weight.dtype if weight.dtype in ("float32", "float64") else "float32"


def _new_slot(model, optimizer, weight, old):
    """An average: the old one, if there is one, in a type that is wide enough."""
    if not any(weight is other for other in Slots.weights(optimizer)):
        return None
    with strategy_scope(model):
        slot = optimizer.add_variable(
            shape=weight.shape,
            initializer="zeros",
            dtype=_average_dtype(weight),
            layout=getattr(weight, "_layout", None),
            name=f"{weight.path.replace('/', '_')}_average",
        )
    if old is not None:
        slot.assign(ops.cast(old.value, slot.dtype))
    return slot


def _set_variables(optimizer, variables):
    """Replaces the list of an optimizer's variables.

    TensorFlow saves no list that was changed other than by appending; so it is a new
    one, set as in the constructor, where there is no tracker yet.
    """
    tracker = vars(optimizer).pop("_tracker")
    optimizer._variables = variables
    vars(optimizer)["_tracker"] = tracker
    is_variable, _ = tracker.config["variables"]
    tracker.config["variables"] = (is_variable, optimizer._variables)
    tracker.stored_ids["variables"] = {id(variable) for variable in variables}


def _exchange(one, other, both=True):
    """Exchanges two variables' values, or only gives the other the one's.

    Like `set_rate`, from wherever it is called.
    """
    if BACKEND == "tensorflow":
        with tf.init_scope():
            value = tf.identity(one._value)
            if both:
                one._value.assign(tf.cast(other._value, one._value.dtype))
            other._value.assign(tf.cast(value, other._value.dtype))
    elif _IS_TORCH:
        with torch.no_grad():
            value = one._value.clone()
            if both:
                one._value.copy_(other._value)
            other._value.copy_(value)
    else:
        value = one._value
        if both:
            one._value = other._value.astype(one.dtype)
        # A buffer of its own: the train step donates those it is given.
        other._value = value.astype(other.dtype) if both else jnp.copy(value)


@dataclasses.dataclass(frozen=True)
class Averaging:
    """Which updates an average takes, and with which weight.

    Args:
        average: The schedule of the weights.
        first: How many updates come before it begins; till then it is the last weights.
        every: It takes one update in so many.
        ends: Or the numbers of updates after which it takes the weights.
    """

    average: Any
    first: int = 0
    every: int = 1
    ends: tuple[int, ...] | None = None

    def taken(self, updates: Any) -> Any:
        """How many updates have been taken, after so many of the training."""
        if self.ends is None:
            return numerics.maximum(updates - self.first, 0) // self.every
        return self._reached(updates)

    def weight(self, updates: Any) -> Any:
        """The weight of the weights, after so many updates with the last one."""
        taken = self.taken(updates)
        weight = self.average.weight(numerics.maximum(taken - 1, 0))
        due = taken > self.taken(updates - 1)
        return numerics.where(taken <= 0, 1.0, numerics.where(due, weight, 0.0))

    @property
    def always(self) -> bool:
        """Whether it takes every update."""
        return self.ends is None and self.every == 1

    @functools.cached_property
    def _reached(self):
        return numerics.Lookup(self.ends)


# --- An optimizer that follows schedules ----------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drive:
    """What an optimizer is to follow.

    Args:
        optimizer: One that updates variables.
        schedules: The schedule of each hyperparameter, bound.
        scaled: Whether the rate is multiplied by a live factor.
        momentum_correction: Whether the velocity is rescaled with the rate.
        start: The optimizer's iteration at which the schedules are at their step 0.
        averaging: How its weights are averaged in its `Slots`; None if they are not.
        free: How they are averaged besides, in variables of ours.
        norms: Of every how many updates the norm of the gradients is seen, and of
            which order; None if it is not.
    """

    optimizer: Any
    schedules: dict[str, Any]
    scaled: bool
    momentum_correction: bool
    start: int
    averaging: Averaging | None = None
    free: tuple[Averaging, ...] = ()
    norms: tuple[int, int] | None = None

    @property
    def accumulated(self) -> int:
        """How many micro-batches make an update."""
        return self.optimizer.gradient_accumulation_steps or 1

    @property
    def averages(self) -> list[Averaging]:
        """All averages, that of the slots first."""
        return [one for one in (self.averaging, *self.free) if one is not None]

    @property
    def own(self) -> dict[str, Any]:
        """What the optimizer holds where the schedules' values are put."""
        attributes = vars(self.optimizer)
        # The third is there if another optimizer makes the updates.
        known = ("_learning_rate", "use_ema", "_backend_update_step")
        names = (*known, *self.schedules)
        return {name: attributes[name] for name in names if name in attributes}

    @property
    def first(self) -> int:
        """The schedules' step in the first update of this fit."""
        # The micro-batches of an earlier fit are made up to the number accumulated.
        begun = max(self.start, 0) % self.accumulated
        return max(-self.start, 0) + self.accumulated - 1 - begun

    @property
    def key(self) -> tuple:
        """Equal for drives that one compiled step can serve."""
        own = tuple(
            id(value) if name == "_learning_rate" else value
            for name, value in self.own.items()
        )
        return (
            id(self.optimizer),
            frozenset((n, _identity(s)) for n, s in self.schedules.items()),
            self.scaled,
            self.momentum_correction,
            self.first,
            self.averaging,
            self.free,
            self.norms,
            own,
        )


def _identity(schedule):
    """Equal for schedules that are; those of others are known by their config."""
    if isinstance(schedule, base.Schedule):
        return schedule
    try:
        return type(schedule), repr(schedule.get_config())
    except NotImplementedError:
        return schedule


# The products of the betas of all updates of an optimizer, and how many these were.
_products_so_far: weakref.WeakKeyDictionary[Any, dict[str, tuple[int, float]]]
_products_so_far = weakref.WeakKeyDictionary()


class DrivenOptimizer:
    """An optimizer while it follows schedules."""

    def __init__(self, model: Any, drive: Drive):
        self.drive = drive
        self.optimizer = drive.optimizer
        self.schedules = drive.schedules
        self.start = Live(model, drive.start, "int")
        self.factor = Live(model, 1.0, numerics.float_dtype())
        self.iterations = 0  # Counted on the host on PyTorch: reading waits for a GPU.
        self.used = False
        self._own = drive.own
        self._apply = self.optimizer.apply
        self._apply_attribute = vars(self.optimizer).get("apply")
        self._update_step = self.optimizer._backend_update_step
        self._products = {
            name: _products(self.schedules[name], drive) for name in self._corrected
        }
        self._before = {
            name: Live(model, 1.0, numerics.float_dtype()) for name in self._products
        }
        weights = Slots.weights(self.optimizer) if drive.free else []
        self.free = [[FreeAverage(model, w) for w in weights] for _ in drive.free]
        self.norms = None if drive.norms is None else GradientNorms(model, drive)
        # On PyTorch the schedules are Python, which its compiler must not trace.
        self._patch = torch.compiler.disable(self.apply) if _IS_TORCH else self.apply
        # A variable that an optimizer does not list is a constant in a JAX step.
        factor = [self.factor] if drive.scaled else []
        free = [average for averages in self.free for average in averages]
        norms = [] if self.norms is None else [self.norms.table]
        live: list[Any] = [self.start, *factor, *self._before.values(), *free, *norms]
        self.live = live if BACKEND == "jax" else []

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

    def install(self) -> None:
        """Puts `apply` in the place of the optimizer's."""
        vars(self.optimizer)["apply"] = self._patch
        for live in self.live:
            self.optimizer._variables.append(live.variable)

    def remove(self) -> None:
        """Leaves the optimizer as it was."""
        if self.live:
            del self.optimizer._variables[-len(self.live) :]
        _put_back(vars(self.optimizer), "apply", self._apply_attribute)

    def begin(self, start: int) -> None:
        """Sets the optimizer's iteration at which the schedules are at their step 0."""
        self.start.set(start)
        for averages in self.free:
            for average in averages:
                average.set(ops.convert_to_numpy(average.weight.value))
        updates = self._updates_before
        for name, before in self._before.items():
            # Since the last fit of ours, and before the first, it was the optimizer's.
            so_far = _products_so_far.get(self.optimizer, {})
            count, product = so_far.get(name, (0, 1.0))
            if count > updates:  # It has been set back.
                count, product = 0, 1.0
            before.set(product * self._own[name] ** (updates - count))

    def end(self) -> None:
        """Remembers the products of the betas for later fits."""
        updates = iterations(self.optimizer) // self.drive.accumulated
        so_far = _products_so_far.setdefault(self.optimizer, {})
        for name, table in self._products.items():
            index = min(updates - self._updates_before, len(table)) - 1
            product = table[index] if index >= 0 else 1.0
            so_far[name] = (updates, float(product * self._before[name].host))

    @property
    def _updates_before(self):
        """The updates before the schedules' step 0."""
        return max(self.start.host, 0) // self.drive.accumulated

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """`Optimizer.apply` with the values of this step."""
        if not self.optimizer.built:
            self.optimizer.build(list(trainable_variables))
        # Where its data ends, TensorFlow still runs what does not depend on it.
        with after(grads):
            self._apply_with_values(grads, trainable_variables)

    def _apply_with_values(self, grads, trainable_variables):
        optimizer = self.optimizer
        self.used = True
        count = self.iterations if _IS_TORCH else optimizer._iterations.value
        step = count - self.start.value
        values = {
            name: _evaluate(schedule, step) for name, schedule in self.schedules.items()
        }
        rate = values.pop("learning_rate", None)
        place: dict[str, Any] = {
            name: _hyperparameter(value) for name, value in values.items()
        }
        if self.drive.averaging is not None:
            place["use_ema"] = False  # Keras has slots for it, and leaves them to us.
        # Now: on TensorFlow the count is a variable, which the update raises.
        shares = [self._share(one, count) for one in self.drive.averages]
        if rate is not None:
            if self.drive.scaled:
                rate = rate * self.factor.value
            variable = optimizer._learning_rate
            if self.drive.momentum_correction:
                _scale(optimizer, optimizer.momentums, _ratio(rate, variable, step))
            if isinstance(variable, keras.Variable):
                _assign(variable, rate)
            else:  # It stands in for the optimizer's own schedule.
                place["_learning_rate"] = rate
        elif self.drive.scaled:
            # What is neither schedule nor variable is handed on as it is.
            rate = _evaluate(self._own["_learning_rate"], count) * self.factor.value
            place["_learning_rate"] = rate
        if self._products:
            place["_backend_update_step"] = functools.partial(
                self._corrected_update_step, values, count
            )
        if self.norms is not None:
            place["_backend_apply_gradients"] = functools.partial(
                self.norms.apply_gradients, count
            )
        attributes = vars(optimizer)
        attributes.update(place)
        try:
            self._apply(grads, trainable_variables)
        finally:
            # Not what was found: a TensorFlow strategy's replicas come here one inside
            # the other.
            for name in place:
                _put_back(attributes, name, self._own.get(name))
        for one, pairs, share in zip(
            self.drive.averages, self._pairs, shares, strict=True
        ):
            always = one.always and self.drive.accumulated == 1
            _interpolate(optimizer, pairs, share, always)
        if _IS_TORCH and len(grads) > 0:  # As Keras counts.
            self.iterations += 1

    @functools.cached_property
    def _pairs(self):
        """The weights and the averages, of each kind of average."""
        slots = [] if self.drive.averaging is None else [Slots(self.optimizer).pairs]
        free = [
            [(one.weight, one.variable) for one in averages] for averages in self.free
        ]
        return slots + free

    def _share(self, averaging, count):
        """The share of the weights in their averages, with the step after `count`."""
        every = self.drive.accumulated
        share = averaging.weight((count + 1) // every - self.start.value // every)
        if every == 1:
            return share
        return numerics.where((count + 1) % every == 0, share, 0.0)

    def taken(self, count: int) -> int:
        """How many updates the average has taken, after so many micro-batches."""
        if self.drive.averaging is None:
            return 0
        every = self.drive.accumulated
        updates = count // every - self.start.host // every
        return int(self.drive.averaging.taken(updates))

    def _corrected_update_step(self, values, count, grads, variables, learning_rate):
        """Keras's update, with the bias correction that changing betas need.

        Keras divides by `1 - beta**t`, which is right for a constant beta; a scheduled
        one needs 1 minus the product of the betas used so far. Both can be had as
        factors of the rate (Kingma and Ba, 2014, end of section 2).
        """
        updates = count // self.drive.accumulated
        correction: Any = 1.0
        for name, table in self._products.items():
            product = self._before[name].value * self._product(table, updates)
            ratio = (1.0 - _power(values[name], updates + 1)) / (1.0 - product)
            correction *= ratio if name == "beta_1" else ratio**-0.5
        self._update_step(grads, variables, learning_rate * correction)

    def _product(self, table, updates):
        """The product of the scheduled betas of the updates up to this one."""
        before = numerics.maximum(self.start.value, 0) // self.drive.accumulated
        index = numerics.minimum(updates - before, len(table) - 1)
        return numerics.gather(table, index)

    def values(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The schedules' values in the updates that followed `counts` others."""
        steps = np.maximum(counts - self.start.host, 0)
        return {
            name: np.asarray(base.evaluate(schedule, steps), dtype=np.float64)
            for name, schedule in self.schedules.items()
        }


def after(gradients: Any) -> Any:
    """Makes a TensorFlow graph compute what is inside after the gradients."""
    if BACKEND != "tensorflow" or tf.executing_eagerly():
        return contextlib.nullcontext()
    known = [g for g in gradients if g is not None][:1]
    return tf.control_dependencies([getattr(g, "values", g) for g in known])


def _put_back(attributes, name, value):
    """The optimizer's own entry; none where a method of its class was covered."""
    if value is None and (name == "apply" or name.startswith("_backend_")):
        attributes.pop(name, None)
    else:
        attributes[name] = value


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


def _power(beta, exponent):
    """A beta to the power of a count, rounded as Keras rounds it."""
    if isinstance(beta, float) and isinstance(exponent, int):
        return float(np.float32(beta) ** np.float32(exponent))
    dtype = numerics.float_dtype()
    return ops.power(ops.cast(beta, dtype), ops.cast(exponent, dtype))


def _products(schedule, drive):
    """The running product of the values updates use, until nothing is left of it."""
    length = 64
    while True:
        steps = drive.first + drive.accumulated * np.arange(length)
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
    if _IS_TORCH:
        with torch.no_grad():
            torch._foreach_mul_(_values(variables), ratio)
        return

    def scale(variable, ratio):
        value = ops.convert_to_tensor(variable)
        variable.assign(value * ops.cast(ratio, value.dtype))

    _on_each(optimizer, scale, variables, [ratio] * len(variables))


def _interpolate(optimizer, pairs, share, always):
    """Moves averages by a share of their distance towards the weights.

    `a + c (w - a)`: with `(1 - c) a + c w`, the error of `1 - c` would add up.
    """
    averages = [average for _, average in pairs]
    weights = [weight for weight, _ in pairs]
    if _IS_TORCH:
        if share > 0.0:
            values = _values(averages)
            wide = [
                weight.to(value.dtype)
                for weight, value in zip(_values(weights), values, strict=True)
            ]
            with torch.no_grad():
                torch._foreach_lerp_(values, wide, share)
        return

    def move(average, weight, share):
        old = ops.convert_to_tensor(average)

        def moved():
            way = ops.cast(weight, old.dtype) - old
            return old + ops.cast(share, old.dtype) * way

        if always:
            average.assign(moved())
        elif BACKEND == "jax":
            average.assign(jax.lax.cond(share > 0.0, moved, lambda: old))
        else:
            tf.cond(share > 0.0, lambda: _assigned(average, moved()), lambda: True)

    _on_each(optimizer, move, averages, weights, [share] * len(pairs))


# --- An optimizer that makes the updates of another -----------------------------------


def take_over(optimizer: Any, update: Any) -> None:
    """Calls `update(gradients, variables, rate)` where an optimizer would update.

    That is once per update, not per micro-batch, with gradients that are averaged and
    clipped. Weight decay is left to `update`.
    """
    attributes = vars(optimizer)
    attributes["_backend_update_step"] = update
    attributes["_apply_weight_decay"] = _without_effect


def _without_effect(variables):
    """In the place of an optimizer's weight decay."""


def is_taken_over(optimizer: Any) -> bool:
    """Whether another optimizer makes its updates."""
    return "_apply_weight_decay" in vars(optimizer)


def update(optimizer: Any, gradients: Any, variables: Any, rate: Any) -> None:
    """The update that an optimizer would make itself, without weight decay."""
    type(optimizer)._backend_update_step(optimizer, gradients, variables, rate)


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether an optimizer's weight decay applies to a variable."""
    return optimizer._use_weight_decay(variable)


def position(optimizer: Any, variable: Any) -> int:
    """Where a variable is among those that an optimizer was built with."""
    return optimizer._get_variable_index(variable)


def uncompiled(function: Any) -> Any:
    """A function that PyTorch's compiler leaves alone: it asks for numbers."""
    return torch.compiler.disable(function) if _IS_TORCH else function


def in_step(variable: Any) -> Any:
    """A number as it is now, in a step: a Python number on PyTorch, else a tensor."""
    if _IS_TORCH:
        return number(variable)
    value = variable.value if isinstance(variable, keras.Variable) else variable
    # On TensorFlow the value is the variable, which a later assignment changes.
    return tf.identity(value) if BACKEND == "tensorflow" else value


def count_in_step(optimizer: Any) -> Any:
    """How often `apply` was called before, micro-batches included."""
    return in_step(optimizer._iterations)


def values_in_step(variables: list) -> list:
    """The values of variables as they are now, in a step."""
    return _values(variables) if BACKEND == "jax" else copies(variables)


def copies(variables: list) -> list:
    """The values of variables, in arrays of their own."""
    values = [variable.value for variable in variables]
    if BACKEND == "tensorflow":
        return [tf.identity(value) for value in values]
    if _IS_TORCH:
        return [value.detach().clone() for value in values]
    return [jnp.copy(value) for value in values]  # A step donates the variable's.


def copy(optimizer: Any, targets: list, sources: list, condition: Any = True) -> None:
    """Assigns the values of variables to others, in a step, if a condition holds."""
    if _IS_TORCH:
        if condition and targets:
            with torch.no_grad():
                torch._foreach_copy_(_values(targets), _values(sources))
        return

    def assign(target, source, condition):
        if condition is True:
            target.assign(source)
        elif BACKEND == "jax":
            target.assign(jnp.where(condition, source, target.value))
        else:
            tf.cond(condition, lambda: _assigned(target, source), lambda: True)

    _on_each(optimizer, assign, targets, sources, [condition] * len(targets))


def move(optimizer: Any, variables: list, *moves: tuple[Any, Any, Any]) -> None:
    """Adds `factor * (end - start)` to variables, in a step, for each of some moves.

    A move is a factor and lists of ends and starts, of variables or tensors; a number
    stands for a list of it.
    """
    if not variables:
        return
    columns = [
        x if isinstance(x, list) else [x] * len(variables)
        for move in moves
        for x in move
    ]
    thirds = range(0, len(columns), 3)
    if _IS_TORCH:
        with torch.no_grad():
            for i in thirds:
                factors, ends, starts = columns[i : i + 3]
                ways = torch._foreach_sub(_values(ends), _values(starts))
                torch._foreach_add_(_values(variables), ways, alpha=factors[0])
        return

    def moved(variable, *entries):
        value = ops.convert_to_tensor(variable)
        for i in thirds:
            factor, end, start = entries[i : i + 3]
            value = value + ops.cast(factor, value.dtype) * (end - start)
        variable.assign(value)

    _on_each(optimizer, moved, variables, *columns)


def _values(variables):
    return [v.value if isinstance(v, keras.Variable) else v for v in variables]


def _assigned(target, source):
    target.assign(source)
    return True


def _on_each(optimizer, function, variables, *lists):
    """Calls `function(variable, *entries)`; on the replicas of a strategy, too."""
    columns = [_values(one) for one in lists]
    if BACKEND == "jax":
        for variable, *entries in zip(variables, *columns, strict=True):
            function(variable, *entries)
        return

    def call(distribution, variables, *columns):
        for variable, *entries in zip(variables, *columns, strict=True):
            distribution.extended.update(variable, function, args=entries, group=False)

    # As Keras's optimizers do it.
    tf.__internal__.distribute.interim.maybe_merge_call(
        call, optimizer._distribution_strategy, _values(variables), *columns
    )


# --- A pass over data in which batch normalization alone trains -----------------------


def batch_norms(model: Any) -> list:
    """The layers of batch normalization that are not frozen, however deep."""
    return [
        layer
        for layer in layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def inputs(data: Any, batch_size: int | None, steps: int | None) -> Iterator:
    """The inputs of a model, batch by batch, from whatever `fit` takes."""
    adapter = data_adapters.get_data_adapter(data, batch_size=batch_size)
    adapter.on_epoch_begin()
    try:
        for batch in itertools.islice(adapter.get_numpy_iterator(), steps):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            yield keras.tree.map_structure(ops.convert_to_tensor, x)
    finally:
        adapter.on_epoch_end()


@contextlib.contextmanager
def batch_statistics(model: Any, layers: list) -> Iterator:
    """Gives a function that runs a model and returns what its layers saw.

    For a batch of inputs it returns, by a layer's index, a list of what `_moments`
    gives for every call of the layer. All layers are as they were when the block is
    left.
    """
    seen: dict[int, list] = {}
    state = [v for layer in layers for v in layer.non_trainable_variables]
    values = copies(state)

    def watched(index, layer):
        call = layer.call

        def watched_call(inputs, *arguments, **keywords):
            moments = _moments(inputs, layer.axis, keywords.get("mask"))
            seen.setdefault(index, []).append(moments)
            return call(inputs, *arguments, **{**keywords, "training": True})

        return watched_call

    def forward(x):
        seen.clear()
        model(x, training=False)
        return dict(seen)

    def stateless_forward(values, x):
        mapping = zip(model.variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(mapping)):
            return forward(x)

    function = forward
    if _IS_TORCH:
        function = torch.no_grad()(forward)
    elif BACKEND == "tensorflow" and not model.run_eagerly:
        function = tf.function(forward, reduce_retracing=True)
    elif BACKEND == "jax" and not model.run_eagerly:
        compiled = jax.jit(stateless_forward)
        function = functools.partial(compiled, _values(model.variables))
    try:
        for index, layer in enumerate(layers):
            vars(layer)["call"] = watched(index, layer)
        yield lambda x: keras.tree.map_structure(ops.convert_to_numpy, function(x))
    finally:
        for layer in layers:
            vars(layer).pop("call", None)
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)


def _moments(inputs, axis, mask):
    """A point near the mean over all axes but one; by how much the mean is above it.

    Then the mean squared distance from the point, and the number of elements. Keras's
    own variance is `E[x^2] - E[x]^2` on PyTorch, of which far from 0 little is left.
    """
    shape = ops.shape(inputs)
    others = [i for i in range(len(shape)) if i != axis % len(shape)]
    inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    if mask is None:
        mask = ops.ones_like(inputs, dtype="bool")
    else:
        mask = ops.broadcast_to(ops.expand_dims(mask, -1), shape)
    count = ops.sum(ops.cast(mask, inputs.dtype), others, keepdims=True)

    def mean(x):
        return ops.sum(ops.where(mask, x, 0.0), others, keepdims=True) / ops.maximum(
            count, 1.0
        )

    point = mean(inputs)
    ways = inputs - point
    found = (point, mean(ways), mean(ops.square(ways)), count)
    return tuple(ops.squeeze(one, others) for one in found)


# --- The norms of gradients -----------------------------------------------------------


class GradientNorms:
    """The norms of an optimizer's last gradients: computed in its step, read later."""

    def __init__(self, model: Any, drive: Drive):
        self.optimizer, self.accumulated = drive.optimizer, drive.accumulated
        assert drive.norms is not None
        self.every, self.order = drive.norms
        self._apply_gradients = self.optimizer._backend_apply_gradients
        self.size = max(4096, 2 * model.steps_per_execution)
        # The update `every * k` is at the place `k % size`.
        self.table = Live(model, np.zeros(self.size), "float32")
        self.seen: dict[int, Any] = {}  # On PyTorch: the tensors, by update.

    def apply_gradients(self, count: Any, grads: list, variables: list) -> None:
        """Keras's method that clips, accumulates and updates; sees what it is given.

        The gradients it is given are free of None and of a scaling of the loss.
        """
        update = count // self.accumulated
        if _IS_TORCH:
            # The last micro-batch of an update has the last word.
            if update % self.every == 0:
                self.seen[update] = self._norm(grads, variables)
        else:
            here = numerics.maximum(update, 0) // self.every % self.size
            here = ops.equal(ops.arange(self.size), ops.cast(here, "int32"))
            here = ops.logical_and(here, update % self.every == 0)
            norm = self._norm(grads, variables)
            self.table.variable.assign(ops.where(here, norm, self.table.value))
        self._apply_gradients(grads, variables)

    def _norm(self, grads, variables):
        optimizer = self.optimizer
        # Gradients of embeddings are sparse, and may name a row twice.
        dense = tf.convert_to_tensor if BACKEND == "tensorflow" else _dense
        grads = [dense(grad) for grad in grads]
        if self.accumulated > 1:
            index = optimizer._get_variable_index
            sums = [optimizer._accumulated_gradients[index(v)] for v in variables]
            grads = [
                (g + s) / self.accumulated for g, s in zip(grads, sums, strict=True)
            ]
        if (
            BACKEND == "tensorflow"
            and tf.distribute.get_strategy().num_replicas_in_sync > 1
        ):
            pairs = list(zip(grads, variables, strict=True))
            grads = [grad for grad, _ in optimizer._all_reduce_sum_gradients(pairs)]
        # The squares of 16 bits would overflow.
        grads = [ops.cast(grad, "float32") for grad in grads]
        if _IS_TORCH:
            return torch.nn.utils.get_total_norm(grads, self.order).detach()
        if self.order == 1:
            return sum(ops.sum(ops.abs(grad)) for grad in grads)
        return ops.sqrt(sum(ops.sum(ops.square(grad)) for grad in grads))

    def take(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The updates seen from `first` up to `end`, at most `size`; their norms."""
        updates = np.arange(-(-first // self.every) * self.every, end, self.every)
        if _IS_TORCH:
            norms = [self.seen[update] for update in updates.tolist()]
            self.seen.clear()
            values = ops.convert_to_numpy(torch.stack(norms)) if norms else np.zeros(0)
        elif BACKEND == "jax" and self.table.array.is_deleted():
            return updates[:0], np.zeros(0)  # A step broke off that had taken it.
        else:
            jax_array = BACKEND == "jax"
            table = self.table.array if jax_array else self.table.variable.value
            values = ops.convert_to_numpy(table)[updates // self.every % self.size]
        return updates, np.asarray(values, np.float64)


def _dense(gradient):
    return ops.convert_to_tensor(gradient, sparse=False)


# --- A train function that drives optimizers ------------------------------------------


class Owner(Protocol):
    """Whose train function it is: a run of `model.fit`."""

    model: Any

    @property
    def every_step(self) -> bool:
        """Whether variables may be read within an epoch, in `step_ends`."""

    @property
    def fresh_metrics(self) -> bool:
        """Whether the metrics begin anew in every step."""

    def is_over(self) -> bool:
        """Whether another training has begun."""

    def step_ends(self, logs: Any) -> None:
        """After every execution."""

    def close(self) -> None:
        """Whatever broke the training off."""


@dataclasses.dataclass
class Skip:
    """Batches of an epoch on which a training that goes on has been trained.

    Args:
        batches: How many are still to be taken from the data.
        metrics: The values of the metrics' variables after them.
        logs: What the step after them would have returned, but for the values.
        over: Called when the last one has been taken.
    """

    batches: int
    metrics: list[np.ndarray]
    logs: dict[str, float]
    over: Callable[[], None]

    def failed(self) -> ValueError:
        """What to raise when the data is over first."""
        return ValueError(
            f"The data ended {self.batches} batches before the one with which this "
            "training goes on. It is not the data that it began with."
        )


class TrainFunction:
    """What stands in the place of `model.train_function` from `install` to `remove`."""

    def __init__(self, owner: Owner, drives: list[Drive]):
        self.owner = owner
        self.model = owner.model
        self.plain = self.model.train_function
        self.function, self.driven = _compiled(self.model, drives)
        self._executed = self._checked = False
        self._jax_variables: Any = None
        self._jax_weights: Any = None
        self._jax_metrics: Any = None
        self._jax_metrics_now: Any = None
        self.skip: Skip | None = None

    def install(self) -> None:
        """Takes the model's place for it."""
        self.model.train_function = self
        averaged = any(driven.drive.averaging is not None for driven in self.driven)
        if BACKEND == "jax" or averaged:
            # JAX's `fit` calls it in a `finally`, after writing its state back into the
            # variables; what is put back before is lost.
            outer = self.model.optimizer
            finalize = outer.finalize_variable_values

            def finalize_variable_values(variables):
                if BACKEND == "jax":
                    self.owner.close()
                if not averaged:  # Else `use_ema` is ours; which weights stay, too.
                    finalize(variables)

            vars(outer)["finalize_variable_values"] = finalize_variable_values

    def remove(self) -> None:
        """Gives the model its own back."""
        self._jax_variables = self._jax_weights = None
        for driven in self.driven:
            driven.end()
        if self.model.train_function is self:
            self.model.train_function = self.plain
        vars(self.model.optimizer).pop("finalize_variable_values", None)

    def begin_epoch(self) -> None:
        """Notes that JAX's `fit` has written its state into the variables."""
        self._jax_variables = self._jax_weights = None
        for driven in self.driven:
            driven.iterations = iterations(driven.optimizer)

    def end_epoch(self) -> None:
        """Does so, too; and sees whether schedules had an effect."""
        self._jax_variables = self._jax_weights = None
        if self.skip is not None:  # PyTorch's loop has found the end of the data.
            raise self.skip.failed()
        if not self._checked and self._executed:
            self._check()

    def count(self, optimizer: Any) -> int:
        """`iterations`, also within an epoch."""
        return int(self.read(optimizer._iterations))

    def read(self, variable: Any) -> float:
        """The value of an optimizer's variable, also within an epoch."""
        if self._jax_variables is None:
            return number(variable)
        # There the values are in the state that `fit` hands from step to step.
        return self._jax_variables[_index(self.model.optimizer, variable)].item()

    def copied_weights(self) -> "WeightsFile":
        """`copied_weights` of the model, also within an epoch."""
        return copied_weights(self.model, self._jax_weights)

    def values_of(self, variables: list) -> list[np.ndarray]:
        """`values_of` variables of the model, also within an epoch."""
        if self._jax_variables is None:
            return values_of(variables)
        model, (trainable, non_trainable) = self.model, self._jax_weights
        values = {
            id(variable): array
            for variables, arrays in (
                (model.trainable_variables, trainable),
                (model.non_trainable_variables, non_trainable),
                (model.optimizer.variables, self._jax_variables),
                (model.metrics_variables, self._jax_metrics_now),
            )
            for variable, array in zip(variables, arrays, strict=True)
        }
        # Copies: the next step is given these arrays, and overwrites them.
        return [np.array(ops.convert_to_numpy(values[id(v)])) for v in variables]

    def __call__(self, *arguments: Any) -> Any:
        """One execution: a step, or several."""
        if self.owner.is_over():
            # It broke off outside a step, and this training has no callback of ours.
            self.owner.close()
            return self.plain(*arguments)
        try:
            if self.skip is not None:
                return self._pass_over(self.skip, arguments)
            result = self._run(arguments)
            self._executed = True
            try:
                if not self._checked and self.function is not self.plain:
                    self._check()
                self.owner.step_ends(result[0] if BACKEND == "jax" else result)
            except BaseException:
                if BACKEND == "jax":
                    self._hand_over(result[1])
                raise
        except _END_OF_DATA:
            raise
        except BaseException:
            if BACKEND != "jax":  # There `finalize_variable_values` follows.
                self.owner.close()
            elif getattr(self.model, "_jax_state", None) is None:
                self._hand_over_again(arguments[0])
            raise
        return result

    def _run(self, arguments):
        for driven in self.driven:
            driven.install()
        try:
            if BACKEND == "jax":
                return self._run_on_jax(*arguments)
            if self.owner.fresh_metrics:
                self.model.reset_metrics()
            return self.function(*arguments)
        finally:
            for driven in self.driven:
                driven.remove()

    def _run_on_jax(self, state, iterator):
        """Hands the live numbers in and out with the optimizers' variables."""
        *state, variables, metrics = state
        if self.owner.fresh_metrics:
            # `fit` has reset them before the first step; each step donates its own.
            self._jax_metrics = self._jax_metrics or [np.array(m) for m in metrics]
            metrics = [jnp.array(m) for m in self._jax_metrics]
        variables = list(variables)
        for index, live in self._places:
            variables.insert(index, live.array)
        logs, state = self.function((*state, variables, metrics), iterator)
        *state, variables, metrics = state
        variables = list(variables)
        for index, live in reversed(self._places):
            live.array = variables.pop(index)
        if self.owner.every_step:
            self._jax_variables, self._jax_weights = variables, state
            self._jax_metrics_now = metrics
        return logs, (*state, variables, metrics)

    def _pass_over(self, skip, arguments):
        """Takes the batches of an execution from the data, and trains on none."""
        wanted = min(self.model.steps_per_execution, skip.batches)
        if not _IS_TORCH:
            iterator = arguments[-1]
            if BACKEND == "tensorflow" and not _is_built(self.model, metrics=True):
                # What variables metrics have is known when they have seen a batch.
                self.model._symbolic_build(data_batch=iterator.element_spec)
            for _ in range(wanted):
                try:
                    next(iterator)
                except _END_OF_DATA as error:
                    raise skip.failed() from error
                skip.batches -= 1
        else:
            skip.batches -= wanted
        if skip.batches == 0:
            self.skip = None
            skip.over()
        if BACKEND == "jax":
            *state, _ = arguments[0]
            metrics = [jnp.array(value) for value in skip.metrics]
            return skip.logs, (*state, metrics)
        set_values_of(self.model.metrics_variables, skip.metrics)
        return self.model.get_metrics_result()

    def _hand_over(self, state):
        """Gives JAX's `fit` the state of a step that it does not get to see.

        It has taken the variables' values away, and puts back in its `finally` what it
        finds here.
        """
        names = ("trainable", "non_trainable", "optimizer", "metrics")
        self.model._jax_state = {
            f"{name}_variables": values
            for name, values in zip(names, state, strict=True)
        }

    def _hand_over_again(self, state):
        """Gives JAX's `fit` back what it began with, if its first step fails.

        While it is being traced nothing has been donated yet.
        """
        arrays = [array for part in state for array in part]
        if not any(array.is_deleted() for array in arrays):
            self._hand_over(state)

    @functools.cached_property
    def _places(self):
        """The live numbers, and where they are among the variables; when installed."""
        places = [
            (_index(self.model.optimizer, live.variable), live)
            for driven in self.driven
            for live in driven.live
        ]
        return sorted(places, key=lambda place: place[0])

    def _check(self):
        self._checked = True
        if not self.model.trainable_variables:
            return
        traced = self.function is not self.plain
        for driven in self.driven:
            # A wrapper may have skipped the first update, unless both branches were
            # traced, and may have no variables for this optimizer.
            own = driven.optimizer is self.model.optimizer
            if not driven.used and (own or (traced and driven.optimizer.built)):
                raise RuntimeError(
                    f"The training step never called `{driven.optimizer.name}.apply`: "
                    "schedules would have no effect. A custom `train_step` must update "
                    "the variables with `self.optimizer.apply` or `apply_gradients`."
                )


def _index(optimizer, variable):
    return next(i for i, other in enumerate(optimizer.variables) if other is variable)


def _compiled(model, drives):
    """A train function traced with the schedules, and the optimizers it drives.

    They are kept beside the plain train function: fits with equal schedules share one
    compilation, and `compile`, which drops the plain one, drops them.
    """
    plain = model.train_function
    cache = getattr(plain, "keras_lrs_compiled", {})
    key = tuple(drive.key for drive in drives)
    if key not in cache:
        driven = [DrivenOptimizer(model, drive) for drive in drives]
        eager = _IS_TORCH or model.run_eagerly
        function = plain if eager or not drives else _traced_anew(model, driven)
        cache = {**dict(list(cache.items())[-7:]), key: (function, driven)}
        with contextlib.suppress(AttributeError):  # A callable without attributes.
            plain.keras_lrs_compiled = cache
    function, driven = cache[key]
    for one, drive in zip(driven, drives, strict=True):
        one.begin(drive.start)
    return function, driven


def _traced_anew(model, driven):
    """A train function of its own, to be traced while the optimizers are driven."""
    attributes = vars(model)
    own = attributes.get("train_step")
    plain = model.train_function
    train_step = model.train_step
    # `jax.jit` keeps its traces by the equality of functions, and bound methods of one
    # model are equal: it would serve the plain step. A new function equals no other.
    attributes["train_step"] = lambda *arguments: train_step(*arguments)
    for one in driven:
        one.install()
    try:
        model.make_train_function(force=True)
        return model.train_function
    finally:
        model.train_function = plain
        for one in driven:
            one.remove()
        if own is None:
            del attributes["train_step"]
        else:
            attributes["train_step"] = own


# --- All weights of a model, and their files ------------------------------------------


class WeightsFile:
    """What a `.weights.h5` of Keras holds: arrays in the host's memory.

    A model writes itself into it, as into a file; that it is one later needs no model.
    """

    def __init__(self) -> None:
        self._groups: list[tuple[str, Any, _Group]] = []

    def content(self) -> memoryview:
        """The bytes of the file."""
        buffer = io.BytesIO()
        self.write(buffer)
        return buffer.getbuffer()

    def write(self, path: Any) -> None:
        """Writes the file as Keras would, without another copy; also in a thread."""
        with h5py.File(path, "w") as file:
            for place, metadata, group in self._groups:
                if not metadata and not group:
                    continue
                found = file.require_group(f"{place}/vars".lstrip("/"))
                found.attrs.update(metadata or {})
                for key, array in group.items():
                    dataset = found.create_dataset(key, data=array)
                    if array.dtype.name == "bfloat16":  # Which HDF5 does not know.
                        dataset.attrs["dtype"] = "bfloat16"

    def make(self, path: str, metadata: Any = None) -> "_Group":
        """The place for the variables of a layer; as `H5IOStore.make`."""
        group = _Group()
        self._groups.append((path, metadata, group))
        return group


class _Group(dict):
    def __setitem__(self, key, value):
        value = value.value if isinstance(value, keras.Variable) else value
        array = ops.convert_to_numpy(value)
        # Never the memory that the next step overwrites, which it may be on a CPU.
        super().__setitem__(key, array if array.flags.owndata else array.copy())


class _Recorder(saving_lib.H5IOStore):
    """What `_save_state`, which asks for the class, takes for an open file."""

    def __init__(self, file):
        self.make = file.make

    def __bool__(self):
        return True


def copied_weights(model: Any, state: Any = None) -> WeightsFile:
    """A copy of all that a model's weights file holds, without the optimizer.

    Args:
        model: A built model.
        state: On JAX, the values of the trainable and of the other variables, where
            they are not in the variables.
    """
    file = WeightsFile()
    scope: Any = contextlib.nullcontext()
    if state is not None:
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        values = [value for values in state for value in values]
        scope = keras.StatelessScope(list(zip(variables, values, strict=True)))
    with scope:
        saving_lib._save_state(
            model, _Recorder(file), None, "", {id(o) for o in _not_weights(model)}
        )
    return file


def loaded_weights(model: Any, content: Any) -> list[np.ndarray]:
    """The values that a weights file has for `model.variables`; the model keeps its.

    Args:
        model: A built model.
        content: The bytes of the file.

    Raises:
        ValueError: If the file is that of another model.
    """
    store = saving_lib.H5IOStore(io.BytesIO(content), mode="r")
    failed: set[int] = set()
    errors: dict[int, Any] = {}
    # In this scope an assignment changes the scope and not the variable.
    with keras.StatelessScope() as scope:
        saving_lib._load_state(
            model,
            store,
            None,
            "",
            visited_saveables={id(o) for o in _not_weights(model)},
            failed_saveables=failed,
            error_msgs=errors,
        )
    store.close()
    if failed:
        saving_lib._raise_loading_failure(errors)
    for variable in model.weights:
        if scope.get_current_value(variable) is None:
            raise ValueError(f"There is no value for `{variable.path}`.")
    # The states of random generators are variables but not in the file.
    with scope:
        return [np.array(ops.convert_to_numpy(v.value)) for v in model.variables]


def set_weights(model: Any, values: list) -> None:
    """Assigns values to `model.variables`."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def _not_weights(model):
    """What is saved beside the weights of a compiled model."""
    kinds = (keras.Optimizer, keras.Metric, keras.Loss)
    own = [value for value in vars(model).values() if isinstance(value, kinds)]
    return [*own, *model.metrics]


def is_chief(model: Any) -> bool:
    """Whether this process is the one that writes files in a distributed training."""
    if BACKEND == "tensorflow":
        strategy = getattr(model, "_distribute_strategy", None)
        return strategy is None or strategy.extended.should_checkpoint
    if BACKEND == "jax":
        return jax.process_index() == 0
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return True


# --- Predicting with other weights ----------------------------------------------------

# Scopes may be entered again where they hold values; elsewhere they hold the symbols of
# one trace.
KEEPS_SCOPES = _IS_TORCH
_MOST_FUSED = 256  # Variables in one compiled step; more take minutes to compile.


def ignores_scopes(model: Any) -> bool:
    """Whether `StatelessScope` cannot give a model other weights in `predict`.

    PyTorch's own modules use their parameters and not Keras's variables; and what a
    `predict_step` of the user's does, only its `predict` knows.
    """
    own_step = type(model).predict_step is not keras.Model.predict_step
    wrapper = keras.layers.TorchModuleWrapper
    return own_step or any(isinstance(x, wrapper) for x in model._flatten_layers())


def compile_arguments(model: Any) -> dict[str, Any]:
    """The loss and metrics that a model was compiled with."""
    arguments = model._compile_config.config
    names = ("loss", "loss_weights", "metrics", "weighted_metrics")
    return {name: arguments[name] for name in names}


def jax_predict_function(joint: Any, has_convolutions: bool) -> Any:
    """A `predict_function` for JAX that leaves the weights where they are.

    Keras's would hand all of them in and out of every step.

    Args:
        joint: A model with `member_variables` (a list per member). `outputs_with` is a
            function of the values of such a list and the inputs; `combine` makes one
            output of those of the members and the values of `shares`.
        has_convolutions: These XLA compiles for a CPU such that several in one program
            are slower than one after the other.
    """
    variables = joint.non_trainable_variables
    places = {id(variable): index for index, variable in enumerate(variables)}
    members = [[places[id(v)] for v in found] for found in joint.member_variables]
    on_cpu = jax.default_backend() == "cpu"
    one_by_one = (has_convolutions and on_cpu) or len(variables) > _MOST_FUSED
    forward: Any = jax.jit(joint.outputs_with) if one_by_one else joint.outputs_with
    share = places[id(joint.shares)]

    def outputs(values, inputs):
        found = [forward([values[i] for i in member], inputs) for member in members]
        return joint.combine(found, values[share])

    function = outputs if one_by_one else jax.jit(outputs)

    def predict_function(state, iterator):
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(next(iterator))
        return function(state[1], inputs), state

    return predict_function


# --- The state of a training ----------------------------------------------------------

# What `fit` sets on a model, besides variables.
_ATTRIBUTES = (
    "history",
    "stop_training",
    "train_function",
    "steps_per_execution",
    "_initial_epoch",
    "_eval_epoch_iterator",
)


class Surface:
    """What a model's `fit` changes before it trains: attributes and metrics.

    And random numbers, if `fit` is not going to draw any to build the model.
    """

    def __init__(self, model: Any):
        self.model = model
        self.random = random_state() if _is_built(model) else None
        own = vars(model)
        self.attributes = {name: own[name] for name in _ATTRIBUTES if name in own}
        self.metrics = _copies(model.metrics_variables)

    def restore(self) -> None:
        """Puts them back, and takes away what was not there."""
        # Metrics that were built meanwhile have no value to go back to.
        self.model.reset_metrics()
        for variable, value in self.metrics:
            variable.assign(value)
        own = vars(self.model)
        for name in _ATTRIBUTES:
            own.pop(name, None)
        own.update(self.attributes)
        if self.random is not None:
            set_random_state(self.random)


class State:
    """What training changes: variables and generators of random numbers.

    The values are copied to the host. The model must be built; its optimizer is built.
    """

    def __init__(self, model: Any):
        build_optimizer(model)
        self.model = model
        self.values = _copies(state_variables(model))
        self.buffers = buffer_values(model)
        self.random = random_state()

    def restore(self) -> None:
        """Puts everything back, bit for bit."""
        for variable, value in self.values:
            variable.assign(value)
        set_buffers(self.model, self.buffers)
        set_random_state(self.random)


def buffer_values(model: Any) -> list[np.ndarray]:
    """Copies of the buffers of PyTorch's modules in a model: they are no variables."""
    return [ops.convert_to_numpy(buffer).copy() for buffer in _buffers(model)]


def set_buffers(model: Any, values: list[np.ndarray]) -> None:
    """Gives them back what they were."""
    for buffer, value in zip(_buffers(model), values, strict=True):
        buffer.copy_(torch.as_tensor(value))


def _buffers(model):
    layers = model._flatten_layers() if _IS_TORCH else []
    return list({id(b): b for layer in layers for b in layer.buffers()}.values())


def state_variables(model: Any) -> list:
    """All variables of a model and its optimizers, each once; not those of metrics."""
    found = [*model.variables, *model.optimizer.variables]
    for optimizer in leaves(model.optimizer):
        found += optimizer.variables
    return list({id(variable): variable for variable in found}.values())


def _is_built(model, metrics=False):
    """Whether a first `fit` finds everything that it would build with a batch.

    On TensorFlow it builds metrics in the first step; `metrics` asks for them, too.
    """
    parts = list(model._flatten_layers())
    if metrics or BACKEND != "tensorflow" or model._distribute_strategy is not None:
        parts += [model._compile_metrics, model._compile_loss]
    return all(part is None or part.built for part in parts)


def shapes(variables: list) -> list[list]:
    """The shapes of variables, and their types."""
    return [[list(variable.shape), variable.dtype] for variable in variables]


def values_of(variables: list) -> list[np.ndarray]:
    """Copies of all that variables hold, which is more than one array on replicas."""
    return [value for _, value in _copies(variables)]


def set_values_of(variables: list, values: list[np.ndarray]) -> None:
    """Gives variables back what `values_of` them was."""
    for holder, value in zip(_holders(variables), values, strict=True):
        holder.assign(value)


def _holders(variables):
    """What holds the values: variables, or their replicas where these may differ."""
    holders = []
    for variable in variables:
        value = variable._value
        if BACKEND == "tensorflow" and isinstance(
            value, tf.distribute.DistributedValues
        ):
            # Of a metric every replica has its own.
            holders += value.values
        else:
            holders.append(variable)
    return holders


def _copies(variables):
    """Pairs of what holds a value and the value."""
    # Without a copy NumPy may look at memory that the training goes on using.
    return [
        (holder, np.array(ops.convert_to_numpy(holder)))
        for holder in _holders(variables)
    ]


@contextlib.contextmanager
def built_first(model: Any):
    """Within it, TensorFlow's `fit` builds a model before it calls any callback.

    As it does on JAX and PyTorch, and under a strategy on TensorFlow: otherwise the
    first step builds it, too late to remember what it began with.
    """
    if BACKEND != "tensorflow" or model._distribute_strategy is not None:
        yield
        return

    def build(iterator=None, data_batch=None):
        if _is_built(model):
            return
        for _, _, batches in iterator:
            data_batch = batches.element_spec  # None of the data is used up.
            break
        model._symbolic_build(data_batch=data_batch)

    vars(model)["_maybe_symbolic_build"] = build
    try:
        yield
    finally:
        del vars(model)["_maybe_symbolic_build"]


def random_state() -> dict[str, Any]:
    """The state of all global generators of random numbers: numbers and arrays."""
    from keras.src.backend.common import global_state

    # Asking Keras for its generator would create it, with a number drawn from Python's.
    generator = global_state.get_global_attribute(_KERAS_GENERATOR)
    state = {
        "python": list(random.getstate()),
        # Data pipelines that shuffle or augment with NumPy use its global generator.
        "numpy": list(np.random.get_state()),  # noqa: NPY002
        "keras": None if generator is None else values([generator.state])[0],
    }
    # Pipelines of either may feed any backend.
    if "torch" in sys.modules:
        state["torch"] = _torch_random_state(sys.modules["torch"])
    if "tensorflow" in sys.modules:
        state["tensorflow"] = _tensorflow_random_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Puts the global generators back to what `random_state` returned.

    Also in another process, and when it has been through JSON.
    """
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    if state["keras"] is None:
        global_state.set_global_attribute(_KERAS_GENERATOR, None)
    else:
        assign([seed_generator.global_seed_generator().state], [state["keras"]])
    if "torch" in sys.modules and "torch" in state:
        _set_torch_random_state(sys.modules["torch"], state["torch"])
    if "tensorflow" in sys.modules and "tensorflow" in state:
        _set_tensorflow_random_state(state["tensorflow"])


_KERAS_GENERATOR = "global_seed_generator"


def _torch_random_state(torch):
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "cpu": torch.get_rng_state().numpy().copy(),
        "cuda": [device.numpy().copy() for device in devices],
    }


def _set_torch_random_state(torch, state):
    torch.set_rng_state(torch.from_numpy(state["cpu"]))
    if state["cuda"]:
        torch.cuda.set_rng_state_all([torch.from_numpy(s) for s in state["cuda"]])


def _tensorflow_random_state():
    from tensorflow.python.eager import context
    from tensorflow.python.ops import stateful_random_ops

    eager = context.context()
    # Draws the seeds of eager operations; made by `tf.random.set_seed`.
    seeds = getattr(eager, "_rng", None)
    generator = stateful_random_ops.global_generator
    return {
        "seed": getattr(eager, "_seed", None),
        "seeds": None if seeds is None else list(seeds.getstate()),
        "generator": None if generator is None else generator.state.numpy(),
    }


def _set_tensorflow_random_state(state):
    from tensorflow.python.eager import context
    from tensorflow.python.ops import stateful_random_ops

    eager = context.context()
    if state["seeds"] is not None:
        if getattr(eager, "_rng", None) is None or eager._seed != state["seed"]:
            eager._set_global_seed(state["seed"])
        version, numbers, gauss = state["seeds"]
        seeds = (version, tuple(numbers), gauss)
        if eager._rng.getstate() != seeds:
            eager._rng.setstate(seeds)
            # Every operation keeps a state of its own: one that is given the same seed
            # once more would go on where the first one ended.
            eager.clear_kernel_cache()
    if state["generator"] is None:
        stateful_random_ops.global_generator = None
    else:
        stateful_random_ops.get_global_generator().state.assign(state["generator"])


# --- What a training that goes on is given --------------------------------------------

# What Keras's callbacks remember from epoch to epoch; some of it is private.
_REMEMBERED: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        *("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        *("best", "_current_epoch", "_last_batch_seen"),
        "_batches_seen_since_last_saving",
    ),
    keras.callbacks.History: ("epoch", "history"),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
}


def remembered(callback: Any) -> dict[str, Any] | None:
    """What one of Keras's callbacks remembers; None if it is none that does."""
    for kind, names in _REMEMBERED.items():
        if isinstance(callback, kind):
            own = vars(callback)
            return {name: own[name] for name in names if name in own}
    return None


def begin_at(model: Any, epoch: int | None) -> None:
    """Lets the `fit` that calls `on_train_begin` begin with an epoch; None: its own."""
    model._initial_epoch = epoch


def first_epoch(model: Any) -> int:
    """The epoch that a callback has let `fit` begin at; 0 if none has."""
    return model._initial_epoch or 0


def products(optimizers: list) -> list[dict[str, tuple[int, float]]]:
    """The products of the betas up to the last fit, and after how many updates."""
    return [dict(_products_so_far.get(optimizer, {})) for optimizer in optimizers]


def set_products(optimizers: list, products: list[dict]) -> None:
    """Gives optimizers what `products` returned."""
    for optimizer, found in zip(optimizers, products, strict=True):
        so_far = {name: (count, value) for name, (count, value) in found.items()}
        _products_so_far[optimizer] = so_far


def not_to_be_read_again() -> str | None:
    """Why the data of the calling `fit` cannot be read again in the same order.

    None if an epoch, begun with the same state of the random generators, has the same
    batches: the first one is read twice.
    """
    iterator = _epoch_iterator()
    if iterator is None:
        return "is not known"
    adapter = iterator.data_adapter
    if iterator.steps_per_epoch is not None:
        return "is read on and on with `steps_per_epoch`"
    if isinstance(adapter, data_adapters.GeneratorDataAdapter):
        return "is a generator"
    dataset = getattr(adapter, "py_dataset", None)
    if dataset is not None and adapter.enqueuer is not None and adapter.shuffle:
        return "is shuffled by threads, at moments of their own"
    state = random_state()
    batches = []
    for _ in range(2):
        # The threads of a `PyDataset` begin with an epoch, and read in order.
        data = iterator._get_iterator() if dataset is None else (dataset[0],)
        # As bytes: there may be NaN among them.
        batches.append(
            [_array(leaf).tobytes() for leaf in _leaves(next(iter(data), None))]
        )
        set_random_state(state)
    if batches[0] == batches[1]:
        return None
    reason = "comes in another order, or altered, every time"
    arrays = isinstance(adapter, data_adapters.ArrayDataAdapter)
    if arrays and BACKEND == "tensorflow" and state["tensorflow"]["seed"] is None:
        # TensorFlow draws a new seed for each order that it shuffles arrays in.
        reason += " (unless you call `keras.utils.set_random_seed(...)` before `fit`)"
    return reason


def _epoch_iterator():
    """What gives the `fit` that is calling its batches."""
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals.get("epoch_iterator")
        if isinstance(found, epoch_iterator.EpochIterator):
            return found
        frame = frame.f_back
    return None


def _leaves(batch):
    return [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]


def _array(leaf):
    # A strategy's batch has a part for each replica.
    parts = getattr(leaf, "values", None) if BACKEND == "tensorflow" else None
    if isinstance(parts, tuple):
        return np.concatenate([ops.convert_to_numpy(part) for part in parts])
    return np.asarray(ops.convert_to_numpy(leaf))
