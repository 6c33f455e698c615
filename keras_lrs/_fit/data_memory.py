"""Resumes data that has a state."""

import contextlib
import warnings
from typing import Any

from keras_lrs._fit import hooks
from keras_lrs._keras import models
from keras_lrs._keras.fit_data import FitData, ValidationData, digest

_PARTS = ("data", "validation_data")


class DataMemory:
    """The state of a run's data, and the first batches of its epochs.

    The state is saved and restored, that of the validation data too. The first batch of
    an epoch that the interrupted run had begun shows whether that was enough, because
    its hash must be the same. A warning names what is not restored.

    Args:
        run: The run.
        may_differ: Whether batches may differ from those of the interrupted run.
    """

    def __init__(self, run: Any, may_differ: bool):
        self._run = run
        # Other processes of a distributed run have other batches.
        self._is_chief = models.is_chief(run.model)
        self._accepts = self._may_differ = may_differ or not self._is_chief
        self._checkpoints: Any = None
        self._data = FitData(run.model)
        self._validation = ValidationData(run.model)
        self._found: dict[str, Any] = {}
        self._at_epoch: dict[str, Any] = {}
        self._lost: dict[str, list[str]] = {}
        self._is_old = False
        self._first_batches: dict[str, Any] = {}

    def why_not_read_again(self, within_epoch: bool = True) -> str | None:
        """Returns why the data cannot be read again in the same order, or None.

        Args:
            within_epoch: Whether the run may resume within an epoch. If not, a warning
                says that a generator or endless data cannot resume with the run.
        """
        reason = self._data.why_not_read_again(probe=within_epoch)
        if reason and not (
            within_epoch or self._may_differ or self._run.progress.in_loop
        ):
            warnings.warn(
                f"If this run is interrupted and resumes, its batches may differ from "
                f"those of an uninterrupted run: the data {reason}. To accept this, "
                "pass `ResumableTraining(accept='data')`.",
                stacklevel=3,
            )
        # The user gets a warning, and the run resumes anyway.
        self._may_differ = self._may_differ or reason is not None
        return reason

    def sample(self) -> Any:
        """Returns a sample that identifies the data, if it is known without reading."""
        return self._data.sample()

    def take_up(self, checkpoints: Any, state: dict[str, Any]) -> None:
        """Takes the state from a checkpoint, for when the epoch begins.

        Args:
            checkpoints: The folder, whose manifest holds hashes of first batches.
            state: The checkpoint's state; empty without one.
        """
        self._checkpoints = checkpoints
        self._found = {name: state[name] for name in _PARTS if state.get(name)}
        listed = checkpoints.extras.get("first_batches", {}) if state else {}
        self._first_batches = {**listed, **state.get("first_batches", {})}

    def state(self, within_epoch: bool) -> dict[str, Any]:
        """Returns the data's state, now or when the epoch began, and the hashes."""
        state = self._at_epoch if within_epoch else self._states()
        return {**state, "first_batches": self._needed()}

    def epoch_begins(self) -> None:
        """Sets or notes the state of the data before any callback has acted."""
        found, self._found = self._found, {}
        if "data" in found:
            lost = self._lost["data"] = self._data.set_state(found["data"])
            # Earlier versions did not save as much of the state.
            self._is_old = bool(lost) and "changed" not in found["data"]
        if "validation_data" in found:
            self._resume_validation(found["validation_data"])
        self._at_epoch = self._states()

    def _resume_validation(self, state):
        self._lost["validation data"] = self._validation.set_state(state)
        if self._validation.is_read_when_made():
            undo = hooks.replace_hook(
                self._run,
                self._run.callback_list(),
                "on_test_begin",
                lambda method: lambda *arguments: begin(method, *arguments),
            )

        def begin(method, *arguments):
            undo()
            self._validation.set_state(state)
            method(*arguments)

    def _states(self):
        return {"data": self._data.state(), "validation_data": self._validation.state()}

    def _warn_of_losses(self) -> None:
        """Warns of what the data holds and could not be restored."""
        for kind, names in self._lost.items():
            source: Any = self._data if kind == "data" else self._validation
            lost = source.left_as_restored(names)
            if lost and not (self._may_differ if kind == "data" else self._accepts):
                warnings.warn(
                    f"The {kind} has changed in the interrupted run, and this is not "
                    f"restored: {', '.join(lost)}. If batches depend on it, they "
                    "differ from those of an uninterrupted run. Give the data the "
                    "methods `get_state()` and `set_state(state)`. To accept this, "
                    "pass `ResumableTraining(accept='data')`.",
                    stacklevel=2,
                )
        self._lost = {}
        self._may_differ = self._may_differ or self._is_old

    def compare_first_batch(self, epoch: int) -> None:
        """Compares an epoch's first batch with that of the interrupted run.

        It also warns of what the data holds and could not be restored.
        """
        if epoch < self._run.progress.epochs:  # It is not over.
            self._warn_of_losses()

        def note(batch):
            found = digest(batch)
            expected = self._first_batches.get(str(epoch))
            if not self._may_differ and _are_others(found, expected):
                raise ValueError(
                    f"The first batch of epoch {epoch + 1} is not the one in the "
                    "interrupted run: the data has changed, or has state that is not "
                    "in the checkpoint. Let the data hold the seeded generators of its "
                    "random numbers, give it the methods `get_state()` and "
                    "`set_state(state)`, or pass `ResumableTraining(accept='data')` to "
                    "train on it anyway."
                )
            self._first_batches[str(epoch)] = found
            self._list(epoch)

        self._run.watch_first_batch(note)

    def _list(self, epoch):
        """Writes the hash of the first batch if the last checkpoint came before it."""
        records = self._checkpoints.records
        last = (records[-1].epoch, records[-1].batch) if records else None
        if self._is_chief and last == (epoch, 0):
            self._checkpoints.extras["first_batches"] = self._needed()
            # If the disk is full, the next checkpoint raises the error.
            with contextlib.suppress(OSError):
                self._checkpoints.write()

    def _needed(self):
        """Returns the hashes of the epochs in which a checkpoint may resume."""
        first = min((record.epoch for record in self._checkpoints.records), default=0)
        return {k: v for k, v in self._first_batches.items() if int(k) >= first}


def _are_others(found, expected):
    """Whether batches of the same shapes differ; other shapes mean other data."""
    if found is None or expected is None:
        return False
    return found[0] == expected[0] and found[1] != expected[1]
