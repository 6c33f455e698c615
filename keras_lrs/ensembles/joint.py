"""Runs several members of an ensemble in one pass over the data."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_lrs._keras import interrupts, predict
from keras_lrs._keras.models import layers
from keras_lrs._keras.variables import strategy_scope
from keras_lrs._keras.weights import set_weights
from keras_lrs.schedules import fields

_CONVOLUTIONS = tuple(
    getattr(keras.layers, name)
    for name in dir(keras.layers)
    if "Conv" in name and "LSTM" not in name
)


class Runner:
    """Runs members, and keeps what it has compiled for the next call.

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

    def _fresh(self, found):
        """Makes losses and metrics of the same kinds, with a state of their own."""
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
            bound = "be data that can be gone through once per member, for this model"
            fields.refuse("x", bound, x, TypeError)
        original = [ops.convert_to_numpy(variable) for variable in self.model.variables]
        original = [np.array(value) for value in original]
        found = []
        with interrupts.undoing() as undo:
            undo.callback(set_weights, self.model, original)
            for index in indices:
                set_weights(self.model, self.members[index])
                outputs = self.model.predict(x, **arguments)
                found.append(tree.map_structure(self._activated, outputs))
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

    def _variables_of(self, index):
        """Returns a member's weights on the device."""
        if index not in self._variables:
            self._variables[index] = [
                keras.Variable(value, dtype=variable.dtype, trainable=False)
                for variable, value in zip(
                    self.model.variables, self.members[index], strict=True
                )
            ]
        return self._variables[index]

    @contextlib.contextmanager
    def _forgetting(self):
        """Drops everything after an exception: JAX has taken the variables' values."""
        try:
            yield
        except BaseException:
            self._variables.clear()
            self.joints.clear()
            raise


class Joint(keras.Model):
    """A model that runs several members on each batch.

    Args:
        model: The model that runs with the weights of each member in turn.
        member_variables: A list of variables per member, as `model.variables`.
        activation: A function of an output.
        averaged: Whether outputs are averaged, by `shares`, or put side by side on a
            new second axis.
    """

    def __init__(self, model, member_variables, activation, averaged):
        # Its inputs stay as they are: the model itself casts them.
        super().__init__(dtype=model.dtype_policy, autocast=False, name="joint")
        # Keras would track an attribute, but these weights are not this model's.
        self.__dict__["one"] = model
        self.__dict__["activation"] = activation
        takes_training = "training" in inspect.signature(model.call).parameters
        self.arguments = {"training": False} if takes_training else {}
        self.averaged = averaged
        count = len(member_variables)
        self.shares = self.add_weight(shape=(count,), trainable=False, dtype="float32")
        self.member_variables = member_variables
        self.built = True
        # Made here: within a symbolic call the values are symbols.
        kept = self._scopes() if predict.KEEPS_SCOPES else None
        self.__dict__["kept_scopes"] = kept
        self.predict_function: Any = None
        self.jit_compile = model.jit_compile
        self.run_eagerly = model.run_eagerly

    def call(self, inputs):
        """Runs every member and combines their outputs."""
        scopes = self.kept_scopes or self._scopes()
        found = [self.outputs_in(scope, inputs) for scope in scopes]
        return self.combine(found, self.shares.value)

    def _scopes(self):
        return [
            self._scope([variable.value for variable in variables])
            for variables in self.member_variables
        ]

    def _scope(self, values):
        return keras.StatelessScope(list(zip(self.one.variables, values, strict=True)))

    def outputs_with(self, values, inputs):
        """Returns the outputs of the model with other weights."""
        return self.outputs_in(self._scope(values), inputs)

    def outputs_in(self, scope, inputs):
        """Returns the outputs in a scope where the variables have other values."""
        with scope:
            outputs = self.one(inputs, **self.arguments)
        return tree.map_structure(self.activation, outputs)

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
    """The type in which a mean is calculated: float32, or float64 for float64."""
    return (
        "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"
    )


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
