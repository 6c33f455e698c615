"""`SwappingCallback`: the base class of callbacks that swap averages in."""

import contextlib
import functools
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_lrs._fit.hooks import replace
from keras_lrs._fit.run import Run
from keras_lrs._keras import (
    average_statistics,
    fit_loop,
    interrupts,
    models,
    optimizers,
    variables,
)
from keras_lrs._keras.batch_norm import torch_batch_norms
from keras_lrs._step.part import Wanted
from keras_lrs.averages.batch_norm import recalibrate_batch_norm
from keras_lrs.callbacks.base import FitCallback
from keras_lrs.schedules import fields


class SwappingCallback(FitCallback):
    """The base class of callbacks that show averages to all but training.

    The averages are swapped in when a test or a prediction begins and when an epoch
    ends, so that the same weights are measured, saved and restored. They are swapped
    out before training continues. Only `BackupAndRestore` sees the raw weights.

    The model that is tested may also be another model that shares the weights, or may
    have been recompiled. If the test would not see the average, an error is raised.

    Subclasses implement `swap`, `swapped`, `exists`, `averaged`, `look_for_averages`
    and `keep`.
    """

    first = True  # Callbacks after it in the list see the averages.
    batch_norms: tuple[str, ...] = ("keep", "recalibrate")

    def __init__(
        self,
        at_end: str,
        batch_norm: str,
        batch_norm_data: Any,
        batch_norm_steps: int | None,
    ):
        super().__init__()
        fields.one_of("at_end", at_end, ("average", "raw"))
        fields.one_of("batch_norm", batch_norm, self.batch_norms)
        if (batch_norm == "recalibrate") != (batch_norm_data is not None):
            fields.refuse(
                "batch_norm_data",
                "be given with batch_norm='recalibrate', and only then",
                batch_norm_data,
            )
        if batch_norm_steps is not None:
            batch_norm_steps = fields.count("batch_norm_steps", batch_norm_steps, 1)
        self.at_end = at_end
        self.batch_norm = batch_norm
        self.batch_norm_data = batch_norm_data
        self.batch_norm_steps = batch_norm_steps
        self._own_statistics: tuple[Any, list] | None = None
        self._recalibrated: tuple[Any, list] | None = None
        self._tested = False
        self._finalizer: Any = None
        self._evaluated: Any = None
        self._home: Any = None

    # --- What subclasses implement ---

    def swap(self, into: bool) -> None:
        """Gives the model the averages, or its weights; resumes an interrupted swap.

        Args:
            into: Whether the model is to hold the averages.
        """
        raise NotImplementedError

    @property
    def swapped(self) -> bool:
        """Whether the model holds the averages."""
        raise NotImplementedError

    @property
    def exists(self) -> bool:
        """Whether there is an average yet."""
        raise NotImplementedError

    @property
    def averaged(self) -> list:
        """The variables that are averaged."""
        raise NotImplementedError

    def look_for_averages(self, model: Any) -> bool:
        """Looks for averages that a model's optimizers hold.

        Returns:
            False if they hold none, but this callback has averages of the model's
            weights from an earlier `fit`.
        """
        raise NotImplementedError

    def shares_weights(self, model: Any) -> bool:
        """Whether a model has weights that are averaged."""
        return _share(self.averaged, model.variables)

    def keep(self) -> None:
        """Makes the averages the model's own weights, when training has ended."""

    def holds(self, model: Any) -> bool:
        """Whether a model holds the average of an earlier `fit`."""
        return False

    # --- Which model ---

    def set_model(self, model: Any) -> None:
        """Looks for averages of an earlier `fit`, which `evaluate` must see."""
        self._evaluated = model
        run = self.run
        if run is not None and not (run.closed or run.is_over() or run.model is model):
            return  # It is evaluated while another one trains.
        super().set_model(model)
        if self.look_for_averages(model):
            self._home = model

    def _check_evaluated(self):
        """Raises if a test would not see the average."""
        run, model = self.run, self._evaluated
        if run is not None and not run.closed and run.model is model:
            return
        if self.exists and self.shares_weights(model):
            return
        if not self.holds(model):
            raise ValueError(
                f"`{type(self).__name__}` has no average of the weights of "
                f"`{model.name}`: its optimizer holds none, and this callback has "
                "taken none since they were last trained. A model that already holds "
                "the average needs no callback."
            )

    # --- Swapping in and out ---

    def swap_in(self) -> None:
        """Gives the model the averages, and the statistics that belong to them."""
        if self.swapped or not self.exists:
            return
        interrupts.finish(functools.partial(self.swap, True))
        if self.batch_norm == "recalibrate":
            self._recalibrate()

    def swap_out(self) -> None:
        """Gives the model back what it held, bit for bit."""
        interrupts.finish(self._swap_out)

    def _swap_out(self):
        count, own = self._own_statistics or (None, None)
        if own is not None and count == self._count:
            variables.write(self._statistics, own)
        if self.swapped:
            self.swap(False)
        self._own_statistics = None

    def _recalibrate(self):
        statistics, count = self._statistics, self._count
        self._own_statistics = count, variables.read(statistics)
        if self._recalibrated is not None and self._recalibrated[0] == count:
            variables.write(statistics, self._recalibrated[1])
        else:
            recalibrate_batch_norm(
                self._home, self.batch_norm_data, self.batch_norm_steps
            )
            self._recalibrated = (count, variables.read(statistics))

    @property
    def _count(self):
        """The iterations of all optimizers."""
        return tuple(map(optimizers.iterations, models.updating(self._home)))

    @property
    def _statistics(self):
        """The statistics of all batch normalizations of the model."""
        return average_statistics.statistics(self._home)

    # --- When ---

    def prepare(self, run: Run) -> list[Wanted]:
        """Rejects others of its kind, and makes backups hold the raw weights."""
        for other in run.siblings:
            if other is not self and isinstance(
                other, (SwappingCallback, keras.callbacks.SwapEMAWeights)
            ):
                raise ValueError(
                    f"`{type(self).__name__}` cannot work together with "
                    f"`{type(other).__name__}`: both swap the model's weights."
                )
        self._home = run.model
        self._check_batch_norm(run.model)
        self._end_what_broke_off()
        self._recalibrated = None
        for other in run.siblings:
            if isinstance(other, keras.callbacks.BackupAndRestore):
                replace(other, "on_epoch_end", self._saving_first, run.undo)
        return []

    def _check_batch_norm(self, model):
        if self.batch_norm == "recalibrate" and not models.can_be_called(model):
            raise ValueError(
                f"`{type(self).__name__}(batch_norm='recalibrate')` cannot run "
                f"`{type(model).__name__}`, which has no `call`. Use "
                "batch_norm='keep', and `averages.recalibrate_batch_norm(call_fn=)` "
                "when the run is over."
            )
        found = {type(one).__name__ for one in torch_batch_norms(model)}
        if found and self.batch_norm != "keep":
            raise ValueError(
                f"`{type(self).__name__}(batch_norm={self.batch_norm!r})` cannot swap "
                f"the statistics of PyTorch's modules: {', '.join(sorted(found))}. Use "
                "batch_norm='keep', and `averages.recalibrate_batch_norm` when the "
                "run is over."
            )

    def _saving_first(self, back_up):
        def on_epoch_end(epoch, logs=None):
            with self.saving():
                back_up(epoch, logs)

        return on_epoch_end

    @contextlib.contextmanager
    def saving(self, within_epoch: bool = False) -> Iterator[None]:
        """Puts the raw weights into the model while something is saved."""
        # Within an epoch the model holds them anyway, and on JAX it cannot be read.
        was_in = not within_epoch and self.swapped
        if was_in:
            self.swap_out()
        try:
            yield
        finally:
            # An interrupted `with` may come here when the run has been closed.
            if was_in and self.run is not None and not self.run.closed:
                self.swap_in()

    def epoch_begins(self, epoch: int) -> None:
        """Puts the raw weights back, from which training continues."""
        self.swap_out()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Swaps in the averages for a test."""
        self._end_what_broke_off()
        self._check_evaluated()
        self._tested = not self.swapped
        if self._tested and (self.run is None or self.run.closed):
            # An interrupted `evaluate` calls no hook, but drops its callback list.
            callbacks = fit_loop.callback_list()
            if callbacks is not None:
                # The finalizer keeps this callback alive, which may be in no other
                # list.
                finalizer = weakref.finalize(callbacks, self.swap_out)
                finalizer.atexit = False
                self._finalizer = finalizer
        self.swap_in()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts back what the model held before the test."""
        if self._tested:
            self.swap_out()
        if self._finalizer is not None:
            # Its list may be dropped only when a later test is under way.
            self._finalizer.detach()

    def _end_what_broke_off(self):
        """Swaps out what an interrupted test has left in the model."""
        if self._finalizer is not None:
            self._finalizer()  # Does nothing a second time.

    def __getstate__(self):
        none = dict.fromkeys(("_finalizer", "_evaluated", "_home"))
        return {**super().__getstate__(), **none}

    on_predict_begin = on_test_begin
    on_predict_end = on_test_end

    def epoch_ends(self, epoch: int, logs: dict[str, Any]) -> None:
        """Swaps in the averages, which callbacks after this one save and restore."""
        self.swap_in()

    def fit_ends(self) -> None:
        """Leaves the model with the raw weights, however `fit` ended."""
        self.swap_out()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the model the weights that `at_end` names."""
        super().on_train_end(logs)
        if self.at_end != "average":
            return
        try:
            self.swap_in()
            self.keep()
            self._own_statistics = None
        except BaseException:
            if not self.swapped:  # `keep` has completed.
                self._own_statistics = None
            self.swap_out()
            raise


class LeftAverage:
    """Remembers the weights in which a `fit` left the average when it ended.

    Args:
        averaged: The variables that were averaged.
        updating: The optimizers that trained them.
    """

    def __init__(self, averaged: list, updating: list):
        self._averaged = averaged
        self._counts = [(one, optimizers.iterations(one)) for one in updating]

    def is_in(self, model: Any) -> bool:
        """Whether a model has these weights, and they have not been trained since."""
        known = [one for one, _ in self._counts]
        others = [one for one in models.updating(model) if one not in known]
        counts = [*self._counts, *((one, 0) for one in others)]
        return _share(self._averaged, model.variables) and all(
            optimizers.iterations(one) == count for one, count in counts
        )


def refuse_backups(callback: SwappingCallback, run: Run) -> None:
    """Raises if `BackupAndRestore`, which loses averaged statistics, is in the list."""
    for other in run.siblings:
        if isinstance(other, keras.callbacks.BackupAndRestore):
            raise ValueError(
                f"`{type(callback).__name__}(batch_norm='average')` cannot work "
                "together with `BackupAndRestore`, which does not back these averages "
                "up. Use `ResumableTraining` instead of it."
            )


def _share(variables, others):
    known = {id(variable) for variable in others}
    return any(id(variable) in known for variable in variables)
