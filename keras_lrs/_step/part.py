"""`StepPart`: one thing that happens in every update, and how it is asked for."""

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

    1. `values`: each part says what it sets or by what it multiplies the rate.
    2. `before`: all values are known, and the variables are those before the update.
    3. `update_step`: wraps Keras's own update.
    4. `after`: the variables are those after the update.

    On TensorFlow and JAX the methods run while the step is traced: what they compute is
    compiled with it. A part lives as long as that step, which several fits may share.
    It keeps nothing of an update on itself, since the replicas of a TensorFlow strategy
    are in the step at the same time.

    Args:
        step: The step that the part belongs to. It has the `optimizer`, the `model`,
            the `weights` that the optimizer trains, and `accumulated`, the number of
            micro-batches in an update.
        *compiled: What the compiled step depends on, from `Wanted.compiled`.

    Example:
        A factor on any learning rate, whatever else drives it.

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
    """Whether the part, and not Keras, finalizes the averages of `use_ema`."""
    follows_step = False
    """Whether `step_ends` is to be called, which is on JAX only."""

    def __init__(self, step: Any, *compiled: Any):
        self.step = step
        self.variables: list = []
        """Variables of the part (`StepVariable`) that the step reads or writes."""

    # --- Before there is a step ---

    @staticmethod
    def check(callback: Any, wanted: "Wanted", beside: list["Wanted"]) -> None:
        """Raises `ValueError`, when training begins, if the part cannot be had.

        `beside` is what else is wanted of the optimizer so far.
        """

    @staticmethod
    def bind(run: Any, *compiled: Any) -> tuple:
        """The arguments with their schedules bound to the run, by `run.bind`."""
        return compiled

    @staticmethod
    def key(*compiled: Any) -> Any:
        """A value that is equal where one compiled step serves both."""
        kind = keras.optimizers.schedules.LearningRateSchedule
        return tuple(
            identity(given) if isinstance(given, kind) else given for given in compiled
        )

    @staticmethod
    def covers(*compiled: Any) -> tuple[str, ...]:
        """The attributes of the optimizer in whose place the part puts values."""
        return ()

    # --- When a fit begins and ends ---

    def begin(self, *unused: Any, **given: Any) -> None:
        """A fit begins, perhaps with a step that exists: `Wanted.begins` is given."""

    def end(self) -> None:
        """The fit ends."""

    def rebind(self, last: int, *compiled: Any) -> bool:
        """Takes arguments with other lengths, after a first update with the old ones.

        `last` is the step of that update. Returns whether it would have been the same.
        """
        return False

    # --- In every update ---

    def values(self, update: Update | PastUpdates) -> None:
        """Phase 1: sets `update.values[name]`, or appends to `update.factors`.

        It is also called for updates of the past, whose values a logger asks for.
        """

    def used(self, update: PastUpdates) -> dict[str, Any]:
        """Values of past updates, beside `update.values`, under a logger's names."""
        return {}

    def before(self, update: Update) -> Any:
        """Phase 2: may `update.put` values; what it returns is handed to `after`."""

    def update_step(self, update: Update, call: Callable) -> Callable:
        """Phase 3: returns `call(gradients, variables, rate)`, wrapped or as it is."""
        return call

    def after(self, update: Update, kept: Any) -> None:
        """Phase 4: acts on the new variables; `kept` is what `before` returned."""

    def step_ends(self, before: Any) -> None:
        """After the whole `train_step` on JAX, where `after` sees no statistics.

        `before` is how often `apply` had been called before the step. If it was not
        called, because the loss scale was too large, the count is the same now.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """A part that a callback wants in the step of an optimizer.

    Args:
        optimizer: The optimizer, one of `run.optimizers`.
        kind: The class of the part.
        compiled: The arguments of the part that the compiled step depends on; or a
            function that returns them, given the optimizer's bound schedules by name.
        begins: The arguments of `StepPart.begin`, or a function that returns them.
            They are no part of the compiled step, so that other values need no other
            compilation.
        slot: What the optimizer has one of: the name of a hyperparameter, or any other
            value. Two callbacks that want the same slot are refused. None is no slot.

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
