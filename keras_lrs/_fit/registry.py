"""Finds the run to which a callback belongs, from the hooks that Keras calls."""

import functools
from typing import Any

import keras

from keras_lrs._fit import chosen, trackers
from keras_lrs._fit.run import Run
from keras_lrs._keras import fit_loop, models, optimizers
from keras_lrs._keras.backend import IS_JAX
from keras_lrs._keras.variables import shapes
from keras_lrs._step import hosted
from keras_lrs._storage import remote
from keras_lrs.schedules import fields

_ATTRIBUTE = "_keras_lrs_run"  # In the model's `__dict__`: Keras must not track it.


def register(callback: Any, model: Any) -> None:
    """Finds or makes the run when Keras gives a callback its model.

    Keras also does so for `evaluate` and `predict`, within a fit or outside, and then
    this has no effect. It also puts callbacks into the order that they need.
    """
    attributes = vars(model)
    run = attributes.get(_ATTRIBUTE)
    callback_list = fit_loop.callback_list()
    if run is not None and run.is_over(callback_list):
        run.close()
        run = None
    if run is None:
        run = _new_run(model, callback_list)
    if callback_list is not None and not run.begun:
        _reorder(callback, callback_list.callbacks)
        if run.callback_list() is not callback_list:
            _belong_to(run, callback_list)


def _new_run(model, callback_list=None):
    attributes, run = vars(model), Run(model)

    def forget():
        if attributes.get(_ATTRIBUTE) is run:
            del attributes[_ATTRIBUTE]

    run.undo.callback(forget)
    if callback_list is not None:
        _belong_to(run, callback_list)
    attributes[_ATTRIBUTE] = run
    return run


def _belong_to(run, callback_list):
    run.belong_to(callback_list)
    trackers.hide_unused(run)


def _reorder(callback, callbacks):
    """Moves a callback to the beginning, or before callbacks that back the run up.

    It must write its results of an epoch before the epoch is backed up.
    """
    at = callbacks.index(callback)
    for index, other in enumerate(callbacks[:at]):
        if callback.first or (backs_up(other) and not callback.backs_up):
            callbacks.insert(index, callbacks.pop(at))
            return


def backs_up(callback: Any) -> bool:
    """Whether a callback saves the run in order to resume it."""
    keras_own = isinstance(callback, keras.callbacks.BackupAndRestore)
    return keras_own or getattr(callback, "backs_up", False)


def refuse_shared_directory(callback: Any, run: Run) -> None:
    """Raises if another callback of the same class has the same `directory`."""
    kind, directory = type(callback), remote.resolved(callback.directory)
    for other in run.siblings:
        ours = isinstance(other, kind) and other is not callback
        if ours and remote.resolved(other.directory) == directory:
            bound = f"be another one for each `{kind.__name__}`"
            fields.refuse("directory", bound, str(callback.directory))


def begin(callback: Any, model: Any) -> Run:
    """Returns the run that begins now, joined by a callback."""
    callback_list = fit_loop.callback_list()
    if callback_list is None:
        raise RuntimeError(
            f"`{type(callback).__name__}` joins a run through a list of callbacks. "
            "Pass it to `model.fit(callbacks=[...])`, or to a "
            "`keras.callbacks.CallbackList` whose hooks your loop calls."
        )
    run = vars(model).get(_ATTRIBUTE)
    # It is an interrupted run, or that of another list.
    if run is not None and (run.begun or run.callback_list() is not callback_list):
        run.close()
        run = None
    if run is None:
        run = _new_run(model, callback_list)
    run.progress.in_loop = not fit_loop.is_fitting(model)
    if run.progress.main is None and run.optimizers:
        if IS_JAX:
            _refuse_on_jax(callback, run.progress.labels)
        if any(map(hosted.has_groups, run.optimizers)):
            check_built(callback, model)
        run.own_rates.note(run.optimizers)
    elif not run.optimizers or any(map(hosted.has_groups, run.optimizers)):
        # A `MultiOptimizer` that chooses by a function has no optimizers before it is
        # built, and patterns need variables.
        build_optimizer(callback, model)
        run.own_rates.note(run.optimizers)
    if (given := chosen.check(callback.optimizers)) is not None:
        found = chosen.find(run.progress, given)
        outside = run.progress.outside.keys() & found.keys()
        if outside and IS_JAX:
            _refuse_on_jax(callback, sorted(outside))
        run.choose(callback, found)
        if any(map(hosted.has_groups, found.values())):
            build_chosen(callback, run)
    return run


