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
import sys
import weakref
from typing import Any, Protocol

import h5py
import keras
import numpy as np
from keras import ops
from keras.src.saving import saving_lib

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
    """

    optimizer: Any
    schedules: dict[str, Any]
    scaled: bool
    momentum_correction: bool
    start: int

    @property
    def accumulated(self) -> int:
        """How many micro-batches make an update."""
        return self.optimizer.gradient_accumulation_steps or 1

    @property
    def own(self) -> dict[str, Any]:
        """What the optimizer holds where the schedules' values are put."""
        attributes = vars(self.optimizer)
        names = ("_learning_rate", *self.schedules)
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
        # On PyTorch the schedules are Python, which its compiler must not trace.
        self._patch = torch.compiler.disable(self.apply) if _IS_TORCH else self.apply
        # A variable that an optimizer does not list is a constant in a JAX step.
        factor = [self.factor] if drive.scaled else []
        live = [self.start, *factor, *self._before.values()]
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
        with _after(grads):
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
        if rate is not None:
            if self.drive.scaled:
                rate = rate * self.factor.value
            variable = optimizer._learning_rate
            if self.drive.momentum_correction:
                _scale(optimizer, optimizer.momentums, _ratio(rate, variable, step))
            _assign(variable, rate)
        elif self.drive.scaled:
            # What is neither schedule nor variable is handed on as it is.
            rate = _evaluate(self._own["_learning_rate"], count) * self.factor.value
            place["_learning_rate"] = rate
        if self._products:
            place["_backend_update_step"] = functools.partial(
                self._corrected_update_step, values, count
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
        if _IS_TORCH and len(grads) > 0:  # As Keras counts.
            self.iterations += 1

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


def _after(gradients):
    """Makes a TensorFlow graph compute what is inside after the gradients."""
    if BACKEND != "tensorflow" or tf.executing_eagerly():
        return contextlib.nullcontext()
    known = [g for g in gradients if g is not None][:1]
    return tf.control_dependencies([getattr(g, "values", g) for g in known])


def _put_back(attributes, name, value):
    """The optimizer's own entry; none where a method of its class was covered."""
    if value is None and name in ("apply", "_backend_update_step"):
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


# --- A train function that drives optimizers ------------------------------------------


class Owner(Protocol):
    """Whose train function it is: a run of `model.fit`."""

    model: Any

    @property
    def every_step(self) -> bool:
        """Whether variables may be read within an epoch, in `step_ends`."""

    def is_over(self) -> bool:
        """Whether another training has begun."""

    def step_ends(self, logs: Any) -> None:
        """After every execution."""

    def close(self) -> None:
        """Whatever broke the training off."""


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

    def install(self) -> None:
        """Takes the model's place for it."""
        self.model.train_function = self
        if BACKEND == "jax":
            # JAX's `fit` calls it in a `finally`, after writing its state back into the
            # variables; what is put back before is lost.
            outer = self.model.optimizer
            finalize = outer.finalize_variable_values

            def finalize_variable_values(variables):
                self.owner.close()
                finalize(variables)

            vars(outer)["finalize_variable_values"] = finalize_variable_values

    def remove(self) -> None:
        """Gives the model its own back."""
        self._jax_variables = self._jax_weights = None
        for driven in self.driven:
            driven.end()
        if self.model.train_function is self:
            self.model.train_function = self.plain
        if BACKEND == "jax":
            vars(self.model.optimizer).pop("finalize_variable_values", None)

    def begin_epoch(self) -> None:
        """Notes that JAX's `fit` has written its state into the variables."""
        self._jax_variables = self._jax_weights = None
        for driven in self.driven:
            driven.iterations = iterations(driven.optimizer)

    def end_epoch(self) -> None:
        """Does so, too; and sees whether schedules had an effect."""
        self._jax_variables = self._jax_weights = None
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

    def __call__(self, *arguments: Any) -> Any:
        """One execution: a step, or several."""
        if self.owner.is_over():
            # It broke off outside a step, and this training has no callback of ours.
            self.owner.close()
            return self.plain(*arguments)
        try:
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
            raise
        return result

    def _run(self, arguments):
        for driven in self.driven:
            driven.install()
        try:
            if BACKEND == "jax":
                return self._run_on_jax(*arguments)
            return self.function(*arguments)
        finally:
            for driven in self.driven:
                driven.remove()

    def _run_on_jax(self, state, iterator):
        """Hands the live numbers in and out with the optimizers' variables."""
        *state, variables, metrics = state
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
        return logs, (*state, variables, metrics)

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
