"""A model that records what the forward pass of every step saw of a variable."""

import keras
import numpy as np

from keras_lrs import schedules as S  # noqa: N812

STEPS, BATCH = 6, 4  # Per epoch.
OWN = 0.25  # The user's value of the variable.

# The row of a batch says which of its epoch it is.
X = np.repeat(np.eye(STEPS, dtype="float32"), BATCH, axis=0)
Y = np.zeros((len(X), 1), "float32")


@keras.saving.register_keras_serializable(package="keras_lrs_tests")
class Recorder(keras.layers.Layer):
    """Has a weight for each batch of an epoch, whose gradient is minus the variable.

    So SGD with a rate of 1 adds to it what the forward pass of that batch saw.
    """

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.beta = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(OWN),
            trainable=False,
            name="beta",
        )

    def build(self, shape):
        self.seen = self.add_weight(shape=(shape[-1], 1), initializer="zeros")

    def call(self, x):
        return -self.beta * (x @ self.seen)


def mean_of_prediction(y, prediction):
    return keras.ops.mean(prediction, axis=-1)


def model(optimizer=None, **compile_arguments):
    """A model whose first layer records."""
    recorder = keras.Sequential([keras.Input((STEPS,)), Recorder(name="recorder")])
    optimizer = keras.optimizers.SGD(1.0) if optimizer is None else optimizer
    recorder.compile(optimizer, mean_of_prediction, **compile_arguments)
    return recorder


def number(variable):
    return keras.ops.convert_to_numpy(variable.value).item()


def beta(model):
    return model.layers[0].beta


class Record(keras.callbacks.Callback):
    """What forward passes saw, of all epochs one after the other, and what follows.

    Attributes:
        seen: The sum of what each batch of an epoch saw, over a number of epochs.
        held: What the variable held when each epoch ended.
    """

    def on_train_begin(self, logs=None):
        self.seen, self.held = [self.total], []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.total)
        self.held.append(number(beta(self.model)))

    @property
    def total(self):
        weight = self.model.layers[0].seen
        return keras.ops.convert_to_numpy(weight.value)[:, 0].astype(np.float64)

    @property
    def values(self):
        return np.diff(self.seen, axis=0).ravel()


def fit(model, callbacks, epochs=3, **arguments):
    """What the forward passes saw."""
    record = Record()
    arguments = {"x": X, "y": Y, "batch_size": BATCH, **arguments}
    callbacks = [record, *callbacks]
    model.fit(epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **arguments)
    return record.values


# Of both signs, so that no check of hyperparameters may be in the way.
@keras.saving.register_keras_serializable(package="keras_lrs_tests")
def falling(step):
    return 1.0 - 0.125 * step


FALLING = S.FunctionSchedule(falling)


def values(first, end):
    """Those of `FALLING`, at steps from `first` up to `end`."""
    return 1.0 - 0.125 * np.arange(first, end)
