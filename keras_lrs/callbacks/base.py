"""`FitCallback`: the base class of callbacks that act in the compiled step."""

import contextlib
from collections.abc import Iterable
from typing import Any

import keras

from keras_lrs._fit import registry
from keras_lrs._fit.run import Run
from keras_lrs._step.part import Wanted


class FitCallback(keras.callbacks.Callback):
    """A callback that takes part in a `Run` of `fit`.

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

    run: Run | None = None
    """The run that the callback takes part in, or took part in last."""

    def set_model(self, model: Any) -> None:
        """Registers the callback, before any other has changed the model."""
        super().set_model(model)
        registry.register(self, model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Joins the run, with the parts that it wants."""
        self.run = registry.begin(self, self._model)
        self.run.join(self)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Binds and installs, when it is the first epoch."""
        self._run.begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Acts, when what the model holds is that of the epoch's end."""
        self._run.end_epoch()
        self.epoch_ends(epoch, {} if logs is None else logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts everything back."""
        self._run.close()

    def __getstate__(self):
        # A copy takes no part in the run.
        return {**vars(self), "run": None, "_model": None}

    @property
    def _run(self):
        if self.run is None:
            raise RuntimeError(
                f"`{type(self).__name__}` was not told that training begins. Pass it "
                "to `model.fit(callbacks=[...])`."
            )
        return self.run

    # --- What the run calls ---

    def prepare(self, run: Run) -> Iterable[Wanted] | None:
        """Checks all that can be checked; returns the parts it wants in the step."""

    def fit_begins(self, epoch: int) -> None:
        """Before the first epoch, when all that is restored has been."""

    def epoch_begins(self, epoch: int) -> None:
        """At the beginning of every epoch, when all is installed."""

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """After validation; what is written into the logs, later callbacks see."""

    def step_ends(self, logs: Any) -> None:
        """After an execution; reading its `logs` waits for the device."""

    def before_all(self, hook: str, *arguments: Any) -> None:
        """Before any callback is told of a hook.

        `hook` is `"on_epoch_begin"`, `"on_epoch_end"` or `"on_train_end"`.
        """

    def after_all(self, hook: str, *arguments: Any) -> None:
        """After all callbacks, Keras's too, were told of it."""

    def fit_ends(self) -> None:
        """Once, however the run ended."""

    # --- What a run that resumes gives back ---

    def saving(self, within_epoch: bool) -> contextlib.AbstractContextManager:
        """Within it the model holds what it trains, and files are on the disk."""
        return contextlib.nullcontext()

    def get_state(self) -> dict[str, Any]:
        """What the callback remembers: a tree of JSON values and arrays."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes it up, after `fit_begins`."""
