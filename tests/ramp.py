"""A model that shows the rates that a `fit` uses."""

import keras


def mean_of_prediction(y, prediction):
    """A loss whose gradient is 1."""
    return keras.ops.mean(prediction)


class Ramp(keras.Model):
    """One weight whose gradient is always -1: each update adds the rate to it."""

    def __init__(self):
        super().__init__()
        self.position = self.add_weight(shape=(), initializer="zeros")

    def call(self, inputs):
        return keras.ops.multiply(inputs, 0.0) - self.position


def ramp(optimizer, **compile_arguments):
    model = Ramp()
    model.compile(optimizer, mean_of_prediction, **compile_arguments)
    return model


class Positions(keras.callbacks.Callback):
    """Where a ramp is after every epoch."""

    def on_train_begin(self, logs=None):
        self.positions = [float(keras.ops.convert_to_numpy(self.model.position))]

    def on_epoch_end(self, epoch, logs=None):
        self.positions.append(float(keras.ops.convert_to_numpy(self.model.position)))
