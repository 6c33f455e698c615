"""`ResumableTraining`: a run that was killed resumes as if it had not been."""

import contextlib
import os
import warnings
from typing import Any

import keras

from keras_lrs._fit import registry
from keras_lrs._fit.run import Resume, Run
from keras_lrs._fit.train_function import Skip
from keras_lrs._keras import fit_loop, models, optimizers, random, variables
from keras_lrs._keras.backend import IS_JAX
from keras_lrs._step import bias_correction
from keras_lrs._step.part import Wanted
from keras_lrs._storage import checkpoints
from keras_lrs._storage.checkpoints import Checkpoint
from keras_lrs.callbacks import states
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.sigterm import SavedOnSigterm
from keras_lrs.schedules import fields


class ResumableTraining(SavedOnSigterm):
    """Saves everything that a run depends on, and resumes it exactly.

    If the process is killed, make the same call again in a new one: `fit` resumes from
    the last checkpoint, and ends with the weights, rates and decisions of a run that
    was never interrupted.

    A checkpoint is one file, which is whole or not there. It holds the weights, the
    optimizer with its averages, the state of the random generators, the position of the
    schedules, the metrics of the epoch so far, and the state of the callbacks in the
    list: all of this library, Keras's `EarlyStopping`, `ReduceLROnPlateau`,
    `ModelCheckpoint`, `History` (so `fit` returns the whole history) and the counters
    of `TensorBoard`. Any other callback is included that has the methods `get_state()`,
    which returns a tree of JSON values and arrays, and `set_state(state)`. The last two
    checkpoints are kept, with their hashes. If the newer one is damaged, the run
    resumes from the older one. The bytes of a file are made in the host's memory, which
    takes room for the state twice.

    With `every="epoch"` a checkpoint is written at the end of every epoch, after
    validation and all other callbacks. With `every=1000` it is written after so many
    steps, and the run resumes at the exact batch. The batches before it are read from
    the data once more, without training and without telling any callback. That needs
    data that can be read again in the same order: arrays (on TensorFlow, shuffled ones
    need `keras.utils.set_random_seed`), a `PyDataset`, or a `tf.data.Dataset` or
    `DataLoader` that has the same first batch when it is read twice. Other data, such
    as a generator, or data read across epochs with `steps_per_epoch`, cannot be read
    again. Then a warning says so, checkpoints are written at the ends of epochs only,
    and the run resumes at the start of an epoch. Which batches such data yields next is
    not under the callback's control.

    At the end of an epoch a run may resume with other data or another batch size. With
    another number of steps per epoch, the schedules of a `HyperparameterScheduler` are
    bound to it and continue at the same epoch: lengths in `Epochs`, `Fraction`s and
    None are the same part of the run, while lengths in steps are other epochs than
    before. A schedule in the optimizer continues with its `iterations`.

    A program may pass one directory to several `fit`s of a model, one after another:
    the checkpoints of a later one, which begins after more updates, are not taken up by
    an earlier one. Where the optimizer is new in each, give each its own directory.

    A run that completes removes its checkpoints. After resuming, callbacks write again
    to their own files what they wrote after the last checkpoint: a `CSVLogger` needs
    `append=True`, or it starts over.

    Args:
        directory: The folder for the checkpoints of this run and no other.
        every: `"epoch"`, or a number of steps.
        delete_at_end: Whether a run that completes removes them. If not, the same call
            with as many epochs trains no more and ends as the run did; with more
            `epochs`, it continues.
        on_sigterm: `"save"`: when the process gets SIGTERM, the step that is under way
            is finished and saved, the handler from before is called, and `fit` raises
            `KeyboardInterrupt`. None leaves the signal alone.
        verbose: 1 prints a line when a run resumes.

    Attributes:
        resumed_from: The checkpoint that the run resumed from: a record with its
            `epoch`, the `batch` in it and the optimizer's `iterations`; None if the run
            started over.

    Raises:
        ValueError: If an argument is out of range. Before the first step, if the model
            is not built; if another run is writing to the directory; if the checkpoints
            are of another model or backend, or all damaged; if the last one is of a
            batch within an epoch that had another number of steps, or of data that
            cannot be read again; or beside Keras's
            `BackupAndRestore`, another `ResumableTraining`, or
            `SwapEMAWeights(swap_on_epoch)`.
        TypeError: If an argument has the wrong type.
        OSError: If a checkpoint cannot be written, or, before the first step, nothing
            can be written to the directory.

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

    Reference: Keras's `BackupAndRestore`, of which this is the exact version.
    """

    backs_up = True

    def __init__(
        self,
        directory: str | os.PathLike,
        every: str | int = "epoch",
        *,
        delete_at_end: bool = True,
        on_sigterm: str | None = "save",
        verbose: int = 1,
    ):
        super().__init__()
        self.directory = fields.path("directory", directory)
        self.every = fields.cadence("every", every)
        self.delete_at_end = fields.truth("delete_at_end", delete_at_end)
        self.verbose = fields.verbosity("verbose", verbose)
        if on_sigterm is not None:
            fields.one_of("on_sigterm", on_sigterm, ("save",))
        self.on_sigterm = on_sigterm
        self.every_step = self.every != "epoch" or on_sigterm is not None
        self.resumed_from: Checkpoint | None = None
        self._checkpoints: Any = None
        self._found: Any = None
        self._states: list[tuple[Any, dict[str, Any]]] = []

    def __getstate__(self):
        return {**super().__getstate__(), "_checkpoints": None, "_found": None}

    # --- Finding what there is ---

    def prepare(self, run: Run) -> list[Wanted]:
        """Reads the last checkpoint, and gives its values to the variables."""
        self._check_siblings(run)
        registry.build_optimizer(self, run.model)
        if not IS_JAX:  # There `fit` trains with `model.optimizer` alone.
            registry.check_built(self, run.model)
        self._within_epochs = self.every != "epoch"
        self._batch = self._since = 0
        self._began = run.progress.iterations()
        self._checkpoints, newest = checkpoints.of_fit(
            self.directory, self._began, models.is_chief(run.model)
        )
        self.resumed_from, self._found = newest or (None, None)
        within = self._within_epochs or bool(self._found and self._found["batch"])
        reason = fit_loop.why_not_read_again() if within else None
        if self._found is not None:
            self._check(run, self._found, reason)
            # Callbacks look at the optimizer's count when the first epoch begins.
            self._set_variables()
            fit_loop.begin_at(run.model, self._first_epoch)
            self._states = states.matched(run.siblings, self._found["callbacks"])
            run.resume(Resume(self._set_states_of_ours, self._starts))
        if reason is not None and self._within_epochs:
            warnings.warn(
                f"`ResumableTraining(every={self.every})` saves this run at the "
                f"ends of epochs only: the data {reason}, so it cannot resume "
                "within one.",
                stacklevel=2,
            )
            self._within_epochs = False
        if self._within_epochs:
            run.surround_batches()
        if self.on_sigterm is not None:
            self.watch(run, self._within_epochs)
        return []

    def _check_siblings(self, run):
        for other in run.siblings:
            swaps = isinstance(other, keras.callbacks.SwapEMAWeights)
            if (registry.backs_up(other) and other is not self) or (
                swaps and other.swap_on_epoch
            ):
                raise ValueError(
                    f"`{type(self).__name__}` cannot work beside "
                    f"`{type(other).__name__}`."
                    + (" Use `WeightAveraging` instead of it." if swaps else "")
                )

    def _check(self, run, found, reason):
        if missing := checkpoints.STATE - found.keys():
            self._refuse(
                "hold checkpoints of this callback, or none",
                f" that lack {', '.join(sorted(missing))}",
            )
        self._began = found.get("began", 0)
        shapes = variables.shapes(models.state_variables(run.model))
        if found["backend"] != keras.backend.backend():
            bound = f"hold checkpoints of {keras.backend.backend()}, or none"
            self._refuse(bound, f" of {found['backend']}")
        if found["shapes"] != shapes or len(found["starts"]) != len(run.progress.every):
            self._refuse("hold checkpoints of this model and optimizer, or none")
        steps = run.progress.steps_per_epoch
        if found["batch"] and found["steps"] != steps:
            bound = "hold checkpoints of as many steps per epoch, or none"
            self._refuse(bound, f" of {found['steps']}, for {steps}")
        if found["batch"] and reason is not None:
            bound = "hold a checkpoint of an epoch's end, or none"
            self._refuse(bound, f" of a batch within one, and the data {reason}")

    def _refuse(self, bound, received=""):
        raise ValueError(
            f"Argument `directory` must {bound}. "
            f"Received: directory={str(self.directory)!r} with checkpoints"
            + (received or " of another")
        )

    @property
    def _starts(self):
        """Where the schedules begin; None if that follows from the epoch."""
        starts = [int(start) for start in self._found["starts"]]
        before, now = self._found["steps"], self._run.progress.steps_per_epoch
        if before == now:
            return starts
        if before is None or now is None:
            return None
        # At the same fraction of the training, whatever updates were skipped.
        counts = map(optimizers.iterations, self._run.progress.every)
        return [
            count - (count - start) * now // before
            for count, start in zip(counts, starts, strict=True)
        ]

    @property
    def _first_epoch(self):
        epochs = self._run.progress.epochs
        return epochs if self._found["stopped"] else min(self._found["epoch"], epochs)

    # --- Resuming ---

    def before_all(self, hook: str, *arguments: Any) -> None:
        """Sets or notes the random numbers of an epoch before any callback draws."""
        if hook == "on_epoch_begin":
            if self._found is not None:
                # If within an epoch, its batches come in the order that they had.
                random.set_state(
                    self._found["random_at_epoch"] or self._found["random"]
                )
            # A checkpoint within the epoch needs this to read its batches again.
            self._random = random.state() if self.every_step else None

    def after_all(self, hook: str, *arguments: Any) -> None:
        """Acts after all other callbacks have."""
        if hook == "on_epoch_begin":
            self._batch = 0
            state = self._found and self._found["random"]
            if self._found is not None:
                self._take_up()
            whole = self._batch == self._run.progress.steps_per_epoch
            self.epoch_begins_after(self._batch, state if whole else None)
        elif hook == "on_train_batch_end":
            self._batch_ends(*arguments)
        elif hook == "on_epoch_end":
            self._epoch_ends(arguments[0] + 1)
        elif self.delete_at_end and models.is_chief(self._run.model):
            checkpoints.remove(self._checkpoints)

    def _set_variables(self):
        model = self._run.model
        variables.write(models.state_variables(model), self._found["values"])
        models.set_buffers(model, self._found["buffers"])

    def _set_states_of_ours(self):
        every, found = self._run.progress.every, self._found["products"]
        products = zip(every, found, strict=True)
        for optimizer, found in products:
            bias_correction.set_products(optimizer, found)
        for callback, state in self._states:
            if isinstance(callback, FitCallback):
                callback.set_state(state)

    def _take_up(self):
        """Gives everything the state it had, when all callbacks have begun."""
        found = self._found
        # Some of it callbacks have changed, to begin with.
        self._set_variables()
        for callback, state in self._states:
            if hasattr(callback, "set_state") and not isinstance(callback, FitCallback):
                callback.set_state(state)
            elif not isinstance(callback, FitCallback):
                vars(callback).update(state)
        self._batch = found["batch"]
        self._say(found["batch"])
        if found["batch"]:
            self._run.pass_over(
                Skip(
                    found["batch"],
                    found["metrics"],
                    dict.fromkeys(found["logs"], 0.0),
                    lambda: random.set_state(found["random"]),
                )
            )
        self._found = None

    def _say(self, batch):
        if self.verbose:
            within = f", after {batch} of its batches" if batch else ""
            epoch = self._found["epoch"] + 1
            print(f"ResumableTraining: resuming in epoch {epoch}{within}")

    # --- Saving ---

    def _batch_ends(self, index, logs):
        """Saves, if it is time and the epoch is not over."""
        steps = self._run.progress.steps_per_epoch
        batch = min(index + 1, steps or index + 1)
        self._since += batch - self._batch
        self._batch = batch
        self.batch_ends(batch)
        over = batch == steps or self._model.stop_training
        if self._since >= self.every and not over:
            self.save(self._epoch, batch, list(logs))

    def epoch_begins(self, epoch: int) -> None:
        """Notes which it is."""
        self._epoch = epoch

    def _epoch_ends(self, epoch):
        over = self._model.stop_training or epoch == self._run.progress.epochs
        due = over or not self._within_epochs or self._since >= self.every
        if due or self.sigterm.arrived:
            self.save(epoch, 0, [])
        if self.sigterm.arrived and not over:
            self.sigterm.stop()

    def save(self, epoch: int, batch: int, names: list[str]) -> None:
        """Writes a checkpoint of everything."""
        run, model = self._run, self._run.model
        every = run.progress.every
        with contextlib.ExitStack() as stack:
            for callback in run.callbacks:
                stack.enter_context(callback.saving(within_epoch=batch > 0))
            state = models.state_variables(model)
            metrics_variables = model.metrics_variables if batch else []
            tree = {
                "backend": keras.backend.backend(),
                "began": self._began,
                "epoch": epoch,
                "batch": batch,
                "steps": run.progress.steps_per_epoch,
                "stopped": bool(model.stop_training),
                "starts": [run.progress.start(one) for one in every],
                "products": [bias_correction.products(one) for one in every],
                "shapes": variables.shapes(state),
                "values": run.read(state),
                "buffers": models.buffer_values(model),
                "metrics": run.read(metrics_variables),
                "logs": names,
                "callbacks": states.of(run.siblings),
                "random": random.state(),
                "random_at_epoch": self._random if batch else None,
            }
            checkpoint = Checkpoint(0, epoch, batch, run.progress.iterations())
            if models.is_chief(model):
                self._checkpoints.save(checkpoint, tree)
        self._since = 0

    def fit_ends(self) -> None:
        """Leaves the model to begin as it is told, and the folder to others."""
        if self._checkpoints is not None:
            self._checkpoints.close()
        fit_loop.begin_at(self._run.model, None)
        self._found = None
