"""`SnapshotEnsemble`: the weights at the end of every cycle, in files."""

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import keras
import numpy as np

from keras_lrs._fit import lengths, paces, registry
from keras_lrs._fit.run import Run
from keras_lrs._keras.models import is_chief
from keras_lrs._keras.weights import loaded_weights, set_weights
from keras_lrs._step.part import Wanted
from keras_lrs._storage import threads
from keras_lrs.callbacks import cycle_ends
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.ensembles import store
from keras_lrs.schedules import durations, fields

_WAITING = 2  # Snapshots in memory, before training waits for the disk.


class SnapshotEnsemble(FitCallback):
    """Writes the weights to files at the end of every cycle of the learning rate.

    The idea: at the end of a cycle the rate is lowest and the model is in a good
    minimum, and the restart then drives it to another one. `keras_lrs.ensembles.load`
    combines all snapshots into one predictor.

    A snapshot holds all weights after the last update of a cycle, even in the middle of
    an epoch. It includes the statistics of batch normalization but not the optimizer.
    `directory` holds the files `snapshot-0001.weights.h5` and so on, which
    `model.load_weights` reads, and `manifest.json`. For each snapshot, the manifest
    records the step at which it was taken (`optimizer.iterations`, which counts
    micro-batches under gradient accumulation), the rate of that step, and the metrics.
    If the cycle ended with an epoch, these are the metrics of the epoch, including
    validation. Otherwise they are the training metrics of the epoch so far.

    Training waits while the weights are copied to the host's memory. A thread writes
    them, each file whole or not at all. If that fails, training stops at the next step.
    Up to two snapshots may wait for the disk before training waits for it too. With a
    `BackupAndRestore` or `ModelCheckpoint` in the list, an epoch ends only when all its
    snapshots are on the disk, so that none is missing when a run resumes.

    A run that resumes, in this process or a new one, continues the numbering and drops
    the members that are later than the step at which it resumes. So a run that starts
    from the beginning replaces the members that an earlier run left in the directory.

    Args:
        directory: The folder for the files, local or a bucket such as
            `s3://bucket/run`.
        keep_last: How many of the last members are kept; None keeps all.
        schedule: Where cycles end. None takes the schedule of the optimizer's rate,
            even if a `HyperparameterScheduler` drives it. You can also pass a schedule
            of your own, or a list of steps (or other lengths), which count from where a
            driven schedule would.
        partial: What happens to a last cycle that the run cuts short: `"drop"` it, or
            `"keep"` it as a member that is marked as incomplete. A cycle that is
            interrupted by an exception is never kept.
        restore_last_completed: Whether `fit` leaves the model with the weights from the
            end of the last completed cycle.
        updates_per_batch: As in `HyperparameterScheduler`.
        verbose: 1 prints a line for each snapshot.
        steps_per_epoch: As in `HyperparameterScheduler`.

    Raises:
        ValueError: If an argument is out of range. Before the first step: if the
            schedule has no cycles, if a cycle ends within an execution of several steps
            (`steps_per_execution`), if the directory holds snapshots of another model
            or a damaged manifest, or if another run is writing to it.
        TypeError: If an argument has the wrong type.
        OSError: If a snapshot cannot be written, or, before the first step, if the
            directory is not writable.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from keras_lrs import callbacks, ensembles
        >>> from keras_lrs.schedules import CosineRestarts
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> rate = CosineRestarts(0.1, first_decay_steps=7, t_mul=2.0)
        >>> model.compile(keras.optimizers.SGD(rate), "mse")
        >>> x = np.ones((10, 1), "float32")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     snapshots = callbacks.SnapshotEnsemble(directory)
        ...     history = model.fit(x, x, 1, 3, verbose=0, callbacks=[snapshots])
        ...     ensemble = ensembles.load(directory, model)
        >>> [member.step for member in ensemble]
        [7, 21]

    Reference: Huang et al., "Snapshot Ensembles: Train 1, get M for free", 2017,
    arXiv:1704.00109. Loshchilov and Hutter, "SGDR", 2016, arXiv:1608.03983. Cutkosky,
    "Lecture Notes 5: tuning and learning rate schedules", which returns only weights of
    a completed phase.
    """

    every_step = True

    def __init__(
        self,
        directory: str | os.PathLike,
        keep_last: int | None = None,
        schedule: keras.optimizers.schedules.LearningRateSchedule
        | Sequence[durations.Duration]
        | None = None,
        partial: str = "drop",
        *,
        restore_last_completed: bool = False,
        updates_per_batch: float | None = None,
        verbose: int = 0,
        steps_per_epoch: int | None = None,
    ):
        super().__init__()
        self.updates_per_batch = paces.check(updates_per_batch)
        self.steps_per_epoch = lengths.check(steps_per_epoch)
        self.directory = fields.any_path("directory", directory)
        self.keep_last = keep_last
        if keep_last is not None:
            self.keep_last = fields.count("keep_last", keep_last, 1)
        self.schedule = cycle_ends.checked(schedule)
        self.partial = fields.one_of("partial", partial, ("drop", "keep"))
        if not isinstance(restore_last_completed, bool):
            bound = "be True or False"
            name = "restore_last_completed"
            fields.refuse(name, bound, restore_last_completed, TypeError)
        self.restore_last_completed = restore_last_completed
        self.verbose = fields.verbosity("verbose", verbose)
        self._ends: Any = None
        self._store: Any = None  # Only the chief has one in distributed training.
        self._thread: Any = None
        self._completed: Any = None
        self._writing: list[Future] = []

    def __getstate__(self):
        none = dict.fromkeys(("_ends", "_store", "_thread", "_completed"))
        return {**super().__getstate__(), **none, "_writing": []}

    # --- When the run begins ---

    def prepare(self, run: Run) -> list[Wanted]:
        """Checks that no other run writes to the same directory."""
        self._ends, self._writing = None, []
        self._last: int | None = None
        registry.refuse_shared_directory(self, run)
        if is_chief(run.model):
            self._store = store.Store(self.directory)
            self._store.lock()
        return []

    def epoch_begins(self, epoch: int) -> None:
        """Finds out where cycles end, and what the directory holds."""
        if self._ends is not None:
            return
        run = self._run
        self._completed = None
        self._ends = cycle_ends.find(run, self.schedule)
        self._offset = max(-run.progress.start(self._ends.optimizer), 0)
        self._counted = self._iterations
        self._check_executions(run)
        self._next = self._ends.after(self._counted)
        self._durable = [
            other.save_freq
            for other in run.siblings
            if isinstance(
                other,
                (keras.callbacks.BackupAndRestore, keras.callbacks.ModelCheckpoint),
            )
        ]
        if is_chief(run.model):
            self._open_store(self._counted)

    def _open_store(self, count):
        here = count + self._offset
        shapes = self._shapes
        continued = count > self._ends.start
        kept = [record for record in self._store.records if record.step <= here]
        if kept and self._store.shapes != shapes:
            bound = "hold snapshots of this model, or none"
            fields.refuse("directory", bound, str(self.directory))
        # A cycle that continues has not been cut short.
        self._store.begin(
            shapes,
            lambda record: record in kept and (record.complete or not continued),
            continued,
        )
        self._start_thread()
        known = any(record.step == here for record in self._store.records)
        if continued and self._ends.last_before(count) == count and not known:
            # The run was saved here, and killed before the snapshot was written.
            self._take(count, {}, complete=True)

    @property
    def _shapes(self):
        return [list(variable.shape) for variable in self._run.model.variables]

    @property
    def _iterations(self):
        return self._run.progress.iterations(self._ends.optimizer)

    def _check_executions(self, run):
        """Raises if a cycle of this run ends within an execution."""
        progress = run.progress
        steps, per_epoch = run.model.steps_per_execution, progress.steps_per_epoch
        if steps == 1 or per_epoch is None:  # Then `step_ends` sees it.
            return
        last = progress.start(self._ends.optimizer) + progress.total
        for end in self._ends.up_to(self._counted, last):
            done = (end - self._counted) % per_epoch
            if done % steps:
                before = end - done % steps - self._ends.start
                after = before + min(steps, per_epoch - done + done % steps)
                raise ValueError(
                    f"A cycle ends after {end - self._ends.start} steps, within an "
                    f"execution of `steps_per_execution={steps}`, of which only the "
                    f"last step is visible. End the cycle after {before} or {after} "
                    "steps, or compile the model with `steps_per_execution=1`."
                )

    @contextlib.contextmanager
    def saving(self, within_epoch: bool = False) -> Iterator[None]:
        """Waits for the snapshots up to here before anything else is saved."""
        self._surface(wait=True)
        yield

    def get_state(self) -> dict[str, Any]:
        """Returns the step of the last snapshot, whose metrics may still come."""
        return {"last": self._last}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues with it."""
        self._last = state["last"]

    # --- Taking snapshots ---

    def step_ends(self, logs: Any) -> None:
        """Takes a snapshot where a cycle ends."""
        if self._writing:
            self._surface(wait=False)
        # Asks the device only if a cycle may have ended: steps may have been skipped.
        pace = self._run.progress.paces.of(self._ends.optimizer)
        self._counted += self._run.model.steps_per_execution * max(math.ceil(pace), 1)
        if self._counted < self._next:
            return
        self._counted = self._iterations
        if self._counted > self._next:
            raise RuntimeError(self._missed)
        if self._counted == self._next:
            self._take(self._counted, logs, complete=True)
            self._next = self._ends.after(self._counted)

    @property
    def _missed(self):
        """The message if a cycle has ended and no weights of that step are left."""
        return (
            f"A cycle ended after {self._next - self._ends.start} updates, within an "
            "execution of several (`steps_per_execution`, or a `train_step` that makes "
            "more than one), so the weights of that step are lost. Choose cycles that "
            "end with an execution."
        )

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Adds the epoch's metrics to a snapshot that was taken with its last step."""
        self._counted = self._iterations
        if self._counted > self._next:
            raise RuntimeError(self._missed)
        if isinstance(self._ends, cycle_ends.EpochEnds):
            # No step knew that it was the last of its epoch.
            if self._ends.epoch_ends(epoch + 1, self._counted):
                self._take(self._counted, logs, complete=True)
        elif self._store is not None and self._last == self._counted:
            step = self._counted + self._offset
            self._submit(self._store.set_metrics, step, _numbers(logs))
        self._surface(wait=bool(self._durable))

    def _take(self, count, logs, complete):
        """Copies the weights and has them written."""
        weights = self._run.copied_weights()
        self._last = count
        if complete and self.restore_last_completed:
            self._completed = weights
        if self._store is None:
            return
        self._store.shapes = self._shapes  # The first batch may have built the model.
        optimizer = self._ends.optimizer
        last = np.array([max(count - 1, 0)])
        used = self._run.used_values(optimizer, last)
        record = store.Record(
            number=0,
            step=count + self._offset,
            cycle=self._ends.cycles(count) + (not complete),
            complete=complete,
            learning_rate=used["learning_rate"].item(),
            metrics=_numbers(logs),
        )
        if self._thread is None:
            self._write(record, weights)
            return
        self._leave_parent()
        while len(self._writing) >= _WAITING:
            self._surface_first()
        self._submit(self._write, record, weights)
        if any(frequency != "epoch" for frequency in self._durable):
            self._surface(wait=True)

    def _write(self, record, weights):
        """Runs in the thread, which must not touch the model."""
        self._store.add(record, weights.pieces(), self.keep_last)
        if self.verbose:
            written = self._store.records[-1]
            print(f"\nSnapshotEnsemble: {written.file} after {written.step} steps")

    def _start_thread(self):
        self._writing = []
        self._thread = threads.Worker("snapshots")

    def _leave_parent(self):
        """Leaves what was submitted before a fork to the parent's thread."""
        if self._thread is not None and self._thread.is_of_parent:
            self._start_thread()

    def _submit(self, function, *arguments):
        self._leave_parent()
        self._writing.append(self._thread.submit(function, *arguments))

    def _surface(self, wait):
        """Raises what the thread met; waits until all is written, if asked to."""
        self._leave_parent()
        while self._writing and (wait or self._writing[0].done()):
            self._surface_first()

    def _surface_first(self):
        self._writing.pop(0).result()

    # --- When the run ends ---

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Sees to the last cycle, and that everything is written."""
        super().on_train_end(logs)
        self._surface(wait=True)
        if self._ends is None:
            return
        count = self._iterations
        cut_short = count > max(self._ends.start, self._ends.last_before(count))
        if self.partial == "keep" and cut_short:
            self._take(count, logs, complete=False)
        if self._store is not None and not self._store.records:
            warnings.warn(
                "`SnapshotEnsemble` took no snapshot: the run ended before the first "
                f"cycle did, after {self._next - self._ends.start} steps.",
                stacklevel=2,
            )
        if self.restore_last_completed:
            self._restore()
        if self._store is not None:
            self._store.close()  # The last snapshot may have locked it again.

    def _restore(self):
        """Gives the model the weights of the end of the last completed cycle."""
        content = None if self._completed is None else self._completed.content()
        if content is None and self._store is not None:
            # The last cycle was completed before this run resumed.
            complete = [record for record in self._store.records if record.complete]
            content = self._store.read(complete[-1]) if complete else None
        if content is None:
            warnings.warn(
                "`SnapshotEnsemble(restore_last_completed=True)` has nothing to "
                "restore: no cycle was completed.",
                stacklevel=3,
            )
            return
        model = self._run.model
        set_weights(model, loaded_weights(model, content))

    def fit_ends(self) -> None:
        """Lets the thread write what it was given, however the run ended."""
        self._leave_parent()
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        if self._store is not None:
            self._store.close()
        errors = [error for w in self._writing if (error := w.exception()) is not None]
        if errors and sys.exc_info()[0] is not None:
            # Another exception is on its way, and `on_train_end` will not be called.
            warnings.warn(f"A snapshot was not written: {errors[0]!r}", stacklevel=2)


def _numbers(logs):
    """The metrics in logs that JSON can hold."""
    numbers = {}
    for name, value in (logs or {}).items():
        if np.ndim(keras.ops.convert_to_numpy(value)) == 0:
            numbers[name] = float(keras.ops.convert_to_numpy(value))
    return numbers
