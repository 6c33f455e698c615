"""The result of a sweep: the outcome of each point, and the best one."""

import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keras_lrs.schedules import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEYOND = {"low": "below", "high": "above"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point of a `Sweep`, and its outcome.

    Attributes:
        parameters: The values that were tried, by name.
        value: The metric at the end, or when a pruned trial was stopped; None if there
            is none.
        state: `"complete"`, `"pruned"`, `"diverged"` (the metric was not finite),
            `"failed"` (it raised an error, or its process was killed repeatedly), or
            `"open"`, in a sweep that was interrupted.
            epochs: The number of epochs after which the metric was read.
        seconds: How long the trial took; None if it has not ended.
        error: The exception that was raised, if the trial failed.
    """

    parameters: dict[str, float]
    value: float | None
    state: str
    epochs: int
    seconds: float | None
    error: str | None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The result of `sweep`, which prints as a table.

    Attributes:
        ranges: The lower and the upper end of each parameter's range, by name; wider
            than requested if the sweep has extended itself.
        monitor: The name of the metric.
        mode: `"min"` or `"max"`: which values of the metric are better.
        trials: One `Trial` for each point.
        studies: The Optuna studies: the first, and one for each extension.
    """

    ranges: dict[str, tuple[float, float]]
    monitor: str
    mode: str
    trials: list[Trial]
    studies: list[Any] = dataclasses.field(repr=False)

    @property
    def best(self) -> Trial | None:
        """The complete trial with the best value; None if there is none."""
        sign = 1.0 if self.mode == "min" else -1.0
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return min(complete, key=lambda trial: sign * (trial.value or 0), default=None)

    @property
    def best_parameters(self) -> dict[str, float]:
        """The parameters of the best trial.

        Raises:
            RuntimeError: If no trial is complete; the message says why.
        """
        if self.best is None:
            raise RuntimeError(_why_none(self.trials))
        return self.best.parameters

    @property
    def at_edge(self) -> dict[str, str]:
        """`"low"` or `"high"` for each parameter whose best value is the outermost.

        A better value may then lie beyond the edge. If every trial diverged, all rates
        were too large, so the learning rate counts as being at its low edge.
        """
        tried = [
            t for t in self.trials if t.state in ("complete", "pruned", "diverged")
        ]
        if self.best is None:
            diverged = any(trial.state == "diverged" for trial in tried)
            lowered = diverged and "learning_rate" in self.ranges
            return {"learning_rate": "low"} if lowered else {}
        found = {}
        for name, best in self.best.parameters.items():
            values = [trial.parameters[name] for trial in tried]
            if best in (min(values), max(values)):
                found[name] = "low" if best == min(values) else "high"
        return found

    @property
    def is_complete(self) -> bool:
        """Whether every point has been tried."""
        return num_done(self.trials) == len(self.trials)

    def __repr__(self):
        searched = ", ".join(
            f"{name} from {low:.3g} to {high:.3g}"
            for name, (low, high) in self.ranges.items()
        )
        done = f"{num_done(self.trials)} of {len(self.trials)} trials done"
        best = "none complete"
        if self.best is not None:
            values = {**self.best.parameters, self.monitor: self.best.value}
            best = "best: " + ", ".join(f"{k}={v:.4g}" for k, v in values.items())
        return f"<Sweep: {searched}, {done}, {best}>"

    def __str__(self):
        names = list(self.ranges)
        rows = [[*names, self.monitor, "state", "epochs", "seconds"]]
        best = self.best
        for trial in sorted(
            self.trials, key=lambda t: [t.parameters[name] for name in names]
        ):
            rows.append(
                [
                    *(f"{trial.parameters[name]:.4g}" for name in names),
                    "" if trial.value is None else f"{trial.value:.5g}",
                    "best" if trial is best else trial.state,
                    str(trial.epochs),
                    "" if trial.seconds is None else f"{trial.seconds:.1f}",
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) for cell, width in zip(row, widths, strict=True)
            )
            for row in rows
        ]
        return "\n".join([*lines, *remarks(self)])

    def plot(self, path: str | os.PathLike | None = None) -> "Figure":
        """Draws the metric against each parameter, on a log axis.

        Args:
            path: The file for the picture, in the format of its suffix; None does not
                save it.

        Returns:
            A `matplotlib.figure.Figure` with one `Axes` per parameter. Filled circles
            are complete trials, the star is the best, open circles are pruned trials,
            and crosses at the bottom are trials that diverged or failed.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the suffix of `path` is not that of a picture.
            OSError: If the file cannot be written; the old version is kept.
        """
        width = 4.0 * max(len(self.ranges), 1.5)
        with plotting.drawn("Sweep.plot", path, width, 4.0) as figure:
            panels = figure.subplots(1, len(self.ranges), sharey=True, squeeze=False)[0]
            for axes, name in zip(panels, self.ranges, strict=True):
                for state, marker in (("complete", "C0o"), ("pruned", "C7o")):
                    chosen = [trial for trial in self.trials if trial.state == state]
                    axes.plot(
                        [trial.parameters[name] for trial in chosen],
                        [trial.value for trial in chosen],
                        marker,
                        fillstyle="full" if state == "complete" else "none",
                    )
                lost = [t for t in self.trials if t.state in ("diverged", "failed")]
                axes.plot(
                    [trial.parameters[name] for trial in lost],
                    [0.02] * len(lost),
                    "C3x",
                    transform=axes.get_xaxis_transform(),
                )
                if self.best is not None:
                    axes.plot(self.best.parameters[name], self.best.value, "C1*", ms=14)
                axes.set(xscale="log", xlabel=name)
                axes.grid(alpha=0.3)
            panels[0].set_ylabel(self.monitor)
        return figure


def num_done(trials: list[Trial]) -> int:
    """Counts the points that have been tried."""
    return sum(trial.state != "open" for trial in trials)


def remarks(result: Sweep) -> Iterator[str]:
    """Yields what the user must know but the table of a sweep does not show."""
    if result.best is None and result.is_complete:
        yield _why_none(result.trials)
    for name, end in result.at_edge.items():
        yield (
            f"The best `{name}` lies at the {end} edge of the values that were tried: "
            f"a better one may lie beyond. Search further {_BEYOND[end]}, or let the "
            "range extend itself (`extend=True`)."
        )


def _why_none(trials):
    states = " or ".join(sorted({trial.state for trial in trials}))
    errors = (trial.error for trial in trials if trial.error)
    error = next((f" The first error: {error}" for error in errors), "")
    return f"No trial is complete: all are {states}.{error}"
