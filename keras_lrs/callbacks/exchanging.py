"""What callbacks have in common that put averaged weights into the model."""

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_lrs import training
from keras_lrs.averages.batch_norm import recalibrate_batch_norm
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.fit import Fit
from keras_lrs.schedules import fields


class ExchangingCallback(FitCallback):
    """A callback under which the model holds the averages, but for training.

    They are put in when a test or a prediction begins and when an epoch ends, so that
    what is measured, saved and restored then are the same weights, and taken out before
    training goes on; only `BackupAndRestore` gets to see the training's own weights.

    Subclasses implement `exchange`, `exchanged`, `exists` and `keep`.
    """

    first = True  # Those after it in the list see the averages.

    def __init__(
        self,
        at_end: str,
        batch_norm: str,
        batch_norm_data: Any,
        batch_norm_steps: int | None,
    ):
        super().__init__()
        fields.one_of("at_end", at_end, ("average", "raw"))
        fields.one_of("batch_norm", batch_norm, ("keep", "recalibrate"))
        if (batch_norm == "recalibrate") != (batch_norm_data is not None):
            fields.refuse(
                "batch_norm_data",
                "be given with batch_norm='recalibrate', and only then",
                batch_norm_data,
            )
        if batch_norm_steps is not None:
            batch_norm_steps = fields.count("batch_norm_steps", batch_norm_steps, 1)
        self.at_end = at_end
        self.batch_norm = batch_norm
        self.batch_norm_data = batch_norm_data
        self.batch_norm_steps = batch_norm_steps
        self._own_statistics: list | None = None
        self._recalibrated: tuple[Any, list] | None = None
        self._tested = False
        self._backups: list[Any] = []
        self._finalizer: Any = None

    # --- What subclasses say ---

    def exchange(self) -> None:
        """Exchanges the model's weights and the averages."""
        raise NotImplementedError

    @property
    def exchanged(self) -> bool:
        """Whether the model holds the averages."""
        raise NotImplementedError

    @property
    def exists(self) -> bool:
        """Whether there is an average yet."""
        raise NotImplementedError

    def keep(self) -> None:
        """Lets the model keep the averages it holds, when training has ended."""

    # --- Putting in and taking out ---

    def put_in(self) -> None:
        """Puts the averages into the model, and the statistics that go with them."""
        if self.exchanged or not self.exists:
            return
        self.exchange()
        if self.batch_norm == "recalibrate":
            self._recalibrate()

    def take_out(self) -> None:
        """Gives the model back what it held, bit for bit."""
        if not self.exchanged:
            return
        self.exchange()
        if self._own_statistics is not None:
            training.assign(self._statistics, self._own_statistics)
            self._own_statistics = None

    def _recalibrate(self):
        statistics = self._statistics
        own = training.values(statistics)
        count = tuple(
            training.iterations(optimizer)
            for optimizer in training.leaves(self._model.optimizer)
        )
        if self._recalibrated is not None and self._recalibrated[0] == count:
            training.assign(statistics, self._recalibrated[1])
        else:
            recalibrate_batch_norm(
                self._model, self.batch_norm_data, self.batch_norm_steps
            )
            self._recalibrated = (count, training.values(statistics))
        self._own_statistics = own

    @property
    def _statistics(self):
        """The statistics of all batch normalizations of the model."""
        return [
            variable
            for layer in training.batch_norms(self._model)
            for variable in layer.non_trainable_variables
        ]

    # --- When ---

    def prepare(self, fit: Fit) -> None:
        """Refuses others of its kind, and lets backups be of the training's weights."""
        for other in fit.siblings:
            if other is not self and isinstance(
                other, (ExchangingCallback, keras.callbacks.SwapEMAWeights)
            ):
                raise ValueError(
                    f"`{type(self).__name__}` cannot work beside "
                    f"`{type(other).__name__}`: both exchange the model's weights."
                )
        self._end_what_broke_off()
        self._recalibrated = None
        for other in fit.siblings:
            if isinstance(other, keras.callbacks.BackupAndRestore):
                self._let_back_up(other)

    def _let_back_up(self, backup):
        plain = backup.on_epoch_end

        def on_epoch_end(epoch, logs=None):
            with self.saving():
                plain(epoch, logs)

        vars(backup)["on_epoch_end"] = on_epoch_end
        self._backups.append(backup)

    @contextlib.contextmanager
    def saving(self, within_epoch: bool = False) -> Iterator[None]:
        """Within it the model holds the training's own weights."""
        # Within an epoch it does anyway, and on JAX cannot be looked at.
        was_in = not within_epoch and self.exchanged
        if was_in:
            self.take_out()
        try:
            yield
        finally:
            if was_in:
                self.put_in()

    def epoch_begins(self, epoch: int) -> None:
        """Training goes on from its own weights."""
        self.take_out()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Tests see the averages."""
        self._end_what_broke_off()
        self._tested = not self.exchanged
        if self._tested and (self.fit is None or self.fit.closed):
            # `evaluate` calls nothing when it breaks off, but then drops its list.
            callbacks = training.callback_list()
            if callbacks is not None:
                finalizer = weakref.finalize(callbacks, _take_out, weakref.ref(self))
                finalizer.atexit = False
                self._finalizer = finalizer
        self.put_in()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """The model is as it was before."""
        if self._finalizer is not None:
            # Its list may be dropped only when a later test is under way.
            self._finalizer.detach()
        if self._tested:
            self.take_out()

    def _end_what_broke_off(self):
        """Takes out what a test that broke off has left in the model."""
        if self._finalizer is not None:
            self._finalizer()  # Does nothing a second time.

    def __getstate__(self):
        return {**super().__getstate__(), "_finalizer": None, "_backups": []}

    on_predict_begin = on_test_begin
    on_predict_end = on_test_end

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Callbacks after this one save and restore the averages."""
        self.put_in()

    def fit_ends(self) -> None:
        """However it ended, the model is as training left it."""
        self.take_out()
        for backup in self._backups:
            vars(backup).pop("on_epoch_end", None)
        self._backups = []

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """The model gets the weights that `at_end` says."""
        super().on_train_end(logs)
        if self.at_end == "average":
            self.put_in()
            self._own_statistics = None
            self.keep()


def _take_out(reference):
    callback = reference()
    if callback is not None:
        callback.take_out()
