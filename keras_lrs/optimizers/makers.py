"""Functions that make schedule-free optimizers in one call."""

import keras

from keras_lrs.optimizers.schedule_free import ScheduleFree
from keras_lrs.schedules import fields
from keras_lrs.schedules.names import hinted


@hinted
def ScheduleFreeSGD(  # noqa: N802 - It is called like an optimizer class.
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    beta: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
) -> ScheduleFree:
    """Makes schedule-free SGD: `ScheduleFree(SGD(learning_rate), beta)`.

    Use `ScheduleFree` itself for other optimizers, and for its other arguments.

    Args:
        learning_rate: The rate, > 0, or a schedule: 10 to 50 times that of SGD.
        beta: The share of the average in the point at which gradients are computed, in
            [0, 1). It does the work of a momentum.
        weight_decay: The weight decay, >= 0, which is multiplied by the rate.
        warmup_steps: The number of updates over which the rate rises linearly, >= 0.

    Returns:
        A `ScheduleFree` optimizer.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.optimizers import ScheduleFreeSGD
        >>> optimizer = ScheduleFreeSGD(5.0, warmup_steps=100)
        >>> type(optimizer.inner_optimizer).__name__, optimizer.arguments.beta
        ('SGD', 0.9)

    Reference: Defazio et al., "The Road Less Scheduled", 2024, arXiv:2405.15682, and
    `SGDScheduleFree` of their package `schedulefree`.
    """
    rate, decay = _checked(learning_rate, weight_decay)
    optimizer = keras.optimizers.SGD(rate, weight_decay=decay or None)
    return ScheduleFree(optimizer, beta, warmup_steps=warmup_steps)


@hinted
def ScheduleFreeAdamW(  # noqa: N802 - It is called like an optimizer class.
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    beta: float = 0.9,
    beta_2: float = 0.999,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
) -> ScheduleFree:
    """Makes schedule-free AdamW: `ScheduleFree(AdamW(rate, beta_1=0.0), beta)`.

    Use `ScheduleFree` itself for other optimizers, and for its other arguments.

    Args:
        learning_rate: The rate, > 0, or a schedule: 1 to 10 times that of AdamW.
        beta: The share of the average in the point at which gradients are computed, in
            [0, 1). It does the work of `beta_1`.
        beta_2: The decay of the averages of squared gradients, in [0, 1).
        weight_decay: The weight decay, >= 0, which is multiplied by the rate.
        warmup_steps: The number of updates over which the rate rises linearly, >= 0.

    Returns:
        A `ScheduleFree` optimizer.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from keras_lrs.optimizers import ScheduleFreeAdamW
        >>> optimizer = ScheduleFreeAdamW(0.0025, weight_decay=0.1)
        >>> optimizer.inner_optimizer.beta_1, optimizer.weight_decay
        (0.0, 0.1)

    Reference: Defazio et al., "The Road Less Scheduled", 2024, arXiv:2405.15682, and
    `AdamWScheduleFree` of their package `schedulefree`.
    """
    share = fields.number(at_least=0.0, below=1.0)
    beta_2 = fields.validate("beta_2", beta_2, share)
    rate, decay = _checked(learning_rate, weight_decay)
    optimizer = keras.optimizers.AdamW(rate, decay, beta_1=0.0, beta_2=beta_2)
    return ScheduleFree(optimizer, beta, warmup_steps=warmup_steps)


def _checked(learning_rate, weight_decay):
    """Returns the rate and the decay after checking them, which Keras does not do."""
    if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = fields.number(above=0.0)
        learning_rate = fields.validate("learning_rate", learning_rate, rate)
    decay = fields.number(at_least=0.0)
    return learning_rate, fields.validate("weight_decay", weight_decay, decay)
