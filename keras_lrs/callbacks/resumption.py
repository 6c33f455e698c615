"""Checks whether a run may resume from a checkpoint and whether one may be written."""

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._fit import registry
from keras_lrs._fit.run import Run
from keras_lrs._keras import (
    adapted,
    attributes,
    fingerprint,
    models,
    optimizers,
    variables,
)
from keras_lrs._keras.training_state import generators
from keras_lrs._step import bias_correction
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import fields

ACCEPTED = (*fingerprint.PARTS, "data", "fit")
"""What may differ from the run that is resumed."""


def accepted(name: str, value: Any) -> tuple[str, ...]:
    """Returns `value` as a tuple of names, if they are in `ACCEPTED`."""
    names = (value,) if isinstance(value, str) else fields.items(name, value)
    for one in names:
        fields.one_of(name, one, ACCEPTED)
    return tuple(names)


class Described:
    """Describes what a run trains: the model, the optimizers and the loss.

    It reads their configurations and attributes when the run begins, before schedules
    and checkpoints change the rates.
    """

    def __init__(self, model: Any):
        self._model = model
        self.configs = fingerprint.of(model)
        self.attributes = attributes.of(model)
        self.rates = fingerprint.rates(model)

    def state(self) -> dict[str, Any]:
        """Returns the part of a checkpoint that describes the run."""
        # Attributes that training changes say nothing about how it began.
        self.attributes = attributes.unchanged(
            self.attributes, attributes.of(self._model)
        )
        return {
            "configs": self.configs,
            "attributes": self.attributes,
            "rates": self.rates,
        }

    def differences(self, found: dict[str, Any]) -> dict[str, str]:
        """Returns how the parts differ from those of a checkpoint, by their names."""
        configs = found.get("configs", {})
        told = {
            name: fingerprint.difference(name, self.configs[name], configs[name])
            for name in fingerprint.PARTS
            if name in configs
        }
        given = found.get("attributes", {})
        for name, own in self.attributes.items():
            if name in given and not told.get(name):
                told[name] = attributes.difference(name, own, given[name])
        if not told.get("optimizer"):
            told["optimizer"] = self._other_rate(found)
        return {name: text for name, text in told.items() if text}

    def _other_rate(self, found):
        """Returns how a rate differs from the given and the last one; None if not."""
        rates = found.get("rates", [])
        state = variables.owners(models.state_variables(self._model))
        values = dict(zip(map(id, state), found["values"], strict=False))
        rated = fingerprint.rate_variables(self._model)
        for rate, expected, variable in zip(self.rates, rates, rated, strict=False):
            last = values.get(id(variable), expected)
            if rate not in (expected, None if last is None else float(last)):
                return f"`learning_rate` is {rate}, and was {expected}"
        return None


def check(
    run: Run,
    found: dict[str, Any],
    described: Described,
    reason: str | None,
    directory: Any,
    accept: tuple[str, ...],
) -> None:
    """Raises `ValueError` if a run cannot be resumed from a checkpoint.

    Args:
        run: The run.
        found: The checkpoint's state.
        described: What the run trains.
        reason: Why the data cannot be read again; None if it can.
        directory: The folder of the checkpoint.
        accept: The parts that may differ.
    """

    def refuse(bound, received=" of another", cure=""):
        raise ValueError(
            f"Argument `directory` must {bound}. "
            f"Received: directory={str(directory)!r} with checkpoints{received}{cure}"
        )

    if found["backend"] != keras.backend.backend():
        bound = f"hold checkpoints of {keras.backend.backend()}, or none"
        refuse(bound, f" of {found['backend']}")
    shapes = variables.shapes(_state_variables(run.model, found))
    if found["shapes"] != shapes or len(found["starts"]) != len(run.progress.every):
        differences = list(described.differences({**found, "rates": []}).values())
        refuse(
            "hold checkpoints of this model and optimizer, or none",
            "".join([" of another", *(f": {text}" for text in differences[:1])]),
        )
    for name, difference in described.differences(found).items():
        if name not in accept:
            refuse(
                f"hold checkpoints of this {name}, or none",
                f" of another: {difference}",
                f". `ResumableTraining(accept={name!r})` resumes the run anyway.",
            )
    steps = run.progress.steps_per_epoch
    if found["batch"] and found["steps"] != steps:
        bound = "hold checkpoints with the same number of steps per epoch, or none"
        refuse(bound, f" of {found['steps']}, for {steps}")
    several = run.model.steps_per_execution
    if found["batch"] not in (0, steps) and found["batch"] % several:
        bound = f"hold a checkpoint after whole executions of {several} steps, or none"
        refuse(bound, f" after {found['batch']} steps of an epoch")
    if found["batch"] and reason is not None:
        bound = "hold a checkpoint of an epoch's end, or none"
        refuse(bound, f" of a batch within one, and the data {reason}")


def initial(model: Any, sample: Any) -> str:
    """Hashes the weights that a model trains, now, and a sample of its data."""
    hashed = hashlib.blake2b(repr(sample).encode(), digest_size=8)
    for value in variables.read(model.trainable_weights):
        hashed.update(np.ascontiguousarray(value).tobytes())
    return hashed.hexdigest()


def starts(run: Run, found: dict[str, Any]) -> list[int] | None:
    """Returns where the schedules begin after a checkpoint.

    None if the epoch determines it.
    """
    starts = [int(start) for start in found["starts"]]
    before, now = found["steps"], run.progress.steps_per_epoch
    if before == now:
        return starts
    if before is None or now is None:
        return None
    # At the same fraction of the run, even if updates were skipped.
    counts = map(optimizers.iterations, run.progress.every)
    return [
        count - (count - start) * now // before
        for count, start in zip(counts, starts, strict=True)
    ]


