"""One predictor that is made of several trainings' ends, or of one training's."""

import contextlib
import dataclasses
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_lrs import training
from keras_lrs._keras import metrics
from keras_lrs.ensembles.store import Store
from keras_lrs.schedules import fields

_CONVOLUTIONS = tuple(
    getattr(keras.layers, name)
    for name in dir(keras.layers)
    if "Conv" in name and "LSTM" not in name
)


def load(
    directory: str | os.PathLike,
    model: keras.Model,
    strict: bool = True,
    activation: str | Callable | None = None,
) -> "Ensemble":
    """Reads the members that `keras_lrs.callbacks.SnapshotEnsemble` wrote.

    Every byte is checked against the hashes in the manifest.

    Args:
        directory: The folder.
        model: A built model like the one that was trained. It is used to predict and
            keeps its own weights.
        strict: Whether a member that is missing or damaged is an error. If not, it is
            left out with a warning. A damaged manifest always is one.
        activation: What is applied to each member's outputs before they are averaged:
            `"softmax"` for a model that gives logits, or `"sigmoid"`, or a function.

    Returns:
        An `Ensemble`.

    Raises:
        FileNotFoundError: If there is no manifest.
        ValueError: If a file is missing or damaged, or of another format; if no cycle
            was over yet; if the model has other weights than the members.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from keras_lrs import callbacks, ensembles
        >>> from keras_lrs.schedules import CosineRestarts
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(CosineRestarts(0.1, 5, 1.0)), "mse")
        >>> x = np.ones((10, 1), "float32")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     snapshots = callbacks.SnapshotEnsemble(directory)
        ...     history = model.fit(x, x, 1, 2, verbose=0, callbacks=[snapshots])
        ...     ensemble = ensembles.load(directory, model)
        >>> len(ensemble), ensemble.predict(x, verbose=0).shape
        (4, (10, 1))
        >>> [member["step"] for member in ensemble.members]
        [5, 10, 15, 20]
    """
    store = Store(fields.path("directory", directory))
    strict = fields.truth("strict", strict)
    manifest = store.manifest
    if not manifest.exists():
        raise FileNotFoundError(
            f"There is no `{manifest}`: no `SnapshotEnsemble` has begun to write to "
            "this directory."
        )
    fields.model("model", model)
    if not store.records:
        raise ValueError(f"`{manifest}` names no member: no cycle was over yet.")
    _check_shapes(store, model)
    members = []
    for record in store.records:
        try:
            members.append(_member(store, record, model))
        except ValueError as error:
            if strict:
                raise
            warnings.warn(f"A member is left out. {error}", stacklevel=2)
    if not members:
        raise ValueError(f"None of the members in `{store.directory}` is whole.")
    return Ensemble(model, members, activation)


def _check_shapes(store, model):
    shapes = [list(variable.shape) for variable in model.variables]
    if len(shapes) != len(store.shapes):
        raise ValueError(
            f"Argument `model` must be like the one in `{store.directory}`, which has "
            f"{len(store.shapes)} variables. Received: a model with {len(shapes)}"
        )
    for variable, shape in zip(model.variables, store.shapes, strict=True):
        if list(variable.shape) != shape:
            raise ValueError(
                f"Argument `model` must be like the one in `{store.directory}`, where "
                f"`{variable.path}` has the shape {tuple(shape)}. Received: "
                f"{tuple(variable.shape)}"
            )


