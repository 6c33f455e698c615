"""Optimizers in NumPy, in float64, with hyperparameters that change at every step.

Each is the published algorithm, in the arrangement of Keras's documentation. They train
a linear model on fixed batches without shuffling.
"""

import keras
import numpy as np

BATCH, STEPS = 4, 10  # Per epoch.

_rng = np.random.default_rng(0)
X = _rng.normal(size=(BATCH * STEPS, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]] + 0.1 * _rng.normal(size=(len(X), 1))).astype("float32")


def linear_model(optimizer, **compile_arguments):
    """A linear model without a bias, from zero."""
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((3,)), dense])
    model.compile(optimizer, "mse", **compile_arguments)
    return model


def arrays(x=X, y=Y, batch_size=BATCH):
    """These batches, as most users give them."""
    return {"x": x, "y": y, "batch_size": batch_size}


def batches(x=X, y=Y, batch_size=BATCH, sample_weight=None):
    """The same, quicker: Keras's way to slice arrays takes TensorFlow half of a fit."""
    if keras.backend.backend() != "tensorflow":
        return arrays(x, y, batch_size) | {"sample_weight": sample_weight}
    import tensorflow as tf

    slices = (x, y) if sample_weight is None else (x, y, sample_weight)
    return {"x": tf.data.Dataset.from_tensor_slices(slices).batch(batch_size)}


def fit(model, callbacks=(), epochs=4, data=None, verbose=0, **arguments):
    """Trains on the batches in their order."""
    return model.fit(
        **(batches() if data is None else data),
        epochs=epochs,
        shuffle=False,
        verbose=verbose,
        callbacks=list(callbacks),
        **arguments,
    )


def weights(model):
    """The weights of a linear model, in float64."""
    return np.asarray(keras.ops.convert_to_numpy(model.weights[0].value), np.float64)


def gradient(w, step):
    """The gradient of the mean squared error on the batch of a step."""
    batch = slice(BATCH * (step % STEPS), BATCH * (step % STEPS) + BATCH)
    x, y = X[batch].astype(np.float64), Y[batch].astype(np.float64)
    return 2.0 * x.T @ (x @ w - y) / len(x)


def losses_of_sgd(rates, w=None):
    """The loss of each batch before its update with that rate, from `w` or zeros."""
    w, losses = np.zeros((3, 1)) if w is None else w, []
    for step, rate in enumerate(rates):
        batch = slice(BATCH * (step % STEPS), BATCH * (step % STEPS) + BATCH)
        losses.append(np.mean((X[batch] @ w - Y[batch]) ** 2))
        w = w - rate * gradient(w, step)
    return losses


class Optimizer:
    """The state of an optimizer, and one update: `update(gradient, **values)`."""

    def __init__(self):
        self.w = np.zeros((3, 1))
        self.step = 0

    def train(self, num_steps, **schedules):
        """Trains; each schedule is a vector of `num_steps` values."""
        for k in range(num_steps):
            values = {name: float(curve[k]) for name, curve in schedules.items()}
            self.update(gradient(self.w, self.step), **values)
            self.step += 1
        return self.w


class SGD(Optimizer):
    """With momentum; `corrected` is Goyal et al.'s momentum correction."""

    def __init__(self, nesterov=False, corrected=False):
        super().__init__()
        self.v = np.zeros((3, 1))
        self.nesterov, self.corrected, self.last = nesterov, corrected, None

    def update(self, g, learning_rate=0.05, momentum=0.9, weight_decay=0.0, clip=None):
        if clip is not None:
            g = g * min(1.0, clip / np.linalg.norm(g))
        self.w = self.w * (1.0 - learning_rate * weight_decay)
        if self.corrected and self.last:
            self.v = self.v * learning_rate / self.last
        self.last = learning_rate
        self.v = momentum * self.v - learning_rate * g
        if self.nesterov:
            self.w = self.w + momentum * self.v - learning_rate * g
        else:
            self.w = self.w + self.v


class Adam(Optimizer):
    """AdamW; the bias is corrected with the product of the betas used."""

    def __init__(self):
        super().__init__()
        self.m, self.s = np.zeros((3, 1)), np.zeros((3, 1))
        self.p1 = self.p2 = 1.0

    def update(self, g, learning_rate=0.05, beta_1=0.9, beta_2=0.999, weight_decay=0.0):
        self.w = self.w * (1.0 - learning_rate * weight_decay)
        self.m = beta_1 * self.m + (1.0 - beta_1) * g
        self.s = beta_2 * self.s + (1.0 - beta_2) * g * g
        self.p1, self.p2 = self.p1 * beta_1, self.p2 * beta_2
        rate = learning_rate * np.sqrt(1.0 - self.p2) / (1.0 - self.p1)
        self.w = self.w - rate * self.m / (np.sqrt(self.s) + 1e-7)


class RMSprop(Optimizer):
    """With momentum."""

    def __init__(self):
        super().__init__()
        self.s, self.v = np.zeros((3, 1)), np.zeros((3, 1))

    def update(self, g, learning_rate=0.05, momentum=0.9, rho=0.9):
        self.s = rho * self.s + (1.0 - rho) * g * g
        self.v = momentum * self.v + learning_rate * g / np.sqrt(self.s + 1e-7)
        self.w = self.w - self.v


class Lion(Optimizer):
    """The sign of an interpolation."""

    def __init__(self):
        super().__init__()
        self.m = np.zeros((3, 1))

    def update(self, g, learning_rate=0.05, beta_1=0.9, beta_2=0.99):
        direction = np.sign(beta_1 * self.m + (1.0 - beta_1) * g)
        self.m = beta_2 * self.m + (1.0 - beta_2) * g
        self.w = self.w - learning_rate * direction
