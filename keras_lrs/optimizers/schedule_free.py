"""`ScheduleFree`: an optimizer with an average instead of a schedule."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import in_step, interrupts, optimizers
from keras_lrs._keras.known import KnownNumbers
from keras_lrs._keras.variables import copies, number
from keras_lrs.averages.schedules import Average
from keras_lrs.optimizers.arguments import (
    Arguments,
    check_optimizer,
    check_weights,
    warn_of_validation,
)
from keras_lrs.optimizers.wrapper import Wrapper
from keras_lrs.schedules import fields, numerics


@keras.saving.register_keras_serializable(package="keras_lrs")
class ScheduleFree(Wrapper):
    """Wraps any optimizer and averages its weights, so that it needs no schedule.

    `y = (1 - beta) z + beta x`, `z <- z - rate * step(gradient at y)`,
    `x <- (1 - c) x + c z`

    Use it if you do not know, or do not want to fix, when training ends. The average
    `x` is meant to be as good at any time as if a schedule had decayed the rate to 0 by
    then. Search for its rate; the authors recommend a larger one than that of a
    schedule (10 to 50 times for SGD, 1 to 10 times for AdamW). Give it a warmup.

    During training, the model's weights are `y`. Evaluate, predict and save at `x`:
    `use_average()` puts it into the model, `use_training_weights()` puts `y` back, and
    `with optimizer.averaged():` does both. Statistics of batch normalization are those
    of `y`; after `use_average()` call `averages.recalibrate_batch_norm`. A `fit` that
    validates needs `callbacks.AveragedEvaluation`.

    The inner optimizer is used as it is: its rate, a float or a schedule, its clipping
    and gradient accumulation. Its weight decay applies to `y`, at the rate used. A
    constraint holds for `z`, and therefore for `x` if it is convex. Schedules of
    `callbacks` drive the hyperparameters of the inner optimizer.

    Args:
        optimizer: A new Keras optimizer without a momentum of its own, such as `SGD()`
            or `AdamW(beta_1=0.0)`.
        beta: The share of the average in the point at which gradients are computed, in
            [0, 1). It does the work of a momentum; 0.95 to 0.98 suit long runs. With 0,
            `x` is the Polyak average of the inner optimizer's weights.
        weight_power: The weight of a step in the average is the largest rate so far to
            this power, >= 0, so steps of a warmup count less. Not used with `average`.
        step_power: Step `k`, from 0, also has the weight `(k + 1) ** step_power`, >= 0.
            Not used with `average`.
        warmup_steps: The number of updates over which the rate rises linearly: it is
            multiplied by `(k + 1) / warmup_steps`. With gradient accumulation, an
            update is several micro-batches.
        average: Another average of `keras_lrs.averages`, such as
            `ExponentialAverage(0.9999)`. None is the weighted mean of all `z`.
        name: The optimizer's name.

    Raises:
        ValueError: If an argument is out of range, or the optimizer has a momentum or
            `use_ema`, is itself a wrapper, or is in use.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import keras, numpy as np
        >>> from keras_lrs.optimizers import ScheduleFree
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> optimizer = ScheduleFree(keras.optimizers.SGD(0.5), warmup_steps=5)
        >>> model.compile(optimizer, "mse")
        >>> x = np.linspace(-1, 1, 20)[:, None].astype("float32")
        >>> history = model.fit(x, 3 * x, 4, epochs=20, shuffle=False, verbose=0)
        >>> with optimizer.averaged():
        ...     print(round(model.evaluate(x, 3 * x, verbose=0), 2))
        0.0

    Reference: Defazio et al., "The Road Less Scheduled", 2024, arXiv:2405.15682,
    equations 1 to 3, and their package `schedulefree`.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        beta: float = 0.9,
        weight_power: float = 2.0,
        step_power: float = 0.0,
        warmup_steps: int = 0,
        average: Average | None = None,
        name: str | None = None,
    ):
        arguments = Arguments(beta, weight_power, step_power, warmup_steps, average)
        check_optimizer(optimizer)
        if name is not None and not isinstance(name, str):
            fields.refuse("name", "be a string or None", name, TypeError)
        # The wrapper's own rate is the one last used, including the warmup.
        super().__init__(optimizer, learning_rate=0.0, name=name)
        self.arguments = arguments
        self._known = KnownNumbers()
        self._hold(None)
        self._note_untrained(())
        optimizers.take_over(optimizer, self._update, self._decay, self._known)

    @property
    def learning_rate(self) -> Any:
        """The rate of the inner optimizer, without the warmup."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    # --- The step ---

    def build(self, variables: list) -> None:
        """Creates the variables for `z` and for its weight in the average."""
        if self.built:
            return
        warn_of_validation()
        check_weights(variables)
        super().build(variables)
        # In this order: whether the model holds x; the sum of weights divided by the
        # latest; the part of it that the float cannot hold; the largest rate.
        self._shows_x = self._add_number("shows_average")
        self._sum = self._add_number("weight_sum")
        self._sum_rest = self._add_number("weight_sum_rest")
        self._largest_rate = self._add_number("largest_learning_rate")
        self._z = self.add_optimizer_variables(variables, "z")
        # If beta > 0, x follows from y and z.
        keeps_x = self.arguments.beta == 0.0
        self._x = self.add_optimizer_variables(variables, "x") if keeps_x else []
        for z, variable in zip(self._z, variables, strict=True):
            z.constraint = getattr(variable, "constraint", None)
        self.inner_optimizer.build(self._z)
        self._note_untrained(range(len(variables)))

    def finalize_variable_values(self, var_list: list) -> None:
        """Ends a `fit`, as Keras's optimizers do."""
        warn_of_validation()
        super().finalize_variable_values(var_list)

    def _add_number(self, name):
        own = {"dtype": numerics.float_dtype(), "aggregation": "only_first_replica"}
        return self.add_variable((), name=name, **own)

    @in_step.uncompiled
    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Updates variables, which hold y, with gradients at y."""
        if len(grads) == 0:
            return
        trainable_variables = list(trainable_variables or self._trainable_variables)
        self.build(trainable_variables)
        # When data ends, TensorFlow still runs operations that do not depend on it.
        with in_step.undivided(), in_step.after_batch(grads):
            self._apply(grads, trainable_variables)

    def _apply(self, grads, variables):
        inner = self.inner_optimizer
        count = self._known.iterations(inner)
        # Not in `build`: a model may get other weights before it is trained.
        for slots in (self._z, self._x):
            sources = self._trainable_variables[: len(slots)]
            in_step.copy(slots, sources, count == 0)

        at = [optimizers.position(self, variable) for variable in variables]
        z = [self._z[i] for i in at]
        before = in_step.values_of(z)
        inner.apply(grads, z)
        self._known.note_iterations(inner, count + 1)

        moved = [i for i, gradient in enumerate(grads) if gradient is not None]
        self._note_untrained(self._untrained - {at[i] for i in moved})
        y, z, before = ([some[i] for i in moved] for some in (variables, z, before))
        c = self._weigh(count)
        beta = self.arguments.beta
        if beta == 0.0:
            x = [self._x[at[i]] for i in moved]
            in_step.move(x, (c, z, x))
            in_step.copy(y, z)
        else:
            # If the model was left at x: how far y is, on the way to z.
            back = (1.0 - beta) * self._known.value_of(self._shows_x)
            in_step.move(
                y,
                (back + c * (1.0 - back), before, y),
                (1.0 - beta * (1.0 - c), z, before),
            )
        self._known.assign(self._shows_x, 0.0)

    def _decay(self, z):
        """Decays z by y, instead of the inner optimizer."""
        inner = self.inner_optimizer
        if inner.weight_decay:
            used = self._known.value_of(inner.learning_rate) * self._warmup()
            at = [optimizers.position(inner, one) for one in z]
            pairs = [
                (one, self._trainable_variables[i])
                for one, i in zip(z, at, strict=True)
            ]
            pairs = [(one, y) for one, y in pairs if optimizers.decays(inner, y)]
            z, y = ([pair[i] for pair in pairs] for i in range(2))
            in_step.move(z, (-(inner.weight_decay * used), y, 0.0))

    def _update(self, grads, z, rate):
        """Updates z, instead of the inner optimizer."""
        used = self._known.value_of(self.inner_optimizer.learning_rate)
        warmup = self._warmup()
        self._known.assign(self._learning_rate, used * warmup)
        rate = in_step.times(rate, warmup)
        optimizers.update(self.inner_optimizer, grads, z, rate)

    def _warmup(self):
        """Returns the warmup's factor on the rate."""
        steps = self.arguments.warmup_steps
        k, _ = self._place(self._known.iterations(self.inner_optimizer))
        return numerics.ratio(numerics.minimum(k + 1, steps), steps) if steps else 1.0

    def _place(self, count):
        """Returns the number of past updates, and whether this micro-batch updates."""
        every = optimizers.accumulated(self.inner_optimizer)
        return (
            (count // every, (count + 1) % every == 0) if every > 1 else (count, True)
        )

    def _weigh(self, count):
        """Returns the share c of the new z in the average; 0 if nothing was updated."""
        k, updates = self._place(count)
        average, power = self.arguments.average, self.arguments.weight_power
        if average is not None:
            return numerics.where(updates, average.weight(k), 0.0)
        # The weights are w = (k + 1)**step_power * largest_rate**weight_power, and c is
        # the latest over their sum S. The variable holds S / w, which neither overflows
        # nor vanishes. With equal weights it is the number of steps.
        rate = self._known.value_of(self._learning_rate)
        before = self._known.value_of(self._largest_rate)
        largest = numerics.where(updates, numerics.maximum(before, rate), before)
        self._known.assign(self._largest_rate, largest)
        log_ratio: Any = 0.0  # Of the previous weight to this one.
        counts = updates
        if power > 0.0:
            positive = largest > 0.0
            counts = positive & updates
            some = numerics.where(positive, largest, 1.0)
            log_ratio += power * numerics.log1p((before - largest) / some)
        if self.arguments.step_power > 0.0:
            log_ratio += self.arguments.step_power * numerics.log1p(
                -1.0 / (numerics.to_float(k) + 1.0)
            )
        total = self._known.value_of(self._sum)
        gain = 1.0 + total * numerics.expm1(log_ratio)
        # Compensated: a float32 cannot count past 2**24.
        gain = numerics.where(counts, gain, 0.0) + self._known.value_of(self._sum_rest)
        self._known.assign(self._sum, total + gain)
        new = self._known.value_of(self._sum)
        self._known.assign(self._sum_rest, gain - (new - total))
        return numerics.where(counts, 1.0 / numerics.maximum(new, 1.0), 0.0)

    # --- What the model holds ---

    @property
    def uses_average(self) -> bool:
        """Whether the model holds the average."""
        return self.built and number(self._shows_x) > 0.0

    def use_average(self) -> None:
        """Puts the average x into the model, for evaluation, prediction and saving.

        Does nothing if it is there already. Call it between training steps.
        """
        if not self.built or self.uses_average:
            return
        x = y = copies(self._trainable_variables)
        if self._is_trained:
            beta = self.arguments.beta
            if beta == 0.0:
                x = copies(self._x)
            else:
                z = copies(self._z)
                x = [
                    y + (1.0 / beta - 1.0) * (y - z) for y, z in zip(y, z, strict=True)
                ]
            x = self._where_trained(x, y)
        # JAX may donate the model's new values in its next step, so copy the old ones.
        self._change(x, 1.0, held=copies(self._trainable_variables))

    def use_training_weights(self) -> None:
        """Puts y back into the model, to continue training.

        y comes back bit for bit, even from a file. Does nothing if it is there already.
        A training step at x would compute its gradient there, and continue from y.
        """
        if not self.uses_average:
            self._hold(None)
            return
        y = self._held
        if y is None and self._is_trained:
            # The file held only the optimizer's variables.
            beta = self.arguments.beta
            x = copies(self._trainable_variables)
            z = copies(self._z)
            y = [x + (1.0 - beta) * (z - x) for x, z in zip(x, z, strict=True)]
            y = self._where_trained(y, copies(self._trainable_variables))
        self._change(y, 0.0, held=None)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the average into the model for a `with` block."""
        with interrupts.undoing() as undo:
            if not self.uses_average:
                undo.callback(self.use_training_weights)
            self.use_average()
            yield

    @property
    def _is_trained(self):
        # Before training, x and y are the model's weights, and z is not set yet.
        return optimizers.iterations(self.inner_optimizer) > 0

    def _change(self, values, shows_x, held):
        """Gives the model weights, unless None, and notes which they are."""

        def change():
            self._hold(held)
            if values is not None:
                for one, value in zip(self._trainable_variables, values, strict=True):
                    one.assign(value)
            self._shows_x.assign(shows_x)

        interrupts.finish(change)

    def _hold(self, values):
        """Keeps y while the model holds x."""
        # Bypasses Keras's tracking: TensorFlow cannot write checkpoints with tensors.
        self.__dict__["_held"] = values

    def _where_trained(self, values, others):
        """Returns the values of the variables that it trains, and others for the rest.

        The z of a variable that another optimizer trains is out of date.
        """
        left = self._untrained
        if len(left) == len(values):  # A stateless loop has set the variables.
            return values
        pairs = enumerate(zip(values, others, strict=True))
        return [other if i in left else value for i, (value, other) in pairs]

    def _note_untrained(self, indices):
        """Notes which variables have received no gradient."""
        self.__dict__["_untrained"] = set(indices)

    # --- Files ---

    def save_own_variables(self, store: Any) -> None:
        """Writes its state, and y while the model holds x."""
        super().save_own_variables(store)
        if self.uses_average and self._held is not None:
            for i, value in enumerate(self._held):
                store[f"y{i}"] = keras.ops.convert_to_numpy(value)
        if self._untrained and self._is_trained:
            store["untrained"] = np.array(sorted(self._untrained))

    def load_own_variables(self, store: Any) -> None:
        """Reads its state if the file has as many variables."""
        if not self._load_own(store):
            return
        held = None
        names = list(store.keys())
        untrained = store["untrained"][...].tolist() if "untrained" in names else ()
        self._note_untrained(untrained)
        if "y0" in names:
            held = [
                keras.ops.convert_to_tensor(store[f"y{i}"][...], dtype=variable.dtype)
                for i, variable in enumerate(self._trainable_variables)
            ]
        self._hold(held)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, as JSON."""
        return {
            "optimizer": optimizers.portable_config(self.inner_optimizer),
            **self.arguments.get_config(),
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "ScheduleFree":
        """Makes the optimizer whose `get_config` returned `config`."""
        config = copy.deepcopy(config)  # Keras's optimizers change their configs.
        for name in ("optimizer", "average"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects
                )
        return cls(**config)
