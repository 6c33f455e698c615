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
import itertools
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops
from keras.src.trainers import data_adapters

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


# --- Values inside the step -----------------------------------------------------------


class Live:
    """A number that the step reads and the host changes between steps.

    A variable on TensorFlow and JAX, so that a compiled step serves later fits.
    """

    def __init__(self, model: Any, value: Any, dtype: str):
        self.host = value
        if _IS_TORCH:
            return
        # The public property gives TensorFlow's default strategy, which has no scope.
        strategy = getattr(model, "_distribute_strategy", None)
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
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
        # The latter is there if another optimizer makes the updates.
        names = ("_learning_rate", "_backend_update_step", *self.schedules)
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


def after(gradients: Any) -> Any:
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
        for layer in model._flatten_layers()
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
        self._jax_variables = None
        for driven in self.driven:
            driven.end()
        if self.model.train_function is self:
            self.model.train_function = self.plain
        if BACKEND == "jax":
            vars(self.model.optimizer).pop("finalize_variable_values", None)

    def begin_epoch(self) -> None:
        """Notes that JAX's `fit` has written its state into the variables."""
        self._jax_variables = None
        for driven in self.driven:
            driven.iterations = iterations(driven.optimizer)

    def end_epoch(self) -> None:
        """Does so, too; and sees whether schedules had an effect."""
        self._jax_variables = None
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
            self._jax_variables = variables
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
