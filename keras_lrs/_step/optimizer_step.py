"""The optimizer's step: Keras's own, with parts around it.

The optimizer's `apply` is replaced only while a train function runs. The replacement
runs the parts' phases around the original, puts values where the optimizer looks for
its hyperparameters, and restores the floats. On TensorFlow and JAX this happens while
the step is traced. Between steps the optimizer is as the user made it.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_lrs._keras import anywhere, in_step, interrupts, optimizers
from keras_lrs._keras.backend import IS_JAX, IS_TORCH
from keras_lrs._keras.known import KnownNumbers
from keras_lrs._keras.variables import StepNumber, StepVariable, number
from keras_lrs._step.part import StepPart
from keras_lrs._step.update import PastUpdates, Update, scaled
from keras_lrs.schedules.identity import identity

_UPDATE_STEP = "_backend_update_step"


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedPart:
    """A part whose dependencies are all known.

    Args:
        kind: The class of the part.
        compiled: Its arguments, with schedules bound.
        begins: The arguments of its `begin`.
        callback: The callback that wants it; None for a part that completes others.
    """

    kind: type[StepPart]
    compiled: tuple
    begins: dict[str, Any]
    callback: Any = None

    @property
    def key(self) -> tuple:
        """Equal for parts that one compiled step can serve."""
        return self.kind, self.kind.key(*self.compiled)


@dataclasses.dataclass(frozen=True, eq=False)
class StepPlan:
    """The plan of an optimizer's step for one fit.

    Args:
        optimizer: An optimizer that updates variables.
        parts: The parts of its step.
        start: The optimizer's iteration at which the schedules are at their step 0. It
            is negative if a run resumes without the optimizer's count.
    """

    optimizer: Any
    parts: tuple[PlannedPart, ...]
    start: int

    @property
    def originals(self) -> dict[str, Any]:
        """The optimizer's own attributes that the step replaces."""
        names = {"_learning_rate", _UPDATE_STEP}
        names.update(*(part.kind.covers(*part.compiled) for part in self.parts))
        attributes = vars(self.optimizer)
        return {name: attributes[name] for name in names if name in attributes}

    @property
    def key(self) -> tuple:
        """Equal for plans that one compiled step can serve."""
        parts = tuple(part.key for part in self.parts)
        originals = {**self.originals}
        # The step restores the object that it found, and a schedule may have been
        # altered.
        rate = originals.pop("_learning_rate")
        own = None if isinstance(rate, keras.Variable) else identity(rate)
        return id(self.optimizer), parts, id(rate), own, frozenset(originals.items())


