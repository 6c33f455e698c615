"""Nothing that belongs to all is changed: by an import, a `fit`, or an exception."""

import gc
import json
import os
import random
import subprocess
import sys
import threading
import warnings

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from tests import processes
from tests.callbacks import catalogue, references

S, C = lrs.schedules, lrs.callbacks
BACKEND = keras.backend.backend()

# In a process of its own: what importing the package changes.
IMPORTED = """
import json, os, random, sys, warnings
import numpy as np
import keras

def state():
    return [
        keras.config.floatx(), keras.config.epsilon(), keras.backend.backend(),
        keras.config.dtype_policy().name, keras.config.image_data_format(),
        repr(random.getstate()), repr(np.random.get_state()),
        repr(warnings.filters), dict(os.environ), sys.path, repr(sys.excepthook),
        os.getcwd(), repr(np.geterr()),
    ]

before, modules = state(), set(sys.modules)
import keras_lrs
new = set(sys.modules) - modules
# What else it loaded would make it slow.
known = {"keras_lrs", *sys.stdlib_module_names}
others = {name for name in new if name.partition(".")[0] not in known}
assert not others, others
print(json.dumps([a == b for a, b in zip(before, state())]))
"""


def state():
    """Settings, and the states of random numbers that a `fit` does not use."""
    from keras.src.backend.common import global_state

    return {
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "dtype policy": keras.config.dtype_policy().name,
        "image data format": keras.config.image_data_format(),
        "traceback filtering": keras.config.is_traceback_filtering_enabled(),
        "interactive logging": keras.config.is_interactive_logging_enabled(),
        "random": random.getstate(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "numpy errors": np.geterr(),
        "threads": {t.name for t in threading.enumerate() if "snapshot" in t.name},
        "matplotlib": getattr(sys.modules.get("matplotlib"), "rcParams", {}).get(
            "backend"
        ),
        "scopes": global_state.get_global_attribute("stateless_scope"),
        "objects": sorted(keras.saving.get_custom_objects()),
        "hooks": (sys.excepthook, threading.excepthook),
    }


def numpy_random():
    return repr(np.random.get_state())  # noqa: NPY002


# Callbacks that go together, the first with its optimizer, and the steps they make.
COMPANIES = {
    (
        "HyperparameterScheduler",
        "ReduceOnPlateau",
        "WeightAveraging",
        "SnapshotEnsemble",
        "GradientNormRecorder",
    ): catalogue.path_of_linear_decay_on_a_plateau,
    (
        "OneCycleScheduler",
        "PosthocAveraging",
        "ResumableTraining",
        "VariableScheduler",
    ): catalogue.path_of_one_cycle,
    ("AveragedEvaluation", "HyperparameterLogger"): catalogue.path_of_schedule_free,
}


class Break(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise RuntimeError("stop")


@pytest.mark.every_backend
@pytest.mark.slow
def test_an_import_changes_nothing():
    run = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.splitlines()[-1]) == [True] * 13, run.stdout


def test_every_callback_is_in_company():
    named = [name for company in COMPANIES for name in company]
    assert sorted(named) == sorted(catalogue.CALLBACKS)


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
@pytest.mark.parametrize("company", COMPANIES, ids=lambda company: company[0])
def test_a_fit_changes_nothing(company, broken, tmp_path):
    pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    validation = (references.X, references.Y)
    # What Keras changes, and TensorBoard, which imports TensorFlow.
    first = C.HyperparameterLogger(log_dir=tmp_path / "first")
    model = catalogue.linear_model("HyperparameterLogger")
    references.fit(model, [first], epochs=1, validation_data=validation)
    model, watch = catalogue.linear_model(company[0]), catalogue.Watch()
    if "VariableScheduler" in company:
        catalogue.give_a_variable(model)
    logger = C.HyperparameterLogger(every=3, log_dir=tmp_path / "logs")
    ours = [catalogue.make(name, tmp_path) for name in company]
    callbacks = [watch, logger, *ours]
    before, drawn = state(), numpy_random()
    if broken:
        with pytest.raises(RuntimeError, match="stop"):
            references.fit(model, [*callbacks, Break()], validation_data=validation)
    else:
        references.fit(model, callbacks, validation_data=validation)
    gc.collect()
    after = state()
    for name, value in before.items():
        assert after[name] == value, name
    assert numpy_random() == drawn
    # They did take part.
    num_steps = references.STEPS if broken else 4 * references.STEPS
    path = COMPANIES[company](4 * references.STEPS)[:num_steps]
    np.testing.assert_allclose(watch.moved(watch.steps)[1:], path, atol=1e-5)
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_searches_and_pictures_change_nothing(tmp_path):
    pytest.importorskip("optuna")
    pytest.importorskip("matplotlib")
    from keras_lrs.tuning import range_test, sweep

    model = references.linear_model(keras.optimizers.SGD(0.01))
    references.fit(model, epochs=1)

    def search():
        def fit(model, callbacks):
            return (model - 0.1) ** 2

        sweep(lambda learning_rate: learning_rate, fit, learning_rate=(0.01, 1.0))

    search()  # Imports Optuna,
    lrs.plot_schedules(S.LinearDecay(0.1), 10)  # and matplotlib.
    before, drawn = state(), numpy_random()
    range_test(model, references.X, references.Y, num_steps=5, verbose=0)
    lrs.plot_schedules(S.LinearDecay(0.1), 10, tmp_path / "picture.png")
    search()
    after = state()
    for name, value in before.items():
        assert after[name] == value, name
    assert numpy_random() == drawn


class Meet(keras.callbacks.Callback):
    """Lets two trainings take turns: no step of one without one of the other."""

    def __init__(self, barrier):
        super().__init__()
        self.barrier = barrier

    def on_train_batch_end(self, batch, logs=None):
        self.barrier.wait(processes.HANGS)


@pytest.mark.every_backend
@pytest.mark.slow
def test_two_threads_do_not_interfere(tmp_path):
    rates = [S.LinearDecay(0.05), S.CosineRestarts(0.02, 5)]
    momenta = [S.LinearDecay(0.9, None, 0.5), S.Constant(0.7)]
    barrier, failures = threading.Barrier(2), []
    models = [
        references.linear_model(keras.optimizers.SGD(0.01, momentum=0.9))
        for _ in range(2)
    ]

    def train(index):
        ours = [
            C.HyperparameterScheduler(
                learning_rate=rates[index], momentum=momenta[index]
            ),
            C.HyperparameterLogger(),
            C.WeightAveraging(at_end="raw"),
            C.SnapshotEnsemble(tmp_path / str(index), schedule=[10, 20]),
            Meet(barrier),
        ]
        try:
            references.fit(models[index], ours)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=train, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for index, model in enumerate(models):
        loop = references.SGD()
        curves = [one.bind(40).curve(40) for one in (rates[index], momenta[index])]
        loop.train(40, learning_rate=curves[0], momentum=curves[1])
        np.testing.assert_allclose(references.weights(model), loop.w, atol=1e-6)
        assert len(lrs.ensembles.load(tmp_path / str(index), model)) == 2
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
