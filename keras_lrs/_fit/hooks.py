"""Replaces methods of objects, such as the hooks of a fit's callback list."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

from keras_lrs._fit import epoch_logs
from keras_lrs._keras import fit_loop, interrupts, progress_bar
from keras_lrs._keras.backend import IS_JAX

# `before_all` and `after_all` of callbacks are called around these hooks.
OUTER = ("on_epoch_begin", "on_epoch_end", "on_train_end")
# The hooks that `fit` and `evaluate` call during a run.
_GUARDED = (
    *("on_epoch_begin", "on_epoch_end", "on_train_batch_begin", "on_train_batch_end"),
    *("on_test_begin", "on_test_end", "on_train_end"),
)


def replace(owner: Any, name: str, make: Callable, undo: Any) -> Callable[[], None]:
    """Replaces a method of an object by the function `make(method)`.

    Args:
        owner: The object.
        name: The name of the method.
        make: A function of the method that returns what replaces it.
        undo: An `ExitStack` or `Undo` that receives the function that undoes it.

    Returns:
        That function. Calling it again does nothing, and it does not keep the object
        alive.
    """
    attributes = vars(owner)
    replacement = make(getattr(owner, name))
    replacement.covered = {name: attributes[name]} if name in attributes else {}
    put_back = functools.partial(
        _put_back, weakref.ref(owner), name, weakref.ref(replacement)
    )
    undo.callback(put_back)
    attributes[name] = replacement
    return put_back


def _put_back(owner_reference, name, replacement_reference):
    owner, replacement = owner_reference(), replacement_reference()
    if owner is None or replacement is None:
        return
    attributes = vars(owner)
    if attributes.get(name) is not replacement:
        return
    if name in replacement.covered:
        attributes[name] = replacement.covered[name]
    else:
        del attributes[name]


def guard(run: Any, callback_list: Any) -> None:
    """Closes a run when a callback or a validation raises, and surrounds outer hooks.

    JAX's `fit` has a `finally` in which it finalizes the optimizer.
    """
    closes = _closes(run)
    if closes:
        replace(run.model, "evaluate", _closing(run), run.undo)
    if run.model.optimizer is not None:  # Keras finalizes no other optimizers.
        name = "finalize_variable_values"
        replace(run.model.optimizer, name, _finalizing(run), run.undo)
    # Keras keeps this and its data for the next epoch's validation.
    run.undo.callback(vars(run.model).pop, "_eval_epoch_iterator", None)
    if callback_list is None:
        return
    # A list may be used again after an interrupted run.
    vars(callback_list).pop("on_train_end", None)
    if any(map(epoch_logs.are_of_batches, callback_list.callbacks)):
        # Innermost, because what a resumed run restores has none of these values.
        replace(callback_list, "on_train_batch_end", _logging(run), run.undo)
    for name in _GUARDED:
        if name in OUTER:
            # JAX's `fit` has already closed the run by then, so this hook stays and is
            # undone when it is called.
            undo = run.undo
            if name == "on_train_end" and run.progress.in_loop:
                undo = interrupts.Undo()  # If it stays, it explains the error.
            elif name == "on_train_end" and IS_JAX:
                undo = _UnlessFinished(run)
            replace(callback_list, name, surrounded(run, name), undo)
        if closes:
            replace(callback_list, name, _closing(run), run.undo)


def _closes(run):
    return not IS_JAX or run.progress.in_loop


def replace_hook(run: Any, callback_list: Any, name: str, make: Callable) -> Callable:
    """Replaces a hook after `guard`, and closes the run when the new one raises.

    Returns:
        The function that undoes it, as `replace` does.
    """

    def make_closing(method):
        hook = make(method)
        return _closing(run)(hook) if _closes(run) else hook

    return replace(callback_list, name, make_closing, run.undo)


class _UnlessFinished:
    """Undoes something when a run is closed, unless its `fit` has finished."""

    def __init__(self, run):
        self._run = run

    def callback(self, function):
        model = self._run.model

        def undo():
            if not fit_loop.jax_fit(model).get("training_finished", False):
                function()

        self._run.undo.callback(undo)


def surround_batches(run: Any, callback_list: Any) -> None:
    """Calls `after_all` of callbacks after batches as well."""
    name = "on_train_batch_end"
    replace_hook(run, callback_list, name, surrounded(run, name))


def pass_over_batches(run: Any, callback_list: Any, passing: Callable) -> None:
    """Calls no callback for batches as long as `passing()` is true."""

    def begin(batch, logs=None):
        if not passing():
            undo_end()
            undo_begin()
            callback_list.on_train_batch_begin(batch, logs)

    def end(batch, logs=None):
        pass

    name = "on_train_batch_begin"
    undo_begin = replace_hook(run, callback_list, name, lambda method: begin)
    undo_end = replace_hook(run, callback_list, "on_train_batch_end", lambda _: end)


def _finalizing(run):
    def make(finalize):
        # JAX's `fit` calls it in a `finally`, after writing its state back into the
        # variables. Anything restored earlier would be lost.
        def finalize_variable_values(variables):
            # A run that was over when it resumed begins when training ends.
            if IS_JAX and (
                run.begun
                or not fit_loop.jax_fit(run.model).get("training_finished", False)
            ):
                run.close()
            if not run.wanted.finalize_averages:
                finalize(variables)

        return finalize_variable_values

    return make


def _closing(run):
    def make(method):
        def call(*arguments, **keywords):
            try:
                return method(*arguments, **keywords)
            except BaseException:
                run.close()
                raise

        return call

    return make


def surrounded(run: Any, name: str) -> Callable:
    """Makes a hook that calls our callbacks before and after all others."""

    def make(method):
        def call(*arguments, **keywords):
            if name == "on_train_end":
                run.training_ends()
            if name == "on_epoch_begin" and not run.begun:
                run.own_rates.note_restored(run.progress.every)
            ends = name == "on_train_end"  # The next `fit` may use the changes.
            if run.unchanged is not None and not run.closed and not ends:
                run.unchanged.check(name)
            given = (*arguments, *keywords.values())
            for callback in run.callbacks:
                callback.before_all(name, *given)
            if name == "on_epoch_end":
                arguments, keywords = _with_driven(run, *given), {}
            method(*arguments, **keywords)
            for callback in run.callbacks:
                callback.after_all(name, *given)

        return call

    return make


def _with_driven(run, epoch, logs=None):
    """Returns the arguments of `on_epoch_end`, with scheduled values in the logs.

    So all callbacks see these values, even those before ours in the list.
    """
    logs = {} if logs is None else logs
    logs.update(run.driven_values())
    return epoch, logs


def _logging(run):
    """Makes the hook of a batch that adds scheduled values to its logs."""

    def make(method):
        def on_train_batch_end(batch, logs=None):
            # This thread reads them, before Keras passes the logs to another.
            found = run.begun and not run.closed
            values = run.epoch_logs.driven(batch=True) if found else {}
            progress_bar.show_last(values, run.siblings)
            method(batch, {**(logs or {}), **values})

        return on_train_batch_end

    return make
