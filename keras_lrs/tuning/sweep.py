"""Searches for the learning rate and related parameters on a log scale."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

from keras_lrs.schedules import fields
from keras_lrs.tuning import outages, studies
from keras_lrs.tuning.objective import Objective
from keras_lrs.tuning.points import beyond, points
from keras_lrs.tuning.results import Sweep, Trial, num_done, remarks

MAX_EXTENSIONS = 5
MAX_TRIALS = 10_000  # All are queued before the first begins.


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
    """Trains at many learning rates, on a log scale, and finds the best one.

    `sweep(build_model, fit, learning_rate=(1e-4, 1.0))`

    Each trial builds a model and fits it. Optuna runs the search. A trial that raises
    an error is recorded, and the other trials continue. A trial whose metric becomes
    NaN or infinite is stopped and counts as diverged.

    If the best value lies at the edge of the range, a better one may lie beyond it.
    Then `sweep` warns. With `extend=True` it searches beyond that edge, with the same
    spacing, until the best value lies inside.

    With a `storage`, the same call resumes a sweep that was killed. Processes and
    machines that make the same call with the same `storage` share the work: no point is
    tried twice, and each process gets the whole result. If a process is killed, its
    point is given to another after a minute.

    Ctrl-C keeps the finished trials: `sweep` warns and returns them. With a `storage`,
    the next call tries the interrupted point again.

    If the storage fails (a full disk, a lost connection), the sweep ends with an error.
    The same call later resumes with the trials that the storage holds, and tries the
    point of that trial again after a minute.

    Args:
        build_model: A function that makes a compiled model. It is called with the
            parameters that it takes as arguments, by name: `def
            build_model(learning_rate): ...`. To start all trials from the same weights,
            set the seed in it.
        fit: A function that trains the model: `def fit(model, callbacks): return
            model.fit(...)`. It may take parameters as further arguments. It must pass
            `callbacks` on to `model.fit`, or else return the metric, a number.
        search: `"grid"`: points evenly spaced on the log scale, including both ends,
            and every combination of several parameters. `"random"`: points drawn
            uniformly on it. None is `"grid"` for one parameter and `"random"` for
            several.
        num_trials: The number of points, 1 to 10,000; > 1 for `"grid"`. For a grid of
            several parameters it must be a power: 9 or 25 for two parameters with 3 or
            5 values each. An extension has half as many values of each parameter whose
            best value is at an edge.
        monitor: The metric by which trials are compared: its value after the last epoch
            of a trial.
        mode: `"min"`, `"max"`, or `"auto"`, which goes by the name ("accuracy" rises,
            "loss" falls) or else asks the metric that the model is compiled with. For
            this, `build_model` is called once more.
        pruner: `"median"` stops a trial whose metric after an epoch is worse than the
            median of the others after that epoch; `"halving"` is successive halving; or
            any pruner of Optuna. None stops no trial. Note that decaying rates look
            worse than constant ones until they have decayed.
        extend: Whether the range is extended, at most five times.
        storage: None keeps the trials in memory. A path is an SQLite file, and a URL is
            any database that Optuna supports (`"postgresql://..."`). A storage of
            Optuna is used as it is.
        name: The name of the study in the storage. A call whose arguments differ from
            those of the stored study raises an error.
        seed: The seed of the random points; None draws different points every time.
        **ranges: The lower and the upper end of each parameter's range, both > 0. The
            default is `learning_rate=(1e-4, 1.0)`.

    Returns:
        A `Sweep`: print it for a table; `.best_parameters`, `.at_edge`, `.plot()`.

    Raises:
        ImportError: If Optuna is not installed.
        ValueError: If an argument is out of range, if a parameter is an argument of
            neither function, if `fit` does not log the metric, or if `mode="auto"`
            cannot decide whether the metric should rise.
        TypeError: If an argument has the wrong type.
        OSError: If the storage fails during the sweep, as on a full disk.

    Example:
        >>> import keras, numpy as np, optuna
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
    # For a grid, this is the number of values of each parameter.
    side = _root(num_trials, len(ranges)) if search == "grid" else num_trials
    fields.one_of("mode", mode, ("auto", "min", "max"))
    extend = fields.truth("extend", extend)
    objective = Objective(build_model, fit, tuple(ranges), monitor, mode)
    if mode == "auto":
        mode = objective.find_mode({key: low for key, (low, _) in ranges.items()})
    result = Sweep(dict(ranges), monitor, mode, [], [])
    part, count = ranges, side
    shared = studies.Studies(optuna, storage, _pruner(optuna, pruner), mode)
    with contextlib.closing(shared), outages.named(optuna, shared.storage):
        for extension in range(MAX_EXTENSIONS + 1 if extend else 1):
            sampler_seed = None if seed is None else seed + extension
            tried = points(optuna, search, part, result, count, sampler_seed)
            settings = {
                "ranges": {key: list(ends) for key, ends in part.items()},
                "search": search,
                "num_trials": len(tried),
                "monitor": monitor,
                "mode": mode,
            }
            stage = f"{name}, extension {extension}" if extension else name
            study = shared.join(stage, tried, settings)
            shared.work(study, objective)
            result = _extended(result, part, study)
            if not result.is_complete:
                done = (
                    f"{num_done(result.trials)} of {len(result.trials)} trials are done"
                )
                warnings.warn(
                    f"The sweep was interrupted: {done}. With a `storage`, the same "
                    "call resumes with the others.",
                    stacklevel=2,
                )
                return result
            if not result.at_edge:
                break
            count = -(-side // 2)
            part = beyond(result, ranges, count / (side - (search == "grid")))
    for remark in remarks(result):
        warnings.warn(remark, stacklevel=2)
    return result


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
    if search == "grid" and num_trials < 2:
        fields.refuse("num_trials", "be > 1 for a grid", num_trials)
    if search == "grid" and _root(num_trials, num_ranges) ** num_ranges != num_trials:
        powers = ", ".join(str(side**num_ranges) for side in (2, 3, 4))
        bound = f"be a power for a grid of {num_ranges} parameters, such as {powers}"
        fields.refuse("num_trials", bound, num_trials)
    return search


def _root(number, power):
    """Returns the integer whose power is nearest to a number."""
    return round(number ** (1.0 / power))


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


def _extended(result, part, study):
    """Adds the trials of a study, and the part of the ranges that it searched."""
    ranges = {
        key: (min(low, result.ranges[key][0]), max(high, result.ranges[key][1]))
        for key, (low, high) in part.items()
    }
    return dataclasses.replace(
        result,
        ranges=ranges,
        trials=[*result.trials, *_trials(study)],
        studies=[*result.studies, study],
    )


def _trials(study):
    """Lists the outcome of each point of a study."""
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
