"""Scales a learning rate for another batch size."""

import math
from typing import Any

import keras

from keras_lrs.schedules import fields
from keras_lrs.schedules.combinators import Scaled, Warmup
from keras_lrs.schedules.durations import Duration
from keras_lrs.schedules.open_ended import Constant

RULES = {"linear": lambda ratio: ratio, "sqrt": math.sqrt}


def scale_learning_rate(
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    batch_size: int,
    base_batch_size: int,
    rule: str = "linear",
    *,
    num_replicas: int = 1,
    gradient_accumulation_steps: int = 1,
    warmup_steps: Duration = 0,
) -> Any:
    """Scales a learning rate that was tuned at one batch size for another.

    `learning_rate * batch_size / base_batch_size`, or with the square root of the ratio

    The batch size that counts is the *global* one: the number of examples in one update
    of the weights. In Keras's `fit(batch_size=)` and in a `tf.data` pipeline, it is
    that of *all* replicas together, so leave `num_replicas` at 1. If your batch size is
    that of each replica, as with Horovod or `torchrun`, give `num_replicas` too. An
    optimizer with `gradient_accumulation_steps=k` updates the weights once in k
    batches, with the mean of their gradients. Give the same k here.

    Scale a rate only once, because a second call multiplies it again.

    Args:
        learning_rate: The rate at `base_batch_size`: a float >= 0, or any schedule,
            whose values are all scaled.
        batch_size: The number of examples in a batch, > 0.
        base_batch_size: The global batch for which `learning_rate` was tuned, > 0.
        rule: `"linear"`, for SGD; `"sqrt"`, which keeps the variance of an update and
            is used with Adam.
        num_replicas: How many replicas have a batch of `batch_size` each, > 0.
        gradient_accumulation_steps: The steps of the optimizer, > 0.
        warmup_steps: The number of steps in which the rate rises linearly from its
            original value to the scaled one, >= 0; also `Epochs` or a `Fraction`. A
            schedule begins after them. If scaling does not raise the rate, the rate
            stays constant during the warmup. Steps are batches, even with gradient
            accumulation.

    Returns:
        A float if `learning_rate` is a float and there is no warmup, and a schedule
        otherwise.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> scale_learning_rate(0.1, batch_size=1024, base_batch_size=256)
        0.4
        >>> scale_learning_rate(0.1, 1024, 256, rule="sqrt")
        0.2
        >>> from keras_lrs import schedules
        >>> cosine = schedules.CosineAnnealing(0.1, decay_steps=100)
        >>> scaled = scale_learning_rate(cosine, 1024, 256, warmup_steps=10)
        >>> [round(float(scaled(step)), 4) for step in (0, 5, 10, 60, 110)]
        [0.1, 0.25, 0.4, 0.2, 0.0]

    Reference: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1
    Hour", 2017, arXiv:1706.02677; for the square root, Krizhevsky, "One weird trick for
    parallelizing convolutional neural networks", 2014, arXiv:1404.5997.
    """
    global_batch_size = (
        fields.count("batch_size", batch_size, 1)
        * fields.count("num_replicas", num_replicas, 1)
        * fields.count("gradient_accumulation_steps", gradient_accumulation_steps, 1)
    )
    base_batch_size = fields.count("base_batch_size", base_batch_size, 1)
    fields.one_of("rule", rule, RULES)
    factor = RULES[rule](global_batch_size / base_batch_size)
    if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        scaled: Any = Scaled(learning_rate, factor)
    else:
        rate = fields.validate("learning_rate", learning_rate, fields.rate())
        rate = fields.validate("learning_rate", factor * rate, fields.rate())
        scaled = Constant(rate)
    warmup = Warmup(scaled, warmup_steps, initial_fraction=min(1.0 / factor, 1.0))
    if warmup.warmup_steps != 0:
        return warmup
    return scaled.value if isinstance(scaled, Constant) else scaled
