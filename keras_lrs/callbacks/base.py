"""What our callbacks have in common: they take part in a `Fit`."""

import contextlib
from typing import Any

import keras

from keras_lrs.callbacks import fit as fits


class FitCallback(keras.callbacks.Callback):
    """A callback that hands Keras's hooks on to the `Fit` it is part of.

    None of ours defines a batch hook: it would end Keras's asynchronous dispatch.
    """

    first = False
    """Whether it must come before all others in the list: they read what it writes."""
    every_step = False
    """Whether `step_ends` is called after every execution of the train function."""
    fresh_metrics = False
    """Whether metrics begin anew in every execution: its logs are then its own."""

    backs_up = False
    """Whether it comes after our others: it saves, with `saving`, what they are."""

    fit: fits.Fit | None = None

    def set_model(self, model: Any) -> None:
        """Announces the callback, before any other has changed the model."""
        super().set_model(model)
        fits.announce(self, model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Joins the fit and says what it wants from it."""
        self.fit = fits.begin(self, self._model)
        self.prepare(self.fit)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Binds and installs, when it is the first epoch."""
        self._fit.begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Acts, when what the model holds is that of the epoch's end."""
        self._fit.end_epoch()
        self.epoch_ends(epoch, {} if logs is None else logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts everything back."""
        self._fit.close()

    def __getstate__(self):
        # A copy takes no part in the training.
        return {**vars(self), "fit": None, "_model": None}

    @property
    def _fit(self):
        if self.fit is None:
            raise RuntimeError(
                f"`{type(self).__name__}` was not told that a training begins. Pass it "
                "to `model.fit(callbacks=[...])`."
            )
        return self.fit

    # --- What the `Fit` calls ---

    def prepare(self, fit: fits.Fit) -> None:
        """Checks everything that can be checked, and asks the fit for what it needs."""

    def fit_begins(self, epoch: int) -> None:
        """Before the first epoch, when all that is restored has been."""

    def epoch_begins(self, epoch: int) -> None:
        """At the beginning of every epoch, when all is installed."""

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """After validation; what is written into the logs, later callbacks see."""

    def step_ends(self, logs: Any) -> None:
        """After an execution; reading its `logs` waits for the device."""

    def before_all(self, hook: str, *arguments: Any) -> None:
        """Before any callback is told one of the `fit.OUTER` hooks."""

    def after_all(self, hook: str, *arguments: Any) -> None:
        """After all callbacks, Keras's too, were told one of the `fit.OUTER` hooks."""

    def fit_ends(self) -> None:
        """Once, however the training ended."""

    # --- What a training that goes on gives back ---

    def saving(self, within_epoch: bool) -> contextlib.AbstractContextManager:
        """Within it the model holds what it trains, and files are on the disk."""
        return contextlib.nullcontext()

    def get_state(self) -> dict[str, Any]:
        """What the callback remembers: a tree of JSON values and arrays."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes it up, after `fit_begins`."""
