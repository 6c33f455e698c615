"""`StepPart`: one thing that happens in every update, and how to request it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_lrs._step.update import PastUpdates, Update
from keras_lrs.schedules import fields
from keras_lrs.schedules.identity import identity


class StepPart:
    """One thing that happens in every update of an optimizer.

    The step runs its parts in four phases. Within a phase their order does not matter:

    1. `values`: each part sets its values, or adds factors of the rate.
    2. `before`: all values are known, and the variables are those before the update.
    3. `update_step`: wraps Keras's own update.
    4. `after`: the variables are those after the update.

    On TensorFlow and JAX the methods run while the step is traced, and their
    computations are compiled with it. A part lives as long as that step, which several
    fits may share. Do not store anything about an update on the part, because the
    replicas of a TensorFlow strategy run the step at the same time.

    Args:
        step: The step that the part belongs to. It has the `optimizer`, the `model`,
            the `weights` that the optimizer trains, and `accumulated`, the number of
            micro-batches in an update.
        *compiled: The arguments on which the compiled step depends, from
            `Wanted.compiled`.

    Example:
        A factor on any learning rate, whatever else drives it:

        >>> import keras, numpy as np
        >>> from keras_lrs.callbacks import FitCallback, StepPart, Wanted
        >>> from keras_lrs.schedules import LinearDecay
        >>> class Factor(StepPart):
        ...     scales = True
        ...
        ...     def __init__(self, step, schedule):
        ...         super().__init__(step)
        ...         self.schedule = schedule
        ...
        ...     @staticmethod
        ...     def bind(run, schedule):
        ...         return (run.bind("learning_rate", schedule),)
        ...
        ...     def values(self, update):
        ...         update.factors.append(update.evaluate(self.schedule))
        >>> class ScaleRate(FitCallback):
        ...     def __init__(self, schedule):
        ...         super().__init__()
        ...         self.schedule = schedule
        ...
        ...     def prepare(self, run):
        ...         given = (self.schedule,)
        ...         return [Wanted(one, Factor, given) for one in run.optimizers]
        >>> dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        >>> model = keras.Sequential([keras.Input((1,)), dense])
        >>> model.compile(keras.optimizers.SGD(0.5), lambda y, output: -output)
        >>> x = np.ones((4, 1), "float32")
        >>> history = model.fit(
        ...     x, x, 1, verbose=0, callbacks=[ScaleRate(LinearDecay(1.0))]
        ... )
        >>> round(dense.kernel.numpy().item(), 4)  # 0.5 * (1 + 0.75 + 0.5 + 0.25)
        1.25
    """

    scales = False
    """Whether the part multiplies the learning rate (`update.factors`)."""
    finalizes_average = False
    """Whether the part, instead of Keras, finalizes the averages of `use_ema`."""
    follows_step = False
    """Whether to call `step_ends`, which happens only on JAX."""

    def __init__(self, step: Any, *compiled: Any):
        self.step = step
        self.variables: list = []
        """The variables of the part (`StepVariable`) that the step reads or writes."""

    # --- Before there is a step ---

    @staticmethod
    def check(callback: Any, wanted: "Wanted", beside: list["Wanted"]) -> None:
        """Raises `ValueError` when training begins, if the part is not possible.

        `beside` holds the other parts requested for the optimizer so far.
        """

    @staticmethod
    def bind(run: Any, *compiled: Any) -> tuple:
        """Returns the arguments with schedules bound to the run, by `run.bind`."""
        return compiled

    @staticmethod
    def key(*compiled: Any) -> Any:
        """Returns a value that is equal if one compiled step serves both parts."""
        kind = keras.optimizers.schedules.LearningRateSchedule
        return tuple(
            identity(given) if isinstance(given, kind) else given for given in compiled
        )

    @staticmethod
    def covers(*compiled: Any) -> tuple[str, ...]:
        """Returns the attributes of the optimizer that the part replaces."""
        return ()

    # --- When a fit begins and ends ---

    def begin(self, *unused: Any, **given: Any) -> None:
        """Called with `Wanted.begins` when a fit begins, perhaps with an old step."""

    def end(self) -> None:
        """Called when the fit ends."""

    def rebind(self, last: int, *compiled: Any) -> bool:
        """Takes arguments with other lengths, after a first update with the old ones.

        `last` is the step of that update. Returns whether the update would have been
        the same.
        """
        return False

    # --- In every update ---

    def values(self, update: Update | PastUpdates) -> None:
        """Phase 1: sets `update.values[name]`, or appends to `update.factors`.

        It is also called for past updates, when a logger asks for their values.
        """

    def used(self, update: PastUpdates) -> dict[str, Any]:
        """Returns further values of past updates, under a logger's names."""
        return {}

    def before(self, update: Update) -> Any:
        """Phase 2: may `update.put` values; its result is passed to `after`."""

    def update_step(self, update: Update, call: Callable) -> Callable:
        """Phase 3: returns `call(gradients, variables, rate)`, wrapped or unchanged."""
        return call

    def after(self, update: Update, kept: Any) -> None:
        """Phase 4: acts on the new variables; `kept` is what `before` returned."""

    def step_ends(self, before: Any) -> None:
        """Called after the whole `train_step` on JAX, where `after` sees no statistics.

        `before` is the number of calls of `apply` before the step. If the step did not
        call it because the loss scale was too large, the number has not changed.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """A callback's request for a part in the step of an optimizer.

    Args:
        optimizer: The optimizer, one of `run.optimizers`.
        kind: The class of the part.
        compiled: The arguments of the part on which the compiled step depends, or a
            function from the optimizer's bound schedules, by name, to these arguments.
        begins: The arguments of `StepPart.begin`, or a function that returns them. The
            compiled step does not depend on them, so other values need no other
            compilation.
        slot: The name of a hyperparameter or any other value, of which the optimizer
            can have only one. If two callbacks request the same slot, an error is
            raised. None is no slot.

    Raises:
        TypeError: If `kind` is not a subclass of `StepPart`.
    """

    optimizer: Any
    kind: type[StepPart]
    compiled: tuple | Callable[[dict[str, Any]], tuple] = ()
    begins: dict[str, Any] | Callable[[], dict[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    slot: Any = None

    def __post_init__(self) -> None:
        if not (isinstance(self.kind, type) and issubclass(self.kind, StepPart)):
            fields.refuse("kind", "be a subclass of `StepPart`", self.kind, TypeError)
