"""A single predictor that averages the outputs of several models."""

import dataclasses
import html
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_lrs.ensembles import cloning, selection
from keras_lrs.ensembles.joint import Runner, checked_shares
from keras_lrs.schedules import fields


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One model of an ensemble.

    Args:
        file: The name of its file.
        step: The optimizer's iterations when the member was saved.
        cycle: The number of its cycle, from 1.
        complete: Whether the cycle was over; False if the end of the run cut it short.
        learning_rate: The rate of the last update.
        metrics: The metrics in the logs of the run.
        values: The member's weights, in the order of `model.variables`.
    """

    file: str
    step: int
    cycle: int
    complete: bool
    learning_rate: float
    metrics: dict[str, float]
    values: list[np.ndarray] = dataclasses.field(repr=False)


class Ensemble:
    """Averages the outputs of models of one architecture.

    The ensemble averages *outputs*, which should be probabilities for classifiers. If
    the model returns logits, load it with `activation="softmax"`.

    All members run on each batch, in one pass over the data, so the weights of all
    members are in the memory of the device at once. On TensorFlow the members are one
    graph. On JAX they are one program, or run one after the other if they have
    convolutions on a CPU, which is faster. On PyTorch they run one after the other. If
    a model has its own `predict_step`, or contains PyTorch modules, its weights are
    swapped for those of each member in turn, with one `predict` per member, and put
    back afterwards.

    Each member behaves like a separate model that has loaded its file. Layers that draw
    random numbers for predictions, such as Monte Carlo dropout, draw new ones for every
    member, batch and call. The states of stateful recurrent layers begin with zeros and
    carry over from batch to batch and call to call, as they do in Keras (but not on
    JAX). A slice, `ensemble[:]`, starts over.

    `len`, iteration and indexing apply to the members, from early to late. A slice is
    an ensemble.

    Args:
        model: A built model; it keeps its weights.
        members: The weights of each member, as `Member`s.
        activation: A function that is applied to the outputs of each member, or its
            name.

    Raises:
        ValueError: If the model is not built, there is no member, or the activation is
            not known to Keras.
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
            self.activation = selection.known("activation", activation, get)
        self._members = list(_checked_members(members))
        self._runner = Runner(self.model, self._values, self.activation)

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

    def _repr_html_(self) -> str:
        """Returns a table of the members, which notebooks show."""
        members = self.members
        names = list(dict.fromkeys(name for member in members for name in member))
        rows = [[_shown(member.get(name, "")) for name in names] for member in members]
        body = "".join(_row("td", row) for row in rows)
        call = f"<code>{html.escape(repr(self))}</code>"
        return f"{call}<table>{_row('th', names)}{body}</table>"

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
        """Returns the mean of the members' outputs.

        Args:
            x: The inputs, as `model.predict` takes them: arrays, a `tf.data.Dataset`, a
                `PyDataset` or a generator, even with several inputs.
            last: How many of the last members take part; None takes all.
            weights: A weight >= 0 for each member that takes part; they are divided by
                their sum. None gives all members the same weight.
            batch_size: The number of samples per batch, for arrays.
            verbose: As for `model.predict`: 1 shows a progress bar.
            steps: The number of batches, for endless data.

        Returns:
            Arrays in the structure of the model's outputs, as `model.predict` returns
            them, in float32 if the outputs have 16 bits.

        Raises:
            ValueError: If `last` is not a number of members, or `weights` do not fit.
        """
        indices, shares = self._chosen(last, weights)
        arguments = {"batch_size": batch_size, "verbose": verbose, "steps": steps}
        return self._runner.predict(x, indices, shares, **arguments)

    def predict_members(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
    ) -> Any:
        """Returns the outputs of every member, to see how far they disagree.

        Args:
            x: As for `predict`.
            batch_size: As for `predict`.
            verbose: As for `predict`.
            steps: As for `predict`.

        Returns:
            Arrays as `model.predict` returns, with the members as an additional first
            axis: `(members, samples, ...)`.
        """
        indices, _ = self._chosen(None, None)
        arguments = {"batch_size": batch_size, "verbose": verbose, "steps": steps}
        outputs = self._runner.predict(x, indices, None, **arguments)
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
        """Returns the loss and the metrics of the mean of the members' outputs.

        The loss and the metrics are new objects like those that the model was compiled
        with, without losses of layers such as regularizers. If there is an
        `activation`, `from_logits=True` becomes `from_logits=False`.

        A model with its own `test_step`, `compute_loss` or `compute_metrics` evaluates
        itself, and its call returns the mean of the members. Anything else that its
        methods read of its weights, such as the losses of layers, is that of `model`.
        On JAX the members' weights are constants of this compiled step.

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
            The loss, or a list or dictionary of numbers, as `model.evaluate` returns.

        Raises:
            ValueError: If the model is not compiled, or there is an `activation` and
                the model evaluates itself.
            RuntimeError: If its `test_step` does not call the model itself.
        """
        if not self.model.compiled:
            raise ValueError("Compile the model with a loss before `evaluate`.")
        return self._runner.evaluate(
            x,
            y,
            *self._chosen(last, weights),
            batch_size=batch_size,
            verbose=verbose,
            sample_weight=sample_weight,
            steps=steps,
            return_dict=return_dict,
        )

    def _chosen(self, last, weights):
        """Returns the indices of the last members, and the share of each."""
        count = len(self)
        if last is not None:
            if fields.count("last", last, 1) > len(self):
                fields.refuse("last", f"be <= {len(self)}, the number of members", last)
            count = int(last)
        indices = tuple(range(len(self) - count, len(self)))
        return indices, checked_shares(weights, count)

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
        """Returns the ensemble that is best on held-out data, built up greedily.

        It starts with the best member and keeps adding the member that improves the
        mean most, until none improves it. Do not use the training data, on which it
        would choose the member that has memorized them.

        Args:
            x: As for `predict`.
            y: The targets: an array.
            metric: The name of a Keras metric (`"accuracy"`), a metric, a loss, or a
                function of targets and outputs.
            mode: `"max"`, `"min"`, or `"auto"`, which asks a Keras metric itself, or
                else goes by its name.
            batch_size: As for `predict`.
            verbose: As for `predict`.

        Returns:
            An `Ensemble` of one or more members, from early to late.

        Raises:
            ValueError: If `mode` is none of these, or if `"auto"` cannot decide, or if
                the metric is not known.

        Reference: Caruana et al., "Ensemble selection from libraries of models", 2004,
        without its repetitions.
        """
        sign = 1.0 if selection.is_maximized(metric, mode) else -1.0
        measured = selection.measure(metric)
        outputs = self.predict_members(x, batch_size=batch_size, verbose=verbose)
        chosen = selection.greedy(
            len(self),
            lambda indices: sign * measured(y, selection.mean_of(outputs, indices)),
        )
        return self._of([self._members[index] for index in chosen])

    # --- Making models ---

    def average_weights(self) -> keras.Model:
        """Makes one model with the mean of the members' weights (a model soup).

        It predicts at the cost of one model, but predicts well only if the members lie
        in one basin: snapshots of one run with short cycles may, independent models do
        not. Values that are not floats, such as the state of a random generator, are
        those of the last member. The statistics of batch normalization are averaged
        too, but do not fit the mean of the weights. Recalibrate them before use, with
        `keras_lrs.averages.recalibrate_batch_norm`.

        Returns:
            A new model, not compiled.

        Raises:
            ValueError: If the model cannot be cloned from its configuration.

        Reference: Wortsman et al., "Model soups", 2022, arXiv:2203.05482.
        """
        return cloning.averaged(self.model, self._values)

    def to_model(
        self,
        last: int | None = None,
        weights: Sequence[float] | None = None,
        inputs: Any = None,
    ) -> keras.Model:
        """Makes one Keras model of all members, to save, serve or train further.

        It consists of copies of the model and of Keras layers, so its files load
        without `keras_lrs`. The copies hold everything that files of the model hold,
        including the state of adapted layers. Their random generators have different
        seeds.

        Args:
            last: As for `predict`.
            weights: As for `predict`.
            inputs: `keras.Input`s in the structure that the model takes, for a custom
                model that does not know its shapes.

        Returns:
            A functional model, not compiled.

        Raises:
            ValueError: If the model cannot be cloned from its configuration, or does
                not know the shapes of its inputs.
        """
        indices, shares = self._chosen(last, weights)
        members = self._values[-len(indices) :]
        return cloning.joined(self.model, members, shares, self.activation, inputs)

    @property
    def _values(self):
        return [member.values for member in self._members]


def _shown(value):
    """Formats a cell of a table; floats have four digits to distinguish members."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(tag, cells):
    inside = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"


def _checked_members(members):
    found = fields.items("members", members)
    if not found or not all(isinstance(member, Member) for member in found):
        fields.refuse("members", "hold a member or several, each a `Member`", members)
    return found
