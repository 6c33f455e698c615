"""The tools of docs/guides/tools.md that take long to install: `make test-tools`."""

import keras
import numpy as np
import pytest

from keras_lrs import Epochs
from keras_lrs.averages import ExponentialAverage
from keras_lrs.callbacks import HyperparameterScheduler, WeightAveraging
from keras_lrs.schedules import CosineAnnealing, Warmup

pytestmark = [
    pytest.mark.only("tensorflow"),  # Two of the tools import it.
    # Of the tools themselves.
    pytest.mark.filterwarnings("ignore"),
]

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int32")
# After 8, 16 and 24 steps: one epoch of warmup, then a cosine over 16 steps.
RATES = [0.01 * 7 / 8, *(0.005 * (1 + np.cos(np.pi * at / 16)) for at in (7, 15))]


def make_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def make_scheduler(rate=0.01):
    return HyperparameterScheduler(Warmup(CosineAnnealing(rate), Epochs(1)))


def fit(*callbacks):
    return make_model().fit(
        X, Y, batch_size=8, epochs=3, verbose=0, callbacks=list(callbacks)
    )


def test_mlflow_records_the_rate_and_the_description(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts into the current folder.
    mlflow = pytest.importorskip("mlflow")
    callback = pytest.importorskip("mlflow.keras").MlflowCallback
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    scheduler = make_scheduler()
    with mlflow.start_run() as run:
        fit(scheduler, callback(run))
    client = mlflow.MlflowClient()
    found = client.get_metric_history(run.info.run_id, "learning_rate")
    np.testing.assert_allclose([one.value for one in found], RATES, rtol=1e-5)
    parameters = client.get_run(run.info.run_id).data.params
    assert parameters["keras_lrs/learning_rate.warmup_steps"] == "8"


def test_mlflow_keeps_the_first_of_two_descriptions_with_a_warning(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    with mlflow.start_run() as run:
        fit(make_scheduler())
        fit(make_scheduler())  # The same again is no change.
        with pytest.warns(match="MLflow has not taken the description"):
            fit(make_scheduler(0.02))
        mlflow.log_param("learning_rate", 0.01)  # The user's own.
    parameters = mlflow.MlflowClient().get_run(run.info.run_id).data.params
    assert parameters["keras_lrs/learning_rate.peak"] == "0.01"


def test_a_run_that_mlflow_starts_itself_has_only_what_was_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlflow = pytest.importorskip("mlflow")
    autolog = pytest.importorskip("mlflow.keras").autolog
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    autolog(log_models=False)
    try:
        fit(make_scheduler(), WeightAveraging(ExponentialAverage(0.9)))
    finally:
        autolog(disable=True)
    parameters = mlflow.last_active_run().data.params
    assert parameters["keras_lrs/learning_rate.warmup_steps"] == "8"
    assert parameters["keras_lrs/average.decay"] == "0.9"
    assert parameters["optimizer_momentum"] == "0.0"
    unused = {"optimizer_learning_rate", "optimizer_use_ema", "optimizer_ema_momentum"}
    assert not unused & set(parameters)


def test_wandb_records_the_rate_and_the_description(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    callbacks = pytest.importorskip("wandb.integration.keras")
    scheduler = make_scheduler()
    logged = []
    with wandb.init(mode="offline", dir=tmp_path) as run:
        log = run.log
        monkeypatch.setattr(
            run, "log", lambda values, **named: (logged.append(values), log(values))
        )
        monkeypatch.setattr(wandb, "log", run.log)
        fit(scheduler, callbacks.WandbMetricsLogger())
        assert run.config["keras_lrs/learning_rate.warmup_steps"] == 8
        with pytest.warns(match="W&B has not taken the description"):
            fit(make_scheduler(0.02))
        assert run.config["keras_lrs/learning_rate.peak"] == pytest.approx(0.01)
    rates = [values["epoch/learning_rate"] for values in logged]
    np.testing.assert_allclose(rates, RATES, rtol=1e-5)


def test_keras_tuner_searches_for_the_rate_of_a_schedule(tmp_path):
    tuners = pytest.importorskip("keras_tuner")

    class Scheduled(tuners.HyperModel):
        def build(self, parameters):
            return make_model()

        def fit(self, parameters, model, *arguments, callbacks=(), **named):
            rate = parameters.Float("rate", 1e-3, 1.0, sampling="log")
            callbacks = [*callbacks, make_scheduler(rate)]
            return model.fit(*arguments, callbacks=callbacks, **named)

    tuner = tuners.RandomSearch(
        Scheduled(), "val_loss", max_trials=2, directory=tmp_path, seed=0
    )
    tuner.search(X, Y, validation_data=(X, Y), epochs=3, batch_size=8, verbose=0)
    for trial in tuner.oracle.get_best_trials(2):
        used = trial.metrics.get_best_value("learning_rate")
        rate = trial.hyperparameters.get("rate")
        assert used == pytest.approx(rate * RATES[-1] / 0.01, rel=1e-4)


def test_scikeras_clones_a_model_with_its_schedule():
    wrappers = pytest.importorskip("scikeras.wrappers")
    from sklearn.model_selection import cross_val_score

    classifier = wrappers.KerasClassifier(
        make_model, callbacks=make_scheduler(0.5), epochs=10, batch_size=8, verbose=0
    )
    assert cross_val_score(classifier, X, Y, cv=2).min() > 0.8
