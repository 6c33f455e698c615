"""What a fit tells MLflow, W&B and TensorBoard, which these tests imitate or read."""

import sys
import types

import keras
import pytest

from keras_lrs.callbacks import (
    HyperparameterScheduler,
    OneCycleScheduler,
    VariableScheduler,
    WeightAveraging,
)
from keras_lrs.schedules import CosineAnnealing, LinearDecay
from tests import warned
from tests.callbacks import catalogue, references


def fit(*callbacks, optimizer=None, **arguments):
    model = references.linear_model(optimizer or keras.optimizers.SGD(0.1))
    references.fit(model, callbacks, epochs=2, **arguments)


@pytest.fixture
def mlflow(monkeypatch):
    """An MLflow with an active run that records its parameters."""
    told = []
    fake = types.SimpleNamespace(
        active_run=lambda: fake.active,
        active=object(),
        log_params=told.append,
        told=told,
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


def test_an_active_run_of_mlflow_is_told_once_how_it_was_bound(mlflow):
    scheduler = HyperparameterScheduler(LinearDecay(0.05))
    fit(scheduler)
    (told,) = mlflow.told
    assert told["keras_lrs/learning_rate"] == "LinearDecay"
    assert told["keras_lrs/learning_rate.decay_steps"] == 20
    assert told["keras_lrs/run.steps"] == 20
    expected = {
        f"keras_lrs/{key}": value for key, value in scheduler.describe().items()
    }
    assert told == expected


def test_mlflow_without_a_run_is_told_nothing(mlflow):
    mlflow.active = None
    fit(HyperparameterScheduler(LinearDecay(0.05)))
    assert mlflow.told == []


def test_a_fit_without_schedules_tells_nothing(mlflow):
    fit()
    assert mlflow.told == []


class Config(keras.callbacks.Callback):
    """MLflow's callback: it reads the optimizer's config when training begins."""

    __module__ = "mlflow.keras.callback"
    found = None

    def on_train_begin(self, logs=None):
        assert self.found is None
        self.found = self.model.optimizer.get_config()


@pytest.mark.parametrize("at", [0, 2], ids=["first", "last"])
def test_the_config_that_mlflow_logs_has_only_what_is_used(at):
    model = references.linear_model(keras.optimizers.SGD(0.1, momentum=0.9))
    own = model.optimizer.get_config()
    for _ in range(2):  # The optimizer keeps the averages of the first fit.
        config = Config()
        scheduler = HyperparameterScheduler(LinearDecay(0.05))
        callbacks = [scheduler, WeightAveraging(at_end="raw")]
        callbacks.insert(at, config)
        references.fit(model, callbacks, epochs=2)
        hidden = ["learning_rate", "use_ema", "ema_momentum", "ema_overwrite_frequency"]
        expected = {key: value for key, value in own.items() if key not in hidden}
        assert config.found == expected
    # Only then: what is saved must say how the averages are stored.
    assert model.optimizer.get_config()["use_ema"]
    assert "get_config" not in vars(model.optimizer)
    assert "on_train_begin" not in vars(config)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [(keras.optimizers.SGD, "momentum"), (keras.optimizers.AdamW, "beta_1")],
)
@pytest.mark.parametrize("at", [0, 1], ids=["first", "last"])
def test_mlflow_sees_no_momentum_that_one_cycle_replaces(optimizer, name, at):
    inner = optimizer(0.1, **{name: 0.9})
    model = references.linear_model(keras.optimizers.LossScaleOptimizer(inner))
    config = Config()
    callbacks = [OneCycleScheduler(0.05)]
    callbacks.insert(at, config)
    references.fit(model, callbacks, epochs=2)
    found = config.found["inner_optimizer"]["config"]
    assert set(inner.get_config()) - set(found) == {"learning_rate", name}


def test_mlflow_sees_the_averages_and_the_rate_that_keras_uses():
    model = references.linear_model(keras.optimizers.SGD(0.1, 0.9, use_ema=True))
    config = Config()
    scheduler = HyperparameterScheduler(momentum=LinearDecay(0.9))
    references.fit(model, [scheduler, config], epochs=2)
    expected = model.optimizer.get_config()
    del expected["momentum"]
    assert config.found == expected
    assert expected["use_ema"]
    assert expected["learning_rate"] == pytest.approx(0.1)


def test_a_live_run_of_wandb_is_told(monkeypatch):
    config = {}
    run = types.SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run))
    fit(HyperparameterScheduler(LinearDecay(0.05)))
    assert config["keras_lrs/learning_rate.peak"] == pytest.approx(0.05)


def test_several_callbacks_are_told_together(mlflow):
    model = catalogue.linear_model("VariableScheduler")
    callbacks = [
        VariableScheduler({catalogue.SCHEDULED: LinearDecay(2.0)}),
        HyperparameterScheduler(CosineAnnealing(0.05)),
    ]
    references.fit(model, callbacks, epochs=2)
    (told,) = mlflow.told
    assert told["keras_lrs/scheduled"] == "LinearDecay"
    assert told["keras_lrs/learning_rate"] == "CosineAnnealing"


def test_callbacks_that_name_their_optimizers_have_keys_of_their_own(mlflow):
    optimizer = keras.optimizers.SGD(0.1, name="main")
    scheduler = HyperparameterScheduler(LinearDecay(0.05), optimizers=["main"])
    fit(scheduler, optimizer=optimizer)
    (told,) = mlflow.told
    assert told["keras_lrs/main/learning_rate.decay_steps"] == 20


@pytest.mark.only("torch")
def test_lengths_that_the_first_update_corrects_are_told_corrected(mlflow):
    class EverySecond(keras.Model):
        """A model that trains on every second batch only."""

        seen = 0

        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            self.seen += 1
            if self.seen % 2:
                return {"loss": keras.ops.zeros(())}
            return super().train_step(data)

    model = EverySecond()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    references.fit(model, [HyperparameterScheduler(LinearDecay(0.05))], epochs=2)
    (told,) = mlflow.told
    assert told["keras_lrs/learning_rate.decay_steps"] == 10


def test_a_tool_that_fails_does_not_end_training(mlflow):
    def refuse(parameters):
        raise ValueError("Changing param values is not allowed.")

    mlflow.log_params = refuse
    with warned.warns("MLflow has not taken .* Changing param values"):
        fit(HyperparameterScheduler(LinearDecay(0.05)))


@pytest.mark.only("tensorflow")  # The callback imports it.
def test_tensorboard_finds_the_hparams(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    board = keras.callbacks.TensorBoard(tmp_path)
    fit(HyperparameterScheduler(LinearDecay(0.05)), board)
    events = EventAccumulator(str(tmp_path)).Reload()
    content = events.PluginTagToContent(metadata.PLUGIN_NAME)
    started = metadata.parse_session_start_info_plugin_data(
        content[metadata.SESSION_START_INFO_TAG]
    )
    found = started.hparams
    assert found["keras_lrs/learning_rate"].string_value == "LinearDecay"
    assert found["keras_lrs/learning_rate.decay_steps"].number_value == 20
