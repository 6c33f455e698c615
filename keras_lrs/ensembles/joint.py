"""Runs several members of an ensemble in one pass over the data."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_lrs._keras import adapted, interrupts, predict, random
from keras_lrs._keras.models import layers, recurrent_states
from keras_lrs._keras.variables import read, strategy_scope
from keras_lrs.ensembles import evaluation
from keras_lrs.schedules import fields

_CONVOLUTIONS = tuple(
    getattr(keras.layers, name)
    for name in dir(keras.layers)
    if "Conv" in name and "LSTM" not in name
)


class Runner:
    """Runs members, and keeps compiled functions for the next call.

    Args:
        model: The model, which keeps its weights.
        members: The weights of each member, as `model.variables`.
        activation: A function of an output, or None.
    """

    def __init__(
        self,
        model: keras.Model,
        members: Sequence[list[np.ndarray]],
        activation: Callable | None,
    ):
        self.model, self.members, self.activation = model, members, activation
        self.joints: dict[Any, Joint] = {}
        self._variables: dict[int, list] = {}
        self._shared: dict[int, Any] = {}
        self._in_turn: dict[int, list] = {}

    def predict(self, x: Any, indices: tuple, shares: Any, **arguments: Any) -> Any:
        """Returns the outputs of some members.

        Args:
            x: As for `Ensemble.predict`.
            indices: The members.
            shares: Their weights in the mean; None puts the outputs side by side.
            **arguments: Of `model.predict`.
        """
        if predict.ignores_scopes(self.model):
            found = self._predict_in_turn(x, indices, arguments)
            outputs = (
                beside(found) if shares is None else mean(found, ops.array(shares))
            )
            return tree.map_structure(ops.convert_to_numpy, outputs)
        joint = self._joint(indices, averaged=shares is not None)
        if shares is not None:
            joint.shares.assign(shares)
        with self._forgetting():
            return joint.predict(x, **arguments)

    def evaluate(
        self, x: Any, y: Any, indices: tuple, shares: Any, **arguments: Any
    ) -> Any:
        """Evaluates the mean of some members.

        Args:
            x: As for `Ensemble.evaluate`.
            y: As for `Ensemble.evaluate`.
            indices: The members.
            shares: Their weights in the mean.
            **arguments: Of `model.evaluate`.
        """
        own = evaluation.own_methods(self.model)
        if own or predict.has_modules(self.model):
            return self._evaluate_by_its_own(own, x, y, indices, shares, arguments)
        joint = self._joint(indices, averaged=True)
        joint.shares.assign(shares)
        compiled_with = predict.compile_arguments(self.model)
        joint.compile(
            optimizer=None,
            jit_compile=self.model.jit_compile,
            run_eagerly=self.model.run_eagerly,
            **{name: self._fresh(value) for name, value in compiled_with.items()},
        )
        with self._forgetting():
            return joint.evaluate(x, y, **arguments)

    def _evaluate_by_its_own(self, own, x, y, indices, shares, arguments):
        """Lets the model evaluate itself, with the mean instead of its outputs."""
        if self.activation is not None:
            raise ValueError(
                "`Ensemble.evaluate` with an `activation` cannot know whether "
                f"{evaluation.described(self.model, own)} expects the outputs before "
                "or after it. Load the ensemble without `activation`, or evaluate what "
                "`predict` returns."
            )
        call = self.model.call
        if predict.has_modules(self.model):

            def mean_call(*given, **keywords):
                found = self._one_by_one(indices, lambda: call(*given, **keywords))
                return mean(found, ops.array(shares))

        else:
            # On JAX the step passes on only the model's own generators.
            members = [self._with_own_seeds(index) for index in indices]
            with strategy_scope(self.model):
                joint = Joint(self.model, members, self._activated, True)
            joint.shares.assign(shares)

            def mean_call(*given, **keywords):
                return joint.mean_of(lambda: call(*given, **keywords))

        return evaluation.evaluate(self.model, mean_call, own, x, y, arguments)

    def _with_own_seeds(self, index):
        own = {id(seed) for seed in random.seeds(self.model)}
        return [
            variable if id(variable) in own else member
            for variable, member in zip(
                held_by(self.model), self._variables_of(index), strict=True
            )
        ]

    def _fresh(self, found):
        """Makes losses and metrics of the same kinds with new state."""
        if isinstance(found, dict):
            return {name: self._fresh(value) for name, value in found.items()}
        if isinstance(found, (list, tuple)):
            return [self._fresh(value) for value in found]
        if not isinstance(found, (keras.Loss, keras.Metric)):
            return found
        config = found.get_config()
        if self.activation is not None and config.get("from_logits"):
            config["from_logits"] = False
        return type(found).from_config(config)

    def _predict_in_turn(self, x, indices, arguments):
        """Calls `model.predict` with the weights of one member after the other."""
        if isinstance(x, Iterator):
            bound = "be data that can be read once per member, for this model"
            fields.refuse("x", bound, x, TypeError)
        outputs = self._one_by_one(indices, lambda: self.model.predict(x, **arguments))
        return [tree.map_structure(self._activated, found) for found in outputs]

    def _one_by_one(self, indices, function):
        """Calls a function with the weights of one member after the other.

        Changes of the weights are kept for the member; random generators continue.
        """
        model, found = self.model, []
        shared = {id(seed) for seed in random.seeds(model)}
        held = held_by(model)
        own = [v for v in held if id(v) not in shared]
        places = [i for i, v in enumerate(held) if id(v) not in shared]
        with interrupts.undoing() as undo:
            for variable, value in zip(own, read(own), strict=True):
                undo.callback(variable.assign, value)
            for index in indices:
                values = self._in_turn.setdefault(index, self._values_of(index))
                for variable, place in zip(own, places, strict=True):
                    variable.assign(values[place])
                with adapted.kept(model):
                    adapted.finalize(model)
                    found.append(function())
                for place, value in zip(places, read(own), strict=True):
                    if not held[place].trainable:
                        values[place] = value
        return found

    def _activated(self, output):
        return output if self.activation is None else self.activation(output)

    def _joint(self, indices, averaged):
        """Returns a model that runs some members; it is made, and compiled, once."""
        key = indices, averaged
        if key not in self.joints:
            with strategy_scope(self.model):
                variables = [self._variables_of(index) for index in indices]
                self.joints[key] = Joint(
                    self.model, variables, self._activated, averaged
                )
        return self.joints[key]

    def _values_of(self, index):
        """Returns a member's values; states of recurrent layers begin at zero."""
        states = recurrent_states(self.model)
        return [*self.members[index], *(np.zeros(state.shape) for state in states)]

    def _variables_of(self, index):
        """Returns a member's weights on the device, and the seeds of all members."""
        if index not in self._variables:
            shared = {id(seed) for seed in random.seeds(self.model)}
            values = zip(held_by(self.model), self._values_of(index), strict=True)
            self._variables[index] = [
                self._shared.setdefault(id(variable), _new_variable(variable, value))
                if id(variable) in shared
                else _new_variable(variable, value)
                for variable, value in values
            ]
        return self._variables[index]

    @contextlib.contextmanager
    def _forgetting(self):
        """Drops everything after an exception: JAX has taken the variables' values."""
        try:
            yield
        except BaseException:
            self._variables.clear()
            self._shared.clear()
            self.joints.clear()
            raise


