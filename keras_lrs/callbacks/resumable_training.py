"""`ResumableTraining`: resumes a killed run as if it had never been interrupted."""

import contextlib
import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_lrs._fit import registry
from keras_lrs._fit.data_memory import DataMemory
from keras_lrs._fit.progress import Resume
from keras_lrs._fit.run import Run
from keras_lrs._fit.train_function import Skip
from keras_lrs._keras import fit_loop, models, random
from keras_lrs._step.part import Wanted
from keras_lrs._storage import checkpoints, fits
from keras_lrs._storage.checkpoints import Checkpoint
from keras_lrs.callbacks import remembered, resumption
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.sigterm import SavedOnSigterm
from keras_lrs.schedules import fields


class ResumableTraining(SavedOnSigterm):
    """Saves everything that a run depends on, and resumes it exactly.

    If the process is killed, make the same call again in a new one: `fit` resumes from
    the last checkpoint, and ends with the weights, rates and decisions of a run that
    was never interrupted.

    A checkpoint is one file, which is either complete or absent. It holds the weights,
    all optimizers of the model with their averages, the state of the random generators,
    the position of the schedules, the metrics of the epoch so far, and the state of the
    callbacks in the list. These are all callbacks of this library, Keras's
    `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint`, `History` (so `fit` returns
    the whole history) and the counters of `TensorBoard`, and any other callback that
    has the methods `get_state()`, which returns a tree of JSON values and arrays, and
    `set_state(state)`. The last two checkpoints are kept, with their hashes. If the
    newer one is damaged, the run resumes from the older one. Writing a file needs host
    memory for two copies of the state.

    With `every="epoch"` a checkpoint is written at the end of every epoch, after
    validation and all other callbacks. With `every=1000` a checkpoint is written every
    1000 steps, and the run resumes at the exact batch. The batches before it are read
    from the data once more, without training and without calling any callback. This
    needs data that can be read again in the same order: arrays (on TensorFlow, shuffled
    ones need `keras.utils.set_random_seed`), a `PyDataset`, or a `tf.data.Dataset` or
    `DataLoader` that has the same first batch when it is read twice. Other data, such
    as a generator, or data read across epochs with `steps_per_epoch`, cannot be read
    again. In this case a warning says so, checkpoints are written only at the ends of
    epochs, and the run resumes at the start of an epoch. The callback cannot control
    which batches such data yields next.

    The data is resumed as well. If it has the methods `get_state()` and
    `set_state(state)`, or `state_dict()` and `load_state_dict(state)`, these are used.
    Otherwise the random generators and iterators in it are restored, how often a
    `tf.data.Dataset` was read, and what the hooks of a `PyDataset` changed, which are
    called again. A warning names values that were not restored. The hash of the first
    batch shows whether it is the same. Validation data resumes likewise, without hooks.

    At the end of an epoch, a run may resume with another batch size. If the number of
    steps per epoch changes, the schedules of a `HyperparameterScheduler` are bound to
    the new number and continue at the same epoch. Lengths in `Epochs`, `Fraction`s and
    None cover the same part of the run as before, while lengths in steps cover a
    different one. A schedule in the optimizer continues with its `iterations`.

    A program may pass one directory to several `fit`s, one after another. When it is
    run again after it was killed, each `fit` resumes from its own checkpoints.

    No checkpoint is written when a run stops because its loss is not finite, or while
    its weights are not. A warning says so, and the earlier checkpoints are kept, even
    if the run completes.

    A run that completes removes its checkpoints. After resuming, callbacks repeat what
    they wrote to their own files after the last checkpoint. A `CSVLogger` needs
    `append=True`, or it starts over.

    Args:
        directory: The folder of this run only; may be a bucket, `s3://bucket/run`.
        every: `"epoch"`, or a number of steps.
        delete_at_end: Whether a run that completes removes its checkpoints. If not, the
            same call with the same `epochs` does not train again and ends as the run
            did. With more `epochs`, it continues.
        accept: What may differ from the run that is resumed, as one name or a list of
            names. For `"model"`, `"optimizer"` and `"loss"` the configurations and
            attributes are compared, and for `"data"` the first batch. `"fit"` accepts
            the checkpoints of another `fit` of a program. The values of variables, such
            as a rate, are those of the checkpoint.
        on_sigterm: `"save"`: when the process receives SIGTERM, the current step is
            finished and saved, the previous handler is called, and `fit` raises
            `KeyboardInterrupt`. A custom loop ends likewise after an epoch, or after a
            batch for which it calls the callbacks. None leaves the signal alone.
        verbose: 1 prints a line when a run resumes.

    Attributes:
        resumed_from: The checkpoint from which the run resumed: a record with its
            `epoch`, the `batch` in that epoch and the optimizer's `iterations`. None if
            the run started over.

    Raises:
        ValueError: If an argument is out of range. Before the first step: if the model
            is not built, if an optimizer of variables that are not the model's is not
            built, if another run is writing to the directory, if the checkpoints belong
            to another model, optimizer, loss or backend or are all damaged, or if the
            last checkpoint was written within an epoch that had a different number of
            steps or whose data cannot be read again. At the first batch of the resumed
            epoch: if its shape is the same but its content is not. Also if the list has
            Keras's `BackupAndRestore`, another `ResumableTraining`, or
            `SwapEMAWeights(swap_on_epoch)`.
        TypeError: If an argument has the wrong type.
        OSError: If a checkpoint cannot be written, or, before the first step, if the
            directory is not writable.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from keras_lrs.callbacks import ResumableTraining
        >>> x = np.linspace(-1, 1, 32)[:, None].astype("float32")
        >>> class PowerCut(keras.callbacks.Callback):
        ...     def on_train_batch_begin(self, batch, logs=None):
        ...         if self.model.optimizer.iterations == 21:
        ...             raise KeyboardInterrupt
        >>> def train(*callbacks):
        ...     keras.utils.set_random_seed(1)
        ...     model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        ...     model.compile(keras.optimizers.Adam(0.1), "mse")
        ...     model.fit(x, 3 * x, 4, epochs=4, verbose=0, callbacks=callbacks)
        ...     return model.get_weights()[0]
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     try:
        ...         weights = train(ResumableTraining(directory, 5), PowerCut())
        ...     except KeyboardInterrupt:
        ...         weights = train(ResumableTraining(directory, 5))
        ResumableTraining: resuming in epoch 3, after 4 of its batches
        >>> bool(np.all(weights == train()))
        True

    Reference: Keras's `BackupAndRestore`. This callback is an exact version of it.
    """

    backs_up = True

    def __init__(
        self,
        directory: str | os.PathLike,
        every: str | int = "epoch",
        *,
        delete_at_end: bool = True,
        accept: str | Sequence[str] = (),
        on_sigterm: str | None = "save",
        verbose: int = 1,
    ):
        super().__init__(on_sigterm)
        self.directory = fields.any_path("directory", directory)
        self.every = fields.cadence("every", every)
        self.delete_at_end = fields.truth("delete_at_end", delete_at_end)
        self.accept = resumption.accepted("accept", accept)
        self.verbose = fields.verbosity("verbose", verbose)
        self.every_step = self.every != "epoch" or on_sigterm is not None
        self.resumed_from: Checkpoint | None = None
        self._checkpoints: Any = None
        self._found: Any = None
        self._path: Any = None
        self._data: Any = None
        self._states: list[tuple[Any, dict[str, Any]]] = []

    def __getstate__(self):
        own = dict.fromkeys(("_checkpoints", "_found", "_data", "_fit", "_described"))
        return {**super().__getstate__(), **own}

    # --- Finding a checkpoint ---

    def prepare(self, run: Run) -> list[Wanted]:
        """Reads the last checkpoint and assigns its values to the variables."""
        resumption.check_siblings(self, run)
        registry.build_main(self, run.model)
        within = self._within_epochs = self.every != "epoch"
        in_fit = not run.progress.in_loop
        self.every_step = within or (self.on_sigterm is not None and in_fit)
        self._batch = self._since = 0
        self._diverged = False
        self._described = resumption.Described(run.model)
        self._siblings = remembered.Siblings(run)
        self._siblings.check()
        self._data = DataMemory(run, "data" in self.accept)
        updates = run.progress.iterations()
        sample = self._data.sample()
        first = resumption.initial(run.model, sample)
        fit = fits.begins(self.directory, run.model, updates, first, sample)
        self._checkpoints, newest = checkpoints.of_fit(
            self.directory,
            updates,
            models.is_chief(run.model),
            fit,
            "fit" in self.accept,
        )
        self.resumed_from, self._found = newest or (None, None)
        self._path = newest and self._checkpoints.path(newest[0])
        self._fit = fit.continued(self._found or {})
        fits.breaks_off(self.directory, run.model, self._fit)
        self._data.take_up(self._checkpoints, self._found or {})
        within = within or bool(self._found and self._found["batch"])
        reason = self._data.why_not_read_again(within)
        if self._found is not None:
            registry.build_as_before(self, run.model, self._found)
            described, accept = self._described, self.accept
            resumption.check(
                run, self._found, described, reason, self.directory, accept
            )
            # Callbacks look at the optimizer's count when the first epoch begins.
            self._set_variables()
            with resumption.restoring(self._path):
                run.progress.paces.load(run.progress.every, self._found.get("paces"))
            fit_loop.begin_at(run.model, self._first_epoch)
            self._states = self._siblings.matched(self._found)
            starts = resumption.starts(run, self._found)
            run.resume(Resume(self._set_states, starts))
        if reason is not None and self._within_epochs:
            warnings.warn(
                f"`ResumableTraining(every={self.every})` saves this run only at the "
                f"ends of epochs: the data {reason}, so the run cannot resume within "
                "an epoch, and its batches may differ from those of an uninterrupted "
                "run.",
                stacklevel=2,
            )
            self._within_epochs = False
        if self._within_epochs:
            run.surround_batches()
        if self.on_sigterm is not None:
            self.watch(run, self._within_epochs)
        return []

    @property
    def _first_epoch(self):
        epochs = self._run.progress.epochs
        return epochs if self._found["stopped"] else min(self._found["epoch"], epochs)

    # --- Resuming ---

    def before_all(self, hook: str, *arguments: Any) -> None:
        """Restores everything, or notes random numbers, before an epoch begins."""
        if hook != "on_epoch_begin":
            return
        found = self._found
        # Within an epoch, the callbacks had already acted at its beginning.
        is_whole = found is not None and not found["batch"]
        if is_whole:
            self._run.begin(arguments[0])
        with resumption.restoring(self._path):
            self._data.epoch_begins()
        if found is not None:
            # Within an epoch, the batches come in the same order as before.
            self._set_random(found["random_at_epoch"] or found["random"])
        # A checkpoint within the epoch needs this state to read its batches again.
        self._random = random.state() if self.every_step else None
        if is_whole:
            self._take_up()

    def after_all(self, hook: str, *arguments: Any) -> None:
        """Acts after all other callbacks have."""
        if hook == "on_epoch_begin":
            self._batch = 0
            state = self._found and self._found["random"]
            if self._found is not None:
                self._take_up()
            self._data.compare_first_batch(arguments[0])
            whole = self._batch == self._run.progress.steps_per_epoch
            self.epoch_begins_after(self._batch, state if whole else None)
        elif hook == "on_train_batch_end":
            self._batch_ends(*arguments)
        elif hook == "on_epoch_end":
            self._epoch_ends(*arguments)
        elif not self._diverged:
            ended = resumption.initial(self._run.model, self._fit.sample)
            fits.completed(self.directory, self._run.model, self._fit, ended)
            if self.delete_at_end and models.is_chief(self._run.model):
                checkpoints.remove(self._checkpoints)

    def _set_variables(self):
        with resumption.restoring(self._path):
            resumption.set_model(self._run.model, self._found)

    def _set_random(self, state):
        with resumption.restoring(self._path):
            random.set_state(state)

    def _have_passed(self, found):
        # To pass over batches, a step may run and be undone.
        self._set_random(found["random"])
        resumption.set_generators(self._run.model, found)

    def _set_states(self):
        resumption.set_states(self._run, self._found, self._states, self._path)

    def _take_up(self):
        """Restores the state of everything after all callbacks have begun to train."""
        found = self._found
        # Callbacks may have changed some variables when they began.
        self._set_variables()
        for callback, state in self._states:
            if not isinstance(callback, FitCallback):
                remembered.restore(callback, state, self._path)
        self._batch = found["batch"]
        self._say(found["batch"])
        if found["batch"]:
            self._run.pass_over(
                Skip(
                    found["batch"],
                    functools.partial(resumption.metrics, found),
                    dict.fromkeys(found["logs"], 0.0),
                    functools.partial(self._have_passed, found),
                )
            )
        self._found = None

    def _say(self, batch):
        within = f", after {batch} of its batches" if batch else ""
        if self.verbose:
            epoch = self._found["epoch"] + 1
            print(f"{type(self).__name__}: resuming in epoch {epoch}{within}")

    # --- Saving ---

    def _batch_ends(self, index, logs):
        """Saves if a checkpoint is due and the epoch is not over."""
        steps = self._run.progress.steps_per_epoch
        batch = min(index + 1, steps or index + 1)
        self._since += batch - self._batch
        self._batch = batch
        self.batch_ends(batch)
        over = batch == steps or self._model.stop_training
        if self._within_epochs and self._since >= self.every and not over:
            self.save(self._epoch, batch, list(logs))

    def epoch_begins(self, epoch: int) -> None:
        """Notes the number of the epoch."""
        self._epoch = epoch

    def _epoch_ends(self, epoch, logs=None):
        over = self._model.stop_training or epoch + 1 == self._run.progress.epochs
        due = over or not self._within_epochs or self._since >= self.every
        if due or self.sigterm.arrived:
            diverged = resumption.has_diverged(self._model, logs)
            self.save(epoch + 1, 0, [], diverged)
        if self.sigterm.arrived and not over:
            self.sigterm.stop()

    def why_not_read_again(self) -> str | None:
        """Returns why the data cannot be read again; None if it can."""
        return self._data.why_not_read_again()

    def save(
        self, epoch: int, batch: int, names: list[str], diverged: bool = False
    ) -> None:
        """Writes a checkpoint of everything unless the run has diverged."""
        run, model = self._run, self._run.model
        with contextlib.ExitStack() as stack:
            for callback in run.callbacks:
                stack.enter_context(callback.saving(within_epoch=batch > 0))
            metrics_variables = model.metrics_variables if batch else []
            tree = {
                "backend": keras.backend.backend(),
                **self._fit.state(),
                **self._described.state(),
                **self._data.state(within_epoch=batch > 0),
                "epoch": epoch,
                "batch": batch,
                "steps": run.progress.steps_per_epoch,
                "stopped": bool(model.stop_training),
                **resumption.state_of_optimizers(run),
                **resumption.state_of_model(run),
                "metrics": run.read(metrics_variables),
                "metrics_named": resumption.named(metrics_variables),
                "logs": names,
                **self._siblings.state(),
                "random": random.state(),
                "random_at_epoch": self._random if batch else None,
            }
            checkpoint = Checkpoint(0, epoch, batch, run.progress.iterations())
            diverged = diverged or not resumption.are_finite(model, tree["values"])
            if diverged and not self._diverged:
                number = epoch + (batch > 0)
                resumption.warn_of_divergence(model, self.directory, number)
            self._diverged = diverged
            if not diverged and models.is_chief(model):
                self._checkpoints.save(checkpoint, tree)
        self._since = 0

    def fit_ends(self) -> None:
        """Resets where the model's `fit` begins, and releases the folder."""
        if self._checkpoints is not None:
            self._checkpoints.close()
        fit_loop.begin_at(self._run.model, None)
        self._found = self._data = None
