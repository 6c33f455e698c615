"""Resumes data that has a state."""

import contextlib
from typing import Any

from keras_lrs._keras import models
from keras_lrs._keras.fit_data import FitData, digest


class DataMemory:
    """The state of a run's data, and the first batches of its epochs.

    The state is saved and restored. The first batch of an epoch that the interrupted
    run had begun shows whether that was enough, because its hash must be the same.

    Args:
        run: The run.
        may_differ: Whether batches may differ from those of the interrupted run.
    """

    def __init__(self, run: Any, may_differ: bool):
        self._run = run
        # Other processes of a distributed run have other batches.
        self._is_chief = models.is_chief(run.model)
        self._may_differ = may_differ or not self._is_chief
        self._checkpoints: Any = None
        self._data = FitData(run.model)
        self._found: dict[str, Any] | None = None
        self._at_epoch: dict[str, Any] | None = None
        self._first_batches: dict[str, Any] = {}

    def why_not_read_again(self) -> str | None:
        """Returns why the data cannot be read again in the same order, or None."""
        reason = self._data.why_not_read_again()
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
        self._found = state.get("data")
        listed = checkpoints.extras.get("first_batches", {}) if state else {}
        self._first_batches = {**listed, **state.get("first_batches", {})}

    def state(self, within_epoch: bool) -> dict[str, Any]:
        """Returns the data's state, now or when the epoch began, and the hashes."""
        state = self._at_epoch if within_epoch else self._data.state()
        return {"data": state, "first_batches": self._needed()}

    def epoch_begins(self) -> None:
        """Sets or notes the state of the data before any callback has acted."""
        found, self._found = self._found, None
        if found is not None:
            self._data.set_state(found)
        self._at_epoch = self._data.state()

    def compare_first_batch(self, epoch: int) -> None:
        """Compares an epoch's first batch with that of the interrupted run."""

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
