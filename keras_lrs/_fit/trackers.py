"""What MLflow, W&B and TensorBoard record of a run."""

import sys
import warnings
from typing import Any

import keras

from keras_lrs._fit import hooks
from keras_lrs._keras.average_slots import AverageSlots

# Users often log a `learning_rate` themselves, and MLflow refuses a second value.
PREFIX = "keras_lrs/"


def hide_unused(run: Any) -> None:
    """Keeps what the run does not use out of the optimizer's config that MLflow logs.

    Its callback, which `autolog` adds too, logs the whole config when training begins.
    What a schedule drives is not what `compile` was given, and the settings of
    `use_ema` say where `WeightAveraging` stores its averages. The descriptions say what
    is used instead.

    Args:
        run: The run, which has its list of callbacks.
    """
    for callback in run.siblings:
        if type(callback).__module__.partition(".")[0] == "mlflow":
            hooks.replace(callback, "on_train_begin", _hiding(run), run.undo)


def _hiding(run):
    def make(begin):
        def on_train_begin(logs=None):
            replaced = _replaced(run)
            every = {id(one): one for one in (run.model.optimizer, *run.optimizers)}
            shown = [
                hooks.replace(one, "get_config", _used(one, replaced), run.undo)
                for one in every.values()
            ]
            try:
                begin(logs)
            finally:
                for show in shown:
                    show()

        return on_train_begin

    return make


def _replaced(run):
    return {
        name
        for callback in run.siblings
        if getattr(callback, "described", False) and callback.optimizers is None
        for optimizer in run.optimizers
        for name in callback.replaces(optimizer)
    }


def _used(optimizer, replaced):
    hidden = set(replaced)
    if AverageSlots(optimizer).attached:
        hidden |= {"use_ema", "ema_momentum", "ema_overwrite_frequency"}

    def make(get_config):
        def get_used_config():
            config = get_config().items()
            return {name: value for name, value in config if name not in hidden}

        return get_used_config

    return make


def publish(run: Any) -> None:
    """Gives the descriptions of a run's schedules to all tools that are recording it.

    These are MLflow and W&B if the user has started a run, and every callback
    `TensorBoard` of the fit. None of them is imported if the user has not done it.

    Args:
        run: The run, whose schedules are bound for good.
    """
    described = [callback for callback in run.callbacks if callback.described]
    description: dict[str, Any] = {}
    for name, tell in _recording(run) if described else []:
        try:
            description = description or _description(run, described)
            tell(description)
        except Exception as error:  # Training matters more than its records.
            warnings.warn(
                f"{name} has not taken the description of the schedules, or not all of "
                "it. If it has the values of an earlier `fit`, start another run or "
                f"use another folder. Training continues. The error was: {error}",
                stacklevel=2,
            )


def _recording(run):
    """Pairs of the name of a tool and the function that it takes parameters with."""
    found: list[tuple[str, Any]] = []
    # A module may be half imported, or another of the same name.
    mlflow: Any = sys.modules.get("mlflow")
    wandb: Any = sys.modules.get("wandb")
    if getattr(mlflow, "active_run", lambda: None)() is not None:
        found.append(("MLflow", mlflow.log_params))
    if getattr(wandb, "run", None) is not None:
        found.append(("W&B", wandb.run.config.update))
    folders = {
        one.log_dir: lambda description, folder=one.log_dir: _write(folder, description)
        for one in run.siblings
        if isinstance(one, keras.callbacks.TensorBoard)
    }
    return found + [("TensorBoard", write) for write in folders.values()]


def _description(run, described):
    result: dict[str, Any] = {}
    for callback in described:
        # Callbacks of different optimizers may drive the same hyperparameter.
        chosen = [] if callback.optimizers is None else run.chosen(callback)
        prefix = PREFIX + "".join(f"{label}/" for label in chosen)
        result |= {
            f"{prefix}{key}": value for key, value in callback.describe().items()
        }
    return result


def _write(folder, description):
    """Writes to the folder of a run, where TensorBoard also finds the metrics."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import summary_v2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(folder, filename_suffix=".keras_lrs")
    try:
        writer.add_event(Event(summary=summary_v2.hparams_pb(description)))
    finally:
        writer.close()