@contextlib.contextmanager
def restoring(path: Any) -> Iterator[None]:
    """Raises `ValueError` that names the file if its content cannot be restored."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # Keras and the backends raise many.
        text = f"{type(error).__name__}: {error}"
        raise ValueError(f"`{path}` cannot be restored. {text}") from error


def named(metrics_variables: list) -> list[str]:
    """Returns the names of the values of metrics, without Keras's numbers."""
    every = variables.owners(metrics_variables)
    return [re.sub(r"_\d+(?=/|$)", "", variable.path) for variable in every]


def metrics(found: dict[str, Any], model: Any) -> list[np.ndarray]:
    """Returns what a checkpoint within an epoch holds for a model's metrics.

    Raises:
        ValueError: If they are other metrics.
    """
    names = named(model.metrics_variables)
    before = found.get("metrics_named", names)
    if before != names or len(names) != len(found["metrics"]):
        raise ValueError(
            "A run that resumes within an epoch must be compiled with the metrics of "
            f"the interrupted run, whose variables are {before}. Received: {names}"
        )
    return found["metrics"]


def state_of_model(run: Run) -> dict[str, Any]:
    """Returns the values of a model's variables, and what its layers hold besides."""
    model = run.model
    state = models.state_variables(model)
    return {
        "trained": models.places_of_trained(model),
        "shapes": variables.shapes(state),
        "values": run.read(state),
        "buffers": models.buffer_values(model),
        "adapted": adapted.read(model),
        "generators": generators(model).state(),
    }


def set_model(model: Any, found: dict[str, Any]) -> None:
    """Gives a model what `state_of_model` returned.

    Raises:
        ValueError: If it holds other random generators.
    """
    adapted.check(model, found.get("adapted"))
    variables.write(_state_variables(model, found), found["values"])
    models.set_buffers(model, found["buffers"])
    adapted.write(model, found.get("adapted"))
    set_generators(model, found)


def set_generators(model: Any, found: dict[str, Any]) -> None:
    """Gives the random generators in layers and losses their states.

    Raises:
        ValueError: If there are others.
    """
    own, states = generators(model), found.get("generators", [])
    # There are none where steps were compiled.
    if states and own.state() and not own.fits(states):
        raise ValueError("its layers and losses hold other random generators")
    own.set_state(states)


def _state_variables(model, found):
    # The first checkpoints had neither generators nor all variables.
    return models.state_variables(model, all_held="generators" in found)


def state_of_optimizers(run: Run) -> dict[str, list]:
    """Returns what is known of optimizers besides variables."""
    every = run.progress.every
    return {
        "starts": [run.progress.start(one) for one in every],
        "paces": run.progress.paces.saved(every),
        "products": [bias_correction.products(one) for one in every],
        "rates_set": run.own_rates.set_by_hand(every),
    }


def set_states(
    run: Run,
    found: dict[str, Any],
    callbacks: list[tuple[Any, dict[str, Any]]],
    path: Any,
) -> None:
    """Restores what optimizers and our callbacks remember besides variables.

    Args:
        run: The run, which begins.
        found: The checkpoint's state.
        callbacks: The pairs that `matched` returned.
        path: The checkpoint, for errors.
    """
    every = run.progress.every
    rates = found.get("rates_set", [None] * len(every))
    with restoring(path):
        for optimizer, products, rate in zip(
            every, found["products"], rates, strict=True
        ):
            bias_correction.set_products(optimizer, products)
            run.own_rates.take(optimizer, rate)
        for callback, state in callbacks:
            if isinstance(callback, FitCallback):
                callback.set_state(state)


def has_diverged(model: Any, logs: dict[str, Any] | None) -> bool:
    """Whether training stopped in an epoch whose loss is not finite."""
    loss = (logs or {}).get("loss")
    return bool(model.stop_training and loss is not None and not np.isfinite(loss))


def are_finite(model: Any, values: list[np.ndarray]) -> bool:
    """Whether the weights that a model trains are finite.

    Args:
        model: The model.
        values: The values of its `models.state_variables`.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    state = variables.owners(models.state_variables(model))
    return all(
        bool(np.all(np.isfinite(value)))
        for variable, value in zip(state, values, strict=True)
        if id(variable) in trained
    )


def warn_of_divergence(model: Any, directory: Any, epoch: int) -> None:
    """Warns that a run has diverged, and that its earlier checkpoints are kept."""
    text = f"stopped in epoch {epoch} with a loss that is not finite"
    if not model.stop_training:
        text = f"has weights that are not finite in epoch {epoch}"
    warnings.warn(
        f"The run {text}: no checkpoint is written, and those in `{directory}` are "
        "kept. The same call resumes from the last. To start over, remove the folder.",
        stacklevel=4,
    )


# --- Other callbacks ---


def check_siblings(callback: Any, run: Run) -> None:
    """Raises `ValueError` if another callback of the run saves or swaps weights."""
    for other in run.siblings:
        swaps = isinstance(other, keras.callbacks.SwapEMAWeights)
        if (registry.backs_up(other) and other is not callback) or (
            swaps and other.swap_on_epoch
        ):
            raise ValueError(
                f"`{_name(callback)}` cannot work together with `{_name(other)}`."
                + (" Use `WeightAveraging` instead of it." if swaps else "")
            )


def _name(callback):
    return type(callback).__name__
