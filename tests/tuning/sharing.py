"""Processes that take part in a sweep: each makes the same call."""

import contextlib
import importlib
import math
import os
import signal

from keras_lrs import tuning
from keras_lrs.tuning import database
from tests import processes

RANGE, NUM_TRIALS = (1e-4, 1.0), 13


def build_model(learning_rate):
    return learning_rate


def loss(model):
    """A parabola on the log scale, with its minimum at 0.01."""
    return (2.0 + math.log10(model)) ** 2


def arguments(path, **others):
    return {
        "storage": path,
        "learning_rate": RANGE,
        "num_trials": NUM_TRIALS,
        "monitor": "loss",
        **others,
    }


def take_part(path, barrier, queue):
    """Sweeps, beginning with one trial at the same time as the other process."""
    tried = []

    def fit(model):
        if not tried:
            barrier.wait(timeout=processes.HANGS)
        tried.append(model)
        return loss(model)

    result = tuning.sweep(build_model, fit, **arguments(path))
    queue.put((tried, [trial.parameters for trial in result.trials]))


def be_killed(path, interval, thread_lives):
    """Sweeps, and is killed in the middle of its third trial."""
    database.HEARTBEAT = interval
    if not thread_lives:  # As if it had not come to its first sign of life yet.
        optimize = importlib.import_module("optuna.study._optimize")
        optimize.get_heartbeat_thread = lambda *_: contextlib.nullcontext()
    tried = []

    def fit(model):
        tried.append(model)
        if len(tried) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(model)

    tuning.sweep(build_model, fit, **arguments(path))