def _member(store, record, model):
    content = store.read(record)
    try:
        values = training.loaded_weights(model, content)
    except Exception as error:  # Whatever Keras raises for a file that does not fit.
        raise ValueError(
            f"`{store.path(record)}` does not fit the model: {error}"
        ) from error
    return Member(
        record.file,
        record.step,
        record.cycle,
        record.complete,
        record.learning_rate,
        record.metrics,
        values,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One model of an ensemble.

    Args:
        file: The name of its file.
        step: The optimizer's iterations when it was taken.
        cycle: The number of its cycle, from 1.
        complete: Whether the cycle was over; False if the training cut it short.
        learning_rate: That of the last update.
        metrics: From the training's logs.
        values: Its weights, in the order of `model.variables`.
    """

    file: str
    step: int
    cycle: int
    complete: bool
    learning_rate: float
    metrics: dict[str, float]
    values: list[np.ndarray] = dataclasses.field(repr=False)


class Ensemble:
    """Models of one architecture, whose outputs are averaged.

    What is averaged are the *outputs*: for classifiers these should be probabilities.
    If the model gives logits, load it with `activation="softmax"`.

    All members run on each batch, in one pass over the data; their weights are in the
    memory of the device at once. How they run depends on the backend: on TensorFlow
    they are one graph; on JAX one program, or for convolutions on a CPU one after the
    other, which is faster; on PyTorch one after the other. A model that has its own
    `predict_step`, or modules of PyTorch inside, has its weights exchanged for a
    `predict` per member, and gets them back.

    `len`, iteration and indexing go over the members, from early to late; a slice is an
    ensemble.

    Args:
        model: A built model; it keeps its weights.
        members: Its other weights, a `Member` each.
        activation: Applied to the outputs of each member; a name or a function.
    """

    def __init__(
        self,
        model: keras.Model,
        members: Sequence[Member],
        activation: str | Callable | None = None,
    ):
        self.model = fields.model("model", model)
        self.activation: Any = activation
        if activation is not None:
            get = keras.activations.get
            self.activation = _found("activation", activation, get)
        self._members = list(_checked_members(members))
        self._variables: dict[int, list] = {}
        self._joints: dict[Any, _Joint] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._of(self._members[index])
        return self._members[index]

    def __repr__(self):
        steps = ", ".join(str(member.step) for member in self)
        return f"Ensemble({self.model.name!r}, steps=[{steps}])"

    def _of(self, members):
        return Ensemble(self.model, members, self.activation)

    @property
    def members(self) -> list[dict[str, Any]]:
        """A table: file, step, cycle, completeness, rate and metrics of each member."""
        return [
            {
                "file": member.file,
                "step": member.step,
                "cycle": member.cycle,
                "complete": member.complete,
                "learning_rate": member.learning_rate,
                **member.metrics,
            }
            for member in self
        ]

    # --- Predicting ---

    def predict(
        self,
        x: Any,
        last: int | None = None,
        weights: Sequence[float] | None = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
    ) -> Any:
        """The mean of the members' outputs.

        Args:
            x: What `model.predict` takes: arrays, a `tf.data.Dataset`, a `PyDataset`, a
                generator; also several inputs.
            last: How many members take part, the last ones; None takes all.
            weights: Those of the members that take part, >= 0; they are divided by
                their sum. None weighs all alike.
            batch_size: Samples per batch, of arrays.
            verbose: As for `model.predict`: 1 shows a progress bar.
            steps: Batches, for data without an end.

        Returns:
            What `model.predict` returns: arrays in the structure of the model's
            outputs, in float32 where these are in 16 bits.

        Raises:
            ValueError: If `last` is no number of members, or `weights` do not fit.
        """
        indices = self._last(last)
        shares = _shares(weights, len(indices))
        return self._run(x, indices, shares, batch_size, verbose, steps)

    def predict_members(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
    ) -> Any:
        """The outputs of every member, for their disagreement.

        Args:
            x: As for `predict`.
            batch_size: As for `predict`.
            verbose: As for `predict`.
            steps: As for `predict`.

        Returns:
            Arrays as `model.predict` returns, with the members as an additional first
            axis: `(members, samples, ...)`.
        """
        outputs = self._run(x, self._last(None), None, batch_size, verbose, steps)
        return tree.map_structure(lambda y: np.moveaxis(y, 1, 0), outputs)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        return_dict: bool = False,
        *,
        last: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> Any:
        """Loss and metrics of the mean of the members' outputs.

        They are new ones like those that the model was compiled with, without losses of
        layers such as regularizers. Where there is an `activation`, ones with
        `from_logits=True` are told that there are no logits any more.

        Args:
            x: As for `model.evaluate`.
            y: As for `model.evaluate`.
            batch_size: As for `model.evaluate`.
            verbose: As for `model.evaluate`.
            sample_weight: As for `model.evaluate`.
            steps: As for `model.evaluate`.
            return_dict: As for `model.evaluate`.
            last: As for `predict`.
            weights: As for `predict`.

        Returns:
            What `model.evaluate` returns: the loss, or a list or dictionary of numbers.

        Raises:
            ValueError: If the model is not compiled.
        """
        if not self.model.compiled:
            raise ValueError("Compile the model with a loss before `evaluate`.")
        indices = self._last(last)
        shares = _shares(weights, len(indices))
        joint = self._joint(indices, averaged=True)
        joint.shares.assign(shares)
        arguments = training.compile_arguments(self.model)
        joint.compile(
            optimizer=None,
            jit_compile=self.model.jit_compile,
            run_eagerly=self.model.run_eagerly,
            **{name: self._fresh(value) for name, value in arguments.items()},
        )
        with self._forgetting():
            return joint.evaluate(
                x,
                y,
                batch_size=batch_size,
                verbose=verbose,
                sample_weight=sample_weight,
                steps=steps,
                return_dict=return_dict,
            )

    def _fresh(self, found):
        """Losses and metrics of the same kinds, with a state of their own."""
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

    def _last(self, last):
        """The indices of the last members."""
        if last is None:
            return tuple(range(len(self)))
        if fields.count("last", last, 1) > len(self):
            fields.refuse("last", f"be <= {len(self)}, the number of members", last)
        return tuple(range(len(self) - int(last), len(self)))

    def _run(self, x, indices, shares, batch_size, verbose, steps):
        """The outputs of some members, averaged or one beside the other."""
        arguments = {"batch_size": batch_size, "verbose": verbose, "steps": steps}
        if training.ignores_scopes(self.model):
            found = self._run_in_turn(x, indices, arguments)
            combine = _beside if shares is None else _mean
            outputs = combine(found, None if shares is None else ops.array(shares))
            return tree.map_structure(ops.convert_to_numpy, outputs)
        joint = self._joint(indices, averaged=shares is not None)
        if shares is not None:
            joint.shares.assign(shares)
        with self._forgetting():
            return joint.predict(x, **arguments)

    def _run_in_turn(self, x, indices, arguments):
        """The outputs of `model.predict` with the weights of one after the other."""
        if isinstance(x, Iterator):
            bound = "be data that can be gone through once per member, for this model"
            fields.refuse("x", bound, x, TypeError)
        own = [ops.convert_to_numpy(variable) for variable in self.model.variables]
        own = [np.array(value) for value in own]
        found = []
        try:
            for index in indices:
                training.set_weights(self.model, self._members[index].values)
                outputs = self.model.predict(x, **arguments)
                found.append(tree.map_structure(self._activated, outputs))
        finally:
            training.set_weights(self.model, own)
        return found

    def _activated(self, output):
        return output if self.activation is None else self.activation(output)

    def _joint(self, indices, averaged):
        """A model that runs some members; made, and compiled, once."""
        key = indices, averaged
        if key not in self._joints:
            with training.strategy_scope(self.model):
                variables = [self._variables_of(index) for index in indices]
                self._joints[key] = _Joint(
                    self.model, variables, self._activated, averaged
                )
        return self._joints[key]

    def _variables_of(self, index):
        """A member's weights on the device."""
        if index not in self._variables:
            values = self._members[index].values
            self._variables[index] = [
                keras.Variable(value, dtype=own.dtype, trainable=False)
                for own, value in zip(self.model.variables, values, strict=True)
            ]
        return self._variables[index]

    @contextlib.contextmanager
    def _forgetting(self):
        """Makes everything anew after an exception: JAX has taken variables' values."""
        try:
            yield
        except BaseException:
            self._variables.clear()
            self._joints.clear()
            raise

    # --- Choosing ---

    def greedy(
        self,
        x: Any,
        y: Any,
        metric: Any = "accuracy",
        mode: str = "auto",
        batch_size: int | None = None,
        verbose: Any = "auto",
    ) -> "Ensemble":
        """The ensemble that is best on held-out data, member by member.

        It begins with the best member and adds, again and again, the one that makes the
        average best, until none makes it better. Data that the members were trained on
        would choose the one that knows them by heart.

        Args:
            x: As for `predict`.
            y: The targets: an array.
            metric: The name of a metric of Keras (`"accuracy"`), a metric, a loss, or a
                function of targets and outputs.
            mode: `"max"`, `"min"`, or `"auto"`, which tells by the metric's name.
            batch_size: As for `predict`.
            verbose: As for `predict`.

        Returns:
            An `Ensemble` of one member or more, from early to late.

        Raises:
            ValueError: If `mode` is none of these, or the metric is not known.

        Reference: Caruana et al., "Ensemble selection from libraries of models", 2004,
        without its repetitions.
        """
        sign = 1.0 if _is_maximized(metric, mode) else -1.0
        measured = measure(metric)
        outputs = self.predict_members(x, batch_size=batch_size, verbose=verbose)
        chosen: list[int] = []
        best = -np.inf
        while len(chosen) < len(self):
            left = [index for index in range(len(self)) if index not in chosen]
            scores = [sign * measured(y, mean_of(outputs, [*chosen, i])) for i in left]
            if not np.nanmax([best, *scores]) > best:
                break
            best = np.nanmax(scores)
            chosen.append(left[int(np.nanargmax(scores))])
        if not chosen:
            raise ValueError("The metric is NaN for every member.")
        return self._of([self._members[index] for index in sorted(chosen)])

    # --- Making models ---

    def average_weights(self) -> keras.Model:
        """One model whose weights are the mean of the members', a soup.

        It predicts at the cost of one model, and well only where the members lie in one
        basin: snapshots of one training with short cycles may, independent ones do not.
        What is not a float, such as the state of a random generator, is that of the
        last member. The statistics of batch normalization are averaged as well but do
        not fit the mean of the weights: measure them anew before use.

        Returns:
            A new model, not compiled.

        Raises:
            ValueError: If the model cannot be made anew from its configuration.

        Reference: Wortsman et al., "Model soups", 2022, arXiv:2203.05482.
        """
        means = []
        members = [member.values for member in self]
        for variable, values in zip(self.model.variables, zip(*members), strict=True):  # noqa: B905
            if keras.backend.is_float_dtype(variable.dtype):
                mean = np.mean([value.astype(np.float64) for value in values], axis=0)
                means.append(mean.astype(values[0].dtype))
            else:
                means.append(values[-1])
        return _clone(self.model, means)

    def to_model(
        self,
        last: int | None = None,
        weights: Sequence[float] | None = None,
        inputs: Any = None,
    ) -> keras.Model:
        """One Keras model of all members, to save, serve or train further.

        It is made of copies of the model and of layers of Keras: its files load without
        `keras_lrs`.

        Args:
            last: As for `predict`.
            weights: As for `predict`.
            inputs: `keras.Input`s in the structure that the model takes, for a model of
                an own class that does not know its shapes.

        Returns:
            A functional model, not compiled.

        Raises:
            ValueError: If the model cannot be made anew from its configuration, or
                does not know the shapes of its inputs.
        """
        indices = self._last(last)
        shares = _shares(weights, len(indices))
        inputs = _inputs(self.model) if inputs is None else inputs
        outputs = []
        for number, index in enumerate(indices):
            clone = _clone(self.model, self._members[index].values)
            clone.name = f"{self.model.name}_member_{number + 1}"
            outputs.append(clone(inputs))
        mean = tree.map_structure(lambda *ys: self._mean_layer(ys, shares), *outputs)
        return keras.Model(inputs, mean, name=f"{self.model.name}_ensemble")

    def _mean_layer(self, outputs, shares):
        """The weighted mean of symbolic tensors, of layers that Keras knows."""
        layers, dtype = keras.layers, _mean_dtype(outputs[0].dtype)
        if self.activation is not None:
            outputs = [layers.Activation(self.activation)(y) for y in outputs]
        if len(outputs) == 1:
            return outputs[0]
        if len(set(shares)) > 1:
            outputs = [
                layers.Rescaling(float(share * len(outputs)), dtype=dtype)(y)
                for share, y in zip(shares, outputs, strict=True)
            ]
        return layers.Average(dtype=dtype)(outputs)


class _Joint(keras.Model):
    """A model that runs several members on each batch.

    Args:
        model: What runs with the weights of each member in turn.
        member_variables: A list of variables per member, as `model.variables`.
        activation: A function of an output.
        averaged: Whether outputs are averaged, by `shares`, or put one beside the other
            on a new second axis.
    """

    def __init__(self, model, member_variables, activation, averaged):
        # It hands on what it is given: the model itself casts its inputs.
        super().__init__(dtype=model.dtype_policy, autocast=False, name="joint")
        # Past Keras's tracking: its weights are not this model's.
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
        kept = self._scopes() if training.KEEPS_SCOPES else None
        self.__dict__["kept_scopes"] = kept
        self.predict_function: Any = None
        self.jit_compile = model.jit_compile
        self.run_eagerly = model.run_eagerly

    def call(self, inputs):
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
        """The outputs of the model with other weights."""
        return self.outputs_in(self._scope(values), inputs)

    def outputs_in(self, scope, inputs):
        """Those in a scope where the variables have other values."""
        with scope:
            outputs = self.one(inputs, **self.arguments)
        return tree.map_structure(self.activation, outputs)

    def combine(self, outputs, shares):
        """One output of those of the members."""
        return (_mean if self.averaged else _beside)(outputs, shares)

    def make_predict_function(self, force=False):
        if keras.backend.backend() != "jax" or self.run_eagerly:
            super().make_predict_function(force)
        elif force or self.predict_function is None:
            has_convolutions = any(
                isinstance(layer, _CONVOLUTIONS) for layer in training.layers(self.one)
            )
            self.predict_function = training.jax_predict_function(
                self, has_convolutions
            )


def _mean(outputs, shares):
    """The weighted mean of structures of tensors."""

    def mean(*ys):
        dtype = _mean_dtype(ys[0].dtype)
        return sum(
            ops.cast(shares[i], dtype) * ops.cast(y, dtype) for i, y in enumerate(ys)
        )

    return tree.map_structure(mean, *outputs)


def _beside(outputs, shares=None):
    """Structures of tensors as one, with a new second axis."""
    return tree.map_structure(lambda *ys: ops.stack(ys, axis=1), *outputs)


def mean_of(outputs: Any, indices: list[int]) -> Any:
    """The mean of some members' outputs."""
    return tree.map_structure(
        lambda y: np.mean(y[indices], axis=0, dtype=_mean_dtype(y.dtype)), outputs
    )


def _mean_dtype(dtype):
    return (
        "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"
    )


def _shares(weights, count):
    """What each member has of the mean."""
    if weights is None:
        return np.full(count, 1.0 / count)
    shares = np.array([fields.real("weights", weight) for weight in weights])
    if len(shares) != count:
        fields.refuse("weights", f"have an element per member ({count})", weights)
    if np.any(shares < 0.0) or not np.sum(shares) > 0.0:
        fields.refuse("weights", "be >= 0 and not all be 0", weights)
    return shares / np.sum(shares)


def measure(metric: Any) -> Callable[[Any, np.ndarray], float]:
    """A function of targets and outputs, of what `Ensemble.greedy` takes."""
    is_accuracy = isinstance(metric, str) and metric in ("acc", "accuracy")
    found = metric if is_accuracy else _found("metric", metric, keras.metrics.get)

    def measured(y, outputs):
        kind = _accuracy(y, outputs) if isinstance(found, str) else found
        try:
            if isinstance(kind, keras.Metric):
                kind.reset_state()
                kind.update_state(y, outputs)
                return training.number(kind.result())
            return float(np.mean(ops.convert_to_numpy(kind(y, outputs))))
        except Exception as error:  # Of something else that can be called, any.
            raise ValueError(
                "Argument `metric` must be one for these targets and outputs. "
                f"Received: metric={metric!r}, {type(error).__name__}: {error}"
            ) from error

    return measured


def _found(name, value, get):
    """What Keras finds for a name or a function."""
    try:
        found = get(value)
    except Exception as error:  # Whatever a class raises that is called.
        bound = f"be known to Keras, which says: {error}"
        fields.refuse(name, bound, value)
    if not callable(found):
        fields.refuse(name, "be a name known to Keras, or a function", value)
    return found


def _checked_members(members):
    found = fields.items("members", members)
    if not found or not all(isinstance(member, Member) for member in found):
        fields.refuse("members", "hold a member or several, each a `Member`", members)
    return found


def _is_maximized(metric, mode):
    fields.one_of("mode", mode, ("auto", "min", "max"))
    name = getattr(metric, "name", None) or getattr(metric, "__name__", metric)
    return (metrics.mode_of(str(name)) if mode == "auto" else mode) == "max"


def _accuracy(y, outputs):
    """What Keras takes `"accuracy"` for, by the shapes."""
    if outputs.shape[-1] == 1:
        return keras.metrics.BinaryAccuracy()
    if np.shape(y)[-1:] == outputs.shape[-1:] and np.ndim(y) == outputs.ndim:
        return keras.metrics.CategoricalAccuracy()
    return keras.metrics.SparseCategoricalAccuracy()


def _clone(model, values):
    """A new model like another, with other weights."""
    compiled = model.compiled
    model.compiled = False  # Or the clone would be, too.
    try:
        clone = keras.models.clone_model(model)
        if not clone.built:
            clone.build_from_config(model.get_build_config())
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"`{type(model).__name__}` cannot be made anew: give it a `get_config` "
            "with the arguments of its constructor."
        ) from error
    finally:
        model.compiled = compiled
    shapes = [[tuple(v.shape) for v in each.variables] for each in (model, clone)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"A `{type(model).__name__}` made anew from its configuration has other "
            "weights than it had."
        )
    training.set_weights(clone, values)
    return clone


def _inputs(model):
    """New inputs like those of a model."""
    if getattr(model, "inputs", None):
        # A `Sequential` that was never called has no `input`.
        single = isinstance(model, keras.Sequential)
        structure = model.inputs[0] if single else model.input
        return tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
            structure,
        )
    config = model.get_build_config() or {}
    if "input_shape" not in config:
        raise ValueError(
            f"`{type(model).__name__}` does not know the shapes of its inputs. Pass "
            "`inputs=keras.Input(...)`, in the structure that it takes."
        )
    shape = config["input_shape"]
    return keras.Input(batch_shape=(None, *shape[1:]))
