"""Momentum correction: the velocity is rescaled with the rate."""

from typing import Any

import keras

from keras_lrs._keras import in_step
from keras_lrs._step.groups import check_constant_ratios
from keras_lrs._step.part import StepPart, Wanted
from keras_lrs._step.update import Update


class MomentumCorrection(StepPart):
    """Multiplies SGD's velocity by the ratio of successive rates.

    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
    arXiv:1706.02677, section 3, remark 2.
    """

    @staticmethod
    def check(callback: Any, wanted: Wanted, beside: list[Wanted]) -> None:
        """Raises if there is no velocity."""
        optimizer = wanted.optimizer
        sgd = isinstance(optimizer, keras.optimizers.SGD)
        if not (sgd and optimizer.momentum != 0):
            raise ValueError(
                "Argument `momentum_correction` needs the optimizer `SGD` with a "
                f"momentum. Received: {type(optimizer).__name__}"
                f"{' with momentum=0' if sgd else ''}"
            )
        check_constant_ratios([wanted, *beside])

    def before(self, update: Update) -> None:
        """Rescales the velocity before the rate is set."""
        rate = update.optimizer._learning_rate
        ratio = in_step.ratio(update.rate, rate, known=update.step > 0)
        in_step.scale(update.optimizer.momentums, ratio)
