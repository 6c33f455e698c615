"""`OneCycleScheduler`: the 1cycle policy for the rate and the momentum."""

from typing import Any

from keras_lrs._fit import chosen
from keras_lrs._fit.run import Run
from keras_lrs._step import hyperparameters
from keras_lrs._step.part import Wanted
from keras_lrs.callbacks.hyperparameter_scheduler import HyperparameterScheduler
from keras_lrs.schedules.composed import MirroredOneCycle, OneCycle


class OneCycleScheduler(HyperparameterScheduler):
    """Moves the rate up and down once and the momentum the other way (1cycle policy).

    It drives `learning_rate`, and `momentum` of SGD and RMSprop or `beta_1` of the Adam
    family, in the training step, over the whole `fit`. Everything in
    `HyperparameterScheduler` applies here too.

    Use it to train fast at rates at which training would diverge if they were held.
    Construct SGD and RMSprop with a momentum other than 0; its value does not matter.

    Args:
        max_learning_rate: The peak of the rate, >= 0.
        base_momentum: The momentum at the peak, in [0, 1).
        max_momentum: The momentum at both ends, in [0, 1).
        momentum_correction: As in `HyperparameterScheduler`.
        optimizers: As in `HyperparameterScheduler`.
        steps_per_epoch: As in `HyperparameterScheduler`.
        updates_per_batch: As in `HyperparameterScheduler`.
        log: As in `HyperparameterScheduler`.
        **one_cycle_arguments: The other arguments of `keras_lrs.schedules.OneCycle`:
            `total_steps` (the whole run), `warmup_fraction`, `div_factor`,
            `final_div_factor`, `shape`, `three_phase`.

    Raises:
        ValueError: If an argument is out of range. Before the first step: if the
            optimizer has neither momentum nor `beta_1`.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.callbacks import OneCycleScheduler
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        >>> scheduler = OneCycleScheduler(0.1, warmup_fraction=0.5)
        >>> x = np.ones((80, 1), "float32")
        >>> history = model.fit(x, x, batch_size=8, verbose=0, callbacks=[scheduler])
        >>> scheduler.bound["momentum"].curve(10).round(3).tolist()
        [0.95, 0.94, 0.915, 0.885, 0.86, 0.85, 0.86, 0.885, 0.915, 0.94]

    Reference: Smith and Topin, "Super-Convergence: Very Fast Training of Neural
    Networks Using Large Learning Rates", 2017, arXiv:1708.07120. Smith, "A disciplined
    approach to neural network hyper-parameters", 2018, arXiv:1803.09820.
    """

    def __init__(
        self,
        max_learning_rate: float,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        *,
        momentum_correction: bool = False,
        optimizers: chosen.Optimizers = None,
        steps_per_epoch: int | None = None,
        updates_per_batch: float | None = None,
        log: bool | str = True,
        **one_cycle_arguments: Any,
    ):
        rate = OneCycle(max_learning_rate, **one_cycle_arguments)
        self.mirrored = MirroredOneCycle(rate, base_momentum, max_momentum)
        super().__init__(
            learning_rate=rate,
            momentum_correction=momentum_correction,
            optimizers=optimizers,
            steps_per_epoch=steps_per_epoch,
            updates_per_batch=updates_per_batch,
            log=log,
        )

    def prepare(self, run: Run) -> list[Wanted]:
        """Drives the momentum as well, under the name that the optimizer has for it."""
        found = super().prepare(run)
        for optimizer in run.chosen(self).values():
            name = _momentum_of(optimizer)
            found.append(hyperparameters.wanted(optimizer, name, self.mirrored))
        return found

    def replaces(self, optimizer: Any) -> set[str]:
        """Returns the names of the rate and the momentum."""
        return {*super().replaces(optimizer), _momentum_of(optimizer)}


def _momentum_of(optimizer):
    return "beta_1" if "beta_1" in hyperparameters.names(optimizer) else "momentum"
