"""Searches for the learning rate, and for what goes with it, on a log scale."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lrs import monitors
from keras_lrs.schedules import fields, plotting
from keras_lrs.tuning import studies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_EXTENSIONS = 5
MAX_TRIALS = 10_000  # All are queued before the first begins.
_BEYOND = {"low": "below", "high": "above"}


@dataclasses.dataclass(frozen=True)
class Trial:
    """What became of one point of a `Sweep`.

    Attributes:
        parameters: The values that were tried, by name.
        value: The metric at the end; of a pruned trial, where it was stopped; None
            without one.
        state: `"complete"`, `"pruned"`, `"diverged"` (the metric was not finite),
            `"failed"` (it raised, or its process was killed again and again), or
            `"open"`, in a sweep that was interrupted.
        epochs: After how many epochs the metric was looked at.
        seconds: How long it took; None if it has not ended.
        error: What was raised, if it failed.
    """

    parameters: dict[str, float]
    value: float | None
    state: str
    epochs: int
    seconds: float | None
    error: str | None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The result of `sweep`; printed, it is a table.

    Attributes:
        ranges: The lower and the upper end of what was searched, by name; wider than
            what was asked for if the sweep has extended itself.
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
            raise RuntimeError(self._why_none())
        return self.best.parameters

    @property
    def at_edge(self) -> dict[str, str]:
        """`"low"` or `"high"` for each parameter whose best value is the last tried.

        Then nothing says that no better value lies beyond. If every trial diverged,
        the learning rate is at its low edge: all were too large.
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
        return self._num_done == len(self.trials)

    @property
    def _num_done(self):
        return sum(trial.state != "open" for trial in self.trials)

    def __repr__(self):
        searched = ", ".join(
            f"{name} from {low:.3g} to {high:.3g}"
            for name, (low, high) in self.ranges.items()
        )
        done = f"{self._num_done} of {len(self.trials)} trials done"
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
        return "\n".join([*lines, *self._remarks()])

    def _remarks(self):
        """What the user must know beside the table."""
        if self.best is None and self.is_complete:
            yield self._why_none()
        for name, end in self.at_edge.items():
            yield (
                f"The best `{name}` lies at the {end} edge of what was tried: a better "
                f"one may lie beyond. Search further {_BEYOND[end]}, or let the range "
                "extend itself (`extend=True`)."
            )

    def _why_none(self):
        states = " or ".join(sorted({trial.state for trial in self.trials}))
        errors = (trial.error for trial in self.trials if trial.error)
        error = next((f" The first error: {error}" for error in errors), "")
        return f"No trial is complete: all are {states}.{error}"

    def plot(self, path: str | os.PathLike | None = None) -> "Figure":
        """Draws the metric against each parameter, on a log axis.

        Args:
            path: Where to save the picture, in the format of its suffix; None does not.

        Returns:
            A `matplotlib.figure.Figure` with one `Axes` per parameter. Filled circles
            are complete trials, the star is the best, open circles are pruned ones, and
            crosses at the bottom diverged or failed.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the suffix of `path` is not that of a picture.
        """
        path = plotting.picture(path)
        width = 4.0 * max(len(self.ranges), 1.5)
        figure = plotting.empty_figure("Sweep.plot", width, 4.0)
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
        return plotting.finished(figure, path)


