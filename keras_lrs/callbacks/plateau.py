"""`Plateau`: a factor on the learning rate that falls with a metric, in any loop."""

import dataclasses
import json
import math
import numbers
from collections.abc import Sequence
from typing import Any

from keras_lrs._keras.variables import number
from keras_lrs.schedules import fields


@dataclasses.dataclass(frozen=True)
class PlateauState:
    """The state on which the next decision depends."""

    factor: float = 1.0
    best: float | None = None
    wait: int = 0
    good: int = 0
    cooldown: int = 0

    @classmethod
    def parsed(cls, item: dict[str, Any]) -> "PlateauState":
        """Makes the state that `dataclasses.asdict` has turned into JSON.

        Raises:
            ValueError: If a value is none that the rule arrives at.
            TypeError: If it is not a state, or a value has the wrong type.
        """
        state = cls(**item)
        best = None if state.best is None else fields.plain(state.best)
        if best is not None and not (fields.is_number(best) and best == best):
            fields.refuse("best", "be None or a number, which may be infinite", best)
        # A factor that has become very small rounds to zero.
        return cls(
            fields.validate("factor", state.factor, fields.number(at_least=0.0)),
            None if best is None else float(best),
            *(
                fields.count(name, getattr(state, name), 0)
                for name in ("wait", "good", "cooldown")
            ),
        )


@dataclasses.dataclass(frozen=True)
class PlateauRecord:
    """The state after `count` iterations, and the rates that the user set.

    `set_by_hand` holds the rates among them that a callback has set.
    """

    count: int
    rates: list[float | None]
    state: PlateauState
    set_by_hand: Sequence[float | None] = ()

    @classmethod
    def parsed(cls, item: dict[str, Any]) -> "PlateauRecord":
        """Parses a record that `dataclasses.asdict` has turned into JSON."""
        rates, by_hand = (
            [None if rate is None else fields.real("rates", rate) for rate in found]
            for found in (item["rates"], item.get("set_by_hand", ()))
        )
        state = PlateauState.parsed(item["state"])
        return cls(fields.count("count", item["count"], 0), rates, state, by_hand)


def parsed_records(content: bytes, count: int) -> list[PlateauRecord]:
    """Parses the records in a file.

    Raises:
        ValueError: If the file holds none for this number of optimizers.
    """
    try:
        records = [PlateauRecord.parsed(item) for item in json.loads(content)]
        fit = all(len(record.rates) == count for record in records)
    except Exception as error:  # JSON may hold a value of any type anywhere.
        raise ValueError(f"It holds no states: {error!r}") from error
    if not records or not fit:
        raise ValueError(f"It is not that of {count} optimizers.")
    return records


