"""`WeightAveraging`: an average of the weights, taken in the training step."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

from keras_lrs._fit import chosen, lengths, paces
from keras_lrs._fit.progress import Progress
from keras_lrs._fit.registry import build_to_average
from keras_lrs._fit.run import Run
from keras_lrs._keras import average_statistics, interrupts, optimizers
from keras_lrs._keras.average_slots import AverageSlots
from keras_lrs._step.averages import (
    AverageOfEpochs,
    SlotsAverage,
    StatisticsAverage,
)
from keras_lrs._step.part import Wanted
from keras_lrs.averages.choice import Choice
from keras_lrs.averages.schedules import Average, as_average
from keras_lrs.callbacks import initial_averages
from keras_lrs.callbacks.averaged_updates import averaging, check_optimizers
from keras_lrs.callbacks.descriptions import described_average
from keras_lrs.callbacks.epoch_averages import EpochAverages
from keras_lrs.callbacks.swapping import LeftAverage, SwappingCallback, refuse_backups
from keras_lrs.schedules import durations, fields


class WeightAveraging(SwappingCallback):
    """Averages the weights in the training step; all but training use the average.

    Training follows exactly the trajectory that it would follow without the callback.
    Validation, callbacks at the end of an epoch (`ModelCheckpoint`, `EarlyStopping`,
    ...), and `evaluate` and `predict` with this callback use the average. So the
    weights that are measured, saved and restored are the same, whatever the order of
    the callbacks. `evaluate` and `predict` may also be called on a model that shares
    the layers or was recompiled. Training metrics (`loss`, not `val_loss`) and files
    saved within an epoch are those of the raw weights.

    The averages are stored where Keras stores those of `use_ema`: one more copy of the
    weights, in float32 for weights of less than 32 bits. They are saved with the model.
    A whole model saved at the end of an epoch holds the average, which it predicts
    with, and the raw weights, from which a `fit` with this callback and `initial_epoch`
    resumes as if it had never been interrupted. A weights file saved at the end of an
    epoch holds only the average. `BackupAndRestore` backs up the raw weights.

    The average counts updates, not micro-batches. It starts over in every `fit`, unless
    the run resumes with `initial_epoch` or after `BackupAndRestore`. If a run resumes
    from a model that was saved without an average, the average covers the rest of the
    run.

    Args:
        average: A schedule of `keras_lrs.averages`; a number is the decay of an
            `ExponentialAverage`, and None is `ExponentialAverage(0.999)`.
        start_step: When averaging starts: a number of steps, `Epochs`, `Samples`,
            `Tokens` or a `Fraction` of the run. Until then the raw weights are used.
        update_every: The number of updates (or another length) per averaged update,
            with a decay adjusted to cover the same stretch of training; or `"epoch"` or
            `"cycle"`: the weights at the end of each epoch, or of each cycle of the
            learning rate, with the decay as given (SWA: `UniformAverage()`).
        at_end: What the model holds after `fit`. With `"average"`, the optimizer is as
            it was before. With `"raw"`, the model holds the weights that are trained,
            and the optimizer keeps the averages for `evaluate`, `predict`, files and
            the next `fit`. If training is interrupted, the model holds the raw weights.
        batch_norm: The statistics that go with the average: `"keep"`, those of the raw
            weights; `"average"`, their average over the same updates; or
            `"recalibrate"`, those of the averaged weights, computed in a pass over
            `batch_norm_data` each time that new averages are put into the model. With
            `"average"` only `ResumableTraining` can resume a run, because a model's
            file does not hold both statistics.
        batch_norm_data: Inputs, as `averages.recalibrate_batch_norm` takes them.
        batch_norm_steps: How many batches of them to use; None uses all.
        include: One or more regular expressions, searched for in the paths of the
            trainable variables (`re.search`). Only matching variables are averaged, and
            the others keep their raw values. None averages all. The memory is the same.
        exclude: Likewise, for variables that are not averaged.
        initial: The start of the average, instead of the model's weights: a model with
            the same weights, the list from its `get_weights()`, or the path of its
            `.weights.h5` file. If the optimizer of such a model holds averages, as with
            Keras's `use_ema=True`, these are used. A debiased average forgets its
            start, so it raises an error.
        optimizers: The optimizers whose weights to average: a name (of an optimizer, or
            of the model's attribute that holds it), an optimizer, or a list of these.
            None means all. If some are named, `batch_norm="average"` averages the
            statistics of the layers whose scale or center they train, and "recalibrate"
            is not possible.
        steps_per_epoch: As in `HyperparameterScheduler`. `update_every="epoch"` does
            not need it.
        updates_per_batch: As in `HyperparameterScheduler`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range. Before the first step: if the model
            is not built (TensorFlow builds a model without an `Input` in the first
            step), if the optimizer averages the weights itself (`use_ema=True`), if an
            expression matches nothing, if `initial` has other weights, if no update
            would be averaged, if lengths need steps per epoch that are not known, or if
            the list has another callback that swaps weights.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.averages import UniformAverage
        >>> from keras_lrs.callbacks import WeightAveraging
        >>> model = keras.Sequential(
        ...     [keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]
        ... )
        >>> model.set_weights([np.zeros((1, 1))])
        >>> model.compile(keras.optimizers.SGD(0.25), "mse")
        >>> x = np.ones((4, 1), "float32")
        >>> history = model.fit(
        ...     x, x, batch_size=4, epochs=3, verbose=0,
        ...     callbacks=[WeightAveraging(UniformAverage())],
        ... )
        >>> round(float(model.get_weights()[0][0, 0]), 4)  # Mean of 0.5, 0.75, 0.875
        0.7083

    Reference: Polyak and Juditsky, "Acceleration of Stochastic Approximation by
    Averaging", 1992. Izmailov et al., "Averaging Weights Leads to Wider Optima and
    Better Generalization", 2018, arXiv:1803.05407.
    """

    batch_norms = ("keep", "recalibrate", "average")
    described = True

    def __init__(
        self,
        average: Average | float | None = None,
        start_step: durations.Duration = 0,
        update_every: durations.Duration | str = 1,
        at_end: str = "average",
        batch_norm: str = "keep",
        batch_norm_data: Any = None,
        batch_norm_steps: int | None = None,
        *,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        initial: Any = None,
        optimizers: chosen.Optimizers = None,
        steps_per_epoch: int | None = None,
        updates_per_batch: float | None = None,
    ):
        super().__init__(at_end, batch_norm, batch_norm_data, batch_norm_steps)
        self.optimizers = chosen.check(optimizers)
        self.steps_per_epoch = lengths.check(steps_per_epoch)
        self.updates_per_batch = paces.check(updates_per_batch)
        if self.optimizers is not None and batch_norm == "recalibrate":
            bound = (
                "be 'keep' or 'average' with `optimizers`: the data would also "
                "recalibrate the statistics of the other networks in the model"
            )
            fields.refuse("batch_norm", bound, batch_norm)
        average = as_average(average)
        if start_step is None:
            fields.refuse("start_step", "be a length", start_step)
        self.average = average
        self.start_step = durations.check("start_step", start_step)
        if isinstance(update_every, str) or update_every is None:
            if update_every not in ("epoch", "cycle"):
                constraint = "be a number of updates, `Epochs`, 'epoch' or 'cycle'"
                fields.refuse("update_every", constraint, update_every)
        else:
            update_every = durations.check("update_every", update_every, 1)
        self.update_every = update_every
        self.include, self.exclude, self.initial = include, exclude, initial
        self._choice = Choice.of(include, exclude)
        if initial is not None:
            self.initial = initial_averages.check(initial, average)
            if self.start_step != 0 or self.update_every != 1:
                bound = "be given with start_step=0 and update_every=1 only"
                fields.refuse("initial", bound, type(initial).__name__)
        self._slots: list[AverageSlots] = []
        self._begins_late = False
        self._lacks_statistics = False
        self._of_epochs: EpochAverages | None = None
        self._kept: LeftAverage | None = None

    def describe(self) -> dict[str, str | int | float]:
        """Describes the average, as `HyperparameterScheduler.describe` does schedules.

        The keys are `average`, `average.<argument>`, also of this callback, and `run.`.
        """
        return described_average(self)

    def prepare(self, run: Run) -> list[Wanted]:
        """Makes room for the averages, before a `BackupAndRestore` fills them."""
        wanted = super().prepare(run)
        build_to_average(self, run)
        found = list(run.chosen(self).values())
        weights = [v for one in found for v in optimizers.trained(one)]
        every = run.model.trainable_variables
        self._choice.check(every if self.optimizers is None else weights)
        self._slots = [AverageSlots(one, self._choice) for one in found]
        check_optimizers(self, run, self._slots)
        for one in self._slots:
            one.attach(run.model)
        self.swap_out()  # A model loaded from a file may hold the averages.
        self._of_epochs, self._kept = None, None
        if self.update_every == "epoch" and run.progress.steps_per_epoch is None:
            self._of_epochs = EpochAverages(run, self.average, self.start_step)
        wanted += [
            Wanted(
                optimizer,
                SlotsAverage if self._of_epochs is None else AverageOfEpochs,
                functools.partial(self._chosen, optimizer, self._choice),
                slot=WeightAveraging,
            )
            for optimizer in found
        ]
        if self.batch_norm == "average" and self.optimizers is not None:
            average_statistics.check_trained(run.model)
        if self._averaged_statistics is not None:
            refuse_backups(self, run)
        if self._averaged_statistics is not None and self._of_epochs is None:
            # The first of several optimizers counts for all of them.
            choice = self._choice_of_statistics
            arguments = functools.partial(self._chosen, found[0], choice)
            wanted.append(Wanted(found[0], StatisticsAverage, arguments))
        return wanted

    def fit_begins(self, epoch: int) -> None:
        """Starts the averages over, unless the run resumes with averages."""
        self._begins_late = epoch > 0 and not all(one.known for one in self._slots)
        if epoch == 0 or self._begins_late:
            for one in self._slots:
                one.reset()
                now = optimizers.iterations(one.optimizer)
                one.began_late = now if self._begins_late else None
        kept = self._averaged_statistics
        if kept is not None:
            now = self._iterations
            if epoch == 0 or self._begins_late:
                kept.reset()
                kept.known_at = now
            self._lacks_statistics = kept.known_at != now
        if self.initial is not None and (epoch == 0 or self._begins_late):
            found = initial_averages.values(self.initial, self._model)
            initial_averages.give(found, self._slots, kept)
        if self._of_epochs is not None and epoch > 0 and not self._begins_late:
            self._of_epochs.resume(epoch)

    def epoch_begins(self, epoch: int) -> None:
        """Continues from the raw weights and their averages."""
        if self._lacks_statistics:
            raise ValueError(
                f"`{type(self).__name__}(batch_norm='average')` cannot resume from a "
                "model or its file, which do not hold both the statistics of the "
                "raw weights and their average: resume with `ResumableTraining`. "
                f"Received: initial_epoch={epoch}"
            )
        if self._of_epochs is not None:
            self._of_epochs.epoch_begins(self._run.parts(self))
        super().epoch_begins(epoch)

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Swaps in the averages, which callbacks after this one save and restore."""
        kept = self._averaged_statistics
        if self._of_epochs is not None:
            self._of_epochs.epoch_ends(epoch, self._run.parts(self), kept)
        if kept is not None:
            kept.known_at = self._iterations
        super().epoch_ends(epoch, logs)

    def get_state(self) -> dict[str, Any]:
        """Returns the averages that are not among the optimizer's variables."""
        kept = self._averaged_statistics
        state: dict[str, Any] = {"began_late": [one.began_late for one in self._slots]}
        if kept is not None:
            state["statistics"] = kept.read()
        if self._of_epochs is not None:
            state["epochs"] = self._of_epochs.taken
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores these averages, and where they began."""
        if "began_late" in state:
            for one, began in zip(self._slots, state["began_late"], strict=True):
                one.began_late = began
        if self._of_epochs is not None and "epochs" in state:
            self._of_epochs.taken = state["epochs"]
        kept = self._averaged_statistics
        if kept is not None and "statistics" in state:
            kept.write(state["statistics"])
            kept.known_at = self._iterations
            self._lacks_statistics = False

    @property
    def _averaged_statistics(self):
        """The averages of the statistics, if they are to be averaged."""
        if self.batch_norm != "average":
            return None
        kept = average_statistics.of(self._home, self._choice_of_statistics)
        return kept if kept.statistics else None

    @property
    def _choice_of_statistics(self):
        """Chooses statistics of layers that the named optimizers train, or all."""
        if self.optimizers is None:
            return self._choice
        trained = [v for one in self._slots for v in optimizers.trained(one.optimizer)]
        return dataclasses.replace(self._choice, among=frozenset(map(id, trained)))

    @property
    def _iterations(self):
        """The iterations of the first optimizer, which count for the statistics."""
        return optimizers.iterations(self._slots[0].optimizer)

    def _chosen(self, optimizer, choice, schedules):
        if self._of_epochs is not None:
            return self.average, choice
        found = averaging(self, optimizer, schedules)
        return found, choice

    def __getstate__(self):
        return {
            **super().__getstate__(),
            "_slots": [],
            "_of_epochs": None,
            "_kept": None,
        }

    # --- What is swapped ---

    def look_for_averages(self, model: Any) -> bool:
        """Looks for averages in its optimizers, and in those of an earlier `fit`."""
        progress = Progress(model)
        if self.optimizers is None:
            found = progress.optimizers
        else:
            found = list(chosen.find(progress, self.optimizers, False).values())
        known = {id(one.optimizer): one for one in self._slots}
        slots = [known.get(id(one), AverageSlots(one, self._choice)) for one in found]
        if not any(one.attached for one in slots) and self.shares_weights(model):
            return False
        self._slots = slots
        return True

    @property
    def averaged(self) -> list:
        """The variables that are averaged."""
        attached = [one for one in self._slots if one.attached]
        return [weight for one in attached for weight, _ in one.pairs]

    def holds(self, model: Any) -> bool:
        """Whether a model holds the average that `fit` left in the weights."""
        return self._kept is not None and self._kept.is_in(model)

    def swap(self, into: bool) -> None:
        """Swaps the weights of all optimizers and their averages."""
        for one in self._slots:
            if one.swapped != into:
                one.swap()
        kept = self._averaged_statistics
        if kept is not None and kept.known_at is not None and kept.swapped != into:
            kept.swap()

    @property
    def swapped(self) -> bool:
        """Whether the model holds the averages."""
        return any(one.swapped for one in self._slots)

    @property
    def exists(self) -> bool:
        """Whether an update has been averaged."""
        if not self._slots or not all(one.attached for one in self._slots):
            return False
        own = {id(one.optimizer) for one in self._slots}
        run: Any = self.run
        parts = [] if run is None else run.parts(self)
        if parts := [part for part in parts if id(part.step.optimizer) in own]:
            iterations = run.progress.iterations
            return any(
                part.taken(iterations(part.step.optimizer)) > 0 for part in parts
            )
        return all(one.known for one in self._slots)

    def keep(self) -> None:
        """Leaves the optimizers without averages."""
        if not self.swapped:
            warnings.warn(
                "The run ended before an update was averaged: the model holds "
                f"its last weights. start_step={self.start_step!r}, "
                f"update_every={self.update_every!r}",
                stacklevel=2,
            )
        left = LeftAverage(self.averaged, [o.optimizer for o in self._slots])
        statistics = self._averaged_statistics

        def leave():
            for one in self._slots:
                one.detach()
            if statistics is not None:
                statistics.forget()
            self._kept = left

        interrupts.finish(leave)
