"""Points that are tried: by this process, or by several that share a study."""

import contextlib
import datetime
import inspect
import math
import os
import time
import warnings
from typing import Any

import keras

from keras_lrs.schedules import fields

HEARTBEAT = 10
"""Seconds from one sign of life of a trial, in a database, to the next."""
GRACE = 60
"""Seconds without one after which a trial counts as killed, and its point returns."""
PATIENCE = 60
"""Seconds to wait for an SQLite database that others write to."""
POLL = 1.0
"""Seconds between looks at what other processes are doing."""
RETRIES = 3
"""How often a point is given to another process after one was killed at it."""

# Attributes of Optuna's studies and trials.
_SETTINGS, _POINT, _PARAMETERS = "settings", "point", "parameters"
_BEGUN, _ERROR, _DIVERGED = "begun", "error", "diverged"


class Objective:
    """Builds and trains a model at a point."""

    def __init__(self, build_model, fit, names, monitor, mode):
        self.monitor, self.mode = monitor, mode
        self.build_model, self.fit = build_model, fit
        self.built_with = _accepted("build_model", build_model, names)
        self.fitted_with = _accepted("fit", fit, (*names, "callbacks"), "model")
        unused = set(names) - {*self.built_with, *self.fitted_with}
        if unused:
            name = min(unused)
            raise ValueError(
                f"Argument `{name}` must be an argument of `build_model` or of `fit`, "
                f"which is called with it by name. Received: {name}, which neither has"
            )
        # What is wrong with `fit` itself, so that no other point need be tried.
        self.refusal: ValueError | None = None

    def __call__(self, trial: Any, parameters: dict[str, float]) -> float:
        """The metric at the end; raises what training raises."""
        import optuna

        reporter = _Reporter(trial, self.monitor)
        try:
            value = self._train(reporter, parameters)
        except Exception as error:
            trial.set_user_attr(_ERROR, f"{type(error).__name__}: {error}")
            raise
        if reporter.pruned:
            raise optuna.TrialPruned
        if math.isfinite(value):
            return value
        trial.set_user_attr(_DIVERGED, True)
        return math.inf if self.mode == "min" else -math.inf

    def _train(self, reporter, parameters):
        given = {**parameters, "callbacks": [reporter]}
        model = self.build_model(**{name: given[name] for name in self.built_with})
        result = self.fit(model, **{name: given[name] for name in self.fitted_with})
        if isinstance(result, keras.callbacks.History):
            reporter.read(result.history)
        elif result is not None:
            return float(result)
        if reporter.value is None:
            logged = ", ".join(sorted(reporter.logged)) or "nothing"
            self.refusal = ValueError(
                f"Argument `monitor` must be what `fit` logs. It logs {logged}. "
                f"Received: monitor={self.monitor!r}"
            )
            raise self.refusal
        return reporter.value


def _accepted(argument, function, names, *first):
    """Which names a function has as arguments; it must not need others."""
    if not callable(function):
        fields.refuse(argument, "be a function", function, TypeError)
    try:
        signature = inspect.signature(function)
    except ValueError:  # Of some classes that are written in C.
        fields.refuse(argument, "be a function that shows its arguments", function)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return tuple(names)
    accepted = tuple(name for name in names if name in signature.parameters)
    try:
        signature.bind(*first, **dict.fromkeys(accepted))
    except TypeError as error:
        given = ", ".join([*first, *names])
        raise TypeError(
            f"Argument `{argument}` must be a function that can be called with "
            f"({given}). Received: {argument}{signature}, {error}"
        ) from None
    return accepted


class _Reporter(keras.callbacks.Callback):
    """Tells Optuna the metric after each epoch, and stops what need not go on."""

    def __init__(self, trial, monitor):
        super().__init__()
        self.trial, self.monitor = trial, monitor
        self.value: float | None = None
        self.epochs = 0
        self.pruned = False
        self.logged: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        self.logged |= set(logs)
        if self.monitor in logs:  # It is not in an epoch without validation.
            self._note(float(logs[self.monitor]))
            if self.pruned or self.diverged:
                self.model.stop_training = True

    @property
    def diverged(self):
        return self.value is not None and not math.isfinite(self.value)

    def _note(self, value):
        self.value = value
        self.epochs += 1  # Not Keras's number: there may be a second `fit`.
        if math.isfinite(value):
            self.trial.report(value, self.epochs)
            self.pruned = self.trial.should_prune()

    def read(self, history):
        """Looks at a history, in case the callback was not handed on."""
        self.logged |= set(history)
        if self.value is None:
            for value in history.get(self.monitor, ()):
                self._note(float(value))
            self.pruned = False  # It is too late for that.


