"""Schedule-free training in NumPy, in float64, with x, y and z as the paper has them.

The model and its batches are those of `tests.callbacks.references`.
"""

import numpy as np

from tests.callbacks import references


class ScheduleFree:
    """Defazio et al., equations 1 to 3, with the weights of their package."""

    def __init__(
        self,
        beta=0.9,
        weight_power=2.0,
        step_power=0.0,
        warmup_steps=0,
        average=None,
        start=((0.0,),) * 3,
        accumulated=1,
        clip=np.inf,
        adam=False,
    ):
        self.beta, self.weight_power, self.step_power = beta, weight_power, step_power
        self.warmup_steps, self.average = warmup_steps, average
        self.accumulated, self.clip, self.adam = accumulated, clip, adam
        self.x, self.z = np.array(start), np.array(start)
        self.k = 0
        self.sum = self.largest = 0.0
        self.second_moment, self.product = np.zeros((3, 1)), 1.0

    @property
    def y(self):
        return self.beta * self.x + (1.0 - self.beta) * self.z

    def train(self, num_steps, rate, weight_decay=0.0, beta_2=0.999):
        curves = (
            np.broadcast_to(curve, num_steps) for curve in (rate, weight_decay, beta_2)
        )
        for values in zip(*curves, strict=True):
            self.step(self.y, *values)
        return self

    def step_at_x(self, rate):
        self.step(self.x, rate)

    def step(self, point, rate, weight_decay=0.0, beta_2=0.999):
        n, k = self.accumulated, self.k
        batches = range(n * k, n * k + n)
        g = np.mean([references.gradient(point, i) for i in batches], axis=0)
        g = g * min(1.0, self.clip / np.linalg.norm(g))
        if self.adam:
            self.second_moment = beta_2 * self.second_moment + (1.0 - beta_2) * g * g
            self.product *= beta_2
            # The epsilon is Keras's: beside the moment before its correction.
            root = np.sqrt(self.second_moment) + 1e-8
            g = g * np.sqrt(1.0 - self.product) / root
        if self.warmup_steps:
            rate = rate * min(1.0, (k + 1) / self.warmup_steps)
        self.z = self.z - rate * (g + weight_decay * point)
        c = self.share(k, rate)
        self.x = (1.0 - c) * self.x + c * self.z
        self.k += 1

    def share(self, k, rate):
        name = type(self.average).__name__
        if name == "ExponentialAverage":
            d = self.average.decay
            return (1.0 - d) / (1.0 - d ** (k + 1))
        if name == "PolynomialAverage":
            return (self.average.power + 1.0) / (k + 1.0 + self.average.power)
        self.largest = max(self.largest, rate)
        weight = (k + 1) ** self.step_power * self.largest**self.weight_power
        self.sum += weight
        return weight / self.sum if self.sum > 0.0 else 0.0


def embedding(x, y, rate, batch, beta=0.9):
    """The average of an embedding of 7 by 3, a kernel >= 0 of 6 and a bias."""
    start = [np.ones((7, 3)), np.ones((6, 1)), np.zeros(1)]
    average, z = list(start), list(start)
    for k in range(len(x) // batch):
        at = slice(batch * k, batch * k + batch)
        table, kernel, bias = (
            beta * a + (1.0 - beta) * b for a, b in zip(average, z, strict=True)
        )
        hidden = table[x[at]].reshape(batch, 6)
        error = 2.0 * (hidden @ kernel + bias - y[at]) / batch
        rows = np.zeros_like(table)
        np.add.at(rows, x[at].ravel(), (error @ kernel.T).reshape(-1, 3))
        gradients = rows, hidden.T @ error, error.sum(0)
        z = [w - rate * g for w, g in zip(z, gradients, strict=True)]
        z[1] = np.maximum(z[1], 0.0)
        c = 1.0 / (k + 1)
        average = [(1.0 - c) * a + c * b for a, b in zip(average, z, strict=True)]
    return average