def rates_before(
    records: list[PlateauRecord], rates: list[float | None], least: float
) -> list[float | None]:
    """Returns the users' rates, even if optimizers hold them times a factor.

    A model that was saved during the run has the rate that was last used, which a
    factor does not lower below `least`.
    """
    if not records:
        return rates
    factors = {1.0, *(record.state.factor for record in records)}

    def is_lowered(now, before):
        lowered = (max(before * factor, min(before, least)) for factor in factors)
        return any(math.isclose(now, one, rel_tol=1e-6) for one in lowered)

    return [
        before if before is not None and is_lowered(now, before) else now
        for now, before in zip(rates, records[-1].rates, strict=True)
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class PlateauRule(fields.Configured):
    """The rule by which the factor changes; the arguments are `ReduceOnPlateau`'s."""

    factor: float = fields.number(above=0.0, below=1.0)
    patience: int = fields.integer(at_least=1)
    mode: str = fields.choice(("min", "max"))
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

    def next(
        self, state: PlateauState, value: float, least: float = 0.0
    ) -> PlateauState:
        """The state after a look at a value of the metric.

        A reduction does not lower the factor below `least`.
        """
        better = self.is_better(value, state.best)
        best = value if better else state.best
        if state.cooldown > 0:
            return dataclasses.replace(state, best=best, cooldown=state.cooldown - 1)
        wait = 0 if better else state.wait + 1
        good = state.good + 1 if better else 0
        factor = state.factor
        if wait >= self.patience:
            wait, factor = 0, max(factor * self.factor, self.min_factor, least)
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


class Plateau:
    """Lowers a factor on the learning rate when a metric stalls, in any loop.

    It is the rule of `ReduceOnPlateau`, for custom training loops. After each
    validation, or whenever you like, pass the metric to `update`, and multiply the rate
    by the factor that it returns. `optimizers.Scheduled` takes the factor as its
    `rate_factor`.

    A metric is better if it beats the best by more than `min_delta`. NaN is never
    better. After `patience` updates in a row without a better value, the factor is
    multiplied by `factor`. Then the next `cooldown` updates are not counted. With
    `raise_factor`, `patience` better values in a row raise the factor.

    Args:
        factor: What the rate is multiplied by, in (0, 1).
        patience: Updates without improvement before the rate is lowered, >= 1.
        mode: `"min"` if a lower metric is better, `"max"` if a higher one is.
        min_delta: By how much a better value must beat the best, >= 0.
        cooldown: Updates that are not counted after a change, >= 0.
        min_factor: The lowest factor, in [0, 1].
        relative: Whether `min_delta` is a fraction of the best value's size.
        raise_factor: What the rate is multiplied by after `patience` better values in a
            row, > 1. None never raises it.
        max_factor: The highest factor that raising may reach, >= 1; None is no bound.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs import Plateau
        >>> plateau = Plateau(factor=0.5, patience=2)
        >>> [plateau.update(loss) for loss in [1.0, 0.8, 0.9, 0.8, 0.7]]
        [1.0, 1.0, 1.0, 0.5, 0.5]
        >>> plateau.state["best"]
        0.7

        Return to the best weights where the factor falls:

        >>> plateau, weights, best = Plateau(factor=0.5, patience=2), 0.0, None
        >>> for loss in [1.0, 0.8, 0.9, 1.0]:
        ...     weights += 1.0  # Train.
        ...     before = plateau.state["factor"]
        ...     factor = plateau.update(loss)
        ...     if plateau.is_best:
        ...         best = weights
        ...     elif factor < before:
        ...         weights = best
        >>> weights
        2.0

    Reference: the rule is older than its papers; raising the rate follows GreedyLR,
    "a novel adaptive learning rate scheduler", 2025.
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "min",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_factor: float = 0.0,
        *,
        relative: bool = False,
        raise_factor: float | None = None,
        max_factor: float | None = None,
    ):
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
        self._state = PlateauState()
        self._is_best = False

    def update(self, metric: Any) -> float:
        """Takes a value of the metric and returns the new factor.

        Args:
            metric: A number, or a tensor or variable that holds one.

        Raises:
            TypeError: If it is not a number.
        """
        before = self._state.best
        self._state = self.rule.next(self._state, _metric(metric))
        self._is_best = self._state.best != before
        return self._state.factor

    @property
    def is_best(self) -> bool:
        """Whether the last metric is the best so far: keep the weights to return to."""
        return self._is_best

    @property
    def state(self) -> dict[str, Any]:
        """The factor, best value, updates waited, better values, cooldown left."""
        return dataclasses.asdict(self._state)

    def get_state(self) -> dict[str, Any]:
        """Returns JSON values to save, from which `set_state` continues."""
        return self.state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from what `get_state` returned.

        Raises:
            ValueError: If it is not the state of a `Plateau`.
        """
        names = [field.name for field in dataclasses.fields(PlateauState)]
        if not isinstance(state, dict) or sorted(state) != sorted(names):
            fields.refuse("state", f"have the keys {', '.join(names)}", state)
        try:
            self._state = PlateauState.parsed(state)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"Argument `state` must be what `get_state` returned. {error}"
            ) from error


def _metric(metric):
    try:
        value: Any = number(metric)
    except (TypeError, ValueError):
        value = None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        fields.refuse("metric", "be a number", metric, TypeError)
    return float(value)
