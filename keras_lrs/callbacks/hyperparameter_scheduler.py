"""`HyperparameterScheduler`: schedules that `fit` binds."""

from typing import Any

from keras_lrs._fit import chosen, epoch_logs, lengths, paces, registry
from keras_lrs._fit.run import Run
from keras_lrs._keras import optimizers
from keras_lrs._step import given, groups
from keras_lrs._step.groups import Groups
from keras_lrs._step.hyperparameters import Hyperparameter
from keras_lrs._step.momentum_correction import MomentumCorrection
from keras_lrs._step.part import Wanted
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.callbacks.descriptions import described
from keras_lrs.schedules import fields
from keras_lrs.schedules.per_variable import PerVariable
from keras_lrs.schedules.sparkline import markup_of


class HyperparameterScheduler(FitCallback):
    """Drives hyperparameters of the optimizer by schedules, in the training step.

    When the first epoch begins, every schedule is bound to this `fit`. Its `Epochs` are
    epochs of the data, its `Fraction`s are fractions of `epochs` times the steps per
    epoch, and None means the rest of the run. The schedule ends when the run ends. In a
    second `fit` it starts over. With `initial_epoch`, or after `BackupAndRestore`, it
    resumes.

    Each schedule is evaluated once per step. Steps are what the optimizer counts:
    batches, or micro-batches under gradient accumulation. Steps that a
    `LossScaleOptimizer` skips are not counted.

    During `fit`, `optimizer.learning_rate` shows the rate that was last used.
    Afterwards the optimizer is as it was before, however `fit` ended. Files saved
    during `fit` hold an ordinary optimizer, whose rate is the one last used.

    With `beta_1` or `beta_2` of Adam, AdamW or Adamax, the bias correction uses the
    product of the betas used so far, including earlier fits of this process. Keras uses
    a power of the current beta instead, and does so again in a later `fit` without the
    schedule.

    Schedules can be ours, Keras's or your own. For a `MultiOptimizer`, give one
    schedule for all optimizers, or a dictionary from the names of optimizers to
    schedules. The same applies to a model, such as a GAN, that is compiled with
    `optimizer=None` and holds several optimizers. Their names are then those of the
    model's attributes. On JAX such a model raises an error, because there Keras's `fit`
    trains with `model.optimizer` only.

    Groups of variables can have their own rates in two ways: `rate_multipliers` keeps
    one main schedule (for layer-wise decay, discriminative rates or gradual
    unfreezing), and a `PerVariable` gives each group a schedule of its own. Decoupled
    weight decay is multiplied by the rate of the group. Variables whose rate is 0 from
    the first step on keep their values bit for bit, because weight decay does not
    change them either (with Keras's `ScheduleFreeAdamW`, which recomputes them in every
    step, up to rounding). A rate of 0 does less than `trainable=False`: gradients are
    still computed, and averages of gradients, such as Adam's, and the statistics of
    batch normalization are still updated. A velocity that SGD or RMSprop has built up
    keeps moving a variable after its rate drops to 0.

    Args:
        learning_rate: The schedule of the learning rate, or a `PerVariable`. A number
            is a constant schedule, and None leaves the rate unscheduled.
        rate_multipliers: The factors by which the rates of groups of variables are
            multiplied: a dictionary from patterns to numbers >= 0 or schedules, as in
            `PerVariable`; see `keras_lrs.layerwise_decay`. The rate may be the
            optimizer's own. The rates of all other variables are not multiplied.
        momentum_correction: Whether to multiply SGD's velocity by the ratio of
            successive rates. Keras keeps the rate inside the velocity, so that after a
            drop the old step size persists for about `1 / (1 - momentum)` steps. This
            needs `learning_rate`, and multipliers must be numbers.
        optimizers: The optimizers to act in: a name (of an optimizer, or of the model's
            attribute that holds it), an optimizer, or a list of these. None means all.
        steps_per_epoch: The number of batches in an epoch, for data whose length is
            unknown, such as a `tf.data.Dataset` after `filter`. The data is still read
            to its end, and the run stops if its first epoch has a different number.
        updates_per_batch: How many updates the optimizers make per batch, > 0: 5 for a
            critic that is trained five times, 0.25 for a custom `train_step` that
            accumulates gradients over 4 batches. Lengths in epochs, fractions and "the
            rest" of the run count updates. None means one update per batch or, if the
            first update takes several batches, one per that many. If the number turns
            out to be different, an error is raised after the first epoch.
        log: Whether to add the values of all hyperparameters that are scheduled here to
            the logs of each epoch: the values that the last update used, under the keys
            of `HyperparameterLogger`. `History`, the progress bar, `CSVLogger` and
            other callbacks see them, wherever they are in the list. With `"batch"` the
            logs of each batch have them as well, so that the progress bar shows the
            values of the last update. Reading them waits for the device in each batch
            (with `steps_per_execution`, in each execution).
        **schedules: The schedules, or numbers, of other hyperparameters: `momentum`,
            `beta_1`, `weight_decay`, `clipnorm` or any other number that is an argument
            of the optimizer. `weight_decay`, `momentum`, `rho` and `epsilon` may also
            be a `PerVariable`.

    Raises:
        TypeError: If an argument that must be a schedule is not one.
        ValueError: If there is no schedule. Before the first step: if the optimizer has
            no such hyperparameter, does not use it or already has a schedule for it, if
            a schedule leaves the hyperparameter's range, if the number of steps is
            needed and not known, if another callback sets the same hyperparameter, if a
            pattern applies to no variable, or if groups cannot have a value of their
            own. This is so for clipping, `ema_momentum` and the betas of Adam and
            Adamax, and for absolute rates with `ScheduleFree`.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs import Epochs
        >>> from keras_lrs.callbacks import HyperparameterScheduler
        >>> from keras_lrs.schedules import CosineAnnealing, LinearDecay, Warmup
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        >>> scheduler = HyperparameterScheduler(
        ...     learning_rate=Warmup(CosineAnnealing(0.1), Epochs(1)),
        ...     momentum=LinearDecay(0.95, end_learning_rate=0.85),
        ... )
        >>> x = np.ones((32, 1), "float32")
        >>> history = model.fit(
        ...     x, x, batch_size=8, epochs=5, verbose=0, callbacks=[scheduler]
        ... )
        >>> scheduler.bound["learning_rate"].schedule.decay_steps
        16

        Half of the rate for one layer, and no weight decay for biases:

        >>> from keras_lrs import PerVariable
        >>> scheduler = HyperparameterScheduler(
        ...     learning_rate=CosineAnnealing(0.1),
        ...     rate_multipliers={"(^|/)backbone/": 0.5},
        ...     weight_decay=PerVariable({"bias$": 0.0}),
        ... )

    Reference: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1
    Hour", 2017, arXiv:1706.02677, section 3 (momentum correction). Kingma and Ba,
    "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980, section 3.
    """

    described = True

    def __init__(
        self,
        learning_rate: given.Values | None = None,
        *,
        rate_multipliers: given.Multipliers | None = None,
        momentum_correction: bool = False,
        optimizers: chosen.Optimizers = None,
        steps_per_epoch: int | None = None,
        updates_per_batch: float | None = None,
        log: bool | str = True,
        **schedules: given.Values,
    ):
        super().__init__()
        self.steps_per_epoch = lengths.check(steps_per_epoch)
        self.optimizers = chosen.check(optimizers)
        self.updates_per_batch = paces.check(updates_per_batch)
        self.log = epoch_logs.check(log)
        fields.truth("momentum_correction", momentum_correction)
        if momentum_correction and learning_rate is None:
            raise ValueError(
                "Argument `momentum_correction` needs a schedule of `learning_rate`. "
                "Received: momentum_correction=True"
            )
        self.momentum_correction = momentum_correction
        self.schedules = given.checked(learning_rate, rate_multipliers, schedules)

    @property
    def bound(self) -> dict[str, Any]:
        """The schedules as the last `fit` bound them, by the names of their arguments.

        If the callback acts in several optimizers, each value is a dictionary from
        their names to schedules.
        """
        if self.run is None:
            return {}
        found: dict[str, Any] = {}
        every = self.run.chosen(self)
        for label, optimizer in every.items():
            parts = [p for p in self.run.parts(self) if p.step.optimizer is optimizer]
            values = {
                p.name: p.schedule for p in parts if isinstance(p, Hyperparameter)
            }
            for part in parts:
                if isinstance(part, Groups):
                    values[part.name] = part.per_variable(values.get(part.name))
            for name, value in values.items():
                if len(every) > 1:
                    found.setdefault(name, {})[label] = value
                else:
                    found[name] = value
        return found

    def replaces(self, optimizer: Any) -> set[str]:
        """Returns the names of what has a schedule."""
        return set(self.schedules)

    def describe(self) -> dict[str, str | int | float]:
        """Describes the schedules, for MLflow, W&B or TensorBoard's hparams.

        `fit` gives it to an active run of MLflow, to W&B's run, and to TensorBoard's
        callback, with `keras_lrs/` before every key. For other tools, call it after
        `fit`, or in a callback after the first epoch. Then all lengths are steps of the
        run. Before that, they are as given.

        Returns:
            A flat dictionary: the class of each schedule under the name of its
            argument, its own arguments under `<name>.<argument>`, the largest value in
            the run as `<name>.peak`, and `run.epochs`, `run.steps_per_epoch` and
            `run.steps`. Optimizers are named as in the logs, and groups of variables
            are numbered. Entries that are None or not known are left out.
        """
        bound = self.bound
        run: Any = self.run if bound else None
        found = {} if run is None else run.chosen(self)
        return described(bound or self.schedules, run, found)

    def _repr_html_(self) -> str:
        """The schedules and their curves, as the last `fit` bound them."""
        return markup_of(type(self).__name__, self.bound or self.schedules)

    def prepare(self, run: Run) -> list[Wanted]:
        """Says which hyperparameter of which optimizer each schedule drives."""
        found = []
        for name, schedules in self.schedules.items():
            assigned = _assigned(name, schedules, run.chosen(self))
            for each in _grouped(assigned):
                registry.build_chosen(self, run)
                of = [one for one, value in assigned if value is each]
                paths = [path for one in of for path in optimizers.trained_paths(one)]
                weights = run.model.weights
                frozen = [one.path for one in weights if not one.trainable]
                each.check_paths(name, paths, frozen)
                if name == groups.DECAY:
                    given.check_decay(each, of)
            for optimizer, value in assigned:
                found += groups.wanted(optimizer, name, value)
        if self.momentum_correction:
            found += [
                Wanted(one.optimizer, MomentumCorrection, slot=groups.CORRECTION)
                for one in found
                if one.slot == "learning_rate"
            ]
        return found


def _grouped(assigned):
    """Returns the values that differ between variables, each once."""
    found = {id(value): value for _, value in assigned}.values()
    return [value for value in found if isinstance(value, PerVariable)]


def _assigned(name, given, by_name):
    """Pairs of an optimizer and its schedule."""
    if not isinstance(given, dict):
        return [(optimizer, given) for optimizer in by_name.values()]
    unknown = [key for key in given if key not in by_name]
    if unknown or not given:
        raise ValueError(
            f"Argument `{name}` must map names of optimizers to schedules. The "
            f"optimizers are: {', '.join(by_name)}. For groups of variables use "
            f"`PerVariable`. Received: {name}={given!r}"
        )
    return [(by_name[key], schedule) for key, schedule in given.items()]