def sweep(
    build_model: Callable[..., Any],
    fit: Callable[..., Any],
    *,
    search: str | None = None,
    num_trials: int = 9,
    monitor: str = "val_loss",
    mode: str = "auto",
    pruner: Any = None,
    extend: bool = False,
    storage: Any = None,
    name: str = "sweep",
    seed: int | None = 0,
    **ranges: tuple[float, float],
) -> Sweep:
    """Trains at many learning rates, on a log scale, and says which one is best.

    `sweep(build_model, fit, learning_rate=(1e-4, 1.0))`

    Each trial builds a model and fits it. The search is Optuna's: a trial that raises
    is recorded and the others go on; one whose metric becomes NaN or infinite is
    stopped and counts as diverged.

    The best value must not lie at the edge of the range, where nothing says that no
    better one lies beyond. If it does, `sweep` warns; with `extend=True` it searches on
    beyond that edge, as densely, until it does not.

    With a `storage`, the same call goes on where a killed one stopped. Processes and
    machines that make the same call with the same `storage` share the work; no point is
    tried twice, and each gets the whole result. The point of a process that was killed
    is given to another after a minute.

    Ctrl-C keeps what is done: `sweep` warns and returns it. With a `storage` the
    interrupted point is tried again by the next call.

    Args:
        build_model: Makes a compiled model. It is called with those of the parameters
            that it has as arguments, by name: `def build_model(learning_rate): ...`.
            To compare from the same initial weights, set the seed in it.
        fit: Trains it: `def fit(model, callbacks): return model.fit(...)`; it may have
            parameters as further arguments. It must hand `callbacks` on to `model.fit`,
            or else return the metric, a number.
        search: `"grid"`: evenly spaced on the log scale, both ends included, for one
            parameter; `"random"`: drawn from it. None is `"grid"` for one parameter and
            `"random"` for several.
        num_trials: How many points, 1 to 10,000; > 1 for `"grid"`. An extension has
            half as many.
        monitor: The metric that says which value is best: its value after the last
            epoch of a trial.
        mode: `"min"`, `"max"`, or `"auto"`: `"max"` for accuracies and their like.
        pruner: `"median"` stops a trial whose metric, after an epoch, is worse than the
            median of the others then; `"halving"` is successive halving; or any pruner
            of Optuna. None stops none. Mind that rates which decay look worse than
            constant ones until they have decayed.
        extend: Whether the range extends itself, at most five times.
        storage: None keeps the trials in memory; a path is an SQLite file; a URL is any
            database of Optuna's (`"postgresql://..."`); or a storage of Optuna.
        name: Which study in the storage it is. A call that asks for something else than
            the study holds is refused.
        seed: Of the random points; None draws others every time.
        **ranges: The lower and the upper end of each parameter, both > 0. By default
            `learning_rate=(1e-4, 1.0)`.

    Returns:
        A `Sweep`: print it for a table; `.best_parameters`, `.at_edge`, `.plot()`.

    Raises:
        ImportError: If Optuna is not installed.
        ValueError: If an argument is out of range, a parameter is an argument of
            neither function, or the metric is not among those of `fit`.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import keras, optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def build_model(learning_rate):
        ...     model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        ...     model.compile(keras.optimizers.SGD(learning_rate), "mse")
        ...     return model
        >>> def fit(model, callbacks):
        ...     x = np.ones((8, 1))
        ...     return model.fit(x, x, epochs=20, callbacks=callbacks, verbose=0)
        >>> rates = (1e-3, 10.0)
        >>> result = sweep(
        ...     build_model, fit, learning_rate=rates, num_trials=5, monitor="loss"
        ... )
        >>> [trial.state for trial in result.trials]
        ['complete', 'complete', 'complete', 'complete', 'diverged']
        >>> result.best_parameters, result.at_edge
        ({'learning_rate': 0.1}, {})

    Reference: Cutkosky, "Lecture Notes 5: tuning and learning rate schedules"; Bergstra
    and Bengio, "Random Search for Hyper-Parameter Optimization", 2012; Akiba et al.,
    "Optuna", 2019, arXiv:1907.10902.
    """
    optuna = _import_optuna()
    ranges = _checked_ranges(ranges or {"learning_rate": (1e-4, 1.0)})
    num_trials = fields.count("num_trials", num_trials, 1, MAX_TRIALS)
    seed = None if seed is None else fields.count("seed", seed, 0)
    for argument, value in (("monitor", monitor), ("name", name)):
        if not isinstance(value, str) or not value:
            fields.refuse(argument, "be a name", value, TypeError)
    search = _checked_search(search, len(ranges), num_trials)
    fields.one_of("mode", mode, ("auto", "min", "max"))
    extend = fields.truth("extend", extend)
    mode = monitors.mode_of(monitor) if mode == "auto" else mode
    objective = studies.Objective(build_model, fit, tuple(ranges), monitor, mode)
    result = Sweep(dict(ranges), monitor, mode, [], [])
    part, count = ranges, num_trials
    store = studies.Store(optuna, storage, _pruner(optuna, pruner), mode)
    with contextlib.closing(store):
        for extension in range(MAX_EXTENSIONS + 1 if extend else 1):
            settings = {
                "ranges": {key: list(ends) for key, ends in part.items()},
                "search": search,
                "num_trials": count,
                "monitor": monitor,
                "mode": mode,
            }
            sampler_seed = None if seed is None else seed + extension
            points = _points(optuna, search, part, result, count, sampler_seed)
            stage = f"{name}, extension {extension}" if extension else name
            study = store.join(stage, points, settings)
            store.work(study, objective)
            result = dataclasses.replace(
                result,
                ranges={
                    key: (
                        min(low, result.ranges[key][0]),
                        max(high, result.ranges[key][1]),
                    )
                    for key, (low, high) in part.items()
                },
                trials=[*result.trials, *_trials(study)],
                studies=[*result.studies, study],
            )
            if not result.is_complete:
                done = f"{result._num_done} of {len(result.trials)} trials are done"
                warnings.warn(
                    f"The sweep was interrupted: {done}. With a `storage`, the same "
                    "call goes on with the others.",
                    stacklevel=2,
                )
                return result
            if not result.at_edge:
                break
            count = -(-num_trials // 2)
            part = _beyond(result, ranges, count / (num_trials - (search == "grid")))
    for remark in result._remarks():
        warnings.warn(remark, stacklevel=2)
    return result


# --- Checks ---------------------------------------------------------------------------


def _import_optuna():
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "`sweep` needs Optuna, which is not installed. Install it with: "
            'pip install "keras-lrs[tune]"'
        ) from error
    return optuna


