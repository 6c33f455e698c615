"""The values that updates used, under the names that they have in logs."""

from typing import Any

import numpy as np

from keras_lrs._step.groups import Groups
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.scheduled_variable import ScheduledVariable


class EpochLogs:
    """Tells what the updates of a run used, by the keys of logs.

    Args:
        run: The run, whose first epoch is about to begin.
    """

    def __init__(self, run: Any):
        self._run = run
        known = [*run.progress.every, *self.others.values()]
        self.began = {id(one): run.progress.iterations(one) for one in known}
        """The iterations of the optimizers when the run began, by their identity."""

    @property
    def others(self) -> dict[str, Any]:
        """The optimizers that the model holds beside `model.optimizer`."""
        progress = self._run.progress
        return {} if progress.main is None else progress.outside

    def has_updated(self, optimizer: Any) -> bool:
        """Whether an optimizer has made an update since the run began."""
        iterations = self._run.progress.iterations(optimizer)
        return iterations > self.began[id(optimizer)]

    def optimizers(self, callback: Any, beside: bool) -> list[tuple[Any, str | None]]:
        """Pairs of an optimizer and what its keys end with; None if it has no keys.

        Args:
            callback: Whose optimizers they are.
            beside: Whether those beside `model.optimizer` are meant as well, unless the
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
        # What made no update used no value; if none did, it is the next that would.
        updated = [(one, suffix) for one, suffix in pairs if self.has_updated(one)]
        pairs = updated or pairs[: len(found)]
        if not run.optimizers:
            return pairs
        ahead = run.progress.ahead
        # By its steps the values of variables are told.
        return pairs + [(ahead, None)] * all(ahead is not one for one, _ in pairs)

    def last(self, optimizer: Any) -> np.ndarray:
        """The iterations before the last update of an optimizer."""
        return np.array([max(self._run.progress.iterations(optimizer) - 1, 0)])

    def used(
        self, optimizer: Any, suffix: str | None, past: np.ndarray
    ) -> dict[str, np.ndarray]:
        """All values of updates after so many iterations, by their keys."""
        run, values = self._run, {}
        if suffix is not None:
            values = _suffixed(run.used_values(optimizer, past), suffix)
        if optimizer is run.progress.ahead:  # Variables are the model's.
            values |= run.variable_values(past - run.progress.start(optimizer))
        return values

    def driven(self) -> dict[str, float]:
        """The last values of what callbacks drive whose `log` is true, by their keys.

        A rate that nothing drives is left out: the optimizer's variable may hold
        another one by now than that of the last update.
        """
        logs: dict[str, float] = {}
        for callback in self._run.callbacks:
            names = _names(self._run.parts(callback)) if callback.log else set()
            for one, suffix in self.optimizers(callback, False) if names else ():
                values = self.used(one, suffix, self.last(one))
                logs |= {
                    key: value.item()
                    for key, value in values.items()
                    if key in names or key.partition("/")[0] in names
                }
        return logs


def _suffixed(values, suffix):
    """Values under names with that of the optimizer, which comes before the group's."""
    split = {key: key.partition("/") for key in values}
    return {
        f"{name}{suffix}{slash}{group}": values[key]
        for key, (name, slash, group) in split.items()
    }


def _names(parts):
    """What parts drive: hyperparameters, and the paths of variables."""
    names = set()
    for part in parts:
        if part.scales:
            names.add("learning_rate")
        elif isinstance(part, (Hyperparameter, Groups)):
            names.add(part.name)
        elif isinstance(part, ScheduledVariable):
            names.add(part.variable.path)
    return names
