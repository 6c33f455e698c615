"""The learning rate that goes with another batch size."""

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
    """The learning rate for a batch size, from one that was tuned at another.

    `learning_rate * batch_size / base_batch_size`, or with the square root of the ratio

    What counts is the *global* batch: how many examples one update of the weights has
    seen. Keras's `fit(batch_size=)` and a `tf.data` pipeline say how many examples
    *all* replicas of a distribution take together: leave `num_replicas` at 1. If yours
    says how many each replica takes, as with Horovod or `torchrun`, give it. An
    optimizer with `gradient_accumulation_steps=k` updates the weights once in k
    batches, with the mean of their gradients: give the same k here.

    Scale once: to scale a rate that has been scaled already multiplies it again.

    Args:
        learning_rate: The rate at `base_batch_size`: a float >= 0 or any schedule, all
            of whose values are scaled.
        batch_size: The number of examples in a batch, > 0.
        base_batch_size: The global batch for which `learning_rate` was tuned, > 0.
        rule: `"linear"`, for SGD; `"sqrt"`, which keeps the variance of an update and
            is used with Adam.
        num_replicas: How many replicas have a batch of `batch_size` each, > 0.
        gradient_accumulation_steps: Those of the optimizer, > 0.
        warmup_steps: In how many steps to go from the unscaled rate to the scaled one,
            in a line, >= 0; also `Epochs` or a `Fraction`. A schedule begins after
            them. Where the rate is not larger than before, it stays constant during
            the warmup. Steps are batches, also with gradient accumulation.

    Returns:
        A float for a float without warmup, else a schedule.

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
