"""`ReduceOnPlateau`: a factor on any rate, lowered when a metric stops improving."""

import dataclasses
import json
import math
import os
import pathlib
import warnings
from typing import Any

import keras

from keras_lrs import files, training
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.fit import Fit
from keras_lrs.schedules import durations, fields

_MAXIMIZED = ("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "r2", "dice")
_KEPT = 1_000  # States of looks, so that an older checkpoint can be resumed from.


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
        if not isinstance(monitor, str) or not monitor:
            fields.refuse("monitor", "be the name of a metric", monitor, TypeError)
        if mode == "auto":
            maximized = any(word in monitor.lower() for word in _MAXIMIZED)
            mode = "max" if maximized else "min"
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
        self.every: Any = every
        if every != "epoch":
            self.every = fields.count("every", every, 1)
            if monitor.startswith("val_"):
                bound = f"be a training metric with every={every}, such as 'loss'"
                fields.refuse("monitor", bound, monitor)
        self.monitor = monitor
        self.every_step = every != "epoch"
        self.warmup = durations.check("warmup", warmup)
        self.state_path = None if state_path is None else pathlib.Path(state_path)
        self.verbose = verbose
        self._state = PlateauState()
        self._records: list[dict[str, Any]] = []
        self._seen = False

    @property
    def state(self) -> dict[str, Any]:
        """Factor, best value, looks waited, better ones in a row, cooldown left."""
        return dataclasses.asdict(self._state)

    # --- Keeping the state ---

    def prepare(self, fit: Fit) -> None:
        """Asks for a factor on all rates."""
        fit.scale(self)

    def fit_begins(self, epoch: int) -> None:
        """Takes up the state of the training that goes on, or none."""
        self._seen = False
        self._records = self._read() if epoch > 0 else []
        if self._records:
            self._state = PlateauState(**self._records[-1]["state"])
            self._fit.own_rates = self._records[-1]["rates"]
        else:
            self._state = PlateauState()
        self._fit.set_factor(self._state.factor)

    def _read(self):
        """The states up to this point of the training."""
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
        return [record for record in records if record["count"] <= count]

    def _write(self):
        record = {
            "count": self._fit.count(self._fit.optimizers[0]),
            "rates": self._fit.own_rates,
            "state": self.state,
        }
        self._records = [*self._records, record][-_KEPT:]
        path = self._path()
        if path is not None:
            files.write_atomically(path, json.dumps(self._records).encode())

    def _path(self):
        if self.state_path is not None:
            return self.state_path
        for other in self._fit.siblings:
            if isinstance(other, keras.callbacks.BackupAndRestore):
                return pathlib.Path(other.backup_dir, "reduce_on_plateau.json")
        return None

    # --- Looking ---

    def epoch_begins(self, epoch: int) -> None:
        """The running means in the logs begin again."""
        self._steps = self._looked = 0
        self._total = 0.0

    def step_ends(self, logs: Any) -> None:
        """Looks at the mean since the last look."""
        self._steps += self._fit.model.steps_per_execution
        if self._steps - self._looked < self.every:
            return
        if self.monitor not in logs:
            self._refuse(logs)
        # The logs hold the mean since the epoch began.
        total = self._steps * training.number(logs[self.monitor])
        mean = (total - self._total) / (self._steps - self._looked)
        self._looked, self._total = self._steps, total
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
        bound = f"name a metric in the logs, which are {', '.join(logs)}"
        fields.refuse("monitor", bound, self.monitor)

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
        before = self._state
        if not self._is_warming_up():
            self._state = self.rule.next(before, value)
        if self._state.factor != before.factor:
            self._fit.set_factor(self._state.factor)
            if self.verbose:
                print(f"\nReduceOnPlateau: learning rate x {self._state.factor:g}")
        self._write()

    def _is_warming_up(self):
        fit = self._fit
        if self.warmup is None:
            schedule = fit.rate_schedule(fit.optimizers[0])
            steps = getattr(schedule, "warmup_steps", 0)
        elif isinstance(self.warmup, int):
            steps = self.warmup
        else:
            steps = fit.window().length(self.warmup)
        return 0 < fit.position <= steps


@dataclasses.dataclass(frozen=True)
class PlateauState:
    """What the next decision depends on."""

    factor: float = 1.0
    best: float | None = None
    wait: int = 0
    good: int = 0
    cooldown: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class PlateauRule(fields.Configured):
    """When the factor changes, and to what; the arguments are `ReduceOnPlateau`'s."""

    factor: float = fields.number(above=0.0, below=1.0)
    patience: int = fields.integer(at_least=1)
    mode: str = fields.choice(("auto", "min", "max"))
    min_delta: float = fields.number(at_least=0.0)
    cooldown: int = fields.integer(at_least=0)
    min_factor: float = fields.number(at_least=0.0, at_most=1.0)
    relative: bool = fields.flag()
    raise_factor: float | None = fields.number(default=None, above=1.0)
    max_factor: float | None = fields.number(default=None, at_least=1.0)

    def next(self, state: PlateauState, value: float) -> PlateauState:
        """The state after a look at a value of the metric."""
        better = self.is_better(value, state.best)
        best = value if better else state.best
        if state.cooldown > 0:
            return dataclasses.replace(state, best=best, cooldown=state.cooldown - 1)
        wait = 0 if better else state.wait + 1
        good = state.good + 1 if better else 0
        factor = state.factor
        if wait >= self.patience:
            wait, factor = 0, max(factor * self.factor, self.min_factor)
        elif good >= self.patience and self.raise_factor is not None:
            highest = math.inf if self.max_factor is None else self.max_factor
            good, factor = 0, min(factor * self.raise_factor, highest)
        cooldown = self.cooldown if factor != state.factor else 0
        return PlateauState(factor, best, wait, good, cooldown)

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a value beats the best; NaN does not."""
        if best is None:
            return not math.isnan(value)
        delta = self.min_delta * abs(best) if self.relative else self.min_delta
        return value < best - delta if self.mode == "min" else value > best + delta
