"""`ReduceOnPlateau`: a factor on any rate, lowered when a metric stops improving."""

import dataclasses
import json
import os
import warnings
from typing import Any

import keras

from keras_lrs._fit import chosen, epoch_logs, paces, rates, warmups
from keras_lrs._fit.run import Run
from keras_lrs._keras import metrics
from keras_lrs._keras.variables import number
from keras_lrs._step.part import Wanted
from keras_lrs._step.rate_factor import RateFactor
from keras_lrs._storage import files, remote, temporaries
from keras_lrs.callbacks import best_weights
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.best_weights import BestWeights
from keras_lrs.callbacks.plateau import (
    PlateauRecord,
    PlateauRule,
    PlateauState,
    parsed_records,
    rates_before,
)
from keras_lrs.schedules import durations, fields

_WITHIN = ("_steps", "_looked", "_carried", "_seen")
_KEPT = 1_000  # States of past looks, for runs that resume from an older checkpoint.


class ReduceOnPlateau(FitCallback):
    """Multiplies the learning rate by a factor that falls when a metric stalls.

    The rate may be a float, a schedule in the optimizer, or a schedule that
    `HyperparameterScheduler` or `OneCycleScheduler` drives. At every step the rate is
    this value times the factor, computed inside the training step. After `fit` the
    optimizer has its own rate again.

    `optimizer.learning_rate` shows the rate used, including the factor. If your own
    callbacks set it, the factor multiplies the new value from then on. Do not calculate
    this value from the rate that you read.

    The callback looks at the metric after every epoch (or every `every` steps). The
    metric is better if it beats the best by more than `min_delta`. After `patience`
    looks in a row without a better value, the factor is multiplied by `factor`. Then
    the next `cooldown` looks are not counted. With `raise_factor`, `patience` better
    values in a row raise the factor.

    A run that resumes (`initial_epoch`, `BackupAndRestore`) continues with the factor,
    the best value, the looks waited and the cooldown. They are written to `state_path`,
    by default next to the files of a `BackupAndRestore` in the list. Give `state_path`
    if you resume from saved models. In a custom loop, `keras_lrs.Plateau` applies the
    same rule.

    Args:
        monitor: The metric's name in the logs.
        factor: What the rate is multiplied by, in (0, 1).
        patience: Looks without improvement before the rate is lowered, >= 1.
        mode: `"min"`, `"max"`, or `"auto"`, which asks the model's metric, or else goes
            by the last telling word of the name ("accuracy" rises, "loss" falls).
        min_delta: By how much a better value must beat the best, >= 0.
        cooldown: Looks that are not counted after a change, >= 0.
        min_factor: The lowest factor, in [0, 1].
        every: `"epoch"`, or a number of steps, which may exceed an epoch. With steps,
            the value is the mean of a training metric over these steps. Reading it
            waits for the device.
        relative: Whether `min_delta` is a fraction of the best value's size.
        warmup: The length at the start in which looks do not count: steps, `Epochs`,
            `Samples`, `Tokens` or a `Fraction`. None is the warmup of the schedule, if
            it has one (even within `Scaled`, `Product`, `Sum`, `Clipped` and `Noisy`),
            or the longest warmup of all groups of variables.
        raise_factor: What the rate is multiplied by after `patience` better values in a
            row, > 1. None never raises it.
        max_factor: The highest factor that raising may reach, >= 1; None is no bound.
        min_learning_rate: The rate below which the factor does not lower the rate, >=
            0. A schedule that goes lower by itself is left alone. With
            `rate_multipliers` it bounds the rate before they multiply it.
        restore_best_weights: Whether a reduction also restores the weights of the best
            look, with the statistics of batch normalization but without the optimizer's
            own state. Needs `every="epoch"`. Only `ResumableTraining` can resume such a
            run, because its files hold these weights.
        optimizers: The optimizers to act in: a name (of an optimizer, or of the model's
            attribute that holds it), an optimizer, or a list of these. None means all.
        updates_per_batch: As in `HyperparameterScheduler`.
        log: As in `HyperparameterScheduler`.
        state_path: The JSON file for the state, local or in a bucket.
        verbose: 1 prints a line when the factor changes.

    Raises:
        ValueError: If an argument is out of range. Before the first step: if Keras's
            `ReduceLROnPlateau` or `LearningRateScheduler`, or another of these, is in
            the list, or if `mode="auto"` cannot decide (after the first look, if only
            the logs have the metric). After the first epoch: if there is no such
            metric.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.callbacks import ReduceOnPlateau
        >>> from keras_lrs.schedules import LinearDecay
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(LinearDecay(1e-9, 60)), "mse")
        >>> plateau = ReduceOnPlateau("loss", factor=0.5, patience=2)
        >>> x = np.ones((10, 1), "float32")
        >>> history = model.fit(x, x, 1, epochs=6, verbose=0, callbacks=[plateau])
        >>> plateau.state["factor"], plateau.state["wait"]  # The first look is best.
        (0.25, 1)

    Reference: the rule is older than its papers; raising the rate follows GreedyLR,
    "a novel adaptive learning rate scheduler", 2025.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_factor: float = 0.0,
        every: str | int = "epoch",
        *,
        relative: bool = False,
        warmup: durations.Duration = None,
        raise_factor: float | None = None,
        max_factor: float | None = None,
        min_learning_rate: float = 0.0,
        restore_best_weights: bool = False,
        optimizers: chosen.Optimizers = None,
        updates_per_batch: float | None = None,
        log: bool | str = True,
        state_path: str | os.PathLike | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        self.optimizers = chosen.check(optimizers)
        self.updates_per_batch = paces.check(updates_per_batch)
        self.log = epoch_logs.check(log)
        if not isinstance(monitor, str) or not monitor:
            fields.refuse("monitor", "be the name of a metric", monitor, TypeError)
        # When training begins, the model's metric decides.
        self._guesses = fields.one_of("mode", mode, ("auto", "min", "max")) == "auto"
        if self._guesses:
            mode = metrics.of_name(monitor) or "min"
        self.rule = PlateauRule(
            factor,
            patience,
            mode,
            min_delta,
            cooldown,
            min_factor,
            relative,
            raise_factor,
            max_factor,
        )
        self.every = fields.cadence("every", every)
        self.every_step = self.every != "epoch"
        if self.every_step and monitor.startswith("val_"):
            bound = f"be a training metric with every={every}, such as 'loss'"
            fields.refuse("monitor", bound, monitor)
        self.min_learning_rate = fields.validate(
            "min_learning_rate", min_learning_rate, fields.rate()
        )
        self.best_weights: BestWeights | None = None
        if fields.truth("restore_best_weights", restore_best_weights):
            if self.every_step:
                bound = "be False if `every` is not 'epoch'"
                fields.refuse("restore_best_weights", bound, True)
            self.best_weights = BestWeights()
        self.monitor = monitor
        self.warmup = durations.check("warmup", warmup)
        self.state_path = (
            None if state_path is None else fields.any_path("state_path", state_path)
        )
        self.verbose = fields.verbosity("verbose", verbose)
        self._file: Any = None
        self._state = PlateauState()
        self._records: list[PlateauRecord] = []
        self._seen = False

    @property
    def state(self) -> dict[str, Any]:
        """The factor, best value, looks waited, better values, cooldown left."""
        return dataclasses.asdict(self._state)

    # --- Keeping the state ---

    def prepare(self, run: Run) -> list[Wanted]:
        """Requests a factor on all rates, and checks the file of the state."""
        if metrics.of_name(self.monitor) or metrics.is_logged(self.monitor, run.model):
            self._find_mode(run.model)
        self._file = self._path(run)
        if self._file is not None:
            self._refuse_shared(self._file, run)
            files.check_writable(self._file)
            files.remove(temporaries.abandoned(self._file))
        if self.best_weights is not None:
            best_weights.check(run)
        return [
            Wanted(
                optimizer,
                RateFactor,
                (self.min_learning_rate,),
                self._factors,
                slot=ReduceOnPlateau,
            )
            for optimizer in run.chosen(self).values()
        ]

    def _find_mode(self, model):
        """Asks the metric, and its name, whether larger is better."""
        if self._guesses:
            mode = metrics.direction(self.monitor, model)
            self.rule = dataclasses.replace(self.rule, mode=mode)

    def _refuse_shared(self, path, run):
        for other in run.siblings:
            ours = isinstance(other, ReduceOnPlateau) and other is not self
            theirs = other._path(run) if ours else None
            if theirs is not None and remote.resolved(theirs) == remote.resolved(path):
                bound = "be another one for each `ReduceOnPlateau`"
                fields.refuse("state_path", bound, str(path))

    @property
    def _optimizers(self):
        """The optimizers whose rates are multiplied."""
        return list(self._run.chosen(self).values())

    def fit_begins(self, epoch: int) -> None:
        """Restores the state of a run that resumes, or starts over."""
        self._seen = False
        self._steps = self._looked = 0
        self._carried = 0.0
        self._warmup_steps: Any = self.warmup
        if self.warmup is not None:
            progress = self._run.progress
            ahead = max(self._optimizers, key=progress.paces.of)
            with progress.paces.within(ahead):
                self._warmup_steps = progress.length(self.warmup)
            warmups.warn_of_looks(progress, self._warmup_steps)
        from_file = epoch > 0 and not self._records
        self._take_up(self._read() if from_file else self._records if epoch > 0 else [])
        by_hand = self._records[-1].set_by_hand if from_file and self._records else ()
        for optimizer, rate in zip(self._optimizers, by_hand, strict=False):
            self._run.own_rates.take(optimizer, rate)

    def epoch_begins(self, epoch: int) -> None:
        """Checks that a run that resumes has the weights to return to."""
        if self.best_weights is not None:
            self.best_weights.check(self._state.best)

    def _take_up(self, records):
        """Continues with the last record that is not of a later update."""
        run = self._run
        count = self._iterations
        self._records = [record for record in records if record.count <= count]
        self._state = self._records[-1].state if self._records else PlateauState()
        used = [r.state.factor for r in self._records if r.count < count]
        self._used = used[-1] if used else 1.0
        rates = rates_before(self._records, self._own_rates, self.min_learning_rate)
        for optimizer, rate in zip(self._optimizers, rates, strict=True):
            if rate is not None:
                run.own_rates.set(optimizer, rate)

    def _factors(self):
        """Returns the factors of the update before this run and of the next update."""
        return {"used": self._used, "now": self._state.factor}

    @property
    def _own_rates(self):
        run = self._run
        return [run.own_rates.get(optimizer) for optimizer in self._optimizers]

    @property
    def _iterations(self):
        """The iterations of the optimizer with the most."""
        return max(map(self._run.progress.iterations, self._optimizers))

    def get_state(self) -> dict[str, Any]:
        """Returns the states so far, and the position between looks."""
        within = {name: getattr(self, name) for name in _WITHIN}
        found = {"records": [dataclasses.asdict(r) for r in self._records], **within}
        if self.best_weights is not None:
            found["best_weights"] = self.best_weights.get_state()
        return found

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self._take_up([PlateauRecord.parsed(item) for item in state["records"]])
        for name in _WITHIN:
            setattr(self, name, state[name])
        if self.best_weights is not None and "best_weights" in state:
            self.best_weights.set_state(state["best_weights"])

    def _read(self):
        """Reads the states from the file."""
        path = self._file
        if path is None or not path.exists():
            return []
        try:
            return parsed_records(path.read_bytes(), len(self._optimizers))
        except ValueError as error:
            raise ValueError(
                f"`{path}` does not hold the state of this `ReduceOnPlateau`. Remove "
                "it, or give another `state_path`."
            ) from error

    def _write(self):
        by_hand = self._run.own_rates.set_by_hand(self._optimizers)
        record = PlateauRecord(self._iterations, self._own_rates, self._state, by_hand)
        self._records = [*self._records, record][-_KEPT:]
        if self._file is not None:
            content = json.dumps([dataclasses.asdict(r) for r in self._records])
            files.write_atomically(self._file, content.encode())

    def _path(self, run):
        if self.state_path is not None:
            return fields.link_target(self.state_path)
        for other in run.siblings:
            if isinstance(other, keras.callbacks.BackupAndRestore):
                beside = os.path.join(other.backup_dir, "reduce_on_plateau.json")
                return fields.link_target(fields.any_path("state_path", beside))
        return None

    # --- Looking ---

    # The logs hold the mean over the `_steps` since the epoch began. The first
    # `_looked` of these belong to earlier looks, and `_carried` is the sum over them.
    # Both are negative if steps of an earlier epoch have not been looked at yet.

    def step_ends(self, logs: Any) -> None:
        """Looks at the mean since the last look if a look is due."""
        steps = self._steps + self._run.model.steps_per_execution
        # The last execution of an epoch may have fewer.
        self._steps = min(steps, self._run.progress.steps_per_epoch or steps)
        if self._steps - self._looked >= self.every:
            if self.monitor not in logs:
                self._refuse(logs)
            total = self._steps * number(logs[self.monitor])
            mean = (total - self._carried) / (self._steps - self._looked)
            self._looked, self._carried = self._steps, total
            self._look(mean)

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Looks at the metric if this epoch has it."""
        if self.every_step:
            self._carried -= self._steps * float(logs.get(self.monitor, 0.0))
            self._looked -= self._steps
            self._steps = 0
            return
        value = logs.get(self.monitor)
        validated = any(name.startswith("val_") for name in logs)
        if value is not None:
            self._look(float(value))
        elif validated or not self.monitor.startswith("val_"):
            self._refuse(logs)

    def _refuse(self, logs):
        bound = f"name a metric in the logs, which are {', '.join(logs)}"
        fields.refuse("monitor", bound, self.monitor)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Warns if the metric was never seen."""
        super().on_train_end(logs)
        if self._run.begun and not self._seen:
            warnings.warn(
                f"`ReduceOnPlateau` never saw `{self.monitor}`: the run had no "
                "validation, or ended before the first check.",
                stacklevel=2,
            )

    def _look(self, value):
        if not self._seen:
            self._find_mode(self._run.model)
        self._seen = True
        before = self._state
        if not warmups.lasts(self._run, self._optimizers, self._warmup_steps):
            self._state = self.rule.next(before, value, self._least)
        if self.best_weights is not None:
            self.best_weights.look(self._run.model, before, self._state)
        if self._state.factor != before.factor:
            for part in self._run.parts(self):
                iterations = self._run.progress.iterations(part.step.optimizer)
                part.change(self._state.factor, iterations)
            if self.verbose:
                print(f"\nReduceOnPlateau: learning rate x {self._state.factor:g}")
        self._write()

    @property
    def _least(self):
        """The factor at which the largest rate is `min_learning_rate`."""
        if self.min_learning_rate == 0.0:
            return 0.0
        largest = max(rates.last_used(self._run, self._optimizers))
        share = self.min_learning_rate / largest if largest > 0.0 else 1.0
        return self._state.factor * min(share, 1.0)