def _checked_ranges(ranges):
    checked = {}
    for name, ends in ranges.items():
        bound = "be a lower and an upper end, as in `learning_rate=(1e-4, 1.0)`"
        if name != "learning_rate":
            bound += "; `sweep` has no option of that name"
        items = fields.items(name, ends, bound)
        if len(items) != 2:
            fields.refuse(name, bound, ends)
        low, high = (fields.real(name, end) for end in items)
        if not 0.0 < low < high:
            fields.refuse(name, "have 0 < lower end < upper end", ends)
        checked[name] = (low, high)
    return checked


def _checked_search(search, num_ranges, num_trials):
    if search is None:
        search = "grid" if num_ranges == 1 else "random"
    if not isinstance(search, str) or search not in ("grid", "random"):
        fields.refuse("search", "be 'grid', 'random' or None", search)
    if search == "grid" and num_ranges > 1:
        fields.refuse("search", "be 'random' for several parameters", search)
    if search == "grid" and num_trials < 2:
        fields.refuse("num_trials", "be > 1 for a grid", num_trials)
    return search


def _pruner(optuna, pruner):
    if pruner is None:
        return optuna.pruners.NopPruner()
    if pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=3)
    if pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner()
    if not isinstance(pruner, optuna.pruners.BasePruner):
        fields.refuse("pruner", "be 'median', 'halving', a pruner or None", pruner)
    return pruner


def _trials(study):
    """What became of each point of a study."""
    return [
        Trial(
            parameters=studies.parameters(trial),
            value=None if state == "diverged" else trial.value,
            state=state,
            epochs=len(trial.intermediate_values),
            seconds=None if trial.duration is None else trial.duration.total_seconds(),
            error=error,
        )
        for trial, state, error in studies.outcomes(study)
    ]


# --- Points ---------------------------------------------------------------------------


def _points(optuna, search, ranges, tried, count, seed):
    """A list of parameters: a grid, without what has been tried, or random draws."""
    if search == "grid":
        ((name, (low, high)),) = ranges.items()
        known = {trial.parameters[name] for trial in tried.trials}
        values = np.geomspace(low, high, count + len(known & {low, high})).tolist()
        values[0], values[-1] = low, high
        return [{name: value} for value in values if value not in known]
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(sampler=sampler)
    log_range = optuna.distributions.FloatDistribution
    space = {name: log_range(*ends, log=True) for name, ends in ranges.items()}
    return [study.ask(space).params for _ in range(count)]


def _beyond(result, ranges, share):
    """Where to search on: past the edges, by a share of the range asked for."""
    part = dict(result.ranges)
    for name, end in result.at_edge.items():
        (low, high), (first, last) = result.ranges[name], ranges[name]
        factor = (last / first) ** share
        part[name] = (low / factor, low) if end == "low" else (high, high * factor)
    return part
