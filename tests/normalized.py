"""A network with normalizations, and its training by SGD, in float64 NumPy.

Two dense layers, each followed by a batch normalization without an epsilon, and a fixed
output layer: all that is trained feeds a normalization.
"""

import numpy as np

STEPS, BATCH = 50, 16  # Batches, which repeat, and their size.

_rng = np.random.default_rng(0)
X = _rng.normal(size=(STEPS, BATCH, 5))
Y = np.eye(3)[(X @ _rng.normal(size=(5, 3))).argmax(axis=-1)]
KERNELS = [_rng.normal(size=(5, 8)), _rng.normal(size=(8, 6))]
OUTPUT = _rng.normal(size=(6, 3))


def normalized(z):
    """Zero mean and unit variance over the batch, and what the way back needs."""
    centered = z - z.mean(axis=0)
    deviation = np.sqrt((centered**2).mean(axis=0))
    return centered / deviation, deviation


def logits(kernels, x):
    """The function that the network is."""
    for kernel in kernels:
        x = np.maximum(normalized(x @ kernel)[0], 0.0)
    return x @ OUTPUT


def gradients(kernels, x, y):
    """Those of the mean cross-entropy, by backpropagation."""
    layers = []
    for kernel in kernels:
        z, deviation = normalized(x @ kernel)
        layers.append((x, kernel, z, deviation))
        x = np.maximum(z, 0.0)
    scores = np.exp(x @ OUTPUT)
    error = (scores / scores.sum(axis=1, keepdims=True) - y) / len(y) @ OUTPUT.T
    found = []
    for x, kernel, z, deviation in reversed(layers):
        error = error * (z > 0.0)
        error = error - error.mean(axis=0) - z * (error * z).mean(axis=0)
        error = error / deviation
        found.append(x.T @ error)
        error = error @ kernel.T
    return found[::-1]


def train(rates, momenta, weight_decay=0.0, form="decoupled", start=None, first=0):
    """Keras's SGD: the logits on the first batch and the weights after each step.

    Args:
        rates: One for each step.
        momenta: One for each step.
        weight_decay: How much of it.
        form: `"decoupled"`, as `SGD(weight_decay=)`, or `"l2"`, in the gradient.
        start: Kernels and velocities to start from.
        first: The number of the first step, which says what its batch is.

    Returns:
        Lists of logits and of `(kernels, velocities)`, one for each step.
    """
    kernels, velocities = start or (KERNELS, [np.zeros_like(w) for w in KERNELS])
    functions, states = [], []
    for step, (rate, momentum) in enumerate(zip(rates, momenta, strict=True), first):
        slopes = gradients(kernels, X[step % STEPS], Y[step % STEPS])
        updated, shrunk = [], 1.0
        if form == "decoupled":
            shrunk -= rate * weight_decay
        for w, v, g in zip(kernels, velocities, slopes, strict=True):
            if form == "l2":
                g = g + weight_decay * w
            v = momentum * v - rate * g
            updated.append((shrunk * w + v, v))
        kernels, velocities = zip(*updated, strict=True)
        functions.append(logits(kernels, X[0]))
        states.append((kernels, velocities))
    return functions, states
