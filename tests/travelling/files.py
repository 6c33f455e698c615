"""Models in files, of every moment of a training; and what must come of each.

As a program: `python -m tests.travelling.files FOLDER`, in a fresh process, loads all
that `write` wrote there, maybe on another backend, trains on, and prints as JSON what
is not as it was.
"""

import json
import pathlib
import sys

import keras
import numpy as np

import keras_lrs as lrs
from tests import catalogue, thinning
from tests.callbacks import references

S, A, C = lrs.schedules, lrs.averages, lrs.callbacks
EPOCHS = 2
BACKEND = keras.backend.backend()

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "adamw": lambda: keras.optimizers.AdamW(0.01, clipnorm=1.0),
    "schedule": lambda: keras.optimizers.SGD(S.CosineRestarts(0.05, 7)),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01, momentum=0.9), initial_scale=8.0
    ),
    "schedule free": lambda: lrs.optimizers.ScheduleFree(
        keras.optimizers.SGD(0.05), average=A.ExponentialAverage(0.9)
    ),
}


def callbacks(kind, folder):
    """All of ours that can work together."""
    found = [C.HyperparameterLogger(), C.GradientNormRecorder()]
    if kind == "schedule free":
        return [*found, C.AveragedEvaluation(at_end="raw")]
    if kind != "schedule":
        schedule = S.Warmup(S.CosineRestarts(0.05, 6, t_mul=1.0), 3)
        found.append(C.HyperparameterScheduler(learning_rate=schedule))
    found.append(C.SnapshotEnsemble(folder / f"{kind} snapshots"))
    found.append(C.ReduceOnPlateau("loss", 0.5, state_path=folder / f"{kind}.json"))
    found.append(C.WeightAveraging(A.ExponentialAverage(0.9), at_end="raw"))
    return found


def numbers(model):
    """What a file must bring along."""
    optimizer = model.optimizer
    outputs = model(references.X[:5], training=False)
    return {
        "iterations": int(keras.ops.convert_to_numpy(optimizer.iterations.value)),
        "rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
        "outputs": keras.ops.convert_to_numpy(outputs).ravel().tolist(),
    }


class Save(keras.callbacks.Callback):
    """Saves the model at every moment of a kind, once."""

    def __init__(self, folder, kind):
        super().__init__()
        self.folder, self.kind, self.found = folder, kind, {}

    def save(self, moment):
        name = f"{self.kind}, {moment}.keras"
        if name not in self.found:
            model = self.model  # Which on JAX gets the state of the training.
            model.save(self.folder / name)
            self.found[name] = numbers(model)

    def on_train_begin(self, logs=None):
        self.save("before the training")

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            self.save("within an epoch")

    def on_test_batch_end(self, batch, logs=None):
        self.save("in a validation")

    def on_epoch_end(self, epoch, logs=None):
        self.save("after an epoch")

    def on_train_end(self, logs=None):
        self.save("at the end")


def schedules():
    """One of each class; every fourth where another backend writes all of them."""
    found = [variants[-1] for variants in catalogue.BOUND.values()]
    return found if BACKEND == thinning.WHOLE else found[::4]


def write(folder):
    """Writes a model for every public object and every moment of a training."""
    found = {}
    for kind, make in OPTIMIZERS.items():
        model = references.linear_model(make())
        save = Save(folder, kind)
        validation = (references.X, references.Y)
        ours = callbacks(kind, folder)
        references.fit(model, [*ours, save], EPOCHS, validation_data=validation)
        model.save(folder / f"{kind}, after the training.keras")
        found |= save.found
        found[f"{kind}, after the training.keras"] = numbers(model)
        found[f"{kind}, after an epoch.keras"] |= {
            "kind": kind,
            "end": references.weights(model).ravel().tolist(),
        }
    optimizers = [keras.optimizers.SGD(one) for one in schedules()] + [
        lrs.optimizers.ScheduleFree(keras.optimizers.SGD(0.1), average=average)
        for average in (
            A.ExponentialAverage(half_life=3.0),
            A.PolynomialAverage(3),
            A.PowerFunctionAverage(0.1),
            A.UniformAverage(),
            A.WarmupAverage(0.9),
        )
    ]
    for index, optimizer in enumerate(optimizers):
        model = references.linear_model(optimizer)
        optimizer.build(model.trainable_variables)
        leaf = getattr(optimizer, "inner_optimizer", optimizer)
        leaf.iterations.assign(11)
        model.save(folder / f"object {index}.keras")
        found[f"object {index}.keras"] = numbers(model)
    # Lengths that are still open, in a config.
    path = folder / "open.json"
    path.write_text(
        json.dumps(
            [
                keras.saving.serialize_keras_object(schedule)
                for schedule in catalogue.OPEN
            ]
        )
    )
    (folder / "numbers.json").write_text(json.dumps(found))


def with_own_optimizer(model, path):
    """The model as it is, or with an optimizer of this backend.

    A file that was written on PyTorch names the classes that Keras has for PyTorch,
    whose steps are PyTorch's: `docs/guides/resuming_from_elsewhere.md` says what to do.
    """
    optimizer = model.optimizer
    scale = getattr(optimizer, "initial_scale", None)
    leaf = optimizer if scale is None else optimizer.inner_optimizer
    torch = "keras.src.backend.torch"
    if not type(leaf).__module__.startswith(torch) or BACKEND == "torch":
        return model
    own = getattr(keras.optimizers, type(leaf).__name__).from_config(leaf.get_config())
    if scale is not None:
        own = keras.optimizers.LossScaleOptimizer(own, initial_scale=scale)
    model.compile(own, "mse")
    own.build(model.trainable_variables)
    model.load_weights(path)
    return model


def differences(name, expected, folder):
    """What is not as it was, of a file."""
    model = keras.saving.load_model(folder / name, safe_mode=True)
    found = numbers(model)
    for key in ("iterations", "rate", "outputs"):
        if not np.allclose(found[key], expected[key], rtol=1e-5, atol=1e-6):
            yield f"{key}: {found[key]}, not {expected[key]}"
    model = with_own_optimizer(model, folder / name)
    if "end" in expected:
        kind = expected["kind"]
        # The files of the training itself, as a backup of the folder has them.
        references.fit(model, callbacks(kind, folder), EPOCHS, initial_epoch=1)
        end = references.weights(model).ravel()
        if not np.allclose(end, expected["end"], rtol=1e-4, atol=1e-6):
            yield f"after going on: {end.tolist()}, not {expected['end']}"
        return
    model.run_eagerly = True
    model.train_on_batch(references.X[:4], references.Y[:4])
    now = numbers(model)
    if now["iterations"] != expected["iterations"] + 1:
        yield f"{now['iterations']} iterations after one more"
    if not np.all(np.isfinite(now["outputs"])):
        yield f"a step leads to {now['outputs']}"


def read(folder):
    """All differences, by file."""
    found = {}
    for name, expected in json.loads((folder / "numbers.json").read_text()).items():
        try:
            found[name] = list(differences(name, expected, folder))
        except Exception as error:
            found[name] = [repr(error)]
    configs = json.loads((folder / "open.json").read_text())
    again = [keras.saving.deserialize_keras_object(config) for config in configs]
    found["open"] = [] if again == catalogue.OPEN else [repr(again)]
    return found


if __name__ == "__main__":
    result = read(pathlib.Path(sys.argv[1]))
    print(json.dumps({name: found for name, found in result.items() if found}))
    print(f"{len(result)} read")
