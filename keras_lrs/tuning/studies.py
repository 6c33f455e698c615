"""Uses Optuna studies as queues of points that several processes may share."""

import contextlib
import datetime
import time
import warnings
from typing import Any

from keras_lrs.tuning import database, outages
from keras_lrs.tuning.objective import DIVERGED, ERROR

# Attributes of Optuna's studies and trials.
_SETTINGS, _POINT, _PARAMETERS, _BEGUN = "settings", "point", "parameters", "begun"


class Studies:
    """The studies of Optuna in a storage, as queues of points.

    The process that creates a study enqueues all its points; every process takes points
    from it, which is atomic in Optuna's storages. (A `GridSampler` would not do: it
    ignores what other processes have just begun, so two of them repeat points.)
    """

    def __init__(self, optuna, storage, pruner, mode):
        self.optuna, self.pruner, self.mode = optuna, pruner, mode
        self.states = optuna.trial.TrialState
        self.storage = database.opened(optuna, storage)
        self._is_own = self.storage is not storage

    def close(self):
        """Closes a database that was opened here; a later query opens it again."""
        if self._is_own and isinstance(self.storage, self.optuna.storages.RDBStorage):
            self.storage.remove_session()
            self.storage.engine.dispose()

    def join(self, name, points, settings):
        """Returns the study of a name; creates and fills it if it does not exist."""
        known = {"study_name": name, "storage": self.storage, "pruner": self.pruner}
        try:
            study = self.optuna.create_study(direction=f"{self.mode}imize", **known)
            self._fill(study, points, settings)
        except self.optuna.exceptions.DuplicatedStudyError:
            study = self.optuna.load_study(**known)
            there, since = 0, time.monotonic()
            # Without settings, its creator is still filling it or was killed.
            while _SETTINGS not in study.user_attrs:
                if len(trials := study.get_trials(deepcopy=False)) > there:
                    there, since = len(trials), time.monotonic()
                if time.monotonic() > since + database.GRACE:
                    self._fill(study, points, settings)
                else:
                    time.sleep(database.POLL)
        found = study.user_attrs[_SETTINGS]
        for key, value in settings.items():
            if found.get(key) != value:
                raise ValueError(
                    f"Argument `name` must be a new name: the study {name!r} in this "
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
        current: dict[str, Any] = {}  # The attributes of the current trial.

        def run(trial):
            if _POINT not in trial.user_attrs:  # Another process took the last point.
                raise self.optuna.TrialPruned
            current.update(trial.user_attrs, number=trial.number)
            with outages.met():
                parameters = self._begun(trial, ranges)
            return objective(trial, parameters)

        try:
            while self._are_left(study):
                try:
                    study.optimize(run, n_trials=1, catch=(Exception,))
                except Exception as error:
                    # This process seemed dead, so the point went to another one.
                    if not self._was_lost(study, current):
                        raise outages.Outage from error
                if objective.refusal is not None:
                    break
                current.clear()
        except KeyboardInterrupt:
            pass
        except outages.Outage:
            # With heartbeats, the point is put back when the last one is old enough.
            if not self._has_heartbeat:
                with contextlib.suppress(Exception):
                    self._put_back(study, current)
            raise
        self._put_back(study, current)
        if objective.refusal is not None:
            raise objective.refusal

    def _begun(self, trial, ranges):
        """Notes in the storage that a trial begins, and returns its parameters."""
        if self._has_heartbeat:
            # A process may be killed before the first heartbeat of Optuna's thread. The
            # method of the class raises if the storage is full.
            type(self.storage).record_heartbeat(self.storage, trial._trial_id)
        trial.set_user_attr(_BEGUN, True)
        return {
            name: trial.suggest_float(name, *ends, log=True)
            for name, ends in ranges.items()
        }

    def _are_left(self, study):
        """Tells whether a point is left; waits for those that may be put back."""
        while True:
            self._return_lost(study)
            left = {trial.state for trial in study.get_trials(deepcopy=False)}
            if self.states.WAITING in left:
                return True
            if self.states.RUNNING not in left or not self._has_heartbeat:
                return False
            time.sleep(database.POLL)

    @property
    def _has_heartbeat(self):
        return getattr(self.storage, "heartbeat_interval", None) is not None

    def _return_lost(self, study):
        """Puts back the points of processes whose heartbeat has stopped."""
        if not self._has_heartbeat:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.optuna.storages.fail_stale_trials(study)
        # Optuna overlooks processes that were killed before their first heartbeat.
        old = datetime.datetime.now() - datetime.timedelta(seconds=database.GRACE)
        running = study.get_trials(deepcopy=False, states=(self.states.RUNNING,))
        for trial in running:
            if _BEGUN not in trial.user_attrs and trial.datetime_start < old:
                try:
                    study.tell(trial.number, state=self.states.FAIL)
                except ValueError:
                    continue  # Another process was faster.
                self._put_back(study, trial.user_attrs)

    def _put_back(self, study, attributes):
        """Enqueues a point again, if the attributes of a trial name one."""
        kept = {key: attributes[key] for key in (_POINT, _PARAMETERS) if attributes}
        if kept:
            study.enqueue_trial(kept[_PARAMETERS], kept)

    def _was_lost(self, study, current):
        if not current:
            return False
        trial = study.get_trials(deepcopy=False)[current["number"]]
        return trial.state == self.states.FAIL and ERROR not in trial.user_attrs


def outcomes(study: Any) -> list[tuple[Any, str, str | None]]:
    """Lists the last trial of each point, its outcome, and the error if it failed."""
    last = {}
    for trial in study.get_trials(deepcopy=False):
        if _POINT in trial.user_attrs:
            last[trial.user_attrs[_POINT]] = trial
    return [(trial, *_outcome(trial)) for _, trial in sorted(last.items())]


def _outcome(trial):
    if trial.state.name == "COMPLETE":
        return ("diverged" if DIVERGED in trial.user_attrs else "complete"), None
    if trial.state.name == "PRUNED":
        return "pruned", None
    if trial.state.name == "FAIL":
        return "failed", trial.user_attrs.get(ERROR, "The process was killed.")
    return "open", None


def parameters(trial: Any) -> dict[str, float]:
    """Returns the point of a trial, even of one that has not begun."""
    return dict(trial.user_attrs[_PARAMETERS])