# --- Studies, which processes share ---------------------------------------------------


class Store:
    """The studies of Optuna in a storage, as queues of points.

    Who creates a study puts all its points into it; everyone takes points out of it,
    which Optuna's storages do atomically. (Samplers do not look at what others have
    just begun: two processes with a `GridSampler` repeat points.)
    """

    def __init__(self, optuna, storage, pruner, mode):
        self.optuna, self.pruner, self.mode = optuna, pruner, mode
        self.states = optuna.trial.TrialState
        self.storage = self._open(storage)
        self._is_own = self.storage is not storage

    def close(self):
        """Closes a database that was opened here; a later question opens it again."""
        if self._is_own and isinstance(self.storage, self.optuna.storages.RDBStorage):
            self.storage.remove_session()
            self.storage.engine.dispose()

    def _open(self, storage):
        storages = self.optuna.storages
        if storage is None:
            return storages.InMemoryStorage()
        if not isinstance(storage, (str, os.PathLike)):
            if not isinstance(storage, storages.BaseStorage):
                bound = "be a path, a URL, a storage of Optuna or None"
                fields.refuse("storage", bound, storage, TypeError)
            return storage
        import sqlalchemy

        url = _url(storage)
        try:
            database = self._open_database(url)
        except (
            sqlalchemy.exc.SQLAlchemyError,
            self.optuna.exceptions.StorageInternalError,
            ValueError,
        ) as error:
            raise ValueError(
                "Argument `storage` must be a database that can be opened. "
                f"Received: storage={storage!r} ({error})"
            ) from error
        record = database.record_heartbeat

        def record_heartbeat(trial_id):
            # Where others keep the database busy, the next sign of life will do.
            with contextlib.suppress(self.optuna.exceptions.StorageInternalError):
                record(trial_id)

        database.record_heartbeat = record_heartbeat
        return database

    def _open_database(self, url):
        storages = self.optuna.storages
        with warnings.catch_warnings():
            # Heartbeats are experimental, and have been for years.
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            arguments = {
                "heartbeat_interval": HEARTBEAT,
                "grace_period": GRACE,
                "heartbeat_stale_trial_callback": (
                    storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
                ),
            }
            if url.startswith("sqlite"):
                return self._open_sqlite(url, arguments)
            return storages.RDBStorage(url, **arguments)

    def _open_sqlite(self, url, arguments):
        """An SQLite database in which a point is taken only once.

        To take one, Optuna reads its state and then writes it, in one transaction; but
        Python's SQLite begins a transaction only when something is written, so that two
        processes may read the same before either writes. So begin it with the lock.
        """
        import sqlalchemy

        # Without an isolation level, Python leaves transactions to us.
        options = {"connect_args": {"timeout": PATIENCE, "isolation_level": None}}
        for attempts_left in reversed(range(5)):
            try:
                storage = self.optuna.storages.RDBStorage(url, options, **arguments)
                break
            except (
                sqlalchemy.exc.DBAPIError,
                self.optuna.exceptions.StorageInternalError,
            ):
                if not attempts_left:
                    raise
                time.sleep(POLL)  # Another process is just making the tables.

        def begin(connection):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        sqlalchemy.event.listen(storage.engine, "begin", begin)
        return storage

    def join(self, name, points, settings):
        """The study of a name, made and filled if it is not there."""
        known = {"study_name": name, "storage": self.storage, "pruner": self.pruner}
        try:
            study = self.optuna.create_study(direction=f"{self.mode}imize", **known)
            self._fill(study, points, settings)
        except self.optuna.exceptions.DuplicatedStudyError:
            study = self.optuna.load_study(**known)
            there, since = 0, time.monotonic()
            while _SETTINGS not in study.user_attrs:  # Its creator is still filling it,
                if len(trials := study.get_trials(deepcopy=False)) > there:
                    there, since = len(trials), time.monotonic()
                if time.monotonic() > since + GRACE:  # or was killed then.
                    self._fill(study, points, settings)
                else:
                    time.sleep(POLL)
        found = study.user_attrs[_SETTINGS]
        for key, value in settings.items():
            if found.get(key) != value:
                raise ValueError(
                    f"Argument `name` must be another one: the study {name!r} in this "
                    f"storage has {key}={found.get(key)}. Received: {key}={value}"
                )
        return study

    def _fill(self, study, points, settings):
        there = {t.user_attrs.get(_POINT) for t in study.get_trials(deepcopy=False)}
        for number, point in enumerate(points):
            if number not in there:
                study.enqueue_trial(point, {_POINT: number, _PARAMETERS: point})
        study.set_user_attr(_SETTINGS, settings)

    def work(self, study, objective):
        """Tries points until none is left, or until Ctrl-C."""
        ranges = study.user_attrs[_SETTINGS]["ranges"]
        current: dict[str, Any] = {}  # The attributes of the trial under way.

        def run(trial):
            if _POINT not in trial.user_attrs:  # Another process took the last one.
                raise self.optuna.TrialPruned
            current.update(trial.user_attrs, number=trial.number)
            if self._has_heartbeat:
                # Optuna's thread may come to it only after the process was killed.
                self.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr(_BEGUN, True)
            parameters = {
                name: trial.suggest_float(name, *ends, log=True)
                for name, ends in ranges.items()
            }
            return objective(trial, parameters)

        try:
            while self._are_left(study):
                try:
                    study.optimize(run, n_trials=1, catch=(Exception,))
                except Exception:
                    # It seemed dead for long, so that the point went to another.
                    if not self._was_lost(study, current):
                        raise
                if objective.refusal is not None:
                    break
                current.clear()
        except KeyboardInterrupt:
            pass
        self._put_back(study, current)
        if objective.refusal is not None:
            raise objective.refusal

    def _are_left(self, study):
        """Whether there is a point to try; waits for those that may come back."""
        while True:
            self._return_lost(study)
            left = {trial.state for trial in study.get_trials(deepcopy=False)}
            if self.states.WAITING in left:
                return True
            if self.states.RUNNING not in left or not self._has_heartbeat:
                return False
            time.sleep(POLL)

    @property
    def _has_heartbeat(self):
        return getattr(self.storage, "heartbeat_interval", None) is not None

    def _return_lost(self, study):
        """Puts points back of processes that have given no sign of life."""
        if not self._has_heartbeat:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.optuna.storages.fail_stale_trials(study)
        # Optuna overlooks those that were killed before the first sign.
        old = datetime.datetime.now() - datetime.timedelta(seconds=GRACE)
        running = study.get_trials(deepcopy=False, states=(self.states.RUNNING,))
        for trial in running:
            if _BEGUN not in trial.user_attrs and trial.datetime_start < old:
                try:
                    study.tell(trial.number, state=self.states.FAIL)
                except ValueError:
                    continue  # Another process was faster.
                self._put_back(study, trial.user_attrs)

    def _put_back(self, study, attributes):
        """Lets a point be tried again, if the attributes of a trial name one."""
        kept = {key: attributes[key] for key in (_POINT, _PARAMETERS) if attributes}
        if kept:
            study.enqueue_trial(kept[_PARAMETERS], kept)

    def _was_lost(self, study, current):
        if not current:
            return False
        trial = study.get_trials(deepcopy=False)[current["number"]]
        return trial.state == self.states.FAIL and _ERROR not in trial.user_attrs


