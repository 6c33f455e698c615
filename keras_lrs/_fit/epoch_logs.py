"""The values that updates used, under the names that they have in logs."""

from typing import Any

import numpy as np

from keras_lrs._step.groups import Groups
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.scheduled_variable import ScheduledVariable
from keras_lrs.schedules import fields

_BATCH = "batch"


def check(log: Any) -> bool | str:
    """Returns the argument `log` of a callback if it is True, False or "batch"."""
    if isinstance(log, str) and log == _BATCH:
        return _BATCH
    if not isinstance(log, (bool, np.bool_)):
        error = ValueError if isinstance(log, str) else TypeError
        fields.refuse("log", f"be True, False or '{_BATCH}'", log, error)
    return bool(log)


def are_of_batches(callback: Any) -> bool:
    """Whether a callback, which may not be ours, logs its values in every batch."""
    log = getattr(callback, "log", None)
    return isinstance(log, str) and log == _BATCH


class EpochLogs:
    """Collects the values that the updates of a run used, by the keys of logs.

    Args:
        run: The run, whose first epoch is about to begin.
    """

    def __init__(self, run: Any):
        self._run = run
        known = [*run.progress.every, *self.others.values()]
        self.began = {id(one): run.progress.iterations(one) for one in known}
        """The iterations of the optimizers when the run began, by their `id`s."""

    @property
    def others(self) -> dict[str, Any]:
        """The optimizers that the model holds besides `model.optimizer`."""
        progress = self._run.progress
        return {} if progress.main is None else progress.outside

    def has_updated(self, optimizer: Any) -> bool:
        """Whether an optimizer has made an update since the run began."""
        iterations = self._run.progress.iterations(optimizer)
        return iterations > self.began[id(optimizer)]

    def optimizers(self, callback: Any, beside: bool) -> list[tuple[Any, str | None]]:
        """Returns pairs of an optimizer and the suffix of its keys; None for no keys.

        Args:
            callback: The callback that acts in the optimizers.
            beside: Whether to include optimizers besides `model.optimizer`, unless the
                callback names its optimizers.
        """
        run = self._run
        found = run.chosen(callback)
        is_single = callback.optimizers is None and len(found) == 1
        pairs: list[tuple[Any, str | None]] = [
            (one, "" if is_single else f"/{label}") for label, one in found.items()
        ]
        if beside and callback.optimizers is None:
            pairs += [(one, f"/{label}") for label, one in self.others.items()]
        # An optimizer without updates used no value. If none has any, the next values
        # count.
        updated = [(one, suffix) for one, suffix in pairs if self.has_updated(one)]
        pairs = updated or pairs[: len(found)]
        if not run.optimizers:
            return pairs
        ahead = run.progress.ahead
        # Its steps determine the values of variables.
        return pairs + [(ahead, None)] * all(ahead is not one for one, _ in pairs)

    def last(self, optimizer: Any) -> np.ndarray:
        """Returns the iterations before the last update of an optimizer."""
        return np.array([max(self._run.progress.iterations(optimizer) - 1, 0)])

    def used(
        self, optimizer: Any, suffix: str | None, past: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns all values of updates after the iterations `past`, by their keys."""
        run, values = self._run, {}
        if suffix is not None:
            values = _suffixed(run.used_values(optimizer, past), suffix)
        if optimizer is run.progress.ahead:  # Variables belong to the model.
            values |= run.variable_values(past - run.progress.start(optimizer))
        return values

    def driven(self, batch: bool = False) -> dict[str, float]:
        """Returns the last values that callbacks with a `log` drive, by their keys.

        A rate that nothing drives is left out, because the optimizer's variable may
        have changed since the last update.

        Args:
            batch: Whether they are the logs of a batch, which only callbacks with
                `log="batch"` want. Before its first update, an optimizer has used no
                value yet, so the batch has none of it.
        """
        logs: dict[str, float] = {}
        for callback in self._run.callbacks:
            is_wanted = are_of_batches(callback) if batch else callback.log
            names = _names(self._run.parts(callback)) if is_wanted else set()
            for one, suffix in self.optimizers(callback, False) if names else ():
                if batch and not self.has_updated(one):
                    suffix = None
                values = self.used(one, suffix, self.last(one))
                logs |= {
                    key: value.item()
                    for key, value in values.items()
                    if key in names or key.partition("/")[0] in names
                }
        return logs


def _suffixed(values, suffix):
    """Adds the optimizer's suffix to the names of values, before that of the group."""
    split = {key: key.partition("/") for key in values}
    return {
        f"{name}{suffix}{slash}{group}": values[key]
        for key, (name, slash, group) in split.items()
    }


def _names(parts):
    """Returns what parts drive: hyperparameters, and the paths of variables."""
    names = set()
    for part in parts:
        if part.scales:
            names.add("learning_rate")
        elif isinstance(part, (Hyperparameter, Groups)):
            names.add(part.name)
        elif isinstance(part, ScheduledVariable):
            names.add(part.variable.path)
    return names
