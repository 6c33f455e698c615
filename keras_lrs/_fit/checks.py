"""Checks after the first epoch, such as whether all optimizers took part."""

import fractions
from typing import Any

from keras_lrs._fit import idle
from keras_lrs._keras import fit_loop, optimizers


def check_open(run: Any) -> None:
    """Raises if something else has ended the run and removed its steps."""
    if run.closed:
        raise RuntimeError(
            "This run was ended before its epochs were over: by an error that was "
            "caught, or by another `fit` of the model. Begin another run with a new "
            "`CallbackList`, and do not call `fit` within it."
        )


def check_begun(run: Any) -> None:
    """Raises if an epoch ends without having begun."""
    if not run.begun:
        raise RuntimeError(
            f"`{type(run.callbacks[0]).__name__}`: an epoch ended that had not begun. "
            "Call `on_epoch_begin(epoch)` of the `CallbackList` before its first "
            "update."
        )


def check_told(run: Any) -> None:
    """Raises if a custom loop has trained without calling the hooks of an epoch."""
    made = sum(map(optimizers.iterations, run.optimizers)) - run.joined_at
    if run.progress.in_loop and not run.begun and made > 0:
        raise RuntimeError(
            f"`{type(run.callbacks[0]).__name__}` had no effect on {made} updates, "
            "because no epoch had begun. Call `on_epoch_begin(epoch)` and "
            "`on_epoch_end(epoch, logs)` of the `CallbackList` in your loop."
        )


def check_first(run: Any, epoch: int) -> None:
    """Raises if a custom loop does not resume where its callbacks do."""
    first = fit_loop.first_epoch(run.model)
    if run.resumes is not None and run.progress.in_loop and epoch != first:
        raise RuntimeError(
            f"This run resumes in epoch {first} (counted from 0), but the loop begins "
            f"with epoch {epoch}. Begin with the `epoch` of `resumed_from`, which "
            "`ResumableTraining` has after `on_train_begin`."
        )


class FirstEpoch:
    """Raises once if the first epoch's updates are not what callbacks expect.

    Args:
        run: The run, when its first epoch begins.
    """

    def __init__(self, run: Any):
        self._run = run
        self._before = {
            id(one): optimizers.iterations(one) for one in run.progress.every
        }
        self._loss_scales = {
            id(one): optimizers.loss_scale(run.progress.held, one)
            for one in run.progress.every
        }
        self._acting = run.acting
        self._choosing = list(run.choosing)
        self._compared = False

    def ends(self) -> None:
        """Compares the updates of the optimizers with the batches of the epoch."""
        run = self._run
        if self._compared or not run.executed:
            return
        self._compared = True
        if self._acting:
            idle.check(run, self._acting, self._before)
        for callback in self._choosing:
            self._check_updates(callback)
        self._check_pace()

    def _made(self, optimizer):
        return optimizers.iterations(optimizer) - self._before[id(optimizer)]

    def _check_updates(self, callback):
        """Raises if an optimizer that a callback names made no update."""
        for label, one in self._run.chosen(callback).items():
            # The loss scale may be too large in all steps of a short epoch.
            skips = optimizers.may_skip(self._run.progress.held, one)
            if self._made(one) == 0 and not skips:
                raise RuntimeError(
                    f"`{type(callback).__name__}` acts in `{label}`, which its "
                    f"argument `optimizers` names, but `{label}` made no update in the "
                    "first epoch."
                )

    def _check_pace(self):
        """Raises if lengths were bound for another number of updates."""
        run, progress, paces = self._run, self._run.progress, self._run.progress.paces
        steps = run.batches
        if steps is None:
            return
        ahead = max(run.optimizers, key=self._made) if paces.bound_ahead else None
        for label, one in _labelled(progress):
            is_bound = id(one) in paces.bound or one is ahead
            if not is_bound or not _trains(one):
                continue
            made, expected = self._made(one), steps * paces.of(one)
            if optimizers.may_skip(progress.held, one):
                before = self._loss_scales[id(one)]
                most = optimizers.most_skipped(progress.held, one, before, made)
                expected = min(expected, max(made, expected - most))
            # With one update in 4 batches, 10 batches have 2 or 3.
            if abs(made - expected) >= 1:
                raise RuntimeError(_mismatch(label, made, steps, paces.of(one)))


def mismatch(progress: Any, optimizer: Any) -> str:
    """Returns the message if an optimizer's first update used other lengths."""
    labels = [label for label, one in _labelled(progress) if one is optimizer]
    pace = progress.paces.of(optimizer)
    return (
        f"`{labels[0]}` made its first update after {round(1 / pace)} batches, but "
        "lengths that depend on the run were bound for another number of updates. Pass "
        f"`updates_per_batch={_short(pace)}` to the callbacks that accept it."
    )


def _mismatch(label, made, steps, pace):
    told = "" if pace == 1 else f" instead of {_short(pace)} for each"
    ratio = fractions.Fraction(made, steps)
    given = f"updates_per_batch={_short(ratio)}" if made else "updates_per_batch="
    return (
        f"`{label}` made {made} updates in an epoch of {steps} steps{told}, so lengths "
        "that depend on the run, which are counted in updates, would not end with it. "
        f"Pass `{given}` to the callbacks that accept it, or give the lengths in "
        "updates: `schedule.bind(total_steps)`."
    )


def _short(ratio):
    """Formats a ratio, as a decimal if it is exact."""
    decimal = f"{float(ratio):g}"
    return decimal if fractions.Fraction(decimal) == ratio else str(ratio)


def _labelled(progress):
    """Returns pairs of a label and an optimizer, for all known optimizers."""
    own = zip(progress.labels, progress.optimizers, strict=True)
    return [*own, *progress.outside.items()]


def _trains(optimizer):
    """Whether an optimizer has anything to update."""
    return optimizer.built and bool(optimizers.trained(optimizer))
