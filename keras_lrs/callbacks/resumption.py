"""Checks whether a run may resume from a checkpoint and whether one may be written."""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._fit import registry
from keras_lrs._fit.run import Run
from keras_lrs._keras import (
    attributes,
    fingerprint,
    fit_loop,
    models,
    optimizers,
    variables,
)
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
        for name in fingerprint.PARTS:
            if name in given and not told.get(name):
                own = self.attributes[name]
                told[name] = attributes.difference(name, own, given[name])
        if not told.get("optimizer"):
            told["optimizer"] = self._other_rate(found)
        return {name: text for name, text in told.items() if text}

    def _other_rate(self, found):
        """Returns how a rate differs from the given and the last one; None if not."""
        rates = found.get("rates", [])
        state = models.state_variables(self._model)
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
    shapes = variables.shapes(models.state_variables(run.model))
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
    if found["batch"] and reason is not None:
        bound = "hold a checkpoint of an epoch's end, or none"
        refuse(bound, f" of a batch within one, and the data {reason}")


def initial(model: Any, sample: Any) -> str:
    """Hashes the weights that a model trains and a sample of its data."""
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


def restore_callback(callback: Any, state: dict[str, Any], path: Any) -> None:
    """Gives one of the user's callbacks, or Keras's, its state in a checkpoint."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)  # Raises the user's own errors.
        return
    with restoring(path):
        fit_loop.remind(callback, state)


def has_diverged(model: Any, logs: dict[str, Any] | None) -> bool:
    """Whether training stopped in an epoch whose loss is not finite."""
    loss = (logs or {}).get("loss")
    return bool(model.stop_training and loss is not None and not np.isfinite(loss))


def warn_of_divergence(directory: Any, epoch: int) -> None:
    """Warns that a run has diverged, and that its earlier checkpoints are kept."""
    warnings.warn(
        f"The run stopped in epoch {epoch} with a loss that is not finite: no "
        f"checkpoint is written, and those in `{directory}` are kept. The same call "
        "resumes from the last. To start over, remove the folder.",
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


def states(run: Run) -> list[list]:
    """Returns pairs of a callback's class name and the state that it remembers."""
    return [
        [_name(callback), remembered]
        for callback in run.siblings
        if (remembered := _state(callback))
    ]


def matched(run: Run, states: list) -> list[tuple[Any, dict[str, Any]]]:
    """Pairs callbacks with their states by the names of their classes."""
    left, found = list(states), []
    for callback in run.siblings:
        own = [item for item in left if item[0] == _name(callback)][:1]
        for item in own:
            left.remove(item)
            found.append((callback, item[1]))
    if left:
        names = ", ".join(f"`{name}`" for name, _ in left)
        warnings.warn(
            f"This run resumes without callbacks of the interrupted run: {names}.",
            stacklevel=3,
        )
    return found


def _name(callback):
    return type(callback).__name__


def _state(callback):
    """Returns what a callback remembers; None if no state of it is known."""
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        return callback.get_state()
    return fit_loop.remembered(callback)
