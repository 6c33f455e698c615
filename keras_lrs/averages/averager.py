"""`Averager`: an average of weights for any loop."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_lrs._keras import (
    anywhere,
    average_statistics,
    in_step,
    interrupts,
    models,
    scopes,
)
from keras_lrs._keras.weights import copied_own_weights, load_own_weights
from keras_lrs._step.averages import Averaging
from keras_lrs._storage import files
from keras_lrs.averages.choice import Choice
from keras_lrs.averages.schedules import Average, as_average
from keras_lrs.schedules import fields


class Averager(keras.layers.Layer):
    """Averages weights in a custom loop, in a `train_step`, or for a live teacher.

    Call `update` after every step of the optimizer. In `fit`, use `WeightAveraging`: it
    needs no call, counts updates itself, and swaps the average in for validation and
    files.

    The averages begin as copies of the weights, in float32 for weights of less than 32
    bits. Variables that hold no floats are copied in every update. Nothing but the
    methods below changes the model.

    An averager is a layer without trainable variables. A subclass of `keras.Model` that
    sets it as an attribute in its `__init__` tracks it: the averages are saved with the
    model, and JAX passes them in and out of the step. A model that is already built,
    such as a `Sequential`, silently does not track attributes. In this case, use
    `save_weights` and `load_weights`.

    JAX cannot change variables in a function that it traces. There `update` raises an
    error, unless it is called in a `keras.StatelessScope` that has values for all
    variables. Use `stateless_update`, or `update_state` in a `train_step`.

    `update` averages the current weights on every call. It cannot recognize
    micro-batches, or updates that a `LossScaleOptimizer` skips.

    Args:
        model_or_variables: A built model or layer, whose trainable weights are
            averaged, or a list of variables.
        average: A schedule of `keras_lrs.averages`; a number is the decay of an
            `ExponentialAverage`, and None is `ExponentialAverage(0.999)`.
        include: One or more regular expressions, searched for in the paths of the
            variables (`re.search`). Only matching variables are averaged. None averages
            all.
        exclude: Likewise, for variables that are not averaged.
        every: The number of calls of `update` per update of the average, > 0; the decay
            is used as given. With `gradient_accumulation_steps=4`, `every=4` averages
            the weights after each update. Before the first update of the average, it
            follows the weights.
        batch_norm: `"keep"` leaves the statistics of batch normalization alone;
            `"average"` averages them with the weights. With a list of variables it has
            no effect: name them in the list.
        name: The name of the layer.

    Attributes:
        sources: The variables that are averaged, in the order of `averages`.
        averages: The variables that hold the averages.
        updates: The variable that counts updates.
        variables: `averages`, followed by `updates`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, if the model is not built or has
            nothing to average, or if a regular expression matches nothing.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.averages import Averager, UniformAverage
        >>> model = keras.Sequential(
        ...     [keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]
        ... )
        >>> averager = Averager(model, UniformAverage())
        >>> for value in (1.0, 2.0, 6.0):
        ...     model.set_weights([np.array([[value]])])  # Instead of a step.
        ...     averager.update()
        >>> with averager.averaged():
        ...     model.predict(np.ones((1, 1)), verbose=0).item()
        3.0
        >>> model.predict(np.ones((1, 1)), verbose=0).item()
        6.0

    Reference: PyTorch's `torch.optim.swa_utils.AveragedModel`. Tarvainen and Valpola,
    "Mean teachers are better role models", 2017, arXiv:1703.01780.
    """

    def __init__(
        self,
        model_or_variables: Any,
        average: Average | float | None = None,
        *,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        every: int = 1,
        batch_norm: str = "keep",
        name: str | None = None,
    ):
        average = as_average(average)
        every = fields.count("every", every, 1)
        fields.one_of("batch_norm", batch_norm, ("keep", "average"))
        choice = Choice.of(include, exclude)
        found, weights = _found(model_or_variables)
        choice.check(found)
        if anywhere.in_scope():
            # Keras would leave variables behind that no later `fit` can initialize.
            raise RuntimeError(
                "An `Averager` cannot be created in a `keras.StatelessScope`, in which "
                "JAX's `fit` builds a model. Create it in the `__init__` of the model, "
                "or build the model before `fit`."
            )
        chosen = [variable for variable in found if choice(variable)]
        if batch_norm == "average" and isinstance(model_or_variables, keras.Layer):
            chosen += average_statistics.statistics(model_or_variables, choice)
        super().__init__(trainable=False, dtype="float32", name=name)
        self.average, self.every, self.batch_norm = average, every, batch_norm
        # Keras does not track this object, because the model is not part of this layer.
        self._averaged = _Averaged(chosen, weights)
        self._averaging = Averaging(average, every=every)
        self.averages = [anywhere.new_average(variable) for variable in chosen]
        self.updates = anywhere.new_count(chosen[0])
        self._count = anywhere.Count(self.updates)
        self._is_in = False
        self.built = True

    @property
    def sources(self) -> list:
        """The variables that are averaged."""
        return list(self._averaged.variables)

    # --- Updating ---

    @in_step.uncompiled
    def update(self) -> None:
        """Adds the weights to the average; call it after the optimizer's step.

        It works eagerly, in a `tf.function` (compiled by XLA or not), on the replicas
        of a `MirroredStrategy`, and in a `keras.StatelessScope`.

        Raises:
            RuntimeError: In a function that JAX traces, without such a scope or in a
                scope that lacks a variable; or within `averaged`.
        """
        self._check_known("update", self.sources)
        self._check_out("update")
        share = self._averaging.weight(self._count.value + 1)
        pairs = list(zip(self.sources, self.averages, strict=True))
        floats = [pair for pair in pairs if anywhere.is_float(pair[0])]
        others = [pair for pair in pairs if not anywhere.is_float(pair[0])]
        with in_step.undivided():
            anywhere.interpolate(floats, share, self._averaging.always)
            if others:
                anywhere.hand_over(*map(list, zip(*others, strict=True)))
            self._count.raise_by_one()

    @scopes.closed
    def stateless_update(self, own: Sequence[Any], weights: Sequence[Any]) -> list:
        """Updates like `update`, with values instead of variables, for `jax.jit`.

        Args:
            own: The values of `averager.variables`: the averages, followed by the count
                of updates.
            weights: The values of `averager.sources`, after the optimizer's step. The
                sources are `model.trainable_variables`, unless you chose some of them
                or average statistics too.

        Returns:
            The new values of `averager.variables`, as a list.

        Raises:
            ValueError: If there are more or fewer values than variables.
        """
        variables, sources = self.variables, self.sources
        for name, values, expected in (
            ("own", own, variables),
            ("weights", weights, sources),
        ):
            if len(values) != len(expected):
                whose = "variables" if name == "own" else "sources"
                raise ValueError(
                    f"Argument `{name}` must have the {len(expected)} values of "
                    f"`averager.{whose}`. Received: {len(values)} values"
                )
        mapping = [
            *zip(variables, own, strict=True),
            *zip(sources, weights, strict=True),
        ]
        with keras.StatelessScope(mapping) as scope:
            self.update()
        return [scope.get_current_value(variable) for variable in variables]

    @scopes.closed
    def update_state(self, model: keras.Model, state: Any, copy_to: Any = None) -> Any:
        """Updates like `update`, with the state of a `train_step` on JAX.

        Args:
            model: The model that has the `train_step` and tracks the averager.
            state: The state after the optimizer's step, as the `train_step` returns it:
                a tuple that begins with the values of the model's trainable and
                non-trainable variables.
            copy_to: A model within `model` to which the averages are copied, as the
                method `copy_to` does; None copies them nowhere.

        Returns:
            The new state.

        Raises:
            ValueError: If the model does not track the averager or the averaged
                variables, or if the state is not the model's.
        """
        trainable, non_trainable, *others = state
        groups = (model.trainable_variables, model.non_trainable_variables)
        if [len(trainable), len(non_trainable)] != [len(group) for group in groups]:
            raise ValueError(
                "Argument `state` must begin with the values of the model's trainable "
                f"and non-trainable variables, {len(groups[0])} and {len(groups[1])}. "
                f"Received: {len(trainable)} and {len(non_trainable)} values"
            )
        known = {id(variable) for group in groups for variable in group}
        if any(id(variable) not in known for variable in self.variables):
            raise ValueError(
                "Argument `model` must track the averager. Set it as an attribute in "
                "the `__init__` of a subclass; a built model, such as a `Sequential`, "
                "does not track attributes that are set later. Received: "
                f"model={model.name!r}"
            )
        mapping = [
            *zip(groups[0], trainable, strict=True),
            *zip(groups[1], non_trainable, strict=True),
        ]
        with keras.StatelessScope(mapping) as scope:
            self.update()
            if copy_to is not None:
                self.copy_to(copy_to)
        found = [[scope.get_current_value(v) for v in group] for group in groups]
        return (*found, *others)

    # --- Using the averages ---

    @contextlib.contextmanager
    def averaged(self) -> Iterator["Averager"]:
        """Puts the averages into the model for a `with` block.

        Afterwards the model holds exactly what it held before. Other changes of the
        weights within the block are lost.

        Raises:
            RuntimeError: In a compiled function or a scope, where only `copy_to` works;
                or within another `averaged`.
        """
        self._check_out("averaged")
        if anywhere.in_scope() or anywhere.is_traced():
            raise RuntimeError(
                "`Averager.averaged` swaps variables, which works only between steps. "
                "In a compiled step, give a teacher the averages with `copy_to`."
            )
        self._check_known("averaged", self.sources)
        with interrupts.undoing() as undo:
            undo.callback(setattr, self, "_is_in", False)
            undo.callback(anywhere.put_back, anywhere.held(self.sources))
            self._is_in = True
            anywhere.hand_over(self.averages, self.sources)
            yield self

    def copy_to(self, model: Any) -> None:
        """Copies the averages to another model, such as a teacher.

        Weights that are not averaged stay as they are there.

        Args:
            model: A model whose weights have the same order and shapes as those of the
                averaged model; it may be frozen. Or a list of variables like `sources`.

        Raises:
            ValueError: If a weight is missing or has another shape.
            RuntimeError: As `update` does.
        """
        targets = self._averaged.counterparts(model)
        self._check_known("copy_to", targets)
        anywhere.hand_over(self.averages, targets)

    # --- Saving ---

    def save_weights(self, path: str | os.PathLike) -> None:
        """Saves the averages and the count of updates in a file `*.weights.h5`.

        Raises:
            ValueError: If the name of the file has another ending.
            OSError: If the file cannot be written; the old version is kept.
        """
        found = fields.path("path", path)
        if not found.name.endswith(".weights.h5"):
            fields.refuse("path", "end with `.weights.h5`", path)
        files.write_atomically(found, copied_own_weights(self).pieces())

    def load_weights(self, path: str | os.PathLike) -> None:
        """Loads a file that `save_weights` has written."""
        load_own_weights(self, fields.path("path", path))

    # --- Checks ---

    def _check_out(self, method):
        if self._is_in:
            raise RuntimeError(
                f"`Averager.{method}` must be called outside of `Averager.averaged`, "
                "within which the model holds the averages."
            )

    def _check_known(self, method, variables):
        reason = anywhere.why_not_known([*variables, *self.variables])
        if reason is not None:
            raise RuntimeError(
                f"`Averager.{method}` cannot work here: {reason}. In a custom loop on "
                "JAX use `stateless_update`; in a `train_step`, `update_state`."
            )


class _Averaged:
    """The variables that are averaged, and their places among all weights."""

    def __init__(self, variables: list, weights: list):
        self.variables = variables
        positions = {id(weight): index for index, weight in enumerate(weights)}
        self._positions = [positions[id(variable)] for variable in variables]
        self._weights = weights

    def counterparts(self, model: Any) -> list:
        """Returns the variables of another model that are in the same places."""
        if isinstance(model, keras.layers.Layer):
            found = list(model.weights)
            expected = self._weights
            if len(found) == len(expected):
                found = [found[position] for position in self._positions]
                expected = self.variables
        else:
            found = list(fields.items("model", model, "be a model or variables"))
            expected = self.variables
            if not all(isinstance(variable, keras.Variable) for variable in found):
                fields.refuse("model", "be a model or variables", model, TypeError)
        if len(found) != len(expected):
            raise ValueError(
                f"Argument `model` must have {len(expected)} weights, like what is "
                f"averaged. Received: {len(found)} weights"
            )
        for one, other in zip(expected, found, strict=True):
            if tuple(one.shape) != tuple(other.shape):
                raise ValueError(
                    "Argument `model` must have weights of the shapes that are "
                    f"averaged: {tuple(one.shape)} for `{one.path}`. Received: "
                    f"{tuple(other.shape)} for `{other.path}`"
                )
        return found


def _found(given):
    """Returns the variables to choose from, and all weights."""
    bound = "be a built model, or a list of variables"
    if isinstance(given, keras.layers.Layer):
        if not models.weights_exist(given):
            bound += ": call the model on a batch, or give it an `Input`"
            if not models.can_be_called(given):
                bound = "have built layers: call each on a batch"
            fields.refuse("model_or_variables", bound, given)
        sources = list(given.trainable_variables)
        weights = list(given.weights)
    else:
        sources = list(fields.items("model_or_variables", given, bound))
        if not all(isinstance(variable, keras.Variable) for variable in sources):
            fields.refuse("model_or_variables", bound, given, TypeError)
        if len({id(variable) for variable in sources}) != len(sources):
            fields.refuse("model_or_variables", "name each variable once", given)
        weights = sources
    if not sources:
        fields.refuse("model_or_variables", "have variables to average", given)
    return sources, weights
