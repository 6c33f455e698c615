"""Everything public that takes arguments, with a good call or several of each.

The list is that of `__all__`: `test_arguments.py` fails for a name that is not here.
"""

import dataclasses
import functools
import inspect
import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_lrs as lrs
from tests import catalogue, compiled
from tests.callbacks import references

S, A, C, T = lrs.schedules, lrs.averages, lrs.callbacks, lrs.tuning
PACKAGES = (lrs, S, A, C, lrs.checkpoints, lrs.optimizers, lrs.ensembles, T)
ABSTRACT = (S.Schedule, S.Decay, S.Composition, A.Average)


@dataclasses.dataclass(frozen=True)
class Made:
    """An argument that is made for each call."""

    make: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """Something that takes arguments.

    Args:
        call: The class or function.
        bases: Good arguments; those left out are at their defaults.
        check: A function of the result that raises if it is not what was promised.
        deep: Another one that takes longer, for some of the results.
        keywords: Names that the signature hides behind `**`.
        errors: Errors that are documented besides `ValueError` and `TypeError`.
        unchecked: Arguments that are handed on to Keras and not looked at.
        is_costly: Whether a call takes longer than a construction.
    """

    call: Any
    bases: list[dict[str, Any]]
    check: Callable[[Any], None] = lambda result: None
    deep: Callable[[Any], None] = lambda result: None
    keywords: tuple[str, ...] = ()
    errors: tuple[type[Exception], ...] = ()
    unchecked: tuple[str, ...] = ()
    is_costly: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the arguments."""
        hidden = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        parameters = inspect.signature(self.call).parameters.values()
        names = [p.name for p in parameters if p.kind not in hidden]
        return [*names, *self.keywords]

    def default(self, name: str) -> Any:
        """What an argument is if it is not given."""
        parameter = inspect.signature(self.call).parameters.get(name)
        empty = parameter is None or parameter.default is inspect.Parameter.empty
        return None if empty else parameter.default


# --- What was promised ----------------------------------------------------------------


def integers(config: Any) -> set[int]:
    """The integers in a config, which may be lengths."""
    if isinstance(config, dict):
        config = list(config.values())
    if isinstance(config, list):
        return {i for item in config for i in integers(item)}
    return {config} if type(config) is int else set()


def steps_of(schedule):
    """Where a schedule may go wrong: at both ends of time, and around its lengths."""
    lengths = integers(schedule.get_config())
    around = {n + i for n in sorted(lengths)[:20] for i in (-1, 0, 1)}
    last = 2**31 - 2
    fixed = {0, 1, 2, 3, 2**24 - 1, 2**24, 2**24 + 1, last - 1, last}
    return sorted(fixed | {step for step in around if 0 <= step <= last})


def assert_values(schedule, high=np.inf):
    """Finite and >= 0 at every step, as arrays, numbers and tensors."""
    steps = np.array(steps_of(schedule))
    # The number of steps is the same every time: JAX compiles for each.
    tensors = keras.ops.convert_to_tensor(
        np.resize(steps, 80), dtype=compiled.integer_dtype()
    )
    found = [
        schedule(steps),
        schedule.curve(3),
        keras.ops.convert_to_numpy(schedule(tensors)),
        keras.ops.convert_to_numpy(schedule(0)),
    ]
    for values in found:
        assert np.all(np.isfinite(values)), values
        assert np.all((values >= 0.0) & (values <= high)), values


def check_schedule(schedule):
    """A schedule is finite everywhere; an open one says so, and can be bound."""
    if type(schedule) in ABSTRACT:
        return  # Abstract.
    try:
        schedule.curve(1)
    except ValueError as error:
        assert "is open" in str(error), error
        try:
            schedule = schedule.bind(1000, 10)
        except ValueError as error:
            assert "Received: " in str(error), error
            return
    assert_values(schedule)


def check_average(average):
    if type(average) is not A.Average:
        assert_values(average, high=1.0)
        average.thinned(7)


def check_pair(pair):
    for schedule in pair:
        check_schedule(schedule)


def check_scaled(result):
    if isinstance(result, float):
        assert np.isfinite(result)
        assert result >= 0.0
    else:
        check_schedule(result)


def check_finite(result):
    assert np.all(np.isfinite(result)), result


def train(callback):
    """One that was accepted takes part in a training, or says why it cannot."""
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, name="SGD")
    model = references.linear_model(optimizer)
    try:
        references.fit(model, [callback], epochs=2)
    except (ValueError, TypeError) as error:
        assert "Received: " in str(error) or "`" in str(error), error


def compile_and_run(schedule):
    """A compiled step gives finite rates."""
    if type(schedule) in ABSTRACT or not schedule.is_bound:
        return
    for compiler in compiled.compilers().values():
        values = compiled.scalar_values(schedule, [0, 7, 2**31 - 2], compiler)
        assert np.all(np.isfinite(values) & (values >= 0.0)), values


def check_range_test(result):
    # Between ends that hardly differ there are fewer floats than steps.
    assert np.all(np.diff(result.learning_rates) >= 0.0)
    str(result.suggestions())


# --- What is fuzzed -------------------------------------------------------------------

X, Y = references.X[:4], references.Y[:4]


def linear_model():
    return references.linear_model(keras.optimizers.SGD(0.01))


@functools.wraps(T.range_test)
def short_range_test(**arguments):
    """A range test that does not take an hour."""
    num_steps = arguments["num_steps"]
    if isinstance(num_steps, (int, float)) and 1000 < num_steps <= 2**20:
        arguments["num_steps"] = 1000
    return T.range_test(**arguments)


def build_model(learning_rate):
    return learning_rate


def make_fit():
    """Trains nothing; is interrupted after a few trials, however many are asked for."""
    trials = itertools.count()

    def fit(model, callbacks):
        if next(trials) == 5:
            raise KeyboardInterrupt
        return abs(model - 0.01)  # The best rate is not at an edge.

    return fit


@functools.cache
def ensemble():
    model = linear_model()
    values = [keras.ops.convert_to_numpy(v) for v in model.variables]
    members = [
        lrs.ensembles.Member("a", step, 1, True, 0.1, {}, values) for step in (1, 2)
    ]
    return lrs.ensembles.Ensemble(model, members)


@functools.cache
def directory():
    """A folder for all that write or read files; removed when the process ends."""
    folder = tempfile.TemporaryDirectory()
    directory.folder = folder
    return folder.name


def fresh_directory():
    """A folder in it that no other callback has written to."""
    return tempfile.mkdtemp(dir=directory())


@functools.cache
def snapshots():
    """A folder of snapshots."""
    model = references.linear_model(keras.optimizers.SGD(S.CosineRestarts(0.1, 5)))
    path = f"{directory()}/snapshots"
    references.fit(model, [lrs.callbacks.SnapshotEnsemble(path)], epochs=1)
    return path


@functools.cache
def averages():
    """A folder of averages."""
    path = f"{directory()}/averages"
    references.fit(linear_model(), [lrs.callbacks.PosthocAveraging(path)], epochs=2)
    return path


def arguments_of(schedule):
    return {f.name: getattr(schedule, f.name) for f in dataclasses.fields(schedule)}


def _schedules():
    found = {}
    for name in S.__all__:
        cls = getattr(S, name)
        if isinstance(cls, type) and issubclass(cls, S.Schedule):
            own = [s for s in catalogue.SCHEDULES + catalogue.OPEN if type(s) is cls]
            bases = [arguments_of(schedule) for schedule in own]
            if cls is S.Decay:
                bases = [{"initial_learning_rate": 0.1}]
            found[name] = Subject(cls, bases or [{}], check_schedule, compile_and_run)
    return found


def _callback(call, *bases, **more):
    return Subject(call, list(bases), deep=train, **more)


RATES = np.geomspace(1e-5, 1.0, 30)

SUBJECTS: dict[str, Subject] = {
    **_schedules(),
    "Epochs": Subject(S.Epochs, [{"epochs": 1.0}]),
    "Fraction": Subject(S.Fraction, [{"fraction": 0.5}]),
    "PerVariable": Subject(
        lrs.PerVariable,
        [{"values": {"bias$": 0.1, ".*": S.LinearDecay(0.1)}}],
        lambda value: (repr(value), hash(value), value.pattern_of("a/b")),
    ),
    "layerwise_decay": Subject(
        lrs.layerwise_decay,
        [
            {"model": Made(linear_model), "factor": 0.5},
            {"model": Made(linear_model), "factor": 1.0, "blocks": ["kernel"]},
        ],
        lambda found: check_finite(list(found.values())),
        is_costly=True,
    ),
    "Samples": Subject(S.Samples, [{"samples": 100, "per_step": 8}]),
    "Tokens": Subject(S.Tokens, [{"tokens": 10**12, "per_step": 2**20}]),
    "Plateau": Subject(
        lrs.Plateau,
        [{}, {"mode": "max", "raise_factor": 2.0, "max_factor": 4.0}],
        lambda plateau: check_finite([plateau.update(m) for m in (1.0, np.nan, 2.0)]),
    ),
    "without_weight_decay": Subject(
        S.without_weight_decay,
        [
            {"schedule": 0.1, "weight_decay": 1e-3, "num_steps": 20, "momentum": 0.9},
            {"schedule": S.LinearDecay(0.1), "weight_decay": 0.1, "num_steps": 9},
        ],
        check_pair,
    ),
    "refined_from_gradient_norms": Subject(
        S.refined_from_gradient_norms,
        [{"norms": [1.0, 2.0, 3.0]}, {"norms": np.ones(50), "total_steps": 70}],
        check_schedule,
    ),
    "Average": Subject(A.Average, [{}], check_average),
    "Averager": Subject(
        A.Averager,
        [
            {"model_or_variables": Made(linear_model)},
            {
                "model_or_variables": Made(linear_model),
                "average": A.UniformAverage(),
                "include": "kernel",
                "every": 2,
                "batch_norm": "average",
            },
        ],
        lambda averager: averager.update(),
        is_costly=True,
    ),
    "ExponentialAverage": Subject(
        A.ExponentialAverage, [{"decay": 0.9}, {"half_life": 3.0}], check_average
    ),
    "PolynomialAverage": Subject(A.PolynomialAverage, [{"power": 3.0}], check_average),
    "PowerFunctionAverage": Subject(
        A.PowerFunctionAverage, [{"sigma_rel": 0.1}], check_average
    ),
    "UniformAverage": Subject(A.UniformAverage, [{}], check_average),
    "WarmupAverage": Subject(A.WarmupAverage, [{"decay": 0.9}], check_average),
    "posthoc": Subject(
        A.posthoc,
        [{"directory": Made(averages), "sigma_rel": 0.07, "model": Made(linear_model)}],
        lambda arrays: [check_finite(array) for array in arrays],
        errors=(OSError,),
        is_costly=True,
    ),
    "posthoc_coefficients": Subject(
        A.posthoc_coefficients,
        [{"steps": [5, 9], "sigma_rels": [0.05, 0.1], "step": 9, "sigma_rel": 0.07}],
        check_finite,
    ),
    "recalibrate_batch_norm": Subject(
        A.recalibrate_batch_norm,
        [{"model": Made(linear_model), "data": X}],
        is_costly=True,
    ),
    "AveragedEvaluation": _callback(C.AveragedEvaluation, {}),
    "GradientNormRecorder": _callback(
        C.GradientNormRecorder, {}, {"optimizers": ["SGD"]}
    ),
    "HyperparameterLogger": _callback(
        C.HyperparameterLogger,
        {},
        {"log_dir": Made(fresh_directory), "every": 2},
        {"optimizers": ["SGD"]},
    ),
    "HyperparameterScheduler": _callback(
        C.HyperparameterScheduler,
        {"learning_rate": S.LinearDecay(0.1), "momentum": S.Constant(0.9)},
        {"learning_rate": {"SGD": S.REXDecay(0.1)}, "momentum_correction": True},
        {"rate_multipliers": {"kernel": 0.5, ".*": S.Constant(0.1)}},
        {"learning_rate": S.LinearDecay(0.1, 9), "updates_per_batch": 0.5},
        {"learning_rate": S.LinearDecay(0.1), "optimizers": ["SGD"], "log": "batch"},
        keywords=("momentum",),
    ),
    "OneCycleScheduler": _callback(
        C.OneCycleScheduler,
        {"max_learning_rate": 0.1, "total_steps": 100, "warmup_fraction": 0.3},
        {"max_learning_rate": 0.1, "optimizers": "SGD"},
        keywords=("total_steps", "warmup_fraction", "shape"),
    ),
    "PosthocAveraging": _callback(
        C.PosthocAveraging,
        {"directory": Made(fresh_directory)},
        {"directory": Made(fresh_directory), "optimizers": ["SGD"]},
    ),
    "ReduceOnPlateau": _callback(
        C.ReduceOnPlateau,
        {"monitor": "loss"},
        {"monitor": "loss", "every": 3, "raise_factor": 2.0, "max_factor": 4.0},
        {"monitor": "loss", "optimizers": ["SGD"], "min_learning_rate": 1e-3},
        {"monitor": "loss", "restore_best_weights": True},
    ),
    "ResumableTraining": _callback(
        C.ResumableTraining,
        {"directory": Made(fresh_directory), "every": 3, "accept": ["model"]},
    ),
    "SnapshotEnsemble": _callback(
        C.SnapshotEnsemble, {"directory": Made(fresh_directory), "schedule": [3, 5]}
    ),
    "VariableScheduler": _callback(
        C.VariableScheduler,
        {"schedules": {"beta": S.LinearDecay(0.1)}},
        {"schedules": [("beta", S.LinearDecay(0.1)), ("tau", S.Constant(2.0))]},
    ),
    "WeightAveraging": _callback(
        C.WeightAveraging,
        {},
        {"average": A.UniformAverage(), "update_every": 2, "optimizers": ["SGD"]},
        {"include": "kernel", "exclude": ["bias"], "batch_norm": "average"},
        {"average": A.WarmupAverage(0.9), "initial": [np.ones((1, 1)), np.ones(1)]},
        {"batch_norm": "recalibrate", "batch_norm_data": X},
        unchecked=("batch_norm_data",),
    ),
    "ScheduleFree": Subject(
        lrs.optimizers.ScheduleFree,
        [
            {"optimizer": Made(keras.optimizers.SGD)},
            {
                "optimizer": Made(keras.optimizers.SGD),
                "average": A.ExponentialAverage(0.9),
            },
        ],
    ),
    "ScheduleFreeAdamW": Subject(
        lrs.optimizers.ScheduleFreeAdamW,
        [{"learning_rate": 0.01, "weight_decay": 0.1, "warmup_steps": 5}],
    ),
    "ScheduleFreeSGD": Subject(
        lrs.optimizers.ScheduleFreeSGD,
        [{"learning_rate": 1.0}, {"learning_rate": S.LinearDecay(0.1, 9)}],
    ),
    "Scheduled": Subject(
        lrs.optimizers.Scheduled,
        [
            {
                "optimizer": Made(lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
                "learning_rate": S.LinearDecay(0.1),
                "momentum": S.Constant(0.9),
            },
        ],
        keywords=("momentum",),
    ),
    "Ensemble": Subject(
        lrs.ensembles.Ensemble,
        [{"model": Made(linear_model), "members": Made(lambda: list(ensemble()))}],
        lambda ensemble: (len(ensemble), repr(ensemble), ensemble.members),
        is_costly=True,
    ),
    "disagreement": Subject(
        lrs.ensembles.disagreement, [{"outputs": np.ones((2, 3, 4))}]
    ),
    "load": Subject(
        lrs.ensembles.load,
        [{"directory": Made(snapshots), "model": Made(linear_model)}],
        errors=(OSError,),
        is_costly=True,
    ),
    **{
        name: Subject(
            getattr(lrs.checkpoints, name),
            [{"directory": Made(snapshots)}],
            errors=(OSError,),
            is_costly=True,
        )
        for name in ("files", "rebuild", "verify")
    },
    "prune": Subject(
        lrs.checkpoints.prune,
        [{"directory": Made(snapshots), "keep_last": 100}],
        errors=(OSError,),
        is_costly=True,
    ),
    "plot_disagreement": Subject(
        lrs.ensembles.plot_disagreement,
        [{"ensemble": Made(ensemble), "x": X, "verbose": 0}],
        errors=(OSError,),
        is_costly=True,
        unchecked=("x",),
    ),
    "plot_sizes": Subject(
        lrs.ensembles.plot_sizes,
        [{"ensemble": Made(ensemble), "x": X, "y": Y, "metric": "mse", "verbose": 0}],
        errors=(OSError,),
        is_costly=True,
        unchecked=("x", "y"),
    ),
    "RangeTest": Subject(
        T.RangeTest,
        [{"learning_rates": RATES, "losses": 1.0 - RATES, "num_steps": 30}],
        check_range_test,
    ),
    "range_test": Subject(
        short_range_test,
        [{"model": Made(linear_model), "x": X, "y": Y, "num_steps": 5, "verbose": 0}],
        check_range_test,
        is_costly=True,
        unchecked=("x", "y"),
    ),
    "scale_learning_rate": Subject(
        T.scale_learning_rate,
        [
            {"learning_rate": 0.1, "batch_size": 64, "base_batch_size": 32},
            {
                "learning_rate": S.LinearDecay(0.1, 9),
                "batch_size": 64,
                "base_batch_size": 32,
                "warmup_steps": 5,
            },
        ],
        check_scaled,
    ),
    "sweep": Subject(
        T.sweep,
        [{"build_model": build_model, "fit": Made(make_fit), "num_trials": 3}],
        keywords=("learning_rate",),
        is_costly=True,
    ),
    "plot_schedules": Subject(
        lrs.plot_schedules,
        [
            {"schedules": S.LinearDecay(0.1), "num_steps": 9},
            {"schedules": [S.LinearDecay(0.1), S.REXDecay(0.1)], "num_steps": 9},
        ],
        errors=(OSError,),
        is_costly=True,
    ),
}

# Records that the library makes and hands out, as they are.
RECORDS = {"File", "Member", "Suggestions"}

# What own callbacks are made of; `tests/step` has their bad arguments.
BASES = {"FitCallback", "StepPart", "Wanted"}
