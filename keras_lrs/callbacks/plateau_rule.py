"""When a plateau's factor changes, and to what."""

import dataclasses
import math
from typing import Any

from keras_lrs.schedules import fields


@dataclasses.dataclass(frozen=True)
class PlateauState:
    """What the next decision depends on."""

    factor: float = 1.0
    best: float | None = None
    wait: int = 0
    good: int = 0
    cooldown: int = 0


@dataclasses.dataclass(frozen=True)
class PlateauRecord:
    """The state after `count` iterations, and the rates that the user gave."""

    count: int
    rates: list[float | None]
    state: PlateauState

    @classmethod
    def parsed(cls, item: dict[str, Any]) -> "PlateauRecord":
        """The record that `dataclasses.asdict` made JSON of."""
        return cls(int(item["count"]), item["rates"], PlateauState(**item["state"]))


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

    def check(self):
        """Raises `ValueError` for a bound on what is never raised."""
        if self.max_factor is not None and self.raise_factor is None:
            fields.refuse("max_factor", "have a `raise_factor`", self.max_factor)

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
        delta = self.min_delta
        if self.relative:
            delta *= abs(best) if math.isfinite(best) else 0.0
        return value < best - delta if self.mode == "min" else value > best + delta
