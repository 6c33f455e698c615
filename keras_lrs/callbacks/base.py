"""`FitCallback`: the base class of callbacks that act in the training step."""

import contextlib
from collections.abc import Iterable
from typing import Any

import keras

from keras_lrs._fit import lengths, registry
from keras_lrs._fit.run import Run
from keras_lrs._step.part import Wanted
from keras_lrs.schedules import names


class FitCallback(keras.callbacks.Callback):
    """The base class of callbacks that act in the training step.

    All callbacks of this kind in a `fit` share one run. The run binds their schedules,
    installs the parts that they want in the optimizer's step, and undoes everything
    when `fit` ends, however it ends. Subclasses override the hooks below instead of
    Keras's. None of these hooks is called for every batch, because such a hook would
    disable Keras's asynchronous dispatch.

    - `prepare(run)`: training begins. Check what can be checked, and return a list of
      `Wanted` parts.
    - `fit_begins(epoch)`: the first epoch is about to begin, and other callbacks have
      restored what they restore.
    - `epoch_begins(epoch)` and `epoch_ends(epoch, logs)`: like Keras's hooks. Later
      callbacks see the values that are written into `logs`.
    - `step_ends(logs)`: an execution of the train function has ended. Called only if
      the class sets `every_step = True`.
    - `fit_ends()`: called once, however the run ended, and once more if it is
      interrupted itself. If the run failed, an exception raised here hides the one that
      ended the run.

    `self.run` is the run:

    - `run.model`, `run.optimizers`, and `run.siblings`, all callbacks of the `fit`.
    - `run.chosen(self)`: the optimizers that the callback acts in, by their labels: all
      of `run.optimizers`, or those that its attribute `optimizers` names.
    - `run.progress`: `iterations(optimizer)`, `step(optimizer)`, `updates(optimizer)`,
      `epochs`, `steps_per_epoch`, and `window()`, to which lengths are bound.
    - `run.parts(self)`: the live parts that the callback requested.
    - `run.used_values(optimizer, iterations)`: the hyperparameters that past updates
      used, as a dictionary of float64 arrays.
    - `run.variable_values(steps)`: the values of scheduled variables that forward
      passes saw at steps of the schedules.
    - `run.bind(name, schedule)`: a schedule with its lengths in steps of this run.
    - `run.undo`: `run.undo.callback(function, *arguments)` calls a function when the
      run ends. Register it before you do what it undoes. If the run is interrupted in
      between, the function is still called. If the function is interrupted, it is
      called again.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.callbacks import FitCallback, HyperparameterScheduler
        >>> from keras_lrs.schedules import LinearDecay
        >>> class StopBelow(FitCallback):
        ...     def __init__(self, learning_rate):
        ...         super().__init__()
        ...         self.learning_rate = learning_rate
        ...
        ...     def epoch_ends(self, epoch, logs):
        ...         for optimizer in self.run.optimizers:
        ...             last = np.array([self.run.progress.iterations(optimizer) - 1])
        ...             used = self.run.used_values(optimizer, last)
        ...             if used["learning_rate"] < self.learning_rate:
        ...                 self.model.stop_training = True
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(0.1), "mse")
        >>> x = np.ones((8, 1), "float32")
        >>> callbacks = [
        ...     HyperparameterScheduler(learning_rate=LinearDecay(0.1)), StopBelow(0.05)
        ... ]
        >>> history = model.fit(x, x, 2, epochs=10, verbose=0, callbacks=callbacks)
        >>> len(history.epoch)  # Of 40 steps, the 21st has half of the rate.
        6
    """

    first = False
    """Whether it must come before all others in the list, which read what it writes."""
    every_step = False
    """Whether `step_ends` is called after every execution of the train function."""
    fresh_metrics = False
    """Whether metrics start over in every execution, so that its logs are its own."""

    backs_up = False
    """Whether it comes after our other callbacks and saves their state."""

    described = False
    """Whether MLflow, W&B and TensorBoard get what its `describe` returns."""

    log: bool | str = False
    """Whether the last values that its parts set go into the logs of an epoch.

    `"batch"` means those of every batch as well.
    """

    _handed = False
    """Whether Keras has passed the model for the next run."""

    optimizers: tuple | None = None
    """The optimizers that it acts in, or their names; None for all of the run."""
    steps_per_epoch: int | None = None
    """The batches per epoch, for data of unknown length; None if not given."""

    updates_per_batch: Any = None
    """How many updates these make per batch, as `paces.check` returns it."""

    run: Run | None = None
    """The run that the callback takes part in, or took part in last."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__init__" in vars(cls):
            cls.__init__ = names.hinted(cls.__init__)  # type: ignore[method-assign]

    def set_model(self, model: Any) -> None:
        """Registers the callback before any other has changed the model."""
        super().set_model(model)
        self._handed = True
        registry.register(self, model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Joins the run with the parts that it wants."""
        if self._model is None:
            raise RuntimeError(
                f"`{type(self).__name__}` was given no model. Pass `model=` to the "
                "`CallbackList`."
            )
        if not self._handed:  # A list that is used again does not.
            self.set_model(self._model)
        self._handed = False
        try:
            self.run = registry.begin(self, self._model)
            self.run.join(self)
        except BaseException:
            registry.break_off(self._model)
            raise

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Binds schedules and installs parts when the first epoch begins."""
        self._run.begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Acts once the model is in its state of the epoch's end."""
        self._run.end_epoch(epoch)
        lengths.check_epoch(self, self._run.progress)
        self.epoch_ends(epoch, {} if logs is None else logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts everything back."""
        self._run.close()

    def __getstate__(self):
        # A copy does not take part in the run.
        return {**vars(self), "run": None, "_model": None}

    @property
    def _run(self):
        if self.run is None:
            raise RuntimeError(
                f"`{type(self).__name__}` has not joined a run. Pass it to "
                "`model.fit(callbacks=[...])`."
            )
        return self.run

    # --- What the run calls ---

    def prepare(self, run: Run) -> Iterable[Wanted] | None:
        """Checks what can be checked; returns the parts that it wants in the step."""

    def fit_begins(self, epoch: int) -> None:
        """Called before the first epoch, after everything has been restored."""

    def epoch_begins(self, epoch: int) -> None:
        """Called at the beginning of every epoch, after everything is installed."""

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Called after validation; later callbacks see what it writes into the logs."""

    def step_ends(self, logs: Any) -> None:
        """Called after an execution; reading its `logs` waits for the device."""

    def before_all(self, hook: str, *arguments: Any) -> None:
        """Called before a hook of any callback.

        `hook` is `"on_epoch_begin"`, `"on_epoch_end"` or `"on_train_end"`.
        """

    def after_all(self, hook: str, *arguments: Any) -> None:
        """Called after that hook of all callbacks, including Keras's."""

    def fit_ends(self) -> None:
        """Called once, however the run ended."""

    # --- What trackers record ---

    def replaces(self, optimizer: Any) -> set[str]:
        """Returns the names in an optimizer's config whose values a run replaces.

        MLflow does not log them, if the callback is `described`.
        """
        return set()

    # --- What a resumed run restores ---

    def saving(self, within_epoch: bool) -> contextlib.AbstractContextManager:
        """Makes the model hold its raw weights, and files be on disk, while saving."""
        return contextlib.nullcontext()

    def get_state(self) -> dict[str, Any]:
        """Returns what the callback remembers: a tree of JSON values and arrays."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores that state, after `fit_begins`."""
