"""What the parity tests share: a driver for torch's schedulers and a comparison."""

import numpy as np

EPSILON = np.finfo(np.float64).eps


def sgd(learning_rate):
    """A torch optimizer with one parameter."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(()))
    return torch.optim.SGD([parameter], lr=learning_rate, momentum=0.9)


def driven(scheduler, num_steps, field="lr", told_the_step=False):
    """What the optimizer of a torch scheduler uses, read before each of its updates.

    timm's schedulers do not count: they are `told_the_step`.
    """
    optimizer = scheduler.optimizer
    values = []
    for step in range(num_steps):
        values.append(optimizer.param_groups[0][field])
        optimizer.step()
        if step + 1 < num_steps:
            scheduler.step(*([step + 1] if told_the_step else []))
    return np.array(values, dtype=np.float64)


def assert_same_curve(schedule, expected, *, rtol=1e-12, roundings=8):
    """Asserts that `schedule.curve` is `expected`.

    Peers form `(1 + cos(x)) / 2` and `1 - x`: near zero they are off by a few roundings
    of the peak, however small the value. That much, in `roundings`, is allowed.
    """
    expected = np.asarray(expected, dtype=np.float64)
    atol = roundings * EPSILON * np.max(np.abs(expected))
    curve = schedule.curve(len(expected))
    np.testing.assert_allclose(curve, expected, rtol=rtol, atol=atol)
