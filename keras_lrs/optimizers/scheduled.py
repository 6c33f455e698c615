"""`Scheduled`: an optimizer with schedules of its own, for any loop."""

import copy
from typing import Any

import keras

from keras_lrs._fit.paces import Paces
from keras_lrs._fit.planning import WantedParts
from keras_lrs._fit.rates import OwnRates
from keras_lrs._keras import in_step, optimizers, variables
from keras_lrs._step import given, groups, hosted, hyperparameters
from keras_lrs._step.groups import schedules_of
from keras_lrs._step.optimizer_step import OptimizerStep
from keras_lrs.optimizers.wrapper import Wrapper, check_kind, check_new
from keras_lrs.schedules import base, fields, numerics
from keras_lrs.schedules.per_variable import PerVariable


@keras.saving.register_keras_serializable(package="keras_lrs")
class Scheduled(Wrapper):
    """Wraps any optimizer and drives its hyperparameters by schedules, in any loop.

    Use it where there is no `fit` with callbacks: in custom loops, eager or compiled,
    with JAX's `stateless_apply`, with `train_on_batch`, and for each optimizer of a
    GAN. It runs the same step as the callbacks: each schedule is evaluated once per
    step, inside the training step, and Adam's bias correction takes scheduled betas
    into account. Steps are what the optimizer has counted since it was created:
    batches, or micro-batches under gradient accumulation.

    A schedule with open lengths needs `bind` before the first update.

    `rate_factor` multiplies the learning rate. Assign what `keras_lrs.Plateau` returns
    to it. It is a variable, so nothing is compiled again.

    The optimizer is saved with the model, with its schedules and their position, and
    continues after loading. In a `fit` with callbacks of this package, its schedules
    belong to the run: `HyperparameterLogger` logs them, a `ReduceOnPlateau` multiplies
    the rate, and another schedule of the same hyperparameter raises an error. They do
    not start over with `fit`, and nothing is restored at its end. `learning_rate`,
    `momentum` and other hyperparameters show the value last used; with a `PerVariable`,
    it is the value of the variables that match no pattern. On PyTorch every update
    reads two numbers from the device.

    Args:
        optimizer: A new Keras optimizer that updates variables itself.
        learning_rate: The schedule of the learning rate, or a `PerVariable`. A number
            is a constant schedule, and None keeps the optimizer's own rate.
        rate_multipliers: The factors by which the rates of groups of variables are
            multiplied: a dictionary from patterns to numbers >= 0 or schedules, as in
            `HyperparameterScheduler`.
        name: The optimizer's name.
        **schedules: The schedules, or numbers, of other hyperparameters: `momentum`,
            `beta_1`, `weight_decay`, `clipnorm` or any other number that is an argument
            of the optimizer. `weight_decay`, `momentum`, `rho` and `epsilon` may also
            be a `PerVariable`.

    Raises:
        ValueError: If there is no schedule, if the optimizer has no such
            hyperparameter, does not use it or already has a schedule for it, if a
            schedule leaves the hyperparameter's range, or if the optimizer is itself a
            wrapper or in use. When it is built: if a pattern applies to no variable. At
            the first update: if a schedule is not bound.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.optimizers import Scheduled
        >>> from keras_lrs.schedules import LinearDecay
        >>> weight = keras.Variable([0.0])
        >>> optimizer = Scheduled(keras.optimizers.SGD(), LinearDecay(1.0))
        >>> optimizer = optimizer.bind(total_steps=4)
        >>> optimizer.build([weight])
        >>> for _ in range(4):
        ...     optimizer.apply([keras.ops.convert_to_tensor([-1.0])], [weight])
        >>> weight.numpy().tolist()  # 1 + 0.75 + 0.5 + 0.25
        [2.5]

    Reference: it wraps an optimizer in the way of Keras's `LossScaleOptimizer`.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        learning_rate: given.Value | None = None,
        *,
        rate_multipliers: given.Multipliers | None = None,
        name: str | None = None,
        **schedules: given.Value,
    ):
        check_kind(optimizer, "Scheduled")
        check_new(optimizer)
        if name is not None and not isinstance(name, str):
            fields.refuse("name", "be a string or None", name, TypeError)
        schedules = given.checked(learning_rate, rate_multipliers, schedules)
        for key, schedule in schedules.items():
            if not isinstance(schedule, PerVariable):
                beside = [other for other in schedules if other != key]
                hyperparameters.check_name(optimizer, key, beside)
            elif key != groups.MULTIPLIERS:
                groups.check_groupable(optimizer, key)
            _check_values(key, schedule, 10_000)
        source = optimizers.rate_source(optimizer)
        schedule = keras.optimizers.schedules.LearningRateSchedule
        if not isinstance(source, (keras.Variable, schedule)):
            bound = "have a learning rate that is a float or a schedule"
            fields.refuse("optimizer", bound, source)
        is_number = isinstance(source, keras.Variable)
        own = variables.number(source) if is_number else None
        first = own
        if first is None:
            first = 0.0 if base.is_open(source) else float(base.evaluate(source, 0))
        # The wrapper's own rate is the one last used.
        super().__init__(optimizer, first, name)
        # Bypasses Keras's tracking, which would wrap the dictionary.
        self.__dict__["schedules"] = schedules
        self.own_rate = own
        self.factor = hosted.HostedNumber(optimizers.rate_source(self))
        self._step: Any = None
        hosted.set_host(optimizer, self)

    # --- Schedules ---

    def bind(
        self,
        total_steps: int,
        steps_per_epoch: int | None = None,
        *,
        samples_per_step: int | None = None,
        tokens_per_step: int | None = None,
    ) -> "Scheduled":
        """Binds the open schedules, and returns the optimizer itself.

        Args:
            total_steps: The steps of the whole run, > 0.
            steps_per_epoch: The steps per epoch, > 0; needed only for `Epochs`.
            samples_per_step: The samples per step, > 0; needed only for `Samples`.
            tokens_per_step: The tokens per step, > 0; needed only for `Tokens`.

        Raises:
            ValueError: If an argument is out of range, if lengths do not fit, if a
                schedule leaves the range of its hyperparameter, or if no length is
                open.
        """
        window = base.window_of_run(
            total_steps, steps_per_epoch, samples_per_step, tokens_per_step
        )
        if not self._has_open:
            raise ValueError(
                "`bind` has nothing to bind: every length of every schedule is known. "
                f"Received: total_steps={total_steps}"
            )
        bound = {}
        for name, value in self.schedules.items():
            bound[name] = _bound(value, window)
            _check_values(name, bound[name], window.total)
        self.__dict__["schedules"] = bound
        self._make_step()
        return self

    @property
    def rate_factor(self) -> float:
        """The factor of the learning rate; it may be set between steps."""
        return self.factor.latest

    @rate_factor.setter
    def rate_factor(self, rate_factor: float) -> None:
        field = fields.number(at_least=0.0)
        value = fields.validate("rate_factor", rate_factor, field)
        iterations = optimizers.iterations(self.inner_optimizer) if self.built else 0
        if self.built:
            variables.assign(self.factor.variable, value)
        self.factor.note(value, iterations)

    @property
    def learning_rate(self) -> Any:
        """The rate last used; before the first update, the inner optimizer's rate."""
        return optimizers.rate_source(self)

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        raise ValueError(
            "Argument `learning_rate` of `Scheduled` cannot be set: its step sets the "
            "rate. Set `rate_factor`, which multiplies it. Received: "
            f"learning_rate={learning_rate!r}"
        )

    def __getattr__(self, name: str) -> Any:
        """Returns a hyperparameter of the inner optimizer: the value last used."""
        value = super().__getattr__(name)
        schedule = vars(self).get("schedules", {}).get(name)
        single = schedule is not None and not isinstance(schedule, PerVariable)
        if not single or base.is_open(schedule) or not self.built:
            return value
        used = max(optimizers.iterations(self.inner_optimizer) - 1, 0)
        return float(base.evaluate(schedule, used))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self).get("schedules", {}) and name != "learning_rate":
            raise ValueError(
                f"Argument `{name}` of `Scheduled` cannot be set: its schedule sets "
                f"it. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    # --- The step ---

    def build(self, variables: list) -> None:
        """Creates the variable of the factor, and the step."""
        if self.built:
            return
        with in_step.outside_of_graph():
            self.factor.variable = self.add_variable(
                (),
                initializer=keras.initializers.Constant(self.factor.latest),
                dtype=numerics.float_dtype(),
                aggregation="only_first_replica",
                name="rate_factor",
            )
            self.inner_optimizer.build(variables)
            super().build(variables)
            self._make_step()

    @property
    def _has_open(self):
        """Whether a schedule must be bound, including those of groups."""
        every = self.schedules.values()
        return any(base.is_open(one) for value in every for one in schedules_of(value))

    def _make_step(self):
        """Makes the step for loops outside of a `Run`, once all lengths are known."""
        if not self.built or self._has_open:
            return
        inner = self.inner_optimizer
        progress: Any = _WholeLife()
        plan = WantedParts(progress, OwnRates()).plan(None, inner)
        with optimizers.original_apply(inner):
            step = OptimizerStep(self, plan)
        step.begin(plan)
        self._step = step

    @in_step.uncompiled
    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Updates variables with the values of the schedules at this step."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
        inner = self.inner_optimizer
        if optimizers.has_other_apply(inner):
            # The step of a run, whose plan includes the schedules.
            inner.apply(grads, trainable_variables)
            return
        if self._step is None:
            hosted.check_bound(self)
        self._step.apply_anywhere(grads, trainable_variables)

    def finalize_variable_values(self, var_list: list) -> None:
        """Ends training as the inner optimizer does."""
        self.inner_optimizer.finalize_variable_values(var_list)

    # --- Files ---

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, as JSON."""
        inner = optimizers.portable_config(self.inner_optimizer)
        if self.own_rate is not None:  # The variable holds the rate last used.
            inner["config"]["learning_rate"] = self.own_rate
        schedules = {
            name: keras.saving.serialize_keras_object(schedule)
            for name, schedule in self.schedules.items()
        }
        return {"optimizer": inner, **schedules, "name": self.name}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "Scheduled":
        """Makes the optimizer whose `get_config` returned `config`."""
        config = copy.deepcopy(config)  # Keras's optimizers change their configs.
        for name, value in config.items():
            if isinstance(value, dict):
                config[name] = keras.saving.deserialize_keras_object(
                    value, custom_objects
                )
        return cls(**config)


class _WholeLife:
    """The progress of a loop that begins when the optimizer is created."""

    def __init__(self):
        self.paces = Paces()

    def start(self, optimizer):
        return 0


def _bound(value, window):
    """Returns a value with its open schedules bound."""
    if isinstance(value, PerVariable):
        pairs = ((pattern, _bound(one, window)) for pattern, one in value.values)
        return PerVariable(tuple(pairs))
    return base.bind(value, window) if base.is_open(value) else value


def _check_values(name, value, num_steps):
    """Raises if a bound schedule leaves the range of its hyperparameter."""
    grouped = isinstance(value, PerVariable)
    for one in [each for _, each in value.values] if grouped else [value]:
        if not base.is_open(one):
            hyperparameters.check_values(name, groups.as_schedule(one), num_steps)