def break_off(model: Any) -> None:
    """Ends the run of a model that failed to begin."""
    run = vars(model).get(_ATTRIBUTE)
    if run is not None and not run.begun:
        run.close()


def _refuse_on_jax(callback, labels):
    raise ValueError(
        f"`{type(callback).__name__}` cannot work with the optimizers "
        f"{', '.join(labels)}: on JAX, `fit` trains with `model.optimizer` alone. "
        "Compile the model with one `MultiOptimizer`, or train it in a custom loop, "
        "with `optimizers.Scheduled`."
    )


def build_optimizer(callback: Any, model: Any) -> None:
    """Builds the optimizer before the first step does."""
    if getattr(model, "optimizer", None) is None:
        check_built(callback, model)
    build_main(callback, model)


def build_main(callback: Any, model: Any) -> None:
    """Builds a model, and its `optimizer` if it has one, before the first step does."""
    build_model(callback, model)
    # Before `compile` there is no optimizer.
    if getattr(model, "optimizer", None) is not None:
        optimizers.build(model)


def build_model(callback: Any, model: Any) -> None:
    """Builds a model before the first step does, unless all its weights exist."""
    if models.weights_exist(model):
        return
    unknown = f"`{type(callback).__name__}` needs to know the weights. "
    if not models.can_be_called(model):
        names = ", ".join(f"`{name}`" for name in models.unbuilt_layers(model))
        raise ValueError(
            f"{unknown}`{type(model).__name__}` has no `call` that would build its "
            "layers. Build them before `fit`, by calling each on a batch. Not built: "
            f"{names or 'any'}"
        )
    error = fit_loop.build(model)
    unbuilt = models.unbuilt_layers(model)
    # A `call` may take other data than `fit`, if all layers are built.
    if model.variables if error and not unbuilt else model.built and not error:
        return
    why = f" It cannot be built from the data: {error}" if error else ""
    raise ValueError(
        f"{unknown}Build the model before `fit`, by calling it on a batch or giving it "
        f"an `Input`.{why}"
    ) from error


def build_chosen(callback: Any, run: Run) -> None:
    """Builds the optimizer if a callback acts in it; others must have been built."""
    if callback.optimizers is None:
        build_optimizer(callback, run.model)
        return
    found, outside = run.chosen(callback), run.progress.outside
    if found.keys() - outside.keys():
        build_optimizer(callback, run.model)
    _check_built(callback, {k: one for k, one in found.items() if k in outside})


def build_as_before(callback: Any, model: Any, found: dict[str, Any]) -> None:
    """Builds the optimizers in a model's attributes that were built in a checkpoint."""
    models.build_others(model, found.get("trained", {}))
    saved = len(found.get("shapes", ()))
    for step in (models.build_held, functools.partial(check_built, callback)):
        if saved > len(shapes(models.state_variables(model))):
            step(model)


def check_built(callback: Any, model: Any) -> None:
    """Raises if it is not known which variables a model's own optimizers train."""
    found = models.own_optimizers(model)
    if getattr(model, "optimizer", None) is None and not found:
        raise ValueError(
            f"`{type(callback).__name__}` needs an optimizer, but found none in "
            "`model.optimizer` or the model's other attributes. Compile the model with "
            "the optimizer that trains it."
        )
    _check_built(callback, found)


def _check_built(callback, found):
    for name, optimizer in found.items():
        if not optimizer.built:
            raise ValueError(
                f"`{type(callback).__name__}` needs to know what `{name}` trains. "
                "Before `fit`, call its `build` with the variables that it updates. "
                f"Received: `{name}` that is not built"
            )


def build_to_average(callback: Any, run: Run) -> None:
    """Builds the optimizer whose weights will be averaged, before the first step."""
    build_chosen(callback, run)
    if any(map(optimizers.is_taken_over, run.chosen(callback).values())):
        raise ValueError(
            f"`{type(callback).__name__}` cannot average the weights of "
            "`ScheduleFree`, which averages them itself: use `AveragedEvaluation`."
        )