def _new_variable(variable, value):
    # Changes by a forward pass may differ between replicas, but nobody sees them.
    return keras.Variable(
        value,
        dtype=variable.dtype,
        trainable=False,
        aggregation="only_first_replica",
    )


class Joint(keras.Model):
    """A model that runs several members on each batch.

    Args:
        model: The model that runs with the weights of each member in turn.
        member_variables: A list of variables per member, in the order of
            `held_by(model)`.
        activation: A function of an output.
        averaged: Whether outputs are averaged, by `shares`, or put side by side on a
            new second axis.
    """

    def __init__(self, model, member_variables, activation, averaged):
        # The inputs are not cast here, because the model itself casts them.
        super().__init__(dtype=model.dtype_policy, autocast=False, name="joint")
        # Keras would track an attribute, but these weights are not this model's.
        self.__dict__["one"] = model
        self.__dict__["held"] = held_by(model)
        self.__dict__["activation"] = activation
        takes_training = "training" in inspect.signature(model.call).parameters
        self.arguments = {"training": False} if takes_training else {}
        self.averaged = averaged
        count = len(member_variables)
        self.shares = self.add_weight(shape=(count,), trainable=False, dtype="float32")
        self.member_variables = member_variables
        self.built = True
        # Made here, because within a symbolic call the values are symbols.
        kept = None
        if predict.KEEPS_SCOPES:
            kept = [self._scope([v.value for v in one]) for one in member_variables]
        self.__dict__["kept_scopes"] = kept
        self.predict_function: Any = None
        self.jit_compile = model.jit_compile
        self.run_eagerly = model.run_eagerly

    def call(self, inputs):
        """Runs every member and combines their outputs."""
        return self.mean_of(lambda: self.one(inputs, **self.arguments))

    def mean_of(self, forward: Callable) -> Any:
        """Combines the results of `forward()` with the weights of each member.

        The members run one after the other, like separate models. Each keeps what its
        forward pass changes, such as the states of recurrent layers. The random numbers
        of one member are followed by those of the next.
        """
        found = []
        for index, variables in enumerate(self.member_variables):
            if self.kept_scopes is None:
                scope = self._scope([variable.value for variable in variables])
            else:
                scope = self.kept_scopes[index]
            outputs, changed = self._outputs_in(scope, forward)
            for place, value in changed.items():
                variables[place].assign(value)
                if self.kept_scopes is not None:
                    scope.add_update((self.held[place], variables[place].value))
            found.append(outputs)
        return self.combine(found, self.shares.value)

    def _scope(self, values):
        return keras.StatelessScope(list(zip(self.held, values, strict=True)))

    def outputs_with(self, values, inputs):
        """Returns the model's outputs with other weights, and the changed values."""
        scope = self._scope(values)
        return self._outputs_in(scope, lambda: self.one(inputs, **self.arguments))

    def _outputs_in(self, scope, forward):
        """Returns the outputs in a scope where the variables have other values.

        Also returns the values that the forward pass changed, by the variable's place.
        """
        before = [scope.get_current_value(v) for v in self.held]
        with adapted.kept(self.one), scope:
            adapted.finalize(self.one)
            outputs = forward()
        now = [scope.get_current_value(v) for v in self.held]
        changed = {
            place: new
            for place, (old, new) in enumerate(zip(before, now, strict=True))
            if new is not old
        }
        return tree.map_structure(self.activation, outputs), changed

    def combine(self, outputs, shares):
        """Combines the outputs of the members."""
        return mean(outputs, shares) if self.averaged else beside(outputs)

    def make_predict_function(self, force=False):
        """Replaces Keras's function on JAX, where members may run one by one."""
        if keras.backend.backend() != "jax" or self.run_eagerly:
            super().make_predict_function(force)
        elif force or self.predict_function is None:
            has_convolutions = any(
                isinstance(layer, _CONVOLUTIONS) for layer in layers(self.one)
            )
            self.predict_function = predict.jax_predict_function(self, has_convolutions)


