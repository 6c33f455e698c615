"""What a model trains with is compared, even if no configuration says it."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_lrs._keras import attributes
from keras_lrs.callbacks import ResumableTraining, resumption

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Break(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """Has no configuration."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return ops.cast(self.rate, "float32")


class Configured(Constant):
    def get_config(self):
        return {"learning_rate": self.rate}


class Penalty(keras.regularizers.Regularizer):
    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return self.value * ops.sum(x**2)

    def get_config(self):
        return {"value": self.value}


class Power(keras.losses.Loss):
    def __init__(self, power):
        super().__init__()
        self.power = power

    def call(self, y_true, y_pred):
        return power_loss(y_true, y_pred, self.power)


def power_loss(y_true, y_pred, power=1.0):
    return ops.mean(ops.abs(y_true - y_pred) ** power, axis=-1)


def capturing(power):
    def loss(y_true, y_pred):
        return power_loss(y_true, y_pred, power)

    return loss


class Own(layers.Layer):
    """A layer that Keras cannot configure, because it is given a function."""

    def __init__(self, function, *more):
        super().__init__()
        self._function = function
        self.more = {"a": [1, *more]}
        self.names = [layer.name for layer in (layers.Dense(1), layers.Dense(1))]
        self.calls = 0

    def call(self, x):
        self.calls += 1
        return self._function(x)


class Network(keras.Model):
    def __init__(self, function):
        super().__init__()
        self.first, self.last = layers.Dense(4), layers.Dense(1)
        self.function = function
        self.weight = 0.1
        self.log_dir, self.run_id = f"runs/{id(self)}", id(self)

    def call(self, x):
        return self.last(self.function(self.first(x)))


def network(*inside, optimizer=None, loss="mse", last=None, **compiled):
    last = last or layers.Dense(1)
    parts = [keras.Input((3,)), *inside, layers.Dense(4, "tanh"), last]
    return compile(keras.Sequential(parts), optimizer, loss, **compiled)


def compile(model, optimizer=None, loss="mse", **compiled):
    model.compile(optimizer or keras.optimizers.SGD(0.01), loss, **compiled)
    return model


def functional(function):
    inputs = keras.Input((3,))
    outputs = layers.Dense(1)(function(layers.Dense(4)(inputs)))
    return compile(keras.Model(inputs, outputs))


def subclassed(function=ops.tanh, weight=0.1):
    model = Network(function)
    model.weight = weight
    model(X)
    return compile(model)


def with_schedule(schedule, weight_decay=None):
    return network(optimizer=keras.optimizers.SGD(schedule, weight_decay=weight_decay))


def excluding(names):
    optimizer = keras.optimizers.SGD(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=names)
    return network(optimizer=optimizer)


def frozen(flag):
    model = network()
    model.layers[0].kernel.trainable = not flag
    return model


def leaky(slope):
    function = functools.partial(keras.activations.leaky_relu, negative_slope=slope)
    return network(layers.Activation(function))


def with_loss(make):
    return lambda value: network(loss=make(value))


DIFFERENT = {
    "an operation": (functional, ops.tanh, ops.relu, "model"),
    "a sign": (functional, lambda h: h + 1, lambda h: h - 1, "model"),
    "a constant mean": (
        lambda mean: network(layers.Normalization(mean=mean, variance=1.0)),
        *(0.0, 3.0, "model"),
    ),
    "a rate in a configuration": (
        lambda rate: with_schedule(Configured(rate)),
        *(0.01, 0.02, "optimizer"),
    ),
    "a schedule without a configuration": (
        lambda rate: with_schedule(Constant(rate)),
        *(0.01, 0.02, "optimizer"),
    ),
    "what is beside it": (
        lambda decay: with_schedule(Constant(0.01), decay),
        *(0.1, 0.5, "optimizer"),
    ),
    "a model's function": (subclassed, ops.tanh, ops.relu, "model"),
    "a model's number": (
        lambda weight: subclassed(weight=weight),
        *(0.1, 0.5, "model"),
    ),
    "a layer's function": (lambda f: network(Own(f)), ops.tanh, ops.sin, "model"),
    "a longer list": (
        lambda more: network(Own(ops.tanh, *more)),
        *((), (2,), "model"),
    ),
    "a partial activation": (leaky, 0.1, 0.5, "model"),
    "a partial loss": (
        with_loss(lambda power: functools.partial(power_loss, power=power)),
        *(1.0, 2.0, "loss"),
    ),
    "what a loss captures": (with_loss(capturing), 1.0, 2.0, "loss"),
    "a loss of Keras": (with_loss(keras.losses.Huber), 1.0, 0.1, "loss"),
    "a loss of one's own": (with_loss(Power), 1.0, 2.0, "loss"),
    "a regularizer": (
        lambda v: network(last=layers.Dense(1, kernel_regularizer=Penalty(v))),
        *(0.1, 0.5, "model"),
    ),
    "variables without weight decay": (excluding, [], ["bias"], "optimizer"),
    "a variable that is not trained": (frozen, False, True, "model"),
}


