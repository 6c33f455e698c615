"""`ReduceOnPlateau`: a factor on any rate, lowered when a metric stops improving."""

import dataclasses
import json
import math
import os
import pathlib
import warnings
from typing import Any

import keras
from keras import ops

from keras_lrs import files, training
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import durations, fields

_MAXIMIZED = ("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "r2", "dice")

_KEPT = 1_000  # States of looks, so that an older checkpoint can be resumed from.


@dataclasses.dataclass
class _State:
    """What a decision depends on."""

    factor: float = 1.0
    best: float | None = None
    wait: int = 0
    good: int = 0
    cooldown: int = 0


class ReduceOnPlateau(FitCallback):
    """Multiplies the learning rate by a factor that falls when a metric stalls.

    The rate may be a float, a schedule in the optimizer, or one that
    `HyperparameterScheduler` or `OneCycleScheduler` drives: at every step it is the
    schedule's value times the factor, inside the compiled step. After `fit` the
    optimizer has its own rate again.

    The metric is looked at after every epoch (or every so many steps). It is better if
    it beats the best by more than `min_delta`. After `patience` looks in a row without
    a better one the factor is multiplied by `factor`; then the next `cooldown` looks
    are not counted. With `raise_factor`, `patience` better ones in a row raise it.

    A training that goes on (`initial_epoch`, `BackupAndRestore`) goes on with the
    factor, the best value, the looks waited and the cooldown. They are written to
    `state_path`, by default beside the files of a `BackupAndRestore` in the list.
    Give `state_path` if you resume from saved models.

    Args:
        monitor: The metric's name in the logs.
        factor: What the rate is multiplied by, in (0, 1).
        patience: Looks without improvement after which it is, >= 1.
        mode: `"min"`, `"max"`, or `"auto"`: `"max"` if the name has accuracy, AUC,
            precision, recall, F1, IoU, R2 or Dice in it.
        min_delta: By how much a better value must beat the best, >= 0.
        cooldown: Looks after a change that are not counted, >= 0.
        min_factor: The lowest factor, in [0, 1].
        every: `"epoch"`, or a number of steps; then `monitor` is the mean of a training
            metric over these steps. Reading it waits for the device.
        relative: Whether `min_delta` is a fraction of the best value's size.
        warmup: For how long nothing is looked at: steps, `Epochs` or a `Fraction`. None
            is the warmup of the schedule, if it has one.
        raise_factor: What the rate is multiplied by after `patience` better values in a
            row, > 1. None never raises it.
        max_factor: The highest factor, >= 1; None has no bound.
        state_path: The JSON file for the state.
        verbose: 1 prints a line when the factor changes.

    Raises:
        ValueError: If an argument is out of range; and before the first step, if
            Keras's `ReduceLROnPlateau` or `LearningRateScheduler`, or another of these,
            is in the list. After the first epoch, if there is no such metric.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.callbacks import ReduceOnPlateau
        >>> callback = ReduceOnPlateau("val_loss", factor=0.5, patience=3)
        >>> callback.factor, callback.state["factor"]
        (0.5, 1.0)

    Reference: the rule is folklore; raising is after Subramanian et al., "GreedyLR",
    2025.
    """

    priority = 1

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
        state_path: str | os.PathLike | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        arguments = _Arguments(
            monitor,
            factor,
            patience,
            mode,
            min_delta,
            cooldown,
            min_factor,
            every,
            relative,
            warmup,
            raise_factor,
            max_factor,
        )
        vars(self).update(vars(arguments))
        self.every_step = self.every != "epoch"
        self.state_path = None if state_path is None else pathlib.Path(state_path)
        self.verbose = verbose
        self._state = _State()
        self._records: list[dict[str, Any]] = []

    @property
    def state(self) -> dict[str, Any]:
        """Factor, best value, looks waited, better ones in a row, cooldown left."""
        return dataclasses.asdict(self._state)

    # --- Keeping the state ---

    def prepare(self, fit: training.Fit) -> None:
        """Asks for a factor on all rates."""
        fit.scale(self)
        if self.monitor.startswith("val_") and self.every_step:
            raise ValueError(
                "Argument `monitor` must be a training metric, such as 'loss', when it "
                f"is looked at every {self.every} steps. Received: "
                f"monitor={self.monitor!r}"
            )

    def fit_begins(self, epoch: int) -> None:
        """Takes up the state of the training that goes on, or none."""
        self._seen = False
        record = self._record() if epoch > 0 else None
        if epoch == 0:
            self._records = []
        self._state = _State() if record is None else _State(**record["state"])
        if record is not None:
            self._fit.own_rates = record["rates"]
        self._fit.set_factor(self._state.factor)

    def _record(self):
        """The last record of a state at or before this point of the training."""
        records = self._records
        path = self._path()
        if not records and path is not None and path.exists():
            try:
                records = json.loads(path.read_bytes())
            except ValueError as error:
                raise ValueError(
                    f"`{path}` does not hold the state of a `ReduceOnPlateau`. Remove "
                    "it, or give another `state_path`."
                ) from error
        count = self._fit.count(self._fit.optimizers[0])
        self._records = [record for record in records if record["count"] <= count]
        return self._records[-1] if self._records else None

    def _write(self):
        self._records.append(
            {
                "count": self._fit.count(self._fit.optimizers[0]),
                "rates": self._fit.own_rates,
                "state": self.state,
            }
        )
        del self._records[:-_KEPT]
        path = self._path()
        if path is not None:
            files.write_atomically(path, json.dumps(self._records).encode())

    def _path(self):
        if self.state_path is not None:
            return self.state_path
        for other in getattr(self._fit.siblings(), "callbacks", []):
            if isinstance(other, keras.callbacks.BackupAndRestore):
                return pathlib.Path(other.backup_dir, "reduce_on_plateau.json")
        return None

    # --- Looking ---

    def epoch_begins(self, epoch: int) -> None:
        """The running means of the logs begin again."""
        self._steps = self._from = 0
        self._sum = 0.0

    def step_ends(self, logs: Any) -> None:
        """Looks at the mean since the last look."""
        model = self._fit.model
        self._steps += model.steps_per_execution
        if self._steps - self._from < self.every:
            return
        if self.monitor not in logs:
            self._refuse(logs)
        # The logs hold the mean since the epoch began.
        total = self._steps * float(ops.convert_to_numpy(logs[self.monitor]))
        mean = (total - self._sum) / (self._steps - self._from)
        self._from, self._sum = self._steps, total
        self._look(mean)

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Looks at the metric, if this epoch has it."""
        if self.every_step:
            return
        value = logs.get(self.monitor)
        validated = any(name.startswith("val_") for name in logs)
        if value is not None:
            self._look(float(value))
        elif validated or not self.monitor.startswith("val_"):
            self._refuse(logs)

    def _refuse(self, logs):
        raise ValueError(
            "Argument `monitor` must name a metric in the logs, which are: "
            f"{', '.join(logs)}. Received: monitor={self.monitor!r}"
        )

    def fit_ends(self) -> None:
        """Says so if there was never anything to look at."""
        if self._fit.last_ended is not None and not self._seen:
            warnings.warn(
                f"`ReduceOnPlateau` never saw `{self.monitor}`: the training had no "
                "validation, or was over before the first look.",
                stacklevel=2,
            )

    def _look(self, value):
        self._seen = True
        if not self._is_warming_up():
            before = self._state.factor
            self._decide(value)
            after = self._state.factor
            if after != before:
                self._fit.set_factor(after)
                if self.verbose:
                    print(f"\nReduceOnPlateau: rate x {after:g} (was x {before:g})")
        self._write()

    def _is_warming_up(self):
        fit = self._fit
        steps = self.warmup
        if steps is None:
            schedule = fit.rate_schedule(fit.optimizers[0])
            steps = getattr(schedule, "warmup_steps", 0)
        elif not isinstance(steps, int):
            steps = fit.window().length(steps)
        return 0 < fit.position <= steps

    def _decide(self, value):
        state = self._state
        if better := self._is_better(value):
            state.best = value
        if state.cooldown > 0:
            state.cooldown -= 1
            return
        state.wait = 0 if better else state.wait + 1
        state.good = state.good + 1 if better else 0
        factor = state.factor
        if state.wait >= self.patience:
            state.wait = 0
            factor = max(factor * self.factor, self.min_factor)
        elif self.raise_factor is not None and state.good >= self.patience:
            state.good = 0
            factor = min(factor * self.raise_factor, self.max_factor or math.inf)
        if factor != state.factor:
            state.factor = factor
            state.cooldown = self.cooldown

    def _is_better(self, value):
        best = self._state.best
        if best is None:
            return not math.isnan(value)
        delta = self.min_delta * abs(best) if self.relative else self.min_delta
        return value < best - delta if self.mode == "min" else value > best + delta


def _name(name, value):
    if not isinstance(value, str) or not value:
        fields.refuse(name, "be the name of a metric", value, TypeError)
    return value


def _period(name, value):
    if isinstance(value, str):
        if value != "epoch":
            fields.refuse(name, "be 'epoch' or a number of steps", value)
        return value
    return fields.count(name, value, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Arguments(fields.Configured):
    """The arguments of `ReduceOnPlateau`, checked as a schedule's are."""

    monitor: str = fields.checked(fields.REQUIRED, _name)
    factor: float = fields.number(above=0.0, below=1.0)
    patience: int = fields.integer(at_least=1)
    mode: str = fields.choice(("auto", "min", "max"))
    min_delta: float = fields.number(at_least=0.0)
    cooldown: int = fields.integer(at_least=0)
    min_factor: float = fields.number(at_least=0.0, at_most=1.0)
    every: Any = fields.checked(fields.REQUIRED, _period)
    relative: bool = fields.flag()
    warmup: durations.Duration = durations.length(default=None, at_least=0)
    raise_factor: float | None = fields.number(default=None, above=1.0)
    max_factor: float | None = fields.number(default=None, at_least=1.0)

    def check(self):
        """Settles what `"auto"` means."""
        if self.mode == "auto":
            name = self.monitor.lower()
            maximized = any(word in name for word in _MAXIMIZED)
            object.__setattr__(self, "mode", "max" if maximized else "min")