def _url(storage):
    """The URL of a database; a path is one of SQLite, which need not exist yet."""
    url = os.fspath(storage)
    if "://" in url:
        return url
    path = os.path.abspath(url)
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path)):
        fields.refuse("storage", "be a file in a folder that exists", storage)
    # Optuna would try, and leave what it cannot read open.
    if os.path.exists(path) and not _is_sqlite(path):
        fields.refuse("storage", "be a database that can be opened", storage)
    return f"sqlite:///{path}"


def _is_sqlite(path):
    """Whether a file is a database of SQLite, or may become one."""
    with open(path, "rb") as file:
        return file.read(16) in (b"", b"SQLite format 3\0")


def outcomes(study: Any) -> list[tuple[Any, str, str | None]]:
    """For each point its last trial, what became of it, and the error if it failed."""
    last = {}
    for trial in study.get_trials(deepcopy=False):
        if _POINT in trial.user_attrs:
            last[trial.user_attrs[_POINT]] = trial
    return [(trial, *_outcome(trial)) for _, trial in sorted(last.items())]


def _outcome(trial):
    if trial.state.name == "COMPLETE":
        return ("diverged" if _DIVERGED in trial.user_attrs else "complete"), None
    if trial.state.name == "PRUNED":
        return "pruned", None
    if trial.state.name == "FAIL":
        return "failed", trial.user_attrs.get(_ERROR, "The process was killed.")
    return "open", None


def parameters(trial: Any) -> dict[str, float]:
    """The point of a trial, also of one that has not begun."""
    return dict(trial.user_attrs[_PARAMETERS])
