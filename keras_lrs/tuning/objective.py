"""Trains a model at a point, and reports the metric to Optuna."""

import inspect
import math
from typing import Any

import keras

from keras_lrs._keras import metrics
from keras_lrs.schedules import fields
from keras_lrs.tuning import outages

# Attributes of Optuna's trials.
ERROR, DIVERGED = "error", "diverged"


class Objective:
    """A function that builds and trains a model at a point."""

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
        self._guesses = False
        # The error of a `fit` that is wrong at every point, so that the sweep ends.
        self.refusal: ValueError | None = None

    def find_mode(self, parameters: dict[str, float]) -> str:
        """Returns whether the metric should rise (`"max"`) or fall (`"min"`).

        Args:
            parameters: The point at which a model is built, if the name cannot decide.

        Raises:
            ValueError: If the direction is not known.
        """
        self._guesses = True
        self.mode = metrics.of_name(self.monitor)
        if self.mode is None:
            model = self._built(parameters)
            self.mode = metrics.direction(self.monitor, model)
        return self.mode

    def _check_mode(self, model):
        """Raises if the name and the metric of a model disagree."""
        if not self._guesses:
            return
        said = metrics.direction(self.monitor, model)
        if said != self.mode:
            self.refusal = ValueError(
                f"Argument `mode` must be {said!r} for {self.monitor!r}, because of "
                "the metric that the model is compiled with. Received: mode='auto', "
                f"which the name resolves to {self.mode!r}"
            )
            raise self.refusal

    def __call__(self, trial: Any, parameters: dict[str, float]) -> float:
        """Returns the metric at the end; passes on errors of training."""
        import optuna

        reporter = _MetricReporter(trial, self.monitor, self._check_mode)
        try:
            value = self._train(reporter, parameters)
        except Exception as error:
            with outages.met():
                trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            raise
        if reporter.pruned:
            raise optuna.TrialPruned
        if math.isfinite(value):
            return value
        with outages.met():
            trial.set_user_attr(DIVERGED, True)
        return math.inf if self.mode == "min" else -math.inf

    def _built(self, parameters):
        return self.build_model(**{name: parameters[name] for name in self.built_with})

    def _train(self, reporter, parameters):
        given = {**parameters, "callbacks": [reporter]}
        model = self._built(parameters)
        result = self.fit(model, **{name: given[name] for name in self.fitted_with})
        if isinstance(result, keras.callbacks.History):
            reporter.read(result.history)
        elif result is not None:
            return float(result)
        if reporter.value is None:
            logged = ", ".join(sorted(reporter.logged)) or "nothing"
            self.refusal = ValueError(
                "Argument `monitor` must be a metric that `fit` logs. It logs "
                f"{logged}. Received: monitor={self.monitor!r}"
            )
            raise self.refusal
        return reporter.value


def _accepted(argument, function, names, *first):
    """Lists the names that a function takes as arguments; it must not need others."""
    if not callable(function):
        fields.refuse(argument, "be a function", function, TypeError)
    try:
        signature = inspect.signature(function)
    except ValueError:  # Raised for some classes that are written in C.
        fields.refuse(argument, "be a function with a known signature", function)
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


class _MetricReporter(keras.callbacks.Callback):
    """Tells Optuna the metric after each epoch, and stops lost trials."""

    def __init__(self, trial, monitor, check):
        super().__init__()
        self.trial, self.monitor, self.check = trial, monitor, check
        self.value: float | None = None
        self.epochs = 0
        self.pruned = False
        self.logged: set[str] = set()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.check(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        self.logged |= set(logs)
        if self.monitor in logs:  # Epochs without validation may lack it.
            self._note(float(logs[self.monitor]))
            if self.pruned or self.diverged:
                self.model.stop_training = True

    @property
    def diverged(self):
        return self.value is not None and not math.isfinite(self.value)

    def _note(self, value):
        self.value = value
        self.epochs += 1  # Not Keras's number, because there may be a second `fit`.
        if math.isfinite(value):
            with outages.met():
                self.trial.report(value, self.epochs)
            self.pruned = self.trial.should_prune()

    def read(self, history):
        """Reads a history, in case the callback was not passed on."""
        self.logged |= set(history)
        if self.value is None:
            for value in history.get(self.monitor, ()):
                self._note(float(value))
            self.pruned = False  # Training is over already.
