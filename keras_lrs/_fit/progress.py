"""`Progress`: the position of a run, with one word for each way of counting."""

import dataclasses
import fractions
from collections.abc import Callable
from typing import Any

from keras_lrs._fit import lengths
from keras_lrs._fit.paces import Paces, Ratio, Trained, note, trained
from keras_lrs._keras import fit_loop, models, optimizers
from keras_lrs.schedules import durations


@dataclasses.dataclass
class Resume:
    """The position at which an interrupted run resumes.

    Args:
        set_states: Restores the states of our callbacks.
        starts: The iterations at which the optimizers' schedules are at step 0; None if
            the epoch determines them.
    """

    set_states: Callable[[], None]
    starts: list[int] | None


class Progress:
    """The position of a run of `fit`.

    Three numbers count an optimizer's work:

    - `iterations`: all calls of its `apply` since it was created, including
      micro-batches. Keras keeps this number in a variable, `_iterations`.
    - `step`: the step at which schedules are evaluated, which is the iterations of this
      run. A run that resumes in a later epoch begins at a later step.
    - `updates`: the same, but all micro-batches of an update count as one.

    Each number belongs to one optimizer. If none is given, it is that of the optimizer
    with the most.
    """

    def __init__(self, model: Any):
        self._model = model
        self._train_function: Any = None
        self._starts: dict[int, int] = {}
        self._own: dict[str, Any] | None = None
        self._joined: list[Any] = []
        self._extra: dict[int, Ratio] = {}
        self._registered: dict[int, int] = {}
        self._begun_at: dict[int, int] = {}
        self.paces = Paces()
        self.epochs = 0
        self.steps_per_epoch: int | None = None
        self.in_loop = False
        """Whether the caller is a custom loop instead of `fit`."""

    # --- Which optimizers there are ---

    @property
    def main(self) -> Any:
        """`model.optimizer`, or None."""
        return getattr(self._model, "optimizer", None)

    @property
    def optimizers(self) -> list:
        """The optimizers that update the model's variables.

        These are those of `model.optimizer` or, if it is None, those in the model's
        attributes.
        """
        if self.main is not None:
            return optimizers.leaves(self.main)
        return list(self.outside.values())

    @property
    def labels(self) -> list[str]:
        """A name for each of the optimizers: its own, or the model's attribute."""
        if self.main is not None:
            return optimizers.labels(self.optimizers)
        return list(self.outside)

    @property
    def roots(self) -> dict[str, Any]:
        """The optimizers besides `model.optimizer`, with wrappers as one."""
        if self._own is None:
            self._own = models.own_optimizers(self._model)
        return self._own

    @property
    def held(self) -> list:
        """All optimizers that the model holds, with wrappers as one."""
        return [*([] if self.main is None else [self.main]), *self.roots.values()]

    @property
    def outside(self) -> dict[str, Any]:
        """The optimizers besides `model.optimizer`, by their labels."""
        return {
            name if len(leaves) == 1 else f"{name}/{label}": leaf
            for name, one in self.roots.items()
            for leaves in [optimizers.leaves(one)]
            for label, leaf in zip(optimizers.labels(leaves), leaves, strict=True)
        }

    @property
    def known(self) -> dict[str, Any]:
        """All optimizers that a callback may name, by their labels."""
        if self.main is None:
            return self.outside
        found = dict(zip(self.labels, self.optimizers, strict=True))
        for label in found.keys() & self.outside.keys():
            raise ValueError(
                f"Two optimizers of the model are called `{label}`: one inside of "
                "`model.optimizer`, and one that an attribute holds. Give the "
                "attribute another name."
            )
        return found | self.outside

    @property
    def every(self) -> list:
        """The optimizers, and others that callbacks have named."""
        joined = {id(one) for one in self._joined}
        others = self.outside.values() if joined else ()
        return [*self.optimizers, *(one for one in others if id(one) in joined)]

    def join(self, found: list) -> None:
        """Adds optimizers besides `model.optimizer` that a callback has named."""
        if self.main is not None:
            own = {id(one) for one in self.optimizers}
            self._joined += [one for one in found if id(one) not in own]

    # --- How long the run is ---

    def set_length(self, params: dict[str, Any], callbacks: list) -> None:
        """Takes the length from the enclosing `fit`, or from the user."""
        found = fit_loop.length(self._model)
        if found is not None:
            params = {"epochs": found[0], "steps": found[1]}
        self.epochs = params.get("epochs") or 0
        steps = lengths.steps_per_epoch(self._model, params, callbacks)
        self.steps_per_epoch = steps if self.epochs or not self.in_loop else None

    def window(self) -> durations.Window:
        """Returns the window of the run; raises if the data's length is not known."""
        steps = self.steps_per_epoch
        if steps is None:
            raise ValueError(
                "The data has no known steps per epoch, which lengths in epochs, "
                f"fractions or 'the rest' need. {self.how_to_tell}."
            )
        optimizer = self.paces.current(self.every)
        per_epoch = _whole(steps * self.paces.bind(optimizer))
        return durations.Window(self._total(optimizer), per_epoch, batch=self._batch)

    @property
    def total(self) -> int | None:
        """The steps of the whole run, without noting a dependence; None if unknown."""
        if self.steps_per_epoch is None:
            return None
        return self._total(self.paces.current(self.every))

    def _total(self, optimizer):
        steps: Any = self.steps_per_epoch
        exact = steps * self.epochs * self.paces.of(optimizer)
        return int(durations.half_up(exact + self._extra.get(id(optimizer), 0)))

    @property
    def how_to_tell(self) -> str:
        """The advice on how to give the length of a run that is not known."""
        if self.in_loop:
            return "Pass `epochs=` and `steps=` to the `CallbackList` of your loop"
        return lengths.HOW_TO_TELL

    @property
    def epoch_ends(self) -> list[int]:
        """The steps with which epochs end."""
        per_epoch = self.window().steps_per_epoch
        extra = self._extra.get(id(self.paces.current(self.every)), 0)
        ends = (k * per_epoch + extra for k in range(1, self.epochs + 1))
        return [int(durations.half_up(end)) for end in ends if end >= 1]

    def window_of_batches(self) -> durations.Window:
        """Returns a window for samples and tokens, even in a run of unknown length."""
        return durations.CycleWindow(None, None, batch=self._batch)

    def length(self, duration: durations.Duration) -> int:
        """Returns the steps of a duration from the beginning of the run."""
        if isinstance(duration, (int, *durations.OF_BATCHES)):
            return self.window_of_batches().length(duration)
        return self.window().length(duration)

    def _batch(self, kind):
        """Returns the samples or tokens per step; None if they are not known."""
        samples = fit_loop.batch_size(self._model)
        if samples is None:
            return None
        optimizer = self.paces.current(self.every)
        samples = _whole(fractions.Fraction(samples) / self.paces.bind(optimizer))
        if kind is durations.Samples:
            return samples
        tokens = models.tokens_per_sample(self._model)
        return None if tokens is None else samples * tokens

    # --- The beginning of the run ---

    def register(self) -> None:
        """Notes the iterations before `BackupAndRestore` restores others."""
        for optimizer in self.optimizers:
            self._registered[id(optimizer)] = optimizers.iterations(optimizer)

    def begin(self, epoch: int, starts: list[int] | None = None) -> None:
        """Notes where schedules are at their step 0, when the first epoch begins.

        Args:
            epoch: The epoch with which the run begins.
            starts: The iterations at step 0; None if the epoch determines them.
        """
        self._begun_at = {id(one): optimizers.iterations(one) for one in self.every}
        if starts is None:
            starts = [self._start_of(optimizer, epoch) for optimizer in self.every]
            for optimizer, start in zip(self.every, starts, strict=True):
                self._note_other_lengths(optimizer, epoch, start)
        pairs = zip(self.every, starts, strict=True)
        self._starts = {id(optimizer): start for optimizer, start in pairs}
        self._first_epoch = epoch

    def _note_other_lengths(self, optimizer, epoch, start):
        """Notes by how much the past epochs were longer than the next ones."""
        if self.steps_per_epoch is None or epoch == 0:
            return
        made = self._begun_at[id(optimizer)] - start
        extra = made - epoch * self.steps_per_epoch * self.paces.of(optimizer)
        if abs(extra) >= 1 and not optimizers.may_skip(self.held, optimizer):
            self._extra[id(optimizer)] = extra

    def tell_pace(self, optimizer: Any, pace: Ratio) -> None:
        """Takes the pace that the first update of an optimizer has shown."""
        self.paces.tell(optimizer, pace)
        if self._extra.pop(id(optimizer), None) is not None:
            self._note_other_lengths(
                optimizer, self._first_epoch, self.start(optimizer)
            )

    def note_end_of(self, epoch: int) -> None:
        """Notes that an epoch is over, for a `fit` that resumes after it."""
        for optimizer in self.every:
            iterations, start = self.iterations(optimizer), self.start(optimizer)
            pace = self.paces.of(optimizer)
            note(optimizer, Trained(start, iterations, epoch + 1, pace))

    def read_from(self, train_function: Any) -> None:
        """Reads iterations from a train function, which knows them within an epoch."""
        self._train_function = train_function

    def _start_of(self, optimizer, epoch):
        iterations = optimizers.iterations(optimizer)
        if epoch == 0:
            return iterations
        if (known := trained(optimizer, epoch)) is not None:
            self.paces.tell(optimizer, known.pace)
            return known.start
        if self.steps_per_epoch is None:
            if iterations == 0:
                raise ValueError(
                    f"The step of the schedules at initial_epoch={epoch} is not known: "
                    "the data has no known steps per epoch and the optimizer has made "
                    f"no updates. {self.how_to_tell}."
                )
            return 0
        made = epoch * self.steps_per_epoch * self.paces.of(optimizer)
        start = iterations - int(durations.half_up(made))
        outside = any(optimizer is one for one in self.outside.values())
        if outside and start != 0 and iterations > 0:
            raise ValueError(
                f"The step of the schedules at initial_epoch={epoch} is not known: an "
                f"optimizer of this model has made {iterations} updates, which is not "
                "one in each previous step. Resume with `ResumableTraining`."
            )
        if start < 0 < iterations:
            return 0  # Updates were skipped, or earlier epochs were shorter.
        # A backup within an epoch, which is repeated, has more iterations.
        before = self._registered.get(id(optimizer), 0)
        per_epoch = self.steps_per_epoch * self.paces.of(optimizer)
        if start > 0 and not before <= start < before + per_epoch:
            raise ValueError(
                f"The step of the schedules at initial_epoch={epoch} is not known: the "
                f"optimizer has made {iterations} updates, but {epoch} epochs of this "
                f"data have {int(made)}. If the updates were on other data, or "
                "followed another run, resume with `ResumableTraining`, or give the "
                "optimizer a bound schedule, which counts all of its updates."
            )
        return start

    def start(self, optimizer: Any) -> int:
        """Returns the optimizer's iterations at which schedules are at their step 0.

        It is negative if a run resumes without the optimizer's count.
        """
        return self._starts[id(optimizer)]

    # --- The current position ---

    def iterations(self, optimizer: Any = None) -> int:
        """Returns how often `apply` was called, even within an epoch."""
        if optimizer is None:
            return max(self.iterations(one) for one in self.optimizers)
        if self._train_function is None:
            return optimizers.iterations(optimizer)
        return self._train_function.iterations(optimizer)

    @property
    def executions(self) -> int:
        """How many executions of the train function this epoch has had."""
        return 0 if self._train_function is None else self._train_function.executions

    @property
    def ahead(self) -> Any:
        """The optimizer with the most steps, and the first of several."""
        return max(self.optimizers, key=self.step)

    def step(self, optimizer: Any = None) -> int:
        """Returns the step of the schedules in the next iteration."""
        if optimizer is None:
            return max(self.step(one) for one in self.optimizers)
        return self.iterations(optimizer) - self.start(optimizer)

    def updates(self, optimizer: Any = None) -> int:
        """Returns how many updates this run has made, of all their micro-batches."""
        if optimizer is None:
            return max(self.updates(one) for one in self.optimizers)
        accumulated = optimizers.accumulated(optimizer)
        before = self.start(optimizer) // accumulated
        return self.iterations(optimizer) // accumulated - before


def _whole(ratio):
    """Returns a ratio, as an int if it is one."""
    return int(ratio) if ratio == int(ratio) else ratio