class OptimizerStep:
    """The step of one optimizer, with its parts.

    Attributes:
        model: The model that the optimizer trains.
        optimizer: The optimizer.
        start: The optimizer's iteration at which the schedules are at their step 0.
        iterations: On PyTorch, where the host counts, how often `apply` was called.
        parts: The parts, in the order of the plan.
        used: Whether `apply` has been called.
        overridden: The names of attributes that an update currently replaces.
        installs_itself: Whether the compiled function installs it when it is traced;
            not on TensorFlow's replicas, whose threads take turns.
    """

    def __init__(self, model: Any, plan: StepPlan):
        self.model, self.optimizer = model, plan.optimizer
        self.accumulated = optimizers.accumulated(plan.optimizer)
        self.start = StepNumber(model, plan.start, "int")
        self.iterations = 0
        self.used = self.installs_itself = False
        self._known = optimizers.known_numbers(self.optimizer) or KnownNumbers()
        self._count: Any = None  # Counts the calls in a custom loop.
        self.originals = plan.originals
        self.overridden: set[str] = set()
        self._covered: dict[str, Any] = {}
        self._apply = self.optimizer.apply
        self._update_step = self.optimizer._backend_update_step
        # Schedules run in Python, which PyTorch's compiler must not trace.
        self._replacement = in_step.uncompiled(self.apply)
        self.parts = [planned.kind(self, *planned.compiled) for planned in plan.parts]

    @property
    def weights(self) -> list:
        """The weights that a built optimizer trains."""
        return optimizers.weights(self.optimizer)

    @property
    def next_step(self) -> Any:
        """The step of the schedules in the next update, even in a trace."""
        # PyTorch counts on the host, because reading a variable waits for the GPU.
        count = self.iterations if IS_TORCH else in_step.iterations(self.optimizer)
        return count - self.start.value

    @property
    def step_variables(self) -> list[StepVariable]:
        """The variables that JAX's step needs besides the optimizer's own.

        A variable that is not in the optimizer's list would be a constant of the step.
        """
        if not IS_JAX:
            return []
        return [self.start, *(v for part in self.parts for v in part.variables)]

    def begin(self, plan: StepPlan) -> None:
        """Begins a fit with an equal plan."""
        self.start.write(plan.start)
        for part, planned in zip(self.parts, plan.parts, strict=True):
            part.begin(**planned.begins)

    def end(self) -> None:
        """Ends the fit."""
        for part in self.parts:
            part.end()

    def apply_anywhere(self, grads: Any, trainable_variables: Any = None) -> None:
        """Runs `apply` in loops where the optimizer's count may change unnoticed."""
        if IS_TORCH:
            self.iterations = self._known.iterations(self.optimizer)
        self.apply(grads, trainable_variables)
        self._known.note_iterations(self.optimizer, self.iterations)

    def install(self) -> None:
        """Replaces the optimizer's `apply`; always call `uninstall` afterwards."""
        attributes = vars(self.optimizer)
        if attributes.get("apply") is not self._replacement:
            found = {"apply": attributes["apply"]} if "apply" in attributes else {}
            self._covered = found
            attributes["apply"] = self._replacement
        for one in self.step_variables:
            self.optimizer._variables.append(one.variable)

    def uninstall(self) -> None:
        """Leaves the optimizer as the user made it; does nothing the second time."""
        ours = {id(one.variable) for one in self.step_variables}
        variables = self.optimizer._variables
        while ours and variables and id(variables[-1]) in ours:
            del variables[-1]
        attributes = vars(self.optimizer)
        put_back(attributes, self.overridden, self.originals)
        if attributes.get("apply") is self._replacement:
            put_back(attributes, ["apply"], self._covered)

    @property
    def is_installed(self) -> bool:
        """Whether the optimizer's `apply` is the one of this step."""
        return vars(self.optimizer).get("apply") is self._replacement

    def install_in_loop(self, undo: interrupts.Undo) -> None:
        """Replaces `apply` until the end, for any loop that calls it."""
        if self._count is None:
            beside = self.optimizer._iterations
            self._count = anywhere.Count(anywhere.new_count(beside))
        attributes = vars(self.optimizer)
        before = {"apply": attributes["apply"]} if "apply" in attributes else {}
        undo.callback(put_back, attributes, ["apply"], before)
        attributes["apply"] = in_step.unconverted(self._apply_in_loop)

    @property
    def applied(self) -> int:
        """How often a custom loop has called this `apply`."""
        return 0 if self._count is None else int(number(self._count.variable))

    def _apply_in_loop(self, grads, trainable_variables=None):
        if anywhere.in_scope() or (IS_JAX and anywhere.is_traced()):
            raise RuntimeError(
                f"`{self.optimizer.name}` has schedules, averages or measurements of "
                "callbacks, which a function that is compiled with `stateless_apply` "
                "would lose. Use `train_on_batch` or `fit`, or objects made for such "
                "loops: `keras_lrs.optimizers.Scheduled` and "
                "`keras_lrs.averages.Averager`."
            )
        for one in self.step_variables:
            one.to_variable()
        self.apply(grads, trainable_variables)
        for one in self.step_variables:
            one.from_variable()
        self._count.raise_by_one()

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Runs `Optimizer.apply` with the parts around it."""
        with in_step.undivided():
            self._apply_with_parts(grads, trainable_variables)

    def _apply_with_parts(self, grads, trainable_variables):
        if not self.optimizer.built:
            self.optimizer.build(list(trainable_variables))
        with in_step.after_batch(grads):
            self._run_phases(grads, trainable_variables)
        if IS_TORCH and len(grads) > 0:  # Counts like Keras.
            self.iterations += 1

    def _run_phases(self, grads, trainable_variables):
        self.used = True
        update = Update(self, grads, trainable_variables)
        for part in self.parts:
            part.values(update)
        update.rate = self._rate(update)
        kept = [part.before(update) for part in self.parts]
        self._set_rate(update)
        call = self._update_step
        for part in self.parts:
            call = part.update_step(update, call)
        if call is not self._update_step:
            update.put(_UPDATE_STEP, call)
        attributes = vars(self.optimizer)
        self.overridden.update(update.overrides)
        attributes.update(update.overrides)
        try:
            self._apply(grads, trainable_variables)
        finally:
            # Not the values found above, because the replicas of a TensorFlow strategy
            # come here one inside the other.
            put_back(attributes, self.overridden, self.originals)
            self.overridden.clear()
        for part, one in zip(self.parts, kept, strict=True):
            part.after(update, one)

    def _rate(self, update):
        """Returns the learning rate if a part sets or multiplies it."""
        rate = update.values.get("learning_rate")
        scales = update.factors or any(part.scales for part in self.parts)
        if rate is None and scales:
            # A schedule of the optimizer's own counts all its iterations.
            own = self.originals["_learning_rate"]
            rate = in_step.evaluate(own, update.iterations)
        return scaled(rate, update.factors)

    @property
    def drives_rate(self) -> bool:
        """Whether a part sets or multiplies the learning rate."""
        return any(
            part.scales or getattr(part, "name", None) == "learning_rate"
            for part in self.parts
        )

    def rate_now(self) -> Any:
        """Returns the rate of the next update, outside of an update or in a trace."""
        update = Update(self, [], [])
        for part in self.parts:
            part.values(update)
        return self._rate(update)

    def _set_rate(self, update):
        own = self.originals["_learning_rate"]
        if update.rate is None:
            return
        if isinstance(own, keras.Variable):
            self._known.assign(own, update.rate)
        else:  # It replaces the optimizer's own schedule.
            update.put("_learning_rate", update.rate)

    def used_values(
        self, iterations: np.ndarray, own_rate: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the values that past updates used, by name.

        Args:
            iterations: The iterations before each of the updates.
            own_rate: The optimizer's own rate at each update.
        """
        past = PastUpdates(self, iterations)
        for part in self.parts:
            part.values(past)
        rate = scaled(past.values.pop("learning_rate", own_rate), past.factors)
        past.rate = rate
        found = {"learning_rate": rate, **past.values}
        for part in self.parts:
            found.update(part.used(past))
        return {
            name: optimizers.capped(self.optimizer, value, iterations)
            if name.partition("/")[0] == "learning_rate"
            else value
            for name, value in found.items()
        }


@contextlib.contextmanager
def installed(steps: Iterable[OptimizerStep]) -> Iterator[None]:
    """Installs steps for a block; steps that were installed before stay so."""
    with contextlib.ExitStack() as stack:
        for step in steps:
            if not step.is_installed:
                stack.callback(step.uninstall)
                step.install()
        yield


def put_back(attributes: dict, names: Iterable[str], originals: dict) -> None:
    """Restores an optimizer's own attributes; removes those that its class provides."""
    for name in names:
        if name in originals:
            attributes[name] = originals[name]
        else:
            attributes.pop(name, None)