def fit(model, folder, *more, **options):
    keras.utils.set_random_seed(0)
    resumable = ResumableTraining(folder, verbose=0, **options)
    callbacks = [resumable, *more]
    model.fit(X, Y, 4, 2, verbose=0, callbacks=callbacks, shuffle=False)
    return resumable


def interrupt(model, folder):
    with pytest.raises(KeyboardInterrupt):
        fit(model, folder, Break())


def seeded(make, value):
    keras.utils.set_random_seed(0)
    return make(value)


@pytest.mark.parametrize(
    ("make", "one", "other", "part"), DIFFERENT.values(), ids=DIFFERENT
)
def test_another_is_refused(tmp_path, make, one, other, part):
    interrupt(seeded(make, one), tmp_path)
    message = (
        rf"checkpoints of this {part}, or none.* of another: `{part}.*accept='{part}"
    )
    with pytest.raises(ValueError, match=message):
        fit(seeded(make, other), tmp_path)
    assert fit(seeded(make, one), tmp_path).resumed_from.epoch == 1


def test_it_is_accepted_on_demand(tmp_path):
    interrupt(seeded(subclassed, ops.tanh), tmp_path)
    found = fit(seeded(subclassed, ops.relu), tmp_path, accept="model")
    assert found.resumed_from.epoch == 1


MODELS = {
    "functional": lambda: functional(lambda h: ops.leaky_relu(h, 0.3) + 1),
    "own layer": lambda: network(Own(ops.tanh), layers.Dropout(0.1)),
    "subclassed": subclassed,
    "recurrent": lambda: network(layers.Reshape((3, 1)), layers.LSTM(2)),
    "decayed": lambda: network(
        layers.BatchNormalization(),
        optimizer=keras.optimizers.AdamW(0.01),
        loss=keras.losses.Huber(),
        metrics=["mae"],
    ),
    "scheduled": lambda: with_schedule(Constant(0.01), 0.1),
}


@pytest.mark.every_backend
@pytest.mark.parametrize("kind", MODELS)
def test_the_same_is_the_same(kind):
    """A second one, with other names; one that was trained, and compiled twice."""

    def described(model):
        model.optimizer.build(model.trainable_variables)
        return resumption.Described(model)

    one, other = MODELS[kind](), MODELS[kind]()
    first = described(one)
    assert described(other).attributes == first.attributes
    one.fit(X, Y, verbose=0)
    one.evaluate(X, Y, verbose=0)
    state = first.state()
    for loss, metrics in ((other.loss, None), (other.loss, ["mae"])):
        for model in (one, other):
            model.compile(model.optimizer, loss, metrics=metrics)
            again = described(model)
            told = [
                attributes.difference(name, again.attributes[name], text)
                for name, text in state["attributes"].items()
            ]
            assert not any(told)


def test_what_changes_in_training_is_not_compared(tmp_path):
    """Such as the weights of losses in a list that a callback keeps."""

    def start(*callbacks):
        weights = [1.0, 2.0]
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        outputs = [layers.Dense(1, name=name)(inputs) for name in "ab"]
        model = keras.Model(inputs, outputs)
        model.compile("sgd", ["mse", "mse"], loss_weights=weights)

        def change(epoch, logs):
            weights[0] += 1.0

        changes = keras.callbacks.LambdaCallback(on_epoch_begin=change)
        resumable = ResumableTraining(tmp_path, verbose=0)
        arguments = {"epochs": 2, "verbose": 0}
        model.fit(X, [Y, Y], callbacks=[changes, *callbacks, resumable], **arguments)
        return resumable

    with pytest.raises(KeyboardInterrupt):
        start(Break())
    assert start().resumed_from.epoch == 1


@pytest.mark.every_backend
@pytest.mark.parametrize("kind", ["functional", "decayed"])
def test_a_model_from_a_file_is_the_same(kind, tmp_path):
    model = MODELS[kind]()
    if kind == "decayed":
        model.compile(model.optimizer, "mse")
    interrupt(model, tmp_path / "run")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    accepted = {"accept": "fit"}  # Its weights are others.
    assert fit(loaded, tmp_path / "run", **accepted).resumed_from.epoch == 1


@pytest.mark.parametrize("change", ["without", "other version"])
def test_checkpoints_of_other_versions_are_compared_with_what_they_have(change):
    described = resumption.Described(subclassed())
    found = {**described.state(), "values": []}
    if change == "without":
        del found["attributes"]
    else:
        layers_of_model = json.loads(found["attributes"]["model"])
        del layers_of_model[0]["weight"]
        layers_of_model[0]["unknown"] = 1
        found["attributes"] = {"model": json.dumps(layers_of_model)}
    other = resumption.Described(subclassed(weight=0.5))
    assert not other.differences(found)


def test_numbers_that_another_machine_rounds_otherwise_are_the_same():
    one, other = (
        attributes.of(subclassed(weight=value)) for value in (0.1, 0.1 + 1e-9)
    )
    assert attributes.difference("model", one["model"], other["model"]) is None
