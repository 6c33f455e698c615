"""Handles SIGTERM, by which a job scheduler announces that it will kill the process."""

import math
import os
import signal
import threading
import warnings
import weakref
from typing import Any, NoReturn

from keras_lrs._fit.run import Run
from keras_lrs._keras import interrupts, random, variables
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import fields


class Sigterm:
    """Notes that SIGTERM has arrived during a run, in place of the previous handler.

    The previous handler is put back when the run ends, and called once the run is
    saved. If the signal is ignored, or has a handler that does not come from Python, it
    is left alone. A process that was forked during the run dies of it as usual.

    Attributes:
        arrived: Whether the run must be saved and end.
        validating: The model that is being evaluated, and whose evaluation is cut
            short.
    """

    def __init__(self) -> None:
        self.arrived = False
        self.validating: Any = None
        self._before: Any = None
        self._waits = False
        self._process = 0
        self._finalizer: Any = None

    def begin(self, run: Run) -> None:
        """Replaces the handler until the run ends."""
        self.arrived, self.validating = False, None
        before = interrupts.handler(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread():
            _warn("only the main thread receives it, and `fit` is called in another")
        elif before is None:
            _warn("it has a handler that does not come from Python")
        elif before is not signal.SIG_IGN:
            self._before, self._waits = before, True
            self._process = os.getpid()
            run.undo.callback(self._end)
            # A run that is garbage-collected with its model is never closed.
            self._finalizer = weakref.finalize(run, self._end)
            self._finalizer.atexit = False
            signal.signal(signal.SIGTERM, self._note)

    def stop(self) -> NoReturn:
        """Ends the run as an interruption does, once it is saved."""
        before, self.arrived = self._before, False
        self._end()
        if callable(before):
            before(signal.SIGTERM, None)
        raise KeyboardInterrupt("SIGTERM")

    def _note(self, number, frame):
        if os.getpid() != self._process:  # A worker that was forked from it.
            signal.signal(number, self._before)
            signal.raise_signal(number)
            return
        self.arrived = True
        if self.validating is not None:
            self.validating.stop_evaluating = True

    def _end(self):
        """Puts the handler back, and passes on a signal that was not handled."""
        self._waits = False
        if self._finalizer is not None:
            self._finalizer.detach()
        if interrupts.handler(signal.SIGTERM) == self._note:
            before = self._before
            # The handler may belong to an earlier run that has ended since.
            while isinstance(own := getattr(before, "__self__", None), Sigterm):
                if own._waits:
                    break
                before = own._before
            signal.signal(signal.SIGTERM, before)
        if self.arrived:
            self.arrived = False
            signal.raise_signal(signal.SIGTERM)


def _warn(reason):
    warnings.warn(
        "`ResumableTraining(on_sigterm='save')` cannot save this run on SIGTERM: "
        f"{reason}. Pass on_sigterm=None, and save the run in another way.",
        stacklevel=6,
    )


class SavedOnSigterm(FitCallback):
    """A callback that saves the run after its last step when SIGTERM arrives.

    Subclasses call `watch` in `prepare` and `batch_ends` after a batch, and implement
    `save` and `why_not_read_again`. When an epoch ends they check `sigterm.arrived`
    themselves.
    """

    def __init__(self, on_sigterm: str | None):
        super().__init__()
        if on_sigterm is not None:
            fields.one_of("on_sigterm", on_sigterm, ("save",))
        self.on_sigterm = on_sigterm
        self.sigterm = Sigterm()
        self._epoch = 0
        self._names: list[str] = []
        self._done = 0
        # Random numbers for validation are drawn before it begins.
        self._random_after: Any = None
        self._before_validation: Any = None

    def __getstate__(self):
        own = {"sigterm": Sigterm(), "_before_validation": None, "_random_after": None}
        return {**super().__getstate__(), **own}

    def save(self, epoch: int, batch: int, names: list[str]) -> None:
        """Saves the run after some batches of an epoch, with metrics of these names."""
        raise NotImplementedError

    def why_not_read_again(self) -> str | None:
        """Returns why the data cannot be read again; None if it can."""
        raise NotImplementedError

    def watch(self, run: Run, told_of_batches: bool) -> None:
        """Begins to wait for the signal.

        Args:
            run: The run that begins.
            told_of_batches: Whether `batch_ends` is called anyway. Then the data can be
                read again.
        """
        self._told_of_batches = self._reads_again = told_of_batches
        if run.progress.in_loop and not told_of_batches:  # Its steps are not seen.
            self._told_of_batches = True
            run.surround_batches()
        self.sigterm.begin(run)

    def epoch_begins_after(self, batch: int, state: Any = None) -> None:
        """Notes at which batch an epoch begins, and with which random numbers."""
        self._done, self._random_after = batch, state
        self._before_validation = None

    def step_ends(self, logs: Any) -> None:
        """Asks to be called at the end of the batch if the run must end there."""
        self._names = list(logs)
        self._done += self._model.steps_per_execution
        if self._done >= (self._run.progress.steps_per_epoch or math.inf):
            self._random_after = random.state()
        if self.sigterm.arrived and not self._told_of_batches:
            self._told_of_batches = True
            self._run.surround_batches()

    def batch_ends(self, batch: int) -> None:
        """Saves the run and ends it if the signal has arrived."""
        if self.sigterm.arrived and not self._model.stop_training:
            self._save_and_stop(batch)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keeps the values that validation changes."""
        self._before_validation = None
        if self.run is None or not self.run.begun or self.run.closed:
            return
        if self.every_step and self._random_after is not None:
            metrics = self._model.metrics_variables
            self._before_validation = metrics, variables.read(metrics)
            self.sigterm.validating = self._model
            # The model may hold averages, which are swapped out when the validation
            # ends.
            if self.sigterm.arrived:
                self._model.stop_evaluating = True

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the run if the signal has ended its validation."""
        self.sigterm.validating = None
        self._end_validation()

    def _end_validation(self):
        stops = self.sigterm.arrived and not self._model.stop_training
        if self._before_validation is None or not stops:
            return
        variables.write(*self._before_validation)
        random.set_state(self._random_after)
        self._run.end_steps()
        self._save_and_stop(self._run.progress.steps_per_epoch)

    def _save_and_stop(self, batch):
        """Saves the run after a batch if it can resume there, and ends it."""
        reason = None if self._reads_again else self.why_not_read_again()
        if reason is None:
            self.save(self._epoch, batch, self._names)
        else:
            warnings.warn(
                f"SIGTERM ended this run within an epoch. The data {reason}, so the "
                "run will resume at the end of the previous epoch. If the data then "
                "has other batches, pass `ResumableTraining(accept='data')`.",
                stacklevel=2,
            )
        self.sigterm.stop()