def held_by(model: keras.Model) -> list:
    """Returns the variables of a model for which members have their own values."""
    return [*model.variables, *recurrent_states(model)]


def mean(outputs: Sequence[Any], shares: Any) -> Any:
    """Returns the weighted mean of structures of tensors."""

    def weighted(*ys):
        dtype = mean_dtype(ys[0].dtype)
        return sum(
            ops.cast(shares[i], dtype) * ops.cast(y, dtype) for i, y in enumerate(ys)
        )

    return tree.map_structure(weighted, *outputs)


def beside(outputs: Sequence[Any]) -> Any:
    """Stacks structures of tensors on a new second axis."""
    return tree.map_structure(lambda *ys: ops.stack(ys, axis=1), *outputs)


def mean_dtype(dtype: Any) -> str:
    """Returns the type in which a mean is calculated: float32, or float64 for float64.

    Raises:
        ValueError: If it would be a mean of integers or booleans.
    """
    name = keras.backend.standardize_dtype(dtype)
    if "float" not in name:
        raise ValueError(
            f"An output of the model is of type {name}, as for class indices, whose "
            "mean is meaningless. Make the ensemble of a model that ends with "
            "probabilities or scores, or call `predict_members` for the outputs of "
            "each member."
        )
    return "float64" if name == "float64" else "float32"


def checked_shares(weights: Sequence[float] | None, count: int) -> np.ndarray:
    """Returns the share of each member in the mean: its weight over their sum."""
    if weights is None:
        return np.full(count, 1.0 / count)
    shares = np.array([fields.real("weights", weight) for weight in weights])
    if len(shares) != count:
        fields.refuse("weights", f"have an element per member ({count})", weights)
    if np.any(shares < 0.0) or not np.sum(shares) > 0.0:
        fields.refuse("weights", "be >= 0 and not all be 0", weights)
    return shares / np.sum(shares)
