"""`HyperparameterLogger`: logs the values that training really used."""

import contextlib
import io
import itertools
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_lrs._fit import chosen, idle
from keras_lrs._fit.run import Run
from keras_lrs._step.part import Wanted
from keras_lrs._storage import files
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import fields

_SECONDS = 5.0  # Between two looks at the optimizer within an epoch.
_VERSION = "brain.Event:2"  # Of TensorBoard's files.
_COUNTER = itertools.count()  # Of the files of this process.


class HyperparameterLogger(FitCallback):
    """Adds the hyperparameters that were used to the logs of every epoch.

    Callbacks that drive hyperparameters add them to the logs themselves. Use this
    callback for TensorBoard, and for a rate that no callback drives.

    It logs the rate, wherever it comes from (a float, a schedule, or a
    `HyperparameterScheduler`, times the factor of a `ReduceOnPlateau`), and all other
    hyperparameters that a scheduler drives. The values are those of the last update of
    the epoch, not of the next one. `History`, `CSVLogger`, `TensorBoard` and other
    callbacks see them, wherever they are in the list. The keys are `learning_rate`,
    `momentum` and so on. With several optimizers they are `learning_rate/<name of the
    optimizer>`; for optimizers other than `model.optimizer`, the name is that of the
    model's attribute. An optimizer that makes no update while others do is not logged.
    Groups of variables with their own values are logged as well, as
    `learning_rate/<pattern>`. Groups with equal schedules are logged once, under the
    first of their patterns. The key of a variable that a `VariableScheduler` sets is
    its path.

    With `log_dir` the values are also written as TensorBoard scalars. Their step is the
    number of updates before the one that used the value. Nothing is computed in the
    training step, and the callback waits for the device only once in 5 seconds. If the
    folder is removed during the run, it is created again for the scalars that follow.

    Args:
        every: `"epoch"` or, with `log_dir`, the number of steps from one scalar to the
            next.
        log_dir: The folder for TensorBoard's event files; needs the package
            `tensorboard`.
        optimizers: The optimizers to log: a name (of an optimizer, or of the model's
            attribute that holds it), an optimizer, or a list of these. None means all.
            If some are named, their keys end with their names.

    Raises:
        ValueError: If `every` is out of range, or a number without `log_dir`.
        RuntimeError: After the first epoch, if no optimizer made an update.
        ImportError: If `log_dir` is given and `tensorboard` is not installed.
        OSError: If the scalars cannot be written; before the first step, if `log_dir`
            is not writable.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.callbacks import HyperparameterLogger
        >>> from keras_lrs.schedules import LinearDecay
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(LinearDecay(0.1, 10)), "mse")
        >>> x = np.ones((5, 1), "float32")
        >>> history = model.fit(
        ...     x, x, 1, epochs=2, verbose=0, callbacks=[HyperparameterLogger()]
        ... )
        >>> [round(rate, 4) for rate in history.history["learning_rate"]]
        [0.06, 0.01]
    """

    first = True

    def __init__(
        self,
        every: str | int = "epoch",
        log_dir: str | os.PathLike | None = None,
        *,
        optimizers: chosen.Optimizers = None,
    ):
        super().__init__()
        self.optimizers = chosen.check(optimizers)
        self.every = fields.cadence("every", every)
        self.every_step = self.every != "epoch"
        if self.every_step and log_dir is None:
            fields.refuse("every", "be 'epoch' without `log_dir`", every)
        self.log_dir = None if log_dir is None else fields.path("log_dir", log_dir)
        self._writer: Any = None if log_dir is None else _Writer(self.log_dir)

    def prepare(self, run: Run) -> list[Wanted]:
        """Checks that the scalars can be written."""
        if self.log_dir is not None:
            files.check_writable(self.log_dir / "events")
        return []

    def fit_begins(self, epoch: int) -> None:
        """Notes the iterations of the optimizers."""
        self._written = dict(self._run.epoch_logs.began)
        self._looked = time.monotonic()

    def step_ends(self, logs: Any) -> None:
        """Writes every few seconds the values used since the last time."""
        if time.monotonic() - self._looked >= _SECONDS:
            self._write_steps()

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Adds the values of the epoch's last update to its logs."""
        run, epoch_logs = self._run, self._run.epoch_logs
        logged = epoch_logs.optimizers(self, beside=True)
        if run.executed and not any(epoch_logs.has_updated(one) for one, _ in logged):
            idle.check(run, type(self).__name__, epoch_logs.began)
        for optimizer, suffix in logged:
            last = epoch_logs.last(optimizer)
            values = epoch_logs.used(optimizer, suffix, last)
            logs.update({tag: value.item() for tag, value in values.items()})
            if self._writer is not None and self.every == "epoch":
                self._writer.write(last, values)
        if self.every_step:
            self._write_steps()

    @contextlib.contextmanager
    def saving(self, within_epoch: bool = False) -> Iterator[None]:
        """Writes the scalars up to here before anything else is saved."""
        if self.every_step:
            self._write_steps()
        yield

    def fit_ends(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()

    def _write_steps(self):
        self._looked = time.monotonic()
        epoch_logs = self._run.epoch_logs
        for optimizer, suffix in epoch_logs.optimizers(self, beside=True):
            first = self._written[id(optimizer)]
            end = self._run.progress.iterations(optimizer)
            past = np.arange(-(-first // self.every) * self.every, end, self.every)
            values = epoch_logs.used(optimizer, suffix, past)
            self._writer.write(past, values)
            self._written[id(optimizer)] = end


class _Writer:
    """Writes TensorBoard scalars to a file that the first of them opens.

    TensorBoard's own writer would leave the file open, and lose what is written to it
    after someone has removed it.
    """

    def __init__(self, log_dir):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer import record_writer
        except ImportError as error:
            raise ImportError(
                "`HyperparameterLogger(log_dir=...)` needs TensorBoard: "
                "pip install tensorboard"
            ) from error
        self._log_dir = log_dir
        self._event = event_pb2.Event
        self._summary = summary_pb2.Summary
        self._records = record_writer.RecordWriter
        self._path = None

    def write(self, steps, values):
        """Writes an event per step with the scalars of all tags.

        Raises:
            OSError: If the file cannot be written.
        """
        now = time.time()
        columns = [array.tolist() for array in values.values()]
        events = []
        for step, *row in zip(steps.tolist(), *columns, strict=True):
            scalars = [
                self._summary.Value(tag=tag, simple_value=value)
                for tag, value in zip(values, row, strict=True)
            ]
            summary = self._summary(value=scalars)
            events.append(self._event(wall_time=now, step=step, summary=summary))
        if self._path is None:
            self._path = self._log_dir / _file_name(now)
        with files.naming(self._path):
            self._log_dir.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab") as file:
                if file.tell() == 0:
                    events.insert(0, self._event(wall_time=now, file_version=_VERSION))
                file.write(self._serialized(events))

    def _serialized(self, events):
        content = io.BytesIO()
        records = self._records(content)
        for event in events:
            records.write(event.SerializeToString())
        return content.getvalue()

    def close(self):
        """Makes the next scalars open a file of their own."""
        self._path = None


def _file_name(now):
    """Returns a new name, by which TensorBoard recognizes and orders its files."""
    parts = f"{int(now):010d}", socket.gethostname(), os.getpid(), next(_COUNTER)
    return ".".join(map(str, ("events.out.tfevents", *parts, "keras_lrs")))
